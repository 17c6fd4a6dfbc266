//! Registration that survives what happens to the agent: real processes, a real Consul agent that is killed, started again,
//! slow, or silent for a while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use svc::engine::Registration;
use svc::registration::{Patience, Registered};
use tokio::task::{JoinHandle, block_in_place};

use crate::support::agent::Agent;
use crate::support::fake::Fake;
use crate::support::fleet::{CHECKED, Fleet, Load, SOON, ask, ask_at, clients, end, eventually, eventually_within};
use crate::support::hold::Hold;
use crate::support::ports::registry;
use crate::support::process::Svc;

const SERVICES: [&str; 3] = ["facade-service", "logging-service", "messages-service"];

/// How soon all are registered again, from the moment on that Consul is back.
const AGAIN_WITHIN: Duration = Duration::from_secs(10);

/// How long a stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// How long `/health` may take.
const HEALTH_WITHIN: Duration = Duration::from_secs(1);

/// As slow as an agent is here.
const SLOW: Duration = Duration::from_millis(2500);

/// As the roles have it.
const PATIENCE: Patience = Patience {
    tries: Duration::from_secs(2),
    limit: Duration::from_secs(8),
};

/// What Consul says of each instance: its entry, and the ids of its checks.
fn entries(agent: &Agent) -> Vec<(Value, Vec<String>)> {
    let entries = SERVICES.map(|service| agent.get(&format!("health/service/{service}")));
    let entries = entries.iter().flat_map(|entries| entries.as_array().unwrap());
    let mut entries: Vec<(Value, Vec<String>)> = entries
        .map(|entry| {
            let service = &entry["Service"];
            let checks = entry["Checks"].as_array().unwrap().iter();
            let checks = checks.filter(|check| check["ServiceID"] == service["ID"]);
            let checks = checks.map(|check| check["CheckID"].as_str().unwrap().to_owned());
            let says = json!([service["ID"], service["Address"], service["Port"], service["Meta"]]);
            (says, checks.collect())
        })
        .collect();
    entries.sort_by_key(|(says, _)| says[0].to_string());
    entries
}

/// Waits until all instances of before pass again, each with one entry, one check and the start that it had.
async fn all_again(agent: &Agent, before: &[(Value, Vec<String>)]) {
    eventually_within(AGAIN_WITHIN, "all are registered as before", async || {
        let passing = SERVICES.map(|service| agent.passing(service).len());
        entries(agent) == before && passing.iter().sum::<usize>() == before.len()
    })
    .await;
}

/// Asks for `/health` again and again; the longest time that an answer took.
struct Asking {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Duration>,
}

