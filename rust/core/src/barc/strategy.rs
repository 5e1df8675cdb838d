//! Whether a record is worth compressing: by the sizes and types of its parts, as upstream decides it.

use super::head::Compression;
use super::record::Record;

/// How records are written. Each one for which it isn't worth it is written plain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strategy {
    /// `None`: all of them plain.
    pub compression: Option<Compression>,
    /// 0 to 9 for gzip, 0 to 11 for brotli.
    pub level: u32,
    /// Compressible bytes that make it worth it.
    pub min_len: u64,
    /// Count a response's body only if its codings are known to be removed.
    pub check_identity: bool,
    /// How much of each body that isn't compressible is added to `min_len`.
    pub non_compressible_coef: f64,
}

impl Default for Strategy {
    fn default() -> Self {
        Self { compression: None, level: 6, min_len: 0, check_identity: false, non_compressible_coef: 0.5 }
    }
}

impl Strategy {
    pub fn gzip() -> Self {
        Self { compression: Some(Compression::Gzip), min_len: 4096, check_identity: true, ..Self::default() }
    }

    pub fn brotli() -> Self {
        Self { compression: Some(Compression::Brotli), min_len: 1024, check_identity: true, ..Self::default() }
    }

    /// How this record is to be written.
    pub fn choose(&self, record: &Record) -> Option<Compression> {
        self.compression.filter(|_| self.is_worth_it(record))
    }

    fn is_worth_it(&self, record: &Record) -> bool {
        let mut compressible = 0;
        let mut needed = self.min_len;
        let mut count = |len: u64, counts: bool| {
            if counts {
                compressible += len;
            } else {
                needed = needed.saturating_add((len as f64 * self.non_compressible_coef) as u64);
            }
        };
        let is_raw = || record.meta.get("response-decoded").is_some_and(|codings| codings.ends_with(b"identity"));
        let response = is_compressible(record.res_headers.get("content-type")) && (!self.check_identity || is_raw());
        count(record.res_body.len(), response);
        count(record.req_body.len(), is_compressible(record.req_headers.get("content-type")));
        // Each block is weighed only if it decides.
        let blocks = [&record.res_headers, &record.req_headers, &record.meta];
        compressible >= needed
            || blocks.iter().any(|block| {
                compressible += block.weight();
                compressible >= needed
            })
    }
}

/// By the content type, its parameters and the suffix after a `+` ignored. The list is upstream's.
fn is_compressible(content_type: Option<&[u8]>) -> bool {
    let Some(text) = content_type.filter(|text| text.is_ascii()).and_then(|text| std::str::from_utf8(text).ok()) else {
        return false;
    };
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let Some((kind, subtype)) = essence.split_once('/') else { return false };
    let is_token = |part: &str| !part.is_empty() && part.bytes().all(|byte| crate::http::fields::is_tchar(&byte));
    if !is_token(kind) || !is_token(subtype) {
        return false;
    }
    let subtype = subtype.rsplit_once('+').map_or(subtype, |(before, _)| before);
    match kind {
        "text" => true,
        "application" => [
            "html",
            "javascript",
            "json",
            "xml",
            "atom",
            "rss",
            "xhtml",
            "x-font-opentype",
            "x-font-truetype",
            "x-font-ttf",
        ]
        .contains(&subtype),
        "image" => subtype == "svg",
        "font" => ["opentype", "otf", "ttf"].contains(&subtype),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::Fields;
    use super::*;
    use crate::body::BodyImage;
    use bytes::Bytes;

    fn body(len: usize) -> BodyImage {
        BodyImage::from_piece(Bytes::from(vec![b'x'; len]))
    }

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        Fields::from_pairs(pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))).unwrap()
    }

    fn text(len: usize) -> Record {
        Record {
            meta: fields(&[("response-decoded", "chunked, gzip, identity")]),
            res_headers: fields(&[("content-type", "Text/HTML; charset=utf-8")]),
            res_body: body(len),
            ..Record::default()
        }
    }

    #[test]
    fn types_are_compressible_by_upstreams_list() {
        let yes = [
            "text/plain",
            "text/x",
            "TEXT/CSV ; a=b",
            "application/json",
            "application/atom+xml",
            "application/xhtml+xml",
            "image/svg+xml",
            "font/otf",
            "application/x-font-ttf",
            "font/ttf",
        ];
        let no = [
            "application/ld+json",
            "application/x-javascript",
            "application/wasm",
            "image/png",
            "video/mp4",
            "text",
            "",
            "text/",
            "/plain",
            "te xt/plain",
            "font/woff",
            "application/octet-stream",
        ];
        for kind in yes {
            assert!(is_compressible(Some(kind.as_bytes())), "{kind}");
        }
        for kind in no {
            assert!(!is_compressible(Some(kind.as_bytes())), "{kind}");
        }
        assert!(!is_compressible(None) && !is_compressible(Some(b"text/pl\xe4in")));
    }

    #[test]
    fn a_text_is_compressed_from_min_len_on_and_only_if_its_codings_are_removed() {
        let gzip = Strategy::gzip();
        assert_eq!(gzip.choose(&text(4096)), Some(Compression::Gzip));
        assert_eq!(gzip.choose(&text(3900)), None);
        let unknown = Record { meta: Fields::default(), ..text(100_000) };
        assert_eq!(gzip.choose(&unknown), None);
        assert_eq!(Strategy { check_identity: false, ..gzip }.choose(&unknown), Some(Compression::Gzip));
        assert_eq!(Strategy::brotli().choose(&text(1024)), Some(Compression::Brotli));
        assert_eq!(Strategy::default().choose(&text(100_000)), None);
    }

    #[test]
    fn of_several_content_types_the_first_one_counts() {
        let of = |types: [&str; 2]| Record {
            res_headers: fields(&types.map(|value| ("content-type", value))),
            ..text(5000)
        };
        assert_eq!(Strategy::gzip().choose(&of(["text/plain", "image/png"])), Some(Compression::Gzip));
        assert_eq!(Strategy::gzip().choose(&of(["image/png", "text/plain"])), None);
    }

    #[test]
    fn headers_count_where_the_bodies_do_not_decide() {
        let record = text(4096 - 42);
        let weight = "content-type".len() + "Text/HTML; charset=utf-8".len() + 4;
        assert_eq!(weight, 40);
        assert_eq!(record.meta.weight(), 16 + 23 + 4);
        assert_eq!(Strategy::gzip().choose(&record), Some(Compression::Gzip));
        assert_eq!(Strategy { min_len: 4096 - 42 + 40 + 43 + 1, ..Strategy::gzip() }.choose(&record), None);
    }

    #[test]
    fn a_body_that_is_not_compressible_raises_the_bar_by_its_share() {
        let all = Strategy { min_len: 0, ..Strategy::gzip() };
        assert_eq!(all.choose(&Record::default()), Some(Compression::Gzip));
        let with_blob = |len| Record { req_body: body(len), ..text(1000) };
        assert_eq!(all.choose(&with_blob(2001)), Some(Compression::Gzip));
        assert_eq!(all.choose(&with_blob(4000)), None);
        assert_eq!(Strategy { non_compressible_coef: 0.0, ..all }.choose(&with_blob(4000)), Some(Compression::Gzip));
        let never = Strategy { non_compressible_coef: f64::MAX, ..Strategy::gzip() };
        assert_eq!(never.choose(&Record { req_body: body(1), ..text(5000) }), None);
    }
}
