//! The feed of the Experts view: where the experts are, what the newest token used.
//!
//! The engine publishes once a token; this reads a few times a second while an answer is made
//! ([`frame_every`]), and once at every change. One watcher at a time: a new one takes over.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use octet_engine::experts::{ExpertStats, Residence, Snapshot, TierStats};
use serde::Serialize;
use specta::Type;
use tokio::sync::watch;

use crate::models::Models;

/// A frame takes up to 20 ms of a core from the model, caches being cold: half a percent of all
/// cores, from every 2 s on two to four times a second on sixteen.
fn frame_every() -> Duration {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Duration::from_millis((4000 / cores as u64).clamp(250, 2000))
}

/// The experts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct ExpertsFrame {
    /// Layers; 0 while no model is loaded.
    #[specta(type = u32)]
    pub n_layers: usize,
    /// Experts a layer.
    #[specta(type = u32)]
    pub n_experts: usize,
    /// Experts a token uses in each layer.
    #[specta(type = u32)]
    pub top_k: usize,
    /// One character an expert, layer by layer: `v` in VRAM, `r` in RAM, `d` on disk only.
    #[serde(rename = "where")]
    pub places: String,
    /// `layer * n_experts + expert` of those that the newest token uses; none at rest.
    #[specta(type = Vec<u32>)]
    pub used: Vec<usize>,
    /// Of these, the ones that were not in the fastest tier.
    #[specta(type = Vec<u32>)]
    pub missed: Vec<usize>,
    /// Uses since loading, an expert.
    #[specta(type = Vec<u32>)]
    pub counts: Vec<u64>,
    /// Counters of the fastest tier.
    pub totals: TierTotals,
    /// Of the answer being made, else of the last one.
    #[specta(type = Option<u32>)]
    pub tokens_per_sec: Option<f64>,
    /// Whether one is being made.
    pub generating: bool,
    /// Tokens made since loading.
    #[specta(type = u32)]
    pub tokens: u64,
    /// Share of a token's experts that the token before it used too, 0 to 1.
    #[specta(type = Option<u32>)]
    pub kept_from_previous: Option<f64>,
}

/// Counters of a tier since loading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct TierTotals {
    /// Demands that found the expert there, by prefetch too.
    #[specta(type = u32)]
    pub hits: u64,
    /// Demands that had to fetch it.
    #[specta(type = u32)]
    pub misses: u64,
    /// Fetches begun on a guess.
    #[specta(type = u32)]
    pub prefetches: u64,
    /// Of the hits, those that prefetch brought in time.
    #[specta(type = u32)]
    pub prefetch_hits: u64,
    /// Guesses that gave way unused.
    #[specta(type = u32)]
    pub prefetch_wasted: u64,
    /// Bytes brought into the tier.
    #[specta(type = u32)]
    pub bytes_moved: u64,
    /// Time that was waited for fetches.
    #[specta(type = u32)]
    pub wait_ms: f64,
}

/// What is being generated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Activity {
    /// Whether anything is.
    pub generating: bool,
    /// How fast, or how fast it was.
    pub tokens_per_sec: Option<f64>,
}

/// Takes frames; whether it wants more.
pub type FrameSink = dyn Fn(ExpertsFrame) -> bool + Send + Sync;

/// See the [module](self).
pub struct ExpertsFeed {
    models: Arc<Models>,
    activity: watch::Receiver<Activity>,
    watcher: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl ExpertsFeed {
    /// A feed without a watcher.
    pub fn new(models: Arc<Models>, activity: watch::Receiver<Activity>) -> Self {
        Self {
            models,
            activity,
            watcher: Mutex::default(),
        }
    }

    /// Sends frames to `sink`, from now on and in place of the one before.
    pub fn watch(&self, sink: Box<FrameSink>) {
        let feed = feed(Arc::clone(&self.models), self.activity.clone(), sink);
        self.replace(Some(tokio::spawn(feed)));
    }

    /// Ends the frames.
    pub fn unwatch(&self) {
        self.replace(None);
    }

    fn replace(&self, watcher: Option<tokio::task::JoinHandle<()>>) {
        let mut held = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = std::mem::replace(&mut *held, watcher) {
            before.abort();
        }
    }
}

async fn feed(models: Arc<Models>, mut activity: watch::Receiver<Activity>, sink: Box<FrameSink>) {
    let mut states = models.subscribe();
    let mut frames = tokio::time::interval(frame_every());
    frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        frames.tick().await;
        let now = *activity.borrow_and_update();
        states.mark_unchanged();
        if !sink(frame(&models, now)) {
            return;
        }
        if !now.generating {
            // Nothing moves between answers.
            let changed = tokio::select! {
                changed = activity.changed() => changed,
                changed = states.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

fn frame(models: &Models, activity: Activity) -> ExpertsFrame {
    let snapshot = models
        .current()
        .map(|ready| ready.engine.experts().snapshot());
    let mut frame = snapshot.map(ExpertsFrame::from).unwrap_or_default();
    frame.generating = activity.generating;
    // Another model may have been loaded since.
    frame.tokens_per_sec = activity.tokens_per_sec.filter(|_| frame.tokens > 0);
    if !activity.generating {
        // At rest, none is at work.
        frame.used.clear();
        frame.missed.clear();
    }
    frame
}

impl From<Snapshot> for ExpertsFrame {
    fn from(snapshot: Snapshot) -> Self {
        let index = |id: &octet_engine::checkpoint::ExpertId| {
            usize::from(id.layer) * snapshot.n_experts + usize::from(id.expert)
        };
        let letter = |residence: &Residence| match residence {
            Residence::Device => 'v',
            Residence::Ram => 'r',
            Residence::Disk => 'd',
        };
        Self {
            n_layers: snapshot.n_layers,
            n_experts: snapshot.n_experts,
            top_k: snapshot.top_k,
            places: snapshot.places.iter().map(letter).collect(),
            used: snapshot.newest.iter().map(index).collect(),
            missed: snapshot.missed.iter().map(index).collect(),
            counts: snapshot.counts,
            totals: TierTotals::from(&snapshot.stats),
            tokens_per_sec: None,
            generating: false,
            tokens: snapshot.tokens,
            kept_from_previous: snapshot.kept_from_previous,
        }
    }
}

impl From<&ExpertStats> for TierTotals {
    fn from(stats: &ExpertStats) -> Self {
        let TierStats {
            hits,
            misses,
            prefetches,
            prefetch_hits,
            prefetch_wasted,
            bytes_moved,
            wait_ns,
            ..
        } = fastest(stats);
        Self {
            hits,
            misses,
            prefetches,
            prefetch_hits,
            prefetch_wasted,
            bytes_moved,
            wait_ms: wait_ns as f64 / 1e6,
        }
    }
}

/// The counters of the fastest tier there is.
pub fn fastest(stats: &ExpertStats) -> TierStats {
    stats.device.unwrap_or(stats.ram)
}
