//! The models there are: the demo, and what is in the library.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use octet_engine::checkpoint::Checkpoint;
use octet_engine::plan::PlanRequest;
use octet_models::{Health, InstalledModel, Manager, ModelDamage, ModelSource, Quantization};
use serde::Serialize;
use specta::Type;

use crate::error::{ApiError, AppProblem, Result};
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
    /// How its weights are stored; none where the files cannot be read.
    pub quantization: Option<Quantization>,
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
    /// [`AppProblem::UnknownModel`].
    pub async fn entry(&self, id: &str) -> Result<ModelEntry> {
        if id == DEMO {
            let demo = Arc::clone(&self.demo);
            return blocking(move || Ok(demo_entry(&*demo))).await;
        }
        let entries = self.list().await?;
        let found = entries.into_iter().find(|entry| entry.id == id);
        found.ok_or_else(|| {
            let id = id.to_owned();
            AppProblem::UnknownModel { id }.into()
        })
    }

    /// Its folder.
    ///
    /// # Errors
    /// [`AppProblem::UnknownModel`], or that the demo cannot be unpacked.
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
        let shape = model.shape.as_ref();
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
            n_layers: shape.map_or(0, |shape| shape.layers),
            n_experts: shape.map_or(0, |shape| shape.experts),
            max_context: shape.map_or(0, |shape| shape.max_context),
            quantization: model.shape.map(|shape| shape.quantization),
            has_tokenizer: model.has_tokenizer,
            health: model.health,
            is_in_use: model.is_in_use,
        }
    }
}

fn demo_entry(demo: &DemoSource) -> ModelEntry {
    let faulty = |detail: String, path: &Path| ModelEntry {
        id: DEMO.to_owned(),
        name: octet_demo::NAME.to_owned(),
        kind: ModelKind::Demo,
        path: path.display().to_string(),
        size_bytes: 0,
        frees_bytes: 0,
        installed_at_ms: None,
        n_layers: 0,
        n_experts: 0,
        quantization: None,
        max_context: 0,
        has_tokenizer: false,
        health: Health::Damaged {
            damage: ModelDamage::Refused { detail },
            files: Vec::new(),
            can_repair: false,
        },
        is_in_use: false,
    };
    let path = match demo() {
        Ok(path) => path,
        Err(error) => return faulty(error.to_string(), Path::new("")),
    };
    match Checkpoint::open(&path) {
        Err(error) => faulty(error.to_string(), &path),
        Ok(checkpoint) => {
            let c = checkpoint.spec();
            ModelEntry {
                size_bytes: checkpoint.files().bytes,
                n_layers: c.n_layers as u32,
                n_experts: c.n_experts as u32,
                quantization: Some(Quantization::from(&checkpoint.quant_summary())),
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
