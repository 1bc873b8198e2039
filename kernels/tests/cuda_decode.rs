//! The kernels for one or few tokens, on the fake CUDA driver, against references in f64.
#![cfg(target_os = "linux")]

#[path = "support/gpu.rs"]
mod gpu;
mod support;

use gpu::TestGpu;
use half::f16;
use octet_kernels::cuda::{
    AttentionShape, Buffer, DeviceExpert, DeviceMatrix, PickedExperts, Picks, Reuse, RmsNorm,
    RopeAppend, Rows, SplitAttention,
};
use octet_kernels::{Bits, QMatrix};
use support::{Packed, Rng, assert_close, halves, largest, loud, rms, value};

const ALL_BITS: [Bits; 4] = [Bits::B2, Bits::B3, Bits::B4, Bits::B8];

/// `W x` exactly, row by row.
#[derive(Debug)]
struct Exact {
    value: f64,
    /// What rounding scaled inputs to f16 can make of it, and sums in f32.
    bound: f64,
    /// Root of the sum of its terms' squares: what independent errors are measured by.
    reach: f64,
}

fn exact(w: &QMatrix<'_>, x: &[f32]) -> Vec<Exact> {
    let most = f64::from(largest(x));
    let dot = |row: usize| {
        let (mut value, mut abs, mut squares, mut sums) = (0.0, 0.0, 0.0, 0.0);
        for (column, x) in x.iter().enumerate() {
            let x = f64::from(*x);
            let term = f64::from(w.weight(row, column)) * x;
            value += term;
            abs += term.abs();
            squares += term * term;
            let scale = f64::from(w.scale().get((row * w.k() + column) % w.n_groups()));
            sums += scale.abs() * x.abs() * f64::from(w.bits().max_q());
        }
        let tiny = most * (w.k() * w.bits().max_q() as usize) as f64 * 2f64.powi(-29);
        Exact {
            value,
            bound: abs * 1.01 / 2048.0 + sums * 1e-6 + tiny,
            reach: squares.sqrt(),
        }
    };
    (0..w.n()).map(dot).collect()
}

#[test]
fn products_of_one_token_of_random_shapes() {
    let Some(gpu) = TestGpu::new() else { return };
    for seed in 0..96 {
        let mut rng = Rng::new(seed);
        let bits = ALL_BITS[seed as usize % 4];
        let count = 1 + rng.below(3) as usize;
        // Often a tail after whole steps of 128 columns; sometimes many steps a warp.
        let sixteens = [24, 24, 90, 160][rng.below(4) as usize];
        let k = 16 * (1 + rng.below(sixteens) as usize);
        let add = rng.below(2) == 1;
        let packed: Vec<Packed> = (0..count)
            .map(|_| {
                let group_size = [16, 32, 48, 64, 128][rng.below(5) as usize];
                let group_rows = 1 + rng.below(3) as usize;
                Packed::random(&mut rng, bits, group_size, group_rows, k)
            })
            .collect();
        let x = loud(&mut rng, k);
        let before: Vec<Vec<f32>> = packed.iter().map(|w| loud(&mut rng, w.n)).collect();

        let on_gpu: Vec<(Buffer, DeviceMatrix)> = packed.iter().map(|w| gpu.matrix(w)).collect();
        let y: Vec<Buffer> = before.iter().map(|y| gpu.f32(y)).collect();
        let products: Vec<_> = on_gpu
            .iter()
            .zip(&y)
            .map(|((_, w), y)| {
                assert!(w.is_regular());
                (*w, y.slice())
            })
            .collect();
        let (x_there, amax) = (gpu.f32(&x), gpu.f32(&[largest(&x)]));
        gpu.ops
            .matvec(&gpu.stream, &products, x_there.slice(), amax.slice(), add)
            .expect("a launch");

        let (mut errors, mut reaches) = (Vec::new(), Vec::new());
        for ((w, y), before) in packed.iter().zip(&y).zip(&before) {
            let what = format!(
                "seed {seed}: {bits:?}, {} x {k} in groups of {}",
                w.n, w.group_size
            );
            let y = gpu.read_f32(y);
            for (row, exact) in exact(&w.matrix(), &x).iter().enumerate() {
                let start = if add { f64::from(before[row]) } else { 0.0 };
                let expected = start + exact.value;
                let off = f64::from(y[row]) - expected;
                let bound = exact.bound + start.abs() * 1e-6;
                assert!(
                    off.abs() <= bound,
                    "{what}: {} for {expected} in row {row}",
                    y[row]
                );
                if !add {
                    errors.push(off);
                    reaches.push(exact.reach);
                }
            }
        }
        let relative = rms(errors) / rms(reaches);
        assert!(add || relative < 4e-4, "seed {seed}: {relative}");
    }
}

