//! The kernels for many tokens, on the fake CUDA driver, against references in f64.
#![cfg(target_os = "linux")]

#[path = "support/gpu.rs"]
mod gpu;
mod support;

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::{result, sys};
use gpu::TestGpu;
use half::f16;
use octet_kernels::Bits;
use octet_kernels::cuda::{AttentionShape, Buffer, DeviceMatrix, FlashAttention, Rows};
use support::{Packed, Rng, product, rms, value};

/// Half a unit in an f16's last place, relative.
const HALF_STEP: f64 = 1.0 / 2048.0;

/// Numbers `0 .. len`, in any order.
fn shuffled(rng: &mut Rng, len: usize) -> Vec<i32> {
    let mut order: Vec<i32> = (0..len as i32).collect();
    for i in (1..len).rev() {
        order.swap(i, rng.below(i as u32 + 1) as usize);
    }
    order
}

/// f16 rows of `x`, and their scales.
fn halves(gpu: &TestGpu, width: usize, x: &[f32]) -> (Buffer, Buffer) {
    let t = x.len() / width;
    let (x, y, scale) = (
        gpu.f32(x),
        gpu.u16(&vec![0xffff; x.len()]),
        gpu.f32(&vec![f32::NAN; t]),
    );
    gpu.ops
        .rows_to_f16(&gpu.stream, t, width, x.slice(), y.slice(), scale.slice())
        .expect("a launch");
    gpu.stream.synchronize().expect("a kernel");
    (y, scale)
}

#[test]
fn rows_become_halves_of_any_magnitude() {
    let Some(gpu) = TestGpu::new() else { return };
    let mut rng = Rng::new(1);
    for (width, magnitude) in [(32, 1.0), (1, 1e30), (97, 1e-25), (513, 3e4), (64, 0.0)] {
        let t = 3;
        let x: Vec<f32> = rng
            .normals(t * width)
            .iter()
            .map(|v| v * magnitude)
            .collect();
        let (y, scale) = halves(&gpu, width, &x);
        let (y, scale) = (gpu.read_u16(&y), gpu.read_f32(&scale));
        for (i, x) in x.iter().enumerate() {
            let scale = scale[i / width];
            assert_eq!(scale.to_bits() & 0x7f_ffff, 0, "{scale} is a power of two");
            let (x, found) = (f64::from(*x), value(y[i]) * f64::from(scale));
            let bound = x.abs() * HALF_STEP + f64::from(scale) * 2f64.powi(-25);
            assert!(
                (found - x).abs() <= bound,
                "{found} for {x} in a row of {width}"
            );
            assert!(value(y[i]).abs() <= 1.0);
        }
    }
}

#[test]
fn gate_and_up_become_halves() {
    let Some(gpu) = TestGpu::new() else { return };
    let mut rng = Rng::new(2);
    for (t, width) in [(1, 1), (4, 96), (2, 700)] {
        let gate: Vec<f32> = rng.normals(t * width).iter().map(|v| 4.0 * v).collect();
        let up: Vec<f32> = rng.normals(t * width).iter().map(|v| 1e5 * v).collect();
        let (a, b) = (gpu.f32(&gate), gpu.f32(&up));
        let (h, scale) = (
            gpu.u16(&vec![0xffff; t * width]),
            gpu.f32(&vec![f32::NAN; t]),
        );
        gpu.ops
            .silu_mul_rows(
                &gpu.stream,
                (t, width),
                (a.slice(), b.slice()),
                (h.slice(), scale.slice()),
            )
            .expect("a launch");
        let (h, scale) = (gpu.read_u16(&h), gpu.read_f32(&scale));
        for i in 0..t * width {
            let (gate, up) = (f64::from(gate[i]), f64::from(up[i]));
            let (expected, scale) = (
                gate / (1.0 + (-gate).exp()) * up,
                f64::from(scale[i / width]),
            );
            let bound = expected.abs() * (HALF_STEP + 1e-6) + scale * 2f64.powi(-25);
            assert!(
                (value(h[i]) * scale - expected).abs() <= bound,
                "{i} of {t} x {width}"
            );
        }
    }
}

