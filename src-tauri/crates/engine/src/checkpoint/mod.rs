//! A checkpoint in the format of the Mixtral-8x7B HQQ offloading demo: opened, checked, read.
//!
//! A checkpoint is a folder with `config.json`, `model.safetensors.index.json`, one *trunk* file
//! (embeddings, norms, routers, attention; full tensor names) and one file for every expert (bare
//! names `w1.W_q`, ...). [`Checkpoint::open`] maps all files, checks every tensor's name, type and
//! shape against the configuration, and every f16 scale and zero for NaN and infinity. It reads
//! headers and those f16 values only, by positioned reads, so that opening leaves nothing of the
//! maps resident.
//!
//! An expert's weights are used in place in the map ([`Checkpoint::expert_mapped`]) or copied
//! into a slot ([`Checkpoint::read_expert`], [`Checkpoint::expert_view`]): its tensors lie next to
//! each other in its file, so one contiguous *data range* holds them all.
//!
//! # Files that change while they are open
//! A map shows a file as it is now. Whoever replaces a checkpoint must write new files and rename
//! them: bytes overwritten in place are computed with as they are, and when a mapped file is cut
//! short the system ends the process (SIGBUS) at the next access past its new end. Lengths are
//! checked at open and, in [`Checkpoint::read_expert`], at each read, which gives an error instead.

mod error;
mod expert;
pub(crate) mod file;
mod header;
mod index;
pub(crate) mod json;
mod matrix;
mod open_files;
mod summary;
mod trunk;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::Mmap;
use octet_kernels::QMatrix;

pub use error::CheckpointError;
pub use file::{TensorFile, read_small};
pub use header::{Header, HeaderError, MAX_HEADER_BYTES, Shape, TensorInfo, parse_header};
pub use index::{Index, IndexError, parse_index};
pub use json::{shorten, without_byte_order_mark};
pub use summary::{QuantKind, QuantSummary};

use crate::config::Config;
use expert::ExpertFile;
pub(crate) use trunk::EMBED_TOKENS;
use trunk::TrunkFile;

/// The configuration's file name.
pub const CONFIG_FILE: &str = "config.json";
/// The index's file name.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The smallest page of the systems supported.
const PAGE_BYTES: usize = 4096;

const GENERATION_FILE: &str = "generation_config.json";
const MAX_CONFIG_BYTES: u64 = 1 << 20;
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// One expert of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExpertId {
    /// Its layer, from 0.
    pub layer: u16,
    /// Its number within the layer, from 0.
    pub expert: u16,
}

impl fmt::Display for ExpertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} expert {}", self.layer, self.expert)
    }
}

/// An expert's matrices: `expert(x) = w2(silu(w1 x) * w3 x)`.
#[derive(Debug, Clone, Copy)]
pub struct ExpertWeights<'a> {
    /// Gate projection, (intermediate, hidden).
    pub w1: QMatrix<'a>,
    /// Down projection, (hidden, intermediate).
    pub w2: QMatrix<'a>,
    /// Up projection, (intermediate, hidden).
    pub w3: QMatrix<'a>,
}

/// What a layer has besides its experts.
#[derive(Debug, Clone, Copy)]
pub struct LayerTrunk<'a> {
    /// Norm in front of attention, (hidden).
    pub input_layernorm: &'a [f32],
    /// Norm in front of the experts, (hidden).
    pub post_attention_layernorm: &'a [f32],
    /// The router, little-endian f16, (n_experts, hidden).
    pub gate: &'a [u8],
    /// Query projection, (n_heads * head_dim, hidden).
    pub q_proj: QMatrix<'a>,
    /// Key projection, (n_kv_heads * head_dim, hidden).
    pub k_proj: QMatrix<'a>,
    /// Value projection, (n_kv_heads * head_dim, hidden).
    pub v_proj: QMatrix<'a>,
    /// Output projection, (hidden, n_heads * head_dim).
    pub o_proj: QMatrix<'a>,
}

/// Number and size of a checkpoint's tensor files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileTotals {
    /// How many: the trunk and one for every expert.
    pub count: usize,
    /// Their lengths together.
    pub bytes: u64,
}

/// An open checkpoint. All methods take `&self` and may be called from many threads.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Config,
    /// What is left out of account, and why.
    note: Option<String>,
    trunk: TrunkFile,
    /// Layer by layer, `n_experts` each.
    experts: Vec<ExpertFile>,
    expert_bytes: usize,
}

