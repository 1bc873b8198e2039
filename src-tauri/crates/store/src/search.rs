//! Full-text search over titles and messages.
//!
//! SQLite's FTS5 with diacritics folded. Its `unicode61` tokenizer splits at spaces and marks,
//! which finds nothing inside a line of Chinese, Japanese or Thai; queries in such scripts look
//! for substrings instead, in an index of the messages that contain any. Other words are looked
//! for in these messages too, one by one. Signs are not in the index at all: where a word has
//! some, what the index finds is looked at again.

mod words;

use std::fmt::Write;

use rusqlite::{Connection, Transaction, params_from_iter};
use serde::Serialize;
use uuid::Uuid;

use self::words::Words;
use crate::messages::word_column;
use crate::migrate::Migration;
use crate::{ChatId, MessageId, Result, Role, Store, Timestamp};

macro_rules! tokenizer {
    () => {
        "tokenize = 'unicode61 remove_diacritics 2'"
    };
}

/// Whether a column has a character of [`is_unspaced`]. SQLite uses the index only for the very
/// words that it was made with.
macro_rules! has_unspaced {
    ($column:literal) => {
        concat!($column, " GLOB '*[\u{e00}-\u{eff}\u{1000}-\u{11ff}\u{1780}-\u{17ff}\u{3040}-\u{31ff}\u{3400}-\u{9fff}\u{ac00}-\u{d7af}\u{f900}-\u{faff}\u{20000}-\u{3ffff}]*'")
    };
}

/// Whether a message has a character of [`is_symbol`].
macro_rules! has_symbol {
    () => {
        "text GLOB '*[\u{a1}-\u{bf}\u{20a0}-\u{20cf}\u{2100}-\u{2bff}\u{1f000}-\u{1faff}]*'"
    };
}

/// Answers enter the index when they end, and deleted messages leave it.
///
/// The index holds no text of its own: what is taken out of it has to be exactly what was put
/// in, hence triggers rather than code that could forget. One trigger an event, because SQLite
/// does not say in which order it runs several.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 2,
        sql: concat!(
            "
        CREATE VIRTUAL TABLE messages_fts USING fts5 (
            text, content = 'messages', content_rowid = 'key', prefix = '2 3',
            ",
            tokenizer!(),
            "
        );
        CREATE TRIGGER messages_fts_insert AFTER INSERT ON messages
        WHEN new.state <> 'streaming' AND new.deletion IS NULL BEGIN
            INSERT INTO messages_fts (rowid, text) VALUES (new.key, new.text);
        END;
        CREATE TRIGGER messages_fts_delete AFTER DELETE ON messages
        WHEN old.state <> 'streaming' AND old.deletion IS NULL BEGIN
            INSERT INTO messages_fts (messages_fts, rowid, text)
            VALUES ('delete', old.key, old.text);
        END;
        CREATE TRIGGER messages_fts_update AFTER UPDATE OF text, state, deletion ON messages BEGIN
            INSERT INTO messages_fts (messages_fts, rowid, text)
            SELECT 'delete', old.key, old.text
            WHERE old.state <> 'streaming' AND old.deletion IS NULL;
            INSERT INTO messages_fts (rowid, text)
            SELECT new.key, new.text
            WHERE new.state <> 'streaming' AND new.deletion IS NULL;
        END;
        INSERT INTO messages_fts (rowid, text)
        SELECT key, text FROM messages WHERE state <> 'streaming' AND deletion IS NULL;

        CREATE VIRTUAL TABLE chats_fts USING fts5 (
            title, content = 'chats', content_rowid = 'key', prefix = '2 3',
            ",
            tokenizer!(),
            "
        );
        CREATE TRIGGER chats_fts_insert AFTER INSERT ON chats BEGIN
            INSERT INTO chats_fts (rowid, title) VALUES (new.key, new.title);
        END;
        CREATE TRIGGER chats_fts_delete AFTER DELETE ON chats BEGIN
            INSERT INTO chats_fts (chats_fts, rowid, title) VALUES ('delete', old.key, old.title);
        END;
        CREATE TRIGGER chats_fts_update AFTER UPDATE OF title ON chats BEGIN
            INSERT INTO chats_fts (chats_fts, rowid, title) VALUES ('delete', old.key, old.title);
            INSERT INTO chats_fts (rowid, title) VALUES (new.key, new.title);
        END;
        INSERT INTO chats_fts (rowid, title) SELECT key, title FROM chats;

        CREATE INDEX messages_unspaced ON messages (key) WHERE ",
            has_unspaced!("text"),
            ";
    "
        ),
    },
    Migration {
        version: 3,
        sql: concat!(
            "CREATE INDEX messages_symbols ON messages (key) WHERE ",
            has_symbol!(),
            ";"
        ),
    },
];

