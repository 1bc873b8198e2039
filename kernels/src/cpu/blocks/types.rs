//! How each type's blocks become vectors of weights. The layouts are in
//! [`crate::blocks`]' scalar code, value by value; here each 32-bit lane collects one group of 16.

use super::rows::{Decode, Weights};
use super::simd::{Simd, each2, each4};
use super::{LANES, Layout};
use crate::blocks::{IQ4_LEVELS, MXFP4_LEVELS};

/// `N` bytes at `AT` of a block.
#[inline(always)]
pub(super) fn part<const AT: usize, const LEN: usize, const N: usize>(
    block: &[u8; N],
) -> &[u8; LEN] {
    const { assert!(AT + LEN <= N) };
    match block[AT..].first_chunk() {
        Some(part) => part,
        None => unreachable!("BUG: a field beyond its block"),
    }
}

/// Numbers made of a lane's `i = lane / 4` and `r = lane % 4`.
macro_rules! by_lane {
    ($type:ty, |$i:ident, $r:ident| $of:expr) => {{
        let mut all = [0 as $type; LANES];
        let mut lane = 0;
        while lane < LANES {
            let ($i, $r) = (lane / 4, lane % 4);
            all[lane] = $of as $type;
            lane += 1;
        }
        all
    }};
}

/// The vectors made of each 32-bit integer of 16 bytes, of `a` and of `b`.
#[inline(always)]
fn quads<S: Simd>(s: S, a: S::Bytes, b: S::Bytes) -> [S::Bytes; 4] {
    [
        s.quads::<0x00>(a, b),
        s.quads::<0x55>(a, b),
        s.quads::<0xaa>(a, b),
        s.quads::<0xff>(a, b),
    ]
}

/// The same byte everywhere.
#[inline(always)]
fn splat<S: Simd>(s: S, byte: u8) -> S::Bytes {
    s.load(&[byte; 64])
}

/// The first or second half of each byte, in every other lane, as small integers.
#[inline(always)]
fn nibbles<S: Simd>(s: S, v: S::Bytes) -> S::Bytes {
    const SHIFT: [i32; LANES] = by_lane!(i32, |_i, r| r % 2 * 4);
    s.and(s.shr(v, &SHIFT), splat(s, 15))
}

/// The same, but where the instruction set allows, second halves stay where they are: 16 times as
/// large (see [`nibble_factor`]).
#[inline(always)]
fn nibbles_in_place<S: Simd>(s: S, v: S::Bytes) -> S::Bytes {
    const MASK: [i32; LANES] = by_lane!(i32, |_i, r| 0x0f0f_0f0f << (r % 2 * 4));
    if S::WIDE {
        s.and(v, s.integers(&MASK))
    } else {
        nibbles(s, v)
    }
}

const fn nibble_factor(wide: bool) -> [f32; LANES] {
    let mut all = [1.0; LANES];
    let mut lane = 0;
    while lane < LANES {
        if wide && lane % 2 == 1 {
            all[lane] = 1.0 / 16.0;
        }
        lane += 1;
    }
    all
}

pub(super) const ONES: [f32; LANES] = [1.0; LANES];

/// The 8 bytes of `v` from `8 * HALF` on that belong to the groups of 32 of Q4_K's lanes.
const fn sub_order(high: u8) -> [u8; 16] {
    by_lane!(u8, |i, r| 2 * (i / 2 + 2 * (r / 2)) + r % 2 + high as usize)
}

/// Q4_K, Q5_K: lane 4i + r has half `i % 2` of group `2 (i / 2 + 2 (r / 2)) + r % 2`.
const GROUPS_K: [u8; LANES] = by_lane!(u8, |i, r| 2 * (2 * (i / 2 + 2 * (r / 2)) + r % 2) + i % 2);

/// Scales and minima of Q4_K and Q5_K.
#[inline(always)]
fn scales_k<S: Simd>(s: S, header: &[u8; 16]) -> [S::Floats; 2] {
    const SCALES: [u8; 16] = sub_order(0);
    const MINIMA: [u8; 16] = sub_order(8);
    let all = s.scales6(header);
    let [scale, min] = each2!([&SCALES, &MINIMA], |order| s
        .convert(s.widen(s.shuffle(all, order))));
    [
        s.mul_f(scale, s.half([header[0], header[1]])),
        s.mul_f(min, s.half([header[2], header[3]])),
    ]
}

