//! Downloads from a hub that misbehaves: they end complete and byte-identical, or in a clear
//! error from which they go on.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::*;
use octet_models::{DownloadEnd, DownloadState, ModelsError};
use octet_test_hub::{Fault, FaultKind, Part};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

/// The trunk, which is the largest file.
fn trunk() -> (String, u64) {
    let files = model_files();
    let tensors = files
        .iter()
        .filter(|(name, _)| name.ends_with(".safetensors"));
    let (name, bytes) = tensors.max_by_key(|(_, bytes)| bytes.len()).unwrap();
    (name.clone(), bytes.len() as u64)
}

/// Downloads under these faults, which all pass.
async fn survives(faults: Vec<Fault>) -> Bench {
    let bench = Bench::new().await;
    for fault in faults {
        bench.hub.misbehave(fault);
    }
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    bench.assert_complete(&model_files()).await;
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_drop_cost_no_byte_twice() {
    let (name, size) = trunk();
    let drops =
        [1000, 70_000, 100_000].map(|after| Fault::bytes(&name, 1, FaultKind::Drop { after }));
    let bench = survives(drops.into()).await;
    let sent = bench.hub.sent_bytes()[&name];
    // What was in the air when a connection broke may come again.
    assert!(sent >= size && sent < size + (64 << 10), "{sent} of {size}");
    let served = bench.hub.served();
    let asked: Vec<u64> = served
        .iter()
        .filter(|s| s.file.as_ref() == Some(&name))
        .map(|s| s.from)
        .collect();
    let goes_on = asked.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(asked.len() == 4 && asked[0] == 0 && goes_on, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_end_early_are_continued() {
    let (name, _) = trunk();
    let cut = |after| Fault::bytes(&name, 1, FaultKind::Truncate { after });
    survives(vec![cut(5000), cut(0), cut(1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_found_and_fetched_again() {
    let (name, size) = trunk();
    let bench = survives(vec![
        Fault::bytes(&name, 1, FaultKind::Corrupt { at: size - 1 }),
        Fault::bytes("config.json", 1, FaultKind::Corrupt { at: 3 }),
    ])
    .await;
    assert!(bench.hub.sent_bytes()[&name] >= 2 * size);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_stay_wrong_are_an_error_and_nothing_wrong_is_kept() {
    let (name, _) = trunk();
    let bench = Bench::new().await;
    bench
        .hub
        .misbehave(Fault::bytes(&name, 1000, FaultKind::Corrupt { at: 10 }));
    let problem = bench.fail().await;
    assert_problem!(&problem, ModelsError::Checksum { .. });
    assert!(problem.message().contains(&name), "{problem:?}");
    bench.hub.behave();
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    bench.assert_complete(&model_files()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls_are_shown_and_end_in_a_new_connection() {
    let mut bench = Bench::new().await;
    bench.options.transfer.idle_timeout = Duration::from_secs(2);
    bench.restart();
    let stall = FaultKind::Stall {
        after: 100,
        ms: 60_000,
    };
    bench.hub.misbehave(Fault::bytes("model-", 4, stall));
    bench.manager.download(MODEL).await.unwrap();
    let mut states = bench.manager.watch();
    let is_stalled = |state: &octet_models::ModelsState| {
        let stalled = |d: &octet_models::Download| matches!(d.state, DownloadState::Stalled { .. });
        state.downloads.iter().any(stalled)
    };
    tokio::time::timeout(Duration::from_secs(20), states.wait_for(is_stalled))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bench.manager.wait(MODEL).await.unwrap(), DownloadEnd::Gone);
    bench.assert_complete(&model_files()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_is_left_alone_as_long_as_it_asks() {
    let bench = Bench::new().await;
    let busy = FaultKind::Status {
        status: 429,
        retry_after: Some("0.4".to_owned()),
        error_code: None,
        message: None,
    };
    bench
        .hub
        .misbehave(Fault::of(Part::Resolve, "00002", 1, busy.clone()));
    bench.hub.misbehave(Fault::of(Part::Api, "", 1, busy));
    let begin = Instant::now();
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    assert!(begin.elapsed() >= Duration::from_millis(800), "both waits");
    bench.assert_complete(&model_files()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_stays_away_is_an_error_that_names_it() {
    for kind in [
        FaultKind::status(429),
        FaultKind::status(500),
        FaultKind::status(404),
        FaultKind::status(403),
        FaultKind::Drop { after: 0 },
    ] {
        let bench = Bench::new().await;
        bench.hub.misbehave(Fault::of(
            Part::Resolve,
            ".safetensors",
            10_000,
            kind.clone(),
        ));
        let problem = bench.fail().await;
        let is_of_kind = match kind {
            FaultKind::Status { status: 429, .. } => {
                matches!(problem, ModelsError::RateLimited { .. })
            }
            FaultKind::Status { status: 500, .. } => matches!(problem, ModelsError::Hub { .. }),
            FaultKind::Status { status: 404, .. } => matches!(problem, ModelsError::Missing { .. }),
            FaultKind::Status { .. } => matches!(problem, ModelsError::Gated { .. }),
            // A redirect to nowhere is no redirect.
            _ => !matches!(problem, ModelsError::Io { .. }),
        };
        assert!(is_of_kind, "{kind:?}: {problem:?}");
        assert_is_told(&problem);
        bench.hub.behave();
        assert_eq!(bench.download().await, DownloadEnd::Gone, "{kind:?}");
        bench.assert_complete(&model_files()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_the_store_that_expire_are_asked_for_again() {
    let expired = Fault::bytes("model-", 5, FaultKind::status(403));
    let broken = Fault::bytes("model-", 3, FaultKind::status(503));
    survives(vec![expired, broken]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_costs_bytes_but_no_progress() {
    let (name, size) = trunk();
    let bench = survives(vec![
        Fault::bytes(&name, 1, FaultKind::Drop { after: size / 2 }),
        Fault::bytes(&name, 1, FaultKind::IgnoreRange),
    ])
    .await;
    assert!(bench.hub.sent_bytes()[&name] >= size + size / 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_changes_at_the_store_is_not_mixed() {
    let (name, size) = trunk();
    let etag = "another".to_owned();
    survives(vec![
        Fault::bytes(&name, 1, FaultKind::Drop { after: size / 2 }),
        Fault::bytes(&name, 1, FaultKind::Etag { etag }),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_moves_on_is_listed_again() {
    let mut bench = Bench::new().await;
    let (name, _) = trunk();
    let slow = FaultKind::Slow {
        bytes_per_sec: 100_000,
    };
    bench.hub.misbehave(Fault::bytes(&name, 1000, slow));
    bench.manager.download(MODEL).await.unwrap();
    while bench.shown().is_some_and(|d| d.done_bytes < 50_000) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.manager.pause(MODEL).await.unwrap();
    let mut changed = random_model(512, 9, true);
    changed.insert("README.md".to_owned(), b"Version 2".to_vec());
    bench.hub.publish(MODEL, repo(changed.clone()));
    bench.hub.behave();
    bench.restart();
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    let model = bench.the_model().await;
    assert!(read_folder(&model.path) == wanted(changed));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_tag_that_is_never_the_listed_one_is_an_error() {
    let bench = Bench::new().await;
    let etag = "0".repeat(64);
    bench.hub.misbehave(Fault::of(
        Part::Resolve,
        "00002",
        1000,
        FaultKind::Etag { etag },
    ));
    let problem = bench.fail().await;
    assert_problem!(&problem, ModelsError::Hub { .. });
    bench.hub.behave();
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    bench.assert_complete(&model_files()).await;
}

/// One of everything that may go wrong, somewhere.
fn random_fault(random: &mut Pcg64, files: &[(String, u64)]) -> Fault {
    let (name, size) = &files[random.random_range(0..files.len())];
    let size = (*size).max(1);
    let after = random.random_range(0..size);
    let times = random.random_range(1..4);
    let etag = || "f".repeat(64);
    match random.random_range(0..14) {
        0..=2 => Fault::bytes(name, times, FaultKind::Drop { after }),
        3 | 4 => Fault::bytes(name, times, FaultKind::Truncate { after }),
        5 => Fault::bytes(name, times, FaultKind::Corrupt { at: after }),
        6 => Fault::bytes(
            name,
            1,
            FaultKind::Stall {
                after,
                ms: random.random_range(1..700),
            },
        ),
        7 => Fault::bytes(name, times, FaultKind::IgnoreRange),
        8 => Fault::bytes(name, times, FaultKind::Etag { etag: etag() }),
        9 => Fault::of(Part::Resolve, name, times, FaultKind::Etag { etag: etag() }),
        10 => {
            let status = [401, 403, 404, 408, 416, 500, 502, 503][random.random_range(0..8)];
            Fault::of(Part::Resolve, name, times, FaultKind::status(status))
        }
        11 => {
            let kind = FaultKind::Status {
                status: 429,
                retry_after: Some("0.02".to_owned()),
                error_code: None,
                message: None,
            };
            Fault::of(Part::Resolve, name, times, kind)
        }
        12 => {
            let status = [401, 403, 404, 416, 429, 500, 503][random.random_range(0..7)];
            Fault::bytes(name, times, FaultKind::status(status))
        }
        _ => {
            let status = [401, 403, 404, 429, 500, 503][random.random_range(0..6)];
            Fault::of(Part::Api, "", times, FaultKind::status(status))
        }
    }
}

/// A run of faults, pauses and restarts; how many times it ended in an error on the way.
async fn random_sequence(seed: u64) -> u32 {
    let mut random = Pcg64::seed_from_u64(seed);
    let files: Vec<(String, u64)> = wanted(model_files())
        .into_iter()
        .map(|(name, bytes)| (name, bytes.len() as u64))
        .collect();
    let mut bench = Bench::new().await;
    let mut errors = 0;
    for round in 0..6 {
        for _ in 0..random.random_range(1..10) {
            bench.hub.misbehave(random_fault(&mut random, &files));
        }
        bench.manager.download(MODEL).await.unwrap();
        if random.random_bool(0.3) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await;
            match random.random_bool(0.5) {
                // It may be complete by now.
                true => drop(bench.manager.pause(MODEL).await),
                false => {
                    bench.manager.shut_down().await;
                    bench.restart();
                    continue;
                }
            }
        }
        match bench.manager.wait(MODEL).await.unwrap() {
            DownloadEnd::Gone => break,
            DownloadEnd::Paused => {}
            DownloadEnd::Failed(problem) => {
                errors += 1;
                assert!(
                    !matches!(
                        problem,
                        ModelsError::Io { .. }
                            | ModelsError::Foreign { .. }
                            | ModelsError::Invalid { .. }
                    ),
                    "seed {seed}, round {round}: {problem:?}"
                );
                assert_is_told(&problem);
            }
        }
        // It may have been complete just before it was shut down.
        for model in bench.installed().await {
            let is_whole = read_folder(&model.path) == wanted(model_files());
            assert!(is_whole, "seed {seed}, round {round}: half a model is none");
        }
    }
    bench.hub.behave();
    assert_eq!(bench.download().await, DownloadEnd::Gone, "seed {seed}");
    bench.assert_complete(&model_files()).await;
    errors
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_random_sequences_of_faults_end_complete_and_identical() {
    const AT_A_TIME: usize = 8;
    let mut running = tokio::task::JoinSet::new();
    let mut errors = 0;
    for seed in 0..200 {
        if running.len() >= AT_A_TIME {
            errors += running.join_next().await.unwrap().unwrap();
        }
        running.spawn(random_sequence(seed));
    }
    while let Some(ended) = running.join_next().await {
        errors += ended.unwrap();
    }
    // Otherwise the faults were too kind to tell anything.
    assert!(errors > 20, "{errors} errors on the way");
}
