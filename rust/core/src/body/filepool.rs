//! Files kept for the next body, with their mappings: an option. A recycled file has its blocks and its pages, so that a
//! body is received, or copied, straight into the mapping, and neither is made again. The price is page cache that
//! stays in use; it is bounded by bytes and age, and counts against the budget while it is idle, until a body needs it.
//!
//! A mapping covers what its file had when it was recycled, so that no store to it can find the disk full; what a body
//! has beyond that is written as to any file. So is all of it on file systems that aren't known to write in place. A file that
//! others can open, or that was alive at a fork, is not recycled: somebody else might still read it. Bodies of another
//! budget get another file: each counts against its own.

use super::budget::Budget;
use super::file::{BodyFile, Parts};
use super::mmap::{MapWriter, SharedMap};
use super::pools::Pools;
use super::reaper;
use crate::Resource;
use crate::fork::Origin;
use crate::sync::Mutex;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

struct Idle {
    parts: Parts,
    since: Instant,
}

/// Bytes of all of them.
fn size(idle: &[Idle]) -> u64 {
    idle.iter().map(|idle| idle.parts.size).sum()
}

/// Figures of a pool, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilePoolStats {
    /// In files that wait for the next body.
    pub idle: u64,
    /// Files that wait, in number.
    pub files: u64,
    /// Files given out that had been used before, in number.
    pub recycled: u64,
}

/// The idle files of one process. A thread of the parent's may have held the lock at a fork: a child has the next shelf.
struct Shelf {
    origin: Origin,
    idle: Mutex<Vec<Idle>>,
    /// Put there by the fork, while the child has but one thread.
    next: OnceLock<Box<Shelf>>,
}

impl Shelf {
    fn new() -> Self {
        Self { origin: Origin::here(), idle: Mutex::default(), next: OnceLock::new() }
    }
}

pub struct FilePool {
    max_bytes: u64,
    max_age: Duration,
    first: Shelf,
    recycled: AtomicU64,
}

impl FilePool {
    /// Keeps files of `max_bytes` in all at most, each for `max_age` at most.
    pub fn new(max_bytes: u64, max_age: Duration) -> Arc<Self> {
        let pool = Arc::new(Self { max_bytes, max_age, first: Shelf::new(), recycled: AtomicU64::new(0) });
        Pools::current().watch(&pool);
        pool
    }

    /// This process's idle files. A forked child has none, and recycles nothing, if a thread that is gone had the list of
    /// pools.
    fn idle(&self) -> Option<&Mutex<Vec<Idle>>> {
        let mut shelf = &self.first;
        while shelf.origin.is_ancestor() {
            shelf = shelf.next.get()?;
        }
        Some(&shelf.idle)
    }

    /// An idle file of `dir` that counts against `budget`: the smallest that holds `length` bytes, or the one used last if
    /// no length is known.
    pub(super) fn take(
        self: &Arc<Self>,
        dir: &Path,
        length: Option<u64>,
        budget: &Arc<Budget>,
    ) -> Option<(BodyFile, Option<MapWriter>)> {
        let generation = Pools::generation();
        let mut parts = {
            let mut idle = self.idle()?.lock();
            let fits = |parts: &Parts| parts.dir == dir && parts.generation == generation && parts.are_of(budget);
            let fitting = idle.iter().enumerate().filter(|(_, idle)| fits(&idle.parts));
            let index = match length {
                Some(length) => {
                    fitting.min_by_key(|(_, idle)| (idle.parts.size < length, idle.parts.size.abs_diff(length)))?.0
                }
                None => fitting.last()?.0,
            };
            idle.remove(index).parts
        };
        self.recycled.fetch_add(1, Relaxed);
        if parts.in_place && parts.map.as_ref().is_none_or(|map| (map.len() as u64) < parts.size) {
            // Without a mapping the file is still good to be written to.
            parts.map = SharedMap::new(&parts.file, parts.size).ok().map(Arc::new);
        }
        let writer = parts.map.clone().map(MapWriter::new);
        Some((BodyFile::recycled(parts, self.clone()), writer))
    }

    /// Keeps a file whose last body is gone, or lets it go.
    pub(super) fn give_back(&self, parts: Parts) {
        let Some(idle) = self.idle() else { return reaper::drop_large(parts.size, parts) };
        let mut idle = idle.lock();
        if parts.generation != Pools::generation() || size(&idle) + parts.size > self.max_bytes {
            drop(idle);
            return reaper::drop_large(parts.size, parts);
        }
        idle.push(Idle { parts, since: Instant::now() });
        drop(idle);
        reaper::trim_later();
    }

