//! The driver's calls, without owners: these tests are about the calls.
#![allow(dead_code)] // no test file uses all of it

use cudarc::driver::{result, sys};
use std::{ffi::CString, os::raw::c_void, ptr};

pub type Status = sys::CUresult;
pub const OK: Status = sys::CUresult::CUDA_SUCCESS;

/// A context with the selftest kernels, for one test.
pub struct Device {
    pub fake: octet_test_cuda::Session,
    module: usize, // a CUmodule; as a number it goes to other threads
}

impl Device {
    pub fn new() -> Option<Self> {
        let fake = octet_test_cuda::session()?;
        Some(Self::with(fake))
    }

    pub fn with(fake: octet_test_cuda::Session) -> Self {
        result::init().unwrap();
        let device = result::device::get(0).unwrap();
        // SAFETY: a device of this driver, and an image that ends with a zero.
        let module = unsafe {
            let context = result::primary_ctx::retain(device).unwrap();
            result::ctx::set_current(context).unwrap();
            result::module::load_data(c"selftest".as_ptr().cast()).unwrap()
        };
        Self {
            fake,
            module: module as usize,
        }
    }

    pub fn stream(&self) -> sys::CUstream {
        result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
    }

    pub fn event(&self) -> sys::CUevent {
        result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap()
    }

    pub fn upload<T: Copy>(&self, values: &[T]) -> sys::CUdeviceptr {
        // SAFETY: as many bytes are allocated as are written.
        unsafe {
            let at = result::malloc_sync(size_of_val(values)).unwrap();
            result::memcpy_htod_sync(at, values).unwrap();
            at
        }
    }

    pub fn zeros(&self, bytes: usize) -> sys::CUdeviceptr {
        self.upload(&vec![0u8; bytes])
    }

    pub fn download<T: Copy + Default>(&self, at: sys::CUdeviceptr, n: usize) -> Vec<T> {
        let mut values = vec![T::default(); n];
        // SAFETY: the driver refuses what leaves the allocation.
        unsafe { result::memcpy_dtoh_sync(&mut values, at) }.unwrap();
        values
    }

    /// Pinned memory of `n` values.
    pub fn pinned<T>(&self, n: usize) -> &'static mut [T] {
        // SAFETY: memory of that size, kept until the context ends, which outlives its use here.
        unsafe {
            let p = result::malloc_host(n * size_of::<T>(), 0).unwrap();
            std::slice::from_raw_parts_mut(p.cast(), n)
        }
    }

    pub fn launch(
        &self,
        name: &str,
        grid: u32,
        block: u32,
        stream: sys::CUstream,
        params: &mut [*mut c_void],
    ) -> Result<(), result::DriverError> {
        // SAFETY: the tests give each kernel the arguments it takes.
        unsafe {
            let function = result::module::get_function(
                self.module as sys::CUmodule,
                CString::new(name).unwrap(),
            )?;
            result::launch_kernel(function, (grid, 1, 1), (block, 1, 1), 0, stream, params)
        }
    }

    /// y = 2 x + i, of 256 values.
    pub fn scale(&self, x: sys::CUdeviceptr, y: sys::CUdeviceptr, stream: sys::CUstream) {
        let (mut x, mut y, mut factor, mut n) = (x, y, 2.0f32, 256i32);
        let mut params = [arg(&mut x), arg(&mut y), arg(&mut factor), arg(&mut n)];
        self.launch("selftest_scale", 1, 256, stream, &mut params)
            .unwrap();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: retained in `with`.
        unsafe {
            let _ = result::primary_ctx::release(0);
            let _ = result::ctx::set_current(ptr::null_mut());
        }
    }
}

pub fn arg<T>(value: &mut T) -> *mut c_void {
    ptr::from_mut(value).cast()
}
