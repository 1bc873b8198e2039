//! Mixtral on an NVIDIA GPU: trunk and KV cache in VRAM, experts in slots, misses fetched up or
//! computed on the CPU.
//!
//! # Streams, and who waits for whom
//! Two streams: one computes, one copies experts up.
//!
//! - The engine's thread puts a layer's kernels on the compute stream. Where not all experts are in
//!   VRAM it then waits for the router's choice, the one wait a layer, and claims the experts.
//! - Hits are launched at once. Misses for the CPU are computed by the engine's thread meanwhile.
//!   Fetched ones are launched when their copy is complete, for which the engine's thread waits: so
//!   a kernel never has to wait for the copy stream.
//! - A copy into a slot waits, on the GPU, for the last kernels that read the slot: the engine's
//!   thread leaves an event behind ([`Slots::used`]) before it gives the lease back, also where an
//!   error ends the layer ([`in_use::InUse`]).
//! - Before the engine's thread turns to the CPU's share or waits for a copy, it has the driver
//!   begin what was launched ([`Stream::flush`]): Windows gathers launches.
//! - Staging memory is written by one side only while the other is known to be done: what the GPU
//!   reads (embeddings, row lists, the CPU's results) is rewritten only after a later wait of the
//!   engine's thread for the compute stream, and what it writes is read only after one.
//!
//! With all experts in VRAM nothing is waited for before the logits: kernels follow the router's
//! choice by a table of places.
//!
//! A decoded token's launches are recorded and replayed ([`graphs`]): all of them, or those of a
//! layer up to the router's choice. What they read on the host is staging, of which the above holds.
//!
//! A GPU that fails is given up: the pass ends with [`EngineError::Device`], and the next session
//! computes on the CPU, from the same RAM tier.

mod decode;
mod forward;
mod graphs;
mod in_use;
mod pinned;
mod prefill;
mod slots;
mod staging;
mod weights;
mod work;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use octet_kernels::cuda::{CudaError, Gpu, Ops, Stream};
use octet_kernels::{Pool, Precision, Rotary, Scratch};

use super::rotary;
use super::{Backend, BackendSession, DeviceKind, Host, Pass, PassWatch};
use crate::checkpoint::Checkpoint;
use crate::error::EngineError;
use crate::plan::ModelSizes;
use crate::plan::Needs;

pub use pinned::GpuPinned;
pub use slots::Slots;

use weights::Trunk;
use work::{Kv, KvPool, Work};

/// A model's trunk and working memory on a GPU; its experts are in [`Slots`].
pub struct GpuModel {
    /// First, so that what it has recorded goes before the kernels do.
    work: Mutex<Work>,
    gpu: Arc<Gpu>,
    ops: Arc<Ops>,
    compute: Stream,
    trunk: Trunk,
    slots: Arc<Slots>,
    kv: Arc<KvPool>,
    /// f32 activations and slow kernels, as a reference.
    exact: bool,
    lost: AtomicBool,
}

impl From<CudaError> for EngineError {
    fn from(error: CudaError) -> Self {
        Self::Device {
            reason: error.to_string(),
        }
    }
}

/// A GPU with its kernels loaded, before anything is known of a model.
pub struct OpenGpu {
    gpu: Arc<Gpu>,
    ops: Arc<Ops>,
}

impl OpenGpu {
    /// Takes the GPU `uuid` and loads the kernels.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn open(uuid: &str) -> Result<Self, CudaError> {
        let gpu = Gpu::open(uuid)?;
        let ops = Arc::new(Ops::new(&gpu)?);
        Ok(Self { gpu, ops })
    }

    /// The GPU.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
}

impl GpuModel {
    /// Brings `checkpoint`'s trunk to the GPU and makes room for a context of `ctx`; `slots` are
    /// made first, or after, as memory allows.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`] where less has to be asked for.
    pub fn new(
        opened: &OpenGpu,
        checkpoint: &Checkpoint,
        pool: &Pool,
        precision: Precision,
        ctx: usize,
        slots: Arc<Slots>,
    ) -> Result<Self, CudaError> {
        let exact = precision == Precision::Exact;
        let gpu = Arc::clone(&opened.gpu);
        let sizes = ModelSizes::of(checkpoint);
        Ok(Self {
            trunk: Trunk::new(&gpu, checkpoint, pool, exact)?,
            work: Mutex::new(Work::new(&gpu, checkpoint.spec(), &sizes, ctx)?),
            kv: KvPool::new(&gpu, &sizes, ctx)?,
            ops: Arc::clone(&opened.ops),
            compute: Stream::new(&gpu)?,
            slots,
            exact,
            lost: AtomicBool::new(false),
            gpu,
        })
    }

    /// The GPU.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    fn work(&self) -> std::sync::MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A model on a GPU, with the CPU beside it for misses.
pub struct Cuda {
    model: GpuModel,
    host: Arc<Host>,
}

impl Cuda {
    /// Has `model` compute with the experts of `host`.
    pub fn new(model: GpuModel, host: Arc<Host>) -> Self {
        Self { model, host }
    }
}

impl Backend for Cuda {
    fn device(&self) -> DeviceKind {
        DeviceKind::Gpu
    }

    fn name(&self) -> &str {
        self.model.gpu.name()
    }

    fn is_lost(&self) -> bool {
        self.model.lost.load(Ordering::Relaxed)
    }

    fn needs(&self, ctx: usize) -> Needs {
        ModelSizes::of(&self.host.checkpoint).gpu_needs(ctx)
    }

    fn session(self: Arc<Self>, ctx: usize) -> Result<Box<dyn BackendSession>, EngineError> {
        Ok(Box::new(CudaSession {
            kv: self.model.kv.take(ctx)?,
            rotary: rotary::of(self.host.spec()),
            scratch: Scratch::default(),
            logits: Vec::new(),
            cuda: self,
        }))
    }
}

/// A conversation on a GPU.
struct CudaSession {
    cuda: Arc<Cuda>,
    kv: Kv,
    rotary: Rotary,
    /// Of the CPU's share.
    scratch: Scratch,
    logits: Vec<f32>,
}

impl BackendSession for CudaSession {
    /// A GPU that fails is given up: this session is of no more use, and later ones are the CPU's.
    fn forward(
        &mut self,
        pass: Pass<'_>,
        watch: &mut PassWatch<'_>,
    ) -> Result<&mut [f32], EngineError> {
        let cuda = Arc::clone(&self.cuda);
        if cuda.is_lost() {
            return Err(EngineError::Device {
                reason: "it failed before".to_owned(),
            });
        }
        match cuda.model.forward(&cuda.host, self, pass, watch) {
            Ok(()) => Ok(&mut self.logits),
            Err(error) => {
                if error.is_of_device() {
                    cuda.model.lost.store(true, Ordering::Relaxed);
                    cuda.host.experts.lose_device();
                }
                Err(error)
            }
        }
    }
}
