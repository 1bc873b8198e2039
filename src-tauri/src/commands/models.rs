//! Models that are here: the list, the plan, loading.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use octet_store::settings::OffloadSettings;
use tauri::State;

use crate::app::App;
use crate::desktop::Desktop;
use crate::error::{AppProblem, Result};
use crate::model_list::ModelEntry;
use crate::models::ModelState;
use crate::plan_view::PlanView;
use crate::task::blocking;

/// Folders that the person chose in a dialog. The page can name no others.
#[derive(Default)]
pub struct PickedFolders(Mutex<HashSet<PathBuf>>);

impl PickedFolders {
    fn insert(&self, path: PathBuf) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path);
    }

    /// The folder, if the person chose it.
    ///
    /// # Errors
    /// [`AppProblem::FolderNotPicked`].
    pub(super) fn require(&self, path: String) -> Result<PathBuf> {
        let path = PathBuf::from(path);
        let picked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if picked.contains(&path) {
            return Ok(path);
        }
        let path = path.display().to_string();
        Err(AppProblem::FolderNotPicked { path }.into())
    }
}

/// All models that are here.
#[tauri::command]
#[specta::specta]
pub async fn list_models(app: State<'_, App>) -> Result<Vec<ModelEntry>> {
    app.models.list.list().await
}

/// What a model would take of the machine.
#[tauri::command]
#[specta::specta]
pub async fn plan_model(
    app: State<'_, App>,
    id: String,
    offload: OffloadSettings,
) -> Result<PlanView> {
    let models = Arc::clone(&app.models);
    blocking(move || models.plan(&id, &offload)).await
}

/// Loads a model; returns when that ended.
#[tauri::command]
#[specta::specta]
pub async fn load_model(app: State<'_, App>, id: String, force: bool) -> Result<ModelState> {
    app.load_model(&id, force).await
}

/// Ends the load under way.
#[tauri::command]
#[specta::specta]
pub fn cancel_load(app: State<'_, App>) {
    app.models.cancel_load();
}

/// Frees the model's memory.
#[tauri::command]
#[specta::specta]
pub async fn unload_model(app: State<'_, App>) -> Result<()> {
    app.models.unload().await;
    Ok(())
}

/// How the model is.
#[tauri::command]
#[specta::specta]
pub fn model_state(app: State<'_, App>) -> ModelState {
    app.models.state()
}

/// Has the person choose a folder.
#[tauri::command]
#[specta::specta]
pub async fn pick_folder(
    desktop: State<'_, Box<dyn Desktop>>,
    picked: State<'_, PickedFolders>,
) -> Result<Option<String>> {
    let path = desktop.pick_folder().await;
    if let Some(path) = &path {
        picked.insert(path.clone());
    }
    Ok(path.map(|path| path.display().to_string()))
}
