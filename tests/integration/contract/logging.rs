//! The rows of the contract's table about a logging instance.

use serde_json::{Value, json};

use super::{JSON, MIB, bare_request, get, methods_not_taken, padded, post_bytes, post_chunks, post_json};
use crate::support::fleet::{Fleet, request};
use crate::support::place::Kind;
use crate::support::table::{Expected, Row, Table, error, json_holds, json_is, row};

on_both_engines! {
    each_row_and_sentence_about_a_logging_instance_holds,
}

const FIRST_STAYS: &str = "If-None-Match: *\r\n";

fn message(identifier: &str, text: &str) -> String {
    json!({ "identifier": identifier, "text": text }).to_string()
}

fn array(items: &[String]) -> String {
    format!("[{}]", items.join(","))
}

fn stored(identifier: &str) -> Expected {
    json_is(201, json!({ "identifier": identifier }))
}

/// The statuses of an array's items, in their order.
fn statuses(status: u16, items: &[(Option<&str>, u16)]) -> Expected {
    let items: Vec<Value> = items
        .iter()
        .map(|(identifier, status)| json!({ "identifier": identifier, "status": status }))
        .collect();
    json_is(status, json!(items))
}

fn created(identifiers: &[&str]) -> Expected {
    let items: Vec<_> = identifiers.iter().map(|identifier| (Some(*identifier), 201)).collect();
    statuses(201, &items)
}

fn single() -> Vec<Row> {
    let is = |what: &str| format!("POST /log one {{\"identifier\":…,\"text\":…}}: 201: {what}");
    let longest = "ä".repeat(128);
    let over = format!("{longest}x");
    let escaped = |count: usize| {
        format!(
            "{{\"identifier\":\"escapes\",\"text\":\"{}\"}}",
            "\\u0001".repeat(count)
        )
    };
    let first = |text: &str| post_json("/log", FIRST_STAYS, &message("first", text));
    let stays = "another text is logged under this identifier, and stays";
    let one = |identifier: &str, text: &str| post_json("/log", "", &message(identifier, text));
    vec![
        row(is("a text"), one("a", "1"), stored("a")),
        row(is("a later text replaces"), one("a", "2"), stored("a")),
        row("An empty text is a text: POST /log", one("empty", ""), stored("empty")),
        row(
            is("any string is an identifier"),
            one("\u{1D11E} \"/\0", "any"),
            stored("\u{1D11E} \"/\0"),
        ),
        row(is("an identifier of 1 byte"), one("x", "1 byte"), stored("x")),
        row(
            is("an identifier of 256 bytes"),
            one(&longest, "256 bytes"),
            stored(&longest),
        ),
        row(
            "422 an identifier of 0 bytes",
            one("", "t"),
            error(422, "1 to 256 bytes"),
        ),
        row(
            "422 an identifier of 257 bytes",
            one(&over, "t"),
            error(422, "1 to 256 bytes"),
        ),
        row(is("a text of 1 MiB"), one("long", &"x".repeat(MIB)), stored("long")),
        row(
            is("a text of 1 MiB in 6 MiB of escapes"),
            post_json("/log", "", &escaped(MIB)),
            stored("escapes"),
        ),
        row(
            "413 a text over 1 MiB",
            one("over", &"x".repeat(MIB + 1)),
            error(413, "1048576 bytes"),
        ),
        row(
            "413 a text over 1 MiB, in escapes",
            post_json("/log", "", &escaped(MIB + 1)),
            error(413, "1048576 bytes"),
        ),
        row(
            is("a body of 7 MiB"),
            post_json("/log", "", &padded(&message("7", "7 MiB"), 7 * MIB)),
            stored("7"),
        ),
        row(
            "413 one message in a body over 7 MiB",
            post_json("/log", "", &padded(&message("8", "t"), 7 * MIB + 1)),
            error(413, "7340032 bytes"),
        ),
        row(
            "With `If-None-Match: *` the first text of an identifier stays: 201",
            first("first"),
            stored("first"),
        ),
        row("201 for the same text", first("first"), stored("first")),
        row("409 for another", first("second"), error(409, stays)),
        row("409 for another, though it is empty", first(""), error(409, stays)),
        row(
            "without it a later text replaces",
            one("first", "replaced"),
            stored("first"),
        ),
        row("and that one stays then", first("first"), error(409, stays)),
        row(
            "400 If-None-Match with an entity tag, which nothing here has",
            post_json("/log", "If-None-Match: \"a\"\r\n", &message("tag", "t")),
            error(400, "If-None-Match is not *"),
        ),
    ]
}

