//! Experts that launched kernels read.

use std::sync::Arc;

use octet_kernels::cuda::CudaError;

use super::GpuModel;
use crate::experts::Claim;

/// Claims on slots that kernels on the compute stream read, or are about to.
///
/// A claim goes in before its kernels are launched, and none is given back before an event behind
/// them is left with its slot, for which the next copy into the slot waits. So it is where a layer
/// ends early too, by whatever error.
pub(super) struct InUse<'a> {
    model: &'a GpuModel,
    claims: Vec<Claim>,
}

impl<'a> InUse<'a> {
    /// Of none so far.
    pub(super) fn new(model: &'a GpuModel) -> Self {
        Self {
            model,
            claims: Vec::new(),
        }
    }

    /// Takes the claim on an expert that is on the GPU, to launch what reads it; its slot.
    pub(super) fn push(&mut self, claim: Claim) -> usize {
        let slot = claim.slot().expect("BUG: a claim on the device has a slot");
        self.claims.push(claim);
        slot
    }

    /// Experts so far.
    pub(super) fn len(&self) -> usize {
        self.claims.len()
    }

    /// Gives the claims back: their slots may be overwritten behind what was launched until now.
    pub(super) fn release(&mut self) -> Result<(), CudaError> {
        if self.claims.is_empty() {
            return Ok(());
        }
        let end = Arc::new(self.model.compute.record()?);
        for slot in self.claims.iter().filter_map(Claim::slot) {
            self.model.slots.used(slot, &end);
        }
        self.claims.clear();
        Ok(())
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if self.release().is_err() {
            // No event to wait for: then here. A GPU that is lost runs nothing any more.
            let _ = self.model.compute.synchronize();
        }
    }
}
