//! The command line.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use hyper::Uri;

use crate::texts;

/// How long the load takes where nothing else says so.
const DURATION: Duration = Duration::from_secs(20);

const HELP: &str = "\
Each client posts one text after the other to its facade, POST /message, over a
connection that it keeps. It never posts a text twice. What counts:

  posted        every post, each with a text of its own
  acknowledged  it was answered 201, wholly
  failed        any other status, no whole answer, or none within 6 s. Its text may
                turn up in the lists or not: neither is an error

A connection that turns out to be closed before any of a post was written is made
again, once, as every HTTP client does it: that is no failure. After a failure
without an answer the client waits 10 ms, so that it does not spin while its
facade is dead; after an answer, whatever it was, it goes on at once.

Then GET /messages is read, again and again until every acknowledged text is in
both lists, or --verify-within is over. What counts is the last answer that was
read to its end:

  missing       acknowledged, and not in the list
  twice         acknowledged, and in the list more than once

Marks: with --stdin, each line on standard input is a name, of up to 200 bytes: it
ends the current window and begins one of that name; the first window is called
\"start\". A post belongs to the window in which it ended. So write the mark first,
wait for `load: window \"NAME\" begins` on standard error where it matters, and do
then what it stands for: what fails by that is in its window. The end of standard
input ends the load. However it ends, `load: the load has ended` is on standard error
when the last post has, before the lists are read.

With --json, one object on standard output, times in ms with decimals:

  run          what each text of this run begins with
  facades      [{url, posted, acknowledged, failed, reasons, longest_ms, p50_ms, p99_ms}]
  windows      [{name, seconds, posted, acknowledged, failed, per_second, longest_ms,
               p50_ms, p99_ms, facades: [{url, posted, acknowledged, failed, longest_ms}]}]
  totals       {seconds, posted, acknowledged, failed, per_second, longest_ms, p50_ms,
               p99_ms, verify_seconds, verify_failure, missing_from_logs,
               missing_from_messages, twice_in_logs, twice_in_messages}

  reasons      [{reason, count}]: the first 5 that differ, then \"others\"
  longest_ms   of all posts, also those that failed; p50_ms and p99_ms of those that
               were acknowledged. null where there were none
  seconds      from the first post until the last one ended
  per_second   acknowledged posts in a second
  verify_failure  null, or why the lists could not be read; then missing_… and twice_…
               are not there

Exit codes:
  0    every acknowledged text is in both lists, once, whatever failed
  1    one is missing or there twice, or the lists could not be read
  2    misuse of an option
  130  a SIGINT or SIGTERM came after the load had ended; the first one ends the load";

/// Post texts to facades without pause, then look for every acknowledged one in both lists
///
/// Meant for scripts that kill parts of the system meanwhile: what failed is counted by facade, and by what the script
/// says that it is about to do. The load ends after --duration, on SIGINT (Ctrl-C) or SIGTERM, or, with --stdin, with
/// standard input; a post that is under way then is waited for.
#[derive(Debug, Parser)]
#[command(name = "load", max_term_width = 100, after_long_help = HELP)]
pub(crate) struct Options {
    /// Whom to post to.
    #[arg(long = "url", value_name = "URL", required = true)]
    #[arg(
        help = "A facade to post to, http://host[:port]; may be repeated. The clients are dealt out to the facades in \
                  turn, and each stays with its own"
    )]
    pub(crate) facades: Vec<Facade>,

    /// How many clients post at once, 1 to 1000
    #[arg(long, value_name = "NUMBER", default_value = "8")]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub(crate) clients: usize,

    /// How many bytes each text has, 32 to 1048576
    #[arg(long, value_name = "BYTES", default_value = "100")]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(texts::FEWEST_BYTES..=texts::MOST_BYTES))]
    pub(crate) text_bytes: usize,

    /// How long to post, 30s or 5m. Without it 20s, or with --stdin for as long as that lasts
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,

    /// Read marks from standard input, one a line, and end the load when it ends
    #[arg(long)]
    pub(crate) stdin: bool,

    /// How many posts a second at most, of all clients together. What is late is not made up for. Without it as many as can
    /// be
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,

    /// Where to read the lists instead of at the facades that were posted to, as --url; may be repeated. Where one does not
    /// answer, the next is asked
    #[arg(long = "verify-url", value_name = "URL")]
    verify_facades: Vec<Facade>,

    /// How long to wait after the last post before the lists are read for the first time
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) verify_after: Duration,

    /// For how long to look for what is missing
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) verify_within: Duration,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

