//! The tokenizer of a model, from its file's metadata to the text of a Hugging Face
//! `tokenizer.json`.
//!
//! Two kinds are known. `llama` is SentencePiece's BPE with scores, from which the merges follow
//! ([`merges`]). `gpt2` is BPE over bytes, with merges, whose texts are first split by one of the
//! regular expressions in [`split`]. Source: `llama-vocab.cpp` of llama.cpp; where the models' own
//! `tokenizer.json` differ from it (normalization, splitting of letters), those are followed.

mod json;
mod merges;
mod split;

use std::collections::HashMap;

use self::json::Parts;
use self::split::Split;
use octet_files::bytes::format_bytes;

use crate::metadata::{Metadata, MetadataError};
use crate::text::{shorten, shorten_bytes};
use crate::value::{Array, FromValue, Value};

/// The most tokens; the largest vocabularies have some 260,000.
pub const MAX_TOKENS: usize = 1 << 22;
/// The longest text of a token, in bytes. (A run of 128 spaces takes 256.)
pub const MAX_TOKEN_BYTES: usize = 1024;
/// The texts of all tokens together, in bytes; the largest have some 3 MB.
pub const MAX_VOCABULARY_BYTES: usize = 16 << 20;
/// The most merges.
pub const MAX_MERGES: usize = 1 << 22;
/// The longest chat template, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// A token of the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its number: a row of the embeddings.
    pub id: u32,
    /// Its text, as the vocabulary has it.
    pub text: String,
}

/// What a model's tokens are, and how text is made of them.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizerSpec {
    /// The text of a `tokenizer.json` that the `tokenizers` crate reads.
    pub json: String,
    /// Number of tokens, unused ones included.
    pub n_tokens: usize,
    /// Tokens that stand for no text: control tokens and "unknown". `json` finds them in a text
    /// unless it is told not to, so text of others needs that, or names for them that it lacks.
    pub special: Vec<Token>,
    /// Begins every sequence.
    pub bos: Option<Token>,
    /// Ends an answer.
    pub eos: Option<Token>,
    /// Ends a turn, where that is something else.
    pub eot: Option<Token>,
    /// Ends a message that others follow, such as a call of a tool.
    pub eom: Option<Token>,
    /// Stands for what no other token does.
    pub unknown: Option<Token>,
    /// Fills up.
    pub padding: Option<Token>,
    /// Whether `bos` is put in front of a text.
    pub add_bos: bool,
    /// Whether `eos` is put behind a text.
    pub add_eos: bool,
    /// Whether a space is put in front of each stretch of text between special tokens.
    pub add_space_prefix: bool,
    /// The template that lays out conversations, in Jinja.
    pub chat_template: Option<String>,
}

/// Why a file's tokenizer cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A key that is missing, or of the wrong kind.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A kind of tokenizer that is not known.
    #[error("`{MODEL}` is \"{found}\"; only \"llama\" and \"gpt2\" are supported")]
    Model {
        /// The file's.
        found: String,
    },
    /// A way to split text that is not known. Another one would give other tokens, and worse
    /// answers, without a word.
    #[error(
        "`{PRE}` is \"{found}\", and Octet does not know how that splits text; known are {}",
        Split::names()
    )]
    Pre {
        /// The file's.
        found: String,
    },
    /// As many of one thing as there are of another.
    #[error("the vocabulary is damaged: `{key}` has {found} items for {expected} tokens")]
    Count {
        /// The key.
        key: &'static str,
        /// Number of tokens.
        expected: usize,
        /// Number of its items.
        found: usize,
    },
    /// A token that cannot be.
    #[error("the vocabulary is damaged: token {id} {problem}")]
    Token {
        /// Which.
        id: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Two tokens of one text.
    #[error("the vocabulary is damaged: tokens {first} and {second} are both \"{text}\"")]
    TokenTwice {
        /// The text.
        text: String,
        /// One.
        first: u32,
        /// The other.
        second: u32,
    },
    /// A token that a key names and the vocabulary does not have.
    #[error("`{key}` is {found}, in a vocabulary of {n_tokens} tokens")]
    Id {
        /// The key.
        key: String,
        /// The number.
        found: u32,
        /// Number of tokens.
        n_tokens: usize,
    },
    /// A token is to be added to texts, and it is not known which.
    #[error("`{key}` is true, but there is no `{needs}`")]
    NoToken {
        /// What asks for it.
        key: &'static str,
        /// The key that would name it.
        needs: &'static str,
    },
    /// A merge that makes no token.
    #[error("the vocabulary is damaged: merge {index} (\"{text}\") {problem}")]
    Merge {
        /// Which, from 0.
        index: usize,
        /// The merge.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// More than any real tokenizer has.
    #[error("the vocabulary is damaged: {what} {found}, and {limit} are the most")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much there is.
        found: String,
        /// The limit.
        limit: String,
    },
}

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const TEMPLATE: &str = "tokenizer.chat_template";

