//! The class behind `penstock.BodyImage`, and the reader that goes through one.

use crate::budget::Budget;
use crate::buffer;
use crate::errors::{Raise, declared};
use crate::loops;
use crate::op::Op;
use crate::path::FilePath;
use crate::policy::Direct;
use crate::size;
use crate::tunables::Tunables;
use penstock_core::body::digest::Algorithm;
use penstock_core::body::{BodyImage, Reader as CoreReader, State};
use penstock_core::codec::{self, Coding};
use penstock_core::sync::Mutex;
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use std::ffi::c_int;
use std::sync::Arc;

#[pyclass(frozen, subclass, module = "penstock._native", weakref)]
pub struct Image {
    pub core: BodyImage,
    /// Runs what waits for a disk; `None` is the default pool's.
    policy: Option<Py<PyAny>>,
}

impl Image {
    pub fn of(core: BodyImage) -> Self {
        Self { core, policy: None }
    }

    pub fn object(py: Python<'_>, core: BodyImage) -> PyResult<Py<PyAny>> {
        Ok(Py::new(py, Self::of(core))?.into_any())
    }

    /// An op that makes another image of this one.
    fn becoming(
        &self,
        name: &'static str,
        make: impl FnOnce(&BodyImage) -> penstock_core::Result<BodyImage> + Send + 'static,
    ) -> Op {
        let core = self.core.clone();
        Op::new(name, move || make(&core), Self::object)
    }

    /// Refuses a call that may wait for a disk on the thread of a running loop.
    fn may_block(&self, py: Python<'_>, call: &str) -> PyResult<()> {
        if !self.core.is_file() || self.is_direct(py) {
            return Ok(());
        }
        refuse_in_loop(py, call, INSTEAD)
    }

    /// Whether its owner chose to run blocking work on the loop's thread.
    fn is_direct(&self, py: Python<'_>) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.bind(py).is_instance_of::<Direct>())
    }
}

/// Each name may be a list as header fields have them.
fn codings_of(py: Python<'_>, names: &[String]) -> PyResult<Vec<Coding>> {
    Coding::parse(names.iter().map(String::as_bytes)).raise(py)
}

/// What there is for an image's calls that may wait.
const INSTEAD: &str = "await the method that has a policy, or give the image the policy Direct()";

/// `BlockingInLoop`, if a loop is running on this thread; it says what to do instead.
#[pyfunction]
pub fn refuse_in_loop(py: Python<'_>, call: &str, instead: &str) -> PyResult<()> {
    if loops::running(py)?.is_none() {
        return Ok(());
    }
    let message = format!("{call} may block, and this thread runs an event loop: {instead}");
    Err(declared(py, "BlockingInLoop", (message,), &[]))
}

#[pymethods]
impl Image {
    #[new]
    #[pyo3(signature = (source, policy=None))]
    fn new(source: &Self, policy: Option<Py<PyAny>>) -> Self {
        Self { core: source.core.clone(), policy }
    }

    #[getter(_policy)]
    fn policy(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.policy.as_ref().map(|policy| policy.clone_ref(py))
    }

