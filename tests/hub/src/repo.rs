//! What is published.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::Digest;

/// Files up to this size are kept in memory.
const IN_MEMORY_BYTES: u64 = 64 << 20;

/// Smaller files of other kinds than tensors are in git itself.
const LARGE_BYTES: u64 = 10 << 20;

/// A repository at one commit.
#[derive(Clone, Debug)]
pub struct Repo {
    files: Vec<RepoFile>,
    commit: String,
    /// Its terms have to be accepted: only these accounts have done so.
    accepted: Option<Vec<String>>,
    is_private: bool,
}

/// A file of it.
#[derive(Clone, Debug)]
pub struct RepoFile {
    /// With slashes.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-1, as git makes it: of the content, or of the pointer to it.
    pub oid: String,
    /// SHA-256, where it is in large file storage.
    pub sha256: Option<String>,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Memory(Bytes),
    Disk(PathBuf),
}

impl Repo {
    /// Of these files.
    pub fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let files = files.into_iter();
        Self::of(
            files
                .map(|(name, bytes)| RepoFile::in_memory(name, bytes.into()))
                .collect(),
        )
    }

    /// Of the files in `folder`, its subfolders included.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn from_folder(folder: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        let mut folders = vec![(folder.to_owned(), String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if entry.path().is_dir() {
                    folders.push((entry.path(), format!("{name}/")));
                } else {
                    files.push(RepoFile::on_disk(name, &entry.path())?);
                }
            }
        }
        Ok(Self::of(files))
    }

    fn of(mut files: Vec<RepoFile>) -> Self {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut commit = sha1::Sha1::new();
        for file in &files {
            commit.update(format!("{} {}\n", file.oid, file.name));
        }
        Self {
            files,
            commit: hex(&commit.finalize()),
            accepted: None,
            is_private: false,
        }
    }

    /// With terms that only these accounts have accepted.
    #[must_use]
    pub fn gated(mut self, accepted: &[&str]) -> Self {
        self.accepted = Some(accepted.iter().map(|&name| name.to_owned()).collect());
        self
    }

    /// Shown to known accounts only.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.is_private = true;
        self
    }

    /// Lists a file under another name; what is published stays reachable under the old one.
    #[must_use]
    pub fn renamed(mut self, name: &str, listed: &str) -> Self {
        for file in &mut self.files {
            if file.name == name {
                listed.clone_into(&mut file.name);
            }
        }
        self
    }

    /// Its files.
    pub fn files(&self) -> &[RepoFile] {
        &self.files
    }

    /// The commit that `main` is.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    pub(crate) fn file(&self, name: &str) -> Option<&RepoFile> {
        self.files.iter().find(|file| file.name == name)
    }

    pub(crate) fn is_private(&self) -> bool {
        self.is_private
    }

    pub(crate) fn is_gated(&self) -> bool {
        self.accepted.is_some()
    }

    pub(crate) fn has_accepted(&self, account: &str) -> bool {
        self.accepted
            .as_ref()
            .is_none_or(|names| names.iter().any(|name| name == account))
    }

    /// As the hub tells of a model.
    pub(crate) fn info(&self, name: &str, with_blobs: bool) -> Value {
        let siblings: Vec<Value> = self
            .files
            .iter()
            .map(|file| match with_blobs {
                false => json!({"rfilename": file.name}),
                true => {
                    let mut entry =
                        json!({"rfilename": file.name, "size": file.size, "blobId": file.oid});
                    if let Some(sha256) = &file.sha256 {
                        entry["lfs"] =
                            json!({"sha256": sha256, "size": file.size, "pointerSize": 134});
                    }
                    entry
                }
            })
            .collect();
        json!({
            "_id": "0123456789abcdef01234567",
            "id": name,
            "modelId": name,
            "author": name.split('/').next(),
            "sha": self.commit,
            "lastModified": "2024-01-01T00:00:00.000Z",
            "createdAt": "2024-01-01T00:00:00.000Z",
            "private": self.is_private,
            "gated": if self.is_gated() { json!("auto") } else { json!(false) },
            "disabled": false,
            "downloads": 0,
            "likes": 0,
            "tags": ["mixtral", "license:apache-2.0"],
            "siblings": siblings,
        })
    }

    /// As the hub tells of a folder's content.
    pub(crate) fn tree(&self) -> Value {
        let entry = |file: &RepoFile| {
            let mut entry = json!({
                "type": "file", "oid": file.oid, "size": file.size, "path": file.name,
            });
            if let Some(sha256) = &file.sha256 {
                entry["lfs"] = json!({"oid": sha256, "size": file.size, "pointerSize": 134});
            }
            entry
        };
        self.files.iter().map(entry).collect()
    }
}

impl RepoFile {
    fn in_memory(name: String, bytes: Bytes) -> Self {
        let sha256 = hex(&sha2::Sha256::digest(&bytes));
        let size = bytes.len() as u64;
        Self::new(name, size, sha256, &bytes, Content::Memory(bytes.clone()))
    }

    fn on_disk(name: String, path: &Path) -> io::Result<Self> {
        let size = std::fs::metadata(path)?.len();
        if size <= IN_MEMORY_BYTES {
            return Ok(Self::in_memory(name, std::fs::read(path)?.into()));
        }
        let mut hash = sha2::Sha256::new();
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
        let sha256 = hex(&hash.finalize());
        Ok(Self::new(
            name,
            size,
            sha256,
            &[],
            Content::Disk(path.to_owned()),
        ))
    }

    fn new(name: String, size: u64, sha256: String, bytes: &[u8], content: Content) -> Self {
        let is_large = size > LARGE_BYTES || name.ends_with(".safetensors");
        let git = match is_large {
            true => git_oid(
                format!(
                    "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
                )
                .as_bytes(),
            ),
            false => git_oid(bytes),
        };
        Self {
            name,
            size,
            oid: git,
            sha256: is_large.then_some(sha256),
            content,
        }
    }

    /// Its hash as the hub's entity tag: of the content in any case.
    pub fn etag(&self) -> &str {
        self.sha256.as_deref().unwrap_or(&self.oid)
    }

    /// Bytes from `at` on, at most `most`. May wait for the disk.
    pub(crate) fn read(&self, at: u64, most: usize) -> io::Result<Bytes> {
        let most = (self.size - at).min(most as u64) as usize;
        match &self.content {
            Content::Memory(bytes) => {
                let at = at as usize;
                Ok(bytes.slice(at..at + most))
            }
            Content::Disk(path) => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(at))?;
                let mut bytes = vec![0; most];
                file.read_exact(&mut bytes)?;
                Ok(bytes.into())
            }
        }
    }

    pub(crate) fn is_on_disk(&self) -> bool {
        matches!(self.content, Content::Disk(_))
    }
}

fn git_oid(bytes: &[u8]) -> String {
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
