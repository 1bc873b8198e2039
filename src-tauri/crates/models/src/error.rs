//! What can go wrong with models, and what to do then.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use octet_engine::plan::format_bytes;
use serde::Serialize;

use crate::names::RepoNameFault;

/// With [`ModelsError`] unless said otherwise.
pub type Result<T, E = ModelsError> = std::result::Result<T, E>;

/// Any failure of listing, downloading or keeping models. Its text says what happened, why, and
/// the next step.
///
/// As data, `kind` is the name of the variant, and `detail` what the system, the hub, or a parser of
/// damaged files says, in English.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum ModelsError {
    /// Terms have to be accepted first.
    Gated {
        /// The repository.
        repo: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The hub does not have it, or does not show it.
    Missing {
        /// Repository, revision or file.
        what: String,
    },
    /// The token is wrong, or not allowed to read this.
    Token {
        /// What the hub says.
        #[serde(rename = "detail")]
        reason: String,
    },
    /// The hub cannot be reached.
    Network {
        /// The host.
        host: String,
        /// What the system says.
        #[serde(rename = "detail")]
        reason: String,
    },
    /// The hub's certificate is not trusted, or the connection is no TLS at all.
    Tls {
        /// The host.
        host: String,
        /// What is wrong.
        #[serde(rename = "detail")]
        reason: String,
    },
    /// No room.
    DiskFull {
        /// The folder.
        path: PathBuf,
        /// Bytes still to be written, with what is kept free; 0 where that is not known.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        needed_bytes: u64,
        /// Bytes there are.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        free_bytes: u64,
    },
    /// A repository that Octet offers is not on the hub.
    Withdrawn {
        /// The repository.
        repo: String,
        /// Another one that Octet offers.
        instead: String,
    },
    /// The bytes that arrived are not those that were published, more than once.
    Checksum {
        /// The file.
        file: String,
        /// The published hash.
        expected: String,
        /// The hash of what arrived.
        found: String,
    },
    /// Too many requests, and waiting did not help.
    RateLimited {
        /// The host.
        host: String,
        /// How long the hub says to wait, in seconds.
        #[cfg_attr(feature = "specta", specta(type = Option<u32>))]
        retry_after_s: Option<u64>,
    },
    /// The hub failed, or answered with something that makes no sense.
    Hub {
        /// The host.
        host: String,
        /// What it said.
        #[serde(rename = "detail")]
        reason: String,
    },
    /// The repository or folder holds something else than a model that Octet runs.
    Foreign {
        /// Repository or folder.
        what: String,
        /// What it lacks.
        fault: ForeignFault,
    },
    /// None of the tokenizer's sources gave one that fits.
    NoTokenizerFound {
        /// The model.
        repo: String,
        /// Where it was looked for, one after the other.
        tried: Vec<TriedTokenizer>,
        /// Whether an access token might help.
        gated: bool,
    },
    /// Somebody uses it.
    InUse {
        /// The model or file; none: the models folder.
        what: Option<String>,
        /// What for.
        by: Use,
    },
    /// There is no such model, download or task.
    NotFound {
        /// Which of these.
        what: Wanted,
        /// Its name.
        name: String,
    },
    /// A short name that several models have.
    Ambiguous {
        /// The name.
        name: String,
        /// The full names that it could stand for.
        candidates: [String; 2],
    },
    /// An argument that makes no sense.
    Invalid {
        /// Which, and what is wrong with it.
        input: InvalidInput,
    },
    /// The file system refused.
    #[serde(rename = "modelsFile")]
    Io {
        /// What was tried, as a verb.
        #[serde(skip)]
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// Stopped on request; what has arrived is kept.
    Cancelled,
}

/// Why a repository or folder is no model that Octet runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum ForeignFault {
    /// A file that every model has is not there.
    #[error("it has no {file}")]
    NoFile {
        /// The file.
        file: String,
    },
    /// A file that the index names is not there.
    #[error("it lacks {file}, which its index names")]
    NoIndexedFile {
        /// The file.
        file: String,
    },
    /// The index names no embeddings.
    #[error("its index has no embeddings")]
    NoEmbeddings,
    /// The index leaves out an expert.
    #[error("its index has no layer {layer} expert {expert}")]
    NoExpert {
        /// The layer, counted from 0.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        layer: usize,
        /// The expert in its layer, counted from 0.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        expert: usize,
    },
    /// The experts are stored in another way.
    #[error("its experts are not quantized with HQQ")]
    NotHqq,
    /// A file is longer than any of its kind.
    #[error("{file} has {found} bytes, at most {limit} are read")]
    FileTooLarge {
        /// The file.
        file: String,
        /// Its bytes.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        found: u64,
        /// The bytes that are read.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        limit: u64,
    },
    /// The engine, or a parser, refuses a file.
    #[error("{detail}")]
    Refused {
        /// Why.
        detail: String,
    },
}

