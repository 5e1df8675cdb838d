//! Blocking work on a bounded number of threads: the [`Queue`] that hands jobs to workers, the [`Pool`] of workers,
//! and the [`Completions`] that carry what is finished back to an event loop.

mod completions;
mod job;
mod pace;
mod queue;
mod signal;

#[cfg(not(loom))]
mod pool;

pub use completions::Completions;
pub use job::{Job, Native, NativeJob, Rejected, WhenFull};
pub use queue::{Figures, Found, Queue, Seat};
pub use signal::{Alarm, Signal};

#[cfg(not(loom))]
pub use pool::{Config, NativeOnly, Overflow, Pool, Runner, default_threads, platform_stack};
