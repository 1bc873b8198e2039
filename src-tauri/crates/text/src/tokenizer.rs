//! Text to token ids and back, from a Hugging Face `tokenizer.json`.
//!
//! Special tokens (`<s>`, `</s>`, ...) come only from the chat format or from a caller that
//! asks for them; the same characters in a message or a prompt are ordinary text. To keep the
//! two apart in one pass, every special token gets a second, unguessable name in the loaded
//! tokenizer (its alias) and loses its public one. Encoding the whole conversation in one piece
//! this way gives exactly the ids, spacing included, that the `tokenizers` library gives for the
//! rendered conversation.

mod config;
mod load;
mod special;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokenizers::Model;

use self::config::{TokenizerConfig, read_file};
use self::load::Loader;
pub(crate) use self::special::{Span, SpecialTokens};
use crate::prompt::{self, ChatFormat, ChatOptions, Message, PromptError};
use crate::stream_text::{DecoderError, PieceTable, StreamDecoder};
use octet_checkpoint::{is_gguf, without_byte_order_mark};
use octet_files::bytes::format_bytes;

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
    /// A GGUF file cannot be opened.
    #[error(transparent)]
    GgufFile(Box<octet_gguf::GgufError>),
    /// A GGUF file has no tokenizer, or one that cannot be used.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<octet_gguf::TokenizerError>,
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
    /// One more than the largest id that was not added to the vocabulary later.
    own_size: usize,
    bos: Option<TokenId>,
    /// Whether plain text begins with BOS.
    adds_bos: bool,
    eos: Option<TokenId>,
    /// Whether the tokenizer itself puts a space before each stretch of text.
    prepends_space: bool,
    /// The special tokens' texts by the names that templates give them.
    names: Map<String, Value>,
    note: Option<String>,
    format: ChatFormat,
}

impl Tokenizer {
    /// Opens a `tokenizer.json` file, the one in a model folder, or that in a GGUF file.
    ///
    /// `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` beside it are
    /// read when they exist: they name the special tokens and hold the chat template. Without
    /// them BOS is what the tokenizer puts before an empty text, else what `config.json` names, of
    /// which [`Self::note`] tells; EOS is the first of the usual names it has.
    ///
    /// # Errors
    /// [`TokenizerError`] for files that are missing, damaged, or that use a decoder whose
    /// output cannot be streamed.
    pub fn open(path: &Path) -> Result<Self, TokenizerError> {
        if !path.join("tokenizer.json").is_file() && is_gguf(path) {
            let gguf = octet_gguf::Gguf::open(path);
            return Self::of_gguf(&gguf.map_err(|e| TokenizerError::GgufFile(Box::new(e)))?);
        }
        let file = if path.is_dir() {
            path.join("tokenizer.json")
        } else {
            path.to_path_buf()
        };
        let json =
            read_file(&file)?.ok_or_else(|| TokenizerError::Missing { path: file.clone() })?;
        let config = TokenizerConfig::read_beside(&file)?;
        Loader { path: &file }.load(without_byte_order_mark(&json), config)
    }

    /// The tokenizer in a GGUF file's metadata.
    ///
    /// # Errors
    /// [`TokenizerError`] where it has none, or one that is not known.
    pub fn of_gguf(gguf: &octet_gguf::Gguf) -> Result<Self, TokenizerError> {
        let path = gguf.path();
        let spec = octet_gguf::TokenizerSpec::read(gguf.metadata()).map_err(|source| {
            TokenizerError::Gguf {
                path: path.to_path_buf(),
                source: Box::new(source),
            }
        })?;
        let config = TokenizerConfig::of_gguf(path, &spec);
        Loader { path }.load(spec.json.as_bytes(), config)
    }

    /// What had to be taken from elsewhere, for whoever reads the ids.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Whether this is the tokenizer of a model with `rows` embeddings. Tokens that were added
    /// later may lie beyond them: a fine-tune's padding that no text contains.
    pub fn fits(&self, rows: usize) -> bool {
        self.own_size <= rows
    }

    /// The text of a token as the vocabulary has it.
    pub fn token_text(&self, id: TokenId) -> Option<String> {
        let real = self.inner.id_to_token(id.0);
        real.filter(|_| !self.alias_ids.contains_key(&id.0))
    }

    /// The special token that is written `text`.
    pub fn special_token(&self, text: &str) -> Option<TokenId> {
        let mut tokens = self.specials.tokens.iter();
        tokens
            .find(|token| token.content == text)
            .map(|token| token.id)
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

    /// Encodes a raw completion prompt: BOS, where the model has one and the text does not begin
    /// with it, then what [`encode_markup`](Self::encode_markup) gives. For trusted text only.
    ///
    /// # Errors
    /// As [`encode_text`](Self::encode_text).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        let mut ids = self.encode_markup(text)?;
        if let Some(bos) = self.bos.filter(|_| self.adds_bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
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
    /// [`PromptError`] when the roles are out of order, or the checkpoint's template fails, refuses
    /// the messages or cannot be followed safely.
    pub fn encode_chat_with(
        &self,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Vec<TokenId>, PromptError> {
        let frame = prompt::Frame {
            specials: &self.specials,
            bos: self.bos,
            eos: self.eos,
            prepends_space: self.prepends_space,
            names: &self.names,
        };
        let spans = self.format.spans(messages, options, &frame)?;
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
            ChatFormat::BuiltIn(_) => self.decoder().dropping_one_leading_space(),
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
