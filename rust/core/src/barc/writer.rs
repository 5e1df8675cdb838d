//! Appending records. One writer at a time: it holds a lock on the file (flock(2)) from its opening to its end.
//!
//! A record is written behind a reserved head, which is replaced once all of it is there. So whenever a writer dies,
//! each record before stays readable, and what it left can be told from damage: the next writer cuts it off. A write
//! that fails is cut off at once.

use super::damage::Damage;
use super::fields::Fields;
use super::head::{Compression, Head, Kind};
use super::reader::{Reader, Walk};
use super::record::Record;
use super::strategy::Strategy;
use super::stream::{Encoder, PIECE};
use crate::body::file::BodyFile;
use crate::body::save::store_name;
use crate::body::{BodyImage, Budget, Tunables};
use crate::{Error, Result};
use bytes::Bytes;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes, and pieces, that are gathered for one call.
const GATHER: usize = 1 << 20;
const MOST_PIECES: usize = 512;

/// Bytes that are read of a body in a file at once.
const BODY_PIECE: usize = 256 << 10;

const WRITING: &str = "write to the archive";

const LINE_END: &[u8] = b"\r\n";

pub struct Writer {
    file: Locked,
    /// Where the last complete record ends.
    end: u64,
    /// Bytes behind `end` are this writer's.
    unclean: bool,
    sync: bool,
    /// It had a name, by the file system's word: there are some that know of none.
    named: bool,
}

impl Writer {
    /// Opens or makes the file, and cuts off what a writer that died has left. With `sync` each record, and the name of
    /// the file, is on the disk when `append` returns. `from` is the end of a record that is known, or 0: heads are
    /// followed from there.
    pub fn open(path: &Path, from: u64, sync: bool) -> Result<Self> {
        let file = lock(path)?;
        let mut reader = Reader::of(file.shared(), Arc::new(Tunables::default()), Budget::shared());
        let mut at = if reader.may_begin(from)? { from } else { 0 };
        loop {
            let step = match reader.step(at, false, |_, _| Ok(())) {
                // Killed while it wrote the reserved head.
                Err(Error::Archive { damage: Damage::IncompleteHead(_), .. }) if is_begun(&file, at)? => break,
                step => step?,
            };
            let Walk::Found(entry, ()) = step else { break };
            if entry.end() > file.look_again()? {
                let present = file.size().saturating_sub(entry.payload());
                let damage = Damage::Short { needed: entry.head.len, present };
                return Err(Error::Archive { offset: at, damage, end: None });
            }
            at = entry.end();
        }
        let (size, named) = file.look_for_name()?;
        if at < size && reader.find_behind(at)?.is_some() {
            return Err(Error::Archive { offset: at, damage: Damage::Unfinished, end: None });
        }
        if sync && at == 0 {
            // The file may just have been made: a record is of no use if its name is lost. It may be that of a link.
            let stored = path.canonicalize().and_then(|path| store_name(&path));
            stored.map_err(Error::io("have the archive's name stored"))?;
        }
        let mut writer = Self { unclean: at < file.size(), named, file, end: at, sync };
        writer.clean()?;
        Ok(writer)
    }

    /// For reading what was written.
    pub fn file(&self) -> &Arc<BodyFile> {
        &self.file.file
    }

    /// Writes a record behind the last one, and returns its offset. Failed, the file is as it was. May wait for the disk.
    pub fn append(&mut self, record: &Record, strategy: &Strategy) -> Result<u64> {
        if self.file.is_inherited() {
            let reason = "it was opened before this process was forked, and its lock is the parent's";
            return Err(Error::setting("archive", "\"a\"", reason));
        }
        self.clean()?;
        let (size, named) = self.file.look_for_name()?;
        if self.named && !named {
            let source = io::Error::other("it was deleted, or another file has its name");
            return Err(Error::Io { doing: "append to the archive", source });
        }
        if size != self.end {
            return Err(written_by_others("append to the archive"));
        }
        let record = Record {
            meta: record.meta.canonical()?,
            req_headers: record.req_headers.canonical()?,
            res_headers: record.res_headers.canonical()?,
            ..record.clone()
        };
        let compression = strategy.choose(&record);
        check_limits(&record)?;
        self.unclean = true;
        let written = self.write(&record, compression, strategy.level);
        match written {
            Ok(end) => {
                self.unclean = false;
                Ok(std::mem::replace(&mut self.end, end))
            }
            Err(error) => {
                // If this fails too, the next append tries again, and the next writer after it.
                let _ = self.clean();
                Err(error)
            }
        }
    }

