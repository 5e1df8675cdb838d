//! Semaphores by themselves, on a runtime of one thread, as a loop of Python's is: free, contended, and with waiters that
//! are cancelled.

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, yield_now};

use crate::permits::Permits;

const PERMITS: usize = 4;
/// How often each of the tasks that share the permits takes one.
const TAKES: usize = 3;

enum Shape {
    Free,
    Contended,
    Cancelled,
}

pub struct Takes {
    runtime: Runtime,
    permits: Arc<Permits>,
    shape: Shape,
}

impl Takes {
    pub fn open(kind: &str, shape: &str) -> Result<Self, Box<dyn Error>> {
        let shape = match shape {
            "free" => Shape::Free,
            "contended" => Shape::Contended,
            "cancelled" => Shape::Cancelled,
            _ => return Err(format!("unknown shape {shape:?}").into()),
        };
        let runtime = Builder::new_current_thread().build()?;
        Ok(Self { runtime, permits: Arc::new(Permits::new(kind, PERMITS)?), shape })
    }

    /// `jobs` times a permit is taken, or waited for in vain.
    pub fn batch(&self, jobs: usize) -> Result<(), Box<dyn Error>> {
        let permits = Arc::clone(&self.permits);
        self.runtime.block_on(async {
            match self.shape {
                Shape::Free => {
                    for _ in 0..jobs {
                        drop(permits.take().await);
                    }
                }
                Shape::Contended => {
                    let tasks = spawn(jobs / TAKES, || contend(Arc::clone(&permits)));
                    for task in tasks {
                        task.await?;
                    }
                }
                Shape::Cancelled => {
                    let mut held = Vec::new();
                    for _ in 0..PERMITS {
                        held.push(permits.take().await);
                    }
                    let waiting = Arc::new(AtomicUsize::new(0));
                    let tasks = spawn(jobs, || wait(Arc::clone(&permits), Arc::clone(&waiting)));
                    // Once isn't enough: the runtime comes back here after some dozens of tasks.
                    while waiting.load(Ordering::Relaxed) < jobs {
                        yield_now().await;
                    }
                    tasks.iter().for_each(JoinHandle::abort);
                    for task in tasks {
                        assert!(task.await.is_err_and(|error| error.is_cancelled()));
                    }
                    assert_eq!(waiting.load(Ordering::Relaxed), jobs, "each has waited, once");
                    drop(held);
                }
            }
            Ok(())
        })
    }
}

fn spawn<F: Future<Output = ()> + Send + 'static>(count: usize, task: impl Fn() -> F) -> Vec<JoinHandle<()>> {
    (0..count).map(|_| tokio::spawn(task())).collect()
}

async fn contend(permits: Arc<Permits>) {
    for _ in 0..TAKES {
        let _permit = permits.take().await;
        yield_now().await;
    }
}

/// Until it is cancelled; it counts itself once it stands in the queue.
async fn wait(permits: Arc<Permits>, waiting: Arc<AtomicUsize>) {
    let mut taking = pin!(permits.take());
    poll_fn(|context| {
        assert!(taking.as_mut().poll(context).is_pending(), "there is no permit left");
        waiting.fetch_add(1, Ordering::Relaxed);
        Poll::<()>::Pending
    })
    .await;
}
