//! A peer that sends what no member sends: the connection ends, nothing panics, no memory is given away, and the client
//! goes on with the next connection.

use std::time::Duration;

use bytes::BytesMut;
use svc::hazelcast::{Client, Config, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::member::{Identity, Member, authenticated};
use crate::support::proxy::Cut;
use crate::support::wire::kind::{AUTHENTICATION, CLUSTER_VIEW_LISTENER, MAP_GET, MAP_SET};
use crate::support::wire::{self, BACKUP_EVENT, BEGIN, Builder, EVENT, FINAL, Message, UNFRAGMENTED};
use crate::{PATIENCE, client_of, config, connect, eventually};

/// A frame that claims this length, whatever follows.
fn frame_of(length: i32, flags: u16) -> Vec<u8> {
    [length.to_le_bytes().as_slice(), &flags.to_le_bytes(), &[0; 64]].concat()
}

/// What cannot be a message, each with what it is.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let short = |length: i32| frame_of(length, UNFRAGMENTED | FINAL);
    vec![
        ("a length of 0", short(0)),
        ("a length of 5", short(5)),
        ("a negative length", short(-1)),
        ("the least length", short(i32::MIN)),
        ("a length beyond the limit", short(i32::MAX)),
        ("a first frame without a type", short(6)),
        ("a first frame without an id", short(12)),
        ("a first frame without the end of its header", short(18)),
        (
            "an event without the end of its header",
            frame_of(19, UNFRAGMENTED | FINAL | EVENT),
        ),
        ("a confirmation without an id", {
            Builder::event(0x0F02, 1, BACKUP_EVENT).finish()
        }),
        ("a fragment without an id", frame_of(8, 1 << 15 | FINAL)),
        ("a fragment that continues nothing", frame_of(14, FINAL)),
        (
            "another protocol",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec(),
        ),
    ]
}

async fn set(client: &Client) {
    client.map("m").set("k", "v").await.unwrap();
}

/// For tests with one connection after the other.
fn at_once(mut config: Config) -> Config {
    config.reconnect_min = Duration::from_millis(1);
    config.reconnect_max = Duration::from_millis(2);
    config
}

async fn answering() -> Member {
    let member = Member::start(Identity::new()).await;
    member.on_call(|call| call.answer());
    member
}

#[tokio::test]
async fn what_cannot_be_a_message_ends_the_connection_and_nothing_else() {
    let member = answering().await;
    let client = client_of(&member).await;
    for (what, bytes) in garbage() {
        set(&client).await;
        let before = member.accepted();
        member.send_all(&bytes);
        eventually(&format!("the client leaves after {what}"), || {
            member.accepted() > before
        })
        .await;
        set(&client).await;
    }
}

#[tokio::test]
async fn a_call_on_its_way_when_garbage_comes_has_an_unknown_outcome_and_says_why() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let map = client.map("m");
    let call = tokio::spawn(async move { map.set("k", "v").await });
    member.next(MAP_SET).await.connection.send(frame_of(0, FINAL));
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::OutcomeUnknown);
    assert!(error.to_string().contains("length of 0"), "{error}");
}

