//! What a shell shows of models: plain data, ready to be sent to a page.
//!
//! Sizes are bytes, speeds bytes a second, times milliseconds since 1970 (UTC). In JSON all names
//! are camelCase; enums that carry data have their name in `kind`.

use std::fmt;
use std::path::PathBuf;

use octet_engine::checkpoint::{QuantSummary, WeightKind};
use octet_engine::plan::{Fit, PlanError, format_bytes};
use serde::{Deserialize, Serialize};

use crate::ModelsError;

/// Everything that changes by itself, as [`crate::Manager::watch`] gives it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct ModelsState {
    /// In the order in which they were asked for. One that completed is gone from here, and
    /// [`ModelsState::library_version`] has risen.
    pub downloads: Vec<Download>,
    /// Verifying, importing, moving: what has progress and is no download.
    pub tasks: Vec<Task>,
    /// Rises whenever [`crate::Manager::installed`] may answer something else.
    pub library_version: u32,
    /// Where models are and where they come from.
    pub settings: ModelsSettings,
}

/// A model on its way here.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Download {
    /// The repository, `owner/name`; there is one download of a repository at most.
    pub repo: String,
    /// What it is doing.
    pub state: DownloadState,
    /// Bytes that are on disk.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub done_bytes: u64,
    /// Bytes there will be; 0 until the repository was listed.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub total_bytes: u64,
    /// Files that are complete and checked.
    pub files_done: u32,
    /// Files there will be; 0 until the repository was listed.
    pub files: u32,
    /// Over the last seconds; 0 unless it is running.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub bytes_per_sec: f64,
    /// At that speed; none where there is no speed to tell from.
    pub seconds_left: Option<u32>,
    /// It replaces damaged files of a model that is installed.
    pub is_repair: bool,
}

/// What a download is doing.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum DownloadState {
    /// Others come first.
    Queued {
        /// How many.
        ahead: u32,
    },
    /// The repository is listed, and what is here already is looked at.
    Preparing,
    /// Bytes arrive.
    Running,
    /// Nothing has arrived for a while; connections are renewed by themselves.
    Stalled {
        /// For how long.
        seconds: u32,
    },
    /// Every transfer failed in a way that passes; it goes on by itself.
    Retrying {
        /// In this many seconds.
        in_seconds: u32,
        /// What happened.
        problem: ModelsError,
    },
    /// Stopped, with all that has arrived kept.
    Paused {
        /// Why.
        reason: PauseReason,
    },
    /// Ended by an error, with all that has arrived kept; resuming tries again.
    Failed {
        /// What happened.
        problem: ModelsError,
    },
}

/// Why a download is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum PauseReason {
    /// By [`crate::Manager::pause`].
    Asked,
    /// The program ended in the middle of it.
    Interrupted,
}

/// Work on models that is under way.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// For [`crate::Manager::cancel_task`].
    pub id: u32,
    /// What is done.
    pub kind: TaskKind,
    /// Id of the model; none where it is about all of them.
    pub model: Option<String>,
    /// Bytes done.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub done_bytes: u64,
    /// Bytes to do.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub total_bytes: u64,
    /// Over the last seconds.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub bytes_per_sec: f64,
    /// At that speed.
    pub seconds_left: Option<u32>,
}

/// The kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum TaskKind {
    /// Every byte is read and compared.
    Verify,
    /// A folder is copied in.
    Import,
    /// The models folder goes elsewhere.
    Move,
}

/// A model that can be had.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// `owner/name`.
    pub repo: String,
    /// For people.
    pub title: String,
    /// A sentence or two; empty for a repository that is not in the catalogue.
    pub about: String,
    /// As the hub names it (`apache-2.0`).
    pub license: Option<String>,
    /// Its page on the hub, for the system's browser.
    pub page: String,
    /// What is downloaded, tokenizer included.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub size_bytes: u64,
    /// Files of that.
    pub files: u32,
    /// How its weights are stored; none where only its files would tell.
    pub quantization: Option<Quantization>,
    /// Repositories that the tokenizer is looked for in, in this order.
    pub tokenizer_from: Vec<String>,
    /// How it would run here.
    pub fit: FitView,
    /// Whether there is room.
    pub disk: DiskNeed,
    /// What there is of it already.
    pub status: OfferStatus,
    /// The one of the catalogue that suits this machine best.
    pub is_recommended: bool,
    /// What it is beside the model of the catalogue that comes nearest to it.
    pub compared: Option<Comparison>,
}

/// A model beside another that differs in its bits alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The other one's title.
    pub to: String,
    /// It answers better, and takes more; otherwise the other way round.
    pub is_better: bool,
    /// By how much they differ, in memory as on disk.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub bytes: u64,
}

/// What there is of an offered model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum OfferStatus {
    /// Nothing.
    Available,
    /// A download: see [`ModelsState::downloads`].
    Downloading,
    /// All of it.
    Installed,
    /// It is installed, and damaged.
    Damaged,
}

