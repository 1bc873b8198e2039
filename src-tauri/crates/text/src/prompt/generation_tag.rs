//! `{% generation %}`, with which templates mark for training what the model says. It prints its
//! body; here it becomes `{% with %}`, which does just that and leaves lines as they are.

use std::borrow::Cow;

/// `source` without the tag.
pub(super) fn without(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = next_tag(rest) {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let (replaced, length) = match &rest[..2] {
            "{#" => (None, rest.find("#}").map_or(rest.len(), |end| end + 2)),
            "{%" => match word(rest) {
                (_, "raw") => (None, end_of_raw(rest)),
                (start, "generation") => (Some((start, "generation", "with")), end_of(rest)),
                (start, "endgeneration") => {
                    (Some((start, "endgeneration", "endwith")), end_of(rest))
                }
                _ => (None, end_of(rest)),
            },
            _ => (None, end_of(rest)),
        };
        match replaced {
            Some((start, tag, stand_in)) => {
                plain.push_str(&rest[..start]);
                plain.push_str(stand_in);
                plain.push_str(&rest[start + tag.len()..length]);
            }
            None => plain.push_str(&rest[..length]),
        }
        rest = &rest[length..];
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

fn next_tag(text: &str) -> Option<usize> {
    let starts = ["{#", "{{", "{%"];
    starts.iter().filter_map(|start| text.find(start)).min()
}

/// The first word of a block tag, and where it begins.
fn word(tag: &str) -> (usize, &str) {
    let inside = tag[2..].trim_start_matches(['-', '+']).trim_start();
    let start = tag.len() - inside.len();
    let length = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    (start, &inside[..length.unwrap_or(inside.len())])
}

/// Where the tag that `text` begins with ends; quoted ends and those of dicts do not count.
fn end_of(text: &str) -> usize {
    let end = if text.starts_with("{{") { "}}" } else { "%}" };
    let mut braces = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if braces == 0 && text[at..].starts_with(end) => return at + 2,
            None => match c {
                '"' | '\'' => quote = Some(c),
                '{' => braces += 1,
                '}' => braces = braces.saturating_sub(1),
                _ => {}
            },
        }
    }
    text.len()
}

/// Where the raw block that `text` begins with ends.
fn end_of_raw(text: &str) -> usize {
    let mut done = end_of(text);
    while let Some(at) = text[done..].find("{%") {
        let tag = &text[done + at..];
        if word(tag).1 == "endraw" {
            return done + at + end_of(tag);
        }
        done += at + 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_passed_over_wherever_it_is_one() {
        for (source, expected) in [
            (
                "a{% generation %}b{% endgeneration %}c",
                "a{% with %}b{% endwith %}c",
            ),
            (
                "{%- generation -%}\n x {%-endgeneration+%}",
                "{%- with -%}\n x {%-endwith+%}",
            ),
            ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}"),
            ("{# {% generation %} #}", "{# {% generation %} #}"),
            (
                "{% raw %}{% generation %}{% endraw %}{% generation %}",
                "{% raw %}{% generation %}{% endraw %}{% with %}",
            ),
            (
                "{{ {'a': {}} }}{% generation %}",
                "{{ {'a': {}} }}{% with %}",
            ),
            (
                "{% set generation = '\\'%}' %}",
                "{% set generation = '\\'%}' %}",
            ),
            ("{% generation", "{% with"),
            ("{%", "{%"),
        ] {
            assert_eq!(without(source), expected);
            // Sources are hostile: every cut of one is read to its end.
            for (cut, _) in source.char_indices() {
                without(&format!("{}generation", &source[..cut]));
            }
        }
    }
}
