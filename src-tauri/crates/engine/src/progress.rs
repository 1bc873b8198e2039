//! How far a prompt is, and how long its rest takes.

use std::time::Duration;

use crate::backend::{PassProgress, experts, projections};
use crate::spec::ModelSpec;

/// Reports come at most this often.
const REPORT_EVERY: Duration = Duration::from_millis(50);

/// An estimate is made from at least so many layers and this long, and by what the newest part of
/// the prompt took, this much of the whole.
const LEAST_LAYERS: usize = 2;
const LEAST_TIME: Duration = Duration::from_secs(2);
const RECENT: f64 = 0.25;

/// One layer counts for no more than this times what it should have taken: a drive that wakes up
/// says nothing of the others.
const MOST_SURPRISE: f64 = 3.0;

/// What is told of a prompt at work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Report {
    /// Tokens done.
    pub done: usize,
    /// Of the work, the part that is done, 0 to 1.
    pub fraction: f64,
    /// How long the rest takes, where that can be said.
    pub left: Option<Duration>,
}

impl Report {
    /// Of all `total` tokens.
    pub(crate) fn end(total: usize) -> Self {
        Self {
            done: total,
            fraction: 1.0,
            left: None,
        }
    }
}

/// Work by position: a token's products, and its attention to those before it.
#[derive(Debug, Clone, Copy)]
struct Cost {
    token: f64,
    position: f64,
}

impl Cost {
    fn new(c: &ModelSpec) -> Self {
        Self {
            token: (projections(c) + experts(c)) as f64,
            position: (2 * c.q_size()) as f64,
        }
    }

    /// Of the tokens in `start..end`, whose ends need not be whole.
    fn of(&self, start: f64, end: f64) -> f64 {
        (end - start) * (self.token + self.position * (start + end) / 2.0)
    }
}

/// Follows a prompt through its passes.
pub(crate) struct PromptProgress {
    cost: Cost,
    first: usize,
    total: usize,
    reported: Duration,
    estimate: Estimate,
}

impl PromptProgress {
    /// The prompt's tokens in `first..total` are to be computed.
    pub(crate) fn new(c: &ModelSpec, first: usize, total: usize) -> Self {
        Self {
            cost: Cost::new(c),
            first,
            total,
            reported: Duration::ZERO,
            estimate: Estimate::default(),
        }
    }

    /// Takes what the pass over `rows` tokens from `start` tells, `elapsed` after the beginning;
    /// what is to be reported, if it is time.
    pub(crate) fn take(
        &mut self,
        (start, rows): (usize, usize),
        pass: PassProgress,
        elapsed: Duration,
    ) -> Option<Report> {
        let at = start as f64 + rows as f64 * pass.done;
        let (first, total) = (self.first as f64, self.total as f64);
        let fraction = self.cost.of(first, at) / self.cost.of(first, total);
        if pass.begins {
            self.estimate.note(fraction, elapsed);
        }
        // All of it is reported as the end, once the logits are there.
        if at >= total || elapsed < self.reported + REPORT_EVERY {
            return None;
        }
        self.reported = elapsed;
        Some(Report {
            done: at as usize,
            fraction,
            left: self.estimate.left(fraction, elapsed),
        })
    }
}

/// How long the rest takes, by how long whole layers took: within one, experts that are in memory
/// come before those that are not.
#[derive(Debug, Default)]
struct Estimate {
    /// Newest work and its time, in seconds; what is older counts for less.
    work: f64,
    time: f64,
    layers: usize,
    /// Where the layer at work began.
    at: (f64, Duration),
}

impl Estimate {
    /// A layer begins where `fraction` of all is done.
    fn note(&mut self, fraction: f64, elapsed: Duration) {
        let (before, began) = self.at;
        self.at = (fraction, elapsed);
        let work = fraction - before;
        if work <= 0.0 {
            return;
        }
        let mut time = elapsed.saturating_sub(began).as_secs_f64();
        if self.layers > 0 {
            time = time.min(MOST_SURPRISE * self.time / self.work * work);
        }
        let keep = (-work / RECENT).exp();
        self.work = self.work * keep + work;
        self.time = self.time * keep + time;
        self.layers += 1;
    }

