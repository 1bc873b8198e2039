//! The quantizer against the reference's numbers, the engine's reader and the golden files.
#![allow(clippy::unwrap_used)]

mod seeded;

use std::path::PathBuf;

use octet_kernels::{Bits, GroupParam, QMatrix};
use octet_quantize::hqq::{HqqError, MatrixSpec, QuantizedMatrix, Scratch, check_spec, quantize};
use octet_quantize::pack::{pack, unpack};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

const ALL_BITS: [Bits; 4] = [Bits::B2, Bits::B3, Bits::B4, Bits::B8];

fn spec(bits: Bits, group_size: usize, scale_group_size: Option<usize>) -> MatrixSpec {
    MatrixSpec {
        bits,
        group_size,
        scale_group_size,
        optimize: true,
    }
}

fn quantized(weights: &[f32], n: usize, k: usize, spec: &MatrixSpec) -> QuantizedMatrix {
    quantize(weights, n, k, spec, &mut Scratch::default()).unwrap()
}

/// The tensors as the engine reads them.
fn view<'a>(matrix: &'a QuantizedMatrix, n: usize, k: usize, spec: &MatrixSpec) -> QMatrix<'a> {
    let data = |name: &str| {
        let tensor = matrix.tensors.iter().find(|tensor| tensor.name == name);
        &*tensor.unwrap_or_else(|| panic!("{name}")).data
    };
    let (scale, zero) = match spec.scale_group_size {
        None => (
            GroupParam::Plain(data("meta.scale")),
            GroupParam::Plain(data("meta.zero")),
        ),
        Some(_) => (
            GroupParam::Quantized {
                q: data("meta.scale_q"),
                scale: data("meta.meta_scale.scale"),
                zero: data("meta.meta_scale.zero"),
            },
            GroupParam::Quantized {
                q: data("meta.zero_q"),
                scale: data("meta.meta_zero.scale"),
                zero: data("meta.meta_zero.zero"),
            },
        ),
    };
    QMatrix::new((n, k), spec.bits, spec.group_size, data("W_q"), scale, zero).unwrap()
}

/// The weights that the engine reads from the tensors.
fn decoded(matrix: &QuantizedMatrix, n: usize, k: usize, spec: &MatrixSpec) -> Vec<f32> {
    let view = view(matrix, n, k, spec);
    (0..n * k).map(|i| view.weight(i / k, i % k)).collect()
}

fn relative_error(weights: &[f32], decoded: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let errors = squares(&mut weights.iter().zip(decoded).map(|(w, d)| f64::from(w - d)));
    (errors / squares(&mut weights.iter().map(|&w| f64::from(w)))).sqrt()
}

#[derive(Deserialize)]
struct Reference {
    reference: String,
    matrices: Vec<ReferenceMatrix>,
}

#[derive(Deserialize)]
struct ReferenceMatrix {
    distribution: String,
    std: f64,
    seed: u64,
    shape: (usize, usize),
    checksum: u64,
    cases: Vec<ReferenceCase>,
}

#[derive(Deserialize)]
struct ReferenceCase {
    bits: u32,
    group_size: usize,
    scale_group_size: Option<usize>,
    error: f64,
    rtn_error: f64,
}

