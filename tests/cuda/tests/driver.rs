//! The driver's calls: the order of streams, memory, failures on demand, and NVML.
#![allow(clippy::unwrap_used, clippy::undocumented_unsafe_blocks)]
#![cfg(target_os = "linux")]

mod common;

use common::{Device, OK, Status, arg};
use cudarc::driver::{result, sys};
use std::{process::Command, ptr::null_mut};

const ORDERS: [&str; 6] = ["late", "ahead", "eager", "seed:1", "seed:2", "seed:3"];

fn scaled(x: f32) -> Vec<f32> {
    (0..256).map(|i| x * 2.0 + i as f32).collect()
}

/// Stage through pinned memory on one stream, compute on another; `wait`: as it should be.
fn staged(d: &Device, wait: bool) -> Vec<f32> {
    let (copies, compute, copied) = (d.stream(), d.stream(), d.event());
    let (x, y) = (d.zeros(1024), d.zeros(1024));
    let stage = d.pinned::<f32>(256);
    stage.fill(3.0);
    unsafe {
        result::memcpy_htod_async(x, stage, copies).unwrap();
        result::event::record(copied, copies).unwrap();
        if wait {
            let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            result::stream::wait_event(compute, copied, flags).unwrap();
        }
        d.scale(x, y, compute);
        result::stream::synchronize(compute).unwrap();
    }
    d.download(y, 256)
}

#[test]
fn an_event_orders_two_streams_and_its_absence_shows() {
    let Some(d) = Device::new() else { return };
    for order in ORDERS {
        d.fake.set("ORDER", order);
        assert_eq!(staged(&d, true), scaled(3.0), "{order}");
    }
    d.fake.set("ORDER", "late");
    assert_eq!(staged(&d, false), scaled(0.0));
    let wrong = (0..20).any(|seed| {
        d.fake.set("ORDER", format!("seed:{seed}"));
        staged(&d, false) != scaled(3.0)
    });
    assert!(wrong, "no seed shows the race");
}

/// A slot is computed with, then filled anew by another stream; `wait`: after its last use. The
/// host then waits for the copy, or for the computation alone.
fn refilled(d: &Device, wait: bool, for_copy: bool) -> Vec<f32> {
    let (copies, compute, used, filled) = (d.stream(), d.stream(), d.event(), d.event());
    let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    let (x, y) = (d.upload(&[1.0f32; 256]), d.zeros(1024));
    let stage = d.pinned::<f32>(256);
    stage.fill(9.0);
    unsafe {
        d.scale(x, y, compute);
        result::event::record(used, compute).unwrap();
        if wait {
            result::stream::wait_event(copies, used, flags).unwrap();
        }
        result::memcpy_htod_async(x, stage, copies).unwrap();
        result::event::record(filled, copies).unwrap();
        if for_copy {
            result::event::synchronize(filled).unwrap();
        }
        result::stream::synchronize(compute).unwrap();
    }
    d.download(y, 256)
}

#[test]
fn a_slot_overwritten_too_early_shows() {
    let Some(d) = Device::new() else { return };
    for order in ORDERS {
        d.fake.set("ORDER", order);
        assert_eq!(refilled(&d, true, true), scaled(1.0), "{order}");
        assert_eq!(refilled(&d, true, false), scaled(1.0), "{order}");
    }
    for (order, for_copy) in [("late", true), ("ahead", false)] {
        d.fake.set("ORDER", order);
        assert_eq!(refilled(&d, false, for_copy), scaled(9.0), "{order}");
    }
}

#[test]
fn pinned_memory_is_read_when_the_copy_runs_and_pageable_when_it_is_asked_for() {
    let Some(d) = Device::new() else { return };
    let stream = d.stream();
    let x = d.zeros(4);
    let pinned = d.pinned::<f32>(1);
    let mut pageable = vec![1.0f32];
    unsafe {
        pinned[0] = 1.0;
        result::memcpy_htod_async(x, pinned, stream).unwrap();
        pinned[0] = 2.0;
        result::stream::synchronize(stream).unwrap();
        assert_eq!(d.download::<f32>(x, 1), [2.0]);

        result::memcpy_htod_async(x, &pageable, stream).unwrap();
        pageable[0] = 3.0;
        result::stream::synchronize(stream).unwrap();
        assert_eq!(d.download::<f32>(x, 1), [1.0]);

        // To pageable memory a copy is done when the call returns; to pinned it is not.
        result::memcpy_dtoh_async(&mut pageable, x, stream).unwrap();
        assert_eq!(pageable, [1.0]);
        result::memcpy_dtoh_async(pinned, x, stream).unwrap();
        assert_eq!(pinned[0], 2.0);
        result::stream::synchronize(stream).unwrap();
        assert_eq!(pinned[0], 1.0);

        // Registered memory is pinned too.
        let registered: &'static mut [f32] = Box::leak(Box::new([4.0f32]));
        let p = registered.as_mut_ptr().cast();
        assert_eq!(sys::cuMemHostRegister_v2(p, 4, 0), OK);
        result::memcpy_htod_async(x, registered, stream).unwrap();
        registered[0] = 5.0;
        result::stream::synchronize(stream).unwrap();
        assert_eq!(d.download::<f32>(x, 1), [5.0]);
        assert_eq!(sys::cuMemHostUnregister(p), OK);
    }
}

