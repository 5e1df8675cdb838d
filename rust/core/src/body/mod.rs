//! Bodies: received into slabs, collected by a sink, kept as an immutable image in memory, in a file or mapped.

mod budget;
pub mod digest;
mod errand;
pub mod file;
mod filepool;
mod image;
mod mmap;
mod pools;
pub mod reaper;
pub(crate) mod save;
pub(crate) mod sink;
pub mod slab;
pub mod tunables;
mod upload;
pub mod writer;

pub use budget::{Budget, Lease};
pub use errand::{Errand, SharedSink};
pub use filepool::{FilePool, FilePoolStats};
pub use image::{BodyImage, Reader, State};
pub use pools::Pools;
pub use sink::BodySink;
pub use slab::{SlabPool, WINDOW};
pub use tunables::Tunables;
pub use upload::Upload;
pub use writer::Work;
