//! What the connections of a client share: memory to receive into while little is expected, and time.

use super::window_size;
use crate::Result;
use crate::body::slab::{SlabWriter, Window};
use crate::body::{Pools, WINDOW};
use std::time::{Duration, Instant};

/// For so long the connections of a client read on, and then they don't.
pub(super) const READING_ON: Duration = Duration::from_millis(2);

#[derive(Default)]
pub struct Scratch {
    pub(super) writer: Option<SlabWriter>,
    reading_on: Option<Instant>,
}

impl Scratch {
    /// Lends the window, making it first if a body took the last one. The flag says that it is a new one.
    pub fn window(&mut self) -> Result<(Window, bool)> {
        if let Some(writer) = &self.writer {
            return Ok((writer.window(window_size()), false));
        }
        let writer = Pools::current().slabs.take(WINDOW)?;
        Ok((self.writer.insert(writer).window(window_size()), true))
    }

    /// Whether there is time to receive more than a transport handed over. Only who has been handed something (`first`) may
    /// begin a time: else one step that takes long would end the rest that it should bring.
    pub(super) fn has_time(&mut self, now: Instant, first: bool) -> bool {
        let spent = self.reading_on.map(|since| now.saturating_duration_since(since));
        if first && spent.is_none_or(|spent| spent >= READING_ON * 2) {
            self.reading_on = Some(now);
            return true;
        }
        spent.is_some_and(|spent| spent < READING_ON)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_read_on_rest_for_as_long() {
        let mut scratch = Scratch::default();
        let start = Instant::now();
        let times = [0, 1, 1_999, 2_000, 3_999, 4_000, 5_999, 6_000, 20_000, 21_999, 22_000];
        let read: Vec<u64> =
            times.into_iter().filter(|&time| scratch.has_time(start + Duration::from_micros(time), true)).collect();
        assert_eq!(read, [0, 1, 1_999, 4_000, 5_999, 20_000, 21_999]);
    }

    #[test]
    fn a_step_that_takes_long_is_the_last() {
        let mut scratch = Scratch::default();
        let start = Instant::now();
        assert!(!scratch.has_time(start, false));
        assert!(scratch.has_time(start, true));
        let late = start + Duration::from_millis(5);
        assert!(!scratch.has_time(late, false));
        assert!(scratch.has_time(late, true));
        assert!(scratch.has_time(late, false));
    }
}
