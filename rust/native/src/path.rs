//! Paths from Python.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// One that the system can be given; any other is a `ValueError`, as where Python opens a file.
pub struct FilePath(pub PathBuf);

impl FromPyObject<'_, '_> for FilePath {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let path: PathBuf = value.extract()?;
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(PyValueError::new_err(format!("{path:?}: a path can't hold a NUL")));
        }
        Ok(Self(path))
    }
}
