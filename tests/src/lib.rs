//! What the behaviour tests in `tests/` share.

use std::path::{Path, PathBuf};

use serde_json::json;

/// A folder of `fixtures/`: of the source tree, or of `OCTET_TEST_FIXTURES` where the tests were
/// carried to another machine.
pub fn fixture(name: &str) -> PathBuf {
    match std::env::var_os("OCTET_TEST_FIXTURES") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"),
    }
    .join(name)
}

/// A copy of a tiny golden checkpoint with a byte-level tokenizer beside it, so that text goes
/// in and comes out (as noise: the weights are random).
///
/// # Panics
/// If the copy cannot be written.
pub fn model_with_tokenizer(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir(fixture(name)).expect("a fixture") {
        let path = entry.expect("an entry").path();
        let file_name = path.file_name().expect("a name").to_owned();
        if !file_name.to_string_lossy().starts_with("golden") {
            std::fs::copy(&path, dir.path().join(file_name)).expect("a copy");
        }
    }
    let tokenizer = serde_json::to_vec(&byte_tokenizer()).expect("JSON");
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer).expect("written");
    dir
}

/// Keeps greedy answers of the tiny golden checkpoint in `dir` from ending by themselves: the output
/// matrix's row of `</s>` becomes zero, and some other logit is above 0. Without this an answer's
/// length hangs on the last bit of a kernel.
///
/// # Panics
/// If `dir` holds no such checkpoint.
pub fn make_endless(dir: &Path) {
    const END: usize = 2;
    let json = |bytes: &[u8]| -> serde_json::Value { serde_json::from_slice(bytes).expect("JSON") };
    let index = json(&std::fs::read(dir.join("model.safetensors.index.json")).expect("an index"));
    let name = index["weight_map"]["lm_head.weight"].as_str();
    let file = dir.join(name.expect("an output matrix"));
    let mut bytes = std::fs::read(&file).expect("a file");
    let header_bytes = bytes
        .first_chunk()
        .map(|length| u64::from_le_bytes(*length));
    let data = 8 + header_bytes.expect("a header") as usize;
    let tensor = &json(&bytes[8..data])["lm_head.weight"];
    let number = |value: &serde_json::Value| value.as_u64().expect("a number") as usize;
    let row_bytes = 2 * number(&tensor["shape"][1]);
    let row = data + number(&tensor["data_offsets"][0]) + END * row_bytes;
    bytes[row..row + row_bytes].fill(0);
    std::fs::write(&file, bytes).expect("written");
}

/// Three special tokens, the second of which begins a text, and one token a byte.
fn byte_tokenizer() -> serde_json::Value {
    // GPT-2's names of bytes: printable ones stand for themselves, the others come after 255.
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut hidden = 0x100;
    let mut vocab = serde_json::Map::new();
    for (id, token) in ["<unk>", "<s>", "</s>"].into_iter().enumerate() {
        vocab.insert(token.into(), json!(id));
    }
    for byte in 0..256u32 {
        let code = if printable(byte) {
            byte
        } else {
            hidden += 1;
            hidden - 1
        };
        let name = char::from_u32(code).expect("a character").to_string();
        vocab.insert(name, json!(byte + 3));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    let sequence = json!({"Sequence": {"id": "A", "type_id": 0}});
    json!({
        "version": "1.0",
        "post_processor": {
            "type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, sequence],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<unk>"},
    })
}
