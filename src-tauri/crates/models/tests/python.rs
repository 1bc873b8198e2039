//! Hugging Face's own client on the same hub and the same cache. Needs Python 3 with the package
//! `huggingface_hub`: in `.python`, where `.ci/setup test` puts it, or in the interpreter that
//! `OCTET_TEST_PYTHON` names.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Command;

use common::*;
use octet_models::{DownloadEnd, Health};

/// An interpreter that has the package.
fn python() -> Option<String> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../.python/bin/python");
    let python = match std::env::var("OCTET_TEST_PYTHON") {
        Ok(named) => named,
        Err(_) if own.is_file() => own.to_str().unwrap().to_owned(),
        Err(_) => "python3".to_owned(),
    };
    let found = Command::new(&python)
        .args(["-c", "import huggingface_hub"])
        .output();
    match found {
        Ok(output) if output.status.success() => Some(python),
        _ => {
            skip(&format!(
                "{python} has no package huggingface_hub; sh .ci/setup test installs it"
            ));
            None
        }
    }
}

/// Runs a script that ends well. Arguments: the cache and the repository.
fn run(python: &str, script: &str, bench: &Bench, cache: &Path) -> String {
    let output = Command::new(python)
        .args(["-c", script])
        .arg(cache)
        .arg(MODEL)
        .env("HF_ENDPOINT", bench.hub.url())
        .env("HF_HOME", bench.home.path().join("python"))
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .env_remove("HF_TOKEN")
        .env_remove("HF_HUB_OFFLINE")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

const DOWNLOAD: &str = "
import sys
from huggingface_hub import snapshot_download
print(snapshot_download(sys.argv[2], cache_dir=sys.argv[1]))
";

/// Offline, and with a look at the cache as a whole.
const USE: &str = "
import sys
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download
folder = snapshot_download(sys.argv[2], cache_dir=sys.argv[1], local_files_only=True)
open(hf_hub_download(sys.argv[2], 'config.json', cache_dir=sys.argv[1], local_files_only=True)).read()
info = scan_cache_dir(sys.argv[1])
assert not info.warnings, info.warnings
assert sys.argv[2] in [repo.repo_id for repo in info.repos], info
print(folder)
";

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_downloads_from_the_test_hub_and_octet_uses_what_it_got() {
    let Some(python) = python() else { return };
    let bench = Bench::new().await;
    let folder = run(&python, DOWNLOAD, &bench, &bench.root());
    assert!(read_folder(Path::new(&folder)) == model_files());
    let model = bench.the_model().await;
    assert!(matches!(model.health, Health::Good { .. }), "{model:?}");
    assert!(bench.manager.verify(MODEL).await.unwrap().bad.is_empty());
    let before = bench.hub.sent_bytes();
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    let tensors = |sent: &std::collections::HashMap<String, u64>| -> u64 {
        sent.iter()
            .filter(|(name, _)| name.ends_with(".safetensors"))
            .map(|(_, n)| n)
            .sum()
    };
    assert_eq!(tensors(&before), tensors(&bench.hub.sent_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_uses_what_octet_downloaded() {
    let Some(python) = python() else { return };
    let bench = Bench::new().await;
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    let folder = run(&python, USE, &bench, &bench.root());
    assert_eq!(Path::new(&folder), bench.the_model().await.path);
    let before: u64 = bench.hub.sent_bytes().values().sum();
    let folder = run(&python, DOWNLOAD, &bench, &bench.root());
    let after: u64 = bench.hub.sent_bytes().values().sum();
    // It takes all files of a repository, Octet those that make a model.
    assert_eq!(
        after - before,
        model_files()["pytorch_model.bin"].len() as u64
    );
    assert!(read_folder(Path::new(&folder)) == model_files());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tokenizer_from_elsewhere_does_not_disturb_the_official_client() {
    let Some(python) = python() else { return };
    let hub = octet_test_hub::TestHub::start(0).await.unwrap();
    hub.publish(MODEL, repo(random_model(32_000, 0, false)));
    let files = [("tokenizer.json".to_owned(), mixtral_tokenizer())];
    hub.publish("tests/tokenizer", repo(files.into()));
    let mut bench = Bench::at(hub);
    bench.options.catalogue = catalogue(&["tests/tokenizer"], mixtral_check());
    bench.restart();
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    let folder = run(&python, USE, &bench, &bench.root());
    let beside = std::fs::read(Path::new(&folder).join("tokenizer.json")).unwrap();
    assert!(beside == mixtral_tokenizer());
}
