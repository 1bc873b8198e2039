//! The forward pass on the CPU, over a checkpoint's trunk and its experts.

mod attention;
mod expert;
mod kv_cache;
mod moe;
pub(super) mod ops;

use std::sync::Arc;

use octet_kernels::{Job, Matrix, Precision, Q8Matrix, Scratch};

use super::hook::HookAt;
use super::rotary::{self, Rotary};
use super::{Backend, BackendSession, DeviceKind, Host, Logits, Pass, PassMeter, PassWatch};
use crate::checkpoint::Table;
use crate::error::EngineError;
use crate::spec::{Feature, ModelSpec, QkNorm};

pub use expert::expert_forward;
use kv_cache::KvCache;
pub use moe::route;

/// What `spec` has that the CPU does not compute.
pub fn lacks(spec: &ModelSpec) -> Option<Feature> {
    let lacks = |feature: &Feature| matches!(feature, Feature::DenseLayers | Feature::SharedExpert);
    spec.features().into_iter().find(lacks)
}

/// The output matrix.
enum Head {
    /// At 8 bits in memory, in place of the file's f16.
    Q8(Q8Matrix),
    /// As the file has it.
    InPlace,
}

/// A model on the CPU: everything but the output matrix is used in place.
pub struct Cpu {
    host: Arc<Host>,
    head: Head,
}

impl Cpu {
    /// Makes the model ready; its output matrix is brought to 8 bits unless the precision is exact.
    pub fn new(host: Arc<Host>) -> Self {
        let c = host.spec();
        let head = match (host.precision, host.checkpoint.output()) {
            (Precision::Exact, _) | (_, Table::Blocks(_)) => Head::InPlace,
            (Precision::Fast, Table::F16(f16)) => {
                let q8 = Q8Matrix::from_f16(&host.pool, f16, c.vocab_size, c.hidden_size);
                // The mapped f16 pages have served; the copy stands in for them.
                host.checkpoint.advise_dont_need(f16);
                Head::Q8(q8)
            }
        };
        Self { host, head }
    }

    /// The same for a model that another device computes: nothing is made ready until that fails.
    pub fn in_reserve(host: Arc<Host>) -> Self {
        Self {
            host,
            head: Head::InPlace,
        }
    }
}

impl Backend for Cpu {
    fn device(&self) -> DeviceKind {
        DeviceKind::Cpu
    }

    fn name(&self) -> &str {
        "CPU"
    }

    fn session(self: Arc<Self>, ctx: usize) -> Result<Box<dyn BackendSession>, EngineError> {
        let c = self.host.spec();
        Ok(Box::new(CpuSession {
            kv: KvCache::new(c.n_layers, c.n_kv_heads, c.head_dim, ctx),
            scratch: Scratch::default(),
            buffers: Buffers::new(c),
            cpu: self,
        }))
    }
}

/// A conversation on the CPU.
struct CpuSession {
    cpu: Arc<Cpu>,
    kv: KvCache,
    scratch: Scratch,
    buffers: Buffers,
}

/// Activations, reused from pass to pass; each is f32 and row-major.
struct Buffers {
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
    logits: Vec<f32>,
    rotary: Rotary,
    scores: Vec<f32>,
    moe: moe::Buffers,
}

impl Buffers {
    fn new(c: &ModelSpec) -> Self {
        Self {
            hidden: Vec::new(),
            normed: Vec::new(),
            q: Vec::new(),
            k: Vec::new(),
            v: Vec::new(),
            attended: Vec::new(),
            projected: Vec::new(),
            logits: Vec::new(),
            rotary: rotary::of(c),
            scores: Vec::new(),
            moe: moe::Buffers::default(),
        }
    }
}

/// `buffer` with exactly `len` values, old ones left as they are.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    buffer
}