impl TokenizerSpec {
    /// Reads the keys `tokenizer.*` of a model.
    ///
    /// # Errors
    /// [`TokenizerError`] for a kind of tokenizer that is not known, and for one whose parts
    /// contradict each other.
    pub fn read(metadata: Metadata<'_>) -> Result<Self, TokenizerError> {
        let model = metadata.require::<&str>(MODEL)?;
        let vocabulary = match model {
            "llama" | "gpt2" => Vocabulary::read(metadata)?,
            _ => {
                return Err(TokenizerError::Model {
                    found: shorten(model),
                });
            }
        };
        if model == "llama" {
            Self::sentence_piece(metadata, &vocabulary)
        } else {
            Self::byte_level(metadata, &vocabulary)
        }
    }

    fn sentence_piece(
        metadata: Metadata<'_>,
        vocabulary: &Vocabulary<'_>,
    ) -> Result<Self, TokenizerError> {
        let scores = scores(metadata, vocabulary.texts.len())?;
        // As SentencePiece numbers them, where a file does not say.
        let default = |id: u32| vocabulary.is_special(id).then_some(id);
        let mut spec = Self::common(metadata, vocabulary, [default(0), default(1), default(2)])?;
        spec.set_added(metadata, true)?;
        spec.add_space_prefix = metadata.get(SPACE_PREFIX)?.unwrap_or(true);
        let merges = merges::from_scores(vocabulary, &scores)?;
        let all = 0..vocabulary.texts.len();
        spec.json = json::sentence_piece(&Parts {
            spec: &spec,
            vocabulary,
            own: all,
            merges: &merges,
        });
        Ok(spec)
    }

    fn byte_level(
        metadata: Metadata<'_>,
        vocabulary: &Vocabulary<'_>,
    ) -> Result<Self, TokenizerError> {
        let pre = metadata.require::<&str>(PRE)?;
        let split = Split::of(pre).ok_or_else(|| TokenizerError::Pre {
            found: shorten(pre),
        })?;
        let mut spec = Self::common(metadata, vocabulary, [None; 3])?;
        spec.set_added(metadata, split.adds_bos)?;
        let own = 0..vocabulary.n_own();
        let merges = merges::given(metadata.require(MERGES)?, vocabulary, own.end)?;
        let parts = Parts {
            spec: &spec,
            vocabulary,
            own,
            merges: &merges,
        };
        spec.json = json::byte_level(&parts, split);
        Ok(spec)
    }

