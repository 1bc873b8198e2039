//! A GPU, its memory, and the order of work on it: thin owners over the driver's handles.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cudarc::driver::result;
use cudarc::driver::sys;

use super::{CudaError, list};

thread_local! {
    /// Which [`Gpu`], by its number, is current on this thread; 0: none.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Held for writing while a stream is recorded: a wait for the whole context, by whatever thread,
/// would fail then and spoil the recording.
pub(super) static RECORDING: RwLock<()> = RwLock::new(());

/// A GPU with its context.
#[derive(Debug)]
pub struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    /// Of this process: contexts that come and go may share an address.
    number: u64,
    name: String,
    allocated_bytes: AtomicU64,
    peak_bytes: AtomicU64,
    /// Of this process's [`Pinned`] memory: lengths by address.
    pinned: Mutex<BTreeMap<usize, usize>>,
}

// SAFETY: the driver's handles may be used from any thread; `bind` makes the context current.
unsafe impl Send for Gpu {}
// SAFETY: as above; the driver locks for itself.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Takes the GPU, or the instance of one, with the identifier `uuid` (`GPU-...` or `MIG-...`, as
    /// NVML has it); an empty one means the driver's first.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`], [`CudaError::NoSuchGpu`], or what the driver reports.
    pub fn open(uuid: &str) -> Result<Arc<Self>, CudaError> {
        let found = list::devices()?
            .into_iter()
            .find(|(_, listed)| uuid.is_empty() || listed.is_named(uuid));
        match found {
            Some((device, listed)) => Self::take(device, listed.name),
            None => Err(CudaError::NoSuchGpu {
                uuid: uuid.to_owned(),
            }),
        }
    }

    fn take(device: sys::CUdevice, name: String) -> Result<Arc<Self>, CudaError> {
        // SAFETY: `device` comes from the driver; the context is released on drop.
        let context = unsafe { result::primary_ctx::retain(device) }
            .map_err(CudaError::of_allocation("the GPU's context", 0))?;
        let gpu = Self {
            device,
            context,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            allocated_bytes: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            pinned: Mutex::default(),
        };
        gpu.bind()?;
        Ok(Arc::new(gpu))
    }

    /// Makes the GPU current on the calling thread.
    pub(super) fn bind(&self) -> Result<(), CudaError> {
        if CURRENT.get() != self.number {
            // SAFETY: the context lives as long as `self`.
            unsafe { result::ctx::set_current(self.context) }
                .map_err(CudaError::of("choosing the GPU"))?;
            CURRENT.set(self.number);
        }
        Ok(())
    }

    /// Product name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes free and installed at the moment, over all programs.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn memory(&self) -> Result<(u64, u64), CudaError> {
        self.bind()?;
        let (free, total) =
            result::mem_get_info().map_err(CudaError::of("reading the GPU's memory"))?;
        Ok((free as u64, total as u64))
    }

    /// Multiprocessors of the GPU.
    pub(super) fn multiprocessors(&self) -> Result<u32, CudaError> {
        let what = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        // SAFETY: the device comes from the driver.
        let count = unsafe { result::device::get_attribute(self.device, what) };
        Ok(count
            .map_err(CudaError::of("reading the GPU's size"))?
            .max(1) as u32)
    }

    /// Bytes in [`Buffer`]s of this process: now, and the most so far. The context comes on top.
    pub fn allocated(&self) -> (u64, u64) {
        let read = |of: &AtomicU64| of.load(Ordering::Relaxed);
        (read(&self.allocated_bytes), read(&self.peak_bytes))
    }

    /// Whether all of `bytes` lie in [`Pinned`] memory, from where they are copied at full speed.
    pub fn is_pinned(&self, bytes: &[u8]) -> bool {
        let at = bytes.as_ptr().addr();
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let below = pinned.range(..=at).next_back();
        below.is_some_and(|(start, len)| at + bytes.len() <= start + len)
    }

    /// Waits for all work on the GPU.
    ///
    /// # Errors
    /// What that work ran into.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.bind()?;
        let _recording = RECORDING.read().unwrap_or_else(PoisonError::into_inner);
        result::ctx::synchronize().map_err(CudaError::of("waiting for the GPU"))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if CURRENT.get() == self.number {
            CURRENT.set(0);
        }
        // SAFETY: retained in `take`; everything made in the context holds the `Gpu`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Memory on the GPU. Freeing it waits for the GPU's work.
#[derive(Debug)]
pub struct Buffer {
    gpu: Arc<Gpu>,
    ptr: sys::CUdeviceptr,
    bytes: usize,
}

