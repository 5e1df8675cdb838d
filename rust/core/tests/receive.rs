//! The receiver under a scripted transport: however the bytes are cut, whichever connections share the scratch, the
//! body is what was sent, and what is retained of it is little more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod bodies;

use bodies::{body, coded, contents, text};
use penstock_core::Error;
use penstock_core::body::digest::Algorithm;
use penstock_core::body::{Budget, Errand, FilePool, Pools, State, Tunables};
use penstock_core::codec::{BACKLOG, Coding, INLINE, When, undecoded};
use penstock_core::http::Asked;
use penstock_core::receive::{Event, Plan, Received, Receiver, Scratch};
use proptest::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// The slab pool's figures are the process's.
static ALONE: Mutex<()> = Mutex::new(());

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    framed(body, "", Framed::Chunks(size))
}

fn by_length(body: &[u8]) -> Vec<u8> {
    framed(body, "", Framed::Length)
}

fn plan(max_body_ram: u64, digests: bool) -> Plan {
    let digests = if digests { vec![Algorithm::Sha256] } else { vec![] };
    Plan {
        asked: Asked::default(),
        limits: Arc::default(),
        tunables: Arc::new(Tunables { max_body_ram, max_body: 64 << 20, digests, ..Tunables::default() }),
        budget: Budget::new(None, None, None),
        files: None,
        direct: true,
        drain: false,
        expect: false,
        tell_head: false,
        stream: false,
        decode: When::Never,
    }
}

/// What a transport does with at most `most` bytes; returns how many it received and what is to be done.
#[allow(unsafe_code)]
fn receive(receiver: &mut Receiver, scratch: &mut Scratch, wire: &[u8], most: usize) -> (usize, Result<Event, Error>) {
    let mut lend = || match receiver.window().unwrap() {
        Some(window) => window,
        None => scratch.window().unwrap().0,
    };
    // A transport may ask and then receive nothing.
    assert!(!lend().is_empty());
    let window = lend();
    assert!(!window.is_empty());
    let n = wire.len().min(most).min(window.len());
    // SAFETY: the window was lent for this.
    unsafe { std::ptr::copy_nonoverlapping(wire.as_ptr(), window.as_mut_ptr(), n) };
    (n, receiver.received(scratch, n))
}

fn work(receiver: &mut Receiver, mut event: Event, here: bool) -> Event {
    while event == Event::Work {
        event = if here {
            receiver.work_here(None).unwrap()
        } else {
            Errand::new(receiver.sink().unwrap(), receiver.is_complete()).unwrap().run().unwrap();
            receiver.next()
        };
    }
    event
}

fn run(
    receiver: &mut Receiver,
    scratch: &mut Scratch,
    wire: &[u8],
    cuts: &mut impl FnMut() -> usize,
    here: bool,
) -> Received {
    let mut at = 0;
    loop {
        let (n, event) = receive(receiver, scratch, &wire[at..], cuts());
        at += n;
        if work(receiver, event.unwrap(), here) == Event::Done {
            assert_eq!(at, wire.len());
            return receiver.finish().unwrap();
        }
    }
}

#[test]
fn a_large_body_is_kept_where_it_was_received() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for wire in [chunked(&body(3 << 20), 8192), by_length(&body(3 << 20))] {
        let mut receiver = Receiver::default();
        let mut scratch = Scratch::default();
        receiver.begin(plan(u64::MAX, false));
        let received = run(&mut receiver, &mut scratch, &wire, &mut || usize::MAX, true);
        assert!(contents(&received.body) == body(3 << 20));
        let State::Ram(pieces) = received.body.state() else { panic!("in memory") };
        assert!(pieces.len() <= 3 * (1 << 20) / 8192 + 32, "{}", pieces.len());
        assert!(received.reusable);
    }
}

#[test]
fn what_is_retained_is_at_most_a_quarter_more_than_the_body() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for len in [0, 1, 1000, 60_000, 66_000, 100_000, 255_000, 263_000, 400_000, 1_100_000, 3_200_000] {
        for wire in [chunked(&body(len), 8192), chunked(&body(len), 100), by_length(&body(len))] {
            for most in [1500, 70_000, usize::MAX] {
                let mut receiver = Receiver::default();
                let mut scratch = Scratch::default();
                receiver.begin(plan(u64::MAX, false));
                let received = run(&mut receiver, &mut scratch, &wire, &mut || most, true);
                drop((receiver, scratch));
                let held = Pools::current().slabs.stats().lent as usize;
                let State::Ram(pieces) = received.body.state() else { panic!("in memory") };
                assert!(held <= len + len / 4 + 4096, "{len} bytes by {most}: {held} held");
                assert!(pieces.len() * 32 <= len / 16 + 4096, "{len}: {} pieces", pieces.len());
                assert!(contents(&received.body) == body(len));
            }
        }
    }
}

