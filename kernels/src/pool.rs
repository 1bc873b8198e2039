//! A pool of worker threads for short, frequent parallel regions.
//!
//! Decoding one token opens a few hundred regions, from tens of microseconds to a few
//! milliseconds long and microseconds apart. So workers watch an epoch counter for a short while
//! after a region before they sleep, and the caller takes part instead of waiting.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Rounds of [`spin_loop`] before a waiting thread starts to yield: some tens of microseconds.
const SPINS: u32 = 4_000;
/// Yields before a waiting worker sleeps. On an idle machine a yield is well under a microsecond.
const YIELDS: u32 = 200;

type Region<'a> = &'a (dyn Fn(usize, usize) + Sync);

thread_local! {
    static IN_REGION: Cell<bool> = const { Cell::new(false) };
}

/// Worker threads that run one region at a time.
///
/// Callers on different threads may share a pool: their regions run one after the other. A region
/// opened inside a region is a bug and panics.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a region.
    turn: Mutex<()>,
}

struct Shared {
    /// Number of regions opened so far; a change is the signal to start.
    epoch: AtomicUsize,
    /// The region of this epoch, written before the epoch moves on.
    region: UnsafeCell<Option<Region<'static>>>,
    /// Workers that have not finished this epoch's region.
    pending: AtomicUsize,
    stop: AtomicBool,
    /// Number of calls of [`Pool::rouse`] so far.
    alarm: AtomicUsize,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    parts: usize,
}