#[test]
fn products_of_random_shapes() {
    let Some(gpu) = TestGpu::new() else { return };
    for seed in 0..48 {
        let mut rng = Rng::new(seed);
        let mut below = |n: u32| rng.below(n) as usize;
        let bits = [Bits::B2, Bits::B3, Bits::B4, Bits::B8][seed as usize % 4];
        let group_size = 16 * (1 + below(4));
        let (group_rows, k) = (1 + below(18), 32 * (1 + below(8)));
        let t = [1 + below(32), 33 + below(32), 65 + below(100)][below(3)];
        let (rows_in, rows_out) = (t + below(9), t + below(9));
        let (gathers, scatters, weighs, add) =
            (below(2) == 1, below(2) == 1, below(2) == 1, below(2) == 1);
        let packed = Packed::random(&mut rng, bits, group_size, group_rows, k);
        let what = format!(
            "seed {seed}: {bits:?}, {group_rows} x {group_size} rows, {k} columns, {t} tokens"
        );

        let x = rng.normals(rows_in * k);
        let gather: Vec<i32> = (0..t).map(|_| rng.below(rows_in as u32) as i32).collect();
        let scatter = shuffled(&mut rng, rows_out);
        let weights: Vec<f32> = (0..t).map(|_| rng.range(0.0, 1.0)).collect();
        let before = rng.normals(rows_out * packed.n);

        let (_memory, w) = gpu.matrix(&packed);
        assert!(w.is_regular_in_prefill());
        let (halves, scale) = halves(&gpu, k, &x);
        let y = gpu.f32(&before);
        let (g, s, f) = (gpu.i32(&gather), gpu.i32(&scatter), gpu.f32(&weights));
        let rows = Rows {
            t,
            gather: gathers.then(|| g.slice()),
            scatter: scatters.then(|| s.slice()),
            weights: weighs.then(|| f.slice()),
            add,
        };
        gpu.ops
            .gemm(
                &gpu.stream,
                w,
                (halves.slice(), scale.slice()),
                y.slice(),
                rows,
            )
            .expect("a launch");
        let y = gpu.read_f32(&y);

        let n = packed.n;
        let matrix = packed.matrix();
        let all = product(&matrix, &x);
        let row = |r: usize| {
            (0..k)
                .map(|c| f64::from(matrix.weight(r, c)))
                .collect::<Vec<_>>()
        };
        let dense: Vec<Vec<f64>> = (0..n).map(row).collect();
        let mut expected: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
        let mut bound = vec![0.0; y.len()];
        let (mut errors, mut products) = (Vec::new(), Vec::new());
        for i in 0..t {
            let from = if gathers { gather[i] as usize } else { i };
            let to = if scatters { scatter[i] as usize } else { i };
            let weight = if weighs { f64::from(weights[i]) } else { 1.0 };
            for r in 0..n {
                let at = to * n + r;
                let of_x = &x[from * k..][..k];
                let reach: f64 = of_x
                    .iter()
                    .zip(&dense[r])
                    .map(|(x, w)| (f64::from(*x) * w).abs())
                    .sum();
                let value = weight * all[from * n + r];
                expected[at] = if add { expected[at] + value } else { value };
                // Both factors are rounded; the rest is f32.
                bound[at] = weight * reach * 2.2 * HALF_STEP + 1e-6 * expected[at].abs();
                errors.push(f64::from(y[at]) - expected[at]);
                products.push(value);
            }
        }
        for (i, (y, e)) in y.iter().zip(&expected).enumerate() {
            // Rows of `y` that are nobody's are left alone: a bound of 0.
            let off = (f64::from(*y) - e).abs();
            assert!(
                off <= bound[i],
                "{what}: {y} for {e} at {} of token {}",
                i % n,
                i / n
            );
        }
        let relative = rms(errors) / rms(products);
        assert!(relative < 5e-4, "{what}: {relative}");
    }
}

