//! Seeded mutations of headers: whatever the bytes, an answer or an error, never a panic, and never
//! more memory than the input can account for. `tests/fuzz` holds the same entry points for
//! coverage-guided fuzzing.
#![allow(clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use common::{fixture, json};
use octet_gguf::{Dims, Gguf, Model, TensorType, TokenizerSpec, Value, parse_header};
use proptest::prelude::*;

/// Counts the bytes in use and their maximum, over all threads.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; the counters touch no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `ptr` came from `alloc` above with this layout, thus from the system.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by each test: the counters are the whole process's.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Most bytes in use at once during `call`, over those before it.
fn peak<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let value = call();
    (value, PEAK.load(Ordering::Relaxed).saturating_sub(before))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Numbers that lengths, counts, types and offsets stumble over.
const NUMBERS: [u64; 14] = [
    0,
    1,
    4,
    9,
    13,
    31,
    33,
    255,
    1 << 16,
    (1 << 24) + 1,
    1 << 31,
    1 << 62,
    1 << 63,
    u64::MAX,
];

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at.max(1)),
            3 => {
                let end = (at + 1 + random.below(40)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + 1 + random.below(40)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => {
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
}

/// What a header promises of its tensors.
fn check_promises(bytes: &[u8], file_len_bytes: u64) -> bool {
    let Ok(header) = parse_header(bytes, file_len_bytes) else {
        return false;
    };
    let mut spans = Vec::new();
    for (name, info) in &header.tensors {
        assert!(!name.is_empty() && name.len() <= 256);
        assert!(header.data_start <= info.span.start && info.span.end() <= file_len_bytes);
        assert_eq!(info.ty.row_bytes(info.k()), Some(info.row_bytes()));
        assert_eq!(info.row_bytes() * info.rows(), info.span.len);
        assert!(info.span.start.is_multiple_of(8) && info.span.len > 0);
        spans.push(info.span);
    }
    spans.sort();
    assert!(spans.windows(2).all(|pair| pair[0].end() <= pair[1].start));
    for (key, value) in header.metadata(bytes).iter() {
        assert!(!key.is_empty());
        if let Value::Array(array) = value {
            assert_eq!(array.iter().count(), array.len());
        }
    }
    true
}

#[test]
fn mutated_headers_keep_their_promises_and_take_little_memory() {
    let _one = one_at_a_time();
    let mut random = Random(1);
    let models = json("models/models.json");
    let names = ["mixtral-q4_0", "gpt-oss-mxfp4", "qwen3moe-q4_k_m"];
    let mut seeds: Vec<(Vec<u8>, u64)> = names
        .iter()
        .map(|name| {
            let header = fs::read(fixture(&format!("models/{name}.gguf-header"))).unwrap();
            (header, models[name]["len_bytes"].as_u64().unwrap())
        })
        .collect();
    let valid = fs::read(fixture("hostile/valid.gguf")).unwrap();
    seeds.push((valid.clone(), valid.len() as u64));
    let mut opened = 0;
    for n in 0..6000 {
        let (seed, len) = &seeds[n % seeds.len()];
        let mut bytes = seed.clone();
        mutate(&mut random, &mut bytes);
        // The last bytes of a header may now be those of another length.
        let len = (*len).max(bytes.len() as u64);
        let (parsed, used) = peak(|| check_promises(&bytes, len));
        assert!(
            used < 40 * bytes.len() + (1 << 16),
            "case {n}: {used} bytes"
        );
        opened += usize::from(parsed);
    }
    // Enough mutations are harmless for the rest to be near the edge.
    assert!(opened > 1000, "{opened}");
}

#[test]
fn mutated_files_open_or_are_refused() {
    let _one = one_at_a_time();
    let mut random = Random(2);
    let seed = fs::read(fixture("hostile/valid.gguf")).unwrap();
    // Mutations of weights are of no interest here: most of the file is header.
    let header_bytes = 1920;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut stages = [0; 4];
    for n in 0..3000 {
        let mut header = seed[..header_bytes].to_vec();
        mutate(&mut random, &mut header);
        header.resize(header_bytes, 0);
        header.extend_from_slice(&seed[header_bytes..]);
        fs::write(&path, &header).unwrap();
        let (stage, used) = peak(|| {
            let Ok(gguf) = Gguf::open(&path) else {
                return 0;
            };
            let tokenizer = TokenizerSpec::read(gguf.metadata());
            let Ok(model) = Model::read(&gguf) else {
                return 1;
            };
            for layer in &model.layers {
                for expert in &layer.experts {
                    assert_eq!(expert.slot_layout().parts.len(), 3);
                }
            }
            let _ = model.spec.rope_table();
            // Reads with a buffer of 256 kB at most.
            let _ = model.check_trunk(&gguf);
            if tokenizer.is_ok() { 3 } else { 2 }
        });
        assert!(used < 4 << 20, "case {n}: {used} bytes");
        stages[stage] += 1;
    }
    assert!(stages.iter().all(|&n| n > 20), "{stages:?}");
}

/// Windows would take the space on the disk.
#[cfg(unix)]
#[test]
fn a_large_hole_costs_nothing() {
    let _one = one_at_a_time();
    // A file of 64 GB, of which nothing but the beginning is written.
    let header = fs::read(fixture("models/mixtral-q4_0.gguf-header")).unwrap();
    let ((gguf, _dir), used) = peak(|| common::open_bytes(&header, 64 << 30).unwrap());
    assert_eq!(gguf.len_bytes(), 64 << 30);
    assert!(used < 1 << 20, "{used}");

    // And one that claims as many empty strings as an array may have.
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(b"x\x09\0\0\0\x08\0\0\0");
    bytes.extend((1_u64 << 24).to_le_bytes());
    let (opened, used) = peak(|| common::open_bytes(&bytes, 1 << 30));
    assert_eq!(opened.unwrap().0.tensors().len(), 0);
    assert!(used < 1 << 20, "{used}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_header_or_not(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        len in any::<u64>(),
    ) {
        let _one = one_at_a_time();
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(&bytes);
        check_promises(&bytes, bytes.len() as u64);
        check_promises(&file, file.len() as u64);
        check_promises(&file, len);
    }

    #[test]
    fn rows_are_blocks_times_their_bytes(which in 0..TensorType::ALL.len(), k in any::<u64>()) {
        let ty = TensorType::ALL[which];
        let (values, bytes) = (ty.block_len() as u64, ty.block_bytes() as u64);
        let whole = k - k % values;
        let expected = (whole / values).checked_mul(bytes);
        prop_assert_eq!(ty.row_bytes(whole), expected);
        if values > 1 {
            prop_assert_eq!(ty.row_bytes(whole.wrapping_add(1) | 1), None);
        }
    }

    #[test]
    fn dimensions_of_one_at_the_end_do_not_count(dims in prop::collection::vec(1_u64..9, 1..4)) {
        let one = Dims::new(&dims).unwrap();
        let mut longer = dims.clone();
        longer.push(1);
        prop_assert!(one.is(&longer));
        longer[dims.len()] = 2;
        prop_assert!(!one.is(&longer));
    }
}
