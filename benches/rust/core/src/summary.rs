//! What is found of a body: its length and its greatest byte.

use crate::client::Failure;

#[derive(Clone, Copy, Default)]
pub struct Summary {
    length: usize,
    greatest: u8,
}

impl Summary {
    pub fn add(&mut self, piece: &[u8]) {
        self.length += piece.len();
        self.greatest = piece.iter().fold(self.greatest, |most, &byte| most.max(byte));
    }

    pub fn check(&self, size: usize) -> Result<(), Failure> {
        if (self.length, self.greatest) == (size, 0xFF) { Ok(()) } else { Err("the body isn't what was sent".into()) }
    }
}