#[test]
fn a_scratch_that_becomes_a_body_s_slab_counts_whole() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut receiver = Receiver::default();
    let plan = plan(u64::MAX, false);
    let budget = plan.budget.clone();
    receiver.begin(plan);
    receive(&mut receiver, &mut Scratch::default(), &by_length(&body(3 << 20)), 100_000).1.unwrap();
    assert_eq!(budget.meter(penstock_core::Resource::Ram).used(), 256 << 10);
}

#[test]
fn a_window_that_slices_of_a_failed_body_lie_in_is_nobodys_scratch() {
    let mut scratch = Scratch::default();
    let mut plan = plan(u64::MAX, false);
    plan.tunables = Arc::new(Tunables { max_body_ram: 50_000, max_body: 50_000, ..Tunables::default() });
    let mut receiver = Receiver::default();
    receiver.begin(plan.clone());
    let wire = chunked(&body(100_000), 10_000);
    let (_, event) = receive(&mut receiver, &mut scratch, &wire[..90_000], usize::MAX);
    assert!(matches!(event, Err(Error::BodyTooLong { .. })));
    let partial = receiver.give_up().unwrap().lock().salvage();
    // The next response overwrites the scratch, and only that.
    receiver.begin(plan);
    run(&mut receiver, &mut scratch, &by_length(&[b'x'; 40_000]), &mut || usize::MAX, true);
    assert!(!partial.is_empty() && body(100_000).starts_with(&contents(&partial)));
}

#[test]
fn bytes_behind_a_response_are_noticed_whenever_they_come() {
    let mut scratch = Scratch::default();
    let mut wire = by_length(b"abc");
    wire.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    let mut receiver = Receiver::default();
    receiver.begin(plan(100, false));
    let (_, event) = receive(&mut receiver, &mut scratch, &wire, usize::MAX);
    assert_eq!(event.unwrap(), Event::Done);
    assert!(!receiver.finish().unwrap().reusable);

    let mut receiver = Receiver::default();
    receiver.begin(plan(100, false));
    assert!(run(&mut receiver, &mut scratch, &by_length(b"abc"), &mut || usize::MAX, true).reusable);
    assert!(!receiver.has_excess());
    assert_eq!(receive(&mut receiver, &mut scratch, b"x", usize::MAX).1.unwrap(), Event::Close);
    assert!(receiver.has_excess());
}

#[test]
fn a_body_that_only_its_connection_ends_is_cut_if_a_reset_is_heard_of_after_the_end() {
    for (how, is_cut) in [(Framed::Close, true), (Framed::Length, false)] {
        let mut receiver = Receiver::default();
        receiver.begin(plan(100, false));
        receive(&mut receiver, &mut Scratch::default(), &framed(b"abc", "", how), usize::MAX).1.unwrap();
        assert_eq!(receiver.eof(false).unwrap(), Event::Done);
        assert_eq!(matches!(receiver.eof(true), Err(Error::Truncated { received: 3, expected: None })), is_cut);
        assert_eq!(receiver.finish().is_err(), is_cut);
    }
}

#[test]
fn a_body_announced_too_long_is_refused_and_one_that_grows_too_long_keeps_what_came() {
    let mut scratch = Scratch::default();
    let tight = || {
        let mut plan = plan(10, false);
        plan.tunables = Arc::new(Tunables { max_body_ram: 10, max_body: 20, ..Tunables::default() });
        plan
    };
    let mut receiver = Receiver::default();
    receiver.begin(tight());
    let (_, event) = receive(&mut receiver, &mut scratch, &by_length(&body(21)), usize::MAX);
    assert!(matches!(event, Err(Error::ContentLengthTooLong { seen: 21, limit: 20 })));

    receiver.begin(tight());
    let wire = chunked(&body(40), 15);
    let (n, event) = receive(&mut receiver, &mut scratch, &wire, 70);
    work(&mut receiver, event.unwrap(), true);
    let (_, event) = receive(&mut receiver, &mut scratch, &wire[n..], usize::MAX);
    assert!(matches!(event, Err(Error::BodyTooLong { limit: 20, .. })));
    let sink = receiver.give_up().unwrap();
    let partial = contents(&sink.lock().salvage());
    assert!(!partial.is_empty() && body(40).starts_with(&partial), "{partial:?}");
}