#[test]
fn errors_are_within_one_percent_of_the_reference_and_below_round_to_nearest() {
    let reference: Reference = serde_json::from_str(include_str!("data/reference.json")).unwrap();
    println!(
        "relative Frobenius errors; reference: {}",
        reference.reference
    );
    println!("weights    std  bits group meta |  HQQ      reference | RTN      reference");
    let mut scratch = Scratch::default();
    for matrix in &reference.matrices {
        let (n, k) = matrix.shape;
        let heavy = matrix.distribution == "heavy";
        let weights = seeded::weights(heavy, matrix.std, matrix.seed, n * k);
        let checksum = weights.iter().zip(0u64..).fold(0u64, |sum, (w, i)| {
            sum.wrapping_add(u64::from(w.to_bits()).wrapping_mul(2 * i + 1))
        });
        assert_eq!(checksum, matrix.checksum, "the reference's very weights");
        for case in &matrix.cases {
            let bits = ALL_BITS.into_iter().find(|bits| bits.count() == case.bits);
            let solve = spec(bits.unwrap(), case.group_size, case.scale_group_size);
            let nearest = MatrixSpec {
                optimize: false,
                ..solve
            };
            let [hqq, rtn] = [solve, nearest].map(|spec| {
                let matrix = quantize(&weights, n, k, &spec, &mut scratch).unwrap();
                matrix.relative_error
            });
            println!(
                "{:9} {:4} {:5} {:5} {:4} |  {hqq:.5}  {:.5}   | {rtn:.5}  {:.5}",
                matrix.distribution,
                matrix.std,
                case.bits,
                case.group_size,
                case.scale_group_size.unwrap_or(0),
                case.error,
                case.rtn_error,
            );
            assert!(hqq <= 1.01 * case.error, "{hqq} against {}", case.error);
            assert!(hqq < rtn, "{hqq} against rounding to nearest, {rtn}");
            assert!(rtn <= 1.01 * case.rtn_error, "{rtn}");
        }
    }
}

#[test]
fn tensors_have_the_names_types_and_shapes_of_the_golden_files() {
    // w1 is 512 x 256; the golden trunk's attention is quantized in the same way.
    let golden = [
        ("tiny-2bit", MatrixSpec::EXPERTS),
        ("tiny-3bit", spec(Bits::B3, 64, Some(128))),
    ];
    for (folder, spec) in golden {
        let bytes = std::fs::read(golden_folder(folder).join(EXPERT_FILE)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let weights = seeded::weights(false, 0.02, 4, 512 * 256);
        let matrix = quantized(&weights, 512, 256, &spec);
        for tensor in &matrix.tensors {
            let golden = file.tensor(&format!("w1.{}", tensor.name)).unwrap();
            assert_eq!(tensor.dtype, golden.dtype(), "{}", tensor.name);
            assert_eq!(tensor.shape, golden.shape(), "{}", tensor.name);
            assert_eq!(tensor.data.len(), golden.data().len(), "{}", tensor.name);
        }
        let golden_names = file
            .names()
            .into_iter()
            .filter(|name| name.starts_with("w1."));
        assert_eq!(matrix.tensors.len(), golden_names.count());
    }
}

/// The first expert of a golden checkpoint.
const EXPERT_FILE: &str = "model-00002-of-00033.safetensors";

fn golden_folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../tests/fixtures")
        .join(name)
}

#[test]
fn golden_values_unpacked_and_packed_again_are_the_same_bytes() {
    let mut seen = [0; 3];
    for folder in ["tiny-2bit", "tiny-3bit"] {
        for file in ["model-00001-of-00033.safetensors", EXPERT_FILE] {
            let bytes = std::fs::read(golden_folder(folder).join(file)).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            for (name, w_q) in file.iter().filter(|(name, _)| name.ends_with(".W_q")) {
                let (rows, n_groups) = (w_q.shape()[0], w_q.shape()[1]);
                let (bits, group_size) = match (w_q.dtype(), name.starts_with('w')) {
                    (Dtype::I32, _) => (Bits::B3, 64),
                    (_, true) => (Bits::B2, 4 * rows),
                    (_, false) => (Bits::B4, 2 * rows),
                };
                let q = unpack(w_q.data(), bits, group_size, n_groups);
                assert!(q.iter().any(|&q| u32::from(q) == bits.max_q()), "{name}");
                assert_eq!(pack(&q, bits, group_size), w_q.data(), "{name}");
                seen[bits.count() as usize - 2] += 1;
            }
        }
    }
    assert_eq!(seen, [3, 3, 32], "2-bit and 3-bit experts, 4-bit attention");
}

