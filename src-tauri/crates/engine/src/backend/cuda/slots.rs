//! The expert slots in VRAM: the device tier's memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use octet_kernels::QMatrix;
use octet_kernels::cuda::{
    Buffer, CudaError, DeviceExpert, Event, Ops, Placement, Rows, Slice, Stream,
};

use super::OpenGpu;
use super::staging::Staging;
use crate::checkpoint::{Checkpoint, ExpertId};
use crate::experts::Device;

/// Slots start at multiples of this.
const SLOT_ALIGN: usize = 256;

/// Expert slots on a GPU.
pub struct Slots {
    ops: Arc<Ops>,
    name: String,
    checkpoint: Arc<Checkpoint>,
    copies: Stream,
    /// Held while an expert's copies are queued, so that they stay together. What is not pinned
    /// goes through the ring, if there is one.
    turn: Mutex<Option<Staging>>,
    memory: Buffer,
    stride: usize,
    /// A [`DeviceExpert`] a slot, for the kernels.
    experts: Buffer,
    slots: Vec<Mutex<Slot>>,
    /// What all experts look like, if they all look the same and the fast kernels can take them.
    uniform: Option<DeviceExpert>,
}

#[derive(Default)]
struct Slot {
    expert: DeviceExpert,
    /// The end of the last kernels that read the slot.
    used: Option<Arc<Event>>,
}

impl Slots {
    /// Bytes that one slot takes for experts of `expert_bytes`.
    pub fn slot_bytes(expert_bytes: usize) -> usize {
        (expert_bytes + Placement::EXPERT_SLACK).next_multiple_of(SLOT_ALIGN)
    }

    /// `n` slots for the experts of `checkpoint`.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`] where only fewer fit.
    pub fn new(opened: &OpenGpu, checkpoint: Arc<Checkpoint>, n: usize) -> Result<Self, CudaError> {
        let gpu = opened.gpu();
        let stride = Self::slot_bytes(checkpoint.expert_bytes());
        Ok(Self {
            ops: Arc::clone(&opened.ops),
            name: gpu.name().to_owned(),
            copies: Stream::new(gpu)?,
            turn: Mutex::new(Staging::new(gpu, checkpoint.expert_bytes())),
            memory: Buffer::new(gpu, "expert slots", n * stride)?,
            stride,
            experts: Buffer::new(gpu, "expert slots", n * size_of::<DeviceExpert>())?,
            slots: (0..n).map(|_| Mutex::default()).collect(),
            uniform: uniform(&checkpoint),
            checkpoint,
        })
    }

    pub(super) fn uniform(&self) -> Option<DeviceExpert> {
        self.uniform
    }

    /// The descriptors, by slot.
    pub(super) fn experts(&self) -> Slice<'_, DeviceExpert> {
        self.experts.slice()
    }

    /// What lies in `slot`.
    pub(super) fn expert(&self, slot: usize) -> DeviceExpert {
        self.slot(slot).expert
    }

    /// Has the next copy into `slot` wait for `event`, behind the kernels that read the slot now.
    pub(super) fn used(&self, slot: usize, event: &Arc<Event>) {
        self.slot(slot).used = Some(Arc::clone(event));
    }

    fn slot(&self, slot: usize) -> MutexGuard<'_, Slot> {
        self.slots[slot]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the copies of an expert; the event is behind them.
    ///
    /// # Safety
    /// `bytes` must live and stay as they are until the copy stream has passed the copies.
    unsafe fn queue(&self, slot: usize, id: ExpertId, bytes: &[u8]) -> Result<Event, CudaError> {
        let base = self.memory.slice::<u8>().part(slot * self.stride, 0);
        let weights = self.checkpoint.expert_view(id, bytes);
        let (placement, [w1, w2, w3]) = Placement::of(bytes, weights.hqq(), base.address());
        assert!(
            placement.bytes <= self.stride,
            "BUG: an expert that takes {} bytes in a slot of {}",
            placement.bytes,
            self.stride
        );
        let expert = DeviceExpert { w1, w2, w3 };
        let mut state = self.slot(slot);
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let staging = match self.copies.gpu().is_pinned(bytes) {
            true => &mut None,
            false => &mut *turn,
        };
        if let Some(used) = &state.used {
            // Only then forgotten: if this fails, the next copy has to wait for it still.
            self.copies.wait(used)?;
            state.used = None;
        }
        for (range, at) in placement.copies {
            let to = self.memory.slice();
            let to = to.part(slot * self.stride + at, range.len());
            match staging {
                Some(staging) => staging.upload(&self.copies, &bytes[range], to)?,
                // SAFETY: the caller keeps `bytes`.
                None => unsafe { self.copies.upload(&bytes[range], to)? },
            }
        }
        // Experts of one layout look the same in the same slot.
        if state.expert != expert {
            let to = self.experts.slice().part(slot, 1);
            // SAFETY: a source that is not pinned is read before the call returns.
            unsafe { self.copies.upload(&[expert], to)? };
            state.expert = expert;
        }
        self.copies.record()
    }
}

