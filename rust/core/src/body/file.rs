//! Files that bodies live in: temporary ones without a name, and files from outside. Positional reads and gathered
//! writes, and the reads that the page cache can serve at once. Who runs them on which thread is the caller's business.
//!
//! This module may hold `unsafe`: it takes a file apart when it is dropped.

#![allow(unsafe_code)]

use super::budget::{Budget, Lease};
use super::filepool::FilePool;
use super::mmap::SharedMap;
use super::pools::Pools;
use super::reaper;
use super::save::{copy_range, draft_name};
use crate::fork::Origin;
use crate::sync::Mutex;
use crate::{Error, Resource, Result};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// The kernel takes at most this many slices in one call (`IOV_MAX`).
const MOST_SLICES: usize = 1024;

/// Nanoseconds that each write takes longer, for tests: a slow disk without one.
static WRITE_DELAY: AtomicU64 = AtomicU64::new(0);

/// Has each write of a body wait for so long first.
pub fn delay_writes(by: Duration) {
    WRITE_DELAY.store(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Relaxed);
}

/// What a file's name and its mappings mean for each other: a file that others can open must not be mapped, as they
/// could truncate it, and a mapped one gets no name but a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// Without a name, known to nobody.
    Private,
    /// Without a name, and mapped.
    Mapped,
    /// Others can open it.
    Named,
}

/// An open file with a body, or part of one, in it; when the last image is gone, closed, on the reaper's thread if it is
/// large, or given back to the pool that it came from.
pub struct BodyFile {
    parts: ManuallyDrop<Parts>,
    home: Option<Arc<FilePool>>,
    sharing: Mutex<Sharing>,
    trusted: bool,
    size: AtomicU64,
    /// A socket may hold pages of it. Relaxed, as the size: whoever drops the file has heard of all that others did with it.
    sent: AtomicBool,
}

/// What a file is made of, apart from the body that it holds at present.
pub(super) struct Parts {
    pub file: File,
    pub dir: PathBuf,
    /// Its file system is memory.
    in_memory: bool,
    /// It comes from a pool, and what is written over what it has takes no more space.
    pub in_place: bool,
    /// Of disk, or of memory where the file system is memory.
    space: Mutex<Option<Lease>>,
    descriptor: Option<Lease>,
    /// Of the pools: what was alive at a fork isn't recycled.
    pub generation: usize,
    origin: Origin,
    /// Bytes that it has, while it is idle.
    pub size: u64,
    /// Of all that it had when it was last recycled.
    pub map: Option<Arc<SharedMap>>,
}

impl Parts {
    /// Whether they count against this budget.
    pub fn are_of(&self, budget: &Arc<Budget>) -> bool {
        self.descriptor.as_ref().is_some_and(|lease| lease.is_of(budget))
    }

    /// Whether closing them gives this budget some of a resource.
    pub fn have(&self, budget: &Arc<Budget>, resource: Resource) -> bool {
        let space = self.space.lock();
        [&self.descriptor, &*space].into_iter().flatten().any(|lease| lease.is_of(budget) && lease.has(resource))
    }
}

impl AsFd for BodyFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

impl BodyFile {
    /// A new file in `dir` that has no name and is this user's alone. Its descriptor and what is written to it count
    /// against `budget`. `home` is where it goes when it isn't needed any more.
    pub fn temporary(dir: &Path, budget: &Arc<Budget>, home: Option<Arc<FilePool>>) -> Result<Self> {
        let mut descriptor = Lease::empty(budget, Resource::Files);
        descriptor.grow(1)?;
        Self::temporary_with(dir, budget, descriptor, home)
    }

    /// As [`temporary`](Self::temporary), with a descriptor that was taken from the budget before.
    pub fn temporary_with(
        dir: &Path,
        budget: &Arc<Budget>,
        descriptor: Lease,
        home: Option<Arc<FilePool>>,
    ) -> Result<Self> {
        let file = unnamed(dir).map_err(|source| storage(dir, source, |dir, source| Error::TempDir { dir, source }))?;
        let in_memory = is_in_memory(&file);
        let in_place = home.is_some() && file_system(&file).is_none_or(|(kind, counts)| writes_in_place(kind, counts));
        if !in_memory {
            budget.settle_disk(dir);
        }
        let resource = if in_memory { Resource::Ram } else { Resource::Disk };
        let parts = Parts {
            file,
            dir: dir.to_owned(),
            in_memory,
            in_place,
            space: Mutex::new(Some(Lease::empty(budget, resource))),
            descriptor: Some(descriptor),
            generation: Pools::generation(),
            origin: Origin::here(),
            size: 0,
            map: None,
        };
        Ok(Self::of(parts, home, Sharing::Private, true))
    }

