//! A memory plan as the page shows it, and the settings a plan is asked for.

use octet_engine::hardware::cuda_is_available;
use octet_engine::plan::{
    Device, Fit, ModelSizes, Placement, Plan, PlanRequest, Reason, TierPlan, Warning,
};
use octet_store::settings::OffloadSettings;
use serde::Serialize;
use specta::Type;

/// What a model takes of the machine, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct PlanView {
    /// Where the trunk computes.
    pub device: Placement,
    /// Tokens.
    #[specta(type = u32)]
    pub context_length: usize,
    /// On average.
    #[specta(type = u32)]
    pub experts_per_layer_on_gpu: f64,
    /// Experts a layer.
    #[specta(type = u32)]
    pub n_experts: usize,
    /// Layers.
    #[specta(type = u32)]
    pub n_layers: usize,
    /// Experts held in RAM.
    #[specta(type = u32)]
    pub experts_in_ram: usize,
    /// Experts over all layers.
    #[specta(type = u32)]
    pub total_experts: usize,
    /// Experts of the next layer fetched ahead.
    #[specta(type = u32)]
    pub prefetch: usize,
    /// VRAM item by item.
    pub gpu: Option<TierPlan>,
    /// RAM item by item.
    pub ram: TierPlan,
    /// How well it fits.
    pub fit: Fit,
    /// Why the plan is as it is.
    pub reasons: Vec<Reason>,
    /// What to know about it.
    pub warnings: Vec<Warning>,
}

impl PlanView {
    /// What is left of the plan when the GPU failed.
    pub fn lose_gpu(&mut self) {
        self.device = Placement::Cpu;
        self.experts_per_layer_on_gpu = 0.0;
        self.gpu = None;
        self.warnings.push(Warning::GpuLost);
    }
}

impl From<&Plan> for PlanView {
    fn from(plan: &Plan) -> Self {
        Self {
            device: plan.device.clone(),
            context_length: plan.ctx,
            experts_per_layer_on_gpu: plan.experts_on_gpu_per_layer(),
            n_experts: plan.n_experts,
            n_layers: plan.n_layers,
            experts_in_ram: plan.experts_in_ram(),
            total_experts: plan.total_experts(),
            prefetch: plan.prefetch,
            gpu: plan.gpu.clone(),
            ram: plan.ram.clone(),
            fit: plan.fits,
            reasons: plan.reasons.clone(),
            warnings: plan.warnings.clone(),
        }
    }
}

/// What is asked of the plan for a model of these `sizes`; `force` plans even what does not fit.
///
/// Settings outlive models: what a smaller model does not have is brought into its range.
pub fn plan_request(offload: &OffloadSettings, sizes: &ModelSizes, force: bool) -> PlanRequest {
    let request = any_model(offload);
    PlanRequest {
        experts_on_gpu: request.experts_on_gpu.map(|n| n.min(sizes.n_experts)),
        ctx: request.ctx.map(|tokens| tokens.min(sizes.max_positions)),
        force,
        ..request
    }
}

/// What is asked of the plan for models that are not here yet.
pub fn any_model(offload: &OffloadSettings) -> PlanRequest {
    let bytes = |budget: Option<f64>| budget.map(|bytes| bytes as u64);
    PlanRequest {
        device: Device::Auto,
        preset: offload.preset,
        vram_budget: bytes(offload.vram_budget_bytes),
        ram_budget: bytes(offload.ram_budget_bytes),
        experts_on_gpu: offload.experts_per_layer_on_gpu.map(usize::from),
        ctx: offload.context_length.map(|tokens| tokens as usize),
        misses: offload.misses,
        prefetch: offload.prefetch.map(usize::from),
        gpu_backend_available: cuda_is_available(),
        ..PlanRequest::default()
    }
}
