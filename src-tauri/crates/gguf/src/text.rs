//! Texts from a file, fit to be shown in a message.

/// At most 80 characters of `text`, with control characters escaped.
pub(crate) fn shorten(text: &str) -> String {
    const LIMIT: usize = 80;
    let mut shown = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == LIMIT {
            shown.push('…');
            break;
        }
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// As [`shorten`], for what need not be UTF-8.
pub(crate) fn shorten_bytes(text: &[u8]) -> String {
    // Some bytes more than are shown, so that a cut character is not among them.
    shorten(&String::from_utf8_lossy(&text[..text.len().min(400)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_stays_short_and_printable() {
        assert_eq!(shorten("a\nb\u{1b}"), "a\\nb\\u{1b}");
        assert_eq!(shorten(&"é".repeat(200)).chars().count(), 81);
        assert_eq!(shorten_bytes(b"a\xffb"), "a\u{fffd}b");
        assert!(shorten_bytes(&vec![b'x'; 100_000]).len() < 100);
    }
}
