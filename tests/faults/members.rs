//! Real members that are killed, hang and come back, under load.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use svc::hazelcast::{Config, Kind, Listener, Map, Notice, Routing};
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

use crate::connect;
use crate::support::engines::{Cluster, Engines, Options};

const WRITERS: usize = 64;

/// How long a cluster may take to be whole again.
const WHOLE: Duration = Duration::from_secs(90);

/// How long after a failure the cluster may take to serve again.
const SERVES_AGAIN: Duration = Duration::from_secs(30);

/// Held by a test that loads the machine: one at a time.
pub(crate) static TURN: Mutex<()> = Mutex::const_new(());

/// The engines of this binary: three members for these tests, and one that the tests of the network leave alone.
fn engines() -> &'static Engines {
    static ENGINES: OnceLock<Engines> = OnceLock::new();
    ENGINES.get_or_init(|| {
        Engines::start(&Options {
            logging: 3,
            mq: 1,
            consul: false,
        })
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.unwrap()
}

/// The cluster name and the address of a member that nobody harms.
pub(crate) async fn single_member() -> (&'static str, SocketAddr) {
    let cluster = &blocking(engines).await.mq;
    (cluster.name, cluster.members[0].address)
}

/// The members of two clusters for a fleet that does them no harm: the three of `logging`, for one test at a time, and
/// the single one.
pub(crate) async fn for_a_fleet() -> (MutexGuard<'static, ()>, [String; 2]) {
    let (turn, cluster) = three_members().await;
    (turn, [cluster.addresses(), engines().mq.addresses()])
}

/// Three members for one test at a time, all of them up and their backups complete.
async fn three_members() -> (MutexGuard<'static, ()>, &'static Cluster) {
    let turn = TURN.lock().await;
    let cluster = blocking(|| {
        let cluster = &engines().logging;
        restore(cluster);
        cluster
    })
    .await;
    (turn, cluster)
}

/// Brings back whatever a test, or one that failed before, took down.
fn restore(cluster: &Cluster) {
    for member in &cluster.members {
        match member.pid() {
            Some(_) => member.resume(),
            None => member.start(),
        }
    }
    cluster.wait_safe(WHOLE);
}

/// As the adapters configure it: redo on, a write counts once its backup has it.
fn config(cluster: &Cluster) -> Config {
    let addresses = cluster.members.iter().map(|member| member.address.to_string());
    let mut config = Config::new(cluster.name, addresses);
    config.redo_operations = true;
    config
}

/// Writers that set one key after the other until they are told to stop.
struct Load {
    stop: watch::Sender<bool>,
    writers: JoinSet<Written>,
}

#[derive(Default)]
struct Written {
    keys: Vec<String>,
    failures: Vec<String>,
    longest: Duration,
}

impl Load {
    fn start(map: &Map, prefix: &str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(map.clone(), format!("{prefix}-{writer}"), stopped.clone()));
        }
        Self { stop, writers }
    }

    async fn stop(mut self) -> Written {
        self.stop.send_replace(true);
        let mut all = Written::default();
        while let Some(written) = self.writers.join_next().await {
            let written = written.unwrap();
            all.keys.extend(written.keys);
            all.failures.extend(written.failures);
            all.longest = all.longest.max(written.longest);
        }
        all
    }
}

async fn write(map: Map, prefix: String, stopped: watch::Receiver<bool>) -> Written {
    let mut written = Written::default();
    for number in 0.. {
        if *stopped.borrow() {
            break;
        }
        let key = format!("{prefix}-{number}");
        let began = Instant::now();
        match map.set(key.as_str(), key.as_str()).await {
            Ok(()) => written.keys.push(key),
            Err(error) => written.failures.push(format!("{key}: {error:#}")),
        }
        written.longest = written.longest.max(began.elapsed());
    }
    written
}

async fn missing(map: &Map, keys: &[String]) -> Vec<String> {
    let stored = map.clone().with_timeout(SERVES_AGAIN).key_set().await.unwrap();
    let stored: HashSet<&str> = stored.iter().map(|key| key.as_str().unwrap()).collect();
    keys.iter()
        .filter(|key| !stored.contains(key.as_str()))
        .cloned()
        .collect()
}

/// Calls until one succeeds.
async fn until_served(map: &Map) {
    let end = Instant::now() + SERVES_AGAIN;
    while let Err(error) = map.set("served", "again").await {
        assert!(Instant::now() < end, "not served again: {error:#}");
    }
}

