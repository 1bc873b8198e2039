//! A failure as data, for whoever words it for a person in a language of their choice.

use serde::Serialize;

use crate::checkpoint::CheckpointError;
use crate::error::EngineError;
use crate::experts::TierError;
use crate::prompt::PromptError;
use crate::sampling::SamplingError;
use crate::tokenizer::TokenizerError;

/// What kind of failure an [`EngineError`] is, with its names and numbers.
///
/// `detail` is what the system, a driver, or a parser of damaged files says, in English.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum EngineProblem {
    /// There is no model at this path.
    NotAModel {
        /// The folder or file.
        path: String,
        /// What it lacks.
        detail: String,
    },
    /// A file of the model is missing, or gone since it was opened.
    ModelFileMissing {
        /// The file.
        path: String,
    },
    /// The system refuses to read a file of the model.
    ModelFileUnreadable {
        /// The file.
        path: String,
        /// What the system says.
        detail: String,
    },
    /// A file of the model was replaced while the model was in use.
    ModelChanged {
        /// The file.
        path: String,
    },
    /// The model's files are damaged, or contradict each other.
    Checkpoint {
        /// Which file and what is wrong with it.
        detail: String,
    },
    /// The model needs something that no backend computes.
    Unsupported {
        /// The name of that.
        detail: String,
    },
    /// The memory plan refuses.
    Plan {
        /// Why.
        detail: String,
    },
    /// Fewer expert slots than it takes to work.
    TooFewSlots {
        /// Slots there would be.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        slots: usize,
        /// Slots needed.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        needed: usize,
    },
    /// The model has no tokenizer.
    NoTokenizer {
        /// The model's folder.
        dir: String,
    },
    /// The tokenizer cannot be used.
    Tokenizer {
        /// What is wrong with it.
        detail: String,
    },
    /// The tokenizer belongs to another model.
    TokenizerMismatch {
        /// Tokens of the tokenizer.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        tokenizer: usize,
        /// Tokens of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        model: usize,
    },
    /// Nothing to answer.
    EmptyConversation,
    /// A message from the wrong side.
    MessageOrder {
        /// Its place, counted from 1.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        position: usize,
    },
    /// The chat template cannot be carried out.
    TemplateBroken {
        /// The file that holds it; empty where that is not known.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The chat template refuses these messages.
    TemplateRefused {
        /// The file that holds it.
        path: String,
        /// The template's own message.
        detail: String,
    },
    /// The chat template leaves no way to go on with an answer.
    CannotContinue,
    /// A token that the model has no embedding for.
    UnknownToken {
        /// Its id.
        token: u32,
        /// Tokens the model knows.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        vocab_size: usize,
    },
    /// The text cannot be turned into tokens.
    Prompt {
        /// Why.
        detail: String,
    },
    /// A sampling parameter is out of its range.
    SamplingRange {
        /// The field of [`SamplingParams`](crate::sampling::SamplingParams).
        name: String,
        /// Its value.
        value: f32,
    },
    /// The model's output is no number.
    BadOutput,
    /// An expert could not be read or copied.
    ExpertUnavailable {
        /// Its layer, counted from 0.
        layer: u16,
        /// Its place in the layer, counted from 0.
        expert: u16,
        /// What the memory says.
        detail: String,
    },
    /// More experts are needed at once than there are slots.
    NoExpertSlot {
        /// Slots there are.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        slots: usize,
    },
    /// The kernels asked for are not to be had.
    Kernels {
        /// Why.
        detail: String,
    },
    /// An answer that an earlier version kept with a sentence only.
    Computation {
        /// The sentence.
        detail: String,
    },
    /// The GPU failed; the model goes on on the CPU.
    GpuFailed {
        /// What the driver says.
        detail: String,
    },
    /// The text does not fit the context.
    ContextFull {
        /// Tokens the context holds.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        limit: usize,
        /// Tokens needed.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        needed: usize,
        /// A context that is long enough, where the model has one.
        #[cfg_attr(feature = "specta", specta(type = Option<u32>))]
        enough: Option<usize>,
    },
    /// Stopped on request.
    Cancelled,
    /// The model is no longer loaded.
    Unloaded,
}

