//! The class `Budget`.

use crate::size;
use penstock_core::body::Budget as Core;
use penstock_core::error::Resource;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::Arc;

const RESOURCES: [Resource; 3] = [Resource::Ram, Resource::Disk, Resource::Files];

/// What all bodies together may hold: `ram` and `disk` in bytes or text with a unit, `files` in descriptors.
/// Keyword-only; what isn't given follows from the machine. `Budget.shared()` is the process's.
#[pyclass(frozen, weakref, module = "penstock")]
pub struct Budget(pub Arc<Core>);

#[pymethods]
impl Budget {
    #[new]
    #[pyo3(signature = (*, ram=None, disk=None, files=None))]
    fn new(
        ram: Option<&Bound<'_, PyAny>>,
        disk: Option<&Bound<'_, PyAny>>,
        files: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let (ram, disk) = (size::optional("ram", ram)?, size::optional("disk", disk)?);
        Ok(Self(Core::new(ram, disk, size::count(u64::MAX, "files", files)?)))
    }

    /// The process's own, which everything uses that wasn't given another.
    #[staticmethod]
    fn shared() -> Self {
        Self(Core::shared())
    }

    #[getter]
    fn ram(&self) -> u64 {
        self.0.meter(Resource::Ram).limit()
    }

    #[getter]
    fn disk(&self) -> Option<u64> {
        Some(self.0.meter(Resource::Disk).limit()).filter(|limit| *limit < u64::MAX)
    }

    #[getter]
    fn files(&self) -> u64 {
        self.0.meter(Resource::Files).limit()
    }

    /// For each of ram, disk and files: `limit`, `used` and `peak`.
    pub fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = PyDict::new(py);
        for resource in RESOURCES {
            let meter = self.0.meter(resource);
            let entry = PyDict::new(py);
            entry.set_item("limit", Some(meter.limit()).filter(|limit| *limit < u64::MAX))?;
            entry.set_item("used", meter.used())?;
            entry.set_item("peak", meter.peak())?;
            stats.set_item(resource.name(), entry)?;
        }
        Ok(stats)
    }

    fn __repr__(&self) -> String {
        let part = |resource: Resource| {
            let meter = self.0.meter(resource);
            let limit = match meter.limit() {
                u64::MAX => "not yet known".to_owned(),
                limit => limit.to_string(),
            };
            format!("{}={limit} ({} used)", resource.name(), meter.used())
        };
        format!("<Budget {}>", RESOURCES.map(part).join(", "))
    }
}
