//! What goes into a model as text and comes out as text: ends, special tokens, parts, dates.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use octet_tests::{fixture, model_with_tokenizer};
use serde_json::{Value, json};

fn octet(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_octet"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("octet runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output and standard error of a call that must succeed.
fn both(args: &[&str]) -> (String, String) {
    let output = octet(args);
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    (text(&output.stdout), errors)
}

fn json_of(args: &[&str]) -> Value {
    serde_json::from_str(&both(args).0).expect("JSON")
}

/// The last line, behind notes, of a call that must fail with `code`.
fn error(args: &[&str], code: i32) -> String {
    let output = octet(args);
    let lines = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {lines}");
    lines.lines().last().expect("a line").to_owned()
}

fn path(dir: &Path) -> &str {
    dir.to_str().expect("a UTF-8 path")
}

fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) {
    std::fs::write(dir.join(name), text).expect("written");
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

/// A greedy answer to a few tokens; `more` goes behind.
fn greedy(model: &Path, more: &[&str]) -> Value {
    let args = [
        "generate",
        "--model",
        path(model),
        "--tokens",
        "365,393,189,286,14,227,460",
        "--max-new-tokens",
        "8",
        "--temperature",
        "0",
        "--exact",
        "--json",
    ];
    json_of(&[&args[..], more].concat())
}

fn tokens(answer: &Value) -> Vec<u64> {
    serde_json::from_value(answer["tokens"].clone()).expect("ids")
}

/// A copy of a golden model without its tokenizer.
fn without_tokenizer() -> tempfile::TempDir {
    let dir = model_with_tokenizer("tiny-2bit");
    std::fs::remove_file(dir.path().join("tokenizer.json")).expect("removed");
    dir
}

/// Puts the special token `text` at `id` of the tokenizer in `dir`.
fn add_special(dir: &Path, text: &str, id: u64) {
    let file = dir.join("tokenizer.json");
    let mut json = read_json(&file);
    json["model"]["vocab"][text] = id.into();
    json["added_tokens"].as_array_mut().expect("a list").push(
        json!({"id": id, "content": text, "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false}),
    );
    std::fs::write(&file, json.to_string()).expect("written");
}

/// The tokenizer in `dir` no longer says how a text begins.
fn take_bos_rule(dir: &Path) {
    let file = dir.join("tokenizer.json");
    let mut json = read_json(&file);
    json["post_processor"] = Value::Null;
    std::fs::write(&file, json.to_string()).expect("written");
}

#[test]
fn end_tokens_of_generation_config_end_an_answer() {
    let dir = without_tokenizer();
    let all = greedy(dir.path(), &["--ignore-eos"]);
    let all = tokens(&all);
    assert_eq!(all.len(), 8);
    let cut = all.iter().position(|id| *id == all[3]).expect("there");
    for (value, expected) in [
        (json!(all[3]), "eos"),
        (json!([99_999, all[3]]), "eos"),
        (Value::Null, "length"),
        (json!([]), "length"),
    ] {
        let config = json!({"eos_token_id": value, "max_length": 20});
        // With a byte order mark, as editors on Windows write it.
        write(
            dir.path(),
            "generation_config.json",
            format!("\u{feff}{config}"),
        );
        let answer = greedy(dir.path(), &[]);
        assert_eq!(answer["reason"], expected, "{config}");
        if expected == "eos" {
            assert_eq!(tokens(&answer), all[..cut], "{config}");
        }
    }
    for damaged in [
        "{",
        r#"{"eos_token_id": "x"}"#,
        r#"{"eos_token_id": [1, null]}"#,
    ] {
        write(dir.path(), "generation_config.json", damaged);
        let args = ["generate", "--model", path(dir.path()), "--tokens", "1"];
        let (_, errors) = both(&[&args[..], &["--max-new-tokens", "1"]].concat());
        assert!(
            errors.contains("generation_config.json is ignored"),
            "{errors}"
        );
        let (_, errors) = both(&["inspect", "--model", path(dir.path())]);
        assert!(
            errors.contains("generation_config.json is ignored"),
            "{errors}"
        );
    }
}

#[test]
fn a_special_token_is_a_stop_string_though_it_is_not_shown() {
    let dir = model_with_tokenizer("tiny-2bit");
    let all = tokens(&greedy(dir.path(), &["--ignore-eos"]));
    let wanted = *all.iter().skip(2).find(|id| **id > 258).expect("a free id");
    let cut = all.iter().position(|id| *id == wanted).expect("there");
    add_special(dir.path(), "<|im_end|>", wanted);
    let answer = greedy(dir.path(), &["--ignore-eos", "--stop", "<|im_end|>"]);
    assert_eq!(answer["reason"], "stop");
    assert_eq!(tokens(&answer), all[..cut]);
    assert!(!answer["text"].as_str().expect("text").contains("im_end"));
    let other = greedy(dir.path(), &["--ignore-eos", "--stop", "<|im_start|>"]);
    assert_eq!((&other["reason"], tokens(&other)), (&json!("length"), all));
}

#[test]
fn a_stop_string_without_a_tokenizer_is_an_error() {
    let model = fixture("tiny-2bit");
    let args = ["generate", "--model", path(&model), "--tokens", "1"];
    let line = error(&[&args[..], &["--stop", "x"]].concat(), 1);
    assert!(
        line.contains("tokenizer.json") && line.contains("stop"),
        "{line}"
    );
}

#[test]
fn an_added_token_beyond_the_embedding_is_refused_only_where_it_is_needed() {
    let dir = model_with_tokenizer("tiny-2bit");
    add_special(dir.path(), "[PAD]", 512);
    let ask = |text: &'static str| {
        [
            "generate",
            "--model",
            path(dir.path()),
            "--prompt",
            text,
            "--max-new-tokens",
            "1",
        ]
    };
    both(&ask("Hello"));
    let line = error(&ask("a[PAD]"), 1);
    assert!(
        line.contains("token 512 (\"[PAD]\")") && line.contains("512"),
        "{line}"
    );
    both(&[
        "inspect",
        "--model",
        path(dir.path()),
        "--tokenizer",
        path(dir.path()),
    ]);
    // Half of another model's vocabulary is no fine-tune's.
    let other = fixture("tokenizer");
    let args = [
        "generate",
        "--model",
        path(dir.path()),
        "--tokenizer",
        path(&other),
    ];
    let line = error(&[&args[..], &["--prompt", "x"]].concat(), 1);
    assert!(line.contains("another model"), "{line}");
}

#[test]
fn bos_that_only_config_json_names_is_used_and_said() {
    let dir = model_with_tokenizer("tiny-2bit");
    take_bos_rule(dir.path());
    let model = path(dir.path());
    let prompt = [
        "generate",
        "--model",
        model,
        "--prompt",
        "Hi",
        "--max-new-tokens",
        "1",
    ];
    let (answer, errors) = both(&[&prompt[..], &["--json"]].concat());
    assert!(
        errors.contains("BOS is \"<s>\", token 1, as config.json has it"),
        "{errors}"
    );
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["stats"]["prompt_tokens"], 3);
    write(
        dir.path(),
        "messages.json",
        r#"[{"role": "user", "content": "Hi"}]"#,
    );
    let messages = dir.path().join("messages.json");
    let tokenize = [
        "tokenize",
        "--tokenizer",
        model,
        "--messages",
        path(&messages),
    ];
    let (ids, errors) = both(&tokenize);
    assert!(
        ids.starts_with("1,") && errors.contains("config.json"),
        "{ids} {errors}"
    );
    write(
        dir.path(),
        "tokenizer_config.json",
        r#"{"bos_token": null}"#,
    );
    let (ids, errors) = both(&tokenize);
    assert!(
        !ids.starts_with("1,") && errors.is_empty(),
        "{ids} {errors}"
    );
}

#[test]
fn a_prompt_and_a_text_agree_on_special_tokens() {
    let dir = model_with_tokenizer("tiny-2bit");
    let model = path(dir.path());
    for (given, bos) in [("a</s>b", 1), ("plain", 1), ("<s>x</s>", 0)] {
        let ids = json_of(&["tokenize", "--tokenizer", model, "--text", given, "--json"]);
        let ids: Vec<u64> = serde_json::from_value(ids["ids"].clone()).expect("ids");
        assert_eq!(ids.contains(&2), given.contains("</s>"));
        let prompt = [
            "generate",
            "--model",
            model,
            "--prompt",
            given,
            "--max-new-tokens",
            "1",
        ];
        let answer = json_of(&[&prompt[..], &["--temperature", "0", "--exact", "--json"]].concat());
        assert_eq!(answer["stats"]["prompt_tokens"], ids.len() + bos, "{given}");
        // The same as those ids behind BOS.
        let with_bos = vec![1; bos].into_iter().chain(ids);
        let with_bos: Vec<String> = with_bos.map(|id: u64| id.to_string()).collect();
        let by_ids = [
            "generate",
            "--model",
            model,
            "--tokens",
            &with_bos.join(","),
        ];
        let more = [
            "--max-new-tokens",
            "1",
            "--temperature",
            "0",
            "--exact",
            "--json",
        ];
        let by_ids = json_of(&[&by_ids[..], &more].concat());
        assert_eq!(by_ids["tokens"], answer["tokens"], "{given}");
    }
}

#[test]
fn content_in_parts_and_the_day_of_the_conversation_reach_the_template() {
    let dir = model_with_tokenizer("tiny-2bit");
    let template = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}<{{ m.content }}>\
                    {% endfor %}";
    write(dir.path(), "chat_template.jinja", template);
    write(
        dir.path(),
        "messages.json",
        r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
                                                      {"type": "text", "text": "b"}]},
                         {"role": "user", "content": "c"}]}"#,
    );
    let messages = dir.path().join("messages.json");
    let tokenize = [
        "tokenize",
        "--tokenizer",
        path(dir.path()),
        "--json",
        "--messages",
    ];
    let tokenize = [&tokenize[..], &[path(&messages), "--date", "2026-11-27"]].concat();
    let expected = "27 Nov 2026<a\nb><c>";
    let ids = json_of(&tokenize)["ids"].clone();
    let plain = [
        "tokenize",
        "--tokenizer",
        path(dir.path()),
        "--json",
        "--text",
        expected,
    ];
    assert_eq!(ids, json_of(&plain)["ids"]);
    let generate = [
        "generate",
        "--model",
        path(dir.path()),
        "--max-new-tokens",
        "1",
        "--json",
    ];
    let more = ["--messages", path(&messages), "--date", "2026-11-27"];
    let answer = json_of(&[&generate[..], &more].concat());
    assert_eq!(answer["stats"]["prompt_tokens"], expected.len());
    let wrong = [&generate[..], &["--message", "x", "--date", "27.11.2026"]].concat();
    assert!(error(&wrong, 2).contains("as in 2026-11-27"));
    write(
        dir.path(),
        "messages.json",
        r#"[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]"#,
    );
    let line = error(&tokenize, 1);
    assert!(
        line.contains("image_url") && line.contains("only text"),
        "{line}"
    );
}

