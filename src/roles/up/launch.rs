//! [`Launch`]: the commands of the children, and how a person would type them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;
use tokio::process::Command;

use super::plan::{Instance, Role};
use crate::cli::{UpEngines, UpOptions, variables};
use crate::config::READY_KEY;
use crate::telemetry;

/// How many arenas glibc's allocator has; other allocators do not know it. By default each thread gets one of its own and
/// keeps what it held under load, which adds up in many processes on one machine.
const ARENAS: &str = "MALLOC_ARENA_MAX";

/// What all commands share.
pub(super) struct Launch {
    program: PathBuf,
    engines: UpEngines,
    /// What all instances bind.
    host: String,
    ready_key: String,
    /// What only children are told: that they have a parent, how long to wait, what to log.
    for_children: Vec<OsString>,
    is_coloured: bool,
    /// Variables that would tell them something else.
    kept_back: BTreeSet<OsString>,
}

impl Launch {
    /// The commands for these options; children log by the filter `log`.
    ///
    /// # Errors
    /// Where this executable is not known.
    pub(super) fn new(options: &UpOptions, engines: UpEngines, log: &str, is_coloured: bool) -> anyhow::Result<Self> {
        let wait = format!("{}ms", options.start.wait.as_millis());
        let for_children = ["--with-parent", "--wait", &wait, "--log", log];
        Ok(Self {
            program: std::env::current_exe().context("where this executable is, is not known")?,
            engines,
            host: options.host.clone(),
            ready_key: options.start.ready_key.clone(),
            for_children: for_children.map(OsString::from).into(),
            is_coloured,
            kept_back: variables(),
        })
    }

    pub(super) fn engines(&self) -> &UpEngines {
        &self.engines
    }

    /// The host by which instances are asked from here.
    pub(super) fn host(&self) -> String {
        self.loopback().unwrap_or_else(|| self.host.clone())
    }

    /// The URL of an instance.
    pub(super) fn url(&self, instance: &Instance) -> String {
        let host = self.host();
        if host.contains(':') {
            format!("http://[{host}]:{}", instance.port)
        } else {
            format!("http://{host}:{}", instance.port)
        }
    }

    /// Starts an instance.
    pub(super) fn instance(&self, instance: &Instance) -> Command {
        self.command(instance.role.command(), &self.of_instance(instance.role, instance.port))
    }

    /// Writes the settings.
    pub(super) fn settings(&self) -> Command {
        const POPULATE: &str = "populate-kv";
        self.command(POPULATE, &self.of_ready_key(self.engines.arguments(POPULATE)))
    }

    /// How a person starts an instance.
    pub(super) fn typed_instance(&self, role: Role, port: u16) -> String {
        self.typed(role.command(), &self.of_instance(role, port))
    }

    /// How a person asks for the registry.
    pub(super) fn typed_status(&self) -> String {
        self.typed("status", &self.engines.arguments("status"))
    }

    fn of_instance(&self, role: Role, port: u16) -> Vec<OsString> {
        let mut arguments = self.of_ready_key(self.engines.arguments(role.command()));
        arguments.extend(["--port".into(), port.to_string().into()]);
        if self.host != "127.0.0.1" {
            arguments.extend(["--host".into(), OsString::from(&self.host)]);
        }
        // All are on this machine, whose name may be known to nobody. Consul may be elsewhere.
        if let (UpEngines::Folder(_), Some(loopback)) = (&self.engines, self.loopback()) {
            arguments.extend(["--advertise".into(), loopback.into()]);
        }
        arguments
    }

    fn of_ready_key(&self, mut arguments: Vec<OsString>) -> Vec<OsString> {
        if self.ready_key != READY_KEY {
            arguments.extend(["--ready-key".into(), OsString::from(&self.ready_key)]);
        }
        arguments
    }

    /// Where all addresses are bound, the one that is this machine itself.
    fn loopback(&self) -> Option<String> {
        let bound: IpAddr = self.host.parse().ok()?;
        let loopback = if bound.is_ipv4() { "127.0.0.1" } else { "::1" };
        bound.is_unspecified().then(|| loopback.to_owned())
    }

    fn command(&self, name: &str, arguments: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(name).args(arguments).args(&self.for_children);
        for variable in &self.kept_back {
            command.env_remove(variable);
        }
        if self.is_coloured {
            command.env(telemetry::FORCE_COLOUR, "1");
        }
        if std::env::var_os(ARENAS).is_none() {
            command.env(ARENAS, "1");
        }
        command
            // Its end tells the child that we are gone.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A Ctrl-C in the terminal is for us: what it means for the instances is ours to say, once.
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    fn typed(&self, name: &str, arguments: &[OsString]) -> String {
        let mut words = vec![self.typed_program(), name.to_owned()];
        words.extend(arguments.iter().map(|argument| quoted(argument)));
        words.join(" ")
    }

    /// `svc` where that is this executable by the search path, else its whole path: it is for other terminals.
    fn typed_program(&self) -> String {
        let search = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&search)
            .map(|folder| folder.join("svc"))
            .find(|path| path.is_file());
        match found.and_then(|path| path.canonicalize().ok()) {
            Some(found) if self.program.canonicalize().is_ok_and(|program| program == found) => "svc".to_owned(),
            _ => quoted(self.program.as_os_str()),
        }
    }
}

