//! Byte counts as people write and read them.

use thiserror::Error;

/// Why a text is not a byte count.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseBytesError {
    /// No number in front.
    #[error("{text:?} is not a size: write a number and a unit, as in 12GB, 8GiB or 500M")]
    NoNumber {
        /// What was given.
        text: String,
    },
    /// The unit is none of those known.
    #[error(
        "unit {unit:?} in {text:?} is unknown: use B, K, M, G or T, as KB for 1000 or KiB for 1024"
    )]
    UnknownUnit {
        /// What was given.
        text: String,
        /// The part after the number.
        unit: String,
    },
    /// A fraction of a byte.
    #[error("{text:?} is not a whole number of bytes: give a unit, as in 1.5GB")]
    Fraction {
        /// What was given.
        text: String,
    },
    /// Beyond 64 bits.
    #[error("{text:?} is too large: the limit is {} bytes", u64::MAX)]
    TooLarge {
        /// What was given.
        text: String,
    },
}

/// Reads a byte count: `12GB`, `8GiB`, `500M`, `1.5 GB`, `4096`.
///
/// `K`, `M`, `G`, `T`, `P`, `E`, with or without a `B`, are decimal (powers of 1000), as disks
/// and files are sold and listed; `KiB`, `MiB`, ... (or `Ki`, ...) are binary (powers of 1024),
/// as memory is. Case does not matter. A plain number is bytes. What a fraction leaves below one
/// byte is cut.
///
/// # Errors
/// [`ParseBytesError`] says what is wrong with the text.
pub fn parse_bytes(text: &str) -> Result<u64, ParseBytesError> {
    let trimmed = text.trim();
    let end = trimmed
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || number.ends_with('.') {
        return Err(ParseBytesError::NoNumber {
            text: text.to_owned(),
        });
    }
    let unit = unit.trim();
    let unit_bytes = unit_bytes(unit).ok_or_else(|| ParseBytesError::UnknownUnit {
        text: text.to_owned(),
        unit: unit.to_owned(),
    })?;
    if unit_bytes == 1 && !fraction.is_empty() {
        return Err(ParseBytesError::Fraction {
            text: text.to_owned(),
        });
    }
    scaled(whole, fraction, unit_bytes).ok_or_else(|| ParseBytesError::TooLarge {
        text: text.to_owned(),
    })
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    let power = match unit.bytes().next() {
        None | Some(b'b') => 0,
        Some(b'k') => 1,
        Some(b'm') => 2,
        Some(b'g') => 3,
        Some(b't') => 4,
        Some(b'p') => 5,
        Some(b'e') => 6,
        Some(_) => return None,
    };
    let base: u64 = match (power, unit.get(1..).unwrap_or("")) {
        (0, "") => 1,
        (1.., "" | "b") => 1000,
        (1.., "i" | "ib") => 1024,
        _ => return None,
    };
    Some(base.pow(power))
}

/// Integer arithmetic throughout: a float would give 0.3GB as 299999999 bytes.
fn scaled(whole: &str, fraction: &str, unit_bytes: u64) -> Option<u64> {
    let whole_bytes = whole.parse::<u64>().ok()?.checked_mul(unit_bytes)?;
    // Digits beyond the 20th are below a byte at any unit (10^-20 EiB is 0.01 B), and 10^20 EiB
    // still fits in 128 bits.
    let kept = &fraction[..fraction.len().min(20)];
    let numerator = if kept.is_empty() {
        0
    } else {
        kept.parse::<u128>().ok()?
    };
    let denominator = 10_u128.pow(u32::try_from(kept.len()).ok()?);
    let fraction_bytes = numerator * u128::from(unit_bytes) / denominator;
    whole_bytes.checked_add(u64::try_from(fraction_bytes).ok()?)
}

/// Writes a byte count with three significant digits and a decimal unit: `66.7 MB`, `1.20 GB`.
/// [`parse_bytes`] reads it back.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would be printed as 1000.
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

/// Two sizes that differ, each with its word: to the byte where they look alike otherwise.
pub fn sizes(one: u64, other: u64, [word, other_word]: [&str; 2]) -> String {
    let (a, b) = (format_bytes(one), format_bytes(other));
    if a == b {
        return format!("{one} bytes {word}, {other} {other_word}");
    }
    format!("{a} {word}, {b} {other_word}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_in_decimal_and_binary_units() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("17 B", 17),
            ("12GB", 12_000_000_000),
            ("12gb", 12_000_000_000),
            ("8GiB", 8 << 30),
            ("8Gi", 8 << 30),
            ("500M", 500_000_000),
            ("1.5 GB", 1_500_000_000),
            ("  1.5GiB ", 3 << 29),
            ("0.3GB", 300_000_000),
            ("2k", 2000),
            ("2KiB", 2048),
            ("1T", 1_000_000_000_000),
            ("2PB", 2_000_000_000_000_000),
            ("1EiB", 1 << 60),
            ("1.0005kB", 1000),
            ("0.333333333333333333333333333333TB", 333_333_333_333),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        let cases = [
            ("", "not a size"),
            ("GB", "not a size"),
            ("-1GB", "not a size"),
            (".5GB", "not a size"),
            ("5.GB", "not a size"),
            ("1.2.3GB", "not a size"),
            ("1,5GB", "unit \",5GB\""),
            ("12 GB free", "unit \"GB free\""),
            ("12X", "unit \"X\""),
            ("12Bi", "unit \"Bi\""),
            ("12é", "unit \"é\""),
            ("12Gé", "unit \"Gé\""),
            ("1.5", "whole number"),
            ("1.5B", "whole number"),
            ("18446744073709551616", "too large"),
            ("99999999T", "too large"),
            ("16EiB", "too large"),
        ];
        for (text, words) in cases {
            let message = parse_bytes(text).expect_err(text).to_string();
            assert!(message.contains(words), "{text:?}: {message}");
        }
    }

    #[test]
    fn sizes_are_written_with_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (66_700_000, "66.7 MB"),
            (17_075_200_000, "17.1 GB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    #[test]
    fn two_sizes_are_told_apart() {
        let words = ["expected", "found"];
        assert_eq!(
            sizes(66_400_000, 41_200_000, words),
            "66.4 MB expected, 41.2 MB found"
        );
        assert_eq!(
            sizes(66_400_001, 66_400_000, words),
            "66400001 bytes expected, 66400000 found"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_within_its_digits(
            low in 0_u64..1 << 60,
            shift in 0_u32..60,
        ) {
            let bytes = low >> shift;
            let read = parse_bytes(&format_bytes(bytes)).unwrap();
            prop_assert!(read.abs_diff(bytes) <= bytes / 190);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = parse_bytes(&text);
        }
    }
}
