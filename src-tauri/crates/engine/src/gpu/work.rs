//! Working memory of a forward pass, and the KV caches: all allocated when a model is loaded.

use std::sync::{Arc, Mutex, PoisonError};

use octet_kernels::cuda::{AttentionShape, Buffer, CudaError, Gpu, Pinned, Slice};

use crate::config::Config;
use crate::plan::{self, PREFILL_CHUNK};

/// Rows of logits that are computed at a time.
pub(super) const LOGIT_ROWS: usize = plan::LOGIT_ROWS as usize;
/// Values of the partial attention of several tokens, where tensor cores do not serve.
const PARTIAL_VALUES: usize = plan::ATTENTION_PARTIALS as usize;

/// Activations and staging memory, for chunks of up to [`Work::chunk`] tokens.
pub(super) struct Work {
    /// Tokens of a chunk.
    pub chunk: usize,
    /// The residual stream, f32 `(t, hidden)`.
    pub hidden: Buffer,
    /// Its norm, f32 `(t, hidden)`.
    pub normed: Buffer,
    /// f32 `(t, n_heads * head_dim)`.
    pub q: Buffer,
    /// f32 `(t, n_kv_heads * head_dim)`.
    pub k: Buffer,
    /// f32 `(t, n_kv_heads * head_dim)`.
    pub v: Buffer,
    /// f32 `(t, n_heads * head_dim)`.
    pub attended: Buffer,
    /// Cosines and sines, f32 `(t, head_dim / 2, 2)`.
    pub angles: Buffer,
    /// Of the attention for few tokens.
    pub partial: Buffer,
    /// The input of a tensor-core product, f16 `(t, hidden or n_heads * head_dim)`.
    pub x16: Buffer,
    /// A scale a row of `x16`.
    pub x_scale: Buffer,
    /// f32 `(rows, intermediate)`.
    pub gate: Buffer,
    /// f32 `(rows, intermediate)`.
    pub up: Buffer,
    /// f16 `(rows, intermediate)`.
    pub h16: Buffer,
    /// A scale a row of `h16`.
    pub h_scale: Buffer,
    /// Largest magnitudes: of the normed state and of attention, a value a token each, and of the
    /// picked experts.
    pub amax: Buffer,
    /// The router's choice in prefill, i32 and f32 `(t, top_k)`.
    pub ids: Buffer,
    pub weights: Buffer,
    /// The guess for the next layer, i32 and f32 `(top_k)`.
    pub guess: Buffer,
    pub guess_weights: Buffer,
    /// Each expert's tokens and their weights, i32 and f32 `(t * top_k)`.
    pub rows: Buffer,
    pub row_weights: Buffer,
    /// What the CPU computed for this layer, f32 `(hidden)`.
    pub from_cpu: Buffer,
    /// The slot of each expert, by `layer * n_experts + expert`, once all are in VRAM.
    pub places: Buffer,
    /// f32 `(LOGIT_ROWS, vocab)`.
    pub logits: Buffer,
    pub staging: Staging,
    /// Whether `places` was written.
    pub places_known: bool,
    top_k: usize,
}

/// Pinned host memory that copies pass through.
pub(super) struct Staging {
    /// Embedding rows, `(t, hidden)`.
    pub hidden: Pinned,
    pub angles: Pinned,
    /// The router's choice, of one layer and `t` tokens, or of all layers and one token.
    pub ids: Pinned,
    pub weights: Pinned,
    pub guess: Pinned,
    /// The normed state of one token, for the CPU.
    pub normed: Pinned,
    pub from_cpu: Pinned,
    pub rows: Pinned,
    pub row_weights: Pinned,
    pub logits: Pinned,
}

impl Work {
    pub(super) fn new(gpu: &Arc<Gpu>, c: &Config, ctx: usize) -> Result<Self, CudaError> {
        let chunk = PREFILL_CHUNK.min(c.max_positions);
        let (width, inner, vocab) = (c.hidden_size, c.intermediate_size, c.vocab_size);
        let (q_width, kv_width) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
        let shape = shape(c, ctx);
        let one = shape.partial_len(ctx);
        let choices = chunk.max(c.n_layers) * c.top_k;
        let buffer = |values: usize| Buffer::new(gpu, "working memory", 4 * values);
        let halves = |values: usize| Buffer::new(gpu, "working memory", 2 * values);
        let pinned = |values: usize| Pinned::new(gpu, 4 * values);
        Ok(Self {
            chunk,
            hidden: buffer(chunk * width)?,
            normed: buffer(chunk * width)?,
            q: buffer(chunk * q_width)?,
            k: buffer(chunk * kv_width)?,
            v: buffer(chunk * kv_width)?,
            attended: buffer(chunk * q_width)?,
            angles: buffer(chunk * c.head_dim)?,
            partial: buffer(one.max(PARTIAL_VALUES.min(chunk * one)))?,
            x16: halves(chunk * width.max(q_width))?,
            x_scale: buffer(chunk)?,
            gate: buffer(chunk.max(c.top_k) * inner)?,
            up: buffer(chunk * inner)?,
            h16: halves(chunk * inner)?,
            h_scale: buffer(chunk)?,
            amax: buffer(2 * chunk + c.top_k)?,
            ids: buffer(chunk * c.top_k)?,
            weights: buffer(chunk * c.top_k)?,
            guess: buffer(c.top_k)?,
            guess_weights: buffer(c.top_k)?,
            rows: buffer(chunk * c.top_k)?,
            row_weights: buffer(chunk * c.top_k)?,
            from_cpu: buffer(width)?,
            places: buffer(c.n_layers * c.n_experts)?,
            logits: buffer(LOGIT_ROWS * vocab)?,
            staging: Staging {
                hidden: pinned(chunk * width)?,
                angles: pinned(chunk * c.head_dim)?,
                ids: pinned(choices)?,
                weights: pinned(choices)?,
                guess: pinned(c.top_k)?,
                normed: pinned(width)?,
                from_cpu: pinned(width)?,
                rows: pinned(chunk * c.top_k)?,
                row_weights: pinned(chunk * c.top_k)?,
                logits: pinned(LOGIT_ROWS * vocab)?,
            },
            places_known: false,
            top_k: c.top_k,
        })
    }

