//! A fixed number of threads that run the jobs of one [`Queue`]. It needs no Python: what attached jobs are, and what
//! surrounds a worker's life, is the [`Runner`]'s.
//!
//! # States
//! ```text
//!   MADE ── start(), or the first job ──▶ OPEN ── close(), or the drop ──▶ CLOSED ── the queue is empty ──▶ ENDED
//!     └────────────── close(), or an after_start that failed ──────────────────▲
//! ```
//! - MADE: no thread, or not all, where one could not be started: the next start goes on with that. What a forked child goes
//!   on with is in this state.
//! - OPEN: `threads` of them, each of which has run `after_start`.
//! - CLOSED: no more jobs are taken; those that are queued run. A dropped pool is closed, not joined.
//! - ENDED: [`Pool::living`] is 0. [`Pool::join`] waits for it.
//!
//! # Invariants
//! - **A pool that could not start whole takes no job**, so that nobody waits for one that no thread will take.
//! - **`living` counts a thread from before it is spawned until after its last act**, so 0 means that none will touch the
//!   runner again.
//! - **No thread of a pool waits for that pool**: for room in its queue it goes past the limit, and `start` and `join` return at
//!   once.
//! - **A job's panic ends the job.** The thread goes on with the next one.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::job::{Job, NativeJob, Rejected, WhenFull};
use super::queue::{Figures, Found, Queue, Seat};
use crate::sync::{Arc, Condvar, Mutex, wait_timeout};
use crate::{Error, Result};

/// What is specific to a pool: its attached jobs, and what happens around them.
pub trait Runner: Send + Sync + Sized + 'static {
    type Job: Send + 'static;

    /// Surrounds a worker's whole life: calls `life` once, on the worker's thread, unless that can't begin.
    fn worker(&self, index: usize, life: &mut (dyn FnMut() + Send)) {
        let _ = index;
        life();
    }

    /// Called on each worker before its first job. An error closes the pool and fails its start.
    fn after_start(&self, index: usize) -> Result<()> {
        let _ = index;
        Ok(())
    }

    /// Called on each worker whose `after_start` succeeded, after its last job.
    fn before_stop(&self, index: usize) {
        let _ = index;
    }

    /// Called by the last thread of a closed pool at its end, with a lock held: it must call nobody.
    fn over(&self) {}

    /// Attaches, then runs one job of the seat or a batch of them.
    fn run(&self, seat: &mut Seat<'_, Self::Job>);

    /// A job panicked that nobody waits for.
    fn panicked(&self, error: Error) {
        let _ = error;
    }
}

/// The runner of a pool that has native jobs only.
#[derive(Clone, Copy, Debug, Default)]
pub struct NativeOnly;

impl Runner for NativeOnly {
    type Job = std::convert::Infallible;

    fn run(&self, _seat: &mut Seat<'_, Self::Job>) {}
}

/// What happens to a job when the queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The submitter waits for room.
    #[default]
    Wait,
    /// [`Error::PoolFull`].
    Refuse,
    /// The oldest job runs on the calling thread.
    Caller,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub threads: usize,
    /// 0 makes no threads and needs [`Overflow::Caller`].
    pub queue_length: usize,
    pub overflow: Overflow,
    /// A thread's name is this and its index, from 0. `None` is `penstock-N-`, N counting such pools from 0.
    pub name_prefix: Option<String>,
    /// In bytes; `None` is what the C library gives a thread, which is more than std does and what interpreters count on.
    pub stack_size: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            threads: default_threads(),
            queue_length: 16_384,
            overflow: Overflow::Wait,
            name_prefix: None,
            stack_size: None,
        }
    }
}

/// min(32, usable CPUs + 4), where std counts as usable what the affinity mask and the quotas of cgroup v1 and v2 allow.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).saturating_add(4).min(32)
}

/// The stack of a thread that runs what programs give it: std's 2 MiB may end before the interpreter's limit on recursion.
/// The soft limit on stacks is what the C library takes for a thread's; 8 MiB where there is no limit.
pub fn platform_stack() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Stack).current;
    limit.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(8 << 20)
}

/// What Linux allows in a whole system, if nobody raised it (`kernel.pid_max`): more would starve the system rather than
/// fail.
const MOST_THREADS: usize = 1 << 15;

