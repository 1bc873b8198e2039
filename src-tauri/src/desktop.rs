//! What the desktop does for the app: dialogs, the browser, the file manager. A trait, so that
//! commands can be tested without a desktop.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tauri::{AppHandle, Manager, Runtime, WebviewWindow};
use tauri_plugin_dialog::{DialogExt, FileDialogBuilder, FilePath};
use tokio::sync::oneshot;
use url::Url;

use crate::error::{ApiError, AppProblem, Result};
use crate::window::LABEL;

/// A path that the person chose, or none.
pub type Picked = Pin<Box<dyn Future<Output = Option<PathBuf>> + Send>>;

/// Names of a kind of file, for dialogs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileKind {
    /// For people.
    pub name: &'static str,
    /// What file names end with, no dots.
    pub extensions: &'static [&'static str],
}

/// See the [module](self).
pub trait Desktop: Send + Sync {
    /// Has the person choose a folder.
    fn pick_folder(&self) -> Picked;

    /// Has the person say where to save; `name` is suggested.
    fn pick_save_file(&self, name: &str, kind: FileKind) -> Picked;

    /// Has the person choose a file.
    fn pick_open_file(&self, kind: FileKind) -> Picked;

    /// Opens a link that was checked.
    ///
    /// # Errors
    /// Where no program opens it.
    fn open(&self, url: &Url) -> Result<()>;

    /// Shows a file or folder in the file manager.
    ///
    /// # Errors
    /// Where there is no file manager.
    fn reveal(&self, path: &Path) -> Result<()>;

    /// Shows the window's page at this percentage of its size.
    fn zoom(&self, percent: u16);
}

/// The real one.
pub struct TauriDesktop<R: Runtime>(pub AppHandle<R>);

/// Calls `show` with what a dialog has to call when it is closed.
fn picked(show: impl FnOnce(Box<dyn FnOnce(Option<FilePath>) + Send>)) -> Picked {
    let (done, answer) = oneshot::channel();
    show(Box::new(move |path: Option<FilePath>| {
        let path = path.and_then(|path| path.into_path().ok());
        // Who asked may be gone.
        let _ = done.send(path);
    }));
    Box::pin(async move { answer.await.ok().flatten() })
}

impl<R: Runtime> TauriDesktop<R> {
    /// A dialog over the window, not behind it.
    fn dialog(&self) -> FileDialogBuilder<R> {
        let dialog = self.0.dialog().file();
        match self.0.get_webview_window(LABEL) {
            Some(window) => {
                keep_before(&window);
                dialog.set_parent(&window)
            }
            None => dialog,
        }
    }

    fn dialog_for(&self, kind: FileKind) -> FileDialogBuilder<R> {
        self.dialog().add_filter(kind.name, kind.extensions)
    }
}

impl<R: Runtime> Desktop for TauriDesktop<R> {
    fn pick_folder(&self) -> Picked {
        picked(|done| self.dialog().pick_folder(done))
    }

    fn pick_save_file(&self, name: &str, kind: FileKind) -> Picked {
        picked(|done| self.dialog_for(kind).set_file_name(name).save_file(done))
    }

    fn pick_open_file(&self, kind: FileKind) -> Picked {
        picked(|done| self.dialog_for(kind).pick_file(done))
    }

    fn open(&self, url: &Url) -> Result<()> {
        tauri_plugin_opener::open_url(url.as_str(), None::<&str>)
            .map_err(|error| not_opened(url.as_str(), &error))
    }

    fn reveal(&self, path: &Path) -> Result<()> {
        let shown = tauri_plugin_opener::reveal_item_in_dir(path);
        shown
            // Not every file manager can be told to mark something; all open a folder.
            .or_else(|error| match path.is_dir() {
                true => tauri_plugin_opener::open_path(path, None::<&str>),
                false => Err(error),
            })
            .map_err(|error| not_opened(&path.display().to_string(), &error))
    }

    fn zoom(&self, percent: u16) {
        if let Some(window) = self.0.get_webview_window(LABEL)
            && let Err(error) = window.set_zoom(f64::from(percent) / 100.0)
        {
            tracing::warn!(%error, "the window was not zoomed");
        }
    }
}

/// Ties the dialog that opens next to `window`: under GTK, dialogs do without the parent that they
/// are given.
#[cfg(target_os = "linux")]
fn keep_before<R: Runtime>(window: &WebviewWindow<R>) {
    use gtk::glib::ControlFlow;
    use gtk::prelude::{Cast, GtkWindowExt, WidgetExt};

    /// It opens in the turns of the loop that follow.
    const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(20);
    const LOOKS: u32 = 250;

    let parent = window.clone();
    let looking = move || {
        let Ok(parent) = parent.gtk_window() else {
            return;
        };
        let mut looks = 0;
        gtk::glib::timeout_add_local(LOOK_EVERY, move || {
            looks += 1;
            let opened = gtk::Window::list_toplevels()
                .into_iter()
                .filter_map(|window| window.downcast::<gtk::FileChooserDialog>().ok())
                .find(|dialog| dialog.is_visible() && dialog.transient_for().is_none());
            match opened {
                Some(dialog) => {
                    dialog.set_transient_for(Some(&parent));
                    dialog.set_modal(true);
                    ControlFlow::Break
                }
                None if looks < LOOKS => ControlFlow::Continue,
                None => ControlFlow::Break,
            }
        });
    };
    if let Err(error) = window.run_on_main_thread(looking) {
        tracing::warn!(%error, "a dialog has no parent");
    }
}

