//! What a draining worker waits with: sockets that have something, and to be woken. Where there is no epoll(7) no worker can
//! be had; a body is received by the loop that owns its socket then.

pub use real::{Events, Poller};

/// A socket has something to be read.
pub struct Event {
    pub token: u64,
    /// The peer has closed or failed: no further event will come.
    pub ending: bool,
    /// The peer has sent urgent data.
    pub urgent: bool,
}

#[cfg(target_os = "linux")]
mod real {
    use super::Event;
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
    use rustix::event::{EventfdFlags, Timespec, eventfd};
    use rustix::io::Errno;
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    /// The token of the eventfd among those of sockets, which count from 1.
    const WAKE: u64 = 0;

    pub struct Poller {
        epoll: OwnedFd,
        wake: OwnedFd,
    }

    pub struct Events(Vec<epoll::Event>);

    impl Poller {
        pub fn new() -> io::Result<Self> {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
            Ok(Self { epoll, wake })
        }

        /// Has whatever comes from now on, or is there, end a wait, once: by edges. `token` isn't 0.
        pub fn add(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
            let flags = EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
            Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token), flags)?)
        }

        pub fn delete(&self, socket: impl AsFd) {
            let _ = epoll::delete(&self.epoll, socket);
        }

        pub fn wake(&self) {
            // Full is signalled, too.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }

        /// Waits for events, so long at most. True: it was woken.
        pub fn wait(&self, events: &mut Events, limit: Option<Duration>) -> io::Result<bool> {
            events.0.clear();
            let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events.0), limit.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let woken = events.0.iter().map(|event| event.data).any(|data| data.u64() == WAKE);
            if woken {
                let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            }
            Ok(woken)
        }
    }

    impl Events {
        pub fn new() -> Self {
            Self(Vec::with_capacity(64))
        }

        pub fn iter(&self) -> impl Iterator<Item = Event> {
            // Its fields aren't aligned.
            let each = self.0.iter().map(|event| (event.data, event.flags));
            each.filter(|(data, _)| data.u64() != WAKE).map(|(data, flags)| Event {
                token: data.u64(),
                ending: flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
                urgent: flags.contains(EventFlags::PRI),
            })
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod real {
    use super::Event;
    use std::convert::Infallible;
    use std::io;
    use std::os::fd::AsFd;
    use std::time::Duration;

    pub struct Poller(Infallible);

    pub struct Events;

    impl Poller {
        pub fn new() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub fn add(&self, _socket: impl AsFd, _token: u64) -> io::Result<()> {
            match self.0 {}
        }

        pub fn delete(&self, _socket: impl AsFd) {
            match self.0 {}
        }

        pub fn wake(&self) {
            match self.0 {}
        }

        pub fn wait(&self, _events: &mut Events, _limit: Option<Duration>) -> io::Result<bool> {
            match self.0 {}
        }
    }

    impl Events {
        pub fn new() -> Self {
            Self
        }

        pub fn iter(&self) -> impl Iterator<Item = Event> {
            std::iter::empty()
        }
    }
}
