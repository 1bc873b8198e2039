//! Where matrices lie on the GPU: descriptors as the kernels read them, and the layout of copies.

use std::ops::Range;

use super::device::Plain;
use crate::layout::{Bits, GroupParam, QMatrix};

/// What the kernels' vector loads need of packed arrays.
const ALIGN: usize = 16;

/// `Param` of `octet.cuh`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
struct Param {
    q: u64,
    scale: u64,
    zero: u64,
    m: i32,
    unused: i32,
}

/// One HQQ matrix on the GPU: `Matrix` of `octet.cuh`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceMatrix {
    w_q: u64,
    scale: Param,
    zero: Param,
    n: i32,
    k: i32,
    bits: i32,
    group_size: i32,
    n_groups: i32,
    packed_rows: i32,
}

/// One expert on the GPU: `Expert` of `octet.cuh`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceExpert {
    /// Gate projection, (intermediate, hidden).
    pub w1: DeviceMatrix,
    /// Down projection, (hidden, intermediate).
    pub w2: DeviceMatrix,
    /// Up projection, (intermediate, hidden).
    pub w3: DeviceMatrix,
}

const _: () = assert!(size_of::<DeviceMatrix>() == 96 && size_of::<DeviceExpert>() == 288);

// SAFETY: numbers; the sizes above leave no padding.
unsafe impl Plain for DeviceMatrix {}
// SAFETY: as above.
unsafe impl Plain for DeviceExpert {}

impl DeviceMatrix {
    /// Rows.
    pub fn n(&self) -> usize {
        self.n as usize
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k as usize
    }

    /// Bits a weight.
    pub fn bits(&self) -> Bits {
        match self.bits {
            2 => Bits::B2,
            3 => Bits::B3,
            4 => Bits::B4,
            _ => Bits::B8,
        }
    }

    /// Tiles of 16 rows in a group.
    pub(super) fn tiles_in_group(&self) -> usize {
        (self.group_size as usize).div_ceil(16)
    }

    /// Tiles of 16 rows, a block each in a product with one token.
    pub(super) fn tiles(&self) -> u32 {
        let (n, group) = (self.n as u32, self.group_size as u32);
        n / group * group.div_ceil(16)
    }

    /// Group rows, `n / group_size`.
    pub(super) fn group_rows(&self) -> i32 {
        self.n / self.group_size
    }

    /// Whether the fast kernels for one token can take it: groups that line up with rows in
    /// tiles of 16, columns in sixteens, parameters that can be loaded four at a time.
    pub fn is_regular(&self) -> bool {
        let fours = |p: &Param| p.m == 1 || p.m % 4 == 0;
        self.n % self.group_size == 0
            && self.group_size % 16 == 0
            && self.k % 16 == 0
            && fours(&self.scale)
            && fours(&self.zero)
    }

    /// Whether the tensor-core product for many tokens can take it.
    pub fn is_regular_in_prefill(&self) -> bool {
        self.is_regular() && self.k % 32 == 0
    }
}

/// How host arrays are copied so that the GPU finds each aligned: few long copies rather than
/// one an array, since neighbours in a file mostly share their alignment.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Copies: a range of the source, and where it goes.
    pub copies: Vec<(Range<usize>, usize)>,
    /// Bytes taken on the GPU.
    pub bytes: usize,
}

impl Placement {
    /// Bytes that the placement of one expert may take beyond the expert's own.
    pub const EXPERT_SLACK: usize = 21 * ALIGN;

