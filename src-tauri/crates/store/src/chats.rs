//! Chats: what the sidebar shows, and what it does with them.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params};
use serde::{Deserialize, Serialize};

use crate::messages::{self, clean};
use crate::migrate::Migration;
use crate::search::Query;
use crate::title::one_line;
use crate::{
    ChatId, InvalidRequest, Message, MessageId, Result, Store, StoreError, Stored, Timestamp,
};

pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    sql: "
        CREATE TABLE chats (
            key INTEGER PRIMARY KEY,
            id BLOB NOT NULL UNIQUE,
            title TEXT NOT NULL,
            model TEXT,
            system_prompt TEXT,
            pinned INTEGER NOT NULL CHECK (pinned IN (0, 1)),
            created_at INTEGER NOT NULL,
            updated_at INTEGER NOT NULL,
            active_leaf BLOB REFERENCES messages(id) ON DELETE SET NULL
                DEFERRABLE INITIALLY DEFERRED,
            deleted_at INTEGER
        ) STRICT;
        CREATE INDEX chats_order ON chats (pinned, updated_at, id) WHERE deleted_at IS NULL;
        CREATE INDEX chats_deleted ON chats (deleted_at) WHERE deleted_at IS NOT NULL;
        CREATE INDEX chats_leaf ON chats (active_leaf);
    ",
}];

/// Characters of a preview.
const PREVIEW_CHARS: usize = 140;

/// Chats on one page, at most.
const MAX_PAGE: u32 = 1000;

/// Characters of a title, at most; longer ones are cut.
const MAX_TITLE_CHARS: usize = 300;

/// A chat as the list of chats shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct ChatSummary {
    /// Which one.
    pub id: ChatId,
    /// Empty while it has none: nothing was said yet.
    pub title: String,
    /// Kept on top.
    pub pinned: bool,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When something was last said in it.
    pub updated_at: Timestamp,
    /// Messages on all branches.
    pub message_count: u32,
    /// The beginning of the newest message of the active branch, in one line.
    pub preview: String,
}

/// Some chats, in the order of the list: pinned ones first, then by [`ChatSummary::updated_at`],
/// the newest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct ChatPage {
    /// In order.
    pub chats: Vec<ChatSummary>,
    /// For [`ChatFilter::before`], to get the next page. None after the last.
    pub next: Option<String>,
}

/// Which chats to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatFilter {
    /// Only those whose title matches, as in [`Store::search`].
    pub query: Option<String>,
    /// How many, 1 to 1000.
    pub limit: u32,
    /// Where the page before ended: its [`ChatPage::next`].
    pub before: Option<String>,
}

/// A whole chat. Also the form in which chats are exported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Chat {
    /// Which one.
    pub id: ChatId,
    /// Empty while it has none.
    pub title: String,
    /// The model it was begun with.
    pub model: Option<String>,
    /// Instead of the one in the settings.
    pub system_prompt: Option<String>,
    /// Kept on top.
    pub pinned: bool,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When something was last said in it.
    pub updated_at: Timestamp,
    /// The end of the branch that was chosen last; none only of a chat without messages.
    pub active_leaf: Option<MessageId>,
    /// The whole tree, parents before their children.
    #[serde(deserialize_with = "crate::import::bounded_messages")]
    #[cfg_attr(feature = "specta", specta(type = Vec<Message>))]
    pub messages: Vec<Message>,
}

impl Chat {
    /// The messages from the first one to the active leaf.
    pub fn active_branch(&self) -> Vec<&Message> {
        let by_id: HashMap<MessageId, &Message> = self
            .messages
            .iter()
            .map(|message| (message.id, message))
            .collect();
        let leaf = self.active_leaf.and_then(|id| by_id.get(&id).copied());
        let mut branch: Vec<&Message> =
            std::iter::successors(leaf, |message| by_id.get(&message.parent_id?).copied())
                .collect();
        branch.reverse();
        branch
    }

