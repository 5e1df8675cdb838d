//! Reading, writing and mending together, on real files.

use super::*;
use super::{Strategy, head::Kind};
use crate::body::{BodyImage, Budget, Tunables, reaper};
use crate::testing::Place;
use crate::{Error, Resource};
use bytes::Bytes;
use proptest::prelude::*;
use std::io::Write as _;
use std::sync::{Arc, mpsc};

impl Place {
    fn holding(bytes: &[u8]) -> Self {
        let place = Self::new();
        std::fs::write(&place, bytes).unwrap();
        place
    }

    fn reader(&self, tunables: Tunables) -> Reader {
        Reader::open(self, Arc::new(tunables), Budget::new(None, None, None)).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self).unwrap()
    }
}

fn image(bytes: &[u8]) -> BodyImage {
    BodyImage::from_pieces(bytes.chunks(1000).map(Bytes::copy_from_slice).collect())
}

fn content(image: &BodyImage) -> Vec<u8> {
    image.read_range(0, u64::MAX).unwrap().to_vec()
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    Fields::from_pairs(pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))).unwrap()
}

fn record(url: &str, req_body: &[u8], res_body: &[u8]) -> Record {
    Record {
        meta: fields(&[("url", url), ("method", "GET")]),
        req_headers: fields(&[("accept", "*/*")]),
        req_body: image(req_body),
        res_headers: fields(&[("content-type", "text/plain")]),
        res_body: image(res_body),
    }
}

fn assert_same(found: &Record, written: &Record) {
    assert_eq!(found.meta, written.meta);
    assert_eq!(found.req_headers, written.req_headers);
    assert_eq!(found.res_headers, written.res_headers);
    assert!(content(&found.req_body) == content(&written.req_body));
    assert!(content(&found.res_body) == content(&written.res_body));
}

/// Always compressed.
fn strategies() -> [Strategy; 3] {
    [Strategy::default(), Strategy::gzip(), Strategy::brotli()].map(|strategy| Strategy {
        min_len: 0,
        check_identity: false,
        non_compressible_coef: 0.0,
        ..strategy
    })
}

fn three() -> (Place, Vec<u64>) {
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    let records = ["http://a/", "http://b/", "http://c/"].map(|url| record(url, b"", b"some text"));
    let offsets = records.iter().map(|record| writer.append(record, &Strategy::default()).unwrap()).collect();
    (place, offsets)
}

