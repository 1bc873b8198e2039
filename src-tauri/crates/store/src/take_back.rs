//! Taking back what nobody has begun to answer: as if it had not been asked.
//!
//! Nothing is kept to undo this: the person has the words back already.

use crate::messages::{Message, end, require_streaming};
use crate::{MessageId, Result, Store, chats};

impl Store {
    /// Removes the answer `id`, which is being written and empty, with the question `said` if
    /// that was asked for it alone; `leaf` is active then.
    ///
    /// # Errors
    /// As [`Store::update_answer`], or when something follows what is to be removed.
    pub fn withdraw_answer(
        &self,
        id: MessageId,
        said: Option<MessageId>,
        leaf: Option<MessageId>,
    ) -> Result<()> {
        self.database().write(|database| {
            let (chat, _) = require_streaming(database, id)?;
            chats::set_leaf(database, chat, leaf)?;
            for id in [Some(id), said].into_iter().flatten() {
                database.execute("DELETE FROM messages WHERE id = ?1", [id])?;
            }
            Ok(())
        })
    }

    /// Makes an answer that was to be continued what it was `before`; `leaf` is active then.
    ///
    /// # Errors
    /// As [`Store::update_answer`].
    pub fn restore_answer(&self, before: &Message, leaf: Option<MessageId>) -> Result<()> {
        self.database().write(|database| {
            let (chat, _) = require_streaming(database, before.id)?;
            end(database, before)?;
            chats::set_leaf(database, chat, leaf)
        })
    }
}