/// How a model would run on this machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct FitView {
    /// How well it fits; none where no plan can be made.
    pub badge: Option<Fit>,
    /// Why it does not fit, or why no plan can be made; none where it fits.
    pub problem: Option<PlanError>,
    /// Experts a layer that the plan keeps on the GPU; none on the CPU.
    pub experts_on_gpu: Option<f64>,
    /// Experts that it keeps in RAM; 0 where it has no plan.
    pub experts_in_ram: u32,
    /// Experts there are.
    pub total_experts: u32,
    /// RAM that the plan takes, or would need at least.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub ram_bytes: u64,
    /// VRAM that the plan takes; none on the CPU.
    #[cfg_attr(feature = "specta", specta(type = Option<u32>))]
    pub vram_bytes: Option<u64>,
}

/// Room on the disk that holds the models folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct DiskNeed {
    /// Bytes still to be written.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub needed_bytes: u64,
    /// Bytes that may be written; none where the system does not say.
    #[cfg_attr(feature = "specta", specta(type = Option<u32>))]
    pub free_bytes: Option<u64>,
    /// Whether the one is enough for the other and what is kept free for the system.
    pub is_enough: bool,
}

/// A model that is here.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct InstalledModel {
    /// For all that is done with it. The repository, or the folder of a linked one.
    pub id: String,
    /// For people.
    pub name: String,
    /// How it came here.
    pub source: ModelSource,
    /// The folder to load.
    pub path: PathBuf,
    /// What deleting it frees; 0 for a linked one.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub size_bytes: u64,
    /// When it was completed, in milliseconds since 1970.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub installed_at_ms: u64,
    /// Its shape; none where the files cannot be read.
    pub shape: Option<ShapeView>,
    /// A `tokenizer.json` lies beside it.
    pub has_tokenizer: bool,
    /// What is wrong with it, if anything.
    pub health: Health,
    /// How it would run here; none where the files cannot be read.
    pub fit: Option<FitView>,
    /// Somebody runs it: it cannot be deleted, repaired or moved.
    pub is_in_use: bool,
}

/// How a model came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum ModelSource {
    /// Downloaded, by Octet or another program that shares the folder.
    Hub,
    /// Copied from a folder.
    Imported,
    /// A folder that stays where it is; deleting forgets it and touches no file.
    Linked,
}

/// A model's shape, as its files tell it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct ShapeView {
    /// Layers.
    pub layers: u32,
    /// Experts a layer.
    pub experts: u32,
    /// Experts that a token uses in each layer.
    pub experts_per_token: u32,
    /// The longest context it was made for, in tokens.
    pub max_context: u32,
    /// How its weights are stored.
    pub quantization: Quantization,
}

/// How the weights of a model are stored; of each part, the format of most bytes first.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Quantization {
    /// The experts' matrices.
    pub experts: Vec<WeightFormat>,
    /// The attention projections.
    pub attention: Vec<WeightFormat>,
}

/// How matrices are stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum WeightFormat {
    /// HQQ: integers with a scale and a zero for each group.
    Hqq {
        /// Bits a weight, scales not counted.
        bits: u32,
        /// Weights that share a scale and a zero; none where that is not known.
        group_size: Option<u32>,
        /// Scales that share a meta scale; none where scales are f16, or that is not known.
        scale_group_size: Option<u32>,
    },
    /// A block type of GGUF.
    Gguf {
        /// Its name, as in `Q4_K`.
        name: String,
        /// Bits a weight, scales included.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        bits: f64,
        /// Bytes of the matrices stored so.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        bytes: u64,
    },
}

impl WeightFormat {
    /// HQQ as far as a catalogue knows it.
    pub fn hqq(bits: u32, group_size: Option<u32>) -> Self {
        Self::Hqq {
            bits,
            group_size,
            scale_group_size: None,
        }
    }
}

impl From<&QuantSummary> for Quantization {
    fn from(summary: &QuantSummary) -> Self {
        Self {
            experts: summary.experts.iter().map(WeightFormat::from).collect(),
            attention: summary.attention.iter().map(WeightFormat::from).collect(),
        }
    }
}

impl From<&WeightKind> for WeightFormat {
    fn from(kind: &WeightKind) -> Self {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        match kind {
            WeightKind::Hqq(kind) => Self::Hqq {
                bits: kind.bits,
                group_size: Some(count(kind.group_size)),
                scale_group_size: kind.scale_group_size.map(count),
            },
            WeightKind::Blocks(kind) => Self::Gguf {
                name: kind.name.to_owned(),
                bits: kind.bits,
                bytes: kind.bytes,
            },
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hqq {
                bits,
                group_size,
                scale_group_size,
            } => {
                write!(f, "{bits} bits")?;
                if let Some(group) = group_size {
                    write!(f, " in groups of {group}")?;
                }
                match scale_group_size {
                    Some(group) => write!(f, ", 8-bit scales in groups of {group}"),
                    None => f.write_str(", f16 scales"),
                }
            }
            Self::Gguf { name, bits, bytes } => {
                write!(
                    f,
                    "{name}, {bits:.2} bits a weight, {}",
                    format_bytes(*bytes)
                )
            }
        }
    }
}

