//! How a token's misses are met: which experts are fetched, and which the CPU computes meanwhile.
//!
//! Both go on at once, so the layer ends with the later of the two. With 25 GB/s to the GPU
//! against 40 GB/s of CPU, say, a single miss is computed on the CPU, and of two one is fetched
//! meanwhile; one that lies in plain RAM is copied at a third of that speed, and stays where it is. What a prefetch has set
//! on its way is weighed too: it is waited for only if the rest of its copy ends before the CPU
//! would. A pure function of numbers: [`choose`] tries every split.

use super::device::Bandwidths;
use crate::plan::Misses;

/// Misses that are weighed against each other; further ones are fetched.
pub const MOST_WEIGHED: usize = 8;

/// A way to meet a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// Copy the expert to the device and compute it there.
    Fetch,
    /// Compute it on the CPU, from RAM.
    Cpu,
}

/// An expert that is asked for and not on the device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Missing {
    /// Its size.
    pub bytes: usize,
    /// Tokens that chose it.
    pub rows: usize,
    /// It lies in pinned RAM, from where the GPU copies at full speed.
    pub is_pinned: bool,
    /// If it is on its way already: seconds until it is there, the copies before it included.
    pub left_seconds: Option<f64>,
}

/// A way for each of a layer's misses, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// Bit `i`: miss `i` is computed on the CPU.
    on_cpu: u16,
}

impl Ways {
    const ALL_FETCHED: Self = Self { on_cpu: 0 };

    /// How miss `i` is met.
    #[must_use]
    pub fn of(self, i: usize) -> Miss {
        if i < MOST_WEIGHED && self.on_cpu >> i & 1 == 1 {
            Miss::Cpu
        } else {
            Miss::Fetch
        }
    }

    /// How many the CPU computes.
    #[must_use]
    pub fn n_on_cpu(self) -> usize {
        self.on_cpu.count_ones() as usize
    }

    /// Seconds until all are there: the CPU's share and the copies, whichever end later. Copies
    /// that are still to be asked for wait for those before them, which take `queued_seconds`.
    #[must_use]
    pub fn seconds(self, missing: &[Missing], queued_seconds: f64, bandwidths: Bandwidths) -> f64 {
        // Copies that are under way anyway end when they end; the layer waits for its own only.
        let (mut computed, mut ends, mut copied) = (0.0, 0.0_f64, queued_seconds);
        for (i, miss) in missing.iter().enumerate() {
            match (self.of(i), miss.left_seconds) {
                (Miss::Cpu, _) => computed += miss.rows as f64 * miss.bytes as f64,
                (Miss::Fetch, Some(left)) => ends = ends.max(left),
                (Miss::Fetch, None) => {
                    copied += bandwidths.copy_seconds(miss.bytes, miss.is_pinned);
                    ends = ends.max(copied);
                }
            }
        }
        (computed / bandwidths.cpu).max(ends)
    }
}

/// How to meet the misses of one layer, so that the last of them is there soonest.
///
/// The copies that are on their way to the device already, those of `missing` included, take `queued_seconds`. Of equally long splits the one with
/// fewer experts on the CPU is taken, then the one that keeps earlier (likelier) experts on the
/// device: what is fetched serves the next token too. `policy` can force one way.
#[must_use]
pub fn choose(
    policy: Misses,
    bandwidths: Bandwidths,
    queued_seconds: f64,
    missing: &[Missing],
) -> Ways {
    let weighed = missing.len().min(MOST_WEIGHED);
    let all_on_cpu = (1 << weighed) - 1;
    match policy {
        Misses::Fetch => Ways::ALL_FETCHED,
        Misses::Cpu => Ways { on_cpu: all_on_cpu },
        Misses::Auto => (0..=all_on_cpu)
            .map(|on_cpu| Ways { on_cpu })
            .min_by(|a, b| {
                let seconds = |ways: &Ways| ways.seconds(missing, queued_seconds, bandwidths);
                seconds(a)
                    .total_cmp(&seconds(b))
                    .then(a.n_on_cpu().cmp(&b.n_on_cpu()))
                    .then(b.on_cpu.cmp(&a.on_cpu))
            })
            .unwrap_or(Ways::ALL_FETCHED),
    }
}

