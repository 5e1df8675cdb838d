//! What penstock keeps for an event loop: a [`Mailbox`] of finished things and the reader callback that empties it on
//! the loop's thread.
//!
//! Ownership does the book-keeping. The loop's selector owns the reader callback, a [`Drain`]; the drain's drop closes
//! the mailbox and with it the descriptor. So the descriptor goes when the loop is closed or collected, whichever is
//! first, without a hook in the loop. Everybody else holds the mailbox, and the mailbox holds the loop weakly. What is on
//! its way to a loop leads back to it: that is the drain's, to be seen by collections.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use penstock_core::Result;
use penstock_core::dispatch::{Alarm, Completions, Signal};
use penstock_core::drain::Ticket;
use penstock_core::fork::Origin;
use penstock_core::permit::Grant;
use penstock_core::sync::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyWeakrefMethods, PyWeakrefReference};

use crate::buffer;
use crate::errors::Raise;
use crate::future::Future;
use crate::gil;
use crate::worker::Workers;

/// A drain runs the callbacks of so many completions, then lets the loop turn.
const DRAIN_MAX: usize = 128;

/// Makes the Python value of a native result, on the loop's thread.
pub type Convert = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// What is asked once more of a future, on its loop: an outcome, or `None` while there is none.
pub type Again = Box<dyn FnOnce(Python<'_>, &Py<Future>) -> Option<Finished> + Send>;

/// How a future ends.
pub enum Finished {
    Python(PyResult<Py<PyAny>>),
    Native(Result<Convert>),
    /// Permits that it waited for.
    Grant(Grant),
    Cancelled,
    /// Something to be done on the loop's thread, that may end it.
    Again(Again),
    /// It has ended; some of its callbacks have not run.
    Callbacks,
}

/// Something finished, on its way to its loop.
pub struct Completion {
    pub future: Py<Future>,
    pub finished: Finished,
}

pub struct Mailbox {
    completions: Completions<Completion>,
    /// A job was submitted since the last turn.
    submitted: AtomicBool,
    /// The pool that gives way to the loop until its next turn.
    behind: Mutex<Option<Arc<Workers>>>,
    /// Bodies that are drained for the loop, which nobody would cancel when it is gone.
    drains: Mutex<Vec<Weak<Ticket>>>,
    event_loop: Py<PyWeakrefReference>,
    hands_over: AtomicBool,
    /// In its children, what threads locked at the fork is locked for ever.
    origin: Origin,
}

/// What was posted, and a promise to tell the loop of it; kept by its drop at the latest.
#[must_use]
pub struct Posted {
    mailbox: Arc<Mailbox>,
    /// The loop has not been told.
    owed: bool,
}

impl Posted {
    /// Tells the loop on its own thread without a system call, if this is that thread: by a turn of the loop.
    pub fn tell_by_a_turn(mut self) {
        let mailbox = &self.mailbox;
        if !LAST.with_borrow(|last| last.as_ref().is_some_and(|last| Arc::ptr_eq(last, mailbox))) {
            return;
        }
        let turn = |py: Python<'_>| {
            let event_loop = running(py)?.filter(|event_loop| mailbox.serves(event_loop));
            let Some(event_loop) = event_loop else { return Ok(false) };
            let turn = Py::new(py, Turn(Arc::clone(mailbox)))?;
            event_loop.call_method1(intern!(py, "call_soon"), (turn,)).map(|_| true)
        };
        let owed = std::mem::take(&mut self.owed) && self.mailbox.completions.promise();
        if owed && !gil::quietly(turn) {
            self.mailbox.completions.signal();
        }
    }

    /// Tells it a little later, of all that is finished by then.
    pub fn tell_soon(mut self) {
        if std::mem::take(&mut self.owed) {
            self.mailbox.completions.raise_soon();
        }
    }

    /// Whether the pool that did it should give way: the loop is held up. It rouses the pool when it comes; a pool that
    /// has lost patience is not asked again until then.
    pub fn gives_way(&self, pool: &Arc<Workers>) -> bool {
        let mut behind = self.mailbox.behind.lock();
        let gives_way = behind.is_none() && self.mailbox.completions.is_late();
        if gives_way {
            *behind = Some(Arc::clone(pool));
        }
        gives_way
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        if self.owed {
            self.mailbox.completions.raise();
        }
    }
}

thread_local! {
    /// The mailbox of the loop that last ran on this thread.
    static LAST: RefCell<Option<Arc<Mailbox>>> = const { RefCell::new(None) };
}