    #[staticmethod]
    fn from_buffer(data: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self::of(BodyImage::from_piece(buffer::bytes_of(data)?)))
    }

    /// Of several buffers, which stay apart.
    #[staticmethod]
    fn from_buffers(pieces: &Bound<'_, PyAny>, digests: &Bound<'_, PyDict>) -> PyResult<Self> {
        let pieces = pieces.try_iter()?.map(|piece| buffer::bytes_of(&piece?)).collect::<PyResult<_>>()?;
        let mut known = Vec::new();
        for (name, hex) in digests {
            known.push((Algorithm::parse(&name.extract::<String>()?).raise(digests.py())?, hex.extract()?));
        }
        Ok(Self::of(BodyImage::from_pieces(pieces).with_digests(known)))
    }

    #[staticmethod]
    fn open_path(
        py: Python<'_>,
        path: FilePath,
        offset: &Bound<'_, PyAny>,
        length: Option<&Bound<'_, PyAny>>,
        trusted: bool,
    ) -> PyResult<Self> {
        let (offset, length) = (size::up_to(u64::MAX, "offset", offset)?, size::count(u64::MAX, "length", length)?);
        let opened = py.detach(|| BodyImage::from_path(&path.0, offset, length, trusted));
        Ok(Self::of(opened.raise(py)?))
    }

    fn __len__(&self) -> PyResult<usize> {
        Ok(usize::try_from(self.core.len())?)
    }

    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        match self.core.state() {
            State::Ram(_) => intern!(py, "ram"),
            State::File { .. } => intern!(py, "file"),
            State::Mmap { .. } => intern!(py, "mmap"),
        }
    }

    /// Bytes of a piece, where nothing else is said.
    #[getter]
    fn piece(&self) -> usize {
        self.core.piece()
    }

    #[getter]
    fn digests<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let digests = PyDict::new(py);
        for (algorithm, hex) in self.core.digests() {
            digests.set_item(algorithm.name(), hex)?;
        }
        Ok(digests)
    }

    /// Whether the bytes lie in one piece that can be looked at without copying.
    #[getter]
    fn contiguous(&self) -> bool {
        match self.core.state() {
            State::Ram(pieces) => pieces.len() < 2,
            State::File { .. } => false,
            State::Mmap { .. } => true,
        }
    }

    /// Views of the pieces in memory; a file is read.
    fn views(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        match self.core.state() {
            State::Ram(pieces) => pieces.iter().map(|piece| buffer::view(py, piece.clone())).collect(),
            _ => {
                self.may_block(py, "views")?;
                let whole = py.detach(|| self.core.read_range(0, self.core.len())).raise(py)?;
                Ok(vec![buffer::view(py, whole)?])
            }
        }
    }

    fn gather_now(&self, py: Python<'_>) -> PyResult<Self> {
        Ok(Self { core: py.detach(|| self.core.gather()).raise(py)?, policy: self.policy(py) })
    }

    fn mmap_now(&self, py: Python<'_>) -> PyResult<Self> {
        self.may_block(py, "mmap()")?;
        Ok(Self { core: py.detach(|| self.core.to_mmap()).raise(py)?, policy: self.policy(py) })
    }

    fn to_ram_op(&self) -> Op {
        self.becoming("BodyImage.to_ram", BodyImage::to_ram)
    }

    fn to_mmap_op(&self) -> Op {
        self.becoming("BodyImage.to_mmap", BodyImage::to_mmap)
    }

    /// Takes codings off.
    fn decode_op(&self, py: Python<'_>, codings: Vec<String>, tunables: &Tunables, budget: &Budget) -> PyResult<Op> {
        let codings = codings_of(py, &codings)?;
        let (tunables, budget) = (tunables.0.clone(), budget.0.clone());
        Ok(self.becoming("BodyImage.decode", move |core| codec::decode(core, &codings, tunables, budget)))
    }

    /// Puts codings on.
    #[pyo3(signature = (codings, level, tunables, budget))]
    fn encode_op(
        &self,
        py: Python<'_>,
        codings: Vec<String>,
        level: Option<&Bound<'_, PyAny>>,
        tunables: &Tunables,
        budget: &Budget,
    ) -> PyResult<Op> {
        let (codings, level) = (codings_of(py, &codings)?, size::wide(22, "level", level)?);
        let (tunables, budget) = (tunables.0.clone(), budget.0.clone());
        Ok(self.becoming("BodyImage.encode", move |core| codec::encode(core, &codings, level, tunables, budget)))
    }

    fn save_op(&self, path: FilePath, overwrite: bool, fsync: bool) -> Op {
        let core = self.core.clone();
        Op::new("BodyImage.save", move || core.save(&path.0, overwrite, fsync), |py, ()| Ok(py.None()))
    }

    /// Up to `limit` bytes from the start as `bytes`; the disk is waited for without the interpreter.
    #[pyo3(signature = (limit=None))]
    fn read_now(&self, py: Python<'_>, limit: Option<u64>) -> PyResult<Py<PyBytes>> {
        let len = usize::try_from(limit.unwrap_or(u64::MAX).min(self.core.len()))?;
        let at_hand = matches!(self.core.state(), State::Ram(_));
        buffer::new_bytes(py, len, at_hand, |room| self.core.copy_to(room, 0))?.raise(py)
    }

    /// As `read_now`, if that needs not wait, else `None`.
    #[pyo3(signature = (limit=None))]
    fn read_soon(&self, py: Python<'_>, limit: Option<u64>) -> PyResult<Option<Py<PyBytes>>> {
        let len = usize::try_from(limit.unwrap_or(u64::MAX).min(self.core.len()))?;
        let read = buffer::new_bytes(py, len, true, |room| match self.core.copy_cached(room) {
            Ok(true) => Ok(len),
            Ok(false) => Err(None),
            Err(error) => Err(Some(error)),
        })?;
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error).raise(py),
        }
    }

    fn __bytes__(&self, py: Python<'_>) -> PyResult<Py<PyBytes>> {
        self.may_block(py, "bytes()")?;
        self.read_now(py, None)
    }

    /// Copies from `offset` on to a writable buffer, as far as both go.
    fn read_into(&self, py: Python<'_>, target: &Bound<'_, PyAny>, offset: &Bound<'_, PyAny>) -> PyResult<usize> {
        let offset = size::up_to(u64::MAX, "offset", offset)?;
        self.may_block(py, "a read")?;
        buffer::with_slice_mut(target, |room| self.core.copy_to(room, offset))?.raise(py)
    }

    fn reader(&self, py: Python<'_>, piece: &Bound<'_, PyAny>) -> PyResult<Reader> {
        let piece = size::number("size", piece)?;
        Ok(Reader {
            core: self.core.clone(),
            state: Arc::new(Mutex::new(Some(self.core.reader(piece)))),
            direct: self.is_direct(py),
        })
    }

    // A policy of the user's own may hold the image. It can be emptied; an image can't.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.policy)
    }

    #[allow(unsafe_code)]
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let (image, py) = (slf.get(), slf.py());
        image.may_block(py, "memoryview()")?;
        let whole = match image.core.state() {
            State::Mmap { map, .. } => map.clone(),
            _ => py.detach(|| image.core.read_range(0, image.core.len())).raise(py)?,
        };
        // SAFETY: `view` is the interpreter's.
        unsafe { buffer::export(slf.as_any(), whole, view, flags) }
    }

    #[allow(unsafe_code)]
    unsafe fn __releasebuffer__(&self, view: *mut ffi::Py_buffer) {
        // SAFETY: filled by `export` above, and released once.
        unsafe { buffer::release(view) }
    }
}

