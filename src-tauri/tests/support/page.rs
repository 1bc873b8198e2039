//! Commands as the page calls them, through Tauri's own dispatch, on a window without a screen.

use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use octet_app::app::App;
use octet_app::desktop::{Desktop, FileKind, Picked};
use octet_app::error::Result;
use serde_json::Value;
use tauri::test::{MockRuntime, get_ipc_response, mock_builder, mock_context, noop_assets};
use tauri::webview::InvokeRequest;
use tauri::{Manager, WebviewWindow};
use url::Url;

/// A desktop on which every dialog is answered with the same path.
#[derive(Clone, Default)]
pub struct FakeDesktop {
    pub answer: Option<PathBuf>,
    /// Links and folders that were shown.
    pub opened: Arc<Mutex<Vec<String>>>,
    /// How large the page was shown, one after another.
    pub zooms: Arc<Mutex<Vec<u16>>>,
}

impl Desktop for FakeDesktop {
    fn pick_folder(&self) -> Picked {
        Box::pin(ready(self.answer.clone()))
    }

    fn pick_save_file(&self, name: &str, _: FileKind) -> Picked {
        let dir = self.answer.clone();
        Box::pin(ready(dir.map(|dir| dir.join(name))))
    }

    fn pick_open_file(&self, _: FileKind) -> Picked {
        let dir = self.answer.clone();
        Box::pin(ready(dir.map(|dir| dir.join("Hello.json"))))
    }

    fn open(&self, url: &Url) -> Result<()> {
        self.opened.lock().expect("no panic").push(url.to_string());
        Ok(())
    }

    fn reveal(&self, path: &Path) -> Result<()> {
        let path = path.display().to_string();
        self.opened.lock().expect("no panic").push(path);
        Ok(())
    }

    fn zoom(&self, percent: u16) {
        self.zooms.lock().expect("no panic").push(percent);
    }
}

/// The window's page, without a page.
pub struct Page {
    pub app: tauri::App<MockRuntime>,
    pub dir: tempfile::TempDir,
    window: WebviewWindow<MockRuntime>,
    _model: tempfile::TempDir,
}

impl Page {
    pub fn open(desktop: FakeDesktop) -> Self {
        Self::open_with(desktop, &[])
    }

    /// With these environment variables for the library.
    pub fn open_with(desktop: FakeDesktop, vars: &[(&str, String)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let model = super::endless_model();
        let demo = model.path().to_owned();
        let (state, changes) = App::open(
            super::paths(dir.path()),
            super::library(dir.path(), vars),
            Box::new(move || Ok(demo.clone())),
        );
        let builder = octet_app::assemble(mock_builder(), state, changes, |_| Box::new(desktop));
        let mut app = builder.build(mock_context(noop_assets())).expect("an app");
        // The setup runs when the loop does; one turn of it gives the app back.
        #[allow(deprecated)]
        app.run_iteration(|_, _| {});
        let window = app.get_webview_window("main").expect("a window");
        Self {
            app,
            dir,
            window,
            _model: model,
        }
    }

    /// Calls a command as the page does.
    pub fn call(&self, command: &str, arguments: Value) -> Result<Value, Value> {
        let request = InvokeRequest {
            cmd: command.into(),
            callback: tauri::ipc::CallbackFn(0),
            error: tauri::ipc::CallbackFn(1),
            url: "tauri://localhost".parse().expect("an address"),
            body: tauri::ipc::InvokeBody::Json(arguments),
            headers: Default::default(),
            invoke_key: tauri::test::INVOKE_KEY.to_string(),
        };
        let answer = get_ipc_response(&self.window, request)?;
        Ok(answer.deserialize().expect("JSON"))
    }

    pub fn get(&self, command: &str, arguments: Value) -> Value {
        self.call(command, arguments).expect("the command succeeds")
    }

    pub fn refused(&self, command: &str, arguments: Value) -> Value {
        self.call(command, arguments)
            .expect_err("the command fails")
    }
}
