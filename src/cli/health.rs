//! Options of `svc health`: whom it asks.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;

use super::values::{Url, parse_limit, parse_port, parse_url};
use super::{FACADE_PORT, LOGGING_PORT, MESSAGES_PORT, Misuse, PORT_ENV, environment};

/// What `svc help health` says below the options.
pub(super) fn help() -> String {
    format!(
        "\
Without a URL it asks the instance on this host, whichever role that has, by
127.0.0.1: on the port that the environment variable {PORT_ENV} tells roles; where that
is not set, on the default ports of all roles, {FACADE_PORT}, {LOGGING_PORT} and {MESSAGES_PORT}, at once.
It then exits 0 where somebody listens on at least one of these and every one that
listens answers 200."
    )
}

/// Options of `svc health`.
#[derive(Args, Debug)]
pub struct HealthOptions {
    #[arg(
        help = "What to ask: http://host[:port][/path]; without a path it is /health [default: the instance on this host]"
    )]
    #[arg(value_parser = parse_url)]
    url: Option<Url>,

    /// How long the answer may take, of all that are asked: a number and ms, s, m or h
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_limit)]
    pub timeout: Duration,

    // No option: who can give one can as well give the URL.
    #[arg(skip = environment(PORT_ENV))]
    port: Option<OsString>,
}

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// This URL.
    One(Url),
    /// Whoever listens on these ports of this host.
    AnyOf(Vec<u16>),
}

impl HealthOptions {
    /// Whom to ask: the URL that was given, else the instance on this host.
    ///
    /// # Errors
    /// [`Misuse`] where there is no URL, and `PORT` is no port that could be asked.
    pub fn asked(&self) -> anyhow::Result<Asked> {
        asked(self.url.as_ref(), self.port.as_ref())
    }
}

fn asked(url: Option<&Url>, port: Option<&OsString>) -> anyhow::Result<Asked> {
    let port = match (url, port) {
        (Some(url), _) => return Ok(Asked::One(url.clone())),
        (None, None) => return Ok(Asked::AnyOf(vec![FACADE_PORT, LOGGING_PORT, MESSAGES_PORT])),
        (None, Some(port)) => port.to_string_lossy(),
    };
    match parse_port(&port) {
        Ok(port) if port > 0 => Ok(Asked::One(Url::of_this_host(port))),
        // 0 is one for roles, which then take any.
        _ => Err(
            anyhow!("expected a whole number from 1 to 65535, or the URL as an argument").context(Misuse::new(
                format!("{PORT_ENV} is {port:?}, where nobody can be asked"),
            )),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(url: Option<&str>, port: Option<&str>) -> anyhow::Result<Asked> {
        let url = url.map(|url| parse_url(url).unwrap());
        asked(url.as_ref(), port.map(OsString::from).as_ref())
    }

    #[test]
    fn a_url_wins_over_port_which_wins_over_the_default_ports_of_the_roles() {
        let one = |url: &str| Asked::One(parse_url(url).unwrap());
        assert_eq!(by(Some("http://a:1/b"), Some("2")).unwrap(), one("http://a:1/b"));
        assert_eq!(by(Some("http://a:1/b"), Some("x")).unwrap(), one("http://a:1/b"));
        assert_eq!(by(None, Some(" 8101")).unwrap(), one("http://127.0.0.1:8101/health"));
        assert_eq!(by(None, None).unwrap(), Asked::AnyOf(vec![8000, 8100, 8180]));
    }

    #[test]
    fn a_port_where_nobody_can_be_asked_is_misuse() {
        for bad in ["0", "70000", "x", " "] {
            let error = by(None, Some(bad)).unwrap_err();
            assert!(error.is::<Misuse>(), "{error:#}");
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error:#}");
        }
    }
}
