//! `scripts/local.sh`: the whole system in a tmux window, as somebody has it who starts it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::command::{run, svc};
use crate::support::engines::script;
use crate::support::process::{field, processes_of};
use crate::support::wait;

/// For what the system does by itself, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

const INSTANCES: [&str; 7] = [
    "facade-1",
    "facade-2",
    "logging-1",
    "logging-2",
    "logging-3",
    "messages-1",
    "messages-2",
];

/// A pane of an instance.
#[derive(Debug)]
struct Pane {
    id: String,
    pid: u32,
    has_ended: bool,
    /// What stands in its border.
    label: String,
}

/// A folder for all of it, with a tmux server of its own. Everything that was started here ends with this value.
struct Window {
    folder: PathBuf,
    /// Name of the server's socket, and so in the arguments of its process.
    socket: String,
}

impl Window {
    fn new() -> Self {
        let socket = format!("svc-local-{}", uuid::Uuid::now_v7());
        let folder = std::env::temp_dir().join(&socket);
        fs::create_dir(&folder).unwrap();
        Self { folder, socket }
    }

    fn engines(&self) -> PathBuf {
        self.folder.join("engines")
    }

    /// A program in the environment of whoever works with this system.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
        command.env_remove("TMUX").env("TMUX_TMPDIR", &self.folder);
        command.envs([("SVC_TMUX_SOCKET", &*self.socket), ("SHELL", "/bin/sh")]);
        command.env("SVC_ENGINES_DIR", self.engines());
        command.env("SVC_BIN", env!("CARGO_BIN_EXE_svc"));
        command
    }

    fn local(&self, arguments: &[&str]) -> Output {
        self.command("scripts/local.sh").args(arguments).output().unwrap()
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        self.command("tmux")
            .args(["-L", &self.socket])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// What stands in a pane, and what has left it above, its lines whole.
    fn content(&self, pane: &str) -> String {
        text(&self.tmux(&["capture-pane", "-p", "-J", "-S", "-", "-t", pane]).stdout)
    }

    /// Panes of instances by name.
    fn panes(&self) -> BTreeMap<String, Pane> {
        // Not by tabs, which tmux shows as underscores where the locale is not UTF-8.
        let format = "#{@instance}|#{pane_id}|#{pane_pid}|#{pane_dead}|#{E:@label}";
        let listed = text(&self.tmux(&["list-panes", "-s", "-t", "=svc", "-F", format]).stdout);
        let panes = listed.lines().map(|line| line.split('|').collect::<Vec<_>>());
        panes
            .filter(|columns| !columns[0].is_empty())
            .map(|columns| {
                let pane = Pane {
                    id: columns[1].to_owned(),
                    pid: columns[2].parse().unwrap(),
                    has_ended: columns[3] == "1",
                    label: columns[4].to_owned(),
                };
                (columns[0].to_owned(), pane)
            })
            .collect()
    }

    /// How many instances of a service Consul passes.
    fn passing(&self, service: &str) -> usize {
        let status = run(&mut svc(&["status", "--json", "--consul", &self.consul()]));
        let rows: serde_json::Value = serde_json::from_str(&status.out).unwrap();
        let rows = rows.as_array().unwrap().iter();
        rows.filter(|row| row["service"] == service && row["health"] == "passing")
            .count()
    }

    /// How many instances the facade there knows of the services that it calls.
    fn known(&self, facade: &Pane) -> Vec<usize> {
        let port = facade.label.rsplit(':').next().unwrap();
        let mut curl = self.command("curl");
        let asked = curl
            .args(["--silent", &format!("http://127.0.0.1:{port}/health")])
            .output();
        let health: serde_json::Value = serde_json::from_slice(&asked.unwrap().stdout).unwrap();
        let known = |service: &str| health[service].as_array().map_or(0, Vec::len);
        vec![known("logging-service"), known("messages-service")]
    }

    fn consul(&self) -> String {
        let environment = fs::read_to_string(self.engines().join("engines.env")).unwrap();
        let address = environment
            .lines()
            .find_map(|line| line.strip_prefix("CONSUL_HTTP_ADDR="));
        address.unwrap().to_owned()
    }

    /// Does what a line of the guide says, as a shell does that is there.
    fn follow(&self, guide: &str, start: &str) -> String {
        let line = guide.lines().map(str::trim).find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no line starts with {start:?}: {guide}"));
        let output = self.command("bash").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // Cleanly, as far as that still works; then at once.
        self.local(&["down"]);
        self.tmux(&["kill-server"]);
        let _ = script("down", &self.engines()).arg("--purge").output();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads as the guide says, until both lists hold this text so often and nothing else.
fn read_until_there(window: &Window, guide: &str, text: &str, times: usize) {
    let mut last = String::new();
    let is_there = wait::until_true(DEADLINE, || {
        last = window.follow(guide, "curl http");
        let lists: Vec<Vec<String>> = serde_json::from_str(&last).unwrap_or_else(|_| panic!("no two lists: {last}"));
        lists == vec![vec![text; times]; 2]
    });
    assert!(is_there, "{last}");
}

#[test]
fn local_sh_shows_the_whole_system_in_one_window_of_panes_and_ends_all_of_it_cleanly() {
    let window = Window::new();
    let up = window.local(&["up", "--free-ports"]);
    let (guide, said) = (text(&up.stdout), text(&up.stderr));
    assert!(up.status.success(), "{guide}\n{said}");
    assert!(
        said.contains(&format!("to see it: tmux -L {} attach -t svc", window.socket)),
        "{said}"
    );
    for (service, count) in [("facade-service", 2), ("logging-service", 3), ("messages-service", 2)] {
        let all = wait::until_true(DEADLINE, || window.passing(service) == count);
        assert!(all, "Consul does not pass {count} of {service}");
    }

    // Each pane shows its instance, and its border which one it is and where it listens.
    let panes = window.panes();
    assert_eq!(panes.keys().collect::<Vec<_>>(), INSTANCES.iter().collect::<Vec<_>>());
    for (name, pane) in &panes {
        let content = window.content(&pane.id);
        let listening = content.lines().find(|line| line.contains("listening"));
        let address = listening.and_then(|line| field(line, "address")).unwrap_or_default();
        let port = address.rsplit(':').next().unwrap();
        assert!(
            !port.is_empty() && pane.label == format!("{name} :{port}"),
            "{pane:?}\n{content}"
        );
    }
    let shell = window.tmux(&["display-message", "-p", "-t", "=svc:", "#{pane_id} #{@label}"]);
    let shell = text(&shell.stdout);
    let (shell, label) = shell.trim().split_once(' ').unwrap();
    assert_eq!(label, "shell");
    let lines = || {
        window
            .content(shell)
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect::<Vec<_>>()
    };
    let shows_it = wait::until_true(DEADLINE, || {
        let lines = lines();
        guide.lines().all(|line| lines.iter().any(|shown| shown == line))
    });
    assert!(shows_it, "{:?}\n{guide}", lines());

    // A second one is refused, and the first goes on.
    let second = window.local(&["--free-ports"]);
    let refused = text(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{refused}");
    assert!(
        refused.contains("'svc' runs already") && refused.contains("scripts/local.sh down"),
        "{refused}"
    );

    // What the guide says to try holds.
    for facade in ["facade-1", "facade-2"] {
        let knows_all = wait::until_true(DEADLINE, || window.known(&panes[facade]) == [3, 2]);
        assert!(knows_all, "{facade} knows {:?}", window.known(&panes[facade]));
    }
    window.follow(&guide, "curl -X POST");
    read_until_there(&window, &guide, "hello", 1);
    window.follow(&guide, "kill -9");
    let killed = || window.panes().remove("logging-1").unwrap();
    assert!(wait::until_true(DEADLINE, || killed().has_ended), "{:?}", killed());
    let last_words = window.content(&killed().id);
    assert!(last_words.contains("listening"), "{last_words}");
    window.follow(&guide, "curl -X POST");
    read_until_there(&window, &guide, "hello", 2);
    window.follow(&guide, "tmux");
    let is_back = wait::until_true(DEADLINE, || window.passing("logging-service") == 3);
    assert!(is_back, "{}", window.content(&killed().id));
    // Where another process has taken the pane over, the port of the first one is not shown any more.
    assert_eq!(killed().label, "logging-1");

    let panes = window.panes();
    let down = window.local(&["down"]);
    let said = text(&down.stderr);
    assert!(down.status.success(), "{said}");
    for (name, pane) in &panes {
        assert!(said.contains(&format!("{name} has stopped\n")), "{name}: {said}");
        assert!(!Path::new(&format!("/proc/{}", pane.pid)).exists(), "{pane:?}");
    }
    assert!(!window.tmux(&["has-session", "-t", "=svc"]).status.success());
    // The server ends after its last session.
    let is_gone = wait::until_true(DEADLINE, || processes_of(&window.socket).is_empty());
    assert!(is_gone, "left behind: {:?}", processes_of(&window.socket));
    assert!(window.engines().join("data/consul").exists(), "Consul's data stays");
}