/// 2 bits in groups of 16 and 4 bits in groups of 64, as the published checkpoint has them.
#[test]
fn the_error_of_a_usual_product_is_small() {
    let Some(gpu) = TestGpu::new() else { return };
    for (bits, n, group_size, meta) in [(Bits::B2, 64, 16, 128), (Bits::B4, 128, 64, 256)] {
        let k = 2048;
        let packed = Packed::demo(5, n, k, bits, group_size, meta);
        let mut rng = Rng::new(6);
        let x = rng.normals(k);
        let (_memory, w) = gpu.matrix(&packed);
        let (x_there, amax) = (gpu.f32(&x), gpu.f32(&[largest(&x)]));
        let y = gpu.f32(&vec![f32::NAN; n]);
        gpu.ops
            .matvec(
                &gpu.stream,
                &[(w, y.slice())],
                x_there.slice(),
                amax.slice(),
                false,
            )
            .expect("a launch");
        let expected = exact(&packed.matrix(), &x);
        let y = gpu.read_f32(&y);
        let errors = y
            .iter()
            .zip(&expected)
            .map(|(y, e)| f64::from(*y) - e.value);
        let relative = rms(errors) / rms(expected.iter().map(|e| e.value));
        assert!(relative < 3e-4, "{bits:?}: {relative}");
    }
}

#[test]
fn products_of_any_layout() {
    let Some(gpu) = TestGpu::new() else { return };
    for seed in 0..64 {
        let mut rng = Rng::new(500 + seed);
        let bits = ALL_BITS[seed as usize % 4];
        let group_size = match bits {
            Bits::B3 => [7, 16, 20, 64][rng.below(4) as usize],
            _ => [8, 16, 24, 64][rng.below(4) as usize],
        };
        // Groups of four at least, so that several meta groups are possible.
        let (n, k) = loop {
            let (n, k) = (1 + rng.below(90) as usize, 1 + rng.below(150) as usize);
            if (n * k).is_multiple_of(4 * group_size) {
                break (n, k);
            }
        };
        let groups = n * k / group_size;
        let top = bits.max_q() as f32;
        let units = bits.packed_rows(group_size) * groups * bits.unit_bytes();
        let packed = Packed {
            n,
            k,
            bits,
            group_size,
            w_q: rng.bytes(units),
            scale: support::Param::random(&mut rng, groups, None, 0.02 / top, 0.2 / top),
            zero: support::Param::random(&mut rng, groups, None, 0.2 * top, 0.8 * top),
        };
        let t = 1 + rng.below(4) as usize;
        let rows = 6;
        let gather: Vec<i32> = (0..t).map(|_| rng.below(rows) as i32).collect();
        let scatter = &[4, 1, 5, 0][..t];
        let weights: Vec<f32> = (0..t).map(|_| rng.range(0.0, 1.0)).collect();
        let (gathers, scatters, weighs, add) = (
            rng.below(2) == 1,
            rng.below(2) == 1,
            rng.below(2) == 1,
            rng.below(2) == 1,
        );
        let x = rng.normals(rows as usize * k);
        let before = rng.normals(rows as usize * n);

        let (_memory, w) = gpu.matrix(&packed);
        let (x_there, y) = (gpu.f32(&x), gpu.f32(&before));
        let (g, s, f) = (gpu.i32(&gather), gpu.i32(scatter), gpu.f32(&weights));
        gpu.ops
            .matvec_any(
                &gpu.stream,
                w,
                x_there.slice(),
                y.slice(),
                Rows {
                    t,
                    gather: gathers.then(|| g.slice()),
                    scatter: scatters.then(|| s.slice()),
                    weights: weighs.then(|| f.slice()),
                    add,
                },
            )
            .expect("a launch");

        let mut expected: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
        for i in 0..t {
            let from = if gathers { gather[i] as usize } else { i };
            let to = if scatters { scatter[i] as usize } else { i };
            let weight = if weighs { f64::from(weights[i]) } else { 1.0 };
            let products = exact(&packed.matrix(), &x[from * k..][..k]);
            for (at, product) in expected[to * n..][..n].iter_mut().zip(products) {
                *at = weight * product.value + if add { *at } else { 0.0 };
            }
        }
        let what = format!("seed {seed}: {bits:?}, {n} x {k} in groups of {group_size}");
        assert_close(&gpu.read_f32(&y), &expected, 2e-6, &what);
    }
}

