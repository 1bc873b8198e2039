//! Random values, by a generator whose every word can be told from its number alone.
//!
//! Weights are centred, with a standard deviation of `gain / sqrt(k)`: a product with `k` normed
//! activations then has a standard deviation of `gain`. Embeddings share a part of their variance
//! ([`SHARED_VARIANCE`]), as real ones do, so that some experts are used more than others; the
//! attention output is damped ([`ATTENTION_OUTPUT_GAIN`]), since what attention averages over is
//! alike for all positions and would in the end make all of them route alike.
//!
//! Only additions, multiplications, divisions and square roots go into a value: they are exact to
//! the last bit by IEEE 754, so the bytes are the same on every system.

use std::io::{self, Write};

use half::{bf16, f16};
use octet_kernels::Bits;

/// Bytes that are filled and written at a time.
pub(super) const PIECE_BYTES: usize = 1 << 18;

/// Gain of the attention output projection.
pub(super) const ATTENTION_OUTPUT_GAIN: f64 = 0.5;

/// Share of an embedding's variance that all tokens have in common.
const SHARED_VARIANCE: f64 = 0.2;

/// Standard deviation of the router's logits.
pub(super) const ROUTER_STD: f64 = 1.5;

/// Standard deviation of the output logits.
pub(super) const LOGIT_STD: f64 = 2.5;

/// What a tensor is filled with.
#[derive(Debug, Clone)]
pub(super) enum Fill {
    /// Uniform bytes.
    Bytes,
    /// Ten uniform 3-bit values in an i32, zeros where a row of the packed array has no weight.
    ThreeBit { group_size: usize, n_groups: usize },
    /// Bell-shaped f16 values.
    Bell { mean: f64, std: f64 },
    /// Bell-shaped bf16 values.
    BrainBell { mean: f64, std: f64 },
    /// Bell-shaped f32 values.
    WideBell { mean: f64, std: f64 },
    /// Uniform bytes in blocks of so many, in which some bytes are given: scales.
    Blocks {
        block_bytes: usize,
        given: Vec<(usize, u8)>,
    },
    /// Bell-shaped f16 values about `+mean` or `-mean`, the sign chosen once for a column.
    SignedBell { mean: f64, std: f64, columns: usize },
}

impl Fill {
    pub(super) fn norm() -> Self {
        Fill::Bell {
            mean: 1.0,
            std: 0.1,
        }
    }

    pub(super) fn embedding(hidden: usize) -> Self {
        Fill::SignedBell {
            mean: SHARED_VARIANCE.sqrt(),
            std: (1.0 - SHARED_VARIANCE).sqrt(),
            columns: hidden,
        }
    }

    pub(super) fn router(hidden: usize) -> Self {
        Fill::Bell {
            mean: 0.0,
            std: ROUTER_STD / (hidden as f64).sqrt(),
        }
    }

    pub(super) fn lm_head(hidden: usize) -> Self {
        Fill::Bell {
            mean: 0.0,
            std: LOGIT_STD / (hidden as f64).sqrt(),
        }
    }

    /// Writes `bytes` bytes of it, an own sequence for every key.
    pub(super) fn write(
        &self,
        writer: &mut impl Write,
        (seed, file, tensor): (u64, u64, u64),
        bytes: u64,
        done: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let words = Words {
            key: mix(mix(mix(seed) ^ file) ^ tensor),
        };
        let filler = Filler::new(self, words);
        let mut piece = vec![0; PIECE_BYTES.min(bytes as usize)];
        let mut at = 0;
        while at < bytes {
            let len = (bytes - at).min(PIECE_BYTES as u64) as usize;
            filler.fill(&mut piece[..len], at);
            writer.write_all(&piece[..len])?;
            at += len as u64;
            done(len as u64);
        }
        Ok(())
    }
}

/// The fills of one quantized matrix's tensors.
pub(super) struct MatrixFills {
    pub(super) w_q: Fill,
    pub(super) scale: Fill,
    pub(super) zero: Fill,
    pub(super) meta_scale_scale: Fill,
    pub(super) meta_scale_zero: Fill,
    pub(super) meta_zero_scale: Fill,
    pub(super) meta_zero_zero: Fill,
}

