//! Descriptors that somebody else owns: an event loop's sockets, known by their numbers.
//!
//! This module may hold `unsafe`: it borrows them, and fills windows that were lent for that.

#![allow(unsafe_code)]

use crate::body::slab::Window;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, recv};
use std::io;
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
