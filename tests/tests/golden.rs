//! Logits, greedy tokens and routing against the reference's own outputs on two tiny checkpoints.
//!
//! `fixtures/tiny-2bit` and `fixtures/tiny-3bit` were written and evaluated by the reference
//! code (dvmazur/mixtral-offloading with mobiusml/hqq at commit 37502be, transformers 4.36.1,
//! torch 2.2.2). The bounds say how far its own f16 dequantization lies from f32, and what
//! 8-bit activations cost on top.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use octet_engine::checkpoint::Checkpoint;
use octet_engine::experts::{ExpertOptions, Experts};
use octet_engine::model::{Logits, Mixtral, Session, route};
use octet_engine::tokenizer::TokenId;
use octet_kernels::{Pool, Precision};
use safetensors::SafeTensors;
use serde_json::Value;

struct Case {
    prompt: Vec<TokenId>,
    greedy: Vec<TokenId>,
    margins: Vec<f64>,
    /// `(prompt, vocab)`.
    logits: Vec<f32>,
}

struct Golden {
    dir: PathBuf,
    cases: Vec<Case>,
    json: Value,
}

fn golden(name: &str) -> Golden {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name);
    let text = std::fs::read(dir.join("golden.json")).expect("fixture");
    let json: Value = serde_json::from_slice(&text).expect("fixture");
    let bytes = std::fs::read(dir.join("golden.safetensors")).expect("fixture");
    let tensors = SafeTensors::deserialize(&bytes).expect("fixture");
    let ids = |value: &Value| -> Vec<TokenId> {
        let list = value.as_array().expect("a list");
        list.iter()
            .map(|id| TokenId(id.as_u64().expect("an id") as u32))
            .collect()
    };
    let cases = json["cases"].as_array().expect("cases").iter().enumerate();
    let cases = cases
        .map(|(i, case)| {
            let tensor = tensors.tensor(&format!("case{i}.logits")).expect("fixture");
            let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            let margins = case["top1_top2_margin"].as_array().expect("margins");
            Case {
                prompt: ids(&case["prompt"]),
                greedy: ids(&case["greedy"]),
                margins: margins
                    .iter()
                    .map(|m| m.as_f64().expect("a number"))
                    .collect(),
                logits: tensor.data().chunks_exact(4).map(value).collect(),
            }
        })
        .collect();
    Golden { dir, cases, json }
}

fn load(golden: &Golden, precision: Precision, options: ExpertOptions) -> Mixtral {
    let checkpoint = Arc::new(Checkpoint::open(&golden.dir).expect("a valid checkpoint"));
    let experts = Experts::new(Arc::clone(&checkpoint), options).expect("enough slots");
    Mixtral::new(checkpoint, experts, Pool::new(2), precision)
}

fn forward<'s>(
    model: &Mixtral,
    session: &'s mut Session,
    tokens: &[TokenId],
    logits: Logits,
) -> &'s [f32] {
    let go_on = &mut |_| ControlFlow::Continue(());
    model
        .forward(session, tokens, logits, go_on)
        .expect("a pass")
}

/// How far logits lie from the golden ones.
struct Distance {
    /// RMS of the difference by RMS of the golden logits, each position, ascending.
    relative: Vec<f64>,
    /// Share of positions with every logit within 0.05.
    close: f64,
}

impl Distance {
    fn quantile(&self, q: f64) -> f64 {
        self.relative[((self.relative.len() - 1) as f64 * q).round() as usize]
    }
}

/// Over all positions of all cases: the prompt in chunks of `chunk` tokens.
fn distance(golden: &Golden, model: &Mixtral, chunk: usize) -> Distance {
    let vocab = model.config().vocab_size;
    let (mut relative, mut close) = (Vec::new(), 0);
    for case in &golden.cases {
        let mut session = model.session(case.prompt.len());
        let mut logits = Vec::new();
        for chunk in case.prompt.chunks(chunk) {
            logits.extend_from_slice(forward(model, &mut session, chunk, Logits::All));
        }
        assert_eq!(logits.len(), case.logits.len());
        for (ours, theirs) in logits.chunks(vocab).zip(case.logits.chunks(vocab)) {
            let rms = |values: &mut dyn Iterator<Item = f32>| {
                values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
            };
            let difference = rms(&mut ours.iter().zip(theirs).map(|(a, b)| a - b));
            relative.push(difference / rms(&mut theirs.iter().copied()));
            close += usize::from(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() <= 0.05));
        }
    }
    let close = close as f64 / relative.len() as f64;
    relative.sort_by(f64::total_cmp);
    Distance { relative, close }
}

