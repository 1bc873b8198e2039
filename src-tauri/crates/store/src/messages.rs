//! Messages: the tree of a chat.

use std::borrow::Cow;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::migrate::Migration;
use crate::{
    AnswerStats, ChatId, InvalidRequest, MessageId, Result, Store, StoreError, Stored, Timestamp,
    UndoToken, chats, title_from,
};

/// `key` numbers messages in the order they came, so that parents precede their children.
///
/// `parent_id` does not cascade, because SQLite would recurse once for every generation of a
/// long chat; it is checked at the end of a transaction instead.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        sql: "
        CREATE TABLE deletions (
            token BLOB PRIMARY KEY NOT NULL,
            chat_id BLOB NOT NULL REFERENCES chats(id) ON DELETE CASCADE,
            deleted_at INTEGER NOT NULL,
            active_leaf BLOB
        ) STRICT;
        CREATE INDEX deletions_chat ON deletions (chat_id);

        CREATE TABLE messages (
            key INTEGER PRIMARY KEY,
            id BLOB NOT NULL UNIQUE,
            chat_id BLOB NOT NULL REFERENCES chats(id) ON DELETE CASCADE,
            parent_id BLOB REFERENCES messages(id) DEFERRABLE INITIALLY DEFERRED,
            role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
            text TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            state TEXT NOT NULL
                CHECK (state IN ('complete', 'streaming', 'interrupted', 'stopped', 'error')),
            model TEXT,
            error TEXT,
            stats TEXT,
            deletion BLOB REFERENCES deletions(token) DEFERRABLE INITIALLY DEFERRED
        ) STRICT;
        CREATE INDEX messages_chat ON messages (chat_id, deletion);
        CREATE INDEX messages_parent ON messages (parent_id);
        CREATE INDEX messages_deletion ON messages (deletion) WHERE deletion IS NOT NULL;
        CREATE INDEX messages_streaming ON messages (state) WHERE state = 'streaming';
    ",
    },
    // Counts up within a chat each time a message becomes the end of the active branch.
    Migration {
        version: 4,
        sql: "
        ALTER TABLE messages ADD COLUMN shown INTEGER;
        UPDATE messages SET shown = 1 WHERE id IN (SELECT active_leaf FROM chats);
    ",
    },
];

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// How far a message got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum MessageState {
    /// Nothing more to come. All messages of a person are.
    Complete,
    /// Being written right now.
    Streaming,
    /// The program ended while it was being written.
    Interrupted,
    /// Stopped by the person.
    Stopped,
    /// The engine failed; [`Message::error`] says how.
    Error,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum StopReason {
    /// The model said so.
    Eos,
    /// A stop string came.
    Stop,
    /// The maximum of new tokens was made.
    Length,
    /// The context is full.
    ContextFull,
    /// The person stopped it.
    Cancelled,
}

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Which one.
    pub id: MessageId,
    /// What it follows; none for the first of a chat.
    pub parent_id: Option<MessageId>,
    /// Who speaks.
    pub role: Role,
    /// Markdown.
    pub text: String,
    /// When it was begun.
    pub created_at: Timestamp,
    /// How far it got.
    pub state: MessageState,
    /// Figures, of an answer that ended well or was stopped.
    pub stats: Option<AnswerStats>,
    /// The model that answered.
    pub model: Option<String>,
    /// What went wrong, in state [`MessageState::Error`]: whatever the shell gave to
    /// [`Store::fail_answer`]. Octet gives the failure as JSON; versions before gave a sentence.
    pub error: Option<String>,
}

/// What [`from_row`] reads, in its order.
pub(crate) const COLUMNS: &str =
    "id, parent_id, role, text, created_at, state, stats, model, error";

pub(crate) fn from_row(row: &Row<'_>) -> rusqlite::Result<Message> {
    let stats: Option<String> = row.get(6)?;
    Ok(Message {
        id: row.get(0)?,
        parent_id: row.get(1)?,
        role: word_column(row, 2)?,
        text: row.get(3)?,
        created_at: row.get(4)?,
        state: word_column(row, 5)?,
        // Figures are not worth losing a message for.
        stats: stats.and_then(|stats| serde_json::from_str(&stats).ok()),
        model: row.get(7)?,
        error: row.get(8)?,
    })
}

