//! Where a model's weights lie: matrices and vectors, by layer and by expert.

use crate::tensor::Span;
use crate::tensor_type::TensorType;

/// What the parts of an expert, and its matrices in a copy, are aligned to, in bytes.
pub const SLOT_ALIGNMENT: u64 = 64;

/// A matrix (n, k): `n` rows of `k` values each, `n` outputs of `k` inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// Its bytes: `n` rows one after the other.
    pub span: Span,
    /// How its values are stored.
    pub ty: TensorType,
    /// Rows.
    pub n: usize,
    /// Values in a row; a whole number of blocks.
    pub k: usize,
}

impl Matrix {
    /// Bytes of a row.
    pub fn row_bytes(&self) -> u64 {
        self.span.len / self.n as u64
    }

    /// Rows `first..first + n`.
    pub(super) fn rows(&self, first: usize, n: usize) -> Self {
        let row_bytes = self.row_bytes();
        Self {
            span: self
                .span
                .part(first as u64 * row_bytes, n as u64 * row_bytes),
            n,
            ..*self
        }
    }
}

/// Values of type F32, F16 or BF16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floats {
    /// Their bytes.
    pub span: Span,
    /// F32, F16 or BF16.
    pub ty: TensorType,
    /// How many.
    pub len: usize,
}

/// A matrix with what is added to its product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// (n, k).
    pub weight: Matrix,
    /// (n).
    pub bias: Option<Floats>,
}

/// The weights of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Norm in front of attention, (hidden).
    pub attn_norm: Floats,
    /// Queries, (n_heads * head_dim, hidden).
    pub q: Linear,
    /// Keys, (n_kv_heads * head_dim, hidden).
    pub k: Linear,
    /// Values, (n_kv_heads * head_dim, hidden).
    pub v: Linear,
    /// Output of attention, (hidden, n_heads * head_dim).
    pub o: Linear,
    /// Norm of queries: see [`QkNorm`](octet_spec::QkNorm).
    pub q_norm: Option<Floats>,
    /// Norm of keys.
    pub k_norm: Option<Floats>,
    /// One more logit for each head, (n_heads).
    pub sinks: Option<Floats>,
    /// Norm in front of the experts, (hidden).
    pub ffn_norm: Floats,
    /// Router, (n_experts, hidden), of floats.
    pub router: Linear,
    /// Biases of all experts.
    pub expert_biases: Option<ExpertBiases>,
    /// The experts, `n_experts` of them.
    pub experts: Vec<Expert>,
}

/// The biases of a layer's experts, one expert's after the other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertBiases {
    /// (n_experts, intermediate).
    pub gate: Floats,
    /// (n_experts, intermediate).
    pub up: Floats,
    /// (n_experts, hidden).
    pub down: Floats,
}

/// The matrices of one expert. Their types may differ, and so may those of other layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expert {
    /// (intermediate, hidden).
    pub gate: Matrix,
    /// (intermediate, hidden).
    pub up: Matrix,
    /// (hidden, intermediate).
    pub down: Matrix,
    /// Whether `up` follows directly behind `gate`, so that one read gets both.
    pub(super) fused: bool,
}

/// A range of an expert's bytes, and where it goes in a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// In a file.
    pub span: Span,
    /// Offset in the copy, in bytes; a multiple of [`SLOT_ALIGNMENT`].
    pub at: u64,
}

/// How an expert lies in a copy of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotLayout {
    /// What is to be read, two or three ranges.
    pub parts: Vec<Part>,
    /// Offsets of `gate`, `up` and `down` in the copy, in bytes.
    pub places: [u64; 3],
    /// Length of the copy, in bytes.
    pub bytes: u64,
}

impl Expert {
    /// Bytes of its matrices, without padding.
    pub fn len_bytes(&self) -> u64 {
        self.gate.span.len + self.up.span.len + self.down.span.len
    }

    /// How a copy of it is laid out.
    pub fn slot_layout(&self) -> SlotLayout {
        let mut layout = SlotLayout {
            parts: Vec::with_capacity(3),
            places: [0; 3],
            bytes: 0,
        };
        for (n, matrix) in [&self.gate, &self.up, &self.down].into_iter().enumerate() {
            let last = layout.parts.last_mut();
            if let (1, true, Some(gate)) = (n, self.fused, last) {
                layout.places[n] = gate.at + gate.span.len;
                gate.span.len += matrix.span.len;
            } else {
                let at = layout.bytes.next_multiple_of(SLOT_ALIGNMENT);
                layout.places[n] = at;
                layout.parts.push(Part {
                    span: matrix.span,
                    at,
                });
            }
            layout.bytes = layout.places[n] + matrix.span.len;
        }
        layout
    }
}
