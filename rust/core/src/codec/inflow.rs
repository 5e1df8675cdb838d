//! The decoder's place between framing and sink. What arrives is queued here and decoded in bounded steps: the first
//! few bytes by the way, on the thread that receives, the rest by a [`Decoding`], which the owner runs on the thread of
//! its choice. At most one is out, so order is kept with any number of threads, as with a sink's works.

use super::target::{Copies, Slabs, Target};
use super::{Caps, Chain, Coding};
use crate::body::sink::SMALL_PIECE;
use crate::body::{BodySink, SharedSink, WINDOW};
use crate::sync::Mutex;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of a body that are decoded on the receiving thread, and of what they are decoded from.
pub const INLINE: u64 = 64 << 10;
const INLINE_RAW: u64 = 32 << 10;

/// Of br by itself less, and none of it with others: a few bytes of it tell of tables that take long to make. Made for that,
/// 32 KiB are 60 ms of work and a few hundred bytes of body; of the other codings they are 8 ms at most.
const INLINE_RAW_BR: u64 = 4 << 10;

/// So much is gathered for a decoding, unless nothing more will come.
const GATHER: usize = 64 << 10;

/// With more than this queued of one body, its owner should stop receiving.
const CROWDED: usize = 1 << 20;

/// With more than this queued of all bodies, decoders are what is waited for: then each body has what the next decoding
/// takes at hand, and no more.
pub const BACKLOG: usize = 1 << 20;
static UNDECODED: AtomicUsize = AtomicUsize::new(0);

/// Bytes that arrived and aren't decoded yet, of all bodies of the process but those that are streamed: these may wait for
/// their reader, and not for decoders.
pub fn undecoded() -> usize {
    UNDECODED.load(Relaxed)
}

/// So many were taken or given up: in a forked child also some that it doesn't count.
fn discount(n: usize) {
    let _ = UNDECODED.fetch_update(Relaxed, Relaxed, |all| Some(all.saturating_sub(n)));
}

/// In a forked child: what the parent's threads were about to decode would count here for ever.
pub(crate) fn forget_undecoded() {
    UNDECODED.store(0, Relaxed);
}

/// Bytes that come out of one decoding, with those that several codings give each other; then others have their turn.
const TURN: u64 = 2 << 20;

/// Pieces of a body in order, counted in [`undecoded`] unless somebody else may be what they wait for.
#[derive(Default)]
struct Queue {
    pieces: VecDeque<Vec<u8>>,
    /// So much of the first piece has been taken.
    taken: usize,
    len: usize,
    uncounted: bool,
}

impl Queue {
    /// Takes a copy of the parts, which are `len` bytes. Small pieces are put together: each takes memory besides its bytes.
    fn push<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>, len: usize) {
        if !self.uncounted {
            UNDECODED.fetch_add(len, Relaxed);
        }
        self.len += len;
        if self.pieces.back().is_none_or(|last| last.len() + len > SMALL_PIECE) {
            self.pieces.push_back(Vec::with_capacity(len));
        }
        if let Some(last) = self.pieces.back_mut() {
            parts.for_each(|part| last.extend_from_slice(part));
        }
    }

    fn first(&self) -> &[u8] {
        self.pieces.front().and_then(|first| first.get(self.taken..)).unwrap_or_default()
    }

    /// `n` bytes of the first piece were taken.
    fn advance(&mut self, n: usize) {
        self.taken += n;
        if self.pieces.front().is_some_and(|first| first.len() == self.taken) {
            self.pieces.pop_front();
            self.taken = 0;
        }
        if !self.uncounted {
            discount(n);
        }
        self.len -= n;
    }

    fn append(&mut self, other: &mut Self) {
        self.pieces.append(&mut other.pieces);
        self.len += std::mem::take(&mut other.len);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if !self.uncounted {
            discount(self.len);
        }
    }
}

/// The decoders with what is to go in next.
struct Decode {
    chain: Chain,
    queue: Queue,
    /// More may come out of what has gone in.
    more: bool,
    finished: bool,
}

