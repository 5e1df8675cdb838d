//! How long a pool's jobs take of late: what tells whether a busy worker will be back before another could be woken.

use std::time::{Duration, Instant};

use crate::sync::now;

/// The newest job's part in the mean is one in so many.
const WEIGHT: u32 = 4;

/// Until jobs have ended, they are taken to be long: then others are woken at once.
const UNKNOWN: Duration = Duration::from_millis(1);

/// What waking a worker costs that takes a native job, in time of the processors that are kept from other work by it.
const WAKE: Duration = Duration::from_micros(3);

/// As `WAKE`, for an attached job: what only one thread can have at a time has to change hands, too. Workers that fight for it
/// make jobs take longer, for which more of them are woken: with 8 in place of 12, sleeps of 100 µs took twice the CPU.
const WAKE_AND_ATTACH: Duration = Duration::from_micros(12);

/// Those that run are long if they are so many times as old as brief ones could be: jobs that are as long as the mean are seldom
/// that old. With 1, sleeps of microseconds beside each other were taken to be long, and made so, by those that were woken.
const OLD: u32 = 2;

/// Who watches others takes over when none of them has taken a job for so many times the mean, within these bounds.
const PATIENCE: u32 = 4;
const LEAST_PATIENCE: Duration = Duration::from_micros(100);
/// A job that takes so long may as well sleep, and a wake-up in vain is little beside it.
const MOST_PATIENCE: Duration = Duration::from_micros(500);

/// A mean that moves with the jobs that end, and the age of those that run: among brief jobs, long ones are not heard of
/// until they end.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    mean: Duration,
    epoch: Instant,
    running: u32,
    /// The sum of the times at which those that run began, from `epoch`.
    begun: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { mean: UNKNOWN, epoch: now(), running: 0, begun: Duration::ZERO }
    }
}

impl Pace {
    /// A job begins.
    pub fn begin(&mut self, now: Instant) {
        self.running += 1;
        self.begun += now - self.epoch;
    }

    /// A job that began then is over.
    pub fn end(&mut self, begun: Instant, now: Instant) {
        self.running -= 1;
        self.begun = self.begun.saturating_sub(begun - self.epoch);
        self.mean = (self.mean * (WEIGHT - 1) + (now - begun)) / WEIGHT;
    }

    /// Jobs were seen to take longer than this.
    pub fn at_least(&mut self, time: Duration) {
        self.mean = self.mean.max(time);
    }

    /// For so long nobody is missed.
    pub fn patience(&self) -> Duration {
        (self.mean * PATIENCE).clamp(LEAST_PATIENCE, MOST_PATIENCE)
    }

    /// The mean age of those that run.
    fn age(&self, now: Instant) -> Duration {
        let begun = self.begun.checked_div(self.running);
        begun.map_or(Duration::ZERO, |begun| (now - self.epoch).saturating_sub(begun))
    }

    /// Whether one of so many busy workers will be back in less time than it takes to wake another.
    pub fn outruns_a_wake(&self, busy: usize, attached: bool) -> bool {
        let wake = if attached { WAKE_AND_ATTACH } else { WAKE };
        let wake = wake.saturating_mul(u32::try_from(busy).unwrap_or(u32::MAX));
        self.mean < wake && self.age(now()) < wake * OLD
    }
}

#[cfg(test)]
impl Pace {
    pub fn brief() -> Self {
        Self { mean: Duration::ZERO, ..Self::default() }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn note(pace: &mut Pace, time: Duration) {
        let now = Instant::now();
        pace.begin(now);
        pace.end(now, now + time);
    }

    #[test]
    fn it_follows_the_jobs() {
        let mut pace = Pace::default();
        assert!(!pace.outruns_a_wake(4, true));
        (0..40).for_each(|_| note(&mut pace, Duration::from_micros(1)));
        assert!(pace.outruns_a_wake(1, false));
        (0..3).for_each(|_| note(&mut pace, Duration::from_millis(10)));
        assert!(!pace.outruns_a_wake(40, true));
    }

    #[test]
    fn long_jobs_that_run_are_seen_among_brief_ones_that_end() {
        let mut pace = Pace::brief();
        let then = Instant::now();
        let later = then + Duration::from_millis(2);
        pace.begin(then);
        pace.begin(then + Duration::from_millis(1));
        note(&mut pace, Duration::from_micros(1));
        assert_eq!(pace.age(later), Duration::from_micros(1500));
        pace.end(then, later);
        assert_eq!(pace.age(later), Duration::from_millis(1));
        pace.end(then + Duration::from_millis(1), later);
        assert_eq!(pace.age(later), Duration::ZERO);
    }

    #[test]
    fn nobody_waits_for_a_job_that_has_run_for_long() {
        let second = Duration::from_secs(1);
        let mut pace = Pace { epoch: now() - second * 2, ..Pace::brief() };
        pace.begin(now());
        assert!(pace.outruns_a_wake(1000, true));
        pace.begin(now() - second);
        assert!(!pace.outruns_a_wake(1000, true));
    }

    #[test]
    fn the_more_are_busy_the_sooner_is_one_of_them_back() {
        let mut pace = Pace::brief();
        pace.at_least(Duration::from_micros(60));
        assert!(!pace.outruns_a_wake(4, true));
        assert!(pace.outruns_a_wake(8, true));
        assert!(!pace.outruns_a_wake(8, false));
        assert!(pace.outruns_a_wake(21, false));
    }
}
