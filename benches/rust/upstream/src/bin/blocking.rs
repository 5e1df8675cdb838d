//! Upstream's benchmarks of blocking work, as its crate `blocking-permit` has them: noop, expensive and sleep, directly,
//! under a permit, by `dispatch_rx`, and by tokio's `spawn_blocking`.
//!
//! Speaks the protocol of `penstock.bench.worker`: `batch N` on a line of stdin is answered with a line of JSON. Threads,
//! batches and delays are upstream's. The generator of random numbers is not: it is the one that penstock's own native job
//! uses, so that both do the same.
//! Started by the benchmark driver as `blocking STRATEGY WORK`.

use std::cell::Cell;
use std::error::Error;
use std::io::{self, BufRead};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use blocking_permit::{
    DispatchPool, Semaphore, Semaphorish, blocking_permit_future, deregister_dispatch_pool, dispatch_rx,
    register_dispatch_pool,
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use tokio::runtime::{Builder, Runtime};

const CORE_THREADS: usize = 4;
const DELAYS: [u64; 10] = [1, 2, 3, 4, 5, 6, 7, 8, 12, 49];

/// The operation under test.
#[derive(Clone, Copy)]
enum Work {
    Noop,
    Expensive,
    Sleep,
}

impl Work {
    fn batch(self) -> usize {
        if matches!(self, Self::Sleep) { 200 } else { 100 }
    }

    /// Threads for blocking work, and permits.
    fn extra(self) -> usize {
        if matches!(self, Self::Sleep) { 40 } else { 4 }
    }

    fn run(self) -> usize {
        match self {
            Self::Noop => 100,
            Self::Expensive => expensive(),
            Self::Sleep => {
                thread::sleep(Duration::from_micros(DELAYS[random(DELAYS.len() as u64)]));
                100
            }
        }
    }
}

/// xorshift64*, reduced to less than `bound`: as in `rust/native/src/jobs.rs`.
fn random(bound: u64) -> usize {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0x9E37_79B9_7F4A_7C15) });
    STATE.with(|state| {
        let mut value = state.get();
        value ^= value >> 12;
        value ^= value << 25;
        value ^= value >> 27;
        state.set(value);
        ((u128::from(value.wrapping_mul(0x2545_F491_4F6C_DD1D)) * u128::from(bound)) >> 64) as usize
    })
}

fn expensive() -> usize {
    let mut values: Vec<usize> = (500..800).map(|value| value % 101).collect();
    for last in (1..values.len()).rev() {
        values.swap(last, random(last as u64 + 1));
    }
    values.sort();
    values[values.len() - 1]
}

#[derive(Clone, Copy)]
enum Strategy {
    Direct,
    Permit,
    DispatchRx,
    SpawnBlocking,
}

impl Strategy {
    fn runtime(self, work: Work) -> io::Result<Runtime> {
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

fn cpu_ms(usage: &Usage) -> (f64, f64) {
    let user = usage.user_time();
    let system = usage.system_time();
    let ms = |seconds: i64, micros: i64| seconds as f64 * 1e3 + micros as f64 / 1e3;
    (ms(user.tv_sec(), user.tv_usec()), ms(system.tv_sec(), system.tv_usec()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [strategy, work] = arguments.as_slice() else {
        return Err("usage: blocking direct|permit|dispatch_rx|spawn_blocking noop|expensive|sleep".into());
    };
    let strategy = match strategy.as_str() {
        "direct" => Strategy::Direct,
        "permit" => Strategy::Permit,
        "dispatch_rx" => Strategy::DispatchRx,
        "spawn_blocking" => Strategy::SpawnBlocking,
        _ => return Err(format!("unknown strategy {strategy}").into()),
    };
    let work = match work.as_str() {
        "noop" => Work::Noop,
        "expensive" => Work::Expensive,
        "sleep" => Work::Sleep,
        _ => return Err(format!("unknown work {work}").into()),
    };
    let runtime = strategy.runtime(work)?;
    println!("{{\"ready\": true}}");
    for command in io::stdin().lock().lines() {
        let command = command?;
        let count: usize = command.strip_prefix("batch ").ok_or("the only command is: batch N")?.parse()?;
        let mut walls = Vec::with_capacity(count);
        let before = cpu_ms(&getrusage(UsageWho::RUSAGE_SELF)?);
        for _ in 0..count {
            let start = Instant::now();
            batch(&runtime, strategy, work);
            walls.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let after = cpu_ms(&usage);
        println!(
            "{{\"wall_ms\": {walls:?}, \"user_ms\": {}, \"system_ms\": {}, \"rss_bytes\": {}}}",
            after.0 - before.0,
            after.1 - before.1,
            usage.max_rss() * 1024,
        );
    }
    Ok(())
}
