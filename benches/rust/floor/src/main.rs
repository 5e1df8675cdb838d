//! What the rows are held against, by hand and without a library.
//!
//! `forget` is the floor: responses from all connections are drained into one reused buffer and nothing is kept. The other
//! ways do what a scenario asks for with the fewest calls that the kernel offers, so that a reader sees how much of a row
//! is the machine's: they keep the bytes as they come, framing included, and read each response once when it is complete.
//!
//! It parses nothing: how long a response is on the wire is learned from one that the server ends by closing.
//! Started by the benchmark driver as `penstock-floor WAY DIRECTORY URL SIZE CHUNK CONNECTIONS`.

mod keep;

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use keep::{Store, Way};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

struct Floor {
    connections: Vec<TcpStream>,
    epoll: Epoll,
    store: Store,
    request: String,
    wire: usize,
}

impl Floor {
    fn open(way: Way, dir: &Path, host: &str, path: &str, count: usize) -> Result<Self, Box<dyn Error>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            let connection = TcpStream::connect(host)?;
            connection.set_nodelay(true)?;
            connection.set_nonblocking(true)?;
            epoll.add(&connection, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            connections.push(connection);
        }
        let wire = wire_length(host, path)?;
        let store = Store::new(way, dir, count, wire)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        Ok(Self { connections, epoll, store, request, wire })
    }

    fn batch(&mut self) -> Result<(), Box<dyn Error>> {
        for connection in &mut self.connections {
            connection.write_all(self.request.as_bytes())?;
        }
        let mut received = vec![0; self.connections.len()];
        let mut open = received.len();
        let mut events = vec![EpollEvent::empty(); received.len()];
        while open > 0 {
            let ready = self.epoll.wait(&mut events, EpollTimeout::NONE)?;
            for event in &events[..ready] {
                let index = event.data() as usize;
                let connection = &mut self.connections[index];
                let mut read = |window: &mut [u8]| connection.read(window);
                match self.store.receive(index, received[index], &mut read) {
                    Ok(0) => return Err("the server closed a connection".into()),
                    Ok(count) => received[index] += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error.into()),
                }
                if received[index] >= self.wire {
                    if received[index] > self.wire {
                        return Err("more came than was asked for".into());
                    }
                    self.store.look(index, self.wire)?;
                    open -= 1;
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

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, dir, url, size, chunk, connections] = arguments.as_slice() else {
        return Err("usage: penstock-floor WAY DIRECTORY URL SIZE CHUNK CONNECTIONS".into());
    };
    let host = url.strip_prefix("http://").ok_or("the URL must begin with http://")?;
    let path = format!("/{size}/{chunk}");
    let mut floor = Floor::open(way.parse()?, Path::new(dir), host, &path, connections.parse()?)?;
    penstock_protocol::serve(Duration::ZERO, || floor.batch())
}
