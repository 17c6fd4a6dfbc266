//! The rules of a mailbox that was named before. Time is the runtime's own, so nothing here waits.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::deliveries::{LONG, batch, batches, junk, start_on, until};
use super::scripted::Scripted;
use crate::engine::Mailbox;
use crate::roles::followed::Named;

const MINUTE: Duration = Duration::from_secs(60);

/// What is named: a first one, and later others.
struct Naming(watch::Sender<Named<dyn Mailbox>>);

impl Naming {
    fn subscribe(&self) -> watch::Receiver<Named<dyn Mailbox>> {
        self.0.subscribe()
    }

    fn name(&self, mailbox: &Arc<Scripted>) {
        self.0.send_replace(Named::new(mailbox.clone()));
    }

    fn next(&self, mailbox: Option<&Arc<Scripted>>) {
        let next = mailbox.map(|mailbox| mailbox.clone() as Arc<dyn Mailbox>);
        self.0.send_modify(|named| named.next = next);
    }
}

fn naming(first: &Arc<Scripted>) -> Naming {
    Naming(watch::Sender::new(Named::new(first.clone())))
}

/// Two mailboxes; what comes into the first may be kept in the second.
fn two() -> (Arc<Scripted>, Arc<Scripted>) {
    let (first, second) = (Scripted::named("first", []), Scripted::named("second", []));
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
    named.name(&second);
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
    named.name(&second);
    for n in 0..100 {
        first.put(batch(&n.to_string()));
    }
    first.put(junk("junk"));
    until(|| first.is_empty()).await;
    assert!(first.delivered_by().is_empty());
    assert_eq!(second.delivered_by().len(), 100);
    assert!(second.state().rejected.contains_key(b"junk".as_slice()));
    let former = &running.progress.details()["former_mailboxes"];
    assert_eq!(
        (former.as_array().unwrap().len(), &former[0]["name"]),
        (1, &json!("first")),
        "{former}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_former_mailbox_is_looked_at_as_before_for_60_s_then_once_a_minute() {
    let (first, second) = two();
    let named = naming(&first);
    let _running = start_on(named.subscribe(), "a", &[]);
    sleep(MINUTE).await;
    let start = Instant::now();
    named.name(&second);
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
    named.name(&second);
    // Half-way between two looks.
    sleep(10 * MINUTE + MINUTE / 2).await;
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
    named.name(&second);
    sleep(10 * MINUTE + MINUTE / 2).await;
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
    named.name(&second);
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
        (5..=11).contains(&looks_since(&first, start)),
        "it is asked every one to two minutes"
    );

    first.heal();
    first.put(batch("late"));
    sleep(3 * MINUTE).await;
    assert!(first.is_empty() && second.delivered_by().contains_key("late"));
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_delivered_into_keeps_all_that_waits_in_the_former() {
    let (first, second) = two();
    let named = naming(&first);
    let _running = start_on(named.subscribe(), "a", &[]);
    until(|| !first.state().looks.is_empty()).await;
    second.fail("store");
    named.name(&second);
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
        named.name(&Scripted::new([]));
    }
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    sleep(LONG).await;
    assert_eq!(looks_since(&first, start), 0);
    let former = running.progress.details()["former_mailboxes"].as_array().map(Vec::len);
    assert_eq!(former, Some(15));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_fails_for_a_moment_holds_a_long_former_one_up_for_a_moment() {
    let (first, second) = two();
    let named = naming(&first);
    let _running = start_on(named.subscribe(), "a", &[]);
    named.name(&second);
    sleep(10 * MINUTE + MINUTE / 2).await;
    second.fail("store");
    first.put(batch("late"));
    sleep(Duration::from_millis(200)).await;
    let start = Instant::now();
    second.heal();
    until(|| first.is_empty()).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_that_was_to_be_the_next_and_is_not_is_looked_at_since_others_may_have_used_it() {
    let (current, given_up) = two();
    given_up.state().kept_in = Some(current.clone());
    let named = naming(&current);
    let running = start_on(named.subscribe(), "a", &[]);
    sleep(Duration::from_secs(1)).await;
    named.next(Some(&given_up));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(given_up.state().looks.len(), 0, "not while it cannot be reached");
    named.next(None);
    given_up.put(batch("1"));
    until(|| given_up.is_empty()).await;
    assert!(current.delivered_by().contains_key("1"));
    assert_eq!(running.progress.details()["former_mailboxes"][0]["name"], "second");
}

#[tokio::test(start_paused = true)]
async fn one_that_was_to_be_the_next_and_is_now_named_is_looked_at_once() {
    let (first, second) = two();
    let named = naming(&first);
    let running = start_on(named.subscribe(), "a", &[]);
    named.next(Some(&second));
    sleep(Duration::from_secs(1)).await;
    named.name(&second);
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    sleep(MINUTE).await;
    assert!(looks_since(&second, start) <= 240 + 1, "one worker looks at it");
    assert_eq!(
        running.progress.details()["former_mailboxes"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn another_way_to_the_same_mailbox_takes_the_place_of_the_first() {
    let (first, second) = two();
    for mailbox in [&first, &second] {
        mailbox.state().identity = Some("the same".to_owned());
    }
    let named = naming(&first);
    let running = start_on(named.subscribe(), "a", &[]);
    sleep(Duration::from_secs(1)).await;
    named.name(&second);
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    sleep(MINUTE).await;
    assert_eq!(looks_since(&first, start), 0);
    assert!(looks_since(&second, start) >= 200);
    assert_eq!(running.progress.details()["former_mailboxes"], json!([]));
}
