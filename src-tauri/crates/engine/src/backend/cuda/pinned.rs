//! Pinned RAM for the tier behind a GPU.

use std::sync::Arc;

use octet_kernels::cuda::{Gpu, Unfilled};

use crate::experts::{PinnedBytes, PinnedMemory, UnfilledPinned};

/// RAM that one GPU reads at full speed.
pub struct GpuPinned(pub Arc<Gpu>);

impl PinnedMemory for GpuPinned {
    fn take(&self, len: usize) -> Option<Box<dyn UnfilledPinned>> {
        let unfilled = Unfilled::new(&self.0, len).ok()?;
        Some(Box::new(unfilled))
    }
}

impl UnfilledPinned for Unfilled {
    fn append(&mut self, bytes: &[u8]) {
        Unfilled::append(self, bytes);
    }

    fn finish(self: Box<Self>) -> Box<PinnedBytes> {
        Box::new(Unfilled::finish(*self))
    }
}
