//! The one compressed stream of a record: reading it from a range of the file, and writing it.

use super::damage::Damage;
use super::head::Compression;
use crate::body::file::BodyFile;
use crate::{Error, Result};
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

/// Bytes read from the file, and decoded, at once.
pub(super) const PIECE: usize = 64 << 10;

/// What upstream's brotli streams have: 2 MiB.
const BROTLI_WINDOW: u32 = 21;

/// A range of a file.
struct Section {
    file: Arc<BodyFile>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at).map_err(io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Gives the decoded payload in order.
pub(super) struct Decoder(Box<dyn Read + Send>);

impl Decoder {
    pub fn new(file: &Arc<BodyFile>, compression: Compression, at: u64, end: u64) -> Self {
        let section = BufReader::with_capacity(PIECE, Section { file: file.clone(), at, end });
        Self(match compression {
            Compression::Plain => Box::new(section),
            // One member: what follows it is ignored, as by upstream.
            Compression::Gzip => Box::new(GzDecoder::new(section)),
            Compression::Brotli => Box::new(brotli::Decompressor::new(section, PIECE)),
        })
    }

    /// Fills as much of `buffer` as there is.
    pub fn read(&mut self, mut buffer: &mut [u8]) -> Tried<usize> {
        let wanted = buffer.len();
        while !buffer.is_empty() {
            match self.0.read(buffer) {
                Ok(0) => break,
                Ok(n) => buffer = buffer.get_mut(n..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(trouble(error)),
            }
        }
        Ok(wanted - buffer.len())
    }
}

pub(super) type Tried<T> = std::result::Result<T, Trouble>;

/// What is wrong with the record, or what went wrong while it was read.
pub(super) enum Trouble {
    Damage(Damage),
    Error(Error),
}

impl From<Damage> for Trouble {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

fn trouble(error: io::Error) -> Trouble {
    // The core's own error, on its way through `std::io`.
    match error.downcast::<Error>() {
        Ok(own) => own.into(),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Damage::StreamEnds.into(),
        Err(error) => Damage::Stream(error.to_string()).into(),
    }
}

/// Takes the payload in order and writes the stream to `W`.
pub(super) enum Encoder<W: Write> {
    Gzip(Box<GzEncoder<W>>),
    Brotli(Box<brotli::CompressorWriter<W>>),
}

impl<W: Write> Encoder<W> {
    /// For a payload that is compressed.
    pub fn new(out: W, compression: Compression, level: u32) -> Self {
        match compression {
            Compression::Brotli => {
                Self::Brotli(Box::new(brotli::CompressorWriter::new(out, PIECE, level, BROTLI_WINDOW)))
            }
            Compression::Plain | Compression::Gzip => {
                Self::Gzip(Box::new(GzEncoder::new(out, flate2::Compression::new(level))))
            }
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Brotli(encoder) => encoder.write_all(bytes),
        }
        .map_err(Error::io("compress a record"))
    }

    /// Ends the stream. Brotli's encoder keeps the last error to itself: `W` has to remember it.
    pub fn finish(self) -> Result<W> {
        match self {
            Self::Gzip(encoder) => encoder.finish().map_err(Error::io("compress a record")),
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
        }
    }
}
