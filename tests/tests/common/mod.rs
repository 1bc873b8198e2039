//! The reference's outputs, and how far ours lie from them.
#![allow(dead_code)] // every test uses its own part

use std::ops::ControlFlow;
use std::path::PathBuf;

use octet_engine::model::{Decoder, Logits, Session};
use octet_engine::tokenizer::TokenId;
use safetensors::SafeTensors;
use serde_json::Value;

/// A prompt and what the reference made of it.
pub struct Case {
    /// Token ids.
    pub prompt: Vec<TokenId>,
    /// Its greedy continuation.
    pub greedy: Vec<TokenId>,
    /// By how much each of these was the likeliest.
    pub margins: Vec<f64>,
    /// `(prompt, vocab)`.
    pub logits: Vec<f32>,
}

/// A checkpoint and the reference's outputs for it.
pub struct Golden {
    pub dir: PathBuf,
    pub cases: Vec<Case>,
    pub json: Value,
}

/// One of `fixtures/`.
pub fn golden(name: &str) -> Golden {
    let dir = octet_tests::fixture(name);
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

/// Logits of `tokens` behind what `session` holds.
pub fn forward<'s>(
    model: &Decoder,
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
pub struct Distance {
    /// RMS of the difference by RMS of the golden logits, each position, ascending.
    pub relative: Vec<f64>,
    /// Share of positions with every logit within 0.05.
    pub close: f64,
}

impl Distance {
    /// `relative` at `q`, 0 to 1.
    pub fn quantile(&self, q: f64) -> f64 {
        self.relative[((self.relative.len() - 1) as f64 * q).round() as usize]
    }
}

/// Over all positions of all cases: the prompt in chunks of `chunk` tokens.
pub fn distance(golden: &Golden, model: &Decoder, chunk: usize) -> Distance {
    let vocab = model.spec().vocab_size;
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