#[test]
fn what_the_engine_reads_has_the_error_that_is_told() {
    // Rows that groups divide and rows that they do not; widths that fill lanes and tiles, and
    // others; groups longer than a tile is wide.
    let shapes = [
        (64, 40, 16, Some(8)),
        (24, 10, 40, Some(3)),
        (7, 120, 20, None),
        (300, 512, 1200, Some(32)),
        (1, 40, 40, Some(1)),
        (40, 1, 40, None),
        (64, 4100, 8, Some(4)),
    ];
    for (seed, (n, k, group_size, scale_group_size)) in (0..).zip(shapes) {
        for bits in ALL_BITS {
            let spec = spec(bits, group_size, scale_group_size);
            let weights = seeded::weights(false, 0.02, seed, n * k);
            let matrix = quantized(&weights, n, k, &spec);
            let read = relative_error(&weights, &decoded(&matrix, n, k, &spec));
            let told = matrix.relative_error;
            assert!((read / told - 1.0).abs() < 1e-4, "{spec:?}: {read} {told}");
            let summed = (matrix.squared_error / matrix.squared_norm).sqrt();
            assert!((summed / told - 1.0).abs() < 1e-12);
            assert!(told < 3.0 / f64::from(bits.max_q()), "{spec:?}: {told}");
        }
    }
}

#[test]
fn weights_on_a_grid_are_reproduced() {
    const G: usize = 16;
    const N_GROUPS: usize = 1024;
    let unit = |i: u64| (seeded::word(9, i) >> 40) as f32 / (1 << 24) as f32;
    let scales: Vec<f32> = (0..N_GROUPS as u64)
        .map(|c| 0.01 + 0.01 * unit(c))
        .collect();
    let zeros: Vec<f32> = (0..N_GROUPS as u64).map(|c| 3.0 * unit(5000 + c)).collect();
    let q: Vec<u8> = (0..G * N_GROUPS)
        .map(|i| match i / N_GROUPS {
            0 => 0,
            1 => 3,
            _ => (seeded::word(10, i as u64) & 3) as u8,
        })
        .collect();
    let weights: Vec<f32> = (0..G * N_GROUPS)
        .map(|i| (f32::from(q[i]) - zeros[i % N_GROUPS]) * scales[i % N_GROUPS])
        .collect();

    // f16 rounds by 2^-12 of the value. 8 bits: half a step of 0.01 / 255 is 2^-9.7 of the smallest
    // scale, half a step of 3 / 255 is 0.006 of a scale; half of weights lie within a scale of zero.
    for (scale_group_size, bound) in [(None, 5e-4), (Some(128), 6e-3)] {
        let spec = spec(Bits::B2, G, scale_group_size);
        let matrix = quantized(&weights, 64, 256, &spec);
        let w_q = &matrix.tensors[0].data;
        assert_eq!(unpack(w_q, Bits::B2, G, N_GROUPS), q);
        assert!(matrix.relative_error < bound, "{}", matrix.relative_error);
        let again = quantized(&decoded(&matrix, 64, 256, &spec), 64, 256, &spec);
        assert_eq!(&again.tensors[0].data, w_q);
        assert!(again.relative_error < bound, "{}", again.relative_error);
    }
}

#[test]
fn zeros_and_equal_weights_are_exact_where_the_format_can_hold_them() {
    let (n, k) = (64, 64);
    for bits in ALL_BITS {
        for scale_group_size in [None, Some(16)] {
            let spec = spec(bits, 16, scale_group_size);
            let zeros = quantized(&vec![0.0; n * k], n, k, &spec);
            assert_eq!(decoded(&zeros, n, k, &spec), vec![0.0; n * k]);
            assert_eq!(zeros.relative_error, 0.0);

            for value in [0.25, -0.3, 1e-6, 3e4] {
                let equal = quantized(&vec![value; n * k], n, k, &spec);
                // Their scale is the value over max_q in f16, where that has no more than steps of
                // 2^-24, with a zero that makes up for the step.
                let bound = f64::from(1e-3f32.max(2f32.powi(-24) / value.abs()));
                let error = equal.relative_error;
                assert!(error <= bound, "{spec:?} {value} {error}");
            }
        }
    }
}