impl Checkpoint {
    /// Opens and checks the checkpoint in `dir`.
    ///
    /// Norms, and where they are bf16 or f32 also routers, embeddings and output matrix, are
    /// converted once into memory of their own (norms to f32, the others to f16); all else stays
    /// in the files.
    ///
    /// # Errors
    /// [`CheckpointError`] names the file and tensor, what was expected and what was found. Of
    /// several faulty expert files the first one is reported.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let (mut config, index) = read_config_and_index(dir)?;
        let note = read_end_tokens(dir, &mut config).err();
        let trunk_file = index.file(EMBED_TOKENS).ok_or_else(|| {
            let why = format!(
                "{INDEX_FILE} does not place `{EMBED_TOKENS}` in any file; choose a folder with a \
                 Mixtral checkpoint"
            );
            CheckpointError::NotACheckpoint {
                dir: dir.to_owned(),
                why,
            }
        })?;
        let places = expert_places(dir, &config, &index)?;
        let trunk = TrunkFile::open(dir.join(trunk_file), &config)?;
        let experts = open_experts(&places, &config)?;
        let expert_bytes = experts.iter().map(|e| e.data().len()).max().unwrap_or(0);
        Ok(Self {
            dir: dir.to_owned(),
            config,
            note,
            trunk,
            experts,
            expert_bytes,
        })
    }

    /// What of the folder is left out of account, and why.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// All experts, layer by layer.
    pub fn expert_ids(&self) -> impl Iterator<Item = ExpertId> + use<> {
        let (n_layers, n_experts) = (self.config.n_layers, self.config.n_experts);
        (0..n_layers).flat_map(move |layer| {
            (0..n_experts).map(move |expert| ExpertId {
                layer: layer as u16,
                expert: expert as u16,
            })
        })
    }

    /// Number and size of the tensor files.
    pub fn files(&self) -> FileTotals {
        FileTotals {
            count: 1 + self.experts.len(),
            bytes: self.trunk.len_bytes()
                + self.experts.iter().map(ExpertFile::len_bytes).sum::<u64>(),
        }
    }

    /// Bytes of the trunk file.
    pub fn trunk_bytes(&self) -> u64 {
        self.trunk.len_bytes()
    }

    /// Bytes of all experts' data ranges together.
    pub fn experts_total_bytes(&self) -> u64 {
        self.experts
            .iter()
            .map(|expert| expert.data().len() as u64)
            .sum()
    }

    /// How the matrices are quantized.
    pub fn quant_summary(&self) -> QuantSummary {
        QuantSummary {
            experts: summary::kinds(self.experts.iter().flat_map(ExpertFile::matrices)),
            attention: summary::kinds(self.trunk.matrices()),
        }
    }

    /// The embedding matrix, little-endian f16, (vocab, hidden).
    pub fn embed_tokens(&self) -> &[u8] {
        self.trunk.embed_tokens()
    }

    /// The output matrix, little-endian f16, (vocab, hidden).
    pub fn lm_head(&self) -> &[u8] {
        self.trunk.lm_head()
    }

    /// Reads the output matrix and checks that every value is finite.
    ///
    /// # Errors
    /// [`CheckpointError::NonFinite`] for the first that is not.
    pub fn check_lm_head(&self) -> Result<(), CheckpointError> {
        self.trunk.check_lm_head()
    }

    /// The norm in front of the output matrix, (hidden).
    pub fn final_norm(&self) -> &[f32] {
        self.trunk.final_norm()
    }

    /// The trunk file as mapped, in which the attention matrices lie.
    pub fn trunk_data(&self) -> &[u8] {
        self.trunk.map()
    }

    /// The trunk's part of a layer.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn layer(&self, layer: usize) -> LayerTrunk<'_> {
        self.trunk.layer(layer)
    }

    /// Bytes of the largest expert's data range: what a slot for any expert takes.
    pub fn expert_bytes(&self) -> usize {
        self.expert_bytes
    }

    /// Bytes of one expert's data range.
    ///
    /// # Panics
    /// If there is no such expert; so do all methods that take an [`ExpertId`].
    pub fn expert_len(&self, id: ExpertId) -> usize {
        self.expert(id).data().len()
    }

    /// An expert's matrices in the mapped file: pages come in as they are touched.
    pub fn expert_mapped(&self, id: ExpertId) -> ExpertWeights<'_> {
        self.expert(id).mapped()
    }

    /// An expert's matrices in `bytes`, whose first [`Self::expert_len`] bytes are a copy of its
    /// data range.
    ///
    /// # Panics
    /// If `bytes` is shorter than that.
    pub fn expert_view<'a>(&self, id: ExpertId, bytes: &'a [u8]) -> ExpertWeights<'a> {
        self.expert(id).view(bytes)
    }

    /// An expert's data range in the mapped file.
    pub fn expert_data(&self, id: ExpertId) -> &[u8] {
        let expert = self.expert(id);
        &expert.map()[expert.data()]
    }

    /// Copies an expert's data range into the first [`Self::expert_len`] bytes of `buf` and checks
    /// its scales and zeros again.
    ///
    /// Reads by position, not through the map: the copy is the only memory it costs.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] or [`CheckpointError::Changed`] where the file is gone, cut or
    /// unreadable; [`CheckpointError::NonFinite`] where it was damaged since.
    ///
    /// # Panics
    /// If `buf` is shorter than [`Self::expert_len`].
    pub fn read_expert(&self, id: ExpertId, buf: &mut [u8]) -> Result<(), CheckpointError> {
        self.expert(id).read(buf)
    }

    /// Reads an expert's data range for memory that must not be read before it was written: `take`
    /// gets one piece after the other. [`Checkpoint::check_expert`] is left to do.
    ///
    /// # Errors
    /// What the system reports; then some pieces are missing.
    pub fn read_expert_by_pieces(
        &self,
        id: ExpertId,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), CheckpointError> {
        self.expert(id).read_by_pieces(take)
    }

    /// Checks `bytes`, a copy of an expert's data range.
    ///
    /// # Errors
    /// [`CheckpointError::NonFinite`].
    pub fn check_expert(&self, id: ExpertId, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.expert(id).check(bytes)
    }

    /// Asks the system to start reading an expert's file into its cache, where it can (Unix).
    pub fn advise_will_need(&self, id: ExpertId) {
        let expert = self.expert(id);
        #[cfg(unix)]
        {
            let data = expert.data();
            // Advice only: whoever needs the bytes reads them anyway, and sees what goes wrong.
            let _ = expert
                .map()
                .advise_range(memmap2::Advice::WillNeed, data.start, data.len());
        }
        #[cfg(not(unix))]
        let _ = expert;
    }

    /// Has the system read `part` of an expert, counted from the first byte of its data, into
    /// memory, and waits for it.
    pub fn bring_in(&self, id: ExpertId, part: Range<usize>) {
        let expert = self.expert(id);
        let data = expert.data();
        let part = data.start + part.start..(data.start + part.end).min(data.end);
        // A call for the whole part costs less than a fault for every few pages, where there is one.
        #[cfg(target_os = "linux")]
        if expert
            .map()
            .advise_range(memmap2::Advice::PopulateRead, part.start, part.len())
            .is_ok()
        {
            return;
        }
        let touched = expert.map()[part].iter().step_by(PAGE_BYTES);
        std::hint::black_box(touched.fold(0, |sum: u8, byte| sum ^ byte));
    }

    /// Tells the system that `slice`, a part of one of this checkpoint's maps, is not needed for
    /// now: its pages leave this process's memory (Unix; elsewhere nothing happens) and come
    /// back when they are touched. A slice that is in no map is left alone.
    pub fn advise_dont_need(&self, slice: &[u8]) {
        let maps =
            std::iter::once(self.trunk.map()).chain(self.experts.iter().map(ExpertFile::map));
        for map in maps {
            let Some(offset) = (slice.as_ptr() as usize).checked_sub(map.as_ptr() as usize) else {
                continue;
            };
            if offset < map.len() && slice.len() <= map.len() - offset {
                dont_need(map, offset, slice.len());
                return;
            }
        }
    }

    fn expert(&self, id: ExpertId) -> &ExpertFile {
        let (layer, expert) = (usize::from(id.layer), usize::from(id.expert));
        assert!(
            layer < self.config.n_layers && expert < self.config.n_experts,
            "BUG: {id} in a model of {} layers with {} experts",
            self.config.n_layers,
            self.config.n_experts
        );
        &self.experts[layer * self.config.n_experts + expert]
    }
}

