//! Between a transport's windows and a body's sink: which memory the next bytes are received into, and what becomes of
//! them. One [`Receiver`] serves a connection, response after response. It doesn't know sockets, threads or Python.
//!
//! While a head or a small body is expected, the window is of a [`Scratch`] that all connections of a loop share, and
//! what came is copied out of it. Once a body turns out to be large, the scratch becomes its slab, uncopied, and
//! further windows are of slabs of its own. What framing left between the pieces of a chunked body is closed up while the
//! window is still hot: whoever reads the body then gets it in pieces of a window, not of a server's chunk, and moving a
//! byte costs a fraction of what a piece more does. Large chunks stay where the kernel wrote them.
//!
//! A transport hands over one window in a turn of its loop. Who can read its socket may *read on* while windows come full: that
//! saves turns, and what is taken from one socket after the other, and not from all by turns, is hot when it is moved. The
//! connections of a client do so for 2 ms, all together, and then not for as long, so that the loop isn't held up.

mod scratch;

pub use scratch::Scratch;

use crate::body::sink::{SMALL_PIECE, close_up};
use crate::body::slab::{self, SlabWriter, Window};
use crate::body::writer::unwritten;
use crate::body::{BodyImage, BodySink, Budget, Errand, FilePool, Pools, SharedSink, Tunables, WINDOW};
use crate::codec::{BACKLOG, Caps, Coding, Decoding, Inflow, SharedInflow, When, undecoded};
use crate::http::{Asked, Body, Framing, Head, HeadLimits, HeadStep, Response};
use crate::sync::Mutex;
use crate::{Error, Result};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A window is never smaller: a slab with less left is full.
const LEAST_WINDOW: usize = 4 << 10;

/// Pieces smaller than this are moved up to the one before: in Python a piece costs its reader more than it costs to move
/// within the cache.
const CLOSE_UP: usize = 32 << 10;

/// With this much on its way to files, windows are small: what a socket keeps costs no memory here.
const BUSY: u64 = 8 << 20;
const SMALL_WINDOW: usize = 16 << 10;

/// While decoders lag behind, a loop that serves many connections in one turn is to be through with them soon.
const CODED_WINDOW: usize = 64 << 10;

/// How much may be received at once.
fn window_size() -> usize {
    if unwritten() > BUSY {
        SMALL_WINDOW
    } else if undecoded() > BACKLOG {
        CODED_WINDOW
    } else {
        WINDOW
    }
}

/// A body that has this much to come, or has had it, gets a slab of its own.
const LARGE: usize = slab::SMALLEST;

/// From this size on, a body in memory is received into slabs as large as a huge page.
const HUGE: u64 = 1 << 20;

/// What an idle connection may keep of the room for ranges: a window of tiny chunks has tens of thousands.
const KEPT_RANGES: usize = 256;

