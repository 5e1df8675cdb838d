//! Mappings of body files: read-only ones of images, and writable ones that recycled files keep. May hold `unsafe`: it
//! maps, and lends what it mapped as slices.
//!
//! The invariant: while a mapping lives, the file below is not truncated, and what has been lent as a shared slice is not
//! written to. A temporary file has no name, so nobody else can, and its sink writes only behind what it has written; a file
//! from outside is only mapped by callers who promise it (`trusted`).

#![allow(unsafe_code)]

use super::file::BodyFile;
use super::reaper;
use super::slab::Window;
use crate::{Error, Result};
#[cfg(target_os = "linux")]
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory, valid until dropped on whichever thread.
unsafe impl Send for Mapping {}
// SAFETY: what is shared is read; only the one `MapWriter` of a `SharedMap` writes, where nobody has a view.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `Map::new` or `SharedMap::new`, and this is its only owner.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A file of our own mapped to be written to, from its start; kept with the file from body to body.
pub struct SharedMap(Mapping);

impl SharedMap {
    pub(super) fn new(file: &impl AsFd, len: u64) -> std::io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| std::io::ErrorKind::FileTooLarge)?;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing; the file is ours and has no name.
        let base = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0)?
        };
        let base = NonNull::new(base.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self(Mapping { base, len }))
    }

    pub fn len(&self) -> usize {
        self.0.len
    }
}

/// A frozen range of a [`SharedMap`], with the file that it belongs to: the owner behind a `Bytes`.
pub(super) struct SharedRange {
    map: Arc<SharedMap>,
    offset: usize,
    len: usize,
    /// Kept so that the file isn't recycled.
    _file: Arc<BodyFile>,
}

impl SharedRange {
    /// Of a file that has a mapping for all of the range, and may be looked at through it.
    pub fn of(file: &Arc<BodyFile>, offset: u64, len: u64) -> Option<Self> {
        let map = file.shared_map(offset, len).filter(|_| file.claim_map())?.clone();
        Some(Self { map, offset: offset as usize, len: len as usize, _file: file.clone() })
    }

    /// Whether it can be looked at without waiting for the disk.
    pub fn is_resident(&self) -> bool {
        is_resident(self.as_ref())
    }

    /// Reads it in. Waits for the disk.
    pub fn populate(&self) -> Result<()> {
        populate(self.as_ref())
    }
}

/// The whole pages around a slice: address and length.
#[cfg(target_os = "linux")]
fn pages(slice: &[u8]) -> (*mut std::ffi::c_void, usize) {
    let page = rustix::param::page_size();
    let skip = slice.as_ptr().addr() % page;
    let start = slice.as_ptr().wrapping_sub(skip).cast_mut().cast();
    (start, (skip + slice.len()).next_multiple_of(page))
}

/// Whether all pages of a mapped slice are in memory: mincore(2).
#[cfg(target_os = "linux")]
fn is_resident(slice: &[u8]) -> bool {
    let (start, len) = pages(slice);
    let mut found = vec![0u8; len / rustix::param::page_size()];
    // SAFETY: `found` has a byte for each of the pages, and they are only asked about.
    let asked = unsafe { libc::mincore(start, len, found.as_mut_ptr()) };
    asked == 0 && found.iter().all(|page| page & 1 == 1)
}

#[cfg(not(target_os = "linux"))]
fn is_resident(_: &[u8]) -> bool {
    false
}

/// Has all pages of a mapped slice in memory, and in this process's page table. What can't be read is an error, where the
/// kernel tells.
fn populate(slice: &[u8]) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        let (start, len) = pages(slice);
        // SAFETY: only advice on pages of a mapping of ours; an unsupported one changes nothing.
        match unsafe { rustix::mm::madvise(start, len, Advice::LinuxPopulateRead) } {
            Ok(()) => return Ok(()),
            // To touch such a page would end the process (SIGBUS).
            Err(Errno::FAULT | Errno::HWPOISON) => return Err(Error::io("read in a mapped body")(Errno::IO)),
            Err(_) => {}
        }
    }
    // Before Linux 5.14 and elsewhere: touch each page, the last of which may begin less than a page before the end.
    let each = slice.iter().step_by(rustix::param::page_size());
    let touched = each.chain(slice.last()).fold(0u8, |sum, byte| sum ^ byte);
    std::hint::black_box(touched);
    Ok(())
}

impl AsRef<[u8]> for SharedRange {
    fn as_ref(&self) -> &[u8] {
        let len = self.len.min(self.map.len().saturating_sub(self.offset));
        // SAFETY: within the mapping; written before the image was made, and not again before its file is recycled,
        // which `_file` prevents.
        unsafe { std::slice::from_raw_parts(self.map.0.base.as_ptr().add(self.offset), len) }
    }
}

