//! What `svc` says of itself: help, misuse, and that the README says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::command::{Ended, run, svc};

const ROLES: [&str; 3] = ["facade", "logging", "messages"];

/// The subcommands, in the order of the help.
const COMMANDS: [&str; 7] = ["up", "facade", "logging", "messages", "populate-kv", "status", "health"];

/// What stands in the README where there is nothing.
const NONE: &str = "–";

/// Of one command, what is said of each long option: its environment variable and its default.
type Options = BTreeMap<String, Said>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    env: Option<String>,
    default: Option<String>,
}

/// The long help of a command.
fn help(command: &str) -> String {
    let Ended { code, out, err } = run(&mut svc(&["help", command]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    out
}

/// What comes after `start` and before the next bracket that closes.
fn bracketed<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split(']').next()
}

/// The long options in a help text, but for --help and --version, which are those of every command.
fn options_of(help: &str) -> Options {
    let mut options: BTreeMap<String, String> = BTreeMap::new();
    let mut current = None;
    for line in help.lines() {
        let text = line.trim();
        let indent = line.len() - line.trim_start().len();
        if indent == 0 && !text.is_empty() {
            current = None;
        } else if indent <= 6 && text.starts_with('-') {
            let name = text.split([' ', ',']).find(|word| word.starts_with("--"));
            current = name.or_else(|| text.split(", ").nth(1)).map(str::to_owned);
        }
        if let Some(name) = &current {
            let said = options.entry(name.clone()).or_default();
            said.push(' ');
            said.push_str(text);
        }
    }
    options.retain(|name, _| !["--help", "--version"].contains(&name.as_str()));
    let said = |text: String| Said {
        env: bracketed(&text, "[env: ").map(|env| env.trim_end_matches('=').to_owned()),
        default: bracketed(&text, "[default: ").map(str::to_owned),
    };
    options.into_iter().map(|(name, text)| (name, said(text))).collect()
}

/// The rows of the README's table below this head, without backquotes around a whole cell.
fn table(head: &str) -> Vec<Vec<String>> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let rows: Vec<Vec<String>> = readme
        .lines()
        .skip_while(|line| *line != head)
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            line.trim_matches('|')
                .split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect();
    assert!(!rows.is_empty(), "no table in the README has the head {head}");
    rows
}

/// The first text in backquotes, or the cell as it is; `None` where the cell says that there is nothing.
fn value(cell: &str) -> Option<String> {
    (cell != NONE).then(|| cell.split('`').nth(1).unwrap_or(cell).to_owned())
}

/// What the README says of the options of each command.
fn documented() -> BTreeMap<String, Options> {
    let mut commands: BTreeMap<String, Options> = BTreeMap::new();
    let mut say = |command: &str, option: &str, said: Said| {
        let option = value(option).unwrap();
        let before = commands
            .entry(command.to_owned())
            .or_default()
            .insert(option.clone(), said);
        assert_eq!(before, None, "{option} of {command} has two rows");
    };
    for row in table("| option | of | environment | default | meaning |") {
        let [option, of, env, default, meaning] = row.as_slice() else {
            panic!("five cells: {row:?}");
        };
        assert!(!meaning.is_empty(), "{option}");
        let of: Vec<&str> = of
            .split(", ")
            .flat_map(|of| match of {
                "roles" => ROLES.to_vec(),
                "all" => COMMANDS.to_vec(),
                command => vec![command],
            })
            .collect();
        // One default for each command where they differ.
        let defaults: Vec<&str> = default.split(" / ").collect();
        assert!(defaults.len() == 1 || defaults.len() == of.len(), "{default}");
        for (index, command) in of.iter().enumerate() {
            let default = value(defaults.get(index).unwrap_or(&defaults[0]));
            say(
                command,
                option,
                Said {
                    env: value(env),
                    default,
                },
            );
        }
    }
    for row in table("| key | option of `svc populate-kv` | environment | default |") {
        let [_, option, env, default] = row.as_slice() else {
            panic!("four cells: {row:?}");
        };
        let said = Said {
            env: value(env),
            default: value(default),
        };
        say("populate-kv", option, said);
    }
    commands
}

