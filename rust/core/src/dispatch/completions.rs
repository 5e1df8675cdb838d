//! What is finished, on its way to one event loop: a list, and two descriptors that wake the loop, one at once and one
//! after a while. Producers are any threads; the consumer is the loop's thread alone.
//!
//! # Invariant
//! **While the list is not empty, the loop has been told of it since it last took something, or the alarm is set, or
//! somebody has promised to tell**: who appended while the loop was not told ([`Completions::push`] returned true), or the
//! consumer that left something in it ([`Completions::take`] returned true, or [`Completions::put_back`]). So a thousand
//! completions cost one system call.
//!
//! The consumer lowers the signal *before* it takes. A push between the two finds the loop told and stays silent, and its
//! item is taken with the others; a push after the taking finds it untold and raises the signal anew. The worst case is a
//! wake-up for an empty list.
//!
//! # Telling at once, or soon
//! A turn of a loop costs more than many a job, and what only one thread can have at a time (in the binding: the
//! interpreter's lock) has to change hands for it. A worker that goes on to its next job, which may block, sets the alarm:
//! the loop is told of all that is finished by then, [`SOON`] later at the latest. A worker that has nothing more to do
//! tells it at once. The alarm is the kernel's, so no thread has to stay awake for it. Whether it is set changes only under
//! the list's lock, together with the alarm itself.
//!
//! # Closing
//! When the loop is gone the list is closed: what lies in it is given back to be dropped, later pushes are refused, and
//! the descriptors are closed at once, whoever still holds the list. They have a lock of their own; who takes both takes the
//! list's first.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::signal::{Alarm, Signal};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// What is finished waits for the loop so long at most while the worker that did it goes on.
const SOON: Duration = Duration::from_micros(200);

/// A loop that has not come for so long is held up.
const LATE: Duration = Duration::from_micros(300);

struct List<T> {
    items: VecDeque<T>,
    /// The signal was raised, or will be by who set this.
    told: bool,
    armed: bool,
    /// When the list was last empty, and ceased to be.
    since: Instant,
}

pub struct Completions<T> {
    list: Mutex<List<T>>,
    /// Written under the list's lock; who reads it without that may do so too early, and finds out by a push.
    closed: AtomicBool,
    bells: Mutex<Option<(Signal, Alarm)>>,
}

impl<T> Completions<T> {
    pub fn new(signal: Signal, alarm: Alarm) -> Self {
        Self {
            list: Mutex::new(List { items: VecDeque::new(), told: false, armed: false, since: Instant::now() }),
            closed: AtomicBool::new(false),
            bells: Mutex::new(Some((signal, alarm))),
        }
    }

    /// Appends. `Ok(true)`: the caller owes a [`Completions::raise`] or [`Completions::raise_soon`]. `Err`: the loop is gone.
    pub fn push(&self, item: T) -> Result<bool, T> {
        let mut list = self.list.lock();
        if self.is_closed() {
            return Err(item);
        }
        if list.items.is_empty() {
            list.since = Instant::now();
        }
        list.items.push_back(item);
        Ok(!list.told)
    }

    /// Wakes the loop, if there is something that it wasn't told of.
    pub fn raise(&self) {
        if self.promise() {
            self.signal();
        }
    }

    /// As [`Completions::raise`], for a caller that will wake the loop in another way if this returns true.
    pub fn promise(&self) -> bool {
        let mut list = self.list.lock();
        let untold = !list.told && !list.items.is_empty();
        list.told |= untold;
        untold
    }

    /// Wakes the loop after [`SOON`] at the latest; at once where there is no alarm.
    pub fn raise_soon(&self) {
        let mut list = self.list.lock();
        if list.told || list.armed || list.items.is_empty() {
            return;
        }
        let alarmed = self.bells.lock().as_ref().is_some_and(|(_, alarm)| alarm.set(SOON));
        list.armed = alarmed;
        drop(list);
        if !alarmed {
            self.raise();
        }
    }

    /// Raises the signal, for who has promised to.
    pub fn signal(&self) {
        if let Some((signal, _)) = &*self.bells.lock() {
            signal.raise();
        }
    }

