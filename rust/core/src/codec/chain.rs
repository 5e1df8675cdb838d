//! Decoders one behind the other, with what may come out of them in all.

use super::{Coding, decoder::Decoder};
use crate::body::Tunables;
use crate::{Error, Result};
use std::ops::Range;

/// What one decoder gives the next at a time.
const BETWEEN: usize = 16 << 10;

/// A body that is no larger than this may be any multiple of what it came as.
const RATIO_FROM: u64 = 64 << 10;

/// What may come out.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Bytes, of each decoder.
    pub max_body: u64,
    /// Multiple of what went in.
    pub max_ratio: Option<u64>,
}

impl From<&Tunables> for Caps {
    fn from(tunables: &Tunables) -> Self {
        Self { max_body: tunables.max_body, max_ratio: tunables.max_ratio }
    }
}

struct Stage {
    coding: Coding,
    decoder: Decoder,
    consumed: u64,
    produced: u64,
    /// What the stage before it gave, and how much of that is left. The first one has none.
    buffer: Vec<u8>,
    held: Range<usize>,
    /// Of the stage before it, behind what it gave.
    fault: Option<Error>,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub produced: usize,
    /// There may be more to come out, or more to be done, without any more input.
    pub more: bool,
}

/// Takes the codings off a body.
pub struct Chain {
    /// The first takes what came, the last gives the body.
    stages: Vec<Stage>,
    caps: Caps,
    raw: u64,
    /// To be told when what was decoded before it has been taken.
    failure: Option<Error>,
}

impl Chain {
    /// `codings` in the order in which they were applied.
    pub fn new(codings: &[Coding], caps: Caps) -> Result<Self> {
        let stages = codings.iter().rev().enumerate().map(|(index, &coding)| {
            let decoder = Decoder::new(coding).map_err(|what| Error::Decode { coding: coding.name(), what, at: 0 })?;
            let buffer = if index == 0 { Vec::new() } else { vec![0; BETWEEN] };
            Ok(Stage { coding, decoder, consumed: 0, produced: 0, buffer, held: 0..0, fault: None })
        });
        Ok(Self { stages: stages.collect::<Result<_>>()?, caps, raw: 0, failure: None })
    }

    /// Bytes that came out.
    fn produced(&self) -> u64 {
        self.stages.last().map_or(0, |stage| stage.produced)
    }

    /// Bytes that came out of each of the decoders: what they had to do.
    pub fn effort(&self) -> u64 {
        self.stages.iter().map(|stage| stage.produced).sum()
    }

    /// Decodes from the front of `input` until that is used up or `output` full, or until the codings have given each other
    /// about as much as `output` takes. What was decoded before a fault, and below a limit, is given first.
    pub fn step(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<Step> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        // One byte more than may come tells whether it is too long.
        let room = self.caps.max_body.saturating_sub(self.produced()).saturating_add(1);
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(output.len());
        let output = output.get_mut(..room).unwrap_or_default();
        let (before, mut produced, mut most) = (input.len(), 0, room.max(BETWEEN));
        let run = run(&mut self.stages, input, output, &mut produced, &mut most);
        self.raw += (before - input.len()) as u64;
        let kept = produced - usize::from(self.produced() > self.caps.max_body);
        match run.and_then(|()| self.check()) {
            Ok(()) => Ok(Step { produced, more: produced == room || most == 0 }),
            Err(error) if kept > 0 => {
                self.failure = Some(error);
                Ok(Step { produced: kept, more: true })
            }
            Err(error) => Err(error),
        }
    }

    fn check(&self) -> Result<()> {
        let Caps { max_body, max_ratio } = self.caps;
        if self.stages.iter().any(|stage| stage.produced > max_body) {
            let seen = max_body.saturating_add(1);
            return Err(Error::DecodedTooLong { seen, limit: max_body, setting: "Tunables.max_body" });
        }
        let seen = self.produced();
        match max_ratio.map(|ratio| ratio.saturating_mul(self.raw).max(RATIO_FROM)) {
            Some(limit) if seen > limit => Err(Error::DecodedTooLong { seen, limit, setting: "Tunables.max_ratio" }),
            _ => Ok(()),
        }
    }

    /// All input was given: an error if it was cut. An empty body has no coding to take off.
    pub fn finish(&self) -> Result<()> {
        let cut = self.stages.iter().find(|stage| !(stage.decoder.is_at_end() && stage.consumed > 0));
        match cut.filter(|_| self.raw > 0) {
            Some(stage) => Err(Error::CutCoding { coding: stage.coding.name(), received: self.raw }),
            None => Ok(()),
        }
    }
}

/// `most` is what the stages may still give each other.
fn run(
    stages: &mut [Stage],
    input: &mut &[u8],
    output: &mut [u8],
    produced: &mut usize,
    most: &mut usize,
) -> Result<()> {
    let Some((last, before)) = stages.split_last_mut() else { return Ok(()) };
    if before.is_empty() {
        return last.run(input, output, produced);
    }
    loop {
        let buffer = std::mem::take(&mut last.buffer);
        let mut held = buffer.get(last.held.clone()).unwrap_or_default();
        let ran = last.run(&mut held, output, produced);
        last.held.start = last.held.end - held.len();
        last.buffer = buffer;
        ran?;
        if *produced == output.len() {
            return Ok(());
        }
        if let Some(fault) = last.fault.take() {
            return Err(fault);
        }
        if *most == 0 {
            return Ok(());
        }
        let mut filled = 0;
        let fetched = run(before, input, &mut last.buffer, &mut filled, most);
        last.held = 0..filled;
        *most = most.saturating_sub(filled);
        match fetched {
            // What came before it is decoded first.
            Err(fault) if filled > 0 => last.fault = Some(fault),
            Ok(()) if filled > 0 => {}
            fetched => return fetched,
        }
    }
}

impl Stage {
    fn run(&mut self, input: &mut &[u8], output: &mut [u8], produced: &mut usize) -> Result<()> {
        let (before, start) = (input.len(), *produced);
        let ran = self.decoder.run(input, output, produced);
        let (taken, given) = (before - input.len(), *produced - start);
        self.consumed += taken as u64;
        self.produced += given as u64;
        // No decoder does this; if one did, its caller would try for ever.
        let stuck = (taken, given) == (0, 0) && before > 0 && start < output.len();
        let ran = ran.and_then(|()| if stuck { Err("no progress".to_owned()) } else { Ok(()) });
        ran.map_err(|what| Error::Decode { coding: self.coding.name(), what, at: self.consumed })
    }
}
