//! A GPU that the system uses too: some of its VRAM stays free.

use super::*;

fn shared(total_bytes: u64, free_bytes: u64) -> Gpu {
    Gpu {
        is_shared_with_system: true,
        ..gpu(total_bytes, free_bytes)
    }
}

fn on(gpu: Gpu, request: &PlanRequest) -> Plan {
    let hardware = machine(GpuStatus::Found(vec![gpu]), 32 * GIB, 28 * GIB);
    plan(&mixtral(), &hardware, request)
}

#[test]
fn the_larger_of_half_a_gigabyte_and_four_percent_stays_free() {
    for (total_bytes, margin_bytes) in [
        (8 * GIB, 500_000_000),
        (12 * GIB, 12 * GIB / 100 * 4),
        (24 * GIB, 24 * GIB / 100 * 4),
    ] {
        let free_bytes = total_bytes - GIB;
        let given = on(shared(total_bytes, free_bytes), &request());
        let vram = given.gpu.as_ref().expect("a GPU");
        assert_eq!(vram.limit_bytes, free_bytes - margin_bytes, "{given:#?}");
        assert!(vram.used_bytes <= vram.limit_bytes, "{given:#?}");
        let reserve = Reason::VramReserve {
            bytes: margin_bytes,
        };
        assert!(given.reasons.contains(&reserve), "{given:#?}");

        let alone = on(gpu(total_bytes, free_bytes), &request());
        let vram = alone.gpu.as_ref().expect("a GPU");
        assert_eq!(vram.limit_bytes, free_bytes, "{alone:#?}");
        let all = alone.total_gpu_slots == alone.total_experts();
        assert!(all || alone.total_gpu_slots > given.total_gpu_slots);
    }
}

#[test]
fn a_budget_does_not_reach_into_the_margin() {
    let budget = |bytes| PlanRequest {
        vram_budget: Some(bytes),
        ..request()
    };
    let small = on(shared(12 * GIB, 11 * GIB), &budget(8 * GIB));
    assert_eq!(small.gpu.expect("a GPU").limit_bytes, 8 * GIB);
    assert!(small.warnings.is_empty(), "{:?}", small.warnings);
    let large = on(shared(8 * GIB, 7 * GIB), &budget(7 * GIB));
    let vram = large.gpu.as_ref().expect("a GPU");
    assert_eq!(vram.limit_bytes, 7 * GIB - 500_000_000);
    let warning = Warning::VramBudgetOverFree {
        budget_bytes: 7 * GIB,
        free_bytes: 7 * GIB - 500_000_000,
        reserve_bytes: 500_000_000,
    };
    assert!(large.warnings.contains(&warning), "{:?}", large.warnings);
}

#[test]
fn what_is_measured_later_leaves_the_margin_too() {
    let hardware = machine(
        GpuStatus::Found(vec![shared(12 * GIB, 11 * GIB)]),
        32 * GIB,
        28 * GIB,
    );
    let planned = plan(&mixtral(), &hardware, &request());
    let measured = MeasuredVram {
        context_bytes: GIB / 2,
        free_bytes: 9 * GIB,
    };
    let stepped = planned
        .step_down(&mixtral(), &hardware, &request(), measured)
        .expect("a plan");
    let margin_bytes = 12 * GIB / 100 * 4;
    let vram = stepped.gpu.expect("a GPU");
    assert_eq!(vram.limit_bytes, GIB / 2 + 9 * GIB - margin_bytes);
}

#[test]
fn the_gpu_that_leaves_more_to_take_is_taken() {
    let mut other = gpu(12 * GIB, 11 * GIB - GIB / 4);
    other.index = 1;
    let hardware = machine(
        GpuStatus::Found(vec![shared(12 * GIB, 11 * GIB), other]),
        32 * GIB,
        28 * GIB,
    );
    let plan = plan(&mixtral(), &hardware, &request());
    assert!(
        matches!(plan.device, Placement::Cuda { index: 1, .. }),
        "{plan:#?}"
    );
}

#[test]
fn no_more_experts_are_pinned_than_the_system_grants() {
    let on = |hardware: &Hardware, pinned_ram| {
        let request = PlanRequest {
            pinned_ram,
            ..request()
        };
        plan(&mixtral(), hardware, &request)
    };
    let said = |plan: &Plan| {
        let is_limit = |reason: &Reason| matches!(reason, Reason::PinLimit { .. });
        plan.reasons.iter().any(is_limit)
    };
    let linux = with_vram(12 * GIB);
    let all = on(&linux, None);
    let slots = all.ram_slots.expect("slots");
    assert_eq!(all.pinned_slots, slots, "{all:#?}");
    assert!(!said(&all), "{all:#?}");
    let windows = Hardware {
        pinnable_ram_bytes: Some(8 * GIB),
        ..linux.clone()
    };
    let half = on(&windows, None);
    assert_eq!(half.pinned_slots, 128, "{half:#?}");
    assert!(said(&half), "{half:#?}");
    assert_eq!(half.ram_slots, Some(slots), "{half:#?}");
    // What is asked for counts more.
    assert_eq!(on(&windows, Some(GIB)).pinned_slots, 16);
    assert_eq!(on(&linux, Some(0)).pinned_slots, 0);
}