/// An enum that is stored by the name that it has in JSON.
pub(crate) fn word_column<T: DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let word: String = row.get(column)?;
    T::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(&word))
        .map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
        })
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl MessageState {
    fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Streaming => "streaming",
            Self::Interrupted => "interrupted",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }
}

/// SQLite's text functions end at a zero byte, so that none is stored.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

impl Store {
    /// Adds what the person said below `parent` and makes it the active leaf. A chat without a
    /// title gets one from its first message.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the chat or the parent in it is gone, or when the database
    /// fails.
    pub fn add_user(&self, chat: ChatId, parent: Option<MessageId>, text: &str) -> Result<Message> {
        let message = Message {
            text: clean(text).into_owned(),
            ..blank(parent, Role::User, MessageState::Complete)
        };
        self.database().write(|database| {
            let title = chats::require(database, chat)?;
            if title.is_empty() && !has_messages(database, chat)? {
                chats::set_title(database, chat, &title_from(&message.text))?;
            }
            append(database, chat, &message)
        })?;
        Ok(message)
    }

    /// Begins an answer below the person's message `parent`, empty and
    /// [`MessageState::Streaming`], and makes it the active leaf.
    ///
    /// # Errors
    /// As [`Store::add_user`].
    pub fn begin_answer(
        &self,
        chat: ChatId,
        parent: MessageId,
        model: Option<&str>,
    ) -> Result<Message> {
        let message = Message {
            model: model.map(|model| clean(model).into_owned()),
            ..blank(Some(parent), Role::Assistant, MessageState::Streaming)
        };
        self.database().write(|database| {
            chats::require(database, chat)?;
            append(database, chat, &message)
        })?;
        Ok(message)
    }

    /// Continues an answer that has ended: it streams again, with the text it has, and is the
    /// active leaf. An answer that something follows stays as it is, with what follows; a copy
    /// beside it is continued. Gives the message that streams.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone, [`StoreError::Invalid`] when it is a person's
    /// message, or when the database fails.
    pub fn resume_answer(&self, id: MessageId) -> Result<Message> {
        self.database().write(|database| {
            let (chat, mut message) = require(database, id)?;
            if message.role != Role::Assistant {
                return Err(InvalidRequest::NotAnAnswer.into());
            }
            if leaf_below(database, chat, Some(id))? != Some(id) {
                let copy = Message {
                    text: message.text,
                    model: message.model,
                    ..blank(message.parent_id, Role::Assistant, MessageState::Streaming)
                };
                append(database, chat, &copy)?;
                return Ok(copy);
            }
            message.state = MessageState::Streaming;
            message.error = None;
            message.stats = None;
            end(database, &message)?;
            chats::touch(database, chat, Some(id))?;
            Ok(message)
        })
    }

    /// Writes the whole text that an answer has so far.
    ///
    /// # Errors
    /// [`StoreError::NotStreaming`] when the answer has ended, [`StoreError::NotFound`] when it
    /// is gone, or when the database fails.
    pub fn update_answer(&self, id: MessageId, text: &str) -> Result<()> {
        self.write_streaming(id, "UPDATE messages SET text = ?2 WHERE id = ?1", text)
    }

    /// Adds to the text that an answer has so far.
    ///
    /// # Errors
    /// As [`Store::update_answer`].
    pub fn append_answer(&self, id: MessageId, text: &str) -> Result<()> {
        self.write_streaming(
            id,
            "UPDATE messages SET text = text || ?2 WHERE id = ?1",
            text,
        )
    }

    fn write_streaming(&self, id: MessageId, sql: &str, text: &str) -> Result<()> {
        self.database().write(|database| {
            let changed = database
                .prepare_cached(&format!("{sql} AND state = 'streaming'"))?
                .execute((id, clean(text)))?;
            if changed == 0 {
                require_streaming(database, id)?;
            }
            Ok(())
        })
    }

