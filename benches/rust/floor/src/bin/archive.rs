//! Archives of plain records by hand: what the kernel's copies and looking at the bytes take, without a library. It knows
//! what the rows' archives are like: no record has a request's body, and each one's header lines fit in a piece.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::str;

use memmap2::{Mmap, MmapOptions};
use penstock_protocol::Failure;
use penstock_protocol::archive::{Action, Library, Look, PIECE, Task};

const HEAD: usize = 54;
/// Behind the body, and none of its bytes.
const LINE_END: usize = 2;

/// Lengths in a plain record.
struct Head {
    payload: usize,
    blocks: [usize; 3],
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let text = str::from_utf8(bytes.get(..HEAD).ok_or("the archive ends in a head")?)?;
        let column = |from: usize, to: usize| usize::from_str_radix(&text[from..to], 16);
        if column(34, 44)? > 0 {
            return Err("a request has a body".into());
        }
        Ok(Self { payload: column(6, 18)?, blocks: [column(22, 27)?, column(28, 33)?, column(45, 50)?] })
    }

    fn len(&self) -> usize {
        HEAD + self.payload
    }

    /// Looks at the lines of the record that `bytes` begin with, and returns where its body begins.
    fn lines(&self, bytes: &[u8], look: &mut impl Look) -> Result<usize, Failure> {
        let mut at = HEAD;
        for len in self.blocks {
            for line in str::from_utf8(&bytes[at..at + len])?.split_terminator("\r\n").filter(|line| !line.is_empty()) {
                let (name, value) = line.split_once(": ").ok_or("a line without a colon")?;
                look.line(name.as_bytes(), value.as_bytes());
            }
            at += len;
        }
        Ok(at)
    }
}

struct ByHand {
    /// What is to be written.
    records: Vec<u8>,
    /// The archive, every page of it in the table of pages: reading is left with the memory alone.
    map: Option<Mmap>,
}

impl Library for ByHand {
    fn open(task: &Task) -> Result<Self, Failure> {
        let records = if task.action == Action::Write { fs::read(&task.source)? } else { Vec::new() };
        let map = if task.action == Action::Map {
            // SAFETY: the archive isn't changed while its rows run.
            Some(unsafe { MmapOptions::new().populate().map(&File::open(&task.source)?)? })
        } else {
            None
        };
        Ok(Self { records, map })
    }

    fn read(&self, task: &Task, look: &mut impl Look) -> Result<(), Failure> {
        if let Some(map) = &self.map {
            return mapped(map, look);
        }
        let file = File::open(&task.source)?;
        let mut piece = vec![0; PIECE];
        let mut start = 0;
        loop {
            let mut filled = file.read_at(&mut piece, start as u64)?;
            if filled == 0 {
                return Ok(());
            }
            let head = Head::parse(&piece)?;
            let mut used = head.lines(&piece, look)?;
            let (mut at, end) = (start + used, start + head.len() - LINE_END);
            loop {
                let body = &piece[used..filled.min(used + end - at)];
                look.piece(body);
                at += body.len();
                if at == end {
                    break;
                }
                filled = file.read_at(&mut piece, at as u64)?;
                used = 0;
            }
            start += head.len();
        }
    }

    fn write(&self, task: &Task) -> Result<(), Failure> {
        let mut file = File::create_new(&task.output)?;
        let mut left = self.records.as_slice();
        while !left.is_empty() {
            let (record, rest) = left.split_at(Head::parse(left)?.len());
            file.write_all(record)?;
            left = rest;
        }
        Ok(())
    }
}

fn mapped(mut left: &[u8], look: &mut impl Look) -> Result<(), Failure> {
    while !left.is_empty() {
        let head = Head::parse(left)?;
        let (record, rest) = left.split_at(head.len());
        let body = head.lines(record, look)?;
        look.piece(&record[body..record.len() - LINE_END]);
        left = rest;
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    penstock_protocol::archive::main::<ByHand>()
}
