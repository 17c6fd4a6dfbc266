//! The five rules for another try, and the ids that keep one try from passing for another.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use svc::hazelcast::{Client, Config, Error, Kind, Notice};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::member::{Call, Identity, Member};
use crate::support::proxy::{Cut, Fault, Flow, Proxy};
use crate::support::wire::kind::{
    CLUSTER_VIEW_LISTENER, MAP_GET, MAP_SET, MAP_SIZE, PING, QUEUE_DRAIN, QUEUE_ITEM_LISTENER, QUEUE_OFFER, QUEUE_POLL,
};
use crate::{LONG, PATIENCE, client_of, config, connect, eventually, proxy_before, string_data};

/// Codes of errors that pass by themselves.
const RETRYABLE: [i32; 11] = [8, 19, 22, 33, 39, 46, 47, 53, 62, 82, 90];

/// Where a request or its answer can be lost after the request was written.
const LOST: [Fault; 7] = [
    Fault::BeforeRequest(Cut::Rst),
    Fault::BeforeRequest(Cut::Fin),
    Fault::InRequest(30, Cut::Rst),
    Fault::BeforeAnswer(Cut::Rst),
    Fault::BeforeAnswer(Cut::Fin),
    Fault::InAnswer(10, Cut::Rst),
    Fault::InAnswer(10, Cut::Fin),
];

fn redo(mut config: Config) -> Config {
    config.redo_operations = true;
    config
}

fn set(client: &Client, key: &str) -> JoinHandle<Result<(), Error>> {
    let (map, key) = (client.map("m"), key.to_owned());
    tokio::spawn(async move { map.set(key.as_str(), "v").await })
}

fn get(client: &Client) -> JoinHandle<Result<Option<String>, Error>> {
    let map = client.map("m");
    tokio::spawn(async move { Ok(map.get("k").await?.and_then(|value| value.as_str().map(str::to_owned))) })
}

/// A member that answers everything, a proxy before it, and a client of the proxy.
async fn behind_proxy(change: impl FnOnce(Config) -> Config) -> (Member, Proxy, Client) {
    let member = Member::start(Identity::new()).await;
    member.on_call(|call| call.answer());
    let proxy = proxy_before(&member).await;
    let client = connect(change(config(proxy.address()))).await;
    (member, proxy, client)
}

// === rule 1: bound to one connection ===

#[tokio::test]
async fn rule_1_a_registration_whose_connection_died_is_a_new_one_by_the_listener() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let mut listener = client.queue("q").item_listener();
    let first = member.next(QUEUE_ITEM_LISTENER).await;
    first.end(Cut::Rst);
    let second = member.next(QUEUE_ITEM_LISTENER).await;
    assert_ne!(first.connection.number, second.connection.number);
    assert_ne!(first.id(), second.id());
    second.answer();
    assert_eq!(listener.next().await, Some(Notice::Registered));
    assert_eq!(member.received(QUEUE_ITEM_LISTENER).len(), 2);
}

#[tokio::test]
async fn rule_1_a_ping_whose_connection_died_is_not_repeated() {
    let member = Member::start(Identity::new()).await;
    member.answer_pings(false);
    let client = client_of(&member).await;
    let (pinging, uuid) = (client.clone(), member.uuid);
    let ping = tokio::spawn(async move { pinging.ping(uuid, LONG).await });
    eventually("the ping arrives", || member.received(PING).len() == 1).await;
    member.end_all(Cut::Rst);
    assert_eq!(ping.await.unwrap().unwrap_err().kind(), Kind::OutcomeUnknown);
    // Over the next connection something else comes, and no second ping before it.
    let set = set(&client, "k");
    member.next(MAP_SET).await.answer();
    set.await.unwrap().unwrap();
    assert_eq!(member.accepted(), 2);
    assert_eq!(member.received(PING).len(), 1);
}

// === rule 2: bound to one member ===

