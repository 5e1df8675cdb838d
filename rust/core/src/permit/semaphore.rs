//! A fair semaphore for any number of event loops and threads. It knows neither: a waiter is a closure that is called
//! once, with a [`Grant`] or with an error.
//!
//! # States of a waiter
//! ```text
//!   acquire() ──▶ QUEUED ──▶ GRANTED: its wake was called with a Grant
//!                   │  └───▶ FAILED:  its wake was called with SemaphoreClosed
//!                   └──────▶ GONE:    its ticket was cancelled or dropped; its wake is dropped uncalled
//! ```
//! All transitions happen under the one lock; whoever removes the waiter from the queue decides. So cancellation and
//! hand-over can't both win.
//!
//! # Invariants
//! - **No permit is lost.** A permit is free, or in a [`Grant`], or was taken over for good by [`Grant::forget`]. A
//!   grant's drop gives it back. Whoever is woken too late to use its grant (cancelled in between, its loop closed) just
//!   drops it, and it goes to the next waiter.
//! - **No overtaking.** Permits go to the oldest waiter, or to nobody: one that wants five holds up those behind it,
//!   and who comes while somebody waits waits too, however many are free.
//! - **No lost wake-up.** After each step that could satisfy the oldest waiter (permits came back, the oldest waiter
//!   left) somebody goes on handing over until it can't be satisfied. There is one such hand at a time: `handing` says
//!   that somebody is at it and will look again, under the lock, before stopping. So wakes are called outside of the
//!   lock, in order, and a grant that is dropped inside a wake costs no recursion, however many dead waiters follow.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use crate::sync::{Arc, Condvar, Mutex, MutexGuard, wait, wait_timeout};
use crate::{Error, Result};

type Wake = Box<dyn FnOnce(Result<Grant>) + Send>;

struct Waiter {
    wanted: usize,
    wake: Wake,
}

struct State {
    free: usize,
    /// By arrival.
    waiters: BTreeMap<u64, Waiter>,
    /// Counts those who waited, too.
    arrivals: u64,
    hand_overs: u64,
    handing: bool,
    closed: bool,
}

/// What a semaphore has done and what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    pub free: usize,
    pub waiting: usize,
    /// How many had to wait for their permits.
    pub waits: u64,
    /// How many of them were given what they waited for.
    pub hand_overs: u64,
}

/// A handle; its clones are the same semaphore.
#[derive(Clone)]
pub struct Semaphore(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    total: usize,
}

/// What [`Semaphore::acquire`] gives at once.
pub enum Acquire {
    Granted(Grant),
    /// The wake will be called, unless the ticket is cancelled or dropped first.
    Queued(Ticket),
}

