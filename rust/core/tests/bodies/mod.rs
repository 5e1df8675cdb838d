//! Bodies to send, and what they are on the wire.
#![allow(dead_code, reason = "each file of tests is a crate of its own, and needs some of them")]

use penstock_core::body::{BodyImage, Budget};
use penstock_core::codec::{Coding, encode};
use std::io::Write as _;
use std::sync::Arc;

/// Bytes of all values but a few.
pub fn body(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

/// Compressible, but not to next to nothing.
pub fn text(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b"aaabcd eefgh iijkl"[(state >> 33) as usize % 18]
    };
    (0..len).map(|_| next()).collect()
}

pub fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in body.chunks(size) {
        write!(wire, "{:x}\r\n", chunk.len()).unwrap();
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    wire
}

pub fn image(bytes: &[u8]) -> BodyImage {
    BodyImage::from_piece(bytes.to_vec().into())
}

pub fn contents(image: &BodyImage) -> Vec<u8> {
    image.read_range(0, u64::MAX).unwrap().to_vec()
}

pub fn coded(bytes: &[u8], codings: &[Coding]) -> Vec<u8> {
    contents(&encode(&image(bytes), codings, None, Arc::default(), Budget::new(None, None, None)).unwrap())
}
