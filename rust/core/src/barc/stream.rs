//! The one compressed stream of a record: reading it from a range of the file, and writing it.

use super::damage::Damage;
use super::head::Compression;
use crate::body::file::BodyFile;
use crate::{Error, Result};
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use std::io::{self, BufRead, Read, Write};
use std::ops::Range;
use std::sync::Arc;

/// Bytes read from the file, and decoded, at once.
pub(super) const PIECE: usize = 64 << 10;

/// What upstream's brotli streams have: 2 MiB.
const BROTLI_WINDOW: u32 = 21;

/// A range of a file, buffered.
pub(super) struct Section {
    file: Arc<BodyFile>,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// What is left of the buffer.
    left: Range<usize>,
}

impl Section {
    /// `[at, end)` of the file, with the memory of a decoder that isn't needed any more.
    pub fn new(file: &Arc<BodyFile>, (at, end): (u64, u64), used: Option<&mut Decoder>) -> Self {
        let buffer = match used.map(|used| &mut used.coding) {
            Some(Coding::Gzip(decoder)) => std::mem::take(&mut decoder.get_mut().buffer),
            _ => Vec::new(),
        };
        Self { file: file.clone(), at, end, buffer, left: 0..0 }
    }

    /// Room for all of it, if that is a piece at most, for the caller to fill: nothing of it is read here then.
    pub fn whole(&mut self) -> Option<&mut [u8]> {
        let len = usize::try_from(self.end - self.at).ok().filter(|len| *len <= PIECE)?;
        (self.at, self.left) = (self.end, 0..len);
        self.buffer.resize(self.buffer.len().max(len), 0);
        self.buffer.get_mut(..len)
    }
}

impl BufRead for Section {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left.is_empty() && self.at < self.end {
            let most = usize::try_from(self.end - self.at).unwrap_or(PIECE).min(PIECE);
            self.buffer.resize(self.buffer.len().max(most), 0);
            let piece = self.buffer.get_mut(..most).unwrap_or_default();
            let n = self.file.read_at(piece, self.at).map_err(io::Error::other)?;
            self.at += n as u64;
            self.left = 0..n;
        }
        Ok(self.buffer.get(self.left.clone()).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.left.start = (self.left.start + n).min(self.left.end);
    }
}

impl Read for Section {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(to)?;
        self.consume(n);
        Ok(n)
    }
}

enum Coding {
    Gzip(Box<GzDecoder<Section>>),
    Brotli(Box<brotli::Decompressor<Section>>),
}

impl Coding {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(to),
            Self::Brotli(decoder) => decoder.read(to),
        }
    }
}

/// Gives the decoded payload of a record in order. It decodes a piece at a time, however little is asked for: an inflater
/// is several times as slow where it has no room to spare. Its memory serves one record after the other.
pub(super) struct Decoder {
    coding: Coding,
    piece: Vec<u8>,
    /// What is left of the piece.
    left: Range<usize>,
    /// What comes behind that.
    next: Next,
}

enum Next {
    More,
    End,
    Trouble(Trouble),
}

impl Decoder {
    /// For the stream in that section, with the memory of another one.
    pub fn new(section: Section, compression: Compression, used: Option<Self>) -> Self {
        let (piece, coding) = used.map_or_else(|| (vec![0; PIECE], None), |used| (used.piece, Some(used.coding)));
        let coding = match (compression, coding) {
            (Compression::Brotli, _) => Coding::Brotli(Box::new(brotli::Decompressor::new(section, PIECE))),
            // One member: what follows it is ignored, as by upstream.
            (Compression::Gzip, Some(Coding::Gzip(mut decoder))) => {
                decoder.reset(section);
                Coding::Gzip(decoder)
            }
            (Compression::Gzip, _) => Coding::Gzip(Box::new(GzDecoder::new(section))),
        };
        Self { coding, piece, left: 0..0, next: Next::More }
    }

    /// What is decoded and wasn't taken yet; empty at the end of the stream.
    pub fn ready(&mut self) -> Tried<&[u8]> {
        if self.left.is_empty() {
            self.decode()?;
        }
        Ok(self.piece.get(self.left.clone()).unwrap_or_default())
    }

    fn decode(&mut self) -> Tried<()> {
        match std::mem::replace(&mut self.next, Next::End) {
            Next::Trouble(trouble) => return Err(trouble),
            Next::End => return Ok(()),
            Next::More => self.next = Next::More,
        }
        self.left = 0..0;
        while let Some(room) = self.piece.get_mut(self.left.end..).filter(|room| !room.is_empty()) {
            match self.coding.read(room) {
                Ok(0) => {
                    self.next = Next::End;
                    break;
                }
                Ok(n) => self.left.end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What came before is good, and it is for whoever reads on to find the trouble.
                Err(error) => {
                    self.next = Next::Trouble(trouble(error));
                    break;
                }
            }
        }
        // All that is there was trouble.
        if self.left.is_empty() && !matches!(self.next, Next::End) { self.decode() } else { Ok(()) }
    }

    pub fn take(&mut self, n: usize) {
        self.left.start = (self.left.start + n).min(self.left.end);
    }

    /// Whether nothing comes behind what is ready.
    pub fn is_at_end(&self) -> bool {
        matches!(self.next, Next::End)
    }

    /// Fills as much of `buffer` as there is.
    pub fn read(&mut self, buffer: &mut [u8]) -> Tried<usize> {
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            let ready = self.ready()?;
            let n = ready.len().min(room.len());
            if n == 0 {
                break;
            }
            room.get_mut(..n).unwrap_or_default().copy_from_slice(ready.get(..n).unwrap_or_default());
            self.take(n);
            filled += n;
        }
        Ok(filled)
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
    pub fn new(out: W, compression: Compression, level: u32) -> Self {
        match compression {
            Compression::Brotli => {
                Self::Brotli(Box::new(brotli::CompressorWriter::new(out, PIECE, level, BROTLI_WINDOW)))
            }
            Compression::Gzip => Self::Gzip(Box::new(GzEncoder::new(out, flate2::Compression::new(level)))),
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
