//! Codings: what was put on comes off, however the bytes are cut; what is cut, corrupt or too much is an error; and no
//! step gives more than it was asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod bodies;

use bodies::{coded, contents, image, text as body};
use penstock_core::body::{BodyImage, Budget, State, Tunables};
use penstock_core::codec::{self, Caps, Chain, Coding};
use penstock_core::{Error, Result};
use proptest::prelude::*;
use std::sync::Arc;

const ROOM: Caps = Caps { max_body: 1 << 30, max_ratio: None };

fn plain() -> (Arc<Tunables>, Arc<Budget>) {
    (Arc::default(), Budget::new(None, None, None))
}

/// Feeds the pieces with `room` bytes of output at a time.
fn decode(codings: &[Coding], caps: Caps, pieces: &[&[u8]], room: usize) -> (Vec<u8>, Result<()>) {
    let mut out = Vec::new();
    let mut buffer = vec![0xee; room];
    let mut run = || {
        let mut chain = Chain::new(codings, caps)?;
        for piece in pieces {
            let mut input = *piece;
            loop {
                let step = chain.step(&mut input, &mut buffer)?;
                assert!(step.produced <= room);
                out.extend_from_slice(&buffer[..step.produced]);
                if !step.more {
                    assert!(input.is_empty());
                    break;
                }
            }
        }
        chain.finish()
    };
    let result = run();
    (out, result)
}

fn stacks() -> Vec<Vec<Coding>> {
    let mut stacks: Vec<Vec<Coding>> = Coding::ALL.iter().map(|&coding| vec![coding]).collect();
    stacks.push(vec![Coding::Gzip, Coding::Br]);
    stacks.push(vec![Coding::Zstd, Coding::Gzip, Coding::Deflate]);
    stacks.push(Coding::ALL.to_vec());
    stacks
}

#[test]
fn what_was_put_on_comes_off_wherever_it_is_cut() {
    let sent = body(300);
    for codings in stacks() {
        let wire = coded(&sent, &codings);
        for cut in 0..=wire.len() {
            let (first, second) = wire.split_at(cut);
            for room in [1, 7, 300, 301, 4096] {
                let (out, result) = decode(&codings, ROOM, &[first, second], room);
                result.unwrap();
                assert!(out == sent, "{codings:?} cut at {cut}, by {room}");
            }
        }
        let single: Vec<&[u8]> = wire.chunks(1).collect();
        assert!(decode(&codings, ROOM, &single, 4096).0 == sent, "{codings:?}");
    }
}

#[test]
fn a_cut_stream_is_an_error_wherever_it_is_cut() {
    for codings in stacks() {
        let wire = coded(&body(300), &codings);
        for len in 1..wire.len() {
            let (out, result) = decode(&codings, ROOM, &[&wire[..len]], 4096);
            assert!(body(300).starts_with(&out));
            match result.unwrap_err() {
                Error::CutCoding { received, .. } => assert_eq!(received, len as u64),
                // The end of one coding may be noticed before the other's.
                error => panic!("{codings:?} at {len}: {error}"),
            }
        }
        assert!(decode(&codings, ROOM, &[], 10).1.is_ok(), "nothing is nothing");
    }
}

#[test]
fn members_and_frames_follow_one_another() {
    for coding in [Coding::Gzip, Coding::Zstd] {
        let parts = [coded(b"one ", &[coding]), coded(b"", &[coding]), coded(b"two", &[coding])];
        let wire = parts.concat();
        for cut in 0..=wire.len() {
            let (out, result) = decode(&[coding], ROOM, &[&wire[..cut], &wire[cut..]], 3);
            result.unwrap();
            assert_eq!(out, b"one two");
        }
    }
}

