//! Seeded mutation of valid files: whatever the bytes, an answer or an error, never a panic, and
//! never more memory than the input can account for. `tests/fuzz` holds the same entry points for
//! coverage-guided fuzzing.
#![allow(clippy::unwrap_used)]

mod edit;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use edit::{EXPERT, INDEX, TRUNK, small_config, write_small};
use octet_engine::checkpoint::{Checkpoint, ExpertId, parse_header, parse_index};
use octet_engine::spec::ModelSpec;

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

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len);
        start..(start + 1 + self.below(64)).min(len)
    }
}

/// Values that a parser may stumble over.
const TOKENS: [&str; 26] = [
    "0",
    "-1",
    "1",
    "2",
    "7",
    "255",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e999",
    "0.5",
    "NaN",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"../x\"",
    "\"F16\"",
    "[1,1,1,1,1,1,1,1,1,1]",
    "[[[[[[[[",
    "{\"a\":{\"a\":",
];

/// Changes `bytes` in one to four places.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            return;
        }
        match random.below(8) {
            0 => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            1 => {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            2 => bytes.truncate(random.below(bytes.len() + 1)),
            3 => {
                let piece = bytes[random.range(bytes.len())].to_vec();
                let at = random.below(bytes.len());
                bytes.splice(at..at, piece);
            }
            4 => {
                let range = random.range(bytes.len());
                bytes.drain(range);
            }
            // JSON values are what is looked at most closely: they get half of the attention.
            _ => replace_value(bytes, random),
        }
    }
}

/// Replaces a number, word or string, and sometimes what stands between two of them.
fn replace_value(bytes: &mut Vec<u8>, random: &mut Random) {
    let from = random.below(bytes.len());
    let starts = |b: &u8| b.is_ascii_digit() || *b == b'"';
    let Some(start) = bytes[from..].iter().position(starts).map(|at| from + at) else {
        return;
    };
    let quoted = bytes[start] == b'"';
    let ends = |b: &u8| {
        if quoted {
            *b == b'"'
        } else {
            !b.is_ascii_alphanumeric()
        }
    };
    let end = bytes[start + 1..]
        .iter()
        .position(ends)
        .map_or(bytes.len(), |at| start + 1 + at + usize::from(quoted));
    let token = TOKENS[random.below(TOKENS.len())];
    bytes.splice(start..end, token.bytes());
}

/// Runs `target` on `rounds` mutations of `seed`, each with at most `limit_bytes(input)` of memory.
fn fuzz(
    name: &str,
    seed: &[u8],
    rounds: u64,
    limit_bytes: impl Fn(usize) -> usize,
    mut target: impl FnMut(&[u8], &mut Random) -> bool,
) {
    let mut accepted = 0_u64;
    for round in 0..rounds {
        let mut random = Random(round);
        let mut input = seed.to_vec();
        if round > 0 {
            mutate(&mut input, &mut random);
        }
        let before = IN_USE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&input, &mut random)));
        let used = PEAK.load(Ordering::Relaxed).saturating_sub(before);
        match outcome {
            Ok(ok) => {
                assert!(ok || round > 0, "{name}: the unchanged input is refused");
                accepted += u64::from(ok);
            }
            Err(_) => panic!("{name}: round {round} panicked on {} bytes", input.len()),
        }
        assert!(
            used <= limit_bytes(input.len()),
            "{name}: round {round} took {used} bytes of memory for {} of input",
            input.len()
        );
    }
    assert!(accepted < rounds, "{name}: no mutation was refused");
}

/// What a parsed document may take: its entries are a few times as large as their text.
fn document(input_bytes: usize) -> usize {
    (64 << 10) + 32 * input_bytes
}

fn small_file(name: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    fs::read(dir.path().join(name)).unwrap()
}

#[test]
fn headers() {
    let _one = one_at_a_time();
    let file = small_file(EXPERT);
    let len = u64::from_le_bytes(*file.first_chunk::<8>().unwrap()) as usize;
    let data_bytes = (file.len() - 8 - len) as u64;
    fuzz("header", &file[8..8 + len], 20_000, document, |json, _| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json);
        parse_header(&bytes, bytes.len() as u64 + data_bytes).is_ok()
    });
    // And with a length field that is fuzzed too.
    fuzz(
        "header with length",
        &file[..8 + len],
        10_000,
        document,
        |bytes, random| {
            let file_bytes = match random.below(3) {
                0 => bytes.len() as u64 + data_bytes,
                1 => random.next() % (1 << 20),
                _ => random.next(),
            };
            parse_header(bytes, file_bytes).is_ok() || bytes == &file[..8 + len]
        },
    );
}

