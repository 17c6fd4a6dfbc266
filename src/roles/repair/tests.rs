//! The rules of a repair. Time is the runtime's own, so nothing here waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{self, StreamExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use uuid::{NoContext, Timestamp, Uuid};

use super::comparison::{Pages, Side};
use super::identifiers::Identifiers;
use super::keeper::Keeper;
use super::other::NoInstance;
use super::status::Status;
use crate::engine::{self, Engine, Standing, Unavailable};
use crate::message::Message;
use crate::roles::followed::Named;

const SECOND: Duration = Duration::from_secs(1);

/// An engine with one list, and the other list beside it.
#[derive(Default)]
struct Both {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    list: BTreeMap<String, String>,
    other: BTreeMap<String, String>,
    identity: String,
    /// `None`: the engine is away.
    holders: Option<String>,
    vouched: Option<String>,
    keeps_all: bool,
    /// The other list breaks off behind its first page, so often.
    breaks: u32,
    /// Nobody has the other list.
    is_alone: bool,
    /// When the list was read, since the test began.
    reads: Vec<Duration>,
    /// How often each was put back.
    put_back: BTreeMap<String, u32>,
    began: Option<Instant>,
}

impl Both {
    /// An engine that nobody has vouched for, and nothing in it.
    fn new() -> Arc<Self> {
        let both = Arc::new(Self::default());
        both.state().holders = Some("a,b".to_owned());
        both.state().began = Some(Instant::now());
        both
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn other_has(&self, identifier: &str) {
        let text = format!("text of {identifier}");
        self.state().other.insert(identifier.to_owned(), text);
    }

    fn has(&self, identifier: &str) -> bool {
        self.state().list.contains_key(identifier)
    }

    fn reads(&self) -> Vec<u64> {
        self.state().reads.iter().map(Duration::as_secs).collect()
    }

    fn is_vouched_for(&self) -> bool {
        let state = self.state();
        state.vouched.is_some() && state.vouched == state.holders
    }

    fn pages(self: Arc<Self>) -> Pages {
        let mut state = self.state();
        let message = |(identifier, text): (&String, &String)| Message {
            identifier: identifier.clone(),
            text: text.clone(),
        };
        let pages: Vec<Vec<Message>> = state.other.iter().map(message).map(|message| vec![message]).collect();
        let mut pages: Vec<anyhow::Result<Vec<Message>>> = pages.into_iter().map(Ok).collect();
        if state.is_alone {
            pages = vec![Err(NoInstance("other-service").into())];
        }
        if state.breaks > 0 {
            state.breaks -= 1;
            pages.truncate(1);
            pages.push(Err(anyhow!("it broke off")));
        }
        stream::iter(pages).boxed()
    }
}

impl Engine for Both {
    fn describe(&self) -> String {
        "an engine in memory".to_owned()
    }

    fn object_name(&self) -> &str {
        "a list"
    }

    fn identity(&self) -> Option<String> {
        Some(self.state().identity.clone())
    }

    fn advice(&self) -> String {
        "let it succeed".to_owned()
    }

    fn ready(&self) -> BoxFuture<'_, engine::Result<()>> {
        ready(self.check()).boxed()
    }

    fn check(&self) -> engine::Result<()> {
        let away = || Unavailable {
            engine: self.describe(),
            cause: anyhow!("connection refused"),
        };
        self.state().holders.is_some().then_some(()).ok_or_else(away)
    }

    fn keeps_all(&self) -> bool {
        self.state().keeps_all
    }

    fn holders(&self) -> Option<String> {
        self.state().holders.clone()
    }

    fn standing(&self) -> BoxFuture<'_, engine::Result<Standing>> {
        let state = self.state();
        let standing = match &state.vouched {
            None => Standing::Unknown,
            vouched if *vouched == state.holders => Standing::Whole,
            Some(_) => Standing::InDoubt,
        };
        ready(Ok(standing)).boxed()
    }

    fn vouch<'a>(&'a self, holders: &'a str) -> BoxFuture<'a, engine::Result<()>> {
        self.state().vouched = Some(holders.to_owned());
        ready(Ok(())).boxed()
    }
}

