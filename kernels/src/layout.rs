//! The packed HQQ layout of one matrix, borrowed from a file or a slot, used in place.
//!
//! A weight matrix of `n` rows (out) and `k` columns (in), flattened row-major, is viewed as
//! `group_size` rows by `n_groups = n * k / group_size` columns. Every *column* of that view is a
//! group with one scale and one zero: weight `(row, col)` with flat index `i = row * k + col`
//! belongs to group `i % n_groups`, and
//!
//! ```text
//! w = (q - zero[group]) * scale[group]
//! ```
//!
//! Where `n % group_size == 0` (every real checkpoint), `r = n / group_size` *group rows* exist:
//! the groups of group row `rho` are `rho * k .. (rho + 1) * k` and serve the rows
//! `rho, rho + r, rho + 2r, ...`: for each column one scale and one zero for `group_size` rows.
//!
//! Source: HQQ's `BitPack` and `Quantizer` (mobiusml/hqq), axis 0.

use half::f16;

/// Bits of one quantized weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bits {
    /// Four weights in a byte.
    B2,
    /// Ten weights in an `i32`, the first in bits 27..30.
    B3,
    /// Two weights in a byte.
    B4,
    /// One weight in a byte.
    B8,
}

impl Bits {
    /// The number of bits.
    pub const fn count(self) -> u32 {
        match self {
            Bits::B2 => 2,
            Bits::B3 => 3,
            Bits::B4 => 4,
            Bits::B8 => 8,
        }
    }

    /// The largest quantized value, `2^bits - 1`.
    pub const fn max_q(self) -> u32 {
        (1 << self.count()) - 1
    }

    /// Weights in one packed unit: a byte, or an `i32` for 3 bits.
    pub const fn per_unit(self) -> usize {
        match self {
            Bits::B2 => 4,
            Bits::B3 => 10,
            Bits::B4 => 2,
            Bits::B8 => 1,
        }
    }

    /// Bytes of one packed unit.
    pub const fn unit_bytes(self) -> usize {
        match self {
            Bits::B3 => 4,
            _ => 1,
        }
    }

    /// Rows of the packed `(rows, n_groups)` array that hold `group_size` rows of weights.
    pub const fn packed_rows(self, group_size: usize) -> usize {
        group_size.div_ceil(self.per_unit())
    }
}

/// A scale or zero a group: plain, or itself quantized to 8 bits.
///
/// All slices are little-endian file bytes; the f16 ones need no alignment.
#[derive(Debug, Clone, Copy)]
pub enum GroupParam<'a> {
    /// f16 values: `n_groups` of them, or a single one for all groups.
    Plain(&'a [u8]),
    /// `value[c] = (q[c] - zero[c % m]) * scale[c % m]`, with `m` the number of meta groups.
    Quantized {
        /// u8, `n_groups` values.
        q: &'a [u8],
        /// f16, `m` values.
        scale: &'a [u8],
        /// f16, `m` values.
        zero: &'a [u8],
    },
}

/// Reads the `i`-th little-endian f16 of `bytes`.
#[inline]
pub(crate) fn f16_at(bytes: &[u8], i: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32()
}

impl GroupParam<'_> {
    /// The value of group `c`, in f32 arithmetic.
    #[inline]
    pub fn get(&self, c: usize) -> f32 {
        match *self {
            GroupParam::Plain(v) if v.len() == 2 => f16_at(v, 0),
            GroupParam::Plain(v) => f16_at(v, c),
            GroupParam::Quantized { q, scale, zero } => {
                let m = c % (scale.len() / 2);
                (f32::from(q[c]) - f16_at(zero, m)) * f16_at(scale, m)
            }
        }
    }

    fn check(&self, what: &'static str, n_groups: usize) -> Result<(), LayoutError> {
        let len = |part, bytes: &[u8], expected: usize| {
            if bytes.len() == expected {
                Ok(())
            } else {
                Err(LayoutError::Length {
                    what: part,
                    expected,
                    found: bytes.len(),
                })
            }
        };
        match *self {
            GroupParam::Plain(v) if v.len() == 2 => Ok(()),
            GroupParam::Plain(v) => len(what, v, 2 * n_groups),
            GroupParam::Quantized { q, scale, zero } => {
                len(what, q, n_groups)?;
                let m = scale.len() / 2;
                if m == 0 || !scale.len().is_multiple_of(2) || !n_groups.is_multiple_of(m) {
                    return Err(LayoutError::MetaGroups {
                        what,
                        n_groups,
                        found: m,
                    });
                }
                len(what, zero, scale.len())
            }
        }
    }
}

/// What is wrong with the sizes of a packed matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A zero dimension, or one whose product overflows.
    #[error("a {n} x {k} matrix in groups of {group_size} cannot exist")]
    Shape {
        /// Rows.
        n: usize,
        /// Columns.
        k: usize,
        /// Weights a group.
        group_size: usize,
    },
    /// A slice is not as long as the shape says.
    #[error("{what}: expected {expected} bytes, found {found}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Bytes the shape asks for.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The meta groups do not divide the groups.
    #[error("{what}: {found} meta groups do not divide {n_groups} groups")]
    MetaGroups {
        /// Which parameter.
        what: &'static str,
        /// Groups of the matrix.
        n_groups: usize,
        /// Meta groups found.
        found: usize,
    },
}

