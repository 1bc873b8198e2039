//! Which GPU is taken, how much of it, and that nothing is overwritten while it is read: on the
//! driver that stands in for several GPUs.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use octet_engine::backend::DeviceKind;
use octet_engine::checkpoint::ExpertId;
use octet_engine::error::EngineError;
use octet_engine::hardware::{Gpu, GpuProblem, GpuStatus, Hardware, NoGpu};
use octet_engine::model::{Logits, PassProgress, PassWatch, Session};
use octet_engine::plan::{
    Device, Misses, ModelSizes, Placement, PlanRequest, Reason, Warning, make_plan,
};
use octet_engine::tokenizer::TokenId;
use octet_engine::{LoadOptions, Loaded};
use octet_tests::fixture;

/// A machine with a small GPU and a large one. CUDA's order, the fastest first, is the other way
/// round.
fn two() -> Option<octet_test_cuda::Session> {
    let fake = octet_test_cuda::session()?;
    fake.set("DEVICES", 2);
    fake.set("NAME_0", "Small");
    fake.set("VRAM_0", "4GiB");
    fake.set("NAME_1", "Large");
    fake.set("VRAM_1", "24GiB");
    fake.set("CAPABILITY_1", "8.9");
    Some(fake)
}

fn gpus() -> Vec<Gpu> {
    match Hardware::detect(Path::new(".")).gpu {
        GpuStatus::Found(gpus) => gpus,
        GpuStatus::Absent { reason } => panic!("{reason}"),
    }
}

fn problem(gpus: &[Gpu], name: &str) -> Option<String> {
    let gpu = gpus.iter().find(|gpu| gpu.name == name);
    let problem = &gpu.expect("it is listed").problem;
    problem.as_ref().map(ToString::to_string)
}

fn request() -> PlanRequest {
    PlanRequest {
        ctx: Some(512),
        gpu_backend_available: true,
        ..PlanRequest::default()
    }
}

fn load(dir: &Path, plan: PlanRequest, exact: bool) -> Result<Loaded, EngineError> {
    let options = LoadOptions {
        plan,
        threads: Some(2),
        exact,
        cache_dir: Some(env!("CARGO_TARGET_TMPDIR").into()),
        ..LoadOptions::default()
    };
    Loaded::load(dir, &options, &mut |_| ControlFlow::Continue(()))
}

/// A model on the GPU that is taken by itself, which has computed something.
fn loaded() -> Loaded {
    let loaded = load(&fixture("tiny-2bit"), request(), false).expect("loads");
    let mut session = loaded.model.session(16);
    let tokens: Vec<TokenId> = (1..6).map(TokenId).collect();
    let go_on = &mut |_| ControlFlow::Continue(());
    let logits = loaded
        .model
        .forward(&mut session, &tokens, Logits::Last, go_on)
        .expect("a pass");
    assert!(logits.iter().all(|x| x.is_finite()));
    loaded
}

/// The name of the GPU that `loaded` computes on, as the plan and the driver have it.
fn name(loaded: &Loaded) -> Option<String> {
    let backend = loaded.model.backend();
    let on_gpu = backend.device() == DeviceKind::Gpu;
    let of_driver = on_gpu.then(|| backend.name().to_owned());
    match &loaded.plan.device {
        Placement::Cuda { name, .. } => {
            assert_eq!(of_driver.as_deref(), Some(name.as_str()));
            of_driver
        }
        Placement::Cpu => {
            assert_eq!(of_driver, None);
            None
        }
    }
}

#[test]
fn the_gpu_with_the_most_free_memory_is_taken_by_its_identifier() {
    let Some(fake) = two() else { return };
    assert_eq!(name(&loaded()).as_deref(), Some("Large"));
    // Other programs hold it.
    fake.set("FREE_1", "2GiB");
    assert_eq!(name(&loaded()).as_deref(), Some("Small"));
}

