//! Products against the plain reference, at every level that this machine has.

mod support;

use octet_kernels::{Bits, Job, Level, Pool, Precision, QMatrix, Scratch, dequantize, matmul};
use proptest::prelude::*;
use support::{Packed, Param, Rng, f16_bytes, product, relative_rms};

fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|level| level.is_available())
}

fn run(pool: &Pool, level: Level, precision: Precision, w: QMatrix<'_>, x: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len() / w.k() * w.n()];
    let mut scratch = Scratch::with_level(level);
    matmul(
        pool,
        &mut scratch,
        precision,
        &mut [Job {
            w: w.into(),
            x,
            y: &mut y,
        }],
    );
    y
}

/// How far each output of [`Precision::Fast`] may be off: half a step of every block for each of
/// its columns, in whichever way the product was computed, and the integers' own resolution.
fn fast_bound(w: &QMatrix<'_>, x: &[f32]) -> Vec<f64> {
    let (n, k, groups) = (w.n(), w.k(), w.n_groups());
    let max_q = f64::from(w.bits().max_q() as f32);
    // The largest |scale| and |weight| that its parameters allow, a column and group.
    let scale = |c: usize| f64::from(w.scale().get(c)).abs();
    // What a tabulated scale is resolved to: 1/30000 of the largest that its meta values allow.
    let reach = |c: usize| match w.scale() {
        octet_kernels::GroupParam::Plain(_) => 0.0,
        octet_kernels::GroupParam::Quantized { scale, zero, .. } => {
            let at = |b: &[u8], i: usize| {
                f64::from(half::f16::from_le_bytes([b[2 * i], b[2 * i + 1]]).to_f32())
            };
            let m = c % (scale.len() / 2);
            (at(scale, m) * (128.0 + (at(zero, m) - 128.0).abs())).abs()
        }
    };
    let mut bounds = Vec::with_capacity(x.len() / k * n);
    for x in x.chunks(k) {
        for row in 0..n {
            let mut bound = 0.0;
            for start in (0..k).step_by(512) {
                let cols = start..k.min(start + 512);
                let group = |col: usize| (row * k + col) % groups;
                let q_off = |col: usize| {
                    let zero = f64::from(w.zero().get(group(col)));
                    (f64::from(w.q_at(row * k + col) as f32) - zero).abs()
                };
                // Few tokens: blocks of 256 of scale * x.
                for start in cols.clone().step_by(256) {
                    let cols = start..cols.end.min(start + 256);
                    let top = |f: &dyn Fn(usize) -> f64| cols.clone().map(f).fold(0.0, f64::max);
                    let x = |col: usize| f64::from(x[col]).abs();
                    let step = top(&|col| scale(group(col)) * x(col)) / 126.0;
                    let fine = top(&|col| reach(group(col)) * x(col)) / 30_000.0;
                    bound += cols
                        .map(|col| q_off(col) * (0.51 * step + 2.0 * fine))
                        .sum::<f64>();
                }
                // Many tokens: 512 of x, and weights whose scale and zero are rounded.
                let top_x = cols
                    .clone()
                    .map(|col| f64::from(x[col]).abs())
                    .fold(0.0, f64::max);
                let top_w = cols.clone().map(|col| {
                    let zero = f64::from(w.zero().get(group(col)));
                    scale(group(col)) * zero.abs().max((max_q - zero).abs())
                });
                let w_step = top_w.fold(0.0, f64::max) / 8_100.0;
                bound += cols
                    .map(|col| {
                        let weight = q_off(col) * scale(group(col));
                        let w_error = w_step * (0.51 * max_q.min(15.0) + 0.51);
                        f64::from(x[col]).abs() * w_error
                            + 0.51 * top_x / 4_095.0 * (weight + w_error)
                    })
                    .sum::<f64>();
            }
            bounds.push(1e-6 + bound * 1.01);
        }
    }
    bounds
}

