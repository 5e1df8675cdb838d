//! Which framing the body of a response has, by its head and by what was asked for (RFC 9112 section 6.3). How each
//! framing is walked is in `response` and `chunked`.

use super::{
    fields::{Field, shown},
    head::{Head, Persistence, Version, elements},
};
use crate::{Error, Result};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// No body: whatever follows is the next response, or the tunnel.
    Empty,
    Length(u64),
    Chunked,
    UntilClose,
}

/// What the reading of a response depends on in its request. `From<bool>` stands for "was it HEAD?".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// The method was HEAD: no body follows.
    pub head: bool,
    /// The method was CONNECT: a 2xx starts a tunnel.
    pub connect: bool,
    /// The request had an Upgrade field: a 101 starts the other protocol. Unasked, it is an error.
    pub upgrade: bool,
    /// The request had a TE field, and whoever reads the body decodes [`transfer_codings`]; unasked they are an error.
    ///
    /// [`transfer_codings`]: super::Response::transfer_codings
    pub transfer_codings: bool,
}

impl From<bool> for Asked {
    fn from(head: bool) -> Self {
        Self { head, ..Self::default() }
    }
}

pub(super) struct Decision {
    pub framing: Framing,
    /// In lower case, in the order in which they were applied; `chunked` isn't among them.
    pub codings: Vec<String>,
    /// Whether the connection can serve another request after the body.
    pub reusable: bool,
    /// Whether there is a Content-Encoding field.
    pub encoded: bool,
}

/// Decides by RFC 9112 section 6.3. `at` is the head's offset in the response.
pub(super) fn decide(head: &Head, asked: Asked, at: u64) -> Result<Decision> {
    let tunnel = Decision { framing: Framing::Empty, codings: Vec::new(), reusable: false, encoded: false };
    // Rule 2: a 2xx to CONNECT has no body whatever its fields say. After a 101 the connection isn't HTTP/1.1 any more.
    if head.status == 101 || asked.connect && (200..300).contains(&head.status) {
        return Ok(tunnel);
    }
    let mut length = None;
    let mut transfer = None;
    let mut persistence = Persistence::default();
    let mut encoded = false;
    for field in head.fields() {
        if field.is("content-length") {
            content_length(field, &mut length, at)?;
        } else if field.is("transfer-encoding") {
            transfer_encoding(field, transfer.get_or_insert_default(), at)?;
        } else if field.is("connection") {
            persistence.take(field);
        } else {
            encoded |= field.is("content-encoding");
        }
    }
    let length = length.map(|(_, value)| value);
    if let Some(transfer) = &transfer {
        transfer_allowed(transfer, head, asked, length, at)?;
    }
    let reusable = persistence.keep_alive(head.version);
    // Rule 1. A length may be there all the same: that of the body which GET would have got (RFC 9110 section 8.6).
    if asked.head || head.status == 304 {
        return Ok(Decision { reusable, ..tunnel });
    }
    if head.status == 204 {
        // A server that announces a body must not (RFC 9110 section 8.6, RFC 9112 section 6.1) and may well send it.
        let silent = transfer.is_none() && length.unwrap_or(0) == 0;
        return Ok(Decision { reusable: reusable && silent, ..tunnel });
    }
    Ok(match (transfer, length) {
        (Some(transfer), _) => Decision { framing: Framing::Chunked, codings: transfer.codings, reusable, encoded },
        (None, Some(length)) => Decision { framing: Framing::Length(length), reusable, encoded, ..tunnel },
        (None, None) => Decision { framing: Framing::UntilClose, encoded, ..tunnel },
    })
}

/// An informational response has no body, whatever its fields say. A length that can't be read is refused there, too: it shows
/// a server, or somebody between, that writes what others may read in another way.
pub(super) fn check_informational(head: &Head, at: u64) -> Result<()> {
    let mut length = None;
    let mut lengths = head.fields().filter(|field| field.is("content-length"));
    lengths.try_for_each(|field| content_length(field, &mut length, at))
}

/// Takes one Content-Length line. The same digits again, in a list or in another line, are accepted (rule 5); anything
/// else that isn't one run of digits is an error.
fn content_length<'a>(field: Field<'a>, length: &mut Option<(&'a [u8], u64)>, at: u64) -> Result<()> {
    let refuse = |why: &str| {
        let what = format!("content-length {}: {why}", shown(field.value));
        Err(Error::protocol(what, at + field.at as u64))
    };
    for element in field.value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        if element.is_empty() || !element.iter().all(u8::is_ascii_digit) {
            return refuse("not a number");
        }
        // Up to 2⁶³ − 1, as file offsets are.
        let value = element.iter().try_fold(0_i64, |value, digit| {
            value.checked_mul(10).and_then(|value| value.checked_add(i64::from(digit - b'0')))
        });
        let Some(value) = value.map(i64::unsigned_abs) else {
            return refuse("too large a number");
        };
        if length.is_some_and(|(other, _)| other != element) {
            return refuse("differs from another one");
        }
        *length = Some((element, value));
    }
    Ok(())
}

#[derive(Default)]
struct Transfer {
    codings: Vec<String>,
    chunked: bool,
    /// Offset of the last Transfer-Encoding line in the head.
    at: usize,
}

/// Takes one Transfer-Encoding line (RFC 9112 section 6.1): known codings, each without parameters, then `chunked`.
fn transfer_encoding(field: Field<'_>, transfer: &mut Transfer, at: u64) -> Result<()> {
    const KNOWN: [&str; 5] = ["gzip", "x-gzip", "deflate", "compress", "x-compress"];
    transfer.at = field.at;
    let refuse = |why: &str| {
        let what = format!("transfer-encoding {}: {why}", shown(field.value));
        Err(Error::protocol(what, at + field.at as u64))
    };
    // Some readers keep the last line only.
    if elements(field).next().is_none() {
        return refuse("names no coding");
    }
    for coding in elements(field) {
        if transfer.chunked {
            return refuse("a coding after chunked");
        }
        if coding.eq_ignore_ascii_case(b"chunked") {
            transfer.chunked = true;
        } else if let Some(known) = KNOWN.iter().find(|known| coding.eq_ignore_ascii_case(known.as_bytes())) {
            transfer.codings.push((*known).to_owned());
        } else {
            return refuse("unknown coding");
        }
    }
    Ok(())
}

fn transfer_allowed(transfer: &Transfer, head: &Head, asked: Asked, length: Option<u64>, at: u64) -> Result<()> {
    let what = if head.version == Version::Http10 {
        // RFC 9112 section 6.1: the framing of such a message is faulty.
        "transfer-encoding in an HTTP/1.0 response".to_owned()
    } else if length.is_some() {
        // RFC 9112 section 6.3, rule 3: the shape of request smuggling and response splitting.
        "transfer-encoding together with content-length".to_owned()
    } else if !transfer.chunked {
        // Rule 4 would read until close; which codings a body has must not depend on who closed.
        format!("transfer-encoding {}: does not end with chunked", shown(transfer.codings.join(", ").as_bytes()))
    } else if !transfer.codings.is_empty() && !asked.transfer_codings {
        // RFC 9112 section 7.4: codings other than chunked are sent to those only who named them in TE.
        format!("transfer-encoding {}: not asked for", shown(transfer.codings.join(", ").as_bytes()))
    } else {
        return Ok(());
    };
    Err(Error::protocol(what, at + transfer.at as u64))
}
