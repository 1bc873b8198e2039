//! AVX-512 with VNNI: dot products of bytes in one instruction, and masks instead of shifts.

use std::arch::x86_64::*;
use std::array::{from_mut, from_ref};

use super::avx2::{self, accumulate, padded, prefetch, room, scaled_units, sums_of};
use super::blocks::avx512::{block_layout, block_rows, block_tile, block_x, tile_layout};
use super::common::requantize;
use super::{BLOCK, GroupInput, KB_F32, KB_I16, Kernels, Level, Q8_BLOCK, TILE};

pub(super) static KERNELS: Kernels = Kernels {
    level: Level::Avx512,
    group_input,
    dot2,
    dot3,
    dot4,
    mul_i16,
    mul_f32,
    dot_q8,
    block_layout,
    block_rows,
    tile_layout,
    block_tile,
    block_x,
    ..avx2::KERNELS
};

pub(super) fn is_available() -> bool {
    avx2::is_available()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load<T: Copy, const N: usize>(values: &[T; N]) -> __m512i {
    const { assert!(size_of::<T>() * N == 64) };
    // SAFETY: the array is 64 bytes long.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store<T: Copy, const N: usize>(values: &mut [T; N], v: __m512i) {
    const { assert!(size_of::<T>() * N == 64) };
    // SAFETY: the array is 64 bytes long, and every bit pattern is an integer.
    unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), v) }
}

/// `sum + d * (i32 lanes)`.
#[inline]
#[target_feature(enable = "avx512f")]
fn scaled(sum: __m512, lanes: __m512i, d: __m512) -> __m512 {
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(lanes), d, sum)
}

/// The sums of the lower and upper halves.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold(v: __m512) -> __m256 {
    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
    _mm256_add_ps(_mm512_castps512_ps256(v), high)
}

/// Blocks that `group_input` takes together: see the AVX2 one.
const STRIDE: usize = 4;

