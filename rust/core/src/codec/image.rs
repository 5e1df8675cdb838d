//! Codings taken off a whole body, or put on it, in one go.

use super::decoder::ZSTD_WINDOW;
use super::target::{Slabs, Target as _};
use super::{Caps, Coding, Inflow};
use crate::body::{BodyImage, BodySink, Budget, SharedSink, Tunables};
use crate::sync::Mutex;
use crate::{Error, Result};
use std::io::{self, Write};
use std::sync::Arc;

fn sink(tunables: Arc<Tunables>, budget: Arc<Budget>) -> SharedSink {
    Arc::new(Mutex::new(BodySink::new(tunables, budget)))
}

/// The body without `codings`, which stand in the order in which they were applied. An empty body has none to take off.
/// May wait for the disk.
pub fn decode(
    image: &BodyImage,
    codings: &[Coding],
    tunables: Arc<Tunables>,
    budget: Arc<Budget>,
) -> Result<BodyImage> {
    if codings.is_empty() || image.is_empty() {
        return Ok(image.clone());
    }
    // What the image has is here already, however long it is.
    let mut inflow = Inflow::new(codings, Caps::from(&*tunables))?.of_any_length();
    let sink = sink(tunables, budget);
    let mut slabs = Slabs::new(sink.clone())?;
    let mut reader = image.reader(image.piece());
    while let Some(piece) = reader.next_piece()? {
        inflow.push(std::iter::once(&piece[..]))?;
        inflow.run_out(&mut slabs)?;
    }
    inflow.end();
    inflow.run_out(&mut slabs)?;
    slabs.flush()?;
    sink.lock().prepare()
}

/// The body with `codings` put on it, the first of them first. `level` is each one's; `None` is its usual one. May wait
/// for the disk.
pub fn encode(
    image: &BodyImage,
    codings: &[Coding],
    level: Option<i64>,
    tunables: Arc<Tunables>,
    budget: Arc<Budget>,
) -> Result<BodyImage> {
    if codings.is_empty() {
        return Ok(image.clone());
    }
    let sink = sink(tunables, budget);
    let end = Arc::new(Mutex::new(End { slabs: Slabs::new(sink.clone())?, failure: None }));
    let encoded = put_on(image, codings, level, Box::new(Last(end.clone())));
    let mut end = end.lock();
    if let Some(failure) = end.failure.take() {
        return Err(failure);
    }
    encoded?;
    end.slabs.flush()?;
    sink.lock().prepare()
}

fn put_on(image: &BodyImage, codings: &[Coding], level: Option<i64>, last: Box<dyn Encode>) -> Result<()> {
    let failed = Error::io("encode a body");
    let mut encoder = last;
    for (at, coding) in codings.iter().enumerate().rev() {
        let size = (at == 0).then(|| image.len());
        encoder = encoder_of(*coding, coding.level(level)?, size, encoder).map_err(failed)?;
    }
    let mut reader = image.reader(image.piece());
    while let Some(piece) = reader.next_piece()? {
        encoder.write_all(&piece).map_err(failed)?;
    }
    encoder.finish().map_err(failed)
}

impl Coding {
    /// The level to encode with. Each coding has levels of its own; the usual ones cost about the same.
    fn level(self, given: Option<i64>) -> Result<u32> {
        let (least, most, usual) = match self {
            Self::Gzip | Self::Deflate => (0, 9, 6),
            Self::Br => (0, 11, 5),
            Self::Zstd => (1, 22, 3),
        };
        let Some(level) = given else { return Ok(usual) };
        match u32::try_from(level) {
            Ok(level) if (least..=most).contains(&level) => Ok(level),
            _ => {
                let reason = format!("not between {least} and {most}, as {} has them", self.name());
                Err(Error::setting("level", level, reason))
            }
        }
    }
}

/// A writer with an end.
trait Encode: Write {
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// `size` is what it will be given, where that is known.
fn encoder_of(coding: Coding, level: u32, size: Option<u64>, next: Box<dyn Encode>) -> io::Result<Box<dyn Encode>> {
    let flate = flate2::Compression::new(level);
    Ok(match coding {
        Coding::Gzip => Box::new(flate2::write::GzEncoder::new(next, flate)),
        Coding::Deflate => Box::new(flate2::write::ZlibEncoder::new(next, flate)),
        Coding::Br => Box::new(brotli::CompressorWriter::new(next, 4096, level, 22)),
        Coding::Zstd => {
            // Levels end at 22.
            let mut encoder = zstd::stream::write::Encoder::new(next, level as i32)?;
            // The uppermost would have a larger one.
            if level > 19 {
                encoder.window_log(ZSTD_WINDOW)?;
            }
            // Its tables are no larger than a short body needs.
            encoder.set_pledged_src_size(size)?;
            Box::new(encoder)
        }
    })
}

impl Encode for flate2::write::GzEncoder<Box<dyn Encode>> {
    fn finish(self: Box<Self>) -> io::Result<()> {
        (*self).finish()?.finish()
    }
}

impl Encode for flate2::write::ZlibEncoder<Box<dyn Encode>> {
    fn finish(self: Box<Self>) -> io::Result<()> {
        (*self).finish()?.finish()
    }
}

impl Encode for brotli::CompressorWriter<Box<dyn Encode>> {
    fn finish(self: Box<Self>) -> io::Result<()> {
        // A failure of the last writer is known to it.
        (*self).into_inner().finish()
    }
}

impl Encode for zstd::stream::write::Encoder<'static, Box<dyn Encode>> {
    fn finish(self: Box<Self>) -> io::Result<()> {
        (*self).finish()?.finish()
    }
}

/// Where encoded bytes end up. Keeps the failure, of which an `io::Error` would tell less.
struct End {
    slabs: Slabs,
    failure: Option<Error>,
}

struct Last(Arc<Mutex<End>>);

impl Write for Last {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut end = self.0.lock();
        let room = end.slabs.room();
        let n = room.len().min(bytes.len());
        if let (Some(room), Some(bytes)) = (room.get_mut(..n), bytes.get(..n)) {
            room.copy_from_slice(bytes);
        }
        match end.slabs.filled(n) {
            Ok(()) => Ok(n),
            Err(failure) => {
                end.failure.get_or_insert(failure);
                Err(io::Error::other("the body could not be stored"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Encode for Last {
    fn finish(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}
