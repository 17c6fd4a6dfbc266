//! What a person is told: where everything is, what to try, and what happens to the instances.

use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::anyhow;
use rustix::process::Signal;

use super::child::End;
use super::launch::Launch;
use super::lines::LastWords;
use super::plan::{Instance, Plan, Role};
use crate::roles::table;
use crate::shutdown::Ask;

/// Signals that end a process, by name.
const SIGNALS: [(Signal, &str); 9] = [
    (Signal::HUP, "SIGHUP"),
    (Signal::INT, "SIGINT"),
    (Signal::QUIT, "SIGQUIT"),
    (Signal::ILL, "SIGILL"),
    (Signal::ABORT, "SIGABRT"),
    (Signal::BUS, "SIGBUS"),
    (Signal::KILL, "SIGKILL"),
    (Signal::SEGV, "SIGSEGV"),
    (Signal::TERM, "SIGTERM"),
];

/// What runs where, and what to try. `pids` are in the order of the plan.
pub(super) fn ready(plan: &Plan, pids: &[u32], launch: &Launch) -> String {
    let mut rows = vec![["INSTANCE", "URL", "PID"].map(str::to_owned)];
    for (instance, pid) in plan.instances.iter().zip(pids) {
        rows.push([instance.name.clone(), launch.url(instance), pid.to_string()]);
    }
    let engines = launch.engines().describe();
    let mut text = format!("\nAll {} instances are healthy, on {engines}.\n\n", pids.len());
    text.push_str(&table::aligned(&rows));
    text.push_str("\nTry in another terminal:\n");
    // Writing to a string cannot fail.
    let _ = tries(&mut text, plan, pids, launch);
    text.push_str("\nCtrl-C here stops all of it.\n\n");
    text
}

fn tries(text: &mut String, plan: &Plan, pids: &[u32], launch: &Launch) -> std::fmt::Result {
    let facades: Vec<String> = plan.of_role(Role::Facade).map(|facade| launch.url(facade)).collect();
    if let (Some(first), Some(last)) = (facades.first(), facades.last()) {
        writeln!(text, "  curl -X POST '{first}/message?text=hello'")?;
        writeln!(text, "  curl {last}/messages")?;
    }
    let logging = plan
        .instances
        .iter()
        .zip(pids)
        .find(|(instance, _)| instance.role == Role::Logging);
    if let Some((instance, pid)) = logging {
        writeln!(
            text,
            "  kill -9 {pid}    # {}; post and read again: nothing is missing",
            instance.name
        )?;
    }
    let one_more = launch.typed_instance(Role::Logging, plan.one_more);
    writeln!(text, "  {one_more}    # one more, which ends with its own Ctrl-C")?;
    writeln!(text, "  {}    # who is there, and how they are", launch.typed_status())
}

/// All are asked to stop.
pub(super) fn stopping(ask: Ask, running: usize) -> String {
    if running == 0 {
        return format!("stopped before the instances were started, asked by {ask}");
    }
    format!("stopping {running} instances, asked by {ask}; a second signal kills them at once")
}

/// An instance that was started again is healthy.
pub(super) fn back(instance: &Instance, pid: u32, launch: &Launch) -> String {
    format!("{} is back: {}, pid {pid}", instance.name, launch.url(instance))
}

/// An instance has ended; it is started again after `pause`, if at all.
pub(super) fn ended(instance: &Instance, end: &End, pause: Option<Duration>, launch: &Launch) -> String {
    let happened = format!("{} (pid {}) {}", instance.name, end.pid, how(end.status));
    match pause {
        Some(pause) => format!("{happened}; it is started again in {pause:?}"),
        None => {
            let command = launch.typed_instance(instance.role, instance.port);
            format!("{happened}; it stays dead, since --restart is not given. To start it by hand: {command}")
        }
    }
}

/// `was killed by signal 9 (SIGKILL)`, or `ended with exit code 1`.
pub(super) fn how(status: ExitStatus) -> String {
    let Some(number) = status.signal() else {
        return format!("ended with exit code {}", status.code().unwrap_or_default());
    };
    let name = SIGNALS.iter().find(|(signal, _)| signal.as_raw() == number);
    match name {
        Some((_, name)) => format!("was killed by signal {number} ({name})"),
        None => format!("was killed by signal {number}"),
    }
}

/// The failure of a child, with its last words below it.
pub(super) fn with_words(words: &LastWords, what: &str) -> anyhow::Error {
    let mut words = words.lines().rev();
    let what = what.to_owned();
    match words.next() {
        Some(last) => words
            .fold(anyhow!("{last}"), |error, word| error.context(word.to_owned()))
            .context(what),
        None => anyhow!("it said nothing").context(what),
    }
}

#[cfg(test)]
mod tests {
    use super::super::launch::tests::launch;
    use super::*;
    use crate::cli::{PortBases, Sizes};

    #[test]
    fn the_table_and_what_to_try_can_be_copied() {
        let sizes = Sizes {
            facades: 2,
            logging: 1,
            messages: 1,
        };
        let ports = PortBases {
            facade: 8001,
            logging: 8101,
            messages: 8181,
        };
        let plan = Plan::of(&sizes, &ports).unwrap();
        let expected = "
All 4 instances are healthy, on embedded engines in /data.

INSTANCE    URL                    PID
facade-1    http://127.0.0.1:8001  11
facade-2    http://127.0.0.1:8002  12
logging-1   http://127.0.0.1:8101  13
messages-1  http://127.0.0.1:8181  14

Try in another terminal:
  curl -X POST 'http://127.0.0.1:8001/message?text=hello'
  curl http://127.0.0.1:8002/messages
  kill -9 13    # logging-1; post and read again: nothing is missing
  '/opt/a b/svc' logging --local /data --port 8102    # one more, which ends with its own Ctrl-C
  '/opt/a b/svc' status --local /data    # who is there, and how they are

Ctrl-C here stops all of it.

";
        assert_eq!(ready(&plan, &[11, 12, 13, 14], &launch("127.0.0.1")), expected);
    }

    #[test]
    fn how_a_process_ended_is_said_in_words() {
        // As wait(2) encodes them.
        for (status, said) in [
            (9, "was killed by signal 9 (SIGKILL)"),
            (64, "was killed by signal 64"),
            (1 << 8, "ended with exit code 1"),
            (0, "ended with exit code 0"),
        ] {
            assert_eq!(how(ExitStatus::from_raw(status)), said);
        }
    }

    #[test]
    fn who_ended_stays_dead_or_is_started_again_and_it_is_said_how() {
        let end = || End {
            pid: 7,
            status: ExitStatus::from_raw(9),
            words: LastWords::default(),
        };
        let instance = Instance {
            name: "logging-1".to_owned(),
            role: Role::Logging,
            port: 8101,
        };
        let launch = launch("127.0.0.1");
        assert_eq!(
            ended(&instance, &end(), None, &launch),
            "logging-1 (pid 7) was killed by signal 9 (SIGKILL); it stays dead, since --restart is not given. To start it \
             by hand: '/opt/a b/svc' logging --local /data --port 8101"
        );
        let again = ended(&instance, &end(), Some(Duration::from_millis(250)), &launch);
        assert!(again.ends_with("(SIGKILL); it is started again in 250ms"), "{again}");
    }
}
