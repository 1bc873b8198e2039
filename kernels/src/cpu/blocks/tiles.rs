//! Rows by many tokens: a span of 16 rows is decoded and turned, so that each 32-bit lane is a row
//! of its own.
//!
//! Products then need no sum across lanes, and the scales of 16 rows are one vector. Activations
//! are broadcast, four columns at a time.

use std::arch::x86_64::{__m128i, _mm_storeu_si128};

use super::rows::Decode;
use super::simd::{Simd, each4};
use super::{BlockTile, HalfTile, LANES, TileLayout, TileSpace};

/// The order of activations for tiles of a type.
pub(super) fn layout<S: Simd, K: Decode<S, N>, const N: usize>() -> TileLayout {
    TileLayout {
        order: K::TILE_LAYOUT,
        paired: K::PAIRED,
        paired_min: K::PAIRED_MIN,
    }
}

/// Decodes a span of all rows; rows that are not there become zero.
#[inline(always)]
pub(super) fn fill<S: Simd, K: Decode<S, N>, const N: usize>(
    s: S,
    rows: &BlockTile<'_>,
    i: usize,
    space: &mut TileSpace,
) {
    for (half, tile) in space.halves.iter_mut().enumerate() {
        for quad in 0..4 {
            let first = 16 * half + 4 * quad;
            fill_quad::<S, K, N>(s, rows, i, first, tile);
        }
    }
}

/// Decodes a span of four rows.
#[inline(always)]
fn fill_quad<S: Simd, K: Decode<S, N>, const N: usize>(
    s: S,
    rows: &BlockTile<'_>,
    i: usize,
    first: usize,
    tile: &mut HalfTile,
) {
    let quad = first / 4 % 4;
    let weights = each4!([0, 1, 2, 3], |r| {
        let row: usize = first + r;
        let bytes = rows.bytes.get(row * rows.row_bytes..).unwrap_or_default();
        let bytes = &bytes[..rows.row_bytes.min(bytes.len())];
        let at = (i * N).min(bytes.len().saturating_sub(N));
        s.prefetch(bytes.as_ptr().wrapping_add(at + N), N);
        match bytes[at..].first_chunk() {
            Some(span) => K::tile(s, span),
            None => K::tile(s, &padded(bytes)),
        }
    });
    let [a, b, c, d] = &weights;
    for m in 0..4 {
        turn(s, [a.w[m], b.w[m], c.w[m], d.w[m]], |lane, v| {
            let group = K::TILE_LAYOUT.groups[lane] as usize % LANES;
            store(&mut tile.q[group][m][quad], v);
        });
    }
    turn(s, each4!([a, b, c, d], |w| s.bits(w.scale)), |lane, v| {
        let group = K::TILE_LAYOUT.groups[lane] as usize % LANES;
        let scale = &mut tile.scale[group].as_chunks_mut::<4>().0[quad];
        store(scale, v);
    });
    if K::MIN {
        turn(s, each4!([a, b, c, d], |w| s.bits(w.min)), |lane, v| {
            let group = K::TILE_LAYOUT.groups[lane] as usize % LANES;
            let min = &mut tile.min[group].as_chunks_mut::<4>().0[quad];
            store(min, v);
        });
    }
}

#[cold]
#[inline(never)]
fn padded<const N: usize>(row: &[u8]) -> [u8; N] {
    let mut span = [0; N];
    span[..row.len()].copy_from_slice(row);
    span
}

/// Each lane of four vectors.
#[inline(always)]
fn turn<S: Simd>(s: S, v: [S::Bytes; 4], mut each: impl FnMut(usize, __m128i)) {
    for (column, v) in s.transpose(v).into_iter().enumerate() {
        for (piece, v) in s.quarters(v).into_iter().enumerate() {
            each(4 * piece + column, v);
        }
    }
}

#[inline(always)]
fn store<T: Copy, const N: usize>(out: &mut [T; N], v: __m128i) {
    const { assert!(size_of::<T>() * N == 16) };
    // SAFETY: the array is 16 bytes long, every bit pattern is a number, and x86-64 has SSE2.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), v) };
}
