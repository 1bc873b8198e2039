//! What one kind of memory gives, and what of it is already spoken for.

use super::{MemoryUse, PlanItem, TierPlan};

/// What one kind of memory gives.
pub(super) struct Pool {
    /// What the plan may take in all.
    pub limit_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
    /// What is not up to choice.
    pub fixed: Vec<PlanItem>,
}

impl Pool {
    pub(super) fn fixed_bytes(&self) -> u64 {
        sum(&self.fixed)
    }

    /// What is left for KV cache and experts.
    pub(super) fn left_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.fixed_bytes())
    }

    pub(super) fn tier(self, items: impl IntoIterator<Item = PlanItem>) -> TierPlan {
        let items: Vec<PlanItem> = self
            .fixed
            .into_iter()
            .chain(items)
            .filter(|item| item.bytes > 0)
            .collect();
        TierPlan {
            used_bytes: sum(&items),
            items,
            limit_bytes: self.limit_bytes,
            free_bytes: self.free_bytes,
        }
    }
}

pub(super) fn sum(items: &[PlanItem]) -> u64 {
    items
        .iter()
        .fold(0, |total: u64, item| total.saturating_add(item.bytes))
}

pub(super) fn item(what: MemoryUse, bytes: u64) -> PlanItem {
    PlanItem { what, bytes }
}