/// What a reader that goes on gets: the urls, and names and places of the damage.
fn walk(reader: &mut Reader) -> (Vec<String>, Vec<(&'static str, u64, u64)>) {
    let (mut urls, mut damage, mut at) = (Vec::new(), Vec::new(), 0);
    loop {
        match reader.step(at, true, Reader::record).unwrap() {
            Walk::Found(entry, record) => {
                urls.push(String::from_utf8_lossy(record.meta.get("url").unwrap_or_default()).into_owned());
                at = entry.end();
            }
            Walk::Skipped { error: Error::Archive { offset, damage: found, .. }, end } => {
                damage.push((found.name(), offset, end));
                at = end;
            }
            Walk::Skipped { error, .. } => panic!("{error}"),
            Walk::End => return (urls, damage),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn records_are_read_as_they_were_written(
        sizes in prop::collection::vec((0usize..3000, 0usize..400_000, 0usize..3), 1..5), max_body_ram in 0u64..200_000,
    ) {
        let place = Place::new();
        let mut writer = Writer::open(&place, 0, false).unwrap();
        let mut written = Vec::new();
        for (req, res, which) in sizes {
            let body: Vec<u8> = (0..res).map(|i| (i * i / 7) as u8).collect();
            let record = record("http://x/", &body[..req.min(res)], &body);
            written.push((writer.append(&record, &strategies()[which]).unwrap(), record));
        }
        let mut reader = place.reader(Tunables { max_body_ram, ..Tunables::default() });
        let mut at = 0;
        for (offset, record) in &written {
            let (entry, found) = reader.read(at).unwrap().unwrap();
            prop_assert_eq!(entry.offset, *offset);
            assert_same(&found, record);
            for body in [&found.req_body, &found.res_body] {
                prop_assert_eq!(body.is_file(), body.len() > max_body_ram);
            }
            at = entry.end();
        }
        prop_assert!(reader.read(at).unwrap().is_none());
        for (offset, record) in written.iter().rev() {
            assert_same(&reader.read(*offset).unwrap().unwrap().1, record);
        }
    }

    #[test]
    fn no_file_makes_it_panic_or_go_round_in_circles(
        pieces in prop::collection::vec(prop_oneof![
            Just(&b"BARC2 "[..]), Just(&Head::RESERVED[..]), Just(&b"BARC2 000000000000 DP 00000 00000 0000000000 00000\r\n\r\n"[..]),
            Just(&b"BARC2 000000000014 DZ 00000 00000 0000000000 00000\r\n\r\n"[..]), Just(&b"a: b\r\n\r\n"[..]),
            Just(&b"BARC2 00000000000a DP 00008 00000 0000000000 00000\r\n\r\n"[..]), Just(&b"\x1f\x8b\x08\0\0\0\0\0\0\xff"[..]),
        ], 0..30),
    ) {
        let place = Place::holding(&pieces.concat());
        walk(&mut place.reader(Tunables::default()));
        let _ = repair(&place);
        let _ = Writer::open(&place, 0, false);
    }
}

#[test]
fn an_empty_record_is_a_head_or_the_shortest_stream() {
    for (strategy, len) in strategies().iter().zip([54, 74, 57]) {
        let place = Place::new();
        let mut writer = Writer::open(&place, 0, false).unwrap();
        writer.append(&Record::default(), strategy).unwrap();
        assert!(place.bytes().len() <= len, "{} {:?}", place.bytes().len(), strategy.compression);
        let (entry, found) = place.reader(Tunables::default()).read(0).unwrap().unwrap();
        assert_eq!(entry.head.compression, strategy.compression);
        assert_same(&found, &Record::default());
    }
}

#[test]
fn a_slice_of_an_archive_can_be_appended_to_it() {
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    let large = record("http://x/", b"", &vec![7; 300_000]);
    writer.append(&large, &Strategy::default()).unwrap();
    let mut reader = place.reader(Tunables::default());
    let (entry, found) = reader.read(0).unwrap().unwrap();
    assert!(found.res_body.is_file());
    writer.append(&found, &strategies()[1]).unwrap();
    let (entry, found) = reader.read(entry.end()).unwrap().unwrap();
    assert_eq!(entry.head.compression, Some(Compression::Gzip));
    assert_same(&found, &large);
}

#[test]
fn a_stream_bomb_stops_at_max_body() {
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    writer.append(&record("http://x/", b"", &vec![0; 5_000_000]), &strategies()[1]).unwrap();
    writer.append(&record("http://x/", &vec![0; 5_000_000], b""), &strategies()[2]).unwrap();
    writer.append(&record("http://x/", b"", &vec![0; 5_000_000]), &strategies()[0]).unwrap();
    let mut reader = place.reader(Tunables { max_body: 1_000_000, ..Tunables::default() });
    let mut at = 0;
    while let Some(entry) = reader.entry(at).unwrap() {
        assert!(matches!(reader.record(&entry), Err(Error::BodyTooLong { limit: 1_000_000, .. })));
        reader.verify(&entry).unwrap();
        at = entry.end();
    }
    assert_eq!(at, place.bytes().len() as u64);
}

#[test]
fn a_small_body_in_a_stream_has_the_same_limit() {
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    for strategy in &strategies()[1..] {
        let offset = writer.append(&record("http://x/", b"", &[7; 101]), strategy).unwrap();
        let read = |max_body| place.reader(Tunables { max_body, ..Tunables::default() }).read(offset);
        assert_eq!(read(101).unwrap().unwrap().1.res_body.len(), 101);
        assert!(matches!(read(100), Err(Error::BodyTooLong { seen: 101, limit: 100 })));
    }
}

#[test]
fn bodies_in_memory_count_until_their_record_is_dropped() {
    for strategy in strategies() {
        let place = Place::new();
        Writer::open(&place, 0, false).unwrap().append(&record("http://x/", &[1; 300], &[2; 500]), &strategy).unwrap();
        let budget = Budget::new(None, None, None);
        let mut reader = Reader::open(&place, Arc::default(), budget.clone()).unwrap();
        let found = reader.read(0).unwrap().unwrap();
        assert_eq!(budget.meter(Resource::Ram).used(), 800);
        drop(found);
        assert_eq!(budget.meter(Resource::Ram).used(), 0);
    }
}

#[test]
fn without_budget_for_memory_a_plain_body_stays_in_the_archive() {
    let (place, _) = three();
    let budget = Budget::new(Some(5), None, None);
    let mut reader = Reader::open(&place, Arc::default(), budget.clone()).unwrap();
    let (_, found) = reader.read(0).unwrap().unwrap();
    assert!(found.res_body.is_file());
    assert_eq!(content(&found.res_body), b"some text");
}

#[test]
fn a_reader_sees_what_is_appended_later() {
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    let mut reader = place.reader(Tunables::default());
    assert!(reader.read(0).unwrap().is_none());
    let mut at = 0;
    for size in [10, 300_000, 20, 0] {
        let record = record("http://x/", b"", &vec![1; size]);
        writer.append(&record, &Strategy::default()).unwrap();
        let (entry, found) = reader.read(at).unwrap().unwrap();
        assert_same(&found, &record);
        at = entry.end();
        assert!(reader.read(at).unwrap().is_none());
    }
    for behind in [at + 1000, u64::MAX >> 1, u64::MAX] {
        assert!(reader.read(behind).unwrap().is_none());
    }
}

#[test]
fn one_writer_at_a_time() {
    let (place, _) = three();
    let writer = Writer::open(&place, 0, false).unwrap();
    let refused = Writer::open(&place, 0, false).err().unwrap();
    assert!(matches!(refused, Error::File { source, .. } if source.kind() == std::io::ErrorKind::WouldBlock));
    assert!(repair(&place).is_err());
    drop(writer);
    Writer::open(&place, 0, false).unwrap();
}

#[test]
fn wherever_a_writer_died_the_next_one_cuts_off_what_it_left() {
    let (place, offsets) = three();
    let whole = place.bytes();
    // As the last record's writer left the file at each of its steps: its head is the reserved one to the end, and says
    // how long the record will be, or doesn't.
    let last = offsets[2] as usize;
    let mut announcing = whole[last..last + Head::LEN].to_vec();
    announcing[19] = b'R';
    for cut in last..=whole.len() {
        let head = if cut % 2 == 0 { &announcing[..] } else { Head::RESERVED };
        let unfinished = [&whole[..last], head, &whole[last + Head::LEN..]].concat();
        std::fs::write(&place, &unfinished[..cut]).unwrap();
        let mut writer = Writer::open(&place, 0, false).unwrap();
        assert_eq!(place.bytes().len(), last, "{cut}");
        assert_eq!(writer.append(&record("http://d/", b"", b""), &Strategy::default()).unwrap(), offsets[2]);
        let (urls, damage) = walk(&mut place.reader(Tunables::default()));
        assert_eq!((urls, damage), (["http://a/", "http://b/", "http://d/"].map(String::from).to_vec(), Vec::new()));
    }
}

/// The bytes of an archive of so many records.
fn inner(count: usize) -> Vec<u8> {
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    for number in 0..count {
        writer.append(&record(&format!("http://inner/{number:03}"), b"", b""), &Strategy::default()).unwrap();
    }
    place.bytes()
}

/// A file in which a fourth record has these bytes as its body and still its reserved head, and where that begins.
fn left_with(body: &[u8]) -> (Place, Vec<u8>, usize) {
    let (place, _) = three();
    let last = place.bytes().len();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    writer.append(&record("http://d/", b"", body), &Strategy::default()).unwrap();
    let mut left = place.bytes();
    left[last + 19] = b'R';
    (place, left, last)
}

#[test]
fn an_archive_within_what_a_writer_left_is_cut_off_with_it() {
    let inner = inner(9);
    let (place, left, last) = left_with(&inner);
    let body = left.len() - 2 - inner.len();
    for cut in (last + Head::LEN..=left.len()).step_by(7).chain([left.len() - 1, left.len()]) {
        // Where one of its records ends, it might be others' as well.
        if cut > body && (cut - body).is_multiple_of(inner.len() / 9) {
            continue;
        }
        std::fs::write(&place, &left[..cut]).unwrap();
        let (urls, damage) = walk(&mut place.reader(Tunables::default()));
        assert_eq!((urls.len(), damage), (3, Vec::new()), "{cut}");
        if cut % 2 == 0 {
            Writer::open(&place, 0, false).unwrap();
        } else {
            assert_eq!(repair(&place).unwrap().iter().map(|repair| repair.cut).collect::<Vec<_>>(), [true]);
        }
        assert_eq!(place.bytes().len(), last, "{cut}");
    }
}

#[test]
fn what_others_wrote_behind_an_unfinished_record_is_kept() {
    let others = inner(1);
    let unfinished = [&others[..], Head::RESERVED, b"more"].concat();
    let (place, left, last) = left_with(&inner(9));
    // Behind a part of the payload that was announced, behind all of it, and as others leave it when they die, too.
    for (cut, others) in [(last + 300, &others), (left.len(), &others), (last + 300, &unfinished)] {
        let whole = [&left[..cut], others].concat();
        std::fs::write(&place, &whole).unwrap();
        let refused = Writer::open(&place, 0, false).err().unwrap();
        assert!(matches!(refused, Error::Archive { offset, damage: Damage::Unfinished, .. } if offset == last as u64));
        assert!(place.bytes() == whole);
    }
}

#[test]
fn heads_within_what_a_writer_left_are_gone_through_once_however_many_they_are() {
    let inner = inner(1).repeat(20_000);
    let (place, left, last) = left_with(&inner);
    std::fs::write(&place, &left[..left.len() - 10]).unwrap();
    Writer::open(&place, 0, false).unwrap();
    assert_eq!(place.bytes().len(), last);
}

#[test]
fn an_archive_within_what_a_writer_left_that_announced_nothing_is_taken_for_records_of_others() {
    let inner = inner(9);
    let (place, mut left, last) = left_with(&inner);
    left[last..last + Head::LEN].copy_from_slice(Head::RESERVED);
    let (whole, cut) = (left.len(), inner.len() / 2);
    // Its writer died when few of these heads were there: then they are no reason.
    std::fs::write(&place, &left[..whole - cut]).unwrap();
    Writer::open(&place, 0, false).unwrap();
    assert_eq!(place.bytes().len(), last);
    // With eight of them in a row nobody knows whether others have written behind it.
    std::fs::write(&place, &left).unwrap();
    let refused = Writer::open(&place, 0, false).err().unwrap();
    assert!(matches!(refused, Error::Archive { offset, damage: Damage::Unfinished, .. } if offset == last as u64));
    assert_eq!(place.bytes().len(), whole);
    let repairs = repair(&place).unwrap();
    assert_eq!(repairs.iter().map(|repair| repair.cut).collect::<Vec<_>>(), [false, true]);
    let (urls, damage) = walk(&mut place.reader(Tunables::default()));
    assert_eq!((urls.len(), &urls[3][..], &urls[4][..], damage), (3 + 1 + 9, "", "http://inner/000", Vec::new()));
    Writer::open(&place, 0, false).unwrap();
}

#[test]
fn a_file_cut_anywhere_gives_its_complete_records_and_names_the_rest() {
    let (place, offsets) = three();
    let whole = place.bytes();
    for cut in 0..whole.len() {
        let start = offsets.iter().rfind(|start| **start <= cut as u64).unwrap();
        let begun = (1..=19).contains(&(cut as u64 - start));
        // Each time a head is waited for that a writer has begun: some of them will do.
        if begun && cut % 4 != 0 {
            continue;
        }
        std::fs::write(&place, &whole[..cut]).unwrap();
        let mut reader = place.reader(Tunables::default());
        let complete = offsets.iter().skip(1).filter(|end| **end <= cut as u64).count();
        let (urls, damage) = walk(&mut reader);
        assert_eq!(urls.len(), complete, "{cut}");
        assert_eq!(damage.is_empty(), offsets.contains(&(cut as u64)), "{cut} {damage:?}");
        if let Some((name, offset, end)) = damage.first() {
            assert_eq!((*offset, *end), (offsets[complete], cut as u64));
            assert!(["short", "incomplete-head"].contains(name));
            // Nobody cuts off unasked what a writer had finished, if there is anything of it.
            assert_eq!(Writer::open(&place, 0, false).is_err(), !begun, "{cut}");
            std::fs::write(&place, &whole[..cut]).unwrap();
            let repairs = repair(&place).unwrap();
            assert!(repairs.len() == 1 && repairs[0].cut);
            assert_eq!(place.bytes(), whole[..*offset as usize]);
        }
    }
}

#[test]
fn damage_before_other_records_is_skipped_and_covered() {
    let damages: [(&str, usize, &[u8]); 8] = [
        ("not-a-head", 0, b"BARC1"),
        ("bad-digit", 10, b"A"),
        ("unfinished", 0, Head::RESERVED),
        // Its lengths are those of the record: the type alone counts.
        ("unfinished", 19, b"R"),
        ("bad-layout", 50, b"xxxx"),
        ("bad-headers", 54, b"\x01"),
        ("bad-lengths", 22, b"fffff"),
        ("short", 6, b"f"),
    ];
    for (name, at, bytes) in damages {
        let (place, offsets) = three();
        let mut damaged = place.bytes();
        let start = offsets[1] as usize + at;
        damaged[start..start + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&place, &damaged).unwrap();
        let (urls, damage) = walk(&mut place.reader(Tunables::default()));
        assert_eq!(urls, ["http://a/", "http://c/"], "{name}");
        assert_eq!(damage, [(name, offsets[1], offsets[2])]);
        // Damage that doesn't hide where records end is no hindrance for a writer.
        assert_eq!(Writer::open(&place, 0, false).is_ok(), name.starts_with("bad-headers") || name == "bad-lengths");
        let repairs = repair(&place).unwrap();
        assert!(repairs.len() == 1 && !repairs[0].cut, "{name}");
        let mut reader = place.reader(Tunables::default());
        let (urls, damage) = walk(&mut reader);
        assert_eq!((urls.join(" "), damage.len()), ("http://a/  http://c/".to_owned(), 0), "{name}");
        let (_, covered) = reader.read(offsets[1]).unwrap().unwrap();
        let from = offsets[1] as usize + Head::LEN;
        assert_eq!(content(&covered.res_body), damaged[from..offsets[2] as usize - 2]);
        assert!(repair(&place).unwrap().is_empty());
    }
}

#[test]
fn a_plain_record_that_has_lost_bytes_takes_no_other_with_it() {
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    writer.append(&record("http://a/", b"", &[b'x'; 1000]), &Strategy::default()).unwrap();
    let second = writer.append(&record("http://b/", b"", b"body"), &Strategy::default()).unwrap() as usize;
    writer.append(&record("http://c/", b"", &[b'x'; 1000]), &Strategy::default()).unwrap();
    drop(writer);
    let whole = place.bytes();
    // One byte, so many that it ends within the other's head, and all of a body that was copied in part.
    for lost in [1, 2, 30, 500] {
        std::fs::write(&place, [&whole[..second - lost], &whole[second..]].concat()).unwrap();
        let (urls, damage) = walk(&mut place.reader(Tunables::default()));
        assert_eq!(urls, ["http://b/", "http://c/"], "{lost}");
        assert_eq!(damage, [("bad-lengths", 0, (second - lost) as u64)], "{lost}");
        repair(&place).unwrap();
        assert_eq!(walk(&mut place.reader(Tunables::default())).0, ["", "http://b/", "http://c/"], "{lost}");
    }
}

#[test]
fn text_that_looks_like_a_head_is_not_taken_for_a_record() {
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    let head = Head { len: 100, ..Head::parse(Head::RESERVED).unwrap() };
    let looks = [Head { kind: Kind::Dialog, ..head }.write(), b"BARC2 ".to_vec(), Head::RESERVED.to_vec()].concat();
    writer.append(&record("http://a/", b"", &looks), &Strategy::default()).unwrap();
    let next = writer.append(&record("http://b/", b"", b""), &Strategy::default()).unwrap();
    let mut damaged = place.bytes();
    damaged[0] = b'x';
    std::fs::write(&place, &damaged).unwrap();
    let (urls, damage) = walk(&mut place.reader(Tunables::default()));
    assert_eq!((urls, damage), (vec!["http://b/".to_owned()], vec![("not-a-head", 0, next)]));
}

#[test]
fn a_record_is_found_wherever_its_head_lies_in_what_is_read_at_once() {
    let found = inner(1);
    for before in (256 << 10) - 7..=(256 << 10) + 1 {
        let place = Place::holding(&[&vec![b'x'; before], &found[..]].concat());
        assert_eq!(place.reader(Tunables::default()).find(0).unwrap(), Some(before as u64));
    }
}

#[test]
fn a_request_body_that_is_longer_than_its_column_is_refused_before_anything_is_written() {
    let sparse = Place::holding(b"");
    let limits = |len: u64| {
        std::fs::File::options().write(true).open(&sparse).unwrap().set_len(len).unwrap();
        let req_body = BodyImage::from_path(&sparse, 0, None, false).unwrap();
        super::writer::check_limits(&Record { req_body, ..Record::default() })
    };
    limits(Head::MOST_REQ_BODY - 2).unwrap();
    let refused = limits(Head::MOST_REQ_BODY - 1).unwrap_err().to_string();
    assert_eq!(refused, "request body=1099511627774 bytes: a record holds at most 1099511627773");
}

#[test]
fn what_follows_a_stream_within_its_record_is_ignored() {
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    let written = record("http://a/", b"", b"text");
    for (strategy, junk) in strategies()[1..].iter().zip([&b"\x1f\x8b"[..], b"junk"]) {
        let start = writer.append(&written, strategy).unwrap() as usize;
        let mut bytes = place.bytes();
        let mut head = Head::parse(&bytes[start..]).unwrap();
        head.len += junk.len() as u64;
        bytes[start..start + Head::LEN].copy_from_slice(&head.write());
        bytes.extend_from_slice(junk);
        drop(writer);
        std::fs::write(&place, &bytes).unwrap();
        let (entry, found) = place.reader(Tunables::default()).read(start as u64).unwrap().unwrap();
        assert_same(&found, &written);
        assert_eq!(entry.end(), bytes.len() as u64);
        writer = Writer::open(&place, 0, false).unwrap();
    }
}

#[test]
fn a_stream_that_is_cut_is_damage() {
    for strategy in &strategies()[1..] {
        let place = Place::new();
        Writer::open(&place, 0, false).unwrap().append(&record("http://a/", b"req", &[5; 500]), strategy).unwrap();
        let whole = place.bytes();
        for len in 0..whole.len() - Head::LEN {
            let mut head = Head::parse(&whole).unwrap();
            head.len = len as u64;
            std::fs::write(&place, [&head.write()[..], &whole[Head::LEN..Head::LEN + len]].concat()).unwrap();
            let error = place.reader(Tunables::default()).read(0).err().unwrap();
            let is_stream = |damage: &Damage| matches!(damage, Damage::StreamEnds | Damage::Stream(_));
            assert!(matches!(&error, Error::Archive { offset: 0, damage, .. } if is_stream(damage)), "{len} {error}");
        }
    }
}

#[test]
fn a_stream_that_is_changed_is_damage_where_its_coding_has_a_checksum() {
    let written = record("http://a/", b"req", &[5; 500]);
    for strategy in &strategies()[1..] {
        let place = Place::new();
        Writer::open(&place, 0, false).unwrap().append(&written, strategy).unwrap();
        let whole = place.bytes();
        for at in Head::LEN..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&place, &changed).unwrap();
            match place.reader(Tunables { max_body: 100_000, ..Tunables::default() }).read(0) {
                Err(Error::Archive { offset: 0, damage, .. }) => {
                    // CRC and length.
                    let is_trailer = strategy.compression == Some(Compression::Gzip) && at >= whole.len() - 8;
                    assert!(!is_trailer || matches!(damage, Damage::Stream(_)), "{at} {damage}");
                }
                Err(Error::BodyTooLong { .. }) => {}
                Err(error) => panic!("{at} {error}"),
                // Some bytes of a head say nothing of the content, and a run of one byte can be told in several ways.
                Ok(found) if strategy.compression == Some(Compression::Gzip) => {
                    assert_same(&found.unwrap().1, &written)
                }
                // Nothing tells that it was another one.
                Ok(found) => assert_eq!(found.unwrap().1.req_body.len(), 3),
            }
        }
    }
}

#[test]
fn a_complete_stream_that_is_shorter_than_its_head_says_is_damage() {
    let written = Record { res_headers: Fields::default(), ..record("http://a/", b"req", b"") };
    for strategy in &strategies()[1..] {
        let place = Place::new();
        Writer::open(&place, 0, false).unwrap().append(&written, strategy).unwrap();
        let whole = place.bytes();
        let head = Head::parse(&whole).unwrap();
        for (wrong, max_body_ram) in [
            (Head { req_body: head.req_body + 1, ..head }, 1000),
            (Head { req_body: head.req_body + 1_000_000, ..head }, 0),
            (Head { meta: head.meta + 1000, ..head }, 1000),
            (Head { res_headers: 1, ..head }, 1000),
        ] {
            std::fs::write(&place, [&wrong.write()[..], &whole[Head::LEN..]].concat()).unwrap();
            let mut reader = place.reader(Tunables { max_body_ram, ..Tunables::default() });
            let error = reader.read(0).err().unwrap();
            assert!(matches!(error, Error::Archive { offset: 0, damage: Damage::StreamEnds, .. }), "{error}");
            // The head's length of the payload is good, and leads to the end.
            assert_eq!(walk(&mut reader), (Vec::new(), vec![("stream-ends", 0, whole.len() as u64)]));
        }
    }
}

#[test]
fn streams_of_other_encoders_are_read() {
    let written = record("http://a/", b"req", &[&b"some text, "[..]; 20_000].concat());
    let parts = [&written.meta, &written.req_headers, &written.res_headers].map(|block| block.lines());
    let payload = [parts[0], parts[1], b"req", parts[2], &content(&written.res_body)].concat();
    let mut streams = Vec::new();
    for level in [0, 1, 9] {
        let builder = flate2::GzBuilder::new().filename("a.txt").comment("text").extra("more").mtime(1_700_000_000);
        let mut encoder = builder.write(Vec::new(), flate2::Compression::new(level));
        encoder.write_all(&payload).unwrap();
        streams.push((Some(Compression::Gzip), encoder.finish().unwrap()));
    }
    for (quality, window) in [(0, 10), (5, 22), (11, 24)] {
        let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, quality, window);
        encoder.write_all(&payload).unwrap();
        streams.push((Some(Compression::Brotli), encoder.into_inner()));
    }
    for (compression, stream) in streams {
        let head = Head {
            len: stream.len() as u64,
            kind: Kind::Dialog,
            compression,
            meta: parts[0].len() as u64,
            req_headers: parts[1].len() as u64,
            req_body: 3,
            res_headers: parts[2].len() as u64,
        };
        let place = Place::holding(&[head.write(), stream].concat());
        assert_same(&place.reader(Tunables::default()).read(0).unwrap().unwrap().1, &written);
    }
}

