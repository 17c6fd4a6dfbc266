//! No input makes the reader or a decoder panic.

use bytes::BytesMut;

use super::reader::fragments;
use super::{MAX_BYTES, captures, decode, frames_of, message_of, messages};
use crate::hazelcast::message::{Incoming, MessageReader};

/// A generator of the same numbers at every run.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

/// Everything a member may send that this client reads.
fn seeds() -> Vec<Vec<u8>> {
    let captured = captures().into_iter().filter(|capture| !capture.from_client);
    captured.map(|capture| capture.bytes).chain(messages::all()).collect()
}

/// Reads what can be read of `bytes`, with every function there is for it. Gives how many messages that were.
fn read(bytes: &[u8]) -> usize {
    let mut reader = MessageReader::new(MAX_BYTES);
    let mut buffer = BytesMut::from(bytes);
    let mut count = 0;
    while let Ok(Some(incoming)) = reader.next(&mut buffer) {
        touch(&incoming);
        count += 1;
    }
    count
}

fn touch(incoming: &Incoming) {
    let _ = (incoming.backup_acks(), incoming.is_event(), incoming.is_backup_event());
    let _ = incoming.as_error();
    if let Ok(decoded) = decode(incoming) {
        // Reads every value in it.
        let _ = format!("{decoded:?}");
        if let super::Decoded::Value(Some(data)) = &decoded {
            let _ = (data.value(), data.partition_hash());
        }
    }
}

#[test]
fn random_changes_never_panic() {
    let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
    let mut read_messages = 0;
    for seed in seeds() {
        for _ in 0..3000 {
            let mut bytes = seed.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = random.next().to_le_bytes()[0];
            }
            read_messages += read(&bytes);
        }
    }
    assert!(
        read_messages > 10_000,
        "most changes leave a message that reaches a decoder: {read_messages}"
    );
}

#[test]
fn random_changes_of_fragments_never_panic() {
    let mut random = Xorshift(0x2545_F491_4F6C_DD1D);
    let mut read_messages = 0;
    for seed in seeds() {
        for _ in 0..500 {
            let mut parts = fragments(&seed, 1, 1 + random.below(5));
            let (one, other) = (random.below(parts.len()), random.below(parts.len()));
            if random.below(4) == 0 {
                parts.swap(one, other);
            }
            let mut bytes = parts.concat();
            let at = random.below(bytes.len());
            bytes[at] ^= random.next().to_le_bytes()[0];
            read_messages += read(&bytes);
        }
    }
    assert!(read_messages > 1000, "{read_messages}");
}

#[test]
fn frames_left_out_doubled_or_swapped_never_panic() {
    let mut random = Xorshift(0xD1B5_4A32_D192_ED03);
    for seed in seeds() {
        let frames = frames_of(&seed);
        for _ in 0..500 {
            let mut frames = frames.clone();
            for _ in 0..=random.below(3) {
                let (one, other) = (random.below(frames.len()), random.below(frames.len()));
                match random.below(3) {
                    0 if frames.len() > 1 => {
                        frames.remove(one);
                    }
                    1 => frames.insert(one, frames[other].clone()),
                    _ => frames.swap(one, other),
                }
            }
            read(&message_of(&frames));
        }
    }
}

#[test]
fn contents_cut_at_every_byte_never_panic() {
    for seed in seeds() {
        let frames = frames_of(&seed);
        for at in 0..frames.len() {
            for len in 0..frames[at].1.len() {
                let mut frames = frames.clone();
                frames[at].1.truncate(len);
                read(&message_of(&frames));
            }
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Xorshift(0xA076_1D64_78BD_642F);
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..random.below(200)).map(|_| random.next().to_le_bytes()[0]).collect();
        read(&bytes);
        // With lengths that make sense, so that more is read.
        let frames: Vec<_> = bytes
            .chunks(23)
            .map(|part| {
                let flags = u16::from_le_bytes([0, random.next().to_le_bytes()[0]]);
                (flags, part.to_vec())
            })
            .collect();
        read(&message_of(&frames));
    }
}