impl ForeignFault {
    pub(crate) fn refused(error: &dyn fmt::Display) -> Self {
        Self::Refused {
            detail: error.to_string(),
        }
    }
}

/// A place where a tokenizer was looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct TriedTokenizer {
    /// The repository.
    pub repo: String,
    /// What came of it.
    pub fault: TokenizerFault,
}

/// Why a repository gave no tokenizer that fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum TokenizerFault {
    /// The repository has no tokenizer.
    #[error("it has none")]
    None,
    /// Terms have to be accepted first.
    #[error("it is gated")]
    Gated,
    /// There is no such repository.
    #[error("it is not there")]
    NoRepository,
    /// The tokenizer has another size than the model.
    #[error("it has {tokens} tokens, the model {model}")]
    WrongSize {
        /// Tokens of the tokenizer.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        tokens: usize,
        /// Tokens of the model.
        #[cfg_attr(feature = "specta", specta(type = u32))]
        model: usize,
    },
    /// The tokenizer is another one, cannot be read, or did not arrive.
    #[error("{detail}")]
    Unusable {
        /// What is wrong with it.
        detail: String,
    },
}

/// What a model or file is in use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum Use {
    /// It is downloaded here.
    Download,
    /// Another program downloads it.
    OtherProgram,
    /// It is loaded.
    Loaded,
    /// It is deleted, repaired or moved.
    Change,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Download => "by a download; pause or cancel it first",
            Self::OtherProgram => "by another program, which downloads it",
            Self::Loaded => "because it is loaded",
            Self::Change => "because it is being changed",
        })
    }
}

/// What is looked for by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum Wanted {
    /// A download.
    Download,
    /// A model that is here.
    InstalledModel,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Download => "download",
            Self::InstalledModel => "installed model",
        })
    }
}

/// What was asked for and cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum InvalidInput {
    /// The user has no home folder.
    #[error(
        "the environment is not valid: the user has no home folder; set the variable HOME to one"
    )]
    NoHome,
    /// A name that no repository has.
    #[error("the repository's name is not valid: {name:?} {fault}; write it as owner/name")]
    RepoName {
        /// The name, shortened.
        name: String,
        /// What is wrong with it.
        fault: RepoNameFault,
    },
    /// An address that no hub has.
    #[error("{} is not valid: {fault}", endpoint_name(*.in_environment))]
    Endpoint {
        /// It comes from `HF_ENDPOINT`.
        in_environment: bool,
        /// What is wrong with it.
        fault: EndpointFault,
    },
    /// The proxy's settings, for example.
    #[error("the network's configuration is not valid: {detail}; check the proxy variables")]
    NetworkSettings {
        /// What the network library says.
        detail: String,
    },
    /// A token with spaces or other characters that no token has.
    #[error(
        "the access token is not valid: it has to be one word of ASCII letters, digits and signs \
         (hf_...)"
    )]
    Token,
    /// The hub published a hash that is none.
    #[error("a file's hash is not valid: {hash:?} is none")]
    Hash {
        /// The hash.
        hash: String,
    },
    /// Only what the hub has can be downloaded again.
    #[error(
        "the model is not valid: {model} came from a folder: put good files there, and import it \
         again"
    )]
    NotRepairable {
        /// Its id.
        model: String,
    },
    /// The models folder cannot go into itself.
    #[error("the new models folder is not valid: it is inside the old one, or the other way round")]
    FolderInside,
    /// The new models folder holds a model of the same name.
    #[error(
        "the new models folder is not valid: it already contains {repo}; choose another folder, or \
         delete one of the two"
    )]
    FolderHas {
        /// The model.
        repo: String,
    },
}

