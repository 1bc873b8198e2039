//! Working memory of a forward pass, and the KV caches: all allocated when a model is loaded.

use std::sync::{Arc, Mutex, PoisonError};

use octet_kernels::cuda::{
    AttentionShape, Buffer, CudaError, Gpu, MAX_TOP_K, Moment, Pinned, Slice,
};

use super::graphs::Graphs;
use crate::plan::needs::{CHOICE_LEN, CudaBuffers, MOMENT_LEN};
use crate::plan::{ModelSizes, Needs};
use crate::spec::ModelSpec;

/// Where the input of a pass lies in its buffers, in values: angles, moment, residual stream. The
/// angles of few tokens are at the end of their place, so that all of it is one copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct InputAt {
    moment: usize,
    width: usize,
    head_dim: usize,
}

impl InputAt {
    fn new(c: &ModelSpec, chunk: usize) -> Self {
        Self {
            moment: (chunk * c.head_dim).next_multiple_of(MOMENT_LEN),
            width: c.hidden_size,
            head_dim: c.head_dim,
        }
    }

    /// Of `t` tokens, as their start and length.
    fn angles(self, t: usize) -> (usize, usize) {
        (self.moment - t * self.head_dim, t * self.head_dim)
    }

    fn hidden(self, t: usize) -> (usize, usize) {
        (self.moment + MOMENT_LEN, t * self.width)
    }

    fn all(self, t: usize) -> (usize, usize) {
        let (start, _) = self.angles(t);
        let (hidden, len) = self.hidden(t);
        (start, hidden + len - start)
    }
}

/// Where a [`Choice`] lies in its buffers, in values.
const IDS: usize = 0;
const WEIGHTS: usize = MAX_TOP_K;
const GUESS: usize = 2 * MAX_TOP_K;
const GUESS_WEIGHTS: usize = 3 * MAX_TOP_K;
const NORMED: usize = CHOICE_LEN;

/// What the router said of one token in the layer at work, and the normed state that it saw: on the
/// host, where one copy brings it.
pub(super) struct Choice(Pinned);

impl Choice {
    /// The chosen experts.
    pub(super) fn ids(&self, top_k: usize) -> &[i32] {
        self.0.values(4 * IDS, top_k)
    }

    /// Their weights.
    pub(super) fn weights(&self, top_k: usize) -> &[f32] {
        self.0.values(4 * WEIGHTS, top_k)
    }

    /// The likeliest `n` experts of the next layer, if they were guessed.
    pub(super) fn guess(&self, n: usize) -> &[i32] {
        self.0.values(4 * GUESS, n)
    }

    /// The normed state, if experts may be computed on the CPU.
    pub(super) fn normed(&self, width: usize) -> &[f32] {
        self.0.values(4 * NORMED, width)
    }
}

/// Activations and staging memory, for chunks of up to [`Work::chunk`] tokens.
pub(super) struct Work {
    /// Tokens of a chunk.
    pub chunk: usize,
    /// Angles, moment, and the residual stream; see [`InputAt`].
    input: Buffer,
    /// The [`Choice`] of one token, and the normed residual stream of all.
    routed: Buffer,
    /// f32 `(t, n_heads * head_dim)`.
    pub q: Buffer,
    /// f32 `(t, n_kv_heads * head_dim)`.
    pub k: Buffer,
    /// f32 `(t, n_kv_heads * head_dim)`.
    pub v: Buffer,
    /// f32 `(t, n_heads * head_dim)`.
    pub attended: Buffer,
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
    pub graphs: Graphs,
    input_at: InputAt,
    top_k: usize,
}

/// Pinned host memory that copies pass through.
pub(super) struct Staging {
    /// See [`InputAt`].
    input: Pinned,
    /// The router's choice, of one layer and `t` tokens, or of all layers and one token.
    pub ids: Pinned,
    pub weights: Pinned,
    pub choice: Choice,
    pub from_cpu: Pinned,
    pub rows: Pinned,
    pub row_weights: Pinned,
    pub logits: Pinned,
}

