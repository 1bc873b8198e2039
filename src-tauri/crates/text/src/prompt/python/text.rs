//! Methods of Python's `str`.

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::bounds::pay;
use super::{Args, failed};

/// Calls `method` of `text`; `None` if this is not one of its methods.
pub(super) fn call(
    state: &State<'_, '_>,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    let args = |names: &[&'static str]| Args::bind(method, args, names);
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let set = args(&["chars"])?.optional_text(0)?;
            let in_set = |c: char| match &set {
                Some(set) => set.contains(c),
                None => is_space(c),
            };
            Value::from(match method {
                "strip" => text.trim_matches(in_set),
                "lstrip" => text.trim_start_matches(in_set),
                _ => text.trim_end_matches(in_set),
            })
        }
        "removeprefix" => {
            let prefix = args(&["prefix"])?.text(0)?;
            Value::from(text.strip_prefix(&*prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = args(&["suffix"])?.text(0)?;
            Value::from(text.strip_suffix(&*suffix).unwrap_or(text))
        }
        "startswith" | "endswith" => {
            let args = args(&["affix", "start", "end"])?;
            let (_, part) = window(text, &args)?;
            let matches = |affix: &str| match method {
                "startswith" => part.starts_with(affix),
                _ => part.ends_with(affix),
            };
            let affix = args.required(0)?;
            Value::from(match affix.as_str() {
                Some(affix) => matches(affix),
                None if affix.is_tuple() => {
                    let mut any = false;
                    for affix in affix.try_iter()? {
                        let affix = affix.as_str().ok_or_else(|| args.wrong(0, "text"))?;
                        any |= matches(affix);
                    }
                    any
                }
                None => return Err(args.wrong(0, "text or a tuple of texts")),
            })
        }
        "find" | "rfind" | "index" | "rindex" => {
            let args = args(&["sub", "start", "end"])?;
            let wanted = args.text(0)?;
            let (skipped, part) = window(text, &args)?;
            let found = match method {
                "find" | "index" => part.find(&*wanted),
                _ => part.rfind(&*wanted),
            };
            match found {
                Some(at) => Value::from(skipped + part[..at].chars().count()),
                None if method.ends_with("find") => Value::from(-1),
                None => return Err(failed(format!("{method}: the text is not there"))),
            }
        }
        "count" => {
            let args = args(&["sub", "start", "end"])?;
            let (wanted, (_, part)) = (args.text(0)?, window(text, &args)?);
            Value::from(part.matches(&*wanted).count())
        }
        "replace" => {
            let args = args(&["old", "new", "count"])?;
            let (old, new) = (args.text(0)?, args.text(1)?);
            let most = usize::try_from(args.integer(2)?.unwrap_or(-1)).unwrap_or(usize::MAX);
            replace(state, text, &old, &new, most)?
        }
        "split" | "rsplit" => {
            let args = args(&["sep", "maxsplit"])?;
            let most = usize::try_from(args.integer(1)?.unwrap_or(-1)).unwrap_or(usize::MAX);
            let from_end = method == "rsplit";
            let parts = match args.optional_text(0)?.as_deref() {
                Some("") => return Err(failed(format!("{method}: the separator is empty"))),
                Some(separator) if from_end => {
                    reversed(text.rsplitn(most.saturating_add(1), separator))
                }
                Some(separator) => text.splitn(most.saturating_add(1), separator).collect(),
                None => split_at_space(text, most, from_end),
            };
            list(parts)
        }
        "splitlines" => {
            let keep_ends = args(&["keepends"])?.flag(0);
            list(lines(text, keep_ends))
        }
        "partition" | "rpartition" => {
            let separator = args(&["sep"])?.text(0)?;
            let (before, found, after) = match method {
                "partition" => match text.split_once(&*separator) {
                    Some((before, after)) => (before, &*separator, after),
                    None => (text, "", ""),
                },
                _ => match text.rsplit_once(&*separator) {
                    Some((before, after)) => (before, &*separator, after),
                    None => ("", "", text),
                },
            };
            Value::from(Tuple::from([before, found, after].map(Value::from)))
        }
        "join" => {
            let args = args(&["iterable"])?;
            let mut joined = String::new();
            for (place, item) in args.required(0)?.try_iter()?.enumerate() {
                let item = item.as_str().ok_or_else(|| {
                    failed(format!("join: item {place} is {}, not text", item.kind()))
                })?;
                let separator = if place == 0 { "" } else { text };
                pay(state, separator.len() + item.len())?;
                joined.push_str(separator);
                joined.push_str(item);
            }
            Value::from(joined)
        }
        "ljust" | "rjust" | "center" => {
            let args = args(&["width", "fillchar"])?;
            let fill = args.optional_text(1)?.unwrap_or_else(|| " ".into());
            let mut fills = fill.chars();
            let (Some(fill), None) = (fills.next(), fills.next()) else {
                return Err(args.wrong(1, "one character"));
            };
            let missing = missing(text, args.width(0)?);
            // Python's `center` gives the odd character to the left where the width is odd too.
            let left = match method {
                "ljust" => 0,
                "rjust" => missing,
                _ => missing / 2 + (missing & args.width(0)? & 1),
            };
            pay(state, missing.saturating_mul(fill.len_utf8()))?;
            let pad = |n| std::iter::repeat_n(fill, n).collect::<String>();
            Value::from(format!("{}{text}{}", pad(left), pad(missing - left)))
        }
        "zfill" => {
            let missing = missing(text, args(&["width"])?.width(0)?);
            pay(state, missing)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing)))
        }
        "upper" | "lower" | "casefold" | "swapcase" | "capitalize" | "title" => {
            args(&[])?;
            Value::from(match method {
                "upper" => text.to_uppercase(),
                "lower" => text.to_lowercase(),
                // By way of upper case a letter such as ß is folded too.
                "casefold" => text.to_uppercase().to_lowercase(),
                "swapcase" => text.chars().map(swap_case).collect(),
                "capitalize" => capitalize(text),
                _ => title(text),
            })
        }
        _ => match property(text, method) {
            Some(answer) => {
                args(&[])?;
                Value::from(answer)
            }
            None => return Ok(None),
        },
    }))
}

