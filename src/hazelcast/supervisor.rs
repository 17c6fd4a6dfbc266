//! The task behind a client: keeps its connections and its view of the cluster.
//!
//! It owns every other task of the client, and ends them when it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout_at};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::astray::{self, Astray};
use super::attempts::{Schedule, Target};
use super::cluster::{Member, View};
use super::codec::client::{self, Accepted, ClusterViewEvent, MembersView, PartitionsView};
use super::config::{Config, Routing};
use super::connection::{Connection, Established, Heartbeat};
use super::dial::{Dial, Dialed};
use super::error::{Error, Kind, Result};
use super::message::{Incoming, Request};
use super::outbox::Outgoing;
use super::pending::{ConnectionId, PendingCalls};

/// How often overdue confirmations and due attempts are looked for.
const TICK: Duration = Duration::from_millis(50);

/// Views that may wait to be taken. The cluster sends one per change, and some hundred while partitions move.
const VIEW_EVENTS: usize = 1024;

/// How long a member may take to register for its views a client that it answers otherwise.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long connections may take to end after they were told to.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Supervisor {
    config: Arc<Config>,
    endpoints: Vec<(String, u16)>,
    client_uuid: Uuid,
    calls: Arc<PendingCalls>,
    view: View,
    published: watch::Sender<Arc<View>>,
    next_connection: u64,
    connections: JoinSet<(ConnectionId, Error)>,
    attempts: Schedule,
    dials: JoinSet<Dialed>,
    astray: Astray,
    views: Option<Views>,
}

/// The one connection on which the cluster's views come.
struct Views {
    connection: ConnectionId,
    request: Arc<Request>,
    events: mpsc::Receiver<Incoming>,
    registration: oneshot::Receiver<Result<Incoming>>,
    /// When the registration must be answered.
    deadline: Instant,
    registered: bool,
}

impl Supervisor {
    pub(super) fn new(
        config: Arc<Config>,
        endpoints: Vec<(String, u16)>,
        calls: Arc<PendingCalls>,
        published: watch::Sender<Arc<View>>,
    ) -> Self {
        Self {
            attempts: Schedule::new(&config),
            config,
            endpoints,
            client_uuid: Uuid::new_v4(),
            calls,
            view: View::default(),
            published,
            next_connection: 0,
            connections: JoinSet::new(),
            dials: JoinSet::new(),
            astray: Astray::default(),
            views: None,
        }
    }

    /// Runs until `stop` is sent or dropped. Then every connection is closed and every call on its way fails.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut tick = interval(TICK);
        self.attempts.aim(Target::Anyone, Instant::now());
        loop {
            tokio::select! {
                _ = &mut stop => break,
                Some(Ok((connection, reason))) = self.connections.join_next() => self.lost(connection, &reason),
                Some(Ok(dialed)) = self.dials.join_next() => self.dialed(dialed),
                event = next_view(&mut self.views) => self.viewed(event),
                _ = tick.tick() => {
                    self.calls.sweep();
                    if self.view.review_backup_acks(Instant::now()) {
                        self.publish();
                    }
                }
            }
            self.dial_due();
        }
        self.close().await;
    }

    async fn close(mut self) {
        self.dials.shutdown().await;
        for connection in &self.view.connections {
            connection.close();
        }
        self.view.connections.clear();
        self.publish();
        let ended = async { while self.connections.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_TIMEOUT, ended).await.is_err() {
            self.connections.shutdown().await;
        }
    }

    fn publish(&mut self) {
        self.view.review_backup_acks(Instant::now());
        self.view.warning = self.astray.warning(&self.view);
        self.published.send_replace(Arc::new(self.view.clone()));
    }
}

// === Connecting ===

impl Supervisor {
    fn dial_due(&mut self) {
        for target in self.attempts.take_due(Instant::now()) {
            let dial = Dial::new(target, &self.endpoints, &self.view);
            let (client_uuid, config) = (self.client_uuid, Arc::clone(&self.config));
            self.dials.spawn(async move { dial.run(client_uuid, &config).await });
        }
    }

    fn dialed(&mut self, dialed: Dialed) {
        let Dialed {
            target,
            missed,
            outcome,
        } = dialed;
        let admitted = outcome.and_then(|(established, accepted)| {
            let (member, address) = (established.member, established.address);
            self.admit(established, accepted).map(|()| (member, address))
        });
        match admitted {
            Ok((member, address)) => {
                self.attempts.succeeded(target, Instant::now());
                match missed {
                    Some(cause) if !self.is_listed_at(member, address) => self.missed(member, &cause, true),
                    _ => self.astray.reached(member),
                }
            }
            Err(error) => self.failed(target, &error),
        }
        self.publish();
    }

