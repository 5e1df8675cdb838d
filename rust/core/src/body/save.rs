//! How a body gets a name in a file system: its own file is given it where that is possible, else there is a copy under it,
//! by reflink where the file system has that. Never half written.

use super::file::BodyFile;
use crate::{Error, Result};
use bytes::Bytes;
#[cfg(target_os = "linux")]
use rustix::fs::CWD;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// What `save` writes.
pub enum Content<'a> {
    Pieces(&'a [Bytes]),
    Range { file: &'a BodyFile, offset: u64, len: u64 },
}

/// Makes `path` a file with this content: by giving the body's own file a name where that is possible, else by a
/// reflink, else by copying; never half written. May wait for the disk.
pub fn save(content: &Content<'_>, path: &Path, overwrite: bool, fsync: bool) -> Result<()> {
    let failed = Error::file::<io::Error>("save a body as", path);
    if !overwrite && path.symlink_metadata().is_ok() {
        return Err(failed(rustix::io::Errno::EXIST.into()));
    }
    let draft = draft_name(path);
    let finish = || -> io::Result<()> {
        if fsync {
            File::open(&draft)?.sync_all()?;
        }
        if overwrite {
            std::fs::rename(&draft, path)?;
        } else {
            rename_new(&draft, path)?;
        }
        if fsync { store_name(path) } else { Ok(()) }
    };
    let write = || -> io::Result<()> {
        if let Content::Range { file, offset: 0, len } = content
            && *len == file.size()
            && file.link_to(&draft)?
        {
            return finish();
        }
        let target = File::options().write(true).create_new(true).open(&draft)?;
        match content {
            Content::Pieces(pieces) => pieces.iter().try_for_each(|piece| (&target).write_all(piece))?,
            Content::Range { file, offset, len } => copy_range(file, *offset, *len, &target)?,
        }
        finish()
    };
    let result = write();
    if result.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    result.map_err(|error| match content {
        Content::Range { file, offset, len } if error.kind() == io::ErrorKind::UnexpectedEof => {
            let received = file.look_again().map_or(0, |size| size.saturating_sub(*offset));
            Error::Truncated { received, expected: Some(*len) }
        }
        _ => failed(error),
    })
}

/// Returns when the folder that the name is in is on the disk.
pub(crate) fn store_name(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    File::open(parent)?.sync_all()
}

/// Renames, unless `to` is there already.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::renameat_with(CWD, from, CWD, to, rustix::fs::RenameFlags::NOREPLACE) {
        // A file system that can't.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
        done => return Ok(done?),
    }
    // link(2) refuses an existing name, which rename(2) would replace.
    match std::fs::hard_link(from, to) {
        Ok(()) => std::fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // A file system that has no links, either: an empty file keeps others from the name until it is the draft's.
        Err(_) => {
            drop(File::options().write(true).create_new(true).open(to)?);
            std::fs::rename(from, to).inspect_err(|_| drop(std::fs::remove_file(to)))
        }
    }
}

pub(super) fn copy_range(file: &BodyFile, mut offset: u64, len: u64, target: &File) -> io::Result<()> {
    // Blocks that a copy shares have to be written to another place from then on.
    #[cfg(target_os = "linux")]
    let may_share = !file.is_in_place();
    #[cfg(target_os = "linux")]
    if may_share && offset == 0 && len == file.size() && rustix::fs::ioctl_ficlone(target, file).is_ok() {
        return cut_clone(target, len);
    }
    let end = offset + len;
    let mut to = 0;
    #[cfg(target_os = "linux")]
    while may_share && offset < end {
        let most = usize::try_from(end - offset).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(file, Some(&mut offset), target, Some(&mut to), most) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    let mut buffer = vec![0; 256 << 10];
    while offset < end {
        let most = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..most).unwrap_or_default();
        let n = file.file().read_at(part, offset)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        target.write_all_at(part.get(..n).unwrap_or_default(), to)?;
        offset += n as u64;
        to += n as u64;
    }
    Ok(())
}

/// A clone is all of the file as it is now: others may have written to it since its size was asked for.
#[cfg(target_os = "linux")]
fn cut_clone(clone: &File, len: u64) -> io::Result<()> {
    if clone.metadata()?.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    clone.set_len(len)
}

/// A name beside `path` that no other save uses, nor one has left: in containers processes have the same numbers. It is no
/// longer than a file system takes.
pub(super) fn draft_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().take(50).collect();
    // Random in each thread, and another one each time.
    let random = RandomState::new().build_hasher().finish();
    path.with_file_name(format!(".{name}.{}-{random:016x}.part", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Budget;
    use crate::testing::Place;
    use std::io::IoSlice;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_clone_is_as_long_as_the_body_or_refused() {
        let file = BodyFile::temporary(Path::new("/tmp"), &Budget::new(None, None, None), None).unwrap();
        let clone = file.file();
        for (has, body) in [(5000, 1000), (1000, 1000)] {
            clone.set_len(has).unwrap();
            cut_clone(clone, body).unwrap();
            assert_eq!(clone.metadata().unwrap().len(), body);
        }
        assert_eq!(cut_clone(clone, 1001).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_mapped_file_gets_a_copy_for_a_name_and_a_named_one_is_not_mapped() {
        let dir = std::env::temp_dir();
        let path = Place::new();
        let file = BodyFile::temporary(&dir, &Budget::new(None, None, None), None).unwrap();
        file.reserve(3).unwrap();
        file.write_slices_at(&mut [IoSlice::new(b"abc")], 0).unwrap();
        let content = Content::Range { file: &file, offset: 0, len: 3 };
        save(&content, &path, false, false).unwrap();
        assert!(!file.claim_map());
        let taken = save(&content, &path, false, false).unwrap_err();
        assert!(taken.to_string().starts_with(&format!("cannot save a body as {}: ", path.display())), "{taken}");
        save(&content, &path, true, true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        let mapped = BodyFile::temporary(&dir, &Budget::new(None, None, None), None).unwrap();
        mapped.reserve(3).unwrap();
        mapped.write_slices_at(&mut [IoSlice::new(b"xyz")], 0).unwrap();
        assert!(mapped.claim_map());
        save(&Content::Range { file: &mapped, offset: 0, len: 3 }, &path, true, false).unwrap();
        // Whoever cuts what has the name doesn't cut what is mapped.
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert_eq!(mapped.look_again().unwrap(), 3);
    }
}
