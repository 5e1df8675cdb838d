//! The class that a connection's protocol derives from: `get_buffer` and `buffer_updated` of
//! `asyncio.BufferedProtocol`, one call into the core each, and a call back into Python only when something is to be
//! decided there.

use crate::buffer;
use crate::errors::{Raise, to_py};
use crate::future::Future;
use crate::head::Head;
use crate::image::Image;
use crate::op::Op;
use crate::plan::{Here, Plan};
use crate::policy::Dispatch;
use crate::pool::DispatchPool;
use crate::promise::Promise;
use crate::running::What;
use crate::size;
use penstock_core::Result;
use penstock_core::body::{Lease, WINDOW};
use penstock_core::descriptor;
use penstock_core::drain::{Drainer, Job, Outcome, Ticket};
use penstock_core::error::Resource;
use penstock_core::http::{Asked, HeadLimits as CoreLimits};
use penstock_core::receive::{Event, Plan as Reception, Receiver as Core, Scratch as CoreScratch, Work};
use penstock_core::sync::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::Duration;

/// Bounds on what surrounds a body; a field that isn't given has its default.
#[pyclass(frozen, module = "penstock._native")]
pub struct HeadLimits(pub Arc<CoreLimits>);

#[pymethods]
impl HeadLimits {
    #[new]
    #[pyo3(signature = (
        *, head_bytes=None, headers=None, informational=None, blank_lines=None, chunk_size_digits=None,
        chunk_extension_bytes=None, trailer_bytes=None, trailers=None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        head_bytes: Option<&Bound<'_, PyAny>>,
        headers: Option<&Bound<'_, PyAny>>,
        informational: Option<&Bound<'_, PyAny>>,
        blank_lines: Option<&Bound<'_, PyAny>>,
        chunk_size_digits: Option<&Bound<'_, PyAny>>,
        chunk_extension_bytes: Option<&Bound<'_, PyAny>>,
        trailer_bytes: Option<&Bound<'_, PyAny>>,
        trailers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let usual = CoreLimits::default();
        let bytes = |name, value: Option<&Bound<'_, PyAny>>, usual: usize| match value {
            Some(value) => Ok::<_, PyErr>(usize::try_from(size::bytes(name, value)?)?),
            None => Ok(usual),
        };
        let number =
            |name, value: Option<&Bound<'_, PyAny>>, usual| value.map_or(Ok(usual), |value| size::number(name, value));
        Ok(Self(Arc::new(CoreLimits {
            head_bytes: bytes("Limits.head_bytes", head_bytes, usual.head_bytes)?,
            headers: number("Limits.headers", headers, usual.headers)?,
            informational: number("Limits.informational", informational, usual.informational)?,
            blank_lines: number("Limits.blank_lines", blank_lines, usual.blank_lines)?,
            chunk_size_digits: number("Limits.chunk_size_digits", chunk_size_digits, usual.chunk_size_digits)?,
            chunk_extension_bytes: bytes(
                "Limits.chunk_extension_bytes",
                chunk_extension_bytes,
                usual.chunk_extension_bytes,
            )?,
            trailer_bytes: bytes("Limits.trailer_bytes", trailer_bytes, usual.trailer_bytes)?,
            trailers: number("Limits.trailers", trailers, usual.trailers)?,
        })))
    }

    #[getter]
    fn head_bytes(&self) -> usize {
        self.0.head_bytes
    }

    #[getter]
    fn chunk_extension_bytes(&self) -> usize {
        self.0.chunk_extension_bytes
    }

    #[getter]
    fn trailer_bytes(&self) -> usize {
        self.0.trailer_bytes
    }
}

/// The window that the connections of a loop share, and the memoryview of it.
#[pyclass(frozen, module = "penstock._native")]
#[derive(Default)]
pub struct Scratch(Mutex<Shared>);

#[derive(Default)]
struct Shared {
    core: CoreScratch,
    view: Option<Py<PyAny>>,
}

