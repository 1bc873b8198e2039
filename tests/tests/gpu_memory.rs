//! RAM behind a GPU: how much of it is pinned, and how fast misses are met from there; on the driver
//! that stands in for a GPU.

use std::ops::ControlFlow;
use std::path::Path;

use octet_engine::calibration::{Calibration, CalibrationCache, Machine};
use octet_engine::experts::TierStats;
use octet_engine::hardware::Hardware;
use octet_engine::model::Logits;
use octet_engine::plan::{Device, Misses, PlanRequest, Reason, Warning};
use octet_engine::tokenizer::TokenId;
use octet_engine::{LoadOptions, Loaded};
use octet_kernels::Precision;
use octet_tests::fixture;

const THREADS: usize = 2;

fn request(misses: Misses, pinned_ram: Option<u64>) -> PlanRequest {
    PlanRequest {
        device: Device::Cuda,
        experts_on_gpu: Some(2),
        misses,
        prefetch: Some(0),
        ctx: Some(512),
        pinned_ram,
        gpu_backend_available: true,
        ..PlanRequest::default()
    }
}

fn load(plan: PlanRequest, cache: &Path, calibrate: bool) -> Loaded {
    let options = LoadOptions {
        plan,
        threads: Some(THREADS),
        calibrate,
        cache_dir: Some(cache.into()),
        ..LoadOptions::default()
    };
    let go_on = &mut |_| ControlFlow::Continue(());
    let loaded = Loaded::load(&fixture("tiny-2bit"), &options, go_on).expect("loads");
    assert!(loaded.model.is_on_gpu(), "{:?}", loaded.plan.warnings);
    loaded
}

/// Logits of some tokens, one by one.
fn decoded(loaded: &Loaded, tokens: u32) -> Vec<f32> {
    let mut session = loaded.model.session(tokens as usize);
    let go_on = &mut |_| ControlFlow::Continue(());
    let mut all = Vec::new();
    for i in 0..tokens {
        let token = [TokenId((i * 31 + 7) % 384)];
        let logits = loaded
            .model
            .forward(&mut session, &token, Logits::Last, go_on);
        all.extend_from_slice(logits.expect("a pass"));
    }
    all
}

fn stats(loaded: &Loaded) -> TierStats {
    loaded.model.experts().stats().device.expect("a device")
}

/// A folder where this machine is said to be as fast as `calibration`.
fn calibrated(calibration: Calibration) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let checkpoint = octet_engine::checkpoint::Checkpoint::open(&fixture("tiny-2bit"));
    let expert_bytes = checkpoint.expect("a fixture").expert_bytes();
    let hardware = Hardware::detect(Path::new("."));
    let gpu = hardware.gpu.best();
    let machine = Machine::new(&hardware, gpu, THREADS, Precision::Fast, expert_bytes);
    CalibrationCache::in_dir(dir.path())
        .put(&machine, calibration)
        .expect("written");
    dir
}

#[test]
fn no_more_ram_is_pinned_than_may_be_and_the_rest_is_used_as_it_is() {
    let Some(fake) = octet_test_cuda::session() else {
        return;
    };
    let cache = tempfile::tempdir().expect("a folder");
    let of_fetch = |pinned_ram| load(request(Misses::Fetch, pinned_ram), cache.path(), false);
    let all = of_fetch(None);
    let total = all.plan.total_experts();
    assert_eq!(all.model.experts().unpinned_slots(), 0);
    let expected = decoded(&all, 6);
    drop(all);
    fake.reset();
    let none = of_fetch(Some(0));
    let beside_experts = fake.counters().pinned;
    assert_eq!(none.model.experts().unpinned_slots(), total);
    assert!(decoded(&none, 6) == expected);
    let expert_bytes = none.model.checkpoint().expert_bytes() as u64;
    drop(none);
    // Room for 9 experts and a part of one. The system would refuse no more than that.
    fake.reset();
    let budget = 9 * expert_bytes + expert_bytes / 2;
    let some = of_fetch(Some(budget));
    assert_eq!(some.model.experts().unpinned_slots(), total - 9);
    assert_eq!(fake.counters().pinned - beside_experts, 9 * expert_bytes);
    assert!(decoded(&some, 6) == expected);
    let limit = Reason::PinLimit {
        pinned: 9,
        in_ram: total,
        limit_bytes: budget,
    };
    assert!(
        some.plan.reasons.contains(&limit),
        "{:?}",
        some.plan.reasons
    );
    let is_unpinned = |warning: &Warning| matches!(warning, Warning::Unpinned { .. });
    assert!(!some.plan.warnings.iter().any(is_unpinned));
}

