//! Digests of a body, computed in order while its bytes pass. Which thread runs them is the sink's business.

use crate::{Error, Result};
use sha2::Digest as _;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512];

    /// hashlib's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        let refuse = || Error::setting("digests", format!("{name:?}"), "not one of md5, sha1, sha256, sha512");
        Self::ALL.into_iter().find(|a| a.name() == name).ok_or_else(refuse)
    }
}

#[derive(Clone)]
enum State {
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

/// All digests of one body.
#[derive(Clone, Default)]
pub struct Digests(Vec<State>);

impl Digests {
    pub fn new(algorithms: &[Algorithm]) -> Self {
        let start = |algorithm: &Algorithm| match algorithm {
            Algorithm::Md5 => State::Md5(md5::Md5::new()),
            Algorithm::Sha1 => State::Sha1(sha1::Sha1::new()),
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        };
        Self(algorithms.iter().map(start).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        for state in &mut self.0 {
            match state {
                State::Md5(d) => d.update(bytes),
                State::Sha1(d) => d.update(bytes),
                State::Sha256(d) => d.update(bytes),
                State::Sha512(d) => d.update(bytes),
            }
        }
    }

    /// Lower-case hexadecimal by name, in the order that was asked for.
    pub fn finish(self) -> Vec<(Algorithm, String)> {
        let finish = |state| match state {
            State::Md5(d) => (Algorithm::Md5, hex(&d.finalize())),
            State::Sha1(d) => (Algorithm::Sha1, hex(&d.finalize())),
            State::Sha256(d) => (Algorithm::Sha256, hex(&d.finalize())),
            State::Sha512(d) => (Algorithm::Sha512, hex(&d.finalize())),
        };
        self.0.into_iter().map(finish).collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_pieces_are_those_of_the_whole() {
        let mut digests = Digests::new(&Algorithm::ALL);
        digests.update(b"a");
        digests.update(b"bc");
        let found: Vec<_> = digests.finish().into_iter().map(|(a, hex)| (a.name(), hex[..8].to_owned())).collect();
        // RFC 1321, FIPS 180-4: the test vectors of "abc".
        let expected = [("md5", "90015098"), ("sha1", "a9993e36"), ("sha256", "ba7816bf"), ("sha512", "ddaf35a1")];
        assert_eq!(found, expected.map(|(n, h)| (n, h.to_owned())));
    }

    #[test]
    fn an_unknown_algorithm_is_refused_by_name() {
        assert!(Algorithm::parse("crc32").unwrap_err().to_string().contains("\"crc32\""));
    }
}
