//! [`Child`]: one process, from its start to its end, with its log shown line by line.

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use tokio::process::{self, ChildStderr, ChildStdin, Command};
use tokio::time::timeout;

use super::lines::{LastWords, Lines, Prefix};
use super::output::Output;

/// How long a child may take to stop: a role needs 10 s at most.
const STOP_LIMIT: Duration = Duration::from_secs(12);

/// How much of its log is read at once.
const READ_BYTES: usize = 8 * 1024;

/// A process, which is killed where this is dropped before its end.
pub(super) struct Child {
    process: process::Child,
    pid: u32,
    /// As long as this is open, the child knows that we live.
    _parent: ChildStdin,
    log: ChildStderr,
    buffer: Vec<u8>,
    lines: Lines,
    words: LastWords,
    prefix: Prefix,
    output: Output,
}

/// How a child ended.
pub(super) struct End {
    pub(super) pid: u32,
    pub(super) status: ExitStatus,
    pub(super) words: LastWords,
}

impl Child {
    /// Starts a command of [`Launch`](super::launch::Launch), whose log is shown behind `name`.
    ///
    /// # Errors
    /// Where the system cannot start it.
    pub(super) fn start(mut command: Command, name: &str, output: &Output) -> anyhow::Result<Self> {
        let mut process = command
            .spawn()
            .with_context(|| format!("cannot run {}", command.as_std().get_program().display()))?;
        Ok(Self {
            pid: process.id().context("it has ended already")?,
            _parent: process.stdin.take().context("its standard input is no pipe")?,
            log: process.stderr.take().context("its standard error is no pipe")?,
            process,
            buffer: vec![0; READ_BYTES],
            lines: Lines::default(),
            words: LastWords::default(),
            prefix: output.prefix(name),
            output: output.clone(),
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its last words so far.
    pub(super) fn words(&self) -> &LastWords {
        &self.words
    }

    /// Shows its log until its end. Can be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// Where the system does not tell how it ended.
    pub(super) async fn run(&mut self) -> anyhow::Result<ExitStatus> {
        let Self {
            log,
            buffer,
            lines,
            words,
            prefix,
            output,
            ..
        } = self;
        while let Ok(length @ 1..) = log.read(buffer).await {
            let bytes = buffer.get(..length).unwrap_or_default();
            lines.push(bytes, |line| {
                words.add(&line);
                output.line(prefix, &line);
            });
        }
        lines.end(|line| {
            words.add(&line);
            output.line(prefix, &line);
        });
        // Only now: until it is waited for, its pid is its own, and can be signalled.
        self.process.wait().await.context("how it ended is not known")
    }

    /// Asks it to stop, and kills it where it does not. How it ended, and whether it had to be killed.
    ///
    /// # Errors
    /// Those of [`Child::run`].
    pub(super) async fn stop(&mut self) -> anyhow::Result<(ExitStatus, bool)> {
        self.ask();
        if let Ok(ended) = timeout(STOP_LIMIT, self.run()).await {
            return Ok((ended?, false));
        }
        self.process.start_kill().context("it cannot be killed")?;
        Ok((self.run().await?, true))
    }

    fn ask(&self) {
        let pid = self
            .process
            .id()
            .and_then(|pid| pid.try_into().ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It fails where the process has ended, which is what was asked for.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// What is left of it, once it has ended.
    pub(super) fn end(self, status: ExitStatus) -> End {
        End {
            pid: self.pid,
            status,
            words: self.words,
        }
    }
}
