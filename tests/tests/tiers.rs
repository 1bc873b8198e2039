//! Expert tiers: whatever the budget and the device, the tokens are the same.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use octet_engine::checkpoint::{Checkpoint, ExpertId};
use octet_engine::experts::{
    Bandwidths, Device, DeviceOptions, ExpertOptions, Experts, TierError, TierStats,
};
use octet_engine::model::{Decoder, Logits, expert_forward};
use octet_engine::plan::{Eviction, Misses};
use octet_engine::routing_reuse::RoutingReuse;
use octet_engine::tokenizer::TokenId;
use octet_kernels::{Pool, Precision, Scratch};

fn checkpoint() -> Arc<Checkpoint> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-2bit");
    Arc::new(Checkpoint::open(&dir).expect("a valid checkpoint"))
}

fn model(options: ExpertOptions) -> Decoder {
    let checkpoint = checkpoint();
    let experts = Experts::new(Arc::clone(&checkpoint), options).expect("enough slots");
    Decoder::new(checkpoint, experts, Pool::new(2), Precision::Fast)
}

/// The greedy continuation of a fixed prompt.
fn continuation(model: &Decoder) -> Vec<TokenId> {
    let prompt: Vec<TokenId> = (0..80u32).map(|i| TokenId((i * 31 + 7) % 512)).collect();
    let mut session = model.session(prompt.len() + 40);
    let (mut next, mut made) = (prompt, Vec::new());
    for _ in 0..40 {
        let go_on = &mut |_| ControlFlow::Continue(());
        let logits = model
            .forward(&mut session, &next, Logits::Last, go_on)
            .expect("a pass");
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        let token = TokenId(best.expect("logits") as u32);
        made.push(token);
        next = vec![token];
    }
    made
}

#[test]
fn a_small_ram_budget_gives_the_same_tokens() {
    let expected = continuation(&model(ExpertOptions::default()));
    for eviction in [Eviction::Global, Eviction::Layer] {
        for (slots, prefetch) in [(12, 0), (12, 2), (17, 1), (24, 2)] {
            let options = ExpertOptions {
                ram_slots: Some(slots),
                eviction,
                prefetch,
                ..ExpertOptions::default()
            };
            let model = model(options);
            assert_eq!(
                continuation(&model),
                expected,
                "{eviction:?}, {slots} slots"
            );
            let stats = model.experts().stats().ram;
            assert!(stats.misses > 0 && stats.hits > 0, "{stats:?}");
            assert_eq!(stats.prefetches > 0, prefetch > 0, "{stats:?}");
            assert!(
                stats.prefetch_hits + stats.prefetch_wasted <= stats.prefetches,
                "{stats:?}"
            );
            let each = model.checkpoint().expert_bytes() as u64;
            let fetched = stats.bytes_moved / each;
            assert!(fetched <= stats.misses + stats.prefetches, "{stats:?}");
        }
    }
}

#[test]
fn more_slots_hit_more_and_prefetch_helps() {
    let run = |slots, prefetch| -> TierStats {
        let options = ExpertOptions {
            ram_slots: Some(slots),
            prefetch,
            ..ExpertOptions::default()
        };
        let model = model(options);
        continuation(&model);
        model.experts().stats().ram
    };
    let (few, many) = (run(8, 0), run(28, 0));
    assert!(many.misses < few.misses, "{many:?} against {few:?}");
    let guessed = run(8, 2);
    assert!(guessed.misses < few.misses, "{guessed:?} against {few:?}");
    assert!(guessed.prefetch_hits > 0, "{guessed:?}");
}

#[test]
fn too_few_slots_are_refused_with_the_number_needed() {
    let options = ExpertOptions {
        ram_slots: Some(2),
        ..ExpertOptions::default()
    };
    let error = Experts::new(checkpoint(), options).err().expect("refused");
    assert!(
        matches!(error, TierError::TooFewSlots { slots: 2, least: 3 }),
        "{error}"
    );
}

