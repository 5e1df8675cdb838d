//! Where a body's blocking work is done: on the runtime's thread, there under a permit, or on other threads, to which a
//! body that goes to a file is handed with its socket.

use std::time::Duration;

use penstock_core::body::Lease;
use penstock_core::dispatch::{Config, NativeOnly, Pool};
use penstock_core::drain::{Drainer, Job, Outcome};
use penstock_core::receive::{Event, Receiver};
use penstock_core::{Error, Resource};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::block_in_place;

use crate::client::Failure;
use crate::permits::Permits;

const PATIENCE: Duration = Duration::from_secs(60);

pub enum Policy {
    Direct,
    Permit(Permits),
    Dispatch { pool: Pool<NativeOnly>, drainer: Drainer },
}

impl Policy {
    /// With so many permits, or threads; one more drains.
    pub fn new(name: &str, threads: usize) -> Result<Self, Box<dyn std::error::Error>> {
        match name {
            "direct" => Ok(Self::Direct),
            "permit" => Ok(Self::Permit(Permits::new("penstock", threads)?)),
            "dispatch" => Ok(Self::Dispatch {
                pool: Pool::new(Config { threads, ..Config::default() }, NativeOnly)?,
                drainer: Drainer::start("drain".into())?,
            }),
            _ => Err(format!("unknown policy {name:?}").into()),
        }
    }

    pub fn drains(&self) -> bool {
        matches!(self, Self::Dispatch { .. })
    }

    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        match self {
            Self::Direct => Ok(work()),
            Self::Permit(permits) => {
                let _permit = permits.take().await;
                Ok(block_in_place(work))
            }
            Self::Dispatch { pool, .. } => {
                let (sender, receiver) = oneshot::channel();
                pool.spawn(move || drop(sender.send(work())))?;
                Ok(receiver.await?)
            }
        }
    }

    /// Does what the receiver has to do; gives what is next.
    pub async fn work(&self, receiver: &mut Receiver) -> Result<Event, Failure> {
        match self {
            Self::Direct => Ok(receiver.work_here(None)?),
            Self::Permit(permits) => {
                let _permit = permits.take().await;
                Ok(block_in_place(|| receiver.work_here(None))?)
            }
            Self::Dispatch { .. } => {
                if let Some(work) = receiver.take_work() {
                    self.run(work.run).await??;
                }
                Ok(receiver.next())
            }
        }
    }

    /// Has another thread receive and write the rest of the body.
    pub async fn drain(&self, receiver: &mut Receiver, stream: &TcpStream) -> Result<Event, Failure> {
        let (Self::Dispatch { drainer, .. }, Some(budget)) = (self, receiver.budget().cloned()) else {
            return Err("nobody drains".into());
        };
        let body = receiver.hand_over().ok_or("a work is out")?;
        let mut lease = Lease::empty(&budget, Resource::Files);
        lease.grow(1)?;
        let (sender, outcome) = oneshot::channel();
        let job = Job {
            socket: std::os::fd::AsFd::as_fd(stream).try_clone_to_owned()?,
            body,
            lease,
            patience: PATIENCE,
            progress: receiver.progress().clone(),
            report: Box::new(|outcome| drop(sender.send(outcome))),
            excess: false,
        };
        drainer.submit(job).map_err(|refused: Box<(Job, Error)>| refused.1)?;
        let Outcome { body, result } = outcome.await?;
        receiver.take_back(body, result?.excess);
        Ok(receiver.next())
    }
}
