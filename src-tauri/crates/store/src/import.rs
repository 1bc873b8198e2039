//! Chats from files.
//!
//! All of a file or nothing. What comes from a file is hostile until checked: sizes are limited,
//! and a chat has to be a tree of its own messages.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use rusqlite::Transaction;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::export::FORMAT;
use crate::{
    Chat, EXPORT_VERSION, Format, ImportError, Message, MessageId, MessageState, Result, Store,
    StoreError, chats, foreign, markdown,
};

/// Bytes of a file, at most.
pub const MAX_IMPORT_BYTES: u64 = 1 << 30;
/// Chats in a file, at most.
pub const MAX_IMPORT_CHATS: usize = 100_000;
/// Messages in a chat, at most.
pub const MAX_IMPORT_MESSAGES: usize = 100_000;
/// Bytes of a message's text, or of a system prompt, at most.
pub const MAX_TEXT_BYTES: usize = 16 << 20;

/// What was imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct ImportResult {
    /// Chats.
    pub chats: u32,
    /// Their messages.
    pub messages: u32,
}

/// Which size of a file may be too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum ImportLimit {
    /// Bytes of the file.
    File,
    /// Chats in the file.
    Chats,
    /// Messages in a chat.
    Messages,
    /// Bytes of what a chat has beside its messages.
    ChatSettings,
    /// Bytes of a message's text.
    MessageText,
}

impl fmt::Display for ImportLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "the file",
            Self::Chats => "the number of chats",
            Self::Messages => "the number of messages in a chat",
            Self::ChatSettings => "the text of a chat's settings",
            Self::MessageText => "the text of a message",
        })
    }
}

/// Why the messages of a chat make no tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatFault {
    /// Two have this id.
    #[error("it has two messages {0}")]
    Twice(MessageId),
    /// The one that was shown last.
    #[error("its active message {0} is missing")]
    LeafMissing(MessageId),
    /// This one follows none that is there.
    #[error("message {0} follows a missing one")]
    ParentMissing(MessageId),
    /// Some follow themselves.
    #[error("some of its messages follow each other in a circle")]
    Circle,
}

impl Store {
    /// Adds the chats of a file that [`Store::export`] wrote, JSON or Markdown, whatever its
    /// name. A chat that is here already, or was, comes in as a copy with new ids. Answers that
    /// were being written are marked interrupted.
    ///
    /// # Errors
    /// [`StoreError::Import`] when the file is not an export, damaged, or too large;
    /// [`StoreError::Io`] when it cannot be read; or when the database fails. Nothing was
    /// imported then.
    pub fn import(&self, path: &Path) -> Result<ImportResult> {
        let failed = |error| StoreError::io("read", path, error);
        let file = File::open(path).map_err(failed)?;
        refuse_above(
            ImportLimit::File,
            file.metadata().map_err(failed)?.len(),
            MAX_IMPORT_BYTES,
        )?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let start = reader.fill_buf().map_err(failed)?;
        if let Some(what) = foreign::binary(start) {
            return Err(ImportError::Foreign { what }.into());
        }
        let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        let format = match start.trim_ascii_start().first() {
            Some(b'{' | b'[') => Format::Json,
            _ => Format::Markdown,
        };
        let refused = match self.import_from(format, reader) {
            Err(StoreError::Import(refused)) if format == Format::Json => refused,
            done => return done,
        };
        // What another program wrote is told apart from an export of ours that is damaged.
        let file = File::open(path).map_err(failed)?;
        Err(match (&refused, foreign::json(file)) {
            (ImportError::NotOurs { .. } | ImportError::Syntax { .. }, Some(what)) => {
                ImportError::Foreign { what }.into()
            }
            _ => refused.into(),
        })
    }

    /// As [`Store::import`], from anything that can be read.
    ///
    /// # Errors
    /// As [`Store::import`].
    pub fn import_from(&self, format: Format, reader: impl Read) -> Result<ImportResult> {
        let mut input = Input {
            inner: reader,
            read_bytes: 0,
        };
        self.database().write(|database| {
            let mut importing = Importing {
                database,
                result: ImportResult::default(),
            };
            let done = match format {
                Format::Json => read_json(&mut input, |chat| importing.add(chat)),
                Format::Markdown => read_markdown(&mut input, |chat| importing.add(chat)),
            };
            refuse_above(ImportLimit::File, input.read_bytes, MAX_IMPORT_BYTES)?;
            done?;
            Ok(importing.result)
        })
    }
}

