//! Models that can be had: the catalogue, downloads, the library and where it is.
//!
//! Names of repositories and ids of models are checked by the library itself. Folders come from
//! the person's own choice in a dialog.

use octet_models::{ImportHow, Manager, ModelsState, Offer, Removed, TokenPlace, VerifyReport};
use tauri::State;

use crate::app::App;
use crate::commands::models::PickedFolders;
use crate::desktop::Desktop;
use crate::drops::DroppedFiles;
use crate::error::Result;
use crate::plan_view::any_model;

fn library(app: &App) -> Result<&Manager> {
    app.models.list.library()
}

/// Downloads, tasks and settings as they are; the event tells of changes.
#[tauri::command]
#[specta::specta]
pub fn models_state(app: State<'_, App>) -> Result<ModelsState> {
    Ok(library(&app)?.state())
}

/// The catalogue; needs no network.
#[tauri::command]
#[specta::specta]
pub async fn list_offers(app: State<'_, App>) -> Result<Vec<Offer>> {
    let request = any_model(&app.settings.get().offload);
    Ok(library(&app)?.offers(&request).await)
}

/// Any repository, `owner/name`.
#[tauri::command]
#[specta::specta]
pub async fn look_up_model(app: State<'_, App>, repo: String) -> Result<Offer> {
    let request = any_model(&app.settings.get().offload);
    Ok(library(&app)?.look_up(&repo, &request).await?)
}

/// Queues a download.
#[tauri::command]
#[specta::specta]
pub async fn download_model(app: State<'_, App>, repo: String) -> Result<()> {
    Ok(library(&app)?.download(&repo).await?)
}

/// Stops a download; what has arrived is kept.
#[tauri::command]
#[specta::specta]
pub async fn pause_download(app: State<'_, App>, repo: String) -> Result<()> {
    Ok(library(&app)?.pause(&repo).await?)
}

/// Goes on with a download that was paused or failed.
#[tauri::command]
#[specta::specta]
pub async fn resume_download(app: State<'_, App>, repo: String) -> Result<()> {
    Ok(library(&app)?.resume(&repo).await?)
}

/// Ends a download and deletes what has arrived.
#[tauri::command]
#[specta::specta]
pub async fn cancel_download(app: State<'_, App>, repo: String) -> Result<()> {
    Ok(library(&app)?.cancel(&repo).await?)
}

/// Compares every byte of a model with what was published.
#[tauri::command]
#[specta::specta]
pub async fn verify_model(app: State<'_, App>, id: String) -> Result<VerifyReport> {
    Ok(library(&app)?.verify(&id).await?)
}

/// Downloads a model's damaged files again.
#[tauri::command]
#[specta::specta]
pub async fn repair_model(app: State<'_, App>, id: String) -> Result<()> {
    Ok(library(&app)?.repair(&id).await?)
}

/// Deletes a model; forgets a linked one. Refused while it is loaded.
#[tauri::command]
#[specta::specta]
pub async fn delete_model(app: State<'_, App>, id: String) -> Result<Removed> {
    Ok(library(&app)?.remove(&id).await?)
}

/// Adds a folder that was chosen with `pick_folder`, or a file that was dropped; the model's id.
#[tauri::command]
#[specta::specta]
pub async fn import_model(
    app: State<'_, App>,
    picked: State<'_, PickedFolders>,
    dropped: State<'_, DroppedFiles>,
    path: String,
    how: ImportHow,
) -> Result<String> {
    let path = match dropped.require(path.clone()) {
        Ok(path) => path,
        Err(_) => picked.require(path)?,
    };
    Ok(library(&app)?.import(&path, how).await?)
}

/// Moves the models folder to one that was chosen with `pick_folder`.
#[tauri::command]
#[specta::specta]
pub async fn move_models(
    app: State<'_, App>,
    picked: State<'_, PickedFolders>,
    path: String,
) -> Result<()> {
    let path = picked.require(path)?;
    Ok(library(&app)?.move_folder(&path).await?)
}

/// Ends a check, a copy or a move.
#[tauri::command]
#[specta::specta]
pub fn cancel_task(app: State<'_, App>, task: u32) -> Result<()> {
    library(&app)?.cancel_task(task);
    Ok(())
}

/// Shows a model's folder in the file manager.
#[tauri::command]
#[specta::specta]
pub async fn reveal_model(
    app: State<'_, App>,
    desktop: State<'_, Box<dyn Desktop>>,
    id: String,
) -> Result<()> {
    desktop.reveal(&app.models.list.dir(&id)?)
}

/// Shows the models folder in the file manager.
#[tauri::command]
#[specta::specta]
pub async fn reveal_models(
    app: State<'_, App>,
    desktop: State<'_, Box<dyn Desktop>>,
) -> Result<()> {
    desktop.reveal(&library(&app)?.folder())
}

/// Chooses the hub or a mirror of it; none: as if nothing was chosen.
#[tauri::command]
#[specta::specta]
pub async fn set_endpoint(app: State<'_, App>, endpoint: Option<String>) -> Result<()> {
    Ok(library(&app)?.set_endpoint(endpoint).await?)
}

/// Keeps an access token, or removes it; where it is now. There is no command that reads it.
#[tauri::command]
#[specta::specta]
pub async fn set_token(app: State<'_, App>, token: Option<String>) -> Result<Option<TokenPlace>> {
    Ok(library(&app)?.set_token(token).await?)
}

/// The account that the access token belongs to.
#[tauri::command]
#[specta::specta]
pub async fn check_token(app: State<'_, App>) -> Result<String> {
    Ok(library(&app)?.check_token().await?)
}
