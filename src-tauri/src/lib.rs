//! The Octet desktop app: a window over the engine and the store.
//!
//! `commands` are what the page can ask for; each is a few lines over the modules beside it, which
//! know no window: [`models`] (the one that is loaded), [`generation`] (from a message to a stored
//! answer), [`experts`] (the feed of the Experts view), [`app`] (all of it together). [`bindings`]
//! collects commands and events for the page's types.
#![warn(missing_docs)]

pub mod app;
pub mod bindings;
pub mod chat_file;
pub mod commands;
pub mod desktop;
pub mod diagnostics;
pub mod drops;
pub mod error;
pub mod experts;
pub mod generation;
pub mod hardware;
pub mod instance;
pub mod links;
pub mod logs;
pub mod model_list;
pub mod models;
pub mod page;
pub mod paths;
pub mod plan_view;
pub mod queue;
pub mod settings;
pub mod task;
pub mod web_view;
pub mod window;

use std::path::PathBuf;

use octet_models::{Environment, Manager as Library, Options};
use octet_store::ChatId;
use tauri::{AppHandle, Builder, Manager, RunEvent, Runtime};
use tauri_plugin_dialog::DialogExt;
use tauri_plugin_window_state::StateFlags;
use tauri_specta::Event;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::app::App;
use crate::bindings::{ChatsChanged, ModelStateChanged, ModelsChanged};
use crate::commands::models::PickedFolders;
use crate::desktop::{Desktop, OneDialog, TauriDesktop};
use crate::drops::DroppedFiles;
use crate::error::{AppProblem, Result};
use crate::instance::Instance;
use crate::paths::Paths;

/// Set by tests that drive the real window: several may run at once.
const TEST_VARIABLE: &str = "OCTET_TEST";

/// Runs the app until its window is closed.
///
/// # Panics
/// Where the system has no web view: there is nothing to show an error in.
pub fn run() {
    if !has_display() {
        eprintln!(
            "octet: there is no display to open a window on: neither DISPLAY nor WAYLAND_DISPLAY is \
             set. To talk in the terminal, run `octet chat`."
        );
        std::process::exit(1);
    }
    prepare_webview();
    let Some(paths) = Paths::of_user() else {
        eprintln!(
            "octet: the user has no home folder. Set the environment variable HOME to a folder that \
             can be written to."
        );
        std::process::exit(1);
    };
    // The log tells of its own folder when that is missing.
    let _ = paths.create();
    let _instance = match instance::claim(&paths.config_dir) {
        Instance::Only(lock) => lock,
        Instance::Second => return second(),
    };
    let mut log = logs::start(&paths.log_dir);
    let (config_dir, data_dir) = (paths.config_dir.clone(), paths.data_dir.clone());
    let library = Library::open(Options::new(config_dir, data_dir, Environment::read()));
    let (app, changes) = App::open(paths, library, Box::new(demo));
    let desktop =
        |handle: &AppHandle| -> Box<dyn Desktop> { Box::new(TauriDesktop(handle.clone())) };
    let builder = assemble(with_plugins(Builder::default()), app, changes, desktop);
    match builder.build(tauri::generate_context!()) {
        Ok(app) => app.run(move |_, event| {
            if let RunEvent::Exit = event {
                // What is still to be written goes to the disk with it.
                drop(log.take());
                leave();
            }
        }),
        Err(error) => {
            tracing::error!(%error, "the app ended");
            eprintln!("octet: {error}");
            drop(log);
            std::process::exit(1);
        }
    }
}

/// Has the window of the Octet that runs already come up; where that cannot be done, says so.
fn second() {
    const TEXT: &str = "Octet is already running. Close its window first, or switch to it.";
    // The plugin ends this process once it has reached the first one.
    let builder = with_instances(Builder::default()).plugin(tauri_plugin_dialog::init());
    let built = builder
        .setup(|app| {
            eprintln!("octet: {TEXT}");
            let ended = app.handle().clone();
            app.dialog()
                .message(TEXT)
                .title("Octet")
                .show(move |_| ended.exit(1));
            Ok(())
        })
        .build(tauri::generate_context!());
    match built {
        // Without a window, it must not end before the message was read.
        Ok(app) => app.run(|_, event| {
            if let RunEvent::ExitRequested {
                api, code: None, ..
            } = event
            {
                api.prevent_exit();
            }
        }),
        Err(error) => eprintln!("octet: {TEXT} ({error})"),
    }
    std::process::exit(1);
}

/// Ends the process at once: everything is stored, and the plugins have been told.
///
/// An orderly exit runs the destructors of all libraries while a thread of tao waits for keys with
/// them, on a connection to the X server of its own that nothing ends: now and then it crashed.
#[cfg(target_os = "linux")]
fn leave() {
    // SAFETY: ends the process, and none of its memory is looked at any more.
    unsafe { libc::_exit(0) }
}

/// Elsewhere, an orderly exit follows.
#[cfg(not(target_os = "linux"))]
fn leave() {}

/// Whether a window can be opened. Linux says so beforehand; without, GTK ends the program with
/// nothing that helps.
fn has_display() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    cfg!(not(target_os = "linux")) || set("DISPLAY") || set("WAYLAND_DISPLAY")
}

