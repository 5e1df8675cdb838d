//! Response framing: no input makes it panic or point outside of what it was given, and how the bytes are cut into
//! pieces changes nothing of what comes out. The first byte says whether the request was HEAD and into how many pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_core::Error;
use penstock_core::http::{Asked, HeadLimits, HeadStep, Response};

/// The status, the bytes of the body, and how it ended: what was consumed and whether the connection may be used again,
/// or what was wrong.
type Outcome = (Option<u16>, Vec<u8>, Result<(usize, bool), String>);

/// What was wrong and where. The message may show more of a line when more of it came at once.
fn fault(error: Error) -> String {
    match error {
        Error::Protocol { at, .. } => format!("protocol error at {at}"),
        other => other.to_string(),
    }
}

fn outcome<'a>(head: bool, mut pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut response = Response::new(HeadLimits::default(), Asked { head, ..Asked::default() });
    let (mut body, mut consumed) = (Vec::new(), 0);
    let end = pieces
        .try_for_each(|piece| feed(&mut response, piece, &mut body, &mut consumed))
        .and_then(|()| response.eof())
        .map(|()| (consumed, response.keep_alive()))
        .map_err(fault);
    (response.head().map(|head| head.status), body, end)
}

fn feed(response: &mut Response, piece: &[u8], body: &mut Vec<u8>, consumed: &mut usize) -> Result<(), Error> {
    let mut rest = piece;
    if response.framing().is_none() {
        match response.feed_head(rest)? {
            HeadStep::More => {
                *consumed += rest.len();
                return Ok(());
            }
            HeadStep::Done { consumed: taken } => {
                *consumed += taken;
                rest = &rest[taken..];
            }
        }
    }
    if response.is_done() {
        return Ok(());
    }
    let mut end = 0;
    let step = response.feed_body(rest, |range| {
        assert!(end <= range.start && range.start < range.end && range.end <= rest.len(), "{range:?}");
        end = range.end;
        body.extend_from_slice(&rest[range]);
    })?;
    assert!(step.consumed <= rest.len() && (step.done || step.consumed == rest.len()));
    *consumed += step.consumed;
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    let Some((&how, input)) = input.split_first() else { return };
    let (head, size) = (how & 1 == 1, usize::from(how >> 1) + 1);
    let whole = outcome(head, std::iter::once(input));
    assert_eq!(whole, outcome(head, input.chunks(size)), "pieces of {size}");
});
