//! The registry in Consul, against a real agent and against what a real one never answers.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use serde_json::{Value, json};
use svc::discovery::Discovery;
use svc::engine::{Instance, Registration};
use svc::registration::{Patience, Registered};
use tokio::time::{Instant, timeout};

use crate::support::agent::Agent;
use crate::support::fake::{self, Fake};
use crate::support::ports::registry;

/// Longer than a change takes to be seen everywhere: an agent keeps a query for 10 s.
const SOON: Duration = Duration::from_secs(20);

/// How soon all are registered again, from the moment on that Consul is back.
const AGAIN_WITHIN: Duration = Duration::from_secs(10);

/// As the roles have it.
const PATIENCE: Patience = Patience {
    tries: Duration::from_secs(2),
    limit: Duration::from_secs(8),
};

/// One agent for the tests whose services are their own.
static AGENT: LazyLock<Agent> = LazyLock::new(Agent::start);

fn registration(service: &str, port: u16) -> Registration {
    Registration {
        service: service.to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        version: "1.2.3".to_owned(),
        since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_570_917),
    }
}

/// A server whose `/health` is well, and the port that it listens on.
fn healthy() -> u16 {
    let server = Fake::with_body("200 OK", "", "{}");
    server.address.rsplit(':').next().unwrap().parse().unwrap()
}

/// Waits until `condition` holds, for at most [`SOON`].
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, holds)
        .await
        .unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"));
}

fn ids(discovery: &Discovery) -> Vec<String> {
    let instances = discovery.instances();
    instances.iter().map(|instance| instance.id.clone()).collect()
}

#[tokio::test]
async fn the_catalog_shows_an_instance_as_the_contract_has_it() {
    let port = healthy();
    registry(&AGENT.address)
        .register(&registration("shown", port))
        .await
        .unwrap();
    let id = format!("shown@127.0.0.1:{port}");
    eventually("it is in the catalog", || AGENT.passing("shown") == [id.clone()]).await;
    let entry = AGENT.get("health/service/shown")[0].clone();
    let service = &entry["Service"];
    assert_eq!(service["ID"], json!(id));
    assert_eq!(service["Service"], "shown");
    assert_eq!(
        (&service["Address"], &service["Port"]),
        (&json!("127.0.0.1"), &json!(port))
    );
    assert_eq!(
        service["Meta"],
        json!({ "svc": "1.2.3", "since": "2026-11-25T01:41:57Z" })
    );
    let checks = AGENT.get("health/checks/shown");
    let [check] = checks.as_array().unwrap().as_slice() else {
        panic!("one check: {checks}");
    };
    assert_eq!(
        check["Definition"]["HTTP"],
        Value::Null,
        "an agent's check is the agent's to know"
    );
    let check = &AGENT.get("agent/checks")[format!("service:{id}")];
    assert_eq!(
        (&check["Type"], &check["Interval"], &check["Timeout"]),
        (&json!("http"), &json!("2s"), &json!("1s"))
    );
}

