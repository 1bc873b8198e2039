//! Speed of the products on Mixtral's shapes, against reading the same bytes and doing nothing.
//!
//! `cargo bench -p octet-kernels --bench matvec [-- --quick] [--level scalar|avx2|avx512] [--tokens T] [--threads N]
//! [--only NAME]`, with a name as printed, such as `2 g16 14336x4096`
//!
//! Every product takes another matrix of a set far larger than the caches. Reads and products take
//! turns, and the best of many calls counts, so that other work on the machine disturbs little.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Instant;

use octet_kernels::{
    Bits, Job, Level, Pool, Precision, Q8Matrix, QMatrix, Scratch, features, matmul, matmul_f16,
    matmul_q8,
};
use support::{Packed, Param, Rng};

struct Options {
    quick: bool,
    level: Option<String>,
    tokens: Option<usize>,
    threads: Option<usize>,
    /// Only the matrices whose name contains this.
    only: String,
}

/// Bytes of a set of matrices.
const SET_BYTES: usize = 420 << 20;

fn main() {
    let mut options = Options {
        quick: false,
        level: None,
        tokens: None,
        threads: None,
        only: String::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--level" => options.level = args.next(),
            "--tokens" => options.tokens = args.next().and_then(|t| t.parse().ok()),
            "--threads" => options.threads = args.next().and_then(|t| t.parse().ok()),
            "--only" => options.only = args.next().unwrap_or_default(),
            _ => {}
        }
    }
    println!("kernels here: {}", features());
    println!(
        "{:<8} {:>11} {:>2} {:<14} {:>7} {:>5} {:>9} {:>8} {:>7} {:>8}",
        "bits", "shape", "th", "level", "mode", "t", "us", "GB/s", "% read", "GMAC/s"
    );
    let threads = if options.quick { &[2][..] } else { &[1, 2] };
    for &threads in options
        .threads
        .as_slice()
        .first()
        .map_or(threads, std::slice::from_ref)
    {
        let pool = Pool::new(threads);
        for (bits, group_size, n, k, meta) in [
            (Bits::B2, 16, 14336, 4096, 128),
            (Bits::B2, 16, 4096, 14336, 128),
            (Bits::B4, 64, 4096, 4096, 256),
            (Bits::B4, 64, 1024, 4096, 256),
            (Bits::B3, 16, 14336, 4096, 128),
            (Bits::B8, 64, 4096, 4096, 256),
        ] {
            let name = format!("{} g{group_size} {n}x{k}", bits.count());
            let usual = bits == Bits::B2 || bits == Bits::B4 || !options.only.is_empty();
            if (!options.quick || usual) && name.contains(&options.only) {
                quantized(&pool, &options, (n, k), bits, group_size, meta);
            }
        }
        if "q8 f16".contains(&options.only) {
            dense(&pool);
        }
    }
}

/// Seconds of the fastest of `calls` calls of each of two functions, which take turns and are told
/// the number of the call.
fn best(calls: usize, mut a: impl FnMut(usize), mut b: impl FnMut(usize)) -> (f64, f64) {
    let mut best = (f64::MAX, f64::MAX);
    for call in 0..calls {
        let start = Instant::now();
        a(call);
        best.0 = best.0.min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        b(call);
        best.1 = best.1.min(start.elapsed().as_secs_f64());
    }
    best
}

fn read(pool: &Pool, bytes: &[u8]) {
    const PIECE: usize = 256 << 10;
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

fn read_matrix(pool: &Pool, w: &Packed) {
    read(pool, &w.w_q);
    for param in [&w.scale, &w.zero] {
        match param {
            Param::Plain(v) => read(pool, v),
            Param::Quantized { q, .. } => read(pool, q),
        }
    }
}

fn quantized(
    pool: &Pool,
    options: &Options,
    (n, k): (usize, usize),
    bits: Bits,
    group_size: usize,
    meta: usize,
) {
    let one = Packed::demo(1, n, k, bits, group_size, meta);
    let bytes = one.matrix().bytes();
    let set: Vec<Packed> = (0..SET_BYTES.div_ceil(bytes))
        .map(|_| one.clone())
        .collect();
    let tokens: &[usize] = if options.quick {
        &[1, 128]
    } else {
        &[1, 2, 4, 8, 16, 128, 512]
    };
    let tokens = options
        .tokens
        .as_slice()
        .first()
        .map_or(tokens, std::slice::from_ref);
    for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
        let name = format!("{level:?}").to_lowercase();
        if options
            .level
            .as_ref()
            .map_or(level == Level::Scalar, |wanted| *wanted != name)
        {
            continue;
        }
        let mut scratch = Scratch::with_level(level);
        for &t in tokens {
            for precision in [Precision::Fast, Precision::Exact] {
                if precision == Precision::Exact && (options.quick || ![1, 128].contains(&t)) {
                    continue;
                }
                let x = Rng::new(2).normals(t * k);
                let mut y = vec![0f32; t * n];
                let slow = t >= 16 || precision == Precision::Exact || level == Level::Scalar;
                let calls = if slow { 4 } else { 5 * set.len() };
                let (reading, seconds) = best(
                    calls,
                    |call| read_matrix(pool, &set[(call + set.len() / 2) % set.len()]),
                    |call| {
                        let w: QMatrix<'_> = set[call % set.len()].matrix();
                        let job = Job {
                            w: w.into(),
                            x: &x,
                            y: &mut y,
                        };
                        matmul(pool, &mut scratch, precision, &mut [job]);
                    },
                );
                println!(
                    "{:<8} {:>11} {:>2} {:<14} {:>7} {:>5} {:>9.1} {:>8.1} {:>6.0}% {:>8.1}",
                    format!("{} g{group_size}", bits.count()),
                    format!("{n}x{k}"),
                    pool.threads(),
                    level.name(),
                    format!("{precision:?}"),
                    t,
                    1e6 * seconds,
                    1e-9 * bytes as f64 / seconds,
                    100.0 * reading / seconds,
                    1e-9 * (n * k * t) as f64 / seconds,
                );
            }
        }
    }
}

fn dense(pool: &Pool) {
    let (n, k) = (32000, 4096);
    let bytes = support::f16_bytes(Rng::new(3).normals(1 << 20)).repeat(n * k / (1 << 20));
    let q8 = Q8Matrix::from_f16(pool, &bytes, n, k);
    let mut scratch = Scratch::default();
    for t in [1, 32] {
        let x = Rng::new(4).normals(t * k);
        let mut y = vec![0f32; t * n];
        let mut y2 = y.clone();
        let rounds = if t == 1 { 5 } else { 1 };
        let (reading, q8_seconds) = best(
            rounds,
            |_| read(pool, &bytes[..q8.bytes()]),
            |_| matmul_q8(pool, &mut scratch, &q8, &x, &mut y),
        );
        let (f16_reading, f16_seconds) = best(
            rounds,
            |_| read(pool, &bytes),
            |_| matmul_f16(pool, &bytes, n, &x, &mut y2),
        );
        for (name, size, reading, seconds) in [
            ("q8", q8.bytes(), reading, q8_seconds),
            ("f16", bytes.len(), f16_reading, f16_seconds),
        ] {
            println!(
                "{:<8} {:>11} {:>2} {:<14} {:>7} {:>5} {:>9.1} {:>8.1} {:>6.0}% {:>8.1}",
                name,
                format!("{n}x{k}"),
                pool.threads(),
                features(),
                "-",
                t,
                1e6 * seconds,
                1e-9 * size as f64 / seconds,
                100.0 * reading / seconds,
                1e-9 * (n * k * t) as f64 / seconds,
            );
        }
    }
}
