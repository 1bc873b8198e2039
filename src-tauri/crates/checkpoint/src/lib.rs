//! A checkpoint on disk: opened, checked, read.
//!
//! Two formats are read: the folders of the Mixtral-8x7B HQQ offloading demo ([`hqq`]) and GGUF files
//! ([`gguf`]). [`Checkpoint::open`] maps all files and checks every tensor's name, type and shape
//! against the model's [`ModelSpec`]. It reads headers and small tensors only, by positioned reads,
//! so that opening leaves nothing of the maps resident.
//!
//! An expert's weights are used in place in the map ([`Checkpoint::expert_mapped`]) or copied
//! into a slot ([`Checkpoint::read_expert`], [`Checkpoint::expert_view`]). Its bytes lie in one range
//! of a file or in several; a slot holds them one after the other.
//!
//! # Files that change while they are open
//! A map shows a file as it is now. Whoever replaces a checkpoint must write new files and rename
//! them: bytes overwritten in place are computed with as they are, and when a mapped file is cut
//! short the system ends the process (SIGBUS) at the next access past its new end. Lengths are
//! checked at open and, in [`Checkpoint::read_expert`], at each read, which gives an error instead.

#![warn(missing_docs)]

mod error;
mod file;
mod gguf;
mod header;
pub mod hqq;
mod open_files;
pub mod synth;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use octet_kernels::{BlockMatrix, Matrix, QMatrix};
use serde::Serialize;

pub use error::CheckpointError;
pub use file::{TensorFile, read_small};
pub use gguf::is_at as is_gguf;
pub use header::{Header, HeaderError, MAX_HEADER_BYTES, Shape, TensorInfo, parse_header};
pub use hqq::{Index, IndexError, QuantKind, parse_index};
pub use octet_spec as spec;
pub use octet_spec::json::{self, shorten, without_byte_order_mark};

use gguf::GgufModel;
pub(crate) use gguf::block_type;
use hqq::{ExpertFile, HqqDemo};
use octet_files::bytes::format_bytes;
use octet_spec::{Activation, Feature, ModelSpec};

/// The configuration's file name.
pub const CONFIG_FILE: &str = "config.json";
/// The index's file name.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The smallest page of the systems supported.
const PAGE_BYTES: usize = 4096;

/// The trunk as it is held to compute with, in bytes, of `trunk_file_bytes` on disk: the
/// output matrix, f16 `(vocab, hidden)` in the file, is brought to 8 bits and a scale per 64.
/// One that is `tied` to the embeddings is a copy, and those stay.
pub fn trunk_resident_bytes(
    trunk_file_bytes: u64,
    (vocab, hidden): (usize, usize),
    tied: bool,
) -> u64 {
    let f16 = 2 * vocab as u64 * hidden as u64;
    let q8 = f16 / 32 * 17;
    let replaced = if tied { 0 } else { f16 };
    trunk_file_bytes.saturating_sub(replaced) + q8
}

/// What the weights of a model take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightBytes {
    /// One expert as it lies in a slot.
    pub expert: u64,
    /// The trunk as it lies in its files.
    pub trunk_file: u64,
    /// The trunk as it is held to compute with (an 8-bit output matrix, for example).
    pub trunk_resident: u64,
}

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

/// An expert's matrices: `expert(x) = w2(activation(w1 x, w3 x))`, biases added where there are any.
#[derive(Debug, Clone, Copy)]
pub struct ExpertWeights<'a> {
    /// Gate projection, (intermediate, hidden).
    pub w1: Matrix<'a>,
    /// Down projection, (hidden, intermediate).
    pub w2: Matrix<'a>,
    /// Up projection, (intermediate, hidden).
    pub w3: Matrix<'a>,
    /// What is done between them.
    pub activation: Activation,
    /// Their biases.
    pub biases: Option<ExpertBiases<'a>>,
}

/// Biases of an expert's projections.
#[derive(Debug, Clone, Copy)]
pub struct ExpertBiases<'a> {
    /// Of the gate projection, (intermediate).
    pub w1: &'a [f32],
    /// Of the down projection, (hidden).
    pub w2: &'a [f32],
    /// Of the up projection, (intermediate).
    pub w3: &'a [f32],
}