    /// The same with new ids throughout.
    pub(crate) fn with_new_ids(mut self) -> Self {
        let new: HashMap<MessageId, MessageId> = self
            .messages
            .iter()
            .map(|message| (message.id, MessageId::new()))
            .collect();
        let renamed = |id: Option<MessageId>| id.and_then(|id| new.get(&id).copied());
        self.id = ChatId::new();
        self.active_leaf = renamed(self.active_leaf);
        for message in &mut self.messages {
            message.parent_id = renamed(message.parent_id);
            message.id = new[&message.id];
        }
        self
    }
}

/// What a new chat begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewChat {
    /// None: its first message gives one.
    pub title: Option<String>,
    /// The model it is begun with.
    pub model: Option<String>,
    /// Instead of the one in the settings.
    pub system_prompt: Option<String>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Chats, without the deleted ones.
    pub chats: u32,
    /// Their messages, on all branches.
    pub messages: u32,
    /// Deleted chats that can still be restored.
    pub deleted_chats: u32,
}

/// What is gone for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Chats.
    pub chats: usize,
    /// Messages deleted from chats that stay.
    pub messages: usize,
}

impl Store {
    /// Creates an empty chat.
    ///
    /// # Errors
    /// When the database fails.
    pub fn create_chat(&self, new: NewChat) -> Result<ChatSummary> {
        let now = Timestamp::now();
        let chat = Chat {
            id: ChatId::new(),
            title: tidy_title(&new.title.unwrap_or_default()),
            model: new.model,
            system_prompt: new.system_prompt,
            pinned: false,
            created_at: now,
            updated_at: now,
            active_leaf: None,
            messages: Vec::new(),
        };
        self.database().write(|database| {
            insert(database, &chat)?;
            summary(database, chat.id)
        })
    }

    /// A page of chats, pinned ones first, then by the time something was last said.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when `before` is no end of a page, or when the database fails.
    pub fn list_chats(&self, filter: &ChatFilter) -> Result<ChatPage> {
        let before = filter.before.as_deref().map(Cursor::parse).transpose()?;
        let limit = filter.limit.clamp(1, MAX_PAGE);
        let query = filter.query.as_deref().map(Query::parse);
        let mut chats = self
            .database()
            .read(|database| page(database, query.as_ref(), before, limit))?;
        let next = (chats.len() > limit as usize).then(|| {
            chats.truncate(limit as usize);
            chats.last().map(Cursor::after)
        });
        Ok(ChatPage {
            chats,
            next: next.flatten(),
        })
    }

    /// One chat as the list shows it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone, or when the database fails.
    pub fn chat_summary(&self, id: ChatId) -> Result<ChatSummary> {
        self.database().read(|database| summary(database, id))
    }

    /// A chat with all its messages.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone, or when the database fails.
    pub fn chat(&self, id: ChatId) -> Result<Chat> {
        self.database().read(|database| whole(database, id))
    }

    /// Names a chat. Spaces and line breaks become single spaces.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone, or when the database fails.
    pub fn rename_chat(&self, id: ChatId, title: &str) -> Result<()> {
        self.database().write(|database| {
            require(database, id)?;
            set_title(database, id, &tidy_title(title))
        })
    }

    /// Keeps a chat on top of the list, or no longer.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone, or when the database fails.
    pub fn pin_chat(&self, id: ChatId, pinned: bool) -> Result<()> {
        self.database().write(|database| {
            require(database, id)?;
            database.execute("UPDATE chats SET pinned = ?2 WHERE id = ?1", (id, pinned))?;
            Ok(())
        })
    }

    /// Gives a chat a system prompt of its own, or takes it away.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone, or when the database fails.
    pub fn set_system_prompt(&self, id: ChatId, prompt: Option<&str>) -> Result<()> {
        self.database().write(|database| {
            require(database, id)?;
            database.execute(
                "UPDATE chats SET system_prompt = ?2 WHERE id = ?1",
                (id, prompt.map(clean)),
            )?;
            Ok(())
        })
    }

