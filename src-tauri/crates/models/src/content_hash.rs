//! Hashes of content, as the hub names them.
//!
//! A blob's name in a Hugging Face cache is its hash: 64 hex digits are the SHA-256 of a file in
//! large file storage, 40 the SHA-1 that git gives a small one (of `blob SIZE\0` and the bytes).

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;

use sha2::Digest;

/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// A hash that is being computed.
#[derive(Clone)]
pub(crate) enum ContentHash {
    Sha256(sha2::Sha256),
    Git(sha1::Sha1),
}

impl ContentHash {
    /// For a file of `size` bytes whose blob has this name; none where the name is no hash.
    pub(crate) fn for_blob(name: &str, size: u64) -> Option<Self> {
        if !name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        match name.len() {
            64 => Some(Self::Sha256(sha2::Sha256::new())),
            40 => {
                let mut hash = sha1::Sha1::new();
                hash.update(format!("blob {size}\0"));
                Some(Self::Git(hash))
            }
            _ => None,
        }
    }

    pub(crate) fn sha256() -> Self {
        Self::Sha256(sha2::Sha256::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    /// In lower-case hex.
    pub(crate) fn finish(self) -> String {
        match self {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Git(hash) => hex(&hash.finalize()),
        }
    }

    /// Adds what `file` holds from where it stands to its end. `proceed` is told of each
    /// stretch; after a break the rest is left out and the answer is `false`.
    pub(crate) fn update_from(
        &mut self,
        file: &mut File,
        proceed: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> io::Result<bool> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = match file.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.update(&buffer[..n]);
            if proceed(n as u64).is_break() {
                return Ok(false);
            }
        }
    }
}

/// The hash of the file at `path`, in the way that the blob name `name` is made; none after a
/// break, or where the name is no hash.
pub(crate) fn of_file(
    path: &Path,
    name: &str,
    proceed: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let Some(mut hash) = ContentHash::for_blob(name, file.metadata()?.len()) else {
        return Ok(None);
    };
    let is_whole = hash.update_from(&mut file, proceed)?;
    Ok(is_whole.then(|| hash.finish()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_of_large_file_storage() {
        // `printf 'hello\n' | git hash-object --stdin`, `printf 'hello\n' | sha256sum`.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        for name in [git, sha256] {
            let mut hash = ContentHash::for_blob(name, 6).unwrap();
            hash.update(b"hel");
            hash.update(b"lo\n");
            assert_eq!(hash.finish(), name);
        }
        assert!(ContentHash::for_blob("main", 6).is_none());
        assert!(ContentHash::for_blob(&"G".repeat(64), 6).is_none());
    }
}
