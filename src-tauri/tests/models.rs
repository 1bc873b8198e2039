//! Models that are downloaded, kept and deleted, as the page asks for it, against a hub on this
//! machine.

mod support;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use octet_test_hub::{Fault, FaultKind, Repo, TestHub};
use serde_json::{Value, json};
use support::LIMIT;
use support::page::{FakeDesktop, Page};
use tauri::Listener;
use tokio::runtime::Runtime;

const MODEL: &str = "ada/tiny-mixtral";
const GATED: &str = "ada/gated-mixtral";

/// A page, and the hub that it downloads from.
struct Bench {
    page: Page,
    hub: TestHub,
    desktop: FakeDesktop,
    _runtime: Runtime,
}

impl Bench {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let hub = runtime.block_on(TestHub::start(0)).expect("a hub");
        let model = octet_tests::model_with_tokenizer("tiny-2bit");
        let repo = || Repo::from_folder(model.path()).expect("a repository");
        hub.publish(MODEL, repo());
        hub.publish(GATED, repo().gated(&["ada"]));
        hub.publish(
            "ada/words",
            Repo::new([("README.md".to_owned(), vec![b'#'; 9])]),
        );
        hub.allow("hf_good", "ada");
        let desktop = FakeDesktop::default();
        let vars = [("HF_ENDPOINT", hub.url())];
        Self {
            page: Page::open_with(desktop.clone(), &vars),
            hub,
            desktop,
            _runtime: runtime,
        }
    }

    fn state(&self) -> Value {
        self.page.get("models_state", json!({}))
    }

    /// State of the download of `repo`, or null.
    fn download(&self, repo: &str) -> Value {
        let state = self.state();
        let downloads = state["downloads"].as_array().expect("downloads");
        let found = downloads.iter().find(|download| download["repo"] == repo);
        found.map_or(Value::Null, |download| download["state"].clone())
    }

    /// Waits until the download is in such a state; null is gone.
    fn until(&self, repo: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let state = self.download(repo);
            if wanted(&state) {
                return state;
            }
            assert!(begun.elapsed() < LIMIT, "still {state}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn fetch(&self) {
        self.page.get("download_model", json!({"repo": MODEL}));
        self.until(MODEL, Value::is_null);
    }

    /// The model of the library, if it is there.
    fn model(&self) -> Option<Value> {
        let models = self.page.get("list_models", json!({}));
        let models = models.as_array().expect("models").clone();
        models.into_iter().find(|model| model["id"] == MODEL)
    }
}

#[test]
fn a_model_is_downloaded_loaded_and_deleted() {
    let bench = Bench::new();
    let (page, id) = (&bench.page, json!({"id": MODEL}));
    let offer = page.get("look_up_model", json!({"repo": MODEL}));
    assert_eq!(
        (&offer["status"], &offer["fit"]["badge"]),
        (&json!("available"), &json!("fits"))
    );
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    page.app.listen_any("models-changed", move |event| {
        let state: Value = serde_json::from_str(event.payload()).expect("JSON");
        tell.lock().expect("no panic").push(state);
    });
    bench.fetch();

    let model = bench.model().expect("it is in the list");
    assert_eq!(
        (&model["kind"], &model["health"]["kind"]),
        (&json!("hub"), &json!("good"))
    );
    assert_eq!(model["hasTokenizer"], true);
    assert_eq!(model["quantization"]["experts"][0]["bits"], 2);
    let offer = page.get("look_up_model", json!({"repo": MODEL}));
    assert_eq!(offer["status"], "installed");

    let mut settings = page.get("load_settings", json!({}));
    settings["offload"]["threads"] = json!(1);
    page.get("save_settings", json!({"settings": settings}));
    let state = page.get("load_model", json!({"id": MODEL, "force": false}));
    assert_eq!(
        (&state["type"], &state["model"]["id"]),
        (&json!("ready"), &json!(MODEL))
    );
    let refused = page.refused("delete_model", id.clone());
    assert_eq!(
        refused,
        json!({"kind": "inUse", "what": MODEL, "by": "loaded"})
    );
    assert_eq!(bench.model().expect("it is still there")["isInUse"], true);

    page.get("unload_model", json!({}));
    let frees = bench.model().expect("it is there")["freesBytes"].clone();
    assert!(frees.as_u64() > Some(0));
    assert_eq!(page.get("delete_model", id)["freedBytes"], frees);
    assert!(bench.model().is_none());
    let told = told.lock().expect("no panic");
    assert!(
        told.iter()
            .any(|state| state["downloads"][0]["repo"] == MODEL),
        "{told:?}"
    );
}