#[pymethods]
impl Scratch {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Gives its memory back; a connection that still receives gets another.
    fn close(&self) {
        let shared = std::mem::take(&mut *self.0.lock());
        drop(shared);
    }
}

impl Scratch {
    /// What is made for Python may begin a collection, whose finalizers may come back here: it is made without the lock.
    fn view(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut shared = self.0.lock();
        let window = shared.core.window();
        let new = matches!(&window, Ok((_, true)));
        let before = if new { shared.view.take() } else { None };
        let known = shared.view.as_ref().map(|view| view.clone_ref(py));
        drop(shared);
        drop(before);
        let (window, _) = window.raise(py)?;
        let whole = window.len() == WINDOW;
        if let Some(known) = known.filter(|_| whole) {
            return Ok(known);
        }
        let view = buffer::lend(py, window)?;
        if whole {
            let before = self.0.lock().view.replace(view.clone_ref(py));
            drop(before);
        }
        Ok(view)
    }
}

/// Whether something lies unread in a socket: bytes, its end, or an error. Asks the kernel and doesn't wait.
#[pyfunction]
pub fn is_readable(fd: i32) -> bool {
    descriptor::is_readable(fd)
}

/// What works on a body that is received are called.
const WORK: &str = "Client.receive";

/// What a permit lets this thread write at once, in bytes: some windows. What is more, or isn't only to be written, would
/// keep a loop for longer than it takes to hand it over.
const SHORT_WRITE: u64 = 1 << 20;

#[pyclass(frozen, subclass, module = "penstock._native")]
pub struct Receiver {
    core: Mutex<Core>,
    scratch: Py<Scratch>,
    here: Mutex<Option<Here>>,
    ticket: Mutex<Option<Arc<Ticket>>>,
    /// What may be read beside the transport, or -1.
    socket: AtomicI32,
}

impl Receiver {
    /// Takes in what the transport received, and reads on.
    fn take_in(&self, py: Python<'_>, mut n: usize) -> Result<Event> {
        let socket = self.socket.load(Relaxed);
        let mut first = true;
        loop {
            let event = self.core.lock().received(&mut self.scratch.get().0.lock().core, n)?;
            let event = self.settle(py, event)?;
            let goes_on = socket >= 0 && event == Event::More;
            if !(goes_on && self.core.lock().reads_on(&mut self.scratch.get().0.lock().core, n, first)) {
                return Ok(event);
            }
            first = false;
            let Some(window) = self.core.lock().window()? else { return Ok(event) };
            match py.detach(|| descriptor::receive(socket, window)) {
                Ok(Some(count)) => n = count,
                Ok(None) => return Ok(event),
                // A socket tells of an error once, so the transport won't hear of it.
                Err(_) => return self.core.lock().eof(true),
            }
        }
    }

    /// Does work that may be done here.
    fn settle(&self, py: Python<'_>, event: Event) -> Result<Event> {
        if event == Event::Work { self.work_here(py) } else { Ok(event) }
    }

    /// Tells the Python side what is to be done.
    fn tell(slf: &Bound<'_, Self>, event: Result<Event>) -> PyResult<()> {
        let py = slf.py();
        let name = match event {
            Ok(Event::More) => return Ok(()),
            Ok(Event::Pause) => intern!(py, "_on_full"),
            Ok(Event::Work) => intern!(py, "_on_work"),
            Ok(Event::Drain) => intern!(py, "_on_drain"),
            Ok(Event::Done) => intern!(py, "_on_done"),
            Ok(Event::Continue) => intern!(py, "_on_continue"),
            Ok(Event::Head) => intern!(py, "_on_head"),
            Ok(Event::Data) => intern!(py, "_on_data"),
            Ok(Event::Close) => intern!(py, "close"),
            Err(error) => return slf.call_method1(intern!(py, "_on_failed"), (to_py(py, error),)).map(drop),
        };
        slf.call_method0(name).map(drop)
    }