    /// Takes a connection in, if it leads to the cluster that the others lead to.
    fn admit(&mut self, established: Established, accepted: Accepted) -> Result<()> {
        self.enter_cluster(&established, &accepted)?;
        if self.view.connection_to(established.member).is_some() {
            // Two ways led to one member. One connection is enough.
            return Ok(());
        }
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let heartbeat = Heartbeat {
            interval: self.config.heartbeat_interval,
            timeout: self.config.heartbeat_timeout,
        };
        let (connection, driver) = established.into_connection(id, heartbeat);
        info!(cluster = %self.config.cluster_name, member = %connection.member, address = %connection.address,
            version = accepted.server_version, "connected to a Hazelcast member");
        let calls = Arc::clone(&self.calls);
        self.connections.spawn(async move { (id, driver.run(&calls).await) });
        self.view.connections.push(Arc::new(connection));
        self.view.problem = None;
        // One member at a time is listened to: each counts the versions of its partition tables for itself.
        if self.views.is_none() {
            let members = accepted.members.map(ClusterViewEvent::Members);
            let partitions = accepted.partitions.map(ClusterViewEvent::Partitions);
            for view in members.into_iter().chain(partitions) {
                self.apply(view);
            }
        }
        if self.view.connections.len() > 1 {
            // The member may have left while it was dialed.
            self.follow_members();
        }
        self.watch_views();
        Ok(())
    }

    /// Adopts the cluster that a connection leads to where there is none yet, or all connections to the last one are gone.
    fn enter_cluster(&mut self, established: &Established, accepted: &Accepted) -> Result<()> {
        if self.view.cluster_id != Some(accepted.cluster_id) {
            if !self.view.connections.is_empty() {
                let message = format!("{} belongs to another cluster of this name", established.address);
                return Err(Error::new(Kind::Authentication, message));
            }
            if self.view.cluster_id.is_some() {
                warn!(cluster = %self.config.cluster_name, cluster_id = %accepted.cluster_id,
                    "the Hazelcast cluster was replaced by a new one, without the old one's data");
            }
            self.view.enter_cluster(accepted.cluster_id, accepted.partition_count);
        } else if self.view.partition_count != accepted.partition_count {
            let message = format!(
                "{} counts {} partitions, the rest of its cluster {}",
                established.address, accepted.partition_count, self.view.partition_count
            );
            return Err(Error::protocol(message));
        }
        Ok(())
    }

    fn failed(&mut self, target: Target, error: &Error) {
        if self.view.connections.is_empty() {
            self.view.problem = Some(format!("{error:#}").into());
        }
        let is_first = self.attempts.failed(target, Instant::now());
        match target {
            Target::Member(uuid) if !self.astray.is_lost(uuid) => self.missed(uuid, error, false),
            _ if is_first => {
                warn!(cluster = %self.config.cluster_name, ?target, %error,
                    "cannot connect to a Hazelcast member, trying again until it answers");
            }
            _ => debug!(cluster = %self.config.cluster_name, ?target, %error, "still no connection"),
        }
    }

    /// Whether the address that led to a member is the one that it is listed under, by number: then a first try there was
    /// only too slow.
    fn is_listed_at(&self, uuid: Uuid, address: SocketAddr) -> bool {
        let listed = self.view.member(uuid).map(Member::address);
        listed.is_some_and(|listed| listed == address.to_string())
    }

    /// The member was not reached at the address that it is listed under, but perhaps elsewhere.
    fn missed(&mut self, uuid: Uuid, cause: &Error, elsewhere: bool) {
        let Some(member) = self.view.member(uuid) else {
            return;
        };
        let (cluster, address) = (&self.config.cluster_name, member.address());
        if self.astray.missed(member, cause, elsewhere, Instant::now()) {
            warn!(%cluster, member = %uuid, address, error = %cause,
                "the cluster lists a Hazelcast member at an address where this client has never reached it; \
                 if the member runs, {}", astray::ADVICE);
        } else {
            debug!(%cluster, member = %uuid, address, error = %cause, "not reached at its address");
        }
    }

