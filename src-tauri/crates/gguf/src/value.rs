//! The values of metadata: numbers, texts, and arrays of them.

use std::fmt;
use std::ops::Range;

use crate::text::shorten_bytes;

/// The type of a value or of an array's items, as files number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    pub(crate) fn from_id(id: u32) -> Option<Self> {
        usize::try_from(id)
            .ok()
            .and_then(|id| Self::ALL.get(id))
            .copied()
    }

    pub(crate) fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of one; `None` for strings and arrays.
    pub(crate) fn bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }

    /// The number or truth value in `bytes`; `None` where they are too few, and for a bool that is
    /// neither 0 nor 1.
    pub(crate) fn decode(self, bytes: &[u8]) -> Option<Value<'static>> {
        fn first<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
            bytes.first_chunk::<N>().copied()
        }
        Some(match self {
            Self::U8 => Value::Integer(u8::from_le_bytes(first(bytes)?).into()),
            Self::I8 => Value::Integer(i8::from_le_bytes(first(bytes)?).into()),
            Self::U16 => Value::Integer(u16::from_le_bytes(first(bytes)?).into()),
            Self::I16 => Value::Integer(i16::from_le_bytes(first(bytes)?).into()),
            Self::U32 => Value::Integer(u32::from_le_bytes(first(bytes)?).into()),
            Self::I32 => Value::Integer(i32::from_le_bytes(first(bytes)?).into()),
            Self::U64 => Value::Integer(u64::from_le_bytes(first(bytes)?).into()),
            Self::I64 => Value::Integer(i64::from_le_bytes(first(bytes)?).into()),
            Self::F32 => Value::Float(f32::from_le_bytes(first(bytes)?).into()),
            Self::F64 => Value::Float(f64::from_le_bytes(first(bytes)?)),
            Self::Bool => match first::<1>(bytes)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return None,
            },
            Self::String | Self::Array => return None,
        })
    }

    fn plural(self) -> &'static str {
        match self {
            Self::F32 | Self::F64 => "numbers",
            Self::Bool => "truth values",
            Self::String => "strings",
            Self::Array => "arrays",
            _ => "integers",
        }
    }
}

/// A value as a header holds it: short ones whole, the others by their place in the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stored {
    Scalar(Value<'static>),
    String(Range<usize>),
    Array {
        item: ValueType,
        len: usize,
        range: Range<usize>,
    },
}

impl Stored {
    /// The value over the bytes of the file that it was found in.
    pub(crate) fn view<'a>(&self, file: &'a [u8]) -> Value<'a> {
        let part = |range: &Range<usize>| file.get(range.clone()).unwrap_or_default();
        match self {
            Self::Scalar(value) => *value,
            Self::String(range) => Value::String(part(range)),
            Self::Array { item, len, range } => Value::Array(Array {
                item: *item,
                len: *len,
                bytes: part(range),
            }),
        }
    }
}

/// A value of the metadata. The widths of numbers are the writer's choice and mean nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// A whole number of any of the 8 widths.
    Integer(i128),
    /// An f32 or f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text, which need not be UTF-8.
    String(&'a [u8]),
    /// Values of one type.
    Array(Array<'a>),
}

impl fmt::Display for Value<'_> {
    /// What it is, short enough for a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::String(text) => write!(f, "\"{}\"", shorten_bytes(text)),
            Self::Array(array) => write!(f, "{} {}", array.len, array.item.plural()),
        }
    }
}

/// Numbers, truth values or texts, over the bytes of the file.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    item: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The items in order. They are read as they are asked for, and nothing is allocated.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let Self {
            item,
            len,
            mut bytes,
        } = *self;
        // The header was checked when the file was opened. If the file has changed since, the
        // items end early instead of being read from elsewhere.
        (0..len).map_while(move |_| {
            let take = match item.bytes() {
                Some(size) => size,
                None => {
                    let (len, rest) = bytes.split_first_chunk::<8>()?;
                    bytes = rest;
                    usize::try_from(u64::from_le_bytes(*len)).ok()?
                }
            };
            let (one, rest) = bytes.split_at_checked(take)?;
            bytes = rest;
            match item {
                ValueType::String => Some(Value::String(one)),
                item => item.decode(one),
            }
        })
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} {}]", self.len, self.item.plural())
    }
}

/// A Rust type that a value can be asked for as.
pub trait FromValue<'a>: Sized {
    /// What to call it in a message: "a truth value".
    const EXPECTED: &'static str;

    /// The value, where it is of this kind and fits.
    fn from_value(value: Value<'a>) -> Option<Self>;
}

macro_rules! integers {
    ($($ty:ty: $expected:literal),+) => {$(
        impl FromValue<'_> for $ty {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: Value<'_>) -> Option<Self> {
                match value {
                    Value::Integer(value) => value.try_into().ok(),
                    _ => None,
                }
            }
        }
    )+};
}

integers! {
    u8: "an integer of 0 to 255",
    u16: "an integer of 0 to 65535",
    u32: "an integer of 0 to 2^32 - 1",
    u64: "an integer of 0 or more",
    usize: "an integer of 0 or more",
    i32: "an integer of -2^31 to 2^31 - 1",
    i64: "an integer of -2^63 to 2^63 - 1"
}

impl FromValue<'_> for f64 {
    const EXPECTED: &'static str = "a number";

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Float(value) => Some(value),
            Value::Integer(value) => Some(value as f64),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a truth value";

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string in UTF-8";

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::String(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for Array<'a> {
    const EXPECTED: &'static str = "an array";

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_the_numbers_of_the_format() {
        assert_eq!(ValueType::from_id(7), Some(ValueType::Bool));
        assert_eq!(ValueType::from_id(9), Some(ValueType::Array));
        assert_eq!(ValueType::from_id(12), Some(ValueType::F64));
        assert_eq!(ValueType::from_id(13), None);
        for id in 0..13 {
            assert_eq!(ValueType::from_id(id).map(ValueType::id), Some(id));
        }
    }

    #[test]
    fn integers_are_converted_by_value_and_not_by_width() {
        let minus = ValueType::I8.decode(&[0xff]).unwrap();
        assert_eq!(i64::from_value(minus), Some(-1));
        assert_eq!(u64::from_value(minus), None);
        let large = ValueType::U64.decode(&[0xff; 8]).unwrap();
        assert_eq!(u64::from_value(large), Some(u64::MAX));
        assert_eq!(i64::from_value(large), None);
        let short = ValueType::U64.decode(&[7, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(u8::from_value(short), Some(7));
        assert_eq!(f64::from_value(short), Some(7.0));
        assert_eq!(bool::from_value(short), None);
        assert_eq!(ValueType::Bool.decode(&[2]), None);
        assert_eq!(ValueType::U32.decode(&[1, 2, 3]), None);
    }

    #[test]
    fn an_array_that_changed_under_the_reader_ends_early() {
        let mut bytes = Vec::new();
        for text in ["one", "two", "three"] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        let texts = |bytes: &[u8]| {
            let array = Array {
                item: ValueType::String,
                len: 3,
                bytes,
            };
            array.iter().count()
        };
        assert_eq!(texts(&bytes), 3);
        bytes[11..19].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(texts(&bytes), 1);
        assert_eq!(texts(&[]), 0);
    }
}
