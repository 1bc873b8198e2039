//! IQ2 and IQ3 with AVX-512 VBMI: grids are looked up in registers, 64 indices at a time.
//!
//! Where other processors gather entries of 4 or 8 values, here a vector has one value of each
//! entry: byte `i` of vector `p` is column `4i + p`, so that each 32-bit lane still has 16
//! columns of one group. Grids are kept by such planes, two or four values packed in a byte where
//! the grid is large. Signs become masks, by which a weight is `offset - value` instead of
//! `offset + value`.

use std::arch::x86_64::*;

use super::avx512::{Avx512, multiply};
use super::rows::{Decode, Weights, each_tokens, rows};
use super::simd::{each2, each4};
use super::{BlockRows, BlockTile, Layout, TILE_ROWS, TileLayout, TileSpace, XBlock};
use super::{common, tiles};
use crate::blocks::{BlockType, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, WIDTH, sign_byte};

/// Added to the values of IQ2 and IQ3_XXS, which are at most 62.
const OFFSET: u8 = 64;
/// Added to the values of IQ3_S, which are at most 15.
const OFFSET_S: u8 = 16;

static PLANAR: Layout = Layout::planar(OFFSET as i32);
static PLANAR_S: Layout = Layout::planar(OFFSET_S as i32);

/// The signs that 7 bits stand for.
static SIGNS: [u8; 128] = {
    let mut all = [0; 128];
    let mut i = 0;
    while i < 128 {
        all[i] = sign_byte(i as u8);
        i += 1;
    }
    all
};

/// The values of each entry of IQ3_XXS and the offset, by plane.
static PLANES3: [[u8; 256]; 4] = {
    let mut all = [[0; 256]; 4];
    let mut i = 0;
    while i < 4 * 256 {
        all[i % 4][i / 4] = OFFSET + IQ3_XXS[i / 4][i % 4] as u8;
        i += 1;
    }
    all
};

/// Values 2i and 2i + 1 of each entry of IQ3_S, 4 bits each.
static PAIRS3: [[u8; 512]; 2] = {
    let mut all = [[0; 512]; 2];
    let mut i = 0;
    while i < 512 {
        let mut pair = 0;
        while pair < 2 {
            all[pair][i] = IQ3_S[i][2 * pair] as u8 | (IQ3_S[i][2 * pair + 1] as u8) << 4;
            pair += 1;
        }
        i += 1;
    }
    all
};

/// Values 4i to 4i + 3 of each entry of an IQ2 type, as 2-bit numbers of levels.
const fn fours<const N: usize>(grid: &[[i8; 8]; N]) -> [[u8; N]; 2] {
    let mut all = [[0; N]; 2];
    let mut i = 0;
    while i < 8 * N {
        let level = match grid[i / 8][i % 8] {
            8 => 0,
            25 => 1,
            _ => 2,
        };
        all[i % 8 / 4][i / 8] |= level << (2 * (i % 4));
        i += 1;
    }
    all
}

static FOURS_XXS: [[u8; 256]; 2] = fours(&IQ2_XXS);
static FOURS_XS: [[u8; 512]; 2] = fours(&IQ2_XS);
static FOURS_S: [[u8; 1024]; 2] = fours(&IQ2_S);

/// The levels of IQ2 and the offset, at 2-bit numbers in bits 0 and 1 or bits 2 and 3.
static LEVELS_LOW: [u8; 16] = levels(1);
static LEVELS_HIGH: [u8; 16] = levels(4);

const fn levels(step: usize) -> [u8; 16] {
    let mut all = [0; 16];
    all[0] = OFFSET + 8;
    all[step] = OFFSET + 25;
    all[2 * step] = OFFSET + 43;
    all
}

/// `of(i)` for each byte of a vector.
macro_rules! bytes {
    (|$i:ident| $of:expr) => {{
        const BYTES: [u8; 64] = {
            let mut all = [0; 64];
            let mut $i = 0;
            while $i < 64 {
                all[$i] = $of as u8;
                $i += 1;
            }
            all
        };
        load(&BYTES)
    }};
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the array is 64 bytes long.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load32(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the array is 32 bytes long.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline(always)]
fn part<const LEN: usize>(block: &[u8], at: usize) -> &[u8; LEN] {
    match block[at..].first_chunk() {
        Some(part) => part,
        None => unreachable!("BUG: a field beyond its block"),
    }
}

/// The entries of a table of 128 bytes that the low 7 bits of `index` name.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi")]
fn lookup128(table: &[u8; 128], index: __m512i) -> __m512i {
    let (halves, _) = table.as_chunks::<64>();
    _mm512_permutex2var_epi8(load(&halves[0]), index, load(&halves[1]))
}

/// The same of 256 bytes, with the eighth bits of the indices as a mask.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn lookup256(table: &[u8], index: __m512i, high: __mmask64) -> __m512i {
    let [low, upper] = each2!([part(table, 0), part(table, 128)], |half| lookup128(
        half, index
    ));
    _mm512_mask_blend_epi8(high, low, upper)
}

