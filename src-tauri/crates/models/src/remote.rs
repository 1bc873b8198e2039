//! A model as the hub has it: what it is, and which of the repository's files it needs.

use std::collections::BTreeSet;
use std::fmt;

use octet_engine::checkpoint::{CONFIG_FILE, INDEX_FILE, Index, parse_index};
use octet_engine::plan::{ModelSizes, WeightBytes};
use octet_engine::spec::ModelSpec;

use crate::hub::{Hub, Listing};
use crate::names::RepoName;
use crate::record::RepoFile;
use crate::transfer::Failure;
use crate::{ForeignFault, ModelsError};

/// Bytes of a configuration and of an index at most, as the engine reads them.
const MAX_CONFIG_BYTES: usize = 1 << 20;
const MAX_INDEX_BYTES: usize = 64 << 20;

/// Bytes of any other file that is no tensor file, at most.
const MAX_OTHER_BYTES: u64 = 64 << 20;

/// The tensor whose file is the trunk.
const TRUNK_TENSOR: &str = "model.embed_tokens.weight";

/// A tokenizer's file.
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";

/// A repository that holds a model of the right format.
#[derive(Debug)]
pub(crate) struct RemoteModel {
    pub(crate) commit: String,
    pub(crate) license: Option<String>,
    pub(crate) config: ModelSpec,
    pub(crate) sizes: ModelSizes,
    /// What is downloaded: small files first, then the trunk, then the experts.
    pub(crate) files: Vec<RepoFile>,
}

impl RemoteModel {
    /// Looks at a repository: three small requests.
    pub(crate) async fn inspect(
        hub: &Hub,
        repo: &RepoName,
        revision: &str,
    ) -> Result<Self, Failure> {
        let listing = hub.list(repo, revision).await?;
        let foreign = |fault| {
            Failure::Final(ModelsError::Foreign {
                what: repo.to_string(),
                fault,
            })
        };
        let damaged = |file: &str, error: &dyn fmt::Display| {
            foreign(ForeignFault::Refused {
                detail: format!("{file}: {error}"),
            })
        };
        let wanted = |name: &str| {
            let file = listing.file(name);
            file.ok_or_else(|| {
                let file = name.to_owned();
                foreign(ForeignFault::NoFile { file })
            })
        };
        let (config, index) = (wanted(CONFIG_FILE)?, wanted(INDEX_FILE)?);
        let commit = listing.commit.as_str();
        let config = hub
            .small_file(repo, commit, config, MAX_CONFIG_BYTES)
            .await?;
        let config =
            ModelSpec::from_config_json(&config).map_err(|error| damaged(CONFIG_FILE, &error))?;
        let index = hub.small_file(repo, commit, index, MAX_INDEX_BYTES).await?;
        let index = parse_index(&index).map_err(|error| damaged(INDEX_FILE, &error))?;
        let files = choose(&listing, &index).map_err(&foreign)?;
        let sizes = sizes(&config, &index, &files).map_err(&foreign)?;
        Ok(Self {
            commit: listing.commit,
            license: listing.license,
            config,
            sizes,
            files,
        })
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    pub(crate) fn tokenizer(&self) -> Option<&RepoFile> {
        self.files.iter().find(|file| file.path == TOKENIZER_FILE)
    }
}

/// The files that the index names, and the small ones beside them.
fn choose(listing: &Listing, index: &Index) -> Result<Vec<RepoFile>, ForeignFault> {
    let tensors: BTreeSet<&str> = index.tensors().filter_map(|t| index.file(t)).collect();
    let mut files: Vec<RepoFile> = Vec::with_capacity(tensors.len() + 8);
    files.extend(listing.files.iter().filter(|file| is_small(file)).cloned());
    let trunk = index.file(TRUNK_TENSOR);
    let (first, rest): (Vec<&str>, Vec<&str>) =
        tensors.into_iter().partition(|name| Some(*name) == trunk);
    for name in first.into_iter().chain(rest) {
        let file = listing.file(name);
        files.push(
            file.ok_or_else(|| ForeignFault::NoIndexedFile {
                file: name.to_owned(),
            })?
            .clone(),
        );
    }
    Ok(files)
}

/// Configuration, tokenizer, templates, licence.
fn is_small(file: &RepoFile) -> bool {
    let name = file.path.as_str();
    let kind = name.rsplit('.').next().unwrap_or_default();
    !name.contains('/')
        && file.size <= MAX_OTHER_BYTES
        && (matches!(kind, "json" | "jinja" | "md" | "txt" | "gitattributes")
            || matches!(name, "LICENSE" | "NOTICE"))
}

/// As the engine would find them, but for some hundred bytes of headers.
fn sizes(
    config: &ModelSpec,
    index: &Index,
    files: &[RepoFile],
) -> Result<ModelSizes, ForeignFault> {
    let size_of = |tensor: &str| {
        let name = index.file(tensor)?;
        let file = files.iter().find(|file| file.path == name)?;
        Some(file.size)
    };
    let trunk = size_of(TRUNK_TENSOR).ok_or(ForeignFault::NoEmbeddings)?;
    let mut expert_bytes = 0;
    for layer in 0..config.n_layers {
        for expert in 0..config.n_experts {
            let prefix = format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.w1");
            let size = size_of(&format!("{prefix}.W_q")).ok_or_else(|| {
                match index.file(&format!("{prefix}.weight")) {
                    Some(_) => ForeignFault::NotHqq,
                    None => ForeignFault::NoExpert { layer, expert },
                }
            })?;
            expert_bytes = size.max(expert_bytes);
        }
    }
    let bytes = WeightBytes {
        expert: expert_bytes,
        trunk_file: trunk,
        trunk_resident: ModelSizes::trunk_resident_bytes(
            trunk,
            (config.vocab_size, config.hidden_size),
            config.tie_word_embeddings,
        ),
    };
    Ok(ModelSizes::new(config, bytes))
}
