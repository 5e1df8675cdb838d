//! The class `Baton`: hands an asyncio loop from thread to thread while functions block. Who holds it is the core's to
//! decide; here is what a thread does to a loop when it comes to it and when it leaves it, and the carriers' threads.
//!
//! All of that is done without running Python code in between, so that a signal's handler, which Python runs between two
//! of its instructions, finds a thread either with the loop or in the function, and can't break off the way from one to
//! the other. Where a thread waits it looks for signals itself; what they raise is kept until it has the loop again, and
//! what they raise after that goes to the thread that keeps it waiting.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

use penstock_core::dispatch::platform_stack;
use penstock_core::fork::Origin;
use penstock_core::handover::{self, Entering, Figures, Limits, Place, Regaining, Seat, Standing, Waited};
use penstock_core::sync::Mutex;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PySet, PyWeakrefMethods, PyWeakrefReference};

use crate::errors;
use crate::gil::{self, SIGNAL_INTERVAL};
use crate::inplace;
use crate::loops::{self, Mailbox};
use crate::size;
use crate::worker;

/// Batons whose carriers may live, for the interpreter's exit. Locked only by threads that are attached.
static ALIVE: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

struct Shared {
    core: handover::Baton,
    event_loop: Py<PyWeakrefReference>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The interpreter ends while the loop runs, which nobody goes on with then.
    ending: AtomicBool,
    /// Called with the name of a point that a thread has come to: a test holds it there.
    hook: Mutex<Option<Py<PyAny>>>,
    origin: Origin,
}

impl Shared {
    /// Waits for the carriers' threads, but for those that are in a function or in a callback.
    fn join_idle(&self) {
        self.core.wait_idle_ended();
        if self.core.away() == 0 {
            return self.join();
        }
        let over: Vec<_> = self.threads.lock().extract_if(.., |thread| thread.is_finished()).collect();
        over.into_iter().for_each(|thread| drop(thread.join()));
    }

    /// The interpreter ends: waits for the functions that still run, and ends the carriers.
    fn end(&self, py: Python<'_>) {
        let runs = |event_loop: &Bound<'_, PyAny>| event_loop.call_method0(intern!(py, "is_running"))?.is_truthy();
        let running = self.event_loop.bind(py).upgrade().filter(|event_loop| runs(event_loop).unwrap_or(false));
        self.ending.store(running.is_some(), Relaxed);
        self.core.close();
        // A carrier may sleep in it.
        if let Some(Err(error)) = running.as_ref().map(wake) {
            error.write_unraisable(py, None);
        }
        let has_run = running.is_some();
        drop(running);
        py.detach(|| {
            if has_run {
                self.core.wait_ended();
            }
            self.join();
        });
    }

    fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// Where asyncio notes in which task's step a loop is.
enum Current {
    /// Up to CPython 3.13: `dict[loop, task]`.
    ByLoop(Py<PyDict>),
    /// From 3.14 on: beside the thread's running loop, by `_swap_current_task(loop, task)` and `current_task(loop)`.
    ByThread { swap: Py<PyAny>, get: Py<PyAny> },
}

impl Current {
    /// What a thread does that comes to hold, once the loop is its running one.
    fn arrive(&self, event_loop: &Bound<'_, PyAny>, task: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let py = event_loop.py();
        match (self, task) {
            (Self::ByLoop(tasks), Some(task)) => tasks.bind(py).set_item(event_loop, task),
            // That of a thread which is in a function.
            (Self::ByLoop(tasks), None) if tasks.bind(py).contains(event_loop)? => tasks.bind(py).del_item(event_loop),
            (Self::ByLoop(_), None) => Ok(()),
            (Self::ByThread { swap, .. }, task) => swap.bind(py).call1((event_loop, task)).map(drop),
        }
    }