#[test]
fn polling_an_event_ends() {
    let Some(d) = Device::new() else { return };
    for order in ORDERS {
        d.fake.set("ORDER", order);
        let (stream, other, first, last) = (d.stream(), d.stream(), d.event(), d.event());
        let (x, y) = (d.upload(&[1.0f32; 256]), d.zeros(1024));
        unsafe {
            d.scale(x, y, other);
            result::event::record(first, other).unwrap();
            let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            result::stream::wait_event(stream, first, flags).unwrap();
            d.scale(x, y, stream);
            result::event::record(last, stream).unwrap();
            let polls = (0..100).take_while(|_| result::event::query(last).is_err());
            let polls = polls.count();
            assert!(polls < 100, "{order}");
            assert_eq!(polls == 0, order == "eager", "{order}");
            result::event::query(first).unwrap();
        }
        assert_eq!(d.download::<f32>(y, 256), scaled(1.0));
    }
}

#[test]
fn the_null_stream_waits_for_blocking_streams_only() {
    let Some(d) = Device::new() else { return };
    let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
    let (x, y) = (d.upload(&[1.0f32; 256]), d.zeros(1024));
    d.scale(x, y, blocking);
    assert_eq!(d.download::<f32>(y, 256), scaled(1.0));

    let (free, z) = (d.stream(), d.zeros(1024));
    d.scale(x, z, free);
    assert_eq!(d.download::<f32>(z, 256), [0.0; 256]);
}

#[test]
fn memory_is_counted_and_freed_and_new_memory_is_spoilt() {
    let Some(d) = Device::new() else { return };
    d.fake.set("VRAM", "1GiB");
    d.fake.set("FREE", 100 << 20);
    let free = || result::mem_get_info().unwrap().0;
    assert_eq!(result::mem_get_info().unwrap(), (100 << 20, 1 << 30));
    unsafe {
        let a = result::malloc_sync(60 << 20).unwrap();
        assert_eq!(free(), 40 << 20);
        let error = result::malloc_sync(50 << 20).unwrap_err();
        assert_eq!(error.0, Status::CUDA_ERROR_OUT_OF_MEMORY);
        assert!(d.download::<f32>(a, 16).iter().all(|x| x.is_nan()));

        // A free in a stream takes effect with the stream, or when memory is short.
        let stream = d.stream();
        result::free_async(a, stream).unwrap();
        assert_eq!(free(), 40 << 20);
        let b = result::malloc_async(stream, 50 << 20).unwrap();
        assert_eq!(free(), 50 << 20);
        result::free_sync(b).unwrap();
        assert_eq!(free(), 100 << 20);
    }
    let counters = d.fake.counters();
    assert_eq!(counters.allocations, 0);
    assert_eq!(counters.memory_peak, 60 << 20);

    d.fake.set("MEMORY_LIMIT", 1024); // it is taken in pieces of 512
    d.fake.set("PINNED_LIMIT", 1000);
    unsafe {
        result::malloc_sync(1000).unwrap();
        result::malloc_host(1000, 0).unwrap();
        let errors = [
            result::malloc_sync(1).unwrap_err().0,
            result::malloc_host(1, 0).unwrap_err().0,
        ];
        assert_eq!(errors, [Status::CUDA_ERROR_OUT_OF_MEMORY; 2]);
    }
}

