//! What bodies share in a process: the free lists of slabs and the reaper's queue. A forked child gets new ones: the
//! locks of the old may be held there by threads that do not exist, and memory and files that were alive at the fork
//! belong to both processes.

use super::budget::{self, Budget};
use super::filepool::{FilePool, FilePoolStats};
use super::reaper::Reaper;
use super::slab::{IDLE_AGE, IDLE_CAP, SlabPool};
use super::writer::forget_unwritten;
use crate::Resource;
use crate::codec::forget_undecoded;
use crate::fork;
use crate::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, PoisonError, RwLock, Weak};

pub struct Pools {
    pub slabs: Arc<SlabPool>,
    pub(super) reaper: Reaper,
    file_pools: Mutex<Vec<Weak<FilePool>>>,
}

type Slot = RwLock<Option<Arc<Pools>>>;

const SLOTS: usize = 64;

/// Raised by each fork, in the parent and in the child: what was alive at one is both's. Changed by one thread at a time. Who
/// reads the number of a slot (Acquire) finds in it what was put there before (Release).
static GENERATION: AtomicUsize = AtomicUsize::new(0);

/// That of `GENERATION` is current. A child moves on by one slot without touching a lock that its parent used.
fn slot(generation: usize) -> &'static Slot {
    static SLOT: [Slot; SLOTS] = [const { RwLock::new(None) }; SLOTS];
    let [first, ..] = &SLOT;
    SLOT.get(generation % SLOTS).unwrap_or(first)
}

impl Pools {
    fn new() -> Arc<Self> {
        let idle_cap = usize::try_from(budget::memory_limit() / 16).unwrap_or(IDLE_CAP).min(IDLE_CAP);
        Arc::new(Self {
            slabs: Arc::new(SlabPool::new(idle_cap)),
            reaper: Reaper::default(),
            file_pools: Mutex::default(),
        })
    }

    pub fn current() -> Arc<Self> {
        let slot = slot(GENERATION.load(Acquire));
        if let Some(pools) = &*slot.read().unwrap_or_else(PoisonError::into_inner) {
            return pools.clone();
        }
        slot.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Self::new).clone()
    }

    /// What was made at another one may be another process's, too.
    pub fn generation() -> usize {
        GENERATION.load(Relaxed)
    }

    /// Has the pool's idle files closed when they are too old.
    pub(super) fn watch(&self, pool: &Arc<FilePool>) {
        let mut pools = self.file_pools.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    fn file_pools(&self) -> Vec<Arc<FilePool>> {
        self.file_pools.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Frees what has been idle for too long; true if anything is still idle. May take long.
    pub(super) fn trim(&self) -> bool {
        let files = self.file_pools().iter().map(|pool| pool.trim()).filter(|left| *left).count() > 0;
        self.slabs.trim(IDLE_AGE) || files
    }

    /// Closes an idle file for who needs some of this; false if none has any. May take long.
    pub(super) fn give_up(&self, budget: &Arc<Budget>, resource: Resource) -> bool {
        self.file_pools().iter().any(|pool| pool.give_up(budget, resource))
    }

    /// Figures of all pools of files: bytes and files that are idle, and how often one was recycled.
    pub fn file_pool_stats(&self) -> FilePoolStats {
        let all = self.file_pools();
        all.iter().map(|pool| pool.stats()).fold(FilePoolStats::default(), |sum, stats| FilePoolStats {
            idle: sum.idle + stats.idle,
            files: sum.files + stats.files,
            recycled: sum.recycled + stats.recycled,
        })
    }

    /// To be called in the parent after a fork: what was alive at the fork is the child's, too.
    pub fn after_fork_in_parent() {
        let old = Self::current();
        let next = GENERATION.load(Relaxed) + 1;
        *slot(next).write().unwrap_or_else(PoisonError::into_inner) = Some(old);
        GENERATION.store(next, Release);
    }

    /// To be called in a forked child before anything else of this crate.
    pub fn after_fork_in_child() {
        fork::note();
        let old = GENERATION.load(Relaxed);
        // Where slots are used again, what an ancestor had lies in them. Waiting for a lock could be for a thread that is
        // gone, and destructors would unmap and close for nothing, under locks of unknown state.
        for next in old + 1..old + SLOTS {
            if let Ok(mut slot) = slot(next).try_write() {
                std::mem::forget(slot.take());
                GENERATION.store(next, Release);
                break;
            }
        }
        if let Some(pools) = slot(old).try_read().ok().and_then(|pools| pools.clone()) {
            if let Some(file_pools) = pools.file_pools.try_lock().filter(|_| Self::generation() != old) {
                file_pools.iter().filter_map(Weak::upgrade).for_each(|pool| {
                    pool.begin_anew();
                    Self::current().watch(&pool);
                });
            }
            std::mem::forget(pools);
        }
        forget_unwritten();
        forget_undecoded();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn of_pools_that_are_gone_nothing_is_kept() {
        for _ in 0..1000 {
            FilePool::new(1 << 20, Duration::from_secs(60));
        }
        // Other tests may have some of their own.
        assert!(Pools::current().file_pools.lock().len() < 100);
    }
}
