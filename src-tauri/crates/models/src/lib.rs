//! Models: which there are, how they come here, and what becomes of them.
//!
//! [`Manager`] is the whole of it, for a window and for a command line: a catalogue, downloads
//! that end complete and byte-identical or in a clear error with all that arrived kept, and a
//! library that verifies, repairs, imports, moves and deletes.
//!
//! # Where things are
//! The models folder is a Hugging Face cache (see `cache`), so that other programs use what
//! Octet downloads and the other way round. Where the user has one, it is used as it is.
//!
//! Names of folders, the layout of the cache, the look-up of a file in it and the token file are
//! those of Hugging Face's own crate, [`hf_hub`] 0.5 without its HTTP client. The client serves
//! less than downloads need here:
//! - 0.5 tells no sizes and hashes of files, has no time-outs, and brings a second HTTP stack.
//! - 1.0 cannot tell SHA-256 of large files (of a listing it reads neither `?blobs=true` nor the
//!   tree's `lfs.oid`). Its stream of a file takes a range, but hides whether the server heeded it,
//!   and the entity tag that a resumed file depends on; and it asks a Xet store where there is one,
//!   past a mirror. That part, 57 crates and a C library, cannot be switched off.
//! - Both leave redirects to the HTTP client. Here they are followed by hand, because the hub's own
//!   answer carries the hash, and so that the token goes no further.
//!
//! # What can be relied on
//! - A file gets its name when its hash is the published one, never before.
//! - A download that ends early, by whatever cause, goes on where it ended. What a killed program
//!   has lost is what had not reached the system: some chunks a file.
//! - A file is fetched once at a time, by this program or another (locks are those that
//!   `huggingface_hub` takes).
//! - The access token goes to the hub's own address and nowhere else, and is never logged.
//! - Memory does not grow with the size of a model.
//!
//! # Modules
//! `hub` speaks the protocol; `transfer` fetches files; `download` makes a model of them, with
//! `remote` and `tokenizer_source`; `library`, `verify`, `import` and `relocate` are what is done
//! with models that are here; `manager` runs all of it and tells how far it is.
#![warn(missing_docs)]

mod atomic_file;
mod cache;
mod catalogue;
mod content_hash;
mod disk;
mod download;
mod environment;
mod error;
mod fit;
mod hub;
mod import;
mod library;
mod manager;
mod names;
mod recommend;
mod record;
mod relocate;
mod remote;
mod settings_file;
mod token;
mod tokenizer_source;
mod transfer;
mod verify;
mod views;
mod work;

pub use catalogue::{CatalogueItem, TokenizerCheck, TokenizerSources};
pub use environment::{DEFAULT_ENDPOINT, Environment, Options};
pub use error::{
    EndpointFault, ForeignFault, InvalidInput, ModelsError, Result, TokenizerFault, TriedTokenizer,
    Use, Wanted,
};
pub use import::ImportHow;
pub use library::Lease;
pub use manager::{DownloadEnd, Manager};
pub use names::{RepoName, RepoNameFault};
pub use transfer::TransferOptions;
pub use views::*;
