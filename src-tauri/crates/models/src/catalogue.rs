//! Models that are known by name, and where a tokenizer comes from.

use octet_engine::plan::{ModelSizes, WeightBytes};
use octet_engine::prompt::{Message, Role};
use octet_engine::spec::ModelSpec;
use octet_engine::tokenizer::{TokenId, Tokenizer};

use crate::names::RepoName;
use crate::{Quantization, WeightFormat};

/// A model that is offered without a look at the hub.
#[derive(Clone, Debug)]
pub struct CatalogueItem {
    /// Where it is.
    pub repo: RepoName,
    /// For people.
    pub title: &'static str,
    /// In a sentence or two.
    pub about: &'static str,
    /// As the hub names it.
    pub license: &'static str,
    /// How its weights are stored.
    pub quantization: Quantization,
    /// Its shape and the sizes of its files.
    pub sizes: ModelSizes,
    /// Files there are.
    pub files: u32,
    /// Of models that differ in their bits alone: the higher, the better the answers.
    pub quality: u32,
    /// For a repository without one.
    pub tokenizer: TokenizerSources,
}

/// Where a tokenizer may be had, and how to know that it is the right one.
#[derive(Clone, Debug)]
pub struct TokenizerSources {
    /// Repositories, in the order to try them in.
    pub repos: Vec<RepoName>,
    /// What it has to be.
    pub check: TokenizerCheck,
}

/// What tells a tokenizer from others.
#[derive(Clone, Debug)]
pub struct TokenizerCheck {
    /// Tokens, added ones included.
    pub vocab_size: usize,
    /// The token that begins a text.
    pub bos: TokenId,
    /// The token that ends one.
    pub eos: TokenId,
    /// Questions, and the tokens of a conversation that begins with each. Unlike those of plain
    /// text, they do not depend on which of its two published forms a tokenizer file has (one
    /// puts a space before every text, the other does not).
    pub conversations: &'static [(&'static str, &'static [u32])],
}

impl TokenizerCheck {
    /// Why `tokenizer` is another one, if it is.
    pub(crate) fn refuse(&self, tokenizer: &Tokenizer) -> Option<String> {
        let vocab_size = tokenizer.vocab_size();
        if vocab_size != self.vocab_size {
            return Some(format!(
                "it has {vocab_size} tokens, not {}",
                self.vocab_size
            ));
        }
        for (name, found, expected) in [
            ("BOS", tokenizer.bos(), self.bos),
            ("EOS", tokenizer.eos(), self.eos),
        ] {
            if found != Some(expected) {
                let found = found.map_or("none".to_owned(), |token| token.0.to_string());
                return Some(format!("its {name} is {found}, not {}", expected.0));
            }
        }
        for (text, expected) in self.conversations {
            let ids = match tokenizer.encode_chat(&[Message::new(Role::User, *text)]) {
                Ok(ids) => ids,
                Err(error) => return Some(error.to_string()),
            };
            if ids.iter().map(|id| id.0).ne(expected.iter().copied()) {
                return Some(format!("it encodes {text:?} differently"));
            }
        }
        None
    }
}

/// What Octet offers by itself.
pub(crate) fn built_in() -> Vec<CatalogueItem> {
    let two_bits = CatalogueItem {
        repo: repo("lavawolfiee/Mixtral-8x7B-Instruct-v0.1-offloading-demo"),
        title: "Mixtral 8x7B Instruct",
        about: "The model Octet was made for: 2-bit experts, 4-bit attention. Answers \
                questions, writes and translates in English, French, German, Spanish and Italian, \
                and writes code.",
        license: "apache-2.0",
        quantization: Quantization {
            experts: vec![WeightFormat::hqq(2, Some(16))],
            attention: vec![WeightFormat::hqq(4, Some(64))],
        },
        // Of the files, as the format's description gives them; the listing has them exactly.
        sizes: ModelSizes::new(
            &ModelSpec {
                max_positions: 32_768,
                ..ModelSpec::mixtral()
            },
            WeightBytes {
                expert: 66_407_000,
                trunk_file: 1_240_400_000,
                trunk_resident: 1_117_500_000,
            },
        ),
        files: 259,
        quality: 2,
        tokenizer: mixtral_tokenizer(),
    };
    let three_bits = CatalogueItem {
        repo: repo("lavawolfiee/Mixtral-8x7B-Instruct-v0.1-offloading-hqq-4bit-3bit"),
        title: "Mixtral 8x7B Instruct, 3 bits",
        about: "The same model with its experts at 3 bits: better answers, somewhat slower. By its \
                authors' own tests it solves 58 of 100 school maths problems (GSM8K), at 2 bits 45, \
                and knows 70 of 100 answers (MMLU), at 2 bits 67.",
        quantization: Quantization {
            experts: vec![WeightFormat::hqq(3, None)],
            attention: vec![WeightFormat::hqq(4, Some(64))],
        },
        sizes: ModelSizes {
            expert_bytes: 76_100_000,
            ..two_bits.sizes.clone()
        },
        quality: 3,
        ..two_bits.clone()
    };
    vec![two_bits, three_bits]
}

