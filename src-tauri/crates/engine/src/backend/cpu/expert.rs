//! One expert's feed-forward network.

use std::sync::{Mutex, PoisonError};

use octet_kernels::{Job, Pool, Precision, Scratch, ops};

use crate::checkpoint::ExpertWeights;
use crate::spec::Activation;

/// `y = w2 activation(w1 x, w3 x)`, biases added: `x` and `y` f32 `(rows, hidden)`, the buffers
/// `(rows, intermediate)`.
pub fn expert_forward(
    pool: &Pool,
    scratch: &mut Scratch,
    precision: Precision,
    weights: &ExpertWeights<'_>,
    x: &[f32],
    (gate, up): (&mut [f32], &mut [f32]),
    y: &mut [f32],
) {
    let mut jobs = [
        Job {
            w: weights.w1,
            x,
            y: &mut *gate,
        },
        Job {
            w: weights.w3,
            x,
            y: &mut *up,
        },
    ];
    octet_kernels::matmul(pool, scratch, precision, &mut jobs);
    if let Some(biases) = weights.biases {
        ops::add_bias(gate, biases.w1);
        ops::add_bias(up, biases.w3);
    }
    let chunk = gate.len().div_ceil(8 * pool.threads()).max(1 << 14);
    if chunk >= gate.len() {
        activate(weights.activation, gate, up);
    } else {
        let parts = Mutex::new(gate.chunks_mut(chunk).zip(up.chunks(chunk)));
        pool.run(&|_, _| {
            let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
            while let Some((gate, up)) = next() {
                activate(weights.activation, gate, up);
            }
        });
    }
    let mut jobs = [Job {
        w: weights.w2,
        x: gate,
        y: &mut *y,
    }];
    octet_kernels::matmul(pool, scratch, precision, &mut jobs);
    if let Some(biases) = weights.biases {
        ops::add_bias(y, biases.w2);
    }
}

/// `gate = activation(gate, up)`.
fn activate(activation: Activation, gate: &mut [f32], up: &[f32]) {
    match activation {
        Activation::SiluMul => ops::silu_mul(gate, up),
        Activation::ClampedSwiglu { alpha, limit } => ops::clamped_swiglu(alpha, limit, gate, up),
    }
}
