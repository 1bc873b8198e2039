//! What the kernels of block types need of a vector instruction set, so that each type is written
//! once for AVX2 and AVX-512.

use std::arch::x86_64::__m128i;

use super::LANES;

/// An instruction set. A value of it exists only where the CPU has its features, so the methods
/// are safe; they are inlined into functions that are compiled with the features.
pub(in super::super) trait Simd: Copy {
    /// 64 bytes, or 16 32-bit integers: as many as a [`super::XBlock`] has in a vector.
    type Bytes: Copy;
    /// 16 f32.
    type Floats: Copy;

    /// Whether `dot` takes weights up to 255, so that a field may stay where it is in a byte; else
    /// up to 128.
    const WIDE: bool;
    /// What `signed` adds to signed weights.
    const SIGNED_OFFSET: i32;

    fn load(self, bytes: &[u8; 64]) -> Self::Bytes;
    /// Two pieces of 32 bytes.
    fn load32(self, a: &[u8; 32], b: &[u8; 32]) -> Self::Bytes;
    /// Four pieces of 16 bytes.
    fn load16(self, pieces: [&[u8; 16]; 4]) -> Self::Bytes;
    fn integers(self, v: &[i32; LANES]) -> Self::Bytes;
    fn floats(self, v: &[f32; LANES]) -> Self::Floats;
    fn zero(self) -> Self::Floats;

    fn and(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    fn xor(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Sums of 32-bit integers.
    fn add(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// The larger of signed 32-bit integers.
    fn max(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// The low halves of products of 32-bit integers.
    fn mul(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// 32-bit integers, each shifted to the right by a number of its own.
    fn shr(self, v: Self::Bytes, by: &[i32; LANES]) -> Self::Bytes;
    /// 32-bit integers, each rotated to the left by a number of its own, 0 to 31.
    fn rotl(self, v: Self::Bytes, by: &[i32; LANES]) -> Self::Bytes;
    /// Of each 16 bytes: 32-bit integer `m` of `a` twice, then of `b` twice; `MASK` is `m * 0x55`.
    fn quads<const MASK: i32>(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Swaps rows and columns of the 4 x 4 32-bit integers that four vectors have in each 16 bytes.
    fn transpose(self, v: [Self::Bytes; 4]) -> [Self::Bytes; 4];
    /// The entries of a table of 16 bytes that the bytes of `index`, 0 to 15, name.
    fn lookup(self, table: Self::Bytes, index: Self::Bytes) -> Self::Bytes;

    /// The entries of a table that 32-bit integers, of which as many bits count as it has indices,
    /// name.
    fn gather(self, table: &[[i8; 4]], index: Self::Bytes) -> Self::Bytes;
    /// Bytes, negated where `signs` has one of `bits`.
    fn minus_where(self, v: Self::Bytes, signs: Self::Bytes, bits: Self::Bytes) -> Self::Bytes;

    /// Signed weights, above -128 or not multiplied otherwise, as `dot_signed` takes them.
    fn signed(self, v: Self::Bytes) -> Self::Bytes;
    /// Adds to each 32-bit integer the products of four unsigned weights and activations.
    fn dot(self, sums: Self::Bytes, w: Self::Bytes, x: &[i8; 64]) -> Self::Bytes;
    /// The same for what `signed` returned: the weights are then [`Simd::SIGNED_OFFSET`] larger.
    fn dot_signed(self, sums: Self::Bytes, w: Self::Bytes, x: &[i8; 64]) -> Self::Bytes;

    /// 32-bit integers to f32.
    fn convert(self, v: Self::Bytes) -> Self::Floats;
    /// 16-byte pieces.
    fn quarters(self, v: Self::Bytes) -> [__m128i; 4];
    /// The bits of f32.
    fn bits(self, v: Self::Floats) -> Self::Bytes;
    /// f32 of these bits.
    fn reinterpret(self, v: Self::Bytes) -> Self::Floats;
    /// 16 bytes to 32-bit integers.
    fn widen(self, v: __m128i) -> Self::Bytes;
    /// 16 signed bytes to 32-bit integers.
    fn widen_signed(self, v: __m128i) -> Self::Bytes;
    /// One little-endian f16, 16 times.
    fn half(self, bytes: [u8; 2]) -> Self::Floats;
    /// Eight f16, in an order: lane `i` has number `order[2 * i] / 2`.
    fn halves(self, v: __m128i, order: &[u8; 32]) -> Self::Floats;
    fn mul_f(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    fn sub_f(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The sum of all lanes.
    fn sum(self, v: Self::Floats) -> f32;

    /// Fetches the lines of `bytes` bytes to come.
    fn prefetch(self, ahead: *const u8, bytes: usize);
    /// The 6-bit scales and minima of Q4_K and Q5_K from the first 16 bytes of a block: 8 bytes of
    /// scales, 8 of minima.
    fn scales6(self, header: &[u8; 16]) -> __m128i;
    /// 16 bytes in another order; an index of 128 or more stands for 0.
    fn shuffle(self, v: __m128i, order: &[u8; 16]) -> __m128i;
    /// 16 bytes.
    fn load128(self, bytes: &[u8; 16]) -> __m128i;
    /// The low and the high halves of bytes.
    fn halves_of_bytes(self, v: __m128i) -> [__m128i; 2];
    /// The 6-bit signed scales of Q3_K from the last 16 bytes of a block.
    fn scales3(self, tail: &[u8; 16]) -> __m128i;
}

/// Methods that are one or a few instructions.
macro_rules! instructions {
    ($(fn $name:ident $(<const $c:ident: i32>)? ($($arg:ident: $type:ty),*) $(-> $out:ty)? $body:block)*) => {
        $(
            #[inline(always)]
            fn $name $(<const $c: i32>)? (self, $($arg: $type),*) $(-> $out)? {
                // SAFETY: a value of this type exists only where the CPU has the features, and
                // every load is of a reference to as many bytes.
                unsafe { $body }
            }
        )*
    };
}
pub(super) use instructions;

/// `[$of, ...]` for each `$x` of an array of two or four. Unlike with `map`, `$of` is compiled with
/// the features of the function around it.
macro_rules! each2 {
    ($all:expr, |$x:ident| $of:expr) => {{
        let [a, b] = $all;
        [
            {
                let $x = a;
                $of
            },
            {
                let $x = b;
                $of
            },
        ]
    }};
}
macro_rules! each4 {
    ($all:expr, |$x:ident| $of:expr) => {{
        let [a, b, c, d] = $all;
        [
            {
                let $x = a;
                $of
            },
            {
                let $x = b;
                $of
            },
            {
                let $x = c;
                $of
            },
            {
                let $x = d;
                $of
            },
        ]
    }};
}
pub(super) use {each2, each4};