impl BackendSession for CpuSession {
    fn forward(
        &mut self,
        pass: Pass<'_>,
        watch: &mut PassWatch<'_>,
    ) -> Result<&mut [f32], EngineError> {
        let Self {
            cpu,
            kv,
            scratch,
            buffers,
        } = self;
        let (host, c) = (&*cpu.host, cpu.host.spec());
        let (t, first) = (pass.tokens.len(), pass.first);
        host.embed(pass.tokens, sized(&mut buffers.hidden, t * c.hidden_size))?;
        buffers.rotary.prepare(first, t);
        let hook = pass.hook.filter(|_| t == 1);
        let hook = hook.map(|hook| HookAt {
            hook,
            position: first,
        });
        let mut meter = PassMeter::new(c, watch);
        for layer in 0..c.n_layers {
            meter.layer(layer)?;
            cpu.attention(layer, first, t, kv, scratch, buffers)?;
            cpu.moe(layer, t, pass.routing, hook, scratch, buffers, &mut meter)?;
        }
        if t == 1 {
            host.experts.publish(pass.routing);
        }
        let rows = match pass.logits {
            Logits::Last => 1,
            Logits::All => t,
        };
        cpu.logits(t, rows, scratch, buffers);
        Ok(&mut buffers.logits)
    }
}

impl Cpu {
    /// The attention block: `hidden += o_proj(attention(norm(hidden)))`, with keys and values of
    /// the positions from `first` on cached.
    fn attention(
        &self,
        layer: usize,
        first: usize,
        t: usize,
        kv: &mut KvCache,
        scratch: &mut Scratch,
        buffers: &mut Buffers,
    ) -> Result<(), EngineError> {
        let Host {
            pool, precision, ..
        } = &*self.host;
        let c = self.host.spec();
        let (q_width, kv_width) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
        let trunk = self.host.checkpoint.layer(layer);
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
        octet_kernels::matmul(pool, scratch, *precision, &mut jobs);
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
        kv.write(layer, first, &buffers.k, &buffers.v);

        let attended = sized(&mut buffers.attended, t * q_width);
        let heads = attention::Heads::new(c, layer, trunk.sinks);
        attention::attend(
            pool,
            heads,
            (kv, first),
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
        octet_kernels::matmul(pool, scratch, *precision, &mut jobs);
        ops::add_bias(projected, o_bias);
        ops::add(&mut buffers.hidden, projected);
        Ok(())
    }

    /// The logits of the last `rows` of `t` tokens, into the buffers.
    fn logits(&self, t: usize, rows: usize, scratch: &mut Scratch, buffers: &mut Buffers) {
        let (host, c) = (&*self.host, self.host.spec());
        let last = &buffers.hidden[(t - rows) * c.hidden_size..];
        let normed = sized(&mut buffers.normed, rows * c.hidden_size);
        let eps = c.rms_norm_eps as f32;
        ops::rms_norm(last, host.checkpoint.final_norm(), eps, normed);
        let out = sized(&mut buffers.logits, rows * c.vocab_size);
        match &self.head {
            Head::Q8(w) => octet_kernels::matmul_q8(&host.pool, scratch, w, normed, out),
            Head::InPlace => {
                let w = (host.checkpoint.output(), c.vocab_size);
                self.multiply(scratch, w, host.precision, normed, out);
            }
        }
        // Rounding activations takes NaN for 0: what is lost on the way must not look like an answer.
        let (states, scores) = (last.chunks(c.hidden_size), out.chunks_mut(c.vocab_size));
        for (state, scores) in states.zip(scores) {
            if !state.iter().all(|value| value.is_finite()) {
                scores.fill(f32::NAN);
            }
        }
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
        let pool = &self.host.pool;
        match table {
            Table::F16(f16) => octet_kernels::matmul_f16(pool, f16, rows, x, y),
            Table::Blocks(w) => {
                let w = Matrix::Blocks(w);
                octet_kernels::matmul(pool, scratch, precision, &mut [Job { w, x, y }]);
            }
        }
    }
}
