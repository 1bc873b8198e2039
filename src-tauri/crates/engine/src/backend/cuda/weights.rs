//! The trunk on the GPU: attention, norms, routers and the output matrix. The embedding matrix
//! stays in RAM: a token needs one row of it.

use std::sync::Arc;

use octet_kernels::cuda::{Buffer, CudaError, DeviceMatrix, Gpu, Ops, Placement, Slice, Stream};
use octet_kernels::{Pool, Q8Matrix};

use crate::checkpoint::{Checkpoint, Table};

/// Layers start at multiples of this.
const LAYER_ALIGN: usize = 256;

/// The trunk.
pub(super) struct Trunk {
    pub layers: Vec<Layer>,
    /// Holds what the layers' matrices point into: one allocation, since the driver rounds each up
    /// to 2 MiB, which would be 0.2 GB over Mixtral's 128 matrices.
    _matrices: Buffer,
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
        let c = checkpoint.spec();
        let mut starts = vec![0];
        for layer in 0..c.n_layers {
            let (placement, _) = Layer::place(checkpoint, layer, 0);
            starts.push(starts[layer] + placement.bytes.next_multiple_of(LAYER_ALIGN));
        }
        let mut matrices = Buffer::new(gpu, "attention", starts[c.n_layers])?;
        let layers = (0..c.n_layers)
            .map(|layer| Layer::new(gpu, checkpoint, layer, &mut matrices, starts[layer]))
            .collect::<Result<Vec<_>, _>>()?;
        let (vocab, width) = (c.vocab_size, c.hidden_size);
        let f16 = f16(checkpoint.output());
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
            _matrices: matrices,
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

/// The values of a table that the demo format has.
fn f16(table: Table<'_>) -> &[u8] {
    table
        .f16()
        .expect("BUG: a model that this device cannot compute")
}

impl Layer {
    /// Where the matrices of `layer` lie behind the address `base`.
    fn place(checkpoint: &Checkpoint, layer: usize, base: u64) -> (Placement, [DeviceMatrix; 4]) {
        let matrices = checkpoint.layer(layer).hqq();
        Placement::of(checkpoint.trunk_data(), matrices, base)
    }

    /// Brings `layer` to the GPU, its matrices to byte `start` of `memory`.
    fn new(
        gpu: &Arc<Gpu>,
        checkpoint: &Checkpoint,
        layer: usize,
        memory: &mut Buffer,
        start: usize,
    ) -> Result<Self, CudaError> {
        let base = memory.slice::<u8>().address() + start as u64;
        let (placement, [q, k, v, o]) = Self::place(checkpoint, layer, base);
        for (range, at) in placement.copies {
            memory.write(start + at, &checkpoint.trunk_data()[range])?;
        }
        let w = checkpoint.layer(layer);
        Ok(Self {
            input_norm: Buffer::of(gpu, "norms", w.input_layernorm)?,
            expert_norm: Buffer::of(gpu, "norms", w.post_attention_layernorm)?,
            gate: Buffer::of(gpu, "routers", f16(w.gate))?,
            q,
            k,
            v,
            o,
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
