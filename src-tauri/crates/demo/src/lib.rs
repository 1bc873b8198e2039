//! The demo model that ships inside the program, so that a new user can talk to Octet before
//! the download of a real model.
//!
//! It is a Mixtral in the offloading demo format (8 experts a layer, 2 at work, 2-bit experts),
//! trained from nothing on the questions and answers in `corpus/` by `train/`. It knows those
//! and little else, and is never presented as Mixtral 8x7B.
//!
//! The files are part of the executable. The engine maps model files from disk, so they are
//! unpacked once into the user's data folder and compared with the embedded bytes at every
//! later start: a damaged or half-written copy mends itself.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use directories::ProjectDirs;
use include_dir::{Dir, include_dir};
use octet_files::Access;

static FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/model");

/// What the model is called wherever it is shown.
pub const NAME: &str = "Octet demo";

/// What a person should know of the model before the first question.
pub const ABOUT: &str = "a small demo model: English, and mostly about Octet itself";

/// Questions to begin with.
pub const SUGGESTED: [&str; 4] = [
    "What is Octet?",
    "How do experts and offloading work?",
    "What do temperature and top-p do?",
    "How do I download the full model?",
];

/// The demo model could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[error(
    "the built-in demo model ({needed_bytes} bytes) cannot be unpacked to {}: {source}; free some \
     space there or make the folder writable",
    path.display()
)]
pub struct DemoError {
    /// The file or folder that failed.
    pub path: PathBuf,
    /// What the whole model takes on disk.
    pub needed_bytes: u64,
    /// The system's reason.
    pub source: io::Error,
}

/// Size of the model's files, in bytes.
pub fn size_bytes() -> u64 {
    FILES.files().map(|f| f.contents().len() as u64).sum()
}

/// The folder with the demo model, unpacked if need be: in the user's data folder, or in the
/// system's temporary folder where there is no home.
///
/// # Errors
/// [`DemoError`] when a file can neither be found as it should be nor be written.
pub fn ensure() -> Result<PathBuf, DemoError> {
    let base = ProjectDirs::from("app", "octet", "Octet")
        .map_or_else(std::env::temp_dir, |dirs| dirs.data_local_dir().to_owned());
    ensure_in(&base)
}

/// As [`ensure`], below `base`. The folder is named after the contents, so versions of the
/// program do not disturb each other.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_in(base: &Path) -> Result<PathBuf, DemoError> {
    let dir = base.join(format!("demo-{:016x}", digest()));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DemoError {
            path,
            needed_bytes: size_bytes(),
            source,
        }
    };
    fs::create_dir_all(&dir).map_err(failed(&dir))?;
    for file in FILES.files() {
        let path = dir.join(file.path());
        if !holds(&path, file.contents()) {
            octet_files::replace(&path, Access::Owner, file.contents()).map_err(failed(&path))?;
        }
    }
    Ok(dir)
}

/// FNV-1a over names and sizes, and over the bytes of every 64th position: enough to tell one
/// model from the next.
fn digest() -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    FILES.files().fold(0xcbf2_9ce4_8422_2325, |hash, file| {
        let name = file.path().as_os_str().as_encoded_bytes();
        let size = (file.contents().len() as u64).to_le_bytes();
        let bytes = name.iter().chain(&size);
        let hash = bytes.fold(hash, |hash, &b| step(hash, b));
        let sample = file.contents().iter().step_by(64);
        sample.fold(hash, |hash, &b| step(hash, b))
    })
}

/// Whether the file at `path` has exactly these bytes.
fn holds(path: &Path, bytes: &[u8]) -> bool {
    let same = || -> io::Result<bool> {
        let mut file = File::open(path)?;
        if file.metadata()?.len() != bytes.len() as u64 {
            return Ok(false);
        }
        let mut buffer = vec![0; 1 << 18];
        for chunk in bytes.chunks(buffer.len()) {
            let part = &mut buffer[..chunk.len()];
            file.read_exact(part)?;
            if part != chunk {
                return Ok(false);
            }
        }
        Ok(true)
    };
    same().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacks_once_and_mends_what_is_damaged() {
        let base = tempfile::tempdir().unwrap();
        let dir = ensure_in(base.path()).unwrap();
        let index = dir.join("model.safetensors.index.json");
        let original = fs::read(&index).unwrap();
        let untouched = fs::metadata(dir.join("config.json")).unwrap();
        fs::write(&index, &original[..original.len() / 2]).unwrap();
        fs::remove_file(dir.join("tokenizer.json")).unwrap();

        assert_eq!(ensure_in(base.path()).unwrap(), dir);
        assert_eq!(fs::read(&index).unwrap(), original);
        assert!(dir.join("tokenizer.json").is_file());
        let again = fs::metadata(dir.join("config.json")).unwrap();
        assert_eq!(
            again.modified().unwrap(),
            untouched.modified().unwrap(),
            "a file that is as it should be is not written again"
        );
        let left: u64 = fs::read_dir(&dir)
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().len())
            .sum();
        assert_eq!(left, size_bytes(), "nothing else is left in the folder");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("taken");
        fs::write(&file, "").unwrap();
        let error = ensure_in(&file).unwrap_err().to_string();
        assert!(error.contains("taken"), "{error}");
        assert!(error.contains("free some space"), "{error}");
    }
}
