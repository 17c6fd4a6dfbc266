//! The command line: every option with its environment variable, its unit and its default.

mod health;
mod up;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::health::{Asked, HealthOptions};
pub use self::up::{PortBases, Sizes, UpEngines, UpOptions, variables};
pub use self::values::Url;
use self::values::{parse_advertised, parse_duration, parse_host, parse_key, parse_port};
use crate::config::{self, KEYS, Key};
use crate::engine::EngineOptions;
use crate::engine::consul::{self, ConsulOptions, Token};
use crate::telemetry;

/// Where a role listens that is not told otherwise.
pub const FACADE_PORT: u16 = 8000;
/// The same of a logging instance.
pub const LOGGING_PORT: u16 = 8100;
/// The same of a messages instance.
pub const MESSAGES_PORT: u16 = 8180;

/// By which variable a role is told its port.
const PORT_ENV: &str = "PORT";

/// What `--help` says of the variables that have no option.
const CONSUL_HELP: &str = "\
Environment variables for Consul that have no option:
  CONSUL_HOST, CONSUL_PORT   its address, where --consul and CONSUL_HTTP_ADDR are not given
  CONSUL_HTTP_TOKEN          the ACL token to use
  CONSUL_CACERT              PEM file with the authorities to trust instead of the public ones
  CONSUL_CLIENT_CERT         PEM file with the certificate to present
  CONSUL_CLIENT_KEY          PEM file with the private key of that certificate

An environment variable that is empty counts as not given.";

/// What `svc help` says below the commands.
const SYSTEM_HELP: &str = "\
`svc up` runs a whole system on this machine, with nothing to install: try that
first. A system on several machines needs Consul and two Hazelcast clusters. Run
populate-kv once, then as many of facade, logging and messages as you like, in
any order; status shows them. `svc help COMMAND` says more.

Exit codes:
  0    all went well
  1    it failed: standard error says what happened, and what to do
  2    misuse: an option or its value, or the environment variable for it
  130  a second SIGINT or SIGTERM ended it";

/// What `svc help status` says of its output.
const STATUS_HELP: &str = "\
With --json: an array, empty where nobody is registered, of one object per instance:
  service, instance   its service, and its id there
  address             host:port, or null where it has none that could be called
  health              passing, warning or critical
  reason              what the check says that does not pass, or null
  since               when it began to serve, RFC 3339 in UTC, or null
  version             of svc; null where it is of another origin

Exits 0 where the registry could be read, whatever is in it.";

/// A message system in one executable
#[derive(Debug, Parser)]
#[command(name = "svc", version, propagate_version = true, max_term_width = 120, after_help = SYSTEM_HELP)]
pub struct Cli {
    /// Which role to take.
    #[command(subcommand)]
    pub role: Role,

    /// What to log, to standard error: a level (error, warn, info, debug, trace) or `target=level`, in a comma list. The
    /// libraries consulrs, rustify, reqwest and hyper are quiet unless they are named. debug follows each message by its
    /// identifier
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER", default_value = telemetry::DEFAULT_FILTER)]
    #[arg(value_parser = telemetry::check_filter, display_order = 900)]
    pub log: String,
}

