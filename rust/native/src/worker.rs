//! What a worker of a pool does while it is attached to the interpreter: its jobs, in batches, and its hooks. The
//! threads and the queue are the core's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_core::dispatch::{Pool, Queue, Runner, Seat};
use penstock_core::sync::Mutex;
use penstock_core::{Error, Result};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::Call;
use crate::future::Future;
use crate::gil;
use crate::loops::{Completion, Finished, Posted};

/// A worker that holds the interpreter's lock takes the next job too, up to so many or so long: then the loop's turn.
const BATCH_JOBS: usize = 64;
const BATCH_TIME: Duration = Duration::from_micros(100);

/// Letting the interpreter's lock go takes less than this where nobody waits for it, else a system call that wakes who does.
const UNWANTED: Duration = Duration::from_nanos(600);

/// A thread that could go on may be kept from it for so long.
const PREEMPTED: Duration = Duration::from_micros(100);

/// The threads and the queue of a pool, usable without the interpreter.
pub type Workers = Pool<Interpreter>;

/// What the workers do while attached.
#[derive(Clone)]
pub struct Interpreter(Arc<Hooks>);

struct Hooks {
    after_start: Hook,
    before_stop: Hook,
    /// What `after_start` raised.
    failure: Mutex<Option<PyErr>>,
}

