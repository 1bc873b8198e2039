//! What the blocks of each type hold, value by value, in plain Rust: every level compiles this
//! with its own features.
//!
//! Source of layouts and formulas: ggml (`ggml-quants.c`, `dequantize_row_*`), MIT.

use super::BlockType;
use super::grids::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, sign_byte};

/// Columns of a span: a block of 256, or eight of 32.
pub(crate) const WIDTH: usize = 256;
/// Columns of the smallest run that has a scale of its own in any type.
const GROUP: usize = 16;

/// The values of IQ4_NL and IQ4_XS.
pub(crate) const IQ4_LEVELS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
/// Twice the values of MXFP4.
pub(crate) const MXFP4_LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Up to 256 weights: `scale * q - min`, scale and min for every 16.
#[derive(Clone)]
pub(crate) struct Span {
    pub q: [i8; WIDTH],
    pub scale: [f32; WIDTH / GROUP],
    pub min: [f32; WIDTH / GROUP],
}

impl Span {
    pub(crate) const ZERO: Self = Self {
        q: [0; WIDTH],
        scale: [0.0; WIDTH / GROUP],
        min: [0.0; WIDTH / GROUP],
    };
}

/// The bytes of each span, the last one perhaps shorter.
#[inline(always)]
pub(crate) fn spans(kind: BlockType, bytes: &[u8]) -> std::slice::Chunks<'_, u8> {
    bytes.chunks(WIDTH / kind.block_len() * kind.block_bytes())
}

/// f16 to f32 in plain arithmetic, which vectorizes.
#[inline(always)]
pub(crate) fn half(bytes: &[u8]) -> f32 {
    let bits = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let (sign, rest) = (bits >> 15 << 31, bits & 0x7fff);
    // The exponent is 112 too small; a subnormal is one here too.
    let value = f32::from_bits(rest << 13) * f32::from_bits((112 + 127) << 23);
    let value = if rest < 0x7c00 {
        value.to_bits()
    } else {
        rest << 13 | 0x7f80_0000
    };
    f32::from_bits(value | sign)
}

/// `2^(e - 128)`, half of what the exponent of an MXFP4 block stands for.
#[inline(always)]
pub(crate) fn mxfp4_step(e: u8) -> f32 {
    if e < 2 {
        f32::from_bits(0x0020_0000 << e)
    } else {
        f32::from_bits((u32::from(e) - 1) << 23)
    }
}

/// 32 values of 4 bits: the first 16 in the low halves of 16 bytes, the others in the high ones.
#[inline(always)]
fn nibbles(bytes: &[u8; 16], out: &mut [i8; 32], of: impl Fn(u8, usize) -> i8) {
    for i in 0..16 {
        out[i] = of(bytes[i] & 15, i);
        out[16 + i] = of(bytes[i] >> 4, 16 + i);
    }
}

#[inline(always)]
fn part<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    match bytes[at..].first_chunk() {
        Some(part) => part,
        None => unreachable!("BUG: a field beyond its block"),
    }
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*part(bytes, at))
}

/// The 32 values of group `i`.
#[inline(always)]
fn group32(span: &mut Span, i: usize) -> &mut [i8; 32] {
    &mut span.q.as_chunks_mut::<32>().0[i]
}

/// The 6-bit scale and minimum of group `j` of Q4_K and Q5_K, from their 12 bytes.
#[inline(always)]
fn scale6(s: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (
            s[j + 4] & 15 | s[j - 4] >> 6 << 4,
            s[j + 4] >> 4 | s[j] >> 6 << 4,
        )
    }
}

/// Eight values of a grid with their signs.
#[inline(always)]
fn signed(out: &mut [i8; 8], grid: &[i8; 8], signs: u8) {
    for k in 0..8 {
        let minus = -((signs >> k & 1) as i8);
        out[k] = (grid[k] ^ minus) - minus;
    }
}

/// Two grid entries of 4.
#[inline(always)]
fn pair(a: &[i8; 4], b: &[i8; 4]) -> [i8; 8] {
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}

