//! Several GPUs: which ones CUDA lists, what NVML says of them, and speeds and failures of one.
#![allow(clippy::unwrap_used, clippy::undocumented_unsafe_blocks)]
#![cfg(target_os = "linux")]

mod common;

use common::{Device, OK, Status};
use cudarc::driver::{result, sys};
use nvml_wrapper::{Nvml, error::NvmlError};
use std::time::{Duration, Instant};

/// A laptop's GPU, a fast one with more memory, and one that is split.
fn three() -> Option<octet_test_cuda::Session> {
    let fake = octet_test_cuda::session()?;
    fake.set("DEVICES", 3);
    fake.set("NAME_0", "small");
    fake.set("VRAM_0", "4GiB");
    fake.set("NAME_1", "large");
    fake.set("VRAM_1", "24GiB");
    fake.set("CAPABILITY_1", "8.9");
    fake.set("NAME_2", "old");
    fake.set("CAPABILITY_2", "7.5");
    result::init().unwrap();
    Some(fake)
}

fn uuid(device: i32) -> String {
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    assert_eq!(unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, device) }, OK);
    let hex: Vec<String> = uuid
        .bytes
        .iter()
        .map(|b| format!("{:02x}", *b as u8))
        .collect();
    hex.concat()
}

/// The names that CUDA lists, in its order.
fn listed(fake: &octet_test_cuda::Session, visible: &str) -> Vec<String> {
    fake.set("VISIBLE", visible);
    (0..result::device::get_count().unwrap())
        .map(|i| result::device::get_name(result::device::get(i).unwrap()).unwrap())
        .collect()
}

#[test]
fn a_process_sees_the_gpus_it_is_given_in_that_order_up_to_the_first_that_is_none() {
    let Some(fake) = three() else { return };
    // CUDA numbers the fastest first, NVML by the bus.
    let names = |visible: &str| listed(&fake, visible);
    assert_eq!(names("0,1,2"), ["large", "small", "old"]);
    assert_eq!(names("2, 0"), ["old", "large"]);
    assert_eq!(names("1,7,0"), ["small"]);
    assert_eq!(names("1,first,0"), ["small"]);
    for none in ["", "-1", "7", "1,1"] {
        assert!(names(none).is_empty(), "{none}");
    }
    let nvml = Nvml::init().unwrap();
    let of_nvml: Vec<_> = (0..nvml.device_count().unwrap())
        .map(|i| nvml.device_by_index(i).unwrap().name().unwrap())
        .collect();
    assert_eq!(of_nvml, ["small", "large", "old"]);

    let old = nvml.device_by_index(2).unwrap().uuid().unwrap();
    assert_eq!(names(&old), ["old"]);
    assert_eq!(names(&format!("{},0", &old[..8])), ["old", "large"]);
    // All begin so.
    fake.set("UUID_0", "2c000000000000000000000000000000");
    fake.set("UUID_2", "2c000000000000000000000000000001");
    assert!(names("GPU-2c,0").is_empty());
    assert_eq!(
        names("0,GPU-2c000000-0000-0000-0000-000000000001"),
        ["large", "old"]
    );
}

#[test]
fn each_gpu_has_its_own_memory_and_context() {
    let Some(fake) = three() else { return };
    fake.set("FREE_0", "1GiB");
    let nvml = Nvml::init().unwrap();
    let free = |i| nvml.device_by_index(i).unwrap().memory_info().unwrap().free;
    assert_eq!((free(0), free(1)), (1 << 30, (24 << 30) - (400 << 20)));
    unsafe {
        // CUDA's second is NVML's first.
        let small = result::primary_ctx::retain(1).unwrap();
        let large = result::primary_ctx::retain(0).unwrap();
        result::ctx::set_current(small).unwrap();
        assert_eq!(result::mem_get_info().unwrap(), (1 << 30, 4 << 30));
        result::malloc_sync(512 << 20).unwrap();
        assert!(result::malloc_sync(600 << 20).is_err());
        result::ctx::set_current(large).unwrap();
        let kept = result::malloc_sync(600 << 20).unwrap();
        assert_eq!(free(0), 512 << 20);
        assert_eq!(fake.counters().contexts, 2);
        // What is in one ends with it alone.
        result::primary_ctx::release(1).unwrap();
        assert_eq!(free(0), 1 << 30);
        assert_eq!(fake.counters().left_behind, 1);
        result::free_sync(kept).unwrap();
        result::primary_ctx::release(0).unwrap();
    }
    let left = fake.counters();
    assert_eq!((left.contexts, left.memory, left.left_behind), (0, 0, 1));
}

