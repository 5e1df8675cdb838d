//! The 54 bytes before each record's payload: two letters and five lengths, in fixed columns.

use super::damage::{Checked, Damage};

/// The one stream that a payload is stored as, unless it is plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Brotli,
}

impl Compression {
    /// `None` is that of a plain record.
    pub const fn name_of(compression: Option<Self>) -> &'static str {
        match compression {
            None => "plain",
            Some(Self::Gzip) => "gzip",
            Some(Self::Brotli) => "brotli",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Dialog,
    /// A writer is at work here, or died.
    Reserved,
}

/// Lengths in bytes. In a plain record a block's has its closing blank line in it, and a body's the line end after it;
/// in a compressed one, all but `len` are those of the decoded parts, without either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of the payload in the file.
    pub len: u64,
    pub kind: Kind,
    /// `None`: plain.
    pub compression: Option<Compression>,
    pub meta: u64,
    pub req_headers: u64,
    pub req_body: u64,
    pub res_headers: u64,
}

/// What a head starts with.
pub(super) const PREFIX: &[u8] = b"BARC2 ";
/// Where the head has a space, apart from the prefix.
const SPACES: [usize; 5] = [18, 21, 27, 33, 44];

impl Head {
    pub const LEN: usize = 54;

    /// What a writer puts in a head's place until its record is complete, if it doesn't know the lengths.
    pub const RESERVED: &[u8; Self::LEN] = b"BARC2 000000000000 RP 00000 00000 0000000000 00000\r\n\r\n";

    /// The most that each column holds.
    pub const MOST_LEN: u64 = (1 << 48) - 1;
    pub const MOST_BLOCK: u64 = (1 << 20) - 1;
    pub const MOST_REQ_BODY: u64 = (1 << 40) - 1;

    /// Checks in upstream's order, and then what upstream doesn't: spaces and line ends.
    pub fn parse(bytes: &[u8]) -> Checked<Self> {
        if bytes.len() < Self::LEN {
            return Err(Damage::IncompleteHead(bytes.len()));
        }
        if !bytes.starts_with(PREFIX) {
            return Err(Damage::NotAHead);
        }
        let column = |from: usize, to: usize| number(bytes.get(from..to).unwrap_or_default());
        let at = |index: usize| bytes.get(index).copied().unwrap_or_default();
        let len = column(6, 18)?;
        let kind = match at(19) {
            b'D' => Kind::Dialog,
            b'R' => Kind::Reserved,
            other => return Err(Damage::Kind(other)),
        };
        let compression = match at(20) {
            b'P' => None,
            b'Z' => Some(Compression::Gzip),
            b'B' => Some(Compression::Brotli),
            other => return Err(Damage::Compression(other)),
        };
        let head = Self {
            len,
            kind,
            compression,
            meta: column(22, 27)?,
            req_headers: column(28, 33)?,
            req_body: column(34, 44)?,
            res_headers: column(45, 50)?,
        };
        if bytes.get(50..Self::LEN) != Some(b"\r\n\r\n") || SPACES.iter().any(|&index| at(index) != b' ') {
            return Err(Damage::Layout);
        }
        Ok(head)
    }

    pub fn write(&self) -> Vec<u8> {
        let Self { len, kind, compression, meta, req_headers, req_body, res_headers } = *self;
        let kind = match kind {
            Kind::Dialog => 'D',
            Kind::Reserved => 'R',
        };
        let compression = match compression {
            None => 'P',
            Some(Compression::Gzip) => 'Z',
            Some(Compression::Brotli) => 'B',
        };
        format!(
            "BARC2 {len:012x} {kind}{compression} {meta:05x} {req_headers:05x} {req_body:010x} {res_headers:05x}\r\n\r\n"
        )
        .into_bytes()
    }

    /// Whether these are the first bytes of a reserved head, or all of it.
    pub fn is_begun(bytes: &[u8]) -> bool {
        let rest = Self::RESERVED.get(bytes.len()..).unwrap_or_default();
        matches!(Self::parse(&[bytes, rest].concat()), Ok(Self { kind: Kind::Reserved, .. }))
    }

    /// Of a plain record: the length of the response body with its line end, once the lengths are known to add up.
    pub fn plain_res_body(&self) -> Checked<u64> {
        let blocks = [self.meta, self.req_headers, self.res_headers];
        if blocks.iter().any(|&block| block == 1 || block == 2) {
            return Err(Damage::Lengths("a header block of less than a line"));
        }
        let before = blocks.iter().sum::<u64>() + self.req_body;
        let res_body = self.len.checked_sub(before).ok_or(Damage::Lengths("the parts are longer than the record"))?;
        if [self.req_body, res_body].iter().any(|&body| body == 1 || body == 2) {
            return Err(Damage::Lengths("a body without its line end"));
        }
        Ok(res_body)
    }

