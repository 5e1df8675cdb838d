//! The draining workers of a pool: started at first need, at most as many as it was made with.

use penstock_core::drain::Drainer;
use penstock_core::sync::Mutex;
use penstock_core::{Error, Result};
use std::mem;
use std::sync::Arc;

#[derive(Default)]
struct State {
    workers: Vec<Arc<Drainer>>,
    /// Workers that are being joined.
    ending: usize,
    closed: bool,
}

pub struct Drains {
    prefix: String,
    most: usize,
    state: Mutex<State>,
}

impl Drains {
    pub fn new(prefix: String, most: usize) -> Self {
        Self { prefix, most, state: Mutex::default() }
    }

    /// The worker with the least to do. One more is started while all are busy and there are fewer than the most.
    pub fn pick(&self) -> Result<Arc<Drainer>> {
        let mut state = self.state.lock();
        if state.closed || self.most == 0 {
            return Err(Error::PoolClosed);
        }
        let least = state.workers.iter().min_by_key(|worker| worker.active()).cloned();
        match least {
            Some(worker) if worker.active() == 0 || state.workers.len() >= self.most => Ok(worker),
            _ => {
                let name = format!("{}drain-{}", self.prefix, state.workers.len());
                let worker = Arc::new(Drainer::start(name).map_err(Error::io("start a draining thread"))?);
                state.workers.push(worker.clone());
                Ok(worker)
            }
        }
    }

    /// How many there can be.
    pub fn most(&self) -> usize {
        self.most
    }

    /// How many there are.
    pub fn living(&self) -> usize {
        let state = self.state.lock();
        state.workers.len() + state.ending
    }

    /// How many bodies they have in hand.
    pub fn active(&self) -> usize {
        self.state.lock().workers.iter().map(|worker| worker.active()).sum()
    }

    /// Takes no more bodies.
    pub fn close(&self) {
        self.state.lock().closed = true;
    }

    /// Closes, cancels what they have, and waits for their ends.
    pub fn join(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let workers = mem::take(&mut state.workers);
        let ending = workers.len();
        state.ending += ending;
        drop(state);
        // Dropping a worker cancels and joins it.
        drop(workers);
        self.state.lock().ending -= ending;
    }
}
