//! What the client knows of the cluster: an immutable snapshot, replaced whole by the supervisor.
//!
//! Callers take the snapshot that is current, and hold no lock while they use it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::codec::types::MemberInfo;
use super::connection::Connection;

/// How long backups are still expected to confirm to the client after a listed member became unreachable from here.
///
/// Most such members die, and the cluster drops them sooner. One that stays in the cluster but cannot be reached would
/// confirm to nobody, and each call that it backs would fail as indeterminate: then the members wait for each other again.
const UNREACHABLE_GRACE: Duration = Duration::from_secs(3);

/// A member of the cluster, as the cluster lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member's own id, new at each of its starts.
    pub uuid: Uuid,
    /// Host name or address that the member gives to clients.
    pub host: String,
    /// Port that the member gives to clients.
    pub port: u16,
}

impl Member {
    /// `host:port`.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl From<MemberInfo> for Member {
    fn from(info: MemberInfo) -> Self {
        Self {
            uuid: info.uuid,
            host: info.address.host,
            port: info.address.port,
        }
    }
}

/// One moment of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Changes when all members died and a new cluster of the same name came up: one without the old data.
    pub(super) cluster_id: Option<Uuid>,
    pub(super) partition_count: i32,
    pub(super) members: Vec<Member>,
    /// -1 where the next list is taken whatever its version.
    members_version: i32,
    /// The owner of each partition, where it is known.
    owners: Arc<[Option<Uuid>]>,
    owners_version: i32,
    pub(super) connections: Vec<Arc<Connection>>,
    backups: BackupAcks,
    /// Why there is no connection, where there is none.
    pub(super) problem: Option<Arc<str>>,
    /// Which listed members are not where the cluster says, where there are any.
    pub(super) warning: Option<Arc<str>>,
}

/// Whether backups confirm to the client.
#[derive(Clone, Copy, Debug, Default)]
struct BackupAcks {
    expected: bool,
    unreachable_since: Option<Instant>,
}

impl View {
    /// The connection for a request: the owner's of this partition, or else any, which passes the request on.
    /// `turn` spreads requests without a partition over the members.
    pub(super) fn connection_for(&self, partition_id: i32, turn: usize) -> Option<&Arc<Connection>> {
        let owner = usize::try_from(partition_id)
            .ok()
            .and_then(|id| self.owners.get(id).copied().flatten());
        owner
            .and_then(|owner| self.connection_to(owner))
            .or_else(|| self.connections.get(turn.checked_rem(self.connections.len())?))
    }

    pub(super) fn connection_to(&self, member: Uuid) -> Option<&Arc<Connection>> {
        self.connections.iter().find(|connection| connection.member == member)
    }

    /// The member of this id, as the cluster lists it.
    pub(super) fn member(&self, uuid: Uuid) -> Option<&Member> {
        self.members.iter().find(|listed| listed.uuid == uuid)
    }

    pub(super) fn is_member(&self, uuid: Uuid) -> bool {
        self.member(uuid).is_some()
    }

    /// Whether every listed member can be reached.
    pub(super) fn is_complete(&self) -> bool {
        !self.members.is_empty()
            && self
                .members
                .iter()
                .all(|member| self.connection_to(member.uuid).is_some())
    }

    /// Whether a call on this connection asks its backups to confirm to the client.
    pub(super) fn expects_backup_acks(&self, connection: &Connection) -> bool {
        connection.backup_acks && self.backups.expected
    }

    /// A cluster that was not known, or another one than before: nothing of the old one holds.
    pub(super) fn enter_cluster(&mut self, cluster_id: Uuid, partition_count: i32) {
        self.cluster_id = Some(cluster_id);
        self.partition_count = partition_count;
        self.members.clear();
        self.owners = Arc::default();
        self.backups = BackupAcks::default();
        self.expect_new_versions();
    }

    /// Another member will send the views now; its versions need not be later than those of the one before.
    pub(super) fn expect_new_versions(&mut self) {
        self.members_version = -1;
        self.owners_version = -1;
    }

    /// Takes a newer member list. Returns whether it was taken.
    pub(super) fn apply_members(&mut self, version: i32, members: Vec<Member>) -> bool {
        let newer = version > self.members_version && !members.is_empty();
        if newer {
            self.members_version = version;
            self.members = members;
        }
        newer
    }

