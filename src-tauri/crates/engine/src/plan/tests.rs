//! Tables of machines and requests.

mod properties;
mod refusals;
mod shared_gpu;
mod step_down;

use super::*;
use crate::hardware::{Cpu, Gpu, GpuProblem, GpuStatus, Hardware, KernelLimit, NoGpu, UnusableGpu};

const GIB: u64 = 1 << 30;
const GB: u64 = 1_000_000_000;

/// What a case does to the usual value.
type Change<T> = fn(&mut T);

fn mixtral() -> ModelSizes {
    ModelSizes {
        n_layers: 32,
        n_experts: 8,
        top_k: 2,
        expert_bytes: 66_700_000,
        trunk_file_bytes: 1_250_000_000,
        trunk_resident_bytes: 1_200_000_000,
        kv_bytes_per_token: ModelSizes::kv_bytes_per_token(32, 8, 128),
        vocab: 32_000,
        hidden: 4096,
        intermediate: 14_336,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 128,
        max_positions: 32_768,
    }
}

fn tiny() -> ModelSizes {
    ModelSizes {
        n_layers: 4,
        n_experts: 8,
        top_k: 2,
        expert_bytes: 60_000,
        trunk_file_bytes: 900_000,
        trunk_resident_bytes: 700_000,
        kv_bytes_per_token: ModelSizes::kv_bytes_per_token(4, 2, 16),
        vocab: 512,
        hidden: 64,
        intermediate: 224,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        max_positions: 512,
    }
}

fn gpu(total_bytes: u64, free_bytes: u64) -> Gpu {
    Gpu {
        index: 0,
        uuid: "GPU-0".to_owned(),
        name: "Test GPU".to_owned(),
        vram_total_bytes: total_bytes,
        vram_free_bytes: free_bytes,
        is_shared_with_system: false,
        compute_capability: (8, 6),
        driver_version: "550.54".to_owned(),
        problem: None,
    }
}

fn machine(gpu: GpuStatus, ram_total_bytes: u64, ram_available_bytes: u64) -> Hardware {
    Hardware {
        gpu,
        ram_total_bytes,
        ram_is_limited: false,
        ram_available_bytes,
        pinnable_ram_bytes: None,
        cpu: Cpu {
            brand: "Test CPU".to_owned(),
            physical_cores: 8,
            logical_cores: 16,
            features: Vec::new(),
        },
        disk: None,
    }
}

fn with_vram(free_bytes: u64) -> Hardware {
    let gpu = gpu(free_bytes + GIB / 4, free_bytes);
    machine(GpuStatus::Found(vec![gpu]), 32 * GIB, 28 * GIB)
}

fn without_gpu(ram_available_bytes: u64) -> Hardware {
    let reason = NoGpu::DriverNotLoaded;
    machine(
        GpuStatus::Absent { reason },
        ram_available_bytes + 2 * GB,
        ram_available_bytes,
    )
}

fn little_ram_behind(gpu: Gpu) -> Hardware {
    machine(GpuStatus::Found(vec![gpu]), 2 * GB, GB)
}

fn request() -> PlanRequest {
    PlanRequest {
        gpu_backend_available: true,
        ..PlanRequest::default()
    }
}

fn plan(sizes: &ModelSizes, hardware: &Hardware, request: &PlanRequest) -> Plan {
    make_plan(sizes, hardware, request).expect("fits")
}

fn refusal(sizes: &ModelSizes, hardware: &Hardware, request: &PlanRequest) -> PlanError {
    make_plan(sizes, hardware, request).expect_err("is refused")
}

fn shortage(sizes: &ModelSizes, hardware: &Hardware, request: &PlanRequest) -> Shortage {
    match refusal(sizes, hardware, request) {
        PlanError::TooBig(shortage) => shortage,
        error => panic!("{error}"),
    }
}

fn old_gpu() -> GpuProblem {
    GpuProblem::TooOld {
        capability: "6.1".to_owned(),
        needed: "7.5".to_owned(),
    }
}