#[test]
fn an_inner_frame_waits_for_the_outer_coding_however_long() {
    let sent = body(3000);
    let frame = coded(&sent, &[Coding::Zstd]);
    let (first, second) = frame.split_at(frame.len() / 2);
    let wire = [coded(first, &[Coding::Gzip]), coded(second, &[Coding::Gzip])].concat();
    // Between the members are 18 bytes that give the frame nothing.
    let single: Vec<&[u8]> = wire.chunks(1).collect();
    for room in [1, 100, 3000, 4096] {
        let (out, result) = decode(&[Coding::Zstd, Coding::Gzip], ROOM, &single, room);
        result.unwrap();
        assert!(out == sent, "by {room}");
    }
}

#[test]
fn what_follows_the_end_is_an_error_that_names_the_coding_and_the_place() {
    for coding in Coding::ALL {
        let mut wire = coded(&body(100), &[coding]);
        let end = wire.len() as u64;
        wire.extend_from_slice(b"trailing junk");
        let (out, result) = decode(&[coding], ROOM, &[&wire], 4096);
        assert!(out == body(100), "{coding:?}");
        let Err(Error::Decode { coding: named, at, .. }) = result else { panic!("{coding:?}: {result:?}") };
        assert_eq!(named, coding.name());
        assert!((end..=end + 13).contains(&at), "{coding:?}: {at}");
    }
    let message = decode(&[Coding::Br], ROOM, &[&coded(b"x", &[Coding::Br]), b"y"], 10).1.unwrap_err().to_string();
    assert_eq!(message, "not valid br: data follows its end (at byte 5 of what br is taken off)");
}

#[test]
fn all_that_two_codings_gave_before_a_fault_comes_out_however_little_room_there_is() {
    let sent = body(3000);
    for codings in [[Coding::Gzip, Coding::Br], [Coding::Zstd, Coding::Deflate], [Coding::Br, Coding::Gzip]] {
        let mut wire = coded(&sent, &codings);
        wire.extend_from_slice(b"junk");
        for room in [1, 100, 2999, 4096] {
            let (out, result) = decode(&codings, ROOM, &[&wire], room);
            assert!(matches!(result, Err(Error::Decode { .. })), "{codings:?} by {room}: {result:?}");
            assert!(out == sent, "{codings:?} by {room}: {}", out.len());
        }
    }
}

#[test]
fn corrupt_bytes_are_an_error_or_show_in_what_comes_out() {
    let sent = body(2000);
    for coding in Coding::ALL {
        let wire = coded(&sent, &[coding]);
        let checked = matches!(coding, Coding::Gzip | Coding::Deflate);
        for at in 0..wire.len() {
            let mut corrupt = wire.clone();
            corrupt[at] ^= 0x55;
            let (out, result) = decode(&[coding], ROOM, &[&corrupt], 4096);
            // Bytes of a gzip header that mean nothing may be anything.
            assert!(result.is_err() || out == sent || !checked, "{coding:?} at {at}");
        }
    }
}

#[test]
fn deflate_is_told_apart_from_its_raw_form() {
    let sent = body(500);
    let raw = {
        let zlib = coded(&sent, &[Coding::Deflate]);
        zlib[2..zlib.len() - 4].to_vec()
    };
    for cut in 0..=raw.len() {
        let (out, result) = decode(&[Coding::Deflate], ROOM, &[&raw[..cut], &raw[cut..]], 100);
        result.unwrap();
        assert!(out == sent, "cut at {cut}");
    }
}

#[test]
fn a_body_at_its_limit_is_whole_and_one_byte_more_is_too_long() {
    for codings in stacks() {
        let wire = coded(&body(100), &codings);
        // What one coding gives the next is bounded, too, and is longer than so short a body.
        let caps = |max_body| Caps { max_body, max_ratio: None };
        if codings.len() == 1 {
            assert!(decode(&codings, caps(100), &[&wire], 4096).1.is_ok());
        }
        for room in [1, 99, 100, 101, 4096] {
            let (out, result) = decode(&codings, caps(99), &[&wire], room);
            let error = result.unwrap_err();
            assert!(matches!(error, Error::DecodedTooLong { seen: 100, limit: 99, .. }), "{codings:?}: {error}");
            if codings.len() == 1 {
                assert!(out == body(99), "{codings:?} by {room}: {}", out.len());
            }
        }
    }
}

