//! Matrix kernels for CPUs on the layouts of files, HQQ's packed one and GGUF's blocks: nothing is
//! repacked, so a mapped file or a cache slot is multiplied as it lies.
//!
//! - [`QMatrix`], [`BlockMatrix`]: one quantized matrix, borrowed; [`Matrix`]: either of them.
//!   [`matmul`]: products with one or several.
//! - [`Q8Matrix`] with [`matmul_q8`], and [`matmul_f16`]: dense matrices (`lm_head`, the router).
//! - [`ops`]: norms, softmax and activations. [`Rotary`]: rotary positions. [`KvCache`], [`attend`]:
//!   attention over an f16 cache. [`half_ops`]: f16 slices.
//! - [`Pool`]: the threads. [`Scratch`]: the work space, kept from call to call.
//!
//! # Glossary
//! - `n`, `k`: rows (out) and columns (in) of a matrix; `t`: tokens, rows of the input.
//! - *group*: the `group_size` weights that share a scale and a zero. *Group row*: the groups of
//!   `k` neighbouring columns, which serve `group_size` rows of the matrix.
//! - *unit*: what the packing fills, a byte or (3 bits) an `i32`; *part*: which weight of a unit,
//!   counted from the highest bits. *Packed row*: the `k` units of one or more rows' weights.
//! - *meta*: of the second quantization, that of the scales and zeros themselves.
//! - *block*: columns that share a step after rounding, or what a [`BlockType`] stores together;
//!   *span*: the blocks of 256 columns; *tile*: dequantized rows by columns.
//! - *level*: an instruction set with kernels of its own, [`Level`].
#![warn(missing_docs)]

#[cfg(target_endian = "big")]
compile_error!("the kernels read little-endian file bytes in place");

mod attention;
mod blocks;
mod cpu;
pub mod cuda;
mod dense;
mod exp;
pub mod half_ops;
mod kv_cache;
mod layout;
mod matmul;
mod matrix;
mod matvec;
pub mod ops;
mod outliers;
mod params;
mod pool;
mod precision;
mod product;
mod rotary;
mod scratch;

pub use attention::{Cached, Heads, attend};
pub use blocks::{BlockError, BlockMatrix, BlockType};
pub use cpu::{Level, LevelError};
pub use dense::{Q8Matrix, matmul_f16, matmul_q8};
pub use kv_cache::KvCache;
pub use layout::{Bits, GroupParam, LayoutError, QMatrix};
pub use matmul::{Job, matmul};
pub use matrix::Matrix;
pub use pool::Pool;
pub use precision::Precision;
pub use product::{dequantize, dequantize_rows};
pub use rotary::Rotary;
pub use scratch::Scratch;

/// Which kernels run here, for example `AVX2+FMA+F16C`: the best this machine has, unless the
/// environment variable `OCTET_KERNELS` limits it (see [`Level::best`]).
pub fn features() -> &'static str {
    Level::best().name()
}
