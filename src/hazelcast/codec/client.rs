//! `Client.yaml`: what a connection needs before and beside the operations on data.

use uuid::Uuid;

use crate::hazelcast::error::{Error, Result};
use crate::hazelcast::message::{Incoming, Request, Retry, Route};

use super::types::{Address, MemberInfo, Parameters, address, list, member_info, nullable, string, uuid_int_lists};
use super::{Operation, decode_event};

const AUTHENTICATION: Operation = Operation::new("Client.Authentication", 0x00_0100, Retry::Never);
const ADD_CLUSTER_VIEW_LISTENER: Operation = Operation::new("Client.AddClusterViewListener", 0x00_0300, Retry::Never);
const ADD_PARTITION_LOST_LISTENER: Operation =
    Operation::new("Client.AddPartitionLostListener", 0x00_0600, Retry::Never);
const REMOVE_PARTITION_LOST_LISTENER: Operation =
    Operation::new("Client.RemovePartitionLostListener", 0x00_0700, Retry::Never);
const PING: Operation = Operation::new("Client.Ping", 0x00_0B00, Retry::Never);
const LOCAL_BACKUP_LISTENER: Operation = Operation::new("Client.LocalBackupListener", 0x00_0F00, Retry::Never);

/// Message types of the events that [`decode_cluster_view_event`] reads.
const MEMBERS_VIEW_EVENT: i32 = 0x00_0302;
const PARTITIONS_VIEW_EVENT: i32 = 0x00_0303;

/// Message type of the event that [`decode_partition_lost_event`] reads.
pub(crate) const PARTITION_LOST_EVENT: i32 = 0x00_0602;

/// Message type of the event that [`decode_backup_event`] reads.
const BACKUP_EVENT: i32 = 0x00_0F02;

/// The only version of the serialization format.
const SERIALIZATION_VERSION: u8 = 1;

/// Who a client is, to a member it connects to.
#[derive(Clone, Copy)]
pub(crate) struct Authentication<'a> {
    pub(crate) cluster_name: &'a str,
    /// User and password; a member without security refuses a client that sends any.
    pub(crate) credentials: Option<(&'a str, &'a str)>,
    /// The same on every connection of one client.
    pub(crate) client_uuid: Uuid,
    /// The kind of client in the member's statistics, three letters for the official ones.
    pub(crate) client_type: &'a str,
    pub(crate) client_version: &'a str,
    pub(crate) client_name: &'a str,
    pub(crate) labels: &'a [&'a str],
}

/// `Client.yaml`, 0.1 `authentication`.
///
/// The two fields since 2.8 (routing mode, CP routing) are left out, as the official Python client does: a member then takes its
/// defaults, and one before 2.8 needs no other message.
pub(crate) fn authentication_request(authentication: &Authentication<'_>) -> Result<Request> {
    let (user, password) = authentication.credentials.unzip();
    AUTHENTICATION
        .request(Route::Any)
        .uuid(Some(authentication.client_uuid))
        .byte(SERIALIZATION_VERSION)
        .string(authentication.cluster_name)
        .nullable_string(user)
        .nullable_string(password)
        .string(authentication.client_type)
        .string(authentication.client_version)
        .string(authentication.client_name)
        .string_list(authentication.labels)
        .build()
}

/// Why a member refuses a client: the status of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another cluster name, or credentials that the member does not take.
    CredentialsFailed,
    SerializationVersionMismatch,
    NotAllowedInCluster,
    /// What this client does not know.
    Other(u8),
}

/// A member's answer to [`authentication_request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AuthenticationResponse {
    Accepted(Accepted),
    Refused(Refusal),
}

/// What a member that accepts a client says of itself and its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) address: Address,
    pub(crate) member_uuid: Uuid,
    /// Version of Hazelcast, such as `5.7.0`.
    pub(crate) server_version: String,
    /// More than 0; it never changes in the life of a cluster.
    pub(crate) partition_count: i32,
    pub(crate) cluster_id: Uuid,
    pub(crate) failover_supported: bool,
    /// Since 2.7; `None` also where the member has no list yet.
    pub(crate) members: Option<MembersView>,
    /// Since 2.7; `None` also where the member has no table yet.
    pub(crate) partitions: Option<PartitionsView>,
}

/// The members of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MembersView {
    /// A later view has a higher one.
    pub(crate) version: i32,
    /// The oldest first.
    pub(crate) members: Vec<MemberInfo>,
}

/// Who owns which partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionsView {
    /// A later view has a higher one.
    pub(crate) version: i32,
    /// Per member the ids of the partitions it owns. Empty before the cluster used a partition.
    pub(crate) partitions: Vec<(Uuid, Vec<i32>)>,
}

/// `Client.yaml`, 0.1 `authentication`. An acceptance without member, cluster id or partition count is an error.
pub(crate) fn decode_authentication(incoming: &Incoming) -> Result<AuthenticationResponse> {
    AUTHENTICATION.decode(incoming, |parameters| {
        let refusal = match parameters.fixed.byte()? {
            0 => return accepted(parameters).map(AuthenticationResponse::Accepted),
            1 => Refusal::CredentialsFailed,
            2 => Refusal::SerializationVersionMismatch,
            3 => Refusal::NotAllowedInCluster,
            other => Refusal::Other(other),
        };
        Ok(AuthenticationResponse::Refused(refusal))
    })
}

