//! The rules by which settings are followed. Time is the runtime's own, so nothing here waits.

use std::collections::HashMap;

use anyhow::anyhow;
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::config::MAILBOX;
use crate::engine::Unavailable;

/// Longer than a change takes to count.
const SOON: Duration = Duration::from_secs(5);

/// Settings whose watches show what a test hands them.
struct Scripted(Mutex<HashMap<String, mpsc::Receiver<Result<Held>>>>);

impl Settings for Scripted {
    fn describe(&self) -> String {
        "a script".to_owned()
    }

    fn advice(&self) -> String {
        unreachable!("a follower waits for nothing")
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        unreachable!("a follower waits for nothing")
    }

    fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Held>> {
        unreachable!("a follower only watches")
    }

    fn put_if_absent<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Option<String>>> {
        unreachable!("a follower only watches")
    }

    fn put<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<()>> {
        unreachable!("a follower only watches")
    }

    fn watch<'a>(&'a self, key: &'a str) -> BoxStream<'a, Result<Held>> {
        let seen = self.0.lock().unwrap().remove(key).expect("each key is watched once");
        stream::unfold(seen, |mut seen| async { Some((seen.recv().await?, seen)) })
            .chain(stream::pending())
            .boxed()
    }
}

struct Script {
    follower: Follower,
    show: HashMap<String, mpsc::Sender<Result<Held>>>,
}

fn current() -> EngineSettings {
    EngineSettings {
        cluster_name: "mq".to_owned(),
        object_name: "queue".to_owned(),
        members: vec!["a:1".to_owned()],
    }
}

fn script(follow_members: bool) -> Script {
    let (mut show, mut seen) = (HashMap::new(), HashMap::new());
    for key in [MAILBOX.cluster_name, MAILBOX.object_name, MAILBOX.members] {
        let (sender, receiver) = mpsc::channel(100);
        show.insert(key.name.to_owned(), sender);
        seen.insert(key.name.to_owned(), receiver);
    }
    let settings = Arc::new(Scripted(Mutex::new(seen)));
    Script {
        follower: Follower::new(settings, &MAILBOX, follow_members, current()),
        show,
    }
}

impl Script {
    fn show(&self, key: &str, seen: Result<Held>) {
        self.show[key].try_send(seen).unwrap();
    }

    fn value(&self, key: &str, value: &str) {
        self.show(key, Ok(Held::Value(value.to_owned())));
    }

    /// What it tells next, or `None` where it tells nothing.
    async fn changed(&mut self) -> Option<EngineSettings> {
        timeout(SOON, self.follower.changed()).await.ok()
    }

    fn problems(&self) -> Vec<(&'static str, String)> {
        self.follower.report().problems()
    }
}

fn away() -> Result<Held> {
    Err(Unavailable {
        engine: "a script".to_owned(),
        cause: anyhow!("connection refused"),
    })
}

#[tokio::test(start_paused = true)]
async fn what_stays_as_it_was_is_no_change() {
    let mut script = script(true);
    script.value("hz_mq_cluster_name", "mq");
    script.value("mq_name", " queue\n");
    script.value("hz_mq_members", "a:1");
    assert_eq!(script.changed().await, None);
    assert_eq!((script.problems(), script.follower.report().refused()), (vec![], 0));
}

