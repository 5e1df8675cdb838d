//! Whose something is after a fork. A child has all that its parent had, but none of the parent's threads: what these had
//! locked at that moment is so for ever, and may be half changed. Whoever keeps a lock that a thread may hold then has an
//! [`Origin`], and asks it first.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Forks that lie between the process that loaded the library and this one. Changed when a process has but one thread.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// The process in which something was made. Its number would not do: the kernel gives those again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin(usize);

impl Origin {
    /// That of an ancestor, in every process.
    #[cfg(test)]
    pub const ANCESTOR: Self = Self(usize::MAX);

    /// This process.
    pub fn here() -> Self {
        Self(FORKS.load(Relaxed))
    }

    /// Whether it is an ancestor of this process.
    pub fn is_ancestor(self) -> bool {
        self != Self::here()
    }
}

/// To be called in a forked child.
pub(crate) fn note() {
    FORKS.fetch_add(1, Relaxed);
}
