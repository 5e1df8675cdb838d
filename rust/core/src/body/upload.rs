//! A body on its way out to a plain socket from its file. Each step sends what the socket takes and doesn't wait for its
//! peer; it may wait for the disk. Who runs steps, and who waits for the socket between them, is the caller's business.

use super::file::BodyFile;
use super::image::{BodyImage, State};
use super::pools::Pools;
use super::slab::{SlabWriter, WINDOW};
use crate::{Error, Result, descriptor};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// No SIGPIPE from a peer that has gone: where there is no flag for that, the runtimes of Rust and Python ignore it.
#[cfg(target_os = "linux")]
const FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
#[cfg(not(target_os = "linux"))]
const FLAGS: SendFlags = SendFlags::DONTWAIT;

/// What is sent in one step at most, so that one body on a fast network doesn't keep a thread from the others.
const STEP: u64 = 4 << 20;

/// How bytes come from the file into the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The kernel gives it the file's pages (sendfile(2), Linux's).
    Pages,
    /// They are read and sent. A peer on this machine gets pages by 64 KiB at a time, is mostly faster than they come, and
    /// sleeps in between; to wake it so often may cost more than the copies. Not from a mapping, which saves one: not every
    /// file can be mapped, and where others shorten it, a mapping has zeros up to the end of a page.
    Copies,
}

pub struct Upload {
    way: Way,
    /// A descriptor of its own: steps may still run when the socket's owner has closed theirs.
    socket: OwnedFd,
    file: Arc<BodyFile>,
    start: u64,
    len: u64,
    sent: u64,
}

impl Upload {
    /// `None` if the body isn't in a file.
    pub fn new(image: &BodyImage, socket: RawFd) -> Result<Option<Self>> {
        let copies = descriptor::is_local(socket) || !cfg!(target_os = "linux");
        Self::by(if copies { Way::Copies } else { Way::Pages }, image, socket)
    }

    fn by(way: Way, image: &BodyImage, socket: RawFd) -> Result<Option<Self>> {
        match image.state() {
            State::File { file, offset } => {
                let socket = descriptor::duplicate(socket).map_err(Error::io("send a body from its file"))?;
                if way == Way::Pages {
                    file.will_be_sent();
                }
                Ok(Some(Self { way, socket, file: file.clone(), start: *offset, len: image.len(), sent: 0 }))
            }
            _ => Ok(None),
        }
    }

    pub fn socket(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn is_done(&self) -> bool {
        self.sent == self.len
    }

    /// Sends what the socket takes now; 0 if it takes nothing. May wait for the disk.
    pub fn step(&mut self) -> Result<u64> {
        let (begun, mut slab) = (self.sent, self.slab()?);
        while !self.is_done() && self.sent - begun < STEP {
            let most = (self.len - self.sent).min(STEP);
            let sent = match &mut slab {
                None => self.send_pages(most),
                Some(slab) => self.send_copy(most, slab)?,
            };
            match sent {
                Ok(0) => return Err(Error::Truncated { received: self.sent, expected: Some(self.len) }),
                Ok(n) => self.sent += n as u64,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // Not every file can give pages (sendfile(2)).
                Err(Errno::INVAL | Errno::NOSYS) if self.way == Way::Pages => {
                    self.way = Way::Copies;
                    slab = self.slab()?;
                }
                Err(errno) => return Err(Error::io("send a body from its file")(self.told(errno))),
            }
        }
        Ok(self.sent - begun)
    }

    /// What copies go through.
    fn slab(&self) -> Result<Option<SlabWriter>> {
        match self.way {
            Way::Pages => Ok(None),
            Way::Copies => Pools::current().slabs.take(WINDOW).map(Some),
        }
    }

    #[cfg(target_os = "linux")]
    fn send_pages(&self, most: u64) -> rustix::io::Result<usize> {
        let mut from = self.start + self.sent;
        rustix::fs::sendfile(&self.socket, &self.file, Some(&mut from), usize::try_from(most).unwrap_or(usize::MAX))
    }

    #[cfg(not(target_os = "linux"))]
    fn send_pages(&self, _most: u64) -> rustix::io::Result<usize> {
        Err(Errno::NOSYS)
    }

    /// What the socket doesn't take is read again by the next step: a body that waits for its peer holds no memory.
    fn send_copy(&self, most: u64, slab: &mut SlabWriter) -> Result<rustix::io::Result<usize>> {
        let room = slab.spare();
        let len = room.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        let read = self.file.read_at(room.get_mut(..len).unwrap_or_default(), self.start + self.sent)?;
        let piece = room.get(..read).unwrap_or_default();
        if piece.is_empty() {
            return Ok(Ok(0));
        }
        Ok(send(&self.socket, piece, FLAGS))
    }

    /// A connection may have ended in other ways than by a reset: it timed out, or there is no way to the peer any more. Those
    /// that look after connections needn't know them all. What is wrong with the file is told as it is.
    fn told(&self, errno: Errno) -> Errno {
        let mut polled = [PollFd::new(&self.socket, PollFlags::empty())];
        let asked = poll(&mut polled, Some(&Timespec::default())).is_ok();
        let has_ended = asked && polled.iter().any(|socket| socket.revents().contains(PollFlags::HUP));
        if has_ended && errno != Errno::PIPE { Errno::CONNRESET } else { errno }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::body::{BodySink, Budget, FilePool, Tunables};
    use crate::testing::Place;
    use std::io::Read as _;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::time::Duration;

    const WAYS: [Way; 2] = [Way::Pages, Way::Copies];

    #[allow(clippy::unwrap_used)]
    fn in_file(body: &[u8]) -> BodyImage {
        in_file_of(body, None)
    }

    #[allow(clippy::unwrap_used)]
    fn in_file_of(body: &[u8], files: Option<Arc<FilePool>>) -> BodyImage {
        let tunables = Tunables { max_body_ram: 0, ..Tunables::default() };
        let mut sink = BodySink::new(Arc::new(tunables), Budget::shared());
        sink.use_files(files);
        sink.push(body.to_vec().into()).unwrap();
        sink.run_work(true).unwrap();
        sink.prepare().unwrap()
    }

    #[test]
    fn what_the_socket_takes_is_sent_and_the_rest_when_there_is_room() {
        let body: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7) as u8).collect();
        for way in WAYS {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let mut upload = Upload::by(way, &in_file(&body), ours.as_raw_fd()).unwrap().unwrap();
            let (mut received, mut buffer, mut full) = (Vec::new(), vec![0; 100_000], 0);
            while !upload.is_done() {
                if upload.step().unwrap() == 0 {
                    full += 1;
                    let n = theirs.read(&mut buffer).unwrap();
                    received.extend_from_slice(&buffer[..n]);
                }
            }
            drop((upload, ours));
            theirs.read_to_end(&mut received).unwrap();
            assert!(received == body);
            assert!(full > 1);
        }
    }

