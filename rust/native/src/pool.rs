//! The class `DispatchPool`: Python functions and native operations on a fixed number of threads. The threads and the
//! queue are the core's; here is what a worker does while it is attached, and the pools' life: the default pool, the
//! interpreter's exit, a fork.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use penstock_core::dispatch::{
    Config, Job, NativeJob, Overflow, Pool, Queue, Rejected, Runner, Seat, WhenFull, default_threads,
};
use penstock_core::drain::Drainer;
use penstock_core::permit::{Acquire, Grant, Semaphore};
use penstock_core::{Error, Result};
use pyo3::exceptions::{PyResourceWarning, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::call::Call;
use crate::drains::Drains;
use crate::errors::{self, Raise};
use crate::future::{self, Future, Promise, Source};
use crate::gil;
use crate::loops::{self, Completion, Finished, Owed};

/// A worker that holds the interpreter's lock takes the next job too, up to so many or so long: then the loop's turn.
const BATCH_JOBS: usize = 64;
const BATCH_TIME: Duration = Duration::from_micros(100);

/// The threads and the queue of a pool, usable without the interpreter.
pub type Workers = Pool<Interpreter>;

/// What the workers do while attached.
#[derive(Clone)]
pub struct Interpreter(Arc<Hooks>);

#[derive(Default)]
struct Hooks {
    after_start: Option<Py<PyAny>>,
    before_stop: Option<Py<PyAny>>,
    /// What `after_start` raised.
    failure: Mutex<Option<PyErr>>,
}

/// A job that runs attached.
pub enum Task {
    /// For a future of penstock's.
    Run(Py<Future>),
    /// For nobody.
    Dispatch(Box<Call>),
    /// For a concurrent.futures.Future.
    Submit(Py<PyAny>, Box<Call>),
}

impl Task {
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Run(future) if future.get().is_cancelled())
    }

    fn run(self, py: Python<'_>, queue: &Queue<Self>) -> Option<Owed> {
        match self {
            Self::Run(future) => {
                let Some(call) = future.get().start() else {
                    queue.buried();
                    return None;
                };
                let finished = Finished::Python(call.invoke(py));
                let mailbox = Arc::clone(future.get().mailbox());
                mailbox.post(Completion { future, finished })
            }
            Self::Dispatch(call) => {
                let name = call.func(py).clone();
                if let Err(error) = call.invoke(py) {
                    log(py, &name, error);
                }
                None
            }
            Self::Submit(future, call) => {
                if let Err(error) = fulfil(py, future.bind(py), *call) {
                    error.write_unraisable(py, Some(future.bind(py)));
                }
                None
            }
        }
    }

    /// The pool won't run it.
    fn cancel(self, py: Python<'_>, queue: &Queue<Self>) {
        match self {
            Self::Run(future) if future.get().is_cancelled() => queue.buried(),
            Self::Run(future) => {
                let mailbox = Arc::clone(future.get().mailbox());
                drop(mailbox.post(Completion { future, finished: Finished::Cancelled }));
            }
            Self::Dispatch(call) => drop(call),
            Self::Submit(future, call) => {
                drop(call);
                let cancel = || {
                    future.call_method0(py, intern!(py, "cancel"))?;
                    future.call_method0(py, intern!(py, "set_running_or_notify_cancel"))
                };
                if let Err(error) = cancel() {
                    error.write_unraisable(py, Some(future.bind(py)));
                }
            }
        }
    }
}

/// Runs a call for a concurrent.futures.Future, by that class's protocol for executors.
fn fulfil(py: Python<'_>, future: &Bound<'_, PyAny>, call: Call) -> PyResult<()> {
    if !future.call_method0(intern!(py, "set_running_or_notify_cancel"))?.is_truthy()? {
        return Ok(());
    }
    match call.invoke(py) {
        Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
        Err(error) => future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?,
    };
    Ok(())
}

/// An exception that has nobody to go to.
fn log(py: Python<'_>, func: &Bound<'_, PyAny>, error: PyErr) {
    let tell = || {
        let logger = py.import("logging")?.call_method1("getLogger", ("penstock.blocking",))?;
        let kwargs = PyDict::new(py);
        kwargs.set_item("exc_info", error.value(py))?;
        logger.call_method("error", ("exception in the dispatched %r", func), Some(&kwargs))
    };
    if let Err(error) = tell() {
        error.write_unraisable(py, Some(func));
    }
}

impl Runner for Interpreter {
    type Job = Task;

