//! Programs of the official Python client, in `tests/python/`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::engines;
use super::process::Svc;

/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs a program with these arguments and this input, and returns what it printed. Panics with its errors where it fails.
pub(crate) async fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let interpreter = tokio::task::spawn_blocking(engines::python)
        .await
        .expect("a Python interpreter");
    let mut child = Command::new(interpreter)
        .arg(path(program))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the interpreter runs");
    let mut stdin = child.stdin.take().expect("its standard input");
    let feed = async move {
        stdin.write_all(input.as_bytes()).await.expect("it reads its input");
        drop(stdin);
    };
    let ((), output) = tokio::time::timeout(LIMIT, async { tokio::join!(feed, child.wait_with_output()) })
        .await
        .unwrap_or_else(|_| panic!("{program} did not end within {} s", LIMIT.as_secs()));
    let output = output.expect("its output");
    assert!(
        output.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("its output is text")
}

/// Starts a program with these arguments that runs until it is killed, and says where it listens as ours do. Blocks.
pub(crate) fn start(program: &str, arguments: &[&str]) -> Svc {
    let script = path(program);
    let script = script.to_str().expect("a path in UTF-8");
    let name = format!("{program} {}", arguments.join(" "));
    Svc::start_program(name, engines::python(), &[&[script], arguments].concat(), &[])
}

fn path(program: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(program)
}
