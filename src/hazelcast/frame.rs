//! Frames, what every message is made of: `i32` length (these six header bytes included), `u16` flags, content. Little-endian.
//!
//! Source: Open Binary Client Protocol, sections "Frame" and "Flags".

use bytes::{BufMut, Bytes, BytesMut};

use super::error::{Error, Result};

/// Bytes of a frame before its content.
pub(crate) const HEADER_LEN: usize = 6;

/// First frame of a fragment that begins a message.
pub(crate) const BEGIN_FRAGMENT: u16 = 1 << 15;
/// First frame of a fragment that ends a message.
pub(crate) const END_FRAGMENT: u16 = 1 << 14;
/// First frame of a message that travels whole.
pub(crate) const UNFRAGMENTED: u16 = BEGIN_FRAGMENT | END_FRAGMENT;
/// Last frame of a message or of a fragment.
pub(crate) const FINAL: u16 = 1 << 13;
/// Opens a custom type, a list or a map.
pub(crate) const BEGIN_STRUCT: u16 = 1 << 12;
/// Closes what [`BEGIN_STRUCT`] opened.
pub(crate) const END_STRUCT: u16 = 1 << 11;
/// Stands for a parameter that is null.
pub(crate) const NULL: u16 = 1 << 10;
/// First frame of an event.
pub(crate) const EVENT: u16 = 1 << 9;
/// First frame of a request whose sender takes acknowledgements from backups.
pub(crate) const BACKUP_AWARE: u16 = 1 << 8;
/// First frame of a backup's acknowledgement.
pub(crate) const BACKUP_EVENT: u16 = 1 << 7;

/// Frames without content of their own.
const STRUCTURAL: u16 = BEGIN_STRUCT | END_STRUCT | NULL;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of the whole frame, [`HEADER_LEN`] at least.
    pub(crate) length: usize,
    pub(crate) flags: u16,
}

/// Reads the header that `bytes` begins with; `None` where not all of it is there yet.
///
/// # Errors
/// `Protocol` where the length is less than that of the header.
pub(crate) fn read_header(bytes: &[u8]) -> Result<Option<Header>> {
    let Some(&[l0, l1, l2, l3, f0, f1]) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let length = i32::from_le_bytes([l0, l1, l2, l3]);
    match usize::try_from(length) {
        Ok(bytes) if bytes >= HEADER_LEN => Ok(Some(Header {
            length: bytes,
            flags: u16::from_le_bytes([f0, f1]),
        })),
        _ => Err(Error::protocol(format!(
            "a frame claims a length of {length} bytes, less than its header"
        ))),
    }
}

/// Appends the header of a frame with `content_len` bytes of content.
///
/// A request's size is limited far below what the length can say, by `codec::builder`, so nothing is cut here.
pub(crate) fn put_header(out: &mut BytesMut, content_len: usize, flags: u16) {
    out.put_i32_le(i32::try_from(content_len.saturating_add(HEADER_LEN)).unwrap_or(i32::MAX));
    out.put_u16_le(flags);
}

/// Appends a whole frame, copying `content` once.
pub(crate) fn put_frame(out: &mut BytesMut, content: &[u8], flags: u16) {
    out.reserve(content.len().saturating_add(HEADER_LEN));
    put_header(out, content.len(), flags);
    out.put_slice(content);
}

/// Adds `flags` to those of the frame that starts at `offset`.
pub(crate) fn add_flags(bytes: &mut [u8], offset: usize, flags: u16) {
    let of_flags = bytes.get_mut(offset..).and_then(<[u8]>::first_chunk_mut::<HEADER_LEN>);
    if let Some([_, _, _, _, low, high]) = of_flags {
        let [add_low, add_high] = flags.to_le_bytes();
        *low |= add_low;
        *high |= add_high;
    }
}

/// One frame of a received message.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) flags: u16,
    pub(crate) content: &'a [u8],
    message: &'a Bytes,
}

impl Frame<'_> {
    pub(crate) fn is_null(&self) -> bool {
        self.flags & NULL != 0
    }

    pub(crate) fn begins_struct(&self) -> bool {
        self.flags & BEGIN_STRUCT != 0
    }

    pub(crate) fn ends_struct(&self) -> bool {
        self.flags & END_STRUCT != 0
    }

    /// The content, sharing the message's memory: it keeps that alive.
    pub(crate) fn to_bytes(self) -> Bytes {
        self.message.slice_ref(self.content)
    }
}

