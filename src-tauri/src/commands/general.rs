//! The app, the machine, settings, links.

use octet_store::settings::Settings;
use tauri::State;

use crate::app::{App, AppInfo};
use crate::desktop::Desktop;
use crate::error::Result;
use crate::hardware::HardwareInfo;
use crate::task::blocking;
use crate::{diagnostics, links};

/// What the page shows about the app.
#[tauri::command]
#[specta::specta]
pub fn app_info(app: State<'_, App>) -> AppInfo {
    app.info()
}

/// Looks at the machine.
#[tauri::command]
#[specta::specta]
pub async fn hardware(app: State<'_, App>) -> Result<HardwareInfo> {
    let models = app.models_dir();
    blocking(move || Ok(HardwareInfo::detect(&models))).await
}

/// What to send along with a report.
#[tauri::command]
#[specta::specta]
pub async fn diagnostics(app: State<'_, App>) -> Result<String> {
    Ok(tokio::task::block_in_place(|| diagnostics::report(&app)))
}

/// Opens a link of an answer in the browser.
#[tauri::command]
#[specta::specta]
pub async fn open_external(desktop: State<'_, Box<dyn Desktop>>, url: String) -> Result<()> {
    desktop.open(&links::check(&url)?)
}

/// Shows the folder of the logs.
#[tauri::command]
#[specta::specta]
pub async fn reveal_logs(app: State<'_, App>, desktop: State<'_, Box<dyn Desktop>>) -> Result<()> {
    desktop.reveal(&app.paths.log_dir)
}

/// The page is usable: the start took this long.
#[tauri::command]
#[specta::specta]
pub fn frontend_ready(app: State<'_, App>) {
    app.page.listens();
    let start_ms = app.started.elapsed().as_millis() as u64;
    tracing::info!(start_ms, "the window is usable");
}

/// The page has put down what was typed: the window may close.
#[tauri::command]
#[specta::specta]
pub fn ready_to_close(app: State<'_, App>) {
    app.page.is_ready_to_close();
}

/// The settings.
#[tauri::command]
#[specta::specta]
pub fn load_settings(app: State<'_, App>) -> Settings {
    app.settings.get()
}

/// Keeps settings, brought into range; what was kept.
#[tauri::command]
#[specta::specta]
pub async fn save_settings(
    app: State<'_, App>,
    desktop: State<'_, Box<dyn Desktop>>,
    settings: Settings,
) -> Result<Settings> {
    let current = std::sync::Arc::clone(&app.settings);
    let zoom = current.get().appearance.zoom;
    let kept = blocking(move || current.save(&settings)).await?;
    if kept.appearance.zoom != zoom {
        desktop.zoom(kept.appearance.zoom);
    }
    Ok(kept)
}

/// The settings as they were at first.
#[tauri::command]
#[specta::specta]
pub fn default_settings() -> Settings {
    Settings::default()
}
