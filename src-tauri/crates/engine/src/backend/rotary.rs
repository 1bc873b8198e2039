//! The rotary positions of a model, for the CPU and for GPUs.

use octet_kernels::Rotary;
use octet_spec::{ModelSpec, RopePairs, RopeTable};

/// The rotation that `c` asks for, with room for angles of `bytes`.
pub(super) fn with_room(c: &ModelSpec, bytes: u64) -> Rotary {
    let mut rotary = of(c);
    let of_position = (size_of::<(f32, f32)>() * c.head_dim / 2) as u64;
    rotary.reserve(usize::try_from(bytes / of_position).unwrap_or(0));
    rotary
}

/// The rotation that `c` asks for.
pub(super) fn of(c: &ModelSpec) -> Rotary {
    let RopeTable {
        frequencies,
        magnitude,
    } = c.rope_table();
    Rotary::new(frequencies, magnitude, c.rope_pairs == RopePairs::Adjacent)
}