/// How a response is received.
#[derive(Clone)]
pub struct Plan {
    pub asked: Asked,
    pub limits: Arc<HeadLimits>,
    pub tunables: Arc<Tunables>,
    pub budget: Arc<Budget>,
    /// Where a body's file comes from, and goes when it isn't needed any more.
    pub files: Option<Arc<FilePool>>,
    /// Whether the sink's works are done on the receiving thread.
    pub direct: bool,
    /// Whether a body that goes to a file is to be handed over with its socket.
    pub drain: bool,
    /// Whether the request's body waits for a `100 Continue`.
    pub expect: bool,
    /// Whether to tell when the head is complete.
    pub tell_head: bool,
    /// Whether the body is taken piece by piece while it arrives, with [`Receiver::take_pieces`]. It stays in memory,
    /// over the budget, too: who takes them receives no more until there is some, or nothing is left of what came.
    pub stream: bool,
    pub decode: When,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Receive more, or wait for a work that is out.
    More,
    /// Stop receiving until a work that is out has come back: too much is unwritten.
    Pause,
    /// The sink has work.
    Work,
    /// The rest of the body is to be drained: take it with [`Receiver::hand_over`].
    Drain,
    /// The peer has seen the head and wants the body that was announced (RFC 9110 section 10.1.1).
    Continue,
    /// The head of the response is complete; ask for what is next.
    Head,
    /// There are pieces to be taken; ask for what is next afterwards.
    Data,
    /// Bytes came for which nobody has asked: close the connection.
    Close,
    /// The response is complete: take it with [`Receiver::finish`].
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Head,
    Body,
    /// Its body is being drained elsewhere.
    Away,
    Complete,
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lent {
    Scratch,
    Own,
    /// A recycled file's mapping.
    Mapped,
}

/// What is to be done with what came: to be run once, on any thread. Dropped unrun, it is undone.
pub struct Work {
    /// It only computes: what is decoded goes to memory. Else it may wait for the disk.
    pub computes: bool,
    pub run: Box<dyn FnOnce() -> Result<()> + Send>,
}

/// A complete response.
pub struct Received {
    pub head: Head,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: BodyImage,
    /// In the order in which they were applied: taken off the body, or still on it if the plan said
    /// [`After`](When::After).
    pub codings: Vec<Coding>,
    /// Whether the connection may be used again.
    pub reusable: bool,
}

pub struct Receiver {
    response: Response,
    plan: Option<Plan>,
    stage: Stage,
    lent: Lent,
    own: Option<SlabWriter>,
    sink: Option<SharedSink>,
    codings: Vec<Coding>,
    /// Before the sink of a body that is decoded while it arrives.
    inflow: Option<SharedInflow>,
    /// The size of the window of its own that was lent last.
    lent_size: usize,
    ranges: Vec<Range<usize>>,
    /// Bytes of the slabs that the body's pieces lie in.
    held: u64,
    /// The number of the first piece that lies in `own`.
    first_in_own: usize,
    /// Bytes came that belong to no response.
    excess: bool,
    progress: Arc<AtomicU64>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            response: Response::new(HeadLimits::default(), false),
            plan: None,
            stage: Stage::Idle,
            lent: Lent::Scratch,
            own: None,
            sink: None,
            codings: Vec::new(),
            inflow: None,
            lent_size: 0,
            ranges: Vec::new(),
            held: 0,
            first_in_own: 0,
            excess: false,
            progress: Arc::default(),
        }
    }
}

impl Receiver {
    /// Expects a response.
    pub fn begin(&mut self, plan: Plan) {
        self.clear();
        self.response.reset(plan.asked);
        self.response.set_limits(plan.limits.clone());
        self.plan = Some(plan);
        self.stage = Stage::Head;
    }

    fn clear(&mut self) {
        self.plan = None;
        self.own = None;
        self.sink = None;
        self.codings.clear();
        self.inflow = None;
        self.ranges.clear();
        self.ranges.shrink_to(KEPT_RANGES);
        self.held = 0;
        self.first_in_own = 0;
    }

    /// Counts the bytes received, on whichever thread.
    pub fn progress(&self) -> &Arc<AtomicU64> {
        &self.progress
    }

    /// The head, once it is complete.
    pub fn head(&self) -> Option<&Head> {
        self.response.head()
    }

    pub fn sink(&self) -> Option<&SharedSink> {
        self.sink.as_ref()
    }

    /// Where to receive next: never empty, without a side effect on what was received, called as often as one likes.
    /// `None` says: into the scratch.
    pub fn window(&mut self) -> Result<Option<Window>> {
        self.lent = Lent::Scratch;
        let window = self.own_window()?;
        self.lent_size = window.as_ref().map_or(0, Window::len);
        Ok(window)
    }

    /// Whether to read on: the last window came full, there will be another, and there is time. `first` says that it is the
    /// transport's own.
    pub fn reads_on(&self, scratch: &mut Scratch, n: usize, first: bool) -> bool {
        n == self.lent_size && self.stage == Stage::Body && scratch.has_time(Instant::now(), first)
    }

