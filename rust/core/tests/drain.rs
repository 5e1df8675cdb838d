//! The draining worker on real loopback sockets: not a byte lost, stolen or reported twice.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod bodies;

use bodies::{body, chunked, coded, text};
use penstock_core::body::{BodySink, Budget, FilePool, Lease, Tunables, reaper};
use penstock_core::codec::{Caps, Coding, Inflow};
use penstock_core::drain::{Drained, Drainer, Job, Outcome};
use penstock_core::error::Resource;
use penstock_core::http::{HeadLimits, HeadStep, Response};
use penstock_core::receive::Away;
use penstock_core::{Error, Result};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, listener.accept().unwrap().0)
}

fn response(head: &str) -> Response {
    let mut response = Response::new(HeadLimits::default(), false);
    let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n");
    assert_eq!(response.feed_head(head.as_bytes()).unwrap(), HeadStep::Done { consumed: head.len() });
    response
}

struct Begun {
    outcome: Receiver<Outcome>,
    ticket: penstock_core::drain::Ticket,
    progress: Arc<AtomicU64>,
    budget: Arc<Budget>,
}

fn begin(drainer: &Drainer, ours: &TcpStream, head: &str, max_body: u64) -> Begun {
    begin_with(drainer, ours, head, max_body, Budget::new(None, None, None), PATIENCE)
}

fn begin_with(
    drainer: &Drainer,
    ours: &TcpStream,
    head: &str,
    max_body: u64,
    budget: Arc<Budget>,
    patience: Duration,
) -> Begun {
    let tunables = Arc::new(Tunables { max_body, max_body_ram: 0, ..Tunables::default() });
    let (send, outcome) = channel();
    let progress = Arc::new(AtomicU64::new(0));
    let response = response(head);
    let codings = Coding::of(&response).unwrap();
    let inflow = (!codings.is_empty()).then(|| Inflow::new(&codings, Caps::from(&*tunables)).unwrap());
    let job = Job {
        socket: ours.try_clone().unwrap().into(),
        body: Away { response, inflow, sink: BodySink::new(tunables, budget.clone()) },
        progress: progress.clone(),
        lease: Lease::empty(&budget, Resource::Files),
        patience,
        excess: false,
        report: Box::new(move |outcome| send.send(outcome).unwrap()),
    };
    let Ok(ticket) = drainer.submit(job) else { panic!("refused") };
    Begun { outcome, ticket, progress, budget }
}

impl Begun {
    fn end(self) -> (Result<Drained>, Vec<u8>) {
        let mut outcome = self.outcome.recv_timeout(PATIENCE).unwrap();
        assert!(self.outcome.recv_timeout(Duration::ZERO).is_err(), "reported once");
        let image = match &outcome.result {
            Ok(_) => outcome.body.sink.prepare().unwrap(),
            Err(_) => outcome.body.sink.salvage(),
        };
        let bytes = image.read_range(0, u64::MAX).unwrap().to_vec();
        drop((image, outcome.body));
        assert!(reaper::settle(PATIENCE));
        for resource in [Resource::Ram, Resource::Files] {
            assert_eq!(self.budget.meter(resource).used(), 0, "{resource:?}");
        }
        (outcome.result, bytes)
    }
}

#[test]
fn of_a_body_with_a_length_exactly_that_is_read_and_the_next_response_stays_in_the_socket() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let (mut ours, mut theirs) = pair();
    let sent = body(3 << 20);
    for _ in 0..3 {
        let begun = begin(&drainer, &ours, &format!("content-length: {}", sent.len()), 1 << 30);
        let sender = {
            let (mut theirs, sent) = (theirs.try_clone().unwrap(), sent.clone());
            std::thread::spawn(move || {
                theirs.write_all(&sent).unwrap();
                theirs.write_all(b"HTTP/1.1 next").unwrap();
            })
        };
        let progress = begun.progress.clone();
        let (result, bytes) = begun.end();
        sender.join().unwrap();
        assert_eq!(result.unwrap(), Drained { excess: false });
        assert!(bytes == sent);
        assert_eq!(progress.load(Relaxed), sent.len() as u64);
        ours.set_nonblocking(false).unwrap();
        let mut next = [0; 13];
        ours.read_exact(&mut next).unwrap();
        assert_eq!(&next, b"HTTP/1.1 next");
        ours.set_nonblocking(true).unwrap();
    }
    theirs.write_all(b"x").unwrap();
}

