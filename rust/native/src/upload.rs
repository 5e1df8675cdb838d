//! A body on its way from its file to a socket, for the sending half of a connection.

use crate::errors::Raise;
use crate::image::Image;
use crate::op::Op;
use penstock_core::body::Upload as Core;
use penstock_core::sync::Mutex;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use std::os::fd::RawFd;
use std::sync::Arc;

#[pyclass(frozen, module = "penstock._native")]
pub struct Upload {
    core: Arc<Mutex<Core>>,
    fd: RawFd,
}

#[pymethods]
impl Upload {
    /// `None` if the image isn't in a file: then its pieces are sent.
    #[staticmethod]
    fn of(py: Python<'_>, image: &Image, fd: RawFd) -> PyResult<Option<Self>> {
        let core = Core::new(&image.core, fd).raise(py)?;
        Ok(core.map(|core| Self { fd: core.socket(), core: Arc::new(Mutex::new(core)) }))
    }

    /// The socket under a number of its own, to wait for room with; open as long as this object.
    #[getter]
    fn fd(&self) -> RawFd {
        self.fd
    }

    /// Sends what the socket takes now, without waiting for the peer: how many bytes that were.
    fn step(&self) -> Op {
        let core = self.core.clone();
        Op::new("Upload.step", move || core.lock().step(), |py, sent| sent.into_py_any(py))
    }
}
