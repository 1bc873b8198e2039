//! A tokenizer for a model: from the first source that has the right one.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use octet_engine::tokenizer::Tokenizer;

use crate::cache::RepoDir;
use crate::catalogue::{TokenizerCheck, TokenizerSources};
use crate::download::Job;
use crate::names::RepoName;
use crate::record::RepoFile;
use crate::remote::{RemoteModel, TOKENIZER_FILE};
use crate::transfer::{Failure, Transfer, blocking};
use crate::{ModelsError, TokenizerFault, TriedTokenizer};

/// A tokenizer that is right.
pub(crate) struct FoundTokenizer {
    pub(crate) repo: RepoName,
    pub(crate) path: PathBuf,
}

/// Looks for a tokenizer in the model's own repository, then in the job's sources. What is on
/// disk already is not fetched again, but compared where it is `unchecked`.
///
/// # Errors
/// [`ModelsError::NoTokenizerFound`] with what was tried; no connection at all is an error of its own.
pub(crate) async fn find(
    job: &Job,
    model: &RemoteModel,
    unchecked: &HashSet<String>,
) -> Result<FoundTokenizer, Failure> {
    let mut tried = Vec::new();
    let mut gated = false;
    if let Some(file) = model.tokenizer() {
        let dir = RepoDir::new(&job.root, &job.repo);
        let fetched = fetch(job, &job.repo, &dir, &model.commit, file, unchecked).await?;
        match check(fetched.clone(), Check::Fits(model.config.vocab_size)).await? {
            None => return Ok(found(&job.repo, fetched)),
            Some(fault) => tried.push(tried_in(&job.repo, fault)),
        }
    } else {
        tried.push(tried_in(&job.repo, TokenizerFault::None));
    }
    let TokenizerSources { repos, check } = &job.sources;
    let is_fitting = check.vocab_size <= model.config.vocab_size;
    for repo in repos.iter().filter(|_| is_fitting) {
        match from_repo(job, repo, Check::Known(check.clone())).await {
            Ok(Ok(path)) => return Ok(found(repo, path)),
            Ok(Err(fault)) => tried.push(tried_in(repo, fault)),
            Err(Failure::Final(error)) => {
                let fault = fault_of(error)?;
                gated |= fault == TokenizerFault::Gated;
                tried.push(tried_in(repo, fault));
            }
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::Final(ModelsError::NoTokenizerFound {
        repo: job.repo.to_string(),
        tried,
        gated,
    }))
}

fn tried_in(repo: &RepoName, fault: TokenizerFault) -> TriedTokenizer {
    let repo = repo.to_string();
    TriedTokenizer { repo, fault }
}

/// What an answer of the hub says of one source.
///
/// # Errors
/// What would be the same of every other source.
fn fault_of(error: ModelsError) -> Result<TokenizerFault, ModelsError> {
    Ok(match error {
        ModelsError::Gated { .. } | ModelsError::Token { .. } => TokenizerFault::Gated,
        ModelsError::Missing { .. } | ModelsError::Withdrawn { .. } => TokenizerFault::NoRepository,
        ModelsError::Hub { .. } | ModelsError::Foreign { .. } | ModelsError::Checksum { .. } => {
            TokenizerFault::Unusable {
                detail: error.message(),
            }
        }
        other => return Err(other),
    })
}

fn found(repo: &RepoName, path: PathBuf) -> FoundTokenizer {
    FoundTokenizer {
        repo: repo.clone(),
        path,
    }
}

/// The tokenizer of `repo`, or why it is not the right one.
async fn from_repo(
    job: &Job,
    repo: &RepoName,
    wanted: Check,
) -> Result<Result<PathBuf, TokenizerFault>, Failure> {
    let dir = RepoDir::new(&job.root, repo);
    if let Some(here) = dir.cached(TOKENIZER_FILE)
        && check(here.clone(), wanted.clone()).await?.is_none()
    {
        return Ok(Ok(here));
    }
    let listing = job.persist(|| job.hub.list(repo, "main")).await?;
    let Some(file) = listing.file(TOKENIZER_FILE) else {
        return Ok(Err(TokenizerFault::None));
    };
    let path = fetch(job, repo, &dir, &listing.commit, file, &HashSet::new()).await?;
    if let Some(fault) = check(path.clone(), wanted).await? {
        return Ok(Err(fault));
    }
    dir.place(&listing.commit, file)?;
    // What other programs know as `main` stays so: it may have files that this one lacks.
    if dir.commit().is_none_or(|commit| commit == listing.commit) {
        dir.set_commit(&listing.commit)?;
    }
    Ok(Ok(dir.complete(&listing.commit, file).unwrap_or(path)))
}

async fn fetch(
    job: &Job,
    repo: &RepoName,
    dir: &RepoDir,
    commit: &str,
    file: &RepoFile,
    unchecked: &HashSet<String>,
) -> Result<PathBuf, Failure> {
    let transfer = Transfer::new(
        Arc::clone(&job.hub),
        repo.clone(),
        dir.clone(),
        commit.to_owned(),
        vec![file.clone()],
        job.options.clone(),
        job.stop.clone(),
    );
    Arc::new(transfer.doubting(unchecked)).run().await?;
    let path = dir.complete(commit, file);
    path.ok_or_else(|| Failure::Changed(file.path.clone()))
}

/// What a tokenizer is held against.
#[derive(Clone)]
enum Check {
    /// A known one.
    Known(TokenizerCheck),
    /// Whatever fits a model of so many embeddings.
    Fits(usize),
}

/// Why the tokenizer at `path` is not the right one, if it is not.
async fn check(path: PathBuf, wanted: Check) -> Result<Option<TokenizerFault>, Failure> {
    let fault = blocking(move || {
        let tokenizer = match Tokenizer::open(&path) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                return Some(TokenizerFault::Unusable {
                    detail: error.to_string(),
                });
            }
        };
        match wanted {
            Check::Known(known) => {
                let detail = known.refuse(&tokenizer)?;
                Some(TokenizerFault::Unusable { detail })
            }
            Check::Fits(model) => {
                let tokens = tokenizer.vocab_size();
                let fits = tokenizer.fits(model);
                (!fits).then_some(TokenizerFault::WrongSize { tokens, model })
            }
        }
    });
    Ok(fault.await?)
}