    /// The thread attaches once for good, so that each attachment within its life only swaps the thread state in.
    fn worker(&self, _index: usize, life: &mut (dyn FnMut() + Send)) {
        Python::attach(|py| {
            let named = name_thread(py);
            if let Err(error) = named {
                error.write_unraisable(py, None);
            }
            py.detach(life);
            if let Err(error) = forget_thread(py) {
                error.write_unraisable(py, None);
            }
        });
    }

    fn after_start(&self, index: usize) -> Result<()> {
        let Some(hook) = &self.0.after_start else { return Ok(()) };
        Python::attach(|py| hook.call1(py, (index,)).map(drop)).map_err(|error| {
            *self.0.failure.lock() = Some(error);
            Error::PoolClosed
        })
    }

    fn before_stop(&self, index: usize) {
        if let Some(hook) = &self.0.before_stop {
            Python::attach(|py| {
                if let Err(error) = hook.call1(py, (index,)) {
                    log(py, hook.bind(py), error);
                }
            });
        }
    }

    fn run(&self, seat: &mut Seat<'_, Task>) {
        // The loop is told after the interpreter's lock was let go: told before, it would wake only to wait for it.
        let owed = Python::attach(|py| batch(py, seat));
        drop(owed);
    }
}

fn batch(py: Python<'_>, seat: &mut Seat<'_, Task>) -> Option<Owed> {
    let started = Instant::now();
    let mut owed = None;
    for _ in 0..BATCH_JOBS {
        let Some(task) = seat.take() else { break };
        // The task may block: what is finished must not wait behind it.
        drop(owed.take());
        owed = task.run(py, seat.queue());
        if started.elapsed() >= BATCH_TIME {
            break;
        }
    }
    owed
}

/// `threading` knows foreign threads by made-up names; logs should show the real one.
fn name_thread(py: Python<'_>) -> PyResult<()> {
    let thread = py.import("threading")?.call_method0("current_thread")?;
    let current = std::thread::current();
    thread.setattr("name", current.name().unwrap_or("penstock"))
}

/// Before 3.12 `threading` remembers a foreign thread after its end.
fn forget_thread(py: Python<'_>) -> PyResult<()> {
    let threading = py.import("threading")?;
    let ident = threading.call_method0("get_ident")?;
    threading.getattr("_active")?.call_method1("pop", (ident, py.None()))?;
    Ok(())
}

/// Forks of this process so far, as its children count.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// The workers of one pool in one process. A forked child has none of the parent's threads, and its locks may be held
/// by them: the parent's link is left as it was, for ever, and the child's is the next.
struct Link {
    fork: usize,
    workers: Arc<Workers>,
    next: OnceLock<Box<Link>>,
}

impl Link {
    fn new(workers: Workers) -> Self {
        let workers = Arc::new(workers);
        adopt(&workers);
        Self { fork: FORKS.load(Ordering::Relaxed), workers, next: OnceLock::new() }
    }
}

/// Workers that have to be joined before the interpreter goes.
static ALIVE: Mutex<Vec<Arc<Workers>>> = Mutex::new(Vec::new());

fn adopt(workers: &Arc<Workers>) {
    let mut alive = ALIVE.lock();
    let ended =
        alive.extract_if(.., |workers| workers.queue().is_closed() && workers.is_finished()).collect::<Vec<_>>();
    alive.push(Arc::clone(workers));
    drop(alive);
    drop(ended);
}

#[pyclass(frozen, subclass, weakref, module = "penstock._native")]
pub struct DispatchPool {
    link: Link,
    closed: AtomicBool,
    drain_threads: usize,
    drains: Drains,
}

impl DispatchPool {
    /// A draining worker of the pool's.
    pub fn drainer(&self) -> Result<Arc<Drainer>> {
        let fork = FORKS.load(Ordering::Relaxed);
        self.drains.pick(fork, self.core().name_prefix(), self.drain_threads)
    }

    /// The threads and the queue, usable without the interpreter.
    pub fn core(&self) -> &Arc<Workers> {
        let forks = FORKS.load(Ordering::Relaxed);
        let mut link = &self.link;
        while link.fork != forks {
            link = link.next.get_or_init(|| {
                let workers = link.workers.afresh(link.workers.runner().clone());
                if self.closed.load(Ordering::Relaxed) {
                    workers.close();
                }
                mem::forget(Arc::clone(&link.workers));
                Box::new(Link::new(workers))
            });
        }
        &link.workers
    }