#[test]
fn the_readme_has_every_option_of_every_command_with_its_variable_and_its_default_and_no_other() {
    let documented = documented();
    let said: BTreeMap<String, Options> = COMMANDS
        .iter()
        .map(|command| ((*command).to_owned(), options_of(&help(command))))
        .collect();
    for command in COMMANDS {
        assert_eq!(
            documented.get(command),
            said.get(command),
            "README (left) and --help of {command}"
        );
    }
    assert_eq!(documented.keys().collect::<Vec<_>>(), said.keys().collect::<Vec<_>>());
    let port = Said {
        env: Some("PORT".to_owned()),
        default: Some("8000".to_owned()),
    };
    assert_eq!(said["facade"].get("--port"), Some(&port), "help is read as it is meant");
}

#[test]
fn the_readme_has_every_key_that_populate_kv_names() {
    let help = help("populate-kv").split_whitespace().collect::<Vec<_>>().join(" ");
    let rows = table("| key | option of `svc populate-kv` | environment | default |");
    let mut named: BTreeSet<&str> = help
        .split("(key ")
        .skip(1)
        .filter_map(|text| text.split(')').next())
        .collect();
    for row in &rows {
        let (key, option) = (value(&row[0]).unwrap(), value(&row[1]).unwrap());
        let said = help.split(&format!("{option} <")).nth(1).unwrap();
        let own = said.split("(key ").nth(1).and_then(|text| text.split(')').next());
        assert_eq!(own, Some(key.as_str()), "the key of {option}");
        assert!(named.remove(key.as_str()), "{key} has two rows");
    }
    assert!(named.is_empty(), "not in the README: {named:?}");
}

#[test]
fn the_readme_has_every_command() {
    let commands: Vec<String> = table("| command | does |")
        .iter()
        .map(|row| value(&row[0]).unwrap())
        .collect();
    let documented: Vec<&str> = commands
        .iter()
        .filter_map(|command| command.split(' ').nth(1))
        .collect();
    assert_eq!(documented, COMMANDS);
    let help = run(&mut svc(&["help"])).out;
    let listed = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    // Their texts go on in lines that are indented further.
    let listed: Vec<&str> = listed
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert_eq!(listed, COMMANDS);
}

#[test]
fn help_says_the_exit_codes_and_an_empty_command_line_is_misuse_with_help() {
    let asked = run(&mut svc(&["help"]));
    assert_eq!((asked.code, asked.err.as_str()), (Some(0), ""));
    for part in ["Exit codes:", "populate-kv once", "svc help COMMAND"] {
        assert!(asked.out.contains(part), "{part}: {}", asked.out);
    }
    let empty = run(&mut svc(&[]));
    assert_eq!((empty.code, empty.out.as_str(), empty.err), (Some(2), "", asked.out));
}

