//! The class `Future`: what `DispatchPool.run` and every native operation give back. It speaks asyncio's future protocol
//! and is a `collections.abc.Coroutine` too, so that awaiting it needs no Task and everything in asyncio takes it.
//!
//! It belongs to one loop, as an asyncio.Future does: its methods are called on the loop's thread. Other threads only
//! take its call to run it ([`Future::start`]) and send what came out to the loop's mailbox; the drain settles it there.
//! Its state is under a lock that is never held across a call of Python, and no reference is dropped under it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use penstock_core::permit::{Grant, Ticket};
use penstock_core::sync::Mutex;
use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTraceback, PyTuple, PyType};

use crate::call::Call;
use crate::errors;
use crate::gil;
use crate::loops::{self, Finished, Mailbox};
use crate::promise::Work;
use crate::worker::{Task, Workers};

/// What the future waits for: what a cancellation gives back.
pub enum Source {
    /// A promise that somebody keeps.
    Promise,
    /// A call that waits for a permit, and then for a worker.
    Admission(Call, Arc<Workers>, Option<Ticket>),
    /// A job that no worker has taken.
    Queued(Call, Arc<Workers>),
    /// A native operation; whether a worker has taken it, `Future::operation` tells.
    Operation(Arc<Workers>),
    /// A job that a worker has taken: it runs to its end.
    Taken,
    /// A place in a semaphore's queue.
    Waiter(Ticket),
}

enum Outcome {
    Value(Py<PyAny>),
    /// Permits, until whoever awaits takes them.
    Grant(Option<Grant>),
    /// With the traceback that it had when it came: each raise starts from there.
    Error(Py<PyBaseException>, Option<Py<PyTraceback>>),
    Cancelled(Option<Py<PyAny>>),
}

struct Callback {
    func: Py<PyAny>,
    context: Py<PyAny>,
}

struct State {
    source: Source,
    outcome: Option<Outcome>,
    /// Nearly always one: the task that awaits.
    first: Option<Callback>,
    others: VecDeque<Callback>,
}

#[pyclass(frozen, weakref, generic, module = "penstock._native")]
pub struct Future {
    event_loop: Py<PyAny>,
    mailbox: Arc<Mailbox>,
    /// A native operation that no worker has taken. A worker takes it without the interpreter, and so not from the state:
    /// a collection that found that locked in one of its passes alone would take for garbage what only the future keeps.
    operation: Mutex<Option<Work>>,
    state: Mutex<State>,
    /// For the loop's thread alone, as `unseen`.
    blocking: AtomicBool,
    /// Set once, when the source is taken out. Who reads it on another thread only saves itself work: whether a job is still
    /// to be run is told by what is found there.
    cancelled: AtomicBool,
    /// An exception that nobody has looked at.
    unseen: AtomicBool,
}

impl Future {
    /// A pending future of the running loop.
    pub fn pending(py: Python<'_>, source: Source) -> PyResult<Py<Self>> {
        Self::new(py, source, None)
    }

    /// A pending future of the running loop, for an operation that `workers` are to run.
    pub fn of_operation(py: Python<'_>, work: Work, workers: &Arc<Workers>) -> PyResult<Py<Self>> {
        Self::new(py, Source::Operation(Arc::clone(workers)), Some(work))
    }

    fn new(py: Python<'_>, source: Source, operation: Option<Work>) -> PyResult<Py<Self>> {
        let (event_loop, mailbox) = Mailbox::current(py)?;
        let state = State { source, outcome: None, first: None, others: VecDeque::new() };
        let future = Self {
            event_loop: event_loop.unbind(),
            mailbox,
            operation: Mutex::new(operation),
            state: Mutex::new(state),
            blocking: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            unseen: AtomicBool::new(false),
        };
        Py::new(py, future)
    }

