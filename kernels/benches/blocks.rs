//! Speed of the products with block types, against reading the same bytes and doing nothing.
//!
//! `cargo bench -p octet-kernels --bench blocks [-- --quick] [--only TYPE] [--level scalar|avx2|avx512]
//! [--tokens T] [--threads N] [--set large|cache]`
//!
//! Each figure is the median of five rounds, in which products and reads take turns and the fastest
//! call of each counts, so that other work on the machine disturbs little: one token
//! from a set far larger than the caches, and from one that the second-level cache holds; 128
//! tokens beside HQQ's 4 bits.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Instant;

use octet_kernels::{
    Bits, BlockType, Job, Level, Matrix, Pool, Precision, Scratch, features, matmul,
};
use support::blocks::Blocks;
use support::{Packed, Rng};

const ROUNDS: usize = 5;
/// Bytes of a set that no cache holds.
const LARGE_BYTES: usize = 192 << 20;
/// Bytes of a matrix of such a set.
const MATRIX_BYTES: usize = 2 << 20;
/// Bytes of a matrix that the second-level cache of a core holds.
const CACHE_BYTES: usize = 400 << 10;

struct Options {
    quick: bool,
    only: String,
    level: Level,
    tokens: Option<usize>,
    threads: Option<usize>,
    set: String,
}

fn main() {
    let mut options = Options {
        quick: false,
        only: String::new(),
        level: Level::best(),
        tokens: None,
        threads: None,
        set: String::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--only" => options.only = args.next().unwrap_or_default(),
            "--level" => {
                options.level = match args.next().as_deref() {
                    Some("scalar") => Level::Scalar,
                    Some("avx2") => Level::Avx2,
                    _ => Level::best(),
                }
            }
            "--tokens" => options.tokens = args.next().and_then(|t| t.parse().ok()),
            "--threads" => options.threads = args.next().and_then(|t| t.parse().ok()),
            "--set" => options.set = args.next().unwrap_or_default(),
            _ => {}
        }
    }
    println!(
        "kernels here: {}, used: {}",
        features(),
        options.level.name()
    );
    println!(
        "{:<8} {:>6} {:>3} {:>3} {:>9} {:>9} {:>7} {:>9}",
        "type", "set", "th", "t", "GB/s", "read GB/s", "ratio", "GMAC/s"
    );
    let threads: &[usize] = match &options.threads {
        Some(threads) => std::slice::from_ref(threads),
        None => &[1, 2],
    };
    for &threads in threads {
        let pool = Pool::new(threads);
        for kind in BlockType::ALL {
            if !options.only.is_empty() && kind.name() != options.only {
                continue;
            }
            if options.tokens.is_none_or(|t| t <= 8) {
                for set in ["large", "cache"] {
                    if set.contains(&options.set) {
                        decode(&pool, &options, kind, set);
                    }
                }
            }
            if options.tokens.is_none_or(|t| t > 8) && !options.quick && threads == 1 {
                prefill(&pool, &options, kind);
            }
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn seconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

/// Adds up bytes on all threads, in pieces like those of a product.
fn read(pool: &Pool, bytes: &[u8]) {
    const PIECE: usize = 64 << 10;
    pool.for_each(bytes.len().div_ceil(PIECE), 1, &|range| {
        let end = bytes.len().min(range.end * PIECE);
        let mut sums = [0u64; 32];
        for chunk in bytes[range.start * PIECE..end].as_chunks::<256>().0 {
            for (sum, word) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
                *sum ^= u64::from_ne_bytes(*word);
            }
        }
        black_box(sums);
    });
}

fn decode(pool: &Pool, options: &Options, kind: BlockType, set: &str) {
    let t = options.tokens.unwrap_or(1);
    let k = 2048;
    let row = kind.row_bytes(k).expect("whole blocks");
    let (n, matrices) = match set {
        "cache" => ((CACHE_BYTES / row).max(16), 1),
        _ => (MATRIX_BYTES / row, LARGE_BYTES / MATRIX_BYTES),
    };
    let calls = if set == "cache" { 200 } else { matrices };
    let all: Vec<Blocks> = (0..matrices)
        .map(|i| Blocks::random(&mut Rng::new(i as u64), kind, (n, k), 0.01))
        .collect();
    let x = Rng::new(1).normals(t * k);
    let mut y = vec![0.0; t * n];
    let mut scratch = Scratch::with_level(options.level);
    let (mut products, mut reads, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        // Each the half of the set that the other has not just read.
        let at = |call: usize, other: usize| &all[(call + other * matrices / 2) % matrices];
        let (mut product, mut reading) = (f64::MAX, f64::MAX);
        for call in 0..calls {
            reading = seconds(|| read(pool, at(call, 1).matrix().bytes())).min(reading);
            let took = seconds(|| {
                let w = at(call, 0).matrix().into();
                let job = Job {
                    w,
                    x: &x,
                    y: &mut y,
                };
                matmul(pool, &mut scratch, Precision::Fast, &mut [job]);
            });
            product = took.min(product);
        }
        if round > 0 {
            let bytes = 1e-9 * (n * row) as f64;
            products.push(bytes / product);
            reads.push(bytes / reading);
            ratios.push(reading / product);
        }
    }
    let speed = median(products);
    println!(
        "{:<8} {set:>6} {:>3} {t:>3} {:>9.1} {:>9.1} {:>6.0}% {:>9.1}",
        kind.name(),
        pool.threads(),
        speed,
        median(reads),
        100.0 * median(ratios),
        speed / row as f64 * (k * t) as f64,
    );
}

/// Many tokens, in turns with HQQ's 4-bit weights of the same shape.
fn prefill(pool: &Pool, options: &Options, kind: BlockType) {
    let t = options.tokens.unwrap_or(128);
    let (n, k) = (2048, 2048);
    let blocks = Blocks::random(&mut Rng::new(1), kind, (n, k), 0.01);
    let hqq = Packed::demo(1, n, k, Bits::B4, 64, 256);
    let x = Rng::new(1).normals(t * k);
    let mut y = vec![0.0; t * n];
    let mut scratch = Scratch::with_level(options.level);
    let mut time = |w: Matrix<'_>| {
        seconds(|| {
            let job = Job {
                w,
                x: &x,
                y: &mut y,
            };
            matmul(pool, &mut scratch, Precision::Fast, &mut [job]);
        })
    };
    let (mut speeds, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        let (mut ours, mut others) = (f64::MAX, f64::MAX);
        for _ in 0..10 {
            ours = time(blocks.matrix().into()).min(ours);
            others = time(hqq.matrix().into()).min(others);
        }
        speeds.push(1e-9 * (n * k * t) as f64 / ours);
        ratios.push(others / ours);
    }
    println!(
        "{:<8} {:>6} {:>3} {t:>3} {:>27.0}% {:>9.1}  (of HQQ's 4 bits)",
        kind.name(),
        "-",
        pool.threads(),
        100.0 * median(ratios),
        median(speeds),
    );
}
