//! The inner loops, once per instruction set, behind one table of function pointers.
//!
//! Every level runs the same integer arithmetic; only the order of f32 sums differs. [`scalar`] is
//! the reference and always there.

use std::sync::OnceLock;

use crate::blocks::BlockType;
use crate::layout::Bits;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
mod common;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

pub(crate) use blocks::{
    BlockRows, BlockTile, Layout, TILE_ROWS, TileLayout, TileSpace, XBlock, span_start,
};

/// Columns that share a scale in a quantized group input.
pub(crate) const BLOCK: usize = 256;
/// Columns of an integer tile: short enough that i32 sums cannot overflow.
pub(crate) const KB_I16: usize = 512;
/// Columns of an f32 tile: as many bytes as an integer one.
pub(crate) const KB_F32: usize = 256;
/// Rows of a tile.
pub(crate) const TILE: usize = 16;
/// Columns that share a scale in a [`crate::Q8Matrix`].
pub(crate) const Q8_BLOCK: usize = 64;
/// The largest magnitude in a block of `table`: leaves i16 room for rounding.
pub(crate) const U_MAX: f32 = 30_000.0;
/// The largest magnitude of a tile's weights before rounding; at most 8 more after.
pub(crate) const W_MAX: f32 = 8_150.0;
/// The largest magnitude of a product's activations: `8191 * 4095 * 64 < 2^31`.
pub(crate) const X_MAX: f32 = 4_095.0;

/// An instruction set that has kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// Plain Rust: the reference.
    Scalar,
    /// 128-bit NEON, on every 64-bit Arm.
    Neon,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512,
}

impl Level {
    /// All levels, the slowest first.
    pub const ALL: [Level; 4] = [Level::Scalar, Level::Neon, Level::Avx2, Level::Avx512];

    /// The fastest level here, or the one that [`Level::wanted`] limits it to. Read once; a value
    /// that is an error there is ignored here.
    pub fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let here = |level: &Level| level.is_available();
            let best = Self::ALL.into_iter().rfind(here).unwrap_or(Level::Scalar);
            Self::wanted().ok().flatten().unwrap_or(best)
        })
    }

    /// The level that the environment variable `OCTET_KERNELS` names (`scalar`, `neon`, `avx2`,
    /// `avx512`), if it does.
    ///
    /// # Errors
    /// [`LevelError`] for another value, or a level that this machine lacks.
    pub fn wanted() -> Result<Option<Self>, LevelError> {
        let Some(wanted) = std::env::var_os("OCTET_KERNELS") else {
            return Ok(None);
        };
        Self::parse(&wanted.to_string_lossy())
    }

    fn parse(wanted: &str) -> Result<Option<Self>, LevelError> {
        let level = match wanted.trim().to_ascii_lowercase().as_str() {
            "" => return Ok(None),
            "scalar" => Level::Scalar,
            "neon" => Level::Neon,
            "avx2" => Level::Avx2,
            "avx512" => Level::Avx512,
            _ => {
                return Err(LevelError::Unknown {
                    found: wanted.chars().take(40).collect(),
                });
            }
        };
        match level.is_available() {
            true => Ok(Some(level)),
            false => Err(LevelError::NotHere {
                name: level.name(),
                best: Self::ALL
                    .into_iter()
                    .rfind(|level| level.is_available())
                    .unwrap_or(Level::Scalar)
                    .name(),
            }),
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Level::Scalar => true,
            Level::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::is_available(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// As people call it, for example `AVX2+FMA+F16C`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Neon => "NEON",
            Level::Avx2 => "AVX2+FMA+F16C",
            Level::Avx512 => "AVX-512 VNNI",
        }
    }
}

/// Why the kernels that `OCTET_KERNELS` names cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LevelError {
    /// There are none of this name.
    #[error(
        "OCTET_KERNELS is {found:?}; give scalar, neon, avx2 or avx512, or unset it to use the \
         fastest"
    )]
    Unknown {
        /// The value.
        found: String,
    },
    /// This processor cannot run them.
    #[error(
        "OCTET_KERNELS asks for {name}, which this processor lacks; unset it to use the fastest \
         that it has, {best}"
    )]
    NotHere {
        /// Those asked for.
        name: &'static str,
        /// The fastest here.
        best: &'static str,
    },
}