struct Shared<R: Runner> {
    queue: Queue<R::Job>,
    runner: R,
    id: usize,
    living: Mutex<usize>,
    /// `living` is 0.
    gone: Condvar,
}

pub struct Pool<R: Runner> {
    shared: Arc<Shared<R>>,
    config: Config,
    prefix: String,
    /// Set under the lock of `threads`. Who sees it (Acquire) needn't take that, and has what `start` did (Release).
    started: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    joining: Mutex<()>,
}

/// Distinguishes pools; 0 is no pool.
static NEXT_ID: AtomicUsize = AtomicUsize::new(1);
/// The N of `penstock-N-`.
static NEXT_NAME: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static WORKER_OF: Cell<usize> = const { Cell::new(0) };
}

impl<R: Runner> Pool<R> {
    /// A pool that has no threads yet.
    pub fn new(config: Config, runner: R) -> Result<Self> {
        if config.queue_length == 0 && config.overflow != Overflow::Caller {
            let reason = "a queue of length 0 has no threads: it needs overflow=\"caller\"";
            return Err(Error::setting("queue_length", 0, reason));
        }
        if config.threads > MOST_THREADS {
            let reason = format!("at most {MOST_THREADS} are possible, as all of them start at once");
            return Err(Error::setting("threads", config.threads, reason));
        }
        if config.threads == 0 && config.queue_length > 0 {
            return Err(Error::setting("threads", 0, "at least 1 is needed (or queue_length=0)"));
        }
        if let Some(prefix) = config.name_prefix.as_ref().filter(|prefix| prefix.contains('\0')) {
            return Err(Error::setting("name_prefix", format!("{prefix:?}"), "a thread's name can't hold a NUL"));
        }
        let prefix = config.name_prefix.clone().unwrap_or_else(|| {
            let n = NEXT_NAME.fetch_add(1, Ordering::Relaxed);
            format!("penstock-{n}-")
        });
        Ok(Self::assemble(config, prefix, runner))
    }

    fn assemble(config: Config, prefix: String, runner: R) -> Self {
        let shared = Shared {
            queue: Queue::new(config.queue_length),
            runner,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            living: Mutex::new(0),
            gone: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
            config,
            prefix,
            started: AtomicBool::new(false),
            threads: Mutex::new(Vec::new()),
            joining: Mutex::new(()),
        }
    }

    /// A pool of the same settings and name that has no threads yet: what a forked child goes on with.
    pub fn afresh(&self, runner: R) -> Self {
        Self::assemble(self.config.clone(), self.prefix.clone(), runner)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn name_prefix(&self) -> &str {
        &self.prefix
    }

    pub fn queue(&self) -> &Queue<R::Job> {
        &self.shared.queue
    }

    pub fn runner(&self) -> &R {
        &self.shared.runner
    }

    /// How many threads it has, or will have.
    pub fn threads(&self) -> usize {
        if self.config.queue_length == 0 { 0 } else { self.config.threads }
    }

    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Starts the threads and waits until all have run `after_start`. Does nothing the second time, nor on one of the
    /// threads: that may be in its `after_start`. Where the system has no thread, there may be some another time: then it is
    /// to be called again.
    pub fn start(&self) -> Result<()> {
        if self.is_started() || self.is_worker() {
            return Ok(());
        }
        let mut threads = self.threads.lock();
        // A closed queue takes nothing that threads were needed for, and says so.
        if self.is_started() || self.queue().is_closed() {
            return Ok(());
        }
        let (report, reports) = mpsc::channel();
        let before = threads.len();
        let spawned = (before..self.threads()).try_for_each(|index| {
            let size = self.config.stack_size.unwrap_or_else(platform_stack);
            let builder = thread::Builder::new().name(format!("{}{index}", self.prefix)).stack_size(size);
            let (shared, report) = (Arc::clone(&self.shared), report.clone());
            *self.shared.living.lock() += 1;
            let spawned =
                builder.spawn(move || shared.live(index, report)).map_err(|source| self.no_thread(index, source));
            threads.push(spawned.inspect_err(|_| self.shared.ended())?);
            Ok(())
        });
        drop(report);
        let reports: Vec<_> = reports.iter().collect();
        // A thread that couldn't begin has nothing to report.
        let begun = if reports.len() < threads.len() - before { Err(Error::PoolClosed) } else { Ok(()) };
        let begun = reports.into_iter().fold(Ok(()), Result::and).and(begun);
        if begun.is_err() {
            self.shared.queue.close();
        }
        self.started.store(begun.is_err() || spawned.is_ok(), Ordering::Release);
        begun.and(spawned)
    }

    fn no_thread(&self, index: usize, source: io::Error) -> Error {
        let settings = match self.config.stack_size {
            Some(_) => "DispatchPool.threads and stack_size",
            None => "DispatchPool.threads",
        };
        Error::NoThread { pool: self.prefix.clone(), number: index + 1, threads: self.threads(), settings, source }
    }

    /// Runs `job` on one of the threads. A panic in it is caught.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        self.spawn_native(Box::new(job))
    }

