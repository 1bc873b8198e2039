//! How the parts of a model are to be quantized.

use std::collections::BTreeMap;

use octet_kernels::Bits;
use serde::{Deserialize, Serialize};

use crate::hqq::MatrixSpec;

/// Quantization of the experts or of the attention projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartOptions {
    /// Bits a weight.
    pub bits: Bits,
    /// Weights that share a scale and a zero.
    pub group_size: usize,
    /// Scales that share a meta scale; `None` stores scales and zeros as plain f16.
    pub scale_group_size: Option<usize>,
}

/// How to quantize a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The experts' matrices.
    pub experts: PartOptions,
    /// The attention projections.
    pub attention: PartOptions,
    /// Plain rounding to the nearest level in place of HQQ's solver, for comparison.
    pub round_to_nearest: bool,
    /// Worker threads, at least 1; fewer work where memory is short. Changes no byte of the
    /// output.
    pub threads: usize,
}

impl Default for Options {
    /// The demo's own: experts 2 bits in groups of 16, attention 4 bits in groups of 64; one
    /// thread for every core.
    fn default() -> Self {
        Self {
            experts: PartOptions {
                bits: Bits::B2,
                group_size: 16,
                scale_group_size: Some(128),
            },
            attention: PartOptions {
                bits: Bits::B4,
                group_size: 64,
                scale_group_size: Some(256),
            },
            round_to_nearest: false,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

impl Options {
    pub(crate) fn spec(&self, part: PartOptions) -> MatrixSpec {
        MatrixSpec {
            bits: part.bits,
            group_size: part.group_size,
            scale_group_size: part.scale_group_size,
            optimize: !self.round_to_nearest,
        }
    }

    /// What decides the bytes of the output, by name, as recorded for going on later.
    pub(crate) fn record(&self) -> OptionsRecord {
        let part = |name: &str, part: PartOptions| {
            let scale_group = part.scale_group_size.unwrap_or(0);
            [
                (format!("{name} bits"), part.bits.count() as usize),
                (format!("{name} group"), part.group_size),
                (format!("{name} scale group"), scale_group),
            ]
        };
        let mut values: BTreeMap<String, usize> = BTreeMap::new();
        values.extend(part("expert", self.experts));
        values.extend(part("attention", self.attention));
        values.insert("round to nearest".into(), self.round_to_nearest.into());
        OptionsRecord(values)
    }
}

/// [`Options::record`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OptionsRecord(BTreeMap<String, usize>);

impl OptionsRecord {
    /// What differs between the options of `self`, an earlier run, and those of `now`.
    pub(crate) fn differences(&self, now: &Self) -> Vec<String> {
        let show = |value: Option<&usize>| value.map_or_else(|| "none".into(), usize::to_string);
        let mut names: Vec<&String> = self.0.keys().chain(now.0.keys()).collect();
        names.sort();
        names.dedup();
        names
            .into_iter()
            .map(|name| (name, self.0.get(name), now.0.get(name)))
            .filter(|(_, then, now)| then != now)
            .map(|(name, then, now)| format!("{name} {} then, {} now", show(then), show(now)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_both_values_and_threads_make_none() {
        let then = Options::default();
        let mut now = then;
        now.threads += 7;
        assert!(then.record().differences(&now.record()).is_empty());
        now.experts.bits = Bits::B3;
        now.round_to_nearest = true;
        assert_eq!(
            then.record().differences(&now.record()),
            [
                "expert bits 2 then, 3 now",
                "round to nearest 0 then, 1 now"
            ]
        );
    }
}
