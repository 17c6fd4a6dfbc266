//! How long it takes to make the bytes of a request, to read those of an answer, and to bring a key into a partition:
//! `cargo bench --bench codec`.

use std::hint::black_box;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use criterion::{BatchSize, Criterion, Throughput};
use svc::hazelcast::wire::{Reader, write_offer, write_set};
use svc::hazelcast::{ToData, in_partition};

/// An identifier, and a text of the length that everything is measured with.
const KEY: &str = "01a21029-61c3-7010-98e4-a2c70e3b76a7";
const TEXT_BYTES: usize = 100;

/// Messages of a batch in the queue, and entries of an answer.
const BATCH: usize = 64;
const ENTRIES: usize = 1000;

/// Partitions of a cluster, unless it is told otherwise.
const PARTITIONS: i32 = 271;

/// Flags of a frame.
const UNFRAGMENTED: u16 = 0xC000;
const FINAL: u16 = 0x2000;
const BEGIN_STRUCT: u16 = 0x1000;
const END_STRUCT: u16 = 0x0800;

/// Message types of answers.
const MAP_SET: i32 = 0x01_0F01;
const MAP_GET: i32 = 0x01_0201;
const MAP_FETCH_ENTRIES: i32 = 0x01_3801;

fn frame(out: &mut BytesMut, flags: u16, content: &[u8]) {
    out.put_u32_le(u32::try_from(content.len() + 6).unwrap_or(u32::MAX));
    out.put_u16_le(flags);
    out.put_slice(content);
}

/// The first frame of an answer: type, correlation id, how many backups will confirm it.
fn answer(message_type: i32, flags: u16) -> BytesMut {
    let mut content = BytesMut::new();
    content.put_i32_le(message_type);
    content.put_i64_le(1);
    content.put_u8(1);
    let mut out = BytesMut::new();
    frame(&mut out, UNFRAGMENTED | flags, &content);
    out
}

fn value_answer(text: &str) -> BytesMut {
    let mut out = answer(MAP_GET, 0);
    frame(&mut out, FINAL, text.to_data().as_bytes());
    out
}

fn entries_answer(text: &str) -> BytesMut {
    let mut out = answer(MAP_FETCH_ENTRIES, 0);
    let (index, size) = (-1_i32, 0_i32);
    frame(&mut out, 0, &[index.to_le_bytes(), size.to_le_bytes()].concat());
    frame(&mut out, BEGIN_STRUCT, &[]);
    for _ in 0..ENTRIES {
        frame(&mut out, 0, KEY.to_data().as_bytes());
        frame(&mut out, 0, text.to_data().as_bytes());
    }
    frame(&mut out, END_STRUCT | FINAL, &[]);
    out
}

fn text() -> String {
    "x".repeat(TEXT_BYTES)
}

/// What a batch is in the queue.
fn item() -> String {
    let message = format!("{{\"identifier\":\"{KEY}\",\"text\":\"{}\"}}", text());
    format!(
        "{{\"batch\":\"{KEY}\",\"messages\":[{}]}}",
        vec![message; BATCH].join(",")
    )
}

fn encode(c: &mut Criterion) {
    let (text, item) = (text(), item());
    let mut out = BytesMut::new();
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    group.bench_function("set of a text", |b| {
        b.iter(|| {
            out.clear();
            let written = write_set("messages", black_box(KEY), black_box(&text), &mut out);
            black_box((written.is_ok(), out.len()))
        });
    });
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("offer of a batch of 64", |b| {
        b.iter(|| {
            out.clear();
            let written = write_offer("messaging_queue", black_box(&item), &mut out);
            black_box((written.is_ok(), out.len()))
        });
    });
    group.finish();
}

fn decode(c: &mut Criterion) {
    let text = text();
    let mut group = c.benchmark_group("decode");
    let mut answers = |name: &str, answer: BytesMut, elements: u64, read: fn(&mut Reader, &mut BytesMut) -> bool| {
        // A bench of what fails would measure nothing.
        assert!(read(&mut Reader::default(), &mut answer.clone()), "{name}");
        group.throughput(Throughput::Elements(elements));
        group.bench_function(name, |b| {
            let mut reader = Reader::default();
            b.iter_batched_ref(
                || answer.clone(),
                |received| black_box(read(&mut reader, received)),
                BatchSize::SmallInput,
            );
        });
    };
    answers("answer to a set", answer(MAP_SET, FINAL), 1, |reader, received| {
        reader.skip(received).is_ok_and(|bytes| bytes.is_some())
    });
    answers("answer to a get", value_answer(&text), 1, |reader, received| {
        reader.value(received).is_ok_and(|bytes| bytes.is_some())
    });
    answers(
        "1,000 entries",
        entries_answer(&text),
        ENTRIES as u64,
        |reader, received| reader.entries(received).is_ok_and(|entries| entries == Some(ENTRIES)),
    );
    group.finish();
}

/// What a new identifier costs beside what it is made of. Each partition in turn, since the digits to try are more or fewer.
fn partition(c: &mut Criterion) {
    let mut partition = 0;
    c.bench_function("identifier brought into a partition", |b| {
        b.iter(|| {
            partition = (partition + 1) % PARTITIONS;
            in_partition(black_box(KEY), partition, PARTITIONS)
        });
    });
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    encode(&mut criterion);
    decode(&mut criterion);
    partition(&mut criterion);
    criterion.final_summary();
}
