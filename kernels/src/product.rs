//! The product with many tokens, as in reading a prompt, and every product in f32: bound by
//! arithmetic.
//!
//! The rows of a tile share their scales and zeros where groups line up with rows, so a tile of 16
//! rows is dequantized once and multiplied with all tokens. In [`Precision::Fast`] tiles and
//! activations are 16-bit integers with one step a tile or token: a tile's step is about 1/8000 of
//! its largest weight, an activation's 1/4095 of the largest of its 512 columns. The rows of block
//! matrices share nothing, so each row of a tile has a step of its own.

use crate::cpu::{KB_F32, KB_I16, Kernels, TILE, Units, X_MAX};
use crate::layout::{Bits, QMatrix};
use crate::matrix::Matrix;
use crate::outliers::is_finite;
use crate::params;
use crate::precision::Precision;
use crate::scratch::{Carver, Output, Space};

/// The most tiles of a unit of work: the sums of all of them are kept, so that the activations of
/// a column block are used as often while they are in the cache.
const MAX_BAND: usize = 8;
/// Bytes of sums a unit of work may keep.
const BAND_BYTES: usize = 256 << 10;

type TileI16 = [[i16; KB_I16]; TILE];
type TileF32 = [[f32; KB_F32]; TILE];

/// How one matrix is multiplied, and where its activations lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    tokens: usize,
    integer: bool,
    /// Columns of a tile.
    kb: usize,
    k_blocks: usize,
    tiling: Tiling,
    tiles: usize,
    /// Tiles of a unit of work.
    band: usize,
    /// Activations `[k block][token][kb]`, and their steps `[k block][token]`.
    x: usize,
    x_unit: usize,
    /// Whether the activations are another job's.
    x_shared: bool,
    tile: usize,
    params: [usize; 4],
    sums: usize,
    thread_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
enum Tiling {
    /// Some packed rows of a group row.
    GroupRow {
        group_rows: usize,
        tile_rows: usize,
        tiles: usize,
    },
    /// Rows one after the other, each with its own groups.
    Rows,
}

/// One row of a tile.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    unit_row: usize,
    part: usize,
    out: usize,
}

