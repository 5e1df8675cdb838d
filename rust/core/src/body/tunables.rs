//! How large a body may become and where it goes: upstream's `Tunables`, checked when made.

use super::digest::Algorithm;
use crate::{Error, Result};
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunables {
    /// Bytes of a body kept in memory; one byte more and it goes to a file.
    pub max_body_ram: u64,
    /// Bytes of a body at all; one byte more is `BodyTooLong`.
    pub max_body: u64,
    /// How many times as long as it came a body may become when it is decoded, from 64 KiB on; `None` is any.
    pub max_ratio: Option<u64>,
    /// Bytes of a piece when a body is read from its file.
    pub buffer_size_fs: usize,
    /// Where files without a name are made; `None` is [`super::file::default_temp_dir`].
    pub temp_dir: Option<PathBuf>,
    /// Computed while the body is received.
    pub digests: Vec<Algorithm>,
}

/// What was given; a field that was not follows those that were.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub max_body_ram: Option<u64>,
    pub max_body: Option<u64>,
    pub max_ratio: Option<u64>,
    pub buffer_size_fs: Option<u64>,
    pub temp_dir: Option<PathBuf>,
    pub digests: Vec<Algorithm>,
}

impl Default for Tunables {
    fn default() -> Self {
        Self {
            max_body_ram: 192 << 10,
            max_body: 1 << 30,
            max_ratio: None,
            buffer_size_fs: 64 << 10,
            temp_dir: None,
            digests: Vec::new(),
        }
    }
}

impl TryFrom<Given> for Tunables {
    type Error = Error;

    fn try_from(given: Given) -> Result<Self> {
        let usual = Self::default();
        let (max_body_ram, max_body) = match (given.max_body_ram, given.max_body) {
            (Some(ram), Some(all)) if ram > all => {
                return Err(Error::setting("max_body_ram", ram, format!("more than max_body={all}")));
            }
            (ram, all) => {
                let ram_or_usual = ram.unwrap_or(usual.max_body_ram);
                let all = all.unwrap_or(usual.max_body.max(ram_or_usual));
                (ram_or_usual.min(all), all)
            }
        };
        let buffer_size_fs = match given.buffer_size_fs {
            None => usual.buffer_size_fs,
            Some(n @ 1..=0x1000_0000) => n as usize,
            Some(n) => return Err(Error::setting("buffer_size_fs", n, "not between 1 and 256 MiB")),
        };
        let Given { max_ratio, temp_dir, digests, .. } = given;
        if max_ratio == Some(0) {
            return Err(Error::setting("max_ratio", 0, "not at least 1"));
        }
        if temp_dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            return Err(Error::setting("temp_dir", "\"\"", "empty, no directory (None is the system's)"));
        }
        Ok(Self { max_body_ram, max_body, max_ratio, buffer_size_fs, temp_dir, digests })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_was_not_given_follows_the_one_that_was() {
        let low = Tunables::try_from(Given { max_body: Some(65_536), ..Given::default() }).unwrap();
        assert_eq!((low.max_body_ram, low.max_body), (65_536, 65_536));
        let high = Tunables::try_from(Given { max_body_ram: Some(1 << 40), ..Given::default() }).unwrap();
        assert_eq!((high.max_body_ram, high.max_body), (1 << 40, 1 << 40));
    }

    #[test]
    fn contradicting_limits_are_refused() {
        let given = Given { max_body_ram: Some(2), max_body: Some(1), ..Given::default() };
        assert_eq!(Tunables::try_from(given).unwrap_err().to_string(), "max_body_ram=2: more than max_body=1");
    }

    #[test]
    fn a_ratio_of_nothing_is_refused() {
        let refused = Tunables::try_from(Given { max_ratio: Some(0), ..Given::default() }).unwrap_err();
        assert_eq!(refused.to_string(), "max_ratio=0: not at least 1");
    }

    #[test]
    fn a_directory_without_a_name_is_refused() {
        let refused = Tunables::try_from(Given { temp_dir: Some(PathBuf::new()), ..Given::default() }).unwrap_err();
        assert_eq!(refused.to_string(), "temp_dir=\"\": empty, no directory (None is the system's)");
    }

    #[test]
    fn a_buffer_of_no_bytes_is_refused() {
        assert!(Tunables::try_from(Given { buffer_size_fs: Some(0), ..Given::default() }).is_err());
    }
}
