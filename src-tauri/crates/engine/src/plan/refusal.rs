//! What does not fit: the numbers, and what would make it fit.

use crate::hardware::Gpu;

use super::pool::Pool;
use super::share::{Share, share_bytes};
use super::solve::{Notes, Planner};
use super::{Memory, PlanError, format_bytes};

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
        let raised = (needed_bytes <= self.vram_to_take(gpu))
            .then(|| format!("raise --vram to {}", at_least(needed_bytes)));
        let remedies = [
            raised,
            self.shorter_ctx(pool, least),
            fewer.map(|n| format!("lower --experts-on-gpu to {n}")),
        ];
        let error = PlanError::TooBig {
            memory: Memory::Vram,
            needed_bytes,
            limit_bytes: pool.limit_bytes,
            remedy: first_two(remedies, || {
                if needed_bytes <= gpu.vram_total_bytes {
                    "close other programs that use the GPU, or use --device cpu".to_owned()
                } else {
                    "use --device cpu".to_owned()
                }
            }),
        };
        // The CPU is the better way out where it is open.
        refuse_unless(self.request.force && self.insists_on_gpu(), error, notes)
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
        let raised = (needed_bytes <= pool.free_bytes).then(|| match self.request.ram_budget {
            Some(_) => format!("raise --ram to {}", at_least(budget_bytes)),
            None => format!(
                "give --ram {} to use what is kept for the system",
                at_least(budget_bytes)
            ),
        });
        let shared = Share {
            experts: self.sizes.min_ram_slots(),
            ..least
        };
        let shares =
            least.experts > shared.experts && share_bytes(self.sizes, shared) <= pool.left_bytes();
        let shares = shares.then(|| "use --eviction global".to_owned());
        let error = PlanError::TooBig {
            memory: Memory::Ram,
            needed_bytes,
            limit_bytes: pool.limit_bytes,
            remedy: first_two([raised, shares, self.shorter_ctx(pool, least)], || {
                self.more_ram(needed_bytes, pool.free_bytes)
            }),
        };
        refuse_unless(self.request.force, error, notes)
    }

    /// Where this machine may find the RAM that `free_bytes` are short of `needed_bytes`.
    fn more_ram(&self, needed_bytes: u64, free_bytes: u64) -> String {
        let reserve_bytes = match self.request.ram_budget {
            Some(_) => 0,
            // No more than half of what is free.
            None => self.system_reserve_bytes().min(needed_bytes),
        };
        let wanted_bytes = needed_bytes.saturating_add(reserve_bytes);
        let short = format_bytes(wanted_bytes.saturating_sub(free_bytes));
        if self.hardware.ram_is_limited {
            // Other programs of the machine have no part in it.
            format!("raise the memory limit of this container or service by {short}")
        } else if wanted_bytes > self.hardware.ram_total_bytes {
            let total = format_bytes(self.hardware.ram_total_bytes);
            format!("choose a smaller model (this machine has {total} in all)")
        } else {
            format!("close other programs to free {short}")
        }
    }

    /// The longest context that fits beside the fewest experts, if one was asked for and there is
    /// any.
    fn shorter_ctx(&self, pool: &Pool, least: Share) -> Option<String> {
        self.request.ctx?;
        let left_bytes = pool
            .left_bytes()
            .checked_sub(self.sizes.experts_bytes(least.experts))?;
        let tokens = left_bytes / self.sizes.kv_bytes_per_token;
        (tokens > 0).then(|| format!("lower --ctx to {tokens}"))
    }
}

/// Two ways out at most: whoever reads a list of them follows none.
fn first_two<const N: usize>(
    remedies: [Option<String>; N],
    otherwise: impl FnOnce() -> String,
) -> String {
    let found: Vec<String> = remedies.into_iter().flatten().take(2).collect();
    match found.is_empty() {
        true => otherwise(),
        false => found.join(", or "),
    }
}

fn refuse_unless(forced: bool, error: PlanError, notes: &mut Notes) -> Result<(), PlanError> {
    if !forced {
        return Err(error);
    }
    notes.too_big = true;
    notes
        .warnings
        .push(format!("Planned as asked for, but {error}"));
    Ok(())
}

/// A size to type in that is no less than `bytes`: three digits, rounded up.
pub(super) fn at_least(bytes: u64) -> String {
    let step = 10_u64.pow(bytes.max(1).ilog10().saturating_sub(2));
    format_bytes(bytes.div_ceil(step).saturating_mul(step)).replace(' ', "")
}
