//! The kernels, one method each: lengths are checked, then the launch is put on a stream.
//!
//! What each computes, and how exactly, is said on top of its source in `kernels/cuda`. Vectors
//! and matrices are f32 and row-major unless said otherwise; `t` is the number of tokens.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys;

use super::device::{Gpu, Slice, Stream};
use super::error::CudaError;
use super::jobs::{
    AttentionShape, FlashAttention, PickedExperts, RawRouterJob, RmsNorm, RopeAppend, Routing,
    Rows, SplitAttention,
};
use super::matrix::DeviceMatrix;
use crate::layout::Bits;

/// Threads of a block, unless a kernel says otherwise.
const BLOCK: u32 = 256;
/// Threads for a row to norm: `ROW_THREADS` of `norm.cuh`.
const ROW_BLOCK: u32 = 512;
/// Group rows and tokens of a tile of the tensor-core product, and of the wide one.
const GEMM_TILE: (usize, usize) = (4, 64);
const GEMM_WIDE_TILE: (usize, usize) = (8, 128);

macro_rules! functions {
    ($($file:literal: $($name:ident),+;)+) => {
        /// The sources, compiled.
        const MODULES: &[&str] = &[$(include_str!(concat!("../../cuda/", $file, ".ptx"))),+];

        struct Functions {
            $($($name: sys::CUfunction),+),+
        }

        impl Functions {
            /// Of `modules`, in the order of [`MODULES`].
            fn find(modules: &[Module]) -> Result<Self, CudaError> {
                let mut modules = modules.iter();
                $(
                    let module = modules.next().expect("BUG: a module a file");
                    $(let $name = module.find(stringify!($name))?;)+
                )+
                Ok(Self { $($($name),+),+ })
            }
        }
    };
}

functions! {
    "elementwise": rms_norm, rope_append, silu_mul, add_scaled;
    "matvec": matvec_b2, matvec_b3, matvec_b4, matvec_b8, matvec_any;
    "experts":
        expert_gate_up_b2, expert_gate_up_b3, expert_gate_up_b4, expert_gate_up_b8,
        expert_down_b2, expert_down_b3, expert_down_b4, expert_down_b8;
    "attention": attention, attention_combine;
    "router": router;
    "head": head_q8, head_f16;
    "gemm":
        rows_to_f16, silu_mul_rows, gemm_b2, gemm_b3, gemm_b4, gemm_b8,
        gemm_wide_b2, gemm_wide_b3, gemm_wide_b4, gemm_wide_b8;
    "flash": flash_64, flash_128;
}

/// The arguments of a launch, as the driver takes them; each lives to the end of the statement.
macro_rules! args {
    ($($arg:expr),+ $(,)?) => {
        &mut [$(std::ptr::from_ref(&$arg).cast_mut().cast::<c_void>()),+]
    };
}

/// The function of a family for a number of bits.
macro_rules! by_bits {
    ($functions:expr, $bits:expr, $b2:ident, $b3:ident, $b4:ident, $b8:ident) => {
        match $bits {
            Bits::B2 => $functions.$b2,
            Bits::B3 => $functions.$b3,
            Bits::B4 => $functions.$b4,
            Bits::B8 => $functions.$b8,
        }
    };
}

struct Module {
    gpu: Arc<Gpu>,
    raw: sys::CUmodule,
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: loaded in `Ops::new`; streams wait for their work before they end.
            let _ = unsafe { result::module::unload(self.raw) };
        }
    }
}

impl Module {
    fn find(&self, name: &str) -> Result<sys::CUfunction, CudaError> {
        let name = CString::new(name).expect("BUG: a kernel's name has no zero byte");
        // SAFETY: the module is loaded.
        unsafe { result::module::get_function(self.raw, name) }
            .map_err(CudaError::of("finding a kernel"))
    }
}

fn address<T>(slice: Option<Slice<'_, T>>) -> u64 {
    slice.map_or(0, |slice| slice.address())
}

/// The kernels of a GPU.
pub struct Ops {
    functions: Functions,
    multiprocessors: u32,
    /// Holds what `functions` point into.
    _modules: Vec<Module>,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Ops {}
// SAFETY: as above.
unsafe impl Sync for Ops {}

impl Ops {
    /// Loads the kernels. The driver compiles them for the GPU once and keeps the result.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        gpu.bind()?;
        let modules = MODULES
            .iter()
            .map(|ptx| {
                let image = CString::new(*ptx).expect("BUG: PTX is text");
                // SAFETY: PTX, ended by a zero.
                let raw = unsafe { result::module::load_data(image.as_ptr().cast()) }
                    .map_err(CudaError::of_allocation("the kernels", ptx.len()))?;
                let gpu = Arc::clone(gpu);
                Ok(Module { gpu, raw })
            })
            .collect::<Result<Vec<_>, CudaError>>()?;
        Ok(Self {
            functions: Functions::find(&modules)?,
            multiprocessors: gpu.multiprocessors()?,
            _modules: modules,
        })
    }

