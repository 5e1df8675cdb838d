//! `Baton`: which thread runs an event loop, while functions block the threads that ran it. It decides and it makes
//! threads wait; what a loop is, and how a thread runs it, is its user's.
//!
//! One thread *holds* the baton, and only it touches the loop. It may *block*: enter a function that it hands the loop
//! over for. A thread that comes back from such a function wants the baton again, as the function was called from the
//! middle of something. Carriers are threads that run the loop meanwhile; one of those that are idle is the *watch*.
//!
//! ```text
//!            enter()                    the watch: the block lasts
//!   HELD ◀───exit()────▶ BLOCKED ─────────────────────────────────▶ HELD by the carrier
//!    ▲ │                    └─────── regain(): another comes back ──▶ HELD by that one
//!    │ └─pass() and nobody wants it─▶ LEFT, for whoever comes back first
//!    └──────────regain()──────────────┘
//! ```
//!
//! Invariants, each looked at by a model under loom (`model`):
//!
//! 1. One thread holds. The state is one word under one lock: of the watch, a thread that comes back and the thread that
//!    blocks, the first to change it wins, and the others see that it has.
//! 2. Who wants the baton gets it. BLOCKED and LEFT are taken at once, so while somebody waits the state is HELD: the
//!    holder gives it up where it next enters a function, or at the end of what it runs, where it asks `is_wanted`.
//! 3. Nobody counts on what was before. Each change of hands is a *passage*; a thread that finds their number changed
//!    knows that the loop was run by others meanwhile.
//! 4. At most `carriers` threads. A thread that is to be started counts as idle from when that was decided, so it is
//!    started once. Without an idle one and at the limit, `enter` says so before anything is changed.
//! 5. No wake-up is lost: what the watch and those who wait look at changes under the lock that they wait with.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicU64, AtomicUsize};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, wait, wait_timeout};

/// The watch looks so often without seeing a block begin before it sleeps until one does.
const QUIET: u32 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// A thread runs the loop; or the loop doesn't run.
    Held,
    /// The thread that ran it is inside of a function.
    Blocked,
    /// For whoever comes back first: the loop is to stop, and who has to stop it is away.
    Left,
}

struct State {
    turn: Turn,
    /// Blocks so far: names the last.
    block: u64,
    /// The function of this block is known to be slow.
    hurry: bool,
    /// Threads that came back and wait, first come first served.
    returners: VecDeque<Seat>,
    carriers: usize,
    /// Of these.
    idle: usize,
    has_watch: bool,
    /// The watch sleeps until it is told of a block.
    asleep: bool,
    closed: bool,
    figures: Figures,
}

/// Where a thread waits for the baton.
pub type Seat = Arc<Condvar>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Functions that were entered.
    pub blocks: u64,
    /// Of these, those that a carrier went on with the loop for.
    pub taken: u64,
    /// Of these, those that were known to be slow.
    pub hurried: u64,
    /// Of the blocks, those for which the loop went to a thread that waited for it.
    pub swapped: u64,
    /// Times that no carrier was left.
    pub capped: u64,
    pub carriers: usize,
    pub idle: usize,
    /// Threads that are in a function, or back from one, while another holds.
    pub away: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Threads at most, besides the one that the loop was started on.
    pub carriers: usize,
    /// A block that lasts longer is handed over; it may take thrice as long.
    pub threshold: Duration,
    /// A carrier that wasn't needed for so long ends.
    pub idle: Duration,
}

/// A block that has begun.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Block {
    id: u64,
    /// A carrier must be started, by `stand_by` on a new thread, or `call_off`.
    pub starts_carrier: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Entering {
    Entered(Block),
    /// All carriers are blocked themselves: the loop would stand still.
    Capped,
    Closed,
}

pub enum Regaining {
    Holds,
    /// `wait` on the seat. The holder may sleep: wake it.
    Waits(Seat),
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    Holds,
    /// The time is over; wait again.
    NotYet,
    Closed,
}

/// Where a thread is that finds the baton closed.
pub enum Place {
    /// It holds.
    Loop,
    /// It comes back from a function in which it lost the baton.
    Function,
    /// It waits for the baton.
    Queue(Seat),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The caller holds, and is to run the loop until it is wanted.
    Holds,
    /// The thread is to end.
    Ends,
}

/// What the watch saw when it last looked.
#[derive(Default)]
struct Look {
    /// The block that lasted then.
    block: Option<u64>,
    /// Blocks that had begun.
    begun: u64,
    /// Looks in a row in which none began.
    quiet: u32,
}

pub struct Baton {
    state: Mutex<State>,
    watch: Condvar,
    /// Where idle carriers wait that don't watch.
    bench: Condvar,
    /// Where a holder sleeps in tests, as a loop does in its selector: whoever comes back ends that.
    #[cfg(test)]
    arrivals: Condvar,
    ended: Condvar,
    limits: Limits,
    // Changed under the lock, read by the holder without it, and so Relaxed: one that reads too early is woken after it.
    passages: AtomicU64,
    wanted: AtomicUsize,
    away: AtomicUsize,
}