/// A plan that fits adds up and stays within its limits.
fn assert_sound(sizes: &ModelSizes, plan: &Plan) {
    for tier in plan.gpu.iter().chain([&plan.ram]) {
        let sum: u64 = tier.items.iter().map(|item| item.bytes).sum();
        assert_eq!(sum, tier.used_bytes, "{plan:#?}");
        assert!(tier.used_bytes <= tier.limit_bytes, "{plan:#?}");
        assert!(tier.limit_bytes <= tier.free_bytes, "{plan:#?}");
        assert!(tier.items.iter().all(|item| item.bytes > 0), "{plan:#?}");
    }
    assert!((1..=sizes.max_positions).contains(&plan.ctx), "{plan:#?}");
    let by_layer: usize = (0..sizes.n_layers)
        .map(|layer| plan.gpu_slots_in_layer(layer))
        .sum();
    assert_eq!(by_layer, plan.total_gpu_slots, "{plan:#?}");
    assert!(plan.experts_in_ram() >= sizes.min_ram_slots(), "{plan:#?}");
    assert_ne!(plan.fits, Fit::TooBig, "{plan:#?}");
}

#[test]
fn auto_fills_what_free_vram_allows() {
    // Free VRAM in GiB; experts a layer, from and to; context.
    let cases = [
        (3.5, 0.3, 0.6, 8192),
        (5.6, 1.4, 1.7, 8192),
        (7.5, 2.3, 2.6, 8192),
        (11.3, 4.2, 4.5, 8192),
        (11.8, 4.5, 4.7, 8192),
        (14.7, 5.9, 6.2, 8192),
        (15.8, 6.4, 6.8, 8192),
        (18.6, 7.8, 8.0, 8192),
        (23.5, 8.0, 8.0, 32_768),
    ];
    for (free_gib, from, to, ctx) in cases {
        let free_bytes = (free_gib * GIB as f64) as u64;
        let plan = plan(&mixtral(), &with_vram(free_bytes), &request());
        assert_sound(&mixtral(), &plan);
        let per_layer = plan.experts_on_gpu_per_layer();
        assert!(
            (from..=to).contains(&per_layer),
            "{free_gib} GiB:\n{plan:#?}"
        );
        assert_eq!(plan.ctx, ctx, "{free_gib} GiB:\n{plan:#?}");
        assert_eq!(plan.fits, Fit::Fits);
    }
}

/// Small experts beside a heavy KV cache: every rule for the context takes its turn.
#[test]
fn experts_never_drop_as_vram_grows_step_by_step() {
    let sizes = ModelSizes {
        expert_bytes: 1_000_000,
        trunk_resident_bytes: 0,
        ..mixtral()
    };
    let plans: Vec<Plan> = (400..6000)
        .step_by(3)
        .filter_map(|megabytes| {
            let request = PlanRequest {
                device: Device::Cuda,
                ..request()
            };
            make_plan(&sizes, &with_vram(megabytes * 1_000_000), &request).ok()
        })
        .collect();
    assert!(plans.is_sorted_by_key(|plan| plan.total_gpu_slots));
    assert!(plans.is_sorted_by_key(|plan| plan.ctx));
    for ctx in [512, 1024, 8192, 16_384, 32_768] {
        assert!(plans.iter().any(|plan| plan.ctx == ctx), "{ctx}");
    }
    assert_eq!(plans[0].total_gpu_slots, 0);
    assert!(plans.iter().any(|p| (1..256).contains(&p.total_gpu_slots)));
}

#[test]
fn the_vram_left_over_is_less_than_an_expert() {
    let plan = plan(&mixtral(), &with_vram(12 * GIB), &request());
    let vram = plan.gpu.expect("on the GPU");
    assert!(vram.limit_bytes - vram.used_bytes < mixtral().expert_bytes);
}

#[test]
fn fractional_slots_differ_by_one_between_layers() {
    let plan = plan(&mixtral(), &with_vram(12 * GIB), &request());
    let slots: Vec<usize> = (0..32).map(|l| plan.gpu_slots_in_layer(l)).collect();
    assert!(slots.is_sorted_by(|a, b| a >= b));
    assert_eq!(slots[0] - slots[31], 1);
}