    /// Norms rows.
    ///
    /// # Errors
    /// What the driver reports; so for all kernels.
    ///
    /// # Panics
    /// If a slice is too short; so do all kernels.
    pub fn rms_norm(&self, stream: &Stream, norm: RmsNorm<'_>) -> Result<(), CudaError> {
        let RmsNorm {
            t,
            x,
            w,
            eps,
            y,
            amax,
            clear,
        } = norm;
        let width = w.len();
        let (x, y) = (x.at_least(t * width), y.at_least(t * width));
        let n_clear = clear.map_or(0, |c| c.len()) as i32;
        let amax = amax.map_or(0, |a| a.at_least(t));
        launch(
            stream,
            self.functions.rms_norm,
            (t as u32, 1, 1),
            ROW_BLOCK,
            args![
                x,
                w.address(),
                y,
                amax,
                address(clear),
                n_clear,
                width as i32,
                eps
            ],
        )
    }

    /// Products of one token with up to three regular matrices of the same bits and columns;
    /// `amax` is the largest magnitude of `x`.
    pub fn matvec(
        &self,
        stream: &Stream,
        products: &[(DeviceMatrix, Slice<'_, f32>)],
        x: Slice<'_, f32>,
        amax: Slice<'_, f32>,
        add: bool,
    ) -> Result<(), CudaError> {
        let (mut w, mut y) = ([DeviceMatrix::default(); 3], [0; 3]);
        for (i, (matrix, out)) in products.iter().enumerate() {
            assert!(matrix.is_regular(), "BUG: an irregular matrix");
            (w[i], y[i]) = (*matrix, out.at_least(matrix.n()));
        }
        let first = products[0].0;
        let same = |(m, _): &(DeviceMatrix, Slice<'_, f32>)| {
            m.bits() == first.bits() && m.k() == first.k()
        };
        assert!(
            products.iter().all(same),
            "BUG: matrices of different kinds"
        );
        let blocks = products.iter().map(|(m, _)| m.tiles()).sum();
        let function = by_bits!(
            self.functions,
            first.bits(),
            matvec_b2,
            matvec_b3,
            matvec_b4,
            matvec_b8
        );
        launch(
            stream,
            function,
            (blocks, 1, 1),
            BLOCK,
            args![
                w[0],
                w[1],
                w[2],
                products.len() as i32,
                x.at_least(first.k()),
                amax.at_least(1),
                y[0],
                y[1],
                y[2],
                i32::from(add)
            ],
        )
    }

    /// The product with a matrix of any layout, in f32: slow, and exact.
    pub fn matvec_any(
        &self,
        stream: &Stream,
        w: DeviceMatrix,
        x: Slice<'_, f32>,
        y: Slice<'_, f32>,
        rows: Rows<'_>,
    ) -> Result<(), CudaError> {
        rows.check();
        let in_order = |map: Option<Slice<'_, i32>>| if map.is_none() { rows.t } else { 1 };
        launch(
            stream,
            self.functions.matvec_any,
            (w.n().div_ceil(8) as u32, rows.t as u32, 1),
            BLOCK,
            args![
                w,
                x.at_least(in_order(rows.gather) * w.k()),
                address(rows.gather),
                address(rows.scatter),
                address(rows.weights),
                y.at_least(in_order(rows.scatter) * w.n()),
                rows.t as i32,
                i32::from(rows.add)
            ],
        )
    }

    /// Rotates queries in place and keys on their way into the cache, where values go too, from the
    /// position of `moment` on.
    pub fn rope_append(&self, stream: &Stream, tokens: RopeAppend<'_>) -> Result<(), CudaError> {
        let RopeAppend {
            shape,
            t,
            moment,
            qkv: (q, k, v),
            angles,
            cache: (keys, values),
        } = tokens;
        let (q_len, kv_len) = (
            t * shape.n_heads * shape.head_dim,
            t * shape.n_kv_heads * shape.head_dim,
        );
        let pairs = ((q_len + 2 * kv_len) / 2) as u32;
        launch(
            stream,
            self.functions.rope_append,
            (pairs.div_ceil(BLOCK), 1, 1),
            BLOCK,
            args![
                q.at_least(q_len),
                k.at_least(kv_len),
                v.at_least(kv_len),
                angles.at_least(t * shape.head_dim),
                keys.at_least(shape.cache_len()),
                values.at_least(shape.cache_len()),
                moment.at_least(1),
                t as i32,
                shape.n_heads as i32,
                shape.n_kv_heads as i32,
                shape.head_dim as i32,
                shape.capacity as i32
            ],
        )
    }

    /// Attention of few tokens.
    pub fn attention(&self, stream: &Stream, job: SplitAttention<'_>) -> Result<(), CudaError> {
        let SplitAttention {
            shape,
            t,
            moment,
            first,
            reach,
            q,
            cache: (keys, values),
            partial,
            out,
            amax,
        } = job;
        let len = t * shape.n_heads * shape.head_dim;
        let splits = AttentionShape::splits(reach);
        let partial = partial.at_least(t * shape.partial_len(reach));
        let moment = moment.at_least(1);
        let heads = (shape.n_heads as i32, shape.head_dim as i32);
        launch(
            stream,
            self.functions.attention,
            (shape.n_kv_heads as u32, splits as u32, t as u32),
            BLOCK,
            args![
                q.at_least(len),
                keys.at_least(shape.cache_len()),
                values.at_least(shape.cache_len()),
                partial,
                moment,
                first as i32,
                heads.0,
                shape.n_kv_heads as i32,
                heads.1,
                shape.capacity as i32,
                shape.window(),
                splits as i32
            ],
        )?;
        launch(
            stream,
            self.functions.attention_combine,
            (shape.n_heads as u32, t as u32, 1),
            128,
            args![
                partial,
                out.at_least(len),
                amax.map_or(0, |a| a.at_least(t)),
                moment,
                first as i32,
                heads.0,
                heads.1,
                splits as i32
            ],
        )
    }

    /// Attention of many tokens, for heads of 64 or 128 values; `false` where there is none for
    /// this shape.
    pub fn flash(&self, stream: &Stream, job: FlashAttention<'_>) -> Result<bool, CudaError> {
        let FlashAttention {
            shape,
            t,
            first,
            q,
            cache: (keys, values),
            out,
        } = job;
        let function = match shape.head_dim {
            64 => self.functions.flash_64,
            128 => self.functions.flash_128,
            _ => return Ok(false),
        };
        let len = t * shape.n_heads * shape.head_dim;
        launch(
            stream,
            function,
            (t.div_ceil(64) as u32, shape.n_heads as u32, 1),
            128,
            args![
                q.at_least(len),
                keys.at_least(shape.cache_len()),
                values.at_least(shape.cache_len()),
                out.at_least(len),
                t as i32,
                shape.n_heads as i32,
                shape.n_kv_heads as i32,
                shape.capacity as i32,
                first as i32,
                shape.window()
            ],
        )?;
        Ok(true)
    }

    /// Routes tokens: norm, product, softmax, the `top_k` best with weights of sum 1.
    pub fn router(&self, stream: &Stream, routing: Routing<'_>) -> Result<(), CudaError> {
        let Routing {
            t,
            hidden,
            eps,
            top_k,
            jobs,
            moment,
        } = routing;
        let mut raw = [RawRouterJob::default(); 2];
        let (mut width, mut n_experts, mut n_jobs) = (0, 0, 0);
        for (raw, job) in raw.iter_mut().zip(jobs.into_iter().flatten()) {
            width = job.norm.len();
            n_experts = job.gate.len() / width;
            n_jobs += 1;
            let keeps = job.previous.is_some() || job.newest.is_some();
            assert!(t == 1 || !keeps, "BUG: several tokens after one");
            assert!(
                moment.is_some() || job.previous.is_none(),
                "BUG: a token before, and nothing said of this one"
            );
            *raw = RawRouterJob {
                norm: job.norm.address(),
                gate: job.gate.address(),
                normed: job.normed.map_or(0, |(n, _)| n.at_least(t * width)),
                amax: job.normed.map_or(0, |(_, a)| a.at_least(t)),
                ids: job.ids.at_least(t * top_k),
                weights: job.weights.at_least(t * top_k),
                previous: job.previous.map_or(0, |p| p.at_least(top_k)),
                newest: job.newest.map_or(0, |n| n.at_least(top_k)),
                clear: address(job.clear),
                n_clear: job.clear.map_or(0, |c| c.len()) as i32,
                layer: job.layer as i32,
            };
        }
        launch(
            stream,
            self.functions.router,
            (t as u32, n_jobs, 1),
            ROW_BLOCK,
            args![
                raw[0],
                raw[1],
                hidden.at_least(t * width),
                width as i32,
                eps,
                n_experts as i32,
                top_k as i32,
                moment.map_or(0, |s| s.at_least(1))
            ],
        )
    }

    /// `h = silu(w1 x) * (w3 x)` of one token, `(picks, intermediate)`; largest magnitudes are
    /// raised in `h_amax`, `(picks)`.
    pub fn expert_gate_up(
        &self,
        stream: &Stream,
        experts: PickedExperts<'_>,
        (x, amax): (Slice<'_, f32>, Slice<'_, f32>),
        (h, h_amax): (Slice<'_, f32>, Slice<'_, f32>),
    ) -> Result<(), CudaError> {
        let PickedExperts {
            like,
            table,
            picks,
            ids,
            places,
        } = experts;
        let w = like.w1;
        let function = by_bits!(
            self.functions,
            w.bits(),
            expert_gate_up_b2,
            expert_gate_up_b3,
            expert_gate_up_b4,
            expert_gate_up_b8
        );
        launch(
            stream,
            function,
            (w.tiles(), picks.len() as u32, 1),
            BLOCK,
            args![
                table.address(),
                *picks,
                ids.address(),
                places.address(),
                x.at_least(w.k()),
                amax.at_least(1),
                h.at_least(picks.len() * w.n()),
                h_amax.at_least(picks.len()),
                w.group_rows()
            ],
        )
    }

    /// `y += weight * w2 h` of one token, in the experts' order; `weights` are the router's,
    /// `(top_k)`.
    pub fn expert_down(
        &self,
        stream: &Stream,
        experts: PickedExperts<'_>,
        weights: Slice<'_, f32>,
        (h, h_amax): (Slice<'_, f32>, Slice<'_, f32>),
        y: Slice<'_, f32>,
    ) -> Result<(), CudaError> {
        let PickedExperts {
            like,
            table,
            picks,
            ids,
            places,
        } = experts;
        let w = like.w2;
        let function = by_bits!(
            self.functions,
            w.bits(),
            expert_down_b2,
            expert_down_b3,
            expert_down_b4,
            expert_down_b8
        );
        launch(
            stream,
            function,
            (w.tiles(), 1, 1),
            BLOCK,
            args![
                table.address(),
                *picks,
                ids.address(),
                places.address(),
                weights.address(),
                h.at_least(picks.len() * w.k()),
                h_amax.at_least(picks.len()),
                y.at_least(w.n()),
                w.k() as i32
            ],
        )
    }

    /// `gate = silu(gate) * up`; the largest magnitude is raised in `amax`.
    pub fn silu_mul(
        &self,
        stream: &Stream,
        gate: Slice<'_, f32>,
        up: Slice<'_, f32>,
        amax: Option<Slice<'_, f32>>,
    ) -> Result<(), CudaError> {
        let n = gate.len();
        launch(
            stream,
            self.functions.silu_mul,
            ((n as u32).div_ceil(BLOCK), 1, 1),
            BLOCK,
            args![gate.address(), up.at_least(n), address(amax), n as i32],
        )
    }

    /// `y += weight * x`, with the first value of `weight`, or 1.
    pub fn add_scaled(
        &self,
        stream: &Stream,
        y: Slice<'_, f32>,
        x: Slice<'_, f32>,
        weight: Option<Slice<'_, f32>>,
    ) -> Result<(), CudaError> {
        let n = y.len();
        launch(
            stream,
            self.functions.add_scaled,
            ((n as u32).div_ceil(BLOCK), 1, 1),
            BLOCK,
            args![y.address(), x.at_least(n), address(weight), n as i32],
        )
    }

    /// The product of `t` tokens with an output matrix at 8 bits in blocks of 64:
    /// [`Q8Matrix`](crate::Q8Matrix)'s values and scales.
    pub fn head_q8(
        &self,
        stream: &Stream,
        (q, scale): (Slice<'_, i8>, Slice<'_, f32>),
        (n, k): (usize, usize),
        t: usize,
        x: Slice<'_, f32>,
        y: Slice<'_, f32>,
    ) -> Result<(), CudaError> {
        let blocks = k.div_ceil(64);
        launch(
            stream,
            self.functions.head_q8,
            (n.div_ceil(8) as u32, t as u32, 1),
            BLOCK,
            args![
                q.at_least(n * blocks * 64),
                scale.at_least(n * blocks),
                x.at_least(t * k),
                y.at_least(t * n),
                n as i32,
                k as i32
            ],
        )
    }

    /// The same with an f16 matrix.
    pub fn head_f16(
        &self,
        stream: &Stream,
        w: Slice<'_, u16>,
        (n, k): (usize, usize),
        t: usize,
        x: Slice<'_, f32>,
        y: Slice<'_, f32>,
    ) -> Result<(), CudaError> {
        launch(
            stream,
            self.functions.head_f16,
            (n.div_ceil(8) as u32, t as u32, 1),
            BLOCK,
            args![
                w.at_least(n * k),
                x.at_least(t * k),
                y.at_least(t * n),
                n as i32,
                k as i32
            ],
        )
    }

    /// `x = y * scale`, f16 `y`, a power of two for each of the `t` rows.
    pub fn rows_to_f16(
        &self,
        stream: &Stream,
        t: usize,
        width: usize,
        x: Slice<'_, f32>,
        y: Slice<'_, u16>,
        scale: Slice<'_, f32>,
    ) -> Result<(), CudaError> {
        launch(
            stream,
            self.functions.rows_to_f16,
            (t as u32, 1, 1),
            BLOCK,
            args![
                x.at_least(t * width),
                y.at_least(t * width),
                scale.at_least(t),
                width as i32
            ],
        )
    }

    /// `silu(gate) * up` as [`rows_to_f16`](Self::rows_to_f16) gives it.
    pub fn silu_mul_rows(
        &self,
        stream: &Stream,
        (t, width): (usize, usize),
        (gate, up): (Slice<'_, f32>, Slice<'_, f32>),
        (h, scale): (Slice<'_, u16>, Slice<'_, f32>),
    ) -> Result<(), CudaError> {
        launch(
            stream,
            self.functions.silu_mul_rows,
            (t as u32, 1, 1),
            BLOCK,
            args![
                gate.at_least(t * width),
                up.at_least(t * width),
                h.at_least(t * width),
                scale.at_least(t),
                width as i32
            ],
        )
    }

    /// The tensor-core product of many tokens, f16 rows `x` with a `scale` each, with a matrix that
    /// [is regular in prefill](DeviceMatrix::is_regular_in_prefill).
    pub fn gemm(
        &self,
        stream: &Stream,
        w: DeviceMatrix,
        (x, scale): (Slice<'_, u16>, Slice<'_, f32>),
        y: Slice<'_, f32>,
        rows: Rows<'_>,
    ) -> Result<(), CudaError> {
        assert!(w.is_regular_in_prefill(), "BUG: an irregular matrix");
        rows.check();
        let grid = |(group_rows, tokens): (usize, usize)| {
            let down = (w.group_rows() as usize).div_ceil(group_rows) * w.tiles_in_group();
            (down as u32, rows.t.div_ceil(tokens) as u32, 1)
        };
        let (narrow, wide) = (grid(GEMM_TILE), grid(GEMM_WIDE_TILE));
        // Wide tiles load less, where there are tokens to fill them and blocks for most of the GPU.
        let is_wide = rows.t > GEMM_TILE.1 && 2 * wide.0 * wide.1 >= self.multiprocessors;
        let function = if is_wide {
            by_bits!(
                self.functions,
                w.bits(),
                gemm_wide_b2,
                gemm_wide_b3,
                gemm_wide_b4,
                gemm_wide_b8
            )
        } else {
            by_bits!(self.functions, w.bits(), gemm_b2, gemm_b3, gemm_b4, gemm_b8)
        };
        let in_order = |map: Option<Slice<'_, i32>>| if map.is_none() { rows.t } else { 1 };
        launch(
            stream,
            function,
            if is_wide { wide } else { narrow },
            BLOCK,
            args![
                w,
                x.at_least(in_order(rows.gather) * w.k()),
                scale.at_least(in_order(rows.gather)),
                address(rows.gather),
                address(rows.scatter),
                address(rows.weights),
                y.at_least(in_order(rows.scatter) * w.n()),
                rows.t as i32,
                i32::from(rows.add)
            ],
        )
    }
}

fn launch(
    stream: &Stream,
    function: sys::CUfunction,
    grid: (u32, u32, u32),
    block: u32,
    args: &mut [*mut c_void],
) -> Result<(), CudaError> {
    let raw = stream.raw()?;
    // SAFETY: the arguments are those of the kernel's signature, the buffers behind them are long
    // enough, and freeing them waits for the GPU.
    unsafe { result::launch_kernel(function, grid, (block, 1, 1), 0, raw, args) }
        .map_err(CudaError::of("starting a kernel"))
}
