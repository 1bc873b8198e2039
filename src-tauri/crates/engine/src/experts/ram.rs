//! The RAM tier: experts in place in the mapped checkpoint, or in slots within a byte budget.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cache::ExpertCache;
use super::copies::{Copies, Side};
use super::device::{PinnedBytes, PinnedMemory, UnfilledPinned};
use super::proceed;
use super::read_source::ReadSource;
use super::stats::TierStats;
use super::tier::{Lease, Memory, Tier, TierError};
use crate::checkpoint::{Checkpoint, CheckpointError, ExpertId, ExpertWeights};
use crate::plan::Eviction;

/// Threads that read experts from disk; a third brought nothing on the drives tried.
const READ_THREADS: usize = 2;

/// Mapped bytes that are brought in at a time: some 10 ms from a drive.
const FILL_BYTES: usize = 8 << 20;

/// Where the RAM tier keeps experts.
pub(super) enum RamTier {
    /// The budget holds them all: used in place in the map, read ahead on first use.
    Mapped(Mapped),
    /// Copies in slots, read from the files by position (so the map adds nothing to memory use).
    Slots {
        checkpoint: Arc<Checkpoint>,
        tier: Tier<RamSlots>,
    },
}

/// Experts in place.
pub(super) struct Mapped {
    checkpoint: Arc<Checkpoint>,
    /// By `layer * n_experts + expert`: whether the system was told to read it.
    touched: Vec<AtomicU64>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Slots of private memory.
pub(super) struct RamSlots {
    checkpoint: Arc<Checkpoint>,
    /// A lease shares the bytes; a slot is rewritten only when none is out.
    slots: Vec<Mutex<Arc<SlotBytes>>>,
    /// The GPU that reads the slots, for which they are pinned.
    reader: Option<Reader>,
    /// By slot: whether it is in plain RAM though a GPU reads it.
    plain: Vec<AtomicBool>,
    /// Slots that are pinned, or are being.
    pinned: AtomicUsize,
    /// How many may be for now, see [`RamTier::spare_pins`].
    pin_limit: AtomicUsize,
    /// Slots that the system did not allow to be pinned.
    refused: AtomicUsize,
    /// Whether the newest read came from the page cache.
    from_memory: AtomicBool,
}

/// A GPU that slots are copied to.
pub(super) struct Reader {
    pub(super) memory: Arc<dyn PinnedMemory>,
    /// Slots that may be pinned for it: what goes beyond some systems refuse, and others pay for
    /// elsewhere.
    pub(super) pinned_slots: usize,
}

/// An expert that lies in a slot.
pub(super) struct Held {
    id: ExpertId,
    bytes: Arc<SlotBytes>,
}

/// The memory of a slot.
enum SlotBytes {
    Plain(Vec<u8>),
    /// A GPU reads it at full speed.
    Pinned(Box<PinnedBytes>),
}

impl Default for SlotBytes {
    fn default() -> Self {
        Self::Plain(Vec::new())
    }
}

impl Deref for SlotBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Pinned(bytes) => bytes,
        }
    }
}

impl DerefMut for SlotBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Pinned(bytes) => bytes,
        }
    }
}

impl RamSlots {
    fn lock(&self, slot: usize) -> MutexGuard<'_, Arc<SlotBytes>> {
        self.slots[slot]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Pinned memory for a slot, nothing in it yet; `None` where it has to be plain. After one
    /// refusal no more is pinned: the system is at its limit.
    fn pin(&self, slot: usize, len: usize) -> Option<Box<dyn UnfilledPinned>> {
        let reader = self.reader.as_ref()?;
        let is_refused = self.refused.load(Ordering::Relaxed) > 0;
        let may_pin =
            self.pinned.fetch_add(1, Ordering::Relaxed) < self.pin_limit.load(Ordering::Relaxed);
        let pinned = match may_pin && !is_refused {
            true => reader.memory.take(len),
            false => None,
        };
        if pinned.is_none() {
            self.pinned.fetch_sub(1, Ordering::Relaxed);
            self.refused
                .fetch_add(usize::from(may_pin), Ordering::Relaxed);
        }
        self.plain[slot].store(pinned.is_none(), Ordering::Relaxed);
        pinned
    }

