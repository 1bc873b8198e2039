//! A tier of expert slots: demands, prefetches and leases over some [`Memory`].
//!
//! Who waits for whom: callers ask with [`Tier::demand`], which reserves a slot at once and gives
//! a [`Lease`]; the fetch threads fill reserved slots. [`Lease::ready`] blocks until its slot is
//! full. A fetch in flight is joined, never repeated. A leased slot, or one being filled, is never
//! evicted.
//!
//! A guess takes a slot only when its fetch begins, which is when no demand waits: until then
//! nothing had to go for it, and whoever needs the expert may as well find it absent and compute
//! it where it lies.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::cache::ExpertCache;
use super::copies::{Copies, Side};
use super::stats::TierStats;
use crate::checkpoint::ExpertId;

/// Slots that can be filled with experts from the tier below.
pub trait Memory: Send + Sync + 'static {
    /// Brings expert `id` into `slot`, which nobody reads meanwhile; the bytes moved.
    ///
    /// # Errors
    /// A message that names what could not be read or copied.
    fn fill(&self, slot: usize, id: ExpertId) -> Result<u64, String>;
}

/// Why a demand could not be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TierError {
    /// The fetch failed.
    #[error("expert {expert} of layer {layer} could not be fetched: {reason}")]
    Fetch {
        /// The layer.
        layer: u16,
        /// The expert in its layer.
        expert: u16,
        /// What the memory said.
        reason: String,
    },
    /// Every slot the expert could take is leased: the budget is too small for what is in use.
    #[error("all {slots} expert slots are in use and layer {layer} needs one more")]
    NoSlot {
        /// Slots in the tier.
        slots: usize,
        /// The layer that asked.
        layer: u16,
    },
    /// There are too few slots to work with.
    #[error("{slots} expert slots are too few: at least {least} are needed")]
    TooFewSlots {
        /// Slots there would be.
        slots: usize,
        /// Slots needed.
        least: usize,
    },
    /// The device failed.
    #[error("the device failed: {reason}")]
    Device {
        /// What it reported.
        reason: String,
    },
    /// Whoever was told of the progress asked for the end.
    #[error("stopped")]
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Empty,
    Queued,
    Filling,
    Ready,
    Failed(String),
}

#[derive(Debug)]
struct Slot {
    phase: Phase,
    leases: u32,
    /// Brought by a prefetch that no demand has used yet.
    speculative: bool,
}

impl Slot {
    fn busy(&self) -> bool {
        self.leases > 0 || matches!(self.phase, Phase::Queued | Phase::Filling)
    }
}

/// Where an expert is, for someone who may compute it elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// In its slot.
    Here,
    /// Being fetched, or asked for: number `.0` of the fetches that have not ended, from 0.
    Coming(usize),
    /// Neither; at most a guess whose fetch has not begun.
    Absent,
}

/// The fetches that have not ended, guesses aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traffic {
    /// In their order.
    pub fetches: Vec<ExpertId>,
    /// How long the first of them has been alone at its head.
    pub under_way: Duration,
}

struct State {
    cache: ExpertCache,
    /// What the tiers hold, this one as `side`.
    copies: Arc<Copies>,
    side: Side,
    slots: Vec<Slot>,
    demanded: VecDeque<(ExpertId, usize)>,
    /// Guesses whose fetches have not begun, the best first.
    guessed: VecDeque<ExpertId>,
    /// Guesses begin only while fewer fetches than this are under way.
    guesses_at_once: usize,
    /// Fetches under way, in the order in which they began.
    filling: VecDeque<ExpertId>,
    /// Since when there are any, and since when the first has been the first.
    busy_since: Instant,
    first_since: Instant,
    stats: TierStats,
    closing: bool,
}

struct Shared<M> {
    memory: M,
    state: Mutex<State>,
    /// Signalled when a fetch is queued (fetch threads wait) or ends, or a lease is given back
    /// (callers wait).
    changed: Condvar,
}

impl<M> Shared<M> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the [module](self).
pub struct Tier<M: Memory> {
    shared: Arc<Shared<M>>,
    threads: Vec<JoinHandle<()>>,
}

/// A slot kept for its holder until dropped.
pub struct Lease<M: Memory> {
    shared: Arc<Shared<M>>,
    slot: usize,
    id: ExpertId,
}