#[test]
fn the_shortest_brotli_stream_is_an_empty_record() {
    let place = Place::holding(b"BARC2 000000000001 DB 00000 00000 0000000000 00000\r\n\r\n\x3b");
    assert_same(&place.reader(Tunables::default()).read(0).unwrap().unwrap().1, &Record::default());
}

#[test]
fn a_writer_goes_on_after_a_write_that_failed() {
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    writer.append(&record("http://a/", b"", b"text"), &Strategy::default()).unwrap();
    let before = place.bytes();
    // Some of it is written before it turns out to be cut.
    let gone = Place::holding(&vec![0; 3_000_000]);
    let mut cut = record("http://b/", b"", b"");
    cut.res_body = BodyImage::from_path(&gone, 0, None, false).unwrap();
    std::fs::write(&gone, vec![0; 2_500_000]).unwrap();
    for strategy in strategies() {
        assert!(matches!(writer.append(&cut, &strategy), Err(Error::Truncated { .. })));
        assert!(place.bytes() == before);
    }
    assert_eq!(writer.append(&record("http://c/", b"", b""), &Strategy::default()).unwrap(), before.len() as u64);
}

#[test]
fn a_writer_without_a_lock_is_noticed() {
    let (place, _) = three();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    let more = [place.bytes(), place.bytes()].concat();
    std::fs::write(&place, &more).unwrap();
    assert!(matches!(writer.append(&Record::default(), &Strategy::default()), Err(Error::Io { .. })));
    assert!(place.bytes() == more);
}

