//! Memory across the border: views of bytes that Python may read, windows that a transport may fill, and looking at
//! somebody else's buffer. May hold `unsafe`: the buffer protocol is made of raw pointers.

#![allow(unsafe_code)]

use crate::errors::{Raise, to_py};
use bytes::Bytes;
use penstock_core::Error;
use penstock_core::body::Pools;
use penstock_core::body::slab::{self, Window};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Read-only bytes, kept alive for as long as a memoryview looks at them.
#[pyclass(frozen, freelist = 256, module = "penstock._native")]
pub struct View(Bytes);

#[pymethods]
impl View {
    fn __len__(&self) -> usize {
        self.0.len()
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let (base, len) = (slf.get().0.as_ptr(), slf.get().0.len());
        // SAFETY: `view` is the interpreter's; the bytes are immutable and live as long as `slf`, which it keeps.
        unsafe { fill(slf.as_any(), view, base.cast_mut(), len, true, flags) }
    }
}

/// A window of a slab, lent to a transport to receive into; its slab isn't recycled while this lives.
#[pyclass(frozen, module = "penstock._native")]
pub struct Lent(Window);

#[pymethods]
impl Lent {
    fn __len__(&self) -> usize {
        self.0.len()
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let window = &slf.get().0;
        // SAFETY: the window keeps its slab; it is written to by the transport between `get_buffer` and
        // `buffer_updated` only, when nobody else looks.
        unsafe { fill(slf.as_any(), view, window.as_mut_ptr(), window.len(), false, flags) }
    }
}

/// # Safety
/// `view` is valid for writes, and `len` bytes at `base` stay valid for as long as `owner` lives.
unsafe fn fill(
    owner: &Bound<'_, PyAny>,
    view: *mut ffi::Py_buffer,
    base: *mut u8,
    len: usize,
    readonly: bool,
    flags: c_int,
) -> PyResult<()> {
    let len = isize::try_from(len).map_err(|_| PyBufferError::new_err("larger than a buffer can be"))?;
    // SAFETY: passed on from the caller.
    match unsafe { ffi::PyBuffer_FillInfo(view, owner.as_ptr(), base.cast(), len, readonly.into(), flags) } {
        0 => Ok(()),
        _ => Err(PyErr::fetch(owner.py())),
    }
}

/// Exports bytes through `owner`'s buffer, for as long as that view lives: released by [`release`].
///
/// # Safety
/// `view` is the interpreter's, from `__getbuffer__`.
pub unsafe fn export(owner: &Bound<'_, PyAny>, bytes: Bytes, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
    // SAFETY: the box below keeps the bytes until `release`.
    unsafe {
        fill(owner, view, bytes.as_ptr().cast_mut(), bytes.len(), true, flags)?;
        (*view).internal = Box::into_raw(Box::new(bytes)).cast();
    }
    Ok(())
}

/// # Safety
/// `view` was filled by [`export`], and this is its only release.
pub unsafe fn release(view: *mut ffi::Py_buffer) {
    // SAFETY: `internal` is the box made by `export`.
    drop(unsafe { Box::from_raw((*view).internal.cast::<Bytes>()) });
    // SAFETY: as above.
    unsafe { (*view).internal = ptr::null_mut() };
}

/// A memoryview of immutable bytes.
pub fn view(py: Python<'_>, bytes: Bytes) -> PyResult<Py<PyAny>> {
    let view = Bound::new(py, View(bytes))?;
    Ok(PyMemoryView::from(view.as_any())?.into_any().unbind())
}

/// A memoryview to be received into.
pub fn lend(py: Python<'_>, window: Window) -> PyResult<Py<PyAny>> {
    let lent = Bound::new(py, Lent(window))?;
    Ok(PyMemoryView::from(lent.as_any())?.into_any().unbind())
}

/// The bytes of any buffer: `bytes` without a copy, everything else copied.
pub fn bytes_of(data: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    match data.cast_exact::<PyBytes>() {
        Ok(bytes) => Ok(Bytes::from_owner(Kept::new(bytes))),
        // A large copy is a slab's: recycled, and not unmapped by whoever drops it.
        Err(_) => with_slice(data, |slice| Ok(slab::gather(&Pools::current().slabs, std::iter::once(slice))))?
            .raise(data.py()),
    }
}

