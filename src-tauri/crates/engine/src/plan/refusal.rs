//! What does not fit: the numbers, and what would make it fit.

use crate::hardware::Gpu;

use super::pool::Pool;
use super::share::{Share, share_bytes};
use super::solve::{Notes, Planner};
use super::{Memory, PlanError, Remedy, Shortage, Warning};

impl Planner<'_> {
    /// Refuses a plan for `gpu` of which not even the `least` share fits, or lets it pass as
    /// too big if the request forces it.
    pub(super) fn vram_too_big(
        &self,
        gpu: &Gpu,
        pool: &Pool,
        least: Share,
        prefetch: usize,
        notes: &mut Notes,
    ) -> Result<(), PlanError> {
        let sizes = self.sizes;
        let needed_bytes = pool.fixed_bytes().saturating_add(share_bytes(sizes, least));
        let fewer = (0..least.experts / sizes.n_layers).rev().find(|per_layer| {
            let fewer = Share {
                experts: per_layer * sizes.n_layers,
                ..least
            };
            let pool = self.vram_pool(gpu, pool.limit_bytes, fewer.experts, prefetch);
            share_bytes(sizes, fewer) <= pool.left_bytes()
        });
        let to_take = self.vram_to_take(gpu);
        let raised = (needed_bytes <= to_take).then(|| Remedy::RaiseVram {
            bytes: at_least(needed_bytes),
        });
        let fewer = fewer.map(|per_layer| Remedy::LowerExpertsOnGpu { per_layer });
        let freed = (needed_bytes <= gpu.vram_total_bytes).then(|| Remedy::CloseGpuPrograms {
            bytes: needed_bytes.saturating_sub(to_take),
        });
        let shortage = Shortage {
            memory: Memory::Vram,
            needed_bytes,
            limit_bytes: pool.limit_bytes,
            remedies: first_two(
                [raised, self.shorter_ctx(pool, least), fewer],
                [freed, Some(Remedy::UseCpu)],
            ),
        };
        // The CPU is the better way out where it is open.
        refuse_unless(self.request.force && self.insists_on_gpu(), shortage, notes)
    }

    /// The same for RAM.
    pub(super) fn ram_too_big(
        &self,
        pool: &Pool,
        least: Share,
        notes: &mut Notes,
    ) -> Result<(), PlanError> {
        let budget_bytes = share_bytes(self.sizes, least);
        let needed_bytes = pool.fixed_bytes().saturating_add(budget_bytes);
        let raised = (needed_bytes <= pool.free_bytes).then(|| {
            let bytes = at_least(budget_bytes);
            match self.request.ram_budget {
                Some(_) => Remedy::RaiseRam { bytes },
                None => Remedy::UseRamReserve { bytes },
            }
        });
        let shared = Share {
            experts: self.sizes.min_ram_slots(),
            ..least
        };
        let shares =
            least.experts > shared.experts && share_bytes(self.sizes, shared) <= pool.left_bytes();
        let shares = shares.then_some(Remedy::GlobalEviction);
        let shortage = Shortage {
            memory: Memory::Ram,
            needed_bytes,
            limit_bytes: pool.limit_bytes,
            remedies: first_two(
                [raised, shares, self.shorter_ctx(pool, least)],
                [Some(self.more_ram(needed_bytes, pool.free_bytes))],
            ),
        };
        refuse_unless(self.request.force, shortage, notes)
    }

    /// Where this machine may find the RAM that `free_bytes` are short of `needed_bytes`.
    fn more_ram(&self, needed_bytes: u64, free_bytes: u64) -> Remedy {
        let reserve_bytes = match self.request.ram_budget {
            Some(_) => 0,
            // No more than half of what is free.
            None => self.system_reserve_bytes().min(needed_bytes),
        };
        let wanted_bytes = needed_bytes.saturating_add(reserve_bytes);
        let bytes = wanted_bytes.saturating_sub(free_bytes);
        if self.hardware.ram_is_limited {
            // Other programs of the machine have no part in it.
            Remedy::RaiseContainerLimit { bytes }
        } else if wanted_bytes > self.hardware.ram_total_bytes {
            let total_bytes = self.hardware.ram_total_bytes;
            Remedy::SmallerModel { total_bytes }
        } else {
            Remedy::ClosePrograms { bytes }
        }
    }

    /// The longest context that fits beside the fewest experts, if one was asked for and there is
    /// any.
    fn shorter_ctx(&self, pool: &Pool, least: Share) -> Option<Remedy> {
        self.request.ctx?;
        let left_bytes = pool
            .left_bytes()
            .checked_sub(self.sizes.experts_bytes(least.experts))?;
        let tokens = left_bytes / self.sizes.kv_bytes_per_token;
        (tokens > 0).then_some(Remedy::LowerCtx { tokens })
    }
}

/// Two ways out at most: whoever reads a list of them follows none. `otherwise` where there is none.
fn first_two<const N: usize, const M: usize>(
    remedies: [Option<Remedy>; N],
    otherwise: [Option<Remedy>; M],
) -> Vec<Remedy> {
    let found: Vec<Remedy> = remedies.into_iter().flatten().take(2).collect();
    match found.is_empty() {
        true => otherwise.into_iter().flatten().collect(),
        false => found,
    }
}

fn refuse_unless(forced: bool, shortage: Shortage, notes: &mut Notes) -> Result<(), PlanError> {
    if !forced {
        return Err(PlanError::TooBig(shortage));
    }
    notes.too_big = true;
    notes.warnings.push(Warning::TooBig(shortage));
    Ok(())
}

/// `bytes` rounded up to three digits, so that what is printed and typed in is enough.
pub(super) fn at_least(bytes: u64) -> u64 {
    let step = 10_u64.pow(bytes.max(1).ilog10().saturating_sub(2));
    bytes.div_ceil(step).saturating_mul(step)
}
