//! What every command rejects with: which kind of failure, with its names and numbers. The page
//! puts it into words.

use std::fmt;

use octet_engine::checkpoint::CheckpointError;
use octet_engine::plan::PlanError;
use octet_engine::{EngineError, EngineProblem};
use octet_models::ModelsError;
use octet_store::{StoreError, StoreProblem};
use serde::Serialize;
use specta::Type;

use crate::links::LinkFault;

/// With [`ApiError`] unless said otherwise.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// A failure. For the page, one union: every kind has a name of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Type)]
#[serde(untagged)]
pub enum ApiError {
    /// Of loading or answering.
    Engine(EngineProblem),
    /// Of the memory plan.
    Plan(PlanError),
    /// Of chats and settings.
    Store(StoreProblem),
    /// Of downloads and the library of models.
    Models(ModelsError),
    /// Of the app itself.
    App(AppProblem),
}

/// What the app itself refuses, or fails at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum AppProblem {
    /// No model is loaded.
    NotLoaded,
    /// There is no such model.
    UnknownModel {
        /// The id that was asked for.
        id: String,
    },
    /// The chat is being answered already.
    ChatBusy,
    /// An answer is being written, in whatever chat.
    AnswerBusy,
    /// There is nothing in the message.
    EmptyMessage,
    /// The message is of another chat, or of the other side.
    WrongMessage,
    /// The person chose another folder, or none.
    FolderNotPicked {
        /// The folder that was named.
        path: String,
    },
    /// The person did not drop this file.
    FileNotDropped {
        /// The file that was named.
        path: String,
    },
    /// A link that may not leave the app.
    LinkRefused {
        /// What is wrong with it.
        fault: LinkFault,
    },
    /// The file is no backup of these chats.
    NotABackup {
        /// The file.
        path: String,
    },
    /// The chats are being restored.
    Restoring,
    /// The system did not open a link, file or folder.
    NotOpened {
        /// Which.
        what: String,
        /// What the system says.
        detail: String,
    },
    /// A folder of the app's own could not be created.
    FolderNotCreated {
        /// The folder.
        path: String,
        /// What the system says.
        detail: String,
    },
    /// The demo model could not be unpacked.
    DemoUnusable {
        /// Why not.
        detail: String,
    },
    /// A fault of this program.
    Internal {
        /// What ended early.
        detail: String,
    },
}

impl ApiError {
    /// Something that ended before it should have.
    pub fn internal(what: impl Into<String>) -> Self {
        AppProblem::Internal {
            detail: what.into(),
        }
        .into()
    }
}

/// For logs and diagnostics.
impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(problem) => write!(f, "{problem:?}"),
            Self::Plan(problem) => write!(f, "{problem:?}"),
            Self::Store(problem) => write!(f, "{problem:?}"),
            Self::Models(problem) => write!(f, "{problem:?}"),
            Self::App(problem) => write!(f, "{problem:?}"),
        }
    }
}

impl std::error::Error for ApiError {}

impl From<AppProblem> for ApiError {
    fn from(problem: AppProblem) -> Self {
        Self::App(problem)
    }
}

impl From<EngineProblem> for ApiError {
    fn from(problem: EngineProblem) -> Self {
        Self::Engine(problem)
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Plan(error) => error.into(),
            other => Self::Engine((&other).into()),
        }
    }
}

impl From<CheckpointError> for ApiError {
    fn from(error: CheckpointError) -> Self {
        Self::Engine((&error).into())
    }
}

impl From<PlanError> for ApiError {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Store((&error).into())
    }
}

impl From<ModelsError> for ApiError {
    fn from(error: ModelsError) -> Self {
        Self::Models(error)
    }
}

#[cfg(test)]
mod tests {
    use octet_engine::plan::{Memory, Remedy, Shortage};
    use serde_json::{Value, json};

    use super::*;

    fn data(error: impl Into<ApiError>) -> Value {
        serde_json::to_value(error.into()).unwrap()
    }

    #[test]
    fn errors_of_every_crate_reach_the_page_as_one_union() {
        let cases = [
            (
                data(EngineError::ContextFull {
                    capacity: 512,
                    wanted: 600,
                    enough: None,
                }),
                json!({"kind": "contextFull", "limit": 512, "needed": 600, "enough": null}),
            ),
            (
                data(EngineError::Plan(PlanError::TooBig(Shortage {
                    memory: Memory::Ram,
                    needed_bytes: 20_000_000_000,
                    limit_bytes: 8_000_000_000,
                    remedies: vec![Remedy::LowerCtx { tokens: 4096 }],
                }))),
                json!({
                    "kind": "tooBig",
                    "memory": "ram",
                    "neededBytes": 20_000_000_000_u64,
                    "limitBytes": 8_000_000_000_u64,
                    "remedies": [{"kind": "lowerCtx", "tokens": 4096}],
                }),
            ),
            (
                data(StoreError::DiskFull {
                    path: "chats.db".into(),
                    size_bytes: 7,
                }),
                json!({"kind": "storeDiskFull", "path": "chats.db"}),
            ),
            (
                data(ModelsError::Gated {
                    repo: "ada/m".to_owned(),
                    with_token: true,
                }),
                json!({"kind": "gated", "repo": "ada/m", "withToken": true}),
            ),
            (
                data(AppProblem::UnknownModel { id: "x".to_owned() }),
                json!({"kind": "unknownModel", "id": "x"}),
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }
}
