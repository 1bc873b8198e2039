//! The model that a file describes: what it computes, and where its weights lie.

mod error;
mod family;
mod keys;
mod schema;
mod tensors;

pub use error::ModelError;
pub use tensors::{
    Expert, ExpertBiases, Floats, Layer, Linear, Matrix, Part, SLOT_ALIGNMENT, SlotLayout,
};

use octet_spec::ModelSpec;

use crate::gguf::Gguf;
use crate::tensor::TensorInfo;
use schema::{LayerSchema, Tensors};

/// A model that can be run: its description, and every tensor of the file in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// What files call its family: `llama`, `qwen3moe`, `gpt-oss`, `olmoe`.
    pub architecture: &'static str,
    /// What it computes.
    pub spec: ModelSpec,
    /// Embeddings, (vocab, hidden).
    pub embeddings: Matrix,
    /// Norm in front of the output matrix, (hidden).
    pub output_norm: Floats,
    /// Output matrix, (vocab, hidden): the embeddings where the two are tied.
    pub output: Matrix,
    /// The layers, `spec.n_layers` of them.
    pub layers: Vec<Layer>,
    /// All tensors but the experts' matrices, with their names.
    pub trunk: Vec<(String, TensorInfo)>,
}

impl Model {
    /// Finds out which model `gguf` holds, and checks every tensor's name, type and shape.
    ///
    /// Reads no weights (but `rope_freqs`, some hundred bytes), so they may hold anything: see
    /// [`Self::check_trunk`].
    ///
    /// # Errors
    /// [`ModelError`] for a family that is not known, for what does not fit together, and for
    /// tensors that are missing or that nothing reads.
    pub fn read(gguf: &Gguf) -> Result<Self, ModelError> {
        let metadata = gguf.metadata();
        let family = keys::family(metadata)?;
        let mut spec = keys::spec(metadata, family)?;
        let mut tensors = Tensors::new(gguf);

        let (vocab, hidden) = (spec.vocab_size, spec.hidden_size);
        let embeddings = tensors.matrix(schema::EMBEDDINGS, vocab, hidden)?;
        let output_norm = tensors.floats(schema::OUTPUT_NORM, &[hidden])?;
        spec.tie_word_embeddings = !tensors.has(schema::OUTPUT);
        let output = if spec.tie_word_embeddings {
            embeddings
        } else {
            tensors.matrix(schema::OUTPUT, vocab, hidden)?
        };
        if tensors.has(schema::ROPE_FREQS) {
            tensors.floats(schema::ROPE_FREQS, &[spec.head_dim / 2])?;
            spec.rope_divisors = read_divisors(gguf)?;
        }
        let mut layers = Vec::with_capacity(spec.n_layers);
        for layer in 0..spec.n_layers {
            let mut schema = LayerSchema {
                tensors: &mut tensors,
                spec: &spec,
                family,
                layer,
            };
            layers.push(schema.read()?);
        }
        Ok(Self {
            trunk: tensors.finish(family.name)?,
            architecture: family.name,
            spec,
            embeddings,
            output_norm,
            output,
            layers,
        })
    }

    /// Reads everything but the experts, and checks that no weight, scale or minimum is NaN or
    /// infinite. (An expert is checked when it is copied, by
    /// [`TensorType::first_non_finite`](crate::TensorType::first_non_finite).)
    ///
    /// # Errors
    /// [`ModelError::NonFinite`] names the tensor; [`ModelError::Gguf`] where it cannot be read.
    pub fn check_trunk(&self, gguf: &Gguf) -> Result<(), ModelError> {
        for (name, info) in &self.trunk {
            let block_bytes = info.ty.block_bytes();
            let mut before = 0;
            gguf.read_pieces(info.span, block_bytes, |piece| {
                if let Some(block) = info.ty.first_non_finite(piece) {
                    return Err(ModelError::NonFinite {
                        tensor: name.clone(),
                        ty: info.ty,
                        block: before + block as u64,
                    });
                }
                before += (piece.len() / block_bytes) as u64;
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn read_divisors(gguf: &Gguf) -> Result<Vec<f32>, ModelError> {
    let Some(info) = gguf.tensor(schema::ROPE_FREQS) else {
        return Ok(Vec::new());
    };
    let divisors = gguf.read_f32(info)?.unwrap_or_default();
    match divisors
        .iter()
        .find(|value| !(value.is_finite() && **value > 0.0))
    {
        None => Ok(divisors),
        Some(&value) => Err(ModelError::Divisor {
            tensor: schema::ROPE_FREQS.to_owned(),
            value,
        }),
    }
}