impl Options {
    /// Reads the command line. Where it asks for help, or cannot be used, the process ends here.
    pub(crate) fn read() -> Options {
        Options::of(std::env::args_os()).unwrap_or_else(|misuse| misuse.exit())
    }

    /// Reads these arguments, the name of the program first.
    pub(crate) fn of<T: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Options, clap::Error> {
        let options = Options::try_parse_from(arguments)?;
        let facades = options.facades.len();
        if options.clients < facades {
            let misuse = format!(
                "{facades} facades need as many clients, and there are {}: raise --clients",
                options.clients
            );
            return Err(Options::command().error(ErrorKind::ValueValidation, misuse));
        }
        Ok(options)
    }

    /// How long to post, where time ends it.
    pub(crate) fn duration(&self) -> Option<Duration> {
        match self.duration {
            None if !self.stdin => Some(DURATION),
            given => given,
        }
    }

    /// Where the lists are read.
    pub(crate) fn verify_facades(&self) -> &[Facade] {
        match self.verify_facades.as_slice() {
            [] => &self.facades,
            named => named,
        }
    }
}

/// Where a facade listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facade {
    /// Host name or address, an IPv6 address without brackets.
    pub(crate) host: String,
    /// From 1 on.
    pub(crate) port: u16,
}

impl fmt::Display for Facade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

impl Facade {
    /// What stands in the header `Host`.
    pub(crate) fn authority(&self) -> String {
        let Facade { host, port } = self;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }
}

impl FromStr for Facade {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Facade, Self::Err> {
        const EXPECTED: &str = "expected http://host[:port], with an IPv6 address in brackets and without a path";
        let uri: Uri = text.trim().parse().map_err(|_| EXPECTED)?;
        let host = uri.host().unwrap_or_default();
        let after_host = uri.authority().and_then(|all| all.as_str().strip_prefix(host));
        let port = match after_host {
            Some("") => 80,
            Some(rest) => rest.trim_start_matches(':').parse().map_err(|_| EXPECTED)?,
            None => return Err(EXPECTED),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_good = uri.scheme_str() == Some("http") && !host.is_empty() && port > 0;
        if is_good && uri.query().is_none() && matches!(uri.path(), "" | "/") {
            Ok(Facade {
                host: host.to_owned(),
                port,
            })
        } else {
            Err(EXPECTED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Options, clap::Error> {
        Options::of(["load"].iter().chain(arguments))
    }

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_facade_is_a_host_and_a_port_without_a_path() {
        for (given, read) in [
            ("http://127.0.0.1:8001", "http://127.0.0.1:8001"),
            (" http://localhost/ ", "http://localhost:80"),
            ("http://[::1]:8001", "http://[::1]:8001"),
            ("http://[::1]", "http://[::1]:80"),
        ] {
            assert_eq!(given.parse::<Facade>().unwrap().to_string(), read, "{given:?}");
        }
        for bad in [
            "",
            "8001",
            "127.0.0.1:8001",
            "https://a:1",
            "http://",
            "http://:1",
            "http://a:",
            "http://a:0",
            "http://a:65536",
            "http://u@a:1",
            "http://a:1/message",
            "http://a:1/?b",
        ] {
            assert!(bad.parse::<Facade>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_load_ends_by_time_unless_standard_input_is_to_end_it() {
        let duration = |more: &[&str]| read(&[&["--url", "http://a"], more].concat()).unwrap().duration();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(duration(&[]), seconds(20));
        assert_eq!(duration(&["--duration", "5m"]), seconds(300));
        assert_eq!(duration(&["--stdin"]), None);
        assert_eq!(duration(&["--stdin", "--duration", "3s"]), seconds(3));
    }

    #[test]
    fn the_lists_are_read_where_was_posted_unless_others_are_named() {
        let options = read(&["--url", "http://a", "--url", "http://b"]).unwrap();
        assert_eq!(options.verify_facades(), options.facades);
        let options = read(&["--url", "http://a", "--verify-url", "http://b"]).unwrap();
        assert_eq!(options.verify_facades(), ["http://b".parse().unwrap()]);
    }

    #[test]
    fn misuse_is_refused_with_exit_code_2() {
        let url = ["--url", "http://a"];
        for more in [
            &["--url", "http://b", "--clients", "1"][..],
            &["--clients", "0"],
            &["--clients", "1001"],
            &["--text-bytes", "31"],
            &["--text-bytes", "1048577"],
            &["--rate", "0"],
            &["--duration", "20"],
            &["more"],
        ] {
            let misuse = read(&[&url[..], more].concat()).unwrap_err();
            assert_eq!(misuse.exit_code(), 2, "{more:?}");
        }
        assert_eq!(read(&[]).unwrap_err().exit_code(), 2);
    }
}
