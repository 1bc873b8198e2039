//! Downloads on a hub that behaves: what arrives, where it lies, and what is refused.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::*;
use octet_engine::plan::{Fit, PlanRequest};
use octet_models::{
    DownloadEnd, DownloadState, FolderFrom, Health, Manager, ModelsError, OfferStatus, PauseReason,
    TokenPlace,
};
use octet_test_hub::{Fault, FaultKind, Part, TestHub};

#[tokio::test(flavor = "multi_thread")]
async fn a_model_arrives_and_lies_as_in_a_hugging_face_cache() {
    let bench = Bench::new().await;
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    bench.assert_complete(&model_files()).await;
    let model = bench.the_model().await;
    assert_eq!(model.id, MODEL);
    assert!(model.has_tokenizer && model.fit.is_some());
    let shape = model.shape.unwrap();
    assert_eq!(
        (shape.layers, shape.experts, shape.experts_per_token),
        (2, 4, 2)
    );
    let dir = bench.repo_dir();
    let commit = std::fs::read_to_string(dir.join("refs/main")).unwrap();
    assert_eq!(model.path, dir.join("snapshots").join(&commit));
    #[cfg(unix)]
    {
        let link = std::fs::read_link(model.path.join("config.json")).unwrap();
        assert!(link.starts_with("../../blobs"), "{link:?}");
    }
    assert_eq!(
        bench.manager.folder_of("Small-Mixtral").unwrap(),
        model.path
    );
    assert!(bench.hub.served().iter().all(|served| !served.had_token));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_not_fetched_again() {
    let bench = Bench::new().await;
    bench.download().await;
    let before = bench.hub.sent_bytes();
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    let (before, after): (u64, u64) =
        (before.values().sum(), bench.hub.sent_bytes().values().sum());
    // The configuration and the index are looked at again.
    let small = model_files();
    let looked = small["config.json"].len() + small["model.safetensors.index.json"].len();
    assert_eq!(after - before, looked as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_hugging_face_cache_is_used_where_there_is_one() {
    let hub = TestHub::start(0).await.unwrap();
    hub.publish(MODEL, repo(model_files()));
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("hub")).unwrap();
    let manager = Manager::open(options(&hub.url(), home.path())).unwrap();
    let settings = manager.state().settings;
    assert_eq!(settings.folder, home.path().join("hub"));
    assert_eq!(settings.folder_from, FolderFrom::HubCache);
    manager.download(MODEL).await.unwrap();
    assert_eq!(manager.wait(MODEL).await.unwrap(), DownloadEnd::Gone);
    let link = home
        .path()
        .join("hub/models--tests--small-mixtral/refs/main");
    assert!(link.is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_download_goes_on_where_it_ended_also_after_a_restart() {
    let mut bench = Bench::new().await;
    let slow = FaultKind::Slow {
        bytes_per_sec: 200_000,
    };
    bench
        .hub
        .misbehave(Fault::bytes(".safetensors", 1000, slow));
    bench.manager.download(MODEL).await.unwrap();
    let some = |bench: &Bench| bench.shown().is_some_and(|d| d.done_bytes > 100_000);
    while !some(&bench) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.manager.pause(MODEL).await.unwrap();
    let paused = bench.shown().unwrap();
    let asked = PauseReason::Asked;
    assert_eq!(paused.state, DownloadState::Paused { reason: asked });
    assert!(paused.done_bytes > 100_000 && paused.done_bytes < paused.total_bytes);
    assert!(bench.installed().await.is_empty(), "half a model is none");

    bench.restart();
    let again = bench.shown().unwrap();
    assert_eq!(again.state, DownloadState::Paused { reason: asked });
    assert_eq!(again.done_bytes, paused.done_bytes);
    bench.hub.behave();
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    bench.assert_complete(&model_files()).await;
    // What was under way when it was paused, a few chunks a file, was sent twice at most.
    let files = model_files();
    for (name, sent) in bench.hub.sent_bytes() {
        let (size, looked) = (files[&name].len() as u64, 2);
        assert!(
            sent <= size * looked + (64 << 10),
            "{name}: {sent} of {size}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_download_leaves_nothing() {
    let bench = Bench::new().await;
    let slow = FaultKind::Slow {
        bytes_per_sec: 50_000,
    };
    bench
        .hub
        .misbehave(Fault::bytes(".safetensors", 1000, slow));
    bench.manager.download(MODEL).await.unwrap();
    while bench.shown().is_some_and(|d| d.done_bytes == 0) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.manager.cancel(MODEL).await.unwrap();
    assert_eq!(bench.shown(), None);
    assert!(!bench.repo_dir().exists());
    let error = bench.manager.resume(MODEL).await.unwrap_err();
    assert!(matches!(error, ModelsError::NotFound { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_wait_for_each_other() {
    let bench = Bench::new().await;
    let other = "tests/other";
    bench.hub.publish(other, repo(random_model(512, 1, true)));
    bench.manager.download(MODEL).await.unwrap();
    bench.manager.download(other).await.unwrap();
    let state = bench.manager.state();
    let waiting = state.downloads.iter().find(|d| d.repo == other).unwrap();
    assert_eq!(waiting.state, DownloadState::Queued { ahead: 1 });
    for repo in [MODEL, other] {
        assert_eq!(bench.manager.wait(repo).await.unwrap(), DownloadEnd::Gone);
    }
    assert_eq!(bench.installed().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_fetch_a_file_once() {
    let bench = Bench::new().await;
    let other = Manager::open(bench.options.clone()).unwrap();
    let slow = FaultKind::Slow {
        bytes_per_sec: 400_000,
    };
    bench
        .hub
        .misbehave(Fault::bytes(".safetensors", 1000, slow));
    bench.manager.download(MODEL).await.unwrap();
    other.download(MODEL).await.unwrap();
    for manager in [&bench.manager, &other] {
        assert_eq!(manager.wait(MODEL).await.unwrap(), DownloadEnd::Gone);
    }
    bench.assert_complete(&model_files()).await;
    for (name, sent) in bench.hub.sent_bytes() {
        if name.ends_with(".safetensors") {
            assert_eq!(sent, model_files()[&name].len() as u64, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokenizer_comes_from_the_first_source_that_has_the_right_one() {
    let hub = TestHub::start(0).await.unwrap();
    hub.publish(MODEL, repo(random_model(32_000, 0, false)));
    let byte_level = model_files()["tokenizer.json"].clone();
    let tokenizer = |bytes| repo([("tokenizer.json".to_owned(), bytes)].into());
    hub.publish("tests/wrong", tokenizer(byte_level));
    hub.publish("tests/gated", tokenizer(mixtral_tokenizer()).gated(&[]));
    hub.publish("tests/right", tokenizer(mixtral_tokenizer()));
    let mut bench = Bench::at(hub);
    let sources = ["tests/none", "tests/wrong", "tests/gated", "tests/right"];
    bench.options.catalogue = catalogue(&sources, mixtral_check());
    bench.restart();
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    let model = bench.the_model().await;
    assert!(model.has_tokenizer && matches!(model.health, Health::Good { .. }));
    let beside = std::fs::read(model.path.join("tokenizer.json")).unwrap();
    assert!(beside == mixtral_tokenizer());
    assert!(
        bench
            .root()
            .join("models--tests--right/refs/main")
            .is_file()
    );
    let loaded = octet_engine::Loaded::open(&model.path, &octet_engine::LoadOptions::default());
    assert_eq!(loaded.unwrap().tokenizer.unwrap().vocab_size(), 32_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tokenizer_the_error_says_what_was_tried_before_gigabytes_are_fetched() {
    let hub = TestHub::start(0).await.unwrap();
    hub.publish(MODEL, repo(random_model(32_000, 0, false)));
    let files = [("tokenizer.json".to_owned(), mixtral_tokenizer())];
    hub.publish("tests/gated", repo(files.into()).gated(&["ann"]));
    hub.allow("hf_ann", "ann");
    let mut bench = Bench::at(hub);
    bench.options.catalogue = catalogue(&["tests/none", "tests/gated"], mixtral_check());
    bench.restart();
    let problem = bench.fail().await;
    assert_problem!(&problem, ModelsError::NoTokenizerFound { .. });
    assert!(
        problem.message().contains("tests/none (it is not there)"),
        "{problem:?}"
    );
    assert!(
        problem.message().contains("tests/gated (it is gated)"),
        "{problem:?}"
    );
    assert!(problem.hint().contains("access token"), "{problem:?}");
    assert!(
        !bench
            .hub
            .sent_bytes()
            .keys()
            .any(|name| name.ends_with(".safetensors"))
    );
    // With the token of an account that has accepted the terms it goes on.
    let place = bench
        .manager
        .set_token(Some("hf_ann".to_owned()))
        .await
        .unwrap();
    assert_eq!(place, Some(TokenPlace::Session));
    assert_eq!(bench.manager.check_token().await.unwrap(), "ann");
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    assert!(bench.the_model().await.has_tokenizer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_to_the_hub_and_nowhere_else() {
    let bench = Bench::new().await;
    bench
        .hub
        .publish(MODEL, repo(model_files()).gated(&["ann"]));
    bench.hub.allow("hf_ann", "ann");
    let elsewhere = TestHub::start(0).await.unwrap();
    let to = format!("{}/tests/x/resolve/main/config.json", elsewhere.url());
    bench.hub.misbehave(Fault::of(
        Part::Resolve,
        "00003",
        1,
        FaultKind::Redirect { to },
    ));
    bench
        .manager
        .set_token(Some("hf_ann".to_owned()))
        .await
        .unwrap();
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    bench.assert_complete(&model_files()).await;
    let served = bench.hub.served();
    assert!(served.iter().any(|s| s.at_store) && elsewhere.served().len() == 1);
    assert!(
        served.iter().all(|s| s.had_token != s.at_store),
        "at the hub, always; at the store, never"
    );
    assert!(elsewhere.served().iter().all(|s| !s.had_token));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_is_an_error_of_its_own_with_the_next_step() {
    let bench = Bench::new().await;
    let look = async |repo: &str| {
        let found = bench.manager.look_up(repo, &PlanRequest::default()).await;
        found.unwrap_err()
    };
    let gated = repo(model_files()).gated(&["ann"]);
    bench.hub.publish("tests/gated", gated);
    bench
        .hub
        .publish("tests/private", repo(model_files()).private());
    bench.hub.allow("hf_bob", "bob");
    let readme = [("README.md".to_owned(), b"nothing".to_vec())];
    bench.hub.publish("tests/empty", repo(readme.into()));
    let mut float = model_files();
    float.insert(
        "config.json".to_owned(),
        br#"{"model_type": "llama"}"#.to_vec(),
    );
    bench.hub.publish("tests/llama", repo(float));

    let problem = look("tests/gated").await;
    assert_problem!(&problem, ModelsError::Gated { .. });
    assert!(problem.hint().contains("accept the terms"), "{problem:?}");
    assert_problem!(&look("tests/missing").await, ModelsError::Missing { .. });
    assert_problem!(&look("tests/private").await, ModelsError::Missing { .. });
    assert_problem!(&look("tests/empty").await, ModelsError::Foreign { .. });
    let problem = look("tests/llama").await;
    assert_problem!(&problem, ModelsError::Foreign { .. });
    assert!(
        problem.message().contains("Mixtral models only"),
        "{problem:?}"
    );
    assert_problem!(&look("no owner").await, ModelsError::Invalid { .. });
    bench
        .hub
        .misbehave(Fault::of(Part::Api, "", 9, FaultKind::status(429)));
    assert_problem!(&look(MODEL).await, ModelsError::RateLimited { .. });
    bench.hub.behave();
    bench
        .hub
        .misbehave(Fault::of(Part::Api, "", 9, FaultKind::status(503)));
    assert_problem!(&look(MODEL).await, ModelsError::Hub { .. });
    bench.hub.behave();

    bench
        .manager
        .set_token(Some("hf_bob".to_owned()))
        .await
        .unwrap();
    let problem = look("tests/gated").await;
    assert_problem!(&problem, ModelsError::Gated { .. });
    assert!(
        problem
            .hint()
            .contains("the account that the access token belongs to"),
        "{problem:?}"
    );
    assert_problem!(&look("tests/missing").await, ModelsError::Missing { .. });
    bench
        .manager
        .set_token(Some("hf_wrong".to_owned()))
        .await
        .unwrap();
    assert_problem!(&look(MODEL).await, ModelsError::Token { .. });
    let wrong = bench.manager.check_token().await.unwrap_err();
    assert_problem!(&wrong, ModelsError::Token { .. });
    bench.manager.set_token(None).await.unwrap();

    // Nobody listens there.
    bench
        .manager
        .set_endpoint(Some("http://127.0.0.1:1".to_owned()))
        .await
        .unwrap();
    let problem = look(MODEL).await;
    assert_problem!(&problem, ModelsError::Network { .. });
    // A hub without encryption where it is expected.
    let address = bench.hub.url().replace("http://", "https://");
    bench.manager.set_endpoint(Some(address)).await.unwrap();
    assert_problem!(&look(MODEL).await, ModelsError::Tls { .. });
}

#[tokio::test(flavor = "multi_thread")]
async fn file_names_that_lead_elsewhere_are_refused_before_anything_is_written() {
    for listed in [
        "../../escaped.json",
        "/escaped.json",
        "a\\b.json",
        "C:x.json",
        "nul.json",
    ] {
        let bench = Bench::new().await;
        let published = repo(model_files()).renamed("README.md", listed);
        bench.hub.publish(MODEL, published);
        let problem = bench.fail().await;
        assert_problem!(&problem, ModelsError::Hub { .. });
        assert!(
            problem.message().contains("no name inside a folder"),
            "{problem:?}"
        );
        assert!(!bench.repo_dir().join("blobs").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_tell_fit_disk_and_what_is_here() {
    let mut bench = Bench::new().await;
    let plan = PlanRequest::default();
    let offer = bench.manager.look_up(MODEL, &plan).await.unwrap();
    assert_eq!(offer.status, OfferStatus::Available);
    assert_eq!(offer.license.as_deref(), Some("apache-2.0"));
    let published = wanted(model_files());
    assert_eq!(
        offer.size_bytes,
        published.values().map(|f| f.len() as u64).sum::<u64>()
    );
    assert_eq!(offer.files as usize, published.len());
    assert_eq!(offer.fit.badge, Some(Fit::Fits), "{offer:?}");
    assert!(offer.disk.is_enough && offer.disk.needed_bytes == offer.size_bytes);
    assert_eq!(offer.tokenizer_from, [MODEL]);
    bench.options.transfer.disk_reserve_bytes = u64::MAX / 2;
    bench.options.catalogue = catalogue(&[], mixtral_check());
    bench.restart();
    let offers = bench.manager.offers(&plan).await;
    assert!(!offers[0].disk.is_enough);
    let problem = bench.fail().await;
    assert_problem!(&problem, ModelsError::DiskFull { .. });
    assert_eq!(
        bench.manager.offers(&plan).await[0].status,
        OfferStatus::Downloading
    );
    bench.options.transfer.disk_reserve_bytes = 0;
    bench.restart();
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    assert_eq!(
        bench.manager.offers(&plan).await[0].status,
        OfferStatus::Installed
    );
}

fn is_missing(problem: &ModelsError) -> bool {
    matches!(problem, ModelsError::Missing { .. })
}

fn is_foreign(problem: &ModelsError) -> bool {
    matches!(problem, ModelsError::Foreign { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_wrong_leaves_nothing_behind() {
    let mut bench = Bench::new().await;
    bench.hub.publish(
        "tests/other",
        repo([("config.json".to_owned(), b"{}".to_vec())].into()),
    );
    for (name, is_of_kind) in [
        ("tests/none", is_missing as fn(&ModelsError) -> bool),
        ("tests/other", is_foreign),
    ] {
        for _ in 0..2 {
            bench.manager.download(name).await.unwrap();
            match bench.manager.wait(name).await.unwrap() {
                DownloadEnd::Failed(problem) => {
                    assert!(is_of_kind(&problem), "{problem:?}");
                    assert_is_told(&problem);
                }
                other => panic!("{other:?}"),
            }
        }
        let shown = bench.manager.state().downloads;
        assert!(shown.iter().any(|d| d.repo == name), "as long as it runs");
    }
    bench.restart();
    assert_eq!(bench.manager.state().downloads, []);
    let left = std::fs::read_dir(bench.root()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == ".locks"), "{left:?}");
}

/// Another program's file with the right name and size need not have the right bytes.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_here_before_is_compared_and_fetched_only_where_it_is_bad() {
    let bench = Bench::new().await;
    let published = repo(model_files());
    let mut large = published.files().iter().filter(|f| f.sha256.is_some());
    let (good, bad) = (large.next().unwrap(), large.next().unwrap());
    let blobs = bench.repo_dir().join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    for file in [good, bad] {
        let mut bytes = model_files()[&file.name].clone();
        if file.name == bad.name {
            bytes[10] ^= 1;
        }
        std::fs::write(blobs.join(file.etag()), bytes).unwrap();
    }
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    bench.assert_complete(&model_files()).await;
    let sent = bench.hub.sent_bytes();
    assert_eq!((sent.get(&good.name), sent[&bad.name]), (None, bad.size));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_the_catalogue_that_the_hub_lacks_gives_way_to_the_other_one() {
    const GONE: &str = "tests/small-mixtral-3bit";
    let mut bench = Bench::new().await;
    let mut better = catalogue(&[], mixtral_check());
    better[0].repo = GONE.parse().unwrap();
    better[0].quality += 1;
    bench.options.catalogue = catalogue(&[], mixtral_check());
    bench.options.catalogue.extend(better);
    bench.restart();
    let plan = PlanRequest::default();
    let recommended = async |bench: &Bench| {
        let offers = bench.manager.offers(&plan).await;
        assert_eq!(offers.len(), 2);
        let mut marked = offers.into_iter().filter(|offer| offer.is_recommended);
        marked.next().unwrap().repo
    };
    assert_eq!(recommended(&bench).await, GONE);
    bench.manager.download(GONE).await.unwrap();
    let DownloadEnd::Failed(problem) = bench.manager.wait(GONE).await.unwrap() else {
        panic!("downloaded from nowhere");
    };
    assert_problem!(&problem, ModelsError::Withdrawn { .. });
    assert!(problem.message().contains(GONE), "{problem:?}");
    assert!(problem.hint().contains(MODEL), "{problem:?}");
    assert!(!problem.hint().contains("spelling"), "{problem:?}");
    assert_eq!(recommended(&bench).await, MODEL);

    // Looked up, it says the same; and what is not of the catalogue may be misspelt.
    let problem = bench.manager.look_up(GONE, &plan).await.unwrap_err();
    assert!(problem.hint().contains(MODEL), "{problem}");
    let other = bench
        .manager
        .look_up("tests/none", &plan)
        .await
        .unwrap_err();
    assert!(other.hint().contains("spelling"), "{other}");
    assert_eq!(bench.download().await, DownloadEnd::Gone);
}
