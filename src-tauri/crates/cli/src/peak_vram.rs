//! The most VRAM that this program held, as the driver reports it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use octet_engine::hardware::VramMeter;

/// Allocations live far longer than this: they are made when a model is loaded or a session begun.
const INTERVAL: Duration = Duration::from_millis(20);

/// Samples what this program holds of each GPU, until dropped.
pub struct PeakVram {
    /// By the identifier of the GPU.
    peaks: Arc<Mutex<HashMap<String, u64>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PeakVram {
    /// Starts sampling, where there is a driver to ask.
    pub fn start() -> Self {
        let peaks = Arc::<Mutex<HashMap<String, u64>>>::default();
        let ended = Arc::new(AtomicBool::new(false));
        let thread = VramMeter::new().map(|meter| {
            let (peaks, ended) = (Arc::clone(&peaks), Arc::clone(&ended));
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    for (uuid, bytes) in meter.held() {
                        let mut peaks = peaks.lock().unwrap_or_else(PoisonError::into_inner);
                        let peak = peaks.entry(uuid.to_owned()).or_default();
                        *peak = bytes.max(*peak);
                    }
                    std::thread::sleep(INTERVAL);
                }
            })
        });
        Self {
            peaks,
            ended,
            thread,
        }
    }

    /// The most of GPU `uuid` so far; `None` if the driver does not tell.
    pub fn bytes(&self, uuid: &str) -> Option<u64> {
        let peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        peaks.get(uuid).copied()
    }
}

impl Drop for PeakVram {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only reads counters; if it panicked, the peak is what it saw until then.
            let _ = thread.join();
        }
    }
}
