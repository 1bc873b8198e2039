//! What is done with models that are here.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::*;
use octet_models::{
    DownloadEnd, FolderFrom, Health, ImportHow, Manager, ModelSource, ModelsError, WeightFormat,
};

async fn installed() -> Bench {
    let bench = Bench::new().await;
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    bench
}

/// Bytes of regular files below `path`.
fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => bytes_below(&entry.path()),
                kind if kind.is_file() => entry.metadata().unwrap().len(),
                _ => 0,
            }
        })
        .sum()
}

/// Damages three files of the model in three ways; their names.
fn damage(folder: &Path) -> Vec<String> {
    let blob = |name: &str| fs::canonicalize(folder.join(name)).unwrap();
    let mut names: Vec<String> = read_folder(folder).into_keys().collect();
    names.retain(|name| name.ends_with(".safetensors"));
    names.truncate(3);
    let flipped = blob(&names[0]);
    let mut bytes = fs::read(&flipped).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&flipped, bytes).unwrap();
    let cut = fs::read(blob(&names[1])).unwrap();
    fs::write(blob(&names[1]), &cut[..cut.len() / 2]).unwrap();
    fs::remove_file(blob(&names[2])).unwrap();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_model_verifies() {
    let bench = installed().await;
    let report = bench.manager.verify("small-mixtral").await.unwrap();
    let published = wanted(model_files());
    assert_eq!((report.bad.len(), report.unknown), (0, 0), "{report:?}");
    assert_eq!(report.files as usize, published.len());
    assert_eq!(
        report.bytes,
        published.values().map(|f| f.len() as u64).sum::<u64>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_and_only_bad_files_are_fetched_again() {
    let bench = installed().await;
    let names = damage(&bench.the_model().await.path);
    match bench.the_model().await.health {
        Health::Damaged {
            files, can_repair, ..
        } => {
            // A flipped bit is not seen without reading.
            let bad: Vec<&str> = files.iter().map(|bad| bad.file.as_str()).collect();
            assert_eq!(bad, names[1..]);
            assert!(can_repair);
        }
        Health::Good { .. } => panic!("it is damaged"),
    }
    let report = bench.manager.verify(MODEL).await.unwrap();
    let mut bad: Vec<_> = report.bad.iter().map(|bad| bad.file.clone()).collect();
    bad.sort();
    assert_eq!(bad, names, "{report:?}");
    let before = bench.hub.sent_bytes();
    bench.manager.repair(MODEL).await.unwrap();
    assert_eq!(bench.manager.wait(MODEL).await.unwrap(), DownloadEnd::Gone);
    bench.assert_complete(&model_files()).await;
    for (name, sent) in bench.hub.sent_bytes() {
        let again = sent - before[&name];
        match names.contains(&name) {
            true => assert_eq!(again, model_files()[&name].len() as u64, "{name}"),
            false => assert!(again == 0 || !name.ends_with(".safetensors"), "{name}"),
        }
    }
    assert!(bench.manager.verify(MODEL).await.unwrap().bad.is_empty());
}

/// A flipped bit shows in no size and no header: only the record of the check tells of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_check_found_is_known_after_a_restart_until_it_is_mended() {
    let mut bench = installed().await;
    // Also where another program has downloaded the model.
    for is_recorded in [true, false] {
        let own = bench.repo_dir().join(".octet");
        if !is_recorded {
            fs::remove_dir_all(&own).unwrap();
        }
        let folder = bench.the_model().await.path;
        let mut names = read_folder(&folder).into_keys();
        let name = names.find(|name| name.ends_with(".safetensors")).unwrap();
        let blob = fs::canonicalize(folder.join(&name)).unwrap();
        let good = fs::read(&blob).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        fs::write(&blob, &bad).unwrap();
        assert!(matches!(
            bench.the_model().await.health,
            Health::Good { .. }
        ));
        assert_eq!(bench.manager.verify(MODEL).await.unwrap().bad.len(), 1);
        bench.restart();
        let health = bench.the_model().await.health;
        let message = health.message().unwrap();
        let Health::Damaged {
            files, can_repair, ..
        } = health
        else {
            panic!("the finding is forgotten");
        };
        let names: Vec<&str> = files.iter().map(|bad| bad.file.as_str()).collect();
        assert_eq!((&names[..], can_repair), (&[name.as_str()][..], true));
        assert!(
            message.contains(&name) && message.contains("other bytes than were published"),
            "{message}"
        );

        // Mended by hand, and looked at again.
        fs::write(&blob, &good).unwrap();
        assert!(bench.manager.verify(MODEL).await.unwrap().bad.is_empty());
        assert!(matches!(
            bench.the_model().await.health,
            Health::Good { .. }
        ));

        // Mended by Octet.
        fs::write(&blob, &bad).unwrap();
        assert_eq!(bench.manager.verify(MODEL).await.unwrap().bad.len(), 1);
        bench.restart();
        bench.manager.repair(MODEL).await.unwrap();
        assert_eq!(bench.manager.wait(MODEL).await.unwrap(), DownloadEnd::Gone);
        bench.restart();
        bench.assert_complete(&model_files()).await;
        assert!(!own.join("damage.json").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_downloaded_is_listed_verified_and_repaired() {
    let bench = installed().await;
    // Only Octet writes this.
    fs::remove_dir_all(bench.repo_dir().join(".octet")).unwrap();
    let model = bench.the_model().await;
    assert_eq!(
        model.health,
        Health::Good {
            verified_at_ms: None
        }
    );
    assert!(bench.manager.verify(MODEL).await.unwrap().bad.is_empty());
    fs::remove_dir_all(bench.repo_dir().join(".octet")).unwrap();
    damage(&model.path);
    assert_eq!(bench.manager.verify(MODEL).await.unwrap().bad.len(), 3);
    bench.manager.repair(MODEL).await.unwrap();
    assert_eq!(bench.manager.wait(MODEL).await.unwrap(), DownloadEnd::Gone);
    bench.assert_complete(&model_files()).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn files_may_lie_in_the_snapshot_itself_where_there_are_no_links() {
    let bench = installed().await;
    let folder = bench.the_model().await.path;
    for name in read_folder(&folder).keys() {
        let pointer = folder.join(name);
        // Equal contents are one blob: copied, not moved.
        let bytes = fs::read(&pointer).unwrap();
        fs::remove_file(&pointer).unwrap();
        fs::write(&pointer, bytes).unwrap();
    }
    fs::remove_dir_all(bench.repo_dir().join("blobs")).unwrap();
    fs::create_dir(bench.repo_dir().join("blobs")).unwrap();
    bench.assert_complete(&model_files()).await;
    assert!(bench.manager.verify(MODEL).await.unwrap().bad.is_empty());
    let before = bench.hub.sent_bytes();
    assert_eq!(damage(&folder).len(), 3);
    bench.manager.repair(MODEL).await.unwrap();
    assert_eq!(bench.manager.wait(MODEL).await.unwrap(), DownloadEnd::Gone);
    bench.assert_complete(&model_files()).await;
    let again = |name: &String, sent: u64| name.starts_with("model-") && sent > before[name];
    let sent = bench.hub.sent_bytes();
    assert_eq!(
        sent.iter()
            .filter(|(name, sent)| again(name, **sent))
            .count(),
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_frees_what_it_says_and_refuses_while_loaded() {
    let bench = installed().await;
    let model = bench.the_model().await;
    let before = bytes_below(&bench.repo_dir());
    assert_eq!(model.size_bytes, before);
    let lease = bench.manager.lease(&model.path).unwrap();
    assert!(bench.the_model().await.is_in_use);
    // Another handle stands for another program: the lock is the system's.
    let other = Manager::open(bench.options.clone()).unwrap();
    for manager in [&bench.manager, &other] {
        for error in [
            manager.remove(MODEL).await.unwrap_err(),
            manager.repair(MODEL).await.unwrap_err(),
            manager
                .move_folder(&bench.home.path().join("new"))
                .await
                .unwrap_err(),
        ] {
            assert_problem!(&error, ModelsError::InUse { .. });
        }
    }
    bench.assert_complete(&model_files()).await;
    drop(lease);
    let removed = bench.manager.remove(MODEL).await.unwrap();
    assert_eq!(removed.freed_bytes, model.size_bytes);
    assert_eq!(
        bytes_below(&bench.root().join("models--tests--small-mixtral")),
        0
    );
    assert!(bench.installed().await.is_empty() && !bench.repo_dir().exists());
    let error = bench.manager.remove(MODEL).await.unwrap_err();
    assert!(matches!(error, ModelsError::NotFound { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_comes_in_as_a_link_or_as_a_copy() {
    let bench = installed().await;
    let folder = bench.home.path().join("My Model");
    fs::create_dir(&folder).unwrap();
    for (name, bytes) in model_files() {
        fs::write(folder.join(name), bytes).unwrap();
    }
    let link = bench
        .manager
        .import(&folder, ImportHow::Link)
        .await
        .unwrap();
    let copy = bench
        .manager
        .import(&folder, ImportHow::Copy)
        .await
        .unwrap();
    assert_eq!(copy, "local/My-Model");
    assert_eq!(
        bench
            .manager
            .import(&folder, ImportHow::Link)
            .await
            .unwrap(),
        link
    );
    assert_eq!(bench.installed().await.len(), 3);
    let found = |id: &str| {
        let id = id.to_owned();
        let bench = &bench;
        async move {
            bench
                .installed()
                .await
                .into_iter()
                .find(|m| m.id == id)
                .unwrap()
        }
    };
    let (linked, copied) = (found(&link).await, found(&copy).await);
    assert_eq!(
        (linked.source, copied.source),
        (ModelSource::Linked, ModelSource::Imported)
    );
    assert_eq!(
        (linked.size_bytes, linked.path.as_path()),
        (0, folder.as_path())
    );
    assert!(copied.has_tokenizer && read_folder(&copied.path) == wanted(model_files()));
    assert!(bench.manager.verify(&copy).await.unwrap().bad.is_empty());
    let error = bench.manager.repair(&copy).await.unwrap_err();
    assert!(matches!(error, ModelsError::Invalid { .. }), "{error}");
    // A linked folder is forgotten; its files stay.
    assert_eq!(bench.manager.remove(&link).await.unwrap().freed_bytes, 0);
    assert!(read_folder(&folder) == model_files());
    bench.manager.remove(&copy).await.unwrap();
    assert_eq!(bench.installed().await.len(), 1);

    let empty = bench.home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for how in [ImportHow::Link, ImportHow::Copy] {
        let problem = bench.manager.import(&empty, how).await.unwrap_err();
        assert_problem!(&problem, ModelsError::Foreign { .. });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gguf_file_comes_in_as_a_link_or_as_a_copy_of_all_its_parts() {
    let bench = Bench::new().await;
    let folder = bench.home.path().join("downloads");
    fs::create_dir(&folder).unwrap();
    let variants = octet_tests::fixture("gguf/variants");
    let parts = [1, 2, 3].map(|part| format!("split-0000{part}-of-00003.gguf"));
    for part in &parts {
        fs::copy(variants.join(part), folder.join(part)).unwrap();
    }
    // Not a part of it.
    fs::copy(variants.join("align-64.gguf"), folder.join("other.gguf")).unwrap();
    let file = folder.join(&parts[1]);
    let mut ids = Vec::new();
    for how in [ImportHow::Link, ImportHow::Copy] {
        ids.push(bench.manager.import(&file, how).await.unwrap());
    }
    let models = bench.installed().await;
    for id in &ids {
        let model = models.iter().find(|model| model.id == *id).unwrap();
        assert!(model.has_tokenizer, "{id}");
        assert!(matches!(model.health, Health::Good { .. }), "{id}");
        let shape = model.shape.as_ref().unwrap();
        assert_eq!((shape.layers, shape.experts_per_token), (2, 2));
        let WeightFormat::Gguf { name, .. } = &shape.quantization.experts[0] else {
            panic!("{shape:?}");
        };
        assert_eq!(name, "Q2_K");
        assert!(bench.manager.verify(id).await.unwrap().bad.is_empty());
    }
    let copied = models.iter().find(|model| model.id == ids[1]).unwrap();
    let names: Vec<String> = read_folder(&copied.path).into_keys().collect();
    assert_eq!(names, parts);
    bench.manager.remove(&ids[0]).await.unwrap();
    assert!(file.is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_copy_has_left_is_deleted_and_a_running_one_is_not() {
    let mut bench = Bench::new().await;
    let leftover = bench.root().join("models--local--big");
    fs::create_dir_all(leftover.join("blobs")).unwrap();
    fs::write(leftover.join("blobs/import-0.incomplete"), vec![0; 9000]).unwrap();
    fs::create_dir(leftover.join(".octet")).unwrap();
    let lock = fs::File::create(leftover.join(".octet/in-use.lock")).unwrap();
    lock.lock().unwrap();
    bench.restart();
    assert!(leftover.is_dir(), "another program copies");
    drop(lock);
    bench.restart();
    assert!(!leftover.exists());

    let folder = bench.home.path().join("mixtral");
    fs::create_dir(&folder).unwrap();
    for (name, bytes) in model_files() {
        fs::write(folder.join(name), bytes).unwrap();
    }
    let copy = bench.manager.import(&folder, ImportHow::Copy);
    assert_eq!(copy.await.unwrap(), "local/mixtral");
    bench.restart();
    assert_eq!(bench.the_model().await.id, "local/mixtral");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_models_folder_moves_and_what_is_not_octets_stays() {
    let mut bench = installed().await;
    let foreign = bench.root().join("models--someone--else/refs");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("main"), "x").unwrap();
    let to = bench.home.path().join("elsewhere/models");
    bench.manager.move_folder(&to).await.unwrap();
    assert_eq!(bench.manager.folder(), to);
    bench.restart();
    let settings = bench.manager.state().settings;
    assert_eq!(
        (settings.folder, settings.folder_from),
        (to.clone(), FolderFrom::Chosen)
    );
    let model = bench.the_model().await;
    assert!(model.path.starts_with(&to) && read_folder(&model.path) == wanted(model_files()));
    assert!(bench.manager.verify(MODEL).await.unwrap().bad.is_empty());
    assert!(foreign.join("main").is_file() && !bench.repo_dir().exists());
    let inside = bench.manager.move_folder(&to.join("x")).await.unwrap_err();
    assert!(matches!(inside, ModelsError::Invalid { .. }), "{inside}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_models_folder_moves_to_another_disk() {
    use std::os::unix::fs::MetadataExt;

    let bench = installed().await;
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() || device(memory) == device(bench.home.path()) {
        skip("/dev/shm is no file system of its own");
        return;
    }
    let other = tempfile::tempdir_in(memory).unwrap();
    let to = other.path().join("models");
    bench.manager.move_folder(&to).await.unwrap();
    let model = bench.the_model().await;
    assert!(model.path.starts_with(&to) && read_folder(&model.path) == wanted(model_files()));
    assert!(bench.manager.verify(MODEL).await.unwrap().bad.is_empty());
    assert!(!bench.repo_dir().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_models_in_a_shared_cache_are_left_alone() {
    let bench = installed().await;
    let snapshot = bench
        .root()
        .join(format!("models--a--gpt/snapshots/{}", "a".repeat(40)));
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
    fs::create_dir_all(bench.root().join("datasets--a--b")).unwrap();
    fs::write(bench.root().join("version.txt"), "1").unwrap();
    assert_eq!(bench.the_model().await.id, MODEL);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_chosen_survives_a_restart_and_a_damaged_file_is_kept_aside() {
    let mut bench = Bench::new().await;
    bench
        .manager
        .set_endpoint(Some("mirror.example".to_owned()))
        .await
        .unwrap();
    bench.restart();
    assert_eq!(
        bench.manager.state().settings.endpoint,
        "https://mirror.example"
    );
    let endpoint = Some("ftp://x".to_owned());
    let error = bench.manager.set_endpoint(endpoint).await.unwrap_err();
    assert!(matches!(error, ModelsError::Invalid { .. }), "{error}");
    let file = bench.home.path().join("config/library.json");
    fs::write(&file, "{broken").unwrap();
    bench.restart();
    assert_eq!(bench.manager.state().settings.endpoint, bench.hub.url());
    assert!(file.with_extension("damaged.json").is_file());
}