    /// Does what is to be done, if it may be done here; else it is still to be done.
    fn work_here(&self, py: Python<'_>) -> Result<Event> {
        let Some(Here { figures, semaphore }) = self.here.lock().clone() else { return Ok(Event::Work) };
        let what = || What::Operation(WORK);
        let Some(semaphore) = semaphore else {
            let _running = figures.run(py, what);
            return py.detach(|| self.core.lock().work_here(None));
        };
        let Some(_permit) = semaphore.try_acquire(1)? else { return Ok(Event::Work) };
        let _running = figures.run_at_once(py, what);
        py.detach(|| self.core.lock().work_here(Some(SHORT_WRITE)))
    }

    /// What a hand-over needs, if it can be had: both descriptors or none, as bodies that each held one and waited for
    /// the other would wait for each other.
    fn prepare_drain(&self, fd: i32, pool: &DispatchPool) -> Option<(Arc<Drainer>, Lease, OwnedFd)> {
        let mut lease = {
            let core = self.core.lock();
            core.sink()?.lock().reserve_descriptor().ok()?;
            Lease::empty(core.budget()?, Resource::Files)
        };
        lease.grow(1).ok()?;
        Some((pool.drainer().ok()?, lease, descriptor::duplicate(fd).ok()?))
    }
}

#[pymethods]
impl Receiver {
    #[new]
    fn new(scratch: Py<Scratch>) -> Self {
        Self {
            core: Mutex::new(Core::default()),
            scratch,
            here: Mutex::default(),
            ticket: Mutex::default(),
            socket: AtomicI32::new(-1),
        }
    }

    /// Expects a response, with no body if only its `head` is asked for. `socket` is the descriptor of one that may be read
    /// beside its transport and handed over, or -1; `expect` tells of a `100 Continue`, `tell_head` of the complete head; a
    /// body that is `stream`ed is taken piece by piece. Gives the progress so far.
    fn begin(&self, plan: &Plan, head: bool, socket: i32, expect: bool, tell_head: bool, stream: bool) -> u64 {
        let usual = &plan.core;
        self.socket.store(socket, Relaxed);
        *self.here.lock() = plan.here.clone().filter(|_| !stream);
        let mut core = self.core.lock();
        core.begin(Reception {
            asked: Asked { head, ..usual.asked },
            direct: usual.direct && !stream,
            drain: usual.drain && socket >= 0 && !stream,
            expect,
            tell_head: tell_head || stream,
            stream,
            ..usual.clone()
        });
        core.progress().load(Relaxed)
    }

    fn get_buffer(&self, py: Python<'_>, sizehint: isize) -> PyResult<Py<PyAny>> {
        let _ = sizehint;
        let window = self.core.lock().window();
        match window.raise(py)? {
            Some(window) => buffer::lend(py, window),
            None => self.scratch.get().view(py),
        }
    }

    fn buffer_updated(slf: &Bound<'_, Self>, nbytes: usize) -> PyResult<()> {
        let event = slf.get().take_in(slf.py(), nbytes);
        Self::tell(slf, event)
    }

    /// The peer closed, or has `reset` the connection.
    fn feed_eof(slf: &Bound<'_, Self>, reset: bool) -> PyResult<()> {
        let event = slf.get().core.lock().eof(reset);
        Self::tell(slf, event.and_then(|event| slf.get().settle(slf.py(), event)))
    }

    /// To be called when an op has come back: tells what is to be done next.
    fn resume(slf: &Bound<'_, Self>) -> PyResult<()> {
        let event = slf.get().core.lock().next();
        Self::tell(slf, slf.get().settle(slf.py(), event))
    }

    /// The next work.
    fn work(&self) -> Option<Op> {
        let Work { computes, run } = self.core.lock().take_work()?;
        let op = Op::new(WORK, run, |py, ()| Ok(py.None()));
        Some(if computes { op.computing() } else { op })
    }

    /// The head of the response that is being received, once it is complete.
    fn head(&self) -> Option<Head> {
        self.core.lock().head().map(|head| Head::of(head.clone(), Vec::new()))
    }

    /// What came of a body that is streamed.
    fn take_pieces(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        let pieces = self.core.lock().take_pieces();
        pieces.into_iter().map(|piece| buffer::view(py, piece)).collect()
    }

