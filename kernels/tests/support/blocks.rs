//! Random matrices of blocks.

use half::f16;
use octet_kernels::{BlockMatrix, BlockType};

use super::Rng;

/// A block matrix that owns its bytes, which begin at an odd address.
#[derive(Debug, Clone)]
pub struct Blocks {
    pub kind: BlockType,
    pub n: usize,
    pub k: usize,
    bytes: Vec<u8>,
}

/// Where a block has f16 numbers, which random bytes would make infinite.
fn half_fields(kind: BlockType) -> &'static [usize] {
    match kind {
        BlockType::F32 | BlockType::F16 | BlockType::BF16 | BlockType::MXFP4 => &[],
        BlockType::Q4_K | BlockType::Q5_K | BlockType::Q4_1 | BlockType::Q5_1 => &[0, 2],
        BlockType::Q2_K => &[80, 82],
        BlockType::Q3_K => &[108],
        BlockType::Q6_K => &[208],
        _ => &[0],
    }
}

impl Blocks {
    /// Any legal bytes, scales up to `most` in magnitude.
    pub fn random(rng: &mut Rng, kind: BlockType, (n, k): (usize, usize), most: f32) -> Self {
        let block = kind.block_bytes();
        let mut bytes = vec![0];
        bytes.extend(rng.bytes(n * k / kind.block_len() * block));
        for block in bytes[1..].chunks_mut(block) {
            for &at in half_fields(kind) {
                let d = f16::from_f32(rng.range(-most, most));
                block[at..at + 2].copy_from_slice(&d.to_le_bytes());
            }
            let value = most * rng.normal();
            match kind {
                BlockType::F32 => block.copy_from_slice(&value.to_le_bytes()),
                BlockType::F16 => block.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                BlockType::BF16 => block.copy_from_slice(&value.to_le_bytes()[2..]),
                BlockType::MXFP4 => block[0] = 110 + block[0] % 20,
                _ => {}
            }
        }
        Self { kind, n, k, bytes }
    }

    pub fn matrix(&self) -> BlockMatrix<'_> {
        BlockMatrix::new(self.kind, (self.n, self.k), &self.bytes[1..]).expect("a legal matrix")
    }

    /// All weights.
    pub fn weights(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.n * self.k];
        self.matrix().dequantize_rows(0, &mut all);
        all
    }
}