/// Waits until members that have just been started are up to speed: no call of a second takes long.
async fn warm_up(map: &Map) {
    for second in 0..20 {
        let load = Load::start(map, &format!("warm-{second}"));
        sleep(Duration::from_secs(1)).await;
        if load.stop().await.longest < Duration::from_millis(100) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_member_costs_no_call_no_entry_and_less_than_two_seconds() {
    /// What the system promises of the slowest answer. Most of it is the cluster's own: it takes half a second to drop a
    /// member whose process is gone, and up to as much again to serve its partitions.
    const PAUSE: Duration = Duration::from_secs(2);
    let (_turn, cluster) = three_members().await;
    let client = connect(config(cluster)).await;
    let map = client.map("killed");
    map.clear().await.unwrap();
    let mut keys = Vec::new();
    for member in &cluster.members {
        warm_up(&map).await;
        let load = Load::start(&map, &member.name);
        sleep(Duration::from_millis(500)).await;
        blocking(|| member.kill()).await;
        sleep(Duration::from_secs(3)).await;
        let written = load.stop().await;
        let (count, longest) = (written.keys.len(), written.longest);
        println!("{} killed: {count} sets, the longest {longest:?}", member.name);
        assert_eq!(written.failures, Vec::<String>::new());
        assert!(longest < PAUSE, "the longest took {longest:?}");
        assert!(count > WRITERS);
        keys.extend(written.keys);
        assert_eq!(missing(&map, &keys).await, Vec::<String>::new());
        blocking(|| {
            member.start();
            cluster.wait_safe(WHOLE);
        })
        .await;
        assert_eq!(missing(&map, &keys).await, Vec::<String>::new(), "after it came back");
    }
    map.clear().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_hangs_holds_no_call_past_its_deadline() {
    const DEADLINE: Duration = Duration::from_secs(3);
    const MARGIN: Duration = Duration::from_secs(2);
    let (_turn, cluster) = three_members().await;
    let client = connect(config(cluster)).await;
    let map = client.map("hung").with_timeout(DEADLINE);
    map.clear().await.unwrap();
    cluster.members[0].pause();
    let calls = (0..300).map(|number| {
        let map = map.clone();
        tokio::spawn(async move {
            let began = Instant::now();
            let outcome = map.set(number.to_string().as_str(), "v").await;
            (outcome, began.elapsed())
        })
    });
    let (mut done, mut late) = (0, 0);
    for call in calls.collect::<Vec<_>>() {
        let (outcome, took) = call.await.unwrap();
        assert!(took < DEADLINE + MARGIN, "a call took {took:?}: {outcome:?}");
        match outcome {
            Ok(()) => done += 1,
            Err(error) if error.is_timeout() => late += 1,
            Err(error) => panic!("{error:#}"),
        }
    }
    println!("one of three hangs: {done} calls done, {late} at their deadline");
    assert!(done > 0, "what the others own and back up goes on");
    assert!(late > 0, "what the member owns cannot be had");
    cluster.members[0].resume();
    until_served(&map).await;
    blocking(|| cluster.wait_safe(WHOLE)).await;
    for number in 0..300 {
        map.set(number.to_string().as_str(), "v")
            .await
            .unwrap_or_else(|error| panic!("{number}: {error:#}"));
    }
    assert_eq!(map.size().await.unwrap(), 301);
    map.clear().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_died_and_came_back_is_found_again_and_known_as_another() {
    let (_turn, cluster) = three_members().await;
    let client = connect(config(cluster)).await;
    let map = client.map("died");
    map.set("before", "v").await.unwrap();
    let old = client.cluster_id().unwrap();
    kill_at_once(&cluster.members.iter().collect::<Vec<_>>());
    let short = map.clone().with_timeout(Duration::from_millis(500));
    let began = Instant::now();
    assert!(short.set("during", "v").await.unwrap_err().outcome_unknown() || !client.is_connected());
    assert!(short.set("during", "v").await.is_err());
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(!client.is_connected());
    assert!(client.problem().is_some());
    blocking(|| restore(cluster)).await;
    until_served(&map).await;
    let new = client.cluster_id().unwrap();
    assert_ne!(old, new);
    assert_eq!(map.get("before").await.unwrap(), None);
    let all = timeout(SERVES_AGAIN, async {
        while client.members().len() < 3 {
            sleep(Duration::from_millis(20)).await;
        }
    });
    all.await.expect("all three members are listed");
    map.clear().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_were_lost_are_told_of() {
    let (_turn, cluster) = three_members().await;
    let survivor = &cluster.members[2];
    let mut settings = config(cluster);
    // Listens at the one that stays: events of a connection that is lost are lost with it.
    settings.addresses = vec![survivor.address.to_string()];
    settings.routing = Routing::SingleMember;
    let client = connect(settings).await;
    let map = client.map("lost");
    for number in 0..300 {
        map.set(number.to_string().as_str(), "v").await.unwrap();
    }
    let mut of_cluster = client.partition_lost_listener();
    let mut of_map = map.partition_lost_listener();
    assert_eq!(of_cluster.next().await, Some(Notice::Registered));
    assert_eq!(of_map.next().await, Some(Notice::Registered));
    kill_at_once(&[&cluster.members[0], &cluster.members[1]]);
    // Some of the cluster's events are of a lost owner whose backup took over; this waits for one that lost that too.
    let with_backup = lost(&mut of_cluster, |event| event.lost_backup_count >= 1).await;
    let with_entries = lost(&mut of_map, |_| true).await;
    println!("told of {with_backup:?}, of the map {with_entries:?}");
    let partitions = 0..client.partition_count();
    assert!(partitions.contains(&with_backup.partition_id) && partitions.contains(&with_entries.partition_id));
    until_served(&map).await;
    assert!(
        map.size().await.unwrap() < 301,
        "two thirds of the partitions had both copies on members that died"
    );
    assert_eq!(
        client
            .ping(client.members()[0].uuid, SERVES_AGAIN)
            .await
            .map_err(|error| error.kind()),
        Ok::<(), Kind>(())
    );
}

/// The first event that is wanted.
async fn lost<T: Send + 'static>(listener: &mut Listener<T>, wanted: impl Fn(&T) -> bool) -> T {
    let event = timeout(SERVES_AGAIN, async {
        loop {
            match listener.next().await {
                Some(Notice::Event(event)) if wanted(&event) => return event,
                Some(_) => {}
                None => panic!("the listener has ended"),
            }
        }
    });
    event.await.expect("a lost partition is told of")
}

/// SIGKILL to all of them before the first is gone.
fn kill_at_once(members: &[&crate::support::engines::Engine]) {
    let pids: Vec<_> = members.iter().map(|member| member.pid().unwrap()).collect();
    for pid in pids {
        kill_process(pid, Signal::KILL).unwrap();
    }
}
