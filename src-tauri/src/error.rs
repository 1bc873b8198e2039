//! What every command rejects with: a code to branch on, what happened, and the next step.

use octet_engine::EngineError;
use octet_engine::plan::PlanError;
use octet_models::{ModelsError, Problem, ProblemCode};
use octet_store::StoreError;
use serde::Serialize;
use specta::Type;

/// With [`ApiError`] unless said otherwise.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// A failure as the page shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Type, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub struct ApiError {
    /// What the page may branch on.
    pub code: ErrorCode,
    /// What happened, with numbers and names.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Why the model does not fit, which the page puts into words itself.
    pub plan: Option<PlanError>,
}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum ErrorCode {
    /// The model folder is missing, damaged or foreign.
    Checkpoint,
    /// Too little memory.
    Memory,
    /// The tokenizer is missing or damaged.
    Tokenizer,
    /// The messages make no prompt.
    Prompt,
    /// Bad sampling settings, or a model whose output is no numbers.
    Sampling,
    /// The engine failed.
    Engine,
    /// The GPU failed; the model goes on on the CPU.
    Gpu,
    /// The text does not fit the context.
    ContextFull,
    /// Stopped on request.
    Cancelled,
    /// No model is loaded.
    NotLoaded,
    /// The chat is being answered already.
    Busy,
    /// No such chat, message or model.
    NotFound,
    /// An argument that makes no sense.
    Invalid,
    /// The file system refused.
    Io,
    /// No room on the disk.
    DiskFull,
    /// The database of the chats is damaged.
    StoreDamaged,
    /// Another program holds the database.
    StoreLocked,
    /// A newer version wrote the database.
    StoreNewer,
    /// A file that cannot be imported.
    Import,
    /// Terms have to be accepted on the hub first.
    Gated,
    /// No such repository, or it is private.
    Missing,
    /// The access token is wrong or not allowed.
    Token,
    /// The hub cannot be reached.
    Network,
    /// The connection is not trusted.
    Tls,
    /// What arrived is not what was published.
    Checksum,
    /// Too many requests.
    RateLimited,
    /// The hub failed.
    Hub,
    /// No model that Octet runs.
    Foreign,
    /// The model or its folder is in use.
    InUse,
    /// A fault of this program.
    Internal,
}

impl ApiError {
    /// An error without a next step.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: sentence(&message.into()),
            hint: None,
            plan: None,
        }
    }

    /// With the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(sentence(&hint.into()));
        self
    }

    /// No model is loaded.
    pub fn not_loaded() -> Self {
        Self::new(ErrorCode::NotLoaded, "No model is loaded.")
            .hint("Load a model under Models, then send the message again.")
    }

    /// No model of this id.
    pub fn no_model(id: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("There is no model {id:?}."))
            .hint("Choose a model under Models.")
    }

    /// Something that ended before it should have.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, what)
            .hint("Restart Octet. If the problem persists, copy the diagnostics under Settings and report it.")
    }

    /// A file or folder that could not be read or written.
    pub fn io(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::StorageFull => ErrorCode::DiskFull,
            std::io::ErrorKind::NotFound => ErrorCode::NotFound,
            _ => ErrorCode::Io,
        };
        let hint = match code {
            ErrorCode::DiskFull => "Free some space on the disk, then try again.",
            _ => "Check that the folder exists and can be written to.",
        };
        let path = path.display();
        Self::new(code, format!("Could not {what} {path}: {error}.")).hint(hint)
    }

    /// What the engine reported in an event: its code ([`EngineError::code`]) and message.
    pub fn from_event(code: &str, message: &str) -> Self {
        let (code, hint) = match code {
            "checkpoint" => (
                ErrorCode::Checkpoint,
                "Choose a folder with a model in the offloading format, or download the model again.",
            ),
            "memory" => (
                ErrorCode::Memory,
                "Lower the context length, then load again.",
            ),
            "tokenizer" => (
                ErrorCode::Tokenizer,
                "Put the model's tokenizer.json into its folder, then load it again.",
            ),
            "prompt" => (ErrorCode::Prompt, "Edit the message, or start a new chat."),
            "sampling" => (
                ErrorCode::Sampling,
                "Reset the sampling settings, then try again.",
            ),
            "context_full" => (
                ErrorCode::ContextFull,
                "Shorten the message, or start a new chat.",
            ),
            "device" => (
                ErrorCode::Gpu,
                "Ask again and the CPU answers. Reload the model to use the GPU again.",
            ),
            "cancelled" => (ErrorCode::Cancelled, "Try again whenever you like."),
            _ => (
                ErrorCode::Engine,
                "Reload the model. If that fails too, check the disk it is on.",
            ),
        };
        Self::new(code, message).hint(hint)
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Plan(error) => error.into(),
            other => Self::from_event(other.code(), &other.to_string()),
        }
    }
}

impl From<octet_engine::checkpoint::CheckpointError> for ApiError {
    fn from(error: octet_engine::checkpoint::CheckpointError) -> Self {
        EngineError::Checkpoint(error).into()
    }
}

