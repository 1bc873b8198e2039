//! Text from tokens as they arrive: whole characters only, and nothing that might yet turn out
//! to be a stop string.

use std::collections::HashSet;
use std::sync::Arc;

use tokenizers::{Decoder as _, DecoderWrapper, Model as _};

/// A decoder that joins tokens in a way that cannot be streamed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecoderError {
    /// A step of the tokenizer's decoder that is not one of the supported kinds.
    #[error(
        "unsupported decoder step {step}{position}: expected Replace, ByteFallback, ByteLevel, \
         Metaspace, Strip (after Fuse at the start only) or Fuse"
    )]
    Unsupported {
        /// The step's type.
        step: String,
        /// Empty, or where in the decoder it stands when that is the problem.
        position: &'static str,
    },
    /// The decoder's own rules failed on a token.
    #[error("the decoder failed on token {id} ({token:?}): {message}")]
    Token {
        /// The token's id.
        id: u32,
        /// Its text in the vocabulary.
        token: String,
        /// The library's reason.
        message: String,
    },
}

/// The bytes that each token stands for, as the tokenizer's decoder gives them.
#[derive(Debug)]
pub(crate) struct PieceTable {
    pieces: Packed,
    /// Pieces as they read at the very start, where they differ (Metaspace drops its spaces).
    first_pieces: Option<Packed>,
    /// Put between tokens when the tokenizer has no decoder.
    separator: &'static str,
    /// Character removed from the start of the text, and at most how often.
    strip: (char, usize),
}

impl PieceTable {
    /// The pieces of ids `0..=max_id`; those in `special` are empty.
    pub(crate) fn new(
        tokenizer: &tokenizers::Tokenizer,
        max_id: u32,
        special: &HashSet<u32>,
    ) -> Result<Self, DecoderError> {
        let rules = Rules::new(tokenizer.get_decoder())?;
        let mut pieces = Packed::default();
        let mut first_pieces = rules.has_metaspace().then(Packed::default);
        let added = tokenizer.get_added_vocabulary();
        for id in 0..=max_id {
            let token = added.simple_id_to_token(id);
            let token = token.or_else(|| tokenizer.get_model().id_to_token(id));
            let token = token.filter(|_| !special.contains(&id));
            let bytes = |first| match &token {
                Some(token) => {
                    rules
                        .bytes(token, first)
                        .map(Some)
                        .map_err(|message| DecoderError::Token {
                            id,
                            token: token.clone(),
                            message,
                        })
                }
                None => Ok(None),
            };
            pieces.push(bytes(false)?);
            if let Some(first_pieces) = &mut first_pieces {
                first_pieces.push(bytes(true)?);
            }
        }
        Ok(Self {
            pieces,
            first_pieces,
            separator: rules.separator,
            strip: rules.strip,
        })
    }

    /// The bytes of a token, `None` for special and unknown ids.
    fn get(&self, id: u32, is_first: bool) -> Option<&[u8]> {
        match &self.first_pieces {
            Some(first_pieces) if is_first => first_pieces.get(id),
            _ => self.pieces.get(id),
        }
    }
}

/// Byte strings end to end.
#[derive(Debug, Default)]
struct Packed {
    bytes: Vec<u8>,
    /// End of each string in `bytes`, and whether there is one.
    ends: Vec<(u32, bool)>,
}

impl Packed {
    fn push(&mut self, piece: Option<Vec<u8>>) {
        self.bytes.extend(piece.iter().flatten());
        let end = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.ends.push((end, piece.is_some()));
    }

    fn get(&self, index: u32) -> Option<&[u8]> {
        let index = index as usize;
        let &(end, true) = self.ends.get(index)? else {
            return None;
        };
        let start = match index.checked_sub(1) {
            Some(before) => self.ends[before].0,
            None => 0,
        };
        self.bytes.get(start as usize..end as usize)
    }
}

/// A tokenizer's decoder, taken apart into what it does to one token and to the whole text.
struct Rules<'a> {
    per_token: Vec<&'a DecoderWrapper>,
    byte_fallback: bool,
    byte_level: bool,
    fused: bool,
    separator: &'static str,
    strip: (char, usize),
}

