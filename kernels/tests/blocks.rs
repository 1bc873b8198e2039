//! Block types of GGUF: their values against ggml's, and products against the plain reference, at
//! every level that this machine has.

mod support;

use octet_kernels::{
    Bits, BlockError, BlockMatrix, BlockType, Job, Level, Matrix, Pool, Precision, Scratch, matmul,
};
use proptest::prelude::*;
use support::blocks::Blocks;
use support::{Packed, Rng, relative_rms};

fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|level| level.is_available())
}

fn run(pool: &Pool, level: Level, precision: Precision, w: Matrix<'_>, x: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len() / w.k() * w.n()];
    let mut scratch = Scratch::with_level(level);
    let job = Job { w, x, y: &mut y };
    matmul(pool, &mut scratch, precision, &mut [job]);
    y
}

fn fixture(kind: BlockType, what: &str) -> Vec<u8> {
    let path = format!(
        "{}/tests/fixtures/blocks/{kind}.{what}",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The fixtures were made by ggml: blocks with every value of every field, and what it makes of
/// them.
#[test]
fn blocks_hold_what_ggml_says_to_the_bit() {
    for kind in BlockType::ALL {
        if kind == BlockType::F32 {
            continue;
        }
        let bytes = fixture(kind, "bin");
        let expected: Vec<u32> = fixture(kind, "f32")
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| u32::from_le_bytes(*b))
            .collect();
        let mut rows = vec![(1, expected.len())];
        if kind.block_len() < expected.len() {
            rows.push((expected.len() / kind.block_len(), kind.block_len()));
        }
        for (n, k) in rows {
            let w = BlockMatrix::new(kind, (n, k), &bytes).expect("a legal matrix");
            let mut found = vec![0.0; n * k];
            w.dequantize_rows(0, &mut found);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found.to_bits(), *expected, "{kind} value {i}");
            }
            let mut last = vec![0.0; k];
            w.dequantize_rows(n - 1, &mut last);
            assert_eq!(last, found[(n - 1) * k..], "{kind}");
        }
    }
}

/// The product in f64, and how far each output of [`Precision::Fast`] may be off.
struct Reference {
    product: Vec<f64>,
    bound: Vec<f64>,
    /// Of the terms of each output: f32 sums are that much to rounding.
    size: Vec<f64>,
}

impl Reference {
    fn of(w: &Blocks, x: &[f32]) -> Self {
        let weights = w.weights();
        let (mut product, mut bound, mut size) = (Vec::new(), Vec::new(), Vec::new());
        let top = |values: &[f32]| values.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
        let sum = |values: &[f32]| values.iter().map(|v| f64::from(v.abs())).sum::<f64>();
        for x in x.chunks(w.k) {
            for row in weights.chunks(w.k) {
                product.push(
                    row.iter()
                        .zip(x)
                        .map(|(w, x)| f64::from(*w) * f64::from(*x))
                        .sum(),
                );
                let groups = row.chunks(32).zip(x.chunks(32));
                size.push(groups.clone().map(|(w, x)| 2.0 * top(w) * sum(x)).sum());
                bound.push(if w.kind.is_float() {
                    0.0
                } else {
                    groups.map(|(w, x)| sum(w) * 0.501 / 127.0 * top(x)).sum()
                });
            }
        }
        Self {
            product,
            bound,
            size,
        }
    }
}