impl Baton {
    pub fn new(limits: Limits) -> Self {
        let state = State {
            turn: Turn::Held,
            block: 0,
            hurry: false,
            returners: VecDeque::new(),
            carriers: 0,
            idle: 0,
            has_watch: false,
            asleep: false,
            closed: false,
            figures: Figures::default(),
        };
        Self {
            state: Mutex::new(state),
            watch: Condvar::new(),
            bench: Condvar::new(),
            #[cfg(test)]
            arrivals: Condvar::new(),
            ended: Condvar::new(),
            limits,
            passages: AtomicU64::new(0),
            wanted: AtomicUsize::new(0),
            away: AtomicUsize::new(0),
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    // For the holder

    /// How often the baton changed hands.
    pub fn passages(&self) -> u64 {
        self.passages.load(Relaxed)
    }

    /// Whether somebody waits for it.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Relaxed) > 0
    }

    /// How many threads were holders, and are to be again.
    pub fn away(&self) -> usize {
        self.away.load(Relaxed)
    }

    /// A function begins. `may_stand`: though there is no carrier left, so that the loop will stand still.
    pub fn enter(&self, hurry: bool, may_stand: bool) -> Entering {
        let mut state = self.state.lock();
        if state.closed {
            return Entering::Closed;
        }
        let is_wanted = !state.returners.is_empty();
        let mut starts_carrier = false;
        if !is_wanted && state.idle == 0 {
            if state.carriers < self.limits.carriers {
                starts_carrier = true;
                state.carriers += 1;
                state.idle += 1;
            } else {
                state.figures.capped += 1;
                if !may_stand {
                    return Entering::Capped;
                }
            }
        }
        state.figures.blocks += 1;
        state.block += 1;
        let block = Block { id: state.block, starts_carrier };
        if is_wanted {
            // Somebody is to have the loop anyway, and may as well have it now.
            state.figures.swapped += 1;
            self.leave_for_next(&mut state);
        } else {
            state.turn = Turn::Blocked;
            state.hurry = hurry;
            if state.asleep || hurry {
                self.watch.notify_one();
            }
        }
        Entering::Entered(block)
    }

    /// The carrier that was to be started can't be.
    pub fn call_off(&self) {
        let mut state = self.state.lock();
        state.idle -= 1;
        self.end(&mut state);
    }

    /// The function is over. Whether the caller still holds; else it must `regain`.
    pub fn exit(&self, block: &Block) -> bool {
        let mut state = self.state.lock();
        let holds = state.turn == Turn::Blocked && state.block == block.id;
        if holds {
            state.turn = Turn::Held;
            if state.closed {
                self.ended.notify_all();
            }
        }
        holds
    }

    /// Who has lost the baton in a function wants it back.
    pub fn regain(&self) -> Regaining {
        let mut state = self.state.lock();
        if state.closed {
            return Regaining::Closed;
        }
        match state.turn {
            Turn::Held => {
                let seat = Seat::new(Condvar::new());
                self.queue(&mut state, Seat::clone(&seat));
                return Regaining::Waits(seat);
            }
            // The holder is away now, in place of the caller.
            Turn::Blocked => {}
            Turn::Left => {
                self.away.fetch_sub(1, Relaxed);
            }
        }
        self.change_hands(&mut state);
        Regaining::Holds
    }

    /// Waits for the baton, not longer than `limit`.
    pub fn wait(&self, seat: &Seat, limit: Duration) -> Waited {
        let mut state = self.state.lock();
        for last in [false, true] {
            if !state.returners.iter().any(|other| Seat::ptr_eq(other, seat)) {
                return Waited::Holds;
            }
            if state.closed {
                return Waited::Closed;
            }
            if !last {
                state = wait_timeout(seat, state, limit);
            }
        }
        Waited::NotYet
    }

    /// Gives the baton to who wants it, and queues for it again: for a holder that has to be the last, too.
    pub fn take_turns(&self) -> Option<Seat> {
        let mut state = self.state.lock();
        if state.returners.is_empty() {
            return None;
        }
        let seat = Seat::new(Condvar::new());
        self.leave_for_next(&mut state);
        self.queue(&mut state, Seat::clone(&seat));
        Some(seat)
    }

    /// Waits until somebody wants the baton, not longer than `limit`. False if nobody is away who could.
    #[cfg(test)]
    fn expect(&self, limit: Duration) -> bool {
        let mut state = self.state.lock();
        if state.returners.is_empty() && self.away() > 0 && !state.closed {
            state = wait_timeout(&self.arrivals, state, limit);
        }
        self.away() > 0 && !state.closed
    }

    /// A carrier gives up the baton: to who wants it, or whoever comes back first.
    pub fn pass(&self) {
        let mut state = self.state.lock();
        state.idle += 1;
        if !self.hand_to_next(&mut state) {
            state.turn = Turn::Left;
        }
    }

    // For carriers

    /// Waits until the caller has to run the loop. To be called by a new carrier, and after each `pass`.
    pub fn stand_by(&self) -> Standing {
        let mut state = self.state.lock();
        let deadline = Instant::now() + self.limits.idle;
        while state.has_watch && !state.closed {
            state = wait_timeout(&self.bench, state, self.limits.idle);
            if state.has_watch && Instant::now() >= deadline {
                return self.stand_down(&mut state);
            }
        }
        state.has_watch = true;
        let mut look = Look::default();
        loop {
            if state.closed {
                state.has_watch = false;
                return self.stand_down(&mut state);
            }
            if self.take(&mut state, &mut look) {
                state.has_watch = false;
                self.bench.notify_one();
                return Standing::Holds;
            }
            if look.quiet < QUIET {
                // Looking costs more than being a little late for the first that is slow.
                let looks = if look.block.is_some() { 1 } else { 2 };
                state = wait_timeout(&self.watch, state, self.limits.threshold * looks);
                continue;
            }
            let begun = state.block;
            state.asleep = true;
            state = wait_timeout(&self.watch, state, self.limits.idle);
            state.asleep = false;
            if state.block == begun && !state.closed {
                state.has_watch = false;
                self.bench.notify_one();
                return self.stand_down(&mut state);
            }
        }
    }

    /// Takes the baton if the block that was seen before still lasts.
    fn take(&self, state: &mut State, look: &mut Look) -> bool {
        if state.turn != Turn::Blocked {
            look.block = None;
            look.quiet = if state.block == look.begun { look.quiet + 1 } else { 0 };
            look.begun = state.block;
            return false;
        }
        look.quiet = 0;
        if !state.hurry && look.block != Some(state.block) {
            look.block = Some(state.block);
            return false;
        }
        state.figures.taken += 1;
        state.figures.hurried += u64::from(state.hurry);
        state.idle -= 1;
        self.away.fetch_add(1, Relaxed);
        self.change_hands(state);
        true
    }

    fn stand_down(&self, state: &mut State) -> Standing {
        state.idle -= 1;
        self.end(state);
        Standing::Ends
    }

    /// A carrier that finds the baton closed ends otherwise than by `stand_by`.
    pub fn desert(&self) {
        self.end(&mut self.state.lock());
    }

    fn end(&self, state: &mut State) {
        state.carriers -= 1;
        self.ended.notify_all();
    }

    /// The caller, which finds the baton closed, will do nothing more: from where it is, and `carries`, if it is a carrier.
    pub fn stay(&self, place: &Place, carries: bool) {
        let mut state = self.state.lock();
        let is_away = match place {
            Place::Loop => false,
            Place::Function => true,
            // It may have been handed the baton meanwhile.
            Place::Queue(seat) => {
                let waiting = state.returners.len();
                state.returners.retain(|other| !Seat::ptr_eq(other, seat));
                self.wanted.store(state.returners.len(), Relaxed);
                state.returners.len() < waiting
            }
        };
        self.away.fetch_sub(usize::from(is_away), Relaxed);
        state.carriers -= usize::from(carries);
        self.ended.notify_all();
    }

    // For all

    /// Ends: idle carriers do, and who comes back is told.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.watch.notify_all();
        self.bench.notify_all();
        #[cfg(test)]
        self.arrivals.notify_all();
        state.returners.iter().for_each(|seat| seat.notify_all());
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Waits until the carriers that were idle have ended.
    pub fn wait_idle_ended(&self) {
        let mut state = self.state.lock();
        while state.idle > 0 {
            state = wait(&self.ended, state);
        }
    }

    /// Waits until no carrier is left, nor a thread in a function.
    pub fn wait_ended(&self) {
        let mut state = self.state.lock();
        while state.carriers > 0 || self.away() > 0 || state.turn == Turn::Blocked {
            state = wait(&self.ended, state);
        }
    }

    /// Carriers that there are, and the most that there can be from now on.
    pub fn threads(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.carriers, if state.closed { state.carriers } else { self.limits.carriers })
    }

    pub fn figures(&self) -> Figures {
        let state = self.state.lock();
        Figures { carriers: state.carriers, idle: state.idle, away: self.away(), ..state.figures }
    }

    // With the lock

    fn queue(&self, state: &mut MutexGuard<'_, State>, seat: Seat) {
        state.returners.push_back(seat);
        self.wanted.store(state.returners.len(), Relaxed);
        #[cfg(test)]
        self.arrivals.notify_one();
    }

    /// The holder goes away, and the first that waits holds.
    fn leave_for_next(&self, state: &mut MutexGuard<'_, State>) {
        self.away.fetch_add(1, Relaxed);
        self.hand_to_next(state);
    }

    fn hand_to_next(&self, state: &mut MutexGuard<'_, State>) -> bool {
        let Some(seat) = state.returners.pop_front() else { return false };
        self.wanted.store(state.returners.len(), Relaxed);
        self.away.fetch_sub(1, Relaxed);
        self.change_hands(state);
        seat.notify_one();
        true
    }

    fn change_hands(&self, state: &mut State) {
        state.turn = Turn::Held;
        self.passages.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
#[cfg(loom)]
mod model;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