#[test]
fn pointers_of_the_wrong_side_are_refused() {
    let Some(d) = Device::new() else { return };
    let x = d.upload(&[1.0f32; 4]);
    let mut host = [0.0f32; 8];
    let invalid = Status::CUDA_ERROR_INVALID_VALUE;
    unsafe {
        let host_at = host.as_mut_ptr() as u64;
        assert_eq!(
            sys::cuMemcpyHtoD_v2(host_at, host.as_ptr().cast(), 4),
            invalid
        );
        assert_eq!(sys::cuMemcpyHtoD_v2(x, x as *const _, 4), invalid);
        assert_eq!(
            sys::cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), x, 20),
            invalid
        );
        assert_eq!(
            sys::cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), x + 4, 12),
            OK
        );
        assert_eq!(sys::cuMemFree_v2(x + 4), invalid);

        // A launch with the host's pointer loses the GPU, as its illegal access would.
        let (mut at, mut y, mut n) = (host_at, x, 4i32);
        let mut params = [arg(&mut at), arg(&mut y), arg(&mut n)];
        let error = d.launch("selftest_sum", 1, 256, null_mut(), &mut params);
        assert_eq!(error.unwrap_err().0, Status::CUDA_ERROR_ILLEGAL_ADDRESS);
    }
}

#[test]
fn a_lost_gpu_stays_lost_until_its_context_ends() {
    let Some(d) = Device::new() else { return };
    let (x, y, stream) = (d.upload(&[1.0f32; 256]), d.zeros(1024), d.stream());
    d.fake.set("FAIL", "launch:3");
    d.scale(x, y, stream);
    d.scale(x, y, stream);
    let (mut a, mut b, mut factor, mut n) = (x, y, 2.0f32, 256i32);
    let mut params = [arg(&mut a), arg(&mut b), arg(&mut factor), arg(&mut n)];
    let lost = Status::CUDA_ERROR_LAUNCH_FAILED;
    let error = d.launch("selftest_scale", 1, 256, stream, &mut params);
    assert_eq!(error.unwrap_err().0, lost);
    unsafe {
        assert_eq!(result::stream::synchronize(stream).unwrap_err().0, lost);
        assert_eq!(result::malloc_sync(4).unwrap_err().0, lost);
        assert_eq!(result::ctx::synchronize().unwrap_err().0, lost);
        // What is given back is gone, though the answer is the same.
        assert_eq!(result::free_sync(x).unwrap_err().0, lost);
        assert_eq!(result::free_sync(y).unwrap_err().0, lost);
        assert_eq!(d.fake.counters().allocations, 0);

        result::primary_ctx::release(0).unwrap();
        let context = result::primary_ctx::retain(0).unwrap();
        assert_eq!(
            result::malloc_sync(4).unwrap_err().0,
            Status::CUDA_ERROR_CONTEXT_IS_DESTROYED
        );
        result::ctx::set_current(context).unwrap();
        result::malloc_sync(4).unwrap();
    }
    assert_eq!(d.fake.counters().left_behind, 2); // the stream and the module

    for (fail, code) in [
        ("copy:1", lost),
        ("any:2:ecc", Status::CUDA_ERROR_ECC_UNCORRECTABLE),
    ] {
        d.fake.reset();
        d.fake.set("FAIL", fail);
        let x = unsafe { result::malloc_sync(4) }.unwrap();
        let codes: Vec<_> = (0..3)
            .map(|_| unsafe { sys::cuMemcpyHtoD_v2(x, [0u8; 4].as_ptr().cast(), 4) })
            .collect();
        assert_eq!(codes.last(), Some(&code), "{fail}");
        assert_eq!(codes[0] == OK, fail.starts_with("any:2"), "{fail}");
    }
}

