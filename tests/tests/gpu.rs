//! The engine on a GPU: the same logits wherever experts are and however misses are met, within
//! the memory that was allowed, and on the CPU when the GPU fails.
//!
//! Without a GPU the fake driver of `octet-test-cuda` runs the real kernels on a processor, and
//! does queued work as late as it may. With `OCTET_TEST_REAL_GPU=1` the first real GPU is used.

use std::ops::ControlFlow;
use std::path::PathBuf;

use octet_engine::error::EngineError;
use octet_engine::generate::{Conversation, Generator};
use octet_engine::model::{Logits, PassProgress, Session};
use octet_engine::plan::{Device, Loss, Misses, Plan, PlanRequest, Warning};
use octet_engine::routing_reuse::RoutingReuse;
use octet_engine::tokenizer::TokenId;
use octet_engine::{DoneReason, EngineProblem, Event, LoadOptions, Loaded, Request};
use octet_tests::fixture;

/// A real GPU, or the driver that stands in for one.
struct TestGpu(Option<octet_test_cuda::Session>);

impl TestGpu {
    fn is_real(&self) -> bool {
        self.0.is_none()
    }

    /// Changes the fake driver; the test means nothing on a real GPU.
    fn fake(&self) -> Option<&octet_test_cuda::Session> {
        if self.is_real() {
            println!("left out on a real GPU");
        }
        self.0.as_ref()
    }
}

fn test_gpu() -> Option<TestGpu> {
    if std::env::var_os("OCTET_TEST_REAL_GPU").is_some() {
        return Some(TestGpu(None));
    }
    octet_test_cuda::session().map(|session| TestGpu(Some(session)))
}

#[derive(Clone, Copy)]
struct Setting {
    experts_on_gpu: Option<usize>,
    misses: Misses,
    prefetch: usize,
    exact: bool,
}

const RESIDENT: Setting = Setting {
    experts_on_gpu: None,
    misses: Misses::Auto,
    prefetch: 0,
    exact: false,
};

fn request(setting: Setting) -> PlanRequest {
    PlanRequest {
        device: Device::Cuda,
        experts_on_gpu: setting.experts_on_gpu,
        misses: setting.misses,
        prefetch: setting.experts_on_gpu.map(|_| setting.prefetch),
        ctx: Some(512),
        gpu_backend_available: true,
        ..PlanRequest::default()
    }
}

fn load(dir: &std::path::Path, plan: PlanRequest, exact: bool) -> Loaded {
    let options = LoadOptions {
        plan,
        threads: Some(2),
        exact,
        cache_dir: Some(env!("CARGO_TARGET_TMPDIR").into()),
        ..LoadOptions::default()
    };
    Loaded::load(dir, &options, &mut |_| ControlFlow::Continue(())).expect("loads")
}

fn on_gpu(name: &str, setting: Setting) -> Loaded {
    let loaded = load(&fixture(name), request(setting), setting.exact);
    assert!(loaded.model.is_on_gpu(), "{:?}", loaded.plan.warnings);
    loaded
}

fn on_cpu(name: &str) -> Loaded {
    let plan = PlanRequest {
        device: Device::Cpu,
        ctx: Some(512),
        ..PlanRequest::default()
    };
    load(&fixture(name), plan, true)
}

/// Tokens that both tiny models have.
fn prompt(len: u32) -> Vec<TokenId> {
    (0..len).map(|i| TokenId((i * 31 + 7) % 384)).collect()
}

fn forward(loaded: &Loaded, session: &mut Session, tokens: &[TokenId]) -> Vec<f32> {
    let go_on = &mut |_| ControlFlow::Continue(());
    let logits = loaded
        .model
        .forward(session, tokens, Logits::All, go_on)
        .expect("a pass");
    logits.to_vec()
}

/// Logits of a prompt in one chunk, then of tokens one by one.
fn logits(loaded: &Loaded, len: u32, decoded: u32) -> Vec<f32> {
    let mut session = loaded.model.session((len + decoded) as usize);
    let tokens = prompt(len + decoded);
    let (first, rest) = tokens.split_at(len as usize);
    let mut all = forward(loaded, &mut session, first);
    for token in rest {
        all.extend(forward(loaded, &mut session, &[*token]));
    }
    all
}

