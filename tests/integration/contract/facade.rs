//! The facade's rows of the contract's table, and what it says of errors, at `POST /message` and `GET /messages`.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{FORM, MIB, bare_request, facade_errors, get, padded, post, post_bytes, post_chunks, post_json};
use crate::support::fleet::{Fleet, request};
use crate::support::place::Kind;
use crate::support::table::{Expected, Row, Table, bare, error, json_holds, json_is, row};

on_both_engines! {
    each_row_and_sentence_about_the_facade_holds,
}

const KEY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// A target has at most this many bytes.
const MAX_TARGET: usize = 65_534;

/// 201 with exactly the text and a new UUIDv7.
fn created(text: impl Into<String>) -> Expected {
    let text = text.into();
    json_holds(201, move |body| {
        let identifier = body["identifier"].as_str().unwrap_or_default();
        let parsed: Option<Uuid> = identifier.parse().ok();
        parsed.is_some_and(|uuid| uuid.get_version_num() == 7 && uuid.to_string() == identifier)
            && *body == json!({ "identifier": identifier, "text": text })
    })
}

/// 201 with exactly the text and the key.
fn created_as(key: &str, text: &str) -> Expected {
    json_is(201, json!({ "identifier": key, "text": text }))
}

fn json_text(text: &str) -> String {
    json!({ "text": text }).to_string()
}

fn queries() -> Vec<Row> {
    let longest = "x".repeat(MAX_TARGET - "/message?text=".len());
    let is = |what: &str| format!("POST /message?text=…: 201 {{\"identifier\":…,\"text\":…}}: {what}");
    vec![
        row(is("a word"), post("/message?text=never", ""), created("never")),
        row(is("+ is a space"), post("/message?text=a+b", ""), created("a b")),
        row(
            is("%20 is a space, %2B a plus sign"),
            post("/message?text=a%20b%2Bc", ""),
            created("a b+c"),
        ),
        row(
            is("UTF-8 in escapes, of either case"),
            post("/message?text=%D1%82%c3%a4", ""),
            created("тä"),
        ),
        row(
            is("UTF-8 as it is"),
            post("/message?text=т\u{1D11E}", ""),
            created("т\u{1D11E}"),
        ),
        row(
            is("a character of 4 bytes"),
            post("/message?text=%F0%9D%84%9E", ""),
            created("\u{1D11E}"),
        ),
        row(is("NUL"), post("/message?text=a%00b", ""), created("a\0b")),
        row(
            is("quotes, backslash, line ends"),
            post("/message?text=%22%27%5C%0D%0A", ""),
            created("\"'\\\r\n"),
        ),
        row(
            is("reserved characters"),
            post("/message?text=%26%3D%23%3F/:@=?", ""),
            created("&=#?/:@=?"),
        ),
        row(
            is("other parameters are ignored"),
            post("/message?a=1&text=b&Text=c&&texts", ""),
            created("b"),
        ),
        row(
            is("its name may be escaped"),
            post("/message?t%65xt=named", ""),
            created("named"),
        ),
        row(
            "An empty text is a text: text=",
            post("/message?text=", ""),
            created(""),
        ),
        row("An empty text is a text: text", post("/message?text", ""), created("")),
        row(
            is("an empty body of whatever type"),
            post("/message?text=typed", FORM),
            created("typed"),
        ),
        row(
            is("JSON without text beside it"),
            post_json("/message?text=beside", "", "{\"a\":1}"),
            created("beside"),
        ),
        row(
            is("an empty body in chunks"),
            post_chunks("/message?text=chunks", "", 1),
            created("chunks"),
        ),
        row(
            is("an absolute target"),
            post("http://test/message?text=absolute", ""),
            created("absolute"),
        ),
        row(
            is("a target of 65,534 bytes"),
            post(&format!("/message?text={longest}"), ""),
            created(&longest),
        ),
        row(
            "the bare status 414 for a target over 65,534 bytes",
            post(&format!("/message?text={longest}x"), ""),
            bare(414).closes(),
        ),
        row(
            "414 is for what is sent, not for what it decodes to",
            post(&format!("/message?text={}", "%61".repeat(MAX_TARGET / 3)), ""),
            bare(414).closes(),
        ),
    ]
}

