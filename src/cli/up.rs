//! Options of `svc up`: how many instances of each role, where they listen, and which engines they use.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, Args, Command, CommandFactory};

use super::values::{parse_count, parse_host, parse_port};
use super::{Cli, ConsulEnvironment, LifeArgs, StartArgs, environment};
use crate::config;

/// Folder of the embedded engines where none is named.
const FOLDER: &str = "./svc-data";

/// Ids of the options that name the members of a cluster.
pub(super) const HAZELCAST_LOGGING: &str = "hazelcast-logging";
pub(super) const HAZELCAST_MQ: &str = "hazelcast-mq";

/// Variables that commands read beside those of their options, and that name an engine.
const CONSUL_ADDRESS: [&str; 3] = ["CONSUL_HTTP_ADDR", "CONSUL_HOST", "CONSUL_PORT"];

/// What `svc help up` says below the options.
pub(super) const HELP: &str = "\
Engines: the embedded ones, unless at least one of --consul, --hazelcast-logging
and --hazelcast-mq is given. Then all are servers. Of those not given, Consul is
that of CONSUL_HTTP_ADDR, else that of CONSUL_HOST and CONSUL_PORT, else
http://127.0.0.1:8500; members are those that the settings in Consul name.
Settings that are not there yet are written; those that are there are kept.

Output: once all are healthy, what runs where goes to standard output. All else
goes to standard error: the logs of the instances, each line behind the name of
its instance, and what happens to them, behind `up`. In colour where that is a
terminal or CLICOLOR_FORCE is set, and NO_COLOR is not. Lines are cut after 8 KiB,
and left out, which is said, while nobody reads them.

An instance that ends stays dead, unless --restart is given. All of them end with
`svc up`, however that ends. A stop takes up to 12 s; what still runs then is
killed.

Environment: the options decide what the instances are told, --log among them.
Variables that name engines, ports and hosts to a single role, such as PORT,
SVC_ADVERTISE, HZ_NETWORK_PUBLICADDRESS and those of populate-kv, mean nothing
here and are kept from the instances. CONSUL_HTTP_TOKEN, CONSUL_CACERT,
CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY reach them, as all others do.
A variable that is empty counts as not given.

Exit codes:
  0    stopped as asked, and all instances ended well
  1    it did not start, all instances have ended, or one had to be killed
  2    misuse
  130  a second SIGINT or SIGTERM: all instances were killed";

/// Options of `svc up`.
#[derive(Args, Debug)]
pub struct UpOptions {
    /// How many instances there are.
    #[command(flatten)]
    pub sizes: Sizes,

    /// Where they listen.
    #[command(flatten)]
    pub ports: PortBases,

    /// Address that all instances bind
    #[arg(long, env = "SVC_HOST", default_value = "127.0.0.1", value_parser = parse_host)]
    pub host: String,

    /// Start an instance that ended again, after a pause that grows while it keeps ending
    #[arg(long)]
    pub restart: bool,

    /// Folder of the embedded engines; it is made where it is missing, and what is in it is used again [default:
    /// ./svc-data, where no server is named]
    #[arg(long, env = "SVC_LOCAL", value_name = "DIR")]
    local: Option<PathBuf>,

    /// Use servers instead: Consul at this address, with or without http:// or https:// [default: the one
    /// that roles use, where another server is named]
    // By the command line only: a shell may have CONSUL_HTTP_ADDR for other work.
    #[arg(long, value_name = "ADDRESS")]
    consul: Option<String>,

    /// Use servers instead: members of the Hazelcast cluster that keeps the logs, comma list of host:port [default: the
    /// members that the settings name]
    #[arg(long = HAZELCAST_LOGGING, id = HAZELCAST_LOGGING, value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(value_parser = config::parse_member)]
    logging_members: Option<Vec<String>>,

    /// Use servers instead: members of the Hazelcast cluster that has the queue, comma list of host:port [default: the
    /// members that the settings name]
    #[arg(long = HAZELCAST_MQ, id = HAZELCAST_MQ, value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(value_parser = config::parse_member)]
    mq_members: Option<Vec<String>>,

    /// When to give up, and which key says that all is there.
    #[command(flatten)]
    pub start: StartArgs,

    /// How long it lives.
    #[command(flatten)]
    pub life: LifeArgs,
}

/// How many instances of each role there are.
#[derive(Args, Clone, Copy, Debug)]
pub struct Sizes {
    /// How many facades, 1 to 100
    #[arg(long, value_name = "N", default_value = "2", value_parser = parse_count)]
    pub facades: u16,

