//! The loop over the rows of a block matrix, for any type and instruction set.

use super::simd::Simd;
use super::{BlockRows, Layout, XBlock};
use crate::blocks::WIDTH;

/// How far ahead of the multiplication weights are fetched, into the second-level cache.
const AHEAD_BYTES: usize = 4 << 10;

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
    for (row, bytes) in rows.bytes.chunks_exact(rows.row_bytes).enumerate() {
        let mut sums = [s.zero(); T];
        let bytes = if bytes.len() < N {
            padded[..bytes.len()].copy_from_slice(bytes);
            &padded
        } else {
            bytes
        };
        let last = bytes.len() - N;
        for i in 0..spans {
            let at = (i * N).min(last);
            let Some(span) = bytes[at..].first_chunk::<N>() else {
                unreachable!("BUG: a span beyond its row")
            };
            s.prefetch(span.as_ptr().wrapping_add(AHEAD_BYTES), N);
            let weights = K::decode(s, span);
            for (sum, x) in sums.iter_mut().zip(&x) {
                let x = &x[i];
                let mut lanes = s.integers(&x.start);
                for (w, x) in weights.w.iter().zip(x.q.as_chunks::<64>().0) {
                    lanes = match K::SIGNED {
                        true => s.dot_signed(lanes, *w, x),
                        false => s.dot(lanes, *w, x),
                    };
                }
                let scale = s.mul_f(weights.scale, s.floats(&x.unit));
                *sum = s.fma(s.convert(lanes), scale, *sum);
                if K::MIN {
                    *sum = s.fnma(weights.min, s.floats(&x.sum), *sum);
                }
            }
        }
        for (token, sum) in sums.into_iter().enumerate() {
            out[token * count + row] = s.sum(sum);
        }
    }
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