#[test]
fn a_gpu_that_the_process_may_not_see_is_not_taken_and_that_is_said() {
    let Some(fake) = two() else { return };
    let small = gpus()[0].uuid.clone();
    // By number (the second of CUDA's), by identifier, by its beginning, with more behind it.
    for visible in ["1", &small, &small[..10], "1,5,0"] {
        fake.set("VISIBLE", visible);
        let gpus = gpus();
        assert_eq!(problem(&gpus, "Small"), None, "{visible}");
        let hidden = problem(&gpus, "Large").expect("hidden");
        assert!(hidden.contains("CUDA"), "{hidden}");
        assert_eq!(name(&loaded()).as_deref(), Some("Small"), "{visible}");
    }
    fake.set("VISIBLE", "");
    let on_cpu = loaded();
    assert_eq!(name(&on_cpu), None);
    let Reason::NoGpu {
        why: NoGpu::Unusable { gpus },
    } = &on_cpu.plan.reasons[0]
    else {
        panic!("{:?}", on_cpu.plan.reasons);
    };
    let names: Vec<&str> = gpus.iter().map(|gpu| gpu.name.as_str()).collect();
    assert_eq!(names, ["Small", "Large"]);
    let insisted = PlanRequest {
        device: Device::Cuda,
        ..request()
    };
    let error = load(&fixture("tiny-2bit"), insisted, false).err();
    assert!(error.expect("refused").to_string().contains("CUDA"));
}

#[test]
fn an_instance_of_a_split_gpu_is_taken_with_its_own_memory() {
    let Some(fake) = two() else { return };
    fake.set("MIG_1", "5GiB,10GiB");
    let found = gpus();
    // The whole of it is no choice; of its instances CUDA shows one, and no other GPU then.
    assert!(problem(&found, "Large").expect("split").contains("MIG"));
    assert!(problem(&found, "Small").is_some());
    let usable = |gpus: Vec<Gpu>| -> Vec<Gpu> {
        let usable = gpus.into_iter().filter(|gpu| gpu.problem.is_none());
        usable.collect()
    };
    let first = usable(found);
    assert_eq!(first.len(), 1);
    assert_eq!(
        (first[0].name.as_str(), first[0].index),
        ("Large MIG 5gb", 1)
    );
    assert_eq!(first[0].vram_total_bytes, 5 << 30);
    // The second one has an identifier that differs in a digit.
    let second = first[0].uuid.replace("-a0", "-a1");
    assert_ne!(second, first[0].uuid);
    fake.set("VISIBLE", &second);
    let second = usable(gpus());
    assert_eq!(second[0].vram_free_bytes, 10 << 30);
    let loaded = loaded();
    assert_eq!(name(&loaded).as_deref(), Some("Large MIG 10gb"));
    assert!(fake.counters().memory > 0);
}

#[test]
fn a_gpu_whose_memory_only_cuda_knows_is_taken() {
    let Some(fake) = two() else { return };
    fake.set("NVML_MEMORY_1", 0);
    fake.set("FREE_1", "20GiB");
    let large = gpus().remove(1);
    assert_eq!((large.problem, large.vram_total_bytes), (None, 24 << 30));
    // Free beside the context that it took to ask.
    let context = octet_engine::plan::CUDA_CONTEXT_BYTES;
    assert_eq!(large.vram_free_bytes, (20 << 30) + context);
    assert_eq!(fake.counters().contexts, 0);
    assert_eq!(name(&loaded()).as_deref(), Some("Large"));

    // No NVML at all: the library is not there, then it does not work.
    fake.set("NVML_MEMORY", 1);
    for code in [12, 999] {
        fake.set("NVML_ERROR", code);
        let found = gpus();
        assert_eq!(found.len(), 2, "{code}");
        assert!(found.iter().all(|gpu| gpu.problem.is_none()), "{found:?}");
        assert_eq!(name(&loaded()).as_deref(), Some("Large"), "{code}");
    }
    fake.set("CUDA", "11.8");
    let problem = gpus().remove(0).problem.expect("too old").to_string();
    assert!(
        problem.contains("11.8") && problem.contains("525"),
        "{problem}"
    );
    // Where NVML works, its word about an old driver is the last one.
    fake.reset();
    fake.set("DRIVER", "470.1");
    let GpuStatus::Absent { reason } = Hardware::detect(Path::new(".")).gpu else {
        panic!("taken with driver 470");
    };
    let version = "470.1".to_owned();
    let min_driver = 525;
    assert_eq!(
        reason,
        NoGpu::DriverTooOld {
            version,
            min_driver
        }
    );
}

