//! Work space that is kept from call to call.

use std::marker::PhantomData;

use crate::cpu::{Kernels, Level, TileSpace, XBlock};

/// Bytes to which every carved range is aligned: a cache line, and the widest vector.
pub(crate) const ALIGN: usize = 64;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

/// Work space for products: it grows to what the largest call so far needed and is never given
/// back, so that a warm call allocates nothing. One a thread of control; it also says which
/// kernels run.
#[derive(Debug)]
pub struct Scratch {
    pub(crate) kernels: &'static Kernels,
    shared: Arena,
    threads: Arena,
}

impl Default for Scratch {
    /// Empty work space, for the best kernels here (see [`crate::features`]).
    fn default() -> Self {
        Self::with_level(Level::best())
    }
}

impl Scratch {
    /// Empty work space, for the kernels of `level` (of the best one below it, where this machine
    /// lacks it): to compare and to test them.
    pub fn with_level(level: Level) -> Self {
        Self {
            kernels: Kernels::of(level),
            shared: Arena::default(),
            threads: Arena::default(),
        }
    }

    /// Space shared by all threads, and space for them to divide, at least so many bytes.
    pub(crate) fn spaces(&mut self, shared: usize, threads: usize) -> (Space<'_>, Space<'_>) {
        (self.shared.space(shared), self.threads.space(threads))
    }
}

#[derive(Debug, Default)]
struct Arena {
    lines: Vec<Line>,
}

impl Arena {
    fn space(&mut self, bytes: usize) -> Space<'_> {
        let lines = bytes.div_ceil(ALIGN);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; ALIGN]));
        }
        Space {
            base: self.lines.as_mut_ptr().cast(),
            bytes: self.lines.len() * ALIGN,
            life: PhantomData,
        }
    }
}

/// Adds up ranges of a space before the space exists.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Carver {
    bytes: usize,
}

impl Carver {
    /// The offset of a new range of `len` values.
    pub(crate) fn add<T: Pod>(&mut self, len: usize) -> usize {
        let offset = self.bytes;
        self.bytes += (len * size_of::<T>()).next_multiple_of(ALIGN);
        offset
    }

    /// Bytes of all ranges, a multiple of [`ALIGN`].
    pub(crate) fn bytes(self) -> usize {
        self.bytes
    }
}

/// A type for which every bit pattern is a value.
///
/// # Safety
/// As the name says; and its alignment divides [`ALIGN`].
pub(crate) unsafe trait Pod: Copy + Send + Sync {}
// SAFETY: every bit pattern is a value.
unsafe impl Pod for i8 {}
// SAFETY: every bit pattern is a value.
unsafe impl Pod for i16 {}
// SAFETY: every bit pattern is a value.
unsafe impl Pod for f32 {}
// SAFETY: arrays of numbers without padding, aligned to 64 bytes.
unsafe impl Pod for XBlock {}
// SAFETY: as above.
unsafe impl Pod for TileSpace {}
// SAFETY: an array adds nothing to its element.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// Borrowed bytes that several threads carve up. What a range holds before it is written is
/// unspecified.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space<'a> {
    base: *mut u8,
    bytes: usize,
    life: PhantomData<&'a mut [u8]>,
}

// SAFETY: a `Space` is an exclusive borrow of plain bytes; who reaches which range when is the
// contract of its unsafe methods.
unsafe impl Send for Space<'_> {}
// SAFETY: as above.
unsafe impl Sync for Space<'_> {}

impl<'a> Space<'a> {
    /// The part `[offset, offset + bytes)`.
    pub(crate) fn part(self, offset: usize, bytes: usize) -> Self {
        assert!(
            offset.is_multiple_of(ALIGN),
            "BUG: scratch offset {offset} is not aligned"
        );
        assert!(
            bytes <= self.bytes && offset <= self.bytes - bytes,
            "BUG: scratch range {offset}+{bytes} of {}",
            self.bytes
        );
        Self {
            base: self.base.wrapping_add(offset),
            bytes,
            life: PhantomData,
        }
    }

    /// `len` values at byte `offset`.
    ///
    /// # Safety
    /// Nobody holds an exclusive reference to a value of the range while the result lives.
    pub(crate) unsafe fn slice<T: Pod>(self, offset: usize, len: usize) -> &'a [T] {
        let part = self.part(offset, len * size_of::<T>());
        // SAFETY: in bounds and aligned by `part`; initialized memory of a `Pod` type; aliasing is
        // the caller's promise.
        unsafe { std::slice::from_raw_parts(part.base.cast(), len) }
    }

    /// `len` values at byte `offset`, to write.
    ///
    /// # Safety
    /// Nobody else holds a reference to a value of the range while the result lives.
    pub(crate) unsafe fn slice_mut<T: Pod>(self, offset: usize, len: usize) -> &'a mut [T] {
        let part = self.part(offset, len * size_of::<T>());
        // SAFETY: as in `slice`.
        unsafe { std::slice::from_raw_parts_mut(part.base.cast(), len) }
    }
}

impl Space<'_> {
    /// Writes the `i`-th f32.
    ///
    /// # Safety
    /// No other thread writes it, and nobody holds a reference to it.
    pub(crate) unsafe fn set_f32(self, i: usize, value: f32) {
        assert!(
            4 * (i + 1) <= self.bytes,
            "BUG: f32 {i} of {} bytes",
            self.bytes
        );
        // SAFETY: in bounds and aligned; the rest is the caller's promise.
        unsafe { self.base.cast::<f32>().add(i).write(value) }
    }
}

/// An output that several threads write, each its own elements.
#[derive(Debug)]
pub(crate) struct Output<'a, T = f32> {
    base: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Output<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Output<'_, T> {}

// SAFETY: an exclusive borrow of plain values; `set` makes disjoint writes the caller's duty.
unsafe impl<T: Pod> Send for Output<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Pod> Sync for Output<'_, T> {}

impl<'a, T: Pod> Output<'a, T> {
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        Self {
            base: values.as_mut_ptr(),
            len: values.len(),
            life: PhantomData,
        }
    }

    /// Writes element `i`.
    ///
    /// # Safety
    /// No other thread writes element `i` in the same region.
    #[inline]
    pub(crate) unsafe fn set(self, i: usize, value: T) {
        assert!(i < self.len, "BUG: output {i} of {}", self.len);
        // SAFETY: in bounds; the caller promises that no other thread writes it.
        unsafe { self.base.add(i).write(value) }
    }

    /// Writes the elements from `i` on.
    ///
    /// # Safety
    /// No other thread writes one of them in the same region.
    pub(crate) unsafe fn set_run(self, i: usize, values: &[T]) {
        assert!(
            values.len() <= self.len && i <= self.len - values.len(),
            "BUG: outputs {i}+{} of {}",
            values.len(),
            self.len
        );
        // SAFETY: in bounds; the caller promises that no other thread writes them, and `values` is
        // a shared reference, so it is not what is written.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.base.add(i), values.len()) }
    }
}
