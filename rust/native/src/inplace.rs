//! `block_in_place`: whether a task may block its thread where it is, whether the function is known to be slow, and what
//! becomes of a call for which the loop can't be handed over. How it is handed over is the baton's.
//!
//! A function that is over at once pays for all that is on its way here; so that is native code, and asks asyncio only
//! for what it must.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyDict, PyFunction, PyModule, PySet, PyString, PyTuple};

use crate::baton::{self, Baton, Blocked};
use crate::call::given;
use crate::{errors, loops};

/// So many functions are remembered as slow; then it begins anew.
const SLOW_FUNCTIONS: usize = 1024;

/// `set_unsupported("direct")`: where the loop can't be handed over, it stands still.
static STANDS_STILL: AtomicBool = AtomicBool::new(false);

/// What is needed of the standard library.
pub struct Names {
    modules: Py<PyDict>,
    getattr: Py<PyAny>,
    partial: Py<PyAny>,
    method: Py<PyAny>,
}

/// Looked up when the first loop is made that can be handed over.
pub fn names(py: Python<'_>) -> PyResult<&Names> {
    static NAMES: PyOnceLock<Names> = PyOnceLock::new();
    NAMES.get_or_try_init(py, || {
        Ok(Names {
            modules: py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?.unbind(),
            getattr: py.import("builtins")?.getattr("getattr")?.unbind(),
            partial: py.import("functools")?.getattr("partial")?.unbind(),
            method: py.import("types")?.getattr("MethodType")?.unbind(),
        })
    })
}

/// A call to be made on this thread.
struct Call<'a, 'py> {
    r#fn: &'a Bound<'py, PyAny>,
    args: &'a Bound<'py, PyTuple>,
    kwargs: Option<&'a Bound<'py, PyDict>>,
}

/// What came of it, or why it was not made.
type Tried<'py> = Result<Bound<'py, PyAny>, String>;