    /// Takes a newer partition table. Returns whether it was taken.
    pub(super) fn apply_partitions(&mut self, version: i32, table: &[(Uuid, Vec<i32>)]) -> bool {
        let newer = version > self.owners_version && !table.is_empty();
        if newer {
            self.owners_version = version;
            let mut owners = vec![None; usize::try_from(self.partition_count).unwrap_or_default()];
            for (member, partitions) in table {
                for partition in partitions {
                    if let Some(owner) = usize::try_from(*partition).ok().and_then(|id| owners.get_mut(id)) {
                        *owner = Some(*member);
                    }
                }
            }
            self.owners = owners.into();
        }
        newer
    }

    /// Decides anew whether backups confirm to the client. Returns whether that changed.
    pub(super) fn review_backup_acks(&mut self, now: Instant) -> bool {
        let before = self.backups.expected;
        if self.is_complete() {
            self.backups = BackupAcks {
                expected: true,
                unreachable_since: None,
            };
        } else {
            let since = *self.backups.unreachable_since.get_or_insert(now);
            self.backups.expected &= now.duration_since(since) < UNREACHABLE_GRACE;
        }
        before != self.backups.expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let mut view = View::default();
        view.enter_cluster(Uuid::from_u128(9), 4);
        view
    }

    fn member(id: u128) -> Member {
        Member {
            uuid: Uuid::from_u128(id),
            host: "127.0.0.1".into(),
            port: 5701,
        }
    }

    #[test]
    fn a_member_list_of_a_lower_or_equal_version_is_not_taken() {
        let mut view = view();
        assert!(view.apply_members(3, vec![member(1)]));
        assert!(!view.apply_members(3, vec![member(2)]));
        assert!(!view.apply_members(2, vec![member(2)]));
        assert_eq!(view.members, [member(1)]);
        assert!(view.apply_members(4, vec![member(2)]));
        assert_eq!(view.members, [member(2)]);
    }

    #[test]
    fn an_empty_view_is_ignored() {
        let mut view = view();
        view.apply_members(1, vec![member(1)]);
        view.apply_partitions(1, &[(Uuid::from_u128(1), vec![0, 1, 2, 3])]);
        assert!(!view.apply_members(2, vec![]));
        assert!(!view.apply_partitions(2, &[]));
        assert_eq!(view.members, [member(1)]);
        assert_eq!(view.owners[3], Some(Uuid::from_u128(1)));
    }

    #[test]
    fn a_new_sender_of_views_may_count_from_the_start() {
        let mut view = view();
        view.apply_members(30, vec![member(1)]);
        view.apply_partitions(30, &[(Uuid::from_u128(1), vec![0])]);
        view.expect_new_versions();
        assert!(view.apply_members(1, vec![member(2)]));
        assert!(view.apply_partitions(1, &[(Uuid::from_u128(2), vec![0])]));
        assert_eq!(view.owners[0], Some(Uuid::from_u128(2)));
    }

    #[test]
    fn partitions_outside_the_table_are_ignored() {
        let mut view = view();
        assert!(view.apply_partitions(1, &[(Uuid::from_u128(1), vec![-1, 4, i32::MAX, 2])]));
        assert_eq!(&*view.owners, [None, None, Some(Uuid::from_u128(1)), None]);
    }

    #[test]
    fn another_cluster_starts_from_nothing() {
        let mut view = view();
        view.apply_members(7, vec![member(1)]);
        view.enter_cluster(Uuid::from_u128(10), 8);
        assert!(view.members.is_empty());
        assert!(view.apply_members(1, vec![member(2)]));
    }

    #[test]
    fn backups_confirm_to_members_when_one_stays_out_of_reach() {
        let mut view = view();
        view.backups.expected = true;
        view.apply_members(1, vec![member(1)]);
        let died = Instant::now();
        assert!(!view.review_backup_acks(died));
        assert!(view.backups.expected, "a member that has just died");
        assert!(view.review_backup_acks(died + UNREACHABLE_GRACE));
        assert!(!view.backups.expected);
    }
}
