//! The queue under loom: workers as a pool has them, and a lock for what only one thread can have.

use super::*;
use crate::sync::{Arc, atomic::AtomicBool, atomic::AtomicUsize, thread};
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
    /// Ends the batch, and gives way.
    GivesWay,
    Once(Once),
}

/// A job for whoever is first: a worker, or who cancels it.
#[derive(Clone, Default)]
struct Once(Arc<OnceState>);

#[derive(Default)]
struct OnceState {
    begun: AtomicBool,
    dead: AtomicBool,
    runs: AtomicUsize,
}

impl Once {
    fn begin(&self) -> bool {
        !self.0.begun.swap(true, SeqCst)
    }

    /// Gives how many jobs were swept out.
    fn cancel(&self, queue: &Queue<Work>) -> usize {
        if !self.begin() {
            return 0;
        }
        self.0.dead.store(true, SeqCst);
        queue.cancelled(|job| matches!(job, Work::Once(once) if once.0.dead.load(SeqCst))).len()
    }

    /// Asserts that it was either run once, or cancelled.
    fn assert_had_its_turn(&self) {
        assert_eq!(self.0.runs.load(SeqCst), usize::from(!self.0.dead.load(SeqCst)));
    }
}

fn work(queue: &Queue<Work>, world: &World) {
    let mut last = None;
    while let Some(found) = queue.wait(last.take()) {
        last = Some(match found {
            Found::Native(job, seat) => {
                job.run();
                seat
            }
            Found::Attached(mut seat) => {
                let mut attached = world.interpreter.lock();
                while let Some(job) = seat.take(now()) {
                    if let Work::After(n) = job {
                        drop(attached);
                        world.wait_for(n);
                        attached = world.interpreter.lock();
                    }
                    let gives_way = matches!(job, Work::GivesWay);
                    if let Work::Once(once) = job {
                        if once.begin() {
                            once.0.runs.fetch_add(1, SeqCst);
                        } else {
                            queue.buried();
                        }
                    }
                    world.finish();
                    if gives_way {
                        seat.give_way(|| true);
                        break;
                    }
                }
                drop(attached);
                if world.interpreter.try_lock().is_some() {
                    seat.unwanted();
                }
                seat
            }
        });
    }
}

fn queue(limit: usize, brief: bool) -> Arc<Queue<Work>> {
    let queue = Queue::new(limit);
    if brief {
        queue.state.lock().pace = Pace::brief();
    }
    Arc::new(queue)
}

/// Runs `submit` beside `workers` of them, and closes only when `jobs` have run: a lost wake-up is a deadlock. Jobs are
/// expected to be long, then to be brief.
fn check(workers: usize, limit: usize, jobs: usize, submit: fn(&Arc<Queue<Work>>, &Arc<World>)) {
    check_expecting(false, workers, limit, jobs, submit);
    check_expecting(true, workers, limit, jobs, submit);
}

fn check_expecting(brief: bool, workers: usize, limit: usize, jobs: usize, submit: fn(&Arc<Queue<Work>>, &Arc<World>)) {
    loom::model(move || {
        let queue = queue(limit, brief);
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
        let state = queue.state.lock();
        assert_eq!((state.busy, state.attached), (0, 0));
        assert_eq!((state.idle, state.watching, state.seeking, state.tokens), (0, 0, 0, 0));
        assert_eq!((state.jobs.len(), state.taken), (0, jobs as u64));
    });
}

fn push(queue: &Queue<Work>, job: Work) {
    assert!(queue.push(Job::Attached(job), WhenFull::Refuse).is_ok());
}

/// Whether a rouse was promised.
fn push_among(queue: &Queue<Work>, job: Work) -> bool {
    queue.push_among(Job::Attached(job), WhenFull::Refuse).unwrap_or_else(|_| panic!("refused"))
}

