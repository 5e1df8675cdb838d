//! Slabs: the memory that bodies are received into. Anonymous mappings in size classes, aligned to huge pages where
//! they are that large, and recycled through free lists, because a fresh page costs a fault and a zeroing each 4 KiB,
//! more than the copy that follows. A slab belongs to one body; what of it has been received is frozen into `Bytes`
//! that keep it alive, and the last of them gives it back.
//!
//! This module may hold `unsafe`: it maps the memory and is alone in writing to it. The invariant is that a byte is
//! written only by the one [`SlabWriter`] of its slab and only before it is frozen.

#![allow(unsafe_code)]

use super::reaper;
use crate::fork::Origin;
use crate::sync::Mutex;
use crate::{Error, Result};
use bytes::Bytes;
use rustix::mm::{MapFlags, ProtFlags};
use std::any::Any;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The largest window that a socket is received into, and the size of the slabs that bodies start with: larger
/// windows are no faster and make the loop's turns longer.
pub const WINDOW: usize = 256 << 10;

/// The smallest slab; what is smaller goes to the heap.
pub(crate) const SMALLEST: usize = 64 << 10;

const PAGE: usize = 4 << 10;
const HUGE_PAGE: usize = 2 << 20;

/// Idle slabs are kept for the next body up to this many bytes and for this long.
pub(super) const IDLE_CAP: usize = 256 << 20;
pub(super) const IDLE_AGE: Duration = Duration::from_secs(10);

/// Rounds up to a size class: eight to a doubling, so that at most an eighth is wasted.
fn class_size(bytes: usize) -> usize {
    let bytes = bytes.max(SMALLEST);
    let step = (bytes.checked_next_power_of_two().unwrap_or(bytes) / 16).max(PAGE);
    bytes.next_multiple_of(step)
}

/// A mapping of our own; unmapped when dropped.
struct Region {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: a region is plain memory; who may touch it is decided by its owner, not by a thread.
unsafe impl Send for Region {}
// SAFETY: as above; shared access only hands out the base address.
unsafe impl Sync for Region {}

impl Region {
    fn map(size: usize) -> rustix::io::Result<Self> {
        let align = if size >= HUGE_PAGE { HUGE_PAGE } else { PAGE };
        let spare = align - PAGE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), size + spare, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        let lead = start.cast::<u8>().align_offset(align);
        // SAFETY: `lead < align`, so base and the trimmed ends lie inside the mapping just made, which nobody else
        // knows. Both ends begin at a page, as `start`, `align` and a `size` above a huge page are multiples of it; where the
        // kernel's pages are larger than `PAGE`, it rounds lengths up, that of the mapping likewise.
        unsafe {
            let base = start.cast::<u8>().add(lead);
            if lead > 0 {
                rustix::mm::munmap(start, lead)?;
            }
            if spare > lead {
                rustix::mm::munmap(base.add(size).cast(), spare - lead)?;
            }
            #[cfg(target_os = "linux")]
            if align == HUGE_PAGE {
                // Only advice: a kernel without huge pages gives small ones.
                let _ = rustix::mm::madvise(base.cast(), size, rustix::mm::Advice::LinuxHugepage);
            }
            Ok(Self { base: NonNull::new_unchecked(base), size })
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever owned the region had the last reference into it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.size) };
    }
}

struct Idle {
    region: Region,
    since: Instant,
}

/// Figures of a pool, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlabStats {
    /// In slabs that bodies hold.
    pub lent: u64,
    /// In slabs kept for the next body.
    pub idle: u64,
    /// Slabs given out that had been used before, in number.
    pub recycled: u64,
    /// Slabs given out that were newly mapped, in number.
    pub mapped: u64,
}

/// Free lists of slabs. One serves the process; tests make their own.
pub struct SlabPool {
    free: Mutex<BTreeMap<usize, Vec<Idle>>>,
    /// Bytes in `free`, or about to be: counted before a slab is put there, and off after it was taken out, so never below 0.
    /// Threads that give back at once may go past the cap, each by a slab.
    idle: AtomicUsize,
    idle_cap: usize,
    lent: AtomicU64,
    recycled: AtomicU64,
    mapped: AtomicU64,
    /// A forked child leaves the free lists alone: their lock may be held for ever there, and the memory is shared with the
    /// parent until written.
    origin: Origin,
}