impl<M: Memory> Tier<M> {
    /// A tier over `memory`, the tier `side` of those that share `copies`. `cache` hands its slots
    /// out; experts that it holds already lie there. `fetch_threads` threads fill them, of which as
    /// many as `guesses_at_once` may be at work when one takes on a guess too.
    pub(super) fn new(
        memory: M,
        cache: ExpertCache,
        (copies, side): (Arc<Copies>, Side),
        fetch_threads: usize,
        guesses_at_once: usize,
    ) -> Self {
        let slots = (0..cache.n_slots())
            .map(|slot| Slot {
                phase: match cache.holds(slot) {
                    Some(_) => Phase::Ready,
                    None => Phase::Empty,
                },
                leases: 0,
                speculative: false,
            })
            .collect();
        let shared = Arc::new(Shared {
            memory,
            state: Mutex::new(State {
                cache,
                copies,
                side,
                slots,
                demanded: VecDeque::new(),
                guessed: VecDeque::new(),
                guesses_at_once,
                filling: VecDeque::new(),
                busy_since: Instant::now(),
                first_since: Instant::now(),
                stats: TierStats::default(),
                closing: false,
            }),
            changed: Condvar::new(),
        });
        let threads = (0..fetch_threads.max(1))
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || fetch_loop(&shared))
            })
            .collect();
        Self { shared, threads }
    }

    /// The memory behind the slots.
    pub fn memory(&self) -> &M {
        &self.shared.memory
    }

    /// The number of slots.
    pub fn n_slots(&self) -> usize {
        self.shared.lock().slots.len()
    }

    /// Asks for `id` and reserves its slot, starting a fetch if it is neither there nor coming.
    /// Blocks only while every slot it could take is being filled.
    ///
    /// # Errors
    /// [`TierError::NoSlot`] if every such slot is leased.
    pub fn demand(&self, id: ExpertId) -> Result<Lease<M>, TierError> {
        let mut state = self.shared.lock();
        loop {
            if let Some(slot) = state.cache.touch(id) {
                state.join(slot);
                return Ok(self.lease(slot, id));
            }
            if let Some(slot) = state.admit(id) {
                state.stats.misses += 1;
                state.slots[slot].leases = 1;
                state.demanded.push_back((id, slot));
                self.shared.changed.notify_all();
                return Ok(self.lease(slot, id));
            }
            // A slot being filled for nobody becomes free by itself; leased ones may never.
            if !state.slots.iter().any(|s| s.leases == 0 && s.busy()) {
                return Err(TierError::NoSlot {
                    slots: state.slots.len(),
                    layer: id.layer,
                });
            }
            state = self.shared.wait(state);
        }
    }

    /// A lease on `id` if it is in the tier or on its way; counts as a hit, never as a miss.
    pub fn demand_if_present(&self, id: ExpertId) -> Option<Lease<M>> {
        let mut state = self.shared.lock();
        let slot = state.touch(id)?;
        state.join(slot);
        Some(self.lease(slot, id))
    }

    /// Has `id` fetched if it is not here and there is an empty slot for it; counts as no demand.
    pub(super) fn demand_into_empty_slot(&self, id: ExpertId) -> Option<Lease<M>> {
        let mut state = self.shared.lock();
        if state.cache.slot_of(id).is_some() {
            return None;
        }
        let free = |slot: usize| !state.slots[slot].busy();
        state.cache.empty_slot(id, free)?;
        let slot = state.admit(id)?;
        state.slots[slot].leases += 1;
        state.demanded.push_back((id, slot));
        self.shared.changed.notify_all();
        Some(self.lease(slot, id))
    }

    /// Counts demands that found their experts here without a lease.
    pub fn count_hits(&self, hits: u64) {
        self.shared.lock().stats.hits += hits;
    }

    /// Counts a demand that was met elsewhere (computed in the tier below).
    pub fn count_miss(&self) {
        let stats = &mut self.shared.lock().stats;
        stats.misses += 1;
        stats.met_below += 1;
    }

    /// Has the guessed `ids` fetched, the best first, when no demand waits and into slots that
    /// nobody holds. Older guesses that have not begun are dropped: their time has passed.
    pub fn prefetch(&self, ids: &[ExpertId]) {
        let mut state = self.shared.lock();
        state.guessed.clear();
        for &id in ids {
            // Guessed experts that are here must not be the victims of those that are not.
            if state.touch(id).is_none() && !state.guessed.contains(&id) {
                state.guessed.push_back(id);
            }
        }
        self.shared.changed.notify_all();
    }

    /// Where each of `ids` is, and what is on its way.
    pub(super) fn outlook(&self, ids: &[ExpertId]) -> (Vec<Arrival>, Traffic) {
        let state = self.shared.lock();
        let arrivals = ids.iter().map(|id| state.arrival(*id)).collect();
        let under_way = match state.filling.is_empty() {
            true => Duration::ZERO,
            false => state.first_since.elapsed(),
        };
        let traffic = Traffic {
            fetches: state.fetches().collect(),
            under_way,
        };
        (arrivals, traffic)
    }

    /// Makes `id` the first to be evicted (a long prompt is done with it).
    pub fn demote(&self, id: ExpertId) {
        self.shared.lock().cache.demote(id);
    }

    /// The slot of `id` if it is in the tier, full.
    pub fn slot_of(&self, id: ExpertId) -> Option<usize> {
        let state = self.shared.lock();
        let slot = state.cache.slot_of(id)?;
        (state.slots[slot].phase == Phase::Ready).then_some(slot)
    }

    /// Whether `id` is in the tier, full.
    pub fn contains(&self, id: ExpertId) -> bool {
        let state = self.shared.lock();
        state
            .cache
            .slot_of(id)
            .is_some_and(|slot| state.slots[slot].phase == Phase::Ready)
    }

    /// Which of `total` experts are in the tier, full, by `layer * n_experts + expert`.
    pub fn held(&self, n_experts: usize, total: usize) -> Vec<bool> {
        let slots = self.slots_of(n_experts, total);
        slots.iter().map(Option::is_some).collect()
    }

    /// The slot of each of `total` experts that are in the tier, full, as [`Tier::held`] counts
    /// them.
    pub fn slots_of(&self, n_experts: usize, total: usize) -> Vec<Option<usize>> {
        let state = self.shared.lock();
        let mut slots = vec![None; total];
        for (slot, _) in state
            .slots
            .iter()
            .enumerate()
            .filter(|(_, s)| s.phase == Phase::Ready)
        {
            if let Some(id) = state.cache.holds(slot) {
                slots[usize::from(id.layer) * n_experts + usize::from(id.expert)] = Some(slot);
            }
        }
        slots
    }

    /// Whether nothing is being fetched, or to be.
    pub fn is_idle(&self) -> bool {
        let state = self.shared.lock();
        state.demanded.is_empty() && state.guessed.is_empty() && state.filling.is_empty()
    }

    /// Ends the fetch threads, once they are done with what they are at. What was asked for and has
    /// not begun never comes.
    pub(super) fn stop(&self) {
        let mut state = self.shared.lock();
        state.closing = true;
        state.demanded.clear();
        state.guessed.clear();
        self.shared.changed.notify_all();
    }

    /// The counters so far.
    pub fn stats(&self) -> TierStats {
        self.shared.lock().stats
    }

    fn lease(&self, slot: usize, id: ExpertId) -> Lease<M> {
        Lease {
            shared: Arc::clone(&self.shared),
            slot,
            id,
        }
    }
}

