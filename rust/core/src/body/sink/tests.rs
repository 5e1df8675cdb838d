use super::*;
use crate::body::digest::Algorithm;
use crate::body::image::State;
use proptest::prelude::*;

fn budget() -> Arc<Budget> {
    Budget::new(None, None, None)
}

fn tunables(max_body_ram: u64, max_body: u64) -> Arc<Tunables> {
    Arc::new(Tunables { max_body_ram, max_body, digests: vec![Algorithm::Sha256], ..Tunables::default() })
}

fn contents(image: &BodyImage) -> Vec<u8> {
    image.read_range(0, u64::MAX).unwrap().to_vec()
}

fn sha256(bytes: &[u8]) -> Vec<(Algorithm, String)> {
    let mut digests = Digests::new(&[Algorithm::Sha256]);
    digests.update(bytes);
    digests.finish()
}

#[test]
fn a_body_at_its_limit_in_memory_stays_there_and_one_byte_more_goes_to_a_file() {
    for (extra, is_file) in [(0, false), (1, true)] {
        let mut sink = BodySink::new(tunables(10, 100), budget());
        sink.push_copy(&[7; 10]).unwrap();
        sink.push_copy(&vec![8; extra]).unwrap();
        let image = sink.prepare().unwrap();
        assert_eq!((image.is_file(), image.len()), (is_file, 10 + extra as u64));
    }
}

#[test]
fn a_piece_that_makes_the_body_too_long_is_refused_whole_and_the_rest_is_kept() {
    let mut sink = BodySink::new(tunables(4, 10), budget());
    sink.push_copy(b"0123456789").unwrap();
    let error = sink.push_copy(b"k").unwrap_err();
    assert!(matches!(error, Error::BodyTooLong { seen: 11, limit: 10 }));
    assert_eq!(contents(&sink.salvage()), b"0123456789");
}

#[test]
fn a_body_announced_too_long_is_refused_and_a_large_one_goes_to_a_file_at_once() {
    let announced = |n| BodySink::with_length(tunables(4, 10), budget(), n);
    assert!(matches!(announced(11), Err(Error::ContentLengthTooLong { seen: 11, limit: 10 })));
    assert!(!announced(5).unwrap().is_ram());
    assert!(announced(4).unwrap().is_ram());
}

#[test]
fn writes_are_gathered_whatever_the_size_of_the_pieces() {
    let mut sink = BodySink::new(tunables(0, 1 << 30), budget());
    for _ in 0..1024 {
        sink.push(Bytes::from(vec![1; 8192])).unwrap();
        sink.run_work(false).unwrap();
    }
    assert_eq!(sink.write_calls(), (1024 * 8192) / GATHER);
    assert_eq!(sink.prepare().unwrap().len(), 1024 * 8192);
}

#[test]
fn an_exhausted_budget_spills() {
    let budget = Budget::new(Some(6), None, None);
    let mut sink = BodySink::new(tunables(100, 100), budget.clone());
    sink.push_copy(b"12345").unwrap();
    assert!(sink.is_ram());
    sink.push_copy(b"67").unwrap();
    assert!(!sink.is_ram());
    let image = sink.prepare().unwrap();
    assert_eq!((contents(&image), image.is_file()), (b"1234567".to_vec(), true));
    assert_eq!(budget.meter(Resource::Ram).used(), 0);
}

#[test]
fn a_body_that_stays_in_memory_counts_over_the_limit_too() {
    let budget = Budget::new(Some(6), None, None);
    let used = || budget.meter(Resource::Ram).used();
    let streamed = || {
        let mut sink = BodySink::with_length(tunables(0, 100), budget.clone(), 100).unwrap();
        sink.stay_in_ram();
        sink
    };
    let mut sink = streamed();
    for _ in 0..2 {
        sink.push_copy(b"12345").unwrap();
        assert!(!sink.lacks(1) && sink.lacks(2) && used() == 5);
        assert_eq!(sink.take_pieces(), [&b"12345"[..]]);
        assert_eq!(used(), 0);
    }
    sink.push_copy(b"12345678").unwrap();
    let mut other = streamed();
    other.prepay(7);
    other.push_copy(b"1234567").unwrap();
    assert!(other.lacks(1) && used() == 8 + 7);
    assert!(other.is_ram() && !other.has_work(true));
    drop((sink, other));
    assert_eq!((used(), budget.meter(Resource::Files).peak()), (0, 0));
}

#[test]
fn a_small_piece_that_is_taken_holds_no_more_than_itself() {
    let mut sink = BodySink::new(tunables(0, 4 << 20), budget());
    sink.stay_in_ram();
    sink.push(Bytes::from(vec![0; 1 << 20])).unwrap();
    sink.take_pieces();
    sink.push_copy(b"event").unwrap();
    let piece = sink.take_pieces().remove(0);
    assert!(piece.try_into_mut().unwrap().capacity() < 100);
}

#[test]
fn memory_counts_until_the_last_image_is_dropped() {
    let budget = budget();
    let mut sink = BodySink::new(tunables(100, 100), budget.clone());
    sink.push_copy(b"12345").unwrap();
    let image = sink.prepare().unwrap();
    let copy = image.clone();
    drop((sink, image));
    assert_eq!(budget.meter(Resource::Ram).used(), 5);
    drop(copy);
    assert_eq!(budget.meter(Resource::Ram).used(), 0);
}

