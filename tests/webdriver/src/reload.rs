//! The page goes away in the middle of an answer: it is loaded again, or its process is killed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use octet_test_hub::{Repo, TestHub};
use serde_json::{Value, json};

use crate::closes::as_a_person;
use crate::driver::{App, Home};
use crate::measure::call;

/// Random weights that never end an answer.
const REPO: &str = "smoke/endless";

/// In the log, once a page.
const USABLE: &str = "the window is usable";
const ATTACHES: &str = "a page attaches to the answer under way";

/// Publishes a model whose answers do not end, in a context that no step sees the end of.
pub fn publish_endless(hub: &TestHub) -> anyhow::Result<()> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-2bit");
    let dir = tempfile::tempdir()?;
    for entry in std::fs::read_dir(&fixture)? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?.to_owned();
        if !name.to_string_lossy().starts_with("golden") {
            std::fs::copy(&path, dir.path().join(name))?;
        }
    }
    octet_tests::make_endless(dir.path());
    let file = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    config["max_position_embeddings"] = json!(32768);
    std::fs::write(file, config.to_string())?;
    let tokens = config["vocab_size"].as_u64().context("a vocabulary")?;
    crate::words::provide_short(dir.path(), tokens)?;
    hub.publish(REPO, Repo::from_folder(dir.path())?);
    Ok(())
}

/// The page is loaded again, then its process is killed; the answer goes on, and can be stopped.
pub async fn in_the_middle(home: &Home) -> anyhow::Result<()> {
    let app = App::start(home).await?;
    app.step("load a model that goes on and on", load(&app))
        .await?;
    app.step("ask it", ask(&app)).await?;
    app.step("text comes", app.until(&grows(20))).await?;
    app.step("load the page again", async {
        app.script("window.isOld = true; location.reload(); return null")
            .await?;
        app.until("return window.isOld === undefined").await
    })
    .await?;
    app.step("the answer goes on", app.until(&grows(200)))
        .await?;
    app.screenshot("reloaded").await?;
    let seen = app.script(LETTERS).await?;
    app.step("stop it", app.click("Stop")).await?;
    app.step("it has ended", app.finished_answer(1)).await?;
    let stored = app.script(LETTERS).await?;
    let (seen, stored) = (text(&seen)?, text(&stored)?);
    ensure!(
        stored.starts_with(&seen),
        "a piece came twice or not at all:\n{seen}\n{stored}"
    );

    app.step("ask again", ask(&app)).await?;
    app.step("text comes", app.until(&grows(20))).await?;
    let before = home.log();
    let pages = before.matches(USABLE).count();
    let attached = before.matches(ATTACHES).count();
    app.step("kill the page's process", async { kill_page() })
        .await?;
    // The session ends with the page that it was opened for: from here on the log tells.
    let told = |line, more| async move {
        while home.log().matches(line).count() < more {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    app.step("the page comes back", told(USABLE, pages + 1))
        .await?;
    app.step("it attaches to the answer", told(ATTACHES, attached + 1))
        .await?;
    app.step("close the window", as_a_person()).await?;
    app.abandon().await
}

/// The letters of the newest answer: what Markdown leaves alone.
const LETTERS: &str = "return [...document.querySelectorAll('article.answer .markdown')]
     .map((answer) => answer.innerText.replace(/[^a-z]+/g, '')).at(-1) ?? ''";

fn text(value: &Value) -> anyhow::Result<String> {
    Ok(value.as_str().context("an answer has text")?.to_owned())
}

/// An answer is being written and has so many characters.
fn grows(characters: usize) -> String {
    format!(
        "const answer = document.querySelector('article.answer[aria-busy=true] .markdown');
         return (answer?.innerText.length ?? 0) > {characters}"
    )
}

async fn ask(app: &App<'_>) -> anyhow::Result<()> {
    app.go("#/").await?;
    app.until("return document.querySelector('article.answer') === null")
        .await?;
    app.model_is_ready().await?;
    app.send("Go on and on").await
}

async fn load(app: &App<'_>) -> anyhow::Result<()> {
    let mut settings = call(app, "load_settings", json!({})).await?;
    settings["sampling"]["temperature"] = json!(0);
    call(app, "save_settings", json!({ "settings": settings })).await?;
    call(app, "download_model", json!({ "repo": REPO })).await?;
    let id = loop {
        let models = call(app, "list_models", json!({})).await?;
        let mut models = models.as_array().into_iter().flatten();
        if let Some(model) = models.find(|model| model["id"].as_str() == Some(REPO)) {
            break model["id"].clone();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    call(app, "load_model", json!({ "id": id, "force": false })).await?;
    Ok(())
}

/// Kills the process that draws the page: the one of WebKit that this program's app started.
fn kill_page() -> anyhow::Result<()> {
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if name_of(id).as_deref() == Some("WebKitWebProces") && is_ours(id) {
            // SAFETY: plain system call on a process that the app under test started.
            unsafe { libc::kill(id, libc::SIGKILL) };
            killed += 1;
        }
    }
    ensure!(killed == 1, "{killed} pages were there");
    Ok(())
}

/// As the system has it: 15 characters.
fn name_of(id: libc::pid_t) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
    Some(name.trim().to_owned())
}

fn is_ours(mut id: libc::pid_t) -> bool {
    let me = std::process::id() as libc::pid_t;
    while id > 1 && id != me {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else {
            return false;
        };
        // Behind the name, which may hold anything, come the state and the parent.
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split(' ').nth(2));
        id = parent.and_then(|parent| parent.parse().ok()).unwrap_or(0);
    }
    id == me
}
