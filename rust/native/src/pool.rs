//! The class `DispatchPool`: Python functions and native operations on a fixed number of threads. How jobs get to the
//! threads is here; what the threads do is in `worker`, and what becomes of them at a fork or at the end in `process`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use penstock_core::dispatch::{Config, Job, Native, Overflow, Rejected, WhenFull, default_threads};
use penstock_core::drain::Drainer;
use penstock_core::permit::{Acquire, Grant, Semaphore};
use penstock_core::{Error, Result};
use pyo3::exceptions::{PyResourceWarning, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::call::{Call, is_asynchronous};
use crate::errors::{self, Raise};
use crate::future::{Future, Source};
use crate::gil::{self, SIGNAL_INTERVAL};
use crate::loops::{self, Completion, Finished, Mailbox};
use crate::process::{Crew, Crews};
use crate::promise::{Operation, Promise, Work};
use crate::size;
use crate::worker::{Interpreter, Task, Workers};

/// As `threading.stack_size`: the interpreter needs so much.
const MIN_STACK: u64 = 32 << 10;

#[pyclass(frozen, subclass, weakref, module = "penstock._native")]
pub struct DispatchPool {
    crews: Crews,
    closed: AtomicBool,
}

impl DispatchPool {
    /// Its threads in this process.
    fn crew(&self) -> &Crew {
        self.crews.here(|| self.closed.load(Ordering::Relaxed))
    }

    /// The threads and the queue, usable without the interpreter.
    fn core(&self) -> &Arc<Workers> {
        &self.crew().workers
    }

    /// A draining worker of the pool's.
    pub fn drainer(&self) -> Result<Arc<Drainer>> {
        self.crew().drains.pick()
    }

    pub fn drain_threads(&self) -> usize {
        self.crew().drains.most()
    }

    /// The workers, started. They need the interpreter for that, so it is let go meanwhile.
    fn started(&self, py: Python<'_>) -> PyResult<&Arc<Workers>> {
        let workers = self.core();
        if !workers.is_started() {
            let started = py.detach(|| workers.start());
            if let Some(failure) = workers.runner().take_failure() {
                return Err(failure);
            }
            started.raise(py)?;
        }
        Ok(workers)
    }

    /// Queues a call for the running loop.
    pub fn start_call(&self, py: Python<'_>, call: Call) -> PyResult<Py<Future>> {
        let workers = self.started(py)?;
        let future = Future::pending(py, Source::Queued(call, Arc::clone(workers)))?;
        let job = Job::Attached(Task::Run(future.clone_ref(py)));
        submit(py, workers, job, &future)?;
        Ok(future)
    }

    /// Queues a call for the running loop once it has a permit, which it holds until it has run.
    pub fn start_permitted(&self, py: Python<'_>, semaphore: &Semaphore, call: Call) -> PyResult<Py<Future>> {
        let workers = self.started(py)?;
        let future = Future::pending(py, Source::Admission(call, Arc::clone(workers), None))?;
        let waiter = future.clone_ref(py);
        match semaphore.acquire(1, move |grant| admit(waiter, grant)).raise(py)? {
            Acquire::Granted(grant) => admit(future.clone_ref(py), Ok(grant)),
            Acquire::Queued(ticket) => future.get().wait_with(ticket),
        }
        Ok(future)
    }

    /// Queues a native operation for the running loop.
    pub fn start_native(&self, py: Python<'_>, work: Work) -> PyResult<Py<Future>> {
        let workers = self.started(py)?;
        let future = Future::of_operation(py, work, workers)?;
        let job = Job::Native(Box::new(Operation(future.clone_ref(py))));
        submit(py, workers, job, &future)?;
        Ok(future)
    }

    /// Queues a job from whatever thread: one that runs a loop is never blocked nor enlisted.
    fn push(&self, py: Python<'_>, job: Job<Task>) -> PyResult<()> {
        let workers = self.started(py)?;
        let when_full = if loops::running(py)?.is_some() { WhenFull::Refuse } else { workers.when_full() };
        let blocks = when_full == WhenFull::Block;
        let mut pushed = workers.queue().push(job, if blocks { WhenFull::Refuse } else { when_full });
        while blocks && let Err(Rejected { error: Error::PoolFull { .. }, job }) = pushed {
            py.check_signals()?;
            let hears = gil::hears_signals(py);
            let when_full = if hears { WhenFull::BlockFor(SIGNAL_INTERVAL) } else { WhenFull::Block };
            pushed = py.detach(|| workers.queue().push(job, when_full));
        }
        let mut displaced = pushed.map_err(|rejected| errors::to_py(py, rejected.error))?;
        let queue = workers.queue();
        while let Some(oldest) = displaced {
            let ran = match oldest {
                Job::Attached(task) => task.run_enlisted(py, queue),
                Job::Native(job) => {
                    if !py.detach(|| job.run()) {
                        queue.buried();
                    }
                    Ok(())
                }
            };
            displaced = if ran.is_ok() { queue.excess() } else { None };
            queue.helped();
            ran?;
        }
        Ok(())
    }

    fn stop(&self) -> &Crew {
        self.closed.store(true, Ordering::Relaxed);
        let crew = self.crew();
        crew.close();
        crew
    }
}

/// Hands a job of the running loop's to the workers, for a future of its own.
fn submit(py: Python<'_>, workers: &Arc<Workers>, job: Job<Task>, future: &Py<Future>) -> PyResult<()> {
    let (queue, when_full) = (workers.queue(), suspending(workers));
    let pushed = if future.get().mailbox().is_among_others() {
        queue.push_among(job, when_full)
    } else {
        queue.push(job, when_full).map(|_| false)
    };
    match pushed {
        Ok(false) => Ok(()),
        Ok(true) => {
            let rouse = Rouse(Arc::clone(workers), Arc::clone(future.get().mailbox()));
            future.get().call_next_turn(Bound::new(py, rouse)?.into_any())
        }
        Err(rejected) => Err(errors::to_py(py, rejected.error)),
    }
}

/// Called when a loop has submitted all that it does in a turn.
#[pyclass(frozen)]
struct Rouse(Arc<Workers>, Arc<Mailbox>);

#[pymethods]
impl Rouse {
    fn __call__(&self) {
        self.1.turned();
        self.0.queue().rouse();
    }
}

/// The permit of a call has come, or never will. On any thread, attached or not.
fn admit(future: Py<Future>, grant: Result<Grant>) {
    let mailbox = Arc::clone(future.get().mailbox());
    let (future, error) = match grant {
        Ok(grant) => {
            let Some(workers) = future.get().admit(grant) else { return };
            match workers.queue().push(Job::Attached(Task::Run(future)), suspending(&workers)) {
                Err(Rejected { error, job: Job::Attached(Task::Run(future)) }) => {
                    if !future.get().refused() {
                        workers.queue().buried();
                    }
                    (future, error)
                }
                _ => return,
            }
        }
        Err(error) => (future, error),
    };
    drop(mailbox.post(Completion { future, finished: Finished::Native(Err(error)) }));
}

/// What a submitter on a loop's thread does with a full queue, when what it gives back can be awaited.
fn suspending(workers: &Workers) -> WhenFull {
    match workers.config().overflow {
        Overflow::Wait => WhenFull::Append,
        Overflow::Refuse | Overflow::Caller => WhenFull::Refuse,
    }
}

fn overflow(word: &str) -> PyResult<Overflow> {
    match word {
        "wait" => Ok(Overflow::Wait),
        "refuse" => Ok(Overflow::Refuse),
        "caller" => Ok(Overflow::Caller),
        _ => Err(PyValueError::new_err(format!("overflow={word:?}: must be \"wait\", \"refuse\" or \"caller\""))),
    }
}

fn overflow_word(overflow: Overflow) -> &'static str {
    match overflow {
        Overflow::Wait => "wait",
        Overflow::Refuse => "refuse",
        Overflow::Caller => "caller",
    }
}