    /// Reads `id` into new memory for a slot.
    fn read_first(&self, slot: usize, id: ExpertId) -> (SlotBytes, Result<(), CheckpointError>) {
        let most = self.checkpoint.expert_bytes();
        let Some(mut pinned) = self.pin(slot, most) else {
            let mut bytes = vec![0; most];
            let len = self.checkpoint.expert_len(id);
            let read = self.checkpoint.read_expert(id, &mut bytes[..len]);
            return (SlotBytes::Plain(bytes), read);
        };
        let take = &mut |piece: &[u8]| pinned.append(piece);
        let read = self.checkpoint.read_expert_by_pieces(id, take);
        let bytes = pinned.finish();
        let checked = read.and_then(|()| self.checkpoint.check_expert(id, &bytes));
        (SlotBytes::Pinned(bytes), checked)
    }

    /// Slots in plain RAM though a GPU reads them.
    fn unpinned(&self) -> usize {
        let plain = self.plain.iter().filter(|it| it.load(Ordering::Relaxed));
        plain.count()
    }
}

impl Memory for RamSlots {
    fn fill(&self, slot: usize, id: ExpertId) -> Result<u64, String> {
        let mut held = self.lock(slot);
        let len = self.checkpoint.expert_len(id);
        let source = ReadSource::begin();
        match Arc::get_mut(&mut held) {
            Some(bytes) if bytes.len() >= len => self.checkpoint.read_expert(id, &mut bytes[..len]),
            _ => {
                // Whoever still reads what was here keeps it; the slot gets another memory.
                let was_pinned = matches!(**held, SlotBytes::Pinned(_));
                self.pinned
                    .fetch_sub(usize::from(was_pinned), Ordering::Relaxed);
                let (bytes, read) = self.read_first(slot, id);
                *held = Arc::new(bytes);
                read
            }
        }
        .map_err(|error| error.to_string())?;
        let from_memory = source.was_memory(len as u64);
        self.from_memory.store(from_memory, Ordering::Relaxed);
        Ok(len as u64)
    }
}

/// An expert in RAM, or on its way there, kept until dropped.
pub(super) struct RamLease {
    checkpoint: Arc<Checkpoint>,
    id: ExpertId,
    /// `None`: in place in the map.
    slot: Option<Lease<RamSlots>>,
    bytes: Option<Arc<SlotBytes>>,
}

impl RamTier {
    /// The whole checkpoint in place.
    pub(super) fn mapped(checkpoint: Arc<Checkpoint>, copies: &Copies) -> Self {
        let c = checkpoint.spec();
        let touched = (0..c.n_layers * c.n_experts)
            .map(|_| AtomicU64::new(0))
            .collect();
        for id in checkpoint.expert_ids() {
            copies.gained(id, Side::Ram);
        }
        Self::Mapped(Mapped {
            touched,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            checkpoint,
        })
    }