#[test]
fn of_a_split_gpu_cuda_lists_one_instance_with_its_own_name_and_memory() {
    let Some(fake) = three() else { return };
    fake.set("MIG_1", "5GiB,10GiB");
    // An instance hides all that comes with it.
    assert_eq!(listed(&fake, "0,1"), ["large MIG 5gb"]);
    assert_eq!(listed(&fake, "1"), ["small"]);
    let nvml = Nvml::init().unwrap();
    let whole = nvml.device_by_index(1).unwrap().uuid().unwrap();
    fake.set("VISIBLE", &whole);
    let first = uuid(0);
    assert_ne!(format!("GPU-{first}"), whole.replace('-', ""));
    let text = |hex: &str| {
        let parts = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ];
        format!("MIG-{}", parts.join("-"))
    };
    assert_eq!(listed(&fake, &text(&first)), ["large MIG 5gb"]);
    assert_eq!(
        listed(&fake, &format!("MIG-{whole}/1/0")),
        ["large MIG 10gb"]
    );
    let second = text(&uuid(0));
    let total = unsafe { result::device::total_mem(0) }.unwrap();
    assert_eq!(total, 10 << 30);
    let instance = nvml.device_by_uuid(second.as_str()).unwrap();
    assert_eq!(instance.memory_info().unwrap().total, 10 << 30);
    assert_eq!(instance.uuid().unwrap(), second);
    // The older call names the GPU.
    let mut gpu = sys::CUuuid { bytes: [0; 16] };
    assert_eq!(unsafe { sys::cuDeviceGetUuid(&mut gpu, 0) }, OK);
    assert_eq!(gpu.bytes[0] as u8, 0x1c);
    assert_eq!(gpu.bytes[8] as u8, 0x80);
}

#[test]
fn a_gpu_may_keep_its_memory_to_itself_drive_a_screen_or_not_open() {
    let Some(fake) = three() else { return };
    fake.set("NVML_MEMORY_0", 0);
    fake.set("DISPLAY_1", 1);
    fake.set("OPEN_ERROR_2", 46);
    let nvml = Nvml::init().unwrap();
    let gpu = |i| nvml.device_by_index(i).unwrap();
    assert!(matches!(gpu(0).memory_info(), Err(NvmlError::NotSupported)));
    assert!(gpu(1).memory_info().is_ok());
    let shown: Vec<_> = (0..3)
        .map(|i| gpu(i).is_display_active().unwrap())
        .collect();
    assert_eq!(shown, [false, true, false]);
    let limit = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT;
    let limited = |i| unsafe { result::device::get_attribute(i, limit) }.unwrap();
    assert_eq!([limited(0), limited(1)], [1, 0], "in CUDA's order");
    let error = unsafe { result::primary_ctx::retain(2) }.unwrap_err();
    assert_eq!(error.0, Status::CUDA_ERROR_DEVICE_UNAVAILABLE);
}

#[test]
fn copies_take_as_long_as_they_are_told_to() {
    let Some(d) = Device::new() else { return };
    let stream = d.stream();
    let x = d.zeros(1 << 20);
    let pinned: &[u8] = d.pinned::<u8>(1 << 20);
    let pageable = vec![0u8; 1 << 20];
    d.fake.set("PAGEABLE_SPEED", "20MiB");
    let time = |from: &[u8]| {
        let clock = Instant::now();
        unsafe { result::memcpy_htod_async(x, from, stream) }.unwrap();
        unsafe { result::stream::synchronize(stream) }.unwrap();
        clock.elapsed()
    };
    assert!(time(&pageable) >= Duration::from_millis(50));
    d.fake.set("PAGEABLE_SPEED", 0);
    d.fake.set("PINNED_SPEED", "25MiB");
    assert!(time(pinned) >= Duration::from_millis(40));
}

#[test]
fn a_call_may_fail_alone() {
    let Some(d) = Device::new() else { return };
    d.fake
        .set("FAIL", "event:1:soft,stream:2:soft,query:1:soft");
    let stream = d.stream();
    let soft = Status::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
    assert_eq!(result::event::create(flags).unwrap_err().0, soft);
    d.event();
    let wait = || unsafe { result::stream::synchronize(stream) };
    wait().unwrap();
    assert_eq!(wait().unwrap_err().0, soft);
    wait().unwrap();
    assert_eq!(unsafe { sys::cuStreamQuery(stream) }, soft);
    assert_eq!(unsafe { sys::cuStreamQuery(stream) }, OK);
    assert_eq!(d.fake.counters().queries, 1);
    result::ctx::synchronize().unwrap();
}

#[test]
fn a_copy_that_overtakes_a_kernel_is_counted() {
    let Some(d) = Device::new() else { return };
    let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    for (waits, expected) in [(true, 0), (false, 1)] {
        let (copies, compute, used) = (d.stream(), d.stream(), d.event());
        let (x, y) = (d.upload(&[1.0f32; 256]), d.zeros(1024));
        let stage = d.pinned::<f32>(256);
        let before = d.fake.counters().overtaken;
        unsafe {
            d.scale(x, y, compute);
            result::event::record(used, compute).unwrap();
            if waits {
                result::stream::wait_event(copies, used, flags).unwrap();
            }
            result::memcpy_htod_async(x, stage, copies).unwrap();
            result::stream::synchronize(copies).unwrap();
            result::stream::synchronize(compute).unwrap();
        }
        assert_eq!(d.fake.counters().overtaken - before, expected);
    }
}