#[test]
fn a_byte_order_mark_is_fine_in_every_json_file_of_a_model() {
    let dir = model_with_tokenizer("tiny-2bit");
    let expected = greedy(dir.path(), &[]);
    write(
        dir.path(),
        "tokenizer_config.json",
        r#"{"bos_token": "<s>"}"#,
    );
    write(dir.path(), "generation_config.json", "{}");
    for name in [
        "config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        let old = std::fs::read(dir.path().join(name)).expect(name);
        write(dir.path(), name, [b"\xef\xbb\xbf", &old[..]].concat());
    }
    let answer = greedy(dir.path(), &[]);
    assert_eq!(tokens(&answer), tokens(&expected));
    both(&["inspect", "--model", path(dir.path())]);
    let out = dir.path().join("synth");
    let config = dir.path().join("config.json");
    let synth = [
        "synth",
        "--config",
        path(&config),
        "--out",
        path(&out),
        "--layers",
        "1",
    ];
    both(&synth);
}

#[test]
fn a_long_wrong_value_is_cut_in_the_message() {
    let long = format!("1,{}", "x".repeat(50_000));
    let model = fixture("tiny-2bit");
    for args in [
        ["generate", "--model", path(&model), "--tokens", &long],
        ["generate", "--model", path(&model), "--seed", &long],
        ["generate", "--model", path(&model), "--device", &long],
    ] {
        let line = error(&args, 2);
        assert!(line.len() < 600, "{} bytes: {}", line.len(), &line[..200]);
        assert!(line.contains(args[3]) && line.contains("xxx"), "{line}");
    }
    let unknown = format!("--{}", "y".repeat(5_000));
    assert!(error(&["generate", &unknown], 2).len() < 600);
}

