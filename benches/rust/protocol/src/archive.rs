//! The rows that read and write archives, whatever library does it: `PROGRAM read|map|write plain|gzip SOURCE OUTPUT DIR`.
//!
//! `read` goes through SOURCE and looks at each header line and at each byte of the bodies; `map` maps bodies that
//! are slices of it, if the library lets it. `write` has the records of SOURCE in memory and writes them to OUTPUT, a new file each time. Files
//! for bodies that are decoded are made in DIR.

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crc32fast::Hasher;

use crate::{Failure, Row, serve_row};

/// Of the records that are to be written, so much of a body is kept in memory.
pub const MOST_IN_MEMORY: u64 = 16 << 20;
/// Bytes of a body in a file that are looked at together.
pub const PIECE: usize = 64 << 10;

/// Is shown all that is in an archive.
pub trait Look {
    fn line(&mut self, name: &[u8], value: &[u8]);
    fn piece(&mut self, piece: &[u8]);
}

/// What is looked at while it is timed.
#[derive(Default, PartialEq, Eq)]
struct Seen {
    lines: usize,
    text: usize,
    bytes: usize,
    greatest: u8,
}

impl Look for Seen {
    fn line(&mut self, name: &[u8], value: &[u8]) {
        self.lines += 1;
        self.text += name.len() + value.len();
    }

    fn piece(&mut self, piece: &[u8]) {
        self.bytes += piece.len();
        // As a fold, it becomes vector instructions.
        self.greatest = piece.iter().fold(self.greatest, |greatest, byte| greatest.max(*byte));
    }
}

impl Look for Hasher {
    fn line(&mut self, name: &[u8], value: &[u8]) {
        for part in [name, b": ", value, b"\r\n"] {
            self.update(part);
        }
    }

    fn piece(&mut self, piece: &[u8]) {
        self.update(piece);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Read,
    Map,
    Write,
}

pub struct Task {
    pub action: Action,
    pub gzip: bool,
    pub source: PathBuf,
    pub output: PathBuf,
    pub dir: PathBuf,
}

impl Task {
    fn from_arguments() -> Result<Self, Failure> {
        let arguments: Vec<String> = env::args().skip(1).collect();
        let [action, compression, source, output, dir] = arguments.as_slice() else {
            return Err("usage: PROGRAM read|map|write plain|gzip SOURCE OUTPUT DIR".into());
        };
        let action = match action.as_str() {
            "read" => Action::Read,
            "map" => Action::Map,
            "write" => Action::Write,
            _ => return Err(format!("unknown action {action:?}").into()),
        };
        Ok(Self { action, gzip: compression == "gzip", source: source.into(), output: output.into(), dir: dir.into() })
    }
}

/// What a library does for a row.
pub trait Library: Sized {
    fn open(task: &Task) -> Result<Self, Failure>;
    fn read(&self, task: &Task, look: &mut impl Look) -> Result<(), Failure>;
    fn write(&self, task: &Task) -> Result<(), Failure>;
}

struct Archive<L> {
    task: Task,
    library: L,
    first: Option<Seen>,
}

impl<L: Library> Row for Archive<L> {
    fn prepare(&mut self) -> Result<(), Failure> {
        match fs::remove_file(&self.task.output) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn batch(&mut self) -> Result<(), Failure> {
        if self.task.action == Action::Write {
            return self.library.write(&self.task);
        }
        let mut seen = Seen::default();
        self.library.read(&self.task, &mut seen)?;
        if self.first.get_or_insert_with(|| Seen { ..seen }) != &seen {
            return Err("another time, something else was read".into());
        }
        Ok(())
    }

    /// The checksum of all that is in SOURCE, or writes OUTPUT once for others to look at.
    fn check(&mut self) -> Result<String, Failure> {
        let mut sum = Hasher::new();
        if self.task.action == Action::Write {
            self.prepare()?;
            self.library.write(&self.task)?;
        } else {
            self.library.read(&self.task, &mut sum)?;
        }
        Ok(format!("{{\"crc32\": {}}}", sum.finalize()))
    }
}

pub fn main<L: Library>() -> Result<(), Failure> {
    let task = Task::from_arguments()?;
    let library = L::open(&task)?;
    // What penstock frees on another thread counts.
    serve_row(Duration::from_millis(50), &mut Archive { task, library, first: None })
}
