//! The header of a GGUF file: metadata, then type, shape and place of every tensor.
//!
//! Nothing is allocated or skipped by a number that the file gives before that number was held
//! against what is left of the file and the limits below. Source: the GGUF specification
//! (`ggml/docs/gguf.md`) and `gguf.cpp` of llama.cpp; tensors may lie in any order and with gaps.

use std::collections::BTreeMap;

use octet_files::bytes::{format_bytes, sizes};

use crate::metadata::Metadata;
use crate::tensor::{Dims, Span, TensorInfo};
use crate::tensor_type::{TensorType, TypeError};
use crate::text::{shorten, shorten_bytes};
use crate::value::{Stored, Value, ValueType};

/// The longest header that is read. Real ones have up to 20 MB, all but a little of it vocabulary.
pub const MAX_HEADER_BYTES: u64 = 512 << 20;
/// The most keys.
pub const MAX_KEYS: u64 = 1 << 16;
/// The most tensors of a file.
pub const MAX_TENSORS: u64 = 1 << 16;
/// The longest key or name of a tensor, in bytes.
pub const MAX_NAME_BYTES: u64 = 256;
/// The most items of an array.
pub const MAX_ITEMS: u64 = 1 << 24;
/// The largest alignment, in bytes.
pub const MAX_ALIGNMENT: u64 = 1 << 20;

pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
pub(crate) const VERSION: u32 = 3;
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;

/// The least bytes of a key with its value: length, one character, type, a bool.
const MIN_KEY_BYTES: u64 = 8 + 1 + 4 + 1;
/// The least bytes of a tensor's entry: length, one character, one dimension, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// What the header of one file says.
#[derive(Debug)]
pub struct Header {
    /// The format's version: 2 or 3, which differ in nothing that is read.
    pub version: u32,
    /// To what multiple of bytes each tensor is padded.
    pub alignment: u64,
    /// By name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Where the tensors' data begins in the file.
    pub data_start: u64,
    pub(crate) entries: BTreeMap<String, Stored>,
}

impl Header {
    /// The metadata over `bytes`, those that the header was read from.
    pub fn metadata<'a>(&'a self, bytes: &'a [u8]) -> Metadata<'a> {
        Metadata::new(&self.entries, bytes)
    }
}

/// What is wrong with a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Another kind of file.
    #[error("not a GGUF file: it begins with {found}, not with \"GGUF\"")]
    NotGguf {
        /// The first bytes, in quotes.
        found: String,
    },
    /// A file for processors of the other byte order.
    #[error("the file is big-endian; download one for little-endian machines")]
    BigEndian,
    /// A version that is not read.
    #[error("GGUF version {found} is not supported, only 2 and 3; download a current file")]
    Version {
        /// The file's version.
        found: u32,
    },
    /// The file ends before its header does.
    #[error(
        "the file is cut off within its header, in {within} ({}); download it again",
        sizes(*expected_bytes, *found_bytes, ["expected", "found"])
    )]
    Truncated {
        /// What was being read.
        within: String,
        /// Bytes that the file needs at least.
        expected_bytes: u64,
        /// Bytes there are.
        found_bytes: u64,
    },
    /// The header is longer than any real one.
    #[error(
        "the file is damaged: its header is longer than {}, in {within}",
        format_bytes(MAX_HEADER_BYTES)
    )]
    TooLong {
        /// What was being read.
        within: String,
    },
    /// A count beyond any real one.
    #[error("the file is damaged: it claims {found} {what}, and {limit} are the most")]
    TooMany {
        /// Of what.
        what: String,
        /// How many it claims.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A name that is empty or far too long.
    #[error(
        "the file is damaged: the name of {of} has {found_bytes} bytes, not 1 to {MAX_NAME_BYTES}"
    )]
    NameLength {
        /// Of what.
        of: String,
        /// Its length.
        found_bytes: u64,
    },
    /// A name that is no text.
    #[error("the file is damaged: the name of {of} is not UTF-8 (\"{found}\")")]
    NameText {
        /// Of what.
        of: String,
        /// The name, as far as it is text.
        found: String,
    },
    /// A key or a tensor that is there twice.
    #[error("the file is damaged: {what} `{name}` is given twice")]
    Twice {
        /// `key` or `tensor`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A number that is no type of a value.
    #[error("`{key}` has a value of type {found}, which is unknown")]
    ValueType {
        /// The key.
        key: String,
        /// The number.
        found: u32,
    },
    /// An array of arrays.
    #[error("`{key}` is an array of arrays, which is not supported")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// A truth value that is neither.
    #[error("the file is damaged: `{key}` holds a truth value that is neither 0 nor 1")]
    Bool {
        /// The key.
        key: String,
    },
    /// An alignment that is none.
    #[error(
        "`{ALIGNMENT_KEY}` is {found}, where a power of two from 8 to {MAX_ALIGNMENT} is expected"
    )]
    Alignment {
        /// The value.
        found: String,
    },
    /// A shape that no tensor has.
    #[error("the file is damaged: tensor `{tensor}` has {found}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its dimensions and what is wrong with them.
        found: String,
    },
    /// A type that is not read.
    #[error("tensor `{tensor}`: {source}")]
    Type {
        /// The tensor.
        tensor: String,
        /// Why.
        source: TypeError,
    },
    /// Rows that are no whole number of blocks.
    #[error(
        "the file is damaged: tensor `{tensor}` has rows of {found}, which {ty} cannot store (a \
         multiple of {} is needed)",
        ty.block_len()
    )]
    Row {
        /// The tensor.
        tensor: String,
        /// Its type.
        ty: TensorType,
        /// Values in a row.
        found: u64,
    },
    /// A tensor that does not begin where it may.
    #[error("the file is damaged: tensor `{tensor}` begins at {found}, no multiple of {alignment}")]
    Offset {
        /// The tensor.
        tensor: String,
        /// Where it begins in the data.
        found: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor beyond the file's end.
    #[error(
        "the file is cut off in tensor `{tensor}` ({}); download it again",
        sizes(*expected_bytes, *found_bytes, ["expected", "found"])
    )]
    OutOfFile {
        /// The tensor.
        tensor: String,
        /// Where it ends (saturating).
        expected_bytes: u64,
        /// Bytes there are.
        found_bytes: u64,
    },
    /// Two tensors that share bytes.
    #[error("the file is damaged: tensors `{first}` and `{second}` overlap at byte {at}")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The one that begins inside it.
        second: String,
        /// Where the second begins in the file.
        at: u64,
    },
}

