//! Criterion's view of the products that decide decoding and prefill, for comparing two commits:
//! `cargo bench -p octet-kernels --bench products -- --save-baseline before`, then
//! `--baseline before`. The bench `matvec` sets the same figures against the machine's memory.

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use octet_kernels::{Bits, Job, Pool, Precision, Scratch, matmul};
use support::{Packed, Rng};

/// Bytes of a set of matrices that no cache holds.
const SET_BYTES: usize = 420 << 20;

fn products(c: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Pool::new(threads);
    let shapes = [
        ("2-bit 14336x4096", Bits::B2, 16, (14336, 4096), 128),
        ("2-bit 4096x14336", Bits::B2, 16, (4096, 14336), 128),
        ("4-bit 4096x4096", Bits::B4, 64, (4096, 4096), 256),
    ];
    for (name, bits, group_size, (n, k), meta) in shapes {
        let one = Packed::demo(1, n, k, bits, group_size, meta);
        let bytes = one.matrix().bytes();
        let set = vec![one; SET_BYTES.div_ceil(bytes)];
        let mut scratch = Scratch::default();
        let mut group = c.benchmark_group(name);
        group.sample_size(20);
        for t in [1, 128] {
            let x = Rng::new(2).normals(t * k);
            let mut y = vec![0f32; t * n];
            group.throughput(match t {
                1 => Throughput::Bytes(bytes as u64),
                // Multiplications: what prefill is bound by.
                _ => Throughput::Elements((n * k * t) as u64),
            });
            let mut call = 0;
            group.bench_with_input(BenchmarkId::new("tokens", t), &t, |bencher, _| {
                bencher.iter(|| {
                    call += 1;
                    let w = set[call % set.len()].matrix().into();
                    let job = Job {
                        w,
                        x: &x,
                        y: &mut y,
                    };
                    matmul(&pool, &mut scratch, Precision::Fast, &mut [job]);
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
