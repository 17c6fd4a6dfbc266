//! Posts that come together: logged as arrays, handed over as batches, and each of them answered alone.

use std::collections::HashMap;

use futures_util::future::join_all;
use hyper::header::CONTENT_TYPE;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;
use crate::engine::MAX_BATCH_BYTES;
use crate::roles::facade::log::{MAX_ARRAY_BYTES, MAX_MESSAGES};
use crate::roles::followed::Named;

/// The texts `name-0`, `name-1` and so on.
fn texts(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}")).collect()
}

/// Posts all of them at once.
async fn post_all(setting: &Setting, texts: &[impl AsRef<str>]) -> Vec<Answered> {
    join_all(texts.iter().map(|text| setting.post(text.as_ref()))).await
}

/// Posts all of them at once, and all are acknowledged.
async fn acknowledge_all(setting: &Setting, texts: &[impl AsRef<str>]) {
    for answer in post_all(setting, texts).await {
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 201, "{said}");
    }
}

/// The texts that came in one request.
fn texts_of(seen: &Seen) -> Vec<String> {
    let text = |message: &Value| message["text"].as_str().unwrap().to_owned();
    match seen.json() {
        Value::Array(messages) => messages.iter().map(text).collect(),
        message => vec![text(&message)],
    }
}

/// How often each text came.
fn counted<'a>(peers: impl IntoIterator<Item = &'a Peer>) -> HashMap<String, usize> {
    let mut counted = HashMap::new();
    for seen in peers.into_iter().flat_map(Peer::seen) {
        for text in texts_of(&seen) {
            *counted.entry(text).or_default() += 1;
        }
    }
    counted
}

/// The texts of all that was offered.
fn offered_texts(setting: &Setting) -> Vec<String> {
    let batches = setting.offered();
    let messages = batches.into_iter().flat_map(|batch| batch.messages);
    let mut texts: Vec<String> = messages.map(|message| message.text).collect();
    texts.sort();
    texts
}

fn sorted(texts: &[impl AsRef<str>]) -> Vec<String> {
    let mut texts: Vec<String> = texts.iter().map(|text| text.as_ref().to_owned()).collect();
    texts.sort();
    texts
}

/// An instance of ours that answers each message by what `status_of` says of its text.
async fn instance(name: &str, status_of: impl Fn(&str) -> u16 + Send + Sync + 'static) -> Peer {
    let act = move |seen: &Seen| {
        let texts = texts_of(seen);
        let statuses: Vec<u16> = texts.iter().map(|text| status_of(text)).collect();
        if seen.json().is_object() {
            return Act::json(statuses[0], "{}");
        }
        let items: Vec<Value> = statuses.iter().map(|status| json!({ "status": status })).collect();
        let all_created = statuses.iter().all(|status| *status == 201);
        Act::json(if all_created { 201 } else { 207 }, &json!(items).to_string())
    };
    Peer::start(name, act).await
}

#[tokio::test]
async fn posts_that_come_together_are_logged_and_handed_over_together_and_answered_each_for_itself() {
    let good = peer("good", logged()).await;
    let setting = Setting::logging(Scripted::default(), &[&good]).await;
    let texts = texts("text", 50);
    let answers = post_all(&setting, &texts).await;
    let mut identifiers = HashMap::new();
    for (answer, text) in answers.iter().zip(&texts) {
        let json = answer.json();
        assert_eq!((answer.status, &json["text"]), (201, &json!(text)));
        assert_eq!(answer.headers["content-type"], "application/json");
        identifiers.insert(json["identifier"].as_str().unwrap().to_owned(), text.clone());
    }
    assert_eq!(identifiers.len(), 50);
    assert!(good.seen().len() < 10, "{} requests", good.seen().len());
    for seen in good.seen() {
        assert_eq!(seen.line, "POST /log");
        assert!(!seen.headers.contains_key("if-none-match"));
        for message in seen.json().as_array().unwrap() {
            assert_eq!(message["text"], identifiers[message["identifier"].as_str().unwrap()]);
        }
    }
    assert_eq!(counted([&good]).len(), 50);
    let batches = setting.offered();
    assert!(batches.len() < 10, "{} batches", batches.len());
    assert_eq!(offered_texts(&setting), sorted(&texts));
    let ids: std::collections::HashSet<_> = batches.iter().map(|batch| &batch.id).collect();
    assert_eq!(ids.len(), batches.len());
}

