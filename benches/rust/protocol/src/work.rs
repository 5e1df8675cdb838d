//! The operations under test: those of upstream's benchmarks of blocking work, with its batches and threads. The random
//! numbers are not upstream's: a batch sleeps as long as one of Python's rows does, and a shuffle has the generator of
//! penstock's own native job.

use std::cell::Cell;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Microseconds that the jobs of a batch sleep: those that `penstock.bench.strategies` gives the jobs of its batches.
const SLEEPS: [u64; 200] = [
    3, 49, 2, 5, 2, 8, 8, 8, 7, 4, 2, 8, 1, 7, 7, 49, 1, 8, 5, 4, 49, 2, 6, 1, 1, 1, 12, 1, 7, 4, 7, 1, 12, 4, 8, 8,
    12, 4, 6, 4, 4, 8, 5, 1, 7, 12, 2, 3, 5, 2, 6, 12, 7, 12, 4, 5, 5, 49, 8, 12, 7, 49, 1, 8, 4, 7, 7, 3, 6, 12, 6, 2,
    8, 12, 2, 3, 12, 7, 6, 8, 1, 8, 1, 5, 49, 49, 49, 7, 3, 3, 12, 4, 1, 4, 12, 12, 4, 7, 12, 6, 49, 6, 8, 5, 12, 49,
    1, 7, 12, 3, 12, 12, 4, 7, 1, 8, 6, 49, 12, 4, 12, 7, 8, 6, 7, 6, 1, 12, 12, 49, 49, 6, 8, 49, 1, 4, 3, 12, 49, 3,
    2, 12, 5, 1, 2, 2, 1, 8, 1, 5, 4, 5, 2, 49, 3, 6, 5, 2, 3, 3, 5, 12, 3, 5, 5, 8, 6, 8, 8, 2, 1, 5, 7, 6, 7, 4, 5,
    2, 5, 12, 4, 49, 7, 1, 4, 1, 7, 3, 1, 3, 8, 12, 7, 12, 4, 12, 8, 4, 12, 1,
];

#[derive(Clone, Copy)]
pub enum Work {
    Noop,
    Expensive,
    Sleep,
}

impl FromStr for Work {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "noop" => Ok(Self::Noop),
            "expensive" => Ok(Self::Expensive),
            "sleep" => Ok(Self::Sleep),
            _ => Err(format!("unknown work {name:?}")),
        }
    }
}

impl Work {
    /// Jobs of a batch.
    pub fn batch(self) -> usize {
        if matches!(self, Self::Sleep) { SLEEPS.len() } else { 100 }
    }

    /// Threads for blocking work, and permits.
    pub fn extra(self) -> usize {
        if matches!(self, Self::Sleep) { 40 } else { 4 }
    }

    /// Always 100.
    pub fn run(self) -> usize {
        match self {
            Self::Noop => 100,
            Self::Expensive => expensive(),
            Self::Sleep => {
                // By who begins first, whichever thread that is: each batch has all of them.
                static BEGUN: AtomicUsize = AtomicUsize::new(0);
                let number = BEGUN.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(SLEEPS[number % SLEEPS.len()]));
                100
            }
        }
    }
}

fn expensive() -> usize {
    let mut values: Vec<usize> = (500..800).map(|value| value % 101).collect();
    for last in (1..values.len()).rev() {
        values.swap(last, random(last as u64 + 1));
    }
    values.sort();
    values[values.len() - 1]
}

/// xorshift64*, reduced to less than `bound`: as in `rust/native/src/jobs.rs`.
fn random(bound: u64) -> usize {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0x9E37_79B9_7F4A_7C15) });
    STATE.with(|state| {
        let mut value = state.get();
        value ^= value >> 12;
        value ^= value << 25;
        value ^= value >> 27;
        state.set(value);
        ((u128::from(value.wrapping_mul(0x2545_F491_4F6C_DD1D)) * u128::from(bound)) >> 64) as usize
    })
}
