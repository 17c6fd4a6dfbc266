//! Are the ports free, and if not, who has them?

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::output::Output;
use super::plan::{Instance, Plan};
use crate::shutdown::ORPHAN_LIMIT;

/// How long a port that is taken is waited for: the instances of an `up` that was killed stop within that time.
const PATIENCE: Duration = ORPHAN_LIMIT.saturating_add(Duration::from_secs(1));

/// Between two looks at it.
const INTERVAL: Duration = Duration::from_millis(50);

/// Longest command that is shown of whoever has a port, in characters.
const MOST_SHOWN: usize = 80;

/// Holds the port of each instance on `host`, and chooses those that are 0. They are free again when what is returned is
/// dropped, for the instances to take.
///
/// # Errors
/// Where one cannot be had: which, for whom, who has it, and what to do.
pub(super) async fn reserve(host: &str, plan: &mut Plan, output: &Output) -> anyhow::Result<Vec<TcpListener>> {
    let end = Instant::now() + PATIENCE;
    let mut is_said = false;
    loop {
        let mut held = Vec::new();
        let mut taken = Vec::new();
        for instance in &mut plan.instances {
            match TcpListener::bind((host, instance.port)).await {
                Ok(listener) => held.push((listener, instance)),
                Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => taken.push(instance.clone()),
                Err(cause) => return Err(refused(host, instance, cause)),
            }
        }
        if taken.is_empty() {
            return held
                .into_iter()
                .map(|(listener, instance)| {
                    let address = listener.local_addr().context("a port that was bound is not known")?;
                    instance.port = address.port();
                    Ok(listener)
                })
                .collect();
        }
        if Instant::now() >= end {
            return Err(in_use(&taken));
        }
        if !is_said {
            is_said = true;
            output.say(&waiting(&taken));
        }
        drop(held);
        sleep(INTERVAL).await;
    }
}

/// Why a port cannot be had that nobody else has.
fn refused(host: &str, instance: &Instance, cause: io::Error) -> anyhow::Error {
    let Instance { name, role, port } = instance;
    let advice = match cause.kind() {
        io::ErrorKind::PermissionDenied => format!("name a port from 1024 on with {}", role.port_option()),
        _ => "name this machine, or an address of it, with --host".to_owned(),
    };
    anyhow!("what to do: {advice}")
        .context(cause)
        .context(format!("{name} could not listen on {host}:{port}"))
}

fn waiting(taken: &[Instance]) -> String {
    let first = taken.first().map(said).unwrap_or_default();
    let others = match taken.len().saturating_sub(1) {
        0 => String::new(),
        others => format!(", and so are {others} more"),
    };
    format!("{first}{others}; waiting up to {PATIENCE:?} for that to end")
}

fn in_use(taken: &[Instance]) -> anyhow::Error {
    let mut options: Vec<&str> = taken.iter().map(|instance| instance.role.port_option()).collect();
    options.dedup();
    let mut error = anyhow!(
        "what to do: stop whoever has it, or name other ports by {} (0 takes free ones)",
        options.join(" and ")
    );
    for instance in taken.iter().rev() {
        error = error.context(said(instance));
    }
    error
}

/// `port 8101, which logging-1 is to have, is taken by python3 -m http.server 8101 (pid 123)`.
fn said(instance: &Instance) -> String {
    let Instance { name, port, .. } = instance;
    let by = match Holder::of(*port) {
        Some(holder) => format!("taken by {holder}"),
        None if cfg!(target_os = "linux") => format!("taken (`ss -ltnp 'sport = :{port}'` shows by whom)"),
        None => format!("taken (`lsof -nP -iTCP:{port} -sTCP:LISTEN` shows by whom)"),
    };
    format!("port {port}, which {name} is to have, is {by}")
}

/// A process that listens.
struct Holder {
    pid: u32,
    command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

impl Holder {
    /// Who listens on `port`, as far as the kernel tells us.
    fn of(port: u16) -> Option<Self> {
        let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .flat_map(|table| listeners(&table, port))
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        if inodes.is_empty() {
            return None;
        }
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let has_it = |process: &Path| {
            let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
            files
                .filter_map(|file| fs::read_link(file.path()).ok())
                .any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()))
        };
        processes
            .filter_map(|process| Some((process.file_name().to_str()?.parse().ok()?, process.path())))
            .find(|(_, process)| has_it(process))
            .map(|(pid, process)| Self {
                pid,
                command: command(&process),
            })
    }
}

/// The inodes of the sockets that listen on `port`, in a table of the kernel's.
fn listeners(table: &str, port: u16) -> Vec<String> {
    const LISTENING: &str = "0A";
    let ending = format!(":{port:04X}");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(1).is_some_and(|local| local.ends_with(&ending)) && row.get(3) == Some(&LISTENING))
        .filter_map(|row| row.get(9).map(|inode| (*inode).to_owned()))
        .collect()
}

/// The command line of a process, as much as is worth showing.
fn command(process: &Path) -> String {
    let given = fs::read(process.join("cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&given).replace(char::is_control, " ");
    match text.trim() {
        "" => "a process".to_owned(),
        text => match text.char_indices().nth(MOST_SHOWN) {
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
            None => text.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read_for_the_listeners_of_a_port_only() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1FA5 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0
   1: 0100007F:1FA5 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100 0 0 10 0
   2: 00000000:1FA6 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100 0 0 10 0
";
        assert_eq!(listeners(table, 8101), ["111"]);
        assert_eq!(listeners(table, 8102), ["333"]);
        assert!(listeners(table, 8103).is_empty());
        assert!(listeners("nonsense\n\n", 8103).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn whoever_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = Holder::of(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(
            holder.to_string().contains(&format!("(pid {})", holder.pid)),
            "{holder}"
        );
    }
}
