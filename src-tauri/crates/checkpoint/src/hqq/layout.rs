//! The files of a checkpoint to be written: which tensors, in which order, at which bytes.
//!
//! All of it follows from the model's [`ModelSpec`] and how it is quantized, so that sizes are known
//! before any work is done and a file's tensors can be written in any order. The order inside a file
//! is that of the demo's files: wide elements first, then by name.

use std::collections::BTreeMap;

use octet_kernels::Bits;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::schema::{self, Part};
use octet_spec::ModelSpec;

/// How the weights of a matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// Bits a weight.
    pub bits: Bits,
    /// Weights that share a scale and a zero.
    pub group_size: usize,
    /// Scales that share a meta scale, where scales and zeros have 8 bits; `None` for plain f16
    /// ones.
    pub scale_group_size: Option<usize>,
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorLayout {
    /// Its name in the file.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub start: u64,
    /// What it is to the model.
    pub role: Role,
}

/// What a tensor is to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The embedding matrix.
    Embedding,
    /// The output matrix.
    Output,
    /// A norm.
    Norm,
    /// A router.
    Router,
    /// Of a quantized matrix.
    Part {
        /// Which of its tensors.
        part: Part,
        /// The matrix's columns.
        columns: usize,
        /// How it is stored.
        quantization: Quantization,
        /// Whether it is an attention output projection.
        is_attention_output: bool,
    },
}

impl TensorLayout {
    fn new(name: String, dtype: Dtype, shape: Vec<usize>, role: Role) -> Self {
        Self {
            name,
            dtype,
            shape,
            start: 0,
            role,
        }
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.dtype.bitsize() as u64 / 8
    }
}

/// A file to be written: its header, then its tensors one after the other.
#[derive(Debug)]
pub struct FileLayout {
    /// The file's first bytes.
    pub header: Vec<u8>,
    /// In the order of the file.
    pub tensors: Vec<TensorLayout>,
}

impl FileLayout {
    /// The trunk: embeddings, output matrix, norms, routers, attention. `quantize` says how the
    /// matrix of a name and shape `(rows, columns)` is stored.
    ///
    /// # Errors
    /// Those of `quantize`.
    pub fn trunk<E>(
        spec: &ModelSpec,
        quantize: impl Fn(&str, (usize, usize)) -> Result<Quantization, E>,
    ) -> Result<Self, E> {
        let (vocab, hidden) = (spec.vocab_size, spec.hidden_size);
        let f16 = |name: &str, shape: &[usize], role| {
            TensorLayout::new(name.to_owned(), Dtype::F16, shape.to_vec(), role)
        };
        let mut tensors = vec![
            f16(schema::EMBED_TOKENS, &[vocab, hidden], Role::Embedding),
            f16(schema::FINAL_NORM, &[hidden], Role::Norm),
        ];
        if !spec.tie_word_embeddings {
            tensors.push(f16(schema::LM_HEAD, &[vocab, hidden], Role::Output));
        }
        for layer in 0..spec.n_layers {
            for name in schema::layer_norms(layer) {
                tensors.push(f16(&name, &[hidden], Role::Norm));
            }
            let router = schema::router(layer);
            tensors.push(f16(&router, &[spec.n_experts, hidden], Role::Router));
            for (name, shape) in schema::attention(spec, layer) {
                tensors.extend(matrix(&name, shape, quantize(&name, shape)?));
            }
        }
        Ok(Self::new(tensors))
    }

    /// One expert, with bare names; the same layout serves all.
    ///
    /// # Errors
    /// Those of `quantize`, as for [`FileLayout::trunk`].
    pub fn expert<E>(
        spec: &ModelSpec,
        quantize: impl Fn(&str, (usize, usize)) -> Result<Quantization, E>,
    ) -> Result<Self, E> {
        let mut tensors = Vec::new();
        for (name, shape) in schema::expert_matrices(spec) {
            tensors.extend(matrix(name, shape, quantize(name, shape)?));
        }
        Ok(Self::new(tensors))
    }