    /// Closes the file that has been idle for longest of those that have some of this; false if there is none. May take
    /// long.
    pub(super) fn give_up(&self, budget: &Arc<Budget>, resource: Resource) -> bool {
        let Some(idle) = self.idle() else { return false };
        let oldest = {
            let mut idle = idle.lock();
            let index = idle.iter().position(|idle| idle.parts.have(budget, resource));
            index.map(|index| idle.remove(index))
        };
        oldest.is_some()
    }

    /// Closes what is too old; true if anything is left. May take long: not for a loop's thread.
    pub(super) fn trim(&self) -> bool {
        let Some(idle) = self.idle() else { return false };
        let (old, left) = {
            let mut idle = idle.lock();
            let generation = Pools::generation();
            let old: Vec<_> = idle
                .extract_if(.., |idle| idle.since.elapsed() >= self.max_age || idle.parts.generation != generation)
                .collect();
            (old, !idle.is_empty())
        };
        drop(old);
        left
    }

    /// Closes all idle files. May take long.
    pub fn clear(&self) {
        let Some(idle) = self.idle() else { return };
        drop(std::mem::take(&mut *idle.lock()));
    }

    /// In a forked child, by the fork: closes the idle files, as none is used again here. They would keep their room on the
    /// disk, and their part of the budget, for as long as the child lives. Not if a thread that is gone was about to change
    /// them. What the child has from now on is its own.
    pub(super) fn begin_anew(&self) {
        let mut parents = &self.first;
        while let Some(next) = parents.next.get() {
            parents = next;
        }
        if let Some(mut idle) = parents.idle.try_lock() {
            idle.clear();
        }
        let _ = parents.next.set(Box::new(Shelf::new()));
    }

    pub fn stats(&self) -> FilePoolStats {
        let recycled = self.recycled.load(Relaxed);
        let Some(idle) = self.idle() else { return FilePoolStats { recycled, ..FilePoolStats::default() } };
        let idle = idle.lock();
        FilePoolStats { idle: size(&idle), files: idle.len() as u64, recycled }
    }
}