#[test]
fn a_gpu_that_does_not_open_is_passed_over_for_the_next_one() {
    let Some(fake) = two() else { return };
    fake.set("OPEN_ERROR_1", 46);
    let on_small = loaded();
    assert_eq!(name(&on_small).as_deref(), Some("Small"));
    let is_busy = |problem: &GpuProblem| matches!(problem, GpuProblem::Failed { detail } if detail.contains("busy"));
    let passed_over = |loaded: &Loaded| {
        let is_large = |warning: &Warning| match warning {
            Warning::GpuPassedOver { name, problem } => name == "Large" && is_busy(problem),
            _ => false,
        };
        let warnings = &loaded.plan.warnings;
        assert!(warnings.iter().any(is_large), "{warnings:?}");
    };
    passed_over(&on_small);
    drop(on_small);
    fake.set("OPEN_ERROR_0", 46);
    let on_cpu = loaded();
    assert_eq!(name(&on_cpu), None);
    passed_over(&on_cpu);
    let is_failure = |warning: &Warning| match warning {
        Warning::GpuFailed { problem } => is_busy(problem),
        _ => false,
    };
    let warnings = &on_cpu.plan.warnings;
    assert!(warnings.iter().any(is_failure), "{warnings:?}");
    let insisted = PlanRequest {
        device: Device::Cuda,
        ..request()
    };
    let error = load(&fixture("tiny-2bit"), insisted, false).err();
    let error = error.expect("refused").to_string();
    assert!(
        error.contains("Large: ") && error.contains("Small: "),
        "{error}"
    );
}

#[test]
fn a_gpu_with_a_display_keeps_memory_for_it() {
    let Some(fake) = two() else { return };
    let sizes = load(&fixture("tiny-2bit"), request(), false)
        .map(|loaded| ModelSizes::of(loaded.model.checkpoint()))
        .expect("loads");
    // The larger of 0.5 GB and 4% of what is installed.
    for (visible, margin) in [("1", 500_000_000), ("0", (24 << 30) / 100 * 4)] {
        fake.set("VISIBLE", visible);
        let limit = |shows: u32| {
            fake.set("DISPLAY", shows);
            let hardware = Hardware::detect(Path::new("."));
            let plan = make_plan(&sizes, &hardware, &request()).expect("a plan");
            plan.gpu.expect("a GPU").limit_bytes
        };
        assert_eq!(limit(0) - limit(1), margin, "{visible}");
    }
    // Without NVML, CUDA tells of it by the time that kernels may take.
    fake.set("NVML_ERROR", 12);
    assert!(gpus().iter().all(|gpu| gpu.is_shared_with_system));
    fake.set("DISPLAY", 0);
    assert!(gpus().iter().all(|gpu| !gpu.is_shared_with_system));
}

/// A tiny model with `experts_on_gpu` of each layer's 8 experts on the GPU.
fn partly(dir: &Path, experts_on_gpu: usize, misses: Misses, exact: bool) -> Loaded {
    let plan = PlanRequest {
        device: Device::Cuda,
        experts_on_gpu: Some(experts_on_gpu),
        misses,
        prefetch: Some(0),
        ram_budget: (experts_on_gpu == 0).then_some(RAM_BYTES),
        ..request()
    };
    load(dir, plan, exact).expect("loads")
}

/// Room for some of the tiny model's experts.
const RAM_BYTES: u64 = 1_500_000;

/// Runs one token.
fn one_token(
    loaded: &Loaded,
    session: &mut Session,
    token: u32,
    before_layer: &mut PassWatch<'_>,
) -> Result<(), EngineError> {
    let tokens = [TokenId(token)];
    let done = loaded
        .model
        .forward(session, &tokens, Logits::Last, before_layer);
    done.map(|_| ())
}

