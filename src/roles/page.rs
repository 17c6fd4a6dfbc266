//! Pages of lists, as requests ask for them and as answers hand them out.

use futures_util::stream;
use serde::Serialize;

use crate::engine::{ListPage, MAX_PAGE_MESSAGES, PageRange};
use crate::http::link;
use crate::http::reply::{self, HttpError, Reply};
use crate::http::request::Query;
use crate::message::MAX_IDENTIFIER_BYTES;

/// The page that is asked for; `None` where neither `after` nor `limit` is given, which asks for the list.
///
/// # Errors
///
/// 400 where `limit` is no number from 1 to [`MAX_PAGE_MESSAGES`], or `after` is longer than an identifier can be.
pub(super) fn asked(query: &Query) -> Result<Option<PageRange>, HttpError> {
    let (after, limit) = (query.get("after")?, query.get("limit")?);
    if after.is_none() && limit.is_none() {
        return Ok(None);
    }
    if after.is_some_and(|after| after.len() > MAX_IDENTIFIER_BYTES) {
        return Err(HttpError::bad_request(format!(
            "the parameter after has more than the {MAX_IDENTIFIER_BYTES} bytes of the longest identifier"
        )));
    }
    let limit = limit.map_or(Some(MAX_PAGE_MESSAGES), number).ok_or_else(|| {
        HttpError::bad_request(format!(
            "the parameter limit is no number from 1 to {MAX_PAGE_MESSAGES}"
        ))
    })?;
    Ok(Some(PageRange {
        after: after.map(str::to_owned),
        limit,
    }))
}

/// A limit, where it is one.
fn number(limit: &str) -> Option<usize> {
    let is_number = limit.bytes().all(|byte| byte.is_ascii_digit());
    let limit = limit.parse().ok().filter(|_| is_number);
    limit.filter(|limit| (1..=MAX_PAGE_MESSAGES).contains(limit))
}

/// The page as an answer of `path`: 200, a JSON array, and where more may follow, a `Link` to the next page.
///
/// # Errors
///
/// None, but what it is made with could tell of some.
pub(super) async fn answer<T>(path: &str, range: &PageRange, page: ListPage<T>) -> Result<Reply, HttpError>
where
    T: Serialize + Send + 'static,
{
    let messages = stream::iter([Ok(page.messages)]);
    let mut reply = reply::json_array(messages).await?;
    if let Some(next) = &page.next {
        link::set_next(reply.headers_mut(), path, next, range.limit);
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    fn page(query: &str) -> Result<Option<(Option<String>, usize)>, StatusCode> {
        let asked = Query::parse(query).and_then(|query| asked(&query));
        let page = asked.map_err(|error| error.status())?;
        Ok(page.map(|range| (range.after, range.limit)))
    }

    #[test]
    fn either_parameter_alone_asks_for_a_page_and_none_for_the_list() {
        assert_eq!(page("full=true"), Ok(None));
        assert_eq!(page("after=a%20b"), Ok(Some((Some("a b".to_owned()), 1000))));
        assert_eq!(page("after="), Ok(Some((Some(String::new()), 1000))));
        assert_eq!(page("limit=1"), Ok(Some((None, 1))));
        assert_eq!(page("limit=1000&after=a"), Ok(Some((Some("a".to_owned()), 1000))));
    }

    #[test]
    fn a_limit_is_a_number_from_1_to_1000_and_no_identifier_is_longer_than_256_bytes() {
        let longest = "ä".repeat(128);
        assert_eq!(page(&format!("after={longest}")), Ok(Some((Some(longest), 1000))));
        let longer = format!("after={}", "a".repeat(257));
        let bad = [
            "limit=0",
            "limit=1001",
            "limit=",
            "limit",
            "limit=-1",
            "limit=%2B1",
            "limit=1.0",
            "limit=a",
            "limit=1&limit=1",
            "limit=99999999999999999999999",
            "after=a&after=a",
            &longer,
        ];
        for query in bad {
            assert_eq!(page(query), Err(StatusCode::BAD_REQUEST), "{query}");
        }
    }
}