#[test]
fn a_writer_whose_file_has_no_name_any_more_writes_no_further() {
    let (place, _) = three();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    let other = Place::holding(&place.bytes());
    std::fs::rename(&other, &place).unwrap();
    let refused = writer.append(&Record::default(), &Strategy::default()).unwrap_err();
    assert!(refused.to_string().ends_with("it was deleted, or another file has its name"), "{refused}");
    assert_eq!(writer.file().look_again().unwrap(), place.bytes().len() as u64);
}

#[test]
fn a_file_that_was_cut_below_what_was_read_of_it_is_no_end() {
    for keep_going in [false, true] {
        let (place, offsets) = three();
        let mut reader = place.reader(Tunables::default());
        let mut at = 0;
        while let Walk::Found(entry, _) = reader.step(at, keep_going, Reader::record).unwrap() {
            at = entry.end();
        }
        std::fs::write(&place, &place.bytes()[..offsets[2] as usize]).unwrap();
        let error = match reader.step(at, keep_going, Reader::record) {
            Ok(Walk::Skipped { error, end }) if keep_going => {
                assert_eq!(end, offsets[2]);
                assert!(matches!(reader.step(end, true, Reader::record).unwrap(), Walk::End));
                error
            }
            other => other.err().unwrap(),
        };
        let Error::Archive { offset, damage: Damage::Cut(size), .. } = error else { panic!("{error}") };
        assert_eq!((offset, size), (at, offsets[2]));
        // Who begins behind the end reads nothing that was there.
        assert!(matches!(place.reader(Tunables::default()).step(at, false, Reader::record).unwrap(), Walk::End));
    }
}