#[test]
fn presets_keep_the_experts_of_the_seed_system() {
    for (preset, free_gib, per_layer) in
        [(OffloadPreset::Gpu16, 15, 4), (OffloadPreset::Gpu12, 11, 3)]
    {
        let request = PlanRequest {
            preset,
            ..request()
        };
        let plan = plan(&mixtral(), &with_vram(free_gib * GIB), &request);
        assert_sound(&mixtral(), &plan);
        assert_eq!(plan.total_gpu_slots, per_layer * 32);
        assert!((0..32).all(|l| plan.gpu_slots_in_layer(l) == per_layer));
        assert_eq!(plan.gpu_fetch_slots, 2);
    }
    let request = PlanRequest {
        preset: OffloadPreset::Cpu,
        ..request()
    };
    let plan = plan(&mixtral(), &with_vram(15 * GIB), &request);
    assert_eq!(plan.device, Placement::Cpu);
}

#[test]
fn experts_on_gpu_overrides_a_preset_and_says_so() {
    let request = PlanRequest {
        preset: OffloadPreset::Gpu16,
        experts_on_gpu: Some(2),
        ..request()
    };
    let plan = plan(&mixtral(), &with_vram(15 * GIB), &request);
    assert_eq!(plan.total_gpu_slots, 64);
    let overridden = Reason::PresetOverridden {
        asked_per_layer: 2,
        preset_per_layer: 4,
        preset: OffloadPreset::Gpu16,
    };
    assert!(plan.reasons.contains(&overridden), "{plan:#?}");
}

#[test]
fn ram_decides_between_in_place_and_slots() {
    // Available RAM in GiB; experts in RAM (`None`: in place), from and to; fit.
    let cases = [
        (6.5, Some((48, 52)), Fit::Tight),
        (14.0, Some((150, 165)), Fit::Tight),
        (20.0, Some((235, 255)), Fit::Tight),
        (29.0, None, Fit::Fits),
        (60.0, None, Fit::Fits),
    ];
    for (available_gib, slots, fits) in cases {
        let hardware = without_gpu((available_gib * GIB as f64) as u64);
        let plan = plan(&mixtral(), &hardware, &request());
        assert_sound(&mixtral(), &plan);
        assert_eq!(plan.device, Placement::Cpu);
        assert_eq!(plan.fits, fits, "{available_gib} GiB:\n{plan:#?}");
        assert!(plan.gpu.is_none());
        match (slots, plan.ram_slots) {
            (Some((from, to)), Some(slots)) => {
                assert!(
                    (from..=to).contains(&slots),
                    "{available_gib} GiB:\n{plan:#?}"
                );
                assert_eq!(plan.prefetch, 2);
            }
            (None, None) => assert_eq!(plan.prefetch, 0),
            _ => panic!("{available_gib} GiB:\n{plan:#?}"),
        }
    }
}

#[test]
fn auto_leaves_ram_to_the_system() {
    let hardware = machine(without_gpu(0).gpu, 64 * GB, 40 * GB);
    let large = plan(&mixtral(), &hardware, &request());
    assert_eq!(large.ram.limit_bytes, 40 * GB - 64 * GB / 10);
    let hardware = machine(without_gpu(0).gpu, 8 * GB, 7 * GB);
    let small = plan(&mixtral(), &hardware, &request());
    assert_eq!(small.ram.limit_bytes, 6 * GB);
}

#[test]
fn a_ram_budget_is_for_experts_and_kv_cache_alone() {
    let sizes = mixtral();
    let request = PlanRequest {
        ram_budget: Some(5 * GB),
        ctx: Some(4096),
        ..request()
    };
    let plan = plan(&sizes, &without_gpu(28 * GIB), &request);
    let slots = plan.ram_slots.expect("in slots") as u64;
    let budgeted = slots * sizes.expert_bytes + 4096 * sizes.kv_bytes_per_token;
    assert!((5 * GB - sizes.expert_bytes..=5 * GB).contains(&budgeted));
    let on_top = plan.ram.used_bytes - budgeted;
    assert!(on_top - sizes.trunk_resident_bytes <= 600_000_000);
}

#[test]
fn a_budget_beyond_what_is_free_is_kept_to_that() {
    let request = PlanRequest {
        ram_budget: Some(100 * GB),
        vram_budget: Some(100 * GB),
        ..request()
    };
    let on_cpu = plan(&mixtral(), &without_gpu(10 * GB), &request);
    assert_sound(&mixtral(), &on_cpu);
    assert_eq!(on_cpu.ram.limit_bytes, 10 * GB);
    let on_gpu = plan(&mixtral(), &with_vram(10 * GB), &request);
    assert_sound(&mixtral(), &on_gpu);
    let needs = mixtral().cpu_needs(mixtral().max_positions);
    let on_top = needs.trunk + needs.working + PROGRAM_BYTES;
    let too_much_ram = Warning::RamBudgetOverFree {
        asked_bytes: 100 * GB + on_top,
        available_bytes: 10 * GB,
    };
    assert!(on_cpu.warnings.contains(&too_much_ram), "{on_cpu:#?}");
    let too_much_vram = Warning::VramBudgetOverFree {
        budget_bytes: 100 * GB,
        free_bytes: 10 * GB,
        reserve_bytes: 0,
    };
    assert!(on_gpu.warnings.contains(&too_much_vram), "{on_gpu:#?}");
}

