//! Numbers out of the source's bytes, a piece at a time.
//!
//! Files are read by position and not mapped: pages of a map would count as this process's
//! memory, and the source is larger than that of most machines.

use half::{bf16, f16};
use safetensors::Dtype;

use super::{MatrixSource, Source, TensorSource};
use crate::error::QuantizeError;

const PIECE_BYTES: u64 = 1 << 20;
/// Columns of a transposed matrix read together: a cache line of the rows they go to.
const COLUMNS: usize = 16;

/// One value after the other of a tensor that is kept dense, as little-endian f16.
pub(crate) struct Dense<'a> {
    source: &'a Source,
    tensor: &'a TensorSource,
    done: u64,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Source {
    /// Reads a matrix into `out`, `n * k` values row-major, all finite. `bytes` is memory used on
    /// the way.
    pub(crate) fn read_matrix(
        &self,
        matrix: &MatrixSource,
        bytes: &mut Vec<u8>,
        out: &mut [f32],
    ) -> Result<(), QuantizeError> {
        match matrix.columns_apart {
            None => self.read_floats(&matrix.tensor, 0, bytes, out),
            Some(stride) => self.read_transposed(matrix, stride, bytes, out),
        }
    }

    /// The tensor's values as f16.
    pub(crate) fn read_dense<'a>(&'a self, tensor: &'a TensorSource) -> Dense<'a> {
        Dense {
            source: self,
            tensor,
            done: 0,
            bytes: Vec::new(),
            values: Vec::new(),
        }
    }

    fn read_transposed(
        &self,
        matrix: &MatrixSource,
        stride: u64,
        bytes: &mut Vec<u8>,
        out: &mut [f32],
    ) -> Result<(), QuantizeError> {
        let (n, k) = (matrix.n, matrix.k);
        let mut columns = vec![0_f32; COLUMNS * n];
        for first in (0..k).step_by(COLUMNS) {
            let width = COLUMNS.min(k - first);
            for (c, column) in columns.chunks_mut(n).take(width).enumerate() {
                let from = (first + c) as u64 * stride;
                self.read_floats(&matrix.tensor, from, bytes, column)?;
            }
            for (row, out) in out.chunks_mut(k).enumerate() {
                for (c, value) in out[first..first + width].iter_mut().enumerate() {
                    *value = columns[c * n + row];
                }
            }
        }
        Ok(())
    }

    /// Reads `out.len()` elements of `tensor` from element `from` on.
    fn read_floats(
        &self,
        tensor: &TensorSource,
        from: u64,
        bytes: &mut Vec<u8>,
        out: &mut [f32],
    ) -> Result<(), QuantizeError> {
        let size = tensor.element_bytes();
        let mut element = from;
        for out in out.chunks_mut((PIECE_BYTES / size) as usize) {
            bytes.resize(out.len() * size as usize, 0);
            self.files[tensor.file].read_at(bytes, tensor.start + element * size)?;
            convert(tensor.dtype, bytes, out);
            // Without an early exit, so that the compiler can use vectors.
            if out.iter().fold(false, |any, x| any | !x.is_finite()) {
                return Err(self.non_finite(tensor, element, out));
            }
            element += out.len() as u64;
        }
        Ok(())
    }

    fn non_finite(&self, tensor: &TensorSource, element: u64, values: &[f32]) -> QuantizeError {
        let at = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
        QuantizeError::NonFinite {
            path: self.files[tensor.file].path().to_owned(),
            tensor: tensor.tensor.clone(),
            element: tensor.first_element + element + at as u64,
            value: values[at],
        }
    }
}

impl Dense<'_> {
    /// The next values, or `None` behind the last one.
    pub(crate) fn next_piece(&mut self) -> Result<Option<Vec<u8>>, QuantizeError> {
        let left = self.tensor.elements - self.done;
        let count = left.min(PIECE_BYTES / self.tensor.element_bytes());
        if count == 0 {
            return Ok(None);
        }
        self.values.resize(count as usize, 0.0);
        self.source
            .read_floats(self.tensor, self.done, &mut self.bytes, &mut self.values)?;
        let mut halves = Vec::with_capacity(2 * self.values.len());
        for (i, &value) in self.values.iter().enumerate() {
            let half = f16::from_f32(value);
            if !half.is_finite() {
                return Err(QuantizeError::BeyondHalf {
                    path: self.source.files[self.tensor.file].path().to_owned(),
                    tensor: self.tensor.tensor.clone(),
                    element: self.tensor.first_element + self.done + i as u64,
                    value,
                });
            }
            halves.extend_from_slice(&half.to_le_bytes());
        }
        self.done += count;
        Ok(Some(halves))
    }
}

/// Little-endian floats to f32; all three types convert exactly.
fn convert(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => {
            for (value, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Dtype::BF16 => {
            for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = bf16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        _ => {
            for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = f16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
    }
}