/// The same of 512 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn lookup512(table: &[u8], index: __m512i, high: [__mmask64; 2]) -> __m512i {
    let low = lookup256(&table[..256], index, high[0]);
    let upper = lookup256(&table[256..512], index, high[0]);
    _mm512_mask_blend_epi8(high[1], low, upper)
}

/// The weights of four planes with their signs: `offset - value` where value `4i + p` of byte `i`
/// and plane `p` has its bit set in the byte of 8 values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn with_signs(planes: [__m512i; 4], signs: __m512i, offset: u8) -> [__m512i; 4] {
    let twice = _mm512_set1_epi8((2 * offset) as i8);
    let bits = [
        bytes!(|i| 1u8 << (i % 2 * 4)),
        bytes!(|i| 2u8 << (i % 2 * 4)),
        bytes!(|i| 4u8 << (i % 2 * 4)),
        bytes!(|i| 8u8 << (i % 2 * 4)),
    ];
    let mut w = planes;
    for p in 0..4 {
        let minus = _mm512_test_epi8_mask(signs, bits[p]);
        w[p] = _mm512_mask_sub_epi8(w[p], minus, twice, w[p]);
    }
    w
}

/// The four planes of packed 2-bit levels, of which odd bytes are the second halves of entries.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack2(first: __m512i, second: __m512i) -> [__m512i; 4] {
    let low = _mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, first, second);
    let high = _mm512_srli_epi16::<4>(low);
    let [a, b] = each2!([&LEVELS_LOW, &LEVELS_HIGH], |levels| {
        // SAFETY: the array is 16 bytes long.
        _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(levels.as_ptr().cast()) })
    });
    let (of_low, of_high) = (_mm512_set1_epi8(3), _mm512_set1_epi8(12));
    [
        _mm512_shuffle_epi8(a, _mm512_and_si512(low, of_low)),
        _mm512_shuffle_epi8(b, _mm512_and_si512(low, of_high)),
        _mm512_shuffle_epi8(a, _mm512_and_si512(high, of_low)),
        _mm512_shuffle_epi8(b, _mm512_and_si512(high, of_high)),
    ]
}

/// `(v + 1/2) * by * d`, `d` the f16 in front of the block.
#[inline]
#[target_feature(enable = "avx512f")]
fn half_steps(v: __m512i, block: &[u8], by: f32) -> __m512 {
    let d = _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes([block[0], block[1]])));
    let v = _mm512_add_ps(_mm512_cvtepi32_ps(v), _mm512_set1_ps(0.5));
    _mm512_mul_ps(v, _mm512_mul_ps(d, _mm512_set1_ps(by)))
}

/// The scales of IQ2_XS and IQ2_S, 8 bytes of two.
#[inline]
#[target_feature(enable = "avx512f")]
fn scales2(block: &[u8], scales: &[u8; 8]) -> __m512 {
    let v = _mm_cvtsi64_si128(i64::from_le_bytes(*scales));
    let both = _mm_unpacklo_epi8(v, _mm_srli_epi16::<4>(v));
    let both = _mm_and_si128(both, _mm_set1_epi8(15));
    half_steps(_mm512_cvtepu8_epi32(both), block, 0.25)
}

