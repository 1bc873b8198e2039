//! The header of a safetensors file: an 8-byte length, then JSON that places every tensor.
//!
//! Nothing is allocated from a number that the file gives before that number was held against
//! the file's length and [`MAX_HEADER_BYTES`]. Source: the safetensors format description,
//! except that gaps between tensors are accepted.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use octet_files::bytes::{format_bytes, sizes};
use octet_spec::json::{in_key, shorten, twice};

/// The longest header that is read: the format's own limit.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes of the length field in front of the header.
pub const LENGTH_BYTES: u64 = 8;

/// Where every tensor of one file lies.
#[derive(Debug)]
pub struct Header {
    /// By name, as in the file.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Where the tensors' data begins in the file.
    pub data_start: u64,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Shape,
    /// First byte, from the beginning of the file.
    pub start: u64,
    /// One past the last byte, from the beginning of the file; never past the file's end.
    pub end: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        // `parse_header` has checked that the product does not overflow.
        self.shape.dims().iter().product()
    }

    /// The bytes in the file. Call it only where the file's length fits in `usize`.
    pub(crate) fn range(&self) -> Range<usize> {
        let at = |v| usize::try_from(v).expect("BUG: file length was checked to fit in usize");
        at(self.start)..at(self.end)
    }
}

/// Up to [`Shape::MAX_RANK`] dimensions, held inline so that no file can ask for memory with them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [u64; Shape::MAX_RANK],
    rank: usize,
}

impl Shape {
    /// The largest number of dimensions.
    pub const MAX_RANK: usize = 8;

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..self.rank]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dims().fmt(f)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;

        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {} dimensions", Shape::MAX_RANK)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut shape = Shape {
                    dims: [0; Shape::MAX_RANK],
                    rank: 0,
                };
                while let Some(dim) = seq.next_element()? {
                    if shape.rank == Shape::MAX_RANK {
                        return Err(A::Error::invalid_length(shape.rank + 1, &self));
                    }
                    shape.dims[shape.rank] = dim;
                    shape.rank += 1;
                }
                Ok(shape)
            }
        }

        deserializer.deserialize_seq(ShapeVisitor)
    }
}

/// What is wrong with a header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file ends before its header does.
    #[error(
        "the file is cut off within its header ({})",
        sizes(*expected_bytes, *found_bytes, ["expected", "found"])
    )]
    Truncated {
        /// Bytes of length field and header together.
        expected_bytes: u64,
        /// Bytes there are.
        found_bytes: u64,
    },
    /// The header is longer than any real one.
    #[error(
        "not a safetensors file: its header would take {}, and {} is the most",
        format_bytes(*found_bytes),
        format_bytes(MAX_HEADER_BYTES)
    )]
    TooLong {
        /// Bytes the length field asks for.
        found_bytes: u64,
    },
    /// Not UTF-8, not JSON, a tensor named twice, an unknown element type, a wrong field.
    #[error("the header is damaged: {message}")]
    Malformed {
        /// The parser's message, with the tensor's name where there is one.
        message: String,
    },
    /// Shape and element type do not give the tensor's length.
    #[error(
        "tensor `{tensor}`: {form} does not fit the {found_bytes} bytes that its offsets leave"
    )]
    Length {
        /// Which tensor.
        tensor: String,
        /// Its element type and dimensions.
        form: String,
        /// Bytes between its offsets.
        found_bytes: u64,
    },
    /// Offsets that run backwards.
    #[error("tensor `{tensor}`: its data ends at {end} before it begins at {start}")]
    Offsets {
        /// Which tensor.
        tensor: String,
        /// Where it begins in the data.
        start: u64,
        /// Where it ends in the data.
        end: u64,
    },
    /// A tensor that lies beyond the file's end.
    #[error(
        "the file is cut off in tensor `{tensor}` ({})",
        sizes(*expected_bytes, *found_bytes, ["expected", "found"])
    )]
    OutOfFile {
        /// Which tensor.
        tensor: String,
        /// Where it should end in the file (saturating).
        expected_bytes: u64,
        /// Bytes there are.
        found_bytes: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors `{first}` and `{second}` overlap at byte {at}")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The one that begins inside it.
        second: String,
        /// Where the second begins in the file.
        at: u64,
    },
}

