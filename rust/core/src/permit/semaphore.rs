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
//! While nobody waits there is no lock: the number of free permits is changed in one step. In the same word a flag says
//! that the queue is to be looked at. Who is going to wait sets it, under the lock, and then looks for permits once more;
//! who gives some back finds it in the word that this changes. So one of the two sees the other. While the flag is set
//! permits are taken under the lock only.
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
use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, wait, wait_timeout};
use crate::{Error, Result};

/// The most permits that a semaphore can have.
pub const MOST: usize = usize::MAX >> 1;

/// Of the word whose other bits are the number of free permits: somebody waits, or the semaphore is closed.
const LOOK: usize = 1;

type Wake = Box<dyn FnOnce(Result<Grant>) + Send>;

struct Waiter {
    wanted: usize,
    wake: Wake,
}

struct Queue {
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
    /// The free permits, and [`LOOK`].
    word: AtomicUsize,
    queue: Mutex<Queue>,
    total: usize,
}

/// What [`Semaphore::acquire`] gives at once.
pub enum Acquire {
    Granted(Grant),
    /// The wake will be called, unless the ticket is cancelled or dropped first.
    Queued(Ticket),
}

impl Semaphore {
    /// A semaphore with `permits` of them, [`MOST`] at most.
    pub fn new(permits: usize) -> Self {
        let total = permits.min(MOST);
        let queue = Queue { waiters: BTreeMap::new(), arrivals: 0, hand_overs: 0, handing: false, closed: false };
        Self(Arc::new(Shared { word: AtomicUsize::new(total << 1), queue: Mutex::new(queue), total }))
    }

    pub fn total(&self) -> usize {
        self.0.total
    }

    pub fn free(&self) -> usize {
        self.0.word.load(Ordering::Relaxed) >> 1
    }

    pub fn waiting(&self) -> usize {
        self.0.queue.lock().waiters.len()
    }

    pub fn figures(&self) -> Figures {
        let queue = self.0.queue.lock();
        Figures { free: self.free(), waiting: queue.waiters.len(), waits: queue.arrivals, hand_overs: queue.hand_overs }
    }

    pub fn is_closed(&self) -> bool {
        self.0.queue.lock().closed
    }

    /// Takes `n` permits if they are free and nobody waits, for good: [`Semaphore::release`] gives them back.
    pub fn take(&self, n: usize) -> Result<bool> {
        if self.take_at_once(n)? {
            return Ok(true);
        }
        let queue = self.0.queue.lock();
        if queue.closed {
            return Err(Error::SemaphoreClosed);
        }
        Ok(queue.waiters.is_empty() && self.subtract(n, 0))
    }

    /// As [`Semaphore::take`], for who then calls [`Semaphore::acquire`]: false says nothing of what there is.
    #[inline]
    pub fn take_at_once(&self, n: usize) -> Result<bool> {
        self.check(n)?;
        Ok(self.subtract(n, LOOK))
    }

    /// Takes `n` off the free permits, if there are as many and the word has none of `flags`.
    #[inline]
    fn subtract(&self, n: usize, flags: usize) -> bool {
        let left = |word: usize| (word & flags == 0 && word >> 1 >= n).then(|| word - (n << 1));
        self.0.word.fetch_update(Ordering::Acquire, Ordering::Relaxed, left).is_ok()
    }

    /// To be called when the queue has changed, under its lock.
    fn flag(&self, queue: &Queue) {
        if queue.closed || !queue.waiters.is_empty() {
            self.0.word.fetch_or(LOOK, Ordering::Relaxed);
        } else {
            self.0.word.fetch_and(!LOOK, Ordering::Relaxed);
        }
    }

    /// [`Semaphore::take`] as a value whose drop gives the permits back.
    pub fn try_acquire(&self, n: usize) -> Result<Option<Grant>> {
        Ok(self.take(n)?.then(|| Grant::adopt(self, n)))
    }

