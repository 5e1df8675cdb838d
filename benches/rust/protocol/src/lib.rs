//! What the native programs of the benchmarks share: the driver's protocol, and the work that is upstream's.

pub mod archive;
#[cfg(feature = "echo")]
pub mod echo;
mod work;

use std::error::Error;
use std::fs;
use std::io::{self, BufRead};
use std::mem;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

pub use work::Work;

pub type Failure = Box<dyn Error>;

/// What a program is asked for.
pub trait Row {
    /// What is timed.
    fn batch(&mut self) -> Result<(), Failure>;

    /// What is done before each batch, and isn't counted.
    fn prepare(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// The milliseconds of each request of the last batch, if that is what it consists of.
    fn requests(&mut self) -> Vec<f64> {
        Vec::new()
    }

    /// The answer to `check`, outside of what is timed.
    fn check(&mut self) -> Result<String, Failure> {
        Err("there is nothing to check".into())
    }
}

/// A row that is nothing but its batches.
struct Batches<F>(F);

impl<F: FnMut() -> Result<(), Failure>> Row for Batches<F> {
    fn batch(&mut self) -> Result<(), Failure> {
        (self.0)()
    }
}

/// As [`serve_row`], for what has to do nothing but its batches.
pub fn serve(settle: Duration, batch: impl FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
    serve_row(settle, &mut Batches(batch))
}

/// As [`serve_row`], for batches of requests, which give the milliseconds of each.
pub fn serve_requests(settle: Duration, batch: impl FnMut() -> Result<Vec<f64>, Failure>) -> Result<(), Failure> {
    serve_row(settle, &mut Requests { batch, times: Vec::new() })
}

struct Requests<F> {
    batch: F,
    times: Vec<f64>,
}

impl<F: FnMut() -> Result<Vec<f64>, Failure>> Row for Requests<F> {
    fn batch(&mut self) -> Result<(), Failure> {
        self.times = (self.batch)()?;
        Ok(())
    }

    fn requests(&mut self) -> Vec<f64> {
        mem::take(&mut self.times)
    }
}

/// Speaks the protocol of `penstock.bench.worker`: `batch N`, `check` or `grow` on a line of stdin is answered with a line
/// of JSON. What is freed within `settle` of the last batch is paid for by that batch's CPU time.
pub fn serve_row(settle: Duration, row: &mut impl Row) -> Result<(), Failure> {
    answer(|command| match command.split_once(' ') {
        Some(("batch", count)) => Ok(format!("{{{}}}", batches(row, settle, count.parse()?)?)),
        None if command == "check" => row.check(),
        None if command == "grow" => growth(row, settle),
        _ => Err(format!("unknown command {command:?}").into()),
    })
}

/// Says that the program is ready, and answers each command.
fn answer(mut obey: impl FnMut(&str) -> Result<String, Failure>) -> Result<(), Failure> {
    println!("{{\"ready\": true}}");
    for command in io::stdin().lock().lines() {
        println!("{}", obey(&command?)?);
    }
    Ok(())
}

fn batches(row: &mut impl Row, settle: Duration, count: usize) -> Result<String, Failure> {
    let mut walls = Vec::with_capacity(count);
    let mut requests = Vec::with_capacity(count);
    let (mut user, mut system) = (0.0, 0.0);
    for number in 1..=count {
        row.prepare()?;
        let before = used_ms()?;
        let start = Instant::now();
        row.batch()?;
        walls.push(start.elapsed().as_secs_f64() * 1e3);
        requests.push(row.requests());
        if number == count {
            thread::sleep(settle);
        }
        let after = used_ms()?;
        user += after.0 - before.0;
        system += after.1 - before.1;
    }
    let peak = getrusage(UsageWho::RUSAGE_SELF)?.max_rss() * 1024;
    Ok(format!(
        "\"wall_ms\": {walls:?}, \"request_ms\": {requests:?}, \"user_ms\": {user}, \"system_ms\": {system}, \
         \"rss_bytes\": {peak}"
    ))
}

/// One batch, with what it adds to the most memory that is resident.
fn growth(row: &mut impl Row, settle: Duration) -> Result<String, Failure> {
    // proc_pid_clear_refs(5): writing 5 resets the peak to what is resident now.
    fs::write("/proc/self/clear_refs", "5")?;
    let before = peak_bytes()?;
    let figures = batches(row, settle, 1)?;
    Ok(format!("{{{figures}, \"growth_bytes\": {}}}", peak_bytes()? - before))
}

fn peak_bytes() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    Ok(peak.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// The CPU time of this process so far, its own and the kernel's.
fn used_ms() -> Result<(f64, f64), Failure> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let user = usage.user_time();
    let system = usage.system_time();
    let ms = |seconds: i64, micros: i64| seconds as f64 * 1e3 + micros as f64 / 1e3;
    Ok((ms(user.tv_sec(), user.tv_usec()), ms(system.tv_sec(), system.tv_usec())))
}