    fn own_window(&mut self) -> Result<Option<Window>> {
        // What is to be decoded is copied out of the scratch: that costs little beside the decoding.
        if self.stage != Stage::Body || self.inflow.is_some() {
            return Ok(None);
        }
        if let Some(window) = self.mapped_window() {
            self.lent = Lent::Mapped;
            return Ok(Some(window));
        }
        if self.own.as_ref().is_none_or(|own| own.spare_len() < LEAST_WINDOW) {
            let Some(sink) = &self.sink else { return Ok(None) };
            let (len, in_ram) = {
                let sink = sink.lock();
                (sink.len(), sink.is_ram())
            };
            let left = self.response.remaining();
            if self.own.is_none() && len.max(left.unwrap_or(0)) < LARGE as u64 {
                return Ok(None);
            }
            // What is given away as it comes is budgeted for a window at a time.
            let stays = in_ram && !self.plan.as_ref().is_some_and(|plan| plan.stream);
            let most = if stays && len >= HUGE {
                HUGE * 2
            } else if in_ram {
                WINDOW as u64
            } else {
                WINDOW as u64 * 2
            };
            let size = left.unwrap_or(most).min(most) as usize;
            self.own = Some(self.pay_for(Pools::current().slabs.take(size)?));
        }
        self.lent = Lent::Own;
        Ok(self.own.as_ref().map(|own| own.window(window_size())))
    }

    /// With works done here, a recycled file is received into. Why there is none to be had, the work that writes will tell:
    /// there it can be waited for.
    fn mapped_window(&self) -> Option<Window> {
        let direct = self.plan.as_ref().is_some_and(|plan| plan.direct && plan.files.is_some());
        self.sink.as_ref().filter(|_| direct)?.lock().mapped_window(WINDOW).unwrap_or_default()
    }

    /// Takes in what was received into a recycled file's mapping.
    fn mapped_received(&mut self, n: usize) -> Result<()> {
        let Some(sink) = &self.sink else { return Ok(()) };
        let fed = take_in_mapped(&mut sink.lock(), &mut self.response, &mut self.ranges, n)?;
        if fed.done {
            self.excess |= fed.consumed < n;
            self.complete()?;
        }
        Ok(())
    }

    /// A slab for the body counts whole against the budget, whatever of it is filled; without budget the body spills.
    fn pay_for(&mut self, writer: SlabWriter) -> SlabWriter {
        let size = writer.capacity() as u64;
        self.held += size;
        if let Some(sink) = &self.sink {
            let mut sink = sink.lock();
            self.first_in_own = sink.pieces();
            sink.prepay(size);
        }
        writer
    }

    /// Takes `n` bytes that were received into the window lent last.
    pub fn received(&mut self, scratch: &mut Scratch, n: usize) -> Result<Event> {
        self.progress.fetch_add(n as u64, Relaxed);
        let result = match self.lent {
            Lent::Scratch => self.scratch_received(scratch, n),
            Lent::Own => self.own_received(n),
            Lent::Mapped => self.mapped_received(n),
        };
        match result {
            Ok(()) => Ok(self.news().unwrap_or_else(|| self.next())),
            Err(error) => {
                self.stage = Stage::Failed;
                match error {
                    // A work has failed and is on its way back with the reason.
                    Error::SinkFailed => Ok(Event::Pause),
                    error => Err(error),
                }
            }
        }
    }

    /// What is told once.
    fn news(&mut self) -> Option<Event> {
        let plan = self.plan.as_mut().filter(|plan| plan.expect || plan.tell_head)?;
        if self.response.head().is_some() {
            return std::mem::take(&mut plan.tell_head).then_some(Event::Head);
        }
        let awaited = self.response.informational().iter().any(|(status, _)| *status == 100);
        (awaited && std::mem::take(&mut plan.expect)).then_some(Event::Continue)
    }

    fn scratch_received(&mut self, scratch: &mut Scratch, n: usize) -> Result<()> {
        let Some(mut writer) = scratch.writer.take() else { return Ok(()) };
        writer.advance(n);
        let kept = self.take_in(&mut writer);
        writer.truncate(0);
        if writer.is_untouched() {
            scratch.writer = Some(writer);
        } else {
            // Slices of it were kept, even if there is an error to tell: it isn't for others any more.
            self.own = Some(writer);
        }
        kept
    }

