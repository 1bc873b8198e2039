//! What the command line says when something is wrong: the reason, and advice that works.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use octet_tests::{fixture, model_with_tokenizer};

fn octet(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_octet"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("octet runs")
}

fn stdout(args: &[&str]) -> String {
    let output = octet(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The one line of a call that must fail.
fn error(args: &[&str]) -> String {
    let output = octet(args);
    let line = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!output.status.success(), "{args:?}: {line}");
    assert_eq!(line.trim_end().lines().count(), 1, "{args:?}: {line}");
    line.trim_end().to_owned()
}

fn assert_error(args: &[&str], expected: &[&str]) {
    let line = error(args);
    for part in expected {
        assert!(line.contains(part), "no {part:?} in: {line}");
    }
}

fn path(dir: &Path) -> &str {
    dir.to_str().expect("a UTF-8 path")
}

fn ids(count: usize) -> String {
    vec!["7"; count].join(",")
}

#[test]
fn options_are_named_as_they_are_typed() {
    let model = fixture("tiny-2bit");
    let with = |more: &[&'static str]| {
        let all = [
            &["generate", "--model", path(&model), "--tokens", "1"],
            more,
        ]
        .concat();
        error(&all)
    };
    for (option, value, expected) in [
        ("--temperature", "warm", "give a number, as in 0.7"),
        ("--top-p", "", "give a number, as in 0.7"),
        ("--top-p", "1.5", "--top-p is 1.5; give 0 to 1"),
        ("--min-p", "-1", "--min-p is -1; give 0 to 1"),
        (
            "--temperature",
            "inf",
            "--temperature is inf; give a number from 0 up",
        ),
        (
            "--repetition-penalty",
            "0",
            "--repetition-penalty is 0; give a number above 0",
        ),
        (
            "--device",
            "gpu",
            "\"gpu\" is not a device: choose auto, cpu or cuda",
        ),
        (
            "--preset",
            "24gb",
            "\"24gb\" is not a preset: choose auto, 16gb, 12gb or cpu",
        ),
    ] {
        let line = with(&[option, value]);
        assert!(line.contains(expected), "no {expected:?} in: {line}");
    }
    let line = with(&["--device", "cpu", "--preset", "16gb"]);
    assert!(
        line.contains("--device cpu and --preset 16gb cannot be combined"),
        "{line}"
    );
}

/// The advice was a longer context, also at the end of what the model has.
#[test]
fn the_context_advised_holds_the_prompt_and_an_answer() {
    let model = fixture("tiny-2bit");
    let ask = |tokens: usize, ctx: &str| {
        octet(&[
            "generate",
            "--model",
            path(&model),
            "--tokens",
            &ids(tokens),
            "--ctx",
            ctx,
            "--max-new-tokens",
            "3",
            "--ignore-eos",
        ])
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let short = ask(100, "64");
    assert_eq!(short.status.code(), Some(1));
    let line = said(&short);
    let expected = "100 tokens do not fit the context of 64: give --ctx 103, or shorten the text";
    assert!(line.contains(expected), "{line}");
    let followed = ask(100, "103");
    assert!(followed.status.success(), "{}", said(&followed));
    assert!(said(&followed).contains("cut after 3 tokens"));

    let model_limit = ask(5000, "4096");
    let line = said(&model_limit);
    assert!(
        line.contains("5000 tokens do not fit the context of 4096"),
        "{line}"
    );
    assert!(
        !line.contains("--ctx") && line.contains("shorten the text"),
        "{line}"
    );
    let bench = ["bench", "--model", path(&model), "--prompt-tokens", "5000"];
    let line = error(&bench);
    assert!(!line.contains("--ctx"), "{line}");
    assert_error(
        &[&bench[..3], &["--ctx", "64", "--prompt-tokens", "80"]].concat(),
        &["144 tokens", "give --ctx 144"],
    );
}

#[test]
fn messages_are_counted_from_1_everywhere() {
    let dir = model_with_tokenizer("tiny-2bit");
    let file = dir.path().join("messages.json");
    let refused = |json: &str| {
        std::fs::write(&file, json).expect("written");
        let (model, file) = (path(dir.path()), path(&file));
        error(&["tokenize", "--tokenizer", model, "--messages", file])
    };
    let user = r#"{"role": "user", "content": "a"}"#;
    for (json, expected) in [
        (format!("[{user}, 7]"), "message 2 of the list"),
        (
            r#"[{"role": "assistant", "content": "a"}]"#.to_owned(),
            "message 1 is from the assistant",
        ),
        (String::new(), "the file is empty"),
        (" \n".to_owned(), "the file is empty"),
        ("[".to_owned(), "not JSON: EOF"),
    ] {
        let line = refused(&json);
        assert!(line.contains(expected), "no {expected:?} in: {line}");
    }
    let gone = dir.path().join("gone.json");
    assert_error(
        &[
            "tokenize",
            "--tokenizer",
            path(dir.path()),
            "--messages",
            path(&gone),
        ],
        &["there is no file", "gone.json"],
    );
}

#[test]
fn what_was_not_measured_is_not_a_figure() {
    let model = fixture("tiny-2bit");
    let report = stdout(&[
        "bench",
        "--model",
        path(&model),
        "--prompt-tokens",
        "4",
        "--new-tokens",
        "0",
        "--routing-reuse",
        "0",
    ]);
    assert!(report.contains("Decode     not measured"), "{report}");
    assert!(
        !report.contains("over 0") && !report.contains("0% hits"),
        "{report}"
    );
}

#[test]
fn the_plan_is_in_plain_words() {
    let model = fixture("tiny-2bit");
    let inspect = |more: &[&str]| {
        let all = [
            &["inspect", "--device", "cpu", "--model", path(&model)],
            more,
        ]
        .concat();
        stdout(&all)
    };
    let roomy = inspect(&[]);
    assert!(roomy.contains("8 experts (2 used per token)"), "{roomy}");
    // Nothing is missed where RAM holds all.
    assert!(!roomy.contains("misses"), "{roomy}");
    let tight = inspect(&["--ram", "2MB", "--ctx", "64"]);
    let expected = "experts not in RAM: read from disk, 2 predicted ahead";
    assert!(tight.contains(expected), "{tight}");
    let none = inspect(&["--ram", "2MB", "--ctx", "64", "--prefetch", "0"]);
    assert!(
        none.contains("read from disk, none predicted ahead"),
        "{none}"
    );
}

#[test]
fn sizes_are_given_as_people_read_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("config.json");
    std::fs::write(&config, r#"{"model_type": "mixtral"}"#).expect("written");
    let out = dir.path().join("out");
    let args = ["synth", "--config", path(&config), "--out", path(&out)];
    assert_error(
        &[&args[..], &["--layers", "1024", "--expert-bits", "8"]].concat(),
        &[" TB, ", " are free: give fewer --layers"],
    );
    assert!(!out.exists());

    let model = model_with_tokenizer("tiny-2bit");
    let file = model.path().join("model-00007-of-00033.safetensors");
    let bytes = std::fs::read(&file).expect("a fixture");
    std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("written");
    let line = error(&["inspect", "--model", path(model.path())]);
    assert!(
        line.contains("kB expected, ") && line.contains("download this file again"),
        "{line}"
    );
    assert!(!line.contains("bytes"), "{line}");
}