impl Work {
    /// For chunks of `sizes.chunk()` tokens of the model `c` and contexts of up to `ctx`.
    pub(super) fn new(
        gpu: &Arc<Gpu>,
        c: &ModelSpec,
        sizes: &ModelSizes,
        ctx: usize,
    ) -> Result<Self, CudaError> {
        let (chunk, width) = (sizes.chunk(), c.hidden_size);
        let choices = chunk.max(c.n_layers) * c.top_k;
        let bytes = CudaBuffers::new(sizes, ctx);
        let buffer = |bytes: u64| Buffer::new(gpu, "working memory", bytes as usize);
        let pinned = |bytes: usize| Pinned::new(gpu, bytes);
        Ok(Self {
            chunk,
            input: buffer(bytes.input)?,
            routed: buffer(bytes.routed)?,
            q: buffer(bytes.q)?,
            k: buffer(bytes.k)?,
            v: buffer(bytes.v)?,
            attended: buffer(bytes.attended)?,
            partial: buffer(bytes.partial)?,
            x16: buffer(bytes.x16)?,
            x_scale: buffer(bytes.x_scale)?,
            gate: buffer(bytes.gate)?,
            up: buffer(bytes.up)?,
            h16: buffer(bytes.h16)?,
            h_scale: buffer(bytes.h_scale)?,
            amax: buffer(bytes.amax)?,
            ids: buffer(bytes.ids)?,
            weights: buffer(bytes.weights)?,
            rows: buffer(bytes.rows)?,
            row_weights: buffer(bytes.row_weights)?,
            from_cpu: buffer(bytes.from_cpu)?,
            places: buffer(bytes.places)?,
            logits: buffer(bytes.logits)?,
            staging: Staging {
                input: pinned(bytes.input as usize)?,
                ids: pinned(4 * choices)?,
                weights: pinned(4 * choices)?,
                choice: Choice(pinned(4 * (NORMED + width))?),
                from_cpu: pinned(bytes.from_cpu as usize)?,
                rows: pinned(bytes.rows as usize)?,
                row_weights: pinned(bytes.row_weights as usize)?,
                logits: pinned(bytes.logits as usize)?,
            },
            places_known: false,
            graphs: Graphs::default(),
            input_at: InputAt::new(c, chunk),
            top_k: c.top_k,
        })
    }

