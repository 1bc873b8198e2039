//! Choosing the next token from the logits.
//!
//! Given the same logits, parameters and seed, the tokens are the same on every platform: the
//! generator is PCG64, and the exponential is computed here with basic IEEE operations because
//! the system's differs in the last bit from one C library to the next.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::tokenizer::TokenId;

/// How tokens are drawn. Applied in the order of the fields, `temperature` after the penalty:
/// repetition penalty, softmax at the temperature, top-k, min-p, top-p.
///
/// Each filter sees the probabilities that the one before it left, scaled to a sum of 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingParams {
    /// 0 takes the likeliest token always; 1 draws from the model's own distribution.
    pub temperature: f32,
    /// Keep the fewest likeliest tokens whose probabilities sum to at least this (0 to 1).
    /// 1 keeps all.
    pub top_p: f32,
    /// Keep this many likeliest tokens. 0 keeps all.
    pub top_k: usize,
    /// Drop tokens less likely than this share (0 to 1) of the likeliest one. 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits of recent tokens and multiplies negative ones (Keskar et al.
    /// 2019, "CTRL", section 4.1). 1 changes nothing; must be above 0.
    pub repetition_penalty: f32,
    /// How many of the latest tokens count as recent. 0 means none.
    pub repetition_window: usize,
    /// Seed of the draws; a caller picks one at random when there is none.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    /// Mistral's recommendation for its instruct models (temperature 0.7), with the unlikely
    /// tail, which 2-bit experts make noisier, cut off at a cumulative 0.95 and no penalty.
    fn default() -> Self {
        Self {
            temperature: 0.7,
            top_p: 0.95,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: None,
        }
    }
}

impl SamplingParams {
    /// Always the likeliest token, no penalty.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Checks every field's range.
    ///
    /// # Errors
    /// [`SamplingError::Parameter`] for the first field out of range, NaN included.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |name, value: f32, is_valid: bool, expected| {
            if is_valid {
                Ok(())
            } else {
                Err(SamplingError::Parameter {
                    name,
                    value,
                    expected,
                })
            }
        };
        let Self {
            temperature,
            top_p,
            min_p,
            repetition_penalty,
            ..
        } = *self;
        let share = 0.0..=1.0;
        check(
            "temperature",
            temperature,
            temperature >= 0.0 && temperature.is_finite(),
            "a number from 0 up",
        )?;
        check("top_p", top_p, share.contains(&top_p), "0 to 1")?;
        check("min_p", min_p, share.contains(&min_p), "0 to 1")?;
        check(
            "repetition_penalty",
            repetition_penalty,
            repetition_penalty > 0.0 && repetition_penalty.is_finite(),
            "a number above 0",
        )
    }
}

/// Why no token could be chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A parameter out of its range.
    #[error("{name} is {value}; give {expected}")]
    Parameter {
        /// The field of [`SamplingParams`].
        name: &'static str,
        /// Its value.
        value: f32,
        /// The range.
        expected: &'static str,
    },
    /// No logits.
    #[error("there are no logits to choose a token from: expected one for each vocabulary entry")]
    Empty,
    /// The model's output is broken.
    #[error(
        "the model's output is not a number ({value} for token {token}), as with damaged files or \
         values too large for it"
    )]
    NonFinite {
        /// Id of the first such token.
        token: u32,
        /// NaN or an infinity.
        value: f32,
    },
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// Orders by likelihood: the likeliest token has the smallest rank, the lower id the
    /// smaller one among equals. One integer, because selection compares little else.
    rank: u64,
    /// Probability relative to the likeliest token's.
    weight: f64,
}

impl Candidate {
    fn rank(logit: f32, id: u32) -> u64 {
        let bits = logit.to_bits();
        let ascending = if logit.is_sign_negative() {
            !bits
        } else {
            bits | 1 << 31
        };
        u64::from(!ascending) << 32 | u64::from(id)
    }

    fn id(&self) -> TokenId {
        TokenId(self.rank as u32)
    }
}

/// Draws tokens. Its buffers are kept, so that a warm sampler allocates nothing.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    rng: Pcg64,
    /// Those that the filters so far have kept, by id.
    candidates: Vec<Candidate>,
    /// A copy of the candidates that selection may reorder.
    ranked: Vec<Candidate>,
    recent: Vec<u32>,
}

