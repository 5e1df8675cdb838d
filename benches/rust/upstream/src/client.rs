//! Upstream's benchmarks of its client, as its crate `body-image-futio` has them: requests at a time whose bodies are kept
//! in RAM, gathered, written to files, or mapped, and then read; directly, under a permit, or dispatched.
//!
//! Threads, permits and limits are upstream's. Two things can be as upstream has them, or as the other rows do:
//! - `fresh` makes a client for each batch, `shared` keeps one and its connections;
//! - `sampled` looks at each 1973rd byte, `whole` at all of them. Only the latter can find the one 0xFF that the bodies end
//!   with, so the former checks their length alone.

use std::error::Error;
use std::fmt::Debug;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use blocking_permit::{DispatchPool, Semaphore, Semaphorish, deregister_dispatch_pool, register_dispatch_pool};
use body_image::{Recorded, Tuner};
use body_image_futio::{
    AsyncBodyImage, BlockingPolicy, DispatchBodyImage, FutioTunables, FutioTuner, PermitBodyImage, RequestRecord,
    RequestRecorder, StreamWrapper, UniBodyBuf, request_dialog,
};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use hyper::client::HttpConnector;
use tokio::runtime::{Builder, Runtime};

const CORE_THREADS: usize = 2;
const EXTRA_THREADS: usize = 2;
const MAX_BODY_RAM: u64 = 0x2000 * 1025;
const STRIDE: usize = 1973;
const SETTLE: Duration = Duration::from_millis(50);

type Client = hyper::Client<HttpConnector, AsyncBodyImage<Bytes>>;

/// What is done with a body before it is read.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Gather,
    Map,
}

/// How the bodies are read.
#[derive(Clone, Copy)]
struct Reading {
    before: Before,
    sampled: bool,
    size: usize,
}

impl Reading {
    async fn summarize<S, T, E>(self, mut stream: S)
    where
        S: Stream<Item = Result<T, E>> + Unpin,
        T: AsRef<[u8]>,
        E: Debug,
    {
        let (mut greatest, mut length) = (0, 0);
        while let Some(item) = stream.next().await {
            let item = item.expect("the body can be read");
            let item = item.as_ref();
            greatest = if self.sampled {
                item.iter().step_by(STRIDE).fold(greatest, |most, &byte| most.max(byte))
            } else {
                item.iter().fold(greatest, |most, &byte| most.max(byte))
            };
            length += item.len();
        }
        assert_eq!(length, self.size);
        assert!(self.sampled || greatest == 0xFF);
    }
}

struct Batch {
    runtime: Runtime,
    tune: FutioTunables,
    reading: Reading,
    url: String,
    connections: usize,
    shared: Option<Client>,
}

impl Batch {
    fn run<I, T, E>(&self) -> Result<(), Box<dyn Error>>
    where
        I: StreamWrapper + Stream<Item = Result<T, E>> + Unpin + Send + 'static,
        T: AsRef<[u8]> + Send + 'static,
        E: Debug + Send + 'static,
    {
        let client = self.shared.clone().unwrap_or_else(client);
        let (tune, reading, url, connections) = (self.tune.clone(), self.reading, self.url.clone(), self.connections);
        let job = async move {
            let dialogs: FuturesUnordered<_> = (0..connections)
                .map(|_| {
                    let request: RequestRecord<AsyncBodyImage<Bytes>> =
                        http::Request::get(&url).record().expect("the request is whole");
                    let dialog = request_dialog(&client, request, tune.clone());
                    let tune = tune.clone();
                    tokio::spawn(async move {
                        let mut body = dialog.await.expect("a response comes").res_body().clone();
                        match reading.before {
                            Before::Nothing => {}
                            Before::Gather => drop(body.gather()),
                            Before::Map => drop(body.mem_map().expect("the file can be mapped")),
                        }
                        reading.summarize(I::new(body, tune)).await;
                    })
                })
                .collect();
            dialogs.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<()>, _>>()
        };
        self.runtime.block_on(self.runtime.spawn(job))??;
        Ok(())
    }
}