impl SlabPool {
    pub fn new(idle_cap: usize) -> Self {
        Self {
            free: Mutex::new(BTreeMap::new()),
            idle: AtomicUsize::new(0),
            idle_cap,
            lent: AtomicU64::new(0),
            recycled: AtomicU64::new(0),
            mapped: AtomicU64::new(0),
            origin: Origin::here(),
        }
    }

    /// A slab of at least `bytes`, its contents anybody's.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<SlabWriter> {
        let size = class_size(bytes);
        let recycled = if self.origin.is_ancestor() {
            None
        } else {
            let mut free = self.free.lock();
            free.get_mut(&size).and_then(Vec::pop)
        };
        let region = match recycled {
            Some(idle) => {
                self.idle.fetch_sub(size, Relaxed);
                self.recycled.fetch_add(1, Relaxed);
                idle.region
            }
            None => {
                let region = Region::map(size).map_err(Error::io("map memory for a body"))?;
                self.mapped.fetch_add(1, Relaxed);
                region
            }
        };
        self.lent.fetch_add(size as u64, Relaxed);
        let slab = Arc::new(Slab { region: ManuallyDrop::new(region), pool: self.clone() });
        Ok(SlabWriter { slab, frozen: 0, filled: 0 })
    }

    fn give_back(&self, region: Region) {
        let size = region.size;
        self.lent.fetch_sub(size as u64, Relaxed);
        if self.origin.is_ancestor() || self.idle.load(Relaxed) + size > self.idle_cap {
            return reaper::drop_large(size as u64, region);
        }
        self.idle.fetch_add(size, Relaxed);
        self.free.lock().entry(size).or_default().push(Idle { region, since: Instant::now() });
        reaper::trim_later();
    }

    /// Unmaps what has been idle for `age`; true if anything is still idle. May take long: not for a loop's thread.
    pub fn trim(&self, age: Duration) -> bool {
        let mut old = Vec::new();
        {
            let mut free = self.free.lock();
            for list in free.values_mut() {
                // A list is a stack, so its oldest are in front.
                let keep_from = list.iter().position(|idle| idle.since.elapsed() < age).unwrap_or(list.len());
                old.extend(list.drain(..keep_from));
            }
            free.retain(|_, list| !list.is_empty());
        }
        self.idle.fetch_sub(old.iter().map(|idle| idle.region.size).sum(), Relaxed);
        drop(old);
        self.idle.load(Relaxed) > 0
    }

    pub fn stats(&self) -> SlabStats {
        SlabStats {
            lent: self.lent.load(Relaxed),
            idle: self.idle.load(Relaxed) as u64,
            recycled: self.recycled.load(Relaxed),
            mapped: self.mapped.load(Relaxed),
        }
    }
}

struct Slab {
    region: ManuallyDrop<Region>,
    pool: Arc<SlabPool>,
}

impl Slab {
    fn base(&self) -> *mut u8 {
        self.region.base.as_ptr()
    }

    fn size(&self) -> usize {
        self.region.size
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: taken once, here, and never looked at again.
        self.pool.give_back(unsafe { ManuallyDrop::take(&mut self.region) });
    }
}

/// A frozen range of a slab, as the owner behind a `Bytes`.
struct Frozen {
    slab: Arc<Slab>,
    start: usize,
    len: usize,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range lies within the slab (made by `SlabWriter::freeze`), was initialised (anonymous mappings
        // are zeroed), and is never written again while this reference to the slab lives.
        unsafe { std::slice::from_raw_parts(self.slab.base().add(self.start), self.len) }
    }
}

/// The only writer of a slab: `[0, frozen)` has been given out, `[frozen, filled)` received, the rest is spare.
pub struct SlabWriter {
    slab: Arc<Slab>,
    frozen: usize,
    filled: usize,
}

impl SlabWriter {
    pub fn capacity(&self) -> usize {
        self.slab.size()
    }

    pub fn spare_len(&self) -> usize {
        self.capacity() - self.filled
    }

    /// Whether nothing was received yet, so that the slab can still go to any body.
    pub fn is_untouched(&self) -> bool {
        self.filled == 0
    }

