//! The entry point of products with quantized matrices: plans, prepares, divides the work.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::blocks::{BlockMat, BlockVec};
use crate::cpu::Kernels;
use crate::matrix::Matrix;
use crate::matvec::{self, Matvec};
use crate::pool::Pool;
use crate::precision::Precision;
use crate::product::Product;
use crate::scratch::{Carver, Output, Scratch, Space};

/// One product `y = x W^T`.
#[derive(Debug)]
pub struct Job<'a> {
    /// The weights, `(n, k)`.
    pub w: Matrix<'a>,
    /// The input, `(t, k)` row-major; every job has its own `t`.
    pub x: &'a [f32],
    /// The output, `(t, n)` row-major, overwritten.
    pub y: &'a mut [f32],
}

/// Jobs planned together, on the stack.
const MAX_JOBS: usize = 32;
/// Bytes of weights below which work is not divided further.
const MIN_CHUNK_BYTES: usize = 64 << 10;
/// Multiplications of a tile of rows below which it is not given out alone: some microseconds.
const MIN_CHUNK_PRODUCTS: usize = 4 << 20;
/// Chunks a thread gets if all run at the same speed: enough to even out that they do not.
const CHUNKS_PER_THREAD: usize = 8;
/// Items of preparation below which the caller does it alone; each takes about a microsecond.
const PREP_GRAIN: usize = 8;

struct Plan<'a> {
    w: Matrix<'a>,
    x: &'a [f32],
    y: Output<'a>,
    kind: Kind,
    units: usize,
    /// Units of a chunk, and chunks.
    chunk: usize,
    chunks: usize,
}

#[expect(
    clippy::large_enum_variant,
    reason = "on the stack: planning allocates nothing"
)]
enum Kind {
    Matvec(Matvec),
    Blocks(BlockVec),
    Tiles(BlockMat),
    Product(Product),
}