    /// Cuts off what stands behind the last complete record.
    fn clean(&mut self) -> Result<()> {
        if self.unclean {
            rustix::fs::ftruncate(&*self.file, self.end).map_err(Error::io("cut off an unfinished record"))?;
            self.file.look_again()?;
            self.unclean = false;
        }
        Ok(())
    }

    /// Where the record ends.
    fn write(&self, record: &Record, compression: Option<Compression>, level: u32) -> Result<u64> {
        let failure = Cell::new(None);
        let mut out = Out { file: &self.file, at: self.end, pieces: Vec::new(), held: 0, failure: &failure };
        let mut head = Head {
            len: 0,
            kind: Kind::Dialog,
            compression,
            meta: record.meta.lines().len() as u64,
            req_headers: record.req_headers.lines().len() as u64,
            req_body: record.req_body.len(),
            res_headers: record.res_headers.lines().len() as u64,
        };
        if let Some(compression) = compression {
            out.push(Bytes::from_static(Head::RESERVED))?;
            let encoded = encode(record, Encoder::new(out, compression, level));
            // An encoder passes it on as a text, or keeps it to itself.
            if let Some(failure) = failure.take() {
                return Err(failure);
            }
            out = encoded?;
        } else {
            // There the lengths are those of what is written.
            let mut res_body = record.res_body.len();
            let Head { len, meta, req_headers, req_body, res_headers, .. } = &mut head;
            for part in [meta, req_headers, req_body, res_headers, &mut res_body] {
                *part += if *part > 0 { LINE_END.len() as u64 } else { 0 };
                *len += *part;
            }
            // Should this writer die, the next one sees what can only be its own: a body may be an archive.
            out.push(Head { kind: Kind::Reserved, ..head }.write().into())?;
            out.block(&record.meta)?;
            out.block(&record.req_headers)?;
            out.body(&record.req_body)?;
            out.block(&record.res_headers)?;
            out.body(&record.res_body)?;
        }
        out.flush_pieces()?;
        let end = out.at;
        head.len = end - self.end - Head::LEN as u64;
        if head.len > Head::MOST_LEN {
            return Err(too_long("record", head.len, Head::MOST_LEN));
        }
        self.sync()?;
        let head = head.write();
        let written = self.file.write_slices_at(&mut [IoSlice::new(&head)], self.end);
        written.map_err(self.file.failed(WRITING))?;
        self.sync()?;
        Ok(end)
    }

    fn sync(&self) -> Result<()> {
        if self.sync {
            self.file.store().map_err(Error::file("store the archive", &self.file.path))?;
        }
        Ok(())
    }
}

/// An archive's file with the lock on it, which is given back with this.
pub(super) struct Locked {
    file: Arc<BodyFile>,
    path: PathBuf,
}

impl Locked {
    /// The file for others, who may keep it.
    pub fn shared(&self) -> Arc<BodyFile> {
        self.file.clone()
    }

    /// For `map_err`: a full disk is the archive's here, not that of a place for bodies.
    fn failed(&self, doing: &'static str) -> impl Fn(Error) -> Error {
        move |error| match error {
            Error::StorageFull { source, .. } | Error::Io { source, .. } => Error::file(doing, &self.path)(source),
            other => other,
        }
    }
}

impl Deref for Locked {
    type Target = BodyFile;

    fn deref(&self) -> &BodyFile {
        &self.file
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // A forked child has the same lock, which is its parent's to give back. Readers may keep the file open, and a
        // large one is closed later, by a thread that does that.
        if !self.file.is_inherited() {
            let _ = rustix::fs::flock(&*self.file, FlockOperation::Unlock);
        }
    }
}