#[tokio::test]
async fn identifiers_are_made_for_the_batch_that_leaves_next() {
    let good = peer("good", logged()).await;
    let setting = Setting::logging(Scripted::default(), &[&good]).await;
    let batch_of = |answer: &Answered| {
        let answer = answer.json();
        let (batch, _) = answer["identifier"].as_str().unwrap().split_once('-').unwrap();
        batch.parse::<usize>().unwrap()
    };
    for batch in 0..3 {
        assert_eq!(batch_of(&setting.post("alone").await), batch);
    }
    let together = post_all(&setting, &texts("text", 50)).await;
    let last = together.iter().map(batch_of).max();
    assert!(last < Some(3 + good.seen().len()), "{last:?}");
    assert!(together.iter().map(batch_of).all(|batch| batch >= 3));
}

#[tokio::test]
async fn a_request_and_a_batch_have_at_most_1024_messages() {
    let good = peer("good", logged()).await;
    let setting = Setting::logging(Scripted::default(), &[&good]).await;
    let texts = texts("text", 3000);
    acknowledge_all(&setting, &texts).await;
    let most = good.seen().iter().map(|seen| texts_of(seen).len()).max();
    assert_eq!(most, Some(MAX_MESSAGES));
    let most = setting.offered().iter().map(|batch| batch.messages.len()).max();
    assert!(most <= Some(MAX_MESSAGES), "{most:?}");
    assert_eq!(offered_texts(&setting), sorted(&texts));
}

#[tokio::test]
async fn more_than_4096_messages_in_work_are_a_503_and_cost_those_that_were_taken_nothing() {
    let good = peer("good", logged()).await;
    let setting = Setting::logging(Scripted::default(), &[&good]).await;
    let texts = texts("text", 4100);
    let answers = post_all(&setting, &texts).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 201).collect();
    assert_eq!(refused.len(), 4);
    for answer in refused {
        let message = answer.unavailable();
        assert!(message.starts_with("overloaded: "), "{message}");
    }
    assert_eq!(offered_texts(&setting).len(), 4096);
    acknowledge_all(&setting, &["next"]).await;
}

#[tokio::test]
async fn the_longest_messages_among_small_ones_are_divided_so_that_each_request_and_each_batch_fits() {
    let good = peer("good", logged()).await;
    let setting = Setting::logging(Scripted::default(), &[&good]).await;
    let longest = "\u{1}".repeat(1024 * 1024);
    let texts: Vec<&str> = (0..40)
        .map(|number| if number % 10 == 3 { longest.as_str() } else { "small" })
        .collect();
    let posts = texts.iter().map(|text| {
        let request = hyper::Request::post("/message").header(CONTENT_TYPE, "application/json");
        let body = json!({ "text": text }).to_string();
        setting.ask(request.body(Full::new(body.into())).unwrap())
    });
    for (answer, text) in join_all(posts).await.iter().zip(&texts) {
        assert_eq!(answer.status, 201);
        assert!(answer.json()["text"] == *text);
    }
    let bodies: Vec<usize> = good.seen().iter().map(|seen| seen.body.len()).collect();
    assert!(bodies.iter().all(|bytes| *bytes <= MAX_ARRAY_BYTES), "{bodies:?}");
    assert!(bodies.len() < 20, "the small ones go along: {bodies:?}");
    for batch in setting.offered() {
        let item = json!({ "batch": batch.id, "messages": batch.messages }).to_string();
        assert!(item.len() + 16 <= MAX_BATCH_BYTES, "{}", item.len());
    }
    assert!(offered_texts(&setting) == sorted(&texts));
}