/// Bytes that a loop may copy out of the page cache in one turn; a larger piece is for a thread.
const AT_ONCE: u64 = 1 << 20;

/// Goes through an image piece by piece.
#[pyclass(frozen, module = "penstock._native")]
pub struct Reader {
    core: BodyImage,
    /// Away while an op reads.
    state: Arc<Mutex<Option<CoreReader>>>,
    direct: bool,
}

fn piece(py: Python<'_>, piece: Option<bytes::Bytes>) -> PyResult<Py<PyAny>> {
    piece.map_or_else(|| Ok(py.None()), |bytes| buffer::view(py, bytes))
}

#[pymethods]
impl Reader {
    /// The next piece as a memoryview, `None` at the end; or, if it would have to be waited for or takes long to copy, the
    /// `Op` that gets it.
    fn step(slf: Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        // Not to be waited for on a loop's thread.
        let mut state = slf.get().state.try_lock();
        let Some(reader) = state.as_mut().and_then(|state| state.as_mut()) else {
            return Err(pyo3::exceptions::PyRuntimeError::new_err("the reader is in use by another task"));
        };
        if reader.to_copy() <= AT_ONCE
            && let Some(found) = reader.next_cached().raise(py)?
        {
            return piece(py, found);
        }
        let mut away = Away { home: slf.get().state.clone(), reader: state.as_mut().and_then(|state| state.take()) };
        let op = Op::new(
            "BodyImage.stream",
            move || match away.reader.as_mut() {
                Some(reader) => {
                    let found = reader.next_piece();
                    drop(away);
                    found
                }
                None => Ok(None),
            },
            piece,
        );
        Ok(Py::new(py, op)?.into_any())
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// As `step`, waiting here.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if self.core.is_file() && !self.direct {
            refuse_in_loop(py, "chunks()", INSTEAD)?;
        }
        // What is at hand costs no hand-over of the interpreter.
        if let Some(mut state) = self.state.try_lock()
            && let Some(reader) = state.as_mut()
            && let Some(found) = reader.next_cached().raise(py)?
        {
            drop(state);
            return found.map(|bytes| buffer::view(py, bytes)).transpose();
        }
        // Threads that share it wait for each other without the interpreter: whoever reads needs that to go on.
        let found = py.detach(|| self.state.lock().as_mut().map_or(Ok(None), CoreReader::next_piece));
        found.raise(py)?.map(|bytes| buffer::view(py, bytes)).transpose()
    }
}

/// A reader on its way through an op; back with its owner when dropped, whether the op ran or not.
struct Away {
    home: Arc<Mutex<Option<CoreReader>>>,
    reader: Option<CoreReader>,
}

impl Drop for Away {
    fn drop(&mut self) {
        *self.home.lock() = self.reader.take();
    }
}
