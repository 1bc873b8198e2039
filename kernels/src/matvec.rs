//! The product with a few tokens, as in decoding: bound by how fast the weights can be read.
//!
//! In a group row every column has one scale and one zero for `group_size` rows, so with
//! `u = scale * x` each row's sum is `sum(q * u) - sum(zero * u)`: the second term is the same for
//! all rows of the group row. `u` is quantized to 8 bits in blocks of 256 columns, and the zero
//! term is taken from the quantized `u`, so that the error of an output is only
//! `sum((q - zero) * (u - quantized u))`: at most half a step of its block for each column.
//!
//! Columns that stand out of their block ([`Outliers`]) would coarsen its steps for all: they are 0
//! there, and multiplied in f32 afterwards, while the row's packed bytes are in the cache.
//!
//! `u` of a block needs no f32 arithmetic a group row: scales are 8 bits with meta values that
//! repeat every few group rows, so their products with `x` are tabulated as integers first.

use crate::cpu::{BLOCK, GroupInput, Kernels};
use crate::layout::{Bits, GroupParam, QMatrix, f16_at};
use crate::outliers::{MAX_OUTLIERS, Outliers};
use crate::params;
use crate::scratch::{Carver, Output, Space};

/// Blocks tabulated by one item of preparation.
const ITEM_BLOCKS: usize = 16;
/// Packed rows below which a group row is not divided between threads: its input is then quantized
/// once for each share, at about the price of two packed rows.
const MIN_SHARE_ROWS: usize = 8;

/// How far ahead of the multiplication packed rows are fetched, into the second-level cache. The
/// rows of a group row lie far apart, so hardware alone does not see what comes next.
const AHEAD_BYTES: usize = 24 << 10;