impl Decode {
    /// Decodes until `most` bytes came out, of all codings together, or nothing is left. With `ended` nothing will follow.
    fn run(&mut self, target: &mut impl Target, most: u64, ended: bool) -> Result<()> {
        let until = self.chain.effort().saturating_add(most);
        while self.more || self.queue.len > 0 {
            let left = usize::try_from(until.saturating_sub(self.chain.effort())).unwrap_or(usize::MAX);
            if left == 0 {
                return Ok(());
            }
            let room = target.room();
            let room_len = room.len().min(left);
            let room = room.get_mut(..room_len).unwrap_or_default();
            let mut input = self.queue.first();
            let offered = input.len();
            let step = self.chain.step(&mut input, room);
            let taken = offered - input.len();
            self.queue.advance(taken);
            let step = step?;
            self.more = step.more;
            if step.produced > 0 {
                target.filled(step.produced)?;
            }
        }
        if ended && !self.finished {
            self.chain.finish()?;
            self.finished = true;
        }
        Ok(())
    }
}

pub struct Inflow {
    /// `None` while a decoding is out.
    decode: Option<Decode>,
    /// What arrived while it is.
    arrived: Queue,
    raw: u64,
    max_raw: u64,
    /// A body that comes as more than this isn't small.
    small: u64,
    /// Nothing more will come.
    ended: bool,
}

/// An inflow that its decodings come back to from any thread.
pub type SharedInflow = Arc<Mutex<Inflow>>;

impl Inflow {
    /// `codings` in the order in which they were applied.
    pub fn new(codings: &[Coding], caps: Caps) -> Result<Self> {
        let decode =
            Decode { chain: Chain::new(codings, caps)?, queue: Queue::default(), more: false, finished: false };
        let small = match codings {
            [Coding::Br] => INLINE_RAW_BR,
            _ if codings.contains(&Coding::Br) => 0,
            _ => INLINE_RAW,
        };
        let (arrived, max_raw) = (Queue::default(), caps.max_body);
        Ok(Self { decode: Some(decode), arrived, raw: 0, max_raw, small, ended: false })
    }

    /// Gathers nothing: whatever comes is to be decoded at once, as somebody waits for it.
    pub fn ungathered(mut self) -> Self {
        self.arrived.uncounted = true;
        if let Some(decode) = &mut self.decode {
            decode.queue.uncounted = true;
        }
        self
    }

    /// Takes any number of bytes.
    pub(super) fn of_any_length(mut self) -> Self {
        self.max_raw = u64::MAX;
        self
    }

    /// How many more bytes may come in: as many as may come out.
    pub fn room(&self) -> u64 {
        self.max_raw - self.raw
    }

    /// Queues a copy of what arrived.
    pub fn push<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]> + Clone) -> Result<()> {
        let len: usize = parts.clone().map(<[u8]>::len).sum();
        if len as u64 > self.room() {
            return Err(Error::BodyTooLong { seen: self.raw + len as u64, limit: self.max_raw });
        }
        if len > 0 {
            self.raw += len as u64;
            let queue = self.decode.as_mut().map_or(&mut self.arrived, |decode| &mut decode.queue);
            queue.push(parts, len);
        }
        Ok(())
    }

    /// Bytes that no decoding has taken.
    fn waiting(&self) -> usize {
        self.arrived.len + self.decode.as_ref().map_or(0, |decode| decode.queue.len)
    }

    /// Nothing more will come.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether a decoding is out.
    pub fn is_busy(&self) -> bool {
        self.decode.is_none()
    }

    pub fn is_crowded(&self) -> bool {
        let most = if !self.arrived.uncounted && undecoded() > BACKLOG { GATHER } else { CROWDED };
        self.waiting() > most
    }

    /// Whether all that came is decoded, and was complete.
    pub fn is_finished(&self) -> bool {
        self.decode.as_ref().is_some_and(|decode| decode.finished)
    }

    /// Whether there is something to be decoded now.
    pub fn has_work(&self) -> bool {
        let least = if self.arrived.uncounted { 1 } else { GATHER };
        self.decode
            .as_ref()
            .is_some_and(|decode| !decode.finished && (decode.more || self.ended || self.waiting() >= least))
    }

    /// Whether something is left to be decoded of what is here.
    pub(crate) fn has_backlog(&self) -> bool {
        self.decode.as_ref().is_some_and(|decode| decode.more || decode.queue.len > 0 || self.ended && !decode.finished)
    }

    /// Decodes the first bytes of a body here: at most [`INLINE`] of them in all, and none of one that isn't small, by what
    /// has come or is known to be still to come.
    pub fn begin(&mut self, sink: &mut BodySink, to_come: u64) -> Result<()> {
        let Some(decode) = &mut self.decode else { return Ok(()) };
        let left = INLINE.saturating_sub(decode.chain.effort());
        if left == 0 || decode.finished || self.raw.saturating_add(to_come) > self.small {
            return Ok(());
        }
        let mut copies = Copies { sink, buffer: vec![0; 16 << 10] };
        decode.run(&mut copies, left, self.ended)
    }

    /// Decodes here, as far as one turn goes. May wait for the disk.
    pub(crate) fn run(&mut self, target: &mut impl Target) -> Result<()> {
        let Some(decode) = &mut self.decode else { return Err(Error::internal("a decoding is out")) };
        decode.run(target, TURN, self.ended)
    }

    /// Decodes all that came here.
    pub(super) fn run_out(&mut self, target: &mut impl Target) -> Result<()> {
        while self.has_backlog() {
            self.run(target)?;
        }
        Ok(())
    }
}

