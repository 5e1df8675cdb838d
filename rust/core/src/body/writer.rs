//! The part of a sink that writes and digests: it goes along with a [`Work`] to whichever thread does it.

use super::budget::{Budget, Lease};
use super::digest::Digests;
use super::file::{BodyFile, default_temp_dir};
use super::filepool::FilePool;
use super::mmap::MapWriter;
use super::pools::Pools;
use super::tunables::Tunables;
use crate::{Error, Result};
use bytes::Bytes;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Above this many bytes handed to sinks and not yet written, of all sinks together, each writes what it has.
pub(super) const UNWRITTEN_CAP: u64 = 32 << 20;
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

/// A share of [`UNWRITTEN`].
#[derive(Default)]
pub(super) struct Unwritten(pub(super) u64);

impl Unwritten {
    pub fn add(&mut self, n: u64) {
        self.0 += n;
        UNWRITTEN.fetch_add(n, Relaxed);
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        // A forked child drops some that it doesn't count.
        let _ = UNWRITTEN.fetch_update(Relaxed, Relaxed, |all| Some(all.saturating_sub(self.0)));
    }
}

/// In a forked child: what the parent's threads were about to write would count here for ever.
pub(super) fn forget_unwritten() {
    UNWRITTEN.store(0, Relaxed);
}

/// Bytes handed to sinks and not yet written, of all sinks of the process.
pub fn unwritten() -> u64 {
    UNWRITTEN.load(Relaxed)
}

/// The part of a sink that goes along with its work.
pub(super) struct Writer {
    pub(super) tunables: Arc<Tunables>,
    pub(super) budget: Arc<Budget>,
    pub(super) files: Option<Arc<FilePool>>,
    /// The announced length, for the choice of a recycled file.
    pub(super) length: Option<u64>,
    /// Of a file that isn't made yet.
    pub(super) descriptor: Option<Lease>,
    /// Of a recycled file. Dropped before that, which isn't recycled again while somebody may write to it.
    pub(super) map: Option<MapWriter>,
    pub(super) file: Option<Arc<BodyFile>>,
    pub(super) written: u64,
    pub(super) calls: u64,
    pub(super) digests: Digests,
}

impl Writer {
    /// The file, made at first need.
    pub fn open(&mut self) -> Result<Arc<BodyFile>> {
        if let Some(file) = self.file.as_ref().filter(|file| !file.is_inherited()) {
            return Ok(file.clone());
        }
        let dir = self.tunables.temp_dir.clone().unwrap_or_else(default_temp_dir);
        let recycled = self.files.as_ref().and_then(|files| files.take(&dir, self.length, &self.budget));
        let (file, map) = match (recycled, self.descriptor.take()) {
            (Some(recycled), _) => recycled,
            (None, Some(descriptor)) => {
                (BodyFile::temporary_with(&dir, &self.budget, descriptor, self.files.clone())?, None)
            }
            (None, None) => {
                let made = || BodyFile::temporary(&dir, &self.budget, self.files.clone());
                (before_idle_files(&self.budget, made)?, None)
            }
        };
        self.map = map;
        if let Some(inherited) = &self.file {
            // The parent goes on writing to that file: what it has of this body comes along.
            file.copy_from(inherited, self.written)?;
        }
        Ok(self.file.insert(Arc::new(file)).clone())
    }

    /// Writes slices behind what is written: copied to the mapping as far as that goes, else by the kernel.
    pub fn write(&mut self, mut slices: &mut [IoSlice<'_>]) -> Result<()> {
        let file = self.open()?;
        let total: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        before_idle_files(&self.budget, || file.reserve(self.written + total))?;
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

/// What needs some of the budget, which idle files give up for it one by one.
fn before_idle_files<T>(budget: &Arc<Budget>, take: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        match take() {
            Err(Error::BudgetExceeded { resource, .. }) if Pools::current().give_up(budget, resource) => {}
            done => return done,
        }
    }
}

/// Bytes to be written, or only digested; run once on any thread, then brought back by
/// [`BodySink::done`](super::BodySink::done).
pub struct Work {
    pub(super) writer: Writer,
    pub(super) pieces: Vec<Bytes>,
    /// Pieces before this one are digested already.
    pub(super) undigested: usize,
    pub(super) to_file: bool,
    pub(super) unwritten: Unwritten,
    pub(super) ram: Lease,
    pub(super) result: Option<Result<()>>,
}

impl Work {
    /// Writes and digests. May wait for the disk. What failed is told by
    /// [`BodySink::done`](super::BodySink::done).
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