impl Buffer {
    /// `bytes` of memory, zeroed; `what` it is for appears in errors.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], or what the driver reports.
    pub fn new(gpu: &Arc<Gpu>, what: &'static str, bytes: usize) -> Result<Self, CudaError> {
        gpu.bind()?;
        let bytes = bytes.max(1);
        // SAFETY: the context is current, and the memory is zeroed before anyone reads it.
        let ptr =
            unsafe { result::malloc_sync(bytes) }.map_err(CudaError::of_allocation(what, bytes))?;
        let now = gpu
            .allocated_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        gpu.peak_bytes
            .fetch_max(now + bytes as u64, Ordering::Relaxed);
        let buffer = Self {
            gpu: Arc::clone(gpu),
            ptr,
            bytes,
        };
        // SAFETY: the range was just allocated. Zeroing runs on the default stream, so wait.
        unsafe { result::memset_d8_sync(ptr, 0, bytes) }.map_err(CudaError::of("zeroing"))?;
        gpu.synchronize()?;
        Ok(buffer)
    }

    /// A buffer that holds `values`.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn of<T: Plain>(
        gpu: &Arc<Gpu>,
        what: &'static str,
        values: &[T],
    ) -> Result<Self, CudaError> {
        let mut buffer = Self::new(gpu, what, size_of_val(values))?;
        buffer.write(0, values)?;
        Ok(buffer)
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of it as values of `T`, a last fraction left out.
    pub fn slice<T: Plain>(&self) -> Slice<'_, T> {
        Slice {
            ptr: self.ptr,
            len: self.bytes / size_of::<T>(),
            of: PhantomData,
        }
    }

    /// Copies `values` to byte `at` and waits until they are there.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn write<T: Plain>(&mut self, at: usize, values: &[T]) -> Result<(), CudaError> {
        assert!(
            at + size_of_val(values) <= self.bytes,
            "BUG: a write past the end of a GPU buffer"
        );
        self.gpu.bind()?;
        // SAFETY: the range lies in the buffer.
        unsafe { result::memcpy_htod_sync(self.ptr + at as u64, values) }
            .map_err(CudaError::of("copying to the GPU"))?;
        // The call returns when the values have left host memory, which may be before they arrive.
        self.gpu.synchronize()
    }

    /// Copies the values from byte `at` on into `values`, behind all work of the GPU.
    ///
    /// # Errors
    /// What the driver reports, that work's failures included.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn read<T: Plain>(&self, at: usize, values: &mut [T]) -> Result<(), CudaError> {
        assert!(
            at + size_of_val(values) <= self.bytes,
            "BUG: a read past the end of a GPU buffer"
        );
        self.gpu.synchronize()?;
        // SAFETY: the range lies in the buffer.
        unsafe { result::memcpy_dtoh_sync(values, self.ptr + at as u64) }
            .map_err(CudaError::of("copying from the GPU"))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.gpu
            .allocated_bytes
            .fetch_sub(self.bytes as u64, Ordering::Relaxed);
        if self.gpu.synchronize().is_ok() {
            // SAFETY: allocated in `new`; no work of the GPU is left.
            let _ = unsafe { result::free_sync(self.ptr) };
        }
        // A GPU that failed has lost its memory already.
    }
}

/// Values that are mere bits.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding.
pub unsafe trait Plain: Copy + 'static {}
// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl Plain for i8 {}
// SAFETY: numbers.
unsafe impl Plain for u16 {}
// SAFETY: numbers.
unsafe impl Plain for i32 {}
// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for u64 {}
// SAFETY: numbers.
unsafe impl Plain for f32 {}
// SAFETY: an array without padding.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// A part of a [`Buffer`], as values of `T`.
#[derive(Debug)]
pub struct Slice<'a, T> {
    ptr: u64,
    len: usize,
    of: PhantomData<&'a T>,
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<'_, T> {}

impl<T> Slice<'_, T> {
    /// The number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` values from number `start` on.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn part(self, start: usize, len: usize) -> Self {
        assert!(
            start + len <= self.len,
            "BUG: values {start} to {} of {} on the GPU",
            start + len,
            self.len
        );
        Self {
            ptr: self.ptr + (start * size_of::<T>()) as u64,
            len,
            of: PhantomData,
        }
    }

    /// The address, after a check that there are `least` values.
    pub(super) fn at_least(&self, least: usize) -> u64 {
        assert!(
            self.len >= least,
            "BUG: {} values on the GPU where {least} are needed",
            self.len
        );
        self.ptr
    }

    /// The address on the GPU.
    pub fn address(&self) -> u64 {
        self.ptr
    }
}

