//! Whether what was written stands for what was read: bytes compared, matrices decoded.

use octet_kernels::{GroupParam, QMatrix, dequantize_rows};

use crate::error::QuantizeError;
use crate::hqq::{MatrixSpec, QuantizedMatrix};
use crate::output::PartialFile;
use octet_checkpoint::hqq::FileLayout;

/// Rows that are decoded together.
const ROWS: usize = 16;

/// By how much, of itself, the error of a decoded matrix may differ from the one its maker told:
/// both are sums of the same squares, some in f32 and in another order.
const TOLERANCE: f64 = 1e-3;

/// Memory of [`Written::check`], kept from call to call.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    tensors: Vec<Vec<u8>>,
    rows: Vec<f32>,
}

/// Checks that the file holds `written` at byte `at`. `back` is memory to read into.
pub(crate) fn read_back(
    file: &PartialFile,
    tensor: &str,
    written: &[u8],
    at: u64,
    back: &mut Vec<u8>,
) -> Result<(), QuantizeError> {
    back.resize(written.len(), 0);
    file.read_at(back, at)?;
    if back == written {
        return Ok(());
    }
    Err(differs(
        file,
        format!("tensor `{tensor}` reads back in another way than it was written"),
    ))
}

/// A quantized matrix and where it was written.
pub(crate) struct Written<'a> {
    pub(crate) file: &'a PartialFile,
    pub(crate) layout: &'a FileLayout,
    /// Its name in the file.
    pub(crate) name: &'a str,
    pub(crate) spec: &'a MatrixSpec,
    pub(crate) matrix: &'a QuantizedMatrix,
}

impl Written<'_> {
    /// Reads it back, decodes it with the engine's kernels, and holds it against `weights`,
    /// row-major with `k` columns: it must be as far from them as its maker says.
    pub(crate) fn check(
        &self,
        weights: &[f32],
        k: usize,
        buffers: &mut Buffers,
    ) -> Result<(), QuantizeError> {
        let tensors = &self.matrix.tensors;
        buffers.tensors.resize_with(tensors.len(), Vec::default);
        for (tensor, back) in tensors.iter().zip(&mut buffers.tensors) {
            let name = format!("{}.{}", self.name, tensor.name);
            let at = self.layout.tensor(&name).start;
            read_back(self.file, &name, &tensor.data, at, back)?;
        }
        let shape = (weights.len() / k, k);
        let decoded = self.decode(shape, &buffers.tensors)?;
        let found = relative_error(&decoded, weights, &mut buffers.rows);
        let told = self.matrix.relative_error;
        if (found - told).abs() <= TOLERANCE * told + f64::from(f32::EPSILON) {
            return Ok(());
        }
        Err(self.differs(format!(
            "it is off by {found:.4} of its norm where it should be {told:.4}"
        )))
    }

    /// The matrix in `tensors`, the bytes of its tensors in their order.
    fn decode<'b>(
        &self,
        shape: (usize, usize),
        tensors: &'b [Vec<u8>],
    ) -> Result<QMatrix<'b>, QuantizeError> {
        let part = |part: &str| {
            let mut names = self.matrix.tensors.iter().map(|tensor| tensor.name);
            let at = names.position(|name| name == part);
            tensors[at.expect("BUG: a matrix without one of its tensors")].as_slice()
        };
        let (scale, zero) = match self.spec.scale_group_size {
            None => (
                GroupParam::Plain(part("meta.scale")),
                GroupParam::Plain(part("meta.zero")),
            ),
            Some(_) => (
                GroupParam::Quantized {
                    q: part("meta.scale_q"),
                    scale: part("meta.meta_scale.scale"),
                    zero: part("meta.meta_scale.zero"),
                },
                GroupParam::Quantized {
                    q: part("meta.zero_q"),
                    scale: part("meta.meta_zero.scale"),
                    zero: part("meta.meta_zero.zero"),
                },
            ),
        };
        let MatrixSpec {
            bits, group_size, ..
        } = *self.spec;
        QMatrix::new(shape, bits, group_size, part("W_q"), scale, zero)
            .map_err(|error| self.differs(error.to_string()))
    }

    fn differs(&self, what: String) -> QuantizeError {
        differs(self.file, format!("matrix `{}`: {what}", self.name))
    }
}