impl Asking {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                ask_at(address, "GET", "/health", "", "").await;
                longest = longest.max(asked.elapsed());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            longest
        });
        Self { stop, task }
    }

    async fn longest(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Sends SIGTERM, and waits for a clean end; how long that took.
async fn stop(svc: &Svc) -> Duration {
    let signalled = Instant::now();
    svc.signal(Signal::TERM);
    assert!(block_in_place(|| svc.wait_exit(SOON)).success(), "{}", svc.output());
    signalled.elapsed()
}

/// How old is what the facade knows of the logging instances, in seconds.
async fn age(facade: &Svc) -> u64 {
    let health = ask(facade, "GET", "/health", "", "").await.json();
    health["discovery"]["logging-service"]["age_seconds"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_and_started_again_has_all_as_before_and_no_post_fails() {
    let mut fleet = Fleet::start(1, 2, 1).await;
    let before = entries(fleet.agent());
    assert_eq!(before.len(), 4);
    let load = Arc::new(Load::default());
    let clients = clients(&load, &fleet.facades[0]);
    load.more(100).await;

    let killed = Instant::now();
    let agent = fleet.take_agent();
    let agent = block_in_place(|| agent.kill_keeping_data());
    eventually("what is known gets old", async || {
        let least = killed.elapsed().as_secs().saturating_sub(1);
        let age = age(&fleet.facades[0]).await;
        assert!(age >= least, "nobody answered since: {age}, not {least} seconds");
        age >= 3
    })
    .await;
    let agent = block_in_place(|| agent.start());
    all_again(&agent, &before).await;
    eventually("it is known anew", async || age(&fleet.facades[0]).await < 2).await;
    load.more(100).await;
    let posted = end(&load, clients).await;
    fleet.wait_lists(&posted).await;
    println!("{} posted", posted.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_and_goes_fails_no_post_and_has_all_in_the_end() {
    let mut fleet = Fleet::start(1, 2, 1).await;
    let before = entries(fleet.agent());
    let load = Arc::new(Load::default());
    let clients = clients(&load, &fleet.facades[0]);
    let mut agent = fleet.take_agent();
    let (began, mut times) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(14) {
        agent = block_in_place(|| agent.kill_keeping_data().start());
        times += 1;
        load.more(50).await;
    }
    all_again(&agent, &before).await;
    let posted = end(&load, clients).await;
    fleet.wait_lists(&posted).await;
    println!("{times} times, {} posted", posted.len());
    assert!(times >= 3, "{times}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_killed_and_started_again_at_its_port_is_whole_and_passes_at_once() {
    let fleet = Fleet::start(0, 1, 0).await;
    let agent = fleet.agent();
    let address = fleet.logging[0].address();
    let id = format!("logging-service@{address}");
    eventually("it passes", async || agent.passing("logging-service") == [id.clone()]).await;
    // Without its check, it would pass for ever.
    let check = format!("service:{id}");
    agent.send(&format!("agent/check/deregister/{check}"), &Value::Null);
    eventually("it has its check", async || {
        !agent.get("agent/checks")[&check].is_null()
    })
    .await;
    let before = entries(agent);
    fleet.logging[0].kill();
    eventually_within(CHECKED, "who is dead is critical", async || {
        agent.get("agent/checks")[&check]["Status"] == "critical" && agent.passing("logging-service").is_empty()
    })
    .await;

    let port = address.port().to_string();
    let again = Svc::start(&["logging", "--port", &port, "--consul", &agent.address], &[]);
    block_in_place(|| again.wait_healthy(SOON));
    let healthy = Instant::now();
    eventually("it passes again", async || {
        agent.passing("logging-service") == [id.clone()]
    })
    .await;
    let took = healthy.elapsed();
    println!("passes {took:?} after it is healthy");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let after = entries(agent);
    assert_eq!((after.len(), &after[0].1), (1, &vec![check]));
    assert_ne!(after[0].0[3]["since"], before[0].0[3]["since"], "another process");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_agent_that_is_slow_an_instance_registers_serves_and_stops_in_time() {
    let fleet = Fleet::start(1, 1, 1).await;
    let agent = fleet.agent();
    let hold = Hold::start(agent.address.parse().unwrap()).await;
    hold.delay_answers(SLOW);
    let consul = hold.address().to_string();
    let start = |role: &str| Svc::start(&[role, "--port", "0", "--consul", &consul], &[]);
    let (logging, facade) = (start("logging"), start("facade"));
    let [logging_at, facade_at] = block_in_place(|| [logging.address(), facade.address()]);
    let asking = [Asking::start(logging_at), Asking::start(facade_at)];
    let registered = |svc: &Svc, service: &str| {
        let id = format!("{service}@{}", svc.address());
        agent.passing(service).contains(&id)
    };
    let began = Instant::now();
    eventually("both are registered", async || {
        registered(&logging, "logging-service") && registered(&facade, "facade-service")
    })
    .await;
    println!("registered after {:?}", began.elapsed());
    eventually("the facade knows both logging instances", async || {
        let health = ask(&facade, "GET", "/health", "", "").await.json();
        health["discovery"]["logging-service"]["instances"] == 2
    })
    .await;
    let load = Arc::new(Load::default());
    let clients = clients(&load, &facade);
    load.more(200).await;
    let [logging_asked, facade_asked] = asking;
    let longest = logging_asked.longest().await.max(facade_asked.longest().await);
    assert!(longest < HEALTH_WITHIN, "{longest:?}");

    let took = stop(&logging).await;
    println!("/health within {longest:?}, stopped within {took:?}");
    assert!(took < STOP_WITHIN, "{took:?}");
    let services = agent.get("agent/services");
    assert!(
        services[format!("logging-service@{logging_at}")].is_null(),
        "{services}"
    );
    load.more(50).await;
    end(&load, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_silent_for_15_seconds_holds_up_no_health_and_no_post() {
    let fleet = Fleet::start(1, 1, 1).await;
    let agent = fleet.agent();
    let hold = Hold::start(agent.address.parse().unwrap()).await;
    let consul = hold.address().to_string();
    let start = |role: &str| Svc::start(&[role, "--port", "0", "--consul", &consul], &[]);
    let facade = start("facade");
    block_in_place(|| facade.wait_healthy(SOON));
    eventually("the facade can post", async || {
        ask(&facade, "POST", "/message?text=first", "", "").await.status == 201
    })
    .await;
    hold.hold();
    let silent = Instant::now();
    let logging = start("logging");
    let [logging_at, facade_at] = block_in_place(|| [logging.address(), facade.address()]);
    let asking = [Asking::start(logging_at), Asking::start(facade_at)];
    let load = Arc::new(Load::default());
    let clients = clients(&load, &facade);
    while silent.elapsed() < Duration::from_secs(15) {
        load.more(20).await;
    }
    hold.release();
    let back = Instant::now();
    let id = format!("logging-service@{logging_at}");
    eventually_within(AGAIN_WITHIN, "who waited is registered", async || {
        agent.passing("logging-service").contains(&id)
    })
    .await;
    println!("registered {:?} after the agent answers", back.elapsed());
    let [logging_asked, facade_asked] = asking;
    let longest = logging_asked.longest().await.max(facade_asked.longest().await);
    assert!(longest < HEALTH_WITHIN, "{longest:?}");
    end(&load, clients).await;
    assert_eq!(agent.get("agent/services").as_object().unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_an_agent_that_is_silent_is_in_time_and_leaves_no_entry_where_it_answers_in_the_end() {
    let fleet = Fleet::start(0, 1, 0).await;
    let agent = fleet.agent();
    let hold = Hold::start(agent.address.parse().unwrap()).await;
    let consul = hold.address().to_string();
    let logging = Svc::start(&["logging", "--port", "0", "--consul", &consul], &[]);
    let id = format!("logging-service@{}", block_in_place(|| logging.address()));
    eventually("it is registered", async || {
        agent.passing("logging-service").contains(&id)
    })
    .await;
    hold.hold();
    let releasing = tokio::spawn(async move {
        // Later than new tries to leave begin.
        tokio::time::sleep(Duration::from_millis(3500)).await;
        hold.release();
        hold
    });
    let took = stop(&logging).await;
    drop(releasing.await.unwrap());
    println!("stopped within {took:?}");
    assert!(took < STOP_WITHIN, "{took:?}");
    assert!(agent.get("agent/services")[&id].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_arrives_late_leaves_no_entry_of_an_instance_that_left() {
    let agent = block_in_place(Agent::start);
    let hold = Hold::start(agent.address.parse().unwrap()).await;
    let server = Fake::with_body("200 OK", "", "{}");
    let instance = Registration {
        service: "late".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: server.address.rsplit(':').next().unwrap().parse().unwrap(),
        version: "1".to_owned(),
        since: std::time::SystemTime::now(),
    };
    hold.hold();
    let registered = Registered::keep(registry(&hold.address().to_string()), instance.clone());
    // Longer than the first call takes.
    assert!(!registered.first(Duration::from_millis(5500)).await);
    assert_eq!(agent.get("agent/services"), json!({}));
    let releasing = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        hold.release();
    };
    tokio::join!(registered.leave(PATIENCE).over(), releasing);
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(1) {
        assert_eq!(agent.get("agent/services"), json!({}));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