    /// Makes the branch through `message` the active one, down to the leaf below it that was
    /// active last, else the newest. Where the branch ends.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the chat, or the message in it, is gone, or when the
    /// database fails.
    pub fn show_branch(&self, chat: ChatId, message: MessageId) -> Result<MessageId> {
        self.database().write(|database| {
            require(database, chat)?;
            let leaf = messages::leaf_below(database, chat, Some(message))?
                .ok_or_else(|| StoreError::not_found(Stored::Message, message))?;
            set_leaf(database, chat, Some(leaf))?;
            Ok(leaf)
        })
    }

    /// Deletes a chat so that it can be restored until it is purged.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone already, or when the database fails.
    pub fn delete_chat(&self, id: ChatId) -> Result<()> {
        self.database().write(|database| {
            require(database, id)?;
            let sql = "UPDATE chats SET deleted_at = ?2 WHERE id = ?1";
            database.execute(sql, (id, Timestamp::now()))?;
            Ok(())
        })
    }

    /// Takes a chat's deletion back. Nothing happens to one that is not deleted.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone for good, or when the database fails.
    pub fn restore_chat(&self, id: ChatId) -> Result<ChatSummary> {
        self.database().write(|database| {
            database.execute("UPDATE chats SET deleted_at = NULL WHERE id = ?1", [id])?;
            summary(database, id)
        })
    }

    /// A copy of a chat with all its branches, at the top of the list.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone, or when the database fails.
    pub fn duplicate_chat(&self, id: ChatId) -> Result<ChatSummary> {
        self.database().write(|database| {
            let mut copy = whole(database, id)?.with_new_ids();
            if !copy.title.is_empty() {
                copy.title = tidy_title(&format!("{} (2)", copy.title));
            }
            copy.pinned = false;
            copy.updated_at = Timestamp::now();
            for message in &mut copy.messages {
                if message.state == crate::MessageState::Streaming {
                    message.state = crate::MessageState::Interrupted;
                }
            }
            insert(database, &copy)?;
            summary(database, copy.id)
        })
    }

    /// Deletes for good, and at once, what was deleted more than `older_than` ago (zero: all
    /// that was deleted). [`Store::compact`] gives the room back.
    ///
    /// # Errors
    /// When the database fails.
    pub fn purge(&self, older_than: Duration) -> Result<Purged> {
        // A millisecond more, so that zero takes what was deleted in this very one.
        let limit = Timestamp::from_ms(Timestamp::now().before(older_than).ms() + 1);
        let mut purged = Purged {
            messages: self
                .database()
                .write(|database| messages::purge(database, limit))?,
            chats: 0,
        };
        // A few at a time, so that an answer need not wait long to be saved.
        loop {
            let chats = self.database().write(|database| {
                Ok(database.execute(
                    "DELETE FROM chats WHERE key IN
                         (SELECT key FROM chats WHERE deleted_at < ?1 LIMIT 20)",
                    [limit],
                )?)
            })?;
            purged.chats += chats;
            if chats == 0 {
                return Ok(purged);
            }
        }
    }

    /// How much there is.
    ///
    /// # Errors
    /// When the database fails.
    pub fn counts(&self) -> Result<Counts> {
        self.database().read(|database| {
            Ok(database.query_row(
                "SELECT (SELECT count(*) FROM chats WHERE deleted_at IS NULL),
                        (SELECT count(*) FROM chats JOIN messages ON messages.chat_id = chats.id
                         WHERE deleted_at IS NULL AND deletion IS NULL),
                        (SELECT count(*) FROM chats WHERE deleted_at IS NOT NULL)",
                [],
                |row| {
                    Ok(Counts {
                        chats: row.get(0)?,
                        messages: row.get(1)?,
                        deleted_chats: row.get(2)?,
                    })
                },
            )?)
        })
    }
}

