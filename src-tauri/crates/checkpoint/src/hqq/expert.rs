//! One expert's file: three quantized matrices under bare names.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::OnceLock;

use memmap2::Mmap;
use octet_files::position::read_exact_at;
use octet_kernels::Matrix;

use super::matrix::MatrixLayout;
use super::schema;
use crate::ExpertWeights;
use crate::error::CheckpointError;
use crate::file::{TensorFile, first_non_finite, io_error, open_regular};
use crate::open_files::Permit;
use octet_spec::{Activation, ModelSpec};

/// Bytes that are read at a time where they are copied on: few enough for the processor's cache.
const PIECE_BYTES: usize = 256 << 10;

/// A mapped expert file and the place of its matrices.
///
/// The file is opened when it is first read, and stays open as long as the system allows so many.
#[derive(Debug)]
pub(crate) struct ExpertFile {
    path: PathBuf,
    len_bytes: u64,
    map: Mmap,
    /// The file as it was at the first read that went well.
    kept: OnceLock<(File, Permit)>,
    /// From the first to the last byte of the expert's tensors, in the file.
    data: Range<usize>,
    /// Ranges count from the beginning of `data`.
    w1: MatrixLayout,
    w2: MatrixLayout,
    w3: MatrixLayout,
}

impl ExpertFile {
    /// Opens and checks one expert; `wanted` is the full name of its first tensor.
    pub(crate) fn open(
        path: PathBuf,
        wanted: &str,
        spec: &ModelSpec,
    ) -> Result<Self, CheckpointError> {
        let file = TensorFile::open(path, wanted)?;
        let find = |(name, shape)| MatrixLayout::find(&file, name, shape);
        let [w1, w2, w3] = schema::expert_matrices(spec);
        let (mut w1, mut w2, mut w3) = (find(w1)?, find(w2)?, find(w3)?);
        for tensor in [&w1, &w2, &w3]
            .into_iter()
            .flat_map(MatrixLayout::f16_tensors)
        {
            file.check_finite(&tensor.name, tensor.range.clone())?;
        }

        let (mut start, mut end) = (usize::MAX, 0);
        for range in [&mut w1, &mut w2, &mut w3]
            .into_iter()
            .flat_map(MatrixLayout::ranges_mut)
        {
            (start, end) = (start.min(range.start), end.max(range.end));
        }
        for range in [&mut w1, &mut w2, &mut w3]
            .into_iter()
            .flat_map(MatrixLayout::ranges_mut)
        {
            *range = range.start - start..range.end - start;
        }
        let data = start..end;
        let map = file.map()?;
        for (name, matrix) in [("w1", &w1), ("w2", &w2), ("w3", &w3)] {
            matrix
                .view(&map[data.clone()])
                .map_err(|source| CheckpointError::Layout {
                    path: file.path().to_owned(),
                    matrix: name.to_owned(),
                    source,
                })?;
        }
        Ok(Self {
            path: file.path().to_owned(),
            len_bytes: file.len_bytes(),
            map,
            kept: OnceLock::new(),
            data,
            w1,
            w2,
            w3,
        })
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    pub(crate) fn map(&self) -> &Mmap {
        &self.map
    }

    /// Bytes from the expert's first to its last tensor.
    pub(crate) fn data(&self) -> Range<usize> {
        self.data.clone()
    }

    pub(crate) fn matrices(&self) -> [&MatrixLayout; 3] {
        [&self.w1, &self.w2, &self.w3]
    }

    /// The expert's matrices over `bytes`, a copy of its data range.
    pub(crate) fn view<'a>(&self, bytes: &'a [u8]) -> ExpertWeights<'a> {
        assert!(
            bytes.len() >= self.data.len(),
            "BUG: an expert of {} bytes in a slot of {}",
            self.data.len(),
            bytes.len()
        );
        let view = |matrix: &MatrixLayout| -> Matrix<'a> {
            let view = matrix.view(bytes);
            Matrix::Hqq(view.expect("BUG: the layout was checked when the file was opened"))
        };
        ExpertWeights {
            w1: view(&self.w1),
            w2: view(&self.w2),
            w3: view(&self.w3),
            activation: Activation::SiluMul,
            biases: None,
        }
    }

    /// The expert's matrices in the mapped file.
    pub(crate) fn mapped(&self) -> ExpertWeights<'_> {
        self.view(&self.map[self.data.clone()])
    }

    /// Copies the data range into the front of `buf` by positioned reads and checks the copy.
    pub(crate) fn read(&self, buf: &mut [u8]) -> Result<(), CheckpointError> {
        assert!(
            buf.len() >= self.data.len(),
            "BUG: an expert of {} bytes for a slot of {}",
            self.data.len(),
            buf.len()
        );
        let buf = &mut buf[..self.data.len()];
        // A file that fails may be another one by now: a drive that was away, a mended download.
        if let Some((file, _)) = self.kept.get()
            && self.read_from(file, buf).is_ok()
        {
            return Ok(());
        }
        let file = self.reopen()?;
        self.read_from(&file, buf)?;
        self.keep(file);
        Ok(())
    }

    /// Reads the data range by positioned reads, unchecked, and gives it to `take` piece by piece.
    pub(crate) fn read_by_pieces(
        &self,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), CheckpointError> {
        let opened;
        let file = match self.kept.get() {
            Some((kept, _)) if self.check_length(kept).is_ok() => kept,
            _ => {
                opened = self.reopen()?;
                self.check_length(&opened)?;
                &opened
            }
        };
        let mut piece = vec![0; PIECE_BYTES.min(self.data.len())];
        for at in self.data.clone().step_by(PIECE_BYTES) {
            let piece = &mut piece[..PIECE_BYTES.min(self.data.end - at)];
            read_exact_at(file, piece, at as u64).map_err(io_error("read", &self.path))?;
            take(piece);
        }
        Ok(())
    }

    fn read_from(&self, file: &File, buf: &mut [u8]) -> Result<(), CheckpointError> {
        self.check_length(file)?;
        read_exact_at(file, buf, self.data.start as u64).map_err(io_error("read", &self.path))?;
        self.check(buf)
    }

    fn keep(&self, file: File) {
        if self.kept.get().is_none()
            && let Some(permit) = Permit::take()
        {
            // Another thread may have been first.
            let _ = self.kept.set((file, permit));
        }
    }

    fn check_length(&self, file: &File) -> Result<(), CheckpointError> {
        let found_bytes = file
            .metadata()
            .map_err(io_error("look at", &self.path))?
            .len();
        if found_bytes != self.len_bytes {
            return Err(CheckpointError::Changed {
                path: self.path.clone(),
                expected_bytes: self.len_bytes,
                found_bytes,
            });
        }
        Ok(())
    }

    /// Checks a copy of the data range: files may change while they are in use.
    pub(crate) fn check(&self, buf: &[u8]) -> Result<(), CheckpointError> {
        for tensor in self
            .matrices()
            .into_iter()
            .flat_map(MatrixLayout::f16_tensors)
        {
            if let Some((element, value)) = first_non_finite(&buf[tensor.range.clone()]) {
                return Err(CheckpointError::NonFinite {
                    path: self.path.clone(),
                    tensor: tensor.name.clone(),
                    element,
                    value,
                });
            }
        }
        Ok(())
    }

    fn reopen(&self) -> Result<File, CheckpointError> {
        match open_regular(&self.path)? {
            Some((file, _)) => Ok(file),
            None => Err(CheckpointError::Gone {
                path: self.path.clone(),
            }),
        }
    }
}
