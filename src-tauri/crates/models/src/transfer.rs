//! Fetching files: many at a time, each from where it ended before.

mod file;
mod meter;
mod partial;
mod retry;
mod run;

use std::time::Duration;

use crate::ModelsError;

pub(crate) use file::blocking;
pub(crate) use meter::{Meter, seconds_left};
pub(crate) use retry::persist;
pub(crate) use run::{Progress, Stop, Transfer};

/// How files are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferOptions {
    /// Files at a time, at least 1.
    pub parallel: usize,
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// Without a byte after this, the connection is given up and another one made.
    pub idle_timeout: Duration,
    /// Without a byte after this, a download is shown as stalled.
    pub stall_after: Duration,
    /// The first wait after a failure; it doubles with each that follows.
    pub backoff: Duration,
    /// The longest wait.
    pub backoff_most: Duration,
    /// Failures in a row, without a byte in between, after which a file is given up.
    pub attempts: u32,
    /// Times that a file is fetched which does not have the hash that was published.
    pub checksum_attempts: u32,
    /// Bytes of the disk that are left free.
    pub disk_reserve_bytes: u64,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            parallel: 8,
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            stall_after: Duration::from_secs(5),
            backoff: Duration::from_millis(500),
            backoff_most: Duration::from_secs(30),
            attempts: 8,
            checksum_attempts: 3,
            disk_reserve_bytes: 500_000_000,
        }
    }
}

/// Why something did not work, and whether to try again.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The same may succeed a little later.
    Passing {
        error: ModelsError,
        /// As the hub asks.
        wait: Option<Duration>,
    },
    /// The hub has something else than it listed under this name: list again.
    Changed(String),
    /// What is here cannot be the beginning of what the hub has: start over.
    Stale,
    /// It will not.
    Final(ModelsError),
}

impl Failure {
    pub(crate) fn passing(error: ModelsError) -> Self {
        Self::Passing { error, wait: None }
    }

    /// As a person meets it, where nothing else is to be tried.
    pub(crate) fn into_error(self, host: &str) -> ModelsError {
        let hub = |reason: String| ModelsError::Hub {
            host: host.to_owned(),
            reason,
        };
        match self {
            Self::Passing { error, .. } | Self::Final(error) => error,
            Self::Changed(file) => hub(format!("{file} keeps being another one than it lists")),
            Self::Stale => hub("it has less of a file than it lists".to_owned()),
        }
    }
}

impl From<ModelsError> for Failure {
    fn from(error: ModelsError) -> Self {
        Self::Final(error)
    }
}