#[tokio::test]
async fn random_bytes_end_the_connection_or_wait_for_more_and_harm_nothing() {
    let member = answering().await;
    let mut settings = config(member.address);
    // Most lengths are beyond this, and end the connection.
    settings.max_message_bytes = 1 << 20;
    let client = connect(at_once(settings)).await;
    let mut seed = 0x5EED_u64;
    for round in 0..200 {
        let bytes: Vec<u8> = (0..64 + round * 7)
            .map(|_| {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                seed.to_be_bytes()[0]
            })
            .collect();
        member.send_all(&bytes);
        // What reads as the start of a message takes what follows for its rest: only another connection helps.
        member.end_all(Cut::Fin);
        client
            .map("m")
            .get("k")
            .await
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
}

/// Bits of a good message turned, one after the other: it is read, refused or answers nothing, and the next call works.
#[tokio::test]
async fn a_damaged_answer_harms_no_other_call() {
    let member = Member::start(Identity::new()).await;
    let mut settings = config(member.address);
    settings.max_message_bytes = 1 << 20;
    let client = connect(at_once(settings)).await;
    let map = client.map("m").with_timeout(Duration::from_millis(20));
    member.on_call(|call| {
        let mut answer = call.usual_answer(0);
        let damage = call.message.frames()[1].len() - 12;
        if damage > 0 {
            let bit = damage % (answer.len() * 8);
            answer[bit / 8] ^= 1 << (bit % 8);
        }
        call.connection.send(answer);
    });
    for damage in 1..25 * 8 {
        // The key's length says which bit.
        let _ = map.get("k".repeat(damage).as_str()).await;
        eventually("a connection stands", || client.is_connected()).await;
        member.end_all(Cut::Fin);
        client
            .map("m")
            .get("")
            .await
            .unwrap_or_else(|error| panic!("after bit {damage}: {error}"));
    }
}

#[tokio::test]
async fn an_answer_of_another_kind_fails_its_call_and_leaves_the_connection() {
    let member = Member::start(Identity::new()).await;
    let client = client_of(&member).await;
    let map = client.map("m");
    let call = tokio::spawn(async move { map.get("k").await });
    let request = member.next(MAP_GET).await;
    request
        .connection
        .send(Builder::response(0x7F_7F7F, request.id(), 0).finish());
    assert_eq!(call.await.unwrap().unwrap_err().kind(), Kind::Protocol);

    let map = client.map("m");
    let call = tokio::spawn(async move { map.get("k").await });
    let request = member.next(MAP_GET).await;
    // An error without what makes one.
    request
        .connection
        .send(Builder::response(0, request.id(), 0).frame(BEGIN, &[]).finish());
    assert_eq!(call.await.unwrap().unwrap_err().kind(), Kind::Protocol);
    client.ping(member.uuid, PATIENCE).await.unwrap();
    assert_eq!(member.accepted(), 1);
}

#[tokio::test]
async fn events_and_answers_that_belong_to_nobody_are_dropped() {
    let member = answering().await;
    let client = client_of(&member).await;
    // Ids of calls that were answered are nobody's any more.
    eventually("the views are asked for", || {
        !member.received(CLUSTER_VIEW_LISTENER).is_empty()
    })
    .await;
    for id in [0, -1, 1, 1 << 40, i64::MAX, i64::MIN] {
        member.send_all(&Builder::response(MAP_GET + 1, id, 3).null().finish());
        member.send_all(&Builder::event(0x03_1102, id, 0).finish());
        member.send_all(&wire::error(id, 33, "com.example.Nobody", "asked"));
    }
    set(&client).await;
    assert_eq!(member.accepted(), 1);
}

#[tokio::test]
async fn views_that_name_what_does_not_exist_are_taken_as_far_as_they_go() {
    let member = answering().await;
    let client = client_of(&member).await;
    eventually("the views are asked for", || {
        !member.received(CLUSTER_VIEW_LISTENER).is_empty()
    })
    .await;
    let listener = member.received(CLUSTER_VIEW_LISTENER)[0].1.correlation_id();
    let wild = vec![-1, 271, i32::MAX, i32::MIN, 0, 0, 3];
    member.send_all(&wire::partitions_view(
        listener,
        100,
        &[(Uuid::new_v4(), wild), (Uuid::nil(), vec![])],
    ));
    member.send_all(&wire::partitions_view(listener, 101, &[]));
    member.send_all(&wire::members_view(listener, 100, &[]));
    for number in 0..50 {
        client.map("m").set(number.to_string().as_str(), "v").await.unwrap();
    }
    assert_eq!(member.accepted(), 1);
    assert_eq!(client.members().len(), 1);
}

// === before the connection stands ===

/// A peer that answers each authentication with these bytes.
async fn answers_authentication(answer: impl Fn(&Message) -> Vec<u8> + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if let Some(request) = first_request(&mut stream).await {
                assert_eq!(request.kind(), AUTHENTICATION);
                let _ = stream.write_all(&answer(&request)).await;
                // Until the client leaves: a connection that ends would be told as that.
                let _ = stream.read(&mut [0; 64]).await;
            }
        }
    });
    (address, serving)
}

async fn first_request(stream: &mut TcpStream) -> Option<Message> {
    let mut buffer = BytesMut::new();
    loop {
        if stream.read_buf(&mut buffer).await.ok()? == 0 {
            return None;
        }
        if buffer.len() > 3 {
            let message = Message::take(&mut BytesMut::from(&buffer[3..]));
            if message.is_some() {
                return message;
            }
        }
    }
}

