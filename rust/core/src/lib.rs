//! penstock-core: bodies, blocking work and HTTP framing that stay within the memory, threads and time they were
//! given. It knows nothing of Python, of asyncio or of sockets' owners; the crate `penstock-native` shows it to Python.
//!
//! Data flows one way: socket → framing → decode → sink → image → reader.

pub mod barc;
pub mod body;
pub mod codec;
pub mod descriptor;
pub mod dispatch;
pub mod drain;
pub mod error;
pub mod fork;
pub mod handover;
pub mod histogram;
pub mod http;
pub mod permit;
#[cfg(not(loom))]
pub mod pulse;
pub mod receive;
pub mod size;
pub mod sync;
#[cfg(test)]
mod testing;

pub use error::{Error, Resource, Result};