#[tokio::test]
async fn of_a_batch_each_message_is_answered_by_its_own_status() {
    let status_of = |text: &str| match text {
        "away" => 503,
        "late" => 408,
        "bad" => 413,
        _ => 201,
    };
    let texts = ["a", "away", "b", "bad", "late", "c"];
    let (mut was_mixed, mut rounds) = (false, 0);
    while !was_mixed {
        let (mixed, good) = (instance("mixed", status_of).await, instance("good", |_| 201).await);
        let setting = Setting::logging(Scripted::default(), &[&mixed, &good]).await;
        let answers = post_all(&setting, &texts).await;
        // Which of the two is asked first is up to chance.
        was_mixed = !mixed.seen().is_empty();
        rounds += 1;
        assert!(rounds < 100);
        if !was_mixed {
            continue;
        }
        for (answer, text) in answers.iter().zip(texts) {
            if text == "bad" {
                let message = answer.unavailable();
                assert_eq!(message, "the message was not logged: mixed answered 413");
            } else {
                assert_eq!((answer.status, &answer.json()["text"]), (201, &json!(text)));
            }
        }
        let elsewhere = counted([&good]);
        assert_eq!((elsewhere.len(), elsewhere["away"], elsewhere["late"]), (2, 1, 1));
        assert_eq!(offered_texts(&setting), ["a", "away", "b", "c", "late"]);
    }
}