    /// What it does before it leaves: it may run another loop meanwhile. One that could not come back has left.
    fn depart(&self, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        match self {
            Self::ByThread { .. } if loops::running(event_loop.py())?.is_some() => self.arrive(event_loop, None),
            _ => Ok(()),
        }
    }

    /// As `arrive`, if nobody else has meanwhile.
    fn stay(&self, event_loop: &Bound<'_, PyAny>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        match self {
            Self::ByLoop(_) => Ok(()),
            Self::ByThread { .. } => self.arrive(event_loop, Some(task)),
        }
    }

    fn get<'py>(&self, event_loop: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = event_loop.py();
        match self {
            Self::ByLoop(tasks) => tasks.bind(py).get_item(event_loop),
            Self::ByThread { get, .. } => {
                get.bind(py).call1((event_loop,)).map(|task| (!task.is_none()).then_some(task))
            }
        }
    }
}

/// What is needed of asyncio; all of it written in C.
struct Names {
    set_running_loop: Py<PyAny>,
    current: Current,
    get_ident: Py<PyAny>,
}

fn names(py: Python<'_>) -> PyResult<&Names> {
    static NAMES: PyOnceLock<Names> = PyOnceLock::new();
    NAMES.get_or_try_init(py, || {
        let tasks = py.import("asyncio.tasks")?;
        let current = if py.version_info() >= (3, 14) {
            let [swap, get] = ["_swap_current_task", "current_task"].map(|name| tasks.getattr(name));
            Current::ByThread { swap: swap?.unbind(), get: get?.unbind() }
        } else {
            Current::ByLoop(tasks.getattr("_current_tasks")?.cast_into::<PyDict>()?.unbind())
        };
        Ok(Names {
            set_running_loop: py.import("asyncio")?.getattr("_set_running_loop")?.unbind(),
            current,
            get_ident: py.import("threading")?.getattr("get_ident")?.unbind(),
        })
    })
}

/// What signals' handlers raised while a thread waited for the loop: the first is kept until it has it.
#[derive(Default)]
struct Interrupt {
    kept: Option<PyErr>,
    thrown: bool,
}

impl Interrupt {
    fn add(&mut self, event_loop: &Bound<'_, PyAny>, error: PyErr) {
        if self.kept.is_none() {
            self.kept = Some(error);
        } else if let Ok(holder) = event_loop.getattr(intern!(event_loop.py(), "_thread_id"))
            && let Ok(holder) = holder.extract()
        {
            // Who insists means the callback that keeps the loop.
            gil::throw(holder, &gil::class_of(event_loop.py(), &error));
            self.thrown = true;
        }
    }

    /// The thread has the loop.
    fn take(self, event_loop: &Bound<'_, PyAny>) -> PyResult<Option<PyErr>> {
        if self.thrown {
            // What was kept stands for it.
            event_loop.setattr(intern!(event_loop.py(), "_interrupt"), event_loop.py().None())?;
        }
        Ok(self.kept)
    }
}

/// The loop's. Its drop, with the loop's, ends idle carriers.
#[pyclass(frozen, module = "penstock._native")]
pub struct Baton {
    shared: Arc<Shared>,
    /// What tells functions apart that were seen to be slow.
    slow: Py<PySet>,
}

impl Shared {
    fn is_inherited(&self) -> bool {
        self.origin.is_ancestor()
    }

    fn reached(&self, py: Python<'_>, point: &str) {
        let hook = self.hook.lock().as_ref().map(|hook| hook.clone_ref(py));
        if let Some(hook) = hook
            && let Err(error) = hook.call1(py, (point,))
        {
            error.write_unraisable(py, None);
        }
    }