#[test]
fn the_limit_that_a_ratio_s_error_names_is_the_one_that_was_passed() {
    let zeros = vec![0; 1 << 20];
    let limit = |sent: &[u8], max_ratio| {
        let caps = Caps { max_body: u64::MAX, max_ratio: Some(max_ratio) };
        let (out, result) = decode(&[Coding::Gzip], caps, &[&coded(sent, &[Coding::Gzip])], 4096);
        let error = result.unwrap_err();
        let Error::DecodedTooLong { seen, limit, setting: "Tunables.max_ratio" } = error else { panic!("{error}") };
        assert!(out.len() as u64 == seen && (limit + 1..=limit + 4096).contains(&seen), "{error}");
        limit
    };
    // Whatever the ratio, 64 KiB may come out.
    assert_eq!(limit(&zeros, 2), 64 << 10);
    let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    let begun = std::iter::successors(Some(1), next).map(|state| (state >> 56) as u8).take(10_000).collect();
    let above = limit(&[begun, zeros].concat(), 20);
    assert!(above > 64 << 10 && above.is_multiple_of(20), "{above}");
}

#[test]
fn what_lies_between_two_codings_is_bounded_as_what_comes_out() {
    // Members without content: megabytes between the codings, and nothing behind them.
    let empty = coded(b"", &[Coding::Gzip]);
    let wire = coded(&empty.repeat(100_000), &[Coding::Zstd]);
    let caps = Caps { max_body: 1 << 20, max_ratio: None };
    let (out, result) = decode(&[Coding::Gzip, Coding::Zstd], caps, &[&wire], 4096);
    assert!(out.is_empty());
    assert!(matches!(result, Err(Error::DecodedTooLong { .. })));
}

#[test]
fn a_step_ends_when_as_much_lay_between_two_codings_as_it_has_room_for() {
    let members = coded(b"", &[Coding::Gzip]).repeat(100_000);
    let wire = coded(&members, &[Coding::Zstd]);
    let mut chain = Chain::new(&[Coding::Gzip, Coding::Zstd], ROOM).unwrap();
    let (mut input, mut buffer, mut steps) = (&wire[..], vec![0; 64 << 10], 1);
    loop {
        let before = chain.effort();
        let step = chain.step(&mut input, &mut buffer).unwrap();
        assert!(chain.effort() - before <= 80 << 10);
        assert_eq!(step.produced, 0);
        if !step.more {
            break;
        }
        steps += 1;
    }
    chain.finish().unwrap();
    assert_eq!((input.len(), chain.effort()), (0, members.len() as u64));
    assert!(steps > members.len() / (80 << 10), "{steps}");
}

#[test]
fn a_ratio_is_bounded_from_64_kib_on() {
    let caps = Caps { max_ratio: Some(10), ..ROOM };
    for (len, is_fine) in [(64 << 10, true), (66 << 10, false)] {
        let wire = coded(&vec![b'x'; len], &[Coding::Gzip]);
        let (out, result) = decode(&[Coding::Gzip], caps, &[&wire], 1024);
        assert_eq!(result.is_ok(), is_fine, "{len}");
        assert!(out.len() >= 64 << 10);
    }
    let wire = coded(&vec![b'x'; 1 << 20], &[Coding::Gzip]);
    let message = decode(&[Coding::Gzip], caps, &[&wire], 1 << 16).1.unwrap_err().to_string();
    assert!(message.ends_with("(Tunables.max_ratio)"), "{message}");
}

