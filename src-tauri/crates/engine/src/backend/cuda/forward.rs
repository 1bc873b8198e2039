//! A pass over the layers: input, attention, logits. The experts' share is in `decode` and
//! `prefill`.

use octet_kernels::cuda::{
    CudaError, DeviceMatrix, FlashAttention, Moment, Reuse, RmsNorm, RopeAppend, Rows, Slice,
    SplitAttention,
};

use super::decode::Conversing;
use super::work::{self, Kv, Work};
use super::{CudaSession, GpuModel, graphs};
use crate::backend::{self, Host, Logits, PassMeter, PassWatch, RouterHook};
use crate::error::EngineError;
use crate::experts::RoutingStats;
use crate::plan::needs::LOGIT_ROWS;
use crate::tokenizer::TokenId;

/// Up to this many tokens attend without tensor cores: a tile of those is 64 tokens.
const FEW_TOKENS: usize = 8;

/// What one pass works with.
pub(super) struct Pass<'a> {
    pub host: &'a Host,
    pub work: &'a mut Work,
    pub kv: &'a mut Kv,
    /// Tokens.
    pub t: usize,
    /// The position of the first one.
    pub first: usize,
    /// Up to which position attention may reach.
    pub reach: usize,
    /// Whether launches are recorded.
    pub records: bool,
}

/// Tokens that are computed together.
struct Chunk<'a> {
    tokens: &'a [TokenId],
    /// The position of the first one.
    first: usize,
    /// How many of the last ones' logits are wanted.
    rows: usize,
}

impl GpuModel {
    /// Computes `pass` chunk by chunk; its logits, `(t, vocab)` or `(1, vocab)`, are left in the
    /// session.
    pub(super) fn forward(
        &self,
        host: &Host,
        session: &mut CudaSession,
        mut pass: backend::Pass<'_>,
        watch: &mut PassWatch<'_>,
    ) -> Result<(), EngineError> {
        let mut meter = PassMeter::new(host.spec(), watch);
        let mut work = self.work();
        session.logits.clear();
        let all = pass.tokens.len();
        let mut done = 0;
        for tokens in pass.tokens.chunks(work.chunk) {
            meter.chunk(done, tokens.len(), all);
            let first = pass.first + done;
            done += tokens.len();
            let rows = match pass.logits {
                Logits::All => tokens.len(),
                Logits::Last => usize::from(done == all),
            };
            let chunk = Chunk {
                tokens,
                first,
                rows,
            };
            let computed = self.chunk(host, session, &mut work, chunk, &mut pass, &mut meter);
            if let Err(error) = computed {
                // Staging memory must be left alone before the next pass writes it.
                let _ = self.compute.synchronize();
                return Err(error);
            }
        }
        Ok(())
    }

    /// One chunk; appends the logits that it shall give.
    fn chunk(
        &self,
        host: &Host,
        session: &mut CudaSession,
        work: &mut Work,
        chunk: Chunk<'_>,
        pass: &mut backend::Pass<'_>,
        meter: &mut PassMeter<'_>,
    ) -> Result<(), EngineError> {
        let c = host.spec();
        let Chunk {
            tokens,
            first,
            rows,
        } = chunk;
        let t = tokens.len();
        let CudaSession {
            kv,
            rotary,
            scratch,
            logits,
            ..
        } = session;
        let capacity = kv.capacity();
        assert!(first + t <= capacity, "BUG: positions past the cache");
        host.embed(tokens, work.hidden_mut(t))?;
        rotary.prepare(first, t);
        let angles = work.angles_mut(t).chunks_exact_mut(2);
        for (to, (cos, sin)) in angles.zip(rotary.angles()) {
            (to[0], to[1]) = (*cos, *sin);
        }
        let reuse = pass.hook.map_or_else(Reuse::default, RouterHook::for_gpu);
        *work.moment_mut() = Moment::new(first, reuse);
        let reuses = pass.hook.is_some();
        let routing: &mut RoutingStats = pass.routing;
        let mut pass = Pass {
            host,
            work,
            kv,
            t,
            first,
            reach: if t == 1 {
                graphs::reach(first, capacity)
            } else {
                first + t
            },
            records: pass.records,
        };
        if t == 1 {
            let token = Conversing {
                routing,
                scratch,
                reuses,
            };
            self.decode(&mut pass, token, meter)?;
            if rows > 0 {
                let values = pass.work.staging.logits.values(0, c.vocab_size);
                logits.extend_from_slice(values);
            }
        } else {
            self.upload_input(&mut pass)?;
            for layer in 0..c.n_layers {
                meter.layer(layer)?;
                self.attention(&mut pass, layer)?;
                self.prefill_experts(&mut pass, layer, meter)?;
            }
            self.logits(&mut pass, rows, logits)?;
        }
        Ok(())
    }

    /// Brings the pass's input to the GPU.
    pub(super) fn upload_input(&self, pass: &mut Pass<'_>) -> Result<(), CudaError> {
        let (from, to) = pass.work.input(pass.t);
        // SAFETY: the staging is rewritten by the next pass only, which comes after this one's wait.
        unsafe { self.compute.upload(from, to) }
    }

