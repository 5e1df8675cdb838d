use super::*;
use std::thread;

fn baton(carriers: usize, idle: Duration) -> Arc<Baton> {
    Arc::new(Baton::new(Limits { carriers, threshold: Duration::from_micros(100), idle }))
}

fn enter(baton: &Baton) -> Block {
    match baton.enter(false, false) {
        Entering::Entered(block) => block,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_block_that_ends_in_time_changes_nothing() {
    let baton = baton(1, Duration::ZERO);
    let block = enter(&baton);
    assert!(block.starts_carrier);
    baton.call_off();
    assert!(baton.exit(&block));
    assert_eq!((baton.passages(), baton.away(), baton.figures().carriers), (0, 0, 0));
}

#[test]
fn a_carrier_takes_over_when_a_block_lasts_and_ends_when_it_is_not_needed() {
    let baton = baton(1, Duration::from_millis(200));
    let block = enter(&baton);
    let carrier = Arc::clone(&baton);
    let carrier = thread::spawn(move || {
        assert_eq!(carrier.stand_by(), Standing::Holds);
        while !carrier.is_wanted() {
            carrier.expect(Duration::from_secs(1));
        }
        carrier.pass();
        carrier.stand_by()
    });
    while baton.away() == 0 {
        thread::yield_now();
    }
    assert!(!baton.exit(&block));
    let Regaining::Waits(seat) = baton.regain() else { panic!("the carrier holds") };
    while baton.wait(&seat, Duration::from_secs(1)) != Waited::Holds {}
    assert_eq!(carrier.join().unwrap(), Standing::Ends);
    assert_eq!(baton.figures(), Figures { blocks: 1, taken: 1, ..Figures::default() });
    assert_eq!(baton.passages(), 2);
}

#[test]
fn without_a_carrier_left_it_says_so() {
    let baton = baton(0, Duration::ZERO);
    assert_eq!(baton.enter(false, false), Entering::Capped);
    let Entering::Entered(block) = baton.enter(false, true) else { panic!("it may stand") };
    assert!(!block.starts_carrier && baton.exit(&block));
    assert_eq!(baton.figures(), Figures { blocks: 1, capped: 2, ..Figures::default() });
}

#[test]
fn of_many_idle_carriers_one_takes_over_and_closing_ends_all() {
    let baton = baton(4, Duration::from_secs(3600));
    let mut carriers = Vec::new();
    for _ in 0..4 {
        let mut state = baton.state.lock();
        state.carriers += 1;
        state.idle += 1;
        drop(state);
        let carrier = Arc::clone(&baton);
        carriers.push(thread::spawn(move || carrier.stand_by()));
    }
    let block = enter(&baton);
    while baton.away() == 0 {
        thread::yield_now();
    }
    assert!(!baton.exit(&block));
    baton.close();
    baton.wait_idle_ended();
    assert_eq!((baton.figures().taken, baton.figures().idle), (1, 0));
    assert!(matches!(baton.regain(), Regaining::Closed));
    let over: Vec<_> = carriers.into_iter().map(|carrier| carrier.join().unwrap()).collect();
    assert_eq!(over.iter().filter(|standing| **standing == Standing::Holds).count(), 1);
}

#[test]
fn the_end_waits_for_functions_and_carriers_but_not_for_who_stays_away() {
    let baton = baton(1, Duration::from_secs(3600));
    let block = enter(&baton);
    let carrier = Arc::clone(&baton);
    let carrier = thread::spawn(move || {
        assert_eq!(carrier.stand_by(), Standing::Holds);
        while !carrier.is_closed() {
            carrier.expect(Duration::from_secs(1));
        }
        carrier.stay(&Place::Loop, true);
    });
    while baton.away() == 0 {
        thread::yield_now();
    }
    baton.close();
    let ending = Arc::clone(&baton);
    let ending = thread::spawn(move || ending.wait_ended());
    carrier.join().unwrap();
    assert!(!ending.is_finished());
    assert!(!baton.exit(&block));
    assert!(matches!(baton.regain(), Regaining::Closed));
    baton.stay(&Place::Function, false);
    ending.join().unwrap();
    assert_eq!((baton.away(), baton.figures().carriers), (0, 0));
}

#[test]
fn who_stays_away_is_handed_nothing() {
    let baton = baton(0, Duration::ZERO);
    let seats: Vec<_> = (0..2)
        .map(|_| {
            baton.away.fetch_add(1, Relaxed);
            let Regaining::Waits(seat) = baton.regain() else { panic!("this thread holds") };
            seat
        })
        .collect();
    baton.close();
    baton.stay(&Place::Queue(Seat::clone(&seats[0])), false);
    let seat = baton.take_turns().unwrap();
    assert_eq!(baton.wait(&seats[1], Duration::ZERO), Waited::Holds);
    assert_eq!(baton.wait(&seat, Duration::ZERO), Waited::Closed);
    // Handed the baton before it came to say so.
    baton.stay(&Place::Queue(Seat::clone(&seats[1])), false);
    assert_eq!(baton.away(), 1);
    baton.stay(&Place::Queue(seat), false);
    assert!(baton.away() == 0 && !baton.is_wanted());
    baton.wait_ended();
}