#[test]
fn a_body_for_a_file_can_be_handed_over_with_all_that_came() {
    let mut scratch = Scratch::default();
    for excess in [false, true] {
        let mut receiver = Receiver::default();
        receiver.begin(Plan { drain: true, ..plan(1000, false) });
        let wire = by_length(&body(300_000));
        let (n, event) = receive(&mut receiver, &mut scratch, &wire, 100_000);
        assert_eq!(event.unwrap(), Event::Drain);
        let mut away = receiver.hand_over().unwrap();
        away.sink.write_through(&mut [std::io::IoSlice::new(&wire[n..])]).unwrap();
        away.response.feed_body(&wire[n..], |_| ()).unwrap();
        receiver.take_back(away, excess);
        assert_eq!(receiver.next(), Event::Done);
        let received = receiver.finish().unwrap();
        assert!(received.reusable != excess && contents(&received.body) == body(300_000));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn however_bytes_are_cut_the_body_is_what_was_sent(
        len in 0usize..400_000,
        chunk in prop_oneof![Just(0usize), 1usize..64, 3000usize..10_000, Just(100_000)],
        ram in prop_oneof![Just(0u64), 1u64..300_000, Just(u64::MAX)],
        cuts in prop::collection::vec(prop_oneof![1usize..100, 1usize..9000, 9000usize..300_000], 1..8),
        here in any::<bool>(),
        digests in any::<bool>(),
        pooled in any::<bool>(),
    ) {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let len = if chunk > 0 && chunk < 64 { len / 16 } else { len };
        let sent = body(len);
        let wire = if chunk == 0 { by_length(&sent) } else { chunked(&sent, chunk) };
        let mut scratch = Scratch::default();
        let mut other = Receiver::default();
        other.begin(plan(100, false));
        let mut receiver = Receiver::default();
        let mut index = 0;
        let files = pooled.then(|| FilePool::new(1 << 30, std::time::Duration::from_secs(60)));
        for _ in 0..3 {
            receiver.begin(Plan {
                files: files.clone(),
                budget: Budget::shared(),
                direct: here,
                ..plan(ram, digests)
            });
            let mut cut = || { index += 1; cuts[index % cuts.len()].max(len / 500) };
            let received = run(&mut receiver, &mut scratch, &wire, &mut cut, here);
            prop_assert!(contents(&received.body) == sent);
            prop_assert_eq!(received.body.is_file(), len as u64 > ram);
            prop_assert_eq!(received.body.digests().len(), usize::from(digests));
            // Another connection uses the same scratch in between, without an end in sight.
            receive(&mut other, &mut scratch, b"HTTP/1.1 200 OK\r\ncontent-", 10).1.ok();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Framed {
    Length,
    Chunks(usize),
    Close,
}

fn framed(body: &[u8], fields: &str, how: Framed) -> Vec<u8> {
    match how {
        Framed::Length => {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}content-length: {}\r\n\r\n", body.len());
            [head.as_bytes(), body].concat()
        }
        Framed::Chunks(size) => {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}transfer-encoding: chunked\r\n\r\n");
            [head.as_bytes(), &bodies::chunked(body, size)].concat()
        }
        Framed::Close => [format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes(), body].concat(),
    }
}

/// Receives the pieces, then the end if the framing needs it.
fn run_coded(plan: Plan, pieces: &[&[u8]], here: bool) -> Result<Received, (Error, Vec<u8>)> {
    let mut receiver = Receiver::default();
    let mut scratch = Scratch::default();
    receiver.begin(plan);
    let mut result = Ok(Event::More);
    'all: for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (n, event) = receive(&mut receiver, &mut scratch, rest, usize::MAX);
            rest = &rest[n..];
            result = event.and_then(|event| try_work(&mut receiver, event, here));
            if !matches!(result, Ok(Event::More)) {
                break 'all;
            }
        }
    }
    if matches!(result, Ok(Event::More)) {
        result = receiver.eof(false).and_then(|event| try_work(&mut receiver, event, here));
    }
    match result {
        Ok(Event::Done) => Ok(receiver.finish().unwrap()),
        Ok(event) => panic!("{event:?}"),
        Err(error) => {
            let sink = receiver.give_up();
            Err((error, sink.map_or(Vec::new(), |sink| contents(&sink.lock().salvage()))))
        }
    }
}

