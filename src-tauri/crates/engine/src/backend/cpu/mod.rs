//! The forward pass on the CPU, over a checkpoint's trunk and its experts.

mod expert;
mod moe;

use std::sync::Arc;

use octet_kernels::{
    Cached, Heads, Job, KvCache, Matrix, Precision, Q8Matrix, Rotary, Scratch, attend, ops,
};

use super::hook::HookAt;
use super::rotary;
use super::{Backend, BackendSession, DeviceKind, Host, Logits, Pass, PassMeter, PassWatch};
use crate::checkpoint::Table;
use crate::error::EngineError;
use crate::plan::ModelSizes;
use crate::plan::Needs;
use crate::plan::needs::CpuBuffers;
use crate::spec::{Feature, ModelSpec, QkNorm};

pub use expert::expert_forward;
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

    fn needs(&self, ctx: usize) -> Needs {
        ModelSizes::of(&self.host.checkpoint).cpu_needs(ctx)
    }

    fn session(self: Arc<Self>, ctx: usize) -> Result<Box<dyn BackendSession>, EngineError> {
        let c = self.host.spec();
        Ok(Box::new(CpuSession {
            kv: KvCache::new(c.n_layers, c.n_kv_heads, c.head_dim, ctx),
            scratch: Scratch::default(),
            buffers: Buffers::new(
                c,
                &CpuBuffers::new(&ModelSizes::of(&self.host.checkpoint), ctx),
            ),
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

/// One layer of a pass.
#[derive(Clone, Copy)]
struct Step<'a> {
    layer: usize,
    /// The position of the first token.
    first: usize,
    /// Tokens.
    t: usize,
    /// Changes the choice of a decoded token.
    hook: Option<HookAt<'a>>,
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
    /// Room for a prefill chunk and one row of logits; it is touched as it is used.
    fn new(c: &ModelSpec, bytes: &CpuBuffers) -> Self {
        Self {
            hidden: values(bytes.hidden),
            normed: values(bytes.normed),
            q: values(bytes.q),
            k: values(bytes.k),
            v: values(bytes.v),
            attended: values(bytes.attended),
            projected: values(bytes.projected),
            logits: values(bytes.logits),
            rotary: rotary::with_room(c, bytes.angles),
            scores: values(bytes.scores),
            moe: moe::Buffers::new(bytes),
        }
    }
}

/// Room for f32 values of `bytes` in all.
fn values(bytes: u64) -> Vec<f32> {
    Vec::with_capacity(usize::try_from(bytes / 4).unwrap_or(0))
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
            let step = Step {
                layer,
                first,
                t,
                hook,
            };
            cpu.attention(step, kv, scratch, buffers);
            cpu.moe(step, pass.routing, scratch, buffers, &mut meter)?;
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
    /// The attention block: `hidden += o_proj(attention(norm(hidden)))`, keys and values cached.
    fn attention(
        &self,
        step: Step<'_>,
        kv: &mut KvCache,
        scratch: &mut Scratch,
        buffers: &mut Buffers,
    ) {
        let Step {
            layer, first, t, ..
        } = step;
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
        let heads = Heads {
            n_heads: c.n_heads,
            n_kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            window: c.window(layer),
            sinks: trunk.sinks,
        };
        let cached = Cached {
            kv,
            layer,
            past: first,
        };
        let scores = &mut buffers.scores;
        attend(pool, scratch, heads, cached, &buffers.q, scores, attended);

        let projected = sized(&mut buffers.projected, t * c.hidden_size);
        let mut jobs = [Job {
            w: trunk.o_proj,
            x: attended,
            y: projected,
        }];
        octet_kernels::matmul(pool, scratch, *precision, &mut jobs);
        ops::add_bias(projected, o_bias);
        ops::add(&mut buffers.hidden, projected);
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

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use octet_kernels::Pool;

    use crate::spec::RopePairs;

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::experts::{ExpertOptions, Experts, RoutingStats};
    use crate::plan::PREFILL_CHUNK;
    use crate::synth::{SynthOptions, synth};
    use crate::tokenizer::TokenId;

    const CONFIG: &str = r#"{
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu",
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4,
        "num_experts_per_tok": 2, "vocab_size": 128, "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5, "rope_theta": 1e6, "bos_token_id": 1, "eos_token_id": 2
    }"#;

    fn host() -> Arc<Host> {
        let dir = tempfile::tempdir().expect("a folder");
        let config = dir.path().join("given.json");
        std::fs::write(&config, CONFIG).expect("written");
        let out = dir.path().join("model");
        synth(&config, &out, &SynthOptions::default(), &mut |_, _| {}).expect("a checkpoint");
        let checkpoint = Arc::new(Checkpoint::open(&out).expect("a checkpoint"));
        let experts = Experts::new(Arc::clone(&checkpoint), ExpertOptions::default());
        Arc::new(Host {
            checkpoint,
            experts: Arc::new(experts.expect("tiers")),
            pool: Pool::new(1),
            precision: Precision::Fast,
        })
    }

    /// Where a buffer begins and ends: it moves when it has to grow.
    fn places(buffers: &Buffers) -> Vec<(*const f32, usize)> {
        let all = [
            &buffers.hidden,
            &buffers.normed,
            &buffers.q,
            &buffers.k,
            &buffers.v,
            &buffers.attended,
            &buffers.projected,
            &buffers.logits,
            &buffers.scores,
        ];
        let all = all.into_iter().chain(buffers.moe.counted());
        all.map(|buffer| (buffer.as_ptr(), buffer.capacity()))
            .collect()
    }

    #[test]
    fn the_one_feature_that_is_lacking_is_named() {
        let adjacent = ModelSpec {
            rope_pairs: RopePairs::Adjacent,
            ..ModelSpec::mixtral()
        };
        assert_eq!(lacks(&adjacent), None);
        let shared = ModelSpec {
            shared_expert_size: 512,
            ..adjacent
        };
        assert_eq!(lacks(&shared), Some(Feature::SharedExpert));
    }

    #[test]
    fn what_the_cpu_lacks_is_named() {
        let plain = ModelSpec::mixtral();
        assert_eq!(lacks(&plain), None);
        let spec = ModelSpec {
            sliding_window: Some(4096),
            shared_expert_size: 512,
            ..plain
        };
        assert_eq!(lacks(&spec), Some(Feature::SharedExpert));
    }

    #[test]
    fn a_chunk_of_a_prompt_and_a_token_fit_the_buffers_that_are_counted() {
        let host = host();
        let c = host.spec().clone();
        let ctx = PREFILL_CHUNK + 1;
        let bytes = CpuBuffers::new(&ModelSizes::of(&host.checkpoint), ctx);
        let cpu = Arc::new(Cpu::new(host));
        let mut session = CpuSession {
            kv: KvCache::new(c.n_layers, c.n_kv_heads, c.head_dim, ctx),
            scratch: Scratch::default(),
            buffers: Buffers::new(&c, &bytes),
            cpu: Arc::clone(&cpu),
        };
        let before = places(&session.buffers);
        let allocated: usize = before.iter().map(|(_, values)| 4 * values).sum();
        let others = bytes.angles + bytes.products;
        assert_eq!(allocated as u64 + others, cpu.needs(ctx).working);
        let mut routing = RoutingStats::new(c.n_layers, c.n_experts);
        // Many of one token go to one expert.
        let tokens = [TokenId(7); PREFILL_CHUNK];
        for (first, tokens) in [(0, &tokens[..]), (PREFILL_CHUNK, &tokens[..1])] {
            let pass = Pass {
                tokens,
                first,
                logits: Logits::Last,
                routing: &mut routing,
                hook: None,
                records: false,
            };
            let done = session.forward(pass, &mut |_| ControlFlow::Continue(()));
            done.expect("a pass");
            assert_eq!(places(&session.buffers), before);
        }
    }
}