/// Reads the header at the beginning of a file of `file_len_bytes`, of which `bytes` are the first:
/// all of them, or [`MAX_HEADER_BYTES`] at least.
///
/// Time and memory are bounded by the header's length; the tensors' data is not looked at.
///
/// # Errors
/// [`HeaderError`] for everything that does not follow the format, and for tensors that overlap or
/// lie outside the file.
pub fn parse_header(bytes: &[u8], file_len_bytes: u64) -> Result<Header, HeaderError> {
    let limit = usize::try_from(MAX_HEADER_BYTES).unwrap_or(usize::MAX);
    let mut cursor = Cursor {
        bytes: &bytes[..bytes.len().min(limit)],
        at: 0,
        file_len_bytes,
    };
    let version = read_version(&mut cursor)?;
    let n_tensors = cursor.count("tensors", MAX_TENSORS, MIN_TENSOR_BYTES)?;
    let n_keys = cursor.count("keys", MAX_KEYS, MIN_KEY_BYTES)?;

    let mut entries = BTreeMap::new();
    for n in 0..n_keys {
        let key = cursor.name(|| format!("key {n}"))?;
        let stored = cursor.value(key)?;
        if entries.insert(key.to_owned(), stored).is_some() {
            return Err(HeaderError::Twice {
                what: "key",
                name: shorten(key),
            });
        }
    }
    let alignment = alignment(&entries)?;

    let mut claimed = BTreeMap::new();
    for n in 0..n_tensors {
        let name = cursor.name(|| format!("tensor {n}"))?;
        let tensor = cursor.tensor(name)?;
        if claimed.insert(name, tensor).is_some() {
            return Err(HeaderError::Twice {
                what: "tensor",
                name: shorten(name),
            });
        }
    }
    // Within a slice, so that nothing overflows.
    let data_start = (cursor.at as u64).next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for (name, tensor) in claimed {
        let info = tensor.place(name, data_start, alignment, file_len_bytes)?;
        tensors.insert(name.to_owned(), info);
    }
    refuse_overlaps(&tensors)?;
    Ok(Header {
        version,
        alignment,
        tensors,
        data_start,
        entries,
    })
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, HeaderError> {
    let start = &cursor.bytes[..cursor.bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(start) {
        return Err(HeaderError::NotGguf {
            found: format!("{:?}", shorten_bytes(start)),
        });
    }
    cursor.take(MAGIC.len() as u64, || "its first bytes".to_owned())?;
    match cursor.u32(|| "its version".to_owned())? {
        version @ 2..=VERSION => Ok(version),
        version if (1..=0xff).contains(&version.swap_bytes()) => Err(HeaderError::BigEndian),
        found => Err(HeaderError::Version { found }),
    }
}

fn alignment(entries: &BTreeMap<String, Stored>) -> Result<u64, HeaderError> {
    let found = match entries.get(ALIGNMENT_KEY) {
        None => return Ok(DEFAULT_ALIGNMENT),
        Some(Stored::Scalar(Value::Integer(found))) => found,
        Some(_) => {
            return Err(HeaderError::Alignment {
                found: "no integer".to_owned(),
            });
        }
    };
    u64::try_from(*found)
        .ok()
        .filter(|&found| is_alignment(found))
        .ok_or_else(|| HeaderError::Alignment {
            found: found.to_string(),
        })
}

/// Whether tensors may be padded to multiples of this.
pub(crate) fn is_alignment(bytes: u64) -> bool {
    bytes.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&bytes)
}

fn refuse_overlaps(tensors: &BTreeMap<String, TensorInfo>) -> Result<(), HeaderError> {
    let mut by_start: Vec<(&String, Span)> = tensors
        .iter()
        .map(|(name, info)| (name, info.span))
        .collect();
    by_start.sort_by_key(|(_, span)| span.start);
    for pair in by_start.windows(2) {
        if let [(first, before), (second, after)] = pair
            && after.start < before.end()
        {
            return Err(HeaderError::Overlap {
                first: shorten(first),
                second: shorten(second),
                at: after.start,
            });
        }
    }
    Ok(())
}

/// A tensor's entry before it is known where the data begins.
struct Claim {
    ty: TensorType,
    dims: Dims,
    offset: u64,
}

impl Claim {
    fn place(
        &self,
        name: &str,
        data_start: u64,
        alignment: u64,
        file_len_bytes: u64,
    ) -> Result<TensorInfo, HeaderError> {
        let tensor = || shorten(name);
        let &Self { ty, dims, offset } = self;
        let shape = |what: &str| HeaderError::Shape {
            tensor: tensor(),
            found: format!("the dimensions {dims:?}, {what}"),
        };
        if dims.as_slice().contains(&0) {
            return Err(shape("of which none can be 0"));
        }
        let (&k, rest) = dims.as_slice().split_first().unwrap_or((&0, &[]));
        if !k.is_multiple_of(ty.block_len() as u64) {
            return Err(HeaderError::Row {
                tensor: tensor(),
                ty,
                found: k,
            });
        }
        let rows = rest
            .iter()
            .try_fold(1_u64, |rows, &dim| rows.checked_mul(dim));
        let len = rows
            .zip(ty.row_bytes(k))
            .and_then(|(rows, row_bytes)| rows.checked_mul(row_bytes))
            .ok_or_else(|| shape("which is more than any file can hold"))?;
        if !offset.is_multiple_of(alignment) {
            return Err(HeaderError::Offset {
                tensor: tensor(),
                found: offset,
                alignment,
            });
        }
        let start = data_start.saturating_add(offset);
        let end = start.saturating_add(len);
        if end > file_len_bytes {
            return Err(HeaderError::OutOfFile {
                tensor: tensor(),
                expected_bytes: end,
                found_bytes: file_len_bytes,
            });
        }
        Ok(TensorInfo {
            ty,
            dims,
            span: Span {
                file: 0,
                start,
                len,
            },
        })
    }
}

/// Reads a header from front to back.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    file_len_bytes: u64,
}

