//! The machine that ties head, framing and chunks together, one response at a time. A connection owns one and resets
//! it for each request; in mid-body it can be moved to the thread that drains the rest. After an error the response
//! stays refused and the connection can't be used again.

use bytes::Bytes;
use std::{ops::Range, sync::Arc};

use super::{
    Asked, Framing, Head, HeadLimits,
    chunked::Chunked,
    fields::{Block, shown},
    framing,
};
use crate::{Error, Result};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeadStep {
    /// All input was consumed, more is needed.
    More,
    /// The head is complete; `consumed` bytes of this input belonged to it, 1xx heads included.
    Done { consumed: usize },
}

/// What one piece of input held of the body. `consumed` is less than all of it only when `done`: what lies beyond is
/// not this response's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Body {
    pub consumed: usize,
    pub done: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Head,
    Body,
    Done,
    Refused,
}

#[derive(Debug)]
pub struct Response {
    limits: Arc<HeadLimits>,
    asked: Asked,
    stage: Stage,
    block: Block,
    blank_lines: usize,
    informational: Vec<(u16, Bytes)>,
    head: Option<Head>,
    framing: Option<Framing>,
    codings: Vec<String>,
    encoded: bool,
    reusable: bool,
    chunked: Chunked,
    /// Of a body with a length: what is still to come.
    left: u64,
    received: u64,
    /// Bytes of the response so far, framing included.
    offset: u64,
}

impl Response {
    /// `asked` is what the request was; a bool says whether it was HEAD.
    pub fn new(limits: impl Into<Arc<HeadLimits>>, asked: impl Into<Asked>) -> Self {
        Self {
            limits: limits.into(),
            asked: asked.into(),
            stage: Stage::Head,
            block: Block::default(),
            blank_lines: 0,
            informational: Vec::new(),
            head: None,
            framing: None,
            codings: Vec::new(),
            encoded: false,
            reusable: false,
            chunked: Chunked::default(),
            left: 0,
            received: 0,
            offset: 0,
        }
    }

    /// For the next response on a connection that is kept alive; keeps the allocations.
    pub fn reset(&mut self, asked: impl Into<Asked>) {
        self.asked = asked.into();
        self.stage = Stage::Head;
        self.block.begin(0);
        self.blank_lines = 0;
        self.informational.clear();
        self.head = None;
        self.framing = None;
        self.codings.clear();
        self.encoded = false;
        self.reusable = false;
        self.chunked.reset();
        self.left = 0;
        self.received = 0;
        self.offset = 0;
    }

    /// Other bounds, for what is read from now on.
    pub fn set_limits(&mut self, limits: Arc<HeadLimits>) {
        self.limits = limits;
    }

    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Gives the head away; everything else goes on as before.
    pub fn take_head(&mut self) -> Option<Head> {
        self.head.take()
    }

    /// The 1xx heads that came before the final one: status and head block.
    pub fn informational(&self) -> &[(u16, Bytes)] {
        &self.informational
    }

    /// `None` until the head is complete.
    pub fn framing(&self) -> Option<Framing> {
        self.framing
    }

    pub fn is_chunked(&self) -> bool {
        self.framing == Some(Framing::Chunked)
    }

    /// Codings that were applied to the body before `chunked`, in that order. Empty unless [`Asked::transfer_codings`].
    pub fn transfer_codings(&self) -> &[String] {
        &self.codings
    }

    /// Whether a body that follows was encoded, by its content or for its transfer.
    pub fn is_encoded(&self) -> bool {
        self.encoded || !self.codings.is_empty()
    }

    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Body bytes so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// How many body bytes are still to come, when the head announced it.
    pub fn remaining(&self) -> Option<u64> {
        matches!(self.framing?, Framing::Empty | Framing::Length(_)).then_some(self.left)
    }

    /// Names and values of the trailer fields, once done; those that have no place there are left out.
    pub fn trailers(&self) -> &[(Vec<u8>, Vec<u8>)] {
        self.chunked.trailers()
    }

    /// Whether the connection may be used again once this response is done: by its version, its Connection field and its
    /// framing. False before the head and after an error.
    pub fn keep_alive(&self) -> bool {
        self.reusable && matches!(self.stage, Stage::Body | Stage::Done)
    }

    /// Feeds what arrived until the head of the final response is complete. 1xx heads are passed over, counted and kept.
    pub fn feed_head(&mut self, input: &[u8]) -> Result<HeadStep> {
        match self.stage {
            Stage::Head => self.heads(input).inspect_err(|_| self.stage = Stage::Refused),
            Stage::Body | Stage::Done => Ok(HeadStep::Done { consumed: 0 }),
            Stage::Refused => Err(self.refused()),
        }
    }