/// A turn of decoding on its way: back with its inflow when dropped, whether it ran or not.
pub struct Decoding {
    inflow: SharedInflow,
    sink: SharedSink,
    decode: Option<Decode>,
    ended: bool,
}

impl Decoding {
    /// The next turn, if there is something to be decoded.
    pub fn new(inflow: &SharedInflow, sink: &SharedSink) -> Option<Self> {
        let mut state = inflow.lock();
        if !state.has_work() {
            return None;
        }
        let (decode, ended) = (state.decode.take(), state.ended);
        Some(Self { inflow: inflow.clone(), sink: sink.clone(), decode, ended })
    }

    /// Decodes, and has the sink's works done. May wait for the disk.
    pub fn run(mut self) -> Result<()> {
        let Some(decode) = &mut self.decode else { return Ok(()) };
        let mut slabs = Slabs::new(self.sink.clone())?;
        // What there was no budget for before.
        slabs.work(false)?;
        // One that is read while it arrives is over its budget by no more than it would be without a coding.
        let most = if self.sink.lock().lacks(TURN) { WINDOW as u64 } else { TURN };
        let ran = decode.run(&mut slabs, most, self.ended);
        // What was decoded before a fault is kept.
        slabs.flush()?;
        ran?;
        slabs.work(decode.finished)
    }
}

impl Drop for Decoding {
    fn drop(&mut self) {
        let Some(mut decode) = self.decode.take() else { return };
        let mut inflow = self.inflow.lock();
        decode.queue.append(&mut inflow.arrived);
        inflow.decode = Some(decode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::writer::unwritten;
    use crate::body::{Budget, Pools, Tunables};

    #[test]
    fn bytes_that_come_one_by_one_are_queued_together() {
        let caps = Caps { max_body: 1 << 20, max_ratio: None };
        let mut inflow = Inflow::new(&[Coding::Gzip], caps).unwrap();
        let sent: Vec<u8> = (0..60_000_u32).map(|i| (i % 251) as u8).collect();
        sent.chunks(1).for_each(|byte| inflow.push(std::iter::once(byte)).unwrap());
        let queue = &mut inflow.decode.as_mut().unwrap().queue;
        assert!(queue.pieces.len() <= 16, "{}", queue.pieces.len());
        let mut taken = Vec::new();
        while queue.len > 0 {
            let n = queue.first().len().min(999);
            taken.extend_from_slice(&queue.first()[..n]);
            queue.advance(n);
        }
        assert!(taken == sent && queue.pieces.is_empty());
    }

    #[test]
    fn in_a_forked_child_nothing_counts_that_was_on_its_way_in_the_parent() {
        let caps = Caps { max_body: 1 << 20, max_ratio: None };
        let mut inflow = Inflow::new(&[Coding::Gzip], caps).unwrap();
        inflow.push(std::iter::once(&[0; 5000][..])).unwrap();
        let tunables = Arc::new(Tunables { max_body_ram: 0, ..Tunables::default() });
        let mut sink = BodySink::new(tunables, Budget::new(None, None, None));
        sink.push_copy(&[0; 7000]).unwrap();
        assert!(undecoded() >= 5000 && unwritten() >= 7000);
        Pools::after_fork_in_child();
        assert_eq!((undecoded(), unwritten()), (0, 0));
        // What the child has of it is dropped here, too.
        drop((inflow, sink));
        assert_eq!((undecoded(), unwritten()), (0, 0));
    }
}