    /// Ends an answer with its final text. [`StopReason::Cancelled`] makes it
    /// [`MessageState::Stopped`], anything else [`MessageState::Complete`]. `stop_reason` is the
    /// one that counts where `stats` has another.
    ///
    /// # Errors
    /// As [`Store::update_answer`].
    pub fn finish_answer(
        &self,
        id: MessageId,
        text: &str,
        stats: Option<AnswerStats>,
        stop_reason: StopReason,
    ) -> Result<Message> {
        self.database().write(|database| {
            let (chat, mut message) = require_streaming(database, id)?;
            message.text = clean(text).into_owned();
            message.state = match stop_reason {
                StopReason::Cancelled => MessageState::Stopped,
                _ => MessageState::Complete,
            };
            message.stats = stats.map(|mut stats| {
                stats.make_finite();
                stats.stop_reason = stop_reason;
                stats
            });
            end(database, &message)?;
            chats::touch(database, chat, None)?;
            Ok(message)
        })
    }

    /// Ends an answer that went wrong, with the text that it has so far, and keeps `error` as it
    /// is.
    ///
    /// # Errors
    /// As [`Store::update_answer`].
    pub fn fail_answer(&self, id: MessageId, text: &str, error: &str) -> Result<Message> {
        self.database().write(|database| {
            let (chat, mut message) = require_streaming(database, id)?;
            message.text = clean(text).into_owned();
            message.state = MessageState::Error;
            message.error = Some(clean(error).into_owned());
            end(database, &message)?;
            chats::touch(database, chat, None)?;
            Ok(message)
        })
    }

    /// Replaces the text of a message where it is, without a branch.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone, [`StoreError::Invalid`] while it streams, or
    /// when the database fails.
    pub fn edit_text(&self, id: MessageId, text: &str) -> Result<Message> {
        self.database().write(|database| {
            let (_, mut message) = require(database, id)?;
            if message.state == MessageState::Streaming {
                return Err(InvalidRequest::StillBeingWritten.into());
            }
            message.text = clean(text).into_owned();
            end(database, &message)?;
            Ok(message)
        })
    }

    /// One message.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone, or when the database fails.
    pub fn message(&self, id: MessageId) -> Result<Message> {
        self.database()
            .read(|database| require(database, id).map(|(_, message)| message))
    }

    /// The chat that a message belongs to.
    ///
    /// # Errors
    /// As [`Store::message`].
    pub fn chat_of(&self, id: MessageId) -> Result<ChatId> {
        self.database()
            .read(|database| require(database, id).map(|(chat, _)| chat))
    }

    /// Deletes a message with all that follows it, on every branch. Where the active leaf goes,
    /// the leaf beside it that was active last becomes active, else the message before.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone already, or when the database fails.
    pub fn delete_message(&self, id: MessageId) -> Result<UndoToken> {
        let token = UndoToken::new();
        self.database().write(|database| {
            let (chat, message) = require(database, id)?;
            let leaf = chats::active_leaf(database, chat)?;
            database.execute(
                "INSERT INTO deletions (token, chat_id, deleted_at, active_leaf)
                 VALUES (?1, ?2, ?3, ?4)",
                (token, chat, Timestamp::now(), leaf),
            )?;
            database.execute(
                "WITH RECURSIVE subtree(id) AS (
                     VALUES (?1)
                     UNION ALL
                     SELECT child.id FROM messages child JOIN subtree ON child.parent_id = subtree.id
                     WHERE child.deletion IS NULL
                 )
                 UPDATE messages SET deletion = ?2 WHERE id IN subtree",
                (id, token),
            )?;
            if !is_alive(database, leaf)? {
                let next = leaf_below(database, chat, message.parent_id)?;
                chats::set_leaf(database, chat, next)?;
            }
            Ok(token)
        })
    }

    /// Takes a deletion back, with the branch that was active then. Messages above it that were
    /// deleted since come back too, for it could not be seen without them.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the token was used, or the messages are gone for good.
    pub fn undo_delete(&self, token: UndoToken) -> Result<ChatId> {
        self.database().write(|database| {
            let deletion = database
                .query_row(
                    "DELETE FROM deletions WHERE token = ?1 RETURNING chat_id, active_leaf",
                    [token],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            let (chat, leaf): (ChatId, Option<MessageId>) =
                deletion.ok_or_else(|| StoreError::not_found(Stored::Deletion, token))?;
            database.execute(
                "WITH RECURSIVE above(id) AS (
                     SELECT parent_id FROM messages WHERE deletion = ?1
                     UNION
                     SELECT parent.parent_id FROM messages parent JOIN above ON parent.id = above.id
                 )
                 UPDATE messages SET deletion = NULL
                 WHERE deletion = ?1 OR (deletion IS NOT NULL AND id IN above)",
                [token],
            )?;
            if is_alive(database, leaf)? {
                chats::set_leaf(database, chat, leaf)?;
            }
            Ok(chat)
        })
    }
}