#[test]
fn a_vram_budget_plays_a_smaller_gpu() {
    let request = PlanRequest {
        vram_budget: Some(8 * GIB),
        ..request()
    };
    let budgeted = plan(&mixtral(), &with_vram(24 * GIB), &request);
    let small = plan(&mixtral(), &with_vram(8 * GIB), &self::request());
    assert_eq!(budgeted.total_gpu_slots, small.total_gpu_slots);
    assert_eq!(budgeted.ctx, small.ctx);
}

#[test]
fn ram_behind_a_gpu_needs_neither_trunk_nor_kv_cache() {
    let plan = plan(&mixtral(), &with_vram(12 * GIB), &request());
    let uses: Vec<MemoryUse> = plan.ram.items.iter().map(|item| item.what).collect();
    assert_eq!(
        uses,
        [
            MemoryUse::Program,
            MemoryUse::CudaDriver,
            MemoryUse::Embeddings,
            MemoryUse::ExpertsPinned { total: 256 },
        ]
    );
    assert_eq!(plan.ram_slots, Some(256), "pinned, so in slots");
    assert!(plan.needs_no_disk());
}

#[test]
fn budgets_of_12_16_and_24_gb_hold_the_experts_they_are_meant_to() {
    // The sizes of the published checkpoint.
    let sizes = ModelSizes {
        expert_bytes: 66_407_000,
        trunk_file_bytes: 1_240_400_000,
        trunk_resident_bytes: 1_117_500_000,
        ..mixtral()
    };
    for (budget, from, to) in [(12, 4.2, 4.5), (16, 6.0, 6.4), (24, 8.0, 8.0)] {
        let request = PlanRequest {
            vram_budget: Some(budget * GB),
            ..request()
        };
        let plan = plan(&sizes, &with_vram(80 * GIB), &request);
        assert_sound(&sizes, &plan);
        let per_layer = plan.experts_on_gpu_per_layer();
        assert!((from..=to).contains(&per_layer), "{budget} GB:\n{plan:#?}");
    }
}

#[test]
fn an_output_matrix_of_8_bits_takes_the_place_of_its_own_only() {
    let (f16, q8) = (2 * 32_000 * 4096, 32_000 * 4096 / 16 * 17);
    let of = |tied| ModelSizes::trunk_resident_bytes(1_240_400_000, (32_000, 4096), tied);
    assert_eq!(of(false), 1_240_400_000 - f16 + q8);
    assert_eq!(of(true), 1_240_400_000 + q8);
}

#[test]
fn working_memory_on_a_gpu_comes_to_the_known_figure() {
    // 512 tokens: residual, norm, q and attention of 4096, k and v of 1024, angles of 128; gate
    // and up of 14336; in f16 an input of 4096 and a product of 14336.
    let rows = 512 * 4 * (4 * 4096 + 2 * 1024 + 128 + 2 * 14_336);
    let halves = 512 * 2 * (4096 + 14_336);
    let recorded = (12 * 32 + 8) * (64 << 10);
    let rest = 4 * ((4 << 20) + 8 * 32_000) + recorded;
    // Up to 2 MiB more for each buffer, since the driver maps whole pages.
    let bytes = mixtral().gpu_needs(32_768).working;
    let most = rows + halves + rest + 24 * (2 << 20);
    assert!((rows + halves + rest..most).contains(&bytes));
    assert_eq!(
        mixtral().gpu_needs(32_768).trunk,
        1_200_000_000 - 262_144_000
    );
}