#[test]
fn windows_beyond_what_content_may_have_are_refused() {
    // RFC 9659: a frame with a window of 16 MiB; RFC 7932 has no window above 16 MiB, "large window" streams do.
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x70, 0x01, 0x00, 0x00];
    let brotli = [0x11, 0x1e, 0x03];
    for (coding, wire) in [(Coding::Zstd, &zstd[..]), (Coding::Br, &brotli)] {
        let result = decode(&[coding], ROOM, &[wire], 10).1;
        assert!(matches!(result, Err(Error::Decode { .. })), "{coding:?}: {result:?}");
    }
}

#[test]
fn a_window_is_refused_however_the_frame_is_cut_and_whatever_room_there_is() {
    // Of 8 MiB, one more, and 16 MiB, with a content of 3 bytes that the head tells.
    for (window, fits) in [(0x68, true), (0x69, false), (0x70, false)] {
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x80, window, 3, 0, 0, 0, 0x19, 0, 0, b'a', b'b', b'c'];
        let wire = [&frame[..], &frame].concat();
        for size in 1..=wire.len() {
            for room in [1, 3, 4096] {
                let pieces: Vec<&[u8]> = wire.chunks(size).collect();
                let (out, result) = decode(&[Coding::Zstd], ROOM, &pieces, room);
                let expected: &[u8] = if fits { b"abcabc" } else { b"" };
                assert_eq!(
                    (&out[..], result.is_ok()),
                    (expected, fits),
                    "{window:#x} by {size}, into {room}: {result:?}"
                );
            }
        }
    }
}

#[test]
fn an_image_is_decoded_to_where_its_tunables_say() {
    let sent = body(900_000);
    for codings in stacks() {
        let (_, budget) = plain();
        for (max_body_ram, in_file) in [(0, true), (1 << 20, false)] {
            let tunables = Arc::new(Tunables { max_body_ram, ..Tunables::default() });
            let encoded = codec::encode(&image(&sent), &codings, None, tunables.clone(), budget.clone()).unwrap();
            assert_eq!(encoded.is_file(), in_file);
            let decoded = codec::decode(&encoded, &codings, tunables, budget.clone()).unwrap();
            assert_eq!(decoded.is_file(), in_file);
            assert!(contents(&decoded) == sent, "{codings:?}");
            if let State::Ram(pieces) = decoded.state() {
                assert!(pieces.len() <= 5, "{}", pieces.len());
            }
        }
    }
}

#[test]
fn an_image_that_is_longer_coded_than_it_may_be_decoded_is_no_error() {
    let sent = body(2000);
    let parts: Vec<u8> = sent.chunks(1).flat_map(|byte| coded(byte, &[Coding::Gzip])).collect();
    let tunables = Arc::new(Tunables { max_body: 2000, max_body_ram: 2000, ..Tunables::default() });
    let (_, budget) = plain();
    let decoded = codec::decode(&image(&parts), &[Coding::Gzip], tunables, budget).unwrap();
    assert!(contents(&decoded) == sent);
}

#[test]
fn an_empty_image_has_nothing_to_decode_and_is_encoded_like_any_other() {
    let (tunables, budget) = plain();
    let empty = BodyImage::default();
    let decoded = codec::decode(&empty, &[Coding::Gzip], tunables.clone(), budget.clone()).unwrap();
    assert!(decoded.is_empty());
    for coding in Coding::ALL {
        let encoded = codec::encode(&empty, &[coding], None, tunables.clone(), budget.clone()).unwrap();
        assert!(!encoded.is_empty());
        assert!(codec::decode(&encoded, &[coding], tunables.clone(), budget.clone()).unwrap().is_empty());
    }
}