    fn own_received(&mut self, n: usize) -> Result<()> {
        let Some(mut writer) = self.own.take() else { return Ok(()) };
        writer.advance(n);
        let taken = self.take_in(&mut writer);
        // A complete body needs no more room.
        self.own = Some(writer).filter(|_| self.stage == Stage::Body);
        taken
    }

    /// Takes in what a slab has received. Slices of the slab may be kept.
    fn take_in(&mut self, writer: &mut SlabWriter) -> Result<()> {
        let input = writer.received();
        let mut start = 0;
        match self.stage {
            Stage::Head => match self.response.feed_head(input)? {
                HeadStep::More => {
                    writer.truncate(0);
                    return Ok(());
                }
                HeadStep::Done { consumed } => {
                    start = consumed;
                    self.open_sink()?;
                }
            },
            Stage::Body => {}
            Stage::Idle | Stage::Complete | Stage::Away | Stage::Failed => {
                self.excess |= !input.is_empty();
                writer.truncate(0);
                return Ok(());
            }
        }
        let len = input.len();
        let rest = input.get(start..).unwrap_or_default();
        let limit = self.plan.as_ref().map_or(u64::MAX, |plan| plan.tunables.max_body);
        self.ranges.clear();
        let ranges = &mut self.ranges;
        // What came before a fault in the framing is kept, too.
        let fed = self.response.feed_body(rest, |range| ranges.push(start + range.start..start + range.end));
        let fits = match (&self.inflow, &self.sink) {
            (Some(inflow), _) => fit(&mut self.ranges, inflow.lock().room(), limit),
            (None, Some(sink)) => fit(&mut self.ranges, sink.lock().room(), limit),
            (None, None) => Ok(()),
        };
        self.store(writer)?;
        fits?;
        let fed = fed?;
        if fed.done {
            self.excess |= start + fed.consumed < len;
            self.complete()?;
        }
        Ok(())
    }

    fn open_sink(&mut self) -> Result<()> {
        let Some(plan) = &self.plan else { return Err(Error::internal("a head without a plan")) };
        let (tunables, budget) = (plan.tunables.clone(), plan.budget.clone());
        let decode = if self.response.is_encoded() && !self.response.is_done() { plan.decode } else { When::Never };
        if decode != When::Never {
            self.codings = Coding::of(&self.response)?;
        }
        if decode == When::Arriving && !self.codings.is_empty() {
            let inflow = Inflow::new(&self.codings, Caps::from(&*tunables))?;
            let inflow = if plan.stream { inflow.ungathered() } else { inflow };
            self.inflow = Some(Arc::new(Mutex::new(inflow)));
        }
        let mut sink = match self.response.framing() {
            Some(Framing::Length(length)) => BodySink::with_length(tunables, budget, length)?,
            _ => BodySink::new(tunables, budget),
        };
        sink.use_files(plan.files.clone());
        if plan.stream {
            sink.stay_in_ram();
        }
        self.sink = Some(Arc::new(Mutex::new(sink)));
        self.stage = Stage::Body;
        Ok(())
    }

    /// Brings the ranges of what a slab has received into the sink.
    fn store(&mut self, writer: &mut SlabWriter) -> Result<()> {
        let Some(sink) = &self.sink else { return Ok(()) };
        let mut sink = sink.lock();
        if let Some(inflow) = &self.inflow {
            let input = writer.received();
            let mut inflow = inflow.lock();
            let pushed = inflow.push(self.ranges.iter().map(|range| input.get(range.clone()).unwrap_or_default()));
            writer.truncate(0);
            return pushed.and_then(|()| inflow.begin(&mut sink, self.response.remaining().unwrap_or(0)));
        }
        let total: usize = self.ranges.iter().map(Range::len).sum();
        let keep = match self.lent {
            Lent::Own | Lent::Mapped => total >= SMALL_PIECE,
            Lent::Scratch => total >= LARGE / 2 && !self.response.is_done(),
        };
        if keep && self.lent == Lent::Scratch {
            let size = writer.capacity() as u64;
            self.held += size;
            sink.prepay(size);
        }
        let input = writer.received();
        if !keep {
            let parts = self.ranges.iter().map(|range| input.get(range.clone()).unwrap_or_default());
            let pushed = sink.push_parts(parts);
            writer.truncate(0);
            return pushed;
        }
        let mut runs: Vec<Range<usize>> = Vec::with_capacity(self.ranges.len());
        for range in self.ranges.drain(..) {
            match runs.last_mut() {
                Some(last) if last.len() < SMALL_PIECE || range.len() < CLOSE_UP => {
                    let to = last.end;
                    last.end += range.len();
                    if to != range.start {
                        input.copy_within(range, to);
                    }
                }
                _ => runs.push(range),
            }
        }
        writer.truncate(runs.last().map_or(0, |last| last.end));
        let frozen = writer.freeze();
        runs.into_iter().try_for_each(|run| sink.push(frozen.slice(run)))
    }