fn try_work(receiver: &mut Receiver, mut event: Event, here: bool) -> Result<Event, Error> {
    while event == Event::Work {
        event = if here {
            receiver.work_here(None)?
        } else {
            (receiver.take_work().unwrap().run)()?;
            receiver.next()
        };
    }
    Ok(event)
}

fn decoding(max_body_ram: u64, max_body: u64) -> Plan {
    let mut plan = Plan { decode: When::Arriving, ..plan(max_body_ram, false) };
    plan.tunables = Arc::new(Tunables { max_body_ram, max_body, ..Tunables::default() });
    plan
}

const FRAMED: [Framed; 4] = [Framed::Length, Framed::Chunks(7), Framed::Chunks(1000), Framed::Close];

fn fields(codings: &[Coding]) -> String {
    codings.iter().map(|coding| format!("content-encoding: {}\r\n", coding.name())).collect()
}

#[test]
fn a_coded_body_is_decoded_in_every_framing_to_every_store_wherever_it_is_cut() {
    let sent = text(700);
    let stacks = [&[Coding::Gzip][..], &[Coding::Deflate], &[Coding::Br], &[Coding::Zstd], &[Coding::Br, Coding::Gzip]];
    for codings in stacks {
        for how in FRAMED {
            let wire = framed(&coded(&sent, codings), &fields(codings), how);
            for ram in [0, 1 << 20] {
                for cut in 1..wire.len() {
                    let received = run_coded(decoding(ram, 1 << 20), &[&wire[..cut], &wire[cut..]], cut % 2 == 0);
                    let Ok(received) = received else { panic!("{codings:?} {how:?} cut at {cut}") };
                    assert!(contents(&received.body) == sent, "{codings:?} {how:?} cut at {cut}");
                    assert_eq!(received.codings, codings);
                    assert_eq!(received.body.is_file(), ram == 0);
                    assert_eq!(received.reusable, !matches!(how, Framed::Close));
                }
            }
        }
    }
}

#[test]
fn a_cut_coded_body_is_never_a_shorter_one() {
    let sent = text(700);
    for coding in Coding::ALL {
        let whole = coded(&sent, &[coding]);
        for how in FRAMED {
            for len in 0..whole.len() {
                let wire = framed(&whole[..len], &fields(&[coding]), how);
                match run_coded(decoding(1 << 20, 1 << 20), &[&wire], true) {
                    Err((Error::CutCoding { received, .. }, partial)) => {
                        assert_eq!(received, len as u64);
                        assert!(sent.starts_with(&partial));
                    }
                    Err((error, _)) => panic!("{coding:?} {how:?} {len}: {error}"),
                    // Nothing, in a framing that says so, is nothing.
                    Ok(received) => {
                        assert!(len == 0 && !matches!(how, Framed::Close), "{coding:?} {how:?} {len}");
                        assert!(received.body.is_empty() && received.codings.is_empty());
                    }
                }
            }
        }
    }
}

#[test]
fn a_transfer_coding_is_decoded_before_a_content_coding() {
    let sent = text(5000);
    let wire = chunked(&coded(&sent, &[Coding::Br, Coding::Gzip]), 100);
    let head = "HTTP/1.1 200 OK\r\ncontent-encoding: BR\r\ntransfer-encoding: GZip, chunked\r\n\r\n";
    let wire = [head.as_bytes(), &wire["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".len()..]].concat();
    let mut plan = decoding(1 << 20, 1 << 20);
    plan.asked.transfer_codings = true;
    let Ok(received) = run_coded(plan.clone(), &[&wire], true) else { panic!("refused") };
    assert!(contents(&received.body) == sent);
    assert_eq!(received.codings, [Coding::Br, Coding::Gzip]);
    plan.decode = When::Never;
    let Ok(raw) = run_coded(plan, &[&wire], true) else { panic!("refused") };
    assert!(contents(&raw.body) == coded(&sent, &[Coding::Br, Coding::Gzip]));
    assert!(raw.codings.is_empty());
}