// SAFETY: `region` is the only field that is not Sync by itself. The caller writes it while no
// worker is in a region (`pending` is 0 and `turn` is held) and publishes it through `epoch`;
// workers only read it between that and their decrement of `pending`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the reference inside points to a `Sync` closure.
unsafe impl Send for Shared {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `threads` threads, the caller of [`Pool::run`] included (at least one).
    ///
    /// If the system refuses a thread, the pool has fewer: see [`Pool::threads`].
    pub fn new(threads: usize) -> Self {
        let wanted = threads.max(1);
        let gate = Arc::new((Mutex::new(None::<Arc<Shared>>), Condvar::new()));
        // The number of parts must be known to the workers, and is known only once all are up.
        let workers: Vec<_> = (1..wanted)
            .map_while(|part| {
                let gate = Arc::clone(&gate);
                thread::Builder::new()
                    .name(format!("octet-worker-{part}"))
                    .spawn(move || {
                        let mut ready = lock(&gate.0);
                        let shared = loop {
                            if let Some(shared) = &*ready {
                                break Arc::clone(shared);
                            }
                            ready = gate.1.wait(ready).unwrap_or_else(PoisonError::into_inner);
                        };
                        drop(ready);
                        shared.work(part);
                    })
                    .ok()
            })
            .collect();
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            region: UnsafeCell::new(None),
            pending: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            alarm: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            panic: Mutex::new(None),
            parts: workers.len() + 1,
        });
        *lock(&gate.0) = Some(Arc::clone(&shared));
        gate.1.notify_all();
        Self {
            shared,
            workers,
            turn: Mutex::new(()),
        }
    }

    /// Threads that take part in a region, the caller included.
    pub fn threads(&self) -> usize {
        self.shared.parts
    }

    /// Has workers that sleep wake up and watch for a region, which is likely to come soon: waking
    /// many threads takes longer than a short region.
    pub fn rouse(&self) {
        let shared = &*self.shared;
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            shared.alarm.fetch_add(1, Ordering::SeqCst);
            let _asleep = lock(&shared.sleep);
            shared.wake.notify_all();
        }
    }

    /// Calls `f(part, parts)` once on every thread, `part` in `0..parts`; returns when all are
    /// done.
    ///
    /// # Panics
    /// With the payload of a part that panicked, after all parts have ended; and if called inside
    /// a region.
    pub fn run(&self, f: &(dyn Fn(usize, usize) + Sync)) {
        assert!(
            !IN_REGION.get(),
            "BUG: Pool::run called inside a region of a pool"
        );
        if self.workers.is_empty() {
            let _inside = Inside::enter();
            f(0, 1);
            return;
        }
        let turn = lock(&self.turn);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The reference is used by workers before they
        // decrement `pending`, and this function does not return or unwind before `pending` is 0.
        let region = unsafe { std::mem::transmute::<Region<'_>, Region<'static>>(f) };
        // SAFETY: `turn` is held and the previous region has ended, so no worker reads it now.
        unsafe { *shared.region.get() = Some(region) };
        shared.pending.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _asleep = lock(&shared.sleep);
            shared.wake.notify_all();
        }
        shared.part(region, 0);
        let mut waited = 0u32;
        while shared.pending.load(Ordering::Acquire) != 0 {
            waited = waited.saturating_add(1);
            if waited < SPINS {
                spin_loop();
            } else {
                thread::yield_now();
            }
        }
        let panic = lock(&shared.panic).take();
        drop(turn);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Calls `f` with ranges that cover `0..n`, each `grain` long or the rest; threads take the
    /// next range when they are done with one. A single range runs on the caller alone, without a
    /// region.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn for_each(&self, n: usize, grain: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
        let grain = grain.max(1);
        if n <= grain {
            if n > 0 {
                f(0..n);
            }
            return;
        }
        let next = AtomicUsize::new(0);
        self.run(&|_, _| {
            loop {
                let start = next.fetch_add(grain, Ordering::Relaxed);
                if start >= n {
                    break;
                }
                f(start..n.min(start + grain));
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        {
            let _asleep = lock(&self.shared.sleep);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a region, so there is nothing to report.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .finish()
    }
}

impl Shared {
    fn work(&self, part: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: the epoch moved, so the caller has written the region and will not write it
            // again before this worker decrements `pending`.
            if let Some(region) = unsafe { *self.region.get() } {
                self.part(region, part);
            }
            self.pending.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits until the epoch is not `seen` any more, and returns it.
    fn next_epoch(&self, seen: usize) -> usize {
        loop {
            for waited in 0..SPINS + YIELDS {
                let epoch = self.epoch.load(Ordering::Acquire);
                if epoch != seen {
                    return epoch;
                }
                if waited < SPINS {
                    spin_loop();
                } else {
                    thread::yield_now();
                }
            }
            self.sleep(seen);
        }
    }

    /// Sleeps until the epoch is not `seen` any more, or there is an alarm.
    fn sleep(&self, seen: usize) {
        let mut asleep = lock(&self.sleep);
        let alarm = self.alarm.load(Ordering::SeqCst);
        // The order "count myself, then look at the epoch" here against "move the epoch, then look
        // at the count" in `run` is what makes a lost wake-up impossible.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.epoch.load(Ordering::SeqCst) == seen
            && self.alarm.load(Ordering::SeqCst) == alarm
        {
            asleep = self
                .wake
                .wait(asleep)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn part(&self, region: Region<'_>, part: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let _inside = Inside::enter();
            region(part, self.parts);
        }));
        if let Err(payload) = result {
            lock(&self.panic).get_or_insert(payload);
        }
    }
}

/// Marks this thread as being in a region, also when the region unwinds.
struct Inside;

impl Inside {
    fn enter() -> Self {
        IN_REGION.set(true);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        IN_REGION.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_part_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for _ in 0..500 {
                let seen = AtomicU64::new(0);
                pool.run(&|part, parts| {
                    assert_eq!(parts, threads);
                    assert_eq!(seen.fetch_or(1 << part, Ordering::Relaxed) >> part & 1, 0);
                });
                assert_eq!(seen.into_inner(), (1 << threads) - 1);
            }
        }
    }

    #[test]
    fn roused_workers_watch_and_sleep_again() {
        let pool = Pool::new(3);
        let asleep = |wanted: usize| {
            while pool.shared.sleepers.load(Ordering::SeqCst) != wanted {
                thread::yield_now();
            }
        };
        for _ in 0..20 {
            asleep(2);
            let alarm = pool.shared.alarm.load(Ordering::SeqCst);
            pool.rouse();
            assert_eq!(pool.shared.alarm.load(Ordering::SeqCst), alarm + 1);
            // However they lie, a region gets all of them.
            let ran = AtomicU64::new(0);
            pool.run(&|_, _| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.into_inner(), 3);
        }
        asleep(2);
    }

    #[test]
    fn for_each_covers_the_range_once() {
        let pool = Pool::new(3);
        for (n, grain) in [
            (0, 1),
            (1, 1),
            (7, 3),
            (100, 1),
            (100, 1000),
            (64, 16),
            (5, 0),
        ] {
            let hits: Vec<_> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            pool.for_each(n, grain, &|range| {
                for i in range {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(
                hits.iter().all(|h| h.load(Ordering::Relaxed) == 1),
                "n {n} grain {grain}"
            );
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        for threads in [1, 4] {
            let pool = Pool::new(threads);
            for bad in 0..threads {
                let caught = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(&|part, _| assert_ne!(part, bad, "part {part} fails"));
                }));
                let payload = caught.expect_err("the panic must propagate");
                let message = payload
                    .downcast_ref::<String>()
                    .expect("a formatted message");
                assert!(message.contains(&format!("part {bad} fails")), "{message}");
            }
            let count = AtomicUsize::new(0);
            pool.run(&|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), threads);
        }
    }

    #[test]
    fn nested_regions_are_refused() {
        for threads in [1, 2] {
            let pool = Pool::new(threads);
            let nested = AssertUnwindSafe(|| pool.run(&|_, _| pool.run(&|_, _| {})));
            assert!(catch_unwind(nested).is_err());
        }
    }

    #[test]
    fn callers_on_two_threads_take_turns() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let inside = AtomicUsize::new(0);
                        pool.run(&|_, _| {
                            inside.fetch_add(1, Ordering::Relaxed);
                        });
                        total.fetch_add(inside.into_inner(), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 2 * 2 * 300);
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(2);
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(20));
            let count = AtomicUsize::new(0);
            pool.run(&|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 2);
        }
    }
}