    /// Whether the loop should have come by now.
    pub fn is_late(&self) -> bool {
        let list = self.list.lock();
        !list.items.is_empty() && list.since.elapsed() > LATE
    }

    /// Lowers the signal and the alarm. To be called before [`Completions::take`].
    pub fn lower(&self) {
        let mut list = self.list.lock();
        if let Some((signal, alarm)) = &*self.bells.lock() {
            signal.lower();
            if std::mem::take(&mut list.armed) {
                alarm.stop();
            }
        }
    }

    /// Moves the oldest `max` items to `into`. True: some are left and the caller owes a [`Completions::raise`].
    pub fn take(&self, max: usize, into: &mut VecDeque<T>) -> bool {
        let mut list = self.list.lock();
        list.told = false;
        if list.items.len() <= max && into.is_empty() {
            std::mem::swap(&mut list.items, into);
            return false;
        }
        let n = list.items.len().min(max);
        into.extend(list.items.drain(..n));
        !list.items.is_empty()
    }

    /// Looks at what is in the list, which is locked meanwhile.
    pub fn each<E>(&self, look: impl FnMut(&T) -> Result<(), E>) -> Result<(), E> {
        self.list.lock().items.iter().try_for_each(look)
    }

    /// Puts items that were taken back to the front. True: the caller owes a [`Completions::raise`].
    pub fn put_back(&self, items: VecDeque<T>) -> bool {
        let mut list = self.list.lock();
        if self.is_closed() {
            drop(list);
            return false;
        }
        for item in items.into_iter().rev() {
            list.items.push_front(item);
        }
        !list.items.is_empty()
    }

    /// The loop is gone. Gives back what it will never take.
    pub fn close(&self) -> VecDeque<T> {
        *self.bells.lock() = None;
        let mut list = self.list.lock();
        self.closed.store(true, Ordering::Relaxed);
        std::mem::take(&mut list.items)
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
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

    /// One producer tells the loop at once, the other soon.
    fn check(interrupted: bool) {
        loom::model(move || {
            let signal = Signal::default();
            let completions = Arc::new(Completions::new(signal.clone(), Alarm(signal.clone())));
            let producers: Vec<_> = [1, 2]
                .into_iter()
                .map(|item| {
                    let completions = Arc::clone(&completions);
                    thread::spawn(move || match completions.push(item) {
                        Ok(true) if item == 1 => completions.raise_soon(),
                        Ok(true) => completions.raise(),
                        pushed => assert_eq!(pushed, Ok(false)),
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

    /// A loop that takes once and goes, beside a producer that tells it by `tell`.
    fn check_going(tell: fn(&Completions<u32>)) {
        loom::model(move || {
            let signal = Signal::default();
            let completions = Arc::new(Completions::new(signal.clone(), Alarm(signal)));
            let producer = {
                let completions = Arc::clone(&completions);
                thread::spawn(move || {
                    let refused = completions.push(1).is_err();
                    tell(&completions);
                    usize::from(refused)
                })
            };
            completions.lower();
            let mut taken = VecDeque::new();
            completions.take(1, &mut taken);
            let left = completions.close().len();
            assert_eq!(taken.len() + left + producer.join().unwrap(), 1);
            assert!(completions.bells.lock().is_none() && completions.close().is_empty());
        });
    }

    #[test]
    fn a_push_to_a_loop_that_goes_is_taken_or_given_back() {
        check_going(Completions::raise);
    }

    #[test]
    fn an_alarm_for_a_loop_that_goes_is_set_before_or_not_at_all() {
        check_going(Completions::raise_soon);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn taking_is_capped_and_says_what_is_left() {
        let completions = Completions::new(Signal::new().unwrap(), Alarm::new().unwrap());
        assert_eq!([1, 2].map(|item| completions.push(item).unwrap()), [true, true]);
        completions.raise();
        assert!(!completions.push(3).unwrap());
        let mut batch = VecDeque::new();
        assert!(completions.take(2, &mut batch));
        assert_eq!(batch, [1, 2]);
        assert!(completions.put_back(batch));
        let mut batch = VecDeque::new();
        assert!(!completions.take(8, &mut batch));
        assert_eq!(batch, [1, 2, 3]);
    }
}
