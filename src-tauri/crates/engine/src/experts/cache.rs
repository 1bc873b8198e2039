//! Which expert sits in which slot: the eviction policy as a pure data structure.
//!
//! It knows no weights, no device and no clock: [`ExpertCache`] maps experts to slot numbers and
//! picks victims by recency. Whoever owns the slots says which of them may be taken.
//!
//! With [`Eviction::Global`] any expert may take any slot, but a layer keeps its fair share: the
//! victim is the least recently used expert of those layers that have more. A token asks the
//! layers in turn, so plain LRU over all of them would, with fewer slots than a token uses experts,
//! evict each expert just before it is asked for again. Hit rates in simulation (32 layers of 8
//! experts, 2 used per token; uniform routing, 0.5: half of them reused from the previous token):
//!
//! | Slots | plain LRU, uniform / 0.5 | fair shares, uniform / 0.5 |
//! |---|---|---|
//! | 20 | 0 / 0% | 7 / 17% |
//! | 44 | 0 / 0% | 17 / 40% |
//! | 96 | 25 / 65% | 37 / 66% |
//! | 192 | 71 / 86% | 74 / 86% |

use crate::checkpoint::ExpertId;
use crate::plan::Eviction;

/// Slots that are no layer's share: what a layer at work holds beyond its own.
const TRANSIT_SLOTS: usize = 1;

#[derive(Debug, Clone, Copy)]
struct Slot {
    holds: Option<ExpertId>,
    /// The layer that owns the slot ([`Eviction::Layer`] only).
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
    /// Experts held, by layer.
    held: Vec<usize>,
    now: u64,
}

impl ExpertCache {
    /// An empty cache of `n_slots` for `n_layers * n_experts` experts.
    ///
    /// With [`Eviction::Layer`] each layer owns `n_slots / n_layers` slots, and the first
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
            held: vec![0; n_layers],
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

