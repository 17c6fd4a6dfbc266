//! The cases of [`Registry`].

use std::slice;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use svc::engine::{Condition, Instance, Listed, Registration, Registry, Result};
use svc::registration::{Patience, Registered};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{AGENT, Folder, SOON, cases, engines_in, unique};
use crate::support::fake;
use crate::support::ports;

cases! { consul folder: {
    an_instance_is_known_until_it_is_deregistered_and_that_may_be_said_twice,
    an_instance_is_listed_with_all_that_it_says_of_itself,
    an_ipv6_address_is_in_brackets_only_where_it_is_listed,
    an_id_that_would_arrive_changed_is_refused,
    what_stood_under_an_id_is_replaced,
    instances_are_in_the_order_of_their_ids_and_no_service_sees_those_of_another,
    a_watch_shows_who_is_there_at_once_and_who_comes_and_goes,
    a_watch_tells_what_does_not_change_from_time_to_time,
    an_instance_that_dies_is_not_shown_and_is_listed_with_the_reason_until_it_is_back,
    one_that_another_took_out_is_registered_again_until_it_leaves,
} }

/// As the roles have it.
const PATIENCE: Patience = Patience {
    tries: Duration::from_secs(2),
    limit: Duration::from_secs(8),
};

/// A service of a case's own.
struct Own {
    registry: Arc<dyn Registry>,
    service: String,
    /// `None`: in the agent that all cases share.
    folder: Option<Folder>,
}

impl Own {
    async fn consul() -> Self {
        Self::at(None)
    }

    async fn folder() -> Self {
        let folder = Folder::new();
        // Who only asks does not make it.
        std::fs::create_dir(folder.path.join("data")).unwrap();
        Self::at(Some(folder))
    }

    fn at(folder: Option<Folder>) -> Self {
        Self {
            registry: open(folder.as_ref()),
            service: unique(),
            folder,
        }
    }

    /// The same registry, as another process has it.
    fn another(&self) -> Arc<dyn Registry> {
        open(self.folder.as_ref())
    }

    /// An instance that is registered, and well.
    async fn instance(&self) -> Live {
        let (registration, server) = self.server().await;
        let registry = self.another();
        registry.register(&registration).await.unwrap();
        Live {
            registry,
            registration,
            _server: server,
        }
    }

    /// An instance that is well, and could be registered.
    async fn server(&self) -> (Registration, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(serve(listener));
        (self.registration("127.0.0.1", port), server)
    }

    fn registration(&self, host: &str, port: u16) -> Registration {
        Registration {
            service: self.service.clone(),
            host: host.to_owned(),
            port,
            version: "1.2.3".to_owned(),
            since: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_570_917_999),
        }
    }

    async fn listed(&self) -> Vec<Listed> {
        self.registry.all(&self.service).await.unwrap()
    }

    /// Waits until exactly these are listed, in whatever condition.
    async fn lists(&self, ids: &[String]) {
        let lists = async {
            while self.listed().await.iter().map(|listed| &listed.id).ne(ids) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(SOON, lists)
            .await
            .unwrap_or_else(|_| panic!("not listed: {ids:?}"));
    }

    fn watch(&self) -> Watch<'_> {
        Watch(self.registry.watch(&self.service))
    }
}

fn open(folder: Option<&Folder>) -> Arc<dyn Registry> {
    match folder {
        None => ports::registry(&AGENT.address),
        Some(folder) => engines_in(folder).registry().unwrap(),
    }
}

/// An instance with its process: it is dead when this is dropped.
struct Live {
    registry: Arc<dyn Registry>,
    registration: Registration,
    _server: JoinSet<()>,
}

impl Live {
    fn id(&self) -> String {
        self.registration.id()
    }
}

/// Answers each request as one that is well.
async fn serve(listener: TcpListener) {
    let mut answers = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        answers.spawn(answer(connection));
    }
}

async fn answer(mut connection: TcpStream) {
    let mut request = [0; 4096];
    // The head comes in one piece, and more is not sent.
    if connection.read(&mut request).await.is_ok() {
        let _ = connection.write_all(&fake::answer("200 OK", "", "{}")).await;
    }
}

