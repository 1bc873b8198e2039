//! Half-quadratic quantization of one weight matrix, to the tensors of the demo's format.
//!
//! A matrix of `n` rows (out) by `k` columns (in) is viewed as `group_size` rows by `n_groups`
//! columns, every column a group with one scale and one zero (axis 0 in HQQ's words). Three steps:
//!
//! 1. Every group's scale is its spread over `2^bits - 1` steps; its zero is solved for.
//! 2. Scales and zeros are brought into the form that the file holds, f16 or 8 bits.
//! 3. The weights are rounded to the nearest value that these *stored* scales and zeros give, and
//!    packed. The reference rounds them before step 2.
//!
//! Nothing depends on threads or on the machine: equal weights give equal bytes.
//!
//! Source: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", and
//! mobiusml/hqq, `Quantizer.quantize`.

mod meta;
mod power;
mod solve;

use half::f16;
use octet_checkpoint::hqq::Quantization;
use octet_kernels::Bits;
use safetensors::Dtype;

use crate::pack::{pack_columns, packed_bytes};
use power::{round, round_to_u8};
use solve::{LANES, Lanes, Solver};

/// How one matrix is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixSpec {
    /// Bits a weight.
    pub bits: Bits,
    /// Weights that share a scale and a zero. The demo: 16 for experts, 64 for attention.
    pub group_size: usize,
    /// Scales that share a meta scale, where scales and zeros are quantized to 8 bits; `None`
    /// keeps them as f16. The demo: 128 for experts, 256 for attention.
    pub scale_group_size: Option<usize>,
    /// Solve for the zeros; `false` rounds to nearest, for comparison.
    pub optimize: bool,
}

impl MatrixSpec {
    /// How the matrix is stored.
    pub fn quantization(&self) -> Quantization {
        Quantization {
            bits: self.bits,
            group_size: self.group_size,
            scale_group_size: self.scale_group_size,
        }
    }

    /// The demo's experts: 2 bits, groups of 16, meta groups of 128.
    pub const EXPERTS: Self = Self {
        bits: Bits::B2,
        group_size: 16,
        scale_group_size: Some(128),
        optimize: true,
    };

    /// The demo's attention: 4 bits, groups of 64, meta groups of 256.
    pub const ATTENTION: Self = Self {
        bits: Bits::B4,
        group_size: 64,
        scale_group_size: Some(256),
        optimize: true,
    };
}

/// One tensor of a quantized matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizedTensor {
    /// What follows the matrix's name and a dot in the file: `W_q`, `meta.scale_q`, ...
    pub name: &'static str,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its elements, little-endian.
    pub data: Vec<u8>,
}

/// A quantized matrix and how well it stands for the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedMatrix {
    /// `W_q`, then the scales', then the zeros' tensors.
    pub tensors: Vec<QuantizedTensor>,
    /// `|W - Ŵ| / |W|` in Frobenius norms, with `Ŵ` what the tensors stand for in f32 arithmetic;
    /// zero where both are zero.
    pub relative_error: f64,
    /// `|W - Ŵ|^2`, to add up over matrices.
    pub squared_error: f64,
    /// `|W|^2`, to add up over matrices.
    pub squared_norm: f64,
}

/// Work space of [`quantize`], kept from call to call: 8 bytes a group, and a tile.
#[derive(Debug, Default)]
pub struct Scratch {
    scale: Vec<f32>,
    zero: Vec<f32>,
    panels: Vec<Lanes>,
    q: Vec<u8>,
}