    /// What can be received into.
    pub fn spare(&mut self) -> &mut [u8] {
        // SAFETY: `filled <= size`; nothing frozen lies there and `&mut self` makes this the only reference. Bytes
        // there are initialised: the mapping is anonymous.
        unsafe { std::slice::from_raw_parts_mut(self.slab.base().add(self.filled), self.spare_len()) }
    }

    /// Says that `n` bytes of `spare` were received; more than there are count as all.
    pub fn advance(&mut self, n: usize) {
        self.filled += n.min(self.spare_len());
    }

    /// What was received and not yet frozen, to be looked at or moved.
    pub fn received(&mut self) -> &mut [u8] {
        // SAFETY: as for `spare`: `frozen <= filled <= size`, and nothing frozen lies in the range.
        unsafe { std::slice::from_raw_parts_mut(self.slab.base().add(self.frozen), self.filled - self.frozen) }
    }

    /// Keeps only the first `n` of the bytes received and not frozen; the others' room is spare again.
    pub fn truncate(&mut self, n: usize) {
        self.filled = self.frozen + n.min(self.filled - self.frozen);
    }

    /// Makes what was received immutable and shareable; it keeps the slab alive.
    pub fn freeze(&mut self) -> Bytes {
        let (start, len) = (self.frozen, self.filled - self.frozen);
        self.frozen = self.filled;
        Bytes::from_owner(Frozen { slab: self.slab.clone(), start, len })
    }

    /// Begins anew at the slab's start, if nothing that was frozen is alive.
    pub fn reset(&mut self) -> bool {
        let alone = Arc::get_mut(&mut self.slab).is_some();
        if alone {
            (self.frozen, self.filled) = (0, 0);
        }
        alone
    }

    /// A window over the first `len` spare bytes for a receiver that this crate doesn't know (a transport).
    pub fn window(&self, len: usize) -> Window {
        // SAFETY: `filled` lies within the slab.
        let base = unsafe { self.slab.base().add(self.filled) };
        Window { base, len: len.min(self.spare_len()), _owner: self.slab.clone() }
    }
}

/// Memory for bytes whose number is known before: on the heap if they are few.
pub enum Room {
    /// Empty until it is asked for.
    Heap(Vec<u8>, usize),
    Slab(SlabWriter, usize),
}

impl Room {
    pub fn new(slabs: &Arc<SlabPool>, size: usize) -> Result<Self> {
        if size < SMALLEST { Ok(Self::Heap(Vec::new(), size)) } else { Ok(Self::Slab(slabs.take(size)?, size)) }
    }

    /// All of it, to be filled.
    pub fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(bytes, size) => {
                bytes.resize(*size, 0);
                bytes
            }
            Self::Slab(writer, size) => writer.spare().get_mut(..*size).unwrap_or_default(),
        }
    }

    /// Fills all of it with `from`, which is as long.
    pub fn copy(&mut self, mut from: &[u8]) {
        match self {
            Self::Heap(bytes, _) => bytes.extend_from_slice(from),
            Self::Slab(..) => {
                let _ = from.read_exact(self.bytes());
            }
        }
    }

    /// The first `len` bytes of it as a value.
    pub fn freeze(self, len: usize) -> Bytes {
        match self {
            Self::Heap(mut bytes, _) => {
                bytes.truncate(len);
                bytes.into()
            }
            Self::Slab(mut writer, size) => {
                writer.advance(len.min(size));
                writer.freeze()
            }
        }
    }
}