#[test]
fn who_goes_on_comes_to_an_end_of_a_file_that_was_cut_within_what_was_read_ahead() {
    let (place, offsets) = alike(10, &Strategy::default());
    let mut reader = place.reader(Tunables::default());
    let (mut at, mut damage) = (0, Vec::new());
    for step in 0.. {
        assert!(step < 100, "it goes round in circles");
        if step == 1 {
            std::fs::write(&place, &place.bytes()[..offsets[2] as usize]).unwrap();
            // As another one with the same file does.
            reader.size().unwrap();
        }
        match reader.step(at, true, Reader::record).unwrap() {
            Walk::Found(entry, _) => at = entry.end(),
            Walk::Skipped { error, end } => {
                damage.push(error.to_string());
                at = end;
            }
            Walk::End => break,
        }
    }
    assert_eq!((at, damage.len()), (offsets[2], 1), "{damage:?}");
}

#[test]
fn a_file_that_changes_while_it_is_read_to_be_mended_is_left_as_it_is() {
    for size in [0, 30, 1000] {
        let (place, offsets) = three();
        let mut damaged = place.bytes();
        damaged[offsets[1] as usize] = b'x';
        std::fs::write(&place, &damaged).unwrap();
        let mut mender = Mender::open(&place).unwrap();
        mender.read_on().unwrap();
        damaged.resize(size, b'y');
        std::fs::write(&place, &damaged).unwrap();
        assert!(matches!(mender.mend(), Err(Error::Io { .. })), "{size}");
        assert!(place.bytes() == damaged);
        let mut mender = Mender::open(&place).unwrap();
        std::fs::write(&place, b"").unwrap();
        assert!(!matches!(mender.read_on(), Ok((1.., _))), "{size}");
    }
}

