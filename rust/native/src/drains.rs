//! The draining workers of a pool: started at first need, at most as many as it was made with.

use parking_lot::Mutex;
use penstock_core::drain::Drainer;
use penstock_core::{Error, Result};
use std::mem;
use std::sync::Arc;

#[derive(Default)]
struct State {
    /// The fork that the workers belong to.
    fork: usize,
    workers: Vec<Arc<Drainer>>,
    closed: bool,
}

/// Locked only by threads that are attached to the interpreter, so that a fork finds it unlocked.
#[derive(Default)]
pub struct Drains(Mutex<State>);

impl Drains {
    /// The worker with the least to do. One more is started while all are busy and there are fewer than `most`.
    pub fn pick(&self, fork: usize, prefix: &str, most: usize) -> Result<Arc<Drainer>> {
        let mut state = self.0.lock();
        if state.closed || most == 0 {
            return Err(Error::PoolClosed);
        }
        if state.fork != fork {
            // The parent's threads don't exist here, and what they were doing is theirs.
            mem::forget(mem::take(&mut state.workers));
            state.fork = fork;
        }
        let least = state.workers.iter().min_by_key(|worker| worker.active()).cloned();
        match least {
            Some(worker) if worker.active() == 0 || state.workers.len() >= most => Ok(worker),
            _ => {
                let name = format!("{prefix}drain-{}", state.workers.len());
                let worker = Arc::new(Drainer::start(name).map_err(Error::io("start a draining thread"))?);
                state.workers.push(worker.clone());
                Ok(worker)
            }
        }
    }

    /// How many there are, and how many bodies they have in hand.
    pub fn figures(&self) -> (usize, usize) {
        let state = self.0.lock();
        (state.workers.len(), state.workers.iter().map(|worker| worker.active()).sum())
    }

    /// Takes the workers away; dropping them cancels what they have and joins their threads.
    pub fn close(&self) -> Vec<Arc<Drainer>> {
        let mut state = self.0.lock();
        state.closed = true;
        mem::take(&mut state.workers)
    }
}
