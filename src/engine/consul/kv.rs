//! [`Settings`] in Consul's KV store. <https://developer.hashicorp.com/consul/api-docs/kv>

use anyhow::{anyhow, ensure};
use consulrs::api::kv::requests::{ReadKeyRequest, SetKeyRequest};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Consul, Failure};
use crate::engine::{Result, Settings, check_key};

/// How often a key may be deleted between our write, which found it, and our read, which did not.
const VANISHED_TRIES: usize = 3;

impl Settings for Consul {
    fn describe(&self) -> String {
        self.name()
    }

    fn advice(&self) -> String {
        "start one with `scripts/engines.sh up`, or point elsewhere with --consul or CONSUL_HTTP_ADDR".to_owned()
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        async { self.leader().await.map_err(|failure| self.unavailable(failure)) }.boxed()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<String>>> {
        async move { self.read(key).await.map_err(|error| self.unavailable(error)) }.boxed()
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
}

impl Consul {
    async fn read(&self, key: &str) -> anyhow::Result<Option<String>> {
        check_key(key)?;
        let request = ReadKeyRequest {
            key: key.to_owned(),
            ..ReadKeyRequest::default()
        };
        let pairs = match self.call(request).await {
            Ok(pairs) => pairs,
            // A missing key is an empty 404. One with a body is somebody else's.
            Err(Failure::Status { code: 404, body }) if body.is_empty() => return Ok(None),
            Err(failure) => return Err(anyhow::Error::from(failure).context(format!("reading the key {key}"))),
        };
        let Some(pair) = pairs.into_iter().find(|pair| pair.key == key) else {
            return Ok(None);
        };
        // An empty value is `null` in Consul's answer.
        let Some(value) = pair.value else {
            return Ok(Some(String::new()));
        };
        let value: std::result::Result<String, _> = value.try_into();
        Ok(Some(value.map_err(|_| {
            anyhow!("the value of the key {key} is no text in UTF-8")
        })?))
    }

    async fn write_if_absent(&self, key: &str, value: &str) -> anyhow::Result<Option<String>> {
        for _ in 0..VANISHED_TRIES {
            // An index of 0 means: only where there is no such key.
            if self.set(key, value, Some(0)).await? {
                return Ok(None);
            }
            if let Some(standing) = self.read(key).await? {
                return Ok(Some(standing));
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
