//! The class `BlockingPermit`: a permit of a semaphore to block the calling thread once. It is its own awaitable: awaited,
//! or entered by `async with`, it takes the permit and gives itself.
//!
//! ```text
//!   NEW ──await──▶ HELD ──run()───▶ RUNNING ──returned──▶ OVER
//!                   │ └───enter()──▶ ENTERED ──left──────▶ OVER
//!                   └────left──────▶ OVER, with a warning: it was never entered
//! ```
//! The permit lies in the state, so leaving HELD, RUNNING or ENTERED gives it back. A run that goes on in another thread
//! when the block is left keeps it until it returns.

use std::ffi::CString;
use std::sync::{Arc, LazyLock};

use penstock_core::permit::Grant;
use penstock_core::sync::Mutex;
use pyo3::exceptions::{PyRuntimeWarning, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTraceback, PyTuple};

use crate::errors;
use crate::figures::Figures;
use crate::future::{self, Future};
use crate::gil;
use crate::inplace;
use crate::running::{self, What};
use crate::semaphore::{self, Semaphore, Step, Taking};

enum State {
    /// Its permit has not come.
    New,
    Held(Grant),
    Running,
    Entered(Grant),
    Over,
}

/// The right to block the calling thread once, by a permit of a semaphore: what `blocking_permit` gives. Awaited, or
/// entered by `async with`, it waits for the permit; `run` or `enter` use it.
#[pyclass(frozen, weakref, module = "penstock._native")]
pub struct BlockingPermit {
    taking: Taking,
    state: Mutex<State>,
    /// Where it was made, for who is warned.
    origin: Option<String>,
}

impl BlockingPermit {
    /// Takes the permit out, to be entered; an error if that was done before, or can't be yet.
    fn enter_once(
        &self,
        py: Python<'_>,
        next: impl FnOnce(Grant) -> (State, Option<Grant>),
    ) -> PyResult<Option<Grant>> {
        let mut state = self.state.lock();
        let message = match std::mem::replace(&mut *state, State::Over) {
            State::Held(grant) => {
                let (after, taken) = next(grant);
                *state = after;
                return Ok(taken);
            }
            before @ State::New => {
                *state = before;
                "the permit was not acquired: `async with blocking_permit(semaphore) as permit`"
            }
            before => {
                *state = before;
                "a BlockingPermit is entered once, and this one was: make another"
            }
        };
        drop(state);
        Err(self.misused(py, message))
    }

    fn misused(&self, py: Python<'_>, message: &str) -> PyErr {
        errors::declared(py, "PermitError", (self.located(message),), &[])
    }

    /// The message with the place where the permit was made, if that is known.
    fn located(&self, message: &str) -> String {
        match &self.origin {
            Some(origin) => {
                format!("{message}\nThe permit was made at (most recent call last):\n{}", origin.trim_end())
            }
            None => message.to_owned(),
        }
    }

    fn warn(&self, py: Python<'_>, message: &str) -> PyResult<()> {
        let message = CString::new(self.located(message)).unwrap_or_default();
        PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &message, 1)
    }
}

/// What is run under permits goes by this name with those who watch loops.
static FIGURES: LazyLock<Arc<Figures>> = LazyLock::new(|| Figures::new("BlockingPermit"));

const NEVER_ENTERED: &str = "the BlockingPermit was never entered: it was held for nothing";

#[pymethods]
impl BlockingPermit {
    #[new]
    #[pyo3(signature = (semaphore, origin = None, /))]
    fn new(semaphore: &Semaphore, origin: Option<String>) -> Self {
        Self { taking: Taking::new(semaphore.core(), 1), state: Mutex::new(State::New), origin }
    }

    fn __aenter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __await__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__(this: &Bound<'_, Self>) -> PyResult<Py<Future>> {
        let py = this.py();
        let permit = this.get();
        match permit.taking.step(py)? {
            Step::Wait(future) => Ok(future),
            Step::Taken(grant) => {
                *permit.state.lock() = State::Held(grant);
                Err(PyStopIteration::new_err((this.clone().unbind(),)))
            }
            Step::Spent => Err(permit.misused(py, "a BlockingPermit is acquired once, and this one was: make another")),
        }
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

    /// Gives up waiting.
    fn close(&self) {
        self.taking.abandon();
    }

    /// Runs a function on the calling thread and gives the permit back. A loop that can be handed over is, meanwhile.
    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn run(
        &self,
        r#fn: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let grant = self.enter_once(r#fn.py(), |grant| (State::Running, Some(grant)))?;
        let mark = running::mark(r#fn.py(), &FIGURES, || What::Function(r#fn.clone().unbind()));
        let result = inplace::block_or_stand(r#fn, args, kwargs);
        drop(mark);
        *self.state.lock() = State::Over;
        drop(grant);
        result.map(Bound::unbind)
    }

    /// Says that blocking begins: the permit goes back when the block is left.
    fn enter(&self, py: Python<'_>) -> PyResult<()> {
        self.enter_once(py, |grant| (State::Entered(grant), None)).map(drop)
    }

    fn __aexit__(
        &self,
        py: Python<'_>,
        exc_type: &Bound<'_, PyAny>,
        _exc: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Over) {
            before @ State::New => {
                *state = before;
                drop(state);
                return Err(self.misused(py, "the permit is left, and was not acquired"));
            }
            before @ State::Running => *state = before,
            State::Held(grant) => {
                drop(state);
                drop(grant);
                // What ended the block early is the news.
                if exc_type.is_none() {
                    self.warn(py, NEVER_ENTERED)?;
                }
            }
            State::Entered(grant) => {
                drop(state);
                drop(grant);
            }
            State::Over => {}
        }
        semaphore::over(py)
    }

    fn __repr__(&self) -> String {
        let word = match &*self.state.lock() {
            State::New if self.taking.is_new() => "new",
            State::New => "waiting",
            State::Held(_) => "held",
            State::Running => "running",
            State::Entered(_) => "entered",
            State::Over => "over",
        };
        format!("<penstock.BlockingPermit {word}>")
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.taking.traverse(&visit)
    }

    fn __clear__(&self) {
        self.taking.abandon();
    }
}

impl Drop for BlockingPermit {
    fn drop(&mut self) {
        let message = match std::mem::replace(self.state.get_mut(), State::Over) {
            State::New if self.taking.is_new() => "blocking_permit() was never awaited",
            State::Held(grant) => {
                drop(grant);
                NEVER_ENTERED
            }
            _ => return,
        };
        gil::in_destructor(|py| self.warn(py, message));
    }
}
