//! HTTP/1.1 responses as a state machine over bytes that somebody else received. No socket, no clock and no content
//! coding lives here. The connection, or the worker to which it lent its socket, feeds what arrives and gets back
//! where the head ended and which ranges of its buffer are body.
//!
//! Strict by RFC 9110 and RFC 9112: what two readers could understand differently is refused, not repaired, and
//! everything around the body is bounded by [`HeadLimits`].

mod chunked;
pub(crate) mod fields;
mod framing;
mod head;
mod limits;
mod response;

pub use framing::{Asked, Framing};
pub use head::{Head, Version};
pub use limits::HeadLimits;
pub use response::{Body, HeadStep, Response};