impl<'a> ExpertWeights<'a> {
    /// Gate, down and up projection.
    ///
    /// # Panics
    /// If they are not of HQQ.
    pub fn hqq(&self) -> [QMatrix<'a>; 3] {
        [self.w1, self.w2, self.w3].map(hqq)
    }
}

fn hqq(matrix: Matrix<'_>) -> QMatrix<'_> {
    matrix
        .hqq()
        .expect("BUG: a device without kernels for this weight type")
}

/// A matrix of floats, or of a type that stands for them: router, embeddings, output matrix.
#[derive(Debug, Clone, Copy)]
pub enum Table<'a> {
    /// Little-endian f16, row-major.
    F16(&'a [u8]),
    /// In blocks of GGUF, plain f32 and bf16 among them.
    Blocks(BlockMatrix<'a>),
}

impl<'a> Table<'a> {
    /// Little-endian f16, if that is what it is.
    pub fn f16(self) -> Option<&'a [u8]> {
        match self {
            Self::F16(bytes) => Some(bytes),
            Self::Blocks(_) => None,
        }
    }
}

/// What a layer has besides its experts. Slices of what a model does not have are empty.
#[derive(Debug, Clone, Copy)]
pub struct LayerTrunk<'a> {
    /// Norm in front of attention, (hidden).
    pub input_layernorm: &'a [f32],
    /// Norm in front of the experts, (hidden).
    pub post_attention_layernorm: &'a [f32],
    /// The router, (n_experts, hidden).
    pub gate: Table<'a>,
    /// The router's biases, (n_experts).
    pub gate_bias: &'a [f32],
    /// Query projection, (n_heads * head_dim, hidden).
    pub q_proj: Matrix<'a>,
    /// Key projection, (n_kv_heads * head_dim, hidden).
    pub k_proj: Matrix<'a>,
    /// Value projection, (n_kv_heads * head_dim, hidden).
    pub v_proj: Matrix<'a>,
    /// Output projection, (hidden, n_heads * head_dim).
    pub o_proj: Matrix<'a>,
    /// Biases of the four projections, as long as each has rows.
    pub biases: [&'a [f32]; 4],
    /// Norm of queries, (head_dim) or (n_heads * head_dim).
    pub q_norm: &'a [f32],
    /// Norm of keys, (head_dim) or (n_kv_heads * head_dim).
    pub k_norm: &'a [f32],
    /// Each head's further logit, (n_heads).
    pub sinks: &'a [f32],
}

impl<'a> LayerTrunk<'a> {
    /// Query, key, value and output projection.
    ///
    /// # Panics
    /// If they are not of HQQ.
    pub fn hqq(&self) -> [QMatrix<'a>; 4] {
        [self.q_proj, self.k_proj, self.v_proj, self.o_proj].map(hqq)
    }
}

/// How a checkpoint is quantized; what takes most bytes first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuantSummary {
    /// The experts' matrices. Never empty.
    pub experts: Vec<WeightKind>,
    /// The attention projections. Never empty.
    pub attention: Vec<WeightKind>,
}

/// One way in which matrices of a checkpoint are stored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum WeightKind {
    /// HQQ.
    Hqq(QuantKind),
    /// A block type of GGUF.
    Blocks(BlockKind),
}

/// One block type among a checkpoint's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BlockKind {
    /// Its name, as in `Q4_K`.
    #[serde(rename = "type")]
    pub name: &'static str,
    /// Bits a weight, scales included.
    pub bits: f64,
    /// Matrices of this type.
    pub matrices: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl WeightKind {
    /// The kind, if it is HQQ's.
    pub fn hqq(self) -> Option<QuantKind> {
        match self {
            Self::Hqq(kind) => Some(kind),
            Self::Blocks(_) => None,
        }
    }
}

impl fmt::Display for WeightKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hqq(kind) => kind.fmt(f),
            Self::Blocks(kind) => {
                let bytes = format_bytes(kind.bytes);
                write!(f, "{}, {:.2} bits a weight, {bytes}", kind.name, kind.bits)
            }
        }
    }
}

/// Number and size of a checkpoint's tensor files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileTotals {
    /// How many.
    pub count: usize,
    /// Their lengths together.
    pub bytes: u64,
}

/// An open checkpoint. All methods take `&self` and may be called from many threads.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    spec: ModelSpec,
    /// What is left out of account, and why.
    note: Option<String>,
    source: Source,
}

