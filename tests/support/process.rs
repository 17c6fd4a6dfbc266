//! Real `svc` processes for tests.
//!
//! Everything here blocks: inside a runtime, call it through `spawn_blocking`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{http, wait};

/// For a role to say where it listens: it waits for its engines up to 60 s before it gives up.
const LISTEN_DEADLINE: Duration = Duration::from_secs(70);
/// For one question to `/health`.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// For a process to be gone after SIGKILL.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// For the rest of the output of a process that is gone.
const OUTPUT_DEADLINE: Duration = Duration::from_secs(10);

/// Variables of ours that a child gets; all others (`CONSUL_*`, `HZ_*`, `RUST_LOG`, …) would make
/// a test depend on who runs it.
const INHERITED: [&str; 4] = ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"];

/// A running `svc`, or another program beside it, its output collected. Killed with this value, and by the kernel when
/// the test process ends without dropping it.
pub(crate) struct Svc {
    name: String,
    child: Mutex<Child>,
    output: Arc<Output>,
    /// Whether a panic message holds the output already.
    reported: AtomicBool,
}

impl Svc {
    /// Starts `svc` with these arguments and, of the environment, only `envs` and what any program
    /// needs.
    ///
    /// # Panics
    /// If the process cannot be started.
    pub(crate) fn start(arguments: &[&str], envs: &[(&str, &str)]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_svc"));
        Self::start_program(format!("svc {}", arguments.join(" ")), program, arguments, envs)
    }

    /// The same for any program; `name` is what messages call it.
    ///
    /// # Panics
    /// If the process cannot be started.
    pub(crate) fn start_program(name: String, program: &Path, arguments: &[&str], envs: &[(&str, &str)]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).args(arguments);
        command
            .env_clear()
            .envs(INHERITED.iter().filter_map(|key| Some((key, std::env::var_os(key)?))));
        command.envs(envs.iter().copied());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());

        let mut child = spawn(command);
        let output = Arc::new(Output::default());
        collect(child.stdout.take().expect("stdout is piped"), "out", &output);
        collect(child.stderr.take().expect("stderr is piped"), "err", &output);
        Self {
            name,
            child: Mutex::new(child),
            output,
            reported: AtomicBool::new(false),
        }
    }

    /// The process id, also after it ended.
    pub(crate) fn pid(&self) -> u32 {
        self.child().id()
    }

    /// All lines so far, each with the stream it came from.
    pub(crate) fn output(&self) -> String {
        self.output.text()
    }

    /// The first line, on either stream, that contains `text`.
    ///
    /// # Panics
    /// With all output, if there is none within `deadline` or the process ends without one.
    pub(crate) fn wait_for_line(&self, text: &str, deadline: Duration) -> String {
        self.output
            .wait_for(deadline, |line| line.contains(text).then(|| line.to_owned()))
            .unwrap_or_else(|why| self.fail(&format!("no line with {text:?}: {why}")))
    }

    /// Where it listens, from the log line that says so.
    ///
    /// # Panics
    /// With all output, if it does not say so in the time that a role waits for its engines.
    pub(crate) fn address(&self) -> SocketAddr {
        self.output
            .wait_for(LISTEN_DEADLINE, |line| {
                line.contains("listening")
                    .then(|| field(line, "address")?.parse().ok())
                    .flatten()
            })
            .unwrap_or_else(|why| self.fail(&format!("no line that says listening, with an address: {why}")))
    }

    /// Waits until `GET /health` answers 200.
    ///
    /// # Panics
    /// With all output, if it does not within `deadline`.
    pub(crate) fn wait_healthy(&self, deadline: Duration) {
        let address = self.address();
        let mut last = String::from("never asked");
        let healthy = wait::until_true(deadline, || match http::get(address, "/health", ASK_DEADLINE) {
            Ok(answer) => {
                last = format!("{} {}", answer.status, answer.body);
                answer.status == 200
            }
            Err(error) => {
                last = error.to_string();
                false
            }
        });
        if !healthy {
            self.fail(&format!("not healthy within {deadline:?}, last answer: {last}"));
        }
    }

    /// Waits until `GET /health` answers 503 with this as what it waits for: its reason begins with it.
    ///
    /// # Panics
    /// With all output, if it does not within `deadline`.
    pub(crate) fn wait_waiting(&self, reason: &str, deadline: Duration) {
        let (address, reason) = (self.address(), format!("starting: waiting for {reason}"));
        let mut last = String::from("never asked");
        let waits = wait::until_true(deadline, || {
            let Ok(answer) = http::get(address, "/health", ASK_DEADLINE) else {
                return false;
            };
            last = format!("{} {}", answer.status, answer.body);
            let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
            let message = body["error"]["message"].as_str().unwrap_or_default();
            answer.status == 503 && message.starts_with(&reason)
        });
        if !waits {
            self.fail(&format!("not {reason:?} within {deadline:?}, last answer: {last}"));
        }
    }

    /// Sends a signal. Nothing happens if the process has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        let mut child = self.child();
        // Not yet waited for, so the pid is still its own, even if it is a zombie.
        if let Ok(None) = child.try_wait() {
            let pid = Pid::from_child(&child);
            kill_process(pid, signal).unwrap_or_else(|error| panic!("{signal:?} to {}: {error}", self.name));
        }
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait_exit(KILL_DEADLINE);
    }

    /// Whether the process has not ended yet.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// Waits for the process to end, and for the last of its output; how it ended.
    ///
    /// # Panics
    /// With all output, if it does not end within `deadline`.
    pub(crate) fn wait_exit(&self, deadline: Duration) -> ExitStatus {
        let status = wait::until(deadline, || {
            self.child().try_wait().expect("the child is ours to wait for")
        })
        .unwrap_or_else(|| self.fail(&format!("still runs after {deadline:?}")));
        if !wait::until_true(OUTPUT_DEADLINE, || self.output.state().ended == 2) {
            self.fail("its output does not end");
        }
        status
    }

    /// Panics with what the process said: the first thing one wants to see.
    pub(crate) fn fail(&self, what: &str) -> ! {
        let state = match self.child().try_wait() {
            Ok(Some(status)) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exited {code}"),
                (_, Some(signal)) => format!("ended by signal {signal}"),
                _ => status.to_string(),
            },
            _ => "running".to_owned(),
        };
        self.reported.store(true, Relaxed);
        panic!(
            "{} ({state}): {what}\n--- output ---\n{}--- end ---",
            self.name,
            self.output()
        );
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Svc {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
        if thread::panicking() && !self.reported.load(Relaxed) {
            eprintln!("--- output of {} ---\n{}--- end ---", self.name, self.output.text());
        }
    }
}