/// Experts of one shape in slots, and the memory that they lie in.
struct Slots {
    packed: Vec<[Packed; 3]>, // w1, w2, w3
    _memory: Vec<Buffer>,
    experts: Vec<DeviceExpert>,
    table: Buffer,
}

impl Slots {
    fn random(
        gpu: &TestGpu,
        rng: &mut Rng,
        bits: Bits,
        hidden: usize,
        intermediate: usize,
    ) -> Self {
        let sizes = |n: usize| -> Vec<usize> {
            [16, 32, 64]
                .into_iter()
                .filter(|g| n.is_multiple_of(*g))
                .collect()
        };
        let (up, down) = (sizes(intermediate), sizes(hidden));
        let up = up[rng.below(up.len() as u32) as usize];
        let down = down[rng.below(down.len() as u32) as usize];
        let mut slots = Self {
            packed: Vec::new(),
            _memory: Vec::new(),
            experts: Vec::new(),
            table: Buffer::new(&gpu.device, "none yet", 0).expect("memory"),
        };
        for _ in 0..5 {
            let packed = [
                Packed::random(rng, bits, up, intermediate / up, hidden),
                Packed::random(rng, bits, down, hidden / down, intermediate),
                Packed::random(rng, bits, up, intermediate / up, hidden),
            ];
            let [(a, w1), (b, w2), (c, w3)] = [0, 1, 2].map(|i| gpu.matrix(&packed[i]));
            slots._memory.extend([a, b, c]);
            slots.experts.push(DeviceExpert { w1, w2, w3 });
            slots.packed.push(packed);
        }
        slots.table = Buffer::of(&gpu.device, "experts", &slots.experts).expect("memory");
        slots
    }
}

