//! Where the experts live and how the one at hand gets there: tiers, leases, prefetch.
//!
//! Two tiers stand above the checkpoint on disk: RAM ([`ram`]) and, where there is one, a
//! [`Device`] with slots of its own. [`Experts::claim`] gives an expert in the fastest tier that
//! has it; a miss is fetched up or computed where it lies, whichever ends sooner.

mod cache;
mod claims;
mod copies;
mod device;
mod misses;
mod ram;
mod read_ahead;
mod read_source;
mod speeds;
mod stats;
mod tier;
mod trace;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cache::ExpertCache;
pub(crate) use claims::ClaimsAhead;
pub use device::{Bandwidths, Device, PinnedBytes, PinnedMemory, UnfilledPinned};
pub(crate) use misses::Miss;
use misses::Missing;
pub use stats::{ExpertStats, RoutingStats, RoutingSummary, TierStats};
pub use tier::TierError;
use tier::{Lease, Tier};
pub use trace::{Residence, Snapshot};

use crate::checkpoint::{Checkpoint, ExpertId, ExpertWeights};
use crate::plan::{Eviction, Misses};
use copies::{Copies, Side};
use device::DeviceMemory;
use ram::{RamLease, RamTier, Reader};
use speeds::Speeds;
use tier::Arrival;
use trace::Trace;

/// Threads that copy experts to the device: one copies while the other readies the next.
const UPLOAD_THREADS: usize = 2;
/// A guess is copied only when nothing else is: a copy cannot be called back, and what is asked
/// for would have to wait for it.
const GUESSES_AT_ONCE: usize = 1;

/// Experts of one layer that a prompt holds at a time: one at work, the others being fetched.
pub const PROMPT_WINDOW: usize = 3;

/// How the tiers are set up.
#[derive(Clone, Default)]
pub struct ExpertOptions {
    /// Experts held in RAM at a time; `None`: all of them, in place in the mapped checkpoint.
    pub ram_slots: Option<usize>,
    /// Which expert gives way in a tier.
    pub eviction: Eviction,
    /// Experts guessed ahead per layer, 0 to 2.
    pub prefetch: usize,
    /// No core is left to readers beside those that compute: without a device, nothing is read
    /// ahead then as long as reads come from the page cache. There is no wait for a drive to hide,
    /// and the copies hold up the token (2 cores: 1.11 tokens/s with prefetch 2, 1.31 without).
    pub no_core_to_spare: bool,
    /// The device tier, if any.
    pub device: Option<DeviceOptions>,
    /// Memory that the device reads fastest: experts are then never in place in the files, but in
    /// slots of it.
    pub pinned: Option<Arc<dyn PinnedMemory>>,
    /// How many of the RAM slots may be of that memory; `None`: all.
    pub pinned_slots: Option<usize>,
    /// What RAM can hold once the device has failed, if not just the same.
    pub ram_alone: Option<RamAlone>,
}

/// What RAM holds without a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RamAlone {
    /// All experts, in place in the mapped checkpoint.
    InPlace,
    /// As many at a time.
    Slots(usize),
}

/// A device and how its misses are met.
#[derive(Clone)]
pub struct DeviceOptions {
    /// The device.
    pub device: Arc<dyn Device>,
    /// Fetch, compute on the CPU, or whichever is sooner by `bandwidths`.
    pub misses: Misses,
    /// Measured on this machine.
    pub bandwidths: Bandwidths,
}

/// All experts of a checkpoint, by tier.
pub struct Experts {
    checkpoint: Arc<Checkpoint>,
    ram: Arc<RamTier>,
    device: Option<(Tier<DeviceMemory>, DeviceOptions)>,
    /// How fast the device's misses are met.
    speeds: Arc<Speeds>,
    /// Which of the two tiers hold what.
    copies: Arc<Copies>,
    eviction: Eviction,
    ram_alone: Option<RamAlone>,
    /// The RAM tier after the device failed, in place of `ram`.
    alone: OnceLock<RamTier>,
    /// Raised when the device failed: everything is computed from RAM then.
    device_lost: AtomicBool,
    prefetch: usize,
    no_core_to_spare: bool,
    trace: Trace,
    opened: Instant,
    /// When a single token last asked for an expert, in milliseconds since `opened`, plus one.
    last_claim_ms: AtomicU64,
}