#[test]
fn modules_are_checked_against_the_gpu_and_the_kernels() {
    let Some(d) = Device::new() else { return };
    let load = |ptx: &std::ffi::CStr| unsafe { result::module::load_data(ptx.as_ptr().cast()) };
    assert_eq!(load(c"").unwrap_err().0, Status::CUDA_ERROR_INVALID_IMAGE);
    let ptx = c".version 8.0\n.target sm_75\n.visible .entry selftest_sum(\n";
    let module = load(ptx).unwrap();
    let find = |name: &str| unsafe {
        result::module::get_function(module, std::ffi::CString::new(name).unwrap())
    };
    find("selftest_sum").unwrap();
    for name in ["selftest_scale", "no_such_kernel"] {
        assert_eq!(find(name).unwrap_err().0, Status::CUDA_ERROR_NOT_FOUND);
    }
    d.fake.set("CAPABILITY", "7.0");
    let error = load(ptx).unwrap_err();
    assert_eq!(error.0, Status::CUDA_ERROR_NO_BINARY_FOR_GPU);
    d.fake.set("CUDA", "11.8");
    let error = load(ptx).unwrap_err();
    assert_eq!(error.0, Status::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    assert_eq!(
        error.error_name().unwrap(),
        c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
    );
}

#[test]
fn a_graph_runs_what_was_captured() {
    let Some(d) = Device::new() else { return };
    let (x, y, z, stream) = (
        d.upload(&[1.0f32; 256]),
        d.zeros(1024),
        d.zeros(1024),
        d.stream(),
    );
    unsafe {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        result::stream::begin_capture(stream, mode).unwrap();
        d.scale(x, y, stream);
        d.scale(y, z, stream);
        let graph = result::stream::end_capture(stream).unwrap();
        assert_eq!(d.download::<f32>(z, 256), [0.0; 256]);
        let mut executable = null_mut();
        assert_eq!(
            sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0),
            OK
        );
        assert_eq!(d.fake.counters().launches, 0);
        result::graph::launch(executable, stream).unwrap();
        result::stream::synchronize(stream).unwrap();
        assert_eq!(d.fake.counters().launches, 1);
        let expected: Vec<f32> = (0..256).map(|i| (2 + i) as f32 * 2.0 + i as f32).collect();
        assert_eq!(d.download::<f32>(z, 256), expected);

        // It does not keep its memory alive.
        result::free_sync(y).unwrap();
        let error = result::graph::launch(executable, stream).unwrap_err();
        assert_eq!(error.0, Status::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(d.fake.counters().graphs, 2);
        assert!(result::graph::exec_destroy(executable).is_err());
        assert!(result::graph::destroy(graph).is_err());
        assert_eq!(d.fake.counters().graphs, 0);
    }
}

#[test]
fn a_capture_is_spoilt_by_calls_that_it_must_not_see() {
    let Some(d) = Device::new() else { return };
    let (x, y, stream) = (d.upload(&[1.0f32; 256]), d.zeros(1024), d.stream());
    let local = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let global = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
    let context = result::ctx::get_current().unwrap().unwrap() as usize;
    let allocate = || unsafe { result::malloc_sync(4) }.map(|_| ());
    let wait = || unsafe { result::stream::synchronize(stream) };
    let wait_for_all = result::ctx::synchronize;
    let elsewhere = |call: fn() -> Result<(), result::DriverError>| {
        let run = move || {
            // SAFETY: the context lives as long as `d`.
            unsafe { result::ctx::set_current(context as sys::CUcontext) }.unwrap();
            call()
        };
        std::thread::scope(|threads| threads.spawn(run).join().unwrap())
    };
    let allocate_elsewhere = || elsewhere(|| unsafe { result::malloc_sync(4) }.map(|_| ()));
    let wait_elsewhere = || elsewhere(result::ctx::synchronize);
    type Call<'a> = &'a dyn Fn() -> Result<(), result::DriverError>;
    let cases: [(_, Call<'_>, bool); 8] = [
        (local, &|| Ok(()), true),
        (local, &allocate, false),
        (local, &wait, false),
        (local, &wait_for_all, false),
        (local, &allocate_elsewhere, true),
        (global, &allocate_elsewhere, false),
        (local, &wait_elsewhere, false),
        (global, &wait_elsewhere, false),
    ];
    for (i, (mode, call, allowed)) in cases.into_iter().enumerate() {
        unsafe {
            result::stream::begin_capture(stream, mode).unwrap();
            d.scale(x, y, stream);
            assert_eq!(call().is_ok(), allowed, "{i}");
            match result::stream::end_capture(stream) {
                Ok(graph) => {
                    assert!(allowed, "{i}");
                    result::graph::destroy(graph).unwrap();
                }
                Err(error) => {
                    let spoilt = Status::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
                    assert_eq!((error.0, allowed), (spoilt, false), "{i}");
                }
            }
            wait().unwrap();
        }
    }
    assert_eq!(d.download::<f32>(y, 256), [0.0; 256]);
    d.fake.set("GRAPHS", 0);
    assert!(unsafe { result::stream::begin_capture(stream, local) }.is_err());
}

#[test]
fn host_functions_run_in_their_stream_and_may_not_call_the_driver() {
    unsafe extern "C" fn call(data: *mut std::ffi::c_void) {
        // SAFETY: `codes` below.
        let codes = unsafe { &mut *data.cast::<Vec<Status>>() };
        let (mut free, mut total) = (0, 0);
        codes.push(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) });
    }
    let Some(d) = Device::new() else { return };
    let stream = d.stream();
    let mut codes: Vec<Status> = Vec::new();
    unsafe {
        result::stream::launch_host_function(stream, call, arg(&mut codes)).unwrap();
        assert!(codes.is_empty());
        result::stream::synchronize(stream).unwrap();
    }
    assert_eq!(codes, [Status::CUDA_ERROR_NOT_PERMITTED]);
}

