//! Sharing a pool of bytes between the KV cache and the experts.

use super::{BASE_CTX, MAX_AUTO_CTX, MIN_AUTO_CTX, ModelSizes};

/// A context chosen between the least and the base is a multiple of this.
const CTX_STEP: usize = 64;

/// A context and the experts that fit beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub ctx: usize,
    pub experts: usize,
}

/// How many experts may be held: no fewer, no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub min_experts: usize,
    pub max_experts: usize,
}

impl Bounds {
    pub(super) fn exactly(experts: usize) -> Self {
        Self {
            min_experts: experts,
            max_experts: experts,
        }
    }
}

/// The context to give where none was asked for and memory allows.
pub(super) fn base_ctx(sizes: &ModelSizes) -> usize {
    BASE_CTX.min(sizes.max_positions)
}

/// The least share that the request can do with.
pub(super) fn least(sizes: &ModelSizes, ctx: Option<usize>, bounds: Bounds) -> Share {
    Share {
        ctx: ctx.unwrap_or(MIN_AUTO_CTX.min(sizes.max_positions)),
        experts: bounds.min_experts,
    }
}

/// What a share takes of the pool.
pub(super) fn share_bytes(sizes: &ModelSizes, share: Share) -> u64 {
    sizes
        .kv_bytes(share.ctx)
        .saturating_add(sizes.experts_bytes(share.experts))
}

/// Shares out `pool_bytes`; `None` if not even the [`least`] share fits.
pub(super) fn share(
    sizes: &ModelSizes,
    pool_bytes: u64,
    ctx: Option<usize>,
    bounds: Bounds,
) -> Option<Share> {
    let fits = |ctx, experts| share_bytes(sizes, Share { ctx, experts }) <= pool_bytes;
    let base = ctx.unwrap_or_else(|| base_ctx(sizes));
    if fits(base, bounds.min_experts) {
        let left_bytes = pool_bytes - sizes.kv_bytes(base);
        let experts = usize::try_from(left_bytes / sizes.expert_bytes)
            .map_or(bounds.max_experts, |n| n.min(bounds.max_experts));
        let mut longest = base;
        if ctx.is_none() && experts == bounds.max_experts {
            let limit = MAX_AUTO_CTX.min(sizes.max_positions);
            while longest < limit && fits((2 * longest).min(limit), experts) {
                longest = (2 * longest).min(limit);
            }
        }
        return Some(Share {
            ctx: longest,
            experts,
        });
    }
    if ctx.is_some() {
        return None;
    }
    // No more than the fewest experts here, though a few bytes may be left: where a longer
    // context starts to fit, the experts would otherwise drop as memory grows.
    let floor = least(sizes, None, bounds);
    let left_bytes = pool_bytes.checked_sub(sizes.experts_bytes(floor.experts))?;
    let tokens = usize::try_from(left_bytes / sizes.kv_bytes_per_token).ok()?;
    let shorter = tokens / CTX_STEP * CTX_STEP;
    (shorter >= floor.ctx).then_some(Share {
        ctx: shorter,
        ..floor
    })
}