    /// The placement of `matrices`, whose arrays all lie in `source`, and where each lies behind
    /// the address `base` (aligned to 16).
    pub fn of<const N: usize>(
        source: &[u8],
        matrices: [QMatrix<'_>; N],
        base: u64,
    ) -> (Self, [DeviceMatrix; N]) {
        let offset = |array: &[u8]| array.as_ptr() as usize - source.as_ptr() as usize;
        let mut arrays: Vec<(usize, usize, usize)> = matrices
            .iter()
            .flat_map(arrays)
            .map(|(array, align)| (offset(array), array.len(), align))
            .collect();
        arrays.sort_unstable();
        let mut copies: Vec<(Range<usize>, usize)> = Vec::new();
        let mut places = Vec::with_capacity(arrays.len());
        let mut end = 0usize;
        for (start, len, align) in arrays {
            let near = copies.last_mut().filter(|(range, to)| {
                let at = to.wrapping_add(start - range.start);
                start >= range.start && start - range.end.min(start) < ALIGN && at % align == 0
            });
            let at = match near {
                Some((range, to)) => {
                    range.end = range.end.max(start + len);
                    *to + (start - range.start)
                }
                None => {
                    // Even phase is kept where none is asked for: f16 arrays stay aligned.
                    let at = end.next_multiple_of(ALIGN);
                    copies.push((start..start + len, at));
                    at
                }
            };
            end = end.max(at + len);
            places.push((start, at));
        }
        let address = |array: &[u8]| {
            let start = offset(array);
            let i = places.partition_point(|(from, _)| *from < start);
            base + places[i].1 as u64
        };
        let described = matrices.map(|m| describe(&m, &address));
        (Self { copies, bytes: end }, described)
    }
}

/// The arrays of a matrix, each with the alignment that the GPU needs.
fn arrays<'a>(m: &QMatrix<'a>) -> Vec<(&'a [u8], usize)> {
    let mut arrays = vec![(m.w_q(), ALIGN)];
    for param in [m.scale(), m.zero()] {
        match param {
            GroupParam::Plain(v) => arrays.push((v, 2)),
            GroupParam::Quantized { q, scale, zero } => {
                arrays.extend([(q, ALIGN), (scale, 2), (zero, 2)]);
            }
        }
    }
    arrays
}

fn describe(m: &QMatrix<'_>, address: &impl Fn(&[u8]) -> u64) -> DeviceMatrix {
    let param = |p: GroupParam<'_>| match p {
        GroupParam::Plain(v) => Param {
            q: 0,
            scale: address(v),
            zero: 0,
            m: (v.len() / 2) as i32,
            unused: 0,
        },
        GroupParam::Quantized { q, scale, zero } => Param {
            q: address(q),
            scale: address(scale),
            zero: address(zero),
            m: (scale.len() / 2) as i32,
            unused: 0,
        },
    };
    DeviceMatrix {
        w_q: address(m.w_q()),
        scale: param(m.scale()),
        zero: param(m.zero()),
        n: m.n() as i32,
        k: m.k() as i32,
        bits: m.bits().count() as i32,
        group_size: m.group_size() as i32,
        n_groups: m.n_groups() as i32,
        packed_rows: m.bits().packed_rows(m.group_size()) as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An expert's arrays in one file, in the order given, lie aligned and hold the same bytes.
    #[test]
    fn arrays_lie_aligned_and_neighbours_are_copied_together() {
        for lead in [0, 2, 6, 10] {
            // f16 values first, then bytes, as safetensors sorts them; odd phases by `lead`.
            let (n, k, g) = (32, 64, 16);
            let groups = n * k / g;
            let mut source = vec![0u8; lead];
            let mut put = |len: usize, tag: u8| {
                let start = source.len();
                source.extend((0..len).map(|i| tag.wrapping_add(i as u8)));
                start..start + len
            };
            let (ms, mz) = (put(2, 1), put(2, 2));
            let (zs, zz) = (put(2, 3), put(2, 4));
            let w_q = put(4 * groups, 5);
            let sq = put(groups, 6);
            let zq = put(groups, 7);
            let at = |r: &Range<usize>| &source[r.clone()];
            let matrix = QMatrix::new(
                (n, k),
                Bits::B2,
                g,
                at(&w_q),
                GroupParam::Quantized {
                    q: at(&sq),
                    scale: at(&ms),
                    zero: at(&mz),
                },
                GroupParam::Quantized {
                    q: at(&zq),
                    scale: at(&zs),
                    zero: at(&zz),
                },
            )
            .expect("a legal matrix");
            let (placement, [device]) = Placement::of(&source, [matrix], 1 << 20);
            let mut vram = vec![0xee; placement.bytes];
            for (range, to) in &placement.copies {
                vram[*to..to + range.len()].copy_from_slice(&source[range.clone()]);
            }
            // The f16 values in one, the bytes in another.
            assert_eq!(placement.copies.len(), 2, "{:?}", placement.copies);
            assert!(placement.bytes <= source.len() + Placement::EXPERT_SLACK);
            let there = |address: u64, len: usize| {
                let at = (address - (1 << 20)) as usize;
                &vram[at..at + len]
            };
            for (address, from) in [
                (device.w_q, &w_q),
                (device.scale.q, &sq),
                (device.zero.q, &zq),
            ] {
                assert_eq!(address % 16, 0);
                assert_eq!(there(address, from.len()), at(from));
            }
            for (address, from) in [(device.scale.scale, &ms), (device.zero.zero, &zz)] {
                assert_eq!(address % 2, 0);
                assert_eq!(there(address, 2), at(from));
            }
        }
    }
}