    /// This thread has come to hold: the loop is its own, in the middle of a step of `task` or between callbacks.
    fn arrive(event_loop: &Bound<'_, PyAny>, task: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let py = event_loop.py();
        let names = names(py)?;
        event_loop.setattr(intern!(py, "_thread_id"), names.get_ident.bind(py).call0()?)?;
        names.set_running_loop.bind(py).call1((event_loop,))?;
        names.current.arrive(event_loop, task)?;
        // Somebody is back, and may leave the context that these wait for.
        let held = event_loop.getattr(intern!(py, "_held"))?;
        if held.is_truthy()? {
            event_loop.getattr(intern!(py, "_ready"))?.call_method1(intern!(py, "extend"), (&held,))?;
            held.call_method0(intern!(py, "clear"))?;
        }
        Ok(())
    }

    fn depart(event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = event_loop.py();
        let names = names(py)?;
        names.current.depart(event_loop)?;
        names.set_running_loop.bind(py).call1((py.None(),)).map(drop)
    }

    /// It has departed, and nobody else has come to hold.
    fn stay(event_loop: &Bound<'_, PyAny>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = event_loop.py();
        let names = names(py)?;
        names.set_running_loop.bind(py).call1((event_loop,))?;
        names.current.stay(event_loop, task)
    }

    /// Waits for the baton, and handles signals meanwhile.
    fn sit(&self, event_loop: &Bound<'_, PyAny>, seat: &Seat, interrupt: &mut Interrupt) -> bool {
        let py = event_loop.py();
        loop {
            match py.detach(|| self.core.wait(seat, SIGNAL_INTERVAL)) {
                Waited::Holds => return true,
                Waited::Closed => return false,
                Waited::NotYet => {
                    if let Err(error) = py.check_signals() {
                        interrupt.add(event_loop, error);
                    }
                }
            }
        }
    }

    /// For a thread that finds the baton closed. Where the interpreter ends under a loop that runs, in a daemon thread, it
    /// stays here for good, without the interpreter: in its task it would go on beside the one that has the loop, and be
    /// broken off in the middle of calls of this library.
    fn refuse(&self, py: Python<'_>, place: Place) -> PyErr {
        if !self.ending.load(Relaxed) {
            return errors::declared(py, "HandoverError", ("the event loop was closed while the function ran",), &[]);
        }
        let mut threads = self.threads.lock();
        let carrier = threads.iter().position(|carrier| carrier.thread().id() == thread::current().id());
        // Nobody is to wait for it.
        let carries = carrier.map(|at| drop(threads.swap_remove(at))).is_some();
        drop(threads);
        py.detach(|| {
            self.core.stay(&place, carries);
            loop {
                thread::park();
            }
        })
    }

    /// Comes back from a function to a loop that others have. `Some`: it was closed.
    fn come_back(
        &self,
        event_loop: &Bound<'_, PyAny>,
        task: &Bound<'_, PyAny>,
        interrupt: &mut Interrupt,
    ) -> PyResult<Option<Place>> {
        let py = event_loop.py();
        match self.core.regain() {
            Regaining::Holds => {}
            Regaining::Closed => return Ok(Some(Place::Function)),
            Regaining::Waits(seat) => {
                self.reached(py, "queued");
                wake(event_loop)?;
                if !self.sit(event_loop, &seat, interrupt) {
                    return Ok(Some(Place::Queue(seat)));
                }
            }
        }
        Self::arrive(event_loop, Some(task))?;
        Ok(None)
    }

    fn start_carrier(self: &Arc<Self>) {
        let carrier = Arc::clone(self);
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        let name = format!("penstock-carry-{}", threads.len());
        let builder = thread::Builder::new().name(name).stack_size(platform_stack());
        match builder.spawn(move || worker::live(|| carrier.carry())) {
            Ok(thread) => threads.push(thread),
            // The function runs all the same; the loop stands still meanwhile.
            Err(_) => self.core.call_off(),
        }
    }

