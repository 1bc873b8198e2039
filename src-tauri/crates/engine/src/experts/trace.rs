//! What the newest decoded token did with the experts, published once a token for whoever
//! watches: a lock and a few hundred bytes, so that watching costs the engine nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::stats::{ExpertStats, RoutingStats};
use crate::checkpoint::ExpertId;

/// The fastest tier that holds an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residence {
    /// In a slot of the device.
    Device,
    /// In RAM.
    Ram,
    /// In its file only.
    Disk,
}

/// The experts at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Layers of the model.
    pub n_layers: usize,
    /// Experts a layer.
    pub n_experts: usize,
    /// Experts a token uses in each layer.
    pub top_k: usize,
    /// Tokens decoded since loading.
    pub tokens: u64,
    /// Where each expert is, by `layer * n_experts + expert`.
    pub places: Vec<Residence>,
    /// What the newest token used, layer by layer, the likelier expert first.
    pub newest: Vec<ExpertId>,
    /// Of these, what was not in the fastest tier when it was chosen.
    pub missed: Vec<ExpertId>,
    /// Uses by decoded tokens since loading, by `layer * n_experts + expert`.
    pub counts: Vec<u64>,
    /// The counters of the tiers.
    pub stats: ExpertStats,
    /// Share of the experts of a token that the token before it used too, 0 to 1; `None` before
    /// the second token.
    pub kept_from_previous: Option<f64>,
}

/// The state behind [`Snapshot`].
#[derive(Debug, Default)]
pub(super) struct Trace(Mutex<State>);

#[derive(Debug, Default, Clone)]
pub(super) struct State {
    pub(super) tokens: u64,
    pub(super) newest: Vec<ExpertId>,
    pub(super) missed: Vec<ExpertId>,
    pub(super) counts: Vec<u64>,
    pub(super) kept_from_previous: Option<f64>,
}

impl Trace {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the newest token of `routing`.
    pub(super) fn publish(&self, routing: &RoutingStats, n_experts: usize) {
        let mut state = self.lock();
        let State {
            tokens,
            newest,
            missed,
            counts,
            ..
        } = &mut *state;
        *tokens += 1;
        collect(routing.newest(), newest);
        collect(routing.missed(), missed);
        counts.resize(routing.newest().len() * n_experts, 0);
        for id in newest {
            counts[usize::from(id.layer) * n_experts + usize::from(id.expert)] += 1;
        }
        state.kept_from_previous = routing.kept_from_previous();
    }

    /// Starts anew.
    pub(super) fn forget(&self) {
        *self.lock() = State::default();
    }

    pub(super) fn state(&self) -> State {
        self.lock().clone()
    }

    /// The experts of `layer` that the newest token used, into `experts`.
    pub(super) fn newest_in(&self, layer: usize, experts: &mut Vec<u16>) {
        experts.clear();
        let state = self.lock();
        let in_layer = state
            .newest
            .iter()
            .filter(|id| usize::from(id.layer) == layer);
        experts.extend(in_layer.map(|id| id.expert));
    }
}

/// Experts by layer, as one list.
fn collect(by_layer: &[Vec<u16>], ids: &mut Vec<ExpertId>) {
    ids.clear();
    for (layer, experts) in by_layer.iter().enumerate() {
        ids.extend(experts.iter().map(|&expert| ExpertId {
            layer: layer as u16,
            expert,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_token_replaces_the_one_before_and_uses_add_up() {
        let trace = Trace::default();
        let mut routing = RoutingStats::new(2, 4);
        for (first, second) in [([0, 1], [2, 3]), ([1, 3], [3, 2])] {
            routing.note(0, &first);
            routing.note_missed(0, first.iter().copied().filter(|e| *e == 3));
            routing.note(1, &second);
            routing.note_missed(1, std::iter::empty());
            trace.publish(&routing, 4);
        }
        let state = trace.state();
        let id = |layer, expert| ExpertId { layer, expert };
        assert_eq!(state.tokens, 2);
        assert_eq!(state.newest, [id(0, 1), id(0, 3), id(1, 3), id(1, 2)]);
        assert_eq!(state.missed, [id(0, 3)]);
        assert_eq!(state.counts, [1, 2, 0, 1, 0, 0, 2, 2]);
        assert_eq!(state.kept_from_previous, Some(0.75));
        let mut last = Vec::new();
        trace.newest_in(1, &mut last);
        assert_eq!(last, [3, 2]);
        trace.forget();
        assert_eq!(trace.state().tokens, 0);
    }
}
