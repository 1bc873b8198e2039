//! The forward pass over a checkpoint's trunk and its experts, as its [`ModelSpec`] says.
//!
//! [`Decoder`] holds what does not change (weights, experts); a [`Session`] holds what a
//! conversation adds (KV cache, buffers).

mod attention;
mod moe;
mod ops;
mod progress;
mod reuse;

use std::sync::Arc;

use octet_kernels::{Job, Matrix, Pool, Precision, Q8Matrix, Scratch};

use crate::checkpoint::{Checkpoint, Table};
use crate::error::EngineError;
use crate::experts::{Experts, RoutingStats};
use crate::gpu::{self, GpuModel};
use crate::kv_cache::KvCache;
use crate::spec::{Feature, ModelSpec, QkNorm};
use crate::tokenizer::TokenId;

pub use crate::plan::PREFILL_CHUNK;
pub use moe::{expert_forward, route};
pub(crate) use progress::{PassMeter, experts, projections};
pub use progress::{PassProgress, PassWatch};
pub use reuse::RoutingReuse;

/// Which positions' logits a forward pass returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// Only the last one's: `(1, vocab)`.
    Last,
    /// Every one's: `(t, vocab)`.
    All,
}

/// The output matrix: at 8 bits, or as the checkpoint has it.
enum Head {
    /// 8 bits in memory, in place of the file's f16.
    Q8(Q8Matrix),
    /// As the file has it.
    InPlace,
}

/// A loaded model.
pub struct Decoder {
    checkpoint: Arc<Checkpoint>,
    experts: Arc<Experts>,
    head: Head,
    pool: Pool,
    precision: Precision,
    /// Where everything but the CPU's share of misses is computed, if there is a GPU.
    gpu: Option<GpuModel>,
}

/// One conversation's state: what is cached, and the buffers to go on with.
pub struct Session {
    /// Keys and values so far.
    pub kv: KvCache,
    /// How the decoded tokens were routed.
    pub routing: RoutingStats,
    /// Has decoded tokens keep experts of the token before, for benchmarks.
    pub routing_reuse: Option<RoutingReuse>,
    /// Has a GPU take a decoded token's launches as recorded before, where its driver can; the
    /// numbers are the same.
    pub records: bool,
    /// Keys and values on the GPU, if the session computes there: `kv` then only counts.
    pub(crate) gpu: Option<gpu::Kv>,
    pub(crate) scratch: Scratch,
    pub(crate) buffers: Buffers,
}

/// Activations, reused from pass to pass; each is f32 and row-major.
#[derive(Default)]
pub(crate) struct Buffers {
    /// The residual stream, `(t, hidden)`.
    hidden: Vec<f32>,
    /// Its norm, `(t, hidden)`.
    normed: Vec<f32>,
    /// `(t, n_heads * head_dim)`.
    q: Vec<f32>,
    /// `(t, n_kv_heads * head_dim)`.
    k: Vec<f32>,
    /// `(t, n_kv_heads * head_dim)`.
    v: Vec<f32>,
    /// `(t, n_heads * head_dim)`.
    attended: Vec<f32>,
    /// `(t, hidden)`.
    projected: Vec<f32>,
    /// `(t or 1, vocab)`.
    pub(crate) logits: Vec<f32>,
    pub(crate) rotary: attention::Rotary,
    scores: Vec<f32>,
    moe: moe::Buffers,
}

/// `buffer` with exactly `len` values, old ones left as they are.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    buffer
}

/// What `spec` has that the CPU does not compute.
pub fn cpu_lacks(spec: &ModelSpec) -> Option<Feature> {
    let lacks = |feature: &Feature| matches!(feature, Feature::DenseLayers | Feature::SharedExpert);
    spec.features().into_iter().find(lacks)
}