impl Semaphore {
    /// A semaphore with `permits` of them.
    pub fn new(permits: usize) -> Self {
        let state = State {
            free: permits,
            waiters: BTreeMap::new(),
            arrivals: 0,
            hand_overs: 0,
            handing: false,
            closed: false,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), total: permits }))
    }

    pub fn total(&self) -> usize {
        self.0.total
    }

    pub fn free(&self) -> usize {
        self.0.state.lock().free
    }

    pub fn waiting(&self) -> usize {
        self.0.state.lock().waiters.len()
    }

    pub fn figures(&self) -> Figures {
        let state = self.0.state.lock();
        Figures { free: state.free, waiting: state.waiters.len(), waits: state.arrivals, hand_overs: state.hand_overs }
    }

    pub fn is_closed(&self) -> bool {
        self.0.state.lock().closed
    }

    /// Takes `n` permits if they are free and nobody waits, for good: [`Semaphore::release`] gives them back.
    pub fn take(&self, n: usize) -> Result<bool> {
        self.check(n)?;
        let mut state = self.0.state.lock();
        if state.closed {
            return Err(Error::SemaphoreClosed);
        }
        Ok(take(&mut state, n))
    }

    /// [`Semaphore::take`] as a value whose drop gives the permits back.
    pub fn try_acquire(&self, n: usize) -> Result<Option<Grant>> {
        Ok(self.take(n)?.then(|| Grant::new(self, n)))
    }

    /// Takes `n` permits, or queues `wake`, which is called from whatever thread hands them over.
    pub fn acquire(&self, n: usize, wake: impl FnOnce(Result<Grant>) + Send + 'static) -> Result<Acquire> {
        self.check(n)?;
        let mut state = self.0.state.lock();
        if state.closed {
            return Err(Error::SemaphoreClosed);
        }
        if take(&mut state, n) {
            return Ok(Acquire::Granted(Grant::new(self, n)));
        }
        let arrival = state.arrivals;
        state.arrivals += 1;
        state.waiters.insert(arrival, Waiter { wanted: n, wake: Box::new(wake) });
        Ok(Acquire::Queued(Ticket { semaphore: self.clone(), arrival }))
    }

    /// Queues the calling thread for `n` permits, among everybody else.
    pub fn enqueue(&self, n: usize) -> Result<Waiting> {
        let answer = Arc::new(Answer { grant: Mutex::new(None), arrived: Condvar::new() });
        let theirs = Arc::clone(&answer);
        let acquired = self.acquire(n, move |grant| {
            *theirs.grant.lock() = Some(grant);
            theirs.arrived.notify_one();
        })?;
        let ticket = match acquired {
            Acquire::Granted(grant) => {
                *answer.grant.lock() = Some(Ok(grant));
                None
            }
            Acquire::Queued(ticket) => Some(ticket),
        };
        Ok(Waiting { ticket, answer })
    }

    /// Blocks the thread for `n` permits; `None` when `timeout` passed first.
    pub fn acquire_blocking(&self, n: usize, timeout: Option<Duration>) -> Result<Option<Grant>> {
        self.enqueue(n)?.wait(timeout)
    }

    /// Gives back `n` permits that were taken for good.
    pub fn release(&self, n: usize) -> Result<()> {
        let mut state = self.0.state.lock();
        // What is neither free nor in a waiter's hands is held by somebody; more can't come back.
        match state.free.checked_add(n) {
            Some(free) if free <= self.0.total => state.free = free,
            _ => return Err(Error::Permit("released more permits than were acquired")),
        }
        self.hand_over(state);
        Ok(())
    }

    /// Fails those that wait, and everybody who comes later. Permits that are held stay valid.
    pub fn close(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        for waiter in waiters.into_values() {
            (waiter.wake)(Err(Error::SemaphoreClosed));
        }
    }

    fn check(&self, n: usize) -> Result<()> {
        match NonZeroUsize::new(n) {
            Some(n) if n.get() <= self.0.total => Ok(()),
            _ => Err(Error::Setting {
                name: "n",
                value: n.to_string(),
                reason: format!("must be from 1 to the semaphore's {} permits", self.0.total),
            }),
        }
    }

    /// The hand: see the invariants. A wake must not panic.
    fn hand_over<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if std::mem::replace(&mut state.handing, true) {
            return;
        }
        while let Some(waiter) = next(&mut state) {
            drop(state);
            (waiter.wake)(Ok(Grant::new(self, waiter.wanted)));
            state = self.0.state.lock();
        }
        state.handing = false;
    }
}

fn take(state: &mut State, n: usize) -> bool {
    let free = state.waiters.is_empty() && state.free >= n;
    if free {
        state.free -= n;
    }
    free
}

/// The oldest waiter, if what is free is enough for it.
fn next(state: &mut State) -> Option<Waiter> {
    let oldest = state.waiters.first_entry()?;
    let wanted = oldest.get().wanted;
    (wanted <= state.free).then(|| {
        state.free -= wanted;
        state.hand_overs += 1;
        oldest.remove()
    })
}

/// Permits that are held; its drop gives them back.
#[must_use]
pub struct Grant {
    semaphore: Option<Semaphore>,
    n: usize,
}

impl Grant {
    fn new(semaphore: &Semaphore, n: usize) -> Self {
        Self { semaphore: Some(semaphore.clone()), n }
    }

    /// Takes charge of permits that were taken for good.
    pub fn adopt(semaphore: &Semaphore, n: usize) -> Self {
        Self::new(semaphore, n)
    }