impl From<&EngineError> for EngineProblem {
    fn from(error: &EngineError) -> Self {
        match error {
            EngineError::Checkpoint(error) => error.into(),
            EngineError::Plan(error) => Self::Plan {
                detail: error.to_string(),
            },
            EngineError::Unsupported { feature } => Self::Unsupported {
                detail: feature.to_string(),
            },
            EngineError::Tokenizer(error) => error.into(),
            EngineError::Prompt(error) => error.into(),
            EngineError::Sampling(error) => error.into(),
            EngineError::Kernels(error) => Self::Kernels {
                detail: error.to_string(),
            },
            EngineError::Tier(error) => error.into(),
            EngineError::Device { reason } => Self::GpuFailed {
                detail: reason.clone(),
            },
            EngineError::UnknownToken {
                token, vocab_size, ..
            } => Self::UnknownToken {
                token: *token,
                vocab_size: *vocab_size,
            },
            EngineError::ContextFull {
                capacity,
                wanted,
                enough,
            } => Self::ContextFull {
                limit: *capacity,
                needed: *wanted,
                enough: *enough,
            },
            EngineError::EmptyPrompt => Self::EmptyConversation,
            EngineError::NoTokenizer { dir } | EngineError::StopNeedsTokenizer { dir } => {
                Self::NoTokenizer { dir: dir.clone() }
            }
            EngineError::TokenizerMismatch { tokenizer, model } => Self::TokenizerMismatch {
                tokenizer: *tokenizer,
                model: *model,
            },
            EngineError::TooFewSlots { slots, least } => Self::TooFewSlots {
                slots: *slots,
                needed: *least,
            },
            EngineError::Cancelled => Self::Cancelled,
            EngineError::Unloaded => Self::Unloaded,
        }
    }
}

impl From<&CheckpointError> for EngineProblem {
    fn from(error: &CheckpointError) -> Self {
        match error {
            CheckpointError::NotACheckpoint { dir, why } => Self::NotAModel {
                path: dir.display().to_string(),
                detail: why.clone(),
            },
            CheckpointError::Gone { path } | CheckpointError::MissingFile { path, .. } => {
                Self::ModelFileMissing {
                    path: path.display().to_string(),
                }
            }
            CheckpointError::Io { path, source, .. } => Self::ModelFileUnreadable {
                path: path.display().to_string(),
                detail: source.to_string(),
            },
            CheckpointError::Changed { path, .. } => Self::ModelChanged {
                path: path.display().to_string(),
            },
            damaged => Self::Checkpoint {
                detail: damaged.to_string(),
            },
        }
    }
}

impl From<&TokenizerError> for EngineProblem {
    fn from(error: &TokenizerError) -> Self {
        match error {
            TokenizerError::Missing { path } => Self::NoTokenizer {
                dir: path.parent().unwrap_or(path).display().to_string(),
            },
            TokenizerError::Encode { message, .. } => Self::Prompt {
                detail: message.clone(),
            },
            unusable => Self::Tokenizer {
                detail: unusable.to_string(),
            },
        }
    }
}

impl From<&PromptError> for EngineProblem {
    fn from(error: &PromptError) -> Self {
        match error {
            PromptError::Empty | PromptError::SystemOnly => Self::EmptyConversation,
            PromptError::RoleOrder { index, .. } => Self::MessageOrder {
                position: index + 1,
            },
            PromptError::Template { path, message } => Self::TemplateBroken {
                path: path.display().to_string(),
                detail: message.clone(),
            },
            PromptError::TemplateRefused { path, message } => Self::TemplateRefused {
                path: path.display().to_string(),
                detail: message.clone(),
            },
            PromptError::TemplateUnsafe { .. } => Self::TemplateBroken {
                path: String::new(),
                detail: error.to_string(),
            },
            PromptError::TemplateCannotContinue { .. } => Self::CannotContinue,
            other => Self::Prompt {
                detail: other.to_string(),
            },
        }
    }
}