/// Opens the file, which is made if it isn't there, as its only writer.
pub(super) fn lock(path: &Path) -> Result<Locked> {
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(Error::file("open the archive", path))?;
    if !file.metadata().map_err(Error::file("look at", path))?.is_file() {
        // A device takes what is written, and has nothing of it.
        return Err(Error::file("append to", path)(io::Error::other("it is not a regular file")));
    }
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| unlocked(path, errno))?;
    Ok(Locked { file: Arc::new(BodyFile::opened(file, path, false)?), path: path.to_owned() })
}

pub(super) fn written_by_others(doing: &'static str) -> Error {
    Error::Io { doing, source: io::Error::other("something that takes no lock has written to it") }
}

/// There are file systems without locks.
pub(super) fn unlocked(path: &Path, errno: Errno) -> Error {
    let taken = errno == Errno::WOULDBLOCK;
    Error::file(if taken { "open for writing, as another writer has it," } else { "lock" }, path)(errno)
}

/// Whether what the file ends with is the beginning of a reserved head.
fn is_begun(file: &BodyFile, at: u64) -> Result<bool> {
    let mut bytes = [0; Head::LEN];
    let n = file.read_at(&mut bytes, at)?;
    Ok(bytes.get(..n).is_some_and(Head::is_begun))
}

pub(super) fn check_limits(record: &Record) -> Result<()> {
    let (req_body, res_body) = (record.req_body.len(), record.res_body.len());
    let most = Head::MOST_REQ_BODY - LINE_END.len() as u64;
    if req_body > most {
        return Err(too_long("request body", req_body, most));
    }
    // So much that the blocks fit, too.
    let most = Head::MOST_LEN - Head::MOST_REQ_BODY - 4 * Head::MOST_BLOCK;
    if res_body > most { Err(too_long("response body", res_body, most)) } else { Ok(()) }
}

fn too_long(name: &'static str, seen: u64, most: u64) -> Error {
    Error::setting(name, format!("{seen} bytes"), format!("a record holds at most {most}"))
}

fn encode<W: Write>(record: &Record, mut encoder: Encoder<W>) -> Result<W> {
    encoder.write(record.meta.lines())?;
    encoder.write(record.req_headers.lines())?;
    each(&record.req_body, PIECE, |piece| encoder.write(&piece))?;
    encoder.write(record.res_headers.lines())?;
    each(&record.res_body, PIECE, |piece| encoder.write(&piece))?;
    encoder.finish()
}

fn each(body: &BodyImage, size: usize, mut take: impl FnMut(Bytes) -> Result<()>) -> Result<()> {
    let mut reader = body.reader(size);
    while let Some(piece) = reader.next_piece()? {
        take(piece)?;
    }
    Ok(())
}

/// What is written, gathered for few calls.
struct Out<'a> {
    file: &'a Locked,
    at: u64,
    pieces: Vec<Bytes>,
    held: usize,
    /// Of the first write for an encoder that failed.
    failure: &'a Cell<Option<Error>>,
}

impl Out<'_> {
    fn push(&mut self, piece: Bytes) -> Result<()> {
        self.held += piece.len();
        self.pieces.push(piece);
        if self.held >= GATHER || self.pieces.len() >= MOST_PIECES { self.flush_pieces() } else { Ok(()) }
    }

    fn block(&mut self, fields: &Fields) -> Result<()> {
        if fields.is_empty() {
            return Ok(());
        }
        self.push(fields.bytes())?;
        self.push(Bytes::from_static(LINE_END))
    }

    fn body(&mut self, body: &BodyImage) -> Result<()> {
        if body.is_empty() {
            return Ok(());
        }
        each(body, BODY_PIECE, |piece| self.push(piece))?;
        self.push(Bytes::from_static(LINE_END))
    }

    fn flush_pieces(&mut self) -> Result<()> {
        let mut slices: Vec<IoSlice<'_>> = self.pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        self.file.write_slices_at(&mut slices, self.at).map_err(self.file.failed(WRITING))?;
        self.at += self.held as u64;
        self.held = 0;
        self.pieces.clear();
        Ok(())
    }
}

/// For encoders.
impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.push(Bytes::copy_from_slice(bytes)) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                let told = io::Error::other(error.to_string());
                self.failure.set(Some(self.failure.take().unwrap_or(error)));
                Err(told)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
