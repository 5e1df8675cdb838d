//! A file that chunks are written to by many at once.

use std::fs::File;
use std::io::{self, IoSlice, Seek, Write};

use bytes::Bytes;

const FULL: usize = 256 * 1024;

pub struct Gathered {
    file: File,
    chunks: Vec<Bytes>,
    held: usize,
}

impl Gathered {
    pub fn new(file: File) -> Self {
        Self { file, chunks: Vec::new(), held: 0 }
    }

    pub fn push(&mut self, chunk: Bytes) {
        self.held += chunk.len();
        self.chunks.push(chunk);
    }

    pub fn is_full(&self) -> bool {
        self.held >= FULL
    }

    /// With all that is held in the file.
    pub fn written(mut self) -> io::Result<Self> {
        let mut slices: Vec<_> = self.chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            let count = self.file.write_vectored(slices)?;
            IoSlice::advance_slices(&mut slices, count);
        }
        self.chunks.clear();
        self.held = 0;
        Ok(self)
    }

    /// From its beginning.
    pub fn into_file(mut self) -> io::Result<File> {
        self.file.rewind()?;
        Ok(self.file)
    }
}
