//! [`Simd`] with AVX-512 and VNNI: a vector is one register.

use std::arch::x86_64::*;

use super::avx2::{halves_of_bytes, scales3, scales6, shuffle};
use super::rows::{Decode, each_tokens, rows};
use super::simd::{Simd, each4, instructions};
use super::{
    BlockRows, BlockTile, LANES, Layout, NATURAL, TILE_ROWS, TileLayout, TileSpace, XBlock,
};
use super::{common, grids, tiles, types, vbmi};
use crate::blocks::{BlockType, WIDTH};

/// AVX-512 F, BW, VL and VNNI, and what AVX2 kernels need.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The CPU has all of these.
    pub(in super::super) unsafe fn new() -> Self {
        Self(())
    }
}

impl Simd for Avx512 {
    type Bytes = __m512i;
    type Floats = __m512;
    const WIDE: bool = true;
    const SIGNED_OFFSET: i32 = 128;

    instructions! {
        fn load(bytes: &[u8; 64]) -> __m512i { _mm512_loadu_si512(bytes.as_ptr().cast()) }
        fn load32(a: &[u8; 32], b: &[u8; 32]) -> __m512i {
            let low = _mm512_castsi256_si512(_mm256_loadu_si256(a.as_ptr().cast()));
            _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(b.as_ptr().cast()))
        }
        fn load16(pieces: [&[u8; 16]; 4]) -> __m512i {
            let [a, b, c, d] = each4!(pieces, |piece| _mm_loadu_si128(piece.as_ptr().cast()));
            let v = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
            _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(v, c), d)
        }
        fn integers(v: &[i32; LANES]) -> __m512i { _mm512_loadu_si512(v.as_ptr().cast()) }
        fn floats(v: &[f32; LANES]) -> __m512 { _mm512_loadu_ps(v.as_ptr()) }
        fn zero() -> __m512 { _mm512_setzero_ps() }

        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn xor(a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
        fn add(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn max(a: __m512i, b: __m512i) -> __m512i { _mm512_max_epi32(a, b) }
        fn mul(a: __m512i, b: __m512i) -> __m512i { _mm512_mullo_epi32(a, b) }
        fn shr(v: __m512i, by: &[i32; LANES]) -> __m512i {
            _mm512_srlv_epi32(v, _mm512_loadu_si512(by.as_ptr().cast()))
        }
        fn rotl(v: __m512i, by: &[i32; LANES]) -> __m512i {
            _mm512_rolv_epi32(v, _mm512_loadu_si512(by.as_ptr().cast()))
        }
        fn quads<const MASK: i32>(a: __m512i, b: __m512i) -> __m512i {
            let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
            _mm512_castps_si512(_mm512_shuffle_ps::<MASK>(a, b))
        }
        fn transpose(v: [__m512i; 4]) -> [__m512i; 4] {
            let [a, b, c, d] = v;
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab2, cd2) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab2, cd2),
                _mm512_unpackhi_epi64(ab2, cd2),
            ]
        }
        fn lookup(table: __m512i, index: __m512i) -> __m512i { _mm512_shuffle_epi8(table, index) }

        fn gather(table: &[[i8; 4]], index: __m512i) -> __m512i {
            assert!(table.len().is_power_of_two(), "BUG: a table of {}", table.len());
            let index = _mm512_and_si512(index, _mm512_set1_epi32(table.len() as i32 - 1));
            _mm512_i32gather_epi32::<4>(index, table.as_ptr().cast())
        }
        fn minus_where(v: __m512i, signs: __m512i, bits: __m512i) -> __m512i {
            let minus = _mm512_test_epi8_mask(signs, bits);
            _mm512_mask_sub_epi8(v, minus, _mm512_setzero_si512(), v)
        }

        fn signed(v: __m512i) -> __m512i { _mm512_xor_si512(v, _mm512_set1_epi8(i8::MIN)) }
        fn dot(sums: __m512i, w: __m512i, x: &[i8; 64]) -> __m512i {
            _mm512_dpbusd_epi32(sums, w, _mm512_loadu_si512(x.as_ptr().cast()))
        }
        fn dot_signed(sums: __m512i, w: __m512i, x: &[i8; 64]) -> __m512i {
            _mm512_dpbusd_epi32(sums, w, _mm512_loadu_si512(x.as_ptr().cast()))
        }

        fn convert(v: __m512i) -> __m512 { _mm512_cvtepi32_ps(v) }
        fn quarters(v: __m512i) -> [__m128i; 4] {
            [
                _mm512_castsi512_si128(v),
                _mm512_extracti32x4_epi32::<1>(v),
                _mm512_extracti32x4_epi32::<2>(v),
                _mm512_extracti32x4_epi32::<3>(v),
            ]
        }
        fn bits(v: __m512) -> __m512i { _mm512_castps_si512(v) }
        fn reinterpret(v: __m512i) -> __m512 { _mm512_castsi512_ps(v) }
        fn widen(v: __m128i) -> __m512i { _mm512_cvtepu8_epi32(v) }
        fn widen_signed(v: __m128i) -> __m512i { _mm512_cvtepi8_epi32(v) }
        fn half(bytes: [u8; 2]) -> __m512 {
            _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes(bytes)))
        }
        fn halves(v: __m128i, order: &[u8; 32]) -> __m512 {
            let order = _mm256_loadu_si256(order.as_ptr().cast());
            _mm512_cvtph_ps(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(v), order))
        }
        fn mul_f(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn sub_f(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn sum(v: __m512) -> f32 { _mm512_reduce_add_ps(v) }
        fn prefetch(ahead: *const u8, bytes: usize) { super::super::avx2::prefetch(ahead, 0, bytes) }
        fn scales6(header: &[u8; 16]) -> __m128i { scales6(header) }
        fn shuffle(v: __m128i, order: &[u8; 16]) -> __m128i { shuffle(v, order) }
        fn load128(bytes: &[u8; 16]) -> __m128i { _mm_loadu_si128(bytes.as_ptr().cast()) }
        fn halves_of_bytes(v: __m128i) -> [__m128i; 2] { halves_of_bytes(v) }
        fn scales3(tail: &[u8; 16]) -> __m128i { scales3(tail) }
    }
}

