//! Conversations in JSON.

use std::io::{ErrorKind, Read};
use std::path::Path;

use octet_engine::checkpoint::{shorten, without_byte_order_mark};
use octet_engine::prompt::{Message, Role};
use serde::Deserialize;
use serde_json::Value;

/// A conversation from a JSON file, or from standard input (`-`): a list of messages, or an object
/// that has one.
pub fn read_messages(path: &Path) -> anyhow::Result<Vec<Message>> {
    let (shown, read) = if path == Path::new("-") {
        let mut text = Vec::new();
        let read = std::io::stdin().read_to_end(&mut text);
        ("standard input".to_owned(), read.map(|_| text))
    } else {
        (path.display().to_string(), std::fs::read(path))
    };
    let text = read.map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("there is no file {shown}"),
        _ => anyhow::anyhow!("{shown}: {error}"),
    })?;
    parse_messages(&text).map_err(|why| {
        anyhow::anyhow!(
            "{shown}: {why}; expected a JSON list of {{\"role\": \"user\" | \"assistant\" | \
             \"system\", \"content\": \"...\"}}"
        )
    })
}

fn parse_messages(text: &[u8]) -> Result<Vec<Message>, String> {
    let text = without_byte_order_mark(text);
    if text.trim_ascii().is_empty() {
        return Err("the file is empty".to_owned());
    }
    let value: Value =
        serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
    let list = match value {
        Value::Object(mut object) => object.remove("messages"),
        value => Some(value),
    };
    let Some(Value::Array(list)) = list else {
        return Err("there is no list of messages".to_owned());
    };
    let message = |(index, value): (usize, Value)| {
        let wrong = |what: String| format!("message {} of the list: {what}", index + 1);
        let content = match value.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts_text(parts).map_err(wrong)?,
            Some(other) => return Err(wrong(format!("content is {}, not text", kind(other)))),
            None => return Err(wrong("content is missing".to_owned())),
        };
        let role = value
            .get("role")
            .ok_or_else(|| wrong("role is missing".to_owned()))?;
        let role = Role::deserialize(role).map_err(|_| wrong(format!("role is {role}")))?;
        Ok(Message { role, content })
    };
    list.into_iter().enumerate().map(message).collect()
}

/// The text of a message whose content is a list of parts, each on a line of its own.
fn parts_text(parts: &[Value]) -> Result<String, String> {
    let texts: Result<Vec<&str>, String> = parts
        .iter()
        .enumerate()
        .map(|(index, part)| {
            let wrong = |what: String| format!("part {} of the content is {what}", index + 1);
            match (part, &part["type"], &part["text"]) {
                (Value::String(text), ..) => Ok(text.as_str()),
                (_, Value::String(kind), Value::String(text)) if kind == "text" => {
                    Ok(text.as_str())
                }
                (_, Value::Null, Value::String(text)) => Ok(text.as_str()),
                (_, Value::String(kind), _) if kind != "text" => {
                    let kind = shorten(kind);
                    Err(wrong(format!("of type {kind:?}; only text can be read")))
                }
                _ => Err(wrong(
                    "not {\"type\": \"text\", \"text\": \"...\"}".to_owned(),
                )),
            }
        })
        .collect();
    Ok(texts?.join("\n"))
}

/// What a JSON value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_messages_is_told_by_its_place() {
        let good = r#"[{"role": "user", "content": "Hi"}]"#;
        let with_mark = format!("\u{feff}{good}");
        let object = format!(r#"{{"messages": {good}}}"#);
        for text in [good, &with_mark, &object] {
            let messages = parse_messages(text.as_bytes()).expect(text);
            assert_eq!(messages, [Message::new(Role::User, "Hi")]);
        }
        let first = r#"{"role": "user", "content": "Hi"}"#;
        for (second, expected) in [
            (
                r#"{"role": "tool", "content": "x"}"#,
                "message 2 of the list: role is \"tool\"",
            ),
            (
                r#"{"role": "user", "content": {}}"#,
                "message 2 of the list: content is an object",
            ),
            (
                r#"{"content": "x"}"#,
                "message 2 of the list: role is missing",
            ),
            ("7", "message 2 of the list: content is missing"),
            ("{", "line 2 column"),
        ] {
            let text = format!("[{first},\n{second}]");
            let message = parse_messages(text.as_bytes()).expect_err("refused");
            assert!(message.contains(expected), "{message}");
        }
        assert!(
            parse_messages(b"3")
                .expect_err("refused")
                .contains("no list")
        );
    }

    #[test]
    fn content_may_be_a_list_of_text_parts() {
        let read = |content: &str| {
            parse_messages(format!(r#"[{{"role": "user", "content": {content}}}]"#).as_bytes())
        };
        let parts = r#"[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]"#;
        for (content, text) in [(parts, "a\nb"), (r#"["a"]"#, "a"), ("[]", "")] {
            let messages = read(content).expect(content);
            assert_eq!(messages, [Message::new(Role::User, text)]);
        }
        for (content, expected) in [
            (
                r#"[{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]"#,
                "message 1 of the list: part 2 of the content is of type \"image_url\"",
            ),
            (
                r#"[{"type": "text"}]"#,
                "part 1 of the content is not {\"type\"",
            ),
            ("[7]", "part 1 of the content is not"),
        ] {
            let message = read(content).expect_err("refused");
            assert!(message.contains(expected), "{message}");
        }
    }
}