/// Each of 32 bytes twice.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn doubled(bytes: &[u8; 32]) -> __m512i {
    let v = _mm512_cvtepu8_epi16(load32(bytes));
    _mm512_or_si512(v, _mm512_slli_epi16::<8>(v))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn iq3_xxs(b: &[u8; 98]) -> ([__m512i; 4], __m512) {
    let index = load(part(b, 2));
    let high = _mm512_movepi8_mask(index);
    let planes = each4!([0, 1, 2, 3], |p| lookup256(&PLANES3[p], index, high));
    let words = _mm512_cvtepu32_epi64(load32(part(b, 66)));
    let sevens = _mm512_multishift_epi64_epi8(bytes!(|i| i % 8 / 2 * 7), words);
    let scales = _mm512_srli_epi32::<28>(_mm512_shuffle_epi32::<0xa0>(words));
    (
        with_signs(planes, lookup128(&SIGNS, sevens), OFFSET),
        half_steps(scales, b, 0.5),
    )
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn iq3_s(b: &[u8; 110]) -> ([__m512i; 4], __m512) {
    let index = load(part(b, 2));
    let high = [_mm512_movepi8_mask(index), u64::from_le_bytes(*part(b, 66))];
    let [first, second] = each2!([0, 1], |i| lookup512(&PAIRS3[i], index, high));
    let (mask, offset) = (_mm512_set1_epi8(15), _mm512_set1_epi8(OFFSET_S as i8));
    let planes = [
        first,
        _mm512_srli_epi16::<4>(first),
        second,
        _mm512_srli_epi16::<4>(second),
    ];
    let planes = each4!(planes, |v| _mm512_or_si512(
        _mm512_and_si512(v, mask),
        offset
    ));
    let word = _mm512_set1_epi32(i32::from_le_bytes(*part(b, 106)));
    let by = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
    let scales = _mm512_and_si512(_mm512_srlv_epi32(word, by), _mm512_set1_epi32(15));
    let signs = doubled(part(b, 74));
    (
        with_signs(planes, signs, OFFSET_S),
        half_steps(scales, b, 2.0),
    )
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn iq2_xxs(b: &[u8; 66]) -> ([__m512i; 4], __m512) {
    // Four indices and a word of signs and the scale, eight times.
    let all = load(part(b, 2));
    let index = _mm512_shuffle_epi8(all, bytes!(|i| i % 16 / 8 * 8 + i % 8 / 2));
    let high = _mm512_movepi8_mask(index);
    let [first, second] = each2!([0, 1], |i| lookup256(&FOURS_XXS[i], index, high));
    let sevens = _mm512_multishift_epi64_epi8(bytes!(|i| 32 + i % 8 / 2 * 7), all);
    let scales = _mm512_srli_epi32::<28>(_mm512_shuffle_epi32::<0xf5>(all));
    (
        with_signs(unpack2(first, second), lookup128(&SIGNS, sevens), OFFSET),
        half_steps(scales, b, 0.25),
    )
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn iq2_xs(b: &[u8; 74]) -> ([__m512i; 4], __m512) {
    let all = load(part(b, 2));
    let index = _mm512_shuffle_epi8(all, bytes!(|i| i % 16 / 2 * 2));
    let upper = _mm512_shuffle_epi8(all, bytes!(|i| i % 16 / 2 * 2 + 1));
    let high = [
        _mm512_movepi8_mask(index),
        _mm512_test_epi8_mask(upper, _mm512_set1_epi8(1)),
    ];
    let [first, second] = each2!([0, 1], |i| lookup512(&FOURS_XS[i], index, high));
    let sevens = _mm512_srli_epi16::<1>(upper);
    (
        with_signs(unpack2(first, second), lookup128(&SIGNS, sevens), OFFSET),
        scales2(b, part(b, 66)),
    )
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn iq2_s(b: &[u8; 82]) -> ([__m512i; 4], __m512) {
    let index = doubled(part(b, 2));
    let upper = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(i64::from_le_bytes(*part(b, 66))));
    let upper = _mm512_multishift_epi64_epi8(bytes!(|i| i % 8 / 2 * 2), upper);
    let high = [
        _mm512_movepi8_mask(index),
        _mm512_test_epi8_mask(upper, _mm512_set1_epi8(1)),
    ];
    let top = _mm512_test_epi8_mask(upper, _mm512_set1_epi8(2));
    let [first, second] = each2!([0, 1], |i| {
        let low = lookup512(&FOURS_S[i][..512], index, high);
        _mm512_mask_blend_epi8(top, low, lookup512(&FOURS_S[i][512..], index, high))
    });
    (
        with_signs(unpack2(first, second), doubled(part(b, 34)), OFFSET),
        scales2(b, part(b, 74)),
    )
}

/// Types for functions that are compiled with VBMI.
macro_rules! types {
    ($($type:ident, $n:literal, $decode:ident, $layout:ident, $paired:literal;)*) => {
        $(
            pub(super) struct $type;

            impl Decode<Avx512, $n> for $type {
                const LAYOUT: &'static Layout = &$layout;
                const PAIRED: bool = $paired;

                #[inline(always)]
                fn decode(_s: Avx512, b: &[u8; $n]) -> Weights<Avx512> {
                    // SAFETY: these types are only used where the CPU has VBMI.
                    let (w, scale) = unsafe { $decode(b) };
                    Weights {
                        w,
                        scale,
                        min: scale,
                    }
                }
            }
        )*
    };
}

types! {
    Iq3Xxs, 98, iq3_xxs, PLANAR, true;
    Iq3S, 110, iq3_s, PLANAR_S, true;
    Iq2Xxs, 66, iq2_xxs, PLANAR, true;
    Iq2Xs, 74, iq2_xs, PLANAR, false;
    Iq2S, 82, iq2_s, PLANAR, false;
}

/// Puts 256 bytes in an order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn reorder(bytes: &[i8; WIDTH], order: &[u8; WIDTH], out: &mut [i8; WIDTH]) {
    let bytes = bytes.map(|byte| byte as u8);
    for (out, order) in out
        .as_chunks_mut::<64>()
        .0
        .iter_mut()
        .zip(order.as_chunks::<64>().0)
    {
        let index = load(order);
        let v = lookup256(&bytes, index, _mm512_movepi8_mask(index));
        // SAFETY: the array is 64 bytes long.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) };
    }
}

/// What AVX-512 kernels are compiled with where there is VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
pub(super) fn block_x(layout: &Layout, x: &[f32], out: &mut XBlock) {
    common::block_x(layout, x, out, |q, order, out| reorder(q, order, out));
}

/// The layouts of the types that `block_tile` takes.
pub(super) fn tile_layout(kind: BlockType) -> Option<TileLayout> {
    match kind {
        BlockType::IQ3_XXS => Some(tiles::layout::<Avx512, Iq3Xxs, 98>()),
        BlockType::IQ3_S => Some(tiles::layout::<Avx512, Iq3S, 110>()),
        BlockType::IQ2_XXS => Some(tiles::layout::<Avx512, Iq2Xxs, 66>()),
        BlockType::IQ2_XS => Some(tiles::layout::<Avx512, Iq2Xs, 74>()),
        BlockType::IQ2_S => Some(tiles::layout::<Avx512, Iq2S, 82>()),
        _ => None,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
pub(super) fn block_tile(
    tile: &BlockTile<'_>,
    space: &mut TileSpace,
    sums: &mut [[f32; TILE_ROWS]],
) {
    match tile.kind {
        BlockType::IQ3_XXS => each_span::<Iq3Xxs, 98>(tile, space, sums),
        BlockType::IQ3_S => each_span::<Iq3S, 110>(tile, space, sums),
        BlockType::IQ2_XXS => each_span::<Iq2Xxs, 66>(tile, space, sums),
        BlockType::IQ2_XS => each_span::<Iq2Xs, 74>(tile, space, sums),
        BlockType::IQ2_S => each_span::<Iq2S, 82>(tile, space, sums),
        kind => unreachable!("BUG: {kind} needs no VBMI"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn each_span<K: Decode<Avx512, N>, const N: usize>(
    tile: &BlockTile<'_>,
    space: &mut TileSpace,
    sums: &mut [[f32; TILE_ROWS]],
) {
    let layout = tiles::layout::<Avx512, K, N>();
    for (i, x) in tile.x.chunks(sums.len()).enumerate() {
        fill::<K, N>(tile, i, space);
        multiply(space, layout, false, x, sums);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
#[inline(never)]
fn fill<K: Decode<Avx512, N>, const N: usize>(
    tile: &BlockTile<'_>,
    i: usize,
    space: &mut TileSpace,
) {
    // SAFETY: the features of this function.
    let s = unsafe { Avx512::new() };
    tiles::fill::<Avx512, K, N>(s, tile, i, space);
}

/// The layouts of the types that `block_rows` takes.
pub(super) fn block_layout(kind: BlockType) -> Option<&'static Layout> {
    match kind {
        BlockType::IQ3_S => Some(&PLANAR_S),
        BlockType::IQ3_XXS | BlockType::IQ2_XXS | BlockType::IQ2_XS | BlockType::IQ2_S => {
            Some(&PLANAR)
        }
        _ => None,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
pub(super) fn block_rows(rows: &BlockRows<'_>, out: &mut [f32]) {
    match rows.kind {
        BlockType::IQ3_XXS => typed::<Iq3Xxs, 98>(rows, out),
        BlockType::IQ3_S => typed::<Iq3S, 110>(rows, out),
        BlockType::IQ2_XXS => typed::<Iq2Xxs, 66>(rows, out),
        BlockType::IQ2_XS => typed::<Iq2Xs, 74>(rows, out),
        BlockType::IQ2_S => typed::<Iq2S, 82>(rows, out),
        kind => unreachable!("BUG: {kind} needs no VBMI"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn typed<K: Decode<Avx512, N>, const N: usize>(rows: &BlockRows<'_>, out: &mut [f32]) {
    each_tokens!(rows, out, |x, out, T| some::<K, N, T>(rows, x, out));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
#[inline(never)]
fn some<K: Decode<Avx512, N>, const N: usize, const T: usize>(
    some: &BlockRows<'_>,
    x: &[XBlock],
    out: &mut [f32],
) {
    // SAFETY: the features of this function.
    let s = unsafe { Avx512::new() };
    rows::<Avx512, K, N, T>(s, some, x, out);
}
