//! Feeds a response machine with pieces and tells what became of it in a form that can be compared.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use penstock_core::{
    Error,
    http::{Asked, Framing, HeadLimits, HeadStep, Response},
};

pub struct Script {
    pub asked: Asked,
    pub input: Vec<u8>,
}

impl Script {
    pub fn text(&self) -> String {
        self.input.escape_ascii().to_string()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done {
        status: u16,
        framing: Framing,
        informational: Vec<u16>,
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        body: Vec<u8>,
        trailers: Vec<(Vec<u8>, Vec<u8>)>,
        keep_alive: bool,
        /// Bytes of the whole input that belonged to the response.
        consumed: usize,
    },
    Protocol {
        at: u64,
    },
    TooLong {
        setting: &'static str,
        seen: u64,
        limit: u64,
    },
    Other(String),
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        match error {
            Error::Protocol { at, .. } => Self::Protocol { at },
            Error::HeadTooLong { setting, seen, limit, .. } => Self::TooLong { setting, seen, limit },
            other => Self::Other(other.to_string()),
        }
    }
}

pub fn outcome_of(script: &Script, cuts: &[usize]) -> Outcome {
    let mut pieces = Vec::new();
    let mut start = 0;
    for &cut in cuts {
        pieces.push(&script.input[start..cut]);
        start = cut;
    }
    pieces.push(&script.input[start..]);
    outcome(&HeadLimits::default(), script.asked, &pieces)
}

pub fn outcome(limits: &HeadLimits, asked: Asked, pieces: &[&[u8]]) -> Outcome {
    run(&mut Response::new(limits.clone(), asked), pieces)
}

/// Feeds the pieces, then the end of the connection if the response isn't done by then.
pub fn run(response: &mut Response, pieces: &[&[u8]]) -> Outcome {
    match fed(response, pieces) {
        Ok((body, consumed)) => Outcome::Done {
            status: response.head().unwrap().status,
            framing: response.framing().unwrap(),
            informational: response.informational().iter().map(|(status, _)| *status).collect(),
            headers: owned(response.head().unwrap().headers()),
            body,
            trailers: response.trailers().to_vec(),
            keep_alive: response.keep_alive(),
            consumed,
        },
        Err(error) => error.into(),
    }
}

fn fed(response: &mut Response, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize), Error> {
    let mut body = Vec::new();
    let mut consumed = 0;
    for &piece in pieces {
        let mut rest = piece;
        if response.framing().is_none() {
            match response.feed_head(rest)? {
                HeadStep::More => {
                    consumed += rest.len();
                    continue;
                }
                HeadStep::Done { consumed: taken } => {
                    consumed += taken;
                    rest = &rest[taken..];
                }
            }
        }
        if !response.is_done() {
            let mut end = 0;
            let step = response.feed_body(rest, |range| {
                assert!(end <= range.start && range.start < range.end && range.end <= rest.len(), "{range:?}");
                end = range.end;
                body.extend_from_slice(&rest[range]);
            })?;
            assert_eq!(step.done, response.is_done());
            assert!(step.consumed <= rest.len() && (step.done || step.consumed == rest.len()));
            consumed += step.consumed;
        }
        if response.is_done() {
            break;
        }
    }
    response.eof()?;
    assert_eq!(response.received(), body.len() as u64);
    Ok((body, consumed))
}

fn owned<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}
