//! Asks the instances how they are.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use hyper::{StatusCode, Uri};
use serde_json::Value;
use tokio::time::sleep;

use super::launch::Launch;
use super::plan::{Instance, Plan, Role};
use crate::engine;
use crate::http::client::{Call, Client};
use crate::roles::{LOGGING_SERVICE, MESSAGES_SERVICE};

/// How long an answer may take, and how long it may be.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const MOST_BYTES: usize = 64 * 1024;

/// Pauses between questions: a start takes some tenths of a second, or as long as an engine is away.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
const FACTOR: f32 = 1.2;

/// Waits until `GET /health` of the instance is 200.
pub(super) async fn until_healthy(instance: &Instance, launch: &Launch) {
    until(instance, launch, |_| true).await;
}

/// Waits until each facade has heard of all other instances: what is posted then finds whom it needs.
pub(super) async fn until_known(plan: &Plan, launch: &Launch) {
    let of_role = |role| plan.of_role(role).map(|instance| instance.port).collect::<Vec<_>>();
    let (logging, messages) = (of_role(Role::Logging), of_role(Role::Messages));
    for facade in plan.of_role(Role::Facade) {
        until(facade, launch, |health| {
            knows(health, LOGGING_SERVICE, &logging) && knows(health, MESSAGES_SERVICE, &messages)
        })
        .await;
    }
}

async fn until(instance: &Instance, launch: &Launch, is_good: impl Fn(&Value) -> bool) {
    let asked = engine::Instance {
        id: instance.name.clone(),
        host: launch.host(),
        port: instance.port,
        version: None,
        since: None,
    };
    let client = Client::new();
    let pauses = ExponentialBuilder::new()
        .with_factor(FACTOR)
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times();
    for pause in pauses.build() {
        let mut call = Call::default();
        *call.uri_mut() = Uri::from_static("/health");
        let answer = client.call(&asked, call, ANSWER_LIMIT, MOST_BYTES).await;
        let health = answer.ok().filter(|answer| answer.status == StatusCode::OK);
        let health: Option<Value> = health.and_then(|answer| serde_json::from_slice(&answer.body).ok());
        if health.is_some_and(|health| is_good(&health)) {
            return;
        }
        sleep(pause).await;
    }
}

/// Whether what a facade says of itself names an instance of the service on each of these ports.
fn knows(health: &Value, service: &str, ports: &[u16]) -> bool {
    let ids = health
        .get(service)
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let on = |port: &u16| {
        let ending = format!(":{port}");
        ids.iter().filter_map(Value::as_str).any(|id| id.ends_with(&ending))
    };
    ports.iter().all(on)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_facade_knows_those_whose_ports_it_names() {
        let health = json!({ LOGGING_SERVICE: ["logging-service@a:8101", "logging-service@a:18102"] });
        assert!(knows(&health, LOGGING_SERVICE, &[8101]));
        assert!(!knows(&health, LOGGING_SERVICE, &[8101, 8102]));
        assert!(!knows(&health, MESSAGES_SERVICE, &[8181]));
        assert!(!knows(&json!("odd"), LOGGING_SERVICE, &[8101]));
    }
}
