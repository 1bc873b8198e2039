//! What all backends of a loaded model share.

use std::sync::Arc;

use octet_kernels::{Pool, Precision, ops};

use crate::checkpoint::{Checkpoint, Table};
use crate::error::EngineError;
use crate::experts::Experts;
use crate::spec::ModelSpec;
use crate::tokenizer::TokenId;

/// A model's files, its experts in their tiers, and the CPU that computes beside any device.
pub struct Host {
    /// The files.
    pub checkpoint: Arc<Checkpoint>,
    /// Where the experts live.
    pub experts: Arc<Experts>,
    /// The CPU's threads.
    pub pool: Pool,
    /// How activations are rounded.
    pub precision: Precision,
}

impl Host {
    /// What the model computes.
    pub fn spec(&self) -> &ModelSpec {
        self.checkpoint.spec()
    }

    /// Rows of the embedding, f32 `(t, hidden)`.
    pub(super) fn embed(&self, tokens: &[TokenId], hidden: &mut [f32]) -> Result<(), EngineError> {
        let c = self.spec();
        let (size, vocab) = (c.hidden_size, c.vocab_size);
        let embedding = self.checkpoint.embedding();
        for (&token, row) in tokens.iter().zip(hidden.chunks_exact_mut(size)) {
            let at = token.0 as usize;
            if at >= vocab {
                return Err(EngineError::UnknownToken {
                    token: token.0,
                    text: String::new(),
                    vocab_size: vocab,
                });
            }
            match embedding {
                Table::F16(f16) => ops::widen(&f16[at * size * 2..(at + 1) * size * 2], row),
                Table::Blocks(w) => w.dequantize_rows(at, row),
            }
        }
        Ok(())
    }
}
