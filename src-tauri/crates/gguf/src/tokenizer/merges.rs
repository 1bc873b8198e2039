//! The merges of a tokenizer: which two pieces become one, the most urgent first.

use super::{Kind, MAX_MERGES, TokenizerError, Vocabulary};
use crate::text::shorten_bytes;
use crate::value::{Array, Value};

/// The longest piece of a SentencePiece model, in bytes. (Its default is 16 characters.)
const MAX_PIECE_BYTES: usize = 256;

/// Two pieces that become one.
pub(super) type Merge<'a> = (&'a str, &'a str);

struct Scored<'a> {
    score: f64,
    /// Characters on either side.
    lens: [usize; 2],
    merge: Merge<'a>,
}

/// What SentencePiece does by scores, as a list of merges: every way to make a piece of two others.
///
/// The better score comes first; of one score (the ways to make one piece; runs of spaces, which
/// all have the same) the longer left part, then the longer right one, as SentencePiece merges from
/// the left. For Mixtral this gives the list in its `tokenizer.json`, in the same order.
pub(super) fn from_scores<'a>(
    vocabulary: &Vocabulary<'a>,
    scores: &[f64],
) -> Result<Vec<Merge<'a>>, TokenizerError> {
    let is_piece = |id: u32| {
        let kind = vocabulary.kind(id);
        matches!(kind, Some(Kind::Normal | Kind::UserDefined | Kind::Unused))
    };
    let has = |text: &str| vocabulary.ids.get(text).is_some_and(|&id| is_piece(id));
    let mut all = Vec::new();
    for ((id, piece), score) in (0..).zip(&vocabulary.texts).zip(scores) {
        if !is_piece(id) {
            continue;
        }
        if piece.len() > MAX_PIECE_BYTES {
            return Err(TokenizerError::Token {
                id: id as usize,
                problem: format!("has {} bytes, not 1 to {MAX_PIECE_BYTES}", piece.len()),
            });
        }
        let len = piece.chars().count();
        for (left_len, (at, _)) in piece.char_indices().enumerate().skip(1) {
            let (left, right) = piece.split_at(at);
            if has(left) && has(right) {
                all.push(Scored {
                    score: *score,
                    lens: [left_len, len - left_len],
                    merge: (left, right),
                });
            }
        }
        if all.len() > MAX_MERGES {
            return Err(too_many(all.len()));
        }
    }
    // Stable: what is equal in all of this stays in the order of ids. (Adding 0 takes the sign of
    // -0.)
    all.sort_by(|a, b| {
        (b.score + 0.0)
            .total_cmp(&(a.score + 0.0))
            .then(b.lens.cmp(&a.lens))
    });
    Ok(all.into_iter().map(|scored| scored.merge).collect())
}

/// The merges that a file lists as texts `left right`, over the first `n_own` tokens.
pub(super) fn given<'a>(
    list: Array<'a>,
    vocabulary: &Vocabulary<'a>,
    n_own: usize,
) -> Result<Vec<Merge<'a>>, TokenizerError> {
    if list.len() > MAX_MERGES {
        return Err(too_many(list.len()));
    }
    let mut merges = Vec::with_capacity(list.len());
    let mut whole = String::new();
    for (index, value) in list.iter().enumerate() {
        let Value::String(bytes) = value else {
            return Err(TokenizerError::Merge {
                index,
                text: value.to_string(),
                problem: "is no text",
            });
        };
        let wrong = |problem| TokenizerError::Merge {
            index,
            text: shorten_bytes(bytes),
            problem,
        };
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("is not UTF-8"))?;
        // The left piece may itself begin with a space.
        let (left, right) = text
            .char_indices()
            .skip(1)
            .find(|&(_, c)| c == ' ')
            .map(|(at, _)| (&text[..at], &text[at + 1..]))
            .ok_or_else(|| wrong("is not two pieces with a space between"))?;
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        for piece in [left, right, &whole] {
            let id = vocabulary.ids.get(piece);
            if id.is_none_or(|&id| id as usize >= n_own) {
                return Err(wrong("is not of tokens, or does not make one"));
            }
        }
        merges.push((left, right));
    }
    Ok(merges)
}

fn too_many(found: usize) -> TokenizerError {
    TokenizerError::TooLarge {
        what: "merges:",
        found: found.to_string(),
        limit: MAX_MERGES.to_string(),
    }
}
