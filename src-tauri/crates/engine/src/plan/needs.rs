//! What a backend allocates beside weights and experts: one table of buffers a device, from which
//! the plan adds up and the backend allocates.
//!
//! A table is a pure function of a model's sizes and a context; no device has to be there.

use octet_kernels::cuda::{AttentionShape, MAX_TOP_K, Moment};

use super::{ModelSizes, PREFILL_CHUNK};

/// Rows of logits that a GPU computes at a time.
pub const LOGIT_ROWS: usize = 8;

/// Values of a [`Moment`], which are as long as all others in a GPU's buffers.
pub const MOMENT_LEN: usize = size_of::<Moment>() / 4;

/// Values of a token's choice of experts in front of the normed state: numbers and weights of this
/// layer's and of the next one's.
pub const CHOICE_LEN: usize = 4 * MAX_TOP_K;

/// Values of the partial attention of several tokens that a GPU has room for, whatever the model,
/// where tensor cores do not serve.
const PARTIAL_VALUES: usize = 4 << 20;

/// What a recorded launch may take of VRAM, in bytes. Under 2 KiB were seen with driver 580, and older
/// ones are said to take more.
const RECORDED_LAUNCH_BYTES: u64 = 64 << 10;

/// Launches and copies of a decoded token that are recorded, for each layer and beside them, at most.
const RECORDED_LAUNCHES: (u64, u64) = (12, 8);

/// What an expert slot takes of VRAM beside the expert: alignment of its arrays, a descriptor for
/// the kernels. Rounded up, and counted for every expert of the model.
pub(super) const GPU_SLOT_OVERHEAD_BYTES: u64 = 1024;

/// What the driver maps of VRAM at a time, in bytes; small allocations share it.
const GPU_PAGE_BYTES: u64 = 2 << 20;

/// Allocations that are counted to the byte, and end in the middle of a page: attention, the output
/// matrix and its scales, the cache, the slots.
const PARTLY_FILLED_PAGES: u64 = 5;

/// What an allocation of `bytes` takes of a GPU: whole pages, beyond half of one.
fn gpu_allocation_bytes(bytes: u64) -> u64 {
    match bytes > GPU_PAGE_BYTES / 2 {
        true => bytes.saturating_add(GPU_PAGE_BYTES - 1) / GPU_PAGE_BYTES * GPU_PAGE_BYTES,
        false => bytes,
    }
}

/// What a model takes of a device for one context, in bytes, beside its experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Weights that every token needs.
    pub trunk: u64,
    /// Keys and values.
    pub kv: u64,
    /// Activations and work space.
    pub working: u64,
}

/// A struct of buffers with their bytes, and the list of them.
macro_rules! buffers {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$field_doc:meta])* $field:ident),+ $(,)? }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: u64),+
        }

        impl $name {
            /// Every buffer's bytes.
            fn bytes(&self) -> impl Iterator<Item = u64> {
                [$(self.$field),+].into_iter()
            }
        }
    };
}

buffers! {
    /// Buffers of a conversation on the CPU, in bytes; `t` is a prefill chunk, and all but
    /// `products` are f32.
    CpuBuffers {
        /// The residual stream, `(t, hidden)`.
        hidden,
        /// Its norm, `(t, hidden)`.
        normed,
        /// `(t, n_heads * head_dim)`.
        q,
        /// `(t, n_kv_heads * head_dim)`.
        k,
        /// `(t, n_kv_heads * head_dim)`.
        v,
        /// `(t, n_heads * head_dim)`.
        attended,
        /// What attention adds to the residual stream, `(t, hidden)`.
        projected,
        /// Cosines and sines, `(t, head_dim / 2, 2)`.
        angles,
        /// Of one token's attention, `(n_heads, ctx)`.
        scores,
        /// The router's logits, `(t, n_experts)`.
        router,
        /// One expert's tokens, `(t, hidden)`.
        gathered,
        /// `(t, intermediate)`.
        gate,
        /// `(t, intermediate)`.
        up,
        /// What an expert gives, `(t, hidden)`.
        down,
        /// Of one token, `(vocab)`.
        logits,
        /// The kernels' [`Scratch`](octet_kernels::Scratch): inputs of a product as they are
        /// rounded, at most as long as `(t, intermediate)` in f32.
        products,
    }
}

