//! Bodies of 8 MiB that were written before, streamed from RAM, from their file or from a mapping, and summarised: what
//! upstream's benchmarks of its streams do.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use penstock_core::body::{BodyImage, BodySink, Budget, Tunables};
use tokio::runtime::Builder;

use crate::client::{Failure, read};
use crate::policy::Policy;
use crate::summary::Summary;

const THREADS: usize = 2;
const CHUNK: usize = 0x2000;
const CHUNKS: usize = 1024;

/// What is done with the body before each stream.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    Gather,
    Map,
    Copy,
}

/// Each chunk is of one value, and each value comes up.
fn body(directory: &str) -> Result<BodyImage, Box<dyn Error>> {
    let in_ram = directory == "-";
    let tunables = Tunables {
        max_body_ram: if in_ram { u64::MAX } else { 0 },
        temp_dir: (!in_ram).then(|| directory.into()),
        ..Tunables::default()
    };
    let mut sink = BodySink::new(Arc::new(tunables), Budget::shared());
    for number in 0..CHUNKS {
        sink.push(vec![(number % 256) as u8; CHUNK].into())?;
        sink.run_work(false)?;
    }
    sink.run_work(true)?;
    Ok(sink.prepare()?)
}

async fn stream(body: BodyImage, before: Before, policy: &Policy) -> Result<(), Failure> {
    let body = match before {
        Before::Nothing => body,
        Before::Gather => body.gather()?,
        Before::Map => policy.run(move || body.to_mmap()).await??,
        Before::Copy => policy.run(move || body.to_mmap()?.to_ram()).await??,
    };
    let mut summary = Summary::default();
    read(&body, policy, |piece| summary.add(piece)).await?;
    summary.check(CHUNK * CHUNKS)
}

pub fn main(scenario: &str, policy: &str, directory: &str) -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).max_blocking_threads(THREADS).build()?;
    let policy = Arc::new(Policy::new(policy, THREADS)?);
    let body = body(directory)?;
    let (body, before) = match scenario {
        "ram" | "fs" => (body, Before::Nothing),
        "ram_gathered" => (body.gather()?, Before::Nothing),
        "ram_gather" => (body, Before::Gather),
        "mmap" => (body, Before::Map),
        "mmap_kept" => (body.to_mmap()?, Before::Nothing),
        "mmap_copy" => (body, Before::Copy),
        _ => return Err(format!("unknown scenario {scenario:?}").into()),
    };
    penstock_protocol::serve(Duration::ZERO, || {
        let (body, policy) = (body.clone(), Arc::clone(&policy));
        let done = runtime.block_on(runtime.spawn(async move { stream(body, before, &policy).await }))?;
        done.map_err(|error| error as Box<dyn Error>)
    })
}
