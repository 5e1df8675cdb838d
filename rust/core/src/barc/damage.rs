//! What may be wrong with a record. The file's position and where to read on are added by whoever reads.

use std::fmt;

pub type Checked<T> = Result<T, Damage>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The file ends within a head, after so many bytes of it.
    IncompleteHead(usize),
    /// The first bytes aren't a head's.
    NotAHead,
    /// A length has a character that isn't a lower-case hexadecimal digit.
    Digit(u8),
    Kind(u8),
    Compression(u8),
    /// Spaces or line ends of a head are something else.
    Layout,
    /// A head that a writer reserved, with records behind it.
    Unfinished,
    /// The file ends before the record does.
    Short {
        needed: u64,
        present: u64,
    },
    /// The file has become shorter since what stood before was read: it has so many bytes.
    Cut(u64),
    /// The lengths in the head contradict each other.
    Lengths(&'static str),
    /// A header block can't be parsed.
    Headers {
        block: &'static str,
        what: String,
    },
    /// The compressed stream ends before what the head announces, or before its own end.
    StreamEnds,
    /// The compressed stream can't be decoded.
    Stream(String),
}

impl Damage {
    /// A name that programs can compare.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::IncompleteHead(_) => "incomplete-head",
            Self::NotAHead => "not-a-head",
            Self::Digit(_) => "bad-digit",
            Self::Kind(_) => "unknown-type",
            Self::Compression(_) => "unknown-compression",
            Self::Layout => "bad-layout",
            Self::Unfinished => "unfinished",
            Self::Short { .. } | Self::Cut(_) => "short",
            Self::Lengths(_) => "bad-lengths",
            Self::Headers { .. } => "bad-headers",
            Self::StreamEnds => "stream-ends",
            Self::Stream(_) => "bad-stream",
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IncompleteHead(n) => write!(f, "the file ends after {n} of the head's 54 bytes"),
            Self::NotAHead => f.write_str("no record begins here: a head starts with \"BARC2 \""),
            Self::Digit(byte) => {
                write!(f, "\"{}\" in a length of the head is no lower-case hexadecimal digit", byte.escape_ascii())
            }
            Self::Kind(byte) => write!(f, "unknown record type \"{}\" (D and R are known)", byte.escape_ascii()),
            Self::Compression(byte) => {
                write!(f, "unknown compression \"{}\" (P, Z and B are known)", byte.escape_ascii())
            }
            Self::Layout => f.write_str("a space or a line end of the head is something else"),
            Self::Unfinished => f.write_str("a writer never finished this record, and there are others behind it"),
            Self::Short { needed, present } => {
                write!(f, "the record needs {needed} bytes and the file has {present} more")
            }
            Self::Cut(size) => write!(f, "the file was cut to {size} bytes, fewer than were read of it"),
            Self::Lengths(what) => write!(f, "the lengths in the head don't add up: {what}"),
            Self::Headers { block, what } => write!(f, "{block}: {what}"),
            Self::StreamEnds => f.write_str("the compressed stream ends too early"),
            Self::Stream(what) => write!(f, "the compressed stream can't be decoded: {what}"),
        }
    }
}
