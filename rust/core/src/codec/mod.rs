//! Codings of bodies (RFC 9110 section 8.4.1, RFC 8878, RFC 7932): which ones a response has, streaming decoders that
//! never give more than they are asked for, and encoders. No socket and no thread lives here: `receive` and `drain`
//! put an [`Inflow`] between framing and sink, [`decode`] and [`encode`] do the same for a whole image.
//!
//! What a peer sends may become a thousand times as much, or for ever nothing. Both are bounded: what comes out by
//! `Tunables.max_body` and `max_ratio`, what goes in by `max_body` too, and one step by the room that it is given, also in
//! what several codings give each other.

mod chain;
mod coding;
mod decoder;
mod image;
mod inflow;
mod target;

pub use chain::{Caps, Chain, Step};
pub use coding::Coding;
pub use image::{decode, encode};
pub(crate) use inflow::forget_undecoded;
pub use inflow::{BACKLOG, Decoding, INLINE, Inflow, SharedInflow, undecoded};
pub(crate) use target::Through;

/// When the codings of a response's body are taken off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// It is stored as it comes.
    #[default]
    Never,
    /// While it arrives.
    Arriving,
    /// By the receiver's owner, when all of it is there: it is stored as it comes, but codings that nobody could take
    /// off are refused at once.
    After,
}