fn check(pool: &Pool, w: &Blocks, x: &[f32]) -> Result<(), TestCaseError> {
    let reference = Reference::of(w, x);
    let mut scalar: Vec<f32> = Vec::new();
    for level in levels() {
        let exact = run(pool, level, Precision::Exact, w.matrix().into(), x);
        let fast = run(pool, level, Precision::Fast, w.matrix().into(), x);
        for (i, expected) in reference.product.iter().enumerate() {
            let size = 1e-30 + reference.size[i];
            let error = (f64::from(exact[i]) - expected).abs();
            prop_assert!(
                error <= 1e-5 * size,
                "{} exact {level:?} output {i}: {}, not {expected}",
                w.kind,
                exact[i]
            );
            let error = (f64::from(fast[i]) - expected).abs();
            let bound = reference.bound[i];
            prop_assert!(
                error <= bound + 1e-5 * size,
                "{} fast {level:?} output {i}: {}, not {expected}, off by {error:e}, bound {bound:e}",
                w.kind,
                fast[i]
            );
        }
        if scalar.is_empty() {
            scalar = fast;
        } else {
            // The same integers everywhere: only f32 sums are in another order.
            for (i, (found, scalar)) in fast.iter().zip(&scalar).enumerate() {
                let error = f64::from((found - scalar).abs());
                let limit = 1e-30 + 1e-5 * (reference.size[i] + reference.bound[i]);
                prop_assert!(
                    error <= limit,
                    "{} {level:?} output {i}: {found}, scalar {scalar}",
                    w.kind
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_127),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_shape_any_input(
        seed in 0u64..1 << 40,
        kind in 0..BlockType::ALL.len(),
        n in 1usize..50,
        blocks in 1usize..40,
        t in 1usize..21,
        threads in 1usize..4,
        input in 0..4,
        most in 0usize..3,
    ) {
        let kind = BlockType::ALL[kind];
        let blocks = if kind.block_len() == 256 { 1 + blocks / 8 } else { blocks };
        let k = blocks * kind.block_len();
        let mut rng = Rng::new(seed);
        let most = [1e-6, 1e-2, 30.0][most];
        let w = Blocks::random(&mut rng, kind, (n, k), most);
        let mut x = rng.normals(t * k);
        match input {
            1 => x[..k].fill(0.0),
            2 => x[rng.below((t * k) as u32) as usize] = 1e5,
            3 => x.iter_mut().for_each(|x| *x = 1e-6 * x.abs()),
            _ => {}
        }
        check(&Pool::new(threads), &w, &x)?;
    }
}

#[test]
fn every_type_with_every_number_of_tokens() {
    let pool = Pool::new(2);
    for kind in BlockType::ALL {
        // 2880 is gpt-oss, whose rows are no multiple of 256.
        let k = if kind.block_len() == 256 { 1280 } else { 2880 };
        let w = Blocks::random(&mut Rng::new(3), kind, (19, k), 0.01);
        for t in (1..=9).chain([20]) {
            let x = Rng::new(t as u64).normals(t * k);
            if let Err(error) = check(&pool, &w, &x) {
                panic!("{kind}, {t} tokens: {error}");
            }
        }
    }
}

/// The errors that [`Precision::Fast`] states.
#[test]
fn errors_are_as_stated() {
    let pool = Pool::new(2);
    for kind in BlockType::ALL {
        let w = Blocks::random(&mut Rng::new(7), kind, (128, 2048), 0.01);
        for (t, bound) in [(1, 1e-2), (8, 8e-3), (9, 8e-3), (33, 8e-3)] {
            let x = Rng::new(t as u64).normals(t * w.k);
            let expected = Reference::of(&w, &x).product;
            for level in levels() {
                let bound = if kind.is_float() { 1e-6 } else { bound };
                let y = run(&pool, level, Precision::Fast, w.matrix().into(), &x);
                let error = relative_rms(&y, &expected);
                assert!(error < bound, "{kind}, t {t}, {level:?}: {error:.2e}");
                let y = run(&pool, level, Precision::Exact, w.matrix().into(), &x);
                let error = relative_rms(&y, &expected);
                assert!(error < 1e-6, "{kind}, t {t}, {level:?}, exact: {error:.2e}");
            }
        }
    }
}

/// Integers have no NaN: it would come out as a number.
#[test]
fn non_finite_activations_make_non_finite_outputs() {
    let pool = Pool::new(2);
    for kind in BlockType::ALL {
        let w = Blocks::random(&mut Rng::new(5), kind, (21, 768), 0.01);
        for (t, bad) in [1, 3, 8, 9, 20]
            .into_iter()
            .flat_map(|t| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(|bad| (t, bad)))
        {
            for at in [0, 100, w.k - 1] {
                let mut x = Rng::new(5).normals(t * w.k);
                let token = t / 2;
                x[token * w.k + at] = bad;
                for level in levels() {
                    for precision in [Precision::Fast, Precision::Exact] {
                        let y = run(&pool, level, precision, w.matrix().into(), &x);
                        for (i, y) in y.chunks(w.n).enumerate() {
                            let numbers = y.iter().filter(|y| y.is_finite()).count();
                            let expected = if i == token { 0 } else { w.n };
                            assert_eq!(numbers, expected, "{kind} {level:?} {precision:?} {t}");
                        }
                    }
                }
            }
        }
    }
}

/// A scale that is no number does not become one on any path: only its row is lost.
#[test]
fn non_finite_scales_make_non_finite_outputs() {
    let pool = Pool::new(1);
    for kind in BlockType::ALL {
        if kind.is_float() || kind == BlockType::MXFP4 {
            continue;
        }
        let random = Blocks::random(&mut Rng::new(5), kind, (20, 1280), 0.01);
        let mut bytes = random.matrix().bytes().to_vec();
        let at = match kind {
            BlockType::Q6_K => 208,
            BlockType::Q3_K => 108,
            BlockType::Q2_K => 80,
            _ => 0,
        };
        // The last block of row 13.
        let last = bytes.len() / 20 * 14 - kind.block_bytes();
        bytes[last + at..last + at + 2].copy_from_slice(&[1, 0x7e]);
        let w = BlockMatrix::new(kind, (20, 1280), &bytes).expect("a legal matrix");
        for t in [1, 5, 20] {
            let x = Rng::new(6).normals(t * 1280);
            for level in levels() {
                for precision in [Precision::Fast, Precision::Exact] {
                    let y = run(&pool, level, precision, w.into(), &x);
                    for (i, y) in y.iter().enumerate() {
                        assert_eq!(
                            y.is_finite(),
                            i % 20 != 13,
                            "{kind} {level:?} {precision:?}"
                        );
                    }
                }
            }
        }
    }
}

/// Rows of one tile share nothing: a small one next to a large one keeps its digits.
#[test]
fn a_small_row_is_as_precise_as_its_large_neighbour() {
    let pool = Pool::new(1);
    let k = 512;
    let mut bytes = Vec::new();
    for row in 0..16 {
        let most = if row == 7 { 1e-4 } else { 30.0 };
        let w = Blocks::random(&mut Rng::new(row), BlockType::Q8_0, (1, k), most);
        bytes.extend(w.matrix().bytes());
    }
    let w = BlockMatrix::new(BlockType::Q8_0, (16, k), &bytes).expect("a legal matrix");
    let mut weights = vec![0.0; 16 * k];
    w.dequantize_rows(0, &mut weights);
    let x = Rng::new(9).normals(20 * k);
    for level in levels() {
        let y = run(&pool, level, Precision::Fast, w.into(), &x);
        let found: Vec<f32> = y.chunks(16).map(|y| y[7]).collect();
        let row = &weights[7 * k..8 * k];
        let product = |x: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(w * x)).sum();
        let expected: Vec<f64> = x.chunks(k).map(product).collect();
        let error = relative_rms(&found, &expected);
        assert!(error < 1e-2, "{level:?}: {error:.2e}");
    }
}

/// HQQ and blocks in one call, with inputs in common, at every number of threads.
#[test]
fn jobs_of_different_types_do_not_disturb_each_other() {
    let hqq: Vec<Packed> = (0..4)
        .map(|i| Packed::demo(i, 48, 256, Bits::B2, 16, 128))
        .collect();
    let blocks: Vec<Blocks> = BlockType::ALL
        .iter()
        .chain(&BlockType::ALL)
        .enumerate()
        .map(|(i, kind)| Blocks::random(&mut Rng::new(i as u64), *kind, (17 + i, 256), 0.01))
        .collect();
    let matrices: Vec<Matrix<'_>> = (0..blocks.len() + hqq.len())
        .map(|i| match i.checked_sub(hqq.len()) {
            Some(i) => blocks[i].matrix().into(),
            None => hqq[i].matrix().into(),
        })
        .collect();
    let inputs: Vec<Vec<f32>> = [0, 1, 3, 12].map(|t| Rng::new(9).normals(t * 256)).into();
    for precision in [Precision::Fast, Precision::Exact] {
        let tokens = |i: usize| &inputs[i / 2 % 4];
        let alone: Vec<Vec<f32>> = matrices
            .iter()
            .enumerate()
            .map(|(i, w)| run(&Pool::new(1), Level::best(), precision, *w, tokens(i)))
            .collect();
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            let mut together: Vec<Vec<f32>> =
                alone.iter().map(|y| vec![f32::NAN; y.len()]).collect();
            let mut jobs: Vec<Job<'_>> = matrices
                .iter()
                .zip(&mut together)
                .enumerate()
                .map(|(i, (w, y))| Job {
                    w: *w,
                    x: tokens(i),
                    y,
                })
                .collect();
            matmul(&pool, &mut Scratch::default(), precision, &mut jobs);
            for (i, (together, alone)) in together.iter().zip(&alone).enumerate() {
                assert_eq!(together, alone, "job {i}, {threads} threads, {precision:?}");
            }
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let bytes = vec![0; 4 * 144];
    let new = |shape, bytes| BlockMatrix::new(BlockType::Q4_K, shape, bytes);
    assert!(new((4, 256), &bytes).is_ok());
    let text = new((2, 300), &bytes).expect_err("refused").to_string();
    assert_eq!(
        text,
        "300 columns are not a multiple of the 256 of a block of Q4_K"
    );
    let text = new((3, 256), &bytes).expect_err("refused").to_string();
    assert_eq!(
        text,
        "a 3 x 256 matrix of Q4_K: expected 432 bytes, found 576"
    );
    for shape in [(0, 256), (4, 0), (usize::MAX, 256), (2, usize::MAX - 255)] {
        let error = new(shape, &bytes).expect_err("refused");
        assert!(matches!(error, BlockError::Shape { .. }), "{error}");
    }
}

#[test]
fn scales_that_are_no_numbers_are_found() {
    for kind in BlockType::ALL {
        let w = Blocks::random(&mut Rng::new(2), kind, (3, 512), 0.01);
        assert!(w.matrix().is_finite(), "{kind}");
        let block = kind.block_bytes();
        let (at, bad): (usize, &[u8]) = match kind {
            BlockType::F32 => (0, &[0, 0, 0x80, 0x7f]),
            BlockType::BF16 => (0, &[0x80, 0xff]),
            BlockType::MXFP4 => (0, &[255]),
            BlockType::Q6_K => (208, &[0, 0x7e]),
            BlockType::Q3_K => (108, &[0, 0xfc]),
            BlockType::Q2_K => (82, &[0, 0x7c]),
            BlockType::Q4_K | BlockType::Q5_1 => (2, &[1, 0xfd]),
            _ => (0, &[0, 0x7c]),
        };
        let mut bytes = w.matrix().bytes().to_vec();
        let at = bytes.len() - block + at;
        bytes[at..at + bad.len()].copy_from_slice(bad);
        let w = BlockMatrix::new(kind, (3, 512), &bytes).expect("a legal matrix");
        assert!(!w.is_finite(), "{kind}");
    }
}
