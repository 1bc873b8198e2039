//! [`Simd`] with AVX2, FMA and F16C: a vector is two registers.

use std::arch::x86_64::*;
use std::array::{from_mut, from_ref};

use super::avx512::for_type;
use super::rows::{Decode, each_tokens, rows};
use super::simd::{Simd, each2, each4, instructions};
use super::{
    BlockRows, BlockTile, HalfTile, LANES, Layout, NATURAL, TILE_ROWS, TileLayout, TileSpace,
    XBlock,
};
use super::{grids, tiles, types};
use crate::blocks::{BlockType, WIDTH};

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    pub(in super::super) unsafe fn new() -> Self {
        Self(())
    }
}

type Bytes = [__m256i; 2];
type Floats = [__m256; 2];

#[inline(always)]
unsafe fn pair<T>(v: &T) -> Bytes {
    const { assert!(size_of::<T>() == 64) };
    let at: *const __m256i = std::ptr::from_ref(v).cast();
    // SAFETY: 64 bytes are there; the caller has AVX2.
    unsafe { [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))] }
}

impl Simd for Avx2 {
    type Bytes = Bytes;
    type Floats = Floats;
    const WIDE: bool = false;
    const SIGNED_OFFSET: i32 = 0;

    #[inline(always)]
    fn signed(self, v: Bytes) -> Bytes {
        v
    }