    /// The life of a carrier.
    fn carry(self: Arc<Self>) {
        while self.core.stand_by() == Standing::Holds {
            Python::attach(|py| {
                self.reached(py, "taken");
                // Who blocks has it in its frames.
                let Some(event_loop) = self.event_loop.bind(py).upgrade() else { return };
                let carried = Self::arrive(&event_loop, None)
                    .and_then(|()| event_loop.call_method0(intern!(py, "_carry")))
                    .and_then(|_| Self::depart(&event_loop));
                if let Err(error) = carried {
                    error.write_unraisable(py, Some(&event_loop));
                }
            });
            if self.core.is_closed() {
                self.core.desert();
                break;
            }
            self.core.pass();
        }
        Python::attach(|_| drop(self));
    }
}

/// Ends the loop's sleep, as its `_write_to_self` does.
fn wake(event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = event_loop.py();
    let socket = event_loop.getattr(intern!(py, "_csock"))?;
    if !socket.is_none() {
        // A full pipe wakes, too.
        let _ = socket.call_method1(intern!(py, "send"), (PyBytes::new(py, b"\0"),));
    }
    Ok(())
}

/// The task in whose step a loop is.
pub fn current_task<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    names(event_loop.py())?.current.get(event_loop)
}

/// What became of a call by [`Baton::block`].
pub enum Blocked<'py> {
    /// `lost`: others had the loop meanwhile.
    Over { result: PyResult<Bound<'py, PyAny>>, lost: bool },
    /// It wasn't made: no carrier is left.
    Capped,
}

impl Baton {
    pub fn slow<'py>(&self, py: Python<'py>) -> &Bound<'py, PySet> {
        self.slow.bind(py)
    }

    /// Whether the loop was made in a parent process, which has its carriers.
    pub fn is_inherited(&self) -> bool {
        self.shared.is_inherited()
    }

    pub fn limits(&self) -> &Limits {
        self.shared.core.limits()
    }

    /// Makes a call on this thread, which holds, in the middle of a step of `task`. `hurry`: it is known to be slow.
    /// `may_stand`: it is made though no carrier is left.
    pub fn block<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        task: &Bound<'py, PyAny>,
        hurry: bool,
        may_stand: bool,
        call: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Blocked<'py>> {
        let py = task.py();
        let shared = &self.shared;
        let core = &shared.core;
        Shared::depart(event_loop)?;
        let block = match core.enter(hurry, may_stand) {
            Entering::Entered(block) => block,
            entering => {
                Shared::stay(event_loop, task)?;
                return if entering == Entering::Capped {
                    Ok(Blocked::Capped)
                } else {
                    Err(shared.refuse(py, Place::Loop))
                };
            }
        };
        if block.starts_carrier {
            shared.start_carrier();
        }
        let mut result = call();
        shared.reached(py, "returned");
        if core.exit(&block) {
            Shared::stay(event_loop, task)?;
            return Ok(Blocked::Over { result, lost: false });
        }
        let mut interrupt = Interrupt::default();
        if let Some(place) = shared.come_back(event_loop, task, &mut interrupt)? {
            let refused = shared.refuse(py, place);
            return Err(result.err().unwrap_or(refused));
        }
        if let Some(interrupt) = interrupt.take(event_loop)? {
            result = Err(interrupt);
        }
        Ok(Blocked::Over { result, lost: true })
    }
}

#[pymethods]
impl Baton {
    #[new]
    #[pyo3(signature = (event_loop, *, max_carriers, threshold, idle))]
    fn new(
        event_loop: &Bound<'_, PyAny>,
        max_carriers: &Bound<'_, PyAny>,
        threshold: &Bound<'_, PyAny>,
        idle: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let py = event_loop.py();
        let limits = Limits {
            carriers: size::number("max_carriers", max_carriers)?,
            threshold: size::seconds("threshold", threshold)?,
            idle: size::seconds("idle_seconds", idle)?,
        };
        let shared = Arc::new(Shared {
            core: handover::Baton::new(limits),
            event_loop: PyWeakrefReference::new(event_loop)?.unbind(),
            threads: Mutex::default(),
            ending: AtomicBool::new(false),
            hook: Mutex::default(),
            origin: Origin::here(),
        });
        names(py)?;
        inplace::names(py)?;
        Mailbox::hand_over(event_loop)?;
        let mut alive = ALIVE.lock();
        alive.retain(|shared| shared.strong_count() > 0);
        alive.push(Arc::downgrade(&shared));
        drop(alive);
        Ok(Self { shared, slow: PySet::empty(py)?.unbind() })
    }