impl From<&SamplingError> for EngineProblem {
    fn from(error: &SamplingError) -> Self {
        match error {
            SamplingError::Parameter { name, value, .. } => Self::SamplingRange {
                name: (*name).to_owned(),
                value: *value,
            },
            SamplingError::Empty | SamplingError::NonFinite { .. } => Self::BadOutput,
        }
    }
}

impl From<&TierError> for EngineProblem {
    fn from(error: &TierError) -> Self {
        match error {
            TierError::Fetch {
                layer,
                expert,
                reason,
            } => Self::ExpertUnavailable {
                layer: *layer,
                expert: *expert,
                detail: reason.clone(),
            },
            TierError::NoSlot { slots, .. } => Self::NoExpertSlot { slots: *slots },
            TierError::TooFewSlots { slots, least } => Self::TooFewSlots {
                slots: *slots,
                needed: *least,
            },
            TierError::Device { reason } => Self::GpuFailed {
                detail: reason.clone(),
            },
            TierError::Stopped => Self::Cancelled,
        }
    }
}

/// How a generation failed: as data, and in the words of the command line.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure, with its names and numbers.
    pub problem: EngineProblem,
    /// One line: what happened.
    pub message: String,
    /// What to do about it, where the message alone does not tell.
    pub hint: Option<String>,
}

