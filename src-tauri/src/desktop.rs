//! What the desktop does for the app: dialogs, the browser, the file manager. A trait, so that
//! commands can be tested without a desktop.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use tauri::{AppHandle, Runtime};
use tauri_plugin_dialog::{DialogExt, FileDialogBuilder, FilePath};
use tokio::sync::oneshot;
use url::Url;

use crate::error::{ApiError, ErrorCode, Result};

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
    fn dialog(&self, kind: FileKind) -> FileDialogBuilder<R> {
        let dialog = self.0.dialog().file();
        dialog.add_filter(kind.name, kind.extensions)
    }
}

impl<R: Runtime> Desktop for TauriDesktop<R> {
    fn pick_folder(&self) -> Picked {
        picked(|done| self.0.dialog().file().pick_folder(done))
    }

    fn pick_save_file(&self, name: &str, kind: FileKind) -> Picked {
        picked(|done| self.dialog(kind).set_file_name(name).save_file(done))
    }

    fn pick_open_file(&self, kind: FileKind) -> Picked {
        picked(|done| self.dialog(kind).pick_file(done))
    }

    fn open(&self, url: &Url) -> Result<()> {
        tauri_plugin_opener::open_url(url.as_str(), None::<&str>)
            .map_err(|error| not_opened("the link", &error))
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
}

fn not_opened(what: &str, error: &tauri_plugin_opener::Error) -> ApiError {
    ApiError::new(ErrorCode::Io, format!("Could not open {what}: {error}."))
        .hint("Open it yourself, or set a default program in the system's settings.")
}