/// A device made of plain memory: copies experts up and computes with the CPU kernels.
struct HostDevice {
    checkpoint: Arc<Checkpoint>,
    slots: Vec<Mutex<Vec<u8>>>,
    pool: Pool,
    forwards: AtomicUsize,
    /// Fails from this upload on.
    fail_after: usize,
    uploads: AtomicUsize,
}

impl HostDevice {
    fn new(n_slots: usize, fail_after: usize) -> Arc<Self> {
        Arc::new(Self {
            checkpoint: checkpoint(),
            slots: (0..n_slots).map(|_| Mutex::default()).collect(),
            pool: Pool::new(1),
            forwards: AtomicUsize::new(0),
            fail_after,
            uploads: AtomicUsize::new(0),
        })
    }
}

impl Device for HostDevice {
    fn name(&self) -> &str {
        "host memory"
    }

    fn n_slots(&self) -> usize {
        self.slots.len()
    }

    fn upload(&self, slot: usize, _id: ExpertId, bytes: &[u8]) -> Result<(), String> {
        if self.uploads.fetch_add(1, Ordering::SeqCst) >= self.fail_after {
            return Err("out of memory".into());
        }
        let mut slot = self.slots[slot]
            .try_lock()
            .map_err(|_| "the slot is being read")?;
        slot.clear();
        slot.extend_from_slice(bytes);
        Ok(())
    }

    fn forward(&self, slot: usize, id: ExpertId, x: &[f32], y: &mut [f32]) -> Result<(), String> {
        self.forwards.fetch_add(1, Ordering::SeqCst);
        let bytes = self.slots[slot]
            .try_lock()
            .map_err(|_| "the slot is being written")?;
        let weights = self.checkpoint.expert_view(id, &bytes);
        let inner = self.checkpoint.spec().intermediate_size;
        let t = x.len() / self.checkpoint.spec().hidden_size;
        let (mut gate, mut up) = (vec![0.0; t * inner], vec![0.0; t * inner]);
        let buffers = (&mut gate[..], &mut up[..]);
        let mut scratch = Scratch::default();
        expert_forward(
            &self.pool,
            &mut scratch,
            Precision::Fast,
            &weights,
            x,
            buffers,
            y,
        );
        Ok(())
    }
}

fn on_device(device: &Arc<HostDevice>, misses: Misses, bandwidths: Bandwidths) -> Decoder {
    let device: Arc<dyn Device> = Arc::clone(device) as Arc<dyn Device>;
    let device = Some(DeviceOptions {
        device,
        misses,
        bandwidths,
    });
    model(ExpertOptions {
        ram_slots: Some(20),
        prefetch: 1,
        device,
        ..ExpertOptions::default()
    })
}

const EVEN: Bandwidths = Bandwidths {
    upload: 1e9,
    staged: 1e9,
    cpu: 1e9,
};

#[test]
fn a_device_tier_gives_the_same_tokens_however_misses_are_met() {
    let expected = continuation(&model(ExpertOptions::default()));
    for misses in [Misses::Fetch, Misses::Cpu, Misses::Auto] {
        let device = HostDevice::new(10, usize::MAX);
        let model = on_device(&device, misses, EVEN);
        assert_eq!(continuation(&model), expected, "{misses:?}");
        let stats = model.experts().stats().device.expect("a device");
        assert!(stats.hits + stats.misses > 0, "{misses:?}: {stats:?}");
        let forwards = device.forwards.load(Ordering::SeqCst);
        assert!(forwards > 0, "{misses:?}: the device computed nothing");
    }
}

#[test]
fn the_sooner_way_to_meet_a_miss_is_taken() {
    let slow_upload = Bandwidths {
        upload: 1e8,
        staged: 1e8,
        cpu: 1e10,
    };
    let slow_cpu = Bandwidths {
        upload: 1e10,
        staged: 1e10,
        cpu: 1e8,
    };
    assert!(slow_upload.cpu_is_sooner(66_700_000, 1, true));
    assert!(!slow_cpu.cpu_is_sooner(66_700_000, 1, true));
    // Many tokens make the CPU's share long, while an upload stays as long as it is.
    assert!(!slow_upload.cpu_is_sooner(66_700_000, 500, true));
}

