//! `GET /messages?after=…&limit=N`: the same range of identifiers of both lists.

use std::cmp::min;

use bytes::Bytes;
use futures_util::stream::Stream;
use serde::{Deserialize, Serialize};

use super::Parts;
use super::lists::{List, Source, log_broken};
use crate::engine::PageRange;
use crate::http::body::{ArrayWriter, Broken};
use crate::http::elements::Elements;
use crate::http::link;
use crate::http::reply::{self, HttpError, Reply};

/// `[[log…],[message…]]`, messages whole, in bounded memory. Where either list goes on, both end with the same identifier, the
/// last one that is known to be whole in both, and the next page begins after it.
///
/// # Errors
///
/// 503 where one of the two pages cannot be had in time; it says which.
pub(super) async fn page(parts: &Parts, range: &PageRange) -> Result<Reply, HttpError> {
    let logs = Source::page(&parts.client, &parts.logging, "/logs", range);
    let messages = Source::page(&parts.client, &parts.messages, "/messages", range);
    let (opened_logs, opened_messages) = tokio::try_join!(logs.open(), messages.open())?;
    let end = first_end(opened_logs.next_page.clone(), opened_messages.next_page.clone());
    let mut reply = reply::json_pieces(pair(opened_logs, messages, opened_messages, end.clone()));
    if let Some(end) = &end {
        link::set_next(reply.headers_mut(), "/messages", end, range.limit);
    }
    Ok(reply)
}

/// Where both pages are to end, of which each ends there or, where it is the last one, not at all.
fn first_end(one: Option<String>, other: Option<String>) -> Option<String> {
    match (one, other) {
        (Some(one), Some(other)) => Some(min(one, other)),
        (one, other) => one.or(other),
    }
}

/// The two pages as one array, up to `end`. A page that breaks off breaks it off.
fn pair(
    mut logs: List,
    source: Source,
    mut messages: List,
    end: Option<String>,
) -> impl Stream<Item = Result<Bytes, Broken>> + Send {
    async_stream::try_stream! {
        yield Bytes::from_static(b"[");
        let mut cut = Cut::at(end.as_deref());
        while let Some(piece) = cut.next(&mut logs).await.inspect_err(log_broken)? {
            yield piece;
        }
        drop(logs);
        if messages.is_stale() {
            drop(messages);
            messages = source.open().await.inspect_err(log_broken)?;
            check_reaches(&messages, end.as_deref()).inspect_err(log_broken)?;
        }
        yield Bytes::from_static(b",");
        let mut cut = Cut::at(end.as_deref());
        while let Some(piece) = cut.next(&mut messages).await.inspect_err(log_broken)? {
            yield piece;
        }
        yield Bytes::from_static(b"]");
    }
}

/// Checks that a page that was asked for again does not end before `end`, which was said by then.
fn check_reaches(page: &List, end: Option<&str>) -> Result<(), Broken> {
    match (page.next_page.as_deref(), end) {
        (Some(next), Some(end)) if next >= end => Ok(()),
        (None, _) => Ok(()),
        (Some(_), _) => Err("so much was added to a page meanwhile that it ends earlier".into()),
    }
}

/// A message as a page shows it.
#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    identifier: String,
    text: String,
    /// Who delivered it.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

/// A page on its way through, without what comes after an identifier.
struct Cut<'a> {
    end: Option<&'a str>,
    /// `None` once all of it was written.
    elements: Option<Elements<Listed>>,
    written: ArrayWriter,
}

impl<'a> Cut<'a> {
    fn at(end: Option<&'a str>) -> Cut<'a> {
        Cut {
            end,
            elements: Some(Elements::default()),
            written: ArrayWriter::new(),
        }
    }

    /// The next bytes of the array, or `None` where it is whole.
    async fn next(&mut self, page: &mut List) -> Result<Option<Bytes>, Broken> {
        while let Some(mut elements) = self.elements.take() {
            let messages = match page.next().await? {
                Some(piece) => {
                    let messages = elements.piece(&piece)?;
                    self.elements = Some(elements);
                    messages
                }
                None => elements.end()?,
            };
            for message in messages {
                if self.end.is_none_or(|end| &*message.identifier <= end) {
                    self.written.push(&message)?;
                }
            }
            if self.elements.is_none() {
                self.written.close();
                return Ok(Some(self.written.take()));
            }
            if self.written.is_full() {
                return Ok(Some(self.written.take()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pages_end_where_the_first_of_them_does_that_goes_on() {
        let end = |one: Option<&str>, other: Option<&str>| first_end(one.map(str::to_owned), other.map(str::to_owned));
        assert_eq!(end(None, None), None);
        assert_eq!(end(Some("b"), None).as_deref(), Some("b"));
        assert_eq!(end(None, Some("b")).as_deref(), Some("b"));
        assert_eq!(end(Some("b"), Some("a")).as_deref(), Some("a"));
        assert_eq!(end(Some("a"), Some("b")).as_deref(), Some("a"));
    }
}
