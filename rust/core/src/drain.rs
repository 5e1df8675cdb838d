//! Drains large bodies from sockets to files on a thread of its own. What is handed over is the socket, not its data:
//! the worker receives into one hot buffer, takes framing and codings off, digests and writes, and reports once, when the
//! body ends, fails, is cancelled or passes a limit. The loop that owns the socket doesn't read it meanwhile.
//!
//! Each worker has its own [`Poller`]. Handing over registers the socket there, edge-triggered, which also wakes the worker
//! if anything can be read. Who waits for whom: the worker for its poller only; a submitter for the inbox's lock, which
//! nobody holds over a system call that can wait. A job is in the inbox, or with the worker, or reported: never lost,
//! because the inbox is looked at after every wake-up and its socket is registered only after it is in there.
//!
//! Nothing is read that belongs to somebody else: of a body with a length exactly that is received; what lies behind
//! the end of any other is reported as `excess`, and that connection can't be used again. The worker holds a duplicate
//! of the descriptor, so that its number isn't given to another socket while it reads.

mod poller;

use crate::body::{Lease, WINDOW};
use crate::codec::{Inflow, Through};
use crate::fork::Origin;
use crate::http::Response;
use crate::receive::{Away, fit, take_in_mapped};
use crate::sync::Mutex;
use crate::{Error, Result};
use poller::{Event, Events, Poller};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often a body that waits for the budget tries again.
const RETRY: Duration = Duration::from_millis(20);

/// For so long a body is received before others are looked after.
const TURN: Duration = Duration::from_millis(2);

/// A body to be drained. `socket` must be non-blocking and read by nobody else.
pub struct Job {
    pub socket: OwnedFd,
    /// Its head is complete and its body isn't.
    pub body: Away,
    /// Of the duplicate of the descriptor, which counts against the budget.
    pub lease: Lease,
    /// How long to wait, without reading, when there is no budget for the file.
    pub patience: Duration,
    /// Counts the bytes received, and one for each time that the budget held it up: whoever watches a deadline sees
    /// whether it changes.
    pub progress: Arc<AtomicU64>,
    /// Called once, on the worker's thread.
    pub report: Box<dyn FnOnce(Outcome) + Send>,
    /// Bytes behind the body were received.
    pub excess: bool,
}

/// What became of a job. On success the sink has all of the body.
pub struct Outcome {
    pub body: Away,
    pub result: Result<Drained>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Bytes behind the body were received: they belong to nobody, and the connection must be closed.
    pub excess: bool,
}

#[derive(Default)]
struct Inbox {
    jobs: HashMap<u64, Job>,
    cancelled: Vec<u64>,
    stop: bool,
}

struct Shared {
    poller: Poller,
    inbox: Mutex<Inbox>,
    /// The next token.
    next: AtomicU64,
    active: AtomicUsize,
    /// Something is in the inbox that shouldn't wait for bodies.
    urgent: AtomicBool,
}

impl Shared {
    fn signal(&self) {
        self.urgent.store(true, Relaxed);
        self.poller.wake();
    }
}

/// One draining thread. Dropping it cancels what it has and joins it.
pub struct Drainer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The right to cancel a job.
pub struct Ticket {
    shared: Arc<Shared>,
    token: u64,
    origin: Origin,
}

impl Ticket {
    /// Has the job end with [`Error::Cancelled`] as soon as its worker is free, unless it has ended already. Doesn't
    /// wait. Does nothing in a forked child, whose parent drains.
    pub fn cancel(&self) {
        if self.origin.is_ancestor() {
            return;
        }
        self.shared.inbox.lock().cancelled.push(self.token);
        self.shared.signal();
    }
}

