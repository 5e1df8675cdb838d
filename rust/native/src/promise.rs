//! A [`Promise`] settles a future from any thread, and an [`Operation`] does so when a pool's worker has run it, without the
//! interpreter.

use std::sync::Arc;

use penstock_core::dispatch::Native;
use penstock_core::{Error, Result};
use pyo3::prelude::*;

use crate::future::{Future, Source};
use crate::loops::{Completion, Convert, Finished};

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
        self.settle(Finished::Native(Err(Error::internal("an operation ended without a result"))));
    }
}

/// What a native operation does on a worker, detached.
pub type Work = Box<dyn FnOnce() -> Result<Convert> + Send>;

/// `op` runs anywhere, once; `convert` makes a Python value of its result, on the awaiting thread.
pub fn work<T: Send + 'static>(
    op: impl FnOnce() -> Result<T> + Send + 'static,
    convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> Work {
    Box::new(move || {
        let value = op()?;
        Ok(Box::new(move |py: Python<'_>| convert(py, value)) as Convert)
    })
}

/// A native operation in the queue. Its work lies in the future until a worker or a cancellation takes it, whichever is
/// first. The future goes to its loop in either case: a reference that a worker let go of would only be noticed when some
/// thread next calls this library, and the future's result be kept until then.
pub struct Operation(pub Py<Future>);

impl Operation {
    /// False: it had been cancelled.
    fn finish(self, finish: impl FnOnce(Work) -> Finished) -> bool {
        let Self(future) = self;
        let work = future.get().start_operation();
        let alive = work.is_some();
        let finished = work.map_or(Finished::Cancelled, finish);
        let mailbox = Arc::clone(future.get().mailbox());
        drop(mailbox.post(Completion { future, finished }));
        alive
    }
}

impl Native for Operation {
    fn run(self: Box<Self>) -> bool {
        self.finish(|work| Finished::Native(Error::caught(work).and_then(|done| done)))
    }

    fn cancel(self: Box<Self>) -> bool {
        self.finish(|work| {
            drop(work);
            Finished::Cancelled
        })
    }

    fn is_cancelled(&self) -> bool {
        self.0.get().is_cancelled()
    }
}
