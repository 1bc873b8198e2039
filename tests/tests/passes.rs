//! What a forward pass tells of itself, and where it can be ended.

use std::ops::ControlFlow;
use std::sync::Arc;

use octet_engine::EngineError;
use octet_engine::checkpoint::Checkpoint;
use octet_engine::experts::{ExpertOptions, Experts};
use octet_engine::model::{Decoder, Logits, PassProgress};
use octet_engine::tokenizer::TokenId;
use octet_kernels::{Pool, Precision};
use octet_tests::fixture;

fn model(ram_slots: Option<usize>) -> Decoder {
    let checkpoint = Arc::new(Checkpoint::open(&fixture("tiny-2bit")).expect("fixture"));
    let options = ExpertOptions {
        ram_slots,
        ..ExpertOptions::default()
    };
    let experts = Experts::new(Arc::clone(&checkpoint), options).expect("tiers");
    Decoder::new(checkpoint, experts, Pool::new(1), Precision::Exact)
}

fn prompt(len: u32) -> Vec<TokenId> {
    (0..len).map(|i| TokenId((i * 31 + 7) % 500)).collect()
}

/// A prompt of 52 s was told of once.
#[test]
fn a_prompt_tells_of_every_layer_and_every_expert() {
    let model = model(Some(7));
    let c = model.spec();
    let mut told: Vec<PassProgress> = Vec::new();
    let mut watch = |progress| {
        told.push(progress);
        ControlFlow::Continue(())
    };
    let mut session = model.session(128);
    model
        .forward(&mut session, &prompt(100), Logits::Last, &mut watch)
        .expect("a pass");
    let begun: Vec<usize> = told.iter().filter(|p| p.begins).map(|p| p.layer).collect();
    assert_eq!(begun, (0..c.n_layers).collect::<Vec<_>>());
    for layer in 0..c.n_layers {
        let steps = told
            .iter()
            .filter(|p| p.layer == layer && !p.begins)
            .count();
        // 100 tokens want every expert of these layers; attention is a step too.
        assert_eq!(steps, c.n_experts + 1, "layer {layer}");
    }
    assert!(told.windows(2).all(|two| two[0].done <= two[1].done));
    assert_eq!((told[0].done, told[told.len() - 1].done), (0.0, 1.0));
}

#[test]
fn a_prompt_ended_at_any_expert_leaves_the_session_as_it_was() {
    let model = model(Some(7));
    let go_on = &mut |_| ControlFlow::Continue(());
    let (first, second) = (prompt(20), prompt(60));
    let mut session = model.session(128);
    model
        .forward(&mut session, &first, Logits::Last, go_on)
        .expect("a pass");
    let mut untouched = self::model(None).session(128);
    let expected = {
        let model = self::model(None);
        model
            .forward(&mut untouched, &first, Logits::Last, go_on)
            .expect("a pass");
        let logits = model.forward(&mut untouched, &second, Logits::Last, go_on);
        logits.expect("a pass").to_vec()
    };
    for steps in [1, 2, 5, 9, 10, 14] {
        let mut left = steps;
        let mut end = |_| {
            left -= 1;
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        let ended = model.forward(&mut session, &second, Logits::Last, &mut end);
        assert!(matches!(ended, Err(EngineError::Cancelled)), "{steps}");
        assert_eq!((left, session.len()), (0, first.len()));
    }
    let logits = model.forward(&mut session, &second, Logits::Last, go_on);
    // Experts are summed up as they come.
    for (found, expected) in logits.expect("a pass").iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-3, "{found} for {expected}");
    }
}
