//! From a tokenizer's files to a [`Tokenizer`] that works.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::{AddedToken, ModelWrapper};

use super::config::TokenizerConfig;
use super::special::{SpecialToken, SpecialTokens};
use super::{EOS_NAMES, MAX_TOKEN_ID, TokenId, Tokenizer, TokenizerError};
use crate::prompt::{ChatFormat, Frame};
use crate::stream_text::PieceTable;

/// Builds a [`Tokenizer`] from file contents.
pub(super) struct Loader<'a> {
    /// For messages.
    pub(super) path: &'a Path,
}

impl Loader<'_> {
    pub(super) fn load(
        &self,
        json: &[u8],
        mut config: TokenizerConfig,
    ) -> Result<Tokenizer, TokenizerError> {
        let description: Value =
            serde_json::from_slice(json).map_err(|source| TokenizerError::Json {
                path: self.path.to_path_buf(),
                source,
            })?;
        self.check_merges(&description["model"])?;
        let mut inner = self.guarded(|| tokenizers::Tokenizer::from_bytes(json))?;
        make_deterministic(&mut inner);
        inner.set_encode_special_tokens(true);

        let vocab_size = inner.get_vocab_size(true);
        let max_id = inner.get_vocab(true).into_values().max();
        let added = inner.get_added_tokens_decoder();
        let own_ids = inner.get_vocab(false).into_values();
        let own_max = own_ids.filter(|id| !added.contains_key(id)).max();
        let own_size = own_max.map_or(0, |id| id as usize + 1);
        let max_id = max_id.ok_or_else(|| self.invalid("its vocabulary is empty"))?;
        if max_id > MAX_TOKEN_ID {
            return Err(self.invalid(format!(
                "it has token id {max_id}, the largest supported is {MAX_TOKEN_ID}"
            )));
        }

        let id_of = |role: &'static str| match config.token(role)? {
            Some(token) => token_id(&inner, &config, role, token).map(Some),
            None => Ok(None),
        };
        let mut note = None;
        let bos = match id_of("bos_token")? {
            None => self.implied_bos(&inner)?,
            named => named,
        };
        let bos = bos.or_else(|| {
            let id = config.model_bos.filter(|_| !config.names("bos_token"))?;
            let token = inner.id_to_token(id)?;
            note = Some(format!(
                "{} does not say how a text begins: BOS is {token:?}, token {id}, as config.json \
                 has it",
                self.path.display()
            ));
            Some(id)
        });
        let eos = match id_of("eos_token")? {
            None => EOS_NAMES.iter().find_map(|name| inner.token_to_id(name)),
            named => named,
        };

        let mut special: HashMap<u32, AddedToken> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .collect();
        for id in bos.into_iter().chain(eos) {
            let content = inner.id_to_token(id).unwrap_or_default();
            special
                .entry(id)
                .or_insert_with(|| AddedToken::from(content, true));
        }
        self.guarded(|| inner.add_special_tokens(special.values().cloned()))?;

        let special_ids: HashSet<u32> = special.keys().copied().collect();
        let pieces = PieceTable::new(&inner, max_id, &special_ids).map_err(|source| {
            TokenizerError::Decoder {
                path: self.path.to_path_buf(),
                source,
            }
        })?;

        let unknown = unknown_id(&description["model"], &inner);
        let specials = SpecialTokens::new(
            special
                .iter()
                .map(|(&id, token)| (token.content.clone(), id)),
        );
        let alias_ids = self.add_aliases(&mut inner, &specials, &special)?;
        let (bos, eos) = (bos.map(TokenId), eos.map(TokenId));

        let mut names = config.tokens_by_name();
        for (name, id) in [("bos_token", bos), ("eos_token", eos)] {
            names.insert(name.to_owned(), specials.text_of(id).into());
        }
        if let (false, Some(token)) = (
            names.contains_key("unk_token"),
            unknown.and_then(|id| inner.id_to_token(id)),
        ) {
            names.insert("unk_token".to_owned(), token.into());
        }
        let prepends_space = has_prepend(&description["normalizer"]);
        let frame = Frame {
            specials: &specials,
            bos,
            eos,
            prepends_space,
            names: &names,
        };
        let tokenizer = Tokenizer {
            format: ChatFormat::detect(config.take_template(), &frame),
            alias_ids,
            forbidden: special_ids
                .into_iter()
                .filter(|&id| Some(id) != unknown)
                .collect(),
            pieces: Arc::new(pieces),
            vocab_size,
            own_size,
            bos,
            adds_bos: config.adds_bos().unwrap_or(true),
            eos,
            prepends_space,
            names,
            note,
            specials,
            inner,
        };
        // A tokenizer that lacks its own "unknown" token fails only once it needs it.
        self.guarded(|| tokenizer.inner.encode_fast("a \u{10FFFD}\0", false))?;
        Ok(tokenizer)
    }

    fn invalid(&self, message: impl Into<String>) -> TokenizerError {
        TokenizerError::Invalid {
            path: self.path.to_path_buf(),
            message: message.into(),
        }
    }

    /// The library asserts on some inputs that a damaged file can hold: its panics become errors.
    fn guarded<T>(
        &self,
        call: impl FnOnce() -> tokenizers::Result<T>,
    ) -> Result<T, TokenizerError> {
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.invalid(error.to_string())),
            Err(_) => Err(self.invalid("its parts contradict each other")),
        }
    }

    /// Merges whose product is not a token; the library indexes out of bounds on long ones.
    fn check_merges(&self, model: &Value) -> Result<(), TokenizerError> {
        let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array())
        else {
            return Ok(());
        };
        let prefix = model["continuing_subword_prefix"].as_str().unwrap_or("");
        for (rank, merge) in merges.iter().enumerate() {
            let pair = match merge {
                Value::String(text) => text.split_once(' '),
                Value::Array(pair) => match pair.as_slice() {
                    [Value::String(left), Value::String(right)] => Some((&**left, &**right)),
                    _ => None,
                },
                _ => None,
            };
            let Some((left, right)) = pair else {
                return Err(self.invalid(format!("merge {rank} is not a pair of tokens: {merge}")));
            };
            let joined = right
                .get(prefix.len()..)
                .map(|rest| format!("{left}{rest}"));
            if !joined.is_some_and(|joined| vocab.contains_key(&joined)) {
                return Err(self.invalid(format!(
                    "merge {rank} joins {left:?} and {right:?} to a token it does not have"
                )));
            }
        }
        Ok(())
    }

    /// The special token that the tokenizer puts before an empty text.
    fn implied_bos(&self, inner: &tokenizers::Tokenizer) -> Result<Option<u32>, TokenizerError> {
        let encoding = self.guarded(|| inner.encode_fast("", true))?;
        let first = encoding.get_ids().first().copied();
        let added = inner.get_added_tokens_decoder();
        Ok(first.filter(|id| added.get(id).is_some_and(|token| token.special)))
    }

    fn add_aliases(
        &self,
        inner: &mut tokenizers::Tokenizer,
        specials: &SpecialTokens,
        originals: &HashMap<u32, AddedToken>,
    ) -> Result<HashMap<u32, TokenId>, TokenizerError> {
        let aliases = specials.tokens.iter().map(|token| {
            let original = &originals[&token.id.0];
            AddedToken::from(token.alias.clone(), false)
                .normalized(false)
                .lstrip(original.lstrip)
                .rstrip(original.rstrip)
        });
        self.guarded(|| inner.add_tokens(aliases))?;
        let id_of_alias = |token: &SpecialToken| {
            let alias_id = inner.token_to_id(&token.alias);
            alias_id.map(|alias_id| (alias_id, token.id))
        };
        Ok(specials.tokens.iter().filter_map(id_of_alias).collect())
    }
}

/// Switches off what makes ids depend on more than the text: cut-offs, padding, random merges.
fn make_deterministic(inner: &mut tokenizers::Tokenizer) {
    inner
        .with_truncation(None)
        .expect("BUG: removing the length limit cannot fail");
    inner.with_padding(None);
    if let ModelWrapper::BPE(bpe) = inner.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        inner.with_model(bpe);
    }
}

fn token_id(
    inner: &tokenizers::Tokenizer,
    config: &TokenizerConfig,
    role: &'static str,
    token: String,
) -> Result<u32, TokenizerError> {
    inner
        .token_to_id(&token)
        .ok_or_else(|| TokenizerError::UnknownToken {
            path: config.path.clone(),
            role,
            token,
        })
}

fn unknown_id(model: &Value, inner: &tokenizers::Tokenizer) -> Option<u32> {
    match model["unk_token"].as_str() {
        Some(token) => inner.token_to_id(token),
        None => u32::try_from(model["unk_id"].as_u64()?).ok(),
    }
}

fn has_prepend(normalizer: &Value) -> bool {
    let parts = normalizer["normalizers"].as_array();
    normalizer["type"] == "Prepend" || parts.is_some_and(|parts| parts.iter().any(has_prepend))
}