/// Decodes the blocks of a span of quantized weights; returns how many columns there are. What
/// lies beyond them is unspecified.
#[inline(always)]
pub(crate) fn fill(kind: BlockType, bytes: &[u8], span: &mut Span) -> usize {
    span.min = [0.0; WIDTH / GROUP];
    let blocks = bytes.len() / kind.block_bytes();
    match kind {
        BlockType::Q4_K | BlockType::Q5_K => fives(kind == BlockType::Q5_K, bytes, span),
        BlockType::Q6_K => q6_k(bytes, span),
        BlockType::Q2_K => q2_k(bytes, span),
        BlockType::Q3_K => q3_k(bytes, span),
        BlockType::IQ4_XS => iq4_xs(bytes, span),
        BlockType::IQ3_XXS => iq3_xxs(bytes, span),
        BlockType::IQ3_S => iq3_s(bytes, span),
        BlockType::IQ2_XXS => iq2_xxs(bytes, span),
        BlockType::IQ2_XS => iq2_xs(bytes, span),
        BlockType::IQ2_S => iq2_s(bytes, span),
        _ => {
            for (i, block) in bytes.chunks_exact(kind.block_bytes()).enumerate() {
                let (scale, min) = block32(kind, block, group32(span, i));
                span.scale[2 * i..2 * i + 2].fill(scale);
                span.min[2 * i..2 * i + 2].fill(min);
            }
        }
    }
    blocks * kind.block_len()
}

/// One block of 32; returns its scale and min.
#[inline(always)]
fn block32(kind: BlockType, b: &[u8], q: &mut [i8; 32]) -> (f32, f32) {
    match kind {
        BlockType::Q8_0 => {
            for (q, b) in q.iter_mut().zip(part::<32>(b, 2)) {
                *q = *b as i8;
            }
            (half(b), 0.0)
        }
        BlockType::Q4_0 => {
            nibbles(part(b, 2), q, |v, _| v as i8 - 8);
            (half(b), 0.0)
        }
        BlockType::Q4_1 => {
            nibbles(part(b, 4), q, |v, _| v as i8);
            (half(b), -half(&b[2..]))
        }
        BlockType::Q5_0 => {
            let high = word(b, 2);
            nibbles(part(b, 6), q, |v, i| {
                (v | ((high >> i & 1) as u8 * 16)) as i8 - 16
            });
            (half(b), 0.0)
        }
        BlockType::Q5_1 => {
            let high = word(b, 4);
            nibbles(part(b, 8), q, |v, i| {
                (v | ((high >> i & 1) as u8 * 16)) as i8
            });
            (half(b), -half(&b[2..]))
        }
        BlockType::IQ4_NL => {
            nibbles(part(b, 2), q, |v, _| IQ4_LEVELS[usize::from(v)]);
            (half(b), 0.0)
        }
        BlockType::MXFP4 => {
            nibbles(part(b, 1), q, |v, _| MXFP4_LEVELS[usize::from(v)]);
            (mxfp4_step(b[0]), 0.0)
        }
        _ => unreachable!("BUG: {kind} has no blocks of 32"),
    }
}

/// Q4_K: d, dmin, 12 bytes of scales and minima, 128 of nibbles. Q5_K: 32 bytes of fifth bits
/// before the nibbles.
#[inline(always)]
fn fives(fifth: bool, b: &[u8], span: &mut Span) {
    let (d, least) = (half(b), half(&b[2..]));
    let scales: &[u8; 12] = part(b, 4);
    for j in 0..8 {
        let (scale, min) = scale6(scales, j);
        span.scale[2 * j..2 * j + 2].fill(d * f32::from(scale));
        span.min[2 * j..2 * j + 2].fill(least * f32::from(min));
    }
    for pair in 0..4 {
        let low: &[u8; 32] = part(b, if fifth { 48 } else { 16 } + 32 * pair);
        let [a, b] = {
            let high: [u8; 32] = if fifth { *part(b, 16) } else { [0; 32] };
            let of = |shift: usize, sub: usize| {
                let mut q = [0i8; 32];
                for i in 0..32 {
                    q[i] = (low[i] >> shift & 15 | (high[i] >> sub & 1) << 4) as i8;
                }
                q
            };
            [of(0, 2 * pair), of(4, 2 * pair + 1)]
        };
        *group32(span, 2 * pair) = a;
        *group32(span, 2 * pair + 1) = b;
    }
}