/// Thai and Lao, Myanmar and Hangul, Khmer, kana, Han.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{11ff}' | '\u{1780}'..='\u{17ff}'
        | '\u{3040}'..='\u{31ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// Signs, currencies, arrows, mathematics, pictures: what people may look for without a word.
fn is_symbol(c: char) -> bool {
    matches!(c,
        '\u{a1}'..='\u{bf}' | '\u{20a0}'..='\u{20cf}' | '\u{2100}'..='\u{2bff}'
        | '\u{1f000}'..='\u{1faff}')
}

/// Matches that are ranked: the newest. Ranking all of a common word's would take too long.
const MAX_RANKED: u32 = 1000;

/// Words and phrases of a query that count.
const MAX_TERMS: usize = 16;

/// Characters of a query that count. SQLite refuses patterns of more than 50,000 bytes.
const MAX_QUERY_CHARS: usize = 1000;

/// Hits at most.
const MAX_HITS: u32 = 500;

/// Days after which newness counts half.
const RECENT_DAYS: f64 = 30.0;

/// Words in a snippet of a message.
const SNIPPET_WORDS: u32 = 24;

/// Characters of a snippet before and after a substring that was found.
const SNIPPET_CHARS: usize = 70;

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct SearchHit {
    /// In this chat.
    pub chat_id: ChatId,
    /// In this message; none when the title matches.
    pub message_id: Option<MessageId>,
    /// The chat's title.
    pub title: String,
    /// The words around the match, or the title.
    pub snippet: Snippet,
    /// Who said it; none when the title matches.
    pub role: Option<Role>,
    /// When it was said; when something was last said, if the title matches.
    pub at: Timestamp,
}

/// A piece of text with what matches in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Snippet {
    /// The text; `…` where something was left out.
    pub text: String,
    /// `[start, end)` of each match, in UTF-16 code units as JavaScript counts.
    pub matches: Vec<[u32; 2]>,
}

/// What to look for, understood.
pub(crate) enum Query {
    /// Nothing that can be looked for.
    Empty,
    /// Words, some perhaps the beginning of one.
    Words(Expression),
    /// All of these somewhere in the text, whatever the case of ASCII letters.
    Substrings(Vec<String>),
}

/// Words to look for, for the index and for a text itself.
pub(crate) struct Expression {
    /// For FTS5.
    fts: String,
    words: Words,
    /// There are signs in them, which the index does not know.
    is_literal: bool,
}

struct Term {
    text: String,
    /// Between two quotes: nothing is missing at its end.
    is_closed: bool,
}