fn relative_error(decoded: &QMatrix<'_>, weights: &[f32], rows: &mut Vec<f32>) -> f64 {
    let (mut error, mut norm) = (0.0_f64, 0.0_f64);
    for (block, weights) in weights.chunks(ROWS * decoded.k()).enumerate() {
        rows.resize(weights.len(), 0.0);
        dequantize_rows(decoded, block * ROWS, rows);
        for (weights, rows) in weights.chunks(decoded.k()).zip(rows.chunks(decoded.k())) {
            let (e, n) = squares(weights, rows);
            error += e;
            norm += n;
        }
    }
    if norm > 0.0 {
        (error / norm).sqrt()
    } else {
        error.sqrt()
    }
}

/// Sums of the squared differences and of the squares of `a`, in lanes so that the compiler can
/// use vectors.
fn squares(a: &[f32], b: &[f32]) -> (f64, f64) {
    const LANES: usize = 8;
    let (mut error, mut norm) = ([0.0_f64; LANES], [0.0_f64; LANES]);
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
            let (a, b) = (f64::from(a), f64::from(b));
            error[i] += (a - b) * (a - b);
            norm[i] += a * a;
        }
    }
    (error.iter().sum(), norm.iter().sum())
}

fn differs(file: &PartialFile, what: String) -> QuantizeError {
    QuantizeError::Verify {
        path: file.partial().to_owned(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use octet_checkpoint::spec::ModelSpec;
    use octet_kernels::Bits;

    use super::*;
    use crate::hqq::{Scratch, quantize};

    #[test]
    fn what_differs_from_what_was_made_is_noticed() {
        let config = serde_json::json!({
            "model_type": "mixtral", "hidden_size": 16, "intermediate_size": 32,
            "num_attention_heads": 2, "num_key_value_heads": 1,
        });
        let config = ModelSpec::from_config_json(config.to_string().as_bytes()).unwrap();
        for scale_group_size in [Some(8), None] {
            let spec = MatrixSpec {
                bits: Bits::B2,
                group_size: 8,
                scale_group_size,
                optimize: true,
            };
            let stored = |_: &str, _| Ok::<_, Infallible>(spec.quantization());
            let Ok(layout) = FileLayout::expert(&config, stored);
            let dir = tempfile::tempdir().unwrap();
            let file = PartialFile::create(dir.path(), "a.safetensors", &layout).unwrap();
            let weights: Vec<f32> = (0..32 * 16).map(|i| (i * i % 97) as f32 / 97.0).collect();
            let mut matrix = quantize(&weights, 32, 16, &spec, &mut Scratch::default()).unwrap();
            for tensor in &matrix.tensors {
                let at = layout.tensor(&format!("w1.{}", tensor.name)).start;
                file.write_at(&tensor.data, at).unwrap();
            }
            let check = |matrix: &QuantizedMatrix| {
                let written = Written {
                    file: &file,
                    layout: &layout,
                    name: "w1",
                    spec: &spec,
                    matrix,
                };
                let checked = written.check(&weights, 16, &mut Buffers::default());
                checked.map_err(|error| error.to_string())
            };
            check(&matrix).unwrap();

            matrix.relative_error *= 1.01;
            let message = check(&matrix).unwrap_err();
            assert!(message.contains("`w1`: it is off by"), "{message}");
            matrix.relative_error /= 1.01;

            let scales = &matrix.tensors[1];
            let at = layout.tensor(&format!("w1.{}", scales.name)).start;
            file.write_at(&[scales.data[0] ^ 1], at).unwrap();
            let message = check(&matrix).unwrap_err();
            assert!(message.contains(scales.name), "{message}");
        }
    }
}