#[test]
fn jobs_among_others_run_though_a_promised_rouse_never_comes() {
    check(2, 8, 2, |queue, _| {
        push(queue, Work::Quick);
        push_among(queue, Work::Quick);
    });
}

#[test]
fn a_rouse_is_as_good_as_a_wake_for_each() {
    check(2, 8, 2, |queue, _| {
        push(queue, Work::After(1));
        if push_among(queue, Work::Quick) {
            queue.rouse();
        }
    });
}

#[test]
fn who_gives_way_goes_on_when_it_is_roused_and_when_it_is_not() {
    check(2, 8, 2, |queue, _| {
        push(queue, Work::GivesWay);
        push(queue, Work::Quick);
        queue.rouse();
    });
    check(1, 8, 2, |queue, _| {
        push(queue, Work::GivesWay);
        push(queue, Work::Quick);
    });
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
fn no_job_is_left_when_it_is_thought_anew_how_long_jobs_take() {
    check(2, 8, 2, |queue, _| {
        push(queue, Work::After(1));
        let mut state = queue.state.lock();
        state.pace = if state.is_brief() { Pace::default() } else { Pace::brief() };
        drop(state);
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

/// Pushes as many jobs as `cancelling` has threads to run beside `workers`, each of which cancels some of them.
fn check_cancelling(workers: usize, jobs: usize, cancelling: &'static [&'static [usize]]) {
    loom::model(move || {
        let queue = queue(8, false);
        let world = Arc::new(World::default());
        let all: Vec<_> = (0..jobs).map(|_| Once::default()).collect();
        for job in &all {
            push(&queue, Work::Once(job.clone()));
        }
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                let (queue, world) = (Arc::clone(&queue), Arc::clone(&world));
                thread::spawn(move || work(&queue, &world))
            })
            .collect();
        let cancellers: Vec<_> = cancelling
            .iter()
            .map(|which| {
                let (queue, all) = (Arc::clone(&queue), all.clone());
                thread::spawn(move || which.iter().map(|n| all[*n].cancel(&queue)).sum::<usize>())
            })
            .collect();
        let told = Arc::new((Mutex::new(false), Condvar::new()));
        let teller = Arc::clone(&told);
        queue.when_quiet(Box::new(move || {
            *teller.0.lock() = true;
            teller.1.notify_all();
        }));
        let mut quiet = told.0.lock();
        while !*quiet {
            quiet = wait(&told.1, quiet);
        }
        drop(quiet);
        for job in &all {
            job.assert_had_its_turn();
        }
        let swept: usize = cancellers.into_iter().map(|thread| thread.join().unwrap()).sum();
        queue.close();
        for thread in threads {
            thread.join().unwrap();
        }
        let state = queue.state.lock();
        assert_eq!((state.jobs.len(), state.dead, state.busy, state.idle, state.seeking), (0, 0, 0, 0, 0));
        assert_eq!((state.taken as usize + swept, *world.done.lock() + swept), (jobs, jobs));
    });
}

#[test]
fn a_job_that_is_cancelled_beside_a_worker_runs_or_is_counted_off() {
    check_cancelling(1, 2, &[&[0, 1]]);
    check_cancelling(2, 2, &[&[1]]);
}

#[test]
fn who_sweeps_out_a_job_that_another_is_cancelling_leaves_the_count_right() {
    check_cancelling(1, 2, &[&[0], &[1]]);
}

#[test]
fn a_submitter_that_blocks_goes_on_in_the_place_of_a_job_that_is_cancelled() {
    loom::model(|| {
        let queue = queue(1, false);
        let cancelled = Once::default();
        push(&queue, Work::Once(cancelled.clone()));
        let submitter = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || assert!(queue.push(Job::Attached(Work::Quick), WhenFull::Block).is_ok()))
        };
        cancelled.cancel(&queue);
        submitter.join().unwrap();
        assert_eq!((queue.figures().queued, queue.figures().waiting), (1, 0));
    });
}
