//! Which partition a key, or a structure of one partition, belongs to.
//!
//! Source: `HashUtil` and `StringPartitioningStrategy` of the reference implementation; every client must agree with them.

use super::data::ToData;

/// The seed of partition hashes.
const SEED: u32 = 0x0100_0193;

/// `MurmurHash3` of 32 bits for x86, the variant that partition hashes use.
fn murmur3_x86_32(bytes: &[u8], seed: u32) -> u32 {
    finish(seed, bytes, bytes.len())
}

/// The hash of what `hash` is so far and `rest`, `length` bytes together.
fn finish(hash: u32, rest: &[u8], length: usize) -> u32 {
    let (blocks, tail) = rest.as_chunks();
    let mut hash = take(hash, blocks);
    if !tail.is_empty() {
        let last = tail.iter().rev().fold(0, |word, &byte| (word << 8) | u32::from(byte));
        hash ^= scramble(last);
    }
    // The algorithm takes the length modulo 2^32.
    #[allow(clippy::cast_possible_truncation)]
    let length = length as u32;
    hash ^= length;
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85EB_CA6B);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xC2B2_AE35);
    hash ^ (hash >> 16)
}

/// What `hash` is after these blocks.
fn take(hash: u32, blocks: &[[u8; 4]]) -> u32 {
    blocks.iter().fold(hash, |hash, block| {
        let hash = hash ^ scramble(u32::from_le_bytes(*block));
        hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xE654_6B64)
    })
}

fn scramble(block: u32) -> u32 {
    block
        .wrapping_mul(0xCC9E_2D51)
        .rotate_left(15)
        .wrapping_mul(0x1B87_3593)
}

/// The partition hash of a serialized key's payload: what follows the hash and the type.
pub(crate) fn partition_hash(payload: &[u8]) -> i32 {
    murmur3_x86_32(payload, SEED).cast_signed()
}

/// The partition of a hash among `count` partitions; 0 where `count` is 0.
pub(crate) fn partition_id(hash: i32, count: i32) -> i32 {
    hash.checked_abs().and_then(|hash| hash.checked_rem(count)).unwrap_or(0)
}

/// The partition hash of a structure that lives in one partition (queue, ringbuffer, topic): of its name as a String, or, where
/// the name holds an `@`, of what follows the first one.
pub(crate) fn name_partition_hash(name: &str) -> i32 {
    let key = name.split_once('@').map_or(name, |(_, key)| key);
    key.to_data().partition_hash()
}

/// The key in this partition, of `count`, that has other lower-case hexadecimal digits in place of the last four of `key`.
///
/// It is `key` itself where that does not end with four of them, or none of all four digits lead there.
pub fn in_partition(key: &str, partition: i32, count: i32) -> String {
    let Some((head, digits)) = key.split_at_checked(key.len().saturating_sub(4)) else {
        return key.to_owned();
    };
    let are_digits = digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let Some(first) = u16::from_str_radix(digits, 16).ok().filter(|_| are_digits) else {
        return key.to_owned();
    };
    let data = key.to_data();
    let Some((before, _)) = data.payload().split_last_chunk::<4>() else {
        return key.to_owned();
    };
    // The digits have no part in the blocks before them, which are hashed once.
    let (blocks, odd) = before.as_chunks();
    let hash = take(SEED, blocks);
    let mut rest = odd.to_vec();
    for offset in 0..=u16::MAX {
        let digits = hexadecimal(first.wrapping_add(offset));
        rest.truncate(odd.len());
        rest.extend(digits);
        let hash = finish(hash, &rest, data.payload().len()).cast_signed();
        if partition_id(hash, count) == partition {
            let mut brought = head.to_owned();
            brought.extend(digits.map(char::from));
            return brought;
        }
    }
    key.to_owned()
}

/// The number in four digits.
fn hexadecimal(number: u16) -> [u8; 4] {
    [12, 8, 4, 0].map(|shift| match (number >> shift & 0xF).to_le_bytes() {
        [digit @ 0..=9, _] => b'0' + digit,
        [digit, _] => b'a' + (digit - 10),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_brought_into_any_partition_by_its_last_four_digits() {
        for key in [
            "0000",
            "a0000",
            "ab0000",
            "abc0000",
            "01a21e62-cd1c-74ac-9535-fae1b2547c3e",
        ] {
            for partition in 0..271 {
                let brought = in_partition(key, partition, 271);
                assert_eq!(
                    partition_id(brought.to_data().partition_hash(), 271),
                    partition,
                    "{key}"
                );
                let digits = brought.strip_prefix(&key[..key.len() - 4]).unwrap();
                assert!(digits.len() == 4 && digits.bytes().all(|digit| b"0123456789abcdef".contains(&digit)));
                assert_eq!(in_partition(&brought, partition, 271), brought);
            }
        }
    }

    #[test]
    fn a_key_that_cannot_be_brought_there_stays_as_it_is() {
        for key in ["", "abc", "abcdefgh", "a+123", "a\u{1D11E}", "ab\u{1D11E}c"] {
            assert_eq!(in_partition(key, 1, 271), key);
        }
        assert_eq!(in_partition("0000", 271, 271), "0000");
        assert_eq!(in_partition("0000", 1, 0), "0000");
    }

    #[test]
    fn hashes_and_partitions_are_those_of_the_reference_implementation() {
        for (key, hash, partition) in [
            ("default-queue", -1_800_906_134, 24),
            ("mq", 730_838_286, 66),
            ("k1", 1_192_665_601, 21),
            ("abc", -1_708_417_075, 13),
            ("", 923_237_662, 11),
        ] {
            assert_eq!(key.to_data().partition_hash(), hash, "{key}");
            assert_eq!(name_partition_hash(key), hash, "{key}");
            assert_eq!(partition_id(hash, 271), partition, "{key}");
        }
    }

    #[test]
    fn murmur_agrees_with_published_vectors_for_every_tail_length() {
        for (bytes, seed, hash) in [
            ("", 0, 0),
            ("", 1, 0x514E_28B7),
            ("a", 0x9747_B28C, 0x7FA0_9EA6),
            ("aa", 0x9747_B28C, 0x5D21_1726),
            ("aaa", 0x9747_B28C, 0x283E_0130),
            ("aaaa", 0x9747_B28C, 0x5A97_808A),
            ("Hello, world!", 0x9747_B28C, 0x2488_4CBA),
        ] {
            assert_eq!(murmur3_x86_32(bytes.as_bytes(), seed), hash, "{bytes}");
        }
    }

    #[test]
    fn a_name_with_an_at_sign_hashes_what_follows_the_first_one() {
        assert_eq!(name_partition_hash("queue@k1"), name_partition_hash("k1"));
        assert_eq!(name_partition_hash("@k1"), name_partition_hash("k1"));
        assert_eq!(name_partition_hash("queue@"), name_partition_hash(""));
        assert_eq!(name_partition_hash("queue@a@b"), "a@b".to_data().partition_hash());
    }

    #[test]
    fn no_hash_and_no_count_breaks_the_partition() {
        assert_eq!(partition_id(i32::MIN, 271), 0);
        assert_eq!(partition_id(i32::MAX, 271), i32::MAX % 271);
        assert_eq!(partition_id(-272, 271), 1);
        assert_eq!(partition_id(5, 0), 0);
        assert_eq!(partition_id(5, -271), 5);
    }
}