fn endpoint_name(in_environment: bool) -> &'static str {
    match in_environment {
        true => "the hub's address in HF_ENDPOINT",
        false => "the hub's address",
    }
}

/// What is wrong with a hub's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum EndpointFault {
    /// It is no address at all.
    #[error("{detail}; write it as https://HOST")]
    NoAddress {
        /// What the parser says.
        detail: String,
    },
    /// It is no web address.
    #[error("write it as https://HOST")]
    NotWeb,
    /// It carries a name or a password.
    #[error("it must not carry a name or password; use an access token")]
    HasPassword,
}

impl From<InvalidInput> for ModelsError {
    fn from(input: InvalidInput) -> Self {
        Self::Invalid { input }
    }
}

impl ModelsError {
    /// A short, stable name of the kind of failure, for reports that programs read.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gated { .. } => "gated",
            Self::Missing { .. } | Self::Withdrawn { .. } => "missing",
            Self::Token { .. } => "token",
            Self::Network { .. } => "network",
            Self::Tls { .. } => "tls",
            Self::DiskFull { .. } => "diskFull",
            Self::Checksum { .. } => "checksum",
            Self::RateLimited { .. } => "rateLimited",
            Self::Hub { .. } => "hub",
            Self::Foreign { .. } => "foreign",
            Self::NoTokenizerFound { .. } => "tokenizer",
            Self::InUse { .. } => "inUse",
            Self::NotFound { .. } => "notFound",
            Self::Ambiguous { .. } | Self::Invalid { .. } => "invalid",
            Self::Io { .. } => "io",
            Self::Cancelled => "cancelled",
        }
    }

    /// What happened and why, in a sentence.
    pub fn message(&self) -> String {
        sentence(&self.what_happened())
    }

    /// What to do next, in a sentence.
    pub fn hint(&self) -> String {
        sentence(&self.next_step())
    }

    /// No capital, no full stop.
    fn what_happened(&self) -> String {
        match self {
            Self::Gated { repo, .. } => {
                format!("{repo} is gated: its terms must be accepted on the hub first")
            }
            Self::Missing { what } => {
                format!("the hub has no {what}, or it is private")
            }
            Self::Withdrawn { repo, .. } => {
                format!("the hub does not have {repo}, though Octet offers it")
            }
            Self::Token { reason } => format!("the hub rejects the access token: {reason}"),
            Self::Network { host, reason } => format!("{host} cannot be reached: {reason}"),
            Self::Tls { host, reason } => {
                format!("the connection to {host} cannot be trusted: {reason}")
            }
            Self::DiskFull {
                path,
                needed_bytes,
                free_bytes,
            } => format!(
                "the disk that holds {} is full: {} needed, {} free",
                path.display(),
                format_bytes(*needed_bytes),
                format_bytes(*free_bytes)
            ),
            Self::Checksum {
                file,
                expected,
                found,
            } => format!(
                "the downloaded {file} is not the published one: its hash should be {}, but is {}",
                short(expected),
                short(found)
            ),
            Self::RateLimited {
                host,
                retry_after_s,
            } => match retry_after_s {
                Some(seconds) => {
                    format!("{host} has had too many requests and asks to wait {seconds} s")
                }
                None => format!("{host} has had too many requests"),
            },
            Self::Hub { host, reason } => format!("{host} returned an unexpected answer: {reason}"),
            Self::Foreign { what, fault } => {
                format!("{what} is not a model that Octet can run: {fault}")
            }
            Self::NoTokenizerFound { repo, tried, .. } => {
                let tried: Vec<String> = tried
                    .iter()
                    .map(|tried| format!("{} ({})", tried.repo, tried.fault))
                    .collect();
                format!(
                    "no tokenizer was found for {repo}; tried {}",
                    tried.join(", ")
                )
            }
            Self::InUse { what, by } => {
                let what = what.as_deref().unwrap_or("the models folder");
                format!("{what} is in use {by}")
            }
            Self::NotFound { what, name } => format!("there is no {what} {name:?}"),
            Self::Ambiguous {
                name,
                candidates: [one, other],
            } => format!("{name:?} is ambiguous: {one} or {other}"),
            Self::Invalid { input } => input.to_string(),
            Self::Io {
                action,
                path,
                detail,
            } => format!("could not {action} {}: {detail}", path.display()),
            Self::Cancelled => "paused; what was downloaded is kept".to_owned(),
        }
    }

    /// No capital, no full stop.
    fn next_step(&self) -> String {
        match self {
            Self::Gated { repo, with_token } => match with_token {
                false => format!(
                    "open the page of {repo} on the hub, accept the terms with your account, then \
                     enter an access token of that account"
                ),
                true => format!(
                    "open the page of {repo} on the hub and accept the terms with the account \
                     that the access token belongs to, then try again"
                ),
            },
            Self::Missing { .. } => "check the spelling; if it is private, enter an access token \
                                     of an account that can read it"
                .to_owned(),
            Self::Withdrawn { instead, .. } => format!(
                "nothing was downloaded and nothing is lost: choose {instead}, which Octet offers too"
            ),
            Self::Token { .. } => "create a new token with read access on the hub's settings page, \
                                   and enter it in Octet"
                .to_owned(),
            Self::Network { .. } => "check the connection, the proxy and the hub's address, then \
                                     try again"
                .to_owned(),
            Self::Tls { .. } => "check this computer's clock, that the hub's address is right, and whether a proxy in between has \
                                 a certificate that this computer does not know"
                .to_owned(),
            Self::DiskFull {
                needed_bytes,
                free_bytes,
                ..
            } => format!(
                "free {} or move the models folder to another disk, then resume; what has \
                 been downloaded is kept",
                format_bytes(needed_bytes.saturating_sub(*free_bytes).max(1_000_000))
            ),
            Self::Checksum { .. } => "try again; if the problem persists, a proxy or mirror changes \
                                      the files: use another"
                .to_owned(),
            Self::RateLimited { .. } => "resume in a few minutes; with an access token the hub \
                                         allows more"
                .to_owned(),
            Self::Hub { .. } => {
                "try again later, and check the hub's address if it is a mirror".to_owned()
            }
            Self::Foreign { .. } => "choose a Mixtral in the format of the offloading demo \
                                     (config.json, model.safetensors.index.json, HQQ experts)"
                .to_owned(),
            Self::NoTokenizerFound { gated, .. } => match gated {
                true => "enter an access token of an account that has accepted the terms of the \
                         gated one, then try again"
                    .to_owned(),
                false => "try again, or put the model's tokenizer.json into its folder"
                    .to_owned(),
            },
            Self::InUse { .. } => "unload the model or end what uses it, then try again".to_owned(),
            Self::NotFound { .. } => "check the list of models".to_owned(),
            Self::Ambiguous { .. } => "give the full name".to_owned(),
            Self::Invalid { .. } => "correct it, then try again".to_owned(),
            Self::Io { .. } => {
                "check that the folder exists and is writable, then try again".to_owned()
            }
            Self::Cancelled => "resume to continue".to_owned(),
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            return Self::DiskFull {
                path: path.to_owned(),
                needed_bytes: 0,
                free_bytes: crate::disk::free_bytes(path).unwrap_or(0),
            };
        }
        Self::Io {
            action,
            path: path.to_owned(),
            detail: source.to_string(),
        }
    }
}