/// Mistral's first tokenizer. The official repository is gated, so that re-uploads of the same
/// file come first; what they give is checked.
pub(crate) fn mixtral_tokenizer() -> TokenizerSources {
    TokenizerSources {
        repos: vec![
            repo("mobiuslabsgmbh/Mixtral-8x7B-Instruct-v0.1-hf-attn-4bit-moe-2bit-HQQ"),
            repo("TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ"),
            repo("casperhansen/mixtral-instruct-awq"),
            repo("mistralai/Mixtral-8x7B-Instruct-v0.1"),
        ],
        check: TokenizerCheck {
            vocab_size: 32_000,
            bos: TokenId(1),
            eos: TokenId(2),
            conversations: &[
                (
                    "Hello",
                    &[1, 733, 16289, 28793, 22557, 733, 28748, 16289, 28793],
                ),
                (
                    "Hello, how are you?",
                    &[
                        1, 733, 16289, 28793, 22557, 28725, 910, 460, 368, 28804, 733, 28748,
                        16289, 28793,
                    ],
                ),
            ],
        },
    }
}

fn repo(name: &str) -> RepoName {
    name.parse().expect("BUG: a name of the catalogue")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> Tokenizer {
        Tokenizer::open(&octet_tests::fixture("tokenizer")).unwrap()
    }

    #[test]
    fn the_check_knows_mixtrals_tokenizer_in_both_published_forms() {
        assert_eq!(mixtral_tokenizer().check.refuse(&fixture()), None);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let json = std::fs::read(octet_tests::fixture("tokenizer").join("tokenizer.json")).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        json["normalizer"]["normalizers"] = serde_json::json!([
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        ]);
        json["decoder"]["decoders"]
            .as_array_mut()
            .unwrap()
            .push(serde_json::json!(
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}
            ));
        std::fs::write(&path, json.to_string()).unwrap();
        let older = Tokenizer::open(&path).unwrap();
        assert_ne!(
            older.encode_text("Hi").unwrap(),
            fixture().encode_text("Hi").unwrap()
        );
        assert_eq!(mixtral_tokenizer().check.refuse(&older), None);
    }

    #[test]
    fn the_check_refuses_others() {
        let byte_level = octet_tests::model_with_tokenizer("tiny-2bit");
        let other = Tokenizer::open(byte_level.path()).unwrap();
        let why = mixtral_tokenizer().check.refuse(&other).unwrap();
        assert!(why.contains("259 tokens"), "{why}");
        let mut check = mixtral_tokenizer().check;
        check.eos = TokenId(3);
        let why = check.refuse(&fixture()).unwrap();
        assert!(why.contains("EOS is 2, not 3"), "{why}");
        check.eos = TokenId(2);
        check.conversations = &[("Hello, world", &[1, 2])];
        assert!(check.refuse(&fixture()).unwrap().contains("differently"));
    }

    #[test]
    fn the_catalogue_has_the_sizes_of_the_format() {
        let gb: Vec<f64> = built_in()
            .iter()
            .map(|item| item.sizes.file_bytes() as f64 / 1e9)
            .collect();
        assert!((18.1..18.4).contains(&gb[0]), "{gb:?}");
        assert!((20.6..20.8).contains(&gb[1]), "{gb:?}");
    }
}
