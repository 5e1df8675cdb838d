//! Descriptors that somebody else owns: an event loop's sockets, known by their numbers.
//!
//! This module may hold `unsafe`: it borrows them, and fills windows that were lent for that.

#![allow(unsafe_code)]

use crate::body::slab::Window;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, RecvFlags, getpeername, getsockname, recv};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// Makes one call with a descriptor that somebody else owns.
fn with_theirs<T>(fd: RawFd, call: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    if fd < 0 {
        return Err(rustix::io::Errno::BADF);
    }
    // SAFETY: it isn't -1, and is borrowed for this one call, which its owner, our caller, doesn't close it in. Of a number that
    // isn't open the kernel says so.
    call(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// A duplicate of a descriptor that somebody else owns, to be used and closed independently of it.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    Ok(with_theirs(fd, |fd| rustix::io::fcntl_dupfd_cloexec(fd, 0))?)
}

/// Whether reading from a descriptor that somebody else owns would give something at once, its end included.
pub fn is_readable(fd: RawFd) -> bool {
    let poll =
        |fd: BorrowedFd<'_>| rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default()));
    with_theirs(fd, poll).is_ok_and(|n| n > 0)
}

/// Whether the peer of a socket that somebody else owns is on this machine: by a Unix socket, or an address of loopback or
/// the same at both ends. One that can't be told isn't.
pub fn is_local(socket: RawFd) -> bool {
    let ends = with_theirs(socket, |socket| Ok((getsockname(socket)?, getpeername(socket)?)));
    let Ok((own, Some(peer))) = ends else { return false };
    if peer.address_family() == AddressFamily::UNIX {
        return true;
    }
    let [own, peer] = [own, peer].map(|end| SocketAddr::try_from(end).ok().map(|end| end.ip().to_canonical()));
    peer.is_some_and(|peer| own == Some(peer) || peer.is_loopback())
}

/// Receives what lies in a socket that somebody else owns, into a window that is lent for this. `None`: there is nothing at
/// present, or its end.
pub fn receive(socket: RawFd, window: Window) -> io::Result<Option<usize>> {
    // SAFETY: the window keeps these bytes alive. Nobody looks at them meanwhile: what a transport may still hold is a view of
    // the window before, which it has handed over.
    let room = unsafe { std::slice::from_raw_parts_mut(window.as_mut_ptr(), window.len()) };
    match with_theirs(socket, |socket| recv(socket, room, RecvFlags::DONTWAIT)) {
        Ok((_, count)) => Ok(Some(count).filter(|&count| count > 0)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_peer_by_a_unix_socket_or_by_loopback_is_on_this_machine() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(is_local(ours.as_raw_fd()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_local(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap().as_raw_fd()));
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        assert!(is_local(TcpStream::connect((mapped, port)).unwrap().as_raw_fd()));
        if let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
            assert!(is_local(TcpStream::connect(listener.local_addr().unwrap()).unwrap().as_raw_fd()));
        }
    }

    #[test]
    fn who_has_no_peer_is_not_told_to_have_one_on_this_machine() {
        assert!(!is_local(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().as_raw_fd()));
        assert!(!is_local(-1));
    }
}
