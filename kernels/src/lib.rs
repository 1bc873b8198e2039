//! HQQ matrix kernels on the packed file layout.
#![warn(missing_docs)]

#[cfg(target_endian = "big")]
compile_error!("the kernels read little-endian file bytes in place");

mod cpu;
mod dense;
pub mod half_ops;
mod layout;
mod matmul;
mod matvec;
mod params;
mod pool;
mod product;
mod scratch;

pub use cpu::Level;
pub use dense::{Q8Matrix, matmul_f16, matmul_q8};
pub use layout::{Bits, GroupParam, LayoutError, QMatrix};
pub use matmul::{Job, Precision, matmul};
pub use pool::Pool;
pub use product::dequantize;
pub use scratch::Scratch;

/// Which kernels run here, for example `AVX2+FMA+F16C`: the best this machine has, unless the
/// environment variable `OCTET_KERNELS` limits it (see [`Level::best`]).
pub fn features() -> &'static str {
    Level::best().name()
}
