//! `GET /messages?after=…&limit=N`: the same range of identifiers of both lists.

use std::cmp::min;

use async_stream::try_stream;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Parts;
use super::lists::{List, Pieces, Source, pair};
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
    let logs = Cut::new(opened_logs, end.clone()).pieces();
    let cut_at = end.clone();
    let messages = async move {
        let page = messages.fresh(opened_messages).await?;
        check_reaches(&page, cut_at.as_deref())?;
        Ok(Cut::new(page, cut_at).pieces())
    };
    let mut reply = reply::json_pieces(pair(logs, messages));
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

/// Checks that a page does not end before `end`, which was said by then: it may have been asked for again.
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
struct Cut {
    page: List,
    end: Option<String>,
    /// `None` once all of it was written.
    elements: Option<Elements<Listed>>,
    written: ArrayWriter,
}

impl Cut {
    fn new(page: List, end: Option<String>) -> Cut {
        Cut {
            page,
            end,
            elements: Some(Elements::default()),
            written: ArrayWriter::new(),
        }
    }

    /// Piece by piece, to the end.
    fn pieces(mut self) -> impl Pieces {
        try_stream! {
            while let Some(piece) = self.next().await? {
                yield piece;
            }
        }
    }

    /// The next bytes of the array, or `None` where it is whole.
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        while let Some(mut elements) = self.elements.take() {
            let messages = match self.page.next().await? {
                Some(piece) => {
                    let messages = elements.piece(&piece)?;
                    self.elements = Some(elements);
                    messages
                }
                None => elements.end()?,
            };
            for message in messages {
                if self.end.as_ref().is_none_or(|end| message.identifier <= *end) {
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
