//! The rules of a mailbox that was named before. Time is the runtime's own, so nothing here waits.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::deliveries::{LONG, batch, batches, junk, start_on, until};
use super::scripted::Scripted;
use crate::engine::Mailbox;

const MINUTE: Duration = Duration::from_secs(60);

/// Names `first`, and later others.
fn naming(first: &Arc<Scripted>) -> watch::Sender<Arc<dyn Mailbox>> {
    watch::Sender::new(first.clone())
}

/// Two mailboxes; what comes into the first may be kept in the second.
fn two() -> (Arc<Scripted>, Arc<Scripted>) {
    let (first, second) = (Scripted::new([]), Scripted::new([]));
    first.state().kept_in = Some(second.clone());
    (first, second)
}

fn looks_since(mailbox: &Scripted, start: Instant) -> usize {
    mailbox.state().looks.iter().filter(|look| **look >= start).count()
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_is_named_later_is_delivered_from() {
    let (first, second) = two();
    let named = naming(&first);
    let running = start_on(named.subscribe(), "a", &[]);
    first.put(batch("1"));
    until(|| first.is_empty()).await;
    named.send_replace(second.clone());
    second.put(batch("2"));
    until(|| second.is_empty()).await;
    assert!(first.delivered_by().contains_key("1") && !first.delivered_by().contains_key("2"));
    assert!(second.delivered_by().contains_key("2"));
    until(|| running.progress.details()["delivered_messages"] == 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_still_comes_into_a_former_mailbox_is_delivered_into_the_one_that_is_named() {
    let (first, second) = two();
    let named = naming(&first);
    let running = start_on(named.subscribe(), "a", &[]);
    until(|| !first.state().looks.is_empty()).await;
    named.send_replace(second.clone());
    for n in 0..100 {
        first.put(batch(&n.to_string()));
    }
    first.put(junk("junk"));
    until(|| first.is_empty()).await;
    assert!(first.delivered_by().is_empty());
    assert_eq!(second.delivered_by().len(), 100);
    assert!(second.state().rejected.contains_key(b"junk".as_slice()));
    let former = &running.progress.details()["former_mailboxes"];
    assert_eq!(former[0]["name"], "a queue", "{former}");
}

#[tokio::test(start_paused = true)]
async fn a_former_mailbox_is_looked_at_as_before_for_60_s_then_once_a_minute() {
    let (first, second) = two();
    let named = naming(&first);
    let _running = start_on(named.subscribe(), "a", &[]);
    sleep(MINUTE).await;
    let start = Instant::now();
    named.send_replace(second.clone());
    sleep(MINUTE).await;
    let in_the_first_minute = looks_since(&first, start);
    assert!((230..=245).contains(&in_the_first_minute), "{in_the_first_minute}");
    sleep(MINUTE).await;
    let start = Instant::now();
    sleep(10 * MINUTE).await;
    let later = looks_since(&first, start);
    assert!((9..=11).contains(&later), "{later}");
    assert!(
        looks_since(&second, start) > 2000,
        "the one that is named is looked at as always"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hint_wakes_it_all_the_same() {
    let (first, second) = two();
    let named = naming(&first);
    let _running = start_on(named.subscribe(), "a", &[]);
    named.send_replace(second.clone());
    sleep(10 * MINUTE).await;
    let start = Instant::now();
    first.put(batch("late"));
    until(|| first.is_empty()).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(second.delivered_by().contains_key("late"));
}

#[tokio::test(start_paused = true)]
async fn what_waits_there_for_one_that_died_is_taken_after_2_s_at_any_time() {
    let (first, second) = two();
    let named = naming(&first);
    let _running = start_on(named.subscribe(), "a", &["a", "dead"]);
    named.send_replace(second.clone());
    sleep(10 * MINUTE).await;
    let start = Instant::now();
    for n in 0..50 {
        first.put(batch(&n.to_string()));
    }
    until(|| first.is_empty()).await;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(second.delivered_by().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_former_mailbox_that_is_away_holds_up_nothing_and_shows() {
    let (first, second) = two();
    let named = naming(&first);
    let running = start_on(named.subscribe(), "a", &[]);
    until(|| !first.state().looks.is_empty()).await;
    first.fail("look");
    named.send_replace(second.clone());
    sleep(10 * MINUTE).await;
    for item in batches(10) {
        second.put(item);
    }
    until(|| second.is_empty()).await;
    let details = running.progress.details();
    assert_eq!(details["failing_for_seconds"], json!(null), "{details}");
    assert_eq!(
        details["former_mailboxes"][0]["reason"], "a mailbox in memory: look refused",
        "{details}"
    );
    let start = Instant::now();
    sleep(10 * MINUTE).await;
    assert!(
        (9..=11).contains(&looks_since(&first, start)),
        "it is asked once a minute"
    );

    first.heal();
    first.put(batch("late"));
    sleep(2 * MINUTE).await;
    assert!(first.is_empty() && second.delivered_by().contains_key("late"));
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_delivered_into_keeps_all_that_waits_in_the_former() {
    let (first, second) = two();
    let named = naming(&first);
    let _running = start_on(named.subscribe(), "a", &[]);
    until(|| !first.state().looks.is_empty()).await;
    second.fail("store");
    named.send_replace(second.clone());
    first.put(batch("1"));
    sleep(LONG).await;
    assert_eq!(first.state().waiting, [batch("1")]);
    second.heal();
    until(|| first.is_empty()).await;
    assert!(second.delivered_by().contains_key("1"));
}

#[tokio::test(start_paused = true)]
async fn of_many_that_were_named_the_first_is_let_go() {
    let (first, _) = two();
    let named = naming(&first);
    let running = start_on(named.subscribe(), "a", &[]);
    for _ in 0..16 {
        sleep(Duration::from_secs(1)).await;
        named.send_replace(Scripted::new([]));
    }
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    sleep(LONG).await;
    assert_eq!(looks_since(&first, start), 0);
    let former = running.progress.details()["former_mailboxes"].as_array().map(Vec::len);
    assert_eq!(former, Some(15));
}
