//! `svc messages`: delivers what waits in the mailbox, and shows what was delivered, by whichever instance.
//!
//! | request | answer |
//! |---|---|
//! | `GET /messages` | 200, all texts, streamed; with `?full=true` all messages, each with the instance that delivered it |
//! | `GET /messages?after=…&limit=N` | 200, a page of the messages in the order of their identifiers, and `Link` to the next one |
//! | `GET /health` | 200 while it can take requests, also when the mailbox is away, which shows in the body |
//!
//! An instance holds no state: what it has delivered is in the mailbox, and what it was about to deliver still waits there.

mod deliverer;
mod looks;
mod progress;
mod rendezvous;
mod restore;
mod turns;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::FutureExt;
use futures_util::stream::{Stream, StreamExt, TryStreamExt};
use hyper::Method;
use serde::Serialize;
use serde_json::{Map, Value};

use self::deliverer::Deliverer;
use self::progress::Progress;
use self::restore::Delivered;
use super::deadline::within;
use super::followed::{MAILBOX, Slot};
use super::instance::{self, Identity};
use super::listing::LeftOut;
use super::page;
use super::repair::{OtherList, Peers, Repair, Side, Status};
use super::{LOGGING_SERVICE, MESSAGES_SERVICE};
use crate::cli::InstanceOptions;
use crate::discovery::Discovery;
use crate::engine::{self, DeliveredMessage, Engines, ListPage, Mailbox, PageRange};
use crate::http::health::Health;
use crate::http::reply::{self, HttpError, Reply};
use crate::http::request::Request;
use crate::http::server::Handler;

/// The role's name, in `GET /health` and in the log.
const ROLE: &str = "messages";

/// Runs one instance until `stop` is done.
///
/// # Errors
///
/// Where the options cannot work, the port cannot be bound, or an engine does not come in time.
pub async fn run(options: InstanceOptions, stop: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
    let engines = Engines::at(options.engines()?)?;
    let registry = engines.registry()?;
    let messages = Arc::new(Messages::default());
    let identity = Identity {
        role: ROLE,
        service: MESSAGES_SERVICE,
        listen: options.listen.clone(),
    };
    let stop = stop.shared();
    let (mut deliverer, mut repair) = (None, None);
    let open = async |health: &Health, registration: &engine::Registration| {
        let mailbox = MAILBOX.open(ROLE, engines, &options, health).await?;
        let discovery = Discovery::follow(registry.clone(), MESSAGES_SERVICE);
        // Nobody opens it twice.
        let _ = messages.discovery.set(discovery.clone());
        deliverer = Some(Deliverer::start(
            mailbox.named(),
            registration.id(),
            live(discovery),
            messages.progress.clone(),
            stop.clone(),
        ));
        repair = Some(Repair::start(
            mailbox.named(),
            Delivered { own: registration.id() },
            OtherList::new(registry.clone(), LOGGING_SERVICE, "/logs?full=true"),
            Peers {
                registry: registry.clone(),
                service: MESSAGES_SERVICE,
                own: registration.id(),
            },
            messages.repair.clone(),
        ));
        messages.mailbox.open(mailbox);
        Ok(())
    };
    let outcome = instance::run(identity, registry.clone(), messages.clone(), open, stop.clone()).await;
    drop(repair);
    if let Some(deliverer) = deliverer {
        deliverer.finish().await;
    }
    messages.mailbox.close();
    outcome
}

/// The ids of the live instances that deliver as this one does. One of another origin takes what it finds by itself, and
/// leaves nothing that is its own to wait for.
fn live(discovery: Discovery) -> deliverer::Live {
    Arc::new(move || {
        let instances = discovery.instances();
        let ours = instances.iter().filter(|instance| instance.version.is_some());
        ours.map(|instance| instance.id.clone()).collect()
    })
}

