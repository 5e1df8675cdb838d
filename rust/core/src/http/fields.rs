//! Blocks of lines that end with an empty one, and the field lines in them: what a head and a trailer section have in
//! common. What the fields mean is decided in `framing` and `chunked`.

use httparse::{EMPTY_HEADER, Status};
use memchr::{memchr, memchr_iter};

use super::limits::Limit;
use crate::{Error, Result};

/// What an idle connection may keep of the buffer for heads that came in pieces.
const KEPT: usize = 4096;

/// Collects lines up to and including the first empty one. Each byte is looked at once: a block that lies in one piece
/// is never copied, and one that doesn't is continued where the last piece ended.
///
/// Lines end with CRLF only. RFC 9112 section 2.2 lets a recipient take a bare LF for it; readers that do and readers
/// that don't would disagree on where a head ends.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// Where in the response the bytes begin that the limit counts.
    origin: u64,
    /// Bytes of earlier blocks since `origin`.
    passed: usize,
    /// The block's earlier pieces.
    held: Vec<u8>,
    /// Bytes of `held` that belong to its unfinished last line.
    line: usize,
    lines: usize,
}

impl Block {
    pub(super) fn begin(&mut self, origin: u64) {
        self.origin = origin;
        self.passed = 0;
        self.clear();
    }

    fn clear(&mut self) {
        self.held.clear();
        self.held.shrink_to(KEPT);
        self.line = 0;
        self.lines = 0;
    }

    /// Where in the response the current block begins.
    pub(super) fn offset(&self) -> u64 {
        self.origin + self.passed as u64
    }

    /// Lines of the current block so far, the empty one included.
    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    pub(super) fn is_untouched(&self) -> bool {
        self.passed == 0 && self.held.is_empty()
    }

    /// The first bytes of the block, held ones before those of `input`.
    pub(super) fn start<'a>(&'a self, input: &'a [u8]) -> impl Iterator<Item = &'a u8> + Clone {
        self.held.iter().chain(input)
    }

    /// How many bytes of `input` complete the block; `None` when all of it was taken and more is needed.
    pub(super) fn take(&mut self, input: &[u8], limit: Limit) -> Result<Option<usize>> {
        let before = self.passed + self.held.len();
        let mut line_start = 0;
        let mut line_held = self.line;
        for lf in memchr_iter(b'\n', input) {
            let end = lf + 1;
            limit.check_bytes(before + end)?;
            let previous = match lf.checked_sub(1) {
                Some(at) => input.get(at),
                None => self.held.last(),
            };
            if previous != Some(&b'\r') {
                let line = input.get(line_start..lf).unwrap_or_default();
                let what = format!("line ends with LF alone after {}", shown(line));
                return Err(Error::protocol(what, self.origin + (before + lf) as u64));
            }
            self.lines += 1;
            if line_held + end - line_start == b"\r\n".len() {
                if !self.held.is_empty() {
                    self.held.extend(input.get(..end).unwrap_or_default());
                }
                return Ok(Some(end));
            }
            line_start = end;
            line_held = 0;
        }
        limit.check_bytes(before + input.len())?;
        self.line = line_held + input.len() - line_start;
        self.held.extend(input);
        Ok(None)
    }

    /// The block that [`take`](Self::take) found complete with the first `taken` bytes of `input`.
    pub(super) fn bytes<'a>(&'a self, input: &'a [u8], taken: usize) -> &'a [u8] {
        if self.held.is_empty() { input.get(..taken).unwrap_or_default() } else { &self.held }
    }

    /// Goes on to the next block after one that [`take`](Self::take) found complete.
    pub(super) fn advance(&mut self, taken: usize) {
        self.passed += if self.held.is_empty() { taken } else { self.held.len() };
        self.clear();
    }
}

/// A field line: `at` is the line's offset in the block that was iterated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
    pub at: usize,
}

impl Field<'_> {
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Walks field lines that passed [`validate`].
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// The field lines of `block` from the offset `at` on.
    pub(crate) fn new(block: &'a [u8], at: usize) -> Self {
        Self { rest: block.get(at..).unwrap_or_default(), at }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let (line, rest) = self.rest.split_at_checked(memchr(b'\n', self.rest)? + 1)?;
        // The empty line has no colon: there the iteration ends.
        let (name, value) = line.split_at_checked(memchr(b':', line)?)?;
        // Whitespace around a value is no part of it (RFC 9110 section 5.5). Of what `trim_ascii` removes, a validated
        // value can hold only SP and HTAB, and the line's CRLF.
        let field = Field { name, value: value.get(1..)?.trim_ascii(), at: self.at };
        self.at += line.len();
        self.rest = rest;
        Some(field)
    }
}

/// Checks `count` field lines and the empty line after them (RFC 9112 section 5): names are tokens that touch their
/// colon, values hold no control character but HTAB, nothing is folded. `at` is their offset in the response.
pub(crate) fn validate(fields: &[u8], count: usize, at: u64) -> Result<()> {
    let mut few = [EMPTY_HEADER; 32];
    let mut many = Vec::new();
    let room = match few.get_mut(..count) {
        Some(few) => few,
        None => {
            many.resize(count, EMPTY_HEADER);
            &mut many
        }
    };
    match httparse::parse_headers(fields, room) {
        Ok(Status::Complete((length, found))) if length == fields.len() && found.len() == count => Ok(()),
        _ => Err(first_invalid(fields, at)),
    }
}

/// httparse doesn't say where it stopped: this finds the line, once there is an error to write.
fn first_invalid(fields: &[u8], mut at: u64) -> Error {
    for line in fields.split_inclusive(|&byte| byte == b'\n') {
        match httparse::parse_headers(line, &mut [EMPTY_HEADER]) {
            Ok(Status::Partial) => at += line.len() as u64,
            _ => return invalid_line(line.strip_suffix(b"\r\n").unwrap_or(line), at),
        }
    }
    Error::protocol("header lines", at)
}

fn invalid_line(line: &[u8], at: u64) -> Error {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        // RFC 9112 section 5.2: obs-fold.
        return Error::protocol(format!("folded header line {}", shown(line)), at);
    }
    let colon = memchr(b':', line);
    let Some((name, value)) = colon.and_then(|colon| line.split_at_checked(colon)) else {
        return Error::protocol(format!("header line without a colon: {}", shown(line)), at);
    };
    if name.is_empty() {
        Error::protocol(format!("header without a name: {}", shown(line)), at)
    } else if name.ends_with(b" ") || name.ends_with(b"\t") {
        Error::protocol(format!("whitespace between a header's name and its colon: {}", shown(line)), at)
    } else if !name.iter().all(is_tchar) {
        Error::protocol(format!("header name {}", shown(name)), at)
    } else {
        let bad = value.iter().position(|byte| !is_text(byte)).unwrap_or_default();
        let found = value.get(bad..).unwrap_or_default();
        let what = format!("control character in the value of the header {}: {}", shown(name), shown(found));
        Error::protocol(what, at + (name.len() + bad) as u64)
    }
}

/// A character of a token (RFC 9110 section 5.6.2).
pub(crate) fn is_tchar(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// SP, HTAB, visible characters and obs-text: what values, reasons and quoted strings consist of.
pub(crate) fn is_text(byte: &u8) -> bool {
    !byte.is_ascii_control() || *byte == b'\t'
}

/// Bytes from the peer as an error message shows them: quoted, escaped, clipped.
pub(super) fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 40;
    match bytes.split_at_checked(MOST) {
        Some((clipped, rest)) if !rest.is_empty() => format!("\"{}\"…", clipped.escape_ascii()),
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}
