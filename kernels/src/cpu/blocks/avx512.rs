//! [`Simd`] with AVX-512 and VNNI: a vector is one register.

use std::arch::x86_64::*;

use super::avx2::{halves_of_bytes, scales3, scales6, shuffle};
use super::rows::{Decode, each_tokens, rows};
use super::simd::{Simd, each4, instructions};
use super::{BlockRows, LANES, Layout, NATURAL, XBlock};
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(in super::super) fn block_integers(kind: BlockType, bytes: &[u8], out: &mut [i16]) -> f32 {
    if has_vbmi() {
        // SAFETY: the CPU has VBMI, and the features of this function.
        unsafe { tiles::block_integers(kind, bytes, out) }
    } else {
        common::block_integers(kind, bytes, out)
    }
}

pub(in super::super) fn block_layout(kind: BlockType) -> &'static Layout {
    fn of<K: Decode<Avx512, N>, const N: usize>() -> &'static Layout {
        K::LAYOUT
    }
    if let Some(layout) = vbmi::block_layout(kind).filter(|_| has_vbmi()) {
        return layout;
    }
    match kind {
        BlockType::Q4_K => of::<types::Q4K, 144>(),
        BlockType::Q5_K => of::<types::Q5K, 176>(),
        BlockType::Q6_K => of::<types::Q6K, 210>(),
        BlockType::Q2_K => of::<types::Q2K, 84>(),
        BlockType::Q3_K => of::<types::Q3K, 110>(),
        BlockType::Q8_0 => of::<types::Q80, 272>(),
        BlockType::MXFP4 => of::<types::Mxfp4, 136>(),
        BlockType::Q4_0 => of::<types::Q40, 144>(),
        BlockType::Q4_1 => of::<types::Q41, 160>(),
        BlockType::Q5_0 => of::<types::Q50, 176>(),
        BlockType::Q5_1 => of::<types::Q51, 192>(),
        BlockType::IQ4_NL => of::<types::Iq4Nl, 144>(),
        BlockType::IQ4_XS => of::<types::Iq4Xs, 136>(),
        BlockType::IQ3_XXS => of::<grids::Iq3Xxs, 98>(),
        BlockType::IQ3_S => of::<grids::Iq3S, 110>(),
        BlockType::IQ2_XXS => of::<grids::Iq2Xxs, 66>(),
        BlockType::IQ2_XS => of::<grids::Iq2Xs, 74>(),
        BlockType::IQ2_S => of::<grids::Iq2S, 82>(),
        BlockType::F32 | BlockType::F16 | BlockType::BF16 => &NATURAL,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(in super::super) fn block_rows(rows: &BlockRows<'_>, out: &mut [f32]) {
    if vbmi::block_layout(rows.kind).is_some() && has_vbmi() {
        // SAFETY: the CPU has VBMI, and the features of this function.
        return unsafe { vbmi::block_rows(rows, out) };
    }
    match rows.kind {
        BlockType::Q4_K => typed::<types::Q4K, 144>(rows, out),
        BlockType::Q5_K => typed::<types::Q5K, 176>(rows, out),
        BlockType::Q6_K => typed::<types::Q6K, 210>(rows, out),
        BlockType::Q2_K => typed::<types::Q2K, 84>(rows, out),
        BlockType::Q3_K => typed::<types::Q3K, 110>(rows, out),
        BlockType::Q8_0 => typed::<types::Q80, 272>(rows, out),
        BlockType::MXFP4 => typed::<types::Mxfp4, 136>(rows, out),
        BlockType::Q4_0 => typed::<types::Q40, 144>(rows, out),
        BlockType::Q4_1 => typed::<types::Q41, 160>(rows, out),
        BlockType::Q5_0 => typed::<types::Q50, 176>(rows, out),
        BlockType::Q5_1 => typed::<types::Q51, 192>(rows, out),
        BlockType::IQ4_NL => typed::<types::Iq4Nl, 144>(rows, out),
        BlockType::IQ4_XS => typed::<types::Iq4Xs, 136>(rows, out),
        BlockType::IQ3_XXS => typed::<grids::Iq3Xxs, 98>(rows, out),
        BlockType::IQ3_S => typed::<grids::Iq3S, 110>(rows, out),
        BlockType::IQ2_XXS => typed::<grids::Iq2Xxs, 66>(rows, out),
        BlockType::IQ2_XS => typed::<grids::Iq2Xs, 74>(rows, out),
        BlockType::IQ2_S => typed::<grids::Iq2S, 82>(rows, out),
        kind => unreachable!("BUG: {kind} is not multiplied as integers"),
    }
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
