//! Starts in any order: whatever is not there yet is waited for, aloud, and what does not come in time is told of.

use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::agent::{Agent, Ports};
use crate::support::engines::Engines;
use crate::support::fake::Fake;
use crate::support::fleet::Fleet;
use crate::support::process::{Svc, field};
use crate::support::wait;

/// Longer than what takes no time but that of a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

const ROLES: [&str; 3] = ["logging", "messages", "facade"];

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Consul,
    PopulateKv,
    Role(&'static str),
}

const LOGGING: Part = Part::Role("logging");
const MESSAGES: Part = Part::Role("messages");
const FACADE: Part = Part::Role("facade");

/// Orders in which each part comes before each other one.
const ORDERS: [[Part; 5]; 4] = [
    [Part::Consul, Part::PopulateKv, LOGGING, MESSAGES, FACADE],
    [FACADE, MESSAGES, LOGGING, Part::PopulateKv, Part::Consul],
    [MESSAGES, Part::PopulateKv, FACADE, Part::Consul, LOGGING],
    [LOGGING, Part::Consul, FACADE, Part::PopulateKv, MESSAGES],
];

/// An instance that waits for as long as it takes.
fn start(role: &str, consul: &str, more: &[&str]) -> Svc {
    let arguments = [role, "--port", "0", "--consul", consul, "--wait", "10m"];
    Svc::start(&[&arguments, more].concat(), &[])
}

/// What each warning of a wait says it waits for, and the seconds that it has waited.
fn waits(output: &str) -> Vec<(String, f64)> {
    let warnings = output
        .lines()
        .filter(|line| line.contains(" WARN ") && line.contains("waiting for "));
    let read = |line: &str| {
        let subject = line
            .split_once("waiting for ")
            .unwrap()
            .1
            .split_once(" answer=")
            .unwrap()
            .0;
        let waited = field(line, "waited").unwrap().trim_end_matches('s').parse().unwrap();
        (subject.to_owned(), waited)
    };
    warnings.map(read).collect()
}

/// What is waited for is said once when the wait for it begins, and then at intervals of 2 s, 4 s, 8 s, … at least.
fn assert_said_at_growing_intervals(svc: &Svc) {
    let waits = waits(&svc.output());
    for said in waits.chunk_by(|one, other| one.0 == other.0) {
        let mut least = 2.0;
        for pair in said.windows(2) {
            // Times are told to the tenth of a second.
            assert!(pair[1].1 - pair[0].1 > least - 0.2, "{said:?}");
            least *= 2.0;
        }
    }
}

#[test]
fn the_orders_have_each_part_before_each_other_one() {
    for first in ORDERS[0] {
        for second in ORDERS[0].into_iter().filter(|part| *part != first) {
            let before = |order: &[Part; 5]| order.iter().find(|part| [first, second].contains(part)) == Some(&first);
            assert!(ORDERS.iter().any(before), "{first:?} is never before {second:?}");
        }
    }
}

#[test]
fn in_whatever_order_the_parts_start_all_of_them_wait_and_then_serve() {
    Engines::shared();
    thread::scope(|scope| {
        let runs = ORDERS.map(|order| (order, scope.spawn(move || start_in(order))));
        for (order, run) in runs {
            run.join().unwrap_or_else(|_| panic!("in the order {order:?}"));
        }
    });
}

/// Starts the parts in this order; each step is taken once those before it have come as far as they can.
fn start_in(order: [Part; 5]) {
    let (ports, name) = (Ports::free(), format!("test-{}", Uuid::new_v4()));
    let consul = format!("127.0.0.1:{}", ports.http);
    let (mut agent, mut job, mut roles) = (None, None, Vec::new());
    for part in order {
        match part {
            Part::Consul => agent = Some(Agent::start_empty(&ports)),
            Part::PopulateKv => {
                job = Some(Fleet::start_populating(&consul, Engines::shared(), &name));
            }
            Part::Role(role) => roles.push(start(role, &consul, &[])),
        }
        match (&agent, &job) {
            (None, job) => {
                for svc in roles.iter().chain(job) {
                    svc.wait_for_line("waiting for Consul", SOON);
                }
                for svc in &roles {
                    svc.wait_waiting(&format!("Consul at http://{consul}"), SOON);
                }
            }
            (Some(_), None) => {
                for svc in &roles {
                    svc.wait_waiting(
                        &format!("the key essential_keys_populated in Consul at http://{consul}"),
                        SOON,
                    );
                }
            }
            (Some(_), Some(job)) => {
                assert!(job.wait_exit(SOON).success(), "{}", job.output());
                for svc in &roles {
                    svc.wait_healthy(SOON);
                }
            }
        }
    }
    let facade = order
        .iter()
        .filter_map(|part| if let Part::Role(role) = part { Some(role) } else { None });
    let facade = facade.zip(&roles).find(|(role, _)| **role == "facade").unwrap().1;
    let posted = wait::until_true(SOON, || curl(facade, "POST", "/message?text=in+any+order").0 == 201);
    assert!(posted, "{}", facade.output());
    // A post that was refused since no logging instance was known yet has logged nothing.
    let expected = json!([["in any order"], ["in any order"]]);
    let listed = wait::until_true(SOON, || curl(facade, "GET", "/messages") == (200, expected.clone()));
    assert!(listed, "{}", facade.output());
    for svc in roles.iter().chain(&job) {
        assert_said_at_growing_intervals(svc);
    }
}