impl State {
    fn fill_begins(&mut self, id: ExpertId) {
        if self.filling.is_empty() {
            self.busy_since = Instant::now();
            self.first_since = self.busy_since;
        }
        self.filling.push_back(id);
    }

    fn fill_ends(&mut self, id: ExpertId) {
        if self.filling.front() == Some(&id) {
            self.first_since = Instant::now();
        }
        self.filling.retain(|filling| *filling != id);
        if self.filling.is_empty() {
            self.stats.busy_ns += self.busy_since.elapsed().as_nanos() as u64;
        }
    }

    /// Fetches that have not ended, in their order.
    fn fetches(&self) -> impl Iterator<Item = ExpertId> {
        let queued = self.demanded.iter().map(|(id, _)| *id);
        self.filling.iter().copied().chain(queued)
    }

    fn arrival(&self, id: ExpertId) -> Arrival {
        let Some(slot) = self.cache.slot_of(id) else {
            return Arrival::Absent;
        };
        if self.slots[slot].phase == Phase::Ready {
            return Arrival::Here;
        }
        let place = self.fetches().position(|it| it == id);
        place.map_or(Arrival::Absent, Arrival::Coming)
    }

    /// Counts a demand for what has `slot`, and leases it.
    fn join(&mut self, slot: usize) {
        self.stats.hits += 1;
        let slot = &mut self.slots[slot];
        slot.leases += 1;
        if std::mem::take(&mut slot.speculative) {
            self.stats.prefetch_hits += 1;
        }
    }

