//! `octet-smoke APP [--screenshots DIR]`: starts the app in a home of its own and does what a
//! person does first. Every step has a time limit; the first one that fails ends the run.
//! `octet-smoke APP --measure OCTET MODEL` takes figures instead: see [`measure`].
//! `octet-smoke APP --closes COUNT` opens and closes the window so many times: see [`closes`].
//!
//! Needs `tauri-driver` and `WebKitWebDriver` on the path, and a display.

mod closes;
mod driver;
mod measure;
mod models;
mod page;
mod reload;
mod words;

use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::driver::{App, Home};

const USAGE: &str =
    "usage: octet-smoke APP [--screenshots DIR | --measure OCTET MODEL | --closes COUNT]";

/// What is to be done.
pub enum Task {
    Smoke {
        screenshots: Option<PathBuf>,
    },
    Measure {
        /// The command line.
        octet: PathBuf,
        /// A folder.
        model: PathBuf,
    },
    Closes {
        count: usize,
    },
}

fn arguments() -> anyhow::Result<(PathBuf, Task)> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let mut next = || arguments.next();
    let app = next().context(USAGE)?;
    let app = app
        .canonicalize()
        .with_context(|| format!("no app at {}", app.display()))?;
    let task = match next() {
        None => Task::Smoke { screenshots: None },
        Some(flag) if flag.as_os_str() == "--screenshots" => Task::Smoke {
            screenshots: Some(next().context(USAGE)?),
        },
        Some(flag) if flag.as_os_str() == "--measure" => Task::Measure {
            octet: next().context(USAGE)?,
            model: next().context(USAGE)?,
        },
        Some(flag) if flag.as_os_str() == "--closes" => {
            let count = next().context(USAGE)?;
            let count = count.to_str().and_then(|count| count.parse().ok());
            Task::Closes {
                count: count.context(USAGE)?,
            }
        }
        Some(_) => anyhow::bail!(USAGE),
    };
    Ok((app, task))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (app, task) = arguments()?;
    let hub = models::hub().await?;
    let home = Home::new(&app, hub.url(), &task)?;
    if let Task::Measure { octet, model } = &task {
        words::provide(model)?;
        return measure::all(&home, octet, model).await;
    }
    if let Task::Closes { count } = task {
        return closes::clean(&home, count).await;
    }
    first_start(&home).await.context("the first start")?;
    models::from_the_hub(&home, &hub).await?;
    reload::publish_endless(&hub)?;
    reload::in_the_middle(&home)
        .await
        .context("a page that goes away")?;
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
    // Stopped before its first word, the question would be taken back.
    app.step(
        "its first words come",
        app.until("return document.querySelectorAll('article.answer .markdown').length === 2"),
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
    app.step("they are copied", app.text("Diagnostics copied"))
        .await?;
    app.screenshot("settings").await?;
    measure::round_trip(&app).await?;
    app.close().await
}

/// Written right before the window is closed.
const HALF: &str = "half a thought";

/// Finds the chat again.
async fn second_start(home: &Home) -> anyhow::Result<()> {
    let app = App::start(home).await?;
    app.step("the chat is in the list", app.text("What is Octet?"))
        .await?;
    app.step("the dark theme was kept", app.theme_is("dark"))
        .await?;
    app.step("delete a chat", app.delete_first_chat()).await?;
    app.step("open what was deleted", app.go("#/trash")).await?;
    app.step("it is there", app.button("Restore")).await?;
    app.screenshot("trash").await?;
    app.step("restore it", app.click("Restore")).await?;
    app.step(
        "the chat is in the list again",
        app.find("nav a[data-chat]"),
    )
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
    app.step("paste from the context menu", app.paste_by_menu("pasted"))
        .await?;
    app.screenshot("pasted").await?;
    app.step("open the new chat", app.go("#/")).await?;
    app.step("begin to write", app.write(HALF)).await?;
    app.step("close the window", closes::as_a_person()).await?;
    app.abandon().await?;

    let app = App::start(home).await?;
    app.step(
        "what was begun to write is there",
        app.until(&format!(
            "return document.querySelector('.composer textarea')?.value === {HALF:?}"
        )),
    )
    .await?;
    app.close().await
}
