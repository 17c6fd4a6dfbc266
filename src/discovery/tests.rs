//! What is followed, and who is chosen, before a registry that answers what a test hands it.

use std::collections::HashSet;
use std::sync::Mutex;

use anyhow::anyhow;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::*;
use crate::engine::{Listed, Registration, Unavailable};

const SECOND: Duration = Duration::from_secs(1);

type Answer = Result<Vec<Instance>>;

/// A registry that answers what a test hands it.
struct Scripted(Mutex<Option<mpsc::Receiver<Answer>>>);

impl Registry for Scripted {
    fn describe(&self) -> String {
        "a registry".to_owned()
    }

    fn advice(&self) -> String {
        "start it".to_owned()
    }

    fn register<'a>(&'a self, _: &'a Registration) -> BoxFuture<'a, Result<()>> {
        unreachable!("discovery registers nobody")
    }

    fn is_registered<'a>(&'a self, _: &'a Registration) -> BoxFuture<'a, Result<bool>> {
        unreachable!("discovery asks for nobody")
    }

    fn deregister<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        unreachable!("discovery takes nobody out")
    }

    fn all<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<Listed>>> {
        unreachable!("discovery follows, it does not list")
    }

    fn watch<'a>(&'a self, service: &'a str) -> BoxStream<'a, Answer> {
        assert_eq!(service, "test-service");
        let answers = self.0.lock().unwrap().take().unwrap();
        stream::unfold(answers, async |mut answers| Some((answers.recv().await?, answers))).boxed()
    }
}

/// What is followed, and the hand that feeds it.
struct Followed {
    discovery: Discovery,
    answers: mpsc::Sender<Answer>,
}

impl Followed {
    fn new() -> Self {
        let (answers, given) = mpsc::channel(1);
        let registry = Arc::new(Scripted(Mutex::new(Some(given))));
        let discovery = Discovery::follow(registry, "test-service");
        Self { discovery, answers }
    }

    async fn with(ids: &[&str]) -> Self {
        let followed = Self::new();
        followed.answer(Ok(instances(ids))).await;
        followed
    }

    /// Lets the registry give this answer; returns when it has had its effect.
    async fn answer(&self, answer: Answer) {
        self.answers.send(answer).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }

    fn ids(&self) -> Vec<String> {
        let instances = self.discovery.instances();
        instances.iter().map(|instance| instance.id.clone()).collect()
    }
}

fn instance(id: &str) -> Instance {
    Instance {
        id: id.to_owned(),
        host: "127.0.0.1".to_owned(),
        port: 1,
        version: None,
        since: None,
    }
}

fn instances(ids: &[&str]) -> Vec<Instance> {
    ids.iter().map(|id| instance(id)).collect()
}

fn error() -> Answer {
    Err(Unavailable {
        engine: "a registry".to_owned(),
        cause: anyhow!("connection refused"),
    })
}

#[tokio::test(start_paused = true)]
async fn each_answer_replaces_the_set_as_a_whole() {
    let followed = Followed::with(&["a", "b"]).await;
    followed.answer(Ok(instances(&["b", "c"]))).await;
    assert_eq!(followed.ids(), ["b", "c"]);
    followed.answer(Ok(instances(&["d"]))).await;
    assert_eq!(followed.ids(), ["d"]);
    assert_eq!(followed.discovery.pick(&[]).unwrap().id, "d");
}