    /// Largest magnitudes of the normed state, one a token.
    pub(super) fn normed_amax(&self) -> Slice<'_, f32> {
        self.amax.slice().part(0, self.chunk)
    }

    /// Largest magnitudes of attention, one a token.
    pub(super) fn attended_amax(&self) -> Slice<'_, f32> {
        self.amax.slice().part(self.chunk, self.chunk)
    }

    /// Largest magnitudes of the picked experts' insides.
    pub(super) fn h_amax(&self) -> Slice<'_, f32> {
        self.amax.slice().part(2 * self.chunk, self.top_k)
    }
}

/// The attention's shape with a cache of `capacity` positions.
pub(super) fn shape(c: &Config, capacity: usize) -> AttentionShape {
    AttentionShape {
        n_heads: c.n_heads,
        n_kv_heads: c.n_kv_heads,
        head_dim: c.head_dim,
        capacity,
        window: c.sliding_window.unwrap_or(usize::MAX),
    }
}

/// Keys and values of all layers, f16 `(n_layers, 2, n_kv_heads, capacity, head_dim)`.
struct Cache {
    memory: Buffer,
    /// The experts of the newest token and of the one before, i32 `(2, n_layers, top_k)`.
    ids: Buffer,
    /// Their weights, f32 `(n_layers, top_k)`.
    weights: Buffer,
    capacity: usize,
}

impl Cache {
    fn new(gpu: &Arc<Gpu>, c: &Config, capacity: usize) -> Result<Self, CudaError> {
        let values = 2 * c.n_layers * c.n_kv_heads * capacity * c.head_dim;
        let choices = c.n_layers * c.top_k;
        Ok(Self {
            memory: Buffer::new(gpu, "KV cache", 2 * values)?,
            ids: Buffer::new(gpu, "KV cache", 2 * 4 * choices)?,
            weights: Buffer::new(gpu, "KV cache", 4 * choices)?,
            capacity,
        })
    }
}

/// The one cache that a loaded model holds memory for; conversations take turns.
pub(super) struct KvPool {
    gpu: Arc<Gpu>,
    config: Config,
    free: Mutex<Option<Cache>>,
}

/// A conversation's cache on the card, given back on drop.
pub(crate) struct Kv {
    pool: Arc<KvPool>,
    cache: Option<Cache>,
    /// Whether the last token's experts are in the second half of `ids`.
    odd: bool,
}

impl KvPool {
    pub(super) fn new(gpu: &Arc<Gpu>, c: &Config, ctx: usize) -> Result<Arc<Self>, CudaError> {
        Ok(Arc::new(Self {
            free: Mutex::new(Some(Cache::new(gpu, c, ctx)?)),
            gpu: Arc::clone(gpu),
            config: c.clone(),
        }))
    }

    /// A cache for `ctx` positions: the model's own if it is free and large enough, else another.
    pub(super) fn take(self: &Arc<Self>, ctx: usize) -> Result<Kv, CudaError> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let own = free.take_if(|cache| cache.capacity >= ctx);
        drop(free);
        let cache = match own {
            Some(cache) => cache,
            None => Cache::new(&self.gpu, &self.config, ctx)?,
        };
        Ok(Kv {
            pool: Arc::clone(self),
            cache: Some(cache),
            odd: false,
        })
    }
}

impl Kv {
    fn cache(&self) -> &Cache {
        self.cache.as_ref().expect("BUG: given back before drop")
    }

    /// Positions it has room for, of which a conversation may use fewer.
    pub(super) fn capacity(&self) -> usize {
        self.cache().capacity
    }

    /// Keys and values of a layer.
    pub(super) fn layer(&self, layer: usize) -> (Slice<'_, u16>, Slice<'_, u16>) {
        let c = &self.pool.config;
        let len = c.n_kv_heads * self.cache().capacity * c.head_dim;
        let all = self.cache().memory.slice::<u16>();
        (
            all.part(2 * layer * len, len),
            all.part((2 * layer + 1) * len, len),
        )
    }

    /// Where the experts of the token at work go, over all layers, and where those of the one
    /// before are.
    pub(super) fn ids(&self) -> [Slice<'_, i32>; 2] {
        let all = self.cache().ids.slice::<i32>();
        let len = all.len() / 2;
        let halves = [all.part(0, len), all.part(len, len)];
        if self.odd {
            halves
        } else {
            [halves[1], halves[0]]
        }
    }

    /// Says that the token at work is done: its experts are those of the one before now.
    pub(super) fn flip(&mut self) {
        self.odd = !self.odd;
    }

    /// The weights of the token at work, over all layers.
    pub(super) fn weights(&self) -> Slice<'_, f32> {
        self.cache().weights.slice()
    }
}

impl Drop for Kv {
    fn drop(&mut self) {
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let held = free.as_ref().map_or(0, |cache| cache.capacity);
        if self.capacity() > held {
            *free = self.cache.take();
        }
    }
}
