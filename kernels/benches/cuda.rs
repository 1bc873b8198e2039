//! How fast the kernels are on this machine's GPU, against what its memory can do.
//!
//!     cargo bench -p octet-kernels --bench cuda
//!
//! Shapes are Mixtral 8x7B's. Weights are random bytes and spread over more memory than any
//! cache holds. Medians of several runs; a run is many launches and one wait.

use std::sync::Arc;
use std::time::Instant;

use octet_kernels::cuda::{
    Buffer, CudaError, DeviceExpert, Gpu, Ops, PickedExperts, Picks, Pinned, Placement, RmsNorm,
    Rows, Stream, is_available,
};
use octet_kernels::{Bits, GroupParam, QMatrix};

const HIDDEN: usize = 4096;
const INNER: usize = 14336;
/// Experts in memory: a gigabyte.
const EXPERTS: usize = 16;
const RUNS: usize = 7;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if !is_available() {
        println!("no NVIDIA driver here: nothing to measure");
        return Ok(());
    }
    let gpu = Gpu::open("")?;
    println!("{}", gpu.name());
    let bench = Bench::new(&gpu)?;
    let vram = bench.vram_bandwidth()?;
    println!(
        "reading and writing VRAM            {:>8.1} GB/s",
        vram / 1e9
    );
    bench.upload()?;
    bench.launches()?;
    bench.matvecs(vram)?;
    bench.gemms()?;
    Ok(())
}

/// Seconds of the median run of `work`, which is put on `stream`.
fn seconds(
    stream: &Stream,
    mut work: impl FnMut() -> Result<(), CudaError>,
) -> Result<f64, CudaError> {
    work()?;
    stream.synchronize()?;
    let mut all = Vec::new();
    for _ in 0..RUNS {
        let clock = Instant::now();
        work()?;
        stream.synchronize()?;
        all.push(clock.elapsed().as_secs_f64());
    }
    all.sort_by(f64::total_cmp);
    Ok(all[RUNS / 2])
}

struct Bench {
    gpu: Arc<Gpu>,
    ops: Ops,
    stream: Stream,
    /// An expert's bytes as in a file.
    host: Pinned,
    experts: Vec<DeviceExpert>,
    table: Buffer,
    memory: Buffer,
    stride: usize,
}

/// The file bytes of one expert at 2 bits in groups of 16, and its matrices over them.
fn matrices(bytes: &[u8]) -> [QMatrix<'_>; 3] {
    let groups = HIDDEN * INNER / 16;
    let meta = groups / 128;
    let mut at = 0;
    let mut take = |len: usize| {
        at += len;
        &bytes[at - len..at]
    };
    [(INNER, HIDDEN), (HIDDEN, INNER), (INNER, HIDDEN)].map(|shape| {
        let (scale, zero) = (take(2 * meta), take(2 * meta));
        let (zero_scale, zero_zero) = (take(2), take(2));
        let (w_q, scale_q, zero_q) = (take(4 * groups), take(groups), take(groups));
        QMatrix::new(
            shape,
            Bits::B2,
            16,
            w_q,
            GroupParam::Quantized {
                q: scale_q,
                scale,
                zero,
            },
            GroupParam::Quantized {
                q: zero_q,
                scale: zero_scale,
                zero: zero_zero,
            },
        )
        .expect("the shape of an expert")
    })
}

