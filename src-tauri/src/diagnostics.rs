//! What to send along with a report: the machine, the model, settings and logs, and nothing that
//! a chat says.

use std::fmt::Write as _;
use std::path::Path;

use octet_engine::hardware::Hardware;
use octet_store::settings::Settings;

use crate::app::App;
use crate::logs;
use crate::models::ModelState;

/// The whole report.
pub fn report(app: &App) -> String {
    let info = app.info();
    let mut text = format!("Octet {} on {} {}\n", info.version, info.os, info.arch);
    let mut section = |title: &str, body: String| {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n## {title}\n{}\n", body.trim_end());
    };
    section(
        "Machine",
        format!("{:#?}", Hardware::detect(&app.models_dir())),
    );
    section("Model", model(&app.models.state()));
    section("Settings", settings(&app.settings.get()));
    section("Chats", chats(app));
    let notices = info.notices.iter().map(|notice| format!("{notice:?}"));
    section("Notices", notices.collect::<Vec<_>>().join("\n"));
    section("Log", logs::tail(&app.paths.log_dir));
    hide_home(
        &text,
        directories::BaseDirs::new()
            .as_ref()
            .map(|dirs| dirs.home_dir()),
    )
}

fn model(state: &ModelState) -> String {
    match state {
        ModelState::None => "none".to_owned(),
        ModelState::Loading { model, progress } => format!("loading {model:?} {progress:?}"),
        ModelState::Failed { model, error } => format!("failed {model:?}\n{error:?}"),
        ModelState::Ready {
            model,
            plan,
            load_ms,
            ..
        } => format!("{model:#?}\nloaded in {load_ms} ms\n{plan:#?}"),
    }
}

/// Settings without what the user wrote into them.
fn settings(settings: &Settings) -> String {
    let mut settings = settings.clone();
    let (prompt, stops) = (
        settings.sampling.system_prompt.len(),
        settings.sampling.stop.len(),
    );
    settings.sampling.system_prompt.clear();
    settings.sampling.stop.clear();
    let presets = settings.presets.len();
    settings.presets.clear();
    settings.active_preset = None;
    format!(
        "{settings:#?}\nsystem prompt of {prompt} bytes, {stops} stop strings, {presets} presets"
    )
}

fn chats(app: &App) -> String {
    let counted = app
        .store()
        .map_err(|error| error.to_string())
        .and_then(|store| {
            let counts = store.counts().map_err(|error| error.to_string())?;
            Ok(format!("{counts:?}, {} bytes", store.size_bytes()))
        });
    counted.unwrap_or_else(|error| error)
}

/// `text` with the user's home folder as `~`: its name is nobody's business.
fn hide_home(text: &str, home: Option<&Path>) -> String {
    match home.and_then(Path::to_str) {
        Some(home) if home.len() > 1 => text.replace(home, "~"),
        _ => text.to_owned(),
    }
}