/// A title on one line, not too long.
pub(crate) fn tidy_title(title: &str) -> String {
    let words: Vec<&str> = title.split_whitespace().collect();
    let mut title = clean(&words.join(" ")).into_owned();
    if let Some((end, _)) = title.char_indices().nth(MAX_TITLE_CHARS) {
        title.truncate(end);
    }
    title
}

/// The end of a page: what the next one's chats come after.
#[derive(Clone, Copy)]
struct Cursor {
    pinned: bool,
    updated_at: Timestamp,
    id: ChatId,
}

impl Cursor {
    fn after(chat: &ChatSummary) -> String {
        let pinned = u8::from(chat.pinned);
        format!("{pinned}/{}/{}", chat.updated_at.ms(), chat.id)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut parts = text.splitn(3, '/');
        let mut next = || parts.next().unwrap_or_default();
        let (pinned, updated_at, id) = (next(), next(), next());
        match (pinned, updated_at.parse(), id.parse()) {
            ("0" | "1", Ok(ms), Ok(id)) => Ok(Self {
                pinned: pinned == "1",
                updated_at: Timestamp::from_ms(ms),
                id,
            }),
            _ => Err(InvalidRequest::Page(text.to_owned()).into()),
        }
    }
}

/// What [`summary_from_row`] reads, in its order.
const SUMMARY: &str = "
    SELECT id, title, pinned, created_at, updated_at,
        (SELECT count(*) FROM messages WHERE chat_id = chats.id AND deletion IS NULL),
        (SELECT substr(text, 1, 600) FROM messages WHERE id = chats.active_leaf)
    FROM chats WHERE deleted_at IS NULL";

fn summary_from_row(row: &Row<'_>) -> rusqlite::Result<ChatSummary> {
    let preview: Option<String> = row.get(6)?;
    Ok(ChatSummary {
        id: row.get(0)?,
        title: row.get(1)?,
        pinned: row.get(2)?,
        created_at: row.get(3)?,
        updated_at: row.get(4)?,
        message_count: row.get(5)?,
        preview: one_line(&preview.unwrap_or_default(), PREVIEW_CHARS),
    })
}

/// Up to `limit` chats and one more, which tells that there is a next page.
fn page(
    database: &Transaction<'_>,
    query: Option<&Query>,
    before: Option<Cursor>,
    limit: u32,
) -> Result<Vec<ChatSummary>> {
    let mut sql = SUMMARY.to_owned();
    if before.is_some() {
        sql += " AND (pinned, updated_at, id) < (:pinned, :updated_at, :id)";
    }
    let keys = match query {
        Some(query) => Some(query.title_keys(database)?),
        None => None,
    };
    if let Some(keys) = &keys {
        sql += &format!(" AND key IN ({})", keys.join(","));
    }
    sql += " ORDER BY pinned DESC, updated_at DESC, id DESC LIMIT :limit";
    let mut statement = database.prepare(&sql)?;
    let limit = limit + 1;
    let chats = match before {
        Some(end) => statement.query_map(
            named_params! {
                ":pinned": end.pinned,
                ":updated_at": end.updated_at,
                ":id": end.id,
                ":limit": limit,
            },
            summary_from_row,
        )?,
        None => statement.query_map(named_params! { ":limit": limit }, summary_from_row)?,
    };
    Ok(chats.collect::<rusqlite::Result<_>>()?)
}

fn summary(database: &Connection, id: ChatId) -> Result<ChatSummary> {
    let found = database
        .prepare_cached(&format!("{SUMMARY} AND id = ?1"))?
        .query_row([id], summary_from_row)
        .optional()?;
    found.ok_or_else(|| StoreError::not_found(Stored::Chat, id))
}