    /// The body is complete: gives back what its slabs don't need.
    fn complete(&mut self) -> Result<()> {
        self.stage = Stage::Complete;
        self.own = None;
        let Some(sink) = &self.sink else { return Ok(()) };
        let mut sink = sink.lock();
        if let Some(inflow) = &self.inflow {
            let mut inflow = inflow.lock();
            inflow.end();
            return inflow.begin(&mut sink, 0);
        }
        // At most a quarter more than the body is retained.
        if sink.is_ram() && self.held > sink.len() + sink.len() / 4 {
            sink.compact(self.first_in_own)?;
            self.held = 0;
        }
        sink.settle(self.held);
        Ok(())
    }

    /// What is to be done now: to be asked again whenever a work has come back.
    pub fn next(&self) -> Event {
        if self.stage == Stage::Idle && self.excess {
            return Event::Close;
        }
        let complete = self.stage == Stage::Complete;
        let (Some(sink), true) = (&self.sink, complete || self.stage == Stage::Body) else { return Event::More };
        let sink = sink.lock();
        let inflow = self.inflow.as_ref().map(|inflow| inflow.lock());
        let drain = self.plan.as_ref().is_some_and(|plan| plan.drain) && !complete && !sink.is_ram();
        if self.plan.as_ref().is_some_and(|plan| plan.stream) && sink.has_pieces() {
            return Event::Data;
        }
        let busy = sink.is_busy() || inflow.as_ref().is_some_and(|inflow| inflow.is_busy());
        let crowded = sink.is_crowded() || inflow.as_ref().is_some_and(|inflow| inflow.is_crowded());
        match (busy, drain) {
            (true, _) if crowded => Event::Pause,
            (true, _) => Event::More,
            (false, true) => Event::Drain,
            (false, false) if inflow.as_ref().is_some_and(|inflow| inflow.has_work()) => Event::Work,
            (false, false) if sink.has_work(complete) => Event::Work,
            (false, false) if complete => Event::Done,
            (false, false) => Event::More,
        }
    }

    /// What came of a body that is streamed, in order.
    pub fn take_pieces(&self) -> Vec<Bytes> {
        self.sink.as_ref().map_or_else(Vec::new, |sink| sink.lock().take_pieces())
    }

    /// Whether so much waits to be decoded or written that no more should be received until a work has come back.
    pub fn is_crowded(&self) -> bool {
        self.inflow.as_ref().is_some_and(|inflow| inflow.lock().is_crowded())
            || self.sink.as_ref().is_some_and(|sink| sink.lock().is_crowded())
    }

    /// The next work.
    pub fn take_work(&self) -> Option<Work> {
        let sink = self.sink.as_ref()?;
        if let Some(decoding) = self.inflow.as_ref().and_then(|inflow| Decoding::new(inflow, sink)) {
            return Some(Work { computes: sink.lock().is_ram(), run: Box::new(|| decoding.run()) });
        }
        // What isn't decoded yet is still to come.
        let all =
            self.stage == Stage::Complete && self.inflow.as_ref().is_none_or(|inflow| inflow.lock().is_finished());
        let errand = Errand::new(sink, all)?;
        Some(Work { computes: false, run: Box::new(|| errand.run()) })
    }

