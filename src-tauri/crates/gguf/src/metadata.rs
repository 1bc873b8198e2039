//! Metadata by key.

use std::collections::BTreeMap;

use crate::text::shorten;
use crate::value::{FromValue, Stored, Value};

/// A file's metadata: values by key, over the bytes of the mapped file.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a> {
    entries: &'a BTreeMap<String, Stored>,
    file: &'a [u8],
}

/// Why a value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// A key that has to be there.
    #[error("`{key}` is missing")]
    Missing {
        /// The key.
        key: String,
    },
    /// A value of the wrong kind or beyond its limits.
    #[error("`{key}`: expected {expected}, found {found}")]
    Value {
        /// The key.
        key: String,
        /// What would be legal.
        expected: String,
        /// What there is, shortened.
        found: String,
    },
}

impl MetadataError {
    /// The error of a `found` that is not as `expected`.
    pub(crate) fn value(key: &str, expected: impl Into<String>, found: Value<'_>) -> Self {
        Self::Value {
            key: shorten(key),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}

impl<'a> Metadata<'a> {
    pub(crate) fn new(entries: &'a BTreeMap<String, Stored>, file: &'a [u8]) -> Self {
        Self { entries, file }
    }

    /// All keys with their values, in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'a> {
        let file = self.file;
        let entries = self.entries.iter();
        entries.map(move |(key, stored)| (key.as_str(), stored.view(file)))
    }

    /// The value of `key`, whatever it is.
    pub fn value(&self, key: &str) -> Option<Value<'a>> {
        self.entries.get(key).map(|stored| stored.view(self.file))
    }

    /// The value of `key` as a `T`, if the key is there.
    ///
    /// Integers of any width give any integer type that they fit in.
    ///
    /// # Errors
    /// [`MetadataError::Value`] for a value of another kind or beyond `T`.
    pub fn get<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>, MetadataError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match T::from_value(value) {
            Some(value) => Ok(Some(value)),
            None => Err(MetadataError::value(key, T::EXPECTED, value)),
        }
    }

    /// The value of `key` as a `T`.
    ///
    /// # Errors
    /// [`MetadataError`], also where the key is missing.
    pub fn require<T: FromValue<'a>>(&self, key: &str) -> Result<T, MetadataError> {
        self.get(key)?
            .ok_or_else(|| MetadataError::Missing { key: shorten(key) })
    }

    /// A value that some writers give once and some once a layer: the value, or an array's, where
    /// all of its items are equal.
    ///
    /// # Errors
    /// [`MetadataError::Value`], also for an array that is empty or whose items differ.
    pub fn uniform<T: FromValue<'a> + PartialEq>(
        &self,
        key: &str,
    ) -> Result<Option<T>, MetadataError> {
        let Some(Value::Array(array)) = self.value(key) else {
            return self.get(key);
        };
        let wrong = |what: &str| {
            MetadataError::value(key, format!("{}{what}", T::EXPECTED), Value::Array(array))
        };
        let mut items = array.iter().map(T::from_value);
        let first = items
            .next()
            .flatten()
            .ok_or_else(|| wrong(" for each layer"))?;
        for item in items {
            if item.ok_or_else(|| wrong(" for each layer"))? != first {
                return Err(wrong(", the same for each layer"));
            }
        }
        Ok(Some(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::ValueType;

    fn entries(file: &mut Vec<u8>, arrays: &[(&str, &[u32])]) -> BTreeMap<String, Stored> {
        let mut entries = BTreeMap::new();
        for (key, items) in arrays {
            let start = file.len();
            file.extend(items.iter().flat_map(|item| item.to_le_bytes()));
            let array = Stored::Array {
                item: ValueType::U32,
                len: items.len(),
                range: start..file.len(),
            };
            entries.insert((*key).to_owned(), array);
        }
        entries.insert("one".to_owned(), Stored::Scalar(Value::Integer(8)));
        entries.insert("text".to_owned(), Stored::Scalar(Value::Bool(true)));
        entries
    }

    #[test]
    fn an_array_of_equal_values_is_one_value() {
        let mut file = Vec::new();
        let entries = entries(
            &mut file,
            &[("same", &[8, 8, 8]), ("differ", &[8, 8, 4]), ("none", &[])],
        );
        let metadata = Metadata::new(&entries, &file);
        assert_eq!(metadata.uniform::<u32>("one"), Ok(Some(8)));
        assert_eq!(metadata.uniform::<u32>("same"), Ok(Some(8)));
        assert_eq!(metadata.uniform::<u32>("absent"), Ok(None));
        let refusal = |key| metadata.uniform::<u32>(key).unwrap_err().to_string();
        assert!(refusal("differ").contains("the same for each layer, found 3 integers"));
        assert!(refusal("none").contains("found 0 integers"));
        assert!(refusal("text").contains("found true"));
        assert!(metadata.uniform::<bool>("same").is_err());
    }

    #[test]
    fn a_refusal_names_key_and_value() {
        let mut file = Vec::new();
        let entries = entries(&mut file, &[]);
        let metadata = Metadata::new(&entries, &file);
        assert_eq!(
            metadata.require::<&str>("one").unwrap_err().to_string(),
            "`one`: expected a string in UTF-8, found 8"
        );
        assert_eq!(
            metadata.require::<u8>("two").unwrap_err().to_string(),
            "`two` is missing"
        );
        let keys: Vec<&str> = metadata.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["one", "text"]);
    }
}
