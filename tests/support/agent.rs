//! A Consul agent of a test's own, for tests that change what all instances share, or how the agent is set up.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::wait;

/// An agent with a leader within 30 s, or the test fails.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Where ports for agents are looked for.
const PORT_FIRST: u16 = 10_000;
const PORT_COUNT: u32 = 10_000;

/// What is below its folder.
const DATA: &str = "data";

/// A running agent and its folder. Both are gone after `drop`; the agent also where the test process is killed.
pub(crate) struct Agent {
    /// `127.0.0.1:port` of its HTTP interface; `https` on the same port where it was started with certificates.
    pub(crate) address: String,
    ports: Ports,
    child: Child,
    folder: Folder,
}

/// The ports that an agent will listen on.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    server: u16,
    serf: u16,
}

impl Ports {
    /// Ports that are free now, and stay so: they are below those that the kernel gives to outgoing connections, and below
    /// those that `scripts/engines.sh` takes. An agent may be started there later.
    pub(crate) fn free() -> Self {
        static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(fastrand::u32(..)));
        let free = || loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed) % PORT_COUNT;
            let port = PORT_FIRST + u16::try_from(number).unwrap();
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        };
        Self {
            http: free(),
            server: free(),
            serf: free(),
        }
    }
}

impl Agent {
    /// An agent that has a leader. Where another process took one of its ports in the meantime, it is tried with others.
    pub(crate) fn start() -> Self {
        Self::start_with(&json!({}))
    }

    /// The same, with more of Consul's configuration.
    pub(crate) fn start_with(more: &Value) -> Self {
        let mut tries = (0..3).filter_map(|_| {
            let agent = Self::spawn(&Ports::free(), more);
            agent.wait_for_leader().then_some(agent)
        });
        tries.next().expect("a Consul agent with a leader")
    }

    /// An agent on these ports, which may not be ready yet.
    pub(crate) fn spawn(ports: &Ports, more: &Value) -> Self {
        Self::spawn_in(Folder::new(), ports, more)
    }

