//! Threads, warps and tensor cores on a processor, and what happens to kernels that misuse them.
#![allow(clippy::unwrap_used, clippy::undocumented_unsafe_blocks)]
#![cfg(target_os = "linux")]

mod common;

use common::{Device, arg};
use std::{process::Command, ptr::null_mut};

fn to_f32(half: u16) -> f32 {
    let (sign, exponent, fraction) = (half >> 15, half >> 10 & 31, half & 1023);
    let magnitude = match exponent {
        0 => f32::from(fraction) * 2f32.powi(-24),
        31 if fraction == 0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1.0 + f32::from(fraction) / 1024.0) * 2f32.powi(i32::from(e) - 15),
    };
    if sign == 1 { -magnitude } else { magnitude }
}

#[test]
fn a_block_sums_by_shuffles_and_a_barrier() {
    let Some(d) = Device::new() else { return };
    let x: Vec<f32> = (0..1000).map(|i| (i % 13) as f32).collect();
    let (mut at, mut y, mut n) = (d.upload(&x), d.zeros(16), 1000i32);
    for _ in 0..4 {
        let mut params = [arg(&mut at), arg(&mut y), arg(&mut n)];
        d.launch("selftest_sum", 4, 256, null_mut(), &mut params)
            .unwrap();
        let sums: Vec<f32> = x.chunks(256).map(|c| c.iter().sum()).collect();
        assert_eq!(d.download::<f32>(y, 4), sums);
    }
}

#[test]
fn a_missing_barrier_shows() {
    let Some(d) = Device::new() else { return };
    let x = [1.0f32; 512];
    let (mut at, mut y, mut n) = (d.upload(&x), d.zeros(8), 512i32);
    let mut params = [arg(&mut at), arg(&mut y), arg(&mut n)];
    d.launch("selftest_sum_unsynced", 2, 256, null_mut(), &mut params)
        .unwrap();
    // Blocks start with NaN in shared memory, and one of two runs its warps upwards.
    assert!(d.download::<f32>(y, 2).iter().any(|y| y.is_nan()));
}

#[test]
fn shuffles_move_what_they_say() {
    let Some(d) = Device::new() else { return };
    let mut y = d.zeros(512);
    d.launch("selftest_shuffle", 1, 32, null_mut(), &mut [arg(&mut y)])
        .unwrap();
    let y = d.download::<i32>(y, 128);
    for lane in 0..32 {
        let i = lane as usize;
        let down = |lane: i32| if lane + 3 < 32 { lane + 3 } else { lane };
        assert_eq!(
            [y[i], y[32 + i], y[64 + i], y[96 + i]],
            [lane ^ 5, 14, down(lane), down(lane ^ 1)]
        );
    }
}

#[test]
fn tensor_cores_multiply_exactly_with_subnormal_halves() {
    let Some(d) = Device::new() else { return };
    // Small normal numbers, and the subnormals that packed weights are read as.
    let a: Vec<u16> = (0..128u16)
        .map(|i| {
            if i % 3 == 0 {
                i % 7
            } else {
                0x3c00 + 64 * (i % 9)
            }
        })
        .collect();
    let b: Vec<u16> = (0..64u16)
        .map(|i| (0x4000 + 32 * (i % 11)) | (i % 2) << 15)
        .collect();
    let (mut at, mut bt, mut ct) = (d.upload(&a), d.upload(&b), d.zeros(512));
    let mut params = [arg(&mut at), arg(&mut bt), arg(&mut ct)];
    d.launch("selftest_mma", 1, 32, null_mut(), &mut params)
        .unwrap();
    let c = d.download::<f32>(ct, 128);
    for (row, column) in (0..16).flat_map(|r| (0..8).map(move |c| (r, c))) {
        let exact: f64 = (0..8)
            .map(|k| f64::from(to_f32(a[row * 8 + k])) * f64::from(to_f32(b[k * 8 + column])))
            .sum();
        let got = f64::from(c[row * 8 + column]);
        assert!((got - exact).abs() <= 1e-5, "{row} {column}: {got} {exact}");
    }
}