fn queue_length(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    size::number("queue_length", value)
}

fn drain_threads(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    size::number("drain_threads", value)
}

/// Who waits in `join()`.
struct Joining(Promise);

impl Native for Joining {
    fn run(self: Box<Self>) -> bool {
        self.0.complete(Ok(Box::new(|py: Python<'_>| Ok(py.None()))));
        true
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

#[pymethods]
impl DispatchPool {
    #[new]
    #[pyo3(signature = (
        threads = None, *, queue_length = 16_384, overflow = "wait", drain_threads = 1, name_prefix = None,
        after_start = None, before_stop = None, stack_size = None, max_workers = None,
    ))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        threads: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = self::queue_length)] queue_length: usize,
        overflow: &str,
        #[pyo3(from_py_with = self::drain_threads)] drain_threads: usize,
        name_prefix: Option<String>,
        after_start: Option<Py<PyAny>>,
        before_stop: Option<Py<PyAny>>,
        stack_size: Option<&Bound<'_, PyAny>>,
        max_workers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let threads = match (threads, max_workers) {
            (Some(_), Some(_)) => {
                return Err(PyTypeError::new_err("threads and max_workers are two names of one setting: give one"));
            }
            (Some(threads), None) => size::number("threads", threads)?,
            (None, Some(workers)) => size::number("max_workers", workers)?,
            (None, None) => default_threads(),
        };
        let stack_size = size::optional("stack_size", stack_size)?;
        if let Some(size) = stack_size.filter(|size| *size < MIN_STACK) {
            let reason = format!("at least {MIN_STACK} bytes are needed");
            return Err(errors::to_py(py, Error::setting("stack_size", size, reason)));
        }
        let config = Config {
            threads,
            queue_length,
            overflow: self::overflow(overflow)?,
            name_prefix,
            stack_size: stack_size.map(|size| usize::try_from(size).unwrap_or(usize::MAX)),
        };
        for (name, hook) in [("after_start", &after_start), ("before_stop", &before_stop)] {
            let Some(hook) = hook.as_ref().map(|hook| hook.bind(py)) else { continue };
            if !hook.is_callable() || is_asynchronous(hook)? {
                let message = format!("{name}={hook:?}: takes a function that is called, and not awaited");
                return Err(PyTypeError::new_err(message));
            }
        }
        // Without threads nobody would call them, nor let go of them at the end.
        let [after_start, before_stop] = [after_start, before_stop].map(|hook| hook.filter(|_| queue_length > 0));
        let workers = Workers::new(config, Interpreter::new(after_start, before_stop)).raise(py)?;
        let pool = Self { crews: Crews::new(workers, drain_threads), closed: AtomicBool::new(false) };
        if let Err(error) = pool.started(py) {
            py.detach(|| pool.stop().join());
            return Err(error);
        }
        Ok(pool)
    }

