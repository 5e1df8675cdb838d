//! What is queued: jobs of two kinds, and what their submitters want when there is no room.

use crate::Error;
use std::time::Duration;

/// Work that needs nothing; any closure is some.
///
/// Some can be cancelled while they are queued: whoever does so tells the queue by [`Queue::cancelled`](super::Queue::cancelled), and whoever takes
/// such a job out by [`Queue::buried`](super::Queue::buried).
pub trait Native: Send {
    /// False: it had been cancelled.
    fn run(self: Box<Self>) -> bool;

    /// It won't be run: the pool was told to drop what it had queued. False: it had been cancelled.
    fn cancel(self: Box<Self>) -> bool {
        true
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

impl<F: FnOnce() + Send> Native for F {
    fn run(self: Box<Self>) -> bool {
        self();
        true
    }
}

pub type NativeJob = Box<dyn Native>;

pub enum Job<A> {
    Native(NativeJob),
    Attached(A),
}

/// What a submitter wants when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait for room in the deque: for submitters that suspend, and for the pool's own threads.
    Append,
    /// Fail with [`Error::PoolFull`].
    Refuse,
    /// Block the calling thread.
    Block,
    /// Block it for so long at most, then fail as with `Refuse`.
    BlockFor(Duration),
    /// Take the oldest job out and give it to the caller to run, who then tells the queue by
    /// [`Queue::helped`](super::Queue::helped).
    Displace,
}

/// A job that was not accepted, given back so that its owner drops it where that is safe.
pub struct Rejected<A> {
    pub error: Error,
    pub job: Job<A>,
}

impl<A> From<Rejected<A>> for Error {
    fn from(rejected: Rejected<A>) -> Self {
        rejected.error
    }
}
