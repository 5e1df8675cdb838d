//! A body as a value: immutable, cheap to share, readable from many threads at once; in memory, in a file (or a slice
//! of one), or mapped. Nothing here chooses a thread: what may wait for a disk says so.

use super::budget::Lease;
use super::digest::Algorithm;
use super::file::BodyFile;
use super::mmap::{Map, SharedRange};
use super::pools::Pools;
use super::save::{Content, save};
use super::slab;
use crate::{Error, Result};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

/// Large enough that the price of a call doesn't matter.
const PIECE: usize = 64 << 10;

#[derive(Clone)]
pub enum State {
    /// Pieces in order, none of them empty.
    Ram(Arc<[Bytes]>),
    File {
        file: Arc<BodyFile>,
        offset: u64,
    },
    Mmap {
        map: Bytes,
        file: Arc<BodyFile>,
        offset: u64,
    },
}

#[derive(Clone)]
pub struct BodyImage {
    state: State,
    len: u64,
    digests: Arc<[(Algorithm, String)]>,
    /// Bytes to be read of a file at once.
    piece: usize,
    /// The part of the budget that the pieces in memory take.
    lease: Option<Arc<Lease>>,
}

impl Default for BodyImage {
    fn default() -> Self {
        Self::of(Arc::default(), 0)
    }
}

impl BodyImage {
    pub fn from_pieces(mut pieces: Vec<Bytes>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self::of(pieces.into(), len)
    }

    pub fn from_piece(piece: Bytes) -> Self {
        if piece.is_empty() {
            return Self::default();
        }
        let len = piece.len() as u64;
        Self::of([piece].into(), len)
    }

    fn of(pieces: Arc<[Bytes]>, len: u64) -> Self {
        Self { state: State::Ram(pieces), len, digests: Arc::default(), piece: PIECE, lease: None }
    }

    /// A range of a file; an empty one is an image in memory, as upstream's.
    pub fn from_file(file: Arc<BodyFile>, offset: u64, len: u64) -> Self {
        if len == 0 {
            return Self::default();
        }
        Self { state: State::File { file, offset }, len, digests: Arc::default(), piece: PIECE, lease: None }
    }

    /// A file from outside, or `length` bytes of it from `offset`.
    pub fn from_path(path: &Path, offset: u64, length: Option<u64>, trusted: bool) -> Result<Self> {
        let file = BodyFile::external(path, trusted)?;
        let left = file.size().checked_sub(offset);
        let len = length.or(left).unwrap_or(0);
        if left.is_none_or(|left| len > left) {
            let (name, value) = if length.is_some() { ("length", len) } else { ("offset", offset) };
            let reason = format!("the file has {} bytes, {} from offset {offset}", file.size(), left.unwrap_or(0));
            return Err(Error::setting(name, value, reason));
        }
        Ok(Self::from_file(Arc::new(file), offset, len))
    }

    pub fn with_digests(mut self, digests: Vec<(Algorithm, String)>) -> Self {
        self.digests = digests.into();
        self
    }

    pub(crate) fn in_pieces(mut self, piece: usize) -> Self {
        self.piece = piece;
        self
    }