#[test]
fn experts_of_random_shapes() {
    let Some(gpu) = TestGpu::new() else { return };
    for seed in 0..48 {
        let mut rng = Rng::new(2000 + seed);
        let bits = ALL_BITS[seed as usize % 4];
        let hidden = 16 * (1 + rng.below(24) as usize);
        let intermediate = 16 * (1 + rng.below(24) as usize);
        let slots = Slots::random(&gpu, &mut rng, bits, hidden, intermediate);
        let what = format!("seed {seed}: {bits:?}, {hidden} to {intermediate}");

        // Experts 0 .. 8 lie anywhere; choices are computed in any order, some slots given.
        let place: Vec<i32> = (0..8).map(|_| rng.below(5) as i32).collect();
        let ids: Vec<i32> = (0..8).map(|i| (3 * i + seed as i32) % 8).collect();
        let weights: Vec<f32> = (0..8).map(|_| rng.range(0.0, 1.0)).collect();
        let count = 1 + rng.below(8) as usize;
        let mut picks = Picks::default();
        let mut picked = Vec::new();
        for i in 0..count {
            let j = (5 * i + 2) % 8;
            let given = (rng.below(2) == 1).then(|| rng.below(5) as usize);
            picks.push(j, given);
            picked.push((j, given.unwrap_or(place[ids[j] as usize] as usize)));
        }
        let x = loud(&mut rng, hidden);
        let (x_there, amax) = (gpu.f32(&x), gpu.f32(&[largest(&x)]));
        let (h, h_amax) = (
            gpu.f32(&vec![f32::NAN; count * intermediate]),
            gpu.f32(&vec![0.0; count]),
        );
        let (ids, place) = (gpu.i32(&ids), gpu.i32(&place));
        gpu.ops
            .expert_gate_up(
                &gpu.stream,
                PickedExperts {
                    like: slots.experts[0],
                    table: slots.table.slice(),
                    picks: &picks,
                    ids: ids.slice(),
                    places: place.slice(),
                },
                (x_there.slice(), amax.slice()),
                (h.slice(), h_amax.slice()),
            )
            .expect("a launch");
        let (h_here, h_amax_here) = (gpu.read_f32(&h), gpu.read_f32(&h_amax));
        for (i, (_, slot)) in picked.iter().enumerate() {
            let of_pick = &h_here[i * intermediate..][..intermediate];
            let [w1, _, w3] = &slots.packed[*slot];
            let (gates, ups) = (exact(&w1.matrix(), &x), exact(&w3.matrix(), &x));
            for (row, (gate, up)) in gates.iter().zip(&ups).enumerate() {
                let silu = gate.value / (1.0 + (-gate.value).exp());
                let expected = silu * up.value;
                // The slope of silu is 1.1 at most.
                let bound = 1.1 * gate.bound * (up.value.abs() + up.bound)
                    + silu.abs() * up.bound
                    + 1e-5 * expected.abs();
                let off = (f64::from(of_pick[row]) - expected).abs();
                assert!(
                    off <= bound,
                    "{what}: {} for {expected} of pick {i}, row {row}",
                    of_pick[row]
                );
            }
            assert_eq!(h_amax_here[i], largest(of_pick), "{what}");
        }

        let before = rng.normals(hidden);
        let weights_there = gpu.f32(&weights);
        let down = || {
            let y = gpu.f32(&before);
            gpu.ops
                .expert_down(
                    &gpu.stream,
                    PickedExperts {
                        like: slots.experts[0],
                        table: slots.table.slice(),
                        picks: &picks,
                        ids: ids.slice(),
                        places: place.slice(),
                    },
                    weights_there.slice(),
                    (h.slice(), h_amax.slice()),
                    y.slice(),
                )
                .expect("a launch");
            gpu.read_f32(&y)
        };
        let y = down();
        assert_eq!(y, down(), "{what}: the same sum again");
        let mut expected: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
        let mut bound: Vec<f64> = expected.iter().map(|v| v.abs() * 1e-6).collect();
        // One scale for all picks: what is tiny beside the largest of them is off by more.
        let most = picked
            .iter()
            .zip(&h_amax_here)
            .map(|((j, _), amax)| f64::from(weights[*j] * amax))
            .fold(0.0, f64::max);
        let tiny = most * (intermediate * bits.max_q() as usize) as f64 * 2f64.powi(-29);
        for (i, (j, slot)) in picked.iter().enumerate() {
            let h = &h_here[i * intermediate..][..intermediate];
            let weight = f64::from(weights[*j]);
            let products = exact(&slots.packed[*slot][1].matrix(), h);
            for (row, product) in products.iter().enumerate() {
                expected[row] += weight * product.value;
                bound[row] += weight * product.bound + tiny;
            }
        }
        for (row, y) in y.iter().enumerate() {
            let off = (f64::from(*y) - expected[row]).abs();
            assert!(
                off <= bound[row],
                "{what}: {y} for {} in row {row}",
                expected[row]
            );
        }
    }
}