impl Query {
    /// Spaces separate words, all of which must occur; double quotes make phrases; the last
    /// word may be the beginning of one. Nothing else has a meaning, so nothing can be wrong.
    pub fn parse(text: &str) -> Self {
        let end = text.char_indices().nth(MAX_QUERY_CHARS);
        let text = end.map_or(text, |(end, _)| &text[..end]);
        let terms = terms(text);
        let letters: Vec<(&str, &Term)> = terms
            .iter()
            .filter(|term| term.text.contains(char::is_alphanumeric))
            .map(|term| (without_punctuation(&term.text), term))
            .collect();
        if terms.is_empty() {
            return Self::Empty;
        }
        if letters.is_empty() || terms.iter().any(|term| term.text.contains(is_unspaced)) {
            return Self::Substrings(terms.into_iter().map(|term| term.text).collect());
        }
        let last = letters.len() - 1;
        let is_open = |index: usize, (word, term): (&str, &Term)| {
            let is_last = index == last && !term.is_closed && !text.ends_with(' ');
            // Of one letter everything is the beginning, and behind a sign nothing is missing.
            let letters = word.chars().filter(|c| c.is_alphanumeric());
            is_last && term.text.ends_with(char::is_alphanumeric) && letters.take(2).count() == 2
        };
        let mut fts = String::new();
        let mut words = Vec::new();
        for (index, &(word, term)) in letters.iter().enumerate() {
            let is_open = is_open(index, (word, term));
            let star = if is_open { " *" } else { "" };
            let _ = write!(fts, "\"{word}\"{star} ");
            words.push((word, is_open));
        }
        Self::Words(Expression {
            fts,
            is_literal: words.iter().any(|(word, _)| word.contains(is_sign)),
            words: Words::new(words.into_iter()),
        })
    }

    /// Keys of the chats whose title matches, as text.
    pub fn title_keys(&self, database: &Transaction<'_>) -> Result<Vec<String>> {
        let (sql, values) = match self {
            Self::Empty => ("SELECT key FROM chats".to_owned(), Vec::new()),
            Self::Words(expression) => (
                format!(
                    "SELECT rowid FROM chats_fts WHERE chats_fts MATCH ?1 AND {}
                     UNION SELECT key FROM chats WHERE {} AND has_words(title, ?2)",
                    expression.condition("title"),
                    has_unspaced!("title"),
                ),
                vec![expression.fts.clone(), expression.words.to_json()],
            ),
            Self::Substrings(terms) => {
                let (contains, values) = contains_all("title", terms);
                (format!("SELECT key FROM chats WHERE {contains}"), values)
            }
        };
        let mut statement = database.prepare(&sql)?;
        let keys = statement.query_map(params_from_iter(values), |row| row.get::<_, i64>(0))?;
        keys.map(|key| Ok(key?.to_string())).collect()
    }
}

impl Expression {
    /// The condition on what the index found, with the words as `?2`.
    fn condition(&self, column: &str) -> String {
        if self.is_literal {
            format!("has_words({column}, ?2)")
        } else {
            // Bound all the same.
            "?2 IS NOT NULL".to_owned()
        }
    }
}

/// Part of a word rather than of the sentence it was in.
fn is_sign(c: char) -> bool {
    !c.is_alphanumeric()
        && !c.is_whitespace()
        && !matches!(c, '\'' | '’' | ',' | ';' | ':' | '!' | '?')
}

/// Without what ends a sentence.
fn without_punctuation(word: &str) -> &str {
    word.trim_end_matches(['.', ',', ';', ':', '!', '?', '…'])
}

fn terms(text: &str) -> Vec<Term> {
    let mut terms = Vec::new();
    let mut parts = text
        .split(['"', '“', '”', '„', '«', '»'])
        .enumerate()
        .peekable();
    while let Some((index, part)) = parts.next() {
        let part = part.replace(char::is_control, " ");
        if index % 2 == 1 {
            terms.push(Term {
                text: part.trim().to_owned(),
                is_closed: parts.peek().is_some(),
            });
        } else {
            terms.extend(part.split_whitespace().map(|word| Term {
                text: word.to_owned(),
                is_closed: false,
            }));
        }
    }
    terms.retain(|term| !term.text.is_empty());
    terms.truncate(MAX_TERMS);
    terms
}

