//! Work of the core that may wait for a disk, as an object that a policy runs: called, it runs on the calling thread
//! without the interpreter; a policy's `perform` runs it as the policy does, and counts it. What only computes for long,
//! and would be dispatched, goes to the process's decoding threads.

use crate::buffer;
use crate::errors::Raise;
use crate::figures::Figures;
use crate::future::Future;
use crate::pool::DispatchPool;
use crate::process;
use crate::promise::{self, Work};
use crate::running::What;
use penstock_core::sync::Mutex;
use penstock_core::{Error, Result};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::sync::Arc;

#[pyclass(frozen, module = "penstock._native")]
pub struct Op {
    /// What it does, for who watches loops.
    name: &'static str,
    computes: bool,
    work: Mutex<Option<Work>>,
}

impl Op {
    /// See [`promise::work`].
    pub fn new<T: Send + 'static>(
        name: &'static str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Self {
        Self { name, computes: false, work: Mutex::new(Some(promise::work(work, convert))) }
    }

    /// It waits for nothing.
    pub fn computing(self) -> Self {
        Self { computes: true, ..self }
    }

    fn take(&self) -> PyResult<Work> {
        self.work.lock().take().ok_or_else(|| PyRuntimeError::new_err("this operation was run already"))
    }

    /// Runs it on this thread, without the interpreter.
    pub fn perform(&self, py: Python<'_>, figures: Option<&Arc<Figures>>) -> PyResult<Py<PyAny>> {
        let work = self.take()?;
        let running = figures.map(|figures| figures.run(py, || What::Operation(self.name)));
        // As on a pool's thread: a panic is the result.
        let done = py.detach(|| Error::caught(work).and_then(|done| done));
        drop(running);
        buffer::give_back(py);
        done.raise(py)?(py)
    }

    /// Runs it on a thread of `pool`, or on a decoding thread; the result is awaited.
    pub fn start(&self, py: Python<'_>, pool: &DispatchPool, figures: &Arc<Figures>) -> PyResult<Py<Future>> {
        let pool = if self.computes { process::decoders(py)?.get() } else { pool };
        let (work, mut stay) = (self.take()?, figures.wait());
        let counted = move || {
            stay.run_detached();
            let done = work();
            drop(stay);
            done
        };
        pool.start_native(py, Box::new(counted))
    }
}

#[pymethods]
impl Op {
    fn __call__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.perform(py, None)
    }

    #[getter]
    fn name(&self) -> &'static str {
        self.name
    }
}

/// An operation that panics: tests see with it what becomes of one.
#[pyfunction]
#[allow(clippy::panic)]
pub fn _panicking() -> Op {
    Op::new("panic", || -> Result<()> { panic!("as asked") }, |py, ()| Ok(py.None()))
}
