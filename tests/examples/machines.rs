//! What a token costs on machines that have a GPU and too little RAM for all experts: reads from
//! disk, launches, waits and copies, counted on the driver that stands in for a GPU.
//!
//!     cargo run --workspace --example machines
//!
//! The model has Mixtral's 32 layers of 8 experts, two of them used per token, and is narrow; slots
//! are as many as the real one has on such machines.

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;

use octet_engine::model::Logits;
use octet_engine::plan::{Device, Misses, PlanRequest};
use octet_engine::routing_reuse::RoutingReuse;
use octet_engine::synth::{SynthOptions, synth};
use octet_engine::tokenizer::TokenId;
use octet_engine::{LoadOptions, Loaded};

/// Name, experts of a layer in VRAM, slots in RAM.
const MACHINES: [(&str, usize, u64); 4] = [
    ("T4 + 12.7 GB", 6, 155),
    ("12 + 16 GB", 4, 177),
    ("8 + 16 GB", 2, 177),
    ("16 + 32 GB", 6, 256),
];

const CONFIG: &str = r#"{
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 8,
    "num_experts_per_tok": 2, "max_position_embeddings": 256, "vocab_size": 96
}"#;

const TOKENS: usize = 24;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(fake) = octet_test_cuda::session() else {
        return Err("there is no driver to stand in for a GPU here".into());
    };
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("config.json");
    fs::write(&config, CONFIG)?;
    let model = dir.path().join("model");
    fs::create_dir(&model)?;
    synth(&config, &model, &SynthOptions::default(), &mut |_, _| {})?;

    println!(
        "machine, misses, reuse: read at loading; per token: read, launches, waits, copies up; hits"
    );
    for (machine, on_gpu, in_ram) in MACHINES {
        for (name, misses) in [
            ("fetch", Misses::Fetch),
            ("cpu", Misses::Cpu),
            ("auto", Misses::Auto),
        ] {
            for reuse in [None, Some(RoutingReuse { p: 0.5, seed: 1 })] {
                fake.reset();
                let each =
                    octet_engine::checkpoint::Checkpoint::open(&model)?.expert_bytes() as u64;
                let options = LoadOptions {
                    plan: PlanRequest {
                        device: Device::Cuda,
                        experts_on_gpu: Some(on_gpu),
                        ram_budget: Some(in_ram * each),
                        misses,
                        ctx: Some(128),
                        gpu_backend_available: true,
                        ..PlanRequest::default()
                    },
                    threads: Some(2),
                    cache_dir: Some(dir.path().into()),
                    ..LoadOptions::default()
                };
                let go_on = &mut |_| ControlFlow::Continue(());
                let loaded = Loaded::load(&model, &options, &mut |_| ControlFlow::Continue(()))?;
                let read = |loaded: &Loaded| loaded.model.experts().stats().ram.bytes_moved / each;
                let at_loading = read(&loaded);
                let mut session = loaded.model.session(100);
                session.router_hook = reuse.map(|reuse| Box::new(reuse) as _);
                let prompt: Vec<TokenId> = (0..20).map(|i| TokenId(i * 31 % 96)).collect();
                loaded
                    .model
                    .forward(&mut session, &prompt, Logits::Last, go_on)?;
                let before = (
                    read(&loaded),
                    fake.counters(),
                    loaded.model.experts().stats().device,
                );
                for i in 0..TOKENS as u32 {
                    let token = TokenId((i * 37 + 5) % 96);
                    loaded
                        .model
                        .forward(&mut session, &[token], Logits::Last, go_on)?;
                }
                let after = (
                    read(&loaded),
                    fake.counters(),
                    loaded.model.experts().stats().device,
                );
                let per_token = |count: u64| count as f64 / TOKENS as f64;
                let device = after.2.unwrap_or_default() - before.2.unwrap_or_default();
                println!(
                    "{machine}, {name}, {}: {at_loading}; {:.1}, {:.0}, {:.0}, {:.0}; {:.0}% ({:?})",
                    if reuse.is_some() { "0.5" } else { "own" },
                    per_token(after.0 - before.0),
                    per_token(after.1.launches - before.1.launches),
                    per_token(after.1.syncs - before.1.syncs),
                    per_token(after.1.copies_up - before.1.copies_up),
                    100.0 * device.hit_rate().unwrap_or_default(),
                    loaded.plan.fits,
                );
            }
        }
    }
    Ok(())
}