    /// A file from outside, which others may change. `trusted` promises that nobody truncates it or
    /// writes to it.
    pub fn external(path: &Path, trusted: bool) -> Result<Self> {
        Self::opened(of_known_length(path)?, path, trusted)
    }

    /// The same, opened by the caller.
    pub fn opened(file: File, path: &Path, trusted: bool) -> Result<Self> {
        let size = file.metadata().map_err(Error::io("look at a body's file"))?.len();
        let parts = Parts {
            in_memory: is_in_memory(&file),
            in_place: false,
            file,
            dir: path.parent().map(Path::to_owned).unwrap_or_default(),
            space: Mutex::new(None),
            descriptor: None,
            generation: Pools::generation(),
            origin: Origin::here(),
            size,
            map: None,
        };
        Ok(Self::of(parts, None, Sharing::Named, trusted))
    }

    pub(super) fn recycled(parts: Parts, home: Arc<FilePool>) -> Self {
        Self::of(parts, Some(home), Sharing::Private, true)
    }

    fn of(parts: Parts, home: Option<Arc<FilePool>>, sharing: Sharing, trusted: bool) -> Self {
        let size = AtomicU64::new(parts.size);
        let (parts, sharing, sent) = (ManuallyDrop::new(parts), Mutex::new(sharing), AtomicBool::new(false));
        Self { parts, home, sharing, trusted, size, sent }
    }

    /// The mapping that it kept from earlier bodies, if it covers the range.
    pub(super) fn shared_map(&self, offset: u64, len: u64) -> Option<&Arc<SharedMap>> {
        self.parts.map.as_ref().filter(|map| offset + len <= map.len() as u64)
    }

    /// Has what was written stored by its device.
    pub fn store(&self) -> io::Result<()> {
        self.file().sync_data()
    }

    pub(super) fn file(&self) -> &File {
        &self.parts.file
    }

    /// Whether it was open when this process was forked: the parent has it, too, and may be writing to it. What was in
    /// it then can be read.
    pub fn is_inherited(&self) -> bool {
        self.parts.origin.is_ancestor()
    }

    /// Copies the first `len` bytes of another file to this one, which is empty.
    pub fn copy_from(&self, source: &Self, len: u64) -> Result<()> {
        if let Some(lease) = self.parts.space.lock().as_mut() {
            lease.grow(len)?;
        }
        let copied = copy_range(source, 0, len, self.file());
        copied.map_err(|source| self.write_failed(source))?;
        self.size.fetch_max(len, Relaxed);
        Ok(())
    }

    fn write_failed(&self, source: io::Error) -> Error {
        storage(&self.parts.dir, source, |_, source| Error::Io { doing: "write a body to its file", source })
    }

    /// Bytes that the file has, as far as this process wrote or knows.
    pub fn size(&self) -> u64 {
        self.size.load(Relaxed)
    }

    /// Asks the file system how many bytes the file has now: others may write to it, too.
    pub fn look_again(&self) -> Result<u64> {
        self.look_for_name().map(|(size, _)| size)
    }

    /// As [`look_again`](Self::look_again), and whether it has a name still: without one, what it has is lost once it is
    /// closed.
    pub fn look_for_name(&self) -> Result<(u64, bool)> {
        let found = self.file().metadata().map_err(Error::io("look at a body's file"))?;
        self.size.store(found.len(), Relaxed);
        Ok((found.len(), found.nlink() > 0))
    }

    /// Whether it is to keep its blocks for itself: a copy that shared them would have what is written next go elsewhere.
    #[cfg(target_os = "linux")]
    pub(super) fn is_in_place(&self) -> bool {
        self.parts.in_place
    }

