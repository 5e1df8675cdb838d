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
    assert!(matches!(semaphore.release(1), Err(Error::NotAcquired)));
    assert!(semaphore.take(1).unwrap());
    semaphore.release(1).unwrap();
    assert!(matches!(semaphore.take(2), Err(Error::Setting { .. })));
    assert!(matches!(semaphore.take(0), Err(Error::Setting { .. })));
}

#[test]
fn a_grant_whose_permit_another_released_makes_no_more_of_them() {
    for total in [1, 2, MOST] {
        let semaphore = Semaphore::new(total);
        let all = semaphore.try_acquire(total).unwrap();
        semaphore.release(1).unwrap();
        drop(all);
        assert_eq!(semaphore.free(), total);
    }
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
    assert!(matches!(semaphore.enqueue(1), Err(Error::SemaphoreClosed)));
    drop(held);
    assert_eq!(semaphore.free(), 1);
}