/// Counts what is read, and ends after the limit.
struct Input<R> {
    inner: R,
    read_bytes: u64,
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = (MAX_IMPORT_BYTES + 1 - self.read_bytes) as usize;
        let room = buffer.len().min(left);
        let count = self.inner.read(&mut buffer[..room])?;
        self.read_bytes += count as u64;
        Ok(count)
    }
}

fn refuse_above(what: ImportLimit, found: u64, limit: u64) -> Result<(), ImportError> {
    if found > limit {
        return Err(ImportError::TooLarge { what, found, limit });
    }
    Ok(())
}

/// A transaction that chats are added in.
struct Importing<'a> {
    database: &'a Transaction<'a>,
    result: ImportResult,
}

impl Importing<'_> {
    fn add(&mut self, mut chat: Chat) -> Result<()> {
        let number = self.result.chats as usize + 1;
        refuse_above(ImportLimit::Chats, number as u64, MAX_IMPORT_CHATS as u64)?;
        check(&mut chat, number)?;
        if self.is_known(&chat)? {
            chat = chat.with_new_ids();
        }
        chats::insert(self.database, &chat)?;
        self.result.chats += 1;
        self.result.messages += chat.messages.len() as u32;
        Ok(())
    }

    fn is_known(&self, chat: &Chat) -> Result<bool> {
        let mut chats = self
            .database
            .prepare_cached("SELECT 1 FROM chats WHERE id = ?1")?;
        let mut messages = self
            .database
            .prepare_cached("SELECT 1 FROM messages WHERE id = ?1")?;
        if chats.exists([chat.id])? {
            return Ok(true);
        }
        for message in &chat.messages {
            if messages.exists([message.id])? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Brings a chat from outside into the form that the store keeps.
fn check(chat: &mut Chat, number: usize) -> Result<(), ImportError> {
    let limit = MAX_TEXT_BYTES as u64;
    for text in chat.system_prompt.iter().chain(&chat.model) {
        refuse_above(ImportLimit::ChatSettings, text.len() as u64, limit)?;
    }
    for message in &mut chat.messages {
        for text in [
            Some(&message.text),
            message.error.as_ref(),
            message.model.as_ref(),
        ] {
            let length = text.map_or(0, String::len) as u64;
            refuse_above(ImportLimit::MessageText, length, limit)?;
        }
        if message.state == MessageState::Streaming {
            message.state = MessageState::Interrupted;
        }
    }
    chat.title = chats::tidy_title(&chat.title);
    put_parents_first(chat).map_err(|fault| ImportError::Chat {
        number,
        title: chat.title.clone(),
        fault,
    })
}

/// Orders messages so that parents precede their children, otherwise as they came. Fails when
/// they are no forest, or the active leaf is none of them.
fn put_parents_first(chat: &mut Chat) -> Result<(), ChatFault> {
    let messages = std::mem::take(&mut chat.messages);
    let mut index_of: HashMap<MessageId, usize> = HashMap::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        if index_of.insert(message.id, index).is_some() {
            return Err(ChatFault::Twice(message.id));
        }
    }
    if let Some(leaf) = chat.active_leaf
        && !index_of.contains_key(&leaf)
    {
        return Err(ChatFault::LeafMissing(leaf));
    }
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); messages.len()];
    let mut ready = BinaryHeap::new();
    for (index, message) in messages.iter().enumerate() {
        match message.parent_id {
            None => ready.push(Reverse(index)),
            Some(parent) => match index_of.get(&parent) {
                Some(&parent) => children[parent].push(index),
                None => return Err(ChatFault::ParentMissing(message.id)),
            },
        }
    }
    let mut slots: Vec<Option<Message>> = messages.into_iter().map(Some).collect();
    while let Some(Reverse(index)) = ready.pop() {
        chat.messages.extend(slots[index].take());
        ready.extend(children[index].iter().map(|&child| Reverse(child)));
    }
    if chat.messages.len() < slots.len() {
        return Err(ChatFault::Circle);
    }
    Ok(())
}

