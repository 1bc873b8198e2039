//! How exact products are.

/// How activations enter a product. Weights that are floats are always multiplied in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// f32 activations, weights and sums: what the file says, to f32 rounding. Slower.
    Exact,
    /// HQQ, up to 8 tokens (4 with 3-bit weights): activations times their scale are rounded to 8 bits
    /// in blocks of 256 columns. Up to 16 columns of a token that stand out, from 12 times their
    /// block's mean magnitude on, are kept apart and multiplied in f32, so that they do not coarsen
    /// the others' steps. More tokens: activations are rounded to 13 bits in blocks of 512
    /// columns, and weights to 14 bits. The error is about 0.9% of the output's RMS in the first
    /// case and 0.03% (2 bits) to 0.15% (4 bits) in the second, where an outlier coarsens the steps
    /// of its own block only. Layouts whose groups do not line up with rows are computed as in
    /// [`Precision::Exact`].
    ///
    /// Blocks, however many tokens: activations are rounded to 8 bits in blocks of 32 columns,
    /// whatever the weights' own blocks; the weights stay the integers of the file. The error is
    /// about 0.6% of the output's RMS.
    #[default]
    Fast,
}
