//! The element types of tensors: how many values a block has, in how many bytes, and which bytes of
//! it are floats.
//!
//! Numbers and block sizes are those of ggml (`ggml.h`, `ggml-common.h`).

use std::fmt;

/// How the values of a tensor are stored: in blocks of some values along a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)] // The names under which everybody knows them.
#[allow(missing_docs)] // The table below says what there is to say.
pub enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

/// Why a type number of a file is no [`TensorType`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TypeError {
    /// A type that ggml has given up.
    #[error(
        "type {name} ({id}) no longer exists; download a file that was made for current programs"
    )]
    Removed {
        /// Its number.
        id: u32,
        /// Its name when it existed.
        name: &'static str,
    },
    /// A type that ggml has and Octet does not.
    #[error("type {name} ({id}) is not supported; choose another quantization of this model")]
    Unsupported {
        /// Its number.
        id: u32,
        /// Its name.
        name: &'static str,
    },
    /// A number that no type is known to have.
    #[error("type {id} is unknown: the file is damaged, or made for a newer program")]
    Unknown {
        /// The number.
        id: u32,
    },
}

/// What is to be known of a type.
struct Traits {
    id: u32,
    name: &'static str,
    /// Values in a block.
    values: u32,
    /// Bytes of a block.
    bytes: u32,
    /// Where in a block its f16 scales and minima lie.
    halves: &'static [usize],
}

const fn traits(
    id: u32,
    name: &'static str,
    values: u32,
    bytes: u32,
    halves: &'static [usize],
) -> Traits {
    Traits {
        id,
        name,
        values,
        bytes,
        halves,
    }
}

impl TensorType {
    /// Every type that can be read, in the order of their numbers.
    pub const ALL: [Self; 21] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ2_XXS,
        Self::IQ2_XS,
        Self::IQ3_XXS,
        Self::IQ4_NL,
        Self::IQ3_S,
        Self::IQ2_S,
        Self::IQ4_XS,
        Self::BF16,
        Self::MXFP4,
    ];

    const fn traits(self) -> Traits {
        match self {
            Self::F32 => traits(0, "F32", 1, 4, &[]),
            Self::F16 => traits(1, "F16", 1, 2, &[0]),
            Self::Q4_0 => traits(2, "Q4_0", 32, 18, &[0]),
            Self::Q4_1 => traits(3, "Q4_1", 32, 20, &[0, 2]),
            Self::Q5_0 => traits(6, "Q5_0", 32, 22, &[0]),
            Self::Q5_1 => traits(7, "Q5_1", 32, 24, &[0, 2]),
            Self::Q8_0 => traits(8, "Q8_0", 32, 34, &[0]),
            Self::Q2_K => traits(10, "Q2_K", 256, 84, &[80, 82]),
            Self::Q3_K => traits(11, "Q3_K", 256, 110, &[108]),
            Self::Q4_K => traits(12, "Q4_K", 256, 144, &[0, 2]),
            Self::Q5_K => traits(13, "Q5_K", 256, 176, &[0, 2]),
            Self::Q6_K => traits(14, "Q6_K", 256, 210, &[208]),
            Self::IQ2_XXS => traits(16, "IQ2_XXS", 256, 66, &[0]),
            Self::IQ2_XS => traits(17, "IQ2_XS", 256, 74, &[0]),
            Self::IQ3_XXS => traits(18, "IQ3_XXS", 256, 98, &[0]),
            Self::IQ4_NL => traits(20, "IQ4_NL", 32, 18, &[0]),
            Self::IQ3_S => traits(21, "IQ3_S", 256, 110, &[0]),
            Self::IQ2_S => traits(22, "IQ2_S", 256, 82, &[0]),
            Self::IQ4_XS => traits(23, "IQ4_XS", 256, 136, &[0]),
            Self::BF16 => traits(30, "BF16", 1, 2, &[]),
            Self::MXFP4 => traits(39, "MXFP4", 32, 17, &[]),
        }
    }

    /// The type that a file calls `id`.
    ///
    /// # Errors
    /// [`TypeError`] for types that are gone, that are not supported, and for numbers that mean
    /// nothing.
    pub fn from_id(id: u32) -> Result<Self, TypeError> {
        if let Some(found) = Self::ALL.into_iter().find(|ty| ty.id() == id) {
            return Ok(found);
        }
        let removed = |name| Err(TypeError::Removed { id, name });
        let unsupported = |name| Err(TypeError::Unsupported { id, name });
        match id {
            4 => removed("Q4_2"),
            5 => removed("Q4_3"),
            31 => removed("Q4_0_4_4"),
            32 => removed("Q4_0_4_8"),
            33 => removed("Q4_0_8_8"),
            36 => removed("IQ4_NL_4_4"),
            37 => removed("IQ4_NL_4_8"),
            38 => removed("IQ4_NL_8_8"),
            9 => unsupported("Q8_1"),
            15 => unsupported("Q8_K"),
            19 => unsupported("IQ1_S"),
            24 => unsupported("I8"),
            25 => unsupported("I16"),
            26 => unsupported("I32"),
            27 => unsupported("I64"),
            28 => unsupported("F64"),
            29 => unsupported("IQ1_M"),
            34 => unsupported("TQ1_0"),
            35 => unsupported("TQ2_0"),
            40 => unsupported("NVFP4"),
            41 => unsupported("Q1_0"),
            42 => unsupported("Q2_0"),
            _ => Err(TypeError::Unknown { id }),
        }
    }

    /// Its number in files.
    pub const fn id(self) -> u32 {
        self.traits().id
    }

    /// Its name, as in the names of files.
    pub const fn name(self) -> &'static str {
        self.traits().name
    }

    /// Values in a block; a row is a whole number of blocks.
    pub const fn block_len(self) -> usize {
        self.traits().values as usize
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.traits().bytes as usize
    }

    /// Whether each value is a float of its own: F32, F16 or BF16.
    pub const fn is_float(self) -> bool {
        self.block_len() == 1
    }

    /// Bytes of a row of `k` values; `None` where that is no whole number of blocks, or too many.
    pub fn row_bytes(self, k: u64) -> Option<u64> {
        let Traits { values, bytes, .. } = self.traits();
        if !k.is_multiple_of(u64::from(values)) {
            return None;
        }
        (k / u64::from(values)).checked_mul(u64::from(bytes))
    }

    /// Where in a block its f16 scale lies, and behind it its minimum if it has one.
    pub const fn half_offsets(self) -> &'static [usize] {
        self.traits().halves
    }

    /// The first block of `bytes`, a whole number of blocks, that holds a NaN or an infinity: in a
    /// value (F32, F16, BF16), a scale or a minimum. An MXFP4 exponent of 255 is NaN by the OCP
    /// standard.
    pub fn first_non_finite(self, bytes: &[u8]) -> Option<usize> {
        let Traits {
            bytes: block_bytes,
            halves,
            ..
        } = self.traits();
        match self {
            // Most of a model's floats are in short tensors, its blocks in long ones. For both the
            // compiler makes a loop without branches of the inner `fold`.
            Self::F32 => first_block(bytes, 4, |b| (b[3] & 0x7f == 0x7f) & (b[2] & 0x80 != 0)),
            Self::BF16 => first_block(bytes, 2, |b| (b[1] & 0x7f == 0x7f) & (b[0] & 0x80 != 0)),
            Self::MXFP4 => first_block(bytes, block_bytes as usize, |b| b[0] == 0xff),
            _ => first_block(bytes, block_bytes as usize, |b| {
                halves
                    .iter()
                    .fold(false, |any, &at| any | (b[at + 1] & 0x7c == 0x7c))
            }),
        }
    }
}