/// Why a matrix cannot be quantized.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HqqError {
    /// No weights, or more than memory can hold.
    #[error("a matrix of {n} x {k} weights cannot be quantized")]
    Shape {
        /// Rows.
        n: usize,
        /// Columns.
        k: usize,
    },
    /// There are not as many weights as the shape says.
    #[error("a matrix of {n} x {k} has {expected} weights, found {found}")]
    Length {
        /// Rows.
        n: usize,
        /// Columns.
        k: usize,
        /// Weights of that shape.
        expected: usize,
        /// Weights there are.
        found: usize,
    },
    /// The group size does not divide the weights.
    #[error(
        "{n} x {k} weights cannot be cut into groups of {group_size}: choose a group size that divides {}",
        .n * .k
    )]
    GroupSize {
        /// Rows.
        n: usize,
        /// Columns.
        k: usize,
        /// The group size asked for.
        group_size: usize,
    },
    /// The group size does not fill whole bytes.
    #[error(
        "groups of {group_size} weights of {bits} bits do not fill whole bytes: choose a group size that is a multiple of {multiple}"
    )]
    Packing {
        /// Bits a weight.
        bits: u32,
        /// The group size asked for.
        group_size: usize,
        /// What a byte holds.
        multiple: usize,
    },
    /// The scale group size does not divide the scales.
    #[error(
        "{n_groups} scales cannot be cut into groups of {scale_group_size}: choose a scale group size that divides {n_groups}"
    )]
    ScaleGroupSize {
        /// Scales of the matrix.
        n_groups: usize,
        /// The scale group size asked for.
        scale_group_size: usize,
    },
    /// A weight is infinite or not a number.
    #[error("the weight at row {row}, column {column} is {value}: the checkpoint is damaged")]
    NotFinite {
        /// Row of the first such weight.
        row: usize,
        /// Column of it.
        column: usize,
        /// The weight.
        value: f32,
    },
    /// The weights of a group are too far apart for an f16 scale.
    #[error(
        "the weights that share a group with row {row}, column {column} need a scale of {scale:e}, and the format's f16 ends at 65504: use more bits, or scale the weights down"
    )]
    ScaleRange {
        /// Row of the group's first weight.
        row: usize,
        /// Column of the group.
        column: usize,
        /// The scale that does not fit.
        scale: f32,
    },
}

/// Checks that a matrix of `n` rows and `k` columns can be quantized and packed so.
///
/// # Errors
/// [`HqqError`] with the sizes that do not divide and what to choose instead.
pub fn check_spec(n: usize, k: usize, spec: &MatrixSpec) -> Result<(), HqqError> {
    let MatrixSpec {
        bits,
        group_size,
        scale_group_size,
        ..
    } = *spec;
    let len = n
        .checked_mul(k)
        .filter(|&len| len > 0 && len < isize::MAX as usize / 8)
        .ok_or(HqqError::Shape { n, k })?;
    if group_size == 0 || !len.is_multiple_of(group_size) {
        return Err(HqqError::GroupSize { n, k, group_size });
    }
    if bits != Bits::B3 && !group_size.is_multiple_of(bits.per_unit()) {
        return Err(HqqError::Packing {
            bits: bits.count(),
            group_size,
            multiple: bits.per_unit(),
        });
    }
    let n_groups = len / group_size;
    match scale_group_size {
        Some(scale_group_size)
            if scale_group_size == 0 || !n_groups.is_multiple_of(scale_group_size) =>
        {
            Err(HqqError::ScaleGroupSize {
                n_groups,
                scale_group_size,
            })
        }
        _ => Ok(()),
    }
}

/// Quantizes `weights`, row-major `(n, k)`, on the calling thread.
///
/// The tensors are `W_q` with `meta.scale` and `meta.zero`, or with `meta.scale_q`, `meta.zero_q`
/// and their `meta.meta_scale.*` and `meta.meta_zero.*`, in the shapes of the demo.
///
/// A group whose weights are all zero comes back as exact zeros: its scale is zero.
///
/// # Errors
/// [`HqqError`] for sizes that [`check_spec`] refuses, weights that are not finite, and weights too
/// far apart for the format's f16 scales.
pub fn quantize(
    weights: &[f32],
    n: usize,
    k: usize,
    spec: &MatrixSpec,
    scratch: &mut Scratch,
) -> Result<QuantizedMatrix, HqqError> {
    check_spec(n, k, spec)?;
    if weights.len() != n * k {
        return Err(HqqError::Length {
            n,
            k,
            expected: n * k,
            found: weights.len(),
        });
    }
    check_finite(weights, k)?;
    let view = View {
        weights,
        group_size: spec.group_size,
        n_groups: weights.len() / spec.group_size,
    };
    view.solve(spec, scratch);
    if let Some(c) = scratch.scale.iter().position(|&s| s > f16::MAX.to_f32()) {
        return Err(HqqError::ScaleRange {
            row: c / k,
            column: c % k,
            scale: scratch.scale[c],
        });
    }
    let params = store_params(&mut scratch.scale, &mut scratch.zero, spec.scale_group_size);
    let (w_q, squared_error) = view.round_and_pack(spec.bits, scratch);

    let mut tensors = vec![QuantizedTensor {
        name: "W_q",
        dtype: match spec.bits {
            Bits::B3 => Dtype::I32,
            _ => Dtype::U8,
        },
        shape: vec![spec.bits.packed_rows(spec.group_size), view.n_groups],
        data: w_q,
    }];
    tensors.extend(params);
    let squared_norm = squared_norm(weights);
    Ok(QuantizedMatrix {
        tensors,
        relative_error: relative(squared_error, squared_norm),
        squared_error,
        squared_norm,
    })
}