fn arrays() -> Vec<Row> {
    let is = |what: &str| format!("POST /log an array of at most 1,024 and 8 MiB: 201: {what}");
    let names: Vec<String> = (0..1025).map(|n| format!("n{n}")).collect();
    let many: Vec<String> = names.iter().map(|name| message(name, "many")).collect();
    let most: Vec<&str> = names[..1024].iter().map(String::as_str).collect();
    let post = |items: &[String]| post_json("/log", "", &array(items));
    let (good, also) = (message("good", "good"), message("also", "also"));
    let large = message("large", &"x".repeat(MIB + 1));
    let failed = |what: &str| format!("An array of which some failed: 207, in their order: {what}");
    vec![
        row(
            is("two"),
            post(&[message("p", "p"), message("q", "q")]),
            created(&["p", "q"]),
        ),
        row(is("none"), post(&[]), created(&[])),
        row(
            is("in chunks"),
            post_chunks("/log", &array(&[message("r", "r")]), 7),
            created(&["r"]),
        ),
        row(is("1,024"), post(&many[..1024]), created(&most)),
        row(
            "413 an array of 1,025",
            post(&many),
            error(413, "more than 1024 messages"),
        ),
        row(
            is("8 MiB"),
            post_json("/log", "", &padded(&array(&[message("8M", "8 MiB")]), 8 * MIB)),
            created(&["8M"]),
        ),
        row(
            "413 an array over 8 MiB",
            post_json("/log", "", &padded(&array(&[message("9", "t")]), 8 * MIB + 1)),
            error(413, "8388608 bytes"),
        ),
        row(
            failed("409 beside 201"),
            post_json(
                "/log",
                FIRST_STAYS,
                &array(&[good.clone(), message("a", "other"), message("a", "2"), also.clone()]),
            ),
            statuses(
                207,
                &[
                    (Some("good"), 201),
                    (Some("a"), 409),
                    (Some("a"), 201),
                    (Some("also"), 201),
                ],
            ),
        ),
        row(
            failed("413 beside 201"),
            post(&[large.clone(), good.clone()]),
            statuses(207, &[(Some("large"), 413), (Some("good"), 201)]),
        ),
        row(
            failed("422 beside 201"),
            post(&[
                "{\"identifier\":\"no text\"}".to_owned(),
                good.clone(),
                "5".to_owned(),
                message("", "t"),
                "{\"identifier\":\"n\",\"text\":5}".to_owned(),
                also,
            ]),
            statuses(
                207,
                &[
                    (Some("no text"), 422),
                    (Some("good"), 201),
                    (None, 422),
                    (Some(""), 422),
                    (Some("n"), 422),
                    (Some("also"), 201),
                ],
            ),
        ),
        row(
            failed("all of them"),
            post(&[large]),
            statuses(207, &[(Some("large"), 413)]),
        ),
        row(
            "400 malformed: an array that is no JSON stores none of it",
            post_json("/log", "", &format!("[{good},")),
            error(400, "no JSON"),
        ),
        row(
            "201 of an array with If-None-Match: * whose texts all stand",
            post_json("/log", FIRST_STAYS, &array(&[good, message("p", "p")])),
            created(&["good", "p"]),
        ),
    ]
}

fn refused() -> Vec<Row> {
    let mut rows = vec![
        row("400 malformed: JSON", post_json("/log", "", "{"), error(400, "no JSON")),
        row(
            "400 malformed: UTF-8",
            post_bytes("/log", JSON, b"{\"identifier\":\"\xFF\",\"text\":\"t\"}"),
            error(400, "no UTF-8"),
        ),
        row(
            "400 malformed: text given twice",
            post_json("/log", "", "{\"identifier\":\"twice\",\"text\":\"a\",\"text\":\"b\"}"),
            error(400, "duplicate field `text`"),
        ),
        row(
            "400 malformed: percent-encoding",
            post_json("/log?a=%", "", &message("query", "t")),
            error(400, "hex digits"),
        ),
        row(
            "400 malformed: full that is neither true nor false",
            get("/logs?full=1"),
            error(400, "neither true nor false"),
        ),
        row(
            "415 content type: none",
            post_bytes("/log", "", message("untyped", "t").as_bytes()),
            error(415, "no content type"),
        ),
        row(
            "415 content type: text",
            post_bytes("/log", "Content-Type: text/plain\r\n", message("typed", "t").as_bytes()),
            error(415, "application/json is taken"),
        ),
    ];
    for (body, part) in [
        ("{}", "missing field `identifier`"),
        ("{\"identifier\":\"no text\"}", "missing field `text`"),
        ("{\"identifier\":\"number\",\"text\":1}", "expected a string"),
        ("{\"identifier\":1,\"text\":\"t\"}", "expected a string"),
        ("null", "no JSON object"),
        ("5", "no JSON object"),
        ("\"a\"", "no JSON object"),
    ] {
        let name = format!("422 fields missing or of the wrong type: {body}");
        rows.push(row(name, post_json("/log", "", body), error(422, part)));
    }
    for path in [
        "/",
        "/log/",
        "/LOG",
        "/logs/",
        "/logs/a",
        "/Logs",
        "/message",
        "/messages",
    ] {
        rows.push(row(
            format!("404 path: {path}"),
            get(path),
            error(404, "nothing at this path"),
        ));
    }
    rows.extend(methods_not_taken("/log", "POST"));
    rows.extend(methods_not_taken("/logs", "GET, HEAD, DELETE"));
    rows
}

