//! What can go wrong in the engine.

use std::borrow::Cow;

use crate::checkpoint::CheckpointError;
use crate::experts::TierError;
use crate::plan::PlanError;
use crate::prompt::PromptError;
use crate::sampling::SamplingError;
use crate::spec::{Feature, ModelSpec};
use crate::tokenizer::TokenizerError;

/// Any failure of loading or generating.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The checkpoint is missing, damaged or foreign.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The memory plan refuses.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The model needs something that no backend computes.
    #[error("the model has {feature}, which Octet does not support yet")]
    Unsupported {
        /// What.
        feature: Feature,
    },
    /// The tokenizer is missing or damaged.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The messages make no prompt.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Bad sampling settings, or logits that are not finite.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The kernels asked for are not to be had.
    #[error(transparent)]
    Kernels(#[from] octet_kernels::LevelError),
    /// An expert could not be had.
    #[error(transparent)]
    Tier(TierError),
    /// The device failed in the middle of an answer.
    #[error("the GPU failed ({reason}); the model now runs on the CPU")]
    Device {
        /// What it reported.
        reason: String,
    },
    /// A token that the model has no embedding for.
    #[error("there is no token {token}{text}: this model's go from 0 to {}", .vocab_size - 1)]
    UnknownToken {
        /// The token.
        token: u32,
        /// Its text in brackets, where that is known.
        text: String,
        /// Tokens the model knows.
        vocab_size: usize,
    },
    /// More positions than the context holds.
    #[error("{wanted} tokens do not fit the context of {capacity}")]
    ContextFull {
        /// Positions the context holds.
        capacity: usize,
        /// Positions asked for.
        wanted: usize,
        /// A context that is long enough, where the model has one.
        enough: Option<usize>,
    },
    /// Nothing to answer.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// Text was given but the model folder has no tokenizer.
    #[error("{dir} has no tokenizer.json")]
    NoTokenizer {
        /// The model folder.
        dir: String,
    },
    /// Stop strings were given but the model folder has no tokenizer.
    #[error(
        "{dir} has no tokenizer.json, without which no stop string can be found: add the model's \
         own, or give no stop strings"
    )]
    StopNeedsTokenizer {
        /// The model folder.
        dir: String,
    },
    /// The tokenizer belongs to another model.
    #[error(
        "the tokenizer has {tokenizer} tokens but the model {model}: it belongs to another model"
    )]
    TokenizerMismatch {
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Tokens of the model.
        model: usize,
    },
    /// A tier too small to work with.
    #[error(
        "{slots} expert slots are too few: at least {least} are needed, and more where every layer \
         has its own"
    )]
    TooFewSlots {
        /// Slots there would be.
        slots: usize,
        /// Slots needed.
        least: usize,
    },
    /// Stopped on request.
    #[error("cancelled")]
    Cancelled,
    /// The engine's thread is gone.
    #[error("the model is no longer loaded")]
    Unloaded,
}

impl From<TierError> for EngineError {
    fn from(error: TierError) -> Self {
        match error {
            TierError::TooFewSlots { slots, least } => Self::TooFewSlots { slots, least },
            TierError::Device { reason } => Self::Device { reason },
            TierError::Stopped => Self::Cancelled,
            other => Self::Tier(other),
        }
    }
}

impl EngineError {
    /// `wanted` positions do not fit `capacity`; with `answer` more, a context of the model `c` may
    /// hold them.
    pub fn context_full(c: &ModelSpec, capacity: usize, wanted: usize, answer: usize) -> Self {
        let enough = wanted.saturating_add(answer).min(c.max_positions);
        Self::ContextFull {
            capacity,
            wanted,
            enough: (enough > capacity && enough >= wanted).then_some(enough),
        }
    }

    /// Whether the device failed.
    pub(crate) fn is_of_device(&self) -> bool {
        matches!(self, Self::Device { .. })
    }

    /// What to do about it, where the message alone does not tell.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        let hint = match self {
            Self::Checkpoint(error) => error.hint()?,
            Self::Tokenizer(error) => error.hint()?,
            Self::Tier(TierError::NoSlot { .. }) => "raise --ram",
            Self::Device { .. } => "try again, or reload the model to use the GPU",
            Self::ContextFull {
                enough: Some(ctx), ..
            } => return Some(format!("give --ctx {ctx}, or shorten the text").into()),
            Self::ContextFull { .. } => "shorten the text; this model has no context that long",
            Self::Sampling(SamplingError::NonFinite { .. }) => "verify the model",
            Self::EmptyPrompt => "give some text",
            Self::NoTokenizer { .. } => "add the model's own to use text",
            Self::TooFewSlots { .. } => "raise --ram, or use --eviction global",
            Self::Unloaded => "load it again",
            _ => return None,
        };
        Some(hint.into())
    }
}
