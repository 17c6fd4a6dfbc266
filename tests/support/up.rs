//! `svc up` processes: what they say runs where, and the processes themselves.
//!
//! Everything here blocks: inside a runtime, call it through `spawn_blocking` or `block_in_place`.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::process::Svc;
use super::wait;

/// Ports that the system chooses.
pub(crate) const FREE_PORTS: [&str; 6] = ["--facade-port", "0", "--logging-port", "0", "--messages-port", "0"];

/// The last line of what stands on standard output once all are healthy.
const LAST_LINE: &str = "Ctrl-C here stops all of it.";

/// Longer than a start takes on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Variables that would break each instance, were they told.
const MISLEADING: [(&str, &str); 7] = [
    ("PORT", "1"),
    ("SVC_ADVERTISE", "nowhere.invalid"),
    ("HZ_NETWORK_PUBLICADDRESS", "127.0.0.1:1"),
    ("HZ_LOGGING_MEMBERS", "127.0.0.1:1"),
    ("HZ_MQ_MEMBERS", "127.0.0.1:1"),
    ("CONSUL_HOST", "nowhere.invalid"),
    ("CONSUL_PORT", "1"),
];

/// A system that is healthy. Killed with this value, and its instances end with it.
pub(crate) struct Up {
    pub(crate) svc: Svc,
    pub(crate) instances: Vec<Instance>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
}

impl Up {
    /// Starts `svc up` with these arguments, and waits until all is healthy.
    ///
    /// # Panics
    /// With all output, if that does not come in time.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let arguments = [&["up"], arguments].concat();
        Self::ready(Svc::start(&arguments, &MISLEADING))
    }

    /// Waits until all is healthy.
    pub(crate) fn ready(svc: Svc) -> Self {
        svc.wait_for_line(LAST_LINE, START_DEADLINE);
        let instances = svc.output().lines().filter_map(row).collect();
        Self { svc, instances }
    }

    /// The instance of this name.
    pub(crate) fn instance(&self, name: &str) -> &Instance {
        let found = self.instances.iter().find(|instance| instance.name == name);
        found.unwrap_or_else(|| self.svc.fail(&format!("no {name} in the table")))
    }

    /// Waits until all processes of the table are gone.
    ///
    /// # Panics
    /// With all output, if one is not within `deadline`.
    pub(crate) fn wait_gone(&self, deadline: Duration) {
        for instance in &self.instances {
            if !wait::until_true(deadline, || is_gone(instance.pid)) {
                self.svc
                    .fail(&format!("{} still runs after {deadline:?}", instance.name));
            }
        }
    }
}

/// `out: logging-1   http://127.0.0.1:8101   123`.
fn row(line: &str) -> Option<Instance> {
    let cells: Vec<&str> = line.strip_prefix("out: ")?.split_whitespace().collect();
    let [name, url, pid] = cells.as_slice() else {
        return None;
    };
    Some(Instance {
        name: (*name).to_owned(),
        address: url.strip_prefix("http://")?.parse().ok()?,
        pid: pid.parse().ok()?,
    })
}

impl Instance {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap();
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{signal:?} to {}: {error}", self.name));
    }
}

/// Whether no such process runs. One that has ended and was not waited for counts as gone.
pub(crate) fn is_gone(pid: u32) -> bool {
    match state_and_parent(pid) {
        Some((state, _)) => state == "Z",
        None => true,
    }
}

/// Whether the process is stopped, as SIGSTOP does.
pub(crate) fn is_stopped(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state == "T")
}

/// The parent of a process that runs.
pub(crate) fn parent(pid: u32) -> u32 {
    let (_, parent) = state_and_parent(pid).expect("it runs");
    parent
}

fn state_and_parent(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