/// The only writer of a recycled file's mapping; `[0, filled)` is the body so far.
pub struct MapWriter {
    map: Arc<SharedMap>,
    filled: usize,
}

impl MapWriter {
    pub(super) fn new(map: Arc<SharedMap>) -> Self {
        Self { map, filled: 0 }
    }

    pub fn spare_len(&self) -> usize {
        self.map.len() - self.filled
    }

    /// Has the body go on from `at`: what was taken in behind that is spare again.
    pub(super) fn rewind(&mut self, at: u64) {
        self.filled = self.filled.min(usize::try_from(at).unwrap_or(usize::MAX));
    }

    /// What can be received into, `most` bytes of it.
    pub fn spare(&mut self, most: usize) -> &mut [u8] {
        let len = most.min(self.spare_len());
        // SAFETY: within the mapping; `&mut self` of its only writer, and no image has a view of what isn't filled.
        unsafe { std::slice::from_raw_parts_mut(self.map.0.base.as_ptr().add(self.filled), len) }
    }

    /// Says that `n` bytes of `spare` belong to the body now.
    pub fn advance(&mut self, n: usize) {
        self.filled += n.min(self.spare_len());
    }

    /// The first `len` spare bytes for a receiver that this crate doesn't know.
    pub fn window(&self, len: usize) -> Window {
        // SAFETY: `filled` lies within the mapping.
        let base = unsafe { self.map.0.base.as_ptr().add(self.filled) };
        Window::new(base, len.min(self.spare_len()), self.map.clone())
    }
}

/// `[offset, offset + len)` of a file, mapped and populated.
pub struct Map {
    /// `None` for a map of nothing (which the kernel refuses) and while dropping.
    mapping: Option<Mapping>,
    /// Bytes before the range: a mapping starts at a page.
    skip: usize,
    len: usize,
    _file: Arc<BodyFile>,
}

impl Map {
    /// Maps and reads in, unless the file has become shorter. Waits for the disk: not for a loop's thread.
    pub fn new(file: &Arc<BodyFile>, offset: u64, len: u64) -> Result<Self> {
        let too_large = || Error::setting("length", len, "more than can be mapped");
        let skip = offset % rustix::param::page_size() as u64;
        let total = usize::try_from(skip + len).map_err(|_| too_large())?;
        let (skip, len) = (skip as usize, len as usize);
        if len == 0 {
            return Ok(Self { mapping: None, skip: 0, len: 0, _file: file.clone() });
        }
        let left = file.look_again()?.saturating_sub(offset);
        if left < len as u64 {
            return Err(Error::Truncated { received: left, expected: Some(len as u64) });
        }
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing; see the module's invariant for
        // what lies below it.
        let base = unsafe {
            let start = offset - skip as u64;
            rustix::mm::mmap(ptr::null_mut(), total, ProtFlags::READ, MapFlags::SHARED, file, start)
        };
        let base = base.map_err(Error::io("map a body's file"))?;
        let Some(base) = NonNull::new(base.cast()) else { return Err(too_large()) };
        let map = Self { mapping: Some(Mapping { base, len: total }), skip, len, _file: file.clone() };
        // SAFETY: only advice on our own mapping; an unsupported one changes nothing.
        unsafe {
            let _ = rustix::mm::madvise(base.as_ptr().cast(), total, Advice::Sequential);
        }
        populate(map.as_ref())?;
        Ok(map)
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        let Some(mapping) = &self.mapping else { return &[] };
        // SAFETY: `skip + len` is the mapping's length, and the file below stays as it is (the module's invariant).
        unsafe { std::slice::from_raw_parts(mapping.base.as_ptr().add(self.skip), self.len) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            reaper::drop_large(mapping.len as u64, mapping);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::testing::Place;

    #[test]
    fn what_cannot_be_read_in_is_an_error_and_not_the_end_of_the_process() {
        let path = Place::new();
        let size = 3 * rustix::param::page_size();
        std::fs::write(&path, vec![1; size]).unwrap();
        let file = Arc::new(BodyFile::external(&path, true).unwrap());
        let map = Map::new(&file, 0, size as u64).unwrap();
        let (start, len) = pages(map.as_ref());
        // SAFETY: only advice on a mapping of ours.
        let can_tell = unsafe { rustix::mm::madvise(start, len, Advice::LinuxPopulateRead) }.is_ok();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(1).unwrap();
        // As a disk that fails; before Linux 5.14 that can't be told.
        if can_tell {
            assert!(matches!(populate(map.as_ref()), Err(Error::Io { .. })));
        }
        let cut = Map::new(&file, 10, size as u64 - 10).map(drop);
        assert!(matches!(cut, Err(Error::Truncated { received: 0, expected: Some(_) })));
    }
}