/// Status and JSON of an answer, by a program that is not under test.
fn curl(svc: &Svc, method: &str, target: &str) -> (u16, Value) {
    let url = format!("http://{}{target}", svc.address());
    let arguments = ["-s", "--noproxy", "*", "-X", method, "-w", "\n%{http_code}", &url];
    let output = Command::new("curl").args(arguments).output().unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
    let (body, status) = answer.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn at_each_stage_health_says_what_is_waited_for_and_a_signal_ends_the_wait_well() {
    let ports = Ports::free();
    let consul = format!("127.0.0.1:{}", ports.http);
    let trio = |more: &[&str]| ROLES.map(|role| start(role, &consul, more));
    let all = trio(&[]);
    // The same stage for those that wait from the first on, and for three more, which are then stopped.
    let stage = |all: &[Svc], more: &[&str], reason: &str| {
        let stopped = trio(more);
        for svc in all.iter().chain(&stopped) {
            svc.wait_waiting(reason, SOON);
        }
        for svc in &stopped {
            svc.signal(Signal::TERM);
        }
        for svc in &stopped {
            let ended = svc.wait_exit(Duration::from_secs(10));
            assert_eq!(ended.code(), Some(0), "{reason}: {}", svc.output());
            assert!(!svc.output().contains("ERROR"), "{}", svc.output());
        }
    };
    let (there, key) = (
        format!("Consul at http://{consul}"),
        format!("the key essential_keys_populated in Consul at http://{consul}"),
    );
    stage(&all, &[], &format!("{there}: no connection: Connection refused"));

    let three_servers = Agent::spawn(&ports, &json!({"bootstrap_expect": 3}));
    stage(&all, &[], &format!("{there}: it has no leader yet"));
    three_servers.kill();

    let agent = Agent::start_empty(&ports);
    stage(&all, &[], &format!("{key}: there is no such key"));
    agent.put("essential_keys_populated", b"FALSE");
    stage(&all, &[], &format!("{key}: it is \"FALSE\", not TRUE"));

    agent.put("essential_keys_populated", b"");
    Fleet::populate(&consul, &format!("test-{}", Uuid::new_v4()));
    // Kept, since it is there: somebody says that the keys are not to be used yet.
    assert_eq!(agent.value("essential_keys_populated").as_deref(), Some(""));
    agent.put("essential_keys_populated", b"TRUE");
    for svc in &all {
        svc.wait_healthy(SOON);
        assert_said_at_growing_intervals(svc);
    }

    for (svc, name) in trio(&["--hazelcast", NOWHERE]).iter().zip(["logging", "mq", "mq"]) {
        svc.wait_waiting(
            &format!("Hazelcast cluster \"{name}\" at {NOWHERE}: no member of the Hazelcast cluster"),
            SOON,
        );
        svc.signal(Signal::TERM);
        assert_eq!(
            svc.wait_exit(Duration::from_secs(10)).code(),
            Some(0),
            "{}",
            svc.output()
        );
    }
}

#[test]
fn what_is_waited_for_is_said_once_and_then_at_growing_intervals() {
    let jobs = [&ROLES[..], &["populate-kv"]].concat();
    let waiting: Vec<Svc> = jobs
        .iter()
        .map(|role| Svc::start(&[role, "--consul", NOWHERE, "--wait", "10m"], &[("PORT", "0")]))
        .collect();
    for svc in &waiting {
        let said = wait::until_true(SOON, || waits(&svc.output()).len() >= 3);
        assert!(said, "{}", svc.output());
        let waits = waits(&svc.output());
        assert_eq!(waits[0], (format!("Consul at http://{NOWHERE}"), waits[0].1));
        assert!(waits[0].1 < 2.0 && waits[2].1 > 5.8, "{waits:?}");
        assert_said_at_growing_intervals(svc);
    }
}

/// Why a start gives up, and what it says.
struct Cause {
    what: &'static str,
    arguments: Vec<String>,
    tried: String,
    answered: &'static str,
    advice: &'static str,
}

/// A server that greets whoever connects with what no Hazelcast member says, for as long as the test process runs.
fn greeting(greeting: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut connection in listener.incoming().flatten() {
            let _ = connection.write_all(greeting);
            open.push(connection);
        }
    });
    address
}

const START_CONSUL: &str = "start one with `scripts/engines.sh up`, or point elsewhere with --consul or CONSUL_HTTP_ADDR, or \
                            do without it on one machine, with --local";
const START_CLUSTER: &str = "start it with `scripts/engines.sh up`, or name other members with --hazelcast";
const POPULATE: &str = "run `svc populate-kv` with the same options";

