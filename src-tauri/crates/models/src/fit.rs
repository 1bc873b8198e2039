//! How a model would run on this machine: the memory plan in a line.

use octet_engine::hardware::Hardware;
use octet_engine::plan::{
    Fit, ModelSizes, Placement, Plan, PlanError, PlanRequest, Preset, make_plan,
};

use crate::{FitBadge, FitView};

/// What the plan says of a model of these sizes.
pub(crate) fn fit(sizes: &ModelSizes, hardware: &Hardware, request: &PlanRequest) -> FitView {
    match make_plan(sizes, hardware, request) {
        Ok(plan) => planned(&plan, request),
        Err(error) => {
            let ram_bytes = match &error {
                PlanError::TooBig { needed_bytes, .. } => *needed_bytes,
                _ => 0,
            };
            let badge = match error {
                PlanError::TooBig { .. } => FitBadge::TooBig,
                _ => FitBadge::Unknown,
            };
            let reason = error.to_string();
            FitView {
                badge,
                summary: match badge {
                    FitBadge::TooBig => format!("too big, because {reason}"),
                    _ => reason.clone(),
                },
                reason: Some(reason),
                experts_on_gpu: None,
                experts_in_ram: 0,
                total_experts: (sizes.n_layers * sizes.n_experts) as u32,
                ram_bytes,
                vram_bytes: None,
            }
        }
    }
}

fn planned(plan: &Plan, request: &PlanRequest) -> FitView {
    let name = match request.preset {
        Preset::Auto => "auto plan",
        Preset::Vram16 => "plan for 16 GB",
        Preset::Vram12 => "plan for 12 GB",
        Preset::CpuOnly => "plan without GPU",
    };
    let (all, in_ram) = (plan.total_experts(), plan.experts_in_ram());
    let place = match &plan.device {
        Placement::Cuda { .. } => {
            let a_layer = plan.experts_on_gpu_per_layer();
            let a_layer = match a_layer.fract() == 0.0 {
                true => format!("{a_layer:.0}"),
                false => format!("{a_layer:.1}"),
            };
            format!("{a_layer} experts a layer on the GPU")
        }
        Placement::Cpu if in_ram == all => format!("all {all} experts in RAM"),
        Placement::Cpu => format!("{in_ram} of {all} experts in RAM, the others on disk"),
    };
    let badge = match plan.fits {
        Fit::Fits => FitBadge::Fits,
        Fit::Tight => FitBadge::Tight,
        Fit::TooBig => FitBadge::TooBig,
    };
    let reason = (badge == FitBadge::TooBig).then(|| {
        let why = plan.warnings.last();
        why.map_or_else(|| "memory is short".to_owned(), String::clone)
    });
    let summary = match &reason {
        Some(why) => format!("too big, because {why}"),
        None => format!("{} ({name}: {place})", plan.fits),
    };
    FitView {
        badge,
        summary,
        reason,
        experts_on_gpu: matches!(plan.device, Placement::Cuda { .. })
            .then(|| plan.experts_on_gpu_per_layer()),
        experts_in_ram: in_ram as u32,
        total_experts: all as u32,
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
            reason: "a test".to_owned(),
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
        assert_eq!(roomy.badge, FitBadge::Fits);
        assert_eq!(roomy.summary, "fits (auto plan: all 256 experts in RAM)");
        assert_eq!((roomy.experts_on_gpu, roomy.experts_in_ram), (None, 256));
        let tight = at(10);
        assert_eq!(tight.badge, FitBadge::Tight);
        assert!(
            tight
                .summary
                .contains("of 256 experts in RAM, the others on disk")
        );
        assert!(tight.ram_bytes < 10_000_000_000);
        assert!(tight.experts_in_ram < tight.total_experts && tight.reason.is_none());
        let small = at(1);
        assert_eq!(small.badge, FitBadge::TooBig);
        assert!(
            small
                .summary
                .starts_with("too big, because the model needs")
        );
        assert!(small.ram_bytes > 1_000_000_000);
        assert!(
            small
                .reason
                .is_some_and(|why| small.summary.ends_with(&why))
        );
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
        assert_eq!(view.badge, FitBadge::Fits);
        let shown = format!("{on_gpu:.1}").trim_end_matches(".0").to_owned();
        assert_eq!(
            view.summary,
            format!("fits (auto plan: {shown} experts a layer on the GPU)")
        );
        assert!(view.vram_bytes.is_some_and(|bytes| bytes <= 15 << 30));
    }
}
