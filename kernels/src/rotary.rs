//! Rotary positions (RoFormer, section 3.2.2), on the CPU.

/// Turns pairs of values by angles that grow with the position.
pub struct Rotary {
    pairs_are_adjacent: bool,
    /// By how much one position turns each pair, `(head_dim / 2)`.
    frequencies: Vec<f32>,
    /// Factor of cosines and sines.
    magnitude: f32,
    /// Pairs (cos, sin) of the positions of one pass, `(t, head_dim / 2)`.
    angles: Vec<(f32, f32)>,
}

impl Rotary {
    /// By how much one position turns each pair of a head's values, `(head_dim / 2)`, and the
    /// factor of cosines and sines. Pairs are neighbours, or lie in the two halves of a head.
    pub fn new(frequencies: Vec<f32>, magnitude: f32, pairs_are_adjacent: bool) -> Self {
        Self {
            pairs_are_adjacent,
            frequencies,
            magnitude,
            angles: Vec::new(),
        }
    }

    /// Makes room for the angles of `t` positions.
    pub fn reserve(&mut self, t: usize) {
        self.angles.reserve(t * self.frequencies.len());
    }

    /// Computes the angles of positions `first .. first + t`.
    pub fn prepare(&mut self, first: usize, t: usize) {
        self.angles.clear();
        for position in first..first + t {
            for frequency in &self.frequencies {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                self.angles
                    .push((cos * self.magnitude, sin * self.magnitude));
            }
        }
    }

    /// Pairs (cos, sin), `(t, head_dim / 2)`.
    pub fn angles(&self) -> &[(f32, f32)] {
        &self.angles
    }

    /// Rotates `x`, f32 `(t, n_heads, head_dim)`.
    pub fn rotate(&self, x: &mut [f32], n_heads: usize) {
        let half_dim = self.frequencies.len();
        let head_dim = 2 * half_dim;
        let turn = |a: &mut f32, b: &mut f32, (cos, sin): (f32, f32)| {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        };
        let positions = x.chunks_exact_mut(n_heads * head_dim);
        for (position, angles) in positions.zip(self.angles.chunks_exact(half_dim)) {
            for head in position.chunks_exact_mut(head_dim) {
                if self.pairs_are_adjacent {
                    for (pair, angle) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                        let [a, b] = pair;
                        turn(a, b, *angle);
                    }
                } else {
                    let (low, high) = head.split_at_mut(half_dim);
                    for ((a, b), angle) in low.iter_mut().zip(high).zip(angles) {
                        turn(a, b, *angle);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_length_and_depends_on_distance_only() {
        let frequency = |i: i32| 1e4f32.powf(-2.0 * i as f32 / 8.0);
        let mut rotary = Rotary::new((0..4).map(frequency).collect(), 1.0, false);
        let x = [0.3, -0.5, 0.7, 0.2, -0.1, 0.9, 0.4, -0.8];
        let y = [-0.6, 0.1, 0.2, 0.8, 0.5, -0.3, 0.7, 0.4];
        let mut dot = |first: usize| {
            let (mut x, mut y) = (x, y);
            rotary.prepare(first, 1);
            rotary.rotate(&mut x, 1);
            rotary.prepare(first + 3, 1);
            rotary.rotate(&mut y, 1);
            (
                x.iter().zip(&y).map(|(a, b)| a * b).sum::<f32>(),
                x.iter().map(|a| a * a).sum::<f32>(),
            )
        };
        let ((near, length), (far, far_length)) = (dot(0), dot(50));
        assert!((near - far).abs() < 1e-4 && (length - far_length).abs() < 1e-4);
    }
}