#[test]
fn halves_round_to_nearest_even() {
    let Some(d) = Device::new() else { return };
    let cases: [(f32, u16); 13] = [
        (0.0, 0),
        (-0.0, 0x8000),
        (1.0, 0x3c00),
        (65504.0, 0x7bff),
        (65519.996, 0x7bff),
        (65520.0, 0x7c00),
        (f32::NEG_INFINITY, 0xfc00),
        (2f32.powi(-24), 1),
        (2f32.powi(-25), 0),                  // a tie, to even
        (1.5 * 2f32.powi(-24), 2),            // a tie, to even
        (2f32.powi(-14), 0x0400),             // the smallest normal
        (1.0 + 2f32.powi(-11), 0x3c00),       // a tie, to even
        (1.0 + 3.0 * 2f32.powi(-11), 0x3c02), // a tie, to even
    ];
    // And every half through f32 and back.
    let mut x: Vec<f32> = cases.iter().map(|c| c.0).collect();
    let mut expected: Vec<u16> = cases.iter().map(|c| c.1).collect();
    for half in (0..=u16::MAX).filter(|h| !to_f32(*h).is_nan()) {
        x.push(to_f32(half));
        expected.push(half);
    }
    let mut n = x.len() as i32;
    let (mut at, mut y, mut back) = (d.upload(&x), d.zeros(x.len() * 2), d.zeros(x.len() * 4));
    let mut params = [arg(&mut at), arg(&mut y), arg(&mut back), arg(&mut n)];
    d.launch(
        "selftest_half",
        n as u32 / 256 + 1,
        256,
        null_mut(),
        &mut params,
    )
    .unwrap();
    assert_eq!(d.download::<u16>(y, x.len()), expected);
    for (half, value) in expected.iter().zip(d.download::<f32>(back, x.len())) {
        assert_eq!(value.to_bits(), to_f32(*half).to_bits(), "{half:#x}");
    }
}

#[test]
fn atomics_see_every_thread() {
    let Some(d) = Device::new() else { return };
    let (mut most, mut count) = (d.zeros(4), d.zeros(4));
    let mut params = [arg(&mut most), arg(&mut count)];
    d.launch("selftest_atomic", 3, 256, null_mut(), &mut params)
        .unwrap();
    assert_eq!(d.download::<i32>(most, 1), [255]);
    assert_eq!(d.download::<i32>(count, 1), [768]);
}

const FAULT: &str = "OCTET_TEST_FAULT";

/// Commits one fault; run by the test below in a process of its own.
#[test]
fn child_with_a_fault() {
    #[repr(C)]
    struct Where {
        y: u64,
        n: i32,
    }
    let Ok(fault) = std::env::var(FAULT) else {
        return;
    };
    let mut fault: i32 = fault.parse().unwrap();
    let Some(d) = Device::new() else { return };
    let y = d.zeros(250);
    match fault {
        100 => {
            // SAFETY: none: that is what is tested.
            println!("{}", unsafe { *(y as *const u8) });
        }
        _ => {
            let mut where_ = Where { y, n: 60 };
            let mut params = [arg(&mut where_), arg(&mut fault)];
            d.launch("selftest_fault", 1, 64, null_mut(), &mut params)
                .unwrap();
            d.download::<u8>(y, 1);
            unsafe { cudarc::driver::result::free_sync(y) }.unwrap();
        }
    }
}

#[test]
fn faults_end_the_process_and_say_where() {
    if !octet_test_cuda::install() {
        return;
    }
    let cases = [
        (0, "kernel selftest_fault, block (0, 0, 0)"),
        (1, "wait in"),
        (2, "__syncthreads"),
        (3, "wait in another one"),
        (4, "deadlock"),
        (5, "is in no allocation"),
        (6, "is in no allocation"),
        (7, "misaligned"),
        (8, "outside of its array"),
        (9, "past the end of an allocation of 250 bytes"),
        (100, "host code follows a device pointer"),
    ];
    for (fault, words) in cases {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_with_a_fault", "--nocapture"])
            .env(FAULT, fault.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{fault} passes");
        assert!(text.contains(words), "{fault}: {text}");
        // A child's other output would look like this test's own.
        assert!(
            fault == 100 || fault == 9 || text.contains("thread ("),
            "{text}"
        );
    }
}