    /// The best guess that may be fetched now, with a slot.
    fn begin_guess(&mut self) -> Option<(ExpertId, usize)> {
        if self.filling.len() >= self.guesses_at_once {
            return None;
        }
        let id = self.guessed.pop_front()?;
        // Where all slots are in use there is no place for guesses.
        let slot = self.admit(id)?;
        self.stats.prefetches += 1;
        self.slots[slot].speculative = true;
        Some((id, slot))
    }

    /// The slot of `id`, made the most recently used one.
    fn touch(&mut self, id: ExpertId) -> Option<usize> {
        let slot = self.cache.touch(id)?;
        self.copies.used(id, self.side);
        Some(slot)
    }

    /// Takes a slot for `id`, which has none, and marks it as queued.
    fn admit(&mut self, id: ExpertId) -> Option<usize> {
        self.guessed.retain(|guessed| *guessed != id);
        let free = |slot: usize| !self.slots[slot].busy();
        let taken = self.copies.make_room(self.side, &self.cache, id, free)?;
        self.cache.place(id, taken);
        self.copies.used(id, self.side);
        let slot = &mut self.slots[taken];
        if std::mem::take(&mut slot.speculative) {
            self.stats.prefetch_wasted += 1;
        }
        slot.phase = Phase::Queued;
        Some(taken)
    }
}

fn fetch_loop<M: Memory>(shared: &Shared<M>) {
    let mut state = shared.lock();
    while !state.closing {
        let next = state.demanded.pop_front().or_else(|| state.begin_guess());
        let Some((id, slot)) = next else {
            state = shared.wait(state);
            continue;
        };
        state.slots[slot].phase = Phase::Filling;
        state.fill_begins(id);
        drop(state);
        let filled = shared.memory.fill(slot, id);
        state = shared.lock();
        state.fill_ends(id);
        match filled {
            Ok(bytes) => {
                state.stats.bytes_moved += bytes;
                state.copies.gained(id, state.side);
                state.slots[slot].phase = Phase::Ready;
            }
            Err(reason) => {
                // Waiting demands report it; a failed prefetch is tried again when asked for.
                state.cache.remove(id);
                state.slots[slot].speculative = false;
                state.slots[slot].phase = if state.slots[slot].leases > 0 {
                    Phase::Failed(reason)
                } else {
                    Phase::Empty
                };
            }
        }
        shared.changed.notify_all();
    }
}

impl<M: Memory> Drop for Tier<M> {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            // A fetch thread that panicked has nothing left to give back.
            let _ = thread.join();
        }
    }
}

impl<M: Memory> Lease<M> {
    /// The leased slot; its bytes may be read once [`Lease::ready`] has returned.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The expert asked for.
    pub fn id(&self) -> ExpertId {
        self.id
    }

    /// The memory behind the slot.
    pub fn memory(&self) -> &M {
        &self.shared.memory
    }

    /// Whether the slot is full: [`Lease::ready`] would not block.
    pub fn is_ready(&self) -> bool {
        self.shared.lock().slots[self.slot].phase == Phase::Ready
    }

    /// Waits until the slot is full.
    ///
    /// # Errors
    /// [`TierError::Fetch`] if the fetch failed.
    pub fn ready(&self) -> Result<(), TierError> {
        let mut state = self.shared.lock();
        let asked = Instant::now();
        let mut waited = false;
        loop {
            match &state.slots[self.slot].phase {
                Phase::Ready => {
                    if waited {
                        state.stats.wait_ns += asked.elapsed().as_nanos() as u64;
                    }
                    return Ok(());
                }
                Phase::Failed(reason) => {
                    return Err(TierError::Fetch {
                        layer: self.id.layer,
                        expert: self.id.expert,
                        reason: reason.clone(),
                    });
                }
                Phase::Empty | Phase::Queued | Phase::Filling => {
                    waited = true;
                    state = self.shared.wait(state);
                }
            }
        }
    }
}