#[test]
fn a_work_that_was_never_run_is_undone() {
    for max_body_ram in [0, 1 << 20] {
        let mut sink = BodySink::new(tunables(max_body_ram, 1 << 20), budget());
        let sent = vec![7; 300_000];
        sink.push_copy(&sent[..200_000]).unwrap();
        let work = sink.take_work(true).unwrap();
        assert!(sink.is_busy() && sink.take_work(true).is_none());
        sink.push_copy(&sent[200_000..]).unwrap();
        sink.done(work).unwrap();
        let image = sink.prepare().unwrap();
        assert!(contents(&image) == sent);
        assert_eq!(image.digests(), &sha256(&sent)[..]);
    }
}

#[test]
fn a_small_body_in_memory_is_digested_without_a_work() {
    let mut sink = BodySink::new(tunables(100, 100), budget());
    sink.push_copy(b"abc").unwrap();
    assert!(!sink.has_work(true) && sink.take_work(true).is_none());
    assert_eq!(sink.prepare().unwrap().digests(), &sha256(b"abc")[..]);
}

#[test]
fn a_failed_write_back_keeps_the_body_in_memory() {
    let tunables = Tunables { max_body_ram: 2, temp_dir: Some("/nonexistent".into()), ..Tunables::default() };
    let mut sink = BodySink::new(Arc::new(tunables), budget());
    sink.push_copy(b"abc").unwrap();
    assert!(matches!(sink.run_work(true), Err(Error::TempDir { .. })));
    assert!(matches!(sink.push_copy(b"d"), Err(Error::SinkFailed)));
    assert_eq!(contents(&sink.salvage()), b"abc");
}

#[test]
fn memory_counts_again_when_its_write_has_failed() {
    let tunables = Tunables { temp_dir: Some("/nonexistent".into()), ..Tunables::default() };
    let budget = budget();
    let mut sink = BodySink::new(Arc::new(tunables), budget.clone());
    sink.push_copy(b"abc").unwrap();
    sink.spill();
    sink.run_work(true).unwrap_err();
    assert_eq!(budget.meter(Resource::Ram).used(), 3);
    drop(sink.salvage());
    assert_eq!(budget.meter(Resource::Ram).used(), 0);
}

#[test]
fn pieces_that_are_digested_already_are_not_moved_together_with_those_that_are_not() {
    let sent: Vec<u8> = (0..200_000).map(|i| (i / 1000) as u8).collect();
    let mut sink = BodySink::new(tunables(1 << 20, 1 << 20), budget());
    sink.push_copy(&sent[..100_000]).unwrap();
    sink.run_work(false).unwrap();
    sink.push_copy(&sent[100_000..]).unwrap();
    sink.compact(0).unwrap();
    let image = sink.prepare().unwrap();
    assert!(contents(&image) == sent);
    assert_eq!(image.digests(), &sha256(&sent)[..]);
}

#[test]
fn what_is_written_through_follows_what_was_pushed() {
    let mut sink = BodySink::new(tunables(100, 100), budget());
    sink.push_copy(b"ab").unwrap();
    sink.write_through(&mut [IoSlice::new(b"cd"), IoSlice::new(b""), IoSlice::new(b"e")]).unwrap();
    let image = sink.prepare().unwrap();
    assert_eq!((contents(&image), image.digests()), (b"abcde".to_vec(), &sha256(b"abcde")[..]));
    assert!(matches!(image.state(), State::File { .. }));
}

#[test]
fn one_byte_pieces_hold_little_more_than_the_bytes() {
    let mut sink = BodySink::new(tunables(1 << 20, 1 << 20), budget());
    for i in 0..(1 << 20) {
        sink.push(Bytes::copy_from_slice(&[i as u8])).unwrap();
    }
    let image = sink.prepare().unwrap();
    let State::Ram(pieces) = image.state() else { panic!("in memory") };
    assert!(pieces.len() < 64, "{}", pieces.len());
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<u8>),
    Copy(Vec<u8>),
    Spill,
    Work(bool),
    TakeAndForget(bool),
    Through(Vec<u8>),
    Compact(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..9000);
    prop_oneof![
        bytes().prop_map(Step::Push),
        bytes().prop_map(Step::Copy),
        Just(Step::Spill),
        any::<bool>().prop_map(Step::Work),
        any::<bool>().prop_map(Step::TakeAndForget),
        bytes().prop_map(Step::Through),
        (0usize..6).prop_map(Step::Compact),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_done_the_image_is_what_was_pushed(steps in prop::collection::vec(step(), 0..24), ram in 0u64..40_000) {
        const MOST: usize = 60_000;
        let mut model = Vec::new();
        let mut sink = BodySink::new(tunables(ram, MOST as u64), budget());
        for step in steps {
            let (bytes, result) = match step {
                Step::Push(bytes) => (bytes.clone(), sink.push(bytes.into())),
                Step::Copy(bytes) => { let r = sink.push_copy(&bytes); (bytes, r) }
                Step::Through(bytes) => { let r = sink.write_through(&mut [IoSlice::new(&bytes)]); (bytes, r) }
                Step::Spill => { sink.spill(); continue }
                Step::Work(all) => { sink.run_work(all).unwrap(); continue }
                Step::TakeAndForget(all) => { if let Some(work) = sink.take_work(all) { sink.done(work).unwrap() } continue }
                Step::Compact(from) => { if sink.is_ram() && from < sink.pieces() { sink.compact(from).unwrap() } continue }
            };
            let fits = model.len() + bytes.len() <= MOST;
            prop_assert_eq!(fits, result.is_ok());
            if fits { model.extend_from_slice(&bytes); }
            prop_assert_eq!(sink.len(), model.len() as u64);
        }
        let image = sink.prepare().unwrap();
        prop_assert_eq!(contents(&image), &model[..]);
        prop_assert_eq!(image.digests(), &sha256(&model)[..]);
        prop_assert!(model.len() as u64 <= ram || model.is_empty() || image.is_file());
    }
}
