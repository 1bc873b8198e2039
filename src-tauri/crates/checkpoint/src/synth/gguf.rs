//! Random Mixtral models as GGUF files.
//!
//! Quantized blocks are random bytes, but for their scales and minima: those are the same in every
//! block of a tensor, and such that its weights are centred and of the wanted spread. There is no
//! vocabulary: token ids go in and come out.

use std::path::Path;

use half::f16;
use octet_files::free_bytes;
use octet_gguf::{GgufWriter, TensorType};
use octet_kernels::BlockMatrix;

use super::fill::{ATTENTION_OUTPUT_GAIN, Fill};
use super::{SynthError, SynthSummary, io_error, read_config};
use crate::block_type;
use octet_spec::ModelSpec;

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgufSynthOptions {
    /// Layers, in place of the configuration's own number.
    pub layers: Option<usize>,
    /// Chooses the random values.
    pub seed: u64,
    /// Type of the experts' matrices.
    pub experts: TensorType,
    /// Type of the attention projections.
    pub attention: TensorType,
    /// Type of the output matrix.
    pub output: TensorType,
}

struct Tensor {
    name: String,
    /// Fastest first.
    dims: Vec<u64>,
    ty: TensorType,
    fill: Fill,
}

impl Tensor {
    fn bytes(&self) -> Option<u64> {
        let rows: u64 = self.dims[1..].iter().product();
        self.ty.row_bytes(self.dims[0])?.checked_mul(rows)
    }
}