impl Drainer {
    pub fn start(name: String) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            poller: Poller::new()?,
            inbox: Mutex::default(),
            next: AtomicU64::new(1),
            active: AtomicUsize::new(0),
            urgent: AtomicBool::new(false),
        });
        let worker =
            Worker { shared: shared.clone(), jobs: HashMap::new(), ready: VecDeque::new(), blocked: Vec::new() };
        let thread = thread::Builder::new().name(name).spawn(move || worker.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// How many bodies it has in hand.
    pub fn active(&self) -> usize {
        self.shared.active.load(Relaxed)
    }

    /// Hands a job over; its report will come. Gives the job back if it can't be taken.
    pub fn submit(&self, job: Job) -> std::result::Result<Ticket, Box<(Job, Error)>> {
        let shared = &self.shared;
        let token = shared.next.fetch_add(1, Relaxed);
        // The worker looks for the job under this lock, so it finds it however soon the socket wakes it.
        let mut inbox = shared.inbox.lock();
        if inbox.stop {
            return Err(Box::new((job, Error::PoolClosed)));
        }
        if let Err(source) = shared.poller.add(&job.socket, token) {
            return Err(Box::new((job, Error::Io { doing: "watch a socket", source })));
        }
        inbox.jobs.insert(token, job);
        shared.active.fetch_add(1, Relaxed);
        Ok(Ticket { shared: shared.clone(), token, origin: Origin::here() })
    }
}

