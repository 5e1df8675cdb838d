//! What the pools are to their process: the threads that each has in it, before and after a fork; the default pool and
//! the decoding threads; and the interpreter's exit.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use penstock_core::body::{Pools, reaper};
use penstock_core::fork::Origin;
use penstock_core::sync::Mutex;
use penstock_core::{Error, Result};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::baton;
use crate::drains::Drains;
use crate::errors;
use crate::gil::{self, SIGNAL_INTERVAL};
use crate::pool::DispatchPool;
use crate::worker::Workers;

/// Crews that may have threads. Locked only by threads that are attached, so that a fork finds it unlocked.
static ALIVE: Mutex<Vec<Crew>> = Mutex::new(Vec::new());
/// Threads that only wait for others to end.
static CLOSING: AtomicUsize = AtomicUsize::new(0);

/// The threads of one pool in one process.
#[derive(Clone)]
pub struct Crew {
    pub workers: Arc<Workers>,
    pub drains: Arc<Drains>,
}

impl Crew {
    fn enlist(workers: Workers, drain_threads: usize) -> Self {
        let drains = Arc::new(Drains::new(workers.name_prefix().to_owned(), drain_threads));
        let crew = Self { workers: Arc::new(workers), drains };
        let mut alive = ALIVE.lock();
        let over = alive.extract_if(.., |crew| crew.is_over()).collect::<Vec<_>>();
        alive.push(crew.clone());
        drop(alive);
        drop(over);
        crew
    }

    /// Takes no more work; what is queued still runs.
    pub fn close(&self) {
        self.workers.close();
        self.drains.close();
    }

    /// Waits until the threads have ended, which takes as long as the jobs do.
    pub fn join(&self) {
        self.close();
        self.drains.join();
        self.workers.join();
    }

    /// As [`join`](Self::join), for who is attached: signals are heard meanwhile, and what one raises ends the wait.
    pub fn join_hearing_signals(&self, py: Python<'_>) -> PyResult<()> {
        self.close();
        py.detach(|| self.drains.join());
        if !gil::hears_signals(py) {
            py.detach(|| self.workers.join());
            return Ok(());
        }
        while !py.detach(|| self.workers.join_for(SIGNAL_INTERVAL)) {
            py.check_signals()?;
        }
        Ok(())
    }

    /// Joins on a thread of its own and then calls `then` there.
    pub fn join_beside(self, then: impl FnOnce() + Send + 'static) -> Result<()> {
        let closing = Closing::new();
        let name = format!("{}close", self.workers.name_prefix());
        let join = move || {
            self.join();
            drop(closing);
            then();
        };
        std::thread::Builder::new().name(name).spawn(join).map(drop).map_err(Error::io("start a thread"))
    }

    fn is_over(&self) -> bool {
        self.workers.queue().is_closed() && self.workers.living() == 0 && self.drains.living() == 0
    }
}

struct Closing;

