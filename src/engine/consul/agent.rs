//! [`Registry`] in Consul: our own instances by the agent's API, those of others by [`health`](super::health) and
//! [`listing`](super::listing).
//! <https://developer.hashicorp.com/consul/api-docs/agent/service>

use std::collections::HashMap;

use anyhow::Context;
use consulrs::api::check::common::AgentServiceCheck;
use consulrs::api::service::requests::{DeregisterServiceRequest, RegisterServiceRequest};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use serde::Deserialize;

use super::{CALL_DEADLINE, Consul, Failure};
use crate::engine::registry::{check_id, parse_rfc3339, url_host};
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

    fn is_registered<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<bool>> {
        async move {
            let known = self.knows(registration).await;
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

    async fn knows(&self, registration: &Registration) -> anyhow::Result<bool> {
        let id = registration.id();
        check_id(&id)?;
        let known = match self.send(ReadInstance { id: &id }, CALL_DEADLINE).await {
            Ok(answer) => answer.parse().map_err(Failure::from),
            // Whatever its text, which differs by version: whoever does not know us is to be told again.
            Err(Failure::Status { code: 404, .. }) => return Ok(false),
            // A check that warns or fails has a status of its own. So may something between us and the agent.
            Err(Failure::Status { code, body }) => {
                serde_json::from_str(&body).map_err(|_| Failure::Status { code, body })
            }
            Err(failure) => Err(failure),
        };
        let known: Known = known.with_context_of("asking for", &id)?;
        Ok(known.is(registration))
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

/// `GET /v1/agent/health/service/id/<id>`: 200 where all checks pass, 429 or 503 where not, 404 where the agent does not know
/// the instance. <https://developer.hashicorp.com/consul/api-docs/agent/service#get-local-service-health-by-id>
struct ReadInstance<'a> {
    id: &'a str,
}

impl Endpoint for ReadInstance<'_> {
    type Response = Known;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        format!("agent/health/service/id/{}", self.id)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }
}

/// What the agent knows of an instance, as far as it tells whether that is what was registered. The types of `consulrs`
/// cannot hold the `TaggedAddresses` of today's Consul.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Known {
    service: KnownService,
    checks: Option<Vec<KnownCheck>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KnownService {
    service: String,
    address: String,
    /// Left out where it is 0.
    #[serde(default)]
    port: u32,
    meta: Option<HashMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct KnownCheck {
    #[serde(rename = "CheckID")]
    id: String,
}

impl Known {
    /// Whether this is what [`request`] asked for. What others added stays, and so does a process that began later.
    fn is(&self, registration: &Registration) -> bool {
        let Self { service, checks } = self;
        // The id of a check that is registered with its service and has no name of its own.
        let check = format!("service:{}", registration.id());
        let has_check = checks.iter().flatten().any(|known| known.id == check);
        let is_there = service.service == registration.service
            && service.address == registration.host
            && service.port == u32::from(registration.port);
        let said = |name: &str| service.meta.as_ref()?.get(name);
        let is_ours = said(VERSION_META) == Some(&registration.version)
            && said(SINCE_META) == rfc3339(registration.since).as_ref();
        let began = said(SINCE_META).and_then(|since| parse_rfc3339(since));
        let is_later = began.is_some_and(|began| began > registration.since);
        has_check && is_there && (is_ours || is_later)
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

    #[test]
    fn an_instance_is_known_where_its_place_its_meta_and_its_check_are_there_and_a_later_process_stays() {
        let registration = registration("::1");
        let known = |service: &str, address: &str, port: u32, meta: &[(&str, &str)], checks: &[&str]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let known = Known {
                service: KnownService {
                    service: service.to_owned(),
                    address: address.to_owned(),
                    port,
                    meta: Some(meta.iter().map(owned).collect()),
                },
                checks: Some(checks.iter().map(|id| KnownCheck { id: (*id).to_owned() }).collect()),
            };
            known.is(&registration)
        };
        let service = "logging-service";
        let ours = [("svc", "1.2.3"), ("since", "1970-01-01T00:00:00Z")];
        let check = "service:logging-service@::1:8100";
        assert!(known(service, "::1", 8100, &ours, &[check]));
        let more = [ours[0], ours[1], ("by others", "")];
        assert!(known(service, "::1", 8100, &more, &["by others", check]));
        let later = [("since", "1970-01-01T00:00:01Z")];
        assert!(known(service, "::1", 8100, &later, &[check]));

        assert!(!known("other", "::1", 8100, &ours, &[check]));
        assert!(!known(service, "::2", 8100, &ours, &[check]));
        assert!(!known(service, "::1", 8101, &ours, &[check]));
        assert!(!known(service, "::1", 8100, &ours, &["by others"]));
        assert!(!known(service, "::1", 8100, &[ours[1]], &[check]));
        for since in ["1969-12-31T23:59:59Z", "yesterday"] {
            assert!(!known(service, "::1", 8100, &[ours[0], ("since", since)], &[check]));
        }
        assert!(!known(service, "::1", 8100, &[], &[check]));
    }
}
