//! Loops that compilers vectorize well, written once. Each level inlines them into functions with
//! its own features; they contain no fused operation, so all levels agree to the bit.

use super::{BLOCK, U_MAX, Units, W_MAX};
use crate::exp::exp;
use crate::layout::Bits;

/// Rounds to nearest, ties to even. `|v|` is below `2^15`.
///
/// Adding 1.5 * 2^23 leaves the integer in the low bits of the mantissa: unlike a cast, this
/// vectorizes on every level.
#[inline(always)]
pub(super) fn round_i16(v: f32) -> i16 {
    (v + 12_582_912.0).to_bits() as i16
}

/// `1 / max * limit` and its inverse, or zeros where the values are too small to tell from zero.
#[inline(always)]
pub(super) fn steps(max: f32, limit: f32) -> (f32, f32) {
    if max < 1e-30 {
        (0.0, 0.0)
    } else {
        (limit / max, max / limit)
    }
}

/// One instruction where `f32::max`, which must not return a NaN, takes several.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The largest magnitude of a weight with these parameters.
#[inline(always)]
fn extent(scale: f32, zero: f32, max_q: f32) -> f32 {
    larger((zero * scale).abs(), ((max_q - zero) * scale).abs())
}

#[inline(always)]
pub(super) fn max_abs(values: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for (m, v) in lanes.iter_mut().zip(chunk) {
            *m = larger(*m, v.abs());
        }
    }
    lanes.iter().chain(rest).fold(0f32, |m, v| m.max(v.abs()))
}

#[inline(always)]
pub(super) fn table(x: &[f32], scale: &[f32], zero: &[f32], out: &mut [i16; 2 * BLOCK]) -> f32 {
    let n = x.len();
    let (scale, zero) = (&scale[..n], &zero[..n]);
    let mut a = [0f32; BLOCK];
    let mut b = [0f32; BLOCK];
    let mut bound = [0f32; BLOCK];
    for i in 0..n {
        a[i] = scale[i] * x[i];
        b[i] = (zero[i] - 128.0) * a[i];
        bound[i] = a[i].abs() * 128.0 + b[i].abs();
    }
    let (to_units, unit) = steps(max_abs(&bound), U_MAX);
    let (a_out, b_out) = out.split_at_mut(BLOCK);
    // The order in which unpacking the bytes of 64 columns yields them: the first 8 of each 16,
    // then the other 8 of each.
    for (from, (a, b)) in a
        .as_chunks::<8>()
        .0
        .iter()
        .zip(b.as_chunks::<8>().0)
        .enumerate()
    {
        let to = 8 * (from / 8 * 8 + from % 2 * 4 + from / 2 % 4);
        for i in 0..8 {
            a_out[to + i] = round_i16(a[i] * 128.0 * to_units);
            b_out[to + i] = round_i16(b[i] * to_units);
        }
    }
    unit
}

/// Where `table` puts a column of a block.
pub(super) fn table_slot(column: usize) -> usize {
    column / 64 * 64 + column / 8 % 2 * 32 + column / 16 % 4 * 8 + column % 8
}

/// For some blocks: the multiplier (as of `mulhrs`: over 2^15) that brings the largest magnitude
/// to 127, and the scale it leaves. A magnitude below 128 needs no more than a multiplier of
/// nearly 1. `room` is `i16::MAX` minus the magnitude.
#[inline(always)]
pub(super) fn requantize<const N: usize>(
    room: &[u16; N],
    unit: &[f32],
    multiplier: &mut [i32; N],
    scale: &mut [f32; N],
) {
    // An f32 quotient of 127 * 2^15 and a 15-bit integer has the right floor.
    const REACH: f32 = 127.0 * 32768.0;
    for (multiplier, room) in multiplier.iter_mut().zip(room) {
        let max = (i32::from(i16::MAX) - i32::from(*room)).max(128);
        // SAFETY: the quotient is between 127 and 32512.
        *multiplier = unsafe { (REACH / max as f32).to_int_unchecked() };
    }
    for ((scale, multiplier), unit) in scale.iter_mut().zip(multiplier).zip(unit) {
        *scale = unit * 32768.0 / *multiplier as f32;
    }
}

