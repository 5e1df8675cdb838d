//! A client of penstock-core's parts on tokio, for upstream's scenarios: bodies are kept in RAM, gathered, written to files,
//! mapped, kept up to a limit, or taken while they come; then read, once or more often.
//!
//! Threads and permits are upstream's; connections are kept, and every byte read. The sizes are one for all bodies, or, with
//! commas between, that of each. With `_together` after a scenario, none is read before all of a batch are kept.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use penstock_core::body::{BodyImage, Budget, Tunables};
use penstock_core::codec::When;
use penstock_core::http::Asked;
use penstock_core::receive::Plan;
use tokio::runtime::Builder;
use tokio::sync::Barrier;

use crate::connection::Connection;
use crate::policy::Policy;
use crate::summary::Summary;

const CORE_THREADS: usize = 2;
const EXTRA_THREADS: usize = 2;
const PIECE: usize = 64 * 1024;
/// More than any row keeps, since upstream has none.
const BUDGET: u64 = 1 << 30;
const SETTLE: Duration = Duration::from_millis(50);

pub type Failure = Box<dyn Error + Send + Sync>;

/// What is done with a body before it is read.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Gather,
    Map,
    /// Map, and copy the mapping.
    Copy,
    /// Unless it is in RAM.
    MapFile,
    /// It is read while it comes, and not kept.
    Stream,
}

struct Client {
    before: Before,
    policy: Policy,
    plan: Plan,
    passes: usize,
    authority: String,
    idle: Mutex<Vec<Connection>>,
    together: Option<Barrier>,
}

impl Client {
    /// The milliseconds until the body was read.
    async fn get(&self, path: &str, size: usize) -> Result<f64, Failure> {
        let start = Instant::now();
        let idle = self.idle.lock().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(&self.authority).await?,
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.authority);
        let mut read = Summary::default();
        let got = connection.get(request.as_bytes(), self.plan.clone(), &self.policy, |piece| read.add(piece)).await;
        let body = got?;
        self.idle.lock().push(connection);
        if let Some(all) = &self.together {
            all.wait().await;
        }
        if self.before == Before::Stream {
            read.check(size)?;
        } else {
            let body = self.made_ready(body).await?;
            for _ in 0..self.passes {
                let mut read = Summary::default();
                self::read(&body, &self.policy, |piece| read.add(piece)).await?;
                read.check(size)?;
            }
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    async fn made_ready(&self, body: BodyImage) -> Result<BodyImage, Failure> {
        match self.before {
            Before::Gather => Ok(body.gather()?),
            Before::Map => Ok(self.policy.run(move || body.to_mmap()).await??),
            Before::Copy => Ok(self.policy.run(move || body.to_mmap()?.to_ram()).await??),
            Before::MapFile if body.is_file() => Ok(self.policy.run(move || body.to_mmap()).await??),
            Before::Nothing | Before::MapFile | Before::Stream => Ok(body),
        }
    }
}

/// Hands all of a body over by pieces. What the page cache has is read here, the rest as the policy says.
pub async fn read(body: &BodyImage, policy: &Policy, mut take: impl FnMut(&[u8])) -> Result<(), Failure> {
    let mut reader = body.reader(PIECE);
    loop {
        let piece = match reader.next_cached()? {
            Some(piece) => piece,
            None => {
                let (piece, returned) = policy.run(move || (reader.next_piece(), reader)).await?;
                reader = returned;
                piece?
            }
        };
        match piece {
            Some(piece) => take(&piece),
            None => return Ok(()),
        }
    }
}

pub fn main(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let [scenario, policy, passes, max_body_ram, directory, url, sizes, chunk, connections] = arguments else {
        return Err("a client takes SCENARIO POLICY PASSES MAX_BODY_RAM DIRECTORY URL SIZES CHUNK CONNECTIONS".into());
    };
    let (scenario, together) = scenario.strip_suffix("_together").map_or((*scenario, false), |name| (name, true));
    let before = match scenario {
        "ram" | "fs" => Before::Nothing,
        "ram_gather" => Before::Gather,
        "mmap" => Before::Map,
        "mmap_copy" => Before::Copy,
        "spill" => Before::MapFile,
        "stream" => Before::Stream,
        _ => return Err(format!("unknown scenario {scenario:?}").into()),
    };
    let threads = if *policy == "direct" { CORE_THREADS + EXTRA_THREADS } else { CORE_THREADS };
    let runtime =
        Builder::new_multi_thread().worker_threads(threads).max_blocking_threads(EXTRA_THREADS).enable_io().build()?;
    let policy = Policy::new(policy, EXTRA_THREADS)?;
    let plan = Plan {
        asked: Asked::default(),
        limits: Arc::default(),
        tunables: Arc::new(Tunables {
            max_body_ram: max_body_ram.parse()?,
            temp_dir: (*directory != "-").then(|| directory.into()),
            ..Tunables::default()
        }),
        budget: Budget::new(Some(BUDGET), None, None),
        files: None,
        direct: !policy.drains(),
        drain: policy.drains(),
        expect: false,
        tell_head: false,
        stream: before == Before::Stream,
        decode: When::Never,
    };
    let sizes = sizes.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let count = if sizes.len() > 1 { sizes.len() } else { connections.parse()? };
    let client = Arc::new(Client {
        before,
        policy,
        plan,
        passes: passes.parse()?,
        authority: url.trim_start_matches("http://").to_owned(),
        idle: Mutex::default(),
        together: together.then(|| Barrier::new(count)),
    });
    penstock_protocol::serve_requests(SETTLE, || {
        let requests: Vec<_> = sizes
            .iter()
            .cycle()
            .take(count)
            .map(|&size| {
                let (client, path) = (Arc::clone(&client), format!("/{size}/{chunk}"));
                runtime.spawn(async move { client.get(&path, size).await })
            })
            .collect();
        let times = requests.into_iter().map(|request| runtime.block_on(request)?);
        times.collect::<Result<_, Failure>>().map_err(|error| error as Box<dyn Error>)
    })
}
