//! The trunk on the card: attention, norms, routers and the output matrix. The embedding matrix
//! stays in RAM: a token needs one row of it.

use std::sync::Arc;

use octet_kernels::cuda::{Buffer, CudaError, DeviceMatrix, Gpu, Ops, Placement, Slice, Stream};
use octet_kernels::{Pool, Q8Matrix, QMatrix};

use crate::checkpoint::Checkpoint;

/// The trunk.
pub(super) struct Trunk {
    pub layers: Vec<Layer>,
    final_norm: Buffer,
    head: Head,
    vocab: usize,
    width: usize,
}

/// A layer without its experts.
pub(super) struct Layer {
    input_norm: Buffer,
    expert_norm: Buffer,
    gate: Buffer,
    pub q: DeviceMatrix,
    pub k: DeviceMatrix,
    pub v: DeviceMatrix,
    pub o: DeviceMatrix,
    /// Holds what the matrices point into.
    _matrices: Vec<Buffer>,
}

enum Head {
    Q8 { values: Buffer, scales: Buffer },
    F16(Buffer),
}

impl Trunk {
    pub(super) fn new(
        gpu: &Arc<Gpu>,
        checkpoint: &Checkpoint,
        pool: &Pool,
        exact: bool,
    ) -> Result<Self, CudaError> {
        let c = checkpoint.config();
        let layers = (0..c.n_layers)
            .map(|layer| Layer::new(gpu, checkpoint, layer))
            .collect::<Result<Vec<_>, _>>()?;
        let (vocab, width) = (c.vocab_size, c.hidden_size);
        let f16 = checkpoint.lm_head();
        let head = if exact {
            Head::F16(Buffer::of(gpu, "output matrix", f16)?)
        } else {
            let q8 = Q8Matrix::from_f16(pool, f16, vocab, width);
            checkpoint.advise_dont_need(f16);
            Head::Q8 {
                values: Buffer::of(gpu, "output matrix", q8.values())?,
                scales: Buffer::of(gpu, "output matrix", q8.scales())?,
            }
        };
        Ok(Self {
            layers,
            final_norm: Buffer::of(gpu, "norms", checkpoint.final_norm())?,
            head,
            vocab,
            width,
        })
    }

    pub(super) fn final_norm(&self) -> Slice<'_, f32> {
        self.final_norm.slice()
    }

    /// Logits of `t` normed states.
    pub(super) fn logits(
        &self,
        ops: &Ops,
        stream: &Stream,
        t: usize,
        x: Slice<'_, f32>,
        y: Slice<'_, f32>,
    ) -> Result<(), CudaError> {
        let shape = (self.vocab, self.width);
        match &self.head {
            Head::Q8 { values, scales } => {
                ops.head_q8(stream, (values.slice(), scales.slice()), shape, t, x, y)
            }
            Head::F16(w) => ops.head_f16(stream, w.slice(), shape, t, x, y),
        }
    }
}

impl Layer {
    fn new(gpu: &Arc<Gpu>, checkpoint: &Checkpoint, layer: usize) -> Result<Self, CudaError> {
        let w = checkpoint.layer(layer);
        let mut matrices = Vec::new();
        let mut put = |m: QMatrix<'_>| -> Result<DeviceMatrix, CudaError> {
            let (buffer, matrix) = upload(gpu, checkpoint.trunk_data(), m)?;
            matrices.push(buffer);
            Ok(matrix)
        };
        let (q, k, v, o) = (
            put(w.q_proj)?,
            put(w.k_proj)?,
            put(w.v_proj)?,
            put(w.o_proj)?,
        );
        Ok(Self {
            input_norm: Buffer::of(gpu, "norms", w.input_layernorm)?,
            expert_norm: Buffer::of(gpu, "norms", w.post_attention_layernorm)?,
            gate: Buffer::of(gpu, "routers", w.gate)?,
            q,
            k,
            v,
            o,
            _matrices: matrices,
        })
    }

    pub(super) fn input_norm(&self) -> Slice<'_, f32> {
        self.input_norm.slice()
    }

    pub(super) fn expert_norm(&self) -> Slice<'_, f32> {
        self.expert_norm.slice()
    }

    pub(super) fn gate(&self) -> Slice<'_, u16> {
        self.gate.slice()
    }
}

/// Copies one matrix, whose arrays lie in `source`, to memory of its own.
fn upload(
    gpu: &Arc<Gpu>,
    source: &[u8],
    m: QMatrix<'_>,
) -> Result<(Buffer, DeviceMatrix), CudaError> {
    let bytes = Placement::of(source, [m], 0).0.bytes;
    let mut buffer = Buffer::new(gpu, "attention", bytes)?;
    let (placement, [matrix]) = Placement::of(source, [m], buffer.slice::<u8>().address());
    for (range, at) in placement.copies {
        buffer.write(at, &source[range])?;
    }
    Ok((buffer, matrix))
}