/// The word as a shell reads it.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |c: char| c.is_alphanumeric() || "/.,:=@%+-_".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Commands on embedded engines in `/data`.
    pub(in super::super) fn launch(host: &str) -> Launch {
        Launch {
            program: PathBuf::from("/opt/a b/svc"),
            engines: UpEngines::Folder("/data".into()),
            host: host.to_owned(),
            ready_key: READY_KEY.to_owned(),
            for_children: vec!["--with-parent".into()],
            is_coloured: false,
            kept_back: variables(),
        }
    }

    fn instance() -> Instance {
        Instance {
            name: "logging-1".to_owned(),
            role: Role::Logging,
            port: 8101,
        }
    }

    fn arguments(command: &Command) -> Vec<&str> {
        command
            .as_std()
            .get_args()
            .map(|argument| argument.to_str().unwrap())
            .collect()
    }

    #[test]
    fn a_child_is_told_what_a_person_would_type_and_that_it_has_a_parent() {
        let launch = launch("127.0.0.1");
        let typed = launch.typed_instance(Role::Logging, 8101);
        assert_eq!(typed, "'/opt/a b/svc' logging --local /data --port 8101");
        let expected = ["logging", "--local", "/data", "--port", "8101", "--with-parent"];
        assert_eq!(arguments(&launch.instance(&instance())), expected);
        assert_eq!(
            arguments(&launch.settings()),
            ["populate-kv", "--local", "/data", "--with-parent"]
        );
    }

    #[test]
    fn variables_that_say_something_else_are_kept_back_and_the_token_is_not() {
        let command = launch("127.0.0.1").instance(&instance());
        let removed: Vec<_> = command
            .as_std()
            .get_envs()
            .filter(|(_, value)| value.is_none())
            .collect();
        let is_removed = |name: &str| removed.iter().any(|(variable, _)| *variable == name);
        assert!(
            ["PORT", "SVC_ADVERTISE", "CONSUL_HTTP_ADDR", "RUST_LOG"]
                .into_iter()
                .all(is_removed),
            "{removed:?}"
        );
        assert!(!is_removed("CONSUL_HTTP_TOKEN") && !is_removed("PATH"), "{removed:?}");
    }

    #[test]
    fn children_share_one_arena_among_their_threads() {
        let command = launch("127.0.0.1").instance(&instance());
        let given = command.as_std().get_envs().find(|(name, _)| *name == ARENAS);
        // What the environment says stands.
        let expected = std::env::var_os(ARENAS)
            .is_none()
            .then_some((OsStr::new(ARENAS), Some(OsStr::new("1"))));
        assert_eq!(given, expected);
    }

    #[test]
    fn colours_are_asked_of_children_only_where_there_are_some() {
        let asks = |is_coloured| {
            let launch = Launch {
                is_coloured,
                ..launch("127.0.0.1")
            };
            let command = launch.instance(&instance());
            command
                .as_std()
                .get_envs()
                .any(|(name, _)| name == telemetry::FORCE_COLOUR)
        };
        assert_eq!([asks(true), asks(false)], [true, false]);
    }

    #[test]
    fn where_all_addresses_are_bound_instances_are_called_by_the_one_of_this_machine() {
        let all = launch("0.0.0.0");
        assert_eq!(all.url(&instance()), "http://127.0.0.1:8101");
        assert!(
            all.typed_instance(Role::Facade, 1)
                .ends_with("--host 0.0.0.0 --advertise 127.0.0.1")
        );
        assert_eq!(launch("::").url(&instance()), "http://[::1]:8101");
        assert_eq!(launch("::1").url(&instance()), "http://[::1]:8101");
        assert_eq!(launch("localhost").url(&instance()), "http://localhost:8101");
        let servers = Launch {
            engines: UpEngines::Servers {
                consul: "http://consul:8500".to_owned(),
                logging: None,
                mq: None,
            },
            ..launch("0.0.0.0")
        };
        let typed = servers.typed_instance(Role::Facade, 1);
        assert!(
            typed.ends_with("--consul http://consul:8500 --port 1 --host 0.0.0.0"),
            "{typed}"
        );
    }

    #[test]
    fn words_are_quoted_as_a_shell_reads_them() {
        for (word, expected) in [
            ("/srv/svc-data", "/srv/svc-data"),
            ("http://a:1", "http://a:1"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(OsStr::new(word)), expected);
        }
    }
}
