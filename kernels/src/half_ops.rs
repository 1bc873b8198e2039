//! Conversions and products on f16 slices, for the KV cache.

use half::f16;

use crate::cpu::Kernels;

/// The bytes of `values`, which are little-endian on every host this crate builds for.
pub(crate) fn bytes(values: &[f16]) -> &[u8] {
    // SAFETY: an f16 is two initialized bytes without padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), 2 * values.len()) }
}

fn bytes_mut(values: &mut [f16]) -> &mut [u8] {
    // SAFETY: as above, and every two bytes are an f16.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), 2 * values.len()) }
}

/// Converts `src` into `dst`.
///
/// # Panics
/// If the lengths differ.
pub fn f16_to_f32(src: &[f16], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len(), "BUG: f16_to_f32: lengths differ");
    // SAFETY: a table is only handed out where the CPU has its features.
    unsafe { (Kernels::best().f16_to_f32)(bytes(src), dst) }
}

/// Converts `src` into `dst`, rounding to nearest even.
///
/// # Panics
/// If the lengths differ.
pub fn f32_to_f16(src: &[f32], dst: &mut [f16]) {
    assert_eq!(src.len(), dst.len(), "BUG: f32_to_f16: lengths differ");
    // SAFETY: a table is only handed out where the CPU has its features.
    unsafe { (Kernels::best().f32_to_f16)(src, bytes_mut(dst)) }
}

/// The dot product of `a` and `b`, accumulated in f32.
///
/// # Panics
/// If the lengths differ.
pub fn dot(a: &[f32], b: &[f16]) -> f32 {
    assert_eq!(a.len(), b.len(), "BUG: dot: lengths differ");
    // SAFETY: a table is only handed out where the CPU has its features.
    unsafe { (Kernels::best().dot_f16)(a, bytes(b)) }
}

/// `y += alpha * x`.
///
/// # Panics
/// If the lengths differ.
pub fn axpy(alpha: f32, x: &[f16], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "BUG: axpy: lengths differ");
    // SAFETY: a table is only handed out where the CPU has its features.
    unsafe { (Kernels::best().axpy_f16)(alpha, bytes(x), y) }
}
