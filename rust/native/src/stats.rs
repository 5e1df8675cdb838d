//! Figures of what bodies share in a process, and the calls that tests and tidy programs use on it.

use crate::buffer;
use crate::filepool;
use crate::size;
use penstock_core::body::{Pools, file, reaper, writer};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::time::Duration;

/// Of the slabs: bytes lent and idle, bytes held in all, how many were recycled and how many newly mapped; and the
/// bytes that sinks have not yet written.
#[pyfunction]
pub fn slab_stats(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    buffer::give_back(py);
    let slabs = Pools::current().slabs.stats();
    let stats = PyDict::new(py);
    stats.set_item("lent", slabs.lent)?;
    stats.set_item("idle", slabs.idle)?;
    stats.set_item("held", slabs.lent + slabs.idle)?;
    stats.set_item("recycled", slabs.recycled)?;
    stats.set_item("mapped", slabs.mapped)?;
    stats.set_item("unwritten", writer::unwritten())?;
    Ok(stats)
}

/// Of all pools of files: bytes and files that wait for the next body, and how often one was recycled.
#[pyfunction]
pub fn file_pool_stats(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    filepool::dict(py, Pools::current().file_pool_stats())
}

/// Unmaps the slabs that nobody uses. May take long: not for a loop's thread.
#[pyfunction]
pub fn trim(py: Python<'_>) {
    py.detach(|| Pools::current().slabs.trim(Duration::ZERO));
}

/// In the parent, after a fork: what was alive at the fork is the child's, too.
#[pyfunction]
pub fn _after_fork_in_parent() {
    Pools::after_fork_in_parent();
}

/// Waits until what was dropped so far is freed, at most so many seconds; true if it is.
#[pyfunction]
pub fn settle(py: Python<'_>, timeout: &Bound<'_, PyAny>) -> PyResult<bool> {
    let timeout = size::seconds("timeout", timeout)?;
    let settled = py.detach(|| reaper::settle(timeout));
    buffer::give_back(py);
    Ok(settled)
}

/// Has each write of a body take longer by so many seconds, in the whole process: a slow disk, for tests.
#[pyfunction]
pub fn _delay_writes(seconds: f64) {
    file::delay_writes(Duration::try_from_secs_f64(seconds).unwrap_or_default());
}

/// Where bodies go when `Tunables.temp_dir` is `None`.
#[pyfunction]
pub fn default_temp_dir() -> PathBuf {
    file::default_temp_dir()
}