    instructions! {
        fn load(bytes: &[u8; 64]) -> Bytes { pair(bytes) }
        fn load32(a: &[u8; 32], b: &[u8; 32]) -> Bytes {
            [_mm256_loadu_si256(a.as_ptr().cast()), _mm256_loadu_si256(b.as_ptr().cast())]
        }
        fn load16(pieces: [&[u8; 16]; 4]) -> Bytes {
            let [a, b, c, d] = each4!(pieces, |piece| _mm_loadu_si128(piece.as_ptr().cast()));
            [_mm256_set_m128i(b, a), _mm256_set_m128i(d, c)]
        }
        fn integers(v: &[i32; LANES]) -> Bytes { pair(v) }
        fn floats(v: &[f32; LANES]) -> Floats { each2!(pair(v), |v| _mm256_castsi256_ps(v)) }
        fn zero() -> Floats { [_mm256_setzero_ps(); 2] }

        fn and(a: Bytes, b: Bytes) -> Bytes { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] }
        fn or(a: Bytes, b: Bytes) -> Bytes { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
        fn xor(a: Bytes, b: Bytes) -> Bytes { [_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])] }
        fn add(a: Bytes, b: Bytes) -> Bytes { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
        fn max(a: Bytes, b: Bytes) -> Bytes { [_mm256_max_epi32(a[0], b[0]), _mm256_max_epi32(a[1], b[1])] }
        fn mul(a: Bytes, b: Bytes) -> Bytes { [_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])] }
        fn shr(v: Bytes, by: &[i32; LANES]) -> Bytes {
            let by = pair(by);
            [_mm256_srlv_epi32(v[0], by[0]), _mm256_srlv_epi32(v[1], by[1])]
        }
        fn rotl(v: Bytes, by: &[i32; LANES]) -> Bytes {
            let by = pair(by);
            [turn(v[0], by[0]), turn(v[1], by[1])]
        }
        fn quads<const MASK: i32>(a: Bytes, b: Bytes) -> Bytes {
            [quads::<MASK>(a[0], b[0]), quads::<MASK>(a[1], b[1])]
        }
        fn transpose(v: [Bytes; 4]) -> [Bytes; 4] {
            let mut out = v;
            for half in 0..2 {
                let [a, b, c, d] = each4!(v, |v| v[half]);
                let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
                out[0][half] = _mm256_unpacklo_epi64(ab, cd);
                out[1][half] = _mm256_unpackhi_epi64(ab, cd);
                let (ab, cd) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
                out[2][half] = _mm256_unpacklo_epi64(ab, cd);
                out[3][half] = _mm256_unpackhi_epi64(ab, cd);
            }
            out
        }
        fn lookup(table: Bytes, index: Bytes) -> Bytes {
            [_mm256_shuffle_epi8(table[0], index[0]), _mm256_shuffle_epi8(table[1], index[1])]
        }

        fn gather(table: &[[i8; 4]], index: Bytes) -> Bytes {
            assert!(table.len().is_power_of_two(), "BUG: a table of {}", table.len());
            let mask = _mm256_set1_epi32(table.len() as i32 - 1);
            let at = table.as_ptr().cast();
            each2!(index, |index| {
                _mm256_i32gather_epi32::<4>(at, _mm256_and_si256(index, mask))
            })
        }
        fn minus_where(v: Bytes, signs: Bytes, bits: Bytes) -> Bytes {
            [
                minus_where(v[0], signs[0], bits[0]),
                minus_where(v[1], signs[1], bits[1]),
            ]
        }
        fn dot(sums: Bytes, w: Bytes, x: &[i8; 64]) -> Bytes {
            let x = pair(x);
            [dot(sums[0], w[0], x[0]), dot(sums[1], w[1], x[1])]
        }
        fn dot_signed(sums: Bytes, w: Bytes, x: &[i8; 64]) -> Bytes {
            let x = pair(x);
            [
                dot(sums[0], _mm256_abs_epi8(w[0]), _mm256_sign_epi8(x[0], w[0])),
                dot(sums[1], _mm256_abs_epi8(w[1]), _mm256_sign_epi8(x[1], w[1])),
            ]
        }

        fn convert(v: Bytes) -> Floats { each2!(v, |v| _mm256_cvtepi32_ps(v)) }
        fn quarters(v: Bytes) -> [__m128i; 4] {
            [
                _mm256_castsi256_si128(v[0]),
                _mm256_extracti128_si256::<1>(v[0]),
                _mm256_castsi256_si128(v[1]),
                _mm256_extracti128_si256::<1>(v[1]),
            ]
        }
        fn bits(v: Floats) -> Bytes { each2!(v, |v| _mm256_castps_si256(v)) }
        fn reinterpret(v: Bytes) -> Floats { each2!(v, |v| _mm256_castsi256_ps(v)) }
        fn widen(v: __m128i) -> Bytes {
            [_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(v, v))]
        }
        fn widen_signed(v: __m128i) -> Bytes {
            [_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(v, v))]
        }
        fn half(bytes: [u8; 2]) -> Floats {
            [_mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(bytes))); 2]
        }
        fn halves(v: __m128i, order: &[u8; 32]) -> Floats {
            let at = order.as_ptr().cast::<__m128i>();
            let [low, high] = [_mm_loadu_si128(at), _mm_loadu_si128(at.add(1))];
            each2!([low, high], |order| _mm256_cvtph_ps(_mm_shuffle_epi8(v, order)))
        }
        fn mul_f(a: Floats, b: Floats) -> Floats { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        fn fma(a: Floats, b: Floats, c: Floats) -> Floats {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        fn sub_f(a: Floats, b: Floats) -> Floats { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        fn sum(v: Floats) -> f32 { super::super::avx2::sum_f32(_mm256_add_ps(v[0], v[1])) }
        fn prefetch(ahead: *const u8, bytes: usize) { super::super::avx2::prefetch(ahead, 0, bytes) }
        fn scales6(header: &[u8; 16]) -> __m128i { scales6(header) }
        fn shuffle(v: __m128i, order: &[u8; 16]) -> __m128i { shuffle(v, order) }
        fn load128(bytes: &[u8; 16]) -> __m128i { _mm_loadu_si128(bytes.as_ptr().cast()) }
        fn halves_of_bytes(v: __m128i) -> [__m128i; 2] { halves_of_bytes(v) }
        fn scales3(tail: &[u8; 16]) -> __m128i { scales3(tail) }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn minus_where(v: __m256i, signs: __m256i, bits: __m256i) -> __m256i {
    let minus = _mm256_cmpeq_epi8(_mm256_and_si256(signs, bits), bits);
    _mm256_sub_epi8(_mm256_xor_si256(v, minus), minus)
}

/// 32-bit integers, each rotated to the left by a number of its own.
#[inline]
#[target_feature(enable = "avx2")]
fn turn(v: __m256i, by: __m256i) -> __m256i {
    // A shift by 32 gives 0.
    let back = _mm256_sub_epi32(_mm256_set1_epi32(32), by);
    _mm256_or_si256(_mm256_sllv_epi32(v, by), _mm256_srlv_epi32(v, back))
}

#[inline]
#[target_feature(enable = "avx2")]
fn quads<const MASK: i32>(a: __m256i, b: __m256i) -> __m256i {
    let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
    _mm256_castps_si256(_mm256_shuffle_ps::<MASK>(a, b))
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot(sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(w, x);
    _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn bytes(v: &[u8; 16]) -> __m128i {
    // SAFETY: the array is 16 bytes long.
    unsafe { _mm_loadu_si128(v.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn shuffle(v: __m128i, order: &[u8; 16]) -> __m128i {
    _mm_shuffle_epi8(v, bytes(order))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn halves_of_bytes(v: __m128i) -> [__m128i; 2] {
    let low = _mm_set1_epi8(15);
    [
        _mm_and_si128(v, low),
        _mm_and_si128(_mm_srli_epi16::<4>(v), low),
    ]
}

/// Scale or minimum `j` below 4 has the low 6 bits of a byte of its own; further ones have a half
/// of a byte, and the high 2 bits of the one that is 4 before.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn scales6(header: &[u8; 16]) -> __m128i {
    const LOW: [u8; 16] = [4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15];
    const HIGH: [u8; 16] = {
        let n = 0x80;
        [n, n, n, n, 4, 5, 6, 7, n, n, n, n, 8, 9, 10, 11]
    };
    let header = bytes(header);
    let low = _mm_srlv_epi32(shuffle(header, &LOW), _mm_setr_epi32(0, 0, 0, 4));
    let mask = _mm_setr_epi32(0x3f3f_3f3f, 0x0f0f_0f0f, 0x3f3f_3f3f, 0x0f0f_0f0f);
    let high = _mm_srli_epi16::<2>(shuffle(header, &HIGH));
    _mm_or_si128(
        _mm_and_si128(low, mask),
        _mm_and_si128(high, _mm_set1_epi8(0x30)),
    )
}

/// Scale `j` has a half of byte `j % 8` and two bits of byte `8 + j % 4`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn scales3(tail: &[u8; 16]) -> __m128i {
    const LOW: [u8; 16] = [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9];
    const HIGH: [u8; 16] = [
        10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13,
    ];
    let tail = bytes(tail);
    let low = _mm_srlv_epi64(shuffle(tail, &LOW), _mm_set_epi64x(4, 0));
    let high = _mm_srlv_epi32(shuffle(tail, &HIGH), _mm_setr_epi32(0, 2, 4, 6));
    let high = _mm_slli_epi16::<4>(_mm_and_si128(high, _mm_set1_epi8(3)));
    let all = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), high);
    _mm_sub_epi8(all, _mm_set1_epi8(32))
}

pub(in super::super) fn block_layout(kind: BlockType) -> &'static Layout {
    if kind.is_float() {
        return &NATURAL;
    }
    for_type!(kind, |K, N| <K as Decode<Avx2, N>>::LAYOUT)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn block_rows(rows: &BlockRows<'_>, out: &mut [f32]) {
    for_type!(rows.kind, |K, N| typed::<K, N>(rows, out));
}

#[target_feature(enable = "avx2,fma,f16c")]
fn typed<K: Decode<Avx2, N>, const N: usize>(rows: &BlockRows<'_>, out: &mut [f32]) {
    each_tokens!(rows, out, |x, out, T| some::<K, N, T>(rows, x, out));
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
fn some<K: Decode<Avx2, N>, const N: usize, const T: usize>(
    some: &BlockRows<'_>,
    x: &[XBlock],
    out: &mut [f32],
) {
    // SAFETY: the features of this function.
    let s = unsafe { Avx2::new() };
    rows::<Avx2, K, N, T>(s, some, x, out);
}

pub(in super::super) fn tile_layout(kind: BlockType) -> TileLayout {
    for_type!(kind, |K, N| tiles::layout::<Avx2, K, N>())
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn block_tile(
    tile: &BlockTile<'_>,
    space: &mut TileSpace,
    sums: &mut [[f32; TILE_ROWS]],
) {
    for_type!(tile.kind, |K, N| each_span::<K, N>(tile, space, sums));
}

#[target_feature(enable = "avx2,fma,f16c")]
fn each_span<K: Decode<Avx2, N>, const N: usize>(
    tile: &BlockTile<'_>,
    space: &mut TileSpace,
    sums: &mut [[f32; TILE_ROWS]],
) {
    for (i, x) in tile.x.chunks(sums.len()).enumerate() {
        fill::<K, N>(tile, i, space);
        let (fours, x_rest) = x.as_chunks::<TOKENS>();
        let (sums, sums_rest) = sums.as_chunks_mut::<TOKENS>();
        for (half, tile) in space.halves.iter().enumerate() {
            for (x, sums) in fours.iter().zip(&mut *sums) {
                multiply::<TOKENS, K, N>(tile, half, x, sums);
            }
            for (x, sums) in x_rest.iter().zip(&mut *sums_rest) {
                multiply::<1, K, N>(tile, half, from_ref(x), from_mut(sums));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
fn fill<K: Decode<Avx2, N>, const N: usize>(tile: &BlockTile<'_>, i: usize, space: &mut TileSpace) {
    // SAFETY: the features of this function.
    let s = unsafe { Avx2::new() };
    tiles::fill::<Avx2, K, N>(s, tile, i, space);
}

/// Tokens of a register tile of 16 rows.
const TOKENS: usize = 4;

/// Integer sums of 16 rows, by token.
type Sums<const T: usize> = [Bytes; T];

/// Adds the products of a span of 16 rows.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
fn multiply<const T: usize, K: Decode<Avx2, N>, const N: usize>(
    tile: &HalfTile,
    half: usize,
    x: &[XBlock; T],
    sums: &mut [[f32; TILE_ROWS]; T],
) {
    // SAFETY: the features of this function.
    let s = unsafe { Avx2::new() };
    for (pair, lanes) in K::TILE_LAYOUT.lanes.as_chunks::<2>().0.iter().enumerate() {
        let lanes = lanes.map(|lane| lane as usize % LANES);
        let mut acc = start(x, lanes[0]);
        let mut pairs = [[_mm256_setzero_si256(); 2]; T];
        dot_group::<T, 0, K, N>(s, &mut acc, &mut pairs, &tile.q[2 * pair], x, lanes[0]);
        if !K::PAIRED {
            add_scaled::<T, K, N>(s, &acc, tile, 2 * pair, half, x, lanes[0], sums);
            acc = start(x, lanes[1]);
        }
        dot_group::<T, 4, K, N>(s, &mut acc, &mut pairs, &tile.q[2 * pair + 1], x, lanes[1]);
        let last = if K::PAIRED { 0 } else { 1 };
        add_scaled::<T, K, N>(s, &acc, tile, 2 * pair + last, half, x, lanes[last], sums);
        if K::MIN && K::PAIRED && !K::PAIRED_MIN {
            let nothing = [s.integers(&[0; LANES]); T];
            add_scaled::<T, K, N>(s, &nothing, tile, 2 * pair + 1, half, x, lanes[1], sums);
        }
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn start<const T: usize>(x: &[XBlock; T], lane: usize) -> Sums<T> {
    let mut acc = [[_mm256_setzero_si256(); 2]; T];
    for (acc, x) in acc.iter_mut().zip(x) {
        *acc = [_mm256_set1_epi32(x.start[lane]); 2];
    }
    acc
}

/// Adds the integer products of 16 columns, the first four or the others of 32; as many as fit are
/// added up in 16 bits first.
#[target_feature(enable = "avx2")]
#[inline]
fn dot_group<const T: usize, const FIRST: usize, K: Decode<Avx2, N>, const N: usize>(
    s: Avx2,
    acc: &mut Sums<T>,
    pairs: &mut Sums<T>,
    q: &[[[u8; 16]; 4]; 4],
    x: &[XBlock; T],
    lane: usize,
) {
    let run = const {
        match i16::MAX / (2 * 127) / K::MOST {
            0 | 1 => 1,
            2 | 3 => 2,
            8.. if K::PAIRED => 8,
            _ => 4,
        }
    };
    let one = _mm256_set1_epi16(1);
    for m in 0..4 {
        let w = s.load(q[m].as_flattened().first_chunk().unwrap_or(&[0; 64]));
        for ((acc, pairs), x) in acc.iter_mut().zip(&mut *pairs).zip(x) {
            let four = x.q.as_chunks::<4>().0[16 * m + lane];
            let four = _mm256_set1_epi32(i32::from_ne_bytes(four.map(|q| q as u8)));
            for i in 0..2 {
                let products = match K::SIGNED {
                    true => {
                        let four = _mm256_sign_epi8(four, w[i]);
                        _mm256_maddubs_epi16(_mm256_abs_epi8(w[i]), four)
                    }
                    false => _mm256_maddubs_epi16(w[i], four),
                };
                pairs[i] = match (FIRST + m) % run {
                    0 => products,
                    _ => _mm256_add_epi16(pairs[i], products),
                };
                if (FIRST + m) % run == run - 1 {
                    acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs[i], one));
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
#[allow(clippy::too_many_arguments)]
fn add_scaled<const T: usize, K: Decode<Avx2, N>, const N: usize>(
    s: Avx2,
    acc: &Sums<T>,
    tile: &HalfTile,
    group: usize,
    half: usize,
    x: &[XBlock; T],
    lane: usize,
    sums: &mut [[f32; TILE_ROWS]; T],
) {
    let scale = s.floats(&tile.scale[group]);
    let min = s.floats(&tile.min[group]);
    for ((acc, x), sums) in acc.iter().zip(x).zip(sums) {
        let sums = &mut sums.as_chunks_mut::<LANES>().0[half];
        let mut total = s.floats(sums);
        total = s.fma(s.convert(*acc), s.mul_f(scale, splat(x.unit[lane])), total);
        if K::MIN {
            total = s.sub_f(total, s.mul_f(min, splat(x.sum[lane])));
        }
        let [low, high] = total;
        // SAFETY: an array of 16.
        unsafe {
            _mm256_storeu_ps(sums.as_mut_ptr(), low);
            _mm256_storeu_ps(sums[8..].as_mut_ptr(), high);
        }
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn splat(v: f32) -> Floats {
    [_mm256_set1_ps(v); 2]
}
