//! Permits: how many may do something at once. [`Semaphore`] is fair, and serves event loops and threads alike.

mod semaphore;

pub use semaphore::{Acquire, Figures, Grant, MOST, Semaphore, Ticket, Waiting};
