//! Random matrices in the packed layout, and the plain product to compare with.
#![allow(dead_code)] // every test and bench uses its own part

pub mod blocks;

use half::f16;
use octet_kernels::{Bits, GroupParam, QMatrix};

/// A small random generator (PCG), so that every run is the same.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        let mut rng = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
        rng.u32();
        rng
    }

    pub fn u32(&mut self) -> u32 {
        let old = self.0;
        self.0 = old
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let word = ((old >> ((old >> 59) + 5)) ^ old).wrapping_mul(12_605_985_483_714_917_081);
        ((word >> 43) ^ word) as u32
    }

    pub fn below(&mut self, n: u32) -> u32 {
        self.u32() % n
    }

    /// Uniform in `low..high`.
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// Mean 0, standard deviation 1, nearly normal.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.range(0.0, 1.0)).sum::<f32>() - 6.0
    }

    pub fn normals(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.normal()).collect()
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 4);
        while bytes.len() < len {
            bytes.extend(self.u32().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

pub fn f16_bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values
        .into_iter()
        .flat_map(|v| f16::from_f32(v).to_le_bytes())
        .collect()
}

/// A scale or zero that owns its bytes.
#[derive(Debug, Clone)]
pub enum Param {
    Plain(Vec<u8>),
    Quantized {
        q: Vec<u8>,
        scale: Vec<u8>,
        zero: Vec<u8>,
    },
}

impl Param {
    pub fn borrow(&self) -> GroupParam<'_> {
        match self {
            Self::Plain(v) => GroupParam::Plain(v),
            Self::Quantized { q, scale, zero } => GroupParam::Quantized { q, scale, zero },
        }
    }

    /// Values about `center`, from half of it to half more, in `m` meta groups.
    pub fn quantized(rng: &mut Rng, groups: usize, m: usize, center: f32) -> Self {
        let scale = f16_bytes((0..m).map(|_| center / 255.0 * rng.range(0.5, 1.0)));
        let zero = f16_bytes((0..m).map(|_| rng.range(-300.0, -100.0)));
        Self::Quantized {
            q: rng.bytes(groups),
            scale,
            zero,
        }
    }
}

impl Param {
    /// Values between `low` and `high`. Forms: 0 one for all, 1 plain, 2 quantized in one meta
    /// group, 3 in several, their number a multiple of 4; `None`: any of them.
    pub fn random(rng: &mut Rng, groups: usize, form: Option<u32>, low: f32, high: f32) -> Self {
        let form = form.unwrap_or_else(|| rng.below(4));
        if form < 2 {
            let len = if form == 0 { 1 } else { groups };
            return Self::Plain(f16_bytes((0..len).map(|_| rng.range(low, high))));
        }
        let counts: Vec<usize> = (4..=groups)
            .step_by(4)
            .filter(|m| groups.is_multiple_of(*m))
            .collect();
        let m = if form == 2 {
            1
        } else {
            counts[rng.below(counts.len() as u32) as usize]
        };
        let steps: Vec<f32> = (0..m)
            .map(|_| (high - low) / 255.0 * rng.range(0.5, 1.0))
            .collect();
        Self::Quantized {
            q: rng.bytes(groups),
            scale: f16_bytes(steps.iter().copied()),
            zero: f16_bytes(steps.iter().map(|step| -low / step)),
        }
    }
}

/// A packed matrix that owns its bytes.
#[derive(Debug, Clone)]
pub struct Packed {
    pub n: usize,
    pub k: usize,
    pub bits: Bits,
    pub group_size: usize,
    pub w_q: Vec<u8>,
    pub scale: Param,
    pub zero: Param,
}

impl Packed {
    pub fn groups(n: usize, k: usize, group_size: usize) -> usize {
        n * k / group_size
    }