    fn left(&self, fraction: f64, elapsed: Duration) -> Option<Duration> {
        let is_known = self.layers >= LEAST_LAYERS && elapsed >= LEAST_TIME;
        let left = self.time / self.work * (1.0 - fraction);
        is_known
            .then(|| Duration::try_from_secs_f64(left).ok())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: usize = 32;

    fn spec() -> ModelSpec {
        ModelSpec::from_config_json(br#"{"model_type": "mixtral"}"#).expect("a config")
    }

    /// What is reported of a prompt of two chunks of 500 tokens in 32 layers of 8 experts, each of
    /// which takes what `expert` says of its layer, counted over both chunks.
    fn reports(expert: impl Fn(usize, usize) -> f64) -> Vec<(f64, Report)> {
        let mut progress = PromptProgress::new(&spec(), 0, 1000);
        let (mut seconds, mut all) = (0.0, Vec::new());
        for chunk in 0..2 {
            for layer in 0..LAYERS {
                for part in 0..=8 {
                    let pass = PassProgress {
                        layer,
                        begins: part == 0,
                        done: (layer as f64 + part as f64 / 8.0) / LAYERS as f64,
                    };
                    let elapsed = Duration::from_secs_f64(seconds);
                    let report = progress.take((chunk * 500, 500), pass, elapsed);
                    all.extend(report.map(|report| (seconds, report)));
                    if part < 8 {
                        seconds += expert(chunk * LAYERS + layer, part);
                    }
                }
            }
        }
        all.push((seconds, Report::end(1000)));
        all
    }

    /// The estimate and what it should have been, in seconds.
    fn estimates(reports: &[(f64, Report)]) -> Vec<(f64, f64)> {
        let end = reports.last().expect("reports").0;
        let known = |(at, report): &(f64, Report)| Some((report.left?.as_secs_f64(), end - at));
        reports.iter().filter_map(known).collect()
    }

    #[test]
    fn slow_experts_are_reported_one_by_one_and_fast_ones_at_a_bounded_rate() {
        let slow = reports(|_, _| 0.1);
        let steps = slow.windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(steps.clone().all(|step| step < 0.101), "{slow:?}");
        let fast = reports(|_, _| 0.001);
        let steps = fast[..fast.len() - 1].windows(2);
        assert!(steps.clone().all(|pair| pair[1].0 - pair[0].0 > 0.0499));
        assert!(steps.count() > 5, "{fast:?}");
    }

    #[test]
    fn what_is_done_never_falls_and_is_all_only_at_the_end() {
        let reports = reports(|_, _| 0.06);
        for pair in reports.windows(2) {
            let [(_, a), (_, b)] = pair else { continue };
            assert!(a.done <= b.done && a.fraction <= b.fraction, "{pair:?}");
            assert!(a.done < 1000 && a.fraction < 1.0, "{pair:?}");
        }
    }

    #[test]
    fn the_time_left_is_right_from_the_beginning_where_all_layers_are_alike() {
        // Experts that are in memory come first in each layer.
        let reports = reports(|_, part| if part < 4 { 0.01 } else { 0.19 });
        let estimates = estimates(&reports);
        assert!(estimates.len() > 200, "{estimates:?}");
        for (left, true_left) in estimates {
            let off = (left - true_left).abs();
            assert!(off < 0.1 * true_left + 1.0, "{left} for {true_left}");
        }
    }

    #[test]
    fn nothing_is_said_before_there_is_evidence() {
        let reports = reports(|_, _| 0.2);
        let (at, _) = reports.iter().find(|(_, r)| r.left.is_some()).expect("one");
        assert!((3.1..3.6).contains(at), "two layers of 1.6 s: {at}");
        let (_, quick) = estimates(&self::reports(|_, _| 0.01))[0];
        assert!(quick < 5.12 - 1.99, "after two seconds: {quick}");
    }

    #[test]
    fn a_layer_that_hangs_does_not_let_the_estimate_jump() {
        // A minute at the fourth layer, where all take 1.6 s.
        let reports = reports(|layer, part| match (layer, part) {
            (3, 2) => 60.0,
            _ => 0.2,
        });
        let estimates: Vec<f64> = estimates(&reports).iter().map(|e| e.0).collect();
        for pair in estimates.windows(2) {
            assert!(pair[1] < 1.7 * pair[0], "{pair:?}");
        }
        assert!(estimates.iter().all(|left| *left < 180.0), "{estimates:?}");
    }

    #[test]
    fn what_becomes_slower_is_followed_by_and_by() {
        let slower = reports(|layer, _| if layer < 8 { 0.05 } else { 0.5 });
        let estimates = estimates(&slower);
        for pair in estimates.windows(2) {
            assert!(pair[1].0 < 1.7 * pair[0].0, "{pair:?}");
        }
        let half = &estimates[estimates.len() / 2..];
        for (left, true_left) in half {
            assert!(
                (left - true_left).abs() < 0.25 * true_left + 1.0,
                "{left} for {true_left}"
            );
        }
    }

    #[test]
    fn later_tokens_are_more_work_than_earlier_ones() {
        let cost = Cost::new(&spec());
        assert!(cost.of(0.0, 100.0) < cost.of(32_000.0, 32_100.0));
        let whole = cost.of(0.0, 8192.0);
        let halves = cost.of(0.0, 4096.0) + cost.of(4096.0, 8192.0);
        assert!((whole - halves).abs() < 1e-9 * whole);
    }
}