#[test]
fn an_unknown_coding_is_refused_with_the_head_unless_the_body_is_left_as_it_is() {
    let wire = framed(b"whatever", "content-encoding: gzip, compress\r\n", Framed::Length);
    for decode in [When::Arriving, When::After] {
        let (error, _) = run_coded(Plan { decode, ..decoding(100, 100) }, &[&wire], true).err().unwrap();
        assert!(matches!(&error, Error::UnsupportedEncoding { coding } if coding == "compress"), "{error}");
    }
    let Ok(raw) = run_coded(plan(100, false), &[&wire], true) else { panic!("refused") };
    assert_eq!(contents(&raw.body), b"whatever");
}

#[test]
fn a_body_to_be_decoded_afterwards_is_stored_as_it_comes() {
    let raw = coded(&text(500), &[Coding::Zstd]);
    let wire = framed(&raw, "content-encoding: zstd\r\n", Framed::Chunks(100));
    let Ok(received) = run_coded(Plan { decode: When::After, ..decoding(1 << 20, 1 << 20) }, &[&wire], true) else {
        panic!("refused")
    };
    assert_eq!((contents(&received.body), received.codings), (raw, vec![Coding::Zstd]));
}

#[test]
fn a_response_without_a_body_has_no_coding() {
    for head in
        ["HTTP/1.1 304 Not Modified\r\n", "HTTP/1.1 204 No Content\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"]
    {
        let wire = format!("{head}content-encoding: gzip, compress\r\n\r\n");
        let Ok(received) = run_coded(decoding(100, 100), &[wire.as_bytes()], true) else { panic!("{head}") };
        assert!(received.body.is_empty() && received.codings.is_empty());
    }
}

#[test]
fn at_most_64_kib_are_decoded_on_the_receiving_thread() {
    let sent = vec![b'x'; 8 << 20];
    for coding in Coding::ALL {
        let wire = framed(&coded(&sent, &[coding]), &fields(&[coding]), Framed::Length);
        let mut receiver = Receiver::default();
        let mut scratch = Scratch::default();
        receiver.begin(decoding(u64::MAX, u64::MAX));
        let (n, event) = receive(&mut receiver, &mut scratch, &wire, usize::MAX);
        assert_eq!((n, event.unwrap()), (wire.len(), Event::Work), "{coding:?}");
        assert!(receiver.sink().unwrap().lock().len() <= INLINE, "{coding:?}");
        // A turn is bounded, too, so that others have theirs.
        let mut turns = 0;
        while receiver.next() == Event::Work {
            let before = receiver.sink().unwrap().lock().len();
            (receiver.take_work().unwrap().run)().unwrap();
            assert!(receiver.sink().unwrap().lock().len() - before <= 2 << 20, "{coding:?}");
            turns += 1;
        }
        assert!(turns >= 4, "{coding:?}: {turns}");
        assert!(contents(&receiver.finish().unwrap().body) == sent);
    }
}

#[test]
fn of_a_body_that_is_announced_as_large_nothing_is_decoded_on_the_receiving_thread() {
    let sent = text(1 << 20);
    let raw = coded(&sent, &[Coding::Gzip]);
    for (how, here) in [(Framed::Length, false), (Framed::Close, true)] {
        let wire = framed(&raw, "content-encoding: gzip\r\n", how);
        let mut receiver = Receiver::default();
        receiver.begin(decoding(u64::MAX, u64::MAX));
        receive(&mut receiver, &mut Scratch::default(), &wire, 2000).1.unwrap();
        assert_eq!(receiver.sink().unwrap().lock().is_empty(), !here, "{how:?}");
    }
}

#[test]
fn of_br_which_can_be_made_to_take_long_little_is_decoded_on_the_receiving_thread() {
    use Coding::{Br, Gzip, Zstd};
    // 4 and 32 KiB as they come are the bounds.
    let (page, large) = (text(6000), text(40_000));
    for (codings, sent, here) in [
        (&[Br][..], &page, true),
        (&[Br], &large, false),
        (&[Gzip], &large, true),
        (&[Zstd], &large, true),
        (&[Br, Gzip], &page, false),
        (&[Gzip, Br], &page, false),
        (&[Gzip, Zstd], &page, true),
    ] {
        let raw = coded(sent, codings);
        assert_eq!(raw.len() > 4 << 10, sent.len() > 6000, "{codings:?}: {}", raw.len());
        for how in [Framed::Length, Framed::Chunks(1000)] {
            let wire = framed(&raw, &fields(codings), how);
            let mut receiver = Receiver::default();
            receiver.begin(decoding(u64::MAX, u64::MAX));
            let (n, event) = receive(&mut receiver, &mut Scratch::default(), &wire, usize::MAX);
            let expected = if here { Event::Done } else { Event::Work };
            assert_eq!((n, event.unwrap()), (wire.len(), expected), "{codings:?} {how:?}");
            if !here {
                assert!(receiver.sink().unwrap().lock().is_empty(), "{codings:?} {how:?}");
                (receiver.take_work().unwrap().run)().unwrap();
            }
            assert!(contents(&receiver.finish().unwrap().body) == *sent);
        }
    }
}