#[inline(always)]
pub(super) fn quantize(u: &[f32], zero: &[f32], q: &mut [i8; BLOCK]) -> (f32, f32) {
    let zero = &zero[..u.len()];
    let (to_units, unit) = steps(max_abs(u), 127.0);
    q.fill(0);
    let mut sum = [0f32; 8];
    for (i, (u, q)) in u.iter().zip(q.iter_mut()).enumerate() {
        *q = round_i16(u * to_units) as i8;
        sum[i % 8] += f32::from(*q) * zero[i];
    }
    (unit * sum.iter().sum::<f32>(), unit)
}

#[inline(always)]
pub(super) fn affine(q: &[u8], zero: &[f32], scale: &[f32], out: &mut [f32]) {
    for (((q, zero), scale), out) in q.iter().zip(zero).zip(scale).zip(out) {
        *out = (f32::from(*q) - zero) * scale;
    }
}

#[inline(always)]
pub(super) fn params_i16(
    max_q: u32,
    scale: &[f32],
    zero: &[f32],
    scale_out: &mut [i16],
    zero_out: &mut [i16],
) -> f32 {
    let n = scale.len();
    let (zero, scale_out, zero_out) = (&zero[..n], &mut scale_out[..n], &mut zero_out[..n]);
    let max_q = max_q as f32;
    let (scales, scale_rest) = scale.as_chunks::<8>();
    let (zeros, zero_rest) = zero.as_chunks::<8>();
    let mut max = [0f32; 8];
    for (scales, zeros) in scales.iter().zip(zeros) {
        for i in 0..8 {
            max[i] = larger(max[i], extent(scales[i], zeros[i], max_q));
        }
    }
    for (scale, zero) in scale_rest.iter().zip(zero_rest) {
        max[0] = larger(max[0], extent(*scale, *zero, max_q));
    }
    let (to_units, unit) = steps(max_abs(&max), W_MAX);
    for i in 0..n {
        scale_out[i] = round_i16(scale[i] * to_units);
        zero_out[i] = round_i16(zero[i] * scale[i] * to_units);
    }
    unit
}

/// Calls `$each(i, q)` for the values of one part, with a loop of its own for every width so that
/// it vectorizes.
macro_rules! each_q {
    ($units:expr, $n:expr, |$i:ident, $q:ident| $each:expr) => {{
        let Units { bits, bytes, part } = $units;
        if bits == Bits::B3 {
            let units = &bytes.as_chunks::<4>().0[..$n];
            let shift = 3 * (9 - part);
            for $i in 0..$n {
                let $q = (u32::from_le_bytes(units[$i]) >> shift & 7) as u16;
                $each;
            }
        } else {
            let units = &bytes[..$n];
            let shift = 8 - bits.count() as usize * (part + 1);
            let mask = bits.max_q() as u16;
            for $i in 0..$n {
                let $q = u16::from(units[$i]) >> shift & mask;
                $each;
            }
        }
    }};
}

#[inline(always)]
pub(super) fn fill_i16(units: Units<'_>, scale: &[i16], zero: &[i16], out: &mut [i16]) {
    let n = out.len();
    let (scale, zero) = (&scale[..n], &zero[..n]);
    each_q!(units, n, |i, q| out[i] =
        (q as i16).wrapping_mul(scale[i]).wrapping_sub(zero[i]));
}

#[inline(always)]
pub(super) fn fill_round(
    units: Units<'_>,
    scale: &[f32],
    zero: &[f32],
    to_units: f32,
    out: &mut [i16],
) {
    let n = out.len();
    let (scale, zero) = (&scale[..n], &zero[..n]);
    each_q!(units, n, |i, q| out[i] =
        round_i16((f32::from(q) - zero[i]) * scale[i] * to_units));
}

#[inline(always)]
pub(super) fn fill_f32(units: Units<'_>, scale: &[f32], zero: &[f32], out: &mut [f32]) {
    let n = out.len();
    let (scale, zero) = (&scale[..n], &zero[..n]);
    each_q!(units, n, |i, q| out[i] =
        (f32::from(q) - zero[i]) * scale[i]);
}