    /// Does by the overflow policy when the queue is full; on the pool's own threads it never waits.
    fn spawn_native(&self, job: NativeJob) -> Result<()> {
        let mut displaced = self.push(Job::Native(job), self.when_full())?;
        while let Some(oldest) = displaced {
            match oldest {
                Job::Native(oldest) => {
                    self.shared.run_native(oldest);
                    displaced = self.queue().excess();
                    self.queue().helped();
                }
                Job::Attached(oldest) => {
                    // Only the runner's callers can run such a job. It goes back, past the limit, and the caller is let
                    // go.
                    let back = self.push(Job::Attached(oldest), WhenFull::Append);
                    self.queue().helped();
                    return back.map(drop).map_err(Error::from);
                }
            }
        }
        Ok(())
    }

    /// Hands a job to the workers; starts them if need be.
    pub fn push(
        &self,
        job: Job<R::Job>,
        when_full: WhenFull,
    ) -> std::result::Result<Option<Job<R::Job>>, Rejected<R::Job>> {
        if let Err(error) = self.start() {
            return Err(Rejected { error, job });
        }
        self.shared.queue.push(job, when_full)
    }

    /// What a submitter does on a full queue that may block its thread.
    pub fn when_full(&self) -> WhenFull {
        match self.config.overflow {
            Overflow::Wait if self.is_worker() => WhenFull::Append,
            Overflow::Wait => WhenFull::Block,
            Overflow::Refuse => WhenFull::Refuse,
            Overflow::Caller => WhenFull::Displace,
        }
    }

    /// Whether the calling thread is one of the pool's.
    pub fn is_worker(&self) -> bool {
        WORKER_OF.get() == self.shared.id
    }

    /// Takes no more jobs; the threads end when those that are queued have run.
    pub fn close(&self) {
        self.shared.queue.close();
    }

    /// Closes, and waits for the threads to end. One of the pool's own threads doesn't wait: it would for itself.
    pub fn join(&self) {
        self.close();
        if self.is_worker() {
            return;
        }
        // A second caller waits for the first; nobody who only looks waits for either.
        let _turn = self.joining.lock();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A worker catches every panic of a job; one of the runner's own was reported by the panic hook.
            let _ = thread.join();
        }
    }

    /// As [`join`](Self::join), but waits for `limit` at most. False: threads are left.
    pub fn join_for(&self, limit: Duration) -> bool {
        self.close();
        if self.is_worker() {
            return true;
        }
        let mut living = self.shared.living.lock();
        if *living > 0 {
            living = wait_timeout(&self.shared.gone, living, limit);
        }
        let over = *living == 0;
        drop(living);
        if over {
            self.join();
        }
        over
    }

    /// How many of its threads live.
    pub fn living(&self) -> usize {
        *self.shared.living.lock()
    }

    pub fn figures(&self) -> Figures {
        self.shared.queue.figures()
    }
}

impl<R: Runner> Drop for Pool<R> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Counts a thread off at its end, though the runner may panic.
struct Life<'s, R: Runner>(&'s Shared<R>);

impl<R: Runner> Drop for Life<'_, R> {
    fn drop(&mut self) {
        self.0.ended();
    }
}

impl<R: Runner> Shared<R> {
    fn live(&self, index: usize, report: mpsc::Sender<Result<()>>) {
        WORKER_OF.set(self.id);
        let _life = Life(self);
        let mut report = Some(report);
        self.runner.worker(index, &mut || {
            let started = self.runner.after_start(index);
            let failed = started.is_err();
            if let Some(report) = report.take() {
                let _ = report.send(started);
            }
            if failed {
                return;
            }
            self.work();
            self.runner.before_stop(index);
        });
    }