buffers! {
    /// Buffers of a model on a GPU, in bytes; `t` is a prefill chunk.
    CudaBuffers {
        /// Angles, [`Moment`] and the residual stream: f32 `(t, head_dim)`, one, `(t, hidden)`.
        input,
        /// The choice of one token and the normed residual stream of all, f32 `(t, hidden)`.
        routed,
        /// f32 `(t, n_heads * head_dim)`.
        q,
        /// f32 `(t, n_kv_heads * head_dim)`.
        k,
        /// f32 `(t, n_kv_heads * head_dim)`.
        v,
        /// f32 `(t, n_heads * head_dim)`.
        attended,
        /// Attention over splits of the cache, of one token or more as there is room.
        partial,
        /// The input of a tensor-core product, f16 `(t, hidden or n_heads * head_dim)`.
        x16,
        /// A scale a row of `x16`, f32 `(t)`.
        x_scale,
        /// f32 `(t or top_k, intermediate)`.
        gate,
        /// f32 `(t, intermediate)`.
        up,
        /// f16 `(t, intermediate)`.
        h16,
        /// A scale a row of `h16`, f32 `(t)`.
        h_scale,
        /// Largest magnitudes, f32 `(t)` twice and `(top_k)`.
        amax,
        /// The router's choice in prefill, i32 `(t, top_k)`.
        ids,
        /// Its weights, f32 `(t, top_k)`.
        weights,
        /// Each expert's tokens, i32 `(t * top_k)`.
        rows,
        /// Their weights, f32 `(t * top_k)`.
        row_weights,
        /// What the CPU computed for a layer, f32 `(hidden)`.
        from_cpu,
        /// The slot of each expert, i32 `(n_layers, n_experts)`.
        places,
        /// f32 `(LOGIT_ROWS, vocab)`.
        logits,
        /// The experts of the newest decoded token, i32 `(n_layers, top_k)`.
        newest,
    }
}

/// The sizes of a model as the tables need them, in values.
struct Values {
    chunk: u64,
    hidden: u64,
    inner: u64,
    q_width: u64,
    kv_width: u64,
    top_k: u64,
    n_layers: u64,
    n_experts: u64,
    vocab: u64,
    head_dim: u64,
    n_heads: u64,
}

impl Values {
    fn new(sizes: &ModelSizes) -> Self {
        let wide = |n: usize| n as u64;
        Self {
            chunk: wide(sizes.chunk()),
            hidden: wide(sizes.hidden),
            inner: wide(sizes.intermediate),
            q_width: wide(sizes.n_heads) * wide(sizes.head_dim),
            kv_width: wide(sizes.n_kv_heads) * wide(sizes.head_dim),
            top_k: wide(sizes.top_k),
            n_layers: wide(sizes.n_layers),
            n_experts: wide(sizes.n_experts),
            vocab: wide(sizes.vocab),
            head_dim: wide(sizes.head_dim),
            n_heads: wide(sizes.n_heads),
        }
    }
}

impl CpuBuffers {
    /// For a conversation of up to `ctx` positions.
    pub fn new(sizes: &ModelSizes, ctx: usize) -> Self {
        let v = Values::new(sizes);
        let rows = |width: u64| 4 * v.chunk * width;
        Self {
            hidden: rows(v.hidden),
            normed: rows(v.hidden),
            q: rows(v.q_width),
            k: rows(v.kv_width),
            v: rows(v.kv_width),
            attended: rows(v.q_width),
            projected: rows(v.hidden),
            angles: rows(v.head_dim),
            scores: 4 * v.n_heads * ctx as u64,
            router: rows(v.n_experts),
            gathered: rows(v.hidden),
            gate: rows(v.inner),
            up: rows(v.inner),
            down: rows(v.hidden),
            logits: 4 * v.vocab,
            products: rows(v.inner),
        }
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.bytes().fold(0, u64::saturating_add)
    }
}

