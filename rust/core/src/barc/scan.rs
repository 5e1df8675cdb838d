//! Finding where records go on behind damage. Bodies may hold text that looks like a head, or a whole archive, so a
//! place counts only if a few heads in a row lead from it, or to the end of the file.

use super::head::{Head, Kind};
use super::reader::Reader;
use crate::Result;
use memchr::memmem;

const PREFIX: &[u8] = b"BARC2 ";
/// Bytes looked through at once.
const STRIDE: usize = 256 << 10;
/// Heads in a row that make a place credible.
const CHAIN: usize = 8;

impl Reader {
    /// The first place from `from` on where a record begins.
    pub fn find(&mut self, from: u64) -> Result<Option<u64>> {
        let mut buffer = vec![0; STRIDE];
        let mut start = from;
        loop {
            let n = self.file().read_at(&mut buffer, start)?;
            let bytes = buffer.get(..n).unwrap_or_default();
            for found in memmem::find_iter(bytes, PREFIX) {
                let place = start + found as u64;
                if self.leads_on(place)? {
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
            match self.head(at)? {
                Some(head) if head.kind == Kind::Dialog && head.check_lengths().is_ok() => {
                    at += Head::LEN as u64 + head.len;
                    if at >= self.file().size() && at >= self.file().look_again()? {
                        return Ok(at == self.file().size());
                    }
                }
                Some(head) => return Ok(head.kind == Kind::Reserved && at > place),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether `at` is the end of the file, or has a head.
    pub(super) fn may_begin(&mut self, at: u64) -> Result<bool> {
        Ok(at == self.file().look_again()? || self.head(at)?.is_some())
    }

    fn head(&self, at: u64) -> Result<Option<Head>> {
        let mut bytes = [0; Head::LEN];
        let n = self.file().read_at(&mut bytes, at)?;
        Ok(bytes.get(..n).and_then(|bytes| Head::parse(bytes).ok()))
    }
}