    /// Keeps the permits for good: [`Semaphore::release`] gives them back.
    pub fn forget(mut self) {
        self.semaphore = None;
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(semaphore) = self.semaphore.take() {
            let mut state = semaphore.0.state.lock();
            state.free += self.n;
            semaphore.hand_over(state);
        }
    }
}

/// A place in the queue; its drop leaves it.
#[must_use]
pub struct Ticket {
    semaphore: Semaphore,
    arrival: u64,
}

impl Ticket {
    /// Leaves the queue. False: the hand-over came first, and the wake has the permits or the error.
    pub fn cancel(self) -> bool {
        self.leave()
    }

    fn leave(&self) -> bool {
        let mut state = self.semaphore.0.state.lock();
        let left = state.waiters.remove(&self.arrival);
        let was_waiting = left.is_some();
        if was_waiting {
            // It may have been the oldest one, that wanted more than those behind it do.
            self.semaphore.hand_over(state);
        } else {
            drop(state);
        }
        drop(left);
        was_waiting
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave();
    }
}

struct Answer {
    grant: Mutex<Option<Result<Grant>>>,
    arrived: Condvar,
}

/// A thread's place in the queue; its drop leaves it.
pub struct Waiting {
    ticket: Option<Ticket>,
    answer: Arc<Answer>,
}

impl Waiting {
    /// Blocks for at most `limit`; `None` when it passed first: the place is kept, and `wait` may be called again.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<Option<Grant>> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut answer = self.answer.grant.lock();
        while answer.is_none() {
            answer = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => wait(&self.answer.arrived, answer),
                Some(Duration::ZERO) => return Ok(None),
                Some(left) => wait_timeout(&self.answer.arrived, answer, left),
            };
        }
        self.ticket = None;
        answer.take().transpose()
    }
}

#[cfg(test)]
#[cfg(loom)]
mod model {
    use super::*;
    use crate::sync::thread;

    type Kept = Arc<Mutex<Vec<Grant>>>;

    /// A waiter that keeps its grant in a box.
    fn queue(semaphore: &Semaphore, kept: &Kept) -> Ticket {
        let kept = Arc::clone(kept);
        match semaphore.acquire(1, move |grant| kept.lock().extend(grant.ok())).unwrap() {
            Acquire::Queued(ticket) => ticket,
            Acquire::Granted(_) => panic!("nothing is free"),
        }
    }

    fn queue_or_keep(semaphore: &Semaphore, kept: &Kept) -> Option<Ticket> {
        let theirs = Arc::clone(kept);
        match semaphore.acquire(1, move |grant| theirs.lock().extend(grant.ok())).unwrap() {
            Acquire::Queued(ticket) => Some(ticket),
            Acquire::Granted(grant) => {
                kept.lock().push(grant);
                None
            }
        }
    }

    fn all_free(semaphore: &Semaphore) {
        let state = semaphore.0.state.lock();
        assert!(state.free == semaphore.0.total && state.waiters.is_empty() && !state.handing);
    }

    #[test]
    fn a_waiter_that_is_cancelled_while_a_permit_comes_back_loses_none() {
        loom::model(|| {
            let semaphore = Semaphore::new(1);
            let held = semaphore.try_acquire(1).unwrap();
            let kept = Kept::default();
            let ticket = queue(&semaphore, &kept);
            let releaser = thread::spawn(move || drop(held));
            let left = ticket.cancel();
            releaser.join().unwrap();
            assert_eq!(kept.lock().len(), usize::from(!left));
            kept.lock().clear();
            all_free(&semaphore);
        });
    }

    #[test]
    fn the_next_waiter_gets_the_permit_that_a_cancelled_one_was_to_have() {
        loom::model(|| {
            let semaphore = Semaphore::new(1);
            let held = semaphore.try_acquire(1).unwrap();
            let (first, second) = (Kept::default(), Kept::default());
            let ticket = queue(&semaphore, &first);
            let other = queue(&semaphore, &second);
            let releaser = thread::spawn(move || drop(held));
            ticket.cancel();
            // As a task does that was cancelled after the hand-over.
            first.lock().pop();
            releaser.join().unwrap();
            first.lock().pop();
            assert_eq!(second.lock().len(), 1);
            drop(other);
            second.lock().clear();
            all_free(&semaphore);
        });
    }