/// Who lets go of a pool doesn't wait until its files are closed.
impl Drop for Shelf {
    fn drop(&mut self) {
        let is_locked = self.idle.try_lock().is_none();
        let idle = std::mem::take(self.idle.get_mut());
        if is_locked {
            // Only in a forked child: a thread that is gone may have half changed them.
            return std::mem::forget(idle);
        }
        reaper::drop_large(size(&idle), idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::body::{BodyImage, BodySink, State, Tunables};
    use crate::testing::Place;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::sync::mpsc;

    fn sink(files: &Arc<FilePool>, budget: &Arc<Budget>) -> BodySink {
        let tunables = Tunables { max_body_ram: 0, temp_dir: Some("/var/tmp".into()), ..Tunables::default() };
        let mut sink = BodySink::new(Arc::new(tunables), budget.clone());
        sink.use_files(Some(files.clone()));
        sink
    }

    fn body(files: &Arc<FilePool>, bytes: &[u8]) -> BodyImage {
        body_within(files, bytes, &Budget::shared())
    }

    fn body_within(files: &Arc<FilePool>, bytes: &[u8], budget: &Arc<Budget>) -> BodyImage {
        let mut sink = sink(files, budget);
        sink.push(Bytes::copy_from_slice(bytes)).unwrap();
        sink.prepare().unwrap()
    }

    fn contents(image: &BodyImage) -> Vec<u8> {
        image.read_range(0, u64::MAX).unwrap().to_vec()
    }

    fn pool(max_bytes: u64) -> Arc<FilePool> {
        FilePool::new(max_bytes, Duration::from_secs(60))
    }

    #[test]
    fn a_recycled_file_shows_nothing_of_the_body_before() {
        let files = pool(1 << 20);
        drop(body(&files, &[1; 50_000]));
        assert_eq!(files.stats(), FilePoolStats { idle: 50_000, files: 1, recycled: 0 });
        for bytes in [vec![2; 10_000], vec![3; 50_000], vec![4; 90_000], vec![5; 20_000]] {
            let image = body(&files, &bytes);
            assert!(contents(&image) == bytes);
            let mapped = image.to_mmap().unwrap();
            drop(image);
            assert!(matches!(mapped.state(), State::Mmap { .. }) && contents(&mapped) == bytes);
        }
        assert_eq!((files.stats().recycled, files.stats().files), (4, 1));
    }

    #[test]
    fn the_file_of_a_body_that_is_given_up_is_recycled_again() {
        let files = pool(1 << 20);
        drop(body(&files, &[1; 50_000]));
        let mut given_up = sink(&files, &Budget::shared());
        given_up.spill();
        given_up.mapped_spare(10_000).unwrap().unwrap().fill(2);
        given_up.take_in(10_000, |received| received.len()).unwrap();
        drop(given_up);
        assert_eq!(files.stats(), FilePoolStats { idle: 50_000, files: 1, recycled: 1 });
    }

    #[test]
    fn a_file_is_not_recycled_while_anything_looks_at_it() {
        let files = pool(1 << 20);
        drop(body(&files, &[1; 10_000]));
        let mapped = body(&files, &[2; 10_000]).to_mmap().unwrap();
        let view = mapped.read_range(0, 10).unwrap();
        drop(mapped);
        let other = body(&files, &[3; 10_000]);
        assert_eq!((&view[..], contents(&other)[0]), (&[2; 10][..], 3));
        drop((view, other));
        assert_eq!(files.stats().files, 2);
    }

    #[test]
    fn a_recycled_file_is_read_through_its_mapping() {
        let files = pool(1 << 20);
        drop(body(&files, &[1; 40_000]));
        let image = body(&files, &[2; 50_000]);
        let piece = |at, len| image.read_range(at, len).unwrap();
        assert_eq!(piece(10_000, 20_000).as_ptr(), piece(10_000, 10).as_ptr());
        let mut reader = image.reader(20_000);
        let mut cached = || reader.next_cached().unwrap().unwrap().unwrap();
        assert_eq!(cached().as_ptr(), piece(0, 1).as_ptr());
        assert_eq!(cached().as_ptr(), piece(20_000, 1).as_ptr());
        // Beyond what the file had when it was recycled, there is no mapping.
        assert_ne!(piece(40_000, 5_000).as_ptr(), piece(40_000, 5_000).as_ptr());
        assert!(contents(&image) == [2; 50_000]);
        let in_memory = image.to_ram().unwrap();
        assert_ne!(in_memory.read_range(0, 1).unwrap().as_ptr(), piece(0, 1).as_ptr());
    }

    #[test]
    fn a_recycled_file_that_has_a_name_is_not_looked_at_through_its_mapping() {
        let files = pool(1 << 20);
        let path = Place::new();
        drop(body(&files, &[1; 10_000]));
        let image = body(&files, &[2; 10_000]);
        image.save(&path, true, false).unwrap();
        if std::fs::exists("/proc/self/fd").unwrap() {
            // Whoever opens it by name may cut it.
            std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
            assert!(image.read_range(0, 10_000).is_err());
            assert!(image.to_mmap().is_err());
        }
        std::fs::remove_file(&path).unwrap();
        let image = body(&files, &[3; 10_000]);
        let view = image.read_range(0, 10).unwrap();
        image.save(&path, true, false).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert_eq!(&view[..], [3; 10]);
    }

    #[test]
    fn a_body_gets_the_smallest_file_that_holds_it_and_one_of_unknown_length_the_file_used_last() {
        let files = pool(1 << 20);
        drop([10_000, 50_000, 30_000].map(|len| body(&files, &vec![1; len])));
        let taken = |length| {
            let (file, writer) = files.take(Path::new("/var/tmp"), length, &Budget::shared()).unwrap();
            drop(writer);
            file.size()
        };
        let lengths = [Some(20_000), Some(5_000), Some(60_000), None];
        assert_eq!(lengths.map(taken), [30_000, 10_000, 50_000, 50_000]);
    }

    #[test]
    fn a_body_in_a_larger_file_is_saved_without_what_that_had_before() {
        let files = pool(1 << 20);
        let path = Place::new();
        drop(body(&files, &[1; 50_000]));
        let image = body(&files, &[2; 10_000]);
        assert_eq!(files.stats().recycled, 1);
        image.save(&path, true, false).unwrap();
        assert!(std::fs::read(&path).unwrap() == [2; 10_000]);
    }

    #[test]
    fn a_saved_file_is_not_recycled() {
        let files = pool(1 << 20);
        let path = Place::new();
        body(&files, b"kept").save(&path, true, false).unwrap();
        assert_eq!(files.stats().files, u64::from(!std::fs::exists("/proc/self/fd").unwrap()));
        drop(body(&files, b"other"));
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
    }

    #[test]
    fn a_body_counts_against_its_own_budget_whoever_used_the_pool_before() {
        let files = pool(1 << 30);
        let budgets = [Budget::new(None, None, None), Budget::new(None, None, None)];
        let used = || budgets.each_ref().map(|budget| budget.meter(Resource::Files).used());
        drop(body_within(&files, &[1; 10_000], &budgets[0]));
        let image = body_within(&files, &[2; 10_000], &budgets[1]);
        assert_eq!((used(), files.stats().recycled), ([1, 1], 0));
        let other = body_within(&files, &[3; 10_000], &budgets[0]);
        assert_eq!((used(), files.stats().recycled), ([1, 1], 1));
        drop((image, other));
        files.clear();
        assert_eq!(used(), [0, 0]);
    }

    #[test]
    fn idle_files_give_way_to_bodies_that_need_their_budget() {
        let files = pool(1 << 20);
        let budget = Budget::new(Some(45_000), Some(45_000), Some(3));
        drop([1, 2, 3].map(|n| body_within(&files, &[n; 10_000], &budget)));
        assert_eq!(files.stats().files, 3);
        // One goes for the descriptor, one for the bytes.
        let image = body_within(&pool(1 << 20), &[4; 30_000], &budget);
        assert!(contents(&image) == [4; 30_000]);
        assert_eq!((files.stats().files, budget.meter(Resource::Files).used()), (1, 2));
    }

    #[test]
    fn idle_files_of_another_budget_are_kept() {
        let files = pool(1 << 20);
        let budget = Budget::new(None, None, Some(1));
        drop(body(&files, &[1; 10_000]));
        let image = body_within(&files, &[2; 10_000], &budget);
        let mut sink = sink(&files, &budget);
        sink.push(Bytes::from_static(&[3; 10_000])).unwrap();
        assert!(matches!(sink.prepare(), Err(Error::BudgetExceeded { .. })));
        assert_eq!(files.stats().files, 1);
        drop(image);
        assert!(contents(&sink.prepare().unwrap()) == [3; 10_000]);
    }

    #[test]
    fn idle_files_are_bounded_by_bytes_and_age() {
        let files = pool(15_000);
        let images = [body(&files, &[1; 10_000]), body(&files, &[2; 10_000])];
        drop(images);
        assert_eq!(files.stats().idle, 10_000);
        let young = FilePool::new(1 << 20, Duration::ZERO);
        drop(body(&young, &[1; 10_000]));
        assert!(!young.trim());
        assert_eq!(young.stats().files, 0);
    }

    #[test]
    fn idle_files_get_too_old_though_large_things_are_freed_all_the_time() {
        let files = FilePool::new(1 << 20, Duration::from_millis(100));
        drop(body(&files, &[1; 10_000]));
        let end = Instant::now() + Duration::from_secs(5);
        while files.stats().files > 0 && Instant::now() < end {
            reaper::drop_large(reaper::LARGE, ());
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(files.stats().files, 0);
    }

    /// Drops what has a file of `budget` while the reaper is busy: it is to be closed by the reaper.
    fn drop_beside_a_busy_reaper<T>(holder: T, budget: &Budget) {
        struct Until(mpsc::Receiver<()>);

        impl Drop for Until {
            fn drop(&mut self) {
                let _ = self.0.recv();
            }
        }

        let (go, until) = mpsc::channel();
        reaper::drop_large(reaper::LARGE, Until(until));
        drop(holder);
        assert_eq!(budget.meter(Resource::Files).used(), 1);
        go.send(()).unwrap();
        assert!(reaper::settle(Duration::from_secs(5)));
        assert_eq!(budget.meter(Resource::Files).used(), 0);
    }

    #[test]
    fn the_files_of_a_pool_that_is_dropped_are_closed_by_the_reaper() {
        let budget = Budget::new(None, None, None);
        let files = pool(1 << 30);
        drop(body_within(&files, &[1; reaper::LARGE as usize], &budget));
        assert_eq!(files.stats().files, 1);
        drop_beside_a_busy_reaper(files, &budget);
    }

    #[test]
    fn a_large_file_that_a_pool_does_not_take_is_closed_by_the_reaper() {
        let budget = Budget::new(None, None, None);
        let made = |max_bytes, origin| {
            let first = Shelf { origin, idle: Mutex::default(), next: OnceLock::new() };
            Arc::new(FilePool { max_bytes, max_age: Duration::from_secs(60), first, recycled: AtomicU64::new(0) })
        };
        let of_the_parent = made(1 << 30, Origin::ANCESTOR);
        let too_small = made(0, Origin::here());
        for files in [of_the_parent, too_small] {
            let image = body_within(&files, &[1; reaper::LARGE as usize], &budget);
            drop_beside_a_busy_reaper(image, &budget);
        }
    }

    #[test]
    fn what_was_alive_at_a_fork_is_not_recycled() {
        let files = pool(1 << 20);
        let image = body(&files, &[1; 10_000]);
        drop(body(&files, &[1; 10_000]));
        Pools::after_fork_in_parent();
        drop(image);
        assert!(contents(&body(&files, &[2; 10_000])) == [2; 10_000]);
        assert_eq!(files.stats().recycled, 0);
    }

    #[test]
    fn a_forked_child_has_no_idle_files_and_their_budget() {
        let files = pool(1 << 20);
        let budget = Budget::new(None, None, Some(2));
        drop([1, 2].map(|n| body_within(&files, &[n; 10_000], &budget)));
        assert_eq!((files.stats().files, budget.meter(Resource::Files).used()), (2, 2));
        Pools::after_fork_in_child();
        assert_eq!((files.stats().files, budget.meter(Resource::Files).used()), (0, 0));
    }

    #[test]
    fn a_forked_child_and_its_children_recycle_files_of_their_own() {
        let files = pool(1 << 20);
        let budget = Budget::new(None, None, None);
        for recycled in 1..=3 {
            drop([1, 2].map(|n| body_within(&files, &[n; 10_000], &budget)));
            drop(body_within(&files, &[3; 10_000], &budget));
            assert_eq!((files.stats().files, files.stats().recycled), (2, recycled));
            assert!(Pools::current().give_up(&budget, Resource::Files));
            assert_eq!((files.stats().files, budget.meter(Resource::Files).used()), (1, 1));
            Pools::after_fork_in_child();
            assert_eq!((files.stats().files, budget.meter(Resource::Files).used()), (0, 0));
        }
    }

    #[test]
    fn a_forked_child_needs_no_lock_of_a_pool_that_a_thread_of_its_parent_may_have() {
        let (max_age, recycled) = (Duration::from_secs(60), AtomicU64::new(0));
        let mut files = Arc::new(FilePool { max_bytes: 1 << 20, max_age, first: Shelf::new(), recycled });
        let budget = Budget::new(None, None, None);
        drop(body_within(&files, &[1; 10_000], &budget));
        assert_eq!(files.stats().files, 1);
        Arc::get_mut(&mut files).unwrap().first.origin = Origin::ANCESTOR;
        std::mem::forget(files.first.idle.lock());
        files.clear();
        assert_eq!(files.stats(), FilePoolStats::default());
        assert!(contents(&body_within(&files, &[2; 10_000], &budget)) == [2; 10_000]);
        drop(files);
        // That thread may have been about to give the file to a body.
        assert_eq!(budget.meter(Resource::Files).used(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn whatever_is_received_into_a_mapping_is_the_body(lens in prop::collection::vec((0usize..60_000, 1usize..20_000), 1..8)) {
            let files = pool(1 << 20);
            drop(body(&files, &[9; 40_000]));
            for (len, step) in lens {
                let sent: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
                let mut sink = sink(&files, &Budget::shared());
                for piece in sent.chunks(step) {
                    let mut piece = piece;
                    while let Some(room) = sink.mapped_spare(piece.len() + 2).unwrap().filter(|_| !piece.is_empty()) {
                        // A byte of framing in front, and one behind if there is room.
                        let n = piece.len().min(room.len() - 1);
                        room[1..=n].copy_from_slice(&piece[..n]);
                        sink.take_in(n + 1, |received| crate::body::sink::close_up(received, std::slice::from_ref(&(1..n + 1)))).unwrap();
                        piece = &piece[n..];
                    }
                    sink.push(Bytes::copy_from_slice(piece)).unwrap();
                    sink.run_work(true).unwrap();
                }
                let image = sink.prepare().unwrap();
                prop_assert!(contents(&image) == sent);
                prop_assert!(contents(&image.to_mmap().unwrap()) == sent);
            }
        }
    }
}