    /// The same, with what is in this folder.
    fn spawn_in(folder: Folder, ports: &Ports, more: &Value) -> Self {
        let secure = more.get("tls").is_some();
        let mut config = json!({
            "server": true,
            "bootstrap_expect": 1,
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "data_dir": folder.path.join(DATA),
            "disable_update_check": true,
            "performance": { "raft_multiplier": 1 },
            "ports": {
                "http": if secure { -1 } else { i32::from(ports.http) },
                "https": if secure { i32::from(ports.http) } else { -1 },
                "server": ports.server,
                "serf_lan": ports.serf,
                "serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1,
            },
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        fs::write(folder.path.join("agent.json"), config.to_string()).unwrap();
        // The shell ends the agent when its standard input closes, so that a test process leaves nothing, however it ends.
        let script = r#""$0" agent -config-file "$1/agent.json" & agent=$!
            cat > /dev/null; kill -KILL $agent; wait $agent; rm -rf "$1""#;
        let log = fs::File::create(folder.path.join("agent.log")).unwrap();
        let child = Command::new("sh")
            .args(["-c", script])
            .arg(program())
            .arg(&folder.path)
            .stdin(Stdio::piped())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        Self {
            address: format!("127.0.0.1:{}", ports.http),
            ports: *ports,
            child,
            folder,
        }
    }

    /// Kills the agent.
    pub(crate) fn kill(self) -> Ports {
        self.ports
    }

    /// Kills the agent, and keeps what it had on its disk.
    pub(crate) fn kill_keeping_data(self) -> Killed {
        let (ports, folder) = (self.ports, Folder::new());
        // Before it is killed, since its folder goes with it. What it has open, it writes to the last.
        fs::rename(self.folder.path.join(DATA), folder.path.join(DATA)).unwrap();
        drop(self);
        Killed { ports, folder }
    }

    /// An agent that has a leader, on the ports of one that was killed, with nothing of what that knew.
    pub(crate) fn start_empty(ports: &Ports) -> Self {
        let agent = Self::spawn(ports, &json!({}));
        assert!(agent.wait_for_leader(), "the ports are free again");
        agent
    }

    /// What it answers to `GET /v1/<path>`.
    ///
    /// # Panics
    /// Where that is no success, and no JSON.
    pub(crate) fn get(&self, path: &str) -> Value {
        let answer = self.ask(&[], path).unwrap_or_else(|| panic!("no success: {path}"));
        serde_json::from_slice(&answer).unwrap()
    }

    /// `PUT /v1/<path>`.
    ///
    /// # Panics
    /// Where the answer is no success.
    pub(crate) fn send(&self, path: &str, body: &Value) {
        let body = body.to_string();
        let sent = self.ask(&["-X", "PUT", "--data-binary", &body], path);
        assert!(sent.is_some(), "no success: {path}");
    }

    /// The ids of the passing instances of a service, in order.
    pub(crate) fn passing(&self, service: &str) -> Vec<String> {
        let entries = self.get(&format!("health/service/{service}?passing"));
        let entries = entries.as_array().unwrap().iter();
        let mut ids: Vec<String> = entries
            .map(|entry| entry["Service"]["ID"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    }

    /// Waits for the leader; `false` where the agent gave up, say because a port is taken.
    fn wait_for_leader(&self) -> bool {
        let log = || fs::read_to_string(self.folder.path.join("agent.log")).unwrap();
        let outcome = wait::until(READY_WITHIN, || {
            let log = log();
            let leads = log.contains("cluster leadership acquired") && log.contains("New leader elected");
            let gave_up = log.contains("Error starting agent") || log.contains("address already in use");
            (leads || gave_up).then_some(leads)
        });
        outcome.unwrap_or_else(|| panic!("no leader within {READY_WITHIN:?}: {}", log()))
    }

    /// The entry of `key`, as Consul has it.
    pub(crate) fn entry(&self, key: &str) -> Option<Value> {
        let entries: Vec<Value> = serde_json::from_slice(&self.curl(&[], key)?).unwrap();
        entries.into_iter().next()
    }

    /// The value of `key`.
    pub(crate) fn value(&self, key: &str) -> Option<String> {
        Some(String::from_utf8(self.curl(&[], &format!("{key}?raw"))?).unwrap())
    }

    /// Writes `key`, as somebody else would.
    pub(crate) fn put(&self, key: &str, value: &[u8]) {
        // Of its own: several tests may write at once.
        let file = self.folder.path.join(format!("value-{}", uuid::Uuid::new_v4()));
        fs::write(&file, value).unwrap();
        let written = self.curl(&["-X", "PUT", "--data-binary", &format!("@{}", file.display())], key);
        assert_eq!(written.as_deref(), Some(b"true".as_slice()));
    }

    /// Deletes `key`, as somebody else would.
    pub(crate) fn delete(&self, key: &str) {
        let deleted = self.curl(&["-X", "DELETE"], key);
        assert_eq!(deleted.as_deref(), Some(b"true".as_slice()));
    }

    fn curl(&self, options: &[&str], key: &str) -> Option<Vec<u8>> {
        self.ask(options, &format!("kv/{key}"))
    }

    /// Asks by a program that is not under test. `None` where the answer is no success.
    fn ask(&self, options: &[&str], path: &str) -> Option<Vec<u8>> {
        let url = format!("http://{}/v1/{path}", self.address);
        let output = Command::new("curl")
            .args(["-sf", "--noproxy", "*"])
            .args(options)
            .arg(url)
            .output()
            .unwrap();
        output.status.success().then_some(output.stdout)
    }
}

/// What is left of an agent that was killed.
pub(crate) struct Killed {
    ports: Ports,
    folder: Folder,
}

impl Killed {
    /// The agent again, which has a leader.
    pub(crate) fn start(self) -> Agent {
        let agent = Agent::spawn_in(self.folder, &self.ports, &json!({}));
        assert!(agent.wait_for_leader(), "the ports are free again");
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A temporary folder.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
}

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("svc-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self { path }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The Consul executable: that on the PATH, else that which `scripts/engines.sh` built.
pub(crate) fn program() -> PathBuf {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let cache = |name: &str, below: &str| std::env::var_os(name).map(|folder: OsString| Path::new(&folder).join(below));
    let cache = cache("SVC_CACHE_DIR", "")
        .or_else(|| cache("XDG_CACHE_HOME", "svc"))
        .or_else(|| cache("HOME", ".cache/svc"))
        .unwrap_or_default();
    let built = fs::read_dir(&cache)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    std::env::split_paths(&on_path)
        .chain(built)
        .map(|folder| folder.join("consul"))
        .find(|program| program.is_file())
        .unwrap_or_else(|| {
            panic!(
                "no consul on the PATH or in {}: run scripts/engines.sh fetch",
                cache.display()
            )
        })
}
