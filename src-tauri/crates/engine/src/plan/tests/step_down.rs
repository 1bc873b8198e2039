//! Plans made again with what the GPU turned out to have.

use super::*;

#[test]
fn a_gpu_with_what_was_planned_changes_nothing() {
    let hardware = with_vram(12 * GIB);
    let planned = plan(&mixtral(), &hardware, &request());
    let measured = MeasuredVram {
        context_bytes: CUDA_CONTEXT_BYTES,
        free_bytes: 12 * GIB - CUDA_CONTEXT_BYTES,
    };
    let same = planned.step_down(&mixtral(), &hardware, &request(), measured);
    assert_eq!(same, Ok(planned));
}

#[test]
fn a_gpu_with_less_steps_down_and_says_so() {
    let hardware = with_vram(12 * GIB);
    let planned = plan(&mixtral(), &hardware, &request());
    let measured = MeasuredVram {
        context_bytes: 600_000_000,
        free_bytes: 11 * GIB,
    };
    let plan = planned
        .step_down(&mixtral(), &hardware, &request(), measured)
        .expect("fits");
    assert_sound(&mixtral(), &plan);
    let vram = plan.gpu.as_ref().expect("on the GPU");
    assert_eq!(vram.items[0].bytes, 600_000_000);
    assert_eq!(vram.free_bytes, 11 * GIB + 600_000_000);
    assert!(plan.total_gpu_slots < planned.total_gpu_slots);
    let warning = plan.warnings.last().expect("a warning");
    let expected = Warning::LessVram {
        context_bytes: 600_000_000,
        expected_context_bytes: CUDA_CONTEXT_BYTES,
        free_bytes: 11 * GIB,
        losses: vec![Loss::Experts {
            held: plan.total_gpu_slots,
            planned: planned.total_gpu_slots,
        }],
    };
    assert_eq!(*warning, expected);
}

#[test]
fn a_budget_covers_the_context_as_measured() {
    let hardware = with_vram(80 * GIB);
    let request = PlanRequest {
        vram_budget: Some(12 * GB),
        ..request()
    };
    let planned = plan(&mixtral(), &hardware, &request);
    let measured = MeasuredVram {
        context_bytes: 700_000_000,
        free_bytes: 79 * GIB,
    };
    let plan = planned
        .step_down(&mixtral(), &hardware, &request, measured)
        .expect("fits");
    assert_sound(&mixtral(), &plan);
    assert_eq!(plan.gpu.as_ref().map(|gpu| gpu.limit_bytes), Some(12 * GB));
    let fewer = planned.total_gpu_slots - plan.total_gpu_slots;
    assert!((4..=5).contains(&fewer), "300 MB are {fewer} experts");
}

#[test]
fn a_preset_that_no_longer_fits_steps_down_too() {
    let hardware = with_vram(15 * GIB);
    let request = PlanRequest {
        preset: OffloadPreset::Gpu16,
        ..request()
    };
    let planned = plan(&mixtral(), &hardware, &request);
    let measured = MeasuredVram {
        context_bytes: CUDA_CONTEXT_BYTES,
        free_bytes: 9 * GIB,
    };
    let plan = planned
        .step_down(&mixtral(), &hardware, &request, measured)
        .expect("fits");
    assert_sound(&mixtral(), &plan);
    assert_eq!(planned.total_gpu_slots, 128);
    assert!((64..128).contains(&plan.total_gpu_slots), "{plan:#?}");
    let kept = MeasuredVram {
        free_bytes: 14 * GIB,
        ..measured
    };
    let kept = planned.step_down(&mixtral(), &hardware, &request, kept);
    assert_eq!(kept.expect("fits").total_gpu_slots, 128);
}

#[test]
fn stepping_down_from_all_experts_brings_the_ram_tier_back() {
    let hardware = with_vram(21 * GIB);
    let planned = plan(&mixtral(), &hardware, &request());
    assert_eq!((planned.total_gpu_slots, planned.prefetch), (256, 0));
    let measured = MeasuredVram {
        context_bytes: CUDA_CONTEXT_BYTES,
        free_bytes: 15 * GIB,
    };
    let plan = planned
        .step_down(&mixtral(), &hardware, &request(), measured)
        .expect("fits");
    assert_sound(&mixtral(), &plan);
    assert_eq!((plan.gpu_fetch_slots, plan.prefetch), (2, 0));
    assert_eq!(plan.ram_slots, Some(256));
}

#[test]
fn a_gpu_with_next_to_nothing_left_falls_to_the_cpu() {
    let hardware = with_vram(12 * GIB);
    let planned = plan(&mixtral(), &hardware, &request());
    let measured = MeasuredVram {
        context_bytes: CUDA_CONTEXT_BYTES,
        free_bytes: GIB / 2,
    };
    let plan = planned
        .step_down(&mixtral(), &hardware, &request(), measured)
        .expect("the CPU is left");
    assert_eq!(plan.device, Placement::Cpu);
    let warning = plan.warnings.last().expect("a warning");
    assert!(
        matches!(warning, Warning::LessVram { losses, .. } if losses.contains(&Loss::Gpu)),
        "{warning:?}"
    );
}