/// The first block for which `bad` holds. Looks at some thousand bytes without leaving early.
fn first_block(bytes: &[u8], block_bytes: usize, bad: impl Fn(&[u8]) -> bool) -> Option<usize> {
    const BLOCKS: usize = 256;
    let groups = bytes.chunks(block_bytes * BLOCKS).enumerate();
    for (group, bytes) in groups {
        let blocks = || bytes.chunks_exact(block_bytes);
        if blocks().fold(false, |any, block| any | bad(block)) {
            return blocks().position(&bad).map(|at| group * BLOCKS + at);
        }
    }
    None
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_a_type_or_a_reason() {
        let mut previous = None;
        for ty in TensorType::ALL {
            assert_eq!(TensorType::from_id(ty.id()), Ok(ty));
            assert!(previous < Some(ty.id()), "{ty} is out of order");
            previous = Some(ty.id());
        }
        let reason = |id| TensorType::from_id(id).unwrap_err().to_string();
        assert!(reason(4).contains("Q4_2 (4) no longer exists"));
        assert!(reason(38).contains("IQ4_NL_8_8"));
        assert!(reason(40).contains("NVFP4 (40) is not supported"));
        assert!(reason(43).contains("type 43 is unknown"));
        assert!(reason(u32::MAX).contains("4294967295"));
        let known = (0..100).filter(|&id| {
            !matches!(
                TensorType::from_id(id),
                Err(TypeError::Unknown { .. } | TypeError::Removed { .. })
            )
        });
        assert_eq!(known.count(), 21 + 14);
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(TensorType::Q4_K.row_bytes(4096), Some(16 * 144));
        assert_eq!(TensorType::Q4_K.row_bytes(2880), None);
        assert_eq!(TensorType::MXFP4.row_bytes(2880), Some(90 * 17));
        assert_eq!(TensorType::BF16.row_bytes(3), Some(6));
        assert_eq!(TensorType::F32.row_bytes(u64::MAX / 2), None);
    }

    #[test]
    fn a_value_that_is_not_finite_is_found_in_any_block_and_nowhere_else() {
        const BLOCKS: usize = 700;
        for ty in TensorType::ALL {
            let size = ty.block_bytes();
            // 0x3c is 1.0 in the upper byte of an f16, and finite in the other floats.
            let clean = vec![0x3c_u8; BLOCKS * size];
            assert_eq!(ty.first_non_finite(&clean), None, "{ty}");
            let bad: Vec<(usize, &[u8])> = match ty {
                TensorType::F32 => vec![(0, &[0, 0, 0x80, 0x7f]), (0, &[0, 0, 0x80, 0xff])],
                TensorType::BF16 => vec![(0, &[0x80, 0x7f]), (0, &[0x81, 0xff])],
                TensorType::MXFP4 => vec![(0, &[0xff])],
                _ => {
                    let halves = ty.traits().halves;
                    halves.iter().map(|&at| (at, &[1, 0xfc][..])).collect()
                }
            };
            assert!(!bad.is_empty());
            for (at, pattern) in bad {
                for block in [0, 1, 255, 256, BLOCKS - 1] {
                    let mut bytes = clean.clone();
                    let start = block * size + at;
                    bytes[start..start + pattern.len()].copy_from_slice(pattern);
                    assert_eq!(ty.first_non_finite(&bytes), Some(block), "{ty} at {at}");
                }
            }
            // Quantized values may be any bytes: only the floats among them count.
            if !ty.is_float() {
                let mut bytes = vec![0xfe_u8; size];
                for &at in ty.traits().halves {
                    bytes[at..at + 2].copy_from_slice(&[0xff, 0x7b]);
                }
                assert_eq!(ty.first_non_finite(&bytes), None, "{ty}");
            }
        }
    }
}