impl Bench {
    fn new(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        let groups = HIDDEN * INNER / 16;
        let len = 3 * (6 * groups + 4 * (groups / 128) + 4);
        let mut host = Pinned::new(gpu, len)?;
        let mut state = 1u32;
        for byte in host.iter_mut() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Small enough that no two bytes make a non-finite f16.
            *byte = (state >> 25) as u8 & 0x3b;
        }
        let stride = (len + Placement::EXPERT_SLACK).next_multiple_of(256);
        let mut memory = Buffer::new(gpu, "experts", EXPERTS * stride)?;
        let mut experts = Vec::new();
        for i in 0..EXPERTS {
            let base = memory.slice::<u8>().part(i * stride, 0).address();
            let (placement, [w1, w2, w3]) = Placement::of(&host, matrices(&host), base);
            for (range, at) in placement.copies {
                memory.write(i * stride + at, &host[range])?;
            }
            experts.push(DeviceExpert { w1, w2, w3 });
        }
        Ok(Self {
            ops: Ops::new(gpu)?,
            stream: Stream::new(gpu)?,
            table: Buffer::of(gpu, "experts", &experts)?,
            gpu: Arc::clone(gpu),
            host,
            experts,
            memory,
            stride,
        })
    }

    fn floats(&self, len: usize) -> Result<Buffer, CudaError> {
        Buffer::new(&self.gpu, "activations", 4 * len)
    }

    /// Bytes a second that a copy within the GPU reads and writes.
    fn vram_bandwidth(&self) -> Result<f64, CudaError> {
        let half = EXPERTS / 2 * self.stride;
        let all = self.memory.slice::<u8>();
        let took = seconds(&self.stream, || {
            self.stream
                .copy_within(all.part(0, half), all.part(half, half))
        })?;
        Ok(2.0 * half as f64 / took)
    }

    /// Whole experts from pinned memory, as one copy and as the engine lays them out.
    fn upload(&self) -> Result<(), CudaError> {
        let (bytes, to) = (&*self.host, self.memory.slice::<u8>());
        let whole = seconds(&self.stream, || {
            // SAFETY: `host` lives, and nobody writes it.
            unsafe { self.stream.upload(bytes, to.part(0, bytes.len())) }
        })?;
        let laid_out = seconds(&self.stream, || {
            let (placement, _) = Placement::of(bytes, matrices(bytes), to.address());
            for (range, at) in placement.copies {
                let to = to.part(at, range.len());
                // SAFETY: as above.
                unsafe { self.stream.upload(&bytes[range], to)? };
            }
            Ok(())
        })?;
        let len = bytes.len() as f64 / 1e9;
        println!(
            "upload, one copy                    {:>8.1} GB/s",
            len / whole
        );
        println!(
            "upload, an expert as laid out       {:>8.1} GB/s  {:.0}% of it",
            len / laid_out,
            100.0 * whole / laid_out
        );
        Ok(())
    }

    /// What a launch costs the processor, and how fast small kernels follow each other: norms of
    /// one token. A CUDA graph could save the former, and a part of the latter.
    fn launches(&self) -> Result<(), CudaError> {
        // Fewer than the driver queues before it has the processor wait.
        const LAUNCHES: usize = 400;
        let x = self.floats(HIDDEN)?;
        let x = x.slice();
        let mut queued = Vec::new();
        let all = seconds(&self.stream, || {
            let clock = Instant::now();
            for _ in 0..LAUNCHES {
                let (y, eps) = (x, 1e-5);
                self.ops.rms_norm(
                    &self.stream,
                    RmsNorm {
                        t: 1,
                        x,
                        w: x,
                        eps,
                        y,
                        amax: None,
                        clear: None,
                    },
                )?;
            }
            queued.push(clock.elapsed().as_secs_f64());
            Ok(())
        })?;
        queued.sort_by(f64::total_cmp);
        let each = 1e6 / LAUNCHES as f64;
        println!(
            "a launch takes the processor        {:>8.2} us; norms one after the other {:.2} us each",
            queued[queued.len() / 2] * each,
            all * each
        );
        Ok(())
    }

    /// Two experts a launch, one token.
    fn matvecs(&self, vram: f64) -> Result<(), CudaError> {
        let s = &self.stream;
        let (x, h, y) = (
            self.floats(HIDDEN)?,
            self.floats(2 * INNER)?,
            self.floats(HIDDEN)?,
        );
        let amax = Buffer::of(&self.gpu, "activations", &[1f32, 1.0, 1.0])?;
        let ids = Buffer::of(&self.gpu, "activations", &[0i32, 1])?;
        let weights = Buffer::of(&self.gpu, "activations", &[0.5f32, 0.5])?;
        let like = self.experts[0];
        let pairs = || (0..EXPERTS / 2).map(|i| (2 * i, 2 * i + 1));
        let picks = |(a, b): (usize, usize)| {
            let mut picks = Picks::default();
            picks.push(0, Some(a));
            picks.push(1, Some(b));
            picks
        };
        let amax = amax.slice::<f32>();
        let gate_up = seconds(s, || {
            pairs().try_for_each(|pair| {
                self.ops.expert_gate_up(
                    s,
                    PickedExperts {
                        like,
                        table: self.table.slice(),
                        picks: &picks(pair),
                        ids: ids.slice(),
                        places: ids.slice(),
                    },
                    (x.slice(), amax.part(0, 1)),
                    (h.slice(), amax.part(1, 2)),
                )
            })
        })?;
        let down = seconds(s, || {
            pairs().try_for_each(|pair| {
                self.ops.expert_down(
                    s,
                    PickedExperts {
                        like,
                        table: self.table.slice(),
                        picks: &picks(pair),
                        ids: ids.slice(),
                        places: ids.slice(),
                    },
                    weights.slice(),
                    (h.slice(), amax.part(1, 2)),
                    y.slice(),
                )
            })
        })?;
        let bytes = (EXPERTS * self.host.len()) as f64;
        for (name, took, share) in [
            ("gate and up, 2 bits", gate_up, 2.0 / 3.0),
            ("down, 2 bits", down, 1.0 / 3.0),
        ] {
            let rate = bytes * share / took;
            println!(
                "{name:<35} {:>8.1} GB/s  {:.0}% of VRAM speed",
                rate / 1e9,
                100.0 * rate / vram
            );
        }
        Ok(())
    }

    /// One expert's products with many tokens.
    fn gemms(&self) -> Result<(), CudaError> {
        let s = &self.stream;
        for t in [16, 64, 128, 512] {
            let x = Buffer::new(&self.gpu, "activations", 2 * t * INNER)?;
            let scale = self.floats(t)?;
            let y = self.floats(t * INNER)?;
            let rows = Rows {
                t,
                ..Rows::default()
            };
            for (name, of) in [
                ("14336 x 4096", (|e: &DeviceExpert| e.w1) as fn(&_) -> _),
                ("4096 x 14336", |e| e.w2),
            ] {
                let took = seconds(s, || {
                    self.experts.iter().try_for_each(|expert| {
                        let x = (x.slice(), scale.slice());
                        self.ops.gemm(s, of(expert), x, y.slice(), rows)
                    })
                })?;
                let ops = 2.0 * (EXPERTS * t * HIDDEN * INNER) as f64;
                println!(
                    "product, {name}, {t:>3} tokens    {:>8.1} TFLOP/s",
                    ops / took / 1e12
                );
            }
        }
        Ok(())
    }
}
