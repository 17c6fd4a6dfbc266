//! Who is registered, whatever the checks say. <https://developer.hashicorp.com/consul/api-docs/health#list-service-instances-for-service>

use anyhow::Context;

use super::agent::{SINCE_META, VERSION_META};
use super::health::{Check, Entry, ServiceHealth};
use super::{Consul, one_line};
use crate::engine::registry::{parse_rfc3339, url_host};
use crate::engine::{Condition, Listed};

/// How much of what a check says is shown, in characters.
const REASON_CHARS: usize = 300;

impl Consul {
    /// All instances of a service: see [`Registry::all`](crate::engine::Registry::all).
    pub(super) async fn list(&self, service: &str) -> anyhow::Result<Vec<Listed>> {
        let entries = self
            .call(ServiceHealth::all(service))
            .await
            .map_err(anyhow::Error::from);
        let entries = entries.with_context(|| format!("the instances of {service}"))?;
        let mut listed: Vec<Listed> = entries.into_iter().map(Listed::from).collect();
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(listed)
    }
}

impl Check {
    fn condition(&self) -> Condition {
        match self.status.as_str() {
            "passing" => Condition::Passing,
            "warning" => Condition::Warning,
            // Consul passes over an instance for any other word, too.
            _ => Condition::Critical,
        }
    }

    fn reason(&self) -> String {
        match one_line(&self.output, REASON_CHARS) {
            said if said.is_empty() => format!("its check {:?} says nothing yet", self.name),
            said => said,
        }
    }
}

impl From<Entry> for Listed {
    fn from(entry: Entry) -> Self {
        let Entry { node, service, checks } = entry;
        let place = service.place(&node);
        let mut meta = service.meta.unwrap_or_default();
        let worst = checks
            .iter()
            .filter(|check| check.condition() != Condition::Passing)
            .max_by_key(|check| check.condition() == Condition::Critical);
        Self {
            id: service.id,
            address: place.map(|(host, port)| format!("{}:{port}", url_host(&host))),
            version: meta.remove(VERSION_META),
            condition: worst.map_or(Condition::Passing, Check::condition),
            reason: worst.map(Check::reason),
            since: meta.get(SINCE_META).and_then(|since| parse_rfc3339(since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use serde_json::{Value, json};

    use super::*;

    fn listed(service: Value, checks: &[[&str; 3]]) -> Listed {
        let checks: Vec<Value> = checks
            .iter()
            .map(|[status, name, output]| json!({ "Status": status, "Name": name, "Output": output }))
            .collect();
        let entry = json!({ "Node": { "Address": "10.0.0.9" }, "Service": service, "Checks": checks });
        Listed::from(serde_json::from_value::<Entry>(entry).unwrap())
    }

    #[test]
    fn what_an_instance_does_not_say_is_left_out_and_its_address_is_that_of_its_node() {
        let bare = listed(json!({ "ID": "a", "Address": "", "Port": 80, "Meta": null }), &[]);
        let expected = Listed {
            id: "a".to_owned(),
            address: Some("10.0.0.9:80".to_owned()),
            version: None,
            condition: Condition::Passing,
            reason: None,
            since: None,
        };
        assert_eq!(bare, expected);
        let without_port = listed(json!({ "ID": "a", "Address": "a", "Meta": {} }), &[]);
        assert_eq!(without_port.address, None);
        for port in [0, -1, 65536] {
            let uncallable = listed(json!({ "ID": "a", "Address": "a", "Port": port, "Meta": {} }), &[]);
            assert_eq!(uncallable.address, None, "{port}");
        }
    }

    #[test]
    fn version_and_start_are_in_the_meta_and_a_start_that_is_none_is_left_out() {
        let with = |since: &str| {
            listed(
                json!({ "ID": "a", "Address": "::1", "Port": 80, "Meta": { "svc": "1.2.3", "since": since } }),
                &[],
            )
        };
        let ours = with("2026-11-25T01:41:57Z");
        assert_eq!(ours.address.as_deref(), Some("[::1]:80"));
        assert_eq!(ours.version.as_deref(), Some("1.2.3"));
        assert_eq!(
            ours.since,
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_570_917))
        );
        for odd in [
            "",
            "yesterday",
            "1969-12-31T23:59:59Z",
            "2026-13-25T01:41:57Z",
            "10000-01-01T00:00:00Z",
        ] {
            assert_eq!(with(odd).since, None, "{odd:?}");
        }
    }

    #[test]
    fn an_instance_is_as_its_worst_check_has_it() {
        let with = |checks: &[[&str; 3]]| {
            let listed = listed(json!({ "ID": "a", "Address": "a", "Port": 80, "Meta": {} }), checks);
            (listed.condition, listed.reason)
        };
        let (good, slow, bad) = (
            ["passing", "node", "Agent alive"],
            ["warning", "pace", "slow"],
            ["critical", "check", " no\nanswer\u{1b}[0m "],
        );
        let worst = Some("no answer [0m".to_owned());
        assert_eq!(with(&[good, good]), (Condition::Passing, None));
        assert_eq!(with(&[slow, good]), (Condition::Warning, Some("slow".to_owned())));
        assert_eq!(with(&[slow, bad, good]), (Condition::Critical, worst.clone()));
        assert_eq!(with(&[bad, slow]), (Condition::Critical, worst));
        let silent = Some("its check \"check\" says nothing yet".to_owned());
        assert_eq!(with(&[["critical", "check", ""]]), (Condition::Critical, silent));
        assert_eq!(with(&[["maintenance", "", "a"]]).0, Condition::Critical);
    }
}
