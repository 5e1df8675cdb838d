//! A response's head as Python sees it: raw until somebody looks.

use crate::errors::Raise;
use penstock_core::http::{Head as Core, Version};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple, PyType};

/// Lines for which there is room at first: most heads have no more.
const FEW: usize = 24;

#[pyclass(frozen, module = "penstock._native")]
pub struct Head {
    core: Core,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Head {
    pub fn of(core: Core, trailers: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        Self { core, trailers }
    }
}

/// Field values are latin-1 (RFC 9110 section 5.5 calls what lies outside ASCII opaque).
pub fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    if let Ok(text) = str::from_utf8(bytes)
        && bytes.is_ascii()
    {
        return PyString::new(py, text);
    }
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    PyString::new(py, &text)
}

pub fn pairs<'py>(
    py: Python<'py>,
    fields: impl Iterator<Item = (impl AsRef<[u8]>, impl AsRef<[u8]>)>,
) -> PyResult<Bound<'py, PyTuple>> {
    let mut lines = Vec::with_capacity(FEW);
    for (name, value) in fields {
        lines.push((PyBytes::new(py, name.as_ref()), PyBytes::new(py, value.as_ref())).into_pyobject(py)?);
    }
    PyTuple::new(py, lines)
}

#[pymethods]
impl Head {
    /// The head that `__reduce__` took apart.
    #[new]
    fn new(py: Python<'_>, raw: &[u8], trailers: Vec<(Vec<u8>, Vec<u8>)>) -> PyResult<Self> {
        Ok(Self { core: Core::from_raw(raw).raise(py)?, trailers })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyType>, Bound<'py, PyTuple>)> {
        let py = slf.py();
        let raw = PyBytes::new(py, slf.get().core.raw());
        Ok((slf.get_type(), (raw, slf.get().trailers(py)?).into_pyobject(py)?))
    }

    #[getter]
    fn status(&self) -> u16 {
        self.core.status
    }

    #[getter]
    fn version(&self) -> &'static str {
        match self.core.version {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        }
    }

    #[getter]
    fn reason<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        latin1(py, self.core.reason())
    }

    /// Status line, field lines and the empty line, as received.
    #[getter]
    fn raw<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.core.raw())
    }

    /// Names and values as received, in order.
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        pairs(py, self.core.headers())
    }

    fn trailers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        pairs(py, self.trailers.iter().map(|(name, value)| (name, value)))
    }

    /// The first value of a field, its name in any case.
    fn get<'py>(&self, py: Python<'py>, name: &str) -> Option<Bound<'py, PyString>> {
        self.core.get(name).map(|value| latin1(py, value))
    }

    fn get_all<'py>(&self, py: Python<'py>, name: &str) -> Vec<Bound<'py, PyString>> {
        let named = self.core.headers().filter(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, value)| latin1(py, value)).collect()
    }

    fn __len__(&self) -> usize {
        self.core.len()
    }
}
