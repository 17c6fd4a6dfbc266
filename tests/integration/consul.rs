//! The Consul adapter, against a real agent and against what a real one never answers.

use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::json;
use svc::config::{self, EngineSettings};
use svc::engine::consul::{ConsulOptions, Token};
use svc::engine::{Held, Result};
use svc::wait::Wait;

use crate::support::agent::{Agent, Folder, program};
use crate::support::fake::Fake;
use crate::support::ports::{self, consul_options, settings};

fn value(text: &str) -> Held {
    Held::Value(text.to_owned())
}

/// What a watch shows next.
async fn shown(watch: &mut BoxStream<'_, Result<Held>>) -> Result<Held> {
    let next = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
    next.expect("a watch shows something").expect("a watch never ends")
}

/// What a watch shows next that is none of `passed`, which may come any number of times.
async fn shown_after(watch: &mut BoxStream<'_, Result<Held>>, passed: &Held) -> Held {
    loop {
        let next = shown(watch).await.unwrap();
        if next != *passed {
            return next;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_the_agent_and_its_memory() {
    let agent = Agent::start();
    let settings = settings(&agent.address);
    let key = "test/watched";
    for n in 0..20 {
        agent.put(key, n.to_string().as_bytes());
    }
    let mut watch = settings.watch(key);
    assert_eq!(shown(&mut watch).await.unwrap(), Held::Value("19".to_owned()));
    let ports = agent.kill();
    let error = shown(&mut watch).await.unwrap_err().to_string();
    assert!(error.contains("reading the key test/watched"), "{error}");
    // Its indexes begin anew, below those that were seen.
    let agent = tokio::task::spawn_blocking(move || Agent::start_empty(&ports))
        .await
        .unwrap();
    loop {
        match shown(&mut watch).await {
            Err(_) => {}
            Ok(seen) => break assert_eq!(seen, Held::Missing),
        }
    }
    agent.put(key, b"anew");
    assert_eq!(
        shown_after(&mut watch, &Held::Missing).await,
        Held::Value("anew".to_owned())
    );
}

#[tokio::test]
async fn a_key_that_would_arrive_changed_is_never_sent() {
    let server = Fake::with_body("200 OK", "", "true");
    let settings = settings(&server.address);
    for key in ["", "a b", "../kv/x", "a?raw", "a%2Fb", "/a"] {
        assert!(settings.get(key).await.is_err(), "{key:?}");
        assert!(settings.put(key, "x").await.is_err(), "{key:?}");
        assert!(settings.put_if_absent(key, "x").await.is_err(), "{key:?}");
    }
    assert_eq!(server.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn an_agent_without_a_leader_is_not_ready() {
    let error = settings(&Fake::with_body("200 OK", "", "\"\"").address)
        .ready()
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no leader"), "{error}");
}

#[tokio::test]
async fn a_refused_token_is_named_as_the_reason() {
    let server = Fake::with_body(
        "403 Forbidden",
        "",
        "Permission denied: token lacks permission 'key:write'",
    );
    let error = settings(&server.address).put("a", "x").await.unwrap_err().to_string();
    assert!(
        error.contains("key:write") && error.contains("CONSUL_HTTP_TOKEN"),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_page_of_somebody_else_is_no_missing_key() {
    let error = settings(&Fake::with_body("404 Not Found", "", "<html>no</html>").address)
        .get("a")
        .await;
    assert!(error.is_err(), "{error:?}");
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors_and_no_panics() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
    for answer in [
        [
            head.as_bytes(),
            b"X-Consul-Index: \xff\xfe\r\nX-Cache: \xe4\r\nContent-Length: 4\r\n\r\nnull",
        ]
        .concat(),
        format!("{head}Content-Length: 99\r\n\r\n[").into_bytes(),
        format!("{head}Content-Length: 5\r\n\r\n[{{}}]").into_bytes(),
        format!("{head}Content-Length: 0\r\n\r\n").into_bytes(),
        format!("{head}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n[]]").into_bytes(),
        [head.as_bytes(), b"Content-Length: 2\r\n\r\n\xff\xff"].concat(),
        b"\x00\x01\x02\r\n\r\n".to_vec(),
    ] {
        let settings = settings(&Fake::answering(answer.clone()).address);
        assert!(settings.ready().await.is_err(), "{answer:?}");
        assert!(settings.put("a", "x").await.is_err(), "{answer:?}");
        assert!(settings.put_if_absent("a", "x").await.is_err(), "{answer:?}");
    }
    let entry = r#"[{"LockIndex":0,"Key":"a","Flags":0,"Value":"no base64!","CreateIndex":1,"ModifyIndex":1}]"#;
    assert!(
        settings(&Fake::with_body("200 OK", "", entry).address)
            .get("a")
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_within_the_deadline() {
    let server = Fake::answering("");
    let started = Instant::now();
    let error = settings(&server.address).get("a").await.unwrap_err().to_string();
    assert!(error.contains("no answer within 5s"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test]
async fn the_token_does_not_follow_a_redirect() {
    let elsewhere = Fake::with_body("200 OK", "", "[]");
    let location = format!("Location: http://{}/v1/kv/a\r\n", elsewhere.address);
    let server = Fake::with_body("307 Temporary Redirect", &location, "");
    let with_token = ConsulOptions {
        token: Some(Token::new("secret")),
        ..consul_options(&server.address)
    };
    assert!(
        ports::servers(with_token.clone())
            .settings()
            .unwrap()
            .get("a")
            .await
            .is_err()
    );
    assert_eq!(server.requests().len(), 1);
    assert_eq!(elsewhere.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn https_trusts_the_given_authority_only_and_presents_our_certificate() {
    let folder = Folder::new();
    let tls = |arguments: &[&str]| {
        let made = Command::new(program())
            .arg("tls")
            .args(arguments)
            .current_dir(&folder.path)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    tls(&["ca", "create"]);
    tls(&["cert", "create", "-server"]);
    tls(&["cert", "create", "-client"]);
    let file = |name: &str| folder.path.join(name);
    let agent = Agent::start_with(&json!({ "tls": { "https": {
        "ca_file": file("consul-agent-ca.pem"),
        "cert_file": file("dc1-server-consul-0.pem"),
        "key_file": file("dc1-server-consul-0-key.pem"),
        "verify_incoming": true,
    } } }));
    let address = format!("https://{}", agent.address);
    let trusting = ConsulOptions {
        ca_cert: Some(file("consul-agent-ca.pem")),
        ..consul_options(&address)
    };
    let presenting = ConsulOptions {
        client_cert: Some(file("dc1-client-consul-0.pem")),
        client_key: Some(file("dc1-client-consul-0-key.pem")),
        ..trusting.clone()
    };
    let settings = ports::servers(presenting.clone()).settings().unwrap();
    settings.put("a", "over TLS").await.unwrap();
    assert_eq!(settings.get("a").await.unwrap(), value("over TLS"));
    assert!(
        ports::servers(trusting.clone())
            .settings()
            .unwrap()
            .get("a")
            .await
            .is_err(),
        "without a certificate of ours"
    );
    let unknown = ConsulOptions {
        ca_cert: None,
        ..presenting
    };
    let error = ports::servers(unknown.clone())
        .settings()
        .unwrap()
        .get("a")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn a_role_waits_for_the_ready_key_and_reads_typed_values() {
    let agent = Agent::start();
    let settings = settings(&agent.address);
    let read = async || {
        config::LOG
            .wait_for(&*settings, "ready", &Wait::up_to(Duration::ZERO), None)
            .await
    };
    let told = async || format!("{:#}", read().await.unwrap_err());

    let error = told().await;
    assert!(
        error.contains("the key ready") && error.contains("svc populate-kv"),
        "{error}"
    );
    agent.put("ready", b"FALSE");
    assert!(told().await.contains("\"FALSE\", not TRUE"), "{}", told().await);
    agent.put("ready", b"true\n");
    assert!(
        told().await.contains("hz_logging_cluster_name is missing"),
        "{}",
        told().await
    );
    agent.put("hz_logging_cluster_name", b" ");
    agent.put("logging_mapping_name", b"map");
    let error = told().await;
    assert!(
        error.contains("hz_logging_cluster_name") && error.contains("\" \"") && error.contains("empty"),
        "{error}"
    );
    agent.put("hz_logging_cluster_name", b"\xff");
    let error = told().await;
    assert!(
        error.contains("hz_logging_cluster_name") && error.contains("no text in UTF-8"),
        "{error}"
    );
    agent.put("hz_logging_cluster_name", b"logs\n");
    let mut expected = EngineSettings {
        cluster_name: "logs".to_owned(),
        object_name: "map".to_owned(),
        members: vec!["127.0.0.1:5701".to_owned()],
    };
    assert_eq!(
        read().await.unwrap(),
        expected,
        "members that are not named are those of the default"
    );
    agent.put("hz_logging_members", b"hz-1:1,hz-2");
    let error = told().await;
    assert!(
        error.contains("hz_logging_members") && error.contains("\"hz-2\"") && error.contains("host:port"),
        "{error}"
    );
    agent.put("hz_logging_members", b"hz-1:1, hz-2:2");
    expected.members = vec!["hz-1:1".to_owned(), "hz-2:2".to_owned()];
    assert_eq!(read().await.unwrap(), expected);
}

#[tokio::test]
async fn a_role_that_waits_goes_on_when_the_keys_are_written() {
    let agent = Agent::start();
    let settings = settings(&agent.address);
    let reading = async {
        let wait = Wait::up_to(Duration::from_secs(30));
        config::LOG
            .wait_for(&*settings, "essential_keys_populated", &wait, None)
            .await
    };
    let writing = async {
        for (key, value) in [("hz_logging_cluster_name", "c"), ("logging_mapping_name", "m")] {
            settings.put(key, value).await.unwrap();
        }
        settings.put("essential_keys_populated", "TRUE").await
    };
    let (read, written) = tokio::join!(reading, writing);
    written.unwrap();
    assert_eq!(read.unwrap().object_name, "m");
}