/// `$each` with the decoder of a type.
macro_rules! for_type {
    ($kind:expr, |$k:ident, $n:ident| $each:expr) => {{
        macro_rules! with {
            ($decoder:ty, $bytes:literal) => {{
                type $k = $decoder;
                const $n: usize = $bytes;
                $each
            }};
        }
        match $kind {
            BlockType::Q4_K => with!(types::Q4K, 144),
            BlockType::Q5_K => with!(types::Q5K, 176),
            BlockType::Q6_K => with!(types::Q6K, 210),
            BlockType::Q2_K => with!(types::Q2K, 84),
            BlockType::Q3_K => with!(types::Q3K, 110),
            BlockType::Q8_0 => with!(types::Q80, 272),
            BlockType::MXFP4 => with!(types::Mxfp4, 136),
            BlockType::Q4_0 => with!(types::Q40, 144),
            BlockType::Q4_1 => with!(types::Q41, 160),
            BlockType::Q5_0 => with!(types::Q50, 176),
            BlockType::Q5_1 => with!(types::Q51, 192),
            BlockType::IQ4_NL => with!(types::Iq4Nl, 144),
            BlockType::IQ4_XS => with!(types::Iq4Xs, 136),
            BlockType::IQ3_XXS => with!(grids::Iq3Xxs, 98),
            BlockType::IQ3_S => with!(grids::Iq3S, 110),
            BlockType::IQ2_XXS => with!(grids::Iq2Xxs, 66),
            BlockType::IQ2_XS => with!(grids::Iq2Xs, 74),
            BlockType::IQ2_S => with!(grids::Iq2S, 82),
            kind @ (BlockType::F32 | BlockType::F16 | BlockType::BF16) => {
                unreachable!("BUG: {kind} is not multiplied as integers")
            }
        }
    }};
}
pub(super) use for_type;

