//! Descriptors that wake who polls them: a [`Signal`] at once, an [`Alarm`] after a while.

#[cfg(not(loom))]
pub use real::{Alarm, Signal};

#[cfg(loom)]
pub use model::{Alarm, Signal};

#[cfg(not(loom))]
mod real {
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::time::Duration;

    use crate::{Error, Result};

    /// A descriptor that polls readable while it is raised: an eventfd, or a pipe where there is none.
    pub struct Signal {
        reader: OwnedFd,
        #[cfg(not(target_os = "linux"))]
        writer: OwnedFd,
    }

    impl Signal {
        #[cfg(target_os = "linux")]
        pub fn new() -> Result<Self> {
            use rustix::event::{EventfdFlags, eventfd};
            let reader =
                eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(Error::io("make an eventfd"))?;
            Ok(Self { reader })
        }

        #[cfg(not(target_os = "linux"))]
        pub fn new() -> Result<Self> {
            use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
            use rustix::io::{FdFlags, fcntl_setfd};
            let (reader, writer) = rustix::pipe::pipe().map_err(Error::io("make a pipe"))?;
            for end in [&reader, &writer] {
                fcntl_setfd(end, FdFlags::CLOEXEC).map_err(Error::io("set up a pipe"))?;
                let flags = fcntl_getfl(end).map_err(Error::io("set up a pipe"))?;
                fcntl_setfl(end, flags | OFlags::NONBLOCK).map_err(Error::io("set up a pipe"))?;
            }
            Ok(Self { reader, writer })
        }

        // A full pipe or counter is a raised signal, so failure to write is success; nothing else can fail here.

        #[cfg(target_os = "linux")]
        pub fn raise(&self) {
            let _ = rustix::io::write(&self.reader, &1_u64.to_ne_bytes());
        }

        #[cfg(not(target_os = "linux"))]
        pub fn raise(&self) {
            let _ = rustix::io::write(&self.writer, b"!");
        }

        pub fn lower(&self) {
            let mut buffer = [0_u8; 64];
            while matches!(rustix::io::read(&self.reader, &mut buffer), Ok(n) if n == buffer.len()) {}
        }
    }

    impl AsFd for Signal {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.reader.as_fd()
        }
    }

    /// A descriptor that polls readable from so long after it was set until it is stopped, where the kernel has such.
    pub struct Alarm(#[cfg(target_os = "linux")] OwnedFd);

    #[cfg(target_os = "linux")]
    impl Alarm {
        pub fn new() -> Result<Self> {
            use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
                .map(Self)
                .map_err(Error::io("make a timer"))
        }

        pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            Some(self.0.as_fd())
        }

        /// False: it can't be.
        pub fn set(&self, after: Duration) -> bool {
            self.settle(after).is_ok()
        }

        /// Clears what it has rung, too.
        pub fn stop(&self) {
            // An alarm that could be set can be stopped.
            let _ = self.settle(Duration::ZERO);
        }

        fn settle(&self, after: Duration) -> rustix::io::Result<()> {
            use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
            let it_value = Timespec::try_from(after).map_err(|_| rustix::io::Errno::INVAL)?;
            let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value }).map(drop)
        }
    }

    #[cfg(not(target_os = "linux"))]
    impl Alarm {
        pub fn new() -> Result<Self> {
            Ok(Self())
        }

        pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        pub fn set(&self, _after: Duration) -> bool {
            false
        }

        pub fn stop(&self) {}
    }
}

#[cfg(loom)]
mod model {
    use std::time::Duration;

    use crate::sync::{Arc, Condvar, Mutex, wait};

    /// The alarm as loom sees it: it rings for whoever polls the signal, at once.
    pub struct Alarm(pub Signal);

    impl Alarm {
        pub fn set(&self, _after: Duration) -> bool {
            self.0.raise();
            true
        }

        pub fn stop(&self) {
            self.0.lower();
        }
    }

    /// The signal as loom sees it.
    #[derive(Clone, Default)]
    pub struct Signal(Arc<(Mutex<bool>, Condvar)>);

    impl Signal {
        pub fn raise(&self) {
            *self.0.0.lock() = true;
            self.0.1.notify_one();
        }

        pub fn lower(&self) {
            *self.0.0.lock() = false;
        }

        /// As a loop's poll does.
        pub fn poll(&self) {
            let mut raised = self.0.0.lock();
            while !*raised {
                raised = wait(&self.0.1, raised);
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn is_pending(bell: &impl AsFd, within: Duration) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::try_from(within).unwrap())).unwrap() == 1
    }

    #[test]
    fn a_signal_is_readable_from_raise_to_lower() {
        let signal = Signal::new().unwrap();
        assert!(!is_pending(&signal, Duration::ZERO));
        signal.raise();
        signal.raise();
        assert!(is_pending(&signal, Duration::ZERO));
        signal.lower();
        assert!(!is_pending(&signal, Duration::ZERO));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_alarm_is_readable_from_when_it_rings_until_it_is_stopped() {
        let alarm = Alarm::new().unwrap();
        let bell = alarm.descriptor().unwrap();
        assert!(alarm.set(Duration::from_secs(3600)));
        assert!(!is_pending(&bell, Duration::ZERO));
        assert!(alarm.set(Duration::from_micros(1)));
        assert!(is_pending(&bell, Duration::from_secs(10)));
        alarm.stop();
        assert!(!is_pending(&bell, Duration::ZERO));
    }
}