    /// Takes the call, to run it now; `None` if it was cancelled.
    pub fn start(&self) -> Option<(Call, Arc<Workers>)> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut state.source, Source::Taken) {
            Source::Queued(call, workers) => Some((call, workers)),
            other => {
                state.source = other;
                None
            }
        }
    }

    /// Takes the operation, to run it now; `None` if it was cancelled.
    pub fn start_operation(&self) -> Option<Work> {
        self.operation.lock().take()
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Has its loop call `callback` in the next turn. On the loop's thread.
    pub fn call_next_turn(&self, callback: Bound<'_, PyAny>) -> PyResult<()> {
        let py = callback.py();
        self.event_loop.bind(py).call_method1(intern!(py, "call_soon"), (callback,)).map(drop)
    }

    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Keeps the ticket of what it waits for, unless that came meanwhile.
    pub fn wait_with(&self, ticket: Ticket) {
        let mut state = self.state.lock();
        match &mut state.source {
            Source::Admission(.., mine) => *mine = Some(ticket),
            source @ Source::Promise => *source = Source::Waiter(ticket),
            Source::Waiter(mine) => {
                let before = std::mem::replace(mine, ticket);
                drop(state);
                drop(before);
            }
            _ => {
                drop(state);
                drop(ticket);
            }
        }
    }

    /// The permit has come: the call may go to the workers. `None` if nobody waits any more.
    pub fn admit(&self, grant: Grant) -> Option<Arc<Workers>> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut state.source, Source::Taken) {
            Source::Admission(call, workers, ticket) => {
                state.source = Source::Queued(call.holding(grant), Arc::clone(&workers));
                drop(state);
                drop(ticket);
                Some(workers)
            }
            other => {
                state.source = other;
                drop(state);
                drop(grant);
                None
            }
        }
    }

    /// The queue didn't take the call that was admitted: to cancel it is no matter of the queue's any more. False: it was
    /// cancelled meanwhile, and the queue was told.
    pub fn refused(&self) -> bool {
        let mut state = self.state.lock();
        match std::mem::replace(&mut state.source, Source::Taken) {
            Source::Queued(call, workers) => {
                state.source = Source::Admission(call, workers, None);
                true
            }
            other => {
                state.source = other;
                false
            }
        }
    }

    /// Nobody will look at it: leaves the queue that it waits in, and drops what comes for it.
    pub fn forsake(&self) {
        self.cancelled.store(true, Ordering::Release);
        let mut state = self.state.lock();
        let source = std::mem::replace(&mut state.source, Source::Taken);
        drop(state);
        drop(source);
        drop(self.take_grant());
    }

    /// The permits that it waited for, once.
    pub fn take_grant(&self) -> Option<Grant> {
        match &mut self.state.lock().outcome {
            Some(Outcome::Grant(grant)) => grant.take(),
            _ => None,
        }
    }

    /// Makes the awaiting task wait for it.
    pub fn block(this: &Py<Self>, py: Python<'_>) -> Py<Self> {
        this.get().blocking.store(true, Ordering::Relaxed);
        this.clone_ref(py)
    }

    /// Ends the future and runs its callbacks, on the loop's thread. Fails only with an interrupt; callbacks that have
    /// not run then are still there.
    pub fn settle(this: &Py<Self>, py: Python<'_>, finished: Finished) -> PyResult<()> {
        let future = this.get();
        let outcome = match finished {
            Finished::Again(_) if future.is_cancelled() => None,
            Finished::Again(step) => {
                let Some(finished) = step(py, this) else { return Ok(()) };
                return Self::settle(this, py, finished);
            }
            Finished::Callbacks => None,
            Finished::Cancelled => {
                Self::cancel(this.bind(py), None)?;
                return Ok(());
            }
            Finished::Grant(grant) => Some(Outcome::Grant(Some(grant))),
            Finished::Python(Ok(value)) => Some(Outcome::Value(value)),
            Finished::Python(Err(error)) => Some(Outcome::error(py, error)),
            _ if future.is_cancelled() => None,
            Finished::Native(Ok(convert)) => {
                Some(convert(py).map_or_else(|error| Outcome::error(py, error), Outcome::Value))
            }
            Finished::Native(Err(error)) => Some(Outcome::error(py, errors::to_py(py, error))),
        };
        if let Some(outcome) = outcome {
            let failed = matches!(outcome, Outcome::Error(..));
            let mut state = future.state.lock();
            if state.outcome.is_some() {
                // Cancelled meanwhile: its result is dropped.
                drop(state);
                drop(outcome);
                return Ok(());
            }
            state.outcome = Some(outcome);
            let source = std::mem::replace(&mut state.source, Source::Taken);
            drop(state);
            future.unseen.store(failed, Ordering::Relaxed);
            drop(source);
        }
        let hands_over = future.mailbox().hands_over();
        while let Some(Callback { func, context }) = future.next_callback() {
            if hands_over {
                Self::call_soon(this.bind(py), func, context)?;
                continue;
            }
            if let Err(error) = gil::within(py, Some(&context), |py| func.call1(py, (this,))) {
                if gil::is_interrupt(py, &error) {
                    return Err(error);
                }
                let message = format!("Exception in callback {}", display(func.bind(py)));
                loops::report(py, future.event_loop.bind(py), message, error, Some(this))?;
            }
        }
        Ok(())
    }

    fn next_callback(&self) -> Option<Callback> {
        let mut state = self.state.lock();
        let next = state.first.take();
        next.or_else(|| state.others.pop_front())
    }

    fn call_soon(this: &Bound<'_, Self>, func: Py<PyAny>, context: Py<PyAny>) -> PyResult<()> {
        let py = this.py();
        let kwargs = PyDict::new(py);
        kwargs.set_item(intern!(py, "context"), context)?;
        this.get().event_loop.bind(py).call_method(intern!(py, "call_soon"), (func, this), Some(&kwargs))?;
        Ok(())
    }

    /// What `result()` gives; `None` while pending.
    pub fn retrieve(&self, py: Python<'_>) -> Option<PyResult<Py<PyAny>>> {
        let state = self.state.lock();
        match state.outcome.as_ref()? {
            Outcome::Value(value) => Some(Ok(value.clone_ref(py))),
            Outcome::Grant(_) => Some(Ok(py.None())),
            Outcome::Error(error, traceback) => {
                let (error, traceback) = (error.clone_ref(py), traceback.as_ref().map(|tb| tb.clone_ref(py)));
                drop(state);
                self.unseen.store(false, Ordering::Relaxed);
                let error = PyErr::from_value(error.into_bound(py).into_any());
                error.set_traceback(py, traceback.map(|traceback| traceback.into_bound(py)));
                Some(Err(error))
            }
            Outcome::Cancelled(message) => {
                let message = message.as_ref().map(|message| message.clone_ref(py));
                drop(state);
                Some(Err(cancelled_error(py, message).unwrap_or_else(|error| error)))
            }
        }
    }

    /// As `Task.__del__` does: an exception that nobody looked at is not lost.
    fn report_unseen(&self) {
        if !self.unseen.swap(false, Ordering::Relaxed) {
            return;
        }
        gil::in_destructor(|py| {
            let error = match &self.state.lock().outcome {
                Some(Outcome::Error(error, _)) => error.clone_ref(py),
                _ => return Ok(()),
            };
            let error = PyErr::from_value(error.into_bound(py).into_any());
            let message = "Future exception was never retrieved".to_owned();
            loops::report(py, self.event_loop.bind(py), message, error, None)
        });
    }
}