impl From<&EngineError> for Failure {
    fn from(error: &EngineError) -> Self {
        Self {
            problem: error.into(),
            message: error.to_string(),
            hint: error.hint().map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::plan::PlanError;
    use crate::prompt::Role;
    use crate::spec::Feature;

    fn data(error: impl Into<EngineError>) -> serde_json::Value {
        serde_json::to_value(EngineProblem::from(&error.into())).unwrap()
    }

    #[test]
    fn every_error_is_a_kind_with_its_names_and_numbers() {
        let path = || PathBuf::from("m/config.json");
        let io = || std::io::Error::other("device not ready");
        let cases = [
            (
                data(CheckpointError::NotACheckpoint {
                    dir: "m".into(),
                    why: "no config.json".to_owned(),
                }),
                json!({"kind": "notAModel", "path": "m", "detail": "no config.json"}),
            ),
            (
                data(CheckpointError::Gone { path: path() }),
                json!({"kind": "modelFileMissing", "path": "m/config.json"}),
            ),
            (
                data(CheckpointError::Io {
                    action: "read",
                    path: path(),
                    source: io(),
                }),
                json!({
                    "kind": "modelFileUnreadable",
                    "path": "m/config.json",
                    "detail": "device not ready",
                }),
            ),
            (
                data(CheckpointError::Changed {
                    path: path(),
                    expected_bytes: 1,
                    found_bytes: 2,
                }),
                json!({"kind": "modelChanged", "path": "m/config.json"}),
            ),
            (
                data(CheckpointError::NotAFile { path: path() }),
                json!({"kind": "checkpoint", "detail": "m/config.json is not a regular file"}),
            ),
            (
                data(PlanError::BadSizes {
                    field: "vocab",
                    value: 0,
                }),
                json!({"kind": "plan", "detail": "model sizes make no sense: vocab is 0"}),
            ),
            (
                data(EngineError::Unsupported {
                    feature: Feature::QkNorm,
                }),
                json!({"kind": "unsupported", "detail": "norms of queries and keys"}),
            ),
            (
                data(TokenizerError::Missing {
                    path: "m/tokenizer.json".into(),
                }),
                json!({"kind": "noTokenizer", "dir": "m"}),
            ),
            (
                data(TokenizerError::Encode {
                    text_bytes: 3,
                    message: "no merge".to_owned(),
                }),
                json!({"kind": "prompt", "detail": "no merge"}),
            ),
            (
                data(TokenizerError::Read {
                    path: "t".into(),
                    source: io(),
                }),
                json!({"kind": "tokenizer", "detail": "cannot read t: device not ready"}),
            ),
            (
                data(PromptError::SystemOnly),
                json!({"kind": "emptyConversation"}),
            ),
            (
                data(PromptError::RoleOrder {
                    index: 2,
                    found: Role::User,
                    expected: Role::Assistant,
                }),
                json!({"kind": "messageOrder", "position": 3}),
            ),
            (
                data(PromptError::Template {
                    path: "t".into(),
                    message: "line 3".to_owned(),
                }),
                json!({"kind": "templateBroken", "path": "t", "detail": "line 3"}),
            ),
            (
                data(PromptError::TemplateRefused {
                    path: "t".into(),
                    message: "no system text".to_owned(),
                }),
                json!({"kind": "templateRefused", "path": "t", "detail": "no system text"}),
            ),
            (
                data(PromptError::TemplateCannotContinue { index: 1 }),
                json!({"kind": "cannotContinue"}),
            ),
            (
                data(SamplingError::Parameter {
                    name: "min_p",
                    value: 2.0,
                    expected: "0 to 1",
                }),
                json!({"kind": "samplingRange", "name": "min_p", "value": 2.0}),
            ),
            (data(SamplingError::Empty), json!({"kind": "badOutput"})),
            (
                data(TierError::Fetch {
                    layer: 4,
                    expert: 7,
                    reason: "cut off".to_owned(),
                }),
                json!({"kind": "expertUnavailable", "layer": 4, "expert": 7, "detail": "cut off"}),
            ),
            (
                data(TierError::NoSlot { slots: 2, layer: 0 }),
                json!({"kind": "noExpertSlot", "slots": 2}),
            ),
            (
                data(EngineError::Device {
                    reason: "Xid 79".to_owned(),
                }),
                json!({"kind": "gpuFailed", "detail": "Xid 79"}),
            ),
            (
                data(EngineError::UnknownToken {
                    token: 9,
                    text: String::new(),
                    vocab_size: 8,
                }),
                json!({"kind": "unknownToken", "token": 9, "vocabSize": 8}),
            ),
            (
                data(EngineError::ContextFull {
                    capacity: 512,
                    wanted: 600,
                    enough: Some(1112),
                }),
                json!({"kind": "contextFull", "limit": 512, "needed": 600, "enough": 1112}),
            ),
            (
                data(EngineError::EmptyPrompt),
                json!({"kind": "emptyConversation"}),
            ),
            (
                data(EngineError::StopNeedsTokenizer {
                    dir: "m".to_owned(),
                }),
                json!({"kind": "noTokenizer", "dir": "m"}),
            ),
            (
                data(EngineError::TokenizerMismatch {
                    tokenizer: 259,
                    model: 32,
                }),
                json!({"kind": "tokenizerMismatch", "tokenizer": 259, "model": 32}),
            ),
            (
                data(EngineError::TooFewSlots { slots: 1, least: 3 }),
                json!({"kind": "tooFewSlots", "slots": 1, "needed": 3}),
            ),
            (data(EngineError::Cancelled), json!({"kind": "cancelled"})),
            (data(EngineError::Unloaded), json!({"kind": "unloaded"})),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_failure_keeps_the_words_of_the_command_line() {
        let failure = Failure::from(&EngineError::ContextFull {
            capacity: 512,
            wanted: 600,
            enough: Some(1112),
        });
        assert_eq!(
            failure.to_string(),
            "600 tokens do not fit the context of 512"
        );
        let hint = failure.hint.as_deref();
        assert_eq!(hint, Some("give --ctx 1112, or shorten the text"));
    }
}
