//! Chats and settings on disk.
//!
//! [`Store`] keeps chats in one SQLite file: a chat is a tree of messages, each with a parent,
//! and remembers which leaf of the tree was chosen last. [`settings::SettingsFile`] keeps
//! settings in one JSON file. Nothing here knows of windows or models.
//!
//! # What survives what
//! - A message is on disk when the call that writes it returns, power cuts included.
//! - An answer is written as often as [`Store::update_answer`] is called while it grows. What a
//!   crash leaves behind is marked [`MessageState::Interrupted`] when the file is next opened.
//! - Deleted chats and messages can be had back until [`KEEP_DELETED`] has passed.
//! - The file is backed up before its format changes, and once a day when it has changed.
//!
//! # Modules
//! One module a table, with its migrations: `chats`, `messages`, `drafts`, `search`. `migrate`
//! runs them; `trash` is what was deleted; `backup` and [`recover`] are for bad days; `export`, `import` and `markdown` move
//! chats between machines.
#![warn(missing_docs)]

mod answer_stats;
mod atomic_file;
mod backup;
mod chats;
mod database;
mod drafts;
mod error;
mod export;
mod foreign;
mod ids;
mod import;
mod markdown;
mod messages;
mod migrate;
mod problem;
pub mod recover;
mod search;
pub mod settings;
mod store;
mod take_back;
mod title;
mod trash;

pub use answer_stats::{AnswerStats, StatsScope};
pub use backup::{BACKUPS_KEPT, Backup, backups};
pub use chats::{Chat, ChatFilter, ChatPage, ChatSummary, Counts, NewChat, Purged};
pub use drafts::Edit;
pub use error::{ImportError, InvalidRequest, Result, StoreError, Stored};
pub use export::{EXPORT_VERSION, Format};
pub use foreign::Foreign;
pub use ids::{ChatId, MessageId, Timestamp, UndoToken};
pub use import::{
    ChatFault, ImportLimit, ImportResult, MAX_IMPORT_BYTES, MAX_IMPORT_CHATS, MAX_IMPORT_MESSAGES,
    MAX_TEXT_BYTES,
};
pub use messages::{Message, MessageState, Role, StopReason};
pub use migrate::SCHEMA_VERSION;
pub use problem::StoreProblem;
pub use search::{SearchHit, Snippet};
pub use store::{KEEP_DELETED, Store};
pub use title::title_from;
pub use trash::{Deletion, DeletionId};
