//! The one window.

use std::time::Duration;

use octet_models::{DownloadState, ModelsState};
use octet_store::settings::Theme;
use tauri::webview::{Color, NewWindowResponse, PageLoadEvent};
use tauri::{
    App as TauriApp, DragDropEvent, Manager, PhysicalPosition, PhysicalSize, Runtime, WebviewUrl,
    WebviewWindow, WebviewWindowBuilder, Window, WindowEvent,
};
use tauri_specta::Event;

use crate::app::App;
use crate::bindings::{Closing, FilesDropped};
use crate::drops::DroppedFiles;
use crate::{links, web_view};

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
    let appearance = app.state::<App>().settings.get().appearance;
    let theme = match appearance.theme {
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
        .enable_clipboard_access()
        .on_page_load(|window, page| {
            if page.event() == PageLoadEvent::Started {
                web_view::page_is_gone(window.app_handle());
            }
        })
        .on_navigation(links::is_own)
        .on_new_window(|_, _| NewWindowResponse::Deny)
        .on_page_load(|window, load| {
            // By now it is on the screen, and its size is known.
            if load.event() == PageLoadEvent::Finished {
                fit(&window);
            }
        })
        // Which chat it is, also in the task bar and where windows are switched between.
        .on_document_title_changed(|window, title| {
            if let Err(error) = window.set_title(&title) {
                tracing::warn!(%error, "the window keeps its title");
            }
        })
        .build()?;
    web_view::prepare(&window)?;
    if theme.is_none()
        && let Ok(system) = window.theme()
    {
        window.set_background_color(Some(background(system)))?;
    }
    window.set_zoom(f64::from(appearance.zoom) / 100.0)?;
    Ok(())
}

/// Brings a window that was restored larger than the screen, or beside it, back onto it.
fn fit<R: Runtime>(window: &WebviewWindow<R>) {
    if let Err(error) = try_to_fit(window) {
        tracing::warn!(%error, "the window stays where it is");
    }
}

fn try_to_fit<R: Runtime>(window: &WebviewWindow<R>) -> tauri::Result<()> {
    if window.is_maximized()? || window.is_fullscreen()? || window.is_minimized()? {
        return Ok(());
    }
    let areas: Vec<Area> = window
        .available_monitors()?
        .iter()
        .map(|monitor| {
            let area = monitor.work_area();
            Area {
                x: area.position.x,
                y: area.position.y,
                width: area.size.width,
                height: area.size.height,
            }
        })
        .collect();
    let (position, outer) = (window.outer_position()?, window.outer_size()?);
    let inner = window.inner_size()?;
    let is = Area {
        x: position.x,
        y: position.y,
        width: outer.width,
        height: outer.height,
    };
    let Some(fitted) = is.within(&areas) else {
        return Ok(());
    };
    if (fitted.width, fitted.height) != (is.width, is.height) {
        // The frame is not part of what is set.
        let frame = (outer.width - inner.width, outer.height - inner.height);
        window.set_size(PhysicalSize::new(
            fitted.width.saturating_sub(frame.0),
            fitted.height.saturating_sub(frame.1),
        ))?;
    }
    window.set_position(PhysicalPosition::new(fitted.x, fitted.y))
}

/// A part of the desktop, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    x: i32,
    y: i32,
    width: u32,
    height: u32,
}

/// A window may reach this far beyond its screen: frames have shadows and borders that are not
/// seen.
const OVERHANG: i64 = 16;

impl Area {
    fn ends(self) -> (i64, i64) {
        let end = |start: i32, length: u32| i64::from(start) + i64::from(length);
        (end(self.x, self.width), end(self.y, self.height))
    }

    fn overlap(self, other: Self) -> i64 {
        let (right, bottom) = self.ends();
        let (other_right, other_bottom) = other.ends();
        let width = right.min(other_right) - i64::from(self.x.max(other.x));
        let height = bottom.min(other_bottom) - i64::from(self.y.max(other.y));
        width.max(0) * height.max(0)
    }