fn blank(parent_id: Option<MessageId>, role: Role, state: MessageState) -> Message {
    Message {
        id: MessageId::new(),
        parent_id,
        role,
        text: String::new(),
        created_at: Timestamp::now(),
        state,
        stats: None,
        model: None,
        error: None,
    }
}

/// Inserts a new message after checking its parent, and makes it the active leaf.
fn append(database: &Transaction<'_>, chat: ChatId, message: &Message) -> Result<()> {
    if let Some(parent) = message.parent_id {
        require_in(database, chat, parent)?;
    }
    insert(database, chat, message)?;
    chats::touch(database, chat, Some(message.id))
}

/// Inserts a message as it is.
pub(crate) fn insert(database: &Connection, chat: ChatId, message: &Message) -> Result<()> {
    database
        .prepare_cached(
            "INSERT INTO messages
                 (id, chat_id, parent_id, role, text, created_at, state, model, error, stats)
             VALUES (:id, :chat, :parent, :role, :text, :created_at, :state, :model, :error, :stats)",
        )?
        .execute(named_params! {
            ":id": message.id,
            ":chat": chat,
            ":parent": message.parent_id,
            ":role": message.role.word(),
            ":text": clean(&message.text),
            ":created_at": message.created_at,
            ":state": message.state.word(),
            ":model": message.model.as_deref().map(clean),
            ":error": message.error.as_deref().map(clean),
            ":stats": stats_json(message),
        })?;
    Ok(())
}

/// Writes what may change of a message.
pub(crate) fn end(database: &Transaction<'_>, message: &Message) -> Result<()> {
    database.execute(
        "UPDATE messages SET text = ?2, state = ?3, error = ?4, stats = ?5 WHERE id = ?1",
        (
            message.id,
            &message.text,
            message.state.word(),
            &message.error,
            stats_json(message),
        ),
    )?;
    Ok(())
}

fn stats_json(message: &Message) -> Option<String> {
    let stats = message.stats.as_ref()?;
    Some(serde_json::to_string(stats).expect("BUG: plain fields are always JSON"))
}

/// All messages of a chat that are not deleted, parents before their children.
pub(crate) fn of_chat(database: &Connection, chat: ChatId) -> Result<Vec<Message>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM messages WHERE chat_id = ?1 AND deletion IS NULL ORDER BY key"
    );
    let mut statement = database.prepare_cached(&sql)?;
    let messages = statement.query_map([chat], from_row)?;
    Ok(messages.collect::<rusqlite::Result<_>>()?)
}

fn has_messages(database: &Transaction<'_>, chat: ChatId) -> Result<bool> {
    Ok(database
        .prepare_cached("SELECT 1 FROM messages WHERE chat_id = ?1 AND deletion IS NULL")?
        .exists([chat])?)
}

/// A message that is there and not deleted, with its chat.
pub(crate) fn require(database: &Connection, id: MessageId) -> Result<(ChatId, Message)> {
    let sql = format!("SELECT {COLUMNS}, chat_id FROM messages WHERE id = ?1 AND deletion IS NULL");
    let found = database
        .prepare_cached(&sql)?
        .query_row([id], |row| Ok((row.get(9)?, from_row(row)?)))
        .optional()?;
    found.ok_or_else(|| StoreError::not_found(Stored::Message, id))
}

/// An answer that is being written, with its chat. It may have been deleted meanwhile: the
/// deletion can be undone, and then all of it should be there.
pub(crate) fn require_streaming(database: &Connection, id: MessageId) -> Result<(ChatId, Message)> {
    let sql = format!("SELECT {COLUMNS}, chat_id FROM messages WHERE id = ?1");
    let found = database
        .prepare_cached(&sql)?
        .query_row([id], |row| Ok((row.get(9)?, from_row(row)?)))
        .optional()?;
    let (chat, message): (ChatId, Message) =
        found.ok_or_else(|| StoreError::not_found(Stored::Message, id))?;
    if message.state != MessageState::Streaming {
        return Err(StoreError::NotStreaming {
            id: id.to_string(),
            state: message.state,
        });
    }
    Ok((chat, message))
}