    /// What can be said of the lengths without reading the payload.
    pub fn check_lengths(&self) -> Checked<()> {
        match self.compression {
            None => self.plain_res_body().map(drop),
            _ if self.len == 0 => Err(Damage::StreamEnds),
            _ => Ok(()),
        }
    }
}

fn number(digits: &[u8]) -> Checked<u64> {
    digits.iter().try_fold(0, |sum, &byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            other => return Err(Damage::Digit(other)),
        };
        Ok(sum << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &[u8; 54] = b"BARC2 000000000102 DP 00067 00027 0000000000 00064\r\n\r\n";

    fn damaged(index: usize, byte: u8) -> Damage {
        let mut bytes = SAMPLE.to_vec();
        bytes[index] = byte;
        Head::parse(&bytes).unwrap_err()
    }

    #[test]
    fn the_lengths_of_a_head_are_read_from_their_columns() {
        let head = Head::parse(SAMPLE).unwrap();
        assert_eq!((head.len, head.kind, head.compression), (0x102, Kind::Dialog, None));
        assert_eq!((head.meta, head.req_headers, head.req_body, head.res_headers), (0x67, 0x27, 0, 0x64));
        assert_eq!(head.plain_res_body(), Ok(16));
        assert_eq!(Head::parse(Head::RESERVED).unwrap().kind, Kind::Reserved);
    }

    #[test]
    fn every_byte_of_a_head_is_checked() {
        assert_eq!(damaged(4, b'1'), Damage::NotAHead);
        assert_eq!(damaged(17, b'A'), Damage::Digit(b'A'));
        assert_eq!(damaged(19, b'X'), Damage::Kind(b'X'));
        assert_eq!(damaged(20, b'G'), Damage::Compression(b'G'));
        for index in 0..Head::LEN {
            damaged(index, b'!');
        }
        assert_eq!(damaged(18, b'_'), Damage::Layout);
        assert_eq!(damaged(52, b' '), Damage::Layout);
        assert_eq!(Head::parse(&SAMPLE[..30]), Err(Damage::IncompleteHead(30)));
    }

    #[test]
    fn a_reserved_head_is_known_by_as_much_of_it_as_is_there() {
        let reserved = Head { kind: Kind::Reserved, ..Head::parse(SAMPLE).unwrap() }.write();
        for n in 0..=Head::LEN {
            assert!(Head::is_begun(&reserved[..n]) && Head::is_begun(&Head::RESERVED[..n]));
            // Another head is told from it by its type.
            assert_eq!(Head::is_begun(&SAMPLE[..n]), n <= 19, "{n}");
        }
        assert!(!Head::is_begun(b"BARC1") && !Head::is_begun(&[0; 30]));
    }

    #[test]
    fn lengths_that_do_not_add_up_are_an_error_where_upstream_panics() {
        let head = Head::parse(SAMPLE).unwrap();
        assert!(matches!(Head { len: 0x101, ..head }.plain_res_body(), Ok(15)));
        assert!(matches!(Head { len: 0xf1, ..head }.plain_res_body(), Err(Damage::Lengths(_))));
        assert!(matches!(Head { len: 0xf3, ..head }.plain_res_body(), Err(Damage::Lengths(_))));
        for length in [1, 2] {
            assert!(matches!(Head { meta: length, ..head }.plain_res_body(), Err(Damage::Lengths(_))));
            assert!(matches!(Head { req_headers: length, ..head }.plain_res_body(), Err(Damage::Lengths(_))));
            assert!(matches!(Head { req_body: length, ..head }.plain_res_body(), Err(Damage::Lengths(_))));
            assert!(matches!(Head { res_headers: length, ..head }.plain_res_body(), Err(Damage::Lengths(_))));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            len in 0..=Head::MOST_LEN, meta in 0..=Head::MOST_BLOCK, req_headers in 0..=Head::MOST_BLOCK,
            req_body in 0..=Head::MOST_REQ_BODY, res_headers in 0..=Head::MOST_BLOCK, which in 0usize..3,
        ) {
            let compression = [None, Some(Compression::Gzip), Some(Compression::Brotli)][which];
            let head = Head { len, kind: Kind::Dialog, compression, meta, req_headers, req_body, res_headers };
            prop_assert_eq!(head.write().len(), Head::LEN);
            prop_assert_eq!(Head::parse(&head.write()), Ok(head));
        }

        #[test]
        fn no_input_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Head::parse(&bytes);
        }
    }
}
