//! Reading records: positional, so that any number of readers and one writer share a file without locks.
//!
//! A record that is being written has a reserved head, which its writer replaces when all of it is there; bytes of a
//! complete record never change. So what a reader may meet half done is the last head of the file alone: it is read a
//! second time, until twice the same stands there.

use super::damage::Damage;
use super::fields::Fields;
use super::head::{Compression, Head, Kind};
use super::record::{Entry, Record};
use super::stream::{Decoder, PIECE, Tried, Trouble};
use crate::body::file::BodyFile;
use crate::body::{BodyImage, BodySink, Budget, Lease, Tunables};
use crate::{Error, Resource, Result};
use bytes::Bytes;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Bytes read at once: at first, and after as many steps from record to record.
const LEAST_AHEAD: usize = 16 << 10;
const MOST_AHEAD: usize = 256 << 10;

/// How often, a millisecond apart, a head is looked at that a writer seems to be writing.
const PATIENCE: usize = 20;

/// The latest bytes read from the file.
#[derive(Default)]
struct Window {
    bytes: Vec<u8>,
    start: u64,
    ahead: usize,
}

impl Window {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn get(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..from.checked_add(usize::try_from(len).ok()?)?)
    }

    /// Reads on from `offset`: more each time, as long as that goes from record to record.
    fn fill(&mut self, file: &BodyFile, offset: u64) -> Result<&[u8]> {
        let follows = self.start < offset && offset <= self.end();
        self.ahead = if follows { (self.ahead * 4).min(MOST_AHEAD) } else { LEAST_AHEAD };
        self.start = offset;
        self.bytes.resize(self.ahead, 0);
        let read = file.read_at(&mut self.bytes, offset);
        self.bytes.truncate(*read.as_ref().unwrap_or(&0));
        read?;
        Ok(&self.bytes)
    }
}