/// The value of `name=value` in a log line, where it has no spaces.
pub(crate) fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .map(|value| value.trim_matches('"'))
}

/// The arguments of all processes of this machine that have `text` in them.
pub(crate) fn processes_of(text: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    processes
        .map(|arguments| String::from_utf8_lossy(&arguments).replace('\0', " "))
        .filter(|arguments| arguments.contains(text))
        .collect()
}

/// Starts `command` on a thread that lives as long as the test process: the kernel sends the
/// parent-death signal when the *thread* that started a child ends.
fn spawn(command: Command) -> Child {
    type Request = (Command, mpsc::SyncSender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::SyncSender<Request>> = LazyLock::new(|| {
        let (sender, requests) = mpsc::sync_channel::<Request>(0);
        thread::spawn(move || {
            for (mut command, answer) in requests {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, child) = mpsc::sync_channel(1);
    SPAWNER
        .send((command, answer))
        .expect("the spawner lives as long as the process");
    child
        .recv()
        .expect("the spawner answers")
        .unwrap_or_else(|error| panic!("setpriv (package util-linux) could not be started: {error}"))
}

/// Lines of both streams, in the order in which they came.
#[derive(Default)]
struct Output {
    state: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: Vec<(&'static str, String)>,
    /// Streams that reached their end.
    ended: usize,
}

impl Output {
    fn state(&self) -> MutexGuard<'_, Lines> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        self.state()
            .lines
            .iter()
            .map(|(stream, line)| format!("{stream}: {line}\n"))
            .collect()
    }

    /// What `find` makes of the first line that it accepts, or why there is none.
    fn wait_for<T>(&self, deadline: Duration, mut find: impl FnMut(&str) -> Option<T>) -> Result<T, String> {
        let end = Instant::now() + deadline;
        let mut state = self.state();
        let mut seen = 0;
        loop {
            for (_, line) in &state.lines[seen..] {
                if let Some(found) = find(line) {
                    return Ok(found);
                }
            }
            seen = state.lines.len();
            if state.ended == 2 {
                return Err("its output ended".to_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("not within {deadline:?}"));
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Reads `stream` to its end on a thread of its own, so that the child never waits for a reader.
fn collect(stream: impl Read + Send + 'static, name: &'static str, output: &Arc<Output>) {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            output
                .state()
                .lines
                .push((name, String::from_utf8_lossy(&line).into_owned()));
            output.changed.notify_all();
        }
        output.state().ended += 1;
        output.changed.notify_all();
    });
}
