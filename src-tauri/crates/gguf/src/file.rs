//! One file: mapped, and open for positioned reads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use octet_files::position::read_exact_at;

use crate::error::GgufError;
use crate::header::{Header, HeaderError, parse_header};
use crate::metadata::Metadata;
use crate::tensor::TensorInfo;
use crate::value::Stored;

/// The smallest page of the systems supported.
const PAGE_BYTES: usize = 4096;

/// A file whose header was read and checked. It stays mapped and open as long as this lives.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    len_bytes: u64,
    map: Mmap,
    version: u32,
    entries: BTreeMap<String, Stored>,
}

impl GgufFile {
    /// Opens one file, and gives its tensors beside it.
    pub(crate) fn open(path: &Path) -> Result<(Self, BTreeMap<String, TensorInfo>), GgufError> {
        let file = open_regular(path)?.ok_or_else(|| GgufError::Missing {
            path: path.to_owned(),
        })?;
        let len_bytes = len_bytes(&file, path)?;
        if isize::try_from(len_bytes).is_err() {
            return Err(GgufError::TooLarge {
                path: path.to_owned(),
                len_bytes,
            });
        }
        let header_error = |source: HeaderError| GgufError::Header {
            path: path.to_owned(),
            source,
        };
        if len_bytes == 0 {
            // Not every system maps nothing.
            parse_header(&[], 0).map_err(header_error)?;
        }
        // SAFETY: the map is only read. Its bytes are plain numbers, valid whatever they are, and
        // text is checked at each access; whoever changes or cuts the file while it is mapped
        // breaks the contract that the crate documents.
        let map = unsafe { Mmap::map(&file) }.map_err(GgufError::io("map", path))?;
        if map.len() as u64 != len_bytes {
            return Err(GgufError::Changed {
                path: path.to_owned(),
                expected_bytes: len_bytes,
                found_bytes: map.len() as u64,
            });
        }
        let Header {
            version,
            entries,
            tensors,
            ..
        } = parse_header(&map, len_bytes).map_err(header_error)?;
        let opened = Self {
            path: path.to_owned(),
            file,
            len_bytes,
            map,
            version,
            entries,
        };
        Ok((opened, tensors))
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length when it was opened.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Its own metadata. Of a model in several files the first one's counts.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata::new(&self.entries, &self.map)
    }

    pub(crate) fn mapped(&self, range: Range<usize>) -> &[u8] {
        &self.map[range]
    }

    /// Reads `buf.len()` bytes from `offset` on, without a shared file position.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), GgufError> {
        // A file that fails may be another one by now: a drive that was away, a mended download.
        if self.read_from(&self.file, buf, offset).is_ok() {
            return Ok(());
        }
        let file = self.reopen()?;
        self.read_from(&file, buf, offset)
    }

    fn read_from(&self, file: &File, buf: &mut [u8], offset: u64) -> Result<(), GgufError> {
        self.check_len(file)?;
        read_exact_at(file, buf, offset).map_err(GgufError::io("read", &self.path))
    }

    fn reopen(&self) -> Result<File, GgufError> {
        open_regular(&self.path)?.ok_or_else(|| GgufError::Gone {
            path: self.path.clone(),
        })
    }

    fn check_len(&self, file: &File) -> Result<(), GgufError> {
        let found_bytes = len_bytes(file, &self.path)?;
        if found_bytes == self.len_bytes {
            return Ok(());
        }
        Err(GgufError::Changed {
            path: self.path.clone(),
            expected_bytes: self.len_bytes,
            found_bytes,
        })
    }

    /// Checks that the file at this path is there and as long as it was.
    ///
    /// # Errors
    /// [`GgufError::Gone`], [`GgufError::Changed`] or [`GgufError::Io`].
    pub fn check_unchanged(&self) -> Result<(), GgufError> {
        self.check_len(&self.file)?;
        self.check_len(&self.reopen()?)
    }

    /// Asks the system to start reading `range` into its cache, where it can (Unix).
    pub(crate) fn advise_will_need(&self, range: Range<usize>) {
        // Advice only: whoever needs the bytes reads them anyway, and sees what goes wrong.
        #[cfg(unix)]
        let _ = self
            .map
            .advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Has the system read `range` into memory, and waits for it.
    pub(crate) fn bring_in(&self, range: Range<usize>) {
        // A call for the whole range costs less than a fault for every few pages.
        #[cfg(target_os = "linux")]
        if self
            .map
            .advise_range(memmap2::Advice::PopulateRead, range.start, range.len())
            .is_ok()
        {
            return;
        }
        let touched = self.map[range].iter().step_by(PAGE_BYTES);
        std::hint::black_box(touched.fold(0, |sum: u8, byte| sum ^ byte));
    }

    /// Tells the system that `range` is not needed for now: its pages leave this process's memory
    /// (Unix; elsewhere nothing happens) and come back when they are touched.
    pub(crate) fn advise_dont_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map shares an unmodified file, so dropped pages come back with the same
            // bytes.
            let _ = unsafe {
                self.map
                    .unchecked_advise_range(advice, range.start, range.len())
            };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// Opens a regular file (a link to one is fine); `None` if it is not there.
///
/// What is no file is refused before it is opened: opening a pipe would wait for a writer.
fn open_regular(path: &Path) -> Result<Option<File>, GgufError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(GgufError::io("look at", path)(e)),
    };
    if !metadata.is_file() {
        return Err(GgufError::NotAFile {
            path: path.to_owned(),
        });
    }
    File::open(path)
        .map(Some)
        .map_err(GgufError::io("open", path))
}

fn len_bytes(file: &File, path: &Path) -> Result<u64, GgufError> {
    let metadata = file.metadata().map_err(GgufError::io("look at", path))?;
    Ok(metadata.len())
}