/// An expert kept in its tier until dropped; it may still be on its way.
pub struct Claim(ClaimIn);

enum ClaimIn {
    Device(Lease<DeviceMemory>),
    Ram(RamLease),
}

/// Where a claimed expert can be computed. Lives on the stack for one expert's computation, so
/// its size is no matter.
#[allow(clippy::large_enum_variant)]
pub enum Place<'a> {
    /// In a slot of the device.
    Device(&'a dyn Device, usize),
    /// On the CPU.
    Ram(ExpertWeights<'a>),
}

impl Experts {
    /// Sets the tiers up; nothing is read yet.
    ///
    /// # Errors
    /// [`TierError::TooFewSlots`] when a tier could not hold one token's experts of a layer and
    /// the reads that run ahead.
    pub fn new(checkpoint: Arc<Checkpoint>, options: ExpertOptions) -> Result<Self, TierError> {
        let c = checkpoint.spec();
        let total = c.n_layers * c.n_experts;
        let device_slots = options.device.as_ref().map_or(0, |d| d.device.n_slots());
        // What is mere transit to a device that holds everything belongs to no layer.
        let ram_eviction = match device_slots < total {
            true => options.eviction,
            false => Eviction::Global,
        };
        let in_slots = options
            .ram_slots
            .filter(|slots| *slots < total || options.pinned.is_some());
        let in_memory = [in_slots.unwrap_or(total), device_slots];
        let keeps_last = device_slots > 0
            && options
                .eviction
                .keeps_all_in_memory(c.n_layers, c.n_experts, c.top_k, in_memory);
        let copies = Copies::new(c.n_layers, c.n_experts, keeps_last);
        let ram = match in_slots {
            Some(slots) => {
                let least = ram_eviction.least_ram_slots(c.n_layers, c.top_k);
                if slots < least {
                    return Err(TierError::TooFewSlots { slots, least });
                }
                RamTier::slots(
                    Arc::clone(&checkpoint),
                    slots,
                    ram_eviction,
                    options.pinned.map(|memory| Reader {
                        memory,
                        pinned_slots: options.pinned_slots.unwrap_or(usize::MAX),
                    }),
                    Arc::clone(&copies),
                    Vec::new(),
                )
            }
            None => RamTier::mapped(Arc::clone(&checkpoint), &copies),
        };
        let ram = Arc::new(ram);
        let measured = options.device.as_ref().map(|setup| setup.bandwidths);
        let speeds = Arc::new(Speeds::new(measured.unwrap_or(Bandwidths::NONE)));
        let device = options.device.map(|setup| {
            let slots = setup.device.n_slots();
            let cache = ExpertCache::new(options.eviction, c.n_layers, c.n_experts, slots);
            let memory = DeviceMemory {
                device: Arc::clone(&setup.device),
                ram: Arc::clone(&ram),
                speeds: Arc::clone(&speeds),
                copies: Arc::clone(&copies),
                failure: OnceLock::new(),
            };
            let shared = (Arc::clone(&copies), Side::Device);
            let tier = Tier::new(memory, cache, shared, UPLOAD_THREADS, GUESSES_AT_ONCE);
            (tier, setup)
        });
        Ok(Self {
            ram,
            device,
            speeds,
            device_lost: AtomicBool::new(false),
            copies,
            eviction: options.eviction,
            ram_alone: options.ram_alone,
            alone: OnceLock::new(),
            prefetch: options.prefetch,
            no_core_to_spare: options.no_core_to_spare,
            trace: Trace::default(),
            opened: Instant::now(),
            last_claim_ms: AtomicU64::new(0),
            checkpoint,
        })
    }

    /// The device tier, unless there is none or it failed.
    fn device(&self) -> Option<&(Tier<DeviceMemory>, DeviceOptions)> {
        let lost = self.device_lost.load(Ordering::Relaxed);
        self.device.as_ref().filter(|_| !lost)
    }

    /// The RAM tier.
    fn ram(&self) -> &RamTier {
        self.alone.get().unwrap_or(&self.ram)
    }

    /// Gives the device up: everything is computed from RAM from now on. What only the device had
    /// is read from disk again, as it is asked for.
    pub(crate) fn lose_device(&self) {
        if self.device_lost.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some((tier, _)) = &self.device {
            tier.stop();
        }
        self.copies.forget_device();
        let Some(wanted) = self.ram_alone else {
            return;
        };
        let checkpoint = Arc::clone(&self.checkpoint);
        let held = self.ram.take_held();
        // What was pinned for the device is given back, or stays where it is used in a slot.
        let ram = match wanted {
            RamAlone::InPlace => RamTier::mapped(checkpoint, &self.copies),
            RamAlone::Slots(slots) => {
                let copies = Arc::clone(&self.copies);
                RamTier::slots(checkpoint, slots, self.eviction, None, copies, held)
            }
        };
        // Nobody else sets it: the device is lost once.
        let _ = self.alone.set(ram);
    }

    /// Takes the expert in the fastest tier that has it or shall have it, for `rows` tokens.
    /// Does not wait for a fetch.
    ///
    /// # Errors
    /// [`TierError::NoSlot`] if everything is in use.
    pub fn claim(&self, id: ExpertId, rows: usize) -> Result<Claim, TierError> {
        if rows == 1 {
            let now_ms = self.opened.elapsed().as_millis() as u64;
            self.last_claim_ms.store(now_ms + 1, Ordering::Relaxed);
        }
        let Some((_, setup)) = self.device() else {
            return Ok(Claim(ClaimIn::Ram(self.ram().demand(id)?)));
        };
        if let Some(claim) = self.hit(id) {
            return Ok(claim);
        }
        let bytes = self.checkpoint.expert_len(id);
        let on_cpu = match setup.misses {
            Misses::Fetch => false,
            Misses::Cpu => true,
            Misses::Auto => {
                let is_pinned = self.ram.is_pinned(id);
                self.speeds.now().cpu_is_sooner(bytes, rows, is_pinned)
            }
        };
        if on_cpu {
            self.on_cpu(id)
        } else {
            self.demand_on_device(id)
        }
    }

    /// How long ago a single token asked for an expert; `None`: it never did.
    fn idle_time(&self) -> Option<Duration> {
        let at = self.last_claim_ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            self.opened
                .elapsed()
                .saturating_sub(Duration::from_millis(at)),
        )
    }

    /// The expert on the device, or on its way there.
    pub(crate) fn hit(&self, id: ExpertId) -> Option<Claim> {
        let (tier, _) = self.device()?;
        let lease = tier.demand_if_present(id)?;
        Some(Claim(ClaimIn::Device(lease)))
    }

    /// The expert on the device, fetched if it is not there.
    pub(crate) fn demand_on_device(&self, id: ExpertId) -> Result<Claim, TierError> {
        let Some((tier, _)) = self.device() else {
            return Err(TierError::Device {
                reason: "it was given up".to_owned(),
            });
        };
        Ok(Claim(ClaimIn::Device(tier.demand(id)?)))
    }

    /// The expert in RAM, to be computed there though there is a device.
    pub(crate) fn on_cpu(&self, id: ExpertId) -> Result<Claim, TierError> {
        if let Some((tier, _)) = self.device() {
            tier.count_miss();
        }
        Ok(Claim(ClaimIn::Ram(self.ram().demand(id)?)))
    }

    /// How each of a token's experts in a layer is best computed: `None`, it is on the device.
    pub(crate) fn ways(&self, ids: &[ExpertId]) -> Vec<Option<Miss>> {
        let Some((tier, setup)) = self.device() else {
            return vec![Some(Miss::Cpu); ids.len()];
        };
        let (arrivals, traffic) = tier.outlook(ids);
        let bandwidths = self.speeds.now();
        let seconds = |id: &ExpertId| {
            let bytes = self.checkpoint.expert_len(*id);
            bandwidths.copy_seconds(bytes, self.ram.is_pinned(*id))
        };
        // What is copied of the first fetch is copied, but it is not there before it is there.
        let left = |fetches: usize| {
            let copies = traffic.fetches[..fetches].iter().map(seconds);
            let first = traffic.fetches.first().map_or(0.0, seconds);
            (copies.sum::<f64>() - first.min(traffic.under_way.as_secs_f64())).max(0.0)
        };
        let missing: Vec<Missing> = ids
            .iter()
            .zip(&arrivals)
            .filter_map(|(id, arrival)| {
                let left_seconds = match arrival {
                    Arrival::Here => return None,
                    Arrival::Coming(before) => Some(left(before + 1)),
                    Arrival::Absent => None,
                };
                Some(Missing {
                    bytes: self.checkpoint.expert_len(*id),
                    rows: 1,
                    is_pinned: self.ram.is_pinned(*id),
                    left_seconds,
                })
            })
            .collect();
        let queued_seconds = left(traffic.fetches.len());
        let ways = misses::choose(setup.misses, bandwidths, queued_seconds, &missing);
        let mut ways = (0..missing.len()).map(|i| ways.of(i));
        let way = |arrival: &Arrival| match arrival {
            Arrival::Here => None,
            Arrival::Coming(_) | Arrival::Absent => ways.next(),
        };
        arrivals.iter().map(way).collect()
    }

    /// Whether a miss may be computed on the CPU.
    pub(crate) fn may_use_cpu(&self) -> bool {
        self.device()
            .is_some_and(|(_, setup)| setup.misses != Misses::Fetch)
    }

    /// Has experts that the CPU computed for two tokens in a row come to the device, where
    /// [`misses::promotes`] says so.
    pub(crate) fn promote(&self, ids: impl Iterator<Item = ExpertId>) {
        let c = self.checkpoint.spec();
        if let Some((tier, _)) = self.device()
            && misses::promotes(tier.is_idle(), tier.n_slots(), c.n_layers * c.top_k)
        {
            tier.prefetch(&ids.collect::<Vec<_>>());
        }
    }

    /// Whether the device holds every expert, for good.
    pub(crate) fn all_on_device(&self) -> bool {
        let c = self.checkpoint.spec();
        let total = c.n_layers * c.n_experts;
        self.device().is_some_and(|(tier, _)| {
            tier.n_slots() == total && tier.held(c.n_experts, total).into_iter().all(|held| held)
        })
    }

    /// The device slot of every expert that has one, by `layer * n_experts + expert`.
    pub(crate) fn device_slots(&self) -> Vec<Option<usize>> {
        let c = self.checkpoint.spec();
        let total = c.n_layers * c.n_experts;
        match self.device() {
            Some((tier, _)) => tier.slots_of(c.n_experts, total),
            None => vec![None; total],
        }
    }

    /// Counts a token's experts, all found on the device.
    pub(crate) fn count_device_hits(&self, hits: u64) {
        if let Some((tier, _)) = self.device() {
            tier.count_hits(hits);
        }
    }

    /// How fast misses are met at the moment; `None` without a device.
    pub fn bandwidths(&self) -> Option<Bandwidths> {
        self.device().map(|_| self.speeds.now())
    }

    /// Notes that the CPU took `seconds` for the expert `id`, for one token.
    pub(crate) fn note_cpu(&self, id: ExpertId, seconds: f64) {
        self.speeds
            .note_cpu(self.checkpoint.expert_len(id), seconds);
    }

    /// Slots in RAM that the system would not pin for the GPU.
    pub fn refused_slots(&self) -> usize {
        self.ram.refused()
    }

    /// Slots in RAM that are not pinned for the GPU that reads them.
    pub fn unpinned_slots(&self) -> usize {
        self.ram().unpinned()
    }

    /// Whether `id` can be computed without waiting for the disk.
    pub fn contains(&self, id: ExpertId) -> bool {
        self.device().is_some_and(|(tier, _)| tier.contains(id)) || self.ram().contains(id)
    }

    /// Whether `id` is in the fastest tier there is.
    pub fn is_in_fastest(&self, id: ExpertId) -> bool {
        match self.device() {
            Some((tier, _)) => tier.contains(id),
            None => self.ram().contains(id),
        }
    }

    /// Experts guessed ahead per layer.
    pub fn prefetch_count(&self) -> usize {
        self.prefetch
    }

    /// Starts fetches of guessed experts, into the fastest tier.
    pub fn prefetch(&self, ids: &[ExpertId]) {
        match self.device() {
            Some((tier, _)) => tier.prefetch(ids),
            None if self.no_core_to_spare && self.ram().reads_from_memory() => {}
            None => self.ram().prefetch(ids),
        }
    }

    /// Says that a prompt is done with `id`, the `rank`-th most used expert of its layer (from 0).
    ///
    /// In each tier only as many experts of a layer as are its share of the slots stay; the
    /// others are the next to go. So a long prompt, which wants every expert of every layer once,
    /// leaves behind a cache that serves the answer.
    pub fn done_in_prompt(&self, id: ExpertId, rank: usize) {
        let n_layers = self.checkpoint.spec().n_layers;
        let share = |slots: usize| slots.saturating_sub(PROMPT_WINDOW) / n_layers;
        if !self.ram().holds_all() && rank >= share(self.ram().n_slots()) {
            self.ram().demote(id);
        }
        if let Some((tier, _)) = self.device()
            && rank >= share(tier.n_slots())
        {
            tier.demote(id);
        }
    }

    /// Bytes that [`Experts::fill`] moves: to the device by way of RAM, then into RAM.
    pub fn fill_bytes(&self) -> u64 {
        let expert = self.checkpoint.expert_bytes() as u64;
        let (on_device, in_ram) = self.fill_counts();
        if on_device == 0 {
            return self.ram().fill_bytes();
        }
        (on_device + in_ram) as u64 * expert
    }

    /// Experts that the device takes at loading, and those that only RAM does.
    fn fill_counts(&self) -> (usize, usize) {
        let c = self.checkpoint.spec();
        let on_device = self.device().map_or(0, |(tier, _)| tier.n_slots());
        let rest = c.n_layers * c.n_experts - on_device;
        (on_device, rest.min(self.ram().n_slots()))
    }

    /// Brings experts to the device and the others into RAM until both hold what they can, all
    /// layers alike. Each is read once; what went through RAM to the device stays in RAM too where
    /// nothing else needs the slot. `moved` is told of the bytes as they come.
    ///
    /// # Errors
    /// A read or copy that failed; [`TierError::Stopped`] after a break of `moved`.
    pub fn fill(&self, moved: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(), TierError> {
        let c = self.checkpoint.spec();
        let by_rank = (0..c.n_experts).flat_map(|expert| {
            (0..c.n_layers).map(move |layer| ExpertId {
                layer: layer as u16,
                expert: expert as u16,
            })
        });
        let (on_device, in_ram) = self.fill_counts();
        self.ram().spare_pins(on_device);
        if let Some((tier, _)) = self.device() {
            let mut coming = VecDeque::new();
            for id in by_rank.clone().take(on_device) {
                coming.push_back(tier.demand(id)?);
                if coming.len() > UPLOAD_THREADS
                    && let Some(lease) = coming.pop_front()
                {
                    lease.ready()?;
                    proceed(moved(self.checkpoint.expert_bytes() as u64))?;
                }
            }
            for lease in coming {
                lease.ready()?;
                proceed(moved(self.checkpoint.expert_bytes() as u64))?;
            }
        }
        if on_device == 0 {
            return self.ram().fill(self.order_of_reading().into_iter(), moved);
        }
        self.ram().spare_pins(0);
        let rest = by_rank.skip(on_device).take(in_ram);
        self.ram().fill(rest, moved)
    }

    /// What RAM has room for without a device: all in the order of the files, or all layers alike.
    fn order_of_reading(&self) -> Vec<ExpertId> {
        let mut order: Vec<ExpertId> = self.checkpoint.expert_ids().collect();
        if !self.ram().holds_all() {
            order.sort_by_key(|id| (id.expert, id.layer));
            order.truncate(self.ram().n_slots());
        }
        order
    }

    /// Publishes the newest token of `routing` to those who watch.
    pub(crate) fn publish(&self, routing: &RoutingStats) {
        self.trace
            .publish(routing, self.checkpoint.spec().n_experts);
    }

    /// Forgets the tokens so far.
    pub(crate) fn forget_trace(&self) {
        self.trace.forget();
    }

    /// The experts that the newest token used in the last layer, into `experts`.
    pub fn newest_in_last_layer(&self, experts: &mut Vec<u16>) {
        self.trace
            .newest_in(self.checkpoint.spec().n_layers - 1, experts);
    }

    /// Where the experts are now and what the newest token did with them.
    pub fn snapshot(&self) -> Snapshot {
        let c = self.checkpoint.spec();
        let state = self.trace.state();
        let total = c.n_layers * c.n_experts;
        let mut counts = state.counts;
        counts.resize(total, 0);
        let mut places = vec![Residence::Disk; total];
        let mut mark = |held: Vec<bool>, residence| {
            for (place, _) in places.iter_mut().zip(held).filter(|(_, held)| *held) {
                *place = residence;
            }
        };
        mark(self.ram().held(), Residence::Ram);
        if let Some((tier, _)) = self.device() {
            mark(tier.held(c.n_experts, total), Residence::Device);
        }
        Snapshot {
            n_layers: c.n_layers,
            n_experts: c.n_experts,
            top_k: c.top_k,
            tokens: state.tokens,
            places,
            newest: state.newest,
            missed: state.missed,
            counts,
            stats: self.stats(),
            kept_from_previous: state.kept_from_previous,
        }
    }

    /// The counters so far.
    pub fn stats(&self) -> ExpertStats {
        let alone = self.alone.get().map(RamTier::stats);
        ExpertStats {
            ram: self.ram.stats() + alone.unwrap_or_default(),
            device: self.device.as_ref().map(|(tier, _)| tier.stats()),
        }
    }
}

/// The error of a break.
fn proceed(flow: ControlFlow<()>) -> Result<(), TierError> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TierError::Stopped),
    }
}