pub struct Reader {
    file: Arc<BodyFile>,
    tunables: Arc<Tunables>,
    budget: Arc<Budget>,
    window: Window,
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
        let file = File::open(path).map_err(Error::io("open the archive"))?;
        Ok(Self::of(Arc::new(BodyFile::opened(file, path, false)?), tunables, budget))
    }

    /// Reads a file that is open already. Bodies that need a file of their own get it by `tunables`.
    pub fn of(file: Arc<BodyFile>, mut tunables: Arc<Tunables>, budget: Arc<Budget>) -> Self {
        // A slice of the archive isn't read, so no digest is promised.
        Arc::make_mut(&mut tunables).digests.clear();
        Self { file, tunables, budget, window: Window::default() }
    }

    /// Another one of the same file, with a place of its own.
    pub fn again(&self) -> Self {
        let (tunables, budget) = (self.tunables.clone(), self.budget.clone());
        Self { file: self.file.clone(), tunables, budget, window: Window::default() }
    }

    pub(super) fn file(&self) -> &Arc<BodyFile> {
        &self.file
    }

    /// The record's place, `None` at the end of the file, behind it, and where one is being written.
    pub fn entry(&mut self, offset: u64) -> Result<Option<Entry>> {
        if let Some(Ok(head)) = self.window.get(offset, Head::LEN as u64).map(Head::parse) {
            let entry = Entry { offset, head };
            // Others follow, so it isn't the one that a writer is at.
            if head.kind == Kind::Dialog && entry.end() < self.window.end() {
                return Ok(Some(entry));
            }
        }
        let mut parsed = Err(Damage::NotAHead);
        let mut again = [0; Head::LEN];
        for _ in 0..PATIENCE {
            let bytes = self.window.fill(&self.file, offset)?;
            let first = bytes.get(..Head::LEN).unwrap_or(bytes);
            let n = self.file.read_at(&mut again, offset)?;
            if Some(first) != again.get(..n) {
                continue;
            }
            parsed = Head::parse(first);
            let may_be_begun = !first.is_empty() && Head::RESERVED.starts_with(first) && n < Head::LEN;
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

    /// Whether a record can be read: its bodies are decoded and dropped.
    pub fn verify(&mut self, entry: &Entry) -> Result<()> {
        self.try_record(entry, false).map(drop).map_err(|trouble| located(entry, trouble))
    }

    fn try_record(&mut self, entry: &Entry, keep: bool) -> Tried<Record> {
        if entry.end() > self.file.size() && entry.end() > self.file.look_again()? {
            return Err(self.short(entry));
        }
        entry.head.check_lengths()?;
        match entry.head.compression {
            Compression::Plain => self.plain(entry, keep),
            _ => self.compressed(entry, keep),
        }
    }

    fn short(&self, entry: &Entry) -> Trouble {
        let present = self.file.size().saturating_sub(entry.payload());
        Damage::Short { needed: entry.head.len, present }.into()
    }

    fn plain(&mut self, entry: &Entry, keep: bool) -> Tried<Record> {
        let Head { meta, req_headers, req_body, res_headers, .. } = entry.head;
        let mut at = entry.payload();
        let mut next = |len: u64| {
            at += len;
            (at - len, len)
        };
        let places = [next(meta), next(req_headers), next(req_body), next(res_headers)];
        let [meta, req_headers, req_body, res_headers] = places;
        let res_body = next(entry.head.plain_res_body()?);
        Ok(Record {
            meta: Fields::closed(self.bytes(entry, meta)?, "meta")?,
            req_headers: Fields::closed(self.bytes(entry, req_headers)?, "request headers")?,
            req_body: self.body(entry, req_body, keep)?,
            res_headers: Fields::closed(self.bytes(entry, res_headers)?, "response headers")?,
            res_body: self.body(entry, res_body, keep)?,
        })
    }

    /// A part of the file, copied.
    fn bytes(&self, entry: &Entry, (at, len): (u64, u64)) -> Tried<Bytes> {
        if let Some(found) = self.window.get(at, len) {
            return Ok(Bytes::copy_from_slice(found));
        }
        let whole = BodyImage::from_file(self.file.clone(), at, len).read_range(0, len);
        whole.map_err(|error| match error {
            Error::Truncated { .. } => self.short(entry),
            other => other.into(),
        })
    }

    /// A plain body: in memory if it is small and the budget has room, else where it is.
    fn body(&self, entry: &Entry, (at, len): (u64, u64), keep: bool) -> Tried<BodyImage> {
        let len = len.saturating_sub(2);
        if !keep {
            return Ok(BodyImage::default());
        }
        self.check_body(len)?;
        let mut lease = Lease::empty(&self.budget, Resource::Ram);
        if len > self.tunables.max_body_ram || lease.grow(len).is_err() {
            return Ok(BodyImage::from_file(self.file.clone(), at, len));
        }
        Ok(BodyImage::from_pieces(vec![self.bytes(entry, (at, len))?]).holding(lease))
    }

    fn check_body(&self, seen: u64) -> Result<()> {
        let limit = self.tunables.max_body;
        if seen > limit { Err(Error::BodyTooLong { seen, limit }) } else { Ok(()) }
    }

    fn compressed(&self, entry: &Entry, keep: bool) -> Tried<Record> {
        let head = &entry.head;
        let mut decoder = Decoder::new(&self.file, head.compression, entry.payload(), entry.end());
        Ok(Record {
            meta: block(&mut decoder, head.meta, "meta")?,
            req_headers: block(&mut decoder, head.req_headers, "request headers")?,
            req_body: self.collect(&mut decoder, Some(head.req_body), keep)?,
            res_headers: block(&mut decoder, head.res_headers, "response headers")?,
            res_body: self.collect(&mut decoder, None, keep)?,
        })
    }

    /// A decoded body of a known length, or all that is left of the stream.
    fn collect(&self, decoder: &mut Decoder, len: Option<u64>, keep: bool) -> Tried<BodyImage> {
        if keep && let Some(len) = len {
            self.check_body(len)?;
        }
        let mut sink = match len {
            Some(len) if keep => BodySink::with_length(self.tunables.clone(), self.budget.clone(), len)?,
            _ => BodySink::new(self.tunables.clone(), self.budget.clone()),
        };
        let mut left = len.unwrap_or(u64::MAX);
        let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let n = decoder.read(piece.get_mut(..most).unwrap_or_default())?;
            left -= n as u64;
            if keep {
                sink.push_copy(piece.get(..n).unwrap_or_default())?;
                sink.run_work(false)?;
            }
            if n < most {
                if len.is_some() && left > 0 {
                    return Err(Damage::StreamEnds.into());
                }
                break;
            }
        }
        Ok(sink.prepare()?)
    }

    /// Goes on from `at`. With `keep_going` damage is skipped, and told; else it is an error.
    pub fn step<T>(
        &mut self,
        at: u64,
        keep_going: bool,
        read: impl FnOnce(&mut Self, &Entry) -> Result<T>,
    ) -> Result<Walk<T>> {
        let found = match self.entry(at) {
            Ok(Some(entry)) => read(self, &entry).map(|value| Walk::Found(entry, value)),
            Ok(None) if !keep_going || at >= self.file.look_again()? => return Ok(Walk::End),
            // A reserved head: a writer is there, unless others have written behind it.
            Ok(None) => {
                return Ok(match self.find(at + 1)? {
                    Some(end) => Walk::Skipped {
                        error: Error::Archive { offset: at, damage: Damage::Unfinished, end: None },
                        end,
                    },
                    None => Walk::End,
                });
            }
            Err(error) => Err(error),
        };
        match found {
            Err(error @ Error::Archive { end, .. }) if keep_going => {
                let end = match end {
                    Some(end) if self.may_begin(end)? => end,
                    _ => self.find(at + 1)?.unwrap_or(self.file.look_again()?),
                };
                Ok(Walk::Skipped { error, end })
            }
            other => other,
        }
    }
}

fn block(decoder: &mut Decoder, len: u64, name: &'static str) -> Tried<Fields> {
    let mut lines = vec![0; usize::try_from(len).unwrap_or_default()];
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
