//! Pinned buffers that bytes pass through which are not pinned themselves.

use std::sync::Arc;

use octet_kernels::cuda::{CudaError, Event, Gpu, Pinned, Slice, Stream};

/// Buffers of the ring: one is filled while others are copied from.
const BUFFERS: usize = 4;
/// Bytes of a buffer at the most: filling one takes less than a millisecond.
const BUFFER_BYTES: usize = 4 << 20;

/// A ring of pinned buffers. The driver has one of its own for bytes that are not pinned, but waits
/// for each copy out of it.
pub(super) struct Staging {
    buffers: Vec<Buffer>,
    next: usize,
}

struct Buffer {
    memory: Pinned,
    /// Behind the last copy from it.
    copied: Option<Event>,
}

impl Staging {
    /// For experts of up to `expert_bytes`; `None` where the system pins nothing more.
    pub(super) fn new(gpu: &Arc<Gpu>, expert_bytes: usize) -> Option<Self> {
        let bytes = BUFFER_BYTES.min(expert_bytes.div_ceil(BUFFERS)).max(1);
        let buffer = |_| {
            let memory = Pinned::new(gpu, bytes).ok()?;
            Some(Buffer {
                memory,
                copied: None,
            })
        };
        let buffers = (0..BUFFERS).map(buffer).collect::<Option<Vec<_>>>()?;
        Some(Self { buffers, next: 0 })
    }

    /// Queues the copies of `from`, which may go as soon as this returns.
    pub(super) fn upload(
        &mut self,
        stream: &Stream,
        from: &[u8],
        to: Slice<'_, u8>,
    ) -> Result<(), CudaError> {
        let queued = self.queue(stream, from, to);
        if queued.is_err() {
            // A copy may be on its way whose end was not marked.
            let _ = stream.synchronize();
        }
        queued
    }

    fn queue(&mut self, stream: &Stream, from: &[u8], to: Slice<'_, u8>) -> Result<(), CudaError> {
        let mut at = 0;
        while at < from.len() {
            let buffer = &mut self.buffers[self.next];
            if let Some(copied) = buffer.copied.take() {
                copied.synchronize()?;
            }
            let len = buffer.memory.len().min(from.len() - at);
            buffer.memory[..len].copy_from_slice(&from[at..at + len]);
            // SAFETY: the buffer is rewritten behind the event only, and freed behind all work.
            unsafe { stream.upload(&buffer.memory[..len], to.part(at, len))? };
            buffer.copied = Some(stream.record()?);
            self.next = (self.next + 1) % BUFFERS;
            at += len;
        }
        Ok(())
    }
}
