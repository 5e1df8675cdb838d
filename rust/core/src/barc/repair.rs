//! Mending a damaged file in place. No record that can be read is moved, as others may know it by its offset.
//!
//! What no writer finished is cut off the end. Damage before other records is covered: a plain record whose response
//! body it is takes its place, so that all readers get past it and nothing is thrown away.

use super::damage::Damage;
use super::head::{Head, Kind};
use super::reader::{Reader, Walk};
use super::writer::{Locked, lock, written_by_others};
use crate::body::file::BodyFile;
use crate::body::{Budget, Tunables};
use crate::{Error, Result};
use std::fs::File;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

/// Bytes that are read in a step, at least.
const STRIDE: u64 = 8 << 20;

/// One place that was mended.
#[derive(Debug)]
pub struct Repair {
    pub offset: u64,
    pub end: u64,
    /// Else covered.
    pub cut: bool,
    pub error: Error,
}

/// Mends the file, of which this must be the only writer. May take long: every record is read.
pub fn repair(path: &Path) -> Result<Vec<Repair>> {
    let mut mender = Mender::open(path)?;
    while mender.read_on()?.1 > 0 {}
    mender.mend()
}

/// The same in steps.
pub struct Mender {
    file: Locked,
    reader: Reader,
    repairs: Vec<Repair>,
    at: u64,
}

impl Mender {
    /// Opens the file, whose only writer this is from now on.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            File::open(path).map_err(Error::file("open the archive", path))?;
        }
        let file = lock(path)?;
        let reader = Reader::of(file.shared(), Arc::new(Tunables::default()), Budget::shared());
        Ok(Self { file, reader, repairs: Vec::new(), at: 0 })
    }

    /// Looks for damage in what follows: in how many records, and bytes. At the end of the file there are none.
    pub fn read_on(&mut self) -> Result<(u64, u64)> {
        let (from, mut count) = (self.at, 0);
        while self.at - from < STRIDE {
            let at = self.at;
            match self.reader.step(at, true, |reader, entry| reader.verify(entry))? {
                Walk::Found(entry, ()) => self.at = entry.end(),
                // The file has become shorter.
                Walk::Skipped { error, end } if end <= at => return Err(error),
                Walk::Skipped { error, end } => {
                    let cut = end == self.file.size() && is_incomplete(&error);
                    self.repairs.push(Repair { offset: at, end, cut, error });
                    self.at = end;
                }
                Walk::End if at < self.file.look_again()? => {
                    let error = Error::Archive { offset: at, damage: Damage::Unfinished, end: None };
                    self.at = self.file.size();
                    self.repairs.push(Repair { offset: at, end: self.at, cut: true, error });
                }
                Walk::End => break,
            }
            count += 1;
        }
        Ok((count, self.at - from))
    }

    /// Mends what was found, once there is nothing more to read.
    pub fn mend(self) -> Result<Vec<Repair>> {
        if self.file.look_again()? != self.at {
            return Err(written_by_others("repair the archive"));
        }
        check_archive(&self.file, &self.repairs)?;
        // If one place can't be covered, none is changed.
        let covers: Vec<_> = self.repairs.iter().filter(|repair| !repair.cut).map(cover).collect::<Result<_>>()?;
        for (offset, head) in covers {
            self.file.write_slices_at(&mut [IoSlice::new(&head.write())], offset)?;
        }
        for repair in self.repairs.iter().filter(|repair| repair.cut) {
            rustix::fs::ftruncate(&*self.file, repair.offset).map_err(Error::io("cut off an unfinished record"))?;
        }
        self.file.store().map_err(Error::io("have the archive stored"))?;
        Ok(self.repairs)
    }
}

/// Refuses a file that has nothing of an archive.
fn check_archive(file: &BodyFile, repairs: &[Repair]) -> Result<()> {
    let mut start = [0; 6];
    let n = file.read_at(&mut start, 0)?;
    let damaged: u64 = repairs.iter().map(|repair| repair.end - repair.offset).sum();
    if damaged == file.size() && !Head::RESERVED.starts_with(start.get(..n).unwrap_or_default()) {
        return Err(Error::Archive { offset: 0, damage: Damage::NotAHead, end: None });
    }
    Ok(())
}

/// Whether the end of a record is what is missing.
fn is_incomplete(error: &Error) -> bool {
    matches!(
        error,
        Error::Archive { damage: Damage::Short { .. } | Damage::IncompleteHead(_) | Damage::Unfinished, .. }
    )
}

/// The place of a record that has the damage in it, and its head.
fn cover(&Repair { offset, end, .. }: &Repair) -> Result<(u64, Head)> {
    let len = (end - offset).checked_sub(Head::LEN as u64).filter(|len| *len == 0 || *len > 2);
    let Some(len) = len.filter(|len| *len <= Head::MOST_LEN) else {
        let reason = "too few bytes for a record in their place: copy the good records to another file";
        return Err(Error::setting("repair", format!("bytes {offset} to {end}"), reason));
    };
    let kind = Kind::Dialog;
    let head = Head { len, kind, compression: None, meta: 0, req_headers: 0, req_body: 0, res_headers: 0 };
    Ok((offset, head))
}
