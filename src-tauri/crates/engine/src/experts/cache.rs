//! Which expert sits in which slot: the eviction policy as a pure data structure.
//!
//! It knows no weights, no device and no clock: [`ExpertCache`] maps experts to slot numbers and
//! picks victims by recency. Whoever owns the slots says which of them may not be taken.

use serde::{Deserialize, Serialize};

use crate::checkpoint::ExpertId;

/// Among which experts the least recently used one is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Eviction {
    /// Every layer owns its share of the slots, as in the seed system (arXiv 2312.17238).
    LruPerLayer,
    /// All layers share all slots.
    #[default]
    LruGlobal,
}

/// A slot taken for an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The slot's number.
    pub slot: usize,
    /// The expert that lost its place, if the slot held one.
    pub evicted: Option<ExpertId>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    holds: Option<ExpertId>,
    /// The layer that owns the slot (`LruPerLayer` only).
    layer: u16,
    /// Logical time of the last use; 0: never, or given up by [`ExpertCache::demote`].
    used: u64,
}

/// A map from experts to a fixed number of slots with least-recently-used eviction.
#[derive(Debug, Clone)]
pub struct ExpertCache {
    eviction: Eviction,
    n_experts: usize,
    slots: Vec<Slot>,
    /// Slot of each expert, indexed by `layer * n_experts + expert`.
    place: Vec<Option<u32>>,
    now: u64,
}

impl ExpertCache {
    /// An empty cache of `n_slots` for `n_layers * n_experts` experts.
    ///
    /// With [`Eviction::LruPerLayer`] each layer owns `n_slots / n_layers` slots, and the first
    /// `n_slots % n_layers` layers one more.
    pub fn new(eviction: Eviction, n_layers: usize, n_experts: usize, n_slots: usize) -> Self {
        let n_slots = n_slots.min(n_layers * n_experts);
        let slots = (0..n_slots)
            .map(|i| Slot {
                holds: None,
                layer: (i % n_layers) as u16,
                used: 0,
            })
            .collect();
        Self {
            eviction,
            n_experts,
            slots,
            place: vec![None; n_layers * n_experts],
            now: 0,
        }
    }

    fn key(&self, id: ExpertId) -> usize {
        usize::from(id.layer) * self.n_experts + usize::from(id.expert)
    }

    /// The number of slots.
    pub fn n_slots(&self) -> usize {
        self.slots.len()
    }

    /// The slot of `id`, without counting as a use.
    pub fn slot_of(&self, id: ExpertId) -> Option<usize> {
        self.place[self.key(id)].map(|slot| slot as usize)
    }

    /// The expert in `slot`.
    pub fn holds(&self, slot: usize) -> Option<ExpertId> {
        self.slots[slot].holds
    }

    /// The slot of `id`, made the most recently used one.
    pub fn touch(&mut self, id: ExpertId) -> Option<usize> {
        let slot = self.slot_of(id)?;
        self.now += 1;
        self.slots[slot].used = self.now;
        Some(slot)
    }

    /// Makes `id` the first to be evicted.
    pub fn demote(&mut self, id: ExpertId) {
        if let Some(slot) = self.slot_of(id) {
            self.slots[slot].used = 0;
        }
    }