#[tokio::test(start_paused = true)]
async fn an_error_and_an_empty_answer_keep_the_instances_that_were_known_last() {
    let followed = Followed::with(&["a"]).await;
    for answer in [error(), Ok(Vec::new()), error(), error()] {
        followed.answer(answer).await;
        assert_eq!(followed.ids(), ["a"]);
    }
    followed.answer(Ok(instances(&["b"]))).await;
    assert_eq!(followed.ids(), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn equal_content_is_not_published_again() {
    let followed = Followed::with(&["a", "b"]).await;
    let before = followed.discovery.instances();
    followed.answer(Ok(instances(&["a", "b"]))).await;
    assert!(Arc::ptr_eq(&before, &followed.discovery.instances()));
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_is_waited_for_up_to_the_limit_and_may_be_empty() {
    let followed = Followed::new();
    assert!(!followed.discovery.first(SECOND).await);
    followed.answer(error()).await;
    assert!(!followed.discovery.first(SECOND).await, "an error is no answer");
    assert_eq!(followed.discovery.age(), None);
    assert_eq!(followed.discovery.details()["age_seconds"], Value::Null);
    let answering = async {
        sleep(SECOND).await;
        followed.answer(Ok(Vec::new())).await;
    };
    let (answered, ()) = tokio::join!(followed.discovery.first(10 * SECOND), answering);
    assert!(answered);
    assert!(followed.ids().is_empty());
    assert!(followed.discovery.pick(&[]).is_none());
}

#[tokio::test(start_paused = true)]
async fn the_age_is_that_of_the_last_answer_whether_or_not_it_changed_anything() {
    let followed = Followed::with(&["a"]).await;
    sleep(60 * SECOND).await;
    followed.answer(error()).await;
    assert!(followed.discovery.age().unwrap() >= 60 * SECOND);
    let details = followed.discovery.details();
    assert_eq!(details, json!({ "instances": 1, "ejected": [], "age_seconds": 60 }));
    followed.answer(Ok(instances(&["a"]))).await;
    assert!(followed.discovery.age().unwrap() < SECOND);
    followed.call("a", Outcome::Failed);
    let details = followed.discovery.details();
    assert_eq!(details, json!({ "instances": 1, "ejected": ["a"], "age_seconds": 0 }));
}

#[tokio::test(start_paused = true)]
async fn instances_that_were_tried_are_passed_over() {
    let followed = Followed::with(&["a", "b", "c"]).await;
    for _ in 0..100 {
        assert_eq!(followed.discovery.pick(&["a", "c"]).unwrap().id, "b");
    }
    assert!(followed.discovery.pick(&["a", "b", "c"]).is_none());
}

#[tokio::test(start_paused = true)]
async fn of_two_the_one_with_fewer_requests_in_flight_is_chosen() {
    let followed = Followed::with(&["a", "b"]).await;
    let busy = followed.discovery.pick(&["b"]).unwrap();
    for _ in 0..100 {
        assert_eq!(followed.discovery.pick(&[]).unwrap().id, "b");
    }
    let held: Vec<Pick> = (0..99).map(|_| followed.discovery.pick(&[]).unwrap()).collect();
    assert_eq!(held.iter().filter(|pick| pick.id == "a").count(), 49);
    drop((busy, held));
    let _busy = followed.discovery.pick(&["a"]).unwrap();
    assert_eq!(
        followed.discovery.pick(&[]).unwrap().id,
        "a",
        "what was dropped counts no more"
    );
}

#[tokio::test(start_paused = true)]
async fn among_equals_chance_decides() {
    let followed = Followed::with(&["a", "b", "c"]).await;
    let chosen: HashSet<String> = (0..500)
        .map(|_| followed.discovery.pick(&[]).unwrap().id.clone())
        .collect();
    assert_eq!(chosen.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_counts_on_when_the_set_is_replaced() {
    let followed = Followed::with(&["a", "b"]).await;
    let _busy = followed.discovery.pick(&["b"]).unwrap();
    followed.answer(Ok(instances(&["a", "c"]))).await;
    for _ in 0..100 {
        assert_eq!(followed.discovery.pick(&[]).unwrap().id, "c");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_moved_is_called_at_its_new_place() {
    let followed = Followed::with(&["a"]).await;
    let moved = Instance {
        port: 2,
        ..instance("a")
    };
    followed.answer(Ok(vec![moved.clone()])).await;
    assert_eq!(*followed.discovery.pick(&[]).unwrap(), moved);
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_the_last_clone() {
    let Followed { discovery, answers } = Followed::with(&["a"]).await;
    let clone = discovery.clone();
    drop(discovery);
    answers.send(Ok(instances(&["b"]))).await.unwrap();
    sleep(SECOND).await;
    assert_eq!(clone.pick(&[]).unwrap().id, "b");
    drop(clone);
    sleep(SECOND).await;
    assert!(answers.is_closed());
}

impl Followed {
    /// A call at the instance of this id, which comes to `outcome`.
    fn call(&self, id: &str, outcome: Outcome) {
        let others: Vec<String> = self.ids().into_iter().filter(|other| other != id).collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        let pick = self.discovery.pick(&others).unwrap();
        assert_eq!(pick.id, id);
        pick.report(outcome);
    }

    /// Who is chosen, by many picks of which none is told anything.
    fn chosen(&self) -> HashSet<String> {
        (0..200).map(|_| self.discovery.pick(&[]).unwrap().id.clone()).collect()
    }
}

fn set(ids: &[&str]) -> HashSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_answer_is_passed_over_until_its_ejection_ends() {
    let followed = Followed::with(&["a", "b", "c"]).await;
    followed.call("a", Outcome::Failed);
    assert_eq!(followed.discovery.ejected(), ["a"]);
    assert_eq!(followed.chosen(), set(&["b", "c"]));
    sleep(Duration::from_millis(370)).await;
    assert_eq!(followed.chosen(), set(&["b", "c"]));
    sleep(Duration::from_millis(130)).await;
    assert!(followed.chosen().contains("a"));
}

#[tokio::test(start_paused = true)]
async fn after_its_ejection_one_request_at_a_time_tries_it_and_an_answer_brings_it_back() {
    let followed = Followed::with(&["a", "b", "c"]).await;
    followed.call("a", Outcome::Failed);
    sleep(SECOND).await;
    let trial = followed.discovery.pick(&["b", "c"]).unwrap();
    assert_eq!((trial.id.as_str(), trial.trial()), ("a", Some(1)));
    assert_eq!(followed.chosen(), set(&["b", "c"]), "one at a time");
    drop(trial);
    assert!(followed.chosen().contains("a"), "it told nothing");
    followed.call("a", Outcome::Failed);
    assert_eq!(followed.chosen(), set(&["b", "c"]));
    sleep(SECOND).await;
    let trial = followed.discovery.pick(&["b", "c"]).unwrap();
    assert_eq!(trial.trial(), Some(2));
    trial.report(Outcome::Answered);
    assert_eq!(followed.discovery.ejected(), [""; 0]);
    let all_at_once: HashSet<_> = (0..99)
        .map(|_| followed.discovery.pick(&["b", "c"]).unwrap())
        .map(|pick| (pick.id.clone(), pick.trial()))
        .collect();
    assert_eq!(all_at_once, HashSet::from([("a".to_owned(), None)]));
}

#[tokio::test(start_paused = true)]
async fn where_all_are_ejected_they_are_used_the_one_first_that_failed_least_often() {
    let followed = Followed::with(&["a", "b", "c"]).await;
    for _ in 0..2 {
        followed.call("a", Outcome::Failed);
        followed.call("b", Outcome::Failed);
        sleep(SECOND).await;
    }
    followed.call("a", Outcome::Failed);
    followed.call("b", Outcome::Failed);
    followed.call("c", Outcome::Failed);
    assert_eq!(followed.discovery.ejected(), ["a", "b", "c"]);
    assert_eq!(followed.chosen(), set(&["c"]));
    let last: HashSet<_> = (0..200)
        .map(|_| followed.discovery.pick(&["c"]).unwrap().id.clone())
        .collect();
    assert_eq!(last, set(&["a", "b"]));
}

#[tokio::test(start_paused = true)]
async fn the_only_one_is_never_left_out_nor_on_trial() {
    let followed = Followed::with(&["a"]).await;
    for _ in 0..3 {
        followed.call("a", Outcome::Failed);
        for wait in [Duration::ZERO, 40 * SECOND] {
            sleep(wait).await;
            let picks: Vec<Pick> = (0..9).map(|_| followed.discovery.pick(&[]).unwrap()).collect();
            assert!(picks.iter().all(|pick| pick.trial().is_none()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_registration_under_the_same_id_has_not_failed_yet() {
    let followed = Followed::with(&["a", "b"]).await;
    let since = |seconds| Instance {
        since: Some(std::time::SystemTime::UNIX_EPOCH + seconds * SECOND),
        ..instance("a")
    };
    followed.answer(Ok(vec![since(1), instance("b")])).await;
    followed.call("a", Outcome::Failed);
    followed.answer(Ok(vec![since(1), instance("b"), instance("c")])).await;
    assert_eq!(followed.discovery.ejected(), ["a"], "it is the same process");
    followed.answer(Ok(vec![since(2), instance("b")])).await;
    assert_eq!(followed.discovery.ejected(), [""; 0]);
    followed.call("a", Outcome::Failed);
    followed.answer(Ok(instances(&["b"]))).await;
    followed.answer(Ok(vec![since(2), instance("b")])).await;
    assert_eq!(followed.discovery.ejected(), [""; 0], "it passes again");
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_keeps_also_those_that_do_not_answer_and_new_ones_replace_them() {
    let followed = Followed::with(&["a", "b"]).await;
    followed.call("a", Outcome::Failed);
    followed.call("b", Outcome::Failed);
    followed.answer(Ok(Vec::new())).await;
    assert_eq!(followed.chosen(), set(&["a", "b"]), "an empty answer is not believed");
    followed.answer(Ok(instances(&["c"]))).await;
    assert_eq!(followed.chosen(), set(&["c"]));
}