/// The roles.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Run the whole system on this machine: all instances, as child processes of this one
    ///
    /// Says where everything is once all of it is healthy, and what to try, and shows the instances' logs. Nothing has to be
    /// installed or started before: without other engines it uses the embedded ones. Stops everything on SIGINT (Ctrl-C) and
    /// SIGTERM.
    #[command(after_help = up::HELP)]
    Up(UpOptions),

    /// Run one facade: the public entrance, which takes messages and shows all of them
    ///
    /// Answers at once, with 503 until the settings and the mailbox are there. Stops cleanly on SIGINT and SIGTERM. Each
    /// step that a message takes is logged at the level debug, by its identifier.
    #[command(after_help = CONSUL_HELP, mut_arg("port", |port| by_default(port, FACADE_PORT)))]
    Facade(InstanceOptions),

    /// Run one logging instance: it keeps messages in the log that all instances share
    ///
    /// Answers at once, with 503 until the settings and the log are there. Stops cleanly on SIGINT and SIGTERM.
    #[command(after_help = CONSUL_HELP, mut_arg("port", |port| by_default(port, LOGGING_PORT)))]
    Logging(InstanceOptions),

    /// Run one messages instance: it delivers what waits in the mailbox, and shows what was delivered
    ///
    /// Answers at once, with 503 until the settings and the mailbox are there. Stops cleanly on SIGINT and SIGTERM.
    #[command(after_help = CONSUL_HELP, mut_arg("port", |port| by_default(port, MESSAGES_PORT)))]
    Messages(InstanceOptions),

    /// Write the shared settings into Consul's KV store, then exit
    ///
    /// Waits for Consul's leader, writes the keys, the ready key last, and exits 0. A key that exists is kept, and named
    /// where its value differs from what was asked for. Safe to run again at any time.
    #[command(after_help = CONSUL_HELP)]
    PopulateKv(PopulateKvOptions),

    /// Show who is registered in Consul, how they are, and since when they serve
    ///
    /// A table of all instances of facade-service, logging-service and messages-service, also those that nobody calls
    /// since a check fails, and those of another origin; what is not known of one is shown as -. Below it stands what a
    /// check says that does not pass.
    #[command(after_help = format!("{STATUS_HELP}\n\n{CONSUL_HELP}"))]
    Status(StatusOptions),

    /// Ask an instance once, and exit 0 where the answer is 200: the health check of a container
    ///
    /// Otherwise it exits 1 and says on one line what answered, or why nobody did.
    #[command(after_help = health::help())]
    Health(HealthOptions),
}

impl Role {
    /// Whether the process is to end with its parent.
    pub fn with_parent(&self) -> bool {
        match self {
            Self::Facade(options) | Self::Logging(options) | Self::Messages(options) => options.life.with_parent,
            Self::PopulateKv(options) => options.life.with_parent,
            Self::Up(options) => options.life.with_parent,
            Self::Status(_) | Self::Health(_) => false,
        }
    }
}

/// Options of `svc populate-kv`.
#[derive(Args, Debug)]
pub struct PopulateKvOptions {
    /// Where the settings are written.
    #[command(flatten)]
    pub engines: EngineArgs,

    /// When to give up, and which key says that all is there.
    #[command(flatten)]
    pub start: StartArgs,

    /// How long it lives.
    #[command(flatten)]
    pub life: LifeArgs,

    /// Replace the values of keys that exist
    #[arg(long)]
    pub overwrite: bool,

    /// What to write.
    #[command(flatten)]
    pub values: KeyValues,
}

/// Options of `svc status`.
#[derive(Args, Debug)]
pub struct StatusOptions {
    /// The registry.
    #[command(flatten)]
    pub engines: EngineArgs,

    /// How long to wait for Consul where it is not there: a number and ms, s, m or h; 0s tries once
    // Not by SVC_WAIT, which is for starts: whoever asks wants an answer now.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    pub wait: Duration,

    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// Options of the roles that serve: facade, logging and messages.
#[derive(Args, Debug)]
pub struct InstanceOptions {
    /// Where it listens.
    #[command(flatten)]
    pub listen: Listen,

    /// Where the settings are read, the instance is registered, and the other instances are found.
    #[command(flatten)]
    engines: EngineArgs,

    /// Members of the role's Hazelcast cluster, which keeps the logs for logging and has the queue for facade and
    /// messages: comma list of host:port [default: the members that the settings name]
    #[arg(
        long,
        env = "HZ_NETWORK_PUBLICADDRESS",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    #[arg(value_parser = config::parse_member)]
    pub hazelcast: Option<Vec<String>>,

    /// When to give up, and which key says that all is there.
    #[command(flatten)]
    pub start: StartArgs,

    /// How long it lives.
    #[command(flatten)]
    pub life: LifeArgs,
}

/// Where an instance listens, and what others call it by.
#[derive(Args, Clone, Debug)]
pub struct Listen {
    /// Address to bind
    #[arg(long, env = "SVC_HOST", default_value = "127.0.0.1", value_parser = parse_host)]
    pub host: String,

    /// HTTP port; 0 takes a free one and says which
    // Its default is the role's: see `Role`.
    #[arg(long, env = PORT_ENV, value_parser = parse_port)]
    pub port: u16,