impl<'py> Call<'_, 'py> {
    fn make(&self) -> PyResult<Bound<'py, PyAny>> {
        let value = match self.kwargs {
            None if self.args.is_empty() => self.r#fn.call0(),
            kwargs => self.r#fn.call(self.args, kwargs),
        };
        given(self.r#fn, value?)
    }

    /// Makes it while others may have the loop. `may_stand`: also if the loop stands still, as no carrier is left.
    fn make_in_place(&self, event_loop: &Bound<'py, PyAny>, may_stand: bool) -> PyResult<Tried<'py>> {
        let py = event_loop.py();
        let Ok(baton) = event_loop.getattr(intern!(py, "_baton")) else {
            let class = event_loop.get_type().fully_qualified_name()?;
            return Ok(Err(format!("the running loop is a {class}, not penstock.run's")));
        };
        let baton = baton.cast::<Baton>()?.get();
        if baton.is_inherited() {
            return Ok(Err("the running loop is the parent process's".to_owned()));
        }
        let handle = event_loop.getattr(intern!(py, "_current_handle"))?;
        let task = match baton::current_task(event_loop)? {
            Some(task) if is_in_step(&handle, &task)? => task,
            task => return Ok(Err(outside(&handle, task.is_some()).to_owned())),
        };
        refuse_greenlets(py)?;

        let slow = baton.slow(py);
        let known = !slow.is_empty() && slow.contains(key(self.r#fn)?)?;
        let begun = known.then(Instant::now);
        let Blocked::Over { result, lost } = baton.block(event_loop, &task, known, may_stand, || self.make())? else {
            return Ok(Err(format!("all carriers are blocked (max_carriers={})", baton.limits().carriers)));
        };
        if lost {
            event_loop.setattr(intern!(py, "_current_handle"), handle)?;
        }
        match begun {
            None if lost => remember(slow, self.r#fn)?,
            Some(begun) if begun.elapsed() < baton.limits().threshold => drop(slow.discard(key(self.r#fn)?)?),
            _ => {}
        }
        result.map(Ok)
    }

    fn make_otherwise(&self, why: &str, otherwise: &str) -> PyResult<Bound<'py, PyAny>> {
        let py = self.r#fn.py();
        let kwargs = self.kwargs.map_or_else(|| PyDict::new(py), Bound::clone);
        let value = py
            .import(intern!(py, "penstock.blocking.handover"))?
            .call_method1(intern!(py, "unsupported"), (why, otherwise, self.r#fn, self.args, kwargs))?;
        given(self.r#fn, value)
    }
}

/// Whether the loop runs a step of a task, and not a callback that began an eager one.
#[cfg(Py_3_12)]
fn is_in_step(handle: &Bound<'_, PyAny>, task: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = task.py();
    let callback = handle.getattr(intern!(py, "_callback"));
    let Ok(owner) = callback.and_then(|callback| callback.getattr(intern!(py, "__self__"))) else { return Ok(false) };
    // Not its own: it is eager, and within the step of another.
    Ok(owner.is(task) || owner.hasattr(intern!(py, "get_coro"))?)
}

/// A task is only run in its own steps. There is no handle in the rest of a turn of asyncio's in which it was enabled.
#[cfg(not(Py_3_12))]
fn is_in_step(handle: &Bound<'_, PyAny>, _: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(!handle.is_none())
}

/// Where else a call comes from.
fn outside(handle: &Bound<'_, PyAny>, in_task: bool) -> &'static str {
    match (in_task, handle.is_none()) {
        (false, _) => "called in a callback, which belongs to no task",
        (true, false) => "called in an eager task before its first await, within the callback that began it",
        (true, true) => "the turn of the loop in which that was enabled isn't over",
    }
}

fn refuse_greenlets(py: Python<'_>) -> PyResult<()> {
    let Some(greenlet) = names(py)?.modules.bind(py).get_item(intern!(py, "greenlet"))? else { return Ok(()) };
    let current = greenlet.call_method0(intern!(py, "getcurrent"))?;
    if current.getattr(intern!(py, "parent"))?.is_none() {
        return Ok(());
    }
    let message = "a greenlet can't leave its thread, and the loop would: take Dispatch for what runs in greenlets";
    Err(errors::declared(py, "HandoverError", (message,), &[]))
}

fn remember(slow: &Bound<'_, PySet>, r#fn: &Bound<'_, PyAny>) -> PyResult<()> {
    if slow.len() >= SLOW_FUNCTIONS {
        slow.clear();
    }
    slow.add(key(r#fn)?)
}

/// What tells functions apart, and keeps nothing alive: of a method not its object, of a closure its code.
fn key<'py>(r#fn: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = r#fn.py();
    let names = names(py)?;
    let mut r#fn = r#fn.clone();
    while r#fn.is_instance(names.partial.bind(py))? {
        r#fn = r#fn.getattr(intern!(py, "func"))?;
    }
    r#fn = names.getattr.bind(py).call1((&r#fn, intern!(py, "__wrapped__"), &r#fn))?;
    if r#fn.get_type().is(&names.method) {
        r#fn = r#fn.getattr(intern!(py, "__func__"))?;
    }
    if r#fn.is_exact_instance_of::<PyFunction>() {
        return r#fn.getattr(intern!(py, "__code__"));
    }
    if !r#fn.is_exact_instance_of::<PyCFunction>() {
        return Ok(r#fn.get_type().into_any());
    }
    let owner = r#fn.getattr(intern!(py, "__self__"))?;
    if owner.is_none() || owner.is_instance_of::<PyModule>() {
        return Ok(r#fn);
    }
    let name = r#fn.getattr(intern!(py, "__name__"))?;
    Ok(PyTuple::new(py, [owner.get_type().into_any(), name])?.into_any())
}

/// Call a blocking function here, inside a task, without an await, while the event loop goes on in another thread.
///
/// Experimental. It works in tasks on penstock's loop: `penstock.run(main())`. A function that takes more than 200 µs
/// loses the loop to a carrier thread, and gets it back when it returns; one that was seen to be slow loses it at once.
/// Inside `fn` there is no running loop.
///
/// Not for greenlets, and not for tasks that keep objects bound to a thread over an await (sqlite3): the task may find
/// itself in another thread afterwards. These take `Dispatch`.
///
/// Returns:
///     What `fn` returns. On a thread that runs no loop it is called, and that is all.
///
/// Raises:
///     HandoverError: The loop can't be handed over here, and `set_unsupported` says "error"; or the loop was closed
///         before `fn` returned.
///
/// A cancellation of the task shows at its next await. Source: tokio's `block_in_place`, upstream's
/// `BlockingPermit::run`.
#[pyfunction]
#[pyo3(signature = (r#fn, /, *args, **kwargs))]
pub fn block_in_place<'py>(
    r#fn: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let stands_still = STANDS_STILL.load(Relaxed);
    call(r#fn, args, kwargs, stands_still, if stands_still { "direct" } else { "error" })
}

/// For a permit's holder, who may block in any case.
pub fn block_or_stand<'py>(
    r#fn: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    call(r#fn, args, kwargs, true, "stand")
}

fn call<'py>(
    r#fn: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
    may_stand: bool,
    otherwise: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let call = Call { r#fn, args, kwargs };
    let Some(event_loop) = loops::running(r#fn.py())? else { return call.make() };
    match call.make_in_place(&event_loop, may_stand)? {
        Ok(value) => Ok(value),
        Err(why) => call.make_otherwise(&why, otherwise),
    }
}

/// Calls `fn` in place: its result in a tuple, or why it wasn't called. `may_stand`: also with all carriers blocked.
#[pyfunction]
pub fn _try_in_place<'py>(r#fn: &Bound<'py, PyAny>, may_stand: bool) -> PyResult<Bound<'py, PyAny>> {
    let py = r#fn.py();
    let call = Call { r#fn, args: &PyTuple::empty(py), kwargs: None };
    let tried = match loops::running(py)? {
        Some(event_loop) => call.make_in_place(&event_loop, may_stand)?,
        None => Ok(call.make()?),
    };
    match tried {
        Ok(value) => PyTuple::new(py, [value]).map(Bound::into_any),
        Err(why) => Ok(PyString::new(py, &why).into_any()),
    }
}

/// Whether loops that can't be handed over stand still from now on, and whether they did before.
#[pyfunction]
pub fn _stand_still(still: bool) -> bool {
    STANDS_STILL.swap(still, Relaxed)
}
