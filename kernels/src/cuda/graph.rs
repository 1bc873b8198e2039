//! Work that is recorded once and then put on a stream by one call.

use std::sync::{Arc, PoisonError};

use cudarc::driver::result;
use cudarc::driver::sys;

use super::CudaError;
use super::device::{Gpu, RECORDING, Stream};

/// Launches and copies in the order in which they were recorded, with the arguments they had.
#[derive(Debug)]
pub struct Graph {
    gpu: Arc<Gpu>,
    raw: sys::CUgraphExec,
}

// SAFETY: the driver's handles may be used from any thread, by one at a time.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `work` puts on `stream`; none of it is run. `work` must not wait for the GPU,
    /// nor allocate or free memory of it.
    ///
    /// # Errors
    /// `work`'s own, or what the driver reports: [`CudaError::OutOfMemory`] where the GPU has no
    /// room for the recording. The stream is as it was before.
    pub fn record<E: From<CudaError>>(
        stream: &Stream,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, E> {
        let recorded = Recording::of(stream, work)?;
        let flags = sys::CUgraphInstantiate_flags(0);
        let failed = || CudaError::of_allocation("recorded launches", 0);
        // SAFETY: what was recorded lives; the context is current since then.
        let raw = unsafe { result::graph::instantiate(recorded.0, flags) }.map_err(failed())?;
        let gpu = Arc::clone(stream.gpu());
        let graph = Self { gpu, raw };
        // It takes its memory of the GPU now, and not at the first launch.
        // SAFETY: both live.
        unsafe { result::graph::upload(raw, stream.raw()?) }.map_err(failed())?;
        Ok(graph)
    }

    /// Puts the work on `stream`.
    ///
    /// # Safety
    /// All memory that the work was recorded with, on the GPU and on the host, and the kernels
    /// must still be there, until the stream has passed the work. What [`Stream::upload`] and
    /// [`Stream::download`] ask for holds anew.
    ///
    /// # Errors
    /// What the driver reports.
    pub unsafe fn launch(&self, stream: &Stream) -> Result<(), CudaError> {
        let raw = stream.raw()?;
        // SAFETY: both live, and the caller answers for what the work touches.
        unsafe { result::graph::launch(self.raw, raw) }
            .map_err(CudaError::of("starting recorded kernels"))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: made in `record`; if it is at work, the driver frees it after that.
            let _ = unsafe { result::graph::exec_destroy(self.raw) };
        }
    }
}

/// What was recorded, before the driver has made it ready to run.
struct Recording(sys::CUgraph);

impl Recording {
    fn of<E: From<CudaError>>(
        stream: &Stream,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, E> {
        let raw = stream.raw()?;
        let alone = RECORDING.write().unwrap_or_else(PoisonError::into_inner);
        // What other threads do with the GPU meanwhile is theirs.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives.
        unsafe { result::stream::begin_capture(raw, mode) }
            .map_err(CudaError::of("recording launches"))?;
        let done = work();
        // SAFETY: it records since the call above, and must end, whatever became of `work`.
        let graph = unsafe { result::stream::end_capture(raw) }.map(Self);
        drop(alone);
        done?;
        Ok(graph.map_err(CudaError::of("recording launches"))?)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // SAFETY: from the driver, and owned.
        let _ = unsafe { result::graph::destroy(self.0) };
    }
}
