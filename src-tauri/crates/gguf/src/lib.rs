//! GGUF files: what llama.cpp and most published quantizations of models use.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use octet_gguf::{Gguf, Model, TokenizerSpec};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A file, any part of a split one, or a folder with one model.
//! let gguf = Gguf::open(Path::new("Qwen3-30B-A3B-Q4_K_M.gguf"))?;
//! let model = Model::read(&gguf)?;
//! let expert = &model.layers[0].experts[17];
//! println!("{} of {} layers: {}", model.architecture, model.spec.n_layers, expert.gate.ty);
//! let rows: &[u8] = gguf.bytes(expert.gate.span);
//! let tokenizer = TokenizerSpec::read(gguf.metadata())?;
//! std::fs::write("tokenizer.json", &tokenizer.json)?;
//! # let _ = rows;
//! # Ok(())
//! # }
//! ```
//!
//! From the bottom up:
//!
//! ```text
//! tensor_type   the block types: their sizes, and which of their bytes are floats
//! header        one file's metadata and places of tensors, checked byte by byte
//! file, gguf    one file, mapped and open; a model's files as one; the model of a folder
//! writer        a file from metadata and tensors that are made as they are written
//! tokenizer     a Hugging Face tokenizer.json from the metadata
//! model         what the model computes (octet-spec); every tensor in its place, by layer and expert
//! ```
//!
//! # Hostile files
//! A file is taken for damaged or malicious until the opposite is shown. Every length is held
//! against what is left of the file before anything is allocated or skipped by it, sums and products
//! are checked, and names, keys and ranges of tensors are each used once. What an open [`Gguf`]
//! gives can be relied on: every tensor is of a type that is read, has whole blocks, and lies in
//! its file; every tensor of a [`Model`] has the shape that the metadata gives, and none is left over.
//! NaN and infinity are not looked for: they can be in any block, so that means reading the file.
//! [`Model::check_trunk`] does that for all but the experts, and [`TensorType::first_non_finite`]
//! for what was read.
//!
//! # Files that change while they are open
//! A map shows a file as it is now. Whoever replaces a model must write a new file and rename it:
//! bytes overwritten in place are used as they are, and when a mapped file is cut short the system
//! ends the process (SIGBUS) at the next access past its new end. [`Gguf::read`] gives an error
//! instead.
#![warn(missing_docs)]

mod error;
mod file;
mod folder;
mod gguf;
mod header;
mod metadata;
mod model;
mod parts;
mod tensor;
mod tensor_type;
mod text;
mod tokenizer;
mod value;
mod writer;

pub use error::GgufError;
pub use file::GgufFile;
pub use gguf::Gguf;
pub use header::{
    Header, HeaderError, MAX_ALIGNMENT, MAX_HEADER_BYTES, MAX_ITEMS, MAX_KEYS, MAX_NAME_BYTES,
    MAX_TENSORS, parse_header,
};
pub use metadata::{Metadata, MetadataError};
pub use model::{
    Expert, ExpertBiases, Floats, Layer, Linear, Matrix, Model, ModelError, Part, SLOT_ALIGNMENT,
    SlotLayout,
};
pub use tensor::{Dims, Span, TensorInfo};
pub use tensor_type::{TensorType, TypeError};
pub use tokenizer::{
    MAX_MERGES, MAX_TEMPLATE_BYTES, MAX_TOKEN_BYTES, MAX_TOKENS, MAX_VOCABULARY_BYTES, Token,
    TokenizerError, TokenizerSpec,
};
pub use value::{Array, FromValue, Value};
pub use writer::{GgufWriter, NewValue};
