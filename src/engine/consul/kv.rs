//! [`Settings`] in Consul's KV store. <https://developer.hashicorp.com/consul/api-docs/kv>

use anyhow::{Context, anyhow, ensure};
use consulrs::api::kv::common::KVPair;
use consulrs::api::kv::requests::SetKeyRequest;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;

use super::blocking::{self, Answer};
use super::{Consul, Failure};
use crate::engine::{Held, Result, Settings, check_key};

/// How often a key may be deleted between our write, which found it, and our read, which did not.
const VANISHED_TRIES: usize = 3;

impl Settings for Consul {
    fn describe(&self) -> String {
        self.name()
    }

    fn advice(&self) -> String {
        "start one with `scripts/engines.sh up`, or point elsewhere with --consul or CONSUL_HTTP_ADDR, or do without it on \
         one machine, with --local"
            .to_owned()
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        async { self.leader().await.map_err(|failure| self.unavailable(failure)) }.boxed()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Held>> {
        async move {
            let held = self.look_at(key, 0).await.map(|answer| answer.content);
            held.map_err(|error| self.unavailable(error))
        }
        .boxed()
    }

    fn put_if_absent<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, Result<Option<String>>> {
        async move {
            self.write_if_absent(key, value)
                .await
                .map_err(|error| self.unavailable(error))
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, Result<()>> {
        async move { self.write(key, value).await.map_err(|error| self.unavailable(error)) }.boxed()
    }

    fn watch<'a>(&'a self, key: &'a str) -> BoxStream<'a, Result<Held>> {
        self.watch_by(move |index| self.look_at(key, index))
    }
}

impl Consul {
    async fn look_at(&self, key: &str, index: u64) -> anyhow::Result<Answer<Held>> {
        check_key(key)?;
        let what = || format!("reading the key {key}");
        let answer = match self.send(ReadKey { key, index }, blocking::deadline(index)).await {
            Ok(answer) => answer,
            // A missing key is an empty 404. One with a body is somebody else's.
            Err(Failure::Status { code: 404, body }) if body.is_empty() => {
                // It has an index, which `rustify` does not hand out.
                return Ok(Answer {
                    index: None,
                    content: Held::Missing,
                });
            }
            Err(failure) => return Err(anyhow::Error::from(failure).context(what())),
        };
        let index = blocking::index_of(&answer).with_context(what)?;
        let pairs = answer.parse().map_err(Failure::from).map_err(anyhow::Error::from);
        let pair = pairs.with_context(what)?.into_iter().find(|pair| pair.key == key);
        Ok(Answer {
            index: Some(index),
            content: pair.map_or(Held::Missing, watched),
        })
    }

    async fn write_if_absent(&self, key: &str, value: &str) -> anyhow::Result<Option<String>> {
        for _ in 0..VANISHED_TRIES {
            // An index of 0 means: only where there is no such key.
            if self.set(key, value, Some(0)).await? {
                return Ok(None);
            }
            match self.look_at(key, 0).await?.content {
                Held::Value(standing) => return Ok(Some(standing)),
                Held::Unreadable(why) => return Err(anyhow!("the value of the key {key} is {why}")),
                Held::Missing => {}
            }
        }
        Err(anyhow!(
            "the key {key} comes and goes: {VANISHED_TRIES} tries to write it met one that was gone right after"
        ))
    }

    async fn write(&self, key: &str, value: &str) -> anyhow::Result<()> {
        ensure!(
            self.set(key, value, None).await?,
            "the key {key} was not written, and no reason was given"
        );
        Ok(())
    }

    /// Whether the value was written. `cas` is the modify index that the key must have.
    async fn set(&self, key: &str, value: &str, cas: Option<u64>) -> anyhow::Result<bool> {
        check_key(key)?;
        let request = SetKeyRequest {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
            cas,
            ..SetKeyRequest::default()
        };
        let written = self.call(request).await;
        written.map_err(|failure| anyhow::Error::from(failure).context(format!("writing the key {key}")))
    }
}

fn watched(pair: KVPair) -> Held {
    // An empty value is `null` in Consul's answer.
    let Some(value) = pair.value else {
        return Held::Value(String::new());
    };
    let text: std::result::Result<String, _> = value.try_into();
    text.map_or_else(|_| Held::Unreadable("no text in UTF-8".to_owned()), Held::Value)
}

/// `GET /v1/kv/<key>`, which can wait: see [`blocking`]. <https://developer.hashicorp.com/consul/api-docs/kv#read-key>
struct ReadKey<'a> {
    key: &'a str,
    index: u64,
}

impl Endpoint for ReadKey<'_> {
    type Response = Vec<KVPair>;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        format!("kv/{}", self.key)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }

    fn query(&self) -> std::result::Result<Option<String>, ClientError> {
        Ok(blocking::query(None, self.index))
    }
}