/// The files, by format.
#[derive(Debug)]
enum Source {
    Hqq(HqqDemo),
    Gguf(Box<GgufModel>),
}

impl Checkpoint {
    /// Opens and checks the checkpoint at `path`: a folder of the offloading demo's format, a GGUF
    /// file (any of a split set), or a folder with one such model.
    ///
    /// Norms and other vectors are converted once to f32 in memory of their own; so are router,
    /// embeddings and output matrix of the demo format to f16, where they are not. All else stays in
    /// the files.
    ///
    /// # Errors
    /// [`CheckpointError`] names the file and tensor, what was expected and what was found. Of
    /// several faulty expert files the first one is reported.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let dir = path.to_owned();
        if gguf::is_at(path) {
            let (model, spec) = GgufModel::open(path)?;
            return Ok(Self {
                dir,
                spec,
                note: None,
                source: Source::Gguf(Box::new(model)),
            });
        }
        let hqq::Opened { demo, spec, note } = HqqDemo::open(path)?;
        Ok(Self {
            dir,
            spec,
            note,
            source: Source::Hqq(demo),
        })
    }

    /// What of the folder is left out of account, and why.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The folder or file that was opened.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the model computes.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// What the model has that goes beyond HQQ-quantized Mixtral: a backend has to know all of it.
    pub fn features(&self) -> Vec<Feature> {
        let mut features = self.spec.features();
        if let Source::Gguf(gguf) = &self.source {
            features.extend(gguf.types().map(Feature::WeightType));
        }
        features
    }

    /// The GGUF file; `None` for other formats.
    pub fn gguf(&self) -> Option<&octet_gguf::Gguf> {
        match &self.source {
            Source::Hqq(_) => None,
            Source::Gguf(gguf) => Some(gguf.gguf()),
        }
    }

    /// All experts, layer by layer.
    pub fn expert_ids(&self) -> impl Iterator<Item = ExpertId> + use<> {
        let (n_layers, n_experts) = (self.spec.n_layers, self.spec.n_experts);
        (0..n_layers).flat_map(move |layer| {
            (0..n_experts).map(move |expert| ExpertId {
                layer: layer as u16,
                expert: expert as u16,
            })
        })
    }

    /// Number and size of the tensor files.
    pub fn files(&self) -> FileTotals {
        match &self.source {
            Source::Hqq(demo) => FileTotals {
                count: 1 + demo.experts.len(),
                bytes: demo.trunk.len_bytes()
                    + demo.experts.iter().map(ExpertFile::len_bytes).sum::<u64>(),
            },
            Source::Gguf(gguf) => gguf.files(),
        }
    }

    /// Bytes of everything but the experts.
    pub fn trunk_bytes(&self) -> u64 {
        match &self.source {
            Source::Hqq(demo) => demo.trunk.len_bytes(),
            Source::Gguf(gguf) => gguf.trunk_bytes(),
        }
    }

    /// Bytes of the trunk that stay in memory on the CPU in fast mode: not the embeddings, of which
    /// a few rows are touched.
    pub fn trunk_resident_bytes(&self) -> u64 {
        match &self.source {
            Source::Hqq(demo) => trunk_resident_bytes(
                demo.trunk.len_bytes(),
                (self.spec.vocab_size, self.spec.hidden_size),
                self.spec.tie_word_embeddings,
            ),
            Source::Gguf(gguf) => gguf.trunk_resident_bytes(),
        }
    }

    /// What a plan of its memory is made from, beside the spec.
    pub fn weight_bytes(&self) -> WeightBytes {
        WeightBytes {
            expert: self.expert_bytes() as u64,
            trunk_file: self.trunk_bytes(),
            trunk_resident: self.trunk_resident_bytes(),
        }
    }

    /// Bytes of all experts together.
    pub fn experts_total_bytes(&self) -> u64 {
        match &self.source {
            Source::Hqq(demo) => {
                let lengths = demo.experts.iter().map(|expert| expert.data().len() as u64);
                lengths.sum()
            }
            Source::Gguf(gguf) => gguf.experts_total_bytes(),
        }
    }

    /// How the matrices are stored.
    pub fn quant_summary(&self) -> QuantSummary {
        match &self.source {
            Source::Hqq(demo) => {
                let (experts, attention) = demo.kinds();
                let of = |kinds: Vec<QuantKind>| kinds.into_iter().map(WeightKind::Hqq).collect();
                QuantSummary {
                    experts: of(experts),
                    attention: of(attention),
                }
            }
            Source::Gguf(gguf) => gguf.quant_summary(),
        }
    }

    /// The embedding matrix, (vocab, hidden).
    pub fn embedding(&self) -> Table<'_> {
        match &self.source {
            Source::Hqq(demo) => Table::F16(demo.trunk.embed_tokens()),
            Source::Gguf(gguf) => gguf.embedding(),
        }
    }

    /// The output matrix, (vocab, hidden).
    pub fn output(&self) -> Table<'_> {
        match &self.source {
            Source::Hqq(demo) => Table::F16(demo.trunk.lm_head()),
            Source::Gguf(gguf) => gguf.output(),
        }
    }

    /// Reads what of the trunk opening left alone, and checks that every value is finite: of the demo
    /// format the output matrix, of GGUF all of it.
    ///
    /// # Errors
    /// [`CheckpointError`] for the first that is not.
    pub fn check_trunk(&self) -> Result<(), CheckpointError> {
        match &self.source {
            Source::Hqq(demo) => demo.trunk.check_lm_head(),
            Source::Gguf(gguf) => gguf.check_trunk(),
        }
    }

    /// The norm in front of the output matrix, (hidden).
    pub fn final_norm(&self) -> &[f32] {
        match &self.source {
            Source::Hqq(demo) => demo.trunk.final_norm(),
            Source::Gguf(gguf) => gguf.final_norm(),
        }
    }

    /// The trunk file as mapped, in which the attention matrices lie.
    ///
    /// # Panics
    /// If the checkpoint is not of the demo format.
    pub fn trunk_data(&self) -> &[u8] {
        self.demo().trunk.map()
    }

    fn demo(&self) -> &HqqDemo {
        match &self.source {
            Source::Hqq(demo) => demo,
            Source::Gguf(_) => unreachable!("BUG: a device that reads the demo format only"),
        }
    }

    /// The trunk's part of a layer.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn layer(&self, layer: usize) -> LayerTrunk<'_> {
        match &self.source {
            Source::Hqq(demo) => demo.trunk.layer(layer),
            Source::Gguf(gguf) => gguf.layer(layer),
        }
    }

    /// Bytes of the largest expert: what a slot for any expert takes.
    pub fn expert_bytes(&self) -> usize {
        match &self.source {
            Source::Hqq(demo) => demo.expert_bytes,
            Source::Gguf(gguf) => gguf.expert_bytes(),
        }
    }

    /// Bytes of one expert in a slot.
    ///
    /// # Panics
    /// If there is no such expert; so do all methods that take an [`ExpertId`].
    pub fn expert_len(&self, id: ExpertId) -> usize {
        let i = self.index(id);
        match &self.source {
            Source::Hqq(demo) => demo.experts[i].data().len(),
            Source::Gguf(gguf) => gguf.expert_len(i),
        }
    }

    /// An expert's matrices in the mapped file: pages come in as they are touched.
    pub fn expert_mapped(&self, id: ExpertId) -> ExpertWeights<'_> {
        let i = self.index(id);
        match &self.source {
            Source::Hqq(demo) => demo.experts[i].mapped(),
            Source::Gguf(gguf) => gguf.expert_mapped(i),
        }
    }

    /// An expert's matrices in `bytes`, whose first [`Self::expert_len`] bytes are a copy of it.
    ///
    /// # Panics
    /// If `bytes` is shorter than that.
    pub fn expert_view<'a>(&'a self, id: ExpertId, bytes: &'a [u8]) -> ExpertWeights<'a> {
        let i = self.index(id);
        match &self.source {
            Source::Hqq(demo) => demo.experts[i].view(bytes),
            Source::Gguf(gguf) => gguf.expert_view(i, bytes),
        }
    }

    /// An expert's data range in the mapped file.
    ///
    /// # Panics
    /// If the checkpoint is not of the demo format.
    pub fn expert_data(&self, id: ExpertId) -> &[u8] {
        let expert = &self.demo().experts[self.index(id)];
        &expert.map()[expert.data()]
    }

    /// Copies an expert into the first [`Self::expert_len`] bytes of `buf` and checks its scales and
    /// zeros again.
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
        let i = self.index(id);
        match &self.source {
            Source::Hqq(demo) => demo.experts[i].read(buf),
            Source::Gguf(gguf) => gguf.read_expert(i, buf),
        }
    }

    /// Reads an expert for memory that must not be read before it was written: `take` gets one piece
    /// after the other, of the demo format's data range. [`Checkpoint::check_expert`] is left to do.
    ///
    /// # Errors
    /// What the system reports; then some pieces are missing.
    ///
    /// # Panics
    /// If the checkpoint is not of the demo format.
    pub fn read_expert_by_pieces(
        &self,
        id: ExpertId,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), CheckpointError> {
        self.demo().experts[self.index(id)].read_by_pieces(take)
    }

    /// Checks `bytes`, a copy of an expert.
    ///
    /// # Errors
    /// [`CheckpointError::NonFinite`].
    pub fn check_expert(&self, id: ExpertId, bytes: &[u8]) -> Result<(), CheckpointError> {
        let i = self.index(id);
        match &self.source {
            Source::Hqq(demo) => demo.experts[i].check(bytes),
            Source::Gguf(gguf) => gguf.check_expert(i, bytes),
        }
    }

    /// Asks the system to start reading an expert into its cache, where it can (Unix).
    pub fn advise_will_need(&self, id: ExpertId) {
        let i = self.index(id);
        match &self.source {
            Source::Hqq(demo) => {
                let expert = &demo.experts[i];
                will_need(expert.map(), expert.data());
            }
            Source::Gguf(gguf) => gguf.advise_will_need(i),
        }
    }

    /// Has the system read `part` of an expert, counted as in a slot, into memory, and waits for it.
    pub fn bring_in(&self, id: ExpertId, part: Range<usize>) {
        let i = self.index(id);
        match &self.source {
            Source::Hqq(demo) => {
                let data = demo.experts[i].data();
                let part = data.start + part.start..(data.start + part.end).min(data.end);
                bring_in(demo.experts[i].map(), part);
            }
            Source::Gguf(gguf) => gguf.bring_in(i, part),
        }
    }

    /// Tells the system that `slice`, a part of one of this checkpoint's maps, is not needed for
    /// now: its pages leave this process's memory (Unix; elsewhere nothing happens) and come
    /// back when they are touched. A slice that is in no map is left alone.
    pub fn advise_dont_need(&self, slice: &[u8]) {
        let maps: Vec<&Mmap> = match &self.source {
            Source::Hqq(demo) => std::iter::once(demo.trunk.map())
                .chain(demo.experts.iter().map(ExpertFile::map))
                .collect(),
            Source::Gguf(_) => Vec::new(),
        };
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

    /// Place of an expert, layer by layer.
    fn index(&self, id: ExpertId) -> usize {
        let (layer, expert) = (usize::from(id.layer), usize::from(id.expert));
        let (n_layers, n_experts) = (self.spec.n_layers, self.spec.n_experts);
        assert!(
            layer < n_layers && expert < n_experts,
            "BUG: {id} in a model of {n_layers} layers with {n_experts} experts"
        );
        layer * n_experts + expert
    }
}

#[cfg(unix)]
fn will_need(map: &Mmap, range: Range<usize>) {
    // Advice only: whoever needs the bytes reads them anyway, and sees what goes wrong.
    let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
}

#[cfg(not(unix))]
fn will_need(_map: &Mmap, _range: Range<usize>) {}

/// Has the system read `range` of the map into memory, and waits for it.
fn bring_in(map: &Mmap, range: Range<usize>) {
    // A call for the whole part costs less than a fault for every few pages, where there is one.
    #[cfg(target_os = "linux")]
    if map
        .advise_range(memmap2::Advice::PopulateRead, range.start, range.len())
        .is_ok()
    {
        return;
    }
    let touched = map[range].iter().step_by(PAGE_BYTES);
    std::hint::black_box(touched.fold(0, |sum: u8, byte| sum ^ byte));
}

#[cfg(unix)]
fn dont_need(map: &Mmap, offset: usize, len: usize) {
    // SAFETY: the map shares an unmodified file, so dropped pages come back with the same bytes.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
}

#[cfg(not(unix))]
fn dont_need(_map: &Mmap, _offset: usize, _len: usize) {}
