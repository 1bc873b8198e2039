//! How a random checkpoint is quantized, and what its tensors are filled with.

use std::io::{self, Write};

use super::fill::{ATTENTION_OUTPUT_GAIN, Fill, matrix_fills};
use super::{SynthError, SynthOptions};
use crate::hqq::schema::Part;
use crate::hqq::{FileLayout, Quantization, Role, TensorLayout};
use octet_kernels::Bits;
use octet_spec::ModelSpec;

/// The trunk's layout.
pub(super) fn trunk(spec: &ModelSpec, options: &SynthOptions) -> Result<FileLayout, SynthError> {
    FileLayout::trunk(spec, |name, shape| fitted(name, shape, options.attention))
}

/// An expert's layout.
pub(super) fn expert(spec: &ModelSpec, options: &SynthOptions) -> Result<FileLayout, SynthError> {
    FileLayout::expert(spec, |name, shape| fitted(name, shape, options.experts))
}

/// Writes a file of `layout`; `file` is its number, which sets its random values apart.
pub(super) fn write(
    layout: &FileLayout,
    writer: &mut impl Write,
    (spec, seed, file): (&ModelSpec, u64, usize),
    done: &mut dyn FnMut(u64),
) -> io::Result<()> {
    writer.write_all(&layout.header)?;
    done(layout.header.len() as u64);
    for (i, tensor) in layout.tensors.iter().enumerate() {
        let key = (seed, file as u64, i as u64);
        fill(tensor, spec.hidden_size).write(writer, key, tensor.bytes(), done)?;
    }
    Ok(())
}

/// What `tensor` of a model of width `hidden` is filled with.
fn fill(tensor: &TensorLayout, hidden: usize) -> Fill {
    let (part, quantization, columns, gain) = match tensor.role {
        Role::Embedding => return Fill::embedding(hidden),
        Role::Output => return Fill::lm_head(hidden),
        Role::Norm => return Fill::norm(),
        Role::Router => return Fill::router(hidden),
        Role::Part {
            part,
            columns,
            quantization,
            is_attention_output,
        } => {
            let gain = if is_attention_output {
                ATTENTION_OUTPUT_GAIN
            } else {
                1.0
            };
            (part, quantization, columns, gain)
        }
    };
    // Only the packed weights ask for it, whose second dimension it is.
    let n_groups = tensor.shape.last().copied().unwrap_or(1);
    let fills = matrix_fills(
        quantization.bits,
        quantization.group_size,
        n_groups,
        columns,
        gain,
    );
    match part {
        Part::Packed => fills.w_q,
        Part::Scale => fills.scale,
        Part::Zero => fills.zero,
        Part::ScaleQ | Part::ZeroQ => Fill::Bytes,
        Part::ScaleScale => fills.meta_scale_scale,
        Part::ScaleZero => fills.meta_scale_zero,
        Part::ZeroScale => fills.meta_zero_scale,
        Part::ZeroZero => fills.meta_zero_zero,
    }
}

/// `wanted` with group sizes that divide the `n` x `k` weights of `matrix`.
fn fitted(
    matrix: &str,
    (n, k): (usize, usize),
    wanted: Quantization,
) -> Result<Quantization, SynthError> {
    let Quantization {
        bits, group_size, ..
    } = wanted;
    let step = if bits == Bits::B3 { 1 } else { bits.per_unit() };
    let group_size = largest_divisor(n * k, group_size, step).ok_or_else(|| SynthError::Quant {
        matrix: matrix.to_owned(),
        n,
        k,
        bits: bits.count(),
        group_size,
    })?;
    let n_groups = n * k / group_size;
    let fitted = |limit| largest_divisor(n_groups, limit, 1).unwrap_or(1);
    Ok(Quantization {
        bits,
        group_size,
        scale_group_size: wanted.scale_group_size.map(fitted),
    })
}

/// The largest multiple of `step` up to `limit` that divides `number`.
fn largest_divisor(number: usize, limit: usize, step: usize) -> Option<usize> {
    (1..=limit / step)
        .rev()
        .map(|i| i * step)
        .find(|&divisor| number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_fitted_to_the_matrix() {
        assert_eq!(largest_divisor(4096 * 14336, 16, 4), Some(16));
        assert_eq!(largest_divisor(40, 16, 4), Some(8));
        assert_eq!(largest_divisor(15, 16, 4), None);
        assert_eq!(largest_divisor(15, 16, 1), Some(15));
        assert_eq!(largest_divisor(15, 3, 4), None);
    }

    #[test]
    fn the_expert_of_the_real_model_has_its_real_size() {
        let config = ModelSpec::from_config_json(br#"{"model_type":"mixtral"}"#).unwrap();
        let plan = expert(&config, &SynthOptions::default()).unwrap();
        assert_eq!(plan.data_bytes(), 66_404_364);
        assert_eq!(plan.header.len() % 8, 0);
    }
}