    /// How many logging instances, 1 to 100
    #[arg(long, value_name = "N", default_value = "3", value_parser = parse_count)]
    pub logging: u16,

    /// How many messages instances, 1 to 100
    #[arg(long, value_name = "N", default_value = "2", value_parser = parse_count)]
    pub messages: u16,
}

/// The port of the first instance of each role; the next one has the next port. 0 takes free ones.
#[derive(Args, Clone, Copy, Debug)]
pub struct PortBases {
    /// HTTP port of the first facade, the next has the next one; 0 takes free ones
    #[arg(long = "facade-port", id = "facade-port", value_name = "PORT", default_value = "8001", value_parser = parse_port)]
    pub facade: u16,

    /// HTTP port of the first logging instance, the next has the next one; 0 takes free ones
    #[arg(long = "logging-port", id = "logging-port", value_name = "PORT", default_value = "8101", value_parser = parse_port)]
    pub logging: u16,

    /// HTTP port of the first messages instance, the next has the next one; 0 takes free ones
    #[arg(long = "messages-port", id = "messages-port", value_name = "PORT", default_value = "8181", value_parser = parse_port)]
    pub messages: u16,
}

/// The engines of all instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpEngines {
    /// The embedded ones in this folder.
    Folder(PathBuf),
    /// Servers.
    Servers {
        /// Consul's address, with its scheme.
        consul: String,
        /// Comma list of the members that keep the logs; without it, those that the settings name.
        logging: Option<String>,
        /// The same of those that have the queue.
        mq: Option<String>,
    },
}

impl UpOptions {
    /// Which engines were named.
    ///
    /// # Errors
    /// [`Misuse`](super::Misuse) where the address of Consul is none.
    pub fn engines(&self) -> anyhow::Result<UpEngines> {
        let (logging, mq) = (&self.logging_members, &self.mq_members);
        if self.consul.is_none() && logging.is_none() && mq.is_none() {
            let folder = self.local.clone().unwrap_or_else(|| PathBuf::from(FOLDER));
            return Ok(UpEngines::Folder(folder));
        }
        let given = match &self.consul {
            Some(address) => Some(address.clone()),
            None => environment("CONSUL_HTTP_ADDR").map(|address| address.to_string_lossy().into_owned()),
        };
        Ok(UpEngines::Servers {
            consul: ConsulEnvironment::read().address(given.as_deref())?,
            logging: logging.as_ref().map(|members| members.join(",")),
            mq: mq.as_ref().map(|members| members.join(",")),
        })
    }
}

impl UpEngines {
    /// The options that name them to `command`, a role, populate-kv or status.
    pub fn arguments(&self, command: &str) -> Vec<OsString> {
        let (consul, logging, mq) = match self {
            Self::Folder(folder) => return vec!["--local".into(), folder.into()],
            Self::Servers { consul, logging, mq } => (consul, logging.as_ref(), mq.as_ref()),
        };
        let named: &[(&str, Option<&String>)] = match command {
            "logging" => &[("--hazelcast", logging)],
            "facade" | "messages" => &[("--hazelcast", mq)],
            "populate-kv" => &[("--hz-logging-members", logging), ("--hz-mq-members", mq)],
            _ => &[],
        };
        let mut arguments: Vec<OsString> = vec!["--consul".into(), consul.into()];
        for (option, members) in named {
            arguments.extend(members.iter().flat_map(|members| [(*option).into(), (*members).into()]));
        }
        arguments
    }

    /// What to call them: `embedded engines in /srv/svc-data`.
    pub fn describe(&self) -> String {
        let of = |members: &Option<String>| members.as_ref().map(|members| format!(" at {members}"));
        match self {
            Self::Folder(folder) => format!("embedded engines in {}", folder.display()),
            Self::Servers { consul, logging, mq } => {
                let by_settings = || " as its settings name them".to_owned();
                let (logging, mq) = (
                    of(logging).unwrap_or_else(by_settings),
                    of(mq).unwrap_or_else(by_settings),
                );
                format!("Consul at {consul}, Hazelcast members of logging{logging}, of mq{mq}")
            }
        }
    }
}

