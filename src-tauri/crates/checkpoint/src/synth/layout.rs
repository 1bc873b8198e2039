//! The files of a random checkpoint: which tensors, in which order, at which bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};

use octet_kernels::Bits;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::fill::{Fill, matrix_fills};
use super::{SynthError, SynthOptions, SynthQuant};
use crate::EMBED_TOKENS;
use crate::spec::ModelSpec;

/// A tensor to be written.
#[derive(Debug)]
struct TensorPlan {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    fill: Fill,
}

/// A file to be written: its header, then its tensors one after the other.
#[derive(Debug)]
pub(super) struct FilePlan {
    header: Vec<u8>,
    tensors: Vec<TensorPlan>,
}

impl TensorPlan {
    fn new(name: String, dtype: Dtype, shape: &[usize], fill: Fill) -> Self {
        Self {
            name,
            dtype,
            shape: shape.to_vec(),
            fill,
        }
    }

    fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.dtype.bitsize() as u64 / 8
    }
}

impl FilePlan {
    /// The trunk: embeddings, output matrix, norms, routers, attention.
    pub(super) fn trunk(config: &ModelSpec, options: &SynthOptions) -> Result<Self, SynthError> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let norm = |name: String| TensorPlan::new(name, Dtype::F16, &[hidden], Fill::norm());
        let mut tensors = vec![
            TensorPlan::new(
                EMBED_TOKENS.to_owned(),
                Dtype::F16,
                &[vocab, hidden],
                Fill::embedding(hidden),
            ),
            norm("model.norm.weight".to_owned()),
        ];
        if !config.tie_word_embeddings {
            tensors.push(TensorPlan::new(
                "lm_head.weight".to_owned(),
                Dtype::F16,
                &[vocab, hidden],
                Fill::lm_head(hidden),
            ));
        }
        let (q_size, kv_size) = (config.q_size(), config.kv_size());
        for layer in 0..config.n_layers {
            let prefix = format!("model.layers.{layer}");
            for name in ["input_layernorm", "post_attention_layernorm"] {
                tensors.push(norm(format!("{prefix}.{name}.weight")));
            }
            tensors.push(TensorPlan::new(
                format!("{prefix}.block_sparse_moe.gate.weight"),
                Dtype::F16,
                &[config.n_experts, hidden],
                Fill::router(hidden),
            ));
            for (name, shape, gain) in [
                ("q_proj", (q_size, hidden), 1.0),
                ("k_proj", (kv_size, hidden), 1.0),
                ("v_proj", (kv_size, hidden), 1.0),
                (
                    "o_proj",
                    (hidden, q_size),
                    super::fill::ATTENTION_OUTPUT_GAIN,
                ),
            ] {
                let matrix = format!("{prefix}.self_attn.{name}");
                push_matrix(&mut tensors, &matrix, shape, options.attention, gain)?;
            }
        }
        Ok(Self::new(tensors))
    }

    /// One expert, with bare names; the same plan serves all.
    pub(super) fn expert(config: &ModelSpec, options: &SynthOptions) -> Result<Self, SynthError> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let mut tensors = Vec::new();
        for (name, shape) in [
            ("w1", (intermediate, hidden)),
            ("w2", (hidden, intermediate)),
            ("w3", (intermediate, hidden)),
        ] {
            push_matrix(&mut tensors, name, shape, options.experts, 1.0)?;
        }
        Ok(Self::new(tensors))
    }

    fn new(mut tensors: Vec<TensorPlan>) -> Self {
        // The order of the reference files: wide elements first, then by name.
        tensors.sort_by(|a, b| {
            b.dtype
                .bitsize()
                .cmp(&a.dtype.bitsize())
                .then_with(|| a.name.cmp(&b.name))
        });
        let mut json = Vec::from(b"{");
        let mut start = 0;
        for tensor in &tensors {
            let end = start + tensor.bytes();
            let separator = if start == 0 { "" } else { "," };
            let TensorPlan {
                name, dtype, shape, ..
            } = tensor;
            let shape = Value::from(shape.clone());
            json.extend_from_slice(
                format!(
                    r#"{separator}"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#
                )
                .as_bytes(),
            );
            start = end;
        }
        json.push(b'}');
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.append(&mut json);
        Self { header, tensors }
    }

    /// Length of the file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.header.len() as u64 + self.data_bytes()
    }

    fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::bytes).sum()
    }

    /// Writes the file; `file` is its number, which sets its random values apart.
    pub(super) fn write(
        &self,
        writer: &mut impl Write,
        seed: u64,
        file: usize,
        done: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        writer.write_all(&self.header)?;
        done(self.header.len() as u64);
        for (i, tensor) in self.tensors.iter().enumerate() {
            tensor
                .fill
                .write(writer, (seed, file as u64, i as u64), tensor.bytes(), done)?;
        }
        Ok(())
    }
}