/// What `group_input` reads: one group row and the tables of one token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupInput<'a> {
    /// `k` quantized scales.
    pub scale_q: &'a [u8],
    /// `k` quantized zeros.
    pub zero_q: &'a [u8],
    /// Multipliers and offsets of each block, from `table`.
    pub table: &'a [[i16; 2 * BLOCK]],
    /// The value of one unit of each block, from `table`.
    pub unit: &'a [f32],
    /// The zeros' meta scale.
    pub zero_scale: f32,
    /// The zeros' meta zero.
    pub zero_zero: f32,
    /// Where the next group row's scales and zeros start: read ahead.
    pub ahead: [*const u8; 2],
}

/// One part of packed units: `part` counts from the highest bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Units<'a> {
    pub bits: Bits,
    pub bytes: &'a [u8],
    pub part: usize,
}

/// A row of units, the quantized group input, its block scales, where to read ahead, the sums of
/// the parts.
pub(crate) type Dot = unsafe fn(&[u8], &[i8], &[f32], *const u8, &mut [f32]);

/// The inner loops of one level.
///
/// # Safety
/// All functions have the same contract: the CPU has the level's features. A table is handed out
/// by [`Kernels::of`] only where that is so. Pointers named `ahead` are only ever prefetched.
///
/// Shapes: `q` and `d` hold whole blocks, zero beyond the row's end; `x` and `acc` one entry a
/// token.
#[allow(clippy::type_complexity)] // the comment on each field says what the arguments are
pub(crate) struct Kernels {
    pub level: Level,
    /// `x`, meta scale and meta zero of up to [`BLOCK`] columns: writes the block's integer
    /// multipliers and offsets; returns the value of one unit. With `v = scale_q - 128`, a column's
    /// `scale * x` is `((v * 256 * a) / 2^15 - b)` units.
    pub table: unsafe fn(&[f32], &[f32], &[f32], &mut [i16; 2 * BLOCK]) -> f32,
    /// Quantizes `u = scale * x` of a group row to 8 bits a block; returns the sum of `zero * u`.
    pub group_input: unsafe fn(GroupInput<'_>, &mut [i8], &mut [f32]) -> f32,
    /// The same for one block whose `u` and `zero` are there in f32; also returns the scale.
    pub quantize: unsafe fn(&[f32], &[f32], &mut [i8; BLOCK]) -> (f32, f32),
    /// Sums of 2-bit units: 4 parts.
    pub dot2: Dot,
    /// Sums of 3-bit units: 10 parts.
    pub dot3: Dot,
    /// Sums of 4-bit units: 2 parts.
    pub dot4: Dot,
    /// `out = (q - zero) * scale` for u8 `q`.
    pub affine: unsafe fn(&[u8], &[f32], &[f32], &mut [f32]),
    /// Scales and zeros in f32 to integers for `fill_i16` of weights up to `max_q`; returns the
    /// value of one unit.
    pub params_i16: unsafe fn(u32, &[f32], &[f32], &mut [i16], &mut [i16]) -> f32,
    /// `out = q * scale - zero`.
    pub fill_i16: unsafe fn(Units<'_>, &[i16], &[i16], &mut [i16]),
    /// `out = round((q - zero) * scale * inverse_unit)`.
    pub fill_round: unsafe fn(Units<'_>, &[f32], &[f32], f32, &mut [i16]),
    /// `out = (q - zero) * scale`.
    pub fill_f32: unsafe fn(Units<'_>, &[f32], &[f32], &mut [f32]),
    /// `x` to `e^(x - most)`, `most` the largest of `x` and a number; returns it and the sum.
    pub exp_from: unsafe fn(&mut [f32], f32) -> (f32, f32),
    /// Rounds `x` to integers up to a maximum; returns the value of one unit.
    pub round_x: unsafe fn(&[f32], f32, &mut [i16]) -> f32,
    /// `acc[token][row] += w_units[row] * units[token] * (tile[row] . x[token])` over `len`
    /// columns, for `rows` rows; both multiples of what pads them (32 and 4).
    pub mul_i16: MulI16,
    /// `acc[token][row] += tile[row] . x[token]`, as `mul_i16`.
    pub mul_f32: MulF32,
    /// Little-endian f16 to f32.
    pub f16_to_f32: unsafe fn(&[u8], &mut [f32]),
    /// f32 to little-endian f16, to nearest even.
    pub f32_to_f16: unsafe fn(&[f32], &mut [u8]),
    /// The dot product of f32 and little-endian f16.
    pub dot_f16: unsafe fn(&[f32], &[u8]) -> f32,
    /// `y += alpha * x` for little-endian f16 `x`.
    pub axpy_f16: unsafe fn(f32, &[u8], &mut [f32]),
    /// The dot product of blocks of i8 and i16, each block with its two scales; and read ahead.
    pub dot_q8: unsafe fn(&[[i8; Q8_BLOCK]], &[f32], &[[i16; Q8_BLOCK]], &[f32], *const u8) -> f32,
    /// The weights of whole blocks in f32.
    pub block_values: unsafe fn(BlockType, &[u8], &mut [f32]),
    /// The order of activations for `block_rows`.
    pub block_layout: fn(BlockType) -> &'static Layout,
    /// Rounds 256 activations to 8 bits, in an order.
    pub block_x: unsafe fn(&Layout, &[f32], &mut XBlock),
    /// Products of some rows with some tokens: `out[token][row]`.
    pub block_rows: unsafe fn(&BlockRows<'_>, &mut [f32]),
    /// The order of activations for `block_tile`.
    pub tile_layout: fn(BlockType) -> TileLayout,
    /// Adds the products of some rows with many tokens to their sums, by token.
    pub block_tile: unsafe fn(&BlockTile<'_>, &mut TileSpace, &mut [[f32; TILE_ROWS]]),
    /// The dot product of f32 and little-endian weights of a float type.
    pub dot_floats: unsafe fn(BlockType, &[f32], &[u8]) -> f32,
}

/// Tile, its rows and columns, its units by row; `x`, its units; sums.
pub(crate) type MulI16 = unsafe fn(
    &[[i16; KB_I16]; TILE],
    (usize, usize),
    &[f32; TILE],
    &[[i16; KB_I16]],
    &[f32],
    &mut [[f32; TILE]],
);
/// Tile, its rows and columns; `x`; sums.
pub(crate) type MulF32 =
    unsafe fn(&[[f32; KB_F32]; TILE], (usize, usize), &[[f32; KB_F32]], &mut [[f32; TILE]]);

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.level.name())
    }
}

impl Kernels {
    /// The table of `level`, or of the best level here below it.
    pub(crate) fn of(level: Level) -> &'static Self {
        let found = Level::ALL
            .into_iter()
            .rfind(|l| *l <= level && l.is_available());
        match found.unwrap_or(Level::Scalar) {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => &avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => &avx2::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Level::Neon => &neon::KERNELS,
            _ => &scalar::KERNELS,
        }
    }

    /// The best table here.
    pub(crate) fn best() -> &'static Self {
        Self::of(Level::best())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_of_levels_that_are_here_are_taken() {
        assert_eq!(Level::parse(""), Ok(None));
        assert_eq!(Level::parse("Scalar"), Ok(Some(Level::Scalar)));
        let unknown = Level::parse("sse9").expect_err("refused").to_string();
        assert!(unknown.contains("\"sse9\"; give scalar, neon"), "{unknown}");
        let (here, foreign) = match cfg!(target_arch = "aarch64") {
            true => ("neon", "avx2"),
            false => ("scalar", "neon"),
        };
        assert!(matches!(Level::parse(here), Ok(Some(_))));
        let foreign = Level::parse(foreign).expect_err("refused").to_string();
        assert!(foreign.contains("this processor lacks"), "{foreign}");
    }
}
