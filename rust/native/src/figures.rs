//! What a policy keeps of what it ran: how many wait and run at this moment, and histograms of both times, and of how
//! long loops stood still for it. Values that live as long as the wait and the run do the counting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use penstock_core::histogram::{self, Snapshot};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::running::{self, Mark, What};

#[derive(Debug)]
pub struct Figures {
    /// The policy's, for who reports.
    pub name: &'static str,
    /// Waits that have begun.
    begun: AtomicU64,
    /// Waits that ended without a run.
    given_up: AtomicU64,
    /// Runs without a wait before them.
    unwaited: AtomicU64,
    wait: histogram::Histogram,
    run: histogram::Histogram,
    lag: histogram::Histogram,
}

impl Figures {
    pub fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            begun: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            unwaited: AtomicU64::new(0),
            wait: histogram::Histogram::default(),
            run: histogram::Histogram::default(),
            lag: histogram::Histogram::default(),
        })
    }

    /// Something waits to be run from now on.
    pub fn wait(self: &Arc<Self>) -> Stay {
        self.begun.fetch_add(1, Relaxed);
        Stay { figures: Arc::clone(self), since: Instant::now(), stage: Stage::Waits, mark: None }
    }

    /// Something runs from now on, on this thread, that didn't wait.
    pub fn run(self: &Arc<Self>, py: Python<'_>, what: impl FnOnce() -> What) -> Stay {
        self.unwaited.fetch_add(1, Relaxed);
        let mark = running::mark(py, self, what);
        Stay { figures: Arc::clone(self), since: Instant::now(), stage: Stage::Runs, mark }
    }

    /// Something runs from now on, on this thread, that would have waited if it had to.
    pub fn run_at_once(self: &Arc<Self>, py: Python<'_>, what: impl FnOnce() -> What) -> Stay {
        let mut stay = self.wait();
        stay.run(py, stay.since, what);
        stay
    }

    /// A loop stood still for what it ran.
    pub fn stalled(&self, lag: Duration, interval: Duration) {
        self.lag.record_all_within(lag, interval);
    }

    pub fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.stats_with(py, &self.lag)
    }

    /// As `stats`, of what runs on loops' own threads: they stand still for exactly as long as it runs.
    pub fn stats_on_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.stats_with(py, &self.run)
    }

    fn stats_with<'py>(&self, py: Python<'py>, lag: &histogram::Histogram) -> PyResult<Bound<'py, PyDict>> {
        // In this order nothing is seen to end that wasn't seen to begin.
        let run = self.run.snapshot();
        let wait = self.wait.snapshot();
        let started = wait.count + self.unwaited.load(Relaxed);
        let waits = self.begun.load(Relaxed).saturating_sub(wait.count + self.given_up.load(Relaxed));
        let stats = PyDict::new(py);
        stats.set_item("count", started)?;
        stats.set_item("waiting", waits)?;
        stats.set_item("running", started.saturating_sub(run.count))?;
        stats.set_item("wait", times(py, &wait)?)?;
        stats.set_item("run", times(py, &run)?)?;
        stats.set_item("lag", times(py, &lag.snapshot())?)?;
        Ok(stats)
    }
}

enum Stage {
    Waits,
    Runs,
    Over,
}

/// Something that waits, then runs; its drop ends either.
pub struct Stay {
    figures: Arc<Figures>,
    /// The beginning of the wait or of the run.
    since: Instant,
    stage: Stage,
    mark: Option<Mark>,
}

impl Stay {
    /// The wait is over: it runs, on this thread.
    pub fn run(&mut self, py: Python<'_>, now: Instant, what: impl FnOnce() -> What) {
        self.begin(now);
        self.mark = running::mark(py, &self.figures, what);
    }

    /// The wait is over: it runs, and doesn't use the interpreter, so that no loop stands still for it.
    pub fn run_detached(&mut self) {
        self.begin(Instant::now());
    }

    fn begin(&mut self, now: Instant) {
        self.figures.wait.record(now.saturating_duration_since(self.since));
        (self.since, self.stage) = (now, Stage::Runs);
    }

    /// As the drop, for who knows the time.
    pub fn end(mut self, now: Instant) {
        self.leave(|| now);
    }

    fn leave(&mut self, now: impl FnOnce() -> Instant) {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Waits => drop(self.figures.given_up.fetch_add(1, Relaxed)),
            Stage::Runs => self.figures.run.record(now().saturating_duration_since(self.since)),
            Stage::Over => {}
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.leave(Instant::now);
    }
}

fn limit(bound: Duration) -> f64 {
    if bound == Duration::MAX { f64::INFINITY } else { bound.as_secs_f64() }
}

/// A histogram as Python sees it; times are in seconds.
fn times<'py>(py: Python<'py>, snapshot: &Snapshot) -> PyResult<Bound<'py, PyDict>> {
    let buckets = PyList::empty(py);
    for (bound, count) in snapshot.buckets.iter().filter(|(_, count)| *count > 0) {
        buckets.append((limit(*bound), count))?;
    }
    let times = PyDict::new(py);
    times.set_item("count", snapshot.count)?;
    times.set_item("sum", snapshot.sum.as_secs_f64())?;
    times.set_item("p50", snapshot.quantile(0.5).as_secs_f64())?;
    times.set_item("p99", snapshot.quantile(0.99).as_secs_f64())?;
    times.set_item("max", snapshot.longest.as_secs_f64())?;
    times.set_item("buckets", buckets)?;
    Ok(times)
}

/// A histogram of times, for what is counted in Python.
#[pyclass(frozen, module = "penstock._native")]
#[derive(Default)]
pub struct Histogram(histogram::Histogram);

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

impl Histogram {
    pub fn note(&self, time: Duration, interval: Duration) {
        self.0.record_all_within(time, interval);
    }
}

#[pymethods]
impl Histogram {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Records a time, in seconds; with an interval, as it was for all who came so far apart while it lasted.
    #[pyo3(signature = (time, interval = 0.0, /))]
    fn record(&self, time: f64, interval: f64) {
        self.note(seconds(time), seconds(interval));
    }

    /// All bounds, in seconds, with what is not within the ones before.
    fn buckets(&self) -> Vec<(f64, u64)> {
        self.0.snapshot().buckets.iter().map(|(bound, count)| (limit(*bound), *count)).collect()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        times(py, &self.0.snapshot())
    }
}