/// Adds the tensors of one quantized matrix.
fn push_matrix(
    tensors: &mut Vec<TensorPlan>,
    matrix: &str,
    (n, k): (usize, usize),
    quant: SynthQuant,
    gain: f64,
) -> Result<(), SynthError> {
    let SynthQuant {
        bits,
        group_size,
        scale_group_size,
    } = quant;
    let step = if bits == Bits::B3 { 1 } else { bits.per_unit() };
    let group_size = largest_divisor(n * k, group_size, step).ok_or_else(|| SynthError::Quant {
        matrix: matrix.to_owned(),
        n,
        k,
        bits: bits.count(),
        group_size,
    })?;
    let n_groups = n * k / group_size;
    let fills = matrix_fills(bits, group_size, n_groups, k, gain);

    let mut push = |name: &str, dtype, shape: &[usize], fill| {
        tensors.push(TensorPlan::new(
            format!("{matrix}.{name}"),
            dtype,
            shape,
            fill,
        ));
    };
    let w_q_dtype = if bits == Bits::B3 {
        Dtype::I32
    } else {
        Dtype::U8
    };
    push(
        "W_q",
        w_q_dtype,
        &[bits.packed_rows(group_size), n_groups],
        fills.w_q,
    );
    match scale_group_size {
        None => {
            push("meta.scale", Dtype::F16, &[1, n_groups], fills.scale);
            push("meta.zero", Dtype::F16, &[1, n_groups], fills.zero);
        }
        Some(limit) => {
            let scale_group = largest_divisor(n_groups, limit, 1).unwrap_or(1);
            let n_meta = n_groups / scale_group;
            push(
                "meta.scale_q",
                Dtype::U8,
                &[scale_group, n_meta],
                Fill::Bytes,
            );
            push(
                "meta.meta_scale.scale",
                Dtype::F16,
                &[1, n_meta],
                fills.meta_scale_scale,
            );
            push(
                "meta.meta_scale.zero",
                Dtype::F16,
                &[1, n_meta],
                fills.meta_scale_zero,
            );
            push("meta.zero_q", Dtype::U8, &[1, n_groups], Fill::Bytes);
            push(
                "meta.meta_zero.scale",
                Dtype::F16,
                &[],
                fills.meta_zero_scale,
            );
            push("meta.meta_zero.zero", Dtype::F16, &[], fills.meta_zero_zero);
        }
    }
    Ok(())
}

/// The largest multiple of `step` up to `limit` that divides `number`.
fn largest_divisor(number: usize, limit: usize, step: usize) -> Option<usize> {
    (1..=limit / step)
        .rev()
        .map(|i| i * step)
        .find(|&divisor| number.is_multiple_of(divisor))
}

/// The name of file `file` (from 0) of `n_files`.
pub(super) fn file_name(file: usize, n_files: usize) -> String {
    format!("model-{:05}-of-{n_files:05}.safetensors", file + 1)
}

/// The bytes of the index.
pub(super) fn index(config: &ModelSpec, trunk: &FilePlan, expert: &FilePlan) -> Vec<u8> {
    let n_experts = config.n_layers * config.n_experts;
    let n_files = 1 + n_experts;
    let mut weight_map: BTreeMap<String, String> = trunk
        .tensors
        .iter()
        .map(|tensor| (tensor.name.clone(), file_name(0, n_files)))
        .collect();
    for i in 0..n_experts {
        let (layer, number) = (i / config.n_experts, i % config.n_experts);
        let prefix = format!("model.layers.{layer}.block_sparse_moe.experts.{number}");
        let file = file_name(1 + i, n_files);
        for tensor in &expert.tensors {
            weight_map.insert(format!("{prefix}.{}", tensor.name), file.clone());
        }
    }
    let total_size = trunk.data_bytes() + n_experts as u64 * expert.data_bytes();
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    format!("{index:#}\n").into_bytes()
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
        let plan = FilePlan::expert(&config, &SynthOptions::default()).unwrap();
        assert_eq!(plan.data_bytes(), 66_404_364);
        assert_eq!(plan.header.len() % 8, 0);
    }
}