#[inline(always)]
pub(super) fn exp_from(x: &mut [f32], least: f32) -> (f32, f32) {
    const RUN: usize = 16;
    let mut most = [least; RUN];
    for x in x.chunks(RUN) {
        for (most, x) in most.iter_mut().zip(x) {
            *most = larger(*most, *x);
        }
    }
    let most = most.into_iter().fold(least, larger);
    let mut sums = [0f32; RUN];
    for x in x.chunks_mut(RUN) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *x = exp(*x - most);
            *sum += *x;
        }
    }
    (most, sums.iter().sum())
}

#[inline(always)]
pub(super) fn round_x(x: &[f32], limit: f32, out: &mut [i16]) -> f32 {
    let (to_units, unit) = steps(max_abs(x), limit);
    for (x, out) in x.iter().zip(out) {
        *out = round_i16(x * to_units);
    }
    unit
}

/// Functions around the loops of this module, compiled with the features given.
macro_rules! common_kernels {
    ($(#[$features:meta])?) => {
        $(#[$features])?
        fn table(x: &[f32], scale: &[f32], zero: &[f32], out: &mut [i16; 2 * BLOCK]) -> f32 {
            common::table(x, scale, zero, out)
        }
        $(#[$features])?
        fn quantize(u: &[f32], zero: &[f32], q: &mut [i8; BLOCK]) -> (f32, f32) {
            common::quantize(u, zero, q)
        }
        $(#[$features])?
        fn affine(q: &[u8], zero: &[f32], scale: &[f32], out: &mut [f32]) {
            common::affine(q, zero, scale, out);
        }
        $(#[$features])?
        fn params_i16(max_q: u32, s: &[f32], z: &[f32], s_out: &mut [i16], z_out: &mut [i16]) -> f32 {
            common::params_i16(max_q, s, z, s_out, z_out)
        }
        $(#[$features])?
        fn fill_i16(units: Units<'_>, scale: &[i16], zero: &[i16], out: &mut [i16]) {
            common::fill_i16(units, scale, zero, out);
        }
        $(#[$features])?
        fn fill_round(units: Units<'_>, s: &[f32], z: &[f32], to_units: f32, out: &mut [i16]) {
            common::fill_round(units, s, z, to_units, out);
        }
        $(#[$features])?
        fn fill_f32(units: Units<'_>, scale: &[f32], zero: &[f32], out: &mut [f32]) {
            common::fill_f32(units, scale, zero, out);
        }
        $(#[$features])?
        fn exp_from(x: &mut [f32], least: f32) -> (f32, f32) {
            common::exp_from(x, least)
        }
        $(#[$features])?
        fn round_x(x: &[f32], limit: f32, out: &mut [i16]) -> f32 {
            common::round_x(x, limit, out)
        }
    };
}
pub(super) use common_kernels;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requantize_keeps_127() {
        for max in 0..=30_010 {
            let (mut multiplier, mut scale) = ([0], [0.0]);
            requantize(
                &[(i16::MAX as i32 - max) as u16],
                &[1.0],
                &mut multiplier,
                &mut scale,
            );
            assert_eq!(multiplier[0], 127 * 32768 / max.max(128), "max {max}");
            let top = (max * multiplier[0] + (1 << 14)) >> 15;
            assert!(top <= 127, "max {max} becomes {top}");
            assert!(
                (top as f32 * scale[0] - max as f32).abs() <= 0.5001 * scale[0],
                "max {max}"
            );
        }
    }

    #[test]
    fn table_slot_is_where_table_writes() {
        let x: Vec<f32> = (1..=BLOCK).map(|i| i as f32).collect();
        let mut out = [0; 2 * BLOCK];
        let unit = table(&x, &[1.0; BLOCK], &[64.0; BLOCK], &mut out);
        for (column, x) in x.iter().enumerate() {
            let a = f32::from(out[table_slot(column)]) * unit / 128.0;
            let b = f32::from(out[BLOCK + table_slot(column)]) * unit;
            assert!((a - x).abs() < 0.51 * unit / 128.0, "column {column}: {a}");
            assert!((b + 64.0 * x).abs() < 0.51 * unit, "column {column}: {b}");
        }
    }
}
