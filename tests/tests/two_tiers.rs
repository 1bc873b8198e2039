//! VRAM and RAM as one store: where together they have a slot for every expert, the disk is read at
//! loading and never again.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use octet_engine::experts::{Residence, TierStats};
use octet_engine::model::Logits;
use octet_engine::plan::{Device, Eviction, Fit, Misses, PlanRequest};
use octet_engine::routing_reuse::RoutingReuse;
use octet_engine::tokenizer::TokenId;
use octet_engine::{LoadOptions, Loaded};
use octet_tests::fixture;
use tempfile::TempDir;

/// Layers, experts of a layer, and bytes of an expert of the tiny model.
const N_LAYERS: usize = 4;
const N_EXPERTS: usize = 8;

/// A copy of a fixture whose files may be changed.
fn copy_of(name: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(fixture(name)).expect("the fixture") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, dir.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    dir
}

/// Overwrites everything that expert files hold behind their headers.
fn ruin_experts(dir: &Path) {
    let mut ruined = 0;
    for entry in fs::read_dir(dir).expect("the model") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        if !name.ends_with(".safetensors")
            || name.starts_with("model-00001")
            || !name.starts_with("model-")
        {
            continue;
        }
        let bytes = fs::read(&path).expect("an expert");
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("a length")) as usize;
        let garbage: Vec<u8> = (0..bytes.len() - header)
            .map(|i| (i * 37 + 11) as u8)
            .collect();
        use std::io::{Seek, SeekFrom, Write};
        // In place, as the file may be mapped.
        let mut file = fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .expect("an expert");
        file.seek(SeekFrom::Start(header as u64)).expect("a place");
        file.write_all(&garbage).expect("garbage");
        ruined += 1;
    }
    assert_eq!(ruined, N_LAYERS * N_EXPERTS);
}

#[derive(Debug, Clone, Copy)]
struct Setting {
    on_gpu: usize,
    in_ram: Option<u64>,
    misses: Misses,
    eviction: Eviction,
    prefetch: Option<usize>,
}

fn load(dir: &Path, setting: Setting) -> Loaded {
    let expert_bytes = octet_engine::checkpoint::Checkpoint::open(dir)
        .expect("a checkpoint")
        .expert_bytes() as u64;
    let options = LoadOptions {
        plan: PlanRequest {
            device: Device::Cuda,
            experts_on_gpu: Some(setting.on_gpu),
            ram_budget: setting.in_ram.map(|slots| slots * expert_bytes),
            misses: setting.misses,
            eviction: setting.eviction,
            prefetch: setting.prefetch,
            ctx: Some(256),
            gpu_backend_available: true,
            ..PlanRequest::default()
        },
        threads: Some(2),
        cache_dir: Some(env!("CARGO_TARGET_TMPDIR").into()),
        ..LoadOptions::default()
    };
    let loaded = Loaded::load(dir, &options, &mut |_| ControlFlow::Continue(())).expect("loads");
    assert!(loaded.model.is_on_gpu(), "{:?}", loaded.plan.warnings);
    loaded
}

fn prompt(len: u32) -> Vec<TokenId> {
    (0..len).map(|i| TokenId((i * 31 + 7) % 384)).collect()
}

/// Greedy tokens behind a prompt, long enough to stream every expert.
fn tokens(loaded: &Loaded, new: usize, reuse: Option<RoutingReuse>) -> Vec<TokenId> {
    let mut session = loaded.model.session(200);
    session.router_hook = reuse.map(|reuse| Box::new(reuse) as _);
    let (mut next, mut made) = (prompt(30), Vec::new());
    for _ in 0..new {
        let go_on = &mut |_| ControlFlow::Continue(());
        let logits = loaded
            .model
            .forward(&mut session, &next, Logits::Last, go_on)
            .expect("a pass");
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        next = vec![TokenId(best.expect("logits") as u32)];
        made.extend_from_slice(&next);
    }
    made
}

fn ram(loaded: &Loaded) -> TierStats {
    loaded.model.experts().stats().ram
}

/// Four of eight experts a layer and two or three to fetch into in VRAM; in RAM two thirds.
const TOGETHER: Setting = Setting {
    on_gpu: 4,
    in_ram: Some(22),
    misses: Misses::Fetch,
    eviction: Eviction::Global,
    prefetch: None,
};

