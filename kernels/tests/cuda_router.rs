//! The router on the fake CUDA driver, against a reference in f64.
#![cfg(target_os = "linux")]

#[path = "support/gpu.rs"]
mod gpu;
mod support;

use gpu::TestGpu;
use half::f16;
use octet_kernels::cuda::{Buffer, Moment, Reuse, RouterJob, Routing, Slice};
use support::{Rng, assert_close, halves, largest, loud, value};

/// One router's launch for the `t` rows of `x`.
fn route(
    gpu: &TestGpu,
    t: usize,
    x: &Buffer,
    top_k: usize,
    job: RouterJob<'_>,
    moment: Option<Slice<'_, Moment>>,
) {
    let (s, jobs) = (&gpu.stream, [Some(job), None]);
    gpu.ops
        .router(
            s,
            Routing {
                t,
                hidden: x.slice(),
                eps: 1e-5,
                top_k,
                jobs,
                moment,
            },
        )
        .expect("a launch");
}

/// Routes as the definition says: experts, best first, and their weights.
fn routed(x: &[f64], gate: &[u16], top_k: usize) -> (Vec<usize>, Vec<f64>) {
    let mut logits: Vec<(usize, f64)> = gate
        .chunks(x.len())
        .map(|row| row.iter().zip(x).map(|(g, x)| value(*g) * x).sum())
        .enumerate()
        .collect();
    logits.sort_by(|a, b| b.1.total_cmp(&a.1)); // stable: of equals the lower number
    logits.truncate(top_k);
    let weights: Vec<f64> = logits.iter().map(|l| (l.1 - logits[0].1).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let ids = logits.iter().map(|l| l.0).collect();
    (ids, weights.iter().map(|w| w / sum).collect())
}

#[test]
fn routers_choose_the_best() {
    let Some(gpu) = TestGpu::new() else { return };
    for seed in 0..48 {
        let mut rng = Rng::new(6000 + seed);
        let mut below = |n: u32| rng.below(n) as usize;
        // A block takes 4096 columns and 8 experts at a time.
        let width = match seed % 8 {
            0 => 1 + below(500),
            1 => 4096 + 8 * below(600),
            2 => 4000 + below(4800),
            _ => 8 * (1 + below(100)),
        };
        let n_experts = match seed % 9 {
            0 => 256,
            1 => 1 + below(8),
            _ => 4 + below(61),
        };
        let top_k = (1 + below(8)).min(n_experts);
        let t = 1 + below(3);
        let two = below(2) == 1;
        let ties = seed % 5 == 0 && n_experts > 3;
        let x = loud(&mut rng, t * width);
        let norms = [rng.normals(width), rng.normals(width)];
        let by = 1.0 / (width as f32).sqrt();
        let mut gates = [(); 2].map(|()| halves(&mut rng, n_experts * width, by));
        if ties {
            for gate in &mut gates {
                gate.copy_within(..width, 3 * width);
                gate.copy_within(..width, 2 * width);
            }
        }

        let x_there = gpu.f32(&x);
        let (norms_there, gates_there) = (
            [0, 1].map(|i| gpu.f32(&norms[i])),
            [0, 1].map(|i| gpu.u16(&gates[i])),
        );
        let normed = gpu.f32(&vec![f32::NAN; t * width]);
        let amax = gpu.f32(&vec![f32::NAN; t]);
        let ids = [(); 2].map(|()| gpu.i32(&vec![-1; t * top_k]));
        let weights = [(); 2].map(|()| gpu.f32(&vec![f32::NAN; t * top_k]));
        let clear = gpu.f32(&[7.0; 9]);
        let job = |i: usize| RouterJob {
            norm: norms_there[i].slice(),
            gate: gates_there[i].slice(),
            normed: (i == 0).then(|| (normed.slice(), amax.slice())),
            ids: ids[i].slice(),
            weights: weights[i].slice(),
            previous: None,
            newest: None,
            clear: (i == 0).then(|| clear.slice().part(0, 8)),
            layer: i,
        };
        gpu.ops
            .router(
                &gpu.stream,
                Routing {
                    t,
                    hidden: x_there.slice(),
                    eps: 1e-5,
                    top_k,
                    jobs: [Some(job(0)), two.then(|| job(1))],
                    moment: None,
                },
            )
            .expect("a launch");

        let what = format!("seed {seed}: {top_k} of {n_experts}, width {width}");
        let (normed, amax) = (gpu.read_f32(&normed), gpu.read_f32(&amax));
        for job in 0..if two { 2 } else { 1 } {
            let mut found_ids = vec![0i32; t * top_k];
            ids[job].read(0, &mut found_ids).expect("a kernel");
            let found_weights = gpu.read_f32(&weights[job]);
            for (i, x) in x.chunks(width).enumerate() {
                let squares: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
                let scale = 1.0 / (squares / width as f64 + 1e-5).sqrt();
                let x: Vec<f64> = x
                    .iter()
                    .zip(&norms[job])
                    .map(|(x, w)| f64::from(*x) * scale * f64::from(*w))
                    .collect();
                let (expected, expected_weights) = routed(&x, &gates[job], top_k);
                let found: Vec<usize> = found_ids[i * top_k..][..top_k]
                    .iter()
                    .map(|id| *id as usize)
                    .collect();
                assert_eq!(found, expected, "{what}");
                let found = &found_weights[i * top_k..][..top_k];
                assert_close(found, &expected_weights, 1e-5, &what);
                if job == 0 {
                    let normed = &normed[i * width..][..width];
                    assert_close(normed, &x, 1e-6, &what);
                    assert_eq!(amax[i], largest(normed), "{what}");
                }
            }
        }
        assert_eq!(gpu.read_f32(&clear)[7..], [0.0, 7.0]);
    }
}

#[test]
fn routers_choose_experts_that_exist_where_logits_are_no_numbers() {
    let Some(gpu) = TestGpu::new() else { return };
    for (width, n_experts, top_k) in [(64, 8, 2), (4160, 5, 4), (63, 40, 8), (64, 100, 3)] {
        // Of the tokens before and after one of NaN, each its own experts. Number 1 is no expert.
        let mut rng = Rng::new(6500);
        let mut x = rng.normals(3 * width);
        x[width + 5] = f32::NAN;
        let mut gate = halves(&mut rng, n_experts * width, 0.1);
        gate[width + 7] = f16::NAN.to_bits();
        let (x_there, norm, gate_there) = (gpu.f32(&x), gpu.f32(&vec![1.0; width]), gpu.u16(&gate));
        let normed = gpu.f32(&vec![0.0; 3 * width]);
        let amax = gpu.f32(&[0.0; 3]);
        let ids = gpu.i32(&vec![-1; 3 * top_k]);
        let weights = gpu.f32(&vec![-1.0; 3 * top_k]);
        let job = RouterJob {
            norm: norm.slice(),
            gate: gate_there.slice(),
            normed: Some((normed.slice(), amax.slice())),
            ids: ids.slice(),
            weights: weights.slice(),
            previous: None,
            newest: None,
            clear: None,
            layer: 0,
        };
        route(&gpu, 3, &x_there, top_k, job, None);
        let what = format!("{top_k} of {n_experts}, width {width}");
        let mut found = vec![0i32; 3 * top_k];
        ids.read(0, &mut found).expect("a kernel");
        let (normed, amax) = (gpu.read_f32(&normed), gpu.read_f32(&amax));
        let weights = gpu.read_f32(&weights);
        // The reference needs numbers, and leaves number 1 out.
        gate[width..2 * width].fill(f16::ZERO.to_bits());
        for i in [0, 2] {
            let x: Vec<f64> = normed[i * width..][..width]
                .iter()
                .map(|v| f64::from(*v))
                .collect();
            let (expected, expected_weights) = routed(&x, &gate, n_experts.min(top_k + 1));
            let expected: Vec<(i32, f64)> = expected
                .iter()
                .map(|e| *e as i32)
                .zip(expected_weights)
                .filter(|(e, _)| *e != 1)
                .take(top_k)
                .collect();
            let sum: f64 = expected.iter().map(|e| e.1).sum();
            let (of_token, weights) = (&found[i * top_k..][..top_k], &weights[i * top_k..]);
            for (j, (id, weight)) in expected.iter().enumerate() {
                assert_eq!(of_token[j], *id, "{what}");
                let off = (f64::from(weights[j]) - weight / sum).abs();
                assert!(off < 1e-5, "{what}: choice {j} of token {i}");
            }
        }
        let nothing = top_k..2 * top_k;
        let first: Vec<i32> = (0..top_k as i32).collect();
        assert_eq!(found[nothing.clone()], first, "{what}");
        assert!(weights[nothing].iter().all(|w| w.is_nan()), "{what}");
        assert!(normed[width..2 * width].iter().all(|v| v.is_nan()));
        assert!(amax[1].is_nan() && amax[2] == largest(&normed[2 * width..]));
    }
}

/// In `[0, 1)`; the definition, as in the engine's `model/reuse.rs`.
fn draw(reuse: Reuse, position: usize, layer: usize, choice: usize) -> f32 {
    let mut hash = reuse.seed;
    for v in [position as u32, layer as u32, choice as u32] {
        hash = (hash ^ v).wrapping_mul(0x9E37_79B1);
        hash ^= hash >> 15;
    }
    hash = hash.wrapping_mul(0x85EB_CA77);
    hash ^= hash >> 13;
    (hash >> 8) as f32 / 16_777_216.0
}

#[test]
fn routers_keep_experts_of_the_token_before() {
    let Some(gpu) = TestGpu::new() else { return };
    let (width, n_experts) = (64, 12);
    let mut rng = Rng::new(7000);
    for case in 0..40 {
        let top_k = 1 + rng.below(8) as usize;
        let reuse = Reuse {
            p: [0.5, 1.0, 0.0, 0.9][case % 4],
            seed: rng.u32(),
        };
        let position = rng.below(30_000) as usize;
        let layer = rng.below(32) as usize;
        let x = rng.normals(width);
        let gate = halves(&mut rng, n_experts * width, 0.1);
        let start = rng.below(12) as usize;
        let mut previous: Vec<i32> = (0..top_k)
            .map(|i| ((start + 5 * i) % n_experts) as i32)
            .collect();
        if case % 10 == 0 {
            previous[0] = -1; // there was none
        }
        let (x_there, norm, gate_there) = (gpu.f32(&x), gpu.f32(&vec![1.0; width]), gpu.u16(&gate));
        // Where the token before left them.
        let ids = gpu.i32(&previous);
        let newest = gpu.i32(&vec![-7; top_k]);
        let weights = gpu.f32(&vec![f32::NAN; top_k]);
        let job = RouterJob {
            norm: norm.slice(),
            gate: gate_there.slice(),
            normed: None,
            ids: ids.slice(),
            weights: weights.slice(),
            previous: Some(ids.slice()),
            newest: Some(newest.slice()),
            clear: None,
            layer,
        };
        let moment = gpu.moment(position, reuse);
        route(&gpu, 1, &x_there, top_k, job, Some(moment.slice()));
        let (mut found, mut again) = (vec![0i32; top_k], vec![0i32; top_k]);
        ids.read(0, &mut found).expect("a kernel");
        newest.read(0, &mut again).expect("a kernel");
        assert_eq!(found, again);

        let squares: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let scale = 1.0 / (squares / width as f64 + 1e-5).sqrt();
        let x: Vec<f64> = x.iter().map(|v| f64::from(*v) * scale).collect();
        let (natural, natural_weights) = routed(&x, &gate, top_k);
        let mut expected: Vec<i32> = natural.iter().map(|id| *id as i32).collect();
        for (j, before) in previous.iter().enumerate() {
            let kept = *before >= 0 && !expected.contains(before);
            if kept && draw(reuse, position, layer, j) < reuse.p {
                expected[j] = *before;
            }
        }
        assert_eq!(found, expected, "case {case}");
        assert_close(
            &gpu.read_f32(&weights),
            &natural_weights,
            1e-5,
            "weights stay",
        );
    }
}
