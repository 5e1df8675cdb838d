//! Where the received bytes go, and how they are read once: memory that was used before, a new file without a name for
//! each response, or files that are used again with their mappings.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use memmap2::{Advice, MmapMut, MmapOptions};

const WINDOW: usize = 256 * 1024;
const PIECE: usize = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Forget,
    Ram,
    Fs,
    Mmap,
    RecycledFs,
    RecycledMmap,
}

impl FromStr for Way {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "forget" => Self::Forget,
            "ram" => Self::Ram,
            "fs" => Self::Fs,
            "mmap" => Self::Mmap,
            "recycled-fs" => Self::RecycledFs,
            "recycled-mmap" => Self::RecycledMmap,
            _ => return Err(format!("unknown way {name:?}")),
        })
    }
}

pub struct Store {
    way: Way,
    dir: PathBuf,
    buffer: Vec<u8>,
    /// One a connection: of memory or of a recycled file.
    maps: Vec<MmapMut>,
    /// One a connection: the recycled files, or the fresh one of the response that is being received.
    files: Vec<Option<File>>,
}

impl Store {
    pub fn new(way: Way, dir: &Path, connections: usize, wire: usize) -> io::Result<Self> {
        let mut store = Self {
            way,
            dir: dir.to_owned(),
            buffer: vec![1; WINDOW],
            maps: Vec::new(),
            files: (0..connections).map(|_| None).collect(),
        };
        // Room for one window more than a response has, so that what is received is never cut by it.
        let room = wire + WINDOW;
        for index in 0..connections {
            let mut map = match way {
                Way::Ram => MmapMut::map_anon(room)?,
                Way::RecycledFs | Way::RecycledMmap => {
                    let file = unnamed(dir)?;
                    for offset in (0..room).step_by(WINDOW) {
                        file.write_all_at(&store.buffer, offset as u64)?;
                    }
                    // SAFETY: the file has no name, so nobody else can change its length.
                    let map = unsafe { MmapMut::map_mut(&file)? };
                    store.files[index] = Some(file);
                    map
                }
                Way::Forget | Way::Fs | Way::Mmap => break,
            };
            if way == Way::Ram {
                // Only advice: without huge pages the row is what it is.
                let _ = map.advise(Advice::HugePage);
            }
            map.fill(1);
            store.maps.push(map);
        }
        Ok(store)
    }

    /// Receives once, behind the `offset` bytes that the response has already.
    pub fn receive(
        &mut self,
        index: usize,
        offset: usize,
        read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        match self.way {
            Way::Forget => read(&mut self.buffer),
            Way::Ram | Way::RecycledFs | Way::RecycledMmap => read(&mut self.maps[index][offset..][..WINDOW]),
            Way::Fs | Way::Mmap => {
                let count = read(&mut self.buffer)?;
                if self.files[index].is_none() {
                    self.files[index] = Some(unnamed(&self.dir)?);
                }
                if let Some(file) = &self.files[index] {
                    file.write_all_at(&self.buffer[..count], offset as u64)?;
                }
                Ok(count)
            }
        }
    }

    /// Reads a complete response once from end to end, and lets a fresh file go.
    pub fn look(&mut self, index: usize, wire: usize) -> io::Result<()> {
        let highest = match self.way {
            Way::Forget => return Ok(()),
            Way::Ram | Way::RecycledMmap => highest(&self.maps[index][..wire]),
            Way::Fs | Way::RecycledFs => {
                let mut found = 0;
                let Some(file) = &self.files[index] else { return Ok(()) };
                for offset in (0..wire).step_by(PIECE) {
                    let piece = &mut self.buffer[..PIECE.min(wire - offset)];
                    file.read_exact_at(piece, offset as u64)?;
                    found = found.max(highest(piece));
                }
                found
            }
            Way::Mmap => {
                let Some(file) = &self.files[index] else { return Ok(()) };
                // SAFETY: as above.
                let map = unsafe { MmapOptions::new().len(wire).map(file)? };
                map.advise(Advice::Sequential)?;
                highest(&map)
            }
        };
        if self.way == Way::Fs || self.way == Way::Mmap {
            self.files[index] = None;
        }
        if highest == 0xff { Ok(()) } else { Err(io::Error::other("a response was not read to its last byte")) }
    }
}

/// Not to be left out by the compiler: its result is looked at.
fn highest(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |highest, byte| highest.max(*byte))
}

fn unnamed(dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(nix::libc::O_TMPFILE).open(dir)
}
