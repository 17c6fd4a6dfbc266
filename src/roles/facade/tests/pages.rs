//! Pages of both lists.

use hyper::header::LINK;

use super::*;
use crate::http::request::Query;

/// An instance that has messages of these identifiers, and answers pages of them.
async fn paged(name: &str, path: &'static str, identifiers: &[&str]) -> Peer {
    let mut identifiers: Vec<String> = identifiers.iter().map(|&identifier| identifier.to_owned()).collect();
    identifiers.sort();
    Peer::start(name, move |seen| {
        let query = seen.line.split_once('?').unwrap().1;
        let query = Query::parse(query).unwrap();
        let after = query.get("after").unwrap().map(str::to_owned);
        let limit: usize = query.get("limit").unwrap().unwrap().parse().unwrap();
        let behind = identifiers
            .iter()
            .filter(|&identifier| after.as_ref().is_none_or(|after| identifier > after));
        let behind: Vec<&String> = behind.collect();
        let page = &behind[..limit.min(behind.len())];
        let link = (page.len() < behind.len()).then(|| page[limit - 1].as_str());
        page_of(path, page.iter().map(|identifier| identifier.as_str()), link)
    })
    .await
}

/// The answer with these messages that says that the next page begins after `next`.
fn page_of<'a>(path: &str, identifiers: impl Iterator<Item = &'a str>, next: Option<&str>) -> Act {
    let messages: Vec<Value> = identifiers
        .map(|identifier| json!({"identifier": identifier, "text": "t"}))
        .collect();
    let body = json!(messages).to_string();
    let mut headers = hyper::HeaderMap::new();
    if let Some(next) = next {
        crate::http::link::set_next(&mut headers, path, next, 7);
    }
    let link = headers
        .get(LINK)
        .map_or_else(String::new, |link| format!("link: {}\r\n", link.to_str().unwrap()));
    let length = body.len();
    Act::Answer(format!("HTTP/1.1 200 OK\r\n{link}content-length: {length}\r\n\r\n{body}").into_bytes())
}

/// Identifiers of each of the two pages.
fn identifiers(answer: &Answered) -> [String; 2] {
    let lists: [Vec<Value>; 2] = serde_json::from_value(answer.json()).unwrap();
    lists.map(|list| {
        list.iter()
            .map(|message| message["identifier"].as_str().unwrap())
            .collect()
    })
}

/// Where the link of an answer leads.
fn next(answer: &Answered) -> Option<String> {
    let link = answer.headers.get(LINK)?.to_str().unwrap();
    let target = link
        .strip_prefix('<')
        .and_then(|link| link.strip_suffix(">; rel=\"next\""));
    Some(target.unwrap().to_owned())
}

#[tokio::test]
async fn both_pages_have_the_same_range_and_the_link_followed_to_the_end_gives_each_once() {
    for (logged, delivered) in [
        ("abcdefgh", "abcdefgh"),
        ("abcdefgh", ""),
        ("", "abcdefgh"),
        ("abcd", "efgh"),
        ("efgh", "abcd"),
        ("aceg", "bdfh"),
        ("abcdefgh", "h"),
        ("a", "bcdefgh+%ä"),
        ("", ""),
    ] {
        let of = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let [logged, delivered] = [of(logged), of(delivered)];
        let borrow = |list: &[String]| list.iter().map(String::as_str).collect::<Vec<&str>>().join(",");
        let peers = [
            paged("logs", "/logs", &logged.iter().map(String::as_str).collect::<Vec<_>>()).await,
            paged(
                "messages",
                "/messages",
                &delivered.iter().map(String::as_str).collect::<Vec<_>>(),
            )
            .await,
        ];
        let setting = Setting::lists(&[&peers[0]], &[&peers[1]]).await;
        for limit in [1, 3, 8, 1000] {
            let (mut found, mut target) = ([const { String::new() }; 2], Some(format!("/messages?limit={limit}")));
            let mut last = None;
            while let Some(asked) = target {
                let answer = setting.method("GET", &asked).await;
                assert_eq!(answer.status, 200, "{asked}");
                let page = identifiers(&answer);
                for identifier in page.iter().flat_map(|list| list.chars().map(String::from)) {
                    assert!(
                        last.as_ref().is_none_or(|last| identifier > *last),
                        "{asked} has what was before it"
                    );
                }
                target = next(&answer);
                if let Some(target) = &target {
                    let after = Query::parse(target.split_once('?').unwrap().1).unwrap();
                    last = after.get("after").unwrap().map(str::to_owned);
                    let end = last.clone().unwrap();
                    assert!(
                        page.iter().all(|list| list.chars().all(|one| *one.to_string() <= *end)),
                        "{asked}"
                    );
                }
                for (found, page) in found.iter_mut().zip(page) {
                    found.push_str(&page);
                }
            }
            let sorted = |list: &[String]| {
                let mut list = list.to_vec();
                list.sort();
                list.concat()
            };
            let told = format!("{} and {}, {limit}", borrow(&logged), borrow(&delivered));
            assert_eq!(found, [sorted(&logged), sorted(&delivered)], "{told}");
        }
    }
}

