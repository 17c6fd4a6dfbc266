//! The log as a list that is rebuilt, and what `DELETE /logs` has to say in that.

use futures_util::stream::BoxStream;
use uuid::{NoContext, Timestamp, Uuid};

use super::*;
use crate::engine::{Held, Settings};
use crate::roles::logging::cleared::KEY;
use crate::roles::logging::restore::Log;
use crate::roles::repair::Side;

type Action = Box<dyn FnOnce(&Desk) + Send>;

/// Settings that know one key, fail or hang when they are told to, and do something at the reading of it.
#[derive(Default)]
struct Desk {
    value: Mutex<Option<String>>,
    is_away: Mutex<bool>,
    hangs: bool,
    /// What happens right before the reading with this number, counted from 1.
    between: Mutex<Option<(u32, Action)>>,
    reads: Mutex<u32>,
    /// The log, which has to be as it was when something is noted.
    log: Option<Arc<MemoryStore>>,
}

impl Desk {
    fn cleared_at(value: &str) -> Self {
        Self {
            value: Mutex::new(Some(value.to_owned())),
            ..Self::default()
        }
    }

    fn set(&self, value: &str) {
        *self.value.lock().unwrap() = Some(value.to_owned());
    }

    fn before_read(&self, number: u32, action: impl FnOnce(&Desk) + Send + 'static) {
        *self.between.lock().unwrap() = Some((number, Box::new(action)));
    }

    fn value(&self) -> Option<String> {
        self.value.lock().unwrap().clone()
    }

    fn check(&self) -> engine::Result<()> {
        if !*self.is_away.lock().unwrap() {
            return Ok(());
        }
        Err(Unavailable {
            engine: self.describe(),
            cause: anyhow!("connection refused"),
        })
    }
}

impl Settings for Desk {
    fn describe(&self) -> String {
        "a desk".to_owned()
    }

    fn advice(&self) -> String {
        "let it succeed".to_owned()
    }

    fn ready(&self) -> BoxFuture<'_, engine::Result<()>> {
        std::future::ready(self.check()).boxed()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, engine::Result<Held>> {
        assert_eq!(key, KEY);
        if self.hangs {
            return std::future::pending().boxed();
        }
        let number = {
            let mut reads = self.reads.lock().unwrap();
            *reads += 1;
            *reads
        };
        let action = self.between.lock().unwrap().take_if(|(due, _)| *due == number);
        if let Some((_, action)) = action {
            action(self);
        }
        let held = self.value().map_or(Held::Missing, Held::Value);
        std::future::ready(self.check().map(|()| held)).boxed()
    }

    fn put_if_absent<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, engine::Result<Option<String>>> {
        assert_eq!(key, KEY);
        let standing = self.check().map(|()| {
            let standing = self.value();
            if standing.is_none() {
                self.set(value);
            }
            standing
        });
        std::future::ready(standing).boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, engine::Result<()>> {
        assert_eq!(key, KEY);
        if let Some(log) = &self.log {
            assert!(!log.entries.lock().unwrap().is_empty(), "cleared before it was noted");
        }
        self.set(value);
        std::future::ready(self.check()).boxed()
    }

    fn watch<'a>(&'a self, key: &'a str) -> BoxStream<'a, engine::Result<Held>> {
        assert_eq!(key, KEY);
        stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let held = self.value().map_or(Held::Missing, Held::Value);
            Some((self.check().map(|()| held), ()))
        })
        .boxed()
    }
}

/// Of a log that may be lost.
fn losing() -> Arc<MemoryStore> {
    Arc::new(MemoryStore {
        loses: true,
        ..MemoryStore::default()
    })
}

fn router(store: &Arc<MemoryStore>, desk: Option<&Arc<Desk>>) -> Router {
    let cleared_at = desk.map(|desk| ClearedAt::new(desk.clone()));
    let logging = Logging::noting(cleared_at);
    logging.store.open(Followed::fixed(store.clone()));
    Router {
        logging,
        store: store.clone(),
    }
}

fn side(desk: &Arc<Desk>) -> Log {
    Log::new(ClearedAt::new(desk.clone()))
}