/// The log is listed: as texts, and in full.
fn lists(entries: &Value) -> Vec<Row> {
    let sorted = |list: &Value| {
        let mut items: Vec<String> = list.as_array().into_iter().flatten().map(Value::to_string).collect();
        items.sort();
        items
    };
    let texts: Value = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["text"].clone())
        .collect();
    let (full, texts) = (sorted(entries), sorted(&texts));
    let is_full = json_holds(200, move |body| sorted(body) == full);
    let again = texts.clone();
    vec![
        row(
            "GET /logs: 200 [text…]",
            get("/logs"),
            json_holds(200, move |body| sorted(body) == texts),
        ),
        row(
            "GET /logs?full=false",
            get("/logs?full=false&other=1"),
            json_holds(200, move |body| sorted(body) == again),
        ),
        row(
            "the same two reads with ?full=true: 200 [{\"identifier\":…,\"text\":…}…]",
            get("/logs?full=true"),
            is_full,
        ),
        row(
            "HEAD where GET is taken",
            bare_request("HEAD", "/logs"),
            json_is(200, json!([])).for_head(),
        ),
    ]
}

/// All that `single`, `arrays` and `refused` leave behind.
fn entries() -> Value {
    let (control, long) = ("\u{1}".repeat(MIB), "x".repeat(MIB));
    let longest = "ä".repeat(128);
    let mut entries: Vec<Value> = [
        ("a", "2"),
        ("empty", ""),
        ("\u{1D11E} \"/\0", "any"),
        ("x", "1 byte"),
        (&longest, "256 bytes"),
        ("long", &long),
        ("escapes", &control),
        ("7", "7 MiB"),
        ("first", "replaced"),
        ("p", "p"),
        ("q", "q"),
        ("r", "r"),
        ("8M", "8 MiB"),
        ("good", "good"),
        ("also", "also"),
    ]
    .iter()
    .map(|(identifier, text)| json!({ "identifier": identifier, "text": text }))
    .collect();
    entries.extend((0..1024).map(|n| json!({ "identifier": format!("n{n}"), "text": "many" })));
    json!(entries)
}

async fn each_row_and_sentence_about_a_logging_instance_holds(kind: Kind) {
    let fleet = Fleet::start_at(kind, 0, 2, 0).await;
    let (logging, other) = (fleet.logging[0].address(), fleet.logging[1].address());
    let mut table = Table::default();
    table.ask("logging: an empty log", logging, lists(&json!([]))).await;
    table.ask("logging: POST /log with one", logging, single()).await;
    table.ask("logging: POST /log with an array", logging, arrays()).await;
    table.ask("logging: errors", logging, refused()).await;
    table
        .ask(
            "logging: GET /logs, nothing of what was refused",
            logging,
            lists(&entries()),
        )
        .await;
    table
        .ask("logging: GET /logs at another instance", other, lists(&entries()))
        .await;
    let delete = vec![
        row(
            "400 malformed: nothing is deleted",
            request("DELETE", "/logs?a=%", "", ""),
            error(400, "hex digits"),
        ),
        row(
            "DELETE /logs: 200",
            bare_request("DELETE", "/logs"),
            json_is(200, json!({})),
        ),
    ];
    table.ask("logging: DELETE /logs", logging, delete).await;
    table.ask("logging: empty afterwards", logging, lists(&json!([]))).await;
    table
        .ask(
            "logging: empty afterwards at another instance",
            other,
            lists(&json!([])),
        )
        .await;
    table.end();
}
