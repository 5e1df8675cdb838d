//! The queue between those who submit jobs and the workers of a pool: one mutex, one deque, and the protocol by which
//! workers wake each other. It starts no thread and runs no job; `pool.rs` does.
//!
//! # Two kinds of job
//! A *native* job is a closure that needs nothing. An *attached* job needs what only one thread can have at a time (in
//! the binding: the interpreter's lock). Both wait in one deque and are started strictly in its order.
//!
//! # States of a worker
//! ```text
//!            wait()                    Seat::take() / a native job popped
//!   start ──────────▶ SEEKING ────────────────────────────────────────────▶ BUSY
//!                     ▲  ▲  │ the deque is empty, or another seeks           │
//!              woken  │  │  ▼                                                │ wait()
//!              (token)│  │ IDLE ◀──────────────────────────────────────────  │
//!                     │  └─────────────────────────────────◀─────────────────┘
//!   time is over,     │
//!   or woken (token)  └── WATCHING ◀── SEEKING: jobs are brief, and others are busy or were so just now
//! ```
//! - IDLE: asleep on the condition variable.
//! - WATCHING: as IDLE, but for a time at most: for [`Pace::patience`], or, while it gives way, for [`GIVING_WAY`]. It counts
//!   as idle, too.
//! - SEEKING: it will look at the deque before it sleeps again. A worker that finds an attached job at the front does
//!   *not* pop it: it goes to attach first, which may take long, and pops after ([`Seat::take`]). So a job is never in
//!   the hands of a worker that can't run it yet, and that a worker could attach says that the leader before it let go.
//! - BUSY: it holds a job, or a batch of them.
//!
//! The waker does the book-keeping: it moves one worker from `idle` to `seeking` and leaves a token, and a sleeper only
//! goes on when it takes a token (or when the queue is closed, or its time is over). Tokens bear no name, so a spurious
//! wake-up that takes one is as good as the sleeper that it was meant for.
//!
//! # Invariant
//! **While the deque is not empty and somebody is idle, somebody is seeking, or watching.** A watcher that sees jobs and
//! that none was taken in its time becomes a seeker. No wake-up is lost because each step under the lock keeps it:
//! - a push wakes one if nobody seeks; so after it somebody seeks, or nobody is idle. If jobs are brief it is content with
//!   a watcher;
//! - a seeker that becomes busy (the only way in which `seeking` falls while the deque is not empty) wakes the next one
//!   by the same rule: the follower becomes the leader, or the watcher;
//! - a worker becomes idle only when it sees the deque empty, or an attached job that another seeks;
//! - a watcher that wakes seeks, and watches again only if a job was taken meanwhile;
//! - a worker that pops more jobs after its first leaves `seeking` as it is.
//!
//! # Whom it pays to wake
//! A wake-up costs microseconds on either side; many a job takes less. So a worker is woken only if none that is busy is
//! expected back in less time than that takes: the mean time of late jobs by the number of the busy, if those that run aren't
//! much older ([`Pace`]). That time is a guess, so one watches. While jobs are brief,
//! - a burst of a hundred costs a few wake-ups, because one worker takes them one after another;
//! - forty that sleep for 60 µs each are taken by some five workers, which come back in turn, and do not wake forty that
//!   would fight for what only one can have;
//! - jobs that keep what they are attached to, though they may take long, run one after another on one worker at a time: what
//!   a follower found that had to wait until its leader was through. That is believed until a job is seen to let it go
//!   ([`Seat::let_go`]);
//! - who submits several at once ([`Queue::push_among`]) wakes nobody until the last is there.
//!
//! That only one is woken at a time, and that only one *waits to attach*, is also what makes it fair: a worker that comes
//! from a batch leaves what it let go to the follower, or to whoever else wants it (in the binding: the loop), who would
//! need longer to wake than it needs to take it again. If there is no follower it wakes one, and watches; not if it saw that
//! [nobody wants it](Seat::unwanted). If it knows who wants it, it [gives way](Seat::give_way): it watches, and is woken when
//! they had it.
//!
//! # Length
//! `limit` jobs are *queued*; what lies behind them in the deque *waits for room*, put there by submitters that suspend
//! ([`WhenFull::Append`]) or that must not wait for themselves. A submitter that can block sleeps on a second
//! condition variable. A cancelled job gives its place back at once: it is counted off when it is cancelled
//! ([`Queue::cancelled`]) and the count is put right when it is taken out ([`Queue::buried`]), in either order, so
//! the count may be -1 for a moment. Dead jobs are swept out when they are the larger part of the deque.
//!
//! # Quiet
//! The queue is *quiet* when nothing is queued, no worker is busy, and no caller runs what it displaced. Who waits for that is
//! told by whoever makes it so: the worker that gave up the last seat, the caller that has run the last job or cancelled it.
//! A worker is busy from the lock under which it popped its job until its seat is dropped, and a caller helps from the lock
//! under which it displaced until [`Queue::helped`], so there is no moment at which a job is in neither place.
//!
//! # Closing
//! A closed queue takes no more jobs, and its workers end when they find it empty: what was queued still runs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::job::{Job, NativeJob, Rejected, WhenFull};
use super::pace::Pace;
use crate::Error;
use crate::sync::{Condvar, Mutex, MutexGuard, doze, now, wait, wait_timeout};

