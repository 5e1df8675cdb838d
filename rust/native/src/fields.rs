//! Header lines of an archived record, as `penstock.Headers` looks at them.

use crate::errors::Raise;
use crate::head::{latin1, pairs};
use penstock_core::barc::Fields as Core;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

#[pyclass(frozen, eq, module = "penstock._native")]
#[derive(PartialEq)]
pub struct Fields(pub Core);

#[pymethods]
impl Fields {
    /// Of names and values; put in the order and form in which they are written.
    #[new]
    fn new(py: Python<'_>, pairs: Vec<(Vec<u8>, Vec<u8>)>) -> PyResult<Self> {
        let pairs = pairs.iter().map(|(name, value)| (&name[..], &value[..]));
        Ok(Self(Core::from_pairs(pairs).raise(py)?))
    }

    /// The same in that order and form, without looking at what is known to be in it.
    fn canonical(&self, py: Python<'_>) -> PyResult<Self> {
        Ok(Self(self.0.canonical().raise(py)?))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyType>, (Bound<'py, PyTuple>,))> {
        Ok((slf.get_type(), (slf.get().fields(slf.py())?,)))
    }

    /// Names, in lower case, and values, in order.
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        pairs(py, self.0.iter())
    }

    /// The first value of a field, its name in any case.
    fn get<'py>(&self, py: Python<'py>, name: &str) -> Option<Bound<'py, PyString>> {
        self.0.get(&name.to_ascii_lowercase()).map(|value| latin1(py, value))
    }

    fn get_all<'py>(&self, py: Python<'py>, name: &str) -> Vec<Bound<'py, PyString>> {
        let named = self.0.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, value)| latin1(py, value)).collect()
    }

    fn __len__(&self) -> usize {
        self.0.iter().count()
    }

    fn __hash__(&self) -> u64 {
        self.0.iter().fold(0, |sum, (name, value)| {
            name.iter().chain(value).fold(sum, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
        })
    }
}
