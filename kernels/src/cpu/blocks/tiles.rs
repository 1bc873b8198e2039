//! Rows of integer tiles with AVX-512 VBMI: spans are decoded as for one token, put in the order of
//! columns, scaled and rounded.

use std::arch::x86_64::*;

use super::super::common::steps;
use super::super::{KB_I16, W_MAX};
use super::avx512::Avx512;
use super::rows::Decode;
use super::simd::{Simd, each2};
use super::vbmi::reorder;
use super::{LANES, Layout, types, vbmi};
use crate::blocks::{BlockType, WIDTH, extremes};

/// Columns of a group.
const GROUP: usize = WIDTH / LANES;

/// A span in the order of columns.
#[derive(Clone, Copy)]
struct Columns {
    q: [i8; WIDTH],
    scale: [f32; LANES],
    min: [f32; LANES],
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
pub(super) fn block_integers(kind: BlockType, bytes: &[u8], out: &mut [i16]) -> f32 {
    match kind {
        BlockType::Q4_K => fill::<types::Q4K, 144>(kind, bytes, out),
        BlockType::Q5_K => fill::<types::Q5K, 176>(kind, bytes, out),
        BlockType::Q6_K => fill::<types::Q6K, 210>(kind, bytes, out),
        BlockType::Q2_K => fill::<types::Q2K, 84>(kind, bytes, out),
        BlockType::Q3_K => fill::<types::Q3K, 110>(kind, bytes, out),
        BlockType::Q8_0 => fill::<types::Q80, 272>(kind, bytes, out),
        BlockType::MXFP4 => fill::<types::Mxfp4, 136>(kind, bytes, out),
        BlockType::Q4_0 => fill::<types::Q40, 144>(kind, bytes, out),
        BlockType::Q4_1 => fill::<types::Q41, 160>(kind, bytes, out),
        BlockType::Q5_0 => fill::<types::Q50, 176>(kind, bytes, out),
        BlockType::Q5_1 => fill::<types::Q51, 192>(kind, bytes, out),
        BlockType::IQ4_NL => fill::<types::Iq4Nl, 144>(kind, bytes, out),
        BlockType::IQ4_XS => fill::<types::Iq4Xs, 136>(kind, bytes, out),
        BlockType::IQ3_XXS => fill::<vbmi::Iq3Xxs, 98>(kind, bytes, out),
        BlockType::IQ3_S => fill::<vbmi::Iq3S, 110>(kind, bytes, out),
        BlockType::IQ2_XXS => fill::<vbmi::Iq2Xxs, 66>(kind, bytes, out),
        BlockType::IQ2_XS => fill::<vbmi::Iq2Xs, 74>(kind, bytes, out),
        BlockType::IQ2_S => fill::<vbmi::Iq2S, 82>(kind, bytes, out),
        BlockType::F32 | BlockType::F16 | BlockType::BF16 => {
            unreachable!("BUG: {kind} is not multiplied as integers")
        }
    }
}

/// See [`super::common::block_integers`], which computes the same to the bit.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn fill<K: Decode<Avx512, N>, const N: usize>(
    kind: BlockType,
    bytes: &[u8],
    out: &mut [i16],
) -> f32 {
    const SPANS: usize = KB_I16 / WIDTH;
    let mut spans = [Columns {
        q: [0; WIDTH],
        scale: [0.0; LANES],
        min: [0.0; LANES],
    }; SPANS];
    let mut most = _mm512_setzero_ps();
    let mut total = most;
    for (bytes, span) in bytes.chunks(N).zip(&mut spans) {
        let extent = match bytes.first_chunk() {
            Some(bytes) => columns::<K, N>(kind, bytes, span),
            None => {
                let mut padded = [0; N];
                padded[..bytes.len()].copy_from_slice(bytes);
                columns::<K, N>(kind, &padded, span)
            }
        };
        most = _mm512_max_ps(most, extent);
        total = _mm512_add_ps(total, extent);
    }
    let (to_units, unit) = steps(_mm512_reduce_max_ps(most), W_MAX);
    for (span, out) in spans.iter().zip(out.chunks_mut(WIDTH)) {
        let groups = span.q.as_chunks::<GROUP>().0.iter();
        let params = span.scale.iter().zip(&span.min);
        for ((q, (scale, min)), out) in groups.zip(params).zip(out.as_chunks_mut::<GROUP>().0) {
            // SAFETY: an array of 16 bytes.
            let q = unsafe { _mm_loadu_si128(q.as_ptr().cast()) };
            let q = match K::LAYOUT.offset {
                0 => _mm512_cvtepu8_epi32(q),
                _ => _mm512_cvtepi8_epi32(q),
            };
            let scale = _mm512_set1_ps(scale * to_units);
            let value = _mm512_mul_ps(_mm512_cvtepi32_ps(q), scale);
            let value = _mm512_sub_ps(value, _mm512_set1_ps(min * to_units));
            let value = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(value));
            // SAFETY: an array of 32 bytes.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), value) };
        }
    }
    match _mm512_reduce_add_ps(total).is_finite() {
        true => unit,
        false => f32::NAN,
    }
}

/// Decodes a span; returns the largest magnitudes its scales allow. Weights that are unsigned stay so.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn columns<K: Decode<Avx512, N>, const N: usize>(
    kind: BlockType,
    bytes: &[u8; N],
    span: &mut Columns,
) -> __m512 {
    // SAFETY: the features of this function.
    let s = unsafe { Avx512::new() };
    let Layout {
        inverse,
        lanes,
        offsets,
        factor,
        ..
    } = K::LAYOUT;
    let weights = K::decode(s, bytes);
    let mut q = [0i8; WIDTH];
    let offsets = s.integers(offsets);
    for (q, w) in q.as_chunks_mut::<64>().0.iter_mut().zip(&weights.w) {
        let w = _mm512_sub_epi8(*w, offsets);
        // SAFETY: an array of 64 bytes.
        unsafe { _mm512_storeu_si512(q.as_mut_ptr().cast(), w) };
    }
    reorder(&q, inverse, &mut span.q);
    let lanes = s.integers(lanes);
    let scale = _mm512_mul_ps(weights.scale, s.floats(factor));
    // SAFETY: arrays of 16.
    unsafe {
        _mm512_storeu_ps(span.scale.as_mut_ptr(), _mm512_permutexvar_ps(lanes, scale));
        if K::MIN {
            let min = _mm512_permutexvar_ps(lanes, weights.min);
            _mm512_storeu_ps(span.min.as_mut_ptr(), min);
        }
    }
    let (low, high) = extremes(kind);
    let [low, high] = each2!([low, high], |q| {
        let value = _mm512_mul_ps(weights.scale, _mm512_set1_ps(q));
        _mm512_abs_ps(match K::MIN {
            true => _mm512_sub_ps(value, weights.min),
            false => value,
        })
    });
    _mm512_max_ps(low, high)
}