#[test]
fn of_a_body_that_gives_nothing_no_more_is_taken_in_on_the_receiving_thread() {
    // Members without content, for each of which a decoder is made.
    let raw = coded(b"", &[Coding::Gzip]).repeat(10_000);
    let wire = framed(&raw, "content-encoding: gzip\r\n", Framed::Chunks(1000));
    let mut receiver = Receiver::default();
    let mut scratch = Scratch::default();
    receiver.begin(decoding(u64::MAX, u64::MAX));
    let mut at = 0;
    let event = loop {
        let (n, event) = receive(&mut receiver, &mut scratch, &wire[at..], 2000);
        at += n;
        match event.unwrap() {
            Event::More => {}
            event => break event,
        }
    };
    assert_eq!((event, at < wire.len() / 2), (Event::Work, true), "{at}");
}

#[test]
fn what_two_codings_give_each_other_is_decoded_in_turns_too() {
    // Members without content, of which next to nothing is left: a small body, and megabytes to be gone through.
    let members = coded(b"", &[Coding::Gzip]).repeat(150_000);
    let raw = coded(&members, &[Coding::Zstd]);
    assert!(raw.len() < 16 << 10, "{}", raw.len());
    let wire = framed(&raw, &fields(&[Coding::Gzip, Coding::Zstd]), Framed::Length);
    let mut receiver = Receiver::default();
    receiver.begin(decoding(u64::MAX, u64::MAX));
    let (n, event) = receive(&mut receiver, &mut Scratch::default(), &wire, usize::MAX);
    assert_eq!((n, event.unwrap()), (wire.len(), Event::Work));
    let mut turns = 0;
    while receiver.next() == Event::Work {
        (receiver.take_work().unwrap().run)().unwrap();
        turns += 1;
    }
    assert!(turns >= 2, "{turns}");
    assert!(receiver.finish().unwrap().body.is_empty());
}

#[test]
fn what_is_decoded_into_memory_only_computes() {
    let wire = framed(&coded(&text(1 << 20), &[Coding::Gzip]), "content-encoding: gzip\r\n", Framed::Length);
    for (max_body_ram, computes) in [(u64::MAX, true), (0, false)] {
        let mut receiver = Receiver::default();
        receiver.begin(decoding(max_body_ram, u64::MAX));
        let (_, event) = receive(&mut receiver, &mut Scratch::default(), &wire, usize::MAX);
        assert_eq!(event.unwrap(), Event::Work);
        assert_eq!(receiver.take_work().unwrap().computes, computes);
    }
}

#[test]
fn while_decoders_lag_behind_a_turn_receives_little_and_a_body_waits_with_little() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let wire = framed(&coded(&text(8 << 20), &[Coding::Gzip]), "content-encoding: gzip\r\n", Framed::Length);
    let mut scratch = Scratch::default();
    let mut fill = |most: usize| {
        let mut receiver = Receiver::default();
        receiver.begin(decoding(u64::MAX, u64::MAX));
        let (mut at, mut largest, mut work) = (0, 0, None);
        while at < most {
            let (n, event) = receive(&mut receiver, &mut scratch, &wire[at..], usize::MAX);
            (at, largest) = (at + n, largest.max(n));
            match event.unwrap() {
                Event::Work => work = receiver.take_work(),
                Event::Pause => break,
                event => assert_eq!(event, Event::More),
            }
        }
        (receiver, work, at, largest)
    };
    let before = undecoded();
    let one = fill(usize::MAX);
    assert!(one.2 > BACKLOG && undecoded() - before > BACKLOG, "{} at hand", one.2);
    let (other, work, at, largest) = fill(usize::MAX);
    assert_eq!(largest, 64 << 10);
    // What one decoding took, and what the next one will: each a window, and another as the head lay in the first.
    assert!(at <= 4 << 16 && other.is_crowded(), "{at}");
    drop((one, work, other));
    assert_eq!(undecoded(), before);
    assert!(fill(1).3 > 64 << 10);
}

