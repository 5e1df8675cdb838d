//! The class `Semaphore`: permits for tasks of any number of loops and for threads. The queue is the core's; here is how
//! a task waits in it.
//!
//! A permit is taken when `acquire()` is awaited, not when it is called. A free one is taken without suspending, and
//! `async with` then makes no object at all: `__aenter__` gives one shared awaitable, `__aexit__` another.
//!
//! A permit on its way to a task is a [`Grant`] that lies in three places in turn: in the completion (dropped if the loop
//! is gone or the waiting was cancelled), in the future that the task waits for (dropped if the task is cancelled before
//! its next step), and with the task. Each drop gives it to the next waiter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_core::permit::{self, Grant};
use penstock_core::sync::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning, PyTimeoutError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTraceback, PyTuple};

use crate::errors::{self, Raise};
use crate::future::{self, Future, Source};
use crate::gil::{self, SIGNAL_INTERVAL};
use crate::loops::{self, Completion, Finished};
use crate::size;

/// So many permits, first come, first served, for tasks of any loop and for threads. `async with` takes one;
/// `with semaphore.sync():` does in a thread.
#[pyclass(frozen, weakref, module = "penstock._native")]
pub struct Semaphore {
    core: permit::Semaphore,
    enter: Py<Enter>,
    over: Py<PyAny>,
}

impl Semaphore {
    pub fn core(&self) -> &permit::Semaphore {
        &self.core
    }
}

/// How many permits at once.
fn wanted(n: &Bound<'_, PyAny>) -> PyResult<usize> {
    size::number("n", n)
}

#[pymethods]
impl Semaphore {
    #[new]
    #[pyo3(signature = (permits, /))]
    fn new(py: Python<'_>, permits: &Bound<'_, PyAny>) -> PyResult<Self> {
        let permits = usize::try_from(size::up_to(permit::MOST as u64, "permits", permits)?)?;
        if permits == 0 {
            return Err(PyValueError::new_err("permits=0: at least 1 is needed"));
        }
        let core = permit::Semaphore::new(permits);
        let ended = PyTuple::empty(py).try_iter()?;
        // Its first step changes it; the others don't, on whichever thread.
        ended.clone().for_each(drop);
        let enter = Py::new(py, Enter { core: core.clone(), ended: ended.into_any().unbind() })?;
        Ok(Self { core, enter, over: over(py)? })
    }

    /// Takes `n` permits when awaited; waits its turn. Cancelled while it waits, it leaves the queue, and what was
    /// handed over goes to the next. SemaphoreClosed if the semaphore is closed, before or meanwhile.
    #[pyo3(signature = (n = 1))]
    fn acquire(&self, #[pyo3(from_py_with = wanted)] n: usize) -> Acquire {
        Acquire(Taking::new(&self.core, n))
    }

    /// Takes `n` permits if they are free and nobody waits.
    #[pyo3(signature = (n = 1))]
    fn try_acquire(&self, py: Python<'_>, #[pyo3(from_py_with = wanted)] n: usize) -> PyResult<bool> {
        self.core.take(n).raise(py)
    }

    /// Gives `n` permits back that were acquired; from any thread. PermitError for more than are held.
    #[pyo3(signature = (n = 1))]
    fn release(&self, py: Python<'_>, #[pyo3(from_py_with = wanted)] n: usize) -> PyResult<()> {
        self.core.release(n).raise(py)
    }

    fn __aenter__(&self, py: Python<'_>) -> Py<Enter> {
        self.enter.clone_ref(py)
    }

    fn __aexit__(
        &self,
        py: Python<'_>,
        _exc_type: &Bound<'_, PyAny>,
        _exc: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        self.core.release(1).raise(py)?;
        Ok(self.over.clone_ref(py))
    }

    /// For threads: `with semaphore.sync(): ...`
    #[pyo3(signature = (timeout = None))]
    fn sync(&self, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Sync> {
        let timeout = timeout.map(|timeout| size::seconds("timeout", timeout)).transpose()?;
        Ok(Sync { core: self.core.clone(), timeout })
    }

    /// Fails those that wait, and who comes later, with SemaphoreClosed. Permits that are held stay valid.
    fn close(&self) {
        self.core.close();
    }

    #[getter]
    fn closed(&self) -> bool {
        self.core.is_closed()
    }

    #[getter]
    fn permits(&self) -> usize {
        self.core.total()
    }

    #[getter]
    fn free(&self) -> usize {
        self.core.free()
    }

    #[getter]
    fn waiting(&self) -> usize {
        self.core.waiting()
    }

    /// `permits`, of them `free`, and `waiting` now; since the start `waits` and `hand_overs`.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let figures = self.core.figures();
        let stats = PyDict::new(py);
        stats.set_item("permits", self.core.total())?;
        stats.set_item("free", figures.free)?;
        stats.set_item("waiting", figures.waiting)?;
        stats.set_item("waits", figures.waits)?;
        stats.set_item("hand_overs", figures.hand_overs)?;
        Ok(stats)
    }

