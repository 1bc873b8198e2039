//! Figures to look at, never to fail on.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::driver::{App, Home};

const STARTS: usize = 5;

/// After this long without a model nothing moves any more.
const SETTLED: Duration = Duration::from_secs(10);

/// Turns that the command line and the app take.
const ROUNDS: usize = 5;

const TOKENS: usize = 128;

/// All of it: starts, memory without a model, a token's way to the screen, and what the window
/// costs beside `octet`, the command line, with the model in `folder`.
pub async fn all(home: &Home, octet: &Path, folder: &Path) -> anyhow::Result<()> {
    starts(home).await?;
    let imported = Command::new(octet)
        .args(["models", "import"])
        .arg(folder)
        .envs(home.environment())
        .stdout(Stdio::null())
        .status()?;
    ensure!(imported.success(), "the model cannot be imported");

    let app = App::start(home).await?;
    app.step("a composer", app.find("body")).await?;
    prepare(&app).await.context("the model")?;
    // The first answer reads the model's files; it counts for the times on screen only.
    let octet = CommandLine {
        home,
        octet,
        folder,
    };
    let question = octet.question()?;
    latency(&app, &question)
        .await
        .context("a token's way to the screen")?;
    speed(&app, &octet, &question).await.context("the speed")?;
    app.close().await
}

/// Starts without WebDriver, as a person starts it: until the window is usable, and the memory
/// that it takes then.
async fn starts(home: &Home) -> anyhow::Result<()> {
    for n in 1..=STARTS {
        let lines = home.log().lines().count();
        let begun = Instant::now();
        let app = home.launch()?;
        let usable = loop {
            ensure!(begun.elapsed() < Duration::from_secs(60), "no window");
            if home
                .log()
                .lines()
                .skip(lines)
                .any(|line| line.contains("start_ms"))
            {
                break begun.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        println!("start {n}: usable after {} ms", usable.as_millis());
        if n == STARTS {
            tokio::time::sleep(SETTLED).await;
            memory(app.0.id());
        }
    }
    Ok(())
}

/// Memory of the app and its web processes, and how long the start took.
pub fn idle(home: &Home) {
    let found = processes();
    if let Some(app) = found.iter().find(|process| process.name == "octet-app") {
        memory(app.id);
    }
    for line in home.log().lines().filter(|line| line.contains("start_ms")) {
        println!("     {line}");
    }
}

/// Prints the memory of process `id` and of all below it.
fn memory(id: u32) {
    let all = processes();
    let mut ours = vec![id];
    let mut total_kb = 0;
    // A child may be listed before its parent: once more for every generation.
    for _ in 0..4 {
        for process in &all {
            if ours.contains(&process.parent) && !ours.contains(&process.id) {
                ours.push(process.id);
            }
        }
    }
    for process in all.iter().filter(|process| ours.contains(&process.id)) {
        let (rss, pss) = (process.rss_kb / 1024, process.pss_kb / 1024);
        println!("     {}: RSS {rss} MB, PSS {pss} MB", process.name);
        total_kb += process.pss_kb;
    }
    println!("     together: PSS {} MB", total_kb / 1024);
}

struct Used {
    id: u32,
    parent: u32,
    name: String,
    rss_kb: u64,
    pss_kb: u64,
}

fn processes() -> Vec<Used> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let used = |entry: std::fs::DirEntry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).ok();
        let name = read("comm")?.trim().to_owned();
        let status = read("status")?;
        let rollup = read("smaps_rollup")?;
        let figures = figures(&rollup);
        let figure = |key| figures.get(key).copied().unwrap_or_default();
        Some(Used {
            id,
            parent: parent(&status)?,
            name,
            rss_kb: figure("Rss"),
            pss_kb: figure("Pss"),
        })
    };
    entries.filter_map(used).collect()
}

fn parent(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// The lines `Key: N kB` of a file.
fn figures(text: &str) -> HashMap<&str, u64> {
    let figure = |line: &'_ str| -> Option<u64> {
        let (_, value) = line.split_once(':')?;
        value.trim().strip_suffix(" kB")?.parse().ok()
    };
    text.lines()
        .filter_map(|line| Some((line.split_once(':')?.0, figure(line)?)))
        .collect()
}