#[test]
fn what_lies_behind_a_chunked_body_is_reported() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let sent = body(300_000);
    for (extra, excess) in [(&b""[..], false), (b"HTTP", true)] {
        let (ours, mut theirs) = pair();
        let begun = begin(&drainer, &ours, "transfer-encoding: chunked", 1 << 30);
        let mut wire = chunked(&sent, 8192);
        wire.extend_from_slice(extra);
        theirs.write_all(&wire).unwrap();
        let (result, bytes) = begun.end();
        assert_eq!(result.unwrap(), Drained { excess });
        assert!(bytes == sent);
    }
}

#[test]
fn an_early_close_keeps_what_came_and_a_body_without_an_end_ends_with_the_connection() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    for head in ["content-length: 400000", "transfer-encoding: chunked", "connection: close"] {
        let (ours, mut theirs) = pair();
        let begun = begin(&drainer, &ours, head, 1 << 30);
        let sent = body(300_000);
        let wire = if head.contains("chunked") { chunked(&sent, 300_000)[..300_007].to_vec() } else { sent.clone() };
        theirs.write_all(&wire).unwrap();
        drop(theirs);
        let (result, bytes) = begun.end();
        assert!(bytes == sent, "{head}: {}", bytes.len());
        match result {
            Ok(drained) => assert_eq!((head, drained.excess), ("connection: close", false)),
            Err(Error::Truncated { received, .. }) => assert_eq!(received, 300_000),
            Err(error) => panic!("{head}: {error}"),
        }
    }
}

#[test]
fn urgent_data_ends_a_read_and_not_the_reading() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let (ours, mut theirs) = pair();
    let sent = body(3000);
    theirs.write_all(&sent[..1000]).unwrap();
    // Out of band: no byte of the body.
    assert_eq!(rustix::net::send(&theirs, b"!", rustix::net::SendFlags::OOB).unwrap(), 1);
    theirs.write_all(&sent[1000..]).unwrap();
    // It is all there before the worker looks, and nothing comes that would have it look again.
    std::thread::sleep(Duration::from_millis(50));
    let (result, bytes) = begin(&drainer, &ours, "content-length: 3000", 1 << 30).end();
    assert_eq!(result.unwrap(), Drained { excess: false });
    assert!(bytes == sent);
}

#[test]
fn a_reset_connection_keeps_what_came() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    for (head, length) in [("content-length: 400000", Some(400_000)), ("connection: close", None)] {
        let (ours, mut theirs) = pair();
        let begun = begin(&drainer, &ours, head, 1 << 30);
        theirs.write_all(&body(1000)).unwrap();
        while begun.progress.load(Relaxed) < 1000 {
            std::thread::yield_now();
        }
        // Closing with bytes unread sends a reset.
        (&ours).write_all(b"unread").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        drop(theirs);
        let (result, bytes) = begun.end();
        assert!(matches!(result, Err(Error::Truncated { received: 1000, expected }) if expected == length), "{head}");
        assert!(bytes == body(1000));
    }
}

#[test]
fn a_body_that_grows_too_long_ends_the_job() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let (ours, mut theirs) = pair();
    let begun = begin(&drainer, &ours, "transfer-encoding: chunked", 100_000);
    let wire = chunked(&body(400_000), 1000);
    let sender = std::thread::spawn(move || theirs.write_all(&wire));
    let (result, bytes) = begun.end();
    assert!(matches!(result, Err(Error::BodyTooLong { limit: 100_000, .. })));
    assert!(bytes.len() <= 100_000);
    drop(ours);
    let _ = sender.join().unwrap();
}

#[test]
fn a_cancelled_job_gives_its_socket_back_unread() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    for sent in [0, 70_000] {
        let (ours, mut theirs) = pair();
        let begun = begin(&drainer, &ours, "content-length: 400000", 1 << 30);
        theirs.write_all(&body(sent)).unwrap();
        while begun.progress.load(Relaxed) < sent as u64 {
            std::thread::yield_now();
        }
        begun.ticket.cancel();
        begun.ticket.cancel();
        let (result, bytes) = begun.end();
        assert!(matches!(result, Err(Error::Cancelled)));
        assert!(bytes == body(sent));
        theirs.write_all(b"after").unwrap();
        ours.set_nonblocking(false).unwrap();
        let mut after = [0; 5];
        (&ours).read_exact(&mut after).unwrap();
        assert_eq!(&after, b"after");
    }
}

#[test]
fn dropping_the_worker_reports_what_it_had() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let (ours, _theirs) = pair();
    let begun = begin(&drainer, &ours, "content-length: 4", 1 << 30);
    assert_eq!(drainer.active(), 1);
    drop(drainer);
    assert!(matches!(begun.end().0, Err(Error::PoolClosed)));
}

