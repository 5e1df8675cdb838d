//! Sizes as people write them: `"64KiB"` is 65,536 bytes and `"64KB"` is 64,000. A number without a unit is refused,
//! because nobody can tell later which unit was meant.

use crate::{Error, Result};

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Parses a decimal number with a unit; `name` is the setting that the error names.
pub fn parse(name: &'static str, text: &str) -> Result<u64> {
    let refuse = |reason: &str| Error::Setting { name, value: format!("{text:?}"), reason: reason.to_owned() };
    let trimmed = text.trim();
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| Some((trimmed.strip_suffix(unit)?, *factor)))
        .ok_or_else(|| refuse("a size in a string needs a unit: B, KiB, MiB, GiB, TiB, KB, MB, GB or TB"))?;
    let number: f64 = match number.trim_end() {
        digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
            digits.parse().map_err(|_| refuse("not a number"))?
        }
        _ => return Err(refuse("not a number with a unit, such as \"64KiB\"")),
    };
    let bytes = number * factor as f64;
    if bytes.fract() != 0.0 || bytes > (1u64 << 53) as f64 {
        return Err(refuse("not a whole number of bytes below 8 PiB"));
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn binary_and_decimal_units_differ() {
        assert_eq!(parse("x", "64KiB").unwrap(), 65_536);
        assert_eq!(parse("x", "64 KB").unwrap(), 64_000);
        assert_eq!(parse("x", "1.5MiB").unwrap(), 1_572_864);
        assert_eq!(parse("x", "10B").unwrap(), 10);
    }

    #[test]
    fn what_is_not_a_size_is_refused_by_name() {
        for text in ["64", "", "KiB", "-1KiB", "1e3KB", "0x10B", "1.0001KB", "nanB", "9999TiB", "64kib"] {
            let message = parse("max_body", text).unwrap_err().to_string();
            assert!(message.starts_with("max_body="), "{text}: {message}");
        }
    }
}
