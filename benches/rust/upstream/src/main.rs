//! Upstream's crates, built from the registry with a lock file of their own. So far it shows that they build and collect a
//! body; the scenarios come with the comparison of both languages.

use body_image::{BodyError, BodySink};

fn main() -> Result<(), BodyError> {
    let mut sink = BodySink::with_ram_buffers(2);
    sink.push(&b"collected by "[..])?;
    sink.push(&b"upstream"[..])?;
    println!("{} bytes", sink.prepare()?.len());
    Ok(())
}