pub(in super::super) struct Q4K;

impl<S: Simd> Decode<S, 144> for Q4K {
    const LAYOUT: &'static Layout = match S::WIDE {
        true => &const { Layout::by_lane(GROUPS_K, nibble_factor(true), 0) },
        false => &const { Layout::by_lane(GROUPS_K, ONES, 0) },
    };
    const MIN: bool = true;
    const PAIRED: bool = true;
    const MOST: i16 = if S::WIDE { 255 } else { 15 };

    #[inline(always)]
    fn decode(s: S, b: &[u8; 144]) -> Weights<S> {
        let [scale, min] = scales_k(s, part::<0, 16, 144>(b));
        let low = s.load(part::<16, 64, 144>(b));
        let high = s.load(part::<80, 64, 144>(b));
        Weights {
            w: each4!(quads(s, low, high), |v| nibbles_in_place(s, v)),
            scale,
            min,
        }
    }
}

pub(in super::super) struct Q5K;

impl<S: Simd> Decode<S, 176> for Q5K {
    const LAYOUT: &'static Layout = &const { Layout::by_lane(GROUPS_K, ONES, 0) };
    const MIN: bool = true;
    const PAIRED: bool = true;
    const MOST: i16 = 31;

    #[inline(always)]
    fn decode(s: S, b: &[u8; 176]) -> Weights<S> {
        // Bit `group` to bit 4.
        const TURN: [i32; LANES] =
            by_lane!(i32, |i, r| (36 - (2 * (i / 2 + 2 * (r / 2)) + r % 2)) % 32);
        let [scale, min] = scales_k(s, part::<0, 16, 176>(b));
        let fifth = part::<16, 32, 176>(b);
        let fifth = s.load32(fifth, fifth);
        let low = s.load(part::<48, 64, 176>(b));
        let high = s.load(part::<112, 64, 176>(b));
        let mut w = each4!(quads(s, low, high), |v| nibbles(s, v));
        let fifth = quads(s, fifth, fifth);
        for m in 0..4 {
            w[m] = s.or(w[m], s.and(s.rotl(fifth[m], &TURN), splat(s, 16)));
        }
        Weights { w, scale, min }
    }
}

/// Q6_K: lane 4i + r has group `8 (r / 2) + 4 (r % 2) + i`.
const GROUPS_6: [u8; LANES] = by_lane!(u8, |i, r| 8 * (r / 2) + 4 * (r % 2) + i);

pub(in super::super) struct Q6K;

impl<S: Simd> Decode<S, 210> for Q6K {
    const LAYOUT: &'static Layout = &const { Layout::by_lane(GROUPS_6, ONES, 32) };
    const MOST: i16 = 63;

    #[inline(always)]
    fn decode(s: S, b: &[u8; 210]) -> Weights<S> {
        // Pair `2 (r % 2) + i / 2` of each byte to bits 4 and 5.
        const TURN: [i32; LANES] = by_lane!(i32, |i, r| (36 - 2 * (2 * (r % 2) + i / 2)) % 32);
        let (low, high) = (part::<128, 32, 210>(b), part::<160, 32, 210>(b));
        let high = quads(s, s.load32(low, low), s.load32(high, high));
        let low = quads(
            s,
            s.load(part::<0, 64, 210>(b)),
            s.load(part::<64, 64, 210>(b)),
        );
        let mut w = each4!(low, |v| nibbles(s, v));
        for m in 0..4 {
            w[m] = s.or(w[m], s.and(s.rotl(high[m], &TURN), splat(s, 0x30)));
        }
        let scales = s.shuffle(s.load128(part::<192, 16, 210>(b)), &GROUPS_6);
        let scale = s.convert(s.widen_signed(scales));
        Weights {
            w,
            scale: s.mul_f(scale, s.half([b[208], b[209]])),
            min: s.zero(),
        }
    }
}

