//! [`Elements`]: a JSON array of objects, read in bounded memory as it comes.

use std::marker::PhantomData;

use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;

use super::request::JSON_SPACE;

/// Longest element, in bytes: a text of 1 MiB, of which JSON may write each byte as six, and what is around it.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// The elements of an array whose bytes come in pieces, cut anywhere.
#[derive(Debug)]
pub struct Elements<T> {
    /// What came and is not read yet.
    rest: Vec<u8>,
    /// An element that is not whole is tried again when so much is there: trying at each piece takes quadratic time.
    enough: usize,
    next: Next,
    element: PhantomData<fn() -> T>,
}

/// What is to come next, but for space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// `[`
    Begin,
    /// The first element, or `]`
    First,
    /// An element.
    Element,
    /// `,` or `]`
    Comma,
    /// Nothing.
    End,
}

impl<T> Default for Elements<T> {
    fn default() -> Self {
        Self {
            rest: Vec::new(),
            enough: 0,
            next: Next::Begin,
            element: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> Elements<T> {
    /// Takes the next piece, and returns elements that are whole now: some may come later, the last ones at the
    /// [end](Self::end).
    ///
    /// # Errors
    /// Where it is no array, or an element is none that can be read, or too long.
    pub fn piece(&mut self, piece: &[u8]) -> anyhow::Result<Vec<T>> {
        self.rest.extend_from_slice(piece);
        self.whole_ones()
    }

    /// Nothing comes any more. Returns the last elements.
    ///
    /// # Errors
    /// Where the array is not whole, and those of [`piece`](Self::piece).
    pub fn end(mut self) -> anyhow::Result<Vec<T>> {
        self.enough = 0;
        let elements = self.whole_ones()?;
        ensure!(self.next == Next::End, "the list ends before its end");
        Ok(elements)
    }

    fn whole_ones(&mut self) -> anyhow::Result<Vec<T>> {
        let mut elements = Vec::new();
        let mut rest = std::mem::take(&mut self.rest);
        let read = self.read(&rest, &mut elements)?;
        rest.drain(..read);
        self.rest = rest;
        Ok(elements)
    }

    /// Reads as far as it goes. Returns how far that is.
    fn read(&mut self, bytes: &[u8], elements: &mut Vec<T>) -> anyhow::Result<usize> {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let space = rest.iter().take_while(|byte| is_space(**byte)).count();
            at += space;
            let rest = rest.get(space..).unwrap_or_default();
            let Some(first) = rest.first() else {
                return Ok(at);
            };
            self.next = match (self.next, first) {
                (Next::Begin, b'[') => Next::First,
                (Next::First | Next::Comma, b']') => Next::End,
                (Next::Comma, b',') => Next::Element,
                (Next::First | Next::Element, b'{') => {
                    let Some(length) = self.element(rest, elements)? else {
                        return Ok(at);
                    };
                    at += length;
                    self.next = Next::Comma;
                    continue;
                }
                _ => bail!("it is no JSON array of objects"),
            };
            at += 1;
        }
    }

    /// Reads one element, and returns its length. `None` where it is not whole.
    fn element(&mut self, bytes: &[u8], elements: &mut Vec<T>) -> anyhow::Result<Option<usize>> {
        if bytes.len() < self.enough {
            return Ok(None);
        }
        let mut stream = serde_json::Deserializer::from_slice(bytes).into_iter::<T>();
        match stream.next() {
            Some(Ok(element)) => {
                self.enough = 0;
                elements.push(element);
                Ok(Some(stream.byte_offset()))
            }
            Some(Err(cause)) if !cause.is_eof() => Err(cause).context("an element of the list cannot be read"),
            Some(Err(_)) | None => {
                ensure!(
                    bytes.len() <= MOST_BYTES,
                    "an element of the list has more than {MOST_BYTES} bytes"
                );
                self.enough = bytes.len().saturating_mul(2);
                Ok(None)
            }
        }
    }
}

fn is_space(byte: u8) -> bool {
    JSON_SPACE.contains(&char::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    fn read(pieces: &[&[u8]]) -> anyhow::Result<Vec<Message>> {
        let mut elements = Elements::default();
        let mut read = Vec::new();
        for piece in pieces {
            read.extend(elements.piece(piece)?);
        }
        read.extend(elements.end()?);
        Ok(read)
    }

    fn message(identifier: &str, text: &str) -> Message {
        Message {
            identifier: identifier.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn elements_come_whole_wherever_the_pieces_are_cut() {
        let list = "\n[ {\"identifier\":\"a\",\"text\":\"}],{\\\"\"} ,{\"text\":\"\u{1D11E}\",\"by\":\"x\",\"identifier\":\"b\"}]\n";
        let expected = [message("a", "}],{\""), message("b", "\u{1D11E}")];
        assert_eq!(read(&[list.as_bytes()]).unwrap(), expected);
        for at in 0..list.len() {
            let (one, other) = list.as_bytes().split_at(at);
            assert_eq!(read(&[one, other]).unwrap(), expected, "{at}");
        }
        let bytes: Vec<&[u8]> = list.as_bytes().chunks(1).collect();
        assert_eq!(read(&bytes).unwrap(), expected);
    }

    #[test]
    fn an_empty_list_is_one() {
        assert_eq!(read(&[b"[", b" ", b"]"]).unwrap(), []);
    }

    #[test]
    fn a_list_without_its_end_is_an_error_and_never_a_shorter_one() {
        let whole = r#"[{"identifier":"a","text":"b"},{"identifier":"c","text":"d"}]"#;
        for length in 0..whole.len() {
            let error = read(&[&whole.as_bytes()[..length]]).unwrap_err();
            assert_eq!(error.to_string(), "the list ends before its end", "{length}");
        }
    }

    #[test]
    fn what_is_no_list_of_such_objects_is_an_error() {
        let whole = r#"{"identifier":"a","text":"b"}"#;
        for bad in [
            "{}".to_owned(),
            "null".to_owned(),
            "[1]".to_owned(),
            r#"["a"]"#.to_owned(),
            r#"[{"identifier":"a"}]"#.to_owned(),
            format!("[{whole}{whole}]"),
            format!("[,{whole}]"),
            format!("[{whole},]"),
            format!("[{whole}]]"),
            format!("[{whole}];"),
        ] {
            assert!(read(&[bad.as_bytes()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_longest_message_is_read_and_what_is_longer_is_given_up() {
        let longest = message(&"i".repeat(256), &"\u{1}".repeat(1024 * 1024));
        let list = serde_json::to_vec(&[&longest, &longest]).unwrap();
        let pieces: Vec<&[u8]> = list.chunks(16 * 1024).collect();
        assert!(read(&pieces).unwrap() == [longest.clone(), longest]);

        let mut elements = Elements::<Message>::default();
        elements.piece(b"[{\"identifier\":\"").unwrap();
        let piece = vec![b'x'; 64 * 1024];
        let pieces = (0..1024).take_while(|_| elements.piece(&piece).is_ok()).count();
        assert!((128..257).contains(&pieces), "{pieces}");
    }
}
