//! What members send is read as what they meant.

use uuid::Uuid;

use super::messages::{self, ID, key, value};
use super::{Decoded, OTHER_OPERATIONS, captures, decode, frames_of, message_of, read_one};
use crate::hazelcast::codec::client::{
    Accepted, AuthenticationResponse, ClusterViewEvent, MembersView, PartitionLost, PartitionsView, Refusal,
};
use crate::hazelcast::codec::map::{self, IterationPointers, MapPartitionLost};
use crate::hazelcast::codec::queue::{self, ItemEvent, ItemEventType};
use crate::hazelcast::codec::types::{Address, MemberInfo, MemberVersion};
use crate::hazelcast::data::{Data, Json, ToData};
use crate::hazelcast::error::Kind;

const MEMBER: Uuid = Uuid::from_u64_pair(0xB7CE_81A0_B4A0_4CC7, 0x8A01_B391_674D_A881);

fn value_of(value: impl ToData) -> Decoded {
    Decoded::Value(Some(value.to_data()))
}

fn address() -> Address {
    Address {
        host: "127.0.0.1".into(),
        port: 5781,
    }
}

fn members() -> MembersView {
    MembersView {
        version: 1,
        members: vec![MemberInfo {
            address: address(),
            uuid: MEMBER,
            lite_member: false,
            version: MemberVersion {
                major: 5,
                minor: 7,
                patch: 0,
            },
        }],
    }
}