    pub fn drain_threads(&self) -> usize {
        self.drain_threads
    }

    /// The workers, started. They need the interpreter for that, so it is let go meanwhile.
    fn started(&self, py: Python<'_>) -> PyResult<&Arc<Workers>> {
        let workers = self.core();
        if !workers.is_started() {
            let started = py.detach(|| workers.start());
            if let Some(failure) = workers.runner().0.failure.lock().take() {
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
        match workers.queue().push(job, suspending(workers)) {
            Ok(_) => Ok(future),
            Err(rejected) => Err(errors::to_py(py, rejected.error)),
        }
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

    /// Queues a native job from a loop's thread.
    pub fn start_native(&self, py: Python<'_>, make: impl FnOnce(&Arc<Workers>) -> NativeJob) -> PyResult<()> {
        let workers = self.started(py)?;
        match workers.queue().push(Job::Native(make(workers)), suspending(workers)) {
            Ok(_) => Ok(()),
            Err(rejected) => Err(errors::to_py(py, rejected.error)),
        }
    }

    /// Queues a job from whatever thread: one that runs a loop is never blocked nor enlisted.
    fn push(&self, py: Python<'_>, job: Job<Task>) -> PyResult<()> {
        let workers = self.started(py)?;
        let when_full = if loops::running(py)?.is_some() { WhenFull::Refuse } else { workers.when_full() };
        let first = if when_full == WhenFull::Block { WhenFull::Refuse } else { when_full };
        let pushed = match workers.queue().push(job, first) {
            Err(full) if first != when_full && matches!(full.error, Error::PoolFull { .. }) => {
                py.detach(|| workers.queue().push(full.job, when_full))
            }
            pushed => pushed,
        };
        match pushed {
            Ok(None) => {}
            Ok(Some(Job::Attached(task))) => drop(task.run(py, workers.queue())),
            Ok(Some(Job::Native(job))) => py.detach(|| job.run()),
            Err(rejected) => return Err(errors::to_py(py, rejected.error)),
        }
        Ok(())
    }

    fn stop(&self) -> &Arc<Workers> {
        self.closed.store(true, Ordering::Relaxed);
        let workers = self.core();
        workers.close();
        workers
    }
}

/// The permit of a call has come, or never will. On any thread, attached or not.
fn admit(future: Py<Future>, grant: Result<Grant>) {
    let mailbox = Arc::clone(future.get().mailbox());
    let (future, error) = match grant {
        Ok(grant) => {
            let Some(workers) = future.get().admit(grant) else { return };
            match workers.queue().push(Job::Attached(Task::Run(future)), suspending(&workers)) {
                Err(Rejected { error, job: Job::Attached(Task::Run(future)) }) => (future, error),
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
        threads: Option<usize>,
        queue_length: usize,
        overflow: &str,
        drain_threads: usize,
        name_prefix: Option<String>,
        after_start: Option<Py<PyAny>>,
        before_stop: Option<Py<PyAny>>,
        stack_size: Option<usize>,
        max_workers: Option<usize>,
    ) -> PyResult<Self> {
        if threads.is_some() && max_workers.is_some() {
            return Err(PyTypeError::new_err("threads and max_workers are two names of one setting: give one"));
        }
        let config = Config {
            threads: threads.or(max_workers).unwrap_or_else(default_threads),
            queue_length,
            overflow: self::overflow(overflow)?,
            name_prefix,
            stack_size,
        };
        let hooks = Hooks { after_start, before_stop, failure: Mutex::new(None) };
        let workers = Workers::new(config, Interpreter(Arc::new(hooks))).raise(py)?;
        let pool =
            Self { link: Link::new(workers), closed: AtomicBool::new(false), drain_threads, drains: Drains::default() };
        if let Err(error) = pool.started(py) {
            py.detach(|| pool.stop().join());
            return Err(error);
        }
        Ok(pool)
    }

    /// Starts `func(*args, **kwargs)` on a thread of the pool, in a copy of the caller's context; gives its future.
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

    #[pyo3(signature = (wait = true, *, cancel_futures = false))]
    fn shutdown(&self, py: Python<'_>, wait: bool, cancel_futures: bool) {
        let workers = self.stop();
        if cancel_futures {
            for job in workers.queue().clear() {
                match job {
                    Job::Attached(task) => task.cancel(py, workers.queue()),
                    Job::Native(job) => job.cancel(),
                }
            }
        }
        let drains = self.drains.close();
        if wait {
            py.detach(|| {
                drop(drains);
                workers.join();
            });
        }
    }

    fn close(&self, py: Python<'_>) {
        self.shutdown(py, true, false);
    }

    /// The threads are joined on a thread of their own.
    fn aclose(&self, py: Python<'_>) -> PyResult<Py<Future>> {
        let workers = Arc::clone(self.stop());
        let (promise, future) = Promise::pair(py)?;
        let name = format!("{}close", workers.name_prefix());
        let drains = self.drains.close();
        let join = move || {
            drop(drains);
            workers.join();
            promise.complete(Ok(Box::new(|py: Python<'_>| Ok(py.None()))));
        };
        std::thread::Builder::new().name(name).spawn(join).map_err(Error::io("start a thread")).raise(py)?;
        Ok(future)
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _exc_type: &Bound<'_, PyAny>,
        _exc: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) {
        self.close(py);
    }

    fn __aenter__(this: Bound<'_, Self>) -> PyResult<Py<Future>> {
        future::done(this.py(), Ok(this.clone().into_any().unbind()))
    }

    fn __aexit__(
        &self,
        py: Python<'_>,
        _exc_type: &Bound<'_, PyAny>,
        _exc: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<Future>> {
        self.aclose(py)
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
        self.drain_threads
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let figures = self.core().figures();
        let stats = PyDict::new(py);
        stats.set_item("threads", self.core().threads())?;
        stats.set_item("queued", figures.queued)?;
        stats.set_item("waiting", figures.waiting)?;
        stats.set_item("running", figures.running)?;
        stats.set_item("idle", figures.idle)?;
        stats.set_item("taken", figures.taken)?;
        stats.set_item("wakes", figures.wakes)?;
        let (drain_threads, draining) = self.drains.figures();
        stats.set_item("drain_threads", drain_threads)?;
        stats.set_item("draining", draining)?;
        Ok(stats)
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
        let name = self.stop().name_prefix().to_owned();
        gil::in_destructor(|py| {
            let message = std::ffi::CString::new(format!("unclosed DispatchPool {name}*")).unwrap_or_default();
            PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &message, 1)
        });
    }
}

static DEFAULT: PyOnceLock<Py<DispatchPool>> = PyOnceLock::new();

/// The process's default pool, made at first use.
pub fn default_pool(py: Python<'_>) -> PyResult<Py<DispatchPool>> {
    if let Some(pool) = DEFAULT.get(py) {
        return Ok(pool.clone_ref(py));
    }
    // Made outside of the lock: making it lets the interpreter go, and a fork may come in between.
    let made = py.import("penstock.blocking")?.getattr("DispatchPool")?.call0()?.cast_into::<DispatchPool>()?.unbind();
    if let Err(superfluous) = DEFAULT.set(py, made) {
        superfluous.get().close(py);
    }
    DEFAULT.get(py).map(|pool| pool.clone_ref(py)).ok_or_else(|| errors::to_py(py, Error::PoolClosed))
}

#[pyfunction(name = "default_pool")]
pub fn get_default_pool(py: Python<'_>) -> PyResult<Py<DispatchPool>> {
    default_pool(py)
}

/// Sleeps on one of the pool's threads as native operations run there: detached. Tests and benchmarks use it.
#[pyfunction]
#[pyo3(signature = (pool, seconds = 0.0))]
pub fn _nap(py: Python<'_>, pool: &Bound<'_, DispatchPool>, seconds: f64) -> PyResult<Py<Future>> {
    let nap = Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let op = move || {
        if !nap.is_zero() {
            std::thread::sleep(nap);
        }
        Ok(())
    };
    future::run_native(py, pool.get(), op, |py, ()| Ok(py.None()))
}

/// At the interpreter's exit: queued jobs run, then the threads end.
#[pyfunction]
pub fn _join_pools(py: Python<'_>) {
    loop {
        let alive = mem::take(&mut *ALIVE.lock());
        if alive.is_empty() {
            return;
        }
        for workers in &alive {
            workers.close();
        }
        py.detach(|| alive.iter().for_each(|workers| workers.join()));
    }
}

/// In a forked child: nothing of the parent's is touched again, and each pool starts afresh when it is next used.
#[pyfunction]
pub fn _after_fork_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    penstock_core::body::Pools::after_fork_in_child();
    mem::forget(mem::take(&mut *ALIVE.lock()));
}
