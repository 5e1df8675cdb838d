//! Bodies: received into slabs, collected by a sink, kept as an immutable image in memory, in a file or mapped.

pub mod budget;
pub mod digest;
pub mod errand;
pub mod file;
pub mod filepool;
pub mod image;
pub mod mmap;
pub mod pools;
pub mod reaper;
pub mod save;
pub mod sink;
pub mod slab;
pub mod tunables;
pub mod upload;
pub mod writer;

pub use budget::{Budget, Lease};
pub use errand::{Errand, SharedSink};
pub use filepool::FilePool;
pub use image::{BodyImage, Reader, State};
pub use pools::Pools;
pub use sink::BodySink;
pub use slab::{SlabPool, WINDOW};
pub use tunables::Tunables;
pub use upload::Upload;
pub use writer::Work;