    pub(crate) fn holding(mut self, lease: Lease) -> Self {
        self.lease = Some(Arc::new(lease));
        self
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether reading it may wait for a disk.
    pub fn is_file(&self) -> bool {
        matches!(self.state, State::File { .. })
    }

    pub fn digests(&self) -> &[(Algorithm, String)] {
        &self.digests
    }

    /// Bytes of a piece, where nothing else is said: for a body in a file, what is to be read of it at once.
    pub fn piece(&self) -> usize {
        if self.is_file() { self.piece } else { PIECE }
    }

    fn replaced(&self, state: State) -> Self {
        Self { state, len: self.len, digests: self.digests.clone(), piece: self.piece, lease: self.lease.clone() }
    }

    /// The same body as one piece, if it isn't one already or a file. Copies; never waits.
    pub fn gather(&self) -> Result<Self> {
        match &self.state {
            State::Ram(pieces) if pieces.len() > 1 => Ok(self.replaced(State::Ram([gather(pieces)?].into()))),
            _ => Ok(self.clone()),
        }
    }

    /// The same body in memory as one piece. May wait for the disk.
    pub fn to_ram(&self) -> Result<Self> {
        match &self.state {
            State::Ram(_) => self.gather(),
            State::Mmap { map, .. } => Ok(self.replaced(State::Ram([gather(std::slice::from_ref(map))?].into()))),
            State::File { .. } => Ok(self.replaced(State::Ram([self.copy_range(0, self.len)?].into()))),
        }
    }

    /// The same body mapped and populated, if it is in a file; others are themselves. May wait for the disk. A file
    /// that others can truncate is read instead.
    pub fn to_mmap(&self) -> Result<Self> {
        match &self.state {
            State::File { file, offset } if file.claim_map() => {
                let map = match SharedRange::of(file, *offset, self.len) {
                    Some(range) => {
                        range.populate()?;
                        Bytes::from_owner(range)
                    }
                    None => Bytes::from_owner(Map::new(file, *offset, self.len)?),
                };
                Ok(self.replaced(State::Mmap { map, file: file.clone(), offset: *offset }))
            }
            State::File { .. } => self.to_ram(),
            _ => Ok(self.clone()),
        }
    }

    /// `[offset, offset + len)` of a recycled file, which has a mapping already.
    fn recycled_range(&self, offset: u64, len: u64) -> Option<SharedRange> {
        match &self.state {
            State::File { file, offset: start } if len > 0 => SharedRange::of(file, start + offset, len),
            _ => None,
        }
    }

    /// `[offset, offset + len)`, as far as the body goes, as one piece: a view where it lies in one, or in a recycled
    /// file. Else it is copied, and from a file it may have to be waited for.
    pub fn read_range(&self, offset: u64, len: u64) -> Result<Bytes> {
        let len = len.min(self.len.saturating_sub(offset));
        match self.recycled_range(offset, len) {
            Some(range) => {
                range.populate()?;
                Ok(Bytes::from_owner(range))
            }
            None => self.copy_range(offset, len),
        }
    }

    /// As `read_range`, never a view of a file.
    fn copy_range(&self, offset: u64, len: u64) -> Result<Bytes> {
        let whole = self.read_with(offset, len, |file, buffer, at| file.read_at(buffer, at).map(Some))?;
        match whole.unwrap_or_default() {
            part if (part.len() as u64) < len => Err(self.ended(offset + part.len() as u64)),
            whole => Ok(whole),
        }
    }

    fn ended(&self, at: u64) -> Error {
        Error::Truncated { received: at, expected: Some(self.len) }
    }

    /// The piece at `offset`, at most `len` bytes; less than that only where the file was cut. If `cached`, `None` says
    /// that it can't be had without waiting.
    fn read_piece(&self, offset: u64, len: u64, cached: bool) -> Result<Option<Bytes>> {
        let wanted = len.min(self.len.saturating_sub(offset));
        if let Some(range) = self.recycled_range(offset, wanted) {
            if !cached {
                range.populate()?;
            } else if !range.is_resident() {
                return Ok(None);
            }
            return Ok(Some(Bytes::from_owner(range)));
        }
        let piece = if cached {
            self.read_with(offset, wanted, BodyFile::read_cached)?
        } else {
            self.read_with(offset, wanted, |file, buffer, at| file.read_at(buffer, at).map(Some))?
        };
        if wanted > 0 && piece.as_ref().is_some_and(Bytes::is_empty) {
            return Err(self.ended(offset));
        }
        Ok(piece)
    }

    fn read_with(
        &self,
        offset: u64,
        len: u64,
        read: impl Fn(&BodyFile, &mut [u8], u64) -> Result<Option<usize>>,
    ) -> Result<Option<Bytes>> {
        let (file, start) = match &self.state {
            State::Ram(pieces) => return ram_range(pieces, offset, len).map(Some),
            State::Mmap { map, .. } => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(map.len());
                let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(map.len());
                return Ok(Some(map.slice(start..end)));
            }
            State::File { file, offset } => (file, *offset),
        };
        let size = usize::try_from(len).map_err(|_| Error::BudgetExceeded {
            resource: crate::Resource::Ram,
            wanted: len,
            used: 0,
            limit: usize::MAX as u64,
            hopeless: true,
        })?;
        let mut room = slab::Room::new(&Pools::current().slabs, size)?;
        Ok(read(file, room.bytes(), start + offset)?.map(|n| room.freeze(n)))
    }

