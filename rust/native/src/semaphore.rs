//! The class `Semaphore`: permits for tasks of any number of loops and for threads. The queue is the core's; here is how
//! a task waits in it.
//!
//! A permit is taken when `acquire()` is awaited, not when it is called. A free one is taken without suspending, and
//! `async with` then makes no object at all: `__aenter__` gives one shared awaitable, `__aexit__` another.
//!
//! A permit on its way to a task is a [`Grant`] that lies in three places in turn: in the completion (dropped if the loop
//! is gone or the waiting was cancelled), in the slot of the [`Acquire`] (dropped if the task is cancelled before its
//! next step), and with the task. Each drop gives it to the next waiter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use penstock_core::permit::{self, Grant};
use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning, PyTimeoutError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTraceback;

use crate::errors::Raise;
use crate::future::{self, Future, Source};
use crate::gil;
use crate::loops::{self, Completion, Convert, Finished};

/// A thread that waits looks for signals (Ctrl-C) so often.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

#[pyclass(frozen, weakref, module = "penstock._native")]
pub struct Semaphore {
    core: permit::Semaphore,
    enter: Py<Enter>,
    ready: Py<Ready>,
}

impl Semaphore {
    pub fn core(&self) -> &permit::Semaphore {
        &self.core
    }
}

#[pymethods]
impl Semaphore {
    #[new]
    #[pyo3(signature = (permits, /))]
    fn new(py: Python<'_>, permits: usize) -> PyResult<Self> {
        if permits == 0 {
            return Err(PyValueError::new_err("permits=0: at least 1 is needed"));
        }
        let core = permit::Semaphore::new(permits);
        let ready = Py::new(py, Ready)?;
        let enter = Py::new(py, Enter { core: core.clone(), ready: ready.clone_ref(py) })?;
        Ok(Self { core, enter, ready })
    }

    /// Takes `n` permits when awaited; waits its turn.
    #[pyo3(signature = (n = 1))]
    fn acquire(&self, n: usize) -> Acquire {
        Acquire::new(&self.core, n)
    }

    /// Takes `n` permits if they are free and nobody waits.
    #[pyo3(signature = (n = 1))]
    fn try_acquire(&self, py: Python<'_>, n: usize) -> PyResult<bool> {
        self.core.take(n).raise(py)
    }

    #[pyo3(signature = (n = 1))]
    fn release(&self, py: Python<'_>, n: usize) -> PyResult<()> {
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
    ) -> PyResult<Py<Ready>> {
        self.core.release(1).raise(py)?;
        Ok(self.ready.clone_ref(py))
    }

    /// For threads: `with semaphore.sync(): ...`
    #[pyo3(signature = (timeout = None))]
    fn sync(&self, timeout: Option<f64>) -> PyResult<Sync> {
        let timeout = match timeout.map(Duration::try_from_secs_f64) {
            Some(Err(_)) => return Err(PyValueError::new_err("timeout: must be a number of seconds, not negative")),
            Some(Ok(timeout)) => Some(timeout),
            None => None,
        };
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

    fn __repr__(&self) -> String {
        let closed = if self.core.is_closed() { " closed" } else { "" };
        let (free, total, waiting) = (self.core.free(), self.core.total(), self.core.waiting());
        format!("<penstock.Semaphore {free} of {total} free, {waiting} waiting{closed}>")
    }
}

/// Awaiting it gives None at once.
#[pyclass(frozen)]
struct Ready;

#[pymethods]
impl Ready {
    fn __await__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__(&self) -> Option<Py<PyAny>> {
        None
    }
}

/// What `async with` awaits: it has no state, so one is enough for all.
#[pyclass(frozen)]
struct Enter {
    core: permit::Semaphore,
    ready: Py<Ready>,
}

#[pymethods]
impl Enter {
    fn __await__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.core.take(1).raise(py)? {
            Ok(self.ready.clone_ref(py).into_any())
        } else {
            Ok(Py::new(py, Acquire::new(&self.core, 1))?.into_any())
        }
    }
}

