//! The table of `README.md`: how often a model of the demo's kind is right on questions it
//! was not trained on, and how its router behaves.
//!
//! `cargo run --release -p octet-demo --example report -- [MODEL_FOLDER] [--wrong]`; without a
//! folder, the demo model that ships.

#[path = "../tests/judge/mod.rs"]
mod judge;

use std::path::PathBuf;

use judge::{Demo, ask, held_out};

fn main() {
    let mut show_wrong = false;
    let mut dir = None;
    for arg in std::env::args().skip(1) {
        if arg == "--wrong" {
            show_wrong = true;
        } else {
            dir = Some(PathBuf::from(arg));
        }
    }
    let dir = dir.unwrap_or_else(|| octet_demo::ensure().unwrap_or_else(|e| panic!("{e}")));
    let mut demo = Demo::open(&dir);
    let questions = held_out();
    for (temperature, seeds) in [(0.0, 1..=1), (0.7, 1..=3)] {
        for seed in seeds {
            let outcome = ask(&mut demo, &questions, temperature, seed);
            println!(
                "{} questions, temperature {temperature}, seed {seed}: {:.1} % right, {:.1} % with the \
                 very answer",
                questions.len(),
                outcome.right * 100.0,
                outcome.exact * 100.0
            );
            if show_wrong && temperature == 0.0 {
                for (question, said) in outcome.wrong {
                    println!("  {}: {}\n      {said}", question.id, question.text);
                }
            }
        }
    }
    let routing = demo.routing();
    for (layer, used) in routing.used().iter().enumerate() {
        let total = used.iter().sum::<u64>().max(1) as f64;
        let shares: Vec<String> = used
            .iter()
            .map(|&n| format!("{:4.1}", n as f64 / total * 100.0))
            .collect();
        println!(
            "layer {layer}: % of the routing by expert: {}",
            shares.join(" ")
        );
    }
    let summary = routing.summary();
    println!(
        "{:.1} % of a token's experts were the last token's too (uniform routing: 25 %); {:.1} distinct a layer",
        summary.kept_from_previous * 100.0,
        summary.distinct_per_layer
    );
}