fn check(pool: &Pool, packed: &Packed, x: &[f32]) -> Result<(), TestCaseError> {
    let w = packed.matrix();
    let expected = product(&w, x);
    let size: Vec<f64> = {
        let mut all = vec![0.0; w.n() * w.k()];
        let mut found = vec![0.0; all.len()];
        dequantize(&w, &mut found);
        for (i, (all, found)) in all.iter_mut().zip(&found).enumerate() {
            prop_assert_eq!(w.weight(i / w.k(), i % w.k()), *found);
            *all = f64::from(*found).abs();
        }
        let row = |x: &[f32], w: &[f64]| x.iter().zip(w).map(|(x, w)| f64::from(x.abs()) * w).sum();
        x.chunks(w.k())
            .flat_map(|x| all.chunks(w.k()).map(move |w| row(x, w)))
            .collect()
    };
    let bounds = fast_bound(&w, x);
    let mut scalar: Vec<f32> = Vec::new();
    for level in levels() {
        let exact = run(pool, level, Precision::Exact, w, x);
        for ((found, expected), size) in exact.iter().zip(&expected).zip(&size) {
            let error = (f64::from(*found) - expected).abs();
            prop_assert!(
                error <= 1e-30 + 1e-5 * size,
                "exact {level:?}: {found}, not {expected}"
            );
        }
        let fast = run(pool, level, Precision::Fast, w, x);
        let limits = bounds.iter().zip(&size);
        for ((found, expected), (bound, size)) in fast.iter().zip(&expected).zip(limits) {
            let error = (f64::from(*found) - expected).abs();
            prop_assert!(
                error <= bound + 1e-5 * size,
                "fast {level:?}: {found}, not {expected}, off by {error:e}, bound {bound:e}"
            );
        }
        if scalar.is_empty() {
            scalar = fast;
        } else {
            // The same integers everywhere: only f32 sums are in another order.
            for ((found, scalar), (bound, size)) in
                fast.iter().zip(&scalar).zip(bounds.iter().zip(&size))
            {
                let error = f64::from((found - scalar).abs());
                let limit = 1e-30 + 2e-5 * (size + bound);
                prop_assert!(error <= limit, "{level:?}: {found}, scalar {scalar}");
            }
        }
    }
    Ok(())
}

/// One that divides `n`, among a few.
fn divisor(rng: &mut Rng, n: usize) -> usize {
    let all: Vec<usize> = (1..=n).filter(|d| n.is_multiple_of(*d)).collect();
    all[rng.below(all.len() as u32) as usize]
}

/// A matrix of any legal form.
fn any_matrix(seed: u64) -> Packed {
    let rng = &mut Rng::new(seed);
    let bits = [Bits::B2, Bits::B3, Bits::B4, Bits::B8][rng.below(4) as usize];
    let unit = if bits == Bits::B3 { 1 } else { bits.per_unit() };
    let group_size = unit * (1 + rng.below(24) as usize);
    // Rows of whole groups; or any rows, with columns to make up for them.
    let (n, k) = if rng.below(4) > 0 {
        (
            group_size * (1 + rng.below(6) as usize),
            1 + rng.below(300) as usize,
        )
    } else {
        (
            1 + rng.below(60) as usize,
            group_size * (1 + rng.below(9) as usize),
        )
    };
    let groups = Packed::groups(n, k, group_size);
    let max_q = bits.max_q() as f32;
    let magnitude = [1e-7, 1e-3, 1.0, 6e4][rng.below(4) as usize];
    let mut param = |center: f32| match rng.below(5) {
        0 => Param::Plain(f16_bytes([center])),
        1 => Param::Plain(f16_bytes(
            (0..groups).map(|_| center * rng.range(-1.0, 1.0)),
        )),
        2 => {
            let m = divisor(rng, groups);
            Param::quantized(rng, groups, m, center)
        }
        3 => {
            // All but constant values: a large meta zero.
            let m = divisor(rng, groups);
            let scale = f16_bytes((0..m).map(|_| center / 50_000.0));
            let zero = f16_bytes((0..m).map(|_| rng.range(-60_000.0, 60_000.0)));
            Param::Quantized {
                q: rng.bytes(groups),
                scale,
                zero,
            }
        }
        _ => Param::Quantized {
            q: rng.bytes(groups),
            scale: f16_bytes([center / 255.0]),
            zero: f16_bytes([rng.range(-10.0, 10.0)]),
        },
    };
    let (scale, zero) = (param(magnitude), param(max_q));
    let units = bits.packed_rows(group_size) * groups * bits.unit_bytes();
    Packed {
        n,
        k,
        bits,
        group_size,
        w_q: Rng::new(!seed).bytes(units),
        scale,
        zero,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_123),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_layout_any_input(seed in 0u64..1 << 40, t in 1usize..20, kind in 0..4) {
        let packed = any_matrix(seed);
        let mut rng = Rng::new(seed + 1);
        let mut x = rng.normals(t * packed.k);
        match kind {
            1 => x.fill(0.0),
            2 => x[rng.below((t * packed.k) as u32) as usize] = 1e5,
            3 => x.iter_mut().for_each(|x| *x *= 1e-6),
            _ => {}
        }
        check(&Pool::new(2), &packed, &x)?;
    }
}