    fn __repr__(&self) -> String {
        let closed = if self.core.is_closed() { " closed" } else { "" };
        let (free, total, waiting) = (self.core.free(), self.core.total(), self.core.waiting());
        format!("<penstock.Semaphore {free} of {total} free, {waiting} waiting{closed}>")
    }
}

/// Awaiting it gives None at once, without a call into this library.
pub fn over(py: Python<'_>) -> PyResult<Py<PyAny>> {
    static OVER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(OVER.import(py, "penstock.blocking._over", "OVER")?.clone().unbind())
}

/// What `async with` awaits: it has no state, so one is enough for all.
#[pyclass(frozen)]
struct Enter {
    core: permit::Semaphore,
    /// An iterator that has ended; the standard library's own is stepped without a call into this library.
    ended: Py<PyAny>,
}

#[pymethods]
impl Enter {
    /// A future in the queue is awaited itself: when it is done, the task has the permit.
    fn __await__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.core.take_at_once(1).raise(py)? {
            return Ok(self.ended.clone_ref(py));
        }
        match enqueue(py, &self.core, 1)? {
            Place::Queued(future) => Ok(future.into_any()),
            Place::Granted(grant) => {
                grant.forget();
                Ok(self.ended.clone_ref(py))
            }
        }
    }
}

enum Place {
    Granted(Grant),
    /// Its outcome will be the permits.
    Queued(Py<Future>),
}

/// Queues a future of the running loop for `n` permits, unless they are free.
fn enqueue(py: Python<'_>, core: &permit::Semaphore, n: usize) -> PyResult<Place> {
    let future = Future::pending(py, Source::Promise)?;
    match queue(core, n, future.clone_ref(py)).raise(py)? {
        permit::Acquire::Granted(grant) => Ok(Place::Granted(grant)),
        permit::Acquire::Queued(ticket) => {
            future.get().wait_with(ticket);
            Ok(Place::Queued(future))
        }
    }
}

fn queue(core: &permit::Semaphore, n: usize, future: Py<Future>) -> penstock_core::Result<permit::Acquire> {
    let again = core.clone();
    core.acquire(n, move |grant| deliver(&again, n, future, grant))
}

/// Sends a grant to the future's loop. It gets to the future if the loop still runs and nobody has cancelled. A loop that
/// has stopped can't say when it will use a permit: it goes on to the next waiter, and this one asks again if its loop
/// ever runs again.
fn deliver(core: &permit::Semaphore, n: usize, future: Py<Future>, grant: penstock_core::Result<Grant>) {
    let mailbox = Arc::clone(future.get().mailbox());
    let finished = match grant {
        Ok(grant) if mailbox.has_stopped() => {
            drop(grant);
            let core = core.clone();
            Finished::Again(Box::new(move |py, future| ask_again(py, &core, n, future)))
        }
        Ok(grant) => Finished::Grant(grant),
        Err(error) => Finished::Native(Err(error)),
    };
    if let Some(posted) = mailbox.post(Completion { future, finished }) {
        posted.tell_by_a_turn();
    }
}

/// On the loop's thread.
fn ask_again(py: Python<'_>, core: &permit::Semaphore, n: usize, future: &Py<Future>) -> Option<Finished> {
    match queue(core, n, future.clone_ref(py)) {
        Ok(permit::Acquire::Granted(grant)) => Some(Finished::Grant(grant)),
        Ok(permit::Acquire::Queued(ticket)) => {
            future.get().wait_with(ticket);
            None
        }
        Err(error) => Some(Finished::Native(Err(error))),
    }
}

enum Stage {
    /// Nobody has awaited it.
    New,
    /// A task waits for the future, and finds the grant in it when it is done.
    Waiting(Py<Future>),
    Over,
}

/// How a task comes to its permits, step by step.
pub struct Taking {
    core: permit::Semaphore,
    n: usize,
    stage: Mutex<Stage>,
}

pub enum Step {
    Wait(Py<Future>),
    Taken(Grant),
    /// It was over before this step.
    Spent,
}

