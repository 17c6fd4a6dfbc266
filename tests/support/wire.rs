//! As much of the cluster's protocol as a peer in a test needs: where a message begins and ends, what it is called, and
//! the few that a scripted member sends. Written apart from the client's own code, so that one checks the other.

use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use uuid::Uuid;

pub(crate) const FINAL: u16 = 1 << 13;
pub(crate) const BEGIN: u16 = 1 << 12;
pub(crate) const END: u16 = 1 << 11;
pub(crate) const NULL: u16 = 1 << 10;
pub(crate) const EVENT: u16 = 1 << 9;
pub(crate) const BACKUP_AWARE: u16 = 1 << 8;
pub(crate) const BACKUP_EVENT: u16 = 1 << 7;
pub(crate) const UNFRAGMENTED: u16 = 0b11 << 14;

const HEADER: usize = 6;

/// Request types of the protocol: `service << 16 | method << 8`. An answer's is one more, an event's more again.
pub(crate) mod kind {
    pub(crate) const ERROR: i32 = 0;
    pub(crate) const AUTHENTICATION: i32 = 0x00_0100;
    pub(crate) const CLUSTER_VIEW_LISTENER: i32 = 0x00_0300;
    pub(crate) const PARTITION_LOST_LISTENER: i32 = 0x00_0600;
    pub(crate) const PING: i32 = 0x00_0B00;
    pub(crate) const BACKUP_LISTENER: i32 = 0x00_0F00;
    pub(crate) const MAP_GET: i32 = 0x01_0200;
    pub(crate) const MAP_SIZE: i32 = 0x01_2A00;
    pub(crate) const MAP_SET: i32 = 0x01_0F00;
    pub(crate) const MAP_PUT_ALL: i32 = 0x01_2C00;
    pub(crate) const QUEUE_OFFER: i32 = 0x03_0100;
    pub(crate) const QUEUE_POLL: i32 = 0x03_0500;
    pub(crate) const QUEUE_DRAIN: i32 = 0x03_0A00;
    pub(crate) const QUEUE_ITEM_LISTENER: i32 = 0x03_1100;
}

/// One whole message, as it travelled.
#[derive(Clone, Debug)]
pub(crate) struct Message(Bytes);

