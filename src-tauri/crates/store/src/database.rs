//! Connections: one that writes, some that read.
//!
//! With a write-ahead log readers see the last commit and wait for nobody, so that a search is
//! as quick while an answer streams or an import runs.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::migrate::{self, SCHEMA_VERSION};
use crate::{Result, StoreError, search};

/// How long a writer waits for another program that writes.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Readers that are kept open while nobody reads.
const IDLE_READERS: usize = 4;

/// Says in the file's header whose it is: "Octt".
pub(crate) const APPLICATION_ID: i32 = 0x4f63_7474;

/// An open database of chats.
pub(crate) struct Database {
    path: PathBuf,
    /// Before the writer, because fields are dropped in this order and only a writer that is the
    /// last to close removes the log.
    readers: Mutex<Vec<Connection>>,
    writer: Mutex<Connection>,
    presence: Presence,
}

impl Database {
    /// Opens or creates the file and brings its schema up to date, with a backup before.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| StoreError::io("create", folder, error))?;
        }
        check_header(path)?;
        let presence = Presence::announce(path)?;
        let writer = open_writer(path).map_err(|error| error.about(path))?;
        Ok(Self {
            path: path.to_owned(),
            readers: Mutex::default(),
            writer: Mutex::new(writer),
            presence,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Nobody else had the file open when this opened it.
    pub fn was_alone(&self) -> bool {
        self.presence.was_alone
    }

    /// Runs `work` in a transaction that is on disk when this returns, or never was.
    pub fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut writer = lock(&self.writer);
        let run = || {
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|error: StoreError| error.about(&self.path))
    }

    /// Runs `work` on the writing connection without a transaction.
    pub fn with_writer<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        work(&lock(&self.writer)).map_err(|error| error.about(&self.path))
    }

    /// Runs `work` on one state of the database, whatever is written meanwhile.
    pub fn read<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let run = || {
            let idle = lock(&self.readers).pop();
            let mut reader = match idle {
                Some(reader) => reader,
                None => open_reader(&self.path)?,
            };
            let transaction = reader.transaction()?;
            let value = work(&transaction)?;
            transaction.finish()?;
            let mut readers = lock(&self.readers);
            if readers.len() < IDLE_READERS {
                readers.push(reader);
            }
            Ok(value)
        };
        run().map_err(|error: StoreError| error.about(&self.path))
    }
}

/// A panic elsewhere rolled its transaction back, so that the connection is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses a newer schema and what is no database before SQLite may touch any file.
fn check_header(path: &Path) -> Result<()> {
    let mut header = Vec::with_capacity(100);
    match File::open(path) {
        Ok(file) => file.take(100).read_to_end(&mut header),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|error| StoreError::io("read", path, error))?;
    if header.is_empty() {
        return Ok(());
    }
    let damaged = |reason: &str| StoreError::Damaged {
        path: path.to_owned(),
        reason: reason.to_owned(),
        backup: crate::backup::newest(path),
    };
    // https://www.sqlite.org/fileformat2.html#the_database_header
    if header.len() < 100 || !header.starts_with(b"SQLite format 3\0") {
        return Err(damaged("the file is not a database"));
    }
    let field = |at: usize| {
        i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (version, application_id) = (i64::from(field(60)), field(68));
    if application_id != 0 && application_id != APPLICATION_ID {
        return Err(damaged("the database belongs to another program"));
    }
    if version > SCHEMA_VERSION {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: version,
            known: SCHEMA_VERSION,
        });
    }
    Ok(())
}

fn open_writer(path: &Path) -> Result<Connection> {
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // FULL: a commit is on the disk before it returns. There are few.
    connection.pragma_update(None, "synchronous", "FULL")?;
    migrate::refuse_newer(&connection, path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // After a large import the log shrinks again.
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    connection.set_prepared_statement_cache_capacity(64);
    search::register(&connection)?;
    migrate::run(&mut connection, path)?;
    Ok(connection)
}

pub(crate) fn open_reader(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    // In KiB, as negative numbers are.
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.set_prepared_statement_cache_capacity(64);
    search::register(&connection)?;
    Ok(connection)
}

/// The database with one of `-wal`, `-shm`, ... appended to its name.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Bytes on disk, the write-ahead log included.
pub(crate) fn size_bytes(path: &Path) -> u64 {
    [path.to_owned(), sibling(path, "-wal")]
        .iter()
        .filter_map(|file| fs::metadata(file).ok())
        .map(|data| data.len())
        .sum()
}

/// A lock on a file beside the database, shared by all programs that have it open and let go
/// by the system when one dies. Who gets it alone knows that nobody is writing an answer.
struct Presence {
    was_alone: bool,
    _file: Option<File>,
}

impl Presence {
    fn announce(path: &Path) -> Result<Self> {
        let lock_path = sibling(path, ".lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|error| StoreError::io("create", &lock_path, error))?;
        let was_alone = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            // A file system without locks: this program lets only one of itself run.
            Err(TryLockError::Error(error)) => {
                tracing::warn!(%error, "no file locks in the data folder");
                return Ok(Self {
                    was_alone: true,
                    _file: None,
                });
            }
        };
        if was_alone {
            let _ = file.unlock();
        }
        let _ = file.lock_shared();
        Ok(Self {
            was_alone,
            _file: Some(file),
        })
    }
}
