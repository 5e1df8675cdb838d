//! Collects a body: in memory until it is larger than `max_body_ram` or the budget has no more, then in a file.
//!
//! The sink itself never waits for a disk. `push` takes bytes; what must be written, or is too much to be digested by
//! the way, is handed out as a [`Work`], which the sink's owner runs on the thread of its choice and brings back. A
//! sink has at most one work out, so order is kept with any number of threads.

use super::budget::{Budget, Lease};
use super::digest::Digests;
use super::file::{BodyFile, default_temp_dir};
use super::filepool::FilePool;
use super::image::BodyImage;
use super::mmap::MapWriter;
use super::pools::Pools;
use super::slab::{self, Window};
use super::tunables::Tunables;
use crate::{Error, Resource, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Writes are gathered to this many bytes: one call for each piece received is what made upstream's files slow.
pub const GATHER: u64 = 256 << 10;

/// Pieces smaller than this are moved together: keeping track of one costs as much as a few dozen bytes.
pub const SMALL_PIECE: usize = 4 << 10;

/// Above this many bytes handed to sinks and not yet written, of all sinks together, each writes what it has.
pub const UNWRITTEN_CAP: u64 = 32 << 20;
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

/// With more than this unwritten while a work is out, a sink's owner should stop receiving for it.
const CROWDED: u64 = 1 << 20;

/// What is digested by the way; more is a work.
const DIGEST_INLINE: u64 = 64 << 10;

/// A share of [`UNWRITTEN`].
#[derive(Default)]
struct Unwritten(u64);

impl Unwritten {
    fn add(&mut self, n: u64) {
        self.0 += n;
        UNWRITTEN.fetch_add(n, Relaxed);
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        UNWRITTEN.fetch_sub(self.0, Relaxed);
    }
}

/// Bytes handed to sinks and not yet written, of all sinks of the process.
pub fn unwritten() -> u64 {
    UNWRITTEN.load(Relaxed)
}

/// The part of a sink that goes along with its work.
struct Writer {
    tunables: Arc<Tunables>,
    budget: Arc<Budget>,
    files: Option<Arc<FilePool>>,
    /// The announced length, for the choice of a recycled file.
    length: Option<u64>,
    /// Of a file that isn't made yet.
    descriptor: Option<Lease>,
    file: Option<Arc<BodyFile>>,
    /// Of a recycled file.
    map: Option<MapWriter>,
    written: u64,
    calls: u64,
    digests: Digests,
}

impl Writer {
    fn open(&mut self) -> Result<Arc<BodyFile>> {
        if let Some(file) = self.file.as_ref().filter(|file| !file.is_inherited()) {
            return Ok(file.clone());
        }
        let dir = self.tunables.temp_dir.clone().unwrap_or_else(default_temp_dir);
        let recycled = self.files.as_ref().and_then(|files| files.take(&dir, self.length));
        let (file, map) = match (recycled, self.descriptor.take()) {
            (Some(recycled), _) => recycled,
            (None, Some(descriptor)) => {
                (BodyFile::temporary_with(&dir, &self.budget, descriptor, self.files.clone())?, None)
            }
            (None, None) => (BodyFile::temporary(&dir, &self.budget, self.files.clone())?, None),
        };
        self.map = map;
        if let Some(inherited) = &self.file {
            // The parent goes on writing to that file: what it has of this body comes along.
            file.copy_from(inherited, self.written)?;
        }
        Ok(self.file.insert(Arc::new(file)).clone())
    }

    /// Writes slices behind what is written: copied to the mapping as far as that goes, else by the kernel.
    fn write(&mut self, mut slices: &mut [IoSlice<'_>]) -> Result<()> {
        let file = self.open()?;
        let total: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        file.reserve(self.written + total)?;
        let mut offset = self.written;
        if let Some(map) = &mut self.map {
            // A write that failed behind the mapping is tried again as a whole.
            map.rewind(self.written);
            while let Some(first) = slices.first().filter(|_| map.spare_len() > 0) {
                let room = map.spare(first.len());
                let n = room.len();
                room.copy_from_slice(first.get(..n).unwrap_or_default());
                map.advance(n);
                offset += n as u64;
                IoSlice::advance_slices(&mut slices, n);
            }
        }
        self.calls += file.write_slices_at(slices, offset)?;
        self.written += total;
        Ok(())
    }
}

/// Bytes to be written, or only digested; run once on any thread, then brought back by [`BodySink::done`].
pub struct Work {
    writer: Writer,
    pieces: Vec<Bytes>,
    /// Pieces before this one are digested already.
    undigested: usize,
    to_file: bool,
    unwritten: Unwritten,
    ram: Lease,
    result: Option<Result<()>>,
}

impl Work {
    /// Writes and digests. May wait for the disk. What failed is told by [`BodySink::done`].
    pub fn run(&mut self) {
        self.result = Some(self.try_run());
    }

    fn try_run(&mut self) -> Result<()> {
        let writer = &mut self.writer;
        if self.to_file {
            let mut slices: Vec<IoSlice<'_>> = self.pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            writer.write(&mut slices)?;
        }
        if !writer.digests.is_empty() {
            self.pieces.iter().skip(self.undigested).for_each(|piece| writer.digests.update(piece));
        }
        Ok(())
    }
}

/// The write side of a body.
pub struct BodySink {
    tunables: Arc<Tunables>,
    /// `None` while a work is out.
    writer: Option<Writer>,
    /// In memory: all of the body but `tail`. In a file: what is not yet written of it.
    pieces: Vec<Bytes>,
    /// Small pieces moved together, behind `pieces`.
    tail: Vec<u8>,
    /// How many of `pieces` have been digested.
    digested: usize,
    undigested_bytes: u64,
    unwritten: Unwritten,
    ram: Lease,
    /// What of `ram` was taken before the bytes came.
    prepaid: u64,
    len: u64,
    spilled: bool,
    failed: bool,
}

impl BodySink {
    pub fn new(tunables: Arc<Tunables>, budget: Arc<Budget>) -> Self {
        let ram = Lease::empty(&budget, Resource::Ram);
        let digests = Digests::new(&tunables.digests);
        let writer = Writer {
            tunables: tunables.clone(),
            budget,
            files: None,
            length: None,
            descriptor: None,
            file: None,
            map: None,
            written: 0,
            calls: 0,
            digests,
        };
        Self {
            tunables,
            writer: Some(writer),
            pieces: Vec::new(),
            tail: Vec::new(),
            digested: 0,
            undigested_bytes: 0,
            unwritten: Unwritten::default(),
            ram,
            prepaid: 0,
            len: 0,
            spilled: false,
            failed: false,
        }
    }

    /// With an announced length: over `max_body` it is refused, over `max_body_ram` the body goes to its file from
    /// the first byte. Nothing is allocated for it.
    pub fn with_length(tunables: Arc<Tunables>, budget: Arc<Budget>, length: u64) -> Result<Self> {
        if length > tunables.max_body {
            return Err(Error::ContentLengthTooLong { seen: length, limit: tunables.max_body });
        }
        let mut sink = Self::new(tunables, budget);
        sink.spilled = length > sink.tunables.max_body_ram;
        if let Some(writer) = &mut sink.writer {
            writer.length = Some(length);
        }
        Ok(sink)
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the body stays in memory as far as is known.
    pub fn is_ram(&self) -> bool {
        !self.spilled
    }

    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether a work is out.
    pub fn is_busy(&self) -> bool {
        self.writer.is_none()
    }

    /// Bytes taken for the file that no work has been made for.
    pub fn unwritten(&self) -> u64 {
        self.unwritten.0
    }

    /// Whether so much is unwritten, here or in all sinks, that no more should be received until a work has come back.
    pub fn is_crowded(&self) -> bool {
        self.unwritten.0 > CROWDED || (self.unwritten.0 > 0 && unwritten() > UNWRITTEN_CAP)
    }

    /// How many calls have written to the file.
    pub fn write_calls(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.calls)
    }

    /// How many more bytes may come before the body is too long.
    pub fn room(&self) -> u64 {
        self.tunables.max_body - self.len
    }

    /// How many pieces are in memory, for [`compact`](Self::compact).
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    fn account(&mut self, n: u64) -> Result<()> {
        if self.failed {
            return Err(Error::SinkFailed);
        }
        if n > self.room() {
            return Err(Error::BodyTooLong { seen: self.len + n, limit: self.tunables.max_body });
        }
        let unpaid = n.saturating_sub(self.prepaid);
        if !self.spilled && (self.len + n > self.tunables.max_body_ram || self.ram.grow(unpaid).is_err()) {
            self.spill();
        }
        self.prepaid = self.prepaid.saturating_sub(n);
        self.len += n;
        self.undigested_bytes += n;
        if self.spilled {
            self.unwritten.add(n);
        }
        Ok(())
    }

    /// Takes a piece, without a copy unless it is small. An empty one is ignored; one that makes the body too long is
    /// refused whole.
    pub fn push(&mut self, piece: Bytes) -> Result<()> {
        if piece.len() < SMALL_PIECE {
            return self.push_copy(&piece);
        }
        self.account(piece.len() as u64)?;
        self.close_tail();
        self.pieces.push(piece);
        Ok(())
    }

    /// Takes a copy of `bytes`.
    pub fn push_copy(&mut self, bytes: &[u8]) -> Result<()> {
        self.push_parts(std::iter::once(bytes))
    }

    /// Takes a copy of the parts, or none of them if they make the body too long.
    pub fn push_parts<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]> + Clone) -> Result<()> {
        let total = parts.clone().map(<[u8]>::len).sum();
        self.account(total as u64)?;
        if total >= slab::SMALLEST {
            self.close_tail();
            let whole = slab::gather(&Pools::current().slabs, parts);
            self.pieces.push(whole.map_err(Error::io("map memory for a body"))?);
            return Ok(());
        }
        let mut left = total;
        for mut part in parts {
            while !part.is_empty() {
                if self.tail.len() == self.tail.capacity() {
                    self.close_tail();
                    self.tail = Vec::with_capacity(self.tail_size(left));
                }
                let room = self.tail.capacity() - self.tail.len();
                let (now, rest) = part.split_at(room.min(part.len()));
                self.tail.extend_from_slice(now);
                left -= now.len();
                part = rest;
            }
        }
        Ok(())
    }

    /// Room for `coming` bytes and more: exact for a body in one go; else it grows with the body, to waste at most a
    /// quarter of it.
    fn tail_size(&self, coming: usize) -> usize {
        let least = if self.len == coming as u64 { coming } else { coming.max(SMALL_PIECE) };
        let quarter = usize::try_from(self.len / 4).unwrap_or(usize::MAX);
        quarter.clamp(least, slab::SMALLEST)
    }

    /// Takes the budget for memory that the body's next bytes are received into; without it the body spills.
    pub fn prepay(&mut self, bytes: u64) {
        if self.spilled {
            return;
        }
        match self.ram.grow(bytes) {
            Ok(()) => self.prepaid += bytes,
            Err(_) => self.spill(),
        }
    }

    /// The body is complete in memory: it holds so many bytes, or as many as it is long.
    pub fn settle(&mut self, held: u64) {
        self.prepaid = 0;
        if !self.spilled {
            // It never grows here, so it can't be refused.
            let _ = self.ram.set(held.max(self.len).min(self.ram.amount()));
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(Bytes::from(std::mem::take(&mut self.tail)));
        }
    }

    /// Has the body go to a file from now on, what is in memory included: upstream's `write_back`.
    pub fn spill(&mut self) {
        if !self.spilled {
            self.spilled = true;
            self.unwritten.add(self.len);
        }
    }

    /// Takes the descriptor of the body's file from the budget now: who holds another one meanwhile must not wait for
    /// it later, as all would wait for each other.
    pub fn reserve_descriptor(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.as_mut().filter(|writer| writer.file.is_none() && writer.descriptor.is_none())
        {
            let mut lease = Lease::empty(&writer.budget, Resource::Files);
            lease.grow(1)?;
            writer.descriptor = Some(lease);
        }
        Ok(())
    }

    /// Whether something is in memory that can be taken.
    pub fn has_pieces(&self) -> bool {
        !self.spilled && (!self.tail.is_empty() || self.pieces.iter().any(|piece| !piece.is_empty()))
    }

    /// Gives away what is in memory, and the budget that it took; the length goes on counting it.
    pub fn take_pieces(&mut self) -> Vec<Bytes> {
        if self.spilled {
            return Vec::new();
        }
        self.close_tail();
        self.digested = 0;
        self.prepaid = 0;
        drop(self.ram.take());
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }

    /// Copies the pieces from the one numbered `from` on into one buffer of their own size, so that what they were
    /// received into can be used for other bodies.
    pub fn compact(&mut self, from: usize) -> Result<()> {
        self.close_tail();
        // A piece half digested would be lost count of.
        let from = from.max(self.digested).min(self.pieces.len());
        let parts = self.pieces.get(from..).unwrap_or_default().iter().map(|piece| &piece[..]);
        let whole = slab::gather(&Pools::current().slabs, parts).map_err(Error::io("map memory for a body"))?;
        self.pieces.truncate(from);
        self.pieces.push(whole);
        Ok(())
    }

    /// Whether there is something to be done off the loop now; see [`take_work`](Self::take_work). The digest of the
    /// last few bytes isn't: [`prepare`](Self::prepare) computes it.
    pub fn has_work(&self, all: bool) -> bool {
        let Some(writer) = self.writer.as_ref().filter(|_| !self.failed) else { return false };
        if self.spilled {
            let due = all || self.unwritten.0 >= GATHER || unwritten() > UNWRITTEN_CAP;
            due && self.unwritten.0 > 0
        } else {
            self.undigested_bytes > DIGEST_INLINE && !writer.digests.is_empty()
        }
    }

    /// What is to be done off the loop now: a write of 256 KiB or more, or, if `all`, whatever is left. `None` if
    /// there is nothing to do, or a work is out already.
    pub fn take_work(&mut self, all: bool) -> Option<Work> {
        if !self.has_work(all) {
            return None;
        }
        self.close_tail();
        self.undigested_bytes = 0;
        let writer = self.writer.take()?;
        let undigested = std::mem::take(&mut self.digested);
        Some(if self.spilled {
            Work {
                ram: self.ram.take(),
                writer,
                pieces: std::mem::take(&mut self.pieces),
                undigested,
                to_file: true,
                unwritten: std::mem::take(&mut self.unwritten),
                result: None,
            }
        } else {
            let pieces = self.pieces.get(undigested..).unwrap_or_default().to_vec();
            self.digested = self.pieces.len();
            let ram = Lease::empty(&writer.budget, Resource::Ram);
            Work { ram, writer, pieces, undigested: 0, to_file: false, unwritten: Unwritten::default(), result: None }
        })
    }

    /// Takes a work back. One that was never run, or for which there was no budget, is undone and can be taken again;
    /// one that failed otherwise leaves the sink with what it has, and there is no further work.
    pub fn done(&mut self, work: Work) -> Result<()> {
        let Work { writer, mut pieces, undigested, to_file, unwritten, ram, result } = work;
        self.writer = Some(writer);
        let never_ran = result.is_none();
        let result = result.unwrap_or(Ok(()));
        self.failed |= matches!(&result, Err(error) if !matches!(error, Error::BudgetExceeded { .. }));
        if never_ran || result.is_err() {
            if to_file {
                // Nothing is lost: what the file doesn't have is here.
                let nothing_written = self.writer.as_ref().is_some_and(|writer| writer.written == 0);
                self.spilled &= !(self.failed && nothing_written);
                self.digested = undigested;
                self.undigested_bytes = pieces.iter().skip(undigested).map(|piece| piece.len() as u64).sum();
                pieces.append(&mut self.pieces);
                self.pieces = pieces;
                if self.spilled {
                    self.unwritten.add(unwritten.0);
                } else {
                    self.unwritten = Unwritten::default();
                }
                self.ram = ram;
            } else {
                self.digested -= pieces.len().min(self.digested);
                self.undigested_bytes += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
            }
        }
        result
    }

    /// Runs what there is to be done on this thread. May wait for the disk.
    pub fn run_work(&mut self, all: bool) -> Result<()> {
        while let Some(mut work) = self.take_work(all) {
            work.run();
            self.done(work)?;
        }
        Ok(())
    }

    /// Writes `slices` behind all that was pushed, without keeping them: for a worker that receives into a buffer of
    /// its own. Without budget they are copied and kept, and the error says to try [`run_work`](Self::run_work) later.
    /// May wait for the disk.
    pub fn write_through(&mut self, slices: &mut [IoSlice<'_>]) -> Result<()> {
        self.spill();
        let n: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        if n > self.room() {
            return Err(Error::BodyTooLong { seen: self.len + n, limit: self.tunables.max_body });
        }
        let ready = self.run_work(true).and_then(|()| self.try_write_through(slices));
        match ready {
            Err(error @ Error::BudgetExceeded { .. }) => {
                self.push_parts(slices.iter().map(|slice| &**slice))?;
                Err(error)
            }
            other => other,
        }
    }

    fn try_write_through(&mut self, slices: &mut [IoSlice<'_>]) -> Result<()> {
        let Some(writer) = &mut self.writer else { return Err(Error::Cancelled) };
        let n: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        // Digested after the write, and the slices are advanced by it.
        let digested = (!writer.digests.is_empty()).then(|| slices.to_vec());
        match writer.write(slices) {
            Ok(()) => {
                digested.iter().flatten().for_each(|slice| writer.digests.update(slice));
                self.len += n;
                Ok(())
            }
            Err(error) => {
                self.failed = !matches!(error, Error::BudgetExceeded { .. });
                Err(error)
            }
        }
    }

    /// Has files come from a pool, and go back to it.
    pub fn use_files(&mut self, files: Option<Arc<FilePool>>) {
        if let Some(writer) = &mut self.writer {
            writer.files = files;
        }
    }

    /// Where the next bytes of a body for a file can be received so that nothing is to be written: the mapping of a
    /// recycled file, as far as it goes. `None` says that there is none. May wait for the disk.
    fn map(&mut self) -> Result<Option<&mut MapWriter>> {
        if !self.spilled || self.unwritten.0 > 0 {
            return Ok(None);
        }
        let Some(writer) = self.writer.as_mut().filter(|writer| writer.files.is_some()) else { return Ok(None) };
        writer.open()?;
        Ok(writer.map.as_mut().filter(|map| map.spare_len() >= SMALL_PIECE))
    }

    /// The next `most` bytes of a mapping, to be received into and then told by [`take_in`](Self::take_in).
    pub fn mapped_spare(&mut self, most: usize) -> Result<Option<&mut [u8]>> {
        Ok(self.map()?.map(|map| map.spare(most)))
    }

    /// The same for a receiver that this crate doesn't know.
    pub fn mapped_window(&mut self, most: usize) -> Result<Option<Window>> {
        Ok(self.map()?.map(|map| map.window(most)))
    }

    /// Takes in `n` bytes that were received into a mapping. `look` takes the framing off: it moves what is body to the
    /// front and says how much that is.
    pub fn take_in(&mut self, n: usize, look: impl FnOnce(&mut [u8]) -> usize) -> Result<()> {
        let (room, limit, len) = (self.room(), self.tunables.max_body, self.len);
        let Some(writer) = &mut self.writer else { return Err(Error::Cancelled) };
        let Some(map) = &mut writer.map else { return Err(Error::Cancelled) };
        let received = map.spare(n);
        let came = look(received);
        let body = usize::try_from(room).unwrap_or(usize::MAX).min(came);
        if !writer.digests.is_empty() {
            writer.digests.update(received.get(..body).unwrap_or_default());
        }
        map.advance(body);
        writer.written += body as u64;
        self.len += body as u64;
        if came > body { Err(Error::BodyTooLong { seen: len + came as u64, limit }) } else { Ok(()) }
    }

    /// The image of all that was pushed. With works left to be done for it, they are done here, and may wait for the
    /// disk. An image of no bytes is in memory. The sink is empty afterwards. A write that failed before is tried once
    /// more; if it fails again, the sink keeps what it has.
    pub fn prepare(&mut self) -> Result<BodyImage> {
        self.failed &= !self.spilled;
        self.run_work(true)?;
        let Some(mut writer) = self.writer.take() else { return Err(Error::Cancelled) };
        self.tail.shrink_to_fit();
        self.close_tail();
        self.pieces.iter().skip(self.digested).for_each(|piece| writer.digests.update(piece));
        writer.map = None;
        let image = match writer.file.take() {
            Some(file) => BodyImage::from_file(file, 0, writer.written),
            None => BodyImage::from_pieces(std::mem::take(&mut self.pieces)).holding(self.ram.take()),
        };
        Ok(image.with_digests(writer.digests.finish()))
    }

    /// The image of what could be kept after a failure: what is in the file, or else in memory. Without digests.
    pub fn salvage(&mut self) -> BodyImage {
        if self.spilled {
            // What can't be written now isn't waited for.
            let _ = self.run_work(true);
        }
        self.close_tail();
        match self.writer.take().and_then(|writer| writer.file.map(|file| (file, writer.written))) {
            Some((file, written)) if written > 0 => BodyImage::from_file(file, 0, written),
            _ => BodyImage::from_pieces(std::mem::take(&mut self.pieces)).holding(self.ram.take()),
        }
    }
}

/// Moves the ranges of a buffer to its front, in order; returns how many bytes they are.
pub fn close_up(buffer: &mut [u8], ranges: &[Range<usize>]) -> usize {
    ranges.iter().fold(0, |end, range| {
        if range.start != end {
            buffer.copy_within(range.clone(), end);
        }
        end + range.len()
    })
}

/// A sink that its works come back to from any thread.
pub type SharedSink = Arc<Mutex<BodySink>>;

/// A work on its way: back with its sink when dropped, whether it ran or not, so that a cancelled write loses nothing.
pub struct Errand {
    sink: SharedSink,
    work: Option<Work>,
}

impl Errand {
    /// The next work of a sink, if it has one.
    pub fn new(sink: &SharedSink, all: bool) -> Option<Self> {
        let work = sink.lock().take_work(all)?;
        Some(Self { sink: sink.clone(), work: Some(work) })
    }

    /// Does the work and brings it back. May wait for the disk.
    pub fn run(mut self) -> Result<()> {
        let Some(mut work) = self.work.take() else { return Ok(()) };
        work.run();
        self.sink.lock().done(work)
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            // Undone, which cannot fail.
            let _ = self.sink.lock().done(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::digest::Algorithm;
    use crate::body::image::State;
    use proptest::prelude::*;

    fn budget() -> Arc<Budget> {
        Budget::new(None, None, None)
    }

    fn tunables(max_body_ram: u64, max_body: u64) -> Arc<Tunables> {
        Arc::new(Tunables { max_body_ram, max_body, digests: vec![Algorithm::Sha256], ..Tunables::default() })
    }

    fn contents(image: &BodyImage) -> Vec<u8> {
        image.read_range(0, u64::MAX).unwrap().to_vec()
    }

    fn sha256(bytes: &[u8]) -> Vec<(Algorithm, String)> {
        let mut digests = Digests::new(&[Algorithm::Sha256]);
        digests.update(bytes);
        digests.finish()
    }

    #[test]
    fn a_body_at_its_limit_in_memory_stays_there_and_one_byte_more_goes_to_a_file() {
        for (extra, is_file) in [(0, false), (1, true)] {
            let mut sink = BodySink::new(tunables(10, 100), budget());
            sink.push_copy(&[7; 10]).unwrap();
            sink.push_copy(&vec![8; extra]).unwrap();
            let image = sink.prepare().unwrap();
            assert_eq!((image.is_file(), image.len()), (is_file, 10 + extra as u64));
        }
    }

    #[test]
    fn a_piece_that_makes_the_body_too_long_is_refused_whole_and_the_rest_is_kept() {
        let mut sink = BodySink::new(tunables(4, 10), budget());
        sink.push_copy(b"0123456789").unwrap();
        let error = sink.push_copy(b"k").unwrap_err();
        assert!(matches!(error, Error::BodyTooLong { seen: 11, limit: 10 }));
        assert_eq!(contents(&sink.salvage()), b"0123456789");
    }

    #[test]
    fn a_body_announced_too_long_is_refused_and_a_large_one_goes_to_a_file_at_once() {
        let announced = |n| BodySink::with_length(tunables(4, 10), budget(), n);
        assert!(matches!(announced(11), Err(Error::ContentLengthTooLong { seen: 11, limit: 10 })));
        assert!(!announced(5).unwrap().is_ram());
        assert!(announced(4).unwrap().is_ram());
    }

    #[test]
    fn writes_are_gathered_whatever_the_size_of_the_pieces() {
        let mut sink = BodySink::new(tunables(0, 1 << 30), budget());
        for _ in 0..1024 {
            sink.push(Bytes::from(vec![1; 8192])).unwrap();
            sink.run_work(false).unwrap();
        }
        assert_eq!(sink.write_calls(), (1024 * 8192) / GATHER);
        assert_eq!(sink.prepare().unwrap().len(), 1024 * 8192);
    }

    #[test]
    fn an_exhausted_budget_spills() {
        let budget = Budget::new(Some(6), None, None);
        let mut sink = BodySink::new(tunables(100, 100), budget.clone());
        sink.push_copy(b"12345").unwrap();
        assert!(sink.is_ram());
        sink.push_copy(b"67").unwrap();
        assert!(!sink.is_ram());
        let image = sink.prepare().unwrap();
        assert_eq!((contents(&image), image.is_file()), (b"1234567".to_vec(), true));
        assert_eq!(budget.meter(Resource::Ram).used(), 0);
    }

    #[test]
    fn memory_counts_until_the_last_image_is_dropped() {
        let budget = budget();
        let mut sink = BodySink::new(tunables(100, 100), budget.clone());
        sink.push_copy(b"12345").unwrap();
        let image = sink.prepare().unwrap();
        let copy = image.clone();
        drop((sink, image));
        assert_eq!(budget.meter(Resource::Ram).used(), 5);
        drop(copy);
        assert_eq!(budget.meter(Resource::Ram).used(), 0);
    }

    #[test]
    fn a_work_that_was_never_run_is_undone() {
        for max_body_ram in [0, 1 << 20] {
            let mut sink = BodySink::new(tunables(max_body_ram, 1 << 20), budget());
            let sent = vec![7; 300_000];
            sink.push_copy(&sent[..200_000]).unwrap();
            let work = sink.take_work(true).unwrap();
            assert!(sink.is_busy() && sink.take_work(true).is_none());
            sink.push_copy(&sent[200_000..]).unwrap();
            sink.done(work).unwrap();
            let image = sink.prepare().unwrap();
            assert!(contents(&image) == sent);
            assert_eq!(image.digests(), &sha256(&sent)[..]);
        }
    }

    #[test]
    fn a_small_body_in_memory_is_digested_without_a_work() {
        let mut sink = BodySink::new(tunables(100, 100), budget());
        sink.push_copy(b"abc").unwrap();
        assert!(!sink.has_work(true) && sink.take_work(true).is_none());
        assert_eq!(sink.prepare().unwrap().digests(), &sha256(b"abc")[..]);
    }

    #[test]
    fn a_failed_write_back_keeps_the_body_in_memory() {
        let tunables = Tunables { max_body_ram: 2, temp_dir: Some("/nonexistent".into()), ..Tunables::default() };
        let mut sink = BodySink::new(Arc::new(tunables), budget());
        sink.push_copy(b"abc").unwrap();
        assert!(matches!(sink.run_work(true), Err(Error::TempDir { .. })));
        assert!(sink.has_failed());
        assert_eq!(contents(&sink.salvage()), b"abc");
    }

    #[test]
    fn what_is_written_through_follows_what_was_pushed() {
        let mut sink = BodySink::new(tunables(100, 100), budget());
        sink.push_copy(b"ab").unwrap();
        sink.write_through(&mut [IoSlice::new(b"cd"), IoSlice::new(b""), IoSlice::new(b"e")]).unwrap();
        let image = sink.prepare().unwrap();
        assert_eq!((contents(&image), image.digests()), (b"abcde".to_vec(), &sha256(b"abcde")[..]));
        assert!(matches!(image.state(), State::File { .. }));
    }

    #[test]
    fn one_byte_pieces_hold_little_more_than_the_bytes() {
        let mut sink = BodySink::new(tunables(1 << 20, 1 << 20), budget());
        for i in 0..(1 << 20) {
            sink.push(Bytes::copy_from_slice(&[i as u8])).unwrap();
        }
        let image = sink.prepare().unwrap();
        let State::Ram(pieces) = image.state() else { panic!("in memory") };
        assert!(pieces.len() < 64, "{}", pieces.len());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(Vec<u8>),
        Copy(Vec<u8>),
        Spill,
        Work(bool),
        TakeAndForget(bool),
        Through(Vec<u8>),
        Compact(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..9000);
        prop_oneof![
            bytes().prop_map(Step::Push),
            bytes().prop_map(Step::Copy),
            Just(Step::Spill),
            any::<bool>().prop_map(Step::Work),
            any::<bool>().prop_map(Step::TakeAndForget),
            bytes().prop_map(Step::Through),
            (0usize..6).prop_map(Step::Compact),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_is_done_the_image_is_what_was_pushed(steps in prop::collection::vec(step(), 0..24), ram in 0u64..40_000) {
            const MOST: usize = 60_000;
            let mut model = Vec::new();
            let mut sink = BodySink::new(tunables(ram, MOST as u64), budget());
            for step in steps {
                let (bytes, result) = match step {
                    Step::Push(bytes) => (bytes.clone(), sink.push(bytes.into())),
                    Step::Copy(bytes) => { let r = sink.push_copy(&bytes); (bytes, r) }
                    Step::Through(bytes) => { let r = sink.write_through(&mut [IoSlice::new(&bytes)]); (bytes, r) }
                    Step::Spill => { sink.spill(); continue }
                    Step::Work(all) => { sink.run_work(all).unwrap(); continue }
                    Step::TakeAndForget(all) => { if let Some(work) = sink.take_work(all) { sink.done(work).unwrap() } continue }
                    Step::Compact(from) => { if sink.is_ram() && from < sink.pieces() { sink.compact(from).unwrap() } continue }
                };
                let fits = model.len() + bytes.len() <= MOST;
                prop_assert_eq!(fits, result.is_ok());
                if fits { model.extend_from_slice(&bytes); }
                prop_assert_eq!(sink.len(), model.len() as u64);
            }
            let image = sink.prepare().unwrap();
            prop_assert_eq!(contents(&image), &model[..]);
            prop_assert_eq!(image.digests(), &sha256(&model)[..]);
            prop_assert!(model.len() as u64 <= ram || model.is_empty() || image.is_file());
        }
    }
}
