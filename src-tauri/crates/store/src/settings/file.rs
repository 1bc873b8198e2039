//! The file that settings are in.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

use super::Settings;
use crate::{Result, StoreError, atomic_file};

/// Bytes of a settings file at most; a larger one is none.
const MAX_BYTES: u64 = 4 << 20;

/// Settings on disk. May be used from any thread.
pub struct SettingsFile {
    path: PathBuf,
    /// As in the file, with what this version does not know.
    raw: Mutex<Value>,
}

/// What [`SettingsFile::open`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Complete, and in range.
    pub settings: Settings,
    /// There was no file: the first start.
    pub is_new: bool,
    /// What the person should know.
    pub notice: Option<SettingsNotice>,
}

/// Settings that are not as they were left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingsNotice {
    /// Some made no sense.
    Reset {
        /// Fields that have their default or the nearest value instead, as named in the file.
        fields: Vec<String>,
    },
    /// The file could not be read; the defaults stand in for it.
    Unreadable {
        /// Where the unreadable file is now.
        kept: PathBuf,
        /// What the system or the parser says.
        detail: String,
    },
    /// The same, and the file could not be kept either: saving replaces it.
    NotKept {
        /// The unreadable file.
        path: PathBuf,
        /// What the system says about renaming it.
        detail: String,
    },
}

impl SettingsFile {
    /// Reads the settings at `path`. This never fails: what cannot be read is kept aside as
    /// `settings.damaged-N.json`, and the defaults stand in for it.
    pub fn open(path: &Path) -> (Self, Loaded) {
        if let Some(folder) = path.parent() {
            octet_files::remove_stale(folder);
        }
        let (raw, loaded) = match read(path) {
            Ok(Some(raw)) => {
                let (settings, fields) = understand(&raw);
                let notice = (!fields.is_empty()).then_some(SettingsNotice::Reset { fields });
                let loaded = Loaded {
                    settings,
                    is_new: false,
                    notice,
                };
                (raw, loaded)
            }
            Ok(None) => (Value::Null, defaults(true, None)),
            Err(unreadable) => (
                Value::Null,
                defaults(false, Some(keep_aside(path, unreadable.to_string()))),
            ),
        };
        let file = Self {
            path: path.to_owned(),
            raw: Mutex::new(raw),
        };
        (file, loaded)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Brings the settings into range and replaces the file by them, as a whole or not at all.
    /// What is kept.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::DiskFull`]; the file is as it was.
    pub fn save(&self, settings: &Settings) -> Result<Settings> {
        let mut kept = settings.clone();
        kept.bring_into_range();
        let mut raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        let merged = merge(&raw, to_value(&kept));
        atomic_file::replace(&self.path, |file| {
            let failed = |error| StoreError::io("write", &self.path, error);
            serde_json::to_writer_pretty(&mut *file, &merged)
                .map_err(io::Error::from)
                .and_then(|()| file.write_all(b"\n"))
                .map_err(failed)
        })?;
        *raw = merged;
        Ok(kept)
    }
}

fn defaults(is_new: bool, notice: Option<SettingsNotice>) -> Loaded {
    Loaded {
        settings: Settings::default(),
        is_new,
        notice,
    }
}

fn to_value(settings: &Settings) -> Value {
    serde_json::to_value(settings).expect("BUG: plain fields are always JSON")
}

/// Why a settings file cannot be read.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("it is not a JSON object")]
    NoObject,
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// The file as JSON; none if there is no file. Or why it cannot be read.
fn read(path: &Path) -> Result<Option<Value>, Unreadable> {
    let mut bytes = Vec::new();
    let done = match fs::File::open(path) {
        Ok(file) => file.take(MAX_BYTES + 1).read_to_end(&mut bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    };
    done?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Unreadable::TooLarge);
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match serde_json::from_slice(text) {
        Ok(Value::Object(fields)) => Ok(Some(Value::Object(fields))),
        Ok(_) => Err(Unreadable::NoObject),
        Err(error) => Err(error.into()),
    }
}

/// Renames an unreadable file, so that saving does not replace it.
fn keep_aside(path: &Path, unreadable: String) -> SettingsNotice {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let kept = (1..)
        .map(|number| path.with_file_name(format!("{stem}.damaged-{number}.json")))
        .find(|candidate| fs::symlink_metadata(candidate).is_err())
        .expect("BUG: numbers do not end");
    match fs::rename(path, &kept) {
        Ok(()) => SettingsNotice::Unreadable {
            kept,
            detail: unreadable,
        },
        Err(error) => SettingsNotice::NotKept {
            path: path.to_owned(),
            detail: error.to_string(),
        },
    }
}

/// Settings from the file's fields, and the names of those that were no good.
fn understand(raw: &Value) -> (Settings, Vec<String>) {
    let mut settings = Settings::default();
    let mut bad = Vec::new();
    let mut document = to_value(&settings);
    if let Value::Object(fields) = raw {
        for (name, value) in fields {
            let path = [name.as_str()];
            take(&mut document, &mut settings, &path, value, &mut bad);
        }
    }
    bad.extend(settings.bring_into_range());
    bad.sort();
    bad.dedup();
    (settings, bad)
}

/// Puts the file's value at `path` into the document if the whole can be understood with it;
/// else what is good of it, and the name of what is not into `bad`.
fn take(
    document: &mut Value,
    settings: &mut Settings,
    path: &[&str],
    value: &Value,
    bad: &mut Vec<String>,
) {
    // What this version does not know is no mistake.
    let Some(known) = document.pointer(&pointer(path)).cloned() else {
        return;
    };
    if let (Value::Object(_), Value::Object(fields)) = (&known, value) {
        for (name, value) in fields {
            let path = [path, &[name.as_str()]].concat();
            take(document, settings, &path, value, bad);
        }
        return;
    }
    let mut attempt = |value: Value| {
        let mut with = document.clone();
        *with.pointer_mut(&pointer(path))? = value;
        *settings = serde_json::from_value(with.clone()).ok()?;
        *document = with;
        Some(())
    };
    if attempt(value.clone()).is_some() {
        return;
    }
    bad.push(path.join("."));
    if let Value::Array(items) = value {
        let mut good = Vec::new();
        for item in items {
            good.push(item.clone());
            if attempt(Value::Array(good.clone())).is_none() {
                good.pop();
            }
        }
    }
}

/// As in RFC 6901.
fn pointer(path: &[&str]) -> String {
    path.iter()
        .map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1")))
        .collect()
}

/// `new`, with the fields that only `old` has. In lists, things with the same `name` belong
/// together.
fn merge(old: &Value, new: Value) -> Value {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut merged = old.clone();
            for (name, value) in new {
                let value = merge(old.get(&name).unwrap_or(&Value::Null), value);
                merged.insert(name, value);
            }
            Value::Object(merged)
        }
        (Value::Array(old), Value::Array(new)) => {
            let same = |item: &Value| {
                let name = name_of(item)?;
                old.iter().find(|old| name_of(old) == Some(name))
            };
            new.into_iter()
                .map(|item| match same(&item) {
                    Some(old) => merge(old, item),
                    None => item,
                })
                .collect()
        }
        (_, new) => new,
    }
}

fn name_of(item: &Value) -> Option<&str> {
    item.as_object()
        .and_then(|fields: &Map<_, _>| fields.get("name")?.as_str())
}
