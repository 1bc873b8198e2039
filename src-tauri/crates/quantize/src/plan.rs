//! What is to be done: checked in full before any of it is begun.

use std::convert::Infallible;
use std::path::Path;

use octet_checkpoint::spec::ModelSpec;
use safetensors::Dtype;

use crate::error::QuantizeError;
use crate::hqq::{HqqError, MatrixSpec, check_spec};
use crate::options::Options;
use crate::pack::packed_bytes;
use crate::source::{ExpertForm, ExpertPart, MatrixSource, Roles, Source, TensorSource};
use octet_checkpoint::hqq::FileLayout;
use octet_checkpoint::hqq::schema::{self, EMBED_TOKENS, FINAL_NORM, LM_HEAD};

/// Memory that the workers may take together, in bytes. Each holds one matrix in f32 (235 MB for
/// an expert's of Mixtral 8x7B), its groups' scales and zeros, and its packed form, so that 10 of
/// them work on that model at most. What a process needs besides is small.
const MEMORY_BYTES: u64 = 3_500_000_000;

/// The largest group size that an error's advice looks at.
const MOST_ADVISED: usize = 1 << 16;

/// A checked source, and everything that will be made of it.
#[derive(Debug)]
pub struct Plan {
    pub(crate) source: Source,
    pub(crate) options: Options,
    pub(crate) trunk: FileLayout,
    pub(crate) expert: FileLayout,
    /// File by file, in the order of work.
    pub(crate) jobs: Vec<Job>,
    expert_form: ExpertForm,
}

/// A tensor or matrix to be made.
#[derive(Debug)]
pub(crate) struct Job {
    /// The number of its file.
    pub(crate) file: usize,
    /// Its name in the file.
    pub(crate) name: String,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// Stored as f16.
    Dense(TensorSource),
    /// Quantized.
    Matrix {
        /// Its name in the whole model.
        label: String,
        source: MatrixSource,
        spec: MatrixSpec,
    },
}

impl Job {
    /// Bytes read for it.
    pub(crate) fn source_bytes(&self) -> u64 {
        match &self.content {
            Content::Dense(tensor) => tensor.bytes(),
            Content::Matrix { source, .. } => source.bytes(),
        }
    }
}

impl Plan {
    /// Checks the checkpoint in `source` against `options`. Reads headers only.
    ///
    /// # Errors
    /// Whatever makes it impossible: another kind of model or file, tensors that are missing, of
    /// another shape, or left over, and matrices that cannot be packed as asked.
    pub fn new(source: &Path, options: &Options) -> Result<Self, QuantizeError> {
        let source = Source::open(source)?;
        let config = source.spec();
        let (experts, attention) = (
            options.spec(options.experts),
            options.spec(options.attention),
        );
        let mut roles = Roles::new(&source);
        let mut jobs = trunk_jobs(config, options, &mut roles)?;
        jobs.extend(expert_jobs(config, options, &mut roles)?);
        let expert_form = roles.form();
        roles.refuse_unused()?;
        for job in &jobs {
            if let Content::Matrix {
                label,
                source: MatrixSource { n, k, .. },
                spec,
            } = &job.content
            {
                check_spec(*n, *k, spec).map_err(|source| QuantizeError::Sizes {
                    matrix: label.clone(),
                    advice: advice(&source, spec, job.file > 0, &jobs),
                    source,
                })?;
            }
        }
        let attention = |_: &str, _| Ok::<_, Infallible>(attention.quantization());
        let experts = |_: &str, _| Ok::<_, Infallible>(experts.quantization());
        let Ok(trunk) = FileLayout::trunk(config, attention);
        let Ok(expert) = FileLayout::expert(config, experts);
        Ok(Self {
            trunk,
            expert,
            jobs,
            expert_form,
            options: *options,
            source,
        })
    }

    /// The model's shape.
    pub fn spec(&self) -> &ModelSpec {
        self.source.spec()
    }

    /// Tensor files of the source.
    pub fn source_files(&self) -> usize {
        self.source.files().len()
    }

    /// Bytes of the source's tensors.
    pub fn source_bytes(&self) -> u64 {
        self.jobs.iter().map(Job::source_bytes).sum()
    }

    /// The source's element types, and how it keeps its experts, in words.
    pub fn source_form(&self) -> String {
        let mut types: Vec<Dtype> = Vec::new();
        for job in &self.jobs {
            let dtype = match &job.content {
                Content::Dense(tensor) => tensor.dtype(),
                Content::Matrix { source, .. } => source.tensor.dtype(),
            };
            if !types.contains(&dtype) {
                types.push(dtype);
            }
        }
        let types: Vec<String> = types.iter().map(ToString::to_string).collect();
        let experts = match self.expert_form {
            ExpertForm::Separate => "experts in tensors of their own",
            ExpertForm::Fused => "experts of a layer together",
        };
        format!("{}, {experts}", types.join(" and "))
    }

    /// Tensor files that will be written.
    pub fn files(&self) -> usize {
        1 + self.spec().n_layers * self.spec().n_experts
    }

    /// Bytes of the tensor files that will be written, exactly.
    pub fn output_bytes(&self) -> u64 {
        (0..self.files())
            .map(|file| self.layout(file).file_bytes())
            .sum()
    }

    /// Bytes of the trunk's file and of one expert's.
    pub fn file_bytes(&self) -> (u64, u64) {
        (self.trunk.file_bytes(), self.expert.file_bytes())
    }

