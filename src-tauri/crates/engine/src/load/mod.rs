//! Loading for someone who waits: what is being done, how far it is, and a way to stop it.
//!
//! [`Loaded::open`] maps the files and leaves reading them to first use. [`Loaded::load`] reads
//! what the plan keeps in memory before it returns, so that the first answer is not slower than
//! the next.

use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;

use crate::engine::{LoadOptions, Loaded};
use crate::error::EngineError;
use crate::model::Logits;
use crate::tokenizer::TokenId;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadStage {
    /// Headers, index and configuration are read and the memory is planned.
    Checking,
    /// The tokenizer is read.
    Tokenizer,
    /// The trunk is read and its output matrix brought to 8 bits.
    Trunk,
    /// Experts are read into RAM, and copied to the GPU.
    Experts,
    /// One token is computed, so that every buffer exists.
    Warming,
}

/// How far loading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LoadProgress {
    /// What is being done.
    pub stage: LoadStage,
    /// Bytes of the model that are in memory.
    pub done_bytes: u64,
    /// Bytes that will be; 0 as long as that is not known.
    pub total_bytes: u64,
}

/// Told of progress; a break stops loading.
pub type Watch<'a> = dyn FnMut(LoadProgress) -> ControlFlow<()> + 'a;

/// Tells `watch`, and turns its break into an error.
pub(crate) fn report(
    watch: &mut Watch<'_>,
    stage: LoadStage,
    done_bytes: u64,
    total_bytes: u64,
) -> Result<(), EngineError> {
    let progress = LoadProgress {
        stage,
        done_bytes,
        total_bytes,
    };
    match watch(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(EngineError::Cancelled),
    }
}

impl Loaded {
    /// Opens the checkpoint in `dir` as [`Loaded::open`] does and reads what the plan keeps in
    /// RAM, telling `watch` of it several times a second.
    ///
    /// # Errors
    /// As [`Loaded::open`]; [`EngineError::Cancelled`] after a break.
    pub fn load(
        dir: &Path,
        options: &LoadOptions,
        watch: &mut Watch<'_>,
    ) -> Result<Self, EngineError> {
        let mut loaded = Self::open_watched(dir, options, watch)?;
        loaded.fill(watch)?;
        Ok(loaded)
    }

    /// Reads what the plan keeps in memory, and computes a first token, telling `watch` of it.
    ///
    /// # Errors
    /// What cannot be read or copied; [`EngineError::Cancelled`] after a break.
    pub fn fill(&mut self, watch: &mut Watch<'_>) -> Result<(), EngineError> {
        let experts = self.model.experts();
        let mut done = self.model.checkpoint().trunk_bytes();
        let total = done + experts.fill_bytes();
        experts.fill(&mut |bytes| {
            done += bytes;
            report(watch, LoadStage::Experts, done, total)
        })?;
        if experts.refused_slots() > 0 {
            let unpinned = experts.unpinned_slots();
            self.plan.warnings.push(format!(
                "{unpinned} experts lie in RAM that the system would not pin for the GPU: their \
                 copies are slower (raise the limit of locked memory, or give a smaller --ram)"
            ));
        }
        report(watch, LoadStage::Warming, total, total)?;
        self.warm()
    }

    /// Computes one token in a session of its own.
    fn warm(&self) -> Result<(), EngineError> {
        let mut session = self.model.session(1);
        let bos = self.tokenizer.as_ref().and_then(|t| t.bos());
        let rows = self.model.spec().vocab_size;
        let token = bos
            .filter(|bos| (bos.0 as usize) < rows)
            .unwrap_or(TokenId(0));
        let proceed = &mut |_| ControlFlow::Continue(());
        self.model
            .forward(&mut session, &[token], Logits::Last, proceed)?;
        self.model.experts().forget_trace();
        Ok(())
    }
}
