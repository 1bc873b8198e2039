//! What to do when [`Store::open`] says that the chats are damaged.
//!
//! Every way keeps the damaged file, renamed to `chats.damaged-DATE.db`, and opens a sound one
//! in its place: [`recover`] with what can be read, [`restore`] from a backup, [`start_empty`].

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, Row, Transaction};
use serde::Serialize;

use crate::database::sibling;
use crate::{
    Chat, ChatId, Message, MessageId, Result, Store, StoreError, Timestamp, backup, chats,
    messages, title_from,
};

/// Rows that are held in memory while they are copied.
const ROWS_AT_ONCE: i64 = 1000;

/// What could be read of a damaged database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Recovered {
    /// Chats.
    pub chats: u32,
    /// Their messages.
    pub messages: u32,
    /// Where the damaged file is now.
    pub damaged: PathBuf,
}

/// Sets the damaged file aside and opens a new one with all chats and messages that can still
/// be read. A message whose predecessor is lost follows the one before it; a chat whose
/// particulars are lost gets its title from its first message. What was deleted stays deleted.
///
/// # Errors
/// When the file cannot be renamed, or the new one not be written; the damaged one is kept.
pub fn recover(path: &Path) -> Result<(Store, Recovered)> {
    let damaged = set_aside(path)?;
    let store = Store::open(path)?;
    let mut recovered = Recovered {
        chats: 0,
        messages: 0,
        damaged,
    };
    match open_damaged(&recovered.damaged) {
        Ok(source) => store.database().write(|database| {
            (recovered.chats, recovered.messages) = salvage(&source, database)?;
            Ok(())
        })?,
        Err(error) => tracing::warn!(%error, "nothing can be read of the damaged chats"),
    }
    Ok((store, recovered))
}

/// Sets the file aside and puts a copy of `backup` in its place. Where the old file is now.
///
/// # Errors
/// When the backup cannot be read or copied, or is damaged itself; then the old file is back in
/// its place.
pub fn restore(path: &Path, backup: &Path) -> Result<(Store, PathBuf)> {
    let copy = sibling(path, ".restoring");
    fs::copy(backup, &copy)
        .and_then(|_| fs::File::options().write(true).open(&copy)?.sync_all())
        .map_err(|error| StoreError::io("copy", backup, error))?;
    let sound = Connection::open_with_flags(&copy, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|copy| copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)))
        .map_err(|error| StoreError::from(error).about(backup))
        .and_then(|health: String| match health.as_str() {
            "ok" => Ok(()),
            _ => Err(StoreError::Damaged {
                path: backup.to_owned(),
                reason: health,
                backup: None,
            }),
        });
    if let Err(error) = sound {
        let _ = fs::remove_file(&copy);
        return Err(error);
    }
    let damaged = set_aside(path)?;
    fs::rename(&copy, path).map_err(|error| StoreError::io("write", path, error))?;
    Ok((Store::open(path)?, damaged))
}

/// Sets the file aside and opens a new, empty one. Where the old file is now.
///
/// # Errors
/// When the file cannot be renamed, or the new one not be written.
pub fn start_empty(path: &Path) -> Result<(Store, PathBuf)> {
    let damaged = set_aside(path)?;
    Ok((Store::open(path)?, damaged))
}

/// Renames the database and its log.
fn set_aside(path: &Path) -> Result<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let date = Timestamp::now().file_name();
    let target = backup::unused(folder, &format!("{}.damaged-{date}", backup::stem(path)));
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (sibling(path, suffix), sibling(&target, suffix));
        if from.exists() {
            fs::rename(&from, &to).map_err(|error| StoreError::io("rename", &from, error))?;
        }
    }
    octet_files::sync_folder(folder);
    Ok(target)
}

fn open_damaged(path: &Path) -> Result<Connection> {
    let source = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(source)
}

/// Copies what can be read. How many chats and messages.
fn salvage(source: &Connection, target: &Transaction<'_>) -> Result<(u32, u32)> {
    let mut found = Found::default();
    let mut deleted = HashSet::new();
    let columns = "id, title, model, system_prompt, pinned, created_at, updated_at, active_leaf, \
                   deleted_at";
    read_around_damage(
        source,
        "chats",
        columns,
        chat_from_row,
        |(chat, is_deleted)| {
            if is_deleted {
                deleted.insert(chat.id);
            } else {
                found.add_chat(target, chat)?;
            }
            Ok(())
        },
    )?;
    let columns = format!("{}, chat_id, deletion IS NOT NULL", messages::COLUMNS);
    read_around_damage(source, "messages", &columns, message_from_row, |row| {
        let (chat, message, is_deleted) = row;
        if !is_deleted && !deleted.contains(&chat) {
            found.add_message(target, chat, message)?;
        }
        Ok(())
    })?;
    found.set_leaves(target)
}

