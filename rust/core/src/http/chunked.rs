//! The chunked transfer coding (RFC 9112 section 7.1), decoded into ranges of the caller's buffer, and the trailer
//! section after the last chunk. Called by `response`.
//!
//! Body bytes are never looked at: a chunk, or what a piece holds of it, is one range. The bytes between chunks go
//! through [`Chunked::framing`] one by one, unless they equal those before the last chunk: servers send chunks of one
//! size mostly, and then the whole of `\r\n2000\r\n` is compared at once.

use super::{
    HeadLimits,
    fields::{self, Block, Fields, is_tchar, is_text, shown},
};
use crate::{Error, Result};
use std::ops::Range;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Step {
    #[default]
    Size,
    /// Blanks after the size: an extension must follow.
    Blank,
    Extension,
    Quoted,
    /// After a backslash in a quoted string.
    Escaped,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
}

#[derive(Debug, Default)]
pub(super) struct Chunked {
    step: Step,
    /// Size of the current chunk, and how much of it is still to come.
    size: u64,
    left: u64,
    digits: usize,
    /// Bytes of extensions in this message.
    extensions: usize,
    /// What comes before the next chunk if it has the size of the last: CRLF, the same digits, CRLF.
    repeat: Vec<u8>,
    repeatable: bool,
    block: Block,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Chunked {
    pub(super) fn reset(&mut self) {
        let (mut repeat, mut block) = (std::mem::take(&mut self.repeat), std::mem::take(&mut self.block));
        repeat.clear();
        block.begin(0);
        *self = Self { repeat, block, ..Self::default() };
    }

    pub(super) fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    pub(super) fn trailers(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.trailers
    }

    /// Walks `input`, which begins at the offset `start` of the response, and returns how much of it belongs to the
    /// message: less than all only when the message ends in it.
    pub(super) fn feed(
        &mut self,
        limits: &HeadLimits,
        start: u64,
        input: &[u8],
        mut emit: impl FnMut(Range<usize>),
    ) -> Result<usize> {
        let mut rest = input;
        loop {
            let at = input.len() - rest.len();
            match self.step {
                Step::Data => {
                    let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                    if length > 0 {
                        emit(at..at + length);
                    }
                    self.left -= length as u64;
                    rest = rest.get(length..).unwrap_or_default();
                    if self.left > 0 {
                        return Ok(input.len());
                    }
                    self.step = Step::DataCr;
                }
                Step::DataCr if self.repeatable && rest.starts_with(&self.repeat) => {
                    rest = rest.get(self.repeat.len()..).unwrap_or_default();
                    self.left = self.size;
                    self.step = Step::Data;
                }
                Step::Trailers => return Ok(at + self.trailer_section(limits, rest)?),
                Step::Done => return Ok(at),
                _ => {
                    let Some((&byte, after)) = rest.split_first() else { return Ok(input.len()) };
                    let offset = start + at as u64;
                    self.step = self.framing(limits, byte, rest, offset)?;
                    if self.step == Step::Trailers {
                        self.block.begin(offset + 1);
                    }
                    rest = after;
                }
            }
        }
    }

    /// One byte of what stands between chunks; `rest` begins with it and is there for messages.
    fn framing(&mut self, limits: &HeadLimits, byte: u8, rest: &[u8], offset: u64) -> Result<Step> {
        let refuse = |what: &str| Err(Error::protocol(format!("{what} {}", shown(rest)), offset));
        let step = match (self.step, byte) {
            (Step::DataCr, b'\r') => Step::DataLf,
            (Step::DataLf, b'\n') => {
                self.size = 0;
                self.digits = 0;
                Step::Size
            }
            (Step::DataCr | Step::DataLf, _) => return refuse("chunk is not followed by CRLF but by"),
            (Step::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(limits, byte, rest, offset)?,
            (Step::Size, _) if self.digits == 0 => return refuse("chunk size expected, found"),
            (Step::Size, b'\r') => {
                self.repeat.extend(b"\r\n");
                self.repeatable = self.size > 0;
                Step::SizeLf
            }
            (Step::Size | Step::Blank, b' ' | b'\t') => Step::Blank,
            (Step::Size | Step::Blank, b';') => Step::Extension,
            (Step::Size | Step::Blank, _) => return refuse("chunk size is followed by"),
            (Step::Extension, b'\r') => Step::SizeLf,
            (Step::Extension, b'"') => Step::Quoted,
            // Extensions are passed over: all that matters is that nobody can read a line's end out of them.
            (Step::Extension, b' ' | b'\t' | b';' | b'=') => Step::Extension,
            (Step::Extension, byte) if is_tchar(&byte) => Step::Extension,
            (Step::Quoted, b'"') => Step::Extension,
            (Step::Quoted, b'\\') => Step::Escaped,
            (Step::Quoted | Step::Escaped, byte) if is_text(&byte) => Step::Quoted,
            (Step::Extension | Step::Quoted | Step::Escaped, _) => return refuse("chunk extension contains"),
            (Step::SizeLf, b'\n') if self.size == 0 => Step::Trailers,
            (Step::SizeLf, b'\n') => {
                self.left = self.size;
                Step::Data
            }
            (Step::SizeLf, _) => return refuse("chunk size line ends with CR and"),
            (Step::Data | Step::Trailers | Step::Done, _) => self.step,
        };
        if matches!(step, Step::Blank | Step::Extension | Step::Quoted | Step::Escaped) {
            self.repeatable = false;
            self.extensions += 1;
            limits.chunk_extension_bytes().check_bytes(self.extensions)?;
        }
        Ok(step)
    }

    fn digit(&mut self, limits: &HeadLimits, byte: u8, rest: &[u8], offset: u64) -> Result<Step> {
        if self.digits == 0 {
            self.repeat.clear();
            self.repeat.extend(b"\r\n");
        }
        self.digits += 1;
        limits.chunk_size_digits().check_bytes(self.digits)?;
        // Up to 2⁶³ − 1, as for a content-length.
        if self.size > i64::MAX as u64 >> 4 {
            return Err(Error::protocol(format!("chunk size is too large a number at {}", shown(rest)), offset));
        }
        let digit = char::from(byte).to_digit(16).unwrap_or_default();
        self.size = self.size << 4 | u64::from(digit);
        self.repeat.push(byte);
        Ok(Step::Size)
    }

    /// The field lines after the last chunk, up to their empty line (RFC 9112 section 7.1.2).
    fn trailer_section(&mut self, limits: &HeadLimits, input: &[u8]) -> Result<usize> {
        let Some(taken) = self.block.take(input, limits.trailer_bytes())? else { return Ok(input.len()) };
        let count = self.block.lines().saturating_sub(1);
        limits.trailers().check(count)?;
        let (block, at) = (self.block.bytes(input, taken), self.block.offset());
        fields::validate(block, count, at)?;
        for field in Fields::new(block, 0) {
            if field.is("content-length") || field.is("transfer-encoding") {
                let what = format!("{} in the trailers", shown(field.name));
                return Err(Error::protocol(what, at + field.at as u64));
            }
            if !UNSUITABLE.iter().any(|name| field.is(name)) {
                self.trailers.push((field.name.to_owned(), field.value.to_owned()));
            }
        }
        self.step = Step::Done;
        Ok(taken)
    }
}

/// Left out of the trailers: fields that had to be known before the content, for routing, authentication, or its format
/// (RFC 9110 section 6.5.1).
const UNSUITABLE: [&str; 12] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-range",
    "content-type",
    "host",
    "location",
    "proxy-authenticate",
    "set-cookie",
    "trailer",
    "www-authenticate",
];
