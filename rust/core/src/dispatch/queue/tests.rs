use super::*;

fn attached(queue: &Queue<u32>, job: u32, when_full: WhenFull) -> Option<u32> {
    match queue.push(Job::Attached(job), when_full) {
        Ok(Some(Job::Attached(displaced))) => Some(displaced),
        Ok(_) => None,
        Err(rejected) => panic!("{}", rejected.error),
    }
}

fn take(queue: &Queue<u32>) -> Option<u32> {
    match queue.wait(None) {
        Some(Found::Attached(mut seat)) => seat.take(now()),
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
    let refused = queue.push(Job::Attached(3), WhenFull::BlockFor(Duration::from_millis(1))).err().unwrap();
    assert!(matches!((refused.error, refused.job), (Error::PoolFull { limit: 2 }, Job::Attached(3))));
    assert_eq!(attached(&queue, 3, WhenFull::Displace), Some(1));
    attached(&queue, 4, WhenFull::Append);
    let figures = queue.figures();
    assert_eq!((figures.queued, figures.waiting), (2, 1));
    assert_eq!((take(&queue), take(&queue), take(&queue)), (Some(2), Some(3), Some(4)));
}

#[test]
fn a_queue_of_length_0_says_where_its_jobs_would_run() {
    let queue = Queue::new(0);
    let refused = queue.push(Job::Attached(1), WhenFull::Refuse).err().unwrap();
    assert!(refused.error.to_string().ends_with("but never on one that runs a loop"));
    assert_eq!(attached(&queue, 1, WhenFull::Displace), Some(1));
}

#[test]
fn one_worker_at_a_time_waits_to_attach_and_the_next_is_woken_when_it_has_its_job() {
    let queue = Queue::new(2);
    attached(&queue, 1, WhenFull::Refuse);
    attached(&queue, 2, WhenFull::Refuse);
    std::thread::scope(|scope| {
        let Some(Found::Attached(mut leader)) = queue.wait(None) else { panic!("no job") };
        let follower = scope.spawn(|| take(&queue));
        while queue.figures().idle == 0 {
            std::thread::yield_now();
        }
        assert_eq!(leader.take(now()), Some(1));
        assert_eq!(follower.join().unwrap(), Some(2));
    });
    assert_eq!(queue.figures().wakes, 1);
}

#[test]
fn a_worker_goes_on_after_its_batch_if_another_took_a_job_meanwhile() {
    let queue = Queue::new(8);
    for job in 1..=4 {
        attached(&queue, job, WhenFull::Refuse);
    }
    let Some(Found::Attached(mut seat)) = queue.wait(None) else { panic!("no job") };
    assert_eq!(seat.take(now()), Some(1));
    assert_eq!(seat.take_if_passed(now()), Some(None));
    assert_eq!(take(&queue), Some(2));
    assert_eq!(seat.take_if_passed(now()), Some(Some(3)));
    assert_eq!(seat.take_if_passed(now()), Some(None));
    assert_eq!(seat.take(now()), Some(4));
    assert_eq!(seat.take_if_passed(now()), None);
}

/// What `queue` has learnt when one worker went to attach beside what `meanwhile` is given, and took its job after that.
fn learnt(queue: &Queue<u32>, meanwhile: impl FnOnce()) -> u8 {
    let Some(Found::Attached(mut follower)) = queue.wait(None) else { panic!("no job") };
    meanwhile();
    assert!(follower.take(now()).is_some());
    queue.state.lock().keeping
}

#[test]
fn jobs_that_were_over_only_when_the_next_worker_could_attach_are_taken_to_keep_what_they_have() {
    let queue = Queue::new(8);
    for job in 1..=3 {
        attached(&queue, job, WhenFull::Refuse);
    }
    let Some(Found::Attached(mut leader)) = queue.wait(None) else { panic!("no job") };
    assert_eq!(leader.take(now()), Some(1));
    assert_eq!(learnt(&queue, || assert_eq!(leader.take_if_passed(now()), Some(None))), KEEPING);
    assert_eq!(leader.take(now()), Some(3));
    attached(&queue, 4, WhenFull::Refuse);
    queue.state.lock().keeping = 0;
    assert_eq!(learnt(&queue, || drop(leader)), KEEPING);
}

#[test]
fn who_finds_that_a_job_let_go_wakes_the_next() {
    for let_go in [true, false] {
        let queue = Queue::new(8);
        for job in 1..=3 {
            attached(&queue, job, WhenFull::Refuse);
        }
        queue.state.lock().keeping = KEEPING;
        let Some(Found::Attached(mut seat)) = queue.wait(None) else { panic!("no job") };
        assert_eq!((seat.take(now()), seat.is_doubtful()), (Some(1), true));
        if let_go {
            seat.let_go();
        }
        queue.state.lock().idle = 1;
        queue.state.lock().watching = 1;
        assert_eq!((seat.take(now()), seat.is_doubtful()), (Some(2), !let_go));
        assert_eq!(queue.figures().wakes, u64::from(let_go));
    }
}

#[test]
fn a_worker_that_leaves_after_its_last_job_has_kept_nobody_waiting() {
    let queue = Queue::new(8);
    attached(&queue, 1, WhenFull::Refuse);
    let Some(Found::Attached(mut leader)) = queue.wait(None) else { panic!("no job") };
    assert_eq!((leader.take(now()), leader.take(now())), (Some(1), None));
    attached(&queue, 2, WhenFull::Refuse);
    assert_eq!(learnt(&queue, || drop(leader)), 0);
}

#[test]
fn a_native_job_keeps_nobody_waiting() {
    let queue = Queue::new(8);
    assert!(queue.push(Job::Native(Box::new(|| ())), WhenFull::Refuse).is_ok());
    attached(&queue, 1, WhenFull::Refuse);
    let Some(native @ Found::Native(..)) = queue.wait(None) else { panic!("no job") };
    assert_eq!(learnt(&queue, || drop(native)), 0);
}

#[test]
fn a_worker_leaves_what_it_let_go_to_another_unless_it_is_unwanted() {
    for unwanted in [true, false] {
        let queue = Queue::new(8);
        attached(&queue, 1, WhenFull::Refuse);
        attached(&queue, 2, WhenFull::Refuse);
        let Some(Found::Attached(mut seat)) = queue.wait(None) else { panic!("no job") };
        assert_eq!(seat.take(now()), Some(1));
        if unwanted {
            seat.unwanted();
        }
        queue.state.lock().idle = 1;
        let found = queue.wait(Some(seat));
        assert_eq!(queue.figures().wakes, u64::from(!unwanted));
        assert!(found.is_some());
    }
}

#[test]
fn a_worker_that_gave_way_goes_on_when_it_is_roused() {
    let queue = Queue::new(8);
    attached(&queue, 1, WhenFull::Refuse);
    attached(&queue, 2, WhenFull::Refuse);
    let Some(Found::Attached(mut seat)) = queue.wait(None) else { panic!("no job") };
    assert_eq!(seat.take(now()), Some(1));
    seat.give_way(|| true);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| queue.wait(Some(seat)).is_some());
        while queue.figures().idle == 0 && !worker.is_finished() {
            std::thread::yield_now();
        }
        queue.rouse();
        assert!(worker.join().unwrap());
    });
    assert_eq!(queue.figures().queued, 1);
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
fn who_displaces_a_cancelled_job_is_given_the_next_until_there_are_no_more_than_the_limit() {
    let queue = Queue::new(2);
    for job in 1..=2 {
        attached(&queue, job, WhenFull::Refuse);
    }
    for _ in 1..=2 {
        queue.cancelled(|_| true);
    }
    for job in 3..=4 {
        attached(&queue, job, WhenFull::Refuse);
    }
    let excess = || match queue.excess() {
        Some(Job::Attached(job)) => Some(job),
        _ => None,
    };
    assert_eq!(attached(&queue, 5, WhenFull::Displace), Some(1));
    queue.buried();
    assert_eq!(excess(), Some(2));
    queue.buried();
    assert_eq!(excess(), Some(3));
    assert_eq!(excess(), None);
    assert_eq!((take(&queue), take(&queue)), (Some(4), Some(5)));
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
    let Some(Found::Attached(mut seat)) = queue.wait(None) else { panic!("no job") };
    assert_eq!(seat.take(now()), Some(1));
    queue.cancelled(|_| true);
    assert_eq!(TOLD.load(Relaxed), 1);
    drop(seat);
    assert_eq!(TOLD.load(Relaxed), 2);
}

#[test]
fn a_queue_is_not_quiet_while_a_caller_runs_what_it_displaced() {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    let queue = Queue::new(0);
    assert_eq!(attached(&queue, 1, WhenFull::Displace), Some(1));
    queue.when_quiet(Box::new(|| {
        TOLD.fetch_add(1, Relaxed);
    }));
    assert_eq!(TOLD.load(Relaxed), 0);
    queue.helped();
    assert_eq!(TOLD.load(Relaxed), 1);
}

#[test]
fn a_closed_queue_gives_out_what_it_has_and_takes_no_more() {
    let queue = Queue::new(8);
    attached(&queue, 1, WhenFull::Refuse);
    queue.close();
    assert!(matches!(queue.push(Job::Attached(2), WhenFull::Append).err().unwrap().error, Error::PoolClosed));
    assert_eq!(take(&queue), Some(1));
    assert!(queue.wait(None).is_none());
}
