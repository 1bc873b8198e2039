//! Words as they were typed, looked for in a text itself.
//!
//! The index knows letters and digits alone, and takes a line of Chinese with a Latin name in it for one word. Where
//! signs are part of a word (`C++`, `.NET`), and in texts in such scripts, this decides.

use icu_normalizer::DecomposingNormalizerBorrowed;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use serde::{Deserialize, Serialize};

use super::is_unspaced;

/// All of these have to be in a text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Words(Vec<Word>);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Word {
    /// Folded.
    text: String,
    /// May be the beginning of a word.
    is_open: bool,
}

/// A folded text, and where in the text each of its bytes comes from.
struct Folded {
    text: String,
    origins: Vec<usize>,
}

/// Makes `has_words(text, words)` known to SQL; the second is [`Words::to_json`].
pub(crate) fn register(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("has_words", 2, flags, |context| {
        let words = context.get_or_create_aux(
            1,
            |value| -> Result<Words, Box<dyn std::error::Error + Send + Sync>> {
                Ok(serde_json::from_str(value.as_str()?)?)
            },
        )?;
        Ok(words.are_in(context.get_raw(0).as_str()?))
    })
}

impl Words {
    /// Of words and whether each may be the beginning of one.
    pub fn new<'a>(words: impl Iterator<Item = (&'a str, bool)>) -> Self {
        let words = words.map(|(text, is_open)| Word {
            text: folded(text).trim().to_owned(),
            is_open,
        });
        Self(words.collect())
    }

    /// For the SQL function.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("BUG: texts and flags are JSON")
    }

    fn are_in(&self, text: &str) -> bool {
        let folded = folded(text);
        let mut words = self.0.iter();
        words.all(|word| word.places(&folded).next().is_some())
    }

    /// Byte ranges of all places in `text`, word by word.
    pub fn places(&self, text: &str) -> Vec<(usize, usize)> {
        let folded = Folded::of(text);
        let origin = |at: usize| folded.origins.get(at).copied().unwrap_or(text.len());
        let places = self.0.iter().flat_map(|word| word.places(&folded.text));
        places
            .map(|(from, to)| (origin(from), origin(to)))
            .filter(|(from, to)| from < to)
            .collect()
    }
}

impl Word {
    fn places<'a>(&'a self, folded: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
        let begins_with_letter = self.text.starts_with(is_letter);
        let ends_with_letter = self.text.ends_with(is_letter) && !self.is_open;
        folded
            .match_indices(&self.text)
            .map(|(at, found)| (at, at + found.len()))
            .filter(move |&(from, to)| {
                let goes_on_before = begins_with_letter && folded[..from].ends_with(is_letter);
                let goes_on_behind = ends_with_letter && folded[to..].starts_with(is_letter);
                !goes_on_before && !goes_on_behind
            })
    }
}

/// A letter or digit of a script with spaces between its words.
fn is_letter(c: char) -> bool {
    c.is_alphanumeric() && !is_unspaced(c)
}

/// Hands over the characters of `text` without case and accents, with one kind of apostrophe,
/// hyphen and space, each with where it comes from.
fn fold(text: &str, mut push: impl FnMut(usize, char)) {
    let normalizer = DecomposingNormalizerBorrowed::new_nfd();
    let mut is_space = false;
    for (at, c) in text.char_indices() {
        let was_space = std::mem::replace(&mut is_space, c.is_whitespace());
        if c.is_ascii_graphic() {
            push(at, c.to_ascii_lowercase());
        } else if is_space {
            if !was_space {
                push(at, ' ');
            }
        } else if c < '\u{2000}' {
            for part in normalizer.normalize_iter(std::iter::once(c)) {
                if !matches!(part, '\u{300}'..='\u{36f}') {
                    part.to_lowercase().for_each(|lower| push(at, lower));
                }
            }
        } else {
            match c {
                '‘' | '’' => push(at, '\''),
                '‐' | '‑' => push(at, '-'),
                _ => c.to_lowercase().for_each(|lower| push(at, lower)),
            }
        }
    }
}

fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    fold(text, |_, c| folded.push(c));
    folded
}

impl Folded {
    fn of(text: &str) -> Self {
        let mut folded = Self {
            text: String::with_capacity(text.len()),
            origins: Vec::with_capacity(text.len() + 1),
        };
        fold(text, |origin, c| {
            folded.text.push(c);
            folded.origins.resize(folded.text.len(), origin);
        });
        folded.origins.push(text.len());
        folded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(word: &str, is_open: bool, text: &str) -> Vec<String> {
        let words = Words::new([(word, is_open)].into_iter());
        let places = words.places(text);
        places
            .into_iter()
            .map(|(from, to)| text[from..to].to_owned())
            .collect()
    }

    #[test]
    fn a_word_ends_where_its_script_does() {
        assert_eq!(places("gen", false, "重跑gen后"), ["gen"]);
        assert_eq!(places("gen", false, "重跑gen-itgc后"), ["gen"]);
        assert_eq!(places("gen", false, "重跑oxygen后"), [""; 0]);
        assert_eq!(places("gen", false, "重跑general后"), [""; 0]);
        assert_eq!(places("gen", true, "重跑general后"), ["gen"]);
    }

    #[test]
    fn places_are_those_of_the_text_as_it_was() {
        assert_eq!(places("cafe", false, "去Café吧"), ["Café"]);
        assert_eq!(places("cafe", false, "去Cafe\u{301}吧"), ["Cafe\u{301}"]);
        assert_eq!(
            places("istanbul", false, "İstanbul ISTANBUL"),
            ["İstanbul", "ISTANBUL"]
        );
        assert_eq!(places("don't", false, "I don’t"), ["don’t"]);
        assert_eq!(places("a b", false, "a \n\t b"), ["a \n\t b"]);
        assert_eq!(places("ff", false, ""), [""; 0]);
    }
}
