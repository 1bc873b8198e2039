//! What a file is that is no export of Octet's, so that it can be refused by its name.
//!
//! Only the outermost keys are looked at, and of lists the first element: these files are large.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, de};

/// Names what begins with `start` and is no text, or none.
pub(crate) fn binary(start: &[u8]) -> Option<&'static str> {
    const MAGIC: &[(&[u8], &str)] = &[
        (b"PK\x03\x04", "a zip archive: unpack it first"),
        (b"PK\x05\x06", "an empty zip archive"),
        (b"\x1f\x8b", "a gzip archive: unpack it first"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
        (b"SQLite format 3\0", "a database"),
        (b"%PDF-", "a PDF"),
        (b"\x89PNG", "a picture"),
        (b"\xff\xd8\xff", "a picture"),
        (b"\xff\xfe", "text in UTF-16: save it as UTF-8"),
        (b"\xfe\xff", "text in UTF-16: save it as UTF-8"),
    ];
    let named = MAGIC.iter().find(|(magic, _)| start.starts_with(magic));
    if let Some((_, name)) = named {
        return Some(name);
    }
    let zeros = |skip: usize| start.iter().skip(skip).step_by(2).all(|byte| *byte == 0);
    match start {
        [] => Some("empty"),
        text if text.trim_ascii().is_empty() => Some("empty"),
        // Every second byte of plain letters, without a mark at the start.
        _ if start.len() >= 8 && (zeros(0) || zeros(1)) => Some("text in UTF-16: save it as UTF-8"),
        _ if start.contains(&0) => Some("not a text file"),
        _ => None,
    }
}

/// Names the program that wrote this JSON, or what else it is; none where it is not known.
pub(crate) fn json(input: impl Read) -> Option<&'static str> {
    let mut keys = Keys::default();
    let mut deserializer = serde_json::Deserializer::from_reader(std::io::BufReader::new(input));
    // A file that is cut off is known by what there is of it.
    let _ = deserializer.deserialize_any(&mut keys);
    keys.name()
}

/// Keys of the outermost object, or of the first object of the outermost list.
#[derive(Default)]
struct Keys {
    is_list: bool,
    outer: BTreeSet<String>,
    /// Of the first element of `messages`.
    message: BTreeSet<String>,
}

impl Keys {
    fn name(&self) -> Option<&'static str> {
        let has = |key: &str| self.outer.contains(key);
        let says = |keys: &BTreeSet<String>| keys.contains("role") && keys.contains("content");
        if has("mapping") && (has("create_time") || has("current_node") || has("conversation_id")) {
            Some("a ChatGPT export")
        } else if has("chat_messages") {
            Some("a Claude export")
        } else if has("chat") && (has("user_id") || has("updated_at") || has("archived")) {
            Some("an Open WebUI export")
        } else if self.message.contains("versions") {
            Some("an LM Studio conversation")
        } else if says(&self.outer) || says(&self.message) {
            Some("a list of messages as OpenAI’s API takes them")
        } else if has("sampling") && has("offload") {
            Some("a file of Octet’s settings")
        } else if self.is_list && self.outer.is_empty() {
            Some("an empty list")
        } else {
            None
        }
    }
}

impl<'de> Visitor<'de> for &mut Keys {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.is_list = true;
        seq.next_element_seed(Object {
            keys: &mut self.outer,
            messages: Some(&mut self.message),
        })?;
        // The others are as the first one.
        Err(A::Error::custom("seen enough"))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        Object {
            keys: &mut self.outer,
            messages: Some(&mut self.message),
        }
        .visit_map(map)
    }
}

/// Collects the keys of an object, and those of the first of its messages.
struct Object<'a> {
    keys: &'a mut BTreeSet<String>,
    messages: Option<&'a mut BTreeSet<String>>,
}

/// Keys that are kept of an object: it may be anything.
const MAX_KEYS: usize = 256;

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let is_messages = key == "messages";
            if self.keys.len() < MAX_KEYS {
                self.keys.insert(key);
            }
            match self.messages.take_if(|_| is_messages) {
                Some(messages) => map.next_value_seed(First(messages))?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A list, of which the first element's keys are collected.
struct First<'a>(&'a mut BTreeSet<String>);

impl<'de> DeserializeSeed<'de> for First<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        struct List<'a>(&'a mut BTreeSet<String>);

        impl<'de> Visitor<'de> for List<'_> {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
                let first = Object {
                    keys: self.0,
                    messages: None,
                };
                seq.next_element_seed(first)?;
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(())
            }
        }

        deserializer.deserialize_any(List(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_of_other_programs_are_known_by_their_keys() {
        for (text, name) in [
            (
                r#"[{"title":"x","create_time":1.5,"mapping":{"a":{}}}]"#,
                "a ChatGPT export",
            ),
            (
                r#"{"mapping":{},"conversation_id":"x"}"#,
                "a ChatGPT export",
            ),
            (
                r#"[{"id":"1","user_id":"u","chat":{"history":{}}}]"#,
                "an Open WebUI export",
            ),
            (
                r#"[{"uuid":"1","name":"x","chat_messages":[]}]"#,
                "a Claude export",
            ),
            (
                r#"{"name":"LM","messages":[{"versions":[]}]}"#,
                "an LM Studio conversation",
            ),
            (
                r#"[{"role":"user","content":"Hello"}]"#,
                "a list of messages as OpenAI’s API takes them",
            ),
            (
                r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text"}]},5]}"#,
                "a list of messages as OpenAI’s API takes them",
            ),
            (
                r#"{"version":1,"sampling":{},"offload":{}}"#,
                "a file of Octet’s settings",
            ),
            ("[]", "an empty list"),
            // Cut off.
            (
                r#"[{"create_time":1.5,"mapping":{"a":{"id"#,
                "a ChatGPT export",
            ),
        ] {
            assert_eq!(json(text.as_bytes()), Some(name), "{text}");
        }
        for text in [
            r#"{"a":1}"#,
            "[1, 2]",
            "[[1]]",
            "nonsense",
            "",
            r#"{"messages":7}"#,
        ] {
            let name = json(text.as_bytes());
            assert!(name.is_none_or(|name| name == "an empty list"), "{text}");
        }
    }

    #[test]
    fn what_is_no_text_is_said() {
        for (start, name) in [
            (&b"PK\x03\x04\0\0"[..], "a zip archive: unpack it first"),
            (b"\xff\xfe{\0", "text in UTF-16: save it as UTF-8"),
            (b"{\0\"\0f\0o\0", "text in UTF-16: save it as UTF-8"),
            (b"", "empty"),
            (b" \n\t ", "empty"),
            (b"SQLite format 3\0", "a database"),
            (b"abc\0def", "not a text file"),
        ] {
            assert_eq!(binary(start), Some(name));
        }
        assert_eq!(binary(b"{\"format\":1}"), None);
        assert_eq!(binary("# Größe".as_bytes()), None);
    }
}
