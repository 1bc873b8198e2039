//! How fast misses are met at the moment: what was measured at loading, followed by what real copies
//! and computations take.
//!
//! Power states change while a program runs, and so does what other programs take of the memory's
//! bandwidth.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::device::Bandwidths;

/// The weight of a new measurement: the average follows within some tens of experts.
const WEIGHT: f64 = 1.0 / 16.0;
/// One measurement counts at most this much faster, or slower, than the average: a thread that had to
/// wait says little of the machine.
const MOST_AT_ONCE: f64 = 4.0;
/// The average stays within this factor of what was measured at loading.
const MOST_IN_ALL: f64 = 8.0;

/// Running averages of the three bandwidths.
pub(super) struct Speeds {
    upload: Average,
    staged: Average,
    cpu: Average,
    /// When the last copy ended: of those in a queue each begins there.
    last_copy: Mutex<Option<Instant>>,
}

/// A running average, in bytes a second.
struct Average {
    measured: f64,
    /// The bits of an f64.
    now: AtomicU64,
}

impl Average {
    fn new(measured: f64) -> Self {
        Self {
            measured,
            now: AtomicU64::new(measured.to_bits()),
        }
    }

    fn get(&self) -> f64 {
        f64::from_bits(self.now.load(Ordering::Relaxed))
    }

    /// Two threads at once may lose one of their measurements.
    fn note(&self, bytes: usize, seconds: f64) {
        let now = self.get();
        let found = bytes as f64 / seconds.max(1e-9);
        let found = found.clamp(now / MOST_AT_ONCE, now * MOST_AT_ONCE);
        let next = (now + WEIGHT * (found - now))
            .clamp(self.measured / MOST_IN_ALL, self.measured * MOST_IN_ALL);
        if next.is_finite() {
            self.now.store(next.to_bits(), Ordering::Relaxed);
        }
    }
}

impl Speeds {
    /// Beginning with what was measured.
    pub(super) fn new(measured: Bandwidths) -> Self {
        Self {
            upload: Average::new(measured.upload),
            staged: Average::new(measured.staged),
            cpu: Average::new(measured.cpu),
            last_copy: Mutex::new(None),
        }
    }

    /// The averages now.
    pub(super) fn now(&self) -> Bandwidths {
        Bandwidths {
            upload: self.upload.get(),
            staged: self.staged.get(),
            cpu: self.cpu.get(),
        }
    }

    /// Notes a copy of `bytes` that was asked for at `begun` and is complete now. Copies are made one
    /// after the other: while another one was under way it waited.
    pub(super) fn note_copy(&self, bytes: usize, is_pinned: bool, begun: Instant) {
        let now = Instant::now();
        let mut last = self
            .last_copy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let begun = last.map_or(begun, |last| begun.max(last));
        *last = Some(now);
        drop(last);
        let average = if is_pinned {
            &self.upload
        } else {
            &self.staged
        };
        average.note(bytes, now.duration_since(begun).as_secs_f64());
    }

    /// Notes that the CPU took `seconds` for an expert of `bytes`, for one token.
    pub(super) fn note_cpu(&self, bytes: usize, seconds: f64) {
        self.cpu.note(bytes, seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURED: Bandwidths = Bandwidths {
        upload: 24e9,
        staged: 8e9,
        cpu: 40e9,
    };

    #[test]
    fn an_average_follows_what_is_measured_within_bounds() {
        let speeds = Speeds::new(MEASURED);
        assert_eq!(speeds.now(), MEASURED);
        // Half as fast, as on battery: there after some tens of experts, and no sooner.
        for _ in 0..4 {
            speeds.note_cpu(20_000_000, 1e-3);
        }
        assert!(speeds.now().cpu > 30e9, "{:?}", speeds.now());
        for _ in 0..100 {
            speeds.note_cpu(20_000_000, 1e-3);
        }
        assert!(
            (speeds.now().cpu - 20e9).abs() < 0.5e9,
            "{:?}",
            speeds.now()
        );
        assert_eq!((speeds.now().upload, speeds.now().staged), (24e9, 8e9));
        // Whatever is measured, it stays near to what was measured at loading.
        for _ in 0..1000 {
            speeds.note_cpu(1, 1e3);
        }
        assert_eq!(speeds.now().cpu, 5e9);
        for _ in 0..1000 {
            speeds.note_cpu(usize::MAX, 0.0);
        }
        assert_eq!(speeds.now().cpu, 320e9);
    }

    #[test]
    fn one_slow_expert_changes_little() {
        let speeds = Speeds::new(MEASURED);
        speeds.note_cpu(66_000_000, 10.0);
        assert!(speeds.now().cpu > 38e9, "{:?}", speeds.now());
    }

    #[test]
    fn copies_count_by_where_they_come_from() {
        let speeds = Speeds::new(MEASURED);
        // Nothing is copied this fast.
        speeds.note_copy(usize::MAX, false, Instant::now());
        assert_eq!(speeds.now().upload, 24e9);
        assert!(speeds.now().staged > 8e9);
        speeds.note_copy(usize::MAX, true, Instant::now());
        assert!(speeds.now().upload > 24e9);
    }

    #[test]
    fn a_copy_that_waited_for_another_one_is_timed_from_its_end() {
        let speeds = Speeds::new(MEASURED);
        let begun = Instant::now();
        std::thread::sleep(std::time::Duration::from_millis(20));
        // Both were asked for at once. The first took 20 ms and more, the second no time.
        speeds.note_copy(480_000_000, true, begun);
        let first = speeds.now().upload;
        speeds.note_copy(480_000_000, true, begun);
        assert!(speeds.now().upload > first);
        assert!(first <= 24e9);
    }
}