/// Why the client does not connect, where that is the answer to its authentication.
async fn refused(answer: impl Fn(&Message) -> Vec<u8> + Send + 'static) -> String {
    let (address, serving) = answers_authentication(answer).await;
    let client = Client::start(config(address.parse().unwrap())).unwrap();
    eventually("an attempt has failed", || client.problem().is_some()).await;
    serving.abort();
    assert!(!client.is_connected());
    let problem = client.problem().unwrap();
    assert!(problem.contains(&address), "{problem}");
    problem
}

#[tokio::test]
async fn a_peer_that_is_no_member_is_told_of_by_its_address() {
    for (what, bytes) in garbage() {
        let text = refused(move |_| bytes.clone()).await;
        let why = [
            "a frame claims",
            "exceeds the limit",
            "too short",
            "a fragment",
            "no answer within",
        ];
        assert!(why.iter().any(|why| text.contains(why)), "{what}: {text}");
    }
}

#[tokio::test]
async fn an_authentication_that_is_answered_by_an_error_says_so() {
    let text = refused(|request| wire::error(request.correlation_id(), 3, "com.example.Refused", "not you")).await;
    assert!(
        text.contains("com.example.Refused") && text.contains("not you"),
        "{text}"
    );
}

#[tokio::test]
async fn an_authentication_without_ids_or_partitions_is_refused() {
    let identity = Identity::new();
    for (what, change) in [
        (
            "no partitions",
            Identity {
                partition_count: 0,
                ..identity.clone()
            },
        ),
        (
            "negative partitions",
            Identity {
                partition_count: -271,
                ..identity.clone()
            },
        ),
    ] {
        let text = refused(move |request| authenticated(request, &change, 1, &[])).await;
        assert!(text.contains("partitions"), "{what}: {text}");
    }
    let text = refused(move |request| {
        let mut answer = authenticated(request, &identity, 1, &[]);
        answer.truncate(40);
        let length = 40_i32.to_le_bytes();
        answer[..4].copy_from_slice(&length);
        answer[5] |= FINAL.to_le_bytes()[1];
        answer
    })
    .await;
    assert!(text.contains("too short"), "{text}");
}

// === memory ===

/// Kilobytes of address space that this process has taken.
fn address_space_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmSize:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_message_that_claims_gigabytes_takes_only_what_has_come_of_it() {
    let member = answering().await;
    let mut settings = config(member.address);
    settings.max_message_bytes = usize::MAX;
    let client = connect(settings).await;
    set(&client).await;
    let before = address_space_kb();
    let mut claim = frame_of(i32::MAX, UNFRAGMENTED);
    claim.resize(1 << 20, 0);
    member.send_all(&claim);
    // Other tests of this process take some too, none of them a gigabyte.
    client.ping(member.uuid, Duration::from_millis(500)).await.unwrap_err();
    let after = address_space_kb();
    assert!(after < before + (1 << 20), "{before} kB before, {after} kB after");
    assert_eq!(member.accepted(), 1);
}

#[tokio::test]
async fn a_message_without_end_is_cut_off_at_the_limit() {
    let member = answering().await;
    let mut settings = config(member.address);
    settings.max_message_bytes = 1 << 20;
    let client = connect(settings).await;
    set(&client).await;
    // Frames without end: none of them is the last.
    let mut frames = Builder::response(MAP_GET + 1, 1, 0);
    for _ in 0..40 {
        frames = frames.frame(0, &[0; 32 << 10]);
    }
    member.send_all(&frames.bytes());
    eventually("the client leaves", || member.accepted() >= 2).await;
    set(&client).await;
}

#[tokio::test]
async fn fragments_without_end_are_cut_off_at_the_limit() {
    let member = answering().await;
    let mut settings = config(member.address);
    settings.max_message_bytes = 1 << 20;
    let client = connect(settings).await;
    set(&client).await;
    for fragment in 0..40_i64 {
        let begin = Builder::after(vec![]).frame(1 << 15, &fragment.to_le_bytes());
        member.send_all(&begin.frame(0, &[0; 32 << 10]).finish());
    }
    eventually("the client leaves", || member.accepted() >= 2).await;
    set(&client).await;
}