#[test]
fn models_that_the_kernels_cannot_take_fall_to_the_cpu_with_the_reason() {
    let changes: [(Change<ModelSizes>, KernelLimit); 5] = [
        (
            |s| (s.n_experts, s.top_k) = (16, 9),
            KernelLimit::ExpertsPerToken { has: 9, most: 8 },
        ),
        (
            |s| s.n_experts = 257,
            KernelLimit::ExpertsPerLayer {
                has: 257,
                most: 256,
            },
        ),
        (
            |s| s.head_dim = 258,
            KernelLimit::HeadDim {
                has: 258,
                most: 256,
            },
        ),
        (|s| s.head_dim = 63, KernelLimit::OddHeadDim { has: 63 }),
        (
            |s| (s.n_heads, s.n_kv_heads) = (34, 2),
            KernelLimit::HeadsPerKeyHead { has: 17, most: 16 },
        ),
    ];
    for (change, limit) in changes {
        let mut sizes = tiny();
        change(&mut sizes);
        let fallback = plan(&sizes, &with_vram(12 * GIB), &request());
        assert_eq!(fallback.device, Placement::Cpu);
        let why = NoGpu::KernelLimit {
            gpu: "Test GPU".to_owned(),
            limit,
        };
        assert_eq!(fallback.reasons[0], Reason::NoGpu { why: why.clone() });
        let asked = PlanRequest {
            device: Device::Cuda,
            ..request()
        };
        let refused = refusal(&sizes, &with_vram(12 * GIB), &asked);
        assert_eq!(refused, PlanError::NoGpu { why });
    }
}

#[test]
fn behind_a_gpu_guesses_are_made_where_the_cpu_computes_nothing_or_the_disk_is_read() {
    let hardware = with_vram(12 * GIB);
    let asked = |misses, prefetch| PlanRequest {
        misses,
        prefetch,
        ..request()
    };
    let of = |hardware: &Hardware, misses, prefetch| {
        let plan = plan(&mixtral(), hardware, &asked(misses, prefetch));
        assert_sound(&mixtral(), &plan);
        assert_eq!(plan.gpu_fetch_slots, 2 + plan.prefetch);
        plan.prefetch
    };
    assert_eq!(of(&hardware, Misses::Auto, None), 0);
    assert_eq!(of(&hardware, Misses::Cpu, None), 0);
    assert_eq!(of(&hardware, Misses::Fetch, None), 2);
    assert_eq!(of(&hardware, Misses::Auto, Some(1)), 1);
    let little_ram = Hardware {
        ram_available_bytes: 6 * GIB,
        ..hardware.clone()
    };
    assert_eq!(of(&little_ram, Misses::Auto, None), 2);
}

/// VRAM that is free; RAM in all, and available; what VRAM and RAM hold, and the verdict.
#[test]
fn vram_and_ram_are_counted_together() {
    let cases = [
        // A Colab T4, which the system of arXiv 2312.17238 was made for.
        (15_600_000_000, 12_700_000_000, 11_600_000_000, Fit::Fits),
        // 12 GB of VRAM, 16 GB of RAM.
        (11_600_000_000, 16 * GIB, 14 * GB, Fit::Fits),
        // 8 and 16.
        (7_600_000_000, 16 * GIB, 14 * GB, Fit::Tight),
        // 16 and 32: RAM holds all.
        (15_600_000_000, 32 * GIB, 29 * GB, Fit::Fits),
    ];
    for (vram, ram_total, ram, fits) in cases {
        let gpu = gpu(vram + GIB / 4, vram);
        let hardware = machine(GpuStatus::Found(vec![gpu]), ram_total, ram);
        let plan = plan(&mixtral(), &hardware, &request());
        assert_eq!(plan.fits, fits, "{plan:#?}");
        let in_memory = plan.total_gpu_slots + plan.gpu_fetch_slots + plan.experts_in_ram();
        assert_eq!(in_memory >= 256 + 4, fits == Fit::Fits, "{plan:#?}");
        let reads_from_disk = plan.warnings.contains(&Warning::ReadsFromDisk);
        assert_eq!(reads_from_disk, fits != Fit::Fits, "{plan:#?}");
        if fits == Fit::Fits {
            assert_eq!(plan.experts_on_disk_only(), 0, "{plan:#?}");
            assert_eq!(
                plan.prefetch, 0,
                "copies would only take bandwidth from the CPU"
            );
        } else {
            assert!(plan.experts_on_disk_only() > 0, "{plan:#?}");
        }
    }
}

