//! A sink that is shared, and its works on their way to other threads.

use super::sink::BodySink;
use super::writer::Work;
use crate::Result;
use crate::sync::Mutex;
use std::sync::Arc;

/// A sink that its works come back to from any thread.
pub type SharedSink = Arc<Mutex<BodySink>>;

/// A work on its way: back with its sink when dropped, whether it ran or not, so that a cancelled write loses nothing.
pub struct Errand {
    sink: SharedSink,
    work: Option<Work>,
}

impl Errand {
    /// The next work of a sink, if it has one.
    pub fn new(sink: &SharedSink, all: bool) -> Option<Self> {
        let work = sink.lock().take_work(all)?;
        Some(Self { sink: sink.clone(), work: Some(work) })
    }

    /// Does the work and brings it back. May wait for the disk.
    pub fn run(mut self) -> Result<()> {
        let Some(mut work) = self.work.take() else { return Ok(()) };
        work.run();
        self.sink.lock().done(work)
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            // Undone, which cannot fail.
            let _ = self.sink.lock().done(work);
        }
    }
}
