//! Matrices and vectors on a GPU: that of the fake CUDA driver, or a real one where
//! `OCTET_TEST_REAL_GPU` is set.
#![allow(dead_code)] // every test uses its own part

use std::sync::Arc;

use octet_kernels::cuda::{Buffer, DeviceMatrix, Gpu, Moment, Ops, Placement, Reuse, Stream};
use octet_kernels::{GroupParam, QMatrix};

use crate::support::{Packed, Param};

/// A GPU with the kernels, for one test at a time.
pub struct TestGpu {
    pub ops: Ops,
    pub stream: Stream,
    pub device: Arc<Gpu>,
    _driver: octet_test_cuda::Driver, // last: the rest calls it when dropped
}

impl TestGpu {
    /// `None`, having said why, where there is no driver.
    pub fn new() -> Option<Self> {
        let driver = octet_test_cuda::driver()?;
        let device = Gpu::open("").expect("a GPU");
        Some(Self {
            ops: Ops::new(&device).expect("the kernels"),
            stream: Stream::new(&device).expect("a stream"),
            device,
            _driver: driver,
        })
    }

    pub fn f32(&self, values: &[f32]) -> Buffer {
        Buffer::of(&self.device, "values", values).expect("memory")
    }

    pub fn u16(&self, values: &[u16]) -> Buffer {
        Buffer::of(&self.device, "values", values).expect("memory")
    }

    pub fn i32(&self, values: &[i32]) -> Buffer {
        Buffer::of(&self.device, "values", values).expect("memory")
    }

    /// A pass whose first token is at `position`.
    pub fn moment(&self, position: usize, reuse: Reuse) -> Buffer {
        let moment = Moment::new(position, reuse);
        Buffer::of(&self.device, "a moment", &[moment]).expect("memory")
    }

    /// What all kernels so far have made of `buffer`.
    pub fn read_f32(&self, buffer: &Buffer) -> Vec<f32> {
        let mut values = vec![0.0; buffer.bytes() / 4];
        buffer.read(0, &mut values).expect("kernels that ran");
        values
    }

    pub fn read_u16(&self, buffer: &Buffer) -> Vec<u16> {
        let mut values = vec![0; buffer.bytes() / 2];
        buffer.read(0, &mut values).expect("kernels that ran");
        values
    }

    /// A matrix on the GPU, and the memory that it lies in, as from a file whose arrays start
    /// wherever they happen to.
    pub fn matrix(&self, w: &Packed) -> (Buffer, DeviceMatrix) {
        let mut source = vec![0xaa; 6];
        let mut put = |bytes: &[u8]| {
            let start = source.len();
            source.extend_from_slice(bytes);
            start..source.len()
        };
        let mut param = |p: &Param| match p {
            Param::Plain(v) => (put(v), None),
            Param::Quantized { q, scale, zero } => (put(q), Some((put(scale), put(zero)))),
        };
        let (scale, zero) = (param(&w.scale), param(&w.zero));
        let w_q = put(&w.w_q);
        let borrow = |(first, meta): &(_, Option<(_, _)>)| {
            let at = |r: &std::ops::Range<usize>| &source[r.clone()];
            match meta {
                None => GroupParam::Plain(at(first)),
                Some((scale, zero)) => GroupParam::Quantized {
                    q: at(first),
                    scale: at(scale),
                    zero: at(zero),
                },
            }
        };
        let matrix = QMatrix::new(
            (w.n, w.k),
            w.bits,
            w.group_size,
            &source[w_q],
            borrow(&scale),
            borrow(&zero),
        )
        .expect("a legal matrix");
        let (placement, _) = Placement::of(&source, [matrix], 0);
        let mut buffer = Buffer::new(&self.device, "a matrix", placement.bytes).expect("memory");
        let (placement, [device]) =
            Placement::of(&source, [matrix], buffer.slice::<u8>().address());
        for (from, to) in placement.copies {
            buffer.write(to, &source[from]).expect("memory");
        }
        (buffer, device)
    }
}