struct Watch<'a>(BoxStream<'a, Result<Vec<Instance>>>);

impl Watch<'_> {
    async fn next(&mut self) -> Vec<Instance> {
        let next = timeout(SOON, self.0.next()).await.expect("a watch shows something");
        next.expect("a watch never ends").unwrap()
    }

    /// Waits until exactly these are shown.
    async fn shows(&mut self, ids: &[String]) {
        let shown = async { while self.next().await.iter().map(|instance| &instance.id).ne(ids) {} };
        timeout(SOON, shown)
            .await
            .unwrap_or_else(|_| panic!("not shown: {ids:?}"));
    }
}

fn in_order(instances: &[&Live]) -> Vec<String> {
    let mut ids: Vec<String> = instances.iter().map(|live| live.id()).collect();
    ids.sort();
    ids
}

async fn an_instance_is_known_until_it_is_deregistered_and_that_may_be_said_twice(own: Own) {
    let (registration, _server) = own.server().await;
    let id = registration.id();
    assert!(!own.registry.is_registered(&registration).await.unwrap());
    own.registry.register(&registration).await.unwrap();
    for registry in [&own.registry, &own.another()] {
        assert!(registry.is_registered(&registration).await.unwrap());
    }
    for _ in 0..2 {
        own.registry.deregister(&id).await.unwrap();
        assert!(!own.registry.is_registered(&registration).await.unwrap());
    }
    own.lists(&[]).await;
}

async fn an_instance_is_listed_with_all_that_it_says_of_itself(own: Own) {
    let live = own.instance().await;
    own.lists(&[live.id()]).await;
    let address = format!("127.0.0.1:{}", live.registration.port);
    let expected = Listed {
        id: format!("{}@{address}", own.service),
        address: Some(address),
        version: Some("1.2.3".to_owned()),
        condition: Condition::Passing,
        reason: None,
        // Whole seconds of it.
        since: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_570_917)),
    };
    assert_eq!(own.listed().await, slice::from_ref(&expected));
    let expected = Instance {
        id: live.id(),
        host: "127.0.0.1".to_owned(),
        port: live.registration.port,
        version: Some("1.2.3".to_owned()),
        since: expected.since,
    };
    let mut watch = own.watch();
    watch.shows(&[live.id()]).await;
    assert_eq!(watch.next().await, [expected]);

    live.registry.register(&live.registration).await.unwrap();
    assert_eq!(
        own.listed().await[0].since,
        Some(live.registration.since - Duration::from_millis(999))
    );
}

async fn an_ipv6_address_is_in_brackets_only_where_it_is_listed(own: Own) {
    let registration = own.registration("::1", 65535);
    own.registry.register(&registration).await.unwrap();
    assert_eq!(registration.id(), format!("{}@::1:65535", own.service));
    assert!(own.registry.is_registered(&registration).await.unwrap());
    own.lists(&[registration.id()]).await;
    assert_eq!(own.listed().await[0].address.as_deref(), Some("[::1]:65535"));
    own.registry.deregister(&registration.id()).await.unwrap();
    own.lists(&[]).await;
}

async fn an_id_that_would_arrive_changed_is_refused(own: Own) {
    for service in ["a b", "a/b", "../a", "a?b", "a%20b", "ä", "a\nb"] {
        let registration = Registration {
            service: service.to_owned(),
            ..own.registration("127.0.0.1", 1)
        };
        let id = registration.id();
        for error in [
            own.registry.register(&registration).await.unwrap_err(),
            own.registry.is_registered(&registration).await.unwrap_err(),
            own.registry.deregister(&id).await.unwrap_err(),
        ] {
            assert!(error.to_string().contains("cannot be the id"), "{error}");
        }
    }
}

