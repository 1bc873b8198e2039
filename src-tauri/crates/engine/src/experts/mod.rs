//! Where the experts live and how the one at hand gets there: tiers, leases, prefetch.
//!
//! Two tiers stand above the checkpoint on disk: RAM ([`ram`]) and, where there is one, a
//! [`Device`] with slots of its own. [`Experts::claim`] gives an expert in the fastest tier that
//! has it; a miss is fetched up or computed where it lies, whichever ends sooner.

mod cache;
mod device;
pub mod misses;
mod ram;
mod stats;
mod tier;
mod trace;

use std::sync::Arc;

pub use cache::{Admission, Eviction, ExpertCache};
pub use device::{Bandwidths, Device};
pub use misses::Miss;
pub use stats::{ExpertStats, RoutingStats, RoutingSummary, TierStats};
pub use tier::{Lease, Memory, Tier, TierError};
pub use trace::{Residence, Snapshot};

use crate::checkpoint::{Checkpoint, ExpertId, ExpertWeights};
use crate::error::EngineError;
use crate::plan::Misses;
use device::DeviceMemory;
use ram::{RamLease, RamTier};
use trace::Trace;

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
    /// The device tier, if any.
    pub device: Option<DeviceOptions>,
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
    prefetch: usize,
    trace: Trace,
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
    /// [`EngineError::TooFewSlots`] when a tier could not hold one token's experts of a layer and
    /// the reads that run ahead.
    pub fn new(checkpoint: Arc<Checkpoint>, options: ExpertOptions) -> Result<Self, EngineError> {
        let c = checkpoint.config();
        let (total, least) = (c.n_layers * c.n_experts, c.top_k + 1);
        let ram = match options.ram_slots {
            Some(slots) if slots < total => {
                let per_layer = options.eviction == Eviction::LruPerLayer;
                let least = if per_layer { least * c.n_layers } else { least };
                if slots < least {
                    return Err(EngineError::TooFewSlots { slots, least });
                }
                RamTier::slots(Arc::clone(&checkpoint), slots, options.eviction)
            }
            _ => RamTier::mapped(Arc::clone(&checkpoint)),
        };
        let ram = Arc::new(ram);
        let device = options.device.map(|setup| {
            let slots = setup.device.n_slots();
            let cache = ExpertCache::new(options.eviction, c.n_layers, c.n_experts, slots);
            let memory = DeviceMemory {
                device: Arc::clone(&setup.device),
                ram: Arc::clone(&ram),
            };
            (Tier::new(memory, cache, 1), setup)
        });
        Ok(Self {
            ram,
            device,
            prefetch: options.prefetch,
            trace: Trace::default(),
            checkpoint,
        })
    }

    /// Takes the expert in the fastest tier that has it or shall have it, for `rows` tokens.
    /// Does not wait for a fetch.
    ///
    /// # Errors
    /// [`TierError::NoSlot`] if everything is in use.
    pub fn claim(&self, id: ExpertId, rows: usize) -> Result<Claim, EngineError> {
        if let Some((tier, setup)) = &self.device {
            if let Some(lease) = tier.demand_if_present(id) {
                return Ok(Claim(ClaimIn::Device(lease)));
            }
            let on_cpu = match setup.misses {
                Misses::Fetch => false,
                Misses::Cpu => true,
                Misses::Auto => setup
                    .bandwidths
                    .cpu_is_sooner(self.checkpoint.expert_len(id), rows),
            };
            if !on_cpu {
                return Ok(Claim(ClaimIn::Device(tier.demand(id)?)));
            }
            tier.count_miss();
        }
        Ok(Claim(ClaimIn::Ram(self.ram.demand(id)?)))
    }

    /// Whether `id` can be computed without waiting for the disk.
    pub fn contains(&self, id: ExpertId) -> bool {
        self.device
            .as_ref()
            .is_some_and(|(tier, _)| tier.contains(id))
            || self.ram.contains(id)
    }

    /// Whether `id` is in the fastest tier there is.
    pub fn is_in_fastest(&self, id: ExpertId) -> bool {
        match &self.device {
            Some((tier, _)) => tier.contains(id),
            None => self.ram.contains(id),
        }
    }

    /// Experts guessed ahead per layer.
    pub fn prefetch_count(&self) -> usize {
        self.prefetch
    }

    /// Starts fetches of guessed experts, into the fastest tier.
    pub fn prefetch(&self, ids: &[ExpertId]) {
        match &self.device {
            Some((tier, _)) => tier.prefetch(ids),
            None => self.ram.prefetch(ids),
        }
    }

    /// Says that a prompt is done with `id`, the `rank`-th most used expert of its layer (from 0).
    ///
    /// In each tier only as many experts of a layer as are its share of the slots stay; the
    /// others are the next to go. So a long prompt, which wants every expert of every layer once,
    /// leaves behind a cache that serves the answer.
    pub fn done_in_prompt(&self, id: ExpertId, rank: usize) {
        let n_layers = self.checkpoint.config().n_layers;
        let share = |slots: usize| slots.saturating_sub(PROMPT_WINDOW) / n_layers;
        if !self.ram.holds_all() && rank >= share(self.ram.n_slots()) {
            self.ram.demote(id);
        }
        if let Some((tier, _)) = &self.device
            && rank >= share(tier.n_slots())
        {
            tier.demote(id);
        }
    }

    /// Bytes that [`Experts::fill`] reads.
    pub fn fill_bytes(&self) -> u64 {
        self.ram.fill_bytes()
    }

    /// Reads experts into RAM until it holds what it can, all layers alike; `read` is told of
    /// the bytes as they come.
    ///
    /// # Errors
    /// A read that failed, or what `read` gave.
    pub fn fill(
        &self,
        read: &mut dyn FnMut(u64) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let c = self.checkpoint.config();
        let by_rank = (0..c.n_experts).flat_map(|expert| {
            (0..c.n_layers).map(move |layer| ExpertId {
                layer: layer as u16,
                expert: expert as u16,
            })
        });
        self.ram.fill(by_rank.take(self.ram.n_slots()), read)
    }

    /// Publishes the newest token of `routing` to those who watch.
    pub(crate) fn publish(&self, routing: &RoutingStats) {
        self.trace
            .publish(routing, self.checkpoint.config().n_experts);
    }

    /// Forgets the tokens so far.
    pub(crate) fn forget_trace(&self) {
        self.trace.forget();
    }

    /// The experts that the newest token used in the last layer, into `experts`.
    pub fn newest_in_last_layer(&self, experts: &mut Vec<u16>) {
        self.trace
            .newest_in(self.checkpoint.config().n_layers - 1, experts);
    }

    /// Where the experts are now and what the newest token did with them.
    pub fn snapshot(&self) -> Snapshot {
        let c = self.checkpoint.config();
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
        mark(self.ram.held(), Residence::Ram);
        if let Some((tier, _)) = &self.device {
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
        ExpertStats {
            ram: self.ram.stats(),
            device: self.device.as_ref().map(|(tier, _)| tier.stats()),
        }
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

    /// Waits until the expert is there.
    ///
    /// # Errors
    /// [`EngineError::Tier`] if its fetch failed.
    pub fn wait(&mut self) -> Result<Place<'_>, EngineError> {
        match &mut self.0 {
            ClaimIn::Device(lease) => {
                lease.ready()?;
                Ok(Place::Device(&*lease.memory().device, lease.slot()))
            }
            ClaimIn::Ram(lease) => Ok(Place::Ram(lease.weights()?)),
        }
    }
}
