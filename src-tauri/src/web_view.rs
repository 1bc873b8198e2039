//! What the system's web view does by itself, and what Octet has it do instead.
//!
//! The page has a process of its own, which can end while the program goes on: the picture froze,
//! and nothing came back. It is loaded again, and attaches to the answers under way. And the web
//! view has a context menu of its own, which loads the page again, downloads what a link leads to
//! and so goes online; the page draws one without that.

use std::time::{Duration, Instant};

use tauri::{AppHandle, Manager, Runtime, WebviewWindow};
use tauri_plugin_dialog::{DialogExt, MessageDialogKind};

use crate::app::App;

/// A page that ends so often would end again: it is not loaded any more.
const MOST_ENDS: usize = 3;

/// Within this time.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// When the page's process ended lately.
#[derive(Debug, Default)]
struct Ends(Vec<Instant>);

impl Ends {
    /// It ended `now`; whether the page is to be loaded again.
    fn may_reload(&mut self, now: Instant) -> bool {
        self.0.retain(|end| now.duration_since(*end) < ENDS_WITHIN);
        self.0.push(now);
        self.0.len() <= MOST_ENDS
    }
}

/// The page is gone: nobody is told anything until it is there again.
pub fn page_is_gone<R: Runtime>(app: &AppHandle<R>) {
    let app = app.state::<App>();
    app.page.is_gone();
    app.generations.detach_all();
    app.experts.unwatch();
}

/// The page's process ended because of `reason`. `reload` loads the page again.
fn process_ended<R: Runtime>(
    app: &AppHandle<R>,
    ends: &mut Ends,
    reason: &str,
    reload: impl FnOnce(),
) {
    page_is_gone(app);
    if ends.may_reload(Instant::now()) {
        tracing::error!(reason, "the page's process ended; the page is loaded again");
        reload();
        return;
    }
    tracing::error!(reason, "the page's process keeps ending");
    app.dialog()
        .message(
            "The window's page keeps crashing. Close Octet and start it again. Your chats are \
             saved; the log says more.",
        )
        .title("Octet")
        .kind(MessageDialogKind::Error)
        .show(|_| ());
}

/// Loads the page again when its process ends, and hides the web view's own context menu.
///
/// # Errors
/// Where the window is gone already.
#[cfg(target_os = "linux")]
pub fn prepare<R: Runtime>(window: &WebviewWindow<R>) -> tauri::Result<()> {
    use std::cell::RefCell;

    use webkit2gtk::WebViewExt;

    let app = window.app_handle().clone();
    window.with_webview(move |web_view| {
        let view = web_view.inner();
        let ends = RefCell::new(Ends::default());
        view.connect_web_process_terminated(move |view, reason| {
            let reason = format!("{reason:?}");
            process_ended(&app, &mut ends.borrow_mut(), &reason, || view.reload());
        });
        // Handled: nothing is shown.
        view.connect_context_menu(|_, _, _, _| true);
    })
}

/// Loads the page again when its process ends, and hides the web view's own context menu.
///
/// # Errors
/// Where the window is gone already.
#[cfg(windows)]
pub fn prepare<R: Runtime>(window: &WebviewWindow<R>) -> tauri::Result<()> {
    use std::sync::Mutex;

    use webview2_com::Microsoft::Web::WebView2::Win32::{
        COREWEBVIEW2_PROCESS_FAILED_KIND, COREWEBVIEW2_PROCESS_FAILED_KIND_RENDER_PROCESS_EXITED,
    };
    use webview2_com::ProcessFailedEventHandler;

    let app = window.app_handle().clone();
    window.with_webview(move |web_view| {
        let ends = Mutex::new(Ends::default());
        let failed = ProcessFailedEventHandler::create(Box::new(move |view, event| {
            let (Some(view), Some(event)) = (view, event) else {
                return Ok(());
            };
            let mut kind = COREWEBVIEW2_PROCESS_FAILED_KIND::default();
            // SAFETY: a call on an object that the event holds, with a place for its answer.
            unsafe { event.ProcessFailedKind(&mut kind)? };
            if kind != COREWEBVIEW2_PROCESS_FAILED_KIND_RENDER_PROCESS_EXITED {
                tracing::error!(kind = kind.0, "a process of the web view failed");
                return Ok(());
            }
            let mut ends = ends
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            process_ended(&app, &mut ends, "the process exited", || {
                // SAFETY: a call on the view that the event is about.
                if let Err(error) = unsafe { view.Reload() } {
                    tracing::error!(%error, "the page was not loaded again");
                }
            });
            Ok(())
        }));
        // SAFETY: calls on the window's web view, on the thread that it belongs to.
        let prepared = unsafe {
            web_view.controller().CoreWebView2().and_then(|view| {
                let mut token = 0;
                view.add_ProcessFailed(&failed, &mut token)?;
                view.Settings()?.SetAreDefaultContextMenusEnabled(false)
            })
        };
        if let Err(error) = prepared {
            tracing::error!(%error, "the web view was not prepared");
        }
    })
}

/// Nothing: the page keeps the context menu away, and [`on_process_end`] hears of its process.
///
/// # Errors
/// None.
#[cfg(not(any(target_os = "linux", windows)))]
pub fn prepare<R: Runtime>(_window: &WebviewWindow<R>) -> tauri::Result<()> {
    Ok(())
}

/// Loads the page again when its process ends.
#[cfg(target_os = "macos")]
pub fn on_process_end<R: Runtime>() -> impl Fn(&tauri::Webview<R>) + Send + Sync + 'static {
    let ends = std::sync::Mutex::new(Ends::default());
    move |web_view| {
        let mut ends = ends
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        process_ended(
            web_view.app_handle(),
            &mut ends,
            "the process ended",
            || {
                if let Err(error) = web_view.reload() {
                    tracing::error!(%error, "the page was not loaded again");
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_keeps_ending_is_not_loaded_for_ever() {
        let mut ends = Ends::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(ends.may_reload(at(0)));
        assert!(ends.may_reload(at(1)));
        assert!(ends.may_reload(at(2)));
        assert!(!ends.may_reload(at(3)));
        assert!(ends.may_reload(at(100)), "that was long ago");
    }
}