#[tokio::test]
async fn what_is_sent_to_the_agent_is_the_check_of_the_contract() {
    let server = Fake::with_body("200 OK", "", "");
    registry(&server.address)
        .register(&registration("sent", 8100))
        .await
        .unwrap();
    let request = server.requests().concat();
    assert!(
        request.starts_with("PUT /v1/agent/service/register?replace-existing-checks=true "),
        "{request}"
    );
    let sent: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let expected = json!({
        "ID": "sent@127.0.0.1:8100",
        "Name": "sent",
        "Address": "127.0.0.1",
        "Port": 8100,
        "Meta": { "svc": "1.2.3", "since": "2026-11-25T01:41:57Z" },
        "Check": {
            "HTTP": "http://127.0.0.1:8100/health",
            "Interval": "2s",
            "Timeout": "1s",
            "Status": "passing",
            "DeregisterCriticalServiceAfter": "1m",
        },
    });
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn a_stale_entry_of_the_same_id_is_replaced_with_all_its_checks() {
    let instance = registration("stale", healthy());
    let stale = json!({
        "ID": instance.id(), "Name": "stale", "Address": "127.0.0.1", "Port": 1, "Meta": { "old": "yes" }, "Tags": ["old"],
        "Checks": [
            { "Name": "one", "HTTP": "http://127.0.0.1:1/health", "Interval": "1h" },
            { "Name": "two", "TTL": "1h" },
        ],
    });
    AGENT.send("agent/service/register", &stale);
    assert!(AGENT.passing("stale").is_empty());
    let _registered = Registered::keep(registry(&AGENT.address), registration("stale", instance.port));
    eventually("it passes", || AGENT.passing("stale") == [instance.id()]).await;
    let entry = AGENT.get("health/service/stale")[0].clone();
    assert_eq!(entry["Service"]["Port"], json!(instance.port));
    assert_eq!(
        entry["Service"]["Meta"],
        json!({ "svc": "1.2.3", "since": "2026-11-25T01:41:57Z" })
    );
    assert_eq!(entry["Service"]["Tags"], json!([]));
    assert_eq!(AGENT.get("health/checks/stale").as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_instance_that_was_deregistered_by_hand_is_registered_again() {
    let instance = registration("by-hand", healthy());
    let registered = Registered::keep(registry(&AGENT.address), instance.clone());
    assert!(registered.first(SOON).await);
    let knows = || !AGENT.get("agent/services")[instance.id()].is_null();
    // It may be back between the two questions.
    let forgotten = || {
        AGENT.send(&format!("agent/service/deregister/{}", instance.id()), &Value::Null);
        !knows()
    };
    eventually("it is forgotten", forgotten).await;
    eventually("the agent knows it again", knows).await;
    eventually("it is in the catalog", || AGENT.passing("by-hand") == [instance.id()]).await;
    registered.leave(PATIENCE).over().await;
    eventually("it is gone", || AGENT.passing("by-hand").is_empty()).await;
}

#[tokio::test]
async fn an_instance_whose_check_was_taken_away_has_it_again() {
    let instance = registration("checked", healthy());
    let _registered = Registered::keep(registry(&AGENT.address), instance.clone());
    let check = format!("service:{}", instance.id());
    let is_checked = || !AGENT.get("agent/checks")[&check].is_null();
    for _ in 0..2 {
        eventually("it has its check", is_checked).await;
        // It may be back between the two questions.
        let taken_away = || {
            AGENT.send(&format!("agent/check/deregister/{check}"), &Value::Null);
            !is_checked()
        };
        eventually("its check is taken away", taken_away).await;
    }
    eventually("it has its check again", is_checked).await;
}

#[tokio::test]
async fn an_entry_that_was_changed_is_put_right_and_what_others_add_to_it_stays() {
    let instance = registration("changed", healthy());
    let _registered = Registered::keep(registry(&AGENT.address), instance.clone());
    let service = || AGENT.get("agent/services")[instance.id()].clone();
    let place = || {
        (
            service()["Address"].clone(),
            service()["Port"].clone(),
            service()["Meta"].clone(),
        )
    };
    let meta = json!({ "svc": "1.2.3", "since": "2026-11-25T01:41:57Z" });
    let right = (json!("127.0.0.1"), json!(instance.port), meta.clone());
    eventually("it is registered", || place() == right).await;
    for (member, wrong) in [
        ("Name", json!("another")),
        ("Address", json!("127.0.0.2")),
        ("Port", json!(1)),
        ("Meta", json!({ "svc": "1.2.3", "since": "2020-01-01T00:00:00Z" })),
        ("Meta", json!({})),
    ] {
        let mut entry = json!({
            "ID": instance.id(), "Name": "changed", "Address": "127.0.0.1", "Port": instance.port, "Meta": meta,
        });
        entry[member] = wrong;
        AGENT.send("agent/service/register", &entry);
        let is_right = || place() == right && service()["Service"] == "changed";
        eventually(&format!("it is put right: {entry}"), is_right).await;
    }
    let added = json!({ "ServiceID": instance.id(), "ID": "added", "Name": "added", "TTL": "1h", "Status": "passing" });
    AGENT.send("agent/check/register", &added);
    let asked_since = Instant::now();
    eventually("it was looked at", || asked_since.elapsed() > Duration::from_secs(3)).await;
    assert!(!AGENT.get("agent/checks")["added"].is_null());
}

#[tokio::test]
async fn discovery_sees_instances_pass_fail_and_leave() {
    let registry = registry(&AGENT.address);
    let discovery = Discovery::follow(registry.clone(), "seen");
    assert!(discovery.first(SOON).await);
    assert!(discovery.instances().is_empty());
    let (first, second) = (registration("seen", healthy()), registration("seen", healthy()));
    registry.register(&first).await.unwrap();
    eventually("the first is seen", || ids(&discovery) == [first.id()]).await;
    let expected = Instance {
        id: first.id(),
        host: "127.0.0.1".to_owned(),
        port: first.port,
        version: Some("1.2.3".to_owned()),
        since: Some(first.since),
    };
    assert_eq!(discovery.instances()[..], [expected]);

    let foreign = json!({ "ID": "other", "Name": "seen", "Port": 9, "Check": { "TTL": "1h", "Status": "passing" } });
    AGENT.send("agent/service/register", &foreign);
    eventually("one of another origin is seen", || ids(&discovery).len() == 2).await;
    let other = discovery.instances()[0].clone();
    assert_eq!(
        (other.host.as_str(), other.version),
        ("127.0.0.1", None),
        "the address is that of its node"
    );

    registry.register(&second).await.unwrap();
    eventually("the second is seen", || ids(&discovery).len() == 3).await;
    AGENT.send("agent/check/fail/service:other", &Value::Null);
    eventually("what fails is not", || !ids(&discovery).contains(&"other".to_owned())).await;
    registry.deregister(&first.id()).await.unwrap();
    eventually("who left is not", || ids(&discovery) == [second.id()]).await;
}

#[tokio::test]
async fn an_instance_that_registered_no_port_hides_no_other() {
    let registry = registry(&AGENT.address);
    // Consul leaves the port out of its answer then.
    AGENT.send(
        "agent/service/register",
        &json!({ "ID": "no-port", "Name": "portless" }),
    );
    let instance = registration("portless", healthy());
    registry.register(&instance).await.unwrap();
    let discovery = Discovery::follow(registry.clone(), "portless");
    eventually("the other is seen", || ids(&discovery) == [instance.id()]).await;
    let listed = registry.all("portless").await.unwrap();
    let shown: Vec<_> = listed
        .iter()
        .map(|listed| (listed.id.as_str(), listed.address.as_deref()))
        .collect();
    let address = format!("127.0.0.1:{}", instance.port);
    assert_eq!(shown, [("no-port", None), (&instance.id(), Some(address.as_str()))]);
}

#[tokio::test]
async fn a_consul_that_comes_back_empty_has_all_instances_again_within_10_seconds() {
    let mut agent = tokio::task::spawn_blocking(Agent::start).await.unwrap();
    let registry = registry(&agent.address);
    let instances: Vec<Registration> = (0..3).map(|_| registration("again", healthy())).collect();
    let kept: Vec<Registered> = instances
        .iter()
        .map(|instance| Registered::keep(registry.clone(), instance.clone()))
        .collect();
    let discovery = Discovery::follow(registry.clone(), "again");
    eventually("all are seen", || ids(&discovery).len() == 3).await;
    let all = ids(&discovery);
    let mut known = all.clone();

    for round in 0..2 {
        let ports = agent.kill();
        for _ in 0..20 {
            assert_eq!(ids(&discovery), known, "while Consul is away, they are known");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        agent = tokio::task::spawn_blocking(move || Agent::start_empty(&ports))
            .await
            .unwrap();
        let back = Instant::now();
        let listed = || {
            assert!(!ids(&discovery).is_empty(), "while Consul comes back, some are known");
            agent.passing("again") == all
        };
        eventually("all are registered again", listed).await;
        assert!(back.elapsed() < AGAIN_WITHIN, "{:?}", back.elapsed());
        // One more that only this agent has: with it, what is known is told by this agent, and not from before.
        let told = format!("told-{round}");
        agent.send(
            "agent/service/register",
            &json!({ "Name": "again", "ID": told, "Address": "127.0.0.1", "Port": 1 }),
        );
        known = all.clone();
        known.push(told);
        known.sort();
        eventually("all are seen again", || ids(&discovery) == known).await;
    }
    drop(kept);
}

#[tokio::test]
async fn a_watch_goes_back_to_index_0_where_the_index_goes_back_or_an_answer_fails() {
    let good = |index: u64, ids: &[&str]| {
        let entry = |id: &&str| json!({ "Node": { "Address": "10.0.0.1" }, "Service": { "ID": id, "Address": "", "Port": 1, "Meta": null }, "Checks": [] });
        let entries: Vec<Value> = ids.iter().map(entry).collect();
        fake::answer(
            "200 OK",
            &format!("X-Consul-Index: {index}\r\n"),
            &json!(entries).to_string(),
        )
    };
    let server = Fake::scripted([
        good(50, &["b", "a"]),
        good(50, &["a", "b"]),
        good(7, &["c"]),
        good(7, &["c"]),
        fake::answer("500 Internal Server Error", "", "No cluster leader"),
        good(3, &["d"]),
        good(3, &["d"]),
        Vec::new(),
    ]);
    let registry = registry(&server.address);
    let seen: Vec<_> = timeout(SOON, registry.watch("scripted").take(7).collect())
        .await
        .unwrap();
    let seen: Vec<String> = seen
        .iter()
        .map(|answer| match answer {
            Ok(instances) => instances.iter().map(|instance| instance.id.as_str()).collect(),
            Err(error) => error.to_string(),
        })
        .collect();
    let failed = format!(
        "Consul at http://{}: the live instances of scripted: it answered HTTP 500 \"No cluster leader\"",
        server.address
    );
    assert_eq!(seen, ["ab", "ab", "c", "c", &failed, "d", "d"]);
    let path = |request: &String| {
        request
            .split(' ')
            .nth(1)
            .unwrap()
            .replace("/v1/health/service/scripted?", "")
    };
    let asked: Vec<String> = server.requests().iter().map(path).collect();
    let expected = [
        "",
        "&index=50&wait=10s",
        "&index=50&wait=10s",
        "",
        "&index=7&wait=10s",
        "",
        "&index=3&wait=10s",
    ];
    assert_eq!(asked, expected.map(|rest| format!("passing=true{rest}")));
}

#[tokio::test]
async fn an_agent_that_always_answers_at_once_is_not_flooded() {
    let server = Fake::with_body("200 OK", "X-Consul-Index: 5\r\n", "[]");
    let registry = registry(&server.address);
    let began = Instant::now();
    registry.watch("eager").take(6).collect::<Vec<_>>().await;
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors_and_the_watch_goes_on() {
    let with = |headers: &str, body: &str| fake::answer("200 OK", headers, body);
    let index = "X-Consul-Index: 5\r\n";
    let nonsense = vec![
        with("", "[]"),
        with("X-Consul-Index: 0\r\n", "[]"),
        with("X-Consul-Index: -1\r\n", "[]"),
        with("X-Consul-Index: 99999999999999999999\r\n", "[]"),
        with(index, ""),
        with(index, "{}"),
        with(index, "null"),
        with(index, "[{}]"),
        with(
            index,
            r#"[{"Node":{"Address":"a"},"Service":{"ID":"a","Address":"a","Port":"80"}}]"#,
        ),
        with(index, "[null"),
        [b"HTTP/1.1 200 OK\r\nX-Consul-Index: \xff\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]".as_slice()]
            .concat(),
        b"HTTP/1.1 200 OK\r\nX-Consul-Index: 5\r\nContent-Length: 9\r\nConnection: close\r\n\r\n[".to_vec(),
        b"\x00\x01\x02\r\n\r\n".to_vec(),
        fake::answer("404 Not Found", index, "[]"),
        fake::answer("403 Forbidden", index, "Permission denied"),
    ];
    for answer in nonsense {
        let good = with(index, "[]");
        let server = Fake::scripted([answer.clone(), good]);
        let registry = registry(&server.address);
        let seen: Vec<_> = timeout(SOON, registry.watch("odd").take(2).collect()).await.unwrap();
        let odd = String::from_utf8_lossy(&answer).into_owned();
        assert!(seen[0].is_err(), "{odd}");
        assert!(seen[1].is_ok(), "{odd}: {:?}", seen[1]);
    }
}

#[tokio::test]
async fn calls_to_an_agent_that_says_nothing_end_within_their_deadline() {
    let server = Fake::answering("");
    let registry = registry(&server.address);
    let instance = registration("silent", 1);
    let id = instance.id();
    let mut watch = registry.watch("silent");
    let calls = async {
        let (registered, known, deregistered, listed, seen) = tokio::join!(
            registry.register(&instance),
            registry.is_registered(&instance),
            registry.deregister(&id),
            registry.all("silent"),
            watch.next()
        );
        for error in [
            registered.unwrap_err(),
            known.unwrap_err(),
            deregistered.unwrap_err(),
            listed.unwrap_err(),
            seen.unwrap().unwrap_err(),
        ] {
            assert!(error.to_string().contains("no answer within 5s"), "{error}");
        }
    };
    timeout(SOON, calls).await.unwrap();
}

#[tokio::test]
async fn an_id_that_would_reach_the_agent_changed_is_refused_before_anything_is_sent() {
    let server = Fake::with_body("200 OK", "", "");
    let registry = registry(&server.address);
    for service in ["a b", "a/b", "a?b"] {
        let instance = registration(service, 1);
        assert!(registry.register(&instance).await.is_err(), "{service:?}");
        assert!(registry.is_registered(&instance).await.is_err(), "{service:?}");
        assert!(registry.deregister(&instance.id()).await.is_err(), "{service:?}");
    }
    assert_eq!(server.requests(), Vec::<String>::new());
}
