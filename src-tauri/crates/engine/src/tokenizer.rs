//! Text to token ids and back, from a Hugging Face `tokenizer.json`.
//!
//! Special tokens (`<s>`, `</s>`, ...) come only from the chat format or from a caller that
//! asks for them; the same characters in a message or a prompt are ordinary text. To keep the
//! two apart in one pass, every special token gets a second, unguessable name in the loaded
//! tokenizer (its alias) and loses its public one. Encoding the whole conversation in one piece
//! this way gives exactly the ids, spacing included, that the `tokenizers` library gives for the
//! rendered conversation.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Read;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::{AddedToken, Model, ModelWrapper};

use crate::plan::format_bytes;
use crate::prompt::{self, ChatFormat, ChatOptions, Conversation, Message, PromptError};
use crate::stream_text::{DecoderError, PieceTable, StreamDecoder};

/// Largest tokenizer file read; the biggest published ones are near 35 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Largest token id accepted; the biggest published vocabularies are near 260 thousand.
const MAX_TOKEN_ID: u32 = (1 << 22) - 1;

/// End-of-text tokens tried, in this order, when no `tokenizer_config.json` names one.
const EOS_NAMES: [&str; 5] = ["</s>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<eos>"];

/// A row of the embedding table and of the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub u32);

/// Why a tokenizer could not be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// There is no such file.
    #[error(
        "no tokenizer at {}: expected a tokenizer.json file or a folder that has one",
        path.display()
    )]
    Missing {
        /// The file looked for.
        path: PathBuf,
    },
    /// The file exists but cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is too large to be a tokenizer.
    #[error(
        "{} is not a tokenizer file: it is larger than {}",
        path.display(),
        format_bytes(*max_bytes)
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest size read.
        max_bytes: u64,
    },
    /// The file is not JSON of the expected shape.
    #[error("{} is damaged: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what the parser found.
        source: serde_json::Error,
    },
    /// The file is JSON but not a tokenizer that works.
    #[error("{} is not a usable tokenizer: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Token ids cannot be turned back into text piece by piece.
    #[error("{}: {source}", path.display())]
    Decoder {
        /// The file.
        path: PathBuf,
        /// The part of the decoder that is not supported.
        source: DecoderError,
    },
    /// `tokenizer_config.json` names a token that `tokenizer.json` lacks.
    #[error("{}: {role} is {token:?}, which the tokenizer does not have", path.display())]
    UnknownToken {
        /// The configuration file.
        path: PathBuf,
        /// `bos_token` or `eos_token`.
        role: &'static str,
        /// The token's text.
        token: String,
    },
    /// The tokenizer rejected a text.
    #[error(
        "the tokenizer failed on a text of {}: {message}",
        format_bytes(*text_bytes as u64)
    )]
    Encode {
        /// Length of the text.
        text_bytes: usize,
        /// The library's reason.
        message: String,
    },
}

impl TokenizerError {
    /// What to do about it, where the message alone does not tell.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Json { .. } => Some("download it again"),
            _ => None,
        }
    }
}

/// A vocabulary with the rules to go from text to ids and back. Cheap to share by reference
/// between threads.
#[derive(Debug)]
pub struct Tokenizer {
    /// Special tokens are known to it by their aliases only.
    inner: tokenizers::Tokenizer,
    specials: SpecialTokens,
    /// Alias id (beyond the vocabulary) to the id the model knows.
    alias_ids: HashMap<u32, TokenId>,
    /// Ids that text must never produce: all special ones but "unknown".
    forbidden: HashSet<u32>,
    pieces: Arc<PieceTable>,
    vocab_size: usize,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    /// Whether the tokenizer itself puts a space before each stretch of text.
    prepends_space: bool,
    format: ChatFormat,
}

