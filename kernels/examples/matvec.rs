//! A matrix of 8-bit blocks, as a GGUF file has it, times a vector:
//!
//! ```text
//! cargo run --release -p octet-kernels --example matvec
//! ```

use octet_kernels::{
    BlockError, BlockMatrix, BlockType, Job, Matrix, Pool, Precision, Scratch, matmul,
};

/// Rows and columns.
const SHAPE: (usize, usize) = (4, 64);

fn main() -> Result<(), BlockError> {
    // A block of Q8_0 is a scale in f16, here 1, and 32 values: row `n` holds `n + 1` everywhere.
    let block = |row: usize| [0x00, 0x3c].into_iter().chain([row as u8 + 1; 32]);
    let bytes: Vec<u8> = (0..SHAPE.0)
        .flat_map(|row| (0..SHAPE.1 / 32).flat_map(move |_| block(row)))
        .collect();
    let w = Matrix::Blocks(BlockMatrix::new(BlockType::Q8_0, SHAPE, &bytes)?);

    let x = [0.5; SHAPE.1];
    let mut y = [0.0; SHAPE.0];
    let (pool, mut scratch) = (Pool::new(2), Scratch::default());
    let job = Job {
        w,
        x: &x,
        y: &mut y,
    };
    matmul(&pool, &mut scratch, Precision::Fast, &mut [job]);

    println!("{} computes {y:?}", octet_kernels::features());
    for (row, y) in y.iter().enumerate() {
        assert!((y - 32.0 * (row + 1) as f32).abs() < 0.5);
    }
    Ok(())
}