    fn lost(&mut self, id: ConnectionId, reason: &Error) {
        let Some(at) = self.view.connections.iter().position(|connection| connection.id == id) else {
            return;
        };
        let connection = self.view.connections.swap_remove(at);
        warn!(cluster = %self.config.cluster_name, member = %connection.member, address = %connection.address, %reason,
            "lost the connection to a Hazelcast member");
        if self.views.as_ref().is_some_and(|views| views.connection == id) {
            self.views = None;
        }
        if self.view.connections.is_empty() {
            self.view.problem = Some(format!("{}: {reason:#}", connection.address).into());
            self.attempts.keep_members(|_| false);
            self.attempts.aim(Target::Anyone, Instant::now());
        } else if self.config.routing == Routing::AllMembers && self.view.is_member(connection.member) {
            self.attempts.aim(Target::Member(connection.member), Instant::now());
        }
        self.watch_views();
        self.publish();
    }
}

// === Views ===

impl Supervisor {
    /// Asks one connection for the cluster's views, unless one is asked already.
    fn watch_views(&mut self) {
        if self.views.is_some() {
            return;
        }
        let Some(connection) = self.view.connections.first() else {
            return;
        };
        match ask_for_views(connection) {
            Ok(views) => {
                self.views = Some(views);
                self.view.expect_new_versions();
            }
            Err(reason) => {
                // It is ending, and then another one is asked.
                debug!(address = %connection.address, %reason, "cannot ask for the cluster's views");
                connection.close();
            }
        }
    }

    fn viewed(&mut self, event: Result<Option<Incoming>>) {
        let changed = event.and_then(|message| match message {
            Some(message) => client::decode_cluster_view_event(&message).map(|event| self.apply(event)),
            None => Ok(false),
        });
        match changed {
            Ok(true) => self.publish(),
            Ok(false) => {}
            Err(reason) => {
                let Some(views) = self.views.take() else { return };
                warn!(cluster = %self.config.cluster_name, %reason, "the Hazelcast member does not send its views");
                if let Some(connection) = self.view.connections.iter().find(|c| c.id == views.connection) {
                    connection.close();
                }
            }
        }
    }

    fn apply(&mut self, event: ClusterViewEvent) -> bool {
        match event {
            ClusterViewEvent::Members(MembersView { version, members }) => {
                let before: Vec<Uuid> = self.view.members.iter().map(|member| member.uuid).collect();
                let members = members.into_iter().map(Member::from).collect();
                let taken = self.view.apply_members(version, members);
                if taken {
                    let view = &self.view;
                    self.astray.keep_members(|uuid| view.is_member(uuid));
                    if before.iter().any(|member| !self.view.is_member(*member)) {
                        self.calls.member_left();
                    }
                    self.follow_members();
                }
                taken
            }
            ClusterViewEvent::Partitions(PartitionsView { version, partitions }) => {
                self.view.apply_partitions(version, &partitions)
            }
            ClusterViewEvent::Other => false,
        }
    }

    /// One connection to each member of the list, none to others.
    fn follow_members(&mut self) {
        if self.config.routing == Routing::SingleMember || self.view.members.is_empty() {
            return;
        }
        let view = &self.view;
        for connection in view
            .connections
            .iter()
            .filter(|connection| !view.is_member(connection.member))
        {
            connection.close();
        }
        self.attempts.keep_members(|uuid| view.is_member(uuid));
        let missing: Vec<Uuid> = view
            .members
            .iter()
            .map(|member| member.uuid)
            .filter(|uuid| view.connection_to(*uuid).is_none())
            .collect();
        for uuid in missing {
            self.attempts.aim(Target::Member(uuid), Instant::now());
        }
    }
}

fn ask_for_views(connection: &Connection) -> Result<Views> {
    let (sink, events) = mpsc::channel(VIEW_EVENTS);
    let (reply, registration) = oneshot::channel();
    let request = Arc::new(client::add_cluster_view_listener_request()?);
    connection.send_at_once(Outgoing {
        request: Arc::clone(&request),
        partition_id: -1,
        backup_aware: false,
        reply,
        events: Some(sink),
    })?;
    Ok(Views {
        connection: connection.id,
        request,
        events,
        registration,
        deadline: Instant::now() + REGISTRATION_TIMEOUT,
        registered: false,
    })
}

