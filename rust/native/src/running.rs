//! What runs at this moment under a policy, and where: for who watches loops. While nobody does, nothing is noted.
//!
//! Each thread has a place for what it runs. A watcher *asks* before it waits for the interpreter: what runs then and is
//! over by the time that the watcher has the interpreter is its answer, and that of all others who asked meanwhile. A
//! function that doesn't let the interpreter go is found that way, though it can be looked at only afterwards.

use std::cell::RefCell;
use std::ffi::c_ulong;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

use penstock_core::fork::Origin;
use penstock_core::sync::Mutex;
use pyo3::prelude::*;

use crate::figures::Figures;
use crate::gil;

/// What is run.
pub enum What {
    Function(Py<PyAny>),
    /// A native operation, by what it does.
    Operation(&'static str),
}

impl What {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Function(function) => Self::Function(function.clone_ref(py)),
            Self::Operation(name) => Self::Operation(name),
        }
    }
}

struct Run {
    figures: Arc<Figures>,
    what: What,
}

#[derive(Default)]
struct Contents {
    /// Innermost last.
    runs: Vec<Arc<Run>>,
    /// Questions asked since the innermost began, one for each watcher.
    questions: Vec<Arc<Question>>,
}

/// Holds what ran when it was asked, once that is over.
type Question = OnceLock<Arc<Run>>;

struct Place {
    registry: &'static Registry,
    thread: c_ulong,
    #[cfg(target_os = "linux")]
    task: rustix::process::Pid,
    contents: Mutex<Contents>,
}

/// The places of a process. Locks that a thread held when the process forked are never let go in the child: the parent's
/// registry is left as it was, for ever, and the child's is the next.
struct Registry {
    origin: Origin,
    watchers: AtomicUsize,
    places: Mutex<Vec<Weak<Place>>>,
    next: OnceLock<Box<Registry>>,
}

impl Registry {
    fn new() -> Self {
        Self { origin: Origin::here(), watchers: AtomicUsize::new(0), places: Mutex::default(), next: OnceLock::new() }
    }

    fn current() -> &'static Self {
        static FIRST: OnceLock<Registry> = OnceLock::new();
        let mut registry = FIRST.get_or_init(Self::new);
        while registry.origin.is_ancestor() {
            registry = registry.next.get_or_init(|| Box::new(Self::new()));
        }
        registry
    }
}

/// Whoever has one watches.
pub struct Watcher(&'static Registry);

impl Watcher {
    pub fn new() -> Self {
        let registry = Registry::current();
        registry.watchers.fetch_add(1, Relaxed);
        Self(registry)
    }

    /// Asks all threads what they run. Needs no interpreter.
    pub fn ask(&self) -> Vec<Asked> {
        let places = self.0.places.lock().iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
        places.into_iter().filter_map(Place::ask).collect()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Relaxed);
    }
}

thread_local! {
    static PLACE: RefCell<Option<Arc<Place>>> = const { RefCell::new(None) };
}

impl Place {
    /// This thread's.
    fn current(py: Python<'_>, registry: &'static Registry) -> Arc<Self> {
        let known = PLACE
            .with_borrow(|place| place.as_ref().filter(|place| std::ptr::eq(place.registry, registry)).map(Arc::clone));
        if let Some(place) = known {
            return place;
        }
        let place = Arc::new(Self {
            registry,
            thread: gil::this_thread(py),
            #[cfg(target_os = "linux")]
            task: rustix::thread::gettid(),
            contents: Mutex::default(),
        });
        let mut places = registry.places.lock();
        places.retain(|place| place.strong_count() > 0);
        places.push(Arc::downgrade(&place));
        drop(places);
        PLACE.set(Some(Arc::clone(&place)));
        place
    }

    fn ask(self: Arc<Self>) -> Option<Asked> {
        let mut contents = self.contents.lock();
        if contents.runs.is_empty() {
            return None;
        }
        let question = Arc::new(Question::new());
        contents.questions.push(Arc::clone(&question));
        drop(contents);
        Some(Asked { on_cpu: self.is_on_cpu(), place: self, question })
    }

    /// Whether the thread computes, and doesn't wait for something.
    #[cfg(target_os = "linux")]
    fn is_on_cpu(&self) -> bool {
        // proc_pid_stat(5): the state follows the name, which is in parentheses and may contain any.
        let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.task.as_raw_nonzero()));
        stat.is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('R')))
    }

    #[cfg(not(target_os = "linux"))]
    fn is_on_cpu(&self) -> bool {
        true
    }
}

/// Notes what this thread runs, until it is dropped, if anybody watches.
#[must_use]
pub struct Mark(Arc<Place>);

pub fn mark(py: Python<'_>, figures: &Arc<Figures>, what: impl FnOnce() -> What) -> Option<Mark> {
    let registry = Registry::current();
    if registry.watchers.load(Relaxed) == 0 {
        return None;
    }
    let place = Place::current(py, registry);
    place.contents.lock().runs.push(Arc::new(Run { figures: Arc::clone(figures), what: what() }));
    Some(Mark(place))
}

impl Drop for Mark {
    fn drop(&mut self) {
        let mut contents = self.0.contents.lock();
        let run = contents.runs.pop();
        let questions = std::mem::take(&mut contents.questions);
        if let Some(run) = &run {
            questions.iter().for_each(|question| drop(question.set(Arc::clone(run))));
        }
        drop(contents);
    }
}

/// A thread that ran something when it was asked.
pub struct Asked {
    place: Arc<Place>,
    on_cpu: bool,
    question: Arc<Question>,
}

/// What a thread ran when it was asked.
pub struct Answer {
    /// As `sys._current_frames` names it.
    pub thread: c_ulong,
    /// It computed then, or is over since: it may have kept the interpreter from others.
    pub suspect: bool,
    pub figures: Arc<Figures>,
    pub what: What,
}

impl Asked {
    pub fn answer(&self, py: Python<'_>) -> Option<Answer> {
        let mut contents = self.place.contents.lock();
        contents.questions.retain(|question| !Arc::ptr_eq(question, &self.question));
        let ended = self.question.get();
        let suspect = self.on_cpu || ended.is_some();
        let run = ended.or(contents.runs.last()).map(Arc::clone);
        drop(contents);
        let run = run?;
        let (figures, what) = (Arc::clone(&run.figures), run.what.clone_ref(py));
        Some(Answer { thread: self.place.thread, suspect, figures, what })
    }
}