    /// Whether the next work only writes, and no more than so many bytes.
    fn is_short_write(&self, most: u64) -> bool {
        let decodes = self.inflow.as_ref().is_some_and(|inflow| inflow.lock().has_work());
        !decodes && self.sink.as_ref().is_none_or(|sink| sink.lock().work_size() <= most)
    }

    /// Does what is to be done on this thread; with `most`, only as long as that is to write so many bytes at most, and
    /// what is more is still to be done. May wait for the disk. Without budget it can be tried again.
    pub fn work_here(&mut self, most: Option<u64>) -> Result<Event> {
        while most.is_none_or(|most| self.is_short_write(most))
            && let Some(work) = self.take_work()
        {
            (work.run)()?;
        }
        // The same memory again, while it is hot.
        if let Some(own) = &mut self.own {
            own.reset();
        }
        Ok(self.next())
    }

    /// Whether all of the response was received.
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// Gives away what a body is drained with. `None` if a work is out.
    pub fn hand_over(&mut self) -> Option<Away> {
        let sink = match Arc::try_unwrap(self.sink.take()?) {
            Ok(sink) => sink.into_inner(),
            Err(shared) => {
                self.sink = Some(shared);
                return None;
            }
        };
        let inflow = match self.inflow.take().map(Arc::try_unwrap) {
            None => None,
            Some(Ok(inflow)) => Some(inflow.into_inner()),
            Some(Err(shared)) => {
                self.sink = Some(Arc::new(Mutex::new(sink)));
                self.inflow = Some(shared);
                return None;
            }
        };
        self.stage = Stage::Away;
        self.own = None;
        let limits = self.plan.as_ref().map(|plan| plan.limits.clone()).unwrap_or_default();
        let fresh = Response::new(limits, false);
        Some(Away { response: std::mem::replace(&mut self.response, fresh), inflow, sink })
    }

    /// Receives the body here, whatever the plan says.
    pub fn forgo_drain(&mut self) {
        if let Some(plan) = &mut self.plan {
            plan.drain = false;
        }
    }

    /// The budget of the response that is being received.
    pub fn budget(&self) -> Option<&Arc<Budget>> {
        self.plan.as_ref().map(|plan| &plan.budget)
    }

    /// Takes back what was handed over. If its body isn't complete, it is received here from now on.
    pub fn take_back(&mut self, away: Away, excess: bool) {
        let Away { response, inflow, sink } = away;
        self.stage = if response.is_done() { Stage::Complete } else { Stage::Body };
        self.response = response;
        self.inflow = inflow.map(|inflow| Arc::new(Mutex::new(inflow)));
        self.sink = Some(Arc::new(Mutex::new(sink)));
        self.excess |= excess;
        self.forgo_drain();
    }

    /// The peer closed; `reset` says that it did so without regard to what was on its way, and may be known only after the
    /// end.
    pub fn eof(&mut self, reset: bool) -> Result<Event> {
        match self.stage {
            Stage::Head | Stage::Body => {
                let ended = if reset { self.response.reset_by_peer() } else { self.response.eof() };
                let ended = ended.and_then(|()| self.not_cut());
                ended.inspect_err(|_| self.stage = Stage::Failed)?;
                self.complete()?;
                Ok(self.next())
            }
            Stage::Complete if reset => {
                let ended = self.response.reset_by_peer();
                ended.inspect_err(|_| self.stage = Stage::Failed)?;
                Ok(self.next())
            }
            _ => Ok(self.next()),
        }
    }

    /// A body that only its connection's end ended has no coding to take off when it is empty: it was cut, most likely.
    fn not_cut(&self) -> Result<()> {
        match self.codings.last() {
            Some(coding) if self.response.received() == 0 => {
                Err(Error::CutCoding { coding: coding.name(), received: 0 })
            }
            _ => Ok(()),
        }
    }

