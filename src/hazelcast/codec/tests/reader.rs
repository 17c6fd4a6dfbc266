//! Messages come out whole however their bytes arrive, and what is kept of unfinished ones is bounded.

use bytes::{BufMut, BytesMut};

use super::{Capture, Decoded, MAX_BYTES, captures, decode, frames_of, message_of, messages, read_all, read_one};
use crate::hazelcast::error::Kind;
use crate::hazelcast::frame::{self, BEGIN_FRAGMENT, END_FRAGMENT, FINAL};
use crate::hazelcast::message::{Incoming, MessageReader};

fn of_member() -> Vec<Capture> {
    captures().into_iter().filter(|capture| !capture.from_client).collect()
}

/// The message in fragments of `frames` frames each, each a message of its own behind a frame with its id;
/// the message itself where it has no more.
pub(super) fn fragments(message: &[u8], id: i64, frames: usize) -> Vec<Vec<u8>> {
    let all = frames_of(message);
    if all.len() <= frames {
        return vec![message.to_vec()];
    }
    let parts = all.chunks(frames);
    let last = parts.len() - 1;
    parts
        .enumerate()
        .map(|(at, part)| {
            let mut flags = 0;
            if at == 0 {
                flags |= BEGIN_FRAGMENT;
            }
            if at == last {
                flags |= END_FRAGMENT;
            }
            let mut fragment = vec![(flags, id.to_le_bytes().to_vec())];
            fragment.extend_from_slice(part);
            message_of(&fragment)
        })
        .collect()
}

/// What a reader gives when the bytes arrive `step` at a time.
fn read_in_steps(bytes: &[u8], step: usize) -> Vec<Incoming> {
    let mut reader = MessageReader::new(MAX_BYTES);
    let mut buffer = BytesMut::new();
    let mut messages = Vec::new();
    for part in bytes.chunks(step) {
        buffer.put_slice(part);
        while let Some(message) = reader.next(&mut buffer).unwrap() {
            messages.push(message);
        }
    }
    assert!(buffer.is_empty(), "nothing is left over");
    messages
}

