//! The command line as programs and people call it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use octet_tests::{fixture, model_with_tokenizer};
use safetensors::SafeTensors;
use serde_json::Value;

fn octet(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_octet"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("octet runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Standard output of a call that must succeed.
fn stdout(args: &[&str]) -> String {
    let output = octet(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).expect("JSON")
}

/// The one line of a call that must fail with `code`.
fn error(args: &[&str], code: i32) -> String {
    let output = octet(args);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {line}");
    assert_eq!(line.trim_end().lines().count(), 1, "{args:?}: {line}");
    assert!(!line.contains("panicked"), "{args:?}: {line}");
    line
}

fn path(dir: &Path) -> &str {
    dir.to_str().expect("a UTF-8 path")
}

#[test]
fn generate_gives_tokens_text_reason_and_stats() {
    let dir = model_with_tokenizer("tiny-2bit");
    let args = [
        "generate",
        "--model",
        path(dir.path()),
        "--prompt",
        "Hello",
        "--max-new-tokens",
        "6",
        "--seed",
        "5",
        "--ignore-eos",
        "--json",
    ];
    let answer = json(&args);
    assert_eq!(answer["tokens"].as_array().expect("a list").len(), 6);
    assert_eq!(answer["reason"], "length");
    assert!(answer["text"].is_string());
    assert_eq!(answer["stats"]["seed"], 5);
    assert_eq!(answer["stats"]["new_tokens"], 6);
    let again = json(&args);
    assert_eq!(answer["tokens"], again["tokens"]);
}

#[test]
fn generate_reads_a_conversation() {
    let dir = model_with_tokenizer("tiny-2bit");
    let file = dir.path().join("messages.json");
    std::fs::write(&file, r#"[{"role": "user", "content": "Hi"}]"#).expect("written");
    let (model, file) = (path(dir.path()), path(&file));
    let args = [
        "generate",
        "--model",
        model,
        "--messages",
        file,
        "--max-new-tokens",
        "3",
        "--json",
    ];
    // BOS and " [INST] Hi [/INST]" as bytes.
    assert_eq!(json(&args)["stats"]["prompt_tokens"], 19);
}

#[test]
fn greedy_tokens_are_the_golden_ones() {
    let golden = std::fs::read(fixture("tiny-2bit").join("golden.json")).expect("a fixture");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    let case = &golden["cases"][2];
    let ids: Vec<String> = case["prompt"]
        .as_array()
        .expect("ids")
        .iter()
        .map(ToString::to_string)
        .collect();
    let answer = json(&[
        "generate",
        "--model",
        path(&fixture("tiny-2bit")),
        "--tokens",
        &ids.join(","),
        "--max-new-tokens",
        "10",
        "--temperature",
        "0",
        "--exact",
        "--json",
    ]);
    // The first ten margins of this case are all above 0.2.
    let expected = &case["greedy"].as_array().expect("ids")[..10];
    assert_eq!(answer["tokens"].as_array().expect("ids"), expected);
    assert_eq!(answer["text"], "", "without a tokenizer");
}

#[test]
fn logits_are_written_as_a_tensor() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("out.safetensors");
    let model = fixture("tiny-2bit");
    stdout(&[
        "logits",
        "--model",
        path(&model),
        "--tokens",
        "435",
        "--exact",
        "--out",
        path(&file),
    ]);
    let (ours, golden) = (
        std::fs::read(&file).expect("written"),
        std::fs::read(model.join("golden.safetensors")).expect("a fixture"),
    );
    let ours = SafeTensors::deserialize(&ours).expect("safetensors");
    let ours = ours.tensor("logits").expect("the tensor");
    assert_eq!(ours.shape(), [1, 512]);
    let golden = SafeTensors::deserialize(&golden).expect("safetensors");
    let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let golden = golden.tensor("case0.logits").expect("the tensor");
    for (a, b) in ours
        .data()
        .chunks_exact(4)
        .zip(golden.data().chunks_exact(4))
    {
        assert!((value(a) - value(b)).abs() < 0.05);
    }
}

#[test]
fn tokenize_gives_the_golden_ids() {
    let golden = std::fs::read(fixture("tokenizer").join("golden.json")).expect("a fixture");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("messages.json");
    let tokenizer = fixture("tokenizer").join("tokenizer.json");
    for case in golden["chat"].as_array().expect("cases") {
        std::fs::write(&file, case["messages"].to_string()).expect("written");
        let args = [
            "tokenize",
            "--tokenizer",
            path(&tokenizer),
            "--messages",
            path(&file),
            "--json",
        ];
        assert_eq!(json(&args)["ids"], case["ids"]);
    }
    for case in golden["plain"].as_array().expect("cases") {
        let text = format!("--text={}", case["text"].as_str().expect("a text"));
        let args = ["tokenize", "--tokenizer", path(&tokenizer), &text, "--json"];
        assert_eq!(json(&args)["ids"], case["ids"], "{text}");
    }
}

#[test]
fn inspect_shows_shape_quantization_and_plan() {
    let model = fixture("tiny-3bit");
    let report = json(&["inspect", "--model", path(&model), "--json"]);
    assert_eq!(report["config"]["n_layers"], 4);
    assert_eq!(report["quantization"]["experts"][0]["bits"], 3);
    assert_eq!(report["quantization"]["attention"][0]["group_size"], 64);
    assert_eq!(report["sizes"]["files"], 33);
    assert!(report["plan"]["ctx"].as_u64().expect("a plan") > 0);
    let shown = stdout(&["inspect", "--model", path(&model)]);
    assert!(shown.contains("3 bits in groups of 64"), "{shown}");
    assert!(shown.contains("Tokenizer  none"), "{shown}");
    let dir = model_with_tokenizer("tiny-3bit");
    let file = dir.path().join("tokenizer.json");
    let given = [
        "inspect",
        "--model",
        path(&model),
        "--tokenizer",
        path(&file),
    ];
    let shown = stdout(&given);
    assert!(
        shown.contains(&format!("Tokenizer  {}", path(&file))),
        "{shown}"
    );
    let other = fixture("tokenizer").join("tokenizer.json");
    let line = error(
        &[
            "inspect",
            "--model",
            path(&model),
            "--tokenizer",
            path(&other),
        ],
        1,
    );
    assert!(line.contains("another model"), "{line}");
}

/// What `octet bench` prints, on the processor or with the libraries in `driver` on a GPU.
fn bench_in(cache: &Path, driver: Option<&Path>, args: &[&str]) -> String {
    let device = if driver.is_some() { "cuda" } else { "cpu" };
    let mut command = Command::new(env!("CARGO_BIN_EXE_octet"));
    command
        .args(["bench", "--device", device])
        .args(["--model", path(&fixture("tiny-2bit"))])
        .args(args)
        .env("OCTET_CACHE_DIR", cache);
    if let Some(driver) = driver {
        command.env("LD_LIBRARY_PATH", driver);
    }
    let output = command.output().expect("octet runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn bench_prints_both_routings_and_what_the_machine_can_do() {
    let cache = tempfile::tempdir().expect("a folder");
    let short = ["--prompt-tokens", "8", "--new-tokens", "4"];
    let bench = |more: &[&str]| bench_in(cache.path(), None, &[&short, more].concat());
    let both = bench(&["--routing-reuse", "0.25"]);
    assert!(both.contains("the model's own routing"), "{both}");
    assert!(both.contains("with probability 0.25"), "{both}");
    assert_eq!(both.matches("tokens/s").count(), 4, "{both}");
    assert!(!both.contains("on the CPU,"), "not calibrated: {both}");
    let one = bench(&["--routing-reuse", "0"]);
    assert_eq!(one.matches("tokens/s").count(), 2, "{one}");

    let file = cache.path().join("calibration.json");
    assert!(!file.exists());
    let calibrated = bench(&["--calibrate", "--routing-reuse", "0"]);
    assert!(calibrated.contains("no GPU to copy to"), "{calibrated}");
    assert!(calibrated.contains(path(&file)), "{calibrated}");
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).expect("kept")).expect("JSON");
    let speed = kept["entries"][0]["calibration"]["cpu_bytes_per_sec"].as_f64();
    assert!(speed.is_some_and(|speed| speed > 0.0), "{kept}");
    // A file where the folder should be.
    let nowhere = bench_in(&file, None, &[&short[..], &["--calibrate"]].concat());
    assert!(nowhere.contains("could not be kept"), "{nowhere}");
    assert!(!nowhere.contains("           kept in"), "{nowhere}");
    let report = bench(&["--calibrate", "--json"]);
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert!(report["calibration"]["cpu_bytes_per_sec"].as_f64() > Some(0.0));
}