/// Checks that a message is there and belongs to the chat.
fn require_in(database: &Connection, chat: ChatId, id: MessageId) -> Result<()> {
    let exists = database
        .prepare_cached(
            "SELECT 1 FROM messages WHERE id = ?1 AND chat_id = ?2 AND deletion IS NULL",
        )?
        .exists((id, chat))?;
    if exists {
        Ok(())
    } else {
        Err(StoreError::not_found(Stored::Message, id))
    }
}

/// Whether there is such a message, not deleted. No message counts as there.
fn is_alive(database: &Connection, id: Option<MessageId>) -> Result<bool> {
    let Some(id) = id else {
        return Ok(true);
    };
    Ok(database
        .prepare_cached("SELECT 1 FROM messages WHERE id = ?1 AND deletion IS NULL")?
        .exists([id])?)
}

/// Where the branch through `message` ends (through none: any branch of the chat): of the leaves
/// below it the one that was the end of the active branch last, else the newest. `message` itself
/// when nothing follows it; none when it is gone.
pub(crate) fn leaf_below(
    database: &Connection,
    chat: ChatId,
    message: Option<MessageId>,
) -> Result<Option<MessageId>> {
    let start = match message {
        Some(_) => "id = ?2 AND chat_id = ?1",
        None => "chat_id = ?1 AND parent_id IS ?2",
    };
    let sql = format!(
        "WITH RECURSIVE below(key, id, shown) AS (
             SELECT key, id, shown FROM messages WHERE {start} AND deletion IS NULL
             UNION ALL
             SELECT child.key, child.id, child.shown FROM messages child
             JOIN below ON child.parent_id = below.id WHERE child.deletion IS NULL
         )
         SELECT id FROM below
         WHERE NOT EXISTS (SELECT 1 FROM messages child
                           WHERE child.parent_id = below.id AND child.deletion IS NULL)
         ORDER BY shown DESC, key DESC LIMIT 1"
    );
    let leaf = database
        .prepare_cached(&sql)?
        .query_row((chat, message), |row| row.get(0))
        .optional()?;
    Ok(leaf)
}

/// Notes that the active branch of `chat` ends here now.
pub(crate) fn mark_shown(database: &Connection, chat: ChatId, leaf: MessageId) -> Result<()> {
    database
        .prepare_cached(
            "UPDATE messages SET shown =
                 (SELECT coalesce(max(shown), 0) + 1 FROM messages WHERE chat_id = ?1)
             WHERE id = ?2",
        )?
        .execute((chat, leaf))?;
    Ok(())
}

/// Marks answers that nobody writes any more. How many.
pub(crate) fn interrupt_streaming(database: &Transaction<'_>) -> Result<usize> {
    Ok(database.execute(
        "UPDATE messages SET state = 'interrupted' WHERE state = 'streaming'",
        [],
    )?)
}

/// Deletes for good what was deleted before `limit`. How many messages.
pub(crate) fn purge(database: &Transaction<'_>, limit: Timestamp) -> Result<usize> {
    let messages = database.execute(
        "DELETE FROM messages WHERE deletion IN
             (SELECT token FROM deletions WHERE deleted_at < ?1)",
        [limit],
    )?;
    database.execute("DELETE FROM deletions WHERE deleted_at < ?1", [limit])?;
    Ok(messages)
}

/// Deletes for good what one deletion took, and what was deleted from below it before: that could
/// not be seen without.
pub(crate) fn purge_deletion(database: &Connection, token: UndoToken) -> Result<()> {
    database.execute(
        "WITH RECURSIVE gone(id) AS (
             SELECT id FROM messages WHERE deletion = ?1
             UNION
             SELECT child.id FROM messages child JOIN gone ON child.parent_id = gone.id
         )
         DELETE FROM messages WHERE id IN gone",
        [token],
    )?;
    database.execute(
        "DELETE FROM deletions WHERE token = ?1
             OR NOT EXISTS (SELECT 1 FROM messages WHERE deletion = token)",
        [token],
    )?;
    Ok(())
}