#[test]
fn indices() {
    let _one = one_at_a_time();
    let index = small_file(INDEX);
    fuzz("index", &index, 10_000, document, |bytes, _| {
        parse_index(bytes).is_ok()
    });
}

#[test]
fn configurations() {
    let _one = one_at_a_time();
    let config = small_config().to_string().into_bytes();
    fuzz("config", &config, 40_000, document, |bytes, _| {
        let Ok(config) = ModelSpec::from_config_json(bytes) else {
            return false;
        };
        // What is accepted keeps what `Config` promises.
        assert!(config.top_k <= config.n_experts && config.n_experts <= 1 << 16);
        assert!(config.n_heads.is_multiple_of(config.n_kv_heads));
        assert!(config.head_dim > 0 && config.head_dim.is_multiple_of(2));
        assert!(config.rope_theta.is_finite() && config.rms_norm_eps.is_finite());
        assert!(config.hidden_size.checked_mul(config.vocab_size).is_some());
        true
    });
}

#[test]
fn whole_checkpoints() {
    let _one = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    write_small(dir.path());
    for name in ["config.json", INDEX, TRUNK, EXPERT] {
        let path = dir.path().join(name);
        let seed = fs::read(&path).unwrap();
        // Whatever the files say, a few of their bytes are read at a time.
        let limit = |input_bytes: usize| (8 << 20) + 32 * input_bytes;
        let open = |bytes: &[u8], random: &mut Random| {
            fs::write(&path, bytes).unwrap();
            use_all(dir.path(), random)
        };
        fuzz(name, &seed, 400, limit, open);
        fs::write(&path, &seed).unwrap();
        if let Some(header) = name.ends_with(".safetensors").then(|| header_of(&seed)) {
            // The header alone changes, its length told truly and its data left in place.
            fuzz(name, header, 600, limit, |json, random| {
                let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
                bytes.extend_from_slice(json);
                bytes.extend_from_slice(&seed[8 + header.len()..]);
                fs::write(&path, bytes).unwrap();
                use_all(dir.path(), random)
            });
        }
        fs::write(&path, &seed).unwrap();
    }
}

fn header_of(file: &[u8]) -> &[u8] {
    let len = u64::from_le_bytes(*file.first_chunk::<8>().unwrap()) as usize;
    &file[8..8 + len]
}

/// Opens the checkpoint and touches everything it offers; false where it does not open.
fn use_all(dir: &Path, random: &mut Random) -> bool {
    let Ok(checkpoint) = Checkpoint::open(dir) else {
        return false;
    };
    let config = checkpoint.spec().clone();
    assert_eq!(
        checkpoint.embedding().f16().unwrap().len(),
        2 * config.vocab_size * config.hidden_size
    );
    assert_eq!(
        checkpoint.output().f16().unwrap().len(),
        checkpoint.embedding().f16().unwrap().len()
    );
    assert_eq!(checkpoint.final_norm().len(), config.hidden_size);
    let mut slot = vec![0; checkpoint.expert_bytes()];
    for layer in 0..config.n_layers {
        let trunk = checkpoint.layer(layer);
        assert_eq!(
            trunk.gate.f16().unwrap().len(),
            2 * config.n_experts * config.hidden_size
        );
        let projections = [trunk.q_proj, trunk.k_proj, trunk.v_proj, trunk.o_proj];
        for expert in 0..config.n_experts {
            let id = ExpertId {
                layer: layer as u16,
                expert: expert as u16,
            };
            checkpoint.read_expert(id, &mut slot).unwrap();
            let (mapped, copied) = (
                checkpoint.expert_mapped(id),
                checkpoint.expert_view(id, &slot),
            );
            for matrix in [mapped.w1, mapped.w2, mapped.w3, copied.w2]
                .into_iter()
                .chain(projections)
                .map(|matrix| matrix.hqq().unwrap())
            {
                for _ in 0..8 {
                    let (row, col) = (random.below(matrix.n()), random.below(matrix.k()));
                    assert!(!matrix.weight(row, col).is_nan());
                }
                matrix.weight(matrix.n() - 1, matrix.k() - 1);
            }
        }
    }
    true
}
