//! Upstream's benchmarks of blocking work, as its crate `blocking-permit` has them: noop, expensive and sleep, directly,
//! under a permit, by `dispatch_rx`, and by tokio's `spawn_blocking`.
//!
//! Threads and batches are upstream's.
//! Started by the benchmark driver as `blocking STRATEGY WORK [JOBS | echo PYTHON]`: with a number of jobs, each is awaited
//! before the next is begun; with Python for the clients, the runtime serves echoes beside the batches.

use std::error::Error;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use blocking_permit::{
    DispatchPool, Semaphore, Semaphorish, blocking_permit_future, deregister_dispatch_pool, dispatch_rx,
    register_dispatch_pool,
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use penstock_protocol::Work;
use tokio::runtime::{Builder, Runtime};

const CORE_THREADS: usize = 4;
const USAGE: &str =
    "usage: blocking direct|permit|dispatch_rx|spawn_blocking noop|expensive|sleep [JOBS | echo PYTHON]";

#[derive(Clone, Copy)]
enum Strategy {
    Direct,
    Permit,
    DispatchRx,
    SpawnBlocking,
}

impl Strategy {
    /// Only who serves echoes pays for I/O.
    fn runtime(self, work: Work, serves: bool) -> io::Result<Runtime> {
        let mut builder = Builder::new_multi_thread();
        match self {
            Self::Direct => {
                builder.worker_threads(CORE_THREADS + work.extra()).max_blocking_threads(1);
            }
            Self::Permit | Self::SpawnBlocking => {
                builder.worker_threads(CORE_THREADS).max_blocking_threads(work.extra());
            }
            Self::DispatchRx => {
                let pool = DispatchPool::builder().pool_size(work.extra()).create();
                builder.worker_threads(CORE_THREADS).max_blocking_threads(1);
                builder.on_thread_start(move || drop(register_dispatch_pool(pool.clone())));
                builder.on_thread_stop(|| drop(deregister_dispatch_pool()));
            }
        }
        if serves {
            builder.enable_io();
        }
        builder.build()
    }

    async fn perform(self, work: Work) -> usize {
        static PERMITS: OnceLock<Semaphore> = OnceLock::new();
        match self {
            Self::Direct => work.run(),
            Self::Permit => {
                let permits = PERMITS.get_or_init(|| Semaphore::default_new(work.extra()));
                let permit = blocking_permit_future(permits).make_sync().await.expect("the semaphore stays open");
                permit.run(|| work.run())
            }
            Self::DispatchRx => {
                let result = dispatch_rx(move || work.run()).unwrap();
                result.await.expect("the pool stays open")
            }
            Self::SpawnBlocking => tokio::task::spawn_blocking(move || work.run()).await.expect("no job panics"),
        }
    }
}

fn batch(runtime: &Runtime, strategy: Strategy, work: Work) {
    let futures: FuturesUnordered<_> = (0..work.batch())
        .map(|_| runtime.spawn(async move { assert_eq!(100, strategy.perform(work).await) }))
        .collect();
    let join = runtime.spawn(async move {
        let results = futures.collect::<Vec<_>>().await;
        assert_eq!(work.batch(), results.iter().filter(|result| result.is_ok()).count());
    });
    runtime.block_on(join).expect("no job panics");
}

fn one_by_one(runtime: &Runtime, strategy: Strategy, work: Work, jobs: usize) {
    let all = runtime.spawn(async move {
        for _ in 0..jobs {
            assert_eq!(100, strategy.perform(work).await);
        }
    });
    runtime.block_on(all).expect("no job panics");
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [strategy, work, rest @ ..] = arguments.as_slice() else {
        return Err(USAGE.into());
    };
    let strategy = match *strategy {
        "direct" => Strategy::Direct,
        "permit" => Strategy::Permit,
        "dispatch_rx" => Strategy::DispatchRx,
        "spawn_blocking" => Strategy::SpawnBlocking,
        _ => return Err(format!("unknown strategy {strategy}").into()),
    };
    let work: Work = work.parse()?;
    let runtime = strategy.runtime(work, matches!(rest, ["echo", _]))?;
    let whole = || {
        batch(&runtime, strategy, work);
        Ok(())
    };
    match rest {
        [] => penstock_protocol::serve(Duration::ZERO, whole),
        ["echo", python] => penstock_protocol::echo::serve(&runtime, python, whole),
        [jobs] => {
            let jobs = jobs.parse()?;
            penstock_protocol::serve(Duration::ZERO, || {
                one_by_one(&runtime, strategy, work, jobs);
                Ok(())
            })
        }
        _ => Err(USAGE.into()),
    }
}