fn relative(squared_error: f64, squared_norm: f64) -> f64 {
    if squared_error == 0.0 {
        0.0
    } else {
        (squared_error / squared_norm).sqrt()
    }
}

fn check_finite(weights: &[f32], k: usize) -> Result<(), HqqError> {
    const RUN: usize = 4096;
    for (run, part) in weights.chunks(RUN).enumerate() {
        if part.iter().fold(true, |finite, w| finite & w.is_finite()) {
            continue;
        }
        if let Some(at) = part.iter().position(|w| !w.is_finite()) {
            let i = run * RUN + at;
            return Err(HqqError::NotFinite {
                row: i / k,
                column: i % k,
                value: weights[i],
            });
        }
    }
    Ok(())
}

fn squared_norm(weights: &[f32]) -> f64 {
    let mut squares = [0f64; LANES];
    for part in weights.chunks(LANES) {
        for (square, &w) in squares.iter_mut().zip(part) {
            *square += f64::from(w) * f64::from(w);
        }
    }
    squares.iter().sum()
}

/// Brings scales and zeros into the file's form, and replaces each by what that stands for.
fn store_params(
    scale: &mut [f32],
    zero: &mut [f32],
    scale_group_size: Option<usize>,
) -> Vec<QuantizedTensor> {
    let n_groups = scale.len();
    let Some(scale_group_size) = scale_group_size else {
        return vec![
            f16_tensor("meta.scale", vec![1, n_groups], &to_f16(scale)),
            f16_tensor("meta.zero", vec![1, n_groups], &to_f16(zero)),
        ];
    };
    let n_meta = n_groups / scale_group_size;
    let scales = meta::quantize(scale, n_meta);
    let zeros = meta::quantize(zero, 1);
    let u8_tensor = |name, shape, data| QuantizedTensor {
        name,
        dtype: Dtype::U8,
        shape,
        data,
    };
    vec![
        u8_tensor("meta.scale_q", vec![scale_group_size, n_meta], scales.q),
        f16_tensor("meta.meta_scale.scale", vec![1, n_meta], &scales.scale),
        f16_tensor("meta.meta_scale.zero", vec![1, n_meta], &scales.zero),
        u8_tensor("meta.zero_q", vec![1, n_groups], zeros.q),
        f16_tensor("meta.meta_zero.scale", vec![], &zeros.scale),
        f16_tensor("meta.meta_zero.zero", vec![], &zeros.zero),
    ]
}

fn to_f16(values: &mut [f32]) -> Vec<f16> {
    values
        .iter_mut()
        .map(|value| {
            let stored = f16::from_f32(*value);
            *value = stored.to_f32();
            stored
        })
        .collect()
}

fn f16_tensor(name: &'static str, shape: Vec<usize>, values: &[f16]) -> QuantizedTensor {
    QuantizedTensor {
        name,
        dtype: Dtype::F16,
        shape,
        data: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    }
}

/// Weights as `group_size` rows by `n_groups` columns, a group in each column.
struct View<'a> {
    weights: &'a [f32],
    group_size: usize,
    n_groups: usize,
}

/// Weights of a tile, which the second-level cache holds.
const TILE: usize = 1 << 15;

