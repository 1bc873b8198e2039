//! The access token in a real keyring: GNOME's, on a session bus of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Command;

use common::*;
use octet_models::{Manager, TokenPlace};
use octet_test_hub::TestHub;

/// Set in the process that has the bus: the hub's address, a home folder, and what to do.
const CHILD: &str = "OCTET_TEST_KEYRING";

const TOKEN: &str = "hf_kept_in_the_keyring";

/// Starts the keyring with an empty password, then the test program again.
const WITH_KEYRING: &str = "echo | gnome-keyring-daemon --unlock --components=secrets >/dev/null && \
                            exec \"$0\" --exact child_with_a_bus --nocapture";

/// Runs by itself with nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn child_with_a_bus() {
    let Ok(text) = std::env::var(CHILD) else {
        println!("skipped: only for another test to run");
        return;
    };
    let [url, home, part] = text.split('|').collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    let mut options = options(url, Path::new(home));
    options.use_keyring = true;
    let open = || Manager::open(options.clone()).unwrap();
    match part {
        "keep" => {
            let place = open().set_token(Some(TOKEN.to_owned())).await.unwrap();
            let settings = open().state().settings;
            assert_eq!(place, Some(TokenPlace::Keyring), "{settings:?}");
            // Another handle stands for the program after a restart.
            assert_eq!(settings.token, Some(TokenPlace::Keyring));
            assert_eq!(open().check_token().await.unwrap(), "ada");
            let another = Some("hf_wrong".to_owned());
            open().set_token(another).await.unwrap();
            open().check_token().await.unwrap_err();
            open().set_token(Some(TOKEN.to_owned())).await.unwrap();
            assert_eq!(open().check_token().await.unwrap(), "ada");
            let file = std::fs::read_to_string(Path::new(home).join("config/library.json"));
            assert!(!file.unwrap().contains("hf_"), "only the keyring has it");

            assert_eq!(open().set_token(None).await.unwrap(), None);
            assert_eq!(open().state().settings.token, None);
        }
        "fall back" => {
            let manager = open();
            let place = manager.set_token(Some(TOKEN.to_owned())).await.unwrap();
            assert_eq!(place, Some(TokenPlace::Session));
            let note = manager.state().settings.token_note.unwrap().to_string();
            assert!(
                note.contains(
                    "kept until Octet closes, and not in a keyring: no keyring is available"
                ),
                "{note}"
            );
            assert_eq!(manager.check_token().await.unwrap(), "ada");
            assert_eq!(open().state().settings.token, None);
        }
        other => panic!("{other}"),
    }
}

/// Runs the child, by way of `command`, to do `part`.
async fn child_does(part: &str, mut command: Command) {
    let hub = TestHub::start(0).await.unwrap();
    hub.allow(TOKEN, "ada");
    let home = tempfile::tempdir().unwrap();
    let child = format!("{}|{}|{part}", hub.url(), home.path().display());
    command
        .env(CHILD, child)
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.path());
    for name in ["CONFIG", "DATA", "CACHE"] {
        command.env(format!("XDG_{name}_HOME"), home.path().join(name));
    }
    for name in [
        "HF_TOKEN",
        "DISPLAY",
        "WAYLAND_DISPLAY",
        "GNOME_KEYRING_CONTROL",
    ] {
        command.env_remove(name);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{error}");
    assert!(out.contains("1 passed"), "{out}\n{error}");
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    found.is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_kept_in_the_keyring_and_read_back_after_a_restart() {
    if !has("gnome-keyring-daemon") || !has("dbus-run-session") {
        return skip("gnome-keyring-daemon or dbus-run-session is missing");
    }
    let mut command = Command::new("dbus-run-session");
    command
        .args(["--", "sh", "-c", WITH_KEYRING])
        .arg(std::env::current_exe().unwrap());
    child_does("keep", command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_keyring_a_token_lasts_for_the_session_and_that_is_said() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_with_a_bus", "--nocapture"])
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus");
    child_does("fall back", command).await;
}