/// Calls a command of the app.
pub async fn call(app: &App<'_>, command: &str, arguments: Value) -> anyhow::Result<Value> {
    let script = "const [command, args, done] = arguments;
         window.__TAURI_INTERNALS__.invoke(command, args)
             .then((value) => done({ value }), (error) => done({ error }))";
    let answer = app
        .client
        .execute_async(script, vec![json!(command), arguments])
        .await?;
    ensure!(answer["error"].is_null(), "{command}: {}", answer["error"]);
    Ok(answer["value"].clone())
}

/// Loads the model that was imported; answers are the likeliest and of a fixed length.
async fn prepare(app: &App<'_>) -> anyhow::Result<()> {
    let mut settings = call(app, "load_settings", json!({})).await?;
    settings["sampling"]["temperature"] = json!(0);
    settings["sampling"]["maxTokens"] = json!(TOKENS);
    call(app, "save_settings", json!({ "settings": settings })).await?;
    let models = call(app, "list_models", json!({})).await?;
    let mut models = models.as_array().into_iter().flatten();
    let model = models
        .find(|model| model["kind"] != "demo")
        .context("no model was imported")?;
    println!("model: {}", model["name"]);
    // From a disk it takes longer than a script may; the first question waits for it.
    app.client
        .execute(
            "window.__TAURI_INTERNALS__.invoke('load_model', { id: arguments[0], force: false })",
            vec![model["id"].clone()],
        )
        .await?;
    Ok(())
}

