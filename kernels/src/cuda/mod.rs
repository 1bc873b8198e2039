//! The same products on an NVIDIA GPU, and what else a decoder layer needs there.
//!
//! Nothing of NVIDIA's is needed to build: the kernels are PTX for compute 7.5, made from
//! `kernels/cuda/*.cu` and committed beside them, and the driver's library is looked for when the
//! program runs. [`is_available`] says whether it was found; [`Gpu::open`] takes a GPU.
//!
//! - [`Gpu`]: a GPU. [`Buffer`]: memory on it. [`Pinned`]: host memory that it can read at full
//!   speed. [`Stream`]: work in order. [`Event`]: a point in a stream. [`Graph`]: launches and
//!   copies that were recorded, to be put on a stream by one call.
//! - [`DeviceMatrix`], [`DeviceExpert`]: where an HQQ matrix or an expert lies on the GPU;
//!   [`Placement`] lays them out.
//! - [`Ops`]: the kernels, one method each.
//!
//! # What makes it sound
//! Work is asynchronous, but freeing a [`Buffer`] waits for all work of its GPU, and a launch
//! borrows its buffers: so no kernel sees freed memory. Lengths are checked before each launch.
//! Copies between pinned memory and the GPU are `unsafe` where the host side has to be left alone
//! until the stream has passed them, and so is launching a [`Graph`], which borrows nothing.

mod device;
mod error;
mod graph;
mod jobs;
mod list;
mod matrix;
mod ops;

pub use device::{Buffer, Event, Gpu, Pinned, Slice, Stream, Unfilled};
pub use error::CudaError;
pub use graph::Graph;
pub use jobs::{
    AttentionShape, Cache, FlashAttention, MAX_PICKS, MAX_TOP_K, Moment, PickedExperts, Picks,
    Reuse, RmsNorm, RopeAppend, RouterJob, Routing, Rows, SplitAttention,
};
pub use list::{Listed, list, memory_of, supported_version};
pub use matrix::{DeviceExpert, DeviceMatrix, Placement};
pub use ops::Ops;

/// Whether the NVIDIA driver's library is on this machine.
pub fn is_available() -> bool {
    // SAFETY: loads and unloads a library of the system's driver, which has no other effect.
    unsafe { cudarc::driver::sys::is_culib_present() }
}