    /// The complete response; the next one can begin.
    pub fn finish(&mut self) -> Result<Received> {
        let Some(sink) = self.sink.take().filter(|_| self.stage == Stage::Complete) else {
            return Err(Error::internal("the response is not complete"));
        };
        let body = sink.lock().prepare()?;
        let trailers = self.response.trailers().to_vec();
        let reusable = self.response.keep_alive() && !self.excess;
        let Some(head) = self.response.take_head() else { return Err(Error::internal("a response without a head")) };
        let mut codings = std::mem::take(&mut self.codings);
        if self.response.received() == 0 {
            codings.clear();
        }
        self.stage = Stage::Idle;
        // Nothing of it is kept until the next is asked for.
        self.response.reset(false);
        self.clear();
        Ok(Received { head, trailers, body, codings, reusable })
    }

    /// Whether bytes came that belong to no response: the connection can't be used again.
    pub fn has_excess(&self) -> bool {
        self.excess
    }

    /// Gives up the response; its sink is returned, for what can be salvaged.
    pub fn give_up(&mut self) -> Option<SharedSink> {
        self.stage = Stage::Failed;
        let sink = self.sink.take();
        self.clear();
        sink
    }
}

/// What a body is drained with: its framing, its decoders if it is coded, and where it goes.
pub struct Away {
    pub response: Response,
    pub inflow: Option<Inflow>,
    pub sink: BodySink,
}

/// Takes in `n` bytes that were received into a recycled file's mapping. `ranges` is room.
pub(crate) fn take_in_mapped(
    sink: &mut BodySink,
    response: &mut Response,
    ranges: &mut Vec<Range<usize>>,
    n: usize,
) -> Result<Body> {
    ranges.clear();
    let mut fed = Ok(Body { consumed: 0, done: false });
    sink.take_in(n, |input| {
        fed = response.feed_body(input, |range| ranges.push(range));
        close_up(input, ranges)
    })?;
    fed
}

/// Cuts off what of the ranges is over the limit of their body, which has room for `room` more bytes.
pub(crate) fn fit(ranges: &mut Vec<Range<usize>>, mut room: u64, limit: u64) -> Result<()> {
    for (i, range) in ranges.iter_mut().enumerate() {
        match room.checked_sub(range.len() as u64) {
            Some(left) => room = left,
            None => {
                // Less than the range's length, which is a usize.
                range.end = range.start + room as usize;
                ranges.truncate(if room > 0 { i + 1 } else { i });
                return Err(Error::BodyTooLong { seen: limit.saturating_add(1), limit });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that has received all of a response.
    fn complete(wire: &[u8]) -> Receiver {
        let mut receiver = Receiver::default();
        let mut scratch = Scratch::default();
        receiver.begin(Plan {
            asked: Asked::default(),
            limits: Arc::default(),
            tunables: Arc::default(),
            budget: Budget::new(None, None, None),
            files: None,
            direct: true,
            drain: false,
            expect: false,
            tell_head: false,
            stream: false,
            decode: When::Never,
        });
        scratch.window().unwrap();
        let writer = scratch.writer.as_mut().unwrap();
        writer.spare()[..wire.len()].copy_from_slice(wire);
        assert_eq!(receiver.received(&mut scratch, wire.len()).unwrap(), Event::Done);
        receiver
    }

    #[test]
    fn an_idle_connection_keeps_no_room_for_the_ranges_of_tiny_chunks() {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let wire = [&head[..], &b"1\r\nx\r\n".repeat(40_000), b"0\r\n\r\n"].concat();
        let mut receiver = complete(&wire);
        assert!(receiver.ranges.capacity() > 40_000);
        assert_eq!(receiver.finish().unwrap().body.len(), 40_000);
        assert!(receiver.ranges.capacity() <= 2 * KEPT_RANGES);
    }

    #[test]
    fn an_idle_connection_keeps_nothing_of_the_response_that_it_had() {
        let early = format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n", "x".repeat(30_000));
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let wire = format!("{early}{head}0\r\nx-sum: {}\r\n\r\n", "x".repeat(10_000));
        let mut receiver = complete(wire.as_bytes());
        assert_eq!(receiver.response.informational().len(), 1);
        let received = receiver.finish().unwrap();
        assert!(receiver.plan.is_none());
        assert!(received.reusable && received.trailers.len() == 1);
        assert!(receiver.response.informational().is_empty() && receiver.response.trailers().is_empty());
    }
}
