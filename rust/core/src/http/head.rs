//! The head of a response: its status line, and access to the fields, which stay raw bytes. Called by `response` with
//! a complete block; what the fields say about the body is decided in `framing`.

use bytes::Bytes;
use memchr::memchr;

use super::fields::{self, Field, Fields, is_text, shown};
use crate::{Error, Result};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    Http10,
    /// HTTP/1.1, and any later minor version, which a recipient takes for the highest that it knows (RFC 9110 section
    /// 2.5).
    Http11,
}

/// The head of a final response: bytes kept raw until somebody looks.
#[derive(Clone, Debug)]
pub struct Head {
    pub version: Version,
    pub status: u16,
    count: usize,
    /// Offset of the first field line in `raw`.
    fields: usize,
    raw: Bytes,
}

/// `HTTP/1.1 200 `, after which the reason phrase begins.
const BEFORE_REASON: usize = 13;

impl Head {
    /// Parses a block of `lines` lines that ends with its first empty line. `at` is its offset in the response.
    pub(super) fn parse(block: &[u8], lines: usize, at: u64) -> Result<Self> {
        let fields = memchr(b'\n', block).map_or(block.len(), |lf| lf + 1);
        let (line, rest) = block.split_at_checked(fields).unwrap_or_default();
        let (version, status) = status_line(line.strip_suffix(b"\r\n").unwrap_or(line), at)?;
        let count = lines.saturating_sub(2);
        fields::validate(rest, count, at + fields as u64)?;
        Ok(Self { version, status, count, fields, raw: Bytes::copy_from_slice(block) })
    }

    /// The head that [`raw`](Self::raw) is of.
    pub fn from_raw(raw: &[u8]) -> Result<Self> {
        Self::parse(raw, memchr::memchr_iter(b'\n', raw).count(), 0)
    }

    pub fn reason(&self) -> &[u8] {
        let end = self.fields.saturating_sub(b"\r\n".len());
        self.raw.get(BEFORE_REASON..end).unwrap_or_default()
    }

    /// Names as received and values without the whitespace around them, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields().map(|field| (field.name, field.value))
    }

    /// The number of field lines.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The value of the first field with this name, in any case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|field| field.is(name)).map(|field| field.value)
    }

    /// The status line, the field lines and the empty line, as received.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Whether the peer means to keep the connection open.
    pub fn keep_alive(&self) -> bool {
        let mut persistence = Persistence::default();
        self.fields().filter(|field| field.is("connection")).for_each(|field| persistence.take(field));
        persistence.keep_alive(self.version)
    }

    pub(super) fn fields(&self) -> Fields<'_> {
        Fields::new(&self.raw, self.fields)
    }
}

/// `HTTP/1.1 200 OK` (RFC 9112 section 4). The blank before an empty reason may be missing, as it often is: nothing
/// depends on a reason.
fn status_line(line: &[u8], at: u64) -> Result<(Version, u16)> {
    let Some(rest) = line.strip_prefix(b"HTTP/") else {
        return Err(Error::protocol(format!("status line {}", shown(line)), at));
    };
    let (version, rest) = match rest {
        [b'1', b'.', b'0', b' ', rest @ ..] => (Version::Http10, rest),
        [b'1', b'.', b'1'..=b'9', b' ', rest @ ..] => (Version::Http11, rest),
        _ => return Err(Error::protocol(format!("version in the status line {}", shown(line)), at)),
    };
    let (status, reason) = match rest {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', reason @ ..] => {
            ([a, b, c].iter().fold(0, |status, &&digit| status * 10 + u16::from(digit - b'0')), reason)
        }
        _ => return Err(Error::protocol(format!("status code in the status line {}", shown(line)), at)),
    };
    match reason {
        [] => Ok((version, status)),
        [b' ', reason @ ..] if reason.iter().all(is_text) => Ok((version, status)),
        [b' ', ..] => Err(Error::protocol(format!("control character in the status line {}", shown(line)), at)),
        _ => Err(Error::protocol(format!("status code in the status line {}", shown(line)), at)),
    }
}

/// What the Connection fields say about the end of the connection (RFC 9112 section 9.3).
#[derive(Default)]
pub(super) struct Persistence {
    close: bool,
    keep_alive: bool,
}

impl Persistence {
    /// Takes one Connection line.
    pub(super) fn take(&mut self, field: Field<'_>) {
        for option in elements(field) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    pub(super) fn keep_alive(&self, version: Version) -> bool {
        !self.close && (self.keep_alive || version == Version::Http11)
    }
}

/// The elements of a list, without empty ones (RFC 9110 section 5.6.1).
pub(super) fn elements(field: Field<'_>) -> impl Iterator<Item = &[u8]> {
    field.value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}
