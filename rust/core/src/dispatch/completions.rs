//! What is finished, on its way to one event loop: a list, and a descriptor that wakes the loop. Producers are any
//! threads; the consumer is the loop's thread alone.
//!
//! # Invariant
//! **While the list is not empty, the signal has been raised since it last was, or somebody has promised to raise it**:
//! who made it non-empty ([`Completions::push`] returned true), or the consumer that left something in it
//! ([`Completions::take`] returned true, or [`Completions::put_back`]). So a thousand completions cost one system call.
//!
//! The consumer lowers the signal *before* it takes. A push between the two finds the list non-empty and stays silent,
//! and its item is taken with the others; a push after the taking finds it empty and raises the signal anew. The worst
//! case is a wake-up for an empty list.
//!
//! A producer may put off its promise for as long as it runs nothing that may block: a worker that holds the
//! interpreter's lock raises the signal after it let the lock go.
//!
//! # Closing
//! When the loop is gone the list is closed: what lies in it is given back to be dropped, later pushes are refused, and
//! the descriptor is closed at once, whoever still holds the list.

use std::collections::VecDeque;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

pub struct Completions<T> {
    list: Mutex<VecDeque<T>>,
    /// Written under the list's lock.
    closed: AtomicBool,
    signal: Mutex<Option<Signal>>,
}

impl<T> Completions<T> {
    pub fn new(signal: Signal) -> Self {
        Self { list: Mutex::default(), closed: AtomicBool::new(false), signal: Mutex::new(Some(signal)) }
    }

    /// Appends. `Ok(true)`: the caller owes a [`Completions::raise`]. `Err`: the loop is gone.
    pub fn push(&self, item: T) -> Result<bool, T> {
        let mut list = self.list.lock();
        if self.is_closed() {
            return Err(item);
        }
        list.push_back(item);
        Ok(list.len() == 1)
    }

    /// Wakes the loop.
    pub fn raise(&self) {
        if let Some(signal) = &*self.signal.lock() {
            signal.raise();
        }
    }

    /// Lowers the signal. To be called before [`Completions::take`].
    pub fn lower(&self) {
        if let Some(signal) = &*self.signal.lock() {
            signal.lower();
        }
    }

    /// Moves the oldest `max` items to `into`. True: some are left and the caller owes a [`Completions::raise`].
    pub fn take(&self, max: usize, into: &mut VecDeque<T>) -> bool {
        let mut list = self.list.lock();
        if list.len() <= max && into.is_empty() {
            std::mem::swap(&mut *list, into);
            return false;
        }
        let n = list.len().min(max);
        into.extend(list.drain(..n));
        !list.is_empty()
    }

    /// Puts items that were taken back to the front. True: the caller owes a [`Completions::raise`].
    pub fn put_back(&self, items: VecDeque<T>) -> bool {
        let mut list = self.list.lock();
        if self.is_closed() {
            drop(list);
            return false;
        }
        for item in items.into_iter().rev() {
            list.push_front(item);
        }
        !list.is_empty()
    }

    /// The loop is gone. Gives back what it will never take.
    pub fn close(&self) -> VecDeque<T> {
        *self.signal.lock() = None;
        let mut list = self.list.lock();
        self.closed.store(true, Ordering::Relaxed);
        std::mem::take(&mut *list)
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

#[cfg(not(loom))]
pub use signal::Signal;

#[cfg(loom)]
pub use model::Signal;

#[cfg(not(loom))]
mod signal {
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use crate::{Error, Result};

    /// A descriptor that polls readable while it is raised: an eventfd, or a pipe where there is none.
    pub struct Signal {
        reader: OwnedFd,
        #[cfg(not(target_os = "linux"))]
        writer: OwnedFd,
    }

    impl Signal {
        #[cfg(target_os = "linux")]
        pub fn new() -> Result<Self> {
            use rustix::event::{EventfdFlags, eventfd};
            let reader =
                eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(Error::io("make an eventfd"))?;
            Ok(Self { reader })
        }

        #[cfg(not(target_os = "linux"))]
        pub fn new() -> Result<Self> {
            use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
            use rustix::io::{FdFlags, fcntl_setfd};
            let (reader, writer) = rustix::pipe::pipe().map_err(Error::io("make a pipe"))?;
            for end in [&reader, &writer] {
                fcntl_setfd(end, FdFlags::CLOEXEC).map_err(Error::io("set up a pipe"))?;
                let flags = fcntl_getfl(end).map_err(Error::io("set up a pipe"))?;
                fcntl_setfl(end, flags | OFlags::NONBLOCK).map_err(Error::io("set up a pipe"))?;
            }
            Ok(Self { reader, writer })
        }

        // A full pipe or counter is a raised signal, so failure to write is success; nothing else can fail here.

        #[cfg(target_os = "linux")]
        pub fn raise(&self) {
            let _ = rustix::io::write(&self.reader, &1_u64.to_ne_bytes());
        }

        #[cfg(not(target_os = "linux"))]
        pub fn raise(&self) {
            let _ = rustix::io::write(&self.writer, b"!");
        }

        pub fn lower(&self) {
            let mut buffer = [0_u8; 64];
            while matches!(rustix::io::read(&self.reader, &mut buffer), Ok(n) if n == buffer.len()) {}
        }
    }

    impl AsFd for Signal {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.reader.as_fd()
        }
    }
}

#[cfg(loom)]
mod model {
    use crate::sync::{Arc, Condvar, Mutex, wait};