    fn heads(&mut self, input: &[u8]) -> Result<HeadStep> {
        let mut rest = input;
        loop {
            if !could_begin(self.block.start(rest)) {
                let found: Vec<u8> = self.block.start(rest).copied().take(64).collect();
                return Err(Error::protocol(format!("status line {}", shown(&found)), self.block.offset()));
            }
            let Some(taken) = self.block.take(rest, self.limits.head_bytes())? else { return Ok(HeadStep::More) };
            let (block, at) = (self.block.bytes(rest, taken), self.block.offset());
            let final_head = match block {
                b"\r\n" => {
                    self.blank_lines += 1;
                    self.limits.blank_lines().check(self.blank_lines)?;
                    None
                }
                block => {
                    let lines = self.block.lines();
                    self.limits.headers().check(lines.saturating_sub(2))?;
                    let head = Head::parse(block, lines, at)?;
                    self.final_or_kept(head, at)?
                }
            };
            self.block.advance(taken);
            rest = rest.get(taken..).unwrap_or_default();
            if let Some(head) = final_head {
                self.offset = self.block.offset();
                self.begin_body(head, at)?;
                return Ok(HeadStep::Done { consumed: input.len() - rest.len() });
            }
        }
    }

    /// Keeps an informational head (RFC 9110 section 15.2) and gives any other back.
    fn final_or_kept(&mut self, head: Head, at: u64) -> Result<Option<Head>> {
        match head.status {
            101 if !self.asked.upgrade => {
                Err(Error::protocol(format!("unasked switch of protocols {}", shown(head.raw())), at))
            }
            100 | 102..=199 => {
                self.limits.informational().check(self.informational.len() + 1)?;
                framing::check_informational(&head, at)?;
                self.informational.push((head.status, head.raw().clone()));
                Ok(None)
            }
            _ => Ok(Some(head)),
        }
    }

    fn begin_body(&mut self, head: Head, at: u64) -> Result<()> {
        let decision = framing::decide(&head, self.asked, at)?;
        self.left = match decision.framing {
            Framing::Length(length) => length,
            Framing::Empty | Framing::Chunked | Framing::UntilClose => 0,
        };
        self.stage = match decision.framing {
            Framing::Empty | Framing::Length(0) => Stage::Done,
            _ => Stage::Body,
        };
        self.framing = Some(decision.framing);
        self.codings = decision.codings;
        self.encoded = decision.encoded;
        self.reusable = decision.reusable;
        self.head = Some(head);
        Ok(())
    }

    /// Walks what arrived after the head. Calls `emit` with each range of `input` that is body, in order.
    pub fn feed_body(&mut self, input: &[u8], mut emit: impl FnMut(Range<usize>)) -> Result<Body> {
        match self.stage {
            Stage::Body => self.body(input, &mut emit).inspect_err(|_| self.stage = Stage::Refused),
            Stage::Done => Ok(Body { consumed: 0, done: true }),
            Stage::Head => Err(Error::protocol("body was read before the head was complete", self.offset)),
            Stage::Refused => Err(self.refused()),
        }
    }

    fn body(&mut self, input: &[u8], mut emit: impl FnMut(Range<usize>)) -> Result<Body> {
        let consumed = if self.is_chunked() {
            let received = &mut self.received;
            self.chunked.feed(&self.limits, self.offset, input, |range| {
                *received += range.len() as u64;
                emit(range);
            })?
        } else {
            let length = match self.framing {
                Some(Framing::Length(_)) => usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len()),
                _ => input.len(),
            };
            if length > 0 {
                emit(0..length);
            }
            self.received += length as u64;
            self.left = self.left.saturating_sub(length as u64);
            length
        };
        self.offset += consumed as u64;
        let done = match self.framing {
            Some(Framing::Length(_)) => self.left == 0,
            Some(Framing::Chunked) => self.chunked.is_done(),
            _ => false,
        };
        if done {
            self.stage = Stage::Done;
        }
        Ok(Body { consumed, done })
    }

    /// The peer closed. Fine when the response is done or its body ends so; everything else is an error.
    pub fn eof(&mut self) -> Result<()> {
        match (self.stage, self.framing) {
            (Stage::Done, _) => Ok(()),
            (Stage::Body, Some(Framing::UntilClose)) => {
                self.stage = Stage::Done;
                Ok(())
            }
            (Stage::Body, framing) => {
                self.stage = Stage::Refused;
                let expected = match framing {
                    Some(Framing::Length(length)) => Some(length),
                    _ => None,
                };
                Err(Error::Truncated { received: self.received, expected })
            }
            (Stage::Head, _) => {
                self.stage = Stage::Refused;
                Err(Error::ConnectionLost(if self.block.is_untouched() {
                    "before a response"
                } else {
                    "inside the response head"
                }))
            }
            (Stage::Refused, _) => Err(self.refused()),
        }
    }

    /// The peer reset the connection, so that a body without a length isn't known to be complete; also after its end, which is
    /// all that who receives may have heard of it.
    pub fn reset_by_peer(&mut self) -> Result<()> {
        match (self.stage, self.framing) {
            (Stage::Body | Stage::Done, Some(Framing::UntilClose)) => {
                self.stage = Stage::Refused;
                Err(Error::Truncated { received: self.received, expected: None })
            }
            _ => self.eof(),
        }
    }

    fn refused(&self) -> Error {
        Error::protocol("response was refused before", self.offset)
    }
}

/// Whether these may be the first bytes of a status line or a blank line. A peer that speaks something else is found out
/// at its first byte, not when its timeout is over.
fn could_begin<'a>(bytes: impl Iterator<Item = &'a u8> + Clone) -> bool {
    let agrees = |start: &[u8]| bytes.clone().zip(start).all(|(found, expected)| found == expected);
    agrees(b"HTTP/") || agrees(b"\r\n")
}