impl Product {
    /// The plan for `tokens` tokens. `twins` are the plans of jobs with the same `x`.
    pub(crate) fn new<'p>(
        w: &Matrix<'_>,
        tokens: usize,
        precision: Precision,
        threads: usize,
        mut twins: impl Iterator<Item = &'p Self>,
        shared: &mut Carver,
    ) -> Self {
        let grouped = match w {
            Matrix::Hqq(w) => w.group_rows().map(|group_rows| (w, group_rows)),
            Matrix::Blocks(_) => None,
        };
        let (tiling, tiles) = match grouped {
            Some((w, group_rows)) => {
                let rows = w.bits().packed_rows(w.group_size());
                let parts = w.group_size().div_ceil(rows);
                let tile_rows = (TILE / parts).max(1);
                let tiles = rows.div_ceil(tile_rows);
                (
                    Tiling::GroupRow {
                        group_rows,
                        tile_rows,
                        tiles,
                    },
                    group_rows * tiles,
                )
            }
            None => (Tiling::Rows, w.n().div_ceil(TILE)),
        };
        let integer = precision == Precision::Fast && grouped.is_some();
        let kb = if integer { KB_I16 } else { KB_F32 };
        let k_blocks = w.k().div_ceil(kb);
        let fair = tiles / (4 * threads);
        let fits = BAND_BYTES / (tokens * size_of::<[f32; TILE]>()).max(1);
        let band = fair.min(fits).clamp(1, MAX_BAND);
        let twin = twins.find(|twin| twin.integer == integer);
        let (x, x_unit) = match twin {
            Some(twin) => (twin.x, twin.x_unit),
            None if integer => (
                shared.add::<[i16; KB_I16]>(k_blocks * tokens),
                shared.add::<f32>(k_blocks * tokens),
            ),
            None => (shared.add::<[f32; KB_F32]>(k_blocks * tokens), 0),
        };
        let mut thread = Carver::default();
        Self {
            tokens,
            integer,
            kb,
            k_blocks,
            tiling,
            tiles,
            band,
            x,
            x_unit,
            x_shared: twin.is_some(),
            tile: thread.add::<TileF32>(1),
            params: [
                thread.add::<f32>(KB_I16),
                thread.add::<f32>(KB_I16),
                thread.add::<i16>(KB_I16),
                thread.add::<i16>(KB_I16),
            ],
            sums: thread.add::<[f32; TILE]>(band * tokens),
            thread_bytes: thread.bytes(),
        }
    }

    pub(crate) fn thread_bytes(&self) -> usize {
        self.thread_bytes
    }

    /// Units of work.
    pub(crate) fn units(&self) -> usize {
        self.tiles.div_ceil(self.band)
    }

    /// Items of preparation, to be done before any unit.
    pub(crate) fn prep_items(&self) -> usize {
        if self.x_shared { 0 } else { self.tokens }
    }

    /// Does one item of preparation: lays out a token's activations.
    pub(crate) fn prepare(&self, kernels: &Kernels, x: &[f32], shared: Space<'_>, token: usize) {
        let k = x.len() / self.tokens;
        let x = &x[token * k..][..k];
        for (block, x) in x.chunks(self.kb).enumerate() {
            let at = block * self.tokens + token;
            if self.integer {
                let offset = self.x + at * size_of::<[i16; KB_I16]>();
                // SAFETY: every token has its own part of every block.
                let out: &mut [i16] = unsafe { shared.slice_mut(offset, KB_I16) };
                // SAFETY: a table is only handed out where the CPU has its features.
                let step = unsafe { (kernels.round_x)(x, X_MAX, out) };
                // Integers have no NaN: it would come out as a number.
                let step = if is_finite(x) { step } else { f32::NAN };
                out[x.len()..].fill(0);
                let units = shared.part(self.x_unit, 4 * self.k_blocks * self.tokens);
                // SAFETY: every token has its own entry of every block.
                unsafe { units.set_f32(at, step) };
            } else {
                let offset = self.x + at * size_of::<[f32; KB_F32]>();
                // SAFETY: every token has its own part of every block.
                let out: &mut [f32] = unsafe { shared.slice_mut(offset, KB_F32) };
                out[..x.len()].copy_from_slice(x);
                out[x.len()..].fill(0.0);
            }
        }
    }

    /// The rows of a tile.
    fn slots(&self, w: &Matrix<'_>, tile: usize, slots: &mut [Slot; TILE]) -> usize {
        let mut count = 0;
        match (self.tiling, w) {
            (
                Tiling::GroupRow {
                    group_rows,
                    tile_rows,
                    tiles,
                },
                Matrix::Hqq(w),
            ) => {
                let rows = w.bits().packed_rows(w.group_size());
                let (rho, first) = (tile / tiles, tile % tiles * tile_rows);
                for unit_row in first..rows.min(first + tile_rows) {
                    for part in 0..w.bits().per_unit() {
                        let view_row = part * rows + unit_row;
                        if view_row < w.group_size() {
                            let out = rho + view_row * group_rows;
                            slots[count] = Slot {
                                unit_row,
                                part,
                                out,
                            };
                            count += 1;
                        }
                    }
                }
            }
            _ => {
                for out in tile * TILE..w.n().min((tile + 1) * TILE) {
                    slots[count] = Slot {
                        out,
                        ..Slot::default()
                    };
                    count += 1;
                }
            }
        }
        count
    }

    /// Does one unit of work: writes the outputs of a band of tiles for all tokens.
    ///
    /// # Safety
    /// No other thread has the same unit or uses `thread`; all items are prepared.
    pub(crate) unsafe fn run(
        &self,
        kernels: &Kernels,
        w: &Matrix<'_>,
        y: Output<'_>,
        shared: Space<'_>,
        thread: Space<'_>,
        unit: usize,
    ) {
        let first = unit * self.band;
        let band = self.band.min(self.tiles - first);
        let t = self.tokens;
        // SAFETY: the caller lends `thread` to this call alone, and the ranges are apart.
        let sums = unsafe { thread.slice_mut::<[f32; TILE]>(self.sums, band * t) };
        sums.fill([0.0; TILE]);
        let mut slots = [Slot::default(); TILE];
        for block in 0..self.k_blocks {
            let start = block * self.kb;
            let len = self.kb.min(w.k() - start);
            for (tile, sums) in sums.chunks_mut(t).enumerate() {
                let count = self.slots(w, first + tile, &mut slots);
                let slots = &slots[..count];
                let size = (count.next_multiple_of(4), len.next_multiple_of(32));
                if self.integer {
                    let offset = self.x + block * t * size_of::<[i16; KB_I16]>();
                    // SAFETY: preparation has ended, so nobody writes the activations; `thread` is
                    // this call's.
                    let (x, units, tile) = unsafe {
                        (
                            shared.slice::<[i16; KB_I16]>(offset, t),
                            shared.slice::<f32>(self.x_unit, self.k_blocks * t),
                            &mut thread.slice_mut::<TileI16>(self.tile, 1)[0],
                        )
                    };
                    let steps = match w {
                        Matrix::Hqq(w) => {
                            let columns = (start, len);
                            [self.fill_i16(kernels, w, slots, thread, columns, tile); TILE]
                        }
                        Matrix::Blocks(_) => unreachable!("BUG: an integer tile of blocks"),
                    };
                    pad(tile, count, size.0, len, size.1, 0);
                    let units = &units[block * t..][..t];
                    // SAFETY: a table is only handed out where the CPU has its features.
                    unsafe { (kernels.mul_i16)(tile, size, &steps, x, units, sums) };
                } else {
                    let offset = self.x + block * t * size_of::<[f32; KB_F32]>();
                    // SAFETY: as above.
                    let (x, tile) = unsafe {
                        (
                            shared.slice::<[f32; KB_F32]>(offset, t),
                            &mut thread.slice_mut::<TileF32>(self.tile, 1)[0],
                        )
                    };
                    match w {
                        Matrix::Hqq(w) => {
                            self.fill_f32(kernels, w, slots, thread, (start, len), tile);
                        }
                        Matrix::Blocks(w) => {
                            for (slot, row) in slots.iter().zip(&mut *tile) {
                                let bytes = w.run(slot.out, start, len);
                                let row = &mut row[..len];
                                // SAFETY: as above.
                                unsafe { (kernels.block_values)(w.kind(), bytes, row) };
                            }
                        }
                    }
                    pad(tile, count, size.0, len, size.1, 0.0);
                    // SAFETY: a table is only handed out where the CPU has its features.
                    unsafe { (kernels.mul_f32)(tile, size, x, sums) };
                }
            }
        }
        for (tile, sums) in sums.chunks(t).enumerate() {
            let count = self.slots(w, first + tile, &mut slots);
            for (token, sums) in sums.iter().enumerate() {
                for (slot, sum) in slots[..count].iter().zip(sums) {
                    // SAFETY: the rows of a tile belong to the unit that has it.
                    unsafe { y.set(token * w.n() + slot.out, *sum) };
                }
            }
        }
    }

    /// Fills an integer tile; returns its step.
    fn fill_i16(
        &self,
        kernels: &Kernels,
        w: &QMatrix<'_>,
        slots: &[Slot],
        thread: Space<'_>,
        (start, len): (usize, usize),
        tile: &mut TileI16,
    ) -> f32 {
        let Some(group_rows) = w.group_rows() else {
            unreachable!("BUG: an integer tile across groups")
        };
        let rho = slots[0].out % group_rows;
        // SAFETY: `thread` is this call's, and the ranges are apart.
        let (scale, zero, scale_i16, zero_i16) = unsafe {
            (
                thread.slice_mut::<f32>(self.params[0], len),
                thread.slice_mut::<f32>(self.params[1], len),
                thread.slice_mut::<i16>(self.params[2], len),
                thread.slice_mut::<i16>(self.params[3], len),
            )
        };
        params::decode(kernels, w.scale(), rho * w.k() + start, scale);
        params::decode(kernels, w.zero(), rho * w.k() + start, zero);
        let max_q = w.bits().max_q();
        // SAFETY: a table is only handed out where the CPU has its features.
        let step = unsafe { (kernels.params_i16)(max_q, scale, zero, scale_i16, zero_i16) };
        let to_units = if step > 0.0 { 1.0 / step } else { 0.0 };
        for (slot, row) in slots.iter().zip(tile) {
            let units = units(w, slot.unit_row, slot.part, rho * w.k() + start, len);
            // SAFETY: a table is only handed out where the CPU has its features.
            unsafe {
                if w.bits() == Bits::B8 {
                    // A scale of 1/255 of the range would be rounded too far as an integer.
                    (kernels.fill_round)(units, scale, zero, to_units, &mut row[..len]);
                } else {
                    (kernels.fill_i16)(units, scale_i16, zero_i16, &mut row[..len]);
                }
            }
        }
        step
    }

    fn fill_f32(
        &self,
        kernels: &Kernels,
        w: &QMatrix<'_>,
        slots: &[Slot],
        thread: Space<'_>,
        (start, len): (usize, usize),
        tile: &mut TileF32,
    ) {
        // SAFETY: `thread` is this call's, and the ranges are apart.
        let (scale, zero) = unsafe {
            (
                thread.slice_mut::<f32>(self.params[0], len),
                thread.slice_mut::<f32>(self.params[1], len),
            )
        };
        let Some(group_rows) = w.group_rows() else {
            for (slot, row) in slots.iter().zip(tile) {
                fill_row(kernels, w, slot.out, start, scale, zero, &mut row[..len]);
            }
            return;
        };
        let at = slots[0].out % group_rows * w.k() + start;
        params::decode(kernels, w.scale(), at, scale);
        params::decode(kernels, w.zero(), at, zero);
        for (slot, row) in slots.iter().zip(tile) {
            let units = units(w, slot.unit_row, slot.part, at, len);
            // SAFETY: a table is only handed out where the CPU has its features.
            unsafe { (kernels.fill_f32)(units, scale, zero, &mut row[..len]) };
        }
    }
}

