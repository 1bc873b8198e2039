//! Scales and zeros in f32, a run of groups at a time.

use crate::cpu::Kernels;
use crate::layout::{GroupParam, f16_at};

/// Groups decoded at a time: what fits on the stack with ease.
const RUN: usize = 256;

/// Writes the values of the groups `first..first + out.len()`.
pub(crate) fn decode(kernels: &Kernels, param: GroupParam<'_>, first: usize, out: &mut [f32]) {
    match param {
        GroupParam::Plain(v) if v.len() == 2 => out.fill(f16_at(v, 0)),
        // SAFETY: a table is only handed out where the CPU has its features.
        GroupParam::Plain(v) => unsafe {
            (kernels.f16_to_f32)(&v[2 * first..2 * (first + out.len())], out);
        },
        GroupParam::Quantized { q, scale, zero } => {
            let mut meta = [[0f32; RUN]; 2];
            let m = scale.len() / 2;
            let mut done = 0;
            while done < out.len() {
                let c = first + done;
                let len = if m == 1 { RUN } else { RUN.min(m - c % m) }.min(out.len() - done);
                let [meta_scale, meta_zero] = &mut meta;
                meta_run(kernels, scale, c, &mut meta_scale[..len]);
                meta_run(kernels, zero, c, &mut meta_zero[..len]);
                let out = &mut out[done..done + len];
                // SAFETY: a table is only handed out where the CPU has its features.
                unsafe {
                    (kernels.affine)(&q[c..c + len], &meta_zero[..len], &meta_scale[..len], out);
                }
                done += len;
            }
        }
    }
}

/// Meta values of the groups `first..first + out.len()`, wrapping around as often as it takes.
pub(crate) fn meta_run(kernels: &Kernels, meta: &[u8], first: usize, out: &mut [f32]) {
    let m = meta.len() / 2;
    if m == 1 {
        out.fill(f16_at(meta, 0));
        return;
    }
    let mut done = 0;
    while done < out.len() {
        let at = (first + done) % m;
        let len = (m - at).min(out.len() - done);
        // SAFETY: a table is only handed out where the CPU has its features.
        unsafe {
            (kernels.f16_to_f32)(&meta[2 * at..2 * (at + len)], &mut out[done..done + len]);
        }
        done += len;
    }
}
