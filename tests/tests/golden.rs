//! Logits, greedy tokens and routing against the reference's own outputs on two tiny checkpoints.
//!
//! `fixtures/tiny-2bit` and `fixtures/tiny-3bit` were written and evaluated by the reference
//! code (dvmazur/mixtral-offloading with mobiusml/hqq at commit 37502be, transformers 4.36.1,
//! torch 2.2.2). The bounds say how far its own f16 dequantization lies from f32, and what
//! 8-bit activations cost on top.

mod common;

use std::sync::Arc;

use octet_engine::checkpoint::Checkpoint;
use octet_engine::experts::{ExpertOptions, Experts};
use octet_engine::model::{Decoder, Logits, route};
use octet_engine::spec::ModelSpec;
use octet_engine::tokenizer::TokenId;
use octet_kernels::{Pool, Precision};

use common::{Golden, distance, forward, golden};

fn load(golden: &Golden, precision: Precision, options: ExpertOptions) -> Decoder {
    let checkpoint = Arc::new(Checkpoint::open(&golden.dir).expect("a valid checkpoint"));
    let experts = Experts::new(Arc::clone(&checkpoint), options).expect("enough slots");
    Decoder::new(checkpoint, experts, Pool::new(2), precision)
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
    route(
        &ModelSpec::mixtral().router,
        &mut [0.0, 3.0, 2.0, 2.0],
        3,
        &mut chosen,
    );
    let experts: Vec<u16> = chosen.iter().map(|(expert, _)| *expert).collect();
    assert_eq!(experts, [1, 2, 3]);
}