    /// Whether its file system is memory (tmpfs), where a read is a copy and never waits for a disk.
    pub fn is_in_memory(&self) -> bool {
        self.parts.in_memory
    }

    /// To be called before it is sent without a copy: the socket holds its pages until the peer has read them, and what is
    /// written over them meanwhile is what the peer gets (sendfile(2)). It isn't recycled from then on.
    pub fn will_be_sent(&self) {
        self.sent.store(true, Relaxed);
    }

    /// Claims the right to map: for good, as mappings may outlive whoever asked.
    pub fn claim_map(&self) -> bool {
        if self.parts.descriptor.is_none() {
            // From outside.
            return self.trusted;
        }
        // The parent may give it a name, or was about to, by a thread that has the lock for ever here.
        if self.is_inherited() {
            return false;
        }
        let mut sharing = self.sharing.lock();
        if *sharing == Sharing::Named {
            return false;
        }
        *sharing = Sharing::Mapped;
        true
    }

    /// Writes the slices, for which `reserve` took the budget, at `offset` in as few calls as the kernel allows,
    /// completing short ones. Returns the number of calls.
    pub fn write_slices_at(&self, slices: &mut [IoSlice<'_>], mut offset: u64) -> Result<u64> {
        let delay = WRITE_DELAY.load(Relaxed);
        if delay > 0 {
            thread::sleep(Duration::from_nanos(delay));
        }
        let mut left = slices;
        let mut calls = 0;
        // Drops what is empty in front, which would be taken for a write of nothing.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let batch = left.get(..MOST_SLICES).unwrap_or(left);
            calls += 1;
            match rustix::io::pwritev(self, batch, offset) {
                Ok(0) => return Err(self.write_failed(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    offset += n as u64;
                    self.size.fetch_max(offset, Relaxed);
                    IoSlice::advance_slices(&mut left, n);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.write_failed(errno.into())),
            }
        }
        if self.parts.in_memory {
            self.settle_blocks();
        }
        Ok(calls)
    }

    /// Takes the budget for a file that goes up to `end`, before anything is written.
    pub fn reserve(&self, end: u64) -> Result<()> {
        let mut space = self.parts.space.lock();
        space.as_mut().map_or(Ok(()), |lease| lease.grow(end.saturating_sub(lease.amount())))
    }

    /// On tmpfs what counts is the blocks used: with huge pages that may be more than was written.
    fn settle_blocks(&self) {
        if let Ok(stat) = rustix::fs::fstat(self)
            && let Some(lease) = self.parts.space.lock().as_mut()
        {
            // Those blocks are used, whether the budget likes it or not: the next write is refused.
            lease.set(u64::try_from(stat.st_blocks).unwrap_or(0) * 512);
        }
    }

    /// Fills `buffer` from `offset` as far as the file goes; may wait for the disk.
    pub fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<usize> {
        let wanted = buffer.len();
        while !buffer.is_empty() {
            match self.file().read_at(buffer, offset) {
                Ok(0) => break,
                Ok(n) => {
                    offset += n as u64;
                    buffer = buffer.get_mut(n..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Io { doing: "read a body from its file", source }),
            }
        }
        Ok(wanted - buffer.len())
    }

    /// Fills several buffers, one after the other, from `offset` as far as the file goes; may wait for the disk.
    pub fn read_slices_at(&self, slices: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        let mut left = slices;
        let mut done = 0;
        // Drops what is empty in front.
        IoSliceMut::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match rustix::io::preadv(self, left, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => {
                    done += n;
                    IoSliceMut::advance_slices(&mut left, n);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Error::Io { doing: "read a body from its file", source: errno.into() }),
            }
        }
        Ok(done)
    }

    /// As `read_at`, but only if all of `buffer` can be had without waiting; `None` if not.
    pub fn read_cached(&self, buffer: &mut [u8], offset: u64) -> Result<Option<usize>> {
        if self.parts.in_memory {
            return self.read_at(buffer, offset).map(Some);
        }
        #[cfg(target_os = "linux")]
        {
            use rustix::io::{Errno, ReadWriteFlags};
            let wanted = buffer.len() as u64;
            let mut slices = [IoSliceMut::new(buffer)];
            match rustix::io::preadv2(self, &mut slices, offset, ReadWriteFlags::NOWAIT) {
                // Less than was asked for is all there is only at the end of the file.
                Ok(n) if n as u64 == wanted || offset + n as u64 >= self.size() => Ok(Some(n)),
                Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
                Err(errno) => Err(Error::Io { doing: "read a body from its file", source: errno.into() }),
            }
        }
        #[cfg(not(target_os = "linux"))]
        Ok(None)
    }

    /// Names the file without copying it; false where that can't be: another file system, or it is mapped.
    pub(super) fn link_to(&self, path: &Path) -> io::Result<bool> {
        if self.is_inherited() {
            return Ok(false);
        }
        let mut sharing = self.sharing.lock();
        if *sharing != Sharing::Private {
            return Ok(false);
        }
        let own = format!("/proc/self/fd/{}", self.file().as_raw_fd());
        match rustix::fs::linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => {
                *sharing = Sharing::Named;
                // What was private now is a file like any other that this process makes.
                rustix::fs::fchmod(self, Mode::from_raw_mode(0o666 & !umask()))?;
                Ok(true)
            }
            Err(rustix::io::Errno::EXIST) => Err(rustix::io::Errno::EXIST.into()),
            Err(_) => Ok(false),
        }
    }
}

