//! Upstream's benchmarks of its streams, as its crate `body-image-futio` has them: a body of 8 MiB that was written before
//! is streamed from RAM, from its file, or from a mapping, and summarised.
//!
//! Threads and permits are upstream's. `sampled` looks at each 1973rd byte, as upstream does, `whole` at all of them. A
//! scenario with `_uni` has the buffers that may be mappings, though none is. Of the policies, `1` stands for one thread to
//! dispatch to in place of two, `_ql0` for a queue of none, and `_ct` for a runtime of one thread.
//! Started by the benchmark driver as `streams SCENARIO POLICY sampled|whole DIRECTORY`.

use std::error::Error;
use std::fmt::Debug;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use blocking_permit::{DispatchPool, Semaphore, Semaphorish, deregister_dispatch_pool, register_dispatch_pool};
use body_image::{BodyImage, BodySink};
use body_image_futio::{
    AsyncBodyImage, BlockingPolicy, DispatchBodyImage, FutioTunables, FutioTuner, PermitBodyImage, StreamWrapper,
    UniBodyBuf,
};
use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use tokio::runtime::{Builder, Runtime};

const THREADS: usize = 2;
const CHUNK: usize = 0x2000;
const CHUNKS: usize = 1024;
const STRIDE: usize = 1973;

/// What is done with the body before each stream.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    Gather,
    Map,
}

struct Streams {
    runtime: Runtime,
    body: BodyImage,
    before: Before,
    sampled: bool,
    tune: FutioTunables,
}

impl Streams {
    fn run<I, T, E>(&self) -> Result<(), Box<dyn Error>>
    where
        I: StreamWrapper + Stream<Item = Result<T, E>> + Unpin + Send + 'static,
        T: AsRef<[u8]> + Send + 'static,
        E: Debug + Send + 'static,
    {
        let mut body = self.body.clone();
        match self.before {
            Before::Nothing => {}
            Before::Gather => drop(body.gather()),
            Before::Map => drop(body.mem_map()?),
        }
        let mut stream = I::new(body, self.tune.clone());
        let sampled = self.sampled;
        let job = async move {
            let (mut greatest, mut length) = (0, 0);
            while let Some(item) = stream.next().await {
                let item = item.expect("the body can be read");
                let item = item.as_ref();
                greatest = if sampled {
                    item.iter().step_by(STRIDE).fold(greatest, |most, &byte| most.max(byte))
                } else {
                    item.iter().fold(greatest, |most, &byte| most.max(byte))
                };
                length += item.len();
            }
            (greatest, length)
        };
        let read = self.runtime.block_on(self.runtime.spawn(job))?;
        if read == (0xFF, CHUNK * CHUNKS) { Ok(()) } else { Err(format!("read {read:?}").into()) }
    }
}

fn runtime(policy: &str) -> Result<Runtime, Box<dyn Error>> {
    let pool = |threads| DispatchPool::builder().pool_size(threads).create();
    let pool = match policy {
        "direct" | "permit" | "direct_ct" => None,
        "dispatch" => Some(pool(THREADS)),
        "dispatch1" | "dispatch1_ct" => Some(pool(1)),
        "dispatch1_ql0" => Some(DispatchPool::builder().pool_size(1).queue_length(0).create()),
        // As published: with as many threads as the crate has by itself, which a queue of none leaves idle.
        "dispatch1_ct_ql0" => Some(DispatchPool::builder().queue_length(0).create()),
        _ => return Err(format!("unknown policy {policy:?}").into()),
    };
    if policy.contains("_ct") {
        if let Some(pool) = pool {
            // This thread is the runtime's.
            register_dispatch_pool(pool);
        }
        return Ok(Builder::new_current_thread().build()?);
    }
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(THREADS).max_blocking_threads(THREADS);
    if let Some(pool) = pool {
        builder.on_thread_start(move || drop(register_dispatch_pool(pool.clone())));
        builder.on_thread_stop(|| drop(deregister_dispatch_pool()));
    }
    Ok(builder.build()?)
}

fn tunables(policy: &str) -> FutioTunables {
    static PERMITS: OnceLock<Semaphore> = OnceLock::new();
    let mut tuner = FutioTuner::new();
    tuner.set_blocking_policy(match policy {
        "permit" => BlockingPolicy::Permit(PERMITS.get_or_init(|| Semaphore::default_new(THREADS))),
        _ if policy.starts_with("dispatch") => BlockingPolicy::Dispatch,
        _ => BlockingPolicy::Direct,
    });
    tuner.finish()
}

/// Each chunk is of one value, and each value comes up.
fn body(directory: Option<&Path>) -> Result<BodyImage, Box<dyn Error>> {
    let mut sink = match directory {
        Some(directory) => BodySink::with_fs(directory)?,
        None => BodySink::with_ram_buffers(CHUNKS),
    };
    for number in 0..CHUNKS {
        sink.write_all(vec![(number % 256) as u8; CHUNK])?;
    }
    Ok(sink.prepare()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, policy, reading, directory] = arguments.as_slice() else {
        return Err("usage: streams SCENARIO POLICY sampled|whole DIRECTORY".into());
    };
    let mut body = body((directory != "-").then(|| Path::new(directory)))?;
    let before = match scenario.as_str() {
        "ram" | "fs" | "ram_uni" | "fs_uni" => Before::Nothing,
        "ram_gathered" => {
            body.gather();
            Before::Nothing
        }
        "ram_gather" => Before::Gather,
        "mmap" | "mmap_copy" => Before::Map,
        "mmap_kept" => {
            body.mem_map()?;
            Before::Nothing
        }
        _ => return Err(format!("unknown scenario {scenario:?}").into()),
    };
    let sampled = reading == "sampled";
    let streams = Streams { runtime: runtime(policy)?, body, before, sampled, tune: tunables(policy) };
    let mapped = matches!(scenario.as_str(), "mmap" | "mmap_kept" | "ram_uni" | "fs_uni");
    let run = match (policy.as_str(), mapped) {
        (policy, _) if policy.starts_with("dispatch") => Streams::run::<DispatchBodyImage<Bytes>, _, _>,
        ("permit", false) => Streams::run::<PermitBodyImage<Bytes>, _, _>,
        ("permit", true) => Streams::run::<PermitBodyImage<UniBodyBuf>, _, _>,
        (_, false) => Streams::run::<AsyncBodyImage<Bytes>, _, _>,
        (_, true) => Streams::run::<AsyncBodyImage<UniBodyBuf>, _, _>,
    };
    penstock_protocol::serve(Duration::ZERO, || run(&streams))
}