#[test]
fn a_failing_device_is_an_error_and_not_a_hang() {
    let device = HostDevice::new(10, 5);
    let model = on_device(&device, Misses::Fetch, EVEN);
    let mut session = model.session(64);
    let prompt: Vec<TokenId> = (0..30).map(TokenId).collect();
    let go_on = &mut |_| ControlFlow::Continue(());
    let error = model
        .forward(&mut session, &prompt, Logits::Last, go_on)
        .expect_err("fails");
    assert!(error.to_string().contains("out of memory"), "{error}");
    assert_eq!(
        session.len(),
        0,
        "a failed pass leaves the session as it was"
    );
}

#[test]
fn after_a_long_prompt_every_layer_still_has_its_most_used_experts() {
    let model = model(ExpertOptions {
        ram_slots: Some(19),
        prefetch: 0,
        ..ExpertOptions::default()
    });
    let prompt: Vec<TokenId> = (0..200u32).map(|i| TokenId((i * 17 + 3) % 512)).collect();
    let mut session = model.session(256);
    let go_on = &mut |_| ControlFlow::Continue(());
    model
        .forward(&mut session, &prompt, Logits::Last, go_on)
        .expect("a pass");
    let c = model.spec();
    for layer in 0..c.n_layers as u16 {
        let held = (0..c.n_experts as u16)
            .filter(|&expert| model.experts().contains(ExpertId { layer, expert }))
            .count();
        // 19 slots, three to work with, four layers.
        assert!(held >= 4, "layer {layer} keeps {held} experts");
    }
}

/// The share of experts kept from the token before over a fixed run of a new model, and the
/// experts of every token.
fn kept(options: ExpertOptions, reuse: Option<RoutingReuse>) -> (f64, Vec<Vec<u16>>, TierStats) {
    let model = model(options);
    let mut session = model.session(200);
    session.router_hook = reuse.map(|reuse| Box::new(reuse) as _);
    let mut used = Vec::new();
    for i in 0..200u32 {
        let go_on = &mut |_| ControlFlow::Continue(());
        model
            .forward(&mut session, &[TokenId(i * 97 % 512)], Logits::Last, go_on)
            .expect("a pass");
        used.extend_from_slice(session.routing.newest());
    }
    let share = session.routing.summary().kept_from_previous;
    (share, used, model.experts().stats().ram)
}

#[test]
fn routing_reuse_keeps_experts_with_the_probability_given() {
    let run = |reuse| kept(ExpertOptions::default(), reuse);
    let (natural, untouched, _) = run(None);
    let (none, same, _) = run(Some(RoutingReuse { p: 0.0, seed: 1 }));
    assert_eq!(natural, none);
    assert!(untouched == same, "p 0 changes nothing");
    let mut last = natural;
    for p in [0.3, 0.6, 0.9] {
        let reuse = Some(RoutingReuse { p, seed: 1 });
        let (share, used, _) = run(reuse);
        println!("p {p}: {share:.3} kept, {natural:.3} without");
        // What is not kept on purpose may be by nature. At most: a choice stays where the expert
        // is among the others already, and that one may be replaced in its turn.
        let most = f64::from(p) + (1.0 - f64::from(p)) * natural;
        let range = most - 0.1..most + 0.05;
        assert!(range.contains(&share), "{share} at {p}, not in {range:?}");
        assert!(share > last, "{share} at {p}");
        assert!(run(reuse).1 == used, "not the same again at {p}");
        last = share;
    }
}