impl Sampler {
    /// A sampler that starts from `seed` (`params.seed` is for the caller to choose it by).
    ///
    /// # Errors
    /// As [`SamplingParams::validate`].
    pub fn new(params: SamplingParams, seed: u64) -> Result<Self, SamplingError> {
        params.validate()?;
        Ok(Self {
            params,
            rng: Pcg64::seed_from_u64(seed),
            candidates: Vec::new(),
            ranked: Vec::new(),
            recent: Vec::new(),
        })
    }

    /// Chooses a token by its logits (`logits[id]`, length vocab). `recent` are the tokens so
    /// far, oldest first; the repetition penalty is applied to `logits` in place.
    ///
    /// # Errors
    /// [`SamplingError`] when there are no logits or one is not finite.
    pub fn sample(
        &mut self,
        logits: &mut [f32],
        recent: &[TokenId],
    ) -> Result<TokenId, SamplingError> {
        if let Some(token) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(SamplingError::NonFinite {
                token: token as u32,
                value: logits[token],
            });
        }
        self.penalize(logits, recent);
        let (likeliest, max_logit) = likeliest(logits).ok_or(SamplingError::Empty)?;
        if self.params.temperature == 0.0 || self.params.top_k == 1 {
            return Ok(likeliest);
        }
        self.weigh(logits, max_logit);
        self.keep_top_k();
        self.keep_min_p();
        self.keep_top_p();
        Ok(self.draw().unwrap_or(likeliest))
    }

    fn penalize(&mut self, logits: &mut [f32], recent: &[TokenId]) {
        let penalty = self.params.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let start = recent.len().saturating_sub(self.params.repetition_window);
        self.recent.clear();
        self.recent.extend(recent[start..].iter().map(|id| id.0));
        // A token is penalized once, however often it occurs.
        self.recent.sort_unstable();
        self.recent.dedup();
        for &id in &self.recent {
            if let Some(logit) = logits.get_mut(id as usize) {
                let scaled = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
                *logit = scaled.clamp(f32::MIN, f32::MAX);
            }
        }
    }

    /// Makes every token a candidate.
    fn weigh(&mut self, logits: &[f32], max_logit: f32) {
        let temperature = f64::from(self.params.temperature);
        let max_logit = f64::from(max_logit);
        self.candidates.clear();
        self.candidates
            .extend((0..).zip(logits).map(|(id, &logit)| Candidate {
                rank: Candidate::rank(logit, id),
                weight: exp_non_positive((f64::from(logit) - max_logit) / temperature),
            }));
    }

    fn keep_top_k(&mut self) {
        let top_k = self.params.top_k;
        if (1..self.candidates.len()).contains(&top_k) {
            self.ranked.clone_from(&self.candidates);
            let select = self
                .ranked
                .select_nth_unstable_by_key(top_k - 1, |kept| kept.rank);
            let last = select.1.rank;
            self.candidates.retain(|candidate| candidate.rank <= last);
        }
    }

    fn keep_min_p(&mut self) {
        let min_p = f64::from(self.params.min_p);
        if min_p > 0.0 {
            self.candidates
                .retain(|candidate| candidate.weight >= min_p);
        }
    }

    fn keep_top_p(&mut self) {
        if self.params.top_p >= 1.0 {
            return;
        }
        let total = total_weight(&self.candidates);
        let wanted = total * f64::from(self.params.top_p);
        // All that are lighter than this together weigh no more than top-p leaves out.
        let lightest = (total - wanted) / self.candidates.len() as f64;
        self.candidates
            .retain(|candidate| candidate.weight >= lightest);

        // Halves the stretch in which the last kept one lies; all before it are likelier.
        self.ranked.clone_from(&self.candidates);
        let mut stretch = self.ranked.as_mut_slice();
        let mut before = 0.0;
        while stretch.len() > 1 {
            let middle = stretch.len() / 2;
            stretch.select_nth_unstable_by_key(middle, |candidate| candidate.rank);
            let (likelier, rest) = stretch.split_at_mut(middle);
            let likelier_weight = total_weight(likelier);
            if before + likelier_weight >= wanted {
                stretch = likelier;
            } else {
                before += likelier_weight;
                stretch = rest;
            }
        }
        if let [last] = stretch {
            let last = last.rank;
            self.candidates.retain(|candidate| candidate.rank <= last);
        }
    }

    fn draw(&mut self) -> Option<TokenId> {
        // The upper 53 bits: a multiple of 2^-53 in 0..1.
        let uniform = (self.rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64);
        let mut left = uniform * total_weight(&self.candidates);
        let mut last = None;
        for candidate in self
            .candidates
            .iter()
            .filter(|candidate| candidate.weight > 0.0)
        {
            last = Some(candidate.id());
            left -= candidate.weight;
            if left < 0.0 {
                break;
            }
        }
        last
    }
}

