//! A record as a value, and where one lies.

use super::fields::Fields;
use super::head::Head;
use crate::body::BodyImage;

/// What a record holds. Bodies in memory, in a temporary file, or as a slice of the archive itself.
#[derive(Clone, Default)]
pub struct Record {
    pub meta: Fields,
    pub req_headers: Fields,
    pub req_body: BodyImage,
    pub res_headers: Fields,
    pub res_body: BodyImage,
}

/// A complete record's place, as its head tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Of its head in the file: what a record is known by.
    pub offset: u64,
    pub head: Head,
}

impl Entry {
    /// Where the payload begins.
    pub fn payload(&self) -> u64 {
        self.offset + Head::LEN as u64
    }

    /// Where the next record begins.
    pub fn end(&self) -> u64 {
        self.payload() + self.head.len
    }
}
