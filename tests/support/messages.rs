//! A mailbox and the `svc messages` processes that deliver what is put into it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use svc::engine::{Batch, Mailbox, Offered};
use svc::message::Message;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::engines::Cluster;
use super::fleet::{new_name, shared_members};
use super::place::{Kind, Place};
use super::process::Svc;
use super::python;
use super::raw::{Answer, RawClient};

/// Longer than a start or a stop takes.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A queue and engines of a test's own.
pub(crate) struct System {
    pub(crate) place: Place,
    /// Addresses of the cluster's members, with commas between; none where there is no cluster.
    pub(crate) members: String,
    pub(crate) mailbox: Arc<dyn Mailbox>,
}

impl System {
    /// On the cluster that all tests share.
    pub(crate) async fn start() -> Self {
        Self::start_at(Kind::Servers).await
    }

    /// On engines of this kind, shared where they are servers.
    pub(crate) async fn start_at(kind: Kind) -> Self {
        let start = move || Self::start_in(kind, shared_members(kind));
        spawn_blocking(start).await.unwrap()
    }

    /// On this cluster. Blocks.
    pub(crate) fn start_on(cluster: &Cluster) -> Self {
        // No test asks it for a log.
        Self::start_in(Kind::Servers, [cluster.addresses(), cluster.addresses()])
    }

    fn start_in(kind: Kind, members: [String; 2]) -> Self {
        let place = Place::start(kind, new_name(), members.clone());
        let [_, members] = members;
        let mailbox = Handle::current().block_on(place.mailbox(&place.name));
        Self {
            place,
            members,
            mailbox,
        }
    }

    /// One more instance, which takes requests.
    pub(crate) async fn instance(&self) -> Svc {
        let options = self.place.options().map(str::to_owned);
        let start = move || {
            let [option, place] = &options;
            let svc = Svc::start(&["messages", "--port", "0", option, place], &[]);
            svc.wait_healthy(SOON);
            svc
        };
        spawn_blocking(start).await.unwrap()
    }

    /// Two instances that know of each other.
    pub(crate) async fn pair(&self) -> [Svc; 2] {
        let pair = [self.instance().await, self.instance().await];
        for (knowing, known) in [(0, 1), (1, 0)] {
            let id = id(&pair[known]);
            tokio::task::block_in_place(|| {
                let line = pair[knowing].wait_for_line(&id, SOON);
                assert!(line.contains("live instances"), "{line}");
            });
        }
        pair
    }

    /// Offers a batch until it is known to be in, as who does not hear of the outcome does.
    pub(crate) async fn offer(&self, batch: &Batch) {
        let offers = async { while !matches!(self.mailbox.offer(batch).await, Ok(Offered::Accepted)) {} };
        tokio::time::timeout(SOON, offers).await.expect("a batch is not taken");
    }

    pub(crate) async fn python_offers(&self, items: &[Value]) {
        python::run("offer.py", &self.in_cluster(), &json!(items).to_string()).await;
    }

    pub(crate) async fn python_reads(&self) -> Value {
        serde_json::from_str(&python::run("read_mailbox.py", &self.in_cluster(), "").await).unwrap()
    }

    fn in_cluster(&self) -> [&str; 3] {
        [&self.members, "mq", &self.place.name]
    }
}

/// Its id in the registry.
pub(crate) fn id(svc: &Svc) -> String {
    format!("messages-service@{}", svc.address())
}

pub(crate) async fn get(svc: &Svc, path: &str) -> Answer {
    let mut client = RawClient::connect(svc.address()).await;
    client
        .send(format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        ))
        .await;
    client.answer().await
}

/// What an instance shows: identifier → text and who delivered it. None is shown twice.
pub(crate) async fn shown(svc: &Svc) -> BTreeMap<String, (String, String)> {
    let answer = get(svc, "/messages?full=true").await;
    assert_eq!(answer.status, 200);
    let listed = answer.json();
    let field = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let mut shown = BTreeMap::new();
    for entry in listed.as_array().unwrap() {
        let delivered = (field(entry, "text"), field(entry, "by"));
        assert!(
            shown.insert(field(entry, "identifier"), delivered).is_none(),
            "{entry} is shown twice"
        );
    }
    shown
}

/// Waits until an instance shows exactly these, and returns who delivered them.
pub(crate) async fn until_shown(svc: &Svc, expected: &BTreeMap<String, String>, within: Duration) -> BTreeSet<String> {
    let end = Instant::now() + within;
    loop {
        let shown = shown(svc).await;
        let texts: BTreeMap<String, String> = shown.iter().map(|(id, (text, _))| (id.clone(), text.clone())).collect();
        if texts == *expected {
            return shown.into_values().map(|(_, by)| by).collect();
        }
        let missing: Vec<_> = expected.keys().filter(|id| !texts.contains_key(*id)).collect();
        assert!(
            Instant::now() < end,
            "after {within:?} it shows {}, without {missing:?}",
            texts.len()
        );
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn message(identifier: &str) -> Message {
    Message {
        identifier: identifier.to_owned(),
        text: format!("text of {identifier}"),
    }
}

pub(crate) fn batch(id: &str, size: usize) -> Batch {
    let messages = (0..size).map(|n| message(&format!("{id}-{n}"))).collect();
    Batch {
        id: id.to_owned(),
        messages,
    }
}

pub(crate) fn texts<'a>(messages: impl IntoIterator<Item = &'a Message>) -> BTreeMap<String, String> {
    let pairs = messages.into_iter();
    pairs
        .map(|message| (message.identifier.clone(), message.text.clone()))
        .collect()
}

/// Waits until nothing waits: what was delivered is removed a moment later.
pub(crate) async fn until_empty(system: &System) {
    let empty = async { while !system.mailbox.look().await.unwrap().items.is_empty() {} };
    tokio::time::timeout(SOON, empty)
        .await
        .expect("the queue does not get empty");
}