/// Let go when the threads have ended: `before_stop` may lead back to the pool, which no collection could see.
struct Hook(Mutex<Option<Py<PyAny>>>);

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

    /// `clock` is the present time, before and after. Gives what was posted to a loop, and the pool that ran it.
    pub fn run(self, py: Python<'_>, queue: &Queue<Self>, clock: &mut Instant) -> Option<(Posted, Arc<Workers>)> {
        self.run_except(py, queue, clock, |_| false)
    }

    /// Runs on the thread of a submitter: an interrupt that comes up there is that thread's.
    pub fn run_enlisted(self, py: Python<'_>, queue: &Queue<Self>) -> PyResult<()> {
        let mut interrupt = None;
        let posted = self.run_except(py, queue, &mut Instant::now(), |error| {
            let is_interrupt = gil::is_interrupt(py, error);
            if is_interrupt {
                interrupt = Some(error.clone_ref(py));
            }
            is_interrupt
        });
        drop(posted);
        interrupt.map_or(Ok(()), Err)
    }

    /// `takes` says of an error whether it is taken care of: not one of the job's.
    fn run_except(
        self,
        py: Python<'_>,
        queue: &Queue<Self>,
        clock: &mut Instant,
        mut takes: impl FnMut(&PyErr) -> bool,
    ) -> Option<(Posted, Arc<Workers>)> {
        match self {
            Self::Run(future) => {
                let Some((call, workers)) = future.get().start() else {
                    queue.buried();
                    return None;
                };
                let finished = match call.invoke(py, clock) {
                    Err(error) if takes(&error) => Finished::Cancelled,
                    result => Finished::Python(result),
                };
                let mailbox = Arc::clone(future.get().mailbox());
                mailbox.post(Completion { future, finished }).map(|posted| (posted, workers))
            }
            Self::Dispatch(call) => {
                let name = call.func(py).clone();
                match call.invoke(py, clock) {
                    Err(error) if !takes(&error) => log(py, &name, error),
                    _ => {}
                }
                None
            }
            Self::Submit(future, call) => {
                match fulfil(py, future.bind(py), *call, clock, &mut takes) {
                    Err(error) if !takes(&error) => error.write_unraisable(py, Some(future.bind(py))),
                    _ => {}
                }
                None
            }
        }
    }

    /// The pool won't run it.
    pub fn cancel(self, py: Python<'_>, queue: &Queue<Self>) {
        match self {
            Self::Run(future) => match future.get().start() {
                Some(started) => {
                    drop(started);
                    let mailbox = Arc::clone(future.get().mailbox());
                    drop(mailbox.post(Completion { future, finished: Finished::Cancelled }));
                }
                None => queue.buried(),
            },
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

/// Runs a call for a concurrent.futures.Future, by that class's protocol for executors. It gets what is taken care of,
/// too: as one that runs, it can no longer be cancelled.
fn fulfil(
    py: Python<'_>,
    future: &Bound<'_, PyAny>,
    call: Call,
    clock: &mut Instant,
    mut takes: impl FnMut(&PyErr) -> bool,
) -> PyResult<()> {
    if !future.call_method0(intern!(py, "set_running_or_notify_cancel"))?.is_truthy()? {
        return Ok(());
    }
    match call.invoke(py, clock) {
        Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
        Err(error) => {
            takes(&error);
            future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?
        }
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

impl Interpreter {
    pub fn new(after_start: Option<Py<PyAny>>, before_stop: Option<Py<PyAny>>) -> Self {
        let (after_start, before_stop) = (Hook(Mutex::new(after_start)), Hook(Mutex::new(before_stop)));
        Self(Arc::new(Hooks { after_start, before_stop, failure: Mutex::new(None) }))
    }

    /// Visits `after_start`. `before_stop` isn't visited, as the threads of a pool that was garbage will still call it.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        // What isn't visited is taken to be in use: who holds the lock keeps it alive for this round.
        match self.0.after_start.0.try_lock().as_deref() {
            Some(Some(hook)) => visit.call(hook),
            _ => Ok(()),
        }
    }

    pub fn clear(&self) {
        let hook = self.0.after_start.0.lock().take();
        drop(hook);
    }

    /// What `after_start` raised, once.
    pub fn take_failure(&self) -> Option<PyErr> {
        self.0.failure.lock().take()
    }
}

impl Hook {
    fn get<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.0.lock().as_ref().map(|hook| hook.bind(py).clone())
    }
}

impl Runner for Interpreter {
    type Job = Task;

    fn worker(&self, _index: usize, life: &mut (dyn FnMut() + Send)) {
        live(life);
    }

    fn after_start(&self, index: usize) -> Result<()> {
        let call = |py: Python<'_>| self.0.after_start.get(py).map_or(Ok(()), |hook| hook.call1((index,)).map(drop));
        Python::attach(call).map_err(|error| {
            *self.0.failure.lock() = Some(error);
            Error::PoolClosed
        })
    }

    fn before_stop(&self, index: usize) {
        Python::attach(|py| {
            if let Some(hook) = self.0.before_stop.get(py)
                && let Err(error) = hook.call1((index,))
            {
                log(py, &hook, error);
            }
        });
    }

    fn over(&self) {
        // Without the interpreter: who has it next drops them.
        *self.0.after_start.0.lock() = None;
        *self.0.before_stop.0.lock() = None;
    }

    fn run(&self, seat: &mut Seat<'_, Task>) {
        // The loop is told after the interpreter's lock was let go: told before, it would wake only to wait for it.
        let (posted, end) = Python::attach(|py| (batch(py, seat), Instant::now()));
        if end.elapsed() < UNWANTED {
            seat.unwanted();
        }
        drop(posted);
    }
}

fn batch(py: Python<'_>, seat: &mut Seat<'_, Task>) -> Option<Posted> {
    let mut clock = Instant::now();
    let (mut jobs, mut end) = (0, clock + BATCH_TIME);
    let mut last: Option<(Posted, Arc<Workers>)> = None;
    let mut spell = None;
    let mut next = seat.take(clock);
    while let Some(task) = next {
        // The task may block: what is finished must not wait behind it.
        if let Some((posted, _)) = last.take() {
            posted.tell_soon();
        }
        if seat.is_doubtful() && spell.is_none() {
            spell = Some(Spell::begin(clock));
        }
        let begun = clock;
        last = task.run(py, seat.queue(), &mut clock);
        seat.done(clock);
        if clock - begun > PREEMPTED
            && let Some(spell) = spell.take()
            && spell.was_idle(clock)
        {
            seat.let_go();
        }
        jobs += 1;
        if jobs < BATCH_JOBS && clock < end {
            next = seat.take(clock);
            continue;
        }
        // Jobs that let the interpreter go are no batch: others had their turn.
        next = match seat.take_if_passed(clock) {
            Some(Some(task)) => Some(task),
            None => None,
            Some(None) => {
                if let Some((posted, workers)) = last.take() {
                    seat.give_way(|| posted.gives_way(&workers));
                    posted.tell_soon();
                }
                None
            }
        };
        (jobs, end) = (0, clock + BATCH_TIME);
    }
    last.map(|(posted, _)| posted)
}

/// Some time of this thread, to be compared with what it had of a processor then. That is a system call.
struct Spell {
    begun: Instant,
    used: Duration,
}

impl Spell {
    fn begin(begun: Instant) -> Self {
        Self { begun, used: Self::cpu_time() }
    }

    /// Whether the thread slept for most of the time until `end`.
    fn was_idle(&self, end: Instant) -> bool {
        let used = Self::cpu_time().saturating_sub(self.used);
        (end - self.begun).saturating_sub(used) > used.max(PREEMPTED)
    }

    fn cpu_time() -> Duration {
        rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).try_into().unwrap_or_default()
    }
}

/// The life of a thread of ours. It attaches once for good, so that each attachment within only swaps the thread state in.
pub fn live(life: impl FnOnce() + Send) {
    // During the interpreter's end there is none to be had.
    let _ = Python::try_attach(|py| {
        if let Err(error) = introduce(py) {
            error.write_unraisable(py, None);
        }
        py.detach(life);
        if let Err(error) = forget(py) {
            error.write_unraisable(py, None);
        }
    });
}

/// Does for a thread of ours what `threading` does for its own: logs show its name, and debuggers and coverage tools
/// that asked for new threads see its jobs.
fn introduce(py: Python<'_>) -> PyResult<()> {
    let threading = py.import("threading")?;
    let current = std::thread::current();
    threading.call_method0("current_thread")?.setattr("name", current.name().unwrap_or("penstock"))?;
    let sys = py.import("sys")?;
    for (asked, set) in [("gettrace", "settrace"), ("getprofile", "setprofile")] {
        let function = threading.call_method0(asked)?;
        if !function.is_none() {
            sys.call_method1(set, (function,))?;
        }
    }
    Ok(())
}

/// Before 3.12 `threading` remembers a foreign thread after its end.
fn forget(py: Python<'_>) -> PyResult<()> {
    let threading = py.import("threading")?;
    let ident = threading.call_method0("get_ident")?;
    threading.getattr("_active")?.call_method1("pop", (ident, py.None()))?;
    Ok(())
}
