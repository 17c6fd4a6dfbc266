//! The rules of delivery. Time is the runtime's own, so nothing here waits.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::super::deliverer::Deliverer;
use super::super::progress::Progress;
use super::scripted::Scripted;
use crate::engine::{Batch, Item, Mailbox};
use crate::message::Message;
use crate::roles::followed::Named;

/// In the time of a test: more than any rule lets pass.
pub(super) const LONG: Duration = Duration::from_secs(60);

pub(super) fn batch(id: &str) -> Item {
    let message = Message {
        identifier: format!("{id}-1"),
        text: format!("text of {id}"),
    };
    Item {
        token: id.to_owned().into(),
        content: Ok(Batch {
            id: id.to_owned(),
            messages: vec![message],
        }),
    }
}

pub(super) fn batches(count: usize) -> Vec<Item> {
    (0..count).map(|n| batch(&n.to_string())).collect()
}

pub(super) fn junk(token: &'static str) -> Item {
    Item {
        token: token.into(),
        content: Err("it is no JSON".to_owned()),
    }
}

/// A deliverer called `own` that takes `live` for the live instances, and its end.
pub(super) struct Running {
    deliverer: Deliverer,
    pub(super) progress: Arc<Progress>,
    stop: oneshot::Sender<()>,
}

fn start(mailbox: &Arc<Scripted>, own: &str, live: &'static [&'static str]) -> Running {
    start_on(
        watch::channel(Named::new(mailbox.clone() as Arc<dyn Mailbox>)).1,
        own,
        live,
    )
}

/// The same, from the mailbox that is named there.
pub(super) fn start_on(
    named: watch::Receiver<Named<dyn Mailbox>>,
    own: &str,
    live: &'static [&'static str],
) -> Running {
    let progress = Arc::new(Progress::default());
    let (stop, stopped) = oneshot::channel();
    let live = Arc::new(|| live.iter().map(|id| (*id).to_owned()).collect());
    let deliverer = Deliverer::start(named, own.to_owned(), live, progress.clone(), stopped.map(drop));
    Running {
        deliverer,
        progress,
        stop,
    }
}

pub(super) async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, met).await.expect("it does not come about");
}

