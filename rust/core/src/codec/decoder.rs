//! A streaming decoder for each coding, with one way to run it: it takes from the front of its input and fills its
//! output from the front, until the input is used up or the output full.

use super::Coding;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, InBuffer, Operation as _, OutBuffer};

/// The largest window of a zstd frame, as a power of two: 8 MiB, which RFC 9659 has content keep to.
pub(super) const ZSTD_WINDOW: u32 = 23;

type Allocator = brotli::enc::StandardAlloc;

pub(super) enum Decoder {
    Gzip { member: Option<Box<Decompress>> },
    Deflate(Deflate),
    Br { state: Box<BrotliState<Allocator, Allocator, Allocator>>, ended: bool },
    Zstd { frame: Box<zstd::stream::raw::Decoder<'static>>, between: bool, more: bool },
}

/// What servers call deflate: the zlib format (RFC 1950), as it should be, or raw deflate (RFC 1951). The first two
/// bytes tell: those of a zlib header are divisible by 31, and no encoder begins raw data like that.
pub(super) enum Deflate {
    Unknown(Option<u8>),
    Known(Box<Decompress>),
    Ended,
}

/// In words, for the message.
type Fault = String;

const BEYOND: &str = "data follows its end";

impl Decoder {
    pub(super) fn new(coding: Coding) -> Result<Self, Fault> {
        Ok(match coding {
            Coding::Gzip => Self::Gzip { member: None },
            Coding::Deflate => Self::Deflate(Deflate::Unknown(None)),
            Coding::Br => {
                let allocator = Allocator::default;
                let state = BrotliState::new_strict(allocator(), allocator(), allocator());
                Self::Br { state: Box::new(state), ended: false }
            }
            Coding::Zstd => {
                let fault = |error: std::io::Error| error.to_string();
                let mut frame = zstd::stream::raw::Decoder::new().map_err(fault)?;
                frame.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW)).map_err(fault)?;
                Self::Zstd { frame: Box::new(frame), between: true, more: false }
            }
        })
    }

    /// Whether what came so far is complete.
    pub(super) fn is_at_end(&self) -> bool {
        match self {
            Self::Gzip { member } => member.is_none(),
            Self::Deflate(deflate) => matches!(deflate, Deflate::Ended),
            Self::Br { ended, .. } => *ended,
            Self::Zstd { between, .. } => *between,
        }
    }

    /// Adds to `produced`, where the output begins to be free. What was decoded before a fault counts.
    pub(super) fn run(&mut self, input: &mut &[u8], output: &mut [u8], produced: &mut usize) -> Result<(), Fault> {
        match self {
            Self::Gzip { member } => {
                // RFC 1952 section 2.2: members follow one another.
                while member.is_some() || !input.is_empty() {
                    let inflate = member.get_or_insert_with(|| Box::new(Decompress::new_gzip(15)));
                    if !run_inflate(inflate, input, output, produced)? {
                        break;
                    }
                    *member = None;
                }
                Ok(())
            }
            Self::Deflate(deflate) => deflate.run(input, output, produced),
            Self::Br { state, ended } => {
                if *ended {
                    return if input.is_empty() { Ok(()) } else { Err(BEYOND.to_owned()) };
                }
                let (mut left, mut taken) = (input.len(), 0);
                let mut room = output.len() - *produced;
                let result =
                    BrotliDecompressStream(&mut left, &mut taken, input, &mut room, produced, output, &mut 0, state);
                *input = input.get(taken..).unwrap_or_default();
                match result {
                    BrotliResult::ResultFailure => Err("corrupt data".to_owned()),
                    BrotliResult::ResultSuccess => {
                        *ended = true;
                        if input.is_empty() { Ok(()) } else { Err(BEYOND.to_owned()) }
                    }
                    BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok(()),
                }
            }
            Self::Zstd { frame, between, more } => {
                // RFC 8878 section 3: frames follow one another. One is asked without input only if there may be `more`, as
                // its last output was full: asked in vain too often, zstd fails.
                while !input.is_empty() || (*more && !*between) {
                    if *between && is_wide(input) {
                        return Err("Frame requires too much memory for decoding".to_owned());
                    }
                    let mut source = InBuffer::around(input);
                    let mut sink = OutBuffer::around_pos(output, *produced);
                    let hint = frame.run(&mut source, &mut sink);
                    let (taken, filled) = (source.pos(), sink.pos());
                    *input = input.get(taken..).unwrap_or_default();
                    *produced = filled;
                    *more = filled == output.len();
                    *between = hint.map_err(|error| error.to_string())? == 0;
                    if !*between && (input.is_empty() || *produced == output.len()) {
                        break;
                    }
                }
                Ok(())
            }
        }
    }
}

impl Deflate {
    fn run(&mut self, input: &mut &[u8], output: &mut [u8], produced: &mut usize) -> Result<(), Fault> {
        if let Self::Unknown(first) = self {
            let Some((&byte, rest)) = input.split_first() else { return Ok(()) };
            let (cmf, flg) = match (*first, rest.first()) {
                (Some(cmf), _) => (cmf, byte),
                (None, Some(&flg)) => (byte, flg),
                (None, None) => {
                    *self = Self::Unknown(Some(byte));
                    *input = rest;
                    return Ok(());
                }
            };
            // RFC 1950 section 2.2.
            let is_zlib = cmf & 0x0f == 8 && cmf >> 4 <= 7 && u16::from_be_bytes([cmf, flg]) % 31 == 0;
            let mut inflate = Box::new(Decompress::new(is_zlib));
            if let Some(held) = *first {
                // One byte is less than any stream.
                run_inflate(&mut inflate, &mut &[held][..], output, produced)?;
            }
            *self = Self::Known(inflate);
        }
        if let Self::Known(inflate) = self
            && run_inflate(inflate, input, output, produced)?
        {
            *self = Self::Ended;
        }
        if matches!(self, Self::Ended) && !input.is_empty() { Err(BEYOND.to_owned()) } else { Ok(()) }
    }
}

/// Whether a zstd frame that begins here has a window over the limit. zstd itself sees that, but not of a frame that is
/// here as a whole and has room for all of its content.
fn is_wide(frame: &[u8]) -> bool {
    // RFC 8878 section 3.1.1: magic number, descriptor (with bit 5 there is no window), exponent and mantissa of the window.
    matches!(frame, [0x28, 0xb5, 0x2f, 0xfd, descriptor, window, ..]
        if descriptor & 0x20 == 0 && u32::from(*window) > (ZSTD_WINDOW - 10) << 3)
}

/// Whether the stream has ended.
fn run_inflate(
    inflate: &mut Decompress,
    input: &mut &[u8],
    output: &mut [u8],
    produced: &mut usize,
) -> Result<bool, Fault> {
    loop {
        let (read, written) = (inflate.total_in(), inflate.total_out());
        let room = output.get_mut(*produced..).unwrap_or_default();
        let full = room.is_empty();
        let status = inflate.decompress(input, room, FlushDecompress::None);
        let (read, written) = ((inflate.total_in() - read) as usize, (inflate.total_out() - written) as usize);
        *input = input.get(read..).unwrap_or_default();
        *produced += written;
        match status {
            Ok(Status::StreamEnd) => return Ok(true),
            Ok(Status::Ok | Status::BufError) if input.is_empty() || full || (read, written) == (0, 0) => {
                return Ok(false);
            }
            Ok(Status::Ok | Status::BufError) => {}
            Err(error) => return Err(error.message().unwrap_or("corrupt data").to_owned()),
        }
    }
}
