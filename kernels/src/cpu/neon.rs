//! NEON, which every 64-bit Arm has. Loops that are not here are vectorized by the compiler.

use std::arch::aarch64::*;
use std::arch::asm;
use std::array::{from_mut, from_ref};

use super::common::requantize;
use super::{BLOCK, GroupInput, KB_F32, KB_I16, Kernels, Level, TILE, scalar};

pub(super) static KERNELS: Kernels = Kernels {
    level: Level::Neon,
    group_input,
    dot2,
    dot4,
    mul_i16,
    mul_f32,
    ..scalar::KERNELS
};

#[inline]
#[target_feature(enable = "neon")]
fn load_u8(values: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the array is 16 bytes long.
    unsafe { vld1q_u8(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_i8(values: &[i8; 16]) -> int8x16_t {
    // SAFETY: the array is 16 bytes long.
    unsafe { vld1q_s8(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_i16(values: &[i16; 8]) -> int16x8_t {
    // SAFETY: the array is 16 bytes long.
    unsafe { vld1q_s16(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f32(values: &[f32; 4]) -> float32x4_t {
    // SAFETY: the array is 16 bytes long.
    unsafe { vld1q_f32(values.as_ptr()) }
}

/// Fetches the lines of `bytes` bytes at `ahead + offset` to come.
#[inline]
fn prefetch(ahead: *const u8, offset: usize, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        let address = ahead.wrapping_add(offset + line);
        // SAFETY: a prefetch of any address is allowed and has no effect on the program.
        unsafe {
            asm!("prfm pldl2keep, [{0}]", in(reg) address,
                options(nostack, preserves_flags, readonly));
        }
    }
}

/// A block of up to `N` bytes, zero-padded.
fn padded<const N: usize>(tail: &[u8]) -> [u8; N] {
    let mut block = [0; N];
    block[..tail.len()].copy_from_slice(tail);
    block
}

#[target_feature(enable = "neon")]
fn group_input(input: GroupInput<'_>, q: &mut [i8], d: &mut [f32]) -> f32 {
    let (mut zeros, mut ones) = (0f32, 0f32);
    let scales = input.scale_q.chunks(BLOCK).zip(input.zero_q.chunks(BLOCK));
    let tables = input.table.iter().zip(input.unit);
    let outs = q.as_chunks_mut::<BLOCK>().0.iter_mut().zip(d);
    for (i, (((scale_q, zero_q), (table, unit)), (q, d))) in
        scales.zip(tables).zip(outs).enumerate()
    {
        for ahead in input.ahead {
            prefetch(ahead, BLOCK * i, BLOCK);
        }
        let (scale_q, zero_q): ([u8; BLOCK], [u8; BLOCK]) = (padded(scale_q), padded(zero_q));
        let (scale, zero_sum, sum) = input_block(&scale_q, &zero_q, table, *unit, q);
        *d = scale;
        zeros += zero_sum as f32 * scale;
        ones += sum as f32 * scale;
    }
    (zeros - input.zero_zero * ones) * input.zero_scale
}

/// One block of `group_input`: the scale, the sum of `zero_q * u` and that of `u`.
#[inline]
#[target_feature(enable = "neon")]
fn input_block(
    scale_q: &[u8; BLOCK],
    zero_q: &[u8; BLOCK],
    table: &[i16; 2 * BLOCK],
    unit: f32,
    q: &mut [i8; BLOCK],
) -> (f32, i32, i32) {
    let nothing = vdupq_n_u8(0);
    let sign = vdupq_n_u8(0x80);
    let (table, offsets) = table.as_chunks::<8>().0.split_at(BLOCK / 8);
    let mut u = [vdupq_n_s16(0); BLOCK / 8];
    let mut max = vdupq_n_s16(0);
    for (i, scale_q) in scale_q.as_chunks::<16>().0.iter().enumerate() {
        let v = veorq_u8(load_u8(scale_q), sign);
        let at = i / 4 * 8 + i % 4;
        let low = vreinterpretq_s16_u8(vzip1q_u8(nothing, v));
        let high = vreinterpretq_s16_u8(vzip2q_u8(nothing, v));
        let low = vqrdmulhq_s16(low, load_i16(&table[at]));
        let high = vqrdmulhq_s16(high, load_i16(&table[at + 4]));
        u[2 * i] = vsubq_s16(low, load_i16(&offsets[at]));
        u[2 * i + 1] = vsubq_s16(high, load_i16(&offsets[at + 4]));
        max = vmaxq_s16(max, vmaxq_s16(vabsq_s16(u[2 * i]), vabsq_s16(u[2 * i + 1])));
    }
    let (mut multiplier, mut scale) = ([0], [0.0]);
    let room = (i16::MAX - vmaxvq_s16(max)) as u16;
    requantize(&[room], &[unit], &mut multiplier, &mut scale);

    let multiplier = vdupq_n_s16(multiplier[0] as i16);
    let (mut zeros, mut ones) = (vdupq_n_s32(0), vdupq_n_s32(0));
    let vectors = zero_q
        .as_chunks::<16>()
        .0
        .iter()
        .zip(q.as_chunks_mut::<16>().0);
    for ((zero_q, q), u) in vectors.zip(u.as_chunks::<2>().0) {
        let low = vqrdmulhq_s16(u[0], multiplier);
        let high = vqrdmulhq_s16(u[1], multiplier);
        let zero = load_u8(zero_q);
        let zero_low = vreinterpretq_s16_u8(vzip1q_u8(zero, nothing));
        let zero_high = vreinterpretq_s16_u8(vzip2q_u8(zero, nothing));
        zeros = vmlal_s16(zeros, vget_low_s16(zero_low), vget_low_s16(low));
        zeros = vmlal_high_s16(zeros, zero_low, low);
        zeros = vmlal_s16(zeros, vget_low_s16(zero_high), vget_low_s16(high));
        zeros = vmlal_high_s16(zeros, zero_high, high);
        ones = vpadalq_s16(ones, vaddq_s16(low, high));
        // SAFETY: the array is 16 bytes long.
        unsafe {
            vst1q_s8(
                q.as_mut_ptr(),
                vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)),
            )
        };
    }
    (scale[0], vaddvq_s32(zeros), vaddvq_s32(ones))
}

/// `acc + units * q` in pairs of lanes.
#[inline]
#[target_feature(enable = "neon")]
fn multiply(acc: int16x8_t, units: uint8x16_t, q: int8x16_t) -> int16x8_t {
    let units = vreinterpretq_s8_u8(units);
    vmlal_high_s8(vmlal_s8(acc, vget_low_s8(units), vget_low_s8(q)), units, q)
}

/// `sum + d * acc`.
#[inline]
#[target_feature(enable = "neon")]
fn scaled(sum: float32x4_t, acc: int16x8_t, d: f32) -> float32x4_t {
    vfmaq_n_f32(sum, vcvtq_f32_s32(vpaddlq_s16(acc)), d)
}

#[target_feature(enable = "neon")]
fn dot2(units: &[u8], q: &[i8], d: &[f32], ahead: *const u8, out: &mut [f32]) {
    let mut sums = [vdupq_n_f32(0.0); 4];
    let blocks = units.chunks(BLOCK).zip(q.as_chunks::<BLOCK>().0).zip(d);
    for (i, ((units, q), d)) in blocks.enumerate() {
        prefetch(ahead, BLOCK * i, BLOCK);
        match units.try_into() {
            Ok(units) => dot2_block(units, q, *d, &mut sums),
            Err(_) => dot2_block(&padded(units), q, *d, &mut sums),
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = vaddvq_f32(sum);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn dot2_block(units: &[u8; BLOCK], q: &[i8; BLOCK], d: f32, sums: &mut [float32x4_t; 4]) {
    let mask = vdupq_n_u8(3);
    // At most 32 * 3 * 127 = 12192 in magnitude.
    let mut acc = [vdupq_n_s16(0); 4];
    for (units, q) in units.as_chunks::<16>().0.iter().zip(q.as_chunks::<16>().0) {
        let (v, q) = (load_u8(units), load_i8(q));
        let parts = [
            vshrq_n_u8::<6>(v),
            vandq_u8(vshrq_n_u8::<4>(v), mask),
            vandq_u8(vshrq_n_u8::<2>(v), mask),
            vandq_u8(v, mask),
        ];
        for (acc, part) in acc.iter_mut().zip(parts) {
            *acc = multiply(*acc, part, q);
        }
    }
    for (sum, acc) in sums.iter_mut().zip(acc) {
        *sum = scaled(*sum, acc, d);
    }
}

#[target_feature(enable = "neon")]
fn dot4(units: &[u8], q: &[i8], d: &[f32], ahead: *const u8, out: &mut [f32]) {
    let mut sums = [vdupq_n_f32(0.0); 2];
    let blocks = units.chunks(BLOCK).zip(q.as_chunks::<BLOCK>().0).zip(d);
    for (i, ((units, q), d)) in blocks.enumerate() {
        prefetch(ahead, BLOCK * i, BLOCK);
        match units.try_into() {
            Ok(units) => dot4_block(units, q, *d, &mut sums),
            Err(_) => dot4_block(&padded(units), q, *d, &mut sums),
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = vaddvq_f32(sum);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn dot4_block(units: &[u8; BLOCK], q: &[i8; BLOCK], d: f32, sums: &mut [float32x4_t; 2]) {
    let mask = vdupq_n_u8(15);
    for (units, q) in units
        .as_chunks::<128>()
        .0
        .iter()
        .zip(q.as_chunks::<128>().0)
    {
        // At most 16 * 15 * 127 = 30480 in magnitude.
        let mut acc = [vdupq_n_s16(0); 2];
        for (units, q) in units.as_chunks::<16>().0.iter().zip(q.as_chunks::<16>().0) {
            let (v, q) = (load_u8(units), load_i8(q));
            acc[0] = multiply(acc[0], vshrq_n_u8::<4>(v), q);
            acc[1] = multiply(acc[1], vandq_u8(v, mask), q);
        }
        for (sum, acc) in sums.iter_mut().zip(acc) {
            *sum = scaled(*sum, acc, d);
        }
    }
}

/// Tokens of a register tile of four rows.
const TOKENS: usize = 2;

#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
fn mul_i16_tokens<const T: usize>(
    tile: &[[i16; KB_I16]; TILE],
    (rows, len): (usize, usize),
    w_units: &[f32; TILE],
    x: &[[i16; KB_I16]; T],
    units: &[f32; T],
    acc: &mut [[f32; TILE]; T],
) {
    let steps = len.div_ceil(8).min(KB_I16 / 8);
    for (quad, tile) in tile
        .as_chunks::<4>()
        .0
        .iter()
        .take(rows.div_ceil(4))
        .enumerate()
    {
        // Two vectors a sum: with one, 128 products would meet in a lane, and 64 are safe.
        let mut sums = [[[vdupq_n_s32(0); 2]; 4]; T];
        for step in 0..steps {
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = load_i16(&x.as_chunks::<8>().0[step]);
                for (sum, row) in sums.iter_mut().zip(tile) {
                    let w = load_i16(&row.as_chunks::<8>().0[step]);
                    sum[0] = vmlal_s16(sum[0], vget_low_s16(w), vget_low_s16(x));
                    sum[1] = vmlal_high_s16(sum[1], w, x);
                }
            }
        }
        for ((sums, x_unit), acc) in sums.into_iter().zip(units).zip(acc.iter_mut()) {
            let rows = acc[4 * quad..].iter_mut().zip(&w_units[4 * quad..]);
            for (sum, (acc, w_unit)) in sums.into_iter().zip(rows) {
                let sum = vaddq_f32(vcvtq_f32_s32(sum[0]), vcvtq_f32_s32(sum[1]));
                *acc += vaddvq_f32(sum) * (w_unit * x_unit);
            }
        }
    }
}

#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
fn mul_f32_tokens<const T: usize>(
    tile: &[[f32; KB_F32]; TILE],
    (rows, len): (usize, usize),
    x: &[[f32; KB_F32]; T],
    acc: &mut [[f32; TILE]; T],
) {
    let steps = len.div_ceil(4).min(KB_F32 / 4);
    for (quad, tile) in tile
        .as_chunks::<4>()
        .0
        .iter()
        .take(rows.div_ceil(4))
        .enumerate()
    {
        let mut sums = [[vdupq_n_f32(0.0); 4]; T];
        for step in 0..steps {
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = load_f32(&x.as_chunks::<4>().0[step]);
                for (sum, row) in sums.iter_mut().zip(tile) {
                    *sum = vfmaq_f32(*sum, load_f32(&row.as_chunks::<4>().0[step]), x);
                }
            }
        }
        for (sums, acc) in sums.into_iter().zip(acc.iter_mut()) {
            for (sum, acc) in sums.into_iter().zip(&mut acc[4 * quad..]) {
                *acc += vaddvq_f32(sum);
            }
        }
    }
}