    /// `n_slots` experts at a time; `reader`: the GPU that they are copied to. `held` are there
    /// already.
    pub(super) fn slots(
        checkpoint: Arc<Checkpoint>,
        n_slots: usize,
        eviction: Eviction,
        reader: Option<Reader>,
        copies: Arc<Copies>,
        held: Vec<Held>,
    ) -> Self {
        let c = checkpoint.spec();
        let mut cache = ExpertCache::new(eviction, c.n_layers, c.n_experts, n_slots);
        let mut slots: Vec<Mutex<Arc<SlotBytes>>> =
            (0..cache.n_slots()).map(|_| Mutex::default()).collect();
        for Held { id, bytes } in held {
            if let Some(slot) = cache.empty_slot(id, |_| true) {
                cache.place(id, slot);
                slots[slot] = Mutex::new(bytes);
                copies.gained(id, Side::Ram);
            }
        }
        let pin_limit = reader.as_ref().map_or(0, |reader| reader.pinned_slots);
        let memory = RamSlots {
            checkpoint: Arc::clone(&checkpoint),
            slots,
            reader,
            plain: (0..cache.n_slots())
                .map(|_| AtomicBool::default())
                .collect(),
            pinned: AtomicUsize::new(0),
            pin_limit: AtomicUsize::new(pin_limit),
            refused: AtomicUsize::new(0),
            from_memory: AtomicBool::new(false),
        };
        let shared = (copies, Side::Ram);
        Self::Slots {
            checkpoint,
            tier: Tier::new(memory, cache, shared, READ_THREADS, READ_THREADS),
        }
    }

    /// Takes out what the slots hold; nothing may be asked of the tier afterwards.
    pub(super) fn take_held(&self) -> Vec<Held> {
        let Self::Slots { checkpoint, tier } = self else {
            return Vec::new();
        };
        tier.stop();
        let c = checkpoint.spec();
        let of_expert = tier.slots_of(c.n_experts, c.n_layers * c.n_experts);
        let mut held = Vec::new();
        for (id, slot) in checkpoint.expert_ids().zip(of_expert) {
            if let Some(slot) = slot {
                let bytes = std::mem::take(&mut *tier.memory().lock(slot));
                held.push(Held { id, bytes });
            }
        }
        // All layers alike, should there not be room for all.
        held.sort_by_key(|held| (held.id.expert, held.id.layer));
        // What is being read now is of no use any more.
        for slot in 0..tier.n_slots() {
            *tier.memory().lock(slot) = Arc::default();
        }
        held
    }

    /// The number of slots; every expert has its place when mapped.
    pub(super) fn n_slots(&self) -> usize {
        match self {
            Self::Mapped(mapped) => mapped.touched.len(),
            Self::Slots { tier, .. } => tier.n_slots(),
        }
    }

    /// Slots in plain RAM though a GPU reads them.
    pub(super) fn unpinned(&self) -> usize {
        match self {
            Self::Mapped(_) => 0,
            Self::Slots { tier, .. } => tier.memory().unpinned(),
        }
    }

    /// Slots that the system would not pin.
    pub(super) fn refused(&self) -> usize {
        match self {
            Self::Mapped(_) => 0,
            Self::Slots { tier, .. } => tier.memory().refused.load(Ordering::Relaxed),
        }
    }

    /// For the next `n` experts to be read, which go on to the device, pins only what the others do
    /// not need: those are the ones that will be copied from here.
    pub(super) fn spare_pins(&self, n: usize) {
        if let Self::Slots { tier, .. } = self
            && let memory = tier.memory()
            && let Some(reader) = &memory.reader
        {
            let others = match n {
                0 => 0,
                n => memory.slots.len().saturating_sub(n),
            };
            let limit = reader.pinned_slots.saturating_sub(others);
            memory.pin_limit.store(limit, Ordering::Relaxed);
        }
    }

    /// Whether `id` is copied to the device at full speed. What is not here yet will lie as most do.
    pub(super) fn is_pinned(&self, id: ExpertId) -> bool {
        let Self::Slots { tier, .. } = self else {
            return true;
        };
        let memory = tier.memory();
        match tier.slot_of(id) {
            Some(slot) => !memory.plain[slot].load(Ordering::Relaxed),
            None => 2 * memory.unpinned() < memory.slots.len(),
        }
    }

    /// Whether the newest read into a slot came from the page cache.
    pub(super) fn reads_from_memory(&self) -> bool {
        match self {
            Self::Mapped(_) => false,
            Self::Slots { tier, .. } => tier.memory().from_memory.load(Ordering::Relaxed),
        }
    }

