//! Where decoded bytes go: room to decode into, and what becomes of it once it is filled.

use crate::Result;
use crate::body::slab::SlabWriter;
use crate::body::{BodySink, Errand, Pools, SharedSink, WINDOW};
use std::io::IoSlice;

pub(crate) trait Target {
    /// Never empty.
    fn room(&mut self) -> &mut [u8];

    /// The first `n` bytes of the room are the body's next.
    fn filled(&mut self, n: usize) -> Result<()>;
}

/// Decodes into slabs that the sink keeps. What there is to be written or digested is done by the way, on this thread,
/// and not under the sink's lock. Who is ready with it [flushes](Self::flush) it.
pub(super) struct Slabs {
    sink: SharedSink,
    slab: SlabWriter,
}

impl Slabs {
    pub(super) fn new(sink: SharedSink) -> Result<Self> {
        Ok(Self { sink, slab: Pools::current().slabs.take(WINDOW)? })
    }

    /// Brings what is in the slab to the sink.
    pub(super) fn flush(&mut self) -> Result<()> {
        let pushed = {
            let mut sink = self.sink.lock();
            // A slab that isn't full is kept only until it is written.
            if self.slab.spare_len() == 0 || !sink.is_ram() {
                sink.push(self.slab.freeze())
            } else {
                let pushed = sink.push_copy(self.slab.received());
                self.slab.truncate(0);
                pushed
            }
        };
        pushed?;
        self.work(false)?;
        // Decoding would keep a processor for as long as the kernel lets it: a loop that is waiting for one goes first.
        std::thread::yield_now();
        if !self.slab.reset() {
            self.slab = Pools::current().slabs.take(WINDOW)?;
        }
        Ok(())
    }

    /// Does the sink's works here.
    pub(super) fn work(&self, all: bool) -> Result<()> {
        while let Some(errand) = Errand::new(&self.sink, all) {
            errand.run()?;
        }
        Ok(())
    }
}

impl Target for Slabs {
    fn room(&mut self) -> &mut [u8] {
        self.slab.spare()
    }

    fn filled(&mut self, n: usize) -> Result<()> {
        self.slab.advance(n);
        if self.slab.spare_len() == 0 { self.flush() } else { Ok(()) }
    }
}

/// Decodes into a small buffer, and copies to a sink that has its works done elsewhere.
pub(super) struct Copies<'a> {
    pub sink: &'a mut BodySink,
    pub buffer: Vec<u8>,
}

impl Target for Copies<'_> {
    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn filled(&mut self, n: usize) -> Result<()> {
        self.sink.push_copy(self.buffer.get(..n).unwrap_or_default())
    }
}

/// Decodes into a buffer that is written to the file at once.
pub(crate) struct Through<'a> {
    pub sink: &'a mut BodySink,
    pub buffer: &'a mut [u8],
}

impl Target for Through<'_> {
    fn room(&mut self) -> &mut [u8] {
        self.buffer
    }

    fn filled(&mut self, n: usize) -> Result<()> {
        self.sink.write_through(&mut [IoSlice::new(self.buffer.get(..n).unwrap_or_default())])
    }
}