impl Tokenizer {
    /// Opens a `tokenizer.json` file, or the one in a model folder.
    ///
    /// `tokenizer_config.json` and `chat_template.jinja` beside it are read when they exist:
    /// they name the BOS and EOS tokens and hold the chat template. Without them BOS is what
    /// the tokenizer puts before an empty text and EOS is the first of the usual names it has.
    ///
    /// # Errors
    /// [`TokenizerError`] for files that are missing, damaged, or that use a decoder whose
    /// output cannot be streamed.
    pub fn open(path: &Path) -> Result<Self, TokenizerError> {
        let file = if path.is_dir() {
            path.join("tokenizer.json")
        } else {
            path.to_path_buf()
        };
        let json =
            read_file(&file)?.ok_or_else(|| TokenizerError::Missing { path: file.clone() })?;
        let config = TokenizerConfig::read_beside(&file)?;
        Loader { path: &file }.load(&json, config)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token that starts every sequence, if the model has one.
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// The token that ends an answer, if the model has one.
    pub fn eos(&self) -> Option<TokenId> {
        self.eos
    }

    /// Whether conversations are laid out by the checkpoint's own template rather than by the
    /// built-in Mixtral format (see [`crate::prompt`]).
    pub fn uses_own_template(&self) -> bool {
        matches!(self.format, ChatFormat::Template(_))
    }

    /// Encodes plain text, without BOS. Special-token strings in it are ordinary text.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] when the tokenizer's own rules fail on the text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        self.encode_aliased(text)
    }

    /// Encodes text in which special-token strings stand for the tokens themselves, without
    /// adding BOS: what the `tokenizers` library does by default. For trusted text only.
    ///
    /// # Errors
    /// As [`encode_text`](Self::encode_text).
    pub fn encode_markup(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        self.encode_spans(&self.specials.spans(text))
    }

