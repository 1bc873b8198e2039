//! Texts and sizes from a file, fit to be shown in a message.

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

/// A size in decimal units with three digits, as in `66.7 MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// Two sizes that differ, to the byte where they would look alike.
pub(crate) fn two_sizes(expected: u64, found: u64) -> String {
    let (a, b) = (size(expected), size(found));
    if a == b {
        return format!("{expected} bytes expected, {found} found");
    }
    format!("{a} expected, {b} found")
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

    #[test]
    fn sizes_that_differ_look_different() {
        assert_eq!(size(999), "999 bytes");
        assert_eq!(size(999_500), "1.00 MB");
        assert_eq!(size(u64::MAX), "18.4 EB");
        assert_eq!(
            two_sizes(2_000_000, 1_000),
            "2.00 MB expected, 1.00 kB found"
        );
        assert_eq!(
            two_sizes(28_400_000_001, 28_400_000_000),
            "28400000001 bytes expected, 28400000000 found"
        );
    }
}
