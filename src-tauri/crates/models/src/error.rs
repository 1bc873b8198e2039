//! What can go wrong with models, and what to do then.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use octet_engine::plan::format_bytes;

use crate::{Problem, ProblemCode};

/// With [`ModelsError`] unless said otherwise.
pub type Result<T, E = ModelsError> = std::result::Result<T, E>;

/// Any failure of listing, downloading or keeping models. Its text says what happened, why, and
/// the next step.
#[derive(Debug)]
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
        reason: String,
    },
    /// The hub cannot be reached.
    Network {
        /// The host.
        host: String,
        /// What the system says.
        reason: String,
    },
    /// The hub's certificate is not trusted, or the connection is no TLS at all.
    Tls {
        /// The host.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// No room.
    DiskFull {
        /// The folder.
        path: PathBuf,
        /// Bytes still to be written, with what is kept free.
        needed_bytes: u64,
        /// Bytes there are.
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
        /// How long the hub says to wait.
        wait: Option<Duration>,
    },
    /// The hub failed, or answered with something that makes no sense.
    Hub {
        /// The host.
        host: String,
        /// What it said.
        reason: String,
    },
    /// The repository or folder holds something else than a model that Octet runs.
    Foreign {
        /// Repository or folder.
        what: String,
        /// What it lacks.
        reason: String,
    },
    /// None of the tokenizer's sources gave one that fits.
    Tokenizer {
        /// The model.
        repo: String,
        /// Repository and what was wrong, one after the other.
        tried: Vec<(String, String)>,
        /// Whether an access token might help.
        gated: bool,
    },
    /// Somebody uses it.
    InUse {
        /// The model or folder.
        what: String,
        /// Who, and what to do.
        by: String,
    },
    /// There is no such model, download or task.
    NotFound {
        /// `model`, `download`, ...
        what: &'static str,
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
        /// The argument.
        what: &'static str,
        /// What was expected.
        reason: String,
    },
    /// The file system refused.
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Stopped on request; what has arrived is kept.
    Cancelled,
}

impl ModelsError {
    /// To branch on.
    pub fn code(&self) -> ProblemCode {
        match self {
            Self::Gated { .. } => ProblemCode::Gated,
            Self::Missing { .. } | Self::Withdrawn { .. } => ProblemCode::Missing,
            Self::Token { .. } => ProblemCode::Token,
            Self::Network { .. } => ProblemCode::Network,
            Self::Tls { .. } => ProblemCode::Tls,
            Self::DiskFull { .. } => ProblemCode::DiskFull,
            Self::Checksum { .. } => ProblemCode::Checksum,
            Self::RateLimited { .. } => ProblemCode::RateLimited,
            Self::Hub { .. } => ProblemCode::Hub,
            Self::Foreign { .. } => ProblemCode::Foreign,
            Self::Tokenizer { .. } => ProblemCode::Tokenizer,
            Self::InUse { .. } => ProblemCode::InUse,
            Self::NotFound { .. } => ProblemCode::NotFound,
            Self::Ambiguous { .. } | Self::Invalid { .. } => ProblemCode::Invalid,
            Self::Io { .. } => ProblemCode::Io,
            Self::Cancelled => ProblemCode::Cancelled,
        }
    }

    /// As a person meets it.
    pub fn problem(&self) -> Problem {
        Problem {
            code: self.code(),
            message: sentence(&self.message()),
            hint: sentence(&self.hint()),
        }
    }

    /// What happened and why, with numbers; no capital, no full stop.
    fn message(&self) -> String {
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
            Self::RateLimited { host, wait } => match wait {
                Some(wait) => format!(
                    "{host} has had too many requests and asks to wait {} s",
                    wait.as_secs().max(1)
                ),
                None => format!("{host} has had too many requests"),
            },
            Self::Hub { host, reason } => format!("{host} returned an unexpected answer: {reason}"),
            Self::Foreign { what, reason } => {
                format!("{what} is not a model that Octet can run: {reason}")
            }
            Self::Tokenizer { repo, tried, .. } => {
                let tried: Vec<String> = tried
                    .iter()
                    .map(|(r, why)| format!("{r} ({why})"))
                    .collect();
                format!(
                    "no tokenizer was found for {repo}; tried {}",
                    tried.join(", ")
                )
            }
            Self::InUse { what, by } => format!("{what} is in use {by}"),
            Self::NotFound { what, name } => format!("there is no {what} {name:?}"),
            Self::Ambiguous {
                name,
                candidates: [one, other],
            } => format!("{name:?} is ambiguous: {one} or {other}"),
            Self::Invalid { what, reason } => format!("{what} is not valid: {reason}"),
            Self::Io {
                action,
                path,
                source,
            } => format!("could not {action} {}: {source}", path.display()),
            Self::Cancelled => "paused; what was downloaded is kept".to_owned(),
        }
    }

    /// What to do next.
    fn hint(&self) -> String {
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
            Self::Tokenizer { gated, .. } => match gated {
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
            source,
        }
    }

    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            what,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for ModelsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message(), self.hint())
    }
}

impl std::error::Error for ModelsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

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