/// After so many attached jobs that kept what they had it is tried again whether others can have it meanwhile.
const KEEPING: u8 = 32;

/// Who gives way does so for so long at most.
const GIVING_WAY: Duration = Duration::from_millis(5);

/// Below so many cancelled jobs a sweep isn't worth its pass over the deque. A model has but a few jobs.
const MIN_SWEEP: isize = if cfg!(loom) { 1 } else { 64 };

/// A snapshot of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Jobs within the limit that no worker has taken.
    pub queued: usize,
    /// Jobs behind the limit, and threads that are blocked until there is room.
    pub waiting: usize,
    /// Workers that hold a job.
    pub running: usize,
    /// Workers that are asleep.
    pub idle: usize,
    /// Wake-ups sent so far.
    pub wakes: u64,
    /// Jobs taken so far.
    pub taken: u64,
}

struct State<A> {
    jobs: VecDeque<Job<A>>,
    /// Jobs in the deque that were cancelled; see "Length".
    dead: isize,
    /// Asleep, for a time or until they are woken.
    idle: usize,
    /// How many of the idle sleep for a time only.
    watching: usize,
    seeking: usize,
    busy: usize,
    /// How many of the busy have begun an attached job, or a batch of them, that isn't over.
    attached: usize,
    /// Displaced jobs that their callers run.
    helping: usize,
    tokens: usize,
    /// A submitter has promised a [`Queue::rouse`], which no worker has forestalled.
    promised: bool,
    pace: Pace,
    /// Those whom the jobs kept from what they are attached to have not had it yet.
    giving_way: bool,
    /// So many attached jobs more are taken to keep to themselves what they are attached to.
    keeping: u8,
    /// Submitters asleep on `room`.
    blocked: usize,
    wakes: u64,
    taken: u64,
    /// Attached jobs taken so far.
    turns: u64,
    closed: bool,
    /// Told when nothing is queued and nothing runs.
    joining: Vec<NativeJob>,
}

impl<A> State<A> {
    fn alive(&self) -> usize {
        self.jobs.len().saturating_add_signed(self.dead.saturating_neg())
    }

    fn is_quiet(&self) -> bool {
        self.busy == 0 && self.helping == 0 && self.alive() == 0
    }

    /// Whether what is at the front will sooner be taken by who is there already than by who is woken for it.
    fn is_brief(&self) -> bool {
        let attached = matches!(self.jobs.front(), Some(Job::Attached(_)));
        (attached && self.keeping > 0) || self.pace.outruns_a_wake(self.busy.max(1), attached)
    }

    /// Whether the caller has to notify `work` once it let the lock go.
    fn wake(&mut self) -> bool {
        let needed = self.seeking == 0 && !self.jobs.is_empty() && !(self.watching > 0 && self.is_brief());
        needed && self.call()
    }

    /// As [`State::wake`], for who knows that nobody works, or that what does will not be back.
    fn wake_at_once(&mut self) -> bool {
        self.promised = false;
        let served = self.seeking > 0 || (self.busy > 0 && self.watching > 0 && self.is_brief());
        !served && !self.jobs.is_empty() && self.call()
    }

