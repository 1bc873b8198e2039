//! Figures to look at, never to fail on.

use std::collections::HashMap;

use crate::driver::{App, Home};

/// Memory of the app and its web processes, and how long the start took.
pub fn idle(home: &Home) {
    for (name, rss_kb, pss_kb) in processes() {
        println!(
            "     {name}: RSS {} MB, PSS {} MB",
            rss_kb / 1024,
            pss_kb / 1024
        );
    }
    for line in home.log().lines().filter(|line| line.contains("start_ms")) {
        println!("     {line}");
    }
}

/// Name, RSS and PSS of the app's processes.
fn processes() -> Vec<(String, u64, u64)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found = Vec::new();
    for entry in entries {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).ok();
        let Some(name) = read("comm") else { continue };
        let name = name.trim();
        let ours = ["octet-app", "WebKitWebProces", "WebKitNetworkPr"];
        if !ours.contains(&name) {
            continue;
        }
        let rollup = read("smaps_rollup").unwrap_or_default();
        let figures: HashMap<&str, u64> = rollup
            .lines()
            .filter_map(|line| {
                let (key, value) = line.split_once(':')?;
                Some((key, value.trim().strip_suffix(" kB")?.parse().ok()?))
            })
            .collect();
        let figure = |key| figures.get(key).copied().unwrap_or_default();
        found.push((name.to_owned(), figure("Rss"), figure("Pss")));
    }
    found
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
