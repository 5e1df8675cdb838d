//! The bounds of what surrounds a body: heads, chunk heads, trailers. The body's own bounds are its sink's. The
//! parsers beside this file ask; the client's settings fill it in.

use crate::{Error, Result};

/// Limits for what surrounds a body. Each is an inclusive maximum; its setting has the same name in `Limits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes before the body in all: blank lines, informational heads and the final head.
    pub head_bytes: usize,
    /// Field lines of one head.
    pub headers: usize,
    /// 1xx heads before the final one.
    pub informational: usize,
    /// Blank lines before a status line, in all.
    pub blank_lines: usize,
    /// Hex digits of a chunk size, leading zeros included.
    pub chunk_size_digits: usize,
    /// Bytes between a chunk's size and the end of its line, over all chunks of a message.
    pub chunk_extension_bytes: usize,
    /// Bytes of the trailer section, its empty line included.
    pub trailer_bytes: usize,
    /// Field lines of the trailer section.
    pub trailers: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            head_bytes: 64 << 10,
            headers: 256,
            informational: 16,
            blank_lines: 4,
            chunk_size_digits: 16,
            chunk_extension_bytes: 4096,
            trailer_bytes: 16 << 10,
            trailers: 64,
        }
    }
}

impl HeadLimits {
    pub(super) fn head_bytes(&self) -> Limit {
        Limit { what: "bytes of response head", most: self.head_bytes, setting: "Limits.head_bytes" }
    }

    pub(super) fn headers(&self) -> Limit {
        Limit { what: "headers of a response", most: self.headers, setting: "Limits.headers" }
    }

    pub(super) fn informational(&self) -> Limit {
        Limit { what: "informational responses", most: self.informational, setting: "Limits.informational" }
    }

    pub(super) fn blank_lines(&self) -> Limit {
        Limit { what: "blank lines before a response", most: self.blank_lines, setting: "Limits.blank_lines" }
    }

    pub(super) fn chunk_size_digits(&self) -> Limit {
        Limit { what: "digits of a chunk size", most: self.chunk_size_digits, setting: "Limits.chunk_size_digits" }
    }

    pub(super) fn chunk_extension_bytes(&self) -> Limit {
        Limit {
            what: "bytes of chunk extensions",
            most: self.chunk_extension_bytes,
            setting: "Limits.chunk_extension_bytes",
        }
    }

    pub(super) fn trailer_bytes(&self) -> Limit {
        Limit { what: "bytes of trailers", most: self.trailer_bytes, setting: "Limits.trailer_bytes" }
    }

    pub(super) fn trailers(&self) -> Limit {
        Limit { what: "trailers of a response", most: self.trailers, setting: "Limits.trailers" }
    }
}

/// One of the limits, with what its error says.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    what: &'static str,
    most: usize,
    setting: &'static str,
}

impl Limit {
    pub(super) fn check(&self, seen: usize) -> Result<()> {
        if seen <= self.most { Ok(()) } else { Err(self.exceeded(seen)) }
    }

    /// For bytes, of which more may be on their way: `seen` is then the first byte too many, so that the error doesn't
    /// depend on how the bytes were cut into pieces.
    pub(super) fn check_bytes(&self, seen: usize) -> Result<()> {
        if seen <= self.most { Ok(()) } else { Err(self.exceeded(self.most.saturating_add(1))) }
    }

    fn exceeded(&self, seen: usize) -> Error {
        let Self { what, most, setting } = *self;
        Error::HeadTooLong { what, seen: seen as u64, limit: most as u64, setting }
    }
}