/// `text` with up to `most` of `old` replaced.
pub(super) fn replace(
    state: &State<'_, '_>,
    text: &str,
    old: &str,
    new: &str,
    most: usize,
) -> Result<Value, Error> {
    let found = text.matches(old).take(most).count();
    pay(state, text.len() + found.saturating_mul(new.len()))?;
    Ok(Value::from(text.replacen(old, new, most)))
}

/// The filter `indent`, by Jinja2's own steps.
pub(super) fn indent(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    let args = Args::bind("indent", args, &["width", "first", "blank"])?;
    let indention = match args.get(0) {
        Some(width) if width.as_str().is_some() => args.text(0)?.to_string(),
        Some(_) => {
            pay(state, args.width(0)?)?;
            " ".repeat(args.width(0)?)
        }
        None => " ".repeat(4),
    };
    let (first, blank) = (args.flag(1), args.flag(2));
    let closed = format!("{text}\n");
    let lines = lines(&closed, false);
    pay(
        state,
        closed.len() + lines.len().saturating_mul(indention.len()),
    )?;
    let mut indented = String::new();
    for (place, line) in lines.iter().enumerate() {
        if place > 0 {
            indented.push('\n');
        }
        let wanted = match place {
            0 => first,
            _ => blank || !line.is_empty(),
        };
        if wanted {
            indented.push_str(&indention);
        }
        indented.push_str(line);
    }
    Ok(Value::from(indented))
}