/// Per position, the RMS of the difference by the RMS of `expected`: median and largest.
fn distance(expected: &[f32], found: &[f32], vocab: usize) -> (f64, f64) {
    assert_eq!(expected.len(), found.len());
    let rms = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    };
    let mut all: Vec<f64> = expected
        .chunks(vocab)
        .zip(found.chunks(vocab))
        .map(|(a, b)| rms(&mut a.iter().zip(b).map(|(a, b)| a - b)) / rms(&mut a.iter().copied()))
        .collect();
    all.sort_by(f64::total_cmp);
    (all[all.len() / 2], all[all.len() - 1])
}

fn settings() -> Vec<(&'static str, Setting)> {
    let some = |experts, misses, prefetch| Setting {
        experts_on_gpu: Some(experts),
        misses,
        prefetch,
        exact: false,
    };
    vec![
        ("all resident", RESIDENT),
        ("fetch, no prefetch", some(3, Misses::Fetch, 0)),
        ("fetch, prefetch", some(2, Misses::Fetch, 2)),
        ("no experts kept, fetch", some(0, Misses::Fetch, 1)),
        ("cpu", some(3, Misses::Cpu, 0)),
        ("auto", some(4, Misses::Auto, 2)),
        (
            "exact",
            Setting {
                exact: true,
                ..some(4, Misses::Fetch, 1)
            },
        ),
        (
            "exact, all resident",
            Setting {
                exact: true,
                ..RESIDENT
            },
        ),
    ]
}

#[test]
fn the_gpu_computes_what_the_cpu_computes_however_misses_are_met() {
    let Some(test_gpu) = test_gpu() else { return };
    let orders = ["late", "ahead", "seed:5"];
    for name in ["tiny-2bit", "tiny-3bit"] {
        let cpu = on_cpu(name);
        let vocab = cpu.model.spec().vocab_size;
        let expected = logits(&cpu, 24, 4);
        for (i, (what, setting)) in settings().into_iter().enumerate() {
            let order = orders[i % orders.len()];
            if let Some(fake) = &test_gpu.0 {
                fake.set("ORDER", order);
            }
            let gpu = on_gpu(name, setting);
            let (median, worst) = distance(&expected, &logits(&gpu, 24, 4), vocab);
            println!("{name}, {what}, {order}: median {median:.5}, worst {worst:.5}");
            // Activations and weights at f16, the output matrix at 8 bits.
            let bound = if setting.exact { 2e-3 } else { 1.5e-2 };
            assert!(median < bound, "{name}, {what}, {order}: {median}");
            let stats = gpu.model.experts().stats().device.expect("a device");
            assert!(stats.hits + stats.misses > 0, "{what}: {stats:?}");
        }
    }
}

/// Runs `request` and gives its events.
fn generate(loaded: &Loaded, conversation: &mut Conversation, request: &Request) -> Vec<Event> {
    let mut events = Vec::new();
    let mut generator = Generator {
        model: &loaded.model,
        tokenizer: None,
        cancelled: &|| false,
        emit: &mut |event| events.push(event),
    };
    generator.generate(conversation, request);
    events
}

fn greedy(new_tokens: usize) -> Request {
    serde_json::from_value(serde_json::json!({
        "input": {"tokens": prompt(40).iter().map(|t| t.0).collect::<Vec<_>>()},
        "sampling": {"temperature": 0.0},
        "max_new_tokens": new_tokens,
        "ignore_eos": true,
    }))
    .expect("a request")
}

fn tokens_of(events: &[Event]) -> Vec<TokenId> {
    let tokens = events.iter().filter_map(|event| match event {
        Event::Token { id, .. } => Some(*id),
        _ => None,
    });
    tokens.collect()
}

/// Experts are fetched, and which ones is the same in every run.
const FETCHED: Setting = Setting {
    experts_on_gpu: Some(3),
    misses: Misses::Fetch,
    prefetch: 0,
    exact: false,
};

/// Logits of ten tokens one by one: a prompt's experts are fetched as time allows.
fn decoded(loaded: &Loaded, mut session: Session) -> Vec<f32> {
    let one = |token| forward(loaded, &mut session, &[token]);
    prompt(10).into_iter().flat_map(one).collect()
}

/// A new session for `ctx` positions.
fn session(loaded: &Loaded, ctx: usize, records: bool, reuse: Option<RoutingReuse>) -> Session {
    let mut session = loaded.model.session(ctx);
    session.records = records;
    session.router_hook = reuse.map(|reuse| Box::new(reuse) as _);
    session
}