/// One HQQ-quantized matrix, borrowed: `n` rows (out) by `k` columns (in).
#[derive(Debug, Clone, Copy)]
pub struct QMatrix<'a> {
    n: usize,
    k: usize,
    bits: Bits,
    group_size: usize,
    w_q: &'a [u8],
    scale: GroupParam<'a>,
    zero: GroupParam<'a>,
}

impl<'a> QMatrix<'a> {
    /// Checks every length against the shape, so that the kernels need not.
    ///
    /// `w_q` holds `packed_rows(group_size) * n_groups` units. Any `n`, `k` and `group_size` with
    /// `n * k % group_size == 0` are legal, and `group_size % per_unit == 0` unless 3 bits (whose
    /// last rows are padding).
    ///
    /// # Errors
    /// [`LayoutError`] names the slice, what was expected and what was found.
    pub fn new(
        (n, k): (usize, usize),
        bits: Bits,
        group_size: usize,
        w_q: &'a [u8],
        scale: GroupParam<'a>,
        zero: GroupParam<'a>,
    ) -> Result<Self, LayoutError> {
        let bad = LayoutError::Shape { n, k, group_size };
        let len = match n.checked_mul(k) {
            Some(len) if len > 0 && len < isize::MAX as usize / 8 => len,
            _ => return Err(bad),
        };
        let whole_units = bits == Bits::B3 || group_size.is_multiple_of(bits.per_unit());
        if group_size == 0 || !len.is_multiple_of(group_size) || !whole_units {
            return Err(bad);
        }
        let n_groups = len / group_size;
        let expected = bits.packed_rows(group_size) * n_groups * bits.unit_bytes();
        if w_q.len() != expected {
            return Err(LayoutError::Length {
                what: "W_q",
                expected,
                found: w_q.len(),
            });
        }
        scale.check("scale", n_groups)?;
        zero.check("zero", n_groups)?;
        Ok(Self {
            n,
            k,
            bits,
            group_size,
            w_q,
            scale,
            zero,
        })
    }

    /// Rows: the length of the output.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns: the length of the input.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bits a weight.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// Weights that share a scale and a zero.
    pub fn group_size(&self) -> usize {
        self.group_size
    }

    /// Groups: `n * k / group_size`.
    pub fn n_groups(&self) -> usize {
        self.n * self.k / self.group_size
    }

    /// Group rows, `n / group_size`, where the groups line up with rows; else `None`.
    pub fn group_rows(&self) -> Option<usize> {
        self.n
            .is_multiple_of(self.group_size)
            .then(|| self.n / self.group_size)
    }

    /// The packed weights, as in the file.
    pub fn w_q(&self) -> &'a [u8] {
        self.w_q
    }

    /// The scales.
    pub fn scale(&self) -> GroupParam<'a> {
        self.scale
    }

    /// The zeros.
    pub fn zero(&self) -> GroupParam<'a> {
        self.zero
    }

    /// Bytes that one pass over the matrix reads: weights, scales, zeros and their meta values.
    pub fn bytes(&self) -> usize {
        let param = |p: GroupParam<'_>| match p {
            GroupParam::Plain(v) => v.len(),
            GroupParam::Quantized { q, scale, zero } => q.len() + scale.len() + zero.len(),
        };
        self.w_q.len() + param(self.scale) + param(self.zero)
    }

    /// The quantized value of flat weight `i`: where the format is spelt out, once.
    #[inline]
    pub fn q_at(&self, i: usize) -> u32 {
        let n_groups = self.n_groups();
        match self.bits {
            Bits::B3 => {
                let (view_row, c) = (i / n_groups, i % n_groups);
                let rows = self.bits.packed_rows(self.group_size);
                let (part, unit_row) = (view_row / rows, view_row % rows);
                let at = 4 * (unit_row * n_groups + c);
                let unit = u32::from_le_bytes([
                    self.w_q[at],
                    self.w_q[at + 1],
                    self.w_q[at + 2],
                    self.w_q[at + 3],
                ]);
                unit >> (3 * (9 - part)) & 7
            }
            bits => {
                let units = self.w_q.len();
                let (part, unit) = (i / units, i % units);
                let shift = 8 - bits.count() as usize * (part + 1);
                u32::from(self.w_q[unit]) >> shift & bits.max_q()
            }
        }
    }

    /// The weight at `(row, col)` in f32 arithmetic: the slow, plain reference.
    pub fn weight(&self, row: usize, col: usize) -> f32 {
        let i = row * self.k + col;
        let c = i % self.n_groups();
        (self.q_at(i) as f32 - self.zero.get(c)) * self.scale.get(c)
    }
}
