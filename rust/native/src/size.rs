//! Sizes from Python: an int counts bytes, a string needs a unit, and a bool is a mistake. And other whole numbers, of which
//! those that are out of range are ValueErrors that name the setting.

use crate::errors::to_py;
use penstock_core::{Error, size};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
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
    up_to(u64::MAX, name, value)
}

/// A number from 0 to `most`; `name` is the setting that an error names.
pub fn up_to(most: u64, name: &'static str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let py = value.py();
    match value.extract() {
        Ok(number) if number <= most => return Ok(number),
        Err(error) if error.is_instance_of::<PyTypeError>(py) => {
            return Err(PyTypeError::new_err(format!("{name}={value:?}: not an int")));
        }
        Err(error) if !error.is_instance_of::<PyOverflowError>(py) => return Err(error),
        _ => {}
    }
    // Python doesn't write more than some thousand digits.
    let value = value.repr().map_or_else(|_| "<a huge int>".to_owned(), |repr| repr.to_string());
    let most = if most == u64::MAX { "2**64 - 1".to_owned() } else { most.to_string() };
    Err(to_py(py, Error::Setting { name, value, reason: format!("not between 0 and {most}") }))
}

/// How many of something.
pub fn number(name: &'static str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    Ok(usize::try_from(up_to(usize::MAX as u64, name, value)?)?)
}

/// A number or `None`, where who takes it says what is too much: only what no `T` holds is refused as by [`up_to`].
pub fn wide<'py, T>(most: u64, name: &'static str, value: Option<&Bound<'py, PyAny>>) -> PyResult<Option<T>>
where
    T: TryFrom<u64> + for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let Some(value) = value else { return Ok(None) };
    value.extract().map(Some).or_else(|_: PyErr| Ok(T::try_from(up_to(most, name, value)?).ok()))
}

pub fn optional(name: &'static str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    value.filter(|value| !value.is_none()).map(|value| bytes(name, value)).transpose()
}

/// A number from 0 to `most`, where no unit makes sense.
pub fn count(most: u64, name: &'static str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(None) };
    if value.is_instance_of::<PyBool>() || !value.is_instance_of::<PyInt>() {
        return Err(PyTypeError::new_err(format!("{name}={value:?}: not an int")));
    }
    up_to(most, name, value).map(Some)
}

/// A limit on what is read: bytes or a string with a unit; `None` is none.
#[pyfunction]
pub fn read_limit(value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    optional("limit", value)
}