#[test]
fn the_lock_is_free_again_before_a_large_file_is_closed() {
    struct Closing(mpsc::Receiver<()>);
    impl Drop for Closing {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }
    // The thread that closes large files has something else to do.
    let (over, closing) = mpsc::channel::<()>();
    reaper::drop_large(reaper::LARGE, Closing(closing));
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    writer.append(&record("http://a/", b"", &vec![b'x'; 2 * reaper::LARGE as usize]), &Strategy::default()).unwrap();
    drop(writer);
    std::fs::write(&place, [place.bytes(), vec![b'y'; 1000]].concat()).unwrap();
    assert!(matches!(Writer::open(&place, 0, false), Err(Error::Archive { .. })));
    assert_eq!(repair(&place).unwrap().len(), 1);
    drop(Mender::open(&place).unwrap());
    Writer::open(&place, 0, false).unwrap();
    drop(over);
}

#[test]
fn a_known_end_spares_following_the_heads() {
    let (place, offsets) = three();
    let mut damaged = place.bytes();
    damaged[0] = b'x';
    std::fs::write(&place, &damaged).unwrap();
    assert!(Writer::open(&place, 0, false).is_err());
    let end = damaged.len() as u64;
    for known in [offsets[1], offsets[2], end] {
        assert_eq!(
            Writer::open(&place, known, true).unwrap().append(&Record::default(), &Strategy::default()).unwrap(),
            end
        );
        std::fs::write(&place, &damaged).unwrap();
    }
}

