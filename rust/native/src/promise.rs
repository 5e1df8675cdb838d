//! A [`Promise`] settles a future from any thread, and [`run_native`] makes one of an operation that a pool's worker runs
//! without the interpreter.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use penstock_core::dispatch::Native;
use penstock_core::{Error, Result};
use pyo3::prelude::*;

use crate::future::{Future, Source};
use crate::loops::{Completion, Convert, Finished};
use crate::pool::DispatchPool;
use crate::worker::Workers;

/// A promise to settle one future from any thread, attached or not. Dropped unkept, it fails the future with
/// InternalError.
pub struct Promise(Option<Py<Future>>);

impl Promise {
    /// For the running loop of this thread.
    pub fn pair(py: Python<'_>) -> PyResult<(Self, Py<Future>)> {
        let future = Future::pending(py, Source::Promise)?;
        Ok((Self(Some(future.clone_ref(py))), future))
    }

    /// Whether nobody waits any more: what would be done for it needs not be done.
    pub fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_none_or(|future| future.get().is_cancelled())
    }

    /// Keeps it. The value is made on the loop's thread.
    pub fn complete(mut self, result: Result<Convert>) {
        self.settle(Finished::Native(result));
    }

    fn cancel(mut self) {
        self.settle(Finished::Cancelled);
    }

    fn settle(&mut self, finished: Finished) {
        if let Some(future) = self.0.take() {
            let mailbox = Arc::clone(future.get().mailbox());
            drop(mailbox.post(Completion { future, finished }));
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if self.is_cancelled() {
            return;
        }
        self.settle(Finished::Native(Err(Error::Panic("an operation ended without a result".to_owned()))));
    }
}

/// Runs a native operation on the pool's threads, detached, and converts its result on the loop's thread.
pub fn run_native<T: Send + 'static>(
    py: Python<'_>,
    pool: &DispatchPool,
    op: impl FnOnce() -> Result<T> + Send + 'static,
    convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Py<Future>> {
    let (promise, future) = Promise::pair(py)?;
    let work: Work = Box::new(move |cancelled| {
        if cancelled {
            return promise.cancel();
        }
        let result = catch_unwind(AssertUnwindSafe(op)).unwrap_or_else(|panic| Err(Error::from_panic(&*panic)));
        promise.complete(result.map(|value| Box::new(move |py: Python<'_>| convert(py, value)) as Convert));
    });
    let cell: Cell = Arc::new(Mutex::new(Some(work)));
    let started = pool.start_native(py, |workers| {
        future.get().wait_for(Source::Operation(Arc::clone(&cell), Arc::clone(workers)));
        Box::new(Operation { cell, workers: Arc::clone(workers) })
    });
    // Refused, the work still lies in the future, and the future in the work's promise.
    started.inspect_err(|_| future.get().forsake())?;
    Ok(future)
}

/// Runs, or says that it never will. The future goes to its loop with that: a reference that a worker let go of would
/// only be noticed when some thread next calls this library, and the future's result be kept until then.
type Work = Box<dyn FnOnce(bool) + Send>;

/// Holds the work of a native operation until a worker or a cancellation takes it, whichever is first.
pub type Cell = Arc<Mutex<Option<Work>>>;

/// A native operation in the queue.
struct Operation {
    cell: Cell,
    workers: Arc<Workers>,
}

impl Native for Operation {
    fn run(self: Box<Self>) {
        let work = self.cell.lock().take();
        match work {
            Some(work) => work(false),
            None => self.workers.queue().buried(),
        }
    }

    fn cancel(self: Box<Self>) {
        let work = self.cell.lock().take();
        match work {
            Some(work) => work(true),
            None => self.workers.queue().buried(),
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cell.lock().is_none()
    }
}
