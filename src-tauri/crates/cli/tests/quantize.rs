//! `octet quantize` as people call it, end it, and call it again.

#[path = "../../quantize/tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::{Form, Model, SMALL, Sizes, contents};
use safetensors::Dtype;
use serde_json::Value;

/// A model of 17 files when quantized, and a place for them.
struct Place {
    _dir: tempfile::TempDir,
    source: PathBuf,
    out: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().expect("a folder");
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    let sizes = Sizes {
        experts: 8,
        ..SMALL
    };
    Model::new(sizes, 1).write(&source, Form::Fused, Dtype::BF16, 2);
    Place {
        _dir: dir,
        source,
        out,
    }
}

fn command(source: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octet"));
    command
        .arg("quantize")
        .arg("--source")
        .arg(source)
        .arg("--out")
        .arg(out)
        .args(["--attention-scale-group", "64", "--threads", "1"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn quantize(source: &Path, out: &Path, more: &[&str]) -> Output {
    command(source, out, more).output().expect("octet runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The one line of a call that must fail with `code`.
fn error(output: &Output, code: i32) -> String {
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}");
    assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    line
}

/// Tensor files that have their final names.
fn finished_files(out: &Path) -> usize {
    let Ok(entries) = fs::read_dir(out) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "safetensors"))
        .count()
}

/// Waits until `files` files are finished; false if the program ended before.
fn wait_for(child: &mut Child, out: &Path, files: usize) -> bool {
    while finished_files(out) < files {
        if child.try_wait().expect("a state").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

#[test]
fn a_float_model_becomes_one_that_generates() {
    let place = place();
    let shown = stdout(&quantize(&place.source, &place.out, &[]));
    for part in [
        "Experts    48 matrices",
        "Attention  8 matrices",
        "relative error 0.",
        "17 files",
        "of source by 1 thread,",
        "Tokenizer  none in",
        "octet chat --model",
    ] {
        assert!(shown.contains(part), "no {part:?} in: {shown}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_octet"))
        .args(["generate", "--tokens", "1,5,9", "--max-new-tokens", "4"])
        .args(["--temperature", "0", "--ignore-eos", "--json", "--model"])
        .arg(&place.out)
        .output()
        .expect("octet runs");
    let answer: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(answer["tokens"].as_array().expect("ids").len(), 4);
}

#[test]
fn a_dry_run_tells_sizes_and_time_and_writes_nothing() {
    let place = place();
    let shown = stdout(&quantize(&place.source, &place.out, &["--dry-run"]));
    for part in [
        "Source",
        "2 layers, 8 experts",
        "BF16",
        "17 files",
        "Time       about",
    ] {
        assert!(shown.contains(part), "no {part:?} in: {shown}");
    }
    assert!(!place.out.exists());
}

#[test]
fn runs_killed_at_any_moment_add_up_to_a_whole_one() {
    let place = place();
    let mut kills = 0;
    loop {
        let files = finished_files(&place.out) + 3;
        let mut child = command(&place.source, &place.out, &[])
            .spawn()
            .expect("octet runs");
        if !wait_for(&mut child, &place.out, files) {
            let output = child.wait_with_output().expect("its output");
            stdout(&output);
            break;
        }
        // SIGKILL, or its like on Windows: nothing is cleaned up.
        child.kill().expect("killed");
        child.wait().expect("ended");
        kills += 1;
    }
    assert!(kills > 0, "every run ended before it could be killed");
    let whole = place.out.with_file_name("whole");
    stdout(&quantize(&place.source, &whole, &[]));
    let (found, expected) = (contents(&place.out), contents(&whole));
    let names: Vec<&PathBuf> = found.keys().collect();
    assert!(names.into_iter().eq(expected.keys()), "{:?}", found.keys());
    assert!(found == expected);
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_finished() {
    let place = place();
    let mut child = command(&place.source, &place.out, &[])
        .spawn()
        .expect("octet runs");
    if !wait_for(&mut child, &place.out, 1) {
        println!("skipped: the run ended before it could be interrupted");
        return;
    }
    let pid = i32::try_from(child.id()).expect("a process id");
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    let output = child.wait_with_output().expect("its output");
    if output.status.success() {
        println!("skipped: the run ended before it could be interrupted");
        return;
    }
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("stopping after"), "{said}");
    assert!(
        said.contains("of 17 files are done; run the same command"),
        "{said}"
    );
    let left = contents(&place.out);
    assert!(left.contains_key(Path::new("octet-quantize.json")));
    assert!(
        !left
            .keys()
            .any(|name| name.to_string_lossy().ends_with(".incomplete"))
    );

    let shown = stdout(&quantize(&place.source, &place.out, &[]));
    assert!(shown.contains("of them from before"), "{shown}");
    assert!(!place.out.join("octet-quantize.json").exists());
}

#[test]
fn mistakes_get_one_line_and_the_right_status() {
    let place = place();
    let (source, out) = (place.source.as_path(), place.out.as_path());
    for more in [
        &["--expert-bits", "5"][..],
        &["--threads", "0"],
        &["--expert-group", "many"],
        &["--expert-group", "0"],
    ] {
        let mut args = vec!["quantize", "--source", "a", "--out", "b"];
        args.extend(more);
        let output = Command::new(env!("CARGO_BIN_EXE_octet"))
            .args(&args)
            .output()
            .expect("octet runs");
        error(&output, 2);
    }
    let line = error(&quantize(source, out, &["--expert-group", "48"]), 1);
    assert!(line.contains("48"), "{line}");
    assert!(line.contains("--expert-group 32 fits"), "{line}");
    // The model's own default is too large for a small one.
    let output = Command::new(env!("CARGO_BIN_EXE_octet"))
        .args(["quantize", "--source"])
        .arg(source)
        .arg("--out")
        .arg(out)
        .output()
        .expect("octet runs");
    let line = error(&output, 1);
    assert!(line.contains("--attention-scale-group"), "{line}");
    let (_, advised) = line.split_once("(--").expect("advice");
    let (option, rest) = advised.split_once(' ').expect("a value");
    let (value, _) = rest.split_once(' ').expect("a value");
    let option = format!("--{option}");
    let output = Command::new(env!("CARGO_BIN_EXE_octet"))
        .args(["quantize", "--dry-run", &option, value, "--source"])
        .arg(source)
        .arg("--out")
        .arg(out)
        .output()
        .expect("octet runs");
    stdout(&output);
    let line = error(&quantize(source, &source.join("out"), &[]), 1);
    assert!(line.contains("inside the source"), "{line}");
    let line = error(&quantize(out, source, &[]), 1);
    assert!(line.contains("no such folder"), "{line}");
    let line = error(
        &quantize(source, source.parent().expect("a parent"), &[]),
        1,
    );
    assert!(line.contains("not empty"), "{line}");
    assert!(!out.exists());
}