impl Taking {
    pub fn new(core: &permit::Semaphore, n: usize) -> Self {
        Self { core: core.clone(), n, stage: Mutex::new(Stage::New) }
    }

    pub fn is_new(&self) -> bool {
        matches!(*self.stage.lock(), Stage::New)
    }

    fn change(&self, stage: Stage) -> Stage {
        std::mem::replace(&mut *self.stage.lock(), stage)
    }

    pub fn step(&self, py: Python<'_>) -> PyResult<Step> {
        match self.change(Stage::Over) {
            Stage::New => {
                if self.core.take_at_once(self.n).raise(py)? {
                    return Ok(Step::Taken(Grant::adopt(&self.core, self.n)));
                }
                match enqueue(py, &self.core, self.n)? {
                    Place::Granted(grant) => Ok(Step::Taken(grant)),
                    Place::Queued(future) => Ok(self.wait(py, future)),
                }
            }
            Stage::Waiting(future) => match future.get().retrieve(py) {
                None => Ok(self.wait(py, future)),
                Some(result) => {
                    result?;
                    Ok(future.get().take_grant().map_or(Step::Spent, Step::Taken))
                }
            },
            Stage::Over => Ok(Step::Spent),
        }
    }

    fn wait(&self, py: Python<'_>, future: Py<Future>) -> Step {
        let wait = Future::block(&future, py);
        self.change(Stage::Waiting(future));
        Step::Wait(wait)
    }

    /// Cancelled: what was handed over already goes to the next waiter.
    pub fn abandon(&self) {
        if let Stage::Waiting(future) = self.change(Stage::Over) {
            future.get().forsake();
        }
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // What isn't visited is taken to be in use: who holds the lock keeps it alive for this round.
        match self.stage.try_lock().as_deref() {
            Some(Stage::Waiting(future)) => visit.call(future),
            _ => Ok(()),
        }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// What `Semaphore.acquire` gives: a coroutine that takes the permits.
#[pyclass(frozen, module = "penstock._native")]
pub struct Acquire(Taking);

impl Acquire {
    /// `None` when the permits are taken, for the caller to give back.
    fn step(&self, py: Python<'_>) -> PyResult<Option<Py<Future>>> {
        match self.0.step(py)? {
            Step::Wait(future) => Ok(Some(future)),
            Step::Taken(grant) => {
                grant.forget();
                Ok(None)
            }
            Step::Spent => Err(PyRuntimeError::new_err("cannot reuse already awaited acquire()")),
        }
    }
}

#[pymethods]
impl Acquire {
    fn __await__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<Future>>> {
        self.step(py)
    }

    fn send(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Py<Future>> {
        self.step(py)?.ok_or_else(|| pyo3::exceptions::PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (exc, value = None, traceback = None, /))]
    fn throw(
        &self,
        exc: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyTraceback>>,
    ) -> PyResult<Py<Future>> {
        self.close();
        Err(future::thrown(exc, value, traceback)?)
    }

    fn close(&self) {
        self.0.abandon();
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit)
    }

    fn __clear__(&self) {
        self.close();
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if self.0.is_new() {
            gil::in_destructor(|py| {
                PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), c"Semaphore.acquire() was never awaited", 1)
            });
        }
    }
}

/// A thread's permit, as a context manager that may be entered any number of times.
#[pyclass(frozen, module = "penstock._native")]
struct Sync {
    core: permit::Semaphore,
    timeout: Option<Duration>,
}

#[pymethods]
impl Sync {
    fn __enter__(&self, py: Python<'_>) -> PyResult<()> {
        if self.core.take(1).raise(py)? {
            return Ok(());
        }
        if loops::running(py)?.is_some() {
            let message =
                "no permit is free, and sync() would stop the running event loop until one is: use `async with`";
            return Err(errors::declared(py, "BlockingInLoop", (message,), &[]));
        }
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let interval = gil::hears_signals(py).then_some(SIGNAL_INTERVAL);
        let mut place = self.core.enqueue(1).raise(py)?;
        loop {
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            let limit = left.into_iter().chain(interval).min();
            if let Some(grant) = py.detach(|| place.wait(limit)).raise(py)? {
                // Ctrl-C wins: the grant is dropped.
                py.check_signals()?;
                grant.forget();
                return Ok(());
            }
            py.check_signals()?;
            if deadline.is_some_and(|end| end <= Instant::now()) {
                return Err(PyTimeoutError::new_err("no permit came free in time (timeout)"));
            }
        }
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _exc_type: &Bound<'_, PyAny>,
        _exc: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.core.release(1).raise(py)
    }
}