/// Q2_K, Q3_K: lane 4i + r has group `8 (i / 2) + 2r + i % 2`.
const GROUPS_2: [u8; LANES] = by_lane!(u8, |i, r| 8 * (i / 2) + 2 * r + i % 2);

const fn pair_factor() -> [f32; LANES] {
    let mut all = [1.0; LANES];
    let mut lane = 0;
    while lane < LANES {
        all[lane] = 1.0 / (1 << (2 * (lane % 4))) as f32;
        lane += 1;
    }
    all
}

/// Pair `r` of each byte as a small integer.
#[inline(always)]
fn pairs<S: Simd>(s: S, v: S::Bytes) -> S::Bytes {
    const SHIFT: [i32; LANES] = by_lane!(i32, |_i, r| 2 * r);
    s.and(s.shr(v, &SHIFT), splat(s, 3))
}

pub(in super::super) struct Q2K;

impl<S: Simd> Decode<S, 84> for Q2K {
    const LAYOUT: &'static Layout = match S::WIDE {
        true => &const { Layout::by_lane(GROUPS_2, pair_factor(), 0) },
        false => &const { Layout::by_lane(GROUPS_2, ONES, 0) },
    };
    const MIN: bool = true;

    #[inline(always)]
    fn decode(s: S, b: &[u8; 84]) -> Weights<S> {
        const MASK: [i32; LANES] = by_lane!(i32, |_i, r| (0x0303_0303u32 << (2 * r)) as i32);
        let v = s.load(part::<16, 64, 84>(b));
        let w = each4!(quads(s, v, v), |v| match S::WIDE {
            true => s.and(v, s.integers(&MASK)),
            false => pairs(s, v),
        });
        let scales = s.shuffle(s.load128(part::<0, 16, 84>(b)), &GROUPS_2);
        let [scale, min] = each2!(s.halves_of_bytes(scales), |v| s.convert(s.widen(v)));
        Weights {
            w,
            scale: s.mul_f(scale, s.half([b[80], b[81]])),
            min: s.mul_f(min, s.half([b[82], b[83]])),
        }
    }

    const PAIRED: bool = true;
    const PAIRED_MIN: bool = false;
    const MOST: i16 = 45;
    const TILE_LAYOUT: &'static Layout = &const { Layout::by_lane(GROUPS_2, ONES, 0) };

    /// Weights times their 4-bit scales: no byte of a product has more than 8 bits.
    #[inline(always)]
    fn tile(s: S, b: &[u8; 84]) -> Weights<S> {
        let v = s.load(part::<16, 64, 84>(b));
        let scales = s.shuffle(s.load128(part::<0, 16, 84>(b)), &GROUPS_2);
        let [scale, min] = each2!(s.halves_of_bytes(scales), |v| s.widen(v));
        Weights {
            w: each4!(quads(s, v, v), |v| s.mul(pairs(s, v), scale)),
            scale: s.half([b[80], b[81]]),
            min: s.mul_f(s.convert(min), s.half([b[82], b[83]])),
        }
    }
}

pub(in super::super) struct Q3K;

impl<S: Simd> Decode<S, 110> for Q3K {
    const LAYOUT: &'static Layout = &const { Layout::by_lane(GROUPS_2, ONES, 4) };
    const MOST: i16 = 7;

    #[inline(always)]
    fn decode(s: S, b: &[u8; 110]) -> Weights<S> {
        // Bit `4 (i / 2) + r` to bit 2.
        const TURN: [i32; LANES] = by_lane!(i32, |i, r| (34 - (4 * (i / 2) + r)) % 32);
        let high = part::<0, 32, 110>(b);
        let high = s.load32(high, high);
        let v = s.load(part::<32, 64, 110>(b));
        let mut w = each4!(quads(s, v, v), |v| pairs(s, v));
        let high = quads(s, high, high);
        for m in 0..4 {
            w[m] = s.or(w[m], s.and(s.rotl(high[m], &TURN), splat(s, 4)));
        }
        let scales = s.shuffle(s.scales3(part::<94, 16, 110>(b)), &GROUPS_2);
        let scale = s.convert(s.widen_signed(scales));
        Weights {
            w,
            scale: s.mul_f(scale, s.half([b[108], b[109]])),
            min: s.zero(),
        }
    }
}

