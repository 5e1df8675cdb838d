//! Whole files: no input makes reading panic or go round in circles, and once a file is mended all of it reads.

#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_core::barc::{Reader, Walk, repair};
use penstock_core::body::{Budget, Tunables};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much of the file was damage.
fn walk(path: &Path) -> u64 {
    let tunables = Tunables { max_body: 1 << 20, ..Tunables::default() };
    let mut reader = Reader::open(path, Arc::new(tunables), Budget::new(None, None, None)).unwrap();
    let (mut at, mut damage) = (0, 0);
    loop {
        let end = match reader.step(at, true, |reader, entry| reader.verify(entry)).unwrap() {
            Walk::Found(entry, ()) => {
                let _ = reader.record(&entry);
                entry.end()
            }
            Walk::Skipped { end, .. } => {
                damage += end - at;
                end
            }
            Walk::End => return damage,
        };
        assert!(end > at, "{at} {end}");
        at = end;
    }
}

fuzz_target!(|input: &[u8]| {
    let path = PathBuf::from(format!("/dev/shm/penstock-fuzz-{}", std::process::id()));
    std::fs::write(&path, input).unwrap();
    walk(&path);
    // Where there is no room for a record it isn't mended.
    if repair(&path).is_ok() {
        assert_eq!(walk(&path), 0);
    }
    std::fs::remove_file(&path).unwrap();
});