    /// The residual stream, f32 `(chunk, hidden)`.
    pub(super) fn hidden(&self) -> Slice<'_, f32> {
        let (start, len) = self.input_at.hidden(self.chunk);
        self.input.slice().part(start, len)
    }

    /// Cosines and sines, f32 `(t, head_dim / 2, 2)`.
    pub(super) fn angles(&self, t: usize) -> Slice<'_, f32> {
        let (start, len) = self.input_at.angles(t);
        self.input.slice().part(start, len)
    }

    /// Where the pass is.
    pub(super) fn moment(&self) -> Slice<'_, Moment> {
        self.input
            .slice()
            .part(self.input_at.moment / MOMENT_LEN, 1)
    }

    /// The input of `t` tokens as it is copied to the GPU, and where it is to go.
    pub(super) fn input(&self, t: usize) -> (&[f32], Slice<'_, f32>) {
        let (start, len) = self.input_at.all(t);
        let from = self.staging.input.values(4 * start, len);
        (from, self.input.slice().part(start, len))
    }

    /// The input's residual stream, to be written on the host.
    pub(super) fn hidden_mut(&mut self, t: usize) -> &mut [f32] {
        let (start, len) = self.input_at.hidden(t);
        self.staging.input.values_mut(4 * start, len)
    }

    /// The same of its angles.
    pub(super) fn angles_mut(&mut self, t: usize) -> &mut [f32] {
        let (start, len) = self.input_at.angles(t);
        self.staging.input.values_mut(4 * start, len)
    }

    /// The same of its moment.
    pub(super) fn moment_mut(&mut self) -> &mut Moment {
        let at = 4 * self.input_at.moment;
        &mut self.staging.input.values_mut(at, 1)[0]
    }

    /// The normed residual stream, f32 `(chunk, hidden)`.
    pub(super) fn normed(&self) -> Slice<'_, f32> {
        let len = self.chunk * self.input_at.width;
        self.routed.slice().part(NORMED, len)
    }

    /// The experts of one token in the layer at work, i32 `(top_k)`.
    pub(super) fn token_ids(&self) -> Slice<'_, i32> {
        self.routed.slice().part(IDS, self.top_k)
    }

    /// Their weights, f32 `(top_k)`.
    pub(super) fn token_weights(&self) -> Slice<'_, f32> {
        self.routed.slice().part(WEIGHTS, self.top_k)
    }

    /// The guess for the next layer, i32 and f32 `(top_k)`.
    pub(super) fn guess(&self) -> (Slice<'_, i32>, Slice<'_, f32>) {
        let weights = self.routed.slice();
        (
            self.routed.slice().part(GUESS, self.top_k),
            weights.part(GUESS_WEIGHTS, self.top_k),
        )
    }

    /// The choice of one token as it is copied to the host, with the normed state if `normed`, and
    /// where it is to go.
    pub(super) fn choice(&mut self, normed: bool) -> (Slice<'_, f32>, &mut [f32]) {
        let width = if normed { self.input_at.width } else { 0 };
        let len = NORMED + width;
        let to = self.staging.choice.0.values_mut(0, len);
        (self.routed.slice().part(0, len), to)
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
pub(super) fn shape(c: &ModelSpec, capacity: usize) -> AttentionShape {
    AttentionShape {
        n_heads: c.n_heads,
        n_kv_heads: c.n_kv_heads,
        head_dim: c.head_dim,
        capacity,
        window: c.window(0),
    }
}

/// Keys and values of all layers, f16 `(n_layers, 2, n_kv_heads, capacity, head_dim)`.
struct Cache {
    memory: Buffer,
    /// The experts of the newest decoded token, i32 `(n_layers, top_k)`; -1: there is none.
    newest: Buffer,
    capacity: usize,
}

impl Cache {
    fn new(gpu: &Arc<Gpu>, sizes: &ModelSizes, capacity: usize) -> Result<Self, CudaError> {
        let Needs { kv, .. } = sizes.gpu_needs(capacity);
        let newest = CudaBuffers::new(sizes, capacity).newest;
        Ok(Self {
            memory: Buffer::new(gpu, "KV cache", kv as usize)?,
            newest: Buffer::new(gpu, "KV cache", newest as usize)?,
            capacity,
        })
    }
}

/// The one cache that a loaded model holds memory for; conversations take turns.
pub(super) struct KvPool {
    gpu: Arc<Gpu>,
    sizes: ModelSizes,
    free: Mutex<Option<Cache>>,
}

/// A conversation's cache on the GPU, given back on drop.
pub(crate) struct Kv {
    pool: Arc<KvPool>,
    cache: Option<Cache>,
}

impl KvPool {
    pub(super) fn new(
        gpu: &Arc<Gpu>,
        sizes: &ModelSizes,
        ctx: usize,
    ) -> Result<Arc<Self>, CudaError> {
        Ok(Arc::new(Self {
            free: Mutex::new(Some(Cache::new(gpu, sizes, ctx)?)),
            gpu: Arc::clone(gpu),
            sizes: sizes.clone(),
        }))
    }

    /// A cache for `ctx` positions: the model's own if it is free and large enough, else another.
    pub(super) fn take(self: &Arc<Self>, ctx: usize) -> Result<Kv, CudaError> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let own = free.take_if(|cache| cache.capacity >= ctx);
        drop(free);
        let mut cache = match own {
            Some(cache) => cache,
            None => Cache::new(&self.gpu, &self.sizes, ctx)?,
        };
        let none = vec![-1; self.sizes.n_layers * self.sizes.top_k];
        cache.newest.write::<i32>(0, &none)?;
        Ok(Kv {
            pool: Arc::clone(self),
            cache: Some(cache),
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
        let c = &self.pool.sizes;
        let len = c.n_kv_heads * self.cache().capacity * c.head_dim;
        let all = self.cache().memory.slice::<u16>();
        (
            all.part(2 * layer * len, len),
            all.part((2 * layer + 1) * len, len),
        )
    }

    /// The experts of the newest decoded token, i32 `(n_layers, top_k)`; while a token is at work,
    /// those of the one before from its layer on.
    pub(super) fn newest(&self) -> Slice<'_, i32> {
        self.cache().newest.slice()
    }

    /// Where its memory lies on the GPU.
    pub(super) fn addresses(&self) -> [u64; 2] {
        let keys = self.cache().memory.slice::<u8>();
        [keys.address(), self.newest().address()]
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
