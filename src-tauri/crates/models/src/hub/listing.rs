//! What a repository holds.

use serde::Deserialize;

use crate::ModelsError;
use crate::cache::is_commit;
use crate::content_hash::ContentHash;
use crate::names::{check_file_names, shorten};
use crate::record::RepoFile;
use crate::transfer::Failure;

/// Files that a repository may have.
const MAX_FILES: usize = 20_000;

/// A repository at one commit. Every name is safe and every hash is one.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<RepoFile>,
    pub(crate) license: Option<String>,
}

impl Listing {
    pub(crate) fn file(&self, path: &str) -> Option<&RepoFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

pub(super) fn parse(host: &str, json: &[u8]) -> Result<Listing, Failure> {
    let nonsense = |reason: String| {
        Failure::Final(ModelsError::Hub {
            host: host.to_owned(),
            reason,
        })
    };
    // A cut-off answer is no JSON either: it may be whole the next time.
    let answer: Answer = serde_json::from_slice(json).map_err(|error| {
        Failure::passing(ModelsError::Hub {
            host: host.to_owned(),
            reason: format!("the list of files cannot be read: {error}"),
        })
    })?;
    if !is_commit(&answer.sha) {
        let commit = shorten(&answer.sha);
        return Err(nonsense(format!("{commit:?} is no commit")));
    }
    if answer.siblings.len() > MAX_FILES {
        let count = answer.siblings.len();
        return Err(nonsense(format!("a repository of {count} files")));
    }
    check_file_names(host, answer.siblings.iter().map(|s| s.rfilename.as_str()))?;
    let mut files = Vec::with_capacity(answer.siblings.len());
    for sibling in answer.siblings {
        let (blob, size) = match (sibling.lfs, sibling.blob_id, sibling.size) {
            (Some(lfs), _, _) => (lfs.sha256, lfs.size),
            (None, Some(id), Some(size)) => (id, size),
            _ => {
                let name = shorten(&sibling.rfilename);
                return Err(nonsense(format!("{name} is listed without size and hash")));
            }
        };
        if ContentHash::for_blob(&blob, size).is_none() {
            let name = shorten(&sibling.rfilename);
            return Err(nonsense(format!(
                "{name} is listed with {:?} as hash",
                shorten(&blob)
            )));
        }
        files.push(RepoFile {
            path: sibling.rfilename,
            size,
            blob,
        });
    }
    let license = answer
        .tags
        .iter()
        .find_map(|tag| tag.strip_prefix("license:"));
    Ok(Listing {
        commit: answer.sha.to_lowercase(),
        license: license.map(str::to_owned),
        files,
    })
}