#[test]
fn norms_and_what_they_clear() {
    let Some(gpu) = TestGpu::new() else { return };
    for seed in 0..32 {
        let mut rng = Rng::new(3000 + seed);
        // A block takes 4096 columns at a time.
        let width = match seed % 4 {
            0 => 1 + rng.below(700) as usize,
            2 => 3500 + rng.below(6000) as usize,
            _ => 4 * (1 + rng.below(2300) as usize),
        };
        let t = 1 + rng.below(3) as usize;
        let (x, w) = (loud(&mut rng, t * width), rng.normals(width));
        // Sometimes not aligned.
        let skip = usize::from(seed % 8 == 1);
        let (there, w_there) = (gpu.f32(&x), gpu.f32(&[&vec![0.0; skip], &w[..]].concat()));
        let (amax, clear) = (gpu.f32(&[-1.0; 4]), gpu.f32(&[7.0; 300]));
        // In place.
        gpu.ops
            .rms_norm(
                &gpu.stream,
                RmsNorm {
                    t,
                    x: there.slice(),
                    w: w_there.slice().part(skip, width),
                    eps: 1e-5,
                    y: there.slice(),
                    amax: Some(amax.slice()),
                    clear: Some(clear.slice().part(0, 299)),
                },
            )
            .expect("a launch");
        let y = gpu.read_f32(&there);
        let amax = gpu.read_f32(&amax);
        for (i, x) in x.chunks(width).enumerate() {
            let squares: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            let scale = 1.0 / (squares / width as f64 + 1e-5).sqrt();
            let expected: Vec<f64> = x
                .iter()
                .zip(&w)
                .map(|(x, w)| f64::from(*x) * scale * f64::from(*w))
                .collect();
            let y = &y[i * width..][..width];
            assert_close(y, &expected, 1e-6, &format!("{t} rows of {width}"));
            assert_eq!(amax[i], largest(y));
        }
        assert_eq!(amax[t], -1.0);
        let clear = gpu.read_f32(&clear);
        assert!(clear[..299].iter().all(|v| *v == 0.0) && clear[299] == 7.0);
    }
}

/// Also where f32 cannot hold the sum of squares, whose inverse root would make every value 0.
#[test]
fn a_norm_that_does_not_exist_is_nan_and_raises_nothing() {
    let Some(gpu) = TestGpu::new() else { return };
    for (width, bad) in [300, 4100, 301]
        .into_iter()
        .flat_map(|width| [f32::NAN, f32::INFINITY, 1e20].map(|bad| (width, bad)))
    {
        let mut x = Rng::new(3400).normals(2 * width);
        x[width / 2] = bad;
        let (there, w) = (gpu.f32(&x), gpu.f32(&vec![1.0; width]));
        let amax = gpu.f32(&[-1.0; 2]);
        gpu.ops
            .rms_norm(
                &gpu.stream,
                RmsNorm {
                    t: 2,
                    x: there.slice(),
                    w: w.slice(),
                    eps: 1e-5,
                    y: there.slice(),
                    amax: Some(amax.slice()),
                    clear: None,
                },
            )
            .expect("a launch");
        let y = gpu.read_f32(&there);
        assert!(y[..width].iter().all(|v| v.is_nan()), "{width} {bad}");
        assert_eq!(gpu.read_f32(&amax), [0.0, largest(&y[width..])]);
    }
}

#[test]
fn gates_and_sums_by_element() {
    let Some(gpu) = TestGpu::new() else { return };
    for seed in 0..16 {
        let mut rng = Rng::new(3500 + seed);
        let n = 1 + rng.below(900) as usize;
        let gate: Vec<f32> = rng.normals(n).iter().map(|v| 4.0 * v).collect();
        let up = rng.normals(n);
        let (a, b) = (gpu.f32(&gate), gpu.f32(&up));
        let amax = gpu.f32(&[0.0]);
        gpu.ops
            .silu_mul(&gpu.stream, a.slice(), b.slice(), Some(amax.slice()))
            .expect("a launch");
        let found = gpu.read_f32(&a);
        let expected: Vec<f64> = gate
            .iter()
            .zip(&up)
            .map(|(g, u)| f64::from(*g) / (1.0 + (-f64::from(*g)).exp()) * f64::from(*u))
            .collect();
        assert_close(&found, &expected, 1e-6, "silu");
        assert_eq!(gpu.read_f32(&amax), [largest(&found)]);

        let weight = rng.range(-2.0, 2.0);
        let by = gpu.f32(&[weight]);
        for weighs in [false, true] {
            let y = gpu.f32(&gate);
            gpu.ops
                .add_scaled(
                    &gpu.stream,
                    y.slice(),
                    b.slice(),
                    weighs.then(|| by.slice()),
                )
                .expect("a launch");
            let factor = if weighs { f64::from(weight) } else { 1.0 };
            let expected: Vec<f64> = gate
                .iter()
                .zip(&up)
                .map(|(y, x)| f64::from(*y) + factor * f64::from(*x))
                .collect();
            assert_close(&gpu.read_f32(&y), &expected, 1e-6, "a sum");
        }
    }
}