    /// A sleeper goes on: called, if there is a token, or by itself.
    fn woken(&mut self) -> bool {
        let called = self.tokens > 0;
        if called {
            self.tokens -= 1;
        } else {
            self.idle -= 1;
            self.seeking += 1;
        }
        called
    }

    /// Makes one of the idle, if there are any, seek; the caller notifies `work`.
    fn call(&mut self) -> bool {
        if self.idle == 0 {
            return false;
        }
        self.idle -= 1;
        self.seeking += 1;
        self.tokens += 1;
        self.wakes += 1;
        true
    }
}

pub struct Queue<A> {
    state: Mutex<State<A>>,
    work: Condvar,
    room: Condvar,
    limit: usize,
}

/// What a worker got from [`Queue::wait`].
pub enum Found<'q, A> {
    Native(NativeJob, Seat<'q, A>),
    /// An attached job is at the front: attach, then [`Seat::take`].
    Attached(Seat<'q, A>),
}

impl<A> Queue<A> {
    /// A queue of at most `limit` jobs.
    pub fn new(limit: usize) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            dead: 0,
            idle: 0,
            watching: 0,
            seeking: 0,
            busy: 0,
            attached: 0,
            helping: 0,
            tokens: 0,
            promised: false,
            pace: Pace::default(),
            giving_way: false,
            keeping: 0,
            blocked: 0,
            wakes: 0,
            taken: 0,
            turns: 0,
            closed: false,
            joining: Vec::new(),
        };
        Self { state: Mutex::new(state), work: Condvar::new(), room: Condvar::new(), limit }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Appends a job and sees to it that it is taken. With [`WhenFull::Displace`] it may give back the oldest one, which
    /// the caller runs, as it does [`Queue::excess`] then; it owes a [`Queue::helped`] for each.
    pub fn push(&self, job: Job<A>, when_full: WhenFull) -> std::result::Result<Option<Job<A>>, Rejected<A>> {
        self.add(job, when_full, State::wake_at_once).map(|(displaced, _)| displaced)
    }

    /// Appends a job of a submitter that is about to append more: `Ok(true)`: a [`Queue::rouse`] when it has done so will
    /// bring forward what else happens after a while. So brief jobs that come together are taken together.
    pub fn push_among(&self, job: Job<A>, when_full: WhenFull) -> std::result::Result<bool, Rejected<A>> {
        self.add(job, when_full, State::wake).map(|(_, promised)| promised)
    }

    /// Has what is queued taken without delay: nobody gives way any more.
    pub fn rouse(&self) {
        let mut state = self.state.lock();
        state.giving_way = false;
        let wake = state.wake_at_once();
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    /// `wake` says whether somebody is to be notified. Gives what was displaced, and whether the caller makes a promise.
    fn add(
        &self,
        job: Job<A>,
        when_full: WhenFull,
        wake: impl FnOnce(&mut State<A>) -> bool,
    ) -> std::result::Result<(Option<Job<A>>, bool), Rejected<A>> {
        let mut state = self.state.lock();
        let mut displaced = None;
        let mut waited = false;
        loop {
            if state.closed {
                return Err(Rejected { error: Error::PoolClosed, job });
            }
            if state.alive() < self.limit {
                break;
            }
            match when_full {
                WhenFull::Append => break,
                WhenFull::BlockFor(limit) if !waited => {
                    waited = true;
                    state.blocked += 1;
                    state = wait_timeout(&self.room, state, limit);
                    state.blocked -= 1;
                }
                // It has looked again: room that it was told of isn't left unused.
                WhenFull::Refuse | WhenFull::BlockFor(_) => {
                    return Err(Rejected { error: Error::PoolFull { limit: self.limit }, job });
                }
                WhenFull::Block => {
                    state.blocked += 1;
                    state = wait(&self.room, state);
                    state.blocked -= 1;
                }
                WhenFull::Displace => {
                    state.helping += 1;
                    match state.jobs.pop_front() {
                        Some(oldest) => {
                            displaced = Some(oldest);
                            break;
                        }
                        None => return Ok((Some(job), false)),
                    }
                }
            }
        }
        state.jobs.push_back(job);
        let wake = wake(&mut state);
        // While somebody seeks or works, it will be looked for anyway.
        let promise = !wake && state.seeking == 0 && state.busy == 0 && state.idle > 0 && !state.promised;
        state.promised |= promise;
        drop(state);
        if wake {
            self.work.notify_one();
        }
        Ok((displaced, promise))
    }

    /// Waits for work; `None` once the queue is closed and empty. To be called by workers only, in a loop, with the seat
    /// that they had.
    pub fn wait<'q>(&'q self, last: Option<Seat<'q, A>>) -> Option<Found<'q, A>> {
        // Who comes from work goes on; who was asleep lets those go first who will be back soon.
        let mut fresh = last.is_none();
        let mut leads = last.as_ref().is_some_and(|seat| seat.attached && !seat.unwanted);
        let mut state = self.state.lock();
        if let Some(mut seat) = last {
            seat.leave(&mut state);
            if !state.joining.is_empty() {
                drop(state);
                self.quieten();
                state = self.state.lock();
            }
        }
        state.seeking += 1;
        loop {
            let attached = match state.jobs.front() {
                Some(job) => matches!(job, Job::Attached(_)),
                None if state.closed => {
                    state.seeking -= 1;
                    return None;
                }
                None if !fresh && state.is_brief() => {
                    (state, _) = self.watch(state);
                    fresh = true;
                    continue;
                }
                None => {
                    state = self.sleep(state);
                    fresh = true;
                    continue;
                }
            };
            if attached && state.seeking > 1 && !state.closed {
                state = self.sleep(state);
                fresh = true;
                continue;
            }
            if fresh && state.busy > 0 && state.is_brief() && !state.closed {
                (state, fresh) = self.watch(state);
                continue;
            }
            if attached && state.giving_way && !state.closed {
                (state, fresh) = self.doze(state, GIVING_WAY);
                state.giving_way &= fresh;
                continue;
            }
            if attached && std::mem::take(&mut leads) && !fresh && state.busy == 0 && state.call() {
                self.work.notify_one();
                (state, fresh) = self.watch(state);
                continue;
            }
            let follows = state.attached > 0;
            let mut seat = Seat {
                queue: self,
                place: Place::Seeking,
                attached,
                follows,
                turn: 0,
                begun: None,
                ended: None,
                doubtful: false,
                let_go: false,
                unwanted: false,
            };
            if attached {
                return Some(Found::Attached(seat));
            }
            if let Some(Job::Native(job)) = state.jobs.pop_front() {
                seat.took(state, now());
                return Some(Found::Native(job, seat));
            }
        }
    }

    /// From SEEKING to IDLE and back.
    fn sleep<'q>(&'q self, mut state: MutexGuard<'q, State<A>>) -> MutexGuard<'q, State<A>> {
        state.seeking -= 1;
        state.idle += 1;
        while state.tokens == 0 && !state.closed {
            state = wait(&self.work, state);
        }
        let _ = state.woken();
        state
    }

    /// Watches. False: there are jobs, and in all the time in which one was to be expected nobody took one.
    fn watch<'q>(&'q self, state: MutexGuard<'q, State<A>>) -> (MutexGuard<'q, State<A>>, bool) {
        let patience = state.pace.patience();
        let (mut state, goes_on) = self.doze(state, patience);
        if !goes_on {
            state.pace.at_least(patience);
        }
        (state, goes_on)
    }

    /// From SEEKING to IDLE and back, for a time at most. False: there are jobs, and in all that time nobody took one.
    fn doze<'q>(&'q self, mut state: MutexGuard<'q, State<A>>, limit: Duration) -> (MutexGuard<'q, State<A>>, bool) {
        let taken = state.taken;
        state.seeking -= 1;
        state.idle += 1;
        state.watching += 1;
        state = doze(&self.state, &self.work, state, limit);
        state.watching -= 1;
        let goes_on = state.woken() || state.taken != taken || state.jobs.is_empty();
        (state, goes_on)
    }

    /// A job in the deque was cancelled: it no longer counts.
    ///
    /// `is_dead` tells such attached jobs, and is called with the lock held. What is swept out is returned, so that it is
    /// dropped outside of the lock.
    pub fn cancelled(&self, is_dead: impl Fn(&A) -> bool) -> Vec<Job<A>> {
        let mut state = self.state.lock();
        state.dead += 1;
        let mut swept = Vec::new();
        if state.dead >= MIN_SWEEP && state.dead.saturating_mul(2) > isize::try_from(state.jobs.len()).unwrap_or(0) {
            let dead = |job: &Job<A>| match job {
                Job::Native(job) => job.is_cancelled(),
                Job::Attached(job) => is_dead(job),
            };
            let (gone, left) = state.jobs.drain(..).partition::<Vec<_>, _>(dead);
            state.jobs = left.into();
            state.dead -= isize::try_from(gone.len()).unwrap_or(0);
            swept = gone;
        }
        self.give_room(state);
        self.quieten();
        swept
    }

    /// The oldest job, while there are more than the limit. For who runs what it has displaced: that may have been
    /// cancelled, and made no room then. The caller owes a [`Queue::helped`].
    pub fn excess(&self) -> Option<Job<A>> {
        let mut state = self.state.lock();
        let oldest = if state.alive() > self.limit { state.jobs.pop_front() } else { None };
        state.helping += usize::from(oldest.is_some());
        oldest
    }

    /// A displaced job has been run, or is back in the deque.
    pub fn helped(&self) {
        self.state.lock().helping -= 1;
        self.quieten();
    }

    /// A job that was taken turned out to be cancelled: see [`Queue::cancelled`].
    pub fn buried(&self) {
        self.state.lock().dead -= 1;
    }

    /// Takes no more jobs. Those that are queued still run.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
        self.room.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Takes out everything that no worker has taken. The caller owes a [`Queue::buried`] for each cancelled job, and in
    /// the end a [`Queue::quieten`].
    pub fn clear(&self) -> VecDeque<Job<A>> {
        let jobs = std::mem::take(&mut self.state.lock().jobs);
        self.room.notify_all();
        jobs
    }

    /// Runs `then` when nothing is queued and nothing runs: now, or on the thread that ends the last job.
    pub fn when_quiet(&self, then: NativeJob) {
        let mut state = self.state.lock();
        // Who gave up waiting must not pile up in a queue that is never quiet.
        let gone: Vec<_> = state.joining.extract_if(.., |joining| joining.is_cancelled()).collect();
        state.joining.push(then);
        drop(state);
        drop(gone);
        self.quieten();
    }

    /// Tells those that wait for quiet, if it is.
    pub fn quieten(&self) {
        let mut state = self.state.lock();
        if state.joining.is_empty() || !state.is_quiet() {
            return;
        }
        let joining = std::mem::take(&mut state.joining);
        drop(state);
        for then in joining {
            then.run();
        }
    }

    pub fn figures(&self) -> Figures {
        let state = self.state.lock();
        let alive = state.alive();
        Figures {
            queued: alive.min(self.limit),
            waiting: alive.saturating_sub(self.limit) + state.blocked,
            running: state.busy,
            idle: state.idle,
            wakes: state.wakes,
            taken: state.taken,
        }
    }

    fn give_room(&self, state: MutexGuard<'_, State<A>>) {
        let wake = state.blocked > 0 && state.alive() < self.limit;
        drop(state);
        if wake {
            self.room.notify_one();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Seeking,
    Busy,
    /// Busy, but its attached jobs are over.
    Ending,
    Left,
}

/// A worker's place between two calls of [`Queue::wait`]; its drop gives the place back.
pub struct Seat<'q, A> {
    queue: &'q Queue<A>,
    place: Place,
    attached: bool,
    /// Others were attached when it went to attach.
    follows: bool,
    /// The number of its last attached job.
    turn: u64,
    /// When its last job began and, if it is over, ended.
    begun: Option<Instant>,
    ended: Option<Instant>,
    /// Its last job is thought to keep what it is attached to.
    doubtful: bool,
    /// Its last job let that go.
    let_go: bool,
    /// Nobody waited for what it let go.
    unwanted: bool,
}

