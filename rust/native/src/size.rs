//! Sizes from Python: an int counts bytes, a string needs a unit, and a bool is a mistake. And other whole numbers, of which
//! those that are out of range are ValueErrors that name the setting; so are seconds, and other floats.

use std::time::Duration;

use crate::errors::to_py;
use penstock_core::{Error, size};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyString};

/// `value` as bytes; `name` is the setting that an error names.
pub fn bytes(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let wrong = |what: &str| PyTypeError::new_err(format!("{name}={value:?}: {what}"));
    if value.is_instance_of::<PyBool>() {
        return Err(wrong("a bool is not a size"));
    }
    if let Ok(text) = value.cast::<PyString>() {
        return size::parse(name, &text.to_string_lossy()).map_err(|error| to_py(value.py(), error));
    }
    if !value.is_instance_of::<PyInt>() {
        return Err(wrong("a size is an int (bytes) or a string with a unit, such as \"64KiB\""));
    }
    up_to(u64::MAX, name, value)
}

/// A number from 0 to `most`; `name` is the setting that an error names.
pub fn up_to(most: u64, name: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let py = value.py();
    refuse_bool(name, value)?;
    match value.extract() {
        Ok(number) if number <= most => return Ok(number),
        Err(error) if error.is_instance_of::<PyTypeError>(py) => return Err(not_an_int(name, value)),
        Err(error) if !error.is_instance_of::<PyOverflowError>(py) => return Err(error),
        _ => {}
    }
    let most = if most == u64::MAX { "2**64 - 1".to_owned() } else { most.to_string() };
    Err(refused(name, value, format!("not between 0 and {most}")))
}

fn not_an_int(name: &str, value: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!("{name}={value:?}: not an int"))
}

/// Python takes it for 0 or 1.
fn refuse_bool(name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    if value.is_instance_of::<PyBool>() { Err(not_an_int(name, value)) } else { Ok(()) }
}

fn refused(name: &str, value: &Bound<'_, PyAny>, reason: String) -> PyErr {
    // Python doesn't write more than some thousand digits.
    let shown = value.repr().map_or_else(|_| "<a huge int>".to_owned(), |repr| repr.to_string());
    to_py(value.py(), Error::setting(name, shown, reason))
}

/// A number as a float; `name` is the setting that an error names.
pub fn float(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let py = value.py();
    let not_a_number = || PyTypeError::new_err(format!("{name}={value:?}: not a number"));
    if value.is_instance_of::<PyBool>() {
        return Err(not_a_number());
    }
    value.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(py) {
            refused(name, value, "more than a float holds".to_owned())
        } else if error.is_instance_of::<PyTypeError>(py) {
            not_a_number()
        } else {
            error
        }
    })
}

/// So many seconds at most: a century. Sums with times that are much later overflow.
const MOST_SECONDS: u32 = u32::MAX;

/// Seconds, from 0 on.
pub fn seconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    match Duration::try_from_secs_f64(float(name, value)?) {
        Ok(time) if time <= Duration::from_secs(MOST_SECONDS.into()) => Ok(time),
        _ => Err(refused(name, value, format!("not a number of seconds from 0 to {MOST_SECONDS}"))),
    }
}

/// How many of something.
pub fn number(name: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    Ok(usize::try_from(up_to(usize::MAX as u64, name, value)?)?)
}

/// A number or `None`, where who takes it says what is too much: only what no `T` holds is refused as by [`up_to`].
pub fn wide<'py, T>(most: u64, name: &str, value: Option<&Bound<'py, PyAny>>) -> PyResult<Option<T>>
where
    T: TryFrom<u64> + for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let Some(value) = value else { return Ok(None) };
    refuse_bool(name, value)?;
    value.extract().map(Some).or_else(|_: PyErr| Ok(T::try_from(up_to(most, name, value)?).ok()))
}

pub fn optional(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    value.filter(|value| !value.is_none()).map(|value| bytes(name, value)).transpose()
}

/// A number from 0 to `most`, where no unit makes sense.
pub fn count(most: u64, name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(None) };
    if !value.is_instance_of::<PyInt>() {
        return Err(not_an_int(name, value));
    }
    up_to(most, name, value).map(Some)
}

/// A limit on what is read: bytes or a string with a unit; `None` is none. `option` is what an error names.
#[pyfunction]
#[pyo3(signature = (value, option="limit"))]
pub fn read_limit(value: Option<&Bound<'_, PyAny>>, option: &str) -> PyResult<Option<u64>> {
    optional(option, value)
}