#[tokio::test]
async fn rule_2_a_call_for_no_member_is_not_sent() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    eventually("the members are known", || client.members().len() == 1).await;
    let began = Instant::now();
    let error = client.ping(Uuid::new_v4(), LONG).await.unwrap_err();
    assert_eq!(error.kind(), Kind::MemberLeft);
    assert!(!error.outcome_unknown());
    assert!(began.elapsed() < PATIENCE);
    assert!(member.received(PING).is_empty());
}

#[tokio::test]
async fn rule_2_a_call_that_waits_for_a_member_ends_when_that_leaves() {
    let member = Member::start(Identity::new()).await;
    let gone = Member::start(member.identity().sibling()).await;
    let (uuid, address) = (gone.uuid, gone.address);
    gone.stop().await;
    member.publish(&[(member.uuid, member.address), (uuid, address)]);
    let client = client_of(&member).await;
    eventually("both members are known", || client.members().len() == 2).await;
    let pinging = client.clone();
    let ping = tokio::spawn(async move { pinging.ping(uuid, LONG).await });
    yield_now().await;
    assert!(!ping.is_finished());
    member.publish(&[(member.uuid, member.address)]);
    assert_eq!(ping.await.unwrap().unwrap_err().kind(), Kind::MemberLeft);
}

#[tokio::test]
async fn rule_2_a_member_that_leaves_during_the_call_ends_it() {
    let members = Member::start_cluster(2).await;
    let mut settings = config(members[0].address);
    settings.routing = svc::hazelcast::Routing::AllMembers;
    let client = connect(settings).await;
    let (stays, leaves) = (&members[0], &members[1]);
    leaves.answer_pings(false);
    let (pinging, uuid) = (client.clone(), leaves.uuid);
    let ping = tokio::spawn(async move { pinging.ping(uuid, LONG).await });
    eventually("the ping arrives", || leaves.received(PING).len() == 1).await;
    stays.publish(&[(stays.uuid, stays.address)]);
    leaves.publish(&[(stays.uuid, stays.address)]);
    let kind = ping.await.unwrap().unwrap_err().kind();
    assert!(matches!(kind, Kind::MemberLeft | Kind::OutcomeUnknown), "{kind:?}");
    assert_eq!(client.ping(uuid, LONG).await.unwrap_err().kind(), Kind::MemberLeft);
    assert_eq!(leaves.received(PING).len(), 1);
    assert!(stays.received(PING).is_empty());
}

// === rule 3: not applied ===

#[tokio::test]
async fn rule_3_a_mutation_without_a_connection_waits_and_is_sent_once() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let (identity, address) = (member.identity().clone(), member.address);
    member.stop().await;
    eventually("the connection is lost", || !client.is_connected()).await;
    let (set, poll) = (set(&client, "k"), client.queue("q"));
    let poll = tokio::spawn(async move { poll.poll(Duration::ZERO).await });
    let member = Member::start_at(address, identity.sibling()).await;
    member.on_call(|call| call.answer());
    set.await.unwrap().unwrap();
    poll.await.unwrap().unwrap();
    assert_eq!(member.received(MAP_SET).len(), 1);
    assert_eq!(member.received(QUEUE_POLL).len(), 1);
}

#[tokio::test]
async fn rule_3_mutations_that_were_not_written_are_repeated_without_redo() {
    let (member, proxy, client) = behind_proxy(|config| config).await;
    let large = "x".repeat(64 << 20);
    let map = client.map("m");
    let large = tokio::spawn(async move { map.set("large", large.as_str()).await });
    let end = Instant::now() + PATIENCE;
    while proxy.bytes() < 100_000 {
        assert!(Instant::now() < end, "the large request does not go out");
        yield_now().await;
    }
    // From here on the writer is stuck in the middle of it, and the others wait behind.
    proxy.set_flow(Flow::Stall);
    let small: Vec<_> = (0..100)
        .map(|number| set(&client, &format!("small-{number}")))
        .collect();
    let queue = client.queue("q");
    let poll = tokio::spawn(async move { queue.poll(Duration::ZERO).await });
    for _ in 0..10 {
        yield_now().await;
    }
    assert!(!large.is_finished());
    proxy.cut_all(Cut::Rst);
    proxy.set_flow(Flow::Pass);
    // Rule 4: of this one a part was written.
    assert_eq!(large.await.unwrap().unwrap_err().kind(), Kind::OutcomeUnknown);
    for set in small {
        set.await.unwrap().unwrap();
    }
    assert_eq!(poll.await.unwrap().unwrap(), None);
    assert_eq!(member.received(MAP_SET).len(), 100);
    assert_eq!(member.received(QUEUE_POLL).len(), 1);
}

