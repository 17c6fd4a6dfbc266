//! Pages of the lists, at each role that has one.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{bare_request, get};
use crate::support::fleet::{Fleet, ask, eventually};
use crate::support::place::Kind;
use crate::support::process::Svc;
use crate::support::table::{Row, Table, error, json_is, row};

on_both_engines! {
    each_row_and_sentence_about_pages_holds,
    the_link_of_a_page_followed_to_the_end_gives_each_message_once_in_the_order_of_identifiers,
    a_page_ends_early_where_its_texts_are_long_and_is_503_without_a_live_messages_instance,
}

/// Posts a text under a random key. Returns that.
async fn post(facade: &Svc, text: &str) -> String {
    let key = Uuid::new_v4().to_string();
    let headers = format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n");
    let body = json!({ "text": text }).to_string();
    assert_eq!(ask(facade, "POST", "/message", &headers, &body).await.status, 201);
    key
}

fn refused(path: &str) -> Vec<Row> {
    let longer = format!("after={}", "a".repeat(257));
    let limit = "limit is no number from 1 to 1000";
    let bad = [
        ("limit=0", limit),
        ("limit=1001", limit),
        ("limit=", limit),
        ("limit=-1", limit),
        ("limit=%2B1", limit),
        ("limit=ten", limit),
        ("limit=1&limit=2", "limit is given more than once"),
        ("after=a&after=b", "after is given more than once"),
        ("after=%FF", "no UTF-8"),
        (longer.as_str(), "after has more than the 256 bytes"),
    ];
    let rows = bad.map(|(query, part)| {
        let name = format!("400 malformed: {path}?{}", &query[..query.len().min(20)]);
        row(name, get(&format!("{path}?{query}")), error(400, part))
    });
    rows.into()
}

async fn each_row_and_sentence_about_pages_holds(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 1, 1).await;
    let (facade, logging, messages) = (&fleet.facades[0], &fleet.logging[0], &fleet.messages[0]);
    let mut table = Table::default();
    for (svc, path, empty) in [
        (facade, "/messages", json!([[], []])),
        (logging, "/logs", json!([])),
        (messages, "/messages", json!([])),
    ] {
        let mut rows = vec![
            row(
                format!("{path}?limit=1: nothing yet, and no next page"),
                get(&format!("{path}?limit=1")),
                json_is(200, empty.clone()).without("link"),
            ),
            row(
                format!("{path}?after=a: 1,000 at most"),
                get(&format!("{path}?after=a")),
                json_is(200, empty.clone()).without("link"),
            ),
            row(
                format!("HEAD {path}?limit=1000"),
                bare_request("HEAD", &format!("{path}?limit=1000")),
                json_is(200, empty).for_head(),
            ),
        ];
        rows.extend(refused(path));
        table
            .ask(&format!("pages: {path} at {}", svc.address()), svc.address(), rows)
            .await;
    }

    let mut keys = [post(facade, "one").await, post(facade, "two").await];
    fleet.wait_lists(&["one".to_owned(), "two".to_owned()]).await;
    let full = ask(logging, "GET", "/logs?full=true", "", "").await.json();
    keys.sort();
    let of = |key: &String| {
        let mut all = full.as_array().unwrap().iter();
        all.find(|message| message["identifier"] == key.as_str())
            .unwrap()
            .clone()
    };
    let by = format!("messages-service@{}", messages.address());
    let delivered = |key: &String| {
        let mut message = of(key);
        message["by"] = json!(by);
        message
    };
    let link = |path: &str| format!("<{path}?after={}&limit=1>; rel=\"next\"", keys[0]);
    let pages = [
        (
            facade,
            "/messages",
            [0, 1].map(|place| json!([[of(&keys[place])], [delivered(&keys[place])]])),
        ),
        (logging, "/logs", [0, 1].map(|place| json!([of(&keys[place])]))),
        (
            messages,
            "/messages",
            [0, 1].map(|place| json!([delivered(&keys[place])])),
        ),
    ];
    for (svc, path, [first, last]) in pages {
        let after = format!("{path}?after={}&limit=1&full=false", keys[0]);
        let rows = vec![
            row(
                format!("{path}?limit=1: whole messages, and a Link to the next page"),
                get(&format!("{path}?limit=1")),
                json_is(200, first).header("link", link(path)),
            ),
            row(
                format!("{path}?after=…&limit=1: strictly after it; no Link means the end"),
                get(&after),
                json_is(200, last).without("link"),
            ),
        ];
        table
            .ask(
                &format!("pages: of two, {path} at {}", svc.address()),
                svc.address(),
                rows,
            )
            .await;
    }
    table.end();
}

