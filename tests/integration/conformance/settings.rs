//! The cases of [`Settings`].

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use svc::engine::{Held, Result, Settings};
use tokio::time::timeout;

use super::{AGENT, Folder, SOON, cases, engines_in, unique};
use crate::support::ports;

cases! { consul folder: {
    a_key_is_absent_then_has_the_first_value_then_the_last_put,
    a_value_is_any_text,
    an_empty_value_is_a_value,
    a_value_that_is_no_text_is_told_as_that_and_is_no_absent_key,
    one_key_is_not_taken_for_another_that_begins_the_same,
    a_key_that_would_arrive_changed_is_refused,
    of_ten_who_write_at_once_one_writes_and_all_agree,
    what_one_writes_another_reads_and_sees,
    a_watch_shows_a_key_at_once_and_each_change_of_it,
    a_watch_shows_no_earlier_value_after_a_later_one,
    a_watch_tells_what_does_not_change_from_time_to_time,
} }

/// Keys of a case's own.
struct Own {
    settings: Arc<dyn Settings>,
    prefix: String,
    /// `None`: in the agent that all cases share.
    folder: Option<Folder>,
}

impl Own {
    async fn consul() -> Self {
        Self::at(None).await
    }

    async fn folder() -> Self {
        Self::at(Some(Folder::new())).await
    }

    async fn at(folder: Option<Folder>) -> Self {
        let settings = open(folder.as_ref());
        settings.ready().await.unwrap();
        Self {
            settings,
            prefix: unique(),
            folder,
        }
    }

    /// The same settings, as another process has them.
    fn another(&self) -> Arc<dyn Settings> {
        open(self.folder.as_ref())
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// Writes a value as somebody else would.
    fn write(&self, key: &str, value: &[u8]) {
        match self.file(key) {
            None => AGENT.put(key, value),
            Some(path) => {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                // Not in place, where it would be empty for a moment.
                let whole = path.with_file_name("~");
                fs::write(&whole, value).unwrap();
                fs::rename(whole, path).unwrap();
            }
        }
    }

    /// Deletes a key as somebody else would.
    fn delete(&self, key: &str) {
        match self.file(key) {
            None => AGENT.delete(key),
            Some(path) => fs::remove_file(path).unwrap(),
        }
    }

    /// The value that somebody else reads.
    fn value(&self, key: &str) -> Option<String> {
        match self.file(key) {
            None => AGENT.value(key),
            Some(path) => fs::read_to_string(path).ok(),
        }
    }

    fn file(&self, key: &str) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        Some(folder.path.join("data/settings").join(key.replace('/', ":")))
    }
}

fn open(folder: Option<&Folder>) -> Arc<dyn Settings> {
    match folder {
        None => ports::settings(&AGENT.address),
        Some(folder) => engines_in(folder).settings().unwrap(),
    }
}

fn value(text: &str) -> Held {
    Held::Value(text.to_owned())
}

fn no_text() -> Held {
    Held::Unreadable("no text in UTF-8".to_owned())
}

/// What a watch shows next.
async fn shown(watch: &mut BoxStream<'_, Result<Held>>) -> Held {
    let next = timeout(SOON, watch.next()).await.expect("a watch shows something");
    next.expect("a watch never ends").unwrap()
}

/// What a watch shows next that is none of `passed`, which may come any number of times.
async fn shown_after(watch: &mut BoxStream<'_, Result<Held>>, passed: &Held) -> Held {
    loop {
        let next = shown(watch).await;
        if next != *passed {
            return next;
        }
    }
}

async fn a_key_is_absent_then_has_the_first_value_then_the_last_put(own: Own) {
    let (settings, key) = (&own.settings, &own.key("a"));
    assert_eq!(settings.get(key).await.unwrap(), Held::Missing);
    assert_eq!(settings.put_if_absent(key, "first").await.unwrap(), None);
    let standing = settings.put_if_absent(key, "second").await.unwrap();
    assert_eq!(standing.as_deref(), Some("first"));
    assert_eq!(settings.get(key).await.unwrap(), value("first"));
    for last in ["third", "last"] {
        settings.put(key, last).await.unwrap();
        assert_eq!(settings.get(key).await.unwrap(), value(last));
        assert_eq!(own.value(key).as_deref(), Some(last));
    }
}

async fn a_value_is_any_text(own: Own) {
    let key = &own.key("a");
    for text in [
        "ä and \"quotes\"\r\n",
        "\0",
        "\u{FFFD}\u{10FFFF}",
        " ",
        "TRUE",
        &"x".repeat(100_000),
    ] {
        own.settings.put(key, text).await.unwrap();
        assert_eq!(own.settings.get(key).await.unwrap(), value(text));
    }
}

async fn an_empty_value_is_a_value(own: Own) {
    let (settings, key) = (&own.settings, &own.key("a"));
    own.write(key, b"");
    assert_eq!(settings.get(key).await.unwrap(), value(""));
    assert_eq!(settings.put_if_absent(key, "x").await.unwrap().as_deref(), Some(""));
    let another = &own.key("b");
    settings.put(another, "").await.unwrap();
    assert_eq!(own.value(another).as_deref(), Some(""));
}