/// Whether an expert that the CPU has just computed shall be fetched in the background, for the
/// tokens to come.
///
/// Only where the copy stream is idle, since demands come first; and only where the device has
/// more slots than a token uses experts over all layers: with fewer, the least recently used rule
/// takes its slot again before the next token comes to the layer.
#[must_use]
pub fn promotes(is_idle: bool, n_slots: usize, experts_a_token: usize) -> bool {
    is_idle && n_slots > experts_a_token
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIXTRAL: Missing = Missing {
        bytes: 66_400_000,
        rows: 1,
        is_pinned: true,
        left_seconds: None,
    };

    /// Plain RAM is copied from at a third of the speed.
    fn speeds(upload: f64, cpu: f64) -> Bandwidths {
        Bandwidths {
            upload,
            staged: upload / 3.0,
            cpu,
        }
    }

    fn ways(upload: f64, cpu: f64, queued_bytes: u64, missing: &[Missing]) -> Vec<Miss> {
        let queued_seconds = queued_bytes as f64 / upload;
        let bandwidths = speeds(upload, cpu);
        let ways = choose(Misses::Auto, bandwidths, queued_seconds, missing);
        (0..missing.len()).map(|i| ways.of(i)).collect()
    }

    #[test]
    fn one_miss_goes_the_faster_way() {
        assert_eq!(ways(25e9, 50e9, 0, &[MIXTRAL]), [Miss::Cpu]);
        assert_eq!(ways(25e9, 20e9, 0, &[MIXTRAL]), [Miss::Fetch]);
        assert_eq!(ways(25e9, 25e9, 0, &[MIXTRAL]), [Miss::Fetch], "a tie");
    }

    #[test]
    fn two_misses_go_both_ways_where_neither_is_twice_as_fast() {
        let two = [MIXTRAL; 2];
        assert_eq!(ways(25e9, 40e9, 0, &two), [Miss::Fetch, Miss::Cpu]);
        assert_eq!(ways(40e9, 25e9, 0, &two), [Miss::Fetch, Miss::Cpu]);
        assert_eq!(ways(20e9, 50e9, 0, &two), [Miss::Cpu, Miss::Cpu]);
        assert_eq!(ways(50e9, 20e9, 0, &two), [Miss::Fetch, Miss::Fetch]);
    }

    #[test]
    fn what_is_queued_ahead_speaks_for_the_cpu() {
        assert_eq!(ways(25e9, 20e9, 0, &[MIXTRAL]), [Miss::Fetch]);
        assert_eq!(ways(25e9, 20e9, 66_400_000, &[MIXTRAL]), [Miss::Cpu]);
    }

    #[test]
    fn what_a_guess_has_brought_most_of_the_way_is_waited_for() {
        let coming = |left: u64| Missing {
            left_seconds: Some(left as f64 / 25e9),
            ..MIXTRAL
        };
        assert_eq!(
            ways(25e9, 50e9, 66_400_000, &[coming(66_400_000)]),
            [Miss::Cpu]
        );
        assert_eq!(
            ways(25e9, 50e9, 20_000_000, &[coming(20_000_000)]),
            [Miss::Fetch]
        );
        // One on its way and one that is not: the CPU takes the latter.
        let both = [coming(60_000_000), MIXTRAL];
        assert_eq!(
            ways(25e9, 30e9, 60_000_000, &both),
            [Miss::Fetch, Miss::Cpu]
        );
        // Where the CPU is slow both are copied.
        let slow_cpu = ways(25e9, 5e9, 60_000_000, &both);
        assert_eq!(slow_cpu, [Miss::Fetch, Miss::Fetch]);
    }

    #[test]
    fn what_lies_in_plain_ram_takes_longer_to_copy() {
        let plain = Missing {
            is_pinned: false,
            ..MIXTRAL
        };
        // 25 GB/s from pinned RAM, 8.3 from plain RAM, the CPU in between.
        assert_eq!(ways(25e9, 15e9, 0, &[MIXTRAL]), [Miss::Fetch]);
        assert_eq!(ways(25e9, 15e9, 0, &[plain]), [Miss::Cpu]);
        // Of two, the one that is copied faster is copied, whichever comes first.
        let (fetch, cpu) = (Miss::Fetch, Miss::Cpu);
        assert_eq!(ways(25e9, 20e9, 0, &[plain, MIXTRAL]), [cpu, fetch]);
        assert_eq!(ways(25e9, 20e9, 0, &[MIXTRAL, plain]), [fetch, cpu]);
        assert_eq!(ways(25e9, 5e9, 0, &[plain]), [fetch], "a slow CPU");
    }

    #[test]
    fn many_tokens_speak_for_the_device() {
        let crowded = Missing {
            rows: 200,
            ..MIXTRAL
        };
        let both = [crowded, MIXTRAL];
        assert_eq!(ways(10e9, 50e9, 0, &both), [Miss::Fetch, Miss::Cpu]);
    }

    #[test]
    fn a_way_can_be_forced() {
        let bandwidths = speeds(1e9, 1e9);
        let all = |policy| {
            let ways = choose(policy, bandwidths, 0.0, &[MIXTRAL; 3]);
            [0, 1, 2].map(|i| ways.of(i))
        };
        assert_eq!(all(Misses::Fetch), [Miss::Fetch; 3]);
        assert_eq!(all(Misses::Cpu), [Miss::Cpu; 3]);
    }

    #[test]
    fn nothing_missing_takes_no_time() {
        let bandwidths = speeds(1e9, 1e9);
        let ways = choose(Misses::Auto, bandwidths, 1.0, &[]);
        assert_eq!(ways.n_on_cpu(), 0);
        assert_eq!(ways.seconds(&[], 1.0, bandwidths), 0.0);
    }

    #[test]
    fn promotion_waits_for_an_idle_copy_stream_and_needs_slots() {
        assert!(promotes(true, 96, 64));
        assert!(!promotes(false, 96, 64));
        assert!(!promotes(true, 64, 64));
    }

    prop_compose! {
        fn any_missing()(
            bytes in 1_usize..100_000_000,
            rows in 1_usize..50,
            is_pinned in any::<bool>(),
            left_seconds in prop::option::of(0.0..0.2_f64),
        ) -> Missing {
            Missing { bytes, rows, is_pinned, left_seconds }
        }
    }

    proptest! {
        #[test]
        fn no_split_ends_sooner(
            upload in 1e8_f64..1e11,
            cpu in 1e8_f64..1e11,
            queued_seconds in 0.0..1.0_f64,
            missing in prop::collection::vec(any_missing(), 1..=8),
        ) {
            let bandwidths = speeds(upload, cpu);
            let chosen = choose(Misses::Auto, bandwidths, queued_seconds, &missing);
            let seconds = chosen.seconds(&missing, queued_seconds, bandwidths);
            for policy in [Misses::Fetch, Misses::Cpu] {
                let forced = choose(policy, bandwidths, queued_seconds, &missing);
                prop_assert!(seconds <= forced.seconds(&missing, queued_seconds, bandwidths));
            }
            // Moving one expert to the other side never helps.
            for i in 0..missing.len() {
                let other = Ways { on_cpu: chosen.on_cpu ^ 1 << i };
                prop_assert!(seconds <= other.seconds(&missing, queued_seconds, bandwidths));
            }
        }

        #[test]
        fn a_faster_cpu_never_makes_the_layer_longer(
            upload in 1e8_f64..1e11,
            cpu in 1e8_f64..1e11,
            faster in 1.0_f64..10.0,
            queued_seconds in 0.0..1.0_f64,
            missing in prop::collection::vec(any_missing(), 1..=8),
        ) {
            let seconds = |cpu| {
                let bandwidths = speeds(upload, cpu);
                let ways = choose(Misses::Auto, bandwidths, queued_seconds, &missing);
                ways.seconds(&missing, queued_seconds, bandwidths)
            };
            prop_assert!(seconds(cpu * faster) <= seconds(cpu) * (1.0 + 1e-12));
        }

        #[test]
        fn more_than_can_be_weighed_are_met_too(n in 9_usize..40) {
            let missing = vec![MIXTRAL; n];
            let ways = choose(Misses::Cpu, speeds(1e9, 1e12), 0.0, &missing);
            prop_assert_eq!(ways.n_on_cpu(), MOST_WEIGHED);
            prop_assert_eq!(ways.of(n - 1), Miss::Fetch);
        }
    }
}