#[test]
fn levels_are_each_codings_own() {
    let (tunables, budget) = plain();
    let sizes = [(Coding::Gzip, 0, 9), (Coding::Deflate, 0, 9), (Coding::Br, 0, 11), (Coding::Zstd, 1, 22)];
    let sizes = sizes.map(|(coding, least, most)| {
        let size = |level| {
            let encoded =
                codec::encode(&image(&body(3000).repeat(5)), &[coding], Some(level), tunables.clone(), budget.clone());
            encoded.unwrap().len()
        };
        (coding, size(least), size(most))
    });
    for (coding, fast, small) in sizes {
        assert!(small <= fast, "{coding:?}: {small} {fast}");
    }
    let refused = codec::encode(&image(b"x"), &[Coding::Br], Some(12), tunables, budget).err().unwrap();
    assert_eq!(refused.to_string(), "level=12: not between 0 and 11, as br has them");
}

#[test]
fn what_the_highest_levels_of_zstd_made_can_be_decoded() {
    let (tunables, budget) = plain();
    // The second of two isn't told how much it will be given.
    for codings in [&[Coding::Zstd][..], &[Coding::Zstd, Coding::Zstd]] {
        for (level, len) in (18..=22).flat_map(|level| [(level, 0), (level, 3000)]) {
            let made = codec::encode(&image(&body(len)), codings, Some(level), tunables.clone(), budget.clone());
            let (out, result) = decode(codings, ROOM, &[&contents(&made.unwrap())], 4096);
            assert!(result.is_ok(), "{codings:?} at {level}: {result:?}");
            assert!(out == body(len), "{codings:?} at {level}");
        }
    }
}

#[test]
fn an_encoding_that_cannot_be_stored_says_why() {
    let tunables = Arc::new(Tunables { max_body: 10, max_body_ram: 10, ..Tunables::default() });
    let noise: Vec<u8> = (0..300_000_u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    for codings in stacks() {
        let (_, budget) = plain();
        let error = codec::encode(&image(&noise), &codings, None, tunables.clone(), budget).err().unwrap();
        assert!(matches!(error, Error::BodyTooLong { limit: 10, .. }), "{codings:?}: {error}");
    }
}

fn coding() -> impl Strategy<Value = Coding> {
    prop::sample::select(&Coding::ALL[..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decoding_undoes_encoding(
        pieces in prop::collection::vec((any::<u8>(), 1usize..20_000, any::<bool>()), 0..6),
        codings in prop::collection::vec(coding(), 1..=4),
        size in 1usize..5000,
        room in prop_oneof![1usize..50, 50usize..100_000],
    ) {
        let run = |(byte, len, noisy): (u8, usize, bool)| -> Vec<u8> {
            (0..len).map(|i| if noisy { (i * i % 253) as u8 ^ byte } else { byte }).collect()
        };
        let sent: Vec<u8> = pieces.into_iter().flat_map(run).collect();
        let wire = coded(&sent, &codings);
        let cut: Vec<&[u8]> = wire.chunks(size).collect();
        let (out, result) = decode(&codings, ROOM, &cut, room);
        prop_assert!(result.is_ok(), "{:?}", result);
        prop_assert!(out == sent);
    }

    /// Whether it is an error doesn't depend on how the bytes were cut, and nothing panics or goes on for ever.
    #[test]
    fn any_bytes_have_one_outcome(
        codings in prop::collection::vec(coding(), 1..=3),
        seed in prop::collection::vec(any::<u8>(), 0..300),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        valid in any::<bool>(),
        size in 1usize..40,
    ) {
        let mut wire = if valid { coded(&seed, &codings) } else { seed };
        for (place, value) in flips {
            if !wire.is_empty() {
                let place = place.index(wire.len());
                wire[place] = value;
            }
        }
        let caps = Caps { max_body: 1 << 20, max_ratio: None };
        let whole = decode(&codings, caps, &[&wire], 1 << 16);
        let cut: Vec<&[u8]> = wire.chunks(size).collect();
        let pieces = decode(&codings, caps, &cut, 999);
        prop_assert_eq!(whole.1.is_ok(), pieces.1.is_ok(), "{:?} {:?}", whole.1, pieces.1);
        if whole.1.is_ok() {
            prop_assert!(whole.0 == pieces.0);
        }
    }
}
