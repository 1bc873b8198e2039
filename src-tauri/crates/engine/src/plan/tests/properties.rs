//! What holds for every machine and every request.

use proptest::prelude::*;

use super::*;
use crate::plan::refusal::at_least;

prop_compose! {
    fn any_sizes()(
        full in any::<bool>(),
        n_layers in 1_usize..40,
        n_experts in 1_usize..16,
        top_k in 1_usize..4,
        expert_bytes in 1_000_u64..100_000_000,
        trunk_resident_bytes in 0_u64..2 * GB,
        kv_bytes_per_token in 16_u64..200_000,
        max_positions in 1_usize..100_000,
    ) -> ModelSizes {
        if full {
            return mixtral();
        }
        ModelSizes {
            n_layers,
            n_experts,
            top_k: top_k.min(n_experts),
            expert_bytes,
            trunk_file_bytes: trunk_resident_bytes,
            trunk_resident_bytes,
            kv_bytes_per_token,
            vocab: 32_000,
            hidden: 1024,
            intermediate: 3584,
            n_heads: 16,
            n_kv_heads: 4,
            head_dim: 64,
            max_positions,
        }
    }
}

prop_compose! {
    /// Budgets and free memory are drawn up to sizes around which decisions change.
    fn any_request()(
        vram_budget in prop::option::of(0_u64..30 * GB),
        ram_budget in prop::option::of(0_u64..30 * GB),
        preset in prop::sample::select(vec![OffloadPreset::Auto, OffloadPreset::Auto, OffloadPreset::Gpu12]),
        ctx in prop::option::of(1_usize..100_000),
        prefetch in prop::option::of(0_usize..=2),
        gpu_backend_available in any::<bool>(),
        eviction in prop::sample::select(vec![Eviction::Global, Eviction::Layer]),
    ) -> PlanRequest {
        PlanRequest {
            eviction,
            vram_budget,
            ram_budget,
            preset,
            ctx,
            prefetch,
            gpu_backend_available,
            ..PlanRequest::default()
        }
    }
}

