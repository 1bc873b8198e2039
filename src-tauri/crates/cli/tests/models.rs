//! `octet models` against a hub on this machine.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use octet_test_hub::{Fault, FaultKind, Repo, TestHub};
use tempfile::TempDir;

const MODEL: &str = "tests/tiny";

struct Shell {
    hub: TestHub,
    home: TempDir,
    model: TempDir,
}

impl Shell {
    async fn new() -> Self {
        let hub = TestHub::start(0).await.unwrap();
        let model = octet_tests::model_with_tokenizer("tiny-2bit");
        hub.publish(MODEL, Repo::from_folder(model.path()).unwrap());
        Self {
            hub,
            home: tempfile::tempdir().unwrap(),
            model,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_octet"));
        let home = self.home.path();
        command
            .args(args)
            .env("HF_ENDPOINT", self.hub.url())
            .env("HF_HOME", home.join("hf"));
        for (name, folder) in [
            ("HOME", "."),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_DATA_HOME", "data"),
            ("XDG_CACHE_HOME", "cache"),
            ("APPDATA", "config"),
            ("LOCALAPPDATA", "data"),
        ] {
            command.env(name, home.join(folder));
        }
        for name in [
            "HF_TOKEN",
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_HUB_OFFLINE",
        ] {
            command.env_remove(name);
        }
        command
    }

    async fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    async fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// One line on standard error, and status 1.
    async fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        let line = error.trim_end().to_owned();
        assert!(
            line.starts_with("octet: ") && !line.contains('\n'),
            "{line}"
        );
        line
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_pulled_listed_used_verified_and_removed() {
    let shell = Shell::new().await;
    assert!(shell.ok(&["models", "list"]).await.contains("No models in"));
    let offer = shell.ok(&["models", "pull", MODEL, "--dry-run"]).await;
    assert!(
        offer.contains("in 36 files") && offer.contains("Fit        fits"),
        "{offer}"
    );
    let folder = shell.ok(&["models", "pull", MODEL]).await;
    let folder = Path::new(folder.trim());
    assert!(folder.join("config.json").is_file(), "{}", folder.display());
    let list = shell.ok(&["models", "list"]).await;
    assert!(
        list.contains(MODEL) && list.contains("2 bits in groups of"),
        "{list}"
    );
    assert!(
        list.contains(", checked 20") && list.contains("Available: Mixtral 8x7B"),
        "{list}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&shell.ok(&["models", "list", "--json"]).await).unwrap();
    assert_eq!(json["installed"][0]["id"], MODEL);
    // By repository name, by its last part, and by folder.
    let tokens = [
        "--tokens",
        "365,393,189",
        "--max-new-tokens",
        "4",
        "--temperature",
        "0",
        "--json",
    ];
    let mut answers = Vec::new();
    for name in [MODEL, "tiny", folder.to_str().unwrap()] {
        let args = [&["generate", "--model", name][..], &tokens].concat();
        let json: serde_json::Value = serde_json::from_str(&shell.ok(&args).await).unwrap();
        answers.push(json["tokens"].clone());
    }
    assert!(
        answers[0]
            .as_array()
            .is_some_and(|tokens| tokens.len() == 4),
        "{answers:?}"
    );
    assert!(
        answers[1..].iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert!(
        shell
            .ok(&["models", "verify", "tiny"])
            .await
            .contains("as published")
    );

    let file = folder.join("model-00007-of-00033.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100_000] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let error = shell.fails(&["models", "verify", "tiny"]).await;
    assert!(error.contains("models verify --repair"), "{error}");
    // Another process knows what this one has found.
    let list = shell.ok(&["models", "list"]).await;
    assert!(
        list.contains("DAMAGED: model-00007-of-00033.safetensors has other bytes"),
        "{list}"
    );
    let repaired = shell.ok(&["models", "verify", "tiny", "--repair"]).await;
    assert!(repaired.contains("1 file downloaded again"), "{repaired}");
    assert!(
        shell
            .ok(&["models", "verify", "tiny"])
            .await
            .contains("as published")
    );
    assert!(
        shell
            .ok(&["models", "remove", "tiny"])
            .await
            .contains("freed")
    );
    assert!(shell.ok(&["models", "list"]).await.contains("No models in"));
    assert!(
        shell
            .fails(&["models", "remove", "tiny"])
            .await
            .contains("no installed model")
    );
}

/// It was deleted under a running chat; and a pull that failed stood before the model.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_use_is_not_removed_nor_hidden_by_a_failed_pull() {
    let shell = Shell::new().await;
    shell.ok(&["models", "pull", MODEL]).await;

    let mut chat = shell.command(&["chat", "--model", "tiny"]);
    chat.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut chat = chat.stderr(Stdio::null()).spawn().unwrap();
    let mut input = chat.stdin.take().unwrap();
    let mut output = chat.stdout.take().unwrap();
    let answering = tokio::task::spawn_blocking(move || {
        input.write_all(b"hi\n").unwrap();
        output.read_exact(&mut [0]).unwrap();
        (input, output)
    });
    // Closed, they would end the chat.
    let _kept = answering.await.unwrap();
    let error = shell.fails(&["models", "remove", "tiny"]).await;
    assert!(error.contains("in use"), "{error}");
    chat.kill().unwrap();
    chat.wait().unwrap();

    let repo = Repo::from_folder(shell.model.path()).unwrap();
    shell.hub.publish(MODEL, repo.gated(&[]));
    let error = shell.fails(&["models", "pull", MODEL]).await;
    assert!(error.contains("gated"), "{error}");
    let list = shell.ok(&["models", "list"]).await;
    assert_eq!(list.matches(MODEL).count(), 1, "{list}");
    let removed = shell.ok(&["models", "remove", "tiny"]).await;
    assert!(removed.contains("removed"), "{removed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_are_imported_and_errors_are_one_line() {
    let shell = Shell::new().await;
    let folder = shell.model.path().to_str().unwrap();
    let id = shell.ok(&["models", "import", folder]).await;
    assert_eq!(id.trim(), folder);
    assert!(shell.ok(&["models", "list"]).await.contains("linked"));
    let copied = shell.ok(&["models", "import", folder, "--copy"]).await;
    assert!(copied.starts_with("local/"), "{copied}");
    let again = shell.ok(&["models", "import", folder, "--copy"]).await;
    assert_eq!(again, copied);
    let list = shell.ok(&["models", "list"]).await;
    assert_eq!(list.matches("local/").count(), 1, "{list}");
    let removed = shell.ok(&["models", "remove", folder]).await;
    assert_eq!(
        removed.trim(),
        format!("{folder}: removed from the list; its files stay in {folder}")
    );
    assert!(shell.model.path().join("config.json").is_file());

    assert!(
        shell
            .fails(&["models", "pull", "tests/none"])
            .await
            .contains("has no tests/none")
    );
    for name in ["none", ""] {
        let output = shell.run(&["models", "pull", name]).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("owner/name"), "{error}");
    }
    let list = shell.ok(&["models", "list"]).await;
    assert!(!list.contains("tests/none"), "{list}");
    let missing = shell.fails(&["chat", "--model", "tests/none"]).await;
    assert!(missing.contains("octet models list"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_models_of_one_name_are_told_apart_by_their_full_names() {
    let shell = Shell::new().await;
    let folders = ["a", "b"].map(|parent| shell.home.path().join(parent).join("plain"));
    for folder in &folders {
        std::fs::create_dir_all(folder).unwrap();
        for entry in std::fs::read_dir(octet_tests::fixture("tiny-2bit")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
            }
        }
        shell
            .ok(&["models", "import", folder.to_str().unwrap()])
            .await;
    }
    let list = shell.ok(&["models", "list"]).await;
    let no_text = "no tokenizer.json: text cannot be used, only --tokens";
    assert_eq!(list.matches(no_text).count(), 2, "{list}");
    let [a, b] = folders.map(|folder| folder.to_str().unwrap().to_owned());
    let ambiguous = shell.fails(&["models", "remove", "plain"]).await;
    assert_eq!(
        ambiguous,
        format!("octet: \"plain\" is ambiguous: {a} or {b}; give the full name")
    );
    let removed = shell.ok(&["models", "remove", &a]).await;
    assert_eq!(
        removed.trim(),
        format!("{a}: removed from the list; its files stay in {a}")
    );
    shell.ok(&["models", "remove", "plain"]).await;
}

/// It was listed as damaged, since 1970.
#[tokio::test(flavor = "multi_thread")]
async fn a_linked_folder_that_is_gone_is_listed_as_gone() {
    let shell = Shell::new().await;
    let folder = shell.model.path().to_owned();
    let id = shell
        .ok(&["models", "import", folder.to_str().unwrap()])
        .await;
    std::fs::rename(&folder, folder.with_extension("moved")).unwrap();
    let list = shell.ok(&["models", "list"]).await;
    assert!(list.contains("linked, and gone: was it moved"), "{list}");
    assert!(
        !list.contains("1970") && !list.contains("DAMAGED"),
        "{list}"
    );
    shell.ok(&["models", "remove", id.trim()]).await;
    assert!(shell.ok(&["models", "list"]).await.contains("No models in"));
    std::fs::rename(folder.with_extension("moved"), &folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_failed_before_anything_arrived_leaves_no_entry() {
    let shell = Shell::new().await;
    shell.hub.publish(
        "tests/gated",
        Repo::from_folder(shell.model.path())
            .unwrap()
            .gated(&["ann"]),
    );
    assert!(
        shell
            .fails(&["models", "pull", "tests/gated"])
            .await
            .contains("gated")
    );
    std::fs::remove_file(shell.model.path().join("tokenizer.json")).unwrap();
    shell
        .hub
        .publish("tests/mute", Repo::from_folder(shell.model.path()).unwrap());
    let offer = shell
        .ok(&["models", "pull", "tests/mute", "--dry-run"])
        .await;
    assert!(
        offer.contains("Tokenizer  NONE: the repository has none"),
        "{offer}"
    );
    let failed = shell.fails(&["models", "pull", "tests/mute"]).await;
    assert!(failed.contains("No tokenizer was found"), "{failed}");
    let mut offline = shell.command(&["models", "pull", "tests/other"]);
    let offline = offline.env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(offline.status.code(), Some(1));
    let list = shell.ok(&["models", "list"]).await;
    assert!(
        !list.contains("tests/") && list.contains("No models in"),
        "{list}"
    );
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_a_download_and_the_same_command_goes_on() {
    let shell = Shell::new().await;
    let slow = FaultKind::Slow {
        bytes_per_sec: 200_000,
    };
    shell
        .hub
        .misbehave(Fault::bytes(".safetensors", 1000, slow));
    let mut command = shell.command(&["models", "pull", MODEL]);
    let child = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while shell.hub.sent_bytes().values().sum::<u64>() < 600_000 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap())
        .await
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("octet models pull tests/tiny resumes it"),
        "{error}"
    );
    assert!(shell.ok(&["models", "list"]).await.contains("unfinished"));
    let asked = ["generate", "--model", MODEL, "--message", "hi"];
    let error = shell.fails(&asked).await;
    assert!(error.contains("is not complete yet"), "{error}");
    shell.hub.behave();
    let before: u64 = shell.hub.sent_bytes().values().sum();
    shell.ok(&["models", "pull", MODEL]).await;
    let sent = shell.hub.sent_bytes();
    let total: u64 = sent.values().sum();
    let files = std::fs::read_dir(shell.model.path()).unwrap();
    let size: u64 = files
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    // The configuration and the index are looked at again; a slow chunk may come twice.
    assert!(
        before >= 600_000 && total < size + 800_000,
        "{total} of {size}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_in_the_environment_is_used() {
    let shell = Shell::new().await;
    let mut command = shell.command(&["models", "pull", MODEL]);
    // There is no such host: only the proxy, which the hub plays here, can answer.
    command.env("HF_ENDPOINT", "http://hub.invalid");
    command
        .env("http_proxy", shell.hub.url())
        .env("no_proxy", "127.0.0.1");
    for name in ["HTTP_PROXY", "NO_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let served = shell.hub.served();
    assert!(
        served
            .iter()
            .any(|s| s.path.starts_with("http://hub.invalid/")),
        "{served:?}"
    );
}
