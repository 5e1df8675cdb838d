//! The class `FilePool`.

use crate::size;
use penstock_core::body::{FilePool as Core, FilePoolStats};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::Arc;
use std::time::Duration;

/// Files that are kept, with their mappings, to be used for the next bodies: `max_bytes` of them (256 MiB), each for
/// `max_age` seconds (30). Keyword-only.
#[pyclass(frozen, weakref, module = "penstock")]
pub struct FilePool {
    pub core: Arc<Core>,
    max_bytes: u64,
    max_age: f64,
}

/// Of one pool, or of all.
pub fn dict(py: Python<'_>, figures: FilePoolStats) -> PyResult<Bound<'_, PyDict>> {
    let stats = PyDict::new(py);
    stats.set_item("idle", figures.idle)?;
    stats.set_item("files", figures.files)?;
    stats.set_item("recycled", figures.recycled)?;
    Ok(stats)
}

fn max_age(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    size::seconds("max_age", value)?;
    value.extract()
}

#[pymethods]
impl FilePool {
    #[new]
    #[pyo3(signature = (*, max_bytes=None, max_age=30.0))]
    fn new(max_bytes: Option<&Bound<'_, PyAny>>, #[pyo3(from_py_with = self::max_age)] max_age: f64) -> PyResult<Self> {
        let max_bytes = size::optional("max_bytes", max_bytes)?.unwrap_or(256 << 20);
        let age = Duration::try_from_secs_f64(max_age).unwrap_or_default();
        Ok(Self { core: Core::new(max_bytes, age), max_bytes, max_age })
    }

    #[getter]
    fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    #[getter]
    fn max_age(&self) -> f64 {
        self.max_age
    }

    /// `idle` bytes in so many `files`, and how often one was `recycled`.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        dict(py, self.core.stats())
    }

    /// Closes the idle files. May take long: not for a loop's thread.
    fn clear(&self, py: Python<'_>) {
        py.detach(|| self.core.clear());
    }

    fn __repr__(&self) -> String {
        let figures = self.core.stats();
        format!("<FilePool {} of {} bytes idle in {} files>", figures.idle, self.max_bytes, figures.files)
    }
}
