//! Keys and values of the positions seen so far, in f16.

use half::f16;
use half::vec::HalfBitsVecExt;

use crate::half_ops;

/// The f16 key/value cache of one conversation.
///
/// Per layer and kv head, `capacity` rows of `head_dim` values lie one after the other. Memory is
/// reserved up front but touched only as positions are written. How many there are, the caller
/// knows.
pub struct KvCache {
    n_kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    layers: Vec<Layer>,
}

struct Layer {
    keys: Vec<f16>,
    values: Vec<f16>,
}

impl KvCache {
    /// An empty cache for `capacity` positions.
    pub fn new(n_layers: usize, n_kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        // Zeroed pages come from the system on first touch, so a long context costs nothing yet.
        let zeroed = || vec![0u16; n_kv_heads * capacity * head_dim].reinterpret_into::<f16>();
        let layers = (0..n_layers)
            .map(|_| Layer {
                keys: zeroed(),
                values: zeroed(),
            })
            .collect();
        Self {
            n_kv_heads,
            head_dim,
            capacity,
            layers,
        }
    }

    /// Writes keys and values, each f32 `(t, n_kv_heads, head_dim)`, of the positions from `first`
    /// on.
    ///
    /// # Panics
    /// If there is no room for them.
    pub fn write(&mut self, layer: usize, first: usize, keys: &[f32], values: &[f32]) {
        let row = self.n_kv_heads * self.head_dim;
        let layer = &mut self.layers[layer];
        for (from, to) in [(keys, &mut layer.keys), (values, &mut layer.values)] {
            for (i, position) in from.chunks_exact(row).enumerate() {
                for (head, value) in position.chunks_exact(self.head_dim).enumerate() {
                    let at = (head * self.capacity + first + i) * self.head_dim;
                    let to = &mut to[at..at + self.head_dim];
                    half_ops::f32_to_f16(value, to);
                    // A key of -inf would be a score that counts for nothing, and no error.
                    if !to.iter().all(|v| v.is_finite()) {
                        to.fill(f16::NAN);
                    }
                }
            }
        }
    }

    /// The first `len` keys of a head, `(len, head_dim)`.
    pub(crate) fn keys(&self, layer: usize, kv_head: usize, len: usize) -> &[f16] {
        self.rows(&self.layers[layer].keys, kv_head, len)
    }

    /// The first `len` values of a head, `(len, head_dim)`.
    pub(crate) fn values(&self, layer: usize, kv_head: usize, len: usize) -> &[f16] {
        self.rows(&self.layers[layer].values, kv_head, len)
    }

    fn rows<'a>(&self, of: &'a [f16], kv_head: usize, len: usize) -> &'a [f16] {
        let at = kv_head * self.capacity * self.head_dim;
        &of[at..at + len * self.head_dim]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_f16_cannot_hold_is_stored_as_nan() {
        let mut kv = KvCache::new(1, 2, 2, 4);
        kv.write(0, 0, &[1.0, 2.0, 3.0, -7e4], &[1.0, f32::NAN, 65504.0, 4.0]);
        assert!(kv.keys(0, 0, 1).iter().all(|v| v.is_finite()));
        assert!(kv.keys(0, 1, 1).iter().all(|v| v.is_nan()));
        assert!(kv.values(0, 0, 1).iter().all(|v| v.is_nan()));
        assert_eq!(kv.values(0, 1, 1)[0].to_f32(), 65504.0);
    }
}