#[tokio::test]
async fn rule_3_an_error_that_passes_by_itself_is_tried_again_by_everything() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    for code in RETRYABLE {
        let set = set(&client, "k");
        refuse_then_answer(&member, MAP_SET, code).await;
        set.await
            .unwrap()
            .unwrap_or_else(|error| panic!("set after {code}: {error}"));

        let get = get(&client);
        refuse_then_answer(&member, MAP_GET, code).await;
        get.await
            .unwrap()
            .unwrap_or_else(|error| panic!("get after {code}: {error}"));

        let queue = client.queue("q");
        let poll = tokio::spawn(async move { queue.poll(Duration::ZERO).await });
        refuse_then_answer(&member, QUEUE_POLL, code).await;
        poll.await
            .unwrap()
            .unwrap_or_else(|error| panic!("poll after {code}: {error}"));
    }
    assert_eq!(member.accepted(), 1);
}

async fn refuse_then_answer(member: &Member, kind: i32, code: i32) {
    let first = member.next(kind).await;
    first.error(code);
    let second = member.next(kind).await;
    assert_ne!(first.id(), second.id(), "each try has an id of its own");
    second.answer();
}

// === rule 4: outcome unknown ===

#[tokio::test]
async fn rule_4_a_read_is_repeated_wherever_its_connection_died() {
    let (_member, proxy, client) = behind_proxy(|config| config).await;
    for (tries, fault) in LOST.into_iter().enumerate() {
        proxy.arm(MAP_GET, fault);
        client
            .map("m")
            .get("k")
            .await
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(proxy.requests(MAP_GET), 2 * (tries + 1), "{fault:?}");
        assert_eq!(proxy.armed(), 0);
    }
    proxy.arm(MAP_SIZE, Fault::BeforeAnswer(Cut::Rst));
    client.map("m").size().await.unwrap();
    assert_eq!(proxy.requests(MAP_SIZE), 2);
}

#[tokio::test]
async fn rule_4_a_mutation_is_not_repeated_without_redo() {
    let (_member, proxy, client) = behind_proxy(|config| config).await;
    for (tries, fault) in LOST.into_iter().enumerate() {
        proxy.arm(MAP_SET, fault);
        let error = client.map("m").set("k", "v").await.unwrap_err();
        assert_eq!(error.kind(), Kind::OutcomeUnknown, "{fault:?}");
        assert!(error.outcome_unknown());
        assert_eq!(proxy.requests(MAP_SET), tries + 1, "{fault:?}");
    }
    proxy.arm(QUEUE_OFFER, Fault::BeforeAnswer(Cut::Rst));
    assert_eq!(
        client.queue("q").offer("i").await.unwrap_err().kind(),
        Kind::OutcomeUnknown
    );
    assert_eq!(proxy.requests(QUEUE_OFFER), 1);
}

#[tokio::test]
async fn rule_4_a_mutation_is_repeated_with_redo() {
    let (_member, proxy, client) = behind_proxy(redo).await;
    for (tries, fault) in LOST.into_iter().enumerate() {
        proxy.arm(MAP_SET, fault);
        client
            .map("m")
            .set("k", "v")
            .await
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(proxy.requests(MAP_SET), 2 * (tries + 1), "{fault:?}");
    }
    proxy.arm(QUEUE_OFFER, Fault::BeforeAnswer(Cut::Rst));
    assert!(client.queue("q").offer("i").await.unwrap());
    assert_eq!(proxy.requests(QUEUE_OFFER), 2);
}

