//! Properties of response framing: valid messages decode to their body however they are cut, and no input whatever
//! makes the machine panic or point outside of its input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod http_support;

use http_support::{Outcome, Script, outcome_of};
use penstock_core::http::{Asked, Framing};
use proptest::{collection::vec, prelude::*, sample::Index};

fn extension() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        1 => "[ \t]{0,2};[ \t]?[a-z]{1,8}",
        1 => "[ \t]{0,2};[a-z]{1,8}=[A-Za-z0-9]{1,8}",
        1 => "[ \t]{0,2};[a-z]{1,8}=\"([ ;=a-z]|\\\\[\";a-z]){0,8}\"",
    ]
}

#[derive(Debug, Clone)]
struct Message {
    body: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    wire: Vec<u8>,
}

/// A chunked message of up to 40 chunks, many of them of one size.
fn message() -> impl Strategy<Value = Message> {
    let confusable = prop_oneof![prop::sample::select(&b"\r\n0;"[..]), any::<u8>()];
    let data = prop_oneof![3 => vec(any::<u8>(), 16), 2 => vec(any::<u8>(), 1..80), 1 => vec(confusable, 1..40)];
    let chunk = (data, 0..3_usize, any::<bool>(), extension());
    let trailer = ("x-[a-z]{1,6}", "[a-z0-9]{1,3}( [a-z]{1,4})?");
    (vec(chunk, 0..40), vec(trailer, 0..4)).prop_map(|(chunks, trailers)| {
        let mut wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        let mut body = Vec::new();
        for (data, zeros, upper, extension) in chunks {
            let size = if upper { format!("{:X}", data.len()) } else { format!("{:x}", data.len()) };
            wire.extend(format!("{}{size}{extension}\r\n", "0".repeat(zeros)).bytes());
            wire.extend(&data);
            wire.extend(b"\r\n");
            body.extend(data);
        }
        wire.extend(b"0\r\n");
        for (name, value) in &trailers {
            wire.extend(format!("{name}: {value}\r\n").bytes());
        }
        wire.extend(b"\r\n");
        let trailers = trailers.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
        Message { body, trailers, wire }
    })
}

fn cuts(places: &[Index], length: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = places.iter().map(|place| place.index(length + 1)).collect();
    cuts.sort_unstable();
    cuts
}

const WORDS: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 103 E\r\n",
    "HTTP/1.1 204 N\r\n",
    "\r\n",
    "\r\n\r\n",
    "\r",
    "\n",
    "content-length: 5\r\n",
    "content-length: ",
    "transfer-encoding: chunked\r\n",
    "transfer-encoding: ",
    "chunked",
    "gzip",
    "connection: close\r\n",
    "a: b\r\n",
    "a",
    ":",
    " ",
    "\t",
    ";",
    "=",
    "\"",
    "\\",
    ",",
    "0",
    "1",
    "5",
    "f",
    "hello",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "5\r\nhello\r\n5\r\nhello\r\n",
    "ffffffffffffffff",
    "\0",
    "\u{e9}",
];

/// Pieces of which responses are made, in any order: gets deeper than noise.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![8 => prop::sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec()), 1 => vec(any::<u8>(), 0..4)];
    let start = prop_oneof![
        1 => Just(Vec::new()),
        1 => Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
        2 => Just(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()),
    ];
    (start, vec(word, 0..24)).prop_map(|(start, words)| [start, words.concat()].concat())
}

proptest! {
    #[test]
    fn chunked_messages_decode_to_their_body(message in message(), places in vec(any::<Index>(), 0..12), beyond in 0..8_usize) {
        let length = message.wire.len();
        let input = [message.wire.clone(), b"HTTP/1.1".iter().copied().take(beyond).collect()].concat();
        let script = Script { asked: Asked::default(), input };
        match outcome_of(&script, &cuts(&places, script.input.len())) {
            Outcome::Done { framing: Framing::Chunked, body, trailers, consumed, .. } => {
                prop_assert_eq!(body, message.body);
                prop_assert_eq!(trailers, message.trailers);
                prop_assert_eq!(consumed, length);
            }
            other => prop_assert!(false, "{:?}: {:?}", script.text(), other),
        }
    }

    #[test]
    fn truncated_messages_are_never_taken_for_complete(message in message(), place in any::<Index>()) {
        let mut input = message.wire;
        input.truncate(place.index(input.len()));
        let script = Script { asked: Asked::default(), input };
        let outcome = outcome_of(&script, &[]);
        prop_assert!(matches!(outcome, Outcome::Other(_)), "{:?}: {:?}", script.text(), outcome);
    }

    // Ranges and counts are checked by `http_support` while it feeds.
    #[test]
    fn any_input_cut_anywhere_has_one_outcome(
        input in prop_oneof![4 => soup(), 1 => vec(any::<u8>(), 0..200)],
        places in vec(any::<Index>(), 0..8),
        head in any::<bool>(),
        transfer_codings in any::<bool>(),
    ) {
        let script = Script { asked: Asked { transfer_codings, ..Asked::from(head) }, input };
        let whole = outcome_of(&script, &[]);
        prop_assert_eq!(outcome_of(&script, &cuts(&places, script.input.len())), whole, "{:?}", script.text());
    }

    /// A second opinion: a parser that is lenient where this one is strict accepts every head that this one accepts, and
    /// sees the same fields in it.
    #[test]
    fn accepted_heads_read_the_same_to_httparse(input in soup()) {
        let script = Script { asked: Asked::default(), input };
        if let Outcome::Done { status, headers, informational, .. } = outcome_of(&script, &[]) && informational.is_empty() {
            let mut room = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Response::new(&mut room);
            prop_assert!(parsed.parse(&script.input).unwrap().is_complete());
            prop_assert_eq!(parsed.code, Some(status));
            let found: Vec<_> = parsed.headers.iter().map(|header| (header.name.as_bytes().to_vec(), header.value.to_vec())).collect();
            prop_assert_eq!(found, headers);
        }
    }
}
