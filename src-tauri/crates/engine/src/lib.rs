//! Mixtral on checkpoints in the HQQ "offloading demo" format.
//!
//! # Glossary
//! The same names mean the same thing everywhere:
//! - `t`: positions computed in one pass (1 while decoding);
//! - `hidden`, `intermediate`: widths of the residual stream and inside an expert;
//! - `n_heads`, `n_kv_heads`, `head_dim`: of grouped-query attention;
//! - `n_experts`, `top_k`: experts a layer (8), and how many a token uses (2);
//! - `group_size`, `bits`: of a quantized matrix, see [`octet_kernels`];
//! - *trunk*: everything but the experts; *tier*: a kind of memory that holds experts;
//!   *slot*: room for one expert in a tier; *lease*: a slot kept for whoever reads it.
//!
//! Start at [`engine::Engine`] to use it, at [`model::Decoder::forward`] to read it.
#![warn(missing_docs)]

pub mod backend;
pub mod calibration;
pub mod clock;
mod context_shift;
pub mod engine;
pub mod error;
pub mod experts;
pub mod generate;
pub mod hardware;
pub mod load;
pub mod model;
pub mod plan;
mod progress;
pub mod routing_reuse;
pub mod sampling;

pub use octet_checkpoint::{self as checkpoint, spec, synth};
pub use octet_text::{prompt, stream_text, tokenizer};

pub use engine::{Cancel, Engine, Generation};
pub use error::EngineError;
pub use generate::{DoneReason, Event, Input, Request, Stats};
pub use load::{Fill, LoadOptions, LoadProgress, LoadStage, Loaded, Loader};