#[tokio::test]
async fn messages_are_whole_and_both_instances_are_asked_for_the_same() {
    let logs = peer(
        "logs",
        Act::json(200, r#"[{"identifier":"a","text":"\u0000 \ud834\udd1e"}]"#),
    )
    .await;
    let messages = peer(
        "messages",
        Act::json(200, r#" [ {"by":"x","text":"","identifier":"b"} ] "#),
    )
    .await;
    let setting = Setting::lists(&[&logs], &[&messages]).await;
    let answer = setting.method("GET", "/messages?after=%2B%20&limit=7").await;
    let expected = json!([
        [{"identifier": "a", "text": "\0 \u{1D11E}"}],
        [{"identifier": "b", "text": "", "by": "x"}],
    ]);
    assert_eq!((answer.status, answer.json(), next(&answer)), (200, expected, None));
    assert_eq!(logs.seen()[0].line, "GET /logs?after=%2B%20&limit=7");
    assert_eq!(messages.seen()[0].line, "GET /messages?after=%2B%20&limit=7");
    let answer = setting.method("GET", "/messages?after=a").await;
    assert_eq!(
        (answer.status, &*logs.seen()[1].line),
        (200, "GET /logs?after=a&limit=1000")
    );
}

#[tokio::test]
async fn what_asks_for_no_page_is_a_400_and_nobody_is_asked() {
    let peer = peer("both", list("[]")).await;
    let setting = Setting::lists(&[&peer], &[&peer]).await;
    for bad in [
        "limit=0",
        "limit=1001",
        "limit=a",
        "limit=",
        "after=a&after=b",
        &format!("after={}", "a".repeat(257)),
    ] {
        let answer = setting.method("GET", &format!("/messages?{bad}")).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (400, &json!("malformed")),
            "{bad}"
        );
    }
    assert_eq!(peer.seen().len(), 0);
}

#[tokio::test]
async fn a_page_that_does_not_begin_well_comes_from_another_instance() {
    let failures = [
        Act::Reset,
        Act::json(503, "{}"),
        // The list of one that knows no pages.
        Act::json(200, r#"["a","b"]"#),
        Act::json(200, "["),
        Act::json(200, "{}"),
        Act::AnswerAndClose(b"HTTP/1.1 200 OK\r\nlink: </logs>; rel=\"next\"\r\ncontent-length: 2\r\n\r\n[]".to_vec()),
        Act::Hang,
    ];
    for act in failures {
        let bad = peer("bad", act.clone()).await;
        let (logs, messages) = (
            paged("logs", "/logs", &["a"]).await,
            paged("messages", "/messages", &["b"]).await,
        );
        let setting = Setting::lists(&[&bad, &logs], &[&messages]).await;
        while bad.seen().is_empty() {
            let answer = setting.method("GET", "/messages?limit=9").await;
            assert_eq!(
                (answer.status, identifiers(&answer)),
                (200, ["a", "b"].map(str::to_owned)),
                "{act:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_instance_of_another_origin_is_not_asked_for_a_page() {
    let mut foreign = peer("foreign", list(r#"["a"]"#)).await;
    foreign.instance.version = None;
    let (logs, messages) = (
        paged("logs", "/logs", &["a"]).await,
        paged("messages", "/messages", &["b"]).await,
    );
    let setting = Setting::lists(&[&foreign, &logs], &[&messages]).await;
    for _ in 0..20 {
        assert_eq!(setting.method("GET", "/messages?limit=9").await.status, 200);
    }
    let setting = Setting::lists(&[&foreign], &[&messages]).await;
    let message = setting.method("GET", "/messages?limit=9").await.unavailable();
    let expected = "no live instance of logging-service is known but of another origin, which cannot do it";
    assert_eq!(message, expected);
    assert_eq!(foreign.seen().len(), 0);
}

#[tokio::test]
async fn a_page_that_nobody_has_is_a_503_that_names_the_service() {
    let good = paged("good", "/logs", &["a"]).await;
    for (setting, missing) in [
        (Setting::lists(&[], &[&good]).await, LOGGING_SERVICE),
        (Setting::lists(&[&good], &[]).await, MESSAGES_SERVICE),
    ] {
        let message = setting.method("GET", "/messages?limit=1").await.unavailable();
        assert_eq!(message, format!("no live instance of {missing} is known"));
    }
    for away in [dead("gone").await, peer("hangs", Act::Hang).await] {
        let setting = Setting::lists(&[&good], &[&away]).await;
        let start = Instant::now();
        let message = setting.method("GET", "/messages?limit=1").await.unavailable();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(message.contains("no instance of messages-service"), "{message}");
    }
}

#[tokio::test]
async fn a_page_that_breaks_off_breaks_the_answer_off() {
    let whole = r#"[{"identifier":"a","text":"t"}"#;
    let (broken, good) = (
        peer("broken", Act::AnswerAndClose(chunks(&[whole]))).await,
        paged("good", "/logs", &["a"]).await,
    );
    for (logs, messages) in [(&broken, &good), (&good, &broken)] {
        let answer = Setting::lists(&[logs], &[messages])
            .await
            .method("GET", "/messages?limit=1")
            .await;
        assert_eq!((answer.status, answer.is_whole), (200, false));
    }
}
