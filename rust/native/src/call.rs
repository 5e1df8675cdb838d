//! A Python call that waits to be made: the function, its arguments, the context it runs in, and what it holds until it
//! has run. Dropped unrun, it gives back what it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use penstock_core::permit::Grant;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::gil;

pub struct Call {
    func: Py<PyAny>,
    args: Py<PyTuple>,
    kwargs: Option<Py<PyDict>>,
    context: Option<Py<PyAny>>,
    grant: Option<Grant>,
    counts: Option<Arc<Counts>>,
}

/// How often and how many at this moment.
#[derive(Debug, Default)]
pub struct Counts {
    pub count: AtomicUsize,
    pub running: AtomicUsize,
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
            counts: None,
        }
    }

    /// Holds permits until it has run.
    pub fn holding(mut self, grant: Grant) -> Self {
        self.grant = Some(grant);
        self
    }

    /// Is counted while it runs.
    pub fn counted(mut self, counts: &Arc<Counts>) -> Self {
        self.counts = Some(Arc::clone(counts));
        self
    }

    pub fn func<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.func.bind(py)
    }

    pub fn invoke(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let running = self.counts.as_deref().map(Running::new);
        let result = gil::within(py, self.context.as_ref(), |py| {
            if self.kwargs.is_none() && self.args.bind(py).is_empty() {
                self.func.call0(py)
            } else {
                self.func.call(py, self.args.bind(py), self.kwargs.as_ref().map(|kwargs| kwargs.bind(py)))
            }
        });
        drop(running);
        result
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.func)?;
        visit.call(&self.args)?;
        visit.call(&self.kwargs)?;
        visit.call(&self.context)
    }
}

struct Running<'a>(&'a Counts);

impl<'a> Running<'a> {
    fn new(counts: &'a Counts) -> Self {
        counts.count.fetch_add(1, Ordering::Relaxed);
        counts.running.fetch_add(1, Ordering::Relaxed);
        Self(counts)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