    fn new(mut tensors: Vec<TensorLayout>) -> Self {
        tensors.sort_by(|a, b| {
            let by_width = b.dtype.bitsize().cmp(&a.dtype.bitsize());
            by_width.then_with(|| a.name.cmp(&b.name))
        });
        let mut json = Vec::from(b"{");
        let mut start = 0;
        for tensor in &tensors {
            let end = start + tensor.bytes();
            let separator = if start == 0 { "" } else { "," };
            let TensorLayout {
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
        let mut start = header.len() as u64;
        for tensor in &mut tensors {
            tensor.start = start;
            start += tensor.bytes();
        }
        Self { header, tensors }
    }

    /// Length of the file.
    pub fn file_bytes(&self) -> u64 {
        self.header.len() as u64 + self.data_bytes()
    }

    /// Length of its tensors.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(TensorLayout::bytes).sum()
    }

    /// The tensor `name`.
    ///
    /// # Panics
    /// If it is none of this file's.
    pub fn tensor(&self, name: &str) -> &TensorLayout {
        self.tensors
            .iter()
            .find(|tensor| tensor.name == name)
            .expect("BUG: a tensor that the layout does not have")
    }
}

/// The tensors of a quantized matrix of `n` rows and `k` columns, which `quantization` divides.
fn matrix(name: &str, (n, k): (usize, usize), quantization: Quantization) -> Vec<TensorLayout> {
    let Quantization {
        bits,
        group_size,
        scale_group_size,
    } = quantization;
    let n_groups = n * k / group_size;
    let packed = match bits {
        Bits::B3 => Dtype::I32,
        _ => Dtype::U8,
    };
    let packed_shape = vec![bits.packed_rows(group_size), n_groups];
    let mut tensors = vec![(Part::Packed, packed, packed_shape)];
    match scale_group_size {
        None => tensors.extend([
            (Part::Scale, Dtype::F16, vec![1, n_groups]),
            (Part::Zero, Dtype::F16, vec![1, n_groups]),
        ]),
        Some(scale_group) => {
            let n_meta = n_groups / scale_group;
            tensors.extend([
                (Part::ScaleQ, Dtype::U8, vec![scale_group, n_meta]),
                (Part::ScaleScale, Dtype::F16, vec![1, n_meta]),
                (Part::ScaleZero, Dtype::F16, vec![1, n_meta]),
                (Part::ZeroQ, Dtype::U8, vec![1, n_groups]),
                (Part::ZeroScale, Dtype::F16, vec![]),
                (Part::ZeroZero, Dtype::F16, vec![]),
            ]);
        }
    }
    let is_attention_output = name.ends_with(schema::O_PROJ);
    let role = |part| Role::Part {
        part,
        columns: k,
        quantization,
        is_attention_output,
    };
    tensors
        .into_iter()
        .map(|(part, dtype, shape)| TensorLayout::new(part.of(name), dtype, shape, role(part)))
        .collect()
}

/// The bytes of the index of a checkpoint of `trunk` and, for every expert, `expert`.
pub fn index(spec: &ModelSpec, trunk: &FileLayout, expert: &FileLayout) -> Vec<u8> {
    let n_experts = spec.n_layers * spec.n_experts;
    let n_files = 1 + n_experts;
    let mut weight_map: BTreeMap<String, String> = trunk
        .tensors
        .iter()
        .map(|tensor| (tensor.name.clone(), schema::file_name(0, n_files)))
        .collect();
    for i in 0..n_experts {
        let prefix = schema::expert(i / spec.n_experts, i % spec.n_experts);
        let file = schema::file_name(1 + i, n_files);
        for tensor in &expert.tensors {
            weight_map.insert(format!("{prefix}.{}", tensor.name), file.clone());
        }
    }
    let total_size = trunk.data_bytes() + n_experts as u64 * expert.data_bytes();
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    format!("{index:#}\n").into_bytes()
}
