//! The executable `svc`: reads the command line, starts logging, runs the role, tells how it ended.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use svc::cli::{Cli, Misuse, Role};
use svc::{roles, shutdown, telemetry};

fn main() -> ExitCode {
    match run(Cli::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            if error.is::<Misuse>() {
                Misuse::EXIT_CODE.into()
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    // What `up` has to say it says itself: its filter is that of its instances.
    let filter = match cli.role {
        Role::Up(_) => telemetry::DEFAULT_FILTER,
        _ => &cli.log,
    };
    telemetry::start(filter)?;
    let runtime = tokio::runtime::Runtime::new().context("the asynchronous runtime cannot be started")?;
    let outcome = runtime.block_on(take(cli));
    // A look-up of a host name may still be under way, and nobody waits for it.
    runtime.shutdown_background();
    outcome
}

/// Runs the role to its end. What serves or writes stops cleanly when it is asked to; what only asks ends at once.
async fn take(cli: Cli) -> anyhow::Result<()> {
    let with_parent = cli.role.with_parent();
    match cli.role {
        Role::Up(options) => roles::up::run(options, &cli.log).await,
        Role::Facade(options) => shutdown::run(with_parent, |stop| roles::facade::run(options, stop)).await,
        Role::Logging(options) => shutdown::run(with_parent, |stop| roles::logging::run(options, stop)).await,
        Role::Messages(options) => shutdown::run(with_parent, |stop| roles::messages::run(options, stop)).await,
        Role::PopulateKv(options) => shutdown::run(with_parent, |stop| roles::populate_kv::run(options, stop)).await,
        Role::Status(options) => roles::status::run(options).await,
        Role::Health(options) => roles::health::run(options).await,
    }
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