/// With the driver that stands in for a GPU.
#[test]
fn bench_on_a_gpu_tells_what_it_took_and_how_misses_were_met() {
    let Some(driver) = octet_test_cuda::library_dir() else {
        println!("left out: the fake CUDA driver was not built here");
        return;
    };
    let cache = tempfile::tempdir().expect("a folder");
    let short = ["--prompt-tokens", "4", "--new-tokens", "3", "--ctx", "64"];
    let bench = |more: &[&str]| bench_in(cache.path(), Some(driver), &[&short, more].concat());
    let report = bench(&["--experts-on-gpu", "3", "--misses", "fetch", "--json"]);
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["device"]["kind"], "cuda");
    assert_eq!(report["gpu_slots"], 12);
    let number = |value: &Value| {
        value
            .as_f64()
            .unwrap_or_else(|| panic!("{value}: {report}"))
    };
    assert!(number(&report["peak_vram"]) > 0.0);
    assert!(number(&report["peak_vram"]) <= number(&report["planned_vram"]));
    assert_eq!(report["device_misses_on_cpu"], 0.0);
    assert!(number(&report["calibration"]["upload_bytes_per_sec"]) > 0.0);
    for figures in [&report, &report["routing_reuse"]] {
        let device = &figures["experts"]["decode"]["device"];
        let demands = number(&device["hits"]) + number(&device["misses"]);
        // Three tokens, four layers, two experts.
        assert_eq!(demands, 24.0);
        assert!(number(&device["bytes_moved"]) > 0.0);
    }
    let table = bench(&[
        "--experts-on-gpu",
        "3",
        "--misses",
        "cpu",
        "--routing-reuse",
        "0",
    ]);
    for words in [
        "Device     GPU 0",
        "0 fetched",
        "on the CPU",
        "Peak VRAM",
        "12 slots of 32",
    ] {
        assert!(table.contains(words), "{words}: {table}");
    }
}

