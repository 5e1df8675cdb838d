//! The same pool of threads on two queues: crossbeam's channel for many consumers, as upstream's first release had it, and
//! a deque under a mutex with a condition variable, as its later ones have.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex};

pub type Job = Box<dyn FnOnce() + Send>;

pub enum Queue {
    Crossbeam(Sender<Job>, Receiver<Job>),
    Condvar(Mutex<VecDeque<Job>>, Condvar),
}

impl Queue {
    pub fn crossbeam() -> Self {
        let (sender, receiver) = crossbeam_channel::unbounded();
        Self::Crossbeam(sender, receiver)
    }

    pub fn condvar() -> Self {
        Self::Condvar(Mutex::default(), Condvar::new())
    }

    /// With `threads` that take from it until the process ends.
    pub fn with_threads(self, threads: usize) -> Arc<Self> {
        let queue = Arc::new(self);
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                loop {
                    queue.take()();
                }
            });
        }
        queue
    }

    pub fn push(&self, job: Job) {
        match self {
            Self::Crossbeam(sender, _) => sender.send(job).expect("a receiver stays"),
            Self::Condvar(jobs, some) => {
                jobs.lock().push_back(job);
                some.notify_one();
            }
        }
    }

    fn take(&self) -> Job {
        match self {
            Self::Crossbeam(_, receiver) => receiver.recv().expect("a sender stays"),
            Self::Condvar(jobs, some) => {
                let mut jobs = jobs.lock();
                loop {
                    if let Some(job) = jobs.pop_front() {
                        return job;
                    }
                    some.wait(&mut jobs);
                }
            }
        }
    }
}