impl<A> Seat<'_, A> {
    /// The next attached job, if one is at the front, to be begun now. To be called by an attached thread.
    pub fn take(&mut self, now: Instant) -> Option<A> {
        self.pop(self.queue.state.lock(), now)
    }

    /// As [`Seat::take`] after a batch: only if another worker has taken an attached job since, because then the last one
    /// let go what they need. `Some(None)`: there are others, to be taken after that was let go.
    pub fn take_if_passed(&mut self, now: Instant) -> Option<Option<A>> {
        let mut state = self.queue.state.lock();
        if state.turns == self.turn && !state.jobs.is_empty() {
            self.end(&mut state);
            return Some(None);
        }
        self.pop(state, now).map(Some)
    }

    fn pop(&mut self, mut state: MutexGuard<'_, State<A>>, now: Instant) -> Option<A> {
        match state.jobs.pop_front() {
            Some(Job::Attached(job)) => {
                self.took(state, now);
                Some(job)
            }
            other => {
                if let Some(native) = other {
                    state.jobs.push_front(native);
                }
                self.end(&mut state);
                None
            }
        }
    }

    /// Its jobs kept what they are attached to, and somebody wants it: if `to` says so, no other is begun before a
    /// [`Queue::rouse`], which may come at once, or until a watcher has lost patience.
    pub fn give_way(&self, to: impl FnOnce() -> bool) {
        let mut state = self.queue.state.lock();
        state.giving_way |= to();
    }

    /// Nobody waited for what it let go after its jobs: so it needn't leave it to others.
    pub fn unwanted(&mut self) {
        self.unwanted = true;
    }

    /// The job that it took last is over now.
    pub fn done(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// Whether [`Seat::let_go`] would be news.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// The job that it took last let others have what it is attached to.
    pub fn let_go(&mut self) {
        self.let_go = true;
    }

    pub fn queue(&self) -> &Queue<A> {
        self.queue
    }

    /// A job was popped under this lock. From SEEKING to BUSY: the follower is woken.
    fn took(&mut self, mut state: MutexGuard<'_, State<A>>, now: Instant) {
        let mut wakes = self.note(&mut state);
        self.begun = Some(now);
        state.pace.begin(now);
        state.taken += 1;
        state.promised = false;
        if self.attached {
            self.learn(&mut state);
            state.turns += 1;
            self.turn = state.turns;
            self.doubtful = state.keeping > 0;
        }
        let room = state.blocked > 0 && state.alive() < self.queue.limit;
        let place = std::mem::replace(&mut self.place, Place::Busy);
        if place != Place::Busy && self.attached {
            state.attached += 1;
        }
        if place == Place::Seeking {
            state.seeking -= 1;
            state.busy += 1;
            wakes = true;
        }
        let wake = wakes && state.wake();
        drop(state);
        if wake {
            self.queue.work.notify_one();
        }
        if room {
            self.queue.room.notify_one();
        }
    }

    /// Its attached jobs are over, though it may not have left yet.
    fn end(&mut self, state: &mut State<A>) {
        if self.place == Place::Busy && self.attached {
            self.place = Place::Ending;
            state.attached -= 1;
        }
    }

    /// Who could attach only after those before were through learns that such jobs keep what they have.
    fn learn(&self, state: &mut State<A>) {
        state.keeping = match self.place {
            Place::Seeking if self.follows && state.attached == 0 => KEEPING,
            Place::Seeking if self.follows => 0,
            _ => state.keeping.saturating_sub(1),
        };
    }

    /// True: it was thought of the jobs that they keep what they are attached to, and is no longer.
    fn note(&mut self, state: &mut State<A>) -> bool {
        let ended = self.ended.take();
        if let Some(begun) = self.begun.take() {
            state.pace.end(begun, ended.unwrap_or_else(now));
        }
        std::mem::take(&mut self.let_go) && std::mem::take(&mut state.keeping) > 0
    }

    fn leave(&mut self, state: &mut State<A>) {
        self.note(state);
        self.end(state);
        match std::mem::replace(&mut self.place, Place::Left) {
            Place::Seeking => state.seeking -= 1,
            Place::Busy | Place::Ending => state.busy -= 1,
            Place::Left => {}
        }
    }
}

impl<A> Drop for Seat<'_, A> {
    fn drop(&mut self) {
        if self.place == Place::Left {
            return;
        }
        let mut state = self.queue.state.lock();
        self.leave(&mut state);
        let wake = state.wake();
        let joined = !state.joining.is_empty();
        drop(state);
        if wake {
            self.queue.work.notify_one();
        }
        if joined {
            self.queue.quieten();
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod model;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