enum Stage {
    /// Nobody has awaited it.
    New,
    /// A task waits for the future, and finds the grant in the slot when it is done.
    Waiting(Py<Future>, Slot),
    Over,
}

type Slot = Arc<Mutex<Option<Grant>>>;

/// What `Semaphore.acquire` gives: a coroutine that takes the permits.
#[pyclass(frozen, module = "penstock._native")]
pub struct Acquire {
    core: permit::Semaphore,
    n: usize,
    stage: Mutex<Stage>,
}

impl Acquire {
    fn new(core: &permit::Semaphore, n: usize) -> Self {
        Self { core: core.clone(), n, stage: Mutex::new(Stage::New) }
    }

    fn change(&self, stage: Stage) -> Stage {
        std::mem::replace(&mut *self.stage.lock(), stage)
    }

    /// One step; `None` when the permits are taken.
    fn step(&self, py: Python<'_>) -> PyResult<Option<Py<Future>>> {
        match self.change(Stage::Over) {
            Stage::New => {
                if self.core.take(self.n).raise(py)? {
                    return Ok(None);
                }
                let future = Future::pending(py, Source::Promise)?;
                let slot = Slot::default();
                let wake = wake(future.clone_ref(py), Arc::clone(&slot));
                match self.core.acquire(self.n, wake).raise(py)? {
                    permit::Acquire::Granted(grant) => {
                        grant.forget();
                        Ok(None)
                    }
                    permit::Acquire::Queued(ticket) => {
                        future.get().wait_with(ticket);
                        self.wait(py, future, slot)
                    }
                }
            }
            Stage::Waiting(future, slot) => match future.get().retrieve(py) {
                None => self.wait(py, future, slot),
                Some(result) => {
                    result?;
                    if let Some(grant) = slot.lock().take() {
                        grant.forget();
                    }
                    Ok(None)
                }
            },
            Stage::Over => Err(PyRuntimeError::new_err("cannot reuse already awaited acquire()")),
        }
    }

    fn wait(&self, py: Python<'_>, future: Py<Future>, slot: Slot) -> PyResult<Option<Py<Future>>> {
        let wait = Future::block(&future, py);
        self.change(Stage::Waiting(future, slot));
        Ok(Some(wait))
    }
}

/// Sends a grant to the loop of a waiter. It gets to the slot if the loop still runs and nobody has cancelled.
fn wake(future: Py<Future>, slot: Slot) -> impl FnOnce(penstock_core::Result<Grant>) + Send {
    move |grant| {
        let finished = Finished::Native(grant.map(|grant| {
            Box::new(move |py: Python<'_>| {
                *slot.lock() = Some(grant);
                Ok(py.None())
            }) as Convert
        }));
        let mailbox = Arc::clone(future.get().mailbox());
        drop(mailbox.post(Completion { future, finished }));
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

    /// Cancelled: what was handed over already goes to the next waiter.
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
        if let Stage::Waiting(future, _slot) = self.change(Stage::Over) {
            future.get().forsake();
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // What isn't visited is taken to be in use: who holds the lock keeps it alive for this round.
        match self.stage.try_lock().as_deref() {
            Some(Stage::Waiting(future, _)) => visit.call(future),
            _ => Ok(()),
        }
    }

    fn __clear__(&self) {
        self.close();
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        match self.change(Stage::Over) {
            Stage::New => gil::in_destructor(|py| {
                PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), c"Semaphore.acquire() was never awaited", 1)
            }),
            Stage::Waiting(future, _slot) => future.get().forsake(),
            Stage::Over => {}
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
            let class = py.import("penstock.errors")?.getattr("BlockingInLoop")?;
            let message =
                "no permit is free, and sync() would stop the running event loop until one is: use `async with`";
            return Err(PyErr::from_value(class.call1((message,))?));
        }
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut place = self.core.enqueue(1).raise(py)?;
        loop {
            let left = deadline.map_or(SIGNAL_INTERVAL, |end| end.saturating_duration_since(Instant::now()));
            if let Some(grant) = py.detach(|| place.wait(Some(left.min(SIGNAL_INTERVAL)))).raise(py)? {
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
