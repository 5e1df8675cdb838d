//! The names of codings, and lists of them as header fields have them.

use crate::http::Response;
use crate::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    Gzip,
    Deflate,
    Br,
    Zstd,
}

/// So many codings are taken off one body.
const MOST: usize = 4;

/// Bytes of a name that an error has.
const SHOWN: usize = 64;

impl Coding {
    pub const ALL: [Self; 4] = [Self::Gzip, Self::Deflate, Self::Br, Self::Zstd];

    /// The name by which it is registered.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Br => "br",
            Self::Zstd => "zstd",
        }
    }

    fn named(name: &[u8]) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        // RFC 9110 section 8.4.1.3: x-gzip is gzip.
        Self::ALL.into_iter().find(|coding| is(coding.name())).or_else(|| is("x-gzip").then_some(Self::Gzip))
    }

    /// The codings of lists, in the order in which they were applied. Names are in any case; `identity` is none.
    pub fn parse<'a>(lists: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Self>> {
        let mut codings = Vec::new();
        let names = lists.flat_map(|list| list.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
        for name in names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity")) {
            match Self::named(name) {
                Some(coding) => codings.push(coding),
                None => {
                    let coding = name.get(..SHOWN).unwrap_or(name).escape_ascii().to_string();
                    return Err(Error::UnsupportedEncoding { coding });
                }
            }
        }
        if codings.len() > MOST {
            return Err(Error::TooManyCodings { seen: codings.len(), limit: MOST });
        }
        Ok(codings)
    }

    /// The codings of a response's body, in the order in which they were applied: those of its content, then those of
    /// its transfer.
    pub fn of(response: &Response) -> Result<Vec<Self>> {
        let fields = response.head().into_iter().flat_map(|head| head.headers());
        let content = fields.filter(|(name, _)| name.eq_ignore_ascii_case(b"content-encoding")).map(|(_, value)| value);
        let transfer = response.transfer_codings().iter().map(|name| name.as_bytes());
        Self::parse(content.chain(transfer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lists: &[&str]) -> Result<Vec<&'static str>> {
        let codings = Coding::parse(lists.iter().map(|list| list.as_bytes()));
        codings.map(|codings| codings.into_iter().map(Coding::name).collect())
    }

    #[test]
    fn names_are_in_any_case_and_lists_are_joined() {
        assert_eq!(parse(&["GZip ,\tbr", "ZSTD", "x-gzip"]).unwrap(), ["gzip", "br", "zstd", "gzip"]);
        assert_eq!(parse(&["identity, , Identity", ""]).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_not_known_is_named() {
        for name in ["compress", "x-compress", "gzip;q=1", "chunked", "gzipx", "\u{e9}"] {
            let error = parse(&["gzip", name]).unwrap_err();
            let shown = name.as_bytes().escape_ascii().to_string();
            assert!(matches!(&error, Error::UnsupportedEncoding { coding } if *coding == shown), "{error}");
        }
    }

    #[test]
    fn of_a_long_name_the_beginning_is_told() {
        let error = parse(&[&"x".repeat(60_000)]).unwrap_err();
        assert!(matches!(&error, Error::UnsupportedEncoding { coding } if *coding == "x".repeat(SHOWN)), "{error}");
    }

    #[test]
    fn five_codings_are_one_too_many() {
        assert_eq!(parse(&["br, br, br, br"]).unwrap().len(), MOST);
        let message = parse(&["br, br, br, br, br"]).unwrap_err().to_string();
        assert_eq!(message, "5 codings on one body are over the limit of 4 (decode=False leaves them on it)");
    }
}
