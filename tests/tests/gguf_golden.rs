//! GGUF models against an independent float reference on the same weights, with which llama.cpp
//! agrees to 1e-6.
//!
//! `fixtures/gguf` holds tiny models of random weights, each with prompts, the reference's logits
//! and its greedy tokens. `OCTET_GOLDEN_GGUF` names a folder with more of them.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use octet_engine::checkpoint::Checkpoint;
use octet_engine::experts::{ExpertOptions, Experts};
use octet_engine::model::{Decoder, Logits};
use octet_engine::tokenizer::TokenId;
use octet_kernels::{Pool, Precision};
use safetensors::SafeTensors;
use serde_json::Value;

use common::forward;

/// A model, its prompts, and the reference's logits of some of their positions.
struct Golden {
    name: String,
    model: PathBuf,
    cases: Vec<Case>,
    router: Value,
    /// Whether tokens and routing are of the same computation as `logits`.
    has_tokens: bool,
}

struct Case {
    prompt: Vec<TokenId>,
    positions: Vec<usize>,
    /// `(positions, vocab)`.
    logits: Vec<f32>,
    greedy: Vec<TokenId>,
    margins: Vec<f64>,
}

fn ids(value: &Value) -> Vec<TokenId> {
    let list = value.as_array().expect("a list").iter();
    list.map(|id| TokenId(id.as_u64().expect("an id") as u32))
        .collect()
}

/// Logits with the ends of YaRN's ramp as in OpenAI's own code, which Octet follows; llama.cpp, and
/// with it the tokens and the routing, rounds them.
const NOT_ROUNDED: &str = ".exact_yarn_not_rounded";

fn read(json: &Path) -> Golden {
    let text = std::fs::read(json).expect("fixture");
    let value: Value = serde_json::from_slice(&text).expect("fixture");
    let bytes = std::fs::read(json.with_extension("safetensors")).expect("fixture");
    let tensors = SafeTensors::deserialize(&bytes).expect("fixture");
    let cases = value["cases"].as_array().expect("cases").iter().enumerate();
    let cases = cases.map(|(i, case)| {
        let names = [NOT_ROUNDED, ".exact"].map(|kind| format!("case{i}{kind}"));
        let logits = names.iter().find_map(|name| tensors.tensor(name).ok());
        let logits = logits.expect("logits");
        let value = |b: &[u8; 4]| f32::from_le_bytes(*b);
        let numbers = |name: &str| case[name].as_array().expect("a list").clone();
        let positions = numbers("positions").into_iter();
        let margins = numbers("top1_top2_margin").into_iter();
        Case {
            prompt: ids(&case["prompt"]),
            positions: positions
                .map(|p| p.as_u64().expect("a position") as usize)
                .collect(),
            logits: logits.data().as_chunks::<4>().0.iter().map(value).collect(),
            greedy: ids(&case["greedy"]),
            margins: margins.map(|m| m.as_f64().expect("a margin")).collect(),
        }
    });
    Golden {
        name: json
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned(),
        model: json.with_extension("gguf"),
        cases: cases.collect(),
        router: value["router_case1"].clone(),
        has_tokens: tensors.tensor(&format!("case0{NOT_ROUNDED}")).is_err(),
    }
}

