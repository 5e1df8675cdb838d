//! Reading and writing archives: what waits for the disk is an `Op`, for Python to choose its thread.

use crate::budget::Budget;
use crate::errors::{Raise, to_py};
use crate::op::Op;
use crate::path::FilePath;
use crate::record::Record;
use crate::size;
use crate::strategy::Strategy;
use crate::tunables::Tunables;
use penstock_core::barc::{Compression, Entry, Head, Mender, Reader, Record as CoreRecord, Walk, Writer};
use penstock_core::body::Budget as CoreBudget;
use penstock_core::fork::Origin;
use penstock_core::sync::Mutex;
use penstock_core::{Error, Result};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyList;
use std::sync::Arc;

/// Records, and bytes that were read for them, after which an operation gives what it has.
const MOST_RECORDS: usize = 64;
const MOST_BYTES: u64 = 1 << 20;

/// An archive to read from; each walk through it has a place of its own.
#[pyclass(frozen, module = "penstock._native")]
pub struct ArchiveReader(Reader);

#[pymethods]
impl ArchiveReader {
    #[staticmethod]
    #[pyo3(signature = (path, tunables=None, budget=None))]
    fn open_op(path: FilePath, tunables: Option<&Tunables>, budget: Option<&Budget>) -> Op {
        let tunables = tunables.map_or_else(Arc::default, |tunables| tunables.0.clone());
        let budget = budget.map_or_else(CoreBudget::shared, |budget| budget.0.clone());
        Op::new("barc.open", move || Reader::open(&path.0, tunables, budget), |py, reader| Self(reader).into_py_any(py))
    }

    /// Bytes that the file has now.
    fn size(&self, py: Python<'_>) -> PyResult<u64> {
        self.0.size().raise(py)
    }

    /// The record at `offset`; `None` where there is none.
    fn read_op(&self, offset: &Bound<'_, PyAny>) -> PyResult<Op> {
        let offset = size::up_to(u64::MAX, "offset", offset)?;
        let mut reader = self.0.again();
        Ok(Op::new(
            "barc.read",
            move || reader.read(offset),
            |py, found| found.map(|(entry, record)| Record::of(entry, record)).into_py_any(py),
        ))
    }

    /// Goes through the records ("records"), or those with their meta only ("metas"), their places ("entries"), or both
    /// with the records only looked at ("verified").
    fn walk(&self, what: &str, keep_going: bool) -> PyResult<ArchiveWalk> {
        let what = match what {
            "records" => What::Records,
            "metas" => What::Metas,
            "entries" => What::Entries,
            "verified" => What::Verified,
            _ => return Err(PyValueError::new_err(format!("what={what:?}: not records, metas, entries or verified"))),
        };
        Ok(ArchiveWalk { reader: Arc::new(Mutex::new(self.0.again())), what, keep_going })
    }
}

#[derive(Clone, Copy)]
enum What {
    Records,
    Metas,
    Entries,
    Verified,
}

enum Item {
    Found(Entry, Option<Box<CoreRecord>>),
    Skipped(Error, u64),
}

impl Item {
    fn end(&self) -> u64 {
        match self {
            Self::Found(entry, _) => entry.end(),
            Self::Skipped(_, end) => *end,
        }
    }

    fn object(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Found(entry, Some(record)) => Record::of(entry, *record).into_py_any(py),
            Self::Found(entry, None) => {
                (entry.offset, entry.end(), Compression::name_of(entry.head.compression)).into_py_any(py)
            }
            Self::Skipped(error, end) => {
                let error = to_py(py, error).into_value(py);
                error.setattr(py, "end", end)?;
                Ok(error.into_any())
            }
        }
    }
}

#[pyclass(frozen, module = "penstock._native")]
pub struct ArchiveWalk {
    reader: Arc<Mutex<Reader>>,
    what: What,
    keep_going: bool,
}

impl ArchiveWalk {
    fn items(reader: &mut Reader, mut at: u64, what: What, keep_going: bool) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut bytes = 0;
        while items.len() < MOST_RECORDS && bytes < MOST_BYTES {
            let step = reader.step(at, keep_going, |reader, entry| match what {
                What::Records => reader.record(entry).map(Box::new).map(Some),
                What::Metas => {
                    let meta = reader.meta(entry)?;
                    Ok(Some(Box::new(CoreRecord { meta, ..CoreRecord::default() })))
                }
                What::Entries => reader.check_end(entry).map(|()| None),
                What::Verified => reader.verify(entry).map(|()| None),
            });
            let item = match step {
                Ok(Walk::Found(entry, record)) => {
                    bytes += cost(what, &entry.head, record.as_deref());
                    Item::Found(entry, record)
                }
                Ok(Walk::Skipped { error, end }) => Item::Skipped(error, end),
                Ok(Walk::End) => break,
                // It is met again once what came before was taken.
                Err(_) if !items.is_empty() => break,
                Err(error) => return Err(error),
            };
            at = item.end();
            items.push(item);
        }
        Ok(items)
    }
}