    /// Whether all experts have a place, so that nothing is ever evicted.
    pub(super) fn holds_all(&self) -> bool {
        match self {
            Self::Mapped(_) => true,
            Self::Slots { checkpoint, tier } => {
                let c = checkpoint.spec();
                tier.n_slots() == c.n_layers * c.n_experts
            }
        }
    }

    /// Reserves `id` and starts its read if need be.
    pub(super) fn demand(&self, id: ExpertId) -> Result<RamLease, TierError> {
        match self {
            Self::Mapped(mapped) => {
                let count = if mapped.touch(id) {
                    &mapped.misses
                } else {
                    &mapped.hits
                };
                count.fetch_add(1, Ordering::Relaxed);
                let checkpoint = Arc::clone(&mapped.checkpoint);
                Ok(RamLease {
                    checkpoint,
                    id,
                    slot: None,
                    bytes: None,
                })
            }
            Self::Slots { checkpoint, tier } => {
                let slot = Some(tier.demand(id)?);
                Ok(RamLease {
                    checkpoint: Arc::clone(checkpoint),
                    id,
                    slot,
                    bytes: None,
                })
            }
        }
    }

    /// Starts reads of guessed experts.
    pub(super) fn prefetch(&self, ids: &[ExpertId]) {
        match self {
            Self::Mapped(mapped) => {
                for id in ids {
                    mapped.touch(*id);
                }
            }
            Self::Slots { tier, .. } => tier.prefetch(ids),
        }
    }

    pub(super) fn demote(&self, id: ExpertId) {
        if let Self::Slots { tier, .. } = self {
            tier.demote(id);
        }
    }

    /// Whether `id` can be read without waiting for the disk, as far as this tier knows.
    pub(super) fn contains(&self, id: ExpertId) -> bool {
        match self {
            Self::Mapped(mapped) => mapped.mark(id).load(Ordering::Relaxed) != 0,
            Self::Slots { tier, .. } => tier.contains(id),
        }
    }

    /// By `layer * n_experts + expert`: whether it [is contained](Self::contains).
    pub(super) fn held(&self) -> Vec<bool> {
        match self {
            Self::Mapped(mapped) => {
                let touched = mapped.touched.iter();
                touched.map(|t| t.load(Ordering::Relaxed) != 0).collect()
            }
            Self::Slots { checkpoint, tier } => {
                let c = checkpoint.spec();
                tier.held(c.n_experts, c.n_layers * c.n_experts)
            }
        }
    }

    /// Bytes that the tier holds when it is full.
    pub(super) fn fill_bytes(&self) -> u64 {
        match self {
            Self::Mapped(mapped) => mapped.checkpoint.experts_total_bytes(),
            Self::Slots { checkpoint, tier } => (tier.n_slots() * checkpoint.expert_bytes()) as u64,
        }
    }

    /// Reads the experts `ids`, one after the other; `read` is told of the bytes as they come.
    pub(super) fn fill(
        &self,
        ids: impl Iterator<Item = ExpertId>,
        read: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), TierError> {
        match self {
            Self::Mapped(mapped) => {
                for id in ids {
                    mapped.touch(id);
                    let mut at = 0;
                    while let Some(end) = mapped.read_piece(id, at) {
                        proceed(read((end - at) as u64))?;
                        at = end;
                    }
                }
            }
            Self::Slots { checkpoint, tier } => {
                // One is read while the next is asked for, so that no reader waits.
                let mut coming: VecDeque<Lease<RamSlots>> = VecDeque::new();
                for id in ids {
                    coming.push_back(tier.demand(id)?);
                    if coming.len() > READ_THREADS
                        && let Some(lease) = coming.pop_front()
                    {
                        lease.ready()?;
                        proceed(read(checkpoint.expert_bytes() as u64))?;
                    }
                }
                for lease in coming {
                    lease.ready()?;
                    proceed(read(checkpoint.expert_bytes() as u64))?;
                }
            }
        }
        Ok(())
    }