async fn delete(router: &Router) -> Reply {
    router
        .ask(hyper::Request::delete("/logs").body(Full::default()).unwrap())
        .await
}

/// A message that was posted so many seconds after 2026 began.
fn message(seconds: u64) -> Message {
    let at = 1_767_225_600 + seconds;
    Message {
        identifier: Uuid::new_v7(Timestamp::from_unix(NoContext, at, 0)).to_string(),
        text: seconds.to_string(),
    }
}

fn timeless() -> Message {
    Message {
        identifier: Uuid::new_v4().to_string(),
        text: "timeless".to_owned(),
    }
}

fn texts(store: &MemoryStore) -> Vec<String> {
    let mut texts: Vec<String> = store.entries.lock().unwrap().values().cloned().collect();
    texts.sort();
    texts
}

#[tokio::test]
async fn that_the_log_was_cleared_is_noted_before_it_is() {
    let store = losing();
    store.entries.lock().unwrap().insert("a".to_owned(), "t".to_owned());
    let desk = Arc::new(Desk {
        log: Some(store.clone()),
        ..Desk::default()
    });
    let router = router(&store, Some(&desk));
    assert_eq!(delete(&router).await.status(), 200);
    assert!(texts(&store).is_empty());
    let noted = humantime::parse_rfc3339(&desk.value().unwrap()).unwrap();
    assert!(noted.elapsed().unwrap() < Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn where_it_cannot_be_noted_nothing_is_cleared_and_the_503_names_the_settings() {
    let store = losing();
    store.entries.lock().unwrap().insert("a".to_owned(), "t".to_owned());
    let (away, hanging) = (
        Desk {
            is_away: Mutex::new(true),
            ..Desk::default()
        },
        Desk {
            hangs: true,
            ..Desk::default()
        },
    );
    for (desk, cause) in [(away, "connection refused"), (hanging, "no answer within 2s")] {
        let refused = delete(&router(&store, Some(&Arc::new(desk)))).await;
        assert_eq!(refused.status(), 503);
        let message = body(refused).await["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("a desk") && message.contains(cause), "{message}");
        assert_eq!(texts(&store), ["t"]);
    }
}

#[tokio::test]
async fn a_log_that_loses_nothing_is_cleared_without_the_settings() {
    let store = Arc::new(MemoryStore::default());
    store.entries.lock().unwrap().insert("a".to_owned(), "t".to_owned());
    let desk = Arc::new(Desk {
        is_away: Mutex::new(true),
        ..Desk::default()
    });
    assert_eq!(delete(&router(&store, Some(&desk))).await.status(), 200);
    assert_eq!((texts(&store).len(), desk.value()), (0, None));
}

#[tokio::test]
async fn what_was_cleared_stays_so_by_a_host_whose_clock_is_behind() {
    let desk = Arc::new(Desk::cleared_at("2999-01-01T00:00:00.000Z"));
    assert_eq!(delete(&router(&losing(), Some(&desk))).await.status(), 200);
    assert_eq!(desk.value().unwrap(), "2999-01-01T00:00:00.000Z");
}

#[tokio::test]
async fn what_was_cleared_is_not_put_back_nor_what_does_not_say_when_it_was_posted() {
    let (store, desk) = (losing(), Arc::new(Desk::cleared_at("2026-01-01T00:00:10.000Z")));
    let missing = vec![message(9), message(10), message(11), timeless()];
    assert_eq!(side(&desk).put_back(&*store, missing).await.unwrap(), 1);
    assert_eq!(texts(&store), ["11"]);
}

#[tokio::test]
async fn where_nothing_was_ever_cleared_all_is_put_back_and_the_text_that_was_logged_since_stays() {
    let (store, desk) = (losing(), Arc::new(Desk::default()));
    let logged = message(1);
    let mut missing: Vec<Message> = (2..1100).map(message).collect();
    missing.extend([logged.clone(), timeless()]);
    let since = "logged since".to_owned();
    store.entries.lock().unwrap().insert(logged.identifier, since.clone());
    side(&desk).put_back(&*store, missing).await.unwrap();
    let texts = texts(&store);
    assert_eq!(texts.len(), 1100);
    assert!(texts.contains(&since) && texts.contains(&"timeless".to_owned()));
    assert!(store.appends.lock().unwrap().iter().all(|part| *part <= 512));
}

#[tokio::test]
async fn what_is_cleared_while_it_is_put_back_is_taken_out_again() {
    let (store, desk) = (losing(), Arc::new(Desk::default()));
    // The second reading comes after the part was put back.
    let then = store.clone();
    desk.before_read(2, move |desk| {
        assert_eq!(texts(&then).len(), 3, "it is put back already");
        desk.set("2026-01-01T00:00:10.000Z");
    });
    let missing = vec![message(9), message(11), timeless()];
    side(&desk).put_back(&*store, missing).await.unwrap();
    assert_eq!(texts(&store), ["11"]);
}

#[tokio::test]
async fn what_was_cleared_while_the_settings_were_away_is_taken_out_by_the_next_try() {
    let (store, desk) = (losing(), Arc::new(Desk::default()));
    desk.before_read(2, |desk| *desk.is_away.lock().unwrap() = true);
    let mut side = side(&desk);
    let missing = vec![message(9), message(11)];
    assert!(side.put_back(&*store, missing).await.is_err());
    assert!(side.known(&*store).await.is_err());
    desk.set("2026-01-01T00:00:10.000Z");
    *desk.is_away.lock().unwrap() = false;
    let known = side.known(&*store).await.unwrap();
    assert_eq!(texts(&store), ["11"]);
    assert!(
        store
            .entries
            .lock()
            .unwrap()
            .keys()
            .all(|identifier| known.contains(identifier))
    );
}

#[tokio::test]
async fn where_what_was_cleared_cannot_be_told_nothing_is_put_back() {
    let (store, desk) = (losing(), Arc::new(Desk::cleared_at("yesterday")));
    let error = side(&desk)
        .put_back(&*store, vec![message(1)])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("\"yesterday\"") && error.contains(KEY), "{error}");
    assert!(texts(&store).is_empty());
    assert_eq!(delete(&router(&store, Some(&desk))).await.status(), 200);
    assert!(
        side(&desk).put_back(&*store, vec![message(1)]).await.is_ok(),
        "that puts it right"
    );
}

#[tokio::test(start_paused = true)]
async fn settings_that_lost_when_the_log_was_cleared_are_told_by_who_saw_it_and_by_nobody_else() {
    const SAW: &str = "2026-01-01T00:00:10.000Z";
    const SINCE: &str = "2026-01-01T00:00:20.000Z";
    let looks = async || tokio::time::sleep(Duration::from_millis(100)).await;
    let desk = Arc::new(Desk::default());
    let cleared_at = ClearedAt::new(desk.clone());
    let _keeper = cleared_at.keep();
    looks().await;
    assert_eq!(desk.value(), None, "it was never cleared");
    for cleared in [SAW, SINCE] {
        desk.set(cleared);
        looks().await;
        *desk.is_away.lock().unwrap() = true;
        *desk.value.lock().unwrap() = None;
        looks().await;
        assert_eq!(desk.value(), None);
        *desk.is_away.lock().unwrap() = false;
        looks().await;
        assert_eq!(desk.value().as_deref(), Some(cleared));
    }
    // Somebody puts it right.
    desk.set(SAW);
    looks().await;
    assert_eq!(desk.value().as_deref(), Some(SAW));
}

#[tokio::test]
async fn what_was_cleared_is_not_put_back_by_who_knows_it_while_the_settings_have_lost_it() {
    let (store, desk) = (losing(), Arc::new(Desk::cleared_at("2026-01-01T00:00:10.000Z")));
    let mut side = side(&desk);
    side.put_back(&*store, vec![message(9)]).await.unwrap();
    *desk.value.lock().unwrap() = None;
    side.put_back(&*store, vec![message(9), message(11), timeless()])
        .await
        .unwrap();
    assert_eq!(texts(&store), ["11"]);
}