#[test]
fn zero_groups_stay_zero_among_others_and_cost_them_little() {
    let (n, k, n_groups) = (128, 256, 2048);
    for scale_group_size in [None, Some(128)] {
        let spec = spec(Bits::B2, 16, scale_group_size);
        let mut weights = seeded::weights(false, 0.02, 6, n * k);
        let before = quantized(&weights, n, k, &spec);
        let is_zero = |i: usize| (i % n_groups).is_multiple_of(5);
        for (i, w) in weights.iter_mut().enumerate().filter(|(i, _)| is_zero(*i)) {
            *w = 0.0 * i as f32;
        }
        let matrix = quantized(&weights, n, k, &spec);
        let decoded = decoded(&matrix, n, k, &spec);
        assert!(
            (0..n * k)
                .filter(|&i| is_zero(i))
                .all(|i| decoded[i] == 0.0)
        );
        assert!(matrix.relative_error < 1.01 * before.relative_error);
    }
}

#[test]
fn a_group_far_from_zero_does_not_spoil_the_others() {
    let (n, k, n_groups) = (128, 256, 2048);
    for scale_group_size in [None, Some(128)] {
        let spec = spec(Bits::B4, 16, scale_group_size);
        let mut weights = seeded::weights(false, 0.02, 7, n * k);
        let before = quantized(&weights, n, k, &spec).relative_error;
        for row in 0..16 {
            weights[row * n_groups + 100] = 0.05 + 2e-4 * row as f32;
        }
        let matrix = quantized(&weights, n, k, &spec);
        assert!(
            matrix.relative_error < 1.01 * before,
            "{}",
            matrix.relative_error
        );
        let decoded = decoded(&matrix, n, k, &spec);
        for row in 0..16 {
            let i = row * n_groups + 100;
            let error = (decoded[i] - weights[i]).abs();
            assert!(error < 0.02 * weights[i], "{error} of {}", weights[i]);
        }
    }
}

#[test]
fn small_matrices_are_quantized_as_well_as_large_ones() {
    // Steps of 8-bit scales are far below f16's normal numbers here.
    for (std, scale_group_size, bound) in [(1e-3, Some(128), 1.01), (1e-5, Some(128), 1.03)] {
        let spec = spec(Bits::B4, 16, scale_group_size);
        let unit = quantized(&seeded::weights(false, 0.02, 8, 256 * 256), 256, 256, &spec);
        let small = quantized(&seeded::weights(false, std, 8, 256 * 256), 256, 256, &spec);
        let ratio = small.relative_error / unit.relative_error;
        assert!(ratio < bound, "{std}: {ratio}");
    }
}

