//! [`OtherList`]: the list of the other service, which knows what should be in this one.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use futures_util::stream::StreamExt;
use hyper::{StatusCode, Uri};

use super::comparison::Pages;
use crate::discovery::{Discovery, Pick};
use crate::engine::Registry;
use crate::http::client::{Call, Client, Opened};
use crate::http::elements::Elements;
use crate::message::Message;

/// How long the registry may take to tell which instances there are.
const FIRST_INSTANCES: Duration = Duration::from_secs(2);

/// How long an instance may take to begin, or to go on. It gives its engine 4.3 s for each part.
const STALL_LIMIT: Duration = Duration::from_secs(6);

/// Nobody is there who could be asked: no failure of anybody, as long as a system starts.
#[derive(Debug)]
pub(super) struct NoInstance(pub(super) &'static str);

impl fmt::Display for NoInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no live instance of {} is known", self.0)
    }
}

impl Error for NoInstance {}

/// Where the other list can be had.
#[derive(Clone)]
pub(in crate::roles) struct OtherList {
    client: Client,
    registry: Arc<dyn Registry>,
    service: &'static str,
    path: &'static str,
}

impl OtherList {
    /// The list at `path` of any instance of `service`.
    pub(in crate::roles) fn new(registry: Arc<dyn Registry>, service: &'static str, path: &'static str) -> Self {
        Self {
            client: Client::new(),
            registry,
            service,
            path,
        }
    }

    /// All of it, from the first instance that begins to send it. It is read no faster than it is taken.
    pub(super) fn pages(self) -> Pages {
        async_stream::try_stream! {
            let (instance, mut body) = self.open().await?;
            let broken = |cause: anyhow::Error| cause.context(format!("reading {} of {}", self.path, instance.id));
            let mut elements = Elements::<Message>::default();
            while let Some(piece) = body.piece(STALL_LIMIT).await? {
                let page = elements.piece(&piece).map_err(broken)?;
                if !page.is_empty() {
                    yield page;
                }
            }
            yield elements.end().map_err(broken)?;
        }
        .boxed()
    }

    async fn open(&self) -> anyhow::Result<(Pick, Opened)> {
        let discovery = follow(&self.registry, self.service).await;
        // Those of another origin do not show identifiers.
        let instances = discovery.instances();
        let mut not_asked: Vec<&str> = Vec::new();
        not_asked.extend(
            instances
                .iter()
                .filter(|one| one.version.is_none())
                .map(|one| one.id.as_str()),
        );
        let mut last = anyhow::Error::new(NoInstance(self.service));
        let mut tried: Vec<String> = Vec::new();
        loop {
            let mut left_out = not_asked.clone();
            left_out.extend(tried.iter().map(String::as_str));
            let Some(instance) = discovery.pick(&left_out) else {
                return Err(last);
            };
            match self.open_at(&instance).await {
                Ok(body) => return Ok((instance, body)),
                Err(error) => last = error,
            }
            tried.push(instance.id.clone());
        }
    }

    async fn open_at(&self, instance: &Pick) -> anyhow::Result<Opened> {
        let mut call = Call::new(Bytes::new());
        *call.uri_mut() = Uri::from_static(self.path);
        let body = self.client.open(instance, call, STALL_LIMIT).await?;
        if body.status != StatusCode::OK {
            bail!("{} answered {} to GET {}", instance.id, body.status.as_u16(), self.path);
        }
        Ok(body)
    }
}

/// The instances of a service as the registry has them now. They are followed only as long as this lives: a repair is rare.
pub(super) async fn follow(registry: &Arc<dyn Registry>, service: &'static str) -> Discovery {
    let discovery = Discovery::follow(registry.clone(), service);
    discovery.first(FIRST_INSTANCES).await;
    discovery
}