/// The variables by which a command could be told something else than its options say.
pub fn variables() -> BTreeSet<OsString> {
    let command = Cli::command();
    let commands = std::iter::once(&command).chain(command.get_subcommands());
    let of_options = commands.flat_map(Command::get_arguments).filter_map(Arg::get_env);
    of_options
        .map(OsString::from)
        .chain(CONSUL_ADDRESS.map(OsString::from))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Role;

    fn read(arguments: &[&str]) -> Result<UpOptions, String> {
        let arguments = ["svc", "up"].iter().chain(arguments).map(OsString::from);
        match Cli::read_from(arguments) {
            Ok(cli) => match cli.role {
                Role::Up(options) => Ok(options),
                _ => unreachable!("it is up that was named"),
            },
            Err(error) => Err(error.to_string()),
        }
    }

    fn strings(arguments: &[OsString]) -> Vec<&str> {
        arguments.iter().map(|argument| argument.to_str().unwrap()).collect()
    }

    #[test]
    fn without_options_it_is_2_3_2_on_the_embedded_engines() {
        let options = read(&[]).unwrap();
        let Sizes {
            facades,
            logging,
            messages,
        } = options.sizes;
        assert_eq!((facades, logging, messages), (2, 3, 2));
        let PortBases {
            facade,
            logging,
            messages,
        } = options.ports;
        assert_eq!((facade, logging, messages), (8001, 8101, 8181));
        assert_eq!(options.engines().unwrap(), UpEngines::Folder(FOLDER.into()));
        let arguments = options.engines().unwrap().arguments("facade");
        assert_eq!(strings(&arguments), ["--local", "./svc-data"]);
    }

    #[test]
    fn each_role_is_told_its_own_cluster_and_populate_kv_both() {
        let servers = [
            "--consul",
            "a:1",
            "--hazelcast-logging",
            "b:2,c:3",
            "--hazelcast-mq",
            "d:4",
        ];
        let engines = read(&servers).unwrap().engines().unwrap();
        let consul = ["--consul", "http://a:1"];
        for (command, own) in [
            ("logging", &["--hazelcast", "b:2,c:3"][..]),
            ("facade", &["--hazelcast", "d:4"]),
            ("messages", &["--hazelcast", "d:4"]),
            (
                "populate-kv",
                &["--hz-logging-members", "b:2,c:3", "--hz-mq-members", "d:4"],
            ),
            ("status", &[]),
        ] {
            assert_eq!(
                strings(&engines.arguments(command)),
                [&consul[..], own].concat(),
                "{command}"
            );
        }
        let said = engines.describe();
        assert!(
            said.contains("http://a:1") && said.contains("b:2,c:3") && said.contains("d:4"),
            "{said}"
        );
    }

    #[test]
    fn one_server_makes_all_of_them_servers() {
        let engines = read(&["--hazelcast-mq", "d:4"]).unwrap().engines().unwrap();
        assert!(
            matches!(
                &engines,
                UpEngines::Servers {
                    logging: None,
                    mq: Some(_),
                    ..
                }
            ),
            "{engines:?}"
        );
        assert!(
            engines.describe().contains("of logging as its settings name them"),
            "{}",
            engines.describe()
        );
        let arguments = engines.arguments("logging");
        assert_eq!(arguments.len(), 2, "{arguments:?}");
    }

    #[test]
    fn a_folder_and_a_server_are_misuse() {
        for server in [
            ["--consul", "a"],
            ["--hazelcast-logging", "a:1"],
            ["--hazelcast-mq", "a:1"],
        ] {
            let error = read(&["--local", "x", server[0], server[1]]).unwrap_err();
            assert!(error.contains(&format!("{} names a server", server[0])), "{error}");
        }
    }

    #[test]
    fn counts_are_1_to_100() {
        for bad in ["0", "101", "-1", "x", ""] {
            let error = read(&[&format!("--facades={bad}")]).unwrap_err();
            assert!(error.contains("1 to 100"), "{error}");
        }
        assert_eq!(read(&["--messages", "100"]).unwrap().sizes.messages, 100);
    }

    #[test]
    fn what_single_roles_read_is_known_by_name() {
        let variables = variables();
        for name in [
            "PORT",
            "SVC_HOST",
            "SVC_ADVERTISE",
            "SVC_LOCAL",
            "SVC_WAIT",
            "RUST_LOG",
            "CONSUL_HTTP_ADDR",
            "CONSUL_HOST",
            "CONSUL_PORT",
            "CONSUL_ESSENTIAL_KEY",
            "HZ_NETWORK_PUBLICADDRESS",
            "HZ_MQ_QUEUE_NAME",
        ] {
            assert!(variables.contains(&OsString::from(name)), "{name}");
        }
        assert!(
            !variables.contains(&OsString::from("CONSUL_HTTP_TOKEN")),
            "it reaches the instances"
        );
    }
}