impl<M: Memory> Drop for Lease<M> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let slot = &mut state.slots[self.slot];
        slot.leases -= 1;
        if slot.leases == 0 && matches!(slot.phase, Phase::Failed(_)) {
            slot.phase = Phase::Empty;
        }
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::plan::Eviction;

    /// A record for a tier that is alone.
    fn alone() -> (Arc<Copies>, Side) {
        (Copies::new(4, 8, false), Side::Ram)
    }

    /// Remembers which expert each slot was filled with, and counts fills.
    struct Tags {
        slots: Vec<AtomicU64>,
        fills: AtomicU64,
        fail: Option<ExpertId>,
    }

    fn tag(id: ExpertId) -> u64 {
        u64::from(id.layer) << 16 | u64::from(id.expert) | 1 << 40
    }

    impl Memory for Tags {
        fn fill(&self, slot: usize, id: ExpertId) -> Result<u64, String> {
            self.fills.fetch_add(1, Ordering::SeqCst);
            std::thread::yield_now();
            if self.fail == Some(id) {
                return Err("the disk is gone".into());
            }
            self.slots[slot].store(tag(id), Ordering::SeqCst);
            Ok(7)
        }
    }

    fn tier(n_slots: usize, fail: Option<ExpertId>) -> Tier<Tags> {
        let memory = Tags {
            slots: (0..n_slots).map(|_| AtomicU64::new(0)).collect(),
            fills: AtomicU64::new(0),
            fail,
        };
        Tier::new(
            memory,
            ExpertCache::new(Eviction::Global, 4, 8, n_slots),
            alone(),
            2,
            2,
        )
    }

    fn id(layer: u16, expert: u16) -> ExpertId {
        ExpertId { layer, expert }
    }

    #[test]
    fn a_leased_slot_holds_what_was_asked_for_under_contention() {
        let tier = tier(6, None);
        std::thread::scope(|scope| {
            for worker in 0..3u64 {
                let tier = &tier;
                scope.spawn(move || {
                    let mut seed = worker + 1;
                    for _ in 0..500 {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let wanted = id((seed >> 33) as u16 % 4, (seed >> 40) as u16 % 8);
                        tier.prefetch(&[id((seed >> 50) as u16 % 4, (seed >> 45) as u16 % 8)]);
                        let lease = tier.demand(wanted).expect("three leases, six slots");
                        lease.ready().expect("nothing fails");
                        let held = tier.memory().slots[lease.slot()].load(Ordering::SeqCst);
                        assert_eq!(held, tag(wanted));
                    }
                });
            }
        });
        let stats = tier.stats();
        assert_eq!(stats.hits + stats.misses, 1500);
        assert!(stats.prefetch_hits + stats.prefetch_wasted <= stats.prefetches);
    }

    #[test]
    fn a_fetch_in_flight_is_joined() {
        let tier = tier(4, None);
        let first = tier.demand(id(0, 1)).expect("free slots");
        let second = tier.demand(id(0, 1)).expect("free slots");
        first.ready().expect("fills");
        second.ready().expect("fills");
        assert_eq!(first.slot(), second.slot());
        assert_eq!(tier.memory().fills.load(Ordering::SeqCst), 1);
        assert_eq!((tier.stats().hits, tier.stats().misses), (1, 1));
    }

    #[test]
    fn a_prefetched_expert_counts_once_used_or_wasted() {
        let tier = tier(2, None);
        tier.prefetch(&[id(0, 0), id(0, 1)]);
        while !(tier.contains(id(0, 0)) && tier.contains(id(0, 1))) {
            std::thread::yield_now();
        }
        let held = tier.demand(id(0, 0)).expect("there");
        tier.demand(id(1, 0))
            .expect("takes the unused one")
            .ready()
            .expect("fills");
        drop(held);
        let stats = tier.stats();
        assert_eq!(
            (stats.prefetches, stats.prefetch_hits, stats.prefetch_wasted),
            (2, 1, 1)
        );
        assert_eq!(stats.bytes_moved, 21);
        assert!(stats.busy_ns > 0 && stats.bytes_per_sec() > Some(0.0));
    }

    /// Fills when it is told to, one by one.
    struct Gate(Mutex<std::sync::mpsc::Receiver<()>>);

    impl Memory for Gate {
        fn fill(&self, _slot: usize, _id: ExpertId) -> Result<u64, String> {
            self.0
                .lock()
                .expect("no panic")
                .recv()
                .map_err(|e| e.to_string())?;
            Ok(7)
        }
    }

    fn gated(n_slots: usize, guesses_at_once: usize) -> (Tier<Gate>, std::sync::mpsc::Sender<()>) {
        let (open, gate) = std::sync::mpsc::channel();
        let cache = ExpertCache::new(Eviction::Global, 4, 8, n_slots);
        let tier = Tier::new(Gate(Mutex::new(gate)), cache, alone(), 2, guesses_at_once);
        (tier, open)
    }

    /// Waits until `ids` are where `expected` says.
    fn await_arrivals<M: Memory>(tier: &Tier<M>, ids: &[ExpertId], expected: &[Arrival]) {
        while tier.outlook(ids).0 != expected {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_guess_takes_no_slot_before_its_fetch_begins() {
        use Arrival::{Absent, Coming, Here};
        let (tier, open) = gated(2, 1);
        let all = [id(0, 0), id(0, 1), id(1, 0)];
        open.send(()).expect("a tier");
        tier.demand(all[0]).expect("a slot").ready().expect("fills");
        tier.prefetch(&all[1..]);
        await_arrivals(&tier, &all, &[Here, Coming(0), Absent]);
        assert!(!tier.is_idle());
        // The one that has not begun took the place of nobody, and can be asked for.
        let lease = tier.demand(all[2]).expect("the place of the first");
        await_arrivals(&tier, &all, &[Absent, Coming(0), Coming(1)]);
        let (_, traffic) = tier.outlook(&[]);
        assert_eq!(traffic.fetches.len(), 2);
        open.send(()).expect("a tier");
        open.send(()).expect("a tier");
        lease.ready().expect("fills");
        await_arrivals(&tier, &all, &[Absent, Here, Here]);
        while !tier.is_idle() {
            std::thread::yield_now();
        }
        let stats = tier.stats();
        assert_eq!((stats.prefetches, stats.misses, stats.hits), (1, 2, 0));
    }

    #[test]
    fn newer_guesses_replace_older_ones_that_have_not_begun() {
        let (tier, open) = gated(4, 1);
        tier.prefetch(&[id(0, 0), id(0, 1)]);
        await_arrivals(&tier, &[id(0, 0)], &[Arrival::Coming(0)]);
        tier.prefetch(&[id(1, 0)]);
        for _ in 0..2 {
            open.send(()).expect("a tier");
        }
        let (last, gone) = ([id(1, 0)], [id(0, 1)]);
        await_arrivals(&tier, &last, &[Arrival::Here]);
        assert_eq!(tier.outlook(&gone).0, [Arrival::Absent]);
        assert_eq!(tier.stats().prefetches, 2);
    }

    #[test]
    fn a_miss_that_is_met_below_is_a_miss_of_its_own_kind() {
        let tier = tier(2, None);
        tier.demand(id(0, 0)).expect("a slot");
        tier.count_miss();
        let stats = tier.stats();
        assert_eq!((stats.misses, stats.met_below), (2, 1));
        assert_eq!(stats.share_met_below(), Some(0.5));
        assert_eq!(TierStats::default().share_met_below(), None);
    }

    #[test]
    fn a_failed_fetch_is_reported_and_can_be_tried_again() {
        let tier = tier(2, Some(id(1, 1)));
        for _ in 0..2 {
            let error = tier
                .demand(id(1, 1))
                .expect("a slot")
                .ready()
                .expect_err("fails");
            assert!(error.to_string().contains("the disk is gone"), "{error}");
        }
        tier.demand(id(1, 2))
            .expect("a slot")
            .ready()
            .expect("fills");
        assert_eq!(tier.memory().fills.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn leasing_every_slot_is_an_error_not_a_deadlock() {
        let tier = tier(2, None);
        let _a = tier.demand(id(0, 0)).expect("a slot");
        let _b = tier.demand(id(0, 1)).expect("a slot");
        let error = tier.demand(id(0, 2)).err().expect("no slot is left");
        assert_eq!(error, TierError::NoSlot { slots: 2, layer: 0 });
    }
}