impl Outcome {
    fn error(py: Python<'_>, error: PyErr) -> Self {
        let error = if error.is_instance_of::<PyStopIteration>(py) {
            // Thrown into a coroutine, it would end it as if it had returned.
            let stand_in = PyRuntimeError::new_err(
                "StopIteration interacts badly with generators and cannot be raised into a Future",
            );
            stand_in.set_cause(py, Some(error));
            stand_in
        } else {
            error
        };
        let traceback = error.traceback(py).map(Bound::unbind);
        Self::Error(error.into_value(py), traceback)
    }
}

fn cancelled_error(py: Python<'_>, message: Option<Py<PyAny>>) -> PyResult<PyErr> {
    let class = loops::names(py)?.cancelled_error.bind(py);
    let error = match message {
        Some(message) => class.call1((message,))?,
        None => class.call0()?,
    };
    Ok(PyErr::from_value(error))
}

fn display(object: &Bound<'_, PyAny>) -> String {
    object.repr().map_or_else(|_| "<unprintable>".to_owned(), |text| text.to_string_lossy().into_owned())
}

fn invalid_state(py: Python<'_>, message: &'static str) -> PyErr {
    let make = || loops::names(py)?.invalid_state_error.bind(py).call1((message,));
    make().map_or_else(|error| error, PyErr::from_value)
}

