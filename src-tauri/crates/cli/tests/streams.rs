//! Standard input, output and error as programs, pipes and full disks make them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use octet_tests::{fixture, model_with_tokenizer};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octet"));
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it with `input` on standard input.
fn run(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.spawn().expect("octet starts");
    // It may have ended before it read all.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    child.wait_with_output().expect("octet ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(dir: &Path) -> &str {
    dir.to_str().expect("a UTF-8 path")
}

/// A folder with the configuration of a model of one layer.
fn small_config() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(
        dir.path().join("config.json"),
        r#"{"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "num_local_experts": 2, "num_experts_per_tok": 2, "vocab_size": 100,
            "rope_theta": 1e6, "rms_norm_eps": 1e-5, "max_position_embeddings": 64}"#,
    )
    .expect("written");
    dir
}

/// `println!` panicked here.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_behind_standard_output_is_named_in_one_line() {
    let model = model_with_tokenizer("tiny-2bit");
    let (folder, dir) = (path(model.path()), small_config());
    let (config, out) = (dir.path().join("config.json"), dir.path().join("out"));
    let calls = [
        &["synth", "--config", path(&config), "--out", path(&out)][..],
        &["chat", "--model", folder, "--max-new-tokens", "3"],
        &[
            "generate",
            "--model",
            folder,
            "--tokens",
            "1,2",
            "--max-new-tokens",
            "3",
        ],
        &["inspect", "--model", folder],
        &["tokenize", "--tokenizer", folder, "--text", "hi"],
        &[
            "bench",
            "--model",
            folder,
            "--prompt-tokens",
            "2",
            "--new-tokens",
            "1",
        ],
        &["models", "list"],
    ];
    for args in calls {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("Linux has it");
        let mut command = command(args);
        command
            .stdout(full)
            .env("HF_HUB_CACHE", dir.path().join("hub"))
            .env("XDG_DATA_HOME", dir.path().join("data"));
        let output = run(command, b"hi\nhi\n");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            matches!(lines[..], [line] if line.starts_with("octet: standard output cannot be written")),
            "{args:?}: {said}"
        );
    }
}

#[test]
fn a_reader_that_has_gone_ends_a_command_without_a_word() {
    let model = model_with_tokenizer("tiny-2bit");
    let dir = small_config();
    let (config, out) = (dir.path().join("config.json"), dir.path().join("out"));
    let calls = [
        &["synth", "--config", path(&config), "--out", path(&out)][..],
        &[
            "chat",
            "--model",
            path(model.path()),
            "--max-new-tokens",
            "3",
        ],
    ];
    for args in calls {
        let mut child = command(args).spawn().expect("octet starts");
        drop(child.stdout.take());
        let _ = child.stdin.take().expect("a pipe").write_all(b"hi\nhi\n");
        let output = child.wait_with_output().expect("octet ends");
        let said = text(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{args:?}: {said}"
        );
    }
}

/// One bad byte ended the chat.
#[test]
fn a_line_that_is_not_utf8_is_left_out_and_the_chat_goes_on() {
    let model = model_with_tokenizer("tiny-2bit");
    let chat = command(&[
        "chat",
        "--model",
        path(model.path()),
        "--max-new-tokens",
        "3",
    ]);
    let output = run(chat, b"\xff\xfe\nhello\n/stats\n");
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("not UTF-8"), "{said}");
    assert!(text(&output.stdout).contains("tokens/s"));
}

#[test]
fn messages_come_from_standard_input() {
    let tokenizer = fixture("tokenizer");
    let tokenize = command(&[
        "tokenize",
        "--tokenizer",
        path(&tokenizer),
        "--messages",
        "-",
    ]);
    let output = run(tokenize, br#"[{"role": "user", "content": "Hello"}]"#);
    assert_eq!(
        text(&output.stdout).trim(),
        "1,733,16289,28793,22557,733,28748,16289,28793",
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn generate_says_that_an_answer_was_cut_and_threads_that_are_too_many() {
    let model = fixture("tiny-2bit");
    let args = |more: &[&'static str]| {
        let mut args = vec![
            "generate",
            "--tokens",
            "1,2",
            "--ignore-eos",
            "--max-new-tokens",
            "3",
        ];
        args.extend(more);
        let mut command = command(&args);
        command.arg("--model").arg(&model);
        text(&run(command, b"").stderr)
    };
    let said = args(&[]);
    assert!(said.contains("[cut after 3 tokens"), "{said}");
    assert!(
        !said.contains('\x1b') && !said.contains("--threads"),
        "{said}"
    );
    assert_eq!(args(&["--json"]), "");
    let out = tempfile::tempdir().expect("a folder");
    let mut logits = command(&["logits", "--tokens", "1", "--threads", "1024"]);
    logits.arg("--model").arg(&model);
    logits.arg("--out").arg(out.path().join("x.safetensors"));
    let said = text(&run(logits, b"").stderr);
    assert!(said.contains("--threads 1024 is more than the"), "{said}");
}

/// Groups of 4 were taken in silence.
#[test]
fn synth_tells_the_groups_that_it_took() {
    let dir = small_config();
    let (config, out) = (dir.path().join("config.json"), dir.path().join("out"));
    let synth = [
        "synth",
        "--config",
        path(&config),
        "--out",
        path(&out),
        "--expert-group",
        "7",
    ];
    let output = run(command(&synth), b"");
    let (shown, said) = (text(&output.stdout), text(&output.stderr));
    assert!(shown.contains("1 layer, 3 files"), "{shown}");
    assert!(
        shown.contains("Experts    2 bits in groups of 4"),
        "{shown}"
    );
    assert!(
        said.contains("--expert-group 7") && said.contains("4 was taken"),
        "{said}"
    );
}
