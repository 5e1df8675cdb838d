//! Watches an event loop. A thread asks the loop for an answer again and again, by a descriptor that the loop polls, and
//! measures how long that takes: as long as anybody waits who comes at that moment. It needs no Python, so what keeps an
//! interpreter from running doesn't keep the watch from noticing.
//!
//! ```text
//!   watching thread                          loop's thread
//!   ask: `asked` = now, signal raised ─────▶ answer: signal lowered, `lag` stored, `asked` cleared
//!   after `patience`: cleared? else `late`   (a question that was withdrawn is answered by nobody)
//! ```
//! One question is out at a time, and whoever clears `asked` has decided it: the loop by its answer, or the watch, which
//! withdraws a question to a loop that isn't meant to run. Neither ever waits for the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::dispatch::Signal;
use crate::sync::{Condvar, Mutex, wait_timeout};

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Between two questions.
    pub interval: Duration,
    /// An answer that takes longer is late.
    pub patience: Duration,
    /// A loop that takes longer has stalled.
    pub threshold: Duration,
}

/// What an [`Observer`] makes of a loop that doesn't answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It isn't meant to run: the question is withdrawn.
    Stopped,
    Late,
    /// It has been late for longer than the threshold.
    Stalled,
}

/// Is told by the watching thread.
pub trait Observer {
    /// There is no answer yet to what was asked then: once after the patience, and again after the threshold, unless the
    /// verdict was [`Verdict::Stalled`] before: looking may take long.
    fn late(&mut self, asked: Instant) -> Verdict;

    /// The answer took so long, and was `late`.
    fn answered(&mut self, lag: Duration, late: bool);
}

