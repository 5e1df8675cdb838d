//! Header blocks: no input makes it panic, and what was read can be written and read again, unless it is too much for
//! upstream. The first byte says whether the block is a plain record's.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use penstock_core::Error;
use penstock_core::barc::Fields;

fuzz_target!(|input: &[u8]| {
    let Some((&how, block)) = input.split_first() else { return };
    let read = if how & 1 == 0 {
        Fields::closed(Bytes::copy_from_slice(block), "block")
    } else {
        Fields::bare(block.to_vec(), "block")
    };
    let Ok(fields) = read else { return };
    let pairs: Vec<_> = fields.iter().map(|(name, value)| (name.into_owned(), value.to_vec())).collect();
    match Fields::from_pairs(pairs.iter().map(|(name, value)| (&name[..], &value[..]))) {
        Ok(written) => assert_eq!(written.iter().count(), pairs.len()),
        Err(error) => assert!(matches!(error, Error::HeadTooLong { .. }), "{error}"),
    }
});