#[tokio::test]
async fn what_is_logged_is_handed_over_while_others_of_its_batch_are_tried_again() {
    let only = instance("only", |text| if text == "away" { 503 } else { 201 }).await;
    let setting = Setting::logging(Scripted::default(), &[&only]).await;
    let start = Instant::now();
    let others_are_offered = async {
        let offered = async {
            while offered_texts(&setting) != ["a", "b", "c"] {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, offered).await.expect("the others are not offered");
        start.elapsed()
    };
    let texts = ["a", "away", "b", "c"];
    let (answers, after) = tokio::join!(post_all(&setting, &texts), others_are_offered);
    assert!(after < Duration::from_secs(2), "{after:?}");
    for (answer, text) in answers.iter().zip(texts) {
        assert_eq!(answer.status, if text == "away" { 503 } else { 201 }, "{text}");
    }
}

#[tokio::test]
async fn a_batch_leaves_when_the_one_before_is_handed_over_and_not_when_it_is_logged() {
    let good = peer("good", logged()).await;
    let hanging = Scripted {
        outcomes: Mutex::new(vec![Outcome::Hang]),
        ..Scripted::default()
    };
    let setting = Setting::logging(hanging, &[&good]).await;
    let start = Instant::now();
    let next = async {
        until_offered(&setting.mailbox, 1).await;
        acknowledge_all(&setting, &["next"]).await;
        start.elapsed()
    };
    let (_hung, after) = tokio::join!(post_all(&setting, &["first"]), next);
    // One that hangs there holds the next one up for so long, and no longer.
    assert!((100..2000).contains(&after.as_millis()), "{after:?}");
}

#[tokio::test]
async fn an_instance_that_fails_with_a_batch_costs_none_of_its_messages() {
    let failures = [
        Act::Reset,
        Act::AnswerAndClose(b"HTTP/1.1 201 Created\r\ncontent-length: 9\r\n\r\n[{".to_vec()),
        Act::json(503, "{}"),
        Act::json(500, "{}"),
        Act::json(429, "{}"),
        Act::json(400, "{}"),
        Act::json(207, "[]"),
        Act::json(207, "[{\"status\":201},{\"status\":5},{\"status\":201}]"),
        Act::json(207, "no JSON"),
        Act::Hang,
    ];
    for act in failures {
        let fails = move |seen: &Seen| {
            if seen.json().is_array() { act.clone() } else { logged() }
        };
        let (bad, good) = (Peer::start("bad", fails).await, peer("good", logged()).await);
        let setting = Setting::logging(Scripted::default(), &[&bad, &good]).await;
        let (texts, start) = (texts("text", 3), Instant::now());
        let mut posted = Vec::new();
        while bad.seen().is_empty() {
            acknowledge_all(&setting, &texts).await;
            posted.extend(texts.clone());
        }
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!(offered_texts(&setting), sorted(&posted));
    }
}

#[tokio::test]
async fn a_batch_that_an_instance_cannot_take_now_goes_to_the_next_as_a_whole() {
    let away = || Act::json(503, "{\"error\":{\"message\":\"engine away: the log\"}}");
    let (bad, good) = (peer("bad", away()).await, peer("good", logged()).await);
    let gone = dead("gone").await;
    let setting = Setting::logging(Scripted::default(), &[&bad, &gone, &good]).await;
    acknowledge_all(&setting, &texts("text", 20)).await;
    assert!(good.seen().len() < 5, "{} requests", good.seen().len());
}

#[tokio::test]
async fn a_message_that_brings_down_whoever_gets_it_fails_alone() {
    let act = |seen: &Seen| {
        if texts_of(seen).contains(&"poison".to_owned()) {
            Act::Reset
        } else {
            logged()
        }
    };
    let (a, b) = (Peer::start("a", act).await, Peer::start("b", act).await);
    let setting = Setting::logging(Scripted::default(), &[&a, &b]).await;
    let start = Instant::now();
    let texts = ["a", "poison", "b", "c"];
    let posts = texts.map(|text| async {
        let answer = setting.post(text).await;
        (answer, start.elapsed())
    });
    for ((answer, after), text) in join_all(posts).await.into_iter().zip(texts) {
        if text == "poison" {
            let message = answer.unavailable();
            assert!(message.contains("no instance of logging-service"), "{message}");
            assert!(after < Duration::from_secs(5), "{after:?}");
        } else {
            assert_eq!(answer.status, 201);
            assert!(after < Duration::from_secs(2), "{text} waited for {after:?}");
        }
    }
    assert_eq!(offered_texts(&setting), ["a", "b", "c"]);
}

#[tokio::test]
async fn while_an_instance_hangs_under_load_nothing_fails_and_nobody_waits_for_more_than_2_s() {
    let (hung, a, b) = (
        peer("hung", Act::Hang).await,
        peer("a", logged()).await,
        peer("b", logged()).await,
    );
    let setting = Setting::logging(Scripted::default(), &[&hung, &a, &b]).await;
    let end = Instant::now() + Duration::from_secs(3);
    let clients = (0..16).map(|client| {
        let setting = &setting;
        async move {
            while Instant::now() < end {
                let start = Instant::now();
                let answer = setting.post(&format!("text-{client}")).await;
                assert_eq!(answer.status, 201);
                assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
            }
        }
    });
    join_all(clients).await;
    assert!(!hung.seen().is_empty());
}

#[tokio::test]
async fn one_of_another_origin_gets_its_share_one_by_one_and_ours_get_arrays() {
    let mut foreign = peer("foreign", Act::json(200, "[]")).await;
    foreign.instance.version = None;
    let ours = peer("ours", logged()).await;
    let setting = Setting::logging(Scripted::default(), &[&foreign, &ours]).await;
    let mut posted = Vec::new();
    let arrays = |peer: &Peer| peer.seen().iter().filter(|seen| seen.json().is_array()).count();
    while foreign.seen().is_empty() || arrays(&ours) == 0 {
        let texts = texts("text", 40);
        acknowledge_all(&setting, &texts).await;
        posted.extend(texts);
    }
    assert_eq!(arrays(&foreign), 0);
    assert_eq!(offered_texts(&setting), sorted(&posted));
    assert_eq!(counted([&foreign, &ours]).values().sum::<usize>(), posted.len());
}

#[tokio::test]
async fn where_ours_are_gone_one_of_another_origin_takes_what_they_were_to_take() {
    let mut foreign = peer("foreign", Act::json(200, "[]")).await;
    foreign.instance.version = None;
    let setting = Setting::logging(Scripted::default(), &[&dead("gone").await, &foreign]).await;
    let texts = texts("text", 40);
    acknowledge_all(&setting, &texts).await;
    assert_eq!(foreign.seen().len(), 40);
    assert_eq!(offered_texts(&setting), sorted(&texts));
}

#[tokio::test]
async fn a_batch_that_the_mailbox_has_no_room_for_is_a_503_for_each_of_its_messages() {
    let good = peer("good", logged()).await;
    let full = Scripted {
        outcomes: Mutex::new(vec![Outcome::Full]),
        ..Scripted::default()
    };
    let setting = Setting::logging(full, &[&good]).await;
    for answer in post_all(&setting, &texts("text", 20)).await {
        let message = answer.unavailable();
        assert!(message.contains("a scripted mailbox is full"), "{message}");
    }
    assert_eq!(setting.offered().len(), 1);
}

#[tokio::test]
async fn a_batch_of_many_whose_outcome_is_unknown_is_offered_again_as_it_was() {
    let good = peer("good", logged()).await;
    let failing = Scripted {
        outcomes: Mutex::new(vec![Outcome::Fail; 2]),
        ..Scripted::default()
    };
    let setting = Setting::logging(failing, &[&good]).await;
    acknowledge_all(&setting, &texts("text", 20)).await;
    let offered = setting.offered();
    assert_eq!((offered.len(), offered[0].messages.len()), (3, 20));
    assert!(offered.iter().all(|batch| *batch == offered[0]));
}

/// Waits until so many batches were offered.
async fn until_offered(mailbox: &Scripted, batches: usize) {
    let offered = async {
        while mailbox.offered.lock().unwrap().len() < batches {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, offered).await.expect("nothing more is offered");
}

#[tokio::test]
async fn a_mailbox_that_hangs_is_a_503_in_time_for_each_message_and_does_not_hold_up_the_next_ones() {
    let good = peer("good", logged()).await;
    let hanging = Scripted {
        outcomes: Mutex::new(vec![Outcome::Hang]),
        ..Scripted::default()
    };
    let setting = Setting::logging(hanging, &[&good]).await;
    let (start, texts) = (Instant::now(), texts("text", 3));
    let next = async {
        until_offered(&setting.mailbox, 1).await;
        acknowledge_all(&setting, &["next"; 3]).await;
        start.elapsed()
    };
    let (hung, after) = tokio::join!(post_all(&setting, &texts), next);
    for answer in hung {
        let message = answer.unavailable();
        assert_eq!(message, "engine away: a scripted mailbox: no answer within 4.5s");
    }
    assert!(after < Duration::from_secs(2), "{after:?}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_client_that_leaves_changes_nothing_for_the_others_of_its_batch() {
    let good = peer("good", logged()).await;
    let hanging = Scripted {
        outcomes: Mutex::new(vec![Outcome::Fail; 3]),
        ..Scripted::default()
    };
    let setting = Arc::new(Setting::logging(hanging, &[&good]).await);
    let texts = texts("text", 5);
    let mut clients = JoinSet::new();
    let leaving = texts.iter().map(|text| {
        let (setting, text) = (setting.clone(), text.clone());
        clients.spawn(async move { setting.post(&text).await.status })
    });
    let leaving: Vec<_> = leaving.collect();
    until_offered(&setting.mailbox, 1).await;
    leaving[1].abort();
    leaving[3].abort();
    let mut acknowledged = 0;
    while let Some(ended) = clients.join_next().await {
        acknowledged += ended.map_or(0, |status| usize::from(status == 201));
    }
    assert_eq!(acknowledged, 3);
    let batches = setting.offered();
    let texts_of_last: Vec<_> = batches[3].messages.iter().map(|message| &message.text).collect();
    assert!(
        batches[..3].iter().all(|batch| *batch == batches[3]),
        "{texts_of_last:?}"
    );
    assert!(offered_texts(&setting).iter().all(|text| texts.contains(text)));
}

#[tokio::test]
async fn a_batch_stays_with_its_mailbox_and_the_next_one_goes_to_the_one_that_is_named_then() {
    let good = peer("good", logged()).await;
    let former = Arc::new(Scripted {
        outcomes: Mutex::new(vec![Outcome::Fail; 3]),
        ..Scripted::default()
    });
    let latter = Arc::new(Scripted::default());
    let (name, named) = watch::channel(Named::new(former.clone() as Arc<dyn Mailbox>));
    let (_registry, registry) = Told::of(vec![(LOGGING_SERVICE, good.instance.clone())]);
    let service = Service::follow(registry, LOGGING_SERVICE);
    assert!(service.discovery.first(SOON).await);
    let delivery = Delivery::new(Client::new(), service, named, Arc::new(Counted::default()));
    let deliver = async |text: &str| {
        let (text, key) = (text.to_owned(), None);
        delivery.deliver(Posted { text, key }).await
    };
    let texts = |mailbox: &Scripted| -> Vec<Vec<String>> {
        let batches = mailbox.offered.lock().unwrap();
        let texts = |batch: &Batch| batch.messages.iter().map(|message| message.text.clone()).collect();
        batches.iter().map(texts).collect()
    };
    let moved = async {
        until_offered(&former, 1).await;
        name.send_replace(Named::new(latter.clone() as Arc<dyn Mailbox>));
        deliver("c").await
    };
    let (a, b, c) = tokio::join!(deliver("a"), deliver("b"), moved);
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(texts(&former), vec![["a", "b"]; 4]);
    assert_eq!(texts(&latter), [["c"]]);
}