#[test]
fn every_number_of_tokens() {
    let pool = Pool::new(3);
    let cases = [
        (Bits::B2, 16, 48, 300),
        (Bits::B4, 64, 64, 130),
        (Bits::B3, 16, 32, 129),
    ];
    for (bits, group_size, n, k) in cases {
        let packed = Packed::demo(5, n, k, bits, group_size, 1);
        for t in 1..=40 {
            let x = Rng::new(t as u64).normals(t * k);
            if let Err(error) = check(&pool, &packed, &x) {
                panic!("{bits:?}, {t} tokens: {error}");
            }
        }
    }
}

/// The stated errors, on matrices as checkpoints have them.
#[test]
fn usual_matrices_are_within_the_stated_error() {
    let pool = Pool::new(2);
    for (bits, group_size, n, k, meta, many) in [
        (Bits::B2, 16, 448, 1024, 128, 1e-3),
        (Bits::B4, 64, 512, 1024, 256, 2e-3),
        (Bits::B3, 16, 448, 1024, 128, 1e-3),
        (Bits::B8, 32, 256, 1024, 128, 1e-3),
    ] {
        let packed = Packed::demo(7, n, k, bits, group_size, meta);
        let w = packed.matrix();
        for (t, bound) in [(1, 1.2e-2), (8, 1e-2), (9, many), (33, many)] {
            let x = Rng::new(t as u64).normals(t * k);
            let expected = product(&w, &x);
            for level in levels() {
                let error = relative_rms(&run(&pool, level, Precision::Fast, w, &x), &expected);
                assert!(error < bound, "{bits:?}, t {t}, {level:?}: {error:.2e}");
                let error = relative_rms(&run(&pool, level, Precision::Exact, w, &x), &expected);
                assert!(
                    error < 1e-6,
                    "{bits:?}, t {t}, {level:?}, exact: {error:.2e}"
                );
            }
        }
    }
}

