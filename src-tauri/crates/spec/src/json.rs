//! JSON read with care: an object refuses a key given twice, and what is echoed stays short.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

/// A JSON object in which every key occurs once. (Maps elsewhere silently keep the last.)
#[derive(Debug)]
pub struct UniqueMap<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UniqueVisitor<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for UniqueVisitor<V> {
            type Value = UniqueMap<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut map = BTreeMap::new();
                while let Some(key) = access.next_key::<String>()? {
                    let value = access.next_value().map_err(|e| in_key(&key, e))?;
                    if map.contains_key(&key) {
                        return Err(twice(&key));
                    }
                    map.insert(key, value);
                }
                Ok(UniqueMap(map))
            }
        }

        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

/// The error for a key that an object gives twice.
pub fn twice<E: Error>(key: &str) -> E {
    E::custom(format_args!("`{}` is given twice", shorten(key)))
}

/// An error in the value of `key`, with the key's name: serde's own message has none.
pub fn in_key<E: Error>(key: &str, error: E) -> E {
    E::custom(format_args!("`{}`: {error}", shorten(key)))
}

/// `text` without the byte order mark that editors on Windows begin UTF-8 files with, and that JSON
/// does not know.
pub fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// At most 80 characters of text from a file, printable, for an error message.
pub fn shorten(text: &str) -> String {
    const LIMIT: usize = 80;
    let mut short: String = text
        .chars()
        .take(LIMIT)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(LIMIT).is_some() {
        short.push('\u{2026}');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_given_twice_is_refused_by_name() {
        let error = serde_json::from_str::<UniqueMap<u8>>(r#"{"a":1,"b":2,"a":1}"#).unwrap_err();
        assert!(
            error.to_string().starts_with("`a` is given twice"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_key() {
        let error = serde_json::from_str::<UniqueMap<u8>>(r#"{"a":1,"b":"x"}"#).unwrap_err();
        assert!(
            error.to_string().starts_with("`b`: invalid type"),
            "{error}"
        );
    }

    #[test]
    fn echoed_text_is_short_and_printable() {
        assert_eq!(shorten("w1\n\u{0}"), "w1\u{fffd}\u{fffd}");
        assert_eq!(shorten(&"é".repeat(500)).chars().count(), 81);
    }
}
