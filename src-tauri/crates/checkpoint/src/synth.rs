//! Random checkpoints in the offloading-demo format, of any shape, written at disk speed.
//!
//! They stand in for real ones in benchmarks and tests: the same files, names, shapes and bytes a
//! token, and values with which activations stay of ordinary size through any number of layers.
//! The same options give the same bytes on every system. `synth/fill.rs` tells the distributions.

mod fill;
mod gguf;
mod layout;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use octet_files::free_bytes;
use octet_kernels::Bits;
use serde_json::Value;

use crate::file::read_small;
use crate::hqq::{self, Quantization, schema};
use crate::{CONFIG_FILE, CheckpointError, INDEX_FILE, without_byte_order_mark};
pub use gguf::{GgufSynthOptions, synth_gguf};
use octet_files::bytes::format_bytes;
use octet_spec::{ConfigError, ModelSpec};

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthOptions {
    /// Layers, in place of the configuration's own number.
    pub layers: Option<usize>,
    /// Chooses the random values.
    pub seed: u64,
    /// The experts' quantization; group sizes that do not divide a matrix are lowered for it.
    pub experts: Quantization,
    /// The attention projections' quantization, likewise.
    pub attention: Quantization,
}

impl Default for SynthOptions {
    /// The demo's own quantization: experts 2 bits in groups of 16, attention 4 bits in 64.
    fn default() -> Self {
        Self {
            layers: None,
            seed: 0,
            experts: Quantization {
                bits: Bits::B2,
                group_size: 16,
                scale_group_size: Some(128),
            },
            attention: Quantization {
                bits: Bits::B4,
                group_size: 64,
                scale_group_size: Some(256),
            },
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynthSummary {
    /// Layers of the model.
    pub n_layers: usize,
    /// Tensor files: the trunk and one for every expert.
    pub files: usize,
    /// Bytes of the tensor files.
    pub bytes: u64,
}

/// Why no checkpoint was written. Nothing of it is left behind then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// The configuration cannot be read.
    #[error(transparent)]
    Read(#[from] CheckpointError),
    /// There is no configuration.
    #[error("{} is missing; give the path of a Mixtral config.json", path.display())]
    NoConfig {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The configuration, with the number of layers asked for, is not one of a Mixtral model.
    #[error("{}: {source}", path.display())]
    Config {
        /// The configuration.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// A matrix that cannot be quantized as asked.
    #[error(
        "`{matrix}`: {n} x {k} weights cannot be packed at {bits} bits in groups of at most \
         {group_size}"
    )]
    Quant {
        /// Which matrix.
        matrix: String,
        /// Its rows.
        n: usize,
        /// Its columns.
        k: usize,
        /// Bits a weight.
        bits: u32,
        /// The group size asked for.
        group_size: usize,
    },
    /// A matrix whose rows are no whole number of blocks.
    #[error(
        "`{matrix}`: rows of {k} weights are not made of {ty} blocks of {block}; give another type"
    )]
    Columns {
        /// Which matrix.
        matrix: String,
        /// Its columns.
        k: usize,
        /// The type asked for.
        ty: &'static str,
        /// Weights in a block of it.
        block: usize,
    },
    /// The output file is there already.
    #[error("{} is there already; choose a new name", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The GGUF file cannot be written.
    #[error(transparent)]
    Gguf(Box<octet_gguf::GgufError>),
    /// The output folder holds something already.
    #[error("{} is not an empty folder; choose a new one", dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// The checkpoint would not fit on the disk.
    #[error(
        "{} needs {}, {} are free: give fewer --layers, or another disk",
        dir.display(),
        format_bytes(*needed_bytes),
        format_bytes(*free_bytes)
    )]
    DiskFull {
        /// The output folder.
        dir: PathBuf,
        /// Bytes of the whole checkpoint.
        needed_bytes: u64,
        /// Bytes there are.
        free_bytes: u64,
    },
    /// The system refused an operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Writes a random checkpoint of the shape in `config_path` to `out_dir`.
