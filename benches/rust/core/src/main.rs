//! penstock-core without Python, on tokio: blocking work by its semaphore and its pool, beside other semaphores and queues
//! in their place, which exist inside these benchmarks only.
//!
//! Started by the benchmark driver as `penstock-from-rust blocking STRATEGY WORK JOBS THREADS [echo PYTHON]`, as
//! `penstock-from-rust semaphore KIND free|contended|cancelled JOBS`, as
//! `penstock-from-rust stream SCENARIO POLICY DIRECTORY`, or as a client, of which `client.rs` says more.

mod client;
mod connection;
mod permits;
mod policy;
mod queues;
mod strategy;
mod stream;
mod summary;
mod takes;

use std::error::Error;
use std::time::Duration;

use strategy::Strategy;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["blocking", strategy, work, jobs, threads] => {
            let strategy = Strategy::open(strategy, threads.parse()?, false)?;
            let (work, jobs) = (work.parse()?, jobs.parse()?);
            penstock_protocol::serve(Duration::ZERO, || strategy.batch(work, jobs))
        }
        ["blocking", strategy, work, jobs, threads, "echo", python] => {
            let strategy = Strategy::open(strategy, threads.parse()?, true)?;
            let (work, jobs) = (work.parse()?, jobs.parse()?);
            penstock_protocol::echo::serve(&strategy.runtime, python, || strategy.batch(work, jobs))
        }
        ["semaphore", kind, shape, jobs] => {
            let jobs = jobs.parse()?;
            let takes = takes::Takes::open(kind, shape)?;
            penstock_protocol::serve(Duration::ZERO, || takes.batch(jobs))
        }
        ["client", rest @ ..] => client::main(rest),
        ["stream", scenario, policy, directory] => stream::main(scenario, policy, directory),
        _ => Err(
            "usage: penstock-from-rust blocking STRATEGY WORK JOBS THREADS [echo PYTHON] | semaphore KIND SHAPE JOBS \
                  | stream SCENARIO POLICY DIRECTORY | client \
                  SCENARIO POLICY PASSES MAX_BODY_RAM DIRECTORY URL SIZES CHUNK CONNECTIONS"
                .into(),
        ),
    }
}