impl<'a> Rules<'a> {
    fn new(decoder: Option<&'a DecoderWrapper>) -> Result<Self, DecoderError> {
        let mut rules = Self {
            per_token: Vec::new(),
            byte_fallback: false,
            byte_level: false,
            fused: false,
            separator: if decoder.is_none() { " " } else { "" },
            strip: (' ', 0),
        };
        if let Some(decoder) = decoder {
            rules.add(decoder)?;
        }
        Ok(rules)
    }

    fn add(&mut self, step: &'a DecoderWrapper) -> Result<(), DecoderError> {
        match step {
            DecoderWrapper::Sequence(sequence) => {
                return sequence
                    .get_decoders()
                    .iter()
                    .try_for_each(|step| self.add(step));
            }
            DecoderWrapper::Fuse(_) => self.fused = true,
            DecoderWrapper::Strip(strip) if self.fused && strip.stop == 0 && self.strip.1 == 0 => {
                self.strip = (strip.content, strip.start);
            }
            _ if self.fused => return Err(unsupported(step, " after Fuse")),
            DecoderWrapper::ByteFallback(_) => self.byte_fallback = true,
            DecoderWrapper::ByteLevel(_) => {
                self.byte_level = true;
                self.fused = true;
            }
            DecoderWrapper::Replace(_)
            | DecoderWrapper::Metaspace(_)
            | DecoderWrapper::Strip(_) => self.per_token.push(step),
            DecoderWrapper::BPE(_) | DecoderWrapper::WordPiece(_) | DecoderWrapper::CTC(_) => {
                return Err(unsupported(step, ""));
            }
        }
        Ok(())
    }

    fn has_metaspace(&self) -> bool {
        let is_metaspace = |step: &&DecoderWrapper| matches!(step, DecoderWrapper::Metaspace(_));
        self.per_token.iter().any(is_metaspace)
    }

    fn bytes(&self, token: &str, is_first: bool) -> Result<Vec<u8>, String> {
        if self.byte_fallback
            && let Some(byte) = fallback_byte(token)
        {
            return Ok(vec![byte]);
        }
        let mut text = token.to_owned();
        for step in &self.per_token {
            text = match step {
                DecoderWrapper::Strip(strip) => {
                    strip_token(&text, strip.content, strip.start, strip.stop).to_owned()
                }
                _ => decode_alone(step, text, is_first)?,
            };
        }
        if self.byte_level {
            let bytes: Option<Vec<u8>> = text.chars().map(byte_level_byte).collect();
            return Ok(bytes.unwrap_or_else(|| text.into_bytes()));
        }
        Ok(text.into_bytes())
    }
}

fn unsupported(step: &DecoderWrapper, position: &'static str) -> DecoderError {
    let kind = serde_json::to_value(step).ok();
    let kind = kind.and_then(|value| value["type"].as_str().map(str::to_owned));
    DecoderError::Unsupported {
        step: kind.unwrap_or_else(|| "of unknown type".into()),
        position,
    }
}

/// What a step makes of one token, at the start of a text or after an empty token.
fn decode_alone(step: &DecoderWrapper, token: String, is_first: bool) -> Result<String, String> {
    let tokens = if is_first {
        vec![token]
    } else {
        vec![String::new(), token]
    };
    let decoded = step
        .decode_chain(tokens)
        .map_err(|error| error.to_string())?;
    Ok(decoded.concat())
}

/// Removes up to `start` and `stop` times `content` from the ends of a token.
fn strip_token(mut token: &str, content: char, start: usize, stop: usize) -> &str {
    for _ in 0..start {
        token = token.strip_prefix(content).unwrap_or(token);
    }
    for _ in 0..stop {
        token = token.strip_suffix(content).unwrap_or(token);
    }
    token
}

/// The byte of a byte-fallback token, `<0x0A>` for instance.
fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}

/// The byte that a character of a byte-level vocabulary stands for (GPT-2's `bytes_to_unicode`):
/// printable Latin-1 characters are themselves, the other bytes follow in order from U+0100.
fn byte_level_byte(character: char) -> Option<u8> {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let code = u32::from(character);
    match u8::try_from(code) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => {
            let place = usize::try_from(code.checked_sub(0x100)?).ok()?;
            (0..=u8::MAX).filter(|&byte| !is_printable(byte)).nth(place)
        }
    }
}