impl Message {
    /// Takes the first message out of `buffer`, if all of it is there.
    pub(crate) fn take(buffer: &mut BytesMut) -> Option<Self> {
        let mut end = 0;
        loop {
            let header = buffer.get(end..end + HEADER)?;
            let length = i32::from_le_bytes(header[..4].try_into().unwrap());
            let flags = u16::from_le_bytes(header[4..].try_into().unwrap());
            assert!(length >= 6, "a frame of {length} bytes was sent");
            end += usize::try_from(length).unwrap();
            if buffer.len() < end {
                return None;
            }
            if flags & FINAL != 0 {
                return Some(Self(buffer.split_to(end).freeze()));
            }
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn flags(&self) -> u16 {
        u16::from_le_bytes(self.0[4..6].try_into().unwrap())
    }

    pub(crate) fn kind(&self) -> i32 {
        kind_of(&self.0)
    }

    pub(crate) fn correlation_id(&self) -> i64 {
        i64::from_le_bytes(self.0[10..18].try_into().unwrap())
    }

    /// The content of the frames after the first.
    pub(crate) fn frames(&self) -> Vec<&[u8]> {
        let mut frames = Vec::new();
        let mut rest = &self.0[..];
        while rest.has_remaining() {
            let length = usize::try_from(i32::from_le_bytes(rest[..4].try_into().unwrap())).unwrap();
            frames.push(&rest[HEADER..length]);
            rest = &rest[length..];
        }
        frames.split_off(1)
    }
}

/// The type of the message that these bytes begin with.
fn kind_of(bytes: &[u8]) -> i32 {
    i32::from_le_bytes(bytes[6..10].try_into().unwrap())
}

/// Writes a message frame by frame.
pub(crate) struct Builder {
    bytes: Vec<u8>,
    last_frame: usize,
}

impl Builder {
    /// A response that names so many backups.
    pub(crate) fn response(kind: i32, correlation_id: i64, backup_acks: u8) -> Self {
        let mut first = first(kind, correlation_id);
        first.push(backup_acks);
        Self::begun(UNFRAGMENTED, first)
    }

    pub(crate) fn event(kind: i32, correlation_id: i64, flags: u16) -> Self {
        let mut first = first(kind, correlation_id);
        first.extend((-1_i32).to_le_bytes());
        Self::begun(UNFRAGMENTED | EVENT | flags, first)
    }

    /// Goes on behind whole frames.
    pub(crate) fn after(frames: Vec<u8>) -> Self {
        Self {
            last_frame: frames.len(),
            bytes: frames,
        }
    }

    fn begun(flags: u16, first: Vec<u8>) -> Self {
        let builder = Self {
            bytes: Vec::new(),
            last_frame: 0,
        };
        builder.frame(flags, &first)
    }

    /// Appends to the frame that was written last.
    pub(crate) fn fixed(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.bytes.extend(bytes.as_ref());
        let length = i32::try_from(self.bytes.len() - self.last_frame).unwrap();
        self.bytes[self.last_frame..self.last_frame + 4].copy_from_slice(&length.to_le_bytes());
        self
    }

    pub(crate) fn uuid(self, value: Uuid) -> Self {
        self.fixed(uuid_bytes(value))
    }

    pub(crate) fn frame(mut self, flags: u16, content: &[u8]) -> Self {
        self.last_frame = self.bytes.len();
        self.bytes
            .extend(i32::try_from(content.len() + HEADER).unwrap().to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(content);
        self
    }

    pub(crate) fn begin(self) -> Self {
        self.frame(BEGIN, &[])
    }

    pub(crate) fn end(self) -> Self {
        self.frame(END, &[])
    }

    pub(crate) fn null(self) -> Self {
        self.frame(NULL, &[])
    }

    pub(crate) fn string(self, value: &str) -> Self {
        self.frame(0, value.as_bytes())
    }

    /// What was written so far, without an end.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        let flags = &mut self.bytes[self.last_frame + 4..self.last_frame + 6];
        let with_final = u16::from_le_bytes(flags.try_into().unwrap()) | FINAL;
        flags.copy_from_slice(&with_final.to_le_bytes());
        self.bytes
    }
}

fn first(kind: i32, correlation_id: i64) -> Vec<u8> {
    let mut first = kind.to_le_bytes().to_vec();
    first.extend(correlation_id.to_le_bytes());
    first
}

pub(crate) fn uuid_bytes(value: Uuid) -> [u8; 17] {
    let (most, least) = value.as_u64_pair();
    let mut bytes = [0; 17];
    bytes[1..9].copy_from_slice(&most.to_le_bytes());
    bytes[9..].copy_from_slice(&least.to_le_bytes());
    bytes
}

/// An error of the protocol with one holder and one stack trace element.
pub(crate) fn error(correlation_id: i64, code: i32, class_name: &str, message: &str) -> Vec<u8> {
    let element = |builder: Builder| {
        let builder = builder.begin().frame(0, &7_i32.to_le_bytes());
        builder.string("com.example.Operation").string("run").null().end()
    };
    let holder = Builder::response(kind::ERROR, correlation_id, 0)
        .begin()
        .begin()
        .frame(0, &code.to_le_bytes())
        .string(class_name)
        .string(message)
        .begin();
    element(holder).end().end().end().finish()
}

/// A backup's confirmation of the call with this id, for the listener of that one.
pub(crate) fn backup_event(listener_id: i64, call_id: i64) -> Vec<u8> {
    Builder::event(kind::BACKUP_LISTENER + 2, listener_id, BACKUP_EVENT)
        .fixed(call_id.to_le_bytes())
        .finish()
}

/// The member list.
pub(crate) fn members_view(listener_id: i64, version: i32, members: &[(Uuid, SocketAddr)]) -> Vec<u8> {
    let view = Builder::event(kind::CLUSTER_VIEW_LISTENER + 2, listener_id, 0).fixed(version.to_le_bytes());
    member_list(view, members).finish()
}

/// `List_MemberInfo`.
pub(crate) fn member_list(builder: Builder, members: &[(Uuid, SocketAddr)]) -> Builder {
    members
        .iter()
        .fold(builder.begin(), |list, (uuid, address)| {
            member_info(list, *uuid, *address)
        })
        .end()
}

/// `MemberInfo` as the captured one: two addresses, no attributes, version 5.7.0.
fn member_info(builder: Builder, uuid: Uuid, address: SocketAddr) -> Builder {
    let at = |builder: Builder| {
        let port = i32::from(address.port()).to_le_bytes();
        builder.begin().frame(0, &port).string(&address.ip().to_string()).end()
    };
    let builder = at(builder.begin().frame(0, &[]).uuid(uuid).fixed([0]));
    let builder = builder.begin().end().begin().frame(0, &[5, 7, 0]).end();
    let builder = builder.begin().begin().frame(0, &0_i32.to_le_bytes()).null().end();
    at(builder).end().end()
}

/// The partition table: each member's partitions.
pub(crate) fn partitions_view(listener_id: i64, version: i32, owners: &[(Uuid, Vec<i32>)]) -> Vec<u8> {
    let view = Builder::event(kind::CLUSTER_VIEW_LISTENER + 3, listener_id, 0)
        .fixed(version.to_le_bytes())
        .begin();
    let view = owners.iter().fold(view, |view, (_, partitions)| {
        let content: Vec<u8> = partitions
            .iter()
            .flat_map(|partition| partition.to_le_bytes())
            .collect();
        view.frame(0, &content)
    });
    let uuids: Vec<u8> = owners.iter().flat_map(|(uuid, _)| uuid_bytes(*uuid)).collect();
    view.end().frame(0, &uuids).finish()
}