#[tokio::test(start_paused = true)]
async fn keys_that_change_together_are_one_change() {
    let mut script = script(true);
    script.value("mq_name", "other");
    let change = async {
        for (key, value) in [("hz_mq_cluster_name", "mq2"), ("hz_mq_members", "b:2,c:3")] {
            tokio::time::sleep(SETTLE / 2).await;
            script.show[key].try_send(Ok(Held::Value(value.to_owned()))).unwrap();
        }
    };
    let (changed, ()) = tokio::join!(timeout(SOON, script.follower.changed()), change);
    let expected = EngineSettings {
        cluster_name: "mq2".to_owned(),
        object_name: "other".to_owned(),
        members: vec!["b:2".to_owned(), "c:3".to_owned()],
    };
    assert_eq!(changed.unwrap(), expected);
    assert_eq!(script.changed().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_never_rests_holds_a_change_up_for_a_limited_time() {
    let mut script = script(true);
    let show = script.show["mq_name"].clone();
    let restless = tokio::spawn(async move {
        for n in 0.. {
            show.try_send(Ok(Held::Value(format!("q{n}")))).unwrap();
            tokio::time::sleep(SETTLE / 2).await;
        }
    });
    let start = Instant::now();
    assert!(script.changed().await.is_some());
    assert!(start.elapsed() <= SETTLE_LIMIT + SETTLE, "{:?}", start.elapsed());
    restless.abort();
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_back_at_once_is_no_change() {
    let mut script = script(true);
    script.value("mq_name", "other");
    script.value("mq_name", "queue");
    assert_eq!(script.changed().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_change_survives_that_nobody_waits_for_it_any_more() {
    let mut script = script(true);
    script.value("mq_name", "other");
    assert!(timeout(SETTLE / 2, script.follower.changed()).await.is_err());
    assert_eq!(script.changed().await.unwrap().object_name, "other");
}

#[tokio::test(start_paused = true)]
async fn a_bad_value_is_refused_and_counted_once_and_the_last_one_stays() {
    let mut script = script(true);
    for bad in ["", "", "a\nb", "a\nb"] {
        script.value("mq_name", bad);
    }
    script.value("hz_mq_members", "nowhere");
    script.show(
        "hz_mq_cluster_name",
        Ok(Held::Unreadable("no text in UTF-8".to_owned())),
    );
    assert_eq!(script.changed().await, None);
    assert_eq!(script.follower.report().refused(), 4);
    let problems = script.problems();
    let of = |key: &str| &problems.iter().find(|(name, _)| *name == key).unwrap().1;
    assert!(
        of("mq_name").contains("\"a\\nb\" cannot be used: a name is needed"),
        "{problems:?}"
    );
    assert!(of("hz_mq_members").contains("expected host:port"), "{problems:?}");
    assert!(of("hz_mq_cluster_name").contains("no text in UTF-8"), "{problems:?}");

    script.value("mq_name", "good");
    assert_eq!(script.changed().await.unwrap().object_name, "good");
    assert!(script.problems().iter().all(|(key, _)| *key != "mq_name"));
    assert_eq!(
        script.follower.report().refused(),
        4,
        "it counts what was refused since the start"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deleted_key_keeps_its_last_value_and_says_so() {
    let mut script = script(true);
    script.value("mq_name", "queue");
    script.show("mq_name", Ok(Held::Missing));
    assert_eq!(script.changed().await, None);
    assert_eq!(
        script.problems(),
        [("mq_name", "the key was deleted; its last value is in force".to_owned())]
    );
    assert_eq!(script.follower.report().refused(), 0);
    script.value("mq_name", "queue");
    assert_eq!((script.changed().await, script.problems()), (None, vec![]));
}

#[tokio::test(start_paused = true)]
async fn members_that_nobody_named_are_no_deleted_key() {
    let mut script = script(true);
    script.show("hz_mq_members", Ok(Held::Missing));
    assert_eq!((script.changed().await, script.problems()), (None, vec![]));
    script.value("hz_mq_members", "b:2");
    assert_eq!(script.changed().await.unwrap().members, ["b:2"]);
    script.show("hz_mq_members", Ok(Held::Missing));
    assert_eq!((script.changed().await, script.problems().len()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn settings_that_are_away_change_nothing() {
    let mut script = script(true);
    for key in ["mq_name", "hz_mq_members", "hz_mq_cluster_name"] {
        script.show(key, away());
        script.show(key, away());
    }
    assert_eq!((script.changed().await, script.problems()), (None, vec![]));
    script.value("mq_name", "other");
    assert_eq!(script.changed().await.unwrap().object_name, "other");
}

#[tokio::test(start_paused = true)]
async fn members_that_are_given_are_not_followed() {
    let mut script = script(false);
    assert!(
        script.show["hz_mq_members"]
            .try_send(Ok(Held::Value("b:2".to_owned())))
            .is_ok()
    );
    assert_eq!(script.changed().await, None);
    script.value("mq_name", "other");
    assert_eq!(script.changed().await.unwrap().members, ["a:1"]);
}
