//! Files read by position, in whole where they are small, and mapped where they are tensors.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use octet_files::position::read_exact_at;
use safetensors::Dtype;

use super::error::CheckpointError;
use super::header::{Header, LENGTH_BYTES, TensorInfo, header_len, parse_header};

pub(super) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io {
        action,
        path,
        source,
    }
}

/// Opens a regular file (a link to one is fine) and tells its length; `None` if it is not there.
///
/// What is no file is refused before it is opened: opening a pipe would wait for a writer.
pub(super) fn open_regular(path: &Path) -> Result<Option<(File, u64)>, CheckpointError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("look at", path)(e)),
    };
    if !metadata.is_file() {
        return Err(CheckpointError::NotAFile {
            path: path.to_owned(),
        });
    }
    let file = File::open(path).map_err(io_error("open", path))?;
    let len_bytes = file.metadata().map_err(io_error("look at", path))?.len();
    Ok(Some((file, len_bytes)))
}

/// Reads a whole file of at most `limit_bytes`; `None` if it is not there.
///
/// # Errors
/// [`CheckpointError::TooLarge`], [`CheckpointError::NotAFile`] or [`CheckpointError::Io`].
pub fn read_small(path: &Path, limit_bytes: u64) -> Result<Option<Vec<u8>>, CheckpointError> {
    let Some((file, len_bytes)) = open_regular(path)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    if len_bytes <= limit_bytes {
        file.take(limit_bytes + 1)
            .read_to_end(&mut bytes)
            .map_err(io_error("read", path))?;
    }
    let len_bytes = len_bytes.max(bytes.len() as u64);
    if len_bytes > limit_bytes {
        return Err(CheckpointError::TooLarge {
            path: path.to_owned(),
            len_bytes,
            limit_bytes,
        });
    }
    Ok(Some(bytes))
}

/// An open safetensors file whose header has been read and checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    len_bytes: u64,
    header: Header,
}