impl Decoder {
    /// Prepares `checkpoint` for inference on the CPU: the output matrix is brought to 8 bits unless
    /// `precision` is exact; everything else is used in place.
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        experts: Experts,
        pool: Pool,
        precision: Precision,
    ) -> Self {
        Self::on(checkpoint, experts, pool, precision, None)
    }

    /// The same on a GPU, if there is one; then the CPU only computes misses.
    pub fn on(
        checkpoint: Arc<Checkpoint>,
        experts: Experts,
        pool: Pool,
        precision: Precision,
        gpu: Option<GpuModel>,
    ) -> Self {
        let config = checkpoint.spec();
        let head = match (precision, checkpoint.output()) {
            // Beside a GPU the CPU's output matrix only serves if that fails.
            _ if gpu.is_some() => Head::InPlace,
            (Precision::Exact, _) | (_, Table::Blocks(_)) => Head::InPlace,
            (Precision::Fast, Table::F16(f16)) => {
                let q8 = Q8Matrix::from_f16(&pool, f16, config.vocab_size, config.hidden_size);
                // The mapped f16 pages have served; the copy stands in for them.
                checkpoint.advise_dont_need(f16);
                Head::Q8(q8)
            }
        };
        Self {
            checkpoint,
            experts: Arc::new(experts),
            head,
            pool,
            precision,
            gpu,
        }
    }

    /// The GPU that computes, as long as it works.
    pub fn gpu(&self) -> Option<&GpuModel> {
        self.gpu.as_ref().filter(|gpu| !gpu.is_lost())
    }

    /// The model's shape.
    pub fn spec(&self) -> &ModelSpec {
        self.checkpoint.spec()
    }

    /// The checkpoint it runs on.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Where the experts live.
    pub fn experts(&self) -> &Experts {
        &self.experts
    }

    /// The same, for those who watch from another thread.
    pub fn experts_handle(&self) -> Arc<Experts> {
        Arc::clone(&self.experts)
    }

    /// The worker pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// An empty session for up to `ctx` positions; on the CPU if the GPU has no room for it.
    pub fn session(&self, ctx: usize) -> Session {
        let c = self.spec();
        let gpu = self.gpu().and_then(|gpu| gpu.cache(ctx).ok());
        Session {
            gpu,
            kv: KvCache::new(c.n_layers, c.n_kv_heads, c.head_dim, ctx),
            routing: RoutingStats::new(c.n_layers, c.n_experts),
            routing_reuse: None,
            records: true,
            scratch: Scratch::default(),
            buffers: Buffers::default(),
        }
    }

    /// Runs `tokens` (at most [`PREFILL_CHUNK`] for bounded memory) behind what `session` holds
    /// and returns logits, f32 `(t, vocab)` or `(1, vocab)`.
    ///
    /// `watch` is told how far it is; a break leaves the session as it was.
    ///
    /// # Errors
    /// [`EngineError::ContextFull`], [`EngineError::UnknownToken`], a failed expert fetch, or
    /// [`EngineError::Cancelled`] after a break.
    pub fn forward<'s>(
        &self,
        session: &'s mut Session,
        tokens: &[TokenId],
        logits: Logits,
        watch: &mut PassWatch<'_>,
    ) -> Result<&'s mut [f32], EngineError> {
        let c = self.spec();
        let t = tokens.len();
        let kv = &session.kv;
        if kv.len() + t > kv.capacity() {
            return Err(EngineError::context_full(c, kv.capacity(), kv.len() + t, 0));
        }
        if session.gpu.is_some() {
            return self.forward_on_gpu(session, tokens, logits, watch);
        }
        let Session {
            kv,
            routing,
            routing_reuse,
            scratch,
            buffers,
            ..
        } = session;
        let hidden = sized(&mut buffers.hidden, t * c.hidden_size);
        embed(&self.checkpoint, tokens, hidden)?;
        buffers.rotary.prepare(c, kv.len(), t);
        buffers.moe.reuse = match routing_reuse {
            Some(reuse) if t == 1 => Some(reuse.at(kv.len())),
            _ => None,
        };
        let mut meter = PassMeter::new(c, watch);
        for layer in 0..c.n_layers {
            meter.layer(layer)?;
            self.attention(layer, t, kv, scratch, buffers)?;
            self.moe(layer, t, routing, scratch, buffers, &mut meter)?;
        }
        kv.advance(t);
        if t == 1 {
            self.experts.publish(routing);
        }

        let rows = match logits {
            Logits::Last => 1,
            Logits::All => t,
        };
        let last = &mut buffers.hidden[(t - rows) * c.hidden_size..];
        let normed = sized(&mut buffers.normed, rows * c.hidden_size);
        ops::rms_norm(
            last,
            self.checkpoint.final_norm(),
            c.rms_norm_eps as f32,
            normed,
        );
        let out = sized(&mut buffers.logits, rows * c.vocab_size);
        match &self.head {
            Head::Q8(w) => octet_kernels::matmul_q8(&self.pool, scratch, w, normed, out),
            Head::InPlace => {
                let w = self.checkpoint.output();
                self.multiply(scratch, (w, c.vocab_size), self.precision, normed, out);
            }
        }
        // Rounding activations takes NaN for 0: what is lost on the way must not look like an answer.
        let (states, scores) = (last.chunks(c.hidden_size), out.chunks_mut(c.vocab_size));
        for (state, scores) in states.zip(scores) {
            if !state.iter().all(|value| value.is_finite()) {
                scores.fill(f32::NAN);
            }
        }
        Ok(out)
    }

    /// [`Decoder::forward`] on the GPU. If that fails it is given up, and later sessions compute
    /// on the CPU; this one is of no more use.
    fn forward_on_gpu<'s>(
        &self,
        session: &'s mut Session,
        tokens: &[TokenId],
        logits: Logits,
        watch: &mut PassWatch<'_>,
    ) -> Result<&'s mut [f32], EngineError> {
        let lost = || EngineError::Device {
            reason: "it failed before".to_owned(),
        };
        let gpu = self.gpu().ok_or_else(lost)?;
        let host = gpu::Host {
            checkpoint: &self.checkpoint,
            experts: &self.experts,
            pool: &self.pool,
            precision: self.precision,
        };
        match gpu.forward(host, session, tokens, logits, watch) {
            Ok(()) => Ok(&mut session.buffers.logits),
            Err(error) => {
                if error.is_of_device() {
                    gpu.lose();
                    self.experts.lose_device();
                }
                Err(error)
            }
        }
    }

    /// The attention block: `hidden += o_proj(attention(norm(hidden)))`, keys and values cached.
    fn attention(
        &self,
        layer: usize,
        t: usize,
        kv: &mut KvCache,
        scratch: &mut Scratch,
        buffers: &mut Buffers,
    ) -> Result<(), EngineError> {
        let c = self.spec();
        let (q_width, kv_width) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
        let trunk = self.checkpoint.layer(layer);
        let eps = c.rms_norm_eps as f32;
        let normed = sized(&mut buffers.normed, t * c.hidden_size);
        ops::rms_norm(&buffers.hidden, trunk.input_layernorm, eps, normed);
        let q = sized(&mut buffers.q, t * q_width);
        let k = sized(&mut buffers.k, t * kv_width);
        let v = sized(&mut buffers.v, t * kv_width);
        let mut jobs = [
            Job {
                w: trunk.q_proj,
                x: normed,
                y: q,
            },
            Job {
                w: trunk.k_proj,
                x: normed,
                y: k,
            },
            Job {
                w: trunk.v_proj,
                x: normed,
                y: v,
            },
        ];
        octet_kernels::matmul(&self.pool, scratch, self.precision, &mut jobs);
        let [q_bias, k_bias, v_bias, o_bias] = trunk.biases;
        ops::add_bias(&mut buffers.q, q_bias);
        ops::add_bias(&mut buffers.k, k_bias);
        ops::add_bias(&mut buffers.v, v_bias);
        if c.qk_norm != QkNorm::None {
            // As long as a head, or as all of them.
            ops::rms_norm_in_place(&mut buffers.q, trunk.q_norm, eps);
            ops::rms_norm_in_place(&mut buffers.k, trunk.k_norm, eps);
        }
        buffers.rotary.rotate(&mut buffers.q, c.n_heads);
        buffers.rotary.rotate(&mut buffers.k, c.n_kv_heads);
        kv.write(layer, &buffers.k, &buffers.v);

        let attended = sized(&mut buffers.attended, t * q_width);
        let heads = attention::Heads::new(c, layer, trunk.sinks);
        attention::attend(
            &self.pool,
            heads,
            kv,
            &buffers.q,
            &mut buffers.scores,
            attended,
        )?;

        let projected = sized(&mut buffers.projected, t * c.hidden_size);
        let mut jobs = [Job {
            w: trunk.o_proj,
            x: attended,
            y: projected,
        }];
        octet_kernels::matmul(&self.pool, scratch, self.precision, &mut jobs);
        ops::add_bias(projected, o_bias);
        ops::add(&mut buffers.hidden, projected);
        Ok(())
    }

    /// `y = table x`: `x` f32 `(t, columns)`, `y` `(t, rows)`.
    fn multiply(
        &self,
        scratch: &mut Scratch,
        (table, rows): (Table<'_>, usize),
        precision: Precision,
        x: &[f32],
        y: &mut [f32],
    ) {
        match table {
            Table::F16(f16) => octet_kernels::matmul_f16(&self.pool, f16, rows, x, y),
            Table::Blocks(w) => {
                let w = Matrix::Blocks(w);
                octet_kernels::matmul(&self.pool, scratch, precision, &mut [Job { w, x, y }]);
            }
        }
    }
}

/// Rows of the embedding, f32 `(t, hidden)`.
pub(crate) fn embed(
    checkpoint: &Checkpoint,
    tokens: &[TokenId],
    hidden: &mut [f32],
) -> Result<(), EngineError> {
    let c = checkpoint.spec();
    let (size, vocab) = (c.hidden_size, c.vocab_size);
    let embedding = checkpoint.embedding();
    for (&token, row) in tokens.iter().zip(hidden.chunks_exact_mut(size)) {
        let at = token.0 as usize;
        if at >= vocab {
            return Err(EngineError::UnknownToken {
                token: token.0,
                text: String::new(),
                vocab_size: vocab,
            });
        }
        match embedding {
            Table::F16(f16) => ops::widen(&f16[at * size * 2..(at + 1) * size * 2], row),
            Table::Blocks(w) => w.dequantize_rows(at, row),
        }
    }
    Ok(())
}
