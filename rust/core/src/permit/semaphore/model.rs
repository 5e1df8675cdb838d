//! The semaphore under loom.

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
    let queue = semaphore.0.queue.lock();
    assert!(semaphore.free() == semaphore.0.total && queue.waiters.is_empty() && !queue.handing);
    assert_eq!(semaphore.0.word.load(Ordering::Relaxed) & LOOK, usize::from(queue.closed));
}

/// One permit that is held comes back on another thread, by either way, beside what a model does: `before` queues who
/// waits, `beside` meets the release, `after` looks at what came of it. In the end all is free.
fn beside_a_release<T: 'static, U: 'static>(before: fn(&Semaphore) -> T, beside: fn(&Semaphore, T) -> U, after: fn(U)) {
    let ways: [fn(&Semaphore, Grant); 2] = [
        |_, held| drop(held),
        |semaphore, held| {
            held.forget();
            semaphore.release(1).unwrap();
        },
    ];
    for give_back in ways {
        loom::model(move || {
            let semaphore = Semaphore::new(1);
            let held = semaphore.try_acquire(1).unwrap().unwrap();
            let made = before(&semaphore);
            let releaser = thread::spawn({
                let semaphore = semaphore.clone();
                move || give_back(&semaphore, held)
            });
            let made = beside(&semaphore, made);
            releaser.join().unwrap();
            after(made);
            all_free(&semaphore);
        });
    }
}

/// What keeps the permit, and the place in the queue.
fn waiter(semaphore: &Semaphore) -> (Kept, Ticket) {
    let kept = Kept::default();
    let ticket = queue(semaphore, &kept);
    (kept, ticket)
}

/// It has the permit, and gives it back.
fn has_it(kept: &Kept) {
    assert_eq!(kept.lock().len(), 1);
    kept.lock().clear();
}

#[test]
fn a_waiter_that_is_cancelled_while_a_permit_comes_back_loses_none() {
    beside_a_release(
        waiter,
        |_, (kept, ticket)| (kept, ticket.cancel()),
        |(kept, left)| {
            assert_eq!(kept.lock().len(), usize::from(!left));
            kept.lock().clear();
        },
    );
}

#[test]
fn the_next_waiter_gets_the_permit_that_a_cancelled_one_was_to_have() {
    beside_a_release(
        |semaphore| (waiter(semaphore), waiter(semaphore)),
        |_, ((first, ticket), second)| {
            ticket.cancel();
            // As a task does that was cancelled after the hand-over.
            first.lock().pop();
            (first, second)
        },
        |(first, (second, _ticket))| {
            first.lock().pop();
            has_it(&second);
        },
    );
}

#[test]
fn a_waiter_that_is_dead_passes_the_permit_on() {
    beside_a_release(
        |semaphore| match semaphore.acquire(1, drop).unwrap() {
            Acquire::Queued(dead) => (dead, waiter(semaphore)),
            Acquire::Granted(_) => panic!("nothing is free"),
        },
        |_, (dead, waiter)| {
            drop(dead);
            waiter
        },
        |(kept, _ticket)| has_it(&kept),
    );
}

#[test]
fn a_thread_that_gives_up_while_a_permit_comes_back_passes_it_on() {
    beside_a_release(
        |semaphore| (semaphore.enqueue(1).unwrap(), waiter(semaphore)),
        |_, (place, waiter)| {
            drop(place);
            waiter
        },
        |(kept, _ticket)| has_it(&kept),
    );
}

#[test]
fn who_asks_while_a_permit_comes_back_never_overtakes_the_waiter() {
    beside_a_release(
        waiter,
        |semaphore, waiter| {
            assert!(semaphore.try_acquire(1).unwrap().is_none());
            waiter
        },
        |(kept, _ticket)| has_it(&kept),
    );
}

#[test]
fn who_begins_to_wait_while_a_permit_comes_back_gets_it() {
    beside_a_release(
        |_| (),
        |semaphore, ()| {
            let kept = Kept::default();
            let place = queue_or_keep(semaphore, &kept);
            (kept, place)
        },
        |(kept, _place)| has_it(&kept),
    );
}

#[test]
fn who_begins_to_wait_during_a_hand_over_comes_next() {
    beside_a_release(
        waiter,
        |semaphore, first| (first, waiter(semaphore)),
        |((first, _its_place), (second, _place))| {
            has_it(&first);
            has_it(&second);
        },
    );
}

#[test]
fn who_begins_to_wait_while_a_dead_waiter_is_woken_gets_its_permit() {
    beside_a_release(
        |semaphore| semaphore.acquire(1, drop).unwrap(),
        |semaphore, _dead| {
            let kept = Kept::default();
            let place = queue_or_keep(semaphore, &kept);
            (kept, place)
        },
        |(kept, _place)| has_it(&kept),
    );
}

#[test]
fn who_gets_a_permit_sees_what_was_done_under_it_before() {
    loom::model(|| {
        let semaphore = Semaphore::new(1);
        let done = Arc::new(loom::cell::UnsafeCell::new(()));
        let other = thread::spawn({
            let (semaphore, done) = (semaphore.clone(), Arc::clone(&done));
            move || {
                if semaphore.take_at_once(1).unwrap() {
                    done.with_mut(|_| ());
                    semaphore.release(1).unwrap();
                }
            }
        });
        let held = semaphore.acquire_blocking(1, None).unwrap();
        done.with_mut(|_| ());
        drop(held);
        other.join().unwrap();
        all_free(&semaphore);
    });
}

#[test]
fn of_two_that_ask_at_once_for_one_permit_each_both_get_it_where_there_are_two() {
    loom::model(|| {
        let semaphore = Semaphore::new(2);
        let other = thread::spawn({
            let semaphore = semaphore.clone();
            move || semaphore.acquire(1, |_| panic!("it is free")).map(drop).unwrap()
        });
        assert!(semaphore.try_acquire(1).unwrap().is_some());
        other.join().unwrap();
        all_free(&semaphore);
    });
}

#[test]
fn a_permit_that_is_taken_at_once_while_somebody_begins_to_wait_is_not_given_twice() {
    loom::model(|| {
        let semaphore = Semaphore::new(1);
        let other = thread::spawn({
            let semaphore = semaphore.clone();
            move || semaphore.take_at_once(1).unwrap()
        });
        let kept = Kept::default();
        let place = queue_or_keep(&semaphore, &kept);
        let other_has_it = other.join().unwrap();
        assert_eq!(kept.lock().len(), usize::from(!other_has_it));
        if other_has_it {
            semaphore.release(1).unwrap();
        }
        has_it(&kept);
        drop(place);
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
    beside_a_release(
        |semaphore| {
            let first = Kept::default();
            // As a waiter does whose loop has stopped, and runs again later.
            let (again, later) = (semaphore.clone(), Arc::clone(&first));
            let place = Arc::new(Mutex::new(None));
            let its_place = Arc::clone(&place);
            let stopped = semaphore.acquire(1, move |grant| {
                drop(grant);
                *its_place.lock() = Some(queue_or_keep(&again, &later));
            });
            (first, waiter(semaphore), stopped, place)
        },
        |_, made| made,
        |(first, (second, _ticket), _stopped, _place)| {
            assert_eq!(first.lock().len(), 0);
            has_it(&second);
            has_it(&first);
        },
    );
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
    beside_a_release(
        |semaphore| {
            let mut place = semaphore.enqueue(1).unwrap();
            thread::spawn(move || place.wait(None).is_ok())
        },
        |semaphore, waiter| {
            semaphore.close();
            waiter
        },
        |waiter| assert!(waiter.join().is_ok()),
    );
}