#[test]
fn exact_logits_are_within_the_reference_noise() {
    for name in ["tiny-2bit", "tiny-3bit"] {
        let golden = golden(name);
        let model = load(&golden, Precision::Exact, ExpertOptions::default());
        for chunk in [512, 64, 3, 1] {
            let d = distance(&golden, &model, chunk);
            let (median, p90) = (d.quantile(0.5), d.quantile(0.9));
            println!(
                "{name} exact, chunks of {chunk}: median {median:.5}, p90 {p90:.5}, close {:.3}",
                d.close
            );
            assert!(
                median <= 0.003,
                "{name}, chunks of {chunk}: median {median}"
            );
            assert!(
                p90 <= 0.02,
                "{name}, chunks of {chunk}: 90th percentile {p90}"
            );
            assert!(
                d.close >= 0.95,
                "{name}, chunks of {chunk}: {} of positions close",
                d.close
            );
        }
    }
}

#[test]
fn fast_logits_stay_within_the_bounds_of_quantized_activations() {
    for name in ["tiny-2bit", "tiny-3bit"] {
        let golden = golden(name);
        let model = load(&golden, Precision::Fast, ExpertOptions::default());
        for chunk in [512, 64, 3, 1] {
            let d = distance(&golden, &model, chunk);
            let (median, p90) = (d.quantile(0.5), d.quantile(0.9));
            println!(
                "{name} fast, chunks of {chunk}: median {median:.5}, p90 {p90:.5}, close {:.3}",
                d.close
            );
            assert!(
                median <= 0.025,
                "{name}, chunks of {chunk}: median {median}"
            );
            assert!(
                p90 <= 0.08,
                "{name}, chunks of {chunk}: 90th percentile {p90}"
            );
        }
    }
}

#[test]
fn greedy_tokens_agree_up_to_the_first_near_tie() {
    for name in ["tiny-2bit", "tiny-3bit"] {
        let golden = golden(name);
        let model = load(&golden, Precision::Exact, ExpertOptions::default());
        let mut compared = 0;
        for (i, case) in golden.cases.iter().enumerate() {
            let mut session = model.session(case.prompt.len() + case.greedy.len());
            let mut next = case.prompt.clone();
            for (step, (&expected, &margin)) in case.greedy.iter().zip(&case.margins).enumerate() {
                let logits = forward(&model, &mut session, &next, Logits::Last);
                let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                if margin < 0.1 {
                    break;
                }
                let token = TokenId(best.expect("logits") as u32);
                assert_eq!(
                    token, expected,
                    "{name} case {i}, step {step}, margin {margin}"
                );
                compared += 1;
                next = vec![token];
            }
        }
        println!("{name}: {compared} greedy tokens compared");
        assert!(
            compared > 5,
            "{name}: only {compared} tokens could be compared"
        );
    }
}

#[test]
fn routing_is_the_reference_routing() {
    for name in ["tiny-2bit", "tiny-3bit"] {
        let golden = golden(name);
        let model = load(&golden, Precision::Exact, ExpertOptions::default());
        let mut session = model.session(golden.cases[0].prompt.len());
        for (position, token) in golden.cases[0].prompt.iter().enumerate() {
            forward(&model, &mut session, &[*token], Logits::Last);
            for (layer, chosen) in session.routing.newest().iter().enumerate() {
                let expected = &golden.json["router_top2_case0"][layer.to_string()][position];
                let expected: Vec<u16> = serde_json::from_value(expected.clone()).expect("a pair");
                assert_eq!(
                    *chosen, expected,
                    "{name}, layer {layer}, position {position}"
                );
            }
        }
    }
}

#[test]
fn a_near_tie_is_routed_by_probability_then_number() {
    let mut chosen = Vec::new();
    route(&mut [0.0, 3.0, 2.0, 2.0], 3, &mut chosen);
    let experts: Vec<u16> = chosen.iter().map(|(expert, _)| *expert).collect();
    assert_eq!(experts, [1, 2, 3]);
}
