//! Parameters out of received frames: the protocol's built-in types, and the custom ones that this client reads (`Custom.yaml`).

use std::str;

use uuid::Uuid;

use crate::hazelcast::data::Data;
use crate::hazelcast::error::{Error, Result};
use crate::hazelcast::frame::Frames;
use crate::hazelcast::message::Incoming;

/// Where a member listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    /// A host name or an IP address, as the member says it: it may mean nothing on the client's side of a network.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberInfo {
    pub(crate) address: Address,
    pub(crate) uuid: Uuid,
    /// Whether it owns no partitions.
    pub(crate) lite_member: bool,
    pub(crate) version: MemberVersion,
}

/// The version of Hazelcast that a member runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MemberVersion {
    pub(crate) major: u8,
    pub(crate) minor: u8,
    pub(crate) patch: u8,
}

/// The parameters of a received message, in the order of the protocol's definition.
pub(super) struct Parameters<'a> {
    /// Those of fixed size.
    pub(super) fixed: Fixed<'a>,
    /// The others.
    pub(super) frames: Frames<'a>,
}

impl<'a> Parameters<'a> {
    pub(super) fn of(incoming: &'a Incoming) -> Self {
        Self {
            fixed: Fixed::new(incoming.fixed()),
            frames: incoming.frames(),
        }
    }
}

/// Reads parameters of fixed size, one after the other.
pub(super) struct Fixed<'a>(&'a [u8]);

impl<'a> Fixed<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left: an older member sends fewer parameters.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (&bytes, rest) = self
            .0
            .split_first_chunk()
            .ok_or_else(|| Error::protocol("a frame is too short for its parameters"))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        self.take().map(|[byte]| byte)
    }

    pub(super) fn boolean(&mut self) -> Result<bool> {
        self.byte().map(|byte| byte != 0)
    }

    pub(super) fn int(&mut self) -> Result<i32> {
        self.take().map(i32::from_le_bytes)
    }

    pub(super) fn long(&mut self) -> Result<i64> {
        self.take().map(i64::from_le_bytes)
    }

    pub(super) fn nullable_uuid(&mut self) -> Result<Option<Uuid>> {
        let is_null = self.boolean()?;
        let most = u64::from_le_bytes(self.take()?);
        let least = u64::from_le_bytes(self.take()?);
        Ok((!is_null).then(|| Uuid::from_u64_pair(most, least)))
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid> {
        self.nullable_uuid()?
            .ok_or_else(|| Error::protocol("a UUID is null that may not be"))
    }

    /// A list of items of fixed size: all that is left, in whole items.
    fn list<T>(mut self, read: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !self.is_empty() {
            items.push(read(&mut self)?);
        }
        Ok(items)
    }
}

pub(super) fn string(frames: &mut Frames<'_>) -> Result<String> {
    str::from_utf8(frames.next_value()?.content)
        .map(str::to_owned)
        .map_err(|error| Error::protocol("a string is not UTF-8").caused_by(error))
}

pub(super) fn nullable_string(frames: &mut Frames<'_>) -> Result<Option<String>> {
    nullable(frames, string)
}

pub(super) fn data(frames: &mut Frames<'_>) -> Result<Data> {
    Data::from_bytes(frames.next_value()?.to_bytes())
}

pub(super) fn nullable_data(frames: &mut Frames<'_>) -> Result<Option<Data>> {
    nullable(frames, data)
}

pub(super) fn data_list(frames: &mut Frames<'_>) -> Result<Vec<Data>> {
    list(frames, data)
}

pub(super) fn entry_list(frames: &mut Frames<'_>) -> Result<Vec<(Data, Data)>> {
    list(frames, |frames| Ok((data(frames)?, data(frames)?)))
}

/// `EntryList_Integer_Integer`: one frame.
pub(super) fn int_pair_list(frames: &mut Frames<'_>) -> Result<Vec<(i32, i32)>> {
    Fixed::new(frames.next_value()?.content).list(|fixed| Ok((fixed.int()?, fixed.int()?)))
}

/// `EntryList_UUID_List_Integer`: a list of integer lists, then one frame with the UUID of each.
pub(super) fn uuid_int_lists(frames: &mut Frames<'_>) -> Result<Vec<(Uuid, Vec<i32>)>> {
    let lists = list(frames, |frames| {
        Fixed::new(frames.next_value()?.content).list(Fixed::int)
    })?;
    let uuids = Fixed::new(frames.next_value()?.content).list(Fixed::uuid)?;
    if uuids.len() == lists.len() {
        Ok(uuids.into_iter().zip(lists).collect())
    } else {
        Err(Error::protocol(format!(
            "{} lists came with {} UUIDs",
            lists.len(),
            uuids.len()
        )))
    }
}

/// What `read` reads, or `None` where the frame stands for null.
pub(super) fn nullable<T>(
    frames: &mut Frames<'_>,
    read: impl FnOnce(&mut Frames<'_>) -> Result<T>,
) -> Result<Option<T>> {
    if frames.take_null()? {
        Ok(None)
    } else {
        read(frames).map(Some)
    }
}

/// A list of items of variable size.
pub(super) fn list<T>(frames: &mut Frames<'_>, read: impl Fn(&mut Frames<'_>) -> Result<T>) -> Result<Vec<T>> {
    frames.begin_struct()?;
    let mut items = Vec::new();
    while !frames.take_end()? {
        items.push(read(frames)?);
    }
    Ok(items)
}

/// A custom type: what `read` reads, and whatever a newer member sends after that.
fn custom<T>(frames: &mut Frames<'_>, read: impl FnOnce(&mut Frames<'_>) -> Result<T>) -> Result<T> {
    frames.begin_struct()?;
    let value = read(frames)?;
    frames.skip_to_end()?;
    Ok(value)
}

/// `Custom.yaml`, `Address`.
pub(super) fn address(frames: &mut Frames<'_>) -> Result<Address> {
    custom(frames, |frames| {
        let port = Fixed::new(frames.next_value()?.content).int()?;
        let port = u16::try_from(port)
            .map_err(|error| Error::protocol(format!("an address has port {port}")).caused_by(error))?;
        Ok(Address {
            host: string(frames)?,
            port,
        })
    })
}

/// `Custom.yaml`, `MemberInfo`. The attributes and the addresses by protocol are not read.
pub(super) fn member_info(frames: &mut Frames<'_>) -> Result<MemberInfo> {
    custom(frames, |frames| {
        let mut fixed = Fixed::new(frames.next_value()?.content);
        let uuid = fixed.uuid()?;
        let lite_member = fixed.boolean()?;
        let address = address(frames)?;
        frames.begin_struct()?; // attributes
        frames.skip_to_end()?;
        let version = member_version(frames)?;
        Ok(MemberInfo {
            address,
            uuid,
            lite_member,
            version,
        })
    })
}

/// `Custom.yaml`, `MemberVersion`.
fn member_version(frames: &mut Frames<'_>) -> Result<MemberVersion> {
    custom(frames, |frames| {
        let mut fixed = Fixed::new(frames.next_value()?.content);
        Ok(MemberVersion {
            major: fixed.byte()?,
            minor: fixed.byte()?,
            patch: fixed.byte()?,
        })
    })
}
