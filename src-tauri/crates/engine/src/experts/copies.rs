//! Which tiers hold a copy of each expert, so that the last one in memory is not dropped.
//!
//! Weights are read-only: an expert that VRAM and RAM both hold can be dropped by either, and
//! nothing is ever copied back. So VRAM and RAM together keep every expert in memory as long as
//! they have a slot for each and a few to spare. The tiers have locks of their own and evict at
//! any time; what they share is one atomic byte per expert, a bit for each tier. A tier may reuse
//! the slot of a duplicate only after a compare-and-swap from "both" to "the other alone", which
//! the two cannot win at the same time.
//!
//! - **VRAM's victim** is the least recently used of the experts that RAM holds too.
//! - **RAM's victim** is the expert used last of those that VRAM holds too: the one that will stay
//!   there longest.
//! - **Where no duplicate can go**: if the two tiers have room for all experts, the tier evicts
//!   nothing. The duplicates are then leased or on their way, and the caller waits for one that is
//!   on its way, or is told [`NoSlot`](super::TierError::NoSlot) and first gives back what it holds
//!   (or computes the expert in RAM). Without room for all, the least recently used expert goes,
//!   and has to be read from disk again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::cache::ExpertCache;
use crate::checkpoint::ExpertId;

/// One of the two tiers in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Ram,
    Device,
}

const RAM_READY: u8 = 1;
const DEVICE_READY: u8 = 2;
const BOTH: u8 = RAM_READY | DEVICE_READY;

impl Side {
    fn bit(self) -> u8 {
        match self {
            Self::Ram => RAM_READY,
            Self::Device => DEVICE_READY,
        }
    }
}

/// The tiers' record of copies.
pub(super) struct Copies {
    n_experts: usize,
    /// By `layer * n_experts + expert`: the bits of the tiers that hold it, complete.
    held: Vec<AtomicU8>,
    /// The logical time of each expert's last use on the device.
    device_used: Vec<AtomicU64>,
    now: AtomicU64,
    /// Whether the tiers have room for all experts, so that the last copy stays.
    keeps_last: AtomicBool,
}

impl Copies {
    /// Of `n_layers * n_experts` experts, none held yet. `keeps_last`: the last copy in memory is
    /// never dropped.
    pub(super) fn new(n_layers: usize, n_experts: usize, keeps_last: bool) -> Arc<Self> {
        let total = n_layers * n_experts;
        Arc::new(Self {
            n_experts,
            held: (0..total).map(|_| AtomicU8::new(0)).collect(),
            device_used: (0..total).map(|_| AtomicU64::new(0)).collect(),
            now: AtomicU64::new(0),
            keeps_last: AtomicBool::new(keeps_last),
        })
    }

    fn index(&self, id: ExpertId) -> usize {
        usize::from(id.layer) * self.n_experts + usize::from(id.expert)
    }

    /// Notes that `side` holds `id`, complete.
    pub(super) fn gained(&self, id: ExpertId, side: Side) {
        self.held[self.index(id)].fetch_or(side.bit(), Ordering::AcqRel);
    }

    /// Notes that `side` no longer holds `id`, whoever else does.
    pub(super) fn lost(&self, id: ExpertId, side: Side) {
        self.held[self.index(id)].fetch_and(!side.bit(), Ordering::AcqRel);
    }

    /// Notes a use of `id` in the tier `side`.
    pub(super) fn used(&self, id: ExpertId, side: Side) {
        if side == Side::Device {
            let now = self.now.fetch_add(1, Ordering::Relaxed);
            self.device_used[self.index(id)].store(now, Ordering::Relaxed);
        }
    }

    fn is_duplicate(&self, id: ExpertId) -> bool {
        self.held[self.index(id)].load(Ordering::Acquire) == BOTH
    }

