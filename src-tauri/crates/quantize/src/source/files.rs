//! Which files of a folder hold its tensors.

use std::collections::BTreeMap;
use std::path::Path;

use octet_checkpoint::hqq::schema;
use octet_checkpoint::{
    CheckpointError, INDEX_FILE, Index, TensorFile, parse_index, read_small, shorten,
};

use super::{refusal, refuse_other_names};
use crate::error::{QuantizeError, io_error};

const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Refuses, by name, what people have in place of a safetensors checkpoint.
pub(super) fn refuse_other_formats(dir: &Path) -> Result<(), QuantizeError> {
    const GGUF: &str = "GGUF files are quantized already and of another format; choose the \
                        folder of the original safetensors model";
    if !dir.is_dir() {
        let why = match dir.extension().and_then(|extension| extension.to_str()) {
            Some("gguf") => GGUF,
            _ if dir.exists() => "it is not a folder; choose the folder that holds config.json",
            _ => "there is no such folder",
        };
        return Err(refusal(dir, why));
    }
    let names = names(dir)?;
    let has = |end: &str| names.iter().any(|name| name.ends_with(end));
    let is_weights = |name: &&String| name.ends_with(".safetensors") || name.ends_with(".bin");
    let is_adapter = |name: &String| name.starts_with("adapter_");
    let mut weights = names.iter().filter(is_weights);
    if has("adapter_config.json") && weights.all(is_adapter) {
        let why = "it is a LoRA adapter (adapter_config.json); merge it into its base model first";
        return Err(refusal(dir, why));
    }
    if has(".safetensors") {
        return Ok(());
    }
    let why = if has(".gguf") {
        GGUF
    } else if has(".bin") || has(".pt") || has(".pth") {
        "it has PyTorch files only; convert them to safetensors first (load the model with \
         transformers and save it with save_pretrained), or download the safetensors version"
    } else {
        "it has no safetensors files; choose the folder of a Mixtral model"
    };
    Err(refusal(dir, why))
}

/// Opens all tensor files and tells the file of every tensor.
///
/// With an index these are the files that it names; without one there may be one file only,
/// since nothing else would tell whether some are missing.
pub(super) fn open(
    dir: &Path,
) -> Result<(Vec<TensorFile>, BTreeMap<String, usize>), QuantizeError> {
    let path = dir.join(INDEX_FILE);
    let Some(bytes) = read_small(&path, MAX_INDEX_BYTES)? else {
        return open_single(dir);
    };
    let index = parse_index(&bytes).map_err(|source| CheckpointError::Index {
        path: path.clone(),
        source,
    })?;
    refuse_other_names(dir, index.tensors())?;
    let files = open_indexed(dir, &index)?;
    let names = files.iter().flat_map(|file| file.header().tensors.keys());
    refuse_other_names(dir, names.map(String::as_str))?;
    let mut places = BTreeMap::new();
    for (number, file) in files.iter().enumerate() {
        let name = file.path().file_name().and_then(|name| name.to_str());
        for tensor in file.header().tensors.keys() {
            // A tensor in two files counts where the index has it.
            if index.file(tensor).is_some_and(|place| Some(place) != name) {
                continue;
            }
            if let Some(other) = places.insert(tensor.clone(), number) {
                let conflict = format!(
                    "tensor `{}` is in {} and in {}, and the index names neither",
                    shorten(tensor),
                    files[other].path().display(),
                    file.path().display(),
                );
                return Err(CheckpointError::IndexConflict { path, conflict }.into());
            }
        }
    }
    for tensor in index.tensors() {
        if !places.contains_key(tensor) {
            let file = index.file(tensor).unwrap_or_default();
            return Err(CheckpointError::MissingTensor {
                path: dir.join(file),
                tensor: shorten(tensor),
            }
            .into());
        }
    }
    Ok((files, places))
}

fn open_indexed(dir: &Path, index: &Index) -> Result<Vec<TensorFile>, QuantizeError> {
    // The first tensor of each file stands for it in the message if the file is missing.
    let mut by_file: BTreeMap<&str, &str> = BTreeMap::new();
    for tensor in index.tensors() {
        if let Some(file) = index.file(tensor) {
            by_file.entry(file).or_insert(tensor);
        }
    }
    by_file
        .into_iter()
        .map(|(file, tensor)| Ok(TensorFile::open(dir.join(file), tensor)?))
        .collect()
}

fn open_single(dir: &Path) -> Result<(Vec<TensorFile>, BTreeMap<String, usize>), QuantizeError> {
    let names = names(dir)?;
    let tensor_files: Vec<&String> = names
        .iter()
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    let [only] = tensor_files[..] else {
        return Err(refusal(
            dir,
            format!(
                "{INDEX_FILE} is missing, which tells which of the {} safetensors files belong to \
                 the model; download it too",
                tensor_files.len()
            ),
        ));
    };
    let file = TensorFile::open(dir.join(only), schema::EMBED_TOKENS)?;
    refuse_other_names(dir, file.header().tensors.keys().map(String::as_str))?;
    let places = file
        .header()
        .tensors
        .keys()
        .map(|tensor| (tensor.clone(), 0))
        .collect();
    Ok((vec![file], places))
}

/// The names in a folder that are text, sorted; those of hidden files are left out.
fn names(dir: &Path) -> Result<Vec<String>, QuantizeError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_error("look into", dir))? {
        let entry = entry.map_err(io_error("look into", dir))?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
