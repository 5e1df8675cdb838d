//! How long things took: counts in buckets whose bounds are powers of two microseconds, cheap enough for every job. Any
//! number of threads record at once, and nobody waits.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Up to 2^26 µs, which is 67 s; the last bucket has what is longer.
const BUCKETS: usize = 28;

#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
    longest: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: array::from_fn(|_| AtomicU64::new(0)),
            nanoseconds: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        }
    }
}

/// The bucket of a time: the first whose bound isn't below it.
fn bucket(nanoseconds: u64) -> usize {
    let above = nanoseconds.div_ceil(1000).saturating_sub(1);
    (u64::BITS - above.leading_zeros()) as usize
}

/// The bound of a bucket.
fn bound(index: usize) -> Duration {
    if index + 1 < BUCKETS { Duration::from_micros(1 << index) } else { Duration::MAX }
}

impl Histogram {
    pub fn record(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.buckets.get(bucket(nanoseconds)).or(self.buckets.last()) {
            count.fetch_add(1, Relaxed);
        }
        self.nanoseconds.fetch_add(nanoseconds, Relaxed);
        if self.longest.load(Relaxed) < nanoseconds {
            self.longest.fetch_max(nanoseconds, Relaxed);
        }
    }

    /// Records a wait as it was for all who came `interval` after one another while it lasted. Who asks again only after
    /// an answer would otherwise count a long wait as one of many short ones.
    pub fn record_all_within(&self, mut time: Duration, interval: Duration) {
        loop {
            self.record(time);
            match time.checked_sub(interval) {
                Some(left) if !left.is_zero() && !interval.is_zero() => time = left,
                _ => return,
            }
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        let counts: Vec<u64> = self.buckets.iter().map(|count| count.load(Relaxed)).collect();
        Snapshot {
            count: counts.iter().sum(),
            sum: Duration::from_nanos(self.nanoseconds.load(Relaxed)),
            longest: Duration::from_nanos(self.longest.load(Relaxed)),
            buckets: counts.into_iter().enumerate().map(|(index, count)| (bound(index), count)).collect(),
        }
    }
}

/// What a histogram had at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub count: u64,
    pub sum: Duration,
    pub longest: Duration,
    /// All buckets by bound, each with what is not in the ones before. The last bound is `Duration::MAX`.
    pub buckets: Vec<(Duration, u64)>,
}

impl Snapshot {
    /// A time that no less than this part of all were within: right to a factor of two.
    pub fn quantile(&self, part: f64) -> Duration {
        let mut within = 0;
        for (bound, count) in &self.buckets {
            within += count;
            if within > 0 && within as f64 >= part * self.count as f64 {
                return (*bound).min(self.longest);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(times: &[u64]) -> Snapshot {
        let histogram = Histogram::default();
        times.iter().for_each(|micros| histogram.record(Duration::from_micros(*micros)));
        histogram.snapshot()
    }

    fn found(snapshot: &Snapshot) -> Vec<(u128, u64)> {
        snapshot.buckets.iter().filter(|(_, n)| *n > 0).map(|(bound, n)| (bound.as_micros(), *n)).collect()
    }

    #[test]
    fn a_time_lies_in_the_first_bucket_that_holds_it() {
        assert_eq!(found(&filled(&[0, 1, 2, 3, 4, 5, 1000])), [(1, 2), (2, 1), (4, 2), (8, 1), (1024, 1)]);
        let histogram = Histogram::default();
        histogram.record(Duration::from_nanos(1001));
        assert_eq!(found(&histogram.snapshot()), [(2, 1)]);
    }

    #[test]
    fn what_is_longer_than_all_bounds_lies_in_the_last_bucket() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_secs(68));
        histogram.record(Duration::MAX);
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.buckets.last(), Some(&(Duration::MAX, 2)));
        assert_eq!(snapshot.count, 2);
    }

    #[test]
    fn it_knows_the_sum_the_longest_and_quantiles_to_a_factor_of_two() {
        let snapshot = filled(&(1..=100).collect::<Vec<_>>());
        assert_eq!((snapshot.count, snapshot.sum.as_micros(), snapshot.longest.as_micros()), (100, 5050, 100));
        assert_eq!(snapshot.quantile(0.5).as_micros(), 64);
        assert_eq!(snapshot.quantile(0.99).as_micros(), 100);
        assert_eq!(filled(&[]).quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn a_long_wait_counts_for_each_who_came_meanwhile() {
        let histogram = Histogram::default();
        histogram.record_all_within(Duration::from_millis(50), Duration::from_millis(20));
        assert_eq!(found(&histogram.snapshot()), [(16_384, 1), (32_768, 1), (65_536, 1)]);
        histogram.record_all_within(Duration::from_millis(5), Duration::ZERO);
        assert_eq!(histogram.snapshot().count, 4);
    }

    #[test]
    fn threads_record_at_once() {
        let histogram = Histogram::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|n| histogram.record(Duration::from_micros(n))));
            }
        });
        assert_eq!(histogram.snapshot().count, 4000);
    }
}