#[cfg(unix)]
fn dont_need(map: &Mmap, offset: usize, len: usize) {
    // SAFETY: the map shares an unmodified file, so dropped pages come back with the same bytes.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
}

#[cfg(not(unix))]
fn dont_need(_map: &Mmap, _offset: usize, _len: usize) {}

fn read_config_and_index(dir: &Path) -> Result<(Config, Index), CheckpointError> {
    let not_a_checkpoint = |why: String| CheckpointError::NotACheckpoint {
        dir: dir.to_owned(),
        why,
    };
    if !dir.is_dir() {
        let why = if dir.exists() {
            "it is not a folder"
        } else {
            "there is no such folder"
        };
        return Err(not_a_checkpoint(format!(
            "{why}; choose the folder that holds {CONFIG_FILE}"
        )));
    }
    let missing = |name: &str| {
        not_a_checkpoint(format!(
            "{name} is missing; choose the folder that holds {CONFIG_FILE}, {INDEX_FILE} and the \
             model-*.safetensors files, or download {name} again"
        ))
    };

    let path = dir.join(CONFIG_FILE);
    let bytes = file::read_small(&path, MAX_CONFIG_BYTES)?.ok_or_else(|| missing(CONFIG_FILE))?;
    let config =
        Config::from_json(&bytes).map_err(|source| CheckpointError::Config { path, source })?;

    let path = dir.join(INDEX_FILE);
    let bytes = file::read_small(&path, MAX_INDEX_BYTES)?.ok_or_else(|| missing(INDEX_FILE))?;
    let index = parse_index(&bytes).map_err(|source| CheckpointError::Index { path, source })?;
    Ok((config, index))
}

