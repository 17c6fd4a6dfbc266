//! `svc` commands that end by themselves, and what they say.
//!
//! Everything here blocks: inside a runtime, call it through `spawn_blocking` or `block_in_place`.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::wait;

/// Longer than any of them takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

/// `svc` with these arguments and an empty environment.
pub(crate) fn svc(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_svc"));
    command.env_clear().args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
///
/// # Panics
/// Where it does not end in time, or says something that is no text.
pub(crate) fn run(command: &mut Command) -> Ended {
    let mut child = command.spawn().unwrap();
    let status = wait::until(DEADLINE, || child.try_wait().unwrap());
    // It has ended, or is to end now: then its pipes end, too.
    let _ = child.kill();
    let read = |stream: Option<&mut dyn Read>| {
        let mut text = String::new();
        if let Some(stream) = stream {
            stream.read_to_string(&mut text).unwrap();
        }
        text
    };
    let out = read(child.stdout.as_mut().map(|stream| stream as &mut dyn Read));
    let err = read(child.stderr.as_mut().map(|stream| stream as &mut dyn Read));
    child.wait().unwrap();
    let status = status.unwrap_or_else(|| panic!("still runs after {DEADLINE:?}\n{out}\n{err}"));
    Ended {
        code: status.code(),
        out,
        err,
    }
}
