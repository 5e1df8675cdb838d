//! Heads of records: no input makes it panic, and what is a head is written again as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_core::barc::Head;

fuzz_target!(|input: &[u8]| {
    if let Ok(head) = Head::parse(input) {
        assert_eq!(head.write(), &input[..Head::LEN]);
        let _ = head.check_lengths();
    }
});