proptest! {
    #[test]
    fn a_plan_stays_within_its_budgets(
        sizes in any_sizes(),
        request in any_request(),
        vram in 0_u64..30 * GB,
        ram in 0_u64..60 * GB,
    ) {
        let mut hardware = with_vram(vram);
        hardware.ram_available_bytes = ram;
        hardware.ram_total_bytes = ram + GB;
        if let Ok(plan) = make_plan(&sizes, &hardware, &request) {
            assert_sound(&sizes, &plan);
            if let (Some(budget), Some(gpu)) = (request.vram_budget, &plan.gpu) {
                prop_assert!(gpu.used_bytes <= budget);
            }
            if let (Some(budget), Placement::Cpu) = (request.ram_budget, &plan.device) {
                let slots = plan.experts_in_ram() as u64 * sizes.expert_bytes;
                let kv = plan.ctx as u64 * sizes.kv_bytes_per_token;
                prop_assert!(slots + kv <= budget, "{:#?}", plan);
            }
        }
    }

    #[test]
    fn more_vram_never_gives_fewer_experts(
        sizes in any_sizes(),
        request in any_request(),
        vram in 0_u64..30 * GB,
        more in 1_u64..10 * GB,
    ) {
        let request = PlanRequest {
            vram_budget: None,
            gpu_backend_available: true,
            ..request
        };
        let less = make_plan(&sizes, &with_vram(vram), &request);
        let more = make_plan(&sizes, &with_vram(vram + more), &request);
        if let Ok(less) = less {
            let more = more.expect("what fits in less fits in more");
            prop_assert!(more.total_gpu_slots >= less.total_gpu_slots, "{:#?}{:#?}", less, more);
        }
    }

    #[test]
    fn a_gpu_with_less_never_holds_more_and_keeps_its_budget(
        sizes in any_sizes(),
        request in any_request(),
        vram in 0_u64..30 * GB,
        context_bytes in 400_000_000_u64..900_000_000,
        free_bytes in 0_u64..30 * GB,
        less in 0_u64..5 * GB,
    ) {
        let request = PlanRequest { gpu_backend_available: true, ..request };
        let hardware = with_vram(vram);
        let Ok(planned) = make_plan(&sizes, &hardware, &request) else {
            return Ok(());
        };
        let step = |free_bytes| {
            let measured = MeasuredVram { context_bytes, free_bytes };
            planned.step_down(&sizes, &hardware, &request, measured)
        };
        let more = step(free_bytes + less);
        let Ok(plan) = step(free_bytes) else {
            return Ok(());
        };
        assert_sound(&sizes, &plan);
        let more = more.expect("what fits in less fits in more");
        prop_assert!(more.total_gpu_slots >= plan.total_gpu_slots, "{:#?}{:#?}", more, plan);
        if let Some(gpu) = &plan.gpu {
            prop_assert!(gpu.used_bytes <= request.vram_budget.unwrap_or(u64::MAX));
            prop_assert!(gpu.used_bytes <= context_bytes + free_bytes);
        }
    }

    #[test]
    fn more_ram_never_gives_fewer_experts(
        sizes in any_sizes(),
        request in any_request(),
        ram in 0_u64..60 * GB,
        more in 1_u64..10 * GB,
    ) {
        let hardware = |available| machine(without_gpu(0).gpu, 64 * GB, available);
        let less = make_plan(&sizes, &hardware(ram), &request);
        let more = make_plan(&sizes, &hardware(ram + more), &request);
        if let Ok(less) = less {
            let more = more.expect("what fits in less fits in more");
            prop_assert!(more.experts_in_ram() >= less.experts_in_ram(), "{:#?}{:#?}", less, more);
        }
    }

    #[test]
    fn a_plan_that_fits_has_a_slot_in_memory_for_every_expert(
        sizes in any_sizes(),
        request in any_request(),
        vram in 0_u64..30 * GB,
        ram in 0_u64..60 * GB,
    ) {
        let mut hardware = with_vram(vram);
        hardware.ram_available_bytes = ram;
        if let Ok(plan) = make_plan(&sizes, &hardware, &request) {
            let in_memory = plan.total_gpu_slots + plan.gpu_fetch_slots + plan.experts_in_ram();
            if plan.fits == Fit::Fits {
                prop_assert!(in_memory >= plan.total_experts(), "{:#?}", plan);
                prop_assert_eq!(plan.experts_on_disk_only(), 0);
            }
            let reads = plan.warnings.contains(&Warning::ReadsFromDisk);
            prop_assert_eq!(reads, !plan.needs_no_disk(), "{:#?}", plan);
        }
    }

    #[test]
    fn a_longer_context_never_gives_more_experts(
        sizes in any_sizes(),
        request in any_request(),
        vram in 0_u64..30 * GB,
        ctx in 1_usize..50_000,
        longer in 1_usize..50_000,
    ) {
        let with = |ctx| PlanRequest { ctx: Some(ctx), ..request.clone() };
        let short = make_plan(&sizes, &with_vram(vram), &with(ctx));
        let long = make_plan(&sizes, &with_vram(vram), &with(ctx + longer));
        if let Ok(long) = long {
            let short = short.expect("a shorter context fits where a longer one does");
            prop_assert!(short.total_gpu_slots >= long.total_gpu_slots, "{:#?}{:#?}", short, long);
            // RAM is mere transit where VRAM holds all.
            if short.device == long.device && short.total_gpu_slots < short.total_experts() {
                prop_assert!(short.experts_in_ram() >= long.experts_in_ram(), "{:#?}{:#?}", short, long);
            }
        }
    }

    #[test]
    fn force_always_plans(
        sizes in any_sizes(),
        request in any_request(),
        vram in 0_u64..30 * GB,
        ram in 0_u64..60 * GB,
    ) {
        let mut hardware = with_vram(vram);
        hardware.ram_available_bytes = ram;
        let request = PlanRequest {
            force: true,
            ctx: request.ctx.map(|ctx| ctx.min(sizes.max_positions)),
            ..request
        };
        let plan = make_plan(&sizes, &hardware, &request);
        prop_assert!(plan.is_ok(), "{:?}", plan);
    }

    #[test]
    fn advice_is_never_below_what_is_needed(low in 0_u64..1 << 60, shift in 0_u32..60) {
        let bytes = low >> shift;
        let advised = at_least(bytes);
        prop_assert!(advised >= bytes && advised - bytes <= bytes / 100 + 1);
        // What a person reads is what they type in.
        prop_assert_eq!(parse_bytes(&format_bytes(advised)), Ok(advised));
    }
}
