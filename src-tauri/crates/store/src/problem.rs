//! A failure as data, for whoever words it for a person in a language of their choice.

use serde::Serialize;

use crate::error::{ImportError, InvalidRequest, StoreError, Stored};
use crate::foreign::Foreign;
use crate::import::ImportLimit;

/// What kind of failure a [`StoreError`] is, with its names and numbers.
///
/// `detail` is what the system, SQLite, or a parser of damaged files says, in English.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum StoreProblem {
    /// The database is damaged.
    StoreDamaged {
        /// The database.
        path: String,
        /// What SQLite says.
        detail: String,
    },
    /// Another program holds the database.
    StoreLocked {
        /// The database.
        path: String,
    },
    /// A newer version wrote the database.
    StoreNewer {
        /// The database.
        path: String,
        /// Its schema version.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        found: i64,
        /// The newest schema version known here.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        known: i64,
    },
    /// No room on the disk for the chats, settings, or an export.
    StoreDiskFull {
        /// The file.
        path: String,
    },
    /// A file could not be read or written.
    StoreFile {
        /// The file or folder.
        path: String,
        /// What the system says.
        detail: String,
    },
    /// It was deleted, or never was.
    NotStored {
        /// What.
        what: Stored,
    },
    /// Only an answer can be continued.
    NotAnAnswer,
    /// The message is still being written.
    StillBeingWritten,
    /// Text came for an answer that has ended.
    AnswerEnded,
    /// The backup was given up, for the chats were closed.
    BackupCancelled,
    /// The list of chats was asked to go on from a place it never gave.
    NoSuchPage,
    /// A size in the file is beyond the limit.
    ImportTooLarge {
        /// Which size.
        what: ImportLimit,
        /// How much there is, at least.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        found: u64,
        /// The limit.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        limit: u64,
    },
    /// A newer version wrote the file.
    ImportNewer {
        /// The file's version.
        found: u32,
        /// The newest one known here.
        known: u32,
    },
    /// Another program made the file.
    ImportForeign {
        /// What it is.
        what: Foreign,
    },
    /// The file is no export.
    ImportNotOurs {
        /// What gave it away.
        detail: String,
    },
    /// The file is damaged.
    ImportDamaged {
        /// From 1.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        line: usize,
        /// From 1.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        column: usize,
        /// What was expected.
        detail: String,
    },
    /// A chat in the file contradicts itself.
    ImportInconsistent {
        /// Its place in the file, from 1.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        number: usize,
        /// Its title.
        title: String,
        /// What does not fit.
        detail: String,
    },
    /// The database failed in a way that is no damage.
    Database {
        /// What SQLite says.
        detail: String,
    },
}

impl From<&StoreError> for StoreProblem {
    fn from(error: &StoreError) -> Self {
        let text = |path: &std::path::Path| path.display().to_string();
        match error {
            StoreError::Damaged { path, reason, .. } => Self::StoreDamaged {
                path: text(path),
                detail: reason.clone(),
            },
            StoreError::Locked { path, .. } => Self::StoreLocked { path: text(path) },
            StoreError::Newer { path, found, known } => Self::StoreNewer {
                path: text(path),
                found: *found,
                known: *known,
            },
            StoreError::DiskFull { path, .. } => Self::StoreDiskFull { path: text(path) },
            StoreError::Io { path, source, .. } => Self::StoreFile {
                path: text(path),
                detail: source.to_string(),
            },
            StoreError::NotFound { what, .. } => Self::NotStored { what: *what },
            StoreError::Invalid(request) => match request {
                InvalidRequest::NotAnAnswer => Self::NotAnAnswer,
                InvalidRequest::StillBeingWritten => Self::StillBeingWritten,
                InvalidRequest::BackupCancelled => Self::BackupCancelled,
                InvalidRequest::Page(_) => Self::NoSuchPage,
            },
            StoreError::NotStreaming { .. } => Self::AnswerEnded,
            StoreError::Import(error) => error.into(),
            StoreError::Database(error) => Self::Database {
                detail: error.to_string(),
            },
        }
    }
}