fn total_weight(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

/// The token with the largest logit, the lowest id among equals, and that logit.
fn likeliest(logits: &[f32]) -> Option<(TokenId, f32)> {
    let pairs = (0..).map(TokenId).zip(logits.iter().copied());
    pairs.reduce(|best, next| if next.1 > best.1 { next } else { best })
}

/// e^x for x <= 0 with a relative error below 5e-16; 0 for x below -708.
fn exp_non_positive(x: f64) -> f64 {
    use std::f64::consts::LOG2_E;
    // ln 2 in two parts, so that the multiple of it is subtracted exactly.
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    // Adding it rounds to an integer, which is then in the low bits.
    const ROUND: f64 = (1_u64 << 52) as f64 * 1.5;
    const FACTORIALS: [f64; 14] = inverse_factorials();
    if x < -708.0 {
        return 0.0;
    }
    let rounded = x * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    // Taylor series of e^r for |r| <= ln(2)/2.
    let series = FACTORIALS
        .iter()
        .rev()
        .fold(0.0, |sum, inverse| sum * r + inverse);
    let exponent = rounded.to_bits().wrapping_add(1023) << 52;
    series * f64::from_bits(exponent)
}

/// 1/0!, 1/1!, ...
const fn inverse_factorials() -> [f64; 14] {
    let mut inverses = [1.0; 14];
    let mut factorial = 1.0;
    let mut k = 1;
    while k < inverses.len() {
        factorial *= k as f64;
        inverses[k] = 1.0 / factorial;
        k += 1;
    }
    inverses
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampler(params: SamplingParams) -> Sampler {
        Sampler::new(params, 7).unwrap()
    }

    fn plain() -> SamplingParams {
        SamplingParams {
            temperature: 1.0,
            top_p: 1.0,
            ..SamplingParams::default()
        }
    }

    /// How often each token is drawn.
    fn counts(params: SamplingParams, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = sampler(params);
        let mut counts = vec![0; logits.len()];
        for _ in 0..draws {
            let token = sampler.sample(&mut logits.to_vec(), &[]).unwrap();
            counts[token.0 as usize] += 1;
        }
        counts
    }

    /// Fails when the counts are more than 5 standard deviations from the shares.
    fn assert_shares(counts: &[usize], shares: &[f64]) {
        let draws: usize = counts.iter().sum();
        for (token, (&count, &share)) in counts.iter().zip(shares).enumerate() {
            let mean = share * draws as f64;
            let deviation = (mean * (1.0 - share)).sqrt();
            let off = (count as f64 - mean).abs();
            assert!(
                off <= 5.0 * deviation,
                "token {token}: {count} of {draws}, expected {mean}"
            );
        }
    }

    const SHARES: [f64; 5] = [0.1, 0.4, 0.05, 0.25, 0.2];

    fn logits() -> Vec<f32> {
        SHARES.map(|share| share.ln() as f32 + 3.0).to_vec()
    }

    fn renormalized(kept: &[usize]) -> Vec<f64> {
        let total: f64 = kept.iter().map(|&token| SHARES[token]).sum();
        let share = |token| {
            if kept.contains(&token) {
                SHARES[token] / total
            } else {
                0.0
            }
        };
        (0..SHARES.len()).map(share).collect()
    }

    #[test]
    fn draws_follow_the_distribution() {
        assert_shares(&counts(plain(), &logits(), 20_000), &SHARES);
        let squared: f64 = SHARES.iter().map(|share| share * share).sum();
        let sharper = SHARES.map(|share| share * share / squared);
        let half = SamplingParams {
            temperature: 0.5,
            ..plain()
        };
        assert_shares(&counts(half, &logits(), 20_000), &sharper);
    }

    #[test]
    fn filters_keep_what_they_say() {
        let keeps = |params, kept: &[usize]| {
            assert_shares(&counts(params, &logits(), 20_000), &renormalized(kept));
        };
        keeps(
            SamplingParams {
                top_k: 3,
                ..plain()
            },
            &[1, 3, 4],
        );
        keeps(
            SamplingParams {
                top_k: 9,
                ..plain()
            },
            &[0, 1, 2, 3, 4],
        );
        keeps(
            SamplingParams {
                min_p: 0.24,
                ..plain()
            },
            &[0, 1, 3, 4],
        );
        keeps(
            SamplingParams {
                top_p: 0.6,
                ..plain()
            },
            &[1, 3],
        );
        keeps(
            SamplingParams {
                top_p: 0.66,
                ..plain()
            },
            &[1, 3, 4],
        );
        keeps(
            SamplingParams {
                top_p: 0.0,
                ..plain()
            },
            &[1],
        );
        // Of the three that top-k leaves, two hold 76%; of all five they hold 65%.
        keeps(
            SamplingParams {
                top_k: 3,
                top_p: 0.7,
                ..plain()
            },
            &[1, 3],
        );
    }

    #[test]
    fn top_p_finds_its_set_in_a_large_flat_vocabulary() {
        let vocab = 4_000;
        let mut sampler = sampler(SamplingParams {
            top_p: 0.5,
            ..plain()
        });
        // Equal logits: the lower half of the ids are the likelier ones by the tie rule.
        for _ in 0..500 {
            let token = sampler.sample(&mut vec![0.25; vocab], &[]).unwrap();
            assert!(token.0 < 2_000, "{token:?}");
        }
        assert_eq!(sampler.candidates.len(), 2_000);
    }

    #[test]
    fn ranks_order_by_logit_then_by_id() {
        let likeliest_first = [f32::MAX, 1.5, 0.0, -0.0, -1e-40, -1.5, f32::MIN];
        let ranks = likeliest_first.map(|logit| Candidate::rank(logit, 9));
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
        assert!(Candidate::rank(1.5, 3) < Candidate::rank(1.5, 4));
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        let mut greedy = sampler(SamplingParams::greedy());
        let token = greedy.sample(&mut [0.5, 2.0, -1.0, 2.0], &[]).unwrap();
        assert_eq!(token, TokenId(1));
        let mut top_1 = sampler(SamplingParams {
            top_k: 1,
            ..plain()
        });
        assert_eq!(top_1.sample(&mut [0.0, 0.0], &[]).unwrap(), TokenId(0));
        let coldest = SamplingParams {
            temperature: f32::from_bits(1),
            ..plain()
        };
        let token = sampler(coldest)
            .sample(&mut [0.5, f32::MIN, f32::MAX], &[])
            .unwrap();
        assert_eq!(token, TokenId(2));
    }

    #[test]
    fn recent_tokens_are_penalized_once() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            repetition_window: 3,
            ..SamplingParams::greedy()
        };
        let mut logits = [4.0, 6.0, -1.0, 8.0, 0.0];
        let recent = [3, 1, 2, 1].map(TokenId);
        let token = sampler(params.clone())
            .sample(&mut logits, &recent)
            .unwrap();
        assert_eq!(logits, [4.0, 3.0, -2.0, 8.0, 0.0]);
        assert_eq!(token, TokenId(3));
        let mut extreme = [f32::MIN, 1.0];
        let unknown = [0, 900].map(TokenId);
        let token = sampler(params.clone())
            .sample(&mut extreme, &unknown)
            .unwrap();
        assert_eq!((token, extreme[0]), (TokenId(1), f32::MIN));
        let none = SamplingParams {
            repetition_window: 0,
            ..params
        };
        let mut logits = [4.0];
        sampler(none).sample(&mut logits, &[TokenId(0)]).unwrap();
        assert_eq!(logits, [4.0]);
    }

    #[test]
    fn a_seed_gives_these_tokens_everywhere() {
        let mut sampler = Sampler::new(SamplingParams::default(), 42).unwrap();
        let tokens: Vec<u32> = (0..12_u32)
            .map(|step| {
                let mut logits: Vec<f32> = (0..1000_u32)
                    .map(|id| ((id * 7919 + step * 104_729) % 997) as f32 / 100.0)
                    .collect();
                sampler.sample(&mut logits, &[]).unwrap().0
            })
            .collect();
        assert_eq!(
            tokens,
            [193, 246, 722, 563, 966, 356, 215, 513, 794, 323, 253, 903]
        );
    }

    #[test]
    fn broken_logits_are_errors() {
        for params in [SamplingParams::greedy(), plain()] {
            let mut sampler = sampler(params);
            assert_eq!(sampler.sample(&mut [], &[]), Err(SamplingError::Empty));
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let error = sampler.sample(&mut [0.0, value], &[]).unwrap_err();
                assert!(
                    matches!(error, SamplingError::NonFinite { token: 1, .. }),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let sound = SamplingParams::default();
        assert_eq!(sound.validate(), Ok(()));
        let wrong = |change: fn(&mut SamplingParams, f32), values: &[f32], field: &str| {
            for &value in values {
                let mut params = sound.clone();
                change(&mut params, value);
                let error = Sampler::new(params, 0).unwrap_err().to_string();
                assert!(error.starts_with(field), "{error}");
            }
        };
        let infinite = [f32::NAN, f32::INFINITY, -0.1];
        wrong(
            |params, value| params.temperature = value,
            &infinite,
            "temperature",
        );
        wrong(
            |params, value| params.top_p = value,
            &[f32::NAN, -0.1, 1.1],
            "top_p",
        );
        wrong(
            |params, value| params.min_p = value,
            &[f32::NAN, -0.1, 1.1],
            "min_p",
        );
        wrong(
            |params, value| params.repetition_penalty = value,
            &infinite,
            "repetition_penalty",
        );
        wrong(
            |params, value| params.repetition_penalty = value,
            &[0.0],
            "repetition_penalty",
        );
    }

    #[test]
    fn missing_fields_take_their_defaults() {
        let params: SamplingParams = serde_json::from_str(r#"{"temperature": 0.0}"#).unwrap();
        assert_eq!(params, SamplingParams::greedy());
    }

    #[test]
    fn a_warm_sampler_keeps_its_buffers() {
        let params = SamplingParams {
            repetition_penalty: 1.1,
            top_k: 40,
            ..plain()
        };
        let mut sampler = sampler(params);
        let recent: Vec<TokenId> = (0..64).map(TokenId).collect();
        let mut logits: Vec<f32> = (0..5000_u16).map(|id| f32::from(id % 97)).collect();
        sampler.sample(&mut logits, &recent).unwrap();
        let capacities = |sampler: &Sampler| {
            let recent = sampler.recent.capacity();
            (
                sampler.candidates.capacity(),
                sampler.ranked.capacity(),
                recent,
            )
        };
        let buffers = capacities(&sampler);
        for _ in 0..10 {
            sampler.sample(&mut logits, &recent).unwrap();
            assert_eq!(capacities(&sampler), buffers);
        }
    }

    #[test]
    fn the_exponential_is_accurate() {
        assert_eq!(exp_non_positive(0.0), 1.0);
        assert_eq!(exp_non_positive(f64::NEG_INFINITY), 0.0);
        for step in 0..70_000 {
            let x = f64::from(step) * -0.01 - 1e-7;
            let (ours, system) = (exp_non_positive(x), x.exp());
            assert!(
                (ours - system).abs() <= 2.0 * f64::EPSILON * system,
                "e^{x}: {ours} {system}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_drawn_token_is_one_that_the_filters_keep(
            logits in proptest::collection::vec(-20.0_f32..20.0, 1..400),
            temperature in 0.1_f32..3.0,
            top_k in 0_usize..50,
            top_p in 0.0_f32..=1.0,
            min_p in 0.0_f32..=1.0,
            seed: u64,
        ) {
            let params = SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::default() };
            let token = Sampler::new(params, seed).unwrap().sample(&mut logits.clone(), &[]).unwrap();

            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            if top_k > 0 {
                order.truncate(top_k);
            }
            let weight = |id: usize| f64::from((logits[id] - logits[order[0]]) / temperature).exp();
            // A hair of slack on each bound: the reference's exponential is another one.
            let kept: Vec<usize> = order.iter().copied()
                .filter(|&id| weight(id) >= f64::from(min_p) * (1.0 - 1e-5))
                .collect();
            let total: f64 = kept.iter().map(|&id| weight(id)).sum();
            let place = kept.iter().position(|&id| id == token.0 as usize);
            prop_assert!(place.is_some());
            let before: f64 = kept[..place.unwrap()].iter().map(|&id| weight(id)).sum();
            prop_assert!(before <= total * f64::from(top_p) * (1.0 + 1e-5) + 1e-9);
        }
    }
}
