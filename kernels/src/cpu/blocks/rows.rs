//! The loop over the rows of a block matrix, for any type and instruction set.

use super::simd::Simd;
use super::{BlockRows, Layout, XBlock};
use crate::blocks::WIDTH;

/// How far ahead of the multiplication weights are fetched, into the second-level cache.
const AHEAD_BYTES: usize = 8 << 10;

/// The weights of a span: four vectors of which each 32-bit lane holds weights of one group of 16
/// columns, the groups' scales and, for types that have them, minima.
pub(in super::super) struct Weights<S: Simd> {
    pub w: [S::Bytes; 4],
    pub scale: S::Floats,
    pub min: S::Floats,
}

/// A type of blocks; `N` are the bytes of a span.
pub(in super::super) trait Decode<S: Simd, const N: usize> {
    /// The order of activations that goes with `decode`.
    const LAYOUT: &'static Layout;
    /// Whether weights are `scale * q - min`; else `min` is not looked at.
    const MIN: bool = false;
    /// Whether the weights were made by [`Simd::signed`].
    const SIGNED: bool = false;

    fn decode(s: S, span: &[u8; N]) -> Weights<S>;

    /// Whether 32 columns share a scale in `tile`.
    const PAIRED: bool = false;
    /// Whether they share a minimum.
    const PAIRED_MIN: bool = Self::PAIRED;
    /// The largest weight of `tile`, the layout's offset included.
    const MOST: i16 = 128;
    /// The order of activations that goes with `tile`.
    const TILE_LAYOUT: &'static Layout = Self::LAYOUT;

    /// As `decode`, for weights that are decoded once for many tokens.
    #[inline(always)]
    fn tile(s: S, span: &[u8; N]) -> Weights<S> {
        Self::decode(s, span)
    }
}

/// `out[token][row]` for `T` tokens.
#[inline(always)]
pub(in super::super) fn rows<S: Simd, K: Decode<S, N>, const N: usize, const T: usize>(
    s: S,
    rows: &BlockRows<'_>,
    x: &[XBlock],
    out: &mut [f32],
) {
    let spans = rows.k.div_ceil(WIDTH);
    let count = rows.bytes.len() / rows.row_bytes;
    let x: [&[XBlock]; T] = std::array::from_fn(|token| &x[token * spans..][..spans]);
    let mut padded = [0u8; N];
    for (row, mut bytes) in rows.bytes.chunks_exact(rows.row_bytes).enumerate() {
        if bytes.len() < N {
            padded[..bytes.len()].copy_from_slice(bytes);
            bytes = &padded;
        }
        for (token, sum) in one_row::<S, K, N, T>(s, bytes, x).into_iter().enumerate() {
            out[token * count + row] = sum;
        }
    }
}

/// The products of a row, at least a span long, with `T` tokens.
#[inline(always)]
fn one_row<S: Simd, K: Decode<S, N>, const N: usize, const T: usize>(
    s: S,
    row: &[u8],
    x: [&[XBlock]; T],
) -> [f32; T] {
    let mut sums = [s.zero(); T];
    // Apart from the others, so that no addition waits for the other.
    let mut minima = [s.zero(); T];
    let last = row.len() - N;
    for i in 0..x[0].len() {
        let Some(span) = row[(i * N).min(last)..].first_chunk::<N>() else {
            unreachable!("BUG: a span beyond its row")
        };
        s.prefetch(span.as_ptr().wrapping_add(AHEAD_BYTES), N);
        let weights = K::decode(s, span);
        for t in 0..T {
            let x = &x[t][i];
            let q = x.q.as_chunks::<64>().0;
            let mut lanes = s.integers(&x.start);
            for (w, q) in weights.w.iter().zip(q) {
                lanes = match K::SIGNED {
                    true => s.dot_signed(lanes, *w, q),
                    false => s.dot(lanes, *w, q),
                };
            }
            let scale = s.mul_f(weights.scale, s.floats(&x.unit));
            sums[t] = s.fma(s.convert(lanes), scale, sums[t]);
            if K::MIN {
                minima[t] = s.fma(weights.min, s.floats(&x.sum), minima[t]);
            }
        }
    }
    let mut out = [0.0; T];
    for t in 0..T {
        out[t] = match K::MIN {
            true => s.sum(s.sub_f(sums[t], minima[t])),
            false => s.sum(sums[t]),
        };
    }
    out
}

/// Calls `$each(x, out, T)` for runs of 4, 2 and 1 tokens.
macro_rules! each_tokens {
    ($rows:ident, $out:ident, |$x:ident, $part:ident, $t:ident| $each:expr) => {{
        let spans = $rows.k.div_ceil(WIDTH);
        let count = $rows.bytes.len() / $rows.row_bytes;
        let tokens = $rows.x.len() / spans;
        let mut token = 0;
        while token < tokens {
            let $x = &$rows.x[token * spans..];
            let $part = &mut $out[token * count..];
            token += match tokens - token {
                1 => {
                    const $t: usize = 1;
                    $each;
                    $t
                }
                2 | 3 => {
                    const $t: usize = 2;
                    $each;
                    $t
                }
                _ => {
                    const $t: usize = 4;
                    $each;
                    $t
                }
            };
        }
    }};
}
pub(in super::super) use each_tokens;
