//! Scripted responses: what is accepted, what is refused and where, each limit, and that nothing of it depends on how
//! the bytes were cut into pieces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod http_support;

use http_support::{Outcome, Script, outcome, outcome_of};
use penstock_core::{
    Error,
    http::{Asked, Body, Framing, HeadLimits, HeadStep, Response, Version},
};

const HEAD: Asked = Asked { head: true, connect: false, upgrade: false, transfer_codings: false };
const CONNECT: Asked = Asked { head: false, connect: true, upgrade: false, transfer_codings: false };
const UPGRADE: Asked = Asked { head: false, connect: false, upgrade: true, transfer_codings: false };
const CODINGS: Asked = Asked { head: false, connect: false, upgrade: false, transfer_codings: true };
const GET: Asked = Asked { head: false, connect: false, upgrade: false, transfer_codings: false };

fn head_of(response: &str) -> Response {
    let mut machine = Response::new(HeadLimits::default(), false);
    assert!(matches!(machine.feed_head(response.as_bytes()).unwrap(), HeadStep::Done { .. }));
    machine
}

fn head_error(head: &str) -> String {
    Response::new(HeadLimits::default(), false).feed_head(head.as_bytes()).unwrap_err().to_string()
}

// ---- what is accepted

#[test]
fn framing_follows_from_the_head_and_the_request() {
    let cases: &[(&str, Asked, Framing, bool)] = &[
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", GET, Framing::Length(5), true),
        ("HTTP/1.1 200 OK\r\nContent-Length:5\r\n\r\n", GET, Framing::Length(5), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", GET, Framing::Length(0), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 005\r\n\r\n", GET, Framing::Length(5), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n", GET, Framing::Length(5), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", GET, Framing::Length(5), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775807\r\n\r\n", GET, Framing::Length(i64::MAX as u64), true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", GET, Framing::Chunked, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding:\t CHUNKED \r\n\r\n", GET, Framing::Chunked, true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: , chunked,\r\n\r\n", GET, Framing::Chunked, true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", CODINGS, Framing::Chunked, true),
        ("HTTP/1.1 200 OK\r\n\r\n", GET, Framing::UntilClose, false),
        ("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n\r\n", GET, Framing::UntilClose, false),
        ("HTTP/1.1 200\r\ncontent-length: 1\r\n\r\n", GET, Framing::Length(1), true),
        ("HTTP/1.1 200 \r\ncontent-length: 1\r\n\r\n", GET, Framing::Length(1), true),
        ("HTTP/1.1 999 Beyond\r\ncontent-length: 1\r\n\r\n", GET, Framing::Length(1), true),
        ("HTTP/1.2 200 OK\r\ncontent-length: 1\r\n\r\n", GET, Framing::Length(1), true),
        ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", GET, Framing::Length(1), false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nConnection: Keep-Alive\r\n\r\n", GET, Framing::Length(1), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: x, Close\r\n\r\n", GET, Framing::Length(1), false),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\nconnection: keep-alive\r\n\r\n",
            GET,
            Framing::Length(1),
            false,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", HEAD, Framing::Empty, true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", HEAD, Framing::Empty, true),
        ("HTTP/1.1 200 OK\r\n\r\n", HEAD, Framing::Empty, true),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", GET, Framing::Empty, true),
        ("HTTP/1.1 204 No Content\r\n\r\n", GET, Framing::Empty, true),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", GET, Framing::Empty, true),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", GET, Framing::Empty, false),
        ("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", GET, Framing::Empty, false),
        ("HTTP/1.1 205 Reset\r\ncontent-length: 0\r\n\r\n", GET, Framing::Length(0), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", CONNECT, Framing::Empty, false),
        ("HTTP/1.1 200 OK\r\ncontent-length: x\r\ntransfer-encoding: chunked\r\n\r\n", CONNECT, Framing::Empty, false),
        ("HTTP/1.1 407 Who\r\ncontent-length: 5\r\n\r\n", CONNECT, Framing::Length(5), true),
        ("HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n", UPGRADE, Framing::Empty, false),
    ];
    for &(head, asked, framing, keep_alive) in cases {
        let mut response = Response::new(HeadLimits::default(), asked);
        let step = response.feed_head(head.as_bytes()).unwrap_or_else(|error| panic!("{head:?}: {error}"));
        assert_eq!(step, HeadStep::Done { consumed: head.len() }, "{head:?}");
        assert_eq!(response.framing(), Some(framing), "{head:?}");
        assert_eq!(response.keep_alive(), keep_alive, "{head:?}");
        assert_eq!(response.is_done(), matches!(framing, Framing::Empty | Framing::Length(0)), "{head:?}");
        assert_eq!(response.is_chunked(), framing == Framing::Chunked, "{head:?}");
    }
}

