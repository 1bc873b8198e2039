//! `octet-smoke APP [--screenshots DIR]`: starts the app in a home of its own and does what a
//! person does first. Every step has a time limit; the first one that fails ends the run.
//!
//! Needs `tauri-driver` and `WebKitWebDriver` on the path, and a display.

mod driver;
mod measure;
mod models;
mod page;

use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::driver::{App, Home};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let usage = "usage: octet-smoke APP [--screenshots DIR]";
    let app = arguments.next().context(usage)?;
    let screenshots = match arguments.next() {
        None => None,
        Some(flag) if flag.as_os_str() == "--screenshots" => Some(arguments.next().context(usage)?),
        Some(_) => anyhow::bail!(usage),
    };
    let app = app
        .canonicalize()
        .with_context(|| format!("no app at {}", app.display()))?;
    let hub = models::hub().await?;
    let home = Home::new(&app, hub.url(), screenshots)?;
    first_start(&home).await.context("the first start")?;
    models::from_the_hub(&home, &hub).await?;
    second_start(&home).await.context("the second start")?;
    println!("all steps passed");
    Ok(())
}

/// Chats with the demo, stops an answer, changes settings.
async fn first_start(home: &Home) -> anyhow::Result<()> {
    let app = App::start(home).await?;
    app.step("the window is usable", app.button("Try the demo model"))
        .await?;
    app.screenshot("welcome").await?;
    measure::idle(home);
    app.step("load the demo", app.click("Try the demo model"))
        .await?;
    app.step("a composer", app.find(".composer textarea"))
        .await?;
    app.step("the demo is ready", app.model_is_ready()).await?;

    app.step("send a message", app.send("What is Octet?"))
        .await?;
    let answer = app
        .step("an answer comes to its end", app.finished_answer(1))
        .await?;
    ensure!(!answer.trim().is_empty(), "the answer is empty");
    println!("answer: {}", answer.lines().next().unwrap_or_default());
    app.screenshot("chat").await?;
    app.step("the page has its own policy", app.policy_holds())
        .await?;

    app.step(
        "send another",
        app.send("How do experts and offloading work?"),
    )
    .await?;
    app.step("stop it", app.stop_if_writing()).await?;
    app.step("it has ended", app.finished_answer(2)).await?;

    app.step("open the experts", app.go("#/experts")).await?;
    app.step(
        "the grid is there",
        app.find("[role=grid], [role=img], table, .grid"),
    )
    .await?;
    app.screenshot("experts").await?;
    app.step("open the models", app.go("#/models")).await?;
    app.screenshot("models").await?;
    app.step("open the settings", app.go("#/settings")).await?;
    app.step("settings are kept", app.switch_theme("Dark"))
        .await?;
    app.step("copy diagnostics", app.click("Copy diagnostics"))
        .await?;
    app.screenshot("settings").await?;
    measure::round_trip(&app).await?;
    app.close().await
}

/// Finds the chat again.
async fn second_start(home: &Home) -> anyhow::Result<()> {
    let app = App::start(home).await?;
    app.step("the chat is in the list", app.text("What is Octet?"))
        .await?;
    app.step("the dark theme was kept", app.theme_is("dark"))
        .await?;
    app.step("open the chat", app.open_first_chat()).await?;
    // It is laid out a moment after it is there, and has no text before.
    app.step(
        "the answer is there",
        app.until(
            "return (document.querySelector('article.answer')?.innerText ?? '').trim() !== ''",
        ),
    )
    .await?;
    app.screenshot("restart").await?;
    app.close().await
}
