//! Archives: the BARC 2 format, exchanged in both directions with the Rust crate `barc` 2 and its tool. A file is a
//! sequence of records, and a record is a head of 54 bytes and a payload: meta, request headers and body, response
//! headers and body. docs/reference/barc-format.md describes every byte.

mod damage;
mod fields;
mod head;
mod reader;
mod record;
mod repair;
mod scan;
mod strategy;
mod stream;
#[cfg(test)]
mod tests;
mod writer;

pub use damage::{Checked, Damage};
pub use fields::Fields;
pub use head::{Compression, Head, Kind};
pub use reader::{Reader, Walk};
pub use record::{Entry, Record};
pub use repair::{Mender, Repair, repair};
pub use strategy::Strategy;
pub use writer::Writer;
