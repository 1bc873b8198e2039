//! Why a file is no model that can be run.

use super::family::Family;
use crate::error::GgufError;
use crate::metadata::MetadataError;
use crate::tensor_type::TensorType;

/// Why a file is no model that can be run. None of the messages names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A key that is missing, of the wrong kind, or beyond its limits.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A tensor cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A family that is not known.
    #[error(
        "models of the architecture \"{found}\" are not supported; choose one of {}",
        Family::names()
    )]
    Architecture {
        /// The file's.
        found: String,
    },
    /// A model without experts.
    #[error(
        "this model has no experts; Octet runs mixture-of-experts models only, such as Mixtral or \
         Qwen3-30B-A3B"
    )]
    NoExperts,
    /// A rotary embedding that is not known.
    #[error("`{key}` is \"{found}\"; only none, linear and yarn are supported")]
    RopeScaling {
        /// The key.
        key: String,
        /// The value.
        found: String,
    },
    /// A tensor that the model needs.
    #[error("tensor `{tensor}` is missing; download the model again")]
    MissingTensor {
        /// Its name.
        tensor: String,
    },
    /// A tensor whose type or shape does not fit the metadata.
    #[error("tensor `{tensor}`: expected {expected}, found {found}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What would be legal; dimensions are fastest first.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Tensors that nothing reads: without them the model would compute something else.
    #[error(
        "tensor `{tensor}`{} not known for the architecture {architecture}; choose another file of \
         this model",
        if *more == 0 { " is".to_owned() } else { format!(" and {more} more are") }
    )]
    UnreadTensor {
        /// The first one.
        tensor: String,
        /// How many there are besides.
        more: usize,
        /// The model's architecture.
        architecture: &'static str,
    },
    /// A weight that is NaN or infinite.
    #[error(
        "tensor `{tensor}` holds a NaN or an infinity in block {block} of {ty}; the file is \
         damaged, download it again"
    )]
    NonFinite {
        /// Its name.
        tensor: String,
        /// Its type.
        ty: TensorType,
        /// The first such block from the tensor's beginning; of F32, F16 and BF16, the value.
        block: u64,
    },
    /// A number of `rope_freqs.weight` that nothing can be divided by.
    #[error("tensor `{tensor}` holds {value}, where every value must be above 0")]
    Divisor {
        /// Its name.
        tensor: String,
        /// The value.
        value: f32,
    },
}
