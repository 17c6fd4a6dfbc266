//! `bench`: what scripts/bench.sh needs a client of the clusters for.
//!
//! - [`measure`]: what the Hazelcast client of this crate does alone.
//! - [`lists`]: fills and empties the lists, and waits until nothing is left in the queue.

mod lists;
mod measure;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use svc::config;
use svc::hazelcast::{Client, Config};

use self::measure::{Measured, Operation};

/// How long the clusters are waited for, and one operation that may concern a million entries.
const PATIENCE: Duration = Duration::from_secs(60);

const HELP: &str = "\
measure prints a line of JSON for each operation, in their order, times in microseconds:

  {operation, threads, operations, refused, seconds, per_second, p50_us, p99_us,
   max_us, cpu_seconds}

  threads      how many tasks there are
  refused      offers for which there was no room
  cpu_seconds  of this process, user and system

On standard error a line \"measuring OPERATION TASKS\" when the time begins that counts,
and \"measured OPERATION TASKS\" when it is over. benches/floor/Floor.java does the same
with the official Java client.";

/// What scripts/bench.sh needs a client of the clusters for
#[derive(Debug, Parser)]
#[command(name = "bench", max_term_width = 100, after_long_help = HELP)]
struct Options {
    /// Members of the cluster of the logs, host:port with commas
    #[arg(
        long,
        env = "HZ_LOGGING_MEMBERS",
        value_delimiter = ',',
        value_name = "MEMBERS",
        required = true
    )]
    logging: Vec<String>,

    /// Members of the cluster of the queue
    #[arg(
        long,
        env = "HZ_MQ_MEMBERS",
        value_delimiter = ',',
        value_name = "MEMBERS",
        required = true
    )]
    mq: Vec<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure operations of the client, from some tasks
    Measure {
        /// pair (a set, then an offer), set, get, offer; with commas
        #[arg(value_delimiter = ',', required = true)]
        operations: Vec<Operation>,
        /// How many tasks do the same
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        tasks: u32,
        /// For how long
        #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
        duration: Duration,
        /// For how long before that, without counting
        #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
        warm_up: Duration,
    },
    /// Add so many messages to both lists, as if they had been posted, 64 in a batch
    Fill {
        /// How many
        messages: usize,
    },
    /// Empty both lists and the queue. Nobody may be posting
    Clear,
    /// Wait until nothing is left in the queue
    Drained {
        /// For how long to wait
        #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
        within: Duration,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = tokio::runtime::Runtime::new()
        .context("the asynchronous runtime cannot be started")
        .and_then(|runtime| runtime.block_on(run(&options)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    match &options.command {
        Command::Measure {
            operations,
            tasks,
            duration,
            warm_up,
        } => {
            let logging = connect(config::HZ_LOGGING_CLUSTER_NAME, &options.logging, false).await?;
            let mq = connect(config::HZ_MQ_CLUSTER_NAME, &options.mq, false).await?;
            measure::measure(&logging, &mq, operations, *tasks, [*warm_up, *duration], print).await
        }
        Command::Fill { messages } => lists::fill(&options.logging, &options.mq, *messages).await,
        Command::Clear => {
            let logging = connect(config::HZ_LOGGING_CLUSTER_NAME, &options.logging, true).await?;
            let mq = connect(config::HZ_MQ_CLUSTER_NAME, &options.mq, true).await?;
            lists::clear(&logging, &mq).await
        }
        Command::Drained { within } => {
            let mq = connect(config::HZ_MQ_CLUSTER_NAME, &options.mq, true).await?;
            lists::drained(&mq, *within).await
        }
    }
}

/// A client of the cluster that this setting names where nobody names another one; `patient`, for operations that may take
/// long.
async fn connect(cluster: config::Key, members: &[String], patient: bool) -> anyhow::Result<Client> {
    let mut config = Config::new(cluster.default, members);
    config.client_name = "svc bench".into();
    // As the roles have it.
    config.redo_operations = true;
    if patient {
        config.invocation_timeout = PATIENCE;
    }
    Ok(Client::connect(config, PATIENCE).await?)
}

fn print(measured: &Measured) -> anyhow::Result<()> {
    let line = serde_json::to_string(measured)?;
    writeln!(io::stdout().lock(), "{line}").context("standard output cannot be written to")
}

/// A line for people, and for who waits for it.
fn say(text: &str) {
    // Where nobody can be told, the exit code still tells.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