#[test]
fn misuse_exits_2_and_says_what_was_expected() {
    for (arguments, envs, said) in [
        (&["facde"][..], &[][..], "a similar subcommand exists: 'facade'"),
        (&["facade", "--prot", "1"], &[], "a similar argument exists: '--port'"),
        (
            &["facade", "--port", "70000"],
            &[],
            "expected a whole number from 0 to 65535",
        ),
        (
            &["facade", "--port", "http"],
            &[],
            "expected a whole number from 0 to 65535",
        ),
        (&["facade", "--host="], &[], "a host name or an address is needed"),
        (&["logging", "--advertise", "a:1"], &[], "without a port"),
        (&["logging", "--wait", "60"], &[], "a whole number and its unit"),
        (&["logging", "--hazelcast", "a"], &[], "expected host:port"),
        (&["messages", "--ready-key", "a b"], &[], "cannot be a key"),
        (&["messages", "--log", "svc=loud"], &[], "is no filter"),
        (&["status", "--wait", "soon"], &[], "a whole number and its unit"),
        (&["up", "--facades", "0"], &[], "a whole number from 1 to 100"),
        (
            &["up", "--local", "x", "--hazelcast-mq", "a:1"],
            &[],
            "--hazelcast-mq names a server, and --local the embedded engines",
        ),
        (
            &["up", "--consul", "a"],
            &[("SVC_LOCAL", "x")],
            "the environment variable SVC_LOCAL the embedded engines",
        ),
        (
            &["up", "--facade-port", "8100", "--consul", "a"],
            &[],
            "port 8101 would be that of facade-2 and of logging-1: move one by --facade-port or --logging-port",
        ),
        (&["up", "--consul", "ftp://a"], &[], "expected [http[s]://]host[:port]"),
        (
            &["up", "--hazelcast-mq", "a:1"],
            &[("CONSUL_HTTP_ADDR", "ftp://a")],
            "--consul or CONSUL_HTTP_ADDR is no address of Consul",
        ),
        (&["health", "http://a", "--timeout", "0s"], &[], "longer than 0"),
        (
            &["populate-kv", "--ready-key", "mq_name"],
            &[],
            "name another one by --ready-key",
        ),
        (
            &["status", "--consul", "ftp://a"],
            &[],
            "expected [http[s]://]host[:port]",
        ),
        (
            &["facade"],
            &[("CONSUL_PORT", "x")],
            "CONSUL_HOST and CONSUL_PORT make no address",
        ),
    ] {
        let Ended { code, out, err } = run(svc(arguments).envs(envs.iter().copied()));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?}: {err}");
        assert!(!err.contains("comes from the environment"), "{arguments:?}: {err}");
    }
}

#[test]
fn a_value_of_the_environment_that_cannot_be_used_is_named_by_its_variable() {
    for (command, variable, value) in [
        ("facade", "PORT", "70000"),
        ("logging", "SVC_WAIT", "60"),
        ("messages", "HZ_NETWORK_PUBLICADDRESS", "a:1,b"),
        ("populate-kv", "HZ_MQ_MEMBERS", "b"),
        ("health", "RUST_LOG", "svc=loud"),
    ] {
        let mut command = svc(&[command]);
        if variable == "RUST_LOG" {
            command.arg("http://127.0.0.1:1");
        }
        let Ended { code, err, .. } = run(command.env(variable, value));
        assert_eq!(code, Some(2), "{err}");
        let tip = format!("the value comes from the environment variable {variable}\n");
        assert!(err.contains(&tip), "{err}");
    }
    // What is given on the command line wins, and is then what is wrong.
    let Ended { code, err, .. } = run(svc(&["facade", "--port=x"]).env("PORT", "y"));
    assert!(
        code == Some(2) && err.contains("'x'") && !err.contains("environment"),
        "{err}"
    );
}

#[test]
fn a_variable_that_is_empty_counts_as_not_given() {
    let variables = [
        "PORT",
        "SVC_HOST",
        "SVC_WAIT",
        "RUST_LOG",
        "CONSUL_HTTP_ADDR",
        "CONSUL_HOST",
        "CONSUL_PORT",
    ];
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = svc(&["logging", "--port", &port]);
    let Ended { code, err, .. } = run(command.envs(variables.map(|variable| (variable, ""))));
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.starts_with(&format!("svc: cannot listen on 127.0.0.1:{port}\n")),
        "{err}"
    );
    assert!(err.contains("name another port with --port"), "{err}");
}

#[test]
fn scripts_say_how_they_are_used_and_misuse_exits_2() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    for script in ["bench.sh", "chaos.sh"] {
        let ask = |argument: &str| {
            let mut command = Command::new(scripts.join(script));
            command.arg(argument).stdin(Stdio::null());
            run(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
        };
        let usage = format!("usage: scripts/{script} ");
        let Ended { code, out, err } = ask("help");
        assert_eq!((code, err.as_str()), (Some(0), ""), "{script}");
        assert!(out.starts_with(&usage), "{out}");
        for misuse in ["nonsense", "--rounds"] {
            let Ended { code, out, err } = ask(misuse);
            assert_eq!((code, out.as_str()), (Some(2), ""), "{script} {misuse}");
            assert!(err.contains(misuse) && err.contains(&usage), "{err}");
        }
    }
}