async fn a_value_that_is_no_text_is_told_as_that_and_is_no_absent_key(own: Own) {
    let (settings, key) = (&own.settings, &own.key("a"));
    own.write(key, b"\xff\x00");
    assert_eq!(settings.get(key).await.unwrap(), no_text());
    let error = settings.put_if_absent(key, "x").await.unwrap_err().to_string();
    for part in [key, "no text in UTF-8", &settings.describe()] {
        assert!(error.contains(part), "{error}");
    }
    settings.put(key, "x").await.unwrap();
    assert_eq!(settings.get(key).await.unwrap(), value("x"));
}

async fn one_key_is_not_taken_for_another_that_begins_the_same(own: Own) {
    own.write(&own.key("a/b"), b"x");
    own.write(&own.key("ab"), b"x");
    for absent in ["a", "a/bc", "a.b", "A/b"] {
        assert_eq!(
            own.settings.get(&own.key(absent)).await.unwrap(),
            Held::Missing,
            "{absent}"
        );
    }
    assert_eq!(own.settings.get(&own.prefix).await.unwrap(), Held::Missing);
}

async fn a_key_that_would_arrive_changed_is_refused(own: Own) {
    for key in ["", "a b", "../kv/x", "a?raw", "a%2Fb", "/a", "a:b", "a/"] {
        for error in [
            own.settings.get(key).await.unwrap_err(),
            own.settings.put(key, "x").await.unwrap_err(),
            own.settings.put_if_absent(key, "x").await.unwrap_err(),
            own.settings.watch(key).next().await.unwrap().unwrap_err(),
        ] {
            assert!(error.to_string().contains("cannot be a key"), "{key:?}: {error}");
        }
    }
}

async fn of_ten_who_write_at_once_one_writes_and_all_agree(own: Own) {
    for round in 0..5 {
        let key = own.key(&round.to_string());
        let writers = (0..10).map(|number| {
            let (settings, key) = (own.another(), key.clone());
            tokio::spawn(async move {
                let mine = number.to_string();
                let standing = settings.put_if_absent(&key, &mine).await.unwrap();
                (standing.is_none(), standing.unwrap_or(mine))
            })
        });
        let outcomes: Vec<(bool, String)> = join_all(writers).await.into_iter().map(|done| done.unwrap()).collect();
        let stands = own.value(&key).unwrap();
        assert!(
            outcomes.iter().all(|(_, value)| *value == stands),
            "{stands}: {outcomes:?}"
        );
        assert_eq!(outcomes.iter().filter(|(wrote, _)| *wrote).count(), 1, "{outcomes:?}");
    }
}

async fn what_one_writes_another_reads_and_sees(own: Own) {
    let (another, key) = (own.another(), &own.key("a"));
    let mut watch = another.watch(key);
    assert_eq!(shown(&mut watch).await, Held::Missing);
    own.settings.put(key, "x").await.unwrap();
    assert_eq!(another.get(key).await.unwrap(), value("x"));
    assert_eq!(shown_after(&mut watch, &Held::Missing).await, value("x"));
}

async fn a_watch_shows_a_key_at_once_and_each_change_of_it(own: Own) {
    let key = &own.key("a");
    let mut watch = own.settings.watch(key);
    assert_eq!(shown(&mut watch).await, Held::Missing);
    let mut before = Held::Missing;
    for (given, seen) in [
        (Some(&b"first"[..]), value("first")),
        (Some(b"other"), value("other")),
        (Some(b""), value("")),
        (Some(b"\xff"), no_text()),
        (None, Held::Missing),
        (Some(b"again"), value("again")),
    ] {
        let changed = Instant::now();
        match given {
            Some(given) => own.write(key, given),
            None => own.delete(key),
        }
        assert_eq!(shown_after(&mut watch, &before).await, seen);
        assert!(
            changed.elapsed().as_secs() < 5,
            "{seen:?} after {:?}",
            changed.elapsed()
        );
        before = seen;
    }
}

async fn a_watch_shows_no_earlier_value_after_a_later_one(own: Own) {
    let (settings, key) = (own.another(), own.key("a"));
    settings.put(&key, "0").await.unwrap();
    let mut watch = own.settings.watch(&key);
    let writing = async {
        for number in 1..=200 {
            settings.put(&key, &number.to_string()).await.unwrap();
        }
    };
    let watching = async {
        let mut last = 0;
        while last < 200 {
            let Held::Value(text) = shown(&mut watch).await else {
                panic!("it has had a value since before the watch began")
            };
            let number: u32 = text.parse().unwrap();
            assert!(number >= last, "{number} after {last}");
            last = number;
        }
    };
    tokio::join!(writing, watching);
}

async fn a_watch_tells_what_does_not_change_from_time_to_time(own: Own) {
    let (present, absent) = (own.key("a"), own.key("b"));
    own.settings.put(&present, "x").await.unwrap();
    let watch = async |key: &str, held: Held| {
        let mut watch = own.settings.watch(key);
        for _ in 0..3 {
            assert_eq!(shown(&mut watch).await, held);
        }
    };
    tokio::join!(watch(&present, value("x")), watch(&absent, Held::Missing));
}