/// What is needed of the standard library.
pub struct Names {
    get_running_loop: Py<PyAny>,
    pub cancelled_error: Py<PyAny>,
    pub invalid_state_error: Py<PyAny>,
    pub executor_future: Py<PyAny>,
    pub coroutine: Py<PyAny>,
    /// `WeakKeyDictionary[loop, MailboxHandle]`
    mailboxes: Py<PyAny>,
}

/// Looked up when the extension is imported: a fork during a lookup at first use would leave the child waiting for a
/// thread that it doesn't have.
pub fn names(py: Python<'_>) -> PyResult<&Names> {
    static NAMES: PyOnceLock<Names> = PyOnceLock::new();
    NAMES.get_or_try_init(py, || {
        let asyncio = py.import("asyncio")?;
        Ok(Names {
            get_running_loop: asyncio.getattr("_get_running_loop")?.unbind(),
            cancelled_error: asyncio.getattr("CancelledError")?.unbind(),
            invalid_state_error: asyncio.getattr("InvalidStateError")?.unbind(),
            executor_future: py.import("concurrent.futures")?.getattr("Future")?.unbind(),
            coroutine: py.import("types")?.getattr("CoroutineType")?.unbind(),
            mailboxes: py.import("weakref")?.getattr("WeakKeyDictionary")?.call0()?.unbind(),
        })
    })
}

/// The running loop of this thread, if there is one.
pub fn running(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let running = names(py)?.get_running_loop.bind(py).call0()?;
    Ok((!running.is_none()).then_some(running))
}

impl Mailbox {
    /// The running loop of this thread and its mailbox.
    pub fn current(py: Python<'_>) -> PyResult<(Bound<'_, PyAny>, Arc<Self>)> {
        let Some(event_loop) = running(py)? else {
            return Err(PyRuntimeError::new_err("no running event loop"));
        };
        let last = LAST.with_borrow(|last| last.as_ref().filter(|last| last.serves(&event_loop)).map(Arc::clone));
        if let Some(last) = last {
            return Ok((event_loop, last));
        }
        let mailbox = Self::of(py, &event_loop)?;
        let before = LAST.replace(Some(Arc::clone(&mailbox)));
        drop(before);
        Ok((event_loop, mailbox))
    }

    fn serves(&self, event_loop: &Bound<'_, PyAny>) -> bool {
        !self.is_closed() && self.event_loop.bind(event_loop.py()).upgrade().is_some_and(|mine| mine.is(event_loop))
    }

    fn of(py: Python<'_>, event_loop: &Bound<'_, PyAny>) -> PyResult<Arc<Self>> {
        let mailboxes = names(py)?.mailboxes.bind(py);
        let known = mailboxes.call_method1(intern!(py, "get"), (event_loop,))?;
        if let Ok(known) = known.cast::<MailboxHandle>() {
            let mailbox = &known.get().0;
            if mailbox.serves(event_loop) {
                return Ok(Arc::clone(mailbox));
            }
        }
        let (signal, alarm) = (Signal::new().raise(py)?, Alarm::new().raise(py)?);
        let descriptors = [Some(signal.as_fd()), alarm.descriptor()].map(|fd| fd.map(|fd| fd.as_raw_fd()));
        let mailbox = Arc::new(Self {
            completions: Completions::new(signal, alarm),
            submitted: AtomicBool::new(false),
            behind: Mutex::default(),
            drains: Mutex::default(),
            event_loop: PyWeakrefReference::new(event_loop)?.unbind(),
            hands_over: AtomicBool::new(event_loop.hasattr(intern!(py, "_baton"))?),
            origin: Origin::here(),
        });
        let drain = Py::new(py, Drain(Arc::clone(&mailbox)))?;
        // The loop keeps the context in which a reader is added: not that of the task which happens to be the first.
        gil::within(py, Some(&gil::empty_context(py)?), |_| {
            let add = |descriptor| event_loop.call_method1(intern!(py, "add_reader"), (descriptor, &drain)).map(drop);
            descriptors.into_iter().flatten().try_for_each(add)
        })?;
        mailboxes.set_item(event_loop, Py::new(py, MailboxHandle(Arc::clone(&mailbox)))?)?;
        Ok(mailbox)
    }

    /// Whether the loop is a parent process's: what threads lock that have no interpreter is left alone.
    pub fn is_inherited(&self) -> bool {
        self.origin.is_ancestor()
    }

    /// Whether the loop may go to another thread in the middle of a callback: then each needs a turn of its own.
    pub fn hands_over(&self) -> bool {
        self.hands_over.load(Relaxed)
    }

    /// From now on it may.
    pub fn hand_over(event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = event_loop.py();
        let known = names(py)?.mailboxes.bind(py).call_method1(intern!(py, "get"), (event_loop,))?;
        if let Ok(known) = known.cast::<MailboxHandle>() {
            known.get().0.hands_over.store(true, Relaxed);
        }
        Ok(())
    }

