//! What the values of options may be, and what is said of those that cannot be used.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;

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

/// Reads a port, 0 included.
pub(super) fn parse_port(text: &str) -> Result<u16, &'static str> {
    let digits = text.trim();
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    match digits.parse() {
        Ok(port) if is_number => Ok(port),
        _ => Err("expected a whole number from 0 to 65535"),
    }
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
    fn a_port_is_a_whole_number_from_0_to_65535() {
        for (given, read) in [("0", 0), ("8000", 8000), (" 65535\n", 65535), ("08000", 8000)] {
            assert_eq!(parse_port(given), Ok(read), "{given:?}");
        }
        for bad in ["", " ", "65536", "70000", "-1", "+1", "x", "80 00", "٣"] {
            assert!(parse_port(bad).is_err(), "{bad:?}");
        }
    }
}