#[test]
fn the_disk_is_read_once_at_loading_and_garbage_in_it_later_is_not_seen() {
    let Some(fake) = octet_test_cuda::session() else {
        return;
    };
    let reuse = Some(RoutingReuse { p: 0.5, seed: 3 });
    let orders = ["late", "ahead", "seed:7"];
    let mut runs = 0;
    for misses in [Misses::Fetch, Misses::Cpu, Misses::Auto] {
        for eviction in [Eviction::Global, Eviction::Layer] {
            fake.set("ORDER", orders[runs % orders.len()]);
            let prefetch = [None, Some(2)][runs / 2 % 2];
            runs += 1;
            // A layer with slots of its own lends none to the others.
            let in_ram = if eviction == Eviction::Layer { 28 } else { 22 };
            let setting = Setting {
                misses,
                eviction,
                prefetch,
                in_ram: Some(in_ram),
                ..TOGETHER
            };
            let all_in_ram = load(
                &fixture("tiny-2bit"),
                Setting {
                    in_ram: None,
                    ..setting
                },
            );
            let expected = [None, reuse].map(|reuse| tokens(&all_in_ram, 6, reuse));
            let pinned_for_all = fake.counters().pinned;
            drop(all_in_ram);

            let dir = copy_of("tiny-2bit");
            let loaded = load(dir.path(), setting);
            let plan = &loaded.plan;
            assert!(plan.ram_slots.is_some_and(|slots| slots < 32), "{plan:#?}");
            assert_eq!(plan.fits, Fit::Fits, "{setting:?}\n{plan:#?}");
            let each = loaded.model.checkpoint().expert_bytes() as u64;
            let at_loading = ram(&loaded);
            // Plain memory is not counted, and there is none: nothing says that pinning failed.
            assert_eq!(loaded.model.experts().unpinned_slots(), 0);
            let spared = (32 - in_ram) * each;
            assert!(
                fake.counters().pinned + spared <= pinned_for_all,
                "{setting:?}"
            );
            assert_eq!(
                at_loading.bytes_moved,
                32 * each,
                "each expert once: {setting:?}"
            );

            ruin_experts(dir.path());
            let found = [None, reuse].map(|reuse| tokens(&loaded, 6, reuse));
            assert_eq!(found, expected, "{setting:?}");
            assert_eq!(
                ram(&loaded).bytes_moved,
                at_loading.bytes_moved,
                "{setting:?}"
            );
            let nowhere = loaded
                .model
                .experts()
                .snapshot()
                .places
                .iter()
                .filter(|place| **place == Residence::Disk)
                .count();
            assert_eq!(nowhere, 0, "{setting:?}");
            drop(loaded);
            fake.reset();
        }
    }
}

#[test]
fn with_less_memory_duplicates_go_before_last_copies() {
    let Some(_fake) = octet_test_cuda::session() else {
        return;
    };
    let few = Setting {
        on_gpu: 3,
        in_ram: Some(12),
        ..TOGETHER
    };
    let expected = {
        let all = load(
            &fixture("tiny-2bit"),
            Setting {
                in_ram: None,
                ..few
            },
        );
        tokens(&all, 30, None)
    };
    let loaded = load(&fixture("tiny-2bit"), few);
    assert_eq!(loaded.plan.fits, Fit::Tight, "{:#?}", loaded.plan);
    assert_eq!(tokens(&loaded, 30, None), expected);
    let each = loaded.model.checkpoint().expert_bytes() as u64;
    let slots = loaded.plan.total_gpu_slots + loaded.plan.gpu_fetch_slots + 12;
    let places = loaded.model.experts().snapshot().places;
    let in_memory = places
        .iter()
        .filter(|place| **place != Residence::Disk)
        .count();
    println!(
        "{in_memory} of {slots} slots hold different experts; {} reads",
        ram(&loaded).bytes_moved / each
    );
    // A few are in both: what was fetched last.
    assert!(in_memory + 4 >= slots, "{in_memory} of {slots}");
}

#[test]
fn a_lost_gpu_leaves_everything_in_ram_where_that_holds_it() {
    let Some(fake) = octet_test_cuda::session() else {
        return;
    };
    let settings = [
        // RAM is mere transit to VRAM, and could hold all.
        Setting {
            on_gpu: 8,
            in_ram: None,
            ..TOGETHER
        },
        TOGETHER,
        // Not all at once, even alone.
        Setting {
            on_gpu: 8,
            in_ram: Some(20),
            ..TOGETHER
        },
    ];
    for setting in settings {
        for failure in ["launch:40", "copy:20", "any:90:ecc"] {
            let loaded = load(&fixture("tiny-2bit"), setting);
            fake.set("FAIL", failure);
            let mut session = loaded.model.session(200);
            let go_on = &mut |_| ControlFlow::Continue(());
            let mut lost = false;
            for token in prompt(150) {
                if loaded
                    .model
                    .forward(&mut session, &[token], Logits::Last, go_on)
                    .is_err()
                {
                    lost = true;
                    break;
                }
            }
            assert!(lost && !loaded.model.is_on_gpu(), "{setting:?}, {failure}");
            drop(session);
            let first = tokens(&loaded, 8, None);
            let before = ram(&loaded);
            assert_eq!(tokens(&loaded, 8, None), first, "{setting:?}, {failure}");
            let after = ram(&loaded) - before;
            assert!(after.hits > 0);
            if setting.in_ram.is_none() {
                assert_eq!(after.bytes_moved, 0, "{setting:?}, {failure}: {after:?}");
                let pinned = fake.counters().pinned;
                assert!(pinned < 8 * 150_000, "{pinned} bytes are still pinned");
            }
            drop(loaded);
            fake.reset();
        }
    }
}