    /// Gives up the copy in `side` if the other tier has one too.
    fn release(&self, id: ExpertId, side: Side) -> bool {
        self.held[self.index(id)]
            .compare_exchange(
                BOTH,
                BOTH & !side.bit(),
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .is_ok()
    }

    /// Whether the last copy in memory stays.
    pub(super) fn keeps_last(&self) -> bool {
        self.keeps_last.load(Ordering::Relaxed)
    }

    /// The device and what it held are gone: RAM is the only tier in memory.
    pub(super) fn forget_device(&self) {
        self.keeps_last.store(false, Ordering::Relaxed);
        for held in &self.held {
            held.fetch_and(!DEVICE_READY, Ordering::AcqRel);
        }
    }

    /// A slot of `cache`, the tier `side`, that `id` may take, of those that are `free`. What it
    /// held is no longer counted as held there.
    pub(super) fn make_room(
        &self,
        side: Side,
        cache: &ExpertCache,
        id: ExpertId,
        free: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if let Some(slot) = cache.empty_slot(id, &free) {
            return Some(slot);
        }
        let may_go = |slot: usize, held: ExpertId| free(slot) && self.is_duplicate(held);
        loop {
            let victim = match side {
                Side::Device => cache.victim(id, may_go),
                Side::Ram => cache
                    .candidates(id)
                    .filter(|(slot, held)| may_go(*slot, *held))
                    .max_by_key(|(_, held)| {
                        self.device_used[self.index(*held)].load(Ordering::Relaxed)
                    })
                    .map(|(slot, _)| slot),
            };
            let Some(slot) = victim else { break };
            // The other tier may have dropped its copy in the meantime.
            if cache
                .holds(slot)
                .is_some_and(|held| self.release(held, side))
            {
                return Some(slot);
            }
        }
        if self.keeps_last() {
            return None;
        }
        let slot = cache.victim(id, |slot, _| free(slot))?;
        if let Some(held) = cache.holds(slot) {
            self.lost(held, side);
        }
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::Eviction;

    fn id(expert: u16) -> ExpertId {
        ExpertId { layer: 0, expert }
    }

    /// Two tiers without threads: what they hold, and the record they share.
    struct Tiers {
        copies: Arc<Copies>,
        caches: [ExpertCache; 2],
    }

    const SIDES: [Side; 2] = [Side::Ram, Side::Device];

    impl Tiers {
        fn new(eviction: Eviction, layers: usize, experts: usize, slots: [usize; 2]) -> Self {
            let keeps = eviction.keeps_all_in_memory(layers, experts, 1, slots);
            Self {
                copies: Copies::new(layers, experts, keeps),
                caches: slots.map(|n| ExpertCache::new(eviction, layers, experts, n)),
            }
        }

        /// Brings `id` into a tier; the slot that it took.
        fn bring(&mut self, side: Side, id: ExpertId, busy: &[ExpertId]) -> Option<usize> {
            let cache = &mut self.caches[side as usize];
            let slot = match cache.touch(id) {
                Some(slot) => slot,
                None => {
                    let free = |slot| cache.holds(slot).is_none_or(|held| !busy.contains(&held));
                    let slot = self.copies.make_room(side, cache, id, free)?;
                    cache.place(id, slot);
                    self.copies.gained(id, side);
                    slot
                }
            };
            self.copies.used(id, side);
            Some(slot)
        }

        fn holds(&self, side: Side, id: ExpertId) -> bool {
            self.caches[side as usize].slot_of(id).is_some()
        }
    }

    #[test]
    fn vram_drops_the_oldest_that_ram_holds_and_ram_the_newest_that_vram_holds() {
        let mut tiers = Tiers::new(Eviction::Global, 1, 8, [8, 4]);
        for expert in 0..8 {
            tiers.bring(Side::Ram, id(expert), &[]);
        }
        for expert in [3, 1, 2, 0] {
            tiers.bring(Side::Device, id(expert), &[]);
        }
        tiers.copies.lost(id(3), Side::Ram);
        tiers.bring(Side::Device, id(5), &[]);
        assert!(tiers.holds(Side::Device, id(3)), "the last copy");
        assert!(!tiers.holds(Side::Device, id(1)), "the oldest duplicate");

        // As if there was one more expert to read.
        let mut ram = ExpertCache::new(Eviction::Global, 1, 9, 8);
        for expert in 0..8 {
            ram.place(id(expert), usize::from(expert));
        }
        let slot = tiers
            .copies
            .make_room(Side::Ram, &ram, id(8), |_| true)
            .expect("duplicates");
        assert_eq!(ram.holds(slot), Some(id(5)), "used last in VRAM");
    }

    #[test]
    fn a_leased_duplicate_stays_and_so_does_the_last_copy() {
        let mut tiers = Tiers::new(Eviction::Global, 1, 8, [6, 5]);
        for expert in 0..5 {
            tiers.bring(Side::Ram, id(expert), &[]);
            tiers.bring(Side::Device, id(expert), &[]);
        }
        for expert in 5..8 {
            tiers.bring(Side::Ram, id(expert), &[]);
        }
        // Eleven slots for eight experts: three duplicates.
        let duplicates: Vec<_> = (0..8)
            .map(id)
            .filter(|id| SIDES.iter().all(|side| tiers.holds(*side, *id)))
            .collect();
        assert_eq!(duplicates.len(), 3);
        assert_eq!(tiers.bring(Side::Device, id(7), &duplicates), None);
        assert!(tiers.bring(Side::Device, id(7), &duplicates[1..]).is_some());
        assert!(!tiers.holds(Side::Device, duplicates[0]));
    }

    #[test]
    fn without_the_device_the_last_copy_may_go() {
        let mut tiers = Tiers::new(Eviction::Global, 1, 8, [6, 5]);
        for expert in 0..6 {
            tiers.bring(Side::Ram, id(expert), &[]);
        }
        assert_eq!(tiers.bring(Side::Ram, id(6), &[]), None, "all RAM's own");
        tiers.copies.forget_device();
        assert!(tiers.bring(Side::Ram, id(6), &[]).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Once every expert is in memory, every one stays there.
        #[test]
        fn every_expert_keeps_a_copy(
            per_layer in any::<bool>(),
            (layers, experts) in (1usize..5, 2usize..9),
            share in 0.0f64..1.0,
            more in 0usize..8,
            seed in any::<u64>(),
        ) {
            let eviction = if per_layer { Eviction::Layer } else { Eviction::Global };
            let total = layers * experts;
            let device = ((total as f64 * share) as usize).max(1);
            let least = (1..=2 * total).find(|ram| {
                eviction.keeps_all_in_memory(layers, experts, 1, [*ram, device])
            });
            let ram = (least.expect("room for all") + more).min(total);
            let mut tiers = Tiers::new(eviction, layers, experts, [ram, device]);
            prop_assert!(tiers.copies.keeps_last());
            let all: Vec<ExpertId> = (0..experts)
                .flat_map(|e| (0..layers).map(move |l| ExpertId { layer: l as u16, expert: e as u16 }))
                .collect();
            // As loading does: through RAM to the device, then the rest into RAM.
            for id in &all[..device] {
                prop_assert!(tiers.bring(Side::Ram, *id, &[]).is_some());
                prop_assert!(tiers.bring(Side::Device, *id, &[]).is_some());
            }
            for id in &all[device..] {
                prop_assert!(tiers.bring(Side::Ram, *id, &[]).is_some());
            }
            let mut state = seed | 1;
            let mut next = |n: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as usize % n
            };
            for _ in 0..10_000 {
                let (wanted, busy) = (all[next(total)], [all[next(total)]]);
                let side = SIDES[next(2)];
                let in_memory = SIDES.iter().any(|side| tiers.holds(*side, wanted));
                prop_assert!(in_memory, "{wanted} is on disk only");
                match next(8) {
                    0 => {
                        tiers.caches[side as usize].demote(wanted);
                    }
                    // A copy that failed.
                    1 if tiers.copies.release(wanted, side) => {
                        tiers.caches[side as usize].remove(wanted);
                    }
                    _ => {
                        tiers.bring(side, wanted, &busy);
                    }
                }
            }
            for id in all {
                for side in SIDES {
                    let bit = tiers.copies.held[tiers.copies.index(id)].load(Ordering::Relaxed) & side.bit();
                    prop_assert_eq!(bit != 0, tiers.holds(side, id));
                }
            }
        }
    }

    #[test]
    fn two_tiers_at_once_never_drop_the_last_copy() {
        let copies = Copies::new(1, 64, true);
        for _ in 0..200 {
            for expert in 0..64 {
                copies.gained(id(expert), Side::Ram);
                copies.gained(id(expert), Side::Device);
            }
            let both_won = std::thread::scope(|scope| {
                let won = SIDES.map(|side| {
                    let copies = &copies;
                    scope.spawn(move || {
                        let mut won = 0;
                        for expert in 0..64 {
                            won += usize::from(copies.release(id(expert), side));
                        }
                        won
                    })
                });
                won.map(|thread| thread.join().expect("no panic"))
                    .into_iter()
                    .sum::<usize>()
            });
            assert_eq!(both_won, 64, "each expert is released once");
            assert!((0..64).all(|e| copies.held[e].load(Ordering::Relaxed) != 0));
        }
    }
}
