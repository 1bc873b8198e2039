//! What a launch works on: shapes, rows, the experts that were picked. What goes to a kernel by value is laid out
//! as its source says.

use super::device::{Plain, Slice};
use super::matrix::DeviceExpert;

/// The largest number of experts that one token may use on the GPU.
pub const MAX_TOP_K: usize = MAX_PICKS;
/// Experts of one launch.
pub const MAX_PICKS: usize = 8;
/// Splits of the cache that the attention for few tokens aims at: enough blocks for a large GPU.
const SPLITS: usize = 16;
/// Positions of a split, at most.
const SPLIT_LEN: usize = 256;

/// Which experts one launch computes: `Picks` of `octet.cuh`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Picks {
    count: i32,
    j: [i32; MAX_PICKS],
    slot: [i32; MAX_PICKS],
}

impl Picks {
    /// All of the router's `top_k` choices, each in the slot that the table of places says.
    ///
    /// # Panics
    /// If `top_k` is above [`MAX_PICKS`].
    pub fn all(top_k: usize) -> Self {
        let mut picks = Self::default();
        for j in 0..top_k {
            picks.push(j, None);
        }
        picks
    }

    /// Adds the router's choice number `j`, in `slot`.
    ///
    /// # Panics
    /// Beyond [`MAX_PICKS`].
    pub fn push(&mut self, j: usize, slot: Option<usize>) {
        let at = self.count as usize;
        self.j[at] = j as i32;
        self.slot[at] = slot.map_or(-1, |slot| slot as i32);
        self.count += 1;
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Choice and slot of those whose slot was given.
    pub fn in_slots(&self) -> impl Iterator<Item = (usize, usize)> {
        let all = self.j.iter().zip(&self.slot).take(self.len());
        all.filter_map(|(j, slot)| Some((*j as usize, usize::try_from(*slot).ok()?)))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// A bench's imitation of text: choices of the token before that are kept.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Reuse {
    /// The probability that a choice is kept; 0: routing is left alone.
    pub p: f32,
    /// Of the coin.
    pub seed: u32,
}

/// What differs from token to token, for kernels to read on the GPU: `Moment` of `octet.cuh`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Moment {
    position: i32,
    reuse: Reuse,
    unused: u32,
}

// SAFETY: four numbers of 4 bytes.
unsafe impl Plain for Moment {}

impl Moment {
    /// Of a pass whose first token is at `position` of the cache.
    pub fn new(position: usize, reuse: Reuse) -> Self {
        Self {
            position: position as i32,
            reuse,
            unused: 0,
        }
    }
}

/// One router's work in a launch.
#[derive(Clone, Copy)]
pub struct RouterJob<'a> {
    /// The norm in front of the router, `(width)`.
    pub norm: Slice<'a, f32>,
    /// f16 `(n_experts, width)`.
    pub gate: Slice<'a, u16>,
    /// Takes the normed state, `(t, width)`, and its largest magnitudes, `(t)`.
    pub normed: Option<(Slice<'a, f32>, Slice<'a, f32>)>,
    /// Takes the chosen experts, `(t, top_k)`.
    pub ids: Slice<'a, i32>,
    /// Takes their weights, `(t, top_k)`.
    pub weights: Slice<'a, f32>,
    /// The experts of the token before, `(top_k)`, -1 for none; without them none is kept.
    pub previous: Option<Slice<'a, i32>>,
    /// Takes the chosen experts of one token too; may be `previous`.
    pub newest: Option<Slice<'a, i32>>,
    /// Is set to zero.
    pub clear: Option<Slice<'a, f32>>,
    /// Number of the layer.
    pub layer: usize,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct RawRouterJob {
    pub(super) norm: u64,
    pub(super) gate: u64,
    pub(super) normed: u64,
    pub(super) amax: u64,
    pub(super) ids: u64,
    pub(super) weights: u64,
    pub(super) previous: u64,
    pub(super) newest: u64,
    pub(super) clear: u64,
    pub(super) n_clear: i32,
    pub(super) layer: i32,
}

/// The shape of an attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// Positions that the cache has room for.
    pub capacity: usize,
    /// Positions a query sees, itself included.
    pub window: usize,
}

impl AttentionShape {
    pub(super) fn window(&self) -> i32 {
        i32::try_from(self.window).unwrap_or(i32::MAX)
    }

    pub(super) fn cache_len(&self) -> usize {
        self.n_kv_heads * self.capacity * self.head_dim
    }

    /// The most splits of up to `len` positions.
    pub(super) fn splits(len: usize) -> usize {
        SPLITS.max(len.div_ceil(SPLIT_LEN))
    }

    /// Values of the partial results of a token over up to `len` positions.
    pub fn partial_len(&self, len: usize) -> usize {
        self.n_heads * Self::splits(len) * (self.head_dim + 2)
    }
}