#[test]
fn a_known_end_that_no_file_reaches_is_of_no_use_and_no_hindrance() {
    let (place, _) = three();
    let end = place.bytes().len() as u64;
    for known in [end + 1, u64::MAX >> 1, u64::MAX] {
        let mut writer = Writer::open(&place, known, false).unwrap();
        assert_eq!(writer.append(&Record::default(), &Strategy::default()).unwrap(), end);
        drop(writer);
        std::fs::write(&place, &place.bytes()[..end as usize]).unwrap();
    }
}

#[test]
fn another_writer_is_not_to_blame_where_there_are_no_locks() {
    use rustix::io::Errno;

    let told = |errno| super::writer::unlocked("a.barc".as_ref(), errno).to_string();
    assert!(told(Errno::WOULDBLOCK).starts_with("cannot open for writing, as another writer has it, a.barc: "));
    assert!(told(Errno::NOLCK).starts_with("cannot lock a.barc: "));
}

#[test]
fn the_two_bytes_after_a_plain_body_are_dropped_whatever_they_are() {
    let head =
        Head { len: 11, kind: Kind::Dialog, compression: None, meta: 0, req_headers: 0, req_body: 5, res_headers: 0 };
    let place = Place::holding(&[&head.write()[..], b"abc\r\nABCDEF"].concat());
    for max_body_ram in [0, 100] {
        let (_, found) = place.reader(Tunables { max_body_ram, ..Tunables::default() }).read(0).unwrap().unwrap();
        assert_eq!((&content(&found.req_body)[..], &content(&found.res_body)[..]), (&b"abc"[..], &b"ABCD"[..]));
    }
}

