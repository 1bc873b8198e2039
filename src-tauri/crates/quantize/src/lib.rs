//! HQQ quantization: float Mixtral checkpoints to the offloading demo format.
//!
//! [`Plan::new`] finds and checks everything in the source's headers; [`Plan::run`] does the work,
//! with memory that depends on the largest matrix and the number of threads and not on the model's
//! size, and goes on where an earlier run ended. [`hqq::quantize`] quantizes one matrix.
//!
//! ```text
//! source   files and headers -> which bytes are which matrix -> f32, a matrix at a time
//! plan     checks, the layout of every output file, jobs
//! run      workers: read -> hqq -> write -> read back and compare (verify)
//! journal  which files are done; output: files under another name until they are
//! ```
#![warn(missing_docs)]

mod error;
pub mod hqq;
mod journal;
mod options;
mod output;
pub mod pack;
mod plan;
mod run;
mod source;
mod summary;
mod verify;

pub use error::QuantizeError;
pub use journal::STATE_FILE;
pub use options::{Options, PartOptions};
pub use plan::Plan;
pub use run::{Estimate, Observer, Progress};
pub use summary::{PartSummary, Summary};
