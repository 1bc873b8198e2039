//! AVX2 with FMA and F16C: nearly every x86-64 machine since 2013 (Intel) and 2015 (AMD).

use std::arch::x86_64::*;
use std::array::{from_mut, from_ref};

use super::blocks::avx2::{block_layout, block_rows, block_tile, tile_layout};
use super::blocks::common::block_kernels;
use super::blocks::{self, Layout, XBlock};
use super::common::{self, common_kernels, requantize};
use super::{BLOCK, GroupInput, KB_F32, KB_I16, Kernels, Level, Q8_BLOCK, TILE, Units, scalar};
use crate::blocks::BlockType;

pub(super) static KERNELS: Kernels = Kernels {
    level: Level::Avx2,
    table,
    group_input,
    quantize,
    dot2,
    dot3,
    dot4,
    affine,
    params_i16,
    fill_i16,
    fill_round,
    fill_f32,
    round_x,
    exp_from,
    mul_i16,
    mul_f32,
    f16_to_f32,
    f32_to_f16,
    dot_f16,
    axpy_f16,
    dot_q8,
    block_values,
    block_layout,
    block_x,
    block_rows,
    tile_layout,
    block_tile,
    dot_floats,
};

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

common_kernels!(#[target_feature(enable = "avx2,fma,f16c")]);
block_kernels!(#[target_feature(enable = "avx2,fma,f16c")]);

#[inline]
#[target_feature(enable = "avx2")]
fn load<T: Copy, const N: usize>(values: &[T; N]) -> __m256i {
    const { assert!(size_of::<T>() * N == 32) };
    // SAFETY: the array is 32 bytes long.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store<T: Copy, const N: usize>(values: &mut [T; N], v: __m256i) {
    const { assert!(size_of::<T>() * N == 32) };
    // SAFETY: the array is 32 bytes long, and every bit pattern is an integer.
    unsafe { _mm256_storeu_si256(values.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_f32(values: &[f32; 8]) -> __m256 {
    // SAFETY: the array is 32 bytes long.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load_f16(values: &[u8; 16]) -> __m256 {
    // SAFETY: the array is 16 bytes long.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}

/// Fetches the lines of `bytes` bytes at `ahead + offset` to come.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn prefetch(ahead: *const u8, offset: usize, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        #[allow(unused_unsafe)] // some compilers have it as a safe function
        // SAFETY: a prefetch of any address is allowed and has no effect on the program.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(offset + line).cast())
        };
    }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum_f32(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
}

/// `i16::MAX` minus the largest of 16 values, none negative.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn room(v: __m256i) -> u16 {
    let v = _mm_max_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let room = _mm_minpos_epu16(_mm_xor_si128(v, _mm_set1_epi16(i16::MAX)));
    _mm_extract_epi16::<0>(room) as u16
}

/// `sum + d * (i32 lanes)`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn scaled(sum: __m256, lanes: __m256i, d: __m256) -> __m256 {
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(lanes), d, sum)
}

/// A block of up to [`BLOCK`] bytes a column, zero-padded.
#[inline]
pub(super) fn padded<const N: usize>(tail: &[u8]) -> [u8; N] {
    let mut block = [0; N];
    block[..tail.len()].copy_from_slice(tail);
    block
}

/// Blocks that `group_input` takes together: each of its three passes has to wait for results of
/// the one before, and would wait for every block.
const STRIDE: usize = 4;

/// What its passes hand on.
struct Inputs {
    /// The group input in units, in the order of the table.
    u: [[[i16; 16]; BLOCK / 16]; STRIDE],
    /// `i16::MAX` minus the largest magnitude, a block.
    room: [u16; STRIDE],
    multiplier: [i32; STRIDE],
    scale: [f32; STRIDE],
}

#[target_feature(enable = "avx2,fma,f16c")]
fn group_input(input: GroupInput<'_>, q: &mut [i8], d: &mut [f32]) -> f32 {
    let (scales, scale_tail) = input.scale_q.as_chunks::<BLOCK>();
    let (zeros, zero_tail) = input.zero_q.as_chunks::<BLOCK>();
    let whole = scales.len();
    let (q, q_tail) = q.as_chunks_mut::<BLOCK>().0.split_at_mut(whole);
    let (d, d_tail) = d.split_at_mut(whole);
    let mut sums = [_mm256_setzero_ps(); 2];
    let mut inputs = Inputs {
        u: [[[0; 16]; BLOCK / 16]; STRIDE],
        room: [0; STRIDE],
        multiplier: [0; STRIDE],
        scale: [0.0; STRIDE],
    };
    let mut first = 0;
    for (((scales, zeros), q), d) in scales
        .chunks(STRIDE)
        .zip(zeros.chunks(STRIDE))
        .zip(q.chunks_mut(STRIDE))
        .zip(d.chunks_mut(STRIDE))
    {
        for ahead in input.ahead {
            prefetch(ahead, BLOCK * first, BLOCK * scales.len());
        }
        let (table, unit) = (&input.table[first..], &input.unit[first..]);
        input_blocks(&mut inputs, scales, zeros, table, unit, q, d, &mut sums);
        first += scales.len();
    }
    if !scale_tail.is_empty() {
        let (table, unit) = (&input.table[whole..], &input.unit[whole..]);
        let (scale, zero) = ([padded(scale_tail)], [padded(zero_tail)]);
        input_blocks(
            &mut inputs,
            &scale,
            &zero,
            table,
            unit,
            q_tail,
            d_tail,
            &mut sums,
        );
    }
    (sum_f32(sums[0]) - input.zero_zero * sum_f32(sums[1])) * input.zero_scale
}

/// Up to `STRIDE` blocks of `group_input`: adds to the sums of `zero_q * u` and of `u`.
#[inline]
#[target_feature(enable = "avx2,fma")]
#[allow(clippy::too_many_arguments)]
fn input_blocks(
    inputs: &mut Inputs,
    scale_q: &[[u8; BLOCK]],
    zero_q: &[[u8; BLOCK]],
    table: &[[i16; 2 * BLOCK]],
    unit: &[f32],
    q: &mut [[i8; BLOCK]],
    d: &mut [f32],
    sums: &mut [__m256; 2],
) {
    let nothing = _mm256_setzero_si256();
    let sign = _mm256_set1_epi8(i8::MIN);
    let blocks = inputs.u.iter_mut().zip(&mut inputs.room);
    for ((u, room_out), (scale_q, table)) in blocks.zip(scale_q.iter().zip(table)) {
        let (table, offsets) = table.as_chunks::<16>().0.split_at(BLOCK / 16);
        let mut max = nothing;
        for (i, scale_q) in scale_q.as_chunks::<32>().0.iter().enumerate() {
            let v = _mm256_xor_si256(load(scale_q), sign);
            let at = i / 2 * 4 + i % 2;
            let low = _mm256_mulhrs_epi16(_mm256_unpacklo_epi8(nothing, v), load(&table[at]));
            let high = _mm256_mulhrs_epi16(_mm256_unpackhi_epi8(nothing, v), load(&table[at + 2]));
            let low = _mm256_sub_epi16(low, load(&offsets[at]));
            let high = _mm256_sub_epi16(high, load(&offsets[at + 2]));
            store(&mut u[2 * i], low);
            store(&mut u[2 * i + 1], high);
            let pair = _mm256_max_epi16(_mm256_abs_epi16(low), _mm256_abs_epi16(high));
            max = _mm256_max_epi16(max, pair);
        }
        *room_out = room(max);
    }

    let Inputs {
        room,
        multiplier,
        scale,
        ..
    } = inputs;
    requantize(room, unit, multiplier, scale);

    let found = inputs.u.iter().zip(inputs.multiplier).zip(inputs.scale);
    for (((u, multiplier), scale), ((zero_q, q), d)) in found.zip(zero_q.iter().zip(q).zip(d)) {
        let multiplier = _mm256_set1_epi16(multiplier as i16);
        let (mut zeros, mut ones) = (nothing, nothing);
        let vectors = zero_q
            .as_chunks::<32>()
            .0
            .iter()
            .zip(q.as_chunks_mut::<32>().0);
        for ((zero_q, q), u) in vectors.zip(u.as_chunks::<2>().0) {
            let low = _mm256_mulhrs_epi16(load(&u[0]), multiplier);
            let high = _mm256_mulhrs_epi16(load(&u[1]), multiplier);
            let zero = load(zero_q);
            let zero_low = _mm256_unpacklo_epi8(zero, nothing);
            let zero_high = _mm256_unpackhi_epi8(zero, nothing);
            zeros = _mm256_add_epi32(zeros, _mm256_madd_epi16(zero_low, low));
            zeros = _mm256_add_epi32(zeros, _mm256_madd_epi16(zero_high, high));
            ones = _mm256_add_epi16(ones, _mm256_add_epi16(low, high));
            store(q, _mm256_packs_epi16(low, high));
        }
        let ones = _mm256_madd_epi16(ones, _mm256_set1_epi16(1));
        let factor = _mm256_set1_ps(scale);
        sums[0] = scaled(sums[0], zeros, factor);
        sums[1] = scaled(sums[1], ones, factor);
        *d = scale;
    }
}

/// Runs `block(units, q, scale, sums)` over the blocks of a row of one-byte units.
macro_rules! each_block {
    ($block:ident, $width:expr, $units:ident, $q:ident, $d:ident, $ahead:ident, $sums:ident) => {
        let (blocks, tail) = $units.as_chunks::<{ $width * BLOCK }>();
        let q = $q.as_chunks::<BLOCK>().0;
        for (i, ((units, q), d)) in blocks.iter().zip(q).zip($d).enumerate() {
            prefetch($ahead, $width * BLOCK * i, $width * BLOCK);
            $block(units, q, *d, &mut $sums);
        }
        if !tail.is_empty() {
            let i = blocks.len();
            $block(&padded(tail), &q[i], $d[i], &mut $sums);
        }
    };
}

#[target_feature(enable = "avx2,fma,f16c")]
fn dot2(units: &[u8], q: &[i8], d: &[f32], ahead: *const u8, out: &mut [f32]) {
    let mut sums = [_mm256_setzero_ps(); 4];
    each_block!(dot2_block, 1, units, q, d, ahead, sums);
    // Parts 0 and 2 were multiplied in place, two bits up.
    out[0] = sum_f32(sums[0]) * 0.25;
    out[1] = sum_f32(sums[1]);
    out[2] = sum_f32(sums[2]) * 0.25;
    out[3] = sum_f32(sums[3]);
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn dot2_block(units: &[u8; BLOCK], q: &[i8; BLOCK], d: f32, sums: &mut [__m256; 4]) {
    let (low, high) = (_mm256_set1_epi8(0x03), _mm256_set1_epi8(0x0c));
    // At most 8 * (2 * 12 * 127) = 24384 in magnitude.
    let mut acc = [_mm256_setzero_si256(); 4];
    for (units, q) in units.as_chunks::<32>().0.iter().zip(q.as_chunks::<32>().0) {
        let (v, q) = (load(units), load(q));
        let w = _mm256_srli_epi16::<4>(v);
        let parts = [
            _mm256_and_si256(w, high),
            _mm256_and_si256(w, low),
            _mm256_and_si256(v, high),
            _mm256_and_si256(v, low),
        ];
        for (acc, part) in acc.iter_mut().zip(parts) {
            *acc = _mm256_add_epi16(*acc, _mm256_maddubs_epi16(part, q));
        }
    }
    let (d, one) = (_mm256_set1_ps(d), _mm256_set1_epi16(1));
    for (sum, acc) in sums.iter_mut().zip(acc) {
        *sum = scaled(*sum, _mm256_madd_epi16(acc, one), d);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn dot4(units: &[u8], q: &[i8], d: &[f32], ahead: *const u8, out: &mut [f32]) {
    let mut sums = [_mm256_setzero_ps(); 2];
    each_block!(dot4_block, 1, units, q, d, ahead, sums);
    out[0] = sum_f32(sums[0]);
    out[1] = sum_f32(sums[1]);
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn dot4_block(units: &[u8; BLOCK], q: &[i8; BLOCK], d: f32, sums: &mut [__m256; 2]) {
    let mask = _mm256_set1_epi8(0x0f);
    // At most 8 * (2 * 15 * 127) = 30480 in magnitude.
    let mut acc = [_mm256_setzero_si256(); 2];
    for (units, q) in units.as_chunks::<32>().0.iter().zip(q.as_chunks::<32>().0) {
        let (v, q) = (load(units), load(q));
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask);
        let low = _mm256_and_si256(v, mask);
        acc[0] = _mm256_add_epi16(acc[0], _mm256_maddubs_epi16(high, q));
        acc[1] = _mm256_add_epi16(acc[1], _mm256_maddubs_epi16(low, q));
    }
    let (d, one) = (_mm256_set1_ps(d), _mm256_set1_epi16(1));
    for (sum, acc) in sums.iter_mut().zip(acc) {
        *sum = scaled(*sum, _mm256_madd_epi16(acc, one), d);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn dot3(units: &[u8], q: &[i8], d: &[f32], ahead: *const u8, out: &mut [f32]) {
    let mut sums = [_mm256_setzero_ps(); 10];
    each_block!(dot3_block, 4, units, q, d, ahead, sums);
    for (part, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
        // Multiplied in place: bits 0, 3, 6, 9 or 12 of the lower or upper half.
        *out = sum_f32(sum) / (1 << (3 * ((9 - part) % 5))) as f32;
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn dot3_block(units: &[u8; 4 * BLOCK], q: &[i8; BLOCK], d: f32, sums: &mut [__m256; 10]) {
    let units = units.as_chunks::<32>().0;
    let d = _mm256_set1_ps(d);
    let mut inputs = [_mm256_setzero_si256(); BLOCK / 8];
    for (input, q) in inputs.iter_mut().zip(q.as_chunks::<8>().0) {
        *input = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(q.map(|q| q as u8))));
    }
    for half in 0..2 {
        let sums = &mut sums[5 * half..5 * half + 5];
        // At most 32 * 28672 * 127 < 2^27 in magnitude.
        let mut acc = [_mm256_setzero_si256(); 5];
        for (units, input) in units.iter().zip(inputs) {
            let v = load(units);
            let v = if half == 0 {
                _mm256_srli_epi32::<15>(v)
            } else {
                v
            };
            for (part, acc) in acc.iter_mut().enumerate() {
                // The field lies in the lower 16 bits, so the product with the sign extension in
                // the upper ones is zero.
                let field = _mm256_and_si256(v, _mm256_set1_epi32(7 << (12 - 3 * part)));
                *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(field, input));
            }
        }
        for (sum, acc) in sums.iter_mut().zip(acc) {
            *sum = scaled(*sum, acc, d);
        }
    }
}

/// The sums of four vectors.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sums_of(v: [__m256; 4]) -> __m128 {
    let v = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v))
}

/// The units of four rows, times that of a token.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn scaled_units(units: &[f32; 4], x_unit: f32) -> __m128 {
    // SAFETY: the array is 16 bytes long.
    unsafe { _mm_mul_ps(_mm_loadu_ps(units.as_ptr()), _mm_set1_ps(x_unit)) }
}

/// Adds the sums of four rows times `units` to four entries of `acc`.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn accumulate(acc: &mut [f32; 4], sums: __m128, units: __m128) {
    // SAFETY: the array is 16 bytes long.
    unsafe {
        let old = _mm_loadu_ps(acc.as_ptr());
        _mm_storeu_ps(acc.as_mut_ptr(), _mm_fmadd_ps(sums, units, old));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn mul_i16(
    tile: &[[i16; KB_I16]; TILE],
    (rows, len): (usize, usize),
    w_units: &[f32; TILE],
    x: &[[i16; KB_I16]],
    units: &[f32],
    acc: &mut [[f32; TILE]],
) {
    let (xs, x_rest) = x.as_chunks::<TOKENS>();
    let (us, u_rest) = units.as_chunks::<TOKENS>();
    let (accs, acc_rest) = acc.as_chunks_mut::<TOKENS>();
    for ((x, units), acc) in xs.iter().zip(us).zip(accs) {
        mul_i16_tokens(tile, (rows, len), w_units, x, units, acc);
    }
    for ((x, units), acc) in x_rest.iter().zip(u_rest).zip(acc_rest) {
        let (x, units, acc) = (from_ref(x), from_ref(units), from_mut(acc));
        mul_i16_tokens(tile, (rows, len), w_units, x, units, acc);
    }
}

/// Tokens of a register tile of four rows: with more, sums spill.
const TOKENS: usize = 2;

#[inline]
#[target_feature(enable = "avx2,fma")]
fn mul_i16_tokens<const T: usize>(
    tile: &[[i16; KB_I16]; TILE],
    (rows, len): (usize, usize),
    w_units: &[f32; TILE],
    x: &[[i16; KB_I16]; T],
    units: &[f32; T],
    acc: &mut [[f32; TILE]; T],
) {
    let steps = len.div_ceil(16).min(KB_I16 / 16);
    for (quad, tile) in tile
        .as_chunks::<4>()
        .0
        .iter()
        .take(rows.div_ceil(4))
        .enumerate()
    {
        let mut sums = [[_mm256_setzero_si256(); 4]; T];
        for step in 0..steps {
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = load(&x.as_chunks::<16>().0[step]);
                for (sum, row) in sums.iter_mut().zip(tile) {
                    let w = load(&row.as_chunks::<16>().0[step]);
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(w, x));
                }
            }
        }
        for ((sums, x_unit), acc) in sums.into_iter().zip(units).zip(acc.iter_mut()) {
            let [a, b, c, d] = sums;
            let sums = sums_of([
                _mm256_cvtepi32_ps(a),
                _mm256_cvtepi32_ps(b),
                _mm256_cvtepi32_ps(c),
                _mm256_cvtepi32_ps(d),
            ]);
            let units = scaled_units(&w_units.as_chunks::<4>().0[quad], *x_unit);
            accumulate(&mut acc.as_chunks_mut::<4>().0[quad], sums, units);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn mul_f32(
    tile: &[[f32; KB_F32]; TILE],
    (rows, len): (usize, usize),
    x: &[[f32; KB_F32]],
    acc: &mut [[f32; TILE]],
) {
    let (xs, x_rest) = x.as_chunks::<TOKENS>();
    let (accs, acc_rest) = acc.as_chunks_mut::<TOKENS>();
    for (x, acc) in xs.iter().zip(accs) {
        mul_f32_tokens(tile, (rows, len), x, acc);
    }
    for (x, acc) in x_rest.iter().zip(acc_rest) {
        mul_f32_tokens(tile, (rows, len), from_ref(x), from_mut(acc));
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn mul_f32_tokens<const T: usize>(
    tile: &[[f32; KB_F32]; TILE],
    (rows, len): (usize, usize),
    x: &[[f32; KB_F32]; T],
    acc: &mut [[f32; TILE]; T],
) {
    let steps = len.div_ceil(8).min(KB_F32 / 8);
    for (quad, tile) in tile
        .as_chunks::<4>()
        .0
        .iter()
        .take(rows.div_ceil(4))
        .enumerate()
    {
        let mut sums = [[_mm256_setzero_ps(); 4]; T];
        for step in 0..steps {
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = load_f32(&x.as_chunks::<8>().0[step]);
                for (sum, row) in sums.iter_mut().zip(tile) {
                    *sum = _mm256_fmadd_ps(load_f32(&row.as_chunks::<8>().0[step]), x, *sum);
                }
            }
        }
        for (sums, acc) in sums.into_iter().zip(acc.iter_mut()) {
            accumulate(
                &mut acc.as_chunks_mut::<4>().0[quad],
                sums_of(sums),
                _mm_set1_ps(1.0),
            );
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f16_to_f32(src: &[u8], dst: &mut [f32]) {
    let (from, from_rest) = src.as_chunks::<16>();
    let (to, to_rest) = dst.as_chunks_mut::<8>();
    for (from, to) in from.iter().zip(to) {
        // SAFETY: the array is 32 bytes long.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), load_f16(from)) };
    }
    scalar::f16_to_f32(from_rest, to_rest);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f32_to_f16(src: &[f32], dst: &mut [u8]) {
    let (from, from_rest) = src.as_chunks::<8>();
    let (to, to_rest) = dst.as_chunks_mut::<16>();
    for (from, to) in from.iter().zip(to) {
        let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load_f32(from));
        // SAFETY: the array is 16 bytes long.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), half) };
    }
    scalar::f32_to_f16(from_rest, to_rest);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_f16(a: &[f32], b: &[u8]) -> f32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<16>();
    let mut sums = [_mm256_setzero_ps(); 4];
    let (a_quads, a_few) = a.as_chunks::<4>();
    let (b_quads, b_few) = b.as_chunks::<4>();
    for (a, b) in a_quads.iter().zip(b_quads) {
        for i in 0..4 {
            sums[i] = _mm256_fmadd_ps(load_f32(&a[i]), load_f16(&b[i]), sums[i]);
        }
    }
    for (a, b) in a_few.iter().zip(b_few) {
        sums[0] = _mm256_fmadd_ps(load_f32(a), load_f16(b), sums[0]);
    }
    let sum = _mm256_add_ps(
        _mm256_add_ps(sums[0], sums[1]),
        _mm256_add_ps(sums[2], sums[3]),
    );
    sum_f32(sum) + scalar::dot_f16(a_rest, b_rest)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn axpy_f16(alpha: f32, x: &[u8], y: &mut [f32]) {
    let (from, from_rest) = x.as_chunks::<16>();
    let (to, to_rest) = y.as_chunks_mut::<8>();
    let factor = _mm256_set1_ps(alpha);
    for (x, y) in from.iter().zip(to) {
        let sum = _mm256_fmadd_ps(load_f16(x), factor, load_f32(y));
        // SAFETY: the array is 32 bytes long.
        unsafe { _mm256_storeu_ps(y.as_mut_ptr(), sum) };
    }
    scalar::axpy_f16(alpha, from_rest, to_rest);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn dot_q8(
    w: &[[i8; Q8_BLOCK]],
    scale: &[f32],
    x: &[[i16; Q8_BLOCK]],
    units: &[f32],
    ahead: *const u8,
) -> f32 {
    let mut sum = _mm256_setzero_ps();
    let blocks = w.iter().zip(scale).zip(x.iter().zip(units));
    for (i, ((w, scale), (x, unit))) in blocks.enumerate() {
        prefetch(ahead, Q8_BLOCK * i, Q8_BLOCK);
        let mut acc = [_mm256_setzero_si256(); 2];
        let halves = w.as_chunks::<16>().0.iter().zip(x.as_chunks::<16>().0);
        for (j, (w, x)) in halves.enumerate() {
            // SAFETY: the array is 16 bytes long.
            let w = unsafe { _mm_loadu_si128(w.as_ptr().cast()) };
            let product = _mm256_madd_epi16(_mm256_cvtepi8_epi16(w), load(x));
            acc[j % 2] = _mm256_add_epi32(acc[j % 2], product);
        }
        sum = scaled(
            sum,
            _mm256_add_epi32(acc[0], acc[1]),
            _mm256_set1_ps(scale * unit),
        );
    }
    sum_f32(sum)
}