/// Fills that make a matrix of `k` columns have weights of `gain / sqrt(k)`.
pub(super) fn matrix_fills(
    bits: Bits,
    group_size: usize,
    n_groups: usize,
    k: usize,
    gain: f64,
) -> MatrixFills {
    // Scales of the demo spread by about a third of their mean, zeros by a tenth of q's spread;
    // together they widen the weights by a twentieth.
    const WIDENING: f64 = 1.05;
    const U8_MAX: f64 = 255.0;
    let max_q = f64::from(bits.max_q());
    // The standard deviation of uniform integers 0..=max_q.
    let q_std = ((max_q + 1.0) * (max_q + 1.0) / 12.0 - 1.0 / 12.0).sqrt();
    let scale = gain / ((k as f64).sqrt() * q_std * WIDENING);
    let zero = max_q / 2.0;

    // scale = (q + 127.5) * scale / 255, from half to one and a half of the mean.
    let scale_step = scale / U8_MAX;
    // zero = (q - meta_zero) * zero_step, over four tenths of q's spread. The step is taken as
    // f16 will hold it, since the meta zero multiplies its rounding error.
    let zero_step = f16::from_f64(0.4 * q_std / U8_MAX).to_f64();
    let meta_zero = U8_MAX / 2.0 - zero / zero_step;
    let exactly = |mean| Fill::Bell { mean, std: 0.0 };
    MatrixFills {
        w_q: match bits {
            Bits::B3 => Fill::ThreeBit {
                group_size,
                n_groups,
            },
            _ => Fill::Bytes,
        },
        scale: Fill::Bell {
            mean: scale,
            std: 0.25 * scale,
        },
        zero: Fill::Bell {
            mean: zero,
            std: 0.1 * q_std,
        },
        meta_scale_scale: Fill::Bell {
            mean: scale_step,
            std: 0.03 * scale_step,
        },
        meta_scale_zero: Fill::Bell {
            mean: -U8_MAX / 2.0,
            std: 4.0,
        },
        meta_zero_scale: exactly(zero_step),
        meta_zero_zero: exactly(meta_zero),
    }
}

/// Random 64-bit words: word `i` is a hash of `key + i * odd constant` (SplitMix64).
#[derive(Clone, Copy)]
struct Words {
    key: u64,
}

