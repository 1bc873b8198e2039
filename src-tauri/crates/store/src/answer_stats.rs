//! Figures of an answer, also of one that was made in several runs.

use serde::{Deserialize, Serialize};

use crate::StopReason;

/// What figures of an answer are about: one that was continued was made in several runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub enum StatsScope {
    /// All of it, made in one run.
    #[default]
    Whole,
    /// All of it, over several runs; the seed is that of the last.
    Continued,
    /// Its last run: an earlier one left no figures.
    LastPart,
}

/// Figures of one answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct AnswerStats {
    /// Tokens made.
    pub new_tokens: u32,
    /// New tokens a second; 0 where too few came for a speed.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub tokens_per_sec: f64,
    /// From the request to the first token, in milliseconds.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub time_to_first_token_ms: f64,
    /// Share of experts that were found in the fastest tier, 0 to 1.
    #[cfg_attr(feature = "specta", specta(type = Option<u32>))]
    pub hit_rate: Option<f64>,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, tokens that need not have been computed again.
    pub reused_tokens: u32,
    /// The seed that gives this answer again: a 64-bit number, as text because JavaScript's
    /// numbers are shorter.
    pub seed: String,
    /// What the figures are about.
    #[serde(default)]
    pub scope: StatsScope,
}

impl AnswerStats {
    /// The figures of an answer that went on from `earlier`: sums and means over both runs.
    /// Prompt and first token are those of the first, seed and end those of the second.
    #[must_use]
    pub fn after(self, earlier: &Self) -> Self {
        // The first token of a run belongs to its prompt.
        let steps = |stats: &Self| f64::from(stats.new_tokens.saturating_sub(1));
        let timed = |stats: &&Self| stats.tokens_per_sec > 0.0;
        let runs = [earlier, &self];
        let steps_timed: f64 = runs.into_iter().filter(timed).map(steps).sum();
        let seconds: f64 = runs
            .into_iter()
            .filter(timed)
            .map(|stats| steps(stats) / stats.tokens_per_sec)
            .sum();
        let tokens = f64::from(earlier.new_tokens) + f64::from(self.new_tokens);
        let hit_rate = match (earlier.hit_rate, self.hit_rate) {
            (Some(before), Some(now)) if tokens > 0.0 => Some(
                (before * f64::from(earlier.new_tokens) + now * f64::from(self.new_tokens))
                    / tokens,
            ),
            (before, now) => now.or(before),
        };
        Self {
            new_tokens: earlier.new_tokens.saturating_add(self.new_tokens),
            tokens_per_sec: if seconds > 0.0 {
                steps_timed / seconds
            } else {
                0.0
            },
            hit_rate,
            time_to_first_token_ms: earlier.time_to_first_token_ms,
            prompt_tokens: earlier.prompt_tokens,
            reused_tokens: earlier.reused_tokens,
            scope: match earlier.scope {
                StatsScope::LastPart => StatsScope::LastPart,
                _ => StatsScope::Continued,
            },
            ..self
        }
    }

    /// JSON has no infinities: a rate over no time counts as zero.
    pub(crate) fn make_finite(&mut self) {
        for value in [&mut self.tokens_per_sec, &mut self.time_to_first_token_ms]
            .into_iter()
            .chain(&mut self.hit_rate)
        {
            if !value.is_finite() {
                *value = 0.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(new_tokens: u32, tokens_per_sec: f64, hit_rate: Option<f64>) -> AnswerStats {
        AnswerStats {
            new_tokens,
            tokens_per_sec,
            time_to_first_token_ms: f64::from(new_tokens),
            hit_rate,
            stop_reason: StopReason::Cancelled,
            prompt_tokens: new_tokens,
            reused_tokens: 1,
            seed: new_tokens.to_string(),
            scope: StatsScope::Whole,
        }
    }

    #[test]
    fn a_continued_answer_has_figures_of_all_of_it() {
        // 100 steps in 10 s, then 20 in 10 s.
        let whole = AnswerStats {
            stop_reason: StopReason::Eos,
            ..run(21, 2.0, Some(0.2))
        }
        .after(&run(101, 10.0, Some(0.8)));
        assert_eq!((whole.new_tokens, whole.tokens_per_sec), (122, 6.0));
        let hits = (0.8 * 101.0 + 0.2 * 21.0) / 122.0;
        assert_eq!(whole.hit_rate, Some(hits));
        assert_eq!(
            (whole.prompt_tokens, whole.time_to_first_token_ms),
            (101, 101.0)
        );
        assert_eq!(
            (whole.seed.as_str(), whole.stop_reason),
            ("21", StopReason::Eos)
        );
        assert_eq!(whole.scope, StatsScope::Continued);
    }

    #[test]
    fn a_run_in_which_nothing_came_changes_no_figure() {
        let before = run(101, 10.0, Some(0.8));
        let whole = run(0, 0.0, None).after(&before);
        assert_eq!((whole.new_tokens, whole.tokens_per_sec), (101, 10.0));
        assert_eq!(whole.hit_rate, Some(0.8));
        assert_eq!(
            run(0, 0.0, None).after(&run(0, 0.0, None)).tokens_per_sec,
            0.0
        );
    }

    #[test]
    fn figures_that_miss_a_part_go_on_missing_it() {
        let part = AnswerStats {
            scope: StatsScope::LastPart,
            ..run(10, 1.0, None)
        };
        assert_eq!(run(10, 1.0, None).after(&part).scope, StatsScope::LastPart);
    }

    #[test]
    fn figures_of_earlier_versions_are_read() {
        let mut json = serde_json::to_value(run(3, 1.0, None)).unwrap();
        json.as_object_mut().unwrap().remove("scope");
        let read: AnswerStats = serde_json::from_value(json).unwrap();
        assert_eq!(read, run(3, 1.0, None));
    }
}
