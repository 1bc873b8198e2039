//! Generation as others see it: events, cancelling, reuse, full contexts, seeds.

use std::time::Duration;

use octet_engine::generate::{DoneReason, Event, Input, Request, Stats};
use octet_engine::plan::PlanRequest;
use octet_engine::prompt::{Message, Role};
use octet_engine::sampling::SamplingParams;
use octet_engine::tokenizer::TokenId;
use octet_engine::{Engine, EngineProblem, Generation, LoadOptions, Loaded};
use octet_tests::{fixture, model_with_tokenizer};

fn engine(ctx: usize) -> Engine {
    let dir = model_with_tokenizer("tiny-2bit");
    load(dir.path(), ctx)
}

fn load(dir: &std::path::Path, ctx: usize) -> Engine {
    let plan = PlanRequest {
        ctx: Some(ctx),
        ..PlanRequest::default()
    };
    // Exact, so that no test hangs on how passes are cut.
    let options = LoadOptions {
        plan,
        threads: Some(2),
        exact: true,
        ..LoadOptions::default()
    };
    Engine::start(Loaded::open(dir, &options).expect("a model"))
}

fn request(input: Input, new: usize) -> Request {
    Request {
        input,
        sampling: SamplingParams {
            seed: Some(7),
            ..SamplingParams::default()
        },
        max_new_tokens: Some(new),
        stop: Vec::new(),
        // Random weights may end at any token.
        ignore_eos: true,
        began_at_ms: None,
    }
}

fn tokens(n: u32) -> Input {
    Input::Tokens((0..n).map(|i| TokenId((i * 13 + 5) % 250 + 3)).collect())
}

fn user(text: &str) -> Message {
    Message::new(Role::User, text)
}

fn events(mut generation: Generation) -> Vec<Event> {
    std::iter::from_fn(|| generation.next_blocking()).collect()
}

/// Text, reason and figures of a generation that must not fail.
fn answer(generation: Generation) -> (String, DoneReason, Stats) {
    let mut all = String::new();
    for event in events(generation) {
        match event {
            Event::Token { text, .. } => all += &text,
            Event::Done {
                reason,
                text,
                stats,
            } => return (all + &text, reason, *stats),
            Event::Error(failure) => panic!("{failure}"),
            _ => {}
        }
    }
    panic!("no last event");
}

#[test]
fn events_come_in_order_and_end_once() {
    let events = events(engine(2048).generate(request(tokens(1100), 5)));
    let place = |event: &Event| match event {
        Event::Started {
            prompt_tokens: 1100,
            reused_tokens: 0,
        } => 0,
        Event::Prefill { total: 1100, .. } => 1,
        Event::Token { .. } => 2,
        Event::Done { .. } => 3,
        other => panic!("unexpected: {other:?}"),
    };
    let mut places: Vec<i32> = events.iter().map(place).collect();
    // How often progress is told depends on the machine.
    places.dedup_by(|a, b| (*a, *b) == (1, 1));
    assert_eq!(places, [0, 1, 2, 2, 2, 2, 2, 3]);
    let Some(Event::Done { reason, stats, .. }) = events.last() else {
        panic!("no end")
    };
    assert_eq!(
        (*reason, stats.new_tokens, stats.prompt_tokens),
        (DoneReason::Length, 5, 1100)
    );
    assert!(stats.time_to_first_token_ms > 0.0 && stats.decode_tokens_per_sec > 0.0);
    assert!(stats.experts.ram.hit_rate().is_some());
}

#[test]
fn progress_of_a_prompt_rises_to_all_of_it_and_is_told_at_a_bounded_rate() {
    let engine = engine(4096);
    let clock = std::time::Instant::now();
    let events = events(engine.generate(request(tokens(4000), 1)));
    let seconds = clock.elapsed().as_secs_f64();
    let told: Vec<(usize, f64)> = events
        .iter()
        .filter_map(|event| match event {
            Event::Prefill { done, fraction, .. } => Some((*done, *fraction)),
            _ => None,
        })
        .collect();
    assert_eq!(told.last(), Some(&(4000, 1.0)), "{told:?}");
    for two in told.windows(2) {
        let rises = two[0].0 <= two[1].0 && two[0].1 < two[1].1;
        assert!(rises && two[0].0 < 4000, "{two:?}");
    }
    assert!(
        told.len() as f64 <= seconds * 20.0 + 1.0,
        "{} in {seconds}",
        told.len()
    );
}

