//! IQ2 and IQ3 where there is no VBMI: grid entries are gathered, four values at a time.
//!
//! Lane `j` has the columns of group `j`: vector `m` its values `4m..4m + 4`, with the signs of
//! bits `4m..4m + 4` of 16.

use super::rows::{Decode, Weights};
use super::simd::{Simd, each4};
use super::types::{ONES, part};
use super::{IN_ORDER, LANES, Layout};
use crate::blocks::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};

const SIGNED: Layout = Layout::by_lane(IN_ORDER, ONES, 128);
const PLAIN: Layout = Layout::by_lane(IN_ORDER, ONES, 0);

/// `of(lane)` for each lane.
macro_rules! lanes {
    (|$lane:ident| $of:expr) => {{
        const ALL: [i32; LANES] = {
            let mut all = [0; LANES];
            let mut $lane = 0i32;
            while $lane < LANES as i32 {
                all[$lane as usize] = $of;
                $lane += 1;
            }
            all
        };
        &ALL
    }};
}

/// The same shift in all lanes.
#[inline(always)]
fn shr<S: Simd>(s: S, v: S::Bytes, by: i32) -> S::Bytes {
    s.shr(v, &[by; LANES])
}

#[inline(always)]
fn mask<S: Simd>(s: S, v: S::Bytes, mask: i32) -> S::Bytes {
    s.and(v, s.integers(&[mask; LANES]))
}

/// A sixteenth of 64 bits for each lane.
#[inline(always)]
fn sixteenths<S: Simd>(s: S, bytes: &[u8; 8]) -> S::Bytes {
    let [a, b, c, d, e, f, g, h] = *bytes;
    let (low, high) = (
        i32::from_le_bytes([a, b, c, d]),
        i32::from_le_bytes([e, f, g, h]),
    );
    let both = [
        low, low, low, low, low, low, low, low, high, high, high, high, high, high, high, high,
    ];
    mask(s, s.shr(s.integers(&both), lanes!(|lane| lane % 8 * 4)), 15)
}

/// 32 bytes at `AT`: each four lanes choose theirs by `order` from 16, whose first 8 are their part;
/// for the last four lanes it is the other 8, since the block may end there.
#[inline(always)]
fn eighths<S: Simd, const AT: usize, const N: usize>(
    s: S,
    b: &[u8; N],
    order: &[i32; LANES],
) -> S::Bytes {
    let piece = |at: usize| -> &[u8; 16] {
        match b[AT + at..].first_chunk() {
            Some(piece) => piece,
            None => unreachable!("BUG: a field beyond its block"),
        }
    };
    let v = s.load16([piece(0), piece(8), piece(16), piece(16)]);
    s.lookup(v, s.integers(order))
}

/// 16 of 32 bytes' bits for each lane.
#[inline(always)]
fn words<S: Simd, const AT: usize, const N: usize>(s: S, b: &[u8; N]) -> S::Bytes {
    eighths::<S, AT, N>(
        s,
        b,
        lanes!(|lane| {
            let at = lane % 4 * 2 + lane / 12 * 8;
            i32::from_le_bytes([at as u8, at as u8 + 1, 0x80, 0x80])
        }),
    )
}

/// Two times 7 signs in the low 14 bits of each lane, to two bytes with their eighth signs.
#[inline(always)]
fn even<S: Simd>(s: S, v: S::Bytes) -> S::Bytes {
    let second = mask(s, v, 0x3f80);
    let both = s.or(mask(s, v, 0x7f), s.add(second, second));
    let fold = s.xor(both, shr(s, both, 4));
    let fold = s.xor(fold, shr(s, fold, 2));
    let fold = mask(s, s.xor(fold, shr(s, fold, 1)), 0x0101);
    s.or(both, s.mul(fold, s.integers(&[128; LANES])))
}

/// Grid entries with 16 signs a lane.
#[inline(always)]
fn with_signs<S: Simd>(s: S, grid: [S::Bytes; 4], signs: S::Bytes) -> [S::Bytes; 4] {
    // The byte of the signs, four times; and which bit of it.
    let low = s.lookup(
        signs,
        s.integers(lanes!(|lane| 0x0101_0101 * (lane % 4 * 4))),
    );
    let high = s.lookup(
        signs,
        s.integers(lanes!(|lane| 0x0101_0101 * (lane % 4 * 4 + 1))),
    );
    let first = s.integers(&[i32::from_le_bytes([1, 2, 4, 8]); LANES]);
    let second = s.integers(&[i32::from_le_bytes([16, 32, 64, 128]); LANES]);
    let [a, b, c, d] = grid;
    let w = [
        s.minus_where(a, low, first),
        s.minus_where(b, low, second),
        s.minus_where(c, high, first),
        s.minus_where(d, high, second),
    ];
    each4!(w, |w| s.signed(w))
}

/// The entries of 8 values that two indices a lane name, by halves.
#[inline(always)]
fn pairs<S: Simd, const N: usize>(
    s: S,
    grid: &[[i8; 8]; N],
    [first, second]: [S::Bytes; 2],
) -> [S::Bytes; 4] {
    let one = s.integers(&[1; LANES]);
    let (first, second) = (s.add(first, first), s.add(second, second));
    let halves = grid.as_flattened().as_chunks::<4>().0;
    [
        s.gather(halves, first),
        s.gather(halves, s.or(first, one)),
        s.gather(halves, second),
        s.gather(halves, s.or(second, one)),
    ]
}

