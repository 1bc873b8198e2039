//! A tokenizer for random weights: what they say looks like prose in Latin letters, where the real
//! vocabulary would give a page in all scripts at once, which is no page that anybody reads.

use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value, json};

/// Below are the special tokens and the bytes, which spell what a person types.
const FIRST_WORD: u64 = 259;

/// Below are the special tokens.
const FIRST_BYTE: u64 = 3;

/// So many words make a paragraph.
const PARAGRAPH: u64 = 40;

/// Gives the model in `folder` a tokenizer if it has none.
pub fn provide(folder: &Path) -> anyhow::Result<()> {
    write(folder, u64::MAX, FIRST_WORD)
}

/// The same, of so many tokens, all of them words: what a person types is unknown to it.
pub fn provide_short(folder: &Path, tokens: u64) -> anyhow::Result<()> {
    write(folder, tokens, FIRST_BYTE)
}

fn write(folder: &Path, tokens: u64, first_word: u64) -> anyhow::Result<()> {
    let path = folder.join("tokenizer.json");
    if path.exists() {
        return Ok(());
    }
    let original =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tokenizer/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(original)?)?;
    let model = &mut tokenizer["model"];
    let vocabulary = model["vocab"].as_object().context("a vocabulary")?;
    let words: Map<String, Value> = vocabulary
        .iter()
        .filter(|(_, id)| id.as_u64().is_some_and(|id| id < tokens))
        .map(|(piece, id)| match id.as_u64() {
            Some(n) if n >= first_word => (word(n), id.clone()),
            _ => (piece.clone(), id.clone()),
        })
        .collect();
    model["vocab"] = Value::Object(words);
    model["merges"] = json!([]);
    model["byte_fallback"] = json!(first_word > FIRST_BYTE);
    Ok(std::fs::write(path, serde_json::to_vec(&tokenizer)?)?)
}

/// Another word for every `id`, with a space before it.
fn word(id: u64) -> String {
    let (consonants, vowels) = (b"bdfghklmnprstv", b"aeiou");
    let mut text = "\u{2581}".to_owned();
    let mut rest = id;
    while rest > 0 {
        text.push(char::from(consonants[(rest % 14) as usize]));
        text.push(char::from(vowels[(rest / 14 % 5) as usize]));
        rest /= 70;
    }
    if id.is_multiple_of(PARAGRAPH) {
        text += ".\n\n";
    }
    text
}
