//! What the facade does not take, by what is wrong with it. `facade` asks these rows.

use super::{FORM, JSON, MIB, bare_request, get, methods_not_taken, post, post_bytes, post_json};
use crate::support::table::{Row, bare, error, row};

pub(super) fn malformed() -> Vec<Row> {
    let is = |what: &str| format!("400 malformed: {what}");
    let mut rows = vec![
        row(
            is("UTF-8 in the query"),
            post("/message?text=%FF", ""),
            error(400, "the query is no UTF-8"),
        ),
        row(
            is("a surrogate in the query"),
            post("/message?text=%ED%A0%80", ""),
            error(400, "UTF-8"),
        ),
        row(
            is("half a character in the query"),
            post("/message?text=%D1", ""),
            error(400, "UTF-8"),
        ),
        row(
            is("UTF-8 in the query as it is"),
            [&b"POST /message?text=\xFF HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"[..]].concat(),
            bare(400).closes(),
        ),
        row(
            is("another parameter"),
            post("/message?text=a&other=%", ""),
            error(400, "hex digits"),
        ),
        row(
            is("the query of another request"),
            get("/messages?a=%FF"),
            error(400, "UTF-8"),
        ),
        row(
            is("UTF-8 in JSON"),
            post_bytes("/message", JSON, b"{\"text\":\"\xFF\"}"),
            error(400, "the body is no UTF-8"),
        ),
        row(
            is("half a character in JSON"),
            post_bytes("/message", JSON, b"{\"text\":\"\xD1\"}"),
            error(400, "UTF-8"),
        ),
        row(
            is("text given twice in the query"),
            post("/message?text=a&text=a", ""),
            error(400, "text is given more than once"),
        ),
        row(
            is("text given twice in JSON"),
            post_json("/message", "", "{\"text\":\"a\",\"text\":\"a\"}"),
            error(400, "duplicate field `text`"),
        ),
        row(
            is("text both in query and body"),
            post_json("/message?text=a", "", "{\"text\":\"a\"}"),
            error(400, "both in the query and in the body"),
        ),
        row(
            is("text both in query and body, of whatever type there"),
            post_json("/message?text=a", "", "{\"text\":null}"),
            error(400, "both in the query and in the body"),
        ),
        row(
            is("JSON beside a text in the query"),
            post_json("/message?text=a", "", "{"),
            error(400, "JSON"),
        ),
    ];
    for escape in ["%", "%4", "%zz", "%+1", "a%"] {
        let name = is(&format!("percent-encoding {escape}"));
        rows.push(row(
            name,
            post(&format!("/message?text={escape}"), ""),
            error(400, "not followed by two hex digits"),
        ));
    }
    let texts = [
        "",
        " ",
        "{",
        "text",
        "{\"text\":\"a\"",
        "{\"text\":\"a\"}}",
        "{\"text\":\"a\"} x",
        "{\"text\":\"a\",}",
        "{'text':'a'}",
        "{\"text\":5",
        "{\"text\":\"\\ud800\"}",
        "{\"text\":\"a\nb\"}",
        "\u{FEFF}{\"text\":\"a\"}",
        "[",
    ];
    rows.extend(texts.map(|body| {
        row(
            is(&format!("JSON {body:?}")),
            post_json("/message", "", body),
            error(400, "the body is no JSON"),
        )
    }));
    rows
}

pub(super) fn unfit() -> Vec<Row> {
    let is = |what: &str| format!("422 `text` missing or fields of the wrong type: {what}");
    let mut rows = vec![
        row(
            is("neither query nor body"),
            post("/message", ""),
            error(422, "the text is missing"),
        ),
        row(
            is("an empty body of a form"),
            post("/message", FORM),
            error(422, "the text is missing"),
        ),
        row(
            is("another name"),
            post("/message?texts=a&Text=b", ""),
            error(422, "the text is missing"),
        ),
    ];
    for (body, part) in [
        ("{}", "missing field `text`"),
        ("{\"Text\":\"a\"}", "missing field `text`"),
        ("{\"text\":null}", "null, expected a string"),
        ("{\"text\":5}", "integer `5`, expected a string"),
        ("{\"text\":1e999}", ""),
        ("{\"text\":true}", "boolean `true`, expected a string"),
        ("{\"text\":[\"a\"]}", "sequence, expected a string"),
        ("{\"text\":{\"a\":\"b\"}}", "map, expected a string"),
        ("[]", "no JSON object"),
        ("[\"a\"]", "no JSON object"),
        ("[5]", "no JSON object"),
        ("[{\"text\":\"a\"}]", "no JSON object"),
        ("\"a\"", "no JSON object"),
        ("null", "no JSON object"),
        ("5", "no JSON object"),
    ] {
        rows.push(row(is(body), post_json("/message", "", body), error(422, part)));
    }
    rows.push(row(
        is("an array beside a text in the query"),
        post_json("/message?text=a", "", "[5]"),
        error(422, "no JSON object"),
    ));
    rows
}

pub(super) fn refused() -> Vec<Row> {
    let typed = |content_type: &str| {
        post_bytes(
            "/message",
            &format!("Content-Type: {content_type}\r\n"),
            b"{\"text\":\"a\"}",
        )
    };
    let is = |what: &str| format!("415 content type: {what}");
    let taken = "application/json is taken";
    let mut rows = vec![
        row(
            is("none"),
            post_bytes("/message", "", b"{\"text\":\"a\"}"),
            error(415, "no content type"),
        ),
        row(is("a form"), post_bytes("/message", FORM, b"text=a"), error(415, taken)),
        row(
            is("a form beside a text in the query"),
            post_bytes("/message?text=a", FORM, b"text=a"),
            error(415, taken),
        ),
        row(
            is("said also to who sends all of 4 MiB first"),
            post_bytes("/message", "Content-Type: text/plain\r\n", &vec![b'x'; 4 * MIB]),
            error(415, taken).closes(),
        ),
    ];
    let types = [
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/json-seq",
        "application/problem+json",
        "",
    ];
    rows.extend(types.map(|given| row(is(&format!("{given:?}")), typed(given), error(415, taken))));

    let is = |what: &str| format!("404 path: {what}");
    for path in [
        "/",
        "/message/",
        "//message",
        "/Message",
        "/MESSAGES",
        "/messages/",
        "/m%65ssage",
        "/log",
        "/logs",
        "/health/",
        "*",
    ] {
        let method = if path == "*" { "OPTIONS" } else { "GET" };
        rows.push(row(
            is(&format!("{method} {path}")),
            bare_request(method, path),
            error(404, "nothing at this path"),
        ));
    }
    rows.extend([
        row(
            is("CONNECT, which has none"),
            bare_request("CONNECT", "test:80"),
            error(404, "nothing at this path"),
        ),
        row(
            is("an absolute target without one"),
            bare_request("GET", "http://test"),
            error(404, "nothing at this path"),
        ),
        row(
            is("POST /message/?text=a"),
            post("/message/?text=a", ""),
            error(404, "nothing at this path"),
        ),
        row(is("HEAD"), bare_request("HEAD", "/nowhere"), error(404, "").for_head()),
        row(
            is("said also to who sends all of 4 MiB first"),
            post_bytes("/nowhere", JSON, &vec![b'x'; 4 * MIB]),
            error(404, "nothing at this path").closes(),
        ),
    ]);
    rows.extend(methods_not_taken("/message", "POST"));
    rows.extend(methods_not_taken("/messages", "GET, HEAD"));
    rows
}