impl Closing {
    fn new() -> Self {
        CLOSING.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        CLOSING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The crew of one pool, and those that it has in forked children. A child has none of its parent's threads, and the
/// parent's locks may be held by them: the parent's crew is left as it was, for ever, and the child's is the next.
pub struct Crews {
    origin: Origin,
    crew: Crew,
    next: OnceLock<Box<Crews>>,
}

impl Crews {
    pub fn new(workers: Workers, drain_threads: usize) -> Self {
        let crew = Crew::enlist(workers, drain_threads);
        Self { origin: Origin::here(), crew, next: OnceLock::new() }
    }

    /// The workers of the process that made the pool, with which those of its children share what they call.
    pub fn parents(&self) -> &Workers {
        &self.crew.workers
    }

    /// This process's crew. One that is made here is closed if the pool `is_closed`.
    pub fn here(&self, is_closed: impl Fn() -> bool) -> &Crew {
        let mut link = self;
        while link.origin.is_ancestor() {
            link = link.next.get_or_init(|| {
                let parents = &link.crew;
                let workers = parents.workers.afresh(parents.workers.runner().clone());
                if is_closed() {
                    workers.close();
                }
                mem::forget(parents.clone());
                Box::new(Self::new(workers, parents.drains.most()))
            });
        }
        &link.crew
    }
}

/// A pool of the process's own.
type Own = PyOnceLock<Py<DispatchPool>>;

/// The pool, made at first use.
fn own<'py>(
    pool: &'static Own,
    py: Python<'py>,
    options: impl FnOnce(&Bound<'py, PyDict>) -> PyResult<()>,
) -> PyResult<&'static Py<DispatchPool>> {
    if let Some(pool) = pool.get(py) {
        return Ok(pool);
    }
    let given = PyDict::new(py);
    options(&given)?;
    // Made outside of the lock: making it lets the interpreter go, and a fork may come in between.
    let class = py.import("penstock.blocking")?.getattr("DispatchPool")?;
    let made = class.call((), Some(&given))?.cast_into::<DispatchPool>()?.unbind();
    if let Err(superfluous) = pool.set(py, made) {
        superfluous.get().close(py)?;
    }
    pool.get(py).ok_or_else(|| errors::to_py(py, Error::PoolClosed))
}

/// The process's default pool, made at first use.
#[pyfunction]
pub fn default_pool(py: Python<'_>) -> PyResult<Py<DispatchPool>> {
    static DEFAULT: Own = Own::new();
    own(&DEFAULT, py, |_| Ok(())).map(|pool| pool.clone_ref(py))
}

/// So much less a decoding thread asks for than the thread that started it. Where others wait for a processor, one that
/// runs a loop gets nine times as much of it (sched(7)), and takes it from a decoder when it wakes.
const MODESTY: i32 = 10;

/// The pool whose threads take codings off what arrives, made at first use: as many as there are usable CPUs, as more
/// would only push each other's bytes out of the caches.
pub fn decoders(py: Python<'_>) -> PyResult<&Py<DispatchPool>> {
    static DECODERS: Own = Own::new();
    own(&DECODERS, py, |options| {
        options.set_item("threads", std::thread::available_parallelism().map_or(1, usize::from))?;
        options.set_item("drain_threads", 0)?;
        options.set_item("name_prefix", "penstock-decode")?;
        options.set_item("after_start", wrap_pyfunction!(step_back, py)?)
    })
}

/// Lowers the priority of the calling thread, where threads have one of their own.
#[pyfunction]
fn step_back(_index: usize) {
    if cfg!(target_os = "linux") {
        // Lower is always allowed.
        let _ = rustix::process::nice(MODESTY);
    }
}

/// Threads of penstock's in this process: how many there are, of which kind, and how many there can be with the pools
/// that exist now.
#[pyfunction]
pub fn thread_stats(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let (mut workers, mut drains, mut limit) = (0, 0, 0);
    for crew in ALIVE.lock().iter().filter(|crew| !crew.is_over()) {
        workers += crew.workers.living();
        drains += crew.drains.living();
        limit += crew.workers.threads() + crew.drains.most();
    }
    let (carriers, carriers_limit) = baton::threads();
    let closing = CLOSING.load(Ordering::Relaxed);
    let reaper = usize::from(reaper::is_running());
    let stats = PyDict::new(py);
    stats.set_item("workers", workers)?;
    stats.set_item("drains", drains)?;
    stats.set_item("carriers", carriers)?;
    stats.set_item("closing", closing)?;
    stats.set_item("reaper", reaper)?;
    stats.set_item("used", workers + drains + carriers + closing + reaper)?;
    stats.set_item("limit", limit + carriers_limit + closing + 1)?;
    Ok(stats)
}

/// At the interpreter's exit: queued jobs run, then the threads end.
#[pyfunction]
pub fn _join_pools(py: Python<'_>) {
    loop {
        let alive = mem::take(&mut *ALIVE.lock());
        if alive.is_empty() {
            return;
        }
        alive.iter().for_each(Crew::close);
        py.detach(|| alive.iter().for_each(Crew::join));
    }
}

/// In a forked child: nothing of the parent's is touched again, and each pool starts afresh when it is next used.
#[pyfunction]
pub fn _after_fork_in_child() {
    Pools::after_fork_in_child();
    CLOSING.store(0, Ordering::Relaxed);
    mem::forget(mem::take(&mut *ALIVE.lock()));
    baton::forget();
}