/// A cursor over the frames of a received message. It ends with the message's bytes, not with a flag: a message that was
/// joined from fragments holds the final flag of each.
#[derive(Clone)]
pub(crate) struct Frames<'a> {
    message: &'a Bytes,
    offset: usize,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(message: &'a Bytes) -> Self {
        Self { message, offset: 0 }
    }

    /// Whether no frame is left: an older member sends fewer parameters.
    pub(crate) fn is_at_end(&self) -> bool {
        self.offset >= self.message.len()
    }

    /// The next frame, which stays the next one.
    ///
    /// # Errors
    /// `Protocol` where there is none.
    pub(crate) fn peek(&self) -> Result<Frame<'a>> {
        let left = self.message.get(self.offset..).unwrap_or_default();
        read_header(left)?
            .and_then(|header| {
                Some(Frame {
                    flags: header.flags,
                    content: left.get(HEADER_LEN..header.length)?,
                    message: self.message,
                })
            })
            .ok_or_else(|| Error::protocol("the message ends where another frame is due"))
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// `Protocol` where there is none.
    pub(crate) fn next(&mut self) -> Result<Frame<'a>> {
        let frame = self.peek()?;
        self.offset = self
            .offset
            .saturating_add(HEADER_LEN)
            .saturating_add(frame.content.len());
        Ok(frame)
    }

    /// Takes the next frame, which must hold a value.
    ///
    /// # Errors
    /// `Protocol` where there is none, or where it is null or the begin or end of a structure.
    pub(crate) fn next_value(&mut self) -> Result<Frame<'a>> {
        let frame = self.next()?;
        if frame.flags & STRUCTURAL == 0 {
            Ok(frame)
        } else {
            Err(Error::protocol(format!(
                "a frame has flags 0x{:04X} where a value is due",
                frame.flags
            )))
        }
    }

    /// Takes the next frame if it stands for null, and says whether it did.
    pub(crate) fn take_null(&mut self) -> Result<bool> {
        let is_null = self.peek()?.is_null();
        if is_null {
            self.next()?;
        }
        Ok(is_null)
    }

    /// Takes the frame that opens a structure.
    pub(crate) fn begin_struct(&mut self) -> Result<()> {
        let frame = self.next()?;
        if frame.begins_struct() {
            Ok(())
        } else {
            Err(Error::protocol(format!(
                "a frame has flags 0x{:04X} where a structure is to begin",
                frame.flags
            )))
        }
    }

    /// Takes the next frame if it closes a structure, and says whether it did.
    pub(crate) fn take_end(&mut self) -> Result<bool> {
        let ends = self.peek()?.ends_struct();
        if ends {
            self.next()?;
        }
        Ok(ends)
    }

    /// Takes what is left of the structure that was begun, its end included: parameters that this client does not know or need.
    pub(crate) fn skip_to_end(&mut self) -> Result<()> {
        let mut open = 1_usize;
        while open > 0 {
            let frame = self.next()?;
            if frame.begins_struct() {
                open = open.saturating_add(1);
            } else if frame.ends_struct() {
                open = open.saturating_sub(1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_needs_six_bytes() {
        let bytes = [7, 0, 0, 0, 0x00, 0x20, 0xFF];
        for have in 0..HEADER_LEN {
            assert_eq!(read_header(&bytes[..have]).unwrap(), None);
        }
        let expected = Header {
            length: 7,
            flags: FINAL,
        };
        assert_eq!(read_header(&bytes).unwrap(), Some(expected));
    }

    #[test]
    fn a_length_below_the_headers_or_negative_is_refused() {
        for length in [i32::MIN, -1, 0, 5] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend([0, 0]);
            assert!(read_header(&bytes).is_err(), "{length}");
        }
    }

    #[test]
    fn a_skipped_structure_ends_at_its_own_end() {
        let mut out = BytesMut::new();
        put_frame(&mut out, b"unknown", 0);
        put_frame(&mut out, b"", BEGIN_STRUCT);
        put_frame(&mut out, b"inner", 0);
        put_frame(&mut out, b"", END_STRUCT);
        put_frame(&mut out, b"", NULL);
        put_frame(&mut out, b"", END_STRUCT);
        put_frame(&mut out, b"after", FINAL);
        let message = out.freeze();
        let mut frames = Frames::new(&message);
        frames.skip_to_end().unwrap();
        assert_eq!(frames.next_value().unwrap().content, b"after");
        assert!(frames.is_at_end());
        assert!(frames.next().is_err());
    }

    #[test]
    fn a_structure_without_end_is_an_error() {
        let mut out = BytesMut::new();
        put_frame(&mut out, b"", BEGIN_STRUCT);
        put_frame(&mut out, b"", END_STRUCT);
        let message = out.freeze();
        assert!(Frames::new(&message).skip_to_end().is_err());
    }

    #[test]
    fn a_frame_longer_than_its_message_is_an_error() {
        let message = Bytes::from_static(&[9, 0, 0, 0, 0, 0, 1, 2]);
        assert!(Frames::new(&message).next().is_err());
    }

    #[test]
    fn flags_are_added_to_the_frame_named() {
        let mut out = BytesMut::new();
        put_frame(&mut out, b"one", 0);
        let second = out.len();
        put_frame(&mut out, b"", END_STRUCT);
        add_flags(&mut out, second, FINAL);
        add_flags(&mut out, 1000, FINAL);
        let message = out.freeze();
        let mut frames = Frames::new(&message);
        assert_eq!(frames.next().unwrap().flags, 0);
        assert_eq!(frames.next().unwrap().flags, END_STRUCT | FINAL);
    }
}