/// What is wrong with an installed model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Health {
    /// Nothing that headers and sizes would show.
    Good {
        /// When every byte was last compared, in milliseconds since 1970; at download or since.
        #[cfg_attr(feature = "specta", specta(type = Option<u32>))]
        verified_at_ms: Option<u64>,
    },
    /// It cannot be loaded, or would give wrong answers.
    Damaged {
        /// What is wrong.
        damage: ModelDamage,
        /// Files that are missing, cut off or different; may be empty where that is not known.
        files: Vec<BadFile>,
        /// Whether [`crate::Manager::repair`] can download them again.
        can_repair: bool,
    },
}

/// What makes a model unusable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum ModelDamage {
    /// A linked folder or file is not there.
    Gone,
    /// Some files are not as they should be.
    Files,
    /// The engine refuses it.
    Refused {
        /// Why.
        detail: String,
    },
}

impl Health {
    /// What is wrong, in a sentence; none where nothing is.
    pub fn message(&self) -> Option<String> {
        let Self::Damaged { damage, files, .. } = self else {
            return None;
        };
        Some(match (damage, &files[..]) {
            (ModelDamage::Gone, _) => "It is gone: was it moved or its drive removed?".to_owned(),
            (ModelDamage::Refused { detail }, _) => format!("{detail}."),
            (ModelDamage::Files, []) => String::new(),
            (ModelDamage::Files, [first, rest @ ..]) => {
                let more = match rest.len() {
                    0 => String::new(),
                    1 => ", and 1 more file is not as it should be".to_owned(),
                    more => format!(", and {more} more files are damaged"),
                };
                format!("{} {}{more}.", first.file, first.fault)
            }
        })
    }
}

/// What verifying found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// The model.
    pub model: String,
    /// Files compared.
    pub files: u32,
    /// Bytes compared.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub bytes: u64,
    /// Files that are not as they were published; empty: all is well.
    pub bad: Vec<BadFile>,
    /// Files of which no hash is known, so that only the engine's checks were made.
    pub unknown: u32,
}

/// A file that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct BadFile {
    /// Its name in the model.
    pub file: String,
    /// What is wrong with it.
    pub fault: FileFault,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum FileFault {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// A folder, pipe or device is in its place.
    #[error("is no file")]
    NotAFile,
    /// It is shorter or longer than what was published.
    #[error("has {found} bytes instead of {expected}")]
    Size {
        /// Its bytes.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        found: u64,
        /// The bytes it should have.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        expected: u64,
    },
    /// Its bytes are others than those that were published.
    #[error("has other bytes than were published (hash {found}, not {expected})")]
    Content {
        /// The beginning of its hash.
        found: String,
        /// That of the published one.
        expected: String,
    },
    /// The system refuses to read it.
    #[error("cannot be read ({detail})")]
    Unreadable {
        /// What the system says.
        detail: String,
    },
    /// The engine refuses it, or an earlier version of Octet found fault with it.
    #[error("{detail}")]
    Refused {
        /// Why.
        detail: String,
    },
}

/// What deleting did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// The model.
    pub model: String,
    /// Bytes that are free now; 0 for a linked folder.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub freed_bytes: u64,
}

/// Where models are and where they come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct ModelsSettings {
    /// The models folder.
    pub folder: PathBuf,
    /// Why it is this one.
    pub folder_from: FolderFrom,
    /// The hub, or a mirror of it.
    pub endpoint: String,
    /// Who says so.
    pub endpoint_from: SettingFrom,
    /// Where the access token is; none: there is none.
    pub token: Option<TokenPlace>,
    /// Why the token is not in the keyring, where it is not and could have been expected to be.
    pub token_note: Option<TokenNote>,
}

/// What to know about where the access token is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum TokenNote {
    /// One was kept in the keyring and did not come back.
    #[error("The access token could not be read from the keyring: {problem}.")]
    NotRead {
        /// Why.
        problem: KeyringProblem,
    },
    /// It is gone when the program ends.
    #[error("The access token is kept until Octet closes, and not in a keyring: {problem}.")]
    NotKept {
        /// Why.
        problem: KeyringProblem,
    },
}

/// Why the system's keyring did not serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum KeyringProblem {
    /// There is none.
    #[error("no keyring is available")]
    None,
    /// The person did not unlock it, or its program hangs.
    #[error("it is locked, or does not answer")]
    Silent,
    /// The library that talks to it ended.
    #[error("its library failed")]
    Broken,
    /// It reports an error.
    #[error("{detail}")]
    Failed {
        /// What it says.
        detail: String,
    },
}

/// Why the models folder is where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum FolderFrom {
    /// Chosen by the person.
    Chosen,
    /// The Hugging Face cache, shared with other programs.
    HubCache,
    /// Octet's own, for there is no Hugging Face cache.
    Own,
}

/// Who determined a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum SettingFrom {
    /// The person, in Octet.
    Chosen,
    /// An environment variable.
    Environment,
    /// Nobody.
    Default,
}

/// Where an access token is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum TokenPlace {
    /// The environment variable `HF_TOKEN`.
    Environment,
    /// The system's keyring.
    Keyring,
    /// Memory, until the program ends: there is no keyring.
    Session,
    /// The file that Hugging Face's own tools keep.
    HubFile,
}