    /// The slots that `id` could take, with the experts in them.
    pub fn candidates(&self, id: ExpertId) -> impl Iterator<Item = (usize, ExpertId)> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(move |(_, slot)| self.is_open_to(slot, id))
            .filter_map(|(i, slot)| Some((i, slot.holds?)))
    }

    fn is_open_to(&self, slot: &Slot, id: ExpertId) -> bool {
        self.eviction == Eviction::Global || slot.layer == id.layer
    }

    /// An empty slot that `id` could take, of those that are `free`.
    pub fn empty_slot(&self, id: ExpertId, free: impl Fn(usize) -> bool) -> Option<usize> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| slot.holds.is_none() && self.is_open_to(slot, id))
            .map(|(i, _)| i)
            .find(|i| free(*i))
    }

    /// The slot whose expert gives way to `id`, of those that `may_go`: see the [module](self).
    pub fn victim(&self, id: ExpertId, may_go: impl Fn(usize, ExpertId) -> bool) -> Option<usize> {
        let candidates = self
            .candidates(id)
            .filter(|(slot, held)| may_go(*slot, *held));
        let order = |(slot, held): &(usize, ExpertId)| {
            let class = if self.has_more_than_its_share(held.layer) {
                0
            } else if held.layer == id.layer {
                1
            } else {
                2
            };
            (class, self.slots[*slot].used)
        };
        candidates.min_by_key(order).map(|(slot, _)| slot)
    }

    fn has_more_than_its_share(&self, layer: u16) -> bool {
        let (n_layers, layer) = (self.held.len(), usize::from(layer));
        let shared = self.slots.len().saturating_sub(TRANSIT_SLOTS);
        self.held[layer] > shared / n_layers + usize::from(layer < shared % n_layers)
    }

    /// Puts `id`, which must not have a slot, into `slot`; the expert that lost its place, if the
    /// slot held one.
    pub fn place(&mut self, id: ExpertId, slot: usize) -> Option<ExpertId> {
        debug_assert!(self.slot_of(id).is_none(), "BUG: {id:?} has a slot already");
        let evicted = self.slots[slot].holds;
        if let Some(old) = evicted {
            self.remove(old);
        }
        self.now += 1;
        let key = self.key(id);
        self.place[key] = Some(slot as u32);
        self.held[usize::from(id.layer)] += 1;
        self.slots[slot].holds = Some(id);
        self.slots[slot].used = self.now;
        evicted
    }

    /// Empties the slot of `id` (a fetch that failed).
    pub fn remove(&mut self, id: ExpertId) {
        let key = self.key(id);
        if let Some(slot) = self.place[key].take() {
            self.held[usize::from(id.layer)] -= 1;
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

    /// Gives `id` a slot that is not `busy`; what was evicted for it.
    fn admit(cache: &mut ExpertCache, id: ExpertId, busy: &[usize]) -> Option<Option<ExpertId>> {
        let free = |slot: usize| !busy.contains(&slot);
        let slot = cache
            .empty_slot(id, free)
            .or_else(|| cache.victim(id, |slot, _| free(slot)))?;
        Some(cache.place(id, slot))
    }

    #[test]
    fn the_least_recently_used_expert_goes_first() {
        let mut cache = ExpertCache::new(Eviction::Global, 1, 8, 3);
        for expert in [0, 1, 2] {
            admit(&mut cache, id(0, expert), &[]);
        }
        cache.touch(id(0, 0));
        assert_eq!(admit(&mut cache, id(0, 4), &[]), Some(Some(id(0, 1))));
    }

    #[test]
    fn a_layer_that_has_more_than_its_share_gives_way_before_older_ones() {
        let mut cache = ExpertCache::new(Eviction::Global, 2, 4, 5);
        for (layer, expert) in [(1, 0), (1, 1), (0, 0), (0, 1), (0, 2)] {
            admit(&mut cache, id(layer, expert), &[]);
        }
        // Two each; the fifth is for the layer at work.
        assert_eq!(admit(&mut cache, id(1, 2), &[]), Some(Some(id(0, 0))));
        assert_eq!(admit(&mut cache, id(0, 3), &[]), Some(Some(id(1, 0))));
    }

    #[test]
    fn with_fewer_slots_than_a_token_needs_some_experts_stay() {
        let (layers, slots) = (4, 5);
        let mut cache = ExpertCache::new(Eviction::Global, layers, 8, slots);
        let mut hits = 0;
        for _ in 0..10 {
            for layer in 0..layers as u16 {
                for expert in [0, 1] {
                    match cache.touch(id(layer, expert)) {
                        Some(_) => hits += 1,
                        None => {
                            let busy: Vec<_> =
                                cache.slot_of(id(layer, 1 - expert)).into_iter().collect();
                            admit(&mut cache, id(layer, expert), &busy);
                        }
                    }
                }
            }
        }
        // One of every layer's two, from the second round on; plain LRU has none.
        assert!(hits >= 9 * layers, "{hits}");
    }

    #[test]
    fn a_layer_keeps_its_own_slots() {
        let mut cache = ExpertCache::new(Eviction::Layer, 2, 4, 3);
        for expert in 0..4 {
            admit(&mut cache, id(1, expert), &[]);
        }
        // Three slots over two layers: two for layer 0, one for layer 1.
        let kept: Vec<_> = (0..4)
            .filter(|e| cache.slot_of(id(1, *e)).is_some())
            .collect();
        assert_eq!(kept, [3]);
        assert_eq!(admit(&mut cache, id(0, 0), &[]), Some(None));
        assert_eq!(admit(&mut cache, id(0, 1), &[]), Some(None));
    }

    #[test]
    fn busy_slots_are_never_taken_and_demoted_ones_first() {
        let mut cache = ExpertCache::new(Eviction::Global, 1, 8, 3);
        for expert in 0..3 {
            admit(&mut cache, id(0, expert), &[]);
        }
        assert_eq!(admit(&mut cache, id(0, 5), &[0, 1, 2]), None);
        cache.demote(id(0, 2));
        assert_eq!(admit(&mut cache, id(0, 5), &[]), Some(Some(id(0, 2))));
    }

    proptest! {
        /// Against a plain list ordered by recency, and the rule of shares spelled out.
        #[test]
        fn fair_shares_match_a_list(uses in prop::collection::vec((0u16..3, 0u16..4), 1..200), n_slots in 1usize..8) {
            let mut cache = ExpertCache::new(Eviction::Global, 3, 4, n_slots);
            let mut list: Vec<ExpertId> = Vec::new();
            let share = |layer: u16| {
                let shared = n_slots - 1;
                shared / 3 + usize::from(usize::from(layer) < shared % 3)
            };
            for (layer, expert) in uses {
                let wanted = id(layer, expert);
                if let Some(at) = list.iter().position(|x| *x == wanted) {
                    prop_assert!(cache.touch(wanted).is_some());
                    list.remove(at);
                } else {
                    prop_assert!(cache.touch(wanted).is_none());
                    let has = |of: u16| list.iter().filter(|x| x.layer == of).count();
                    let expected = (list.len() == n_slots).then(|| {
                        let over = list.iter().position(|x| has(x.layer) > share(x.layer));
                        let own = list.iter().position(|x| x.layer == layer);
                        list[over.or(own).unwrap_or(0)]
                    });
                    prop_assert_eq!(admit(&mut cache, wanted, &[]), Some(expected));
                    list.retain(|x| Some(*x) != expected);
                }
                list.push(wanted);
                for known in &list {
                    let slot = cache.slot_of(*known).expect("listed experts have slots");
                    prop_assert_eq!(cache.holds(slot), Some(*known));
                }
            }
        }

        /// No layer ever exceeds its slots, whatever the order of uses.
        #[test]
        fn per_layer_lru_keeps_shares(uses in prop::collection::vec((0u16..3, 0u16..4), 1..200), n_slots in 3usize..12) {
            let mut cache = ExpertCache::new(Eviction::Layer, 3, 4, n_slots);
            for (layer, expert) in uses {
                let wanted = id(layer, expert);
                if cache.touch(wanted).is_none()
                    && let Some(old) = admit(&mut cache, wanted, &[]).expect("nothing is busy")
                {
                    prop_assert_eq!(old.layer, layer);
                }
                for l in 0..3u16 {
                    let held = (0..4).filter(|e| cache.slot_of(id(l, *e)).is_some()).count();
                    prop_assert!(held <= n_slots.div_ceil(3));
                }
            }
        }
    }
}