    /// Copies `[offset, …)` to `buffer` as far as both go. May wait for the disk.
    pub fn copy_to(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let len = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..len).unwrap_or_default();
        let n = match &self.state {
            State::File { file, offset: start } => file.read_at(buffer, start + offset)?,
            State::Mmap { map, .. } => copy_pieces(std::slice::from_ref(map), buffer, offset),
            State::Ram(pieces) => copy_pieces(pieces, buffer, offset),
        };
        if n < len { Err(self.ended(offset + n as u64)) } else { Ok(n) }
    }

    /// As `copy_to` from the start, but only if all of `buffer`, which isn't longer than the body, can be filled without
    /// waiting; false if not.
    pub fn copy_cached(&self, buffer: &mut [u8]) -> Result<bool> {
        let State::File { file, offset } = &self.state else { return self.copy_to(buffer, 0).map(|_| true) };
        let len = buffer.len();
        match file.read_cached(buffer, *offset)? {
            Some(n) if n < len => Err(self.ended(n as u64)),
            Some(_) => Ok(true),
            None => Ok(false),
        }
    }

    /// Gives the body a name in a file system; see [`save`](super::save::save). May wait for the disk.
    pub fn save(&self, path: &Path, overwrite: bool, fsync: bool) -> Result<()> {
        let content = match &self.state {
            State::Ram(pieces) => Content::Pieces(pieces),
            State::File { file, offset } | State::Mmap { file, offset, .. } => {
                Content::Range { file, offset: *offset, len: self.len }
            }
        };
        save(&content, path, overwrite, fsync)
    }

    pub fn reader(&self, piece: usize) -> Reader {
        Reader { image: self.clone(), piece: piece.max(1), position: 0, index: 0, within: 0 }
    }
}

fn gather(pieces: &[Bytes]) -> Result<Bytes> {
    slab::gather(&Pools::current().slabs, pieces.iter().map(|piece| &piece[..]))
}

/// The range of scattered pieces: a slice of one where it lies in one, else a copy.
fn ram_range(pieces: &[Bytes], offset: u64, len: u64) -> Result<Bytes> {
    let mut skip = offset;
    let mut left = len;
    let mut found = Vec::new();
    for piece in pieces {
        if left == 0 {
            break;
        }
        let size = piece.len() as u64;
        if skip >= size {
            skip -= size;
            continue;
        }
        let take = left.min(size - skip);
        found.push(piece.slice(skip as usize..(skip + take) as usize));
        (skip, left) = (0, left - take);
    }
    match (found.pop(), found.is_empty()) {
        (None, _) => Ok(Bytes::new()),
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            found.push(last);
            gather(&found)
        }
    }
}

/// How many bytes were copied: fewer than the buffer takes only if there are no more.
fn copy_pieces(pieces: &[Bytes], mut buffer: &mut [u8], offset: u64) -> usize {
    let mut skip = usize::try_from(offset).unwrap_or(usize::MAX);
    let wanted = buffer.len();
    for piece in pieces {
        let part = piece.get(skip.min(piece.len())..).unwrap_or_default();
        skip -= skip.min(piece.len());
        let n = part.len().min(buffer.len());
        let (to, rest) = buffer.split_at_mut(n);
        to.copy_from_slice(part.get(..n).unwrap_or_default());
        buffer = rest;
    }
    wanted - buffer.len()
}

/// Goes through an image in pieces of at most a size, each a view where the body is in memory or mapped. Pieces of a
/// scattered body end where its pieces end.
pub struct Reader {
    image: BodyImage,
    piece: usize,
    position: u64,
    index: usize,
    within: usize,
}

impl Reader {
    /// How many bytes of a file the next piece is a copy of; of a view none.
    pub fn to_copy(&self) -> u64 {
        let next = (self.piece as u64).min(self.image.len.saturating_sub(self.position));
        let is_copy = self.image.is_file() && self.image.recycled_range(self.position, next).is_none();
        if is_copy { next } else { 0 }
    }

    /// The next piece, `None` at the end. May wait for the disk if the image is a file.
    pub fn next_piece(&mut self) -> Result<Option<Bytes>> {
        self.next(false).map(Option::flatten)
    }

    /// The next piece if it can be had without waiting: `None` says to call `next_piece` where waiting is allowed.
    pub fn next_cached(&mut self) -> Result<Option<Option<Bytes>>> {
        self.next(true)
    }

    fn next(&mut self, cached: bool) -> Result<Option<Option<Bytes>>> {
        let piece = match self.next_scattered() {
            Some(piece) => Some(piece),
            None => self.image.read_piece(self.position, self.piece as u64, cached)?,
        };
        self.position += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(piece.map(|piece| Some(piece).filter(|piece| !piece.is_empty())))
    }

    /// For an image in memory: the next slice of its pieces, empty at the end.
    fn next_scattered(&mut self) -> Option<Bytes> {
        let State::Ram(pieces) = &self.image.state else { return None };
        let Some(piece) = pieces.get(self.index) else { return Some(Bytes::new()) };
        let end = (self.within + self.piece).min(piece.len());
        let slice = piece.slice(self.within..end);
        (self.index, self.within) = if end == piece.len() { (self.index + 1, 0) } else { (self.index, end) };
        Some(slice)
    }
}