    fn ended(&self) {
        let mut living = self.living.lock();
        if *living == 1 && self.queue.is_closed() {
            self.runner.over();
        }
        *living -= 1;
        if *living == 0 {
            self.gone.notify_all();
        }
    }

    fn work(&self) {
        let mut last = None;
        while let Some(found) = self.queue.wait(last) {
            last = Some(match found {
                Found::Native(job, mut seat) => {
                    self.run_native(job);
                    seat.done(Instant::now());
                    seat
                }
                Found::Attached(mut seat) => {
                    if let Err(error) = Error::caught(|| self.runner.run(&mut seat)) {
                        self.runner.panicked(error);
                    }
                    seat
                }
            });
        }
    }

    fn run_native(&self, job: NativeJob) {
        match Error::caught(|| job.run()) {
            Ok(true) => {}
            Ok(false) => self.queue.buried(),
            Err(error) => self.runner.panicked(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Barrier, OnceLock, Weak};

    fn pool(config: Config) -> Pool<NativeOnly> {
        Pool::new(config, NativeOnly).unwrap()
    }

    #[test]
    fn threads_bear_the_prefix_and_their_index() {
        let pool = pool(Config { threads: 2, name_prefix: Some("io-".to_owned()), ..Config::default() });
        let both = Arc::new(Barrier::new(2));
        let (send, names) = mpsc::channel();
        for _ in 0..2 {
            let (send, both) = (send.clone(), Arc::clone(&both));
            pool.spawn(move || {
                both.wait();
                send.send(thread::current().name().unwrap().to_owned()).unwrap();
            })
            .unwrap();
        }
        pool.join();
        drop(send);
        let mut names: Vec<_> = names.iter().collect();
        names.sort_unstable();
        assert_eq!(names, ["io-0", "io-1"]);
        assert_eq!(pool.living(), 0);
    }

    #[test]
    fn a_panic_ends_its_job_and_nothing_else() {
        let pool = pool(Config { threads: 1, ..Config::default() });
        let (send, received) = mpsc::channel();
        pool.spawn(|| panic!("on purpose")).unwrap();
        pool.spawn(move || send.send(1).unwrap()).unwrap();
        assert_eq!(received.recv().unwrap(), 1);
        pool.join();
    }

    #[test]
    fn a_full_queue_refuses() {
        let pool = pool(Config { threads: 1, queue_length: 1, overflow: Overflow::Refuse, ..Config::default() });
        let (go, gate) = mpsc::channel::<()>();
        pool.spawn(move || gate.recv().unwrap_or(())).unwrap();
        while pool.figures().running == 0 {
            thread::yield_now();
        }
        pool.spawn(|| ()).unwrap();
        assert!(matches!(pool.spawn(|| ()), Err(Error::PoolFull { limit: 1 })));
        drop(go);
        pool.join();
    }

    #[test]
    fn without_threads_the_caller_runs_the_job() {
        let pool = pool(Config { queue_length: 0, overflow: Overflow::Caller, ..Config::default() });
        let me = thread::current().id();
        let (send, received) = mpsc::channel();
        pool.spawn(move || send.send(thread::current().id()).unwrap()).unwrap();
        assert_eq!(received.recv().unwrap(), me);
        assert_eq!(pool.threads(), 0);
        assert!(Pool::new(Config { queue_length: 0, ..Config::default() }, NativeOnly).is_err());
    }

    #[test]
    fn a_worker_never_waits_for_room_in_its_own_queue() {
        let pool = Arc::new(pool(Config { threads: 1, queue_length: 1, ..Config::default() }));
        let (send, received) = mpsc::channel();
        let inner = Arc::clone(&pool);
        pool.spawn(move || {
            for n in 0..10 {
                let send = send.clone();
                inner.spawn(move || send.send(n).unwrap()).unwrap();
            }
        })
        .unwrap();
        assert_eq!(received.iter().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        pool.join();
    }

    #[test]
    fn who_joins_for_a_time_gives_up_when_it_is_over() {
        let pool = pool(Config { threads: 2, ..Config::default() });
        let (go, gate) = mpsc::channel::<()>();
        pool.spawn(move || gate.recv().unwrap_or(())).unwrap();
        assert!(!pool.join_for(Duration::from_millis(1)));
        assert!(matches!(pool.spawn(|| ()), Err(Error::PoolClosed)));
        drop(go);
        while !pool.join_for(Duration::from_secs(10)) {}
        assert_eq!(pool.living(), 0);
    }

    #[test]
    fn a_failing_start_is_reported_and_closes_the_pool() {
        struct Failing;
        impl Runner for Failing {
            type Job = std::convert::Infallible;
            fn after_start(&self, index: usize) -> Result<()> {
                if index == 1 { Err(Error::Cancelled) } else { Ok(()) }
            }
            fn run(&self, _seat: &mut Seat<'_, Self::Job>) {}
        }
        let pool = Pool::new(Config { threads: 3, ..Config::default() }, Failing).unwrap();
        assert!(matches!(pool.start(), Err(Error::Cancelled)));
        assert!(matches!(pool.spawn(|| ()), Err(Error::PoolClosed)));
        pool.join();
    }

    #[test]
    fn a_start_that_had_no_thread_is_made_again_and_the_pool_is_not_closed() {
        let pool = pool(Config { threads: 2, stack_size: Some(1 << 60), ..Config::default() });
        for _ in 0..2 {
            let refused = pool.spawn(|| ()).unwrap_err();
            assert!(matches!(refused, Error::NoThread { number: 1, threads: 2, .. }), "{refused}");
        }
        assert!(!pool.queue().is_closed());
        pool.join();
        assert_eq!(pool.living(), 0);
        assert!(matches!(pool.spawn(|| ()), Err(Error::PoolClosed)));
    }

    #[test]
    fn after_start_may_use_the_pool_that_is_being_started() {
        #[derive(Default)]
        struct Eager(OnceLock<(Weak<Pool<Eager>>, mpsc::Sender<()>)>);
        impl Runner for Eager {
            type Job = std::convert::Infallible;
            fn after_start(&self, _index: usize) -> Result<()> {
                let (pool, send) = self.0.get().unwrap();
                let send = send.clone();
                pool.upgrade().unwrap().spawn(move || send.send(()).unwrap())
            }
            fn run(&self, _seat: &mut Seat<'_, Self::Job>) {}
        }
        let pool = Arc::new(Pool::new(Config { threads: 2, ..Config::default() }, Eager::default()).unwrap());
        let (send, received) = mpsc::channel();
        assert!(pool.runner().0.set((Arc::downgrade(&pool), send)).is_ok());
        pool.start().unwrap();
        pool.join();
        assert_eq!(received.try_iter().count(), 2);
    }

    #[test]
    fn a_thread_that_can_not_begin_fails_the_start_and_closes_the_pool() {
        struct Lame;
        impl Runner for Lame {
            type Job = std::convert::Infallible;
            fn worker(&self, index: usize, life: &mut (dyn FnMut() + Send)) {
                if index > 0 {
                    life();
                }
            }
            fn run(&self, _seat: &mut Seat<'_, Self::Job>) {}
        }
        let pool = Pool::new(Config { threads: 2, ..Config::default() }, Lame).unwrap();
        assert!(matches!(pool.start(), Err(Error::PoolClosed)));
        assert!(matches!(pool.spawn(|| ()), Err(Error::PoolClosed)));
        pool.join();
    }

    #[test]
    fn the_runner_of_a_closed_pool_is_told_once_that_the_last_thread_ends() {
        #[derive(Default)]
        struct Counting(AtomicUsize);
        impl Runner for Counting {
            type Job = std::convert::Infallible;
            fn over(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
            fn run(&self, _seat: &mut Seat<'_, Self::Job>) {}
        }
        let pool = Pool::new(Config { threads: 3, ..Config::default() }, Counting::default()).unwrap();
        pool.start().unwrap();
        assert_eq!(pool.runner().0.load(Ordering::Relaxed), 0);
        pool.join();
        assert_eq!(pool.runner().0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_dropped_pool_runs_what_is_queued() {
        let pool = pool(Config { threads: 1, ..Config::default() });
        let (send, received) = mpsc::channel();
        for n in 0..5 {
            let send = send.clone();
            pool.spawn(move || {
                thread::sleep(Duration::from_millis(1));
                send.send(n).unwrap();
            })
            .unwrap();
        }
        drop((pool, send));
        assert_eq!(received.iter().count(), 5);
    }

    #[test]
    fn the_default_count_is_bounded() {
        assert!((5..=32).contains(&default_threads()));
    }
}
