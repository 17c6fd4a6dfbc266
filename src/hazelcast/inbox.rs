//! What a connection has received and nobody has taken yet.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::Result;
use super::message::{Incoming, MessageReader};

/// Room made for reads, in bytes, whenever less than the minimum is left. Messages share that memory while they live.
const READ_BYTES: usize = 64 * 1024;
const MIN_READ_BYTES: usize = 8 * 1024;

/// Bytes as they come, and the messages in them.
#[derive(Debug)]
pub(super) struct Inbox {
    messages: MessageReader,
    buffer: BytesMut,
    /// Whether the buffer has grown for a message that was taken since.
    outgrown: bool,
}

impl Inbox {
    /// `max_message_bytes` limits a message, its headers included.
    pub(super) fn new(max_message_bytes: usize) -> Self {
        Self {
            messages: MessageReader::new(max_message_bytes),
            buffer: BytesMut::new(),
            outgrown: false,
        }
    }

    /// Reads what there is. Returns the number of bytes: 0 at the end of the stream.
    pub(super) async fn read_from(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        if self.buffer.capacity() - self.buffer.len() < MIN_READ_BYTES {
            self.buffer.reserve(READ_BYTES);
        }
        stream.read_buf(&mut self.buffer).await
    }

    /// Takes the next message, where all of it is there.
    ///
    /// # Errors
    /// Those of [`MessageReader::next`]; the connection must be closed then.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>> {
        let message = self.messages.next(&mut self.buffer)?;
        match &message {
            Some(message) => self.outgrown |= message.len() > READ_BYTES,
            // What is left of a large message's memory would be filled first, and kept alive by the small ones in it.
            None if self.outgrown => {
                let mut fresh = BytesMut::with_capacity(self.buffer.len().saturating_add(READ_BYTES));
                fresh.extend_from_slice(&self.buffer);
                self.buffer = fresh;
                self.outgrown = false;
            }
            None => {}
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;

    const MIB: usize = 1 << 20;

    /// A response with so many bytes of parameters.
    fn response(bytes: usize) -> BytesMut {
        let mut out = BytesMut::new();
        frame::put_frame(&mut out, &[0; 13], frame::UNFRAGMENTED);
        frame::put_frame(&mut out, &vec![7; bytes], frame::FINAL);
        out
    }

    async fn receive(inbox: &mut Inbox, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            inbox.read_from(&mut bytes).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_memory_of_a_large_message_ends_with_it() {
        let mut inbox = Inbox::new(64 * MIB);
        let begun = response(10);
        receive(
            &mut inbox,
            &[response(8 * MIB).as_ref(), &begun[..begun.len() - 1]].concat(),
        )
        .await;
        let large = inbox.next().unwrap().unwrap();
        assert!(inbox.next().unwrap().is_none());
        drop(large);
        for _ in 0..100 {
            assert!(inbox.buffer.capacity() <= 2 * READ_BYTES, "{}", inbox.buffer.capacity());
            receive(&mut inbox, &begun[begun.len() - 1..]).await;
            assert!(inbox.next().unwrap().is_some(), "what came behind it is not lost");
            receive(&mut inbox, &begun[..begun.len() - 1]).await;
            assert!(inbox.next().unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn small_messages_share_one_buffer() {
        let mut inbox = Inbox::new(MIB);
        receive(&mut inbox, &response(10)).await;
        assert!(inbox.next().unwrap().is_some());
        let end = inbox.buffer.as_ptr().wrapping_add(inbox.buffer.capacity());
        receive(&mut inbox, &response(10)).await;
        assert!(inbox.next().unwrap().is_some());
        assert!(inbox.next().unwrap().is_none());
        assert_eq!(inbox.buffer.as_ptr().wrapping_add(inbox.buffer.capacity()), end);
    }
}