#[test]
fn an_eviction_policy_gets_the_slots_that_it_needs_or_the_plan_says_so() {
    let layered = PlanRequest {
        eviction: Eviction::Layer,
        ram_budget: Some(5 * GB),
        ..request()
    };
    let refused = shortage(&mixtral(), &without_gpu(20 * GB), &layered);
    assert!(
        matches!(
            refused.remedies[..],
            [Remedy::RaiseRam { .. }, Remedy::GlobalEviction]
        ),
        "{refused:?}"
    );
    let global = PlanRequest {
        eviction: Eviction::Global,
        ..layered.clone()
    };
    assert!(plan(&mixtral(), &without_gpu(20 * GB), &global).experts_in_ram() < 96);
    let enough = PlanRequest {
        ram_budget: Some(8 * GB),
        ..layered
    };
    assert!(plan(&mixtral(), &without_gpu(20 * GB), &enough).experts_in_ram() >= 96);
}

#[test]
fn with_all_experts_in_vram_ram_is_transit() {
    let hardware = machine(
        GpuStatus::Found(vec![gpu(24 * GIB, 23 * GIB)]),
        8 * GIB,
        5 * GIB,
    );
    let plan = plan(&mixtral(), &hardware, &request());
    assert_eq!(plan.total_gpu_slots, 256);
    assert_eq!(plan.gpu_fetch_slots, 0);
    assert_eq!(plan.prefetch, 0);
    assert_eq!(plan.ram_slots, Some(6));
    assert_eq!(plan.fits, Fit::Fits);
}

#[test]
fn context_is_given_as_asked_or_grows_and_shrinks_with_memory() {
    // Available RAM, context asked for, context given.
    let cases = [
        (29 * GIB, None, 32_768),
        (21 * GIB, Some(1000), 1000),
        (14 * GIB, None, 8192),
        (4 * GB, None, 8192),
        (14 * GIB, Some(16_384), 16_384),
    ];
    for (available_bytes, ctx, given) in cases {
        let request = PlanRequest { ctx, ..request() };
        let plan = plan(&mixtral(), &without_gpu(available_bytes), &request);
        assert_eq!(plan.ctx, given, "{plan:#?}");
    }
    let short = plan(&mixtral(), &without_gpu(3_200_000_000), &request());
    assert_sound(&mixtral(), &short);
    assert_eq!(short.ctx % 64, 0, "{short:#?}");
    assert!((512..8192).contains(&short.ctx), "{short:#?}");
    assert_eq!(short.ram_slots, Some(6), "{short:#?}");
    assert_eq!(short.fits, Fit::Tight);
}

#[test]
fn tiny_models_fit_anywhere_with_their_whole_context() {
    // However little is free, half of it may be taken.
    for hardware in [without_gpu(2 * GB), without_gpu(GB / 2), with_vram(GB)] {
        let plan = plan(&tiny(), &hardware, &request());
        assert_sound(&tiny(), &plan);
        assert_eq!(plan.ctx, 512);
        assert_eq!(plan.fits, Fit::Fits);
    }
    let request = PlanRequest {
        ram_budget: Some(1_000_000),
        ctx: Some(64),
        ..request()
    };
    let slots = plan(&tiny(), &without_gpu(2 * GB), &request);
    assert_eq!(slots.ram_slots, Some((1_000_000 - 64 * 512) / 60_000));
}

#[test]
fn without_cuda_the_gpu_is_named_and_left_aside() {
    let request = PlanRequest {
        experts_on_gpu: Some(4),
        vram_budget: Some(8 * GB),
        misses: Misses::Fetch,
        gpu_backend_available: false,
        ..request()
    };
    let plan = plan(&mixtral(), &with_vram(12 * GIB), &request);
    assert_eq!(plan.device, Placement::Cpu);
    assert_eq!(plan.misses, Misses::Cpu);
    let why = NoGpu::NoCuda {
        gpu: "Test GPU".to_owned(),
        free_bytes: 12 * GIB,
    };
    assert_eq!(plan.reasons[0], Reason::NoGpu { why });
    let options = vec![
        GpuOption::VramBudget,
        GpuOption::ExpertsOnGpu { per_layer: 4 },
        GpuOption::FetchMisses,
    ];
    assert_eq!(plan.warnings, [Warning::NoEffectOnCpu { options }]);
}

