//! Sizes from Python: an int counts bytes, a string needs a unit, and a bool is a mistake.

use crate::errors::to_py;
use penstock_core::{Error, size};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyString};

/// `value` as bytes; `name` is the setting that an error names.
pub fn bytes(name: &'static str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let wrong = |what: &str| PyTypeError::new_err(format!("{name}={value:?}: {what}"));
    if value.is_instance_of::<PyBool>() {
        return Err(wrong("a bool is not a size"));
    }
    if let Ok(text) = value.cast::<PyString>() {
        return size::parse(name, text.to_str()?).map_err(|error| to_py(value.py(), error));
    }
    if !value.is_instance_of::<PyInt>() {
        return Err(wrong("a size is an int (bytes) or a string with a unit, such as \"64KiB\""));
    }
    value.extract().map_err(|_| PyValueError::new_err(format!("{name}={value:?}: not between 0 and 2**64 - 1")))
}

pub fn optional(name: &'static str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    value.filter(|value| !value.is_none()).map(|value| bytes(name, value)).transpose()
}

/// A count, where no unit makes sense.
pub fn count(name: &'static str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(None) };
    if value.is_instance_of::<PyBool>() || !value.is_instance_of::<PyInt>() {
        return Err(PyTypeError::new_err(format!("{name}={value:?}: not an int")));
    }
    value.extract().map(Some).map_err(|_| {
        let refusal = Error::Setting { name, value: value.to_string(), reason: "not between 0 and 2**64 - 1".into() };
        to_py(value.py(), refusal)
    })
}

/// A limit on what is read: bytes or a string with a unit; `None` is none.
#[pyfunction]
pub fn read_limit(value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    optional("limit", value)
}