    #[test]
    fn a_peer_that_has_gone_is_an_error() {
        for way in WAYS {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut upload = Upload::by(way, &in_file(b"body"), ours.as_raw_fd()).unwrap().unwrap();
            drop(theirs);
            assert!(matches!(upload.step(), Err(Error::Io { .. })));
        }
    }

    #[test]
    fn however_a_connection_has_ended_it_was_reset_and_a_file_that_fails_is_told_as_it_is() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let upload = Upload::new(&in_file(b"body"), ours.as_raw_fd()).unwrap().unwrap();
        assert_eq!([Errno::IO, Errno::TIMEDOUT].map(|errno| upload.told(errno)), [Errno::IO, Errno::TIMEDOUT]);
        drop(theirs);
        assert_eq!([Errno::TIMEDOUT, Errno::PIPE].map(|errno| upload.told(errno)), [Errno::CONNRESET, Errno::PIPE]);
    }

    #[test]
    fn a_file_is_not_written_over_while_the_peer_has_not_read_it() {
        let files = FilePool::new(1 << 20, Duration::from_secs(60));
        let body = |byte: u8| in_file_of(&[byte; 40_000], Some(files.clone()));
        drop(body(1));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut theirs = listener.accept().unwrap().0;
        let image = body(2);
        let mut upload = Upload::by(Way::Pages, &image, ours.as_raw_fd()).unwrap().unwrap();
        while !upload.is_done() {
            upload.step().unwrap();
        }
        ours.shutdown(Shutdown::Write).unwrap();
        drop((upload, image));
        let next = body(3);
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).unwrap();
        assert!(received == [2; 40_000]);
        drop(next);
    }

    #[test]
    fn a_file_that_has_become_shorter_is_told_with_how_much_was_sent() {
        for way in WAYS {
            let path = Place::new();
            std::fs::write(&path, [7; 1000]).unwrap();
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let image = BodyImage::from_path(&path, 0, None, false).unwrap();
            let mut upload = Upload::by(way, &image, ours.as_raw_fd()).unwrap().unwrap();
            std::fs::write(&path, [7; 10]).unwrap();
            assert!(matches!(upload.step(), Err(Error::Truncated { received: 10, expected: Some(1000) })));
        }
    }

    #[test]
    fn a_file_that_can_only_be_read_is_sent() {
        // Where they are: nobody can map them, and the second can't be sent by sendfile.
        let paths = ["/sys/kernel/notes", "/proc/config.gz"].map(Path::new);
        for (path, way) in paths.into_iter().flat_map(|path| WAYS.map(|way| (path, way))) {
            let Ok(body) = std::fs::read(path) else { continue };
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let image = BodyImage::from_path(path, 0, None, false).unwrap();
            let mut upload = Upload::by(way, &image, ours.as_raw_fd()).unwrap().unwrap();
            assert_eq!(upload.step().unwrap(), body.len() as u64);
            drop((upload, ours));
            let mut received = Vec::new();
            theirs.read_to_end(&mut received).unwrap();
            assert!(received == body);
        }
    }

    #[test]
    fn a_body_in_memory_is_not_sent_so() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(Upload::new(&BodyImage::from_piece(b"x"[..].into()), ours.as_raw_fd()).unwrap().is_none());
    }
}
