//! What the values of options may be, and what is said of those that cannot be used.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{anyhow, bail, ensure};
use hyper::Uri;
use hyper::http::uri::PathAndQuery;

use crate::engine;

pub(super) fn parse_key(key: &str) -> anyhow::Result<String> {
    engine::check_key(key).map(|()| key.to_owned())
}

pub(super) fn parse_host(host: &str) -> Result<String, &'static str> {
    let host = host.trim();
    if host.is_empty() {
        Err("a host name or an address is needed")
    } else {
        Ok(host.to_owned())
    }
}

/// Reads a host name or an address; the brackets of an IPv6 address are not part of it.
pub(super) fn parse_advertised(host: &str) -> anyhow::Result<String> {
    let host = host.trim();
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        ensure!(
            !address.is_unspecified(),
            "{host} stands for all addresses of a host, and nobody can call that"
        );
        return Ok(address.to_string());
    }
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    ensure!(
        !host.is_empty() && host.bytes().all(is_good),
        "expected a host name or an address, without a port"
    );
    Ok(host.to_owned())
}

/// Reads a whole number and its unit: `250ms`, `60s`, `5m`, `1h`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a whole number and its unit, ms, s, m or h: 60s";
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or(EXPECTED)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = if number.is_empty() {
        Err(EXPECTED)
    } else {
        number.parse().map_err(|_| "it is too long")
    }?;
    let seconds = |factor: u64| {
        number
            .checked_mul(factor)
            .map(Duration::from_secs)
            .ok_or("it is too long")
    };
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(60 * 60),
        _ => Err(EXPECTED),
    }
}

/// Reads a duration that something may take: longer than none.
pub(super) fn parse_limit(text: &str) -> Result<Duration, &'static str> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it has to be longer than 0"),
        limit => Ok(limit),
    }
}

/// Reads a port, 0 included.
pub(super) fn parse_port(text: &str) -> Result<u16, &'static str> {
    let digits = text.trim();
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    match digits.parse() {
        Ok(port) if is_number => Ok(port),
        _ => Err("expected a whole number from 0 to 65535"),
    }
}

/// Reads how many instances there are to be.
pub(super) fn parse_count(text: &str) -> Result<u16, &'static str> {
    match parse_port(text) {
        Ok(count @ 1..=100) => Ok(count),
        _ => Err("expected a whole number from 1 to 100"),
    }
}

/// What can be asked: `http://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Host name or address, an IPv6 address in brackets.
    pub host: String,
    /// From 1 on.
    pub port: u16,
    /// Path and query.
    pub target: PathAndQuery,
}

/// The path that says of an instance how it is.
const HEALTH: &str = "/health";

impl Url {
    /// What an instance on this host that listens there says of itself. One that has bound all addresses is reached there too.
    pub fn of_this_host(port: u16) -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port,
            target: PathAndQuery::from_static(HEALTH),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.target)
    }
}

/// Reads `http://host[:port][/path]`. Without a port it is 80, without a path `/health`.
pub(super) fn parse_url(text: &str) -> anyhow::Result<Url> {
    const EXPECTED: &str = "expected http://host[:port][/path], with an IPv6 address in brackets";
    let text = text.trim();
    match text.split_once("://") {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => {}
        Some((scheme, _)) => bail!("{scheme} is not spoken here, only http: {EXPECTED}"),
        None => bail!(EXPECTED),
    }
    let uri: Uri = text.parse().map_err(|cause| anyhow!("{cause}: {EXPECTED}"))?;
    let Some(authority) = uri.authority() else {
        bail!(EXPECTED);
    };
    ensure!(
        !authority.as_str().contains('@'),
        "a user cannot be named there: {EXPECTED}"
    );
    let (host, port) = match authority.as_str().rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority.as_str(), None),
    };
    let host_is_good = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && !host.contains(':'),
    };
    ensure!(host_is_good, EXPECTED);
    let port = match port.map_or(Ok(80), parse_port) {
        Ok(port) if port > 0 => port,
        _ => bail!("the port has to be 1 to 65535"),
    };
    let target = match uri.path_and_query() {
        Some(target) if target != "/" => target.clone(),
        _ => PathAndQuery::from_static(HEALTH),
    };
    Ok(Url {
        host: host.to_owned(),
        port,
        target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_a_whole_number_and_a_unit() {
        for (given, milliseconds) in [
            ("0s", 0),
            ("250ms", 250),
            ("60s", 60_000),
            (" 5m ", 300_000),
            ("1h", 3_600_000),
            ("007s", 7_000),
        ] {
            assert_eq!(
                parse_duration(given),
                Ok(Duration::from_millis(milliseconds)),
                "{given:?}"
            );
        }
        for bad in [
            "",
            "s",
            "60",
            "60 s",
            "1.5s",
            "-1s",
            "+1s",
            "1d",
            "1S",
            "1ms2",
            "1s 2s",
            "99999999999999999999s",
            "18446744073709551615h",
            "٣s",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_others_call_an_instance_by_is_one_host_without_a_port() {
        for (given, read) in [
            ("logging-1", "logging-1"),
            (" a_b.local ", "a_b.local"),
            ("10.0.0.1", "10.0.0.1"),
            ("[::1]", "::1"),
            ("FE80::1", "fe80::1"),
        ] {
            assert_eq!(parse_advertised(given).unwrap(), read, "{given:?}");
        }
        for bad in [
            "", " ", "0.0.0.0", "::", "[::]", "a:1", "http://a", "a/b", "a b", "a,b", "ä", "[a]", "user@a",
        ] {
            assert!(parse_advertised(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_may_take_no_time_is_refused() {
        assert_eq!(parse_limit("2s"), Ok(Duration::from_secs(2)));
        for bad in ["0s", "0ms", "2", ""] {
            assert!(parse_limit(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_port_is_a_whole_number_from_0_to_65535() {
        for (given, read) in [("0", 0), ("8000", 8000), (" 65535\n", 65535), ("08000", 8000)] {
            assert_eq!(parse_port(given), Ok(read), "{given:?}");
        }
        for bad in ["", " ", "65536", "70000", "-1", "+1", "x", "80 00", "٣"] {
            assert!(parse_port(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_url_is_http_and_has_a_port_and_a_path_of_its_own_or_the_usual_ones() {
        for (given, read) in [
            ("http://127.0.0.1:8000/health", "http://127.0.0.1:8000/health"),
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000/health"),
            ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/health"),
            (" HTTP://localhost ", "http://localhost:80/health"),
            ("http://[::1]:8000", "http://[::1]:8000/health"),
            ("http://[::1]", "http://[::1]:80/health"),
            (
                "http://facade_1.local:8000/a/b?c=d#e",
                "http://facade_1.local:8000/a/b?c=d",
            ),
        ] {
            assert_eq!(parse_url(given).unwrap().to_string(), read, "{given:?}");
        }
        for bad in [
            "",
            " ",
            "8000",
            "127.0.0.1:8000",
            "127.0.0.1:8000/health",
            "/health",
            "https://127.0.0.1:8000",
            "ftp://a",
            "http://",
            "http://:8000",
            "http:///health",
            "http://a:0",
            "http://a:",
            "http://a:70000",
            "http://a:+1",
            "http://a:x",
            "http://a:1:2",
            "http://::1:8000",
            "http://[::1:8000",
            "http://[a]:8000",
            "http://user@a:8000",
            "http://a b",
            "http://ä:8000",
            "http://a:8000/ä b",
            "http://a\n:8000",
        ] {
            let error = parse_url(bad).map(|url| url.to_string());
            assert!(error.is_err(), "{bad:?}: {error:?}");
        }
    }
}