/// How one matrix is multiplied, and where its tables lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matvec {
    tokens: usize,
    /// By token.
    outliers: [Outliers; MAX_TOKENS],
    group_rows: usize,
    /// Packed rows of a group row.
    rows: usize,
    /// Packed rows of a unit of work: a whole group row, or a share of it.
    share_rows: usize,
    shares: usize,
    blocks: usize,
    tables: Option<Tables>,
    q: usize,
    d: usize,
    thread_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Tables {
    /// Group rows after which the meta values repeat.
    period: usize,
    /// `[token][period][block]` multipliers and offsets.
    table: usize,
    /// `[token][period][block]` values of one unit.
    unit: usize,
    /// `[token][period]` outliers' activations times meta scales, and meta zeros.
    apart: usize,
    zero_scale: f32,
    zero_zero: f32,
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Matvec {
    /// The plan for the tokens of `x`, or `None` where groups do not line up with rows. `twin` is
    /// the plan of a job with the same `x`.
    pub(crate) fn new(
        w: &QMatrix<'_>,
        x: &[f32],
        threads: usize,
        twin: Option<&Self>,
        shared: &mut Carver,
    ) -> Option<Self> {
        let group_rows = w.group_rows()?;
        let tokens = x.len() / w.k();
        let outliers = twin.map_or_else(
            || {
                let mut found = [Outliers::NONE; MAX_TOKENS];
                for (found, x) in found.iter_mut().zip(x.chunks(w.k())) {
                    *found = Outliers::find(x);
                }
                found
            },
            |twin| twin.outliers,
        );
        let rows = w.bits().packed_rows(w.group_size());
        let blocks = w.k().div_ceil(BLOCK);
        let wanted = (3 * threads).div_ceil(group_rows);
        let shares = wanted.min(rows / MIN_SHARE_ROWS).max(1);
        let share_rows = rows.div_ceil(shares);
        let mut thread = Carver::default();
        Some(Self {
            tokens,
            outliers,
            group_rows,
            rows,
            share_rows,
            shares: rows.div_ceil(share_rows),
            blocks,
            tables: Tables::new(w, tokens, group_rows, blocks, shared),
            q: thread.add::<i8>(tokens * blocks * BLOCK),
            d: thread.add::<f32>(tokens * blocks),
            thread_bytes: thread.bytes(),
        })
    }

    pub(crate) fn thread_bytes(&self) -> usize {
        self.thread_bytes
    }

    /// Units of work.
    pub(crate) fn units(&self) -> usize {
        self.group_rows * self.shares
    }

    /// Items of preparation, to be done before any unit.
    pub(crate) fn prep_items(&self) -> usize {
        match &self.tables {
            Some(tables) => self.tokens * tables.period * self.blocks.div_ceil(ITEM_BLOCKS),
            None => 0,
        }
    }

    /// Does one item of preparation.
    pub(crate) fn prepare(
        &self,
        kernels: &Kernels,
        w: &QMatrix<'_>,
        x: &[f32],
        shared: Space<'_>,
        item: usize,
    ) {
        let (Some(tables), GroupParam::Quantized { scale, zero, .. }) = (&self.tables, w.scale())
        else {
            return;
        };
        let k = w.k();
        let runs = self.blocks.div_ceil(ITEM_BLOCKS);
        let (row, run) = (item / runs, item % runs);
        let (token, residue) = (row / tables.period, row % tables.period);
        let first = run * ITEM_BLOCKS;
        let blocks = ITEM_BLOCKS.min(self.blocks - first);
        let at = row * self.blocks + first;
        // SAFETY: every item has its own blocks.
        let (table, unit) = unsafe {
            (
                shared.slice_mut(tables.table + at * size_of::<[i16; 2 * BLOCK]>(), blocks),
                shared.part(tables.unit, 4 * self.tokens * tables.period * self.blocks),
            )
        };
        if run == 0 {
            // SAFETY: every row has its own part, and one item of it does this.
            let apart: &mut [[f32; 2]] =
                unsafe { shared.slice_mut(tables.apart_at(row), MAX_OUTLIERS) };
            for (apart, column) in apart.iter_mut().zip(self.outliers[token].columns()) {
                let at = (residue * k + column) % (scale.len() / 2);
                *apart = [
                    f16_at(scale, at) * x[token * k + column],
                    f16_at(zero, (residue * k + column) % (zero.len() / 2)),
                ];
            }
        }
        let mut meta = [[0f32; BLOCK]; 2];
        for (i, table) in table.iter_mut().enumerate() {
            let start = (first + i) * BLOCK;
            let len = BLOCK.min(k - start);
            let mut x = &x[token * k + start..][..len];
            let mut without = [0f32; BLOCK];
            if !self.outliers[token].is_empty() {
                without[..len].copy_from_slice(x);
                for column in self.outliers[token].within(start, len) {
                    without[column] = 0.0;
                }
                x = &without[..len];
            }
            let [meta_scale, meta_zero] = &mut meta;
            params::meta_run(kernels, scale, residue * k + start, &mut meta_scale[..len]);
            params::meta_run(kernels, zero, residue * k + start, &mut meta_zero[..len]);
            // SAFETY: a table is only handed out where the CPU has its features.
            let value = unsafe { (kernels.table)(x, meta_scale, meta_zero, table) };
            // SAFETY: every item has its own blocks.
            unsafe { unit.set_f32(at + i, value) };
        }
    }

    /// Does one unit of work: writes the outputs of a group row's packed rows, or of a share.
    ///
    /// # Safety
    /// No other thread has the same unit or uses `thread`; all items are prepared.
    #[allow(clippy::too_many_arguments)]
    pub(crate) unsafe fn run(
        &self,
        kernels: &Kernels,
        w: &QMatrix<'_>,
        x: &[f32],
        y: Output<'_>,
        shared: Space<'_>,
        thread: Space<'_>,
        unit: usize,
    ) {
        let (rho, share) = (unit / self.shares, unit % self.shares);
        let padded = self.blocks * BLOCK;
        // SAFETY: the caller lends `thread` to this call alone.
        let (q, d) = unsafe {
            (
                thread.slice_mut::<i8>(self.q, self.tokens * padded),
                thread.slice_mut::<f32>(self.d, self.tokens * self.blocks),
            )
        };
        let mut zero_terms = [0f32; MAX_TOKENS];
        // Nothing of it is written unless something stands out: a unit may be four rows only.
        let mut apart: [Option<Apart>; MAX_TOKENS] = [None; MAX_TOKENS];
        for (token, zero_term) in zero_terms.iter_mut().take(self.tokens).enumerate() {
            let q = &mut q[token * padded..][..padded];
            let d = &mut d[token * self.blocks..][..self.blocks];
            *zero_term = match &self.tables {
                Some(tables) => self.tabulated(kernels, w, tables, shared, (rho, token), q, d),
                None => self.plain(kernels, w, x, (rho, token), q, d),
            };
            let outliers = &self.outliers[token];
            if !outliers.is_empty() {
                let apart = apart[token].insert(Apart::default());
                *zero_term += match &self.tables {
                    Some(tables) => {
                        let row = token * tables.period + rho % tables.period;
                        // SAFETY: preparation has ended, so nobody writes the tables.
                        let meta =
                            unsafe { shared.slice::<[f32; 2]>(tables.apart_at(row), MAX_OUTLIERS) };
                        apart.set_tabulated(quantized(w, rho), tables, meta, outliers)
                    }
                    None => apart.set(w, &x[token * w.k()..][..w.k()], rho, outliers),
                };
            }
            if !outliers.is_finite {
                // 8-bit integers have no NaN: it would come out as a number.
                *zero_term = f32::NAN;
            }
        }

        let (n, k, group_size) = (w.n(), w.k(), w.group_size());
        let dot = match w.bits() {
            Bits::B2 => kernels.dot2,
            Bits::B3 => kernels.dot3,
            Bits::B4 | Bits::B8 => kernels.dot4,
        };
        let parts = w.bits().per_unit();
        let row_bytes = k * w.bits().unit_bytes();
        let row_at = |rho: usize, row: usize| (row * self.group_rows + rho) * row_bytes;
        let first = share * self.share_rows;
        let count = self.share_rows.min(self.rows - first);
        let lookahead = (AHEAD_BYTES / row_bytes).max(1);
        for i in 0..count {
            let row = first + i;
            let units = &w.w_q()[row_at(rho, row)..][..row_bytes];
            let next = i + lookahead;
            let next = row_at(rho + next / count, first + next % count);
            let ahead = w.w_q().as_ptr().wrapping_add(next);
            for (token, zero_term) in zero_terms.iter().take(self.tokens).enumerate() {
                let q = &q[token * padded..][..padded];
                let d = &d[token * self.blocks..][..self.blocks];
                let mut sums = [0f32; 10];
                // SAFETY: a table is only handed out where the CPU has its features.
                unsafe { dot(units, q, d, ahead, &mut sums) };
                if w.bits() == Bits::B8 {
                    sums[0] = 16.0 * sums[0] + sums[1];
                }
                if let Some(apart) = &apart[token] {
                    apart.add(w.bits(), units, &mut sums);
                }
                for (part, sum) in sums.iter().take(parts).enumerate() {
                    let view_row = part * self.rows + row;
                    if view_row < group_size {
                        let out = rho + view_row * self.group_rows;
                        // SAFETY: the outputs of a packed row belong to the unit that has it.
                        unsafe { y.set(token * n + out, sum - zero_term) };
                    }
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn tabulated(
        &self,
        kernels: &Kernels,
        w: &QMatrix<'_>,
        tables: &Tables,
        shared: Space<'_>,
        (rho, token): (usize, usize),
        q: &mut [i8],
        d: &mut [f32],
    ) -> f32 {
        let k = w.k();
        let (GroupParam::Quantized { q: scale_q, .. }, GroupParam::Quantized { q: zero_q, .. }) =
            (w.scale(), w.zero())
        else {
            unreachable!("BUG: tables of plain parameters");
        };
        let at = (token * tables.period + rho % tables.period) * self.blocks;
        let all = self.tokens * tables.period * self.blocks;
        // SAFETY: preparation has ended, so nobody writes the tables.
        let (table, unit) = unsafe {
            (
                shared.slice(
                    tables.table + at * size_of::<[i16; 2 * BLOCK]>(),
                    self.blocks,
                ),
                &shared.slice::<f32>(tables.unit, all)[at..at + self.blocks],
            )
        };
        let next = (rho + 1) * k;
        let input = GroupInput {
            scale_q: &scale_q[rho * k..][..k],
            zero_q: &zero_q[rho * k..][..k],
            table,
            unit,
            zero_scale: tables.zero_scale,
            zero_zero: tables.zero_zero,
            ahead: [
                scale_q.as_ptr().wrapping_add(next),
                zero_q.as_ptr().wrapping_add(next),
            ],
        };
        // SAFETY: a table is only handed out where the CPU has its features.
        unsafe { (kernels.group_input)(input, q, d) }
    }

    /// Any other form of scales and zeros: through f32.
    fn plain(
        &self,
        kernels: &Kernels,
        w: &QMatrix<'_>,
        x: &[f32],
        (rho, token): (usize, usize),
        q: &mut [i8],
        d: &mut [f32],
    ) -> f32 {
        let k = w.k();
        let x = &x[token * k..][..k];
        let mut buffers = [[0f32; BLOCK]; 2];
        let mut sum = 0.0;
        for (i, (q, d)) in q.as_chunks_mut::<BLOCK>().0.iter_mut().zip(d).enumerate() {
            let start = i * BLOCK;
            let len = BLOCK.min(k - start);
            let [u, zero] = &mut buffers;
            let (u, zero) = (&mut u[..len], &mut zero[..len]);
            params::decode(kernels, w.scale(), rho * k + start, u);
            params::decode(kernels, w.zero(), rho * k + start, zero);
            for (u, x) in u.iter_mut().zip(&x[start..]) {
                *u *= x;
            }
            for column in self.outliers[token].within(start, len) {
                u[column] = 0.0;
            }
            // SAFETY: a table is only handed out where the CPU has its features.
            let (term, scale) = unsafe { (kernels.quantize)(u, zero, q) };
            sum += term;
            *d = scale;
        }
        sum
    }
}

/// What stands out of a token's activations, times the scales of a group row.
#[derive(Clone, Copy, Default)]
struct Apart {
    columns: [u32; MAX_OUTLIERS],
    u: [f32; MAX_OUTLIERS],
    count: usize,
}

impl Apart {
    /// Takes the outliers of `x` in group row `rho`; returns their part of the zero term.
    fn set(&mut self, w: &QMatrix<'_>, x: &[f32], rho: usize, outliers: &Outliers) -> f32 {
        self.take(outliers, |_, column| {
            let group = rho * w.k() + column;
            (w.scale().get(group) * x[column], w.zero().get(group))
        })
    }

    /// The same by `meta`: of each outlier its activation times the meta scale, and the meta zero.
    fn set_tabulated(
        &mut self,
        (scale_q, zero_q): (&[u8], &[u8]),
        tables: &Tables,
        meta: &[[f32; 2]],
        outliers: &Outliers,
    ) -> f32 {
        self.take(outliers, |i, column| {
            let [by, meta_zero] = meta[i];
            let u = (f32::from(scale_q[column]) - meta_zero) * by;
            let zero = (f32::from(zero_q[column]) - tables.zero_zero) * tables.zero_scale;
            (u, zero)
        })
    }

    /// `of(i, column)` gives the scaled activation and the zero of the i-th.
    fn take(&mut self, outliers: &Outliers, of: impl Fn(usize, usize) -> (f32, f32)) -> f32 {
        let mut zero_term = 0.0;
        self.count = 0;
        for (i, column) in outliers.columns().enumerate() {
            let (u, zero) = of(i, column);
            zero_term += zero * u;
            self.columns[i] = column as u32;
            self.u[i] = u;
            self.count += 1;
        }
        zero_term
    }

    /// Adds their products with a packed row to the sums of its parts.
    #[inline]
    fn add(&self, bits: Bits, units: &[u8], sums: &mut [f32; 10]) {
        let columns = self.columns.iter().zip(self.u).take(self.count);
        match bits {
            Bits::B2 => {
                // Four sums, so that an addition need not wait for the one before. What is beyond
                // `count` has a `u` of 0.
                let mut apart = [[0f32; 4]; 4];
                let columns = self.columns.as_chunks::<4>().0;
                let u = self.u.as_chunks::<4>().0;
                for (columns, u) in columns.iter().zip(u).take(self.count.div_ceil(4)) {
                    for ((apart, column), u) in apart.iter_mut().zip(columns).zip(u) {
                        let values = &QUARTERS[usize::from(units[*column as usize])];
                        for (sum, value) in apart.iter_mut().zip(values) {
                            *sum += value * u;
                        }
                    }
                }
                for (part, sum) in sums.iter_mut().take(4).enumerate() {
                    *sum += (apart[0][part] + apart[1][part]) + (apart[2][part] + apart[3][part]);
                }
            }
            Bits::B3 => {
                let units = units.as_chunks::<4>().0;
                for (column, u) in columns {
                    let unit = u32::from_le_bytes(units[*column as usize]);
                    for (part, sum) in sums.iter_mut().enumerate() {
                        *sum += (unit >> (27 - 3 * part) & 7) as f32 * u;
                    }
                }
            }
            Bits::B4 => {
                for (column, u) in columns {
                    let unit = units[*column as usize];
                    sums[0] += f32::from(unit >> 4) * u;
                    sums[1] += f32::from(unit & 15) * u;
                }
            }
            Bits::B8 => {
                for (column, u) in columns {
                    sums[0] += f32::from(units[*column as usize]) * u;
                }
            }
        }
    }
}

/// The four 2-bit values of a byte, the highest bits first.
static QUARTERS: [[f32; 4]; 256] = {
    let mut all = [[0f32; 4]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut part = 0;
        while part < 4 {
            all[byte][part] = (byte >> (6 - 2 * part) & 3) as f32;
            part += 1;
        }
        byte += 1;
    }
    all
};

/// The most tokens of any plan.
const MAX_TOKENS: usize = 8;

/// The most tokens of a plan: beyond, dequantizing tiles of the weights first takes less time.
pub(crate) fn max_tokens(bits: Bits) -> usize {
    if bits == Bits::B3 {
        MAX_TOKENS / 2
    } else {
        MAX_TOKENS
    }
}

/// The quantized scales and zeros of group row `rho`.
fn quantized<'a>(w: &QMatrix<'a>, rho: usize) -> (&'a [u8], &'a [u8]) {
    let (GroupParam::Quantized { q: scale_q, .. }, GroupParam::Quantized { q: zero_q, .. }) =
        (w.scale(), w.zero())
    else {
        unreachable!("BUG: tables of plain parameters");
    };
    let row = rho * w.k()..(rho + 1) * w.k();
    (&scale_q[row.clone()], &zero_q[row])
}

impl Tables {
    /// Where the outliers of a token and residue are.
    fn apart_at(&self, row: usize) -> usize {
        self.apart + row * size_of::<[[f32; 2]; MAX_OUTLIERS]>()
    }

    /// `None` where the parameters are not of the tabulated form, or where tables would cost more
    /// than they save.
    fn new(
        w: &QMatrix<'_>,
        tokens: usize,
        group_rows: usize,
        blocks: usize,
        shared: &mut Carver,
    ) -> Option<Self> {
        let GroupParam::Quantized { scale: meta, .. } = w.scale() else {
            return None;
        };
        let GroupParam::Quantized { scale, zero, .. } = w.zero() else {
            return None;
        };
        if scale.len() != 2 {
            return None;
        }
        let m = meta.len() / 2;
        let period = m / gcd(m, w.k());
        if period > (group_rows / 4).max(1) {
            return None;
        }
        let all = tokens * period * blocks;
        Some(Self {
            period,
            table: shared.add::<[i16; 2 * BLOCK]>(all),
            unit: shared.add::<f32>(all),
            apart: shared.add::<[f32; 2]>(tokens * period * MAX_OUTLIERS),
            zero_scale: f16_at(scale, 0),
            zero_zero: f16_at(zero, 0),
        })
    }
}