#[test]
fn one_worker_drains_many_bodies_at_once() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let sent = body(1 << 20);
    let jobs: Vec<_> = (0..24)
        .map(|i| {
            let (ours, mut theirs) = pair();
            let by_length = i % 2 == 0;
            let head =
                if by_length { format!("content-length: {}", sent.len()) } else { "transfer-encoding: chunked".into() };
            let begun = begin(&drainer, &ours, &head, 1 << 30);
            let wire = if by_length { sent.clone() } else { chunked(&sent, 777) };
            (begun, ours, std::thread::spawn(move || theirs.write_all(&wire).map(|()| theirs).unwrap()))
        })
        .collect();
    for (begun, _ours, sender) in jobs {
        let (result, bytes) = begun.end();
        assert_eq!(result.unwrap(), Drained { excess: false });
        assert!(bytes == sent);
        sender.join().unwrap();
    }
}

#[test]
fn without_budget_reading_pauses_until_there_is_some_and_no_byte_is_lost() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let budget = Budget::new(None, None, Some(1));
    let mut other = Lease::empty(&budget, Resource::Files);
    other.grow(1).unwrap();
    let sent = body(3 << 20);
    for head in [format!("content-length: {}", sent.len()), "transfer-encoding: chunked".into()] {
        let (ours, mut theirs) = pair();
        let begun = begin_with(&drainer, &ours, &head, 1 << 30, budget.clone(), PATIENCE);
        let wire = if head.contains("chunked") { chunked(&sent, 8192) } else { sent.clone() };
        let sender = std::thread::spawn(move || theirs.write_all(&wire).map(|()| theirs).unwrap());
        assert!(begun.outcome.recv_timeout(Duration::from_millis(80)).is_err());
        let before = begun.progress.load(Relaxed);
        assert!(before <= 512 << 10, "at most what was in hand is read");
        // Whoever watches sees that it isn't the peer who holds it up.
        while begun.progress.load(Relaxed) == before {
            std::thread::yield_now();
        }
        drop(other);
        let (result, bytes) = begun.end();
        assert_eq!(result.unwrap(), Drained { excess: false });
        assert!(bytes == sent);
        sender.join().unwrap();
        other = Lease::empty(&budget, Resource::Files);
        other.grow(1).unwrap();
    }
}

#[test]
fn without_budget_what_was_unwritten_before_waits_though_nothing_more_of_the_body_comes() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    for head in ["transfer-encoding: chunked", "connection: close"] {
        let (ours, mut theirs) = pair();
        let budget = Budget::new(None, None, Some(1));
        let mut other = Lease::empty(&budget, Resource::Files);
        other.grow(1).unwrap();
        let tunables = Arc::new(Tunables { max_body_ram: 0, ..Tunables::default() });
        let mut sink = BodySink::new(tunables, budget.clone());
        let mut response = response(head);
        let begun = if head.contains("chunked") { &b"5\r\nhello\r\n"[..] } else { b"hello" };
        response.feed_body(begun, |range| sink.push_copy(&begun[range]).unwrap()).unwrap();
        let (send, outcome) = channel();
        let job = Job {
            socket: ours.try_clone().unwrap().into(),
            body: Away { response, inflow: None, sink },
            progress: Arc::default(),
            lease: Lease::empty(&budget, Resource::Files),
            patience: PATIENCE,
            excess: false,
            report: Box::new(move |outcome| send.send(outcome).unwrap()),
        };
        assert!(drainer.submit(job).is_ok());
        if head.contains("chunked") {
            theirs.write_all(b"0\r\n\r\n").unwrap();
        } else {
            drop(theirs);
        }
        assert!(outcome.recv_timeout(Duration::from_millis(80)).is_err(), "{head}");
        drop(other);
        let mut outcome = outcome.recv_timeout(PATIENCE).unwrap();
        assert_eq!(outcome.result.unwrap(), Drained { excess: false });
        assert!(!outcome.body.sink.has_work(true), "{head}");
        assert_eq!(outcome.body.sink.prepare().unwrap().read_range(0, u64::MAX).unwrap().to_vec(), b"hello");
    }
}

#[test]
fn a_body_that_waited_too_long_for_the_budget_fails_by_its_name_and_one_that_waits_in_vain_at_once() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    for (limit, patience) in [(1, Duration::from_millis(30)), (0, Duration::from_secs(3600))] {
        let budget = Budget::new(None, None, Some(limit));
        let mut other = Lease::empty(&budget, Resource::Files);
        other.grow(limit).unwrap();
        let (ours, mut theirs) = pair();
        let begun = begin_with(&drainer, &ours, "content-length: 5", 1 << 30, budget, patience);
        theirs.write_all(b"hello").unwrap();
        let outcome = begun.outcome.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(outcome.result, Err(Error::BudgetExceeded { resource: Resource::Files, .. })));
        let mut sink = outcome.body.sink;
        assert_eq!(sink.salvage().read_range(0, u64::MAX).unwrap().to_vec(), b"hello");
    }
}

