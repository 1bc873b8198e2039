//! Products against the plain reference, at every level that this machine has.

mod support;

use octet_kernels::{Bits, Job, Level, Pool, Precision, Scratch};
use support::{Packed, Rng, product, relative_rms};

#[test]
fn usual_shapes() {
    let pool = Pool::new(2);
    for (bits, group_size, n, k, meta) in [
        (Bits::B2, 16, 448, 256, 128),
        (Bits::B2, 16, 448, 512, 128),
        (Bits::B2, 16, 96, 700, 7),
        (Bits::B4, 64, 256, 512, 256),
        (Bits::B4, 64, 1024, 200, 128),
        (Bits::B3, 16, 96, 700, 7),
        (Bits::B3, 64, 128, 1000, 8),
        (Bits::B8, 32, 64, 300, 10),
        (Bits::B8, 32, 64, 384, 1),
    ] {
        let packed = Packed::demo(7, n, k, bits, group_size, meta);
        let w = packed.matrix();
        for t in [1, 2, 3, 5, 16, 33] {
            let x = Rng::new(t as u64).normals(t * k);
            let expected = product(&w, &x);
            for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
                let mut scratch = Scratch::with_level(level);
                for precision in [Precision::Fast, Precision::Exact] {
                    let mut y = vec![f32::NAN; t * n];
                    matmul_one(
                        &pool,
                        &mut scratch,
                        precision,
                        &mut [Job {
                            w,
                            x: &x,
                            y: &mut y,
                        }],
                    );
                    let error = relative_rms(&y, &expected);
                    println!(
                        "{bits:?} g {group_size} {n}x{k} t {t} {level:?} {precision:?}: {error:.2e}"
                    );
                    let bound = if precision == Precision::Exact {
                        1e-5
                    } else {
                        1e-2
                    };
                    assert!(error < bound);
                }
            }
        }
    }
}

fn matmul_one(pool: &Pool, scratch: &mut Scratch, precision: Precision, jobs: &mut [Job<'_>]) {
    octet_kernels::matmul(pool, scratch, precision, jobs);
}
