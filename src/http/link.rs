//! `Link`: where the next page of a list is (RFC 8288).

use anyhow::Context;
use hyper::HeaderMap;
use hyper::header::{HeaderValue, LINK};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::request::Query;

/// All but the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What follows the target of a link to the next page.
const REL_NEXT: &str = "; rel=\"next\"";

/// Path and query of the page of `path` with at most `limit` messages that comes after `after`.
pub fn page(path: &str, after: Option<&str>, limit: usize) -> String {
    let Some(after) = after else {
        return format!("{path}?limit={limit}");
    };
    let after = utf8_percent_encode(after, ESCAPED);
    format!("{path}?after={after}&limit={limit}")
}

/// Says that the page after `after` is the next one.
pub fn set_next(headers: &mut HeaderMap, path: &str, after: &str, limit: usize) {
    let link = format!("<{}>{REL_NEXT}", page(path, Some(after), limit));
    // A path of ours and what was escaped are always a value.
    if let Ok(link) = HeaderValue::from_str(&link) {
        headers.insert(LINK, link);
    }
}

/// After which identifier the next page begins, as [`set_next`] says it; `None` where there is none.
///
/// # Errors
/// Where the link is another one.
pub fn next(headers: &HeaderMap) -> anyhow::Result<Option<String>> {
    let Some(link) = headers.get(LINK) else {
        return Ok(None);
    };
    let after = || {
        let target = link
            .to_str()
            .ok()?
            .strip_suffix(REL_NEXT)?
            .strip_prefix('<')?
            .strip_suffix('>')?;
        let (_, query) = target.split_once('?')?;
        Some(Query::parse(query).ok()?.get("after").ok()??.to_owned())
    };
    after()
        .map(Some)
        .with_context(|| format!("its link does not lead to a next page: {link:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_read_as_it_was_said_whatever_the_identifier() {
        for after in [
            "a",
            "",
            "a b+c&limit=7",
            "%41<>\"; rel=",
            "\0\n\u{1D11E}",
            &"ä".repeat(128),
        ] {
            let mut headers = HeaderMap::new();
            set_next(&mut headers, "/logs", after, 7);
            assert_eq!(next(&headers).unwrap().as_deref(), Some(after), "{headers:?}");
        }
        assert_eq!(next(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn a_link_has_the_form_of_rfc_8288_with_the_identifier_escaped() {
        let mut headers = HeaderMap::new();
        set_next(&mut headers, "/logs", "01a2-~._ä/+ \">", 1000);
        let expected = "</logs?after=01a2-~._%C3%A4%2F%2B%20%22%3E&limit=1000>; rel=\"next\"";
        assert_eq!(headers[LINK], expected);
    }

    #[test]
    fn another_link_is_an_error_and_not_the_end() {
        for other in [
            "</logs?after=a>; rel=\"prev\"",
            "</logs>; rel=\"next\"",
            "</logs?after=%>; rel=\"next\"",
            "next",
        ] {
            let headers = HeaderMap::from_iter([(LINK, HeaderValue::from_static(other))]);
            assert!(next(&headers).is_err(), "{other}");
        }
    }
}
