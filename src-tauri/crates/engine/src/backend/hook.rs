//! A way for benchmarks to change what routers chose.

use octet_kernels::cuda::Reuse;

/// Changes the experts that decoded tokens are routed to. The product installs none.
pub trait RouterHook: Send + Sync {
    /// Changes `chosen`, the experts of the token at `position` of the KV cache in `layer`, best
    /// first and with their weights. `previous` are those of the token before, if there was one.
    fn adapt(&self, position: usize, layer: usize, previous: &[u16], chosen: &mut [(u16, f32)]);

    /// The same rule, as the router kernel of a GPU has it built in.
    fn for_gpu(&self) -> Reuse;
}

/// A [`RouterHook`] for the token at one position.
#[derive(Clone, Copy)]
pub(super) struct HookAt<'a> {
    pub hook: &'a dyn RouterHook,
    pub position: usize,
}

impl HookAt<'_> {
    /// See [`RouterHook::adapt`].
    pub(super) fn adapt(&self, layer: usize, previous: &[u16], chosen: &mut [(u16, f32)]) {
        self.hook.adapt(self.position, layer, previous, chosen);
    }
}
