//! `svc facade`: the public entrance. It keeps nothing: a message is logged through a logging instance and handed over
//! to the mailbox; lists are read from the other instances.
//!
//! | request | answer |
//! |---|---|
//! | `POST /message?text=…`, or JSON `{"text":…}` | 201 `{"identifier":…,"text":…}`, once it is logged and handed over: see `deliver` |
//! | `GET /messages` | 200 `[[text…],[text…]]`, all logs and all delivered messages, streamed |
//! | `GET /messages?after=…&limit=N` | 200 `[[…],[…]]`, a page of each, whole messages in the order of identifiers, and `Link` to the next |
//! | `GET /health` | 200 while it can take requests, also when something behind it is away, which shows in the body |

mod budget;
mod deliver;
mod lists;
mod log;
mod offer;
mod pages;
mod post;
mod tries;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

use self::deliver::Delivery;
use self::post::Posted;
use self::tries::Service;
use super::followed::{Followed, MAILBOX};
use super::instance::{self, Identity};
use super::page;
use super::{FACADE_SERVICE, LOGGING_SERVICE, MESSAGES_SERVICE};
use crate::cli::InstanceOptions;
use crate::engine::{self, Engines, Identifiers, Mailbox, Registry};
use crate::http::client::Client;
use crate::http::health::Health;
use crate::http::reply::{self, HttpError, Reply};
use crate::http::request::Request;
use crate::http::server::Handler;

/// The role's name, in `GET /health`, in the log, and on the mailbox.
const ROLE: &str = "facade";

/// How long a request may take from the moment on that it is read. A client is to have its 503 within 5 s.
const DEADLINE: Duration = Duration::from_millis(4500);

/// How long a start waits for the registry to tell which instances there are. Without it, requests are answered 503.
const FIRST_INSTANCES: Duration = Duration::from_secs(2);

/// Runs one instance until `stop` is done.
///
/// # Errors
///
/// Where the options cannot work, the port cannot be bound, or an engine does not come in time.
pub async fn run(options: InstanceOptions, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let engines = Engines::at(options.engines()?)?;
    let registry = engines.registry()?;
    let facade = Arc::new(Facade::default());
    let identity = Identity {
        role: ROLE,
        service: FACADE_SERVICE,
        listen: options.listen.clone(),
    };
    let open = {
        let (facade, registry, identifiers) = (facade.clone(), registry.clone(), engines.identifiers());
        async move |health: &Health, _: &engine::Registration| {
            let mailbox = MAILBOX.open(ROLE, engines, &options, health).await?;
            facade.open(mailbox, &registry, identifiers).await;
            Ok(())
        }
    };
    instance::run(identity, registry, facade, open, stop).await
}

/// What all requests of an instance share.
#[derive(Default)]
struct Facade {
    /// Empty before the mailbox is there.
    parts: OnceLock<Parts>,
}

/// What the facade stands in front of.
struct Parts {
    client: Client,
    logging: Service,
    messages: Service,
    mailbox: Followed<dyn Mailbox>,
    delivery: Delivery,
}

impl Facade {
    async fn open(
        &self,
        mailbox: Followed<dyn Mailbox>,
        registry: &Arc<dyn Registry>,
        identifiers: Arc<dyn Identifiers>,
    ) {
        let follow = |name| Service::follow(registry.clone(), name);
        let (client, logging) = (Client::new(), follow(LOGGING_SERVICE));
        let parts = Parts {
            delivery: Delivery::new(client.clone(), logging.clone(), mailbox.named(), identifiers),
            client,
            logging,
            messages: follow(MESSAGES_SERVICE),
            mailbox,
        };
        tokio::join!(
            parts.logging.discovery.first(FIRST_INSTANCES),
            parts.messages.discovery.first(FIRST_INSTANCES)
        );
        // Nobody opens it twice.
        let _ = self.parts.set(parts);
    }
}

impl Handler for Facade {
    async fn handle(&self, mut request: Request) -> Result<Reply, HttpError> {
        let parts = self
            .parts
            .get()
            .ok_or_else(|| HttpError::unavailable("the mailbox is not open"))?;
        // For every path, also those that look at no parameter: what is malformed is not acted on.
        let query = request.query()?;
        match (request.path(), request.method()) {
            ("/message", &Method::POST) => {
                let posted = Posted::read(&mut request).await?;
                let message = parts.delivery.deliver(posted).await?;
                Ok(reply::written_json(StatusCode::CREATED, message))
            }
            ("/message", _) => Err(HttpError::method_not_allowed("POST")),
            ("/messages", &Method::GET) => match page::asked(&query)? {
                Some(range) => pages::page(parts, &range).await,
                None => lists::all(parts).await,
            },
            ("/messages", _) => Err(HttpError::method_not_allowed("GET, HEAD")),
            _ => Err(HttpError::not_found()),
        }
    }

    fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        let Some(parts) = self.parts.get() else {
            return details;
        };
        details.insert("mailbox".to_owned(), parts.mailbox.details());
        let mut discovery = Map::new();
        for service in [&parts.logging, &parts.messages] {
            discovery.insert(service.name.to_owned(), service.discovery.details());
            let instances = service.discovery.instances();
            let ids: Vec<&str> = instances.iter().map(|instance| instance.id.as_str()).collect();
            details.insert(service.name.to_owned(), json!(ids));
        }
        details.insert("discovery".to_owned(), discovery.into());
        details
    }
}

#[cfg(test)]
mod tests;
