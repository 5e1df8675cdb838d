//! A block of header lines as a value: the bytes as they stand in the file, without the blank line that closes a plain
//! record's block. Values are bytes, not text; repeated names stay apart and in order.

use super::damage::{Checked, Damage};
use super::head::Head;
use crate::http::fields::{Fields as Lines, is_tchar, is_text, validate};
use crate::{Error, Result};
use bytes::Bytes;
use std::borrow::Cow;

#[derive(Clone, Debug, Default)]
pub struct Fields {
    lines: Bytes,
    /// Whether they are as `from_pairs` makes them.
    canonical: bool,
}

/// Upstream's reader takes no more lines.
const MOST_LINES: usize = 128;

impl Fields {
    /// The lines of a plain record's block, of which the closing blank line is taken off.
    pub fn closed(block: Bytes, name: &'static str) -> Checked<Self> {
        let lines = block.strip_suffix(b"\r\n").or(block.strip_suffix(b"\n")).map_or(0, <[u8]>::len);
        if !block.get(..lines).is_some_and(|lines| lines.ends_with(b"\n")) && !block.is_empty() {
            return Err(Damage::Headers { block: name, what: "no blank line at its end".to_owned() });
        }
        check(&block, name)?;
        Ok(Self { lines: block.slice(..lines), canonical: false })
    }

    /// Those of a compressed record, which have no such line.
    pub fn bare(mut block: Vec<u8>, name: &'static str) -> Checked<Self> {
        if block.is_empty() {
            return Ok(Self::default());
        }
        if !block.ends_with(b"\n") {
            return Err(Damage::Headers { block: name, what: "no line end at its end".to_owned() });
        }
        let lines = block.len();
        block.extend_from_slice(b"\r\n");
        check(&block, name)?;
        Ok(Self { lines: Bytes::from(block).slice(..lines), canonical: false })
    }

    /// In the form in which they are written: names in lower case, whitespace around values taken off, and all values of
    /// one name together where the first of them stands.
    pub fn from_pairs<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<Self> {
        let mut lines: Vec<(Cow<'a, [u8]>, &'a [u8])> = Vec::new();
        for (name, value) in pairs {
            // Without the value, which may be a secret.
            let refuse = |reason: &str| Error::setting("header", format!("\"{}\"", name.escape_ascii()), reason);
            if name.is_empty() || !name.iter().all(is_tchar) {
                return Err(refuse("its name is not a token (RFC 9110 section 5.6.2)"));
            }
            let value = trim(value);
            if !value.iter().all(is_text) {
                return Err(refuse("a control character in its value"));
            }
            let name = lower(name);
            let place = lines.iter().rposition(|(other, _)| *other == name).map_or(lines.len(), |last| last + 1);
            lines.insert(place, (name, value));
            if lines.len() > MOST_LINES {
                return Err(over("lines in a header block", lines.len(), MOST_LINES as u64));
            }
        }
        let mut block = Vec::new();
        for (name, value) in lines {
            block.extend_from_slice(&name);
            block.extend_from_slice(b": ");
            block.extend_from_slice(value);
            block.extend_from_slice(b"\r\n");
        }
        // With the closing line, so that a compressed record can always be copied to a plain one.
        if block.len() as u64 + 2 > Head::MOST_BLOCK {
            return Err(over("bytes in a header block", block.len(), Head::MOST_BLOCK - 2));
        }
        Ok(Self { lines: block.into(), canonical: true })
    }

    /// As `from_pairs` of its own lines: what a foreign writer did otherwise is put right.
    pub fn canonical(&self) -> Result<Self> {
        if self.canonical {
            return Ok(self.clone());
        }
        let names: Vec<(Cow<'_, [u8]>, &[u8])> = self.iter().collect();
        Self::from_pairs(names.iter().map(|(name, value)| (&**name, *value)))
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The lines as bytes.
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }

    pub(super) fn bytes(&self) -> Bytes {
        self.lines.clone()
    }

    /// Names in lower case, and values.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'_, [u8]>, &[u8])> {
        Lines::new(&self.lines, 0).map(|field| (lower(field.name), field.value))
    }