#[test]
fn a_gpu_that_cannot_be_used_is_explained() {
    let old = Gpu {
        problem: Some(old_gpu()),
        ..gpu(12 * GIB, 11 * GIB)
    };
    let hardware = machine(GpuStatus::Found(vec![old]), 32 * GIB, 28 * GIB);
    let fallback = plan(&mixtral(), &hardware, &request());
    let gpus = vec![UnusableGpu {
        name: "Test GPU".to_owned(),
        problem: old_gpu(),
    }];
    let why = NoGpu::Unusable { gpus };
    assert_eq!(fallback.reasons[0], Reason::NoGpu { why: why.clone() });
    let request = PlanRequest {
        device: Device::Cuda,
        ..request()
    };
    let refused = refusal(&mixtral(), &hardware, &request);
    assert_eq!(refused, PlanError::NoGpu { why });
    let absent = refusal(&mixtral(), &without_gpu(28 * GIB), &request);
    let why = NoGpu::DriverNotLoaded;
    assert_eq!(absent, PlanError::NoGpu { why });
}

#[test]
fn the_gpu_with_the_most_free_vram_is_taken() {
    let mut gpus = vec![gpu(24 * GIB, 4 * GIB), gpu(12 * GIB, 11 * GIB)];
    gpus[1].index = 1;
    gpus.push(Gpu {
        index: 2,
        problem: Some(old_gpu()),
        ..gpu(48 * GIB, 47 * GIB)
    });
    gpus.push(Gpu {
        index: 3,
        ..gpus[1].clone()
    });
    let hardware = machine(GpuStatus::Found(gpus), 32 * GIB, 28 * GIB);
    let plan = plan(&mixtral(), &hardware, &request());
    assert!(
        matches!(plan.device, Placement::Cuda { index: 1, .. }),
        "{plan:#?}"
    );
}

#[test]
fn a_gpu_too_small_for_the_trunk_is_left_aside_unless_asked_for() {
    let hardware = with_vram(GIB);
    let fallback = plan(&mixtral(), &hardware, &request());
    assert_eq!(fallback.device, Placement::Cpu);
    assert!(
        matches!(
            &fallback.reasons[0],
            Reason::GpuTooSmall { gpu, limit_bytes, .. } if gpu == "Test GPU" && *limit_bytes == GIB
        ),
        "{fallback:#?}"
    );
    let forced = PlanRequest {
        force: true,
        ..request()
    };
    assert_eq!(plan(&mixtral(), &hardware, &forced), fallback);
    let asked = PlanRequest {
        device: Device::Cuda,
        ..request()
    };
    let refused = shortage(&mixtral(), &hardware, &asked);
    assert_eq!((refused.memory, refused.limit_bytes), (Memory::Vram, GIB));
    let message = refused.to_string();
    assert!(message.contains("limit of 1.07 GB"), "{message}");
}

#[test]
fn a_context_cut_short_is_a_tight_fit() {
    let plan = plan(&mixtral(), &with_vram(2_300_000_000), &request());
    assert_sound(&mixtral(), &plan);
    assert!(plan.ctx < BASE_CTX && plan.needs_no_disk(), "{plan:#?}");
    assert_eq!(plan.fits, Fit::Tight);
}

#[test]
fn force_plans_what_does_not_fit_and_says_so() {
    let force = |change: Change<PlanRequest>| {
        let mut request = PlanRequest {
            force: true,
            ..request()
        };
        change(&mut request);
        request
    };
    let cases = [
        (without_gpu(GB), force(|_| ())),
        (without_gpu(4 * GB), force(|r| r.ctx = Some(32_768))),
        (
            with_vram(8 * GIB),
            force(|r| r.preset = OffloadPreset::Gpu16),
        ),
        (with_vram(GIB), force(|r| r.device = Device::Cuda)),
        (little_ram_behind(gpu(12 * GIB, 11 * GIB)), force(|_| ())),
    ];
    for (hardware, request) in cases {
        let plan = plan(&mixtral(), &hardware, &request);
        assert_eq!(plan.fits, Fit::TooBig, "{plan:#?}");
        let is_too_big = |warning: &Warning| matches!(warning, Warning::TooBig(_));
        assert!(plan.warnings.iter().any(is_too_big), "{plan:#?}");
        assert!(plan.experts_in_ram() >= mixtral().min_ram_slots());
        let over = |tier: &TierPlan| tier.used_bytes > tier.limit_bytes;
        assert!(over(&plan.ram) || plan.gpu.as_ref().is_some_and(over));
        assert!(request.ctx.is_none_or(|ctx| ctx == plan.ctx));
    }
}

