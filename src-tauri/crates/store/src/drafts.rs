//! Text that was typed and not sent: a new message, or another text for one that was sent.

use rusqlite::OptionalExtension;
use serde::{Deserialize, Serialize};

use crate::messages::{self, clean};
use crate::migrate::Migration;
use crate::{ChatId, MessageId, Result, Store, chats};

/// `chat_id` is null for the chat that does not exist yet.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        sql: "
        CREATE TABLE drafts (
            chat_id BLOB UNIQUE REFERENCES chats(id) ON DELETE CASCADE,
            text TEXT NOT NULL
        ) STRICT;
    ",
    },
    Migration {
        version: 4,
        sql: "
        CREATE TABLE edits (
            message_id BLOB PRIMARY KEY NOT NULL REFERENCES messages(id) ON DELETE CASCADE,
            text TEXT NOT NULL
        ) STRICT;
    ",
    },
];

/// An edit in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Edit {
    /// The message that is edited.
    pub message_id: MessageId,
    /// What the field says.
    pub text: String,
}

impl Store {
    /// The draft of a chat, or of the new chat for `None`. Empty when there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub fn draft(&self, chat: Option<ChatId>) -> Result<String> {
        self.database().read(|database| {
            let text = database
                .prepare_cached("SELECT text FROM drafts WHERE chat_id IS ?1")?
                .query_row([chat], |row| row.get(0))
                .optional()?;
            Ok(text.unwrap_or_default())
        })
    }

    /// Keeps a draft; an empty one is forgotten.
    ///
    /// # Errors
    /// [`NotFound`](crate::StoreError::NotFound) when there is no such chat, or when the
    /// database fails.
    pub fn set_draft(&self, chat: Option<ChatId>, text: &str) -> Result<()> {
        self.database().write(|database| {
            if let Some(chat) = chat {
                chats::require(database, chat)?;
            }
            database.execute("DELETE FROM drafts WHERE chat_id IS ?1", [chat])?;
            if !text.is_empty() {
                database.execute(
                    "INSERT INTO drafts (chat_id, text) VALUES (?1, ?2)",
                    (chat, clean(text)),
                )?;
            }
            Ok(())
        })
    }

    /// The edits in progress in a chat, but for those of deleted messages.
    ///
    /// # Errors
    /// When the database fails.
    pub fn edits(&self, chat: ChatId) -> Result<Vec<Edit>> {
        self.database().read(|database| {
            let mut statement = database.prepare_cached(
                "SELECT message_id, edits.text FROM messages
                 JOIN edits ON messages.id = message_id
                 WHERE chat_id = ?1 AND deletion IS NULL ORDER BY key",
            )?;
            let edits = statement.query_map([chat], |row| {
                Ok(Edit {
                    message_id: row.get(0)?,
                    text: row.get(1)?,
                })
            })?;
            Ok(edits.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Keeps what the field for another text of `message` says, or forgets it for `None`.
    ///
    /// # Errors
    /// [`NotFound`](crate::StoreError::NotFound) when there is no such message, or when the
    /// database fails.
    pub fn set_edit(&self, message: MessageId, text: Option<&str>) -> Result<()> {
        self.database().write(|database| {
            database.execute("DELETE FROM edits WHERE message_id = ?1", [message])?;
            if let Some(text) = text {
                messages::require(database, message)?;
                database.execute(
                    "INSERT INTO edits (message_id, text) VALUES (?1, ?2)",
                    (message, clean(text)),
                )?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::store::tests::scratch;
    use crate::{ChatId, Edit, MessageId, NewChat, StoreError};

    #[test]
    fn each_chat_and_the_new_one_have_their_own_draft() {
        let (_folder, store) = scratch();
        let chat = store.create_chat(NewChat::default()).unwrap().id;
        assert_eq!(store.draft(None).unwrap(), "");
        store.set_draft(None, "for the new one").unwrap();
        store.set_draft(None, "for the new one, longer").unwrap();
        store.set_draft(Some(chat), "for this one").unwrap();
        assert_eq!(store.draft(None).unwrap(), "for the new one, longer");
        assert_eq!(store.draft(Some(chat)).unwrap(), "for this one");
        store.set_draft(None, "").unwrap();
        assert_eq!(store.draft(None).unwrap(), "");
        assert_eq!(store.draft(Some(chat)).unwrap(), "for this one");
        let unknown = store.set_draft(Some(ChatId::new()), "lost");
        assert!(matches!(unknown, Err(StoreError::NotFound { .. })));
    }

    #[test]
    fn an_edit_is_kept_until_it_is_sent_and_goes_with_its_message() {
        let (folder, store) = scratch();
        let chat = store.create_chat(NewChat::default()).unwrap().id;
        let other = store.create_chat(NewChat::default()).unwrap().id;
        let first = store.add_user(chat, None, "as it was").unwrap().id;
        let second = store.add_user(chat, Some(first), "another").unwrap().id;
        let edit = |message_id, text: &str| Edit {
            message_id,
            text: text.to_owned(),
        };
        assert_eq!(store.edits(chat).unwrap(), []);
        store.set_edit(second, Some("")).unwrap();
        store.set_edit(first, Some("as it may")).unwrap();
        store.set_edit(first, Some("as it may become")).unwrap();
        drop(store);
        let store = crate::Store::open(&folder.path().join("chats.db")).unwrap();
        let both = [edit(first, "as it may become"), edit(second, "")];
        assert_eq!(store.edits(chat).unwrap(), both);
        assert_eq!(store.edits(other).unwrap(), []);
        let nowhere = store.set_edit(MessageId::new(), Some("lost"));
        assert!(matches!(nowhere, Err(StoreError::NotFound { .. })));

        let token = store.delete_message(second).unwrap();
        assert_eq!(store.edits(chat).unwrap(), both[..1]);
        store.undo_delete(token).unwrap();
        assert_eq!(store.edits(chat).unwrap(), both);
        store.set_edit(first, None).unwrap();
        assert_eq!(store.edits(chat).unwrap(), both[1..]);
        store.delete_message(second).unwrap();
        store.empty_trash().unwrap();
        assert_eq!(store.check().unwrap(), [""; 0]);
    }
}
