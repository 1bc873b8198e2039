//! The one window.

use std::sync::Arc;
use std::time::Duration;

use octet_models::{DownloadState, ModelsState};
use octet_store::settings::Theme;
use tauri::webview::{Color, NewWindowResponse};
use tauri::{
    App as TauriApp, Manager, Runtime, WebviewUrl, WebviewWindowBuilder, Window, WindowEvent,
};

use crate::app::App;
use crate::links;

/// Its label, as in the capability.
pub const LABEL: &str = "main";

/// How long closing waits for answers to be stored and downloads to pause.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Page backgrounds, as in the page's styles: what shows until it is drawn.
const LIGHT: Color = Color(0xfa, 0xf9, 0xf7, 0xff);
const DARK: Color = Color(0x16, 0x16, 0x14, 0xff);

/// Opens it.
///
/// # Errors
/// Where the system has no web view or no display.
pub fn open<R: Runtime>(app: &TauriApp<R>) -> tauri::Result<()> {
    let theme = match app.state::<App>().settings.get().appearance.theme {
        Theme::Light => Some(tauri::Theme::Light),
        Theme::Dark => Some(tauri::Theme::Dark),
        Theme::System => None,
    };
    let background = |theme| match theme {
        tauri::Theme::Dark => DARK,
        _ => LIGHT,
    };
    let window = WebviewWindowBuilder::new(app, LABEL, WebviewUrl::default())
        .title("Octet")
        .inner_size(1180.0, 780.0)
        .min_inner_size(360.0, 480.0)
        .theme(theme)
        .background_color(background(theme.unwrap_or(tauri::Theme::Light)))
        .on_navigation(links::is_own)
        .on_new_window(|_, _| NewWindowResponse::Deny)
        .build()?;
    if theme.is_none()
        && let Ok(system) = window.theme()
    {
        window.set_background_color(Some(background(system)))?;
    }
    Ok(())
}

/// On closing, has answers under way stopped and stored and downloads paused first.
pub fn on_event<R: Runtime>(window: &Window<R>, event: &WindowEvent) {
    let WindowEvent::CloseRequested { api, .. } = event else {
        return;
    };
    let app = window.state::<App>();
    let generations = Arc::clone(&app.generations);
    let library = app.models.list.library().ok().cloned();
    let library = library.filter(|library| is_busy(&library.state()));
    if !generations.is_busy() && library.is_none() {
        return;
    }
    api.prevent_close();
    let window = window.clone();
    tauri::async_runtime::spawn(async move {
        let pausing = async {
            if let Some(library) = library {
                library.shut_down().await;
            }
        };
        let pausing = tokio::time::timeout(CLOSE_LIMIT, pausing);
        let (_, paused) = tokio::join!(generations.stop_all(CLOSE_LIMIT), pausing);
        if paused.is_err() {
            tracing::warn!("downloads did not end in time; they go on from what is on disk");
        }
        if let Err(error) = window.destroy() {
            tracing::error!(%error, "the window did not close");
        }
    });
}

fn is_busy(models: &ModelsState) -> bool {
    let rests = |state: &DownloadState| {
        matches!(
            state,
            DownloadState::Paused { .. } | DownloadState::Failed { .. }
        )
    };
    !models.tasks.is_empty() || models.downloads.iter().any(|one| !rests(&one.state))
}