#[tokio::test]
async fn rule_4_what_hands_an_item_out_is_not_repeated_even_with_redo() {
    let (_member, proxy, client) = behind_proxy(redo).await;
    let queue = client.queue("q");
    for (tries, fault) in LOST.into_iter().enumerate() {
        proxy.arm(QUEUE_POLL, fault);
        let error = queue.poll(Duration::ZERO).await.unwrap_err();
        assert_eq!(error.kind(), Kind::OutcomeUnknown, "{fault:?}");
        assert_eq!(proxy.requests(QUEUE_POLL), tries + 1, "{fault:?}");

        proxy.arm(QUEUE_DRAIN, fault);
        let error = queue.drain_to(10).await.unwrap_err();
        assert_eq!(error.kind(), Kind::OutcomeUnknown, "{fault:?}");
        assert_eq!(proxy.requests(QUEUE_DRAIN), tries + 1, "{fault:?}");
    }
}

/// Many requests under way and the connection cut anywhere in their bytes: each is either told as unknown, or was
/// sent once and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_3_and_4_no_mutation_is_sent_twice_wherever_the_write_is_cut() {
    const CALLS: usize = 3000;
    let (mut unknown, mut repeated) = (0, 0);
    for cut_after in [1, 10_000, 333_333, 1_000_001, 2_500_000, 4_700_000] {
        let (member, proxy, client) = behind_proxy(|config| config).await;
        let before = proxy.bytes();
        let value = "x".repeat(2000);
        let calls: Vec<_> = (0..CALLS)
            .map(|number| {
                let (map, value) = (client.map("m"), value.clone());
                tokio::spawn(async move { map.set(format!("{number:05}").as_str(), value.as_str()).await })
            })
            .collect();
        eventually("the bytes pass", || proxy.bytes() > before + cut_after).await;
        proxy.cut_all(Cut::Rst);
        let mut told_unknown = HashSet::new();
        for (number, call) in calls.into_iter().enumerate() {
            if let Err(error) = call.await.unwrap() {
                assert_eq!(error.kind(), Kind::OutcomeUnknown, "{error}");
                told_unknown.insert(format!("{number:05}"));
            }
        }
        let mut sent = HashMap::<String, usize>::new();
        for (connection, message) in member.received(MAP_SET) {
            let key = String::from_utf8(message.frames()[1][12..].to_vec()).unwrap();
            *sent.entry(key).or_default() += 1;
            repeated += usize::from(connection > 0);
        }
        for number in 0..CALLS {
            let key = format!("{number:05}");
            let times = sent.get(&key).copied().unwrap_or_default();
            if told_unknown.contains(&key) {
                assert!(times <= 1, "{key} was sent {times} times and told as unknown");
            } else {
                assert_eq!(times, 1, "{key}, which succeeded");
            }
        }
        unknown += told_unknown.len();
    }
    // Both ways were taken, or this tested nothing.
    assert!(
        unknown > 0 && repeated > 0,
        "{unknown} unknown, {repeated} over a second connection"
    );
}

// === rule 5: final ===

#[tokio::test]
async fn rule_5_any_other_error_of_the_member_is_final() {
    let member = Member::start(Identity::new()).await;
    let client = connect(redo(config(member.address))).await;
    for code in [1, 21, 38, 40, 51, 56, 57, 58, 9999, -1] {
        let set = set(&client, "k");
        member.next(MAP_SET).await.error(code);
        let error = set.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::Server { code });
        assert_eq!(error.outcome_unknown(), code == 38, "{code}");
        let text = error.to_string();
        assert!(
            text.contains("ScriptedException") && text.contains("as the script says"),
            "{text}"
        );

        let get = get(&client);
        member.next(MAP_GET).await.error(code);
        assert_eq!(get.await.unwrap().unwrap_err().kind(), Kind::Server { code });
    }
    client.ping(member.uuid, PATIENCE).await.unwrap();
    assert!(member.unexpected().await.is_none());
}