/// Spare bytes of a slab or a mapping lent out as an address: what they are part of isn't recycled for as long as it
/// lives. Who holds it may write there until the bytes are frozen, and promises not to afterwards.
#[derive(Clone)]
pub struct Window {
    base: *mut u8,
    len: usize,
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: an address, and the owner of what lies there; who writes is agreed between lender and borrower.
unsafe impl Send for Window {}
// SAFETY: as above; sharing it gives nothing but the address.
unsafe impl Sync for Window {}

impl Window {
    /// `owner` keeps `len` bytes at `base` alive.
    pub(super) fn new(base: *mut u8, len: usize, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { base, len, _owner: owner }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.base
    }
}

/// Copies parts into one contiguous buffer of their size: the heap for small ones, a recycled slab for large ones.
pub fn gather<'a>(pool: &Arc<SlabPool>, parts: impl Iterator<Item = &'a [u8]> + Clone) -> Result<Bytes> {
    let total = parts.clone().map(<[u8]>::len).sum();
    if total < SMALLEST {
        let mut buffer = Vec::with_capacity(total);
        parts.for_each(|part| buffer.extend_from_slice(part));
        return Ok(buffer.into());
    }
    let mut writer = pool.take(total)?;
    for part in parts {
        if let Some((room, _)) = writer.spare().split_at_mut_checked(part.len()) {
            room.copy_from_slice(part);
        }
        writer.advance(part.len());
    }
    Ok(writer.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool() -> Arc<SlabPool> {
        Arc::new(SlabPool::new(IDLE_CAP))
    }

    fn receive(writer: &mut SlabWriter, bytes: &[u8]) -> Bytes {
        writer.spare()[..bytes.len()].copy_from_slice(bytes);
        writer.advance(bytes.len());
        writer.freeze()
    }

    #[test]
    fn a_slab_is_recycled_only_when_the_last_slice_is_gone() {
        let pool = pool();
        let mut writer = pool.take(WINDOW).unwrap();
        let (a, b) = (receive(&mut writer, b"abc"), receive(&mut writer, b"defg"));
        drop(writer);
        drop(a);
        assert_eq!((pool.stats().lent, pool.stats().idle), (WINDOW as u64, 0));
        assert_eq!(&b[..], b"defg");
        drop(b);
        assert_eq!((pool.stats().lent, pool.stats().idle), (0, WINDOW as u64));
        drop(pool.take(WINDOW).unwrap());
        assert_eq!((pool.stats().recycled, pool.stats().mapped), (1, 1));
    }

    #[test]
    fn a_window_keeps_its_slab_from_being_recycled() {
        let pool = pool();
        let writer = pool.take(WINDOW).unwrap();
        let window = writer.window(10);
        drop(writer);
        assert_eq!(pool.stats().lent, WINDOW as u64);
        drop(window);
        assert_eq!(pool.stats().lent, 0);
    }

    #[test]
    fn idle_slabs_are_bounded_by_bytes_and_go_with_age() {
        let pool = Arc::new(SlabPool::new(WINDOW));
        let slabs = [pool.take(WINDOW).unwrap(), pool.take(WINDOW).unwrap()];
        drop(slabs);
        assert_eq!(pool.stats().idle, WINDOW as u64);
        assert!(pool.trim(Duration::from_secs(60)));
        assert!(!pool.trim(Duration::ZERO));
        assert_eq!(pool.stats().idle, 0);
    }

    #[test]
    fn large_slabs_are_aligned_to_huge_pages() {
        let mut writer = pool().take(3 << 20).unwrap();
        assert_eq!(writer.spare().as_ptr().align_offset(HUGE_PAGE), 0);
    }

    #[test]
    fn a_slab_whose_slices_live_is_not_begun_anew() {
        let mut writer = pool().take(SMALLEST).unwrap();
        let slice = receive(&mut writer, b"x");
        assert!(!writer.reset());
        drop(slice);
        assert!(writer.reset() && writer.is_untouched());
    }

    #[test]
    fn truncated_bytes_are_spare_again() {
        let mut writer = pool().take(SMALLEST).unwrap();
        writer.spare()[..4].copy_from_slice(b"abcd");
        writer.advance(4);
        writer.received().copy_within(2..4, 0);
        writer.truncate(2);
        assert_eq!(&writer.freeze()[..], b"cd");
        assert_eq!(writer.spare_len(), SMALLEST - 2);
    }

    proptest! {
        #[test]
        fn a_class_wastes_at_most_an_eighth(bytes in SMALLEST..(1usize << 32)) {
            let class = class_size(bytes);
            prop_assert!(class >= bytes && class.is_multiple_of(PAGE));
            prop_assert!(class - bytes <= bytes / 8 + PAGE);
            prop_assert_eq!(class_size(class), class);
        }

        #[test]
        fn gathered_pieces_are_their_concatenation(pieces in prop::collection::vec((any::<u8>(), 0usize..40_000), 0..8)) {
            let pieces: Vec<Bytes> = pieces.into_iter().map(|(byte, len)| vec![byte; len].into()).collect();
            let whole = gather(&pool(), pieces.iter().map(|piece| &piece[..])).unwrap();
            prop_assert_eq!(&whole[..], &pieces.concat()[..]);
        }
    }
}