fn json_entry() -> Data {
    Json(r#"{"owner":null,"since":1}"#).to_data()
}

fn queued() -> Data {
    Json(r#"{"identifier":"018f","text":"never"}"#).to_data()
}

fn unicode() -> Data {
    "\u{17E}\u{6F22}\u{1F600}\0end".to_data()
}

/// What the member sent during connect.
fn expected_of_connect() -> Vec<Decoded> {
    vec![
        Decoded::Authentication(AuthenticationResponse::Accepted(Accepted {
            address: address(),
            member_uuid: MEMBER,
            server_version: "5.7.0".into(),
            partition_count: 271,
            cluster_id: Uuid::from_u64_pair(0x6263_75E5_B725_4315, 0x8F2D_D8FA_F513_89B9),
            failover_supported: false,
            members: Some(members()),
            partitions: None,
        })),
        Decoded::ClusterView(ClusterViewEvent::Members(members())),
        Decoded::ClusterView(ClusterViewEvent::Other),
        Decoded::ClusterView(ClusterViewEvent::Other),
        Decoded::Nothing,
    ]
}

/// What the member sent during the steps on the map `messages`.
fn expected_of_map() -> Vec<Decoded> {
    let entries = [
        ("k3", json_entry()),
        ("c", "3".to_data()),
        ("k1", "give".to_data()),
        ("a", "1".to_data()),
        ("k4", 42.to_data()),
        ("b", "2".to_data()),
        ("k2", unicode()),
    ]
    .map(|(key, value)| (key.to_data(), value));
    vec![
        Decoded::Nothing,
        Decoded::ClusterView(ClusterViewEvent::Partitions(PartitionsView {
            version: 1,
            partitions: vec![(MEMBER, (0..271).collect())],
        })),
        value_of("never"),
        value_of("gonna"),
        Decoded::Value(None),
        value_of("gonna"),
        Decoded::Boolean(true),
        Decoded::Nothing,
        value_of(unicode()),
        Decoded::Nothing,
        value_of(json_entry()),
        Decoded::Nothing,
        Decoded::Nothing,
        Decoded::Nothing,
        Decoded::Nothing,
        Decoded::List(entries.iter().map(|(_, value)| value.clone()).collect()),
        Decoded::Entries(entries.to_vec()),
        Decoded::List(entries.iter().map(|(key, _)| key.clone()).collect()),
        Decoded::Int(7),
    ]
}

/// What the member sent during the steps after those.
fn expected_of_the_rest() -> Vec<Decoded> {
    vec![
        Decoded::Nothing,
        Decoded::Nothing,
        Decoded::Error(
            Kind::Server { code: 40 },
            "the member answered com.hazelcast.query.QueryException (code 40): java.lang.IllegalArgumentException: \
             There is no suitable accessor for 'owner' on class 'java.lang.String'"
                .into(),
        ),
        value_of(json_entry()),
        Decoded::Int(2),
        value_of(42),
        Decoded::Boolean(true),
        Decoded::Boolean(true),
        Decoded::Int(3),
        value_of(queued()),
        value_of(queued()),
        Decoded::List(vec!["one".to_data(), "two".to_data()]),
        Decoded::Value(None),
        Decoded::Nothing,
        Decoded::List(vec![]),
        Decoded::Nothing,
    ]
}

#[test]
fn every_captured_response_and_event_is_read_as_its_values() {
    let captured: Vec<_> = captures()
        .into_iter()
        .filter(|capture| !capture.from_client && !OTHER_OPERATIONS.contains(&(capture.message_type & !1)))
        .collect();
    let expected = [expected_of_connect(), expected_of_map(), expected_of_the_rest()].concat();
    assert_eq!(captured.len(), expected.len());
    for (capture, expected) in captured.iter().zip(expected) {
        let incoming = read_one(&capture.bytes);
        assert_eq!(incoming.message_type(), capture.message_type, "{}", capture.step);
        assert_eq!(decode(&incoming).unwrap(), expected, "{}", capture.step);
    }
}

#[test]
fn a_list_of_many_values_is_read_whole() {
    let capture = captures()
        .into_iter()
        .find(|capture| capture.step == "map.values of 3 MB" && !capture.from_client)
        .unwrap();
    let mut frames = frames_of(&capture.bytes);
    let end = frames.pop().unwrap();
    let value = "x".repeat(1000).to_data();
    frames.extend(vec![(0, value.as_bytes().to_vec()); 900]);
    frames.push(end);
    let incoming = read_one(&message_of(&frames));
    assert_eq!(map::decode_values(&incoming).unwrap(), vec![value; 900]);
}

#[test]
fn answers_and_events_without_a_capture_follow_the_definition() {
    let expected = [
        (messages::registration(0x00_0601), Decoded::Registration(ID)),
        (messages::registration(0x01_1B01), Decoded::Registration(ID)),
        (messages::registration(0x03_1101), Decoded::Registration(ID)),
        (messages::boolean(0x01_0601, true), Decoded::Boolean(true)),
        (messages::boolean(0x03_0401, false), Decoded::Boolean(false)),
        (messages::backup_event(i64::MAX), Decoded::Backup(i64::MAX)),
        (messages::entries(0x01_2301), Decoded::Entries(vec![(key(), value())])),
        (messages::list(0x03_0801), Decoded::List(vec![key(), value()])),
        (
            messages::partition_lost(None),
            Decoded::PartitionLost(PartitionLost {
                partition_id: 5,
                lost_backup_count: 1,
                member: None,
            }),
        ),
        (
            messages::map_partition_lost(),
            Decoded::MapPartitionLost(MapPartitionLost {
                partition_id: 270,
                member: ID,
            }),
        ),
    ];
    for (bytes, expected) in expected {
        assert_eq!(decode(&read_one(&bytes)).unwrap(), expected);
    }
}

#[test]
fn an_item_event_says_what_happened_with_or_without_the_item() {
    for (item, code, event_type) in [
        (Some(key()), 1, ItemEventType::Added),
        (None, 2, ItemEventType::Removed),
        (None, 77, ItemEventType::Other(77)),
    ] {
        let incoming = read_one(&messages::item_event(item.as_ref(), code));
        assert!(incoming.is_event() && !incoming.is_backup_event());
        let expected = ItemEvent {
            item,
            member: ID,
            event_type,
        };
        assert_eq!(queue::decode_item_event(&incoming).unwrap(), expected);
    }
}

#[test]
fn an_iteration_ends_where_the_last_pointer_is_negative() {
    assert!(!IterationPointers::start().is_at_end());
    for (index, is_at_end) in [(5, false), (0, false), (-1, true)] {
        let (pointers, entries) = map::decode_fetch_entries(&read_one(&messages::batch(index))).unwrap();
        assert_eq!(pointers.is_at_end(), is_at_end, "{index}");
        assert_eq!(entries, [(key(), value())]);
        let of_keys = map::decode_fetch_keys(&read_one(&messages::batch_of_keys(index))).unwrap();
        assert_eq!(of_keys, (pointers.clone(), vec![key(), key()]));
        // What came goes back as it was.
        let request = map::fetch_entries_request("m", 0, &pointers, 1).unwrap();
        let sent = [i32::MAX, 8, index, 16].map(i32::to_le_bytes).concat();
        assert_eq!(frames_of(request.rest())[1].1, sent);
    }
}

#[test]
fn a_response_tells_of_backups_and_an_event_does_not() {
    let mut bytes = messages::boolean(0x03_0101, true);
    bytes[18] = 2;
    assert_eq!(read_one(&bytes).backup_acks(), 2);
    let event = read_one(&messages::backup_event(1));
    assert_eq!(event.backup_acks(), 0);
    assert!(event.is_backup_event());
    assert_eq!(event.correlation_id(), 3);
}

#[test]
fn fields_that_an_older_member_does_not_send_are_absent() {
    let bytes = messages::acceptance_of_an_older_member(0, 271, Some(ID));
    let Decoded::Authentication(AuthenticationResponse::Accepted(accepted)) = decode(&read_one(&bytes)).unwrap() else {
        panic!("it was accepted");
    };
    assert_eq!(accepted.server_version, "5.2.0");
    assert_eq!(accepted.address.host, "10.0.0.1");
    assert_eq!(accepted.cluster_id, ID);
    assert_eq!((accepted.members, accepted.partitions), (None, None));
}

#[test]
fn what_a_newer_member_adds_is_skipped() {
    let Decoded::ClusterView(ClusterViewEvent::Members(view)) =
        decode(&read_one(&messages::members_of_the_future())).unwrap()
    else {
        panic!("it is a members view");
    };
    assert_eq!(view.version, 9);
    assert_eq!(
        view.members,
        [MemberInfo {
            address: Address {
                host: "node".into(),
                port: 5702,
            },
            uuid: ID,
            lite_member: true,
            version: MemberVersion {
                major: 6,
                minor: 1,
                patch: 2,
            },
        }]
    );
}

#[test]
fn a_refusal_is_read_by_its_status_alone() {
    for (code, refusal) in [
        (1, Refusal::CredentialsFailed),
        (2, Refusal::SerializationVersionMismatch),
        (3, Refusal::NotAllowedInCluster),
        (9, Refusal::Other(9)),
    ] {
        let expected = Decoded::Authentication(AuthenticationResponse::Refused(refusal));
        assert_eq!(decode(&read_one(&messages::refusal(code))).unwrap(), expected);
    }
}

#[test]
fn an_acceptance_without_partitions_or_cluster_is_an_error() {
    for bytes in [
        messages::acceptance_of_an_older_member(0, 0, Some(ID)),
        messages::acceptance_of_an_older_member(0, -1, Some(ID)),
        messages::acceptance_of_an_older_member(0, 271, None),
        messages::refusal(0),
    ] {
        let error = decode(&read_one(&bytes)).unwrap_err();
        assert_eq!(error.kind(), Kind::Protocol);
        assert!(error.to_string().contains("Client.Authentication"), "{error}");
    }
}

#[test]
fn an_answer_of_another_type_or_an_error_is_not_taken_for_the_answer() {
    let request = queue::offer_request("q", &key(), 0).unwrap();
    let answer = read_one(&messages::boolean(0x03_0101, true));
    assert!(request.check_answer(&answer).is_ok());
    assert!(answer.as_error().is_none());

    let other = read_one(&messages::boolean(0x03_0401, true));
    assert_eq!(request.check_answer(&other).unwrap_err().kind(), Kind::Protocol);
    let error = queue::decode_offer(&other).unwrap_err();
    assert_eq!(error.kind(), Kind::Protocol);
    assert!(error.to_string().contains("Queue.Offer"), "{error}");

    let failed = captures()
        .into_iter()
        .find(|capture| capture.message_type == 0)
        .map(|capture| read_one(&capture.bytes))
        .unwrap();
    let kind = Kind::Server { code: 40 };
    assert_eq!(request.check_answer(&failed).unwrap_err().kind(), kind);
    assert_eq!(failed.as_error().unwrap().kind(), kind);
}

#[test]
fn an_error_that_cannot_be_read_is_still_an_error() {
    let incoming = read_one(&super::made(0, 1, 0, &[], &[]));
    assert_eq!(incoming.as_error().unwrap().kind(), Kind::Protocol);
}

#[test]
fn debug_of_a_message_shows_no_content() {
    let shown = format!("{:?}", read_one(&messages::item_event(Some(&"secret".to_data()), 1)));
    assert!(shown.contains("0x031102") && !shown.contains("secret"), "{shown}");
}
