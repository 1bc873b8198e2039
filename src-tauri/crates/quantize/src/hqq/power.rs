//! A power that compilers vectorize: nothing but arithmetic on lanes, no call and no branch.

use std::f32::consts::{LN_2, LOG2_E};

/// Added to a number of magnitude below 2^22 it leaves no bits for a fraction: the sum's low
/// mantissa bits are the nearest integer, ties to even.
const ROUNDER: f32 = 12_582_912.0;

/// The nearest integer, ties to even, of a number whose magnitude is below 2^22.
#[inline(always)]
pub(super) fn round(x: f32) -> f32 {
    (x + ROUNDER) - ROUNDER
}

/// The nearest integer of `0.0..=255.0`.
#[inline(always)]
pub(super) fn round_to_u8(x: f32) -> u8 {
    (x + ROUNDER).to_bits() as u8
}

/// `x` to the power `exponent`, as `2^(exponent * log2 x)`, for normal `x` and an `exponent`
/// between -1 and 1: relative error below 3e-6. Zero and subnormals count as the smallest normal
/// number or less.
#[inline(always)]
pub(super) fn power(x: f32, exponent: f32) -> f32 {
    exp2(exponent * log2(x))
}

/// Absolute error below 2e-7 times `1 + |log2 x|`.
#[inline(always)]
fn log2(x: f32) -> f32 {
    // The mantissa is taken between sqrt(1/2) and sqrt(2), where the series converges fast:
    // ln m = 2 (s + s^3/3 + s^5/5 + ...) with s = (m - 1) / (m + 1), |s| < 0.172.
    const SQRT_HALF_BITS: i32 = 0x3f35_04f3;
    let bits = x.to_bits() as i32;
    let exponent = bits.wrapping_sub(SQRT_HALF_BITS) >> 23;
    let m = f32::from_bits(bits.wrapping_sub(exponent << 23) as u32);
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let series = s * (1.0 + s2 * (1.0 / 3.0 + s2 * (1.0 / 5.0 + s2 * (1.0 / 7.0))));
    exponent as f32 + 2.0 * LOG2_E * series
}

/// Relative error below 3e-7, for a magnitude below 126.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    let rounded = x + ROUNDER;
    let integer = rounded.to_bits().wrapping_sub(ROUNDER.to_bits());
    // Taylor's series of e^y, |y| <= ln(2) / 2.
    let y = (x - (rounded - ROUNDER)) * LN_2;
    let fraction = 1.0
        + y * (1.0
            + y * (1.0 / 2.0
                + y * (1.0 / 6.0 + y * (1.0 / 24.0 + y * (1.0 / 120.0 + y * (1.0 / 720.0))))));
    f32::from_bits(fraction.to_bits().wrapping_add(integer << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_is_within_its_bound_at_every_magnitude() {
        let mut worst = 0f64;
        for step in 0..200_000 {
            let x = (-126.0 + f64::from(step) * (253.0 / 200_000.0)).exp2() as f32;
            let expected = f64::from(x).powf(f64::from(-0.3f32));
            let error = (f64::from(power(x, -0.3)) / expected - 1.0).abs();
            worst = worst.max(error);
        }
        assert!(worst < 3e-6, "{worst:e}");
    }

    #[test]
    fn the_power_of_zero_is_large_and_finite() {
        let power = power(0.0, -0.3);
        assert!(power.is_finite() && power > 1e10, "{power}");
    }

    #[test]
    fn rounding_takes_ties_to_even() {
        for (x, nearest) in [
            (0.5, 0.0),
            (1.5, 2.0),
            (2.5, 2.0),
            (254.6, 255.0),
            (0.4, 0.0),
        ] {
            assert_eq!(round(x), nearest);
            assert_eq!(f32::from(round_to_u8(x)), nearest);
        }
        assert_eq!(round(-3.7), -4.0);
    }
}
