//! `load`: posts texts to facades without pause, and then looks for every one that was acknowledged in both lists.
//!
//! For scripts that kill parts of the system meanwhile: what failed is counted by facade, and by what the script did just
//! before. It knows the system by its HTTP only. `load --help` says what it counts.
//!
//! - [`options`]: the command line.
//! - [`clients`]: posts, until it is asked to stop; [`connection`]: the HTTP of one client.
//! - [`windows`]: which mark a post belongs to.
//! - [`texts`]: the texts of this run; [`record`]: what became of each.
//! - [`lists`]: reads an answer of `GET /messages`; [`verify`]: until nothing is missing.
//! - [`report`]: what all of it comes to.

mod clients;
mod connection;
mod lists;
mod options;
mod record;
mod report;
#[cfg(test)]
mod scripted;
mod texts;
mod verify;
mod windows;

use std::future::pending;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use svc::shutdown::{Asks, EXIT_INTERRUPTED};
use tokio::time::{Instant, sleep, sleep_until};

use self::clients::Clients;
use self::options::Options;
use self::record::Ledger;
use self::report::Report;
use self::texts::Texts;
use self::windows::Windows;

fn main() -> ExitCode {
    let options = Options::read();
    let outcome = tokio::runtime::Runtime::new()
        .context("the asynchronous runtime cannot be started")
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(&options));
            // Standard input may be read still, and nobody waits for it.
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Posts, verifies and reports. Returns whether every acknowledged text is in both lists, once.
async fn run(options: &Options) -> anyhow::Result<bool> {
    let mut asks = Asks::listen(false)?;
    let texts = Texts::new(options.text_bytes);
    say(&format!(
        "{} clients post texts of {} bytes that begin with {}",
        options.clients,
        options.text_bytes,
        texts.prefix()
    ));
    let mut windows = Windows::begin();
    let clients = Clients::start(options, &texts, &windows);
    post_until_the_end(options, &mut asks, &mut windows).await;

    let finish = async {
        let records = clients.stop().await?;
        windows.end();
        say("the load has ended");
        sleep(options.verify_after).await;
        let ledger = Arc::new(Ledger { texts, records });
        let verified = verify::verify(options, &ledger).await;
        verified.named.iter().for_each(|named| say(named));
        anyhow::Ok(Report::of(options, &windows, &ledger, verified))
    };
    let report = tokio::select! {
        report = finish => report?,
        // The load has ended already, so this asks for the end of the verification.
        _ = asks.next() => std::process::exit(EXIT_INTERRUPTED),
    };
    report
        .print(options, &mut io::stdout().lock())
        .context("the report cannot be written to standard output")?;
    Ok(report.all_is_well())
}

/// Waits until the load is to end, and begins a window with each mark.
async fn post_until_the_end(options: &Options, asks: &mut Asks, windows: &mut Windows) {
    let mut marks = options.stdin.then(windows::read_marks);
    let end = options.duration().map(|duration| Instant::now() + duration);
    loop {
        let mark = async {
            match &mut marks {
                Some(marks) => marks.recv().await,
                None => pending().await,
            }
        };
        let late = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = asks.next() => return,
            () = late => return,
            mark = mark => match mark {
                Some(name) => {
                    windows.mark(&name);
                    say(&format!("window {name:?} begins"));
                }
                None => return,
            },
        }
    }
}

/// A line for people: standard output is for the report.
fn say(text: &str) {
    // Where nobody can be told, the exit code still tells.
    let _ = writeln!(io::stderr().lock(), "load: {text}");
}
