//! From request to plan: the device, then VRAM, then RAM.

use crate::hardware::{Gpu, GpuProblem, GpuStatus, Hardware, NoGpu, UnusableGpu};

use super::pool::{Pool, item, sum};
use super::request::{Device, Misses, ModelSizes, OffloadPreset, PlanRequest};
use super::share::{Bounds, Share, base_ctx, least, share, share_bytes};
use super::{
    CUDA_CONTEXT_BYTES, CUDA_HOST_BYTES, Fit, GpuOption, Memory, MemoryUse, PROGRAM_BYTES,
    Placement, Plan, PlanError, PlanItem, RangedOption, Reason, Shortage, TierPlan, Warning,
};

/// The most experts of the next layer that may be fetched ahead.
const MAX_PREFETCH: usize = 2;

/// Left to the system where no RAM budget is given: the larger of this and a tenth of the RAM.
const MIN_SYSTEM_RESERVE_BYTES: u64 = 1_000_000_000;

/// Plans the memory of a model of these `sizes` on this `hardware`.
///
/// With [`Device::Auto`] the plan falls to the CPU where no GPU can be used, and says so in
/// [`Plan::reasons`]; options that only concern a GPU then have no effect, and
/// [`Plan::warnings`] says that. [`Device::Cuda`] never falls back.
///
/// # Errors
/// [`PlanError`] for values out of range or in contradiction, for a GPU asked for that is not
/// there, and for what does not fit, with the numbers and with what would make it fit. The last
/// kind turns into a plan marked [`Fit::TooBig`] under [`PlanRequest::force`].
pub fn make_plan(
    sizes: &ModelSizes,
    hardware: &Hardware,
    request: &PlanRequest,
) -> Result<Plan, PlanError> {
    sizes.check()?;
    check_request(sizes, request)?;
    let planner = Planner {
        sizes,
        hardware,
        request,
    };
    match choose_device(sizes, hardware, request)? {
        Choice::Cpu { reason } => planner.on_cpu(reason),
        Choice::Gpu(gpu) => match planner.on_gpu(gpu) {
            Err(PlanError::TooBig(Shortage {
                memory: Memory::Vram,
                needed_bytes,
                limit_bytes,
                ..
            })) if !planner.insists_on_gpu() => planner.on_cpu(Reason::GpuTooSmall {
                gpu: gpu.name.clone(),
                needed_bytes,
                limit_bytes,
            }),
            outcome => outcome,
        },
    }
}

fn check_request(sizes: &ModelSizes, request: &PlanRequest) -> Result<(), PlanError> {
    let ranges = [
        (RangedOption::Ctx, request.ctx, 1, sizes.max_positions),
        (
            RangedOption::ExpertsOnGpu,
            request.experts_on_gpu,
            0,
            sizes.n_experts,
        ),
        (RangedOption::Prefetch, request.prefetch, 0, MAX_PREFETCH),
    ];
    for (option, value, min, max) in ranges {
        if let Some(value) = value.filter(|value| !(min..=max).contains(value)) {
            return Err(PlanError::OutOfRange {
                option,
                value,
                min,
                max,
            });
        }
    }
    let excluded = match request.device {
        Device::Cpu => request.preset.offload_per_layer().is_some(),
        Device::Cuda => request.preset == OffloadPreset::Cpu,
        Device::Auto => false,
    };
    if excluded {
        return Err(PlanError::Contradiction {
            device: request.device,
            preset: request.preset,
        });
    }
    Ok(())
}

enum Choice<'a> {
    Cpu { reason: Reason },
    Gpu(&'a Gpu),
}

fn choose_device<'a>(
    sizes: &ModelSizes,
    hardware: &'a Hardware,
    request: &PlanRequest,
) -> Result<Choice<'a>, PlanError> {
    if request.device == Device::Cpu || request.preset == OffloadPreset::Cpu {
        return Ok(Choice::Cpu {
            reason: Reason::CpuAsked,
        });
    }
    let gpu = hardware.gpu.best();
    let why = match (gpu, sizes.gpu_problem()) {
        (Some(gpu), Some(limit)) => NoGpu::KernelLimit {
            gpu: gpu.name.clone(),
            limit,
        },
        (Some(gpu), None) if request.gpu_backend_available => return Ok(Choice::Gpu(gpu)),
        (Some(gpu), None) => NoGpu::NoCuda {
            gpu: gpu.name.clone(),
            free_bytes: gpu.vram_free_bytes,
        },
        (None, _) => why_no_gpu(&hardware.gpu),
    };
    if request.device == Device::Cuda {
        return Err(PlanError::NoGpu { why });
    }
    Ok(Choice::Cpu {
        reason: Reason::NoGpu { why },
    })
}

