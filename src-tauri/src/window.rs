//! The one window.

use std::time::Duration;

use octet_store::settings::Theme;
use tauri::webview::{Color, NewWindowResponse};
use tauri::{
    App as TauriApp, Manager, Runtime, WebviewUrl, WebviewWindowBuilder, Window, WindowEvent,
};

use crate::app::App;
use crate::links;

/// Its label, as in the capability.
pub const LABEL: &str = "main";

/// How long closing waits for answers to be stored.
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

/// On closing, has answers under way stopped and stored first.
pub fn on_event<R: Runtime>(window: &Window<R>, event: &WindowEvent) {
    let WindowEvent::CloseRequested { api, .. } = event else {
        return;
    };
    let generations = std::sync::Arc::clone(&window.state::<App>().generations);
    if !generations.is_busy() {
        return;
    }
    api.prevent_close();
    let window = window.clone();
    tauri::async_runtime::spawn(async move {
        generations.stop_all(CLOSE_LIMIT).await;
        if let Err(error) = window.destroy() {
            tracing::error!(%error, "the window did not close");
        }
    });
}
