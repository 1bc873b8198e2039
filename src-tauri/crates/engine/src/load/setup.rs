//! From a plan to a model in memory: on the GPU the plan names, with less of it where memory turns
//! out short, or on the CPU.

use std::sync::Arc;
use std::time::Instant;

use octet_kernels::cuda::{CudaError, Unfilled};
use octet_kernels::{Pool, Precision};

use super::LoadOptions;
use crate::backend::Host;
use crate::backend::cuda::{Cuda, GpuModel, GpuPinned, OpenGpu, Slots};
use crate::calibration::{self, Calibration, CalibrationCache, Machine, Upload, Uploads};
use crate::checkpoint::{Checkpoint, ExpertId};
use crate::error::EngineError;
use crate::experts::{
    Bandwidths, Device as _, DeviceOptions, ExpertOptions, Experts, PinnedMemory, RamAlone,
};
use crate::hardware::{Gpu, GpuProblem, Hardware, NoGpu, UnusableGpu};
use crate::model::Decoder;
use crate::plan::{
    CUDA_CONTEXT_BYTES, Device, Fit, MeasuredVram, ModelSizes, OffloadPreset, Placement, Plan,
    PlanError, PlanRequest, Warning, make_plan,
};

/// What a model is made from.
pub(crate) struct Setup<'a> {
    pub checkpoint: Arc<Checkpoint>,
    pub hardware: Hardware,
    pub options: &'a LoadOptions,
    pub pool: Pool,
    pub precision: Precision,
}

/// A model, its plan as it came out, and what was measured on the way.
pub(crate) type Made = (Decoder, Plan, Option<Calibration>);

/// A GPU with a model's trunk and slots for its experts.
struct OnGpu {
    gpu: GpuModel,
    slots: Arc<Slots>,
}

/// Why a GPU was not used in the end.
enum Failure {
    /// It has too little VRAM; the plan without it.
    NoRoom(Box<Plan>),
    /// It, or its driver, failed.
    Broken(EngineError),
}

impl Failure {
    /// As a problem of the GPU that failed.
    fn problem(&self) -> GpuProblem {
        let detail = match self {
            Self::NoRoom(_) => return GpuProblem::NoRoom,
            Self::Broken(EngineError::Device { reason }) => reason.clone(),
            Self::Broken(other) => other.to_string(),
        };
        GpuProblem::Failed { detail }
    }
}

/// RAM that the GPU reads fastest.
fn pinned_for(on_gpu: &OnGpu) -> Arc<dyn PinnedMemory> {
    Arc::new(GpuPinned(Arc::clone(on_gpu.gpu.gpu())))
}