impl Device for Slots {
    fn name(&self) -> &str {
        &self.name
    }

    fn n_slots(&self) -> usize {
        self.slots.len()
    }

    fn upload(&self, slot: usize, id: ExpertId, bytes: &[u8]) -> Result<(), String> {
        // SAFETY: `bytes` are borrowed until this function returns, and it waits for the copies
        // even if something fails on the way.
        let queued = unsafe { self.queue(slot, id, bytes) };
        let done = queued.and_then(|event| event.synchronize());
        done.map_err(|error| {
            let _ = self.copies.synchronize();
            error.to_string()
        })
    }

    fn forward(&self, slot: usize, id: ExpertId, x: &[f32], y: &mut [f32]) -> Result<(), String> {
        let expert = self.expert(slot);
        let (inner, width) = (expert.w1.n(), expert.w1.k());
        let t = x.len() / width;
        let mut run = || -> Result<(), CudaError> {
            let gpu = self.copies.gpu();
            let stream = Stream::new(gpu)?;
            let from = Buffer::of(gpu, "activations", x)?;
            let gate = Buffer::new(gpu, "activations", 4 * t * inner)?;
            let up = Buffer::new(gpu, "activations", 4 * t * inner)?;
            let to = Buffer::new(gpu, "activations", 4 * t * width)?;
            let rows = Rows {
                t,
                ..Rows::default()
            };
            let ops = &self.ops;
            ops.matvec_any(&stream, expert.w1, from.slice(), gate.slice(), rows)?;
            ops.matvec_any(&stream, expert.w3, from.slice(), up.slice(), rows)?;
            ops.silu_mul(&stream, gate.slice(), up.slice(), None)?;
            ops.matvec_any(&stream, expert.w2, gate.slice(), to.slice(), rows)?;
            to.read(0, y)
        };
        run().map_err(|error| format!("{id}: {error}"))
    }
}

/// The shape and bits of the experts, if all are alike and regular; addresses mean nothing.
fn uniform(checkpoint: &Checkpoint) -> Option<DeviceExpert> {
    let c = checkpoint.spec();
    let mut ids = (0..c.n_layers).flat_map(|layer| {
        (0..c.n_experts).map(move |expert| ExpertId {
            layer: layer as u16,
            expert: expert as u16,
        })
    });
    let kind = |m: &QMatrix<'_>| (m.n(), m.k(), m.bits(), m.group_size());
    let kinds = |id: ExpertId| {
        checkpoint
            .expert_mapped(id)
            .hqq()
            .map(|matrix| kind(&matrix))
    };
    let regular = |id: ExpertId| {
        let matrices = checkpoint.expert_mapped(id).hqq();
        let all = Placement::of(checkpoint.expert_data(id), matrices, 0).1;
        all.iter().all(|m| m.is_regular()).then_some(all)
    };
    let first = ExpertId {
        layer: 0,
        expert: 0,
    };
    let wanted = kinds(first);
    // Gate and up are one launch.
    if wanted[0] != wanted[2] {
        return None;
    }
    let [w1, w2, w3] = regular(first)?;
    ids.all(|id| kinds(id) == wanted && regular(id).is_some())
        .then_some(DeviceExpert { w1, w2, w3 })
}
