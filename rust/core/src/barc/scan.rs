//! Finding where records go on behind damage. Bodies may hold text that looks like a head, or a whole archive, so a
//! place counts only if a few heads in a row lead from it, or to the end of the file.

use super::head::{Head, Kind, PREFIX};
use super::reader::Reader;
use super::record::Entry;
use crate::Result;
use memchr::memmem;
use std::collections::HashSet;

/// Bytes looked through at once.
const STRIDE: usize = 256 << 10;
/// Heads in a row that make a place credible.
const CHAIN: usize = 8;
/// Places that are kept in mind: with more of them, one is taken for credible.
const MOST_PLACES: usize = 1 << 20;

impl Reader {
    /// The first place from `from` on where a record begins.
    pub fn find(&mut self, from: u64) -> Result<Option<u64>> {
        self.search(from, Self::leads_on)
    }

    /// The first record that somebody else has written behind the reserved head at `at`. Where all that stands there
    /// may be of the payload that the head announces, a place counts only if it leads to the end of the file: an
    /// archive within that payload was cut off where its writer died.
    pub(super) fn find_behind(&mut self, at: u64) -> Result<Option<u64>> {
        let end = self.begun(at)?.map_or(at + Head::LEN as u64, |entry| entry.end());
        if self.file().look_again()? > end {
            return self.find(at + 1);
        }
        let mut nowhere = HashSet::new();
        self.search(at + 1, |reader, place| reader.leads_to_the_end(place, &mut nowhere))
    }

    fn search(&mut self, from: u64, mut counts: impl FnMut(&mut Self, u64) -> Result<bool>) -> Result<Option<u64>> {
        let mut buffer = vec![0; STRIDE];
        let mut start = from;
        loop {
            let n = self.file().read_at(&mut buffer, start)?;
            let bytes = buffer.get(..n).unwrap_or_default();
            for found in memmem::find_iter(bytes, PREFIX) {
                let place = start + found as u64;
                if counts(self, place)? {
                    return Ok(Some(place));
                }
            }
            if n < STRIDE {
                return Ok(None);
            }
            // What the stride's end cut is looked at again.
            start += (n - PREFIX.len() + 1) as u64;
        }
    }

    /// Whether a complete record begins here, and others follow it, or the file's end does.
    fn leads_on(&mut self, place: u64) -> Result<bool> {
        let mut at = place;
        for _ in 0..CHAIN {
            match self.step_from(at)? {
                Step::On(next) => at = next,
                Step::Reserved => return Ok(at > place),
                Step::End => return Ok(true),
                Step::Nowhere => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether complete records follow each other from here to the end of the file, or to one that is being written.
    /// `nowhere` has the places from which none do.
    fn leads_to_the_end(&mut self, place: u64, nowhere: &mut HashSet<u64>) -> Result<bool> {
        let mut at = place;
        while nowhere.insert(at) {
            if nowhere.len() > MOST_PLACES {
                return Ok(true);
            }
            match self.step_from(at)? {
                Step::On(next) => at = next,
                Step::Reserved => return Ok(at > place),
                Step::End => return Ok(true),
                Step::Nowhere => break,
            }
        }
        Ok(false)
    }

    /// What a head at `at` leads to.
    fn step_from(&self, at: u64) -> Result<Step> {
        Ok(match self.begun(at)? {
            Some(entry) if entry.head.kind == Kind::Dialog && entry.head.check_lengths().is_ok() => {
                let next = entry.end();
                if next < self.file().size() || next < self.file().look_again()? {
                    Step::On(next)
                } else if next == self.file().size() {
                    Step::End
                } else {
                    Step::Nowhere
                }
            }
            Some(entry) if entry.head.kind == Kind::Reserved => Step::Reserved,
            _ => Step::Nowhere,
        })
    }

    /// Whether `at` is the end of the file, or has a head.
    pub(super) fn may_begin(&mut self, at: u64) -> Result<bool> {
        let size = self.file().look_again()?;
        Ok(at == size || (at < size && self.begun(at)?.is_some()))
    }

    /// What the head at `at` says of its record, complete or not.
    fn begun(&self, at: u64) -> Result<Option<Entry>> {
        let mut bytes = [0; Head::LEN];
        let n = self.file().read_at(&mut bytes, at)?;
        Ok(bytes.get(..n).and_then(|bytes| Head::parse(bytes).ok()).map(|head| Entry { offset: at, head }))
    }
}

/// From a head to what stands behind its record.
enum Step {
    On(u64),
    /// The head is of a record that is being written.
    Reserved,
    /// The record is the last one.
    End,
    /// There is no head, or the record isn't complete.
    Nowhere,
}