    /// The first value of a name, which is given in lower case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(found, _)| **found == *name.as_bytes()).map(|(_, value)| value)
    }

    /// What a [`Strategy`](super::Strategy) counts: name, value and four bytes a line.
    pub(super) fn weight(&self) -> u64 {
        self.iter().map(|(name, value)| (name.len() + value.len() + 4) as u64).sum()
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.lines == other.lines
    }
}

impl Eq for Fields {}

fn over(what: &'static str, seen: usize, limit: u64) -> Error {
    Error::HeadTooLong { what, seen: seen as u64, limit, setting: "a record holds no more" }
}

/// Without the whitespace around it that readers take off.
fn trim(value: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let start = value.iter().position(is_text).unwrap_or(value.len());
    let end = value.iter().rposition(is_text).map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

fn lower(name: &[u8]) -> Cow<'_, [u8]> {
    if name.iter().any(u8::is_ascii_uppercase) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// Whether a block is good lines and one blank line behind them.
fn check(block: &[u8], name: &'static str) -> Checked<()> {
    let lines = memchr::memchr_iter(b'\n', block).count();
    if lines == 0 {
        return Ok(());
    }
    let damage = |what| Damage::Headers { block: name, what };
    validate(block, lines - 1, 0).map_err(|error| {
        let first_blank = |end: &[u8]| memchr::memmem::find(block, end).map(|at| at + end.len());
        let is_early = [first_blank(b"\n\r\n"), first_blank(b"\n\n")].iter().flatten().any(|end| *end < block.len());
        damage(match error {
            _ if is_early || block.starts_with(b"\r\n") || block.starts_with(b"\n") => {
                "a blank line before its end".to_owned()
            }
            Error::Protocol { what, .. } => what,
            other => other.to_string(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs<'a>(list: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        list.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    }

    fn closed(block: &'static [u8]) -> Checked<Vec<(String, String)>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let fields = Fields::closed(Bytes::from_static(block), "meta")?;
        Ok(fields.iter().map(|(name, value)| (text(&name), text(value))).collect())
    }

    #[test]
    fn values_of_one_name_are_written_where_its_first_one_stands() {
        let fields = Fields::from_pairs(pairs(&[("Cookie", "a"), ("Accept", " x\t"), ("cookie", "b")])).unwrap();
        assert_eq!(fields.lines(), b"cookie: a\r\ncookie: b\r\naccept: x\r\n");
    }

    #[test]
    fn what_upstream_cannot_read_is_not_written() {
        let many = vec![("a", "b"); 129];
        assert!(Fields::from_pairs(pairs(&many[..128])).is_ok());
        assert!(matches!(Fields::from_pairs(pairs(&many)), Err(Error::HeadTooLong { seen: 129, limit: 128, .. })));
        let long = "x".repeat(1_048_573 - "a: \r\n".len() + 1);
        assert_eq!(Fields::from_pairs(pairs(&[("a", &long[1..])])).unwrap().lines().len(), 1_048_573);
        assert!(matches!(Fields::from_pairs(pairs(&[("a", &long)])), Err(Error::HeadTooLong { .. })));
        for (name, value) in
            [("", "x"), ("a b", "x"), ("a:", "x"), ("a", "x\r\nb: c"), ("a", "x\r\n"), ("a", "\x7f"), ("a", "\0")]
        {
            assert!(matches!(Fields::from_pairs(pairs(&[(name, value)])), Err(Error::Setting { .. })), "{name:?}");
        }
    }

    #[test]
    fn what_is_refused_is_named_without_its_value() {
        for pair in [("x key", "secret"), ("x-key", "secret\n"), ("x-key", "sec\0ret")] {
            let message = Fields::from_pairs(pairs(&[pair])).unwrap_err().to_string();
            assert!(message.starts_with(&format!("header=\"{}\"", pair.0)), "{message}");
            assert!(!message.contains("ret"), "{message}");
        }
    }

    #[test]
    fn lines_of_other_writers_are_read() {
        let found = closed(b"X-LF:1\nx-Space: \t v \r\nx-empty:\r\n\n").unwrap();
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(found, [("x-lf", "1"), ("x-space", "v"), ("x-empty", "")]);
        assert_eq!(closed(b""), Ok(Vec::new()));
    }

    #[test]
    fn lines_are_put_in_the_form_that_is_written_only_where_they_may_have_another() {
        let ours = Fields::from_pairs(pairs(&[("A", "1"), ("b", "2")])).unwrap();
        assert_eq!(ours.canonical().unwrap().lines().as_ptr(), ours.lines().as_ptr());
        let theirs = Fields::closed(Bytes::from_static(b"A:1\nb: 2\r\n\r\n"), "meta").unwrap();
        assert_ne!(theirs, ours);
        assert_eq!(theirs.canonical().unwrap(), ours);
        let same = Fields::closed(Bytes::from_static(b"a: 1\r\nb: 2\r\n\r\n"), "meta").unwrap();
        assert_eq!(same, ours);
    }

    #[test]
    fn more_lines_than_upstream_takes_are_read() {
        let block = "a: b\r\n".repeat(300) + "\r\n";
        assert_eq!(Fields::closed(block.into(), "meta").unwrap().iter().count(), 300);
    }

    #[test]
    fn bad_blocks_are_errors_that_name_the_block() {
        let bad: [&[u8]; 10] = [
            b"a: b\r\n",
            b"a: b",
            b"abc",
            b"\r\n\r\n",
            b"a: b\r\n\r\nc: d\r\n\r\n",
            b"a : b\r\n\r\n",
            b"a b\r\n\r\n",
            b"a: b\r\n c\r\n\r\n",
            b"a: \x01\r\n\r\n",
            b": b\r\n\r\n",
        ];
        for block in bad {
            assert!(matches!(closed(block), Err(Damage::Headers { block: "meta", .. })), "{}", block.escape_ascii());
        }
        assert!(Fields::bare(b"a: b\r\n\r\n".to_vec(), "meta").is_err());
        for block in [&b"a: b"[..], b"a: b\r\nc: d", b"a: b\r"] {
            let error = Fields::bare(block.to_vec(), "meta").unwrap_err();
            assert_eq!(error.to_string(), "meta: no line end at its end");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_in_both_forms(
            list in prop::collection::vec(("[a-zA-Z0-9!#-]{1,8}", prop::collection::vec(0x20u8..=0xff, 0..20)), 0..20),
        ) {
            let clean: Vec<(String, Vec<u8>)> =
                list.into_iter().map(|(name, mut value)| { value.retain(|byte| *byte != 0x7f); (name, value) }).collect();
            let pairs = || clean.iter().map(|(name, value)| (name.as_bytes(), &value[..]));
            let written = Fields::from_pairs(pairs()).unwrap();
            let mut block = written.lines().to_vec();
            let bare = Fields::bare(block.clone(), "meta").unwrap();
            prop_assert_eq!(&bare, &written);
            prop_assert_eq!(&bare.canonical().unwrap(), &written);
            if !block.is_empty() { block.extend_from_slice(b"\r\n"); }
            prop_assert_eq!(&Fields::closed(block.into(), "meta").unwrap(), &written);
            for (name, _) in pairs() {
                let name = name.to_ascii_lowercase();
                let of = |(found, value): (Cow<'_, [u8]>, &[u8])| (*found == *name).then(|| value.to_vec());
                let sent: Vec<_> = pairs().filter(|(other, _)| other.eq_ignore_ascii_case(&name))
                    .map(|(_, value)| trim(value).to_vec()).collect();
                prop_assert_eq!(written.iter().filter_map(of).collect::<Vec<_>>(), sent);
            }
        }

        #[test]
        fn no_input_makes_it_panic(block in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b' '), any::<u8>()], 0..60)) {
            let _ = Fields::bare(block.clone(), "meta");
            if let Ok(fields) = Fields::closed(block.into(), "meta") {
                // Whatever was read can be written again.
                prop_assert!(fields.canonical().is_ok());
            }
        }
    }
}