/// All of them.
fn goldens() -> Vec<Golden> {
    let more = std::env::var_os("OCTET_GOLDEN_GGUF").map(PathBuf::from);
    let dirs = std::iter::once(octet_tests::fixture("gguf")).chain(more);
    let mut files: Vec<PathBuf> = dirs
        .flat_map(|dir| std::fs::read_dir(dir).expect("a folder"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .filter(|path| path.with_extension("safetensors").is_file())
        .collect();
    files.sort();
    files.iter().map(|path| read(path)).collect()
}

fn load(golden: &Golden, precision: Precision, ram_slots: Option<usize>) -> Decoder {
    let checkpoint = Checkpoint::open(&golden.model);
    let checkpoint = Arc::new(checkpoint.unwrap_or_else(|e| panic!("{}: {e}", golden.name)));
    let options = ExpertOptions {
        ram_slots,
        ..ExpertOptions::default()
    };
    let experts = Experts::new(Arc::clone(&checkpoint), options).expect("enough slots");
    Decoder::new(checkpoint, experts, Pool::new(2), precision)
}

/// RMS of the difference by RMS of the reference's logits, each position, ascending.
fn distances(golden: &Golden, model: &Decoder, chunk: usize) -> Vec<f64> {
    let vocab = model.spec().vocab_size;
    let mut distances = Vec::new();
    for case in &golden.cases {
        let mut session = model.session(case.prompt.len());
        let mut logits = Vec::new();
        for chunk in case.prompt.chunks(chunk) {
            logits.extend_from_slice(forward(model, &mut session, chunk, Logits::All));
        }
        for (position, theirs) in case.positions.iter().zip(case.logits.chunks(vocab)) {
            let ours = &logits[position * vocab..(position + 1) * vocab];
            let square = |v: f32| f64::from(v).powi(2);
            let off: f64 = ours.iter().zip(theirs).map(|(a, b)| square(a - b)).sum();
            let all: f64 = theirs.iter().map(|v| square(*v)).sum();
            distances.push((off / all).sqrt());
        }
    }
    distances.sort_by(f64::total_cmp);
    distances
}

fn quantile(ascending: &[f64], q: f64) -> f64 {
    ascending[((ascending.len() - 1) as f64 * q).round() as usize]
}

#[test]
fn exact_logits_are_those_of_the_float_reference() {
    for golden in goldens() {
        let model = load(&golden, Precision::Exact, None);
        for chunk in [512, 7, 1] {
            let all = distances(&golden, &model, chunk);
            let (median, most) = (quantile(&all, 0.5), quantile(&all, 0.98));
            println!("{} exact, by {chunk}: {median:.5}, {most:.5}", golden.name);
            assert!(median <= 0.001, "{} by {chunk}: {median}", golden.name);
            assert!(most <= 0.003, "{} by {chunk}: {most}", golden.name);
        }
    }
}

#[test]
fn rounded_activations_cost_no_more_than_in_llama_cpp() {
    for golden in goldens() {
        let model = load(&golden, Precision::Fast, None);
        for chunk in [512, 7, 1] {
            let all = distances(&golden, &model, chunk);
            let (median, p90) = (quantile(&all, 0.5), quantile(&all, 0.9));
            println!("{} fast, by {chunk}: {median:.5}, {p90:.5}", golden.name);
            assert!(median <= 0.025, "{} by {chunk}: {median}", golden.name);
            assert!(p90 <= 0.04, "{} by {chunk}: {p90}", golden.name);
        }
    }
}

#[test]
fn greedy_tokens_agree_up_to_the_first_near_tie() {
    for golden in goldens().into_iter().filter(|golden| golden.has_tokens) {
        // With few slots, so that every expert is copied out of the file.
        let model = load(&golden, Precision::Exact, None);
        let spec = model.spec();
        let slots = 2 * spec.top_k + 2;
        let model = match slots < spec.n_layers * spec.n_experts {
            true => load(&golden, Precision::Exact, Some(slots)),
            false => model,
        };
        for (i, case) in golden.cases.iter().enumerate() {
            let mut session = model.session(case.prompt.len() + case.greedy.len());
            let mut next = case.prompt.clone();
            for (step, (&expected, &margin)) in case.greedy.iter().zip(&case.margins).enumerate() {
                let logits = forward(&model, &mut session, &next, Logits::Last);
                let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                if margin < 0.05 {
                    break;
                }
                let token = TokenId(best.expect("logits") as u32);
                assert_eq!(
                    token, expected,
                    "{} case {i}, step {step}, margin {margin}",
                    golden.name
                );
                next = vec![token];
            }
        }
    }
}

#[test]
fn experts_are_chosen_as_by_the_reference() {
    for golden in goldens().into_iter().filter(|golden| golden.has_tokens) {
        let model = load(&golden, Precision::Exact, None);
        let case = &golden.cases[1];
        let mut session = model.session(case.prompt.len());
        let (mut compared, n_layers) = (0, model.spec().n_layers);
        for (position, token) in case.prompt.iter().enumerate() {
            forward(&model, &mut session, &[*token], Logits::Last);
            for layer in 0..n_layers {
                let gap = golden.router["gap"][layer][position]
                    .as_f64()
                    .expect("a gap");
                if gap <= 0.01 {
                    // What differs here differs in all that follows.
                    break;
                }
                let mut theirs: Vec<u64> = golden.router["top"][layer][position]
                    .as_array()
                    .expect("experts")
                    .iter()
                    .map(|e| e.as_u64().expect("a number"))
                    .collect();
                let newest = &session.routing.newest()[layer];
                let mut ours: Vec<u64> = newest.iter().map(|e| u64::from(*e)).collect();
                theirs.sort_unstable();
                ours.sort_unstable();
                assert_eq!(
                    ours, theirs,
                    "{} layer {layer}, position {position}",
                    golden.name
                );
                compared += 1;
            }
        }
        assert!(compared > 0, "{}", golden.name);
    }
}
