//! The receiver under a scripted transport: however the bytes are cut, whichever connections share the scratch, the
//! body is what was sent, and what is retained of it is little more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use penstock_core::Error;
use penstock_core::body::digest::Algorithm;
use penstock_core::body::{BodyImage, Budget, Errand, FilePool, Pools, State, Tunables};
use penstock_core::http::{Asked, HeadLimits};
use penstock_core::receive::{Event, Plan, Received, Receiver, Scratch};
use proptest::prelude::*;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

/// The slab pool's figures are the process's.
static ALONE: Mutex<()> = Mutex::new(());

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(size) {
        write!(wire, "{:x}\r\n", chunk.len()).unwrap();
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    wire
}

fn by_length(body: &[u8]) -> Vec<u8> {
    let mut wire = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    wire.extend_from_slice(body);
    wire
}

fn plan(max_body_ram: u64, digests: bool) -> Plan {
    let digests = if digests { vec![Algorithm::Sha256] } else { vec![] };
    Plan {
        asked: Asked::default(),
        tunables: Arc::new(Tunables { max_body_ram, max_body: 64 << 20, digests, ..Tunables::default() }),
        budget: Budget::new(None, None, None),
        files: None,
        direct: true,
        drain: false,
        expect: false,
        tell_head: false,
    }
}

/// What a transport does with at most `most` bytes; returns how many it received and what is to be done.
#[allow(unsafe_code)]
fn receive(receiver: &mut Receiver, scratch: &mut Scratch, wire: &[u8], most: usize) -> (usize, Result<Event, Error>) {
    let window = match receiver.window().unwrap() {
        Some(window) => window,
        None => scratch.window().unwrap().0,
    };
    assert!(!window.is_empty());
    let n = wire.len().min(most).min(window.len());
    // SAFETY: the window was lent for this.
    unsafe { std::ptr::copy_nonoverlapping(wire.as_ptr(), window.as_mut_ptr(), n) };
    (n, receiver.received(scratch, n))
}

fn work(receiver: &mut Receiver, mut event: Event, here: bool) -> Event {
    while event == Event::Work {
        event = if here {
            receiver.work_here().unwrap()
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

fn contents(image: &BodyImage) -> Vec<u8> {
    image.read_range(0, u64::MAX).unwrap().to_vec()
}

#[test]
fn a_large_body_is_kept_where_it_was_received() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for wire in [chunked(&body(3 << 20), 8192), by_length(&body(3 << 20))] {
        let mut receiver = Receiver::new(Arc::new(HeadLimits::default()));
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
                let mut receiver = Receiver::new(Arc::new(HeadLimits::default()));
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
fn a_window_that_slices_of_a_failed_body_lie_in_is_nobodys_scratch() {
    let mut scratch = Scratch::default();
    let mut plan = plan(u64::MAX, false);
    plan.tunables = Arc::new(Tunables { max_body_ram: 50_000, max_body: 50_000, ..Tunables::default() });
    let mut receiver = Receiver::new(Arc::new(HeadLimits::default()));
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
    let mut receiver = Receiver::new(Arc::new(HeadLimits::default()));
    receiver.begin(plan(100, false));
    let (_, event) = receive(&mut receiver, &mut scratch, &wire, usize::MAX);
    assert_eq!(event.unwrap(), Event::Done);
    assert!(!receiver.finish().unwrap().reusable);

    let mut receiver = Receiver::new(Arc::new(HeadLimits::default()));
    receiver.begin(plan(100, false));
    assert!(run(&mut receiver, &mut scratch, &by_length(b"abc"), &mut || usize::MAX, true).reusable);
    assert!(!receiver.has_excess());
    receive(&mut receiver, &mut scratch, b"x", usize::MAX).1.unwrap();
    assert!(receiver.has_excess());
}

#[test]
fn a_body_announced_too_long_is_refused_and_one_that_grows_too_long_keeps_what_came() {
    let mut scratch = Scratch::default();
    let tight = || {
        let mut plan = plan(10, false);
        plan.tunables = Arc::new(Tunables { max_body_ram: 10, max_body: 20, ..Tunables::default() });
        plan
    };
    let mut receiver = Receiver::new(Arc::new(HeadLimits::default()));
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
    let mut receiver = Receiver::new(Arc::new(HeadLimits::default()));
    receiver.begin(Plan { drain: true, ..plan(1000, false) });
    let wire = by_length(&body(300_000));
    let (n, event) = receive(&mut receiver, &mut scratch, &wire, 100_000);
    assert_eq!(event.unwrap(), Event::Drain);
    let (mut response, mut sink) = receiver.hand_over().unwrap();
    sink.write_through(&mut [std::io::IoSlice::new(&wire[n..])]).unwrap();
    response.feed_body(&wire[n..], |_| ()).unwrap();
    receiver.take_back(response, sink, false);
    assert_eq!(receiver.next(), Event::Done);
    let received = receiver.finish().unwrap();
    assert!(received.reusable && contents(&received.body) == body(300_000));
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
        let mut other = Receiver::new(Arc::new(HeadLimits::default()));
        other.begin(plan(100, false));
        let mut receiver = Receiver::new(Arc::new(HeadLimits::default()));
        let mut index = 0;
        let files = pooled.then(|| FilePool::new(1 << 30, std::time::Duration::from_secs(60)));
        for _ in 0..3 {
            receiver.begin(Plan { files: files.clone(), direct: here, ..plan(ram, digests) });
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