    /// Starts `fn(*args, **kwargs)` on a thread of the pool, in a copy of the caller's context, and gives its future.
    ///
    /// To be called on a running loop's thread; await the future, or hand it to whatever takes a coroutine or a future.
    /// With a full queue and `overflow="wait"` the job waits behind it, and the await with it. Cancelled before a thread
    /// has taken it, the job never runs and its place is free at once; after that it runs to its end, and what it
    /// returns or raises is dropped. An exception that nobody retrieves goes to the loop's exception handler.
    ///
    /// Raises PoolFull if the queue is full and the overflow policy isn't to wait, and PoolClosed.
    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn run(
        &self,
        py: Python<'_>,
        r#fn: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<Future>> {
        let context = gil::copy_context(py)?;
        self.start_call(py, Call::new(r#fn, args, kwargs, Some(context)))
    }

    /// Starts `fn(*args, **kwargs)` on a thread of the pool, in a copy of the caller's context, and forgets it.
    ///
    /// What it raises is logged as an error of the logger `penstock.blocking`. From any thread. With a full queue the
    /// overflow policy decides: `"wait"` blocks the calling thread until there is room, `"caller"` runs the oldest job
    /// on it; but a thread that runs a loop, or with `"refuse"` any thread, gets PoolFull. A thread of the pool's own is
    /// never blocked. Ctrl-C ends the wait. Raises PoolClosed.
    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn dispatch(
        &self,
        py: Python<'_>,
        r#fn: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let call = Call::new(r#fn, args, kwargs, Some(gil::copy_context(py)?));
        self.push(py, Job::Attached(Task::Dispatch(Box::new(call))))
    }

    /// Starts `fn(*args, **kwargs)` on a thread of the pool and gives a `concurrent.futures.Future`.
    ///
    /// As executors do, it doesn't carry the context. From any thread; a full queue is treated as by `dispatch`.
    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn submit(
        &self,
        py: Python<'_>,
        r#fn: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let future = loops::names(py)?.executor_future.bind(py).call0()?;
        let call = Box::new(Call::new(r#fn, args, kwargs, None));
        self.push(py, Job::Attached(Task::Submit(future.clone().unbind(), call)))?;
        Ok(future.unbind())
    }

    /// Waits until nothing is queued and nothing runs, as `asyncio.Queue.join` does; await what it gives.
    ///
    /// The pool stays open: while others go on submitting, the wait goes on. Cancelling it has no effect on the jobs.
    fn join(&self, py: Python<'_>) -> PyResult<Py<Future>> {
        let (promise, future) = Promise::pair(py)?;
        self.core().queue().when_quiet(Box::new(Joining(promise)));
        Ok(future)
    }

    /// Takes no more jobs: whoever submits one gets PoolClosed. What is queued still runs, or is cancelled with
    /// `cancel_futures`. With `wait`, blocks until the threads have ended, unless it is called on one of them. Ctrl-C ends
    /// the wait; the pool is closed all the same.
    #[pyo3(signature = (wait = true, *, cancel_futures = false))]
    fn shutdown(&self, py: Python<'_>, wait: bool, cancel_futures: bool) -> PyResult<()> {
        let crew = self.stop();
        if cancel_futures {
            let queue = crew.workers.queue();
            for job in queue.clear() {
                match job {
                    Job::Attached(task) => task.cancel(py, queue),
                    Job::Native(job) => {
                        if !job.cancel() {
                            queue.buried();
                        }
                    }
                }
            }
            queue.quieten();
        }
        if wait {
            crew.join_hearing_signals(py)?;
        } else if crew.drains.living() > 0 {
            // They are told by being joined.
            crew.clone().join_beside(|| ()).raise(py)?;
        }
        Ok(())
    }

    /// `shutdown(wait=True)`: lets queued jobs run and blocks until the threads have ended. May be called again.
    pub fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.stop().join_hearing_signals(py)
    }

    /// As `close`, but to be awaited: the loop turns meanwhile. Cancelled, the pool is closed all the same. On a loop that one
    /// of the threads runs it doesn't wait for them.
    fn aclose(&self, py: Python<'_>) -> PyResult<Py<Future>> {
        let crew = self.stop().clone();
        let (promise, future) = Promise::pair(py)?;
        let over = || promise.complete(Ok(Box::new(|py: Python<'_>| Ok(py.None()))));
        let joined =
            if crew.workers.is_worker() { crew.join_beside(|| ()).map(|()| over()) } else { crew.join_beside(over) };
        if let Err(error) = joined.raise(py) {
            // The promise is broken, and this call tells of it.
            Future::cancel(future.bind(py), None)?;
            return Err(error);
        }
        Ok(future)
    }

    #[getter]
    fn threads(&self) -> usize {
        self.core().threads()
    }

    #[getter]
    fn queue_length(&self) -> usize {
        self.core().queue().limit()
    }

    #[getter]
    fn overflow(&self) -> &'static str {
        overflow_word(self.core().config().overflow)
    }

    #[getter]
    fn name_prefix(&self) -> &str {
        self.core().name_prefix()
    }

    #[getter(drain_threads)]
    fn get_drain_threads(&self) -> usize {
        self.drain_threads()
    }

    /// A snapshot: see the reference of `stats()`.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Crew { workers, drains } = self.crew();
        let figures = workers.figures();
        let stats = PyDict::new(py);
        stats.set_item("threads", workers.threads())?;
        stats.set_item("queued", figures.queued)?;
        stats.set_item("waiting", figures.waiting)?;
        stats.set_item("running", figures.running)?;
        stats.set_item("idle", figures.idle)?;
        stats.set_item("taken", figures.taken)?;
        stats.set_item("wakes", figures.wakes)?;
        stats.set_item("drain_threads", drains.living())?;
        stats.set_item("draining", drains.active())?;
        Ok(stats)
    }

    // `after_start` may lead back to the pool. All threads have called it, so nobody misses it: but for a forked child's,
    // which a pool that is garbage doesn't start.
    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        self.crews.parents().runner().traverse(&visit)
    }

    fn __clear__(&self) {
        self.crews.parents().runner().clear();
    }

    fn __repr__(&self) -> String {
        let workers = self.core();
        let figures = workers.figures();
        let closed = if self.closed.load(Ordering::Relaxed) { " closed" } else { "" };
        format!(
            "<penstock.DispatchPool {}*: {} threads, {} running, {} of {} queued{closed}>",
            workers.name_prefix(),
            workers.threads(),
            figures.running,
            figures.queued,
            workers.queue().limit(),
        )
    }
}

impl Drop for DispatchPool {
    fn drop(&mut self) {
        // Closed by its owner, or by the interpreter's exit.
        if self.core().queue().is_closed() {
            return;
        }
        let crew = self.stop();
        if crew.drains.living() > 0 {
            // Without a thread for it, they stay until the exit.
            let _ = crew.clone().join_beside(|| ());
        }
        let message = format!("unclosed DispatchPool {}*", crew.workers.name_prefix());
        gil::in_destructor(|py| {
            let message = std::ffi::CString::new(message).unwrap_or_default();
            PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &message, 1)
        });
    }
}
