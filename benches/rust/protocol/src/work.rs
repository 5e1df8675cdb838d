//! The operations under test: those of upstream's benchmarks of blocking work, with its batches and threads. The generator
//! of random numbers is not upstream's: it is the one of penstock's own native job, so that all rows do the same.

use std::cell::Cell;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

const DELAYS: [u64; 10] = [1, 2, 3, 4, 5, 6, 7, 8, 12, 49];

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
        if matches!(self, Self::Sleep) { 200 } else { 100 }
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
                thread::sleep(Duration::from_micros(DELAYS[random(DELAYS.len() as u64)]));
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