#[test]
fn weights_too_large_for_f16_scales_are_refused() {
    let spec = spec(Bits::B2, 16, Some(16));
    let mut weights = seeded::weights(false, 1.0, 8, 64 * 64);
    weights[70] = 190_000.0;
    assert!(quantized(&weights, 64, 64, &spec).relative_error < 1e-3);
    for value in [1e6, f32::MAX] {
        weights[70] = value;
        weights[70 + 256] = -value;
        let error = quantize(&weights, 64, 64, &spec, &mut Scratch::default()).unwrap_err();
        let HqqError::ScaleRange {
            row: 1,
            column: 6,
            scale,
        } = error
        else {
            panic!("{error}");
        };
        assert!(scale > 600_000.0);
    }
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut weights = seeded::weights(false, 0.02, 8, 128 * 64);
        weights[100 * 64 + 3] = value;
        let spec = MatrixSpec::ATTENTION;
        let spec = MatrixSpec {
            scale_group_size: None,
            ..spec
        };
        let error = quantize(&weights, 128, 64, &spec, &mut Scratch::default()).unwrap_err();
        assert!(error.to_string().contains("row 100, column 3"), "{error}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_numbers() {
    let refused = |n, k, spec| check_spec(n, k, &spec).unwrap_err().to_string();
    let says = |message: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    says(refused(0, 5, MatrixSpec::EXPERTS), &["0 x 5"]);
    says(refused(usize::MAX, 2, MatrixSpec::EXPERTS), &["cannot"]);
    says(
        refused(10, 3, MatrixSpec::EXPERTS),
        &["groups of 16", "divides 30"],
    );
    says(refused(10, 3, spec(Bits::B2, 0, None)), &["groups of 0"]);
    says(refused(10, 3, spec(Bits::B2, 6, None)), &["multiple of 4"]);
    says(refused(10, 3, spec(Bits::B4, 5, None)), &["multiple of 2"]);
    says(
        refused(64, 64, spec(Bits::B2, 16, Some(100))),
        &["256 scales", "100"],
    );
    says(
        refused(64, 64, spec(Bits::B2, 16, Some(0))),
        &["256 scales"],
    );
    assert_eq!(check_spec(10, 3, &spec(Bits::B3, 5, Some(3))), Ok(()));
    assert_eq!(check_spec(14336, 4096, &MatrixSpec::EXPERTS), Ok(()));
    assert_eq!(check_spec(1024, 4096, &MatrixSpec::ATTENTION), Ok(()));

    let error = quantize(
        &[1.0; 15],
        4,
        4,
        &spec(Bits::B2, 16, None),
        &mut Scratch::default(),
    );
    says(error.unwrap_err().to_string(), &["16 weights", "found 15"]);
}

#[test]
fn work_space_used_before_changes_nothing() {
    let weights = seeded::weights(true, 0.02, 11, 128 * 128);
    let spec = spec(Bits::B3, 64, Some(32));
    let mut used = Scratch::default();
    for (n, k) in [(128, 128), (64, 24)] {
        let weights = &weights[..n * k];
        let spec = MatrixSpec {
            scale_group_size: Some(n * k / 64 / 4),
            ..spec
        };
        let again = quantize(weights, n, k, &spec, &mut used).unwrap();
        assert_eq!(again, quantized(weights, n, k, &spec));
    }
}

fn any_bits() -> impl Strategy<Value = Bits> {
    prop::sample::select(ALL_BITS.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packed_values_are_read_back(
        bits in any_bits(),
        units in 1usize..24,
        n_groups in 1usize..40,
        seed in any::<u64>(),
    ) {
        let group_size = if bits == Bits::B3 { units } else { units * bits.per_unit() };
        let q: Vec<u8> = (0..(group_size * n_groups) as u64)
            .map(|i| (seeded::word(seed, i) as u32 & bits.max_q()) as u8)
            .collect();
        let packed = pack(&q, bits, group_size);
        prop_assert_eq!(&unpack(&packed, bits, group_size, n_groups), &q);

        let one = GroupParam::Plain(&[0, 0x3c]);
        let reader =
            QMatrix::new((group_size, n_groups), bits, group_size, &packed, one, one).unwrap();
        for (i, &q) in q.iter().enumerate() {
            prop_assert_eq!(reader.q_at(i), u32::from(q));
        }
    }

    #[test]
    fn weights_of_any_magnitude_are_quantized_without_harm(
        bits in any_bits(),
        group_size in prop::sample::select(vec![4usize, 8, 20]),
        n_groups in 1usize..20,
        meta in any::<bool>(),
        weights in prop::collection::vec((-1.0f32..1.0, -150i32..17), 400),
    ) {
        let weights: Vec<f32> = weights[..group_size * n_groups]
            .iter()
            .map(|&(mantissa, exponent)| mantissa * 2f32.powi(exponent))
            .collect();
        let spec = spec(bits, group_size, meta.then_some(1));
        let matrix = quantized(&weights, group_size, n_groups, &spec);
        let decoded = decoded(&matrix, group_size, n_groups, &spec);
        prop_assert!(decoded.iter().all(|w| w.is_finite()));
        let read = relative_error(&weights, &decoded);
        let told = matrix.relative_error;
        prop_assert!((read - told).abs() <= 1e-4 * told + 1e-12, "{} {}", read, told);
    }
}
