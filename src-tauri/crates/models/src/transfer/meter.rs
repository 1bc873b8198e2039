//! Speed over the last seconds, and the time left at it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back speed looks.
const WINDOW: Duration = Duration::from_secs(6);

/// Told of a growing count, it knows how fast it grows.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// The count is `count` at `now`. Units a second.
    pub(crate) fn update(&mut self, now: Instant, count: u64) -> f64 {
        if self.samples.back().is_some_and(|(_, last)| count < *last) {
            self.samples.clear();
        }
        self.samples.push_back((now, count));
        while self.samples.len() > 2
            && self
                .samples
                .front()
                .is_some_and(|(then, _)| now - *then > WINDOW)
        {
            self.samples.pop_front();
        }
        let Some((then, before)) = self.samples.front() else {
            return 0.0;
        };
        let seconds = (now - *then).as_secs_f64();
        match seconds > 0.05 {
            true => (count - before) as f64 / seconds,
            false => 0.0,
        }
    }
}

/// Seconds that `bytes` take; none where there is no speed to tell from.
pub(crate) fn seconds_left(bytes: u64, bytes_per_sec: f64) -> Option<u32> {
    let seconds = bytes as f64 / bytes_per_sec;
    (bytes_per_sec >= 1.0 && seconds < f64::from(u32::MAX)).then(|| seconds.ceil() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_that_of_the_last_seconds() {
        let begin = Instant::now();
        let mut meter = Meter::default();
        let at = |tenths: u64| begin + Duration::from_millis(100 * tenths);
        assert_eq!(meter.update(at(0), 0), 0.0);
        for tenth in 1..100 {
            meter.update(at(tenth), tenth * 10);
        }
        let even = meter.update(at(100), 1000);
        assert!((99.0..=101.0).contains(&even), "{even}");
        for tenth in 101..200 {
            meter.update(at(tenth), 1000);
        }
        assert_eq!(meter.update(at(200), 1000), 0.0);
        assert_eq!(seconds_left(100, 0.0), None);
        assert_eq!(seconds_left(101, 100.0), Some(2));
    }
}