/// Follows the links from this target to the end. Returns all pages.
async fn followed(svc: &Svc, target: &str) -> Vec<Value> {
    let (mut pages, mut target) = (Vec::new(), Some(target.to_owned()));
    while let Some(asked) = target {
        let answer = ask(svc, "GET", &asked, "", "").await;
        assert_eq!(answer.status, 200, "{asked}");
        pages.push(answer.json());
        let link = answer.header("link");
        target = link.map(|link| {
            link.strip_prefix('<')
                .unwrap()
                .strip_suffix(">; rel=\"next\"")
                .unwrap()
                .to_owned()
        });
    }
    pages
}

fn identifiers(page: &Value) -> Vec<String> {
    let all = page.as_array().unwrap().iter();
    all.map(|message| message["identifier"].as_str().unwrap().to_owned())
        .collect()
}

async fn the_link_of_a_page_followed_to_the_end_gives_each_message_once_in_the_order_of_identifiers(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 2, 2).await;
    let facade = &fleet.facades[0];
    let mut keys = Vec::new();
    let mut texts = Vec::new();
    for n in 0..40 {
        let text = format!("text \"{n}\"");
        keys.push(post(facade, &text).await);
        texts.push(text);
    }
    fleet.wait_lists(&texts).await;
    keys.sort();
    for limit in [7, 39, 40, 1000] {
        let logs = followed(&fleet.logging[1], &format!("/logs?limit={limit}")).await;
        let messages = followed(&fleet.messages[1], &format!("/messages?limit={limit}")).await;
        for pages in [logs, messages] {
            assert_eq!(pages.len(), 40_usize.div_ceil(limit));
            assert_eq!(pages.iter().flat_map(identifiers).collect::<Vec<_>>(), keys);
        }
        let both = followed(facade, &format!("/messages?limit={limit}")).await;
        for list in [0, 1] {
            assert_eq!(
                both.iter()
                    .flat_map(|pages| identifiers(&pages[list]))
                    .collect::<Vec<_>>(),
                keys
            );
        }
        assert!(
            both.iter()
                .all(|pages| identifiers(&pages[0]) == identifiers(&pages[1])),
            "the same range"
        );
    }

    // Where only one list has them, the range is the same, too.
    let extra =
        json!([{"identifier": "0", "text": ""}, {"identifier": "00", "text": ""}, {"identifier": "~", "text": ""}]);
    let json = "Content-Type: application/json\r\n";
    assert_eq!(
        ask(&fleet.logging[0], "POST", "/log", json, &extra.to_string())
            .await
            .status,
        201
    );
    let both = followed(facade, "/messages?limit=7").await;
    let logged: Vec<String> = both.iter().flat_map(|pages| identifiers(&pages[0])).collect();
    let expected = ["0", "00"]
        .map(str::to_owned)
        .into_iter()
        .chain(keys.clone())
        .chain(["~".to_owned()]);
    assert_eq!(logged, expected.collect::<Vec<_>>());
    assert_eq!(
        both.iter().flat_map(|pages| identifiers(&pages[1])).collect::<Vec<_>>(),
        keys
    );
}

async fn a_page_ends_early_where_its_texts_are_long_and_is_503_without_a_live_messages_instance(kind: Kind) {
    let mut fleet = Fleet::start_at(kind, 1, 1, 1).await;
    let mut keys = Vec::new();
    let texts: Vec<String> = (0..5).map(|n| format!("{n}{}", "x".repeat(700 * 1024))).collect();
    for text in &texts {
        keys.push(post(&fleet.facades[0], text).await);
    }
    fleet.wait_lists(&texts).await;
    keys.sort();
    let pages = followed(&fleet.facades[0], "/messages?limit=1000").await;
    assert_eq!(pages.len(), 3);
    for list in [0, 1] {
        let found: Vec<Vec<String>> = pages.iter().map(|pages| identifiers(&pages[list])).collect();
        assert_eq!(found, [&keys[..2], &keys[2..4], &keys[4..]]);
    }

    fleet.messages.remove(0).kill();
    let facade = &fleet.facades[0];
    eventually("a page is 503", async || {
        let answer = ask(facade, "GET", "/messages?limit=1", "", "").await;
        answer.status == 503
            && answer.json()["error"]["message"]
                .as_str()
                .unwrap()
                .contains("messages-service")
    })
    .await;
    assert_eq!(ask(&fleet.logging[0], "GET", "/logs?limit=1", "", "").await.status, 200);
}