#[tokio::test]
async fn rule_5_past_the_deadline_a_call_without_an_answer_may_have_been_applied() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let limit = Duration::from_millis(300);
    let map = client.map("m").with_timeout(limit);
    let began = Instant::now();
    let error = map.set("k", "v").await.unwrap_err();
    let took = began.elapsed();
    assert_eq!(error.kind(), Kind::TimedOut { outcome_unknown: true }, "{error}");
    assert!(error.is_timeout() && error.outcome_unknown());
    assert!(took >= limit && took < limit + PATIENCE, "{took:?}");
    assert!(error.to_string().contains("300 ms"), "{error}");
}

#[tokio::test]
async fn rule_5_past_the_deadline_a_call_that_was_refused_each_time_was_not_applied() {
    let member = Member::start(Identity::new()).await;
    member.on_call(|call| call.error(39));
    let client = client_of(&member).await;
    let map = client.map("m").with_timeout(Duration::from_millis(500));
    // A try can be under way just then: the outcome is known to be "not applied" only where none is.
    let error = map.set("k", "v").await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(format!("{error:#}").contains("ScriptedException"), "{error:#}");
    assert!(member.received(MAP_SET).len() > 2);
    // 2 ms, 4 ms … 100 ms: no more than that a member can bear.
    assert!(
        member.received(MAP_SET).len() < 50,
        "{}",
        member.received(MAP_SET).len()
    );
}

#[tokio::test]
async fn rule_5_past_the_deadline_a_call_that_found_no_member_was_not_applied() {
    let member = Member::start(Identity::new()).await;
    let address = member.address;
    member.stop().await;
    let client = Client::start(config(address)).unwrap();
    eventually("the first attempt has failed", || client.problem().is_some()).await;
    let map = client.map("m").with_timeout(Duration::from_millis(200));
    let error = map.set("k", "v").await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut { outcome_unknown: false });
    assert!(format!("{error:#}").contains(&address.to_string()), "{error:#}");
}

#[tokio::test]
async fn rule_5_past_the_deadline_an_earlier_try_of_unknown_outcome_is_not_forgotten() {
    let (_member, proxy, client) = behind_proxy(redo).await;
    proxy.arm(MAP_SET, Fault::BeforeAnswer(Cut::Rst));
    proxy.refuse(true);
    let map = client.map("m").with_timeout(Duration::from_millis(500));
    let error = map.set("k", "v").await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut { outcome_unknown: true }, "{error}");
}

#[tokio::test]
async fn rule_5_a_final_error_does_not_hide_an_earlier_try_of_unknown_outcome() {
    let member = Member::start(Identity::new()).await;
    let client = connect(redo(config(member.address))).await;
    let set = set(&client, "k");
    member.next(MAP_SET).await.end(Cut::Rst);
    member.next(MAP_SET).await.error(21);
    let error = set.await.unwrap().unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert!(format!("{error:#}").contains("ScriptedException"), "{error:#}");
}

#[tokio::test]
async fn rule_5_after_a_shut_down_calls_end_at_once() {
    let member = Member::start(Identity::new()).await;
    let client = connect(redo(config(member.address))).await;
    let mut listener = client.queue("q").item_listener();
    member.next(QUEUE_ITEM_LISTENER).await.answer();
    assert_eq!(listener.next().await, Some(Notice::Registered));
    let (set, get) = (set(&client, "k"), get(&client));
    member.next(MAP_SET).await;
    member.next(MAP_GET).await;
    client.shutdown().await;
    let began = Instant::now();
    // Written, and the answer will not come.
    assert!(set.await.unwrap().unwrap_err().outcome_unknown());
    get.await.unwrap().unwrap_err();
    for later in [
        client.map("m").set("k", "v").await.unwrap_err(),
        client.queue("q").poll(Duration::ZERO).await.unwrap_err(),
        client.ping(member.uuid, LONG).await.unwrap_err(),
        client.ready(LONG).await.unwrap_err(),
    ] {
        assert_eq!(later.kind(), Kind::ShutDown, "{later}");
    }
    while listener.next().await.is_some() {}
    assert!(began.elapsed() < PATIENCE);
    assert!(!client.is_connected());
    eventually("the connection is closed", || member.open() == 0).await;
}