/// `status` has no GPU that can be used.
fn why_no_gpu(status: &GpuStatus) -> NoGpu {
    let unusable = |gpu: &Gpu| UnusableGpu {
        name: gpu.name.clone(),
        problem: gpu.problem.clone().unwrap_or(GpuProblem::NotListed),
    };
    match status {
        GpuStatus::Absent { reason } => reason.clone(),
        GpuStatus::Found(gpus) => NoGpu::Unusable {
            gpus: gpus.iter().map(unusable).collect(),
        },
    }
}

/// Makes one plan.
pub(super) struct Planner<'a> {
    pub sizes: &'a ModelSizes,
    pub hardware: &'a Hardware,
    pub request: &'a PlanRequest,
}

/// Notes for people, gathered on the way.
#[derive(Default)]
pub(super) struct Notes {
    pub reasons: Vec<Reason>,
    pub warnings: Vec<Warning>,
    pub too_big: bool,
}

impl Planner<'_> {
    fn on_cpu(&self, reason: Reason) -> Result<Plan, PlanError> {
        let mut notes = Notes {
            reasons: vec![reason],
            ..Notes::default()
        };
        self.warn_of_gpu_options(&mut notes);
        let sizes = self.sizes;
        let needs = sizes.cpu_needs(sizes.max_positions);
        let pool = self.ram_pool(
            vec![
                item(MemoryUse::Trunk, needs.trunk),
                item(MemoryUse::WorkingBuffers, needs.working),
                item(MemoryUse::Program, PROGRAM_BYTES),
            ],
            &mut notes,
        );
        let bounds = Bounds {
            min_experts: self.min_ram_slots(),
            max_experts: sizes.total_experts(),
        };
        let given = match share(sizes, pool.left_bytes(), self.request.ctx, bounds) {
            Some(given) => given,
            None => {
                let least = least(sizes, self.request.ctx, bounds);
                self.ram_too_big(&pool, least, &mut notes)?;
                least
            }
        };
        self.note_ctx(given.ctx, pool.limit_bytes, Memory::Ram, &mut notes);
        let all = given.experts == sizes.total_experts();
        let ram_slots = (!all).then_some(given.experts);
        self.note_ram_experts(given.experts, false, &mut notes);
        let ram = pool.tier([
            self.kv_item(given.ctx),
            self.ram_experts_item(given.experts, false),
        ]);
        let layout = Layout {
            device: Placement::Cpu,
            ctx: given.ctx,
            total_gpu_slots: 0,
            gpu_fetch_slots: 0,
            ram_slots,
            pinned_slots: 0,
            misses: Misses::Cpu,
            prefetch: self.prefetch(given.experts, MAX_PREFETCH),
            gpu: None,
            ram,
        };
        Ok(self.finish(layout, notes))
    }

    fn on_gpu(&self, gpu: &Gpu) -> Result<Plan, PlanError> {
        let mut notes = Notes::default();
        notes.reasons.push(Reason::Gpu {
            index: gpu.index,
            name: gpu.name.clone(),
            free_bytes: gpu.vram_free_bytes,
            total_bytes: gpu.vram_total_bytes,
        });
        let (pool, given, prefetch) = self.share_vram(gpu, &mut notes)?;
        let gpu_fetch_slots = self.fetch_slots(given.experts, prefetch);
        self.note_ctx(given.ctx, pool.limit_bytes, Memory::Vram, &mut notes);
        let vram = pool.tier([
            self.kv_item(given.ctx),
            item(
                MemoryUse::SomeExperts {
                    held: given.experts,
                    total: self.sizes.total_experts(),
                },
                self.sizes.experts_bytes(given.experts),
            ),
        ]);
        let (ram, ram_slots) = self.ram_behind_gpu([given.experts, gpu_fetch_slots], &mut notes)?;
        let layout = Layout {
            device: Placement::Cuda {
                index: gpu.index,
                uuid: gpu.uuid.clone(),
                name: gpu.name.clone(),
            },
            ctx: given.ctx,
            total_gpu_slots: given.experts,
            gpu_fetch_slots,
            ram_slots,
            pinned_slots: self.pinned_slots(ram_slots, &mut notes),
            misses: self.request.misses,
            prefetch,
            gpu: Some(vram),
            ram,
        };
        Ok(self.finish(layout, notes))
    }

    /// What VRAM gives, how it is shared out, and how many experts are fetched ahead.
    fn share_vram(&self, gpu: &Gpu, notes: &mut Notes) -> Result<(Pool, Share, usize), PlanError> {
        let (sizes, ctx) = (self.sizes, self.request.ctx);
        let limit_bytes = self.vram_limit(gpu, notes);
        let wanted = self.wanted_per_layer(notes);
        let share_with = |prefetch| {
            let bounds = self.vram_bounds(gpu, limit_bytes, wanted, prefetch);
            let pool = self.vram_pool(gpu, limit_bytes, bounds.max_experts, prefetch);
            let given = share(sizes, pool.left_bytes(), ctx, bounds);
            (bounds, pool, given)
        };
        let ahead_of = |given: &Option<Share>| self.gpu_prefetch(given.map_or(0, |it| it.experts));
        // Buffers to fetch ahead are expert slots too: both shares put as many experts in VRAM.
        let first = share_with(self.request.prefetch.unwrap_or(0));
        let prefetch = ahead_of(&first.2);
        let (bounds, pool, given) = match prefetch == self.request.prefetch.unwrap_or(0) {
            true => first,
            false => share_with(prefetch),
        };
        let given = match given {
            Some(given) => given,
            None => {
                let least = least(sizes, ctx, bounds);
                self.vram_too_big(gpu, &pool, least, prefetch, notes)?;
                least
            }
        };
        let prefetch = self.prefetch(given.experts, prefetch);
        let (experts, total) = (given.experts, sizes.total_experts());
        let per_layer = experts as f64 / sizes.n_layers as f64;
        let reason = if wanted.is_some_and(|n| n * sizes.n_layers == experts) {
            Reason::GpuExpertsAsked {
                experts,
                total,
                per_layer,
            }
        } else if experts == total {
            Reason::GpuExpertsAll { total }
        } else {
            Reason::GpuExpertsRest {
                experts,
                total,
                per_layer,
                limit_bytes,
            }
        };
        notes.reasons.push(reason);
        Ok((pool, given, prefetch))
    }

    /// How many experts VRAM may hold: what is wanted, or all, or any number short of all.
    ///
    /// All of them need no fetch buffers, so whether they fit is asked first; the context is
    /// not cut for it.
    fn vram_bounds(
        &self,
        gpu: &Gpu,
        limit_bytes: u64,
        wanted: Option<usize>,
        prefetch: usize,
    ) -> Bounds {
        let sizes = self.sizes;
        let total = sizes.total_experts();
        let most = wanted.map_or(total, |per_layer| per_layer * sizes.n_layers);
        // What was asked for is given or refused, until the GPU turns out to have less.
        if wanted.is_some() && self.request.measured_vram.is_none() {
            return Bounds::exactly(most);
        }
        let all = Share {
            ctx: self.request.ctx.unwrap_or(base_ctx(sizes)),
            experts: total,
        };
        let pool = self.vram_pool(gpu, limit_bytes, total, prefetch);
        if most == total && share_bytes(sizes, all) <= pool.left_bytes() {
            return Bounds::exactly(total);
        }
        Bounds {
            min_experts: 0,
            max_experts: most.min(total - 1),
        }
    }

    /// Whether the request leaves no other way than the GPU, once there is one.
    pub(super) fn insists_on_gpu(&self) -> bool {
        self.request.device == Device::Cuda
            || self.request.preset != OffloadPreset::Auto
            || self.request.experts_on_gpu.is_some()
    }

    /// Experts a layer in VRAM, where the request says so.
    fn wanted_per_layer(&self, notes: &mut Notes) -> Option<usize> {
        let of_preset = self
            .request
            .preset
            .offload_per_layer()
            .map(|off| self.sizes.n_experts.saturating_sub(off));
        match (self.request.experts_on_gpu, of_preset) {
            (Some(wanted), Some(of_preset)) if wanted != of_preset => {
                notes.reasons.push(Reason::PresetOverridden {
                    asked_per_layer: wanted,
                    preset_per_layer: of_preset,
                    preset: self.request.preset,
                });
                Some(wanted)
            }
            (wanted, preset) => wanted.or(preset),
        }
    }

    /// What the program may take of VRAM in all.
    fn vram_limit(&self, gpu: &Gpu, notes: &mut Notes) -> u64 {
        let (to_take, margin_bytes) = (self.vram_to_take(gpu), gpu.margin_bytes());
        match self.request.vram_budget {
            Some(budget) if budget > to_take => {
                notes.warnings.push(Warning::VramBudgetOverFree {
                    budget_bytes: budget,
                    free_bytes: to_take,
                    reserve_bytes: margin_bytes,
                });
                to_take
            }
            Some(budget) => budget,
            None => {
                if margin_bytes > 0 {
                    notes.reasons.push(Reason::VramReserve {
                        bytes: margin_bytes,
                    });
                }
                to_take
            }
        }
    }

    /// VRAM that is free beside the margin of the system.
    pub(super) fn vram_to_take(&self, gpu: &Gpu) -> u64 {
        self.vram_free_bytes(gpu).saturating_sub(gpu.margin_bytes())
    }

    /// VRAM that is free, or was before this program's own context took its part.
    fn vram_free_bytes(&self, gpu: &Gpu) -> u64 {
        match self.request.measured_vram {
            Some(measured) => measured.context_bytes.saturating_add(measured.free_bytes),
            None => gpu.vram_free_bytes,
        }
    }

    pub(super) fn vram_pool(
        &self,
        gpu: &Gpu,
        limit_bytes: u64,
        max_experts: usize,
        prefetch: usize,
    ) -> Pool {
        let sizes = self.sizes;
        let needs = sizes.gpu_needs(sizes.max_positions);
        let measured = self.request.measured_vram;
        let context_bytes = measured.map_or(CUDA_CONTEXT_BYTES, |vram| vram.context_bytes);
        Pool {
            limit_bytes,
            free_bytes: self.vram_free_bytes(gpu),
            fixed: vec![
                item(MemoryUse::CudaContext, context_bytes),
                item(MemoryUse::TrunkWithoutEmbeddings, needs.trunk),
                item(MemoryUse::WorkingBuffers, needs.working),
                item(
                    MemoryUse::FetchBuffers,
                    sizes.experts_bytes(self.fetch_slots(max_experts, prefetch)),
                ),
            ],
        }
    }

    /// RAM beside a GPU: a tier of experts behind VRAM, or mere transit if VRAM holds all.
    fn ram_behind_gpu(
        &self,
        [gpu_experts, fetch_slots]: [usize; 2],
        notes: &mut Notes,
    ) -> Result<(TierPlan, Option<usize>), PlanError> {
        let sizes = self.sizes;
        let pool = self.ram_pool_behind_gpu(notes);
        let min_slots = match gpu_experts == sizes.total_experts() {
            true => sizes.min_ram_slots(),
            false => self.min_ram_slots(),
        };
        let affordable = self.ram_slots(&pool);
        if affordable < min_slots {
            let least = Share {
                ctx: 0,
                experts: min_slots,
            };
            self.ram_too_big(&pool, least, notes)?;
        }
        if gpu_experts == sizes.total_experts() {
            let transit = item(MemoryUse::TransitBuffers, sizes.experts_bytes(min_slots));
            return Ok((pool.tier([transit]), Some(min_slots)));
        }
        let slots = affordable.max(min_slots);
        let on_gpu = gpu_experts + fetch_slots;
        if slots < sizes.total_experts() && self.keeps_all_in_memory([slots, on_gpu]) {
            let total = sizes.total_experts();
            notes.reasons.push(Reason::AllInVramAndRam {
                total,
                on_gpu,
                in_ram: slots,
                in_ram_bytes: sizes.experts_bytes(slots),
            });
        } else {
            self.note_ram_experts(slots, true, notes);
        }
        let experts = self.ram_experts_item(slots, true);
        Ok((pool.tier([experts]), Some(slots)))
    }

    /// Whether that many slots in RAM and VRAM keep every expert in memory.
    fn keeps_all_in_memory(&self, slots: [usize; 2]) -> bool {
        let sizes = self.sizes;
        let eviction = self.request.eviction;
        eviction.keeps_all_in_memory(sizes.n_layers, sizes.n_experts, sizes.top_k, slots)
    }

    /// The fewest expert slots in RAM that work under the request's eviction policy.
    pub(super) fn min_ram_slots(&self) -> usize {
        let sizes = self.sizes;
        let least = self
            .request
            .eviction
            .least_ram_slots(sizes.n_layers, sizes.top_k);
        least.max(sizes.min_ram_slots()).min(sizes.total_experts())
    }

    /// How many of the slots in RAM are pinned: a driver that is asked for more than its system
    /// grants refuses late, or takes it from other programs.
    fn pinned_slots(&self, ram_slots: Option<usize>, notes: &mut Notes) -> usize {
        let slots = ram_slots.unwrap_or(self.sizes.total_experts());
        let limit = self.request.pinned_ram.or(self.hardware.pinnable_ram_bytes);
        let Some(limit_bytes) = limit else {
            return slots;
        };
        let pinned = limit_bytes / self.sizes.expert_bytes;
        let pinned = usize::try_from(pinned).map_or(slots, |pinned| pinned.min(slots));
        if pinned < slots {
            notes.reasons.push(Reason::PinLimit {
                pinned,
                in_ram: slots,
                limit_bytes,
            });
        }
        pinned
    }

    fn ram_pool_behind_gpu(&self, notes: &mut Notes) -> Pool {
        let fixed = vec![
            item(MemoryUse::Program, PROGRAM_BYTES),
            item(MemoryUse::CudaDriver, CUDA_HOST_BYTES),
            item(MemoryUse::Embeddings, self.sizes.embedding_bytes()),
        ];
        self.ram_pool(fixed, notes)
    }

    /// Experts that `pool` has room for.
    fn ram_slots(&self, pool: &Pool) -> usize {
        let total = self.sizes.total_experts();
        usize::try_from(pool.left_bytes() / self.sizes.expert_bytes).map_or(total, |n| n.min(total))
    }

    fn ram_pool(&self, fixed: Vec<PlanItem>, notes: &mut Notes) -> Pool {
        let available_bytes = self.hardware.ram_available_bytes;
        let limit_bytes = match self.request.ram_budget {
            Some(budget) => {
                let asked_bytes = budget.saturating_add(sum(&fixed));
                if asked_bytes > available_bytes {
                    notes.warnings.push(Warning::RamBudgetOverFree {
                        asked_bytes,
                        available_bytes,
                    });
                }
                asked_bytes.min(available_bytes)
            }
            None => {
                // A small model fits beside a full system, too.
                let reserve_bytes = self.system_reserve_bytes().min(available_bytes / 2);
                notes.reasons.push(Reason::RamReserve {
                    bytes: reserve_bytes,
                    available_bytes,
                });
                available_bytes - reserve_bytes
            }
        };
        Pool {
            limit_bytes,
            free_bytes: available_bytes,
            fixed,
        }
    }

    /// Left to the system where as much is available.
    pub(super) fn system_reserve_bytes(&self) -> u64 {
        MIN_SYSTEM_RESERVE_BYTES.max(self.hardware.ram_total_bytes / 10)
    }

    fn note_ram_experts(&self, experts: usize, for_gpu: bool, notes: &mut Notes) {
        let sizes = self.sizes;
        let total = sizes.total_experts();
        let (bytes, total_bytes) = (sizes.experts_bytes(experts), sizes.experts_bytes(total));
        if experts == total {
            notes.reasons.push(Reason::AllInRam {
                total,
                bytes,
                for_gpu,
            });
            return;
        }
        notes.reasons.push(Reason::SomeInRam {
            experts,
            bytes,
            total,
            total_bytes,
        });
        notes.warnings.push(Warning::ReadsFromDisk);
    }

    fn note_ctx(&self, tokens: usize, limit_bytes: u64, memory: Memory, notes: &mut Notes) {
        let default_tokens = base_ctx(self.sizes);
        let kv_bytes = self.sizes.kv_bytes(tokens);
        notes.reasons.push(match self.request.ctx {
            Some(_) => Reason::ContextAsked { tokens, kv_bytes },
            None if tokens > default_tokens => Reason::ContextGrown {
                tokens,
                kv_bytes,
                memory,
            },
            None if tokens < default_tokens => Reason::ContextCut {
                tokens,
                kv_bytes,
                default_tokens,
                memory,
                limit_bytes,
            },
            None => Reason::ContextDefault { tokens, kv_bytes },
        });
    }

    fn warn_of_gpu_options(&self, notes: &mut Notes) {
        let request = self.request;
        let preset = request.preset;
        let given = [
            (preset.offload_per_layer()).map(|_| GpuOption::Preset { preset }),
            request.vram_budget.map(|_| GpuOption::VramBudget),
            (request.experts_on_gpu).map(|per_layer| GpuOption::ExpertsOnGpu { per_layer }),
            (request.misses == Misses::Fetch).then_some(GpuOption::FetchMisses),
        ];
        let options: Vec<GpuOption> = given.into_iter().flatten().collect();
        if !options.is_empty() {
            notes.warnings.push(Warning::NoEffectOnCpu { options });
        }
    }

    /// `experts` is the number that the fastest tier holds; `automatic` is taken where none was
    /// asked for.
    fn prefetch(&self, experts: usize, automatic: usize) -> usize {
        if experts == self.sizes.total_experts() {
            return 0;
        }
        self.request.prefetch.unwrap_or(automatic)
    }

    /// Where the CPU may compute what it finds in RAM, guesses do not pay: their copies take
    /// memory bandwidth from it, and slots from experts that are used more often. On an H100 with
    /// a budget of 12 GB, 128 tokens: 44.1 tokens/s without and 37.5 with two of them (46.2 and
    /// 44.7 with routing reuse 0.5).
    ///
    /// `experts` is what VRAM holds beside buffers to fetch the missing ones.
    fn gpu_prefetch(&self, experts: usize) -> usize {
        let from_disk = || {
            let pool = self.ram_pool_behind_gpu(&mut Notes::default());
            let on_gpu = experts + self.fetch_slots(experts, 0);
            !self.keeps_all_in_memory([self.ram_slots(&pool), on_gpu])
        };
        let pays = self.request.misses == Misses::Fetch || from_disk();
        self.prefetch(experts, if pays { MAX_PREFETCH } else { 0 })
    }

    fn fetch_slots(&self, gpu_experts: usize, prefetch: usize) -> usize {
        if gpu_experts == self.sizes.total_experts() {
            return 0;
        }
        self.sizes.top_k + prefetch
    }

    fn kv_item(&self, ctx: usize) -> PlanItem {
        item(MemoryUse::KvCache { tokens: ctx }, self.sizes.kv_bytes(ctx))
    }

    fn ram_experts_item(&self, held: usize, is_pinned: bool) -> PlanItem {
        let total = self.sizes.total_experts();
        let what = match (held == total, is_pinned) {
            (false, _) => MemoryUse::SomeExperts { held, total },
            (true, false) => MemoryUse::ExpertsInPlace { total },
            (true, true) => MemoryUse::ExpertsPinned { total },
        };
        item(what, self.sizes.experts_bytes(held))
    }

    fn finish(&self, layout: Layout, notes: Notes) -> Plan {
        let mut plan = Plan {
            device: layout.device,
            ctx: layout.ctx,
            n_layers: self.sizes.n_layers,
            n_experts: self.sizes.n_experts,
            top_k: self.sizes.top_k,
            eviction: self.request.eviction,
            total_gpu_slots: layout.total_gpu_slots,
            gpu_fetch_slots: layout.gpu_fetch_slots,
            ram_slots: layout.ram_slots,
            pinned_slots: layout.pinned_slots,
            misses: layout.misses,
            prefetch: layout.prefetch,
            gpu: layout.gpu,
            ram: layout.ram,
            fits: Fit::Fits,
            reasons: notes.reasons,
            warnings: notes.warnings,
        };
        let ctx_was_cut = self.request.ctx.is_none() && plan.ctx < base_ctx(self.sizes);
        if notes.too_big {
            plan.fits = Fit::TooBig;
        } else if ctx_was_cut || !plan.needs_no_disk() {
            plan.fits = Fit::Tight;
        }
        plan
    }
}

/// A plan's decisions before its verdict.
struct Layout {
    device: Placement,
    ctx: usize,
    total_gpu_slots: usize,
    gpu_fetch_slots: usize,
    ram_slots: Option<usize>,
    pinned_slots: usize,
    misses: Misses,
    prefetch: usize,
    gpu: Option<TierPlan>,
    ram: TierPlan,
}
