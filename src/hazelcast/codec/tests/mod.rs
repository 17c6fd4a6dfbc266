//! The bytes layer against what travelled between the official Python client and a member (`tests/data/README.md`).

mod messages;
mod reader;
mod requests;
mod responses;
mod robustness;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;

use crate::hazelcast::codec::client::{self, AuthenticationResponse, ClusterViewEvent, PartitionLost};
use crate::hazelcast::codec::map::{self, IterationPointers, MapPartitionLost};
use crate::hazelcast::codec::queue::{self, ItemEvent};
use crate::hazelcast::data::Data;
use crate::hazelcast::error::{Kind, Result};
use crate::hazelcast::frame::{self, HEADER_LEN};
use crate::hazelcast::message::{Incoming, MessageReader, Request};
use uuid::Uuid;

/// The limit of readers in these tests.
const MAX_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct Entry {
    step: String,
    from: String,
    #[serde(rename = "type")]
    message_type: Option<String>,
    hex: String,
}

/// A captured message.
struct Capture {
    step: String,
    from_client: bool,
    message_type: i32,
    bytes: Vec<u8>,
}

/// All captured messages, in order. Those of which the file holds the beginning only are closed after their last whole frame.
fn captures() -> Vec<Capture> {
    let entries: Vec<Entry> =
        serde_json::from_str(include_str!("../../../../tests/data/hazelcast-captures.json")).unwrap();
    let captures: Vec<_> = entries
        .into_iter()
        .filter_map(|entry| {
            let message_type = entry.message_type?;
            Some(Capture {
                step: entry.step,
                from_client: entry.from == "client",
                message_type: i32::from_str_radix(message_type.trim_start_matches("0x"), 16).unwrap(),
                bytes: match entry.hex.strip_suffix("...") {
                    Some(beginning) => closed(&unhex(&beginning[..beginning.len() / 2 * 2])),
                    None => unhex(&entry.hex),
                },
            })
        })
        .collect();
    assert_eq!(captures.len(), 90, "the preamble is the only entry without a message");
    captures
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// The frames of a message, whole ones only: flags and content.
fn frames_of(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some(header) = frame::read_header(bytes).unwrap() {
        if header.length > bytes.len() {
            break;
        }
        frames.push((header.flags, bytes[HEADER_LEN..header.length].to_vec()));
        bytes = &bytes[header.length..];
    }
    frames
}

/// A message of these frames, the last one final.
fn message_of(frames: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for (at, (flags, content)) in frames.iter().enumerate() {
        let is_last = at + 1 == frames.len();
        let flags = flags & !frame::FINAL | if is_last { frame::FINAL } else { 0 };
        frame::put_frame(&mut out, content, flags);
    }
    out.to_vec()
}

/// The message that `beginning` is of, with all structures closed after the last whole frame.
fn closed(beginning: &[u8]) -> Vec<u8> {
    let mut frames = frames_of(beginning);
    let count = |flag| frames.iter().filter(|(flags, _)| flags & flag != 0).count();
    let open = count(frame::BEGIN_STRUCT) - count(frame::END_STRUCT);
    frames.extend(vec![(frame::END_STRUCT, Vec::new()); open]);
    message_of(&frames)
}

/// A message that no capture has, by the protocol's definition: the fixed-size parameters and the frames that follow.
fn made(message_type: i32, correlation_id: i64, flags: u16, fixed: &[u8], frames: &[(u16, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    content.put_i32_le(message_type);
    content.put_i64_le(correlation_id);
    if flags & (frame::EVENT | frame::BACKUP_EVENT) == 0 {
        content.put_u8(0);
    } else {
        content.put_i32_le(-1);
    }
    content.put_slice(fixed);
    let mut all = vec![(frame::UNFRAGMENTED | flags, content)];
    all.extend(frames.iter().map(|&(flags, content)| (flags, content.to_vec())));
    message_of(&all)
}

/// A UUID as a parameter of fixed size.
fn uuid_bytes(uuid: Option<Uuid>) -> Vec<u8> {
    let (most, least) = uuid.unwrap_or_default().as_u64_pair();
    let mut bytes = vec![u8::from(uuid.is_none())];
    bytes.put_u64_le(most);
    bytes.put_u64_le(least);
    bytes
}

/// What a reader gives for `bytes`, up to the first error or the end.
fn read_all(bytes: &[u8]) -> Result<Vec<Incoming>> {
    let mut reader = MessageReader::new(MAX_BYTES);
    let mut buffer = BytesMut::from(bytes);
    let mut messages = Vec::new();
    while let Some(message) = reader.next(&mut buffer)? {
        messages.push(message);
    }
    Ok(messages)
}

fn read_one(bytes: &[u8]) -> Incoming {
    let mut messages = read_all(bytes).unwrap();
    assert_eq!(messages.len(), 1);
    messages.remove(0)
}

/// All bytes of a request.
fn wire(request: &Request, correlation_id: i64, partition_id: i32, backup_aware: bool) -> Bytes {
    let mut out = BytesMut::new();
    request.write_first(correlation_id, partition_id, backup_aware, &mut out);
    out.put_slice(request.rest());
    out.freeze()
}

/// What any message holds that this client reads.
#[derive(Clone, Debug, PartialEq)]
enum Decoded {
    Nothing,
    Authentication(AuthenticationResponse),
    ClusterView(ClusterViewEvent),
    PartitionLost(PartitionLost),
    MapPartitionLost(MapPartitionLost),
    Backup(i64),
    Registration(Uuid),
    Item(ItemEvent),
    Value(Option<Data>),
    List(Vec<Data>),
    Entries(Vec<(Data, Data)>),
    Keys(IterationPointers, Vec<Data>),
    Batch(IterationPointers, Vec<(Data, Data)>),
    Boolean(bool),
    Int(i32),
    Error(Kind, String),
}

/// The message types of captured operations that this client does not have: proxies, an index, and queries.
const OTHER_OPERATIONS: [i32; 4] = [0x00_0400, 0x01_2600, 0x01_2800, 0x01_2900];

/// Reads a message by the function for its type.
fn decode(incoming: &Incoming) -> Result<Decoded> {
    use Decoded::{Boolean, Entries, Int, List, Registration, Value};
    Ok(match incoming.message_type() {
        0x00_0000 => {
            let error = incoming.as_error().unwrap();
            Decoded::Error(error.kind(), error.to_string())
        }
        0x00_0101 => Decoded::Authentication(client::decode_authentication(incoming)?),
        0x00_0302..=0x00_03FF => Decoded::ClusterView(client::decode_cluster_view_event(incoming)?),
        0x00_0601 => Registration(client::decode_add_partition_lost_listener(incoming)?),
        client::PARTITION_LOST_EVENT => Decoded::PartitionLost(client::decode_partition_lost_event(incoming)?),
        0x00_0F02 => Decoded::Backup(client::decode_backup_event(incoming)?),
        0x01_0101 => Value(map::decode_put(incoming)?),
        0x01_0201 => Value(map::decode_get(incoming)?),
        0x01_0301 => Value(map::decode_remove(incoming)?),
        0x01_0501 => Boolean(map::decode_replace_if_same(incoming)?),
        0x01_0601 => Boolean(map::decode_contains_key(incoming)?),
        0x01_0E01 => Value(map::decode_put_if_absent(incoming)?),
        0x01_1B01 => Registration(map::decode_add_partition_lost_listener(incoming)?),
        map::PARTITION_LOST_EVENT => Decoded::MapPartitionLost(map::decode_partition_lost_event(incoming)?),
        0x01_2201 => List(map::decode_key_set(incoming)?),
        0x01_2301 => Entries(map::decode_get_all(incoming)?),
        0x01_2401 => List(map::decode_values(incoming)?),
        0x01_2501 => Entries(map::decode_entry_set(incoming)?),
        0x01_2A01 => Int(map::decode_size(incoming)?),
        0x01_3701 => {
            let (pointers, keys) = map::decode_fetch_keys(incoming)?;
            Decoded::Keys(pointers, keys)
        }
        0x01_3801 => {
            let (pointers, entries) = map::decode_fetch_entries(incoming)?;
            Decoded::Batch(pointers, entries)
        }
        0x03_0101 => Boolean(queue::decode_offer(incoming)?),
        0x03_0301 => Int(queue::decode_size(incoming)?),
        0x03_0401 => Boolean(queue::decode_remove(incoming)?),
        0x03_0501 => Value(queue::decode_poll(incoming)?),
        0x03_0701 => Value(queue::decode_peek(incoming)?),
        0x03_0801 => List(queue::decode_iterator(incoming)?),
        0x03_0A01 => List(queue::decode_drain_to_max_size(incoming)?),
        0x03_1001 => Boolean(queue::decode_add_all(incoming)?),
        0x03_1101 => Registration(queue::decode_add_listener(incoming)?),
        queue::ITEM_EVENT => Decoded::Item(queue::decode_item_event(incoming)?),
        _ => Decoded::Nothing,
    })
}
