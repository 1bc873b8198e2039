//! How long to wait before trying again, and when to stop.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use super::{Failure, Stop, TransferOptions};
use crate::ModelsError;

/// Failures of one file since it last came forward.
#[derive(Default)]
pub(super) struct Tries {
    failures: u32,
    /// Bytes there were at best.
    best: u64,
}

impl Tries {
    /// After a failure with `len` bytes there: how long to wait, or none to give up.
    pub(super) fn failed(&mut self, len: u64, options: &TransferOptions) -> Option<Duration> {
        if len > self.best {
            self.best = len;
            self.failures = 0;
        }
        self.failures += 1;
        if self.failures >= options.attempts.max(1) {
            return None;
        }
        let doubled = 2_u32.saturating_pow(self.failures - 1);
        let wait = options
            .backoff
            .saturating_mul(doubled)
            .min(options.backoff_most);
        // Many files fail at once when a connection does; they should not return at once.
        Some(wait.mul_f64(0.5 + random_share() / 2.0))
    }
}

/// Does `act` again while it fails in passing, at most `attempts` times. `tell` hears until when
/// it waits and why, and of the end of that.
pub(crate) async fn persist<T, F: Future<Output = Result<T, Failure>>>(
    options: &TransferOptions,
    stop: &Stop,
    mut tell: impl FnMut(Option<(Instant, ModelsError)>),
    mut act: impl FnMut() -> F,
) -> Result<T, Failure> {
    let mut tries = Tries::default();
    loop {
        let done = tokio::select! {
            () = stop.stopped() => return Err(ModelsError::Cancelled.into()),
            done = act() => done,
        };
        let (error, asked) = match done {
            Err(Failure::Passing { error, wait }) => (error, wait),
            done => return done,
        };
        let Some(backoff) = tries.failed(0, options) else {
            return Err(Failure::Passing { error, wait: asked });
        };
        let wait = asked.unwrap_or_default().max(backoff);
        tell(Some((Instant::now() + wait, error.clone())));
        tokio::select! {
            () = stop.stopped() => return Err(ModelsError::Cancelled.into()),
            () = tokio::time::sleep(wait) => {}
        }
        tell(None);
    }
}

/// From 0 to 1.
fn random_share() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    random as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_until_a_byte_arrives_and_end_some_time() {
        let options = TransferOptions {
            backoff: Duration::from_millis(100),
            backoff_most: Duration::from_millis(300),
            attempts: 5,
            ..TransferOptions::default()
        };
        let mut tries = Tries::default();
        let mut waits = Vec::new();
        while let Some(wait) = tries.failed(0, &options) {
            waits.push(wait.as_millis());
        }
        assert_eq!(waits.len(), 4);
        for (wait, most) in waits.iter().zip([100, 200, 300, 300]) {
            assert!((most / 2..=most).contains(wait), "{waits:?}");
        }
        assert!(tries.failed(1, &options).is_some(), "it came forward");
        assert_eq!(tries.failures, 1);
    }
}