fn client() -> Client {
    hyper::Client::builder().build(HttpConnector::new())
}

fn runtime(policy: &str) -> Result<Runtime, Box<dyn Error>> {
    let mut builder = Builder::new_multi_thread();
    builder.max_blocking_threads(1);
    match policy {
        "direct" => {
            builder.worker_threads(CORE_THREADS + EXTRA_THREADS);
        }
        "permit" => {
            builder.worker_threads(CORE_THREADS).max_blocking_threads(EXTRA_THREADS);
        }
        "dispatch" => {
            let pool = DispatchPool::builder().pool_size(EXTRA_THREADS).queue_length(EXTRA_THREADS).create();
            builder.worker_threads(CORE_THREADS);
            builder.on_thread_start(move || drop(register_dispatch_pool(pool.clone())));
            builder.on_thread_stop(|| drop(deregister_dispatch_pool()));
        }
        _ => return Err(format!("unknown policy {policy:?}").into()),
    }
    Ok(builder.enable_io().enable_time().build()?)
}

fn tunables(policy: &str, in_ram: bool, directory: &Path) -> FutioTunables {
    static PERMITS: OnceLock<Semaphore> = OnceLock::new();
    let mut image = Tuner::new();
    if in_ram {
        image.set_max_body_ram(MAX_BODY_RAM);
    } else {
        image.set_max_body_ram(0).set_temp_dir(directory);
    }
    let mut tuner = FutioTuner::new();
    tuner.set_image(image.finish()).set_blocking_policy(match policy {
        "permit" => BlockingPolicy::Permit(PERMITS.get_or_init(|| Semaphore::default_new(EXTRA_THREADS))),
        "dispatch" => BlockingPolicy::Dispatch,
        _ => BlockingPolicy::Direct,
    });
    tuner.finish()
}

/// Started by the benchmark driver as
/// `client SCENARIO POLICY fresh|shared sampled|whole DIRECTORY URL SIZE CHUNK CONNECTIONS`.
pub fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, policy, clients, reads, directory, url, size, chunk, connections] = arguments.as_slice() else {
        return Err(
            "usage: client SCENARIO POLICY fresh|shared sampled|whole DIRECTORY URL SIZE CHUNK CONNECTIONS".into()
        );
    };
    let before = match scenario.as_str() {
        "ram" | "fs" => Before::Nothing,
        "ram_gather" => Before::Gather,
        "mmap" | "mmap_copy" => Before::Map,
        _ => return Err(format!("unknown scenario {scenario:?}").into()),
    };
    let runtime = runtime(policy)?;
    let entered = runtime.handle().clone();
    let _entered = entered.enter();
    let batch = Batch {
        runtime,
        tune: tunables(policy, scenario.starts_with("ram"), Path::new(directory)),
        reading: Reading { before, sampled: reads == "sampled", size: size.parse()? },
        url: format!("{url}/{size}/{chunk}"),
        connections: connections.parse()?,
        shared: (clients == "shared").then(client),
    };
    let mapped = scenario == "mmap";
    // Which wrapper copies: `Bytes` of a mapping are a copy of it, `UniBodyBuf` is not.
    let run = match (policy.as_str(), mapped) {
        ("permit", false) => Batch::run::<PermitBodyImage<Bytes>, _, _>,
        ("permit", true) => Batch::run::<PermitBodyImage<UniBodyBuf>, _, _>,
        ("dispatch", false) => Batch::run::<DispatchBodyImage<Bytes>, _, _>,
        ("dispatch", true) => Batch::run::<DispatchBodyImage<UniBodyBuf>, _, _>,
        (_, false) => Batch::run::<AsyncBodyImage<Bytes>, _, _>,
        (_, true) => Batch::run::<AsyncBodyImage<UniBodyBuf>, _, _>,
    };
    penstock_protocol::serve(SETTLE, || run(&batch))
}