/// 128 bytes of low nibbles, 64 of high pairs, 16 signed scales, d.
#[inline(always)]
fn q6_k(b: &[u8], span: &mut Span) {
    let d = half(&b[208..]);
    for (scale, s) in span.scale.iter_mut().zip(part::<16>(b, 192)) {
        *scale = d * f32::from(*s as i8);
    }
    for i in 0..8 {
        let low: &[u8; 32] = part(b, 64 * (i / 4) + 32 * (i % 2));
        let high: &[u8; 32] = part(b, 128 + 32 * (i / 4));
        let out = group32(span, i);
        for n in 0..32 {
            let low = low[n] >> (4 * (i / 2 % 2)) & 15;
            out[n] = (low | (high[n] >> (2 * (i % 4)) & 3) << 4) as i8 - 32;
        }
    }
}

/// 16 scales (low half: scale, high half: minimum), 64 bytes of pairs, d, dmin.
#[inline(always)]
fn q2_k(b: &[u8], span: &mut Span) {
    let (d, least) = (half(&b[80..]), half(&b[82..]));
    for (i, s) in part::<16>(b, 0).iter().enumerate() {
        span.scale[i] = d * f32::from(s & 15);
        span.min[i] = least * f32::from(s >> 4);
    }
    for i in 0..8 {
        let pairs: &[u8; 32] = part(b, 16 + 32 * (i / 4));
        let out = group32(span, i);
        for n in 0..32 {
            out[n] = (pairs[n] >> (2 * (i % 4)) & 3) as i8;
        }
    }
}

/// 32 bytes of high bits, 64 of low pairs, 12 of 6-bit scales, d.
#[inline(always)]
fn q3_k(b: &[u8], span: &mut Span) {
    let d = half(&b[108..]);
    let s: &[u8; 12] = part(b, 96);
    for j in 0..16 {
        let low = s[j % 8] >> (4 * (j / 8)) & 15;
        let high = s[8 + j % 4] >> (2 * (j / 4)) & 3;
        span.scale[j] = d * f32::from((low | high << 4) as i8 - 32);
    }
    let high: &[u8; 32] = part(b, 0);
    for i in 0..8 {
        let pairs: &[u8; 32] = part(b, 32 + 32 * (i / 4));
        let out = group32(span, i);
        for n in 0..32 {
            let q = pairs[n] >> (2 * (i % 4)) & 3 | (high[n] >> i & 1) << 2;
            out[n] = q as i8 - 4;
        }
    }
}

/// d, 16 bits of high pairs of scales, 4 bytes of low halves, 128 of nibbles.
#[inline(always)]
fn iq4_xs(b: &[u8], span: &mut Span) {
    let d = half(b);
    let high = u16::from_le_bytes([b[2], b[3]]);
    for i in 0..8 {
        let low = b[4 + i / 2] >> (4 * (i % 2)) & 15;
        let scale = low | ((high >> (2 * i) & 3) as u8) << 4;
        span.scale[2 * i..2 * i + 2].fill(d * f32::from(scale as i8 - 32));
        nibbles(part(b, 8 + 16 * i), group32(span, i), |v, _| {
            IQ4_LEVELS[usize::from(v)]
        });
    }
}

/// d, 64 grid indices, 8 words of four 7-bit signs and a 4-bit scale.
#[inline(always)]
fn iq3_xxs(b: &[u8], span: &mut Span) {
    let d = half(b);
    let index: &[u8; 64] = part(b, 2);
    for i in 0..8 {
        let word = word(b, 66 + 4 * i);
        span.scale[2 * i..2 * i + 2].fill(d * (0.5 + (word >> 28) as f32) * 0.5);
        for (e, out) in group32(span, i)
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .enumerate()
        {
            let at = |j: usize| &IQ3_XXS[usize::from(index[8 * i + 2 * e + j])];
            signed(out, &pair(at(0), at(1)), sign_byte((word >> (7 * e)) as u8));
        }
    }
}

/// d, 64 indices, 8 bytes of their ninth bits, 32 of signs, 4 of 4-bit scales.
#[inline(always)]
fn iq3_s(b: &[u8], span: &mut Span) {
    let d = half(b);
    for i in 0..8 {
        let scale = b[106 + i / 2] >> (4 * (i % 2)) & 15;
        span.scale[2 * i..2 * i + 2].fill(d * f32::from(1 + 2 * scale));
        let high = usize::from(b[66 + i]);
        for (e, out) in group32(span, i)
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .enumerate()
        {
            let at = |j: usize| {
                let low = usize::from(b[2 + 8 * i + j]);
                &IQ3_S[low | (high >> j & 1) << 8]
            };
            signed(out, &pair(at(2 * e), at(2 * e + 1)), b[74 + 4 * i + e]);
        }
    }
}