#[test]
fn a_download_is_paused_resumed_and_cancelled() {
    let bench = Bench::new();
    let repo = json!({"repo": MODEL});
    let slow = FaultKind::Slow {
        bytes_per_sec: 2000,
    };
    bench
        .hub
        .misbehave(Fault::bytes("-of-", 10_000, slow.clone()));
    bench.page.get("download_model", repo.clone());
    bench.until(MODEL, |state| state["kind"] == "running");
    bench.page.get("pause_download", repo.clone());
    let state = bench.until(MODEL, |state| state["kind"] == "paused");
    assert_eq!(state["reason"], "asked");
    bench.hub.behave();
    bench.page.get("resume_download", repo.clone());
    bench.until(MODEL, Value::is_null);
    assert!(bench.model().is_some());

    bench.page.get("delete_model", json!({"id": MODEL}));
    bench.hub.misbehave(Fault::bytes("-of-", 10_000, slow));
    bench.page.get("download_model", repo.clone());
    bench.until(MODEL, |state| state["kind"] == "running");
    bench.page.get("cancel_download", repo);
    bench.until(MODEL, Value::is_null);
    assert!(bench.model().is_none());
}

#[test]
fn what_the_hub_refuses_reaches_the_page() {
    let bench = Bench::new();
    for (repo, kind) in [
        ("ada/nothing", "missing"),
        ("ada/words", "foreign"),
        ("../etc", "invalid"),
        ("ada", "invalid"),
    ] {
        let error = bench.page.refused("look_up_model", json!({"repo": repo}));
        assert_eq!(error["kind"], kind, "{repo}: {error}");
    }
    for command in ["pause_download", "resume_download", "cancel_download"] {
        let error = bench.page.refused(command, json!({"repo": MODEL}));
        let gone = json!({"kind": "notFound", "what": "download", "name": MODEL});
        assert_eq!(error, gone, "{command}");
    }
    bench.page.get("download_model", json!({"repo": GATED}));
    let state = bench.until(GATED, |state| state["kind"] == "failed");
    assert_eq!(state["problem"]["kind"], "gated");
    bench.page.get("set_token", json!({"token": "hf_good"}));
    bench.page.get("resume_download", json!({"repo": GATED}));
    bench.until(GATED, Value::is_null);
}

#[test]
fn a_token_goes_in_and_never_comes_out() {
    let bench = Bench::new();
    let page = &bench.page;
    assert_eq!(page.refused("check_token", json!({}))["kind"], "token");
    assert_eq!(
        page.get("set_token", json!({"token": " hf_good "})),
        "session"
    );
    assert_eq!(page.get("check_token", json!({})), "ada");
    for command in ["models_state", "diagnostics", "load_settings"] {
        let shown = page.get(command, json!({})).to_string();
        assert!(!shown.contains("hf_good"), "{command} shows it");
    }
    page.get("set_token", json!({"token": "hf_bad"}));
    assert_eq!(page.refused("check_token", json!({}))["kind"], "token");
    assert_eq!(page.get("set_token", json!({"token": null})), Value::Null);
    assert_eq!(bench.state()["settings"]["token"], Value::Null);
}

#[test]
fn a_damaged_file_is_found_and_fetched_again() {
    let bench = Bench::new();
    bench.fetch();
    let model = bench.model().expect("it is here");
    let report = bench.page.get("verify_model", json!({"id": MODEL}));
    assert_eq!(report["bad"], json!([]));

    let file = PathBuf::from(model["path"].as_str().expect("a path"));
    let file = file.join("model-00003-of-00033.safetensors");
    let mut bytes = std::fs::read(&file).expect("a file of it");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let report = bench.page.get("verify_model", json!({"id": MODEL}));
    assert_eq!(report["bad"][0]["file"], "model-00003-of-00033.safetensors");

    bench.page.get("repair_model", json!({"id": MODEL}));
    bench.until(MODEL, Value::is_null);
    let report = bench.page.get("verify_model", json!({"id": MODEL}));
    assert_eq!(report["bad"], json!([]));
    assert_eq!(report["unknown"], 0);
}

#[test]
fn folders_are_shown_and_the_hub_is_chosen() {
    let bench = Bench::new();
    let page = &bench.page;
    bench.fetch();
    page.get("reveal_model", json!({"id": MODEL}));
    page.get("reveal_models", json!({}));
    assert_eq!(
        page.refused("reveal_model", json!({"id": "ada/other"}))["kind"],
        "notFound"
    );
    let model = bench.model().expect("it is here")["path"].clone();
    let folder = bench.state()["settings"]["folder"].clone();
    let opened = bench.desktop.opened.lock().expect("no panic").clone();
    assert_eq!(json!(opened), json!([model, folder]));
    assert!(
        folder
            .as_str()
            .is_some_and(|path| path.starts_with(&*page.dir.path().to_string_lossy()))
    );

    assert_eq!(
        page.refused("set_endpoint", json!({"endpoint": "ftp://mirror"}))["input"],
        json!({"kind": "endpoint", "inEnvironment": false, "fault": {"kind": "notWeb"}})
    );
    page.get(
        "set_endpoint",
        json!({"endpoint": "https://mirror.example/"}),
    );
    let settings = bench.state()["settings"].clone();
    assert_eq!(
        (&settings["endpoint"], &settings["endpointFrom"]),
        (&json!("https://mirror.example"), &json!("chosen"))
    );
    page.get("set_endpoint", json!({"endpoint": null}));
    assert_eq!(bench.state()["settings"]["endpointFrom"], "environment");
}
