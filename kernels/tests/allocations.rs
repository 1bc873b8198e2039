//! A warm decode step allocates nothing.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use octet_kernels::{
    Bits, BlockType, Job, Pool, Precision, Q8Matrix, Scratch, matmul, matmul_f16, matmul_q8,
};
use support::blocks::Blocks;
use support::{Packed, Rng, f16_bytes};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

/// The only test of this file: another one's allocations would be counted too.
#[test]
fn a_warm_call_allocates_nothing() {
    let pool = Pool::new(2);
    let mut scratch = Scratch::default();
    let (gate, up) = (
        Packed::demo(1, 448, 256, Bits::B2, 16, 128),
        Packed::demo(2, 448, 256, Bits::B2, 16, 128),
    );
    let attention = Packed::demo(3, 256, 256, Bits::B4, 64, 256);
    let blocks = [BlockType::Q4_K, BlockType::MXFP4]
        .map(|kind| Blocks::random(&mut Rng::new(6), kind, (300, 256), 0.01));
    let x = Rng::new(4).normals(256);
    let head = f16_bytes(Rng::new(5).normals(1000 * 256));
    let q8 = Q8Matrix::from_f16(&pool, &head, 1000, 256);
    let (mut y1, mut y2, mut y3) = (vec![0.0; 448], vec![0.0; 448], vec![0.0; 256]);
    let mut y4 = [vec![0.0; 300], vec![0.0; 300]];
    let mut logits = vec![0.0; 1000];
    let mut step = |precision| {
        let [y4, y5] = &mut y4;
        let jobs = &mut [
            Job {
                w: gate.matrix().into(),
                x: &x,
                y: &mut y1,
            },
            Job {
                w: up.matrix().into(),
                x: &x,
                y: &mut y2,
            },
            Job {
                w: attention.matrix().into(),
                x: &x,
                y: &mut y3,
            },
            Job {
                w: blocks[0].matrix().into(),
                x: &x,
                y: y4,
            },
            Job {
                w: blocks[1].matrix().into(),
                x: &x,
                y: y5,
            },
        ];
        matmul(&pool, &mut scratch, precision, jobs);
        matmul_q8(&pool, &mut scratch, &q8, &x, &mut logits);
        matmul_f16(&pool, &head, 1000, &x, &mut logits);
    };
    for precision in [Precision::Fast, Precision::Exact] {
        step(precision);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..10 {
            step(precision);
        }
        assert_eq!(
            ALLOCATIONS.load(Ordering::Relaxed) - before,
            0,
            "{precision:?}"
        );
    }
}