    /// Takes a slot for `id`, which must not have one: an empty one, else that of the least
    /// recently used expert. `None` if every slot that `id` could have is `busy`.
    pub fn admit(&mut self, id: ExpertId, busy: impl Fn(usize) -> bool) -> Option<Admission> {
        debug_assert!(self.slot_of(id).is_none(), "BUG: {id:?} has a slot already");
        let own_layer_only = self.eviction == Eviction::LruPerLayer;
        let (slot, _) = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| !own_layer_only || slot.layer == id.layer)
            .filter(|(i, _)| !busy(*i))
            .min_by_key(|(_, slot)| (slot.holds.is_some(), slot.used))?;
        let evicted = self.slots[slot].holds;
        if let Some(old) = evicted {
            let key = self.key(old);
            self.place[key] = None;
        }
        self.now += 1;
        let key = self.key(id);
        self.place[key] = Some(slot as u32);
        self.slots[slot].holds = Some(id);
        self.slots[slot].used = self.now;
        Some(Admission { slot, evicted })
    }

    /// Empties the slot of `id` (a fetch that failed).
    pub fn remove(&mut self, id: ExpertId) {
        let key = self.key(id);
        if let Some(slot) = self.place[key].take() {
            let slot = &mut self.slots[slot as usize];
            slot.holds = None;
            slot.used = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(layer: u16, expert: u16) -> ExpertId {
        ExpertId { layer, expert }
    }

    #[test]
    fn the_least_recently_used_expert_goes_first() {
        let mut cache = ExpertCache::new(Eviction::LruGlobal, 2, 4, 2);
        cache.admit(id(0, 0), |_| false);
        cache.admit(id(1, 3), |_| false);
        cache.touch(id(0, 0));
        let admission = cache.admit(id(0, 1), |_| false).expect("a slot is free");
        assert_eq!(admission.evicted, Some(id(1, 3)));
    }

    #[test]
    fn a_layer_keeps_its_share() {
        let mut cache = ExpertCache::new(Eviction::LruPerLayer, 2, 4, 3);
        for expert in 0..4 {
            cache.admit(id(1, expert), |_| false);
        }
        // Three slots over two layers: two for layer 0, one for layer 1.
        let kept: Vec<_> = (0..4)
            .filter(|e| cache.slot_of(id(1, *e)).is_some())
            .collect();
        assert_eq!(kept, [3]);
        assert!(
            cache
                .admit(id(0, 0), |_| false)
                .expect("own slots")
                .evicted
                .is_none()
        );
        assert!(
            cache
                .admit(id(0, 1), |_| false)
                .expect("own slots")
                .evicted
                .is_none()
        );
    }

    #[test]
    fn busy_slots_are_never_taken_and_demoted_ones_first() {
        let mut cache = ExpertCache::new(Eviction::LruGlobal, 1, 8, 3);
        for expert in 0..3 {
            cache.admit(id(0, expert), |_| false);
        }
        assert_eq!(cache.admit(id(0, 5), |_| true), None);
        cache.demote(id(0, 2));
        let admission = cache.admit(id(0, 5), |_| false).expect("a slot is free");
        assert_eq!(admission.evicted, Some(id(0, 2)));
    }

    proptest! {
        /// Against a plain list ordered by recency.
        #[test]
        fn global_lru_matches_a_list(uses in prop::collection::vec((0u16..3, 0u16..4), 1..200), n_slots in 1usize..8) {
            let mut cache = ExpertCache::new(Eviction::LruGlobal, 3, 4, n_slots);
            let mut list: Vec<ExpertId> = Vec::new();
            for (layer, expert) in uses {
                let wanted = id(layer, expert);
                if let Some(at) = list.iter().position(|x| *x == wanted) {
                    prop_assert!(cache.touch(wanted).is_some());
                    list.remove(at);
                } else {
                    prop_assert!(cache.touch(wanted).is_none());
                    let admission = cache.admit(wanted, |_| false).expect("nothing is busy");
                    let expected = (list.len() == n_slots).then(|| list.remove(0));
                    prop_assert_eq!(admission.evicted, expected);
                }
                list.push(wanted);
                for known in &list {
                    let slot = cache.slot_of(*known).expect("listed experts have slots");
                    prop_assert_eq!(cache.holds(slot), Some(*known));
                }
            }
        }

        /// No layer ever exceeds its share, whatever the order of uses.
        #[test]
        fn per_layer_lru_keeps_shares(uses in prop::collection::vec((0u16..3, 0u16..4), 1..200), n_slots in 3usize..12) {
            let mut cache = ExpertCache::new(Eviction::LruPerLayer, 3, 4, n_slots);
            for (layer, expert) in uses {
                let wanted = id(layer, expert);
                if cache.touch(wanted).is_none() {
                    let admission = cache.admit(wanted, |_| false).expect("nothing is busy");
                    if let Some(old) = admission.evicted {
                        prop_assert_eq!(old.layer, layer);
                    }
                }
                for l in 0..3u16 {
                    let held = (0..4).filter(|e| cache.slot_of(id(l, *e)).is_some()).count();
                    prop_assert!(held <= n_slots.div_ceil(3));
                }
            }
        }
    }
}