    /// Host name or address that others call it by [default: the bound address, or the host's name where that is 0.0.0.0]
    // An IPv6 address is kept without brackets.
    #[arg(long, env = "SVC_ADVERTISE", value_name = "HOST", value_parser = parse_advertised)]
    pub advertise: Option<String>,
}

/// How a start waits for what is not there yet.
#[derive(Args, Debug)]
pub struct StartArgs {
    /// How long to wait for an engine that is not there: a number and ms, s, m or h; 0s tries once
    #[arg(long, env = "SVC_WAIT", value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub wait: Duration,

    /// The key that says that all other keys are there
    #[arg(long, env = config::READY_KEY_ENV, value_name = "KEY", default_value = config::READY_KEY)]
    #[arg(value_parser = parse_key)]
    pub ready_key: String,
}

/// How long a process lives.
#[derive(Args, Debug)]
pub struct LifeArgs {
    /// Stop, as by SIGTERM, also when standard input ends: for whoever starts it as a child, holds the other end of that
    /// pipe, and wants it to end with itself, however that ends
    #[arg(long)]
    pub with_parent: bool,
}

impl InstanceOptions {
    /// Where the engines are.
    ///
    /// # Errors
    /// [`Misuse`] as [`EngineArgs::options`].
    pub fn engines(&self) -> anyhow::Result<EngineOptions> {
        self.engines.options()
    }

    /// The members of the role's cluster, where they are given and there is a cluster.
    pub fn members(&self) -> Option<&[String]> {
        self.hazelcast.as_deref().filter(|_| self.engines.local.is_none())
    }
}

/// Which engines there are: the embedded ones, or Consul and what its settings name.
#[derive(Args, Debug)]
pub struct EngineArgs {
    /// Use the embedded engines in this folder instead of Consul and Hazelcast; all processes of this machine that name it
    /// share them
    // Beside it, `check_engines` refuses the options of servers.
    #[arg(long, env = "SVC_LOCAL", value_name = "DIR")]
    local: Option<PathBuf>,

    #[command(flatten)]
    consul: ConsulArgs,
}

impl EngineArgs {
    /// What was given, as the engines take it.
    ///
    /// # Errors
    /// [`Misuse`] where `--consul`, or `CONSUL_HOST` and `CONSUL_PORT`, make no address.
    pub fn options(&self) -> anyhow::Result<EngineOptions> {
        Ok(match &self.local {
            Some(folder) => EngineOptions::Folder(folder.clone()),
            None => EngineOptions::Servers(self.consul.options()?),
        })
    }
}

/// Where Consul is.
#[derive(Args, Debug)]
pub struct ConsulArgs {
    // Read by `options`, not here: where it is malformed, clap would show it with whatever secret is in it.
    #[arg(long, env = "CONSUL_HTTP_ADDR", hide_env_values = true, value_name = "ADDRESS")]
    #[arg(help = "Consul's HTTP address, with or without http:// or https:// [default: http://127.0.0.1:8500]")]
    consul: Option<String>,
    #[arg(skip = ConsulEnvironment::read())]
    environment: ConsulEnvironment,
}

/// What is in the environment only: nobody should have a token on a command line.
#[derive(Debug)]
struct ConsulEnvironment {
    host: Option<OsString>,
    port: Option<OsString>,
    token: Option<Token>,
    ca_cert: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
}

impl ConsulEnvironment {
    fn read() -> Self {
        Self {
            host: environment("CONSUL_HOST"),
            port: environment("CONSUL_PORT"),
            token: environment("CONSUL_HTTP_TOKEN").map(|token| Token::new(token.to_string_lossy())),
            ca_cert: environment("CONSUL_CACERT").map(PathBuf::from),
            client_cert: environment("CONSUL_CLIENT_CERT").map(PathBuf::from),
            client_key: environment("CONSUL_CLIENT_KEY").map(PathBuf::from),
        }
    }