    /// Lets those that wait have the loop, and waits until it comes back. To be called between two callbacks.
    fn take_turns(&self, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = event_loop.py();
        Shared::depart(event_loop)?;
        let mut interrupt = Interrupt::default();
        if let Some(seat) = self.shared.core.take_turns()
            && !self.shared.sit(event_loop, &seat, &mut interrupt)
        {
            return Err(self.shared.refuse(py, Place::Queue(seat)));
        }
        Shared::arrive(event_loop, None)?;
        interrupt.take(event_loop)?.map_or(Ok(()), Err)
    }

    /// Whether a carrier is to turn the loop once more.
    #[getter]
    fn unwanted(&self) -> bool {
        !self.shared.core.is_wanted() && !self.shared.core.is_closed()
    }

    /// Whether nobody else has had the loop since there were so many passages, and nobody waits for it.
    fn keeps(&self, passages: u64) -> bool {
        self.shared.core.passages() == passages && !self.shared.core.is_wanted()
    }

    #[getter]
    fn passages(&self) -> u64 {
        self.shared.core.passages()
    }

    #[getter]
    fn wanted(&self) -> bool {
        self.shared.core.is_wanted()
    }

    #[getter]
    fn away(&self) -> usize {
        self.shared.core.away()
    }

    /// Ends the idle carriers, and waits for them. Threads that come back later are told.
    fn close(&self, py: Python<'_>) {
        if self.is_inherited() {
            return;
        }
        self.shared.core.close();
        py.detach(|| self.shared.join_idle());
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let figures = if self.is_inherited() { Figures::default() } else { self.shared.core.figures() };
        let stats = PyDict::new(py);
        stats.set_item("blocks", figures.blocks)?;
        stats.set_item("taken", figures.taken)?;
        stats.set_item("at_once", figures.hurried)?;
        stats.set_item("swapped", figures.swapped)?;
        stats.set_item("capped", figures.capped)?;
        stats.set_item("carriers", figures.carriers)?;
        stats.set_item("idle", figures.idle)?;
        stats.set_item("away", figures.away)?;
        Ok(stats)
    }

    #[getter]
    fn _slow(&self, py: Python<'_>) -> Py<PySet> {
        self.slow.clone_ref(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.slow)
    }

    /// For tests: called with the name of each point that a thread comes to.
    fn _hook(&self, hook: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut *self.shared.hook.lock(), hook);
        drop(before);
    }
}

impl Drop for Baton {
    fn drop(&mut self) {
        if !self.is_inherited() {
            self.shared.core.close();
        }
    }
}

/// Whether a loop can be handed over.
pub fn hands_over(event_loop: &Bound<'_, PyAny>) -> bool {
    event_loop.getattr(intern!(event_loop.py(), "_baton")).is_ok()
}

/// Carriers that there are in this process, and the most that there can be with the loops that exist now.
pub fn threads() -> (usize, usize) {
    let alive: Vec<_> = ALIVE.lock().iter().filter_map(Weak::upgrade).collect();
    alive.iter().map(|shared| shared.core.threads()).fold((0, 0), |sum, its| (sum.0 + its.0, sum.1 + its.1))
}

/// At the interpreter's exit.
#[pyfunction]
pub fn _join_carriers(py: Python<'_>) {
    let alive = std::mem::take(&mut *ALIVE.lock());
    for shared in alive.iter().filter_map(Weak::upgrade) {
        shared.end(py);
    }
}

/// In a forked child: it has none of its parent's carriers.
pub fn forget() {
    std::mem::forget(std::mem::take(&mut *ALIVE.lock()));
}
