//! What a Rust program would do today for upstream's scenarios: hyper 1 on tokio, whose bodies are kept as they come, or
//! written to files by 256 KiB with one call each; directly, under a permit, or on other threads.
//!
//! Threads and permits are upstream's; the client is kept, and every byte read.
//! Started by the benchmark driver as `penstock-today SCENARIO POLICY DIRECTORY URL SIZE CHUNK CONNECTIONS`.

mod gathered;

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::Uri;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use memmap2::{Advice, Mmap};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::{block_in_place, spawn_blocking};

use gathered::Gathered;

const CORE_THREADS: usize = 2;
const EXTRA_THREADS: usize = 2;
const PIECE: usize = 64 * 1024;
const SETTLE: Duration = Duration::from_millis(50);

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Clone, Copy)]
enum Way {
    Ram,
    RamGather,
    File,
    Map,
    MapCopy,
    /// It is read while it comes, and not kept.
    Stream,
}

enum Policy {
    Direct,
    Permit(Semaphore),
    Dispatch,
}

impl Policy {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        Ok(match self {
            Self::Direct => work(),
            Self::Permit(permits) => {
                let _permit = permits.acquire().await?;
                block_in_place(work)
            }
            Self::Dispatch => spawn_blocking(work).await?,
        })
    }
}

struct Scenario {
    way: Way,
    policy: Policy,
    directory: PathBuf,
    size: usize,
}

impl Scenario {
    async fn keep_and_read(&self, body: Incoming) -> Result<(), Failure> {
        let (length, greatest) = match self.way {
            Way::Ram => {
                let chunks = chunks(body).await?;
                chunks.iter().fold((0, 0), |(length, most), chunk| (length + chunk.len(), greatest(most, chunk)))
            }
            Way::RamGather => {
                let chunks = chunks(body).await?;
                let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
                chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
                (whole.len(), greatest(0, &whole))
            }
            Way::Stream => streamed(body).await?,
            Way::File => {
                let file = self.written(body).await?;
                self.policy.run(move || read(file)).await??
            }
            Way::Map => {
                let file = self.written(body).await?;
                self.policy.run(move || map(&file, |mapping| greatest(0, mapping))).await??
            }
            Way::MapCopy => {
                let file = self.written(body).await?;
                self.policy.run(move || map(&file, |mapping| greatest(0, &black_box(mapping.to_vec())))).await??
            }
        };
        if (length, greatest) == (self.size, 0xFF) { Ok(()) } else { Err("the body isn't what was sent".into()) }
    }

    async fn written(&self, mut body: Incoming) -> Result<File, Failure> {
        let mut gathered = Gathered::new(tempfile::tempfile_in(&self.directory)?);
        while let Some(frame) = body.frame().await {
            if let Ok(chunk) = frame?.into_data() {
                gathered.push(chunk);
                if gathered.is_full() {
                    gathered = self.policy.run(move || gathered.written()).await??;
                }
            }
        }
        Ok(self.policy.run(move || gathered.written()).await??.into_file()?)
    }
}

async fn streamed(mut body: Incoming) -> Result<(usize, u8), Failure> {
    let (mut length, mut most) = (0, 0);
    while let Some(frame) = body.frame().await {
        if let Ok(chunk) = frame?.into_data() {
            length += chunk.len();
            most = greatest(most, &chunk);
        }
    }
    Ok((length, most))
}

async fn chunks(mut body: Incoming) -> Result<Vec<Bytes>, Failure> {
    let mut chunks = Vec::new();
    while let Some(frame) = body.frame().await {
        chunks.extend(frame?.into_data());
    }
    Ok(chunks)
}

fn greatest(most: u8, bytes: &[u8]) -> u8 {
    bytes.iter().fold(most, |most, &byte| most.max(byte))
}

fn read(mut file: File) -> Result<(usize, u8), Failure> {
    let (mut length, mut most) = (0, 0);
    let mut buffer = vec![0; PIECE];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((length, most));
        }
        length += count;
        most = greatest(most, &buffer[..count]);
    }
}

fn map(file: &File, most: impl Fn(&[u8]) -> u8) -> Result<(usize, u8), Failure> {
    // SAFETY: the file has no name, and nobody else has it.
    let mapping = unsafe { Mmap::map(file)? };
    mapping.advise(Advice::Sequential)?;
    Ok((mapping.len(), most(&mapping)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, policy, directory, url, size, chunk, connections] = arguments.as_slice() else {
        return Err("usage: penstock-today SCENARIO POLICY DIRECTORY URL SIZE CHUNK CONNECTIONS".into());
    };
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(CORE_THREADS).max_blocking_threads(EXTRA_THREADS).enable_all();
    let policy = match policy.as_str() {
        "direct" => {
            builder.worker_threads(CORE_THREADS + EXTRA_THREADS);
            Policy::Direct
        }
        "permit" => Policy::Permit(Semaphore::new(EXTRA_THREADS)),
        "dispatch" => Policy::Dispatch,
        _ => return Err(format!("unknown policy {policy:?}").into()),
    };
    let way = match way.as_str() {
        "ram" => Way::Ram,
        "ram_gather" => Way::RamGather,
        "fs" => Way::File,
        "mmap" => Way::Map,
        "mmap_copy" => Way::MapCopy,
        "stream" => Way::Stream,
        _ => return Err(format!("unknown scenario {way:?}").into()),
    };
    let scenario = Arc::new(Scenario { way, policy, directory: directory.into(), size: size.parse()? });
    let url: Uri = format!("{url}/{size}/{chunk}").parse()?;
    let connections: usize = connections.parse()?;
    let runtime = builder.build()?;
    if url.scheme_str() == Some("https") {
        let connector = HttpsConnectorBuilder::new().with_native_roots()?.https_only().enable_http1().build();
        serve(&runtime, connector, &scenario, &url, connections)
    } else {
        serve(&runtime, HttpConnector::new(), &scenario, &url, connections)
    }
}

fn serve<C>(
    runtime: &Runtime,
    connector: C,
    scenario: &Arc<Scenario>,
    url: &Uri,
    connections: usize,
) -> Result<(), Box<dyn Error>>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let client: Client<C, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    penstock_protocol::serve_requests(SETTLE, || {
        let requests: Vec<_> = (0..connections)
            .map(|_| {
                let (scenario, client, url) = (Arc::clone(scenario), client.clone(), url.clone());
                runtime.spawn(async move {
                    let start = Instant::now();
                    scenario.keep_and_read(client.get(url).await?.into_body()).await?;
                    Ok::<_, Failure>(start.elapsed().as_secs_f64() * 1e3)
                })
            })
            .collect();
        let times = requests.into_iter().map(|request| runtime.block_on(request)?);
        times.collect::<Result<_, Failure>>().map_err(|error| error as Box<dyn Error>)
    })
}
