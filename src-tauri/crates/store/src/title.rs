//! Titles and previews from what was said.

/// Characters of a title made from a message.
const TITLE_CHARS: usize = 48;

/// A title for a chat that begins with `text`: its first line that says something, without
/// markdown, cut after a word at 48 characters. Empty if no line says anything.
pub fn title_from(text: &str) -> String {
    let line = text.lines().map(plain).find(|line| !line.is_empty());
    shorten(&line.unwrap_or_default(), TITLE_CHARS)
}

/// `text` as one line without markdown, cut after a word at `max_chars`.
pub(crate) fn one_line(text: &str, max_chars: usize) -> String {
    let mut line = String::new();
    for part in text.lines().map(plain).filter(|part| !part.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line += &part;
        if line.len() > 4 * max_chars {
            break;
        }
    }
    shorten(&line, max_chars)
}

/// Cuts after the last word that fits, or inside a word that takes more than half the room.
fn shorten(line: &str, max_chars: usize) -> String {
    let Some((end, _)) = line.char_indices().nth(max_chars) else {
        return line.to_owned();
    };
    let head = &line[..end];
    let cut = if line[end..].starts_with(' ') {
        end
    } else {
        head.rfind(' ').filter(|&cut| cut > end / 2).unwrap_or(end)
    };
    let head = head[..cut].trim_end_matches(|last: char| !last.is_alphanumeric() && last != ')');
    format!("{head}…")
}

/// A line of markdown without its marks, its spaces made single.
fn plain(line: &str) -> String {
    let line = line.trim();
    if line.starts_with("```") || line.starts_with("~~~") {
        return String::new();
    }
    if line.len() >= 3
        && line
            .chars()
            .all(|mark| matches!(mark, '-' | '*' | '_' | '=' | ' '))
    {
        return String::new();
    }
    let line = without_links(without_block_mark(line));
    let words: Vec<String> = line
        .split_whitespace()
        .map(without_emphasis)
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

/// Strips `**`, `` ` ``, `~~` and `_` around a word, also where punctuation follows.
fn without_emphasis(word: &str) -> String {
    let is_inside = |c: char| c.is_alphanumeric();
    let (Some(start), Some(end)) = (word.find(is_inside), word.rfind(is_inside)) else {
        return word.trim_matches(['*', '`']).to_owned();
    };
    let end = end + word[end..].chars().next().map_or(0, char::len_utf8);
    let strip = |marks: &str| marks.replace(['*', '`', '_'], "").replace("~~", "");
    let (before, after) = (strip(&word[..start]), strip(&word[end..]));
    format!("{before}{}{after}", &word[start..end])
}

/// Strips `# `, `> `, `- `, `1. ` and the like from the front.
fn without_block_mark(mut line: &str) -> &str {
    loop {
        let rest = line.trim_start();
        let marks = rest.len() - rest.trim_start_matches('#').len();
        let after = if (1..=6).contains(&marks) {
            &rest[marks..]
        } else if let Some(quoted) = rest.strip_prefix('>') {
            line = quoted;
            continue;
        } else if let Some(item) = rest.strip_prefix(['-', '*', '+']) {
            item
        } else {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            match rest[digits..].strip_prefix(['.', ')']) {
                Some(item) if (1..=3).contains(&digits) => item,
                _ => return rest,
            }
        };
        if !after.starts_with(' ') {
            return rest;
        }
        line = after;
    }
}

/// `[text](target)` and `![text](target)` become their text.
fn without_links(mut line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    while let Some(link) = first_link(line) {
        plain += &line[..link.start];
        plain += link.text;
        line = &line[link.end..];
    }
    plain + line
}

struct Link<'a> {
    start: usize,
    end: usize,
    text: &'a str,
}

fn first_link(line: &str) -> Option<Link<'_>> {
    let middle = line.find("](")?;
    let open = line[..middle].rfind('[')?;
    let end = middle + line[middle..].find(')')? + 1;
    let is_image = line[..open].ends_with('!');
    Some(Link {
        start: open - usize::from(is_image),
        end,
        text: &line[open + 1..middle],
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_title_is_the_first_line_without_markdown() {
        for (text, title) in [
            ("What is Octet?", "What is Octet?"),
            ("\n\n  # Plan for **today**\nmore", "Plan for today"),
            ("> - 1. `code` and ~~gone~~", "code and gone"),
            (
                "See [the docs](https://example.org) now",
                "See the docs now",
            ),
            ("![a cat](cat.png)", "a cat"),
            ("```rust\nfn main() {}\n```", "fn main() {}"),
            ("---\ntext", "text"),
            (
                "snake_case stays, #tag too, 3.5 as well",
                "snake_case stays, #tag too, 3.5 as well",
            ),
            ("2024 was a year", "2024 was a year"),
            ("", ""),
            (" \n\t", ""),
            ("](", "]("),
        ] {
            assert_eq!(title_from(text), title, "{text:?}");
        }
    }

    #[test]
    fn a_long_title_is_cut_after_a_word() {
        let long = "Explain how experts are moved between memory, and why";
        assert_eq!(
            title_from(long),
            "Explain how experts are moved between memory…"
        );
        let endless = "あ".repeat(60);
        assert_eq!(title_from(&endless), format!("{}…", "あ".repeat(48)));
        assert_eq!(one_line("one\n\n* two\nthree", 100), "one two three");
    }

    proptest! {
        #[test]
        fn any_text_has_a_short_title(text in any::<String>(), marks in "[-#>*`_\\[\\]()!. 1\n]{0,80}") {
            for text in [&text, &marks, &format!("{marks}{text}")] {
                let title = title_from(text);
                prop_assert!(title.chars().count() <= TITLE_CHARS + 1);
                prop_assert!(!title.contains('\n'));
            }
        }
    }
}