    /// Whether so much is unwritten that no more should be received until a work has come back.
    #[getter]
    fn crowded(&self) -> bool {
        self.core.lock().is_crowded()
    }

    /// Head, body, the codings that were taken off it (or are still to be, if they are after it arrived), and whether
    /// the connection may be used again.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<(Head, Image, Bound<'py, PyTuple>, bool)> {
        let received = self.core.lock().finish();
        let received = received.raise(py)?;
        let codings = PyTuple::new(py, received.codings.iter().map(|coding| coding.name()))?;
        Ok((Head::of(received.head, received.trailers), Image::of(received.body), codings, received.reusable))
    }

    /// Gives the response up: an image of what came of its body, if it has begun, or an op that makes one of a body in
    /// a file.
    fn give_up(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let Some(sink) = self.core.lock().give_up() else { return Ok(None) };
        if sink.lock().is_ram() {
            let image = sink.lock().salvage();
            return Image::object(py, image).map(Some);
        }
        let op = Op::new("BodySink.salvage", move || Ok(sink.lock().salvage()), Image::object);
        Ok(Some(Py::new(py, op)?.into_any()))
    }

    /// Whether all of the response has come; it may still have to be written.
    #[getter]
    fn complete(&self) -> bool {
        self.core.lock().is_complete()
    }

    /// Whether bytes came that belong to no response.
    #[getter]
    fn excess(&self) -> bool {
        self.core.lock().has_excess()
    }

    /// Bytes received so far, by whichever thread.
    #[getter]
    fn progress(&self) -> u64 {
        self.core.lock().progress().load(Relaxed)
    }

    /// Hands the rest of the body and the socket to a draining worker of the policy's pool. The awaitable ends when the worker
    /// has let go of the socket. `None` if that can't be now; the body is then received here.
    fn drain(slf: &Bound<'_, Self>, fd: i32, policy: &Dispatch, patience: f64) -> PyResult<Option<Py<Future>>> {
        let (py, receiver) = (slf.py(), slf.get());
        let pool = policy.pool_or_default(py)?;
        let Some((worker, lease, socket)) = receiver.prepare_drain(fd, pool.get()) else {
            receiver.core.lock().forgo_drain();
            return Ok(None);
        };
        let Some(body) = receiver.core.lock().hand_over() else {
            receiver.core.lock().forgo_drain();
            return Ok(None);
        };
        let patience = Duration::try_from_secs_f64(patience).unwrap_or(Duration::MAX / 4);
        let (promise, future) = Promise::pair(py)?;
        let owner = slf.clone().unbind();
        let mut stay = policy.figures().wait();
        stay.run_detached();
        let report = move |outcome: Outcome| {
            drop(stay);
            promise.complete(Ok(Box::new(move |py: Python<'_>| {
                let Outcome { body, result } = outcome;
                let excess = matches!(&result, Ok(drained) if drained.excess);
                owner.get().core.lock().take_back(body, excess);
                owner.get().ticket.lock().take();
                result.map(|_| py.None()).raise(py)
            })));
        };
        let progress = receiver.core.lock().progress().clone();
        let report = Box::new(report);
        let job = Job { socket, body, lease, patience, progress, report, excess: false };
        match worker.submit(job) {
            Ok(ticket) => {
                let ticket = Arc::new(ticket);
                future.get().mailbox().cancel_at_end(&ticket);
                *receiver.ticket.lock() = Some(ticket);
                Ok(Some(future))
            }
            Err(refused) => {
                let (job, error) = *refused;
                (job.report)(Outcome { body: job.body, result: Err(error) });
                Ok(Some(future))
            }
        }
    }

    /// Has the draining worker let go, if one has the socket.
    fn cancel_drain(&self) {
        if let Some(ticket) = &*self.ticket.lock() {
            ticket.cancel();
        }
    }

    /// The status line and headers, once they are there.
    #[getter]
    fn status(&self) -> Option<u16> {
        self.core.lock().head().map(|head| head.status)
    }
}