#[test]
fn a_head_shows_what_was_received() {
    let raw = "HTTP/1.0 404 Nicht da \u{fc}\r\nX-One:  a b \t\r\nempty:\r\nblank: \t\r\nx-one: two\r\n\r\n";
    let response = head_of(raw);
    let head = response.head().unwrap();
    assert_eq!((head.version, head.status), (Version::Http10, 404));
    assert_eq!(head.reason(), "Nicht da \u{fc}".as_bytes());
    assert_eq!(head.raw(), raw.as_bytes());
    assert_eq!((head.len(), head.is_empty()), (4, false));
    let fields: Vec<(&[u8], &[u8])> = head.headers().collect();
    let expected: [(&[u8], &[u8]); 4] = [(b"X-One", b"a b"), (b"empty", b""), (b"blank", b""), (b"x-one", b"two")];
    assert_eq!(fields, expected);
    assert_eq!(head.get("x-ONE"), Some(&b"a b"[..]));
    assert_eq!(head.get("empty"), Some(&b""[..]));
    assert_eq!(head.get("x"), None);
    assert!(!head.keep_alive());
}

#[test]
fn a_head_without_fields_or_reason_is_empty() {
    for raw in ["HTTP/1.1 200\r\n\r\n", "HTTP/1.1 200 \r\n\r\n"] {
        let response = head_of(raw);
        let head = response.head().unwrap();
        assert_eq!(head.reason(), b"");
        assert!(head.is_empty());
        assert_eq!(head.headers().count(), 0);
    }
}

#[test]
fn taking_the_head_leaves_the_rest() {
    let mut response = head_of("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n");
    assert_eq!(response.take_head().unwrap().status, 200);
    assert!(response.head().is_none());
    assert_eq!(response.framing(), Some(Framing::Length(2)));
    assert!(response.keep_alive());
    assert_eq!(response.feed_body(b"abc", |_| ()).unwrap(), Body { consumed: 2, done: true });
}

#[test]
fn informational_heads_are_passed_over_and_kept() {
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let response = head_of(&format!("HTTP/1.1 100 Continue\r\n\r\n{early}HTTP/1.1 204 None\r\n\r\n"));
    assert_eq!(response.head().unwrap().status, 204);
    let kept: Vec<(u16, &[u8])> = response.informational().iter().map(|(status, raw)| (*status, &raw[..])).collect();
    assert_eq!(kept, [(100, &b"HTTP/1.1 100 Continue\r\n\r\n"[..]), (103, early.as_bytes())]);
}

#[test]
fn the_length_of_an_informational_head_is_passed_over_only_if_it_can_be_read() {
    let head = |length: &str| format!("HTTP/1.1 103 Early Hints\r\ncontent-length: {length}\r\n\r\n");
    let response = head_of(&format!("{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", head("5, 5")));
    assert_eq!(response.framing(), Some(Framing::Length(2)));
    assert!(head_error(&head("x")).contains("content-length \"x\": not a number"));
    assert!(head_error(&head("5\r\ncontent-length: 6")).contains("differs from another one"));
}

#[test]
fn transfer_codings_are_listed_for_whoever_asked() {
    let raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: Deflate\r\ntransfer-encoding: gzip , chunked\r\n\r\n";
    let mut response = Response::new(HeadLimits::default(), CODINGS);
    response.feed_head(raw).unwrap();
    assert_eq!(response.transfer_codings(), ["deflate", "gzip"]);
    response.reset(CODINGS);
    assert!(response.transfer_codings().is_empty());
}