/// `y = x W^T` for every job, in one parallel region (after a short one that prepares inputs).
/// Jobs may share `x`. Allocates nothing once `scratch` has grown to the largest call.
///
/// # Panics
/// If a length does not fit its matrix, or if called inside a region of the pool.
pub fn matmul(pool: &Pool, scratch: &mut Scratch, precision: Precision, jobs: &mut [Job<'_>]) {
    for jobs in jobs.chunks_mut(MAX_JOBS) {
        matmul_some(pool, scratch, precision, jobs);
    }
}

fn matmul_some(pool: &Pool, scratch: &mut Scratch, precision: Precision, jobs: &mut [Job<'_>]) {
    let threads = pool.threads();
    let kernels = scratch.kernels;
    let mut shared = Carver::default();
    let mut plans: [Option<Plan<'_>>; MAX_JOBS] = [const { None }; MAX_JOBS];
    let mut count = 0;
    for job in jobs {
        let (planned, rest) = plans.split_at_mut(count);
        if let Some(plan) = Plan::new(kernels, job, precision, threads, planned, &mut shared) {
            rest[0] = Some(plan);
            count += 1;
        }
    }
    let plans = &mut plans[..count];
    let total: usize = plans.iter().flatten().map(Plan::cost_bytes).sum();
    let target = (total / (threads * CHUNKS_PER_THREAD)).max(MIN_CHUNK_BYTES);
    for plan in plans.iter_mut().flatten() {
        plan.divide(target);
    }
    let plans = &*plans;

    let thread_bytes = plans
        .iter()
        .flatten()
        .map(Plan::thread_bytes)
        .max()
        .unwrap_or(0);
    let (shared, space) = scratch.spaces(shared.bytes(), thread_bytes * threads);
    let items: usize = plans.iter().flatten().map(Plan::prep_items).sum();
    pool.for_each(items, PREP_GRAIN, &|range| {
        for item in range {
            if let Some((plan, item)) = find(plans, item, Plan::prep_items) {
                plan.prepare(kernels, shared, item);
            }
        }
    });

    let chunks: usize = plans.iter().flatten().map(|plan| plan.chunks).sum();
    let next = AtomicUsize::new(0);
    let work = |part: usize, _parts: usize| {
        let thread = space.part(part * thread_bytes, thread_bytes);
        loop {
            let chunk = next.fetch_add(1, Ordering::Relaxed);
            let Some((plan, chunk)) = find(plans, chunk, |plan| plan.chunks) else {
                break;
            };
            let start = chunk * plan.chunk;
            for unit in start..plan.units.min(start + plan.chunk) {
                // SAFETY: the counter gives every chunk to one thread, `thread` is this part's
                // alone, and preparation ended with the region before.
                unsafe { plan.run(kernels, shared, thread, unit) };
            }
        }
    };
    if chunks == 1 {
        work(0, 1);
    } else if chunks > 1 {
        pool.run(&work);
    }
}

/// The plan that the `i`-th of all plans' parts belongs to, and which of its parts that is.
fn find<'p, 'a>(
    plans: &'p [Option<Plan<'a>>],
    mut i: usize,
    parts: impl Fn(&Plan<'a>) -> usize,
) -> Option<(&'p Plan<'a>, usize)> {
    for plan in plans.iter().flatten() {
        let parts = parts(plan);
        if i < parts {
            return Some((plan, i));
        }
        i -= parts;
    }
    None
}

impl<'a> Plan<'a> {
    /// `None` where there are no tokens.
    fn new(
        kernels: &Kernels,
        job: &'a mut Job<'_>,
        precision: Precision,
        threads: usize,
        planned: &[Option<Plan<'_>>],
        shared: &mut Carver,
    ) -> Option<Self> {
        let (w, x) = (job.w, job.x);
        let (n, k) = (w.n(), w.k());
        let t = x.len() / k;
        assert_eq!(x.len(), t * k, "BUG: matmul: x is not (t, {k})");
        assert_eq!(job.y.len(), t * n, "BUG: matmul: y is not ({t}, {n})");
        if t == 0 {
            return None;
        }
        let same_x = |plan: &&Plan<'_>| std::ptr::eq(plan.x, x) && plan.w.k() == k;
        let twins = || {
            planned
                .iter()
                .flatten()
                .filter(same_x)
                .map(|plan| &plan.kind)
        };
        let integers = match &w {
            Matrix::Hqq(w) if precision == Precision::Fast && t <= matvec::max_tokens(w.bits()) => {
                let twin = twins().find_map(|kind| match kind {
                    Kind::Matvec(matvec) => Some(matvec),
                    _ => None,
                });
                Matvec::new(w, x, threads, twin, shared).map(Kind::Matvec)
            }
            Matrix::Blocks(w) if BlockVec::takes(w.kind(), t, precision == Precision::Exact) => {
                let twins = twins().filter_map(|kind| match kind {
                    Kind::Blocks(blocks) => Some(blocks),
                    _ => None,
                });
                Some(Kind::Blocks(BlockVec::new(kernels, w, t, twins, shared)))
            }
            Matrix::Blocks(w) if BlockMat::takes(w.kind(), precision == Precision::Exact) => {
                let twins = twins().filter_map(|kind| match kind {
                    Kind::Tiles(tiles) => Some(tiles),
                    _ => None,
                });
                Some(Kind::Tiles(BlockMat::new(kernels, w, t, twins, shared)))
            }
            _ => None,
        };
        let kind = integers.unwrap_or_else(|| {
            let twins = twins().filter_map(|kind| match kind {
                Kind::Product(product) => Some(product),
                _ => None,
            });
            Kind::Product(Product::new(&w, t, precision, threads, twins, shared))
        });
        let units = match &kind {
            Kind::Matvec(matvec) => matvec.units(),
            Kind::Blocks(blocks) => blocks.units(),
            Kind::Tiles(tiles) => tiles.units(),
            Kind::Product(product) => product.units(),
        };
        Some(Self {
            w,
            x,
            y: Output::new(job.y),
            kind,
            units,
            chunk: 1,
            chunks: units,
        })
    }

    /// What the work weighs against other jobs' work: bytes read, times tokens where those cost.
    fn cost_bytes(&self) -> usize {
        match &self.kind {
            Kind::Matvec(_) | Kind::Blocks(_) => self.w.bytes(),
            Kind::Tiles(_) | Kind::Product(_) => {
                self.w.bytes() * (self.x.len() / self.w.k()).div_ceil(4)
            }
        }
    }

    fn divide(&mut self, target_bytes: usize) {
        let chunk = match &self.kind {
            // A unit takes long enough, and the last one holds up all threads.
            Kind::Tiles(tiles) => MIN_CHUNK_PRODUCTS / tiles.unit_products(self.w.k()),
            _ => target_bytes * self.units / self.cost_bytes(),
        };
        self.chunk = chunk.clamp(1, self.units);
        self.chunks = self.units.div_ceil(self.chunk);
    }

    fn thread_bytes(&self) -> usize {
        match &self.kind {
            Kind::Matvec(matvec) => matvec.thread_bytes(),
            Kind::Blocks(_) => 0,
            Kind::Tiles(tiles) => tiles.thread_bytes(),
            Kind::Product(product) => product.thread_bytes(),
        }
    }

    fn prep_items(&self) -> usize {
        match &self.kind {
            Kind::Matvec(matvec) => matvec.prep_items(),
            Kind::Blocks(blocks) => blocks.prep_items(),
            Kind::Tiles(tiles) => tiles.prep_items(),
            Kind::Product(product) => product.prep_items(),
        }
    }

    fn prepare(&self, kernels: &Kernels, shared: Space<'_>, item: usize) {
        match (&self.kind, &self.w) {
            (Kind::Matvec(matvec), Matrix::Hqq(w)) => {
                matvec.prepare(kernels, w, self.x, shared, item);
            }
            (Kind::Blocks(blocks), _) => blocks.prepare(kernels, self.x, shared, item),
            (Kind::Tiles(tiles), _) => tiles.prepare(kernels, self.x, shared, item),
            (Kind::Product(product), _) => product.prepare(kernels, self.x, shared, item),
            (Kind::Matvec(_), Matrix::Blocks(_)) => {
                unreachable!("BUG: a plan of another matrix type")
            }
        }
    }

    /// # Safety
    /// No other thread has the same unit or uses `thread`; all items are prepared.
    unsafe fn run(&self, kernels: &Kernels, shared: Space<'_>, thread: Space<'_>, unit: usize) {
        match (&self.kind, &self.w) {
            // SAFETY: the caller's promise.
            (Kind::Matvec(matvec), Matrix::Hqq(w)) => unsafe {
                matvec.run(kernels, w, self.x, self.y, shared, thread, unit);
            },
            // SAFETY: the caller's promise.
            (Kind::Blocks(blocks), Matrix::Blocks(w)) => unsafe {
                blocks.run(kernels, w, self.x, self.y, shared, unit);
            },
            // SAFETY: the caller's promise.
            (Kind::Tiles(tiles), Matrix::Blocks(w)) => unsafe {
                tiles.run(kernels, w, self.y, shared, thread, unit);
            },
            // SAFETY: the caller's promise.
            (Kind::Product(product), w) => unsafe {
                product.run(kernels, w, self.y, shared, thread, unit);
            },
            _ => unreachable!("BUG: a plan of another matrix type"),
        }
    }
}
