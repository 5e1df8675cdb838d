//! Reading records: positional, so that any number of readers and one writer share a file without locks.
//!
//! A record that is being written has a reserved head, which its writer replaces when all of it is there; bytes of a
//! complete record never change. So what a reader may meet half done is the last head of the file alone: it is read a
//! second time, until twice the same stands there. A head is final if something was known to follow its record before it
//! was read.
//!
//! Going from record to record takes one call for each: its parts are read into memory of their own size, together with
//! the next head. Small ones come many at a time.

use super::damage::Damage;
use super::fields::Fields;
use super::head::{Compression, Head, Kind, PREFIX};
use super::record::{Entry, Record};
use super::stream::{Decoder, Section, Tried, Trouble};
use crate::body::file::BodyFile;
use crate::body::slab::Room;
use crate::body::{BodyImage, BodySink, Budget, Lease, Pools, Tunables};
use crate::{Error, Resource, Result};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, IoSliceMut, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Bytes read at once to find a head: at first, and after as many steps from record to record.
const LEAST_AHEAD: usize = 4 << 10;
const MOST_AHEAD: usize = 256 << 10;

/// Behind records that are no longer than this, so much is read together with them, else the next head.
const SMALL: u64 = 32 << 10;
const BEHIND_SMALL: usize = 128 << 10;

/// Of the line end after a plain body.
const LINE_END: u64 = 2;

const LOST: &str = "no line end, and no other record, where it ends";

/// How often, a millisecond apart, a head is looked at that a writer seems to be writing.
const PATIENCE: usize = 20;

/// The latest bytes read from the file.
#[derive(Default)]
struct Window {
    /// Those, and behind `len` what is left of others.
    buffer: Vec<u8>,
    len: usize,
    start: u64,
    ahead: usize,
    /// Whether what comes next is likely to be asked for, as it was before.
    follows: bool,
    /// Bytes that the file was known to have before they were read.
    known: u64,
}

impl Window {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    fn get(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes().get(from..from.checked_add(usize::try_from(len).ok()?)?)
    }

    /// The record at `offset`, if its head is here and final.
    fn entry(&self, offset: u64) -> Option<Entry> {
        let head = Head::parse(self.get(offset, Head::LEN as u64)?).ok()?;
        let entry = Entry { offset, head };
        (head.kind == Kind::Dialog && entry.end() < self.known).then_some(entry)
    }

    /// Room for what is read from `start` on.
    fn room(&mut self, file: &BodyFile, start: u64, size: usize) -> &mut [u8] {
        (self.start, self.len, self.known) = (start, 0, file.size());
        self.buffer.resize(self.buffer.len().max(size), 0);
        self.buffer.get_mut(..size).unwrap_or_default()
    }

    /// Reads on from `offset`: more each time, as long as that goes from record to record.
    fn fill(&mut self, file: &BodyFile, offset: u64) -> Result<&[u8]> {
        let follows = self.start < offset && offset <= self.start + self.len as u64;
        self.follows = follows;
        self.ahead = if follows { (self.ahead * 4).clamp(LEAST_AHEAD, MOST_AHEAD) } else { LEAST_AHEAD };
        let ahead = self.ahead;
        self.len = file.read_at(self.room(file, offset, ahead), offset)?;
        Ok(self.bytes())
    }

    /// Bytes to read behind a record, which begin with the next one's head.
    fn behind(&self, entry: &Entry) -> usize {
        if self.follows && entry.end() - entry.offset <= SMALL { BEHIND_SMALL } else { Head::LEN }
    }

    /// Fills `parts` from `offset` on: what is read behind them is the window then. False if the file ends before.
    fn load(&mut self, file: &BodyFile, offset: u64, parts: [&mut [u8]; 4], behind: usize) -> Result<bool> {
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        if let Some(mut found) = self.get(offset, wanted as u64) {
            for part in parts {
                // All of it, as the parts are as long as what was found.
                let _ = found.read_exact(part);
            }
            return Ok(true);
        }
        let [a, b, c, d] = parts;
        let window = self.room(file, offset + wanted as u64, behind);
        let read = file.read_slices_at(&mut [a, b, c, d, window].map(IoSliceMut::new), offset)?;
        self.len = read.saturating_sub(wanted);
        // Whoever finds a head there goes from record to record.
        self.follows = true;
        Ok(read >= wanted)
    }
}

