//! Refusals: their numbers, and ways out that work.

use super::*;

#[test]
fn refusals_name_what_would_help() {
    let gpu = |free_gib, change: Change<PlanRequest>| {
        let mut request = request();
        change(&mut request);
        shortage(&mixtral(), &with_vram(free_gib * GIB), &request)
    };
    let cpu = |available_bytes, change: Change<PlanRequest>| {
        let mut request = request();
        change(&mut request);
        shortage(&mixtral(), &without_gpu(available_bytes), &request)
    };
    let lowers_experts = |remedy: &Remedy| matches!(remedy, Remedy::LowerExpertsOnGpu { .. });
    let lowers_ctx = |remedy: &Remedy| matches!(remedy, Remedy::LowerCtx { .. });
    type Helps<'a> = &'a dyn Fn(&Remedy) -> bool;
    let cases: [(Shortage, Helps<'_>); 9] = [
        (gpu(8, |r| r.preset = OffloadPreset::Gpu16), &|remedy| {
            *remedy == Remedy::LowerExpertsOnGpu { per_layer: 3 }
        }),
        (
            gpu(16, |r| {
                r.preset = OffloadPreset::Gpu16;
                r.vram_budget = Some(8 * GB);
            }),
            &|remedy| matches!(remedy, Remedy::RaiseVram { bytes } if *bytes > 8 * GB),
        ),
        (
            gpu(4, |r| {
                r.device = Device::Cuda;
                r.ctx = Some(32_768);
            }),
            &lowers_ctx,
        ),
        (gpu(8, |r| r.experts_on_gpu = Some(8)), &lowers_experts),
        (gpu(1, |r| r.device = Device::Cuda), &|remedy| {
            *remedy == Remedy::UseCpu
        }),
        (
            cpu(GB, |_| ()),
            &|remedy| matches!(remedy, Remedy::ClosePrograms { bytes } if *bytes > GB),
        ),
        (cpu(2_900_000_000, |_| ()), &|remedy| {
            matches!(remedy, Remedy::UseRamReserve { .. })
        }),
        (cpu(5 * GB, |r| r.ctx = Some(32_768)), &lowers_ctx),
        (
            cpu(20 * GB, |r| r.ram_budget = Some(GB / 10)),
            &|remedy| matches!(remedy, Remedy::RaiseRam { bytes } if *bytes > GB / 10),
        ),
    ];
    for (shortage, helps) in cases {
        assert!(shortage.remedies.iter().any(helps), "{shortage:?}");
        assert!((1..=2).contains(&shortage.remedies.len()), "{shortage:?}");
        assert!(shortage.needed_bytes > shortage.limit_bytes, "{shortage:?}");
    }
}

#[test]
fn a_gpu_that_others_fill_is_to_be_freed_by_what_is_short() {
    let hardware = machine(
        GpuStatus::Found(vec![gpu(12 * GIB, GIB)]),
        32 * GIB,
        28 * GIB,
    );
    let request = PlanRequest {
        device: Device::Cuda,
        ..request()
    };
    let refused = shortage(&mixtral(), &hardware, &request);
    let bytes = refused.needed_bytes - GIB;
    let freed = Remedy::CloseGpuPrograms { bytes };
    assert_eq!(refused.remedies, [freed, Remedy::UseCpu]);
}

fn shortens_ctx(shortage: &Shortage) -> bool {
    let shortens = |remedy: &Remedy| matches!(remedy, Remedy::LowerCtx { .. });
    shortage.remedies.iter().any(shortens)
}

#[test]
fn a_context_in_vram_is_no_remedy_for_lack_of_ram() {
    let request = PlanRequest {
        ctx: Some(8192),
        ..request()
    };
    let hardware = little_ram_behind(gpu(12 * GIB, 11 * GIB));
    let refused = shortage(&mixtral(), &hardware, &request);
    assert_eq!(refused.memory, Memory::Ram);
    assert!(!shortens_ctx(&refused), "{refused:?}");
}

#[test]
fn no_context_at_all_is_no_remedy() {
    let request = PlanRequest {
        ram_budget: Some(6 * mixtral().expert_bytes),
        ctx: Some(100),
        ..request()
    };
    let refused = shortage(&mixtral(), &without_gpu(20 * GB), &request);
    assert!(!shortens_ctx(&refused), "{refused:?}");
}

#[test]
fn following_the_advice_of_a_refusal_helps() {
    let hardware = without_gpu(20 * GB);
    let mut request = PlanRequest {
        ram_budget: Some(2 * GB),
        ctx: Some(32_768),
        ..request()
    };
    let refused = shortage(&mixtral(), &hardware, &request);
    let [Remedy::RaiseRam { bytes }, Remedy::LowerCtx { tokens }] = refused.remedies[..] else {
        panic!("{refused:?}");
    };
    let lower = usize::try_from(tokens).unwrap();
    request.ctx = Some(lower + 1);
    shortage(&mixtral(), &hardware, &request);
    request.ctx = Some(lower);
    assert_sound(&mixtral(), &plan(&mixtral(), &hardware, &request));
    request.ctx = Some(32_768);
    request.ram_budget = Some(bytes);
    assert_sound(&mixtral(), &plan(&mixtral(), &hardware, &request));
}

/// What other programs free is not this container's; and no machine frees more than it has.
#[test]
fn programs_are_to_be_closed_only_where_that_helps() {
    let mut hardware = without_gpu(GB);
    let remedies = |hardware: &Hardware| shortage(&mixtral(), hardware, &request()).remedies;
    let [Remedy::ClosePrograms { bytes }] = remedies(&hardware)[..] else {
        panic!("{:?}", remedies(&hardware));
    };
    hardware.ram_is_limited = true;
    let raised = Remedy::RaiseContainerLimit { bytes };
    assert_eq!(remedies(&hardware), [raised]);
    hardware.ram_is_limited = false;
    hardware.ram_total_bytes = 3 * GB / 2;
    let total_bytes = hardware.ram_total_bytes;
    assert_eq!(remedies(&hardware), [Remedy::SmallerModel { total_bytes }]);
}
