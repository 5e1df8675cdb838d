//! What bodies share in a process: the free lists of slabs and the reaper's queue. A forked child gets new ones: the
//! locks of the old may be held there by threads that do not exist, and memory and files that were alive at the fork
//! belong to both processes.

use super::reaper::Reaper;
use super::slab::{IDLE_CAP, SlabPool};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub struct Pools {
    pub slabs: Arc<SlabPool>,
    pub(super) reaper: Reaper,
}

/// Slot `GENERATION % SLOTS` is current. A child moves on by one slot without touching a lock that its parent used.
const SLOTS: usize = 64;
static SLOT: [RwLock<Option<Arc<Pools>>>; SLOTS] = [const { RwLock::new(None) }; SLOTS];
static GENERATION: AtomicUsize = AtomicUsize::new(0);

impl Pools {
    fn new() -> Arc<Self> {
        let idle_cap = usize::try_from(super::budget::memory_limit() / 16).unwrap_or(IDLE_CAP).min(IDLE_CAP);
        Arc::new(Self { slabs: Arc::new(SlabPool::new(idle_cap)), reaper: Reaper::default() })
    }

    pub fn current() -> Arc<Self> {
        let Some(slot) = SLOT.get(GENERATION.load(Relaxed) % SLOTS) else { return Self::new() };
        if let Some(pools) = &*slot.read() {
            return pools.clone();
        }
        slot.write().get_or_insert_with(Self::new).clone()
    }

    /// How many forks lie between this process and the one that loaded the library.
    pub fn generation() -> usize {
        GENERATION.load(Relaxed)
    }

    /// To be called in a forked child before anything else of this crate.
    pub fn after_fork_in_child() {
        let old = GENERATION.fetch_add(1, Relaxed) % SLOTS;
        // Reading through the lock could wait for a thread that is gone.
        if let Some(pools) = SLOT.get(old).and_then(|slot| slot.try_read().and_then(|pools| pools.clone())) {
            pools.slabs.abandon();
            // Its destructors would unmap and close for nothing, under locks of unknown state.
            std::mem::forget(pools);
        }
    }
}
