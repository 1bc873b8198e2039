//! What an eviction policy needs of slots.

use super::Eviction;

impl Eviction {
    /// Whether slots `[in RAM, on the device]` keep all `n_layers * n_experts` experts in memory:
    /// either holds them all, or both together do, with duplicates to spare. Only a duplicate may
    /// be evicted then, and these may not be all in use at once: `top_k` of a layer, one that is on
    /// its way for the next layer, and the one to go.
    ///
    /// With slots of its own a layer needs them by itself, but shares none with the next.
    #[must_use]
    pub fn keeps_all_in_memory(
        self,
        n_layers: usize,
        n_experts: usize,
        top_k: usize,
        [ram, device]: [usize; 2],
    ) -> bool {
        let total = n_layers * n_experts;
        if ram >= total || device >= total {
            return true;
        }
        match self {
            Self::Global => ram + device >= total + top_k + 2,
            Self::Layer => ram / n_layers + device / n_layers > n_experts + top_k,
        }
    }

    /// The fewest slots in RAM that can be worked with: one token's experts of a layer, and one to
    /// be read meanwhile.
    #[must_use]
    pub fn least_ram_slots(self, n_layers: usize, top_k: usize) -> usize {
        match self {
            Self::Global => top_k + 1,
            Self::Layer => (top_k + 1) * n_layers,
        }
    }
}