/// Adds the end tokens of `generation_config.json`, or says why it is left out of account: the model
/// runs without it.
fn read_end_tokens(dir: &Path, config: &mut Config) -> Result<(), String> {
    let path = dir.join(GENERATION_FILE);
    let ignored = |why: String| {
        format!(
            "{} is ignored, so an answer may run on past its end: {why}; correct it, or remove it",
            path.display()
        )
    };
    let bytes = file::read_small(&path, MAX_CONFIG_BYTES).map_err(|e| ignored(e.to_string()))?;
    let Some(bytes) = bytes else {
        return Ok(());
    };
    config
        .add_end_tokens(&bytes)
        .map_err(|error| ignored(error.to_string()))
}

/// An expert's file and the full name of the tensor by which the index tells it.
struct ExpertPlace {
    path: PathBuf,
    tensor: String,
}

/// Where the index places the experts, layer by layer.
fn expert_places(
    dir: &Path,
    config: &Config,
    index: &Index,
) -> Result<Vec<ExpertPlace>, CheckpointError> {
    let path = || dir.join(INDEX_FILE);
    let conflict = |conflict| CheckpointError::IndexConflict {
        path: path(),
        conflict,
    };
    for name in index.tensors() {
        refuse_beyond(name, config).map_err(conflict)?;
    }
    let mut by_file: BTreeMap<&str, ExpertId> = BTreeMap::new();
    let mut places = Vec::new();
    for (layer, expert) in
        (0..config.n_layers).flat_map(|l| (0..config.n_experts).map(move |e| (l, e)))
    {
        let prefix = format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.w1");
        let tensor = format!("{prefix}.W_q");
        let Some(file) = index.file(&tensor) else {
            if index.file(&format!("{prefix}.weight")).is_some() {
                let why = format!(
                    "`{prefix}.weight` is not quantized; choose a folder with the HQQ-quantized \
                     offloading-demo checkpoint"
                );
                return Err(CheckpointError::NotACheckpoint {
                    dir: dir.to_owned(),
                    why,
                });
            }
            return Err(CheckpointError::MissingTensor {
                path: path(),
                tensor,
            });
        };
        // The configuration's limits keep both numbers below 2^16.
        let id = ExpertId {
            layer: layer as u16,
            expert: expert as u16,
        };
        if let Some(other) = by_file.insert(file, id) {
            return Err(conflict(format!(
                "{other} and {id} are both placed in {file}"
            )));
        }
        places.push(ExpertPlace {
            path: dir.join(file),
            tensor,
        });
    }
    Ok(places)
}

/// Refuses a tensor of a layer or expert that the configuration does not have: the checkpoint
/// would run, as another model.
fn refuse_beyond(tensor: &str, config: &Config) -> Result<(), String> {
    let number_after = |key: &str| -> Option<usize> {
        let (_, rest) = tensor.split_once(key)?;
        rest.split('.').next()?.parse().ok()
    };
    for (key, limit, what) in [
        ("model.layers.", config.n_layers, "layers"),
        (".experts.", config.n_experts, "experts"),
    ] {
        if number_after(key).is_some_and(|number| number >= limit) {
            return Err(format!(
                "tensor `{}` is beyond the {limit} {what} of {CONFIG_FILE}; the two files belong \
                 to different checkpoints",
                json::shorten(tensor)
            ));
        }
    }
    Ok(())
}

/// Opens all expert files, a few at a time. The error, if any, is that of the first faulty one.
fn open_experts(
    places: &[ExpertPlace],
    config: &Config,
) -> Result<Vec<ExpertFile>, CheckpointError> {
    const MAX_THREADS: usize = 8;
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_THREADS)
        .min(places.len());
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let opened = Mutex::new(Vec::with_capacity(places.len()));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(place) = places.get(i) else { break };
            let result = ExpertFile::open(place.path.clone(), &place.tensor, config);
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            opened
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .push((i, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    // Numbers are handed out in order, so every file in front of a faulty one was opened too.
    let mut opened = opened.into_inner().unwrap_or_else(|e| e.into_inner());
    opened.sort_by_key(|(i, _)| *i);
    opened.into_iter().map(|(_, result)| result).collect()
}