#[test]
fn launches_that_are_recorded_give_the_same_numbers() {
    let Some(test_gpu) = test_gpu() else { return };
    let keep = |p| Some(RoutingReuse { p, seed: 5 });
    let gpu = on_gpu("tiny-2bit", RESIDENT);
    let mut distinct = Vec::new();
    for reuse in [None, keep(0.5), keep(1.0)] {
        let expected = decoded(&gpu, session(&gpu, 64, false, reuse));
        // The second time the cache is another one, and further away from its end.
        for ctx in [64, 600] {
            let found = decoded(&gpu, session(&gpu, ctx, true, reuse));
            assert!(found == expected, "{reuse:?}, {ctx}");
        }
        assert!(!distinct.contains(&expected), "{reuse:?} changes nothing");
        distinct.push(expected);
    }
    drop(gpu);
    let exact = Setting {
        exact: true,
        ..FETCHED
    };
    for (setting, order) in [(FETCHED, "ahead"), (exact, "seed:3")] {
        if let Some(fake) = &test_gpu.0 {
            fake.set("ORDER", order);
        }
        for reuse in [None, keep(0.7)] {
            let [expected, found] = [false, true].map(|records| {
                let gpu = on_gpu("tiny-3bit", setting);
                decoded(&gpu, session(&gpu, 64, records, reuse))
            });
            assert!(found == expected, "{order}, {reuse:?}");
        }
    }
}

#[test]
fn recorded_launches_follow_positions_and_sessions_in_turn() {
    let Some(_test_gpu) = test_gpu() else { return };
    let gpu = on_gpu("tiny-2bit", RESIDENT);
    let tokens = prompt(520);
    // From 512 positions on, attention takes the cache in longer pieces; so far only the second
    // session comes, in a cache of its own.
    let starts = [30, 509];
    let mut sessions = [gpu.model.session(512), gpu.model.session(600)];
    let go_on = &mut |_| ControlFlow::Continue(());
    for (session, start) in sessions.iter_mut().zip(starts) {
        let prompt = &tokens[..start];
        let done = gpu.model.forward(session, prompt, Logits::Last, go_on);
        done.expect("a pass");
    }
    let mut in_turn = |records| -> Vec<Vec<f32>> {
        for (session, start) in sessions.iter_mut().zip(starts) {
            session.truncate(start);
            session.records = records;
        }
        let one = |i: usize| {
            let (session, start) = (&mut sessions[i % 2], starts[i % 2]);
            forward(&gpu, session, &tokens[start + i / 2..][..1])
        };
        (0..14).map(one).collect()
    };
    let expected = in_turn(false);
    for _ in 0..2 {
        assert!(in_turn(true) == expected);
    }
}