fn bodies() -> Vec<Row> {
    let is = |what: &str| format!("or JSON {{\"text\":…}}: 201: {what}");
    let escaped = "\\u0041\\u0000\\ud834\\udd1e\\\"\\/\\n";
    vec![
        row(
            is("a word"),
            post_json("/message", "", "{\"text\":\"gonna\"}"),
            created("gonna"),
        ),
        row(
            is("no escape of queries"),
            post_json("/message", "", "{\"text\":\"+%20\"}"),
            created("+%20"),
        ),
        row(
            is("escapes"),
            post_json("/message", "", &format!("{{\"text\":\"{escaped}\"}}")),
            created("A\0\u{1D11E}\"/\n"),
        ),
        row(
            is("UTF-8"),
            post_json("/message", "", &json_text("т\u{10FFFF}")),
            created("т\u{10FFFF}"),
        ),
        row(
            is("unknown fields are ignored, also an identifier"),
            post_json(
                "/message",
                "",
                "{\"identifier\":\"mine\",\"more\":[{}],\"text\":\"fields\"}",
            ),
            created("fields"),
        ),
        row(
            is("space around"),
            post_json("/message", "", "\r\n\t {\"text\" : \"space\"} \n"),
            created("space"),
        ),
        row(
            is("in chunks"),
            post_chunks("/message", &json_text("one by one"), 1),
            created("one by one"),
        ),
        row(
            is("other parameters beside it"),
            post_json("/message?a=b", "", &json_text("query")),
            created("query"),
        ),
        row(
            is("a charset"),
            post_bytes(
                "/message",
                "Content-Type: application/json; charset=utf-8\r\n",
                b"{\"text\":\"charset\"}",
            ),
            created("charset"),
        ),
        row(
            is("content type in capitals"),
            post_bytes(
                "/message",
                "CONTENT-TYPE: Application/JSON\r\n",
                b"{\"text\":\"capitals\"}",
            ),
            created("capitals"),
        ),
        row(
            "An empty text is a text: JSON",
            post_json("/message", "", "{\"text\":\"\"}"),
            created(""),
        ),
    ]
}

fn sizes() -> Vec<Row> {
    let wide = "\u{1D11E}".repeat(MIB / 4);
    let over = format!("{}т", "x".repeat(MIB - 1));
    let escaped = |count: usize| format!("{{\"text\":\"{}\"}}", "\\u0001".repeat(count));
    let is = |what: &str| format!("413 a text over 1 MiB (decoded; a JSON body may be 7 MiB): {what}");
    let good = |what: &str| format!("a text of 1 MiB is good: {what}");
    let said = "the text has more than 1048576 bytes";
    vec![
        row(
            good("ASCII"),
            post_json("/message", "", &json_text(&"x".repeat(MIB))),
            created("x".repeat(MIB)),
        ),
        row(
            good("of 4 bytes each"),
            post_json("/message", "", &json_text(&wide)),
            created(wide),
        ),
        row(
            good("6 MiB of escapes"),
            post_json("/message", "", &escaped(MIB)),
            created("\u{1}".repeat(MIB)),
        ),
        row(
            is("one byte"),
            post_json("/message", "", &json_text(&"x".repeat(MIB + 1))),
            error(413, said),
        ),
        row(
            is("half a character"),
            post_json("/message", "", &json_text(&over)),
            error(413, said),
        ),
        row(
            is("escapes"),
            post_json("/message", "", &escaped(MIB + 1)),
            error(413, said),
        ),
        row(
            "a JSON body may be 7 MiB",
            post_json("/message", "", &padded(&json_text("7 MiB"), 7 * MIB)),
            created("7 MiB"),
        ),
        row(
            is("one byte more of body"),
            post_json("/message", "", &padded(&json_text("a"), 7 * MIB + 1)),
            error(413, "the body has more than 7340032 bytes"),
        ),
        row(
            is("one byte more of body, in chunks"),
            post_chunks("/message", &padded(&json_text("a"), 7 * MIB + 1), 100_000),
            error(413, "the body has more than 7340032 bytes"),
        ),
    ]
}