/// A chat with its messages.
pub(crate) fn whole(database: &Connection, id: ChatId) -> Result<Chat> {
    let found = database
        .prepare_cached(
            "SELECT id, title, model, system_prompt, pinned, created_at, updated_at, active_leaf
             FROM chats WHERE id = ?1 AND deleted_at IS NULL",
        )?
        .query_row([id], |row| {
            Ok(Chat {
                id: row.get(0)?,
                title: row.get(1)?,
                model: row.get(2)?,
                system_prompt: row.get(3)?,
                pinned: row.get(4)?,
                created_at: row.get(5)?,
                updated_at: row.get(6)?,
                active_leaf: row.get(7)?,
                messages: Vec::new(),
            })
        })
        .optional()?;
    let mut chat = found.ok_or_else(|| StoreError::not_found(Stored::Chat, id))?;
    chat.messages = messages::of_chat(database, id)?;
    // A file from elsewhere may name none, or a message that others follow: what follows it, on
    // no branch that is shown, could not be found again.
    chat.active_leaf = match messages::leaf_below(database, id, chat.active_leaf)? {
        None => messages::leaf_below(database, id, None)?,
        leaf => leaf,
    };
    Ok(chat)
}

/// Inserts a chat with its messages as they are. Parents come before their children.
pub(crate) fn insert(database: &Connection, chat: &Chat) -> Result<()> {
    database
        .prepare_cached(
            "INSERT INTO chats
                 (id, title, model, system_prompt, pinned, created_at, updated_at, active_leaf)
             VALUES (:id, :title, :model, :system, :pinned, :created_at, :updated_at, :leaf)",
        )?
        .execute(named_params! {
            ":id": chat.id,
            ":title": clean(&chat.title),
            ":model": chat.model.as_deref().map(clean),
            ":system": chat.system_prompt.as_deref().map(clean),
            ":pinned": chat.pinned,
            ":created_at": chat.created_at,
            ":updated_at": chat.updated_at,
            ":leaf": chat.active_leaf,
        })?;
    for message in &chat.messages {
        messages::insert(database, chat.id, message)?;
    }
    if let Some(leaf) = chat.active_leaf {
        messages::mark_shown(database, chat.id, leaf)?;
    }
    Ok(())
}

/// Checks that a chat is there and not deleted. Its title.
pub(crate) fn require(database: &Connection, id: ChatId) -> Result<String> {
    let title = database
        .prepare_cached("SELECT title FROM chats WHERE id = ?1 AND deleted_at IS NULL")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    title.ok_or_else(|| StoreError::not_found(Stored::Chat, id))
}

pub(crate) fn set_title(database: &Connection, id: ChatId, title: &str) -> Result<()> {
    database.execute("UPDATE chats SET title = ?2 WHERE id = ?1", (id, title))?;
    Ok(())
}

pub(crate) fn active_leaf(database: &Connection, id: ChatId) -> Result<Option<MessageId>> {
    Ok(database
        .prepare_cached("SELECT active_leaf FROM chats WHERE id = ?1")?
        .query_row([id], |row| row.get(0))?)
}

pub(crate) fn set_leaf(database: &Connection, id: ChatId, leaf: Option<MessageId>) -> Result<()> {
    database.execute(
        "UPDATE chats SET active_leaf = ?2 WHERE id = ?1",
        (id, leaf),
    )?;
    match leaf {
        Some(leaf) => messages::mark_shown(database, id, leaf),
        None => Ok(()),
    }
}

/// Something was said in a chat; `leaf`, if given, is now the end of its active branch.
pub(crate) fn touch(database: &Connection, id: ChatId, leaf: Option<MessageId>) -> Result<()> {
    database
        .prepare_cached(
            "UPDATE chats SET updated_at = ?2, active_leaf = coalesce(?3, active_leaf)
             WHERE id = ?1",
        )?
        .execute((id, Timestamp::now(), leaf))?;
    match leaf {
        Some(leaf) => messages::mark_shown(database, id, leaf),
        None => Ok(()),
    }
}