/// Host memory that the GPU reads and writes at full speed; cached for the CPU as any other.
#[derive(Debug)]
pub struct Pinned {
    gpu: Arc<Gpu>,
    ptr: *mut u8,
    len: usize,
}

// SAFETY: memory like any other, owned.
unsafe impl Send for Pinned {}
// SAFETY: shared access only reads.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// `len` bytes, zeroed.
    ///
    /// # Errors
    /// As [`Unfilled::new`].
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self, CudaError> {
        Ok(Unfilled::new(gpu, len)?.finish())
    }

    /// Its first values as numbers.
    ///
    /// # Panics
    /// If there are fewer than `len`.
    pub fn values<T: Plain>(&self, at: usize, len: usize) -> &[T] {
        assert!(at.is_multiple_of(align_of::<T>()) && at + len * size_of::<T>() <= self.len);
        // SAFETY: in range, aligned (allocations are by pages), any bits are a value.
        unsafe { std::slice::from_raw_parts(self.ptr.add(at).cast(), len) }
    }

    /// The same, to write.
    ///
    /// # Panics
    /// If there are fewer than `len`.
    pub fn values_mut<T: Plain>(&mut self, at: usize, len: usize) -> &mut [T] {
        assert!(at.is_multiple_of(align_of::<T>()) && at + len * size_of::<T>() <= self.len);
        // SAFETY: as in `values`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(at).cast(), len) }
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes that were written.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.gpu.synchronize();
        let mut pinned = self
            .gpu
            .pinned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pinned.remove(&self.ptr.addr());
        drop(pinned);
        // SAFETY: allocated in `new`; the GPU's work is done, or the GPU is lost.
        let _ = unsafe { result::free_host(self.ptr.cast()) };
    }
}

/// Pinned memory that nobody has written yet, to be written once from its start on.
///
/// The driver gives it as it is. Zeroing it first would write all of RAM's experts twice.
#[derive(Debug)]
pub struct Unfilled {
    /// Of which only the first `filled` bytes may be read.
    memory: Pinned,
    filled: usize,
}

impl Unfilled {
    /// `len` bytes.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`] where the system allows no more of it; plain memory works too,
    /// only slower.
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self, CudaError> {
        gpu.bind()?;
        // Not write-combined, since the CPU computes from it too; portable over contexts.
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE;
        // SAFETY: the context is current.
        let ptr = unsafe { result::malloc_host(len.max(1), flags) }
            .map_err(CudaError::of_allocation("pinned RAM", len))?
            .cast::<u8>();
        let gpu = Arc::clone(gpu);
        let mut pinned = gpu.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        pinned.insert(ptr.addr(), len);
        drop(pinned);
        Ok(Self {
            memory: Pinned { gpu, ptr, len },
            filled: 0,
        })
    }

    /// Bytes that are still to be written.
    pub fn left(&self) -> usize {
        self.memory.len - self.filled
    }

    /// Writes `bytes` behind what was written before.
    ///
    /// # Panics
    /// If there is no room for them.
    pub fn append(&mut self, bytes: &[u8]) {
        assert!(
            bytes.len() <= self.left(),
            "BUG: {} bytes for {} of pinned RAM",
            bytes.len(),
            self.left()
        );
        // SAFETY: in range, and nobody else knows of this memory.
        unsafe {
            let to = self.memory.ptr.add(self.filled);
            to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        self.filled += bytes.len();
    }

    /// The memory; what was not written is zero.
    pub fn finish(self) -> Pinned {
        // SAFETY: the rest of the allocation.
        unsafe {
            let rest = self.memory.ptr.add(self.filled);
            rest.write_bytes(0, self.memory.len - self.filled);
        }
        self.memory
    }
}

/// Work that the GPU does in order.
#[derive(Debug)]
pub struct Stream {
    gpu: Arc<Gpu>,
    raw: sys::CUstream,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver locks for itself.
unsafe impl Sync for Stream {}

impl Stream {
    /// A new stream, which does not wait for the default one.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        gpu.bind()?;
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(CudaError::of("creating a stream"))?;
        Ok(Self {
            gpu: Arc::clone(gpu),
            raw,
        })
    }

    /// The GPU.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    pub(super) fn raw(&self) -> Result<sys::CUstream, CudaError> {
        self.gpu.bind()?;
        Ok(self.raw)
    }