fn keys() -> Vec<Row> {
    let keyed = |key: &str, text: &str| post(&format!("/message?text={text}"), &format!("Idempotency-Key: {key}\r\n"));
    let is = |what: &str| format!("`Idempotency-Key: <uuid>` makes a retry the same message: {what}");
    let other = |what: &str| format!("409 a known key with another text: {what}");
    let stays = "another text was posted under this Idempotency-Key, and stays";
    let (upper, quoted) = (KEY.to_uppercase(), format!("\"{KEY}\""));
    let random = "f81d4fae-7dec-4d0a-a765-00a0c91e6bf6";
    let header = format!("Idempotency-Key: {KEY}\r\n");
    let mut rows = vec![
        row(
            is("it is the identifier"),
            keyed(KEY, "keyed"),
            created_as(KEY, "keyed"),
        ),
        row(is("again"), keyed(KEY, "keyed"), created_as(KEY, "keyed")),
        row(
            is("again, as JSON"),
            post_json("/message", &header, "{\"text\":\"keyed\"}"),
            created_as(KEY, "keyed"),
        ),
        row(is("in capitals"), keyed(&upper, "keyed"), created_as(KEY, "keyed")),
        row(
            is("in quotes, as the draft of the IETF has it"),
            keyed(&quoted, "keyed"),
            created_as(KEY, "keyed"),
        ),
        row(
            is("any version of UUID"),
            keyed(random, "random"),
            created_as(random, "random"),
        ),
        row(other("in the query"), keyed(KEY, "other"), error(409, stays)),
        row(other("an empty one"), keyed(KEY, ""), error(409, stays)),
        row(
            other("as JSON"),
            post_json("/message", &header, "{\"text\":\"other\"}"),
            error(409, stays),
        ),
        row(other("the key in capitals"), keyed(&upper, "other"), error(409, stays)),
        row(
            "400 malformed: two keys",
            post("/message?text=a", &format!("{header}{header}")),
            error(400, "Idempotency-Key is given more than once"),
        ),
    ];
    let simple = KEY.replace('-', "");
    let (braces, urn, two) = (format!("{{{KEY}}}"), format!("urn:uuid:{KEY}"), format!("{KEY}, {KEY}"));
    for key in [
        "",
        "a",
        "\"",
        "\"\"",
        "ключ",
        &KEY[1..],
        &simple,
        &braces,
        &urn,
        &two,
        &format!("{KEY}0"),
    ] {
        let name = format!("400 malformed: a key that is no UUID: {key:?}");
        rows.push(row(name, keyed(key, "a"), error(400, "Idempotency-Key is no UUID")));
    }
    rows
}

fn lists() -> Vec<Row> {
    let is = |what: &str| format!("GET /messages: 200 [[text…],[text…]]: {what}");
    let empty = || json_is(200, json!([[], []]));
    vec![
        row(is("nothing yet"), get("/messages"), empty()),
        row(is("parameters are ignored"), get("/messages?full=true"), empty()),
        row(
            is("a body is ignored"),
            request("GET", "/messages", super::JSON, "{"),
            empty(),
        ),
        row(is("HEAD"), bare_request("HEAD", "/messages"), empty().for_head()),
    ]
}

async fn each_row_and_sentence_about_the_facade_holds(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 1, 1).await;
    let facade = fleet.facades[0].address();
    let mut table = Table::default();
    table.ask("facade: GET /messages", facade, lists()).await;
    let mut posted = Vec::new();
    for (title, rows) in [
        ("facade: POST /message?text=…", queries()),
        ("facade: POST /message with JSON", bodies()),
        ("facade: sizes", sizes()),
        ("facade: 400", facade_errors::malformed()),
        ("facade: 422", facade_errors::unfit()),
        ("facade: 404, 405, 415", facade_errors::refused()),
    ] {
        posted.extend(table.ask(title, facade, rows).await);
    }
    posted.retain(|answer| answer.status == 201);
    let text = |body: &Value| body["text"].as_str().unwrap().to_owned();
    let mut texts: Vec<String> = posted.iter().map(|answer| text(&answer.json())).collect();
    table.ask("facade: keys", facade, keys()).await;
    texts.extend(["keyed".to_owned(), "random".to_owned()]);
    table.end();
    // What was acknowledged is in both lists, and what was refused in none.
    fleet.wait_lists(&texts).await;
}