    /// The signal as loom sees it.
    #[derive(Clone, Default)]
    pub struct Signal(Arc<(Mutex<bool>, Condvar)>);

    impl Signal {
        pub fn raise(&self) {
            *self.0.0.lock() = true;
            self.0.1.notify_one();
        }

        pub fn lower(&self) {
            *self.0.0.lock() = false;
        }

        /// As a loop's poll does.
        pub fn poll(&self) {
            let mut raised = self.0.0.lock();
            while !*raised {
                raised = wait(&self.0.1, raised);
            }
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod tests {
    use super::*;
    use crate::sync::{Arc, thread};

    /// A loop that polls, takes one at a time, and stops when it has `n`: a lost wake-up is a deadlock.
    fn receive(completions: &Completions<u32>, signal: &Signal, n: usize, interrupted: bool) -> Vec<u32> {
        let mut received = Vec::new();
        let mut interrupt = interrupted;
        while received.len() < n {
            signal.poll();
            completions.lower();
            let mut batch = VecDeque::new();
            if completions.take(1, &mut batch) {
                completions.raise();
            }
            if std::mem::take(&mut interrupt) {
                if completions.put_back(batch) {
                    completions.raise();
                }
                continue;
            }
            received.extend(batch);
        }
        received
    }

    fn check(interrupted: bool) {
        loom::model(move || {
            let signal = Signal::default();
            let completions = Arc::new(Completions::new(signal.clone()));
            let producers: Vec<_> = [1, 2]
                .into_iter()
                .map(|item| {
                    let completions = Arc::clone(&completions);
                    thread::spawn(move || {
                        if completions.push(item) == Ok(true) {
                            completions.raise();
                        }
                    })
                })
                .collect();
            let mut received = receive(&completions, &signal, 2, interrupted);
            received.sort_unstable();
            assert_eq!(received, [1, 2]);
            for producer in producers {
                producer.join().unwrap();
            }
        });
    }

    #[test]
    fn every_completion_wakes_the_loop_or_rides_with_one_that_does() {
        check(false);
    }

    #[test]
    fn what_an_interrupt_left_over_comes_back() {
        check(true);
    }

    #[test]
    fn a_push_to_a_loop_that_goes_is_taken_or_given_back() {
        loom::model(|| {
            let completions = Arc::new(Completions::new(Signal::default()));
            let producer = {
                let completions = Arc::clone(&completions);
                thread::spawn(move || match completions.push(1) {
                    Ok(_) => {
                        completions.raise();
                        0
                    }
                    Err(_) => 1,
                })
            };
            let left = completions.close().len();
            assert_eq!(left + producer.join().unwrap(), 1);
        });
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_signal_is_readable_from_raise_to_lower() {
        let signal = Signal::new().unwrap();
        let pending = |signal: &Signal| {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let mut fds = [PollFd::from_borrowed_fd(signal.as_fd(), PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
        };
        assert!(!pending(&signal));
        signal.raise();
        signal.raise();
        assert!(pending(&signal));
        signal.lower();
        assert!(!pending(&signal));
    }

    #[test]
    fn taking_is_capped_and_says_what_is_left() {
        let completions = Completions::new(Signal::new().unwrap());
        assert_eq!([1, 2, 3].map(|item| completions.push(item).unwrap()), [true, false, false]);
        let mut batch = VecDeque::new();
        assert!(completions.take(2, &mut batch));
        assert_eq!(batch, [1, 2]);
        assert!(completions.put_back(batch));
        let mut batch = VecDeque::new();
        assert!(!completions.take(8, &mut batch));
        assert_eq!(batch, [1, 2, 3]);
    }
}