#[test]
fn while_a_turn_is_out_what_arrives_is_queued_up_to_a_bound() {
    let sent = text(6 << 20);
    let wire = framed(&coded(&sent, &[Coding::Gzip]), "content-encoding: gzip\r\n", Framed::Chunks(10_000));
    let mut receiver = Receiver::default();
    let mut scratch = Scratch::default();
    receiver.begin(decoding(u64::MAX, u64::MAX));
    let (mut at, mut out) = (0, None);
    loop {
        let (n, event) = receive(&mut receiver, &mut scratch, &wire[at..], usize::MAX);
        at += n;
        match event.unwrap() {
            Event::Work => out = receiver.take_work(),
            Event::More => {}
            Event::Pause => break,
            event => panic!("{event:?}"),
        }
    }
    assert!(receiver.is_crowded() && at < (2 << 20), "{at}");
    // Dropped unrun, it is undone.
    drop(out);
    loop {
        while receiver.next() == Event::Work {
            (receiver.take_work().unwrap().run)().unwrap();
        }
        if receiver.next() == Event::Done {
            break;
        }
        at += receive(&mut receiver, &mut scratch, &wire[at..], usize::MAX).0;
    }
    assert!(contents(&receiver.finish().unwrap().body) == sent);
}

#[test]
fn what_comes_out_and_what_goes_in_is_bounded() {
    let sent = text(4000);
    for coding in Coding::ALL {
        for how in FRAMED {
            let wire = framed(&coded(&sent, &[coding]), &fields(&[coding]), how);
            let (error, partial) = run_coded(decoding(3999, 3999), &[&wire], true).err().unwrap();
            assert!(
                matches!(error, Error::DecodedTooLong { seen: 4000, limit: 3999, .. }),
                "{coding:?} {how:?}: {error}"
            );
            assert!(partial == sent[..3999], "{coding:?} {how:?}");
            assert!(run_coded(decoding(4000, 4000), &[&wire], true).is_ok(), "{coding:?} {how:?}");
        }
    }
    // Members without content decode to nothing for ever.
    let nothing = coded(b"", &[Coding::Gzip]).repeat(1000);
    for (how, announced) in [(Framed::Length, true), (Framed::Chunks(500), false), (Framed::Close, false)] {
        let wire = framed(&nothing, "content-encoding: gzip\r\n", how);
        match run_coded(decoding(5000, 5000), &[&wire], true).err().unwrap().0 {
            Error::ContentLengthTooLong { limit: 5000, .. } => assert!(announced),
            Error::BodyTooLong { seen: 5001, limit: 5000 } => assert!(!announced),
            error => panic!("{how:?}: {error}"),
        }
    }
}

#[test]
fn what_was_decoded_before_a_fault_is_kept_whatever_thread_decodes() {
    let sent = text(1 << 20);
    for coding in Coding::ALL {
        let wire = framed(&[&coded(&sent, &[coding])[..], b"junk"].concat(), &fields(&[coding]), Framed::Length);
        for here in [true, false] {
            let (error, partial) = run_coded(decoding(u64::MAX, u64::MAX), &[&wire], here).err().unwrap();
            assert!(matches!(error, Error::Decode { .. } | Error::CutCoding { .. }), "{coding:?}: {error}");
            assert!(partial == sent, "{coding:?}: {}", partial.len());
        }
    }
}

#[test]
fn what_is_retained_of_a_decoded_body_is_at_most_a_quarter_more() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for len in [1, 1000, 66_000, 100_000, 400_000, 1_100_000, 3_200_000] {
        let wire = framed(&coded(&text(len), &[Coding::Zstd]), "content-encoding: zstd\r\n", Framed::Chunks(8192));
        let pieces: Vec<&[u8]> = wire.chunks(30_000).collect();
        let Ok(received) = run_coded(decoding(u64::MAX, u64::MAX), &pieces, false) else { panic!("{len}") };
        let held = Pools::current().slabs.stats().lent as usize;
        let State::Ram(pieces) = received.body.state() else { panic!("in memory") };
        assert!(held <= len + len / 4 + 4096, "{len} bytes: {held} held");
        assert!(pieces.len() <= len / 20_000 + 20, "{len}: {} pieces", pieces.len());
        assert!(contents(&received.body) == text(len));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn however_coded_bytes_are_cut_the_body_is_what_was_sent(
        len in 0usize..400_000,
        codings in prop::collection::vec(prop::sample::select(&Coding::ALL[..]), 1..=3),
        how in prop::sample::select(&[Framed::Length, Framed::Chunks(100), Framed::Chunks(9000), Framed::Close][..]),
        ram in prop_oneof![Just(0u64), 1u64..300_000, Just(u64::MAX)],
        size in prop_oneof![100usize..9000, 9000usize..300_000],
        here in any::<bool>(),
        regular in any::<bool>(),
    ) {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = if regular { body(len) } else { text(len) };
        let wire = framed(&coded(&sent, &codings), &fields(&codings), how);
        let pieces: Vec<&[u8]> = wire.chunks(size).collect();
        let received = run_coded(Plan { direct: here, ..decoding(ram, u64::MAX) }, &pieces, here);
        let Ok(received) = received else { panic!("refused") };
        prop_assert!(contents(&received.body) == sent);
        // One that is announced longer than it will be goes to a file, too.
        if len as u64 > ram || wire.len() as u64 <= ram {
            prop_assert_eq!(received.body.is_file(), len as u64 > ram);
        }
    }
}

