//! How many files the process keeps open for reading experts.
//!
//! Systems allow a process few, 256 on some; where the process may raise that number, it does so
//! once. Half is left to everything else: who gets no permit opens its file for each read.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// As many as the largest models have experts, and some.
const WANTED: usize = 8192;

static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Leave to keep one file open, given back on drop.
#[derive(Debug)]
pub(super) struct Permit(());

impl Permit {
    /// `None` where enough are open.
    pub(super) fn take() -> Option<Self> {
        static MOST: OnceLock<usize> = OnceLock::new();
        let most = *MOST.get_or_init(|| allowed() / 2);
        let more = |kept| (kept < most).then_some(kept + 1);
        let taken = KEPT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Self(()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        KEPT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Files that the process may have open, after asking for more.
#[cfg(unix)]
fn allowed() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the system fills in the structure that it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    let wanted = (2 * WANTED) as libc::rlim_t;
    let most = limit.rlim_max.min(wanted);
    if limit.rlim_cur < most {
        let raised = libc::rlimit {
            rlim_cur: most,
            ..limit
        };
        // SAFETY: the structure is read only. A limit that the system refuses stays as it was.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            limit = raised;
        }
    }
    usize::try_from(limit.rlim_cur)
        .unwrap_or(usize::MAX)
        .min(2 * WANTED)
}

/// Windows counts the files of the C library only.
#[cfg(not(unix))]
fn allowed() -> usize {
    2 * WANTED
}
