//! A model from a hub on this machine: downloaded, paused, loaded, asked, deleted.

use std::path::Path;

use anyhow::{Context, ensure};
use octet_test_hub::{Fault, FaultKind, Repo, TestHub};

use crate::driver::{App, Home};

/// The demo model's files, as somebody's repository.
const REPO: &str = "smoke/small-mixtral";

/// The same, with terms that have to be accepted.
const GATED: &str = "smoke/gated-mixtral";

/// Good for an account that has accepted them.
const TOKEN: &str = "hf_smoke";

/// Slow enough to be paused in the middle.
const SLOW_BYTES_PER_SEC: u64 = 200_000;

pub async fn hub() -> anyhow::Result<TestHub> {
    let hub = TestHub::start(0).await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src-tauri/crates/demo/model");
    let repo = Repo::from_folder(&folder).with_context(|| folder.display().to_string())?;
    hub.publish(GATED, repo.clone().gated(&["ada"]));
    hub.publish(REPO, repo);
    hub.allow(TOKEN, "ada");
    Ok(hub)
}

/// Ends the app in the middle of a second download, too.
pub async fn from_the_hub(home: &Home, hub: &TestHub) -> anyhow::Result<()> {
    let app = App::start(home).await?;
    download(&app, hub).await.context("a download")?;
    chat(&app).await.context("the downloaded model")?;
    delete(&app).await.context("deleting it")?;
    slow_down(hub);
    app.step("begin again", begin(&app, REPO)).await?;
    app.step("bytes arrive", app.until(PROGRESS)).await?;
    app.close().await?;

    hub.behave();
    let app = App::start(home).await?;
    app.step("open the models", app.go("#/models")).await?;
    app.step(
        "the download was kept",
        app.text("Octet was closed during the download"),
    )
    .await?;
    app.screenshot("interrupted").await?;
    app.step("go on with it", app.click_in("Downloads", "Resume"))
        .await?;
    app.step("it arrives", app.find_in("Installed", "Delete"))
        .await?;
    with_a_token(&app).await.context("a gated model")?;
    app.close().await
}

/// Is refused without a token and with a wrong one.
async fn with_a_token(app: &App<'_>) -> anyhow::Result<()> {
    const REFUSED: &str = "The model’s terms must be accepted first.";
    app.step("look up a gated model", look_up(app, GATED))
        .await?;
    app.step("it says that it is gated", app.text(REFUSED))
        .await?;
    app.screenshot("gated").await?;
    app.step("to the token", app.click("Enter a token")).await?;
    app.step("keep a wrong one", enter_token(app, "hf_wrong"))
        .await?;
    app.step("it is wrong", app.text("The access token is invalid."))
        .await?;
    app.step("keep a right one", enter_token(app, TOKEN))
        .await?;
    app.step(
        "it says whose it is",
        app.text("The token works. Account: ada"),
    )
    .await?;
    app.screenshot("token").await?;
    app.step("look it up again and download it", begin(app, GATED))
        .await?;
    app.step("it arrives", app.until(BOTH)).await?;
    app.step("remove the token", app.click("Remove")).await?;
    app.step(
        "none is kept",
        app.find("input[type=password][placeholder^='hf_']"),
    )
    .await?;
    Ok(())
}

async fn enter_token(app: &App<'_>, token: &str) -> anyhow::Result<()> {
    let field = app.find("input[type=password]").await?;
    field.send_keys(token).await?;
    app.click("Save").await
}

/// The demo and two models from the hub.
const BOTH: &str =
    "return document.querySelectorAll('ul[aria-label=\"Installed\"] article').length === 3";

/// Something has arrived and not all.
const PROGRESS: &str =
    "const bar = document.querySelector('ul[aria-label=\"Downloads\"] [role=progressbar]');
     const share = Number(bar?.getAttribute('aria-valuenow'));
     return share > 0 && share < 100";

fn slow_down(hub: &TestHub) {
    let slow = FaultKind::Slow {
        bytes_per_sec: SLOW_BYTES_PER_SEC,
    };
    hub.misbehave(Fault::bytes("-of-", u32::MAX, slow));
}

async fn look_up(app: &App<'_>, repo: &str) -> anyhow::Result<()> {
    app.go("#/models").await?;
    let field = app.find("form input[placeholder='owner/name']").await?;
    field.clear().await?;
    field.send_keys(repo).await?;
    app.click("Look up").await
}

/// Looks a model up by its name and starts the download.
async fn begin(app: &App<'_>, repo: &str) -> anyhow::Result<()> {
    look_up(app, repo).await?;
    let found = format!(
        "//article[.//*[normalize-space()={repo:?}]]//button[normalize-space()='Download']"
    );
    app.click_at(&found).await
}

async fn download(app: &App<'_>, hub: &TestHub) -> anyhow::Result<()> {
    slow_down(hub);
    app.step("look up a model and download it", begin(app, REPO))
        .await?;
    app.step("bytes arrive", app.until(PROGRESS)).await?;
    app.screenshot("download").await?;
    app.step("pause", app.click_in("Downloads", "Pause"))
        .await?;
    app.step("it is paused", app.find_in("Downloads", "Resume"))
        .await?;
    hub.behave();
    app.step("resume", app.click_in("Downloads", "Resume"))
        .await?;
    app.step("it arrives", app.find_in("Installed", "Delete"))
        .await?;
    app.screenshot("installed").await?;
    app.step("check its files", app.click_in("Installed", "Check files"))
        .await?;
    app.step("they are sound", app.text("match the published ones"))
        .await?;
    Ok(())
}

async fn chat(app: &App<'_>) -> anyhow::Result<()> {
    app.step("load it", app.click_in("Installed", "Load"))
        .await?;
    app.step("it is ready", app.find_in("Installed", "Chat"))
        .await?;
    app.step("open a chat", app.click_in("Installed", "Chat"))
        .await?;
    app.step("it answers", app.model_is_ready()).await?;
    app.step("ask it", app.send("What is Octet?")).await?;
    let answer = app
        .step("an answer comes to its end", app.finished_answer(1))
        .await?;
    ensure!(!answer.trim().is_empty(), "the answer is empty");
    Ok(())
}

async fn delete(app: &App<'_>) -> anyhow::Result<()> {
    app.step("open the models", app.go("#/models")).await?;
    app.step("ask to delete it", app.click_in("Installed", "Delete"))
        .await?;
    app.step("it is loaded: unload", app.click_in_dialog("Unload"))
        .await?;
    app.step("it is unloaded", app.find_in("Installed", "Load"))
        .await?;
    app.step("ask again", app.click_in("Installed", "Delete"))
        .await?;
    app.step("delete it", app.click_in_dialog("Delete")).await?;
    app.step("it is said what is free", app.text("was deleted;"))
        .await?;
    app.step("it is gone", app.until(GONE)).await
}

/// The demo alone is left.
const GONE: &str =
    "return document.querySelectorAll('ul[aria-label=\"Installed\"] article').length === 1";