#[test]
fn without_budget_a_fault_in_the_framing_is_told_all_the_same() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    for coding in ["", "content-encoding: gzip\r\n"] {
        let (ours, mut theirs) = pair();
        let body = if coding.is_empty() { b"hello".to_vec() } else { coded(&text(100_000), &[Coding::Gzip]) };
        theirs.write_all(&[format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\nx"].concat()).unwrap();
        // In one read: the budget would end the reading before the fault.
        std::thread::sleep(Duration::from_millis(50));
        let budget = Budget::new(None, None, Some(0));
        let head = format!("{coding}transfer-encoding: chunked");
        let (result, _) = begin_with(&drainer, &ours, &head, 1 << 30, budget, PATIENCE).end();
        assert!(matches!(result, Err(Error::Protocol { .. })), "{coding}{result:?}");
    }
}

#[test]
fn a_recycled_file_is_received_into_and_shows_only_its_body() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let files = FilePool::new(1 << 30, PATIENCE);
    for (len, chunk, extra) in [
        (3 << 20, 0, ""),
        (2 << 20, 0, ""),
        (1 << 20, 8192, ""),
        (1 << 20, 8192, "HTTP"),
        (4 << 20, 8192, ""),
        (4 << 20, 0, ""),
    ] {
        let (ours, mut theirs) = pair();
        let sent = body(len);
        let head = if chunk == 0 { format!("content-length: {len}") } else { "transfer-encoding: chunked".into() };
        let tunables = Arc::new(Tunables { max_body_ram: 0, ..Tunables::default() });
        let mut sink = BodySink::new(tunables, Budget::shared());
        sink.use_files(Some(files.clone()));
        let (send, outcome) = channel();
        let job = Job {
            socket: ours.try_clone().unwrap().into(),
            body: Away { response: response(&head), inflow: None, sink },
            progress: Arc::default(),
            lease: Lease::empty(&Budget::new(None, None, None), Resource::Files),
            patience: PATIENCE,
            excess: false,
            report: Box::new(move |outcome| send.send(outcome).unwrap()),
        };
        assert!(drainer.submit(job).is_ok());
        let wire = if chunk == 0 { sent.clone() } else { chunked(&sent, chunk) };
        theirs.write_all(&[&wire, extra.as_bytes()].concat()).unwrap();
        let mut outcome = outcome.recv_timeout(PATIENCE).unwrap();
        assert_eq!(outcome.result.unwrap(), Drained { excess: !extra.is_empty() });
        let image = outcome.body.sink.prepare().unwrap();
        assert!(image.read_range(0, u64::MAX).unwrap() == sent);
        assert!(image.to_mmap().unwrap().read_range(0, u64::MAX).unwrap() == sent);
    }
    assert_eq!((files.stats().recycled, files.stats().files), (5, 1));
}

#[test]
fn a_body_that_takes_for_ever_to_decode_leaves_others_their_turns() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let (ours, mut theirs) = pair();
    let begun = begin(&drainer, &ours, "content-encoding: zstd, zstd", u64::MAX);
    // Frames of nearly 4 GiB that are to be skipped (RFC 8878 section 3.1.2), in some hundred KiB: nothing is left of them.
    let zeros = vec![0; 8 << 20];
    let length = zeros.len() as u32 * 511;
    let begin_frame = coded(&[0x184d_2a50_u32.to_le_bytes(), length.to_le_bytes()].concat(), &[Coding::Zstd]);
    let wire = [begin_frame, coded(&zeros, &[Coding::Zstd]).repeat(511)].concat();
    let sender = std::thread::spawn(move || while theirs.write_all(&wire).is_ok() {});
    while begun.progress.load(Relaxed) == 0 {
        std::thread::yield_now();
    }
    let (other_ours, mut other_theirs) = pair();
    let other = begin(&drainer, &other_ours, "content-length: 5", 1 << 30);
    other_theirs.write_all(b"hello").unwrap();
    assert_eq!(other.end().1, b"hello");
    begun.ticket.cancel();
    let (result, bytes) = begun.end();
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert!(bytes.is_empty());
    drop(ours);
    sender.join().unwrap();
}

