//! Blocking work on a bounded number of threads: the [`Queue`] that hands jobs to workers, the [`Pool`] of workers,
//! and the [`Completions`] that carry what is finished back to an event loop.

mod completions;
mod queue;

#[cfg(not(loom))]
mod pool;

pub use completions::{Completions, Signal};
pub use queue::{Figures, Found, Job, Native, NativeJob, Queue, Rejected, Seat, WhenFull};

#[cfg(not(loom))]
pub use pool::{Config, NativeOnly, Overflow, Pool, Runner, default_threads};
