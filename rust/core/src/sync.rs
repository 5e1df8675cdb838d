//! The seam to loom: the concurrent parts take their locks, condition variables and atomics from here, so that
//! `RUSTFLAGS="--cfg loom"` runs the real code under the model checker.
//!
//! Outside loom they are std's, whose futexes keep no table for the whole process. In a forked child such a table, which
//! parking_lot has, lists threads that waited in the parent, by memory that the child's own threads then get: who waits
//! beside one of them may never be woken. Poisoning is switched off: no code between `lock` and drop may panic half way
//! through a change.

#[cfg(loom)]
use loom::sync as imp;
#[cfg(not(loom))]
use std::sync as imp;

pub use imp::{Arc, Condvar, MutexGuard, atomic};

#[cfg(loom)]
pub use loom::thread;
#[cfg(not(loom))]
pub use std::thread;

use std::sync::{PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// A mutex without poisoning.
#[derive(Debug, Default)]
pub struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    #[cfg(not(loom))]
    pub const fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    #[cfg(loom)]
    pub fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None where another has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `Condvar::wait` without poisoning.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// `Condvar::wait_timeout` without poisoning. Says nothing of the reason it returned: look at the state and the clock.
pub fn wait_timeout<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>, limit: Duration) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
}

/// As [`wait_timeout`], for who does something itself when the time is over: the model tries that it is, at any moment.
#[cfg(not(loom))]
pub fn doze<'a, T>(_: &'a Mutex<T>, condvar: &Condvar, guard: MutexGuard<'a, T>, limit: Duration) -> MutexGuard<'a, T> {
    wait_timeout(condvar, guard, limit)
}

/// The time. In a model it stands still: what an execution does must not depend on how long it takes.
#[cfg(not(loom))]
pub fn now() -> Instant {
    Instant::now()
}

#[cfg(loom)]
pub fn now() -> Instant {
    static NOW: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *NOW.get_or_init(Instant::now)
}

#[cfg(loom)]
pub fn doze<'a, T>(mutex: &'a Mutex<T>, _: &Condvar, guard: MutexGuard<'a, T>, _: Duration) -> MutexGuard<'a, T> {
    drop(guard);
    thread::yield_now();
    mutex.lock()
}
