//! What computes the forward pass: the CPU, or a GPU beside it.
//!
//! A [`Backend`] is one model made ready on one device, and a [`BackendSession`] is what one
//! conversation holds there: its KV cache and buffers. Backends share a [`Host`]: the checkpoint,
//! its experts and the CPU's threads. [`Decoder`](crate::model::Decoder) stands above them and
//! takes the fastest one that has not failed.

pub(crate) mod cpu;
pub(crate) mod cuda;
mod hook;
mod host;
mod progress;
mod rotary;

use std::sync::Arc;

use crate::error::EngineError;
use crate::experts::RoutingStats;
use crate::plan::Needs;
use crate::tokenizer::TokenId;

pub use hook::RouterHook;
pub use host::Host;
pub(crate) use progress::{PassMeter, experts, projections};
pub use progress::{PassProgress, PassWatch};

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A GPU, with memory of its own.
    Gpu,
}

/// One model made ready on one device.
pub trait Backend: Send + Sync {
    /// The kind of device.
    fn device(&self) -> DeviceKind;

    /// The device's name, for people.
    fn name(&self) -> &str;

    /// Whether the device has failed, so that no further session may be had of it.
    fn is_lost(&self) -> bool {
        false
    }

    /// What the model takes of the device for a context of `ctx`, beside its experts: by this the
    /// plan counts and the backend allocates.
    fn needs(&self, ctx: usize) -> Needs;

    /// An empty session for up to `ctx` positions.
    ///
    /// # Errors
    /// [`EngineError::Device`] where the device has no room for it.
    fn session(self: Arc<Self>, ctx: usize) -> Result<Box<dyn BackendSession>, EngineError>;
}

/// What one conversation holds on a device, and the way to go on with it.
pub trait BackendSession: Send {
    /// Computes `pass`; its logits, f32 `(t, vocab)` or `(1, vocab)`, stay in the session.
    ///
    /// A pass that fails leaves the positions before it as they were, unless the device failed.
    ///
    /// # Errors
    /// See [`Decoder::forward`](crate::model::Decoder::forward).
    fn forward(
        &mut self,
        pass: Pass<'_>,
        watch: &mut PassWatch<'_>,
    ) -> Result<&mut [f32], EngineError>;
}

/// One call of [`BackendSession::forward`].
pub struct Pass<'a> {
    /// At least one; they take the positions from `first` on.
    pub tokens: &'a [TokenId],
    /// Positions that the session holds already.
    pub first: usize,
    /// Which logits are wanted.
    pub logits: Logits,
    /// Takes the choices of a decoded token.
    pub routing: &'a mut RoutingStats,
    /// Changes the choices of a decoded token.
    pub hook: Option<&'a dyn RouterHook>,
    /// Whether a GPU may replay launches that it recorded.
    pub records: bool,
}

/// Which positions' logits a forward pass returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// Only the last one's: `(1, vocab)`.
    Last,
    /// Every one's: `(t, vocab)`.
    All,
}