/// Asks in a new chat and waits for the end without looking at the page meanwhile; then shows
/// `screen` while the answer is written. Gives the answer's speed.
async fn answer(app: &App<'_>, question: &str, screen: Option<&str>) -> anyhow::Result<f64> {
    app.go("#/").await?;
    app.until("return document.querySelector('article.answer') === null")
        .await?;
    app.model_is_ready().await?;
    let logged = tokens_logged(&app.home.log());
    app.send(question).await?;
    app.until("return /chat\\/./.test(location.hash)").await?;
    let hash = app.script("return location.hash").await?;
    let chat = hash.as_str().and_then(|hash| hash.rsplit('/').next());
    let chat = chat.context("no chat")?.to_owned();
    if let Some(screen) = screen {
        app.go(screen).await?;
    }
    // Every look is work for the page, so that it is not asked before the engine's log has the end.
    let begun = Instant::now();
    while tokens_logged(&app.home.log()) < logged + TOKENS {
        ensure!(begun.elapsed() < Duration::from_secs(300), "no end");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    loop {
        ensure!(begun.elapsed() < Duration::from_secs(300), "not stored");
        let stored = call(app, "get_chat", json!({ "id": chat })).await?;
        let answers = stored["messages"].as_array().into_iter().flatten();
        let mut ended = answers.filter(|message| !message["stats"].is_null());
        if let Some(ended) = ended.next() {
            let stats = &ended["stats"];
            ensure!(stats["newTokens"] == TOKENS, "it ended early: {stats}");
            return stats["tokensPerSec"].as_f64().context("a speed");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn tokens_logged(log: &str) -> usize {
    log.matches("sampled n=").count()
}

/// From the moment a token was chosen (the engine's log) to the page: until the frame that has it
/// was drawn, and until the next frame began, when it is on the screen at the latest.
async fn latency(app: &App<'_>, question: &str) -> anyhow::Result<()> {
    app.script(
        "window.painted = [];
         const look = () => {
             const tokens = Number(document.querySelector('article[data-tokens]')?.dataset.tokens ?? 0);
             if (tokens === 0 || tokens === window.painted.at(-1)?.[0]) return;
             const now = () => performance.timeOrigin + performance.now();
             const row = [tokens, 0, 0];
             window.painted.push(row);
             const drawn = new MessageChannel();
             drawn.port1.onmessage = () => { row[1] = now(); };
             drawn.port2.postMessage(0);
             requestAnimationFrame(() => { row[2] = now(); });
         };
         window.looking = new MutationObserver(look);
         window.looking.observe(document.body, {
             subtree: true, attributes: true, attributeFilter: ['data-tokens'],
         })",
    )
    .await?;
    answer(app, question, None).await?;
    // It asks for a frame of its own for every token, which would count as the window's.
    let painted = app
        .script("window.looking.disconnect(); return window.painted")
        .await?;
    let log = app.home.log();
    let sampled = sampled(&log);
    ensure!(!sampled.is_empty(), "the engine logged no tokens");
    let (mut drawn, mut shown) = (Vec::new(), Vec::new());
    let mut before = 0;
    for row in painted.as_array().into_iter().flatten() {
        let number = |n: usize| row[n].as_f64().unwrap_or_default();
        let tokens = number(0) as usize;
        // A frame may bring more than one: each has waited since it was chosen.
        for n in before + 1..=tokens {
            let Some(at) = sampled.get(&n) else { continue };
            let since = |then: f64| (then - at).rem_euclid(DAY_MS);
            drawn.push(since(number(1)));
            shown.push(since(number(2)));
        }
        before = tokens;
    }
    println!("from chosen to drawn: {}", spread(&mut drawn));
    println!("from chosen to the next frame: {}", spread(&mut shown));
    Ok(())
}

const DAY_MS: f64 = 86_400_000.0;

/// When each token was chosen, in ms of the day, by its number.
fn sampled(log: &str) -> HashMap<usize, f64> {
    let line = |line: &str| -> Option<(usize, f64)> {
        let (stamp, rest) = line.trim_start().split_once('Z')?;
        let n = rest.split_once("sampled n=")?.1.trim().parse().ok()?;
        let (_, clock) = stamp.split_once('T')?;
        let mut at = 0.0;
        for part in clock.split(':') {
            at = at * 60.0 + part.parse::<f64>().ok()?;
        }
        Some((n, at * 1000.0))
    };
    log.lines().filter_map(line).collect()
}

/// The command line and the app in turn, with the same question and model.
async fn speed(app: &App<'_>, octet: &CommandLine<'_>, question: &str) -> anyhow::Result<()> {
    let (mut chat, mut experts, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for n in 1..=ROUNDS {
        // The neighbours of a round lie on both sides of it, so that a machine that slows down
        // or speeds up favours nobody.
        let before = octet.speed(question)?;
        let with_chat = answer(app, question, None).await?;
        let between = octet.speed(question)?;
        let with_experts = answer(app, question, Some("#/experts")).await?;
        let after = octet.speed(question)?;
        println!(
            "round {n}: octet {before:.2}, chat {with_chat:.2}, octet {between:.2}, \
             experts {with_experts:.2}, octet {after:.2} tokens/s"
        );
        chat.push(100.0 * with_chat / ((before + between) / 2.0));
        experts.push(100.0 * with_experts / ((between + after) / 2.0));
        alone.extend([before, between, after]);
    }
    println!("octet generate: {} tokens/s", spread(&mut alone));
    println!(
        "of its speed, with the chat on screen: {} %",
        spread(&mut chat)
    );
    println!(
        "of its speed, with the experts on screen: {} %",
        spread(&mut experts)
    );
    Ok(())
}

/// `octet` with the same model, in the same home.
struct CommandLine<'a> {
    home: &'a Home,
    octet: &'a Path,
    folder: &'a Path,
}

impl CommandLine<'_> {
    /// A question whose answer does not end early: with random weights one cannot know.
    fn question(&self) -> anyhow::Result<String> {
        for n in 1..=50 {
            let question = format!("What is the number {n} good for?");
            if self.ask(&question)?["new_tokens"] == TOKENS {
                return Ok(question);
            }
        }
        anyhow::bail!("all answers of this model are short")
    }

    fn speed(&self, question: &str) -> anyhow::Result<f64> {
        let stats = self.ask(question)?;
        stats["decode_tokens_per_sec"].as_f64().context("a speed")
    }

    /// The figures of its answer.
    fn ask(&self, question: &str) -> anyhow::Result<Value> {
        let output = Command::new(self.octet)
            .args(["generate", "--json", "--temperature", "0"])
            .args(["--max-new-tokens", &TOKENS.to_string()])
            .args(["--message", question, "--model"])
            .arg(self.folder)
            .envs(self.home.environment())
            .output()?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(report["stats"].clone())
    }
}

fn spread(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[(share * (values.len() - 1) as f64).round() as usize];
    format!(
        "median {:.1}, 95% {:.1}, {:.1} to {:.1} ({})",
        at(0.5),
        at(0.95),
        at(0.0),
        at(1.0),
        values.len()
    )
}

/// How long a command takes there and back.
pub async fn round_trip(app: &App<'_>) -> anyhow::Result<()> {
    // A command of a few bytes there and back, a hundred times.
    let trip = app
        .client
        .execute_async(
            "const done = arguments[arguments.length - 1];
             const invoke = window.__TAURI_INTERNALS__.invoke;
             (async () => {
                 const begun = performance.now();
                 for (let i = 0; i < 100; i++) await invoke('model_state');
                 done((performance.now() - begun) / 100);
             })()",
            Vec::new(),
        )
        .await?;
    println!("     a command there and back: {trip} ms");
    Ok(())
}
