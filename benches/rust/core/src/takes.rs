//! Semaphores by themselves, on a runtime of one thread, as a loop of Python's is: free, contended, and with waiters that
//! are cancelled.

use std::error::Error;
use std::sync::Arc;

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
                    let tasks = spawn(jobs, || contend(Arc::clone(&permits)));
                    yield_now().await;
                    tasks.iter().for_each(JoinHandle::abort);
                    for task in tasks {
                        assert!(task.await.is_err_and(|error| error.is_cancelled()));
                    }
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