impl From<&ImportError> for StoreProblem {
    fn from(error: &ImportError) -> Self {
        match error {
            ImportError::TooLarge { what, found, limit } => Self::ImportTooLarge {
                what: *what,
                found: *found,
                limit: *limit,
            },
            ImportError::Newer { found, known } => Self::ImportNewer {
                found: *found,
                known: *known,
            },
            ImportError::Foreign { what } => Self::ImportForeign { what: *what },
            ImportError::NotOurs { reason } => Self::ImportNotOurs {
                detail: reason.clone(),
            },
            ImportError::Syntax {
                line,
                column,
                reason,
            } => Self::ImportDamaged {
                line: *line,
                column: *column,
                detail: reason.clone(),
            },
            ImportError::Chat {
                number,
                title,
                fault,
            } => Self::ImportInconsistent {
                number: *number,
                title: title.clone(),
                detail: fault.to_string(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::import::ChatFault;
    use crate::{MessageId, MessageState};

    #[test]
    fn every_error_is_a_kind_with_its_names_and_numbers() {
        let path = || PathBuf::from("chats.db");
        let import = StoreError::Import;
        let message = MessageId::new();
        let cases = [
            (
                StoreError::Damaged {
                    path: path(),
                    reason: "malformed".to_owned(),
                    backup: None,
                },
                json!({"kind": "storeDamaged", "path": "chats.db", "detail": "malformed"}),
            ),
            (
                StoreError::Locked {
                    path: path(),
                    waited_ms: 5,
                },
                json!({"kind": "storeLocked", "path": "chats.db"}),
            ),
            (
                StoreError::Newer {
                    path: path(),
                    found: 9,
                    known: 4,
                },
                json!({"kind": "storeNewer", "path": "chats.db", "found": 9, "known": 4}),
            ),
            (
                StoreError::io("write", &path(), io::ErrorKind::StorageFull.into()),
                json!({"kind": "storeDiskFull", "path": "chats.db"}),
            ),
            (
                StoreError::io("write", &path(), io::Error::other("read-only")),
                json!({"kind": "storeFile", "path": "chats.db", "detail": "read-only"}),
            ),
            (
                StoreError::not_found(Stored::DeletedChat, message),
                json!({"kind": "notStored", "what": "deletedChat"}),
            ),
            (
                StoreError::Invalid(InvalidRequest::NotAnAnswer),
                json!({"kind": "notAnAnswer"}),
            ),
            (
                StoreError::Invalid(InvalidRequest::StillBeingWritten),
                json!({"kind": "stillBeingWritten"}),
            ),
            (
                StoreError::Invalid(InvalidRequest::BackupCancelled),
                json!({"kind": "backupCancelled"}),
            ),
            (
                StoreError::Invalid(InvalidRequest::Page("x".to_owned())),
                json!({"kind": "noSuchPage"}),
            ),
            (
                StoreError::NotStreaming {
                    id: message.to_string(),
                    state: MessageState::Complete,
                },
                json!({"kind": "answerEnded"}),
            ),
            (
                import(ImportError::TooLarge {
                    what: ImportLimit::ChatSettings,
                    found: 3,
                    limit: 2,
                }),
                json!({"kind": "importTooLarge", "what": "chatSettings", "found": 3, "limit": 2}),
            ),
            (
                import(ImportError::Newer { found: 2, known: 1 }),
                json!({"kind": "importNewer", "found": 2, "known": 1}),
            ),
            (
                import(ImportError::Foreign {
                    what: Foreign::OpenWebUi,
                }),
                json!({"kind": "importForeign", "what": "openWebUi"}),
            ),
            (
                import(ImportError::NotOurs {
                    reason: "it is not UTF-8 text".to_owned(),
                }),
                json!({"kind": "importNotOurs", "detail": "it is not UTF-8 text"}),
            ),
            (
                import(ImportError::Syntax {
                    line: 2,
                    column: 7,
                    reason: "expected `,`".to_owned(),
                }),
                json!({"kind": "importDamaged", "line": 2, "column": 7, "detail": "expected `,`"}),
            ),
            (
                import(ImportError::Chat {
                    number: 3,
                    title: "Trip".to_owned(),
                    fault: ChatFault::Circle,
                }),
                json!({
                    "kind": "importInconsistent",
                    "number": 3,
                    "title": "Trip",
                    "detail": "some of its messages follow each other in a circle",
                }),
            ),
            (
                StoreError::Database(rusqlite::Error::InvalidQuery),
                json!({"kind": "database", "detail": "Query is not read-only"}),
            ),
        ];
        for (error, expected) in cases {
            let found = serde_json::to_value(StoreProblem::from(&error)).unwrap();
            assert_eq!(found, expected, "{error}");
        }
    }
}