#[test]
fn routing_reuse_leaves_prompts_alone() {
    let model = model(ExpertOptions::default());
    let prompt: Vec<TokenId> = (0..40u32).map(|i| TokenId(i * 31 % 512)).collect();
    let mut logits = [None, Some(RoutingReuse { p: 1.0, seed: 3 })].map(|reuse| {
        let mut session = model.session(64);
        session.router_hook = reuse.map(|reuse| Box::new(reuse) as _);
        let go_on = &mut |_| ControlFlow::Continue(());
        let logits = model.forward(&mut session, &prompt, Logits::Last, go_on);
        logits.expect("a pass").to_vec()
    });
    let [without, with] = &mut logits;
    assert_eq!(without, with);
}

#[test]
fn reuse_raises_the_hit_rate_of_a_small_tier() {
    let hits = |reuse| {
        let options = ExpertOptions {
            ram_slots: Some(12),
            prefetch: 0,
            ..ExpertOptions::default()
        };
        kept(options, reuse).2.hit_rate().expect("demands")
    };
    let reuse = RoutingReuse { p: 0.6, seed: 1 };
    assert!(hits(Some(reuse)) > hits(None) + 0.1);
}

/// A token of four layers uses eight experts, and there are five slots.
#[test]
fn fewer_slots_than_a_token_needs_still_hit() {
    for (reuse, least) in [(0.0, 0.08), (0.5, 0.2), (0.8, 0.3)] {
        let options = ExpertOptions {
            ram_slots: Some(5),
            prefetch: 0,
            ..ExpertOptions::default()
        };
        let reuse = RoutingReuse { p: reuse, seed: 1 };
        let stats = kept(options, Some(reuse)).2;
        let rate = stats.hit_rate().expect("demands");
        println!("reuse {}: {rate:.3}", reuse.p);
        assert!(rate > least, "{rate} with reuse {}", reuse.p);
    }
}

#[test]
fn reading_ahead_fills_what_ram_has_room_for_and_evicts_nothing() {
    for slots in [None, Some(13)] {
        let model = model(ExpertOptions {
            ram_slots: slots,
            prefetch: 0,
            ..ExpertOptions::default()
        });
        let experts = model.experts_handle();
        // One that the readers would not take is there already.
        let wanted = ExpertId {
            layer: 3,
            expert: 7,
        };
        experts
            .claim(wanted, 2)
            .expect("a slot")
            .wait()
            .expect("a read");
        experts.read_ahead();
        let held = |id: &ExpertId| experts.contains(*id);
        let all: Vec<ExpertId> = model.checkpoint().expert_ids().collect();
        let room = slots.unwrap_or(all.len());
        while all.iter().filter(|id| held(id)).count() < room {
            std::thread::yield_now();
        }
        assert!(held(&wanted), "evicted for what nobody asked for");
        let before = experts.stats().ram;
        assert_eq!((before.hits, before.misses), (0, 1), "no demands");
        if slots.is_none() {
            continuation(&model);
            let after = experts.stats().ram - before;
            assert_eq!((after.misses, after.bytes_moved), (0, 0));
        }
        // Readers do not keep a model in memory.
        drop(model);
        let mut last = experts;
        loop {
            match Arc::try_unwrap(last) {
                Ok(_) => break,
                Err(shared) => last = shared,
            }
            std::thread::yield_now();
        }
    }
}

/// The files have just been read, so that they are in the page cache.
#[test]
#[cfg(target_os = "linux")]
fn nothing_is_prefetched_from_the_page_cache_where_every_core_computes() {
    for (no_core_to_spare, expected) in [(true, false), (false, true)] {
        let model = model(ExpertOptions {
            ram_slots: Some(12),
            prefetch: 2,
            no_core_to_spare,
            ..ExpertOptions::default()
        });
        let first = continuation(&model);
        let before = model.experts().stats().ram;
        assert_eq!(continuation(&model), first);
        let during = model.experts().stats().ram - before;
        assert!(during.misses > 0);
        assert_eq!(during.prefetches > 0, expected, "{during:?}");
    }
}
