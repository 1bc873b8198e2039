//! Special tokens, and text in which they are told from what only looks like one.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use super::TokenId;

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
    pub(super) alias: String,
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
    pub(super) fn new(tokens: impl IntoIterator<Item = (String, u32)>) -> Self {
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
