//! Seeded matrices, bit for bit those of `data/reference.py`, which says how they are made.

/// Twelve 16-bit digits have this mean, ...
const DIGIT_SUM_MEAN: f64 = 393_210.0;

/// ... and this variance.
const DIGIT_SUM_VARIANCE: f64 = 4_294_967_295.0;

/// `count` weights of standard deviation `std`: bell-shaped, or with the heavy tails of Student's
/// t of five degrees of freedom.
pub fn weights(heavy: bool, std: f64, seed: u64, count: usize) -> Vec<f32> {
    let value = |i: u64| {
        if !heavy {
            return bell(seed, i);
        }
        let mut squares = 0.0;
        for j in 1..6 {
            let z = bell(seed, 6 * i + j);
            squares += z * z;
        }
        bell(seed, 6 * i) / (squares / 5.0f64).sqrt() / (5.0f64 / 3.0).sqrt()
    };
    (0..count as u64).map(|i| (value(i) * std) as f32).collect()
}

fn bell(seed: u64, i: u64) -> f64 {
    let sum: u64 = (3 * i..3 * i + 3)
        .map(|i| word(seed, i))
        .flat_map(|word| [0, 16, 32, 48].map(|shift| word >> shift & 0xffff))
        .sum();
    (sum as f64 - DIGIT_SUM_MEAN) / DIGIT_SUM_VARIANCE.sqrt()
}

/// Word `i` of SplitMix64.
pub fn word(seed: u64, i: u64) -> u64 {
    let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