struct List;

impl Side for List {
    type Engine = Both;

    const LIST: &'static str = "a list";

    fn known<'a>(&'a mut self, engine: &'a Both) -> BoxFuture<'a, anyhow::Result<Identifiers>> {
        let mut known = Identifiers::default();
        let mut state = engine.state();
        state.list.keys().for_each(|identifier| known.insert(identifier));
        let at = state.began.unwrap().elapsed();
        state.reads.push(at);
        ready(Ok(known)).boxed()
    }

    fn put_back<'a>(&'a mut self, engine: &'a Both, missing: Vec<Message>) -> BoxFuture<'a, anyhow::Result<u64>> {
        let mut state = engine.state();
        let count = missing.len() as u64;
        for message in missing {
            *state.put_back.entry(message.identifier.clone()).or_default() += 1;
            state.list.insert(message.identifier, message.text);
        }
        ready(Ok(count)).boxed()
    }
}

/// A keeper at work, before which so many others come.
struct Running {
    status: Arc<Status>,
    _task: JoinSet<()>,
}

fn start(both: &Arc<Both>, before: u32) -> Running {
    start_on(both, watch::channel(Named::new(both.clone())).1, before)
}

fn start_on(other: &Arc<Both>, named: watch::Receiver<Named<Both>>, before: u32) -> Running {
    let status = Arc::new(Status::of(List::LIST));
    let other = other.clone();
    let pages = Box::new(move || other.clone().pages());
    let before = Box::new(move || ready(before).boxed());
    let mut task = JoinSet::new();
    task.spawn(Keeper::new(List, pages, before, status.clone()).run(named));
    Running { status, _task: task }
}

impl Running {
    fn state(&self) -> String {
        self.status.details()["state"].as_str().unwrap().to_owned()
    }