/// Types whose groups of 32 have 16 bytes: lane 4i + r has half `r % 2` of group `i + 4 (r / 2)`.
const GROUPS_16: [u8; LANES] = by_lane!(u8, |i, r| 2 * (i + 4 * (r / 2)) + r % 2);
/// The group of 32 of each lane.
const BLOCKS_16: [u8; LANES] = by_lane!(u8, |i, r| i + 4 * (r / 2));

/// For `Simd::halves`: f16 number `blocks[lane]` for each lane.
const fn half_order(blocks: [u8; LANES]) -> [u8; 32] {
    let mut all = [0; 32];
    let mut i = 0;
    while i < 32 {
        all[i] = 2 * blocks[i / 2] + (i % 2) as u8;
        i += 1;
    }
    all
}

/// The f16 at `AT` of each of eight blocks of `SIZE` bytes.
#[inline(always)]
fn halves<S: Simd, const AT: usize, const SIZE: usize, const N: usize>(
    s: S,
    b: &[u8; N],
    order: &[u8; 32],
) -> S::Floats {
    let mut all = [0; 16];
    for (i, half) in all.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let at = i * SIZE + AT;
        *half = [b[at], b[at + 1]];
    }
    s.halves(s.load128(&all), order)
}

/// The 16 bytes at `AT` of each of eight blocks of `SIZE` bytes.
#[inline(always)]
fn pieces<S: Simd, const AT: usize, const SIZE: usize, const N: usize>(
    s: S,
    b: &[u8; N],
) -> [S::Bytes; 4] {
    let piece = |i: usize| -> &[u8; 16] {
        match b[i * SIZE + AT..].first_chunk() {
            Some(piece) => piece,
            None => unreachable!("BUG: a field beyond its block"),
        }
    };
    let low = s.load16([piece(0), piece(1), piece(2), piece(3)]);
    let high = s.load16([piece(4), piece(5), piece(6), piece(7)]);
    quads(s, low, high)
}

const HALVES_16: [u8; 32] = half_order(BLOCKS_16);

pub(in super::super) struct Q40;

impl<S: Simd> Decode<S, 144> for Q40 {
    const LAYOUT: &'static Layout = match S::WIDE {
        true => &const { Layout::by_lane(GROUPS_16, nibble_factor(true), 8) },
        false => &const { Layout::by_lane(GROUPS_16, ONES, 8) },
    };
    const MOST: i16 = if S::WIDE { 255 } else { 15 };

    #[inline(always)]
    fn decode(s: S, b: &[u8; 144]) -> Weights<S> {
        Weights {
            w: each4!(pieces::<S, 2, 18, 144>(s, b), |v| nibbles_in_place(s, v)),
            scale: halves::<S, 0, 18, 144>(s, b, &HALVES_16),
            min: s.zero(),
        }
    }
}

/// A minimum is subtracted, and the file has what is added.
#[inline(always)]
fn minus<S: Simd>(s: S, v: S::Floats) -> S::Floats {
    s.mul_f(v, s.floats(&[-1.0; LANES]))
}

pub(in super::super) struct Q41;

impl<S: Simd> Decode<S, 160> for Q41 {
    const LAYOUT: &'static Layout = match S::WIDE {
        true => &const { Layout::by_lane(GROUPS_16, nibble_factor(true), 0) },
        false => &const { Layout::by_lane(GROUPS_16, ONES, 0) },
    };
    const MIN: bool = true;
    const MOST: i16 = if S::WIDE { 255 } else { 15 };

    #[inline(always)]
    fn decode(s: S, b: &[u8; 160]) -> Weights<S> {
        Weights {
            w: each4!(pieces::<S, 4, 20, 160>(s, b), |v| nibbles_in_place(s, v)),
            scale: halves::<S, 0, 20, 160>(s, b, &HALVES_16),
            min: minus(s, halves::<S, 2, 20, 160>(s, b, &HALVES_16)),
        }
    }
}