    /// As the checkpoints have it: scales in meta groups of `meta` groups, zeros in a single one.
    pub fn demo(seed: u64, n: usize, k: usize, bits: Bits, group_size: usize, meta: usize) -> Self {
        let mut rng = Rng::new(seed);
        let groups = Self::groups(n, k, group_size);
        let max_q = bits.max_q() as f32;
        let scale = Param::quantized(&mut rng, groups, groups / meta, 0.1 / max_q);
        let zero = Param::Quantized {
            q: rng.bytes(groups),
            scale: f16_bytes([max_q / 255.0]),
            zero: f16_bytes([0.0]),
        };
        let units = bits.packed_rows(group_size) * groups * bits.unit_bytes();
        Self {
            n,
            k,
            bits,
            group_size,
            w_q: rng.bytes(units),
            scale,
            zero,
        }
    }

    /// `group_rows * group_size` rows, with scales and zeros in any form that a file may have; in
    /// every other one in that of the checkpoints.
    pub fn random(
        rng: &mut Rng,
        bits: Bits,
        group_size: usize,
        group_rows: usize,
        k: usize,
    ) -> Self {
        let groups = group_rows * k;
        let top = bits.max_q() as f32;
        let usual = rng.below(2) == 0;
        let units = bits.packed_rows(group_size) * groups * bits.unit_bytes();
        Self {
            n: group_rows * group_size,
            k,
            bits,
            group_size,
            w_q: rng.bytes(units),
            scale: Param::random(rng, groups, usual.then_some(3), 0.02 / top, 0.2 / top),
            zero: Param::random(rng, groups, usual.then_some(2), 0.2 * top, 0.8 * top),
        }
    }

    pub fn matrix(&self) -> QMatrix<'_> {
        QMatrix::new(
            (self.n, self.k),
            self.bits,
            self.group_size,
            &self.w_q,
            self.scale.borrow(),
            self.zero.borrow(),
        )
        .expect("a legal matrix")
    }
}

/// `x W^T` in f64 from [`QMatrix::weight`].
pub fn product(w: &QMatrix<'_>, x: &[f32]) -> Vec<f64> {
    let (n, k) = (w.n(), w.k());
    let mut y = vec![0.0; x.len() / k * n];
    let mut row = vec![0.0; k];
    for r in 0..n {
        for (c, v) in row.iter_mut().enumerate() {
            *v = f64::from(w.weight(r, c));
        }
        for (x, y) in x.chunks(k).zip(y.chunks_mut(n)) {
            y[r] = x.iter().zip(&row).map(|(x, w)| f64::from(*x) * w).sum();
        }
    }
    y
}

pub fn rms(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for v in values {
        sum += v * v;
        count += 1;
    }
    (sum / f64::from(count.max(1))).sqrt()
}

/// RMS of the difference over the RMS of `expected`.
pub fn relative_rms(found: &[f32], expected: &[f64]) -> f64 {
    let error = rms(found.iter().zip(expected).map(|(f, e)| f64::from(*f) - e));
    error / rms(expected.iter().copied())
}

/// An f16's.
pub fn value(bits: u16) -> f64 {
    f64::from(f16::from_bits(bits).to_f32())
}

/// The largest magnitude.
pub fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, v| most.max(v.abs()))
}

/// Normal values of any magnitude.
pub fn loud(rng: &mut Rng, len: usize) -> Vec<f32> {
    let by = rng.range(-6.0, 6.0).exp();
    rng.normals(len).iter().map(|v| v * by).collect()
}

/// Normal f16 values times `by`.
pub fn halves(rng: &mut Rng, len: usize, by: f32) -> Vec<u16> {
    (0..len)
        .map(|_| f16::from_f32(rng.normal() * by).to_bits())
        .collect()
}

/// Asserts that values are within `relative` of the largest expected one.
pub fn assert_close(found: &[f32], expected: &[f64], relative: f64, what: &str) {
    assert_eq!(found.len(), expected.len());
    let bound = relative * expected.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs();
        assert!(off <= bound, "{what}: {found} for {expected} at {i}");
    }
}