    /// Takes `n` permits, or queues `wake`, which is called from whatever thread hands them over.
    pub fn acquire(&self, n: usize, wake: impl FnOnce(Result<Grant>) + Send + 'static) -> Result<Acquire> {
        self.check(n)?;
        let mut queue = self.0.queue.lock();
        if queue.closed {
            return Err(Error::SemaphoreClosed);
        }
        if queue.waiters.is_empty() {
            self.0.word.fetch_or(LOOK, Ordering::Relaxed);
            if self.subtract(n, 0) {
                self.flag(&queue);
                return Ok(Acquire::Granted(Grant::adopt(self, n)));
            }
        }
        let arrival = queue.arrivals;
        queue.arrivals += 1;
        queue.waiters.insert(arrival, Waiter { wanted: n, wake: Box::new(wake) });
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
        // What is neither free nor in a waiter's hands is held by somebody; more can't come back.
        let more = |free: usize| free.checked_add(n).filter(|free| *free <= self.0.total);
        if self.give_back(more) { Ok(()) } else { Err(Error::NotAcquired) }
    }

    /// `more` says how many are free then, of how many are now; or none of it happens. Mostly nobody waits.
    #[inline]
    fn give_back(&self, more: impl Fn(usize) -> Option<usize>) -> bool {
        let more = |word: usize| Some(more(word >> 1)? << 1 | word & LOOK);
        let before = self.0.word.fetch_update(Ordering::Release, Ordering::Relaxed, more);
        if before.is_ok_and(|word| word & LOOK != 0) {
            self.hand_over(self.0.queue.lock());
        }
        before.is_ok()
    }

    /// Fails those that wait, and everybody who comes later. Permits that are held stay valid.
    pub fn close(&self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        let waiters = std::mem::take(&mut queue.waiters);
        self.flag(&queue);
        drop(queue);
        for waiter in waiters.into_values() {
            (waiter.wake)(Err(Error::SemaphoreClosed));
        }
    }

    fn check(&self, n: usize) -> Result<()> {
        if (1..=self.0.total).contains(&n) { Ok(()) } else { Err(self.not_so_many(n)) }
    }

    #[cold]
    fn not_so_many(&self, n: usize) -> Error {
        Error::setting("n", n, format!("must be from 1 to {}, the semaphore's permits", self.0.total))
    }

    /// The hand: see the invariants. A wake must not panic.
    fn hand_over<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) {
        if std::mem::replace(&mut queue.handing, true) {
            return;
        }
        while let Some(waiter) = self.next(&mut queue) {
            drop(queue);
            (waiter.wake)(Ok(Grant::adopt(self, waiter.wanted)));
            queue = self.0.queue.lock();
        }
        queue.handing = false;
    }

    /// The oldest waiter, if what is free is enough for it.
    fn next(&self, queue: &mut Queue) -> Option<Waiter> {
        let oldest = queue.waiters.first_entry()?;
        if !self.subtract(oldest.get().wanted, 0) {
            return None;
        }
        let waiter = oldest.remove();
        queue.hand_overs += 1;
        if queue.waiters.is_empty() {
            self.flag(queue);
        }
        Some(waiter)
    }
}

/// Permits that are held; its drop gives them back.
#[must_use]
pub struct Grant {
    semaphore: Option<Semaphore>,
    n: usize,
}

impl Grant {
    /// Takes charge of permits that were taken for good.
    pub fn adopt(semaphore: &Semaphore, n: usize) -> Self {
        Self { semaphore: Some(semaphore.clone()), n }
    }

    /// Keeps the permits for good: [`Semaphore::release`] gives them back.
    pub fn forget(mut self) {
        self.semaphore = None;
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(semaphore) = self.semaphore.take() {
            // Another may have released some of these by mistake: then there are no more of them than before.
            semaphore.give_back(|free| Some(free.saturating_add(self.n).min(semaphore.0.total)));
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
        let mut queue = self.semaphore.0.queue.lock();
        let left = queue.waiters.remove(&self.arrival);
        let was_waiting = left.is_some();
        if was_waiting {
            self.semaphore.flag(&queue);
            // It may have been the oldest one, that wanted more than those behind it do.
            self.semaphore.hand_over(queue);
        } else {
            drop(queue);
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
mod model;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