#[test]
fn launched_hits_begin_before_the_cpu_computes_its_share() {
    let Some(fake) = octet_test_cuda::session() else {
        return;
    };
    // With fewer slots than a token takes experts, nothing is brought for the tokens to come.
    let loaded = partly(&fixture("tiny-2bit"), 1, Misses::Cpu, false);
    let mut session = loaded.model.session(64);
    let (mut both, mut seen) = (0, Vec::new());
    for token in 0..24 {
        seen.clear();
        let note = |seen: &mut Vec<_>| {
            let stats = loaded.model.experts().stats().device.expect("a device");
            seen.push((fake.counters().queries, stats.hits, stats.misses));
        };
        let done = one_token(&loaded, &mut session, 31 * token % 384, &mut |_| {
            note(&mut seen);
            ControlFlow::Continue(())
        });
        done.expect("a pass");
        note(&mut seen);
        for layer in seen.windows(2) {
            let [(q0, h0, m0), (q1, h1, m1)] = layer else {
                unreachable!("windows of two");
            };
            let has_both = h1 > h0 && m1 > m0;
            assert_eq!(q1 - q0, u64::from(has_both), "{layer:?}");
            both += u64::from(has_both);
        }
    }
    assert!(both > 0, "no layer had hits and misses");

    // It is asked for before the CPU's share is on its way to the GPU.
    fake.set("FAIL", "query:1:soft");
    let mut copies = 0;
    let failed = (0..24).find_map(|token| {
        let before_layer = &mut |pass: PassProgress| {
            // The first layer's input is copied still.
            copies = fake.counters().copies_up + u64::from(pass.layer == 0);
            ControlFlow::Continue(())
        };
        one_token(&loaded, &mut session, 31 * token % 384 + 5, before_layer).err()
    });
    assert!(matches!(failed, Some(EngineError::Device { .. })));
    assert_eq!(fake.counters().copies_up, copies);
}

/// A copy of a fixture whose files can be taken away.
fn copy(name: &str) -> (tempfile::TempDir, impl Fn(ExpertId) -> PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(fixture(name)).expect("a fixture") {
        let path = entry.expect("an entry").path();
        let to = dir.path().join(path.file_name().expect("a name"));
        std::fs::copy(&path, to).expect("a copy");
    }
    let index = std::fs::read(dir.path().join("model.safetensors.index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    let folder = dir.path().to_owned();
    let file = move |id: ExpertId| {
        let (layer, expert) = (id.layer, id.expert);
        let name = format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.W_q");
        folder.join(index["weight_map"][name].as_str().expect("a file"))
    };
    (dir, file)
}

#[test]
fn a_slot_is_not_overwritten_while_it_is_read_though_its_layer_ended_with_an_error() {
    let Some(fake) = octet_test_cuda::session() else {
        return;
    };
    let (dir, file) = copy("tiny-2bit");
    // With f32 activations a kernel's arguments tell which slot it reads.
    let loaded = partly(dir.path(), 0, Misses::Fetch, true);
    let experts = loaded.model.experts();
    let bring = |layer: u16, expert: u16| {
        let id = ExpertId { layer, expert };
        let mut claim = experts.claim(id, 1).expect("a slot");
        claim.wait().map(|_| ()).expect("it comes");
    };
    let mut session = loaded.model.session(64);
    let go_on = &mut |_| ControlFlow::Continue(());
    one_token(&loaded, &mut session, 7, go_on).expect("a pass");
    let chosen = experts.snapshot().newest;
    // Of the first layer's two, one shall be in VRAM and the other nowhere, not on disk either.
    let [here, absent] = [chosen[0], chosen[1]];
    assert_eq!((here.layer, absent.layer), (0, 0));
    let others = (0..32).map(|i| (i % 4, i / 4)).cycle();
    let others = others.filter(|&(layer, expert)| (layer, expert) != (0, absent.expert));
    let is_ready = || experts.is_in_fastest(here) && !experts.contains(absent);
    for (layer, expert) in others.take(300) {
        if is_ready() {
            break;
        }
        bring(layer, expert);
        bring(0, here.expert);
    }
    assert!(is_ready(), "it cannot be brought about");
    // It stays open once it was read.
    let opened = std::fs::OpenOptions::new().write(true).open(file(absent));
    opened
        .and_then(|file| file.set_len(0))
        .expect("it was there");
    // The wait that would make up for it fails as well.
    fake.set("FAIL", "stream:2:soft");
    session.truncate(0);
    let before = &mut |pass: PassProgress| match pass.layer {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let error = one_token(&loaded, &mut session, 7, before).expect_err("a file is missing");
    assert!(!matches!(error, EngineError::Cancelled), "{error}");
    assert!(loaded.model.is_on_gpu(), "the GPU is in order");
    assert!(
        fake.counters().pending > 0,
        "nothing is left to be overtaken"
    );
    // With one of the two slots in use there is only the other one.
    let other = ExpertId {
        layer: 3,
        expert: 7,
    };
    let mut held = experts.claim(other, 1).expect("a slot");
    held.wait().map(|_| ()).expect("it comes");
    bring(2, 7);
    assert!(!experts.is_in_fastest(here), "its slot was not needed");
    assert_eq!(fake.counters().overtaken, 0);
}
