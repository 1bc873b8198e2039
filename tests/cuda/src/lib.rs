//! A CUDA driver without a GPU, for tests: `libcuda.so.1` and `libnvidia-ml.so.1` that run the
//! real kernels of `kernels/cuda`, compiled for a processor, one fiber a thread.
//!
//! In a test, before anything of CUDA is called:
//!
//! ```no_run
//! let Some(fake) = octet_test_cuda::session() else {
//!     return; // it has said why
//! };
//! fake.set("ORDER", "seed:7");
//! // ... cudarc and NVML now find an RTX 3060 ...
//! assert_eq!(fake.counters().allocations, 0);
//! ```
//!
//! A child process gets it through `LD_LIBRARY_PATH`, set to [`library_dir`], and its settings
//! through `OCTET_FAKE_CUDA_*`. `src/driver/settings.h` lists the settings, and `device.cpp`
//! beside it says in what the driver is unkind on purpose.
//!
//! What it does not show: speed, the memory model of a GPU beyond barriers, registers and
//! occupancy, and the accuracy of the GPU's own `__expf` and `rsqrtf`. A kernel is not stopped from
//! following a pointer into the host's memory.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

/// What the driver has counted since it was loaded, or reset; `*_peak`, `memory` and `pinned` in
/// bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Device memory that is allocated now.
    pub memory: u64,
    /// The most there was.
    pub memory_peak: u64,
    /// Pinned host memory, allocated or registered.
    pub pinned: u64,
    /// The most there was.
    pub pinned_peak: u64,
    /// Allocations of device memory that live.
    pub allocations: u64,
    /// Allocations and registrations of pinned memory that live.
    pub pinned_allocations: u64,
    /// Streams that live.
    pub streams: u64,
    /// Events that live.
    pub events: u64,
    /// Modules that are loaded.
    pub modules: u64,
    /// Graphs and executable graphs that live.
    pub graphs: u64,
    /// 1 while the primary context lives.
    pub contexts: u64,
    /// Kernels launched; a graph counts once.
    pub launches: u64,
    /// Copies to the device asked for.
    pub copies_up: u64,
    /// Copies to the host asked for.
    pub copies_down: u64,
    /// Copies within the device asked for.
    pub copies_within: u64,
    /// Bytes of `copies_up`.
    pub bytes_up: u64,
    /// Bytes of `copies_down`.
    pub bytes_down: u64,
    /// Bytes of `copies_within`.
    pub bytes_within: u64,
    /// Waits for a stream, an event or the context.
    pub syncs: u64,
    /// Operations that are queued and have not run.
    pub pending: u64,
    /// Objects that lived when their context ended: leaks.
    pub left_behind: u64,
    /// Queries of streams.
    pub queries: u64,
    /// Copies to the device that ran before a kernel that was launched earlier and had been given
    /// their destination: what it then reads is not what it was launched for.
    pub overtaken: u64,
}

/// The folder of the libraries, for `LD_LIBRARY_PATH` of a child process; `None` where they could
/// not be built.
pub fn library_dir() -> Option<&'static Path> {
    option_env!("OCTET_FAKE_CUDA_DIR").map(Path::new)
}

/// Loads the libraries, so that whoever looks for CUDA or NVML in this process from now on finds
/// them, a real driver or not. Says why and returns false where there are none.
pub fn install() -> bool {
    match functions() {
        Ok(_) => true,
        Err(why) => {
            eprintln!("without the fake CUDA driver: {why}");
            false
        }
    }
}

/// The driver for one test alone: waits for other sessions of this process, then starts with the
/// settings of the environment and with counters at zero.
///
/// `None`, having said why, where there is no fake driver.
pub fn session() -> Option<Session> {
    if !install() {
        return None;
    }
    static ONE: Mutex<()> = Mutex::new(());
    let session = Session {
        _one: ONE.lock().unwrap_or_else(PoisonError::into_inner),
    };
    session.reset();
    Some(session)
}

/// Names the variable that has tests use the real driver and its first GPU, where they can.
pub const REAL_GPU_VARIABLE: &str = "OCTET_TEST_REAL_GPU";

/// What a test that makes sense on a real GPU too runs on.
#[derive(Debug)]
pub enum Driver {
    /// The real one.
    Real,
    /// The one that stands in for it.
    Fake(Session),
}

/// The real driver where [`REAL_GPU_VARIABLE`] is set, else [`session`].
pub fn driver() -> Option<Driver> {
    match std::env::var_os(REAL_GPU_VARIABLE) {
        Some(_) => Some(Driver::Real),
        None => session().map(Driver::Fake),
    }
}

/// See [`session`].
#[derive(Debug)]
pub struct Session {
    _one: MutexGuard<'static, ()>,
}

