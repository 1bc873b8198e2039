//! Loading under watch, continuing answers, and what watchers of the experts see.

use std::ops::ControlFlow;

use octet_engine::experts::Residence;
use octet_engine::generate::{Event, Input, Request};
use octet_engine::plan::{MemoryUse, PlanRequest};
use octet_engine::prompt::{Message, Role};
use octet_engine::sampling::SamplingParams;
use octet_engine::tokenizer::TokenId;
use octet_engine::{Engine, EngineError, LoadOptions, LoadProgress, LoadStage, Loaded};
use octet_tests::model_with_tokenizer;

fn options(ram_budget: Option<u64>) -> LoadOptions {
    LoadOptions {
        plan: PlanRequest {
            ram_budget,
            ctx: Some(512),
            ..PlanRequest::default()
        },
        threads: Some(2),
        exact: true,
        ..LoadOptions::default()
    }
}

fn load(options: &LoadOptions) -> (Result<Loaded, EngineError>, Vec<LoadProgress>) {
    let dir = model_with_tokenizer("tiny-2bit");
    let mut told = Vec::new();
    let loaded = Loaded::load(dir.path(), options, &mut |progress| {
        told.push(progress);
        ControlFlow::Continue(())
    });
    (loaded, told)
}

/// Bytes for a third of the tiny model's experts, and the context: what a RAM budget is for.
fn small_budget() -> u64 {
    let plan = load(&options(None)).0.expect("a model").plan;
    let bytes = |is: fn(&MemoryUse) -> bool| -> u64 {
        let items = plan.ram.items.iter().filter(|item| is(&item.what));
        items.map(|item| item.bytes).sum()
    };
    let kv = bytes(|what| matches!(what, MemoryUse::KvCache { .. }));
    let experts = bytes(|what| matches!(what, MemoryUse::ExpertsInPlace { .. }));
    assert!(kv > 0 && experts > 0, "{:?}", plan.ram);
    kv + experts / 3
}

#[test]
fn progress_goes_through_the_stages_and_ends_with_all_bytes() {
    let (loaded, told) = load(&options(None));
    loaded.expect("a model");
    assert!(told.is_sorted_by_key(|progress| progress.stage));
    let stages = [
        LoadStage::Checking,
        LoadStage::Tokenizer,
        LoadStage::Trunk,
        LoadStage::Experts,
        LoadStage::Warming,
    ];
    for stage in stages {
        assert!(
            told.iter().any(|progress| progress.stage == stage),
            "{stage:?}"
        );
    }
    assert!(told.is_sorted_by_key(|progress| progress.done_bytes));
    let last = told.last().expect("progress");
    assert_eq!(last.done_bytes, last.total_bytes);
}

#[test]
fn a_break_at_any_report_cancels() {
    let reports = load(&options(None)).1.len();
    let dir = model_with_tokenizer("tiny-2bit");
    for stop_at in 0..reports {
        let mut seen = 0;
        let cancelled = Loaded::load(dir.path(), &options(None), &mut |_| {
            seen += 1;
            match seen > stop_at {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        assert!(
            matches!(cancelled, Err(EngineError::Cancelled)),
            "report {stop_at}"
        );
        assert_eq!(seen, stop_at + 1);
    }
}

fn answer(engine: &Engine, messages: Vec<Message>, new: usize) -> (String, Vec<TokenId>) {
    let mut generation = engine.generate(Request {
        input: Input::Messages(messages),
        sampling: SamplingParams::greedy(),
        max_new_tokens: Some(new),
        stop: Vec::new(),
        ignore_eos: true,
        began_at_ms: None,
    });
    let (mut all, mut ids) = (String::new(), Vec::new());
    while let Some(event) = generation.next_blocking() {
        match event {
            Event::Token { id, text } => {
                ids.push(id);
                all += &text;
            }
            Event::Done { text, .. } => return (all + &text, ids),
            Event::Error(failure) => panic!("{failure}"),
            _ => {}
        }
    }
    panic!("no end");
}

#[test]
fn everything_is_in_ram_once_loaded_and_tokens_are_counted_from_there() {
    let (loaded, _) = load(&options(None));
    let engine = Engine::start(loaded.expect("a model"));
    let before = engine.experts().snapshot();
    assert!(before.places.iter().all(|place| *place == Residence::Ram));
    assert_eq!(
        (before.tokens, before.newest.len()),
        (0, 0),
        "warming up leaves no trace"
    );
    let question = vec![Message::new(Role::User, "Hello")];
    let (_, ids) = answer(&engine, question, 9);
    let after = engine.experts().snapshot();
    // The first token comes from the prompt; the last one is not computed any more.
    assert_eq!((ids.len(), after.tokens), (9, 8));
    assert_eq!(after.newest.len(), after.n_layers * after.top_k);
    assert!(after.missed.is_empty());
    assert_eq!(
        after.counts.iter().sum::<u64>(),
        8 * after.newest.len() as u64
    );
    let mut last = Vec::new();
    engine.experts().newest_in_last_layer(&mut last);
    let newest: Vec<u16> = after.newest[after.newest.len() - after.top_k..]
        .iter()
        .map(|id| id.expert)
        .collect();
    assert_eq!(last, newest);
}

#[test]
fn a_small_budget_is_filled_and_what_is_missed_is_named() {
    // The files have to stay: experts are read from them as they are needed.
    let dir = model_with_tokenizer("tiny-2bit");
    let proceed = &mut |_| ControlFlow::Continue(());
    let loaded =
        Loaded::load(dir.path(), &options(Some(small_budget())), proceed).expect("a model");
    let slots = loaded.plan.ram_slots.expect("not all experts fit");
    let engine = Engine::start(loaded);
    let in_ram = |places: &[Residence]| places.iter().filter(|p| **p == Residence::Ram).count();
    let before = engine.experts().snapshot();
    assert_eq!(in_ram(&before.places), slots);
    answer(&engine, vec![Message::new(Role::User, "Hello")], 20);
    let after = engine.experts().snapshot();
    assert!(after.stats.ram.misses > before.stats.ram.misses);
    assert!(after.missed.iter().all(|id| after.newest.contains(id)));
}

#[test]
fn a_space_at_the_beginning_of_a_continuation_is_kept() {
    let dir = model_with_tokenizer("tiny-2bit");
    let tokenizer = octet_engine::tokenizer::Tokenizer::open(dir.path()).expect("a tokenizer");
    let ids = tokenizer.encode_text(" world").expect("text");
    let decode = |mut decoder: octet_engine::stream_text::StreamDecoder| -> String {
        ids.iter().map(|id| decoder.push(*id).to_owned()).collect()
    };
    assert_eq!(decode(tokenizer.continuation_decoder()), " world");
    // At the beginning of a reply that space is layout.
    assert_eq!(decode(tokenizer.reply_decoder()), "world");
}

#[test]
fn tokens_are_counted_as_they_will_be_read() {
    let (loaded, _) = load(&options(None));
    let engine = Engine::start(loaded.expect("a model"));
    let one = engine
        .count_tokens(&[Message::new(Role::User, "Hello")])
        .expect("a prompt");
    let two = engine
        .count_tokens(&[Message::new(Role::User, "Hello!!")])
        .expect("a prompt");
    assert_eq!(two, one + 2, "a token a byte");
    assert!(engine.count_tokens(&[]).is_err());
}