/// Clears what a tile holds beyond its rows and columns, up to the padded size.
fn pad<T: Copy, const N: usize>(
    tile: &mut [[T; N]; TILE],
    rows: usize,
    padded_rows: usize,
    len: usize,
    padded_len: usize,
    zero: T,
) {
    for row in &mut tile[..rows] {
        row[len..padded_len].fill(zero);
    }
    for row in &mut tile[rows..padded_rows] {
        row[..padded_len].fill(zero);
    }
}

/// The units of groups `first..first + len` in a packed row.
fn units<'a>(w: &QMatrix<'a>, unit_row: usize, part: usize, first: usize, len: usize) -> Units<'a> {
    let size = w.bits().unit_bytes();
    let at = (unit_row * w.n_groups() + first) * size;
    Units {
        bits: w.bits(),
        bytes: &w.w_q()[at..at + len * size],
        part,
    }
}

/// Dequantizes `out.len()` columns of a row of any layout; `scale` and `zero` are work space as
/// long.
fn fill_row(
    kernels: &Kernels,
    w: &QMatrix<'_>,
    row: usize,
    start: usize,
    scale: &mut [f32],
    zero: &mut [f32],
    out: &mut [f32],
) {
    let (groups, rows) = (w.n_groups(), w.bits().packed_rows(w.group_size()));
    let mut done = 0;
    while done < out.len() {
        let i = row * w.k() + start + done;
        let (view_row, c) = (i / groups, i % groups);
        let len = (groups - c).min(out.len() - done);
        let (scale, zero) = (&mut scale[..len], &mut zero[..len]);
        params::decode(kernels, w.scale(), c, scale);
        params::decode(kernels, w.zero(), c, zero);
        let units = units(w, view_row % rows, view_row / rows, c, len);
        // SAFETY: a table is only handed out where the CPU has its features.
        unsafe { (kernels.fill_f32)(units, scale, zero, &mut out[done..done + len]) };
        done += len;
    }
}