    /// What does not depend on the kind; `defaults` are the ids of "unknown", BOS and EOS.
    fn common(
        metadata: Metadata<'_>,
        vocabulary: &Vocabulary<'_>,
        defaults: [Option<u32>; 3],
    ) -> Result<Self, TokenizerError> {
        let [unknown, bos, eos] = defaults;
        let n_tokens = vocabulary.texts.len();
        let named = |name: &str, default: Option<u32>| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match metadata.get::<u32>(&key)?.or(default) {
                None => Ok(None),
                Some(id) => match vocabulary.token(id) {
                    Some(token) => Ok(Some(token)),
                    None => Err(TokenizerError::Id {
                        key,
                        found: id,
                        n_tokens,
                    }),
                },
            }
        };
        let special = (0..n_tokens as u32).filter(|&id| vocabulary.is_special(id));
        Ok(Self {
            json: String::new(),
            n_tokens,
            special: special.filter_map(|id| vocabulary.token(id)).collect(),
            bos: named("bos", bos)?,
            eos: named("eos", eos)?,
            eot: named("eot", None)?,
            eom: named("eom", None)?,
            unknown: named("unknown", unknown)?,
            // Nothing uses it, and some files name one that is not there.
            padding: named("padding", None).ok().flatten(),
            add_bos: false,
            add_eos: false,
            add_space_prefix: false,
            chat_template: template(metadata)?,
        })
    }

    /// `adds_bos`: whether a file means so that says nothing.
    fn set_added(&mut self, metadata: Metadata<'_>, adds_bos: bool) -> Result<(), TokenizerError> {
        let asked = metadata.get::<bool>(ADD_BOS)?;
        self.add_bos = asked.unwrap_or(adds_bos && self.bos.is_some());
        self.add_eos = metadata.get::<bool>(ADD_EOS)?.unwrap_or(false);
        let no_token = |key, needs| Err(TokenizerError::NoToken { key, needs });
        if self.add_bos && self.bos.is_none() {
            return no_token(ADD_BOS, BOS);
        }
        if self.add_eos && self.eos.is_none() {
            return no_token(ADD_EOS, EOS);
        }
        Ok(())
    }

    /// The ids that end an answer: `eos`, `eot` and `eom`, each once.
    pub fn end_ids(&self) -> Vec<u32> {
        let ends = [&self.eos, &self.eot, &self.eom];
        let mut ids: Vec<u32> = ends.into_iter().flatten().map(|token| token.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

fn template(metadata: Metadata<'_>) -> Result<Option<String>, TokenizerError> {
    let Some(template) = metadata.get::<&str>(TEMPLATE)? else {
        return Ok(None);
    };
    if template.len() > MAX_TEMPLATE_BYTES {
        return Err(TokenizerError::TooLarge {
            what: "the chat template has",
            found: format_bytes(template.len() as u64),
            limit: format_bytes(MAX_TEMPLATE_BYTES as u64),
        });
    }
    Ok(Some(template.to_owned()))
}

/// Texts and kinds of all tokens, checked.
struct Vocabulary<'a> {
    texts: Vec<&'a str>,
    kinds: Vec<Kind>,
    ids: HashMap<&'a str, u32>,
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: Metadata<'a>) -> Result<Self, TokenizerError> {
        let tokens = metadata.require::<Array<'_>>(TOKENS)?;
        let n = tokens.len();
        if n > MAX_TOKENS {
            return Err(TokenizerError::TooLarge {
                what: "tokens:",
                found: n.to_string(),
                limit: MAX_TOKENS.to_string(),
            });
        }
        let mut texts = Vec::with_capacity(n);
        let mut ids = HashMap::with_capacity(n);
        let mut bytes = 0;
        for (id, value) in tokens.iter().enumerate() {
            let text = text(id, value)?;
            bytes += text.len();
            if bytes > MAX_VOCABULARY_BYTES {
                return Err(TokenizerError::TooLarge {
                    what: "the texts of its tokens have more than",
                    found: format_bytes(bytes as u64),
                    limit: format_bytes(MAX_VOCABULARY_BYTES as u64),
                });
            }
            // At most `MAX_TOKENS`.
            if let Some(first) = ids.insert(text, id as u32) {
                return Err(TokenizerError::TokenTwice {
                    text: shorten(text),
                    first,
                    second: id as u32,
                });
            }
            texts.push(text);
        }
        expect_count(TOKENS, n, texts.len())?;
        let kinds = items::<i64>(metadata, TYPES, n)?;
        let kinds = kinds.into_iter().enumerate().map(|(id, kind)| {
            Ok(match kind {
                0 | 1 => Kind::Normal,
                2 => Kind::Unknown,
                3 => Kind::Control,
                4 => Kind::UserDefined,
                5 => Kind::Unused,
                6 => Kind::Byte,
                _ => {
                    let problem = format!("is of kind {kind}, which is unknown");
                    return Err(TokenizerError::Token { id, problem });
                }
            })
        });
        Ok(Self {
            kinds: kinds.collect::<Result<_, _>>()?,
            texts,
            ids,
        })
    }

    fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    /// Whether a token stands for no text.
    fn is_special(&self, id: u32) -> bool {
        matches!(self.kind(id), Some(Kind::Control | Kind::Unknown))
    }

    fn token(&self, id: u32) -> Option<Token> {
        let text = self.texts.get(id as usize)?;
        Some(Token {
            id,
            text: (*text).to_owned(),
        })
    }

    /// Tokens that are found in a text as they are, in the order of ids.
    fn added(&self) -> impl Iterator<Item = (u32, &'a str, Kind)> {
        let tokens = self.texts.iter().zip(&self.kinds).zip(0..);
        tokens.filter_map(|((text, kind), id)| {
            let added = matches!(kind, Kind::Control | Kind::Unknown | Kind::UserDefined);
            added.then_some((id, *text, *kind))
        })
    }

    /// How many tokens are the BPE's own: all before the added ones that are last in the order of
    /// ids. (`tokenizers` numbers added tokens on from the BPE's own, so that those which lie among
    /// them, or in front of unused ones, have to be its own as well to keep their ids.)
    fn n_own(&self) -> usize {
        let added = |kind: &Kind| matches!(kind, Kind::Control | Kind::Unknown | Kind::UserDefined);
        let end = self
            .kinds
            .iter()
            .rposition(added)
            .map_or(0, |last| last + 1);
        let later = &self.kinds[end..];
        if later.iter().any(|kind| *kind != Kind::Unused) {
            return self.kinds.len();
        }
        let own = self.kinds[..end].iter().rposition(|kind| !added(kind));
        own.map_or(0, |last| last + 1)
    }
}