#[test]
fn a_prompt_tells_of_every_expert_and_can_be_ended_at_each() {
    let Some(_test_gpu) = test_gpu() else { return };
    let gpu = on_gpu("tiny-2bit", FETCHED);
    let c = gpu.model.spec();
    let tokens = prompt(100);
    let (mut told, mut session) = (Vec::new(), gpu.model.session(512));
    let mut watch = |progress: PassProgress| {
        told.push(progress);
        ControlFlow::Continue(())
    };
    let expected = gpu
        .model
        .forward(&mut session, &tokens, Logits::Last, &mut watch)
        .expect("a pass")
        .to_vec();
    // 100 tokens want every expert.
    assert_eq!(told.len(), c.n_layers * (c.n_experts + 1), "{told:?}");
    assert!(told.windows(2).all(|two| two[0].done <= two[1].done));
    session.truncate(0);
    for steps in [1, 2, 7, 10, 13] {
        let mut left = steps;
        let mut end = |_| {
            left -= 1;
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        let ended = gpu
            .model
            .forward(&mut session, &tokens, Logits::Last, &mut end);
        assert!(matches!(ended, Err(EngineError::Cancelled)), "{steps}");
        assert_eq!(session.len(), 0);
    }
    let again = forward(&gpu, &mut session, &tokens);
    let (_, worst) = distance(
        &expected,
        &again[again.len() - expected.len()..],
        c.vocab_size,
    );
    assert!(worst < 1e-3, "{worst}");
}

#[test]
fn a_cancelled_token_leaves_recorded_launches_to_go_on_with() {
    let Some(_test_gpu) = test_gpu() else { return };
    for setting in [RESIDENT, FETCHED] {
        let gpu = on_gpu("tiny-2bit", setting);
        let vocab = gpu.model.spec().vocab_size;
        let expected = decoded(&gpu, session(&gpu, 512, false, None));
        let (mut session, mut found) = (session(&gpu, 512, true, None), Vec::new());
        for (i, token) in prompt(10).iter().enumerate() {
            // In the first layer, when nothing is recorded yet, and in the others.
            let stop = &mut |pass: PassProgress| match pass.layer == i % 4 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            let cancelled = gpu
                .model
                .forward(&mut session, &[*token], Logits::Last, stop);
            assert!(matches!(cancelled, Err(EngineError::Cancelled)));
            assert_eq!(session.len(), i);
            found.extend(forward(&gpu, &mut session, &[*token]));
        }
        // What is in VRAM already is summed up first: another last bit, which may round to another f16.
        let (_, worst) = distance(&expected, &found, vocab);
        let bound = setting.experts_on_gpu.map_or(0.0, |_| 1e-3);
        assert!(worst <= bound, "{worst}");
    }
}

#[test]
fn a_token_is_one_launch_where_all_experts_are_resident() {
    let Some(test_gpu) = test_gpu() else { return };
    let Some(fake) = test_gpu.fake() else { return };
    let gpu = on_gpu("tiny-2bit", RESIDENT);
    let mut session = gpu.model.session(64);
    // Then one launch by launch, and one that is recorded too.
    for tokens in [5, 1, 1] {
        forward(&gpu, &mut session, &prompt(tokens));
    }
    let before = fake.counters();
    for token in prompt(3) {
        forward(&gpu, &mut session, &[token]);
    }
    let after = fake.counters();
    assert_eq!(after.launches - before.launches, 3);
    assert_eq!(after.syncs - before.syncs, 3);
    assert_eq!(after.copies_up - before.copies_up, 3);
    assert_eq!(after.graphs, 1);
}

#[test]
fn a_driver_that_cannot_record_or_has_no_room_for_it_launches_one_by_one() {
    let Some(test_gpu) = test_gpu() else { return };
    let Some(fake) = test_gpu.fake() else { return };
    for setting in [RESIDENT, FETCHED] {
        let gpu = on_gpu("tiny-2bit", setting);
        let expected = decoded(&gpu, session(&gpu, 64, true, None));
        assert!(fake.counters().graphs > 0);
        drop(gpu);

        fake.set("GRAPHS", 0);
        let gpu = on_gpu("tiny-2bit", setting);
        assert!(decoded(&gpu, session(&gpu, 64, true, None)) == expected);
        assert_eq!(fake.counters().graphs, 0);
        drop(gpu);

        // Of the recordings of a token, one fits where they are several.
        fake.reset();
        let gpu = on_gpu("tiny-2bit", setting);
        let session = session(&gpu, 64, true, None);
        fake.set("MEMORY_LIMIT", fake.counters().memory + 700_000);
        assert!(decoded(&gpu, session) == expected);
        assert_eq!(fake.counters().graphs, 0);
        drop(gpu);
        fake.reset();
    }
}

#[test]
fn a_gpu_that_is_lost_ends_the_answer_with_an_error_and_the_next_one_is_made_on_the_cpu() {
    let Some(test_gpu) = test_gpu() else { return };
    let Some(fake) = test_gpu.fake() else { return };
    let cpu = on_cpu("tiny-2bit");
    let expected = tokens_of(&generate(
        &cpu,
        &mut Conversation::new(&cpu.model, 512),
        &greedy(12),
    ));
    for (what, setting) in settings() {
        for failure in ["launch:200", "copy:45", "sync:30", "any:300:ecc"] {
            let gpu = on_gpu("tiny-2bit", setting);
            let mut conversation = Conversation::new(&gpu.model, 512);
            fake.set("FAIL", failure);
            let events = generate(&gpu, &mut conversation, &greedy(200));
            let last = events.last().expect("events");
            let Event::Error(said) = last else {
                panic!("{what}, {failure}: {last:?}");
            };
            let is_of_gpu = matches!(said.problem, EngineProblem::GpuFailed { .. });
            assert!(is_of_gpu, "{what}, {failure}: {said:?}");
            assert!(said.message.contains("CPU"), "{said}");
            assert!(!gpu.model.is_on_gpu());

            // The same process, the same model: all that is lost is the GPU.
            let events = generate(&gpu, &mut conversation, &greedy(12));
            assert!(
                matches!(
                    events.last(),
                    Some(Event::Done {
                        reason: DoneReason::Length,
                        ..
                    })
                ),
                "{what}, {failure}: {:?}",
                events.last()
            );
            if setting.exact {
                assert_eq!(tokens_of(&events), expected, "{what}, {failure}");
            }
            drop((conversation, gpu));
            fake.reset();
        }
    }
}

#[test]
fn an_unloaded_model_gives_everything_back() {
    let Some(test_gpu) = test_gpu() else { return };
    let Some(fake) = test_gpu.fake() else { return };
    for (what, setting) in settings() {
        let gpu = on_gpu("tiny-2bit", setting);
        logits(&gpu, 20, 3);
        assert!(fake.counters().memory > 0);
        drop(gpu);
        let left = fake.counters();
        let held = [
            left.memory,
            left.allocations,
            left.pinned,
            left.streams,
            left.events,
            left.modules,
            left.graphs,
            left.contexts,
            left.left_behind,
        ];
        assert_eq!(held, [0; 9], "{what}: {left:?}");
    }
}

#[test]
fn what_is_taken_of_the_gpu_stays_within_the_plan() {
    let Some(test_gpu) = test_gpu() else { return };
    let Some(fake) = test_gpu.fake() else { return };
    for (what, setting) in settings() {
        let gpu = on_gpu("tiny-2bit", setting);
        logits(&gpu, 40, 2);
        let plan = gpu.plan.gpu.as_ref().expect("a plan for the GPU");
        let context: u64 = octet_engine::plan::CUDA_CONTEXT_BYTES;
        let peak = fake.counters().memory_peak;
        assert!(
            peak + context <= plan.used_bytes,
            "{what}: {peak} bytes and a context of {context}, planned {}",
            plan.used_bytes
        );
        drop(gpu);
        fake.reset();
    }
}

#[test]
fn ram_that_cannot_be_pinned_is_used_as_it_is_and_that_is_said() {
    let Some(test_gpu) = test_gpu() else { return };
    let Some(fake) = test_gpu.fake() else { return };
    let cpu = on_cpu("tiny-2bit");
    let expected = logits(&cpu, 12, 3);
    let setting = Setting {
        experts_on_gpu: Some(3),
        ..RESIDENT
    };
    drop(on_gpu("tiny-2bit", setting));
    let needed = fake.counters().pinned_peak;
    fake.set("PINNED_LIMIT", needed - 300_000);
    let gpu = on_gpu("tiny-2bit", setting);
    assert!(gpu.model.experts().unpinned_slots() > 0);
    let unpinned = Warning::Unpinned {
        experts: gpu.model.experts().unpinned_slots(),
    };
    assert!(
        gpu.plan.warnings.contains(&unpinned),
        "{:?}",
        gpu.plan.warnings
    );
    let vocab = cpu.model.spec().vocab_size;
    let (median, _) = distance(&expected, &logits(&gpu, 12, 3), vocab);
    assert!(median < 1.5e-2, "{median}");
}

#[test]
fn a_gpu_with_less_room_than_planned_holds_fewer_experts_and_that_is_said() {
    let Some(test_gpu) = test_gpu() else { return };
    let Some(fake) = test_gpu.fake() else { return };
    // Recorded launches come last, and are not what room is made for.
    fake.set("GRAPHS", 0);
    let full = on_gpu("tiny-2bit", RESIDENT);
    let total = full.plan.total_gpu_slots;
    let needed = fake.counters().memory_peak;
    drop(full);
    fake.reset();
    fake.set("MEMORY_LIMIT", needed - 1_000_000);
    let gpu = on_gpu("tiny-2bit", RESIDENT);
    assert!(
        gpu.plan.total_gpu_slots < total,
        "{}",
        gpu.plan.total_gpu_slots
    );
    let fewer = [Loss::Experts {
        held: gpu.plan.total_gpu_slots,
        planned: total,
    }];
    let said = |plan: &Plan, losses: &[Loss]| {
        let is_it = |warning: &Warning| matches!(warning, Warning::LessVram { losses: l, .. } if l == losses);
        plan.warnings.iter().any(is_it)
    };
    assert!(said(&gpu.plan, &fewer), "{:?}", gpu.plan.warnings);
    logits(&gpu, 20, 3);
    drop(gpu);

    // With no room even for the trunk it is the CPU, unless the GPU was insisted on.
    fake.set("MEMORY_LIMIT", 100_000);
    let auto = PlanRequest {
        device: Device::Auto,
        ..request(RESIDENT)
    };
    let loaded = load(&fixture("tiny-2bit"), auto, false);
    assert!(!loaded.model.is_on_gpu());
    let warnings = &loaded.plan.warnings;
    assert!(said(&loaded.plan, &[Loss::Gpu]), "{warnings:?}");
    let options = LoadOptions {
        plan: request(RESIDENT),
        ..LoadOptions::default()
    };
    let dir: PathBuf = fixture("tiny-2bit");
    let error = Loaded::open(&dir, &options).err().expect("refused");
    assert!(matches!(error, EngineError::Plan(_)), "{error}");
}
