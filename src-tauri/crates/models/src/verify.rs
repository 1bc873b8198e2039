//! Every byte of a model against the hashes that were published with it.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use octet_engine::checkpoint::Checkpoint;

use crate::content_hash;
use crate::library::{Found, FoundRepo, size_of};
use crate::record::{Damage, RepoFile, now_ms};
use crate::work::Work;
use crate::{BadFile, FileFault, ModelsError, Result, VerifyReport};

/// Files that are read at a time.
const MAX_THREADS: usize = 4;

/// Compares all files. Where nothing is known to compare with (a linked folder), the engine's own
/// checks have to do.
///
/// # Errors
/// [`ModelsError::Cancelled`]; files that are bad are no error but what is reported.
pub(crate) fn verify(found: &Found, work: &Work) -> Result<VerifyReport> {
    let files: &[RepoFile] = match &found.repo {
        Some(repo) => &repo.manifest.files,
        None => &[],
    };
    work.expect(
        files
            .iter()
            .map(|file| file.size)
            .filter(|size| *size != u64::MAX)
            .sum(),
    );
    let mut bad: Vec<(usize, BadFile)> = Vec::new();
    let mut bytes = 0;
    let mut unknown = 0;
    for (index, outcome) in compare_all(found, files, work)? {
        let file = &files[index];
        match outcome {
            Outcome::Good => bytes += file.size,
            Outcome::Unknown => unknown += 1,
            Outcome::Bad(fault) => {
                let file = file.path.clone();
                bad.push((index, BadFile { file, fault }));
            }
        }
    }
    bad.sort_by_key(|(index, _)| *index);
    let mut bad: Vec<BadFile> = bad.into_iter().map(|(_, bad)| bad).collect();
    if let Some(repo) = &found.repo
        // A folder that cannot be written to was compared too.
        && let Err(error) = keep(found, repo, &bad, unknown)
    {
        tracing::debug!(%error, "what verifying found was not kept");
    }
    // What the engine refuses, the list shows without having been told.
    if bad.is_empty()
        && let Err(error) = Checkpoint::open(&found.folder)
    {
        bad.push(BadFile {
            file: found.name.clone(),
            fault: FileFault::Refused {
                detail: error.to_string(),
            },
        });
    }
    Ok(VerifyReport {
        model: found.id.clone(),
        files: files.len() as u32 - unknown,
        bytes,
        bad,
        unknown,
    })
}

/// Writes down what was found: for the list of models, all of it that a look at sizes does not
/// show; for a repair, that the others were compared.
fn keep(found: &Found, repo: &FoundRepo, bad: &[BadFile], unknown: u32) -> Result<()> {
    let seen = found.bad_by_size();
    let unseen = |bad: &&BadFile| !seen.iter().any(|seen| seen.file == bad.file);
    if !bad.is_empty() {
        let damage = Damage {
            commit: repo.manifest.commit.clone(),
            files: bad.iter().filter(unseen).cloned().collect(),
            checked_at_ms: now_ms(),
        };
        return damage.write(&repo.dir);
    }
    Damage::remove(&repo.dir);
    if unknown == 0 {
        let mut manifest = repo.manifest.clone();
        manifest.verified_at_ms = Some(now_ms());
        manifest.write(&repo.dir)?;
    }
    Ok(())
}

enum Outcome {
    Good,
    Unknown,
    Bad(FileFault),
}

/// Several files at a time; the largest first, so that the threads end together.
fn compare_all(found: &Found, files: &[RepoFile], work: &Work) -> Result<Vec<(usize, Outcome)>> {
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(files[*index].size));
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(MAX_THREADS).min(files.len()) {
            scope.spawn(|| {
                while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if work.go_on().is_err() {
                        break;
                    }
                    let path = found.folder.join(&files[index].path);
                    let outcome = compare(path, &files[index], work);
                    let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    outcomes.push((index, outcome));
                }
            });
        }
    });
    work.go_on()?;
    Ok(outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner))
}

fn compare(path: PathBuf, file: &RepoFile, work: &Work) -> Outcome {
    if let Err(fault) = size_of(&path, file.size) {
        return Outcome::Bad(fault);
    }
    match content_hash::of_file(&path, &file.blob, &mut work.proceed()) {
        Ok(Some(found)) if found == file.blob => Outcome::Good,
        Ok(Some(found)) => Outcome::Bad(FileFault::Content {
            found: found[..12].to_owned(),
            expected: file.blob[..12].to_owned(),
        }),
        // After a break this is thrown away.
        Ok(None) => Outcome::Unknown,
        Err(error) => Outcome::Bad(FileFault::Unreadable {
            detail: error.to_string(),
        }),
    }
}

/// Makes room for good copies of bad files.
///
/// # Errors
/// Where one cannot be removed.
pub(crate) fn remove_bad(found: &Found, bad: &[BadFile]) -> Result<()> {
    let Some(repo) = &found.repo else {
        return Ok(());
    };
    for file in &repo.manifest.files {
        if !bad.iter().any(|bad| bad.file == file.path) {
            continue;
        }
        // In this order: without its blob, the link is one to nothing and leads nowhere else.
        let mut paths = vec![found.folder.join(&file.path)];
        if !file.blob.is_empty() {
            paths.push(repo.dir.blob(&file.blob));
        }
        for path in paths {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ModelsError::io("remove", &path, error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
