//! Recorded launches, on the fake CUDA driver or a real GPU.
#![cfg(target_os = "linux")]

#[path = "support/gpu.rs"]
mod gpu;
mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use gpu::TestGpu;
use octet_kernels::cuda::{
    AttentionShape, Buffer, CudaError, Graph, Moment, Reuse, RopeAppend, SplitAttention,
};
use support::Rng;

const SHAPE: AttentionShape = AttentionShape {
    n_heads: 2,
    n_kv_heads: 1,
    head_dim: 16,
    capacity: 700,
    window: usize::MAX,
};

/// A token's attention over a cache that grows, and how it is put on a stream.
struct Attention {
    gpu: TestGpu,
    moment: Buffer,
    inputs: [Buffer; 3],
    angles: Buffer,
    cache: [Buffer; 2],
    partial: Buffer,
    out: Buffer,
}

impl Attention {
    fn new() -> Option<Self> {
        let gpu = TestGpu::new()?;
        let mut rng = Rng::new(1);
        let mut cache = || {
            let old = rng.normals(SHAPE.capacity * SHAPE.head_dim);
            let halves: Vec<u16> = old
                .iter()
                .map(|v| half::f16::from_f32(*v).to_bits())
                .collect();
            gpu.u16(&halves)
        };
        Some(Self {
            cache: [cache(), cache()],
            inputs: [32, 16, 16].map(|len| gpu.f32(&rng.normals(len))),
            angles: gpu.f32(&rng.normals(16)),
            partial: gpu.f32(&vec![f32::NAN; SHAPE.partial_len(SHAPE.capacity)]),
            out: gpu.f32(&[f32::NAN; 32]),
            moment: gpu.moment(0, Reuse::default()),
            gpu,
        })
    }

    fn launch(&self) -> Result<(), CudaError> {
        let (ops, s) = (&self.gpu.ops, &self.gpu.stream);
        let [q, k, v] = &self.inputs;
        let cache = (self.cache[0].slice(), self.cache[1].slice());
        ops.rope_append(
            s,
            RopeAppend {
                shape: SHAPE,
                t: 1,
                moment: self.moment.slice(),
                qkv: (q.slice(), k.slice(), v.slice()),
                angles: self.angles.slice(),
                cache,
            },
        )?;
        ops.attention(
            s,
            SplitAttention {
                shape: SHAPE,
                t: 1,
                moment: self.moment.slice(),
                first: 0,
                reach: SHAPE.capacity,
                q: q.slice(),
                cache,
                partial: self.partial.slice(),
                out: self.out.slice(),
                amax: None,
            },
        )
    }

    /// What a token at each of the positions gives.
    fn run(mut self, mut launch: impl FnMut(&Self)) -> Vec<Vec<f32>> {
        let positions = [0, 31, 32, 511, 512, 513, 699, 5];
        let one = |position| {
            let moment = Moment::new(position, Reuse::default());
            self.moment.write(0, &[moment]).expect("memory");
            launch(&self);
            self.gpu.read_f32(&self.out)
        };
        positions.map(one).to_vec()
    }
}

#[test]
fn recorded_attention_follows_the_position() {
    let launched = {
        let Some(attention) = Attention::new() else {
            return;
        };
        attention.run(|attention| attention.launch().expect("launches"))
    };
    let attention = Attention::new().expect("a driver, as above");
    let graph = Graph::record(&attention.gpu.stream, || attention.launch()).expect("a recording");
    assert!(attention.gpu.read_f32(&attention.out)[0].is_nan(), "it ran");
    let replayed = attention.run(|attention| {
        // SAFETY: all of it is there.
        unsafe { graph.launch(&attention.gpu.stream) }.expect("a launch");
    });
    assert_eq!(launched, replayed);
}

#[test]
fn what_cannot_be_recorded_leaves_the_stream_as_it_was() {
    let Some(attention) = Attention::new() else {
        return;
    };
    let stream = &attention.gpu.stream;
    let failed = Graph::record(stream, || {
        attention.launch()?;
        stream.synchronize()
    });
    failed.expect_err("a wait");
    let failed = Graph::record(stream, || {
        attention.launch()?;
        Err(CudaError::NoDriver)
    });
    assert_eq!(failed.expect_err("the work's own"), CudaError::NoDriver);
    attention.launch().expect("launches");
    stream.synchronize().expect("kernels");
    assert!(!attention.gpu.read_f32(&attention.out)[0].is_nan());
}

/// Freeing memory waits for the whole GPU, which no recording may see.
#[test]
fn other_threads_may_do_what_they_like_meanwhile() {
    let Some(attention) = Attention::new() else {
        return;
    };
    let (stream, done) = (&attention.gpu.stream, AtomicBool::new(false));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                drop(attention.gpu.f32(&[1.0; 64]));
            }
        });
        for _ in 0..200 {
            Graph::record(stream, || attention.launch()).expect("a recording");
        }
        done.store(true, Ordering::Relaxed);
    });
}
