//! Ways to run blocking work from tokio's tasks, as upstream's benchmarks have them: directly on the runtime's threads,
//! there under a permit, or on a pool of others.

use std::error::Error;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use penstock_core::dispatch::{Config, NativeOnly, Pool};
use penstock_protocol::Work;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{block_in_place, spawn_blocking};

use crate::permits::Permits;
use crate::queues::Queue;

const CORE_THREADS: usize = 4;

enum Way {
    Direct,
    Permit(Permits),
    Dispatch(Pool<NativeOnly>),
    Queue(Arc<Queue>),
    SpawnBlocking,
}

pub struct Strategy {
    pub runtime: Runtime,
    way: Arc<Way>,
}

impl Strategy {
    /// `threads` are beside the four of the runtime; permits are as many. Only who serves echoes pays for I/O.
    pub fn open(name: &str, threads: usize, serves: bool) -> Result<Self, Box<dyn Error>> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(CORE_THREADS).max_blocking_threads(1);
        let way = match name {
            "direct" => {
                builder.worker_threads(CORE_THREADS + threads);
                Way::Direct
            }
            "dispatch" => Way::Dispatch(Pool::new(Config { threads, ..Config::default() }, NativeOnly)?),
            "crossbeam" => Way::Queue(Queue::crossbeam().with_threads(threads)),
            "condvar" => Way::Queue(Queue::condvar().with_threads(threads)),
            "spawn_blocking" => {
                builder.max_blocking_threads(threads);
                Way::SpawnBlocking
            }
            _ => {
                builder.max_blocking_threads(threads);
                let kind = name.strip_prefix("permit_").ok_or_else(|| format!("unknown strategy {name:?}"))?;
                Way::Permit(Permits::new(kind, threads)?)
            }
        };
        if serves {
            builder.enable_io();
        }
        Ok(Self { runtime: builder.build()?, way: Arc::new(way) })
    }

    pub fn batch(&self, work: Work, jobs: usize) -> Result<(), Box<dyn Error>> {
        let tasks: FuturesUnordered<_> = (0..jobs)
            .map(|_| {
                let way = Arc::clone(&self.way);
                self.runtime.spawn(async move { assert_eq!(100, way.perform(work).await) })
            })
            .collect();
        let all = async { tasks.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<()>, _>>() };
        self.runtime.block_on(self.runtime.spawn(all))??;
        Ok(())
    }
}

impl Way {
    async fn perform(&self, work: Work) -> usize {
        match self {
            Self::Direct => work.run(),
            Self::Permit(permits) => {
                let _permit = permits.take().await;
                block_in_place(|| work.run())
            }
            Self::SpawnBlocking => spawn_blocking(move || work.run()).await.expect("no job panics"),
            Self::Dispatch(_) | Self::Queue(_) => {
                let (sender, receiver) = oneshot::channel();
                self.push(move || {
                    // Who waited may be gone.
                    let _ = sender.send(work.run());
                });
                receiver.await.expect("every job is run")
            }
        }
    }

    fn push(&self, job: impl FnOnce() + Send + 'static) {
        match self {
            Self::Dispatch(pool) => pool.spawn(job).expect("the pool stays open"),
            Self::Queue(queue) => queue.push(Box::new(job)),
            Self::Direct | Self::Permit(_) | Self::SpawnBlocking => job(),
        }
    }
}