    /// `hidden += o(attention(norm(hidden)))`; keys and values go to the cache.
    pub(super) fn attention(&self, pass: &mut Pass<'_>, layer: usize) -> Result<(), CudaError> {
        let c = pass.host.checkpoint.spec();
        let (ops, s, t) = (&*self.ops, &self.compute, pass.t);
        let trunk = &self.trunk.layers[layer];
        let work = &*pass.work;
        let (hidden, normed) = (work.hidden(), work.normed());
        let attended_amax = (t == 1).then(|| work.attended_amax().part(0, 1));
        ops.rms_norm(
            s,
            RmsNorm {
                t,
                x: hidden,
                w: trunk.input_norm(),
                eps: c.rms_norm_eps as f32,
                y: normed,
                amax: Some(work.normed_amax()),
                clear: attended_amax,
            },
        )?;
        let (q, k, v) = (work.q.slice(), work.k.slice(), work.v.slice());
        let products = [(trunk.q, q), (trunk.k, k), (trunk.v, v)];
        self.project(work, t, &products, normed, work.normed_amax(), false)?;

        let shape = work::shape(c, pass.kv.capacity());
        let (cache, moment, first) = (pass.kv.layer(layer), work.moment(), pass.first);
        let angles = work.angles(t);
        ops.rope_append(
            s,
            RopeAppend {
                shape,
                t,
                moment,
                qkv: (q, k, v),
                angles,
                cache,
            },
        )?;
        let attended = work.attended.slice::<f32>();
        let tensor_cores = t > FEW_TOKENS && !self.exact;
        if !(tensor_cores
            && ops.flash(
                s,
                FlashAttention {
                    shape,
                    t,
                    first,
                    q,
                    cache,
                    out: attended,
                },
            )?)
        {
            let partial = work.partial.slice::<f32>();
            let q_width = c.n_heads * c.head_dim;
            let mut done = 0;
            while done < t {
                let rows = (partial.len() / shape.partial_len(pass.reach)).clamp(1, t - done);
                ops.attention(
                    s,
                    SplitAttention {
                        shape,
                        t: rows,
                        moment,
                        first: done,
                        reach: pass.reach,
                        q: q.part(done * q_width, rows * q_width),
                        cache,
                        partial,
                        out: attended.part(done * q_width, rows * q_width),
                        amax: attended_amax,
                    },
                )?;
                done += rows;
            }
        }
        let products = [(trunk.o, hidden)];
        self.project(work, t, &products, attended, work.attended_amax(), true)
    }

    /// `y = w x` for each product, or `y += w x`; all take the same `x`, `(t, k)`, whose largest
    /// magnitudes are in `amax` where there is one token.
    pub(super) fn project(
        &self,
        work: &Work,
        t: usize,
        products: &[(DeviceMatrix, Slice<'_, f32>)],
        x: Slice<'_, f32>,
        amax: Slice<'_, f32>,
        add: bool,
    ) -> Result<(), CudaError> {
        let (ops, s) = (&*self.ops, &self.compute);
        let first = products[0].0;
        let alike = products.iter().all(|(m, _)| m.bits() == first.bits());
        let rows = Rows {
            t,
            add,
            ..Rows::default()
        };
        let fast = |m: &DeviceMatrix| {
            !self.exact
                && if t == 1 {
                    m.is_regular()
                } else {
                    m.is_regular_in_prefill()
                }
        };
        if t == 1 && alike && products.iter().all(|(m, _)| fast(m)) {
            return ops.matvec(s, products, x, amax, add);
        }
        if t > 1 && products.iter().any(|(m, _)| fast(m)) {
            let k = first.k();
            ops.rows_to_f16(s, t, k, x, work.x16.slice(), work.x_scale.slice())?;
        }
        for (m, y) in products {
            match (fast(m), t) {
                (false, _) => ops.matvec_any(s, *m, x, *y, rows)?,
                (true, 1) => ops.matvec(s, &[(*m, *y)], x, amax, add)?,
                (true, _) => {
                    ops.gemm(s, *m, (work.x16.slice(), work.x_scale.slice()), *y, rows)?;
                }
            }
        }
        Ok(())
    }

    /// Appends the logits of the last `rows` tokens, and waits for them.
    fn logits(
        &self,
        pass: &mut Pass<'_>,
        rows: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        let vocab = pass.host.checkpoint.spec().vocab_size;
        let skipped = pass.t - rows;
        for start in (0..rows).step_by(LOGIT_ROWS) {
            let n = LOGIT_ROWS.min(rows - start);
            self.some_logits(pass, skipped + start, n)?;
            self.compute.synchronize()?;
            out.extend_from_slice(pass.work.staging.logits.values(0, n * vocab));
        }
        if rows == 0 {
            self.compute.synchronize()?;
        }
        Ok(())
    }

    /// Brings the logits of `n` tokens from `start` on, up to [`LOGIT_ROWS`], into the staging.
    pub(super) fn some_logits(
        &self,
        pass: &mut Pass<'_>,
        start: usize,
        n: usize,
    ) -> Result<(), CudaError> {
        let c = pass.host.checkpoint.spec();
        let (width, vocab, eps) = (c.hidden_size, c.vocab_size, c.rms_norm_eps as f32);
        let (work, s) = (&mut *pass.work, &self.compute);
        let hidden = work.hidden().part(start * width, n * width);
        let normed = work.normed();
        let norm = self.trunk.final_norm();
        self.ops.rms_norm(
            s,
            RmsNorm {
                t: n,
                x: hidden,
                w: norm,
                eps,
                y: normed,
                amax: None,
                clear: None,
            },
        )?;
        let logits = work.logits.slice();
        self.trunk.logits(&self.ops, s, n, normed, logits)?;
        let to = work.staging.logits.values_mut::<f32>(0, n * vocab);
        // SAFETY: nobody touches the staging before the wait.
        unsafe { s.download(logits.part(0, n * vocab), to) }
    }
}