/// Rows' root mean square norm: `y = x / rms(x) * w`.
#[derive(Clone, Copy)]
pub struct RmsNorm<'a> {
    /// Rows.
    pub t: usize,
    /// `(t, width)`.
    pub x: Slice<'a, f32>,
    /// `(width)`.
    pub w: Slice<'a, f32>,
    /// Added to the mean square.
    pub eps: f32,
    /// `(t, width)`; may be `x`.
    pub y: Slice<'a, f32>,
    /// Takes the largest magnitude of each row of `y`, `(t)`.
    pub amax: Option<Slice<'a, f32>>,
    /// Is set to zero.
    pub clear: Option<Slice<'a, f32>>,
}

/// Keys and values of a layer, f16 `(n_kv_heads, capacity, head_dim)` each.
pub type Cache<'a> = (Slice<'a, u16>, Slice<'a, u16>);

/// Tokens whose queries and keys are rotated, and whose keys and values enter the cache.
#[derive(Clone, Copy)]
pub struct RopeAppend<'a> {
    /// Heads and cache.
    pub shape: AttentionShape,
    /// Tokens.
    pub t: usize,
    /// Where the first one goes; there must be room for all.
    pub moment: Slice<'a, Moment>,
    /// Queries `(t, n_heads * head_dim)`, keys and values `(t, n_kv_heads * head_dim)`.
    pub qkv: (Slice<'a, f32>, Slice<'a, f32>, Slice<'a, f32>),
    /// Cosine and sine by pair, `(t, head_dim / 2, 2)`.
    pub angles: Slice<'a, f32>,
    /// Takes keys and values.
    pub cache: Cache<'a>,
}

/// Attention of few tokens over splits of the cache.
#[derive(Clone, Copy)]
pub struct SplitAttention<'a> {
    /// Heads and cache.
    pub shape: AttentionShape,
    /// Tokens.
    pub t: usize,
    /// The position that `first` counts from.
    pub moment: Slice<'a, Moment>,
    /// Position of the first token behind that of `moment`.
    pub first: usize,
    /// The launches serve as long as the last token's position is below.
    pub reach: usize,
    /// Queries, `(t, n_heads * head_dim)`.
    pub q: Slice<'a, f32>,
    /// Keys and values.
    pub cache: Cache<'a>,
    /// Room for [`AttentionShape::partial_len`] values of `reach` a token.
    pub partial: Slice<'a, f32>,
    /// `(t, n_heads * head_dim)`.
    pub out: Slice<'a, f32>,
    /// Is raised to the largest magnitude of each row of `out`, `(t)`.
    pub amax: Option<Slice<'a, f32>>,
}

/// Attention of many tokens by tensor cores.
#[derive(Clone, Copy)]
pub struct FlashAttention<'a> {
    /// Heads and cache.
    pub shape: AttentionShape,
    /// Tokens.
    pub t: usize,
    /// Position of the first one.
    pub first: usize,
    /// Queries, `(t, n_heads * head_dim)`.
    pub q: Slice<'a, f32>,
    /// Keys and values.
    pub cache: Cache<'a>,
    /// `(t, n_heads * head_dim)`.
    pub out: Slice<'a, f32>,
}

/// Tokens that one or two routers choose experts for.
#[derive(Clone, Copy)]
pub struct Routing<'a> {
    /// Tokens.
    pub t: usize,
    /// `(t, width)`.
    pub hidden: Slice<'a, f32>,
    /// Of the norms in front of the routers.
    pub eps: f32,
    /// Experts a token.
    pub top_k: usize,
    /// The routers.
    pub jobs: [Option<RouterJob<'a>>; 2],
    /// Needed by a job with experts of the token before.
    pub moment: Option<Slice<'a, Moment>>,
}

/// The experts of a token's product, all of one shape and one number of bits.
#[derive(Clone, Copy)]
pub struct PickedExperts<'a> {
    /// One of them.
    pub like: DeviceExpert,
    /// All slots.
    pub table: Slice<'a, DeviceExpert>,
    /// Those to compute.
    pub picks: &'a Picks,
    /// The router's choice, `(top_k)`.
    pub ids: Slice<'a, i32>,
    /// The slot of each expert of the layer, `(n_experts)`.
    pub places: Slice<'a, i32>,
}

/// Which rows of a batch a product takes and gives, and how.
#[derive(Clone, Copy, Default)]
pub struct Rows<'a> {
    /// Tokens.
    pub t: usize,
    /// Input row of each token; `None`: in order.
    pub gather: Option<Slice<'a, i32>>,
    /// Output row of each token; `None`: in order.
    pub scatter: Option<Slice<'a, i32>>,
    /// A factor for each token; `None`: 1.
    pub weights: Option<Slice<'a, f32>>,
    /// Whether results are added to what is there.
    pub add: bool,
}

impl Rows<'_> {
    pub(super) fn check(&self) {
        let t = self.t;
        self.gather.inspect(|s| {
            s.at_least(t);
        });
        self.scatter.inspect(|s| {
            s.at_least(t);
        });
        self.weights.inspect(|s| {
            s.at_least(t);
        });
    }
}