    #[test]
    fn a_waiter_that_is_dead_passes_the_permit_on() {
        loom::model(|| {
            let semaphore = Semaphore::new(1);
            let held = semaphore.try_acquire(1).unwrap();
            let dead = match semaphore.acquire(1, drop).unwrap() {
                Acquire::Queued(ticket) => ticket,
                Acquire::Granted(_) => panic!("nothing is free"),
            };
            let kept = Kept::default();
            let ticket = queue(&semaphore, &kept);
            let releaser = thread::spawn(move || drop(held));
            drop(dead);
            releaser.join().unwrap();
            assert_eq!(kept.lock().len(), 1);
            drop(ticket);
            kept.lock().clear();
            all_free(&semaphore);
        });
    }

    #[test]
    fn who_asks_while_a_permit_comes_back_never_overtakes_the_waiter() {
        loom::model(|| {
            let semaphore = Semaphore::new(1);
            let held = semaphore.try_acquire(1).unwrap();
            let kept = Kept::default();
            let ticket = queue(&semaphore, &kept);
            let releaser = thread::spawn(move || drop(held));
            assert!(semaphore.try_acquire(1).unwrap().is_none());
            releaser.join().unwrap();
            assert_eq!(kept.lock().len(), 1);
            drop(ticket);
            kept.lock().clear();
            all_free(&semaphore);
        });
    }

    #[test]
    fn permits_that_come_back_from_several_threads_add_up_for_who_wants_them_all() {
        loom::model(|| {
            let semaphore = Semaphore::new(2);
            let kept = Kept::default();
            let releasers: Vec<_> = (0..2).map(|_| semaphore.try_acquire(1).unwrap()).collect();
            let theirs = Arc::clone(&kept);
            let waiter = semaphore.acquire(2, move |grant| theirs.lock().extend(grant.ok())).unwrap();
            let releasers: Vec<_> = releasers.into_iter().map(|held| thread::spawn(move || drop(held))).collect();
            for releaser in releasers {
                releaser.join().unwrap();
            }
            assert_eq!(kept.lock().len(), 1);
            drop(waiter);
            kept.lock().clear();
            all_free(&semaphore);
        });
    }

    #[test]
    fn a_waiter_that_passes_its_permit_on_and_asks_again_comes_after_the_next() {
        loom::model(|| {
            let semaphore = Semaphore::new(1);
            let held = semaphore.try_acquire(1).unwrap();
            let (first, second) = (Kept::default(), Kept::default());
            // As a waiter does whose loop has stopped, and runs again later.
            let (again, later) = (semaphore.clone(), Arc::clone(&first));
            let place = Arc::new(Mutex::new(None));
            let its_place = Arc::clone(&place);
            let stopped = semaphore.acquire(1, move |grant| {
                drop(grant);
                *its_place.lock() = Some(queue_or_keep(&again, &later));
            });
            let ticket = queue(&semaphore, &second);
            let releaser = thread::spawn(move || drop(held));
            releaser.join().unwrap();
            assert_eq!((first.lock().len(), second.lock().len()), (0, 1));
            second.lock().clear();
            assert_eq!(first.lock().len(), 1);
            first.lock().clear();
            drop((stopped, ticket, place));
            all_free(&semaphore);
        });
    }

    #[test]
    fn threads_that_compete_all_get_their_turn() {
        loom::model(|| {
            let semaphore = Semaphore::new(1);
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let semaphore = semaphore.clone();
                    thread::spawn(move || drop(semaphore.acquire_blocking(1, None).unwrap()))
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            all_free(&semaphore);
        });
    }

