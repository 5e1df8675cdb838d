//! The thread that frees what takes long to free: closing an unlinked file of 1 GiB takes a quarter of a second, and
//! unmapping one a third of that, which no event loop should wait for. It also unmaps slabs that have been idle for
//! too long. Started at first need, it ends when it has had nothing to do for a while.

use super::Pools;
use super::slab::IDLE_AGE;
use crate::sync::{Condvar, Mutex, wait_timeout};
use std::any::Any;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// What is freed here rather than where it is dropped, in bytes.
pub(crate) const LARGE: u64 = 1 << 20;

const TICK: Duration = Duration::from_secs(1);
const THREAD_NAME: &str = "penstock-reaper";

#[derive(Default)]
struct State {
    queue: Vec<Box<dyn Any + Send>>,
    running: bool,
    busy: bool,
    trim: bool,
}

#[derive(Default)]
pub(super) struct Reaper {
    state: Mutex<State>,
    wake: Condvar,
    idle: Condvar,
}

/// Drops `value`, which holds `size` bytes: here if that is quick, else on the reaper's thread.
pub(crate) fn drop_large(size: u64, value: impl Send + 'static) {
    if size >= LARGE {
        Pools::current().submit(Some(Box::new(value)));
    }
}

/// Sees to it that idle slabs go when their time has come.
pub(super) fn trim_later() {
    Pools::current().submit(None);
}

/// Waits until everything handed over so far is freed, at most `timeout`; true if it is.
pub fn settle(timeout: Duration) -> bool {
    let pools = Pools::current();
    let until = Instant::now() + timeout;
    let mut state = pools.reaper.state.lock();
    while state.busy || !state.queue.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        state = wait_timeout(&pools.reaper.idle, state, left);
    }
    true
}

/// Whether the thread is there.
pub fn is_running() -> bool {
    Pools::current().reaper.state.lock().running
}

impl Pools {
    fn submit(self: Arc<Self>, value: Option<Box<dyn Any + Send>>) {
        let mut state = self.reaper.state.lock();
        match value {
            Some(value) => {
                state.queue.push(value);
                self.reaper.wake.notify_one();
            }
            None => state.trim = true,
        }
        if !state.running {
            let pools = self.clone();
            // Without a thread to be had, the next one who has something for it tries again.
            state.running = thread::Builder::new().name(THREAD_NAME.into()).spawn(move || pools.reap()).is_ok();
        }
    }

    fn reap(&self) {
        let mut state = self.reaper.state.lock();
        let mut last = Instant::now();
        let mut next = last + TICK;
        loop {
            let garbage = std::mem::take(&mut state.queue);
            if garbage.is_empty() {
                let left = next.saturating_duration_since(Instant::now());
                state = wait_timeout(&self.reaper.wake, state, left);
            } else {
                state.busy = true;
                drop(state);
                for item in garbage {
                    drop(item);
                    // For a loop on this processor, which would wait for the rest of the time slice.
                    thread::yield_now();
                }
                state = self.reaper.state.lock();
                state.busy = false;
                self.reaper.idle.notify_all();
                last = Instant::now();
            }
            if Instant::now() < next {
                continue;
            }
            next = Instant::now() + TICK;
            // Taken before the look, as more may come after it.
            if std::mem::take(&mut state.trim) {
                drop(state);
                let left = self.trim();
                state = self.reaper.state.lock();
                state.trim |= left;
            }
            if last.elapsed() >= IDLE_AGE && !state.trim && state.queue.is_empty() {
                state.running = false;
                return;
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    #[test]
    fn who_could_not_have_the_thread_tries_again_though_nothing_large_is_dropped() {
        let pools = Pools::current();
        let before = getrlimit(Resource::As);
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let in_use = pages * rustix::param::page_size() as u64;
        // Less than a thread's stack is left.
        setrlimit(Resource::As, Rlimit { current: Some(in_use + (1 << 20)), ..before }).unwrap();
        pools.clone().submit(None);
        setrlimit(Resource::As, before).unwrap();
        // It may have been had all the same, if tests that ran before in this process left a stack.
        pools.submit(None);
        assert!(is_running());
    }
}