async fn what_stood_under_an_id_is_replaced(own: Own) {
    let live = own.instance().await;
    own.lists(&[live.id()]).await;
    let next = Registration {
        version: "2".to_owned(),
        since: live.registration.since + Duration::from_secs(1),
        ..live.registration.clone()
    };
    // Of the same process, and of the next one.
    for (registry, version) in [(live.registry.clone(), "2"), (own.another(), "3")] {
        let next = Registration {
            version: version.to_owned(),
            ..next.clone()
        };
        registry.register(&next).await.unwrap();
        let replaced = async {
            loop {
                let listed = own.listed().await;
                assert_eq!(listed.len(), 1, "{listed:?}");
                if listed[0].version.as_deref() == Some(version) {
                    break listed;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        let listed = timeout(SOON, replaced).await.unwrap();
        assert_eq!(listed[0].condition, Condition::Passing);
        assert_eq!(listed[0].since, Some(next.since - Duration::from_millis(999)));
    }
}

async fn instances_are_in_the_order_of_their_ids_and_no_service_sees_those_of_another(own: Own) {
    let lives = [own.instance().await, own.instance().await, own.instance().await];
    let ids = in_order(&lives.each_ref());
    let other = Registration {
        // Begins the same.
        service: format!("{}-b", own.service),
        ..own.registration("127.0.0.1", 1)
    };
    own.registry.register(&other).await.unwrap();
    own.lists(&ids).await;
    own.watch().shows(&ids).await;
    let others = own.registry.all(&other.service).await.unwrap();
    assert_eq!(others.len(), 1);
    own.registry.deregister(&other.id()).await.unwrap();
}

async fn a_watch_shows_who_is_there_at_once_and_who_comes_and_goes(own: Own) {
    let mut watch = own.watch();
    assert_eq!(watch.next().await, []);
    let first = own.instance().await;
    watch.shows(&[first.id()]).await;
    own.watch().shows(&[first.id()]).await;
    let second = own.instance().await;
    watch.shows(&in_order(&[&first, &second])).await;
    first.registry.deregister(&first.id()).await.unwrap();
    watch.shows(&[second.id()]).await;
    second.registry.deregister(&second.id()).await.unwrap();
    watch.shows(&[]).await;
}

async fn a_watch_tells_what_does_not_change_from_time_to_time(own: Own) {
    let live = own.instance().await;
    let mut watch = own.watch();
    watch.shows(&[live.id()]).await;
    for _ in 0..2 {
        assert_eq!(watch.next().await.len(), 1);
    }
}

async fn an_instance_that_dies_is_not_shown_and_is_listed_with_the_reason_until_it_is_back(own: Own) {
    let (live, dying) = (own.instance().await, own.instance().await);
    let mut watch = own.watch();
    watch.shows(&in_order(&[&live, &dying])).await;
    let registration = dying.registration.clone();
    drop(dying);
    watch.shows(&[live.id()]).await;
    let listed = own.listed().await;
    let dead = listed.iter().find(|listed| listed.id == registration.id()).unwrap();
    assert_eq!(dead.condition, Condition::Critical);
    assert!(
        dead.reason.as_ref().is_some_and(|reason| !reason.is_empty()),
        "{dead:?}"
    );
    assert!(own.registry.is_registered(&registration).await.unwrap());

    let listener = TcpListener::bind(("127.0.0.1", registration.port)).await.unwrap();
    let mut server = JoinSet::new();
    server.spawn(serve(listener));
    let back = own.another();
    back.register(&registration).await.unwrap();
    let mut both = vec![live.id(), registration.id()];
    both.sort();
    watch.shows(&both).await;
}

async fn one_that_another_took_out_is_registered_again_until_it_leaves(own: Own) {
    let (registration, _server) = own.server().await;
    let registered = Registered::keep(own.another(), registration.clone());
    assert!(registered.first(SOON).await);
    let mut watch = own.watch();
    watch.shows(&[registration.id()]).await;
    own.registry.deregister(&registration.id()).await.unwrap();
    let again = async {
        while !own.registry.is_registered(&registration).await.unwrap() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, again).await.unwrap();
    own.lists(&[registration.id()]).await;
    registered.leave(PATIENCE).over().await;
    watch.shows(&[]).await;
    own.lists(&[]).await;
}
