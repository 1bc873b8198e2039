//! Whether what was read came from a drive or from the system's page cache.

#[cfg(not(target_os = "linux"))]
use std::time::{Duration, Instant};

/// Reads at this speed, in bytes per second, come from memory where the system does not say.
#[cfg(not(target_os = "linux"))]
const MEMORY_BYTES_PER_SEC: f64 = 4e9;

/// A read by this thread, from [`ReadSource::begin`] on.
pub(super) struct ReadSource {
    #[cfg(target_os = "linux")]
    blocks: Option<i64>,
    #[cfg(not(target_os = "linux"))]
    begun: Instant,
}

impl ReadSource {
    pub(super) fn begin() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            blocks: blocks_read(),
            #[cfg(not(target_os = "linux"))]
            begun: Instant::now(),
        }
    }

    /// Whether the `bytes` that were read since came from memory.
    pub(super) fn was_memory(&self, bytes: u64) -> bool {
        #[cfg(target_os = "linux")]
        {
            let _ = bytes;
            self.blocks.is_some() && self.blocks == blocks_read()
        }
        #[cfg(not(target_os = "linux"))]
        {
            let seconds = self
                .begun
                .elapsed()
                .max(Duration::from_nanos(1))
                .as_secs_f64();
            bytes as f64 / seconds > MEMORY_BYTES_PER_SEC
        }
    }
}

/// Blocks that drives have delivered to this thread.
#[cfg(target_os = "linux")]
fn blocks_read() -> Option<i64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is valid for writes of a whole `rusage`.
    let status = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    // SAFETY: all-zero bytes are a valid `rusage`, whatever the call wrote.
    (status == 0).then(|| unsafe { usage.assume_init() }.ru_inblock)
}