    /// The address of Consul: the one that was `given`, else the one that `CONSUL_HOST` and `CONSUL_PORT` make.
    fn address(&self, given: Option<&str>) -> anyhow::Result<String> {
        match given {
            Some(address) => consul::parse_address(address)
                .context(Misuse::new("--consul or CONSUL_HTTP_ADDR is no address of Consul")),
            None => address_of(self.host.as_ref(), self.port.as_ref())
                .context(Misuse::new("CONSUL_HOST and CONSUL_PORT make no address of Consul")),
        }
    }
}

impl ConsulArgs {
    /// What was given, as the engine takes it.
    ///
    /// # Errors
    /// [`Misuse`] where `--consul`, or `CONSUL_HOST` and `CONSUL_PORT`, make no address.
    pub fn options(&self) -> anyhow::Result<ConsulOptions> {
        let environment = &self.environment;
        Ok(ConsulOptions {
            address: environment.address(self.consul.as_deref())?,
            token: environment.token.clone(),
            ca_cert: environment.ca_cert.clone(),
            client_cert: environment.client_cert.clone(),
            client_key: environment.client_key.clone(),
        })
    }
}

/// The value that each key is to have, in the order of [`KEYS`].
#[derive(Clone, Debug)]
pub struct KeyValues(Vec<(Key, String)>);

impl KeyValues {
    /// Keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &str)> {
        self.0.iter().map(|(key, value)| (key, value.as_str()))
    }
}

