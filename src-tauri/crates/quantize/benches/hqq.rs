//! How fast one core quantizes the demo's matrices, in bytes of bf16 source:
//! `cargo bench -p octet-quantize --bench hqq`.
//!
//! A full Mixtral 8x7B has 93.4 GB of it.

#[path = "../tests/seeded/mod.rs"]
mod seeded;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use octet_kernels::Bits;
use octet_quantize::hqq::{MatrixSpec, Scratch, quantize};

const BF16_BYTES: u64 = 2;

fn matrices(c: &mut Criterion) {
    let three_bits = MatrixSpec {
        bits: Bits::B3,
        group_size: 64,
        ..MatrixSpec::EXPERTS
    };
    let nearest = MatrixSpec {
        optimize: false,
        ..MatrixSpec::EXPERTS
    };
    let (w1, w2, q_proj) = ((14336, 4096), (4096, 14336), (4096, 4096));
    let model = seeded::weights(true, 0.02, 1, w1.0 * w1.1);
    // Large enough for the shrinking operator, which a model's weights do not reach.
    let large: Vec<f32> = model[..q_proj.0 * q_proj.1]
        .iter()
        .map(|w| 100.0 * w)
        .collect();
    let cases = [
        ("w1, 2 bits, groups of 16", MatrixSpec::EXPERTS, w1, &model),
        ("w2, 2 bits, groups of 16", MatrixSpec::EXPERTS, w2, &model),
        ("w1, round to nearest", nearest, w1, &model),
        ("w1, 3 bits, groups of 64", three_bits, w1, &model),
        (
            "q_proj, 4 bits, groups of 64",
            MatrixSpec::ATTENTION,
            q_proj,
            &model,
        ),
        (
            "q_proj, large weights",
            MatrixSpec::ATTENTION,
            q_proj,
            &large,
        ),
    ];
    let mut scratch = Scratch::default();
    let mut group = c.benchmark_group("bf16 source");
    group.sample_size(10);
    for (name, spec, (n, k), weights) in cases {
        let weights = &weights[..n * k];
        group.throughput(Throughput::Bytes((n * k) as u64 * BF16_BYTES));
        group.bench_function(name, |bencher| {
            bencher.iter(|| quantize(weights, n, k, &spec, &mut scratch).expect("quantizable"));
        });
    }
    group.finish();
}

criterion_group!(benches, matrices);
criterion_main!(benches);