    /// The window `self` on that of the screens that shows most of it, the first if none does;
    /// nothing if it is all on one already.
    fn within(self, screens: &[Self]) -> Option<Self> {
        let most = screens.iter().map(|screen| self.overlap(*screen)).max()?;
        let screen = *screens
            .iter()
            .find(|screen| self.overlap(**screen) == most)?;
        let ((right, bottom), (screen_right, screen_bottom)) = (self.ends(), screen.ends());
        let fits = i64::from(self.x) >= i64::from(screen.x) - OVERHANG
            && i64::from(self.y) >= i64::from(screen.y) - OVERHANG
            && right <= screen_right + OVERHANG
            && bottom <= screen_bottom + OVERHANG;
        if fits {
            return None;
        }
        let place = |at: i32, length: u32, start: i32, room: u32| {
            let length = length.min(room);
            let last = i64::from(start) + i64::from(room - length);
            let at = i64::from(at).clamp(i64::from(start), last);
            (i32::try_from(at).unwrap_or(start), length)
        };
        let (x, width) = place(self.x, self.width, screen.x, screen.width);
        let (y, height) = place(self.y, self.height, screen.y, screen.height);
        Some(Self {
            x,
            y,
            width,
            height,
        })
    }
}

/// On closing, has the page put down what was typed, then answers under way stopped and stored and
/// downloads paused.
pub fn on_event<R: Runtime>(window: &Window<R>, event: &WindowEvent) {
    let api = match event {
        WindowEvent::CloseRequested { api, .. } => api,
        WindowEvent::DragDrop(DragDropEvent::Drop { paths, .. }) => {
            let dropped = window.state::<DroppedFiles>().take(paths);
            if let Err(error) = FilesDropped(dropped).emit(window) {
                tracing::warn!(%error, "the page was not told what was dropped");
            }
            return;
        }
        _ => return,
    };
    api.prevent_close();
    if !window.state::<App>().page.begins_to_close() {
        return;
    }
    let window = window.clone();
    tauri::async_runtime::spawn(async move {
        let app = window.state::<App>();
        let tell = || {
            if let Err(error) = Closing.emit(window.app_handle()) {
                tracing::warn!(%error, "the page was not told that the window closes");
            }
        };
        app.page.put_down(tell).await;
        let pausing = async {
            let library = app.models.list.library().ok().cloned();
            if let Some(library) = library.filter(|library| is_busy(&library.state())) {
                library.shut_down().await;
            }
        };
        let pausing = tokio::time::timeout(CLOSE_LIMIT, pausing);
        let (_, paused) = tokio::join!(app.generations.stop_all(CLOSE_LIMIT), pausing);
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

#[cfg(test)]
mod tests {
    use super::*;

    const fn area(x: i32, y: i32, width: u32, height: u32) -> Area {
        Area {
            x,
            y,
            width,
            height,
        }
    }

    /// With a panel on top, and another screen left of it.
    const SCREENS: [Area; 2] = [area(0, 30, 1920, 1050), area(-1280, 0, 1280, 1024)];

    #[test]
    fn a_window_on_a_screen_stays() {
        for window in [
            area(0, 30, 1920, 1050),
            area(100, 100, 800, 600),
            area(-7, 30, 500, 500),
            area(-1280, 0, 1280, 1024),
        ] {
            assert_eq!(window.within(&SCREENS), None, "{window:?}");
        }
        assert_eq!(
            area(5000, 0, 10, 10).within(&[]),
            None,
            "no screen is known"
        );
    }

    #[test]
    fn a_window_that_is_too_large_or_beside_the_screens_is_brought_back() {
        for (window, fitted) in [
            (area(0, 0, 5000, 4000), area(0, 30, 1920, 1050)),
            (area(-900, -900, 5000, 4000), area(0, 30, 1920, 1050)),
            (area(3000, 2000, 800, 600), area(1120, 480, 800, 600)),
            (area(1500, 500, 800, 600), area(1120, 480, 800, 600)),
            (area(-1300, 900, 800, 600), area(-1280, 424, 800, 600)),
            (
                area(i32::MAX, i32::MIN, u32::MAX, 10),
                area(0, 30, 1920, 10),
            ),
        ] {
            assert_eq!(window.within(&SCREENS), Some(fitted), "{window:?}");
        }
    }
}
