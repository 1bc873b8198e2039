//! What the expert tiers did: counted once, read by `bench`, the CLI and the window.

use std::ops::{Add, Sub};

use serde::Serialize;

/// Counters of one tier. Every demand is a hit or a miss; every finished prefetch ends as a hit
/// (the expert was asked for while it was there) or wasted (evicted unused).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TierStats {
    /// Demands that found the expert in the tier, or on its way by prefetch.
    pub hits: u64,
    /// Demands that did not find it.
    pub misses: u64,
    /// Of these, the ones that were met elsewhere: computed in the tier below, not fetched.
    pub met_below: u64,
    /// Prefetches started.
    pub prefetches: u64,
    /// Prefetched experts that were then asked for.
    pub prefetch_hits: u64,
    /// Prefetched experts evicted without having been asked for.
    pub prefetch_wasted: u64,
    /// Bytes brought into the tier.
    pub bytes_moved: u64,
    /// Nanoseconds during which at least one fetch was under way.
    pub busy_ns: u64,
    /// Nanoseconds that the engine waited for fetches.
    pub wait_ns: u64,
}

impl TierStats {
    /// Hits of all demands, 0 to 1; `None` before the first demand.
    pub fn hit_rate(&self) -> Option<f64> {
        let demands = self.hits + self.misses;
        (demands > 0).then(|| self.hits as f64 / demands as f64)
    }

    /// Share of demands that were met by what the tier held from earlier, 0 to 1; `None` before
    /// the first demand. What prefetch brought in time is no merit of the cache: it was read, too.
    pub fn kept_rate(&self) -> Option<f64> {
        let demands = self.hits + self.misses;
        let kept = self.hits.saturating_sub(self.prefetch_hits);
        (demands > 0).then(|| kept as f64 / demands as f64)
    }

    /// Share of misses that were computed in the tier below, 0 to 1; `None` without misses.
    pub fn share_met_below(&self) -> Option<f64> {
        (self.misses > 0).then(|| self.met_below as f64 / self.misses as f64)
    }

    /// Bytes a second that fetches brought in while there were any under way.
    pub fn bytes_per_sec(&self) -> Option<f64> {
        (self.busy_ns > 0).then(|| self.bytes_moved as f64 * 1e9 / self.busy_ns as f64)
    }
}

impl Add for TierStats {
    type Output = Self;

    /// The counters of two tiers that took turns.
    fn add(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            met_below: self.met_below + other.met_below,
            prefetches: self.prefetches + other.prefetches,
            prefetch_hits: self.prefetch_hits + other.prefetch_hits,
            prefetch_wasted: self.prefetch_wasted + other.prefetch_wasted,
            bytes_moved: self.bytes_moved + other.bytes_moved,
            busy_ns: self.busy_ns + other.busy_ns,
            wait_ns: self.wait_ns + other.wait_ns,
        }
    }
}

impl Sub for TierStats {
    type Output = Self;

    /// What happened between `earlier` and `self`.
    fn sub(self, earlier: Self) -> Self {
        Self {
            hits: self.hits - earlier.hits,
            misses: self.misses - earlier.misses,
            met_below: self.met_below - earlier.met_below,
            prefetches: self.prefetches - earlier.prefetches,
            prefetch_hits: self.prefetch_hits - earlier.prefetch_hits,
            prefetch_wasted: self.prefetch_wasted - earlier.prefetch_wasted,
            bytes_moved: self.bytes_moved - earlier.bytes_moved,
            busy_ns: self.busy_ns - earlier.busy_ns,
            wait_ns: self.wait_ns - earlier.wait_ns,
        }
    }
}

/// The counters of all tiers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ExpertStats {
    /// The RAM tier. Without slots: first uses are misses.
    pub ram: TierStats,
    /// The device tier.
    pub device: Option<TierStats>,
}

impl Sub for ExpertStats {
    type Output = Self;

    /// What happened between `earlier` and `self`.
    fn sub(self, earlier: Self) -> Self {
        let before = earlier.device.unwrap_or_default();
        Self {
            ram: self.ram - earlier.ram,
            device: self.device.map(|now| now - before),
        }
    }
}

/// How routing behaved over a run of decoded tokens: a cache figure means nothing without it.
#[derive(Debug, Clone, Default)]
pub struct RoutingStats {
    last: Vec<Vec<u16>>,
    missed: Vec<Vec<u16>>,
    used: Vec<Vec<u64>>,
    kept: u64,
    choices: u64,
}

/// [`RoutingStats`] summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct RoutingSummary {
    /// Share of a token's experts that the token before it used too, 0 to 1 (uniform routing
    /// over 8 experts, 2 at work: 0.25).
    pub kept_from_previous: f64,
    /// Distinct experts per layer over the run, on average.
    pub distinct_per_layer: f64,
}

impl RoutingStats {
    /// Empty counters.
    pub fn new(n_layers: usize, n_experts: usize) -> Self {
        Self {
            last: vec![Vec::new(); n_layers],
            missed: vec![Vec::new(); n_layers],
            used: vec![vec![0; n_experts]; n_layers],
            kept: 0,
            choices: 0,
        }
    }

    /// Notes the experts of one decoded token at `layer`.
    pub fn note(&mut self, layer: usize, experts: &[u16]) {
        let last = &mut self.last[layer];
        if !last.is_empty() {
            self.choices += experts.len() as u64;
            self.kept += experts.iter().filter(|e| last.contains(e)).count() as u64;
        }
        last.clear();
        last.extend_from_slice(experts);
        for &expert in experts {
            self.used[layer][usize::from(expert)] += 1;
        }
    }

    /// Notes which experts of that token were not in the fastest tier when they were chosen.
    pub fn note_missed(&mut self, layer: usize, experts: impl Iterator<Item = u16>) {
        self.missed[layer].clear();
        self.missed[layer].extend(experts);
    }

    /// How often each expert was used, by layer and expert.
    pub fn used(&self) -> &[Vec<u64>] {
        &self.used
    }

    /// The experts of the newest token, by layer.
    pub fn newest(&self) -> &[Vec<u16>] {
        &self.last
    }

    /// Of these, the ones that were not in the fastest tier, by layer.
    pub fn missed(&self) -> &[Vec<u16>] {
        &self.missed
    }

    /// See [`RoutingSummary::kept_from_previous`]; `None` before the second token.
    pub fn kept_from_previous(&self) -> Option<f64> {
        (self.choices > 0).then(|| self.kept as f64 / self.choices as f64)
    }

    /// The summary so far.
    pub fn summary(&self) -> RoutingSummary {
        let distinct: usize = self
            .used
            .iter()
            .map(|layer| layer.iter().filter(|&&n| n > 0).count())
            .sum();
        RoutingSummary {
            kept_from_previous: self.kept_from_previous().unwrap_or_default(),
            distinct_per_layer: distinct as f64 / self.used.len().max(1) as f64,
        }
    }
}