impl Store {
    /// Looks for `query` in titles and messages, in chats that are not deleted. Titles come
    /// first, at most half of the hits unless there is nothing else; then messages by how well
    /// they match (BM25) and how new they are. Of a query that matches very often only the
    /// newest 1000 matches are looked at. Answers can be found once they have ended.
    ///
    /// # Errors
    /// When the database fails; never because of the query.
    pub fn search(&self, query: &str, limit: u32) -> Result<Vec<SearchHit>> {
        let limit = limit.clamp(1, MAX_HITS);
        self.database().read(|database| {
            let (mut titles, messages) = match Query::parse(query) {
                Query::Empty => return Ok(Vec::new()),
                Query::Words(expression) => (
                    title_words(database, &expression, limit)?,
                    message_words(database, &expression, limit)?,
                ),
                Query::Substrings(terms) => (
                    title_substrings(database, &terms, limit)?,
                    message_substrings(database, &terms, limit)?,
                ),
            };
            let limit = limit as usize;
            titles.truncate((limit / 2).max(limit.saturating_sub(messages.len())));
            titles.extend(messages);
            titles.truncate(limit);
            Ok(titles)
        })
    }
}

pub(crate) use self::words::register;

/// Makes the indexes anew. Of what is taken out, FTS5 keeps the words as marked deleted.
pub(crate) fn rebuild(database: &Connection) -> Result<()> {
    database.execute_batch(
        "INSERT INTO messages_fts (messages_fts) VALUES ('delete-all');
         INSERT INTO messages_fts (rowid, text)
         SELECT key, text FROM messages WHERE state <> 'streaming' AND deletion IS NULL;
         INSERT INTO chats_fts (chats_fts) VALUES ('rebuild');",
    )?;
    Ok(())
}

/// Marks around matches that no text contains: random, and made anew for each search.
struct Marks {
    open: String,
    close: String,
}

impl Marks {
    fn new() -> Self {
        let mark = || Uuid::new_v4().simple().to_string();
        Self {
            open: mark(),
            close: mark(),
        }
    }

    fn read(&self, marked: &str) -> Snippet {
        let mut snippet = Snippet::default();
        let mut end_utf16 = 0;
        let mut push = |snippet: &mut Snippet, part: &str| {
            snippet.text += part;
            end_utf16 += part.encode_utf16().count() as u32;
            end_utf16
        };
        for (index, part) in marked.split(&self.open).enumerate() {
            match part.split_once(&self.close) {
                Some((matched, rest)) if index > 0 => {
                    let start = push(&mut snippet, "");
                    let end = push(&mut snippet, matched);
                    snippet.matches.push([start, end]);
                    push(&mut snippet, rest);
                }
                _ => {
                    push(&mut snippet, part);
                }
            }
        }
        snippet
    }
}

fn title_words(
    database: &Connection,
    expression: &Expression,
    limit: u32,
) -> Result<Vec<SearchHit>> {
    let marks = Marks::new();
    let mut statement = database.prepare_cached(&format!(
        "SELECT chats.id, chats.title, highlight(chats_fts, 0, ?3, ?4), chats.updated_at
         FROM chats_fts JOIN chats ON chats.key = chats_fts.rowid
         WHERE chats_fts MATCH ?1 AND {} AND deleted_at IS NULL
         ORDER BY chats.updated_at DESC LIMIT ?5",
        expression.condition("chats.title")
    ))?;
    let words = expression.words.to_json();
    let values = (&expression.fts, &words, &marks.open, &marks.close, limit);
    let hits = statement.query_map(values, |row| {
        let title: String = row.get(1)?;
        Ok(SearchHit {
            chat_id: row.get(0)?,
            message_id: None,
            snippet: if expression.is_literal {
                whole(&title, &expression.words)
            } else {
                marks.read(&row.get::<_, String>(2)?)
            },
            title,
            role: None,
            at: row.get(3)?,
        })
    })?;
    let mut hits = hits.collect::<rusqlite::Result<Vec<_>>>()?;
    for hit in unspaced_titles(database, expression, limit)? {
        if hits.iter().all(|other| other.chat_id != hit.chat_id) {
            hits.push(hit);
        }
    }
    hits.sort_by_key(|hit| std::cmp::Reverse(hit.at));
    hits.truncate(limit as usize);
    Ok(hits)
}