/// The app on `builder`: state, commands, events, its window, and loading the last model.
/// `desktop` does what the desktop does for it.
pub fn assemble<R: Runtime>(
    builder: Builder<R>,
    app: App,
    changes: UnboundedReceiver<Option<ChatId>>,
    desktop: impl FnOnce(&AppHandle<R>) -> Box<dyn Desktop> + Send + 'static,
) -> Builder<R> {
    let bindings = bindings::builder::<R>();
    #[cfg(target_os = "macos")]
    let builder = builder.on_web_content_process_terminate(web_view::on_process_end());
    builder
        .manage(app)
        .manage(PickedFolders::default())
        .manage(DroppedFiles::default())
        .invoke_handler(bindings.invoke_handler())
        .on_window_event(window::on_event)
        .setup(move |app| {
            bindings.mount_events(app);
            let desktop: Box<dyn Desktop> = Box::new(OneDialog::new(desktop(app.handle())));
            app.manage(desktop);
            forward_events(app.handle(), changes);
            window::open(app)?;
            let handle = app.handle().clone();
            tauri::async_runtime::spawn(async move {
                handle.state::<App>().load_last_model().await;
            });
            Ok(())
        })
}

/// Tells the page of changes as they come; of progress only the newest.
fn forward_events<R: Runtime>(
    handle: &AppHandle<R>,
    mut changes: UnboundedReceiver<Option<ChatId>>,
) {
    let chats = handle.clone();
    tauri::async_runtime::spawn(async move {
        while let Some(chat_id) = changes.recv().await {
            emitted(ChatsChanged { chat_id }.emit(&chats));
        }
    });
    let models = handle.clone();
    let mut states = handle.state::<App>().models.subscribe();
    tauri::async_runtime::spawn(async move {
        while states.changed().await.is_ok() {
            let state = states.borrow_and_update().clone();
            emitted(ModelStateChanged(state).emit(&models));
        }
    });
    if let Ok(library) = handle.state::<App>().models.list.library() {
        let (page, mut states) = (handle.clone(), library.watch());
        tauri::async_runtime::spawn(async move {
            while states.changed().await.is_ok() {
                let state = states.borrow_and_update().clone();
                emitted(ModelsChanged(state).emit(&page));
            }
        });
    }
}

fn emitted(outcome: tauri::Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "an event did not reach the page");
    }
}

/// Brings the first one's window to the front when Octet is started again.
fn with_instances<R: Runtime>(builder: Builder<R>) -> Builder<R> {
    if std::env::var_os(TEST_VARIABLE).is_some() {
        return builder;
    }
    builder.plugin(tauri_plugin_single_instance::init(|app, _, _| {
        if let Some(window) = app.get_webview_window(window::LABEL) {
            // Bringing it up is a courtesy; the window is there in any case.
            let _ = window.unminimize();
            let _ = window.set_focus();
        }
    }))
}

/// Dialogs, and the window's place kept between runs.
fn with_plugins<R: Runtime>(builder: Builder<R>) -> Builder<R> {
    let kept = StateFlags::SIZE | StateFlags::POSITION | StateFlags::MAXIMIZED;
    with_instances(builder)
        .plugin(
            tauri_plugin_window_state::Builder::new()
                .with_state_flags(kept)
                .build(),
        )
        .plugin(tauri_plugin_dialog::init())
}

/// The demo model's folder.
fn demo() -> Result<PathBuf> {
    octet_demo::ensure().map_err(|error| {
        AppProblem::DemoUnusable {
            detail: error.to_string(),
        }
        .into()
    })
}

/// Says how WebKit draws, where its own choice is a bad one; a variable that is set already stays.
///
/// Under WebDriver its own choice stands in any case: without it screenshots hang.
#[cfg(target_os = "linux")]
fn prepare_webview() {
    let is_driven = std::env::var_os("TAURI_WEBVIEW_AUTOMATION").is_some();
    let has_nvidia = std::path::Path::new("/proc/driver/nvidia/version").exists();
    let variable = match (has_nvidia, has_graphics_device()) {
        _ if is_driven => return,
        // NVIDIA's driver and WebKit's way of sharing buffers give blank windows together.
        (true, _) => "WEBKIT_DISABLE_DMABUF_RENDERER",
        // GL would be emulated on the processor, for 100 MB and a part of every frame.
        (false, false) => "WEBKIT_DISABLE_COMPOSITING_MODE",
        (false, true) => return,
    };
    if std::env::var_os(variable).is_none() {
        // SAFETY: the program has started no other thread yet that could read the environment.
        unsafe { std::env::set_var(variable, "1") };
    }
}

/// Whether there is anything that GL can be drawn with.
#[cfg(target_os = "linux")]
fn has_graphics_device() -> bool {
    let devices = std::fs::read_dir("/dev/dri")
        .into_iter()
        .flatten()
        .flatten();
    let mut names = devices.map(|device| device.file_name());
    names.any(|name| name.to_string_lossy().starts_with("renderD"))
}

#[cfg(not(target_os = "linux"))]
fn prepare_webview() {}
