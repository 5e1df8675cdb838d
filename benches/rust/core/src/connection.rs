//! A connection of tokio's whose responses penstock-core receives: its windows, its framing, its sinks.

use std::io::ErrorKind;
use std::slice;

use bytes::Bytes;
use penstock_core::body::BodyImage;
use penstock_core::receive::{Event, Plan, Receiver, Scratch};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::client::Failure;
use crate::policy::Policy;

pub struct Connection {
    stream: TcpStream,
    receiver: Receiver,
    scratch: Scratch,
}

impl Connection {
    pub async fn open(authority: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, receiver: Receiver::default(), scratch: Scratch::default() })
    }

    /// The body of the response to `request`; `take` is given what is streamed.
    pub async fn get(
        &mut self,
        request: &[u8],
        plan: Plan,
        policy: &Policy,
        mut take: impl FnMut(&Bytes),
    ) -> Result<BodyImage, Failure> {
        self.receiver.begin(plan);
        self.send(request).await?;
        let mut event = Event::More;
        loop {
            event = match event {
                Event::More | Event::Pause => self.receive().await?,
                Event::Work => policy.work(&mut self.receiver).await?,
                Event::Drain => policy.drain(&mut self.receiver, &self.stream).await?,
                Event::Data => {
                    self.receiver.take_pieces().iter().for_each(&mut take);
                    self.receiver.next()
                }
                Event::Done => return Ok(self.receiver.finish()?.body),
                Event::Head | Event::Continue | Event::Close => return Err("the response isn't what was asked".into()),
            };
        }
    }

    async fn send(&self, mut request: &[u8]) -> Result<(), Failure> {
        while !request.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(request) {
                Ok(count) => request = &request[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<Event, Failure> {
        let window = match self.receiver.window()? {
            Some(window) => window,
            None => self.scratch.window()?.0,
        };
        let count = self
            .stream
            .async_io(Interest::READABLE, || {
                // SAFETY: the window lends these bytes until they are told to be received, and nobody else has it.
                let spare = unsafe { slice::from_raw_parts_mut(window.as_mut_ptr(), window.len()) };
                self.stream.try_read(spare)
            })
            .await?;
        drop(window);
        Ok(if count == 0 { self.receiver.eof(false)? } else { self.receiver.received(&mut self.scratch, count)? })
    }
}