/// The length that the first 8 bytes of a file give to its header, checked against the file.
///
/// # Errors
/// [`HeaderError::Truncated`] or [`HeaderError::TooLong`].
pub fn header_len(length_field: [u8; 8], file_len_bytes: u64) -> Result<u64, HeaderError> {
    let len = u64::from_le_bytes(length_field);
    if len > MAX_HEADER_BYTES {
        return Err(HeaderError::TooLong { found_bytes: len });
    }
    if file_len_bytes < LENGTH_BYTES + len {
        return Err(HeaderError::Truncated {
            expected_bytes: LENGTH_BYTES + len,
            found_bytes: file_len_bytes,
        });
    }
    Ok(len)
}

/// Reads the header at the beginning of a file of `file_len_bytes`, of which `bytes` are the
/// first: the whole header at least.
///
/// # Errors
/// [`HeaderError`] where the header is cut off, is not JSON of the expected form, or places a
/// tensor outside the file, over another one, or in a length that its shape does not give.
pub fn parse_header(bytes: &[u8], file_len_bytes: u64) -> Result<Header, HeaderError> {
    let truncated = |expected_bytes| HeaderError::Truncated {
        expected_bytes,
        found_bytes: file_len_bytes.min(bytes.len() as u64),
    };
    let (length_field, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(|| truncated(LENGTH_BYTES))?;
    let len = header_len(*length_field, file_len_bytes)?;
    let json = usize::try_from(len)
        .ok()
        .and_then(|len| rest.get(..len))
        .ok_or_else(|| truncated(LENGTH_BYTES + len))?;

    let RawHeader(raw) = serde_json::from_slice(json).map_err(|e| HeaderError::Malformed {
        message: e.to_string(),
    })?;
    let data_start = LENGTH_BYTES + len;
    let mut tensors = BTreeMap::new();
    for (name, raw) in raw {
        let info = place(&name, raw, data_start, file_len_bytes)?;
        tensors.insert(name, info);
    }
    refuse_overlaps(&tensors)?;
    Ok(Header {
        tensors,
        data_start,
    })
}

fn place(
    name: &str,
    raw: RawTensor,
    data_start: u64,
    file_len_bytes: u64,
) -> Result<TensorInfo, HeaderError> {
    let tensor = || shorten(name);
    let RawTensor {
        dtype,
        shape,
        data_offsets: [start, end],
    } = raw;
    if end < start {
        return Err(HeaderError::Offsets {
            tensor: tensor(),
            start,
            end,
        });
    }
    let len_bytes = shape
        .dims()
        .iter()
        .try_fold(1_u64, |product, &dim| product.checked_mul(dim))
        .and_then(|elements| elements.checked_mul(dtype.bitsize() as u64))
        .filter(|bits| bits.is_multiple_of(8))
        .map(|bits| bits / 8);
    if len_bytes != Some(end - start) {
        return Err(HeaderError::Length {
            tensor: tensor(),
            form: format!("{dtype} {shape:?}"),
            found_bytes: end - start,
        });
    }
    if end > file_len_bytes - data_start {
        return Err(HeaderError::OutOfFile {
            tensor: tensor(),
            expected_bytes: end.saturating_add(data_start),
            found_bytes: file_len_bytes,
        });
    }
    Ok(TensorInfo {
        dtype,
        shape,
        start: data_start + start,
        end: data_start + end,
    })
}

fn refuse_overlaps(tensors: &BTreeMap<String, TensorInfo>) -> Result<(), HeaderError> {
    let mut by_start: Vec<(&String, &TensorInfo)> = tensors
        .iter()
        .filter(|(_, info)| info.start < info.end)
        .collect();
    by_start.sort_by_key(|(_, info)| info.start);
    for pair in by_start.windows(2) {
        let [(first, before), (second, after)] = pair else {
            continue;
        };
        if after.start < before.end {
            return Err(HeaderError::Overlap {
                first: shorten(first),
                second: shorten(second),
                at: after.start,
            });
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: Dtype,
    shape: Shape,
    data_offsets: [u64; 2],
}

struct RawHeader(BTreeMap<String, RawTensor>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<RawHeader, A::Error> {
                let mut tensors = BTreeMap::new();
                while let Some(name) = access.next_key::<String>()? {
                    if name == "__metadata__" {
                        access.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let tensor = access.next_value().map_err(|e| in_key(&name, e))?;
                    if tensors.contains_key(&name) {
                        return Err(twice(&name));
                    }
                    tensors.insert(name, tensor);
                }
                Ok(RawHeader(tensors))
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(json: &str) -> Vec<u8> {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes
    }

    fn parse(json: &str, data_bytes: u64) -> Result<Header, HeaderError> {
        let bytes = file(json);
        parse_header(&bytes, bytes.len() as u64 + data_bytes)
    }

    fn message(json: &str, data_bytes: u64) -> String {
        parse(json, data_bytes).unwrap_err().to_string()
    }

    #[test]
    fn places_tensors_from_the_beginning_of_the_file() {
        let json = r#"{"__metadata__":{"format":"pt"},
            "a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},
            "s":{"dtype":"F16","shape":[],"data_offsets":[12,14]}}"#;
        let header = parse(json, 14).unwrap();
        assert_eq!(header.data_start, 8 + json.len() as u64);
        let a = &header.tensors["a"];
        assert_eq!(
            (a.dtype, a.shape.dims(), a.elements()),
            (Dtype::F16, &[2, 3][..], 6)
        );
        assert_eq!(
            (a.start, a.end),
            (header.data_start, header.data_start + 12)
        );
        assert_eq!(header.tensors["s"].elements(), 1);
    }

    #[test]
    fn lengths_are_held_against_the_file() {
        let long = (MAX_HEADER_BYTES + 1).to_le_bytes();
        assert!(matches!(
            header_len(long, u64::MAX),
            Err(HeaderError::TooLong { .. })
        ));
        assert!(matches!(
            header_len(u64::MAX.to_le_bytes(), u64::MAX),
            Err(HeaderError::TooLong { .. })
        ));
        assert!(matches!(
            header_len(10_u64.to_le_bytes(), 17),
            Err(HeaderError::Truncated {
                expected_bytes: 18,
                found_bytes: 17
            })
        ));
        assert!(matches!(
            parse_header(&[1, 2, 3], 3),
            Err(HeaderError::Truncated {
                expected_bytes: 8,
                found_bytes: 3
            })
        ));
        assert!(matches!(
            parse_header(&100_u64.to_le_bytes(), 1000),
            Err(HeaderError::Truncated {
                expected_bytes: 108,
                found_bytes: 8
            })
        ));
    }

    #[test]
    fn every_refusal_names_its_tensor() {
        let one = |body: &str| format!(r#"{{"w":{{{body}}}}}"#);
        let cases = [
            (
                one(r#""dtype":"F16","shape":[3],"data_offsets":[0,4]"#),
                "does not fit the 4 bytes",
            ),
            (
                one(r#""dtype":"F16","shape":[3],"data_offsets":[6,0]"#),
                "before it begins",
            ),
            (
                one(r#""dtype":"U8","shape":[33],"data_offsets":[0,33]"#),
                "is cut off",
            ),
            (
                one(r#""dtype":"U9","shape":[3],"data_offsets":[0,3]"#),
                "unknown variant",
            ),
            (
                one(r#""dtype":"U8","shape":[-3],"data_offsets":[0,3]"#),
                "invalid value",
            ),
            (
                one(r#""dtype":"U8","data_offsets":[0,3]"#),
                "missing field `shape`",
            ),
            (
                one(r#""dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]"#),
                "at most 8",
            ),
            (
                one(r#""dtype":"I32","shape":[4294967296,4294967296],"data_offsets":[0,0]"#),
                "does not fit",
            ),
        ];
        for (json, expected) in cases {
            let found = message(&json, 32);
            assert!(
                found.contains("`w`") && found.contains(expected),
                "{json}: {found}"
            );
        }
    }

    #[test]
    fn overlaps_and_repeats_are_refused() {
        let u8s = |name: &str, from: u64, to: u64| {
            format!(
                r#""{name}":{{"dtype":"U8","shape":[{}],"data_offsets":[{from},{to}]}}"#,
                to - from
            )
        };
        let overlap = format!("{{{},{}}}", u8s("b", 0, 5), u8s("a", 4, 9));
        assert!(message(&overlap, 9).starts_with("tensors `b` and `a` overlap"));
        let repeat = format!("{{{},{}}}", u8s("a", 0, 5), u8s("a", 5, 9));
        assert!(message(&repeat, 9).contains("`a` is given twice"));
        let gap = format!("{{{},{}}}", u8s("a", 0, 5), u8s("b", 7, 9));
        assert!(parse(&gap, 9).is_ok());
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for json in [
            "",
            "[]",
            "{",
            "null",
            "{\"a\":1}",
            "\u{1}",
            &"[".repeat(10_000),
        ] {
            assert!(
                message(json, 0).starts_with("the header is damaged"),
                "{json}"
            );
        }
    }
}
