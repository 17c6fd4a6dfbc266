//! [`Registry`] in Consul: our own instances by the agent's API, those of others by [`health`](super::health) and
//! [`listing`](super::listing).
//! <https://developer.hashicorp.com/consul/api-docs/agent/service>

use anyhow::Context;
use consulrs::api::check::common::AgentServiceCheck;
use consulrs::api::service::requests::{DeregisterServiceRequest, RegisterServiceRequest};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;

use super::{CALL_DEADLINE, Consul, Failure};
use crate::engine::registry::{check_id, url_host};
use crate::engine::{Instance, Listed, Registration, Registry, Result, Settings, rfc3339};

/// Name of the service meta that holds the version of `svc`.
pub(super) const VERSION_META: &str = "svc";

/// Name of the service meta that holds when the process began to serve: RFC 3339, UTC, whole seconds.
pub(super) const SINCE_META: &str = "since";

/// How often the agent asks `/health`.
const CHECK_INTERVAL: &str = "2s";

/// How long an answer of `/health` may take.
const CHECK_TIMEOUT: &str = "1s";

/// How long a check fails until the agent takes the instance out: the least that Consul takes. Its reaper comes by every
/// 30 s.
const DEREGISTER_AFTER: &str = "1m";

impl Registry for Consul {
    fn describe(&self) -> String {
        self.name()
    }

    fn advice(&self) -> String {
        Settings::advice(self)
    }

    fn why_empty(&self) -> Option<&'static str> {
        Some("Where Consul has access control, CONSUL_HTTP_TOKEN has to name a token that may read services.")
    }

    fn register<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<()>> {
        async move {
            let registered = self.register_instance(registration).await;
            registered.map_err(|error| self.unavailable(error))
        }
        .boxed()
    }

    fn is_registered<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move {
            let known = self.knows(id).await;
            known.map_err(|error| self.unavailable(error))
        }
        .boxed()
    }

    fn deregister<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            let deregistered = self.deregister_instance(id).await;
            deregistered.map_err(|error| self.unavailable(error))
        }
        .boxed()
    }

    fn all<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Listed>>> {
        async move {
            let listed = self.list(service).await;
            listed.map_err(|error| self.unavailable(error))
        }
        .boxed()
    }

    fn watch<'a>(&'a self, service: &'a str) -> BoxStream<'a, Result<Vec<Instance>>> {
        self.watch_passing(service)
    }
}

impl Consul {
    async fn register_instance(&self, registration: &Registration) -> anyhow::Result<()> {
        let id = registration.id();
        check_id(&id)?;
        let sent = self.send(Register(request(registration)), CALL_DEADLINE).await;
        sent.map(drop).with_context_of("registering", &id)
    }

    async fn knows(&self, id: &str) -> anyhow::Result<bool> {
        check_id(id)?;
        match self.send(ReadInstance { id }, CALL_DEADLINE).await {
            Ok(_) => Ok(true),
            // Whatever its text, which differs by version: whoever does not know us is to be told again.
            Err(Failure::Status { code: 404, .. }) => Ok(false),
            Err(failure) => Err(failure).with_context_of("asking for", id),
        }
    }

    async fn deregister_instance(&self, id: &str) -> anyhow::Result<()> {
        check_id(id)?;
        let request = DeregisterServiceRequest {
            id: id.to_owned(),
            ..DeregisterServiceRequest::default()
        };
        match self.send(request, CALL_DEADLINE).await {
            Ok(_) | Err(Failure::Status { code: 404, .. }) => Ok(()),
            Err(failure) => Err(failure).with_context_of("deregistering", id),
        }
    }
}

/// Says what was done to which instance.
trait WithContextOf<T> {
    fn with_context_of(self, doing: &str, id: &str) -> anyhow::Result<T>;
}

impl<T> WithContextOf<T> for std::result::Result<T, Failure> {
    fn with_context_of(self, doing: &str, id: &str) -> anyhow::Result<T> {
        self.map_err(anyhow::Error::from)
            .with_context(|| format!("{doing} the instance {id}"))
    }
}

fn request(registration: &Registration) -> RegisterServiceRequest {
    let version = (VERSION_META.to_owned(), registration.version.clone());
    let since = rfc3339(registration.since).map(|since| (SINCE_META.to_owned(), since));
    let check = AgentServiceCheck {
        http: Some(format!(
            "http://{}:{}/health",
            url_host(&registration.host),
            registration.port
        )),
        interval: Some(CHECK_INTERVAL.to_owned()),
        timeout: Some(CHECK_TIMEOUT.to_owned()),
        status: Some("passing".to_owned()),
        deregister_critical_service_after: Some(DEREGISTER_AFTER.to_owned()),
        ..AgentServiceCheck::default()
    };
    RegisterServiceRequest {
        id: Some(registration.id()),
        name: Some(registration.service.clone()),
        address: Some(registration.host.clone()),
        port: Some(registration.port.into()),
        meta: Some([version].into_iter().chain(since).collect()),
        check: Some(check),
        ..RegisterServiceRequest::default()
    }
}

/// `PUT /v1/agent/service/register?replace-existing-checks=true`: what stood under the id is gone, checks included, which
/// the request of `consulrs` cannot say.
struct Register(RegisterServiceRequest);

impl Endpoint for Register {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.0.path()
    }

    fn method(&self) -> RequestMethod {
        self.0.method()
    }

    fn query(&self) -> std::result::Result<Option<String>, ClientError> {
        Ok(Some("replace-existing-checks=true".to_owned()))
    }

    fn body(&self) -> std::result::Result<Option<Vec<u8>>, ClientError> {
        self.0.body()
    }
}

/// `GET /v1/agent/service/<id>`: 200 where the agent knows the instance, 404 where not. The answer type of `consulrs`
/// cannot hold the `TaggedAddresses` of today's Consul, and nothing of it is needed.
struct ReadInstance<'a> {
    id: &'a str,
}

impl Endpoint for ReadInstance<'_> {
    type Response = serde::de::IgnoredAny;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        format!("agent/service/{}", self.id)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn registration(host: &str) -> Registration {
        Registration {
            service: "logging-service".to_owned(),
            host: host.to_owned(),
            port: 8100,
            version: "1.2.3".to_owned(),
            since: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_start_of_the_process_is_told_in_whole_seconds_of_utc() {
        let told = |since| {
            let registration = Registration {
                since,
                ..registration("::1")
            };
            request(&registration).meta.and_then(|mut meta| meta.remove(SINCE_META))
        };
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_570_917_999);
        assert_eq!(told(start).as_deref(), Some("2026-11-25T01:41:57Z"));
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(told(before), None, "there is no text for it");
    }

    #[test]
    fn the_check_of_an_ipv6_address_has_brackets_and_the_address_has_none() {
        let request = request(&registration("::1"));
        assert_eq!(request.address.as_deref(), Some("::1"));
        assert_eq!(request.id.as_deref(), Some("logging-service@::1:8100"));
        let url = request.check.and_then(|check| check.http);
        assert_eq!(url.as_deref(), Some("http://[::1]:8100/health"));
    }
}
