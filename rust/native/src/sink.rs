//! The class behind `penstock.BodySink` and `penstock.AsyncBodySink`.

use crate::budget::Budget;
use crate::buffer;
use crate::errors::Raise;
use crate::image::Image;
use crate::op::Op;
use crate::size;
use crate::tunables::Tunables;
use penstock_core::body::{BodySink, Budget as CoreBudget, Errand, SharedSink};
use penstock_core::sync::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Arc;

/// The next work of a sink as an op.
pub fn work(sink: &SharedSink, all: bool) -> Option<Op> {
    let errand = Errand::new(sink, all)?;
    Some(Op::new("BodySink.write", move || errand.run(), |py, ()| Ok(py.None())))
}

#[pyclass(frozen, subclass, module = "penstock._native")]
pub struct Sink {
    sink: Mutex<Option<SharedSink>>,
}

impl Sink {
    fn open(&self) -> PyResult<SharedSink> {
        self.sink.lock().clone().ok_or_else(|| PyValueError::new_err("the sink was prepared or closed"))
    }
}

#[pymethods]
impl Sink {
    #[new]
    #[pyo3(signature = (tunables, budget=None, size_hint=None))]
    fn new(
        tunables: Option<&Tunables>,
        budget: Option<&Budget>,
        size_hint: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let size_hint: Option<i128> = size::wide(u64::MAX, "size_hint", size_hint)?;
        let tunables = tunables.map_or_else(Arc::default, |tunables| tunables.0.clone());
        let budget = budget.map_or_else(CoreBudget::shared, |budget| budget.0.clone());
        let large = size_hint.is_some_and(|hint| hint > i128::from(tunables.max_body_ram));
        let mut sink = BodySink::new(tunables, budget);
        if large {
            sink.spill();
        }
        Ok(Self { sink: Mutex::new(Some(Arc::new(Mutex::new(sink)))) })
    }

    /// Takes `bytes` without a copy and a copy of any other buffer.
    fn take(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        buffer::give_back(py);
        let sink = self.open()?;
        if data.is_exact_instance_of::<PyBytes>() {
            let piece = buffer::bytes_of(data)?;
            // An error is made without the lock: that runs Python code, and so do other threads meanwhile.
            let pushed = sink.lock().push(piece);
            return pushed.raise(py);
        }
        let pushed = buffer::with_slice(data, |slice| Ok(sink.lock().push_copy(slice)))?;
        pushed.raise(py)
    }

    /// What is to be written or digested now, as an `Op`; with `all`, whatever is left.
    fn work(&self, all: bool) -> PyResult<Option<Op>> {
        Ok(work(&self.open()?, all))
    }

    /// A write that failed is the next work once more.
    fn retry(&self) -> PyResult<()> {
        self.open()?.lock().retry();
        Ok(())
    }

    fn spill(&self) -> PyResult<()> {
        self.open()?.lock().spill();
        Ok(())
    }

    /// The image; the sink is closed afterwards. What is still to be written is written here.
    fn finish(&self, py: Python<'_>) -> PyResult<Image> {
        let sink = self.open()?;
        let image = py.detach(|| {
            let mut sink = sink.lock();
            (!sink.is_busy()).then(|| sink.prepare())
        });
        buffer::give_back(py);
        let busy = || PyRuntimeError::new_err("a write of the sink is under way");
        let image = image.ok_or_else(busy)?.raise(py)?;
        *self.sink.lock() = None;
        Ok(Image::of(image))
    }

    /// An op that makes the image of what could be kept of a body that failed; the sink is closed at once.
    fn salvage(&self) -> PyResult<Op> {
        let sink = self.open()?;
        *self.sink.lock() = None;
        Ok(Op::new("BodySink.salvage", move || Ok(sink.lock().salvage()), Image::object))
    }

    /// Drops what was collected. A work that is out goes on, for nobody.
    fn discard(&self) {
        *self.sink.lock() = None;
    }

    #[getter]
    fn closed(&self) -> bool {
        self.sink.lock().is_none()
    }

    #[getter]
    fn is_ram(&self) -> PyResult<bool> {
        Ok(self.open()?.lock().is_ram())
    }

    /// Whether so much is unwritten, here or in all sinks, that no more should be taken until a write has come back.
    #[getter]
    fn crowded(&self) -> PyResult<bool> {
        Ok(self.open()?.lock().is_crowded())
    }

    /// Whether an op of this sink's is out.
    #[getter]
    fn busy(&self) -> PyResult<bool> {
        Ok(self.open()?.lock().is_busy())
    }

    #[getter]
    fn write_calls(&self) -> PyResult<u64> {
        Ok(self.open()?.lock().write_calls())
    }

    fn __len__(&self) -> PyResult<usize> {
        Ok(usize::try_from(self.open()?.lock().len())?)
    }

    fn __bool__(&self) -> bool {
        true
    }
}