#[test]
fn a_ram_budget_is_kept_and_bench_shows_what_it_costs() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("config.json");
    std::fs::write(
        &config,
        r#"{"model_type": "mixtral", "hidden_size": 2048, "intermediate_size": 7168,
            "num_hidden_layers": 10, "num_attention_heads": 16, "num_key_value_heads": 4,
            "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 2000,
            "rope_theta": 1e6, "rms_norm_eps": 1e-5, "max_position_embeddings": 1024}"#,
    )
    .expect("written");
    let model = dir.path().join("model");
    stdout(&[
        "synth",
        "--config",
        path(&config),
        "--out",
        path(&model),
        "--seed",
        "1",
    ]);
    let sizes = json(&["inspect", "--model", path(&model), "--json"])["sizes"].clone();
    let bytes = |name: &str| sizes[name].as_u64().expect("bytes");
    let budget = 250_000_000;
    assert!(bytes("experts_bytes") > 4 * budget);

    let report = json(&[
        "bench",
        "--model",
        path(&model),
        "--prompt-tokens",
        "24",
        "--new-tokens",
        "6",
        "--ctx",
        "64",
        "--ram",
        "250MB",
        "--prefetch",
        "2",
        "--json",
    ]);
    for name in ["prefill_tok_s", "decode_tok_s", "bytes_moved", "peak_rss"] {
        assert!(
            report[name].as_f64().expect("a number") > 0.0,
            "{name}: {report}"
        );
    }
    let decode = &report["experts"]["decode"]["ram"];
    for name in ["hits", "misses", "prefetches", "prefetch_hits"] {
        assert!(
            decode[name].as_u64().expect("a count") > 0,
            "{name}: {report}"
        );
    }
    assert!(
        report["hit_rate"]["ram"]
            .as_f64()
            .is_some_and(|rate| rate > 0.0 && rate < 1.0)
    );
    assert!(
        report["routing"]["distinct_per_layer"]
            .as_f64()
            .is_some_and(|n| n >= 2.0)
    );
    let reuse = &report["routing_reuse"];
    assert_eq!(reuse["p"], 0.5);
    for name in ["prefill_tok_s", "decode_tok_s"] {
        assert!(reuse[name].as_f64().is_some_and(|speed| speed > 0.0));
    }
    let kept = |figures: &Value| figures["routing"]["kept_from_previous"].as_f64();
    assert!(kept(reuse) > kept(&report), "{report}");
    assert!(reuse["hit_rate"]["ram"].is_f64() && report["device"]["kind"] == "cpu");
    if cfg!(target_os = "linux") {
        let peak = report["peak_rss"].as_u64().expect("bytes");
        let most = budget + bytes("trunk_bytes") + 400_000_000;
        assert!(peak < most, "a peak of {peak} bytes is over {most}");
    }
}