#[test]
fn positions_turn_queries_and_keys() {
    let Some(gpu) = TestGpu::new() else { return };
    for seed in 0..24 {
        let mut rng = Rng::new(4000 + seed);
        let mut below = |n: u32| rng.below(n) as usize;
        let head_dim = 2 * (1 + below(128));
        let n_kv_heads = 1 + below(3);
        let (t, first) = (1 + below(3), below(9));
        let shape = AttentionShape {
            n_heads: n_kv_heads * (1 + below(5)),
            n_kv_heads,
            head_dim,
            capacity: first + t + below(4),
            window: usize::MAX,
        };
        let half = head_dim / 2;
        let q = rng.normals(t * shape.n_heads * head_dim);
        let (k, v) = (
            rng.normals(t * n_kv_heads * head_dim),
            rng.normals(t * n_kv_heads * head_dim),
        );
        let angles: Vec<f32> = (0..t * half)
            .flat_map(|_| {
                let angle = rng.range(-4.0, 4.0);
                [angle.cos(), angle.sin()]
            })
            .collect();
        let (q_there, k_there, v_there) = (gpu.f32(&q), gpu.f32(&k), gpu.f32(&v));
        let angles_there = gpu.f32(&angles);
        let untouched = vec![0x7777; n_kv_heads * shape.capacity * head_dim];
        let (keys, values) = (gpu.u16(&untouched), gpu.u16(&untouched));
        gpu.ops
            .rope_append(
                &gpu.stream,
                RopeAppend {
                    shape,
                    t,
                    moment: gpu.moment(first, Reuse::default()).slice(),
                    qkv: (q_there.slice(), k_there.slice(), v_there.slice()),
                    angles: angles_there.slice(),
                    cache: (keys.slice(), values.slice()),
                },
            )
            .expect("a launch");

        let turned = |x: &[f32], heads: usize| -> Vec<f64> {
            (0..x.len())
                .map(|i| {
                    let (d, head) = (i % head_dim, i / head_dim);
                    let at = 2 * (head / heads * half + d % half);
                    let (cos, sin) = (f64::from(angles[at]), f64::from(angles[at + 1]));
                    let pair = |d: usize| f64::from(x[head * head_dim + d]);
                    let (a, b) = (pair(d % half), pair(d % half + half));
                    if d < half {
                        a * cos - b * sin
                    } else {
                        b * cos + a * sin
                    }
                })
                .collect()
        };
        let expected = turned(&q, shape.n_heads);
        assert_close(&gpu.read_f32(&q_there), &expected, 1e-6, "queries");
        let (keys, values) = (gpu.read_u16(&keys), gpu.read_u16(&values));
        let turned_keys = turned(&k, n_kv_heads);
        for (i, (key, stored)) in keys.iter().zip(&values).enumerate() {
            let (d, position) = (i % head_dim, i / head_dim % shape.capacity);
            if !(first..first + t).contains(&position) {
                assert_eq!((*key, *stored), (0x7777, 0x7777), "position {position}");
                continue;
            }
            let head = i / head_dim / shape.capacity;
            let at = ((position - first) * n_kv_heads + head) * head_dim + d;
            assert_eq!(*stored, f16::from_f32(v[at]).to_bits());
            let off = (value(*key) - turned_keys[at]).abs();
            assert!(off <= turned_keys[at].abs() / 2040.0 + 1e-6);
        }
    }
}