/// Where each step stands among those that were begun.
fn position(mailbox: &Scripted, step: &str) -> Option<usize> {
    mailbox.state().begun.iter().position(|begun| begun == step)
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_stored_and_then_removed() {
    let mailbox = Scripted::new(batches(500));
    let running = start(&mailbox, "a", &[]);
    until(|| mailbox.is_empty()).await;
    assert_eq!(mailbox.delivered_by().len(), 500);
    assert!(mailbox.delivered_by().values().all(|by| by == "a"));
    until(|| running.progress.details()["delivered_messages"] == 500).await;
}

#[tokio::test(start_paused = true)]
async fn what_two_instances_handle_at_once_is_counted_by_the_one_that_took_it_out() {
    let mailbox = Scripted::new(batches(10).into_iter().chain([junk("x"), junk("x"), junk("y")]));
    mailbox.hold("remove");
    // Neither knows of the other, so each takes all of them on.
    let both = [start(&mailbox, "a", &[]), start(&mailbox, "b", &[])];
    let removals = || {
        mailbox
            .state()
            .begun
            .iter()
            .filter(|step| step.starts_with("remove"))
            .count()
    };
    until(|| removals() == 26).await;
    mailbox.gate.add_permits(26);
    until(|| mailbox.is_empty()).await;
    sleep(LONG).await;
    let counted = |count: &str| {
        both.iter()
            .map(|one| one.progress.details()[count].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((counted("delivered_messages"), counted("rejected_items")), (10, 3));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_cannot_be_stored_stays_and_stops_no_other() {
    let mailbox = Scripted::new(batches(300));
    mailbox.fail("store 0");
    let running = start(&mailbox, "a", &[]);
    until(|| mailbox.state().waiting.len() == 1).await;
    sleep(LONG).await;
    assert_eq!(mailbox.state().waiting, [batch("0")]);
    assert_eq!(position(&mailbox, "remove 0"), None);
    assert_eq!(running.progress.details()["failing_for_seconds"], 60);

    mailbox.heal();
    until(|| mailbox.is_empty()).await;
    assert_eq!(mailbox.delivered_by().len(), 300);
}

#[tokio::test(start_paused = true)]
async fn what_was_stored_by_one_that_died_before_it_removed_is_delivered_once() {
    let mailbox = Scripted::new(batches(10));
    mailbox.hold("remove");
    let dead = start(&mailbox, "dead", &[]);
    until(|| mailbox.delivered_by().len() == 10).await;
    dead.deliverer.finish().await;
    assert_eq!(mailbox.state().waiting.len(), 10);

    mailbox.state().gated.clear();
    let _alive = start(&mailbox, "alive", &[]);
    until(|| mailbox.is_empty()).await;
    assert_eq!(mailbox.delivered_by().len(), 10);
    assert!(mailbox.delivered_by().values().all(|by| by == "dead"));
}

#[tokio::test(start_paused = true)]
async fn what_was_offered_twice_under_one_id_is_delivered_once() {
    let mailbox = Scripted::new([batch("b"), batch("b")]);
    let _running = start(&mailbox, "a", &[]);
    until(|| mailbox.is_empty()).await;
    mailbox.put(batch("b"));
    until(|| mailbox.is_empty()).await;
    assert_eq!(
        mailbox.delivered_by(),
        BTreeMap::from([("b".to_owned(), "a".to_owned())])
    );
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_one_that_does_nothing_is_taken_after_2_s_and_not_before() {
    let mailbox = Scripted::new(
        batches(100)
            .into_iter()
            .chain([junk("x"), junk("y"), junk("z"), junk("w")]),
    );
    let start_of_all = Instant::now();
    let _running = start(&mailbox, "a", &["a", "dead"]);
    until(|| mailbox.state().looks.len() > 2).await;
    let own = mailbox.delivered_by().len();
    assert!((20..80).contains(&own), "{own}");
    until(|| mailbox.delivered_by().len() > own).await;
    let waited = start_of_all.elapsed();
    assert!(
        waited > Duration::from_secs(2) && waited < Duration::from_millis(2500),
        "{waited:?}"
    );
    until(|| mailbox.is_empty()).await;
    assert_eq!(mailbox.state().rejected.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn two_who_know_each_other_share_the_work() {
    let mailbox = Scripted::new(batches(200));
    let live: &[&str] = &["a", "b"];
    let _running = [start(&mailbox, "a", live), start(&mailbox, "b", live)];
    until(|| mailbox.is_empty()).await;
    let stores: Vec<String> = mailbox
        .state()
        .begun
        .iter()
        .filter(|step| step.starts_with("store"))
        .cloned()
        .collect();
    assert_eq!(stores.len(), 200);
    assert_eq!(mailbox.delivered_by().values().collect::<HashSet<_>>().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_idea_of_who_is_live_loses_nothing_and_delivers_nothing_twice() {
    let ideas: [(&[&str], &[&str]); 3] = [(&[], &[]), (&["a", "b", "c"], &["c", "d"]), (&["b"], &["a"])];
    for (of_a, of_b) in ideas {
        let mailbox = Scripted::new(batches(100));
        let _running = [start(&mailbox, "a", of_a), start(&mailbox, "b", of_b)];
        until(|| mailbox.is_empty()).await;
        assert_eq!(mailbox.delivered_by().len(), 100);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_set_aside_before_it_is_removed_and_the_rest_flows() {
    let mailbox = Scripted::new([batch("1"), junk("x"), batch("2")]);
    mailbox.fail("reject");
    let running = start(&mailbox, "a", &[]);
    until(|| mailbox.state().waiting.len() == 1).await;
    sleep(LONG).await;
    assert_eq!(mailbox.state().waiting, [junk("x")]);
    assert_eq!(running.progress.details()["rejected_items"], 0);

    mailbox.heal();
    until(|| mailbox.is_empty()).await;
    let rejected = BTreeMap::from([(b"x".to_vec(), "it is no JSON".to_owned())]);
    assert_eq!(mailbox.state().rejected, rejected);
    until(|| running.progress.details()["rejected_items"] == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_the_round_finish() {
    let mailbox = Scripted::new(batches(3));
    mailbox.hold("store");
    let running = start(&mailbox, "a", &[]);
    until(|| position(&mailbox, "store 2").is_some()).await;
    running.stop.send(()).unwrap();
    sleep(Duration::from_millis(100)).await;
    mailbox.gate.add_permits(3);
    running.deliverer.finish().await;
    assert!(mailbox.is_empty());
    let looks = mailbox.state().looks.len();
    mailbox.put(batch("late"));
    sleep(LONG).await;
    assert_eq!(mailbox.state().looks.len(), looks, "it looks no more");
}

#[tokio::test(start_paused = true)]
async fn a_round_that_hangs_holds_a_stop_up_for_1_s() {
    let mailbox = Scripted::new(batches(1));
    mailbox.hold("store");
    let running = start(&mailbox, "a", &[]);
    until(|| position(&mailbox, "store 0").is_some()).await;
    let asked = Instant::now();
    running.deliverer.finish().await;
    assert!(asked.elapsed() < Duration::from_millis(1100), "{:?}", asked.elapsed());
    assert_eq!(mailbox.state().waiting.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_hangs_is_given_up_and_tried_again() {
    let mailbox = Scripted::new(batches(1));
    mailbox.hold("store");
    let running = start(&mailbox, "a", &[]);
    until(|| running.progress.details()["failing_for_seconds"].is_number()).await;
    let reason = running.progress.details()["reason"].to_string();
    assert!(
        reason.contains("a mailbox in memory: no answer within 4.3s"),
        "{reason}"
    );
    mailbox.state().gated.clear();
    until(|| mailbox.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn it_looks_when_something_is_put_in_and_every_250_ms_all_the_same() {
    let mailbox = Scripted::new([]);
    let _running = start(&mailbox, "a", &[]);
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(mailbox.state().looks.len(), 5, "at 0, 250, 500, 750 and 1000 ms");
    mailbox.put(batch("b"));
    sleep(Duration::from_millis(10)).await;
    assert!(mailbox.is_empty());
    assert_eq!(mailbox.state().looks.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn looks_are_20_ms_apart_however_much_is_put_in() {
    let mailbox = Scripted::new([]);
    let _running = start(&mailbox, "a", &[]);
    for n in 0..200 {
        mailbox.put(batch(&n.to_string()));
        sleep(Duration::from_millis(1)).await;
    }
    until(|| mailbox.is_empty()).await;
    let looks = mailbox.state().looks.clone();
    let gaps = looks.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(gaps.min().unwrap() >= Duration::from_millis(20));
    assert!(looks.len() > 8, "{}", looks.len());
}

#[tokio::test(start_paused = true)]
async fn under_load_it_is_told_of_nothing_and_looks_all_the_same_until_nothing_is_put_in_any_more() {
    let mailbox = Scripted::new([]);
    let _running = start(&mailbox, "a", &[]);
    let looks = || mailbox.state().looks.len();
    for n in 0..200 {
        mailbox.put(batch(&n.to_string()));
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(mailbox.listeners(), 0);
    let before = looks();
    for n in 200..300 {
        mailbox.put(batch(&n.to_string()));
        sleep(Duration::from_millis(5)).await;
    }
    assert!(
        (23..=25).contains(&(looks() - before)),
        "20 ms apart: {}",
        looks() - before
    );
    assert_eq!(mailbox.listeners(), 0);

    sleep(Duration::from_millis(300)).await;
    assert!(mailbox.is_empty());
    assert_eq!(mailbox.listeners(), 1);
    let before = looks();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(looks() - before, 40);
    mailbox.put(batch("at once"));
    sleep(Duration::from_millis(1)).await;
    assert!(mailbox.is_empty());
}

#[tokio::test(start_paused = true)]
async fn it_is_told_of_nothing_also_where_deliveries_take_longer_than_looks_are_apart() {
    let mailbox = Scripted::new([]);
    mailbox.state().store_takes = Duration::from_millis(30);
    let _running = start(&mailbox, "a", &[]);
    for n in 0..200 {
        mailbox.put(batch(&n.to_string()));
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(mailbox.listeners(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_put_in_now_and_then_is_told_of() {
    let mailbox = Scripted::new([]);
    let _running = start(&mailbox, "a", &[]);
    for n in 0..200 {
        sleep(Duration::from_millis(21)).await;
        mailbox.put(batch(&n.to_string()));
        sleep(Duration::from_millis(1)).await;
        assert!(mailbox.is_empty());
        assert_eq!(mailbox.listeners(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_shows_one_item_at_a_time_is_emptied_at_once_by_whoever_looks() {
    for live in [&[][..], &["a", "dead"], &["a", "b", "c", "d"]] {
        let mailbox = Scripted::new(batches(200).into_iter().chain([junk("x")]));
        mailbox.state().shown = Some(1);
        let began = Instant::now();
        let _running = start(&mailbox, "a", live);
        until(|| mailbox.is_empty()).await;
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{live:?}: {:?}",
            began.elapsed()
        );
        assert_eq!(mailbox.delivered_by().len(), 200);
        let looks = mailbox.state().looks.clone();
        let gaps = looks.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.min().unwrap() >= Duration::from_millis(5));
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_mailbox_is_away_it_is_tried_at_growing_intervals_with_one_word_at_each_end() {
    let log = Log::default();
    let _logging = log.listen();
    let mailbox = Scripted::new(batches(2));
    mailbox.fail("look");
    let running = start(&mailbox, "a", &[]);
    sleep(LONG).await;
    let looks = mailbox.state().looks.len();
    assert!((30..=70).contains(&looks), "{looks} looks in a minute");
    assert!(
        log.text().contains("a mailbox in memory: look refused"),
        "{}",
        log.text()
    );
    mailbox.heal();
    until(|| mailbox.is_empty()).await;
    until(|| running.progress.details()["failing_for_seconds"].is_null()).await;
    let (warnings, ends) = (
        log.text().matches("WARN").count(),
        log.text().matches("delivering again").count(),
    );
    assert_eq!((warnings, ends), (1, 1), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_round_gives_up_when_all_of_it_fails() {
    let mailbox = Scripted::new(batches(1000));
    mailbox.fail("store");
    let _running = start(&mailbox, "a", &[]);
    until(|| mailbox.state().looks.len() == 2).await;
    let stores = mailbox
        .state()
        .begun
        .iter()
        .filter(|step| step.starts_with("store"))
        .count();
    assert!(stores < 300, "{stores}");
    assert_eq!(mailbox.state().waiting.len(), 1000);
}

/// What the deliverers of a test log; they all run on its thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