/// `(v + 1/2) * by * d`.
#[inline(always)]
fn half_steps<S: Simd>(s: S, v: S::Bytes, d: [u8; 2], by: f32) -> S::Floats {
    let half = s.floats(&[0.5; LANES]);
    let v = s.fma(s.convert(v), s.floats(&ONES), half);
    s.mul_f(v, s.mul_f(s.half(d), s.floats(&[by; LANES])))
}

/// Types that differ in how blocks become grid entries, signs and scales.
macro_rules! types {
    ($($type:ident, $n:literal, $paired:literal, |$s:ident, $b:ident| $decode:block)*) => {
        $(
            pub(in super::super) struct $type;

            impl<S: Simd> Decode<S, $n> for $type {
                const LAYOUT: &'static Layout = match S::SIGNED_OFFSET {
                    0 => &PLAIN,
                    _ => &SIGNED,
                };
                const SIGNED: bool = true;
                const PAIRED: bool = $paired;

                #[inline(always)]
                fn decode($s: S, $b: &[u8; $n]) -> Weights<S> {
                    let (grid, signs, scale): ([S::Bytes; 4], S::Bytes, S::Floats) = $decode;
                    Weights {
                        w: with_signs($s, grid, signs),
                        scale,
                        min: scale,
                    }
                }
            }
        )*
    };
}

types! {
    Iq3Xxs, 98, true, |s, b| {
        let all = s.load(part::<2, 64, 98>(b));
        let grid = each4!([0, 8, 16, 24], |by| s.gather(&IQ3_XXS, mask(s, shr(s, all, by), 255)));
        // Of two lanes a word.
        let word = eighths::<S, 66, 98>(s, b, lanes!(|lane| {
            let at = (lane % 4 / 2 * 4 + lane / 12 * 8) as u8;
            i32::from_le_bytes([at, at + 1, at + 2, at + 3])
        }));
        let sevens = mask(s, s.shr(word, lanes!(|lane| lane % 2 * 14)), 0x3fff);
        (grid, even(s, sevens), half_steps(s, shr(s, word, 28), [b[0], b[1]], 0.5))
    }
    Iq3S, 110, true, |s, b| {
        let all = s.load(part::<2, 64, 110>(b));
        let ninth = sixteenths(s, part::<66, 8, 110>(b));
        let ninth = s.mul(ninth, s.integers(&[256; LANES]));
        let grid = each4!([0, 1, 2, 3], |m| {
            let low = mask(s, shr(s, all, 8 * m), 255);
            s.gather(&IQ3_S, s.or(low, mask(s, shr(s, ninth, m), 256)))
        });
        let scales = s.integers(&[i32::from_le_bytes(*part::<106, 4, 110>(b)); LANES]);
        let scales = mask(s, s.shr(scales, lanes!(|lane| lane / 2 * 4)), 15);
        (grid, words::<S, 74, 110>(s, b), half_steps(s, scales, [b[0], b[1]], 2.0))
    }
    Iq2Xxs, 66, true, |s, b| {
        // Four indices and a word for every two pairs of groups.
        let all = s.load(part::<2, 64, 66>(b));
        let index = s.lookup(all, s.integers(lanes!(|lane| {
            let at = (lane % 4 / 2 * 8 + lane % 2 * 2) as u8;
            i32::from_le_bytes([at, at + 1, 0x80, 0x80])
        })));
        let word = s.lookup(all, s.integers(lanes!(|lane| {
            let at = (lane % 4 / 2 * 8 + 4) as u8;
            i32::from_le_bytes([at, at + 1, at + 2, at + 3])
        })));
        let grid = pairs(s, &IQ2_XXS, [mask(s, index, 255), shr(s, index, 8)]);
        let sevens = mask(s, s.shr(word, lanes!(|lane| lane % 2 * 14)), 0x3fff);
        (grid, even(s, sevens), half_steps(s, shr(s, word, 28), [b[0], b[1]], 0.25))
    }
    Iq2Xs, 74, false, |s, b| {
        let all = s.load(part::<2, 64, 74>(b));
        let grid = pairs(s, &IQ2_XS, [mask(s, all, 511), mask(s, shr(s, all, 16), 511)]);
        let sevens = s.or(mask(s, shr(s, all, 9), 0x7f), mask(s, shr(s, all, 18), 0x3f80));
        let scales = sixteenths(s, part::<66, 8, 74>(b));
        (grid, even(s, sevens), half_steps(s, scales, [b[0], b[1]], 0.25))
    }
    Iq2S, 82, false, |s, b| {
        let index = words::<S, 2, 82>(s, b);
        let upper = sixteenths(s, part::<66, 8, 82>(b));
        let upper = s.mul(upper, s.integers(&[256; LANES]));
        let first = s.or(mask(s, index, 255), mask(s, upper, 0x300));
        let second = s.or(shr(s, index, 8), mask(s, shr(s, upper, 2), 0x300));
        let scales = sixteenths(s, part::<74, 8, 82>(b));
        (
            pairs(s, &IQ2_S, [first, second]),
            words::<S, 34, 82>(s, b),
            half_steps(s, scales, [b[0], b[1]], 0.25),
        )
    }
}
