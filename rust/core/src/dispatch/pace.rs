//! How long a pool's jobs take of late: what tells whether a busy worker will be back before another could be woken.

use std::time::Duration;

/// The newest job's part in the mean is one in so many.
const WEIGHT: u32 = 4;

/// Until jobs have ended, they are taken to be long: then others are woken at once.
const UNKNOWN: Duration = Duration::from_millis(1);

/// What waking a worker costs that takes a native job, in time of the processors that are kept from other work by it.
const WAKE: Duration = Duration::from_micros(3);

/// As `WAKE`, for an attached job: what only one thread can have at a time has to change hands, too. Workers that fight for it
/// make jobs take longer, for which more of them are woken: with 8 in place of 12, sleeps of 100 µs took twice the CPU.
const WAKE_AND_ATTACH: Duration = Duration::from_micros(12);

/// Who watches others takes over when none of them has taken a job for so many times the mean, within these bounds.
const PATIENCE: u32 = 4;
const LEAST_PATIENCE: Duration = Duration::from_micros(100);
/// Who gives way does so for so long, too.
pub const MOST_PATIENCE: Duration = Duration::from_millis(5);

/// A mean that moves with the jobs.
#[derive(Clone, Copy, Debug)]
pub struct Pace(Duration);

impl Default for Pace {
    fn default() -> Self {
        Self(UNKNOWN)
    }
}

impl Pace {
    /// A job took so long.
    pub fn note(&mut self, time: Duration) {
        self.0 = (self.0 * (WEIGHT - 1) + time) / WEIGHT;
    }

    /// Jobs were seen to take longer than this.
    pub fn at_least(&mut self, time: Duration) {
        self.0 = self.0.max(time);
    }

    /// For so long nobody is missed.
    pub fn patience(self) -> Duration {
        (self.0 * PATIENCE).clamp(LEAST_PATIENCE, MOST_PATIENCE)
    }

    /// Whether one of so many busy workers will be back in less time than it takes to wake another.
    pub fn outruns_a_wake(self, busy: usize, attached: bool) -> bool {
        let wake = if attached { WAKE_AND_ATTACH } else { WAKE };
        self.0 < wake.saturating_mul(u32::try_from(busy).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
impl Pace {
    pub fn brief() -> Self {
        Self(Duration::ZERO)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_jobs() {
        let mut pace = Pace::default();
        assert!(!pace.outruns_a_wake(4, true));
        (0..40).for_each(|_| pace.note(Duration::from_micros(1)));
        assert!(pace.outruns_a_wake(1, false));
        (0..3).for_each(|_| pace.note(Duration::from_millis(10)));
        assert!(!pace.outruns_a_wake(40, true));
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
