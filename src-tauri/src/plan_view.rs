//! A memory plan as the page shows it, and the settings a plan is asked for.

use octet_engine::hardware::cuda_is_available;
use octet_engine::plan::{self, Fit, ModelSizes, Placement, Plan, PlanRequest, TierPlan};
use octet_store::settings::{MissPolicy, OffloadPreset, OffloadSettings};
use serde::Serialize;
use specta::Type;

use crate::wording::settings_names;

/// What a model takes of the machine, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct PlanView {
    /// Where the trunk computes.
    pub device: PlanDevice,
    /// Its name.
    pub device_name: String,
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
    pub gpu: Option<MemoryView>,
    /// RAM item by item.
    pub ram: MemoryView,
    /// How well it fits.
    pub fit: PlanFit,
    /// Why the plan is as it is.
    pub reasons: Vec<String>,
    /// What to know before loading.
    pub warnings: Vec<String>,
}

/// Where a plan computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum PlanDevice {
    /// On the processor.
    Cpu,
    /// On a GPU.
    Gpu,
}

/// How well a plan fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum PlanFit {
    /// Nothing is read from disk once loaded.
    Fits,
    /// Experts are read from disk meanwhile, or the context is short.
    Tight,
    /// It does not.
    TooBig,
}

/// What a plan takes of one kind of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct MemoryView {
    /// What takes memory.
    pub items: Vec<MemoryItem>,
    /// Their sum.
    #[specta(type = u32)]
    pub used_bytes: u64,
    /// What may be taken.
    #[specta(type = u32)]
    pub limit_bytes: u64,
    /// What the machine has free.
    #[specta(type = u32)]
    pub free_bytes: u64,
}

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct MemoryItem {
    /// What it is.
    pub name: String,
    /// What it takes.
    #[specta(type = u32)]
    pub bytes: u64,
}

impl PlanView {
    /// What is left of the plan when the GPU failed.
    pub fn lose_gpu(&mut self, why: &str) {
        self.device = PlanDevice::Cpu;
        self.device_name = "CPU".to_owned();
        self.experts_per_layer_on_gpu = 0.0;
        self.gpu = None;
        self.warnings.push(why.to_owned());
    }
}

impl From<&Plan> for PlanView {
    fn from(plan: &Plan) -> Self {
        let (device, device_name) = match &plan.device {
            Placement::Cpu => (PlanDevice::Cpu, "CPU".to_owned()),
            Placement::Cuda { name, .. } => (PlanDevice::Gpu, name.clone()),
        };
        let in_words = |texts: &[String]| texts.iter().map(|text| settings_names(text)).collect();
        Self {
            device,
            device_name,
            context_length: plan.ctx,
            experts_per_layer_on_gpu: plan.experts_on_gpu_per_layer(),
            n_experts: plan.n_experts,
            n_layers: plan.n_layers,
            experts_in_ram: plan.experts_in_ram(),
            total_experts: plan.total_experts(),
            prefetch: plan.prefetch,
            gpu: plan.gpu.as_ref().map(MemoryView::from),
            ram: MemoryView::from(&plan.ram),
            fit: match plan.fits {
                Fit::Fits => PlanFit::Fits,
                Fit::Tight => PlanFit::Tight,
                Fit::TooBig => PlanFit::TooBig,
            },
            reasons: in_words(&plan.reasons),
            warnings: in_words(&plan.warnings),
        }
    }
}

impl From<&TierPlan> for MemoryView {
    fn from(tier: &TierPlan) -> Self {
        let items = tier.items.iter().map(|item| MemoryItem {
            name: item.name.clone(),
            bytes: item.bytes,
        });
        Self {
            items: items.collect(),
            used_bytes: tier.used_bytes,
            limit_bytes: tier.limit_bytes,
            free_bytes: tier.free_bytes,
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
    let preset = match offload.preset {
        OffloadPreset::Auto => plan::Preset::Auto,
        OffloadPreset::Gpu16 => plan::Preset::Vram16,
        OffloadPreset::Gpu12 => plan::Preset::Vram12,
        OffloadPreset::Cpu => plan::Preset::CpuOnly,
    };
    let misses = match offload.misses {
        MissPolicy::Auto => plan::Misses::Auto,
        MissPolicy::Fetch => plan::Misses::Fetch,
        MissPolicy::Cpu => plan::Misses::Cpu,
    };
    let bytes = |budget: Option<f64>| budget.map(|bytes| bytes as u64);
    PlanRequest {
        device: plan::Device::Auto,
        preset,
        vram_budget: bytes(offload.vram_budget_bytes),
        ram_budget: bytes(offload.ram_budget_bytes),
        experts_on_gpu: offload.experts_per_layer_on_gpu.map(usize::from),
        ctx: offload.context_length.map(|tokens| tokens as usize),
        misses,
        prefetch: offload.prefetch.map(usize::from),
        gpu_backend_available: cuda_is_available(),
        ..PlanRequest::default()
    }
}