impl Claim {
    /// Which expert.
    pub fn id(&self) -> ExpertId {
        match &self.0 {
            ClaimIn::Device(lease) => lease.id(),
            ClaimIn::Ram(lease) => lease.id(),
        }
    }

    /// The slot on the device, where it is, or shall be, there.
    pub(crate) fn slot(&self) -> Option<usize> {
        match &self.0 {
            ClaimIn::Device(lease) => Some(lease.slot()),
            ClaimIn::Ram(_) => None,
        }
    }

    /// Whether [`Claim::wait`] would not wait; of RAM nothing is known.
    pub(crate) fn is_ready(&self) -> bool {
        match &self.0 {
            ClaimIn::Device(lease) => lease.is_ready(),
            ClaimIn::Ram(_) => false,
        }
    }

    /// Waits until the expert is there.
    ///
    /// # Errors
    /// [`TierError::Fetch`] if its fetch failed, [`TierError::Device`] if the device did.
    pub fn wait(&mut self) -> Result<Place<'_>, TierError> {
        match &mut self.0 {
            ClaimIn::Device(lease) => {
                if let Err(error) = lease.ready() {
                    return Err(match lease.memory().failure.get() {
                        Some(reason) => TierError::Device {
                            reason: reason.clone(),
                        },
                        None => error,
                    });
                }
                Ok(Place::Device(&*lease.memory().device, lease.slot()))
            }
            ClaimIn::Ram(lease) => Ok(Place::Ram(lease.weights()?)),
        }
    }
}
