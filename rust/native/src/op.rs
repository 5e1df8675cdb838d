//! Work of the core that may wait for a disk, as an object that a policy runs: called, it runs on the calling thread
//! without the interpreter; `on(pool)` runs it on a pool's threads.

use crate::buffer;
use crate::errors::Raise;
use crate::future::Future;
use crate::pool::DispatchPool;
use crate::promise::run_native;
use parking_lot::Mutex;
use penstock_core::{Error, Result};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Convert = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;
type Work = Box<dyn FnOnce() -> Result<Convert> + Send>;

#[pyclass(frozen, module = "penstock._native")]
pub struct Op(Mutex<Option<Work>>);

impl Op {
    /// `work` runs anywhere, once; `convert` makes a Python value of its result, on the awaiting thread.
    pub fn new<T: Send + 'static>(
        work: impl FnOnce() -> Result<T> + Send + 'static,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Self {
        Self(Mutex::new(Some(Box::new(move || {
            let value = work()?;
            Ok(Box::new(move |py: Python<'_>| convert(py, value)) as Convert)
        }))))
    }

    fn take(&self) -> PyResult<Work> {
        self.0.lock().take().ok_or_else(|| PyRuntimeError::new_err("this operation was run already"))
    }
}

#[pymethods]
impl Op {
    /// Runs it on this thread, without the interpreter.
    fn __call__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let work = self.take()?;
        // As on a pool's thread: a panic is the result.
        let caught = || catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Error::from_panic(&*panic)));
        let done = py.detach(caught);
        buffer::give_back(py);
        done.raise(py)?(py)
    }

    /// Runs it on a thread of `pool`; the result is awaited.
    fn on(&self, py: Python<'_>, pool: &DispatchPool) -> PyResult<Py<Future>> {
        let work = self.take()?;
        run_native(py, pool, work, |py, convert| convert(py))
    }
}

/// An operation that panics: tests see with it what becomes of one.
#[pyfunction]
#[allow(clippy::panic)]
pub fn _panicking() -> Op {
    Op::new(|| -> Result<()> { panic!("as asked") }, |py, ()| Ok(py.None()))
}
