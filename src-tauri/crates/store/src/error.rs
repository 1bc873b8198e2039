//! What can go wrong with chats and settings.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use serde::Serialize;

use crate::MessageState;
use crate::foreign::Foreign;
use crate::import::{ChatFault, ImportLimit};

/// With [`StoreError`] unless said otherwise.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Any failure of storing or reading.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file is no database, or its inside makes no sense.
    #[error("the chats in {path} are damaged ({reason})")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
        /// The newest backup there is.
        backup: Option<PathBuf>,
    },
    /// Somebody else is writing, and did not stop.
    #[error("{path} is in use by another program and was still locked after {waited_ms} ms")]
    Locked {
        /// The database.
        path: PathBuf,
        /// How long this waited, in milliseconds.
        waited_ms: u64,
    },
    /// Written by a newer version of this program. Nothing was touched.
    #[error("{path} has format {found}, and this version of Octet knows formats up to {known}")]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest schema version known here.
        known: i64,
    },
    /// No room. What was stored before is still there.
    #[error("the disk that holds {path} is full (the chats take {size_bytes} bytes)")]
    DiskFull {
        /// The database, or the file to be written.
        path: PathBuf,
        /// Size of the database in bytes.
        size_bytes: u64,
    },
    /// The file system refused.
    #[error("could not {action} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No such chat, message, or thing to undo.
    #[error("there is no {what} {id}")]
    NotFound {
        /// Which of these.
        what: Stored,
        /// Its id.
        id: String,
    },
    /// An argument that makes no sense.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// Text came for an answer that is not being written.
    #[error("message {id} is {state:?}, not being written")]
    NotStreaming {
        /// The message.
        id: String,
        /// Its state.
        state: MessageState,
    },
    /// A file that cannot be imported. Nothing was.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Anything else that SQLite reports.
    #[error("the database failed: {0}")]
    Database(rusqlite::Error),
}

/// What a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum Stored {
    /// A chat.
    Chat,
    /// A message.
    Message,
    /// A chat in the trash.
    DeletedChat,
    /// Deleted messages.
    Deletion,
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat",
            Self::Message => "message",
            Self::DeletedChat => "deleted chat",
            Self::Deletion => "deletion",
        })
    }
}

/// What cannot be done as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// To continue a message of the person's.
    #[error("the message to continue is not valid: only answers can be continued")]
    NotAnAnswer,
    /// To edit an answer while it grows.
    #[error("the message to edit is not valid: it is still being written; stop it first")]
    StillBeingWritten,
    /// To back chats up that were closed meanwhile.
    #[error("the backup was cancelled because the chats were closed")]
    BackupCancelled,
    /// To go on with a list from a place that is none.
    #[error("the place in the list of chats is not valid: {0:?} does not come from a page before")]
    Page(String),
}

/// Why a file was not imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Some size is beyond the limit.
    #[error("{what} is too large to import: {found}, at most {limit}")]
    TooLarge {
        /// Which size.
        what: ImportLimit,
        /// How much there is (at least).
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// Written by a newer version of this program.
    #[error(
        "the file was written by a newer Octet: it has format {found}, this version reads formats \
         up to {known}"
    )]
    Newer {
        /// Its version.
        found: u32,
        /// The newest one known here.
        known: u32,
    },
    /// Made by another program, or no text at all.
    #[error("the file is {what}")]
    Foreign {
        /// What it is.
        what: Foreign,
    },
    /// Not made by Octet's export.
    #[error("the file was not exported by Octet: {reason}")]
    NotOurs {
        /// What gave it away.
        reason: String,
    },
    /// JSON that is broken or has other fields.
    #[error("the file is damaged at line {line}, column {column}: {reason}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What was expected.
        reason: String,
    },
    /// A chat that contradicts itself.
    #[error("chat {number} ({title:?}) is inconsistent: {fault}")]
    Chat {
        /// Its place in the file, from 1.
        number: usize,
        /// Its title.
        title: String,
        /// What does not fit.
        fault: ChatFault,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull {
            return Self::DiskFull {
                path: path.to_owned(),
                size_bytes: std::fs::metadata(path).map_or(0, |data| data.len()),
            };
        }
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn not_found(what: Stored, id: impl ToString) -> Self {
        Self::NotFound {
            what,
            id: id.to_string(),
        }
    }

    /// Turns what SQLite reported about the database at `path` into a kind that a person can
    /// act on.
    pub(crate) fn about(self, path: &Path) -> Self {
        let Self::Database(error) = self else {
            return self;
        };
        let path = path.to_owned();
        let reason = error.to_string();
        match classify(&error) {
            Kind::Damaged => Self::Damaged {
                backup: crate::backup::newest(&path),
                path,
                reason,
            },
            Kind::Locked => Self::Locked {
                path,
                waited_ms: crate::database::BUSY_TIMEOUT.as_millis() as u64,
            },
            Kind::Full => Self::DiskFull {
                size_bytes: crate::database::size_bytes(&path),
                path,
            },
            Kind::Io => Self::Io {
                action: "read or write",
                path,
                source: io::Error::other(reason),
            },
            Kind::Other => Self::Database(error),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

enum Kind {
    Damaged,
    Locked,
    Full,
    Io,
    Other,
}

fn classify(error: &rusqlite::Error) -> Kind {
    // Values that the schema rules out can only come from damage.
    if let rusqlite::Error::FromSqlConversionFailure(..)
    | rusqlite::Error::InvalidColumnType(..)
    | rusqlite::Error::IntegralValueOutOfRange(..) = error
    {
        return Kind::Damaged;
    }
    let Some(code) = error.sqlite_error() else {
        return Kind::Other;
    };
    match code.code {
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Kind::Damaged,
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Kind::Locked,
        ErrorCode::DiskFull => Kind::Full,
        // The index of the write-ahead log cannot grow: there is no room for it.
        ErrorCode::SystemIoFailure if code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => {
            Kind::Full
        }
        ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::ReadOnly
        | ErrorCode::PermissionDenied => Kind::Io,
        _ => Kind::Other,
    }
}