impl CudaBuffers {
    /// For contexts of up to `ctx` positions.
    pub fn new(sizes: &ModelSizes, ctx: usize) -> Self {
        let v = Values::new(sizes);
        let rows = |width: u64| 4 * v.chunk * width;
        let shape = AttentionShape {
            n_heads: sizes.n_heads,
            n_kv_heads: sizes.n_kv_heads,
            head_dim: sizes.head_dim,
            capacity: ctx,
            window: usize::MAX,
        };
        let one_token = shape.partial_len(ctx);
        let partial = one_token.max(PARTIAL_VALUES.min(sizes.chunk().saturating_mul(one_token)));
        let angles = (v.chunk * v.head_dim).next_multiple_of(MOMENT_LEN as u64);
        Self {
            input: 4 * (angles + MOMENT_LEN as u64 + v.chunk * v.hidden),
            routed: 4 * (CHOICE_LEN as u64 + v.chunk * v.hidden),
            q: rows(v.q_width),
            k: rows(v.kv_width),
            v: rows(v.kv_width),
            attended: rows(v.q_width),
            partial: 4 * partial as u64,
            x16: rows(v.hidden.max(v.q_width)) / 2,
            x_scale: rows(1),
            gate: 4 * v.chunk.max(v.top_k) * v.inner,
            up: rows(v.inner),
            h16: rows(v.inner) / 2,
            h_scale: rows(1),
            amax: 4 * (2 * v.chunk + v.top_k),
            ids: rows(v.top_k),
            weights: rows(v.top_k),
            rows: rows(v.top_k),
            row_weights: rows(v.top_k),
            from_cpu: 4 * v.hidden,
            places: 4 * v.n_layers * v.n_experts,
            logits: 4 * LOGIT_ROWS as u64 * v.vocab,
            newest: 4 * v.n_layers * v.top_k,
        }
    }

    /// All of them together, as the driver rounds them up.
    pub fn total(&self) -> u64 {
        self.bytes()
            .map(gpu_allocation_bytes)
            .fold(0, u64::saturating_add)
    }
}

impl ModelSizes {
    /// Tokens that are computed at a time.
    pub fn chunk(&self) -> usize {
        PREFILL_CHUNK.min(self.max_positions)
    }

    /// What the CPU takes for a context of `ctx`.
    #[must_use]
    pub fn cpu_needs(&self, ctx: usize) -> Needs {
        Needs {
            trunk: self.trunk_resident_bytes,
            kv: self.kv_bytes(ctx),
            working: CpuBuffers::new(self, ctx).total(),
        }
    }

    /// What a GPU takes for a context of `ctx`. The embedding matrix stays in RAM: a token needs
    /// one row of it. Beside its buffers a GPU holds recorded launches, and what slots take beside
    /// experts ([`GPU_SLOT_OVERHEAD_BYTES`]).
    #[must_use]
    pub fn gpu_needs(&self, ctx: usize) -> Needs {
        let (of_layer, others) = RECORDED_LAUNCHES;
        let recorded = RECORDED_LAUNCH_BYTES * (of_layer * self.n_layers as u64 + others);
        let slots = GPU_SLOT_OVERHEAD_BYTES.saturating_mul(self.total_experts() as u64);
        Needs {
            trunk: self
                .trunk_resident_bytes
                .saturating_sub(self.embedding_bytes()),
            kv: self.kv_bytes(ctx),
            working: CudaBuffers::new(self, ctx)
                .total()
                .saturating_add(gpu_allocation_bytes(recorded))
                .saturating_add(gpu_allocation_bytes(slots))
                .saturating_add(PARTLY_FILLED_PAGES * GPU_PAGE_BYTES),
        }
    }
}