impl TensorFile {
    /// Opens `path` and reads its header; `wanted` is a tensor that should be in it.
    ///
    /// # Errors
    /// [`CheckpointError`] where the file is missing, no regular file, cut off or damaged.
    pub fn open(path: PathBuf, wanted: &str) -> Result<Self, CheckpointError> {
        let Some((file, len_bytes)) = open_regular(&path)? else {
            return Err(CheckpointError::MissingFile {
                path,
                tensor: wanted.to_owned(),
            });
        };
        let limit_bytes = isize::MAX as u64;
        if len_bytes > limit_bytes {
            return Err(CheckpointError::TooLarge {
                path,
                len_bytes,
                limit_bytes,
            });
        }
        let header = read_header(&file, &path, len_bytes)?;
        Ok(Self {
            path,
            file,
            len_bytes,
            header,
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length when it was opened.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads `buf.len()` bytes from `offset` on, without a shared file position.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], above all where the file is shorter than that by now.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), CheckpointError> {
        read_exact_at(&self.file, buf, offset).map_err(io_error("read", &self.path))
    }

    pub(super) fn get(&self, tensor: &str) -> Option<&TensorInfo> {
        self.header.tensors.get(tensor)
    }

    pub(super) fn tensor(&self, tensor: &str) -> Result<&TensorInfo, CheckpointError> {
        self.get(tensor)
            .ok_or_else(|| CheckpointError::MissingTensor {
                path: self.path.clone(),
                tensor: tensor.to_owned(),
            })
    }

    /// The error of a tensor that is not as `expected`.
    pub(super) fn wrong(&self, tensor: &str, expected: String) -> CheckpointError {
        let found = self.get(tensor).map_or_else(
            || "nothing".to_owned(),
            |info| format!("{} {:?}", info.dtype, info.shape),
        );
        CheckpointError::Tensor {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            expected,
            found,
        }
    }

    /// A tensor of exactly this shape whose elements are f16, bf16 or f32.
    pub(super) fn float_tensor(
        &self,
        tensor: &str,
        shape: &[usize],
    ) -> Result<&TensorInfo, CheckpointError> {
        let info = self.tensor(tensor)?;
        let same_shape = info.shape.dims().len() == shape.len()
            && info
                .shape
                .dims()
                .iter()
                .zip(shape)
                .all(|(&found, &dim)| found == dim as u64);
        if same_shape && matches!(info.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32) {
            Ok(info)
        } else {
            Err(self.wrong(tensor, format!("F16, BF16 or F32 {shape:?}")))
        }
    }

    /// Calls `each` with the bytes of `range`, a piece at a time, through positioned reads: the
    /// file's pages never count as this process's memory.
    pub(super) fn read_pieces(
        &self,
        range: Range<usize>,
        mut each: impl FnMut(&[u8]) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        const PIECE_BYTES: usize = 1 << 18;
        let mut buf = vec![0; range.len().min(PIECE_BYTES)];
        let mut at = range.start;
        while at < range.end {
            let piece = &mut buf[..PIECE_BYTES.min(range.end - at)];
            self.read_at(piece, at as u64)?;
            each(piece)?;
            at += piece.len();
        }
        Ok(())
    }

    /// Reads a float tensor into f32 values, all finite.
    pub(super) fn read_f32(
        &self,
        tensor: &str,
        info: &TensorInfo,
    ) -> Result<Vec<f32>, CheckpointError> {
        let range = info.range();
        let mut values = Vec::with_capacity(range.len() / (info.dtype.bitsize() / 8));
        self.read_pieces(range, |piece| {
            for value in floats(info.dtype, piece) {
                if !value.is_finite() {
                    return Err(self.non_finite(tensor, values.len(), value));
                }
                values.push(value);
            }
            Ok(())
        })?;
        Ok(values)
    }

    /// Reads a float tensor into little-endian f16 bytes, all finite.
    pub(super) fn read_f16(
        &self,
        tensor: &str,
        info: &TensorInfo,
    ) -> Result<Vec<u8>, CheckpointError> {
        let range = info.range();
        let mut bytes = Vec::with_capacity(range.len() / (info.dtype.bitsize() / 8) * 2);
        self.read_pieces(range, |piece| {
            for value in floats(info.dtype, piece) {
                let half = f16::from_f32(value);
                if !half.is_finite() {
                    return Err(self.non_finite(tensor, bytes.len() / 2, value));
                }
                bytes.extend_from_slice(&half.to_le_bytes());
            }
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Checks that every value of an f16 tensor is finite.
    pub(super) fn check_finite(
        &self,
        tensor: &str,
        range: Range<usize>,
    ) -> Result<(), CheckpointError> {
        let mut before = 0;
        self.read_pieces(range, |piece| {
            if let Some((element, value)) = first_non_finite(piece) {
                return Err(self.non_finite(tensor, before + element, value));
            }
            before += piece.len() / 2;
            Ok(())
        })
    }

    fn non_finite(&self, tensor: &str, element: usize, value: f32) -> CheckpointError {
        CheckpointError::NonFinite {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            element,
            value,
        }
    }

    /// Maps the whole file for reading.
    pub(super) fn map(&self) -> Result<Mmap, CheckpointError> {
        // SAFETY: the map is only read. Its bytes are plain numbers, valid whatever they are;
        // whoever changes or cuts the file while it is mapped breaks the contract that
        // `Checkpoint` documents.
        let map = unsafe { Mmap::map(&self.file) }.map_err(io_error("map", &self.path))?;
        self.expect_len(map.len() as u64)?;
        Ok(map)
    }

    fn expect_len(&self, found_bytes: u64) -> Result<(), CheckpointError> {
        if found_bytes == self.len_bytes {
            return Ok(());
        }
        Err(CheckpointError::Changed {
            path: self.path.clone(),
            expected_bytes: self.len_bytes,
            found_bytes,
        })
    }
}

fn read_header(file: &File, path: &Path, len_bytes: u64) -> Result<Header, CheckpointError> {
    // Most headers are short: one read fetches length field and header together.
    const FIRST_READ_BYTES: u64 = 16 << 10;
    let header_error = |source| CheckpointError::Header {
        path: path.to_owned(),
        source,
    };
    let mut bytes = vec![0; len_bytes.min(FIRST_READ_BYTES) as usize];
    read_exact_at(file, &mut bytes, 0).map_err(io_error("read", path))?;
    if let Some(length_field) = bytes.first_chunk::<8>() {
        let len = header_len(*length_field, len_bytes).map_err(header_error)?;
        let read = bytes.len();
        let whole = (LENGTH_BYTES + len) as usize;
        if whole > read {
            bytes.resize(whole, 0);
            read_exact_at(file, &mut bytes[read..], read as u64).map_err(io_error("read", path))?;
        }
    }
    parse_header(&bytes, len_bytes).map_err(header_error)
}

fn floats(dtype: Dtype, bytes: &[u8]) -> Box<dyn Iterator<Item = f32> + '_> {
    match dtype {
        Dtype::F32 => Box::new(
            bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        ),
        Dtype::BF16 => Box::new(
            bytes
                .chunks_exact(2)
                .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        ),
        _ => Box::new(
            bytes
                .chunks_exact(2)
                .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
        ),
    }
}

/// The first NaN or infinity among little-endian f16 values.
pub(super) fn first_non_finite(bytes: &[u8]) -> Option<(usize, f32)> {
    const EXPONENT: u16 = 0x7c00;
    const BLOCK_BYTES: usize = 4096;
    let bad = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]) & EXPONENT == EXPONENT;
    // Whole blocks without an early exit, so that the compiler can use vectors.
    bytes
        .chunks(BLOCK_BYTES)
        .enumerate()
        .find_map(|(block, values)| {
            if !values
                .chunks_exact(2)
                .fold(false, |any, pair| any | bad(pair))
            {
                return None;
            }
            let at = values.chunks_exact(2).position(bad)?;
            let value = f16::from_le_bytes([values[2 * at], values[2 * at + 1]]).to_f32();
            Some((block * BLOCK_BYTES / 2 + at, value))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_that_is_not_finite_is_found_anywhere() {
        let mut bytes = vec![0_u8; 3 * 4096];
        assert_eq!(first_non_finite(&bytes), None);
        for element in [0, 1, 2047, 2048, 5000, 6143] {
            let bits = f16::NEG_INFINITY.to_le_bytes();
            bytes[2 * element..2 * element + 2].copy_from_slice(&bits);
            assert_eq!(first_non_finite(&bytes), Some((element, f32::NEG_INFINITY)));
            bytes[2 * element..2 * element + 2].copy_from_slice(&f16::MAX.to_le_bytes());
        }
        assert_eq!(first_non_finite(&bytes), None);
    }
}
