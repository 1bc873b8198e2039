//! The trunk file: embeddings, output matrix, norms, routers and quantized attention.

use std::ops::Range;
use std::path::PathBuf;

use memmap2::Mmap;
use octet_kernels::Matrix;
use safetensors::Dtype;

use super::matrix::MatrixLayout;
use super::schema::{self, EMBED_TOKENS, FINAL_NORM, LM_HEAD};
use crate::error::CheckpointError;
use crate::file::{TensorFile, first_non_finite};
use crate::{LayerTrunk, Table};
use octet_spec::ModelSpec;

/// The mapped trunk file and the place of its tensors.
#[derive(Debug)]
pub(crate) struct TrunkFile {
    path: PathBuf,
    len_bytes: u64,
    map: Mmap,
    embed_tokens: Dense,
    /// `None` where the output matrix is the embedding matrix.
    lm_head: Option<Dense>,
    final_norm: Vec<f32>,
    layers: Vec<Layer>,
}

/// A matrix of f16 values.
#[derive(Debug)]
enum Dense {
    /// In the file, as it stands.
    Mapped(Range<usize>),
    /// Converted from another element type.
    Owned(Vec<u8>),
}

#[derive(Debug)]
struct Layer {
    input_layernorm: Vec<f32>,
    post_attention_layernorm: Vec<f32>,
    gate: Dense,
    q_proj: MatrixLayout,
    k_proj: MatrixLayout,
    v_proj: MatrixLayout,
    o_proj: MatrixLayout,
}

impl TrunkFile {
    /// Opens and checks the trunk.
    pub(crate) fn open(path: PathBuf, spec: &ModelSpec) -> Result<Self, CheckpointError> {
        let file = TensorFile::open(path, EMBED_TOKENS)?;
        let (vocab, hidden) = (spec.vocab_size, spec.hidden_size);
        let embed_tokens = Dense::find(&file, EMBED_TOKENS, (vocab, hidden))?;
        // Where the two are tied, transformers leaves one that is in the file unused.
        let lm_head = match spec.tie_word_embeddings {
            true => None,
            false => Some(Dense::find(&file, LM_HEAD, (vocab, hidden))?),
        };
        let final_norm = norm(&file, FINAL_NORM, hidden)?;
        let layers = (0..spec.n_layers)
            .map(|layer| Layer::find(&file, layer, spec))
            .collect::<Result<Vec<_>, _>>()?;
        let map = file.map()?;
        for (i, layer) in layers.iter().enumerate() {
            let names = schema::attention(spec, i);
            for ((matrix, _), layout) in names.into_iter().zip(layer.projections()) {
                layout
                    .view(&map)
                    .map_err(|source| CheckpointError::Layout {
                        path: file.path().to_owned(),
                        matrix,
                        source,
                    })?;
            }
        }
        Ok(Self {
            path: file.path().to_owned(),
            len_bytes: file.len_bytes(),
            map,
            embed_tokens,
            lm_head,
            final_norm,
            layers,
        })
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    pub(crate) fn map(&self) -> &Mmap {
        &self.map
    }

    pub(crate) fn embed_tokens(&self) -> &[u8] {
        self.embed_tokens.bytes(&self.map)
    }

    pub(crate) fn lm_head(&self) -> &[u8] {
        self.lm_head
            .as_ref()
            .unwrap_or(&self.embed_tokens)
            .bytes(&self.map)
    }

    /// Checks that every value of the output matrix is finite: rounding it to 8 bits would hide
    /// one that is not. Reads the matrix, so this is left to who is about to use it.
    pub(crate) fn check_lm_head(&self) -> Result<(), CheckpointError> {
        let tensor = match self.lm_head {
            Some(_) => LM_HEAD,
            None => EMBED_TOKENS,
        };
        match first_non_finite(self.lm_head()) {
            None => Ok(()),
            Some((element, value)) => Err(CheckpointError::NonFinite {
                path: self.path.clone(),
                tensor: tensor.to_owned(),
                element,
                value,
            }),
        }
    }

    pub(crate) fn final_norm(&self) -> &[f32] {
        &self.final_norm
    }

    pub(crate) fn layer(&self, layer: usize) -> LayerTrunk<'_> {
        let layer = &self.layers[layer];
        let view = |matrix: &MatrixLayout| {
            let view = matrix.view(&self.map);
            Matrix::Hqq(view.expect("BUG: the layout was checked when the file was opened"))
        };
        LayerTrunk {
            input_layernorm: &layer.input_layernorm,
            post_attention_layernorm: &layer.post_attention_layernorm,
            gate: Table::F16(layer.gate.bytes(&self.map)),
            gate_bias: &[],
            q_proj: view(&layer.q_proj),
            k_proj: view(&layer.k_proj),
            v_proj: view(&layer.v_proj),
            o_proj: view(&layer.o_proj),
            biases: [&[]; 4],
            q_norm: &[],
            k_norm: &[],
            sinks: &[],
        }
    }

    pub(crate) fn matrices(&self) -> impl Iterator<Item = &MatrixLayout> {
        self.layers.iter().flat_map(Layer::projections)
    }
}

impl Dense {
    fn find(
        file: &TensorFile,
        name: &str,
        (rows, columns): (usize, usize),
    ) -> Result<Self, CheckpointError> {
        let info = file.float_tensor(name, &[rows, columns])?;
        Ok(match info.dtype {
            Dtype::F16 => Dense::Mapped(info.range()),
            _ => Dense::Owned(file.read_f16(name, info)?),
        })
    }

    fn bytes<'a>(&'a self, map: &'a Mmap) -> &'a [u8] {
        match self {
            Dense::Mapped(range) => &map[range.clone()],
            Dense::Owned(bytes) => bytes,
        }
    }
}

impl Layer {
    fn find(file: &TensorFile, layer: usize, spec: &ModelSpec) -> Result<Self, CheckpointError> {
        let hidden = spec.hidden_size;
        let attention = |(name, shape): (String, (usize, usize))| {
            let matrix = MatrixLayout::find(file, &name, shape)?;
            for tensor in matrix.f16_tensors() {
                file.check_finite(&tensor.name, tensor.range.clone())?;
            }
            Ok::<_, CheckpointError>(matrix)
        };
        let router = schema::router(layer);
        let gate = Dense::find(file, &router, (spec.n_experts, hidden))?;
        if let Dense::Mapped(range) = &gate {
            file.check_finite(&router, range.clone())?;
        }
        let [input_norm, post_attention_norm] = schema::layer_norms(layer);
        let [q_proj, k_proj, v_proj, o_proj] = schema::attention(spec, layer);
        Ok(Self {
            input_layernorm: norm(file, &input_norm, hidden)?,
            post_attention_layernorm: norm(file, &post_attention_norm, hidden)?,
            gate,
            q_proj: attention(q_proj)?,
            k_proj: attention(k_proj)?,
            v_proj: attention(v_proj)?,
            o_proj: attention(o_proj)?,
        })
    }

    /// In the order of [`schema::attention`].
    fn projections(&self) -> [&MatrixLayout; 4] {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj]
    }
}

fn norm(file: &TensorFile, name: &str, hidden: usize) -> Result<Vec<f32>, CheckpointError> {
    let info = file.float_tensor(name, &[hidden])?;
    file.read_f32(name, info)
}