/// An infinite key's score may count for nothing, so that the answer would look right.
#[test]
fn keys_and_values_beyond_f16_are_stored_as_nan() {
    let Some(gpu) = TestGpu::new() else { return };
    let shape = AttentionShape {
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 8,
        capacity: 1,
        window: usize::MAX,
    };
    let angles: Vec<f32> = [1.0, 0.0].repeat(4);
    for bad in [7e4, -7e4, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let row = [1.0, 65504.0, bad, 4.0, 5.0, -65504.0, 7.0, 8.0];
        let (q, k, v) = (gpu.f32(&[1.0; 8]), gpu.f32(&row), gpu.f32(&row));
        let (keys, values) = (gpu.u16(&[0; 8]), gpu.u16(&[0; 8]));
        gpu.ops
            .rope_append(
                &gpu.stream,
                RopeAppend {
                    shape,
                    t: 1,
                    moment: gpu.moment(0, Reuse::default()).slice(),
                    qkv: (q.slice(), k.slice(), v.slice()),
                    angles: gpu.f32(&angles).slice(),
                    cache: (keys.slice(), values.slice()),
                },
            )
            .expect("a launch");
        for stored in [gpu.read_u16(&keys), gpu.read_u16(&values)] {
            for (i, (stored, given)) in stored.iter().zip(row).enumerate() {
                // The pair of the bad key is turned with it.
                match i {
                    2 => assert!(value(*stored).is_nan(), "{bad}"),
                    6 => {}
                    _ => assert_eq!(value(*stored), f64::from(given), "{bad}"),
                }
            }
        }
    }
}

#[test]
fn attention_of_random_shapes() {
    let Some(gpu) = TestGpu::new() else { return };
    for seed in 0..68 {
        let mut rng = Rng::new(5000 + seed);
        let mut below = |n: u32| rng.below(n) as usize;
        let head_dim = [16, 64, 128, 256, 2, 20, 80, 250][below(8)];
        let (n_kv_heads, per_kv) = (1 + below(2), 1 + below(if head_dim > 100 { 6 } else { 16 }));
        let t = 1 + below(3);
        // The last ones have more splits than are put together at a time, or than a warp has lanes.
        let (n_kv_heads, per_kv, t, long) = match seed {
            0..64 => (n_kv_heads, per_kv, t, None),
            _ => (1, 1 + below(2), 1, Some(4096 + below(8000))),
        };
        let first = long.unwrap_or([0, below(20), below(300), 250 + below(800)][below(4)]);
        let shape = AttentionShape {
            n_heads: n_kv_heads * per_kv,
            n_kv_heads,
            head_dim,
            capacity: first + t + below(5),
            window: [usize::MAX, 1 + below(30), 1 + below(600), 1][below(4)],
        };
        let what = format!("seed {seed}: {shape:?}, {t} queries from {first}");
        let by = rng.range(0.5, 4.0);
        let q: Vec<f32> = rng
            .normals(t * shape.n_heads * head_dim)
            .iter()
            .map(|v| v * by)
            .collect();
        // NaN behind the last position.
        let mut cache = || -> Vec<u16> {
            let mut cache = halves(&mut rng, n_kv_heads * shape.capacity * head_dim, 1.0);
            for (i, v) in cache.iter_mut().enumerate() {
                if i / head_dim % shape.capacity >= first + t {
                    *v = 0x7fff;
                }
            }
            cache
        };
        let (keys, values) = (cache(), cache());
        let (q_there, k_there, v_there) = (gpu.f32(&q), gpu.u16(&keys), gpu.u16(&values));
        // Of a pass that has come part of the way, recorded for tokens further on too.
        let (started, further) = (first / 3, [0, 300, 9000][seed as usize % 3]);
        let moment = gpu.moment(started, Reuse::default());
        let reach = first + t + further;
        let partial = gpu.f32(&vec![f32::NAN; t * shape.partial_len(reach)]);
        let out = gpu.f32(&vec![f32::NAN; q.len()]);
        let amax = gpu.f32(&vec![0.0; t]);
        gpu.ops
            .attention(
                &gpu.stream,
                SplitAttention {
                    shape,
                    t,
                    moment: moment.slice(),
                    first: first - started,
                    reach,
                    q: q_there.slice(),
                    cache: (k_there.slice(), v_there.slice()),
                    partial: partial.slice(),
                    out: out.slice(),
                    amax: Some(amax.slice()),
                },
            )
            .expect("a launch");
        let (out, amax) = (gpu.read_f32(&out), gpu.read_f32(&amax));

        for i in 0..t {
            for head in 0..shape.n_heads {
                let at = (i * shape.n_heads + head) * head_dim;
                let q = &q[at..][..head_dim];
                let row = |cache: &[u16], p: usize| -> Vec<f64> {
                    let at = (head / per_kv * shape.capacity + p) * head_dim;
                    cache[at..][..head_dim].iter().map(|v| value(*v)).collect()
                };
                let seen = (first + i + 1).saturating_sub(shape.window)..first + i + 1;
                let scores: Vec<f64> = seen
                    .clone()
                    .map(|p| {
                        let dot: f64 = q
                            .iter()
                            .zip(row(&keys, p))
                            .map(|(q, k)| f64::from(*q) * k)
                            .sum();
                        dot / (head_dim as f64).sqrt()
                    })
                    .collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut expected = vec![0.0; head_dim];
                for (p, weight) in seen.zip(&weights) {
                    for (to, v) in expected.iter_mut().zip(row(&values, p)) {
                        *to += weight / sum * v;
                    }
                }
                assert_close(&out[at..][..head_dim], &expected, 2e-5, &what);
            }
            let of_token = shape.n_heads * head_dim;
            assert_eq!(amax[i], largest(&out[i * of_token..][..of_token]), "{what}");
        }
    }
}