/// Adds the fifth bits, 32 at `AT` of each of eight blocks of `SIZE` bytes.
#[inline(always)]
fn fifths<S: Simd, const AT: usize, const SIZE: usize, const N: usize>(
    s: S,
    b: &[u8; N],
    w: [S::Bytes; 4],
) -> [S::Bytes; 4] {
    // Of the 16 bits of a half, the four of each vector.
    const SHIFTS: [[i32; LANES]; 4] = [
        by_lane!(i32, |_i, r| r % 2 * 16),
        by_lane!(i32, |_i, r| r % 2 * 16 + 4),
        by_lane!(i32, |_i, r| r % 2 * 16 + 8),
        by_lane!(i32, |_i, r| r % 2 * 16 + 12),
    ];
    let mut bits = [0i32; LANES];
    for (lane, bits) in bits.iter_mut().enumerate() {
        let at = usize::from(BLOCKS_16[lane]) * SIZE + AT;
        *bits = i32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    }
    let bits = s.integers(&bits);
    // Bit i of four, times 2^(7i + 4), is bit 4 of byte i.
    let (four, spread) = (s.integers(&[15; LANES]), s.integers(&[0x0204_0810; LANES]));
    let mut out = w;
    for m in 0..4 {
        let bits = s.mul(s.and(s.shr(bits, &SHIFTS[m]), four), spread);
        out[m] = s.or(out[m], s.and(bits, splat(s, 16)));
    }
    out
}

pub(in super::super) struct Q50;

impl<S: Simd> Decode<S, 176> for Q50 {
    const LAYOUT: &'static Layout = &const { Layout::by_lane(GROUPS_16, ONES, 16) };
    const PAIRED: bool = true;
    const MOST: i16 = 31;

    #[inline(always)]
    fn decode(s: S, b: &[u8; 176]) -> Weights<S> {
        let w = each4!(pieces::<S, 6, 22, 176>(s, b), |v| nibbles(s, v));
        Weights {
            w: fifths::<S, 2, 22, 176>(s, b, w),
            scale: halves::<S, 0, 22, 176>(s, b, &HALVES_16),
            min: s.zero(),
        }
    }
}

pub(in super::super) struct Q51;

impl<S: Simd> Decode<S, 192> for Q51 {
    const LAYOUT: &'static Layout = &const { Layout::by_lane(GROUPS_16, ONES, 0) };
    const MIN: bool = true;
    const PAIRED: bool = true;
    const MOST: i16 = 31;

    #[inline(always)]
    fn decode(s: S, b: &[u8; 192]) -> Weights<S> {
        let w = each4!(pieces::<S, 8, 24, 192>(s, b), |v| nibbles(s, v));
        Weights {
            w: fifths::<S, 4, 24, 192>(s, b, w),
            scale: halves::<S, 0, 24, 192>(s, b, &HALVES_16),
            min: minus(s, halves::<S, 2, 24, 192>(s, b, &HALVES_16)),
        }
    }
}

/// A table of signed values, ready for `dot_signed`.
#[inline(always)]
fn table<S: Simd>(s: S, levels: &[i8; 16]) -> S::Bytes {
    let levels = levels.map(|v| v as u8);
    s.signed(s.load16([&levels; 4]))
}

pub(in super::super) struct Iq4Nl;

impl<S: Simd> Decode<S, 144> for Iq4Nl {
    const LAYOUT: &'static Layout = match S::SIGNED_OFFSET {
        0 => &const { Layout::by_lane(GROUPS_16, ONES, 0) },
        _ => &const { Layout::by_lane(GROUPS_16, ONES, 128) },
    };
    const SIGNED: bool = true;
    const PAIRED: bool = true;

    #[inline(always)]
    fn decode(s: S, b: &[u8; 144]) -> Weights<S> {
        let table = table(s, &IQ4_LEVELS);
        Weights {
            w: each4!(pieces::<S, 2, 18, 144>(s, b), |v| s
                .lookup(table, nibbles(s, v))),
            scale: halves::<S, 0, 18, 144>(s, b, &HALVES_16),
            min: s.zero(),
        }
    }
}

pub(in super::super) struct Iq4Xs;

impl<S: Simd> Decode<S, 136> for Iq4Xs {
    const LAYOUT: &'static Layout = <Iq4Nl as Decode<S, 144>>::LAYOUT;
    const SIGNED: bool = true;
    const PAIRED: bool = true;

