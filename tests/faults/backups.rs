//! Backups that confirm to the client: what completes a call, what it says when they do not, and when they are asked to.

use std::time::Duration;

use svc::hazelcast::{Client, Config, Error, Kind, Routing};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::member::{Call, Identity, Member};
use crate::support::proxy::Cut;
use crate::support::wire::kind::{BACKUP_LISTENER, MAP_SET, PING};
use crate::{LONG, PATIENCE, client_of, config, connect, eventually};

/// For confirmations that a test gives, or lets be overdue.
const OVERDUE: Duration = Duration::from_millis(100);

/// Settings with a connection to every member, which backups confirm over.
fn confirming(member: &Member, backup_ack_timeout: Duration) -> Config {
    let mut config = config(member.address);
    config.routing = Routing::AllMembers;
    config.backup_ack_timeout = backup_ack_timeout;
    config
}

fn set(client: &Client) -> JoinHandle<Result<(), Error>> {
    let map = client.map("m").with_timeout(LONG);
    tokio::spawn(async move { map.set("k", "v").await })
}

/// A call that its backups are to confirm to the client.
async fn next_confirmed(member: &Member) -> Call {
    let call = member.next(MAP_SET).await;
    assert!(call.backup_aware());
    call
}

/// Waits until the client has taken all that the member sent before.
async fn all_taken(client: &Client, member: &Member) {
    client.ping(member.uuid, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_call_is_done_only_when_each_backup_named_has_confirmed() {
    let member = Member::start(Identity::new()).await;
    let client = connect(confirming(&member, LONG)).await;
    let set = set(&client);
    let call = next_confirmed(&member).await;
    call.answer_owing(2);
    all_taken(&client, &member).await;
    assert!(!set.is_finished(), "no backup has confirmed");
    member.confirm(call.id());
    all_taken(&client, &member).await;
    assert!(!set.is_finished(), "one of two has confirmed");
    member.confirm(call.id());
    set.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_confirmation_may_come_before_the_answer() {
    let member = Member::start(Identity::new()).await;
    let client = connect(confirming(&member, LONG)).await;
    let set = set(&client);
    let call = next_confirmed(&member).await;
    member.confirm(call.id());
    all_taken(&client, &member).await;
    assert!(!set.is_finished(), "the member has not answered");
    call.answer_owing(1);
    set.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_confirmation_of_no_call_is_ignored() {
    let member = Member::start(Identity::new()).await;
    let client = connect(confirming(&member, LONG)).await;
    for id in [0, -1, i64::MAX, i64::MIN] {
        member.confirm(id);
    }
    let set = set(&client);
    let call = next_confirmed(&member).await;
    member.confirm(call.id() + 1);
    call.answer_owing(1);
    all_taken(&client, &member).await;
    assert!(!set.is_finished());
    member.confirm(call.id());
    set.await.unwrap().unwrap();
    member.confirm(call.id());
    all_taken(&client, &member).await;
    assert_eq!(member.accepted(), 1);
}

#[tokio::test]
async fn a_call_whose_backups_are_overdue_is_indeterminate() {
    let member = Member::start(Identity::new()).await;
    let client = connect(confirming(&member, OVERDUE)).await;
    let set = set(&client);
    let began = Instant::now();
    next_confirmed(&member).await.answer_owing(1);
    let error = set.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Indeterminate);
    assert!(error.outcome_unknown());
    assert!((OVERDUE..PATIENCE).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(member.received(MAP_SET).len(), 1, "not repeated without redo");
}

#[tokio::test]
async fn a_call_whose_backups_are_overdue_counts_as_done_where_the_user_says_so() {
    let member = Member::start(Identity::new()).await;
    let mut settings = confirming(&member, OVERDUE);
    settings.fail_on_indeterminate = false;
    let client = connect(settings).await;
    let set = set(&client);
    let began = Instant::now();
    next_confirmed(&member).await.answer_owing(1);
    set.await.unwrap().unwrap();
    assert!((OVERDUE..PATIENCE).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_call_whose_backups_are_overdue_is_repeated_with_redo() {
    let member = Member::start(Identity::new()).await;
    let mut settings = confirming(&member, OVERDUE);
    settings.redo_operations = true;
    let client = connect(settings).await;
    let set = set(&client);
    let first = next_confirmed(&member).await;
    first.answer_owing(1);
    let second = next_confirmed(&member).await;
    assert_ne!(first.id(), second.id());
    // Too late: this confirms the first try and no other.
    member.confirm(first.id());
    second.answer_owing(1);
    all_taken(&client, &member).await;
    assert!(!set.is_finished());
    member.confirm(second.id());
    set.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_dead_member_owes_is_not_waited_for() {
    for fail_on_indeterminate in [true, false] {
        let members = Member::start_cluster(2).await;
        let mut settings = confirming(&members[0], LONG);
        settings.fail_on_indeterminate = fail_on_indeterminate;
        let client = connect(settings).await;
        let set = set(&client);
        // Whichever owns the key; the other one has its backup.
        let (call, other) = tokio::select! {
            call = next_confirmed(&members[0]) => (call, &members[1]),
            call = next_confirmed(&members[1]) => (call, &members[0]),
        };
        call.answer_owing(1);
        let owner = members.iter().find(|member| member.uuid != other.uuid).unwrap();
        all_taken(&client, owner).await;
        assert!(!set.is_finished());
        let began = Instant::now();
        other.end_all(Cut::Rst);
        let outcome = set.await.unwrap();
        assert!(began.elapsed() < PATIENCE);
        assert_eq!(
            outcome.map_err(|error| error.kind()),
            if fail_on_indeterminate {
                Err(Kind::Indeterminate)
            } else {
                Ok(())
            }
        );
    }
}

#[tokio::test]
async fn what_a_member_owes_that_left_the_cluster_is_not_waited_for() {
    let members = Member::start_cluster(2).await;
    let client = connect(confirming(&members[0], LONG)).await;
    let [stays, leaves] = <[Member; 2]>::try_from(members).ok().unwrap();
    let gone = leaves.uuid;
    leaves.stop().await;
    // Until a ping of it is not even written.
    let unreachable = Kind::TimedOut { outcome_unknown: false };
    while client.ping(gone, OVERDUE).await.unwrap_err().kind() != unreachable {}
    // The cluster has not dropped it yet: the member that stays still counts on its confirmation.
    let set = set(&client);
    next_confirmed(&stays).await.answer_owing(1);
    all_taken(&client, &stays).await;
    assert!(!set.is_finished());
    stays.publish(&[(stays.uuid, stays.address)]);
    let began = Instant::now();
    assert_eq!(set.await.unwrap().unwrap_err().kind(), Kind::Indeterminate);
    assert!(began.elapsed() < PATIENCE);
}

#[tokio::test]
async fn backups_are_asked_to_confirm_only_once_every_member_is_connected() {
    let member = Member::start(Identity::new()).await;
    let away = Member::start(member.identity().sibling()).await;
    let (identity, address) = (away.identity().clone(), away.address);
    away.stop().await;
    member.publish(&[(member.uuid, member.address), (identity.member, address)]);
    let client = connect(confirming(&member, LONG)).await;
    eventually("both members are known", || client.members().len() == 2).await;
    assert_eq!(member.received(BACKUP_LISTENER).len(), 1);

    // The other's partitions too are asked for here, as long as it is away.
    let first = set(&client);
    let call = member.next(MAP_SET).await;
    assert!(!call.backup_aware());
    call.answer();
    first.await.unwrap().unwrap();

    let back = Member::start_at(address, identity).await;
    back.publish(&[(member.uuid, member.address), (back.uuid, address)]);
    all_taken(&client, &back).await;
    assert_eq!(back.received(BACKUP_LISTENER).len(), 1);
    assert_eq!(back.received(PING).len(), 1);
    let second = set(&client);
    let call = tokio::select! {
        call = member.next(MAP_SET) => call,
        call = back.next(MAP_SET) => call,
    };
    assert!(call.backup_aware());
    call.answer();
    second.await.unwrap().unwrap();
}

#[tokio::test]
async fn over_a_single_connection_backups_confirm_to_their_members() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let set = set(&client);
    let call = member.next(MAP_SET).await;
    assert!(!call.backup_aware());
    call.answer();
    set.await.unwrap().unwrap();
    assert!(member.received(BACKUP_LISTENER).is_empty());
}
