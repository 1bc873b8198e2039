//! A loaded model: [`Decoder`] runs forward passes on the fastest device that has not failed, and
//! a [`Session`] is one conversation with it.

use std::sync::Arc;

use octet_kernels::{Pool, Precision};

use crate::backend::cpu::Cpu;
use crate::backend::{Backend, BackendSession, DeviceKind, Host, Pass, RouterHook};
use crate::checkpoint::Checkpoint;
use crate::error::EngineError;
use crate::experts::{Experts, RoutingStats};
use crate::spec::ModelSpec;
use crate::tokenizer::TokenId;

pub use crate::backend::cpu::{expert_forward, route};
pub use crate::backend::{Logits, PassProgress, PassWatch};
pub use crate::plan::PREFILL_CHUNK;

/// A model that can compute.
pub struct Decoder {
    host: Arc<Host>,
    /// The fastest first; the last one is the CPU, which is never lost.
    backends: Vec<Arc<dyn Backend>>,
}

/// One conversation's state: what is cached, and the buffers to go on with.
pub struct Session {
    /// Positions held.
    len: usize,
    capacity: usize,
    /// How the decoded tokens were routed.
    pub routing: RoutingStats,
    /// Changes the experts that decoded tokens are routed to, for benchmarks.
    pub router_hook: Option<Box<dyn RouterHook>>,
    /// Has a GPU take a decoded token's launches as recorded before, where its driver can; the
    /// numbers are the same.
    pub records: bool,
    state: Box<dyn BackendSession>,
}

impl Session {
    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Decoder {
    /// A model on the CPU. Its output matrix is brought to 8 bits unless `precision` is exact;
    /// everything else is used in place.
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        experts: Experts,
        pool: Pool,
        precision: Precision,
    ) -> Self {
        let host = Arc::new(Host {
            checkpoint,
            experts: Arc::new(experts),
            pool,
            precision,
        });
        let cpu = Arc::new(Cpu::new(Arc::clone(&host)));
        Self {
            host,
            backends: vec![cpu],
        }
    }

    /// A model on another device, and on the CPU once that fails.
    pub fn on(device: Arc<dyn Backend>, host: Arc<Host>) -> Self {
        let cpu = Arc::new(Cpu::in_reserve(Arc::clone(&host)));
        Self {
            host,
            backends: vec![device, cpu],
        }
    }

    /// What computes: the fastest device that has not failed.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        let works = |backend: &&Arc<dyn Backend>| !backend.is_lost();
        let backend = self.backends.iter().find(works);
        backend.expect("BUG: the CPU is never lost")
    }

    /// Whether a GPU computes.
    pub fn is_on_gpu(&self) -> bool {
        self.backend().device() == DeviceKind::Gpu
    }

    /// The model's shape.
    pub fn spec(&self) -> &ModelSpec {
        self.host.spec()
    }

    /// The checkpoint it runs on.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.host.checkpoint
    }

    /// Where the experts live.
    pub fn experts(&self) -> &Experts {
        &self.host.experts
    }

    /// The same, for those who watch from another thread.
    pub fn experts_handle(&self) -> Arc<Experts> {
        Arc::clone(&self.host.experts)
    }

    /// The worker pool.
    pub fn pool(&self) -> &Pool {
        &self.host.pool
    }

    /// An empty session for up to `ctx` positions, on the fastest device that has room for it.
    pub fn session(&self, ctx: usize) -> Session {
        let c = self.spec();
        let working = self.backends.iter().filter(|backend| !backend.is_lost());
        let state = working
            .filter_map(|backend| Arc::clone(backend).session(ctx).ok())
            .next();
        Session {
            len: 0,
            capacity: ctx,
            routing: RoutingStats::new(c.n_layers, c.n_experts),
            router_hook: None,
            records: true,
            state: state.expect("BUG: the CPU has room for a session"),
        }
    }

    /// Runs `tokens` (at most [`PREFILL_CHUNK`] for bounded memory) behind what `session` holds
    /// and returns logits, f32 `(t, vocab)` or `(1, vocab)`.
    ///
    /// `watch` is told how far it is; a break leaves the session as it was. So does an error, but
    /// for that of a device: its sessions are of no more use.
    ///
    /// # Errors
    /// [`EngineError::ContextFull`], [`EngineError::UnknownToken`], a failed expert fetch,
    /// [`EngineError::Device`], or [`EngineError::Cancelled`] after a break.
    pub fn forward<'s>(
        &self,
        session: &'s mut Session,
        tokens: &[TokenId],
        logits: Logits,
        watch: &mut PassWatch<'_>,
    ) -> Result<&'s mut [f32], EngineError> {
        let Session {
            len,
            capacity,
            routing,
            router_hook,
            records,
            state,
        } = session;
        let end = *len + tokens.len();
        if end > *capacity {
            return Err(EngineError::context_full(self.spec(), *capacity, end, 0));
        }
        let pass = Pass {
            tokens,
            first: *len,
            logits,
            routing,
            hook: router_hook.as_deref(),
            records: *records,
        };
        let out = state.forward(pass, watch)?;
        *len = end;
        Ok(out)
    }
}
