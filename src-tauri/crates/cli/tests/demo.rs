//! Without `--model`, commands use the demo model that ships inside the program.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// `octet` with a home of its own.
fn octet(home: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_octet"))
        .args(args)
        .env("HOME", home)
        .env("XDG_DATA_HOME", home.join("data"))
        .env("LOCALAPPDATA", home.join("data"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("octet starts");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input.as_bytes())
        .expect("octet reads");
    child.wait_with_output().expect("octet ends")
}

fn stdout(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn generate_and_inspect_unpack_the_demo_and_use_it() {
    let home = tempfile::tempdir().expect("a folder");
    let ask = [
        "generate",
        "--message",
        "What is Octet?",
        "--temperature",
        "0",
    ];
    let said = stdout(&octet(home.path(), &ask, ""));
    assert!(said.contains("Octet"), "{said}");
    assert!(said.split_whitespace().count() >= 8, "{said}");
    // Found again, not unpacked again; the answer is the same.
    assert_eq!(stdout(&octet(home.path(), &ask, "")), said);

    let plan = stdout(&octet(home.path(), &["inspect"], ""));
    assert!(plan.contains("2 bits in groups of 16"), "{plan}");
    assert!(plan.contains("8 experts (2 used per token)"), "{plan}");
}

#[test]
fn chat_answers_several_turns() {
    let home = tempfile::tempdir().expect("a folder");
    let input = "What is Octet?\nHow do experts and offloading work?\n/quit\n";
    let chat = ["chat", "--temperature", "0"];
    let said = stdout(&octet(home.path(), &chat, input));
    assert!(said.contains("Octet") && said.contains("experts"), "{said}");
}

#[test]
fn a_home_that_cannot_be_written_is_named() {
    let home = tempfile::tempdir().expect("a folder");
    std::fs::write(home.path().join("data"), "").expect("a file");
    let output = octet(home.path(), &["generate", "--message", "Hi"], "");
    let error = String::from_utf8_lossy(&output.stderr);
    if cfg!(target_os = "macos") {
        return; // Data goes below Library there.
    }
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("demo model") && error.contains("data"),
        "{error}"
    );
}