#[test]
fn a_head_that_was_read_ahead_is_looked_at_again_once_its_record_is_complete() {
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    writer.append(&record("http://a/", b"", &[1; 20_000]), &Strategy::default()).unwrap();
    let first = place.bytes();
    std::fs::write(&place, [&first[..], Head::RESERVED, &[2; 10_000]].concat()).unwrap();
    let mut reader = place.reader(Tunables::default());
    let (entry, _) = reader.read(0).unwrap().unwrap();
    assert!(reader.read(entry.end()).unwrap().is_none());
    std::fs::write(&place, [&first[..], &first[..]].concat()).unwrap();
    let (again, found) = reader.read(entry.end()).unwrap().unwrap();
    assert_eq!((again.head, &content(&found.res_body)[..]), (entry.head, &[1; 20_000][..]));
}

/// Five records of `len` bytes that nothing compresses, all alike; where they are. Of the last one a head that was read ahead
/// wouldn't be final.
fn alike(len: usize, strategy: &Strategy) -> (Place, Vec<u64>) {
    let mut seed = 1u32;
    let body: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_be_bytes()[0]
    })
    .take(len)
    .collect();
    let place = Place::new();
    let mut writer = Writer::open(&place, 0, false).unwrap();
    let offsets = (0..5).map(|_| writer.append(&record("http://a/", b"", &body), strategy).unwrap()).collect();
    (place, offsets)
}

/// Whether a reader that was at work still finds the head at `offset` once that isn't in the file any more.
fn has_read(reader: &mut Reader, place: &Place, offset: u64) -> bool {
    let file = std::fs::OpenOptions::new().write(true).open(place).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"X", offset).unwrap();
    let found = reader.entry(offset).is_ok();
    std::os::unix::fs::FileExt::write_all_at(&file, b"B", offset).unwrap();
    found
}

#[test]
fn a_record_is_read_together_with_the_next_head_however_it_is_compressed() {
    for strategy in strategies() {
        let (place, offsets) = alike(20_000, &strategy);
        let mut reader = place.reader(Tunables::default());
        for pair in offsets[..4].windows(2) {
            let (_, found) = reader.read(pair[0]).unwrap().unwrap();
            assert_eq!(found.res_body.len(), 20_000);
            assert!(has_read(&mut reader, &place, pair[1]));
        }
    }
}

#[test]
fn more_than_the_next_head_is_read_behind_a_small_record_only_on_the_way_from_one_to_the_next() {
    for strategy in strategies() {
        let (place, offsets) = alike(6_000, &strategy);
        let mut reader = place.reader(Tunables::default());
        reader.read(offsets[0]).unwrap().unwrap();
        assert!(has_read(&mut reader, &place, offsets[1]));
        assert!(!has_read(&mut reader, &place, offsets[2]));

        let mut reader = place.reader(Tunables::default());
        reader.read(offsets[0]).unwrap().unwrap();
        reader.read(offsets[1]).unwrap().unwrap();
        assert!(has_read(&mut reader, &place, offsets[3]));
    }
}