impl Drop for Drainer {
    fn drop(&mut self) {
        self.shared.inbox.lock().stop = true;
        self.shared.signal();
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id()) {
            // A panic there was caught job by job; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

struct Active {
    job: Job,
    /// In `ready`.
    queued: bool,
    /// The peer has closed or failed: no further edge will come, so read until that shows.
    ending: bool,
    /// The peer has sent urgent data, before which a read ends, whatever lies behind.
    urgent: bool,
    /// Waiting for the budget until then.
    until: Option<Instant>,
}

struct Worker {
    shared: Arc<Shared>,
    jobs: HashMap<u64, Active>,
    ready: VecDeque<u64>,
    /// Those that wait for the budget.
    blocked: Vec<u64>,
}

enum Step {
    /// More can be read at once.
    Again,
    /// There was room for more than came.
    Short,
    /// Wait for the next edge.
    Wait,
    End(Drained),
}

impl Worker {
    fn run(mut self) {
        let mut buffers = Buffers { received: vec![0; WINDOW], decoded: Vec::new(), ranges: Vec::new() };
        let mut events = Events::new();
        loop {
            let limit = match (self.ready.is_empty(), self.blocked.is_empty()) {
                (false, _) => Some(Duration::ZERO),
                (true, false) => Some(RETRY),
                (true, true) => None,
            };
            let woken = match self.shared.poller.wait(&mut events, limit) {
                Ok(woken) => woken,
                Err(error) => {
                    self.shared.inbox.lock().stop = true;
                    return self.finish_all(|| Error::internal(&format!("waiting for sockets: {error}")));
                }
            };
            events.iter().for_each(|event| self.enqueue(event));
            if woken && self.mail() {
                return;
            }
            self.ready.extend(self.blocked.drain(..));
            for _ in 0..self.ready.len() {
                if self.shared.urgent.load(Relaxed) {
                    break;
                }
                let Some(token) = self.ready.pop_front() else { break };
                self.turn(token, &mut buffers);
            }
        }
    }

    fn enqueue(&mut self, Event { token, ending, urgent }: Event) {
        if !self.jobs.contains_key(&token) {
            let Some(job) = self.shared.inbox.lock().jobs.remove(&token) else { return };
            self.jobs.insert(token, Active { job, queued: false, ending: false, urgent: false, until: None });
        }
        if let Some(active) = self.jobs.get_mut(&token) {
            active.ending |= ending;
            active.urgent |= urgent;
            if !std::mem::replace(&mut active.queued, true) {
                self.ready.push_back(token);
            }
        }
    }

    /// Looks after cancellations; true if the thread is to end.
    fn mail(&mut self) -> bool {
        self.shared.urgent.store(false, Relaxed);
        let (cancelled, stop) = {
            let mut inbox = self.shared.inbox.lock();
            (std::mem::take(&mut inbox.cancelled), inbox.stop)
        };
        if stop {
            self.finish_all(|| Error::PoolClosed);
        }
        for token in cancelled {
            self.finish(token, Err(Error::Cancelled));
        }
        stop
    }

    /// Receives a body for a while: what is taken from one socket after the other, and not from all by turns, is hot when it is
    /// moved.
    fn turn(&mut self, token: u64, buffers: &mut Buffers) {
        let began = Instant::now();
        loop {
            let more = self.step(token, buffers);
            // Where the loop shares this processor, it would wait for the rest of this thread's time slice, which is
            // milliseconds; here it gets its turn after a window. With nobody waiting this costs next to nothing.
            thread::yield_now();
            if !more {
                return;
            }
            if began.elapsed() >= TURN || self.shared.urgent.load(Relaxed) {
                self.ready.push_back(token);
                return;
            }
        }
    }

    /// Receives once; true if more can be received at once.
    fn step(&mut self, token: u64, buffers: &mut Buffers) -> bool {
        let Some(active) = self.jobs.get_mut(&token) else { return false };
        let waiting = active.until.is_some();
        let mut more = false;
        match Error::caught(|| active.job.step(buffers, waiting)).and_then(|step| step) {
            Ok(Step::Again) => more = true,
            Ok(Step::Short) if active.urgent => more = true,
            Ok(Step::Short | Step::Wait) if active.ending => self.ready.push_back(token),
            Ok(Step::Short | Step::Wait) => active.queued = false,
            Ok(Step::End(drained)) => {
                self.finish(token, Ok(drained));
                return false;
            }
            // What others give back may be enough: it waits.
            Err(error @ Error::BudgetExceeded { hopeless, .. }) => {
                active.job.progress.fetch_add(1, Relaxed);
                let until = *active.until.get_or_insert_with(|| Instant::now() + active.job.patience);
                if hopeless || Instant::now() >= until {
                    self.finish(token, Err(error));
                } else {
                    self.blocked.push(token);
                }
                return false;
            }
            Err(error) => {
                self.finish(token, Err(error));
                return false;
            }
        }
        active.until = None;
        more
    }

    fn finish(&mut self, token: u64, result: Result<Drained>) {
        let known = self.jobs.remove(&token).map(|active| active.job);
        let Some(job) = known.or_else(|| self.shared.inbox.lock().jobs.remove(&token)) else { return };
        let Job { socket, body, report, lease, .. } = job;
        self.shared.poller.delete(&socket);
        // Before the report: whoever hears of it may close the connection, and then it is to be closed.
        drop((socket, lease));
        self.shared.active.fetch_sub(1, Relaxed);
        // A report that panics must not take the other bodies with it.
        let _ = Error::caught(|| report(Outcome { body, result }));
    }

    /// Ends all jobs, also those in the inbox. No other comes: it is to be stopped before.
    fn finish_all(&mut self, error: impl Fn() -> Error) {
        let mut tokens: Vec<u64> = self.jobs.keys().copied().collect();
        tokens.extend(self.shared.inbox.lock().jobs.keys());
        tokens.into_iter().for_each(|token| self.finish(token, Err(error())));
    }
}

impl Job {
    fn step(&mut self, buffers: &mut Buffers, waiting: bool) -> Result<Step> {
        if waiting {
            self.body.sink.run_work(true)?;
            if self.is_over() {
                return self.over();
            }
        }
        // One turn's worth at a time, so that no body holds up the others.
        if self.has_backlog() {
            self.decode(buffers)?;
            return if self.is_over() { self.over() } else { Ok(Step::Again) };
        }
        self.receive(buffers)
    }

    fn receive(&mut self, buffers: &mut Buffers) -> Result<Step> {
        let Away { response, sink, inflow } = &mut self.body;
        let left = response.remaining().map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let most = left.min(buffers.received.len());
        let mapping = if inflow.is_none() { sink.mapped_spare(most)? } else { None };
        let (mapped, window) = match mapping {
            Some(window) => (true, window),
            None => (false, buffers.received.get_mut(..most).unwrap_or_default()),
        };
        let room = window.len();
        match recv(&self.socket, window, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => self.ended(Response::eof),
            Ok((_, n)) => {
                self.progress.fetch_add(n as u64, Relaxed);
                if mapped {
                    self.take_in(n, buffers)?
                } else {
                    self.store(n, buffers)?
                }
                if self.is_over() {
                    return self.over();
                }
                // What is left to be decoded doesn't wait for an edge.
                Ok(if n == room || self.has_backlog() { Step::Again } else { Step::Short })
            }
            Err(Errno::AGAIN) => Ok(Step::Wait),
            Err(Errno::INTR) => Ok(Step::Again),
            // Whatever has become of the connection: reset, timed out, no route any more.
            Err(_) => self.ended(Response::reset_by_peer),
        }
    }

    /// Whether something that came is still to be decoded.
    fn has_backlog(&self) -> bool {
        self.body.inflow.as_ref().is_some_and(Inflow::has_backlog)
    }

    /// Whether all of the body is received and decoded.
    fn is_over(&self) -> bool {
        self.body.response.is_done() && self.body.inflow.as_ref().is_none_or(Inflow::is_finished)
    }

    /// Nothing more will come: what is still unwritten may have come before the body was handed over, and waits for the
    /// budget as anything else does.
    fn over(&mut self) -> Result<Step> {
        self.body.sink.run_work(true)?;
        Ok(Step::End(Drained { excess: self.excess }))
    }

    /// The connection has ended; `tell` the response.
    fn ended(&mut self, tell: fn(&mut Response) -> Result<()>) -> Result<Step> {
        tell(&mut self.body.response)?;
        let Some(inflow) = &mut self.body.inflow else { return self.over() };
        inflow.end();
        Ok(Step::Again)
    }

    /// Takes in what was received into the file's own mapping.
    fn take_in(&mut self, n: usize, buffers: &mut Buffers) -> Result<()> {
        let Away { response, sink, .. } = &mut self.body;
        let fed = take_in_mapped(sink, response, &mut buffers.ranges, n)?;
        self.excess = fed.done && fed.consumed < n;
        Ok(())
    }

    /// Writes or decodes what was received into the worker's buffer.
    fn store(&mut self, n: usize, buffers: &mut Buffers) -> Result<()> {
        let input = buffers.received.get(..n).unwrap_or_default();
        let ranges = &mut buffers.ranges;
        ranges.clear();
        let Away { response, inflow, sink } = &mut self.body;
        let fed = response.feed_body(input, |range| ranges.push(range));
        let limit = sink.len() + sink.room();
        let fits = fit(ranges, inflow.as_ref().map_or(sink.room(), Inflow::room), limit);
        self.excess = matches!(&fed, Ok(fed) if fed.done && fed.consumed < n);
        // What was received before a fault in the framing is kept.
        let parts = ranges.iter().filter_map(|range| input.get(range.clone()));
        let stored = if let Some(inflow) = inflow {
            let pushed = inflow.push(parts);
            if response.is_done() {
                inflow.end();
            }
            pushed.and_then(|()| self.decode(buffers))
        } else {
            let mut slices: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
            if slices.is_empty() { Ok(()) } else { sink.write_through(&mut slices) }
        };
        // Before a want of budget, after which it would be tried again.
        fits?;
        fed?;
        stored
    }

    fn decode(&mut self, buffers: &mut Buffers) -> Result<()> {
        let Some(inflow) = &mut self.body.inflow else { return Ok(()) };
        buffers.decoded.resize(WINDOW, 0);
        inflow.run(&mut Through { sink: &mut self.body.sink, buffer: &mut buffers.decoded })
    }
}

/// What a worker has for all of its bodies, one at a time.
struct Buffers {
    received: Vec<u8>,
    /// Made when the first coded body comes.
    decoded: Vec<u8>,
    ranges: Vec<Range<usize>>,
}
