//! The policies: where a blocking function runs. `Direct` on the calling thread, `Permit` under a semaphore's permit, on a
//! pool or in place, `Dispatch` on a pool. Each gives something to await, and counts.

use std::sync::Arc;
use std::time::Instant;

use penstock_core::permit;
use penstock_core::sync::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::baton;
use crate::call::{self, Call};
use crate::figures::Figures;
use crate::future::{Future, Source};
use crate::gil;
use crate::loops::{self, Finished};
use crate::op::Op;
use crate::pool::DispatchPool;
use crate::process;
use crate::running::What;
use crate::semaphore::Semaphore;

/// Runs the function at once, on the calling thread: the loop stands still meanwhile.
#[pyclass(frozen, weakref, module = "penstock._native")]
pub struct Direct {
    figures: Arc<Figures>,
}

/// Runs the function under a permit, which is held until the function has returned: in place, on a loop that can be
/// handed over meanwhile, else as `on_unsupported` says: on the pool ("dispatch", the default), here ("direct"), or not
/// at all, which is a HandoverError ("error").
#[pyclass(frozen, weakref, module = "penstock._native")]
pub struct Permit {
    semaphore: Py<Semaphore>,
    /// `None` is the default pool, made at first use.
    pool: Option<Py<DispatchPool>>,
    otherwise: Otherwise,
    figures: Arc<Figures>,
}

/// Runs the function on a pool.
#[pyclass(frozen, weakref, module = "penstock._native")]
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

    /// On the pool, once there is a permit.
    fn start<'py>(&self, py: Python<'py>, call: Call) -> PyResult<Bound<'py, PyAny>> {
        let pool = pool_or_default(py, self.pool.as_ref())?;
        let future = pool.get().start_permitted(py, self.semaphore.get().core(), call)?;
        Ok(future.into_bound(py).into_any())
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

/// Where a function runs under a permit if its loop can't be handed over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Otherwise {
    Dispatch,
    Direct,
    Error,
}

impl Otherwise {
    fn parse(word: &str) -> PyResult<Self> {
        match word {
            "dispatch" => Ok(Self::Dispatch),
            "direct" => Ok(Self::Direct),
            "error" => Ok(Self::Error),
            _ => {
                let message = format!("on_unsupported={word:?}: must be \"dispatch\", \"direct\" or \"error\"");
                Err(PyValueError::new_err(message))
            }
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Dispatch => "dispatch",
            Self::Direct => "direct",
            Self::Error => "error",
        }
    }
}

/// A call that waits for its permit in a task.
#[pyclass(frozen)]
struct Permitted {
    func: Py<PyAny>,
    call: Mutex<Option<Call>>,
}

impl Permitted {
    fn take(&self) -> PyResult<Call> {
        self.call.lock().take().ok_or_else(|| PyRuntimeError::new_err("it was called before"))
    }
}

#[pymethods]
impl Permitted {
    fn __call__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.take()?.invoke(py, &mut Instant::now())
    }

    #[getter]
    fn __wrapped__(&self, py: Python<'_>) -> Py<PyAny> {
        self.func.clone_ref(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.func)?;
        // Locked by threads that are attached alone, and none of these does anything during a collection.
        self.call.try_lock().and_then(|call| call.as_ref().map(|call| call.traverse(&visit))).unwrap_or(Ok(()))
    }
}

#[pymethods]
impl Direct {
    #[new]
    fn new() -> Self {
        Self { figures: Figures::new("Direct") }
    }

    /// Calls it; gives a future that is done.
    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn run(
        &self,
        r#fn: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<Future>> {
        let py = r#fn.py();
        let context = gil::copy_context(py)?;
        let future = Future::pending(py, Source::Taken)?;
        let running = self.figures.run(py, || What::Function(r#fn.clone().unbind()));
        let result = gil::within(py, Some(&context), |_| r#fn.call(args, kwargs));
        drop(running);
        match result.and_then(|value| call::given(r#fn, value)).map(Bound::unbind) {
            Err(error) if gil::is_interrupt(py, &error) => return Err(error),
            result => Future::settle(&future, py, Finished::Python(result))?,
        }
        Ok(future)
    }

    /// Runs an operation here and now, and gives its result.
    fn perform(&self, py: Python<'_>, op: &Op) -> PyResult<Py<PyAny>> {
        op.perform(py, Some(&self.figures))
    }

    /// `count` begun, `waiting` and `running` now, and the histograms `wait`, `run` and `lag`, in seconds.
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
    #[pyo3(signature = (semaphore, /, *, pool = None, on_unsupported = "dispatch"))]
    fn new(semaphore: Py<Semaphore>, pool: Option<Py<DispatchPool>>, on_unsupported: &str) -> PyResult<Self> {
        let otherwise = Otherwise::parse(on_unsupported)?;
        Ok(Self { semaphore, pool, otherwise, figures: Figures::new("Permit") })
    }

    /// Starts it; gives a future, or a task on a loop that can be handed over.
    ///
    /// Cancelled before it has begun, it never runs, and its place or its permit goes to the next; after that it runs to
    /// its end, holding the permit, and its result is dropped. It, or what it gives, raises SemaphoreClosed, PoolFull,
    /// PoolClosed, and with `on_unsupported="error"` HandoverError.
    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn run<'py>(
        this: &Bound<'py, Self>,
        r#fn: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let permit = this.get();
        let here = loops::running(py)?.is_some_and(|event_loop| baton::hands_over(&event_loop));
        let call = |context| Call::new(r#fn, args, kwargs, context).counted(&permit.figures);
        if permit.otherwise == Otherwise::Dispatch && !here {
            return permit.start(py, call(Some(gil::copy_context(py)?)));
        }
        let permitted = Permitted { func: r#fn.clone().unbind(), call: Mutex::new(Some(call(None))) };
        py.import(intern!(py, "penstock.blocking.handover"))?
            .call_method1(intern!(py, "run_permitted"), (this, permitted))
    }

    /// Runs on the pool what was to run in place.
    fn _dispatch<'py>(&self, py: Python<'py>, permitted: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let call = permitted.cast::<Permitted>()?.get().take()?;
        self.start(py, call.within(gil::copy_context(py)?))
    }

    #[getter]
    fn on_unsupported(&self) -> &'static str {
        self.otherwise.word()
    }

    #[getter]
    fn semaphore(&self, py: Python<'_>) -> Py<Semaphore> {
        self.semaphore.clone_ref(py)
    }

    #[getter]
    fn pool(&self, py: Python<'_>) -> PyResult<Py<DispatchPool>> {
        pool_or_default(py, self.pool.as_ref())
    }

    /// `count` begun, `waiting` and `running` now, and the histograms `wait`, `run` and `lag`, in seconds.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.figures.stats(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let semaphore = self.semaphore.bind(py).repr()?;
        match self.otherwise {
            Otherwise::Dispatch => Ok(format!("Permit({semaphore})")),
            otherwise => Ok(format!("Permit({semaphore}, on_unsupported={:?})", otherwise.word())),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.pool)
    }
}

#[pymethods]
impl Dispatch {
    #[new]
    #[pyo3(signature = (pool = None, /))]
    fn new(pool: Option<Py<DispatchPool>>) -> Self {
        Self { pool, figures: Figures::new("Dispatch") }
    }

    /// `run` of the pool.
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

    /// `count` begun, `waiting` and `running` now, and the histograms `wait`, `run` and `lag`, in seconds.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.figures.stats(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        match &self.pool {
            Some(pool) => Ok(format!("Dispatch({})", pool.bind(py).repr()?)),
            None => Ok("Dispatch()".to_owned()),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.pool)
    }
}