impl fmt::Display for ModelsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what_happened(), self.next_step())
    }
}

impl std::error::Error for ModelsError {}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// With a capital and a full stop.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = match chars.next() {
        // Names of repositories and hosts stay as they are.
        Some(first)
            if !text
                .split(' ')
                .next()
                .is_some_and(|w| w.contains(['/', '.'])) =>
        {
            first.to_uppercase().collect()
        }
        Some(first) => first.to_string(),
        None => return String::new(),
    };
    format!("{first}{}.", chars.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_error_is_a_kind_with_its_names_and_numbers_and_is_told_in_sentences() {
        let text = str::to_owned;
        let cases = [
            (
                ModelsError::Gated {
                    repo: text("a/b"),
                    with_token: false,
                },
                json!({"kind": "gated", "repo": "a/b", "withToken": false}),
            ),
            (
                ModelsError::Missing { what: text("a/b") },
                json!({"kind": "missing", "what": "a/b"}),
            ),
            (
                ModelsError::Token {
                    reason: text("401"),
                },
                json!({"kind": "token", "detail": "401"}),
            ),
            (
                ModelsError::Network {
                    host: text("h"),
                    reason: text("refused"),
                },
                json!({"kind": "network", "host": "h", "detail": "refused"}),
            ),
            (
                ModelsError::Tls {
                    host: text("h"),
                    reason: text("unknown issuer"),
                },
                json!({"kind": "tls", "host": "h", "detail": "unknown issuer"}),
            ),
            (
                ModelsError::DiskFull {
                    path: "m".into(),
                    needed_bytes: 7,
                    free_bytes: 5,
                },
                json!({"kind": "diskFull", "path": "m", "neededBytes": 7, "freeBytes": 5}),
            ),
            (
                ModelsError::Withdrawn {
                    repo: text("a/b"),
                    instead: text("a/c"),
                },
                json!({"kind": "withdrawn", "repo": "a/b", "instead": "a/c"}),
            ),
            (
                ModelsError::Checksum {
                    file: text("f"),
                    expected: text("0f"),
                    found: text("f0"),
                },
                json!({"kind": "checksum", "file": "f", "expected": "0f", "found": "f0"}),
            ),
            (
                ModelsError::RateLimited {
                    host: text("h"),
                    retry_after_s: Some(30),
                },
                json!({"kind": "rateLimited", "host": "h", "retryAfterS": 30}),
            ),
            (
                ModelsError::Hub {
                    host: text("h"),
                    reason: text("502"),
                },
                json!({"kind": "hub", "host": "h", "detail": "502"}),
            ),
            (
                ModelsError::Foreign {
                    what: text("a/b"),
                    fault: ForeignFault::NoFile {
                        file: text("config.json"),
                    },
                },
                json!({
                    "kind": "foreign",
                    "what": "a/b",
                    "fault": {"kind": "noFile", "file": "config.json"},
                }),
            ),
            (
                ModelsError::NoTokenizerFound {
                    repo: text("a/b"),
                    tried: vec![TriedTokenizer {
                        repo: text("c/d"),
                        fault: TokenizerFault::Gated,
                    }],
                    gated: true,
                },
                json!({
                    "kind": "noTokenizerFound",
                    "repo": "a/b",
                    "tried": [{"repo": "c/d", "fault": {"kind": "gated"}}],
                    "gated": true,
                }),
            ),
            (
                ModelsError::InUse {
                    what: None,
                    by: Use::Download,
                },
                json!({"kind": "inUse", "what": null, "by": "download"}),
            ),
            (
                ModelsError::NotFound {
                    what: Wanted::InstalledModel,
                    name: text("m"),
                },
                json!({"kind": "notFound", "what": "installedModel", "name": "m"}),
            ),
            (
                ModelsError::Ambiguous {
                    name: text("m"),
                    candidates: [text("a/m"), text("b/m")],
                },
                json!({"kind": "ambiguous", "name": "m", "candidates": ["a/m", "b/m"]}),
            ),
            (
                InvalidInput::Endpoint {
                    in_environment: true,
                    fault: EndpointFault::NotWeb,
                }
                .into(),
                json!({
                    "kind": "invalid",
                    "input": {
                        "kind": "endpoint",
                        "inEnvironment": true,
                        "fault": {"kind": "notWeb"},
                    },
                }),
            ),
            (
                ModelsError::io("write", Path::new("m"), io::Error::other("read-only")),
                json!({"kind": "modelsFile", "path": "m", "detail": "read-only"}),
            ),
            (ModelsError::Cancelled, json!({"kind": "cancelled"})),
        ];
        for (error, expected) in cases {
            assert_eq!(serde_json::to_value(&error).unwrap(), expected);
            for sentence in [error.message(), error.hint()] {
                assert!(sentence.ends_with('.'), "{sentence}");
            }
        }
    }

    #[test]
    fn what_was_asked_for_and_cannot_be_names_itself() {
        let input = InvalidInput::Endpoint {
            in_environment: true,
            fault: EndpointFault::HasPassword,
        };
        assert_eq!(
            ModelsError::from(input).to_string(),
            "the hub's address in HF_ENDPOINT is not valid: it must not carry a name or password; \
             use an access token; correct it, then try again"
        );
    }
}