fn described(messages: &[Incoming]) -> Vec<(i32, i64, Decoded)> {
    messages
        .iter()
        .map(|message| {
            (
                message.message_type(),
                message.correlation_id(),
                decode(message).unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_stream_gives_the_same_messages_in_steps_of_any_size() {
    let captured = of_member();
    let stream: Vec<u8> = captured.iter().flat_map(|capture| capture.bytes.clone()).collect();
    let whole = described(&read_in_steps(&stream, stream.len()));
    assert_eq!(whole.len(), captured.len());
    for ((message_type, ..), capture) in whole.iter().zip(&captured) {
        assert_eq!(*message_type, capture.message_type);
    }
    for step in [1, 2, 3, 5, 7, 19, 64, 1000] {
        assert_eq!(described(&read_in_steps(&stream, step)), whole, "{step}");
    }
}

#[test]
fn a_truncated_message_waits_for_the_rest() {
    for capture in captures() {
        for len in 0..capture.bytes.len() {
            let mut reader = MessageReader::new(MAX_BYTES);
            let mut buffer = BytesMut::from(&capture.bytes[..len]);
            assert!(reader.next(&mut buffer).unwrap().is_none(), "{}", capture.step);
            assert_eq!(buffer.len(), len, "the bytes stay in the buffer");
            buffer.put_slice(&capture.bytes[len..]);
            // A request has the layout of an event: to the reader it is a message like any other.
            assert!(reader.next(&mut buffer).unwrap().is_some(), "{}", capture.step);
        }
    }
}

#[test]
fn fragments_are_joined() {
    let mut joined = 0;
    for capture in of_member() {
        let whole = described(&[read_one(&capture.bytes)]);
        for frames in [1, 2, 3, 7, 20] {
            let parts = fragments(&capture.bytes, -5, frames);
            let stream = parts.concat();
            for step in [1, 11, stream.len()] {
                let read = read_in_steps(&stream, step);
                assert_eq!(described(&read), whole, "{} in {frames}", capture.step);
            }
            joined += usize::from(parts.len() > 1);
        }
    }
    assert!(joined > 50, "{joined}");
}

#[test]
fn fragments_of_two_messages_and_whole_ones_may_interleave() {
    let captured = of_member();
    let by_step = |step: &str| {
        let capture = captured.iter().find(|capture| capture.step == step).unwrap();
        capture.bytes.clone()
    };
    let (first, second) = (by_step("map.values"), by_step("map.entrySet"));
    let whole = by_step("map.size");
    let mut stream = Vec::new();
    let mut firsts = fragments(&first, 1, 3).into_iter();
    let mut seconds = fragments(&second, 2, 2).into_iter();
    loop {
        let (one, two) = (firsts.next(), seconds.next());
        if one.is_none() && two.is_none() {
            break;
        }
        stream.extend(one.unwrap_or_default());
        stream.extend(&whole);
        stream.extend(two.unwrap_or_default());
    }
    let read = described(&read_all(&stream).unwrap());
    let (wholes, joined): (Vec<_>, Vec<_>) = read
        .into_iter()
        .partition(|(message_type, ..)| *message_type == 0x01_2A01);
    assert_eq!(wholes.len(), 9);
    assert_eq!(joined, described(&[read_one(&first), read_one(&second)]));
}

#[test]
fn fragments_out_of_their_order_are_refused() {
    let parts = fragments(&messages::members_of_the_future(), 1, 5);
    assert!(parts.len() > 2);
    for stream in [
        parts[1].clone(),
        parts[parts.len() - 1].clone(),
        [parts[0].clone(), parts[0].clone()].concat(),
        [parts.concat(), parts[1].clone()].concat(),
    ] {
        assert_eq!(read_all(&stream).unwrap_err().kind(), Kind::Protocol);
    }
    // An id may be used again.
    let twice = [parts.concat(), parts.concat()].concat();
    assert_eq!(read_all(&twice).unwrap().len(), 2);
}

#[test]
fn a_fragment_without_an_id_or_a_message_without_a_header_is_refused() {
    for (flags, len) in [
        (BEGIN_FRAGMENT, 7),
        (BEGIN_FRAGMENT, 0),
        (0, 0),
        (frame::UNFRAGMENTED, 12),
        (frame::UNFRAGMENTED | frame::EVENT, 15),
    ] {
        let message = message_of(&[(flags, vec![0; len])]);
        assert_eq!(
            read_all(&message).unwrap_err().kind(),
            Kind::Protocol,
            "{flags:04X} {len}"
        );
    }
    let empty = message_of(&[(BEGIN_FRAGMENT, vec![0; 8])]);
    assert!(read_all(&empty).unwrap().is_empty());
    let ended = message_of(&[(END_FRAGMENT, vec![0; 8])]);
    assert!(read_all(&[empty, ended].concat()).is_err(), "a message of no frames");
}

#[test]
fn a_message_beyond_the_limit_is_refused_by_its_header() {
    let message = |content: usize| message_of(&[(frame::UNFRAGMENTED, vec![0; 13]), (0, vec![0; content])]);
    let most = MAX_BYTES - 6 - 13 - 6;
    assert_eq!(read_all(&message(most)).unwrap().len(), 1);
    let refused = message(most + 1);
    let mut buffer = BytesMut::from(&refused[..6 + 13 + 6]);
    let capacity = buffer.capacity();
    let error = MessageReader::new(MAX_BYTES).next(&mut buffer).unwrap_err();
    assert_eq!(error.kind(), Kind::Protocol);
    assert_eq!(buffer.capacity(), capacity, "nothing was reserved for it");

    let mut largest = i32::MAX.to_le_bytes().to_vec();
    largest.extend([0, 0]);
    assert!(read_all(&largest).is_err());
}

#[test]
fn a_message_of_ever_more_frames_is_refused_at_the_limit() {
    let mut reader = MessageReader::new(MAX_BYTES);
    let mut buffer = BytesMut::new();
    frame::put_frame(&mut buffer, &[0; 13], frame::UNFRAGMENTED);
    let refused_at = (0..).find(|_| {
        frame::put_frame(&mut buffer, &[0; 1000], 0);
        reader.next(&mut buffer).is_err()
    });
    assert_eq!(refused_at, Some((MAX_BYTES - 19) / 1006));
}

#[test]
fn unfinished_fragments_together_are_bounded() {
    for same_message in [true, false] {
        let mut reader = MessageReader::new(MAX_BYTES);
        let refused_at = (0..10_000_i64).find(|&at| {
            let flags = if at == 0 || !same_message { BEGIN_FRAGMENT } else { 0 };
            let id = if same_message { 0 } else { at };
            let fragment = message_of(&[(flags, id.to_le_bytes().to_vec()), (0, vec![0; 10_000])]);
            reader.next(&mut BytesMut::from(fragment.as_slice())).is_err()
        });
        assert_eq!(
            refused_at,
            Some(104),
            "10,006 bytes are kept of each, and the next with its header is too much"
        );
    }
}

#[test]
fn the_number_of_unfinished_messages_is_bounded() {
    let mut reader = MessageReader::new(MAX_BYTES);
    let refused_at = (0..10_000_i64).find(|id| {
        let fragment = message_of(&[(BEGIN_FRAGMENT, id.to_le_bytes().to_vec())]);
        reader.next(&mut BytesMut::from(fragment.as_slice())).is_err()
    });
    assert_eq!(refused_at, Some(1024));
}

#[test]
fn joined_messages_give_back_what_they_took_of_the_limit() {
    let mut reader = MessageReader::new(10_000);
    let message = message_of(&[(frame::UNFRAGMENTED, vec![0; 13]), (0, vec![0; 6000])]);
    for id in 0..20 {
        let mut buffer = BytesMut::from(fragments(&message, id, 1).concat().as_slice());
        assert!(reader.next(&mut buffer).unwrap().is_some());
    }
}

#[test]
fn a_value_shares_the_memory_it_arrived_in() {
    let capture = of_member()
        .into_iter()
        .find(|capture| capture.step == "map.get k2")
        .unwrap();
    let mut buffer = BytesMut::from(capture.bytes.as_slice());
    let arrived = buffer.as_ptr() as usize..buffer.as_ptr() as usize + buffer.len();
    let incoming = MessageReader::new(MAX_BYTES).next(&mut buffer).unwrap().unwrap();
    let Decoded::Value(Some(data)) = decode(&incoming).unwrap() else {
        panic!("there is a value");
    };
    assert!(arrived.contains(&(data.as_bytes().as_ptr() as usize)));
}

#[test]
fn the_final_flag_ends_a_message_on_whichever_frame_it_is() {
    for capture in of_member() {
        let frames = frames_of(&capture.bytes);
        for len in 1..=frames.len() {
            let mut part = message_of(&frames[..len]);
            part.extend_from_slice(&[0; 5]);
            let mut buffer = BytesMut::from(part.as_slice());
            let incoming = MessageReader::new(MAX_BYTES).next(&mut buffer).unwrap().unwrap();
            assert_eq!(buffer.len(), 5);
            // A value, or an error, and no panic.
            let _ = decode(&incoming);
        }
        assert_eq!(frames.last().unwrap().0 & FINAL, FINAL);
    }
}