#[test]
fn chat_answers_line_by_line_and_knows_its_commands() {
    let dir = model_with_tokenizer("tiny-2bit");
    let mut chat = Command::new(env!("CARGO_BIN_EXE_octet"))
        .args([
            "chat",
            "--model",
            path(dir.path()),
            "--max-new-tokens",
            "5",
            "--seed",
            "1",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("octet runs");
    let mut input = chat.stdin.take().expect("a pipe");
    input
        .write_all(b"/stats\nhello\n/stats\n/undo\n/undo\n/nonsense\n/help\n/usr/bin/x\n//quit\n")
        .expect("written");
    drop(input);
    let output = chat
        .wait_with_output()
        .expect("it ends at the end of input");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = String::from_utf8_lossy(&output.stdout);
    for expected in [
        "No answer yet.",
        "tokens/s",
        "Removed.",
        "nothing to undo",
        "is not a command",
        "/retry",
    ] {
        assert!(
            shown.contains(expected),
            "{expected:?} is missing in: {shown}"
        );
    }
    // A path and what begins with two slashes are questions.
    assert_eq!(shown.matches("is not a command").count(), 1, "{shown}");
    let notes = text(&output.stderr);
    assert_eq!(notes.matches("[cut at").count(), 3, "{notes}");
}

#[test]
fn mistakes_get_one_line_and_the_right_status() {
    let model = fixture("tiny-2bit");
    let model = path(&model);
    let usage = [
        &["frobnicate"][..],
        &["generate", "--model", model],
        &["generate", "--model", model, "--tokens", "1,x"],
        &[
            "generate",
            "--model",
            model,
            "--tokens",
            "1",
            "--temperature",
            "-1",
        ],
        &[
            "generate", "--model", model, "--tokens", "1", "--top-p", "nan",
        ],
        &[
            "generate", "--model", model, "--tokens", "1", "--prompt", "both",
        ],
        &["bench", "--model", model, "--ram", "lots"],
        &["bench", "--model", model, "--threads", "0"],
        &["inspect", "--model", model, "--prefetch", "3"],
        &["inspect", "--model", model, "--ctx", "0"],
        &["synth", "--config", "c", "--out", "o", "--layers", "0"],
        &["synth", "--config", "c", "--out", "o", "--layers", "2000"],
        &[
            "synth",
            "--config",
            "c",
            "--out",
            "o",
            "--expert-group",
            "0",
        ],
        &["bench", "--model", model, "--prompt-tokens", "0"],
        &["bench", "--model", model, "--routing-reuse", "1.5"],
        &["inspect", "--model", model, "--misses", "never"],
    ];
    for args in usage {
        error(args, 2);
    }
    for (option, expected) in [
        ("--seed", "0 or more"),
        ("--top-k", "0 or more"),
        ("--ram", "not a size"),
        ("--ctx", "1 or more"),
        ("--max-new-tokens", "0 or more"),
    ] {
        let args = ["generate", "--model", model, "--tokens", "1", option, "-5"];
        let line = error(&args, 2);
        assert!(line.contains(option) && line.contains(expected), "{line}");
    }
    let failures = [
        (
            &["inspect", "--model", "/no/such/folder"][..],
            "/no/such/folder",
        ),
        (
            &["generate", "--model", model, "--prompt", "hi"],
            "tokenizer.json",
        ),
        (
            &["inspect", "--model", model, "--tokenizer", "/no/such/file"],
            "/no/such/file",
        ),
        (&["generate", "--model", model, "--tokens", "9999"], "9999"),
        (
            &[
                "generate", "--model", model, "--tokens", "1", "--ctx", "99999",
            ],
            "4096",
        ),
        (
            &[
                "generate", "--model", model, "--tokens", "1", "--ram", "1KB",
            ],
            "--ram",
        ),
        (
            &["generate", "--model", model, "--messages", "/no/such/file"],
            "/no/such/file",
        ),
        (
            &["bench", "--model", model, "--prompt-tokens", "5000"],
            "5064",
        ),
        (
            &[
                "logits",
                "--model",
                model,
                "--tokens",
                "1",
                "--out",
                "/no/such/dir/x",
            ],
            "/no/such/dir/x",
        ),
        (
            &["tokenize", "--tokenizer", "/no/such/file", "--text", "x"],
            "/no/such/file",
        ),
    ];
    for (args, expected) in failures {
        let line = error(args, 1);
        assert!(
            line.contains(expected),
            "{expected:?} is missing in: {line}"
        );
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    assert!(stdout(&["--help"]).contains("bench"));
    assert!(stdout(&["--version"]).starts_with("octet "));
    for command in [
        "inspect", "logits", "generate", "tokenize", "chat", "bench", "synth",
    ] {
        assert!(stdout(&[command, "--help"]).contains("Usage"), "{command}");
    }
}
