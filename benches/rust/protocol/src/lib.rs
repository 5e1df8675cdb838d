//! What the native programs of the benchmarks share: the driver's protocol, and the work that is upstream's.

mod work;

use std::error::Error;
use std::io::{self, BufRead};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};

pub use work::Work;

/// Speaks the protocol of `penstock.bench.worker`: `batch N` on a line of stdin is answered with a line of JSON. What is
/// freed within `settle` of the last batch is paid for by that batch's CPU time.
pub fn serve(settle: Duration, mut batch: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    println!("{{\"ready\": true}}");
    for command in io::stdin().lock().lines() {
        let command = command?;
        let count: usize = command.strip_prefix("batch ").ok_or("the only command is: batch N")?.parse()?;
        let mut walls = Vec::with_capacity(count);
        let before = cpu_ms(&getrusage(UsageWho::RUSAGE_SELF)?);
        for _ in 0..count {
            let start = Instant::now();
            batch()?;
            walls.push(start.elapsed().as_secs_f64() * 1e3);
        }
        thread::sleep(settle);
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

fn cpu_ms(usage: &Usage) -> (f64, f64) {
    let user = usage.user_time();
    let system = usage.system_time();
    let ms = |seconds: i64, micros: i64| seconds as f64 * 1e3 + micros as f64 / 1e3;
    (ms(user.tv_sec(), user.tv_usec()), ms(system.tv_sec(), system.tv_usec()))
}
