//! Pinned memory, on the fake CUDA driver or a real GPU.
#![cfg(target_os = "linux")]

#[path = "support/gpu.rs"]
mod gpu;
mod support;

use gpu::TestGpu;
use octet_kernels::cuda::{Buffer, Pinned, Unfilled, list};

#[test]
fn pinned_memory_is_written_once_and_holds_nothing_that_was_not_written() {
    let Some(gpu) = TestGpu::new() else { return };
    // The fake driver gives memory full of what nobody wrote.
    assert!(
        Pinned::new(&gpu.device, 100)
            .expect("memory")
            .iter()
            .all(|b| *b == 0)
    );
    let mut memory = Unfilled::new(&gpu.device, 10).expect("memory");
    memory.append(&[1, 2, 3]);
    memory.append(&[4]);
    assert_eq!(memory.left(), 6);
    assert_eq!(*memory.finish(), [1, 2, 3, 4, 0, 0, 0, 0, 0, 0]);

    let mut full = Unfilled::new(&gpu.device, 4).expect("memory");
    full.append(&[5, 6, 7, 8]);
    let full = full.finish();
    let mut to = Buffer::new(&gpu.device, "values", 4).expect("memory");
    to.write(0, &full[..]).expect("a copy");
    let mut back = [0u8; 4];
    to.read(0, &mut back).expect("a copy");
    assert_eq!(back, [5, 6, 7, 8]);
}

#[test]
#[should_panic(expected = "BUG: 3 bytes for 2 of pinned RAM")]
fn nothing_is_written_past_its_end() {
    let Some(gpu) = TestGpu::new() else {
        panic!("BUG: 3 bytes for 2 of pinned RAM, had there been a driver");
    };
    Unfilled::new(&gpu.device, 2)
        .expect("memory")
        .append(&[0; 3]);
}

#[test]
fn a_gpu_is_listed_by_the_identifier_that_opens_it() {
    let Some(gpu) = TestGpu::new() else { return };
    let listed = list().expect("a driver");
    assert!(listed.iter().any(|one| one.name == gpu.device.name()));
    for one in listed {
        let gpu = octet_kernels::cuda::Gpu::open(&one.uuid_text("GPU")).expect("it opens");
        assert_eq!(gpu.name(), one.name);
        assert_eq!(gpu.memory().expect("figures").1, one.total_bytes);
    }
}