    #[inline(always)]
    fn decode(s: S, b: &[u8; 136]) -> Weights<S> {
        const LOW: [i32; LANES] = by_lane!(i32, |i, r| 4 * (i + 4 * (r / 2)));
        const HIGH: [i32; LANES] = by_lane!(i32, |i, r| 2 * (i + 4 * (r / 2)));
        let table = table(s, &IQ4_LEVELS);
        let w = quads(
            s,
            s.load(part::<8, 64, 136>(b)),
            s.load(part::<72, 64, 136>(b)),
        );
        let low = s.integers(&[i32::from_le_bytes(*part::<4, 4, 136>(b)); LANES]);
        let low = s.and(s.shr(low, &LOW), s.integers(&[15; LANES]));
        // Four bits up, so that the pairs of bits come down to bits 4 and 5.
        let high = i32::from(u16::from_le_bytes([b[2], b[3]])) << 4;
        let high = s.shr(s.integers(&[high; LANES]), &HIGH);
        let scale = s.or(low, s.and(high, s.integers(&[0x30; LANES])));
        let scale = s.convert(s.add(scale, s.integers(&[-32; LANES])));
        Weights {
            w: each4!(w, |v| s.lookup(table, nibbles(s, v))),
            scale: s.mul_f(scale, s.half([b[0], b[1]])),
            min: s.zero(),
        }
    }
}

pub(in super::super) struct Mxfp4;

impl<S: Simd> Decode<S, 136> for Mxfp4 {
    const LAYOUT: &'static Layout = <Iq4Nl as Decode<S, 144>>::LAYOUT;
    const SIGNED: bool = true;
    const PAIRED: bool = true;

    #[inline(always)]
    fn decode(s: S, b: &[u8; 136]) -> Weights<S> {
        let table = table(s, &MXFP4_LEVELS);
        let mut exponents = [0; 16];
        for (i, e) in exponents.iter_mut().enumerate().take(8) {
            *e = b[17 * i];
        }
        let e = s.widen(s.shuffle(s.load128(&exponents), &BLOCKS_16));
        // 2^(e - 128): an exponent of e - 1, or one bit where that is not above 0.
        let normal = s.add(
            s.mul(e, s.integers(&[1 << 23; LANES])),
            s.integers(&[-1 << 23; LANES]),
        );
        let least = s.mul(
            s.add(e, s.integers(&[1; LANES])),
            s.integers(&[1 << 21; LANES]),
        );
        Weights {
            w: each4!(pieces::<S, 1, 17, 136>(s, b), |v| s
                .lookup(table, nibbles(s, v))),
            scale: s.reinterpret(s.max(normal, least)),
            min: s.zero(),
        }
    }
}

pub(in super::super) struct Q80;

impl<S: Simd> Decode<S, 272> for Q80 {
    const LAYOUT: &'static Layout = {
        const GROUPS: [u8; LANES] = by_lane!(u8, |i, r| 4 * r + i);
        match S::SIGNED_OFFSET {
            0 => &const { Layout::by_lane(GROUPS, ONES, 0) },
            _ => &const { Layout::by_lane(GROUPS, ONES, 128) },
        }
    };
    const SIGNED: bool = true;
    const PAIRED: bool = true;

    #[inline(always)]
    fn decode(s: S, b: &[u8; 272]) -> Weights<S> {
        const HALVES: [u8; 32] = half_order(by_lane!(u8, |i, r| 2 * r + i / 2));
        let w = [
            s.load32(part::<2, 32, 272>(b), part::<36, 32, 272>(b)),
            s.load32(part::<70, 32, 272>(b), part::<104, 32, 272>(b)),
            s.load32(part::<138, 32, 272>(b), part::<172, 32, 272>(b)),
            s.load32(part::<206, 32, 272>(b), part::<240, 32, 272>(b)),
        ];
        Weights {
            w: each4!(s.transpose(w), |v| s.signed(v)),
            scale: halves::<S, 0, 34, 272>(s, b, &HALVES),
            min: s.zero(),
        }
    }
}
