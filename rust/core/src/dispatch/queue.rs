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
//!                     ▲     │ the deque is empty, or another seeks           │
//!              woken  │     ▼                                                │ wait()
//!              (token)│    IDLE                                              │
//!                     └──────────────────────────────────◀───────────────────┘
//! ```
//! - IDLE: asleep on the condition variable.
//! - SEEKING: it will look at the deque before it sleeps again. A worker that finds an attached job at the front does
//!   *not* pop it: it goes to attach first, which may take long, and pops after ([`Seat::take`]). So a job is never in
//!   the hands of a worker that can't run it yet, and that a worker could attach says that the leader before it let go.
//! - BUSY: it holds a job, or a batch of them.
//!
//! The waker does the book-keeping: it moves one worker from `idle` to `seeking` and leaves a token, and a sleeper only
//! goes on when it takes a token (or when the queue is closed). Tokens bear no name, so a spurious wake-up that takes
//! one is as good as the sleeper that it was meant for.
//!
//! # Invariant
//! **While the deque is not empty and somebody is idle, somebody is seeking.** No wake-up is lost because each step
//! under the lock keeps it:
//! - a push wakes one if nobody seeks; so after it somebody seeks, or nobody is idle;
//! - a seeker that becomes busy (the only way in which `seeking` falls while the deque is not empty) wakes the next one
//!   by the same rule: the follower becomes the leader;
//! - a worker becomes idle only when it sees the deque empty, or an attached job that another seeks;
//! - a worker that pops more jobs after its first leaves `seeking` as it is.
//!
//! That only one is woken at a time is what makes this cheap: a burst of a hundred short jobs costs a few wake-ups, not a
//! hundred, because one worker runs them in a batch while one other waits to attach. That only one *waits to attach* is
//! what makes it fair: a worker that comes from a batch leaves what it let go to the follower, or to whoever else wants
//! it (in the binding: the loop), who would need longer to wake than it needs to take it again.
//!
//! # Length
//! `limit` jobs are *queued*; what lies behind them in the deque *waits for room*, put there by submitters that suspend
//! ([`WhenFull::Append`]) or that must not wait for themselves. A submitter that can block sleeps on a second
//! condition variable. A cancelled job gives its place back at once: it is counted off when it is cancelled
//! ([`Queue::cancelled`]) and the count is put right when it is taken out ([`Queue::buried`]), in either order, so
//! the count may be -1 for a moment. Dead jobs are swept out when they are the larger part of the deque.
//!
//! # Quiet
//! The queue is *quiet* when nothing is queued and no worker is busy. Who waits for that is told by whoever makes it so: the
//! worker that gave up the last seat, or the caller that cancelled the last job. A worker is busy from the lock under
//! which it popped its job until its seat is dropped, so there is no moment at which a job is in neither place.
//!
//! # Closing
//! A closed queue takes no more jobs, and its workers end when they find it empty: what was queued still runs.

use std::collections::VecDeque;

use crate::Error;
use crate::sync::{Condvar, Mutex, MutexGuard, wait};

/// Below so many cancelled jobs a sweep isn't worth its pass over the deque.
const MIN_SWEEP: isize = 64;

/// Work that needs nothing; any closure is some.
pub trait Native: Send {
    fn run(self: Box<Self>);

    /// It won't be run: the pool was told to drop what it had queued.
    fn cancel(self: Box<Self>) {}

    /// Whether somebody has cancelled it and told so by [`Queue::cancelled`].
    fn is_cancelled(&self) -> bool {
        false
    }
}

impl<F: FnOnce() + Send> Native for F {
    fn run(self: Box<Self>) {
        self();
    }
}

pub type NativeJob = Box<dyn Native>;

pub enum Job<A> {
    Native(NativeJob),
    Attached(A),
}

/// What a submitter wants when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait for room in the deque: for submitters that suspend, and for the pool's own threads.
    Append,
    /// Fail with [`Error::PoolFull`].
    Refuse,
    /// Block the calling thread.
    Block,
    /// Take the oldest job out and give it to the caller to run.
    Displace,
}

