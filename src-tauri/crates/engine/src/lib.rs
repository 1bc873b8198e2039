//! Mixture-of-experts models on the machine you have: a checkpoint in the HQQ "offloading demo"
//! format or a GGUF file, with the experts in VRAM, in RAM, or read from disk as they are needed.
//!
//! ```
//! use octet_engine::tokenizer::TokenId;
//! use octet_engine::{Engine, Event, Input, Request};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let model = dir.path().join("model");
//! # let config = dir.path().join("config.json");
//! # std::fs::write(&config, r#"{
//! #     "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu",
//! #     "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
//! #     "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4,
//! #     "num_experts_per_tok": 2, "vocab_size": 128, "max_position_embeddings": 512,
//! #     "rms_norm_eps": 1e-5, "rope_theta": 1e6, "bos_token_id": 1, "eos_token_id": 2
//! # }"#)?;
//! # octet_engine::synth::synth(&config, &model, &Default::default(), &mut |_, _| {})?;
//! let engine = Engine::builder(&model).load()?;
//! // This model is random and has no tokenizer; others take `Input::Messages`.
//! let prompt = Input::Tokens(vec![TokenId(1), TokenId(42)]);
//! let mut answer = engine.generate(Request {
//!     max_new_tokens: Some(8),
//!     ignore_eos: true,
//!     ..Request::new(prompt)
//! });
//! let mut tokens = Vec::new();
//! while let Some(event) = answer.next_blocking() {
//!     if let Event::Token { id, .. } = event {
//!         tokens.push(id);
//!     }
//! }
//! assert_eq!(tokens.len(), 8);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Loader`] takes what the memory plan is asked for, options, and a watch.
//! [`model::Decoder`] is the same model without a thread, for whoever wants its logits.
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
mod problem;
mod progress;
pub mod routing_reuse;
pub mod sampling;

pub use octet_checkpoint::{self as checkpoint, spec, synth};
pub use octet_text::{prompt, stream_text, tokenizer};

pub use engine::{Cancel, Engine, Generation};
pub use error::EngineError;
pub use generate::{DoneReason, Event, Input, Request, Stats};
pub use load::{Fill, LoadOptions, LoadProgress, LoadStage, Loaded, Loader};
pub use problem::{EngineProblem, Failure};