/// What all requests of an instance share.
struct Messages {
    mailbox: Slot<dyn Mailbox>,
    /// Of the instances that share the work. Empty before the mailbox is there.
    discovery: OnceLock<Discovery>,
    progress: Arc<Progress>,
    repair: Arc<Status>,
    /// Entries that were left out of answers since the start, because they are no deliveries.
    skipped: Arc<AtomicU64>,
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            mailbox: Slot::default(),
            discovery: OnceLock::new(),
            progress: Arc::default(),
            repair: Arc::new(Status::of(Delivered::LIST)),
            skipped: Arc::default(),
        }
    }
}

impl Messages {
    /// `GET /messages`: the texts, or with `full=true` the messages and who delivered them.
    async fn list(&self, mailbox: Arc<dyn Mailbox>, full: bool) -> Result<Reply, HttpError> {
        let delivered = delivered(mailbox, self.skipped.clone());
        if full {
            return reply::json_array(delivered.map_ok(|page| listed(page, Listed::from))).await;
        }
        reply::json_array(delivered.map_ok(|page| listed(page, |delivered| delivered.message.text))).await
    }
}

/// `GET /messages?after=…&limit=N`: a page of the messages and who delivered them.
async fn page(mailbox: &dyn Mailbox, range: &PageRange) -> Result<Reply, HttpError> {
    mailbox.check_readable()?;
    let page = within(mailbox, mailbox.page(range)).await??;
    let page = ListPage {
        messages: listed(page.messages, Listed::from),
        skipped: page.skipped,
        next: page.next,
    };
    page::answer("/messages", range, page).await
}

/// A delivered message, as `?full=true` shows it.
#[derive(Serialize)]
struct Listed {
    identifier: String,
    text: String,
    by: String,
}

impl From<DeliveredMessage> for Listed {
    fn from(DeliveredMessage { message, by }: DeliveredMessage) -> Self {
        Self {
            identifier: message.identifier,
            text: message.text,
            by,
        }
    }
}

fn listed<T>(page: Vec<DeliveredMessage>, as_listed: impl Fn(DeliveredMessage) -> T) -> Vec<T> {
    page.into_iter().map(as_listed).collect()
}

impl Handler for Messages {
    async fn handle(&self, request: Request) -> Result<Reply, HttpError> {
        let mailbox = self
            .mailbox
            .now()
            .ok_or_else(|| HttpError::unavailable("the mailbox is not open"))?;
        // For every path, also those that look at no parameter: what is malformed is not acted on.
        let query = request.query()?;
        match (request.path(), request.method()) {
            ("/messages", &Method::GET) => {
                let is_full = query.flag("full")?;
                match page::asked(&query)? {
                    Some(range) => page(&*mailbox, &range).await,
                    None => self.list(mailbox, is_full).await,
                }
            }
            ("/messages", _) => Err(HttpError::method_not_allowed("GET, HEAD")),
            _ => Err(HttpError::not_found()),
        }
    }

    fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        if let Some(mailbox) = self.mailbox.details() {
            details.insert("mailbox".to_owned(), mailbox);
        }
        if let Some(discovery) = self.discovery.get() {
            let of_service = Map::from_iter([(MESSAGES_SERVICE.to_owned(), discovery.details())]);
            details.insert("discovery".to_owned(), of_service.into());
        }
        details.insert("deliveries".to_owned(), self.progress.details());
        details.insert("repair".to_owned(), self.repair.details());
        details.insert(
            "skipped_entries".to_owned(),
            self.skipped.load(Ordering::Relaxed).into(),
        );
        details
    }
}

/// All that was delivered, page by page. A page that does not come in time is an error.
fn delivered(
    mailbox: Arc<dyn Mailbox>,
    skipped: Arc<AtomicU64>,
) -> impl Stream<Item = engine::Result<Vec<DeliveredMessage>>> + Send + 'static {
    async_stream::try_stream! {
        // At once where it is known: a facade gives it less time than the engine has.
        mailbox.check_readable()?;
        let mut left_out = LeftOut::of("delivered messages", skipped);
        let mut pages = mailbox.all();
        while let Some(page) = within(&*mailbox, pages.next()).await?.transpose()? {
            left_out.count(page.skipped);
            yield page.messages;
        }
    }
}

#[cfg(test)]
mod tests;