    #[test]
    fn closing_fails_a_waiter_or_comes_after_its_grant() {
        loom::model(|| {
            let semaphore = Semaphore::new(1);
            let held = semaphore.try_acquire(1).unwrap();
            let waiter = {
                let mut place = semaphore.enqueue(1).unwrap();
                thread::spawn(move || place.wait(None).is_ok())
            };
            let releaser = thread::spawn(move || drop(held));
            semaphore.close();
            releaser.join().unwrap();
            waiter.join().unwrap();
            all_free(&semaphore);
        });
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use std::thread;

    fn queue(semaphore: &Semaphore, n: usize, name: u32, order: &Arc<Mutex<Vec<(u32, Grant)>>>) -> Ticket {
        let order = Arc::clone(order);
        match semaphore.acquire(n, move |grant| order.lock().push((name, grant.unwrap()))).unwrap() {
            Acquire::Queued(ticket) => ticket,
            Acquire::Granted(_) => panic!("nothing is free"),
        }
    }

    #[test]
    fn nobody_overtakes_a_waiter_that_wants_more() {
        let semaphore = Semaphore::new(2);
        let one = semaphore.try_acquire(1).unwrap();
        let order = Arc::default();
        let two = queue(&semaphore, 2, 2, &order);
        assert!(semaphore.try_acquire(1).unwrap().is_none());
        let three = queue(&semaphore, 1, 3, &order);
        drop(one);
        assert_eq!(order.lock().iter().map(|entry| entry.0).collect::<Vec<_>>(), [2]);
        let given: Vec<_> = order.lock().drain(..).collect();
        drop(given);
        assert_eq!(order.lock().iter().map(|entry| entry.0).collect::<Vec<_>>(), [3]);
        drop((two, three));
    }

    #[test]
    fn a_waiter_behind_one_that_wanted_more_goes_on_when_that_one_leaves() {
        let semaphore = Semaphore::new(2);
        let _one = semaphore.try_acquire(1).unwrap();
        let order = Arc::default();
        let two = queue(&semaphore, 2, 2, &order);
        let _three = queue(&semaphore, 1, 3, &order);
        assert!(two.cancel());
        assert_eq!(order.lock().len(), 1);
    }

    #[test]
    fn a_hundred_thousand_dead_waiters_cost_no_stack() {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire(1).unwrap();
        let tickets: Vec<_> = (0..100_000).map(|_| semaphore.acquire(1, drop).unwrap()).collect();
        drop(held);
        assert_eq!((semaphore.free(), semaphore.waiting()), (1, 0));
        drop(tickets);
    }

    #[test]
    fn it_counts_who_waited_and_who_was_served() {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire(1).unwrap();
        let order = Arc::default();
        let (first, second) = (queue(&semaphore, 1, 1, &order), queue(&semaphore, 1, 2, &order));
        second.cancel();
        assert_eq!(semaphore.figures(), Figures { free: 0, waiting: 1, waits: 2, hand_overs: 0 });
        drop(held);
        assert_eq!(semaphore.figures(), Figures { free: 0, waiting: 0, waits: 2, hand_overs: 1 });
        drop(first);
    }

    #[test]
    fn more_cannot_come_back_than_was_taken() {
        let semaphore = Semaphore::new(1);
        assert!(matches!(semaphore.release(1), Err(Error::Permit(_))));
        assert!(semaphore.take(1).unwrap());
        semaphore.release(1).unwrap();
        assert!(matches!(semaphore.take(2), Err(Error::Setting { .. })));
        assert!(matches!(semaphore.take(0), Err(Error::Setting { .. })));
    }

    #[test]
    fn a_thread_that_waits_gives_up_in_time_or_gets_its_permit() {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire(1).unwrap();
        assert!(semaphore.acquire_blocking(1, Some(Duration::from_millis(5))).unwrap().is_none());
        assert_eq!(semaphore.waiting(), 0);
        let waiter = thread::spawn({
            let semaphore = semaphore.clone();
            move || semaphore.acquire_blocking(1, Some(Duration::from_secs(10))).unwrap().is_some()
        });
        while semaphore.waiting() == 0 {
            thread::yield_now();
        }
        drop(held);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn a_closed_semaphore_fails_waiters_and_newcomers_and_takes_permits_back() {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire(1).unwrap();
        let mut place = semaphore.enqueue(1).unwrap();
        semaphore.close();
        assert!(matches!(place.wait(None), Err(Error::SemaphoreClosed)));
        assert!(matches!(semaphore.try_acquire(1), Err(Error::SemaphoreClosed)));
        drop(held);
        assert_eq!(semaphore.free(), 1);
    }
}
