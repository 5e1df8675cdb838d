//! Rows of echoes: what a program's batches do to the connections that its runtime serves meanwhile.
//!
//! As `penstock.bench.echo` has it for Python's loops, and with its process of clients, which asks, and gives the times of
//! the round trips.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::{Failure, answer, peak_bytes, used_ms};

/// A batch begins so often, or when the last has ended: as in Python.
const PERIOD: Duration = Duration::from_millis(25);

/// As [`crate::serve`], for `echo` and `helpers`. The clients are modules of `python`; the runtime has its I/O enabled.
pub fn serve(runtime: &Runtime, python: &str, mut batch: impl FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let port = listener.local_addr()?.port().to_string();
    runtime.spawn(accept(listener));
    let mut clients = Command::new(python)
        .args(["-m", "penstock.bench.echo", &port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let helpers = format!("{{\"helpers\": [{}]}}", clients.id());
    let mut questions = clients.stdin.take().ok_or("the clients have no stdin")?;
    let answers = lines(clients.stdout.take().ok_or("the clients have no stdout")?);
    answers.recv()??;
    answer(|command| match command {
        "helpers" => Ok(helpers.clone()),
        "echo" => {
            questions.write_all(b"ask\n")?;
            beside(&mut batch, &answers)
        }
        _ => Err(format!("unknown command {command:?}").into()),
    })?;
    drop(questions);
    clients.wait()?;
    Ok(())
}

async fn accept(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(echo(stream));
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    // As asyncio's sockets have it.
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

/// What a process says, so that its next line can be awaited for a while only.
fn lines(output: impl io::Read + Send + 'static) -> Receiver<io::Result<String>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || BufReader::new(output).lines().try_for_each(|line| sender.send(line)));
    receiver
}

/// Runs batches until the clients have their answer, and puts the means of the batches in front of what they say.
fn beside(
    batch: &mut impl FnMut() -> Result<(), Failure>,
    answers: &Receiver<io::Result<String>>,
) -> Result<String, Failure> {
    let mut walls = Vec::new();
    let before = used_ms()?;
    let trips = loop {
        let start = Instant::now();
        batch()?;
        let wall = start.elapsed();
        walls.push(wall.as_secs_f64() * 1e3);
        match answers.recv_timeout(PERIOD.saturating_sub(wall)) {
            Ok(line) => break line?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("the clients of the echoes have ended".into()),
        }
    };
    let after = used_ms()?;
    let count = walls.len() as f64;
    Ok(format!(
        "{{\"wall_ms\": {}, \"user_ms\": {}, \"system_ms\": {}, \"rss_bytes\": {}, {}",
        walls.iter().sum::<f64>() / count,
        (after.0 - before.0) / count,
        (after.1 - before.1) / count,
        peak_bytes()?,
        trips.trim_start_matches('{'),
    ))
}