/// Decodes one sequence token by token.
///
/// Every [`push`](Self::push) returns the characters that token completes. What has been
/// returned is never revised, and all parts together are the text of the whole sequence as the
/// `tokenizers` library decodes it, special tokens left out. One difference, where bytes do not
/// form UTF-8: the library's byte-fallback decoder gives up a whole run of byte tokens, good
/// characters included, which a stream cannot; here good characters stay and every maximal
/// invalid part becomes one U+FFFD, as in [`String::from_utf8_lossy`].
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    table: Arc<PieceTable>,
    /// Bytes of a character that is not complete yet, at most 3 between calls.
    pending: Vec<u8>,
    completed: String,
    is_first: bool,
    strip_left: usize,
    drop_space: bool,
}

impl StreamDecoder {
    pub(crate) fn new(table: Arc<PieceTable>) -> Self {
        Self {
            strip_left: table.strip.1,
            table,
            pending: Vec::new(),
            completed: String::new(),
            is_first: true,
            drop_space: false,
        }
    }

    /// Drops one space, if the text begins with one after the decoder's own stripping.
    pub(crate) fn dropping_one_leading_space(mut self) -> Self {
        self.drop_space = true;
        self
    }

    /// Decodes as if text stood before the first token.
    pub(crate) fn in_the_middle(mut self) -> Self {
        self.is_first = false;
        self.strip_left = 0;
        self
    }

    /// Takes the next token; returns the text it completes, which may be empty.
    pub fn push(&mut self, id: crate::tokenizer::TokenId) -> &str {
        self.completed.clear();
        if let Some(piece) = self.table.get(id.0, self.is_first) {
            if !self.is_first {
                self.pending
                    .extend_from_slice(self.table.separator.as_bytes());
            }
            self.is_first = false;
            self.pending.extend_from_slice(piece);
            self.complete_characters();
            self.strip_start();
        }
        &self.completed
    }

    /// Ends the sequence; an unfinished character becomes U+FFFD.
    pub fn finish(self) -> String {
        if self.pending.is_empty() {
            String::new()
        } else {
            String::from(char::REPLACEMENT_CHARACTER)
        }
    }

    fn complete_characters(&mut self) {
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            self.completed.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let may_continue = done + invalid.len() == self.pending.len()
                && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if invalid.is_empty() || may_continue {
                break;
            }
            self.completed.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
        self.pending.drain(..done);
    }

    fn strip_start(&mut self) {
        let mut cut = 0;
        for character in self.completed.chars() {
            if self.strip_left > 0 && character == self.table.strip.0 {
                self.strip_left -= 1;
            } else {
                self.strip_left = 0;
                let drops = std::mem::take(&mut self.drop_space) && character == ' ';
                cut += if drops { 1 } else { 0 };
                break;
            }
            cut += character.len_utf8();
        }
        self.completed.drain(..cut);
    }
}

/// What [`StopMatcher::push`] lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOutcome {
    /// Text that is certainly not part of a stop string.
    pub emit: String,
    /// Whether a stop string has been found; nothing after it is ever emitted.
    pub stopped: bool,
}

