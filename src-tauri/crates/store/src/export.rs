//! Chats to files.
//!
//! JSON holds everything: an object with `format` ("octet-chats"), `version`, `exportedAt` and
//! `chats`, each a [`Chat`] with the whole tree. Markdown is for reading: the active branch, see
//! `markdown`. Drafts and deleted chats stay here.

use std::io::{self, Write};
use std::path::Path;

use rusqlite::Transaction;
use serde::{Deserialize, Serialize};

use crate::{Chat, ChatId, Result, Store, StoreError, Timestamp, atomic_file, chats, markdown};

/// Version of both formats. A reader refuses later ones.
pub const EXPORT_VERSION: u32 = 1;

/// What the JSON calls itself.
pub(crate) const FORMAT: &str = "octet-chats";

/// Of a file of chats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum Format {
    /// Everything, to be imported again.
    Json,
    /// The active branch, to be read; it can be imported too.
    Markdown,
}

impl Format {
    /// What its file names end with, no dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Markdown => "md",
        }
    }
}

impl Store {
    /// Writes one chat, or all for `None`, to the file `path`, which is replaced as a whole or
    /// left as it was. How many chats.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the chat is gone, [`StoreError::Io`] or
    /// [`StoreError::DiskFull`] when the file cannot be written, or when the database fails.
    pub fn export(&self, chat: Option<ChatId>, format: Format, path: &Path) -> Result<usize> {
        let mut count = 0;
        atomic_file::replace(path, |file| {
            count = self
                .export_to(chat, format, file)
                .map_err(|error| match error {
                    StoreError::Io { source, .. } => StoreError::io("write", path, source),
                    other => other,
                })?;
            Ok(())
        })?;
        Ok(count)
    }

    /// As [`Store::export`], to anything that can be written to.
    ///
    /// # Errors
    /// As [`Store::export`].
    pub fn export_to(
        &self,
        chat: Option<ChatId>,
        format: Format,
        out: &mut impl Write,
    ) -> Result<usize> {
        self.database().read(|database| {
            let ids = match chat {
                Some(id) => vec![id],
                None => all(database)?,
            };
            let mut chats = ids.iter().map(|&id| chats::whole(database, id));
            match format {
                Format::Json => write_json(&mut chats, out)?,
                Format::Markdown => write_markdown(&mut chats, out)?,
            }
            Ok(ids.len())
        })
    }
}

/// The oldest first, so that what is imported again is in the order in which it came to be.
fn all(database: &Transaction<'_>) -> Result<Vec<ChatId>> {
    let mut statement =
        database.prepare("SELECT id FROM chats WHERE deleted_at IS NULL ORDER BY key")?;
    let ids = statement.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

fn write_json(chats: &mut dyn Iterator<Item = Result<Chat>>, out: &mut impl Write) -> Result<()> {
    let now = Timestamp::now().ms();
    write!(
        out,
        "{{\"format\":\"{FORMAT}\",\"version\":{EXPORT_VERSION},\"exportedAt\":{now},\"chats\":["
    )
    .map_err(failed)?;
    for (index, chat) in chats.enumerate() {
        let lead = if index == 0 { "\n" } else { ",\n" };
        out.write_all(lead.as_bytes()).map_err(failed)?;
        serde_json::to_writer(&mut *out, &chat?).map_err(|error| failed(error.into()))?;
    }
    out.write_all(b"\n]}\n").map_err(failed)
}

fn write_markdown(
    chats: &mut dyn Iterator<Item = Result<Chat>>,
    out: &mut impl Write,
) -> Result<()> {
    for (index, chat) in chats.enumerate() {
        let lead = if index == 0 { "" } else { "\n" };
        write!(out, "{lead}{}", markdown::write(&chat?)).map_err(failed)?;
    }
    Ok(())
}

/// [`Store::export`] knows the file's name.
fn failed(error: io::Error) -> StoreError {
    StoreError::io("write", Path::new("the export"), error)
}