/// Words in titles where the index sees none.
fn unspaced_titles(
    database: &Connection,
    expression: &Expression,
    limit: u32,
) -> Result<Vec<SearchHit>> {
    let mut statement = database.prepare_cached(concat!(
        "SELECT id, title, updated_at FROM chats WHERE ",
        has_unspaced!("title"),
        " AND has_words(title, ?1) AND deleted_at IS NULL ORDER BY updated_at DESC LIMIT ?2"
    ))?;
    let hits = statement.query_map((expression.words.to_json(), limit), |row| {
        let title: String = row.get(1)?;
        Ok(SearchHit {
            chat_id: row.get(0)?,
            message_id: None,
            snippet: whole(&title, &expression.words),
            title,
            role: None,
            at: row.get(2)?,
        })
    })?;
    Ok(hits.collect::<rusqlite::Result<_>>()?)
}

fn message_words(
    database: &Connection,
    expression: &Expression,
    limit: u32,
) -> Result<Vec<SearchHit>> {
    let best = best_keys(database, expression, limit)?;
    let mut unspaced = unspaced_keys(database, expression, limit)?;
    unspaced.retain(|key| !best.contains(key));
    // These have no rank: a quarter of the hits is theirs at least.
    let limit = limit as usize;
    let room = limit.saturating_sub(unspaced.len()).max(limit - limit / 4);
    let mut hits = hits(database, best.iter().take(room))?;
    if expression.is_literal {
        shorten(&mut hits, &expression.words);
    } else {
        shorten_to_snippets(&mut hits, &expression.fts)?;
    }
    let mut others = self::hits(database, unspaced.iter().take(limit - hits.len()))?;
    shorten(&mut others, &expression.words);
    hits.extend(others);
    Ok(hits)
}

/// The messages with these keys, with their whole texts.
fn hits<'a>(database: &Connection, keys: impl Iterator<Item = &'a i64>) -> Result<Vec<SearchHit>> {
    let mut statement = database.prepare_cached(
        "SELECT chat_id, messages.id, title, text, role, messages.created_at
         FROM messages JOIN chats ON chats.id = chat_id WHERE messages.key = ?1",
    )?;
    let hits = keys.map(|key| {
        statement.query_row([key], |row| {
            Ok(SearchHit {
                chat_id: row.get(0)?,
                message_id: row.get(1)?,
                title: row.get(2)?,
                snippet: Snippet {
                    text: row.get(3)?,
                    matches: Vec::new(),
                },
                role: Some(word_column(row, 4)?),
                at: row.get(5)?,
            })
        })
    });
    Ok(hits.collect::<rusqlite::Result<_>>()?)
}

/// Messages in whose scripts the index sees no words, the newest first.
fn unspaced_keys(database: &Connection, expression: &Expression, limit: u32) -> Result<Vec<i64>> {
    let mut statement = database.prepare_cached(concat!(
        "SELECT messages.key FROM messages JOIN chats ON chats.id = chat_id
         WHERE ",
        has_unspaced!("text"),
        " AND has_words(text, ?1) AND state <> 'streaming' AND deletion IS NULL
             AND deleted_at IS NULL
         ORDER BY messages.key DESC LIMIT ?2"
    ))?;
    let keys = statement.query_map((expression.words.to_json(), limit), |row| row.get(0))?;
    Ok(keys.collect::<rusqlite::Result<_>>()?)
}

/// Replaces whole texts by what is around the words.
fn shorten(hits: &mut [SearchHit], words: &Words) {
    for hit in hits {
        let text = std::mem::take(&mut hit.snippet.text);
        let places = words.places(&text);
        hit.snippet = snippet_around(&text, places.first().map_or(0, |place| place.0), &places);
    }
}

/// A title, with what matches in it.
fn whole(title: &str, words: &Words) -> Snippet {
    marked(title, 0, title.len(), words.places(title))
}