#[test]
fn progress_is_told_in_bytes() {
    let mut response = Response::new(HeadLimits::default(), false);
    assert_eq!((response.framing(), response.remaining(), response.received()), (None, None, 0));
    response.feed_head(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").unwrap();
    response.feed_body(b"abcd", |_| ()).unwrap();
    assert_eq!((response.remaining(), response.received()), (Some(6), 4));
    response.reset(true);
    assert_eq!((response.framing(), response.remaining(), response.received()), (None, None, 0));
    response.feed_head(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").unwrap();
    assert_eq!(response.remaining(), Some(0));
    response.reset(false);
    response.feed_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    response.feed_body(b"4\r\nab", |_| ()).unwrap();
    assert_eq!((response.remaining(), response.received()), (None, 2));
}

#[test]
fn chunks_of_one_size_and_of_many_are_ranges_of_the_input() {
    let mut response = head_of("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    let input =
        b"3\r\nabc\r\n3\r\ndef\r\n3\r\nghi\r\n02;x=\"a;b\\\"\";y\r\njk\r\n02\r\nlm\r\n02\r\nno\r\n000\r\n\r\nHTTP";
    let mut ranges = Vec::new();
    let body = response.feed_body(input, |range| ranges.push(range)).unwrap();
    assert_eq!(body, Body { consumed: input.len() - 4, done: true });
    let body: Vec<u8> = ranges.iter().flat_map(|range| input[range.clone()].to_vec()).collect();
    assert_eq!(body, b"abcdefghijklmno");
    assert_eq!(ranges.len(), 6);
}

#[test]
fn trailers_are_kept_apart_without_those_that_came_too_late() {
    let mut response = head_of("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    let input = b"1\r\na\r\n0\r\nX-Sum: 1 \r\nHost: evil\r\nset-cookie: a=b\r\nx-sum:2\r\n\r\n";
    assert!(response.feed_body(input, |_| ()).unwrap().done);
    let expected = [("X-Sum", "1"), ("x-sum", "2")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(response.trailers(), expected);
    response.reset(false);
    assert!(response.trailers().is_empty());
    for name in "authorization cache-control connection content-encoding content-range content-type host location \
                 proxy-authenticate set-cookie trailer www-authenticate"
        .split_whitespace()
    {
        let mut response = head_of("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let input = format!("0\r\n{name}: a\r\nx-{name}: b\r\n\r\n");
        assert!(response.feed_body(input.as_bytes(), |_| ()).unwrap().done);
        assert_eq!(response.trailers(), [(format!("x-{name}").into_bytes(), b"b".to_vec())]);
    }
}

#[test]
fn a_done_response_takes_no_more() {
    let mut response = head_of("HTTP/1.1 204 None\r\n\r\n");
    assert_eq!(response.feed_head(b"HTTP").unwrap(), HeadStep::Done { consumed: 0 });
    assert_eq!(response.feed_body(b"HTTP", |_| panic!("no body")).unwrap(), Body { consumed: 0, done: true });
    response.eof().unwrap();
}

#[test]
fn half_a_response_moves_to_another_thread() {
    let mut response = head_of("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    response.feed_body(b"a\r\n01234", |_| ()).unwrap();
    let response = std::thread::spawn(move || {
        assert!(response.feed_body(b"56789\r\n0\r\n\r\n", |_| ()).unwrap().done);
        response
    });
    assert_eq!(response.join().unwrap().received(), 10);
}

// ---- the end of the connection

#[test]
fn a_close_ends_a_body_or_tells_what_is_missing() {
    let cases: &[(&str, &str)] = &[
        ("", "connection closed by the peer before a response"),
        ("\r", "connection closed by the peer inside the response head"),
        ("HTTP/1.1 200 OK\r\n", "connection closed by the peer inside the response head"),
        ("HTTP/1.1 100 Continue\r\n\r\n", "connection closed by the peer inside the response head"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc", "body ended after 3 bytes of 5"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc", "body ended after 3 bytes"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", "body ended after 3 bytes"),
        ("HTTP/1.1 200 OK\r\n\r\nabc", ""),
        ("HTTP/1.1 200 OK\r\n\r\n", ""),
        ("HTTP/1.1 204 None\r\n\r\n", ""),
    ];
    for &(input, expected) in cases {
        let mut response = Response::new(HeadLimits::default(), false);
        if let HeadStep::Done { consumed } = response.feed_head(input.as_bytes()).unwrap() {
            response.feed_body(&input.as_bytes()[consumed..], |_| ()).unwrap();
        }
        let end = response.eof();
        assert_eq!(end.as_ref().map_or_else(ToString::to_string, |()| String::new()), expected, "{input:?}");
        assert_eq!(response.is_done(), end.is_ok(), "{input:?}");
        assert!(!response.keep_alive() || end.is_ok(), "{input:?}");
    }
}

#[test]
fn a_reset_leaves_no_body_complete_that_only_the_connection_ends_though_it_is_heard_of_afterwards() {
    let mut response = head_of("HTTP/1.1 200 OK\r\n\r\n");
    response.feed_body(b"abc", |_| ()).unwrap();
    response.eof().unwrap();
    assert!(response.is_done());
    assert_eq!(response.reset_by_peer().unwrap_err().to_string(), "body ended after 3 bytes");
    let mut response = head_of("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n");
    response.feed_body(b"abc", |_| ()).unwrap();
    response.reset_by_peer().unwrap();
}

// ---- what is refused

const OK: &str = "HTTP/1.1 200 OK\r\n";

#[test]
fn heads_that_two_readers_could_read_differently_are_refused() {
    // (head, what the message says, where)
    let cases: &[(&str, &str, u64)] = &[
        ("SSH-2.0-OpenSSH", r#"status line "SSH-2.0-OpenSSH""#, 0),
        ("http/1.1 200 OK\r\n\r\n", "status line", 0),
        (" HTTP/1.1 200 OK\r\n\r\n", "status line", 0),
        ("\nHTTP/1.1 200 OK\r\n\r\n", "status line", 0),
        ("\r\r\nHTTP/1.1 200 OK\r\n\r\n", "status line", 0),
        ("\r\n HTTP/1.1 200 OK\r\n\r\n", "status line", 2),
        ("HTTP/1.1 100 Continue\r\n\r\nXTTP/1.1 200 OK\r\n\r\n", "status line", 25),
        ("HTTP/2.0 200 OK\r\n\r\n", r#"version in the status line "HTTP/2.0 200 OK""#, 0),
        ("HTTP/0.9 200 OK\r\n\r\n", "version", 0),
        ("HTTP/1.10 200 OK\r\n\r\n", "version", 0),
        ("HTTP/1.1\t200 OK\r\n\r\n", "version", 0),
        ("HTTP/1. 200 OK\r\n\r\n", "version", 0),
        ("HTTP/1.1  200 OK\r\n\r\n", "status code", 0),
        ("HTTP/1.1 20 OK\r\n\r\n", "status code", 0),
        ("HTTP/1.1 2000 OK\r\n\r\n", "status code", 0),
        ("HTTP/1.1 099 OK\r\n\r\n", "status code", 0),
        ("HTTP/1.1 +20 OK\r\n\r\n", "status code", 0),
        ("HTTP/1.1 200\tOK\r\n\r\n", "status code", 0),
        ("HTTP/1.1 200 O\rK\r\n\r\n", r#"control character in the status line "HTTP/1.1 200 O\rK""#, 0),
        ("HTTP/1.1 200 O\0K\r\n\r\n", "control character", 0),
        ("HTTP/1.1 200 OK\r\r\n\r\n", "control character", 0),
        ("HTTP/1.1 101 Switching\r\n\r\n", "unasked switch", 0),
        ("HTTP/1.1 200 OK\n\n", r#"line ends with LF alone after "HTTP/1.1 200 OK""#, 15),
        ("HTTP/1.1 200 OK\r\na: b\nc: d\r\n\r\n", "line ends with LF alone", 21),
        ("HTTP/1.1 200 OK\r\na: b\r\n\n", "line ends with LF alone", 23),
        ("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", r#"folded header line " c""#, 23),
        ("HTTP/1.1 200 OK\r\n a: b\r\n\r\n", r#"folded header line " a: b""#, 17),
        ("HTTP/1.1 200 OK\r\n\ta: b\r\n\r\n", "folded header line", 17),
        ("HTTP/1.1 200 OK\r\n \r\n\r\n", "folded header line", 17),
        ("HTTP/1.1 200 OK\r\na : b\r\n\r\n", r#"whitespace between a header's name and its colon: "a : b""#, 17),
        ("HTTP/1.1 200 OK\r\na\t: b\r\n\r\n", "whitespace between", 17),
        ("HTTP/1.1 200 OK\r\n: b\r\n\r\n", r#"header without a name: ": b""#, 17),
        ("HTTP/1.1 200 OK\r\nab\r\n\r\n", r#"header line without a colon: "ab""#, 17),
        ("HTTP/1.1 200 OK\r\na b: c\r\n\r\n", r#"header name "a b""#, 17),
        ("HTTP/1.1 200 OK\r\na(b): c\r\n\r\n", "header name", 17),
        ("HTTP/1.1 200 OK\r\na\u{e9}: c\r\n\r\n", r#"header name "a\xc3\xa9""#, 17),
        ("HTTP/1.1 200 OK\r\n\0: c\r\n\r\n", "header name", 17),
        (
            "HTTP/1.1 200 OK\r\nok: 1\r\na: b\rc\r\n\r\n",
            r#"control character in the value of the header "a": "\rc""#,
            28,
        ),
        ("HTTP/1.1 200 OK\r\na: b\0c\r\n\r\n", r#""\x00c""#, 21),
        ("HTTP/1.1 200 OK\r\na: \x7f\r\n\r\n", r#""\x7f""#, 20),
        ("HTTP/1.1 200 OK\r\na: b\r\r\n\r\n", r#""\r""#, 21),
        ("HTTP/1.1 200 OK\r\na:\x0b\r\n\r\n", r#""\x0b""#, 19),
    ];
    for &(head, what, at) in cases {
        let mut response = Response::new(HeadLimits::default(), false);
        match response.feed_head(head.as_bytes()) {
            Err(Error::Protocol { what: found, at: found_at }) => {
                assert!(found.contains(what), "{head:?}: {found}");
                assert_eq!(found_at, at, "{head:?}: {found}");
            }
            other => panic!("{head:?}: {other:?}"),
        }
        assert!(!response.keep_alive());
        assert!(matches!(response.feed_head(b"HTTP/1.1 200 OK\r\n\r\n"), Err(Error::Protocol { .. })));
    }
}

#[test]
fn every_byte_in_a_name_and_a_value_is_judged_by_the_grammar() {
    // At several places, as vectorised matching has several paths.
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    for length in [1, 7, 8, 15, 16, 31, 33, 70] {
        for place in [0, length / 2, length - 1] {
            for byte in 0..=255_u8 {
                let mut text = vec![b'x'; length];
                text[place] = byte;
                let value = [&b"HTTP/1.1 200 OK\r\nname: "[..], &text, b"\r\ncontent-length: 0\r\n\r\n"].concat();
                let accepted = Response::new(HeadLimits::default(), false).feed_head(&value).is_ok();
                assert_eq!(accepted, byte == b'\t' || !byte.is_ascii_control(), "value {byte:#x} {place}/{length}");
                if byte != b':' {
                    let name = [&b"HTTP/1.1 200 OK\r\n"[..], &text, b": v\r\ncontent-length: 0\r\n\r\n"].concat();
                    let accepted = Response::new(HeadLimits::default(), false).feed_head(&name).is_ok();
                    assert_eq!(accepted, tchar(byte), "name {byte:#x} {place}/{length}");
                }
            }
        }
    }
}

#[test]
fn lengths_that_are_not_one_number_are_refused() {
    let cases = [
        ("", "not a number"),
        (",", "not a number"),
        ("5,", "not a number"),
        (",5", "not a number"),
        ("+5", "not a number"),
        ("-5", "not a number"),
        ("5 5", "not a number"),
        ("5_0", "not a number"),
        ("0x5", "not a number"),
        ("5.0", "not a number"),
        ("5;5", "not a number"),
        ("\u{665}", "not a number"),
        ("9223372036854775808", "too large"),
        ("18446744073709551621", "too large"),
        ("5, 6", "differs"),
        ("5, 05", "differs"),
        ("5\r\nContent-Length: 6", "differs"),
    ];
    for (length, what) in cases {
        let error = head_error(&format!("{OK}content-length: {length}\r\n\r\n"));
        assert!(error.contains(what), "{length:?}: {error}");
    }
    let error = head_error(&format!("{OK}a: b\r\ncontent-length: 5x\r\n\r\n"));
    assert_eq!(error, r#"not valid HTTP/1.1: content-length "5x": not a number (at byte 23 of the response)"#);
}

#[test]
fn transfer_encodings_that_hide_the_end_of_the_body_are_refused() {
    let cases = [
        ("transfer-encoding: gzip", "does not end with chunked"),
        ("transfer-encoding: ", "names no coding"),
        ("transfer-encoding: chunked\r\ntransfer-encoding: ,", "names no coding"),
        ("transfer-encoding: chunked, gzip", "after chunked"),
        ("transfer-encoding: chunked, chunked", "after chunked"),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", "after chunked"),
        ("transfer-encoding: chunked\r\ntransfer-encoding: identity", "after chunked"),
        ("transfer-encoding: identity", "unknown coding"),
        ("transfer-encoding: xchunked", "unknown coding"),
        ("transfer-encoding: chunked;a=b", "unknown coding"),
        ("transfer-encoding: \"chunked\"", "unknown coding"),
        ("transfer-encoding: chun ked", "unknown coding"),
        ("transfer-encoding: chunked\x0b", "control character"),
        ("transfer-encoding: gzip, chunked", "not asked for"),
        ("transfer-encoding: chunked\r\ncontent-length: 5", "together with content-length"),
        ("content-length: 5\r\ntransfer-encoding: chunked", "together with content-length"),
    ];
    for (fields, what) in cases {
        for asked in [GET, HEAD] {
            let head = format!("{OK}{fields}\r\n\r\n");
            let error = Response::new(HeadLimits::default(), asked).feed_head(head.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(what), "{fields:?}: {error}");
        }
    }
    let error = head_error("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    assert!(error.contains("in an HTTP/1.0 response (at byte 17"), "{error}");
}

#[test]
fn chunks_that_two_readers_could_read_differently_are_refused() {
    let cases = [
        ("\r\n", "chunk size expected", 0),
        ("g\r\n", "chunk size expected", 0),
        ("+5\r\n", "chunk size expected", 0),
        ("-5\r\n", "chunk size expected", 0),
        (" 5\r\n", "chunk size expected", 0),
        ("\t5\r\n", "chunk size expected", 0),
        (";a\r\n", "chunk size expected", 0),
        ("0x5\r\n", r#"chunk size is followed by "x5\r\n""#, 1),
        ("1_0\r\n", "chunk size is followed by", 1),
        ("5 \r\n", "chunk size is followed by", 2),
        ("5 5\r\n", "chunk size is followed by", 2),
        ("5\n", "chunk size is followed by", 1),
        ("5\r5\n", "line ends with CR and", 2),
        ("5\0\r\n", "chunk size is followed by", 1),
        ("8000000000000000\r\n", "too large", 15),
        ("ffffffffffffffff\r\n", "too large", 15),
        ("5;a\n", "chunk extension contains", 3),
        ("5;a\0\r\n", "chunk extension contains", 3),
        ("5;a\ra\r\n", "line ends with CR and", 4),
        ("5;a=\"b\r\n", "chunk extension contains", 6),
        ("5;a=\"\\\r\n", "chunk extension contains", 6),
        ("5;a=\"b\n\"\r\n", "chunk extension contains", 6),
        ("2\r\nabc\r\n", r#"chunk is not followed by CRLF but by "c\r\n""#, 5),
        ("2\r\nab\n", "chunk is not followed by", 5),
        ("2\r\nab\rc", "chunk is not followed by", 6),
        ("2\r\nab2\r\n", "chunk is not followed by", 5),
        ("2\r\nab\r\n2\r\nab\r\n2\nab\r\n", "chunk size is followed by", 15),
        ("0\r\nabc\r\n\r\n", "header line without a colon", 3),
        ("0\r\na: b\n\r\n", "line ends with LF alone", 7),
        ("0\r\na: b\r\n c\r\n\r\n", "folded", 9),
        ("0\r\na : b\r\n\r\n", "whitespace between", 3),
        ("0\r\na: \0\r\n\r\n", "control character", 6),
        ("0\r\nContent-Length: 5\r\n\r\n", r#""Content-Length" in the trailers"#, 3),
        ("0\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n", r#""transfer-encoding" in the trailers"#, 9),
    ];
    let head = format!("{OK}transfer-encoding: chunked\r\n\r\n");
    for (body, what, at) in cases {
        let mut response = head_of(&head);
        match response.feed_body(body.as_bytes(), |_| ()) {
            Err(Error::Protocol { what: found, at: found_at }) => {
                assert!(found.contains(what), "{body:?}: {found}");
                assert_eq!(found_at, head.len() as u64 + at, "{body:?}: {found}");
            }
            other => panic!("{body:?}: {other:?}"),
        }
        assert!(!response.keep_alive());
        assert!(response.feed_body(b"0\r\n\r\n", |_| ()).is_err());
        assert!(response.eof().is_err());
    }
}

#[test]
fn messages_show_what_was_found_escaped_and_clipped() {
    let error = head_error(&format!("{OK}a: \x01{}\r\n\r\n", "é".repeat(100)));
    let shown = format!("\\x01{}\\xc3\"…", r"\xc3\xa9".repeat(19));
    assert!(error.contains(&shown), "{error}");
}

#[test]
fn a_body_before_its_head_is_an_error() {
    assert!(Response::new(HeadLimits::default(), false).feed_body(b"a", |_| ()).is_err());
}

// ---- limits

/// Runs both inputs in one piece and byte by byte: the first keeps to the limit, the second breaks it.
fn limited(limits: &HeadLimits, within: &str, over: &str, setting: &str) {
    for size in [1, 3, usize::MAX] {
        let script =
            |input: &str| outcome(limits, GET, &input.as_bytes().chunks(size.min(input.len())).collect::<Vec<_>>());
        assert!(matches!(script(within), Outcome::Done { .. }), "{setting}: {within:?} {:?}", script(within));
        match script(over) {
            Outcome::TooLong { setting: found, seen, limit } => {
                assert_eq!((found, seen), (setting, limit + 1), "{over:?}");
            }
            other => panic!("{setting}: {over:?}: {other:?}"),
        }
    }
}

#[test]
fn head_bytes_are_limited_over_all_heads() {
    let head = "HTTP/1.1 204 N\r\n\r\n";
    let limits = HeadLimits { head_bytes: head.len(), ..HeadLimits::default() };
    limited(&limits, head, "HTTP/1.1 204 No\r\n\r\n", "Limits.head_bytes");
    limited(&limits, head, "HTTP/1.1 204 No ending in sight", "Limits.head_bytes");
    limited(&limits, head, &format!("\r\n{head}"), "Limits.head_bytes");
    let limits = HeadLimits { head_bytes: 25 + head.len(), ..HeadLimits::default() };
    let early = "HTTP/1.1 100 Continue\r\n\r\n";
    limited(&limits, &format!("{early}{head}"), &format!("{early}\r\n{head}"), "Limits.head_bytes");
}

#[test]
fn headers_are_limited() {
    for most in [0, 1, 31, 32, 33, 256] {
        let limits = HeadLimits { headers: most, ..HeadLimits::default() };
        let head = |count| format!("HTTP/1.1 204 None\r\n{}\r\n", "a: b\r\n".repeat(count));
        limited(&limits, &head(most), &head(most + 1), "Limits.headers");
    }
}

#[test]
fn informational_heads_are_limited() {
    let limits = HeadLimits { informational: 2, ..HeadLimits::default() };
    let heads = |count| format!("{}HTTP/1.1 204 None\r\n\r\n", "HTTP/1.1 103 Early\r\n\r\n".repeat(count));
    limited(&limits, &heads(2), &heads(3), "Limits.informational");
}

#[test]
fn blank_lines_are_limited() {
    let limits = HeadLimits { blank_lines: 2, ..HeadLimits::default() };
    let head = |count| format!("{}HTTP/1.1 204 None\r\n\r\n", "\r\n".repeat(count));
    limited(&limits, &head(2), &head(3), "Limits.blank_lines");
}

fn chunked(body: &str) -> String {
    format!("{OK}transfer-encoding: chunked\r\n\r\n{body}")
}

#[test]
fn chunk_size_digits_are_limited() {
    let limits = HeadLimits { chunk_size_digits: 3, ..HeadLimits::default() };
    limited(
        &limits,
        &chunked("001\r\na\r\n000\r\n\r\n"),
        &chunked("0001\r\na\r\n0\r\n\r\n"),
        "Limits.chunk_size_digits",
    );
}

#[test]
fn chunk_extensions_are_limited_over_all_chunks() {
    let limits = HeadLimits { chunk_extension_bytes: 8, ..HeadLimits::default() };
    limited(
        &limits,
        &chunked("1;a=b\r\na\r\n1 ; c\r\na\r\n0\r\n\r\n"),
        &chunked("1;a=b\r\na\r\n1 ; cc\r\na\r\n0\r\n\r\n"),
        "Limits.chunk_extension_bytes",
    );
    limited(&limits, &chunked("0;a=\"bcd\"\r\n\r\n"), &chunked("0;a=\"\\bcde"), "Limits.chunk_extension_bytes");
}

#[test]
fn trailers_are_limited_in_bytes_and_in_number() {
    let limits = HeadLimits { trailer_bytes: 8, ..HeadLimits::default() };
    limited(&limits, &chunked("0\r\na: b\r\n\r\n"), &chunked("0\r\na: bc\r\n\r\n"), "Limits.trailer_bytes");
    let limits = HeadLimits { trailers: 1, ..HeadLimits::default() };
    limited(&limits, &chunked("0\r\na: b\r\n\r\n"), &chunked("0\r\na: b\r\na: b\r\n\r\n"), "Limits.trailers");
}

#[test]
fn the_defaults_are_as_documented() {
    let limits = HeadLimits::default();
    assert_eq!((limits.head_bytes, limits.headers, limits.informational, limits.blank_lines), (65536, 256, 16, 4));
    assert_eq!((limits.chunk_size_digits, limits.chunk_extension_bytes), (16, 4096));
    assert_eq!((limits.trailer_bytes, limits.trailers), (16384, 64));
}

// ---- cuts

/// Good and bad, each followed by bytes of the next response where that is possible.
fn corpus() -> Vec<Script> {
    let next = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nz";
    let good = [
        (GET, format!("{OK}content-length: 5\r\n\r\nhello{next}")),
        (GET, format!("\r\n\r\n{OK}content-length: 0\r\nx: y\r\n\r\n{next}")),
        (
            GET,
            format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\na: b\r\n\r\n{OK}content-length: 2\r\n\r\nok{next}"
            ),
        ),
        (GET, chunked(&format!("5\r\nhello\r\n5\r\nworld\r\n5\r\nagain\r\n1;a=\"x;\\\"\"\r\n!\r\n0\r\n\r\n{next}"))),
        (GET, chunked(&format!("00a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\nx: y\r\nhost: z\r\n\r\n{next}"))),
        (GET, chunked(&format!("2\r\n\r\n\r\n2\r\n2\r\r\n2\r\n\n0\r\n0\r\n\r\n{next}"))),
        (HEAD, format!("{OK}content-length: 5\r\n\r\n{next}")),
        (GET, format!("HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n{next}")),
        (CONNECT, format!("{OK}\r\ntunnelled")),
        (UPGRADE, "HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\nother protocol".to_owned()),
        (CODINGS, format!("{OK}transfer-encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n{next}")),
        (GET, format!("{OK}\r\nuntil close")),
        (GET, "HTTP/1.0 200 OK\r\nserver: old\r\n\r\nuntil\r\n\r\nclose".to_owned()),
    ];
    let bad = [
        "",
        "\r\n",
        "\r\n\r\n\r\n\r\n\r\n\r\n",
        "XTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length",
        "HTTP/1.1 101 Switching\r\n\r\n",
    ];
    let bad_chunks = [
        "2\r\nab\r\n2\r\nabc\r\n0\r\n\r\n",
        "2\r\nab\r\n2\r\nab\r\n2 \r\nab\r\n0\r\n\r\n",
        "2\r\nab\r\n2\r\nab\n2\r\nab\r\n0\r\n\r\n",
        "2\r\nab\r\n2\r\nab\r\n2",
        "00000000000000002\r\nab\r\n",
        "ffffffffffffffff\r\nab\r\n",
        "2;a=\"b\r\n\"\r\nab\r\n",
        "0\r\ntransfer-encoding: chunked\r\n\r\n",
        "0\r\na: b\n\r\n",
        "0\r\na: b\r\n",
    ];
    let good = good.into_iter().map(|(asked, input)| Script { asked, input: input.into_bytes() });
    let bad = bad.into_iter().map(str::to_owned).chain(bad_chunks.into_iter().map(chunked));
    good.chain(bad.map(|input| Script { asked: GET, input: input.into_bytes() })).collect()
}

#[test]
fn every_cut_gives_the_same_outcome() {
    for script in corpus() {
        let whole = outcome_of(&script, &[]);
        let length = script.input.len();
        for first in 0..=length {
            assert_eq!(outcome_of(&script, &[first]), whole, "{:?} cut at {first}", script.text());
            for second in (first..=length).step_by(3) {
                assert_eq!(outcome_of(&script, &[first, second]), whole, "{:?} at {first}, {second}", script.text());
            }
        }
        let everywhere: Vec<usize> = (1..length).collect();
        assert_eq!(outcome_of(&script, &everywhere), whole, "{:?} byte by byte", script.text());
    }
}

#[test]
fn a_second_response_in_the_same_buffer_starts_where_the_first_ended() {
    let next = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nz";
    for script in corpus() {
        let Outcome::Done { consumed, keep_alive: true, .. } = outcome_of(&script, &[]) else { continue };
        assert_eq!(&script.input[consumed..], next.as_bytes(), "{:?}", script.text());
    }
}

#[test]
fn one_machine_serves_response_after_response() {
    let mut response = Response::new(HeadLimits::default(), false);
    let scripts = corpus();
    for _ in 0..2 {
        for script in &scripts {
            response.reset(script.asked);
            assert_eq!(
                http_support::run(&mut response, &[&script.input]),
                outcome_of(script, &[]),
                "{:?}",
                script.text()
            );
        }
    }
}

#[test]
fn a_machine_that_was_reset_is_as_a_new_one() {
    let new = format!("{:?}", Response::new(HeadLimits::default(), GET));
    for script in corpus() {
        let mut response = Response::new(HeadLimits::default(), script.asked);
        http_support::run(&mut response, &script.input.chunks(1).collect::<Vec<_>>());
        response.reset(GET);
        assert_eq!(format!("{response:?}"), new, "{:?}", script.text());
    }
}