/// What Python takes for white space: Unicode's, and the separators among the control characters.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// The part of `text` that `start` and `end` (arguments 1 and 2) leave, with the number of
/// characters before it.
fn window<'t>(text: &'t str, args: &Args) -> Result<(usize, &'t str), Error> {
    let (start, end) = (args.integer(1)?, args.integer(2)?);
    if start.is_none() && end.is_none() {
        return Ok((0, text));
    }
    let length = text.chars().count();
    let place = |at: i64| match usize::try_from(at) {
        Ok(at) => at.min(length),
        Err(_) => length.saturating_sub(usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    let start = place(start.unwrap_or(0));
    let end = end.map_or(length, place).max(start);
    let byte = |at| {
        text.char_indices()
            .nth(at)
            .map_or(text.len(), |(byte, _)| byte)
    };
    Ok((start, &text[byte(start)..byte(end)]))
}

fn list(parts: Vec<&str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

fn reversed<'t>(parts: impl Iterator<Item = &'t str>) -> Vec<&'t str> {
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts
}

/// Words; after `most` cuts the rest is one part, with the white space at its far end.
fn split_at_space(text: &str, most: usize, from_end: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = match from_end {
            true => rest.trim_end_matches(is_space),
            false => rest.trim_start_matches(is_space),
        };
        if rest.is_empty() {
            break;
        }
        let cut = match from_end {
            _ if parts.len() == most => None,
            true => rest.rfind(is_space).map(|at| {
                let space = rest[at..].chars().next().map_or(0, char::len_utf8);
                (&rest[..at], &rest[at + space..])
            }),
            false => rest.find(is_space).map(|at| (&rest[at..], &rest[..at])),
        };
        let Some((left, part)) = cut else {
            parts.push(rest);
            break;
        };
        parts.push(part);
        rest = left;
    }
    if from_end {
        parts.reverse();
    }
    parts
}

/// Lines, cut where Python cuts them.
fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        let end = match rest[at..].starts_with("\r\n") {
            true => 2,
            false => rest[at..].chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep_ends { at + end } else { at }]);
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// Characters that `text` lacks of `width`.
fn missing(text: &str, width: usize) -> usize {
    width.saturating_sub(text.chars().count())
}

fn swap_case(c: char) -> char {
    let swapped = match c {
        c if c.is_uppercase() => c.to_lowercase().next(),
        c if c.is_lowercase() => c.to_uppercase().next(),
        _ => None,
    };
    swapped.unwrap_or(c)
}

fn capitalize(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + &rest.as_str().to_lowercase()
}

/// Upper case where a letter follows none.
fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        match in_word {
            true => titled.extend(c.to_lowercase()),
            false => titled.extend(c.to_uppercase()),
        }
        in_word = c.is_lowercase() || c.is_uppercase();
    }
    titled
}

/// Whether `text` is what a method such as `isdigit` asks for.
fn property(text: &str, method: &str) -> Option<bool> {
    let all = |is: &dyn Fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    let has = |is: &dyn Fn(char) -> bool| text.chars().any(is);
    Some(match method {
        "isalpha" => all(&char::is_alphabetic),
        "isalnum" => all(&char::is_alphanumeric),
        "isascii" => text.is_ascii(),
        "isspace" => all(&is_space),
        "isnumeric" => all(&char::is_numeric),
        "isdigit" => all(&is_digit),
        "isdecimal" => all(&|c| is_digit(c) && !is_styled_digit(c)),
        "islower" => has(&char::is_lowercase) && !has(&char::is_uppercase),
        "isupper" => has(&char::is_uppercase) && !has(&char::is_lowercase),
        "istitle" => has(&|c| c.is_uppercase() || c.is_lowercase()) && title(text) == text,
        _ => return None,
    })
}

/// A digit of some script, raised and circled ones included, fractions and Roman numerals not.
fn is_digit(c: char) -> bool {
    let is_other_number = matches!(c, '\u{bc}'..='\u{be}' | '\u{2150}'..='\u{2189}' | '\u{3007}'..='\u{3029}' | '\u{3038}'..='\u{303a}');
    c.is_numeric() && !is_other_number
}

fn is_styled_digit(c: char) -> bool {
    matches!(c, '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{2070}'..='\u{2089}' | '\u{2460}'..='\u{24ff}' | '\u{2776}'..='\u{2793}')
}

/// `format`, whose widths and precisions ask for any length.
pub(super) fn check_format(
    state: &State<'_, '_>,
    format: &str,
    args: &[Value],
) -> Result<(), Error> {
    const MOST: u64 = 100_000;
    let asked = format
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(u64::MAX));
    // A width may be an argument: `{:{}}`, `%*d`.
    let given = args
        .iter()
        .filter(|arg| arg.kind() == ValueKind::Number)
        .filter(|_| format.contains("{:{") || format.contains('*'))
        .map(|arg| arg.as_i64().map_or(u64::MAX, i64::unsigned_abs));
    let mut total = 0_u64;
    for width in asked.chain(given) {
        if width > MOST {
            let what = format!("format: a width of {width} is more than {MOST}");
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        }
        total = total.saturating_add(width);
    }
    pay(state, usize::try_from(total).unwrap_or(usize::MAX))
}
