//! One pass over a token's activations: whether all are finite, and which columns are outliers of
//! their block.

use crate::cpu::BLOCK;

/// The most columns of a token that are kept apart.
pub(crate) const MAX_OUTLIERS: usize = 16;

/// A column stands out from so many times its block's mean magnitude on. Normal values reach 4 of
/// 256; what stays below 12 coarsens the block's steps to three times theirs at most.
const STANDS_OUT: f32 = 12.0;

/// Columns of one token that are multiplied in f32, apart from the others' 8 bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outliers {
    columns: [u32; MAX_OUTLIERS],
    count: usize,
    /// Whether every activation is finite, and small enough to add up.
    pub(crate) is_finite: bool,
}

impl Outliers {
    pub(crate) const NONE: Self = Self {
        columns: [0; MAX_OUTLIERS],
        count: 0,
        is_finite: true,
    };

    /// Of one token's activations: those that stand out, the largest if there are too many.
    pub(crate) fn find(x: &[f32]) -> Self {
        let mut found = Self::NONE;
        for (block, values) in x.chunks(BLOCK).enumerate() {
            let (sum, most) = magnitudes(values);
            found.is_finite &= sum < f32::INFINITY;
            let bound = STANDS_OUT * sum / values.len() as f32;
            if most <= bound {
                continue;
            }
            for (i, value) in values.iter().enumerate() {
                if value.abs() > bound {
                    found.put(x, block * BLOCK + i);
                }
            }
        }
        // In the order of columns, block by block.
        found.columns[..found.count].sort_unstable();
        found
    }

    fn put(&mut self, x: &[f32], column: usize) {
        if self.count < MAX_OUTLIERS {
            self.columns[self.count] = column as u32;
            self.count += 1;
            return;
        }
        let size = |column: u32| x[column as usize].abs();
        let smallest = self
            .columns
            .iter_mut()
            .min_by(|a, b| size(**a).total_cmp(&size(**b)));
        if let Some(smallest) = smallest
            && size(*smallest) < size(column as u32)
        {
            *smallest = column as u32;
        }
    }

    pub(crate) fn columns(&self) -> impl Iterator<Item = usize> + '_ {
        self.columns[..self.count]
            .iter()
            .map(|column| *column as usize)
    }

    /// Those in `start..start + len`, counted from `start`.
    pub(crate) fn within(&self, start: usize, len: usize) -> impl Iterator<Item = usize> + '_ {
        self.columns()
            .filter(move |column| (start..start + len).contains(column))
            .map(move |column| column - start)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Whether every value is finite.
pub(crate) fn is_finite(values: &[f32]) -> bool {
    // The largest magnitude as bits: NaN and infinity are beyond all numbers.
    let most = values
        .iter()
        .fold(0, |most, v| (v.to_bits() as i32 & i32::MAX).max(most));
    most < f32::INFINITY.to_bits() as i32
}

/// The sum of the magnitudes, NaN or infinite where one is, and the largest.
fn magnitudes(values: &[f32]) -> (f32, f32) {
    let mut sums = [0f32; 8];
    let mut most = [0f32; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for i in 0..8 {
            let v = chunk[i].abs();
            sums[i] += v;
            most[i] = if v > most[i] { v } else { most[i] };
        }
    }
    let sum = sums.iter().sum::<f32>() + rest.iter().map(|v| v.abs()).sum::<f32>();
    let rest = rest.iter().map(|v| v.abs());
    (sum, most.into_iter().chain(rest).fold(0.0, f32::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0)
            .collect()
    }

    #[test]
    fn what_stands_out_of_its_block_is_found() {
        let mut x = noise(700);
        assert!(Outliers::find(&x).is_empty());
        for column in [3, 300, 301, 699] {
            x[column] = 30.0;
        }
        let found: Vec<usize> = Outliers::find(&x).columns().collect();
        assert_eq!(found, [3, 300, 301, 699]);
        let within: Vec<usize> = Outliers::find(&x).within(256, 256).collect();
        assert_eq!(within, [44, 45]);
    }

    #[test]
    fn of_too_many_the_largest_are_taken() {
        let mut x = noise(256 * 20);
        for i in 0..20 {
            x[i * 256 + 7] = 20.0 + i as f32;
        }
        let found: Vec<usize> = Outliers::find(&x).columns().collect();
        let expected: Vec<usize> = (4..20).map(|i| i * 256 + 7).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn non_finite_values_are_found() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 9, 255, 299] {
                let mut x = noise(300);
                assert!(is_finite(&x) && Outliers::find(&x).is_finite);
                x[at] = bad;
                assert!(
                    !is_finite(&x) && !Outliers::find(&x).is_finite,
                    "{bad} at {at}"
                );
            }
        }
    }
}
