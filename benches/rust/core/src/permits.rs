//! Semaphores as futures: penstock-core's, tokio's, and futures-intrusive's with and without the wrapper that makes its
//! future `Sync`, which upstream needed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use futures_intrusive::sync::{Semaphore as Intrusive, SemaphoreAcquireFuture, SemaphoreReleaser};
use penstock_core::permit::{Acquire, Grant, Semaphore as Ours};
use tokio::sync::{Semaphore as Tokio, SemaphorePermit, oneshot};

pub enum Permits {
    Ours(Ours),
    Tokio(Tokio),
    Intrusive(Intrusive),
    IntrusiveSync(Intrusive),
}

/// Its drop gives the permit back.
#[expect(dead_code, reason = "held for their drop")]
pub enum Permit<'a> {
    Ours(Grant),
    Tokio(SemaphorePermit<'a>),
    Intrusive(SemaphoreReleaser<'a>),
}

impl Permits {
    pub fn new(kind: &str, count: usize) -> Result<Self, String> {
        // As upstream makes it: fair.
        let intrusive = || Intrusive::new(true, count);
        match kind {
            "penstock" => Ok(Self::Ours(Ours::new(count))),
            "tokio" => Ok(Self::Tokio(Tokio::new(count))),
            "intrusive" => Ok(Self::Intrusive(intrusive())),
            "intrusive_sync" => Ok(Self::IntrusiveSync(intrusive())),
            _ => Err(format!("unknown semaphore {kind:?}")),
        }
    }

    pub async fn take(&self) -> Permit<'_> {
        match self {
            Self::Ours(permits) => Permit::Ours(ours(permits).await),
            Self::Tokio(permits) => Permit::Tokio(permits.acquire().await.expect("it stays open")),
            Self::Intrusive(permits) => Permit::Intrusive(permits.acquire(1).await),
            Self::IntrusiveSync(permits) => Permit::Intrusive(Wrapped(Mutex::new(permits.acquire(1))).await),
        }
    }
}

/// A waiter of penstock-core is a closure: here it sends to the task that waits. A dropped future leaves the queue.
async fn ours(permits: &Ours) -> Grant {
    if let Some(grant) = permits.try_acquire(1).expect("it stays open") {
        return grant;
    }
    let (sender, receiver) = oneshot::channel();
    match permits.acquire(1, move |grant| drop(sender.send(grant))).expect("it stays open") {
        Acquire::Granted(grant) => grant,
        Acquire::Queued(_ticket) => receiver.await.expect("a waiter is woken").expect("it stays open"),
    }
}

/// `Sync`, as upstream's wrapper is: by a mutex that nobody else locks.
struct Wrapped<'a>(Mutex<SemaphoreAcquireFuture<'a>>);

impl<'a> Future for Wrapped<'a> {
    type Output = SemaphoreReleaser<'a>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: the future is never moved out of the pinned mutex.
        let inner = unsafe { self.map_unchecked_mut(|wrapped| wrapped.0.get_mut().expect("nobody panics")) };
        inner.poll(context)
    }
}
