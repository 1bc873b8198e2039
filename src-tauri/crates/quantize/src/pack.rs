//! HQQ's packing of quantized values, as the file holds it.
//!
//! The values of a matrix are `group_size` rows by `n_groups` columns. They are cut into
//! [`Bits::per_unit`] parts of `packed_rows` rows each; the unit (a byte, or an `i32` for 3 bits) at
//! `(row, column)` holds that place of every part, the first part in the highest bits. For 3 bits
//! the rows are first padded with zeros to a multiple of ten.
//!
//! Source: `BitPack` of mobiusml/hqq.

use octet_kernels::Bits;

/// Bytes of `n_groups` packed groups.
pub fn packed_bytes(bits: Bits, group_size: usize, n_groups: usize) -> usize {
    bits.packed_rows(group_size) * n_groups * bits.unit_bytes()
}

/// Packs `q`, row-major `(group_size, n_groups)`, each value at most [`Bits::max_q`].
///
/// # Panics
/// If the length of `q` is no multiple of `group_size`, or `group_size` fills no whole units
/// ([`check_spec`](crate::hqq::check_spec) tells beforehand).
pub fn pack(q: &[u8], bits: Bits, group_size: usize) -> Vec<u8> {
    assert!(
        q.len().is_multiple_of(group_size),
        "{} values in groups of {group_size}",
        q.len()
    );
    let n_groups = q.len() / group_size;
    let mut packed = vec![0; packed_bytes(bits, group_size, n_groups)];
    pack_columns(q, bits, n_groups, 0..n_groups, &mut packed);
    packed
}

/// Packs the groups `columns` of `n_groups` into `packed`, which holds the whole matrix. `q` is
/// row-major `(group_size, columns.len())`.
pub(crate) fn pack_columns(
    q: &[u8],
    bits: Bits,
    n_groups: usize,
    columns: std::ops::Range<usize>,
    packed: &mut [u8],
) {
    let width = columns.len();
    let group_size = q.len() / width;
    let rows = bits.packed_rows(group_size);
    assert!(
        bits == Bits::B3 || group_size.is_multiple_of(bits.per_unit()),
        "groups of {group_size} in whole units"
    );
    let row_of = |part: usize, row: usize| {
        let view_row = part * rows + row;
        (view_row < group_size).then(|| &q[view_row * width..][..width])
    };
    for row in 0..rows {
        let at = (row * n_groups + columns.start) * bits.unit_bytes();
        let out = &mut packed[at..][..width * bits.unit_bytes()];
        match bits {
            Bits::B3 => pack_row_3bit(out, |part| row_of(part, row)),
            _ => pack_row(out, bits, |part| row_of(part, row)),
        }
    }
}

fn pack_row<'q>(out: &mut [u8], bits: Bits, row_of: impl Fn(usize) -> Option<&'q [u8]>) {
    out.fill(0);
    for part in 0..bits.per_unit() {
        let shift = 8 - bits.count() as usize * (part + 1);
        for (unit, &q) in out.iter_mut().zip(row_of(part).unwrap_or_default()) {
            *unit |= q << shift;
        }
    }
}

fn pack_row_3bit<'q>(out: &mut [u8], row_of: impl Fn(usize) -> Option<&'q [u8]>) {
    let rows: [&[u8]; 10] = std::array::from_fn(|part| row_of(part).unwrap_or_default());
    for (column, unit) in out.chunks_exact_mut(4).enumerate() {
        let value = rows.iter().fold(0u32, |value, row| {
            value << 3 | u32::from(row.get(column).copied().unwrap_or(0))
        });
        unit.copy_from_slice(&value.to_le_bytes());
    }
}

/// The values that [`pack`] packed, row-major `(group_size, n_groups)`.
///
/// # Panics
/// If `packed` is not [`packed_bytes`] long.
pub fn unpack(packed: &[u8], bits: Bits, group_size: usize, n_groups: usize) -> Vec<u8> {
    assert_eq!(
        packed.len(),
        packed_bytes(bits, group_size, n_groups),
        "bytes of {n_groups} groups of {group_size}"
    );
    let rows = bits.packed_rows(group_size);
    let unit_bits = 3 * 10 * usize::from(bits == Bits::B3) + 8 * usize::from(bits != Bits::B3);
    (0..group_size * n_groups)
        .map(|i| {
            let (view_row, column) = (i / n_groups, i % n_groups);
            let (part, row) = (view_row / rows, view_row % rows);
            let at = (row * n_groups + column) * bits.unit_bytes();
            let unit = packed[at..][..bits.unit_bytes()]
                .iter()
                .rev()
                .fold(0u32, |unit, &byte| unit << 8 | u32::from(byte));
            let shift = unit_bits - bits.count() as usize * (part + 1);
            (unit >> shift & bits.max_q()) as u8
        })
        .collect()
}
