//! A Python call that waits to be made: the function, its arguments, the context it runs in, and what it holds until it
//! has run. Dropped unrun, it gives back what it holds.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use penstock_core::permit::Grant;
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::figures::{Figures, Stay};
use crate::gil;
use crate::loops;
use crate::running::{self, What};

/// What pools run for no policy goes by this name with those who watch loops.
static POOLS: LazyLock<Arc<Figures>> = LazyLock::new(|| Figures::new("DispatchPool"));

pub struct Call {
    func: Py<PyAny>,
    args: Py<PyTuple>,
    kwargs: Option<Py<PyDict>>,
    context: Option<Py<PyAny>>,
    grant: Option<Grant>,
    stay: Option<Stay>,
}

impl Call {
    pub fn new(
        func: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
        context: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            func: func.clone().unbind(),
            args: args.clone().unbind(),
            kwargs: kwargs.map(|kwargs| kwargs.clone().unbind()),
            context,
            grant: None,
            stay: None,
        }
    }

    /// Holds permits until it has run.
    pub fn holding(mut self, grant: Grant) -> Self {
        self.grant = Some(grant);
        self
    }

    /// Runs in this context.
    pub fn within(mut self, context: Py<PyAny>) -> Self {
        self.context = Some(context);
        self
    }

    /// Is in a policy's figures while it waits, from now on, and while it runs.
    pub fn counted(mut self, figures: &Arc<Figures>) -> Self {
        self.stay = Some(figures.wait());
        self
    }

    pub fn func<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.func.bind(py)
    }

    /// `clock` is the present time, before and after.
    pub fn invoke(mut self, py: Python<'_>, clock: &mut Instant) -> PyResult<Py<PyAny>> {
        let what = || What::Function(self.func.clone_ref(py));
        let mut stay = self.stay.take();
        let mark = match &mut stay {
            Some(stay) => {
                stay.run(py, *clock, what);
                None
            }
            None => running::mark(py, &POOLS, what),
        };
        let result = gil::within(py, self.context.as_ref(), |py| {
            if self.kwargs.is_none() && self.args.bind(py).is_empty() {
                self.func.call0(py)
            } else {
                self.func.call(py, self.args.bind(py), self.kwargs.as_ref().map(|kwargs| kwargs.bind(py)))
            }
        });
        drop(mark);
        *clock = Instant::now();
        if let Some(stay) = stay {
            stay.end(*clock);
        }
        result.and_then(|value| given(self.func.bind(py), value.into_bound(py)).map(Bound::unbind))
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.func)?;
        visit.call(&self.args)?;
        visit.call(&self.kwargs)?;
        visit.call(&self.context)
    }
}

/// What a function gave; a TypeError if that is the coroutine of an asynchronous one, none of which has run. What would
/// tell so before the call costs more than many a call.
pub fn given<'py>(func: &Bound<'py, PyAny>, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = func.py();
    if !value.get_type().is(&loops::names(py)?.coroutine) || !is_asynchronous(func)? {
        return Ok(value);
    }
    value.call_method0(intern!(py, "close"))?;
    let name = func.getattr(intern!(py, "__qualname__")).or_else(|_| func.repr().map(Bound::into_any))?;
    let message = format!("{name} is an asynchronous function, which blocks nothing: await it on the event loop");
    Err(PyTypeError::new_err(message))
}

pub fn is_asynchronous(func: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = func.py();
    let asks = py.import(intern!(py, "inspect"))?.getattr(intern!(py, "iscoroutinefunction"))?;
    let call = func.getattr(intern!(py, "__call__"))?;
    Ok(asks.call1((func,))?.is_truthy()? || asks.call1((call,))?.is_truthy()?)
}
