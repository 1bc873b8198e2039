//! What was deleted and can still be had back.

use std::time::Duration;

use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};

use crate::messages;
use crate::title::one_line;
use crate::{ChatId, KEEP_DELETED, Result, Store, StoreError, Stored, Timestamp, UndoToken};

/// Characters of a preview.
const PREVIEW_CHARS: usize = 140;

/// Which deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum DeletionId {
    /// A whole chat.
    Chat {
        /// Which.
        id: ChatId,
    },
    /// A message of a chat that stays, with what followed it.
    Messages {
        /// What takes it back.
        token: UndoToken,
    },
}

/// A deletion that can be taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    /// Which.
    pub id: DeletionId,
    /// The chat's title; empty while it has none.
    pub title: String,
    /// The beginning of what was deleted, in one line.
    pub preview: String,
    /// How many messages went, on all branches.
    pub message_count: u32,
    /// When.
    pub deleted_at: Timestamp,
    /// When it is deleted for good.
    pub expires_at: Timestamp,
}

impl Store {
    /// What was deleted in the last [`KEEP_DELETED`], the newest first, `limit` at most. Messages
    /// of a deleted chat belong to it and are not listed by themselves.
    ///
    /// # Errors
    /// When the database fails.
    pub fn deletions(&self, limit: u32) -> Result<Vec<Deletion>> {
        let oldest = Timestamp::now().before(KEEP_DELETED);
        self.database().read(|database| {
            let mut statement = database.prepare_cached(
                "SELECT id, NULL, title, deleted_at,
                     (SELECT count(*) FROM messages WHERE chat_id = chats.id AND deletion IS NULL),
                     (SELECT substr(text, 1, 600) FROM messages
                      WHERE chat_id = chats.id AND deletion IS NULL AND text <> ''
                      ORDER BY key LIMIT 1)
                 FROM chats WHERE deleted_at > ?1
                 UNION ALL
                 SELECT NULL, token, title, deletions.deleted_at,
                     (SELECT count(*) FROM messages WHERE deletion = token),
                     (SELECT substr(text, 1, 600) FROM messages
                      WHERE deletion = token ORDER BY key LIMIT 1)
                 FROM deletions JOIN chats ON chats.id = chat_id
                 WHERE deletions.deleted_at > ?1 AND chats.deleted_at IS NULL
                     AND EXISTS (SELECT 1 FROM messages WHERE deletion = token)
                 ORDER BY 4 DESC LIMIT ?2",
            )?;
            let deletions = statement.query_map((oldest, limit), from_row)?;
            Ok(deletions.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Takes a deletion back. The chat that has something again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone for good, or when the database fails.
    pub fn restore(&self, id: DeletionId) -> Result<ChatId> {
        match id {
            DeletionId::Chat { id } => self.restore_chat(id).map(|chat| chat.id),
            DeletionId::Messages { token } => self.undo_delete(token),
        }
    }

    /// Deletes for good what was deleted, with what was deleted from below it before.
    /// [`Store::compact`] gives the room back, and backups keep what they have.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone already, or was restored, or when the database
    /// fails.
    pub fn delete_for_good(&self, id: DeletionId) -> Result<()> {
        self.database().write(|database| match id {
            DeletionId::Chat { id } => {
                let sql = "DELETE FROM chats WHERE id = ?1 AND deleted_at IS NOT NULL";
                match database.execute(sql, [id])? {
                    0 => Err(StoreError::not_found(Stored::DeletedChat, id)),
                    _ => Ok(()),
                }
            }
            DeletionId::Messages { token } => purge_messages(database, token),
        })
    }

    /// Deletes for good all that was deleted.
    ///
    /// # Errors
    /// When the database fails.
    pub fn empty_trash(&self) -> Result<()> {
        self.purge(Duration::ZERO).map(drop)
    }
}

fn purge_messages(database: &Connection, token: UndoToken) -> Result<()> {
    let is_there = database
        .prepare_cached("SELECT 1 FROM deletions WHERE token = ?1")?
        .exists([token])?;
    if !is_there {
        return Err(StoreError::not_found(Stored::Deletion, token));
    }
    messages::purge_deletion(database, token)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Deletion> {
    let chat: Option<ChatId> = row.get(0)?;
    let id = match chat {
        Some(id) => DeletionId::Chat { id },
        None => DeletionId::Messages { token: row.get(1)? },
    };
    let deleted_at: Timestamp = row.get(3)?;
    let preview: Option<String> = row.get(5)?;
    Ok(Deletion {
        id,
        title: row.get(2)?,
        preview: one_line(&preview.unwrap_or_default(), PREVIEW_CHARS),
        message_count: row.get(4)?,
        deleted_at,
        expires_at: deleted_at.after(KEEP_DELETED),
    })
}