#[tokio::test]
async fn rule_5_a_shut_down_ends_a_call_that_waits_for_a_connection() {
    let member = Member::start(Identity::new()).await;
    let address = member.address;
    member.stop().await;
    let client = Client::start(config(address)).unwrap();
    let set = set(&client, "k");
    yield_now().await;
    client.shutdown().await;
    assert_eq!(set.await.unwrap().unwrap_err().kind(), Kind::ShutDown);
}

#[tokio::test]
async fn the_connections_end_with_the_last_handle() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let another = client.clone();
    drop(client);
    another.ping(member.uuid, PATIENCE).await.unwrap();
    drop(another);
    eventually("the connection is closed", || member.open() == 0).await;
}

#[tokio::test]
async fn a_call_that_was_given_up_harms_no_other() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let given_up = set(&client, "k");
    let first = member.next(MAP_SET).await;
    given_up.abort();
    let get = get(&client);
    let second = member.next(MAP_GET).await;
    first.answer();
    second.answer_value(&string_data("v"));
    assert_eq!(get.await.unwrap().unwrap().as_deref(), Some("v"));
}

// === ids ===

#[tokio::test]
async fn a_late_answer_to_the_first_try_does_not_complete_the_second_on_the_same_connection() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let get = get(&client);
    let first = member.next(MAP_GET).await;
    first.error(39);
    let second = member.next(MAP_GET).await;
    first.answer_value(&string_data("late"));
    second.answer_value(&string_data("right"));
    assert_eq!(get.await.unwrap().unwrap().as_deref(), Some("right"));
}

#[tokio::test]
async fn a_late_answer_to_the_first_try_does_not_complete_the_second_on_another_connection() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let get = get(&client);
    let first = member.next(MAP_GET).await;
    first.end(Cut::Rst);
    let second = member.next(MAP_GET).await;
    assert_ne!(first.id(), second.id());
    let late = Call {
        message: first.message.clone(),
        connection: second.connection.clone(),
    };
    late.answer_value(&string_data("late"));
    second.answer_value(&string_data("right"));
    assert_eq!(get.await.unwrap().unwrap().as_deref(), Some("right"));
}

#[tokio::test]
async fn an_answer_past_the_deadline_does_not_complete_the_next_call() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let short = client.map("m").with_timeout(Duration::from_millis(100));
    assert!(short.get("k").await.unwrap_err().is_timeout());
    let first = member.next(MAP_GET).await;
    let get = get(&client);
    let second = member.next(MAP_GET).await;
    first.answer_value(&string_data("late"));
    second.answer_value(&string_data("right"));
    assert_eq!(get.await.unwrap().unwrap().as_deref(), Some("right"));
    assert_eq!(member.accepted(), 1);
}

#[tokio::test]
async fn no_two_requests_of_a_client_share_an_id() {
    let (member, _proxy, client) = behind_proxy(redo).await;
    let calls: Vec<_> = (0..200).map(|number| set(&client, &number.to_string())).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let mut ids = HashSet::new();
    for kind in [CLUSTER_VIEW_LISTENER, MAP_SET] {
        for (_, message) in member.received(kind) {
            assert!(
                ids.insert(message.correlation_id()),
                "{} was used twice",
                message.correlation_id()
            );
        }
    }
    assert_eq!(ids.len(), 201);
}
