//! The class `Tunables`.

use crate::errors::Raise;
use crate::path::FilePath;
use crate::size;
use penstock_core::body::digest::Algorithm;
use penstock_core::body::tunables::{Given, Tunables as Core};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use std::sync::Arc;

/// Limits of one body, and where it goes: `max_body_ram` (192 KiB), `max_body` (1 GiB), `max_ratio` (none),
/// `buffer_size_fs` (64 KiB), `temp_dir`, `digests`. Sizes in bytes, or text with a unit. Keyword-only; it can't be
/// changed, `replace` gives another.
#[pyclass(frozen, eq, module = "penstock")]
pub struct Tunables(pub Arc<Core>, Limits);

/// `max_body_ram` and `max_body` as they were given: in a copy with other limits, too, the one that wasn't follows.
struct Limits {
    max_body_ram: Option<u64>,
    max_body: Option<u64>,
}

impl PartialEq for Tunables {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

#[pymethods]
impl Tunables {
    #[new]
    #[pyo3(signature = (
        *, max_body_ram=None, max_body=None, max_ratio=None, buffer_size_fs=None, temp_dir=None, digests=None
    ))]
    fn new(
        py: Python<'_>,
        max_body_ram: Option<&Bound<'_, PyAny>>,
        max_body: Option<&Bound<'_, PyAny>>,
        max_ratio: Option<&Bound<'_, PyAny>>,
        buffer_size_fs: Option<&Bound<'_, PyAny>>,
        temp_dir: Option<FilePath>,
        digests: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let mut algorithms = Vec::new();
        if let Some(names) = digests {
            let wrong =
                || PyTypeError::new_err(format!("digests={names:?}: a sequence of names, such as (\"sha256\",)"));
            if names.is_instance_of::<PyString>() {
                return Err(wrong());
            }
            for name in names.try_iter().map_err(|_| wrong())? {
                let name = name?;
                let name = name.cast::<PyString>().map_err(|_| wrong())?;
                algorithms.push(Algorithm::parse(&name.to_string_lossy()).raise(py)?);
            }
        }
        let limits = Limits {
            max_body_ram: size::optional("max_body_ram", max_body_ram)?,
            max_body: size::optional("max_body", max_body)?,
        };
        let given = Given {
            max_body_ram: limits.max_body_ram,
            max_body: limits.max_body,
            max_ratio: size::count(u64::MAX, "max_ratio", max_ratio)?,
            buffer_size_fs: size::optional("buffer_size_fs", buffer_size_fs)?,
            temp_dir: temp_dir.map(|FilePath(dir)| dir),
            digests: algorithms,
        };
        Ok(Self(Arc::new(Core::try_from(given).raise(py)?), limits))
    }

    #[getter]
    fn max_body_ram(&self) -> u64 {
        self.0.max_body_ram
    }

    #[getter]
    fn max_body(&self) -> u64 {
        self.0.max_body
    }

    #[getter]
    fn max_ratio(&self) -> Option<u64> {
        self.0.max_ratio
    }

    #[getter]
    fn buffer_size_fs(&self) -> usize {
        self.0.buffer_size_fs
    }

    #[getter]
    fn temp_dir<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.temp_dir.as_ref().map(|dir| dir.into_pyobject(py).map(Bound::into_any)).transpose()
    }

    #[getter]
    fn digests<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.digests.iter().map(|algorithm| algorithm.name()))
    }

    /// The same with some fields changed.
    #[pyo3(signature = (**changes))]
    fn replace<'py>(slf: Bound<'py, Self>, changes: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        let fields = slf.get().given(slf.py())?;
        if let Some(changes) = changes {
            fields.update(changes.as_mapping())?;
        }
        slf.get_type().call((), Some(&fields))
    }

    /// For `copy.replace`, from CPython 3.13 on.
    #[pyo3(signature = (**changes))]
    fn __replace__<'py>(slf: Bound<'py, Self>, changes: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        Self::replace(slf, changes)
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<((), Bound<'py, PyDict>)> {
        Ok(((), self.given(py)?))
    }

    fn __hash__(&self) -> u64 {
        self.0.max_body.rotate_left(32) ^ self.0.max_body_ram
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let fields = self.fields(py)?.iter().map(|(name, value)| Ok(format!("{name}={}", value.repr()?)));
        Ok(format!("Tunables({})", fields.collect::<PyResult<Vec<_>>>()?.join(", ")))
    }
}

impl Tunables {
    /// As they were given.
    fn given<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let fields = self.fields(py)?;
        fields.set_item("max_body_ram", self.1.max_body_ram)?;
        fields.set_item("max_body", self.1.max_body)?;
        Ok(fields)
    }

    /// As they hold.
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let fields = PyDict::new(py);
        fields.set_item("max_body_ram", self.max_body_ram())?;
        fields.set_item("max_body", self.max_body())?;
        fields.set_item("max_ratio", self.max_ratio())?;
        fields.set_item("buffer_size_fs", self.buffer_size_fs())?;
        fields.set_item("temp_dir", self.temp_dir(py)?)?;
        fields.set_item("digests", self.digests(py)?)?;
        Ok(fields)
    }
}