/// A job that was not accepted, given back so that its owner drops it where that is safe.
pub struct Rejected<A> {
    pub error: Error,
    pub job: Job<A>,
}

/// A snapshot of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Jobs within the limit that no worker has taken.
    pub queued: usize,
    /// Jobs behind the limit.
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
    idle: usize,
    seeking: usize,
    busy: usize,
    tokens: usize,
    /// Submitters asleep on `room`.
    blocked: usize,
    wakes: u64,
    taken: u64,
    closed: bool,
    /// Told when nothing is queued and nothing runs.
    joining: Vec<NativeJob>,
}

impl<A> State<A> {
    fn alive(&self) -> usize {
        self.jobs.len().saturating_add_signed(self.dead.saturating_neg())
    }

    fn is_quiet(&self) -> bool {
        self.busy == 0 && self.alive() == 0
    }

    /// Whether the caller has to notify `work` once it let the lock go.
    fn wake(&mut self) -> bool {
        if self.idle == 0 || self.seeking > 0 || self.jobs.is_empty() {
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
            seeking: 0,
            busy: 0,
            tokens: 0,
            blocked: 0,
            wakes: 0,
            taken: 0,
            closed: false,
            joining: Vec::new(),
        };
        Self { state: Mutex::new(state), work: Condvar::new(), room: Condvar::new(), limit }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Appends a job. With [`WhenFull::Displace`] it may give back the oldest one, which the caller runs.
    pub fn push(&self, job: Job<A>, when_full: WhenFull) -> std::result::Result<Option<Job<A>>, Rejected<A>> {
        let mut state = self.state.lock();
        let mut displaced = None;
        loop {
            if state.closed {
                return Err(Rejected { error: Error::PoolClosed, job });
            }
            if state.alive() < self.limit {
                break;
            }
            match when_full {
                WhenFull::Append => break,
                WhenFull::Refuse => return Err(Rejected { error: Error::PoolFull { limit: self.limit }, job }),
                WhenFull::Block => {
                    state.blocked += 1;
                    state = wait(&self.room, state);
                    state.blocked -= 1;
                }
                WhenFull::Displace => match state.jobs.pop_front() {
                    Some(oldest) => {
                        displaced = Some(oldest);
                        break;
                    }
                    None => return Ok(Some(job)),
                },
            }
        }
        state.jobs.push_back(job);
        let wake = state.wake();
        drop(state);
        if wake {
            self.work.notify_one();
        }
        Ok(displaced)
    }

    /// Waits for work; `None` once the queue is closed and empty. To be called by workers only, in a loop.
    pub fn wait(&self) -> Option<Found<'_, A>> {
        let mut state = self.state.lock();
        state.seeking += 1;
        loop {
            match state.jobs.pop_front() {
                Some(Job::Native(job)) => {
                    let mut seat = Seat { queue: self, seeking: true };
                    seat.took(state);
                    return Some(Found::Native(job, seat));
                }
                Some(attached) => {
                    state.jobs.push_front(attached);
                    if state.seeking > 1 && !state.closed {
                        state = self.sleep(state);
                        continue;
                    }
                    return Some(Found::Attached(Seat { queue: self, seeking: true }));
                }
                None if state.closed => {
                    state.seeking -= 1;
                    return None;
                }
                None => state = self.sleep(state),
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
        if state.tokens > 0 {
            state.tokens -= 1;
        } else {
            state.idle -= 1;
            state.seeking += 1;
        }
        state
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
    ///
    /// What a displaced job does on its submitter's thread is not seen from here.
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
        joining.into_iter().for_each(Native::run);
    }

    pub fn figures(&self) -> Figures {
        let state = self.state.lock();
        let alive = state.alive();
        Figures {
            queued: alive.min(self.limit),
            waiting: alive.saturating_sub(self.limit),
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

/// A worker's place between two calls of [`Queue::wait`]; its drop gives the place back.
pub struct Seat<'q, A> {
    queue: &'q Queue<A>,
    seeking: bool,
}

impl<A> Seat<'_, A> {
    /// The next attached job, if one is at the front. To be called by an attached thread.
    pub fn take(&mut self) -> Option<A> {
        let mut state = self.queue.state.lock();
        match state.jobs.pop_front() {
            Some(Job::Attached(job)) => {
                self.took(state);
                Some(job)
            }
            other => {
                if let Some(native) = other {
                    state.jobs.push_front(native);
                }
                self.settle(state);
                None
            }
        }
    }

    pub fn queue(&self) -> &Queue<A> {
        self.queue
    }

    /// A job was popped under this lock.
    fn took(&mut self, mut state: MutexGuard<'_, State<A>>) {
        state.taken += 1;
        let room = state.blocked > 0 && state.alive() < self.queue.limit;
        self.settle(state);
        if room {
            self.queue.room.notify_one();
        }
    }

    /// From SEEKING to BUSY: the follower is woken.
    fn settle(&mut self, mut state: MutexGuard<'_, State<A>>) {
        if !std::mem::take(&mut self.seeking) {
            return;
        }
        state.seeking -= 1;
        state.busy += 1;
        let wake = state.wake();
        drop(state);
        if wake {
            self.queue.work.notify_one();
        }
    }
}

impl<A> Drop for Seat<'_, A> {
    fn drop(&mut self) {
        self.settle(self.queue.state.lock());
        let mut state = self.queue.state.lock();
        state.busy -= 1;
        let joined = !state.joining.is_empty();
        drop(state);
        if joined {
            self.queue.quieten();
        }
    }
}

impl<A> From<Rejected<A>> for Error {
    fn from(rejected: Rejected<A>) -> Self {
        rejected.error
    }
}

#[cfg(test)]
#[cfg(loom)]
mod model {
    use super::*;
    use crate::sync::{Arc, atomic::AtomicUsize, thread};
    use std::sync::atomic::Ordering::SeqCst;

    /// What only one thread can have at a time, and a count that threads can wait for.
    #[derive(Default)]
    struct World {
        interpreter: Mutex<()>,
        done: Mutex<usize>,
        changed: Condvar,
    }

    impl World {
        fn finish(&self) {
            *self.done.lock() += 1;
            self.changed.notify_all();
        }

        fn wait_for(&self, n: usize) {
            let mut done = self.done.lock();
            while *done < n {
                done = wait(&self.changed, done);
            }
        }
    }

    enum Work {
        Quick,
        /// Lets the interpreter go until so many are done, as a job that blocks does.
        After(usize),
    }

    fn work(queue: &Queue<Work>, world: &World) {
        while let Some(found) = queue.wait() {
            match found {
                Found::Native(job, _seat) => job.run(),
                Found::Attached(mut seat) => {
                    let mut attached = world.interpreter.lock();
                    while let Some(job) = seat.take() {
                        if let Work::After(n) = job {
                            drop(attached);
                            world.wait_for(n);
                            attached = world.interpreter.lock();
                        }
                        world.finish();
                    }
                    drop(attached);
                }
            }
        }
    }

    /// Runs `submit` beside `workers` of them, and closes only when `jobs` have run: a lost wake-up is a deadlock.
    fn check(workers: usize, limit: usize, jobs: usize, submit: fn(&Arc<Queue<Work>>, &Arc<World>)) {
        loom::model(move || {
            let queue = Arc::new(Queue::new(limit));
            let world = Arc::new(World::default());
            let threads: Vec<_> = (0..workers)
                .map(|_| {
                    let (queue, world) = (Arc::clone(&queue), Arc::clone(&world));
                    thread::spawn(move || work(&queue, &world))
                })
                .collect();
            submit(&queue, &world);
            world.wait_for(jobs);
            queue.close();
            for thread in threads {
                thread.join().unwrap();
            }
            let figures = queue.figures();
            assert_eq!((figures.queued, figures.running, figures.idle), (0, 0, 0));
            assert_eq!(figures.taken, jobs as u64);
        });
    }

    fn push(queue: &Queue<Work>, job: Work) {
        assert!(queue.push(Job::Attached(job), WhenFull::Refuse).is_ok());
    }

    #[test]
    fn each_job_runs_though_the_submitter_holds_the_interpreter() {
        check(2, 8, 2, |queue, world| {
            let attached = world.interpreter.lock();
            push(queue, Work::Quick);
            push(queue, Work::Quick);
            drop(attached);
        });
    }

    #[test]
    fn a_job_that_blocks_does_not_hold_up_the_next() {
        check(2, 8, 2, |queue, _| {
            push(queue, Work::After(1));
            push(queue, Work::Quick);
        });
    }

    #[test]
    fn native_jobs_run_among_attached_ones() {
        check(2, 8, 2, |queue, world| {
            push(queue, Work::After(1));
            let world = Arc::clone(world);
            let native = Job::Native(Box::new(move || world.finish()) as NativeJob);
            assert!(queue.push(native, WhenFull::Refuse).is_ok());
        });
    }

    #[test]
    fn a_worker_that_comes_back_leaves_the_next_job_to_the_one_that_seeks() {
        check(2, 8, 3, |queue, _| {
            push(queue, Work::Quick);
            push(queue, Work::After(1));
            push(queue, Work::Quick);
        });
    }

    #[test]
    fn a_submitter_that_blocks_on_a_full_queue_goes_on_when_there_is_room() {
        check(1, 1, 3, |queue, _| {
            for _ in 0..3 {
                assert!(queue.push(Job::Attached(Work::Quick), WhenFull::Block).is_ok());
            }
        });
    }

    #[test]
    fn who_waits_for_quiet_is_told_once_all_have_run() {
        check(2, 8, 2, |queue, world| {
            push(queue, Work::Quick);
            push(queue, Work::Quick);
            let told = Arc::new((Mutex::new(None), Condvar::new()));
            let teller = (Arc::clone(&told), Arc::clone(world));
            queue.when_quiet(Box::new(move || {
                *teller.0.0.lock() = Some(*teller.1.done.lock());
                teller.0.1.notify_all();
            }));
            let mut done = told.0.lock();
            while done.is_none() {
                done = wait(&told.1, done);
            }
            assert_eq!(*done, Some(2));
        });
    }

    #[test]
    fn what_was_queued_before_the_closing_runs() {
        loom::model(|| {
            let queue = Arc::new(Queue::new(8));
            let world = Arc::new(World::default());
            let worker = {
                let (queue, world) = (Arc::clone(&queue), Arc::clone(&world));
                thread::spawn(move || work(&queue, &world))
            };
            let accepted = Arc::new(AtomicUsize::new(0));
            let submitter = {
                let (queue, accepted) = (Arc::clone(&queue), Arc::clone(&accepted));
                thread::spawn(move || {
                    if queue.push(Job::Attached(Work::Quick), WhenFull::Block).is_ok() {
                        accepted.fetch_add(1, SeqCst);
                    }
                })
            };
            queue.close();
            submitter.join().unwrap();
            worker.join().unwrap();
            assert_eq!(*world.done.lock(), accepted.load(SeqCst));
        });
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn attached(queue: &Queue<u32>, job: u32, when_full: WhenFull) -> Option<u32> {
        match queue.push(Job::Attached(job), when_full) {
            Ok(Some(Job::Attached(displaced))) => Some(displaced),
            Ok(_) => None,
            Err(rejected) => panic!("{}", rejected.error),
        }
    }

    fn take(queue: &Queue<u32>) -> Option<u32> {
        match queue.wait() {
            Some(Found::Attached(mut seat)) => seat.take(),
            _ => None,
        }
    }

    #[test]
    fn a_full_queue_refuses_appends_or_displaces_the_oldest() {
        let queue = Queue::new(2);
        attached(&queue, 1, WhenFull::Refuse);
        attached(&queue, 2, WhenFull::Refuse);
        let refused = queue.push(Job::Attached(3), WhenFull::Refuse).err().unwrap();
        assert!(matches!(refused.error, Error::PoolFull { limit: 2 }));
        assert_eq!(attached(&queue, 3, WhenFull::Displace), Some(1));
        attached(&queue, 4, WhenFull::Append);
        let figures = queue.figures();
        assert_eq!((figures.queued, figures.waiting), (2, 1));
        assert_eq!((take(&queue), take(&queue), take(&queue)), (Some(2), Some(3), Some(4)));
    }

    #[test]
    fn one_worker_at_a_time_waits_to_attach_and_the_next_is_woken_when_it_has_its_job() {
        let queue = Queue::new(2);
        attached(&queue, 1, WhenFull::Refuse);
        attached(&queue, 2, WhenFull::Refuse);
        std::thread::scope(|scope| {
            let Some(Found::Attached(mut leader)) = queue.wait() else { panic!("no job") };
            let follower = scope.spawn(|| take(&queue));
            while queue.figures().idle == 0 {
                std::thread::yield_now();
            }
            assert_eq!(leader.take(), Some(1));
            assert_eq!(follower.join().unwrap(), Some(2));
        });
        assert_eq!(queue.figures().wakes, 1);
    }

    #[test]
    fn a_queue_of_length_0_gives_the_job_itself_back() {
        let queue = Queue::new(0);
        assert_eq!(attached(&queue, 1, WhenFull::Displace), Some(1));
    }

    #[test]
    fn a_cancelled_job_gives_its_place_back_at_once() {
        let queue = Queue::new(1);
        attached(&queue, 1, WhenFull::Refuse);
        queue.cancelled(|_| true);
        attached(&queue, 2, WhenFull::Refuse);
        assert_eq!(take(&queue), Some(1));
        queue.buried();
        assert_eq!(queue.figures().queued, 1);
        assert!(queue.push(Job::Attached(3), WhenFull::Refuse).is_err());
    }

    #[test]
    fn cancelled_jobs_are_swept_out_when_they_are_the_larger_part() {
        let queue = Queue::new(1000);
        for job in 0..100 {
            attached(&queue, job, WhenFull::Refuse);
        }
        let swept: usize = (0..99).map(|_| queue.cancelled(|job| *job < 99).len()).sum();
        assert!(swept >= 99, "{swept}");
        assert_eq!(take(&queue), Some(99));
    }

    #[test]
    fn a_queue_is_quiet_when_its_last_job_has_ended_or_was_cancelled() {
        use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
        static TOLD: AtomicUsize = AtomicUsize::new(0);
        let tell = || {
            Box::new(|| {
                TOLD.fetch_add(1, Relaxed);
            }) as NativeJob
        };
        let queue = Queue::new(8);
        queue.when_quiet(tell());
        assert_eq!(TOLD.load(Relaxed), 1);
        attached(&queue, 1, WhenFull::Refuse);
        attached(&queue, 2, WhenFull::Refuse);
        queue.when_quiet(tell());
        let Some(Found::Attached(mut seat)) = queue.wait() else { panic!("no job") };
        assert_eq!(seat.take(), Some(1));
        queue.cancelled(|_| true);
        assert_eq!(TOLD.load(Relaxed), 1);
        drop(seat);
        assert_eq!(TOLD.load(Relaxed), 2);
    }

    #[test]
    fn a_closed_queue_gives_out_what_it_has_and_takes_no_more() {
        let queue = Queue::new(8);
        attached(&queue, 1, WhenFull::Refuse);
        queue.close();
        assert!(matches!(queue.push(Job::Attached(2), WhenFull::Append).err().unwrap().error, Error::PoolClosed));
        assert_eq!(take(&queue), Some(1));
        assert!(queue.wait().is_none());
    }
}
