//! Where one quantized matrix lies in its file, and its bits and group size, told from shapes.

use std::ops::Range;

use octet_kernels::{Bits, GroupParam, LayoutError, QMatrix};
use safetensors::Dtype;

use super::schema::{ParamParts, Part};
use crate::error::CheckpointError;
use crate::file::TensorFile;

/// The place and form of one quantized matrix in its file.
#[derive(Debug, Clone)]
pub(crate) struct MatrixLayout {
    n: usize,
    k: usize,
    pub(super) bits: Bits,
    pub(super) group_size: usize,
    w_q: Range<usize>,
    scale: ParamLayout,
    zero: ParamLayout,
}

#[derive(Debug, Clone)]
enum ParamLayout {
    Plain {
        value: F16Tensor,
    },
    Quantized {
        q: Range<usize>,
        scale: F16Tensor,
        zero: F16Tensor,
    },
}

/// An f16 tensor whose values have to be finite.
#[derive(Debug, Clone)]
pub(crate) struct F16Tensor {
    pub(super) name: String,
    pub(super) range: Range<usize>,
}

impl MatrixLayout {
    /// Finds the `n` x `k` matrix called `prefix` and tells its bits and group size.
    ///
    /// The number of groups is the width of `W_q` (or, where that is flat, the number of scales
    /// or zeros); the group size follows from it, and the bits from the number of packed rows.
    pub(crate) fn find(
        file: &TensorFile,
        prefix: &str,
        (n, k): (usize, usize),
    ) -> Result<Self, CheckpointError> {
        let w_q_name = Part::Packed.of(prefix);
        let w_q = file.tensor(&w_q_name)?;
        let (scale, scale_groups) = ParamLayout::find(file, prefix, ParamParts::SCALES)?;
        let (zero, zero_groups) = ParamLayout::find(file, prefix, ParamParts::ZEROS)?;

        let wrong = |expected: String| file.wrong(&w_q_name, expected);
        if !matches!(w_q.dtype, Dtype::U8 | Dtype::I32) {
            return Err(wrong("U8 (2, 4 or 8 bits) or I32 (3 bits)".to_owned()));
        }
        let told_by_params = || [scale_groups, zero_groups].into_iter().flatten().next();
        let n_groups = match w_q.shape.dims() {
            [_, columns] => usize::try_from(*columns).ok(),
            [_] => told_by_params(),
            _ => None,
        }
        .filter(|&groups| groups > 0)
        .ok_or_else(|| wrong("two dimensions, (packed rows, groups)".to_owned()))?;
        if !(n * k).is_multiple_of(n_groups) {
            return Err(wrong(format!(
                "groups that divide {n} x {k} weights, not {n_groups}"
            )));
        }
        let group_size = n * k / n_groups;
        for (part, groups) in [(Part::Scale, scale_groups), (Part::Zero, zero_groups)] {
            if let Some(groups) = groups.filter(|&groups| groups != n_groups) {
                return Err(wrong(format!(
                    "as many groups as `{}` has values, {groups}",
                    part.of(prefix)
                )));
            }
        }

        let units = w_q.elements();
        let bits = [Bits::B2, Bits::B3, Bits::B4, Bits::B8]
            .into_iter()
            .filter(|&bits| (bits == Bits::B3) == (w_q.dtype == Dtype::I32))
            .filter(|&bits| bits == Bits::B3 || group_size.is_multiple_of(bits.per_unit()))
            .find(|bits| (bits.packed_rows(group_size) * n_groups) as u64 == units)
            .ok_or_else(|| {
                wrong(format!(
                    "2, 3, 4 or 8 bits for each of {n} x {k} weights, {n_groups} groups"
                ))
            })?;
        Ok(Self {
            n,
            k,
            bits,
            group_size,
            w_q: w_q.range(),
            scale,
            zero,
        })
    }

    /// Number of scales that share a meta scale; `None` where scales are plain.
    pub(crate) fn scale_group(&self) -> Option<usize> {
        match &self.scale {
            ParamLayout::Plain { .. } => None,
            ParamLayout::Quantized { q, scale, .. } => Some(q.len() / (scale.range.len() / 2)),
        }
    }

    /// All byte ranges of the matrix.
    pub(crate) fn ranges_mut(&mut self) -> impl Iterator<Item = &mut Range<usize>> {
        std::iter::once(&mut self.w_q)
            .chain(self.scale.ranges_mut())
            .chain(self.zero.ranges_mut())
    }