impl Drop for BodyFile {
    fn drop(&mut self) {
        // SAFETY: taken once, here, and never looked at again.
        let mut parts = unsafe { ManuallyDrop::take(&mut self.parts) };
        parts.size = self.size();
        // Mappings of images keep the file, so there are none left.
        let private = *self.sharing.get_mut() != Sharing::Named;
        // A window that somebody forgot would write into the next body.
        let unused = parts.map.as_ref().is_none_or(|map| Arc::strong_count(map) == 1) && !self.sent.load(Relaxed);
        match self.home.take().filter(|_| private && unused) {
            Some(home) => home.give_back(parts),
            // The leases go with the file: the space is free only once it is closed.
            None => reaper::drop_large(parts.size, parts),
        }
    }
}

/// The process's umask, which can only be read by setting it, or from /proc.
fn umask() -> rustix::fs::RawMode {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let digits = text.lines().find_map(|line| line.strip_prefix("Umask:"))?.trim();
            rustix::fs::RawMode::from_str_radix(digits, 8).ok()
        })
        .unwrap_or(0o077)
}

/// Opens a file whose length can be known. Pipes and devices have none, and a folder's is of no use.
fn of_known_length(path: &Path) -> Result<File> {
    let failed = Error::file::<io::Error>("open as a body", path);
    // Looked at before: opening a pipe would wait for its writer.
    let about = std::fs::metadata(path).map_err(failed)?;
    if about.is_dir() {
        return Err(failed(rustix::io::Errno::ISDIR.into()));
    }
    if about.is_file() {
        let file = File::open(path).map_err(failed)?;
        let says_empty = || file.metadata().map(|about| about.len() == 0);
        // Files of /proc say that they are. What was written meanwhile isn't meant.
        let wrongly = || -> io::Result<bool> { Ok(says_empty()? && file.read_at(&mut [0], 0)? > 0 && says_empty()?) };
        if !wrongly().map_err(failed)? {
            return Ok(file);
        }
    }
    Err(Error::file("open as a body what has no length of its own,", path)(rustix::io::Errno::SPIPE))
}

fn unnamed(dir: &Path) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    match rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => return Ok(File::from(fd)),
        // A file system, or a kernel, without O_TMPFILE.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    unlinked(dir)
}

/// A file whose name goes at once: somebody may see it for a moment.
fn unlinked(dir: &Path) -> io::Result<File> {
    let path = draft_name(&dir.join("body"));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd: OwnedFd = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
    std::fs::remove_file(&path)?;
    Ok(File::from(fd))
}

/// Whether it says that there is no space.
pub fn is_full(errno: i32) -> bool {
    let full = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT, rustix::io::Errno::FBIG];
    full.iter().any(|e| e.raw_os_error() == errno)
}

/// A full file system has an error of its own.
fn storage(dir: &Path, source: io::Error, other: impl FnOnce(PathBuf, io::Error) -> Error) -> Error {
    match source.raw_os_error() {
        Some(errno) if is_full(errno) => Error::StorageFull { dir: dir.to_owned(), source },
        _ => other(dir.to_owned(), source),
    }
}