impl From<PlanError> for ApiError {
    fn from(error: PlanError) -> Self {
        let code = match &error {
            PlanError::OutOfRange { .. } | PlanError::Contradiction { .. } => ErrorCode::Invalid,
            PlanError::BadSizes { .. } | PlanError::NoGpu { .. } | PlanError::TooBig(_) => {
                ErrorCode::Memory
            }
        };
        Self {
            plan: Some(error.clone()),
            ..Self::new(code, error.to_string())
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let (code, hint) = match error.code() {
            "storeDamaged" => (
                ErrorCode::StoreDamaged,
                "Restart Octet: it keeps the damaged file and recovers what can be read.",
            ),
            "storeLocked" => (
                ErrorCode::StoreLocked,
                "Close the program that is using the chats, then try again.",
            ),
            "storeNewer" => (ErrorCode::StoreNewer, "Update Octet."),
            "diskFull" => (
                ErrorCode::DiskFull,
                "Free some space on the disk, then try again.",
            ),
            "io" => (
                ErrorCode::Io,
                "Check that the folder exists and can be written to.",
            ),
            "notFound" => (
                ErrorCode::NotFound,
                "Choose another chat; this one may have been deleted.",
            ),
            "invalid" => (ErrorCode::Invalid, "Correct it, then try again."),
            "import" => (
                ErrorCode::Import,
                "Octet imports its own exports, .json or .md. Nothing was imported.",
            ),
            _ => return Self::internal(error.to_string()),
        };
        Self::new(code, error.to_string()).hint(hint)
    }
}

impl From<ModelsError> for ApiError {
    fn from(error: ModelsError) -> Self {
        let Problem {
            code,
            message,
            hint,
        } = error.problem();
        let code = match code {
            ProblemCode::Gated => ErrorCode::Gated,
            ProblemCode::Missing => ErrorCode::Missing,
            ProblemCode::Token => ErrorCode::Token,
            ProblemCode::Network => ErrorCode::Network,
            ProblemCode::Tls => ErrorCode::Tls,
            ProblemCode::DiskFull => ErrorCode::DiskFull,
            ProblemCode::Checksum => ErrorCode::Checksum,
            ProblemCode::RateLimited => ErrorCode::RateLimited,
            ProblemCode::Hub => ErrorCode::Hub,
            ProblemCode::Foreign => ErrorCode::Foreign,
            ProblemCode::Tokenizer => ErrorCode::Tokenizer,
            ProblemCode::InUse => ErrorCode::InUse,
            ProblemCode::NotFound => ErrorCode::NotFound,
            ProblemCode::Invalid => ErrorCode::Invalid,
            ProblemCode::Io => ErrorCode::Io,
            ProblemCode::Cancelled => ErrorCode::Cancelled,
        };
        // Sentences already, which keep the case of names.
        Self {
            code,
            message,
            hint: Some(hint),
            plan: None,
        }
    }
}

/// `text` with a capital at its beginning and a full stop at its end.
pub(crate) fn sentence(text: &str) -> String {
    let text = text.trim();
    // A path or an identifier stays as it is.
    let first_word = text.split_whitespace().next().unwrap_or_default();
    let plain = first_word.chars().all(char::is_alphabetic);
    let mut characters = text.chars();
    let mut sentence = match characters.next() {
        Some(first) if plain => first.to_uppercase().chain(characters).collect(),
        _ => text.to_owned(),
    };
    if !sentence.is_empty() && !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use octet_engine::plan::{Memory, Remedy, Shortage};

    use super::*;

    #[test]
    fn every_engine_error_names_a_next_step_in_the_words_of_the_settings() {
        let errors: [EngineError; 5] = [
            EngineError::NoTokenizer { dir: "m".into() },
            EngineError::ContextFull {
                capacity: 512,
                wanted: 600,
                enough: Some(1112),
            },
            EngineError::Unloaded,
            EngineError::TooFewSlots { slots: 1, least: 3 },
            EngineError::Cancelled,
        ];
        for error in errors {
            let error = ApiError::from(error);
            assert!(error.hint.is_some(), "{error:?}");
            let text = format!("{} {:?}", error.message, error.hint);
            assert!(!text.contains("--"), "{text}");
            assert!(error.message.ends_with('.'), "{text}");
        }
    }

    #[test]
    fn too_little_memory_says_how_much_and_what_to_do() {
        let shortage = Shortage {
            memory: Memory::Ram,
            needed_bytes: 20_000_000_000,
            limit_bytes: 8_000_000_000,
            remedies: vec![
                Remedy::LowerCtx { tokens: 4096 },
                Remedy::RaiseRam {
                    bytes: 12_000_000_000,
                },
            ],
        };
        let plan = PlanError::TooBig(shortage);
        let error = ApiError::from(EngineError::Plan(plan.clone()));
        assert_eq!(error.code, ErrorCode::Memory);
        assert!(error.message.contains("20.0 GB of RAM") && error.message.contains("12.0 GB more"));
        assert_eq!(error.plan, Some(plan));
        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(json["plan"]["kind"], "tooBig");
        assert_eq!(json["plan"]["neededBytes"], 20_000_000_000_u64);
        assert_eq!(json["plan"]["remedies"][0]["kind"], "lowerCtx");
        assert_eq!(json["plan"]["remedies"][0]["tokens"], 4096);
    }

    #[test]
    fn sentences_begin_and_end_like_sentences() {
        assert_eq!(sentence("cancelled"), "Cancelled.");
        assert_eq!(sentence("/models/x has no file"), "/models/x has no file.");
        assert_eq!(sentence("Done."), "Done.");
        assert_eq!(sentence(""), "");
    }

    #[test]
    fn codes_are_the_ones_the_page_knows() {
        let code = serde_json::to_string(&ErrorCode::ContextFull).unwrap();
        assert_eq!(code, "\"contextFull\"");
        assert_eq!(
            ApiError::from_event("context_full", "x").code,
            ErrorCode::ContextFull
        );
        assert_eq!(
            ApiError::from_event("anything", "x").code,
            ErrorCode::Engine
        );
    }
}
