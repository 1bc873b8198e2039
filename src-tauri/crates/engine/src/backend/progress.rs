//! How far a forward pass is, for those who wait for it and may end it.

use std::ops::ControlFlow;

use crate::error::EngineError;
use crate::spec::ModelSpec;

/// How far a forward pass is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassProgress {
    /// The layer at work.
    pub layer: usize,
    /// Whether that layer is about to begin; otherwise a part of it is done.
    pub begins: bool,
    /// Of the pass's work, the part that is done, 0 to 1.
    pub done: f64,
}

/// Asked before every layer and, in a prompt, after its attention and after each of its experts.
/// A break ends the pass and leaves the session as it was.
pub type PassWatch<'a> = dyn FnMut(PassProgress) -> ControlFlow<()> + 'a;

/// Where the passes over the chunks of one call are, told to its [`PassWatch`].
pub(crate) struct PassMeter<'a> {
    watch: &'a mut dyn FnMut(PassProgress) -> ControlFlow<()>,
    n_layers: usize,
    /// Of a layer's work, the part that is attention.
    attention: f64,
    layer: usize,
    /// Of all tokens, those of the chunks before, and those of this chunk.
    before: f64,
    chunk: f64,
}

impl<'a> PassMeter<'a> {
    pub(crate) fn new(c: &ModelSpec, watch: &'a mut PassWatch<'_>) -> Self {
        let attention = projections(c) as f64;
        Self {
            watch,
            n_layers: c.n_layers,
            attention: attention / (attention + experts(c) as f64),
            layer: 0,
            before: 0.0,
            chunk: 1.0,
        }
    }

    /// Goes on with the chunk of `rows` tokens behind `before`, of `all` tokens.
    pub(crate) fn chunk(&mut self, before: usize, rows: usize, all: usize) {
        self.before = before as f64 / all as f64;
        self.chunk = rows as f64 / all as f64;
    }

    /// `layer` is about to begin.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] after a break, as below.
    pub(crate) fn layer(&mut self, layer: usize) -> Result<(), EngineError> {
        self.layer = layer;
        self.tell(true, 0.0)
    }

    /// Of the layer's choices of experts, `done` of `all` are computed.
    pub(crate) fn experts(&mut self, done: usize, all: usize) -> Result<(), EngineError> {
        let experts = done as f64 / all.max(1) as f64;
        self.tell(false, self.attention + (1.0 - self.attention) * experts)
    }

    fn tell(&mut self, begins: bool, of_layer: f64) -> Result<(), EngineError> {
        let of_chunk = (self.layer as f64 + of_layer) / self.n_layers as f64;
        let progress = PassProgress {
            layer: self.layer,
            begins,
            done: self.before + self.chunk * of_chunk,
        };
        match (self.watch)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(EngineError::Cancelled),
        }
    }
}

/// Multiplications of a token in a layer's projections of attention.
pub(crate) fn projections(c: &ModelSpec) -> usize {
    2 * c.hidden_size * (c.q_size() + c.kv_size())
}

/// Multiplications of a token in a layer's experts.
pub(crate) fn experts(c: &ModelSpec) -> usize {
    3 * c.top_k * c.hidden_size * c.intermediate_size
}
