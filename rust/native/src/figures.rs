//! What a policy keeps of what it ran: how many wait and run at this moment, and histograms of both times, and of how
//! long loops stood still for it. Values that live as long as the wait and the run do the counting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use penstock_core::histogram::{self, Snapshot};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::running::{self, Mark, What};

#[derive(Debug)]
pub struct Figures {
    /// The policy's, for who reports.
    pub name: &'static str,
    waiting: AtomicUsize,
    running: AtomicUsize,
    wait: histogram::Histogram,
    run: histogram::Histogram,
    lag: histogram::Histogram,
}

impl Figures {
    pub fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            wait: histogram::Histogram::default(),
            run: histogram::Histogram::default(),
            lag: histogram::Histogram::default(),
        })
    }

    /// Something waits to be run from now on.
    pub fn wait(self: &Arc<Self>) -> Stay {
        self.waiting.fetch_add(1, Relaxed);
        Stay { figures: Arc::clone(self), since: Instant::now(), runs: false, mark: None }
    }

    /// Something runs from now on, on this thread, that didn't wait.
    pub fn run(self: &Arc<Self>, py: Python<'_>, what: impl FnOnce() -> What) -> Stay {
        self.running.fetch_add(1, Relaxed);
        let mark = running::mark(py, self, what);
        Stay { figures: Arc::clone(self), since: Instant::now(), runs: true, mark }
    }

    /// Something runs from now on, on this thread, that would have waited if it had to.
    pub fn run_at_once(self: &Arc<Self>, py: Python<'_>, what: impl FnOnce() -> What) -> Stay {
        let mut stay = self.wait();
        stay.run(py, what);
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
        let running = self.running.load(Relaxed);
        let run = self.run.snapshot();
        let stats = PyDict::new(py);
        stats.set_item("count", run.count + running as u64)?;
        stats.set_item("waiting", self.waiting.load(Relaxed))?;
        stats.set_item("running", running)?;
        stats.set_item("wait", times(py, &self.wait.snapshot())?)?;
        stats.set_item("run", times(py, &run)?)?;
        stats.set_item("lag", times(py, &lag.snapshot())?)?;
        Ok(stats)
    }
}

/// Something that waits, then runs; its drop ends either.
pub struct Stay {
    figures: Arc<Figures>,
    /// The beginning of the wait or of the run.
    since: Instant,
    runs: bool,
    mark: Option<Mark>,
}

impl Stay {
    /// The wait is over: it runs, on this thread.
    pub fn run(&mut self, py: Python<'_>, what: impl FnOnce() -> What) {
        self.run_detached();
        self.mark = running::mark(py, &self.figures, what);
    }

    /// The wait is over: it runs, and doesn't use the interpreter, so that no loop stands still for it.
    pub fn run_detached(&mut self) {
        let now = Instant::now();
        self.figures.wait.record(now.saturating_duration_since(self.since));
        self.figures.running.fetch_add(1, Relaxed);
        self.figures.waiting.fetch_sub(1, Relaxed);
        (self.since, self.runs) = (now, true);
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if self.runs {
            self.figures.run.record(self.since.elapsed());
            self.figures.running.fetch_sub(1, Relaxed);
        } else {
            self.figures.waiting.fetch_sub(1, Relaxed);
        }
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