#[test]
fn output_matrices_of_random_shapes() {
    let Some(gpu) = TestGpu::new() else { return };
    for seed in 0..24 {
        let mut rng = Rng::new(8000 + seed);
        let n = 1 + rng.below(40) as usize;
        let k = match seed % 3 {
            0 => 1 + rng.below(500) as usize,
            1 => 4 * (1 + rng.below(200) as usize),
            _ => 8 * (1 + rng.below(700) as usize),
        };
        let t = 1 + rng.below(3) as usize;
        let w = halves(&mut rng, n * k, 0.1);
        let x = loud(&mut rng, t * k);
        let x_there = gpu.f32(&x);
        let y = gpu.f32(&vec![f32::NAN; t * n]);
        let expected = |weight: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            (0..t * n)
                .map(|i| {
                    let of_x = x[i / n * k..][..k].iter().enumerate();
                    of_x.map(|(c, x)| weight(i % n, c) * f64::from(*x)).sum()
                })
                .collect()
        };

        let w_there = gpu.u16(&w);
        gpu.ops
            .head_f16(
                &gpu.stream,
                w_there.slice(),
                (n, k),
                t,
                x_there.slice(),
                y.slice(),
            )
            .expect("a launch");
        let exact = expected(&|row, column| value(w[row * k + column]));
        let what = format!("{t} tokens, {n} x {k}");
        assert_close(&gpu.read_f32(&y), &exact, 1e-5, &what);

        let blocks = k.div_ceil(64);
        let q: Vec<i8> = (0..n * blocks * 64)
            .map(|i| {
                if i % (blocks * 64) < k {
                    rng.u32() as i8
                } else {
                    0
                }
            })
            .collect();
        let scale: Vec<f32> = (0..n * blocks).map(|_| rng.range(0.001, 0.01)).collect();
        let q_there = Buffer::of(&gpu.device, "values", &q).expect("memory");
        let scale_there = gpu.f32(&scale);
        gpu.ops
            .head_q8(
                &gpu.stream,
                (q_there.slice(), scale_there.slice()),
                (n, k),
                t,
                x_there.slice(),
                y.slice(),
            )
            .expect("a launch");
        let exact = expected(&|row, column| {
            f64::from(q[row * blocks * 64 + column]) * f64::from(scale[row * blocks + column / 64])
        });
        assert_close(&gpu.read_f32(&y), &exact, 1e-5, &what);
    }
}