///
/// `out_dir` is created, or must be empty. Each file is written under another name and renamed,
/// and the index comes last, so that nothing unfinished can be taken for a checkpoint; after an
/// error all of it is removed again. `progress` is called with the bytes done and the bytes in
/// all, at least once a file. Takes a few MB of memory whatever the shape.
///
/// # Errors
/// [`SynthError`]; the shape, the quantization and the disk's free space are checked before
/// anything is written.
pub fn synth(
    config_path: &Path,
    out_dir: &Path,
    options: &SynthOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<SynthSummary, SynthError> {
    let (config, config_json) = read_config(config_path, options.layers)?;
    let trunk = layout::trunk(&config, options)?;
    let expert = layout::expert(&config, options)?;
    let n_experts = config.n_layers * config.n_experts;
    let total_bytes = trunk.file_bytes() + n_experts as u64 * expert.file_bytes();

    let mut output = Output::create(out_dir)?;
    if let Some(free_bytes) = free_bytes(out_dir)
        && free_bytes < total_bytes
    {
        return Err(SynthError::DiskFull {
            dir: out_dir.to_owned(),
            needed_bytes: total_bytes,
            free_bytes,
        });
    }

    let n_files = 1 + n_experts;
    let mut done_bytes = 0;
    for file in 0..n_files {
        let plan = if file == 0 { &trunk } else { &expert };
        output.write(&schema::file_name(file, n_files), |writer| {
            let key = (&config, options.seed, file);
            layout::write(plan, writer, key, &mut |bytes| {
                done_bytes += bytes;
                progress(done_bytes, total_bytes);
            })
        })?;
    }
    output.write(CONFIG_FILE, |writer| writer.write_all(&config_json))?;
    let index = hqq::index(&config, &trunk, &expert);
    output.write(INDEX_FILE, |writer| writer.write_all(&index))?;
    output.finished = true;
    Ok(SynthSummary {
        n_layers: config.n_layers,
        files: n_files,
        bytes: total_bytes,
    })
}

/// The configuration and its JSON, with `layers` in place.
fn read_config(path: &Path, layers: Option<usize>) -> Result<(ModelSpec, Vec<u8>), SynthError> {
    const MAX_CONFIG_BYTES: u64 = 1 << 20;
    let bytes = read_small(path, MAX_CONFIG_BYTES)?.ok_or_else(|| SynthError::NoConfig {
        path: path.to_owned(),
    })?;
    let wrong = |source| SynthError::Config {
        path: path.to_owned(),
        source,
    };
    let bytes = without_byte_order_mark(&bytes).to_vec();
    let config = ModelSpec::from_config_json(&bytes).map_err(wrong)?;
    let Some(layers) = layers else {
        return Ok((config, bytes));
    };
    let mut json: Value = serde_json::from_slice(&bytes).map_err(|e| {
        wrong(ConfigError::Malformed {
            message: e.to_string(),
        })
    })?;
    json["num_hidden_layers"] = layers.into();
    let bytes = format!("{json:#}\n").into_bytes();
    let config = ModelSpec::from_config_json(&bytes).map_err(wrong)?;
    Ok((config, bytes))
}

/// The output folder; unless `finished`, it is left as it was found.
struct Output {
    dir: PathBuf,
    created_dir: bool,
    files: Vec<PathBuf>,
    finished: bool,
}

impl Output {
    fn create(dir: &Path) -> Result<Self, SynthError> {
        let created_dir = match fs::read_dir(dir) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(SynthError::NotEmpty {
                        dir: dir.to_owned(),
                    });
                }
                false
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(dir).map_err(io_error("create", dir))?;
                true
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                return Err(SynthError::NotEmpty {
                    dir: dir.to_owned(),
                });
            }
            Err(e) => return Err(io_error("look into", dir)(e)),
        };
        Ok(Self {
            dir: dir.to_owned(),
            created_dir,
            files: Vec::new(),
            finished: false,
        })
    }

    fn write(
        &mut self,
        name: &str,
        content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<(), SynthError> {
        let path = self.dir.join(name);
        let partial = self.dir.join(format!("{name}.incomplete"));
        self.files.push(partial.clone());
        let file = File::create_new(&partial).map_err(io_error("create", &partial))?;
        let mut writer = BufWriter::with_capacity(fill::PIECE_BYTES, file);
        content(&mut writer)
            .and_then(|()| writer.flush())
            .map_err(io_error("write", &partial))?;
        drop(writer);
        fs::rename(&partial, &path).map_err(io_error("rename", &partial))?;
        self.files.pop();
        self.files.push(path);
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // What cannot be removed stays: the error that led here is the one worth telling.
        for file in self.files.iter().rev() {
            let _ = fs::remove_file(file);
        }
        if self.created_dir {
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SynthError {
    let path = path.to_owned();
    move |source| SynthError::Io {
        action,
        path,
        source,
    }
}
