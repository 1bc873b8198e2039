//! The models there are: the demo, and what is in the library.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use octet_engine::checkpoint::{Checkpoint, WeightKind};
use octet_engine::plan::PlanRequest;
use octet_models::{Health, InstalledModel, Manager, ModelSource, ShapeView};
use serde::Serialize;
use specta::Type;

use crate::error::{ApiError, Result};
use crate::task::blocking;

/// The demo's id; no model of the library has it.
pub const DEMO: &str = "demo";

/// A model as the page lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct ModelEntry {
    /// [`DEMO`], or that of the library.
    pub id: String,
    /// For people.
    pub name: String,
    /// Where it comes from.
    pub kind: ModelKind,
    /// Its folder.
    pub path: String,
    /// Its files together.
    #[specta(type = u32)]
    pub size_bytes: u64,
    /// What deleting it frees.
    #[specta(type = u32)]
    pub frees_bytes: u64,
    /// When it was completed, in milliseconds since 1970; none for the demo.
    #[specta(type = Option<u32>)]
    pub installed_at_ms: Option<u64>,
    /// Layers; 0 where the files cannot be read.
    pub n_layers: u32,
    /// Experts a layer.
    pub n_experts: u32,
    /// In words, as found in the files.
    pub expert_quantization: String,
    /// In words, as found in the files.
    pub attention_quantization: String,
    /// The longest context it was made for, in tokens.
    pub max_context: u32,
    /// A tokenizer lies beside it.
    pub has_tokenizer: bool,
    /// What is wrong with it, if anything.
    pub health: Health,
    /// It is loaded, here or by another program.
    pub is_in_use: bool,
}

/// Where a model comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum ModelKind {
    /// It ships with the app.
    Demo,
    /// Downloaded.
    Hub,
    /// Copied from a folder.
    Imported,
    /// A folder of the user's, used where it is.
    Linked,
}

/// Gives the demo's folder, unpacking it on first use.
pub type DemoSource = dyn Fn() -> Result<PathBuf> + Send + Sync;

/// The models there are.
pub struct ModelList {
    library: Result<Manager>,
    demo: Arc<DemoSource>,
}

impl ModelList {
    /// The demo and what `library` holds. Where it could not be opened there is the demo.
    pub fn new(library: octet_models::Result<Manager>, demo: Box<DemoSource>) -> Self {
        let library = library
            .inspect_err(|error| tracing::error!(%error, "the library cannot be opened"))
            .map_err(ApiError::from);
        let demo = Arc::from(demo);
        Self { library, demo }
    }

    /// Downloads, the catalogue and what is installed.
    ///
    /// # Errors
    /// Why it could not be opened.
    pub fn library(&self) -> Result<&Manager> {
        self.library.as_ref().map_err(ApiError::clone)
    }

    /// All of them, the demo first. Opens each; some milliseconds a model.
    ///
    /// # Errors
    /// Where the library cannot be read.
    pub async fn list(&self) -> Result<Vec<ModelEntry>> {
        let installed = match &self.library {
            // How they fit is planned model by model, with the settings of the moment.
            Ok(library) => library.installed(&PlanRequest::default()).await?,
            Err(_) => Vec::new(),
        };
        let demo = Arc::clone(&self.demo);
        let list = move || {
            let mut entries = vec![demo_entry(&*demo)];
            entries.extend(installed.into_iter().map(ModelEntry::from));
            Ok(entries)
        };
        blocking(list).await
    }

    /// One of them.
    ///
    /// # Errors
    /// [`crate::error::ErrorCode::NotFound`].
    pub async fn entry(&self, id: &str) -> Result<ModelEntry> {
        if id == DEMO {
            let demo = Arc::clone(&self.demo);
            return blocking(move || Ok(demo_entry(&*demo))).await;
        }
        let entries = self.list().await?;
        let found = entries.into_iter().find(|entry| entry.id == id);
        found.ok_or_else(|| ApiError::no_model(id))
    }

    /// Its folder.
    ///
    /// # Errors
    /// [`crate::error::ErrorCode::NotFound`], or that the demo cannot be unpacked.
    pub fn dir(&self, id: &str) -> Result<PathBuf> {
        match id {
            DEMO => (self.demo)(),
            _ => Ok(self.library()?.folder_of(id)?),
        }
    }
}

impl From<InstalledModel> for ModelEntry {
    fn from(model: InstalledModel) -> Self {
        // Deleting a linked folder frees nothing: its size has to be asked for.
        let size_bytes = match model.source {
            ModelSource::Linked => {
                Checkpoint::open(&model.path).map_or(0, |checkpoint| checkpoint.files().bytes)
            }
            _ => model.size_bytes,
        };
        let shape = model.shape.unwrap_or_else(|| ShapeView {
            layers: 0,
            experts: 0,
            experts_per_token: 0,
            max_context: 0,
            expert_quantization: String::new(),
            attention_quantization: String::new(),
        });
        Self {
            id: model.id,
            name: model.name,
            kind: match model.source {
                ModelSource::Hub => ModelKind::Hub,
                ModelSource::Imported => ModelKind::Imported,
                ModelSource::Linked => ModelKind::Linked,
            },
            path: model.path.display().to_string(),
            size_bytes,
            frees_bytes: model.size_bytes,
            // Nobody knows when a linked folder came that is gone.
            installed_at_ms: Some(model.installed_at_ms).filter(|ms| *ms > 0),
            n_layers: shape.layers,
            n_experts: shape.experts,
            expert_quantization: shape.expert_quantization,
            attention_quantization: shape.attention_quantization,
            max_context: shape.max_context,
            has_tokenizer: model.has_tokenizer,
            health: model.health,
            is_in_use: model.is_in_use,
        }
    }
}

/// The most frequent kind, as the library words it.
fn in_words(kinds: &[WeightKind]) -> String {
    kinds.first().map(ToString::to_string).unwrap_or_default()
}

fn demo_entry(demo: &DemoSource) -> ModelEntry {
    let faulty = |message: String, path: &Path| ModelEntry {
        id: DEMO.to_owned(),
        name: octet_demo::NAME.to_owned(),
        kind: ModelKind::Demo,
        path: path.display().to_string(),
        size_bytes: 0,
        frees_bytes: 0,
        installed_at_ms: None,
        n_layers: 0,
        n_experts: 0,
        expert_quantization: String::new(),
        attention_quantization: String::new(),
        max_context: 0,
        has_tokenizer: false,
        health: Health::Damaged {
            message,
            files: Vec::new(),
            can_repair: false,
        },
        is_in_use: false,
    };
    let path = match demo() {
        Ok(path) => path,
        Err(error) => return faulty(error.message, Path::new("")),
    };
    match Checkpoint::open(&path) {
        Err(error) => faulty(crate::error::sentence(&error.to_string()), &path),
        Ok(checkpoint) => {
            let c = checkpoint.spec();
            let kinds = checkpoint.quant_summary();
            ModelEntry {
                size_bytes: checkpoint.files().bytes,
                n_layers: c.n_layers as u32,
                n_experts: c.n_experts as u32,
                expert_quantization: in_words(&kinds.experts),
                attention_quantization: in_words(&kinds.attention),
                max_context: c.max_positions as u32,
                has_tokenizer: true,
                health: Health::Good {
                    verified_at_ms: None,
                },
                ..faulty(String::new(), &path)
            }
        }
    }
}