#[test]
fn threads_share_the_device() {
    let Some(d) = Device::new() else { return };
    let context = result::ctx::get_current().unwrap().unwrap() as usize;
    for order in ORDERS {
        d.fake.set("ORDER", order);
        std::thread::scope(|threads| {
            for t in 0..4 {
                let d = &d;
                threads.spawn(move || {
                    // SAFETY: the context lives as long as `d`.
                    unsafe { result::ctx::set_current(context as sys::CUcontext) }.unwrap();
                    let x = d.upload(&[t as f32; 256]);
                    let (y, stream) = (d.zeros(1024), d.stream());
                    for _ in 0..10 {
                        d.scale(x, y, stream);
                        unsafe { result::stream::synchronize(stream) }.unwrap();
                        assert_eq!(d.download::<f32>(y, 256), scaled(t as f32));
                    }
                });
            }
        });
    }
}

#[test]
fn nvml_agrees_with_the_driver() {
    let Some(fake) = octet_test_cuda::session() else {
        return;
    };
    fake.set("NAME", "Test GPU");
    fake.set("DRIVER", "530.1");
    fake.set("CAPABILITY", "8.9");
    fake.set("VRAM", "8GiB");
    fake.set("FREE", "7GiB");
    assert!(unsafe { sys::is_culib_present() });
    let d = Device::with(fake);
    let nvml = nvml_wrapper::Nvml::init().unwrap();
    assert_eq!(nvml.sys_driver_version().unwrap(), "530.1");
    assert_eq!(nvml.device_count().unwrap(), 1);
    let gpu = nvml.device_by_index(0).unwrap();
    assert_eq!(gpu.name().unwrap(), "Test GPU");
    let capability = gpu.cuda_compute_capability().unwrap();
    assert_eq!((capability.major, capability.minor), (8, 9));
    d.zeros(1 << 20);
    let memory = gpu.memory_info().unwrap();
    assert_eq!(
        (memory.total, memory.free),
        (8 << 30, (7 << 30) - (1 << 20))
    );
    assert_eq!(memory.free, result::mem_get_info().unwrap().0 as u64);
    let bytes = result::device::get_uuid(0).unwrap().bytes;
    let hex: String = bytes.iter().map(|b| format!("{:02x}", *b as u8)).collect();
    assert_eq!(gpu.uuid().unwrap().replace('-', ""), format!("GPU{hex}"));

    d.fake.set("DEVICES", 0);
    assert_eq!(nvml.device_count().unwrap(), 0);
    assert_eq!(result::init().unwrap_err().0, Status::CUDA_ERROR_NO_DEVICE);
    d.fake.set("DEVICES", 1);
    d.fake.set("NVML_ERROR", 9);
    assert!(matches!(
        nvml_wrapper::Nvml::init(),
        Err(nvml_wrapper::error::NvmlError::DriverNotLoaded)
    ));
}

const CHILD: &str = "OCTET_TEST_CHILD";

/// Looks for CUDA as a program does that knows nothing of this crate; see the test below.
#[test]
fn child_without_install() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    assert!(unsafe { sys::is_culib_present() });
    result::init().unwrap();
    assert_eq!(result::device::get_name(0).unwrap(), "Child's GPU");
    nvml_wrapper::Nvml::init().unwrap();
    unsafe {
        let context = result::primary_ctx::retain(0).unwrap();
        result::ctx::set_current(context).unwrap();
        result::malloc_sync(1000).unwrap(); // leaks
    }
}

#[test]
fn a_child_process_finds_it_and_leaves_a_report() {
    let Some(dir) = octet_test_cuda::library_dir() else {
        return;
    };
    let report = std::env::temp_dir().join(format!("octet-fake-cuda-{}", std::process::id()));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_without_install"])
        .env(CHILD, "1")
        .env("LD_LIBRARY_PATH", dir)
        .env("OCTET_FAKE_CUDA_NAME", "Child's GPU")
        .env("OCTET_FAKE_CUDA_REPORT", &report)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(&report).unwrap();
    std::fs::remove_file(&report).unwrap();
    assert!(text.contains("\"memory\": 1024"), "{text}");
    assert!(text.contains("\"allocations\": 1"), "{text}");
}