#[test]
fn unknown_kernels_are_an_error() {
    let run = |level: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_octet"));
        let model = fixture("tiny-2bit");
        command.args(["generate", "--model", path(&model), "--tokens", "1"]);
        command
            .args(["--max-new-tokens", "1"])
            .env("OCTET_KERNELS", level);
        let output = command.output().expect("octet runs");
        (output.status.code(), text(&output.stderr))
    };
    assert_eq!(run("scalar").0, Some(0));
    assert_eq!(run("").0, Some(0));
    let (code, line) = run("avx1024");
    assert_eq!(code, Some(1), "{line}");
    assert!(
        line.contains("\"avx1024\"; give scalar, neon, avx2 or avx512"),
        "{line}"
    );
    let foreign = if cfg!(target_arch = "aarch64") {
        "avx2"
    } else {
        "neon"
    };
    let (code, line) = run(foreign);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("this processor lacks"), "{line}");
}

#[test]
fn a_last_line_that_ends_in_a_backslash_is_sent_and_notes_go_to_standard_error() {
    let dir = model_with_tokenizer("tiny-2bit");
    take_bos_rule(dir.path());
    let chat = |input: &[u8]| {
        let args = ["chat", "--model", path(dir.path()), "--max-new-tokens", "3"];
        let mut chat = Command::new(env!("CARGO_BIN_EXE_octet"))
            .args(args)
            .args(["--seed", "1", "--ignore-eos"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("octet runs");
        let mut stdin = chat.stdin.take().expect("a pipe");
        stdin.write_all(input).expect("written");
        drop(stdin);
        let output = chat.wait_with_output().expect("it ends");
        assert!(output.status.success());
        (text(&output.stdout), text(&output.stderr))
    };
    let (_, errors) = chat(b"one \\\ntwo\\");
    assert_eq!(errors.matches("[cut at").count(), 1, "{errors}");
    let (shown, errors) = chat(b"hello\n");
    assert_eq!(errors.matches("[cut at").count(), 1, "{errors}");
    // The plan's notes, here that BOS is config.json's.
    assert!(errors.contains("as config.json has it"), "{errors}");
    assert!(
        !shown.contains("[cut") && !shown.contains("config.json"),
        "{shown}"
    );
}