/// Median over tokens of the relative error for one token each, with `outliers` input channels
/// `times` as large as the others.
fn outlier_error(w: QMatrix<'_>, level: Level, outliers: &[usize], times: f32) -> f64 {
    let pool = Pool::new(1);
    let mut errors: Vec<f64> = (0..3)
        .map(|seed| {
            let mut x = Rng::new(seed).normals(w.k());
            for &column in outliers {
                x[column] = times * (1.0 + 0.1 * x[column].abs());
            }
            let found = run(&pool, level, Precision::Fast, w, &x);
            relative_rms(&found, &product(&w, &x))
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    errors[errors.len() / 2]
}

/// Three channels 30 times larger made it 4%.
#[test]
fn channels_that_stand_out_do_not_coarsen_the_others() {
    let cases = [
        Packed::demo(7, 256, 4096, Bits::B2, 16, 128),
        Packed::demo(7, 256, 4096, Bits::B4, 64, 256),
        Packed::demo(7, 160, 2048, Bits::B3, 16, 128),
        Packed::demo(7, 128, 2048, Bits::B8, 32, 128),
        // Through f32, with plain parameters.
        Packed {
            scale: Param::Plain(f16_bytes((0..16 * 2048).map(|i| 0.01 + 1e-6 * i as f32))),
            ..Packed::demo(7, 256, 2048, Bits::B2, 16, 128)
        },
    ];
    for (i, packed) in cases.iter().enumerate() {
        let w = packed.matrix();
        for level in levels() {
            for (outliers, times) in [
                (&[5, 700, 1900][..], 30.0),
                (&[5, 6, 7], 30.0),
                (&[5, 700, 1900], 8.0),
                (&[5, 700, 1900], 1000.0),
                (&[1, 300, 600, 900, 1200, 1500, 1800, 2040], 30.0),
            ] {
                let error = outlier_error(w, level, outliers, times);
                println!("case {i} {level:?} {outliers:?} x {times}: {error:.4}");
                assert!(
                    error < 0.02,
                    "case {i} {level:?} {outliers:?} x {times}: {error}"
                );
            }
        }
    }
}

/// Integers have no NaN: it came out as zero, and as an answer.
#[test]
fn non_finite_activations_make_non_finite_outputs() {
    let pool = Pool::new(2);
    for packed in [
        Packed::demo(3, 64, 300, Bits::B2, 16, 1),
        Packed::demo(3, 64, 320, Bits::B4, 32, 128),
        Packed::demo(3, 48, 256, Bits::B3, 16, 128),
        Packed::demo(3, 64, 256, Bits::B8, 32, 1),
    ] {
        let w = packed.matrix();
        for (t, bad) in [1, 4, 8, 9, 20]
            .into_iter()
            .flat_map(|t| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(|bad| (t, bad)))
        {
            for at in [0, 100, w.k() - 1] {
                let mut x = Rng::new(5).normals(t * w.k());
                let token = t / 2;
                x[token * w.k() + at] = bad;
                for level in levels() {
                    for precision in [Precision::Fast, Precision::Exact] {
                        let y = run(&pool, level, precision, w, &x);
                        for (i, y) in y.chunks(w.n()).enumerate() {
                            let numbers = y.iter().filter(|y| y.is_finite()).count();
                            let expected = if i == token { 0 } else { w.n() };
                            assert_eq!(numbers, expected, "{level:?} {precision:?} {t} {bad}");
                        }
                    }
                }
            }
        }
    }
}

/// Jobs of one call: other shapes and tokens, an input in common, none at all, more than are
/// planned together; and every number of threads.
#[test]
fn jobs_do_not_disturb_each_other() {
    let matrices: Vec<Packed> = (0..40)
        .map(|i| match i % 3 {
            0 => Packed::demo(i, 48, 256, Bits::B2, 16, 128),
            1 => Packed::demo(i, 64, 256, Bits::B4, 64, 256),
            _ => Packed::demo(i, 20, 256, Bits::B4, 32, 1),
        })
        .collect();
    let inputs: Vec<Vec<f32>> = [0, 1, 12]
        .iter()
        .map(|t| Rng::new(9).normals(t * 256))
        .collect();
    for threads in [1, 2, 5] {
        let pool = Pool::new(threads);
        for precision in [Precision::Fast, Precision::Exact] {
            let tokens = |i: usize| &inputs[(i / 2) % 3];
            let mut outputs: Vec<Vec<f32>> = matrices
                .iter()
                .enumerate()
                .map(|(i, w)| vec![f32::NAN; tokens(i).len() / 256 * w.n])
                .collect();
            let mut jobs: Vec<Job<'_>> = matrices
                .iter()
                .zip(&mut outputs)
                .enumerate()
                .map(|(i, (w, y))| Job {
                    w: w.matrix().into(),
                    x: tokens(i),
                    y,
                })
                .collect();
            matmul(&pool, &mut Scratch::default(), precision, &mut jobs);
            for (i, (w, y)) in matrices.iter().zip(&outputs).enumerate() {
                let alone = run(
                    &Pool::new(1),
                    Level::best(),
                    precision,
                    w.matrix(),
                    tokens(i),
                );
                assert_eq!(*y, alone, "job {i}, {threads} threads, {precision:?}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "BUG: matmul: y is not (2, 48)")]
fn a_wrong_output_length_is_a_bug() {
    let packed = Packed::demo(1, 48, 256, Bits::B2, 16, 128);
    let job = Job {
        w: packed.matrix().into(),
        x: &[0.0; 512],
        y: &mut [0.0; 48],
    };
    matmul(
        &Pool::new(1),
        &mut Scratch::default(),
        Precision::Fast,
        &mut [job],
    );
}
