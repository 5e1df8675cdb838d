//! penstock-core's smallest operations, by criterion: `make bench-micro`. What a program sees of them is in the other
//! benchmarks; these tell which of them a change has made slower.

use std::hint::black_box;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use penstock_core::barc::{Reader, Record, Strategy, Writer};
use penstock_core::body::{BodyImage, BodySink, Budget, Tunables};
use penstock_core::dispatch::{Config, NativeOnly, Pool};
use penstock_core::http::{HeadLimits, Response};
use penstock_core::permit::Semaphore;

const MIB: usize = 1 << 20;
const CHUNK: usize = 8192;
const RECORDS: usize = 100;

fn permit(criterion: &mut Criterion) {
    let semaphore = Semaphore::new(4);
    criterion.bench_function("a free permit taken and given back", |bencher| {
        bencher.iter(|| black_box(semaphore.try_acquire(1).expect("it stays open")));
    });
}

fn dispatch(criterion: &mut Criterion) {
    let pool = Pool::new(Config { threads: 1, ..Config::default() }, NativeOnly).expect("a thread");
    let (sender, receiver) = mpsc::channel();
    criterion.bench_function("a job that does nothing, there and back", |bencher| {
        bencher.iter(|| {
            let sender = sender.clone();
            pool.spawn(move || sender.send(()).expect("somebody waits")).expect("the pool stays open");
            receiver.recv().expect("every job is run");
        });
    });
}

fn head(criterion: &mut Criterion) {
    let input = b"HTTP/1.1 200 OK\r\nDate: Mon, 27 Jul 2009 12:28:53 GMT\r\nServer: Apache\r\nETag: \"34aa387-d-1568eb00\"\r\n\
        Last-Modified: Wed, 22 Jul 2009 19:15:56 GMT\r\nAccept-Ranges: bytes\r\nContent-Length: 13\r\nVary: Accept-Encoding\r\n\
        Content-Type: text/plain\r\n\r\nHello, world!";
    let mut response = Response::new(HeadLimits::default(), false);
    criterion.bench_function("a small response, framed", |bencher| {
        bencher.iter(|| {
            response.reset(false);
            let Ok(penstock_core::http::HeadStep::Done { consumed }) = response.feed_head(input) else {
                panic!("the head is complete")
            };
            let body = response
                .feed_body(&input[consumed..], |range| {
                    black_box(range);
                })
                .expect("it is well formed");
            assert!(body.done);
        });
    });
}

fn chunks(criterion: &mut Criterion) {
    let mut wire = Vec::new();
    for _ in 0..MIB / CHUNK {
        wire.extend_from_slice(format!("{CHUNK:x}\r\n").as_bytes());
        wire.resize(wire.len() + CHUNK, b'x');
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    let mut response = Response::new(HeadLimits::default(), false);
    let mut group = criterion.benchmark_group("chunks of 8 KiB, 1 MiB of them");
    group.throughput(Throughput::Bytes(MIB as u64));
    group.bench_function("framed", |bencher| {
        bencher.iter(|| {
            response.reset(false);
            response.feed_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").expect("it is well formed");
            let body = response
                .feed_body(&wire, |range| {
                    black_box(range);
                })
                .expect("it is well formed");
            assert!(body.done);
        });
    });
    group.finish();
}

fn sinks(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    let mut group = criterion.benchmark_group("a body of 1 MiB by pieces of 64 KiB");
    group.throughput(Throughput::Bytes(MIB as u64));
    for (name, max_body_ram) in [("kept in memory", u64::MAX), ("written to a file", 0)] {
        let tunables =
            Arc::new(Tunables { max_body_ram, temp_dir: Some(directory.path().to_owned()), ..Tunables::default() });
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || BodySink::new(tunables.clone(), Budget::shared()),
                |mut sink| {
                    for _ in 0..16 {
                        sink.push(piece.clone()).expect("there is room");
                        sink.run_work(false).expect("it is written");
                    }
                    sink.run_work(true).expect("it is written");
                    sink.prepare().expect("it is complete")
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn archive(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("records.barc");
    let mut writer = Writer::open(&path, 0, false).expect("a new archive");
    let record = Record { res_body: BodyImage::from_piece(Bytes::from(vec![b'x'; 4096])), ..Record::default() };
    for _ in 0..RECORDS {
        writer.append(&record, &Strategy::default()).expect("it is written");
    }
    let tunables = Arc::new(Tunables::default());
    let mut group = criterion.benchmark_group("an archive of records of 4 KiB");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            let mut reader = Reader::open(&path, tunables.clone(), Budget::shared()).expect("it is there");
            let (mut at, mut count) = (0, 0);
            while let Some((entry, record)) = reader.read(at).expect("it is whole") {
                black_box(record);
                at = entry.end();
                count += 1;
            }
            assert_eq!(count, RECORDS);
        });
    });
    group.finish();
}

criterion_group!(benches, permit, dispatch, head, chunks, sinks, archive);
criterion_main!(benches);