/// What keeps Consul, or the keys in it, from being used.
fn causes_of_consul(no_leader: &str, no_keys: &str, not_ready: &str) -> Vec<Cause> {
    let page = "<!DOCTYPE html><html><body>Welcome to nginx!</body></html>";
    let html = |status| Fake::with_body(status, "Content-Type: text/html\r\n", page).address;
    let engine = |what, address: &str, answered| Cause {
        what,
        arguments: vec!["--consul".to_owned(), address.to_owned()],
        tried: format!("Consul at http://{address}"),
        answered,
        advice: START_CONSUL,
    };
    let key = |what, address: &str, answered| Cause {
        what,
        arguments: vec!["--consul".to_owned(), address.to_owned()],
        tried: format!("the key essential_keys_populated in Consul at http://{address}"),
        answered,
        advice: POPULATE,
    };

    let member = Engines::shared().mq.members[0].address.to_string();
    vec![
        engine("nothing listens", NOWHERE, "no connection: Connection refused"),
        engine(
            "a page that is not there",
            &html("404 Not Found"),
            "it answered HTTP 404 \"<!DOCTYPE",
        ),
        engine("a page", &html("200 OK"), "it answered \"<!DOCTYPE"),
        engine("a Hazelcast member", &member, "no HTTP answer"),
        engine("no HTTP", &greeting(b"SSH-2.0-OpenSSH_9.2\r\n"), "no HTTP answer"),
        engine("no leader", no_leader, "it has no leader yet"),
        key("no keys", no_keys, "there is no such key"),
        key("a ready key that says no", not_ready, "it is \"FALSE\", not TRUE"),
    ]
}

/// What keeps the role's own cluster from being used.
fn causes_of_hazelcast(role: &str, consul: &str, elsewhere: &str) -> Vec<Cause> {
    let engines = Engines::shared();
    let (name, own) = match role {
        "logging" => ("logging", &engines.logging),
        _ => ("mq", &engines.mq),
    };
    let cause = |what, consul: &str, name: &str, members: &str, answered, advice| Cause {
        what,
        arguments: ["--consul", consul, "--hazelcast", members].map(str::to_owned).to_vec(),
        tried: format!("Hazelcast cluster \"{name}\" at {}", members.replace(',', ", ")),
        answered,
        advice,
    };
    let refused = "its cluster has another name, or asks for credentials";

    let web = Fake::answering("HTTP/1.1 400 Bad Request\r\n\r\n").address;
    let put_right = "a wrong name of the cluster is put right with `svc populate-kv --overwrite`";
    vec![
        cause("no member", consul, name, NOWHERE, "Connection refused", START_CLUSTER),
        cause(
            "another name",
            elsewhere,
            "elsewhere",
            &own.addresses(),
            refused,
            put_right,
        ),
        cause(
            "one that is silent",
            consul,
            name,
            &web,
            "no answer within 1000 ms",
            START_CLUSTER,
        ),
        cause(
            "no Hazelcast",
            consul,
            name,
            &greeting(b"SSH-2.0-OpenSSH_9.2\r\n"),
            "is not the protocol of a Hazelcast member",
            START_CLUSTER,
        ),
    ]
}

#[test]
fn a_start_that_gives_up_says_what_was_tried_what_answered_and_what_to_do() {
    let no_leader = Agent::spawn(&Ports::free(), &json!({"bootstrap_expect": 3}));
    let [no_keys, not_ready, there, elsewhere] = [(); 4].map(|()| Agent::start());
    not_ready.put("essential_keys_populated", b"FALSE");
    Fleet::populate(&there.address, "never-opened");
    for cluster in ["hz_logging_cluster_name", "hz_mq_cluster_name"] {
        elsewhere.put(cluster, b"elsewhere");
    }
    Fleet::populate(&elsewhere.address, "never-opened");

    let mut started = Vec::new();
    for role in ROLES {
        let causes = causes_of_consul(&no_leader.address, &no_keys.address, &not_ready.address);
        let causes = causes
            .into_iter()
            .chain(causes_of_hazelcast(role, &there.address, &elsewhere.address));
        started.extend(causes.map(|cause| {
            let mut arguments = vec![role, "--port", "0", "--wait", "2s"];
            arguments.extend(cause.arguments.iter().map(String::as_str));
            let svc = Svc::start(&arguments, &[]);
            (role, cause, svc)
        }));
    }
    for (role, cause, svc) in started {
        let what = format!("{role}, {}", cause.what);
        assert_eq!(svc.wait_exit(SOON).code(), Some(1), "{what}: {}", svc.output());
        let output = svc.output();
        let last: Vec<&str> = output.lines().rev().take(3).collect();
        let told =
            |line: &str, parts: &[&str]| assert!(parts.iter().all(|part| line.contains(part)), "{what}: {output}");
        told(last[2], &["svc: gave up waiting for ", &cause.tried, " after ", " tr"]);
        told(last[1], &["  last answer: ", cause.answered]);
        told(last[0], &["  what to do: ", cause.advice]);
        assert!(
            !output.contains("panicked") && !output.contains("ERROR"),
            "{what}: {output}"
        );
        assert_said_at_growing_intervals(&svc);
    }
}
