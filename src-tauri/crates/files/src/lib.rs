//! What every crate here needs of a file system, once: [`replace`] and its temporary files,
//! [reads and writes by position](mod@position), [free space](free_bytes), and [byte counts](bytes).
#![warn(missing_docs)]

mod atomic;
pub mod bytes;
pub mod position;
mod space;

pub use atomic::{Access, Replacement, remove_stale, replace, sync_folder, temporary_in};
pub use space::free_bytes;
