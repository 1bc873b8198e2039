//! Time in which the program ran: speeds must not count a machine that was asleep.
//!
//! Whether a system's clock goes on in suspend differs (Windows' does), and none stops while only
//! this process is stopped. So a heart beats while something is measured, on a thread of its own
//! that waits for nothing else; where a beat comes much too late, nothing ran meanwhile.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two beats.
const BEAT: Duration = Duration::from_millis(250);
/// Silence that is no busy machine any more.
const SILENCE: Duration = Duration::from_secs(2);

/// Beats as they came.
#[derive(Clone, Copy, Debug, Default)]
struct Beats {
    /// Of the newest, since the start.
    last: Duration,
    /// Time without a beat.
    asleep: Duration,
}

impl Beats {
    /// Takes a beat at `now`; the time awake until then.
    fn beat(&mut self, now: Duration) -> Duration {
        let gap = now.saturating_sub(self.last);
        if gap > SILENCE {
            self.asleep += gap - BEAT;
        }
        self.last = self.last.max(now);
        self.last - self.asleep
    }
}

struct Shared {
    started: Instant,
    beats: Mutex<Beats>,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Shared {
    fn beat(&self) -> Duration {
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        beats.beat(self.started.elapsed())
    }

    /// Beats until the end.
    fn run(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            self.beat();
            let waited = self.end.wait_timeout(ended, BEAT);
            ended = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A stopwatch that stands still while the machine or this process is suspended.
pub struct AwakeClock {
    shared: Arc<Shared>,
    heart: Option<JoinHandle<()>>,
}

impl AwakeClock {
    /// Starts at zero. Beats until it is dropped.
    pub fn start() -> Self {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            beats: Mutex::default(),
            ended: Mutex::new(false),
            end: Condvar::new(),
        });
        let beating = Arc::clone(&shared);
        let heart = std::thread::Builder::new()
            .name("octet-clock".to_owned())
            .spawn(move || beating.run());
        Self {
            shared,
            // Without a thread the beats are those of whoever reads the clock.
            heart: heart.ok(),
        }
    }

    /// Time awake since the start.
    pub fn elapsed(&self) -> Duration {
        match self.heart {
            Some(_) => self.shared.beat(),
            None => self.shared.started.elapsed(),
        }
    }
}

impl Drop for AwakeClock {
    fn drop(&mut self) {
        *self
            .shared
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.end.notify_all();
        if let Some(heart) = self.heart.take() {
            // It holds nothing that could be lost.
            let _ = heart.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_clock_that_beats_tells_the_time() {
        let mut beats = Beats::default();
        for n in 1..=40 {
            assert_eq!(beats.beat(n * BEAT), n * BEAT);
        }
    }

    #[test]
    fn time_without_a_beat_does_not_count() {
        let mut beats = Beats::default();
        beats.beat(1000 * MS);
        // Half an hour asleep, noticed by whichever beat comes first.
        let woken = 1000 * MS + Duration::from_secs(1800);
        assert_eq!(beats.beat(woken), 1250 * MS);
        assert_eq!(beats.beat(woken + 100 * MS), 1350 * MS);
        assert_eq!(beats.beat(woken + 350 * MS), 1600 * MS);
        // And once more.
        assert_eq!(beats.beat(woken + Duration::from_secs(60)), 1850 * MS);
    }

    #[test]
    fn a_busy_machine_is_no_sleeping_one() {
        let mut beats = Beats::default();
        beats.beat(BEAT);
        assert_eq!(beats.beat(2000 * MS), 2000 * MS);
    }

    #[test]
    fn beats_out_of_order_turn_nothing_back() {
        let mut beats = Beats::default();
        beats.beat(500 * MS);
        assert_eq!(beats.beat(400 * MS), 500 * MS);
    }

    #[test]
    fn it_runs_and_ends() {
        let clock = AwakeClock::start();
        let before = clock.elapsed();
        assert!(clock.elapsed() >= before);
    }
}
