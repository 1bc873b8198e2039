//! The format of the Mixtral-8x7B HQQ offloading demo.
//!
//! A folder with `config.json`, `model.safetensors.index.json`, one *trunk* file (embeddings, norms,
//! routers, attention; full tensor names) and one file for every expert (bare names `w1.W_q`, ...).
//! An expert's tensors lie next to each other in its file, so one contiguous *data range* holds
//! them all.

mod expert;
mod index;
mod layout;
mod matrix;
pub mod schema;
mod summary;
mod trunk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub use index::{Index, IndexError, parse_index};
pub use layout::{FileLayout, Quantization, Role, TensorLayout, index};
pub use summary::QuantKind;

use super::error::CheckpointError;
use super::{CONFIG_FILE, ExpertId, INDEX_FILE, file, json};
pub(super) use expert::ExpertFile;
use octet_spec::ModelSpec;
use schema::EMBED_TOKENS;
pub(super) use trunk::TrunkFile;

const GENERATION_FILE: &str = "generation_config.json";
const MAX_CONFIG_BYTES: u64 = 1 << 20;
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// An open checkpoint of this format.
#[derive(Debug)]
pub(super) struct HqqDemo {
    pub(super) trunk: TrunkFile,
    /// Layer by layer, `n_experts` each.
    pub(super) experts: Vec<ExpertFile>,
    /// Of the largest data range.
    pub(super) expert_bytes: usize,
}

/// What was opened, the model's shape, and what of the folder is left out of account.
pub(super) struct Opened {
    pub(super) demo: HqqDemo,
    pub(super) spec: ModelSpec,
    pub(super) note: Option<String>,
}

impl HqqDemo {
    /// Opens and checks the checkpoint in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Opened, CheckpointError> {
        let (mut spec, index) = read_config_and_index(dir)?;
        let note = read_end_tokens(dir, &mut spec).err();
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
        let places = expert_places(dir, &spec, &index)?;
        let trunk = TrunkFile::open(dir.join(trunk_file), &spec)?;
        let experts = open_experts(&places, &spec)?;
        let expert_bytes = experts.iter().map(|e| e.data().len()).max().unwrap_or(0);
        Ok(Opened {
            demo: Self {
                trunk,
                experts,
                expert_bytes,
            },
            spec,
            note,
        })
    }

    /// Kinds of the experts' matrices, and of the attention's.
    pub(super) fn kinds(&self) -> (Vec<QuantKind>, Vec<QuantKind>) {
        (
            summary::kinds(self.experts.iter().flat_map(ExpertFile::matrices)),
            summary::kinds(self.trunk.matrices()),
        )
    }
}

fn read_config_and_index(dir: &Path) -> Result<(ModelSpec, Index), CheckpointError> {
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
            "{why}; choose a GGUF file, or the folder that holds {CONFIG_FILE}"
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
    let spec = ModelSpec::from_config_json(&bytes)
        .map_err(|source| CheckpointError::Config { path, source })?;

    let path = dir.join(INDEX_FILE);
    let bytes = file::read_small(&path, MAX_INDEX_BYTES)?.ok_or_else(|| missing(INDEX_FILE))?;
    let index = parse_index(&bytes).map_err(|source| CheckpointError::Index { path, source })?;
    Ok((spec, index))
}

/// Adds the end tokens of `generation_config.json`, or says why it is left out of account: the model
/// runs without it.
fn read_end_tokens(dir: &Path, spec: &mut ModelSpec) -> Result<(), String> {
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
    spec.add_end_tokens(&bytes)
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
    spec: &ModelSpec,
    index: &Index,
) -> Result<Vec<ExpertPlace>, CheckpointError> {
    let path = || dir.join(INDEX_FILE);
    let conflict = |conflict| CheckpointError::IndexConflict {
        path: path(),
        conflict,
    };
    for name in index.tensors() {
        refuse_beyond(name, spec).map_err(conflict)?;
    }
    let mut by_file: BTreeMap<&str, ExpertId> = BTreeMap::new();
    let mut places = Vec::new();
    for (layer, expert) in (0..spec.n_layers).flat_map(|l| (0..spec.n_experts).map(move |e| (l, e)))
    {
        let tensor = schema::expert_key(layer, expert);
        let Some(file) = index.file(&tensor) else {
            let unquantized = schema::unquantized_expert_key(layer, expert);
            if index.file(&unquantized).is_some() {
                let why = format!(
                    "`{unquantized}` is not quantized; choose a folder with the HQQ-quantized \
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
fn refuse_beyond(tensor: &str, spec: &ModelSpec) -> Result<(), String> {
    let number_after = |key: &str| -> Option<usize> {
        let (_, rest) = tensor.split_once(key)?;
        rest.split('.').next()?.parse().ok()
    };
    for (key, limit, what) in [
        ("model.layers.", spec.n_layers, "layers"),
        (".experts.", spec.n_experts, "experts"),
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
    spec: &ModelSpec,
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
            let result = ExpertFile::open(place.path.clone(), &place.tensor, spec);
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