impl<'a> Cursor<'a> {
    /// The next `len` bytes; `within` says of what they are a part.
    fn take(&mut self, len: u64, within: impl Fn() -> String) -> Result<&'a [u8], HeaderError> {
        let rest = &self.bytes[self.at..];
        let found = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        if let Some(found) = found {
            self.at += found.len();
            return Ok(found);
        }
        let expected_bytes = (self.at as u64).saturating_add(len);
        if expected_bytes <= self.file_len_bytes {
            return Err(HeaderError::TooLong { within: within() });
        }
        Err(HeaderError::Truncated {
            within: within(),
            expected_bytes,
            found_bytes: self.file_len_bytes,
        })
    }

    fn number<const N: usize>(
        &mut self,
        within: impl Fn() -> String,
    ) -> Result<[u8; N], HeaderError> {
        let bytes = self.take(N as u64, within)?;
        Ok(*bytes.first_chunk().expect("BUG: as long as asked for"))
    }

    fn u32(&mut self, within: impl Fn() -> String) -> Result<u32, HeaderError> {
        self.number(within).map(u32::from_le_bytes)
    }

    fn u64(&mut self, within: impl Fn() -> String) -> Result<u64, HeaderError> {
        self.number(within).map(u64::from_le_bytes)
    }

    /// How many `what` follow, each of which takes `min_bytes` at least.
    fn count(&mut self, what: &str, limit: u64, min_bytes: u64) -> Result<u64, HeaderError> {
        let found = self.u64(|| format!("the number of {what}"))?;
        if found > limit {
            return Err(HeaderError::TooMany {
                what: what.to_owned(),
                found,
                limit,
            });
        }
        let expected_bytes = self.at as u64 + found * min_bytes;
        if expected_bytes > self.file_len_bytes {
            return Err(HeaderError::Truncated {
                within: format!("its {found} {what}"),
                expected_bytes,
                found_bytes: self.file_len_bytes,
            });
        }
        Ok(found)
    }

    fn name(&mut self, of: impl Fn() -> String) -> Result<&'a str, HeaderError> {
        let len = self.u64(&of)?;
        if len == 0 || len > MAX_NAME_BYTES {
            return Err(HeaderError::NameLength {
                of: of(),
                found_bytes: len,
            });
        }
        let name = self.take(len, &of)?;
        std::str::from_utf8(name).map_err(|_| HeaderError::NameText {
            of: of(),
            found: shorten_bytes(name),
        })
    }

    fn value(&mut self, key: &str) -> Result<Stored, HeaderError> {
        let within = || format!("the value of `{}`", shorten(key));
        match self.value_type(key)? {
            ValueType::String => {
                let len = self.u64(within)?;
                let start = self.at;
                self.take(len, within)?;
                Ok(Stored::String(start..self.at))
            }
            ValueType::Array => self.array(key),
            scalar => {
                let bytes = scalar.bytes().expect("BUG: strings and arrays are above");
                let bytes = self.take(bytes as u64, within)?;
                let value = scalar
                    .decode(bytes)
                    .ok_or_else(|| HeaderError::Bool { key: shorten(key) })?;
                Ok(Stored::Scalar(value))
            }
        }
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType, HeaderError> {
        let found = self.u32(|| format!("the value of `{}`", shorten(key)))?;
        ValueType::from_id(found).ok_or_else(|| HeaderError::ValueType {
            key: shorten(key),
            found,
        })
    }

    fn array(&mut self, key: &str) -> Result<Stored, HeaderError> {
        let within = || format!("the array `{}`", shorten(key));
        let item = self.value_type(key)?;
        if item == ValueType::Array {
            return Err(HeaderError::NestedArray { key: shorten(key) });
        }
        // A string takes its length at least.
        let min_bytes = item.bytes().unwrap_or(8) as u64;
        let len = self.count(
            &format!("items in `{}`", shorten(key)),
            MAX_ITEMS,
            min_bytes,
        )?;
        let start = self.at;
        match item.bytes() {
            Some(bytes) => {
                let bytes = self.take(len * bytes as u64, within)?;
                if item == ValueType::Bool && bytes.iter().any(|&byte| byte > 1) {
                    return Err(HeaderError::Bool { key: shorten(key) });
                }
            }
            None => {
                for _ in 0..len {
                    let len = self.u64(within)?;
                    self.take(len, within)?;
                }
            }
        }
        Ok(Stored::Array {
            item,
            // At most `MAX_ITEMS`.
            len: len as usize,
            range: start..self.at,
        })
    }

    fn tensor(&mut self, name: &str) -> Result<Claim, HeaderError> {
        let within = || format!("the entry of tensor `{}`", shorten(name));
        let rank = self.u32(within)?;
        if rank == 0 || rank > Dims::MAX_RANK as u32 {
            return Err(HeaderError::Shape {
                tensor: shorten(name),
                found: format!("{rank} dimensions, not 1 to {}", Dims::MAX_RANK),
            });
        }
        let mut dims = [0; Dims::MAX_RANK];
        let dims = &mut dims[..rank as usize];
        for dim in dims.iter_mut() {
            *dim = self.u64(within)?;
        }
        let dims = Dims::new(dims).expect("BUG: the rank was checked");
        let id = self.u32(within)?;
        let ty = TensorType::from_id(id).map_err(|source| HeaderError::Type {
            tensor: shorten(name),
            source,
        })?;
        let offset = self.u64(within)?;
        Ok(Claim { ty, dims, offset })
    }
}
