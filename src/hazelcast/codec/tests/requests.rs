//! Requests are, byte for byte, those of the official client.

use uuid::Uuid;

use super::{OTHER_OPERATIONS, captures, frames_of, uuid_bytes, wire};
use crate::hazelcast::codec::builder::MAX_REQUEST_BYTES;
use crate::hazelcast::codec::client::{self, Authentication};
use crate::hazelcast::codec::map::{self, IterationPointers};
use crate::hazelcast::codec::queue;
use crate::hazelcast::data::{Data, Json, ToData};
use crate::hazelcast::error::{Kind, Result};
use crate::hazelcast::frame;
use crate::hazelcast::message::{Request, Retry, Route};
use crate::hazelcast::partition::partition_id;

/// The partitions of the captured cluster.
const PARTITIONS: i32 = 271;

const MAP: &str = "messages";
const QUEUE: &str = "messaging_queue";

fn data(value: impl ToData) -> Data {
    value.to_data()
}

fn put_all(key: &str, value: &str) -> Result<Request> {
    let key = data(key);
    let partition = partition_id(key.partition_hash(), PARTITIONS);
    map::put_all_request(MAP, partition, &[(key, data(value))])
}

/// The requests of the captured steps, in their order.
fn expected() -> Vec<Result<Request>> {
    let inbox = "inbox";
    vec![
        client::authentication_request(&Authentication {
            cluster_name: "capture",
            credentials: None,
            client_uuid: Uuid::from_u64_pair(0xE1CD_01A2_5300_4701, 0xA01C_986F_0421_B502),
            client_type: "PYH",
            client_version: "5.7.0",
            client_name: "capture",
            labels: &[],
        }),
        client::add_cluster_view_listener_request(),
        map::set_request(MAP, &data("k1"), &data("never")),
        map::put_request(MAP, &data("k1"), &data("gonna")),
        map::get_request(MAP, &data("k1")),
        map::get_request(MAP, &data("absent")),
        map::put_if_absent_request(MAP, &data("k1"), &data("x")),
        map::replace_if_same_request(MAP, &data("k1"), &data("gonna"), &data("give")),
        map::set_request(MAP, &data("k2"), &data("\u{17E}\u{6F22}\u{1F600}\0end")),
        map::get_request(MAP, &data("k2")),
        map::set_request(MAP, &data("k3"), &data(Json(r#"{"owner":null,"since":1}"#))),
        map::get_request(MAP, &data("k3")),
        map::set_request(MAP, &data("k4"), &data(42)),
        put_all("a", "1"),
        put_all("b", "2"),
        put_all("c", "3"),
        map::values_request(MAP),
        map::entry_set_request(MAP),
        map::key_set_request(MAP),
        map::size_request(MAP),
        map::set_request(inbox, &data("b1"), &data(Json(r#"{"owner":null,"since":1}"#))),
        map::set_request(inbox, &data("b2"), &data(Json(r#"{"owner":"x","since":2}"#))),
        map::set_request(inbox, &data("b3"), &data("junk")),
        map::remove_request(inbox, &data("b1")),
        map::size_request(inbox),
        map::remove_request(MAP, &data("k4")),
        queue::offer_request(QUEUE, &data(Json(r#"{"identifier":"018f","text":"never"}"#)), 0),
        queue::add_all_request(QUEUE, &[data("one"), data("two")]),
        queue::size_request(QUEUE),
        queue::peek_request(QUEUE),
        queue::poll_request(QUEUE, 0),
        queue::drain_to_max_size_request(QUEUE, 10),
        queue::poll_request(QUEUE, 100),
        map::clear_request(MAP),
        map::values_request("big"),
        client::ping_request(),
    ]
}

/// The operations whose first parameter is the calling thread: a constant here, its address in the Python client.
const WITH_THREAD_ID: [i32; 6] = [0x01_0100, 0x01_0200, 0x01_0300, 0x01_0500, 0x01_0E00, 0x01_0F00];

#[test]
fn every_captured_request_is_produced_byte_for_byte() {
    let captured: Vec<_> = captures()
        .into_iter()
        .filter(|capture| capture.from_client && !OTHER_OPERATIONS.contains(&capture.message_type))
        .collect();
    let expected = expected();
    assert_eq!(captured.len(), expected.len());
    for (mut capture, request) in captured.into_iter().zip(expected) {
        let request = request.unwrap();
        let step = &capture.step;
        if WITH_THREAD_ID.contains(&capture.message_type) {
            capture.bytes[22..30].copy_from_slice(&1_i64.to_le_bytes());
        }
        let correlation_id = i64::from_le_bytes(capture.bytes[10..18].try_into().unwrap());
        let partition = i32::from_le_bytes(capture.bytes[18..22].try_into().unwrap());
        assert_eq!(
            wire(&request, correlation_id, partition, false),
            capture.bytes,
            "{step}: {}",
            request.operation
        );
        assert_eq!(request.len(), capture.bytes.len(), "{step}");
        let routed = match request.route {
            Route::Any => -1,
            Route::Key(hash) => partition_id(hash, PARTITIONS),
            Route::Partition(id) => id,
        };
        assert_eq!(
            routed, partition,
            "{step}: the official client sends it to the same partition"
        );
    }
}

/// Asserts on a request that no capture has: the parameters of fixed size, and the frames after the first.
#[track_caller]
fn assert_request(request: Result<Request>, message_type: i32, fixed: &[u8], frames: &[(u16, &[u8])]) {
    let bytes = wire(&request.unwrap(), 7, 9, true);
    let mut found = frames_of(&bytes);
    let (first_flags, first) = found.remove(0);
    let mut expected_first = message_type.to_le_bytes().to_vec();
    expected_first.extend(7_i64.to_le_bytes());
    expected_first.extend(9_i32.to_le_bytes());
    expected_first.extend(fixed);
    assert_eq!(first, expected_first);
    let is_final = if frames.is_empty() { frame::FINAL } else { 0 };
    assert_eq!(first_flags, frame::UNFRAGMENTED | frame::BACKUP_AWARE | is_final);
    let mut expected: Vec<_> = frames
        .iter()
        .map(|&(flags, content)| (flags, content.to_vec()))
        .collect();
    if let Some((flags, _)) = expected.last_mut() {
        *flags |= frame::FINAL;
    }
    assert_eq!(found, expected);
}

#[test]
fn requests_without_a_capture_follow_the_definition() {
    let id = Uuid::from_u64_pair(1, 2);
    let key = data("k1");
    let begin = (frame::BEGIN_STRUCT, b"".as_slice());
    let end = (frame::END_STRUCT, b"".as_slice());
    let name = (0, b"m".as_slice());
    let of_key = (0, key.as_bytes());
    let thread_id = 1_i64.to_le_bytes();
    assert_request(
        map::contains_key_request("m", &key),
        0x01_0600,
        &thread_id,
        &[name, of_key],
    );
    assert_request(
        map::get_all_request("m", 9, &[key.clone(), key.clone()]),
        0x01_2300,
        &[],
        &[name, begin, of_key, of_key, end],
    );
    assert_request(map::get_all_request("m", 9, &[]), 0x01_2300, &[], &[name, begin, end]);
    type Fetch = fn(&str, i32, &IterationPointers, i32) -> Result<Request>;
    let fetches: [(Fetch, i32); 2] = [
        (map::fetch_keys_request, 0x01_3700),
        (map::fetch_entries_request, 0x01_3800),
    ];
    for (fetch, message_type) in fetches {
        assert_request(
            fetch("m", 9, &IterationPointers::start(), 500),
            message_type,
            &500_i32.to_le_bytes(),
            &[name, (0, b"\xFF\xFF\xFF\x7F\xFF\xFF\xFF\xFF")],
        );
    }
    assert_request(
        map::add_partition_lost_listener_request("m", true),
        0x01_1B00,
        &[1],
        &[name],
    );
    assert_request(queue::remove_request("m", &key), 0x03_0400, &[], &[name, of_key]);
    assert_request(queue::iterator_request("m"), 0x03_0800, &[], &[name]);
    assert_request(queue::clear_request("m"), 0x03_0F00, &[], &[name]);
    assert_request(
        queue::add_listener_request("m", true, false),
        0x03_1100,
        &[1, 0],
        &[name],
    );
    assert_request(
        queue::remove_listener_request("m", id),
        0x03_1200,
        &uuid_bytes(Some(id)),
        &[name],
    );
    assert_request(client::add_partition_lost_listener_request(false), 0x00_0600, &[0], &[]);
    assert_request(client::local_backup_listener_request(), 0x00_0F00, &[], &[]);
    let mut fixed = uuid_bytes(Some(id));
    fixed.push(1);
    assert_request(
        client::authentication_request(&Authentication {
            cluster_name: "m",
            credentials: Some(("user", "password")),
            client_uuid: id,
            client_type: "RST",
            client_version: "1",
            client_name: "",
            labels: &["a", "b"],
        }),
        0x00_0100,
        &fixed,
        &[
            name,
            (0, b"user"),
            (0, b"password"),
            (0, b"RST"),
            (0, b"1"),
            (0, b""),
            begin,
            (0, b"a"),
            (0, b"b"),
            end,
        ],
    );
}

#[test]
fn what_takes_items_or_belongs_to_a_connection_is_never_repeated_and_writes_only_with_redo() {
    let key = data("k");
    let values = [data("a")];
    let entries = [(data("k"), data("a"))];
    let start = IterationPointers::start();
    let id = Uuid::nil();
    for (retry, requests) in [
        (
            Retry::Never,
            vec![
                queue::poll_request("q", 0),
                queue::drain_to_max_size_request("q", 1),
                queue::add_listener_request("q", true, true),
                queue::remove_listener_request("q", id),
                map::add_partition_lost_listener_request("m", true),
                client::add_partition_lost_listener_request(true),
                client::add_cluster_view_listener_request(),
                client::local_backup_listener_request(),
                client::ping_request(),
            ],
        ),
        (
            Retry::IfRedo,
            vec![
                map::set_request("m", &key, &key),
                map::put_request("m", &key, &key),
                map::put_if_absent_request("m", &key, &key),
                map::put_all_request("m", 0, &entries),
                map::remove_request("m", &key),
                map::replace_if_same_request("m", &key, &key, &key),
                map::clear_request("m"),
                queue::offer_request("q", &key, 0),
                queue::add_all_request("q", &values),
                queue::remove_request("q", &key),
                queue::clear_request("q"),
            ],
        ),
        (
            Retry::Always,
            vec![
                map::get_request("m", &key),
                map::get_all_request("m", 0, &values),
                map::contains_key_request("m", &key),
                map::key_set_request("m"),
                map::values_request("m"),
                map::entry_set_request("m"),
                map::size_request("m"),
                map::fetch_keys_request("m", 0, &start, 1),
                map::fetch_entries_request("m", 0, &start, 1),
                queue::size_request("q"),
                queue::peek_request("q"),
                queue::iterator_request("q"),
            ],
        ),
    ] {
        for request in requests {
            let request = request.unwrap();
            assert_eq!(request.retry, retry, "{}", request.operation);
        }
    }
}

#[test]
fn a_request_beyond_the_limit_is_refused_before_anything_is_copied() {
    // Zeroed memory that nobody reads costs nothing.
    let huge = Data::from_bytes(vec![0; MAX_REQUEST_BYTES].into()).unwrap();
    let key = data("k");
    let half = Data::from_bytes(vec![0; MAX_REQUEST_BYTES / 2].into()).unwrap();
    for request in [
        map::set_request("m", &key, &huge),
        queue::offer_request("q", &huge, 0),
        queue::add_all_request("q", &[half.clone(), half]),
    ] {
        let error = request.unwrap_err();
        assert_eq!(error.kind(), Kind::TooLarge);
        assert!(error.to_string().contains("was not sent"), "{error}");
        assert!(!error.outcome_unknown());
    }
}

#[test]
fn a_request_is_shared_between_tries_and_differs_in_its_first_frame_alone() {
    let request = map::set_request("m", &data("k"), &data("x".repeat(1 << 20))).unwrap();
    assert_eq!(request.rest().as_ptr(), request.clone().rest().as_ptr());
    let first = wire(&request, 1, 5, false);
    let second = wire(&request, 2, 6, true);
    assert_eq!(first.len(), request.len());
    let first_frame = 6 + 16 + 16;
    assert_ne!(first[..first_frame], second[..first_frame]);
    assert_eq!(first[first_frame..], second[first_frame..]);
}

#[test]
fn debug_shows_no_content() {
    let request = map::set_request("m", &data("key"), &data("secret")).unwrap();
    let shown = format!("{request:?}");
    assert!(shown.contains("Map.Set") && !shown.contains("secret"), "{shown}");
}
