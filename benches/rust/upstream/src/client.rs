//! Upstream's benchmarks of its client, as its crate `body-image-futio` has them: requests at a time whose bodies are kept
//! in RAM, gathered, written to files, or mapped, and then read; directly, under a permit, or dispatched.
//!
//! Threads and permits are upstream's. Two things can be as upstream has them, or as the other rows do:
//! - `fresh` makes a client for each batch, `shared` keeps one and its connections;
//! - `sampled` looks at each 1973rd byte, `whole` at all of them. Only the latter can find the one 0xFF that the bodies end
//!   with, so the former checks their length alone.

use std::error::Error;
use std::fmt::Debug;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use blocking_permit::{DispatchPool, Semaphore, Semaphorish, deregister_dispatch_pool, register_dispatch_pool};
use body_image::{Recorded, Tuner};
use body_image_futio::{
    AsyncBodyImage, BlockingPolicy, DispatchBodyImage, FutioTunables, FutioTuner, PermitBodyImage, RequestRecord,
    RequestRecorder, StreamWrapper, UniBodyBuf, request_dialog,
};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use hyper::client::HttpConnector;
use hyper::client::connect::Connect;
use hyper_tls::HttpsConnector;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Barrier;

const CORE_THREADS: usize = 2;
const EXTRA_THREADS: usize = 2;
const STRIDE: usize = 1973;
const SETTLE: Duration = Duration::from_millis(50);

type Client<C> = hyper::Client<C, AsyncBodyImage<Bytes>>;

/// What is done with a body before it is read.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Gather,
    Map,
    /// Unless it is in RAM.
    MapFile,
}

/// How the bodies are read.
#[derive(Clone, Copy)]
struct Reading {
    before: Before,
    sampled: bool,
    passes: usize,
}

impl Reading {
    async fn summarize<S, T, E>(self, mut stream: S, size: usize)
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
        assert_eq!(length, size);
        assert!(self.sampled || greatest == 0xFF);
    }
}

struct Batch<C> {
    runtime: Runtime,
    tune: FutioTunables,
    reading: Reading,
    /// URL and size of each request.
    targets: Vec<(String, usize)>,
    connector: C,
    shared: Option<Client<C>>,
    together: Option<Arc<Barrier>>,
}

impl<C: Connect + Clone + Send + Sync + 'static> Batch<C> {
    /// The milliseconds of each request, from its start until its body was read.
    fn run<I, T, E>(&self) -> Result<Vec<f64>, Box<dyn Error>>
    where
        I: StreamWrapper + Stream<Item = Result<T, E>> + Unpin + Send + 'static,
        T: AsRef<[u8]> + Send + 'static,
        E: Debug + Send + 'static,
    {
        let client = self.shared.clone().unwrap_or_else(|| client(&self.connector));
        let (tune, reading, targets) = (self.tune.clone(), self.reading, self.targets.clone());
        let together = self.together.clone();
        let job = async move {
            let dialogs: FuturesUnordered<_> = targets
                .into_iter()
                .map(|(url, size)| {
                    let request: RequestRecord<AsyncBodyImage<Bytes>> =
                        http::Request::get(&url).record().expect("the request is whole");
                    let dialog = request_dialog(&client, request, tune.clone());
                    let tune = tune.clone();
                    let together = together.clone();
                    tokio::spawn(async move {
                        let start = Instant::now();
                        let mut body = dialog.await.expect("a response comes").res_body().clone();
                        if let Some(all) = together {
                            all.wait().await;
                        }
                        match reading.before {
                            Before::Nothing => {}
                            Before::Gather => drop(body.gather()),
                            Before::MapFile if body.is_ram() => {}
                            Before::Map | Before::MapFile => drop(body.mem_map().expect("the file can be mapped")),
                        }
                        for _ in 0..reading.passes {
                            reading.summarize(I::new(body.clone(), tune.clone()), size).await;
                        }
                        start.elapsed().as_secs_f64() * 1e3
                    })
                })
                .collect();
            dialogs.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<f64>, _>>()
        };
        Ok(self.runtime.block_on(self.runtime.spawn(job))??)
    }
}