    fn put_back(&self) -> u64 {
        self.status.details()["put_back"].as_u64().unwrap()
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(1000 * SECOND, met)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// The identifier of a message that was posted so many seconds ago.
fn posted(seconds_ago: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let at = i64::try_from(now.as_millis()).unwrap() - seconds_ago * 1000;
    let at = Duration::from_millis(u64::try_from(at).unwrap());
    Uuid::new_v7(Timestamp::from_unix(NoContext, at.as_secs(), at.subsec_nanos())).to_string()
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_30_s_is_put_back_at_once_and_what_is_younger_when_it_is_that_old() {
    let both = Both::new();
    let (old, young) = (posted(31), posted(5));
    both.other_has(&old);
    both.other_has(&young);
    let running = start(&both, 0);
    sleep(SECOND).await;
    assert!(both.has(&old) && !both.has(&young));
    sleep(28 * SECOND).await;
    assert!(!both.has(&young));
    sleep(2 * SECOND).await;
    assert!(both.has(&young), "30 s after the first look, and no sooner");
    until("it is vouched for", || both.is_vouched_for()).await;
    assert_eq!(both.reads(), [0, 30, 60], "until a pass finds nothing");
    assert_eq!((running.put_back(), running.state().as_str()), (2, "complete"));
    assert!(both.state().put_back.values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_is_not_put_back() {
    let both = Both::new();
    let young = posted(5);
    both.other_has(&young);
    let running = start(&both, 0);
    sleep(SECOND).await;
    both.state().list.insert(young, "as it was delivered".to_owned());
    until("it is vouched for", || both.is_vouched_for()).await;
    assert_eq!((running.put_back(), both.reads()), (0, vec![0, 30]));
}

#[tokio::test(start_paused = true)]
async fn without_a_time_in_its_identifier_it_is_put_back_when_it_is_missing_for_30_s() {
    let both = Both::new();
    let timeless = [Uuid::new_v4().to_string(), "a".to_owned(), posted(-3600)];
    for identifier in &timeless {
        both.other_has(identifier);
    }
    both.other_has("on its way");
    let _running = start(&both, 0);
    sleep(SECOND).await;
    both.other_has("posted since");
    both.state().list.insert("on its way".to_owned(), String::new());
    sleep(28 * SECOND).await;
    assert!(both.state().put_back.is_empty());
    until("it is vouched for", || both.is_vouched_for()).await;
    let state = both.state();
    let mut put_back: Vec<&String> = state.put_back.keys().collect();
    let mut expected: Vec<&String> = timeless.iter().collect();
    put_back.sort();
    expected.sort();
    assert_eq!(put_back, expected);
}

#[tokio::test(start_paused = true)]
async fn what_was_posted_after_the_comparison_began_is_left_to_whoever_posted_it() {
    let both = Both::new();
    let _running = start(&both, 0);
    sleep(SECOND).await;
    let since = posted(-15);
    both.other_has(&since);
    until("it is vouched for", || both.is_vouched_for()).await;
    assert!(!both.has(&since));
}

#[tokio::test(start_paused = true)]
async fn what_comes_late_into_the_other_list_is_found_by_a_later_pass() {
    let both = Both::new();
    let late = posted(60);
    let _running = start(&both, 0);
    sleep(SECOND).await;
    assert_eq!(both.reads(), [0]);
    both.other_has(&late);
    until("it is vouched for", || both.is_vouched_for()).await;
    assert!(both.has(&late));
    assert_eq!(both.reads(), [0, 30, 60]);
}

#[tokio::test(start_paused = true)]
async fn what_no_instance_would_take_is_left_where_it_is() {
    let both = Both::new();
    for identifier in ["", &"x".repeat(257)] {
        both.other_has(identifier);
    }
    both.state()
        .other
        .insert("large".to_owned(), "x".repeat(1024 * 1024 + 1));
    let _running = start(&both, 0);
    until("it is vouched for", || both.is_vouched_for()).await;
    assert!(both.state().list.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_while_somebody_vouches_or_where_nothing_can_be_lost() {
    let (vouched, kept) = (Both::new(), Both::new());
    vouched.state().vouched = Some("a,b".to_owned());
    kept.state().keeps_all = true;
    let (of_vouched, of_kept) = (start(&vouched, 0), start(&kept, 0));
    sleep(1000 * SECOND).await;
    assert!(vouched.reads().is_empty() && kept.reads().is_empty());
    assert_eq!(
        (of_vouched.state(), of_kept.state()),
        ("complete".into(), "not_needed".into())
    );
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_dies_and_comes_back_empty_is_filled_again() {
    let both = Both::new();
    let old = posted(100);
    both.other_has(&old);
    let running = start(&both, 0);
    until("it is vouched for", || both.is_vouched_for()).await;
    both.state().holders = None;
    sleep(20 * SECOND).await;
    assert_eq!(running.state(), "waiting");
    let back_at = {
        let mut state = both.state();
        state.list.clear();
        (state.holders, state.vouched) = (Some("c".to_owned()), None);
        Instant::now()
    };
    until("it is there again", || both.has(&old)).await;
    assert!(back_at.elapsed() <= 2 * SECOND, "{:?}", back_at.elapsed());
    until("it is vouched for", || both.is_vouched_for()).await;
    assert_eq!((running.put_back(), running.state().as_str()), (2, "complete"));
}

#[tokio::test(start_paused = true)]
async fn one_instance_compares_and_the_next_one_only_where_that_one_comes_to_no_end() {
    let both = Both::new();
    let (_first, second) = (start(&both, 0), start(&both, 1));
    until("it is vouched for", || both.is_vouched_for()).await;
    sleep(100 * SECOND).await;
    assert_eq!((both.reads(), second.state().as_str()), (vec![0, 30], "complete"));

    let alone = Both::new();
    let third = start(&alone, 2);
    sleep(SECOND).await;
    assert_eq!(third.state(), "waiting");
    until("it is vouched for", || alone.is_vouched_for()).await;
    assert_eq!(alone.reads(), [90, 120]);
}

#[tokio::test(start_paused = true)]
async fn when_holders_went_away_it_is_compared_once_they_have_settled_and_once_a_minute_at_most() {
    let both = Both::new();
    let _running = start(&both, 0);
    until("it is vouched for", || both.is_vouched_for()).await;
    sleep(100 * SECOND).await;
    both.state().reads.clear();

    let (lost, went) = (posted(100), Instant::now());
    both.other_has(&lost);
    both.state().holders = Some("b".to_owned());
    sleep(8 * SECOND).await;
    both.state().holders = Some("b,c".to_owned());
    until("it is put back", || both.has(&lost)).await;
    let after = went.elapsed();
    assert!(
        (17 * SECOND..21 * SECOND).contains(&after),
        "10 s after the last change: {after:?}"
    );
    until("it is vouched for", || both.is_vouched_for()).await;

    let compared = Instant::now();
    both.state().list.clear();
    both.state().holders = Some("c".to_owned());
    until("it is put back", || both.has(&lost)).await;
    let after = compared.elapsed();
    assert!((58 * SECOND..63 * SECOND).contains(&after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn where_the_other_list_breaks_off_it_is_read_again_after_growing_pauses_and_nobody_vouches_before() {
    let both = Both::new();
    let old = [posted(100), posted(101)];
    old.iter().for_each(|identifier| both.other_has(identifier));
    both.state().breaks = 5;
    let running = start(&both, 0);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(running.state(), "failing");
    assert!(
        running.status.details()["reason"]
            .as_str()
            .unwrap()
            .contains("it broke off")
    );
    until("the last break", || both.state().breaks == 0).await;
    let reads: Vec<Duration> = both.state().reads.clone();
    let pauses: Vec<Duration> = reads.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(pauses[0] >= SECOND / 2 && pauses[3] >= 2 * pauses[0], "{pauses:?}");
    assert!(!both.is_vouched_for());
    until("it is vouched for", || both.is_vouched_for()).await;
    assert!(old.iter().all(|identifier| both.has(identifier)));
    assert_eq!(running.state(), "complete");
}

#[tokio::test(start_paused = true)]
async fn where_nobody_has_the_other_list_that_is_waited_for_and_no_failure() {
    let both = Both::new();
    both.state().is_alone = true;
    let running = start(&both, 0);
    sleep(100 * SECOND).await;
    let details = running.status.details();
    assert_eq!(details["state"], "waiting");
    assert_eq!(details["reason"], "no live instance of other-service is known");
    both.state().is_alone = false;
    until("it is vouched for", || both.is_vouched_for()).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_the_settings_name_anew_stays_as_it_is_and_is_rebuilt_when_it_loses_something() {
    let (first, anew, again) = (Both::new(), Both::new(), Both::new());
    first.state().vouched = Some("a,b".to_owned());
    anew.state().identity = "anew".to_owned();
    again.state().identity = "anew".to_owned();
    let old = posted(100);
    first.other_has(&old);
    let (name, named) = watch::channel(Named::new(first.clone()));
    let _running = start_on(&first, named, 0);
    sleep(5 * SECOND).await;
    name.send_replace(Named::new(anew.clone()));
    until("it is vouched for", || anew.is_vouched_for()).await;
    assert!(anew.reads().is_empty());

    anew.state().vouched = None;
    anew.state().holders = Some("c".to_owned());
    until("it is rebuilt", || anew.has(&old)).await;

    // Another way to the same list.
    name.send_replace(Named::new(again.clone()));
    until("it is compared", || again.has(&old)).await;
}