impl Session {
    /// Changes a setting: a key of `src/driver/settings.h` without `OCTET_FAKE_CUDA_`.
    ///
    /// # Panics
    /// If there is no such setting or the value makes no sense.
    pub fn set(&self, key: &str, value: impl ToString) {
        let value = value.to_string();
        assert!(functions_of_session().set(key, &value), "{key}={value}");
    }

    /// The settings of the environment again, counters at zero, and a lost GPU well again.
    pub fn reset(&self) {
        functions_of_session().reset();
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        functions_of_session().counters()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reset();
    }
}

fn functions_of_session() -> &'static Functions {
    functions()
        .as_ref()
        .expect("BUG: a session without a driver")
}

fn functions() -> &'static Result<Functions, String> {
    static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();
    FUNCTIONS.get_or_init(load)
}

#[cfg(not(fake_cuda))]
fn load() -> Result<Functions, String> {
    Err(env!("OCTET_FAKE_CUDA_WHY_NOT").to_owned())
}

#[cfg(not(fake_cuda))]
struct Functions;

#[cfg(not(fake_cuda))]
impl Functions {
    fn set(&self, _: &str, _: &str) -> bool {
        false
    }
    fn reset(&self) {}
    fn counters(&self) -> Counters {
        Counters::default()
    }
}

#[cfg(fake_cuda)]
use real::{Functions, load};

#[cfg(fake_cuda)]
mod real {
    use super::{Counters, library_dir};
    use std::{
        ffi::{CStr, CString, c_char, c_int, c_void},
        os::unix::ffi::OsStrExt,
        ptr::NonNull,
    };

    pub(super) struct Functions {
        set: unsafe extern "C" fn(*const c_char, *const c_char) -> c_int,
        reset: unsafe extern "C" fn(),
        counters: unsafe extern "C" fn(*mut Counters),
    }

    impl Functions {
        pub(super) fn set(&self, key: &str, value: &str) -> bool {
            let (Ok(key), Ok(value)) = (CString::new(key), CString::new(value)) else {
                return false;
            };
            // SAFETY: two C strings that live through the call.
            unsafe { (self.set)(key.as_ptr(), value.as_ptr()) != 0 }
        }

        pub(super) fn reset(&self) {
            // SAFETY: takes nothing and locks what it changes.
            unsafe { (self.reset)() }
        }

        pub(super) fn counters(&self) -> Counters {
            let mut counters = Counters::default();
            // SAFETY: `Counters` is laid out as the struct of that name in settings.h.
            unsafe { (self.counters)(&mut counters) };
            counters
        }
    }

    pub(super) fn load() -> Result<Functions, String> {
        // libcuda.so is the name that cudarc tries first; its SONAME is in it, so that the loader
        // takes it for any library of that name.
        let cuda = open("libcuda.so.1")?;
        open("libcuda.so")?;
        open("libnvidia-ml.so.1")?;
        // SAFETY: these are the types of the functions of these names in testing.cpp.
        unsafe {
            Ok(Functions {
                set: std::mem::transmute::<
                    NonNull<c_void>,
                    unsafe extern "C" fn(*const c_char, *const c_char) -> c_int,
                >(symbol(cuda, c"octet_fake_cuda_set")?),
                reset: std::mem::transmute::<NonNull<c_void>, unsafe extern "C" fn()>(symbol(
                    cuda,
                    c"octet_fake_cuda_reset",
                )?),
                counters: std::mem::transmute::<NonNull<c_void>, unsafe extern "C" fn(*mut Counters)>(
                    symbol(cuda, c"octet_fake_cuda_counters")?,
                ),
            })
        }
    }

    /// Never closed: whoever found a function in it may keep it for good.
    fn open(name: &str) -> Result<NonNull<c_void>, String> {
        let dir = library_dir().ok_or("it was not built")?;
        let path =
            CString::new(dir.join(name).as_os_str().as_bytes()).map_err(|e| e.to_string())?;
        // SAFETY: a path as a C string; what runs at loading are the constructors of the driver.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        NonNull::new(handle).ok_or_else(last_error)
    }

    fn symbol(library: NonNull<c_void>, name: &CStr) -> Result<NonNull<c_void>, String> {
        // SAFETY: a handle from dlopen and a C string.
        let found = unsafe { libc::dlsym(library.as_ptr(), name.as_ptr()) };
        NonNull::new(found).ok_or_else(last_error)
    }

    fn last_error() -> String {
        // SAFETY: dlerror returns null or a C string that is valid until the next call of its kind
        // on this thread.
        unsafe {
            let text = libc::dlerror();
            if text.is_null() {
                "the loader does not say why".to_owned()
            } else {
                CStr::from_ptr(text).to_string_lossy().into_owned()
            }
        }
    }
}
