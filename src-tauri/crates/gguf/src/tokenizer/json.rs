//! The text of a `tokenizer.json`, as the `tokenizers` crate reads it.

use std::ops::Range;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::merges::Merge;
use super::split::Split;
use super::{Kind, Token, TokenizerSpec, Vocabulary};

/// The sign that stands for a space in SentencePiece.
const SPACE_SIGN: &str = "\u{2581}";

/// What a tokenizer consists of.
pub(super) struct Parts<'p, 'a> {
    pub(super) spec: &'p TokenizerSpec,
    pub(super) vocabulary: &'p Vocabulary<'a>,
    /// The tokens that the BPE itself has.
    pub(super) own: Range<usize>,
    pub(super) merges: &'p [Merge<'a>],
}

#[derive(Serialize)]
struct File<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Value,
    model: Bpe<'a>,
}

#[derive(Serialize)]
struct AddedToken<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct Bpe<'a> {
    r#type: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Option<&'a str>,
    end_of_word_suffix: Option<&'a str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "by_text")]
    vocab: &'a [&'a str],
    merges: &'a [Merge<'a>],
}

/// A map from texts to ids, of texts in the order of ids.
fn by_text<S: Serializer>(texts: &&[&str], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(texts.iter().zip(0_u32..))
}

/// SentencePiece's BPE: spaces become a sign, what has no piece becomes bytes.
pub(super) fn sentence_piece(parts: &Parts<'_, '_>) -> String {
    let unknown = parts.spec.unknown.as_ref();
    let model = Bpe {
        unk_token: unknown.map(|token| token.text.as_str()),
        fuse_unk: true,
        byte_fallback: true,
        ..parts.bpe()
    };
    let mut normalizers = Vec::new();
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE_SIGN}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if parts.spec.add_space_prefix {
        normalizers.push(json!({"type": "Prepend", "prepend": SPACE_SIGN}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    normalizers.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE_SIGN}));
    parts.file(
        model,
        Some(json!({"type": "Sequence", "normalizers": normalizers})),
        None,
        json!({"type": "Sequence", "decoders": decoders}),
    )
}

/// BPE over bytes, each of which is a letter of its own.
pub(super) fn byte_level(parts: &Parts<'_, '_>, split: &Split) -> String {
    let model = Bpe {
        ignore_merges: split.ignores_merges,
        ..parts.bpe()
    };
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let split_at = json!({
        "type": "Split", "pattern": {"Regex": split.regex}, "behavior": "Isolated", "invert": false,
    });
    parts.file(
        model,
        split.composes.then(|| json!({"type": "NFC"})),
        Some(json!({"type": "Sequence", "pretokenizers": [split_at, bytes]})),
        bytes.clone(),
    )
}

impl Parts<'_, '_> {
    fn bpe(&self) -> Bpe<'_> {
        Bpe {
            r#type: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab: &self.vocabulary.texts[self.own.clone()],
            merges: self.merges,
        }
    }

    fn file(
        &self,
        model: Bpe<'_>,
        normalizer: Option<Value>,
        pre_tokenizer: Option<Value>,
        decoder: Value,
    ) -> String {
        let added = self.vocabulary.added();
        let file = File {
            version: "1.0",
            truncation: None,
            padding: None,
            added_tokens: added
                .map(|(id, content, kind)| AddedToken {
                    id,
                    content,
                    single_word: false,
                    lstrip: false,
                    rstrip: false,
                    normalized: false,
                    special: kind != Kind::UserDefined,
                })
                .collect(),
            normalizer,
            pre_tokenizer,
            post_processor: self.post_processor(),
            decoder,
            model,
        };
        serde_json::to_string(&file).expect("BUG: texts and numbers can be written")
    }

    /// What puts BOS and EOS around a text, where the model wants that.
    fn post_processor(&self) -> Option<Value> {
        let spec = self.spec;
        let bos = spec.bos.as_ref().filter(|_| spec.add_bos);
        let eos = spec.eos.as_ref().filter(|_| spec.add_eos);
        let around: Vec<&Token> = bos.into_iter().chain(eos).collect();
        if around.is_empty() {
            return None;
        }
        let one = |name: &str, type_id: u8| {
            let special =
                |token: &Token| json!({"SpecialToken": {"id": token.text, "type_id": type_id}});
            let text = json!({"Sequence": {"id": name, "type_id": type_id}});
            let mut pieces: Vec<Value> = bos.map(special).into_iter().collect();
            pieces.push(text);
            pieces.extend(eos.map(special));
            pieces
        };
        let tokens: serde_json::Map<String, Value> = around
            .iter()
            .map(|token| {
                let entry = json!({"id": token.text, "ids": [token.id], "tokens": [token.text]});
                (token.text.clone(), entry)
            })
            .collect();
        let pair = [one("A", 0), one("B", 1)].concat();
        Some(json!({
            "type": "TemplateProcessing",
            "single": one("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        }))
    }
}
