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
pub fn parse(name: &str, text: &str) -> Result<u64> {
    let refuse = |reason: &str| Error::setting(name, format!("{text:?}"), reason);
    let trimmed = text.trim();
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| Some((trimmed.strip_suffix(unit)?, *factor)))
        .ok_or_else(|| refuse("a size in a string needs a unit: B, KiB, MiB, GiB, TiB, KB, MB, GB or TB"))?;
    // In decimal: as a binary fraction 2.01 MB is no whole number.
    let digits = number.trim_end();
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let empty = whole.is_empty() && fraction.is_empty();
    if empty || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return Err(refuse("not a number with a unit, such as \"64KiB\""));
    }
    let fraction = fraction.trim_end_matches('0');
    let scaled =
        format!("0{whole}{fraction}").parse::<u128>().ok().and_then(|number| number.checked_mul(factor.into()));
    let scale = u32::try_from(fraction.len()).ok().and_then(|places| 10u128.checked_pow(places));
    match scaled.zip(scale) {
        Some((scaled, scale)) if scaled.is_multiple_of(scale) && scaled / scale <= 1 << 53 => {
            Ok((scaled / scale) as u64)
        }
        _ => Err(refuse("not a whole number of bytes up to 8 PiB")),
    }
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
        assert_eq!(parse("x", ".5KiB").unwrap(), 512);
        assert_eq!(parse("x", ".0KiB").unwrap(), 0);
    }

    #[test]
    fn a_decimal_fraction_is_what_it_says() {
        assert_eq!(parse("x", "2.01MB").unwrap(), 2_010_000);
        assert_eq!(parse("x", "1.005KB").unwrap(), 1_005);
        assert_eq!(parse("x", "0.30TB").unwrap(), 300_000_000_000);
        for n in 0..10_000 {
            let text = format!("{}.{:03}MB", n / 1000, n % 1000);
            assert_eq!(parse("x", &text).unwrap(), n * 1000, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused_by_name() {
        for text in
            ["64", "", "KiB", "-1KiB", "1e3KB", "0x10B", "1.0001KB", "nanB", "9999TiB", "64kib", ".KiB", "1.5.2KiB"]
        {
            let message = parse("max_body", text).unwrap_err().to_string();
            assert!(message.starts_with("max_body="), "{text}: {message}");
        }
        assert_eq!(parse("max_body", "8192TiB").unwrap(), 8 << 50);
        let message = parse("max_body", "8193TiB").unwrap_err().to_string();
        assert_eq!(message, "max_body=\"8193TiB\": not a whole number of bytes up to 8 PiB");
    }
}