    /// The f16 tensors whose values have to be finite.
    pub(crate) fn f16_tensors(&self) -> impl Iterator<Item = &F16Tensor> {
        self.scale.f16_tensors().chain(self.zero.f16_tensors())
    }

    /// The matrix over `bytes`, which the ranges count from.
    pub(crate) fn view<'a>(&self, bytes: &'a [u8]) -> Result<QMatrix<'a>, LayoutError> {
        QMatrix::new(
            (self.n, self.k),
            self.bits,
            self.group_size,
            &bytes[self.w_q.clone()],
            self.scale.view(bytes),
            self.zero.view(bytes),
        )
    }
}

impl ParamLayout {
    /// Finds the scales or zeros (`parts`) of a matrix and the number of groups they are for; a
    /// single plain value serves any number and tells none.
    fn find(
        file: &TensorFile,
        prefix: &str,
        parts: ParamParts,
    ) -> Result<(Self, Option<usize>), CheckpointError> {
        let plain_name = parts.plain.of(prefix);
        let q_name = parts.q.of(prefix);
        match (file.get(&plain_name), file.get(&q_name)) {
            (Some(_), Some(_)) => Err(file.wrong(
                &plain_name,
                format!("no such tensor, since `{q_name}` is there too"),
            )),
            (Some(plain), None) => {
                let value = F16Tensor::find(file, plain_name)?;
                let groups = (plain.elements() != 1).then_some(value.range.len() / 2);
                Ok((ParamLayout::Plain { value }, groups))
            }
            (None, _) => {
                let q = file.tensor(&q_name)?;
                if q.dtype != Dtype::U8 {
                    return Err(file.wrong(&q_name, "U8".to_owned()));
                }
                let meta = |part: Part| F16Tensor::find(file, part.of(prefix));
                let (scale, zero) = (meta(parts.scale)?, meta(parts.zero)?);
                let n_meta = scale.range.len() / 2;
                if zero.range.len() != scale.range.len() {
                    return Err(
                        file.wrong(&zero.name, format!("{n_meta} values, as its scale has"))
                    );
                }
                let n_groups = q.range().len();
                let width_fits = match q.shape.dims() {
                    [_, columns] if n_meta > 1 => *columns == n_meta as u64,
                    _ => n_groups.is_multiple_of(n_meta),
                };
                if n_groups == 0 || !width_fits {
                    return Err(file.wrong(&q_name, format!("rows of {n_meta} meta groups")));
                }
                Ok((
                    ParamLayout::Quantized {
                        q: q.range(),
                        scale,
                        zero,
                    },
                    Some(n_groups),
                ))
            }
        }
    }

    fn ranges_mut(&mut self) -> impl Iterator<Item = &mut Range<usize>> {
        match self {
            ParamLayout::Plain { value } => [Some(&mut value.range), None, None],
            ParamLayout::Quantized { q, scale, zero } => {
                [Some(q), Some(&mut scale.range), Some(&mut zero.range)]
            }
        }
        .into_iter()
        .flatten()
    }

    fn f16_tensors(&self) -> impl Iterator<Item = &F16Tensor> {
        match self {
            ParamLayout::Plain { value } => [Some(value), None],
            ParamLayout::Quantized { scale, zero, .. } => [Some(scale), Some(zero)],
        }
        .into_iter()
        .flatten()
    }

    fn view<'a>(&self, bytes: &'a [u8]) -> GroupParam<'a> {
        let at = |range: &Range<usize>| &bytes[range.clone()];
        match self {
            ParamLayout::Plain { value } => GroupParam::Plain(at(&value.range)),
            ParamLayout::Quantized { q, scale, zero } => GroupParam::Quantized {
                q: at(q),
                scale: at(&scale.range),
                zero: at(&zero.range),
            },
        }
    }
}

impl F16Tensor {
    fn find(file: &TensorFile, name: String) -> Result<Self, CheckpointError> {
        let info = file.tensor(&name)?;
        if info.dtype != Dtype::F16 || info.elements() == 0 {
            return Err(file.wrong(&name, "F16, at least one value".to_owned()));
        }
        Ok(Self {
            range: info.range(),
            name,
        })
    }
}
