//! What PyO3 has no safe face for: contexts (PEP 567), the pending exception, and exceptions in other threads. May hold
//! `unsafe`: these are calls of CPython's own interface.

#![allow(unsafe_code)]

use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};
use std::time::Duration;

/// A thread that waits without the interpreter looks for signals (Ctrl-C) so often, if it [hears](hears_signals) them.
pub const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Whether signals may have to be handled by the calling thread: CPython has the main thread do it, and no other.
pub fn hears_signals(py: Python<'_>) -> bool {
    let is_main = || {
        let threading = py.import(intern!(py, "threading"))?;
        let main = threading.call_method0(intern!(py, "main_thread"))?.getattr(intern!(py, "ident"))?;
        main.eq(this_thread(py))
    };
    // Near the interpreter's end nobody can be asked.
    is_main().unwrap_or(true)
}

/// Whether the calling thread runs the process's main interpreter, and not a sub-interpreter.
pub fn is_main_interpreter(_: Python<'_>) -> bool {
    // SAFETY: the argument proves that the thread is attached, so it has an interpreter. The main one is the first: 0.
    unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) == 0 }
}

/// A copy of the calling thread's current `contextvars.Context`; costs as much as an empty object.
pub fn copy_context(py: Python<'_>) -> PyResult<Py<PyAny>> {
    // SAFETY: `py` proves that the thread is attached; the call gives a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }.map(Bound::unbind)
}

/// A `contextvars.Context` in which nothing is set.
pub fn empty_context(py: Python<'_>) -> PyResult<Py<PyAny>> {
    // SAFETY: `py` proves that the thread is attached; the call gives a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_New()) }.map(Bound::unbind)
}

/// Runs `body` inside `context`, or as it is without one. Fails if the context is entered already.
pub fn within<T>(
    py: Python<'_>,
    context: Option<&Py<PyAny>>,
    body: impl FnOnce(Python<'_>) -> PyResult<T>,
) -> PyResult<T> {
    match context {
        Some(context) => {
            let _entered = Entered::new(py, context)?;
            body(py)
        }
        None => body(py),
    }
}

struct Entered<'a, 'py>(Python<'py>, &'a Py<PyAny>);

impl<'a, 'py> Entered<'a, 'py> {
    fn new(py: Python<'py>, context: &'a Py<PyAny>) -> PyResult<Self> {
        // SAFETY: `py` proves that the thread is attached, and the reference keeps the object alive; what isn't a
        // Context is refused with a TypeError.
        if unsafe { ffi::PyContext_Enter(context.as_ptr()) } == 0 {
            Ok(Self(py, context))
        } else {
            Err(PyErr::fetch(py))
        }
    }
}

impl Drop for Entered<'_, '_> {
    fn drop(&mut self) {
        let pending = PyErr::take(self.0);
        // SAFETY: `self.0` proves that the thread is attached, and `new` entered this context on this thread; contexts
        // entered since were left by their own drops, so it is the current one.
        if unsafe { ffi::PyContext_Exit(self.1.as_ptr()) } != 0 {
            PyErr::fetch(self.0).write_unraisable(self.0, None);
        }
        if let Some(pending) = pending {
            pending.restore(self.0);
        }
    }
}

/// Whether an exception is meant to end the loop that it came up in: asyncio lets these through, and so does penstock.
pub fn is_interrupt(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyKeyboardInterrupt>(py) || error.is_instance_of::<PySystemExit>(py)
}

/// The class to [`throw`] in the place of an exception: that of an exit has its code.
pub fn class_of<'py>(py: Python<'py>, error: &PyErr) -> Bound<'py, PyType> {
    let class = error.get_type(py);
    let with_code = || -> PyResult<Bound<'py, PyType>> {
        let attributes = PyDict::new(py);
        attributes.set_item("__module__", "builtins")?;
        attributes.set_item("code", error.value(py).getattr(intern!(py, "code"))?)?;
        let made = py.get_type::<PyType>().call1((class.name()?, (&class,), attributes))?;
        Ok(made.cast_into::<PyType>()?)
    };
    let made = if error.is_instance_of::<PySystemExit>(py) { with_code().ok() } else { None };
    made.unwrap_or(class)
}

/// The calling thread, as `sys._current_frames` names it.
pub fn this_thread(_: Python<'_>) -> std::ffi::c_ulong {
    // SAFETY: it only asks which thread this is, which is attached, as the argument proves.
    unsafe { ffi::PyThread_get_thread_ident() }
}

/// Raises an exception of a class in a thread, between two of its instructions; in native code, when it is back.
pub fn throw(thread: std::ffi::c_ulong, class: &Bound<'_, PyType>) {
    // SAFETY: `class` proves that this thread is attached, and is a class; of a thread that is gone nothing is touched.
    unsafe { ffi::PyThreadState_SetAsyncExc(thread.cast_signed(), class.as_ptr()) };
}

/// Runs `body` from a destructor: an exception that is pending stays so, and one from `body` is unraisable.
pub fn in_destructor(body: impl FnOnce(Python<'_>) -> PyResult<()>) {
    // Without an interpreter there is nobody to tell.
    let _ = Python::try_attach(|py| {
        aside(py, || {
            if let Err(error) = body(py) {
                error.write_unraisable(py, None);
            }
        });
    });
}

/// Runs `body` where its error can't be raised, a destructor for one: an exception that is pending stays so, and an
/// interrupt from a signal's handler comes up again, between two instructions of this thread. The default without an
/// interpreter, and for an error.
pub fn quietly<T: Default>(body: impl FnOnce(Python<'_>) -> PyResult<T>) -> T {
    let run = |py: Python<'_>| {
        body(py).unwrap_or_else(|error| {
            if is_interrupt(py, &error) {
                throw(this_thread(py), &class_of(py, &error));
            }
            T::default()
        })
    };
    Python::try_attach(|py| aside(py, || run(py))).unwrap_or_default()
}

/// Runs `body` with no exception pending; one that is, is again afterwards.
fn aside<T>(py: Python<'_>, body: impl FnOnce() -> T) -> T {
    let pending = PyErr::take(py);
    let result = body();
    if let Some(pending) = pending {
        pending.restore(py);
    }
    result
}
