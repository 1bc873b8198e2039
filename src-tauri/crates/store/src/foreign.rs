//! What a file is that is no export of Octet's, so that it can be refused by its name.
//!
//! Only the outermost keys are looked at, and of lists the first element: these files are large.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, Serialize, de};

/// What a file is that Octet did not export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum Foreign {
    /// A zip archive.
    Zip,
    /// A zip archive without files.
    EmptyZip,
    /// A gzip archive.
    Gzip,
    /// A 7z archive.
    SevenZip,
    /// An SQLite database.
    Database,
    /// A PDF.
    Pdf,
    /// A PNG or JPEG picture.
    Picture,
    /// Text in UTF-16.
    Utf16,
    /// Nothing, or white space.
    Empty,
    /// No text.
    Binary,
    /// An export of ChatGPT.
    ChatGpt,
    /// An export of Claude.
    Claude,
    /// An export of Open WebUI.
    OpenWebUi,
    /// A conversation of LM Studio.
    LmStudio,
    /// Messages as OpenAI's API takes them.
    OpenAiMessages,
    /// Octet's own settings.
    OctetSettings,
    /// A list without elements.
    EmptyList,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zip => "a zip archive: unpack it first",
            Self::EmptyZip => "an empty zip archive",
            Self::Gzip => "a gzip archive: unpack it first",
            Self::SevenZip => "a 7z archive: unpack it first",
            Self::Database => "a database",
            Self::Pdf => "a PDF",
            Self::Picture => "a picture",
            Self::Utf16 => "text in UTF-16: save it as UTF-8",
            Self::Empty => "empty",
            Self::Binary => "not a text file",
            Self::ChatGpt => "a ChatGPT export",
            Self::Claude => "a Claude export",
            Self::OpenWebUi => "an Open WebUI export",
            Self::LmStudio => "an LM Studio conversation",
            Self::OpenAiMessages => "a list of messages as OpenAI’s API takes them",
            Self::OctetSettings => "a file of Octet’s settings",
            Self::EmptyList => "an empty list",
        })
    }
}

/// What begins with `start` and is no text, or none.
pub(crate) fn binary(start: &[u8]) -> Option<Foreign> {
    const MAGIC: &[(&[u8], Foreign)] = &[
        (b"PK\x03\x04", Foreign::Zip),
        (b"PK\x05\x06", Foreign::EmptyZip),
        (b"\x1f\x8b", Foreign::Gzip),
        (b"7z\xbc\xaf\x27\x1c", Foreign::SevenZip),
        (b"SQLite format 3\0", Foreign::Database),
        (b"%PDF-", Foreign::Pdf),
        (b"\x89PNG", Foreign::Picture),
        (b"\xff\xd8\xff", Foreign::Picture),
        (b"\xff\xfe", Foreign::Utf16),
        (b"\xfe\xff", Foreign::Utf16),
    ];
    let named = MAGIC.iter().find(|(magic, _)| start.starts_with(magic));
    if let Some((_, what)) = named {
        return Some(*what);
    }
    let zeros = |skip: usize| start.iter().skip(skip).step_by(2).all(|byte| *byte == 0);
    match start {
        [] => Some(Foreign::Empty),
        text if text.trim_ascii().is_empty() => Some(Foreign::Empty),
        // Every second byte of plain letters, without a mark at the start.
        _ if start.len() >= 8 && (zeros(0) || zeros(1)) => Some(Foreign::Utf16),
        _ if start.contains(&0) => Some(Foreign::Binary),
        _ => None,
    }
}

/// By which program this JSON was written, or what else it is; none where it is not known.
pub(crate) fn json(input: impl Read) -> Option<Foreign> {
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
    fn name(&self) -> Option<Foreign> {
        let has = |key: &str| self.outer.contains(key);
        let says = |keys: &BTreeSet<String>| keys.contains("role") && keys.contains("content");
        if has("mapping") && (has("create_time") || has("current_node") || has("conversation_id")) {
            Some(Foreign::ChatGpt)
        } else if has("chat_messages") {
            Some(Foreign::Claude)
        } else if has("chat") && (has("user_id") || has("updated_at") || has("archived")) {
            Some(Foreign::OpenWebUi)
        } else if self.message.contains("versions") {
            Some(Foreign::LmStudio)
        } else if says(&self.outer) || says(&self.message) {
            Some(Foreign::OpenAiMessages)
        } else if has("sampling") && has("offload") {
            Some(Foreign::OctetSettings)
        } else if self.is_list && self.outer.is_empty() {
            Some(Foreign::EmptyList)
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
                Foreign::ChatGpt,
            ),
            (r#"{"mapping":{},"conversation_id":"x"}"#, Foreign::ChatGpt),
            (
                r#"[{"id":"1","user_id":"u","chat":{"history":{}}}]"#,
                Foreign::OpenWebUi,
            ),
            (
                r#"[{"uuid":"1","name":"x","chat_messages":[]}]"#,
                Foreign::Claude,
            ),
            (
                r#"{"name":"LM","messages":[{"versions":[]}]}"#,
                Foreign::LmStudio,
            ),
            (
                r#"[{"role":"user","content":"Hello"}]"#,
                Foreign::OpenAiMessages,
            ),
            (
                r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text"}]},5]}"#,
                Foreign::OpenAiMessages,
            ),
            (
                r#"{"version":1,"sampling":{},"offload":{}}"#,
                Foreign::OctetSettings,
            ),
            ("[]", Foreign::EmptyList),
            // Cut off.
            (
                r#"[{"create_time":1.5,"mapping":{"a":{"id"#,
                Foreign::ChatGpt,
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
            assert!(name.is_none_or(|name| name == Foreign::EmptyList), "{text}");
        }
    }

    #[test]
    fn what_is_no_text_is_said() {
        for (start, name) in [
            (&b"PK\x03\x04\0\0"[..], Foreign::Zip),
            (b"\xff\xfe{\0", Foreign::Utf16),
            (b"{\0\"\0f\0o\0", Foreign::Utf16),
            (b"", Foreign::Empty),
            (b" \n\t ", Foreign::Empty),
            (b"SQLite format 3\0", Foreign::Database),
            (b"abc\0def", Foreign::Binary),
        ] {
            assert_eq!(binary(start), Some(name));
        }
        assert_eq!(binary(b"{\"format\":1}"), None);
        assert_eq!(binary("# Größe".as_bytes()), None);
    }
}