#[test]
fn of_a_streamed_body_whatever_comes_is_decoded_at_once() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let sent = text(1 << 20);
    let raw = coded(&sent, &[Coding::Gzip]);
    for how in [Framed::Length, Framed::Chunks(1000), Framed::Close] {
        let wire = framed(&raw, "content-encoding: gzip\r\n", how);
        let mut receiver = Receiver::default();
        let mut scratch = Scratch::default();
        receiver.begin(Plan { stream: true, direct: false, ..decoding(u64::MAX, u64::MAX) });
        let (mut at, mut got) = (0, Vec::new());
        while at < wire.len() {
            let (n, event) = receive(&mut receiver, &mut scratch, &wire[at..], 5000);
            at += n;
            let mut event = event.unwrap();
            while matches!(event, Event::Data | Event::Work) {
                receiver.take_pieces().iter().for_each(|piece| got.extend_from_slice(piece));
                event = receiver.next();
                event = try_work(&mut receiver, event, false).unwrap();
            }
            // What a decoder holds back is less than came in one window.
            assert!(got.len() + 6000 >= at, "{how:?}: {} of {at}", got.len());
        }
        assert!(sent.starts_with(&got), "{how:?}");
    }
}

#[test]
fn a_streamed_body_is_given_away_piece_by_piece() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    for most in [1000, 70_000, 256 << 10] {
        let budget = Budget::new(Some(4 << 20), None, None);
        let mut receiver = Receiver::default();
        let mut scratch = Scratch::default();
        receiver.begin(Plan { stream: true, direct: false, budget: budget.clone(), ..plan(64 << 20, false) });
        let wire = by_length(&body);
        let (mut sent, mut got, mut event) = (0, Vec::new(), Event::More);
        while event != Event::Done {
            let (n, next) = receive(&mut receiver, &mut scratch, &wire[sent..], most);
            sent += n;
            event = next.unwrap();
            while event == Event::Data {
                // However long it is, it is received a window at a time.
                assert!(budget.meter(penstock_core::Resource::Ram).used() <= 1 << 20);
                let pieces = receiver.take_pieces();
                assert!(!pieces.is_empty());
                pieces.iter().for_each(|piece| got.extend_from_slice(piece));
                event = receiver.next();
            }
        }
        assert!(got == body);
        assert_eq!(receiver.finish().unwrap().body.len(), 0);
        assert_eq!(budget.meter(penstock_core::Resource::Ram).used(), 0);
    }
}

#[test]
fn a_coded_stream_that_nobody_reads_takes_no_window_from_others() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let wire = framed(&coded(&text(6 << 20), &[Coding::Gzip]), "content-encoding: gzip\r\n", Framed::Length);
    let mut stalled = Receiver::default();
    let (mut scratch, mut at) = (Scratch::default(), 0);
    stalled.begin(Plan { stream: true, direct: false, ..decoding(u64::MAX, u64::MAX) });
    // Its works are left lying, and it isn't received from once it is crowded.
    while !stalled.is_crowded() {
        at += receive(&mut stalled, &mut scratch, &wire[at..], usize::MAX).0;
    }
    assert!(at > 1 << 20);
    let wire = by_length(&body(3 << 20));
    let (mut other, mut scratch) = (Receiver::default(), Scratch::default());
    other.begin(plan(u64::MAX, false));
    let (n, event) = receive(&mut other, &mut scratch, &wire, usize::MAX);
    event.unwrap();
    assert_eq!(n, 256 << 10);
}