    /// Encodes a raw completion prompt: BOS, where the model has one, then the plain text.
    ///
    /// # Errors
    /// As [`encode_text`](Self::encode_text).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        let mut ids = Vec::from_iter(self.bos);
        ids.extend(self.encode_text(text)?);
        Ok(ids)
    }

    /// Encodes a conversation up to where the assistant's next words belong. A trailing
    /// assistant message is left open, to be continued.
    ///
    /// # Errors
    /// As [`encode_chat_with`](Self::encode_chat_with).
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<TokenId>, PromptError> {
        self.encode_chat_with(messages, &ChatOptions::default())
    }

    /// Encodes a conversation; [`crate::prompt`] describes the formats.
    ///
    /// # Errors
    /// [`PromptError`] when the roles do not alternate, or the checkpoint's template fails or
    /// cannot be followed safely.
    pub fn encode_chat_with(
        &self,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Vec<TokenId>, PromptError> {
        let conversation = Conversation::new(messages)?;
        let frame = prompt::Frame {
            specials: &self.specials,
            bos: self.bos,
            eos: self.eos,
            prepends_space: self.prepends_space,
        };
        let spans = self.format.spans(&conversation, options, &frame)?;
        Ok(self.encode_spans(&spans)?)
    }

    /// Decodes a whole sequence; special tokens and ids outside the vocabulary give nothing.
    /// The same text as [`StreamDecoder`] gives piece by piece.
    pub fn decode(&self, ids: &[TokenId]) -> String {
        let mut decoder = self.decoder();
        let mut text = String::new();
        for &id in ids {
            text.push_str(decoder.push(id));
        }
        text.push_str(&decoder.finish());
        text
    }

    /// A decoder for a new sequence of tokens.
    pub fn decoder(&self) -> StreamDecoder {
        StreamDecoder::new(Arc::clone(&self.pieces))
    }

    /// A decoder for the tokens that a model generates after a chat prompt. The built-in format
    /// puts one space between `[/INST]` and the answer; it is layout, so it is dropped here, and
    /// the decoded answer sent back as an assistant message encodes as it was generated.
    pub fn reply_decoder(&self) -> StreamDecoder {
        match self.format {
            ChatFormat::Mixtral => self.decoder().dropping_one_leading_space(),
            ChatFormat::Template(_) => self.decoder(),
        }
    }

    /// A decoder for the tokens that go on with an answer begun earlier: a space at its beginning
    /// belongs to the text.
    pub fn continuation_decoder(&self) -> StreamDecoder {
        self.decoder().in_the_middle()
    }

    fn encode_spans(&self, spans: &[Span<'_>]) -> Result<Vec<TokenId>, TokenizerError> {
        let text: String = spans
            .iter()
            .map(|span| match span {
                Span::Text(text) => text.as_ref(),
                Span::Special(index) => self.specials.tokens[*index].alias.as_str(),
            })
            .collect();
        self.encode_aliased(&text)
    }

    fn encode_aliased(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        let encoding =
            self.inner
                .encode_fast(text, false)
                .map_err(|source| TokenizerError::Encode {
                    text_bytes: text.len(),
                    message: source.to_string(),
                })?;
        let mut ids = Vec::with_capacity(encoding.len());
        for &id in encoding.get_ids() {
            if let Some(&real) = self.alias_ids.get(&id) {
                ids.push(real);
            } else if self.forbidden.contains(&id) {
                self.spell_out(id, &mut ids);
            } else {
                ids.push(TokenId(id));
            }
        }
        Ok(ids)
    }

    /// Some models look whole words up in the vocabulary, special tokens among them. Such a
    /// word is encoded again one character at a time.
    fn spell_out(&self, id: u32, ids: &mut Vec<TokenId>) {
        let token = self.inner.id_to_token(id).unwrap_or_default();
        for character in token.chars() {
            let pieces = self
                .inner
                .get_model()
                .tokenize(character.encode_utf8(&mut [0; 4]));
            let spelled = pieces.unwrap_or_default().into_iter().map(|piece| piece.id);
            ids.extend(
                spelled
                    .filter(|id| !self.forbidden.contains(id))
                    .map(TokenId),
            );
        }
    }
}

/// A stretch of a rendered conversation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Span<'a> {
    /// Ordinary text, whatever it looks like.
    Text(Cow<'a, str>),
    /// A special token, by its place in [`SpecialTokens`].
    Special(usize),
}

#[derive(Debug)]
pub(crate) struct SpecialToken {
    pub(crate) content: String,
    pub(crate) id: TokenId,
    alias: String,
}

/// The special tokens, longest text first.
#[derive(Debug, Default)]
pub(crate) struct SpecialTokens {
    pub(crate) tokens: Vec<SpecialToken>,
    /// The bytes that one begins with: some vocabularies have hundreds of special tokens, and a
    /// long conversation has few places to look for them.
    first_bytes: HashSet<u8>,
}

impl SpecialTokens {
    fn new(tokens: impl IntoIterator<Item = (String, u32)>) -> Self {
        let nonce = nonce();
        let mut tokens: Vec<_> = tokens
            .into_iter()
            .map(|(content, id)| SpecialToken {
                content,
                id: TokenId(id),
                alias: format!("\u{F0000}{nonce:032x}:{id}\u{F0001}"),
            })
            .collect();
        tokens.sort_by(|a, b| {
            let longest_first = b.content.len().cmp(&a.content.len());
            longest_first.then_with(|| a.content.cmp(&b.content))
        });
        let first = |token: &SpecialToken| token.content.bytes().next();
        let first_bytes = tokens.iter().filter_map(first).collect();
        Self {
            tokens,
            first_bytes,
        }
    }

    pub(crate) fn index_of(&self, id: TokenId) -> Option<usize> {
        self.tokens.iter().position(|token| token.id == id)
    }

    pub(crate) fn text_of(&self, id: Option<TokenId>) -> &str {
        let index = id.and_then(|id| self.index_of(id));
        index.map_or("", |index| &self.tokens[index].content)
    }

    /// The special-token strings in `text`, leftmost first and the longest of those that start
    /// together, as byte ranges with the token's place.
    pub(crate) fn find_all(&self, text: &str) -> Vec<(Range<usize>, usize)> {
        let mut found = Vec::new();
        let mut next_free = 0;
        for (start, byte) in text.bytes().enumerate() {
            if start < next_free || !self.first_bytes.contains(&byte) {
                continue;
            }
            let here = &text[start..];
            let starts_here = |token: &SpecialToken| here.starts_with(token.content.as_str());
            if let Some(index) = self.tokens.iter().position(starts_here) {
                next_free = start + self.tokens[index].content.len();
                found.push((start..next_free, index));
            }
        }
        found
    }

    pub(crate) fn spans<'a>(&self, text: &'a str) -> Vec<Span<'a>> {
        let mut spans = Vec::new();
        let mut done = 0;
        for (range, index) in self.find_all(text) {
            spans.push(Span::Text(Cow::Borrowed(&text[done..range.start])));
            spans.push(Span::Special(index));
            done = range.end;
        }
        spans.push(Span::Text(Cow::Borrowed(&text[done..])));
        spans
    }
}