impl View<'_> {
    /// Neighbouring groups that are handled together.
    fn tiles(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let width = (TILE / self.group_size).max(1).next_multiple_of(LANES);
        let n_groups = self.n_groups;
        (0..n_groups)
            .step_by(width)
            .map(move |first| first..n_groups.min(first + width))
    }

    /// Row `row` of the groups `tile`.
    fn row(&self, row: usize, tile: &std::ops::Range<usize>) -> &[f32] {
        &self.weights[row * self.n_groups..][tile.clone()]
    }

    /// Finds all scales and zeros, in f32.
    fn solve(&self, spec: &MatrixSpec, scratch: &mut Scratch) {
        let solver = Solver {
            max_q: spec.bits.max_q() as f32,
            round_zero: spec.bits == Bits::B4,
            optimize: spec.optimize,
            // In f16 a zero 32 times as large as q is still known to a 32nd of a step of q; in
            // 8 bits, all zeros of the matrix share 256 values.
            zero_reach: if spec.scale_group_size.is_some() {
                1.0
            } else {
                32.0
            },
        };
        scratch.scale.resize(self.n_groups, 0.0);
        scratch.zero.resize(self.n_groups, 0.0);
        for tile in self.tiles() {
            self.load_panels(&tile, &mut scratch.panels);
            let scales = scratch.scale[tile.clone()].chunks_mut(LANES);
            let zeros = scratch.zero[tile].chunks_mut(LANES);
            let panels = scratch.panels.chunks_exact_mut(self.group_size);
            for ((panel, scale), zero) in panels.zip(scales).zip(zeros) {
                let solved = solver.solve(panel);
                scale.copy_from_slice(&solved.scale[..scale.len()]);
                zero.copy_from_slice(&solved.zero[..zero.len()]);
            }
        }
    }

    /// Copies a tile so that the weights of [`LANES`] groups lie together, row after row; lanes
    /// beyond the last group are zero.
    fn load_panels(&self, tile: &std::ops::Range<usize>, panels: &mut Vec<Lanes>) {
        let g = self.group_size;
        panels.clear();
        panels.resize(tile.len().div_ceil(LANES) * g, [0.0; LANES]);
        for row in 0..g {
            let (whole, rest) = self.row(row, tile).as_chunks::<LANES>();
            for (panel, lanes) in whole.iter().enumerate() {
                panels[panel * g + row] = *lanes;
            }
            if !rest.is_empty() {
                panels[whole.len() * g + row][..rest.len()].copy_from_slice(rest);
            }
        }
    }

    /// Rounds the weights to the values that the stored scales and zeros give, and packs them.
    /// The second value is the sum of the squared errors.
    fn round_and_pack(&self, bits: Bits, scratch: &mut Scratch) -> (Vec<u8>, f64) {
        let mut packed = vec![0; packed_bytes(bits, self.group_size, self.n_groups)];
        let mut squared_error = 0.0;
        for tile in self.tiles() {
            let width = tile.len();
            scratch.q.resize(self.group_size * width, 0);
            let scale = &scratch.scale[tile.clone()];
            let zero = &scratch.zero[tile.clone()];
            for (row, q) in scratch.q.chunks_exact_mut(width).enumerate() {
                squared_error +=
                    round_row(self.row(row, &tile), scale, zero, bits.max_q() as f32, q);
            }
            pack_columns(&scratch.q, bits, self.n_groups, tile, &mut packed);
        }
        (packed, squared_error)
    }
}

/// Writes the nearest quantized values of one row of groups, and returns the sum of its squared
/// errors.
fn round_row(weights: &[f32], scale: &[f32], zero: &[f32], max_q: f32, q: &mut [u8]) -> f64 {
    let mut squares = [0f64; LANES];
    let runs = weights
        .chunks(LANES)
        .zip(scale.chunks(LANES))
        .zip(zero.chunks(LANES))
        .zip(q.chunks_mut(LANES));
    for (((weights, scale), zero), q) in runs {
        for l in 0..weights.len() {
            let inverse = if scale[l] > 0.0 { 1.0 / scale[l] } else { 0.0 };
            let nearest = (weights[l] * inverse + zero[l]).clamp(0.0, max_q);
            q[l] = round_to_u8(nearest);
            let error = f64::from(weights[l] - (round(nearest) - zero[l]) * scale[l]);
            squares[l] += error * error;
        }
    }
    squares.iter().sum()
}