#[pymethods]
impl Future {
    #[getter(_asyncio_future_blocking)]
    fn blocking(&self) -> bool {
        self.blocking.load(Ordering::Relaxed)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, value: bool) {
        self.blocking.store(value, Ordering::Relaxed);
    }

    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop.clone_ref(py)
    }

    #[getter(_loop)]
    fn event_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop.clone_ref(py)
    }

    fn done(&self) -> bool {
        self.state.lock().outcome.is_some()
    }

    fn cancelled(&self) -> bool {
        self.is_cancelled()
    }

    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.retrieve(py).unwrap_or_else(|| Err(invalid_state(py, "Result is not set.")))
    }

    fn exception(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self.retrieve(py) {
            Some(Ok(_)) => Ok(None),
            Some(Err(error)) if self.is_cancelled() => Err(error),
            Some(Err(error)) => Ok(Some(error.into_value(py).into_any())),
            None => Err(invalid_state(py, "Exception is not set.")),
        }
    }

    /// Cancels. A job that no worker has taken never runs, and its place in the queue is free at once; one that runs
    /// goes on, and its result is dropped. False if it is done already.
    #[pyo3(signature = (msg = None))]
    pub fn cancel(this: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        let future = this.get();
        let mut state = future.state.lock();
        if state.outcome.is_some() {
            drop(state);
            return Ok(false);
        }
        state.outcome = Some(Outcome::Cancelled(msg));
        let source = std::mem::replace(&mut state.source, Source::Taken);
        drop(state);
        future.cancelled.store(true, Ordering::Release);
        let swept = match &source {
            _ if future.mailbox.is_inherited() => Vec::new(),
            Source::Queued(_, workers) => workers.queue().cancelled(Task::is_cancelled),
            Source::Operation(workers) if future.start_operation().is_some() => {
                workers.queue().cancelled(Task::is_cancelled)
            }
            _ => Vec::new(),
        };
        drop(swept);
        drop(source);
        while let Some(Callback { func, context }) = future.next_callback() {
            Self::call_soon(this, func, context)?;
        }
        Ok(true)
    }

    #[pyo3(signature = (callback, /, *, context = None))]
    fn add_done_callback(this: &Bound<'_, Self>, callback: Py<PyAny>, context: Option<Py<PyAny>>) -> PyResult<()> {
        let context = match context {
            Some(context) => context,
            None => gil::copy_context(this.py())?,
        };
        let mut state = this.get().state.lock();
        if state.outcome.is_some() {
            drop(state);
            return Self::call_soon(this, callback, context);
        }
        let callback = Callback { func: callback, context };
        if state.first.is_none() && state.others.is_empty() {
            state.first = Some(callback);
        } else {
            state.others.push_back(callback);
        }
        Ok(())
    }

    #[pyo3(signature = (callback, /))]
    fn remove_done_callback(&self, callback: &Bound<'_, PyAny>) -> PyResult<usize> {
        let py = callback.py();
        let state = self.state.lock();
        let all: Vec<_> = state.first.iter().chain(&state.others).map(|entry| entry.func.clone_ref(py)).collect();
        drop(state);
        // Comparing runs Python code, which may come back here: not under the lock, and not on what it may change.
        let mut equal = Vec::new();
        for func in all {
            if func.bind(py).eq(callback)? {
                equal.push(func);
            }
        }
        let mut state = self.state.lock();
        let all = state.first.take().into_iter().chain(std::mem::take(&mut state.others));
        let (removed, mut left) =
            all.partition::<VecDeque<_>, _>(|entry| equal.iter().any(|func| func.is(&entry.func)));
        state.first = left.pop_front();
        state.others = left;
        drop(state);
        Ok(removed.len())
    }

    fn _make_cancelled_error(&self, py: Python<'_>) -> PyResult<Py<PyBaseException>> {
        Ok(cancelled_error(py, self._cancel_message(py))?.into_value(py))
    }

    #[getter]
    fn _cancel_message(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match &self.state.lock().outcome {
            Some(Outcome::Cancelled(message)) => message.as_ref().map(|message| message.clone_ref(py)),
            _ => None,
        }
    }

    fn __await__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    pub fn __next__(this: &Bound<'_, Self>) -> PyResult<Option<Py<Self>>> {
        let py = this.py();
        match this.get().retrieve(py) {
            None => Ok(Some(Self::block(this.as_unbound(), py))),
            Some(Ok(value)) if value.is_none(py) => {
                // Who awaited permits has them now, and gives them back by a release.
                if let Some(grant) = this.get().take_grant() {
                    grant.forget();
                }
                Ok(None)
            }
            // A tuple as the value would be taken for the arguments.
            Some(Ok(value)) => Err(PyStopIteration::new_err((value,))),
            Some(Err(error)) => Err(error),
        }
    }

    fn send(this: &Bound<'_, Self>, _value: &Bound<'_, PyAny>) -> PyResult<Py<Self>> {
        Self::__next__(this)?.ok_or_else(|| PyStopIteration::new_err(()))
    }

    /// What a task does to a coroutine that it cancels before the first step, or after the last.
    #[pyo3(signature = (exc, value = None, traceback = None, /))]
    fn throw(
        this: &Bound<'_, Self>,
        exc: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyTraceback>>,
    ) -> PyResult<Py<Self>> {
        Self::close(this)?;
        Err(thrown(exc, value, traceback)?)
    }

    /// Gives up: cancels, without a word if it is done. A coroutine that is dropped with its closed loop sees its own end,
    /// and not that the loop calls nobody back.
    fn close(this: &Bound<'_, Self>) -> PyResult<()> {
        match Self::cancel(this, None) {
            Err(error) if !this.get().mailbox.is_closed() || gil::is_interrupt(this.py(), &error) => return Err(error),
            _ => {}
        }
        // Permits that came for a task which was cancelled before its next step go to the next waiter.
        drop(this.get().take_grant());
        Ok(())
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let waits = self.operation.lock().is_some();
        let state = self.state.lock();
        let (word, detail) = match (&state.outcome, &state.source) {
            (Some(Outcome::Value(value)), _) => ("finished", Some(("result", value.clone_ref(py)))),
            (Some(Outcome::Grant(_)), _) => ("finished", None),
            (Some(Outcome::Error(error, _)), _) => ("finished", Some(("exception", error.clone_ref(py).into_any()))),
            (Some(Outcome::Cancelled(_)), _) => ("cancelled", None),
            (None, Source::Queued(..) | Source::Admission(..)) => ("queued", None),
            (None, _) if waits => ("queued", None),
            (None, _) => ("pending", None),
        };
        drop(state);
        let detail = detail.map(|(name, value)| format!(" {name}={}", display(value.bind(py)))).unwrap_or_default();
        format!("<penstock.Future {word}{detail}>")
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        // Locked by threads that are attached alone, and none of these does anything during a collection.
        let Some(state) = self.state.try_lock() else { return Ok(()) };
        if let Source::Queued(call, _) | Source::Admission(call, ..) = &state.source {
            call.traverse(&visit)?;
        }
        match &state.outcome {
            Some(Outcome::Value(value)) => visit.call(value)?,
            Some(Outcome::Error(error, traceback)) => {
                visit.call(error)?;
                visit.call(traceback)?;
            }
            Some(Outcome::Cancelled(message)) => visit.call(message)?,
            Some(Outcome::Grant(_)) | None => {}
        }
        for Callback { func, context } in state.first.iter().chain(&state.others) {
            visit.call(func)?;
            visit.call(context)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.report_unseen();
        let mut state = self.state.lock();
        let outcome = state.outcome.take();
        let source = std::mem::replace(&mut state.source, Source::Taken);
        let (first, others) = (state.first.take(), std::mem::take(&mut state.others));
        drop(state);
        drop((outcome, source, first, others));
    }
}

impl Drop for Future {
    fn drop(&mut self) {
        self.report_unseen();
    }
}

/// The exception of a `throw(type, value, traceback)`, in its old and its new form.
pub fn thrown(
    exc: &Bound<'_, PyAny>,
    value: Option<&Bound<'_, PyAny>>,
    traceback: Option<Bound<'_, PyTraceback>>,
) -> PyResult<PyErr> {
    let py = exc.py();
    let value = value.filter(|value| !value.is_none());
    let error = match (exc.cast::<PyType>(), value) {
        (Err(_), _) => PyErr::from_value(exc.clone()),
        (Ok(_), Some(value)) if value.is_instance_of::<PyBaseException>() => PyErr::from_value(value.clone()),
        (Ok(class), Some(value)) => match value.cast::<PyTuple>() {
            Ok(args) => PyErr::from_value(class.call1(args.clone())?),
            Err(_) => PyErr::from_value(class.call1((value,))?),
        },
        (Ok(class), None) => PyErr::from_value(class.call0()?),
    };
    if traceback.is_some() {
        error.set_traceback(py, traceback);
    }
    Ok(error)
}
