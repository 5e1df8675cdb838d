//! One enum for everything that can fail in the core. A message says what happened, the value seen, the limit, and
//! the setting that changes it; the binding maps each variant to one Python exception.

use crate::barc::Damage;
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// What a [`Budget`](crate::body::Budget) counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    Ram,
    Disk,
    Files,
}

impl Resource {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ram => "ram",
            Self::Disk => "disk",
            Self::Files => "files",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("body of at least {seen} bytes is over the limit of {limit} bytes (Tunables.max_body)")]
    BodyTooLong { seen: u64, limit: u64 },
    #[error("announced content-length of {seen} bytes is over the limit of {limit} bytes (Tunables.max_body)")]
    ContentLengthTooLong { seen: u64, limit: u64 },
    #[error("{what}: {seen} is over the limit of {limit} ({setting})")]
    HeadTooLong { what: &'static str, seen: u64, limit: u64, setting: &'static str },
    #[error("decoded body of at least {seen} bytes is over the limit of {limit} bytes ({setting})")]
    DecodedTooLong { seen: u64, limit: u64, setting: &'static str },
    #[error(
        "no budget for {wanted} more of {}: {used} of {limit} are in use (Budget.{})",
        resource.name(), resource.name()
    )]
    BudgetExceeded {
        resource: Resource,
        wanted: u64,
        used: u64,
        limit: u64,
        /// Whether it is over the limit with what it has itself: all that others give back wouldn't be enough.
        hopeless: bool,
    },
    #[error("no space for a body in {}: {source} (Tunables.temp_dir)", dir.display())]
    StorageFull { dir: PathBuf, source: io::Error },
    #[error("cannot make a temporary file in {}: {source} (Tunables.temp_dir)", dir.display())]
    TempDir { dir: PathBuf, source: io::Error },
    #[error("body ended after {received} bytes{}", expected.map_or(String::new(), |n| format!(" of {n}")))]
    Truncated { received: u64, expected: Option<u64> },
    #[error("{coding} data is cut: the body ended after {received} bytes of it")]
    CutCoding { coding: &'static str, received: u64 },
    #[error("not valid {coding}: {what} (at byte {at} of what {coding} is taken off)")]
    Decode { coding: &'static str, what: String, at: u64 },
    #[error("coding \"{coding}\" is not one of gzip, deflate, br, zstd (decode=False leaves it on the body)")]
    UnsupportedEncoding { coding: String },
    #[error("{seen} codings on one body are over the limit of {limit} (decode=False leaves them on it)")]
    TooManyCodings { seen: usize, limit: usize },
    #[error("connection closed by the peer {0}")]
    ConnectionLost(&'static str),
    #[error("not valid HTTP/1.1: {what} (at byte {at} of the response)")]
    Protocol { what: String, at: u64 },
    #[error("record at byte {offset} of the archive: {damage}")]
    Archive {
        offset: u64,
        damage: Damage,
        /// Where the record ends by its own word, if that can be told.
        end: Option<u64>,
    },
    #[error("the archive is closed")]
    ArchiveClosed,
    #[error("the semaphore is closed")]
    SemaphoreClosed,
    #[error("released more permits than were acquired")]
    NotAcquired,
    #[error("the pool's queue is full (DispatchPool.queue_length={limit}){}", without_threads(*limit))]
    PoolFull { limit: usize },
    #[error("the pool is closed")]
    PoolClosed,
    #[error("cannot start thread {number} of {threads} of the pool {pool}* ({settings}): {source}")]
    NoThread { pool: String, number: usize, threads: usize, settings: &'static str, source: io::Error },
    #[error("{name}={value}: {reason}")]
    Setting { name: String, value: String, reason: String },
    #[error("cannot {doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
    #[error("writing the body failed before: the sink takes no more")]
    SinkFailed,
    #[error("cancelled")]
    Cancelled,
    /// What can't happen did. Not [`Cancelled`](Self::Cancelled), which nobody would hear of.
    #[error("{0}")]
    Internal(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// Why a pool without threads refuses a job: where one may run on the calling thread, it does.
const fn without_threads(limit: usize) -> &'static str {
    if limit == 0 { ": without threads, jobs run on the calling thread, but never on one that runs a loop" } else { "" }
}

impl Error {
    /// For `map_err`: names what was being done when the system call failed.
    pub fn io<E: Into<io::Error>>(doing: &'static str) -> impl Fn(E) -> Self + Copy {
        move |source| Self::Io { doing, source: source.into() }
    }

    /// As `io`, for what was done to a file that has a name.
    pub fn file<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl Fn(E) -> Self + Copy {
        move |source| Self::File { doing, path: path.to_owned(), source: source.into() }
    }

    pub fn internal(what: &str) -> Self {
        Self::Internal(format!("bug in penstock: {what}"))
    }

    /// `value` is shown as it was given.
    pub fn setting(name: impl Into<String>, value: impl ToString, reason: impl Into<String>) -> Self {
        Self::Setting { name: name.into(), value: value.to_string(), reason: reason.into() }
    }

    pub fn protocol(what: impl Into<String>, at: u64) -> Self {
        Self::Protocol { what: what.into(), at }
    }

    /// Runs what others wrote; a panic in it is an error. To be called by who looks at nothing afterwards that it may have
    /// left half changed.
    pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T> {
        catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
            let text = payload
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "without a message".to_owned());
            Self::Internal(format!("panic in penstock: {text}"))
        })
    }
}