fn read_markdown(input: &mut impl Read, mut add: impl FnMut(Chat) -> Result<()>) -> Result<()> {
    let mut bytes = Vec::new();
    input
        .read_to_end(&mut bytes)
        .map_err(|error| StoreError::io("read", Path::new("the import"), error))?;
    let not_ours = |reason: &str| ImportError::NotOurs {
        reason: reason.to_owned(),
    };
    let text = String::from_utf8(bytes).map_err(|_| not_ours("it is not UTF-8 text"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if !markdown::is_ours(text) {
        return Err(not_ours("it contains no chats").into());
    }
    for chat in markdown::read(text)? {
        let count = chat.messages.len() as u64;
        refuse_above(ImportLimit::Messages, count, MAX_IMPORT_MESSAGES as u64)?;
        add(chat)?;
    }
    Ok(())
}

/// Reads chats one by one, so that only one has to fit into memory.
fn read_json(input: &mut impl Read, add: impl FnMut(Chat) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, input);
    let start = reader
        .fill_buf()
        .map_err(|error| StoreError::io("read", Path::new("the import"), error))?;
    if start.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let mut failure = None;
    let envelope = Envelope {
        add,
        failure: &mut failure,
    };
    let done = deserializer
        .deserialize_map(envelope)
        .and_then(|()| deserializer.end());
    match (failure, done) {
        (Some(failure), _) => Err(failure),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) if error.is_io() => Err(StoreError::io(
            "read",
            Path::new("the import"),
            error.into(),
        )),
        (None, Err(error)) => Err(ImportError::Syntax {
            line: error.line(),
            column: error.column(),
            reason: reason_of(&error),
        }
        .into()),
    }
}

/// The parser's reason without its place, which is said apart.
fn reason_of(error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "it ends in the middle of a chat".to_owned();
    }
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// The outermost object. `failure` takes errors that are not about JSON past serde.
struct Envelope<'a, F> {
    add: F,
    failure: &'a mut Option<StoreError>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Field {
    Format,
    Version,
    Chats,
    #[serde(other)]
    Other,
}

impl<F> Envelope<'_, F> {
    fn fail<T, E: serde::de::Error>(&mut self, error: impl Into<StoreError>) -> Result<T, E> {
        *self.failure = Some(error.into());
        Err(E::custom("see the failure"))
    }
}

impl<'de, F: FnMut(Chat) -> Result<()>> Visitor<'de> for Envelope<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with format, version and chats")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let (mut has_format, mut has_version, mut has_chats) = (false, false, false);
        while let Some(field) = map.next_key()? {
            match field {
                Field::Format => {
                    let format: String = map.next_value()?;
                    if format != FORMAT {
                        let reason = format!("its format is {format:?}");
                        return self.fail(ImportError::NotOurs { reason });
                    }
                    has_format = true;
                }
                Field::Version => {
                    let found: u32 = map.next_value()?;
                    let known = EXPORT_VERSION;
                    if found > known {
                        return self.fail(ImportError::Newer { found, known });
                    }
                    has_version = true;
                }
                Field::Chats if has_format && has_version => {
                    map.next_value_seed(&mut self)?;
                    has_chats = true;
                }
                Field::Chats => {
                    let reason = "format and version do not come before the chats".to_owned();
                    return self.fail(ImportError::NotOurs { reason });
                }
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if has_chats {
            Ok(())
        } else {
            let reason = "it has no chats, format and version".to_owned();
            self.fail(ImportError::NotOurs { reason })
        }
    }
}

impl<'de, F: FnMut(Chat) -> Result<()>> DeserializeSeed<'de> for &mut Envelope<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(ChatList(self))
    }
}

struct ChatList<'a, 'b, F>(&'a mut Envelope<'b, F>);

impl<'de, F: FnMut(Chat) -> Result<()>> Visitor<'de> for ChatList<'_, '_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of chats")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(chat) = seq.next_element()? {
            if let Err(error) = (self.0.add)(chat) {
                return self.0.fail(error);
            }
        }
        Ok(())
    }
}

/// Messages of a chat from a file, refused as soon as there are too many.
pub(crate) fn bounded_messages<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Message>, D::Error> {
    struct Messages;

    impl<'de> Visitor<'de> for Messages {
        type Value = Vec<Message>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of messages")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Message>, A::Error> {
            let mut messages = Vec::new();
            while let Some(message) = seq.next_element()? {
                if messages.len() == MAX_IMPORT_MESSAGES {
                    return Err(A::Error::custom(format_args!(
                        "a chat has more than {MAX_IMPORT_MESSAGES} messages"
                    )));
                }
                messages.push(message);
            }
            Ok(messages)
        }
    }

    deserializer.deserialize_seq(Messages)
}