impl Words {
    #[inline]
    fn word(self, i: u64) -> u64 {
        mix(self.key.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

/// A bijection of 64-bit words that scatters near inputs (SplitMix64's finalizer).
#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A fill made ready: tables built, signs drawn.
enum Filler {
    Bytes(Words),
    ThreeBit {
        words: Words,
        row_masks: Vec<u32>,
        n_groups: usize,
    },
    Table {
        words: Words,
        table: Vec<[u8; 2]>,
    },
    WideTable {
        words: Words,
        table: Vec<[u8; 4]>,
    },
    Blocks {
        words: Words,
        block_bytes: usize,
        given: Vec<(usize, u8)>,
    },
    SignedTable {
        words: Words,
        table: Vec<[u8; 2]>,
        offsets: Vec<u16>,
    },
}

/// Random bits that choose a value of a table.
const TABLE_BITS: u32 = 12;
const TABLE_MASK: u64 = (1 << TABLE_BITS) - 1;

impl Filler {
    fn new(fill: &Fill, words: Words) -> Self {
        match *fill {
            Fill::Bytes => Filler::Bytes(words),
            Fill::Blocks {
                block_bytes,
                ref given,
            } => Filler::Blocks {
                words,
                block_bytes,
                given: given.clone(),
            },
            Fill::BrainBell { mean, std } => Filler::Table {
                words,
                table: bell(mean, std)
                    .into_iter()
                    .map(|value| bf16::from_f32(f16::from_le_bytes(value).to_f32()).to_le_bytes())
                    .collect(),
            },
            Fill::WideBell { mean, std } => Filler::WideTable {
                words,
                table: bell(mean, std)
                    .into_iter()
                    .map(|value| f16::from_le_bytes(value).to_f32().to_le_bytes())
                    .collect(),
            },
            Fill::ThreeBit {
                group_size,
                n_groups,
            } => Filler::ThreeBit {
                words,
                row_masks: row_masks(group_size),
                n_groups,
            },
            Fill::Bell { mean, std } => Filler::Table {
                words,
                table: bell(mean, std),
            },
            Fill::SignedBell { mean, std, columns } => {
                let mut table = bell(mean, std);
                table.append(&mut bell(-mean, std));
                let signs = Words {
                    key: mix(words.key),
                };
                let offsets = (0..columns as u64)
                    .map(|column| ((signs.word(column) & 1) as u16) << TABLE_BITS)
                    .collect();
                Filler::SignedTable {
                    words,
                    table,
                    offsets,
                }
            }
        }
    }

    /// Fills `piece`, which begins at byte `at` of the tensor, a multiple of 8.
    fn fill(&self, piece: &mut [u8], at: u64) {
        let first = at / 8;
        match self {
            Filler::Bytes(words) => each_word(*words, first, piece, |word, _, out| {
                out.copy_from_slice(&word.to_le_bytes()[..out.len()]);
            }),
            Filler::ThreeBit {
                words,
                row_masks,
                n_groups,
            } => {
                // A word serves two units; where they are, counted from the first of all.
                let unit = |i: usize| (at / 4) as usize + i;
                each_word(*words, first, piece, |word, i, out| {
                    for (half, out) in out.chunks_exact_mut(4).enumerate() {
                        let mask = row_masks[unit(2 * i + half) / n_groups];
                        let bits = (word >> (32 * half)) as u32 & mask;
                        out.copy_from_slice(&bits.to_le_bytes());
                    }
                });
            }
            Filler::Table { words, table } => each_word(*words, first, piece, |word, _, out| {
                for (lane, out) in out.chunks_exact_mut(2).enumerate() {
                    let value = table[(word >> (16 * lane) & TABLE_MASK) as usize];
                    out.copy_from_slice(&value);
                }
            }),
            Filler::WideTable { words, table } => {
                each_word(*words, first, piece, |word, _, out| {
                    for (lane, out) in out.chunks_exact_mut(4).enumerate() {
                        let value = table[(word >> (32 * lane) & TABLE_MASK) as usize];
                        out.copy_from_slice(&value);
                    }
                });
            }
            Filler::Blocks {
                words,
                block_bytes,
                given,
            } => {
                each_word(*words, first, piece, |word, _, out| {
                    out.copy_from_slice(&word.to_le_bytes()[..out.len()]);
                });
                // The first block may have begun in the piece before.
                let into = at as usize % block_bytes;
                for (offset, byte) in given {
                    let first = (offset + block_bytes - into) % block_bytes;
                    for at in (first..piece.len()).step_by(*block_bytes) {
                        piece[at] = *byte;
                    }
                }
            }
            Filler::SignedTable {
                words,
                table,
                offsets,
            } => {
                let mut column = (at / 2) as usize % offsets.len();
                each_word(*words, first, piece, |word, _, out| {
                    for (lane, out) in out.chunks_exact_mut(2).enumerate() {
                        let index = word >> (16 * lane) & TABLE_MASK;
                        let value = table[index as usize + usize::from(offsets[column])];
                        out.copy_from_slice(&value);
                        column += 1;
                        if column == offsets.len() {
                            column = 0;
                        }
                    }
                });
            }
        }
    }
}

/// Calls `each` with a random word, its number in the piece, and the bytes it is for: 8 of them,
/// fewer at the very end.
#[inline]
fn each_word(
    words: Words,
    first: u64,
    piece: &mut [u8],
    mut each: impl FnMut(u64, usize, &mut [u8]),
) {
    let mut chunks = piece.chunks_exact_mut(8);
    let mut i = 0;
    for out in chunks.by_ref() {
        each(words.word(first + i as u64), i, out);
        i += 1;
    }
    let rest = chunks.into_remainder();
    if !rest.is_empty() {
        each(words.word(first + i as u64), i, rest);
    }
}

/// For each row of the packed 3-bit array, the bits that hold weights: part `p` of row `r` is row
/// `p * rows + r` of `group_size`, in the bits from `3 * (9 - p)` on.
fn row_masks(group_size: usize) -> Vec<u32> {
    let rows = Bits::B3.packed_rows(group_size);
    (0..rows)
        .map(|row| {
            (0..Bits::B3.per_unit())
                .filter(|part| part * rows + row < group_size)
                .fold(0, |mask, part| mask | 7 << (3 * (9 - part)))
        })
        .collect()
}

/// Little-endian f16 values about `mean`, one for each number of [`TABLE_BITS`] bits: the sum of
/// three hexadecimal digits is close to a bell curve, 2.8 standard deviations to either side.
fn bell(mean: f64, std: f64) -> Vec<[u8; 2]> {
    const DIGIT_SUM_MEAN: f64 = 22.5;
    const DIGIT_SUM_VARIANCE: f64 = 63.75;
    let unit = std / DIGIT_SUM_VARIANCE.sqrt();
    (0..1 << TABLE_BITS)
        .map(|i: u32| {
            let sum = (i & 15) + (i >> 4 & 15) + (i >> 8 & 15);
            f16::from_f64(mean + (f64::from(sum) - DIGIT_SUM_MEAN) * unit).to_le_bytes()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(fill: &Fill, bytes: u64) -> Vec<u8> {
        let mut out = Vec::new();
        fill.write(&mut out, (1, 2, 3), bytes, &mut |_| {}).unwrap();
        out
    }

    fn moments(bytes: &[u8]) -> (f64, f64) {
        let values: Vec<f64> = bytes
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64())
            .collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance =
            values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn the_first_bytes_are_these_on_every_system() {
        let bytes = written(&Fill::Bytes, 13);
        let expected = words_of_key(mix(mix(mix(1) ^ 2) ^ 3), 2);
        assert_eq!(bytes, expected[..13]);
        // SplitMix64 with seed 0 begins with this word, by its published reference code.
        assert_eq!(Words { key: 0 }.word(1), 0xe220_a839_7b1d_cdaf);
    }

    fn words_of_key(key: u64, n: u64) -> Vec<u8> {
        (0..n)
            .flat_map(|i| Words { key }.word(i).to_le_bytes())
            .collect()
    }

    #[test]
    fn pieces_join_without_a_seam() {
        let fill = Fill::SignedBell {
            mean: 2.0,
            std: 0.5,
            columns: 7,
        };
        let filler = Filler::new(&fill, Words { key: 5 });
        let mut whole = vec![0; 200];
        filler.fill(&mut whole, 0);
        let mut parts = vec![0; 200];
        let (head, tail) = parts.split_at_mut(88);
        filler.fill(head, 0);
        filler.fill(tail, 88);
        assert_eq!(whole, parts);
        let sign = |i: usize| whole[2 * i + 1] >> 7;
        assert!((0..93).all(|i| sign(i) == sign(i + 7)));
    }

    #[test]
    fn bells_have_their_mean_and_spread() {
        let (mean, std) = moments(&written(
            &Fill::Bell {
                mean: 1.0,
                std: 0.1,
            },
            1 << 17,
        ));
        assert!(
            (mean - 1.0).abs() < 0.002 && (std - 0.1).abs() < 0.002,
            "{mean} {std}"
        );
        let (mean, std) = moments(&written(&Fill::embedding(4096), 1 << 20));
        assert!(
            mean.abs() < 0.03 && (std - 1.0).abs() < 0.02,
            "{mean} {std}"
        );
    }

    #[test]
    fn three_bit_padding_is_zero() {
        // 64 rows in 7 packed rows: the tenth part has one row of weights and six of padding.
        assert_eq!(row_masks(64)[0], 0x3fff_ffff);
        assert!(row_masks(64)[1..].iter().all(|&mask| mask == 0x3fff_fff8));
        let bytes = written(
            &Fill::ThreeBit {
                group_size: 64,
                n_groups: 3,
            },
            7 * 3 * 4,
        );
        let units: Vec<u32> = bytes
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        assert!(units[..3].iter().any(|unit| unit & 7 != 0));
        assert!(
            units[3..]
                .iter()
                .all(|unit| unit & 7 == 0 && unit >> 30 == 0)
        );
    }
}