fn text(id: usize, value: Value<'_>) -> Result<&str, TokenizerError> {
    let wrong = |problem: String| Err(TokenizerError::Token { id, problem });
    let Value::String(bytes) = value else {
        return wrong(format!("is {value}, no text"));
    };
    if bytes.is_empty() || bytes.len() > MAX_TOKEN_BYTES {
        return wrong(format!(
            "has {} bytes, not 1 to {MAX_TOKEN_BYTES}",
            bytes.len()
        ));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(_) => wrong(format!("is not UTF-8 (\"{}\")", shorten_bytes(bytes))),
    }
}

fn scores(metadata: Metadata<'_>, n: usize) -> Result<Vec<f64>, TokenizerError> {
    let scores = items::<f64>(metadata, SCORES, n)?;
    match scores.iter().position(|score| !score.is_finite()) {
        None => Ok(scores),
        Some(id) => Err(TokenizerError::Token {
            id,
            problem: format!("has the score {}", scores[id]),
        }),
    }
}

/// The items of an array that has one for each of `n` tokens.
fn items<'a, T: FromValue<'a>>(
    metadata: Metadata<'a>,
    key: &'static str,
    n: usize,
) -> Result<Vec<T>, TokenizerError> {
    let array = metadata.require::<Array<'_>>(key)?;
    expect_count(key, n, array.len())?;
    let mut items = Vec::with_capacity(n);
    for value in array.iter() {
        let item = T::from_value(value);
        items.push(item.ok_or_else(|| MetadataError::value(key, T::EXPECTED, value))?);
    }
    expect_count(key, n, items.len())?;
    Ok(items)
}

fn expect_count(key: &'static str, expected: usize, found: usize) -> Result<(), TokenizerError> {
    if found == expected {
        return Ok(());
    }
    Err(TokenizerError::Count {
        key,
        expected,
        found,
    })
}