    /// Reads a piece of an expert that nobody asked for, from byte `at` on, unless it would have
    /// to take another one's place; where the piece ends, or `None` when there is no more to do.
    pub(super) fn read_piece(&self, id: ExpertId, at: usize) -> Option<usize> {
        match self {
            Self::Mapped(mapped) => {
                if at == 0 {
                    mapped.mark(id).store(mapped.len(id), Ordering::Relaxed);
                }
                mapped.read_piece(id, at)
            }
            Self::Slots { tier, .. } => {
                if let Some(lease) = tier.demand_into_empty_slot(id) {
                    // Whoever needs the expert is told what went wrong.
                    let _ = lease.ready();
                }
                None
            }
        }
    }

    pub(super) fn stats(&self) -> TierStats {
        match self {
            Self::Mapped(mapped) => TierStats {
                hits: mapped.hits.load(Ordering::Relaxed),
                misses: mapped.misses.load(Ordering::Relaxed),
                bytes_moved: mapped
                    .touched
                    .iter()
                    .map(|t| t.load(Ordering::Relaxed))
                    .sum(),
                ..TierStats::default()
            },
            Self::Slots { tier, .. } => tier.stats(),
        }
    }
}

impl Mapped {
    fn mark(&self, id: ExpertId) -> &AtomicU64 {
        let n_experts = self.checkpoint.spec().n_experts;
        &self.touched[usize::from(id.layer) * n_experts + usize::from(id.expert)]
    }

    fn len(&self, id: ExpertId) -> u64 {
        self.checkpoint.expert_len(id) as u64
    }

    /// Brings a piece of an expert, from byte `at` on, into memory; where it ends, or `None` at the
    /// expert's end.
    fn read_piece(&self, id: ExpertId, at: usize) -> Option<usize> {
        let end = self.checkpoint.expert_len(id).min(at + FILL_BYTES);
        (at < end).then(|| {
            self.checkpoint.bring_in(id, at..end);
            end
        })
    }

    /// On first use, has the system read the expert ahead of the page faults; whether it was.
    fn touch(&self, id: ExpertId) -> bool {
        let first = self.mark(id).swap(self.len(id), Ordering::Relaxed) == 0;
        if first {
            self.checkpoint.advise_will_need(id);
        }
        first
    }
}

impl RamLease {
    /// Whether what [`RamLease::bytes`] gave is pinned for the GPU that reads it.
    pub(super) fn is_pinned(&self) -> bool {
        match &self.slot {
            Some(lease) => !lease.memory().plain[lease.slot()].load(Ordering::Relaxed),
            None => true,
        }
    }

    pub(super) fn id(&self) -> ExpertId {
        self.id
    }

    /// The expert's data range, waiting for it if need be.
    pub(super) fn bytes(&mut self) -> Result<&[u8], TierError> {
        match &self.slot {
            None => Ok(self.checkpoint.expert_data(self.id)),
            Some(lease) => {
                if self.bytes.is_none() {
                    lease.ready()?;
                    let held = lease.memory().lock(lease.slot());
                    self.bytes = Some(Arc::clone(&held));
                }
                let bytes = self.bytes.as_deref().map_or(&[][..], |bytes| &bytes[..]);
                let len = self.checkpoint.expert_len(self.id);
                bytes.get(..len).ok_or_else(|| TierError::Fetch {
                    layer: self.id.layer,
                    expert: self.id.expert,
                    reason: "this memory was given up".to_owned(),
                })
            }
        }
    }

    /// The expert's matrices, waiting for them if need be.
    pub(super) fn weights(&mut self) -> Result<ExpertWeights<'_>, TierError> {
        if self.slot.is_none() {
            return Ok(self.checkpoint.expert_mapped(self.id));
        }
        self.bytes()?;
        let bytes = self.bytes.as_deref().map_or(&[][..], |bytes| &bytes[..]);
        Ok(self.checkpoint.expert_view(self.id, bytes))
    }
}
