//! The reference: plain Rust on every machine.

use super::blocks::common::block_kernels;
use super::blocks::{
    self, BlockRows, BlockTile, Layout, NATURAL, TILE_ROWS, TileLayout, TileSpace, XBlock,
};
use super::common::{self, common_kernels, requantize, table_slot};
use super::{BLOCK, GroupInput, KB_F32, KB_I16, Kernels, Level, Q8_BLOCK, TILE, Units};
use crate::blocks::BlockType;
use crate::layout::f16_at;
use half::f16;

pub(super) static KERNELS: Kernels = Kernels {
    level: Level::Scalar,
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

common_kernels!();
block_kernels!();

fn block_layout(_kind: BlockType) -> &'static Layout {
    &NATURAL
}

fn block_rows(rows: &BlockRows<'_>, out: &mut [f32]) {
    blocks::common::block_rows(rows, out);
}

fn tile_layout(_kind: BlockType) -> TileLayout {
    TileLayout::plain(&NATURAL)
}

fn block_tile(tile: &BlockTile<'_>, _space: &mut TileSpace, sums: &mut [[f32; TILE_ROWS]]) {
    blocks::common::block_tile(tile, sums);
}

/// `a * b / 2^15`, rounded, as the instruction of that name.
fn mulhrs(a: i16, b: i16) -> i16 {
    ((i32::from(a) * i32::from(b) + (1 << 14)) >> 15) as i16
}

pub(super) fn group_input(input: GroupInput<'_>, q: &mut [i8], d: &mut [f32]) -> f32 {
    let (mut zeros, mut ones) = (0f32, 0f32);
    let scales = input.scale_q.chunks(BLOCK).zip(input.zero_q.chunks(BLOCK));
    let tables = input.table.iter().zip(input.unit);
    let outs = q.as_chunks_mut::<BLOCK>().0.iter_mut().zip(d);
    for (((scale_q, zero_q), (table, unit)), (q, d)) in scales.zip(tables).zip(outs) {
        let mut u = [0i16; BLOCK];
        for (i, (u, s)) in u.iter_mut().zip(scale_q).enumerate() {
            let v = i16::from_be_bytes([s ^ 0x80, 0]);
            let slot = table_slot(i);
            *u = mulhrs(v, table[slot]) - table[BLOCK + slot];
        }
        let max = u.iter().map(|u| i32::from(*u).abs()).max().unwrap_or(0);
        let (mut multiplier, mut scale) = ([0], [0.0]);
        let room = (i32::from(i16::MAX) - max) as u16;
        requantize(&[room], &[*unit], &mut multiplier, &mut scale);
        let (multiplier, scale) = (multiplier[0] as i16, scale[0]);
        let (mut zero_sum, mut sum) = (0i32, 0i32);
        for (i, (q, u)) in q.iter_mut().zip(u).enumerate() {
            *q = mulhrs(u, multiplier) as i8;
            zero_sum += zero_q.get(i).map_or(0, |z| i32::from(*z) * i32::from(*q));
            sum += i32::from(*q);
        }
        *d = scale;
        zeros += zero_sum as f32 * scale;
        ones += sum as f32 * scale;
    }
    (zeros - input.zero_zero * ones) * input.zero_scale
}

/// Sums of parts whose `part`-th value of a unit is `field(unit, part)`.
fn dot_parts<const BYTES: usize>(
    units: &[u8],
    q: &[i8],
    d: &[f32],
    out: &mut [f32],
    field: impl Fn([u8; BYTES], usize) -> i32,
) {
    out.fill(0.0);
    let units = units.as_chunks::<BYTES>().0;
    for ((units, q), d) in units.chunks(BLOCK).zip(q.chunks(BLOCK)).zip(d) {
        for (part, out) in out.iter_mut().enumerate() {
            let sum: i32 = units
                .iter()
                .zip(q)
                .map(|(u, q)| field(*u, part) * i32::from(*q))
                .sum();
            *out += sum as f32 * d;
        }
    }
}

