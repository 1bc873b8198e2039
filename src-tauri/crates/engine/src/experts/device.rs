//! The tier above RAM: memory with slots of its own that also computes.

use std::ops::DerefMut;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::copies::{Copies, Side};
use super::ram::RamTier;
use super::speeds::Speeds;
use super::tier::Memory;
use crate::checkpoint::ExpertId;

/// What a GPU (or, in tests, plain memory standing in for one) has to do.
///
/// Calls come from several threads: uploads from the fetch thread, forwards from the engine's.
/// The tier sees to it that a slot is never read while it is being written.
pub trait Device: Send + Sync + 'static {
    /// The device's name, for people.
    fn name(&self) -> &str;

    /// Slots, each large enough for the largest expert.
    fn n_slots(&self) -> usize;

    /// Copies an expert's bytes (the data range of its file) into `slot`; returns when they are
    /// there.
    ///
    /// # Errors
    /// What the device reports.
    fn upload(&self, slot: usize, id: ExpertId, bytes: &[u8]) -> Result<(), String>;

    /// `y = expert(x)`, both f32 `(t, hidden)`, with the expert in `slot`.
    ///
    /// # Errors
    /// What the device reports.
    fn forward(&self, slot: usize, id: ExpertId, x: &[f32], y: &mut [f32]) -> Result<(), String>;
}

/// Host memory that a device reads at full speed: the system keeps it where it is.
pub trait PinnedMemory: Send + Sync {
    /// Takes `len` bytes; `None` where the system allows no more.
    fn take(&self, len: usize) -> Option<Box<dyn UnfilledPinned>>;
}

/// Pinned memory that is being written for the first time.
pub trait UnfilledPinned {
    /// Writes `bytes` behind what was written before.
    ///
    /// # Panics
    /// If there is no room for them.
    fn append(&mut self, bytes: &[u8]);

    /// The memory; what was not written is zero.
    fn finish(self: Box<Self>) -> Box<PinnedBytes>;
}

/// Pinned memory in use.
pub type PinnedBytes = dyn DerefMut<Target = [u8]> + Send + Sync;

/// Bytes a second of the ways to meet a miss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bandwidths {
    /// From pinned RAM into the device.
    pub upload: f64,
    /// From plain RAM, through pinned buffers.
    pub staged: f64,
    /// Of an expert's matrices computed on the CPU, one token at a time.
    pub cpu: f64,
}

impl Bandwidths {
    /// Of a machine without a device.
    pub(super) const NONE: Self = Self {
        upload: 1.0,
        staged: 1.0,
        cpu: 1.0,
    };

    /// Whether computing an expert of `bytes` for `rows` tokens on the CPU ends sooner than
    /// fetching it.
    pub fn cpu_is_sooner(&self, bytes: usize, rows: usize, is_pinned: bool) -> bool {
        rows as f64 * bytes as f64 / self.cpu < self.copy_seconds(bytes, is_pinned)
    }

    /// How long it takes to copy `bytes` to the device.
    pub fn copy_seconds(&self, bytes: usize, is_pinned: bool) -> f64 {
        bytes as f64 / if is_pinned { self.upload } else { self.staged }
    }
}

/// A device's slots, filled from the RAM tier.
pub(super) struct DeviceMemory {
    pub(super) device: Arc<dyn Device>,
    pub(super) ram: Arc<RamTier>,
    /// Follows what the copies take.
    pub(super) speeds: Arc<Speeds>,
    pub(super) copies: Arc<Copies>,
    /// What the device said when a copy failed, which tells that from a read that failed.
    pub(super) failure: OnceLock<String>,
}

impl Memory for DeviceMemory {
    fn fill(&self, slot: usize, id: ExpertId) -> Result<u64, String> {
        let mut lease = self.ram.demand(id).map_err(|error| error.to_string())?;
        lease.bytes().map_err(|error| error.to_string())?;
        let is_pinned = lease.is_pinned();
        let bytes = lease.bytes().map_err(|error| error.to_string())?;
        let begun = Instant::now();
        self.device.upload(slot, id, bytes).inspect_err(|reason| {
            // The first failure is the one to tell of.
            let _ = self.failure.set(reason.clone());
        })?;
        self.speeds.note_copy(bytes.len(), is_pinned, begun);
        let moved = bytes.len() as u64;
        // Before the lease goes, which wakes those who wait for RAM to have a duplicate.
        self.copies.gained(id, Side::Device);
        Ok(moved)
    }
}