/// Reads what follows the status.
fn accepted(parameters: &mut Parameters<'_>) -> Result<Accepted> {
    let Parameters { fixed, frames } = parameters;
    let member_uuid = fixed.uuid()?;
    fixed.byte()?; // serialization version
    let partition_count = fixed.int()?;
    if partition_count <= 0 {
        return Err(Error::protocol(format!(
            "the member claims {partition_count} partitions"
        )));
    }
    let cluster_id = fixed.uuid()?;
    let failover_supported = fixed.boolean()?;
    let address = address(frames)?;
    let server_version = string(frames)?;
    let (members, partitions) = if fixed.is_empty() || frames.is_at_end() {
        (None, None)
    } else {
        let member_list_version = fixed.int()?;
        let partition_list_version = fixed.int()?;
        nullable(frames, |frames| frames.next_value().map(drop))?; // ports of thread-per-core networking
        nullable(frames, |frames| frames.next_value().map(drop))?; // token of thread-per-core networking
        let members = list(frames, member_info)?;
        let partitions = uuid_int_lists(frames)?;
        (
            (member_list_version >= 0).then_some(MembersView {
                version: member_list_version,
                members,
            }),
            (partition_list_version >= 0).then_some(PartitionsView {
                version: partition_list_version,
                partitions,
            }),
        )
    };
    Ok(Accepted {
        address,
        member_uuid,
        server_version,
        partition_count,
        cluster_id,
        failover_supported,
        members,
        partitions,
    })
}

/// `Client.yaml`, 0.3 `addClusterViewListener`, for the connection it is sent on. Its response has no parameters.
pub(crate) fn add_cluster_view_listener_request() -> Result<Request> {
    ADD_CLUSTER_VIEW_LISTENER.request(Route::Any).build()
}

/// An event of the cluster view listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClusterViewEvent {
    Members(MembersView),
    Partitions(PartitionsView),
    /// One that this client has no use for, such as member groups (0x000304) and the cluster's version (0x000305), since 2.8.
    Other,
}

/// `Client.yaml`, 0.3, events `MembersView`, `PartitionsView` and whatever else that listener gets.
pub(crate) fn decode_cluster_view_event(incoming: &Incoming) -> Result<ClusterViewEvent> {
    match incoming.message_type() {
        MEMBERS_VIEW_EVENT => decode_event("MembersView", MEMBERS_VIEW_EVENT, incoming, |parameters| {
            Ok(ClusterViewEvent::Members(MembersView {
                version: parameters.fixed.int()?,
                members: list(&mut parameters.frames, member_info)?,
            }))
        }),
        PARTITIONS_VIEW_EVENT => decode_event("PartitionsView", PARTITIONS_VIEW_EVENT, incoming, |parameters| {
            Ok(ClusterViewEvent::Partitions(PartitionsView {
                version: parameters.fixed.int()?,
                partitions: uuid_int_lists(&mut parameters.frames)?,
            }))
        }),
        _ => Ok(ClusterViewEvent::Other),
    }
}

/// `Client.yaml`, 0.6 `addPartitionLostListener`, for the connection it is sent on. With `local_only`, that member tells of its
/// own partitions alone.
pub(crate) fn add_partition_lost_listener_request(local_only: bool) -> Result<Request> {
    ADD_PARTITION_LOST_LISTENER
        .request(Route::Any)
        .boolean(local_only)
        .build()
}

/// The registration id.
pub(crate) fn decode_add_partition_lost_listener(incoming: &Incoming) -> Result<Uuid> {
    ADD_PARTITION_LOST_LISTENER.decode(incoming, |parameters| parameters.fixed.uuid())
}

/// `Client.yaml`, 0.7 `removePartitionLostListener`, on the connection that it was added on.
pub(crate) fn remove_partition_lost_listener_request(registration_id: Uuid) -> Result<Request> {
    REMOVE_PARTITION_LOST_LISTENER
        .request(Route::Any)
        .uuid(Some(registration_id))
        .build()
}

/// A partition lost replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionLost {
    pub(crate) partition_id: i32,
    /// 0 where the owner was lost, 1 where the first backup was lost as well, and so on.
    pub(crate) lost_backup_count: i32,
    /// The member that tells.
    pub(crate) member: Option<Uuid>,
}

/// `Client.yaml`, 0.6, event `PartitionLost`.
pub(crate) fn decode_partition_lost_event(incoming: &Incoming) -> Result<PartitionLost> {
    decode_event("PartitionLost", PARTITION_LOST_EVENT, incoming, |parameters| {
        Ok(PartitionLost {
            partition_id: parameters.fixed.int()?,
            lost_backup_count: parameters.fixed.int()?,
            member: parameters.fixed.nullable_uuid()?,
        })
    })
}

/// `Client.yaml`, 0.11 `ping`. Its response has no parameters.
pub(crate) fn ping_request() -> Result<Request> {
    PING.request(Route::Any).build()
}

/// `Client.yaml`, 0.15 `localBackupListener`: makes a member tell, on the connection this is sent on, of the backups it made of
/// requests with the backup-aware flag.
pub(crate) fn local_backup_listener_request() -> Result<Request> {
    LOCAL_BACKUP_LISTENER.request(Route::Any).build()
}

/// `Client.yaml`, 0.15, event `backup`: the correlation id of the request that was backed up.
pub(crate) fn decode_backup_event(incoming: &Incoming) -> Result<i64> {
    decode_event("backup", BACKUP_EVENT, incoming, |parameters| parameters.fixed.long())
}
