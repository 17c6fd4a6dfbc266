//! Real Consul and Hazelcast for tests, through `scripts/engines.sh`.
//!
//! [`Engines::shared`] is for tests that leave the engines as they found them. A test that kills,
//! pauses or empties one takes its own with [`Engines::start`].
//!
//! Everything here blocks: inside a runtime, call it through `spawn_blocking`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{http, wait};

/// For a first start on a machine, which fetches Hazelcast and builds Consul.
const START_DEADLINE: Duration = Duration::from_secs(30 * 60);
/// For a process to be gone after SIGKILL, or all of them after a clean stop.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// For one question to an engine.
const ASK_DEADLINE: Duration = Duration::from_secs(2);

/// Which engines to start.
pub(crate) struct Options {
    /// Members of the cluster `logging`.
    pub(crate) logging: usize,
    /// Members of the cluster `mq`.
    pub(crate) mq: usize,
    /// Whether there is a Consul agent.
    pub(crate) consul: bool,
}

impl Default for Options {
    /// What the compose file has too: three, two, and Consul.
    fn default() -> Self {
        Self {
            logging: 3,
            mq: 2,
            consul: true,
        }
    }
}

/// Running engines on free ports, their state in a temporary folder. They end with this value, and
/// with the test process however that ends: the script stops them once its standard input closes.
pub(crate) struct Engines {
    pub(crate) logging: Cluster,
    pub(crate) mq: Cluster,
    consul: Option<Engine>,
    directory: PathBuf,
    script: Child,
    stdin: Option<ChildStdin>,
}

impl Engines {
    /// The engines that all tests of this binary share, started when first asked for.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Engines> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&Options::default()))
    }

    /// Engines of the test's own.
    ///
    /// # Panics
    /// With all that the script said, if they do not start.
    pub(crate) fn start(options: &Options) -> Self {
        Self::start_with(options, &[], &[])
    }

    /// The same, where the member of this name gives this to clients as its address.
    pub(crate) fn start_with_public_address(options: &Options, member: &str, address: &str) -> Self {
        Self::start_with_public_addresses(options, &[(member, address)])
    }

    /// The same for several members.
    pub(crate) fn start_with_public_addresses(options: &Options, addresses: &[(&str, &str)]) -> Self {
        let public = |(member, address): &(&str, &str)| ["--public-address".to_owned(), format!("{member}={address}")];
        let arguments: Vec<String> = addresses.iter().flat_map(public).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Self::start_with(options, &arguments, &[])
    }

    /// The same, each member with so large a heap, as Java's `-Xmx` takes it.
    pub(crate) fn start_with_heap(options: &Options, heap: &str) -> Self {
        Self::start_with(options, &[], &[("HZ_HEAP", heap)])
    }

    fn start_with(options: &Options, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let directory = std::env::temp_dir().join(format!("svc-engines-{}", uuid::Uuid::now_v7()));
        let mut command = script("run", &directory);
        command.arg("--free-ports");
        command.args(["--logging", &options.logging.to_string()]);
        command.args(["--mq", &options.mq.to_string()]);
        if !options.consul {
            command.arg("--no-consul");
        }
        let mut script = command
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bash runs scripts/engines.sh");
        let stdin = script.stdin.take();
        await_ready(&mut script);

        let environment = read_environment(&directory);
        Self {
            logging: Cluster::new("logging", &directory, &environment),
            mq: Cluster::new("mq", &directory, &environment),
            consul: options.consul.then(|| {
                let url = value(&environment, "CONSUL_HTTP_ADDR");
                let address = url.strip_prefix("http://").unwrap_or(url);
                Engine::new("consul", address, &directory)
            }),
            directory,
            script,
            stdin,
        }
    }

    /// The Consul agent.
    ///
    /// # Panics
    /// If these engines were started without one.
    pub(crate) fn consul(&self) -> &Engine {
        self.consul.as_ref().expect("these engines have a Consul agent")
    }

    /// Where the engines are, as the variables that `svc` reads: `CONSUL_HTTP_ADDR`,
    /// `HZ_LOGGING_MEMBERS`, `HZ_MQ_MEMBERS`.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        read_environment(&self.directory)
    }

    /// The folder of their configuration, data, logs and pid files.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let script = &mut self.script;
        if !wait::until_true(STOP_DEADLINE, || matches!(script.try_wait(), Ok(Some(_)))) {
            eprintln!("the engines in {} did not stop in time", self.directory.display());
        }
    }
}

/// The members of one Hazelcast cluster.
pub(crate) struct Cluster {
    /// `cluster-name`, as clients give it.
    pub(crate) name: &'static str,
    pub(crate) members: Vec<Engine>,
}

impl Cluster {
    fn new(name: &'static str, directory: &Path, environment: &[(String, String)]) -> Self {
        let key = format!("HZ_{}_MEMBERS", name.to_uppercase());
        let members = value(environment, &key)
            .split(',')
            .enumerate()
            .map(|(index, address)| Engine::new(&format!("{name}-{}", index + 1), address, directory))
            .collect();
        Self { name, members }
    }

    /// `host:port` of all members, with commas between: what `--hazelcast` takes.
    pub(crate) fn addresses(&self) -> String {
        let addresses: Vec<_> = self.members.iter().map(|member| member.address.to_string()).collect();
        addresses.join(",")
    }