/// Finds stop strings in text that arrives in parts of any size.
///
/// The stop string whose end comes first wins, of several that end together the longest; the
/// result does not depend on where the parts were cut.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// A matcher for these stop strings; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        let mut stops = stops.to_vec();
        stops.retain(|stop| !stop.is_empty());
        Self {
            stops,
            held: String::new(),
            stopped: false,
        }
    }

    /// Takes the next part of the text. Only a tail that could still become a stop string is
    /// held back.
    pub fn push(&mut self, text: &str) -> StopOutcome {
        if self.stopped {
            return StopOutcome {
                emit: String::new(),
                stopped: true,
            };
        }
        self.held.push_str(text);
        let keep_from = match self.first_stop() {
            Some(start) => {
                self.stopped = true;
                self.held.truncate(start);
                start
            }
            None => self.tail_start(),
        };
        let tail = self.held.split_off(keep_from);
        StopOutcome {
            emit: std::mem::replace(&mut self.held, tail),
            stopped: self.stopped,
        }
    }

    /// Ends the text; returns what was held back.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the stop string that ends first begins.
    fn first_stop(&self) -> Option<usize> {
        let matches = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        matches.min().map(|(_, start)| start)
    }

    /// Where the longest tail begins that is the beginning of a stop string.
    fn tail_start(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = self.held.len().saturating_sub(longest.saturating_sub(1));
        let may_become_stop = |start: &usize| {
            let tail = &self.held.as_bytes()[*start..];
            let begins = |stop: &String| stop.as_bytes().starts_with(tail);
            self.held.is_char_boundary(*start) && self.stops.iter().any(begins)
        };
        let mut starts = earliest..self.held.len();
        starts.find(may_become_stop).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tokenizer::TokenId;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const VOCAB: [&str; 16] = [
        "<unk>",
        "</s>",
        "\u{2581}",
        "\u{2581}\u{2581}",
        "\u{2581}a",
        "a\u{2581}b",
        "é",
        "Ġx",
        "Ã",
        "©",
        "<0xE6>",
        "<0x97>",
        "<0xA5>",
        "<0x20>",
        "<0xFF>",
        "b",
    ];

    fn library(decoder: &Value) -> tokenizers::Tokenizer {
        let vocab: serde_json::Map<String, Value> = (0..)
            .zip(VOCAB)
            .map(|(id, token): (u32, _)| (token.into(), id.into()))
            .collect();
        let end = json!({"id": 1, "content": "</s>", "single_word": false, "lstrip": false,
                         "rstrip": false, "normalized": false, "special": true});
        let description = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": decoder, "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        tokenizers::Tokenizer::from_bytes(description.to_string()).unwrap()
    }

    fn table(library: &tokenizers::Tokenizer) -> Result<Arc<PieceTable>, DecoderError> {
        let special = HashSet::from([1]);
        PieceTable::new(library, VOCAB.len() as u32 - 1, &special).map(Arc::new)
    }

    fn stream(table: &Arc<PieceTable>, ids: &[u32]) -> String {
        let mut decoder = StreamDecoder::new(Arc::clone(table));
        let mut text = String::new();
        for &id in ids {
            text.push_str(decoder.push(TokenId(id)));
        }
        text + &decoder.finish()
    }

    /// Whether every run of byte tokens, special tokens apart, is UTF-8.
    fn byte_runs_are_valid(ids: &[u32]) -> bool {
        let mut run = Vec::new();
        let mut valid = true;
        for &id in ids.iter().filter(|&&id| id != 1).chain([&0]) {
            match fallback_byte(VOCAB[id as usize]) {
                Some(byte) => run.push(byte),
                None => {
                    valid &= std::str::from_utf8(&run).is_ok();
                    run.clear();
                }
            }
        }
        valid
    }

    fn replace() -> Value {
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "})
    }

    #[test]
    fn agrees_with_the_library_for_every_supported_decoder() {
        let bytes = json!({"type": "ByteFallback"});
        let fuse = json!({"type": "Fuse"});
        let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
        let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}",
                               "prepend_scheme": "always", "split": true});
        let sequence = |steps: &[&Value]| json!({"type": "Sequence", "decoders": steps});
        let level = json!({"type": "ByteLevel", "add_prefix_space": false,
                           "trim_offsets": true, "use_regex": true});
        let decoders = [
            (json!(null), false),
            (level.clone(), false),
            (sequence(&[&level, &strip]), false),
            (metaspace.clone(), false),
            (sequence(&[&metaspace, &strip, &fuse]), false),
            (sequence(&[&replace(), &bytes, &fuse]), true),
            (sequence(&[&replace(), &bytes, &fuse, &strip]), true),
        ];
        let runs = prop_oneof![
            Just(vec![10, 11, 12]),
            Just(vec![13]),
            (0..16_u32).prop_map(|id| vec![id])
        ];
        let ids = proptest::collection::vec(runs, 0..12).prop_map(|runs| runs.concat());
        for (decoder, has_fallback) in decoders {
            let library = library(&decoder);
            let table = table(&library).unwrap();
            proptest!(|(ids in &ids)| {
                prop_assume!(!has_fallback || byte_runs_are_valid(&ids));
                let whole = library.decode(&ids, true).unwrap();
                prop_assert_eq!(stream(&table, &ids), whole, "{}", decoder);
            });
        }
    }

    #[test]
    fn characters_wait_for_their_last_byte() {
        let decoder = json!({"type": "Sequence", "decoders":
            [replace(), {"type": "ByteFallback"}, {"type": "Fuse"}]});
        let table = table(&library(&decoder)).unwrap();
        let mut decoder = StreamDecoder::new(Arc::clone(&table));
        let parts: Vec<String> = [4, 10, 1, 11, 12, 15, 10, 15, 14]
            .map(|id| decoder.push(TokenId(id)).to_owned())
            .into();
        assert_eq!(
            parts,
            [" a", "", "", "", "日", "b", "", "\u{FFFD}b", "\u{FFFD}"]
        );
        assert_eq!(decoder.finish(), "");
        assert_eq!(stream(&table, &[15, 10, 11]), "b\u{FFFD}");
    }

    #[test]
    fn only_one_leading_space_is_layout() {
        let decoder = json!({"type": "Sequence", "decoders": [replace(), {"type": "Fuse"}]});
        let table = table(&library(&decoder)).unwrap();
        let reply = |ids: &[u32]| {
            let mut decoder = StreamDecoder::new(Arc::clone(&table)).dropping_one_leading_space();
            let parts = ids.iter().map(|&id| decoder.push(TokenId(id)).to_owned());
            parts.collect::<String>()
        };
        assert_eq!(reply(&[2, 2, 4]), "  a");
        assert_eq!(reply(&[1, 3, 15]), " b");
        assert_eq!(reply(&[15, 2]), "b ");
    }

    #[test]
    fn decoders_that_cannot_stream_are_refused() {
        let word_piece = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
        let late = json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, replace()]});
        for (decoder, step) in [(word_piece, "WordPiece"), (late, "Replace after Fuse")] {
            let error = table(&library(&decoder)).unwrap_err().to_string();
            assert!(error.contains(step), "{error}");
        }
    }

    #[test]
    fn byte_level_characters_cover_every_byte_once() {
        let characters = (0..0x200).filter_map(char::from_u32);
        let mut bytes: Vec<u8> = characters.filter_map(byte_level_byte).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_level_byte('Ġ'), Some(b' '));
        assert_eq!(byte_level_byte('Ċ'), Some(b'\n'));
    }

    /// Text up to the stop string that ends first, found one character at a time.
    fn naive_stop(text: &str, stops: &[String]) -> (String, bool) {
        let ends = text
            .char_indices()
            .map(|(at, character)| at + character.len_utf8());
        for end in ends {
            let longest = stops
                .iter()
                .filter(|stop| !stop.is_empty() && text[..end].ends_with(stop.as_str()))
                .map(String::len)
                .max();
            if let Some(length) = longest {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn stops_are_found_however_the_text_is_cut(
            parts in proptest::collection::vec("[ab日]{0,4}", 0..12),
            stops in proptest::collection::vec("[ab日]{0,4}", 0..4),
        ) {
            let mut matcher = StopMatcher::new(&stops);
            let mut emitted = String::new();
            let mut fed = String::new();
            let mut stopped = false;
            for part in &parts {
                let outcome = matcher.push(part);
                fed.push_str(part);
                emitted.push_str(&outcome.emit);
                stopped = outcome.stopped;
                if !stopped {
                    let held = &fed[emitted.len()..];
                    let may_become_stop = |stop: &String| stop.len() > held.len() && stop.starts_with(held);
                    prop_assert!(held.is_empty() || stops.iter().any(may_become_stop));
                }
            }
            emitted.push_str(&matcher.flush());
            prop_assert_eq!((emitted, stopped), naive_stop(&parts.concat(), &stops));
        }
    }

    #[test]
    fn nothing_follows_a_stop_string() {
        let mut matcher = StopMatcher::new(&["END".into(), String::new()]);
        let outcome = |emit: &str, stopped| StopOutcome {
            emit: emit.into(),
            stopped,
        };
        assert_eq!(matcher.push("one E"), outcome("one ", false));
        assert_eq!(matcher.push("N"), outcome("", false));
        assert_eq!(matcher.push("T EN"), outcome("ENT ", false));
        assert_eq!(matcher.push("D two END"), outcome("", true));
        assert_eq!(matcher.push("three"), outcome("", true));
        assert_eq!(matcher.flush(), "");
    }
}
