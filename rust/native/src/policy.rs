//! The policies: where a blocking function runs. `Direct` on the calling thread, `Permit` on a pool under a semaphore's
//! permit, `Dispatch` on a pool. Each gives the same kind of future, and counts.

use std::sync::Arc;

use penstock_core::permit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::call::Call;
use crate::figures::Figures;
use crate::future::{Future, Source};
use crate::gil;
use crate::loops::Finished;
use crate::op::Op;
use crate::pool::DispatchPool;
use crate::process;
use crate::running::What;
use crate::semaphore::Semaphore;

/// Runs the function at once, on the calling thread: the loop stands still meanwhile.
#[pyclass(frozen, module = "penstock._native")]
pub struct Direct {
    figures: Arc<Figures>,
}

/// Runs the function on a pool under a permit, which is held until the function has returned.
#[pyclass(frozen, module = "penstock._native")]
pub struct Permit {
    semaphore: Py<Semaphore>,
    /// `None` is the default pool, made at first use.
    pool: Option<Py<DispatchPool>>,
    figures: Arc<Figures>,
}

/// Runs the function on a pool.
#[pyclass(frozen, module = "penstock._native")]
pub struct Dispatch {
    /// `None` is the default pool, made at first use.
    pool: Option<Py<DispatchPool>>,
    figures: Arc<Figures>,
}

impl Direct {
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }
}

impl Permit {
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    pub fn core(&self) -> permit::Semaphore {
        self.semaphore.get().core().clone()
    }
}

impl Dispatch {
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    pub fn pool_or_default(&self, py: Python<'_>) -> PyResult<Py<DispatchPool>> {
        pool_or_default(py, self.pool.as_ref())
    }
}

fn pool_or_default(py: Python<'_>, pool: Option<&Py<DispatchPool>>) -> PyResult<Py<DispatchPool>> {
    pool.map_or_else(|| process::default_pool(py), |pool| Ok(pool.clone_ref(py)))
}

#[pymethods]
impl Direct {
    #[new]
    fn new() -> Self {
        Self { figures: Figures::new("Direct") }
    }

    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn run(
        &self,
        r#fn: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<Future>> {
        let py = r#fn.py();
        let future = Future::pending(py, Source::Taken)?;
        let running = self.figures.run(py, || What::Function(r#fn.clone().unbind()));
        let result = r#fn.call(args, kwargs).map(Bound::unbind);
        drop(running);
        match result {
            Err(error) if gil::is_interrupt(py, &error) => return Err(error),
            result => Future::settle(&future, py, Finished::Python(result))?,
        }
        Ok(future)
    }

    /// Runs an operation here and now, and gives its result.
    fn perform(&self, py: Python<'_>, op: &Op) -> PyResult<Py<PyAny>> {
        op.perform(py, Some(&self.figures))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.figures.stats_on_loop(py)
    }

    fn __repr__(&self) -> &'static str {
        "Direct()"
    }
}

#[pymethods]
impl Permit {
    #[new]
    #[pyo3(signature = (semaphore, /, *, pool = None))]
    fn new(semaphore: Py<Semaphore>, pool: Option<Py<DispatchPool>>) -> Self {
        Self { semaphore, pool, figures: Figures::new("Permit") }
    }

    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn run(
        &self,
        r#fn: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<Future>> {
        let py = r#fn.py();
        let call = Call::new(r#fn, args, kwargs, Some(gil::copy_context(py)?)).counted(&self.figures);
        let pool = pool_or_default(py, self.pool.as_ref())?;
        pool.get().start_permitted(py, self.semaphore.get().core(), call)
    }

    #[getter]
    fn semaphore(&self, py: Python<'_>) -> Py<Semaphore> {
        self.semaphore.clone_ref(py)
    }

    #[getter]
    fn pool(&self, py: Python<'_>) -> PyResult<Py<DispatchPool>> {
        pool_or_default(py, self.pool.as_ref())
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.figures.stats(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Permit({})", self.semaphore.bind(py).repr()?))
    }
}

#[pymethods]
impl Dispatch {
    #[new]
    #[pyo3(signature = (pool = None, /))]
    fn new(pool: Option<Py<DispatchPool>>) -> Self {
        Self { pool, figures: Figures::new("Dispatch") }
    }

    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn run(
        &self,
        r#fn: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<Future>> {
        let py = r#fn.py();
        let call = Call::new(r#fn, args, kwargs, Some(gil::copy_context(py)?)).counted(&self.figures);
        self.pool_or_default(py)?.get().start_call(py, call)
    }

    /// Runs an operation on the pool, without the interpreter.
    fn perform(&self, py: Python<'_>, op: &Op) -> PyResult<Py<Future>> {
        op.start(py, self.pool_or_default(py)?.get(), &self.figures)
    }

    #[getter]
    fn pool(&self, py: Python<'_>) -> PyResult<Py<DispatchPool>> {
        self.pool_or_default(py)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.figures.stats(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        match &self.pool {
            Some(pool) => Ok(format!("Dispatch({})", pool.bind(py).repr()?)),
            None => Ok("Dispatch()".to_owned()),
        }
    }
}
