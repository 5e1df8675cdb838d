//! Collects a body: in memory until it is larger than `max_body_ram` or the budget has no more, then in a file.
//!
//! The sink itself never waits for a disk. `push` takes bytes; what must be written, or is too much to be digested by
//! the way, is handed out as a [`Work`], which the sink's owner runs on the thread of its choice and brings back. A
//! sink has at most one work out, so order is kept with any number of threads.

use super::budget::{Budget, Lease};
use super::digest::Digests;
use super::filepool::FilePool;
use super::image::BodyImage;
use super::mmap::MapWriter;
use super::pools::Pools;
use super::slab::{self, Window};
use super::tunables::Tunables;
use super::writer::{UNWRITTEN_CAP, Unwritten, Work, Writer, unwritten};
use crate::{Error, Resource, Result};
use bytes::Bytes;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

/// Writes are gathered to this many bytes: one call for each piece received is what made upstream's files slow.
pub const GATHER: u64 = 256 << 10;

/// Pieces smaller than this are moved together: keeping track of one costs as much as a few dozen bytes.
pub const SMALL_PIECE: usize = 4 << 10;

/// With more than this unwritten while a work is out, a sink's owner should stop receiving for it.
const CROWDED: u64 = 1 << 20;

/// What is digested by the way; more is a work.
const DIGEST_INLINE: u64 = 64 << 10;

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
    /// It never spills.
    in_ram_only: bool,
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
            in_ram_only: false,
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

    /// Has the body stay in memory, whatever its length, for who [takes its pieces](Self::take_pieces) as they come. What
    /// there is no budget for counts over the limit: whoever brings it looks at the budget before. To be called before
    /// anything is pushed.
    pub fn stay_in_ram(&mut self) {
        self.in_ram_only = true;
        self.spilled = false;
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

    /// Whether a work is out.
    pub fn is_busy(&self) -> bool {
        self.writer.is_none()
    }

    /// Bytes that the next work would write or digest.
    pub fn work_size(&self) -> u64 {
        self.unwritten.0.max(self.undigested_bytes)
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

    /// Whether `n` more bytes can be taken at all.
    fn admit(&self, n: u64) -> Result<()> {
        if self.failed {
            return Err(Error::SinkFailed);
        }
        if n > self.room() {
            return Err(Error::BodyTooLong { seen: self.len + n, limit: self.tunables.max_body });
        }
        Ok(())
    }

    fn account(&mut self, n: u64) -> Result<()> {
        self.admit(n)?;
        let unpaid = n.saturating_sub(self.prepaid);
        if self.in_ram_only {
            self.ram.set(self.ram.amount() + unpaid);
        } else if !self.spilled && (self.len + n > self.tunables.max_body_ram || self.ram.grow(unpaid).is_err()) {
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
        let total: usize = parts.clone().map(<[u8]>::len).sum();
        if total >= slab::SMALLEST {
            // Counted once it is there.
            self.admit(total as u64)?;
            return self.push(slab::gather(&Pools::current().slabs, parts)?);
        }
        self.account(total as u64)?;
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

    /// Takes the budget for memory that the body's next bytes are received into; without it the body spills, if it may.
    pub fn prepay(&mut self, bytes: u64) {
        if self.spilled {
            return;
        }
        if self.in_ram_only {
            self.ram.set(self.ram.amount() + bytes);
        } else if self.ram.grow(bytes).is_err() {
            return self.spill();
        }
        self.prepaid += bytes;
    }

    /// Whether so much more would be over the budget, which a body that stays in memory takes all the same.
    pub fn lacks(&self, more: u64) -> bool {
        self.in_ram_only && self.ram.lacks(more)
    }

    /// The body is complete in memory: it holds so many bytes, or as many as it is long.
    pub fn settle(&mut self, held: u64) {
        self.prepaid = 0;
        if !self.spilled {
            self.ram.set(held.max(self.len).min(self.ram.amount()));
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
        // It won't fill up any more, and may be kept for long.
        self.tail.shrink_to_fit();
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
        let whole = slab::gather(&Pools::current().slabs, parts)?;
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

    /// Makes a write that failed the next work once more.
    pub fn retry(&mut self) {
        self.failed &= !self.spilled;
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
        let Some(writer) = &mut self.writer else { return Err(work_is_out()) };
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
        let Some(writer) = &mut self.writer else { return Err(work_is_out()) };
        let Some(map) = &mut writer.map else { return Err(Error::internal("no mapping was received into")) };
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
        self.retry();
        self.run_work(true)?;
        let Some(mut writer) = self.writer.take() else { return Err(work_is_out()) };
        self.tail.shrink_to_fit();
        self.close_tail();
        self.pieces.iter().skip(self.digested).for_each(|piece| writer.digests.update(piece));
        writer.map = None;
        // A file that was made, and that nothing could be written to, isn't where the body is.
        let image = match writer.file.take().filter(|_| self.spilled) {
            Some(file) => BodyImage::from_file(file, 0, writer.written).in_pieces(self.tunables.buffer_size_fs),
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
            Some((file, written)) if written > 0 => {
                BodyImage::from_file(file, 0, written).in_pieces(self.tunables.buffer_size_fs)
            }
            _ => BodyImage::from_pieces(std::mem::take(&mut self.pieces)).holding(self.ram.take()),
        }
    }
}

/// Who runs works elsewhere waits until they are back.
fn work_is_out() -> Error {
    Error::internal("a work of the sink is out")
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

#[cfg(test)]
mod tests;
