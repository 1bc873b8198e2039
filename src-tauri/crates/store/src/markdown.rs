//! A chat as Markdown, to be read by people, and back.
//!
//! Comments that no reader shows say where a chat and each message begin:
//!
//! ```text
//! <!-- octet:chat {"version":1,"title":"Offloading",...} -->
//! # Offloading
//!
//! <!-- octet:message {"role":"user","createdAt":1795473674123,...} -->
//! ## You
//!
//! What is an expert?
//!
//! <!-- octet:message {"role":"assistant",...} -->
//! ...
//! ```
//!
//! A line of a message that would be taken for such a comment gets a backslash before it.

use std::borrow::Cow;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::{
    Chat, ChatId, EXPORT_VERSION, ImportError, Message, MessageId, MessageState, Role, Timestamp,
};

const MARK: &str = "<!-- octet:";
const CHAT: &str = "<!-- octet:chat ";
const MESSAGE: &str = "<!-- octet:message ";
const END: &str = " -->";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChatHead<'a> {
    version: u32,
    title: Cow<'a, str>,
    model: Option<Cow<'a, str>>,
    system_prompt: Option<Cow<'a, str>>,
    pinned: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageHead<'a> {
    role: Role,
    created_at: Timestamp,
    state: MessageState,
    model: Option<Cow<'a, str>>,
    error: Option<Cow<'a, str>>,
}

/// The active branch of a chat.
pub(crate) fn write(chat: &Chat) -> String {
    let mut out = mark(
        CHAT,
        &ChatHead {
            version: EXPORT_VERSION,
            title: (&chat.title).into(),
            model: chat.model.as_deref().map(Cow::from),
            system_prompt: chat.system_prompt.as_deref().map(Cow::from),
            pinned: chat.pinned,
            created_at: chat.created_at,
            updated_at: chat.updated_at,
        },
    );
    let title = if chat.title.is_empty() {
        "Chat"
    } else {
        &chat.title
    };
    let _ = writeln!(out, "# {title}\n\n{}", chat.created_at.minute());
    for message in chat.active_branch() {
        out.push('\n');
        write_message(&mut out, message);
    }
    out
}

fn write_message(out: &mut String, message: &Message) {
    *out += &mark(
        MESSAGE,
        &MessageHead {
            role: message.role,
            created_at: message.created_at,
            state: message.state,
            model: message.model.as_deref().map(Cow::from),
            error: message.error.as_deref().map(Cow::from),
        },
    );
    let _ = match (message.role, &message.model) {
        (Role::User, _) => writeln!(out, "## You\n"),
        (Role::Assistant, None) => writeln!(out, "## Answer\n"),
        (Role::Assistant, Some(model)) => writeln!(out, "## {}\n", model.replace('\n', " ")),
    };
    for line in message.text.split_inclusive('\n') {
        if is_mark(line) {
            out.push('\\');
        }
        *out += line;
    }
    out.push('\n');
}

/// A comment that holds JSON. Nothing in it can end it.
fn mark(kind: &str, head: &impl Serialize) -> String {
    let json = serde_json::to_string(head).expect("BUG: plain fields are always JSON");
    let json = json.replace('<', "\\u003c").replace('>', "\\u003e");
    format!("{kind}{json}{END}\n")
}

/// A comment of ours, or one behind backslashes.
fn is_mark(line: &str) -> bool {
    line.trim_start_matches('\\').starts_with(MARK)
}

/// Whether a file has chats written by [`write`].
pub(crate) fn is_ours(text: &str) -> bool {
    text.starts_with(CHAT) || text.contains(&format!("\n{CHAT}"))
}

/// Reads what [`write`] wrote, one or more chats. They have new ids.
pub(crate) fn read(text: &str) -> Result<Vec<Chat>, ImportError> {
    // Some editors change every line's end.
    let text: Cow<'_, str> = match text.find(CHAT) {
        Some(at) if has_crlf(&text[at..]) => text.replace("\r\n", "\n").into(),
        _ => text.into(),
    };
    let mut chats: Vec<Chat> = Vec::new();
    let mut lines = text.split_inclusive('\n').enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        if let Some(json) = head_of(line, CHAT) {
            chats.push(read_chat(json, index + 1)?);
        } else if let Some(json) = head_of(line, MESSAGE) {
            let head = json_of(json, index + 1)?;
            let mut body = String::new();
            while let Some((_, line)) = lines.next_if(|(_, line)| !line.starts_with(MARK)) {
                let line = if is_mark(line) { &line[1..] } else { line };
                body += line;
            }
            let is_last = lines.peek().is_none();
            let chat = chats.last_mut().ok_or_else(|| ImportError::Syntax {
                line: index + 1,
                column: 1,
                reason: "a message before the first chat".to_owned(),
            })?;
            push_message(chat, head, text_of(&body, is_last));
        }
    }
    Ok(chats)
}

/// Whether the first line ends with a carriage return too.
fn has_crlf(text: &str) -> bool {
    text.split_inclusive('\n')
        .next()
        .is_some_and(|line| line.ends_with("\r\n"))
}

/// A body without its heading and the line breaks that [`write`] put around the text.
fn text_of(body: &str, is_last: bool) -> &str {
    let text = match body.strip_prefix("## ") {
        Some(heading) => heading.split_once('\n').map_or("", |(_, text)| text),
        None => body,
    };
    let text = text.strip_prefix('\n').unwrap_or(text);
    let end = if is_last { "\n" } else { "\n\n" };
    text.strip_suffix(end)
        .unwrap_or_else(|| text.trim_end_matches('\n'))
}

fn head_of<'a>(line: &'a str, kind: &str) -> Option<&'a str> {
    line.trim_end().strip_prefix(kind)?.strip_suffix(END)
}

fn json_of<'a, T: Deserialize<'a>>(json: &'a str, line: usize) -> Result<T, ImportError> {
    serde_json::from_str(json).map_err(|error| ImportError::Syntax {
        line,
        column: error.column(),
        reason: error.to_string(),
    })
}

fn read_chat(json: &str, line: usize) -> Result<Chat, ImportError> {
    let head: ChatHead<'_> = json_of(json, line)?;
    if head.version > EXPORT_VERSION {
        return Err(ImportError::Newer {
            found: head.version,
            known: EXPORT_VERSION,
        });
    }
    Ok(Chat {
        id: ChatId::new(),
        title: head.title.into_owned(),
        model: head.model.map(Cow::into_owned),
        system_prompt: head.system_prompt.map(Cow::into_owned),
        pinned: head.pinned,
        created_at: head.created_at,
        updated_at: head.updated_at,
        active_leaf: None,
        messages: Vec::new(),
    })
}

fn push_message(chat: &mut Chat, head: MessageHead<'_>, text: &str) {
    let id = MessageId::new();
    chat.messages.push(Message {
        id,
        parent_id: chat.active_leaf.replace(id),
        role: head.role,
        text: text.to_owned(),
        created_at: head.created_at,
        state: head.state,
        stats: None,
        model: head.model.map(Cow::into_owned),
        error: head.error.map(Cow::into_owned),
    });
}