fn dot2(units: &[u8], q: &[i8], d: &[f32], _ahead: *const u8, out: &mut [f32]) {
    dot_parts(units, q, d, &mut out[..4], |[u], part| {
        i32::from(u >> (6 - 2 * part) & 3)
    });
}

fn dot3(units: &[u8], q: &[i8], d: &[f32], _ahead: *const u8, out: &mut [f32]) {
    dot_parts(units, q, d, &mut out[..10], |u, part| {
        (u32::from_le_bytes(u) >> (27 - 3 * part) & 7) as i32
    });
}

fn dot4(units: &[u8], q: &[i8], d: &[f32], _ahead: *const u8, out: &mut [f32]) {
    dot_parts(units, q, d, &mut out[..2], |[u], part| {
        i32::from(u >> (4 - 4 * part) & 15)
    });
}

fn mul_i16(
    tile: &[[i16; KB_I16]; TILE],
    (rows, len): (usize, usize),
    w_units: &[f32; TILE],
    x: &[[i16; KB_I16]],
    units: &[f32],
    acc: &mut [[f32; TILE]],
) {
    for ((x, x_unit), acc) in x.iter().zip(units).zip(acc) {
        for ((row, w_unit), acc) in tile[..rows].iter().zip(w_units).zip(acc) {
            let mut lanes = [0i32; 8];
            for (i, (a, b)) in row[..len].iter().zip(&x[..len]).enumerate() {
                lanes[i % 8] += i32::from(*a) * i32::from(*b);
            }
            *acc += lanes.iter().map(|l| *l as f32).sum::<f32>() * (w_unit * x_unit);
        }
    }
}

fn mul_f32(
    tile: &[[f32; KB_F32]; TILE],
    (rows, len): (usize, usize),
    x: &[[f32; KB_F32]],
    acc: &mut [[f32; TILE]],
) {
    for (x, acc) in x.iter().zip(acc) {
        for (row, acc) in tile[..rows].iter().zip(acc) {
            let mut lanes = [0f32; 8];
            for (a, b) in row[..len]
                .as_chunks::<8>()
                .0
                .iter()
                .zip(x.as_chunks::<8>().0)
            {
                for i in 0..8 {
                    lanes[i] += a[i] * b[i];
                }
            }
            *acc += lanes.iter().sum::<f32>();
        }
    }
}

pub(super) fn f16_to_f32(src: &[u8], dst: &mut [f32]) {
    for (i, dst) in dst.iter_mut().enumerate() {
        *dst = f16_at(src, i);
    }
}

pub(super) fn f32_to_f16(src: &[f32], dst: &mut [u8]) {
    for (src, dst) in src.iter().zip(dst.as_chunks_mut::<2>().0) {
        *dst = f16::from_f32(*src).to_le_bytes();
    }
}

pub(super) fn dot_f16(a: &[f32], b: &[u8]) -> f32 {
    let mut lanes = [0f32; 8];
    for (i, a) in a.iter().enumerate() {
        lanes[i % 8] += a * f16_at(b, i);
    }
    lanes.iter().sum()
}

pub(super) fn axpy_f16(alpha: f32, x: &[u8], y: &mut [f32]) {
    for (i, y) in y.iter_mut().enumerate() {
        *y += alpha * f16_at(x, i);
    }
}

fn dot_q8(
    w: &[[i8; Q8_BLOCK]],
    scale: &[f32],
    x: &[[i16; Q8_BLOCK]],
    units: &[f32],
    _ahead: *const u8,
) -> f32 {
    let mut total = 0f32;
    for ((w, scale), (x, unit)) in w.iter().zip(scale).zip(x.iter().zip(units)) {
        let sum: i32 = w
            .iter()
            .zip(x)
            .map(|(w, x)| i32::from(*w) * i32::from(*x))
            .sum();
        total += sum as f32 * (scale * unit);
    }
    total
}