#[test]
fn misses_are_met_by_where_their_experts_lie() {
    let Some(_fake) = octet_test_cuda::session() else {
        return;
    };
    // From pinned RAM the GPU is far ahead of the CPU, from plain RAM far behind it.
    let cache = calibrated(Calibration {
        cpu_bytes_per_sec: 1e9,
        upload_bytes_per_sec: Some(1e13),
        staged_bytes_per_sec: Some(1e3),
    });
    let met = |pinned_ram| {
        let loaded = load(request(Misses::Auto, pinned_ram), cache.path(), false);
        let before = stats(&loaded);
        decoded(&loaded, 12);
        let after = stats(&loaded);
        let on_cpu = after.met_below - before.met_below;
        (on_cpu, after.misses - before.misses - on_cpu)
    };
    let (on_cpu, fetched) = met(None);
    assert!(on_cpu == 0 && fetched > 0, "{on_cpu}, {fetched}");
    let (on_cpu, fetched) = met(Some(0));
    assert!(on_cpu > 0 && fetched == 0, "{on_cpu}, {fetched}");
    let (on_cpu, fetched) = met(Some(1_500_000));
    assert!(on_cpu > 0 && fetched > 0, "{on_cpu}, {fetched}");
}

#[test]
fn copies_are_measured_as_they_are_made() {
    let Some(fake) = octet_test_cuda::session() else {
        return;
    };
    let cache = tempfile::tempdir().expect("a folder");
    fake.set("PINNED_SPEED", "40MiB");
    let loaded = load(request(Misses::Auto, None), cache.path(), true);
    let measured = loaded.calibration.expect("it was asked for");
    let slow = (40 << 20) as f64;
    let [pinned, staged] = [measured.upload_bytes_per_sec, measured.staged_bytes_per_sec]
        .map(|speed| speed.expect("there is a GPU"));
    assert!(pinned <= slow, "{pinned}");
    // It goes through pinned buffers too.
    assert!(staged <= slow, "{staged}");
}

#[test]
fn the_bandwidths_follow_what_copies_take_and_the_cpu_then_does_more() {
    let Some(fake) = octet_test_cuda::session() else {
        return;
    };
    let cache = calibrated(Calibration {
        cpu_bytes_per_sec: 2e7,
        upload_bytes_per_sec: Some(4e7),
        staged_bytes_per_sec: Some(4e7),
    });
    // Every miss is copied, and slowly, as in a slot of fewer lanes.
    let loaded = load(request(Misses::Fetch, None), cache.path(), false);
    let upload = || {
        let bandwidths = loaded.model.experts().bandwidths();
        bandwidths.expect("there is a GPU").upload
    };
    let before = upload();
    fake.set("PINNED_SPEED", "8MiB");
    decoded(&loaded, 6);
    let after = upload();
    assert!(after < before, "{before}, {after}");
    assert!(after >= 4e7 / 8.0, "{after}");
    drop(loaded);
    fake.reset();

    // What the CPU computes is noted as well.
    let loaded = load(request(Misses::Cpu, None), cache.path(), false);
    let cpu = || {
        let bandwidths = loaded.model.experts().bandwidths();
        bandwidths.expect("there is a GPU").cpu
    };
    let before = cpu();
    decoded(&loaded, 6);
    assert!(cpu() != before, "{before}");
}
