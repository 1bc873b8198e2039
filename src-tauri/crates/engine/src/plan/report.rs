//! The plan as a table for people.

use std::fmt;

use super::{Fit, Memory, Misses, Placement, Plan, TierPlan, format_bytes};

/// Wide enough for `format_bytes` and a space.
const BYTES_WIDTH: usize = 10;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name_width = self.name_width();
        writeln!(f, "device   {}", self.device)?;
        writeln!(f, "context  {} tokens", self.ctx)?;
        writeln!(f, "experts  {}", self.experts_line())?;
        if let Some(line) = self.misses_line() {
            writeln!(f, "misses   {line}")?;
        }
        write!(f, "fit      {}", self.fits)?;
        if let Some(gpu) = &self.gpu {
            write_tier(f, "VRAM", gpu, name_width)?;
        }
        write_tier(f, "RAM", &self.ram, name_width)?;
        write_list(f, "why", &self.reasons)?;
        write_list(f, "warnings", &self.warnings)
    }
}

impl Plan {
    fn name_width(&self) -> usize {
        self.gpu
            .iter()
            .chain([&self.ram])
            .flat_map(|tier| &tier.items)
            .map(|item| item.name.chars().count())
            .chain(["limit".len()])
            .max()
            .unwrap_or_default()
    }

    /// What becomes of experts that the fastest tier lacks; `None` where it has all.
    fn misses_line(&self) -> Option<String> {
        let ahead = match self.prefetch {
            0 => "none predicted ahead".to_owned(),
            n => format!("{n} predicted ahead"),
        };
        if self.gpu.is_none() {
            let lacks = self.experts_in_ram() < self.total_experts();
            return lacks.then(|| format!("experts not in RAM: read from disk, {ahead}"));
        }
        let how = match self.misses {
            Misses::Auto => "copied up or computed on the CPU, whichever is sooner",
            Misses::Fetch => "copied up",
            Misses::Cpu => "computed on the CPU",
        };
        let lacks = self.total_gpu_slots < self.total_experts();
        lacks.then(|| format!("experts not in VRAM: {how}, {ahead}"))
    }

    fn experts_line(&self) -> String {
        let total = self.total_experts();
        let in_ram = match self.ram_slots {
            None => format!("all {total} in RAM"),
            Some(slots) if slots == total => format!("all {total} in RAM"),
            Some(slots) if self.total_gpu_slots == total => {
                format!("{slots} pass through RAM at load")
            }
            Some(slots) if self.needs_no_disk() => format!("{slots} in RAM, none on disk only"),
            Some(slots) => {
                format!(
                    "{slots} in RAM, {} on disk only",
                    self.experts_on_disk_only()
                )
            }
        };
        match self.gpu {
            None => in_ram,
            Some(_) => format!(
                "{} of {total} in VRAM ({:.1} per layer), {in_ram}",
                self.total_gpu_slots,
                self.experts_on_gpu_per_layer()
            ),
        }
    }
}

fn write_tier(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    tier: &TierPlan,
    name_width: usize,
) -> fmt::Result {
    write!(f, "\n\n{title}")?;
    let mut line = |name: &str, bytes: u64| {
        write!(
            f,
            "\n  {name:<name_width$}{:>BYTES_WIDTH$}",
            format_bytes(bytes)
        )
    };
    for item in &tier.items {
        line(&item.name, item.bytes)?;
    }
    line("total", tier.used_bytes)?;
    line("limit", tier.limit_bytes)?;
    line("free now", tier.free_bytes)
}

fn write_list(f: &mut fmt::Formatter<'_>, title: &str, sentences: &[String]) -> fmt::Result {
    if sentences.is_empty() {
        return Ok(());
    }
    write!(f, "\n\n{title}")?;
    sentences
        .iter()
        .try_for_each(|sentence| write!(f, "\n  - {sentence}"))
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("CPU"),
            Self::Cuda { index, name, .. } => write!(f, "GPU {index}, {name}"),
        }
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fits => "fits",
            Self::Tight => "tight",
            Self::TooBig => "too big",
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vram => "VRAM",
            Self::Ram => "RAM",
        })
    }
}
