//! The class `LoopWatch`: a thread that watches one event loop, for `penstock.LoopMonitor`. When the loop answers is the
//! core's to measure; here is what the loop calls, and the way to the monitor, which is told of late answers only. While
//! there are none the watch never needs the interpreter.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use penstock_core::Error;
use penstock_core::dispatch::{Signal, platform_stack};
use penstock_core::fork::Origin;
use penstock_core::pulse::{Observer, Pulse, Settings, Verdict};
use penstock_core::sync::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyWeakrefMethods, PyWeakrefReference};

use crate::errors::Raise;
use crate::figures::{Figures, Histogram};
use crate::loops;
use crate::running::{Watcher, What};
use crate::worker;

#[pyclass(frozen, module = "penstock._native")]
pub struct LoopWatch {
    pulse: Arc<Pulse>,
    event_loop: Py<PyWeakrefReference>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The thread is this process's, not that of its children.
    origin: Origin,
}

/// What the loop calls. The loop's selector owns it: its drop says that the loop is gone.
#[pyclass(frozen)]
struct Answer(Arc<Pulse>, Origin);

#[pymethods]
impl Answer {
    fn __call__(&self) {
        self.0.answer();
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The thread is its parent's, and may have had the lock when the process forked.
        if !self.1.is_ancestor() {
            self.0.stop();
        }
    }
}

/// The way to the monitor.
struct Teller {
    watcher: Watcher,
    lag: Py<Histogram>,
    interval: Duration,
    threshold: Duration,
    /// `late(waited, stalled, runs)` says which of the runs it is due to: an index, -1 for none of them, or `None` if the
    /// loop isn't meant to run. A run is the thread, whether it is suspected of having the interpreter, its policy and
    /// function.
    late: Py<PyAny>,
    /// `answered(lag)`
    answered: Py<PyAny>,
    culprit: Option<Arc<Figures>>,
}

impl Observer for Teller {
    fn late(&mut self, asked: Instant) -> Verdict {
        let places = self.watcher.ask();
        Python::attach(|py| {
            // Who kept the loop may have kept this thread waiting, too.
            let waited = asked.elapsed();
            let stalled = waited >= self.threshold;
            let verdict = if stalled { Verdict::Stalled } else { Verdict::Late };
            let answers: Vec<_> = places.iter().filter_map(|place| place.answer(py)).collect();
            let ask = || -> PyResult<Option<isize>> {
                let runs = PyList::empty(py);
                for answer in &answers {
                    let what = match &answer.what {
                        What::Function(function) => function.clone_ref(py).into_bound(py),
                        What::Operation(name) => name.into_pyobject(py)?.into_any(),
                    };
                    runs.append((answer.thread, answer.suspect, answer.figures.name, what))?;
                }
                self.late.bind(py).call1((waited.as_secs_f64(), stalled, runs))?.extract()
            };
            match ask() {
                Ok(Some(index)) => {
                    let culprit = usize::try_from(index).ok().and_then(|index| answers.get(index));
                    self.culprit = culprit.map(|answer| Arc::clone(&answer.figures));
                    verdict
                }
                Ok(None) => Verdict::Stopped,
                Err(error) => {
                    error.write_unraisable(py, Some(self.late.bind(py)));
                    verdict
                }
            }
        })
    }

    fn answered(&mut self, lag: Duration, late: bool) {
        self.lag.get().note(lag, self.interval);
        let culprit = self.culprit.take();
        if !late {
            return;
        }
        if let Some(figures) = culprit {
            figures.stalled(lag, self.interval);
        }
        Python::attach(|py| {
            if let Err(error) = self.answered.call1(py, (lag.as_secs_f64(),)) {
                error.write_unraisable(py, Some(self.answered.bind(py)));
            }
        });
    }
}

fn positive(name: &str, seconds: f64) -> PyResult<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err(PyValueError::new_err(format!("{name}={seconds}: must be a positive number of seconds"))),
    }
}

#[pymethods]
impl LoopWatch {
    /// Watches a loop from now on. To be called on its thread.
    #[new]
    fn new(
        event_loop: &Bound<'_, PyAny>,
        lag: Py<Histogram>,
        late: Py<PyAny>,
        answered: Py<PyAny>,
        interval: f64,
        patience: f64,
        threshold: f64,
    ) -> PyResult<Self> {
        let py = event_loop.py();
        let settings = Settings {
            interval: positive("interval", interval)?,
            patience: positive("patience", patience)?,
            threshold: positive("threshold", threshold)?,
        };
        let pulse = Arc::new(Pulse::new(settings, Signal::new().raise(py)?));
        let teller = Teller {
            watcher: Watcher::new(),
            lag,
            interval: settings.interval,
            threshold: settings.threshold,
            late,
            answered,
            culprit: None,
        };
        let watched = Arc::clone(&pulse);
        let thread = thread::Builder::new()
            .name("penstock-watch".to_owned())
            .stack_size(platform_stack())
            .spawn(move || watch(&watched, teller))
            .map_err(Error::io("start a thread"))
            .raise(py)?;
        // Refused, it is dropped, and the thread ends.
        let answer = Py::new(py, Answer(Arc::clone(&pulse), Origin::here()))?;
        event_loop.call_method1(intern!(py, "add_reader"), (descriptor(&pulse), answer))?;
        Ok(Self {
            pulse,
            event_loop: PyWeakrefReference::new(event_loop)?.unbind(),
            thread: Mutex::new(Some(thread)),
            origin: Origin::here(),
        })
    }

    /// Ends the watch and waits for its thread.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        if self.origin.is_ancestor() {
            // The thread, and what it holds, is the parent's.
            std::mem::forget(self.thread.lock().take());
            return Ok(());
        }
        self.pulse.stop();
        let thread = self.thread.lock().take();
        let Some(thread) = thread else { return Ok(()) };
        // A function that is told of a stall may be the one that stops the watch.
        if thread.thread().id() != thread::current().id() {
            let _ = py.detach(|| thread.join());
        }
        self.leave(py)
    }
}

impl LoopWatch {
    /// The loop polls the descriptor no longer.
    fn leave(&self, py: Python<'_>) -> PyResult<()> {
        let Some(event_loop) = self.event_loop.bind(py).upgrade() else { return Ok(()) };
        let asks = |name| event_loop.call_method0(name)?.is_truthy();
        if asks(intern!(py, "is_closed"))? {
            return Ok(());
        }
        let here = loops::running(py)?.is_some_and(|running| running.is(&event_loop));
        let remove = event_loop.getattr(intern!(py, "remove_reader"))?;
        if here || !asks(intern!(py, "is_running"))? {
            remove.call1((descriptor(&self.pulse),))?;
        } else {
            event_loop.call_method1(intern!(py, "call_soon_threadsafe"), (remove, descriptor(&self.pulse)))?;
        }
        Ok(())
    }
}

fn descriptor(pulse: &Pulse) -> RawFd {
    pulse.signal().as_fd().as_raw_fd()
}

fn watch(pulse: &Pulse, mut teller: Teller) {
    worker::live(|| {
        pulse.watch(&mut teller);
        Python::attach(|_| drop(teller));
    });
}
