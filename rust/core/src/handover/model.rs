//! The baton under loom: threads that run a loop, block, and come back.

use super::*;
use crate::sync::atomic::AtomicBool;
use crate::sync::atomic::Ordering::SeqCst;
use crate::sync::thread::{self, JoinHandle};

const EVER: Duration = Duration::MAX;

struct World {
    baton: Baton,
    running: AtomicBool,
    /// Callbacks that have come to their end.
    finished: AtomicUsize,
}

impl World {
    fn new(carriers: usize) -> Arc<Self> {
        let baton = Baton::new(Limits { carriers, threshold: EVER, idle: EVER });
        Arc::new(Self { baton, running: AtomicBool::new(false), finished: AtomicUsize::new(0) })
    }

    /// What a thread does with the loop: nobody else may. Without a yield: it would hide that a thread goes on.
    fn run(&self) {
        assert!(!self.running.swap(true, SeqCst), "two threads run the loop");
        self.running.store(false, SeqCst);
    }

    /// A callback with a blocking function in its middle. Whether a carrier is to be started.
    fn callback(&self, hurry: bool, between: impl FnOnce(bool)) {
        self.run();
        let passages = self.baton.passages();
        let Entering::Entered(block) = self.baton.enter(hurry, true) else { panic!("closed") };
        between(block.starts_carrier);
        if self.baton.exit(&block) {
            assert_eq!(self.baton.passages(), passages, "the loop was in other hands");
        } else {
            match self.baton.regain() {
                Regaining::Holds => {}
                Regaining::Waits(seat) => self.sit(&seat),
                Regaining::Closed => panic!("closed"),
            }
        }
        self.run();
        self.finished.fetch_add(1, SeqCst);
    }

    fn sit(&self, seat: &Seat) {
        while self.baton.wait(seat, EVER) != Waited::Holds {}
    }

    /// One look of a new carrier; whether it took the loop.
    fn takes(&self) -> bool {
        let mut state = self.baton.state.lock();
        let taken = self.baton.take(&mut state, &mut Look::default());
        if !taken {
            self.baton.stand_down(&mut state);
        }
        taken
    }

    /// A carrier's turns: until it is wanted, or without waiting if the loop `stops`.
    fn carry(&self, stops: bool) -> usize {
        self.run();
        while !stops && !self.baton.is_wanted() {
            self.baton.expect(EVER);
        }
        self.give_up();
        0
    }

    /// The first thread goes on until all that were away have come to their ends.
    fn finish(&self) {
        while self.baton.expect(EVER) {
            if let Some(seat) = self.baton.take_turns() {
                self.sit(&seat);
            }
            self.run();
        }
    }

    /// A carrier gives up the loop for good.
    fn give_up(&self) {
        self.baton.pass();
        self.baton.stand_down(&mut self.baton.state.lock());
    }

    fn is_over(&self, callbacks: usize) {
        let figures = self.baton.figures();
        assert_eq!((figures.away, figures.idle, figures.carriers), (0, 0, 0));
        assert_eq!(self.finished.load(SeqCst), callbacks);
        assert!(!self.baton.is_wanted());
    }
}

/// A carrier, which `carries` if the loop is its own when it looks. Gives how many callbacks it ran.
fn start_carrier(world: &Arc<World>, carries: fn(&Arc<World>) -> usize) -> JoinHandle<usize> {
    let world = Arc::clone(world);
    thread::spawn(move || if world.takes() { carries(&world) } else { 0 })
}

/// The first thread blocks, and a carrier `carries`; then all come to their ends.
fn handed_over(carriers: usize, carries: fn(&Arc<World>) -> usize) {
    loom::model(move || {
        let world = World::new(carriers);
        let mut carrier = None;
        world.callback(true, |starts| {
            assert!(starts);
            carrier = Some(start_carrier(&world, carries));
        });
        world.finish();
        let others = carrier.unwrap().join().unwrap();
        world.is_over(1 + others);
    });
}

#[test]
fn the_watch_and_a_return_at_once() {
    handed_over(1, |world| world.carry(false));
}

#[test]
fn a_return_while_the_carrier_blocks_itself_and_no_other_is_left() {
    handed_over(1, |world| {
        world.callback(false, |starts| assert!(!starts));
        // Whoever is away comes, or has gone on already.
        world.give_up();
        1
    });
}

#[test]
fn a_stop_that_the_carrier_sees_while_the_first_thread_is_away() {
    handed_over(1, |world| world.carry(true));
}

#[test]
fn two_carriers_of_which_one_blocks() {
    handed_over(2, |world| {
        let mut second = None;
        world.callback(true, |starts| {
            // Unless the first thread is back: then it has the loop.
            if starts {
                second = Some(start_carrier(world, |world| world.carry(false)));
            }
        });
        world.give_up();
        second.map_or(1, |second| 1 + second.join().unwrap())
    });
}

/// The first thread is in a function, and a carrier has taken the loop.
fn taken() -> (Arc<World>, Block) {
    let world = World::new(1);
    let Entering::Entered(block) = world.baton.enter(true, true) else { panic!("closed") };
    assert!(world.takes());
    (world, block)
}

#[test]
fn closing_tells_who_comes_back() {
    loom::model(|| {
        let (world, block) = taken();
        let its = Arc::clone(&world);
        let away = thread::spawn(move || {
            assert!(!its.baton.exit(&block));
            match its.baton.regain() {
                Regaining::Holds => panic!("it was held"),
                Regaining::Waits(seat) => assert_eq!(its.baton.wait(&seat, EVER), Waited::Closed),
                Regaining::Closed => {}
            }
        });
        world.baton.close();
        away.join().unwrap();
    });
}

#[test]
fn the_end_comes_when_all_have_ended_or_stay_away() {
    loom::model(|| {
        let (world, block) = taken();
        let its = Arc::clone(&world);
        let away = thread::spawn(move || {
            assert!(!its.baton.exit(&block));
            let place = match its.baton.regain() {
                Regaining::Holds => return its.run(),
                Regaining::Closed => Place::Function,
                Regaining::Waits(seat) => match its.baton.wait(&seat, EVER) {
                    Waited::Closed => Place::Queue(seat),
                    waited => {
                        assert_eq!(waited, Waited::Holds);
                        return its.run();
                    }
                },
            };
            its.baton.stay(&place, false);
        });
        let end = end(&world);
        world.run();
        world.give_up();
        for thread in [away, end] {
            thread.join().unwrap();
        }
        world.is_over(0);
    });
}

#[test]
fn the_end_waits_for_a_function_of_whoever_holds() {
    loom::model(|| {
        let world = World::new(0);
        let Entering::Entered(block) = world.baton.enter(false, true) else { panic!("closed") };
        let end = end(&world);
        assert!(world.baton.exit(&block));
        end.join().unwrap();
        world.is_over(0);
    });
}

/// Closes, and waits until nobody is left who would go on.
fn end(world: &Arc<World>) -> JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || {
        world.baton.close();
        world.baton.wait_ended();
        let figures = world.baton.figures();
        assert_eq!((figures.away, figures.carriers), (0, 0));
    })
}
