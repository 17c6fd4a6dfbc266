//! [`Body`]: the body of an answer.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{Stream, StreamExt, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use tracing::{error, warn};

use super::panic_text;
use crate::engine;

/// What ends a body before its end: the connection is cut, so that the client sees that something is missing.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer: whole, or streamed.
pub type Body = UnsyncBoxBody<Bytes, Broken>;

/// The pages of a list on their way to the client.
pub(super) type Pages<T> = Pin<Box<dyn Stream<Item = engine::Result<Vec<T>>> + Send>>;

/// A streamed list is handed on in pieces of at least this many bytes. Large enough that a piece costs nothing beside
/// what is in it, small enough that many answers at once cost little memory.
const PIECE_BYTES: usize = 64 * 1024;

/// A body that is there already.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of pieces that come one by one. An error, or a fault in what makes them, ends it without its last chunk.
pub fn streamed(pieces: impl Stream<Item = Result<Bytes, Broken>> + Send + 'static) -> Body {
    let pieces = AssertUnwindSafe(pieces).catch_unwind();
    let pieces = async_stream::stream! {
        let mut pieces = pin!(pieces);
        while let Some(piece) = pieces.next().await {
            let piece = piece.unwrap_or_else(|panic| {
                error!(fault = panic_text(&*panic), "an answer was broken off by a fault in this program");
                Err("a fault in this program".into())
            });
            if piece.is_err() {
                // hyper drops what it has not written yet. A pause lets it write, and the client sees how far it came.
                tokio::task::yield_now().await;
            }
            yield piece;
        }
    };
    StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
}

/// A JSON array of all items of `first` and of the pages after it. It holds one page and one piece at a time.
///
/// An error of a page is logged here, since by then the status line has left, and breaks the body off.
pub(super) fn json_array<T>(first: Vec<T>, mut rest: Pages<T>) -> Body
where
    T: Serialize + Send + 'static,
{
    streamed(async_stream::try_stream! {
        let mut pieces = ArrayWriter::new();
        let mut page = Some(first);
        while let Some(items) = page {
            for item in items {
                pieces.push(&item)?;
                if pieces.is_full() {
                    yield pieces.take();
                }
            }
            page = rest.next().await.transpose().inspect_err(|error| {
                warn!(%error, "an answer was broken off: its list could not be read to the end");
            })?;
        }
        pieces.close();
        yield pieces.take();
    })
}

/// Writes the items of a JSON array straight into a buffer that is used again and again.
pub struct ArrayWriter {
    buffer: BytesMut,
    /// What stands before the next item: `[` first, then `,`.
    before_next: u8,
}

impl ArrayWriter {
    /// An array without items so far.
    pub fn new() -> ArrayWriter {
        ArrayWriter {
            buffer: BytesMut::new(),
            before_next: b'[',
        }
    }

    /// Adds an item.
    ///
    /// # Errors
    ///
    /// Where it cannot be written as JSON.
    pub fn push(&mut self, item: &impl Serialize) -> Result<(), serde_json::Error> {
        self.buffer.put_u8(self.before_next);
        self.before_next = b',';
        serde_json::to_writer((&mut self.buffer).writer(), item)
    }

    /// Ends the array.
    pub fn close(&mut self) {
        if self.before_next == b'[' {
            self.buffer.put_u8(b'[');
        }
        self.buffer.put_u8(b']');
    }

    /// Whether there is enough for a piece.
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= PIECE_BYTES
    }

    /// What was written since the last time.
    pub fn take(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }
}

impl Default for ArrayWriter {
    fn default() -> ArrayWriter {
        ArrayWriter::new()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::engine::Unavailable;

    async fn read(mut body: Body) -> (Vec<Bytes>, bool) {
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => pieces.push(frame.into_data().unwrap()),
                Err(_) => return (pieces, false),
            }
        }
        (pieces, true)
    }

    fn away() -> Unavailable {
        Unavailable {
            engine: "the log store".to_owned(),
            cause: anyhow::anyhow!("connection refused"),
        }
    }

    #[tokio::test]
    async fn an_array_has_the_items_of_all_pages_escaped_as_json() {
        let rest = vec![
            Ok(vec![]),
            Ok(vec!["zwei \"\n\u{1}".to_owned(), String::new()]),
            Ok(vec!["три".to_owned()]),
        ];
        let (pieces, ended) = read(json_array(vec!["one".to_owned()], stream::iter(rest).boxed())).await;
        assert!(ended);
        let texts: Vec<String> = serde_json::from_slice(&pieces.concat()).unwrap();
        assert_eq!(texts, ["one", "zwei \"\n\u{1}", "", "три"]);
    }

    #[tokio::test]
    async fn an_array_of_nothing_is_an_empty_array() {
        let (pieces, ended) = read(json_array(Vec::<String>::new(), stream::empty().boxed())).await;
        assert!(ended);
        assert_eq!(pieces.concat(), b"[]");
    }

    #[tokio::test]
    async fn a_page_that_cannot_be_read_breaks_the_body_off() {
        let rest = vec![Ok(vec!["x".repeat(PIECE_BYTES)]), Err(away())];
        let (pieces, ended) = read(json_array(vec!["one".to_owned()], stream::iter(rest).boxed())).await;
        assert!(!ended);
        assert!(!pieces.concat().ends_with(b"]"));
    }

    #[tokio::test]
    async fn no_piece_is_much_larger_than_its_bound() {
        let pages = (0..100).map(|_| Ok(vec!["x".repeat(1000); 100]));
        let (pieces, ended) = read(json_array(Vec::new(), stream::iter(pages).boxed())).await;
        assert!(ended);
        assert!(
            pieces.iter().all(|piece| piece.len() < PIECE_BYTES + 1010),
            "a piece has more than one item too many"
        );
        let texts: Vec<String> = serde_json::from_slice(&pieces.concat()).unwrap();
        assert_eq!(texts.len(), 10_000);
    }
}