pub struct Reader {
    file: Arc<BodyFile>,
    tunables: Arc<Tunables>,
    budget: Arc<Budget>,
    window: Window,
    /// The furthest that [`step`](Self::step) has found a record to go.
    reached: u64,
    /// That of the latest compressed record, for the next one.
    decoder: Option<Decoder>,
}

/// What [`Reader::step`] came to.
pub enum Walk<T> {
    Found(Entry, T),
    /// Damage, and where to read on behind it.
    Skipped {
        error: Error,
        end: u64,
    },
    /// Nothing more: the end of the file, or a record that is being written.
    End,
}

impl Reader {
    pub fn open(path: &Path, tunables: Arc<Tunables>, budget: Arc<Budget>) -> Result<Self> {
        let failed = Error::file::<io::Error>("open the archive", path);
        // Looked at before: opening a pipe would wait for its writer.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if kind.is_fifo() {
            return Err(Error::file("open as an archive the pipe", path)(rustix::io::Errno::SPIPE));
        }
        if kind.is_dir() {
            return Err(failed(rustix::io::Errno::ISDIR.into()));
        }
        let file = File::open(path).map_err(failed)?;
        Ok(Self::of(Arc::new(BodyFile::opened(file, path, false)?), tunables, budget))
    }

    /// Reads a file that is open already. Bodies that need a file of their own get it by `tunables`.
    pub fn of(file: Arc<BodyFile>, mut tunables: Arc<Tunables>, budget: Arc<Budget>) -> Self {
        // A slice of the archive isn't read, so no digest is promised.
        Arc::make_mut(&mut tunables).digests.clear();
        Self { file, tunables, budget, window: Window::default(), reached: 0, decoder: None }
    }

    /// Another one of the same file, with a place of its own.
    pub fn again(&self) -> Self {
        let (tunables, budget) = (self.tunables.clone(), self.budget.clone());
        Self { file: self.file.clone(), tunables, budget, window: Window::default(), reached: 0, decoder: None }
    }

    pub(super) fn file(&self) -> &Arc<BodyFile> {
        &self.file
    }

    /// Bytes that the file has now.
    pub fn size(&self) -> Result<u64> {
        self.file.look_again()
    }

    /// The record's place, `None` at the end of the file, behind it, and where one is being written.
    pub fn entry(&mut self, offset: u64) -> Result<Option<Entry>> {
        if let Some(entry) = self.window.entry(offset) {
            return Ok(Some(entry));
        }
        // The system calls a place invalid that is further away than any file goes.
        if offset > self.file.size() && offset > self.file.look_again()? {
            return Ok(None);
        }
        let mut parsed = Err(Damage::NotAHead);
        let mut again = [0; Head::LEN];
        for _ in 0..PATIENCE {
            self.window.fill(&self.file, offset)?;
            if let Some(entry) = self.window.entry(offset) {
                return Ok(Some(entry));
            }
            let bytes = self.window.bytes();
            let first = bytes.get(..Head::LEN).unwrap_or(bytes);
            let n = self.file.read_at(&mut again, offset)?;
            if Some(first) != again.get(..n) {
                continue;
            }
            parsed = Head::parse(first);
            let may_be_begun = !first.is_empty() && Head::is_begun(first) && n < Head::LEN;
            if !may_be_begun {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        match parsed {
            Ok(Head { kind: Kind::Reserved, .. }) | Err(Damage::IncompleteHead(0)) => Ok(None),
            Ok(head) => Ok(Some(Entry { offset, head })),
            Err(damage) => Err(Error::Archive { offset, damage, end: None }),
        }
    }

    /// The record at `offset`, `None` as for [`entry`](Self::entry). Nothing is moved by an error.
    pub fn read(&mut self, offset: u64) -> Result<Option<(Entry, Record)>> {
        let Some(entry) = self.entry(offset)? else { return Ok(None) };
        Ok(Some((entry, self.record(&entry)?)))
    }

    /// The record of an entry.
    pub fn record(&mut self, entry: &Entry) -> Result<Record> {
        self.try_record(entry, true).map_err(|trouble| located(entry, trouble))
    }

    /// The first of a record's blocks: nothing else of it is read, or decoded.
    pub fn meta(&mut self, entry: &Entry) -> Result<Fields> {
        self.try_meta(entry).map_err(|trouble| located(entry, trouble))
    }

    /// Whether a record can be read: its bodies are decoded and dropped.
    pub fn verify(&mut self, entry: &Entry) -> Result<()> {
        self.try_record(entry, false).map(drop).map_err(|trouble| located(entry, trouble))
    }

    /// Whether all of a record is in the file, as of each whose head is final.
    pub fn check_end(&self, entry: &Entry) -> Result<()> {
        self.try_end(entry).map_err(|trouble| located(entry, trouble))
    }

    fn try_end(&self, entry: &Entry) -> Tried<()> {
        if entry.end() > self.file.size() && entry.end() > self.file.look_again()? {
            return Err(self.short(entry));
        }
        Ok(())
    }

    fn try_record(&mut self, entry: &Entry, keep: bool) -> Tried<Record> {
        self.try_end(entry)?;
        entry.head.check_lengths()?;
        match entry.head.compression {
            None => self.plain(entry, keep),
            Some(compression) => self.compressed(entry, compression, keep),
        }
    }

    fn try_meta(&mut self, entry: &Entry) -> Tried<Fields> {
        self.try_end(entry)?;
        let head = &entry.head;
        head.check_lengths()?;
        let Some(compression) = head.compression else {
            let mut lines = vec![0; size(head.meta)];
            if !self.window.load(&self.file, entry.payload(), [&mut lines, &mut [], &mut [], &mut []], 0)? {
                return Err(self.short(entry));
            }
            return Ok(Fields::closed(lines.into(), "meta")?);
        };
        let mut decoder = self.decoder(entry, compression)?;
        let meta = block(&mut decoder, head.meta, "meta")?;
        self.decoder = Some(decoder);
        Ok(meta)
    }

    fn short(&self, entry: &Entry) -> Trouble {
        // It may have become shorter since it was looked at.
        let size = match self.file.look_again() {
            Ok(size) => size,
            Err(error) => return error.into(),
        };
        let present = size.saturating_sub(entry.payload());
        Damage::Short { needed: entry.head.len, present }.into()
    }

    fn plain(&mut self, entry: &Entry, keep: bool) -> Tried<Record> {
        let Head { meta, req_headers, req_body: req_len, res_headers, .. } = entry.head;
        let res_len = entry.head.plain_res_body()?;
        let before = meta + req_headers;
        let (req_at, res_at) = (entry.payload() + before, entry.end() - res_len);
        let mut req_body = self.place(req_at, req_len, keep)?;
        let mut res_body = self.place(res_at, res_len, keep)?;

        let whole = req_body.is_read(req_len) && res_body.is_read(res_len);
        // What isn't read here may have been cut since the file was looked at.
        if !whole && entry.end() > self.file.look_again()? {
            return Err(self.short(entry));
        }
        let behind = if res_body.is_read(res_len) { self.window.behind(entry) } else { 0 };
        let (file, window) = (&self.file, &mut self.window);
        let lines = match window.get(entry.payload(), entry.end() - entry.payload()) {
            // Nothing has to be cleared for what is copied.
            Some(found) if whole => {
                let (first, found) = found.split_at(size(before));
                let (req_found, found) = found.split_at(size(req_len));
                let (second, res_found) = found.split_at(size(res_headers));
                req_body.copy(req_found);
                res_body.copy(res_found);
                [first, second].concat()
            }
            _ => {
                let mut lines = vec![0; size(before + res_headers)];
                let (first, second) = lines.split_at_mut(size(before));
                let complete = if req_body.is_read(req_len) {
                    window.load(file, entry.payload(), [first, req_body.room(), second, res_body.room()], behind)?
                } else {
                    window.load(file, entry.payload(), [first, &mut [], &mut [], &mut []], 0)?
                        && window.load(
                            file,
                            res_at - res_headers,
                            [second, res_body.room(), &mut [], &mut []],
                            behind,
                        )?
                };
                if !complete {
                    return Err(self.short(entry));
                }
                lines
            }
        };
        let lines = Bytes::from(lines);
        let block = |from: u64, len: u64| lines.slice(size(from)..size(from + len));
        Ok(Record {
            meta: Fields::closed(block(0, meta), "meta")?,
            req_headers: Fields::closed(block(meta, req_headers), "request headers")?,
            req_body: req_body.image(file),
            res_headers: Fields::closed(block(before, res_headers), "response headers")?,
            res_body: res_body.image(file),
        })
    }

    /// Where a plain body goes: to memory if it is small and the budget has room, else it stays where it is.
    fn place(&self, at: u64, len: u64, keep: bool) -> Tried<Body> {
        let body = len.saturating_sub(LINE_END);
        if !keep || body == 0 {
            return Ok(Body::There { at, len: 0 });
        }
        self.check_body(body)?;
        let mut lease = Lease::empty(&self.budget, Resource::Ram);
        if body > self.tunables.max_body_ram || lease.grow(body).is_err() {
            return Ok(Body::There { at, len: body });
        }
        let room = Room::new(&Pools::current().slabs, size(len))?;
        Ok(Body::Here { room, len: size(body), lease })
    }

    fn check_body(&self, seen: u64) -> Result<()> {
        let limit = self.tunables.max_body;
        if seen > limit { Err(Error::BodyTooLong { seen, limit }) } else { Ok(()) }
    }

    /// Decodes the record's stream; all of that is read here, if it is short.
    fn decoder(&mut self, entry: &Entry, compression: Compression) -> Tried<Decoder> {
        let mut used = self.decoder.take();
        let mut section = Section::new(&self.file, (entry.payload(), entry.end()), used.as_mut());
        if let Some(room) = section.whole() {
            let behind = self.window.behind(entry);
            if !self.window.load(&self.file, entry.payload(), [room, &mut [], &mut [], &mut []], behind)? {
                return Err(self.short(entry));
            }
        }
        Ok(Decoder::new(section, compression, used))
    }

    fn compressed(&mut self, entry: &Entry, compression: Compression, keep: bool) -> Tried<Record> {
        let head = &entry.head;
        let mut decoder = self.decoder(entry, compression)?;
        let record = Record {
            meta: block(&mut decoder, head.meta, "meta")?,
            req_headers: block(&mut decoder, head.req_headers, "request headers")?,
            req_body: self.collect(&mut decoder, Some(head.req_body), keep)?,
            res_headers: block(&mut decoder, head.res_headers, "response headers")?,
            res_body: self.collect(&mut decoder, None, keep)?,
        };
        self.decoder = Some(decoder);
        Ok(record)
    }

    /// A decoded body of a known length, or all that is left of the stream.
    fn collect(&self, decoder: &mut Decoder, len: Option<u64>, keep: bool) -> Tried<BodyImage> {
        if len == Some(0) {
            return Ok(BodyImage::default());
        }
        if keep && let Some(len) = len {
            self.check_body(len)?;
        }
        if keep && let Some(image) = self.small(decoder, len)? {
            return Ok(image);
        }
        let mut sink = match len {
            Some(len) if keep => BodySink::with_length(self.tunables.clone(), self.budget.clone(), len)?,
            _ => BodySink::new(self.tunables.clone(), self.budget.clone()),
        };
        let mut left = len.unwrap_or(u64::MAX);
        while left > 0 {
            let ready = decoder.ready()?;
            if ready.is_empty() {
                match len {
                    Some(_) => return Err(Damage::StreamEnds.into()),
                    None => break,
                }
            }
            let n = ready.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if keep {
                sink.push_copy(ready.get(..n).unwrap_or_default())?;
                sink.run_work(false)?;
            }
            decoder.take(n);
            left -= n as u64;
        }
        Ok(sink.prepare()?)
    }

    /// The body in memory of its own size, if all of it is decoded already and may be there.
    fn small(&self, decoder: &mut Decoder, len: Option<u64>) -> Tried<Option<BodyImage>> {
        let ready = decoder.ready()?.len();
        let len = match len {
            Some(len) if len <= ready as u64 => size(len),
            None if decoder.is_at_end() => ready,
            _ => return Ok(None),
        };
        self.check_body(len as u64)?;
        let mut lease = Lease::empty(&self.budget, Resource::Ram);
        if len as u64 > self.tunables.max_body_ram || lease.grow(len as u64).is_err() {
            return Ok(None);
        }
        let body = Bytes::copy_from_slice(decoder.ready()?.get(..len).unwrap_or_default());
        decoder.take(len);
        Ok(Some(BodyImage::from_piece(body).holding(lease)))
    }

    /// Looks whether a record that seems good ends within another one, which to go on from there would pass over: no head
    /// stands at its end, and a plain one has no line end before that, or a compressed one can't be decoded.
    fn check_whole(&mut self, entry: &Entry) -> Result<()> {
        let is_followed = self.window.get(entry.end(), PREFIX.len() as u64) == Some(PREFIX);
        if is_followed || entry.head.len == 0 {
            return Ok(());
        }
        let mut bytes = [0; LINE_END as usize + PREFIX.len()];
        let n = self.file.read_at(&mut bytes, entry.end() - LINE_END)?;
        if bytes.get(LINE_END as usize..n).is_some_and(|next| PREFIX.starts_with(next)) {
            return Ok(());
        }
        if entry.head.compression.is_some() {
            return self.verify(entry);
        }
        if bytes.starts_with(b"\r\n") { Ok(()) } else { Err(located(entry, Damage::Lengths(LOST).into())) }
    }

    /// Goes on from `at`. With `keep_going` damage is skipped, and told; else it is an error.
    pub fn step<T>(
        &mut self,
        at: u64,
        keep_going: bool,
        read: impl FnOnce(&mut Self, &Entry) -> Result<T>,
    ) -> Result<Walk<T>> {
        let found = match self.entry(at) {
            Ok(Some(entry)) => {
                let doubtful = keep_going && entry.head.req_body > self.tunables.max_body;
                let found = match read(self, &entry) {
                    // The length in its head may be the damage.
                    Err(error @ Error::BodyTooLong { .. }) if doubtful => self.verify(&entry).and(Err(error)),
                    Ok(value) if keep_going => self.check_whole(&entry).map(|()| value),
                    other => other,
                };
                found.map(|value| {
                    self.reached = self.reached.max(entry.end());
                    Walk::Found(entry, value)
                })
            }
            Ok(None) if at <= self.reached && at > self.file.look_again()? => {
                Err(Error::Archive { offset: at, damage: Damage::Cut(self.file.size()), end: None })
            }
            Ok(None) if !keep_going || at >= self.file.look_again()? => return Ok(Walk::End),
            // A reserved head: a writer is there, unless others have written behind it.
            Ok(None) => {
                return match self.find_behind(at)? {
                    // Its writer may have finished it meanwhile, and written others.
                    Some(_) if !matches!(self.entry(at), Ok(None)) => self.step(at, keep_going, read),
                    Some(end) => {
                        let error = Error::Archive { offset: at, damage: Damage::Unfinished, end: None };
                        Ok(Walk::Skipped { error, end })
                    }
                    None => Ok(Walk::End),
                };
            }
            Err(error) => Err(error),
        };
        match found {
            Err(error @ Error::Archive { end, .. }) if keep_going => {
                let end = match end {
                    Some(end) if self.may_begin(end)? => end,
                    _ => self.find(at + 1)?.unwrap_or(self.file.look_again()?),
                };
                // It may be of what the file has no more: to go on by that would lead here again.
                self.window.len = 0;
                Ok(Walk::Skipped { error, end })
            }
            other => other,
        }
    }
}

/// A plain body while its record is read.
enum Body {
    /// It stays in the file.
    There { at: u64, len: u64 },
    /// It is read to memory, with the line end after it.
    Here { room: Room, len: usize, lease: Lease },
}

impl Body {
    /// Whether nothing of what has that length in the file is passed over.
    fn is_read(&self, len: u64) -> bool {
        len == 0 || matches!(self, Self::Here { .. })
    }

    fn room(&mut self) -> &mut [u8] {
        match self {
            Self::There { .. } => &mut [],
            Self::Here { room, .. } => room.bytes(),
        }
    }

    fn copy(&mut self, from: &[u8]) {
        if let Self::Here { room, .. } = self {
            room.copy(from);
        }
    }

    fn image(self, file: &Arc<BodyFile>) -> BodyImage {
        match self {
            Self::There { at, len } => BodyImage::from_file(file.clone(), at, len),
            Self::Here { room, len, lease } => BodyImage::from_piece(room.freeze(len)).holding(lease),
        }
    }
}

/// Lengths of what goes to memory are small: a header block's field has 20 bits, and a body has a limit.
fn size(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

fn block(decoder: &mut Decoder, len: u64, name: &'static str) -> Tried<Fields> {
    let mut lines = vec![0; size(len)];
    if decoder.read(&mut lines)? < lines.len() {
        return Err(Damage::StreamEnds.into());
    }
    Ok(Fields::bare(lines, name)?)
}

fn located(entry: &Entry, trouble: Trouble) -> Error {
    match trouble {
        Trouble::Damage(damage) => Error::Archive { offset: entry.offset, damage, end: Some(entry.end()) },
        Trouble::Error(error) => error,
    }
}