/// What its passes hand on.
struct Inputs {
    /// The group input in units, in the order of the table.
    u: [[[i16; 32]; BLOCK / 32]; STRIDE],
    /// `i16::MAX` minus the largest magnitude, a block.
    room: [u16; STRIDE],
    multiplier: [i32; STRIDE],
    scale: [f32; STRIDE],
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn group_input(input: GroupInput<'_>, q: &mut [i8], d: &mut [f32]) -> f32 {
    let (scales, scale_tail) = input.scale_q.as_chunks::<BLOCK>();
    let (zeros, zero_tail) = input.zero_q.as_chunks::<BLOCK>();
    let whole = scales.len();
    let (q, q_tail) = q.as_chunks_mut::<BLOCK>().0.split_at_mut(whole);
    let (d, d_tail) = d.split_at_mut(whole);
    let mut sums = [_mm512_setzero_ps(); 2];
    let mut inputs = Inputs {
        u: [[[0; 32]; BLOCK / 32]; STRIDE],
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
    let [zeros, ones] = sums.map(|sum| _mm512_reduce_add_ps(sum));
    (zeros - input.zero_zero * ones) * input.zero_scale
}

/// Up to `STRIDE` blocks of `group_input`: adds to the sums of `zero_q * u` and of `u`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
#[allow(clippy::too_many_arguments)]
fn input_blocks(
    inputs: &mut Inputs,
    scale_q: &[[u8; BLOCK]],
    zero_q: &[[u8; BLOCK]],
    table: &[[i16; 2 * BLOCK]],
    unit: &[f32],
    q: &mut [[i8; BLOCK]],
    d: &mut [f32],
    sums: &mut [__m512; 2],
) {
    let nothing = _mm512_setzero_si512();
    let sign = _mm512_set1_epi8(i8::MIN);
    let blocks = inputs.u.iter_mut().zip(&mut inputs.room);
    for ((u, room_out), (scale_q, table)) in blocks.zip(scale_q.iter().zip(table)) {
        let (table, offsets) = table.as_chunks::<32>().0.split_at(BLOCK / 32);
        let mut max = nothing;
        for (i, scale_q) in scale_q.as_chunks::<64>().0.iter().enumerate() {
            let v = _mm512_xor_si512(load(scale_q), sign);
            let low = _mm512_mulhrs_epi16(_mm512_unpacklo_epi8(nothing, v), load(&table[2 * i]));
            let high =
                _mm512_mulhrs_epi16(_mm512_unpackhi_epi8(nothing, v), load(&table[2 * i + 1]));
            let low = _mm512_sub_epi16(low, load(&offsets[2 * i]));
            let high = _mm512_sub_epi16(high, load(&offsets[2 * i + 1]));
            store(&mut u[2 * i], low);
            store(&mut u[2 * i + 1], high);
            let pair = _mm512_max_epi16(_mm512_abs_epi16(low), _mm512_abs_epi16(high));
            max = _mm512_max_epi16(max, pair);
        }
        let high = _mm512_extracti64x4_epi64::<1>(max);
        *room_out = room(_mm256_max_epi16(_mm512_castsi512_si256(max), high));
    }

    let Inputs {
        room,
        multiplier,
        scale,
        ..
    } = inputs;
    requantize(room, unit, multiplier, scale);

    let one = _mm512_set1_epi8(1);
    let found = inputs.u.iter().zip(inputs.multiplier).zip(inputs.scale);
    for (((u, multiplier), scale), ((zero_q, q), d)) in found.zip(zero_q.iter().zip(q).zip(d)) {
        let multiplier = _mm512_set1_epi16(multiplier as i16);
        let (mut zeros, mut ones) = (nothing, nothing);
        let vectors = zero_q
            .as_chunks::<64>()
            .0
            .iter()
            .zip(q.as_chunks_mut::<64>().0);
        for ((zero_q, q), u) in vectors.zip(u.as_chunks::<2>().0) {
            let low = _mm512_mulhrs_epi16(load(&u[0]), multiplier);
            let high = _mm512_mulhrs_epi16(load(&u[1]), multiplier);
            let packed = _mm512_packs_epi16(low, high);
            zeros = _mm512_dpbusd_epi32(zeros, load(zero_q), packed);
            ones = _mm512_dpbusd_epi32(ones, one, packed);
            store(q, packed);
        }
        let factor = _mm512_set1_ps(scale);
        sums[0] = scaled(sums[0], zeros, factor);
        sums[1] = scaled(sums[1], ones, factor);
        *d = scale;
    }
}

/// Runs `block(units, q, scale, sums)` over the blocks of a row.
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot2(units: &[u8], q: &[i8], d: &[f32], ahead: *const u8, out: &mut [f32]) {
    let mut sums = [_mm512_setzero_ps(); 4];
    each_block!(dot2_block, 1, units, q, d, ahead, sums);
    // Multiplied in place, two bits up for every part after.
    let [a, b, c, d] = sums.map(|sum| fold(sum));
    let fields = _mm_setr_ps(1.0 / 64.0, 1.0 / 16.0, 1.0 / 4.0, 1.0);
    let totals = _mm_mul_ps(sums_of([a, b, c, d]), fields);
    // SAFETY: the array is 16 bytes long.
    unsafe { _mm_storeu_ps(out[..4].as_mut_ptr(), totals) };
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot2_block(units: &[u8; BLOCK], q: &[i8; BLOCK], d: f32, sums: &mut [__m512; 4]) {
    let mut acc = [_mm512_setzero_si512(); 4];
    for (units, q) in units.as_chunks::<64>().0.iter().zip(q.as_chunks::<64>().0) {
        let (v, q) = (load(units), load(q));
        for (part, acc) in acc.iter_mut().enumerate() {
            let field = _mm512_and_si512(v, _mm512_set1_epi8((0xc0u8 >> (2 * part)) as i8));
            *acc = _mm512_dpbusd_epi32(*acc, field, q);
        }
    }
    let d = _mm512_set1_ps(d);
    for (sum, acc) in sums.iter_mut().zip(acc) {
        *sum = scaled(*sum, acc, d);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot4(units: &[u8], q: &[i8], d: &[f32], ahead: *const u8, out: &mut [f32]) {
    let mut sums = [_mm512_setzero_ps(); 2];
    each_block!(dot4_block, 1, units, q, d, ahead, sums);
    out[0] = _mm512_reduce_add_ps(sums[0]) / 16.0;
    out[1] = _mm512_reduce_add_ps(sums[1]);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot4_block(units: &[u8; BLOCK], q: &[i8; BLOCK], d: f32, sums: &mut [__m512; 2]) {
    let mut acc = [_mm512_setzero_si512(); 2];
    for (units, q) in units.as_chunks::<64>().0.iter().zip(q.as_chunks::<64>().0) {
        let (v, q) = (load(units), load(q));
        for (part, acc) in acc.iter_mut().enumerate() {
            let field = _mm512_and_si512(v, _mm512_set1_epi8((0xf0u8 >> (4 * part)) as i8));
            *acc = _mm512_dpbusd_epi32(*acc, field, q);
        }
    }
    let d = _mm512_set1_ps(d);
    for (sum, acc) in sums.iter_mut().zip(acc) {
        *sum = scaled(*sum, acc, d);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot3(units: &[u8], q: &[i8], d: &[f32], ahead: *const u8, out: &mut [f32]) {
    let mut sums = [_mm512_setzero_ps(); 10];
    each_block!(dot3_block, 4, units, q, d, ahead, sums);
    for (part, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
        // Multiplied in place: bits 0, 3, 6, 9 or 12 of the lower or upper half.
        *out = _mm512_reduce_add_ps(sum) / (1 << (3 * ((9 - part) % 5))) as f32;
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot3_block(units: &[u8; 4 * BLOCK], q: &[i8; BLOCK], d: f32, sums: &mut [__m512; 10]) {
    // At most 16 * 28672 * 127 < 2^26 in magnitude.
    let mut acc = [_mm512_setzero_si512(); 10];
    for (units, q) in units.as_chunks::<64>().0.iter().zip(q.as_chunks::<16>().0) {
        // SAFETY: the array is 16 bytes long.
        let input = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(q.as_ptr().cast()) });
        let low = load(units);
        let high = _mm512_srli_epi32::<15>(low);
        for (part, acc) in acc.iter_mut().enumerate() {
            // The field lies in the lower 16 bits, so the product with the sign extension in the
            // upper ones is zero.
            let mask = _mm512_set1_epi32(7 << (3 * ((9 - part) % 5)));
            let field = _mm512_and_si512(if part < 5 { high } else { low }, mask);
            *acc = _mm512_dpwssd_epi32(*acc, field, input);
        }
    }
    let d = _mm512_set1_ps(d);
    for (sum, acc) in sums.iter_mut().zip(acc) {
        *sum = scaled(*sum, acc, d);
    }
}

/// Tokens of a register tile of four rows.
const TOKENS: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn mul_i16(
    tile: &[[i16; KB_I16]; TILE],
    size: (usize, usize),
    w_units: &[f32; TILE],
    x: &[[i16; KB_I16]],
    units: &[f32],
    acc: &mut [[f32; TILE]],
) {
    let (xs, x_rest) = x.as_chunks::<TOKENS>();
    let (us, u_rest) = units.as_chunks::<TOKENS>();
    let (accs, acc_rest) = acc.as_chunks_mut::<TOKENS>();
    for ((x, units), acc) in xs.iter().zip(us).zip(accs) {
        mul_i16_tokens(tile, size, w_units, x, units, acc);
    }
    for ((x, units), acc) in x_rest.iter().zip(u_rest).zip(acc_rest) {
        mul_i16_tokens(
            tile,
            size,
            w_units,
            from_ref(x),
            from_ref(units),
            from_mut(acc),
        );
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn mul_i16_tokens<const T: usize>(
    tile: &[[i16; KB_I16]; TILE],
    (rows, len): (usize, usize),
    w_units: &[f32; TILE],
    x: &[[i16; KB_I16]; T],
    units: &[f32; T],
    acc: &mut [[f32; TILE]; T],
) {
    let steps = len.div_ceil(32).min(KB_I16 / 32);
    for (quad, tile) in tile
        .as_chunks::<4>()
        .0
        .iter()
        .take(rows.div_ceil(4))
        .enumerate()
    {
        let mut sums = [[_mm512_setzero_si512(); 4]; T];
        for step in 0..steps {
            let w = [0, 1, 2, 3].map(|row: usize| load(&tile[row].as_chunks::<32>().0[step]));
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = load(&x.as_chunks::<32>().0[step]);
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm512_dpwssd_epi32(*sum, w, x);
                }
            }
        }
        for ((sums, x_unit), acc) in sums.into_iter().zip(units).zip(acc.iter_mut()) {
            let sums = sums_of(sums.map(|sum| fold(_mm512_cvtepi32_ps(sum))));
            let units = scaled_units(&w_units.as_chunks::<4>().0[quad], *x_unit);
            accumulate(&mut acc.as_chunks_mut::<4>().0[quad], sums, units);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn mul_f32(
    tile: &[[f32; KB_F32]; TILE],
    size: (usize, usize),
    x: &[[f32; KB_F32]],
    acc: &mut [[f32; TILE]],
) {
    let (xs, x_rest) = x.as_chunks::<TOKENS>();
    let (accs, acc_rest) = acc.as_chunks_mut::<TOKENS>();
    for (x, acc) in xs.iter().zip(accs) {
        mul_f32_tokens(tile, size, x, acc);
    }
    for (x, acc) in x_rest.iter().zip(acc_rest) {
        mul_f32_tokens(tile, size, from_ref(x), from_mut(acc));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn mul_f32_tokens<const T: usize>(
    tile: &[[f32; KB_F32]; TILE],
    (rows, len): (usize, usize),
    x: &[[f32; KB_F32]; T],
    acc: &mut [[f32; TILE]; T],
) {
    let steps = len.div_ceil(16).min(KB_F32 / 16);
    for (quad, tile) in tile
        .as_chunks::<4>()
        .0
        .iter()
        .take(rows.div_ceil(4))
        .enumerate()
    {
        let mut sums = [[_mm512_setzero_ps(); 4]; T];
        for step in 0..steps {
            let w = [0, 1, 2, 3].map(|row: usize| load(&tile[row].as_chunks::<16>().0[step]));
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = _mm512_castsi512_ps(load(&x.as_chunks::<16>().0[step]));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm512_fmadd_ps(_mm512_castsi512_ps(w), x, *sum);
                }
            }
        }
        for (sums, acc) in sums.into_iter().zip(acc.iter_mut()) {
            let sums = sums_of(sums.map(|sum| fold(sum)));
            accumulate(
                &mut acc.as_chunks_mut::<4>().0[quad],
                sums,
                _mm_set1_ps(1.0),
            );
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot_q8(
    w: &[[i8; Q8_BLOCK]],
    scale: &[f32],
    x: &[[i16; Q8_BLOCK]],
    units: &[f32],
    ahead: *const u8,
) -> f32 {
    let mut sum = _mm512_setzero_ps();
    let blocks = w.iter().zip(scale).zip(x.iter().zip(units));
    for (i, ((w, scale), (x, unit))) in blocks.enumerate() {
        prefetch(ahead, Q8_BLOCK * i, Q8_BLOCK);
        let mut acc = _mm512_setzero_si512();
        for (w, x) in w.as_chunks::<32>().0.iter().zip(x.as_chunks::<32>().0) {
            // SAFETY: the array is 32 bytes long.
            let w = unsafe { _mm256_loadu_si256(w.as_ptr().cast()) };
            acc = _mm512_dpwssd_epi32(acc, _mm512_cvtepi8_epi16(w), load(x));
        }
        sum = scaled(sum, acc, _mm512_set1_ps(scale * unit));
    }
    _mm512_reduce_add_ps(sum)
}