/// A `bytes` that is kept for as long as something looks at it, and let go of on any thread. PyO3's own way to do that
/// without the interpreter is a list with a lock, which a forked child would find locked for ever if another thread just
/// used it: writing to a disk lets go of bytes all the time.
struct Kept {
    bytes: *mut ffi::PyObject,
    base: *const u8,
    len: usize,
}

// SAFETY: the bytes are immutable, and the reference is given back only by a thread that is attached.
unsafe impl Send for Kept {}
// SAFETY: as above.
unsafe impl Sync for Kept {}

impl Kept {
    fn new(bytes: &Bound<'_, PyBytes>) -> Self {
        let (base, len) = (bytes.as_bytes().as_ptr(), bytes.as_bytes().len());
        Self { bytes: bytes.clone().into_ptr(), base, len }
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: those of an object that this keeps alive, and whose bytes never change or move.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if is_attached() {
            // SAFETY: attached, and this reference is `self`'s own.
            return unsafe { ffi::Py_DECREF(self.bytes) };
        }
        let mut node = Box::new(Owed { bytes: self.bytes, next: OWED.load(Ordering::Relaxed) });
        loop {
            let (next, new) = (node.next, Box::into_raw(node));
            match OWED.compare_exchange_weak(next, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(newest) => {
                    // SAFETY: nobody else has seen it.
                    node = unsafe { Box::from_raw(new) };
                    node.next = newest;
                }
            }
        }
    }
}

/// Whether this thread may touch what is Python's. `PyGILState_Check` says yes to every thread once the process has had
/// a sub-interpreter.
fn is_attached() -> bool {
    // SAFETY: both only ask, on any thread.
    let (current, own) = unsafe { (ffi::compat::PyThreadState_GetUnchecked(), ffi::PyGILState_GetThisThreadState()) };
    // The current one may be another thread's.
    !own.is_null() && current == own
}

/// A reference that was let go of without the interpreter.
struct Owed {
    bytes: *mut ffi::PyObject,
    next: *mut Self,
}

/// The newest of them. Who takes the list (Acquire) sees each node as it was pushed (Release); all of it is taken at once, so no
/// node comes back under an address that somebody still compares with.
static OWED: AtomicPtr<Owed> = AtomicPtr::new(ptr::null_mut());

/// Gives back the references that other threads let go of. To be called where work of theirs has come to an end.
pub fn give_back(_: Python<'_>) {
    if OWED.load(Ordering::Relaxed).is_null() {
        return;
    }
    let mut next = OWED.swap(ptr::null_mut(), Ordering::Acquire);
    while !next.is_null() {
        // SAFETY: each node was made by a box, and the swap made this thread its owner.
        let node = unsafe { Box::from_raw(next) };
        next = node.next;
        // SAFETY: attached (the token), and the reference is the node's own.
        unsafe { ffi::Py_DECREF(node.bytes) };
    }
}

/// Looks at the bytes of a buffer with the interpreter attached, so that nobody can change them meanwhile.
pub fn with_slice<T>(data: &Bound<'_, PyAny>, look: impl FnOnce(&[u8]) -> PyResult<T>) -> PyResult<T> {
    let buffer = Borrowed::new(data, ffi::PyBUF_SIMPLE)?;
    // SAFETY: the interpreter is attached until `look` returns, so no Python code writes to it. Native code that does so
    // without the interpreter races with itself, as it does with `write` of any Python file.
    look(unsafe { buffer.slice() })
}

/// Fills a writable buffer without the interpreter.
pub fn with_slice_mut<T: Send>(data: &Bound<'_, PyAny>, fill: impl Send + FnOnce(&mut [u8]) -> T) -> PyResult<T> {
    let buffer = Borrowed::new(data, ffi::PyBUF_WRITABLE)?;
    let (base, len) = (buffer.0.buf as usize, buffer.len());
    Ok(data.py().detach(move || {
        if len == 0 {
            return fill(&mut []);
        }
        // SAFETY: writable and contiguous (as was asked for), kept by `buffer`, which outlives this call. As with readinto
        // of any Python file, a program that touches it from another thread meanwhile races with itself.
        fill(unsafe { std::slice::from_raw_parts_mut(base as *mut u8, len) })
    }))
}