    /// Waits until every member is up, in one cluster of full size, with all backups in place.
    ///
    /// # Panics
    /// If that does not come within `deadline`.
    pub(crate) fn wait_safe(&self, deadline: Duration) {
        let size = self.members.len();
        let safe = wait::until_true(deadline, || self.members.iter().all(|member| member.is_safe(size)));
        assert!(
            safe,
            "cluster {} was not safe with {size} members within {deadline:?}: {:?}",
            self.name,
            self.members
                .iter()
                .map(|member| (&member.name, member.health()))
                .collect::<Vec<_>>()
        );
    }
}

/// One process: a Hazelcast member or the Consul agent.
pub(crate) struct Engine {
    /// As `scripts/engines.sh` calls it: `consul`, `logging-1`, `mq-2`.
    pub(crate) name: String,
    /// For clients; of Consul the HTTP API. The same after a restart.
    pub(crate) address: SocketAddr,
    directory: PathBuf,
}

impl Engine {
    fn new(name: &str, address: &str, directory: &Path) -> Self {
        let address = address.parse().expect("engines.env holds socket addresses");
        Self {
            name: name.to_owned(),
            address,
            directory: directory.to_owned(),
        }
    }

    /// `http://host:port`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The process that runs, or `None` after [`kill`](Self::kill) or [`stop`](Self::stop).
    pub(crate) fn pid(&self) -> Option<Pid> {
        let file = self.directory.join("pids").join(format!("{}.pid", self.name));
        let pid: i32 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
        // A zombie has no arguments, and a process that got the pid later has others.
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&arguments)
            .contains(self.directory.to_str()?)
            .then_some(())?;
        Pid::from_raw(pid)
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
        assert!(
            wait::until_true(STOP_DEADLINE, || self.pid().is_none()),
            "{} is gone after SIGKILL",
            self.name
        );
    }

    /// SIGSTOP: it hangs, its connections stay open.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Brings it back at the same address; returns once it is ready and its cluster whole. Consul
    /// comes back with its data.
    pub(crate) fn start(&self) {
        self.script("start", &[]);
    }

    /// The same, Consul without its data. (A member never has any when it starts.)
    pub(crate) fn start_empty(&self) {
        self.script("start", &["--purge"]);
    }

    /// A clean stop: a member hands its data over to the others first.
    pub(crate) fn stop(&self) {
        self.script("stop", &[]);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.pid().unwrap_or_else(|| panic!("{} runs", self.name));
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{signal:?} to {}: {error}", self.name));
    }

    fn script(&self, command: &str, options: &[&str]) {
        let output = script(command, &self.directory)
            .arg(&self.name)
            .args(options)
            .stdin(Stdio::null())
            .output()
            .expect("bash runs scripts/engines.sh");
        assert!(
            output.status.success(),
            "engines.sh {command} {}: {}\n{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// What a member says about itself and its cluster; `None` where it does not answer.
    pub(crate) fn health(&self) -> Option<serde_json::Value> {
        let answer = http::get(self.address, "/hazelcast/health", ASK_DEADLINE).ok()?;
        serde_json::from_str(&answer.body).ok()
    }

    fn is_safe(&self, size: usize) -> bool {
        self.health().is_some_and(|health| {
            health["nodeState"] == "ACTIVE" && health["clusterSafe"] == true && health["clusterSize"] == size
        })
    }
}

/// A Python interpreter that has the reference client (`import hazelcast`).
///
/// # Panics
/// With all that the script said, if it cannot be had.
pub(crate) fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let output = Command::new(script_path())
            .arg("python")
            .stdin(Stdio::null())
            .output()
            .expect("bash runs scripts/engines.sh");
        assert!(
            output.status.success(),
            "engines.sh python: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        PathBuf::from(String::from_utf8(output.stdout).expect("a path in UTF-8").trim())
    })
}

/// `scripts/engines.sh COMMAND --dir DIRECTORY`, ready for more arguments.
pub(crate) fn script(command: &str, directory: &Path) -> Command {
    let mut script = Command::new(script_path());
    script.arg(command).arg("--dir").arg(directory);
    script
}

fn script_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/engines.sh")
}

/// Waits for the script's line `ready`.
fn await_ready(script: &mut Child) {
    let (sender, ready) = mpsc::sync_channel(1);
    let stdout = script.stdout.take().expect("stdout is piped");
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let _ = sender.send(read.is_ok() && line == "ready\n");
    });
    let mut stderr = script.stderr.take().expect("stderr is piped");
    let said = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    if ready.recv_timeout(START_DEADLINE) == Ok(true) {
        return;
    }
    // Without standard input the script ends, and with it the thread that listens to it.
    drop(script.stdin.take());
    let _ = script.wait();
    panic!("the engines did not start:\n{}", said.join().unwrap_or_default());
}

fn read_environment(directory: &Path) -> Vec<(String, String)> {
    let file = directory.join("engines.env");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn value<'a>(environment: &'a [(String, String)], key: &str) -> &'a str {
    environment
        .iter()
        .find_map(|(name, value)| (name == key).then_some(value.as_str()))
        .unwrap_or_else(|| panic!("engines.env has {key}"))
}
