//! The executable `svc`: reads the command line, starts logging, runs the role, tells how it ended.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use svc::cli::{Cli, Role};
use svc::{roles, shutdown, telemetry};

fn main() -> ExitCode {
    match run(Cli::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    telemetry::start(&cli.log)?;
    let runtime = tokio::runtime::Runtime::new().context("the asynchronous runtime cannot be started")?;
    let outcome = runtime.block_on(shutdown::run(|stop| async {
        match cli.role {
            Role::Facade(options) => roles::facade::run(options, stop).await,
            Role::Logging(options) => roles::logging::run(options, stop).await,
            Role::Messages(options) => roles::messages::run(options, stop).await,
            Role::PopulateKv(options) => roles::populate_kv::run(options, stop).await,
        }
    }));
    // A look-up of a host name may still be under way, and nobody waits for it.
    runtime.shutdown_background();
    outcome
}

/// What happened, and below it why and what to do: the last word of the process is for people, whatever the log filter says.
fn report(error: &anyhow::Error) {
    let mut text = format!("svc: {error}\n");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("  {cause}\n"));
    }
    // Where nobody can be told, the exit code still tells.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