/// The kernel `name` of `gemm.ptx`, whatever the wrapper would choose.
fn launch_gemm(
    gpu: &TestGpu,
    name: &str,
    w: DeviceMatrix,
    group_rows: usize,
    (x, scale): (&Buffer, &Buffer),
    t: usize,
) -> Vec<f32> {
    let (down, across) = if name.contains("wide") {
        (8, 128)
    } else {
        (4, 64)
    };
    let grid = (
        (group_rows.div_ceil(down) * (w.n() / group_rows / 16)) as u32,
        t.div_ceil(across) as u32,
        1,
    );
    let y = gpu.f32(&vec![f32::NAN; t * w.n()]);
    let (x, scale, to) = (
        x.slice::<u16>().address(),
        scale.slice::<f32>().address(),
        y.slice::<f32>().address(),
    );
    let (none, t, add) = (0u64, t as i32, 0i32);
    let arg = |p: *const c_void| p.cast_mut();
    let mut args = [
        arg(ptr::from_ref(&w).cast()),
        arg(ptr::from_ref(&x).cast()),
        arg(ptr::from_ref(&scale).cast()),
        arg(ptr::from_ref(&none).cast()),
        arg(ptr::from_ref(&none).cast()),
        arg(ptr::from_ref(&none).cast()),
        arg(ptr::from_ref(&to).cast()),
        arg(ptr::from_ref(&t).cast()),
        arg(ptr::from_ref(&add).cast()),
    ];
    let image = std::ffi::CString::new(include_str!("../cuda/gemm.ptx")).expect("PTX is text");
    let name = std::ffi::CString::new(name).expect("a name");
    // SAFETY: the arguments are those of the kernel's contract, and the buffers as long as it says.
    unsafe {
        let module: sys::CUmodule = result::module::load_data(image.as_ptr().cast()).expect("PTX");
        let kernel = result::module::get_function(module, name).expect("a kernel");
        result::launch_kernel(kernel, grid, (256, 1, 1), 0, ptr::null_mut(), &mut args)
            .expect("a launch");
        gpu.device.synchronize().expect("a kernel");
        result::module::unload(module).expect("a module");
    }
    gpu.read_f32(&y)
}

/// So that neither the batch that a token comes in, nor the size of the GPU, shows in the text.
#[test]
fn a_token_has_the_same_bits_in_every_batch_and_kernel() {
    let Some(gpu) = TestGpu::new() else { return };
    let mut rng = Rng::new(3);
    for (bits, narrow, wide) in [
        (Bits::B2, "gemm_b2", "gemm_wide_b2"),
        (Bits::B3, "gemm_b3", "gemm_wide_b3"),
        (Bits::B4, "gemm_b4", "gemm_wide_b4"),
        (Bits::B8, "gemm_b8", "gemm_wide_b8"),
    ] {
        let (group_rows, k, t) = (11, 224, 150);
        let packed = Packed::random(&mut rng, bits, 32, group_rows, k);
        let (_memory, w) = gpu.matrix(&packed);
        let x = rng.normals(t * k);
        let (halves_of_all, scale) = halves(&gpu, k, &x);
        let all = launch_gemm(&gpu, wide, w, group_rows, (&halves_of_all, &scale), t);
        assert!(all.iter().all(|y| y.is_finite()));
        let same = |found: &[f32], expected: &[f32]| {
            found
                .iter()
                .zip(expected)
                .all(|(a, b)| a.to_bits() == b.to_bits())
        };
        assert!(same(
            &launch_gemm(&gpu, narrow, w, group_rows, (&halves_of_all, &scale), t),
            &all
        ));
        for (first, len) in [(0, 1), (60, 20), (100, 50)] {
            let (x, scale) = halves(&gpu, k, &x[first * k..][..len * k]);
            let part = launch_gemm(&gpu, narrow, w, group_rows, (&x, &scale), len);
            assert!(
                same(&part, &all[first * w.n()..]),
                "{bits:?}: tokens {first} and on"
            );
        }
    }
}

/// The clamp of large queries would make numbers of them.
#[test]
fn attention_of_non_finite_queries_is_nan() {
    let Some(gpu) = TestGpu::new() else { return };
    let head_dim = 64;
    let shape = AttentionShape {
        n_heads: 1,
        n_kv_heads: 1,
        head_dim,
        capacity: 4,
        window: usize::MAX,
    };
    let ones = vec![f16::ONE.to_bits(); 4 * head_dim];
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut q = vec![1.0; 4 * head_dim];
        q[2 * head_dim + 5] = bad;
        q[3 * head_dim + 5] = 1e6;
        let (q, keys, values) = (gpu.f32(&q), gpu.u16(&ones), gpu.u16(&ones));
        let out = gpu.f32(&vec![0.0; 4 * head_dim]);
        let ran = gpu
            .ops
            .flash(
                &gpu.stream,
                FlashAttention {
                    shape,
                    t: 4,
                    first: 0,
                    q: q.slice(),
                    cache: (keys.slice(), values.slice()),
                    out: out.slice(),
                },
            )
            .expect("a launch");
        assert!(ran);
        for (i, row) in gpu.read_f32(&out).chunks(head_dim).enumerate() {
            let expected = |v: &f32| {
                if i == 2 {
                    v.is_nan()
                } else {
                    (v - 1.0).abs() < 1e-3
                }
            };
            assert!(row.iter().all(expected), "{bad}, row {i}: {row:?}");
        }
    }
}