/// The whole matrix in f32, `(n, k)` row-major, equal to [`QMatrix::weight`] to the bit.
///
/// # Panics
/// If `out` is not `n * k` long.
pub fn dequantize(w: &QMatrix<'_>, out: &mut [f32]) {
    assert_eq!(
        out.len(),
        w.n() * w.k(),
        "BUG: dequantize: out is not ({}, {})",
        w.n(),
        w.k()
    );
    dequantize_rows(w, 0, out);
}

/// Some rows of the matrix in f32, from `first_row` on: as many as `out`, `(rows, k)` row-major,
/// has room for.
///
/// # Panics
/// If `out` is not a number of whole rows that the matrix has.
pub fn dequantize_rows(w: &QMatrix<'_>, first_row: usize, out: &mut [f32]) {
    let rows = out.len() / w.k();
    assert!(
        out.len().is_multiple_of(w.k()) && first_row + rows <= w.n(),
        "BUG: dequantize: {} values are no rows of ({}, {}) from {first_row} on",
        out.len(),
        w.n(),
        w.k()
    );
    let kernels = Kernels::best();
    let mut buffers = [[0f32; KB_F32]; 2];
    let [scale, zero] = &mut buffers;
    for (row, out) in out.chunks_mut(w.k()).enumerate() {
        for (block, out) in out.chunks_mut(KB_F32).enumerate() {
            fill_row(
                kernels,
                w,
                first_row + row,
                block * KB_F32,
                scale,
                zero,
                out,
            );
        }
    }
}

impl Matrix<'_> {
    /// The weights of some rows in f32, from `first_row` on: as many as `out`, `(rows, k)`
    /// row-major, has room for.
    ///
    /// # Panics
    /// If `out` is not a number of whole rows that the matrix has.
    pub fn dequantize_rows(&self, first_row: usize, out: &mut [f32]) {
        match self {
            Self::Hqq(w) => dequantize_rows(w, first_row, out),
            Self::Blocks(w) => w.dequantize_rows(first_row, out),
        }
    }
}
