//! Codings: no input makes a decoder panic, go on for ever, or give more than it was asked for, and how the bytes are cut
//! into pieces changes nothing of what comes out. The first byte says which codings, the second the size of the pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_core::codec::{Caps, Chain, Coding};

const CAPS: Caps = Caps { max_body: 1 << 20, max_ratio: None };

/// What came out, and whether that was all of it.
fn decoded<'a>(codings: &[Coding], pieces: impl Iterator<Item = &'a [u8]>, room: usize) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let mut buffer = vec![0; room];
    let Ok(mut chain) = Chain::new(codings, CAPS) else { return (out, false) };
    for piece in pieces {
        let mut input = piece;
        loop {
            let Ok(step) = chain.step(&mut input, &mut buffer) else { return (out, false) };
            assert!(step.produced <= room);
            out.extend_from_slice(&buffer[..step.produced]);
            assert!(out.len() as u64 <= CAPS.max_body);
            if !step.more {
                assert!(input.is_empty());
                break;
            }
        }
    }
    let whole = chain.finish().is_ok();
    (out, whole)
}

fuzz_target!(|input: &[u8]| {
    let [which, size, input @ ..] = input else { return };
    let coding = |shift: u8| Coding::ALL[usize::from(which >> shift & 3)];
    let codings = [coding(0), coding(2), coding(4)];
    let codings = &codings[..usize::from(which >> 6).clamp(1, 3)];
    let (out, whole) = decoded(codings, std::iter::once(input), 1 << 16);
    let (by_pieces, also) = decoded(codings, input.chunks(usize::from(*size) + 1), 1 + usize::from(*size) * 7);
    assert_eq!(whole, also, "pieces of {}", usize::from(*size) + 1);
    // What a fault leaves behind depends on where it was noticed.
    assert!(!whole || out == by_pieces);
});