#[test]
fn attention_of_random_shapes() {
    let Some(gpu) = TestGpu::new() else { return };
    for seed in 0..40 {
        let mut rng = Rng::new(1000 + seed);
        let mut below = |n: u32| rng.below(n) as usize;
        let head_dim = [64, 128][seed as usize % 2];
        let (n_kv_heads, per_kv) = (1 + below(2), 1 + below(3));
        let t = [1 + below(16), 1 + below(90), 64, 130][below(4)];
        let first = [0, below(40), below(150), 32 * below(4)][below(4)];
        let shape = AttentionShape {
            n_heads: n_kv_heads * per_kv,
            n_kv_heads,
            head_dim,
            capacity: first + t + below(2) * below(40),
            window: [usize::MAX, 1 + below(30), 1 + below(200), 1][below(4)],
        };
        let loud = if below(3) == 0 { 8.0 } else { 1.0 };
        let what = format!("seed {seed}: {shape:?}, {t} queries from {first}");
        let q: Vec<f32> = rng
            .normals(t * shape.n_heads * head_dim)
            .iter()
            .map(|v| v * loud)
            .collect();
        // NaN behind the last position.
        let mut cache = || -> Vec<u16> {
            (0..n_kv_heads * shape.capacity * head_dim)
                .map(|i| match i / head_dim % shape.capacity {
                    position if position < first + t => f16::from_f32(rng.normal()).to_bits(),
                    _ => 0x7fff,
                })
                .collect()
        };
        let (keys, values) = (cache(), cache());
        let (q_there, k_there, v_there) = (gpu.f32(&q), gpu.u16(&keys), gpu.u16(&values));
        let out = gpu.f32(&vec![f32::NAN; q.len()]);
        let ran = gpu
            .ops
            .flash(
                &gpu.stream,
                FlashAttention {
                    shape,
                    t,
                    first,
                    q: q_there.slice(),
                    cache: (k_there.slice(), v_there.slice()),
                    out: out.slice(),
                },
            )
            .expect("a launch");
        assert!(ran);
        let out = gpu.read_f32(&out);

        let (mut errors, mut all) = (Vec::new(), Vec::new());
        for i in 0..t {
            for head in 0..shape.n_heads {
                let q = &q[(i * shape.n_heads + head) * head_dim..][..head_dim];
                let out = &out[(i * shape.n_heads + head) * head_dim..][..head_dim];
                let row = |cache: &[u16], p: usize| -> Vec<f64> {
                    let at = (head / per_kv * shape.capacity + p) * head_dim;
                    cache[at..][..head_dim].iter().map(|v| value(*v)).collect()
                };
                let seen = (first + i + 1).saturating_sub(shape.window)..first + i + 1;
                // Scores, and how far f16 queries may put them off.
                let mut score_error = 0.0f64;
                let scores: Vec<f64> = seen
                    .clone()
                    .map(|p| {
                        let key = row(&keys, p);
                        let dot = |f: &dyn Fn(f64) -> f64| -> f64 {
                            q.iter()
                                .zip(&key)
                                .map(|(q, k)| f(f64::from(*q) * k))
                                .sum::<f64>()
                                / (head_dim as f64).sqrt()
                        };
                        score_error = score_error.max(dot(&f64::abs) * HALF_STEP);
                        dot(&|v| v)
                    })
                    .collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                let (mut expected, mut reach) = (vec![0.0; head_dim], vec![0.0; head_dim]);
                for (p, score) in seen.zip(scores) {
                    let weight = (score - top).exp() / total;
                    for (d, v) in row(&values, p).into_iter().enumerate() {
                        expected[d] += weight * v;
                        reach[d] += weight * v.abs();
                    }
                }
                for d in 0..head_dim {
                    let off = f64::from(out[d]) - expected[d];
                    let bound = reach[d] * (2.0 * HALF_STEP + 2.0 * score_error) + 1e-6;
                    assert!(
                        off.abs() <= bound,
                        "{what}: {} for {} at {i}, {head}, {d}",
                        out[d],
                        expected[d]
                    );
                    errors.push(off);
                    all.push(expected[d]);
                }
            }
        }
        let relative = rms(errors) / rms(all);
        assert!(
            relative < if loud > 1.0 { 3e-3 } else { 5e-4 },
            "{what}: {relative}"
        );
    }
}
