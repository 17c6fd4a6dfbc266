//! Messages that no capture has, made by the protocol's definition: listeners' answers and events, and what older and newer members send.

use uuid::Uuid;

use super::{made, uuid_bytes};
use crate::hazelcast::data::{Data, ToData};
use crate::hazelcast::frame::{BACKUP_EVENT, BEGIN_STRUCT, END_STRUCT, EVENT, NULL};

pub(super) const ID: Uuid = Uuid::from_u128(0x0123_4567_89AB_4CDE_8F01_2345_6789_ABCD);

const BEGIN: (u16, &[u8]) = (BEGIN_STRUCT, b"");
const END: (u16, &[u8]) = (END_STRUCT, b"");

pub(super) fn key() -> Data {
    "k1".to_data()
}

pub(super) fn value() -> Data {
    i64::MIN.to_data()
}

pub(super) fn registration(message_type: i32) -> Vec<u8> {
    made(message_type, 3, 0, &uuid_bytes(Some(ID)), &[])
}

pub(super) fn boolean(message_type: i32, value: bool) -> Vec<u8> {
    made(message_type, 3, 0, &[u8::from(value)], &[])
}

pub(super) fn backup_event(source: i64) -> Vec<u8> {
    made(0x00_0F02, 3, EVENT | BACKUP_EVENT, &source.to_le_bytes(), &[])
}

pub(super) fn partition_lost(member: Option<Uuid>) -> Vec<u8> {
    let mut fixed = [5_i32.to_le_bytes(), 1_i32.to_le_bytes()].concat();
    fixed.extend(uuid_bytes(member));
    made(0x00_0602, 3, EVENT, &fixed, &[])
}

pub(super) fn map_partition_lost() -> Vec<u8> {
    let mut fixed = 270_i32.to_le_bytes().to_vec();
    fixed.extend(uuid_bytes(Some(ID)));
    made(0x01_1B02, 3, EVENT, &fixed, &[])
}

pub(super) fn item_event(item: Option<&Data>, event_type: i32) -> Vec<u8> {
    let mut fixed = uuid_bytes(Some(ID));
    fixed.extend(event_type.to_le_bytes());
    let item = item.map_or((NULL, b"".as_slice()), |item| (0, item.as_bytes()));
    made(0x03_1102, 3, EVENT, &fixed, &[item])
}

pub(super) fn entries(message_type: i32) -> Vec<u8> {
    let (key, value) = (key(), value());
    let frames = [BEGIN, (0, key.as_bytes()), (0, value.as_bytes()), END];
    made(message_type, 3, 0, &[], &frames)
}

pub(super) fn list(message_type: i32) -> Vec<u8> {
    let (key, value) = (key(), value());
    let frames = [BEGIN, (0, key.as_bytes()), (0, value.as_bytes()), END];
    made(message_type, 3, 0, &[], &frames)
}

pub(super) fn batch_of_keys(index: i32) -> Vec<u8> {
    let key = key();
    let pointers = [i32::MAX, 8, index, 16].map(i32::to_le_bytes).concat();
    let frames = [
        (0, pointers.as_slice()),
        BEGIN,
        (0, key.as_bytes()),
        (0, key.as_bytes()),
        END,
    ];
    made(0x01_3701, 3, 0, &[], &frames)
}

pub(super) fn batch(index: i32) -> Vec<u8> {
    let (key, value) = (key(), value());
    let pointers = [i32::MAX, 8, index, 16].map(i32::to_le_bytes).concat();
    let frames = [
        (0, pointers.as_slice()),
        BEGIN,
        (0, key.as_bytes()),
        (0, value.as_bytes()),
        END,
    ];
    made(0x01_3801, 3, 0, &[], &frames)
}

/// A members view whose member has fields and structures that no definition knows.
pub(super) fn members_of_the_future() -> Vec<u8> {
    let mut fixed = uuid_bytes(Some(ID));
    fixed.extend([1, 0xEE, 0xEE]);
    let port = 5702_i32.to_le_bytes();
    let frames = [
        BEGIN,
        BEGIN,
        (0, fixed.as_slice()),
        BEGIN, // address
        (0, &port),
        (0, b"node"),
        BEGIN, // unknown
        BEGIN,
        (0, b"unknown"),
        END,
        END,
        END,
        BEGIN, // attributes
        (0, b"rack"),
        (0, b"7"),
        END,
        BEGIN, // version
        (0, &[6, 1, 2, 3]),
        (NULL, b""),
        END,
        BEGIN, // addresses by protocol
        END,
        (0, b"unknown"),
        END,
        END,
        (0, b"unknown"),
    ];
    made(0x00_0302, 2, EVENT, &9_i32.to_le_bytes(), &frames)
}

/// An acceptance in the layout before 2.7: neither members nor partitions.
pub(super) fn acceptance_of_an_older_member(status: u8, partition_count: i32, cluster: Option<Uuid>) -> Vec<u8> {
    let mut fixed = vec![status];
    fixed.extend(uuid_bytes(Some(ID)));
    fixed.push(1);
    fixed.extend(partition_count.to_le_bytes());
    fixed.extend(uuid_bytes(cluster));
    fixed.push(0);
    let port = 5701_i32.to_le_bytes();
    let frames = [BEGIN, (0, port.as_slice()), (0, b"10.0.0.1"), END, (0, b"5.2.0")];
    made(0x00_0101, 1, 0, &fixed, &frames)
}

/// A refusal: all but the status is null.
pub(super) fn refusal(status: u8) -> Vec<u8> {
    let mut fixed = vec![status];
    fixed.extend(uuid_bytes(None));
    fixed.push(0xFF);
    fixed.extend((-1_i32).to_le_bytes());
    fixed.extend(uuid_bytes(None));
    fixed.push(0);
    made(0x00_0101, 1, 0, &fixed, &[(NULL, b""), (0, b"")])
}

/// One of each, for tests that break messages.
pub(super) fn all() -> Vec<Vec<u8>> {
    vec![
        registration(0x00_0601),
        registration(0x00_0F01),
        registration(0x01_1B01),
        registration(0x03_1101),
        boolean(0x01_0601, true),
        boolean(0x03_0401, true),
        boolean(0x03_1201, true),
        backup_event(1),
        partition_lost(None),
        map_partition_lost(),
        item_event(Some(&key()), 1),
        item_event(None, 2),
        entries(0x01_2301),
        list(0x03_0801),
        batch_of_keys(-1),
        batch(-1),
        members_of_the_future(),
        acceptance_of_an_older_member(0, 271, Some(ID)),
        refusal(1),
    ]
}