    /// Waits until the GPU has done all that was put on the stream.
    ///
    /// # Errors
    /// What that work ran into.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let raw = self.raw()?;
        // SAFETY: the stream lives.
        unsafe { result::stream::synchronize(raw) }.map_err(CudaError::of("computing on the GPU"))
    }

    /// Has the driver begin what was put on the stream, without waiting for it: the one of Windows
    /// (WDDM) gathers launches, and may hold them until something is asked of the stream.
    ///
    /// # Errors
    /// What work of the stream ran into.
    pub fn flush(&self) -> Result<(), CudaError> {
        let raw = self.raw()?;
        // SAFETY: the stream lives.
        match unsafe { sys::cuStreamQuery(raw) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(()),
            asked => asked
                .result()
                .map_err(CudaError::of("computing on the GPU")),
        }
    }

    /// Marks this point of the stream.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn record(&self) -> Result<Event, CudaError> {
        let event = Event::new(&self.gpu)?;
        let raw = self.raw()?;
        // SAFETY: both live.
        unsafe { result::event::record(event.raw, raw) }
            .map_err(CudaError::of("marking a point"))?;
        Ok(event)
    }

    /// Has all later work of this stream wait for `event`.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn wait(&self, event: &Event) -> Result<(), CudaError> {
        let raw = self.raw()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both live.
        unsafe { result::stream::wait_event(raw, event.raw, flags) }
            .map_err(CudaError::of("ordering streams"))
    }

    /// Copies host bytes to the GPU.
    ///
    /// # Safety
    /// `from` must live and stay as it is until the stream has passed the copy.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Panics
    /// If the lengths differ.
    pub unsafe fn upload<T: Plain>(&self, from: &[T], to: Slice<'_, T>) -> Result<(), CudaError> {
        assert_eq!(from.len(), to.len, "BUG: an upload of another length");
        let raw = self.raw()?;
        // SAFETY: the ranges are as long, and the caller keeps `from`.
        unsafe { result::memcpy_htod_async(to.ptr, from, raw) }
            .map_err(CudaError::of("copying to the GPU"))
    }

    /// Copies from the GPU into host memory.
    ///
    /// # Safety
    /// `to` must live, and nobody may touch it, until the stream has passed the copy.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Panics
    /// If the lengths differ.
    pub unsafe fn download<T: Plain>(
        &self,
        from: Slice<'_, T>,
        to: &mut [T],
    ) -> Result<(), CudaError> {
        assert_eq!(to.len(), from.len, "BUG: a download of another length");
        let raw = self.raw()?;
        // SAFETY: the ranges are as long, and the caller leaves `to` alone.
        unsafe { result::memcpy_dtoh_async(to, from.ptr, raw) }
            .map_err(CudaError::of("copying from the GPU"))
    }
}

impl Stream {
    /// Copies within the GPU.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn copy_within(&self, from: Slice<'_, u8>, to: Slice<'_, u8>) -> Result<(), CudaError> {
        assert_eq!(from.len, to.len, "BUG: a copy of another length");
        let raw = self.raw()?;
        // SAFETY: both ranges lie in buffers, whose freeing waits for the GPU.
        unsafe { result::memcpy_dtod_async(to.ptr, from.ptr, from.len, raw) }
            .map_err(CudaError::of("copying on the GPU"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.synchronize();
        if let Ok(raw) = self.raw() {
            // SAFETY: created in `new`.
            let _ = unsafe { result::stream::destroy(raw) };
        }
    }
}

/// A point in a stream.
#[derive(Debug)]
pub struct Event {
    gpu: Arc<Gpu>,
    raw: sys::CUevent,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above; the driver locks for itself.
unsafe impl Sync for Event {}

impl Event {
    fn new(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        gpu.bind()?;
        // A thread that waits for it sleeps: the processor has experts of its own to compute.
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32
            | sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current, and `raw` takes the handle.
        unsafe { sys::cuEventCreate(&mut raw, flags) }
            .result()
            .map_err(CudaError::of("creating an event"))?;
        Ok(Self {
            gpu: Arc::clone(gpu),
            raw,
        })
    }

    /// Waits on the host until the GPU has passed the point.
    ///
    /// # Errors
    /// What the work before it ran into.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.gpu.bind()?;
        // SAFETY: the event lives.
        unsafe { result::event::synchronize(self.raw) }
            .map_err(CudaError::of("computing on the GPU"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: created in `new`; destroying a pending event is allowed.
            let _ = unsafe { result::event::destroy(self.raw) };
        }
    }
}
