//! Names and shapes of the demo format's tensors: what readers look for, and writers write.
//!
//! The trunk file has full names. An expert's file has bare ones (`w1.W_q`), which the index gives
//! in full ([`expert`] and a dot in front). A matrix `m` of either is several tensors, `m.W_q` and
//! so on: its [`Part`]s.

use octet_spec::ModelSpec;

/// Embedding matrix, `(vocab, hidden)`. The index tells the trunk file by it.
pub const EMBED_TOKENS: &str = "model.embed_tokens.weight";
/// Output matrix, `(vocab, hidden)`; absent where it is the embedding matrix.
pub const LM_HEAD: &str = "lm_head.weight";
/// Norm in front of the output matrix, `(hidden)`.
pub const FINAL_NORM: &str = "model.norm.weight";

/// The attention output projection, the last of [`attention`].
pub const O_PROJ: &str = "o_proj";

/// What the names of a layer begin with.
fn layer_prefix(layer: usize) -> String {
    format!("model.layers.{layer}")
}

/// The norms in front of attention and in front of the experts, `(hidden)` each.
pub fn layer_norms(layer: usize) -> [String; 2] {
    let prefix = layer_prefix(layer);
    ["input_layernorm", "post_attention_layernorm"].map(|name| format!("{prefix}.{name}.weight"))
}

/// The router, `(n_experts, hidden)`.
pub fn router(layer: usize) -> String {
    format!("{}.block_sparse_moe.gate.weight", layer_prefix(layer))
}

/// The attention projections q, k, v, o: their matrices' names and `(rows, columns)`.
pub fn attention(spec: &ModelSpec, layer: usize) -> [(String, (usize, usize)); 4] {
    let (hidden, q, kv) = (spec.hidden_size, spec.q_size(), spec.kv_size());
    let prefix = layer_prefix(layer);
    [
        ("q_proj", (q, hidden)),
        ("k_proj", (kv, hidden)),
        ("v_proj", (kv, hidden)),
        (O_PROJ, (hidden, q)),
    ]
    .map(|(name, shape)| (format!("{prefix}.self_attn.{name}"), shape))
}

/// What an expert's names begin with in the index.
pub fn expert(layer: usize, expert: usize) -> String {
    format!("{}.block_sparse_moe.experts.{expert}", layer_prefix(layer))
}

/// An expert's matrices: their bare names and `(rows, columns)`.
pub fn expert_matrices(spec: &ModelSpec) -> [(&'static str, (usize, usize)); 3] {
    let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
    [
        ("w1", (inner, hidden)),
        ("w2", (hidden, inner)),
        ("w3", (inner, hidden)),
    ]
}

/// The tensor by which the index tells an expert's file.
pub fn expert_key(layer: usize, number: usize) -> String {
    Part::Packed.of(&format!("{}.w1", expert(layer, number)))
}

/// The same matrix in a checkpoint that is not quantized.
pub fn unquantized_expert_key(layer: usize, number: usize) -> String {
    format!("{}.w1.weight", expert(layer, number))
}

/// Name of tensor file `file` (from 0) of `n_files`; the trunk is the first.
pub fn file_name(file: usize, n_files: usize) -> String {
    format!("model-{:05}-of-{n_files:05}.safetensors", file + 1)
}

/// One tensor of a quantized matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The packed weights.
    Packed,
    /// A scale for every group, f16.
    Scale,
    /// A zero for every group, f16.
    Zero,
    /// Scales at 8 bits.
    ScaleQ,
    /// Scales of the 8-bit scales.
    ScaleScale,
    /// Zeros of the 8-bit scales.
    ScaleZero,
    /// Zeros at 8 bits.
    ZeroQ,
    /// The one scale of the 8-bit zeros.
    ZeroScale,
    /// The one zero of the 8-bit zeros.
    ZeroZero,
}

/// The tensors of a matrix's scales, or of its zeros: plain, or at 8 bits with two of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ParamParts {
    pub(crate) plain: Part,
    pub(crate) q: Part,
    pub(crate) scale: Part,
    pub(crate) zero: Part,
}

impl ParamParts {
    pub(crate) const SCALES: Self = Self {
        plain: Part::Scale,
        q: Part::ScaleQ,
        scale: Part::ScaleScale,
        zero: Part::ScaleZero,
    };
    pub(crate) const ZEROS: Self = Self {
        plain: Part::Zero,
        q: Part::ZeroQ,
        scale: Part::ZeroScale,
        zero: Part::ZeroZero,
    };
}

impl Part {
    /// What follows the matrix's name and a dot.
    pub fn name(self) -> &'static str {
        match self {
            Self::Packed => "W_q",
            Self::Scale => "meta.scale",
            Self::Zero => "meta.zero",
            Self::ScaleQ => "meta.scale_q",
            Self::ScaleScale => "meta.meta_scale.scale",
            Self::ScaleZero => "meta.meta_scale.zero",
            Self::ZeroQ => "meta.zero_q",
            Self::ZeroScale => "meta.meta_zero.scale",
            Self::ZeroZero => "meta.meta_zero.zero",
        }
    }

    /// The tensor's name for the matrix `matrix`.
    pub fn of(self, matrix: &str) -> String {
        format!("{matrix}.{}", self.name())
    }
}