#[cfg(not(target_os = "linux"))]
fn keep_before<R: Runtime>(_: &WebviewWindow<R>) {}

/// A desktop on which one dialog is open at a time: whoever asks for another one meanwhile has
/// chosen nothing.
pub struct OneDialog {
    desktop: Box<dyn Desktop>,
    open: Arc<AtomicBool>,
}

impl OneDialog {
    /// Over `desktop`.
    pub fn new(desktop: Box<dyn Desktop>) -> Self {
        Self {
            desktop,
            open: Arc::default(),
        }
    }

    fn show(&self, dialog: impl FnOnce(&dyn Desktop) -> Picked) -> Picked {
        if self.open.swap(true, Ordering::AcqRel) {
            return Box::pin(std::future::ready(None));
        }
        let closed = Closed(Arc::clone(&self.open));
        let picked = dialog(&*self.desktop);
        Box::pin(async move {
            let _closed = closed;
            picked.await
        })
    }
}

/// Says that the dialog is closed when it goes, also where nobody waits for the answer any more.
struct Closed(Arc<AtomicBool>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Desktop for OneDialog {
    fn pick_folder(&self) -> Picked {
        self.show(|desktop| desktop.pick_folder())
    }

    fn pick_save_file(&self, name: &str, kind: FileKind) -> Picked {
        self.show(|desktop| desktop.pick_save_file(name, kind))
    }

    fn pick_open_file(&self, kind: FileKind) -> Picked {
        self.show(|desktop| desktop.pick_open_file(kind))
    }

    fn open(&self, url: &Url) -> Result<()> {
        self.desktop.open(url)
    }

    fn reveal(&self, path: &Path) -> Result<()> {
        self.desktop.reveal(path)
    }

    fn zoom(&self, percent: u16) {
        self.desktop.zoom(percent);
    }
}

fn not_opened(what: &str, error: &tauri_plugin_opener::Error) -> ApiError {
    AppProblem::NotOpened {
        what: what.to_owned(),
        detail: error.to_string(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    /// Its dialogs stay open until they are answered.
    struct Waiting(tokio::sync::mpsc::UnboundedSender<oneshot::Sender<Option<PathBuf>>>);

    impl Waiting {
        fn behind_one_dialog() -> (
            OneDialog,
            UnboundedReceiver<oneshot::Sender<Option<PathBuf>>>,
        ) {
            let (opened, dialogs) = unbounded_channel();
            (OneDialog::new(Box::new(Self(opened))), dialogs)
        }

        fn show(&self) -> Picked {
            let (done, answer) = oneshot::channel();
            self.0.send(done).expect("somebody answers");
            Box::pin(async move { answer.await.ok().flatten() })
        }
    }

    impl Desktop for Waiting {
        fn pick_folder(&self) -> Picked {
            self.show()
        }

        fn pick_save_file(&self, _: &str, _: FileKind) -> Picked {
            self.show()
        }

        fn pick_open_file(&self, _: FileKind) -> Picked {
            self.show()
        }

        fn open(&self, _: &Url) -> Result<()> {
            Ok(())
        }

        fn reveal(&self, _: &Path) -> Result<()> {
            Ok(())
        }

        fn zoom(&self, _: u16) {}
    }

    const KIND: FileKind = FileKind {
        name: "Any",
        extensions: &["json"],
    };

    #[tokio::test]
    async fn one_dialog_is_open_at_a_time() {
        let (desktop, mut dialogs) = Waiting::behind_one_dialog();
        let first = desktop.pick_open_file(KIND);
        let answer = dialogs.recv().await.expect("it is open");
        assert_eq!(desktop.pick_folder().await, None);
        assert_eq!(desktop.pick_save_file("a", KIND).await, None);
        assert!(dialogs.try_recv().is_err(), "none but the first is shown");

        answer
            .send(Some("/a.json".into()))
            .expect("it is waited for");
        assert_eq!(first.await, Some("/a.json".into()));
        let again = desktop.pick_folder();
        let answer = dialogs.recv().await.expect("the next one opens");
        answer.send(None).expect("it is waited for");
        assert_eq!(again.await, None);

        // Whoever asked is gone, and with them what would have been done.
        drop(desktop.pick_folder());
        dialogs.recv().await.expect("it is open");
        let last = desktop.pick_folder();
        let answer = dialogs.recv().await.expect("it opens all the same");
        answer.send(Some("/b".into())).expect("it is waited for");
        assert_eq!(last.await, Some("/b".into()));
    }
}