/// Writes a random Mixtral of the shape in `config_path` to the GGUF file `out`, which must not be
/// there yet. `progress` is called with the bytes done and the bytes in all.
///
/// # Errors
/// [`SynthError`]; shape, types and the disk's free space are checked before anything is written,
/// and after an error nothing is left.
pub fn synth_gguf(
    config_path: &Path,
    out: &Path,
    options: &GgufSynthOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<SynthSummary, SynthError> {
    let (spec, _) = read_config(config_path, options.layers)?;
    if out.exists() {
        return Err(SynthError::Exists {
            path: out.to_owned(),
        });
    }
    let tensors = tensors(&spec, options)?;
    let total_bytes = tensors.iter().filter_map(Tensor::bytes).sum();
    let dir = match out.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    if let Some(free_bytes) = free_bytes(dir)
        && free_bytes < total_bytes
    {
        return Err(SynthError::DiskFull {
            dir: dir.to_owned(),
            needed_bytes: total_bytes,
            free_bytes,
        });
    }
    let done = std::cell::RefCell::new((0, progress));
    let mut writer = GgufWriter::new();
    metadata(&mut writer, &spec);
    for (i, tensor) in tensors.iter().enumerate() {
        let bytes = tensor.bytes().unwrap_or(0);
        let done = &done;
        writer.tensor(&tensor.name, &tensor.dims, tensor.ty, move |mut to| {
            let key = (options.seed, 0, i as u64);
            tensor.fill.write(&mut to, key, bytes, &mut |bytes| {
                let (sum, progress) = &mut *done.borrow_mut();
                *sum += bytes;
                progress(*sum, total_bytes);
            })
        });
    }
    writer.write(out).map_err(|error| match error {
        octet_gguf::GgufError::Io { source, .. } => io_error("write", out)(source),
        other => SynthError::Gguf(Box::new(other)),
    })?;
    Ok(SynthSummary {
        n_layers: spec.n_layers,
        files: 1,
        bytes: total_bytes,
    })
}

fn metadata(writer: &mut GgufWriter<'_>, spec: &ModelSpec) {
    let size = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    writer
        .set("general.architecture", "llama")
        .set("general.name", "Random weights")
        .set("llama.block_count", size(spec.n_layers))
        .set("llama.context_length", size(spec.max_positions))
        .set("llama.embedding_length", size(spec.hidden_size))
        .set("llama.feed_forward_length", size(spec.intermediate_size))
        .set("llama.attention.head_count", size(spec.n_heads))
        .set("llama.attention.head_count_kv", size(spec.n_kv_heads))
        .set("llama.attention.key_length", size(spec.head_dim))
        .set("llama.attention.value_length", size(spec.head_dim))
        .set(
            "llama.attention.layer_norm_rms_epsilon",
            spec.rms_norm_eps as f32,
        )
        .set("llama.rope.dimension_count", size(spec.head_dim))
        .set("llama.rope.freq_base", spec.rope_theta as f32)
        .set("llama.expert_count", size(spec.n_experts))
        .set("llama.expert_used_count", size(spec.top_k))
        .set("llama.vocab_size", size(spec.vocab_size))
        .set("tokenizer.ggml.model", "no_vocab");
}

fn tensors(spec: &ModelSpec, options: &GgufSynthOptions) -> Result<Vec<Tensor>, SynthError> {
    let (hidden, inner, vocab) = (spec.hidden_size, spec.intermediate_size, spec.vocab_size);
    let (q_rows, kv_rows, n_experts) = (spec.q_size(), spec.kv_size(), spec.n_experts);
    let mut all = Vec::new();
    let float = |name: String, dims: &[usize], ty, fill| Tensor {
        name,
        dims: dims.iter().map(|&dim| dim as u64).collect(),
        ty,
        fill,
    };
    let norm = || Fill::WideBell {
        mean: 1.0,
        std: 0.1,
    };
    let matrix = |name: String, dims: &[usize], ty: TensorType, std: f64| {
        let fill = fill(ty, dims[0], std).ok_or_else(|| SynthError::Columns {
            matrix: name.clone(),
            k: dims[0],
            ty: ty.name(),
            block: ty.block_len(),
        })?;
        Ok::<_, SynthError>(float(name, dims, ty, fill))
    };
    let root = |k: usize| 1.0 / (k as f64).sqrt();
    all.push(float(
        "token_embd.weight".to_owned(),
        &[hidden, vocab],
        TensorType::F16,
        Fill::embedding(hidden),
    ));
    let output_std = super::fill::LOGIT_STD * root(hidden);
    let output = "output.weight".to_owned();
    all.push(matrix(
        output,
        &[hidden, vocab],
        options.output,
        output_std,
    )?);
    let output_norm = "output_norm.weight".to_owned();
    all.push(float(output_norm, &[hidden], TensorType::F32, norm()));
    for layer in 0..spec.n_layers {
        let name = |rest: &str| format!("blk.{layer}.{rest}.weight");
        all.push(float(name("attn_norm"), &[hidden], TensorType::F32, norm()));
        for (rest, dims, gain) in [
            ("attn_q", [hidden, q_rows], 1.0),
            ("attn_k", [hidden, kv_rows], 1.0),
            ("attn_v", [hidden, kv_rows], 1.0),
            ("attn_output", [q_rows, hidden], ATTENTION_OUTPUT_GAIN),
        ] {
            let std = gain * root(dims[0]);
            all.push(matrix(name(rest), &dims, options.attention, std)?);
        }
        all.push(float(name("ffn_norm"), &[hidden], TensorType::F32, norm()));
        let router = Fill::WideBell {
            mean: 0.0,
            std: super::fill::ROUTER_STD * root(hidden),
        };
        let gate = name("ffn_gate_inp");
        all.push(float(gate, &[hidden, n_experts], TensorType::F32, router));
        for (rest, dims) in [
            ("ffn_gate_exps", [hidden, inner, n_experts]),
            ("ffn_up_exps", [hidden, inner, n_experts]),
            ("ffn_down_exps", [inner, hidden, n_experts]),
        ] {
            let std = root(dims[0]);
            all.push(matrix(name(rest), &dims, options.experts, std)?);
        }
    }
    Ok(all)
}

/// Blocks of `ty` whose weights have mean 0 and the standard deviation `std`; `None` where `k`
/// columns are no whole number of blocks.
fn fill(ty: TensorType, k: usize, std: f64) -> Option<Fill> {
    ty.row_bytes(k as u64)?;
    match ty {
        TensorType::F32 => return Some(Fill::WideBell { mean: 0.0, std }),
        TensorType::F16 => return Some(Fill::Bell { mean: 0.0, std }),
        TensorType::BF16 => return Some(Fill::BrainBell { mean: 0.0, std }),
        _ => {}
    }
    // What bytes mean for the weights is found out on some of them.
    let given = match (ty, ty.half_offsets()) {
        // The exponent is 127 for a factor of 1, and may be off by half a step.
        (TensorType::MXFP4, _) => {
            let (_, spread) = moments(ty, &[(0, 127)]);
            let exponent = 127.0 + (std / spread).log2().round();
            vec![(0, exponent.clamp(1.0, 254.0) as u8)]
        }
        (_, [scale]) => {
            let (_, spread) = moments(ty, &half(*scale, 1.0));
            half(*scale, std / spread).to_vec()
        }
        (_, [scale, minimum]) => {
            let with = |d: f64, m: f64| [half(*scale, d), half(*minimum, m)].concat();
            let (mean, _) = moments(ty, &with(1.0, 0.0));
            let (shift, _) = moments(ty, &with(0.0, 1.0));
            let m = -mean / shift;
            let (_, spread) = moments(ty, &with(1.0, m));
            with(std / spread, m * std / spread)
        }
        _ => Vec::new(),
    };
    Some(Fill::Blocks {
        block_bytes: ty.block_bytes(),
        given,
    })
}

/// An f16 at `offset` of a block.
fn half(offset: usize, value: f64) -> [(usize, u8); 2] {
    let [low, high] = f16::from_f64(value).to_le_bytes();
    [(offset, low), (offset + 1, high)]
}

/// Mean and standard deviation of the weights of random blocks in which some bytes are given.
fn moments(ty: TensorType, given: &[(usize, u8)]) -> (f64, f64) {
    const BLOCKS: usize = 256;
    let k = BLOCKS * ty.block_len();
    let blocks = Fill::Blocks {
        block_bytes: ty.block_bytes(),
        given: given.to_vec(),
    };
    let mut bytes = Vec::new();
    let len = (BLOCKS * ty.block_bytes()) as u64;
    blocks
        .write(&mut bytes, (0, 0, 0), len, &mut |_| {})
        .expect("BUG: memory refuses to be written");
    let mut values = vec![0.0; k];
    BlockMatrix::new(block_type(ty), (1, k), &bytes)
        .expect("BUG: whole blocks")
        .dequantize_rows(0, &mut values);
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / k as f64;
    let square = |v: &f32| (f64::from(*v) - mean).powi(2);
    let variance = values.iter().map(square).sum::<f64>() / k as f64;
    (mean, variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_every_type_are_centred_and_of_the_wanted_spread() {
        for ty in TensorType::ALL {
            let wanted = 1.0 / 64.0;
            let fill = fill(ty, 4096, wanted).expect("whole blocks");
            let mut bytes = Vec::new();
            let len = 4 * ty.row_bytes(4096).expect("whole blocks");
            fill.write(&mut bytes, (7, 0, 1), len, &mut |_| {})
                .expect("written");
            let mut values = vec![0.0; 4 * 4096];
            BlockMatrix::new(block_type(ty), (4, 4096), &bytes)
                .expect("a matrix")
                .dequantize_rows(0, &mut values);
            let n = values.len() as f64;
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            let square = |v: &f32| (f64::from(*v) - mean).powi(2);
            let std = (values.iter().map(square).sum::<f64>() / n).sqrt();
            // A power of two is off by half a step at most.
            let off = if ty == TensorType::MXFP4 { 0.45 } else { 0.1 };
            // Some types have one value more below 0 than above.
            assert!(mean.abs() < 0.15 * wanted, "{}: mean {mean}", ty.name());
            assert!((std / wanted - 1.0).abs() < off, "{}: {std}", ty.name());
        }
    }
}