/// 128 bits that no message can have been written to contain: the standard library's hash keys
/// come from the system's random source.
fn nonce() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

/// `None` when there is no such file.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    let failed = |source| TokenizerError::Read {
        path: path.to_path_buf(),
        source,
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(TokenizerError::TooLarge {
            path: path.to_path_buf(),
            max_bytes: MAX_FILE_BYTES,
        });
    }
    Ok(Some(bytes))
}

/// What is used of `tokenizer_config.json`.
#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    #[serde(skip)]
    path: PathBuf,
    bos_token: Option<TokenText>,
    eos_token: Option<TokenText>,
    chat_template: Option<TemplateSource>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TokenText {
    Plain(String),
    Added { content: String },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TemplateSource {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl TokenizerConfig {
    fn read_beside(tokenizer_file: &Path) -> Result<Self, TokenizerError> {
        let path = tokenizer_file.with_file_name("tokenizer_config.json");
        let mut config = match read_file(&path)? {
            Some(json) => serde_json::from_slice(&json).map_err(|source| TokenizerError::Json {
                path: path.clone(),
                source,
            })?,
            None => Self::default(),
        };
        let template_path = tokenizer_file.with_file_name("chat_template.jinja");
        if let Some(bytes) = read_file(&template_path)? {
            let source = String::from_utf8(bytes).map_err(|_| TokenizerError::Invalid {
                path: template_path,
                message: "the chat template is not UTF-8 text".into(),
            })?;
            config.chat_template = Some(TemplateSource::One(source));
        }
        config.path = path;
        Ok(config)
    }

    /// The template for ordinary chat: of several, the one named `default`, else the first.
    fn template(&mut self) -> Option<String> {
        match self.chat_template.take()? {
            TemplateSource::One(source) => Some(source),
            TemplateSource::Named(mut named) => {
                let is_default = |entry: &NamedTemplate| entry.name == "default";
                let index = named.iter().position(is_default).unwrap_or(0);
                (index < named.len()).then(|| named.swap_remove(index).template)
            }
        }
    }
}

/// Builds a [`Tokenizer`] from file contents; `path` is for messages.
struct Loader<'a> {
    path: &'a Path,
}

impl Loader<'_> {
    fn load(&self, json: &[u8], mut config: TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
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
        let max_id = max_id.ok_or_else(|| self.invalid("its vocabulary is empty"))?;
        if max_id > MAX_TOKEN_ID {
            return Err(self.invalid(format!(
                "it has token id {max_id}, the largest supported is {MAX_TOKEN_ID}"
            )));
        }

        let bos = match &config.bos_token {
            Some(token) => Some(token_id(&inner, &config, "bos_token", token)?),
            None => self.implied_bos(&inner)?,
        };
        let eos = match &config.eos_token {
            Some(token) => Some(token_id(&inner, &config, "eos_token", token)?),
            None => EOS_NAMES.iter().find_map(|name| inner.token_to_id(name)),
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
        let tokenizer = Tokenizer {
            format: ChatFormat::detect(config.template(), &specials, bos, eos),
            alias_ids,
            forbidden: special_ids
                .into_iter()
                .filter(|&id| Some(id) != unknown)
                .collect(),
            pieces: Arc::new(pieces),
            vocab_size,
            bos,
            eos,
            prepends_space: has_prepend(&description["normalizer"]),
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
    token: &TokenText,
) -> Result<u32, TokenizerError> {
    let (TokenText::Plain(content) | TokenText::Added { content }) = token;
    inner
        .token_to_id(content)
        .ok_or_else(|| TokenizerError::UnknownToken {
            path: config.path.clone(),
            role,
            token: content.clone(),
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