    /// Threads that will work: as many as asked for, or as memory allows, at least one.
    pub fn workers(&self) -> usize {
        let most = MEMORY_BYTES / self.worker_bytes().max(1);
        self.options.threads.min(most as usize).max(1)
    }

    /// Memory that the workers will take together, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.workers() as u64 * self.worker_bytes()
    }

    pub(crate) fn layout(&self, file: usize) -> &FileLayout {
        if file == 0 { &self.trunk } else { &self.expert }
    }

    pub(crate) fn file_name(&self, file: usize) -> String {
        schema::file_name(file, self.files())
    }

    /// Memory that one worker takes with the largest matrix: its weights in f32, a scale and a
    /// zero a group before they are rounded, and the packed form, at most 4 bytes a group beside the
    /// weights, as made and as read back.
    fn worker_bytes(&self) -> u64 {
        let bytes = |job: &Job| match &job.content {
            Content::Dense(_) => 0,
            Content::Matrix {
                source: MatrixSource { n, k, .. },
                spec,
                ..
            } => {
                let weights = (n * k) as u64;
                let groups = weights / spec.group_size as u64;
                let packed = packed_bytes(spec.bits, spec.group_size, groups as usize) as u64;
                4 * weights + 8 * groups + 2 * (packed + 4 * groups)
            }
        };
        self.jobs.iter().map(bytes).max().unwrap_or(0)
    }
}

/// For the end of `error`'s message: the option to change and a value with which all experts, or
/// all attention projections, can be quantized as `spec` says otherwise.
fn advice(error: &HqqError, spec: &MatrixSpec, of_experts: bool, jobs: &[Job]) -> String {
    let mut shapes: Vec<(usize, usize)> = jobs
        .iter()
        .filter(|job| (job.file > 0) == of_experts)
        .filter_map(|job| match &job.content {
            Content::Matrix { source, .. } => Some((source.n, source.k)),
            Content::Dense(_) => None,
        })
        .collect();
    shapes.sort_unstable();
    shapes.dedup();
    let fits = |spec: &MatrixSpec| shapes.iter().all(|&(n, k)| check_spec(n, k, spec).is_ok());
    let (part, matrices) = match of_experts {
        true => ("expert", "all experts"),
        false => ("attention", "all attention matrices"),
    };
    // The nearest below what was asked for costs the fewest bits; above it only where none is.
    let nearest = |asked: usize, fits: &dyn Fn(usize) -> bool| {
        let below = (1..=asked.min(MOST_ADVISED)).rev().find(|&size| fits(size));
        below.or_else(|| (asked + 1..=MOST_ADVISED).find(|&size| fits(size)))
    };
    match *error {
        HqqError::GroupSize { group_size, .. } | HqqError::Packing { group_size, .. } => {
            let with = |group_size| MatrixSpec {
                group_size,
                scale_group_size: None,
                ..*spec
            };
            nearest(group_size, &|size| fits(&with(size))).map_or_else(String::new, |size| {
                format!(" (--{part}-group {size} fits {matrices})")
            })
        }
        HqqError::ScaleGroupSize {
            scale_group_size, ..
        } => {
            let with = |size| MatrixSpec {
                scale_group_size: Some(size),
                ..*spec
            };
            match nearest(scale_group_size, &|size| fits(&with(size))) {
                Some(size) if size > 1 => {
                    format!(" (--{part}-scale-group {size} fits {matrices})")
                }
                _ => format!(" (--{part}-scale-group 0 fits {matrices}: scales stay f16)"),
            }
        }
        _ => String::new(),
    }
}

fn trunk_jobs(
    config: &ModelSpec,
    options: &Options,
    roles: &mut Roles<'_>,
) -> Result<Vec<Job>, QuantizeError> {
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let mut jobs = Vec::new();
    let mut dense = |name: &str, tensor| {
        jobs.push(Job {
            file: 0,
            name: name.to_owned(),
            content: Content::Dense(tensor),
        });
    };
    dense(EMBED_TOKENS, roles.dense(EMBED_TOKENS, &[vocab, hidden])?);
    if !config.tie_word_embeddings {
        dense(LM_HEAD, roles.dense(LM_HEAD, &[vocab, hidden])?);
    }
    dense(FINAL_NORM, roles.dense(FINAL_NORM, &[hidden])?);
    for layer in 0..config.n_layers {
        for name in schema::layer_norms(layer) {
            dense(&name, roles.dense(&name, &[hidden])?);
        }
        dense(&schema::router(layer), roles.router(layer)?);
    }
    for layer in 0..config.n_layers {
        for (name, shape) in schema::attention(config, layer) {
            jobs.push(Job {
                file: 0,
                content: Content::Matrix {
                    label: name.clone(),
                    source: roles.matrix(&format!("{name}.weight"), shape)?,
                    spec: options.spec(options.attention),
                },
                name,
            });
        }
    }
    Ok(jobs)
}

fn expert_jobs(
    config: &ModelSpec,
    options: &Options,
    roles: &mut Roles<'_>,
) -> Result<Vec<Job>, QuantizeError> {
    let mut jobs = Vec::new();
    for layer in 0..config.n_layers {
        for expert in 0..config.n_experts {
            for part in ExpertPart::ALL {
                let name = part.name();
                jobs.push(Job {
                    file: 1 + layer * config.n_experts + expert,
                    name: name.to_owned(),
                    content: Content::Matrix {
                        label: format!("{}.{name}", schema::expert(layer, expert)),
                        source: roles.expert(layer, expert, part)?,
                        spec: options.spec(options.experts),
                    },
                });
            }
        }
    }
    Ok(jobs)
}