impl Setup<'_> {
    /// Plans the memory and prepares the model by the plan, which says what became of it.
    pub(crate) fn model(mut self) -> Result<Made, EngineError> {
        let mut sizes = ModelSizes::of(&self.checkpoint);
        if self.precision == Precision::Exact && self.checkpoint.gguf().is_none() {
            // The output matrix stays as the file has it.
            sizes.trunk_resident_bytes = sizes.trunk_file_bytes;
        }
        let mut passed_over: Vec<UnusableGpu> = Vec::new();
        loop {
            let plan = make_plan(&sizes, &self.hardware, &self.options.plan)?;
            let Placement::Cuda { uuid, name, .. } = &plan.device else {
                return self.finish(plan, None, passed_over);
            };
            let (uuid, name) = (uuid.clone(), name.clone());
            let opened = OpenGpu::open(&uuid).map_err(EngineError::from);
            let failure = match opened.and_then(|opened| self.on_gpu(&opened, &sizes, &plan)) {
                Ok((Some(on_gpu), plan)) => {
                    return self.finish(plan, Some(on_gpu), passed_over);
                }
                Ok((None, plan)) => Failure::NoRoom(Box::new(plan)),
                Err(error) => Failure::Broken(error),
            };
            // Another GPU comes before the CPU.
            let problem = failure.problem();
            self.hardware.gpu.pass_over(&uuid, &problem);
            let gpu = UnusableGpu { name, problem };
            if self.hardware.gpu.best().is_none() {
                return self.without_gpu(failure, gpu, &sizes, passed_over);
            }
            passed_over.push(gpu);
        }
    }

    /// The plan for when the last GPU has failed.
    fn without_gpu(
        self,
        failure: Failure,
        last: UnusableGpu,
        sizes: &ModelSizes,
        mut passed_over: Vec<UnusableGpu>,
    ) -> Result<Made, EngineError> {
        let request = &self.options.plan;
        match failure {
            Failure::NoRoom(plan) => self.finish(*plan, None, passed_over),
            Failure::Broken(error @ EngineError::Plan(_)) => Err(error),
            Failure::Broken(_) if request.device == Device::Cuda => {
                passed_over.push(last);
                let why = NoGpu::Unusable { gpus: passed_over };
                Err(EngineError::Plan(PlanError::NoGpu { why }))
            }
            Failure::Broken(_) => {
                let request = PlanRequest {
                    device: Device::Cpu,
                    preset: Default::default(),
                    ..request.clone()
                };
                let mut plan = make_plan(sizes, &self.hardware, &request)?;
                plan.warnings.push(Warning::GpuFailed {
                    problem: last.problem,
                });
                self.finish(plan, None, passed_over)
            }
        }
    }

    /// Takes what `planned` says of the GPU, or less where it has less room; nothing of it where
    /// the CPU is the better place then.
    fn on_gpu(
        &self,
        opened: &OpenGpu,
        sizes: &ModelSizes,
        planned: &Plan,
    ) -> Result<(Option<OnGpu>, Plan), EngineError> {
        let slot_bytes = Slots::slot_bytes(self.checkpoint.expert_bytes()) as u64;
        let mut vram = self.measured(opened, planned)?;
        loop {
            let plan = planned.step_down(sizes, &self.hardware, &self.options.plan, vram)?;
            if plan.device == Placement::Cpu {
                return Ok((None, plan));
            }
            match self.take(opened, &plan) {
                Ok(on_gpu) => return Ok((Some(on_gpu), plan)),
                Err(error) if error.is_out_of_memory() => {}
                Err(error) => return Err(error.into()),
            }
            // The memory is there in pieces, or another program was quicker.
            let used_bytes = plan.gpu.as_ref().map_or(0, |gpu| gpu.used_bytes);
            let asked_bytes = used_bytes.saturating_sub(vram.context_bytes);
            let less_bytes = slot_bytes.max(asked_bytes / 50);
            vram.free_bytes = asked_bytes.min(vram.free_bytes).saturating_sub(less_bytes);
        }
    }

    /// What the context took of the GPU, and what it has beside it.
    fn measured(&self, opened: &OpenGpu, planned: &Plan) -> Result<MeasuredVram, CudaError> {
        let (free_bytes, _) = opened.gpu().memory()?;
        let before_bytes = self
            .gpu(planned)
            .map_or(free_bytes, |gpu| gpu.vram_free_bytes);
        // A context grows in use: kernels are loaded late, and ask for memory of their own.
        let context_bytes = before_bytes
            .saturating_sub(free_bytes)
            .max(CUDA_CONTEXT_BYTES);
        Ok(MeasuredVram {
            context_bytes,
            free_bytes: before_bytes.saturating_sub(context_bytes).min(free_bytes),
        })
    }

    /// The GPU of `plan` as it was found.
    fn gpu(&self, plan: &Plan) -> Option<&Gpu> {
        let Placement::Cuda { uuid: wanted, .. } = &plan.device else {
            return None;
        };
        self.hardware.gpu.usable().find(|gpu| gpu.uuid == *wanted)
    }

    fn take(&self, opened: &OpenGpu, plan: &Plan) -> Result<OnGpu, CudaError> {
        let n_slots = plan.total_gpu_slots + plan.gpu_fetch_slots;
        let slots = Arc::new(Slots::new(opened, Arc::clone(&self.checkpoint), n_slots)?);
        let gpu = GpuModel::new(
            opened,
            &self.checkpoint,
            &self.pool,
            self.precision,
            plan.ctx,
            Arc::clone(&slots),
        )?;
        Ok(OnGpu { gpu, slots })
    }

    fn finish(
        self,
        mut plan: Plan,
        on_gpu: Option<OnGpu>,
        passed_over: Vec<UnusableGpu>,
    ) -> Result<Made, EngineError> {
        let warning = |UnusableGpu { name, problem }| Warning::GpuPassedOver { name, problem };
        plan.warnings.extend(passed_over.into_iter().map(warning));
        let calibration = self.calibration(&plan, on_gpu.as_ref())?;
        let device = match &on_gpu {
            Some(OnGpu { slots, .. }) => Some(DeviceOptions {
                device: Arc::clone(slots) as _,
                misses: plan.misses,
                bandwidths: calibration
                    .as_ref()
                    .and_then(Calibration::bandwidths)
                    // There are no misses to meet.
                    .unwrap_or(Bandwidths {
                        upload: 1.0,
                        staged: 1.0,
                        cpu: 1.0,
                    }),
            }),
            None => None,
        };
        let experts = Experts::new(
            Arc::clone(&self.checkpoint),
            ExpertOptions {
                ram_slots: plan.ram_slots,
                eviction: plan.eviction,
                prefetch: plan.prefetch,
                // What was asked for is done.
                no_core_to_spare: self.options.plan.prefetch.is_none()
                    && self.pool.threads() >= self.hardware.cpu.logical_cores,
                device,
                pinned: on_gpu.as_ref().map(pinned_for),
                pinned_slots: Some(plan.pinned_slots),
                ram_alone: on_gpu.as_ref().and_then(|_| self.ram_alone(&plan)),
            },
        )?;
        let model = match on_gpu {
            Some(OnGpu { gpu, .. }) => {
                let host = Arc::new(Host {
                    checkpoint: self.checkpoint,
                    experts: Arc::new(experts),
                    pool: self.pool,
                    precision: self.precision,
                });
                Decoder::on(Arc::new(Cuda::new(gpu, Arc::clone(&host))), host)
            }
            None => Decoder::new(self.checkpoint, experts, self.pool, self.precision),
        };
        Ok((model, plan, calibration))
    }

    /// What RAM holds should the GPU fail, `None` where it cannot hold what the CPU would need: then
    /// the slots that there are have to do.
    fn ram_alone(&self, plan: &Plan) -> Option<RamAlone> {
        let request = PlanRequest {
            device: Device::Cpu,
            preset: OffloadPreset::Auto,
            ctx: Some(plan.ctx),
            ..self.options.plan.clone()
        };
        let alone = make_plan(&ModelSizes::of(&self.checkpoint), &self.hardware, &request).ok()?;
        match (alone.fits, alone.ram_slots) {
            (Fit::TooBig, _) => None,
            (_, None) => Some(RamAlone::InPlace),
            (_, Some(slots)) => Some(RamAlone::Slots(slots)),
        }
    }

    /// How fast misses are met, where that was asked for or there will be misses.
    fn calibration(
        &self,
        plan: &Plan,
        on_gpu: Option<&OnGpu>,
    ) -> Result<Option<Calibration>, EngineError> {
        let has_misses = on_gpu.is_some() && plan.total_gpu_slots < plan.total_experts();
        let anew = self.options.calibrate;
        if !anew && !has_misses {
            return Ok(None);
        }
        let bytes = self.checkpoint.expert_bytes();
        let threads = self.pool.threads();
        let gpu = self.gpu(plan).filter(|_| on_gpu.is_some());
        let machine = Machine::new(&self.hardware, gpu, threads, self.precision, bytes);
        let measure = || {
            let uploads = on_gpu.map(|on_gpu| self.uploads(on_gpu)).transpose()?;
            calibration::measure(&self.checkpoint, &self.pool, self.precision, uploads)
        };
        let cache = match &self.options.cache_dir {
            Some(dir) => CalibrationCache::in_dir(dir),
            None => CalibrationCache::of_user(),
        };
        cache.get_or_measure(&machine, anew, measure).map(Some)
    }

    /// Copies of an expert to the GPU, that say how many bytes a second that was.
    fn uploads<'a>(&self, on_gpu: &'a OnGpu) -> Result<Uploads<'a>, EngineError> {
        let id = ExpertId {
            layer: 0,
            expert: 0,
        };
        let len = self.checkpoint.expert_len(id);
        let mut plain = vec![0; len];
        self.checkpoint.read_expert(id, &mut plain)?;
        let slots = &*on_gpu.slots;
        let copy = move |bytes: &[u8]| {
            let clock = Instant::now();
            let copied = slots.upload(0, id, bytes);
            copied.map_err(|reason| EngineError::Device { reason })?;
            Ok(len as f64 / clock.elapsed().as_secs_f64().max(1e-9))
        };
        // Where the system pins no more, experts will not be pinned either.
        let pinned = Unfilled::new(on_gpu.gpu.gpu(), len).ok().map(|mut pinned| {
            pinned.append(&plain);
            let pinned = pinned.finish();
            Box::new(move || copy(&pinned)) as Box<Upload<'a>>
        });
        Ok(Uploads {
            pinned,
            staged: Box::new(move || copy(&plain)),
        })
    }
}