const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;

/// What kind of file system a file is on, and whether that counts inodes (statfs(2)), where it is known.
#[cfg(target_os = "linux")]
fn file_system(file: impl AsFd) -> Option<(u32, bool)> {
    rustix::fs::fstatfs(file).ok().map(|fs| (fs.f_type as u32, fs.f_files != 0))
}

#[cfg(not(target_os = "linux"))]
fn file_system(_: impl AsFd) -> Option<(u32, bool)> {
    None
}

fn is_in_memory(file: impl AsFd) -> bool {
    file_system(file).is_some_and(|(kind, _)| [TMPFS, RAMFS].contains(&kind))
}

/// Whether a file system is known to write over a block at once, and not to another in its stead, for which there may be no
/// space, nor to where it may fail unheard.
fn writes_in_place(kind: u32, counts_inodes: bool) -> bool {
    const EXT4: u32 = 0xef53;
    const XFS: u32 = 0x5846_5342;
    const OVERLAYFS: u32 = 0x794c_7630;
    match kind {
        EXT4 | XFS | TMPFS | RAMFS => true,
        // All but the kind is told of the one below. btrfs, which containers often have there, counts none.
        OVERLAYFS => counts_inodes,
        _ => false,
    }
}

/// The first directory that can be written to and isn't memory, of `$PENSTOCK_TMPDIR`, `$TMPDIR`, /var/tmp and /tmp; if
/// all are memory, the first that can be written to.
pub fn default_temp_dir() -> PathBuf {
    let named = ["PENSTOCK_TMPDIR", "TMPDIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let fixed = ["/var/tmp", "/tmp"].into_iter().map(PathBuf::from);
    let may_write = Access::WRITE_OK | Access::EXEC_OK;
    // In a container a file system that is there may be read-only.
    let usable = |dir: &PathBuf| dir.is_dir() && rustix::fs::access(dir, may_write).is_ok();
    let usable: Vec<PathBuf> = named.chain(fixed).filter(usable).collect();
    let on_disk = usable.iter().find(|dir| File::open(dir).is_ok_and(|open| !is_in_memory(open)));
    on_disk.or(usable.first()).cloned().unwrap_or_else(std::env::temp_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Place;
    use bytes::Bytes;

    fn budget() -> Arc<Budget> {
        Budget::new(None, None, None)
    }

    fn write(file: &BodyFile, pieces: &[Bytes]) -> u64 {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        file.reserve(slices.iter().map(|slice| slice.len() as u64).sum()).unwrap();
        file.write_slices_at(&mut slices, 0).unwrap()
    }

    #[test]
    fn pieces_are_written_in_order_in_one_call() {
        let file = BodyFile::temporary(Path::new("/tmp"), &budget(), None).unwrap();
        let pieces = ["ab", "", "cde"].map(|s| Bytes::from_static(s.as_bytes()));
        assert_eq!(write(&file, &pieces), 1);
        let mut buffer = [0; 8];
        assert_eq!(file.read_at(&mut buffer, 1).unwrap(), 4);
        assert_eq!(&buffer[..4], b"bcde");
    }

    #[test]
    fn more_pieces_than_the_kernel_takes_at_once_are_all_written() {
        let file = BodyFile::temporary(Path::new("/tmp"), &budget(), None).unwrap();
        let pieces: Vec<Bytes> = (0..2500u32).map(|i| Bytes::copy_from_slice(&i.to_le_bytes())).collect();
        assert_eq!(write(&file, &pieces), 3);
        assert_eq!(file.size(), 10_000);
        let mut buffer = [0; 4];
        file.read_at(&mut buffer, 2499 * 4).unwrap();
        assert_eq!(u32::from_le_bytes(buffer), 2499);
    }

    #[test]
    fn a_temporary_file_has_no_name_and_counts_until_it_is_dropped() {
        let dir = Place::of_a_folder();
        let budget = Budget::new(None, Some(100), Some(1));
        let file = BodyFile::temporary(&dir, &budget, None).unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        write(&file, &[Bytes::from_static(b"abc")]);
        let space = if file.is_in_memory() { Resource::Ram } else { Resource::Disk };
        assert!(budget.meter(space).used() >= 3);
        assert!(matches!(BodyFile::temporary(&dir, &budget, None), Err(Error::BudgetExceeded { .. })));
        drop(file);
        assert_eq!((budget.meter(space).used(), budget.meter(Resource::Files).used()), (0, 0));
    }

    #[test]
    fn a_file_counts_as_what_it_has_and_not_as_what_each_write_brought_it_to() {
        let budget = budget();
        let file = BodyFile::temporary(Path::new("/var/tmp"), &budget, None).unwrap();
        for at in [0, 10, 20] {
            file.reserve(at + 10).unwrap();
            file.write_slices_at(&mut [IoSlice::new(&[1; 10])], at).unwrap();
        }
        if !file.is_in_memory() {
            assert_eq!(budget.meter(Resource::Disk).used(), 30);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_in_memory_counts_as_the_blocks_that_it_takes() {
        let budget = budget();
        let file = BodyFile::temporary(Path::new("/dev/shm"), &budget, None).unwrap();
        write(&file, &[Bytes::from_static(b"abc")]);
        assert!(budget.meter(Resource::Ram).used() >= 4096);
    }

    #[test]
    fn without_o_tmpfile_a_file_loses_its_name_at_once_and_is_its_owners_alone() {
        use std::io::{Read, Seek, Write};
        use std::os::unix::fs::{MetadataExt, PermissionsExt};

        let dir = Place::of_a_folder();
        let mut file = unlinked(&dir).unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        let about = file.metadata().unwrap();
        assert_eq!((about.nlink(), about.permissions().mode() & 0o777), (0, 0o600));
        file.write_all(b"abc").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
    }

    #[test]
    fn only_what_is_known_to_write_in_place_is_stored_to_by_a_mapping() {
        let [ext4, xfs, tmpfs, overlay] = [0xef53, 0x5846_5342, 0x0102_1994, 0x794c_7630];
        let [btrfs, bcachefs, zfs, fuse, nfs] = [0x9123_683e, 0xca45_1a4e, 0x2fc1_2fc1, 0x6573_5546, 0x6969];
        assert!([ext4, xfs, tmpfs, overlay].into_iter().all(|kind| writes_in_place(kind, true)));
        assert!(![btrfs, bcachefs, zfs, fuse, nfs].into_iter().any(|kind| writes_in_place(kind, true)));
        // Of btrfs, most likely.
        assert!(!writes_in_place(overlay, false));
    }

    #[test]
    fn a_full_disk_a_quota_and_a_limit_on_files_are_storage_full_and_nothing_else_is() {
        use rustix::io::Errno;

        let named =
            |errno: Errno| storage(Path::new("/dir"), errno.into(), |dir, source| Error::TempDir { dir, source });
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            let Error::StorageFull { dir, source } = named(errno) else { panic!("{errno:?}") };
            assert_eq!((dir.as_path(), source.raw_os_error()), (Path::new("/dir"), Some(errno.raw_os_error())));
        }
        for errno in [Errno::IO, Errno::ROFS, Errno::ACCESS] {
            assert!(matches!(named(errno), Error::TempDir { .. }), "{errno:?}");
        }
    }

    #[test]
    fn a_forked_child_needs_no_lock_of_a_file_that_a_thread_of_its_parent_may_have() {
        let path = Place::new();
        let mut file = BodyFile::temporary(Path::new("/tmp"), &budget(), None).unwrap();
        file.parts.origin = Origin::ANCESTOR;
        std::mem::forget(file.sharing.lock());
        assert!(!file.claim_map() && !file.link_to(&path).unwrap());
        drop(file);
    }

    #[test]
    fn cached_reads_give_what_was_just_written() {
        let file = BodyFile::temporary(Path::new("/var/tmp"), &budget(), None).unwrap();
        write(&file, &[Bytes::from(vec![7; 100_000])]);
        let mut buffer = vec![0; 65_536];
        if let Some(n) = file.read_cached(&mut buffer, 50_000).unwrap() {
            assert_eq!((n, buffer[n - 1]), (50_000, 7));
        }
    }
}