/// Whether grids can be looked up in registers. All CPUs of this level have VBMI but Intel's
/// Cascade Lake and Cooper Lake.
fn has_vbmi() -> bool {
    is_x86_feature_detected!("avx512vbmi")
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(in super::super) fn block_x(layout: &Layout, x: &[f32], out: &mut XBlock) {
    if has_vbmi() {
        // SAFETY: the CPU has VBMI, and the features of this function.
        unsafe { vbmi::block_x(layout, x, out) }
    } else {
        common::block_x(layout, x, out, common::reorder);
    }
}

pub(in super::super) fn block_layout(kind: BlockType) -> &'static Layout {
    if let Some(layout) = vbmi::block_layout(kind).filter(|_| has_vbmi()) {
        return layout;
    }
    if kind.is_float() {
        return &NATURAL;
    }
    for_type!(kind, |K, N| <K as Decode<Avx512, N>>::LAYOUT)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(in super::super) fn block_rows(rows: &BlockRows<'_>, out: &mut [f32]) {
    if vbmi::block_layout(rows.kind).is_some() && has_vbmi() {
        // SAFETY: the CPU has VBMI, and the features of this function.
        return unsafe { vbmi::block_rows(rows, out) };
    }
    for_type!(rows.kind, |K, N| typed::<K, N>(rows, out));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn typed<K: Decode<Avx512, N>, const N: usize>(rows: &BlockRows<'_>, out: &mut [f32]) {
    each_tokens!(rows, out, |x, out, T| some::<K, N, T>(rows, x, out));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
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

pub(in super::super) fn tile_layout(kind: BlockType) -> TileLayout {
    if let Some(layout) = vbmi::tile_layout(kind).filter(|_| has_vbmi()) {
        return layout;
    }
    for_type!(kind, |K, N| tiles::layout::<Avx512, K, N>())
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(in super::super) fn block_tile(
    tile: &BlockTile<'_>,
    space: &mut TileSpace,
    sums: &mut [[f32; TILE_ROWS]],
) {
    if vbmi::tile_layout(tile.kind).is_some() && has_vbmi() {
        // SAFETY: the CPU has VBMI, and the features of this function.
        return unsafe { vbmi::block_tile(tile, space, sums) };
    }
    for_type!(tile.kind, |K, N| each_span::<K, N>(tile, space, sums));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn each_span<K: Decode<Avx512, N>, const N: usize>(
    tile: &BlockTile<'_>,
    space: &mut TileSpace,
    sums: &mut [[f32; TILE_ROWS]],
) {
    let layout = tiles::layout::<Avx512, K, N>();
    for (i, x) in tile.x.chunks(sums.len()).enumerate() {
        fill::<K, N>(tile, i, space);
        multiply(space, layout, K::MIN, x, sums);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
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

/// Tokens of a register tile of 32 rows: with sums in f32 and in integers, it takes 24 registers.
const TOKENS: usize = 6;

/// Adds the products of a span.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn multiply(
    space: &TileSpace,
    layout: TileLayout,
    min: bool,
    x: &[XBlock],
    sums: &mut [[f32; TILE_ROWS]],
) {
    let lanes = &layout.order.lanes;
    match (layout.paired, min, layout.paired_min) {
        (true, false, _) => tokens::<true, false, true>(space, lanes, x, sums),
        (true, true, true) => tokens::<true, true, true>(space, lanes, x, sums),
        (true, true, false) => tokens::<true, true, false>(space, lanes, x, sums),
        (false, false, _) => tokens::<false, false, false>(space, lanes, x, sums),
        (false, true, _) => tokens::<false, true, false>(space, lanes, x, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline(never)]
fn tokens<const PAIRED: bool, const MIN: bool, const PAIRED_MIN: bool>(
    space: &TileSpace,
    lanes: &[i32; LANES],
    x: &[XBlock],
    sums: &mut [[f32; TILE_ROWS]],
) {
    let (xs, x_rest) = x.as_chunks::<TOKENS>();
    let (all, rest) = sums.as_chunks_mut::<TOKENS>();
    for (x, sums) in xs.iter().zip(all) {
        some_tokens::<TOKENS, PAIRED, MIN, PAIRED_MIN>(space, lanes, x, sums);
    }
    macro_rules! rest {
        ($($t:literal)*) => {
            match x_rest.len() {
                $($t => if let (Some(x), Some(sums)) = (x_rest.first_chunk(), rest.first_chunk_mut()) {
                    some_tokens::<$t, PAIRED, MIN, PAIRED_MIN>(space, lanes, x, sums);
                })*
                _ => {}
            }
        };
    }
    rest!(1 2 3 4 5);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn some_tokens<const T: usize, const PAIRED: bool, const MIN: bool, const PAIRED_MIN: bool>(
    space: &TileSpace,
    lanes: &[i32; LANES],
    x: &[XBlock; T],
    sums: &mut [[f32; TILE_ROWS]; T],
) {
    let mut totals = [[_mm512_setzero_ps(); 2]; T];
    for (totals, sums) in totals.iter_mut().zip(&*sums) {
        let (halves, _) = sums.as_chunks::<16>();
        for (total, half) in totals.iter_mut().zip(halves) {
            *total = load_f32(half);
        }
    }
    for (pair, lanes) in lanes.as_chunks::<2>().0.iter().enumerate() {
        let groups = [2 * pair, 2 * pair + 1];
        let lanes = lanes.map(|lane| lane as usize % LANES);
        if PAIRED {
            let mut acc = start(x, lanes[0]);
            dot_group(&mut acc, space, groups[0], x, lanes[0]);
            dot_group(&mut acc, space, groups[1], x, lanes[1]);
            add_scaled(&mut totals, &acc, space, groups[0], x, lanes[0]);
        } else {
            for (group, lane) in groups.into_iter().zip(lanes) {
                let mut acc = start(x, lane);
                dot_group(&mut acc, space, group, x, lane);
                add_scaled(&mut totals, &acc, space, group, x, lane);
            }
        }
        if MIN {
            subtract_min(&mut totals, space, groups[0], x, lanes[0]);
            if !PAIRED_MIN {
                subtract_min(&mut totals, space, groups[1], x, lanes[1]);
            }
        }
    }
    for (totals, sums) in totals.iter().zip(sums) {
        let (halves, _) = sums.as_chunks_mut::<16>();
        for (total, half) in totals.iter().zip(halves) {
            // SAFETY: the array is 64 bytes long.
            unsafe { _mm512_storeu_ps(half.as_mut_ptr(), *total) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32(values: &[f32; 16]) -> __m512 {
    // SAFETY: the array is 64 bytes long.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn start<const T: usize>(x: &[XBlock; T], lane: usize) -> [[__m512i; 2]; T] {
    let mut acc = [[_mm512_setzero_si512(); 2]; T];
    for (acc, x) in acc.iter_mut().zip(x) {
        *acc = [_mm512_set1_epi32(x.start[lane]); 2];
    }
    acc
}

/// Adds the integer products of 16 columns.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_group<const T: usize>(
    acc: &mut [[__m512i; 2]; T],
    space: &TileSpace,
    group: usize,
    x: &[XBlock; T],
    lane: usize,
) {
    for m in 0..4 {
        let w = [0, 1].map(|half: usize| {
            let w: &[[u8; 16]; 4] = &space.halves[half].q[group][m];
            // SAFETY: the array is 64 bytes long.
            unsafe { _mm512_loadu_si512(w.as_ptr().cast()) }
        });
        for (acc, x) in acc.iter_mut().zip(x) {
            let four = x.q.as_chunks::<4>().0[16 * m + lane];
            let four = _mm512_set1_epi32(i32::from_ne_bytes(four.map(|q| q as u8)));
            acc[0] = _mm512_dpbusd_epi32(acc[0], w[0], four);
            acc[1] = _mm512_dpbusd_epi32(acc[1], w[1], four);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_scaled<const T: usize>(
    totals: &mut [[__m512; 2]; T],
    acc: &[[__m512i; 2]; T],
    space: &TileSpace,
    group: usize,
    x: &[XBlock; T],
    lane: usize,
) {
    let scale = [0, 1].map(|half: usize| load_f32(&space.halves[half].scale[group]));
    for ((totals, acc), x) in totals.iter_mut().zip(acc).zip(x) {
        let unit = _mm512_set1_ps(x.unit[lane]);
        for half in 0..2 {
            let by = _mm512_mul_ps(scale[half], unit);
            totals[half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[half]), by, totals[half]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn subtract_min<const T: usize>(
    totals: &mut [[__m512; 2]; T],
    space: &TileSpace,
    group: usize,
    x: &[XBlock; T],
    lane: usize,
) {
    let min = [0, 1].map(|half: usize| load_f32(&space.halves[half].min[group]));
    for (totals, x) in totals.iter_mut().zip(x) {
        let sum = _mm512_set1_ps(x.sum[lane]);
        totals[0] = _mm512_fnmadd_ps(min[0], sum, totals[0]);
        totals[1] = _mm512_fnmadd_ps(min[1], sum, totals[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::common;
    use super::*;

    /// Rows of random bytes, small scales in front; the product by `K` and by the reference.
    fn compare<K: Decode<Avx512, N>, const N: usize>(kind: BlockType) {
        let (k, count) = (3 * WIDTH, 5);
        let mut state = 1u32;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let mut bytes: Vec<u8> = (0..count * 3 * N).map(|_| byte()).collect();
        for block in bytes.chunks_mut(N) {
            block[1] = 0x20 | block[1] & 3;
        }
        let x: Vec<f32> = (0..k).map(|_| f32::from(byte() as i8)).collect();
        let run = |layout: &Layout, rows: &dyn Fn(&BlockRows<'_>, &mut [f32])| {
            let zero = XBlock {
                q: [0; WIDTH],
                unit: [0.0; LANES],
                sum: [0.0; LANES],
                start: [0; LANES],
            };
            let mut blocks = [zero; 3];
            for (x, block) in x.chunks(WIDTH).zip(&mut blocks) {
                common::block_x(layout, x, block, common::reorder);
            }
            let mut out = [0.0; 5];
            let row_bytes = 3 * N;
            let (bytes, x) = (&bytes[..], &blocks[..]);
            rows(
                &BlockRows {
                    kind,
                    bytes,
                    row_bytes,
                    k,
                    x,
                },
                &mut out,
            );
            out
        };
        let expected = run(&NATURAL, &|rows, out| common::block_rows(rows, out));
        // SAFETY: the caller has seen that the CPU has the features.
        let found = run(K::LAYOUT, &|rows, out| unsafe { typed::<K, N>(rows, out) });
        for (found, expected) in found.iter().zip(expected) {
            let error = (found - expected).abs();
            assert!(
                error <= 1e-4 * expected.abs().max(1.0),
                "{kind}: {found}, not {expected}"
            );
        }
    }

    #[test]
    fn grids_are_gathered_where_there_is_no_vbmi() {
        if !super::super::super::avx512::is_available() {
            println!("skipped: no AVX-512");
            return;
        }
        compare::<grids::Iq3Xxs, 98>(BlockType::IQ3_XXS);
        compare::<grids::Iq3S, 110>(BlockType::IQ3_S);
        compare::<grids::Iq2Xxs, 66>(BlockType::IQ2_XXS);
        compare::<grids::Iq2Xs, 74>(BlockType::IQ2_XS);
        compare::<grids::Iq2S, 82>(BlockType::IQ2_S);
    }
}
