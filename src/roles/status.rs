//! `svc status`: shows the registry, as a table for people or as JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::future::try_join_all;
use serde::Serialize;

use super::{FACADE_SERVICE, LOGGING_SERVICE, MESSAGES_SERVICE, table};
use crate::cli::StatusOptions;
use crate::engine::{Engines, Listed, Registry, rfc3339};
use crate::wait::{NotYet, Wait};

/// What is shown, in this order.
const SERVICES: [&str; 3] = [FACADE_SERVICE, LOGGING_SERVICE, MESSAGES_SERVICE];

/// What a cell holds where nothing is known.
const UNKNOWN: &str = "-";

/// Reads the registry once it is there, and prints what is in it to standard output.
///
/// # Errors
/// Where the options cannot work, the registry cannot be read in time, or the output cannot be written. A reader who has
/// read enough is no error.
pub async fn run(options: StatusOptions) -> anyhow::Result<()> {
    let registry = Engines::at(options.engines.options()?)?.registry()?;
    let services = Wait::up_to(options.wait).until(|| read(&*registry)).await?;
    let text = if options.json {
        json(&services)?
    } else {
        report(&services, &registry.describe(), registry.why_empty(), SystemTime::now())
    };
    print(&text)
}

/// A service and all its instances.
type Service = (&'static str, Vec<Listed>);

async fn read(registry: &dyn Registry) -> Result<Vec<Service>, NotYet> {
    let read = SERVICES.map(async |service| registry.all(service).await.map(|listed| (service, listed)));
    try_join_all(read).await.map_err(|error| NotYet {
        subject: registry.describe(),
        answer: format!("{:#}", error.cause),
        advice: registry.advice(),
    })
}

/// One instance, as `--json` shows it: `svc help status` promises these names.
#[derive(Serialize)]
struct Row<'a> {
    service: &'a str,
    instance: &'a str,
    address: Option<&'a str>,
    health: &'a str,
    reason: Option<&'a str>,
    since: Option<String>,
    version: Option<&'a str>,
}

fn json(services: &[Service]) -> anyhow::Result<String> {
    let rows: Vec<Row<'_>> = instances(services)
        .map(|(service, listed)| Row {
            service,
            instance: &listed.id,
            address: listed.address.as_deref(),
            health: listed.condition.word(),
            reason: listed.reason.as_deref(),
            since: listed.since.and_then(rfc3339),
            version: listed.version.as_deref(),
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&rows).context("the registry as JSON")?;
    text.push('\n');
    Ok(text)
}

fn instances(services: &[Service]) -> impl Iterator<Item = (&'static str, &Listed)> {
    services
        .iter()
        .flat_map(|(service, listed)| listed.iter().map(move |instance| (*service, instance)))
}

/// The table, and below it what stands behind it: why an instance does not pass, and which service has none.
fn report(services: &[Service], place: &str, why_empty: Option<&str>, now: SystemTime) -> String {
    if instances(services).next().is_none() {
        let names = SERVICES.join(", ");
        let mut text = format!(
            "Nobody is registered in {place}: no instance of {names}.\n\
             What to do: start some with `svc facade`, `svc logging` and `svc messages`; each registers once it can serve.\n"
        );
        text.extend(why_empty.map(|why| format!("{why}\n")));
        return text;
    }
    let mut text = table_of(services, now);
    let mut notes = String::new();
    for (_, listed) in instances(services) {
        if let Some(reason) = &listed.reason {
            // Writing to a string cannot fail.
            let _ = writeln!(notes, "{} is {}: {reason}", cell(&listed.id), listed.condition.word());
        }
    }
    for (service, _) in services.iter().filter(|(_, listed)| listed.is_empty()) {
        let _ = writeln!(notes, "{service} has no instance");
    }
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&notes);
    }
    text
}

fn table_of(services: &[Service], now: SystemTime) -> String {
    let head = ["SERVICE", "INSTANCE", "ADDRESS", "HEALTH", "SINCE", "VERSION"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(instances(services).map(|(service, listed)| {
        [
            service.to_owned(),
            cell(&listed.id),
            cell(listed.address.as_deref().unwrap_or(UNKNOWN)),
            listed.condition.word().to_owned(),
            listed
                .since
                .and_then(|since| time_and_age(since, now))
                .unwrap_or(UNKNOWN.to_owned()),
            cell(listed.version.as_deref().unwrap_or(UNKNOWN)),
        ]
    }));
    table::aligned(&rows)
}

/// A text of somebody else's, as a terminal can show it.
fn cell(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// `2026-11-25 01:41:57Z (3m 20s)`: the age in its two largest units.
fn time_and_age(since: SystemTime, now: SystemTime) -> Option<String> {
    let at = rfc3339(since)?.replacen('T', " ", 1);
    // A clock that is ahead of ours makes no age.
    let age = now.duration_since(since).unwrap_or_default();
    let age = humantime::format_duration(Duration::from_secs(age.as_secs())).to_string();
    let age: Vec<&str> = age.split(' ').take(2).collect();
    Some(format!("{at} ({})", age.join(" ")))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Condition;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const START: u64 = 1_795_570_917;

    #[test]
    fn the_age_is_in_its_two_largest_units_and_never_negative() {
        for (age, shown) in [
            (0, "0s"),
            (59, "59s"),
            (200, "3m 20s"),
            (3600, "1h"),
            (86_400 + 3600 + 62, "1day 1h"),
            (40 * 86_400, "1month 9days"),
        ] {
            let expected = format!("2026-11-25 01:41:57Z ({shown})");
            assert_eq!(time_and_age(at(START), at(START + age)), Some(expected));
        }
        let ahead = time_and_age(at(START), at(START - 60)).unwrap();
        assert!(ahead.ends_with(" (0s)"), "{ahead}");
    }

    #[test]
    fn columns_are_aligned_and_what_is_odd_stays_in_its_cell() {
        let ours = Listed {
            id: "facade-service@a:1".to_owned(),
            address: Some("a:1".to_owned()),
            version: Some("1.2.3".to_owned()),
            condition: Condition::Passing,
            reason: None,
            since: Some(at(START)),
        };
        let other = Listed {
            id: "an\nö\u{1b}ther".to_owned(),
            address: None,
            version: None,
            condition: Condition::Critical,
            reason: Some("no answer".to_owned()),
            since: None,
        };
        let services = [
            (FACADE_SERVICE, vec![ours]),
            (LOGGING_SERVICE, vec![other]),
            (MESSAGES_SERVICE, vec![]),
        ];
        let expected = "\
SERVICE          INSTANCE            ADDRESS  HEALTH    SINCE                       VERSION
facade-service   facade-service@a:1  a:1      passing   2026-11-25 01:41:57Z (40s)  1.2.3
logging-service  an ö ther           -        critical  -                           -

an ö ther is critical: no answer
messages-service has no instance
";
        assert_eq!(report(&services, "a registry", None, at(START + 40)), expected);
    }

    #[test]
    fn a_registry_without_instances_says_so_and_what_to_do() {
        let nobody = SERVICES.map(|service| (service, vec![]));
        let said = report(&nobody, "a registry", Some("Or it is closed."), at(START));
        assert!(said.starts_with("Nobody is registered in a registry"), "{said}");
        assert!(
            said.contains("svc logging") && said.ends_with("\nOr it is closed.\n"),
            "{said}"
        );
        assert_eq!(json(&[(FACADE_SERVICE, vec![])]).unwrap(), "[]\n");
    }
}
