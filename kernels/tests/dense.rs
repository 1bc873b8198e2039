//! Dense products and f16 slices against plain loops.

mod support;

use half::f16;
use octet_kernels::{Level, Pool, Q8Matrix, Scratch, half_ops, matmul_f16, matmul_q8};
use support::{Rng, f16_bytes, relative_rms};

fn f16_at(bytes: &[u8], i: usize) -> f64 {
    f64::from(f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32())
}

fn product(w: &[u8], n: usize, k: usize, x: &[f32]) -> Vec<f64> {
    let row = |x: &[f32], r: usize| -> f64 {
        x.iter()
            .enumerate()
            .map(|(c, x)| f64::from(*x) * f16_at(w, r * k + c))
            .sum()
    };
    x.chunks(k)
        .flat_map(|x| (0..n).map(move |r| row(x, r)))
        .collect()
}

#[test]
fn dense_products() {
    for threads in [1, 3] {
        let pool = Pool::new(threads);
        for (n, k) in [
            (8, 64),
            (1, 1),
            (37, 65),
            (130, 257),
            (200, 320),
            (1000, 100),
        ] {
            // Bytes that start at an odd address.
            let padded = [&[0u8][..], &f16_bytes(Rng::new(1).normals(n * k))].concat();
            let w = &padded[1..];
            let q8 = Q8Matrix::from_f16(&pool, w, n, k);
            assert_eq!((q8.n(), q8.k()), (n, k));
            assert!(q8.bytes() >= n * k);
            for t in [0, 1, 2, 3, 5, 16, 17, 40] {
                let x = Rng::new(2 + t as u64).normals(t * k);
                let expected = product(w, n, k, &x);
                let mut y = vec![f32::NAN; t * n];
                matmul_f16(&pool, w, n, &x, &mut y);
                if t == 0 {
                    continue;
                }
                let error = relative_rms(&y, &expected);
                assert!(error < 1e-6, "f16 {n}x{k}, t {t}: {error:.1e}");
                for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
                    y.fill(f32::NAN);
                    matmul_q8(&pool, &mut Scratch::with_level(level), &q8, &x, &mut y);
                    let error = relative_rms(&y, &expected);
                    assert!(error < 2e-2, "q8 {n}x{k}, t {t}, {level:?}: {error:.1e}");
                }
            }
        }
    }
}

/// Only the weights' rounding costs accuracy: with weights that 8 bits hold, nothing does.
#[test]
fn q8_activations_are_nearly_exact() {
    let (n, k) = (40, 192);
    let mut rng = Rng::new(3);
    let mut weights: Vec<f32> = (0..n * k).map(|_| rng.below(255) as f32 - 127.0).collect();
    weights.chunks_mut(64).for_each(|block| block[0] = 127.0);
    let w = f16_bytes(weights);
    let pool = Pool::new(2);
    let q8 = Q8Matrix::from_f16(&pool, &w, n, k);
    for t in [1, 4] {
        let x = rng.normals(t * k);
        let mut y = vec![0.0; t * n];
        for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
            matmul_q8(&pool, &mut Scratch::with_level(level), &q8, &x, &mut y);
            let error = relative_rms(&y, &product(&w, n, k, &x));
            assert!(error < 1e-4, "t {t}, {level:?}: {error:.1e}");
        }
    }
}

#[test]
fn a_zero_matrix_gives_zeros() {
    let pool = Pool::new(1);
    let q8 = Q8Matrix::from_f16(&pool, &[0; 2 * 70 * 3], 3, 70);
    for t in [1, 4] {
        let mut y = vec![f32::NAN; 3 * t];
        matmul_q8(
            &pool,
            &mut Scratch::default(),
            &q8,
            &vec![1.0; 70 * t],
            &mut y,
        );
        assert_eq!(y, vec![0.0; 3 * t]);
    }
}

#[test]
#[should_panic(expected = "BUG: matmul_f16: x is not (t, 4)")]
fn a_wrong_input_length_is_a_bug() {
    matmul_f16(&Pool::new(1), &[0; 16], 2, &[0.0; 5], &mut [0.0; 2]);
}

#[test]
fn half_slices() {
    for len in [0, 1, 7, 8, 9, 31, 32, 33, 128, 255] {
        let mut rng = Rng::new(len as u64);
        let a = rng.normals(len);
        let half: Vec<f16> = rng.normals(len).into_iter().map(f16::from_f32).collect();
        let mut wide = vec![0.0; len];
        half_ops::f16_to_f32(&half, &mut wide);
        assert!(wide.iter().zip(&half).all(|(w, h)| *w == h.to_f32()));
        let mut back = vec![f16::ZERO; len];
        half_ops::f32_to_f16(&a, &mut back);
        assert!(back.iter().zip(&a).all(|(b, a)| *b == f16::from_f32(*a)));
        let expected: f64 = a
            .iter()
            .zip(&wide)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum();
        assert!(
            (f64::from(half_ops::dot(&a, &half)) - expected).abs() < 1e-4,
            "len {len}"
        );
        let mut y = a.clone();
        half_ops::axpy(0.5, &half, &mut y);
        for ((y, a), w) in y.iter().zip(&a).zip(&wide) {
            assert!((y - (a + 0.5 * w)).abs() < 1e-6);
        }
    }
}

#[test]
fn extreme_halves_convert_exactly() {
    let values: Vec<f16> = (0..=u16::MAX)
        .map(f16::from_bits)
        .filter(|v| !v.is_nan())
        .collect();
    let mut wide = vec![0.0; values.len()];
    half_ops::f16_to_f32(&values, &mut wide);
    let mut back = vec![f16::ZERO; values.len()];
    half_ops::f32_to_f16(&wide, &mut back);
    assert!(
        values
            .iter()
            .zip(&wide)
            .all(|(v, w)| v.to_f32().to_bits() == w.to_bits())
    );
    assert!(
        values
            .iter()
            .zip(&back)
            .all(|(v, b)| v.to_bits() == b.to_bits())
    );
}