/// The next view, or `None` when the member has taken the request for views. Pending while nobody is asked.
async fn next_view(views: &mut Option<Views>) -> Result<Option<Incoming>> {
    let Some(views) = views else {
        return std::future::pending().await;
    };
    tokio::select! {
        registered = timeout_at(views.deadline, &mut views.registration), if !views.registered => {
            views.registered = true;
            match registered {
                Ok(Ok(answer)) => answer.and_then(|answer| views.request.check_answer(&answer)).map(|()| None),
                // The connection's task ended without a word; the supervisor is told of that elsewhere.
                Ok(Err(_)) => Ok(None),
                Err(_) => Err(Error::timed_out(views.request.operation, REGISTRATION_TIMEOUT, false)),
            }
        }
        event = views.events.recv() => match event {
            Some(event) => Ok(Some(event)),
            // The connection ended, and with it the listener.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{advance, pause, timeout};

    use super::super::codec::types::{Address, MemberInfo, MemberVersion};
    use super::super::inbox::Inbox;
    use super::*;

    const CLUSTER: Uuid = Uuid::from_u128(9);
    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);
    const C: Uuid = Uuid::from_u128(3);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn supervisor() -> Supervisor {
        let config = Arc::new(Config::new("dev", ["127.0.0.1:5701"]));
        let calls = Arc::new(PendingCalls::new(PATIENCE, true));
        let (published, _) = watch::channel(Arc::new(View::default()));
        Supervisor::new(config, Vec::new(), calls, published)
    }

    /// A connection to a member that says nothing, and the member's end of it.
    async fn connection_to(member: Uuid) -> (Established, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let established = Established {
            stream: stream.unwrap(),
            inbox: Inbox::new(1 << 20),
            address,
            member,
            backup_acks: true,
        };
        (established, accepted.unwrap().0)
    }

    fn accepted(member_uuid: Uuid, members: Option<MembersView>, partitions: Option<PartitionsView>) -> Accepted {
        Accepted {
            address: address(),
            member_uuid,
            server_version: "5.7.0".into(),
            partition_count: 2,
            cluster_id: CLUSTER,
            failover_supported: false,
            members,
            partitions,
        }
    }

    fn address() -> Address {
        Address {
            host: "127.0.0.1".into(),
            port: 5701,
        }
    }

    fn members(version: i32, uuids: &[Uuid]) -> MembersView {
        let info = |uuid: &Uuid| MemberInfo {
            address: address(),
            uuid: *uuid,
            lite_member: false,
            version: MemberVersion {
                major: 5,
                minor: 7,
                patch: 0,
            },
        };
        MembersView {
            version,
            members: uuids.iter().map(info).collect(),
        }
    }

    fn all_owned_by(owner: Uuid, version: i32) -> PartitionsView {
        PartitionsView {
            version,
            partitions: vec![(owner, vec![0, 1])],
        }
    }

    fn reached(target: Target, established: Established, accepted: Accepted) -> Dialed {
        Dialed {
            target,
            missed: None,
            outcome: Ok((established, accepted)),
        }
    }

    /// An attempt at a member's listed address, where nobody is.
    fn missed(member: Uuid) -> Dialed {
        Dialed {
            target: Target::Member(member),
            missed: None,
            outcome: Err(Error::new(Kind::NotWritten, "connection refused")),
        }
    }

    fn owner(supervisor: &Supervisor) -> Uuid {
        supervisor.view.connection_for(0, 0).unwrap().member
    }

    #[tokio::test]
    async fn versions_of_partition_tables_are_compared_for_one_member_alone() {
        let mut supervisor = supervisor();
        let (to_a, _a) = connection_to(A).await;
        let (to_b, _b) = connection_to(B).await;
        let both = members(2, &[A, B]);
        let first = accepted(A, Some(both), Some(all_owned_by(A, 3)));
        supervisor.dialed(reached(Target::Anyone, to_a, first));
        assert_eq!(owner(&supervisor), A);
        supervisor.apply(ClusterViewEvent::Partitions(all_owned_by(A, 3)));
        // The second member has sent many more tables in its life.
        let second = accepted(B, None, Some(all_owned_by(A, 50)));
        supervisor.dialed(reached(Target::Member(B), to_b, second));
        supervisor.apply(ClusterViewEvent::Partitions(all_owned_by(B, 4)));
        assert_eq!(owner(&supervisor), B);
    }

    #[tokio::test]
    async fn a_listed_member_that_was_never_reached_is_told_of_and_tried_again() {
        let mut supervisor = supervisor();
        let (to_a, _a) = connection_to(A).await;
        supervisor.dialed(reached(
            Target::Anyone,
            to_a,
            accepted(A, Some(members(1, &[A, B])), None),
        ));
        assert_eq!(supervisor.attempts.take_due(Instant::now()), [Target::Member(B)]);
        supervisor.dialed(missed(B));
        assert_eq!(supervisor.view.warning, None, "it may have just joined");
        pause();
        advance(Duration::from_secs(5)).await;
        supervisor.dialed(missed(B));
        let warning = supervisor.view.warning.clone().unwrap();
        assert!(warning.contains(&B.to_string()), "{warning}");
        assert!(!warning.contains(&A.to_string()), "{warning}");
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(supervisor.attempts.take_due(later), [Target::Member(B)]);
        // As long as it is listed.
        supervisor.apply(ClusterViewEvent::Members(members(2, &[A])));
        supervisor.publish();
        assert_eq!(supervisor.view.warning, None);
    }

    #[tokio::test]
    async fn a_member_that_was_reached_since_it_was_listed_is_lost_and_no_address_is_blamed() {
        let mut supervisor = supervisor();
        let (to_a, _a) = connection_to(A).await;
        let (to_b, _b) = connection_to(B).await;
        supervisor.dialed(reached(
            Target::Anyone,
            to_a,
            accepted(A, Some(members(1, &[A, B])), None),
        ));
        supervisor.dialed(missed(B));
        supervisor.dialed(reached(Target::Member(B), to_b, accepted(B, None, None)));
        assert_eq!(supervisor.view.warning, None);
        // The first one, which a configured address led to, and one that its listed address led to.
        for (member, id) in [(A, 0), (B, 1)] {
            supervisor.lost(ConnectionId(id), &Error::new(Kind::NotWritten, "reset"));
            supervisor.dialed(missed(member));
            assert_eq!(supervisor.view.warning, None);
        }
    }

    #[tokio::test]
    async fn a_member_that_a_configured_address_led_to_is_used_and_its_listed_address_told_of() {
        let mut supervisor = supervisor();
        let (to_a, _a) = connection_to(A).await;
        let (to_b, _b) = connection_to(B).await;
        let at = to_b.address.to_string();
        supervisor.dialed(reached(
            Target::Anyone,
            to_a,
            accepted(A, Some(members(1, &[A, B])), None),
        ));
        supervisor.dialed(Dialed {
            missed: missed(B).outcome.err(),
            ..reached(Target::Member(B), to_b, accepted(B, None, None))
        });
        assert!(supervisor.view.connection_to(B).is_some());
        let warning = supervisor.view.warning.clone().unwrap();
        let used = format!("it is used through {at}");
        assert!(warning.contains(&B.to_string()) && warning.contains(&used), "{warning}");
    }

    #[tokio::test]
    async fn a_listed_address_that_was_only_too_slow_is_not_told_of() {
        let mut supervisor = supervisor();
        let (to_b, _b) = connection_to(B).await;
        let mut list = members(1, &[B]);
        for info in &mut list.members {
            info.address.port = to_b.address.port();
        }
        supervisor.dialed(Dialed {
            missed: missed(B).outcome.err(),
            ..reached(Target::Member(B), to_b, accepted(B, Some(list), None))
        });
        assert_eq!(supervisor.view.warning, None);
    }

    #[tokio::test]
    async fn a_member_that_left_while_it_was_dialed_is_not_kept() {
        let mut supervisor = supervisor();
        let (to_a, _a) = connection_to(A).await;
        supervisor.dialed(reached(
            Target::Anyone,
            to_a,
            accepted(A, Some(members(5, &[A, B])), None),
        ));
        let (to_c, _c) = connection_to(C).await;
        let second = accepted(C, Some(members(4, &[A, B, C])), None);
        supervisor.dialed(reached(Target::Member(C), to_c, second));
        let ended = timeout(PATIENCE, supervisor.connections.join_next()).await.unwrap();
        let (id, reason) = ended.unwrap().unwrap();
        supervisor.lost(id, &reason);
        assert!(supervisor.view.connection_to(C).is_none());
        assert!(supervisor.view.connection_to(A).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_does_not_register_the_client_for_its_views_is_given_up() {
        let (_sink, events) = mpsc::channel(1);
        let (_reply, registration) = oneshot::channel();
        let mut views = Some(Views {
            connection: ConnectionId(0),
            request: Arc::new(client::add_cluster_view_listener_request().unwrap()),
            events,
            registration,
            deadline: Instant::now() + REGISTRATION_TIMEOUT,
            registered: false,
        });
        let told = timeout(2 * REGISTRATION_TIMEOUT, next_view(&mut views)).await.unwrap();
        assert!(told.unwrap_err().is_timeout());
    }
}