#[test]
fn what_is_left_to_be_decoded_waits_for_nothing_more_to_come() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let (ours, mut theirs) = pair();
    let sent = vec![0; 8 << 20];
    let begun = begin(&drainer, &ours, "transfer-encoding: chunked\r\ncontent-encoding: gzip", 1 << 30);
    theirs.write_all(&chunked(&coded(&sent, &[Coding::Gzip]), 5000)).unwrap();
    let (result, bytes) = begun.end();
    assert_eq!(result.unwrap(), Drained { excess: false });
    assert!(bytes == sent);
}

#[test]
fn a_coded_body_is_decoded_by_the_worker() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let sent = text(5 << 20);
    for coding in Coding::ALL {
        let wire = coded(&sent, &[coding]);
        for framing in [format!("content-length: {}", wire.len()), "transfer-encoding: chunked".into(), "x: y".into()] {
            let (ours, mut theirs) = pair();
            let head = format!("{framing}\r\ncontent-encoding: {}", coding.name());
            let begun = begin(&drainer, &ours, &head, 1 << 30);
            let wire = if framing.contains("chunked") { chunked(&wire, 1000) } else { wire.clone() };
            let sender = std::thread::spawn(move || theirs.write_all(&wire).unwrap());
            let (result, bytes) = begun.end();
            assert_eq!(result.unwrap(), Drained { excess: false }, "{head}");
            assert!(bytes == sent, "{head}: {}", bytes.len());
            sender.join().unwrap();
        }
    }
}

#[test]
fn a_coded_body_that_is_cut_or_corrupt_keeps_what_was_decoded() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let sent = text(3 << 20);
    for coding in Coding::ALL {
        let whole = coded(&sent, &[coding]);
        for cut in [true, false] {
            let (ours, mut theirs) = pair();
            let head = format!("transfer-encoding: chunked\r\ncontent-encoding: {}", coding.name());
            let begun = begin(&drainer, &ours, &head, 1 << 30);
            let mut wire = whole.clone();
            if cut {
                wire.truncate(whole.len() - 1)
            } else {
                wire.push(b'x')
            }
            let received_in_all = wire.len() as u64;
            let sender = std::thread::spawn(move || theirs.write_all(&chunked(&wire, 5000)));
            let (result, bytes) = begun.end();
            drop(ours);
            let _ = sender.join().unwrap();
            match result.unwrap_err() {
                Error::CutCoding { received, .. } if cut || coding == Coding::Gzip || coding == Coding::Zstd => {
                    assert_eq!(received, received_in_all);
                }
                Error::Decode { .. } if !cut => {}
                error => panic!("{coding:?} {cut}: {error}"),
            }
            assert!(sent.starts_with(&bytes) && bytes.len() > (2 << 20), "{coding:?} {cut}: {}", bytes.len());
        }
    }
}

#[test]
fn a_decoded_body_stops_at_its_limit_and_others_have_their_turns_meanwhile() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let bomb = coded(&vec![0; 64 << 20], &[Coding::Zstd]);
    assert!(bomb.len() < 100_000);
    let (ours, mut theirs) = pair();
    let head = format!("content-length: {}\r\ncontent-encoding: zstd", bomb.len());
    let begun = begin(&drainer, &ours, &head, 50 << 20);
    theirs.write_all(&bomb).unwrap();
    let (other_ours, mut other_theirs) = pair();
    let other = begin(&drainer, &other_ours, "content-length: 5", 1 << 30);
    other_theirs.write_all(b"hello").unwrap();
    assert_eq!(other.end().1, b"hello");
    let (result, bytes) = begun.end();
    let error = result.unwrap_err();
    assert!(matches!(error, Error::DecodedTooLong { limit, .. } if limit == 50 << 20), "{error}");
    assert!(bytes == vec![0; 50 << 20]);
}

#[test]
fn without_budget_a_coded_body_waits_and_no_byte_is_lost() {
    let drainer = Drainer::start("test-drain".into()).unwrap();
    let budget = Budget::new(None, None, Some(1));
    let mut other = Lease::empty(&budget, Resource::Files);
    other.grow(1).unwrap();
    let sent = text(3 << 20);
    let wire = coded(&sent, &[Coding::Gzip]);
    let (ours, mut theirs) = pair();
    let head = format!("content-length: {}\r\ncontent-encoding: gzip", wire.len());
    let begun = begin_with(&drainer, &ours, &head, 1 << 30, budget, PATIENCE);
    let sender = std::thread::spawn(move || theirs.write_all(&wire).map(|()| theirs).unwrap());
    assert!(begun.outcome.recv_timeout(Duration::from_millis(80)).is_err());
    drop(other);
    let (result, bytes) = begun.end();
    assert_eq!(result.unwrap(), Drained { excess: false });
    assert!(bytes == sent);
    sender.join().unwrap();
}
