//! Text that was typed and not sent.

use rusqlite::OptionalExtension;

use crate::messages::clean;
use crate::migrate::Migration;
use crate::{ChatId, Result, Store, chats};

/// `chat_id` is null for the chat that does not exist yet.
pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    sql: "
        CREATE TABLE drafts (
            chat_id BLOB UNIQUE REFERENCES chats(id) ON DELETE CASCADE,
            text TEXT NOT NULL
        ) STRICT;
    ",
}];

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
}

#[cfg(test)]
mod tests {
    use crate::store::tests::scratch;
    use crate::{ChatId, NewChat, StoreError};

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
}