/// Replaces whole texts by what is around the matches. In an index of their own: the large one
/// would have to look up the expression again for each.
fn shorten_to_snippets(hits: &mut [SearchHit], expression: &str) -> Result<()> {
    let pieces = Connection::open_in_memory()?;
    pieces.execute_batch(concat!(
        "CREATE VIRTUAL TABLE pieces USING fts5 (text, ",
        tokenizer!(),
        ");"
    ))?;
    let mut insert = pieces.prepare("INSERT INTO pieces (rowid, text) VALUES (?1, ?2)")?;
    for (index, hit) in hits.iter().enumerate() {
        insert.execute((index as i64, &hit.snippet.text))?;
    }
    let marks = Marks::new();
    let mut select = pieces.prepare(
        "SELECT rowid, snippet(pieces, 0, ?2, ?3, '…', ?4) FROM pieces WHERE pieces MATCH ?1",
    )?;
    let mut rows = select.query((expression, &marks.open, &marks.close, SNIPPET_WORDS))?;
    while let Some(row) = rows.next()? {
        let marked: String = row.get(1)?;
        hits[row.get::<_, i64>(0)? as usize].snippet = marks.read(&marked);
    }
    Ok(())
}

/// The best of the newest matches, the best first.
fn best_keys(database: &Connection, expression: &Expression, limit: u32) -> Result<Vec<i64>> {
    // CROSS JOIN: from the newest match on, and no further than need be.
    let mut statement = database.prepare_cached(&format!(
        "SELECT messages_fts.rowid, bm25(messages_fts), messages.created_at
         FROM messages_fts CROSS JOIN messages ON messages.key = messages_fts.rowid
             CROSS JOIN chats ON chats.id = messages.chat_id
         WHERE messages_fts MATCH ?1 AND {} AND deleted_at IS NULL
         ORDER BY messages_fts.rowid DESC LIMIT ?3",
        expression.condition("messages.text")
    ))?;
    let words = expression.words.to_json();
    let now = Timestamp::now();
    let ranked = statement.query_map((&expression.fts, &words, MAX_RANKED), |row| {
        let (key, bm25, at): (i64, f64, Timestamp) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok((bm25 * newness(at, now), key))
    })?;
    let mut ranked = ranked.collect::<rusqlite::Result<Vec<_>>>()?;
    // SQLite's BM25 is negative: the least is the best.
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    ranked.truncate(limit as usize);
    Ok(ranked.into_iter().map(|(_, key)| key).collect())
}

/// 2 for what was said now, 1 for what was said long ago.
fn newness(at: Timestamp, now: Timestamp) -> f64 {
    const DAY_MS: f64 = 24.0 * 60.0 * 60.0 * 1000.0;
    let days = (now.ms() - at.ms()).max(0) as f64 / DAY_MS;
    1.0 + 1.0 / (1.0 + days / RECENT_DAYS)
}

/// The condition that `column` contains all of `terms`, and the values for it.
fn contains_all(column: &str, terms: &[String]) -> (String, Vec<String>) {
    let (conditions, values): (Vec<_>, Vec<_>) = terms
        .iter()
        .map(|term| {
            if term.contains(|c: char| c.is_ascii_alphabetic()) {
                let escaped = term.replace('\\', "\\\\").replace('%', "\\%");
                let pattern = format!("%{}%", escaped.replace('_', "\\_"));
                (format!("{column} LIKE ? ESCAPE '\\'"), pattern)
            } else {
                // Where there is no case to ignore: twice as fast over all messages.
                (format!("instr({column}, ?) > 0"), term.clone())
            }
        })
        .unzip();
    (conditions.join(" AND "), values)
}