/// Bytes that were read for an item, or decoded; a plain body that stays in the archive isn't.
fn cost(what: What, head: &Head, record: Option<&CoreRecord>) -> u64 {
    let is_plain = head.compression.is_none();
    match (what, record) {
        (What::Verified, _) if !is_plain => head.len,
        (_, None) => 0,
        (_, Some(record)) => {
            let read = [&record.req_body, &record.res_body].into_iter().filter(|body| !(is_plain && body.is_file()));
            head.meta + head.req_headers + head.res_headers + read.map(|body| body.len()).sum::<u64>()
        }
    }
}

#[pymethods]
impl ArchiveWalk {
    /// The next few items from `at` on: records or places, and errors with the `end` of what was skipped for them. None
    /// at the end of the file, and where a record is being written.
    fn batch_op(&self, at: &Bound<'_, PyAny>) -> PyResult<Op> {
        let at = size::up_to(u64::MAX, "start", at)?;
        let (reader, what, keep_going) = (self.reader.clone(), self.what, self.keep_going);
        Ok(Op::new(
            "barc.batch",
            move || Self::items(&mut reader.lock(), at, what, keep_going),
            |py, items| {
                let objects = items.into_iter().map(|item| item.object(py)).collect::<PyResult<Vec<_>>>()?;
                Ok(PyList::new(py, objects)?.into_any().unbind())
            },
        ))
    }
}

/// The only writer of an archive, until it is closed.
#[pyclass(frozen, module = "penstock._native")]
pub struct ArchiveWriter {
    writer: Arc<Mutex<Option<Writer>>>,
    origin: Origin,
}

#[pymethods]
impl ArchiveWriter {
    #[staticmethod]
    fn open_op(path: FilePath, start: &Bound<'_, PyAny>, sync: bool) -> PyResult<Op> {
        let start = size::up_to(u64::MAX, "known_end", start)?;
        Ok(Op::new(
            "barc.open",
            move || Writer::open(&path.0, start, sync),
            |py, writer| Self { writer: Arc::new(Mutex::new(Some(writer))), origin: Origin::here() }.into_py_any(py),
        ))
    }

    /// Whether it is a parent's, of whose threads one may be in it, and stay there in this process.
    #[getter]
    fn is_inherited(&self) -> bool {
        self.origin.is_ancestor()
    }

    /// Writes a record behind the others: its offset.
    fn append_op(&self, record: &Record, strategy: &Strategy) -> Op {
        let (writer, record, strategy) = (self.writer.clone(), record.core.clone(), strategy.0);
        Op::new(
            "barc.append",
            move || {
                let mut writer = writer.lock();
                writer.as_mut().ok_or(Error::ArchiveClosed)?.append(&record, &strategy)
            },
            |py, offset| offset.into_py_any(py),
        )
    }

    /// Gives the lock on the file back, once what is being written is.
    fn close_op(&self) -> Op {
        let writer = self.writer.clone();
        Op::new(
            "barc.close",
            move || {
                drop(writer.lock().take());
                Ok(())
            },
            |py, ()| Ok(py.None()),
        )
    }
}

/// Mends an archive in place, as its only writer until it is closed.
#[pyclass(frozen, module = "penstock._native")]
pub struct ArchiveMender(Arc<Mutex<Option<Mender>>>);

#[pymethods]
impl ArchiveMender {
    #[staticmethod]
    fn open_op(path: FilePath) -> Op {
        Op::new(
            "barc.repair",
            move || Mender::open(&path.0),
            |py, mender| Self(Arc::new(Mutex::new(Some(mender)))).into_py_any(py),
        )
    }

    /// Looks for damage in some more: in how many records and bytes, none at the end of the file.
    fn read_op(&self) -> Op {
        let mender = self.0.clone();
        Op::new(
            "barc.repair",
            move || mender.lock().as_mut().ok_or(Error::ArchiveClosed)?.read_on(),
            |py, read| read.into_py_any(py),
        )
    }

    /// Mends what was found: for each place its offset, its end, whether it was cut off, and the error.
    fn mend_op(&self) -> Op {
        let mender = self.0.clone();
        Op::new(
            "barc.repair",
            move || mender.lock().take().ok_or(Error::ArchiveClosed)?.mend(),
            |py, repairs| {
                let told = repairs.into_iter().map(|repair| {
                    let error = to_py(py, repair.error).into_value(py);
                    (repair.offset, repair.end, repair.cut, error).into_py_any(py)
                });
                Ok(PyList::new(py, told.collect::<PyResult<Vec<_>>>()?)?.into_any().unbind())
            },
        )
    }

    /// Gives the lock on the file back.
    fn close(&self) {
        drop(self.0.lock().take());
    }
}