pub struct Pulse {
    settings: Settings,
    signal: Signal,
    begun: Instant,
    /// When the question was asked that is out, in nanoseconds since the beginning, and never 0; 0 if none is. Whoever sees
    /// it cleared (Acquire) sees the lag that was stored before (Release); nothing goes along with a question.
    asked: AtomicU64,
    /// How long the last answer took, in nanoseconds.
    lag: AtomicU64,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Pulse {
    pub fn new(settings: Settings, signal: Signal) -> Self {
        Self {
            settings,
            signal,
            begun: Instant::now(),
            asked: AtomicU64::new(0),
            lag: AtomicU64::new(0),
            ended: Mutex::default(),
            end: Condvar::new(),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the loop polls; [`Pulse::answer`] is to be called when it is readable.
    pub fn signal(&self) -> &Signal {
        &self.signal
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// On the loop's thread.
    pub fn answer(&self) {
        self.signal.lower();
        let asked = self.asked.load(Ordering::Relaxed);
        if asked != 0 {
            self.lag.store(self.now().saturating_sub(asked), Ordering::Relaxed);
            // Lost to the watch, if that withdraws it at this moment.
            let _ = self.asked.compare_exchange(asked, 0, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// Watches until the end, on the calling thread.
    pub fn watch(&self, observer: &mut impl Observer) {
        let mut next = Instant::now() + self.settings.interval;
        while self.sleep_until(next) {
            self.asked.store(self.now(), Ordering::Relaxed);
            self.signal.raise();
            next += self.settings.interval;
            if !self.follow(observer) {
                return;
            }
            next = next.max(Instant::now());
        }
    }

    /// Waits for the answer; false at the end.
    fn follow(&self, observer: &mut impl Observer) -> bool {
        let asked = Instant::now();
        let Settings { interval, patience, threshold } = self.settings;
        let (mut late, mut stalled) = (false, false);
        let mut check = asked + patience;
        while self.sleep_until(check) {
            if self.asked.load(Ordering::Acquire) == 0 {
                observer.answered(Duration::from_nanos(self.lag.load(Ordering::Relaxed)), late);
                return true;
            }
            if !late || (!stalled && asked.elapsed() >= threshold) {
                match observer.late(asked) {
                    Verdict::Stopped => {
                        self.asked.store(0, Ordering::Relaxed);
                        return true;
                    }
                    Verdict::Late => late = true,
                    Verdict::Stalled => (late, stalled) = (true, true),
                }
            }
            check = Instant::now() + if stalled { interval } else { patience };
        }
        false
    }

    /// False at the end.
    fn sleep_until(&self, time: Instant) -> bool {
        let mut ended = self.ended.lock();
        while !*ended {
            let left = time.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            ended = wait_timeout(&self.end, ended, left);
        }
        false
    }

    /// Ends the watch, for good.
    pub fn stop(&self) {
        *self.ended.lock() = true;
        self.end.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    const THRESHOLD: Duration = Duration::from_millis(300);

    #[derive(Debug, PartialEq)]
    enum Told {
        Late { stalled: bool },
        Answered { late: bool, long: bool },
    }

    struct Teller {
        told: Sender<Told>,
        /// The question is withdrawn, and this watch ended.
        withdrawn: Option<Arc<Pulse>>,
    }

    impl Observer for Teller {
        fn late(&mut self, asked: Instant) -> Verdict {
            let stalled = asked.elapsed() >= THRESHOLD;
            self.told.send(Told::Late { stalled }).unwrap();
            match (&self.withdrawn, stalled) {
                (Some(pulse), _) => {
                    pulse.stop();
                    Verdict::Stopped
                }
                (None, false) => Verdict::Late,
                (None, true) => Verdict::Stalled,
            }
        }

        fn answered(&mut self, lag: Duration, late: bool) {
            self.told.send(Told::Answered { late, long: lag >= THRESHOLD }).unwrap();
        }
    }

    fn watched(withdraw: bool) -> (Arc<Pulse>, Receiver<Told>, thread::JoinHandle<()>) {
        let settings =
            Settings { interval: Duration::from_millis(5), patience: Duration::from_millis(2), threshold: THRESHOLD };
        let pulse = Arc::new(Pulse::new(settings, Signal::new().unwrap()));
        let (told, hear) = channel();
        let theirs = Arc::clone(&pulse);
        let withdrawn = withdraw.then(|| Arc::clone(&pulse));
        let thread = thread::spawn(move || theirs.watch(&mut Teller { told, withdrawn }));
        (pulse, hear, thread)
    }

    fn is_asked(pulse: &Pulse, within: Option<&Timespec>) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(pulse.signal().as_fd(), PollFlags::IN)];
        poll(&mut fds, within).unwrap() == 1
    }

    #[test]
    fn a_loop_that_stands_still_is_late_then_stalled_then_answers() {
        let (pulse, hear, thread) = watched(false);
        assert!(is_asked(&pulse, None));
        assert_eq!(hear.recv().unwrap(), Told::Late { stalled: false });
        assert_eq!(hear.recv().unwrap(), Told::Late { stalled: true });
        // That is told once.
        assert!(hear.recv_timeout(Duration::from_millis(50)).is_err());
        pulse.answer();
        assert_eq!(hear.recv().unwrap(), Told::Answered { late: true, long: true });
        pulse.stop();
        thread.join().unwrap();
    }

    #[test]
    fn a_question_that_is_withdrawn_is_not_answered() {
        let (pulse, hear, thread) = watched(true);
        thread.join().unwrap();
        pulse.answer();
        assert_eq!(pulse.lag.load(Ordering::Relaxed), 0);
        assert!(matches!(hear.iter().collect::<Vec<_>>()[..], [Told::Late { .. }]));
    }

    #[test]
    fn it_ends_while_the_loop_stands_still() {
        let (pulse, hear, thread) = watched(false);
        assert!(is_asked(&pulse, None));
        hear.recv().unwrap();
        pulse.stop();
        thread.join().unwrap();
        assert_eq!(pulse.settings().interval, Duration::from_millis(5));
        pulse.answer();
        assert!(!is_asked(&pulse, Some(&Timespec::default())));
    }
}