#[test]
fn a_prompt_can_be_cancelled_while_it_is_read() {
    let engine = engine(4096);
    let mut generation = engine.generate(request(tokens(4000), 1));
    let cancel = generation.cancel_handle();
    while let Some(event) = generation.next_blocking() {
        match event {
            Event::Prefill { .. } => cancel.cancel(),
            Event::Done { reason, stats, .. } => {
                assert_eq!((reason, stats.new_tokens), (DoneReason::Cancelled, 0));
            }
            Event::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_answer_and_another_seed_another() {
    let dir = model_with_tokenizer("tiny-2bit");
    let engine = Engine::start(Loaded::open(dir.path(), &LoadOptions::default()).expect("a model"));
    let ask = |seed| {
        let mut request = request(Input::Prompt("Once upon a time".into()), 40);
        request.sampling.temperature = 1.5;
        request.sampling.seed = seed;
        let (text, _, stats) = answer(engine.generate(request));
        (text, stats.seed)
    };
    let (first, _) = ask(Some(1));
    assert_eq!(ask(Some(1)).0, first);
    assert_ne!(ask(Some(2)).0, first);
    let (free, drawn) = ask(None);
    assert_eq!(
        ask(Some(drawn)).0,
        free,
        "the seed in the figures gives the answer again"
    );
}

#[test]
fn a_follow_up_computes_only_what_is_new() {
    let engine = engine(1024);
    let mut chat = vec![Message::new(Role::System, "Be brief."), user("Hello there")];
    let (text, _, first) = answer(engine.generate(request(Input::Messages(chat.clone()), 12)));
    assert_eq!(first.reused_tokens, 0);
    chat.push(Message::new(Role::Assistant, text));
    chat.push(user("And now?"));
    let (_, _, second) = answer(engine.generate(request(Input::Messages(chat.clone()), 4)));
    assert!(
        second.reused_tokens >= first.prompt_tokens,
        "{second:?} after {first:?}"
    );

    // An edited history keeps the common beginning.
    chat[1] = user("Hello you");
    let (edited, _, third) = answer(engine.generate(request(Input::Messages(chat.clone()), 8)));
    assert!(
        third.reused_tokens > 10 && third.reused_tokens < first.prompt_tokens,
        "{third:?}"
    );
    // And the answer is the one of an engine that never saw anything else.
    let (fresh, ..) = answer(self::engine(1024).generate(request(Input::Messages(chat), 8)));
    assert_eq!(edited, fresh);
}

#[test]
fn cancelling_keeps_what_was_said_and_the_engine_usable() {
    let engine = engine(4096);
    let mut generation = engine.generate(request(tokens(20), 4000));
    let cancel = generation.cancel_handle();
    let mut made = 0;
    let reason = loop {
        match generation.next_blocking().expect("an end") {
            Event::Token { .. } => {
                made += 1;
                if made == 3 {
                    cancel.cancel();
                }
            }
            Event::Done { reason, stats, .. } => {
                assert!(stats.new_tokens < 4000, "{stats:?}");
                break reason;
            }
            Event::Error(failure) => panic!("{failure}"),
            _ => {}
        }
    };
    assert_eq!(reason, DoneReason::Cancelled);
    let (_, reason, stats) = answer(engine.generate(request(tokens(20), 3)));
    assert_eq!((reason, stats.reused_tokens), (DoneReason::Length, 20));
}

#[test]
fn dropping_a_generation_frees_the_engine() {
    let engine = engine(4096);
    drop(engine.generate(request(tokens(20), 4000)));
    let (_, _, stats) = answer(engine.generate(request(tokens(5), 2)));
    assert_eq!(stats.new_tokens, 2);
}

#[test]
fn a_prompt_that_is_too_long_drops_the_oldest_turns_and_says_so() {
    let engine = engine(300);
    let mut chat = vec![Message::new(Role::System, "SYSTEM")];
    for i in 0..12 {
        chat.push(user(&format!("question number {i}")));
        chat.push(Message::new(Role::Assistant, format!("answer number {i}")));
    }
    chat.push(user("last one"));
    let events = events(engine.generate(request(Input::Messages(chat), 6)));
    let shift = events.iter().find_map(|event| match event {
        Event::ContextShift {
            dropped_messages,
            prompt_tokens,
        } => Some((*dropped_messages, *prompt_tokens)),
        _ => None,
    });
    let (dropped, left) = shift.expect("a context shift");
    assert!(dropped > 0 && dropped % 2 == 0, "whole turns: {dropped}");
    assert!(left <= 300 - 6 && left > 100, "{left} tokens are left");
    assert!(
        matches!(events.last(), Some(Event::Done { .. })),
        "{:?}",
        events.last()
    );
}

#[test]
fn a_context_that_fills_up_in_the_middle_of_an_answer_goes_on_with_less() {
    let engine = engine(160);
    let chat = vec![
        user("first question, rather long so that dropping it makes room"),
        Message::new(Role::Assistant, "ok"),
        user("second"),
    ];
    let mut request = request(Input::Messages(chat), 120);
    request.sampling.temperature = 1.0;
    let events = events(engine.generate(request));
    let shifts = events
        .iter()
        .filter(|e| matches!(e, Event::ContextShift { .. }))
        .count();
    assert_eq!(shifts, 1, "{events:?}");
    let made = events
        .iter()
        .filter(|e| matches!(e, Event::Token { .. }))
        .count();
    assert!(made > 80, "{made} tokens");
}

#[test]
fn a_single_turn_ends_when_the_context_is_full() {
    let (_, reason, stats) = answer(engine(64).generate(request(tokens(40), 500)));
    assert_eq!(reason, DoneReason::ContextFull);
    assert_eq!(stats.new_tokens, 25, "24 fit, and one more needs no place");
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_the_numbers() {
    let events = events(engine(64).generate(request(tokens(100), 5)));
    let [Event::Error(failure)] = &events[..] else {
        panic!("{events:?}")
    };
    let EngineProblem::ContextFull { limit, needed, .. } = failure.problem else {
        panic!("{failure:?}")
    };
    assert_eq!((limit, needed), (64, 100));
    let message = failure.to_string();
    assert!(
        message.contains("100") && message.contains("64"),
        "{message}"
    );
}

#[test]
fn stop_strings_end_the_answer_and_are_not_part_of_it() {
    let engine = engine(1024);
    let ask = |stop: Vec<String>| {
        let mut request = request(Input::Prompt("abc".into()), 60);
        request.stop = stop;
        answer(engine.generate(request))
    };
    let (whole, ..) = ask(Vec::new());
    let middle: String = whole.chars().skip(20).take(3).collect();
    let (text, reason, _) = ask(vec![middle.clone()]);
    assert_eq!(reason, DoneReason::Stop);
    let expected = &whole[..whole.find(&middle).expect("it is in the text")];
    assert_eq!(text, expected);
}

#[test]
fn bad_requests_are_errors_and_leave_the_engine_usable() {
    let engine = engine(256);
    let problem = |request| match &events(engine.generate(request))[..] {
        [Event::Error(failure)] => failure.problem.clone(),
        other => panic!("{other:?}"),
    };
    for empty in [Input::Tokens(Vec::new()), Input::Messages(Vec::new())] {
        assert_eq!(problem(request(empty, 4)), EngineProblem::EmptyConversation);
    }
    let mut hot = request(tokens(4), 4);
    hot.sampling.temperature = f32::NAN;
    let hot = problem(hot);
    let EngineProblem::SamplingRange { name, .. } = &hot else {
        panic!("{hot:?}")
    };
    assert_eq!(name, "temperature");
    let unknown = events(engine.generate(request(Input::Tokens(vec![TokenId(9999)]), 4)));
    let Some(Event::Error(failure)) = unknown.last() else {
        panic!("{unknown:?}")
    };
    let message = failure.to_string();
    assert!(
        message.contains("9999") && message.contains("511"),
        "{message}"
    );
    assert_eq!(
        answer(engine.generate(request(tokens(4), 4))).1,
        DoneReason::Length
    );
}

#[test]
fn text_without_a_tokenizer_is_refused_and_tokens_are_not() {
    let engine = load(&fixture("tiny-2bit"), 256);
    let events = events(engine.generate(request(Input::Prompt("hi".into()), 4)));
    let [Event::Error(failure)] = &events[..] else {
        panic!("{events:?}")
    };
    assert!(
        matches!(failure.problem, EngineProblem::NoTokenizer { .. })
            && failure.message.contains("tokenizer.json"),
        "{failure:?}"
    );
    let (text, reason, stats) = answer(engine.generate(request(tokens(4), 4)));
    assert_eq!(
        (text.as_str(), reason, stats.new_tokens),
        ("", DoneReason::Length, 4)
    );
}

/// One thread serves the runtime and would stand still if the engine blocked it.
#[tokio::test(flavor = "current_thread")]
async fn loading_and_generating_do_not_block_an_async_runtime() {
    let ticking = tokio::spawn(async {
        let mut ticks = 0u32;
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            ticks += 1;
            if ticks == 5 {
                return ticks;
            }
        }
    });
    let dir = model_with_tokenizer("tiny-2bit");
    let engine = Engine::builder(dir.path())
        .load_async()
        .await
        .expect("loads");
    let first = engine.generate(request(Input::Messages(vec![user("hi")]), 30));
    let second = engine.generate(request(Input::Messages(vec![user("hi")]), 30));
    let (first, second) = tokio::join!(first.text(), second.text());
    assert_eq!(first.expect("an answer").1, DoneReason::Length);
    assert_eq!(second.expect("an answer").1, DoneReason::Length);
    assert_eq!(ticking.await.expect("still running"), 5);
}

#[tokio::test]
async fn a_missing_folder_says_what_is_missing() {
    let error = Engine::builder("/nowhere/at/all").load_async().await;
    let error = error.err().expect("refused").to_string();
    assert!(error.contains("/nowhere/at/all"), "{error}");
}