// By hand, since the options come from the table of keys.
impl Args for KeyValues {
    fn augment_args(command: Command) -> Command {
        KEYS.iter()
            .fold(command.next_help_heading("Values of the keys"), |command, key| {
                command.arg(
                    Arg::new(key.name)
                        .long(key.option)
                        .env(key.env)
                        .default_value(key.default)
                        .value_name(if key.kind == config::Kind::Members {
                            "MEMBERS"
                        } else {
                            "NAME"
                        })
                        .help(format!("{} (key {})", key.meaning, key.name))
                        .value_parser(move |value: &str| key.check(value).map(|()| value.trim().to_owned())),
                )
            })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KeyValues {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |key: &Key| {
            matches
                .get_one::<String>(key.name)
                .cloned()
                .unwrap_or_else(|| key.default.to_owned())
        };
        Ok(Self(KEYS.iter().map(|key| (*key, value(key))).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Cli {
    /// Reads the process's command line and environment. Ends the process on `--help`, `--version` and misuse.
    pub fn read() -> Self {
        Self::read_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    fn read_from(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let command = without_empty_variables(Self::command());
        let matches = command
            .clone()
            .try_get_matches_from(&arguments)
            .map_err(|error| name_the_source(error, &command, &arguments))?;
        check_engines(command, &matches)?;
        Self::from_arg_matches(&matches)
    }
}

/// The command line or the environment cannot be used, which shows only after both were read. Its exit code is that of
/// any misuse: [`Misuse::EXIT_CODE`].
#[derive(Debug)]
pub struct Misuse(String);

impl Misuse {
    /// That of the parser, too.
    pub const EXIT_CODE: u8 = 2;

    /// Says what cannot be used.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misuse {}

/// Refuses servers on a command line that leads to a folder. The variables that name servers are left alone: a shell may
/// have them for other work.
fn check_engines(mut command: Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((_, matches)) = matches.subcommand() else {
        return Ok(());
    };
    let is_there = |name: &str| matches!(matches.try_contains_id(name), Ok(true));
    let is_typed = |name: &&str| is_there(name) && matches.value_source(name) == Some(ValueSource::CommandLine);
    let servers = ["consul", "hazelcast", up::HAZELCAST_LOGGING, up::HAZELCAST_MQ];
    match servers.iter().find(|name| is_typed(name)) {
        Some(server) if is_there("local") => {
            let from = match matches.value_source("local") {
                Some(ValueSource::EnvVariable) => "the environment variable SVC_LOCAL",
                _ => "--local",
            };
            let why = format!(
                "--{server} names a server, and {from} the embedded engines, which need none: give one of the two"
            );
            Err(command.error(ErrorKind::ArgumentConflict, why))
        }
        _ => Ok(()),
    }
}

/// Says of a value that cannot be used if it comes from the environment: the message names an option that nobody gave.
fn name_the_source(mut error: clap::Error, command: &Command, arguments: &[OsString]) -> clap::Error {
    if error.kind() != ErrorKind::ValueValidation {
        return error;
    }
    let shown = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(shown)) => shown.as_str(),
        _ => return error,
    };
    let Some(option) = shown.split(' ').next().and_then(|option| option.strip_prefix("--")) else {
        return error;
    };
    let is_given = arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy();
        let given = argument.split('=').next().and_then(|given| given.strip_prefix("--"));
        given == Some(option)
    });
    let commands = std::iter::once(command).chain(command.get_subcommands());
    let variable = commands
        .flat_map(Command::get_arguments)
        .find(|arg| arg.get_long() == Some(option) && arg.get_env().is_some())
        .and_then(Arg::get_env);
    if let (false, Some(variable)) = (is_given, variable) {
        let tip = format!("the value comes from the environment variable {}", variable.display());
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Takes the variables that are empty off the options: `FOO=` is how compose files say that `FOO` is not given.
fn without_empty_variables(command: Command) -> Command {
    let is_empty = |arg: &Arg| {
        arg.get_env()
            .and_then(std::env::var_os)
            .is_some_and(|value| value.is_empty())
    };
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(None) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// The option of a port, with this default.
fn by_default(option: Arg, port: u16) -> Arg {
    option.required(false).default_value(port.to_string())
}

/// The value of a variable that has no option.
fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The address of Consul by `CONSUL_HOST` and `CONSUL_PORT`.
fn address_of(host: Option<&OsString>, port: Option<&OsString>) -> anyhow::Result<String> {
    let host = host.map_or("127.0.0.1".into(), |host| host.to_string_lossy());
    let port = port.map_or("8500".into(), |port| port.to_string_lossy());
    consul::parse_address(&format!("http://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Role, String> {
        let arguments = ["svc"].iter().chain(arguments).map(OsString::from);
        Cli::read_from(arguments)
            .map(|cli| cli.role)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn verify_cli() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_address_of_consul_can_come_from_host_and_port() {
        let made = |host: Option<&str>, port: Option<&str>| {
            address_of(host.map(OsString::from).as_ref(), port.map(OsString::from).as_ref()).ok()
        };
        assert_eq!(made(None, None).as_deref(), Some("http://127.0.0.1:8500"));
        assert_eq!(made(Some("consul"), None).as_deref(), Some("http://consul:8500"));
        assert_eq!(made(None, Some("80")).as_deref(), Some("http://127.0.0.1:80"));
        assert_eq!(
            made(Some("consul"), Some("1234")).as_deref(),
            Some("http://consul:1234")
        );
        assert_eq!(made(None, Some("tcp://10.0.0.1:8500")), None);
    }

    #[test]
    fn each_role_has_its_port() {
        let port = |role| match read(&[role]).unwrap() {
            Role::Facade(options) => options.listen.port,
            Role::Logging(options) => options.listen.port,
            Role::Messages(options) => options.listen.port,
            Role::Up(_) | Role::PopulateKv(_) | Role::Status(_) | Role::Health(_) => {
                panic!("it listens nowhere itself")
            }
        };
        assert_eq!(["facade", "logging", "messages"].map(port), [8000, 8100, 8180]);
    }

    #[test]
    fn hazelcast_takes_a_comma_list_of_members() {
        let Ok(Role::Logging(options)) = read(&["logging", "--hazelcast", "a:1, [::1]:2", "--port", "0"]) else {
            panic!("these are options of logging");
        };
        assert_eq!(options.hazelcast, Some(vec!["a:1".to_owned(), "[::1]:2".to_owned()]));
        assert_eq!(
            (options.listen.host.as_str(), options.listen.port, options.start.wait),
            ("127.0.0.1", 0, Duration::from_secs(60))
        );
        let error = read(&["logging", "--hazelcast", "a:1,b"]).unwrap_err();
        assert!(error.contains("\"b\" is no member"), "{error}");
    }

    #[test]
    fn values_of_keys_are_checked_before_anything_is_done() {
        let Ok(Role::PopulateKv(options)) = read(&["populate-kv", "--hz-mq-members", "a:1,b:2", "--overwrite"]) else {
            panic!("these are options of populate-kv");
        };
        assert!(options.overwrite);
        let values: Vec<_> = options
            .values
            .iter()
            .map(|(key, value)| (key.name, value.to_owned()))
            .collect();
        assert_eq!(values.len(), KEYS.len());
        assert!(values.contains(&("hz_mq_members", "a:1,b:2".to_owned())), "{values:?}");
        for bad in [
            ["--hz-mq-members", "a"],
            ["--hz-mq-queue-name", " "],
            ["--ready-key", "a b"],
            ["--wait", "60"],
        ] {
            let error = read(&["populate-kv", bad[0], bad[1]]).unwrap_err();
            assert!(error.contains(bad[0]), "{error}");
        }
    }
}