#[test]
fn force_changes_nothing_where_all_fits() {
    let relaxed = plan(&mixtral(), &with_vram(12 * GIB), &request());
    let request = PlanRequest {
        force: true,
        ..request()
    };
    assert_eq!(plan(&mixtral(), &with_vram(12 * GIB), &request), relaxed);
}

#[test]
fn values_out_of_range_and_contradictions_are_refused() {
    let out_of_range = |option, value, min, max| PlanError::OutOfRange {
        option,
        value,
        min,
        max,
    };
    let ctx = |value| out_of_range(RangedOption::Ctx, value, 1, 32_768);
    let cases: [(Change<PlanRequest>, PlanError); 6] = [
        (|r| r.ctx = Some(0), ctx(0)),
        (|r| r.ctx = Some(32_769), ctx(32_769)),
        (
            |r| r.experts_on_gpu = Some(9),
            out_of_range(RangedOption::ExpertsOnGpu, 9, 0, 8),
        ),
        (
            |r| r.prefetch = Some(3),
            out_of_range(RangedOption::Prefetch, 3, 0, 2),
        ),
        (
            |r| {
                r.device = Device::Cpu;
                r.preset = OffloadPreset::Gpu12;
            },
            PlanError::Contradiction {
                device: Device::Cpu,
                preset: OffloadPreset::Gpu12,
            },
        ),
        (
            |r| {
                r.device = Device::Cuda;
                r.preset = OffloadPreset::Cpu;
            },
            PlanError::Contradiction {
                device: Device::Cuda,
                preset: OffloadPreset::Cpu,
            },
        ),
    ];
    for (change, error) in cases {
        let mut request = PlanRequest {
            force: true,
            ..request()
        };
        change(&mut request);
        assert_eq!(refusal(&mixtral(), &with_vram(12 * GIB), &request), error);
    }
}

#[test]
fn the_sizes_of_mixtral_come_to_the_known_figures() {
    let sizes = mixtral();
    assert_eq!(sizes.kv_bytes_per_token, 131_072);
    assert_eq!(format_bytes(sizes.file_bytes()), "18.3 GB");
    assert_eq!(format_bytes(sizes.cpu_needs(32_768).working), "156 MB");
    assert_eq!(sizes.min_ram_slots(), 6);
}

#[test]
fn sizes_of_no_model_are_refused() {
    let changes: [(Change<ModelSizes>, &str); 5] = [
        (|s| s.n_layers = 0, "n_layers is 0"),
        (|s| s.expert_bytes = 0, "expert_bytes is 0"),
        (|s| s.top_k = 9, "top_k is 9"),
        (|s| s.kv_bytes_per_token = 0, "kv_bytes_per_token is 0"),
        (|s| s.hidden = usize::MAX, "hidden is"),
    ];
    for (change, words) in changes {
        let mut sizes = mixtral();
        change(&mut sizes);
        let message = refusal(&sizes, &without_gpu(28 * GIB), &request()).to_string();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn choices_are_read_as_they_are_written() {
    for (device, name) in Device::ALL {
        assert_eq!(name.parse(), Ok(*device));
        assert_eq!(device.to_string(), *name);
        assert_eq!(serde_json::to_string(device).unwrap(), format!("{name:?}"));
    }
    for (preset, name) in OffloadPreset::ALL {
        assert_eq!(name.parse(), Ok(*preset));
    }
    for (misses, name) in Misses::ALL {
        assert_eq!(name.parse(), Ok(*misses));
    }
    let error = "gpu".parse::<Device>().expect_err("unknown").to_string();
    assert!(error.contains("choose auto, cpu or cuda"), "{error}");
}

#[test]
fn requests_are_json() {
    let partial: PlanRequest = serde_json::from_str(r#"{"preset": "gpu16"}"#).unwrap();
    assert_eq!(partial.preset, OffloadPreset::Gpu16);
    assert_eq!(partial.device, Device::Auto);
    let json = serde_json::to_value(OffloadPreset::Gpu12).unwrap();
    assert_eq!(json, "gpu12");
}
