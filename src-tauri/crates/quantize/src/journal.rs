//! What of an output folder is done: `octet-quantize.json`, there while the work is under way.
//!
//! One JSON object a line. The first tells source and options, each further one a finished file.
//! A line is only added once the file it tells of is on the disk under its name, and lines are
//! never changed, so that a run that ends anywhere, in the middle of a line too, leaves a journal
//! that is true. The open journal is also the lock that keeps a second process out.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use octet_files::bytes::format_bytes;
use serde::{Deserialize, Serialize};

use crate::error::{QuantizeError, io_error};
use crate::options::OptionsRecord;

/// The journal's file name.
pub const STATE_FILE: &str = "octet-quantize.json";

const MAX_JOURNAL_BYTES: u64 = 256 << 20;

/// The first line: what is being done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Raised whenever the same source and options would give other bytes.
    pub(crate) version: u32,
    /// Where the source was; it may have moved.
    pub(crate) source: String,
    pub(crate) config_crc32: u32,
    pub(crate) files: Vec<SourceFile>,
    pub(crate) options: OptionsRecord,
}

/// What tells a source file from another: length, header and samples of its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) sample_crc32: u32,
}

/// A further line: a file that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Finished {
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) crc32: u32,
    pub(crate) matrices: Vec<MatrixError>,
}

/// How well a matrix was quantized.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MatrixError {
    pub(crate) name: String,
    /// Frobenius norm of the difference over that of the weights.
    pub(crate) relative_error: f64,
}

impl Task {
    /// What differs between `self`, an earlier run, and `now`; `None` if nothing does.
    fn difference(&self, now: &Self) -> Option<String> {
        let mut differences = Vec::new();
        if self.version != now.version {
            differences.push("another version of the program wrote it".to_owned());
        }
        differences.extend(self.options.differences(&now.options));
        if let Some(what) = self.source_difference(now) {
            differences.push(format!(
                "the source was {} and is another now ({what})",
                self.source
            ));
        }
        (!differences.is_empty()).then(|| differences.join("; "))
    }

    fn source_difference(&self, now: &Self) -> Option<String> {
        if self.config_crc32 != now.config_crc32 {
            return Some("config.json differs".into());
        }
        if self.files.len() != now.files.len() {
            return Some(format!(
                "{} files then, {} now",
                self.files.len(),
                now.files.len()
            ));
        }
        let (then, now) = self.files.iter().zip(&now.files).find(|(a, b)| a != b)?;
        Some(if then.name != now.name {
            format!("{} then, {} now", then.name, now.name)
        } else if then.bytes != now.bytes {
            let [then_bytes, now_bytes] = [then.bytes, now.bytes].map(format_bytes);
            format!("{} had {then_bytes}, now {now_bytes}", then.name)
        } else {
            format!("{} holds other weights", then.name)
        })
    }
}

/// The open, locked journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the journal of `out` or begins one, and tells what is finished already.
    ///
    /// `out` is created; where there is no journal in it, it has to be empty.
    pub(crate) fn open(out: &Path, task: &Task) -> Result<(Self, Vec<Finished>), QuantizeError> {
        check_folder(out)?;
        fs::create_dir_all(out).map_err(io_error("create", out))?;
        let path = out.join(STATE_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(QuantizeError::InUse {
                    out: out.to_owned(),
                });
            }
            // Some network file systems know no locks: better without than not at all.
            Err(TryLockError::Error(error)) => {
                tracing::warn!("{} cannot be locked: {error}", path.display());
            }
        }
        let mut journal = Self { path, file };
        let finished = journal.read(out, task)?;
        Ok((journal, finished))
    }

    /// Adds a line, and returns once it is on the disk.
    pub(crate) fn add(&mut self, finished: &Finished) -> Result<(), QuantizeError> {
        self.write_line(finished)
            .map_err(io_error("write", &self.path))
    }

    /// Removes the journal: everything is done.
    pub(crate) fn remove(self) -> Result<(), QuantizeError> {
        let Self { path, file } = self;
        // Some systems keep the name until the file is closed.
        drop(file);
        fs::remove_file(&path).map_err(io_error("remove", &path))
    }

    /// Reads what is there, cuts off a torn last line, and writes the first line if there is none.
    fn read(&mut self, out: &Path, task: &Task) -> Result<Vec<Finished>, QuantizeError> {
        let mut text = Vec::new();
        (&mut self.file)
            .take(MAX_JOURNAL_BYTES)
            .read_to_end(&mut text)
            .map_err(io_error("read", &self.path))?;
        let whole = text
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        let mut lines = text[..whole]
            .split(|&b| b == b'\n')
            .filter(|l| !l.is_empty());
        let damaged = || QuantizeError::OutNotEmpty {
            out: out.to_owned(),
            why: format!("its {STATE_FILE} is damaged, so that nobody can tell what is done"),
        };
        let finished = match lines.next() {
            None if is_alone(out)? => None,
            None => return Err(damaged()),
            Some(line) => {
                let then: Task = serde_json::from_slice(line).map_err(|_| damaged())?;
                if let Some(difference) = then.difference(task) {
                    return Err(QuantizeError::OtherRun {
                        out: out.to_owned(),
                        difference,
                    });
                }
                let finished: Result<Vec<Finished>, _> =
                    lines.map(serde_json::from_slice).collect();
                Some(finished.map_err(|_| damaged())?)
            }
        };
        let cut = |file: &mut File| {
            file.set_len(whole as u64)?;
            file.seek(SeekFrom::Start(whole as u64))
        };
        cut(&mut self.file).map_err(io_error("write", &self.path))?;
        if finished.is_none() {
            self.write_line(task)
                .map_err(io_error("write", &self.path))?;
        }
        Ok(finished.unwrap_or_default())
    }

    fn write_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()
    }
}

/// Refuses an output folder that is neither new, nor empty, nor one with a journal.
pub(crate) fn check_folder(out: &Path) -> Result<(), QuantizeError> {
    let refuse = |why: &str| {
        Err(QuantizeError::OutNotEmpty {
            out: out.to_owned(),
            why: why.to_owned(),
        })
    };
    match fs::read_dir(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => refuse("it is not a folder"),
        Err(error) => Err(io_error("look into", out)(error)),
        Ok(_) if out.join(STATE_FILE).exists() => Ok(()),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) if out.join(octet_checkpoint::INDEX_FILE).exists() => {
                refuse("it holds a finished checkpoint")
            }
            Some(_) => refuse("it is not empty"),
        },
    }
}

fn is_alone(out: &Path) -> Result<bool, QuantizeError> {
    let mut entries = fs::read_dir(out).map_err(io_error("look into", out))?;
    let other = |entry: &io::Result<fs::DirEntry>| {
        entry
            .as_ref()
            .is_ok_and(|entry| entry.file_name() != STATE_FILE)
    };
    Ok(!entries.any(|entry| other(&entry)))
}
