//! How a model would run on this machine: the memory plan in a line.

use octet_engine::hardware::Hardware;
use octet_engine::plan::{
    Fit, ModelSizes, Placement, Plan, PlanError, PlanRequest, Warning, make_plan,
};

use crate::FitView;

/// What the plan says of a model of these sizes.
pub(crate) fn fit(sizes: &ModelSizes, hardware: &Hardware, request: &PlanRequest) -> FitView {
    match make_plan(sizes, hardware, request) {
        Ok(plan) => planned(&plan),
        Err(problem) => {
            let (badge, ram_bytes) = match &problem {
                PlanError::TooBig(shortage) => (Some(Fit::TooBig), shortage.needed_bytes),
                _ => (None, 0),
            };
            FitView {
                badge,
                problem: Some(problem),
                experts_on_gpu: None,
                experts_in_ram: 0,
                total_experts: (sizes.n_layers * sizes.n_experts) as u32,
                ram_bytes,
                vram_bytes: None,
            }
        }
    }
}

fn planned(plan: &Plan) -> FitView {
    let problem = plan.warnings.iter().find_map(|warning| match warning {
        Warning::TooBig(shortage) => Some(PlanError::TooBig(shortage.clone())),
        _ => None,
    });
    FitView {
        badge: Some(plan.fits),
        problem,
        experts_on_gpu: matches!(plan.device, Placement::Cuda { .. })
            .then(|| plan.experts_on_gpu_per_layer()),
        experts_in_ram: plan.experts_in_ram() as u32,
        total_experts: plan.total_experts() as u32,
        ram_bytes: plan.ram.used_bytes,
        vram_bytes: plan.gpu.as_ref().map(|gpu| gpu.used_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(ram_bytes: u64) -> Hardware {
        let mut hardware = Hardware::detect(std::path::Path::new("."));
        hardware.gpu = octet_engine::hardware::GpuStatus::Absent {
            reason: octet_engine::hardware::NoGpu::Macos,
        };
        hardware.ram_total_bytes = ram_bytes;
        hardware.ram_available_bytes = ram_bytes;
        hardware
    }

    #[test]
    fn the_badge_follows_the_plan() {
        let sizes = crate::catalogue::built_in().remove(0).sizes;
        let request = PlanRequest::default();
        let at = |gb: u64| fit(&sizes, &machine(gb * 1_000_000_000), &request);
        let roomy = at(64);
        assert_eq!(roomy.badge, Some(Fit::Fits));
        assert_eq!((roomy.experts_on_gpu, roomy.experts_in_ram), (None, 256));
        let tight = at(10);
        assert_eq!(tight.badge, Some(Fit::Tight));
        assert!(tight.ram_bytes < 10_000_000_000);
        assert!(tight.experts_in_ram < tight.total_experts && tight.problem.is_none());
        let small = at(1);
        assert_eq!(small.badge, Some(Fit::TooBig));
        assert!(small.ram_bytes > 1_000_000_000);
        let too_big = |view: &FitView| match &view.problem {
            Some(PlanError::TooBig(shortage)) => shortage.clone(),
            problem => panic!("{problem:?}"),
        };
        assert_eq!(too_big(&small).needed_bytes, small.ram_bytes);
        let forced = PlanRequest {
            force: true,
            ..request
        };
        let forced = fit(&sizes, &machine(1_000_000_000), &forced);
        assert_eq!(forced.badge, Some(Fit::TooBig));
        assert_eq!(too_big(&forced), too_big(&small));
    }

    #[test]
    fn on_a_gpu_the_badge_counts_experts_a_layer() {
        let sizes = crate::catalogue::built_in().remove(0).sizes;
        let mut hardware = machine(64_000_000_000);
        hardware.gpu =
            octet_engine::hardware::GpuStatus::Found(vec![octet_engine::hardware::Gpu {
                index: 0,
                uuid: "GPU-test".to_owned(),
                name: "Test GPU".to_owned(),
                vram_total_bytes: 16 << 30,
                vram_free_bytes: 15 << 30,
                is_shared_with_system: false,
                compute_capability: (8, 9),
                driver_version: "550.0".to_owned(),
                problem: None,
            }]);
        let request = PlanRequest {
            gpu_backend_available: true,
            ..PlanRequest::default()
        };
        let view = fit(&sizes, &hardware, &request);
        let on_gpu = view.experts_on_gpu.expect("it has a plan for the GPU");
        assert!((1.0..8.0).contains(&on_gpu), "{view:?}");
        assert_eq!(view.badge, Some(Fit::Fits));
        assert!(view.vram_bytes.is_some_and(|bytes| bytes <= 15 << 30));
    }
}
