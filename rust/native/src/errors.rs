//! The only place that makes a `PyErr` from the core's [`Error`]: one exhaustive match to the classes that
//! `penstock.errors` declares.

use penstock_core::Error;
use penstock_core::body::file::is_full;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

static ERRORS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// `penstock.errors.<class>(message, **fields)`, or the error that making it raised.
pub fn declared(
    py: Python<'_>,
    class: &str,
    args: impl for<'py> pyo3::call::PyCallArgs<'py>,
    fields: &[(&str, Py<PyAny>)],
) -> PyErr {
    let make = || {
        let errors = ERRORS.get_or_try_init(py, || py.import("penstock.errors").map(Bound::unbind))?;
        let kwargs = PyDict::new(py);
        for (name, value) in fields {
            kwargs.set_item(name, value)?;
        }
        errors.bind(py).getattr(class)?.call(args, Some(&kwargs))
    };
    make().map_or_else(|error| error, PyErr::from_value)
}

fn object<'py>(py: Python<'py>, value: impl IntoPyObjectExt<'py>) -> Py<PyAny> {
    value.into_py_any(py).unwrap_or_else(|_| py.None())
}

fn limit(py: Python<'_>, class: &str, message: String, seen: u64, limit: u64, setting: &str) -> PyErr {
    let fields = [("seen", object(py, seen)), ("limit", object(py, limit)), ("setting", object(py, setting))];
    declared(py, class, (message,), &fields)
}

/// Maps a core error to its Python exception.
pub fn to_py(py: Python<'_>, error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::BodyTooLong { seen, limit: l } => limit(py, "BodyTooLong", message, seen, l, "Tunables.max_body"),
        Error::ContentLengthTooLong { seen, limit: l } => {
            limit(py, "ContentLengthTooLong", message, seen, l, "Tunables.max_body")
        }
        Error::HeadTooLong { seen, limit: l, setting, .. } => limit(py, "HeadTooLong", message, seen, l, setting),
        Error::DecodedTooLong { seen, limit: l, setting } => limit(py, "DecodedTooLong", message, seen, l, setting),
        Error::BudgetExceeded { resource, wanted, used, limit, hopeless } => {
            let fields = [
                ("resource", object(py, resource.name())),
                ("wanted", object(py, wanted)),
                ("used", object(py, used)),
                ("limit", object(py, limit)),
                ("hopeless", object(py, hopeless)),
            ];
            declared(py, "BudgetExceeded", (message,), &fields)
        }
        Error::StorageFull { source, dir } => {
            let errno = source.raw_os_error().unwrap_or(0);
            declared(py, "StorageFull", (errno, message, dir.into_os_string()), &[])
        }
        Error::Truncated { received, expected } => {
            let fields = [("received", object(py, received)), ("expected", object(py, expected))];
            declared(py, "Truncated", (message,), &fields)
        }
        Error::CutCoding { received, .. } => {
            let fields = [("received", object(py, received)), ("expected", py.None())];
            declared(py, "Truncated", (message,), &fields)
        }
        Error::Decode { coding, at, .. } => {
            let fields = [("coding", object(py, coding)), ("at", object(py, at))];
            declared(py, "DecodeError", (message,), &fields)
        }
        Error::UnsupportedEncoding { coding } => {
            declared(py, "UnsupportedEncoding", (message,), &[("coding", object(py, coding))])
        }
        Error::TooManyCodings { .. } => declared(py, "UnsupportedEncoding", (message,), &[]),
        Error::ConnectionLost(_) => declared(py, "ConnectionLost", (message,), &[]),
        Error::Protocol { at, .. } => declared(py, "ProtocolError", (message,), &[("at", object(py, at))]),
        Error::Archive { offset, damage, end } => {
            let fields =
                [("offset", object(py, offset)), ("kind", object(py, damage.name())), ("end", object(py, end))];
            declared(py, "ArchiveError", (message,), &fields)
        }
        Error::ArchiveClosed => PyValueError::new_err(message),
        Error::SemaphoreClosed => declared(py, "SemaphoreClosed", (message,), &[]),
        Error::NotAcquired => declared(py, "PermitError", (message,), &[]),
        Error::PoolFull { limit } => declared(py, "PoolFull", (message,), &[("limit", object(py, limit))]),
        Error::PoolClosed => declared(py, "PoolClosed", (message,), &[]),
        Error::Setting { .. } => PyValueError::new_err(message),
        Error::TempDir { source, dir: path } | Error::File { source, path, .. } => match source.raw_os_error() {
            Some(errno) if is_full(errno) => declared(py, "StorageFull", (errno, message, path.into_os_string()), &[]),
            Some(errno) => PyOSError::new_err((errno, message, path.into_os_string())),
            None => PyOSError::new_err(message),
        },
        Error::Io { source, .. } | Error::NoThread { source, .. } => match source.raw_os_error() {
            Some(errno) => PyOSError::new_err((errno, message)),
            None => PyOSError::new_err(message),
        },
        Error::SinkFailed => PyOSError::new_err(message),
        Error::Cancelled => match py.import("asyncio").and_then(|m| m.getattr("CancelledError")?.call0()) {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        },
        Error::Internal(_) => declared(py, "InternalError", (message,), &[]),
    }
}

/// `result.raise(py)?`
pub trait Raise<T> {
    fn raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> Raise<T> for penstock_core::Result<T> {
    fn raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| to_py(py, error))
    }
}
