//! Logs: for people, one line per event, to standard error.

use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// The filter where none is given.
pub const DEFAULT_FILTER: &str = "info";

/// The variable that asks for colours also where standard error is no terminal. Another program may show it on one.
pub const FORCE_COLOUR: &str = "CLICOLOR_FORCE";

/// Libraries that log each call, and failures that are handled here. A filter that names one of them wins.
const QUIET: &str = "consulrs=off,rustify=off,reqwest=warn,hyper=warn";

/// Checks a filter in the syntax of `RUST_LOG`, and returns it as it is.
///
/// # Errors
/// Names the part that is wrong.
pub fn check_filter(filter: &str) -> anyhow::Result<String> {
    parse(filter)?;
    Ok(filter.to_owned())
}

/// Whether what goes to standard error is coloured: where that is a terminal, or `CLICOLOR_FORCE` says so, and never where
/// `NO_COLOR` is set. A variable that is empty counts as not given.
pub fn is_coloured() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_forced = is_set(FORCE_COLOUR) && std::env::var_os(FORCE_COLOUR).is_none_or(|value| value != "0");
    !is_set("NO_COLOR") && (is_forced || io::stderr().is_terminal())
}

/// Starts logging by `filter`, once per process, coloured as [`is_coloured`] has it.
///
/// A line that cannot be written, say to a full disk, is lost, and the process goes on.
///
/// # Errors
/// Where the filter is malformed, or logging was started before.
pub fn start(filter: &str) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(parse(filter)?)
        .with_writer(io::stderr)
        .with_ansi(is_coloured())
        // They are printed to standard error too, which panics where that is what cannot be written to.
        .log_internal_errors(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}

fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    // Of two directives for one target the later holds, and a target that is named beats a level for all.
    EnvFilter::builder()
        .parse(format!("{QUIET},{filter}"))
        .with_context(|| format!("{filter:?} is no filter: expected a level, or target=level, in a comma list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        let debug = parse("debug").unwrap().to_string();
        assert!(
            debug.contains("consulrs=off") && debug.contains("rustify=off") && debug.contains("debug"),
            "{debug}"
        );
        let named = parse("info,consulrs=trace").unwrap().to_string();
        assert!(
            named.contains("consulrs=trace") && !named.contains("consulrs=off"),
            "{named}"
        );
    }

    #[test]
    fn a_malformed_filter_is_refused_by_name() {
        assert_eq!(check_filter("warn,svc::roles=debug").unwrap(), "warn,svc::roles=debug");
        let error = check_filter("svc=loud").unwrap_err().to_string();
        assert!(error.contains("svc=loud"), "{error}");
    }
}