fn title_substrings(database: &Connection, terms: &[String], limit: u32) -> Result<Vec<SearchHit>> {
    let (contains, values) = contains_all("title", terms);
    let sql = format!(
        "SELECT id, title, updated_at FROM chats WHERE deleted_at IS NULL AND {contains}
         ORDER BY updated_at DESC LIMIT {limit}"
    );
    let mut statement = database.prepare_cached(&sql)?;
    let hits = statement.query_map(params_from_iter(values), |row| {
        let title: String = row.get(1)?;
        Ok(SearchHit {
            chat_id: row.get(0)?,
            message_id: None,
            snippet: substring_snippet(&title, terms),
            title,
            role: None,
            at: row.get(2)?,
        })
    })?;
    Ok(hits.collect::<rusqlite::Result<_>>()?)
}

/// The newest first.
fn message_substrings(
    database: &Connection,
    terms: &[String],
    limit: u32,
) -> Result<Vec<SearchHit>> {
    let among = if terms.iter().any(|term| term.contains(is_unspaced)) {
        has_unspaced!("text")
    } else if terms.iter().any(|term| term.contains(is_symbol)) {
        has_symbol!()
    } else {
        "TRUE"
    };
    let (contains, values) = contains_all("text", terms);
    let sql = format!(
        "SELECT chat_id, messages.id, title, text, role, messages.created_at
         FROM messages JOIN chats ON chats.id = chat_id
         WHERE {among} AND {contains} AND state <> 'streaming' AND deletion IS NULL
             AND deleted_at IS NULL
         ORDER BY messages.key DESC LIMIT {limit}"
    );
    let mut statement = database.prepare_cached(&sql)?;
    let hits = statement.query_map(params_from_iter(values), |row| {
        Ok(SearchHit {
            chat_id: row.get(0)?,
            message_id: row.get(1)?,
            title: row.get(2)?,
            snippet: substring_snippet(&row.get::<_, String>(3)?, terms),
            role: Some(word_column(row, 4)?),
            at: row.get(5)?,
        })
    })?;
    Ok(hits.collect::<rusqlite::Result<_>>()?)
}

/// The text around the first place of the first term, with all places of all terms in it.
fn substring_snippet(text: &str, terms: &[String]) -> Snippet {
    // ASCII only, as LIKE does it, so that positions stay.
    let folded = text.to_ascii_lowercase();
    let terms: Vec<String> = terms.iter().map(|term| term.to_ascii_lowercase()).collect();
    let places: Vec<(usize, usize)> = terms
        .iter()
        .flat_map(|term| folded.match_indices(term.as_str()))
        .map(|(at, found)| (at, at + found.len()))
        .collect();
    snippet_around(text, places.first().map_or(0, |place| place.0), &places)
}

/// The text around `first`, with what of `places` lies in it.
fn snippet_around(text: &str, first: usize, places: &[(usize, usize)]) -> Snippet {
    let start = text[..first]
        .char_indices()
        .rev()
        .take(SNIPPET_CHARS)
        .last()
        .map_or(first, |(at, _)| at);
    let end = text[first..]
        .char_indices()
        .nth(2 * SNIPPET_CHARS)
        .map_or(text.len(), |(at, _)| first + at);
    let inside = |&(from, to): &(usize, usize)| start <= from && to <= end;
    marked(
        text,
        start,
        end,
        places.iter().copied().filter(inside).collect(),
    )
}

/// The piece of `text` from `start` to `end`, with `places` marked in it.
fn marked(text: &str, start: usize, end: usize, mut places: Vec<(usize, usize)>) -> Snippet {
    places.sort_unstable();
    let lead = if start > 0 { "…" } else { "" };
    let tail = if end < text.len() { "…" } else { "" };
    let piece = &text[start..end];
    let utf16 =
        |at: usize| (lead.encode_utf16().count() + text[start..at].encode_utf16().count()) as u32;
    let mut matches: Vec<[u32; 2]> = Vec::new();
    for (from, to) in places {
        let (from, to) = (utf16(from), utf16(to));
        match matches.last_mut() {
            Some(last) if from <= last[1] => last[1] = last[1].max(to),
            _ => matches.push([from, to]),
        }
    }
    Snippet {
        text: format!("{lead}{piece}{tail}"),
        matches,
    }
}