    /// To be called on the loop's thread with each job: whether others were submitted in the same turn.
    pub fn is_among_others(&self) -> bool {
        self.submitted.swap(true, Relaxed)
    }

    /// A turn of the loop is over. Lowers the flag of `is_among_others`.
    pub fn turned(&self) {
        self.submitted.store(false, Relaxed);
    }

    /// The pool that gives way need not any more.
    fn rouse(&self) {
        let behind = self.behind.lock().take();
        if let Some(pool) = behind {
            pool.queue().rouse();
        }
    }

    /// Cancels what the ticket is for when the loop goes, for as long as the ticket is kept. On the loop's thread.
    pub fn cancel_at_end(&self, ticket: &Arc<Ticket>) {
        let mut drains = self.drains.lock();
        drains.retain(|drain| drain.strong_count() > 0);
        drains.push(Arc::downgrade(ticket));
    }

    /// Settles what is finished, on the loop's thread.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        self.turned();
        let completions = &self.completions;
        let mut batch = VecDeque::new();
        if completions.take(DRAIN_MAX, &mut batch) {
            completions.raise();
        }
        self.rouse();
        while let Some(Completion { future, finished }) = batch.pop_front() {
            if let Err(interrupt) = Future::settle(&future, py, finished) {
                batch.push_front(Completion { future, finished: Finished::Callbacks });
                if completions.put_back(batch) {
                    completions.raise();
                }
                return Err(interrupt);
            }
        }
        Ok(())
    }

    /// Whether the loop is gone.
    pub fn is_closed(&self) -> bool {
        self.completions.is_closed()
    }

    /// Whether the loop stands still at the moment: it was stopped, and neither closed nor run again. From any thread.
    pub fn has_stopped(&self) -> bool {
        gil::quietly(|py| {
            let Some(event_loop) = self.event_loop.bind(py).upgrade() else { return Ok(false) };
            Ok(!event_loop.call_method0(intern!(py, "is_running"))?.is_truthy()?)
        })
    }

    /// Sends a completion, from any thread, attached or not. To a loop that is gone it is dropped.
    pub fn post(self: Arc<Self>, completion: Completion) -> Option<Posted> {
        let owed = self.completions.push(completion).ok()?;
        Some(Posted { mailbox: self, owed })
    }
}

/// The mailbox as a dictionary's value.
#[pyclass(frozen)]
struct MailboxHandle(Arc<Mailbox>);

/// A drain that was asked for by the loop's own thread.
#[pyclass(frozen)]
struct Turn(Arc<Mailbox>);

#[pymethods]
impl Turn {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        self.0.drain(py)
    }
}

/// The loop's reader callback. Its drop closes the mailbox: see the head of this file.
#[pyclass(frozen)]
struct Drain(Arc<Mailbox>);

#[pymethods]
impl Drain {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        buffer::give_back(py);
        self.0.completions.lower();
        self.0.drain(py)
    }

    /// Nothing is taken from the list during a collection, and what threads without the interpreter put into it in one of
    /// its passes is in use for the others. So all of them see what the first has seen: this one waits for the lock.
    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        if self.0.is_inherited() {
            return Ok(());
        }
        self.0.completions.each(|Completion { future, finished }| {
            visit.call(future)?;
            match finished {
                Finished::Python(Ok(value)) => visit.call(value),
                _ => Ok(()),
            }
        })
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if self.0.is_inherited() {
            return;
        }
        drop(self.0.completions.close());
        self.0.rouse();
        let drains = std::mem::take(&mut *self.0.drains.lock());
        drains.iter().filter_map(Weak::upgrade).for_each(|ticket| ticket.cancel());
    }
}

/// Tells the loop's exception handler. Fails only with an interrupt that the handler raised.
pub fn report(
    py: Python<'_>,
    event_loop: &Bound<'_, PyAny>,
    message: String,
    error: PyErr,
    future: Option<&Py<Future>>,
) -> PyResult<()> {
    let context = PyDict::new(py);
    context.set_item(intern!(py, "message"), message)?;
    context.set_item(intern!(py, "exception"), error.value(py))?;
    if let Some(future) = future {
        context.set_item(intern!(py, "future"), future)?;
    }
    match event_loop.call_method1(intern!(py, "call_exception_handler"), (context,)) {
        Ok(_) => Ok(()),
        Err(error) if gil::is_interrupt(py, &error) => Err(error),
        Err(error) => {
            error.write_unraisable(py, Some(event_loop));
            Ok(())
        }
    }
}