fn chat_from_row(row: &Row<'_>) -> rusqlite::Result<(Chat, bool)> {
    let chat = Chat {
        id: row.get(0)?,
        title: row.get(1)?,
        model: row.get(2)?,
        system_prompt: row.get(3)?,
        pinned: row.get(4)?,
        created_at: row.get(5)?,
        updated_at: row.get(6)?,
        active_leaf: row.get(7)?,
        messages: Vec::new(),
    };
    Ok((chat, row.get::<_, Option<i64>>(8)?.is_some()))
}

fn message_from_row(row: &Row<'_>) -> rusqlite::Result<(ChatId, Message, bool)> {
    let mut message = messages::from_row(row)?;
    if message.state == crate::MessageState::Streaming {
        message.state = crate::MessageState::Interrupted;
    }
    Ok((row.get(9)?, message, row.get(10)?))
}

/// What has been copied so far.
#[derive(Default)]
struct Found {
    /// With the active leaf that it had.
    chats: HashMap<ChatId, Option<MessageId>>,
    messages: HashSet<MessageId>,
    last: HashMap<ChatId, MessageId>,
}

impl Found {
    fn add_chat(&mut self, target: &Transaction<'_>, mut chat: Chat) -> Result<()> {
        if self.chats.contains_key(&chat.id) {
            return Ok(());
        }
        self.chats.insert(chat.id, chat.active_leaf.take());
        chats::insert(target, &chat)
    }

    fn add_message(
        &mut self,
        target: &Transaction<'_>,
        chat: ChatId,
        mut message: Message,
    ) -> Result<()> {
        if !self.messages.insert(message.id) {
            return Ok(());
        }
        if !self.chats.contains_key(&chat) {
            self.add_chat(target, stand_in(chat, &message))?;
        }
        if let Some(parent) = message.parent_id
            && (parent == message.id || !self.messages.contains(&parent))
        {
            message.parent_id = self.last.get(&chat).copied();
        }
        self.last.insert(chat, message.id);
        messages::insert(target, chat, &message)
    }

    fn set_leaves(&self, target: &Transaction<'_>) -> Result<(u32, u32)> {
        for (&chat, &leaf) in &self.chats {
            let leaf = leaf
                .filter(|leaf| self.messages.contains(leaf))
                .or_else(|| self.last.get(&chat).copied());
            chats::set_leaf(target, chat, leaf)?;
        }
        Ok((self.chats.len() as u32, self.messages.len() as u32))
    }
}

/// For a chat of which only messages are left.
fn stand_in(id: ChatId, message: &Message) -> Chat {
    Chat {
        id,
        title: title_from(&message.text),
        model: None,
        system_prompt: None,
        pinned: false,
        created_at: message.created_at,
        updated_at: message.created_at,
        active_leaf: None,
        messages: Vec::new(),
    }
}

/// Gives `keep` every row of `table` that can be read, by rising key. Where reading fails, looks
/// for the next readable row in growing steps, then back from there.
fn read_around_damage<T>(
    source: &Connection,
    table: &str,
    columns: &str,
    from_row: fn(&Row<'_>) -> rusqlite::Result<T>,
    mut keep: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    // NOT INDEXED: an index may be damaged where the table is not.
    let select = format!("SELECT {columns}, key FROM {table} NOT INDEXED WHERE key");
    let read = |order: &str, from: i64, to: i64, limit: i64| {
        let sql = format!("{select} BETWEEN {from} AND {to} ORDER BY key {order} LIMIT {limit}");
        read_until_error(source, &sql, from_row)
    };
    let mut next = 1;
    loop {
        let (rows, is_complete) = read("ASC", next, i64::MAX, ROWS_AT_ONCE);
        let is_last = is_complete && (rows.len() as i64) < ROWS_AT_ONCE;
        for (key, row) in rows {
            next = key.saturating_add(1);
            keep(row)?;
        }
        if is_last {
            return Ok(());
        }
        if is_complete {
            continue;
        }
        let mut beyond = i64::MAX;
        for power in 0..62 {
            let start = next.saturating_add(1 << power);
            let (rows, is_complete) = read("ASC", start, i64::MAX, 1);
            if let Some((key, _)) = rows.first() {
                beyond = *key;
                break;
            }
            if is_complete {
                break;
            }
        }
        let (rows, _) = read("DESC", next, beyond.saturating_sub(1), -1);
        for (_, row) in rows.into_iter().rev() {
            keep(row)?;
        }
        if beyond == i64::MAX {
            return Ok(());
        }
        next = beyond;
    }
}

/// The rows before the first error with their keys, and whether there was none.
fn read_until_error<T>(
    source: &Connection,
    sql: &str,
    from_row: fn(&Row<'_>) -> rusqlite::Result<T>,
) -> (Vec<(i64, T)>, bool) {
    let mut found = Vec::new();
    let mut read = || {
        let mut statement = source.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            found.push((row.get("key")?, from_row(row)?));
        }
        Ok(())
    };
    let done: rusqlite::Result<()> = read();
    (found, done.is_ok())
}