fn client<C: Connect + Clone>(connector: &C) -> Client<C> {
    hyper::Client::builder().build(connector.clone())
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

fn tunables(policy: &str, max_body_ram: u64, directory: &Path) -> FutioTunables {
    static PERMITS: OnceLock<Semaphore> = OnceLock::new();
    let mut image = Tuner::new();
    image.set_max_body_ram(max_body_ram).set_temp_dir(directory);
    let mut tuner = FutioTuner::new();
    tuner.set_image(image.finish()).set_blocking_policy(match policy {
        "permit" => BlockingPolicy::Permit(PERMITS.get_or_init(|| Semaphore::default_new(EXTRA_THREADS))),
        "dispatch" => BlockingPolicy::Dispatch,
        _ => BlockingPolicy::Direct,
    });
    tuner.finish()
}

/// Started by the benchmark driver as
/// `client SCENARIO POLICY fresh|shared sampled|whole PASSES MAX_BODY_RAM DIRECTORY URL SIZE CHUNK CONNECTIONS`. The size is
/// that of all bodies, or that of each, with commas between. With `_together` after the scenario, no body is read before
/// all of a batch are kept.
pub fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument.starts_with("https:")) {
        serve(&arguments, HttpsConnector::new())
    } else {
        serve(&arguments, HttpConnector::new())
    }
}

fn serve<C>(arguments: &[String], connector: C) -> Result<(), Box<dyn Error>>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let [scenario, policy, clients, reads, passes, max_body_ram, directory, url, sizes, chunk, connections] = arguments
    else {
        return Err(
            "usage: client SCENARIO POLICY fresh|shared sampled|whole PASSES MAX_BODY_RAM DIRECTORY URL SIZE CHUNK \
                    CONNECTIONS"
                .into(),
        );
    };
    let (scenario, together) =
        scenario.strip_suffix("_together").map_or((scenario.as_str(), false), |name| (name, true));
    let before = match scenario {
        "ram" | "fs" => Before::Nothing,
        "ram_gather" => Before::Gather,
        "mmap" | "mmap_copy" => Before::Map,
        "spill" => Before::MapFile,
        _ => return Err(format!("unknown scenario {scenario:?}").into()),
    };
    let runtime = runtime(policy)?;
    let entered = runtime.handle().clone();
    let _entered = entered.enter();
    let sizes = sizes.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let count = if sizes.len() > 1 { sizes.len() } else { connections.parse()? };
    let batch = Batch {
        runtime,
        tune: tunables(policy, max_body_ram.parse()?, Path::new(directory)),
        reading: Reading { before, sampled: reads == "sampled", passes: passes.parse()? },
        targets: sizes.iter().cycle().take(count).map(|&size| (format!("{url}/{size}/{chunk}"), size)).collect(),
        shared: (clients == "shared").then(|| client(&connector)),
        connector,
        together: together.then(|| Arc::new(Barrier::new(count))),
    };
    let mapped = matches!(scenario, "mmap" | "spill");
    // Which wrapper copies: `Bytes` of a mapping are a copy of it, `UniBodyBuf` is not.
    let run = match (policy.as_str(), mapped) {
        // As published: that scenario has a permit for writing, and none for reading.
        ("permit", false) if scenario == "mmap_copy" && reads == "sampled" => {
            Batch::<C>::run::<AsyncBodyImage<Bytes>, _, _>
        }
        ("permit", false) => Batch::<C>::run::<PermitBodyImage<Bytes>, _, _>,
        ("permit", true) => Batch::<C>::run::<PermitBodyImage<UniBodyBuf>, _, _>,
        ("dispatch", false) => Batch::<C>::run::<DispatchBodyImage<Bytes>, _, _>,
        ("dispatch", true) => Batch::<C>::run::<DispatchBodyImage<UniBodyBuf>, _, _>,
        (_, false) => Batch::<C>::run::<AsyncBodyImage<Bytes>, _, _>,
        (_, true) => Batch::<C>::run::<AsyncBodyImage<UniBodyBuf>, _, _>,
    };
    penstock_protocol::serve_requests(SETTLE, || run(&batch))
}