/// From this many bytes on others may run meanwhile: a short look, or copy, costs less than to let go of the interpreter.
const LONG: usize = 256 << 10;

/// A `bytes` of `len`, all of which `fill` writes, saying how many these were; an error frees it. Others may run meanwhile,
/// unless there are few bytes, `at_hand` without waiting.
pub fn new_bytes<E: Send>(
    py: Python<'_>,
    len: usize,
    at_hand: bool,
    fill: impl Send + FnOnce(&mut [u8]) -> Result<usize, E>,
) -> PyResult<Result<Py<PyBytes>, E>> {
    let size = isize::try_from(len).map_err(|_| PyBufferError::new_err("larger than bytes can be"))?;
    // SAFETY: a new object that nobody else has seen, with room for `len` bytes; `fill` writes them all before it is given
    // out, and doesn't read them before. They come from the interpreter's allocator, so that the compiler can't take them
    // for uninitialised, and bytes of any value are valid.
    unsafe {
        let object = Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(ptr::null(), size))?;
        let base = ffi::PyBytes_AsString(object.as_ptr()) as usize;
        let fill = move || {
            let room: &mut [u8] = std::slice::from_raw_parts_mut(base as *mut u8, len);
            fill(room)
        };
        let filled = if at_hand && len < LONG { fill() } else { py.detach(fill) };
        match filled {
            // What lay in that memory before is nobody's to see.
            Ok(written) if written < len => Err(to_py(py, Error::internal("a read that ended before its end"))),
            filled => Ok(filled.map(|_| object.cast_into_unchecked::<PyBytes>().unbind())),
        }
    }
}

/// Length and highest byte of a buffer, read once from end to end: what the benchmarks do with every body.
#[pyfunction]
pub fn summarise(py: Python<'_>, buffer: PyBuffer<u8>) -> PyResult<(usize, u8)> {
    if !buffer.is_c_contiguous() {
        return Err(PyBufferError::new_err("the buffer is not contiguous"));
    }
    let (base, len) = (buffer.buf_ptr() as usize, buffer.len_bytes());
    let look = move || {
        let highest = |slice: &[u8]| slice.iter().fold(0, |highest, byte| highest.max(*byte));
        if len == 0 {
            return (0, 0);
        }
        // SAFETY: as `with_slice_mut`, and only read.
        (len, highest(unsafe { std::slice::from_raw_parts(base as *const u8, len) }))
    };
    Ok(if len < LONG { look() } else { py.detach(look) })
}

/// The bytes of somebody's buffer, whatever its items and shape, as the file and socket methods of the standard library
/// take them. Released when dropped, with the interpreter attached, as it can't leave the thread.
struct Borrowed(Box<ffi::Py_buffer>);

impl Borrowed {
    fn new(data: &Bound<'_, PyAny>, flags: c_int) -> PyResult<Self> {
        let mut buffer = Box::new(ffi::Py_buffer::new());
        // SAFETY: an empty view to be filled; it is released only if that succeeded.
        match unsafe { ffi::PyObject_GetBuffer(data.as_ptr(), &mut *buffer, flags) } {
            0 => Ok(Self(buffer)),
            _ => Err(PyErr::fetch(data.py())),
        }
    }

    fn len(&self) -> usize {
        usize::try_from(self.0.len).unwrap_or(0)
    }

    /// # Safety
    /// Nobody writes to the buffer while the slice is looked at.
    unsafe fn slice(&self) -> &[u8] {
        match self.len() {
            0 => &[],
            // SAFETY: so many contiguous bytes (a view without a shape has no gaps), kept until the release.
            len => unsafe { std::slice::from_raw_parts(self.0.buf.cast(), len) },
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // SAFETY: filled by `new`, released once.
        unsafe { ffi::PyBuffer_Release(&mut *self.0) };
    }
}
