//! The floor: drains responses from all connections into one reused buffer and keeps nothing.
//!
//! Speaks the protocol of `penstock.bench.worker`: `batch N` on a line of stdin is answered with a line of JSON. It parses
//! nothing: how long a response is on the wire is learned from one that the server ends by closing.
//! Started by the benchmark driver as `penstock-floor URL SIZE CHUNK CONNECTIONS`.

use std::error::Error;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Usage, UsageWho, getrusage};

const BUFFER: usize = 256 * 1024;

struct Floor {
    connections: Vec<TcpStream>,
    epoll: Epoll,
    buffer: Vec<u8>,
    request: String,
    wire: usize,
}

impl Floor {
    fn open(host: &str, path: &str, count: usize) -> Result<Self, Box<dyn Error>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            let connection = TcpStream::connect(host)?;
            connection.set_nodelay(true)?;
            connection.set_nonblocking(true)?;
            epoll.add(&connection, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            connections.push(connection);
        }
        Ok(Self {
            connections,
            epoll,
            buffer: vec![1; BUFFER],
            request: format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            wire: wire_length(host, path)?,
        })
    }

    fn batch(&mut self) -> Result<(), Box<dyn Error>> {
        for connection in &mut self.connections {
            connection.write_all(self.request.as_bytes())?;
        }
        let mut left = vec![self.wire; self.connections.len()];
        let mut open = left.len();
        let mut events = vec![EpollEvent::empty(); left.len()];
        while open > 0 {
            let ready = self.epoll.wait(&mut events, EpollTimeout::NONE)?;
            for event in &events[..ready] {
                let index = event.data() as usize;
                loop {
                    match self.connections[index].read(&mut self.buffer) {
                        Ok(0) => return Err("the server closed a connection".into()),
                        Ok(count) => {
                            left[index] = left[index].checked_sub(count).ok_or("more came than was asked for")?
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error.into()),
                    }
                    if left[index] == 0 {
                        open -= 1;
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

fn wire_length(host: &str, path: &str) -> io::Result<usize> {
    let mut connection = TcpStream::connect(host)?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    Ok(io::copy(&mut connection, &mut io::sink())? as usize)
}

fn cpu_ms(usage: &Usage) -> (f64, f64) {
    let user = usage.user_time();
    let system = usage.system_time();
    let ms = |seconds: i64, micros: i64| seconds as f64 * 1e3 + micros as f64 / 1e3;
    (ms(user.tv_sec(), user.tv_usec()), ms(system.tv_sec(), system.tv_usec()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, size, chunk, connections] = arguments.as_slice() else {
        return Err("usage: penstock-floor URL SIZE CHUNK CONNECTIONS".into());
    };
    let host = url.strip_prefix("http://").ok_or("the URL must begin with http://")?;
    let mut floor = Floor::open(host, &format!("/{size}/{chunk}"), connections.parse()?)?;
    println!("{{\"ready\": true}}");
    for command in io::stdin().lock().lines() {
        let command = command?;
        let count: usize = command.strip_prefix("batch ").ok_or("the only command is: batch N")?.parse()?;
        let mut walls = Vec::with_capacity(count);
        let before = cpu_ms(&getrusage(UsageWho::RUSAGE_SELF)?);
        for _ in 0..count {
            let start = Instant::now();
            floor.batch()?;
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