/// d, 8 times: 4 indices, a word of four 7-bit signs and a 4-bit scale.
#[inline(always)]
fn iq2_xxs(b: &[u8], span: &mut Span) {
    let d = half(b);
    for i in 0..8 {
        let word = word(b, 6 + 8 * i);
        span.scale[2 * i..2 * i + 2].fill(d * (0.5 + (word >> 28) as f32) * 0.25);
        for (e, out) in group32(span, i)
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .enumerate()
        {
            let grid = &IQ2_XXS[usize::from(b[2 + 8 * i + e])];
            signed(out, grid, sign_byte((word >> (7 * e)) as u8));
        }
    }
}

/// The scales of IQ2_XS and IQ2_S: a nibble for 16 values.
#[inline(always)]
fn iq2_scales(d: f32, scales: &[u8; 8], span: &mut Span) {
    for (j, scale) in span.scale.iter_mut().enumerate() {
        let s = scales[j / 2] >> (4 * (j % 2)) & 15;
        *scale = d * (0.5 + f32::from(s)) * 0.25;
    }
}

/// d, 32 u16 of a 9-bit index and 7 signs, 8 bytes of scales.
#[inline(always)]
fn iq2_xs(b: &[u8], span: &mut Span) {
    iq2_scales(half(b), part(b, 66), span);
    for (e, out) in span.q.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let v = u16::from_le_bytes(*part(b, 2 + 2 * e));
        signed(
            out,
            &IQ2_XS[usize::from(v & 511)],
            sign_byte((v >> 9) as u8),
        );
    }
}

/// d, 32 indices, 32 signs, 8 bytes of high index bits, 8 of scales.
#[inline(always)]
fn iq2_s(b: &[u8], span: &mut Span) {
    iq2_scales(half(b), part(b, 74), span);
    for (e, out) in span.q.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = usize::from(b[66 + e / 4] >> (2 * (e % 4)) & 3);
        let index = usize::from(b[2 + e]) | high << 8;
        signed(out, &IQ2_S[index], b[34 + e]);
    }
}

/// Weights of a float type.
#[inline(always)]
pub(crate) fn floats(kind: BlockType, bytes: &[u8], out: &mut [f32]) {
    match kind {
        BlockType::F32 => {
            for (out, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*b);
            }
        }
        BlockType::BF16 => {
            for (out, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }
        }
        _ => {
            for (out, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = half(b);
            }
        }
    }
}

/// Whether all scales, or all float weights, are finite.
pub(super) fn is_finite(kind: BlockType, bytes: &[u8]) -> bool {
    // Where a block's f16 numbers are.
    let fields: &[usize] = match kind {
        BlockType::F32 | BlockType::BF16 | BlockType::F16 => {
            let mut values = [0f32; WIDTH];
            let width = WIDTH * kind.block_bytes();
            return bytes.chunks(width).all(|bytes| {
                let values = &mut values[..bytes.len() / kind.block_bytes()];
                floats(kind, bytes, values);
                crate::outliers::is_finite(values)
            });
        }
        BlockType::MXFP4 => return bytes.chunks(17).all(|block| block[0] != 255),
        BlockType::Q4_K | BlockType::Q5_K | BlockType::Q4_1 | BlockType::Q5_1 => &[0, 2],
        BlockType::Q2_K => &[80, 82],
        BlockType::Q3_K => &[108],
        BlockType::Q6_K => &[208],
        _ => &[0],
    };
    bytes.chunks(kind.block_bytes()).all(|block| {
        let infinite = |at: &usize| block[at + 1] & 0x7c == 0x7c;
        !fields.iter().any(infinite)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_what_it_is() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (half(&bits.to_le_bytes()), half::f16::from_bits(bits));
            assert_eq!(found.is_nan(), expected.is_nan(), "{bits:#x}");
            if !found.is_nan() {
                assert_eq!(found.to_bits(), expected.to_f32().to_bits(), "{bits:#x}");
            }
        }
    }

    #[test]
    fn a_step_of_mxfp4_is_a_power_of_two() {
        for e in 0..=255u8 {
            assert_eq!(
                f64::from(mxfp4_step(e)),
                2f64.powi(i32::from(e) - 128),
                "{e}"
            );
        }
    }
}
